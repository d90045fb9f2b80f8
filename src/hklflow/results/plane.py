"""Planes of a volume, of single voxels or with a thickness, with errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.results import units
from hklflow.results.arguments import positive, shown
from hklflow.results.estimate import Estimand, Estimate, estimate
from hklflow.results.regions import Slots
from hklflow.results.source import THREADS, Source
from hklflow.volumes import planes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PlaneValues:
    """S of the points of a plane.

    Attributes
    ----------
    plane : Plane
    u, v : (n,), (m,) arrays
        Values of both letters.
    values : Estimate
        Arrays (m, n).
    estimand : "ratio" or "mean"
    """

    plane: planes.Plane
    u: Floats
    v: Floats
    values: Estimate
    estimand: Estimand

    def coordinates(self, source: Source) -> dict[str, Any]:
        """Return the values of the letters, and of the axes that are no letters."""
        first, second = self.plane.letters
        unit = {"units": units.of_axes(source.direct)}
        coordinates: dict[str, Any] = {
            first: (first, self.u, {"long_name": first, **unit}),
            second: (second, self.v, {"long_name": second, **unit}),
        }
        for i, name in enumerate(source.names):
            if name not in self.plane.letters:
                about = units.axis(name, source)
                if self.plane.first[i] == 0 and self.plane.second[i] == 0:
                    coordinates[name] = ((), self.plane.origin[i], about)
                else:
                    values = self.plane.at(*np.meshgrid(self.u, self.v))[..., i]
                    coordinates[name] = ((second, first), values, about)
        return coordinates


def plane_of(
    source: Source,
    text: str,
    width: float,
    *,
    estimand: Estimand | None = None,
    unit: str = "r.l.u.",
    filled: bool = False,
) -> PlaneValues:
    """Return a plane of a volume; see `Volume.plane`."""
    if not isinstance(text, str):
        raise HklflowError(
            f"plane: {shown(text)} is not a text; write three expressions, such as "
            f"{' '.join(source.names[:2])} 0"
        )
    parsed = planes.parse(text, source.names)
    width = positive("width", width, or_zero=True)
    in_angstrom = units.is_length(unit, source.direct)
    u, v = planes.mesh(source.grid, parsed)
    if not (u.size and v.size):
        raise HklflowError(
            f"plane {parsed.text} is outside the volume {source.path} ({source.ranges}); "
            "choose a plane inside"
        )
    if width == 0:
        return PlaneValues(parsed, u, v, _points(source, parsed, u, v), "mean")
    estimand = estimand or source.usual_estimand
    region, u, v = _thick(source, parsed, width, in_angstrom)
    values = estimate(source, region, estimand, filled=filled)
    return PlaneValues(parsed, u, v, values, estimand)


def _points(source: Source, plane: planes.Plane, u: Floats, v: Floats) -> Estimate:
    """Return the values of the voxels that contain the points of a plane."""
    with source.open() as arrays:
        stored = {name: arrays.plane(name) for name in ("data", "errors", "punched")}
        known = {name: values for name, values in stored.items() if values is not None}
        # Long boxes along the axis that is most parallel to the plane have the most points of it.
        normal = np.abs(np.cross(plane.first, plane.second))
        mesh = source.grid, plane, u, v, arrays.shapes[int(np.argmin(np.round(normal, 9)))]
        found = planes.samples(list(known.values()), *mesh, threads=THREADS)
        images = dict(zip(known, found, strict=True))
    data, errors, punched = (images.get(name) for name in stored)
    assert data is not None
    if not np.isfinite(data).any():
        raise HklflowError(
            f"nothing was measured on plane {plane.text} of {source.path}; choose another plane, "
            "or give a width"
        )
    voxels = planes.voxels_of(source.grid, plane, u, v)[1].astype(np.int64)
    filled = None if punched is None else np.isin(punched, (1, 2)).astype(np.float64)
    measured = np.isfinite(data) if filled is None else np.isfinite(data) & (filled == 0)
    sigma = np.full(data.shape, np.nan) if errors is None else errors
    share = np.where(voxels > 0, measured, np.nan)
    as_doubles = np.asarray(data, np.float64), np.asarray(sigma, np.float64)
    return Estimate(*as_doubles, voxels, share, filled, None, 0.0)


def _thick(
    source: Source, plane: planes.Plane, width: float, in_angstrom: bool
) -> tuple[Slots, Floats, Floats]:
    """Return the bins of a plane with a thickness, and the values of both letters."""
    if in_angstrom:
        # The normal in the metric of the space, of length 1.
        normal = np.linalg.inv(source.metric) @ np.cross(plane.first, plane.second)
        normal = normal / np.sqrt(normal @ source.metric @ normal)
    else:
        normal = planes.slab_normal(plane, source.grid, width)
    matrix = np.linalg.inv(np.stack([normal, plane.second, plane.first], axis=1))
    u, v = planes.mesh(source.grid, plane)
    layers = np.abs(matrix[0] * source.grid.step)
    if width / 2 >= layers[layers > 1e-9].min():
        # Voxels of some layers are between the points of the plane, as h+t h-t of `h h l`.
        v, u = (_finer(x, row * source.grid.step) for x, row in ((v, matrix[1]), (u, matrix[2])))
    steps = [float(x[1] - x[0]) if len(x) > 1 else 1.0 for x in (v, u)]
    shape = (len(v), len(u))
    first, step = np.array([0.0, v[0], u[0]]), np.array([width, *steps])
    return Slots(matrix, plane.origin, first, step, (1, *shape), shape), u, v


def _finer(values: Floats, increments: Floats) -> Floats:
    """Return evenly spaced values with the step of voxel centres, if it divides their step."""
    if len(values) < 2:
        return values
    step = values[1] - values[0]
    for n in range(1, 13):
        parts = n * increments / step
        if np.all(np.abs(parts - np.rint(parts)) < 1e-6):
            finer: Floats = np.linspace(values[0], values[-1], n * (len(values) - 1) + 1)
            return np.round(finer, 10)
    return values
