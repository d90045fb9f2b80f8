"""Is the background right that runs without the crystal measure?

Worlds of tests/truth/QUANTITATIVE.md: frames of a crystal with air and a capillary, and runs
without it. The stages `background`, `transform` and `merge` make S; the counts that they leave are
compared with the expected counts of the crystal alone: voxels, blocks of 5 x 5 x 5 voxels, and
shells of |Q|. The transmissions are the true ones (a file of one number for each frame).

    python -m benchmarks.background_truth [world ...] [--small]
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.truth.backgrounds import RUNS, figures, reduced, texts
from tests.truth.quantitative_catalogue import world
from tests.truth.quantitative_write import write


def main() -> None:
    """Print the figures of the worlds."""
    small = "--small" in sys.argv
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or ["plate", "capillary"]
    changes: dict[str, Any] = {"shape": (120, 128), "span": 60.0} if small else {}
    for name in names:
        w = world(name, 11, **changes)
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write(w, folder)
            texts(w, folder)
            cases = RUNS[name](w, folder)
            for case, runs in cases.items():
                print(f"{name}, {case}")
                for what, value in figures(reduced(w, folder, runs), len(w.scans)).items():
                    print(f"    {what:45} {value:.4g}")


if __name__ == "__main__":
    main()
