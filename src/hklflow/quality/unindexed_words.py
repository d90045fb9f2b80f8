"""Sentences on the origin of peaks that are not indexed.

A record has the numbers of `orientation.unindexed`. This module is plain Python, like
`quality.gates`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hklflow.quality.remedies import is_same_vector, vector_text

HALF = "half the wavelength"
EITHER = "half the wavelength or a superlattice"
_OFF = 0.1  # deviation of h, k or l of a peak that is not indexed

Record = Mapping[str, Any]


def parts(left: Record) -> list[str]:
    """Return one phrase for each origin of unindexed peaks."""
    phrases = []
    if left[HALF]:
        phrases.append(
            f"{left[HALF]} are reflections of half the wavelength, which also contributes to S(Q) "
            "(remove it with a mirror, a detuned monochromator or a higher detector threshold)"
        )
    if left[EITHER]:
        phrases.append(
            f"{left[EITHER]} are at half-integer h, k, l, and the stronger, the stronger the "
            "reflection at twice their indices is: a superlattice, or reflections of half the "
            "wavelength, which are there at every temperature (measure above the transition, or "
            "with a mirror)"
        )
    phrases += [f"{n} are on rings of {name} (mask the rings)" for name, n in left["rings"].items()]
    if left["satellites"]:
        vectors = ", ".join(vector_text(vector) for vector, _ in left["satellites"])
        number = sum(n for _, n in left["satellites"])
        phrases.append(
            f"{number} are at {vectors} from reflections: a superlattice or a modulation (a larger "
            "cell would index them)"
        )
    if left["rest"]:
        phrases.append(
            f"{left['rest']} fit no known pattern: another lattice, noise, or maxima of the "
            "diffuse scattering (look at the picture of the peak search)"
        )
    return phrases


def sentence(left: Record, scan: str, besides: str = "") -> str:
    """Return the sentence on the peaks of a scan; ``besides`` names peaks that are not counted."""
    return (
        f"{100 * left['fraction']:.1f} ± {100 * left['error']:.1f} % of the peaks of {scan} "
        f"are not indexed{besides} (h, k or l is off an integer by {_OFF:g} or more, and by more "
        f"than its error): {'; '.join(parts(left))}"
    )


def is_half(vector: Sequence[float]) -> bool:
    """Return True if the components of a vector are multiples of 1/2."""
    return all(abs(2 * x - round(2 * x)) < 1e-6 for x in vector)


def without(left: Record, vectors: Sequence[Sequence[float]], scan: str) -> Record:
    """Return a record without the peaks at some vectors, which another sentence counts."""
    kept = [
        (vector, n)
        for vector, n in left["satellites"]
        if not any(is_same_vector(vector, other) for other in vectors)
    ]
    gone = sum(n for _, n in left["satellites"]) - sum(n for _, n in kept)
    either = left.get(EITHER, 0)
    if either and any(map(is_half, vectors)):
        gone, either = gone + either, 0
    if not gone:
        return left
    number = left[HALF] + either + sum(left["rings"].values()) + sum(n for _, n in kept)
    number += left["rest"]
    # Both numbers are of the same peaks that can be judged.
    of = (number + gone) / left["fraction"]
    fraction = number / of
    fewer = {
        **left,
        "fraction": fraction,
        "error": (fraction * (1 - fraction) / of) ** 0.5,
        "satellites": kept,
        EITHER: either,
        "named": bool(left[HALF] or left["rings"]),
    }
    besides = f", without those at {' and '.join(map(vector_text, vectors))}"
    return {**fewer, "sentence": sentence(fewer, scan, besides)}
