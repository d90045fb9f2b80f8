"""The table of disorder, cells and coverage: the ΔPDF of filled volumes against truth.

    python -m benchmarks.holes_matrix [--base 0] [--realisations 30] [--norms 1 3 10 30 100 300]
        [--cells cubic ...] [--kinds "size effect" ...] [--coverage whole cone] [--kriging]

Worlds of tests/truth/hole_worlds.py: 41³ voxels of 0.1 r.l.u. (hexagonal: 57³ of 1/14), Bragg
reflections, holes of 0.2 1/Å; `cone`: a cone of 20° and gaps were not measured. The norm goes
through the list from realisation to realisation. Each volume is filled once, as by the stage `fill`
(--kriging: as by its first part), and judged at 82 lattice vectors, with the covariance that the
stage `pdf` stores, and at 82 other vectors, with σ of the stage `pdf`. Printed for each world, and
for each norm, are

* mean: of (found − true)/σ over vectors and realisations, and its error from the realisations;
* rms of (found − true)/σ;
* χ² with the full covariance, per degree of freedom, and its median over realisations;
* shells: rms of (found − true)/σ of sums over eight shells of vectors;
* how many covariances have a negative eigenvalue (χ² is then without these realisations).
"""
# ruff: noqa: I001

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
import numpy as np

from benchmarks.holes_truth import by_kriging, with_covariance
from tests.truth import gap_judge, hole_judge, hole_worlds

SHELLS = 8
SIZES = dict.fromkeys(hole_worlds.LATTICES, 41) | {"hexagonal": 57}
"""Voxels along an axis: as many as 80 inequivalent vectors within half a period need."""
LIMIT = 2.0  # r.l.u.
VECTORS = 82


@dataclass(frozen=True)
class Figures:
    """Figures of one realisation at one class of vectors.

    Attributes
    ----------
    pulls : (n,) array
        (found − true)/σ at the vectors.
    chi2 : float
        Per degree of freedom, with the full covariance; NaN if it has a negative eigenvalue.
    shells : (8,) array
        (found − true)/σ of sums over shells of vectors.
    """

    pulls: np.ndarray
    chi2: float
    shells: np.ndarray


def figures(residual: np.ndarray, covariance: np.ndarray) -> Figures:
    """Return the figures of residuals (n,) of vectors sorted by length, with their covariance."""
    sigma = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / sigma / sigma[:, None])
    pulls = residual / sigma
    positive = values.min() > 0
    chi2 = float(np.mean((pulls @ vectors) ** 2 / values)) if positive else np.nan
    parts = np.array_split(np.arange(len(residual)), SHELLS)
    squares = np.array([covariance[np.ix_(part, part)].sum() for part in parts])
    sums = np.array([residual[part].sum() for part in parts])
    with np.errstate(invalid="ignore"):
        return Figures(pulls, chi2, sums / np.sqrt(squares))


def line(title: str, results: Sequence[Figures]) -> None:
    """Print the figures of several realisations."""
    pulls = np.array([x.pulls for x in results])
    means = pulls.mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
    chi2 = np.array([x.chi2 for x in results])
    bad = int(np.isnan(chi2).sum())
    mean, middle = (f(chi2) if bad < len(chi2) else np.nan for f in (np.nanmean, np.nanmedian))
    shells = np.sqrt(np.nanmean(np.square([x.shells for x in results])))
    print(
        f"{title:52s} {len(results):4d}  {means.mean():+6.2f} ± {error:4.2f} "
        f"{np.sqrt(np.mean(pulls**2)):6.2f} {mean:8.2f} {middle:6.2f} {shells:6.2f} {bad:4d}",
        flush=True,
    )


def gap_factors(
    world: hole_worlds.World, data: np.ndarray, errors: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """Return by what gaps enlarge σ of the ΔPDF at vectors (n, 3), as by the stage `pdf`."""
    made = gap_judge.planned(world)
    found = gap_judge.volumes(made, data, errors, world.punched)
    at = tuple(np.rint((vectors - made.direct.first) / made.direct.step).astype(int).T[::-1])
    return np.asarray(found.sigma[at] / found.independent[at], dtype=np.float64)


def judged(
    world: hole_worlds.World,
    judges: tuple[hole_judge.Judge, hole_judge.Judge],
    candidate: Callable[..., tuple[object, ...]],
    norm: float,
    seed: int,
) -> tuple[Figures, Figures]:
    """Fill one realisation; return the figures at lattice vectors and at other vectors."""
    values, sigma = world.measure(norm, seed)
    data, errors, *part = candidate(values, sigma, world.punched, world)
    lattice, others = judges
    stated = lattice.covariance(errors) + sum(p(lattice) for p in part)
    elsewhere = others.covariance(errors)
    if (world.punched == hole_worlds.UNMEASURED).any():
        factors = gap_factors(world, data, errors, others.vectors)
        elsewhere = elsewhere * factors * factors[:, None]
    return (
        figures(lattice.transform(data) - lattice.truth, stated),
        figures(others.transform(data) - others.truth, elsewhere),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=int, default=0, help="seed of the first realisation")
    parser.add_argument("--realisations", type=int, default=30)
    parser.add_argument("--norms", type=float, nargs="+", default=[1, 3, 10, 30, 100, 300])
    parser.add_argument("--cells", nargs="+", default=list(hole_worlds.LATTICES))
    parser.add_argument("--kinds", nargs="+", default=list(hole_worlds.KINDS))
    parser.add_argument("--coverage", nargs="+", default=["whole", "cone"])
    parser.add_argument("--kriging", action="store_true")
    args = parser.parse_args()
    candidate = by_kriging if args.kriging else with_covariance
    print(
        "vectors, world: realisations, mean pull, rms pull, χ² full, its median, shells, negative"
    )
    results: list[tuple[dict[str, object], Figures]] = []
    for coverage in args.coverage:
        for kind in args.kinds:
            for cell in args.cells:
                step = LIMIT / (SIZES[cell] // 2)
                world = hole_worlds.make_world(kind, cell, SIZES[cell], step, coverage == "cone")
                at_lattice = hole_judge.lattice_vectors(world, VECTORS)
                reach = np.linalg.norm(at_lattice @ world.lattice.direct.T, axis=1).max()
                judges = (
                    hole_judge.Judge(world, at_lattice),
                    hole_judge.Judge(world, hole_judge.other_vectors(world, reach, VECTORS)),
                )
                both: tuple[list[Figures], list[Figures]] = ([], [])
                for i in range(args.realisations):
                    norm = args.norms[i % len(args.norms)]
                    found = judged(world, judges, candidate, norm, args.base + i)
                    for place, own, all_own in zip(("lattice", "others"), found, both, strict=True):
                        key = {"place": place, "coverage": coverage, "kind": kind, "norm": norm}
                        results.append((key, own))
                        all_own.append(own)
                for place, all_own in zip(("lattice", "others"), both, strict=True):
                    line(f"{place}: {coverage}, {kind}, {cell}", all_own)
    print()
    for names in (("place", "coverage", "kind", "norm"), ("place", "coverage", "kind")):
        groups: dict[tuple[object, ...], list[Figures]] = {}
        for key, own in results:
            groups.setdefault(tuple(key[name] for name in names), []).append(own)
        for group, members in sorted(groups.items(), key=lambda item: str(item[0][:3])):
            line(": ".join(map(str, group)), members)
        print()


if __name__ == "__main__":
    main()
