"""σ of the ΔPDF against |r| where regions of S(Q) were not measured but filled.

    python -m benchmarks.gaps_truth [--base 0] [--realisations 2] [--norms 10 100]
        [--cells cubic ...] [--kinds "size effect" ...] [--coverage cone gaps cone+gaps]

Worlds of tests/truth/hole_worlds.py (41³ voxels of 0.1 r.l.u., holes of 0.2 1/Å); a cone about an
axis, gaps, or both were not measured. Filled as by the stage `fill`. Printed are rms of
(found − true)/σ in ranges of |r|, at least a quarter cell from lattice vectors, which have a
covariance of their own: with filled voxels as independent → with the pair distribution that the
errors of gaps have. --base: seed of the first realisation.
"""
# ruff: noqa: I001

import argparse

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
import numpy as np

from benchmarks.holes_truth import todays_fill
from tests.truth import gap_judge, hole_worlds

COVERAGE = ("cone", "gaps", "cone+gaps")
#: Coverage, kind, counts, and mean squared pulls (2, ranges) of a world.
Result = tuple[str, str, float, np.ndarray]


def line(title: str, squares: list[np.ndarray]) -> None:
    """Print rms over worlds, and the smallest and the largest rms of a world at small r."""
    rms = np.sqrt(np.mean(squares, axis=0))
    worlds = np.sqrt(np.array(squares)[:, 1, 0])
    text = "  ".join(f"{before:5.2f} → {after:4.2f}" for before, after in rms.T)
    print(f"{title:58s} {text}  ({worlds.min():.1f} to {worlds.max():.1f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=int, default=0)
    parser.add_argument("--realisations", type=int, default=2)
    parser.add_argument("--norms", type=float, nargs="+", default=[10.0, 100.0])
    parser.add_argument("--cells", nargs="+", default=list(hole_worlds.LATTICES))
    parser.add_argument("--kinds", nargs="+", default=list(hole_worlds.KINDS))
    parser.add_argument("--coverage", nargs="+", default=list(COVERAGE))
    args = parser.parse_args()
    ranges = "  ".join(f"{low:g} to {high:g} Å" for low, high in gap_judge.RANGES)
    print(f"world, counts: rms pull at {ranges} (smallest and largest of a world, first range)")
    results: list[Result] = []
    for coverage in args.coverage:
        for kind in args.kinds:
            for cell in args.cells:
                missing = coverage.split("+")
                world = hole_worlds.make_world(kind, cell, 41, 0.1, True, unmeasured=missing)
                for norm in args.norms:
                    squares = []
                    for seed in range(args.base, args.base + args.realisations):
                        values, sigma = world.measure(norm, seed)
                        data, errors = todays_fill(values, sigma, world.punched, world)
                        squares.append(gap_judge.squared_pulls(world, data, errors))
                    results.append((coverage, kind, norm, np.mean(squares, axis=0)))
                    line(f"{cell}, {kind}, {coverage}, {norm:g}", [results[-1][3]])
    print("\nmeans over cells")
    for norm in args.norms:
        for coverage in args.coverage:
            for kind in args.kinds:
                own = [x for *key, x in results if key == [coverage, kind, norm]]
                line(f"{kind}, {coverage}, {norm:g}", own)
        for both in (False, True):
            own = [x for c, _, n, x in results if n == norm and ("+" in c) == both]
            if own:
                line(f"all with {'cone and gaps' if both else 'one of the two'}, {norm:g}", own)


if __name__ == "__main__":
    main()
