"""Indexing in 7 crystal systems with 20 seeds, cell known to 3 % and unknown.

The peaks, and when an answer counts: see `tests/truth/lattices.py`.

    python -m benchmarks.indexing_x4 [number of seeds]
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import sys
import time

import numpy as np
from tests.truth.defaults import index_peaks
from tests.truth.lattices import CASES, is_right, rough_cell, simulate

from hklflow.base.errors import HklflowError
from hklflow.geometry import symmetry


def main(seeds: int) -> None:
    print(f"{'system':14s} {'known':>9s} {'unknown':>9s} {'bravais':>9s} {'longest/cpu s':>14s}")
    for system, cases in CASES.items():
        right = {True: 0, False: 0}
        bravais, longest = 0, 0.0
        for seed in range(seeds):
            symbol, cell = cases[seed % len(cases)]
            group = symmetry.space_group(symbol)
            g, true = simulate(symbol, cell, seed)
            for known in (True, False):
                started = time.process_time()
                try:
                    hints = (
                        {"cell": rough_cell(symbol, cell, seed), "group": group} if known else {}
                    )
                    found = index_peaks(g, **hints)
                except HklflowError as problem:
                    print(f"  {symbol} seed {seed} known {known}: {problem}")
                    continue
                finally:
                    longest = max(longest, time.process_time() - started)
                setting = found.candidates[0].group
                good = is_right(found.ub, setting, true, symbol)
                right[known] += good
                if not known:
                    bravais += good and setting.bravais == group.bravais
                if not good:
                    print(f"  {symbol} seed {seed} known {known}: {np.round(found.cell, 3)}")
        print(
            f"{system:14s} {right[True]:6d}/{seeds} {right[False]:6d}/{seeds} "
            f"{bravais:6d}/{seeds} {longest:14.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
