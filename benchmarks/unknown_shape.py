"""Is the absorption of a crystal of unknown shape within its stated uncertainty?

Worlds of tests/truth/QUANTITATIVE.md, whose transmissions other rays have traced. The stage gets
extents between the smallest one of the crystal / 1.25 and its largest one × 1.25.
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

import numpy as np
from numpy.typing import NDArray
from tests.truth.quantitative import World
from tests.truth.quantitative_catalogue import PLANS, world
from tests.truth.quantitative_shapes import gauge_of, means, observed, shells, spread

Array = NDArray[np.float64]

CELLS = 6


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
    ratio = rms(sigma, weight) / spread(w) if with_spread else np.nan
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
