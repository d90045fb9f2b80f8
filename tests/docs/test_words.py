"""What pages tell people to type exists: commands, options, keys, rules."""

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from cyclopts.exceptions import CycloptsError

from hklflow.cli import app
from hklflow.experiment.config import Config

REPOSITORY = Path(__file__).parents[2]
PAGES = [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "README.md"]
BLOCK = re.compile(r"^(?:```|~~~)(\w*)[^\n]*\n(.*?)^(?:```|~~~)$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
KEY = re.compile(r"([a-z_0-9]+): ([a-z_0-9]+)")

# Every dialog of NXRefine's menus and every command that it installs.
DIALOGS = """New Experiment, New Configuration, Calibrate Powder, Import Powder Data, Select Points,
Autogenerate Rings, Plot Cake, Create Mask, New Sample, New Parent, New Scan, New Macro,
Import Scans, Sum Scans, Edit Settings, Select Files, Define Lattice, Setup Transforms,
Copy NeXus File, Create New Subentry, Find Maximum, Find Peaks, Refine Lattice, Orient by FFT,
Orient Manually, Prepare 3D Mask, Calculate Angles, Choose and Copy Parameters,
Manage Workflows, View Logs, Manage Server"""
COMMANDS = """nxsettings nxserver nxsample nxparent nxchoose nxload nxlink nxmax nxfind nxrefine
nxprepare nxtransform nxcombine nxpdf nxreduce nxsum nxdatabase nxclean nxrestore nxinstall"""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def command_lines(text: str) -> Iterator[str]:
    """Commands of the blocks for a shell, without remarks; of others those after a prompt."""
    for language, block in BLOCK.findall(text):
        if language not in {"sh", "console", "bash"}:
            block = "".join(re.findall(r"^\$ .*\n", block, re.MULTILINE))
        if block:
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|;|\|", line.split(" #")[0].removeprefix("$ ")):
                    yield part.strip()


def spans(text: str) -> Iterator[str]:
    """Code within sentences."""
    yield from SPAN.findall(BLOCK.sub("", text))


def found(words: list[str]) -> tuple[list[str], App, list[str]]:
    """Names of the commands at the head of a command line, the last of them, and the rest."""
    names, apps, rest = app.parse_commands(words)
    return list(names), apps[-1], list(rest)


def unknown(words: list[str]) -> str:
    """Say what is wrong with the words after `hklflow`, which may be less than a whole command."""
    words = [word for word in words if word not in {"--help", "--version"}]
    words = words[: words.index("--")] if "--" in words else words  # then another command
    names, last, rest = found(words)
    commands = {name for name in last if not name.startswith("-")}
    placeholder = not rest or rest[0] == "..." or rest[0].isupper()
    if commands and not placeholder and rest[0] not in commands:
        return f"{' '.join(names)} has no command {rest[0]!r}"
    if commands:
        return ""
    known = {flag for argument in last.assemble_argument_collection() for flag in argument.names}
    options = [word.split("=")[0] for word in rest if word.startswith("-") and word != "--"]
    wrong = [option for option in options if option not in known and not option[1:].isdigit()]
    return f"{' '.join(words)}: no option {', '.join(wrong)}" if wrong else ""


def whole(words: list[str]) -> str:
    """Say what is wrong with the words after `hklflow`, which must be a whole command."""
    if (problem := unknown(words)) or {"--help", "--version"} & set(words):
        return problem
    if words[:1] == ["watch"] and "--" in words:  # what follows is a command of its own
        at = words.index("--")
        words = [*words[:at], f"--command={shlex.join(words[at + 1 :])}"]
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        # Names of pages stand for files that are not there.
        if "exist" not in str(error):
            return f"{' '.join(words)}: {error}"
    return ""


# On the page of bad inputs commands are wrong on purpose.
RIGHT = [page for page in PAGES if page.name != "bad_input.md"]


@pytest.mark.parametrize("page", RIGHT, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    text = text_of(page)
    wrong = [
        whole(shlex.split(line)[1:]) for line in command_lines(text) if line.startswith("hklflow ")
    ]
    # None that stands in a line of its own is overlooked.
    lines = "".join(block for _, block in BLOCK.findall(text))
    assert len(wrong) >= len(re.findall(r"^(?:\$ )?hklflow [a-z-]+(?![\w:])", lines, re.MULTILINE))
    for code in spans(text):
        # `hklflow import_scan: ...` is what a stage said, not a command.
        if code.startswith("hklflow ") and not re.match(r"hklflow [\w<>]+:", code):
            words = re.sub(r"[|]", " ", code).split()[1:]
            # `hklflow model show | export`: several commands in one.
            wrong.append(unknown(words if "|" not in code else words[:2]))
    assert not [problem for problem in wrong if problem]


@functools.cache
def sections() -> dict[str, set[str]]:
    """Keys of each section of the configuration, and of the whole."""
    schema = Config.model_json_schema()
    defs = schema["$defs"]

    def keys(field: Any) -> Iterator[str]:
        if isinstance(field, dict):
            if "$ref" in field:
                yield from defs[field["$ref"].rsplit("/", 1)[-1]].get("properties", {})
            for value in field.values():
                yield from keys(value)
        elif isinstance(field, list):
            for value in field:
                yield from keys(value)

    return {name: set(keys(field)) for name, field in schema["properties"].items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_exist(page: Path) -> None:
    known = sections()
    wrong = [
        code
        for code in spans(text_of(page))
        if (key := KEY.fullmatch(code)) and key[1] in known and key[2] not in known[key[1]]
        # `bragg: true`, `results: other`: a key and its value.
        if known[key[1]]
    ]
    assert not wrong


@functools.cache
def rules() -> set[str]:
    """Names of the workflow's rules."""
    return {
        rule
        for path in (REPOSITORY / "workflow/rules").glob("*.smk")
        for rule in re.findall(r"^rule (\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def rules_named(text: str) -> set[str]:
    sentences = re.findall(r"rules? ((?:`\w+`(?:, | and )?)+)", text)
    return {rule for sentence in sentences for rule in re.findall(r"`(\w+)`", sentence)}


@functools.cache
def options_of_snakemake() -> set[str]:
    from snakemake.cli import get_argument_parser

    return {option for action in get_argument_parser()._actions for option in action.option_strings}


def is_of_snakemake(code: str) -> bool:
    options = {word for word in code.split()[1:] if word.startswith("-")}
    return code.split()[:1] == ["snakemake"] and options <= options_of_snakemake()


def is_answered(answer: str, others: dict[str, str]) -> bool:
    """Whether there is something that exists, another row that says it, or a reason for `none`."""
    if answer.startswith("none"):
        return re.match(r"none: \S+(?: \S+){3}", answer) is not None
    codes = SPAN.findall(answer)
    row = re.fullmatch(r"see (.+)", answer)
    return (
        (row is not None and row[1] in others)
        or any(code.startswith("hklflow ") and not unknown(code.split()[1:]) for code in codes)
        or any(map(is_of_snakemake, codes))
        or any(
            (key := KEY.fullmatch(code)) is not None and key[2] in sections().get(key[1], set())
            for code in codes
        )
        or any("/" in code and (REPOSITORY / code).exists() for code in codes)
        or bool(rules_named(answer) & rules())
        or any(
            (REPOSITORY / "docs" / page).is_file() for page in re.findall(r"\]\((\w+\.md)", answer)
        )
    )


def test_every_dialog_and_command_of_nxrefine_is_answered() -> None:
    text = text_of(REPOSITORY / "docs/from_nxrefine.md")
    menus = text.split("\n## Menu ", 1)[1].split("\n## Where results went")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in menus.splitlines()
        if line.startswith("| ") and not line.startswith(("| dialog |", "| command |"))
    ]
    told = {name.removeprefix("– "): answer for name, answer in rows}
    assert [name for name, answer in rows if not is_answered(answer, told)] == []
    dialogs = [" ".join(name.split()) for name in DIALOGS.split(",")]
    assert len(dialogs) == 31
    assert [name for name in dialogs if not any(name in cell for cell in told)] == []
    assert len(COMMANDS.split()) == 20
    assert [
        name for name in COMMANDS.split() if not any(f"`{name}`" in cell for cell in told)
    ] == []
    keys = {code for code in spans(text) if (key := KEY.fullmatch(code)) and key[1] in sections()}
    assert len(keys) > 20
    for key in keys:
        section, name = key.split(": ")
        assert name in sections()[section], f"`{key}` is no key of the configuration"
    named = rules_named(text)
    assert len(named) > 10
    assert named <= rules()


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        ("", False),
        ("none", False),
        ("none.", False),
        ("none: not needed", False),
        ("none: hklflow writes no SPEC macros", True),
        ("it is done in another way", False),
        ("`hklflow shew`", False),
        ("`hklflow show`", True),
        ("`snakemake --summery`", False),
        ("`snakemake --summary`", True),
        ("rule `find_peeks`", False),
        ("rules `mask_3d` and `find_peaks`", True),
        ("`find_peaks: thresold`", False),
        ("`find_peaks: threshold`", True),
        ("`config/scan.tsv`", False),
        ("rows of `config/scans.tsv`", True),
        ("[here](nowhere.md)", False),
        ("[here](slurm.md#accounts)", True),
        ("see Some Scans", False),
        ("see Sum Scans", True),
    ],
)
def test_only_what_exists_is_an_answer(answer: str, good: bool) -> None:
    assert is_answered(answer, {"Sum Scans": ""}) == good


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("show x.nxs --plot", ""),
        ("shew x.nxs", "no command"),
        ("show x.nxs --plod", "no option --plod"),
        ("calibration proposal x", "no command"),
        ("sample add", "requires"),
    ],
)
def test_wrong_commands_are_seen(line: str, problem: str) -> None:
    said = whole(line.split())
    assert problem in said
    assert bool(said) == bool(problem)
