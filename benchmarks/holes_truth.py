"""ΔPDF of filled volumes against truth: pulls at lattice vectors and elsewhere.

    python -m benchmarks.holes_truth [--size 41] [--step 0.1] [--norms 10 100] [--realisations 4]
        [--cells cubic ...] [--kinds "size effect" ...] [--waves]

Worlds of tests/truth/hole_worlds.py with a known S(Q); counting noise for a given norm; holes of
0.2 1/Å. `fill` is the fill of the stage; `kriging` is its first part, without the spectrum; `whole`
is the same volume without holes (its figures are 0 and 1 if σ is right); `covar.` is `fill` with
the covariance of lattice vectors that the stage `pdf` stores. mean, bias: mean pull, and rms over
vectors of their mean pulls; χ² with the diagonal and with the full covariance; shells: width of the
pulls of sums over shells. All but `covar.` take filled voxels for independent. --waves adds thermal
diffuse scattering.
"""
# ruff: noqa: I001

import argparse
from collections.abc import Callable

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
import numpy as np

from hklflow.volumes import control, fill, hole_covariance, spectrum, tail_share
from hklflow.volumes.pdf_plan import plan
from hklflow.volumes.refill import is_judged, refill
from hklflow.volumes.tails import Tails
from hklflow.volumes.tapers import Taper
from tests.truth import hole_judge, hole_worlds

CHOSEN = [0, 0]  # fills of which the stage keeps kriging, takes the spectrum
MODELLED = [0, 0]  # fills without and with a model of maxima in the holes
WAVES = ("isotropic TDS", "anisotropic TDS")


def kriged(
    values: np.ndarray,
    sigma: np.ndarray,
    punched: np.ndarray,
    world: hole_worlds.World,
    rough: bool = False,
) -> tuple[fill.Target, list[fill.Holes], dict[str, control.Control], str, Tails | None]:
    """Fill as the first part of the stage; what was not measured beyond q_max is left.

    ``rough``: as the stage does before the spectrum, without the maxima in the holes.
    """
    q = np.linalg.norm(hole_worlds.hkl_of(world.grid) @ world.lattice.reciprocal.T, axis=-1)
    beyond = (punched == hole_worlds.UNMEASURED) & (q > world.q_max * (1 + 1e-9))
    code = np.where(beyond, np.uint8(fill.LEFT), punched)
    target = fill.Target(
        values.astype(np.float32),
        sigma.astype(np.float32),
        code,
        world.grid,
        np.array(world.lattice.cell),
        world.lattice.operations.astype(np.int64),
    )
    tails = None
    if rough:
        most = np.floor(-world.grid.first + 1e-9).astype(int)
        axes = [np.arange(-n, n + 1) for n in most]
        reflections = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        tails = Tails(target, reflections.astype(float), hole_worlds.RADIUS, world.q_max)
        tail_share.weigh(target, tails, world.q_max)
        tails.subtract()
    holes = fill.find_holes(target, np.flatnonzero(punched == hole_worlds.PUNCHED))
    found = control.controls(target, holes, world.q_max)
    model = control.best_of(found, fill.BEST)
    fill.fill(target, model, rough=rough and is_judged(found, model))
    return target, holes, found, model, tails


def arrays(target: fill.Target) -> tuple[np.ndarray, np.ndarray]:
    """Return S and its errors."""
    return target.data.astype(float), target.errors.astype(float)


def by_kriging(
    values: np.ndarray, sigma: np.ndarray, punched: np.ndarray, world: hole_worlds.World
) -> tuple[np.ndarray, np.ndarray]:
    """Fill as the first part of the stage."""
    return arrays(kriged(values, sigma, punched, world)[0])


def todays_fill(
    values: np.ndarray, sigma: np.ndarray, punched: np.ndarray, world: hole_worlds.World
) -> tuple[np.ndarray, np.ndarray]:
    """Fill as the stage does, with the spectrum."""
    data, errors, _ = with_covariance(values, sigma, punched, world)
    return data, errors


def with_covariance(
    values: np.ndarray, sigma: np.ndarray, punched: np.ndarray, world: hole_worlds.World
) -> tuple[np.ndarray, np.ndarray, Callable[[hole_judge.Judge], np.ndarray | float]]:
    """Fill as the stage does; the covariance of lattice vectors is that of the stage `pdf`."""
    target, holes, found, model, tails = kriged(values, sigma, punched, world, rough=True)
    name, _, again = refill(target, holes, found, model, world.q_max, rough=True)
    CHOSEN[name == spectrum.NAME] += 1
    if tails is not None:
        tails.settle(again)
    prior = None if again is None else hole_covariance.prior_of(target, again, tails)
    if tails is not None:
        MODELLED[tails.found] += 1
        tails.restore()
    data, errors = arrays(target)

    def part(judge: hole_judge.Judge) -> np.ndarray | float:
        if prior is None or np.any(judge.vectors != np.rint(judge.vectors)):
            return 0.0
        operations = world.lattice.operations
        made = plan(world.grid, target.cell, Taper("tukey", world.q_max, 0.5), operations)
        sums = hole_covariance.HoleSums(made, prior)
        for l, code in enumerate(target.code):  # noqa: E741
            sums.add(l, code, target.errors[l])
        numbers = {
            tuple(np.rint(mate).astype(int)): i
            for i, vector in enumerate(prior.vectors)
            for mate in vector @ operations
        }
        own = [numbers[tuple(np.rint(vector).astype(int))] for vector in judge.vectors]
        return sums.covariance()[np.ix_(own, own)] - judge.covariance(errors)

    return data, errors, part


def table(
    world: hole_worlds.World,
    name: str,
    norm: float,
    realisations: int,
    candidates: dict[str, Callable[..., tuple[object, ...]]],
) -> None:
    """Print a line for each class of vectors and each candidate."""
    at_lattice = hole_judge.lattice_vectors(world, 82)
    reach = np.linalg.norm(at_lattice @ world.lattice.direct.T, axis=1).max()
    elsewhere = hole_judge.other_vectors(world, reach, 82)
    for vectors, place in ((at_lattice, "lattice"), (elsewhere, "others")):
        judge = hole_judge.Judge(world, vectors)
        for label, candidate in candidates.items():
            result = hole_judge.verdict(*hole_judge.pulls(candidate, judge, norm, realisations))
            print(
                f"{name:52s} {norm:5.0f} {place:8s} {len(vectors):3d} {label:8s} "
                f"{result.mean:+7.2f} {result.width:6.2f} {result.bias:6.2f} {result.chi2:7.2f} "
                f"{result.chi2_full:7.2f} {result.shells:7.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=41)
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--norms", type=float, nargs="+", default=[10.0, 100.0])
    parser.add_argument("--realisations", type=int, default=4)
    parser.add_argument("--cells", nargs="+", default=list(hole_worlds.LATTICES))
    parser.add_argument("--kinds", nargs="+", default=list(hole_worlds.KINDS))
    parser.add_argument("--coverage", nargs="+", default=["whole", "cone"])
    parser.add_argument("--waves", action="store_true")
    args = parser.parse_args()
    kinds = [f"{k} + {w}" for k in args.kinds for w in WAVES] if args.waves else args.kinds
    print("world, coverage, norm, vectors, fill: mean, width, bias, χ² diagonal, χ² full, shells")
    for cell in args.cells:
        for kind in kinds:
            for coverage in args.coverage:
                world = hole_worlds.make_world(kind, cell, args.size, args.step, coverage == "cone")
                for norm in args.norms:
                    candidates = {
                        "kriging": by_kriging,
                        "fill": todays_fill,
                        "covar.": with_covariance,
                        "whole": hole_judge.without_holes(norm, 1000),
                    }
                    name = f"{cell}, {kind}, {coverage}"
                    table(world, name, norm, args.realisations, candidates)
    print(f"maxima in holes are modelled in {MODELLED[1]} of {sum(MODELLED)} fills")
    print(f"the spectrum is taken in {CHOSEN[1]} of {sum(CHOSEN)} fills")


if __name__ == "__main__":
    main()
