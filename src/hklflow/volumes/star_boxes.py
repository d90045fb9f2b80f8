"""Counts of the reflections of a propagation vector in volumes of several scans.

The reflections are at all main reflections plus all arms of the star of the vector. Those that
stand out in the sum over all scans are counted: this choice does not favour one temperature.

The background in a box is the mean of the shell around it, or the value in the box of a polynomial
of second order in (h, k, l) that is fitted to the shell. The mean is more precise, but wrong where
the diffuse scattering is curved. All boxes of a vector have the same: see `Counted.settled`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.volumes import boxes

Floats = NDArray[np.float64]
Hkl = tuple[float, float, float]
Region = tuple[slice, slice, slice]

_STANDS_OUT = 5.0  # counts above the background in the sum over all scans, in standard deviations
#: Difference of the two backgrounds, in its standard deviations, from which on the curved one is
#: used. By Akaike's criterion, the constant one has the larger expected error from here on.
_CURVED = 2**0.5
#: Part of the difference that is the error of the curved background, alike in all boxes: that of a
#: cosine with a period of 1 r.l.u. in boxes and shells of the default size is 0.18.
_MISSED = 0.2
_LEAST_EIGENVALUE = 1e-6  # of the normal matrix of a curved background, over the largest


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
    curved, curved_var : (r, t) arrays
        The same for a background with curvature; NaN where the shell does not determine it.
    factor : (r, t) array
        Counts for an integrated intensity of 1, S × r.l.u.³.
    roughness : (r, t) array
        Relative error of the intensity from the uneven norm.
    """

    counts: Floats
    background: Floats
    background_var: Floats
    curved: Floats
    curved_var: Floats
    factor: Floats
    roughness: Floats

    def select(self, rows: NDArray[np.bool_] | Sequence[int]) -> "Counted":
        """Return some of the reflections."""
        return Counted(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def curvature(self) -> float:
        """Difference of the two backgrounds over all boxes, in its standard deviations."""
        known = ~np.isnan(self.curved) & ~np.isnan(self.background)
        # The constant background is part of the polynomial: variances are subtracted.
        var = float((self.curved_var - self.background_var)[known].sum())
        total = float((self.curved - self.background)[known].sum())
        return total / var**0.5 if var > 0 else 0.0

    def settled(self) -> "Counted":
        """Return the counts with the background that suits all boxes: constant, or curved."""
        unknown = np.isnan(self.curved)
        if abs(self.curvature) < _CURVED or unknown.any(axis=1).all():
            return self
        # The same error in all boxes adds up: its square is divided among them.
        missed = _MISSED * np.nansum(self.curved - self.background, axis=0)
        return replace(
            self,
            counts=np.where(unknown, np.nan, self.counts),
            background=self.curved,
            background_var=self.curved_var + missed**2 / np.sum(~unknown, axis=0),
        )

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
    nan = (float("nan"),) * 7
    rows = [
        [
            nan if box is None else counted(box, *read(box.region), least)
            for box, read in zip(line, reads, strict=True)
        ]
        for line in of
    ]
    return Counted(*np.moveaxis(np.array(rows).reshape(len(of), len(reads), 7), -1, 0))


def counted(
    box: boxes.Box, counts: Floats, norm: Floats, variance: Floats, least: float
) -> tuple[float, ...]:
    """Return one entry of the arrays of `Counted`, in their order.

    Counts with a variance of their own (read noise, a subtracted background) become the number of
    photons with the same relative error.
    """
    sums = boxes.sums(box, counts, norm, least)
    if np.isnan(sums.intensity):
        return (float("nan"),) * 7
    in_box, in_shell = (norm > 0) & box.inside, (norm > 0) & ~box.inside
    inside, outside = float(norm[in_box].sum()), float(norm[in_shell].sum())
    inner, outer = float(counts[in_box].sum()), float(counts[in_shell].sum())
    both = in_box | in_shell
    noise = max(float(variance[both].sum()) / max(inner + outer, 1.0), 1.0)
    # Half a count: no counts in the shell are not a background of exactly 0.
    rate = (outer / noise + 0.5) / outside
    background, background_var = rate * inside, rate * inside**2 / outside
    bend, bend_var = _bend(box, in_box, in_shell, counts / noise, norm)
    # The photons of a sharp reflection follow the mean norm, see `volumes.boxes`.
    factor = float(norm[in_box].mean()) / box.voxel / noise
    curved = background + bend, background_var + rate * bend_var
    return (inner / noise, background, background_var, *curved, factor, sums.roughness / 6)


def _bend(
    box: boxes.Box,
    in_box: NDArray[np.bool_],
    in_shell: NDArray[np.bool_],
    counts: Floats,
    norm: Floats,
) -> tuple[float, float]:
    """Return the counts by which a curved background in the box exceeds the constant one.

    The second number is the variance of the difference for a rate of one count per norm. Both are
    NaN if the shell does not determine the polynomial.
    """
    axes = [np.linspace(-1, 1, n) for n in box.inside.shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    terms = np.stack([x, y, z, x * x, y * y, z * z, x * y, y * z, z * x], axis=-1)
    weight = norm[in_shell]
    # Terms are made orthogonal to the constant background.
    mean = weight @ terms[in_shell] / weight.sum()
    shell, middle = terms[in_shell] - mean, norm[in_box] @ (terms[in_box] - mean)
    normal = (shell * weight[:, None]).T @ shell
    values = np.linalg.eigvalsh(normal)
    if values[0] < _LEAST_EIGENVALUE * values[-1]:
        return float("nan"), float("nan")
    solved = np.linalg.solve(normal, middle)
    return float(counts[in_shell] @ shell @ solved), float(middle @ solved)
