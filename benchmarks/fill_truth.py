"""Fill against truth: rms error in units of the noise, bias, pulls, and time.

    python -m benchmarks.fill_truth

Known diffuse scattering with normal noise of σ (1 is a tenth of its mean) on 2 million voxels,
Bragg peaks punched with a radius of 5 voxels. Kriging is the stage's own; the others are Laplace
(harmonic as in NXRefine), biharmonic, a quadratic polynomial, linear along the axes, and
Delaunay's linear interpolation (scipy's LinearNDInterpolator) of the
same support. `stage` is the fill of the stage, by the kriging that the control
holes choose and then by the spectrum, without and with the model of maxima inside of holes. Errors
and biases are means over the punched voxels of whole holes within 0.8 of q_max, for these have all
interpolants. The last table compares the default of the stage with the best of all.
"""
# ruff: noqa: I001

import time
from collections.abc import Callable

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
from tests.truth.defaults import bragg_positions
import hklflow  # noqa: F401
import numpy as np

from hklflow.volumes import control, fill, fill_kernels, punch
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.volumes.interpolants import OTHERS
from hklflow.volumes.refill import refill
from hklflow.volumes.tails import Tails
from hklflow.geometry.symmetry import space_group
from hklflow.volumes.spectrum import NAME as SPECTRUM

STEP, REACH = 0.04, 2.4  # r.l.u.
CUBIC = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])
OBLIQUE = np.array([4.6, 5.2, 5.8, 82.0, 97.0, 113.0])

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


def cosines(hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
    waves = ((1.0, 0.5, 0.0), (0.0, 1.0, 0.5), (1.0, 1.0, 1.0))
    return 10 + 2 * sum(np.cos(2 * np.pi * hkl @ np.array(w)) for w in waves)


def thermal(hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
    """1 / q² around every reflection, capped at a third of the punched radius."""
    near = np.linalg.norm((hkl - np.rint(hkl)) * 2 * np.pi / 5, axis=-1)
    return 5 + 0.5 / np.maximum(near, 0.085) ** 2 / 2


def rods(hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Along l through every reflection, 0.15 r.l.u. wide."""
    near = hkl[..., :2] - np.rint(hkl[..., :2])
    return 5 + 20 * np.exp(-0.5 * np.sum(near**2, axis=-1) / 0.15**2)


def sheets(hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Normal to l, through l = 0, 1, 2."""
    near = hkl[..., 2] - np.rint(hkl[..., 2])
    return 5 + 15 * np.exp(-0.5 * near**2 / 0.15**2)


CASES: tuple[tuple[str, Field, np.ndarray], ...] = (
    ("cosines", cosines, CUBIC),
    ("cosines, oblique", cosines, OBLIQUE),
    ("thermal 1/q²", thermal, CUBIC),
    ("rods", rods, CUBIC),
    ("sheets, oblique", sheets, OBLIQUE),
)


def figures(filled: np.ndarray, truth: np.ndarray, sigma: float) -> str:
    residual = (filled - truth) / sigma
    return f"{np.sqrt(np.mean(residual**2)):9.2f} {residual.mean():+8.2f}"


def delaunay(holes: fill.Holes, support: np.ndarray, values: np.ndarray, edges: np.ndarray):
    from scipy.interpolate import LinearNDInterpolator

    return LinearNDInterpolator(support @ edges, values.T)(holes.voxels @ edges).T


def run(name: str, field: Field, cell: np.ndarray, sigma: float) -> dict[str, float]:
    """Print a line for each interpolant; return the rms error of each, the stage's default last."""
    grid = Grid.symmetric([REACH] * 3, [STEP] * 3)
    group = space_group("P -1")
    l, k, h = np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    hkl = np.stack([h, k, l], axis=-1)
    truth = field(hkl, hkl @ lattice.b_matrix(cell).T)
    noise = np.random.default_rng(1).normal(0, sigma, truth.shape)
    data = (truth + noise).astype(np.float32)
    # Five voxels of the cubic grid.
    radius = 5 * STEP * 2 * np.pi / 5
    near = (hkl - np.rint(hkl)) @ lattice.b_matrix(cell).T
    data += (1e4 * np.exp(-0.5 * np.sum(near**2, axis=-1) / (radius / 5) ** 2)).astype(np.float32)
    code = np.zeros(data.shape, np.uint8)
    positions = bragg_positions(grid, cell, group, radius)
    punch.punch(code, grid, cell, positions, radius)
    errors = np.full(data.shape, sigma, np.float32)
    # No symmetry: every hole has noise of its own.
    target = fill.Target(data, errors, code, grid, cell, np.eye(3, dtype=np.int64)[None])
    holes = max(fill.find_holes(target, code), key=lambda found: len(found.bases))
    q_max = float(np.min(REACH * 2 * np.pi / cell[:3]))
    places = holes.bases[:, None] + holes.voxels
    q = np.linalg.norm(hkl[tuple(np.moveaxis(places, -1, 0))] @ lattice.b_matrix(cell).T, axis=-1)
    inner = q.max(axis=1) < 0.8 * q_max
    bases = holes.bases[inner]
    at = tuple(np.moveaxis(places[inner], -1, 0))
    rms: dict[str, float] = {}

    def judged(other: str, filled: np.ndarray, seconds: float, pull: float = np.nan) -> None:
        rms[other] = told(name, sigma, other, filled, truth[at], seconds, pull)

    support = fill.support_of(holes.voxels, target.edges, 800)
    values, sigmas = np.empty((2, len(bases), len(support)))
    fill_kernels.gather(data, errors, code, bases, support, values, sigmas)
    for other, weights in OTHERS.items():
        began = time.perf_counter()
        matrix = weights(holes.voxels, support, target.edges)
        filled = values @ matrix.T
        judged(other, filled, time.perf_counter() - began)
    began = time.perf_counter()
    filled = delaunay(holes, support, values, target.edges)
    judged("Delaunay", filled, time.perf_counter() - began)
    for model in fill.MODELS:
        copy = fill.Target(data.copy(), errors.copy(), code, grid, cell, target.operations)
        began = time.perf_counter()
        fill.fill(copy, model)
        # Of the whole volume, cut holes at its edges too.
        seconds = (time.perf_counter() - began) * truth[at].size / np.sum(code == 1)
        judged(model, copy.data[at], seconds, width(copy.data[at], truth[at], copy.errors[at]))
    for modelled in (False, True):
        copy = fill.Target(data.copy(), errors.copy(), code, grid, cell, target.operations)
        began = time.perf_counter()
        tails = Tails(copy, positions, radius, q_max) if modelled else None
        if tails is not None:
            tails.subtract()
        all_holes = fill.find_holes(copy, code)
        found = control.controls(copy, all_holes)
        model = control.best_of(found, fill.BEST)
        fill.fill(copy, model, rough=True)
        used, _, _ = refill(copy, all_holes, found, model, q_max, rough=True)
        if tails is not None:
            tails.restore()
        seconds = (time.perf_counter() - began) * truth[at].size / np.sum(code == 1)
        label = "stage: " + ("spectrum" if used == SPECTRUM else used)
        label += ", maxima" if tails is not None and tails.found else ""
        label += " (tails)" if modelled else ""
        judged(label, copy.data[at], seconds, width(copy.data[at], truth[at], copy.errors[at]))
    return rms


def width(filled: np.ndarray, truth: np.ndarray, errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(((filled - truth) / errors) ** 2)))


def told(
    case: str,
    sigma: float,
    interpolant: str,
    filled: np.ndarray,
    truth: np.ndarray,
    seconds: float,
    pull: float = np.nan,
) -> float:
    """Print a line; return the rms error in σ."""
    per = seconds / truth.size * 1e6
    text = f"{pull:6.2f}" if np.isfinite(pull) else "     -"
    print(
        f"{case:18s} {sigma:5.1f}  {interpolant:36s} {figures(filled, truth, sigma)} {text}"
        f" {per:9.1f}",
        flush=True,
    )
    return float(np.sqrt(np.mean(((filled - truth) / sigma) ** 2)))


def main() -> None:
    head = f"{'case':18s} {'σ':>5s}  {'interpolant':36s} {'rms/σ':>9s} {'bias/σ':>8s}"
    print(head + "   pull  s/Mvoxel")
    chosen = []
    for name, field, cell in CASES:
        for sigma in (0.2, 1.0, 5.0):
            rms = run(name, field, cell, sigma)
            used, best = list(rms)[-1], min(rms, key=lambda other: rms[other])
            chosen.append(
                f"{name:18s} {sigma:5.1f}  {used:36s} {rms[used]:6.2f}  {best:36s} {rms[best]:6.2f}"
            )
    print("case, σ, default of the stage, rms/σ, the best, rms/σ", *chosen, sep="\n")


if __name__ == "__main__":
    main()
