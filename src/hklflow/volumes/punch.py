"""Positions and radii of Bragg reflections and satellites, and the voxels to punch.

The components ``x_i = Δh_i a_i*`` (1/Å) of a point along the reciprocal axes are inside the
ellipsoid with radii r_i if ``Σ (x_i / r_i) cos(a_i*, a_j*) (x_j / r_j) <= 1``. This is a sphere
that is stretched along the axes, which may be oblique. The surface cuts axis i at the distance r_i;
equal radii give a sphere. A voxel is punched if its centre is inside.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import SpaceGroup
from hklflow.volumes import punch_kernels

Floats = NDArray[np.float64]

#: Largest and smallest number of reflections in the measured profile.
_STRONGEST, _FEWEST = 100, 3
# Smallest number of bins of the profile: the middle, two on the slope, two outside.
_FEWEST_BINS = 5
# Below this fraction of the middle, a Gaussian peak decreases faster than r⁻⁷. Thermal diffuse
# scattering decreases as r⁻², or a little faster after subtraction of the level around it.
_FOOT, _STEEP = 0.02, 5.0
# Tolerated remainder of a strong reflection in a voxel, in σ.
_HARMLESS = 0.3
_GIVE = "give the radius in 1/Å, such as `fill: {radius: 0.2}`"


class WideError(HklflowError):
    """The strongest reflections do not end within the distances where they can be measured.

    Attributes
    ----------
    radius : float
        Radius that the profile reaches at least, 1/Å.
    """

    def __init__(self, message: str, radius: float) -> None:
        super().__init__(message)
        self.radius = radius


@dataclass(frozen=True)
class Ellipsoid:
    """Shape that is punched around a position.

    Attributes
    ----------
    form : (3, 3) array
        ``dᵀ form d <= 1`` inside, d in voxels along h, k, l.
    reach : (3,) array
        Half-widths of the box around the ellipsoid, in voxels.
    """

    form: Floats
    reach: Floats

    @classmethod
    def of(cls, grid: Grid, cell: ArrayLike, radii: ArrayLike) -> "Ellipsoid":
        """Return a sphere (one radius) or an ellipsoid (radii along a*, b*, c*); radii in 1/Å."""
        lengths = np.broadcast_to(np.asarray(radii, dtype=np.float64), (3,))
        b = lattice.b_matrix(cell)
        axes = np.linalg.norm(b, axis=0)
        cosines = (b.T @ b) / np.outer(axes, axes)
        scale = axes * grid.step / lengths
        form: Floats = cosines * np.outer(scale, scale)
        return cls(form, np.sqrt(np.diag(np.linalg.inv(form))) + 1e-6)


def bragg_positions(
    grid: Grid, cell: ArrayLike, group: SpaceGroup, radii: ArrayLike, absences: bool
) -> Floats:
    """Return the positions hkl (n, 3) whose ellipsoids reach into the grid, including 000.

    Parameters
    ----------
    group : SpaceGroup
        Space group; only reflections that its centring allows are returned.
    radii : float or (3,)
        Radius, or radii along a*, b*, c*, 1/Å.
    absences : bool
        True: also leave out reflections that glide planes and screw axes forbid. Multiple
        scattering and disorder often give such reflections intensity.
    """
    return _within(grid, cell, radii, _lattice(grid, cell, group, radii, absences, 0.0))


def satellite_positions(
    grid: Grid,
    cell: ArrayLike,
    group: SpaceGroup,
    radii: ArrayLike,
    vectors: ArrayLike,
    order: int,
    operations: ArrayLike,
) -> Floats:
    """Return the satellites G ± m W q (n, 3) of all allowed G that reach into the grid.

    Parameters
    ----------
    vectors : (m, 3) array
        Propagation vectors q in r.l.u., commensurate or not.
    order : int
        Largest m.
    operations : (n, 3, 3) array
        Operations W of the Laue group.
    """
    q = np.asarray(vectors, dtype=np.float64).reshape(-1, 3)
    star = np.einsum("wij,qj->wqi", np.asarray(operations, dtype=np.float64), q).reshape(-1, 3)
    star = np.concatenate([star, -star])
    star = np.unique(np.round(np.concatenate([m * star for m in range(1, order + 1)]), 9), axis=0)
    # Absences are kept, because satellites of extinct reflections are not extinct.
    main = _lattice(grid, cell, group, radii, False, np.abs(star).max(axis=0))
    satellites = (main[:, None] + star[None]).reshape(-1, 3)
    return _within(grid, cell, radii, np.unique(np.round(satellites, 9) + 0.0, axis=0))


def _margins(grid: Grid, cell: ArrayLike, radii: ArrayLike) -> Floats:
    return Ellipsoid.of(grid, cell, radii).reach * grid.step


def _lattice(
    grid: Grid,
    cell: ArrayLike,
    group: SpaceGroup,
    radii: ArrayLike,
    absences: bool,
    more: ArrayLike,
) -> Floats:
    margin = _margins(grid, cell, radii) + np.broadcast_to(np.asarray(more), (3,))
    last = grid.first + grid.step * (np.array(grid.shape) - 1)
    low = np.ceil(grid.first - margin - 1e-9).astype(int)
    high = np.floor(last + margin + 1e-9).astype(int)
    ranges = (np.arange(a, b + 1) for a, b in zip(low, high, strict=True))
    hkl = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    primitive = hkl @ group.to_primitive.T
    allowed = np.all(np.abs(primitive - np.rint(primitive)) < 1e-6, axis=1)
    hkl = hkl[allowed]
    if absences:
        # 000 is the direct beam, not a reflection of the crystal.
        hkl = hkl[~group.is_absent(hkl) | ~hkl.any(axis=1)]
    return hkl.astype(np.float64)


def shortest(cell: ArrayLike, group: SpaceGroup) -> float:
    """Return the shortest distance between positions that the centring allows, 1/Å."""
    near = Grid.symmetric([3.0] * 3, [1.0] * 3)
    hkl = _lattice(near, cell, group, 1e-6, False, 0.0)
    q = np.linalg.norm(hkl @ lattice.b_matrix(cell).T, axis=1)
    return float(q[q > 0].min())


def _within(grid: Grid, cell: ArrayLike, radii: ArrayLike, hkl: Floats) -> Floats:
    margin = _margins(grid, cell, radii)
    last = grid.first + grid.step * (np.array(grid.shape) - 1)
    inside = np.all((hkl >= grid.first - margin) & (hkl <= last + margin), axis=1)
    return hkl[inside]


def punch(
    mask: NDArray[np.uint8], grid: Grid, cell: ArrayLike, hkl: Floats, radii: ArrayLike
) -> None:
    """Set the voxels of a mask (l, k, h) around positions (n, 3) to 1.

    Parameters
    ----------
    radii : float or (3,) array
        Radius, or radii along a*, b*, c*, 1/Å.
    """
    shape = Ellipsoid.of(grid, cell, radii)
    # Positions are rounded, so that equivalent positions have equivalent voxels.
    centres = np.round((hkl - grid.first) / grid.step, 6)
    punch_kernels.mark(mask, centres, shape.form, shape.reach)


@dataclass(frozen=True)
class Profile:
    """Stacked radial profile of the strongest reflections.

    Attributes
    ----------
    radius : float
        Radius of the reflections, 1/Å.
    r : (n,) array
        Upper ends of the bins, 1/Å.
    value : (n,) array
        Median over the reflections of S above the level around a reflection, relative to the value
        in its middle.
    error : (n,) array
        Standard error of ``value``.
    reflections : int
        Number of stacked reflections.
    """

    radius: float
    r: Floats
    value: Floats
    error: Floats
    reflections: int


def measured_radius(
    data: NDArray[np.float32], errors: NDArray[np.float32], grid: Grid, cell: ArrayLike, hkl: Floats
) -> Profile:
    """Measure the radius of the Bragg reflections from their radial profile.

    The profiles of the strongest reflections (up to 100) are taken above the level at 0.35 to 0.45
    of the shortest distance between positions, and divided by the value in their middle. Their
    median is the stacked profile. The radius is the distance at which the stacked profile falls
    below the noise (the larger of 2 standard errors of the profile and 0.3 σ of a voxel).

    If the profile, below 2 % of its middle, decreases more slowly than r⁻⁵ over two bins, it is
    diffuse scattering, which must not be punched. A Gaussian through the last bins is then
    extrapolated to the noise. Bins are as wide as the largest voxel edge.

    Raises
    ------
    HklflowError
        If fewer than three reflections are strong enough.
    WideError
        If the reflections do not end within 0.35 of the shortest distance between positions.
    """
    metric = lattice.b_matrix(cell)
    edge = float(np.linalg.norm(metric * grid.step, axis=0).max())
    limit = 0.45 * _shortest(hkl @ metric.T)
    bins = int(limit / edge)
    if bins < _FEWEST_BINS:
        raise HklflowError(
            f"radius: voxels of {edge:.3g} 1/Å are too coarse to measure the width of reflections "
            f"with only {limit:.3g} 1/Å around each; {_GIVE}"
        )
    limit = bins * edge
    shape = Ellipsoid.of(grid, cell, limit)
    centres = (hkl - grid.first) / grid.step
    # Only reflections with a complete neighbourhood, without the direct beam.
    complete = np.all(centres >= shape.reach, axis=1) & np.any(hkl != 0, axis=1)
    complete &= np.all(centres <= np.array(grid.shape) - 1 - shape.reach, axis=1)
    sums, squares, counts = (np.zeros((int(complete.sum()), bins)) for _ in range(3))
    for i, centre in enumerate(centres[complete]):
        punch_kernels.profile(
            data, errors, centre, shape.form, shape.reach, bins, sums[i], squares[i], counts[i]
        )
    measured = np.all(counts > 0, axis=1)
    sums, squares, counts = sums[measured], squares[measured], counts[measured]
    means, variances = sums / np.maximum(counts, 1), squares / np.maximum(counts, 1) ** 2
    outer = max(bins // 4, 1)
    ground = sums[:, -outer:].sum(axis=1) / np.maximum(counts[:, -outer:].sum(axis=1), 1)
    height = means[:, 0] - ground
    strong = np.argsort(-height)[:_STRONGEST]
    strong = strong[height[strong] > 10 * np.sqrt(variances[strong, 0])]
    if len(strong) < _FEWEST:
        raise HklflowError(
            f"radius: too few strong reflections ({len(strong)}, {_FEWEST} are needed) to measure "
            f"it; {len(sums)} of {len(hkl)} positions have a measured neighbourhood; {_GIVE}"
        )
    # The tails of reflections that are far weaker than the strongest are only noise.
    strong = strong[height[strong] > 0.05 * height[strong[0]]]
    relative = (means[strong] - ground[strong, None]) / height[strong, None]
    value = np.median(relative, axis=0)
    noise = np.median(np.sqrt(variances[strong]) / height[strong, None], axis=0)
    voxel = np.sqrt(squares / np.maximum(counts, 1))[strong] / height[strong, None]
    error = 1.25 * noise / np.sqrt(len(strong))
    floor = np.maximum(2 * error, _HARMLESS * np.median(voxel, axis=0))
    r: Floats = edge * np.arange(1, bins + 1, dtype=np.float64)
    return Profile(_end(r, value, floor, bins - outer), r, value, error, len(strong))


def _end(r: Floats, value: Floats, floor: Floats, last: int) -> float:
    middle = r - r[0] / 2
    for i in range(1, last):
        if value[i] < floor[i]:
            # A Gaussian through this bin and the bin before crosses the floor between them.
            high, low = np.log(value[i - 1] / floor[i]), np.log(max(value[i] / floor[i], 1e-2))
            squares = middle[i - 1 : i + 1] ** 2
            return float(np.sqrt(squares[0] + (squares[1] - squares[0]) * high / (high - low)))
        # Bins of the subtracted level are not used, because their mean is 0 by construction.
        start, ahead = (i, min(i + 2, last - 1)) if i < last - 1 else (i - 1, i)
        fall = np.log(value[start] / max(abs(value[ahead]), 1e-12))
        steep = fall / np.log(middle[ahead] / middle[start])
        if value[i] < _FOOT and steep < _STEEP:
            # Extrapolate a Gaussian through the steeper pair of the last bins to the floor.
            pairs = [(j - 1, j) for j in (i - 1, i) if j > 0 and value[j] > 0]
            falls = [
                (np.log(value[a] / value[b]) / (middle[b] ** 2 - middle[a] ** 2), a)
                for a, b in pairs
            ]
            fall, start = max(falls)
            square = middle[start] ** 2 + np.log(value[start] / floor[i]) / fall
            return float(np.sqrt(min(square, middle[last] ** 2)))
    end = float(r[last - 1])
    raise WideError(
        f"radius: the strongest reflections do not end within {end:.3g} 1/Å of their positions; "
        "check cell and centring; if voxels are as wide as the reflections, use a smaller "
        "`grid_step` (with smaller `grid_limits`, if volumes become too large); or look up in the "
        "planes where reflections end, and give this radius, such as "
        f"`fill: {{radius: {1.1 * end:.2g}}}`",
        end,
    )


def _shortest(q: Floats) -> float:
    """Return the shortest distance between positions (n, 3) in 1/Å."""
    from scipy.spatial import cKDTree

    if len(q) < 2:
        raise HklflowError(f"radius: the grid holds fewer than two reflections; {_GIVE}")
    distance = np.asarray(cKDTree(q).query(q, k=2)[0])
    return float(distance[:, 1].min())
