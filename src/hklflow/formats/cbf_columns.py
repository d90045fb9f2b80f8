"""Fields of every frame of a CBF series: flux and transmission of the filters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.cbf_fields import Fields, head
from hklflow.formats.instruments import Instrument
from hklflow.formats.text_headers import Choices


@dataclass(frozen=True)
class Column:
    """Values of a field, one for each frame.

    Attributes
    ----------
    values : (n,) array or None
        0 where a frame has no value; None: no frame has one.
    doubt : str or None
        Words about the first frame without a value, if other frames have one.
    files : tuple of Path
        The frames, for messages.
    """

    values: NDArray[np.float64] | None
    doubt: str | None
    files: tuple[Path, ...]


def columns(files: Sequence[Path], keys: tuple[str, ...]) -> list[Column]:
    """Return fields of all frames; 0 is the value of a field that nobody filled in."""
    ends = [Fields(head(path), path) for path in (files[0], files[-1])]
    numbers: dict[str, list[float | None]] = {
        key: [] for key in keys if any(fields.number(key) is not None for fields in ends)
    }
    for path in files if numbers else ():
        fields = Fields(head(path), path)
        for key, values in numbers.items():
            values.append(fields.number(key))
    return [_column(key, numbers.get(key, [None]), tuple(files)) for key in keys]


def _column(key: str, values: list[float | None], files: tuple[Path, ...]) -> Column:
    empty = [i for i, value in enumerate(values) if not value]
    if not empty:
        return Column(np.array(values, np.float64), None, files)
    if len(empty) == len(values):
        return Column(None, None, files)
    first, value = empty[0], values[empty[0]]
    stated = "absent" if value is None else f"{value:g}"
    others = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
    doubt = f"{key} is {stated} in frame {first} ({files[first]}){others}: leave out the frames "
    doubt += f"without beam, such as `import_scan: {{leave_out: [{first}]}}`"
    return Column(np.array([value or 0.0 for value in values]), doubt, files)


def transmission(
    filters: Column, row: Instrument | None, choices: Choices, notes: list[str]
) -> float | NDArray[np.float64] | None:
    """Return the transmission of the filters as a fraction, and note its unit where it is open.

    Raises
    ------
    HklflowError
        If it is negative, or above 1 (above 100 per cent).
    """
    if choices.transmission == "none":
        return None
    if filters.doubt is not None:
        notes.append(f"{filters.doubt}, or --option transmission=none")
    values = filters.values
    if values is None:
        return None
    low, high = float(values.min()), float(values.max())
    shown = f"{low:g}" + (f" to {high:g}" if high > low else "")
    unit = choices.transmission or (row.transmission if row is not None else None)
    if unit == "percent":
        notes.append(f"Filter_transmission {shown} is in per cent")
    elif unit is None:
        # The field has no unit. A fraction cannot exceed 1.
        unit = "percent" if high > 1 else "fraction"
        if unit == "percent":
            notes.append(f"Filter_transmission {shown} is above 1, so it is in per cent")
        else:
            notes.append(
                f"Filter_transmission {shown} is taken as a fraction; if this instrument writes "
                "per cent: --option transmission=percent"
            )
    most = 100 if unit == "percent" else 1
    if low < 0 or high > most:
        worst = int(values.argmin() if low < 0 else values.argmax())
        raise HklflowError(
            f"Filter_transmission is {values[worst]:g} in frame {worst} ({filters.files[worst]}), "
            f"not between 0 and {most} ({'per cent' if unit == 'percent' else 'a fraction'}): "
            "correct the headers, or --option transmission=none leaves it out"
        )
    fractions = values / most
    return fractions if high > low else float(fractions[0])
