"""True absorption as a function of Q, and its spread over shapes, by the rays of this program."""

from dataclasses import replace
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn

from hklflow.geometry.symmetry import space_group
from hklflow.transform import shape_family
from hklflow.transform.shape_family import Gauge
from tests.truth.quantitative import World
from tests.truth.quantitative_absorption import Body, cylinder, ellipsoid, plate
from tests.truth.quantitative_scans import crystal_of, rotation_of

Array = NDArray[np.float64]

MARGIN = 1.25
MU_ERROR = 0.02
SHELLS = 12
DIRECTION = np.array([0.3, 0.61, 1.0])


class Observed(NamedTuple):
    """True ln T, with Q in one asymmetric part (n, 3) and the weights of the observations."""

    log: Array
    Q: Array
    weight: Array


def admitted(w: World) -> tuple[float, float]:
    """Return the limits of the extents that the stage gets, mm."""
    extents = 2 * np.array(w.absorber.body.size)
    return float(extents.min() / MARGIN), float(extents.max() * MARGIN)


def observed(w: World, body: Body | None = None, n: int = 4000, places: int = 15) -> Observed:
    """Trace all rotations of a world, with another body if one is given."""
    tracer = replace(w.absorber, tube=None, n_points=n, body=body or w.absorber.body)
    group = [sign * W for W in w.crystal.group for sign in (1, -1)]
    parts: list[tuple[Array, Array, Array]] = []
    for r, scan in enumerate(w.scans):
        rotation = rotation_of(w, r)
        slow, fast = ((np.arange(places) + 0.5) * m / places for m in w.shape)
        at = rotation.detector.lab(slow[:, None], fast[None, :]).reshape(-1, 3)
        rays = at / np.linalg.norm(at, axis=-1, keepdims=True)
        span = abs(scan.step) * scan.n_frames
        number = max(8, int(span / 12))
        for k in range(number):
            R = scan.R((k + 0.37) * scan.n_frames / number)
            Q = 2 * np.pi / w.crystal.wavelength * (rays - [0, 0, 1]) @ R
            hkl = Q @ np.linalg.inv(w.UB).T
            images = np.stack([hkl @ W @ w.crystal.B.T for W in group])
            chosen = np.argmax(images @ DIRECTION, axis=0)
            folded = images[chosen, np.arange(len(Q))]
            log = np.log(tracer.sample(R, rays))
            parts.append((log, folded, np.full(len(Q), span / number)))
    return Observed(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def means(values: Array, index: Array, weight: Array) -> tuple[Array, Array]:
    """Return weights and means of groups; the mean over all is 0."""
    total = np.bincount(index, weight)
    used = total > 0
    mean = np.bincount(index, weight * values)[used] / total[used]
    return total[used], mean - np.average(mean, weights=total[used])


def shells(of: Observed) -> tuple[Array, Array, Array]:
    """Return |Q|, weight and mean of ln T in shells."""
    q = np.linalg.norm(of.Q, axis=1)
    index = np.digitize(q, np.linspace(q.min(), q.max(), SHELLS + 1)[1:-1])
    weight, mean = means(of.log, index, of.weight)
    total = np.bincount(index, of.weight)
    return (np.bincount(index, of.weight * q)[total > 0] / weight), weight, mean


def spread(w: World) -> float:
    """Return the standard deviation over shapes of another program, rms over shells."""
    low, high = admitted(w)
    turns = iter(Turn.random(200, rng=np.random.default_rng(5)).as_matrix())
    found = []
    for extents in combinations_with_replacement((low, np.sqrt(low * high), high), 3):
        for make in (ellipsoid, cylinder, plate):
            for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
                body, R = make(*(np.array(extents)[order] / 2)), next(turns)
                planes = np.c_[body.planes[:, :3] @ R.T, body.planes[:, 3]]
                turned = replace(
                    body,
                    planes=planes,
                    quadrics=R @ body.quadrics @ R.T,
                    reach=float(np.linalg.norm(extents)),
                )
                _, weight, means_of_shells = shells(observed(w, turned, 800, 9))
                found.append(means_of_shells)
    return float(np.sqrt(np.average(np.var(found, axis=0), weights=weight)))


def gauge_of(w: World) -> Gauge:
    """Return what the stage states."""
    crystal = crystal_of(w)
    rotations = {f"r{i + 1}": rotation_of(w, i) for i in range(len(w.scans))}
    group = space_group(w.crystal.space_group.partition(":")[0])
    return shape_family.gauge(
        shape_family.members(admitted(w), MU_ERROR),
        dict.fromkeys(rotations, w.absorber.mu),
        crystal.beam,
        rotations,
        w.UB,
        group.laue_operations,
        1,
    )
