"""The axis of the series of a sample: settings, and the column of the table of scans.

Without settings the axis is the temperature.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, field_validator, model_validator

from hklflow.base.axis import SYMBOLS, TEMPERATURE, Axis
from hklflow.base.described import Described
from hklflow.experiment.tables import SCAN_COLUMNS

_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Names of other columns, datasets and attributes of the results; `tests/taken.py` compares them
# with what the stages write.
_TAKEN = {
    *("a", "b", "c", "alpha", "beta", "gamma", "volume", "cell", "space_group", "reference"),
    *("mosaic", "indexed", "peaks", "scale", "debye_waller", "h", "k", "l", "x", "y", "z"),
    *("data", "counts", "norm", "intensity", "value", "length", "mean", "vector", "vectors"),
    *("arms", "feature", "seen", "xi", "determined", "cluster", "reflection", "sigma", "hkl"),
    *("title", "signal", "axes", "axis", "units", "unit_cell", "angles", "file", "weight"),
    *("d", "n", "setting", "multiplicity", "course", "xyz", "mosaic_reflections"),
    *("common_reflections", "difference", "departure", "changes", "q", "q_h", "q_k", "q_l"),
    *("dh", "dk", "dl", "xi_68_low", "xi_68_high", "xi_95_low", "xi_95_high"),
    *("shape", "point", "direction", "definition", "name", "coordinates", "equivalents"),
    "intensity_limit",
}
_OF_ERRORS = re.compile(r".*_(error|errors|sigma)|sigma_.*")
# Pictures take text between two `$` for a formula.
_UNIT = re.compile(r"[^\s{}$\x00-\x1f]{1,20}")


class _Section(Described):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SeriesAxis(_Section):
    """The quantity along which the scans of a sample are compared."""

    column: str = TEMPERATURE.name
    """Column of the table of scans with the values, such as `field`, `pressure`, `strain` or
    `time`. A column with `_error` behind the name, such as `field_error`, has their standard
    deviations; it may be missing.
    """
    unit: str | None = None
    """Unit of the values, such as `T` or `GPa`; `1` for numbers without a unit. Temperatures are
    always in K."""
    symbol: str | None = None
    """Symbol in results, such as B in B_c. Default: T, B, p, ε and t for temperature, field,
    pressure, strain and time, and else the name of the column."""

    @field_validator("column")
    @classmethod
    def _usable(cls, value: str) -> str:
        if value != TEMPERATURE.name and value in SCAN_COLUMNS:
            raise ValueError(f"the column {value} of the table of scans is not an axis")
        if value in _TAKEN:
            raise ValueError(f"the results have a quantity {value}: give the column another name")
        if not _NAME.fullmatch(value) or _OF_ERRORS.fullmatch(value):
            raise ValueError(
                f"the column {value!r} is not a name of small letters, digits and '_' without "
                "`_error`, `_errors` or `_sigma` at its end or `sigma_` at its beginning"
            )
        return value

    @field_validator("unit", mode="before", json_schema_input_type=str | Literal[1] | None)
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return "1" if value == 1 and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _with_unit(self) -> "SeriesAxis":
        if self.column == TEMPERATURE.name:
            if self.unit not in (None, TEMPERATURE.unit):
                raise ValueError("temperatures are in K: leave `unit` out")
        elif self.unit is None:
            raise ValueError(
                f"the axis {self.column} has no unit: give `unit`, such as T or GPa (1 for numbers "
                "without a unit)"
            )
        elif not _UNIT.fullmatch(self.unit):
            raise ValueError(f"the unit {self.unit!r} has blanks, `$`, braces or over 20 letters")
        if self.symbol is not None and not _UNIT.fullmatch(self.symbol):
            raise ValueError(
                f"the symbol {self.symbol!r} has blanks, `$`, braces or over 20 letters"
            )
        return self

    @property
    def axis(self) -> Axis:
        """Name, symbol and unit for results."""
        symbol = self.symbol or SYMBOLS.get(self.column, self.column)
        return Axis(self.column, symbol, self.unit or TEMPERATURE.unit)


class Series(_Section):
    """Series of the scans of a sample."""

    axis: SeriesAxis = SeriesAxis()
    """Quantity along which the scans are compared; default: their temperature."""


def column_of(data: Mapping[str, Any]) -> str:
    """Return the column of the axis from unchecked data of the configuration."""
    for key in ("series", "axis", "column"):
        data = data.get(key, {}) if isinstance(data, Mapping) else {}
    named = isinstance(data, str) and _NAME.fullmatch(data) and data not in SCAN_COLUMNS
    return str(data) if named else TEMPERATURE.name
