"""`Dataset.hklflow`: plots of planes with their true angles and of curves, and differences."""

from typing import Any

import numpy as np
import xarray as xr

from hklflow.base.errors import HklflowError


@xr.register_dataset_accessor("hklflow")  # type: ignore[no-untyped-call]
class Accessor:
    """Plots and differences of cuts, as ``cut.hklflow.plot()``, ``cut.hklflow.minus(other)``."""

    def __init__(self, cut: xr.Dataset) -> None:
        self._cut = cut

    def plot(self, axes: Any = None, *, log: bool | None = None, errors: bool = False) -> Any:
        """Draw a plane with its true angles, or a curve with errors; return the matplotlib figure.

        Parameters
        ----------
        axes : matplotlib.axes.Axes
            Axes to draw into. Default: a new figure.
        log : bool
            Logarithmic colours or values. Default: logarithmic for planes of S(Q).
        errors : bool
            True: draw sigma instead of the values.

        Raises
        ------
        HklflowError
            If the cut is neither a plane nor a curve.
        """
        if "plane" in self._cut.attrs and self._cut.S.ndim == 2:
            return self._plane(axes, log, errors)
        if self._cut.S.ndim == 1:
            return self._curve(axes, bool(log), errors)
        raise HklflowError(
            f"a cut of {self._cut.S.ndim} dimensions has no plot; draw a plane or a line, of a "
            "stack one temperature: cut.sel(temperature=300)"
        )

    def minus(self, other: xr.Dataset) -> xr.Dataset:
        """Return this cut minus a cut of another volume, with errors in quadrature.

        Bins are subtracted in their order: lines of two temperatures at the same hkl, whose
        distances in 1/Å differ with the cell. Both cuts must have the same bins; boxes, and
        parallel lines of one length in hkl, may be at different places.

        Parameters
        ----------
        other : Dataset
            Cut of the same kind. The errors are right if both are independent: bins of the two
            cuts share no voxels, and are no images of each other.

        Raises
        ------
        HklflowError
            If bins, estimand or units differ.
        """
        from hklflow.results.subtracting import difference

        return difference(self._cut, other)

    def _plane(self, axes: Any, log: bool | None, errors: bool) -> Any:
        from matplotlib.colors import Normalize

        from hklflow.plots import planes as pictures
        from hklflow.plots.common import figure_of, log_range
        from hklflow.volumes import planes

        cut = self._cut
        v, u = cut.S.dims
        direct = "x" in cut.coords
        values = cut.sigma if errors else cut.S
        plane = planes.parse(cut.attrs["plane"], "xyz" if direct else "hkl")
        drawn = planes.Cut(plane, cut[u].values, cut[v].values, values.values)
        metric = planes.metric_of(cut.attrs["cell"], direct)
        diverging = (direct or cut.attrs["kind"] == "difference") and not errors
        if diverging:
            norm: Normalize = pictures.symmetric_range([drawn], metric, direct)
        elif log is False:
            finite = drawn.image[np.isfinite(drawn.image)]
            norm = Normalize(*np.percentile(finite, [1, 99])) if finite.size else Normalize(0, 1)
        else:
            norm = log_range(drawn.image)
        if axes is None:
            axes = figure_of(6.4, 5.6).subplots()
        image = pictures.draw(axes, drawn, metric, "Å" if direct else "1/Å", norm, diverging)
        axes.figure.colorbar(image, ax=axes, label=_label(values))
        axes.set_title(f"{cut.attrs['title']}: {plane.text}")
        return axes.figure

    def _curve(self, axes: Any, log: bool, errors: bool) -> Any:
        from hklflow.plots.common import figure_of

        cut = self._cut
        (name,) = cut.S.dims
        x = cut[name]
        values = cut.sigma if errors else cut.S
        if axes is None:
            axes = figure_of(7, 4.6).subplots()
        bars = None if errors or not np.isfinite(cut.sigma).any() else cut.sigma.values
        axes.errorbar(x.values, values.values, yerr=bars, fmt="o-", ms=3, lw=1, capsize=2)
        axes.set_xlabel(_label(x))
        axes.set_ylabel(_label(values))
        axes.set_title(cut.attrs.get("title", ""))
        if log:
            axes.set_yscale("log")
        return axes.figure


def _label(array: xr.DataArray) -> str:
    return f"{array.attrs.get('long_name', array.name)} ({array.attrs.get('units', '')})"
