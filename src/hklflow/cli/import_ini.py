"""`hklflow config import-ini`: translate NXRefine's ``settings.ini`` to a facility file.

The values in [nxrefine] are only start values of NXRefine's dialog for a new configuration. They
are written as comments (lines that begin with "#"). As settings they would override the values of
calibrations and raw files.
"""

import re
import sys
from pathlib import Path
from shlex import quote
from typing import Annotated

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.formats.nxrefine_settings import KEYS, Becomes, read_ini


def import_ini(
    file: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
) -> None:
    """Translate NXRefine's settings.ini to a facility file.

    The YAML is printed or written to a file; keys without a counterpart are listed on the terminal.
    Lines that begin with "#" are start values: remove the "#" to use the value.

    Example: `hklflow config import-ini tasks/settings.ini -o facility.yaml`

    Parameters
    ----------
    file
        NXRefine's settings.ini.
    output
        New file to write; an existing file is not replaced.
    """
    text, report = translated(file)
    if output is None:
        print(text, end="")
    else:
        try:
            with output.open("x", encoding="utf-8") as target:
                target.write(text)
        except OSError as error:
            raise HklflowError(
                f"{output} cannot be made ({error.strerror}); give another name"
            ) from error
    for line in report:
        print(line, file=sys.stderr)
    if output is not None:
        print(f"Next: `hklflow init NAME --facility {quote(str(output))}`.", file=sys.stderr)


def translated(file: Path) -> tuple[str, list[str]]:
    """Return the YAML text for a ``settings.ini``, and a line for each key that is left out.

    Raises
    ------
    HklflowError
        If the file cannot be read, or a value is not valid for its key.
    """
    sections: dict[str, list[str]] = {}
    report: list[str] = []
    for section, key, value in read_ini(file):
        where = f"[{section}] {key}"
        row = KEYS.get(section, {}).get(key)
        if row is None:
            report.append(f"{where} = {value}: not known, left out")
        elif isinstance(row, str):
            report.append(f"{where} = {value}: no counterpart; {row}")
        elif value in ("", "None"):
            report.append(f"{where} is empty: left out")
        else:
            _put(sections, row, where, value, file)
    lines = [f'# From {file.name} of NXRefine. Lines with a "#" are start values of its dialog:']
    lines.append("# as settings they would override the values of calibrations and raw files.")
    for section, inner in sections.items():
        # If all values of a section are comments, its heading is a comment, too.
        mark = "" if any(not line.startswith("#") for line in inner) else "#"
        lines += ["", f"{mark}{section}:", *inner]
    text = "\n".join(lines) + "\n"
    _check(text, file)
    return text, report


def _check(text: str, file: Path) -> None:
    """Raise an error if the configuration refuses a value; values in comments are checked, too."""
    import yaml
    from pydantic import ValidationError

    from hklflow.experiment.config import Config

    try:
        Config.model_validate(yaml.safe_load(used(text)) or {})
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(str(part) for part in item["loc"])
        raise HklflowError(
            f"{file}: what becomes {key} is {item['input']!r}: {item['msg']}; correct it"
        ) from error


def used(text: str) -> str:
    """Return the YAML text with the "#" removed from all start values."""
    return re.sub(r"^#(?=  |\w+:$)", "", text, flags=re.MULTILINE)


def _put(sections: dict[str, list[str]], row: Becomes, where: str, value: str, file: Path) -> None:
    import yaml

    try:
        converted = row.convert(value)
    except ValueError as error:
        raise HklflowError(
            f"{file}: {where} is {value!r}, which is not what it needs ({row.says}); correct it"
        ) from error
    mark = "#" if row.nominal else ""
    shown = yaml.safe_dump(converted).splitlines()[0]
    section, *names = row.key.split(".")
    lines = sections.setdefault(section, [])
    position = len(lines)
    if len(names) == 2:
        # Insert the key below the other keys of its mapping.
        head = f"{mark}  {names[0]}:"
        if head not in lines:
            lines.append(head)
        position = lines.index(head) + 1
    indent = "  " * len(names)
    lines.insert(position, f"{mark}{indent}{names[-1]}: {shown}  # {row.says}; {where} = {value}")
