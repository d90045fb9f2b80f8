"""Counts of the reflections of a propagation vector in volumes of several scans.

The reflections are at all main reflections plus all arms of the star of the vector. Those that
stand out in the sum over all scans are counted: this choice does not favour one temperature.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.volumes import boxes

Floats = NDArray[np.float64]
Hkl = tuple[float, float, float]
Region = tuple[slice, slice, slice]

_STANDS_OUT = 5.0  # counts above the background in the sum over all scans, in standard deviations


def star(vector: ArrayLike, operations: ArrayLike) -> list[Hkl]:
    """Return the arms of the star of a vector, modulo integers in [0, 1), with the opposites."""
    images = np.asarray(operations, dtype=np.float64) @ np.asarray(vector, dtype=np.float64)
    arms = {
        tuple(float(x) % 1.0 for x in np.round(sign * image, 6))
        for image in images
        for sign in (1, -1)
    }
    return [(arm[0], arm[1], arm[2]) for arm in sorted(arms)]


def places(
    grid: Grid, arms: Sequence[Hkl], half_width: ArrayLike, shell: int, most: int
) -> list[tuple[Hkl, boxes.Box]]:
    """Return at most ``most`` reflections of a star with their boxes, evenly from small hkl on."""
    axes = [np.arange(np.floor(a[0]), np.ceil(a[-1]) + 1) for a in map(grid.axis, range(3))]
    main = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.concatenate([main + np.array(arm) for arm in arms])
    size = np.abs(points / np.array([abs(a[-1]) + 1 for a in map(grid.axis, range(3))])).max(axis=1)
    found = []
    for point in points[np.argsort(size, kind="stable")]:
        box = boxes.box_at(grid, point, half_width, shell)
        if box is not None:
            found.append(((float(point[0]), float(point[1]), float(point[2])), box))
    if len(found) > most:
        return [found[i] for i in np.linspace(0, len(found) - 1, most).astype(int)]
    return found


@dataclass(frozen=True)
class Counted:
    """Counts of reflections (rows) in scans (columns); NaN if a box was not measured.

    Attributes
    ----------
    counts, background, background_var : (r, t) arrays
        Counts of the box, and those of the background in it with the variance of this estimate.
    factor : (r, t) array
        Counts for an integrated intensity of 1, S × r.l.u.³.
    roughness : (r, t) array
        Relative error of the intensity from the uneven norm.
    """

    counts: Floats
    background: Floats
    background_var: Floats
    factor: Floats
    roughness: Floats

    def select(self, rows: NDArray[np.bool_] | Sequence[int]) -> "Counted":
        """Return some of the reflections."""
        return Counted(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def chosen(self) -> NDArray[np.bool_]:
        """Return the reflections that stand out in the sum over all scans that measured them all.

        All measured reflections if fewer than three stand out.
        """
        whole = ~np.isnan(self.counts).any(axis=1)
        total, below = self.counts.sum(axis=1), self.background.sum(axis=1)
        error = np.sqrt(np.maximum(below, 1) + self.background_var.sum(axis=1))
        with np.errstate(invalid="ignore"):
            strong = whole & (total - below > _STANDS_OUT * error)
        return np.asarray(strong if strong.sum() >= 3 else whole)


def table(
    of: Sequence[Sequence[boxes.Box | None]],
    reads: Sequence[Callable[[Region], tuple[Floats, Floats, Floats]]],
    least: float,
) -> Counted:
    """Return the counts of reflections (rows) in scans; a box may differ from scan to scan.

    Parameters
    ----------
    of : (r, t) sequences of Box or None
        None: outside of the volume.
    reads : (t,) sequence of functions
        Counts, norm and variance of the counts (l, k, h) of a part of each volume.
    least : float
        Smallest measured fraction of a box.
    """
    nan = (float("nan"),) * 5
    rows = [
        [
            nan if box is None else counted(box, *read(box.region), least)
            for box, read in zip(line, reads, strict=True)
        ]
        for line in of
    ]
    return Counted(*np.moveaxis(np.array(rows).reshape(len(of), len(reads), 5), -1, 0))


def counted(
    box: boxes.Box, counts: Floats, norm: Floats, variance: Floats, least: float
) -> tuple[float, float, float, float, float]:
    """Return one entry of the arrays of `Counted`, in their order.

    Counts with a variance of their own (read noise, a subtracted background) become the number of
    photons with the same relative error.
    """
    sums = boxes.sums(box, counts, norm, least)
    if np.isnan(sums.intensity):
        nan = float("nan")
        return nan, nan, nan, nan, nan
    in_box, in_shell = (norm > 0) & box.inside, (norm > 0) & ~box.inside
    ratio = float(norm[in_shell].sum() / norm[in_box].sum())
    inner, outer = float(counts[in_box].sum()), float(counts[in_shell].sum())
    both = in_box | in_shell
    noise = max(float(variance[both].sum()) / max(inner + outer, 1.0), 1.0)
    # Half a count: no counts in the shell are not a background of exactly 0.
    background = (outer / noise + 0.5) / ratio
    # The photons of a sharp reflection follow the mean norm, see `volumes.boxes`.
    factor = float(norm[in_box].mean()) / box.voxel / noise
    return inner / noise, background, background / ratio, factor, sums.roughness / 6
