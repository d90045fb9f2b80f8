"""Indexing and refinement of 10,000 peaks with every parameter free: time, errors, pulls.

    python -m benchmarks.refinement [number of noise seeds]

Three rotations at three settings of kappa, a triclinic and a hexagonal crystal. The refinement
starts from a crystal, a detector and heads of the goniometer that are off; centroids have the
errors they claim. The pull of a parameter is its error over its standard deviation: their width
should be 1.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import sys
import time

import numpy as np
from scipy.spatial.transform import Rotation as Turn
from tests.truth.defaults import index_peaks, refine

from hklflow import geometry
from hklflow.geometry import lattice, prediction, symmetry
from hklflow.geometry.parameters import choose
from hklflow.orientation.refinement import Peaks, Refined

CASES = {
    "triclinic": ("P-1", [5.2, 7.1, 9.8, 81.0, 97.0, 108.0]),
    "hexagonal": ("P63/mmc", [9.1, 9.1, 14.6, 90, 90, 120]),
}
N_PEAKS = 10_000
FREE = (
    "cell", "orientation", "detector_x", "detector_y", "detector_z", "detector_rotation",
    "misorientation",
)  # fmt: skip
SIZE, PIXEL = 1500, 172e-6
SIGMA = np.array([0.2, 0.2, 0.15])  # slow and fast in pixels, frame


def assumed() -> list[geometry.Rotation]:
    """Three rotations of 360° at three settings of kappa."""
    detector = geometry.Detector(
        (SIZE, SIZE),
        (PIXEL, PIXEL),
        np.array([SIZE * PIXEL / 2, -SIZE * PIXEL / 2, 0.15]),
        np.array([0.0, 1.0, 0.0]),
        np.array([-1.0, 0.0, 0.0]),
    )
    axes = np.array([[0.0, 0.6, 0.8], [1.0, 0.02, -0.01]])
    return [
        geometry.Rotation(
            geometry.Beam(0.2066),
            detector,
            geometry.Goniometer(("kappa", "phi"), axes, np.array([kappa, 0.0]), 1),
            geometry.Scan(0.2, np.radians(0.1), 3650),
        )
        for kappa in (0.0, 0.6, -0.7)
    ]


def truth(symbol: str, cell: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """True values of all parameters, and the UB that they are changes of."""
    group = symmetry.space_group(symbol)
    u = Turn.from_rotvec([0.3, -1.1, 0.6]).as_matrix()
    free = symmetry.cell_constraints(group).select(cell)
    # Turn of U; detector's shift in metres and turn; heads of the second and third rotation.
    turn = np.radians([0.2, -0.1, 0.15])
    detector = [3e-4, -2e-4, 4e-4, 2e-3, -3e-3, 1e-3]
    heads = np.radians([0.05, -0.03, 0.04, -0.02, 0.06, 0.01])
    return np.concatenate([free, turn, detector, heads]), u @ lattice.b_matrix(cell)


def observe(symbol: str, cell: list[float], values: np.ndarray, ub: np.ndarray) -> list[np.ndarray]:
    """Exact peaks (n, 3) of each rotation as (slow, fast, frame), 10,000 together."""
    rng = np.random.default_rng(5)
    group = symmetry.space_group(symbol)
    rotations = assumed()
    u, _ = lattice.decompose_ub(ub)
    model = choose(FREE, symmetry.cell_constraints(group), cell, u, rotations)
    hkl = lattice.indices_within(cell, 8.0, 0.3)
    hkl = hkl[~group.is_absent(hkl)]
    found = []
    for i in range(len(rotations)):
        seen = prediction.predict(model.rotation_of(values, i), model.ub_of(values), hkl)
        number = N_PEAKS // 3 + (i < N_PEAKS % 3)
        keep = rng.choice(np.nonzero(seen.zeta > 0.1)[0], number, replace=False)
        found.append(np.stack([seen.slow[keep], seen.fast[keep], seen.frame[keep]], axis=1))
    return found


def noisy(exact: list[np.ndarray], seed: int) -> list[Peaks]:
    rng = np.random.default_rng(seed)
    peaks = []
    for position in exact:
        slow, fast, frame = (position + rng.normal(size=position.shape) * SIGMA).T
        variances = (np.full(len(frame), s**2) for s in SIGMA[[2, 0, 1]])
        peaks.append(Peaks(frame, slow, fast, *variances))
    return peaks


def timed(what, *arguments, **options):
    """Result, CPU seconds, wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = what(*arguments, **options)
    return result, time.process_time() - cpu, time.perf_counter() - wall


def main(seeds: int) -> None:
    for name, (symbol, cell) in CASES.items():
        group = symmetry.space_group(symbol)
        values, ub = truth(symbol, cell)
        exact = observe(symbol, cell, values, ub)
        rotations = assumed()
        peaks = noisy(exact, 0)
        g = np.concatenate(
            [r.q_crystal(p.frame, p.slow, p.fast) for r, p in zip(rotations, peaks, strict=True)]
        )
        print(f"{name}: {len(g)} peaks, {len(values)} parameters")
        for told, hints in (("with", {"cell": cell, "group": group}), ("without", {})):
            found, cpu, wall = timed(index_peaks, g, tolerance=0.25, **hints)
            print(
                f"  indexing {told} a cell: {cpu:.2f} cpu s, {wall:.2f} s, "
                f"{found.fraction:.1%} indexed"
            )
            # Which of the lattice's equal bases is found has no meaning.
            change = np.linalg.inv(ub @ np.linalg.inv(group.to_primitive)) @ found.ub
            if told == "with" and abs(np.linalg.det(change) - 1) > 0.02:
                raise AssertionError(f"another lattice: {found.cell}")
        pulls, times = [], []
        for seed in range(seeds):
            peaks = noisy(exact, seed)
            result, cpu, wall = timed(refine, rotations, peaks, ub, group, free=FREE)
            times.append((cpu, wall))
            pulls.append(_errors(result, values, ub) / result.sigma)
        cpu, wall = np.median(times, axis=0)
        print(
            f"  refinement: {cpu:.2f} cpu s, {wall:.2f} s (longest {np.max(times):.2f}); "
            f"{result.cycles} cycles, {result.steps} steps; {result.used.sum()} peaks used, "
            f"chi2 {result.chi2:.3f}"
        )
        errors = _errors(result, values, ub)
        width = np.sqrt(np.mean(np.square(pulls), axis=0))
        print(
            f"  {'parameter':22s} {'value':>12s} {'error':>10s} {'sigma':>10s} {'pull width':>11s}"
        )
        for row in zip(result.names, values, errors, result.sigma, width, strict=True):
            print("  {:22s} {:12.6g} {:10.1e} {:10.1e} {:11.2f}".format(*row))
        print(f"  width of all pulls {np.sqrt(np.mean(np.square(pulls))):.3f} of {np.size(pulls)}")


def _errors(result: Refined, values: np.ndarray, ub: np.ndarray) -> np.ndarray:
    """Refined minus true values; the turn of U is taken from the refined U."""
    errors = result.values - values
    at = result.names.index("u_x")
    u, _ = lattice.decompose_ub(ub)
    true = Turn.from_rotvec(values[at : at + 3]).as_matrix() @ u
    errors[at : at + 3] = Turn.from_matrix(result.u @ true.T).as_rotvec()
    return errors


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
