"""Stacks of volumes along temperature: the same cuts of all temperatures."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.base.errors import HklflowError
from hklflow.results.volume import Volume

if TYPE_CHECKING:
    import xarray as xr


class Stack:
    """Volumes of one sample along temperature, all on one grid.

    `plane`, `line`, `radial`, `box` and `rebin` are as those of `Volume`; their results have a
    dimension ``temperature`` in K, or that of another axis with its name and unit.

    Attributes
    ----------
    temperature : (n,) array
        K, in ascending order; values along another axis of the series.
    volumes : list of Volume
    axis : Axis
    """

    def __init__(
        self, temperature: ArrayLike, volumes: Sequence[Volume], axis: Axis = TEMPERATURE
    ) -> None:
        self.axis = axis
        self.temperature: NDArray[np.float64] = np.asarray(temperature, dtype=np.float64)
        self.volumes = list(volumes)
        for volume in self.volumes:
            if not volume.grid.same_as(self.volumes[0].grid):
                raise HklflowError(
                    f"{volume!r} has another grid than {self.volumes[0]!r}; transform the scans "
                    "with one parent"
                )

    def __repr__(self) -> str:
        shown = ", ".join(f"{t:g}" for t in self.temperature)
        at = f"{shown}{self.axis.suffix}"
        return f"<stack of {len(self.volumes)} volumes at {at}: {self.volumes[0]!r}>"

    def __iter__(self) -> Iterator[tuple[float, Volume]]:
        return zip(map(float, self.temperature), self.volumes, strict=True)

    def plane(self, plane: str, width: float = 0.0, **options: Any) -> "xr.Dataset":
        """Return a plane at all temperatures; see `Volume.plane`."""
        return self._joined(lambda volume: volume.plane(plane, width, **options))

    def line(
        self,
        start: ArrayLike,
        end: ArrayLike,
        width: float,
        *,
        step: float | None = None,
        unit: str = "1/angstrom",
        **options: Any,
    ) -> "xr.Dataset":
        """Return a line in hkl at all temperatures; see `Volume.line`.

        All temperatures have the bins of the first, at the same hkl; ``distance`` is that of the
        first.
        """
        first = self.volumes[0]
        if step is None:
            return self._joined(lambda v: v.line(start, end, width, unit=unit, **options))
        n = first.line_bins(start, end, step, unit)
        return self._joined(
            lambda v: v.line(
                start, end, width, step=v.length(start, end, unit) / n, unit=unit, **options
            )
        )

    def radial(self, step: float | None = None, **options: Any) -> "xr.Dataset":
        """Return shells of |Q| at all temperatures; see `Volume.radial`.

        The default of ``step`` and ``q_max`` is that of the first temperature.
        """
        first = self.volumes[0]
        step = first.edge if step is None else step
        options = {"q_max": min(v.q_max for v in self.volumes)} | options
        return self._joined(lambda volume: volume.radial(step, **options))

    def box(self, **options: Any) -> "xr.Dataset":
        """Return a box at all temperatures; see `Volume.box`."""
        return self._joined(lambda volume: volume.box(**options))

    def rebin(self, step: float | Sequence[float], **options: Any) -> "xr.Dataset":
        """Return coarser volumes at all temperatures; see `Volume.rebin`."""
        return self._joined(lambda volume: volume.rebin(step, **options))

    def _joined(self, cut: Callable[[Volume], "xr.Dataset"]) -> "xr.Dataset":
        import xarray as xr

        cuts = [cut(volume) for volume in self.volumes]
        name = xr.Variable(self.axis.name, self.temperature, {"units": self.axis.units})
        joined: xr.Dataset = xr.concat(
            cuts, name, data_vars="all", coords="minimal", compat="override", join="override",
            combine_attrs="override",
        )  # fmt: skip
        joined.attrs["file"] = [one.attrs["file"] for one in cuts]
        return joined
