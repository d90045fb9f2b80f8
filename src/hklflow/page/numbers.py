"""Format numbers and metrics for people."""

import math
from collections.abc import Mapping
from typing import Any

from hklflow.base.axis import Axis


def with_error(value: float | None, sigma: float | None, digits: int = 6) -> str:
    """Write a number with its standard uncertainty in the form of crystallography: 1.234(5).

    The uncertainty has one digit, or two digits from 10 to 19 (rule of the IUCr journals). Without
    an uncertainty (None, or 0: fixed by symmetry) the number has ``digits`` digits.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if sigma is None or not math.isfinite(sigma) or sigma <= 0:
        return f"{value:.{digits}g}".replace("-", "−")
    last = math.floor(math.log10(sigma))
    if round(sigma / 10.0 ** (last - 1)) < 20:
        last -= 1
    error = round(sigma / 10.0**last)
    if last > 0:
        number, error = f"{round(value, -last):.0f}", error * 10**last
    else:
        number = f"{value:.{-last}f}"
    return f"{number}({error})".replace("-", "−")


def formatted(value: Any, form: str) -> str:
    """Format a number; anything else is a dash."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return form.format(value).replace(",", " ").replace("-", "−")


def placed(value: float, axis: Axis) -> str:
    """Write a temperature, or a value along another axis; NaN is a dash."""
    return axis.at(value) if math.isfinite(value) else "–"


def flat(data: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """List the metrics of a product for reading, as pairs of name and value.

    For long lists and nested lists, only the length is shown.
    """
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            rows += flat(value, f"{name} › ")
        elif isinstance(value, list) and any(isinstance(x, Mapping | list) for x in value):
            rows.append((name, f"{len(value)} in the file"))
        elif isinstance(value, list) and len(value) > 9:
            rows.append((name, f"{len(value)} values in the file"))
        elif isinstance(value, list):
            rows.append((name, ", ".join(map(plain, value)) or "none"))
        else:
            rows.append((name, plain(value)))
    return rows


def plain(value: Any) -> str:
    """Write a value of a JSON file: numbers with five digits, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ").replace("-", "−")
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        return f"{value:.5g}".replace("-", "−")
    return str(value)
