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
from hklflow.config import Config

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
    """Commands of the blocks for a shell, without remarks."""
    for language, block in BLOCK.findall(text):
        if language in {"sh", "console", "bash"}:
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
    wrong = []
    for line in command_lines(text_of(page)):
        if line.startswith("hklflow "):
            wrong.append(whole(shlex.split(line)[1:]))
    for code in spans(text_of(page)):
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


def test_every_dialog_and_command_of_nxrefine_is_answered() -> None:
    text = text_of(REPOSITORY / "docs/from_nxrefine.md")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    answered = " ".join(row[0] for row in rows if row[1].strip())
    for name in DIALOGS.split(","):
        assert " ".join(name.split()) in answered
    for name in COMMANDS.split():
        assert f"`{name}`" in answered
    keys = {code for code in spans(text) if (key := KEY.fullmatch(code)) and key[1] in sections()}
    assert len(keys) > 20
    for key in keys:
        section, name = key.split(": ")
        assert name in sections()[section], f"`{key}` is no key of the configuration"
    rules = {
        rule
        for path in (REPOSITORY / "workflow/rules").glob("*.smk")
        for rule in re.findall(r"^rule (\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {
        rule
        for sentence in re.findall(r"rules? ((?:`\w+`(?:, | and )?)+)", text)
        for rule in re.findall(r"`(\w+)`", sentence)
    }
    assert len(named) > 10
    assert named <= rules


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
