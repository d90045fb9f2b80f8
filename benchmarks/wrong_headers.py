"""How often a wrong header is named, and how often the pasted remedies find the crystal.

`python -m benchmarks.wrong_headers [worlds] [first seed] [class ...]` simulates small peak tables
(20 degrees) with a header that is wrong in one thing, as experiments that are imported and refined
by the stages, pastes each remedy of the refusal's sentence, and refines again. The class ``right``
has right headers and six peaks of ten that are noise, so that indexing fails although no header is
wrong.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import contextlib
import io
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.truth import worlds
from tests.truth.wrong_headers import CLASSES, Answer, Pasted, remedies, stated


def worlds_of(name: str, first: int) -> Iterator[worlds.World]:
    """Yield the worlds of a class with at least 40 peaks."""
    kind, size, systems, _ = CLASSES[name]
    for seed in range(first, first + 1000):
        system = systems[seed % len(systems)]
        try:
            world = worlds.world(kind, system, seed, size, n_frames=40, mosaic=0.1)
        except KeyError:  # a space group without other settings that matter
            continue
        if len(world.peaks["frame"]) >= 40:
            yield world


def refined(experiment: Pasted) -> Answer:
    """Refine without the lines that the stage prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return experiment.refined()


def main(number: int, first: int, names: list[str]) -> None:
    """Print a table."""
    print(
        "class\tworlds\trefused\tnamed\tall remedies work\tother\tsilent\t"
        "refused at import or loading\tseconds (CPU)"
    )
    for name in names or list(CLASSES):
        n, begin = Counter[str](), time.process_time()
        for world, _ in zip(worlds_of(name, first), range(number), strict=False):
            with tempfile.TemporaryDirectory() as folder:
                experiment = stated(world, Path(folder))
                answer = refined(experiment)
                text = answer.explanation
                if re.search("outside the range of X-rays|does not fit", answer.refusal):
                    n["before"] += 1
                    continue
                n["refused"] += bool(answer.refusal)
                named = bool(re.search(CLASSES[name][3], re.split("; or (?=with )", text)[0]))
                n["named"] += named
                n["other"] += bool(text) and not named
                n["silent"] += bool(answer.refusal) and not text
                works = [
                    not refined(experiment.with_remedy(remedy)).refusal for remedy in remedies(text)
                ]
                n["work"] += bool(works) and all(works)
                if answer.refusal and not (named and all(works)):
                    tail = text or answer.refusal[-150:]
                    print(f"# {name} {world.system} {world.seed} {works} {tail}", file=sys.stderr)
        counts = "\t".join(
            str(n[x]) for x in ("refused", "named", "work", "other", "silent", "before")
        )
        seconds = (time.process_time() - begin) / number
        print(f"{name}\t{number}\t{counts}\t{seconds:.1f}", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 5, int(given[1]) if given[1:] else 0, given[2:])
