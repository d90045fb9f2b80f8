r"""Search for diffuse features in the average over zones: sheets, then rods, then points.

1. What falls from the reflections, :math:`\\sum_G 1/|q-G|^2` and :math:`1/|q-G|^4` (thermal diffuse
   scattering), is fitted to the cell without its strongest bins, and subtracted.
2. Medians along each direction of small integers are maps in which a sheet or rod is a maximum; its
   contrast is what rises above the surroundings, at several widths. The errors are the standard
   deviations of noise that goes through the same steps, and a contrast counts that exceeds 5 of
   them and the largest one of the noise.
3. It is a sheet or rod if it has this contrast in (nearly) all pieces along its flat directions,
   also far from the reflections, and without any one group of zones.
4. Line and position are fitted; the feature with all its images is subtracted, and the search goes
   on. Where features cross, their sum is no further feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.series.feature_copies import Shape
from hklflow.series.feature_lines import (
    Line,
    angles_of,
    fitted_line,
    images_of,
    mean_of,
    profile,
    thermal,
    wrapped,
)
from hklflow.series.feature_maps import (
    SCALES,
    Projection,
    contrasts,
    is_maximum,
    projections,
    smooth,
)
from hklflow.series.zone_average import ZoneAverage

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_DRAWS = 32  # draws of noise
_LEAST = 5.0  # smallest contrast, in standard deviations
_WITHOUT = 3.5  # the same without any one group of zones
_RELATIVE = 0.01  # smallest contrast, in the mean of S
_EVEN = 0.4  # smallest ratio of the pieces of a rod or sheet to its strong pieces
_WEAK = 0.15  # largest share of pieces below it
_CROSSING = 0.5  # smallest contrast on other features, in their sum
_WIDEST = 0.3  # largest half width, periods
_FAR = 0.65  # smallest ratio of its pieces far from and near reflections, if it passes through them
_REAL = 0.4  # smallest contrast before others are subtracted, in that after it
_SHOWN = 0.6  # smallest share of the groups of zones that show it
_UNKNOWN = 0.35  # largest error of a place, bins
_FAINT = 0.03  # smallest contrast that is listed, in the largest
_FOOT = 0.15  # distance from reflections that is not searched, in the shortest period
_LARGEST = 2  # largest integer of a direction
_DIRECTIONS = 12
_MOST = 12  # features that are listed
_TRIED = 40  # maxima of one kind that are tried
_WEAKER = 0.12  # smallest contrast, in that of the strongest feature: lines are not exactly known
_SIGMA = 0.1  # error of a position besides noise, bins: lines are hardly wider than a bin


@dataclass(frozen=True)
class Discovery:
    """A diffuse feature that was found.

    Attributes
    ----------
    shape : str
        "point", "rod" or "sheet".
    point : (3,) array
        A point of the feature, hkl.
    direction : (3,) array or None
        Direction of a rod, normal [uvw] of a sheet; integers.
    columns : (3, m) array
        Covectors c of the coordinates c · hkl on which it depends.
    place, place_sigma : (m,) arrays
        These coordinates, and their standard deviations; 0 where symmetry fixes them.
    width : (m,) array
        Half width at half maximum in these coordinates, with resolution and voxel.
    contrast, contrast_sigma : float
        Mean over zones of S above the surroundings, at the maximum.
    significance : float
        Contrast in standard deviations of noise, at the width where it is largest.
    images : int
        Number of equivalent features in a cell of the reciprocal lattice.
    zones, zones_seen : int
        Groups of zones in which it was measured, and in which it exceeds 3 standard deviations.
    """

    shape: Shape
    point: Floats
    direction: Integers | None
    columns: Integers
    place: Floats
    place_sigma: Floats
    width: Floats
    contrast: float
    contrast_sigma: float
    significance: float
    images: int
    zones: int
    zones_seen: int


def search(average: ZoneAverage, seed: int = 0) -> list[Discovery]:
    """Return the features in the average over zones, the most significant first."""
    work = _Search(average, np.random.default_rng(seed))
    for kind in ("sheet", "rod", "point"):
        work.run(kind)
    largest = max((x.contrast for x in work.found), default=0.0)
    listed = [x for x in work.found if x.contrast > _FAINT * largest]
    return sorted(listed, key=lambda x: -x.significance)


class _Search:
    def __init__(self, average: ZoneAverage, rng: np.random.Generator) -> None:
        cell = average.cell
        self.average, self.cell = average, cell
        self.shortest = float(np.sqrt(np.diag(cell.lattice.metric)).min())
        self.far = cell.distance > _FOOT * self.shortest
        self.known = np.isfinite(average.mean) & self.far
        self.thermal = falls = thermal(average, self.known)
        self.rest = np.where(self.known, average.mean - falls, np.nan)
        self.raw = self.rest.copy()
        self.without = np.where(self.known, average.without - falls, np.nan)
        sigma = np.sqrt(average.variance)
        self.noise = [
            np.where(self.known, sigma * rng.normal(size=sigma.shape)[cell.orbit], np.nan)
            for _ in range(_DRAWS)
        ]
        self.model = np.zeros(len(cell.points))
        self.found: list[Discovery] = []

    def run(self, kind: str) -> None:
        """Find the features of one kind, and subtract them."""
        maps = projections(self.cell, kind, _LARGEST, _DIRECTIONS)
        spreads, highest = self._null(maps)
        refused: set[tuple[int, int, float]] = set()
        tried: list[int] = []
        while len(self.found) < _MOST:
            candidates = []
            for number, (projection, spread) in enumerate(zip(maps, spreads, strict=True)):
                values = projection.map(self.rest)
                rises = contrasts(values)
                for scale, rise, sigma in zip(SCALES, rises, spread, strict=False):
                    pull = np.nan_to_num(rise / sigma)
                    top = is_maximum(np.nan_to_num(rise, nan=-np.inf)) & (pull > highest)
                    top &= np.nan_to_num(rise) > _RELATIVE * self.average.level
                    top &= is_maximum(smooth(values, scale / 2))
                    candidates += [
                        (float(pull.ravel()[i]), number, int(i), scale)
                        for i in np.flatnonzero(top)
                        if (number, int(i), scale) not in refused
                    ]
            for significance, number, i, scale in sorted(candidates, key=lambda x: (x[3], -x[0])):
                if (number, i, scale) in refused:
                    continue
                if len(tried) > _TRIED:
                    return
                tried.append(i)
                one = self._checked(maps[number], i, significance, scale)
                refused.update((number, j, scale) for j in self._equivalent(maps[number], i))
                if one is not None:
                    break
            else:
                return
            self.found.append(one)

    def _equivalent(self, projection: Projection, i: int) -> list[int]:
        """Return the bins of a map that are equivalent to bin i."""
        shape = np.array(projection.shape)
        place = np.array(np.unravel_index(i, projection.shape)) * self.cell.period / shape
        images = images_of(projection, self.cell, place)
        images = images[np.isfinite(images).all(axis=1)]
        bins = np.rint(images * shape / self.cell.period).astype(np.int64) % shape
        return [int(x) for x in np.ravel_multi_index(tuple(bins.T), projection.shape)]

    def _null(self, maps: Sequence[Projection]) -> tuple[list[list[Floats]], float]:
        """Return the spreads of the contrasts by noise, and the threshold."""
        spreads, highest = [], _LEAST
        for projection in maps:
            draws = [contrasts(projection.map(noise)) for noise in self.noise]
            spread = []
            for rises in zip(*draws, strict=True):
                every = np.array(rises)
                sigma = np.sqrt(np.mean(every**2, axis=0))
                # The spread of few draws is uncertain: at least the usual one.
                sigma = np.maximum(sigma, 0.7 * np.nanmedian(sigma))
                spread.append(sigma)
                highest = max(highest, float(np.nanmax(every / sigma)))
            spreads.append(spread)
        return spreads, highest

    def _checked(
        self, projection: Projection, i: int, pull: float, scale: float
    ) -> Discovery | None:
        """Return the feature at a maximum of a map, and subtract it; None if it is none."""
        values = projection.map(self.rest)
        line = fitted_line(values, projection, self.cell, i, scale)
        # What is as wide as the cell along a direction is no maximum in it.
        if line is None or np.any(line.width > _WIDEST * self.cell.period):
            return None
        line = replace(line, place=self._snapped(projection, line.place))
        strongest = max((x.contrast for x in self.found), default=0.0)
        if line.height < _WEAKER * strongest or self._is_foot(projection, line.place):
            return None
        shape = self._line(projection, line)
        core, around = shape >= min(0.5, shape.max()), (shape < 0.25) & (shape > 0.02)
        if projection.direction is not None and not self._even(projection, line):
            return None
        # At least the nearest bins, and those that are farthest.
        core |= shape >= 0.99 * np.max(shape)
        around |= shape <= 1.01 * np.min(shape)
        if not (np.any(core & self.known) and np.any(around & self.known)):
            return None
        if line.height < _CROSSING * np.quantile(self.model[core & self.known], 0.9):
            return None
        raw, sigma = self._rise(self.raw, core, around)
        rise, _ = self._rise(self.rest, core, around)
        if raw < max(_WITHOUT * sigma, _REAL * rise):
            return None
        without = [self._rise(x, core, around)[0] for x in self.without]
        if len(without) > 2 and min(without) < _WITHOUT * sigma:
            return None
        kept, point_group = self._kept(projection, line.place)
        star = line.height / kept * np.sum([shape[x] for x in self.cell.images], axis=0)
        zones, seen = self._zones(core, around)
        errors = self._errors(projection, i, scale, line)
        bins = np.array([self.cell.period / n for n in projection.shape])
        if seen < _SHOWN * zones or np.any(errors > _UNKNOWN * bins):
            return None
        place = line.place
        self.model += star
        self.rest -= star
        self.without -= star
        return Discovery(
            shape=projection.kind,  # type: ignore[arg-type]
            point=self._point(projection, place),
            direction=projection.direction,
            columns=projection.columns,
            place=place,
            place_sigma=errors,
            width=line.width,
            contrast=line.height,
            contrast_sigma=line.height / pull,
            significance=pull,
            images=len(np.unique(self.cell.operations, axis=0)) // point_group,
            zones=zones,
            zones_seen=seen,
        )

    def _is_foot(self, projection: Projection, place: Floats) -> bool:
        """Return True if a place is close to reflections, but does not pass through them."""
        off = wrapped(place - self.cell.translations @ projection.columns, self.cell.period)
        inverse = np.linalg.inv(self.cell.lattice.metric)
        metric = np.linalg.inv(projection.columns.T @ inverse @ projection.columns)
        distance = np.sqrt(np.einsum("ni,ij,nj->n", off, metric, off).min())
        through = distance < 1e-3 * self.shortest and projection.direction is not None
        return bool(distance < _FOOT * self.shortest and not through)

    def _rise(
        self, values: Floats, core: NDArray[np.bool_], around: NDArray[np.bool_]
    ) -> tuple[float, float]:
        """Return the mean in the core above that around it, and its error by noise."""

        def rise(x: Floats) -> float:
            return mean_of(x[core]) - mean_of(x[around])

        return rise(values), float(np.std([rise(x) for x in self.noise]))

    def _zones(self, core: NDArray[np.bool_], around: NDArray[np.bool_]) -> tuple[int, int]:
        """Return the number of groups of zones, and of those that show the feature."""
        measured = seen = 0
        for values, variance in zip(self.average.groups, self.average.group_variance, strict=True):
            inner, outer = (x & self.known & np.isfinite(values) for x in (core, around))
            if not (inner.any() and outer.any()):
                continue
            measured += 1
            # Equivalent bins hold the same information.
            n = len(np.unique(self.cell.orbit[inner]))
            error = np.sqrt(np.mean(variance[inner]) / n)
            seen += int(np.mean(values[inner]) - np.mean(values[outer]) > 3 * error)
        return measured, seen

    def _even(self, projection: Projection, line: Line) -> bool:
        """Return True if nearly all pieces of a rod or sheet are about as strong.

        What passes through reflections must be as strong far from them as near them, also before
        thermal diffuse scattering is subtracted.
        """
        shape = self._line(projection, line)
        piece = np.empty(len(shape), np.int64)
        member = projection.members >= 0
        piece[projection.members[member]] = projection.pieces[member]
        core, around = shape >= min(0.5, shape.max()), (shape < 0.25) & (shape > 0.02)
        if not around.any():
            around = shape < np.quantile(shape, 0.2)
        places = []
        for number in range(int(piece.max()) + 1):
            own = piece == number
            inner, outer = own & core & self.known, own & around & self.known
            # A piece of which little is known counts for nothing.
            if inner.sum() >= max(0.5 * np.sum(own & core), 1) and outer.any():
                places.append((inner, outer))
        if len(places) < 3:
            return False

        def rises(x: Floats) -> Floats:
            # Medians: what crosses a piece is no part of it.
            return np.array([np.median(x[a]) - np.median(x[b]) for a, b in places])

        error = np.std([rises(x) for x in self.noise], axis=0)
        through = bool(np.min(self.cell.distance[core]) < _FOOT * self.shortest)
        length = np.array([np.mean(self.cell.distance[a]) for a, _ in places])
        near, far = length <= np.quantile(length, 0.35), length >= np.quantile(length, 0.65)
        for values in (self.rest, self.rest + self.thermal) if through else (self.rest,):
            size = rises(values)
            strong = float(np.quantile(size, 0.8))
            least = (_FAR if through else _EVEN) * strong
            if strong <= 0 or np.mean(size + 2 * error < least) > _WEAK:
                return False
            if through and np.mean(size[far]) < _FAR * np.mean(size[near]):
                return False
        return True

    def _snapped(self, projection: Projection, place: Floats) -> Floats:
        """Return a place on the symmetry elements from which it departs by less than a bin."""
        images = images_of(projection, self.cell, place)
        width = np.array([self.cell.period / n for n in projection.shape])
        near = images[np.all(np.abs(np.nan_to_num(images, nan=9.0) - place) < 0.9 * width, axis=1)]
        return np.asarray(np.mean(near, axis=0))

    def _line(self, projection: Projection, line: Line) -> Floats:
        """Return the line, 1 at its maximum, in the bins of the cell."""
        off = wrapped(self.cell.points @ projection.columns - line.place, self.cell.period)
        return profile(off, line.width, angles_of(projection, self.cell), line.lorentzian)

    def _kept(self, projection: Projection, place: Floats) -> tuple[int, int]:
        """Return the numbers of operations, with translations and without, that keep a feature."""
        images = images_of(projection, self.cell, place)
        kept = np.all(np.abs(np.nan_to_num(images, nan=9.0) - place) < 1e-3, axis=1)
        return int(kept.sum()), len(np.unique(self.cell.operations[kept], axis=0))

    def _errors(self, projection: Projection, i: int, scale: float, line: Line) -> Floats:
        """Return the errors of the place: from noise, and from the scatter between zones."""
        m = len(line.place)
        tries = [self.rest + noise for noise in self.noise[:12]]
        n = len(self.without)
        places: list[list[Floats]] = [[], []]
        for number, values in enumerate([*tries, *self.without]):
            one = fitted_line(projection.map(values), projection, self.cell, i, scale)
            if one is not None:
                off = wrapped(one.place - line.place, self.cell.period)
                places[number >= len(tries)].append(off)
        noise = np.std(places[0], axis=0) if len(places[0]) > 2 else np.zeros(m)
        zones = np.std(places[1], axis=0) * np.sqrt(n - 1) if len(places[1]) > 2 else np.zeros(m)
        width = np.array([self.cell.period / size for size in projection.shape])
        sigma = np.hypot(np.maximum(noise, zones), _SIGMA * width)
        # Where symmetry fixes the place, it has no error.
        images = images_of(
            projection, self.cell, line.place + 1e-4 * np.sqrt(np.arange(2.0, m + 2))
        )
        near = images[np.all(np.abs(np.nan_to_num(images, nan=9.0) - line.place) < 1e-2, axis=1)]
        moved = np.abs(np.mean(near, axis=0) - line.place) > 1e-6
        return np.asarray(np.where(moved, sigma, 0.0))

    def _point(self, projection: Projection, place: Floats) -> Floats:
        """Return the simplest point of a feature: as many coordinates 0 as possible."""
        point = np.linalg.pinv(projection.columns.T.astype(np.float64)) @ place
        if projection.direction is None:
            return self.cell.lattice.simplest(self.cell.lattice.folded(point[None])[0])
        for axes in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
            part = projection.columns.T[:, axes]
            if len(axes) == len(place) and abs(np.linalg.det(part)) > 0.5:
                point = np.zeros(3)
                point[axes] = np.linalg.solve(part, place)
                break
        return np.asarray(np.round(point, 6) + 0.0)
