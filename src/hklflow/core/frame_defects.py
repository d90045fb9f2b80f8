"""Frames that no measurement gives: lost ones, and copies of others."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Counts from which on an empty frame, or two frames that are alike, are no accident.
_COUNTS = 100.0


def lost(sums: ArrayLike, incident: ArrayLike) -> NDArray[np.int64]:
    """Frames (m,) without a count, where others make 100 or more be expected (chance: e⁻¹⁰⁰).

    Parameters
    ----------
    sums : (n,) array
        Counts of each frame.
    incident : (n,) array
        Incident intensity of each frame, in any unit: a beam that was away explains an empty frame.
    """
    counts, beam = np.asarray(sums, dtype=np.float64), np.asarray(incident, dtype=np.float64)
    expected = np.median(counts / beam) * beam
    return np.flatnonzero((counts == 0) & (expected >= _COUNTS))


def copies(sums: ArrayLike, rings: ArrayLike) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of frames that have the same counts in all rings of the detector.

    Parameters
    ----------
    sums : (n,) array
        Counts of each frame; of fewer than 100 two can be alike by chance.
    rings : (n, m) array
        Counts of each frame in rings of the detector.
    """
    rows = np.asarray(rings)
    first: dict[bytes, int] = {}
    found = []
    for frame in np.flatnonzero(np.asarray(sums) >= _COUNTS):
        earlier = first.setdefault(rows[frame].tobytes(), int(frame))
        if earlier != frame:
            found.append((earlier, int(frame)))
    return found
