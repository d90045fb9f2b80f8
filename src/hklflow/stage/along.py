"""The axis of a series as a parameter of its stages, with the values of the scans."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ConfigDict, Field

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.base.described import Described
from hklflow.base.errors import HklflowError
from hklflow.stage.products import read_orientation

if TYPE_CHECKING:
    from hklflow.bragg.structure_factors import Crystal
    from hklflow.orientation.product import Orientation

_Scan = TypeVar("_Scan", "Orientation", "Crystal")


class Along(Described):
    """The axis of a series; default: the temperature."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = TEMPERATURE.name
    """Name of the quantity."""
    symbol: str = TEMPERATURE.symbol
    """Symbol of the quantity."""
    unit: str = TEMPERATURE.unit
    """Unit of the values; 1 for numbers without a unit."""
    values: dict[str, float] = Field(default_factory=dict)
    """Value of each scan; not for temperatures, which are in the orientations."""
    errors: dict[str, float] = Field(default_factory=dict)
    """Standard deviations of the values that are known, by the name of the scan."""

    @property
    def axis(self) -> Axis:
        """Name, symbol and unit."""
        return Axis(self.name, self.symbol, self.unit)

    def read(self, paths: Sequence[Path]) -> "list[Orientation]":
        """Return the orientations of the scans; their ``temperature`` is the value along the axis.

        Raises
        ------
        HklflowError
            If a scan has no value along an axis other than temperature.
        """
        return [self.placed(read_orientation(path), path) for path in paths]

    def placed(self, scan: _Scan, path: Path) -> _Scan:
        """Return an orientation or a crystal whose ``temperature`` is the value along the axis."""
        if self.axis.is_temperature:
            return scan
        if scan.scan not in self.values:
            raise HklflowError(
                f"{path}: scan {scan.scan} has no value along {self.name}; give one in --along"
            )
        return replace(scan, temperature=self.values[scan.scan])
