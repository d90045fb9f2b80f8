"""Recovered amplitude of cosines that are injected into S(Q), against |r| and the stated error.

    python -m benchmarks.cosines_truth [--claim 0.02] [--vectors 5] [--norms 10 100]
        [--cells cubic ...] [--kinds "size effect" ...] [--coverage whole cone]

Worlds of tests/truth/hole_worlds.py (41³ voxels of 0.1 r.l.u., holes of 0.2 1/Å). Each cosine
has 1/claim of the σ that hklflow stores for its vector: its amplitude is claimed to ± claim. It is
added to the measured S, with the same noise, and everything is filled again (kriging, spectrum,
maxima inside of holes). One at a lattice vector and one elsewhere, which do not mix, are injected
at a time. The truth is the same sum without holes. σ at lattice vectors has the covariance that
`pdf` stores; elsewhere, voxels are independent.
"""
# ruff: noqa: I001

import argparse

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
import numpy as np

from benchmarks.holes_truth import with_covariance
from tests.truth import hole_judge, hole_worlds

# Upper ends of |r| in the summary, Å.
ENDS = (6.0, 12.0, 18.0, 24.0, 32.0)


def recovered(
    world: hole_worlds.World, norm: float, claim: float, vectors: int
) -> list[tuple[bool, float, float, float]]:
    """Return (at a lattice vector, |r|, share, stated error of the share) of each cosine."""
    lattice = hole_judge.lattice_vectors(world, 82)
    reach = np.linalg.norm(lattice @ world.lattice.direct.T, axis=1).max()
    chosen = [
        x[np.linspace(0, len(x) - 1, vectors).astype(int)]
        for x in (lattice, hole_judge.other_vectors(world, reach, 82))
    ]
    judges = [hole_judge.Judge(world, x) for x in chosen]
    values, sigma = world.measure(norm, 0)

    def filled(s: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        data, errors, part = with_covariance(s, sigma, world.punched, world)
        stated = [np.sqrt(np.diag(j.covariance(errors) + part(j))) for j in judges]
        return [j.transform(data) for j in judges], stated

    before, stated = filled(values)
    hkl = hole_worlds.hkl_of(world.grid).reshape(-1, 3)
    numbers = world.orbits.ravel()
    results = []
    for i in range(vectors):
        waves = []
        for judge, errors in zip(judges, stated, strict=True):
            wave = np.cos(2 * np.pi * (hkl @ judge.vectors[i]))
            mean = (np.bincount(numbers, wave) / np.bincount(numbers))[world.orbits]
            waves.append(mean * errors[i] / claim / judge.transform(mean)[i])
        after, errors_after = filled(values + sum(waves))
        for place, judge in enumerate(judges):
            whole = judge.transform(sum(waves))[i]
            share = (after[place][i] - before[place][i]) / whole
            error = errors_after[place][i] / whole
            results.append((place == 0, float(judge.lengths[i]), float(share), float(error)))
    return results


def summary(results: list[tuple[bool, float, float, float]], title: str) -> None:
    """Print mean, rms and extremes of share − 1 in ranges of |r|."""
    print(title)
    for at_lattice, place in ((True, "lattice"), (False, "others")):
        lower = 0.0
        for end in ENDS:
            own = np.array([x[2:] for x in results if x[0] == at_lattice and lower < x[1] <= end])
            if len(own):
                off, error = own[:, 0] - 1, own[:, 1]
                print(
                    f"  {place:8s} {lower:4.0f} to {end:3.0f} Å  n {len(own):3d}  "
                    f"mean {1 + off.mean():.4f}  rms from 1 {np.sqrt(np.mean(off**2)):.4f}  "
                    f"least {1 + off.min():.4f}  most {1 + off.max():.4f}  "
                    f"within stated {np.mean(np.abs(off) <= error):.2f}",
                    flush=True,
                )
            lower = end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claim", type=float, default=0.02)
    parser.add_argument("--vectors", type=int, default=5)
    parser.add_argument("--norms", type=float, nargs="+", default=[10.0, 100.0])
    parser.add_argument("--cells", nargs="+", default=list(hole_worlds.LATTICES))
    parser.add_argument("--kinds", nargs="+", default=list(hole_worlds.KINDS))
    parser.add_argument("--coverage", nargs="+", default=["whole", "cone"])
    args = parser.parse_args()
    everything: dict[tuple[str, str], list[tuple[bool, float, float, float]]] = {}
    for coverage in args.coverage:
        for kind in args.kinds:
            for cell in args.cells:
                world = hole_worlds.make_world(kind, cell, 41, 0.1, coverage == "cone")
                for norm in args.norms:
                    results = recovered(world, norm, args.claim, args.vectors)
                    everything.setdefault((kind, coverage), []).extend(results)
                    print(f"{cell}, {kind}, {coverage}, {norm:g} counts", flush=True)
                    for at_lattice, place in ((True, "lattice"), (False, "others")):
                        own = sorted(x[1:] for x in results if x[0] == at_lattice)
                        text = "  ".join(f"{r:.1f} Å {s:.3f}±{e:.3f}" for r, s, e in own)
                        print(f"    {place:8s} {text}", flush=True)
    for (kind, coverage), results in everything.items():
        summary(results, f"{kind}, {coverage}")


if __name__ == "__main__":
    main()
