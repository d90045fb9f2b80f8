"""Is the absorption of a crystal of unknown shape within its stated uncertainty?

Worlds of tests/truth/QUANTITATIVE.md, whose transmissions other rays have traced. The stage is told
that the extents of the crystal are between its smallest one / 1.25 and its largest one × 1.25.
The true ln T of all rotations is averaged in shells of |Q|, and in cells of the asymmetric part of
Q, and compared with mean and uncertainty (`transform.shape_family`). The spread is the standard
deviation, in shells, of shapes that another program makes and traces: ellipsoids, cylinders and
boxes of all combinations of three extents (smallest, middle, largest), in random orientations.

    python -m benchmarks.unknown_shape 11 12
    python -m benchmarks.unknown_shape 11 --world furnace --spread
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn
from tests.truth.quantitative import World
from tests.truth.quantitative_absorption import Body, cylinder, ellipsoid, plate
from tests.truth.quantitative_catalogue import PLANS, world
from tests.truth.quantitative_scans import crystal_of, rotation_of

from hklflow.geometry.symmetry import space_group
from hklflow.transform import shape_family
from hklflow.transform.shape_family import Gauge

Array = NDArray[np.float64]

MARGIN = 1.25
MU_ERROR = 0.02
SHELLS = 12
CELLS = 6
DIRECTION = np.array([0.3, 0.61, 1.0])


class Observed(NamedTuple):
    """True ln T, with Q in one asymmetric part (n, 3) and the weights of the observations."""

    log: Array
    Q: Array
    weight: Array


def admitted(w: World) -> tuple[float, float]:
    """Return the limits of the extents that the stage is told, mm."""
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


def spread(w: World) -> Array:
    """Return the standard deviation (shells,) over shapes of another program."""
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
                found.append(shells(observed(w, turned, 800, 9))[2])
    return np.std(found, axis=0)


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


def rms(values: Array, weight: Array) -> float:
    return float(np.sqrt(np.average(values**2, weights=weight)))


def judged(w: World, with_spread: bool) -> tuple[Array, Array, float]:
    """Print the row of a world; return the pulls of shells, and those of cells with weights."""
    gauge, of = gauge_of(w), observed(w)
    q, weight, true = shells(of)
    mean, sigma = np.interp(q, gauge.q, gauge.mean), np.interp(q, gauge.q, gauge.sigma)
    pulls = (true - mean) / sigma
    size = np.linalg.norm(of.Q, axis=1)
    cell = np.floor(of.Q * CELLS / size.max() + 0.31).astype(int) + 100
    _, index = np.unique(cell @ np.array([1, 1000, 1_000_000]), return_inverse=True)
    share, part = means(of.log, index, of.weight)
    at = np.bincount(index, of.weight * size) / share
    total = np.hypot(
        np.interp(at, gauge.q, gauge.sigma), np.interp(at, gauge.q, gauge.by_direction)
    )
    off = (part - np.interp(at, gauge.q, gauge.mean)) / total
    cells = np.array([np.average(abs(off) < k, weights=share) for k in (1, 2)])
    ratio = rms(sigma, weight) / rms(spread(w), weight) if with_spread else np.nan
    error = rms(true - mean, weight) / rms(sigma, weight)
    print(
        f"| {w.name}, {w.seed} | {100 * rms(true, weight):.2f} | {100 * rms(mean, weight):.2f} "
        f"| {100 * rms(sigma, weight):.2f} | {error:.2f} | {ratio:.2f} "
        f"| {100 * rms(part, share):.1f} | {100 * rms(total, share):.1f} "
        f"| {cells[0]:.0%} / {cells[1]:.0%} |",
        flush=True,
    )
    return pulls, cells, error


def main() -> None:
    """Print a row for each world, and the shares within 1 and 2 σ."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("seeds", type=int, nargs="+")
    ask.add_argument("--world", choices=list(PLANS))
    ask.add_argument("--spread", action="store_true", help="compare with shapes of another program")
    a = ask.parse_args()
    print(
        "| world, seed | by \\|Q\\|, %: true | mean | σ | error/σ | σ/spread | by Q, %: true | σ "
        "| cells within 1 / 2 σ |\n|---|---|---|---|---|---|---|---|---|"
    )
    rows = [
        judged(world(name, seed), a.spread)
        for seed in a.seeds
        for name in ([a.world] if a.world else PLANS)
    ]
    pulls = abs(np.concatenate([row[0] for row in rows]))
    cells = np.mean([row[1] for row in rows], axis=0)
    errors = np.array([row[2] for row in rows])
    for k in (1, 2):
        print(
            f"within {k} σ: {np.mean(pulls < k):.0%} of {len(pulls)} shells, {cells[k - 1]:.0%} of "
            f"the cells, {np.sum(errors < k)} of {len(errors)} worlds (rms over the shells)"
        )


if __name__ == "__main__":
    main()
