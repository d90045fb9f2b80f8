"""Transitions in the cell that are found in simulated series, and the intervals of their T_c.

    python -m benchmarks.expansion_truth FIRST LAST

For each seed, a series of cells with a transition and one without: cubic, tetragonal or
orthorhombic, 8 to 21 temperatures, three Einstein oscillators in each direction with Grüneisen
parameters of either sign, cells with errors of 5e-6 to 1e-4. The strain goes with the square of an
order parameter with β = 1/4, 0.33 or 1/2, in odd seeds with saturation at low temperature, or it
jumps. Seeds below 1000 served to choose the fit.
"""

import sys
import time
from typing import NamedTuple

import numpy as np

import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
from hklflow.bragg import expansion

LENGTHS = np.array([6.1, 7.3, 9.4])
AXES = {1: (0, 0, 0), 2: (0, 0, 1), 3: (0, 1, 2)}


class Series(NamedTuple):
    """Cells with their covariances, and the truth."""

    temperature: np.ndarray
    cells: np.ndarray
    covariances: np.ndarray
    t_c: float | None


def series(seed: int, transition: bool) -> Series:
    """Make a series of cells."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 22))
    even = rng.random() >= 0.5
    t = np.linspace(20, 300, n) if even else np.sort(rng.uniform(15, 320, n))
    free = int(rng.integers(1, 4))
    own = np.array(AXES[free])
    strain = np.zeros((n, free))
    for column in strain.T:
        for theta in rng.uniform(40, 600, 3):
            column += rng.normal(5e-6, 4e-6) * theta / np.expm1(theta / t)
    t_c = None
    if transition:
        t_c = float(rng.uniform(t[2], t[-3]))
        strain += onset(rng, t, t_c, saturated=bool(seed % 2))[:, None] * (
            rng.normal(0, 1, free) * 10 ** rng.uniform(-3.7, -2)
        )
    sigma = 10 ** rng.uniform(-5.3, -4)
    strain += rng.normal(0, sigma, (n, free))
    cells = np.full((n, 6), 90.0)
    length = LENGTHS[own]
    cells[:, :3] = length * (1 + strain[:, own])
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = sigma**2 * np.outer(length, length) * (own[:, None] == own)
    return Series(t, cells, np.tile(covariance, (n, 1, 1)), t_c)


def onset(rng: np.random.Generator, t: np.ndarray, t_c: float, *, saturated: bool) -> np.ndarray:
    """Return the square of an order parameter, 1 at 0 K without saturation."""
    reduced = t / t_c
    if rng.random() < 0.5:
        return np.where(t < t_c, 0.6 + 0.4 * np.sqrt(np.clip(1 - reduced, 0, 1)), 0.0)
    if saturated:
        reduced = np.tanh(0.5) / np.tanh(0.5 / reduced)
    return np.asarray(np.clip(1 - reduced, 0, 1) ** (2 * rng.choice([0.25, 0.33, 0.5])))


def main() -> None:
    """Print claims and coverage."""
    first, last = (int(x) for x in sys.argv[1:3])
    began = time.process_time()
    false, rows = 0, []
    for seed in range(first, last):
        for transition in (False, True):
            made = series(seed, transition)
            found = expansion.fit(*made[:3], made.cells[-1])
            assert found is not None
            if found.t_c is None:
                continue
            if made.t_c is None:
                false += 1
                continue
            x = found.t_c
            rows.append(
                (
                    (x.value - made.t_c) / x.sigma,
                    x.inner[0] <= made.t_c <= x.inner[1],
                    x.outer[0] <= made.t_c <= x.outer[1],
                )
            )
            if abs(rows[-1][0]) > 4:
                print(f"seed {seed}: T_c {made.t_c:.1f} K, found {x.value:.1f} ± {x.sigma:.1f} K")
    pulls, inner, outer = np.array(rows, dtype=float).T
    n = last - first
    print(
        f"claimed {false} of {n} without and {len(rows)} of {n} with a transition; 68 % covers "
        f"{inner.mean():.0%}, 95 % {outer.mean():.0%}; pulls {pulls.mean():+.2f} ± "
        f"{pulls.std():.2f} (half of the central 68 %: "
        f"{np.diff(np.percentile(pulls, [15.9, 84.1]))[0] / 2:.2f})"
    )
    print(f"{(time.process_time() - began) / n / 2:.2f} s of CPU for a series")


if __name__ == "__main__":
    main()
