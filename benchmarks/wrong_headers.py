"""How often a wrong header is named, and how often the pasted remedy indexes.

`python -m benchmarks.wrong_headers [seeds] [class ...]` simulates small peak tables (20 degrees)
with a header that is wrong in one thing, asks for an explanation as `refine_parent` does, takes the
text to paste out of its sentence, and indexes again. The class ``right`` has right headers and six
peaks of ten that are noise, so that indexing fails although no header is wrong.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import sys
import time
from collections import Counter

from tests.truth import worlds
from tests.truth.wrong_headers import CLASSES, applied, ask


def main(seeds: int, names: list[str]) -> None:
    """Print a table."""
    print("class\tworlds\tindexed as stated\tnamed\tremedy indexes\tother names\tseconds (CPU)")
    for name in names or list(CLASSES):
        kind, size, systems, kinds = CLASSES[name]
        n = Counter[str]()
        others, seconds, seed = Counter[str](), 0.0, 0
        while n["worlds"] < seeds:
            system = systems[seed % len(systems)]
            seed += 1
            try:
                world = worlds.world(kind, system, seed, size, n_frames=40, mosaic=0.1)
            except KeyError:  # a space group without other settings that matter
                continue
            if len(world.peaks["frame"]) < 40:
                continue
            n["worlds"] += 1
            begin = time.process_time()
            good, found, text = ask(world)
            seconds += time.process_time() - begin
            n["as stated"] += good
            told = [one.kind for one in found]
            named = bool(told) and told[0] in kinds
            n["named"] += named
            n["remedy"] += named and applied(world, text)
            if told and not named:
                others[told[0]] += 1
            if not named and not good:
                print(f"# {name} {system} {seed} {told} {text[:100]}", file=sys.stderr, flush=True)
        print(
            f"{name}\t{n['worlds']}\t{n['as stated']}\t{n['named']}\t{n['remedy']}\t{dict(others)}"
            f"\t{seconds / seeds:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, sys.argv[2:])
