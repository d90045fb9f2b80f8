"""Volumes on hkl or xyz: planes, lines, shells, boxes and coarser grids, with errors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.results import units
from hklflow.results.arguments import positive, real, shown
from hklflow.results.estimate import Estimand, Estimate, estimate
from hklflow.results.plane import plane_of
from hklflow.results.regions import Cylinder, Region, Shells, Slots
from hklflow.results.source import KINDS, Source

if TYPE_CHECKING:
    import xarray as xr

    from hklflow.geometry.grid import Grid

Floats = NDArray[np.float64]
Range = tuple[float, float] | None

_MOST_BINS = 50_000_000  # 4 GB of sums


class Volume:
    """A volume of S(Q), a difference, or a pair distribution function, in a file.

    Nothing is read before a method needs it; then only the blocks of the file that the region
    touches are read. All methods return an `xarray.Dataset` with ``S`` and its standard deviation
    ``sigma``, the number of ``voxels`` in each bin and their ``measured`` share, which
    ``.hklflow.plot()`` draws.

    Attributes
    ----------
    kind : str
        ``transform``, ``merged``, ``symmetrised``, ``filled``, ``difference``, ``delta``, ``total``
        (pair distribution functions), ``difference of PDFs``, or ``other``.
    cell : (6,) array
        Å and degrees.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.kind, self.cell = source.kind, source.cell

    @property
    def grid(self) -> "Grid":
        """Grid of the voxels."""
        return self._source.grid

    @property
    def axes(self) -> str:
        """Letters of the axes: hkl, or xyz for a pair distribution function."""
        return self._source.names

    @property
    def metric(self) -> Floats:
        """Metric tensor (3, 3) of the axes, 1/Å² or Å²."""
        return self._source.metric

    @property
    def notes(self) -> Mapping[str, Any]:
        """Notes of the stage that made the volume."""
        return self._source.notes

    def __repr__(self) -> str:
        source = self._source
        sizes = " x ".join(map(str, source.grid.shape))
        steps = ", ".join(f"{step:g}" for step in self.grid.step)
        return (
            f"<{source.title}: {KINDS.get(self.kind, self.kind)}, {sizes} voxels, "
            f"{source.ranges}, steps {steps}>"
        )

    def plane(
        self,
        plane: str,
        width: float = 0.0,
        *,
        estimand: Estimand | None = None,
        unit: str = "r.l.u.",
        filled: bool = False,
    ) -> "xr.Dataset":
        """Return a plane, such as ``hk0``, ``hhl``, ``h k 0.5`` or ``x y 0``.

        Parameters
        ----------
        plane : str
            Three linear expressions of two letters.
        width : float
            Thickness; 0: each point has the values of the voxel that contains it, also of filled
            voxels. The thickness in r.l.u. is along t: ``h k t``, or ``h+t h-t l``.
        estimand : "ratio" or "mean"
            See `hklflow.results.estimate`. Default: ``ratio`` if the volume has counts.
        unit : str
            Unit of ``width``: ``r.l.u.`` or ``1/angstrom`` (``unit cells`` or ``angstrom``).
        filled : bool
            True: with a width, filled voxels are part of the mean.

        Raises
        ------
        HklflowError
            If the text is not a plane, the plane is outside the volume, or nothing was measured.
        """
        found = plane_of(self._source, plane, width, estimand=estimand, unit=unit, filled=filled)
        about = {
            "plane": found.plane.text,
            "width": width,
            "width unit": units.canonical(unit, self._source.direct) if width else "",
        }
        dims = found.plane.letters[::-1]
        return self._dataset(
            found.values, dims, found.coordinates(self._source), found.estimand, about
        )

    def line(
        self,
        start: ArrayLike,
        end: ArrayLike,
        width: float,
        *,
        step: float | None = None,
        estimand: Estimand | None = None,
        unit: str = "1/angstrom",
        filled: bool = False,
    ) -> "xr.Dataset":
        """Return S along a line: bins of a cylinder, whose first and last middle are the ends.

        Parameters
        ----------
        start, end : (3,) array
            hkl (or xyz) of the ends.
        width : float
            Diameter of the cylinder.
        step : float
            Distance of bins. Default: one voxel along the axis that changes fastest.
        unit : str
            Unit of ``width`` and ``step``. With ``1/angstrom`` the cylinder is round; with
            ``r.l.u.`` lengths are √(Δh² + Δk² + Δl²).
        estimand, filled
            See `plane`.

        Raises
        ------
        HklflowError
            If the line is outside the volume, or nothing was measured.
        """
        source = self._source
        a, b, metric = self._ends(start, end, unit)
        width = positive("width", width)
        n = self.line_bins(start, end, step, unit)
        region = Cylinder(metric, a, b, width / 2, n + 1)
        _require_few(region)
        estimand = estimand or self._source.usual_estimand
        found = estimate(source, region, estimand, filled=filled)
        share = np.linspace(0, 1, region.n)
        true = self.length(start, end)
        long_name = f"distance from {_triple(a)}"
        attrs = {"long_name": long_name, "units": units.of_lengths(source.direct)}
        coordinates: dict[str, Any] = {"distance": ("distance", share * true, attrs)}
        for i, name in enumerate(source.names):
            values = np.round(a[i] + share * (b[i] - a[i]), 10) + 0.0
            coordinates[name] = ("distance", values, units.axis(name, source))
        about = {
            "start": a.tolist(),
            "end": b.tolist(),
            "width": width,
            "width unit": units.canonical(unit, source.direct),
        }
        return self._dataset(found, ("distance",), coordinates, estimand, about)

    def _ends(self, start: ArrayLike, end: ArrayLike, unit: str) -> tuple[Floats, Floats, Floats]:
        """Return both ends of a line, and the metric in which its lengths are measured."""
        source = self._source
        a, b = (_point(p, name, source) for p, name in ((start, "start"), (end, "end")))
        if np.array_equal(a, b):
            raise HklflowError(f"the line starts and ends at {_triple(a)}; give two points")
        return a, b, source.metric if units.is_length(unit, source.direct) else np.eye(3)

    def length(self, start: ArrayLike, end: ArrayLike, unit: str = "1/angstrom") -> float:
        """Return the distance of two points."""
        a, b, metric = self._ends(start, end, unit)
        return float(np.sqrt((b - a) @ metric @ (b - a)))

    def line_bins(self, start: ArrayLike, end: ArrayLike, step: float | None, unit: str) -> int:
        """Return the number of steps of a line; see `line`."""
        if step is None:
            a, b, _ = self._ends(start, end, unit)
            return max(int(np.rint(np.max(np.abs(b - a) / self.grid.step))), 1)
        length = self.length(start, end, unit)
        return max(int(np.rint(length / positive("step", step))), 1)

    @property
    def edge(self) -> float:
        """Longest edge of a voxel, 1/Å (Å)."""
        return float(np.max(self.grid.step * self._source.lengths))

    @property
    def q_max(self) -> float:
        """Largest |Q| (or distance) of a corner of the volume, 1/Å (Å)."""
        ends = [self.grid.axis(i)[[0, -1]] for i in range(3)]
        corners = np.stack(np.meshgrid(*ends), axis=-1).reshape(-1, 3)
        squares = ((corners @ self._source.metric) * corners).sum(axis=1)
        return float(np.sqrt(squares.max()))

    def radial(
        self,
        step: float | None = None,
        *,
        q_max: float | None = None,
        estimand: Estimand | None = None,
        filled: bool = False,
    ) -> "xr.Dataset":
        """Return S in shells of |Q| (or of the distance r).

        Parameters
        ----------
        step : float
            Thickness of the shells, 1/Å (Å). Default: the longest edge of a voxel.
        q_max : float
            Outer end of the last shell. Default: the corners of the volume.
        estimand, filled
            See `plane`.
        """
        source = self._source
        step = self.edge if step is None else positive("step", step)
        reach = self.q_max
        if q_max is not None:
            reach = min(reach, positive("q_max", q_max))
        region = Shells(source.metric, step, max(int(np.ceil(reach / step - 1e-9)), 1))
        _require_few(region)
        estimand = estimand or self._source.usual_estimand
        found = estimate(source, region, estimand, filled=filled)
        name = "r" if source.direct else "Q"
        attrs = {"long_name": name if source.direct else "|Q|"}
        attrs["units"] = units.of_lengths(source.direct)
        coordinates = {name: (name, (np.arange(region.n) + 0.5) * step, attrs)}
        return self._dataset(found, (name,), coordinates, estimand, {"step": step})

    def box(
        self,
        *,
        estimand: Estimand | None = None,
        unit: str = "r.l.u.",
        filled: bool = False,
        **ranges: Range,
    ) -> "xr.Dataset":
        """Return S of a box, such as ``box(h=(0.9, 1.1), k=(-0.1, 0.1), l=(0.4, 0.6))``.

        Voxels whose centre is in the box, or on its faces, are part of it.

        Parameters
        ----------
        **ranges
            Lowest and highest h, k, l (or x, y, z). Default: the whole axis.
        unit : str
            Unit of the ranges: ``r.l.u.``, or ``1/angstrom`` for h |a*|, k |b*|, l |c*|.
        estimand, filled
            See `plane`.
        """
        source = self._source
        low, high = _ranges(source, ranges, unit)
        middle, size = (low + high) / 2, np.maximum(high - low, 2e-6 * source.grid.step)
        region = Slots(np.eye(3), np.zeros(3), middle, size, (1, 1, 1), ())
        estimand = estimand or self._source.usual_estimand
        found = estimate(source, region, estimand, filled=filled)
        coordinates = {
            name: ((), middle[i], units.axis(name, source)) for i, name in enumerate(source.names)
        }
        ends = np.stack([low, high], axis=1).tolist()
        about = {f"range of {name}": ends[i] for i, name in enumerate(source.names)}
        return self._dataset(found, (), coordinates, estimand, about)

    def rebin(
        self,
        step: float | Sequence[float],
        *,
        estimand: Estimand | None = None,
        unit: str = "r.l.u.",
        filled: bool = False,
        **ranges: Range,
    ) -> "xr.Dataset":
        """Return the volume, or a part of it, on a coarser grid.

        Parameters
        ----------
        step : float or three floats
            New steps along h, k, l (or x, y, z), whole multiples of the steps of the volume. An odd
            multiple keeps 0 in the middle of a voxel.
        unit : str
            Unit of steps and ranges, see `box`. In 1/Å, the nearest whole multiple is used.
        estimand, filled
            See `plane`.
        **ranges
            See `box`.
        """
        source = self._source
        multiples = _multiples(source, step, unit)
        low, high = _ranges(source, ranges, unit)
        grid = source.grid
        # Voxel 0 in the middle of a bin, or at its start if the number is even.
        zero = np.rint(-grid.first / grid.step)
        start = zero - (multiples - 1) // 2
        first, last = (
            np.clip(np.rint((end - grid.first) / grid.step), 0, np.array(grid.shape) - 1)
            for end in (low, high)
        )
        begin, stop = (np.floor((end - start) / multiples) for end in (first, last))
        sizes = (stop - begin + 1).astype(int)
        middle = grid.first + grid.step * (start + begin * multiples + (multiples - 1) / 2)
        new = multiples * grid.step
        n_h, n_k, n_l = (int(n) for n in sizes)
        # The last coordinate of the bins changes fastest, and arrays are (l, k, h).
        turned = np.eye(3)[::-1]
        region = Slots(
            turned, np.zeros(3), middle[::-1], new[::-1], (n_l, n_k, n_h), (n_l, n_k, n_h)
        )
        _require_few(region)
        estimand = estimand or self._source.usual_estimand
        found = estimate(source, region, estimand, filled=filled)
        coordinates = {
            name: (
                name,
                np.round(middle[i] + new[i] * np.arange(sizes[i]), 10) + 0.0,
                units.axis(name, source),
            )
            for i, name in enumerate(source.names)
        }
        dims = tuple(source.names[::-1])
        return self._dataset(found, dims, coordinates, estimand, {"steps": new.tolist()})

    def covariance(self, vectors: ArrayLike) -> Floats:
        """Return the covariance (n, n) of a pair distribution between lattice vectors (n, 3).

        It has what the holes of the reflections lost, which neighbouring vectors share.

        Raises
        ------
        HklflowError
            If the file has no covariance, or not that of all vectors.
        """
        from hklflow.results.vectors import covariance_of

        return covariance_of(self._source, vectors)

    def weighted_sum(self, vectors: ArrayLike, weights: ArrayLike) -> tuple[float, float]:
        """Return Σ weight × pair distribution over lattice vectors (n, 3), and its σ.

        For example, ``weighted_sum([(1, 0, 0), (2, 0, 0)], [1, -1])`` is a difference. σ contains
        the covariance of the vectors. Equivalent vectors are one measurement.

        Raises
        ------
        HklflowError
            See `covariance`.
        """
        from hklflow.results.vectors import weighted_sum

        return weighted_sum(self._source, vectors, weights)

    def _dataset(
        self,
        found: Estimate,
        dims: tuple[str, ...],
        coordinates: Mapping[str, Any],
        estimand: Estimand,
        about: Mapping[str, Any],
    ) -> "xr.Dataset":
        from hklflow.results.dataset import dataset

        return dataset(self._source, found, dims, coordinates, estimand, about)


def _ranges(source: Source, ranges: Mapping[str, Range], unit: str) -> tuple[Floats, Floats]:
    """Return lowest and highest coordinates (3,)."""
    unknown = sorted(ranges.keys() - set(source.names))
    if unknown:
        raise HklflowError(
            f"{unknown[0]!r} is no axis of {source.path}; give ranges of {', '.join(source.names)}"
        )
    scale = source.lengths if units.is_length(unit, source.direct) else np.ones(3)
    ends = np.array([source.grid.axis(i)[[0, -1]] for i in range(3)])
    for i, name in enumerate(source.names):
        given = ranges.get(name)
        if given is None:
            continue
        values = real(given, (2,))
        if values is None or values[0] > values[1]:
            raise HklflowError(
                f"range of {name}: {shown(given)} is not (lowest, highest); give two numbers, such "
                f"as {name}=(-0.1, 0.1)"
            )
        ends[i] = values / scale[i]
    low, high = ends.T
    return low, high


def _multiples(source: Source, step: float | Sequence[float], unit: str) -> Floats:
    in_angstrom = units.is_length(unit, source.direct)
    scale = source.lengths if in_angstrom else np.ones(3)
    steps = real(step, (), (3,))
    if steps is None or np.any(steps <= 0):
        raise HklflowError(f"step: {shown(step)} is not a positive number, or three; correct it")
    ratio = steps / (source.grid.step * scale)
    multiples = np.maximum(np.rint(ratio), 1.0)
    if not in_angstrom and np.any(np.abs(ratio - multiples) > 1e-3):  # 0.1333 is twice 1/15
        own = ", ".join(f"{s:g}" for s in source.grid.step)
        raise HklflowError(
            f"step: {step} is no whole multiple of the steps of the volume ({own}); give "
            "multiples, such as 2 * volume.grid.step"
        )
    return np.asarray(multiples)


def _point(given: ArrayLike, name: str, source: Source) -> Floats:
    point = real(given, (3,))
    if point is None:
        raise HklflowError(
            f"{name}: {shown(given)} is not three numbers {', '.join(source.names)}; give three, "
            "such as (1, 0, 0.5)"
        )
    return point


def _triple(point: Floats) -> str:
    return f"({', '.join(f'{x:g}' for x in point)})"


def _require_few(region: Region) -> None:
    bins = int(np.prod(region.shape))
    if bins > _MOST_BINS:
        raise HklflowError(
            f"the result would have {bins:.3g} bins, more than {_MOST_BINS:.3g}; use a larger step"
        )
