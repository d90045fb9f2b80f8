"""ΔPDF of filled volumes against truth: pulls at lattice vectors and elsewhere, injected cosines.

    python -m benchmarks.holes_truth [--size 41] [--step 0.1] [--norms 10 100] [--realisations 4]
        [--cells cubic ...] [--kinds "size effect" ...] [--waves] [--cosines]

Worlds of tests/truth/hole_worlds.py with a known S(Q); counting noise for a given norm; holes of
0.2 1/Å. `fill` is the fill of the stage; `kriging` is its first part, without the spectrum; `whole`
is the same volume without holes (its figures are 0 and 1 if σ is right); `spectrum` with --spectrum
is the fill of spectrum_fill.py, with its covariance. mean, bias: mean pull, and
rms over vectors of their mean pulls; χ² with the diagonal and with the full covariance of
independent voxels; shells: width of the pulls of sums over shells. --waves adds thermal diffuse
scattering; --cosines also prints recovered amplitudes of injected cosines.
"""
# ruff: noqa: I001

import argparse
from collections.abc import Callable

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks import spectrum_fill
from hklflow.volumes import control, fill, spectrum
from hklflow.volumes.refill import is_judged, refill
from tests.truth import hole_judge, hole_worlds

CHOSEN = [0, 0]  # fills of which the stage keeps kriging, takes the spectrum
WAVES = ("isotropic TDS", "anisotropic TDS")


def kriged(
    values: np.ndarray,
    sigma: np.ndarray,
    punched: np.ndarray,
    world: hole_worlds.World,
    rough: bool = False,
) -> tuple[fill.Target, list[fill.Holes], dict[str, control.Control], str]:
    """Fill as the first part of the stage; what was not measured beyond q_max is left."""
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
    holes = fill.find_holes(target, (punched == hole_worlds.PUNCHED).view(np.uint8))
    found = control.controls(target, holes)
    model = control.best_of(found, fill.BEST)
    fill.fill(target, model, rough=rough and is_judged(found, model))
    return target, holes, found, model


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
    target, holes, found, model = kriged(values, sigma, punched, world, rough=True)
    chosen, _ = refill(target, holes, found, model, world.q_max, rough=True)
    CHOSEN[chosen == spectrum.NAME] += 1
    return arrays(target)


def by_spectrum(
    values: np.ndarray, sigma: np.ndarray, punched: np.ndarray, world: hole_worlds.World
) -> tuple[object, ...]:
    """Fill by the learnt spectrum. Holes have the noise of their neighbours."""
    fill = spectrum_fill.SpectrumFill(values, sigma, punched, world)
    known = np.isfinite(sigma)
    around = gaussian_filter(np.where(known, sigma, 0.0) ** 2, 1.5)
    around /= np.maximum(gaussian_filter(known.astype(float), 1.5), 1e-9)
    filled = np.where(np.isfinite(fill.filled), fill.filled, 0.0)
    return filled, np.where(known, sigma, np.sqrt(around)), fill.covariance


def table(
    world: hole_worlds.World,
    name: str,
    norm: float,
    realisations: int,
    candidates: dict[str, Callable[..., tuple[object, ...]]],
    cosines: bool,
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
            if cosines and label != "whole":
                which = np.linspace(0, len(vectors) - 1, 7).astype(int)
                amplitudes = hole_judge.recovered(candidate, judge, which, norm, 0)
                pairs = zip(judge.lengths[which], amplitudes, strict=True)
                print("    cosines:", "  ".join(f"{r:.1f} Å {a:.3f}" for r, a in pairs), flush=True)


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
    parser.add_argument("--cosines", action="store_true")
    parser.add_argument("--spectrum", action="store_true")
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
                        "whole": hole_judge.without_holes(norm, 1000),
                    }
                    name = f"{cell}, {kind}, {coverage}"
                    if args.spectrum:
                        candidates["spectrum"] = by_spectrum
                    table(world, name, norm, args.realisations, candidates, args.cosines)
    print(f"the spectrum is taken in {CHOSEN[1]} of {sum(CHOSEN)} fills")


if __name__ == "__main__":
    main()
