r"""What absorption does to S(Q) as a function of Q, if the crystal's shape is not known.

A factor g(Q) with the Laue symmetry changes no repeated measurement. For a crystal of known shape,
g is the mean of ln T over all observations of Q and of its equivalents. Here it is computed for
many shapes that the crystal may have: ellipsoids, elliptic cylinders and boxes in all orientations.
Their extents are between a smallest and a largest one. Half of the shapes have both; all other
extents are independent, and their logarithms have an arcsine distribution, which prefers the ends.
This makes spheres and cubes, plates and needles. Over these shapes g has a mean, and a covariance,
which is that of the error of ln S(Q) that is left when the mean is divided out.

g is divided into a polynomial of ``|Q|²``, whose mean over the observations is 0 because the scale
of S(Q) is free, and a rest that depends on the direction of Q: its mean in coarse cells of the
asymmetric part of Q.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn

from hklflow.geometry import Rotation
from hklflow.transform import crystal_shape
from hklflow.transform.absorption import Crystal, Profile, transmission
from hklflow.transform.crystal_shape import Body
from hklflow.transform.direction import Direction

Floats = NDArray[np.float64]

MEMBERS = 128  # the standard deviation over them has an error of 6 %
_CHORDS = (233, 144)  # ln T is averaged over observations, so that fewer will do
_ANGLE = 12.0  # degrees between rotations that are traced
_FEWEST = 7  # rotations
_PLACES = 13  # directions along each side of the detector
_POWERS = 4  # of |Q|²
_CELLS = 6  # along the largest |Q|
_POINTS = 12  # |Q| at which the result is listed
# To choose one of the equivalents of Q: no symmetry operation keeps this direction.
_GENERIC = np.array([0.4142, 1.0, 0.7321])


class Member(NamedTuple):
    """A shape that the crystal may have, and the factor of its attenuation."""

    body: Body
    mu: float


@dataclass(frozen=True)
class Gauge:
    """The part of ln T that is a function of Q, over the shapes.

    Attributes
    ----------
    q : (n,) array
        |Q| in 1/Å.
    mean : (n,) array
        Mean over the shapes, as a function of |Q|; its mean over the observations is 0.
    covariance : (n, n) array
        Covariance over the shapes of the values at ``q``.
    members : (m, n) array
        Values of the shapes.
    by_direction : (n,) array
        Standard deviation, over shapes and directions of Q, of the part that depends on them.
    weight : (n,) array
        Share of the observations nearest to each |Q|.
    visible : float
        Rms over the shapes of what is left of ln T: repeated measurements see it.
    range : (float, float)
        Smallest and largest T.
    """

    q: Floats
    mean: Floats
    covariance: Floats
    members: Floats
    by_direction: Floats
    weight: Floats
    visible: float
    range: tuple[float, float]

    @property
    def sigma(self) -> Floats:
        """Standard uncertainty (n,) of ln S at ``q``, relative to the mean of S."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def direction(self, rotation: Rotation, nodes: int) -> Direction:
        """Return the mean as a factor of the direction of a rotation; it is that of all frames."""
        layout = Direction.layout(rotation, nodes)
        q = np.linalg.norm(rotation.q_lab(layout.slow[:, None], layout.fast[None, :]), axis=-1)
        log = np.broadcast_to(np.interp(q, self.q, self.mean), layout.log.shape)
        return Direction(layout.every, layout.slow, layout.fast, log.copy())


def members(size: Sequence[float], mu_error: float, number: int = MEMBERS) -> list[Member]:
    """Return shapes with extents from ``size[0]`` to ``size[1]`` mm, always the same ones.

    Parameters
    ----------
    mu_error : float
        Relative standard uncertainty of the attenuation.
    """
    rng = np.random.default_rng(0)
    low, high = np.log(size)
    place = np.sin(np.pi / 2 * rng.uniform(size=(number, 3))) ** 2
    place[number // 2 :, :2] = 0, 1
    place = rng.permuted(place, axis=1)
    extents = np.exp(low + (high - low) * place)
    axes = Turn.random(number, rng=rng).as_matrix()
    mu = np.exp(mu_error * rng.normal(size=number))
    made = []
    for i, (extent, across) in enumerate(zip(extents, axes, strict=True)):
        if i % 3 == 0:
            body = crystal_shape.ellipsoid(extent / 2, across)
        elif i % 3 == 1:
            body = crystal_shape.cylinder(extent[1:] / 2, float(extent[0]), across)
        else:
            body = crystal_shape.box(extent, across)
        made.append(Member(body, float(mu[i])))
    return made


def ends(size: Sequence[float]) -> list[Body]:
    """Return the spheres of the smallest and of the largest extent, in mm."""
    return [crystal_shape.ellipsoid([extent / 2] * 3, np.eye(3)) for extent in size]


class _Observations(NamedTuple):
    """Observations of one rotation.

    turns (angles, 3, 3), rays (places, 3); hkl (angles, places, 3), the equivalent of each
    observation; weight: of one observation.
    """

    turns: Floats
    rays: Floats
    hkl: Floats
    weight: float


def gauge(
    family: Sequence[Member],
    mu: Mapping[str, float],
    beam: Profile | None,
    rotations: Mapping[str, Rotation],
    ub: Floats,
    operations: NDArray[np.int64],
    threads: int,
) -> Gauge:
    """Return what absorption changes as a function of Q, over the shapes of a family.

    Parameters
    ----------
    mu : mapping
        Attenuation in 1/mm in each rotation, by its name.
    beam : Profile or None
        None: the beam is larger than the crystal.
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π.
    operations : (k, 3, 3) array
        Matrices by which columns hkl are multiplied: the Laue group.
    """
    seen = {name: _observations(one, ub, operations) for name, one in rotations.items()}

    def traced(member: Member) -> Floats:
        logs = []
        for name, these in seen.items():
            crystal = Crystal(member.body, mu[name] * member.mu, beam)
            T = [transmission(crystal, turn, these.rays, _CHORDS)[0] for turn in these.turns]
            logs.append(np.log(np.maximum(T, np.finfo(float).tiny)).ravel())
        return np.concatenate(logs)

    with ThreadPoolExecutor(threads) as pool:  # the kernel releases the interpreter's lock
        log = np.array(list(pool.map(traced, family)))
    hkl = np.concatenate([these.hkl.reshape(-1, 3) for these in seen.values()])
    weight = np.concatenate([np.full(t.hkl[..., 0].size, t.weight) for t in seen.values()])
    return _projected(log, hkl @ ub.T, weight / weight.sum())


def _observations(rotation: Rotation, ub: Floats, operations: NDArray[np.int64]) -> _Observations:
    """Return places and angles that cover a rotation evenly."""
    n = rotation.scan.n_frames
    span = abs(np.degrees(rotation.scan.step)) * n
    number = max(_FEWEST, int(np.ceil(span / _ANGLE)))
    frames = (np.arange(number) + 0.5) * n / number
    turns = np.array([rotation.goniometer.rotation(rotation.scan.angle(z)) for z in frames])
    slow, fast = ((np.arange(_PLACES) + 0.5) * size / _PLACES for size in rotation.detector.shape)
    at = rotation.detector.lab(slow[:, None], fast[None, :]).reshape(-1, 3)
    rays = at / np.linalg.norm(at, axis=-1, keepdims=True)
    q = rotation.q_lab(slow[:, None], fast[None, :]).reshape(-1, 3)
    # q @ R are the rows R⁻¹ q, in the holder's frame.
    hkl = np.stack([q @ turn for turn in turns]) @ np.linalg.inv(ub).T
    return _Observations(turns, rays, _folded(hkl, ub, operations), span / number)


def _folded(hkl: Floats, ub: Floats, operations: NDArray[np.int64]) -> Floats:
    """Return, of the equivalents of each hkl (..., 3), the one that is nearest to a direction."""
    best, nearest = hkl, np.full(hkl.shape[:-1], -np.inf)
    for operation in operations:
        image = hkl @ operation.T
        along = image @ ub.T @ _GENERIC
        better = along > nearest
        best = np.where(better[..., None], image, best)
        nearest = np.maximum(along, nearest)
    return best


def _projected(log: Floats, Q: Floats, weight: Floats) -> Gauge:
    """Divide ln T (members, observations) into functions of |Q|, of Q, and the rest."""
    q = np.linalg.norm(Q, axis=-1)
    powers = np.arange(_POWERS + 1)
    # Orthonormal over the observations, the first one constant.
    root = np.sqrt(weight)
    base, triangle = np.linalg.qr(root[:, None] * (q[:, None] / q.max()) ** (2 * powers))
    found = (log * root) @ base
    rest = log - (found @ base.T) / root

    points = np.linspace(q.min(), q.max(), _POINTS)
    at = (points[:, None] / q.max()) ** (2 * powers) @ np.linalg.inv(triangle)
    values = found[:, 1:] @ at[:, 1:].T

    cell = np.floor(Q * _CELLS / q.max() + 0.5).astype(np.int64) + 4 * _CELLS
    _, index = np.unique(cell @ np.array([1, 10_000, 100_000_000]), return_inverse=True)
    of_cell = np.array([np.bincount(index, weight * row) for row in rest])
    means = (of_cell / np.bincount(index, weight))[:, index]
    shell = np.argmin(abs(q[:, None] - points), axis=1)
    share = np.bincount(shell, weight, _POINTS)
    squares = np.bincount(shell, weight * (means**2).mean(axis=0), _POINTS)
    return Gauge(
        q=points,
        mean=values.mean(axis=0),
        covariance=np.cov(values, rowvar=False),
        members=values,
        by_direction=np.sqrt(squares / np.maximum(share, 1e-12)),
        weight=np.asarray(share, np.float64),
        visible=float(np.sqrt(((rest - means) ** 2 @ weight).mean())),
        range=(float(np.exp(log.min())), float(np.exp(log.max()))),
    )
