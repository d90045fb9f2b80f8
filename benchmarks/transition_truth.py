"""How often the gates notice a phase transition in whole temperature series, and false alarms.

python -m benchmarks.transition_truth [FIRST:LAST]   # seeds; the default is 0:20

Each series has a parent at 300 K and scans at 300, 250, ... 50 K, which contract and drift; 15
peaks of each scan are at random places. The seed draws the lattice, the drift, the temperature
of the transition and its size. Peaks are simulated, not frames.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tests.truth.series_of_peaks import BODY_CENTRED, HEXAGONAL, KINDS, TETRAGONAL, alarms

from hklflow.simulation.frames import CrystalModel, Distortion, Superlattice

TEMPERATURES = np.array([300.0, 250.0, 200.0, 150.0, 100.0, 50.0])
Drawn = tuple[CrystalModel, str]


def _strain(rng: np.random.Generator, t_c: float, first_order: float) -> Drawn:
    """a and b differ by 0.2 to 2 % at η = 1."""
    crystal, symbol = KINDS[rng.integers(3)]
    half = 0.001 * 10 ** rng.uniform()
    distortion = Distortion(t_c, (half, -half, 0.0), first_order=first_order)
    return replace(crystal, distortions=(distortion,)), symbol


def _superlattice(rng: np.random.Generator, t_c: float) -> Drawn:
    crystal, symbol, vector = (
        (TETRAGONAL, "P 4/m m m", (0.5, 0.5, 0.5)),
        (HEXAGONAL, "P 6/m m m", (1 / 3, 1 / 3, 0.0)),
    )[rng.integers(2)]
    satellites = Superlattice(vector, t_c, 0.01 * 10 ** rng.uniform())
    return replace(crystal, superlattice=(satellites,)), symbol


def _centring(rng: np.random.Generator, t_c: float) -> Drawn:
    shift = rng.uniform(0.1, 0.4)
    moved = Distortion(t_c, first_order=1.0, shifts=((0, 0, 0, shift), (0, 0, 0, -shift)))
    return replace(BODY_CENTRED, distortions=(moved,)), "I 4/m m m"


CASES: dict[str, Callable[[np.random.Generator, float], Drawn]] = {
    "none": lambda rng, _: KINDS[rng.integers(3)],
    "strain, step": lambda rng, t_c: _strain(rng, t_c, 1.0),
    "strain, continuous": lambda rng, t_c: _strain(rng, t_c, 0.0),
    "superlattice": _superlattice,
    "centring lost": _centring,
}


def main() -> None:
    """Print the figures of each kind, for even and odd seeds."""
    first, last = map(int, (sys.argv[1] if len(sys.argv) > 1 else "0:20").split(":"))
    print("kind, seeds: scans above with an alarm, scans below noticed, series noticed; late")
    for number, (kind, draw) in enumerate(CASES.items()):
        for part in (0, 1):
            above, below, series, late = [], [], [], []
            for seed in (s for s in range(first, last) if s % 2 == part):
                rng = np.random.default_rng([seed, number])
                t_c = 0.0 if kind == "none" else rng.uniform(60.0, 240.0)
                crystal, symbol = draw(rng, t_c)
                told = np.isin(TEMPERATURES, alarms(crystal, symbol, 1000 * number + seed))
                under = t_c > TEMPERATURES
                above += told[~under].tolist()
                below += told[under].tolist()
                series += [bool(told[under].any())] if under.any() else []
                late += [f"{t:.0f} of {t_c:.0f} K" for t in TEMPERATURES[under & ~told]]
            print(
                f"{kind}, {'odd' if part else 'even'}: {sum(above)} of {len(above)}, "
                f"{sum(below)} of {len(below)}, {sum(series)} of {len(series)}; {', '.join(late)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
