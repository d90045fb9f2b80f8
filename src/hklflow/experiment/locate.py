"""Find the raw files of a run number below the folder of a facility."""

import re
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, field_validator

from hklflow.base.described import Described
from hklflow.base.errors import HklflowError

_FIELD = re.compile(r"\{(\w*)(?::0(\d+)d)?\}")
_PART = re.compile(r"\{run(?::0\d+d)?\}|\{proposal\}|#+|.", re.DOTALL)
_MOST = 10  # candidates that a message lists


class RunFiles(Described):
    """Place of the raw files of a facility, by run number and proposal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str
    """Folder below which all raw files are; a relative path starts at the experiment's folder."""
    template: str
    """Path of the raw files of a run below `root`: `{run}` is the run number, `{run:06d}` the run
    number with leading zeros, `{proposal}` the name of a folder or a part of a name, `*` and `?`
    any characters, `####` the number of a frame in an image series.
    """
    proposal: str = ""
    """Name of the proposal; empty: any proposal below `root` that has the run."""

    @field_validator("template", mode="after")
    @classmethod
    def _valid(cls, value: str) -> str:
        names = [name for name, _ in _FIELD.findall(value)]
        plain = _FIELD.sub("", value)
        if wrong := set(names) - {"run", "proposal"}:
            raise ValueError(f"{{{min(wrong)}}} is unknown; use {{run}} and {{proposal}}")
        if "{" in plain or "}" in plain or "{proposal:" in value:
            raise ValueError("braces are for {run}, {run:06d} and {proposal}")
        if "run" not in names:
            raise ValueError("the run number is missing; put {run} or {run:06d} where it stands")
        if re.search(r"\}#|#\{", value):
            raise ValueError("put a character between a placeholder and the number of a frame")
        path = Path(value)
        if path.is_absolute() or ".." in path.parts or "[" in value or "**" in value:
            raise ValueError("write a path below `root`, without `..`, `[` and `**`")
        if any("#" in part for part in path.parts[:-1]) or len(re.findall("#+", value)) > 1:
            raise ValueError("the number of a frame (####) can be once, in the name of the file")
        return value


def raw_of_run(data: RunFiles, base: Path, run: int, proposal: str) -> str:
    """Return the raw file of a run, or the pattern of its image series.

    Parameters
    ----------
    data : RunFiles
    base : Path
        Folder of the experiment.
    run : int
    proposal : str
        Name of the proposal; empty: the one in ``data``, or any.

    Returns
    -------
    str
        Path as the table of scans has it: relative within the experiment, otherwise absolute.

    Raises
    ------
    HklflowError
        If no file matches, or files of more than one scan match; the message lists them.
    """
    root, proposal = base / Path(data.root).expanduser(), proposal or data.proposal
    if not root.is_dir():
        raise HklflowError(
            f"data: root: {root} is not a folder; correct it, or name the file with --raw"
        )
    pattern = _regex(data.template, run, proposal)
    found = set()
    for path in root.glob(_glob(data.template, run, proposal)):
        match = pattern.fullmatch(path.relative_to(root).as_posix())
        if match is not None:
            found.add(str(root / _as_series(match)))
    where = f"{data.template} below {root}"
    of_proposal = f" of the proposal {proposal}" if proposal else ""
    if not found and not any(root.iterdir()):
        raise HklflowError(
            f"data: root: {root} is empty; check that the disk of the facility is mounted, or "
            "correct it"
        )
    if not found and not any(root.glob(_glob(data.template, None, ""))):
        raise HklflowError(
            f"no file of any run matches {where}; correct `data: template` or `data: root`, or "
            "wait for the first file"
        )
    if not found:
        raise HklflowError(
            f"no file of run {run}{of_proposal} matches {where}; check the run number, wait until "
            "the file is there, or name it with --raw"
        )
    if len(found) > 1:
        listed = ", ".join(sorted(found)[:_MOST])
        more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
        cure = "" if proposal or "{proposal}" not in data.template else "give --proposal, or "
        raise HklflowError(
            f"run {run}{of_proposal} is ambiguous: {listed}{more} match {where}; {cure}name one "
            "of them with --raw"
        )
    return _in_table(Path(found.pop()), base)


def planned_raw(data: RunFiles, base: Path, run: int, proposal: str) -> str:
    """Return the path that the template gives to a run that is not measured yet.

    Raises
    ------
    HklflowError
        If the template does not determine the path.
    """
    proposal = proposal or data.proposal
    if "*" in data.template or "?" in data.template:
        raise HklflowError(
            f"data: template: {data.template} has * or ?, so the path of run {run} is not known "
            "before it is measured; name it with --raw"
        )
    if "{proposal}" in data.template and not proposal:
        raise HklflowError(
            f"the path of run {run} needs the proposal; give --proposal, or set `data: proposal`"
        )
    root = base / Path(data.root).expanduser()
    return _in_table(root / data.template.format(run=run, proposal=proposal), base)


def _in_table(path: Path, base: Path) -> str:
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def _glob(template: str, run: int | None, proposal: str) -> str:
    """Return a pattern that matches all files of the run, and perhaps others; None: of any run."""
    if run is None:
        template = re.sub(r"\{run[^}]*\}", "*", template)
    text = template.format(run=run, proposal=proposal or "*")
    return re.sub("#+", lambda frame: "[0-9]" * len(frame[0]), text)


def _regex(template: str, run: int, proposal: str) -> "re.Pattern[str]":
    """Return the expression that a path of the run fulfils.

    The run number is a whole number of the path: 1040 is not found in 21040 or 10401. All
    `{proposal}` of a path are the same.
    """
    parts, named = [], False
    for part in _PART.findall(template):
        if part.startswith("{run"):
            parts.append(rf"(?<!\d){part.format(run=run)}(?!\d)")
        elif part == "{proposal}":
            known = re.escape(proposal) if proposal else "[^/]+"
            parts.append("(?P=proposal)" if named else f"(?P<proposal>{known})")
            named = True
        elif part.startswith("#"):
            parts.append(rf"(?P<frame>\d{{{len(part)}}})")
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part)))
    return re.compile("".join(parts))


def _as_series(match: "re.Match[str]") -> str:
    """Return a path with # in the place of the frame number."""
    groups: dict[str, Any] = match.groupdict()
    if groups.get("frame") is None:
        return match.string
    start, end = match.span("frame")
    return match.string[:start] + "#" * (end - start) + match.string[end:]
