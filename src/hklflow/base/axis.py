"""The quantity along which the scans of a series are measured, and the words for it.

Every sentence, table header, axis label and unit of a series asks this record. Scans carry their
value along the axis; without another axis it is the temperature.
"""

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

SYMBOLS = {"temperature": "T", "field": "B", "pressure": "p", "strain": "ε", "time": "t"}
"""Symbols of the usual quantities."""
_PRESSURES = ("Pa", "kPa", "MPa", "GPa", "bar", "kbar")


@dataclass(frozen=True)
class Axis:
    """Name, symbol and unit of the quantity along which the scans of a series are measured.

    Attributes
    ----------
    name : str
        Also the column of the table of scans.
    symbol : str
    unit : str
        "1" for a number without a unit.
    """

    name: str = "temperature"
    symbol: str = "T"
    unit: str = "K"

    @property
    def is_temperature(self) -> bool:
        """True if laws of temperature apply, such as thermal expansion."""
        return self.name == "temperature"

    @property
    def is_pressure(self) -> bool:
        """True if the change of a cell along the axis is its compressibility."""
        return self.unit in _PRESSURES

    @property
    def units(self) -> str:
        """Unit in files; empty without one."""
        return "" if self.unit == "1" else self.unit

    @property
    def suffix(self) -> str:
        """Unit behind a number, with a space; empty without a unit."""
        return f" {self.units}" if self.units else ""

    @property
    def label(self) -> str:
        """Label of a plot's axis."""
        return f"{self.name} ({self.units})" if self.units else self.name

    @property
    def values(self) -> str:
        """Key of the values in a JSON file."""
        return f"temperatures ({self.unit})" if self.is_temperature else self.label

    @property
    def plural(self) -> str:
        """Words for several values."""
        return "temperatures" if self.is_temperature else f"values of {self.name}"

    @property
    def onset(self) -> str:
        """Symbol of the value at a transition."""
        return f"{self.symbol}_c"

    @property
    def onset_key(self) -> str:
        """Key of the value at a transition in a JSON file."""
        return f"{self.onset} ({self.units})" if self.units else self.onset

    @property
    def course(self) -> str:
        """Words for the direction in which changes are described."""
        return "on cooling" if self.is_temperature else f"with increasing {self.name}"

    def at(self, value: float) -> str:
        """Write a value with its unit."""
        return f"{value:g}{self.suffix}"

    def between(self, low: float, high: float) -> str:
        """Write a range."""
        return f"between {low:g} and {high:g}{self.suffix}"

    def ends(self, ascending: list[T]) -> tuple[T, T]:
        """Return first and last of some scans in the direction in which changes are described.

        Parameters
        ----------
        ascending : list
            Scans in ascending order of their values.
        """
        first, last = ascending[0], ascending[-1]
        return (last, first) if self.is_temperature else (first, last)


TEMPERATURE = Axis()
