"""How often the suggested Laue group and extinction symbol are the true ones.

python -m benchmarks.symmetry_truth develop   # even seeds
python -m benchmarks.symmetry_truth final     # odd seeds
"""

import argparse
import sys
import time

from tests.truth.symmetries import CASES, make

from hklflow.bragg.suggest import suggest

SEEDS = {"develop": (0, 2), "final": (1, 3)}


def main() -> None:
    """Print one line for each crystal, and the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=SEEDS)
    parser.add_argument("--only", default="")
    parsed = parser.parse_args()
    right = {"laue": 0, "extinction": 0, "listed": 0, "all": 0}
    for seed in SEEDS[parsed.part]:
        for case in CASES:
            if parsed.only not in case.name:
                continue
            truth = make(case, seed)
            start = time.perf_counter()
            found = suggest(truth.measured)
            seconds = time.perf_counter() - start
            best = found.laue[0]
            number = truth.group.number
            first = any(g.number == number for g in found.extinctions[0].groups)
            listed = any(g.number == number for e in found.undecided for g in e.groups)
            laue = best.laue == truth.group.laue
            right["laue"] += laue
            right["extinction"] += first
            right["listed"] += first or listed
            right["all"] += 1
            print(
                f"{case.name:46s} {best.group.symbol:14s} {best.laue:6s} {best.probability:.3f} "
                f"{len(found.possible)} {found.space_group.symbol:16s} "
                f"{'' if laue else 'LAUE '}{'' if first else 'listed ' if listed else 'EXTINCTION'}"
                f" {len(found.undecided)} moment {found.moment:.2f} n {found.reflections} "
                f"{seconds:.1f} s",
                flush=True,
            )
    print(right)
    sys.exit(right["laue"] < right["all"])


if __name__ == "__main__":
    main()
