"""Damaged frames: lost frames, copies of other frames, and frames of another rotation."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Expected counts above which an empty frame, or two equal frames, cannot be chance.
_COUNTS = 100.0
# Frames of two rotations are the same if the probability of a chance match is below 10⁻²⁰. Two
# rotations have about 10⁸ relative positions, so a false match has a probability of 10⁻¹².
_DECADES = 20.0


def lost(sums: ArrayLike, incident: ArrayLike) -> NDArray[np.int64]:
    """Return the frames (m,) with no counts although 100 or more are expected.

    Parameters
    ----------
    sums : (n,) array
        Counts of each frame.
    incident : (n,) array
        Incident intensity of each frame, in any unit. An empty frame without beam is not lost.
    """
    counts, beam = np.asarray(sums, dtype=np.float64), np.asarray(incident, dtype=np.float64)
    expected = np.median(counts / beam) * beam
    return np.flatnonzero((counts == 0) & (expected >= _COUNTS))


def copies(sums: ArrayLike, rings: ArrayLike) -> list[tuple[int, int]]:
    """Return pairs (earlier, later) of frames with the same counts in all rings of the detector.

    Parameters
    ----------
    sums : (n,) array
        Counts of each frame; frames with fewer than 100 counts can be equal by chance.
    rings : (n, m) array
        Counts of each frame in rings of the detector.
    """
    rows = np.asarray(rings)
    first: dict[bytes, int] = {}
    pairs = []
    for frame in np.flatnonzero(np.asarray(sums) >= _COUNTS):
        earlier = first.setdefault(rows[frame].tobytes(), int(frame))
        if earlier != frame:
            pairs.append((earlier, int(frame)))
    return pairs


def shared(a: tuple[ArrayLike, ArrayLike], b: tuple[ArrayLike, ArrayLike]) -> list[tuple[int, int]]:
    """Return pairs (frame of a, frame of b) of two rotations that are the same measurement.

    Two independent frames with C counts have the same sum with a probability of at most 1/√(2πC).
    The counts in a ring have the same property. The probabilities of consecutive frames are
    multiplied; the order in both rotations may be the same or opposite. Frames without counts prove
    nothing.

    Parameters
    ----------
    a, b : (sums, rings)
        Counts of each frame (n,), and counts in rings of the detector (n, m). Rings give a stronger
        proof than sums, but depend on the geometry.
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
    pairs = set()
    for order in (1, -1):
        other_counts, other_rings = counts[1][::order], rings[1][::order]
        for shift in range(1 - m, n):
            of_a, of_b = slice(max(shift, 0), shift + m), slice(max(-shift, 0), n - shift)
            same = counts[0][of_a] == other_counts[of_b]
            alike = rings[0][of_a] == other_rings[of_b]
            proof = np.where(same, np.where(alike, by_rings[of_a], by_sum[of_a]), 0.0)
            if proof.sum() < _DECADES:
                continue
            edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]])))
            for start, end in edges.reshape(-1, 2):
                if proof[start:end].sum() >= _DECADES:
                    proven = np.arange(start, end)[proof[start:end] > 0]
                    frames_b = proven + of_b.start
                    frames_b = frames_b if order == 1 else m - 1 - frames_b
                    frames_a = proven + of_a.start
                    pairs |= set(zip(frames_a.tolist(), frames_b.tolist(), strict=True))
    return sorted(pairs)


def _decades(counts: ArrayLike) -> NDArray[np.float64]:
    """Return -log10 of the largest probability that two independent counts are equal."""
    known = np.maximum(2 * np.pi * np.asarray(counts, np.float64), 1.0)
    return 0.5 * np.log10(known)
