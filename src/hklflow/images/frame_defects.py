"""Frames that no measurement gives: lost ones, copies of others, and those of another rotation."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Counts from which on an empty frame, or two frames that are alike, are no accident.
_COUNTS = 100.0
# Decades of chance from which on frames of two rotations are the same. There are some 10⁸ ways to
# put two rotations beside each other, so that 12 decades are left.
_DECADES = 20.0


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


def shared(a: tuple[ArrayLike, ArrayLike], b: tuple[ArrayLike, ArrayLike]) -> list[tuple[int, int]]:
    """Pairs (frame of a, frame of b) of two rotations that are the same measurement.

    Two independent frames have the same sum with a chance of at most 1/√(2πC) at C counts, and the
    same counts in a ring likewise. The chances of frames that follow one another in both rotations,
    forwards or backwards, are multiplied. Frames without counts prove nothing.

    Parameters
    ----------
    a, b : (sums, rings)
        Counts of each frame (n,), and in rings of the detector (n, m). The rings prove more; they
        differ if the geometry does, the sums do not.
    """
    counts = [np.asarray(sums, np.float64) for sums, _ in (a, b)]
    known: dict[bytes, int] = {}
    rings = [
        np.array(
            [known.setdefault(row.tobytes(), len(known)) for row in np.asarray(part, np.float64)]
        )
        for _, part in (a, b)
    ]
    by_sum, by_rings = _decades(counts[0]), _decades(a[1]).sum(axis=1)
    n, m = len(counts[0]), len(counts[1])
    found = set()
    for order in (1, -1):
        other_counts, other_rings = counts[1][::order], rings[1][::order]
        for shift in range(1 - m, n):
            own, other = slice(max(shift, 0), shift + m), slice(max(-shift, 0), n - shift)
            same = counts[0][own] == other_counts[other]
            alike = rings[0][own] == other_rings[other]
            proof = np.where(same, np.where(alike, by_rings[own], by_sum[own]), 0.0)
            if proof.sum() < _DECADES:
                continue
            edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]])))
            for start, end in edges.reshape(-1, 2):
                if proof[start:end].sum() >= _DECADES:
                    at = np.arange(start, end)[proof[start:end] > 0]
                    theirs = at + other.start
                    theirs = theirs if order == 1 else m - 1 - theirs
                    found |= set(zip((at + own.start).tolist(), theirs.tolist(), strict=True))
    return sorted(found)


def _decades(counts: ArrayLike) -> NDArray[np.float64]:
    """Decades of chance that independent counts of these means differ."""
    known = np.maximum(2 * np.pi * np.asarray(counts, np.float64), 1.0)
    return 0.5 * np.log10(known)
