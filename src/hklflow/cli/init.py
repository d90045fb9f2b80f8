"""`hklflow init`: make the folder of a new experiment."""

import os
from collections.abc import Iterator
from pathlib import Path

from hklflow import templates
from hklflow.base.errors import HklflowError

SNAKEFILE = """\
# The workflow is part of the installed hklflow; this file makes `snakemake` find it here.
from hklflow import templates


include: templates.snakefile()


# a default target that is named in an included file is ignored: name it here
workflow.default_target = "all"
"""

GITIGNORE = """\
/raw/
/results/
/.snakemake/
/config/.*
/config/watch.lock
/config/watch.stop
"""

FACILITY_LINE = "#facility:"


def init_experiment(directory: Path, /, *, facility: Path | None = None) -> None:
    """Make the folder of a new experiment; existing files are not changed.

    Example: `hklflow init quartz_2026 --facility /sw/beamline.yaml`, then
    `cd quartz_2026`, `hklflow sample add ...`, `hklflow scan add ...`, `snakemake -n`.

    Parameters
    ----------
    directory
        Folder of the experiment.
    facility
        YAML file with the settings for all experiments at a beamline, in the same sections as
        `config.yaml`.
    """
    if facility is not None:
        _check_facility(facility, directory)
    made = 0
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "raw").mkdir(exist_ok=True)
        for name, text in _contents(directory, facility):
            made += _write_new(directory / name, text, name)
    except OSError as error:
        raise HklflowError(
            f"{error.filename or directory} cannot be made ({error.strerror}); choose a folder "
            "that you may write to"
        ) from error
    if made:
        print(
            f"Next, in {directory}: write your settings to config/config.yaml, add rows with "
            "`hklflow sample add` and `hklflow scan add`, and list the jobs with `snakemake -n`."
        )


def _contents(directory: Path, facility: Path | None) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every file of a new experiment."""
    root = templates.root()
    for name in ("config.yaml", "samples.tsv", "scans.tsv", "README.md"):
        text = (root / "config" / name).read_text(encoding="utf-8")
        if name == "config.yaml" and facility is not None:
            text = _with_facility(text, _reference(facility, directory))
        yield f"config/{name}", text
    for path in sorted((root / "profiles").rglob("*")):
        if path.is_file():
            yield f"profiles/{path.relative_to(root / 'profiles')}", path.read_text("utf-8")
    yield "Snakefile", SNAKEFILE
    yield ".gitignore", GITIGNORE


def _write_new(path: Path, text: str, name: str) -> bool:
    """Write a file if it does not exist; return True if it was written, and print the result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        print(f"{name} exists already and is not changed")
        return False
    print(f"{name} made")
    return True


def _reference(facility: Path, directory: Path) -> str:
    """Return the path of the facility file for the configuration, relative to the experiment."""
    return str(facility) if facility.is_absolute() else os.path.relpath(facility, directory)


def _check_facility(facility: Path, directory: Path) -> None:
    """Refuse a facility file that cannot be read, or is not the one in an existing config.yaml."""
    from hklflow.experiment.config import read_yaml

    read_yaml(facility)
    config = directory / "config/config.yaml"
    if not config.exists():
        return
    named = read_yaml(config).get("facility")
    if not isinstance(named, str) or (directory / named).resolve() != facility.resolve():
        raise HklflowError(
            f"{config} exists already and its facility is {named!r}; write "
            f"`facility: {_reference(facility, directory)}` in it"
        )


def _with_facility(text: str, reference: str) -> str:
    """Return the template of the configuration with the facility file set."""
    import yaml

    lines = text.splitlines(keepends=True)
    value = yaml.safe_dump({"facility": reference}, allow_unicode=True, width=10**6)
    return "".join(value if line.startswith(FACILITY_LINE) else line for line in lines)
