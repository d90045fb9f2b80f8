"""The ΔPDF transformed back, compared with S(Q) as measured: figures and warnings."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hklflow.nexus.slabs import SlabReader
from hklflow.volumes.back_transform import Comparison, Reader
from hklflow.volumes.fill import MEASURED

if TYPE_CHECKING:
    from hklflow.nexus.volume import OpenVolume

# A mean residual next to holes matters from this many σ of a voxel, and of its own errors.
_RESIDUAL, _SIGNIFICANT = 0.5, 5.0


def reader(filled: "OpenVolume") -> Reader:
    """Return a function that reads S, σ and the code of a plane of a filled volume."""
    names = [name for name in ("data", "data_errors", "punched") if name in filled.group]
    stored = {name: SlabReader(filled.group[name]) for name in names}

    def read(l: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.uint8]]:  # noqa: E741
        planes = {name: one.read(l, l + 1)[0] for name, one in stored.items()}
        s = planes["data"]
        return s, planes["data_errors"], planes.get("punched", np.full(s.shape, MEASURED, np.uint8))

    return read


def figures(made: Comparison) -> dict[str, Any]:
    """Return the figures of a comparison."""
    near, error = made.near_holes
    figures = {
        "radii in angstrom": made.radii,
        "chi2 beyond each radius": made.beyond,
        "sigma of chi2 beyond each radius": made.beyond_sigma,
        "chi2 from each radius to the next": made.shells,
        "sigma of chi2 from each radius to the next": made.shells_sigma,
        "share of the modulation within each radius": made.explained,
        "end of correlations in angstrom": made.radii[made.chosen] if made.ends else None,
        "residual of the whole box in sigma": made.whole,
        "measured voxels compared": made.voxels,
        "independent voxels compared": made.independent,
        "mean residual next to holes in sigma": near,
        "sigma of the mean residual next to holes": error,
    }
    return {name: _plain(value) for name, value in figures.items()}


def _plain(value: Any) -> Any:
    """Return numbers for JSON, None for those that have no meaning."""
    if isinstance(value, np.ndarray):
        return [_plain(float(x)) for x in value]
    return None if value is None or not np.isfinite(value) else value


def warnings(made: Comparison) -> list[str]:
    """Return a warning if S does not join the fill of the holes smoothly."""
    near, error = made.near_holes
    if not abs(near) > max(_RESIDUAL, _SIGNIFICANT * error):
        return []
    if near > 0:
        why = "tails of reflections remain, or the fill is too low: increase `radius` of `fill`"
    else:
        why = "the fill is too high: look at its picture, and change `radius` of `fill`"
    side = "above" if near > 0 else "below"
    return [
        f"next to the holes of reflections, S is on average {abs(near):.2g} σ {side} the back "
        f"transform of the ΔPDF within {made.radii[made.chosen]:.0f} Å; {why}"
    ]
