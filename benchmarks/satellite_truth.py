"""Positions of simulated satellites against temperature: pulls, moves, lock-in, false claims.

python -m benchmarks.satellite_truth [develop|held] [SERIES OF EACH KIND [SEED]] [KIND ...]

`develop` has seeds with which the fit was chosen (from 0), `held` others, run once at the end; SEED
is another first one. A move counts as determined by the data if the positions of the Fisher bound
of the true counts differ from a constant by a χ² of 50 (seven standard deviations), also without
any one scan.
"""

import sys
import time
from collections import Counter

import numpy as np
from tests.truth.satellite_reduction import measured
from tests.truth.satellite_worlds import KINDS, MOVING, World, draw, fisher

from hklflow.bragg import star_arms

HELD = 100_000  # first seed that was not used to choose the fit
LEAST = 50.0
SEEN = 6.0  # photons over noise that a position needs


def is_determined(world: World) -> bool:
    """Return True if the counts determine that the vector moves; independent of the program."""
    move = world.vectors[-1] - world.vectors[0]
    size = float(np.linalg.norm(move))
    if size == 0:
        return False
    sigma = np.array([fisher(world, i, move / size) for i in range(len(world.vectors))])
    # Positions are given where the intensity is seen: its relative σ is that of q over the width.
    seen = sigma < world.width[0] / SEEN
    weight = np.where(seen, 1 / np.hypot(sigma, 1e-4) ** 2, 0.0)
    along = (world.vectors - world.vectors[0]) @ move / size

    def chi2(use: np.ndarray) -> float:
        w = weight * use
        if w.sum() == 0:
            return 0.0
        mean = float(w @ along / w.sum())
        return float(w @ (along - mean) ** 2)

    return min(chi2(x) for x in ~np.eye(len(along), dtype=bool)) > LEAST


def judge_arms(
    world: World, arms: star_arms.Arms | None, tally: Counter, pulls: dict[str, list[float]]
) -> None:
    """Count what is said of the arms, and collect the pulls of their shares."""
    if arms is None:
        return
    kind = "unequal" if world.kind == "unequal arms" else "equal"
    tally["arms", kind, {True: "equal", False: "differ", None: "not determined"}[arms.equal]] += 1
    tally["arms change", arms.changes] += 1
    start = world.crystal.start
    truth = np.zeros(len(world.shares))
    for operation, share in zip(world.arms(), world.shares, strict=True):
        true = operation @ start
        away = [min(np.abs(x - true).max(), np.abs(x + true).max()) for x in arms.vectors]
        truth[int(np.argmin(away))] += share
    pulls.setdefault(kind + " arms, all scans", []).extend(
        (arms.shares - truth)[:-1] / arms.sigma[:-1]
    )
    each = ((arms.scan_shares - truth[:, None]) / arms.scan_sigma)[:-1]
    known = arms.scan_sigma[:-1] < 0.2
    pulls.setdefault(kind + " arms, one scan", []).extend(each[known])


def main() -> None:
    """Print the figures of all kinds."""
    numbers = [int(x) for x in sys.argv[1:] if x.isdigit()]
    number = numbers[0] if numbers else 20
    part = numbers[1] if len(numbers) > 1 else HELD if "held" in sys.argv else 0
    kinds = [x for x in KINDS if x in sys.argv] or list(KINDS)
    start = time.process_time()
    pulls: dict[str, list[float]] = {}
    places: list[tuple[float, object]] = []
    shares: dict[str, list[float]] = {}
    tally: Counter = Counter()
    for kind in kinds:
        for seed in range(part, part + number):
            world = draw(seed, kind)
            course, arms = measured(world)
            judge_arms(world, arms, tally, shares)
            for i in course.seen:
                position = course.positions[i]
                off = position.free - course.star.basis.T @ (world.vectors[i] - course.star.vector)
                root = np.linalg.cholesky(np.linalg.inv(position.covariance))
                pulls.setdefault(kind, []).extend(off @ root)
            tally[kind] += 1
            tally[kind, course.moves] += 1
            if kind in MOVING:
                known = is_determined(world)
                tally[kind, "determined"] += known
                tally[kind, "answered"] += known and course.moves is True
                if known and not course.moves:
                    print("not answered", kind, seed, f"{course.ratio:.1f}", world.crystal.name)
            elif course.moves:
                print("false claim", kind, seed, f"{course.ratio:.1f}", world.crystal.name)
            if course.locked is not None:
                tally[kind, "locked"] += 1
                if world.locked is not None:
                    places.append((world.locked, course.locked))
                right = course.commensurate is not None and np.allclose(
                    course.commensurate, world.crystal.start
                )
                tally[kind, "fractions right"] += right
                tally[kind, "fractions wrong"] += course.commensurate is not None and not right
    for kind, values in (pulls | shares).items():
        x = np.array(values)
        print(
            f"{kind}: {len(x)} values, pulls {x.mean():+.2f} ± {x.std():.2f}, "
            f"{np.mean(abs(x) < 1):.0%} within σ, {np.mean(abs(x) > 3):.1%} beyond 3 σ"
        )
    for key, n in tally.items():
        print(key, n)
    if places:
        inner = np.mean([x.inner[0] <= true <= x.inner[1] for true, x in places])
        outer = np.mean([x.outer[0] <= true <= x.outer[1] for true, x in places])
        print(f"lock-in: {len(places)}, 68 % covers {inner:.0%}, 95 % covers {outer:.0%}")
    print(f"{time.process_time() - start:.0f} s of CPU")


if __name__ == "__main__":
    main()
