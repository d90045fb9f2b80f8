"""Format numbers and metrics for people."""

import math
from collections.abc import Mapping
from typing import Any

from hklflow.base.axis import Axis
from hklflow.base.numbers import rounded, with_power


def formatted(value: Any, form: str) -> str:
    """Format a number; anything else is a dash."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return with_power(form.format(value).replace(",", " "))


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
        return rounded(value, 5)
    return str(value)
