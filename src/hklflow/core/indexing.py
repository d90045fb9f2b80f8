"""Orientation from nothing: the lattice of a cloud of scattering vectors.

The direct lattice is where the Fourier transform of the cloud is large. Its short
vectors are read from a three-dimensional FFT (after Bricogne, as in Campbell,
J. Appl. Cryst. 31, 407, 1998), refined, and the triple that indexes the most peaks with the
smallest volume is taken, fitted by least squares and brought to the expected cell or to a
conventional one. Nothing is random: equal input gives equal output.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from hklflow.core import lattice, symmetry
from hklflow.core.reduction import matching_settings, real_basis, reduced_ub, strain
from hklflow.errors import HklflowError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SHORTEST = 2.0  # Å; no crystal has a shorter lattice vector than about 2.2 Å.
_SEARCH_TOLERANCE = 0.15  # in hkl, while vectors are not refined together yet
_MAX_VECTORS = 48
_MAX_GRID = 256
_MAX_SEARCH_PEAKS = 3000
_MIN_PEAKS = 15
# Strain that an error of the geometry, as a beam centre off by a pixel, can mimic.
_METRIC_ACCURACY = 5e-4


@dataclass(frozen=True)
class Candidate:
    """A setting in which the peaks can be indexed.

    Attributes
    ----------
    group : SpaceGroup
        The expected one, or the most symmetric one of the lattice.
    cell : (6,) array
        Å and degrees, as fitted; not constrained.
    ub : (3, 3) array
        1/Å with 2π.
    deviation : float
        Largest principal strain between the cell and one that obeys the symmetry.
    rms : float
        Rms distance in 1/Å of the indexed peaks from the lattice when its cell is made to
        obey the symmetry.
    accepted : bool
        Whether the symmetry leaves the fit about as good as none does.
    """

    group: symmetry.SpaceGroup
    cell: Floats
    ub: Floats
    deviation: float
    rms: float
    accepted: bool


@dataclass(frozen=True)
class Indexing:
    """A crystal's lattice and orientation.

    Attributes
    ----------
    ub : (3, 3) array
        1/Å with 2π, ``G = UB h`` in the goniometer's frame.
    u : (3, 3) array
        Proper rotation.
    cell : (6,) array
        Å and degrees, from the fit of UB without constraints.
    hkl : (n, 3) int array
        Nearest indices of all peaks, also of those not indexed.
    indexed : (n,) bool array
    fraction : float
        Of the peaks, indexed within the tolerance.
    rms : float
        Rms deviation from integers of the indexed peaks, per component of hkl.
    relation : str
        Empty, or how the lattice found relates to the expected cell when it is
        a supercell or a subcell.
    ambiguities : list of (3, 3) array
        Rotations of the lattice (``h' = W h``) that are no symmetry of the crystal: each
        gives another orientation that indexes as well. Intensities must decide.
    candidates : list of Candidate
        Settings, best first.
    """

    ub: Floats
    u: Floats
    cell: Floats
    hkl: NDArray[np.int64]
    indexed: Mask
    fraction: float
    rms: float
    relation: str
    ambiguities: list[Floats]
    candidates: list[Candidate]


def index_peaks(
    g: ArrayLike,
    *,
    cell: ArrayLike | None = None,
    group: symmetry.SpaceGroup | None = None,
    sigma: ArrayLike | None = None,
    tolerance: float = 0.1,
    cell_tolerance: float = 0.06,
    min_fraction: float = 0.3,
    max_cell: float = 100.0,
) -> Indexing:
    """Find the lattice and orientation of a crystal.

    Parameters
    ----------
    g : (n, 3) array
        Scattering vectors in the goniometer's frame, 1/Å with 2π, of one or several
        rotations of the crystal.
    cell : (6,) array, optional
        Expected conventional cell, good to a few per cent.
    group : SpaceGroup, optional
        Default: P 1 with a cell; without one, the lattice's symmetry is proposed.
    sigma : (n,) array, optional
        Standard deviation of ``g`` in 1/Å; weights of the fit.
    tolerance : float
        Largest deviation of h, k and l from integers of an indexed peak.
    cell_tolerance : float
        Largest principal strain between the cell found and the expected one.
    min_fraction : float
        Fraction of peaks that must be indexed.
    max_cell : float
        Longest primitive lattice vector in Å looked for without a cell.

    Raises
    ------
    HklflowError
        With too few or coplanar peaks, when no lattice explains ``min_fraction`` of them,
        or when the lattice found is not the expected one.
    """
    g = _checked(g)
    weights = np.ones(len(g)) if sigma is None else 1 / np.asarray(sigma, dtype=np.float64)
    if weights.shape != (len(g),) or not np.all(np.isfinite(weights) & (weights > 0)):
        raise HklflowError(f"sigma of the {len(g)} peaks must be {len(g)} positive numbers in 1/Å")
    ub = _find_lattice(g, weights, tolerance, min_fraction, _reaches(cell, group, max_cell))
    indexed = _indexed(ub, g, tolerance)
    if indexed.mean() < min_fraction:
        raise HklflowError(
            f"the best lattice indexes {indexed.sum()} of {len(g)} peaks ({indexed.mean():.0%}, "
            f"limit {min_fraction:.0%}); check distance, beam centre and wavelength, or raise "
            "max_cell"
        )
    relation = ""
    if cell is not None:
        expected = symmetry.space_group("P 1") if group is None else group
        candidates, relation = _expected(
            ub, g, np.asarray(cell, dtype=np.float64), expected, tolerance, cell_tolerance
        )
    else:
        candidates = _proposed(ub, g, group, tolerance)
        expected = candidates[0].group
    ub = _fit(candidates[0].ub, g, weights, tolerance)
    indexed = _indexed(ub, g, tolerance)
    if indexed.mean() < min_fraction:
        raise HklflowError(
            f"the expected cell indexes {indexed.sum()} of {len(g)} peaks ({indexed.mean():.0%}, "
            f"limit {min_fraction:.0%}): {relation}; check the cell"
        )
    u, found = lattice.decompose_ub(ub)
    hkl = g @ np.linalg.inv(ub).T
    rms = float(np.sqrt(np.mean((hkl - np.rint(hkl))[indexed] ** 2)))
    return Indexing(
        ub=ub,
        u=u,
        cell=found,
        hkl=np.rint(hkl).astype(np.int64),
        indexed=indexed,
        fraction=float(indexed.mean()),
        rms=rms,
        relation=relation,
        ambiguities=symmetry.reindexing_operators(found, expected),
        candidates=candidates,
    )


def _checked(g: ArrayLike) -> Floats:
    g = np.asarray(g, dtype=np.float64)
    if g.ndim != 2 or g.shape[1] != 3 or not np.all(np.isfinite(g)):
        raise HklflowError(f"peaks to index must be (n, 3) finite numbers; got shape {g.shape}")
    if len(g) < _MIN_PEAKS:
        raise HklflowError(
            f"{len(g)} peaks are too few to index (at least {_MIN_PEAKS}); lower the threshold of "
            "the peak search or use more frames"
        )
    spread = np.linalg.svd(g, compute_uv=False)
    if spread[2] < 0.02 * spread[0]:
        raise HklflowError(
            f"the {len(g)} peaks are coplanar: their rms extents are "
            f"{', '.join(f'{x:.3g}' for x in spread / np.sqrt(len(g)))} 1/Å; a lattice needs a "
            "scan of some degrees"
        )
    return g


def _reaches(
    cell: ArrayLike | None, group: symmetry.SpaceGroup | None, max_cell: float
) -> list[float]:
    """Lengths in Å up to which lattice vectors are looked for, one search after the other."""
    if cell is None:
        return [x for x in (25.0, 50.0) if x < max_cell] + [max_cell]
    reduced, _ = symmetry.niggli(cell, group)
    return [1.3 * float(max(reduced[:3])), 2.6 * float(max(reduced[:3]))]


def _deviations(ub: Floats, g: Floats) -> Floats:
    """Largest distance (n,) of h, k, l from integers."""
    hkl = g @ np.linalg.inv(ub).T
    largest: Floats = np.abs(hkl - np.rint(hkl)).max(axis=1)
    return largest


def _indexed(ub: Floats, g: Floats, tolerance: float) -> Mask:
    return _deviations(ub, g) < tolerance


def _find_lattice(
    g: Floats, weights: Floats, tolerance: float, min_fraction: float, reaches: list[float]
) -> Floats:
    """UB (3, 3) of the primitive lattice that indexes most peaks."""
    near = np.argsort(np.linalg.norm(g, axis=1), kind="stable")[:_MAX_SEARCH_PEAKS]
    best: Floats = np.eye(3)
    best_count = 0
    for reach in reaches:
        # A longer reach sees the weak superlattice peaks that a shorter one passes over; but
        # once half is indexed, a cell twice as long is not worth a third search.
        if best_count > 0.9 * len(g) or (reach > 50 and best_count > 0.5 * len(g)):
            break
        vectors = _lattice_vectors(g[near] / (2 * np.pi), reach)
        triple = _best_triple(vectors, g[near] / (2 * np.pi))
        if triple is None:
            continue
        ub = np.asarray(2 * np.pi * np.linalg.inv(triple), dtype=np.float64)
        ub = _fit(ub, g[near], weights[near], tolerance)
        ub = _fit(_smallest(ub, g, tolerance), g, weights, tolerance)
        count = int(_indexed(ub, g, tolerance).sum())
        # A larger cell must earn its place.
        if count > 1.05 * best_count:
            best, best_count = ub, count
    if best_count == 0:
        raise HklflowError(
            f"no lattice was found in {len(g)} peaks (vectors up to {reaches[-1]:.0f} Å); check "
            "distance, beam centre and wavelength, or raise max_cell"
        )
    return reduced_ub(best)


def _lattice_vectors(s: Floats, reach: float) -> Floats:
    """Short vectors (n, 3) in Å of the direct lattice of s (m, 3) in 1/Å without 2π."""
    spacing = 1 / (2 * reach)
    needed = 2 * int(np.ceil(np.abs(s).max() / spacing)) + 2
    size = int(scipy.fft.next_fast_len(min(max(needed, 64), _MAX_GRID), real=True))
    cell = np.rint(s / spacing).astype(np.int64)
    cell = cell[np.all(np.abs(cell) < size // 2, axis=1)] % size
    flat = (cell[:, 0] * size + cell[:, 1]) * size + cell[:, 2]
    density = np.bincount(flat, minlength=size**3).astype(np.float32).reshape(size, size, size)
    # Σ cos 2π s·t; the last axis holds t >= 0, the other half is the same.
    amplitude = scipy.fft.rfftn(density).real
    step = 1 / (size * spacing)
    position = np.minimum(np.arange(size), size - np.arange(size)) * step
    squared = position**2
    r2 = squared[:, None, None] + squared[None, :, None] + squared[None, None, : size // 2 + 1]
    amplitude[(r2 < _SHORTEST**2) | (r2 > reach**2)] = 0
    strong = np.argwhere(amplitude > 0.4 * amplitude.max())
    strong = strong[_is_maximum(amplitude, strong)]
    strong = strong[np.argsort(r2[tuple(strong.T)], kind="stable")][: 4 * _MAX_VECTORS]
    signed = np.where(strong > size // 2, strong - size, strong)
    return _refined_vectors(signed * step, s)


def _is_maximum(amplitude: NDArray[np.float32], where: NDArray[np.int64]) -> Mask:
    """Whether voxels (n, 3) are not smaller than their 26 neighbours."""
    value = amplitude[tuple(where.T)]
    largest = np.ones(len(where), dtype=np.bool_)
    n0, n1, n2 = amplitude.shape
    for offset in np.ndindex(3, 3, 3):
        i, j, k = (where + np.array(offset) - 1).T
        # The half axis ends at 0 and at the fold: there the voxel meets itself.
        largest &= value >= amplitude[i % n0, j % n1, np.clip(k, 0, n2 - 1)]
    return largest


def _refined_vectors(t: Floats, s: Floats) -> Floats:
    """Vectors that maximise ``Σ cos 2π s·t`` (Newton), distinct ones, shortest first."""
    length = np.linalg.norm(s, axis=1)
    # First with the peaks near the origin: the coarse vectors leave their phases within reach.
    for limit, rounds in ((0.6 * length.max(), 3), (length.max(), 4)):
        part = s[length <= limit]
        for _ in range(rounds):
            phase = 2 * np.pi * t @ part.T
            weight = np.cos(phase).clip(min=0)
            slope = (np.sin(phase) * weight) @ part / (2 * np.pi)
            curvature = np.einsum("kn,ni,nj->kij", weight, part, part, optimize=True)
            curvature += 1e-6 * np.trace(curvature, axis1=1, axis2=2)[:, None, None] * np.eye(3)
            t = t - np.linalg.solve(curvature, slope[..., None])[..., 0]
    phase = t @ s.T
    score = np.mean(np.abs(phase - np.rint(phase)) < _SEARCH_TOLERANCE, axis=1)
    keep = (score > 0.6 * score.max(initial=0)) & (np.linalg.norm(t, axis=1) > _SHORTEST)
    t = t[keep]
    t = t[np.argsort(np.linalg.norm(t, axis=1), kind="stable")]
    # The first of those that are equal to 5 %, up to sign, stays.
    near = 0.05 * np.linalg.norm(t, axis=1)[:, None]
    apart = np.minimum(
        np.linalg.norm(t[:, None] - t[None], axis=-1), np.linalg.norm(t[:, None] + t[None], axis=-1)
    )
    same = np.tril(apart < near, -1)
    distinct: list[int] = []
    for i in range(len(t)):
        if not same[i, distinct].any():
            distinct.append(i)
    return t[distinct[:_MAX_VECTORS]].reshape(-1, 3)


def _best_triple(vectors: Floats, s: Floats) -> Floats | None:
    """Rows a, b, c (3, 3) in Å, right-handed: most peaks indexed, then least volume."""
    phase = vectors @ s.T
    hit = (np.abs(phase - np.rint(phase)) < _SEARCH_TOLERANCE).astype(np.float32)
    first, second = np.triu_indices(len(vectors), 1)
    if not len(first):
        return None
    counts = (hit[first] * hit[second]) @ hit.T
    cross = np.cross(vectors[first], vectors[second])
    volumes = cross @ vectors.T
    length = np.linalg.norm(vectors, axis=1)
    # A reduced basis fills at least 1/√2 of its box; less is flat by chance.
    box = (length[first] * length[second])[:, None] * length[None]
    counts[np.abs(volumes) < 0.2 * box] = 0
    most = counts.max()
    if most < _MIN_PEAKS:
        return None
    # Chance hits make equal lattices differ by about √n.
    good = counts >= min(0.96 * most, most - np.sqrt(most))
    smallest = np.abs(volumes[good]).min()
    good &= np.abs(volumes) < 1.05 * smallest
    pair, third = np.unravel_index(np.argmax(np.where(good, counts, 0)), counts.shape)
    triple: Floats = vectors[[first[pair], second[pair], third]]
    return triple if np.linalg.det(triple) > 0 else -triple


def _fit(ub: Floats, g: Floats, weights: Floats, tolerance: float) -> Floats:
    """Least squares of UB to the indexed peaks, their limit tightened to the peaks' scatter."""
    limit = tolerance
    for _ in range(8):
        hkl = g @ np.linalg.inv(ub).T
        nearest = np.rint(hkl)
        deviation = np.abs(hkl - nearest).max(axis=1)
        used = deviation < limit
        if used.sum() < _MIN_PEAKS // 2 or np.linalg.matrix_rank(nearest[used]) < 3:
            break
        w = weights[used, None]
        ub = np.linalg.lstsq(nearest[used] * w, g[used] * w, rcond=None)[0].T
        limit = float(np.clip(4 * np.median(deviation[used]), 0.01, tolerance))
    return ub


def _smallest(ub: Floats, g: Floats, tolerance: float) -> Floats:
    """Drop a basis that is larger than needed: one whose indices all obey ``n·h = 0 mod p``."""
    for _ in range(6):
        indexed = _indexed(ub, g, tolerance)
        hkl = np.rint(g[indexed] @ np.linalg.inv(ub).T).astype(np.int64)
        for p in (2, 3, 5):
            normals = np.array([n for n in np.ndindex(p, p, p) if _leads_with_one(n)])
            obey = np.mean(hkl @ normals.T % p == 0, axis=0)
            if obey.max() > 0.95:
                # Real lattice vector n / p joins the lattice: h_new = M h_old with
                # rows of M those of a basis of Z³ + (n/p) Z.
                normal = normals[int(np.argmax(obey))]
                matrix = np.eye(3)
                matrix[int(np.argmax(normal != 0))] = normal / p
                ub = ub @ np.linalg.inv(matrix)
                break
        else:
            return ub
    return ub


def _leads_with_one(n: tuple[int, ...]) -> bool:
    nonzero = [x for x in n if x]
    return bool(nonzero) and nonzero[0] == 1


def _candidate(ub: Floats, g: Floats, group: symmetry.SpaceGroup, indexed: Mask) -> Candidate:
    u, cell = lattice.decompose_ub(ub)
    constrained = symmetry.constrain_cell(cell, group)
    hkl = np.rint(g[indexed] @ np.linalg.inv(ub).T)
    free = np.linalg.norm(g[indexed] - hkl @ ub.T, axis=1)
    tied = np.linalg.norm(g[indexed] - hkl @ (u @ lattice.b_matrix(constrained)).T, axis=1)
    # Spots at random that happen to be indexed would hide a misfit.
    core = free < 4 * np.median(free) + 1e-12
    rms = float(np.sqrt(np.mean(tied[core] ** 2)))
    deviation = float(strain(lattice.metric(cell), constrained))
    return Candidate(
        group=group,
        cell=cell,
        ub=ub,
        deviation=deviation,
        rms=rms,
        accepted=rms < 1.15 * float(np.sqrt(np.mean(free[core] ** 2)))
        or deviation < _METRIC_ACCURACY,
    )


def _expected(
    ub: Floats,
    g: Floats,
    cell: Floats,
    group: symmetry.SpaceGroup,
    tolerance: float,
    cell_tolerance: float,
) -> tuple[list[Candidate], str]:
    """List settings of a lattice like the expected cell, and its relation to that by name."""
    settings = matching_settings(ub, cell, group, cell_tolerance)
    basis = real_basis(ub)
    reduced = lattice.cell_from_metric(basis.T @ basis)
    if not settings:
        raise HklflowError(
            f"the peaks show a lattice with the reduced cell {_text(reduced)}, not the expected "
            f"{_text(symmetry.niggli(cell, group)[0])} (reduced); check the cell, the wavelength "
            "and the distance"
        )
    ratio = settings[0].ratio
    relation = ""
    if ratio > 1:
        relation = (
            f"the lattice found is a subcell: 1/{ratio:.0f} of the volume of the expected cell"
        )
    elif ratio < 1:
        relation = (
            f"the lattice found is a supercell: {1 / ratio:.0f} times the volume of the expected "
            "cell"
        )
    indexed = _indexed(ub, g, tolerance)
    # Where cell and metric leave a choice (a and c of a Pnma crystal of nearly equal axes),
    # the systematic absences decide; spots at random leave a few of them.
    violations = [_violations(setting.ub, g[indexed], group) for setting in settings]
    allowed = 2 * min(violations) + 4
    ranked = sorted(zip(violations, settings, strict=True), key=lambda pair: pair[0] > allowed)
    # Symmetry mates of one setting say nothing new.
    distinct: list[Candidate] = []
    for _, setting in ranked:
        if all(not np.allclose(setting.cell, c.cell, rtol=2e-3) for c in distinct):
            distinct.append(_candidate(setting.ub, g, group, indexed))
    return distinct, relation


def _violations(ub: Floats, g: Floats, group: symmetry.SpaceGroup) -> int:
    """Peaks at systematically absent reflections."""
    return int(group.is_absent(np.rint(g @ np.linalg.inv(ub).T)).sum())


def _text(cell: ArrayLike) -> str:
    a, b, c, alpha, beta, gamma = np.asarray(cell, dtype=np.float64)
    return f"{a:.3f} {b:.3f} {c:.3f} {alpha:.2f} {beta:.2f} {gamma:.2f}"


def _proposed(
    ub: Floats, g: Floats, group: symmetry.SpaceGroup | None, tolerance: float
) -> list[Candidate]:
    """Bravais settings of a lattice, the most symmetric of those that fit first."""
    basis = real_basis(ub)
    indexed = _indexed(ub, g, tolerance)
    candidates = []
    for setting in symmetry.bravais_settings(lattice.cell_from_metric(basis.T @ basis), 1.5):
        conventional = ub @ np.linalg.inv(setting.matrix)
        candidates.append(_candidate(conventional, g, setting.group, indexed))
    candidates.sort(key=lambda c: not c.accepted)
    if group is None:
        return candidates
    same = [c for c in candidates if c.group.bravais == group.bravais]
    if not same:
        raise HklflowError(
            f"space group {group.symbol} needs a lattice of type {group.bravais}; the peaks "
            f"allow {', '.join(c.group.bravais for c in candidates)}; check the space group or "
            "give the cell"
        )
    return [
        _candidate(
            c.ub @ np.linalg.inv(symmetry.between_settings(c.group, group)), g, group, indexed
        )
        for c in same
    ]
