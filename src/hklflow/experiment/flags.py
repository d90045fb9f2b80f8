"""Convert the parameters of a rule to command-line flags, and list the files among them."""

import json
import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hklflow.base.errors import HklflowError
from hklflow.stage import Params


def flags(params: BaseModel, leave_out: tuple[str, ...] = ()) -> str:
    """Return the command-line flags of the parameters that differ from their defaults.

    The flags are quoted, so that commands printed by ``snakemake -n -p`` can be pasted into a
    shell.
    """
    words: list[str] = []
    for name, info in type(params).model_fields.items():
        if name in leave_out:
            continue
        value = getattr(params, name)
        if not info.is_required() and value == info.get_default(call_default_factory=True):
            continue
        if value is None:
            raise HklflowError(
                f"{name}: null cannot be given on a command line; its default is "
                f"{info.get_default(call_default_factory=True)!r}"
            )
        flag = f"--{name.replace('_', '-')}"
        words += _words(flag, value)
    return shlex.join(words)


def files(params: BaseModel, base: Path = Path()) -> list[str]:
    """Return the files among the parameters, such as mask images; these files are inputs, too.

    Parameters
    ----------
    params : model
        A section of the configuration.
    base : Path
        Folder to which the paths in the parameters are relative.

    Raises
    ------
    HklflowError
        If a parameter file that lists other files cannot be read.
    """
    if isinstance(params, Params):
        return [str(path) for paths in params.paths(base).values() for path in paths]
    values = (getattr(params, name) for name in type(params).model_fields)
    return [str(value) for value in values if isinstance(value, Path)]


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, BaseModel):
        return [flag, value.model_dump_json(exclude_defaults=True)]
    if isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
        value = {
            key: item.model_dump(mode="json", exclude_defaults=True) for key, item in value.items()
        }
    if isinstance(value, dict) and any(isinstance(v, list | dict) for v in value.values()):
        return [flag, json.dumps(value)]
    if isinstance(value, dict):
        return [word for key, item in value.items() for word in _words(f"{flag}.{key}", item)]
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], BaseModel):
            items = [json.dumps(item.model_dump(mode="json")) for item in value]
        elif value and isinstance(value[0], list | tuple):
            items = [str(number) for item in value for number in item]
        else:
            items = [str(part) for item in value for part in _parts(item)]
        return [flag, *items] if items else []
    if isinstance(value, str | Path):
        # "=" joins flag and value, because a text (Hall symbol, file name) may begin with "-".
        return [f"{flag}={value}"]
    return [flag, str(value)]


def _parts(item: Any) -> list[Any]:
    """Return the numbers of a vector as a list; a command line lists the numbers of all vectors."""
    return list(item) if isinstance(item, list | tuple) else [item]
