"""Test of every voxel for a change with temperature beyond noise and heat.

Four χ² are calculated: of the voxel alone and of the 3 x 3 x 3 voxels around it against any change;
of the 3 x 3 x 3 and 5 x 5 x 5 voxels around it against changes that are smooth in T. The smallest
probability counts, four times. The rule of Benjamini and Hochberg limits the share of false
discoveries among the voxels that are claimed (J. R. Stat. Soc. B 57, 289, 1995). Sums over
neighbours depend on each other in the way that the rule allows (positively). Only independent
voxels are tested, and neighbours that are images of other voxels are not added twice.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from hklflow.geometry.grid import Grid
from hklflow.series import kernels
from hklflow.series.thermal import Thermal

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

_BINS = 1024  # bins of |Q|² in which scale and common departure are constant
_LIMIT = 5.0  # largest departure of one temperature that counts, in standard deviations
_QUIET = 0.3  # quantile of χ² that is compared with noise: most changes are above it
_SUSPECT = 0.01  # probability below which a voxel does not help to find the common course
_STRONG = 2.0  # ratio to the level of weak voxels above which a voxel is strong
_SURE = 0.25  # smallest share of the relative error that weak voxels have
_SMOOTH = 6  # number of smooth courses

# Tests: half-width of the box, and True for smooth changes only.
_TESTS = ((0, False), (1, False), (1, True), (2, True))
_HALO = 2  # planes before and after the tested planes


@dataclass(frozen=True)
class Cuboid:
    """Part of a grid: slices along l, k, h."""

    l: slice  # noqa: E741
    k: slice
    h: slice

    @property
    def region(self) -> tuple[slice, slice, slice]:
        """Return the slices, as an index."""
        return self.l, self.k, self.h


class Places:
    """Symmetry-independent voxels of a grid, and their |Q|.

    Parameters
    ----------
    grid : Grid
    metric : (3, 3) array
        Metric tensor of reciprocal space, 1/Å² with 2π.
    operations : (n, 3, 3) array
        Operations of the Laue group on hkl; only the identity if the volumes are not symmetrised.
    """

    def __init__(self, grid: Grid, metric: Floats, operations: Floats) -> None:
        self.grid, self.metric = grid, metric
        self._axes = [grid.axis(i) for i in range(3)]
        key = np.array([1.0, np.sqrt(2.0), np.sqrt(3.0)])
        self._keys = np.array([key, *(key @ operation for operation in operations)])

    def independent(self, part: Cuboid) -> Flags:
        """Return True for one voxel of each set of equivalents."""
        l, k, h = part.region  # noqa: E741
        own = [axis[s] for axis, s in zip(self._axes, (h, k, l), strict=True)]
        found = np.empty([len(axis) for axis in own[::-1]], np.bool_)
        kernels.independent(self._keys, *own, found)
        return found

    def s2(self, part: Cuboid) -> Floats:
        """Return s² = (|Q| / 4π)² of the voxels, 1/Å²."""
        l, k, h = (  # noqa: E741
            axis[s] for axis, s in zip(self._axes[::-1], part.region, strict=True)
        )
        m = self.metric / (4 * np.pi) ** 2
        return np.asarray(
            (m[2, 2] * l**2)[:, None, None]
            + (m[1, 1] * k**2)[:, None]
            + m[0, 0] * h**2
            + 2 * (m[1, 2] * l[:, None, None] * k[:, None])
            + 2 * (m[0, 2] * l[:, None, None] + m[0, 1] * k[:, None]) * h
        )

    def needed(self, planes: int) -> list[Cuboid]:
        """Return slabs of ``planes`` planes that hold all independent voxels; all have one k, h."""
        n_l, n_k, n_h = self.grid.array_shape
        used = np.zeros(n_l, np.bool_)
        along_k, along_h = np.zeros(n_k, np.bool_), np.zeros(n_h, np.bool_)
        for first in range(0, n_l, planes):
            slab = slice(first, min(first + planes, n_l))
            found = self.independent(Cuboid(slab, slice(0, n_k), slice(0, n_h)))
            used[slab] = found.any(axis=(1, 2))
            along_k |= found.any(axis=(0, 2))
            along_h |= found.any(axis=(0, 1))
        k, h = (
            slice(int(np.argmax(x)), len(x) - int(np.argmax(x[::-1]))) for x in (along_k, along_h)
        )
        slabs = (slice(f, min(f + planes, n_l)) for f in range(0, n_l, planes))
        return [Cuboid(slab, k, h) for slab in slabs if used[slab].any()]


@dataclass(frozen=True)
class Claims:
    """Result of the test.

    Attributes
    ----------
    tested : int
        Number of tested voxels.
    index : (n,) int array
        Numbers of the claimed voxels in C order of (l, k, h), ascending.
    p : (n,) array
        Probability of each claimed voxel without a change.
    radius : (n,) int array
        Half-width of the box with the smallest probability.
    limit : float
        Largest p that is claimed; 0 without a claim.
    """

    tested: int
    index: Integers
    p: Floats
    radius: Integers
    limit: float

    def strongest(self, most: int) -> "Claims":
        """Return the ``most`` claims with the smallest probabilities."""
        kept = np.sort(np.argsort(self.p, kind="stable")[:most])
        return replace(self, index=self.index[kept], p=self.p[kept], radius=self.radius[kept])


class ChangeTest:
    """Test of voxels that are added slab by slab, in ascending order of l.

    Parameters
    ----------
    places : Places
    thermal : Thermal
        Temperatures in an order in which the coldest is first and the hottest second; the arrays
        that are added have the same order.
    relative : float
        Relative error of S besides the noise, common to neighbours. In voxels that are no stronger
        than twice the weak ones at the same |Q| it is the measured scatter of weak voxels, at least
        a quarter of ``relative``.
    least : int
        Smallest number of temperatures of a tested voxel.
    rate : float
        Share of false discoveries.
    threads : int
    """

    def __init__(
        self,
        places: Places,
        thermal: Thermal,
        *,
        relative: float,
        least: int,
        rate: float,
        threads: int,
    ) -> None:
        self._places, self._thermal = places, thermal
        self._errors = min(max(thermal.scatter, _SURE * relative), relative), relative
        self._least, self._rate = least, rate
        self._threads = threads
        self.shape = places.grid.array_shape
        self.dimensions = len(thermal.scale) - thermal.courses.shape[1]
        corner = np.array(np.meshgrid(*([a[0], a[-1]] for a in map(places.grid.axis, range(3)))))
        hkl = corner.reshape(3, -1)
        highest = np.einsum("in,ij,jn->n", hkl, places.metric, hkl).max() / (4 * np.pi) ** 2
        self._per_s2 = (_BINS - 1) / highest
        s2 = (np.arange(_BINS) + 0.5) / self._per_s2
        self._tables = *thermal.table(s2), _STRONG * np.interp(s2, thermal.s2, thermal.level)
        self._smooth = self._smooth_courses()
        self._sizes = [self._smooth.shape[1] if smooth else self.dimensions for _, smooth in _TESTS]
        #: Factors by which χ² of quiet voxels exceeds noise, for each test.
        self.excess = np.ones(len(_TESTS))
        self._before: tuple[Singles, Singles] | None = None
        self._end = -1
        self._tested = 0
        self._found: list[tuple[Integers, Floats, Integers]] = []

    def _smooth_courses(self) -> Singles:
        """Return smooth courses in the coordinates of departures, as columns."""
        n_t = len(self._thermal.scale)
        rank = np.concatenate([[0, n_t - 1], np.arange(1, n_t - 1)])
        waves = np.cos(np.pi * np.outer(rank + 0.5, np.arange(n_t)) / n_t)
        whole = np.linalg.qr(np.concatenate([self._thermal.courses, waves], axis=1))[0]
        low = self.dimensions - n_t
        courses = whole[:, -low : min(_SMOOTH - low, n_t)]
        shape = (1, 1, courses.shape[1])
        found = np.empty((*shape, self.dimensions), np.float32)
        kernels.departures(
            courses[:, None, None].astype(np.float32),
            np.ones((n_t, *shape), np.float32),
            np.ones(shape, np.bool_),
            np.zeros(shape, np.uint16),
            np.ones((1, n_t)),
            np.zeros((1, n_t)),
            np.zeros(1),
            self._thermal.courses,
            0.0,
            0.0,
            0,
            found,
            np.empty(shape, np.float32),
        )
        return np.ascontiguousarray(found[0, 0].T)

    def _bins(self, part: Cuboid) -> NDArray[np.uint16]:
        return np.asarray(self._places.s2(part) * self._per_s2, dtype=np.uint16)

    def _departures(self, part: Cuboid, data: Singles, errors: Singles) -> tuple[Singles, Singles]:
        inside, bins = self._places.independent(part), self._bins(part)
        shape = inside.shape
        moved, share = np.empty((*shape, self.dimensions), np.float32), np.empty(shape, np.float32)

        def work(rows: slice) -> None:
            kernels.departures(
                data[:, rows],
                errors[:, rows],
                inside[rows],
                bins[rows],
                *self._tables,
                self._thermal.courses,
                *self._errors,
                self._least,
                moved[rows],
                share[rows],
            )

        self._in_parts(work, shape[0])
        return moved, share

    def _chi_squares(self, moved: Singles, share: Singles) -> list[Singles]:
        """Return χ² of all tests, for all planes but the halo."""
        d, m = self._smooth.shape
        weighed = np.empty((*share.shape, d + m + 2), np.float32)
        shape = (len(share) - 2 * _HALO, *share.shape[1:])
        found = [np.empty(shape, np.float32) for _ in _TESTS]

        def weigh(rows: slice) -> None:
            kernels.weigh(moved[rows], share[rows], _LIMIT, self._smooth, weighed[rows])

        def test(rows: slice) -> None:
            inner = slice(rows.start + _HALO, rows.stop + _HALO)
            for (radius, smooth), chi in zip(_TESTS, found, strict=True):
                wide = slice(inner.start - radius, inner.stop + radius)
                parts = slice(d, None) if smooth else slice(0, None)
                values = weighed[wide, ..., parts]
                sums = values
                if radius:
                    sums = np.empty((rows.stop - rows.start, *values.shape[1:]), np.float32)
                    kernels.box_sums(values, radius, sums)
                ends = (0, m) if smooth else (0, d)
                kernels.chi_squares(sums, share[inner], *ends, _LIMIT, chi[rows])

        self._in_parts(weigh, len(share))
        self._in_parts(test, shape[0])
        return found

    def _in_parts(self, work: Callable[[slice], None], n: int) -> None:
        step = max(1, -(-n // self._threads))
        parts = [slice(i, min(i + step, n)) for i in range(0, n, step)]
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(work, parts))

    def probabilities(self, chi: list[Singles]) -> tuple[Floats, Integers]:
        """Return the probability of each χ² or a larger one without a change, all tests together.

        Parameters
        ----------
        chi : list of (n,) arrays
            χ² of the tests.

        Returns
        -------
        p : (n,) array
        radius : (n,) int array
            Half-width of the box of the test with the smallest probability.
        """
        each = [
            chi2.sf(np.asarray(x, dtype=np.float64) / excess, size)
            for x, excess, size in zip(chi, self.excess, self._sizes, strict=True)
        ]
        radius = np.array([radius for radius, _ in _TESTS])[np.argmin(each, axis=0)]
        return np.minimum(1.0, len(each) * np.min(each, axis=0)), radius

    def calibrate(self, boxes: list[tuple[Cuboid, Singles, Singles]]) -> list[Flags]:
        """Set `excess` from some boxes: errors may be too small, or neighbours correlated.

        Returns
        -------
        list of (l, k, h) bool arrays
            Voxels of the boxes that may change, generously.
        """
        found = []
        for part, data, errors in boxes:
            moved, share = self._departures(part, data, errors)
            edge = np.zeros_like(moved[:1]), np.zeros_like(share[:1])
            closed = (
                np.concatenate([e, e, x, e, e]) for e, x in zip(edge, (moved, share), strict=True)
            )
            found.append(self._chi_squares(*closed))
        for i, size in enumerate(self._sizes):
            values = np.concatenate([chi[i][chi[i] >= 0] for chi in found])
            if len(values) > 100:
                quiet = float(np.quantile(values, _QUIET)) / chi2.ppf(_QUIET, size)
                self.excess[i] = max(1.0, quiet)
        return [self.probabilities(chi)[0] < _SUSPECT for chi in found]

    def add(self, part: Cuboid, data: Singles, errors: Singles) -> None:
        """Test a slab (T, l, k, h)."""
        moved, share = self._departures(part, data, errors)
        if self._before is None or part.l.start != self._end:
            self._finish_slab()
            before = (
                np.concatenate([np.zeros_like(moved[:1])] * _HALO),
                np.concatenate([np.zeros_like(share[:1])] * _HALO),
            )
        else:
            before = self._before
        moved, share = np.concatenate([before[0], moved]), np.concatenate([before[1], share])
        self._end, self._part = part.l.stop, part
        self._test(moved, share, part.l.stop - _HALO)
        self._before = moved[-2 * _HALO :].copy(), share[-2 * _HALO :].copy()

    def _finish_slab(self) -> None:
        """Test the last planes, which have no planes after them."""
        if self._before is not None:
            moved, share = (
                np.concatenate([x, *[np.zeros_like(x[:1])] * _HALO]) for x in self._before
            )
            self._test(moved, share, self._end)
            self._before = None

    def _test(self, moved: Singles, share: Singles, end: int) -> None:
        """Test all planes but the halo; ``end`` is the number of the plane after the tested."""
        if len(moved) <= 2 * _HALO:
            return
        chi = self._chi_squares(moved, share)
        self._tested += int(np.count_nonzero(chi[0] >= 0))
        # A voxel whose p exceeds the rate is never claimed.
        kept = np.zeros(chi[0].shape, np.bool_)
        for values, excess, size in zip(chi, self.excess, self._sizes, strict=True):
            kept |= values > chi2.isf(self._rate / len(chi), size) * excess
        place = np.nonzero(kept)
        p, radius = self.probabilities([values[place] for values in chi])
        first = end - len(chi[0])
        at = (place[0] + first, place[1] + self._part.k.start, place[2] + self._part.h.start)
        self._found.append((np.ravel_multi_index(at, self.shape), p, radius))

    def claims(self) -> Claims:
        """Return the voxels that changed, at the stated share of false discoveries."""
        self._finish_slab()
        none = np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
        index, p, radius = map(np.concatenate, zip(none, *self._found, strict=True))
        order = np.argsort(p, kind="stable")
        allowed = self._rate * np.arange(1, len(p) + 1) / max(self._tested, 1)
        below = np.flatnonzero(p[order] <= allowed)
        number = int(below[-1]) + 1 if len(below) else 0
        limit = float(p[order[number - 1]]) if number else 0.0
        chosen = order[:number][np.argsort(index[order[:number]], kind="stable")]
        return Claims(self._tested, index[chosen], p[chosen], radius[chosen], limit)

    def reduced(
        self, s2: Floats, data: NDArray[np.floating], errors: NDArray[np.floating]
    ) -> tuple[Floats, Floats]:
        """Return S of n voxels without the common course, and its variance, (n, T) each.

        The variance of a temperature that was not measured is infinite.
        """
        rows = np.asarray(s2 * self._per_s2, dtype=np.uint16)
        divisor, common, level = (table[rows] for table in self._tables)
        known = np.isfinite(data) & (errors > 0)
        y = np.where(known, (data - common) / divisor, 0.0)
        mean = np.abs(y.sum(axis=1) / np.maximum(known.sum(axis=1), 1))
        weak, strong = self._errors
        extra = weak * mean + (strong - weak) * np.maximum(mean - level, 0.0)
        variance = np.where(known, (errors / divisor) ** 2 + extra[:, None] ** 2, np.inf)
        return y, variance
