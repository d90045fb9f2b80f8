"""Identify the origin of the peaks that the lattice of the crystal does not index.

The possible origins are tested one after the other, each with the peaks that are still unexplained:
half the wavelength, satellites, powder rings of material around the crystal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact, spearmanr

from hklflow.geometry import Rotation, lattice, symmetry
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks
from hklflow.orientation.satellites import INDEXED, NEAR, satellites

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FEWEST = 8  # smallest number of peaks of one origin for a report
_HALVES = 7 * (2 * NEAR) ** 3  # fraction of the unit cube near half-integer indices
_ALIKE = 0.4  # smallest rank correlation of the intensities at h/2 and at h
# smallest rank correlation if all predicted peaks belong to one star of half-integer vectors: a
# superlattice has the same peaks
_ALIKE_IN_ONE_STAR = 0.8
_BY_CHANCE = 1e-3  # probability below which a correlation or a difference between stars is real
# largest fraction, compared with the star with most peaks, of the predicted peaks that are found in
# all other stars, if the peaks are those of a superlattice
_ONE_STAR = 0.3
# largest intensity relative to h; sources emit a few per cent of half the wavelength
_MOST_HALF = 0.2
_SIGNIFICANT = 5.0  # σ by which peaks on powder rings exceed the peaks between the rings
_RING = 0.004  # relative half width of a ring in |Q|; includes the change of cells with temperature
_ON_A_RING = 3  # smallest number of peaks on a ring, if there are at least two rings
_ALONE = 25  # smallest number of peaks if there is only one ring
_BY_ERROR = 16.27  # χ² of three coordinates that one of a thousand peaks exceeds
_TOO_FAR = 0.5 / 3  # σ of h, k or l above which every position is within 3 σ of a lattice point
_SINGULAR = 1e-12  # variance added to h, k, l, which may be 0 for a peak on the rotation axis
_BESIDE = 4.0  # width of the shells for the number by chance, in ring widths

# Cells (Å, degrees) of materials around crystals, and the hkl of their rings. Ice Ih is for a
# temperature between 100 and 250 K (Röttger et al., Acta Cryst. B 50, 644, 1994), the others for
# 293 K.
_CUBIC_F = ((1, 1, 1), (2, 0, 0), (2, 2, 0), (3, 1, 1), (2, 2, 2))
_DIAMOND = ((1, 1, 1), (2, 2, 0), (3, 1, 1), (4, 0, 0), (3, 3, 1))
_ICE = ((1, 0, 0), (0, 0, 2), (1, 0, 1), (1, 0, 2), (1, 1, 0), (1, 0, 3), (2, 0, 0), (1, 1, 2))
_POWDERS = {
    "ice": ((4.507, 4.507, 7.339, 90, 90, 120), _ICE),
    "aluminium": ((4.0496,) * 3 + (90,) * 3, _CUBIC_F),
    "copper": ((3.6149,) * 3 + (90,) * 3, _CUBIC_F),
    "diamond": ((3.567,) * 3 + (90,) * 3, _DIAMOND),
}


@dataclass(frozen=True)
class Unindexed:
    """Numbers of peaks that are not indexed, by origin.

    Attributes
    ----------
    fraction, error : float
        Unindexed fraction of the peaks that can be judged, see `telling`, and its binomial
        standard deviation.
    half : int
        Reflections of half the wavelength: peaks at half the indices of strong reflections, in the
        same proportions of even and odd indices, with correlated intensities.
    either : int
        Peaks at half-integer indices that agree with half the wavelength and with a superlattice;
        ``half`` is then 0.
    rings : list of (str, int)
        Powders, and numbers of peaks on their rings.
    satellites : list of (vector, int)
        Propagation vectors (3,), and numbers of peaks on them.
    rest : int
        Peaks without an explanation.
    """

    fraction: float
    error: float
    half: int
    either: int
    rings: list[tuple[str, int]]
    satellites: list[tuple[list[float], int]]
    rest: int


def telling(refined: Refined, peaks: Sequence[Peaks]) -> tuple[Mask, Mask]:
    """Return masks (n,): peaks off the lattice beyond their errors, and peaks that can be judged.

    A peak whose error is as large as the spacing of the lattice points is always near a lattice
    point, so it cannot be judged. Weak spots of a crystal with large mosaic spread are uncertain by
    a few frames: a tenth of these spots may deviate by 0.1 in h, k or l.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        Peaks of the refinement.
    """
    off, tell = [], []
    for rotation, peaks_of_rotation in zip(refined.rotations, peaks, strict=True):
        position, steps = (
            peaks_of_rotation.position,
            peaks_of_rotation.sigma[:, :, None] * np.eye(3),
        )
        miller = _miller(rotation, refined.ub, position)
        by_sigma = np.stack(
            [
                0.5
                * (
                    _miller(rotation, refined.ub, position + x)
                    - _miller(rotation, refined.ub, position - x)
                )
                for x in np.moveaxis(steps, 1, 0)
            ],
            axis=2,
        )
        covariance = max(refined.chi2, 1.0) * by_sigma @ np.swapaxes(by_sigma, 1, 2)
        away = miller - np.rint(miller)
        weighted = np.linalg.solve(covariance + _SINGULAR * np.eye(3), away[:, :, None])[:, :, 0]
        off.append(np.sum(away * weighted, axis=1) > _BY_ERROR)
        tell.append(np.sqrt(np.einsum("nii->ni", covariance).max(axis=1)) < _TOO_FAR)
    known: Mask = np.concatenate(tell)
    return np.concatenate(off) & known, known


def _miller(rotation: Rotation, ub: Floats, position: Floats) -> Floats:
    slow, fast, frame = position.T
    return rotation.hkl(ub, frame, slow, fast)


def unindexed(
    miller: Floats,
    length: Floats,
    intensity: Floats,
    others: Mask,
    group: symmetry.SpaceGroup,
    told: tuple[Mask, Mask] | None = None,
) -> Unindexed:
    """Identify the origin of peaks without integer indices.

    Parameters
    ----------
    miller : (n, 3) array
        Miller coordinates.
    length : (n,) array
        |Q| in 1/Å with 2π.
    intensity : (n,) array
    others : (n,) bool array
        True for peaks of other crystals, which are excluded.
    group : SpaceGroup
    told : two (n,) bool arrays or None
        Result of `telling`. None if the errors are not known.
    """
    left: Mask = (np.abs(miller - np.rint(miller)).max(axis=1) >= INDEXED) & ~others
    n = len(left)
    if told is not None:
        left &= told[0]
        n = int(told[1].sum())
    fraction = float(left.sum()) / max(n, 1)
    error = float(np.sqrt(fraction * (1 - fraction) / max(n, 1)))
    half, certain = _half_wavelength(miller, length, intensity, left, group)
    left &= ~half
    n_half = int(half.sum())
    rational, incommensurate = satellites(miller[left], group)
    vectors = []
    for satellite in (*rational, *incommensurate):
        on = left & _near_vector(miller, satellite["vector"], group)
        vectors.append((list(satellite["vector"]), int(on.sum())))
        left &= ~on
    rings = []
    for name, (cell, hkl) in _POWDERS.items():
        q = np.linalg.norm(lattice.b_matrix(cell) @ np.array(hkl).T, axis=0)
        on = _on_rings(length, left, q)
        if on.any():
            rings.append((name, int(on.sum())))
            left &= ~on
    return Unindexed(
        fraction,
        error,
        n_half if certain else 0,
        0 if certain else n_half,
        rings,
        vectors,
        int(left.sum()),
    )


def on_satellites(miller: Floats, left: Mask, group: symmetry.SpaceGroup) -> Mask:
    """Return True for peaks (n,) at a lattice point plus a propagation vector."""
    left = left & (np.abs(miller - np.rint(miller)).max(axis=1) >= INDEXED)
    on = np.zeros_like(left)
    for satellite in (x for kind in satellites(miller[left], group) for x in kind):
        on |= left & _near_vector(miller, satellite["vector"], group)
    return on


def _near_vector(miller: Floats, vector: Floats, group: symmetry.SpaceGroup) -> Mask:
    """Return True for peaks (n,) at a lattice point plus a mate of a propagation vector."""
    arms = [w @ np.asarray(vector) for w in group.laue_operations]
    off = miller[:, None] - np.unique(np.round(arms, 6), axis=0)
    near: Mask = (np.abs(off - np.rint(off)).max(axis=2) < NEAR).any(axis=1)
    return near


def _half_wavelength(
    miller: Floats, length: Floats, intensity: Floats, left: Mask, group: symmetry.SpaceGroup
) -> tuple[Mask, bool]:
    """Return a mask of peaks at h/2, perhaps of half the wavelength, and True if this is certain.

    Half the wavelength gives a peak at h/2 for each strong reflection h with an odd index,
    whichever indices are odd, and its intensity is proportional to that of h. A superlattice gives
    peaks at the vectors of one star only, and their intensities are independent of those at h. If
    the lattice has reflections h of one star only, the intensities alone must decide.
    """
    double = np.rint(2 * miller)
    near: Mask = left & (np.abs(2 * miller - double).max(axis=1) < 2 * NEAR)
    none = np.zeros_like(left), False
    chance = float(left.sum()) * _HALVES
    if near.sum() < max(FEWEST, chance + _SIGNIFICANT * np.sqrt(chance)):
        return none
    indexed = np.abs(miller - np.rint(miller)).max(axis=1) < INDEXED
    strength: dict[tuple[int, ...], float] = {}
    for hkl, counts in zip(np.rint(miller[indexed]).astype(int), intensity[indexed], strict=True):
        key = _friedel(hkl)
        strength[key] = max(strength.get(key, 0.0), float(counts))
    rows = np.flatnonzero(near)
    keys = [_friedel(double[row].astype(int)) for row in rows]
    pairs = [
        (length[row], intensity[row], strength[key])
        for row, key in zip(rows, keys, strict=True)
        if key in strength
    ]
    if len(pairs) < FEWEST:
        return none
    q, half_intensity, full_intensity = np.array(pairs).T
    alike, chance = _alike(q, np.maximum(half_intensity, 1.0), np.maximum(full_intensity, 1.0))
    if alike < _ALIKE or np.median(half_intensity) > _MOST_HALF * np.median(full_intensity):
        return none
    strong = [h for h, x in strength.items() if x >= np.median(full_intensity)]
    in_one, several = _in_one_star(strong, set(keys), group)
    if in_one:
        return none
    least = _ALIKE if several else _ALIKE_IN_ONE_STAR
    return near, bool(alike > least and chance < _BY_CHANCE)


def _in_one_star(
    strong: Sequence[tuple[int, ...]], found: set[tuple[int, ...]], group: symmetry.SpaceGroup
) -> tuple[bool, bool]:
    """Return True if peaks at h/2 are at one star only although other stars have strong h.

    The second value is True if the peaks are at several stars.

    Parameters
    ----------
    strong : sequence of (h, k, l)
        Strong reflections h.
    found : set of (h, k, l)
        Reflections h with a peak at h/2.
    """
    numbers: dict[
        tuple[int, ...], list[int]
    ] = {}  # of a star: strong h with a peak at h/2, without
    for hkl in strong:
        mates = group.laue_operations @ np.array(hkl) % 2
        if mates.any():
            star = max(tuple(int(x) for x in mate) for mate in mates)
            numbers.setdefault(star, [0, 0])[0 if hkl in found else 1] += 1
    if len(numbers) < 2:
        return False, False
    most = max(numbers, key=lambda star: numbers[star][0])
    first = np.array(numbers.pop(most))
    others = np.sum(list(numbers.values()), axis=0)
    rarer = others[0] / others.sum() < _ONE_STAR * first[0] / first.sum()
    return (
        bool(
            rarer
            and fisher_exact(np.stack([first, others])).pvalue < _BY_CHANCE / (len(numbers) + 1)
        ),
        bool(others[0]) and not rarer,
    )


def _alike(q: Floats, half_intensity: Floats, full_intensity: Floats) -> tuple[float, float]:
    """Return the rank correlation of intensities (n,), corrected for their decrease with q.

    The second value is the probability of a larger correlation by chance.
    """
    slopes = np.stack([np.ones_like(q), q**2], axis=1)
    left = [
        y - slopes @ np.linalg.lstsq(slopes, y, rcond=None)[0]
        for y in np.log([half_intensity, full_intensity])
    ]
    found = spearmanr(*left)
    return float(found.statistic), float(found.pvalue)


def _friedel(hkl: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the same key for a reflection and its Friedel mate."""
    key = tuple(int(x) for x in hkl)
    return max(key, tuple(-x for x in key))


def _on_rings(length: Floats, left: Mask, q: Floats) -> Mask:
    """Return True for peaks on powder rings that have more peaks than the shells around them."""
    on_any_ring = np.zeros_like(left)
    number = chance = rings = 0.0
    for centre in q:
        away = np.abs(length / centre - 1)
        on = left & (away < _RING)
        # The number by chance is taken from shells on both sides of the ring.
        beside = left & (away >= 2 * _RING) & (away < (2 + _BESIDE) * _RING)
        expected = max(float(beside.sum()) / _BESIDE, 0.5)
        if on.sum() - expected > 2 * np.sqrt(expected):
            on_any_ring |= on
            number, chance = number + float(on.sum()), chance + expected
            rings += on.sum() >= _ON_A_RING
    # Reflections of a lattice may have the length of one ring, but not of several rings. If the
    # detector covers one ring only, it must contain most of the remaining peaks.
    alone = number >= _ALONE and number > 0.5 * left.sum()
    good = number >= FEWEST and number - chance > _SIGNIFICANT * np.sqrt(chance)
    good = good and (rings > 1 or alone)
    return on_any_ring if good else np.zeros_like(left)
