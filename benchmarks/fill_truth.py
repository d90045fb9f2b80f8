"""Fill against truth: rms error in units of the noise, bias, pulls, and time.

    python -m benchmarks.fill_truth [--cases rods ...] [--reach 2.4]

Known diffuse scattering with normal noise of σ (1 is a tenth of its mean) on 2 million voxels,
Bragg peaks punched with a radius of 5 voxels. Kriging is the stage's own; the others are Laplace
(harmonic as in NXRefine), biharmonic, a quadratic polynomial, linear along the axes, and
Delaunay's linear interpolation (scipy's LinearNDInterpolator) of the
same support. `stage` is what the stage does, step by step, without and with the model of maxima
inside of holes. Errors and biases are means over the punched voxels of whole holes within 0.8 of
q_max, for these have all interpolants. The last table compares what the stage chooses with the best
of all: the ratio of their errors should be at most 1.1.
"""
# ruff: noqa: I001

import argparse
import time
from collections.abc import Callable

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
from tests.truth.defaults import bragg_positions
from tests.truth import hole_worlds
import hklflow  # noqa: F401
import numpy as np

from hklflow.volumes import control, fill, fill_kernels, punch, tail_share
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.volumes.interpolants import OTHERS
from hklflow.volumes.refill import is_judged, refill
from hklflow.volumes.tails import Tails
from hklflow.geometry.symmetry import space_group
from hklflow.volumes.spectrum import NAME as SPECTRUM

STEP = 0.04  # r.l.u.
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


def elastic_waves(hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Thermal diffuse scattering, 1/q² with the elastic constants of a metal, and short pairs."""
    return _elastic_waves(hkl, CUBIC)


def elastic_waves_oblique(hkl: np.ndarray, q: np.ndarray) -> np.ndarray:
    return _elastic_waves(hkl, OBLIQUE)


def _elastic_waves(hkl: np.ndarray, cell: np.ndarray) -> np.ndarray:
    lattice = hole_worlds.Lattice(tuple(cell), (), (0, 0, 0))
    waves = hole_worlds.thermal(lattice, np.full(3, STEP), True)
    return 8 + 2 * np.cos(2 * np.pi * hkl[..., 0]) + 30 * waves(hkl)


CASES: tuple[tuple[str, Field, np.ndarray], ...] = (
    ("cosines", cosines, CUBIC),
    ("cosines, oblique", cosines, OBLIQUE),
    ("thermal 1/q²", thermal, CUBIC),
    ("rods", rods, CUBIC),
    ("sheets, oblique", sheets, OBLIQUE),
    ("elastic waves", elastic_waves, CUBIC),
    ("el. waves, oblique", elastic_waves_oblique, OBLIQUE),
)


def figures(filled: np.ndarray, truth: np.ndarray, sigma: float) -> str:
    residual = (filled - truth) / sigma
    return f"{np.sqrt(np.mean(residual**2)):9.2f} {residual.mean():+8.2f}"


def delaunay(holes: fill.Holes, support: np.ndarray, values: np.ndarray, edges: np.ndarray):
    from scipy.interpolate import LinearNDInterpolator

    return LinearNDInterpolator(support @ edges, values.T)(holes.voxels @ edges).T


def as_stage(
    target: fill.Target, positions: np.ndarray, radius: float, q_max: float, modelled: bool
) -> str:
    """Fill as `stages.fill.main` does, with the same functions in the same order; return by what.

    ``modelled``: parameter `tails` of the stage.
    """
    measured = target.code == fill.MEASURED
    before = target.data[measured]
    tails = Tails(target, positions, radius, q_max) if modelled else None
    if tails is not None:
        tail_share.weigh(target, tails, q_max)
        tails.subtract()
    holes = fill.find_holes(target, np.flatnonzero(target.code == fill.PUNCHED))
    found = control.controls(target, holes, q_max)
    model = control.best_of(found, fill.BEST)
    spectrum = is_judged(found, model)
    fill.fill(target, model, rough=spectrum)
    again = None
    if spectrum:
        model, _, again = refill(target, holes, found, model, q_max, rough=True)
    name = "spectrum" if model == SPECTRUM else model
    if tails is not None:
        tails.settle(again)
        tails.restore()
        target.data[measured] = before
        if tails.found:
            name += f", {tails.share:.2f} of maxima"
    return name


def run(
    name: str, field: Field, cell: np.ndarray, sigma: float, reach: float
) -> tuple[dict[str, float], float]:
    """Print a line for each interpolant.

    Returns the rms error of each, that of the stage last, and the pull of the stage.
    """
    grid = Grid.symmetric([reach] * 3, [STEP] * 3)
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
    holes = max(fill.find_holes(target, np.flatnonzero(code)), key=lambda found: len(found.bases))
    q_max = float(np.min(reach * 2 * np.pi / cell[:3]))
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
        used = as_stage(copy, positions, radius, q_max, modelled)
        seconds = (time.perf_counter() - began) * truth[at].size / np.sum(code == 1)
        pull = width(copy.data[at], truth[at], copy.errors[at])
        label = f"stage{'' if modelled else ', tails: false'}: {used}"
        judged(label, copy.data[at], seconds, pull)
    return rms, pull


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
        f"{case:18s} {sigma:5.1f}  {interpolant:50s} {figures(filled, truth, sigma)} {text}"
        f" {per:9.1f}",
        flush=True,
    )
    return float(np.sqrt(np.mean(((filled - truth) / sigma) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=[name for name, _, _ in CASES])
    parser.add_argument("--reach", type=float, default=2.4, help="r.l.u.")
    args = parser.parse_args()
    head = f"{'case':18s} {'σ':>5s}  {'interpolant':50s} {'rms/σ':>9s} {'bias/σ':>8s}"
    print(head + "   pull  s/Mvoxel")
    chosen = []
    for name, field, cell in CASES:
        if name not in args.cases:
            continue
        for sigma in (0.2, 1.0, 5.0):
            rms, pull = run(name, field, cell, sigma, args.reach)
            used, best = list(rms)[-1], min(rms, key=lambda other: rms[other])
            chosen.append(
                f"| {name} | {sigma:g} | {used.removeprefix('stage: ')} | {rms[used]:.2f} | "
                f"{pull:.2f} | {best} | {rms[best]:.2f} | {rms[used] / rms[best]:.2f} |"
            )
    head = "| case | σ | the stage's choice | rms/σ | pull | the best | rms/σ | ratio |"
    print(head, "|---" * 8 + "|", *chosen, sep="\n")


if __name__ == "__main__":
    main()
