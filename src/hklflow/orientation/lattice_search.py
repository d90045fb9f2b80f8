"""Find the primitive lattice of a set of scattering vectors.

The Fourier transform of the scattering vectors is large at the vectors of the direct lattice. The
short vectors are read from a three-dimensional FFT (after Bricogne, as in Campbell, J. Appl. Cryst.
31, 407, 1998) and refined. The triple that indexes the most peaks with the smallest volume is
fitted by least squares. The search uses no random numbers.
"""

from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hklflow.base.errors import HklflowError
from hklflow.geometry.reduction import reduced_ub

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MIN_PEAKS = 15
_SHORTEST = 2.0  # Å; the shortest lattice vector of any crystal is about 2.2 Å
# largest deviation of h, k, l from integers, before the vectors are refined together
_SEARCH_TOLERANCE = 0.15
_MAX_VECTORS = 48
_NEIGHBOURS = 6  # differences for each peak
_ROWS = 12.0  # longest difference in lattice rows; longer ones do not show the lattice
_WEAK = 0.1  # smallest fraction of the peaks that must be on a lattice of known cell
_MAX_GRID = 256
_MAX_SEARCH_PEAKS = 3000


def deviations(ub: Floats, g: Floats) -> Floats:
    """Return the largest distance (n,) of h, k, l from integers."""
    hkl = g @ np.linalg.inv(ub).T
    largest: Floats = np.abs(hkl - np.rint(hkl)).max(axis=1)
    return largest


def is_indexed(ub: Floats, g: Floats, tolerance: float) -> Mask:
    """Return True for peaks (n,) with h, k and l within a tolerance of integers."""
    return deviations(ub, g) < tolerance


def find_lattice(g: Floats, weights: Floats, tolerance: float, reaches: list[float]) -> Floats:
    """Return the UB (3, 3) of the primitive lattice that indexes the largest number of peaks.

    Parameters
    ----------
    g : (n, 3) array
        Scattering vectors in 1/Å with 2π.
    weights : (n,) array
    tolerance : float
        Largest deviation of h, k and l of an indexed peak from integers.
    reaches : list of float
        Maximum lengths of lattice vectors in Å of the successive searches.

    Raises
    ------
    HklflowError
        If no three lattice vectors are found.
    """
    near = np.argsort(np.linalg.norm(g, axis=1), kind="stable")[:_MAX_SEARCH_PEAKS]
    best: Floats = np.eye(3)
    best_count = 0
    for reach in reaches:
        # A longer reach finds weak superlattice peaks that a shorter reach misses. If half of the
        # peaks are indexed, no third search is made for a cell that is twice as long.
        if best_count > 0.9 * len(g) or (reach > 50 and best_count > 0.5 * len(g)):
            break
        vectors = _lattice_vectors(g[near] / (2 * np.pi), reach)
        triple = _best_triple(vectors, g[near] / (2 * np.pi))
        if triple is None:
            continue
        ub = np.asarray(2 * np.pi * np.linalg.inv(triple), dtype=np.float64)
        ub = fit(ub, g[near], weights[near], tolerance)
        ub = fit(smallest(ub, g, tolerance), g, weights, tolerance)
        count = int(is_indexed(ub, g, tolerance).sum())
        # A larger cell must index significantly more peaks.
        if count > 1.05 * best_count:
            best, best_count = ub, count
    if best_count == 0:
        raise HklflowError(
            f"no lattice was found in {len(g)} peaks (vectors up to {reaches[-1]:.0f} Å); check "
            "distance, beam centre, wavelength and the rotation axis with its sense"
        )
    return reduced_ub(best)


def lattice_of_differences(
    g: Floats, weights: Floats, tolerance: float, reaches: list[float]
) -> Floats:
    """Return the UB (3, 3) of the lattice that the differences of neighbouring peaks form.

    The Fourier transform of peaks that are all far from the origin, as on a detector arm, has
    fringes around each lattice vector, which hide longer vectors. That of differences has none.
    The parameters are those of `find_lattice`.
    """
    _, other = cKDTree(g).query(g, k=min(_NEIGHBOURS, len(g) - 1) + 1)
    pairs = np.sort(np.stack(np.broadcast_arrays(np.arange(len(g))[:, None], other), -1), -1)
    one, other = np.unique(pairs[:, 1:].reshape(-1, 2), axis=0).T
    differences = g[one] - g[other]
    short = np.linalg.norm(differences, axis=1) * reaches[0] < 2 * np.pi * _ROWS
    differences = differences[short]
    if len(differences) < 3 * MIN_PEAKS:
        raise HklflowError(
            f"{len(differences)} differences of neighbouring peaks are shorter than {_ROWS:g} "
            "lattice rows, too few to find a lattice; use more peaks"
        )
    ub = find_lattice(differences, np.ones(len(differences)), tolerance, reaches)
    return reduced_ub(fit(ub, g, weights, tolerance))


def _lattice_vectors(s: Floats, reach: float) -> Floats:
    """Return short vectors (n, 3) in Å of the direct lattice of s (m, 3) in 1/Å without 2π."""
    amplitude, step = _transform(s, reach)
    strong = _above(amplitude, 0.4 * amplitude.max())
    strong = strong[_is_maximum(amplitude, strong)]
    vectors: Floats = _signed(strong, len(amplitude)) * step
    length = np.linalg.norm(vectors, axis=1)
    vectors = vectors[np.argsort(length.round(9), kind="stable")[: 4 * _MAX_VECTORS]]
    return _refined_vectors(vectors, s)[:_MAX_VECTORS].reshape(-1, 3)


def vectors_of_lengths(s: Floats, lengths: Floats, tolerance: float) -> Floats:
    """Return direct lattice vectors (n, 3) in Å of given lengths; s (m, 3) in 1/Å without 2π.

    The vectors may belong to several lattices; a tenth of the peaks is enough to find a vector.
    """
    amplitude, step = _transform(s, (1 + tolerance) * float(max(lengths)))
    noise = np.sqrt(0.5 * len(s))
    strong = _above(amplitude, max(_WEAK * len(s), 5 * noise))
    strong = strong[_is_maximum(amplitude, strong)]
    strong = strong[np.argsort(-amplitude[tuple(strong.T)], kind="stable")]
    vectors: Floats = _signed(strong, len(amplitude)) * step
    length = np.linalg.norm(vectors, axis=1)
    off = np.abs(length[:, None] - lengths).min(axis=1, initial=np.inf)
    vectors = vectors[off < tolerance * length + step][: 4 * _MAX_VECTORS]
    return _refined_vectors(vectors, s, least=0.0)


def _signed(where: NDArray[np.int64], size: int) -> Floats:
    signed: Floats = np.where(where > size // 2, where - size, where).astype(np.float64)
    return signed


def _transform(s: Floats, reach: float) -> tuple[NDArray[np.float32], float]:
    """Return ``Σ cos 2π s·t`` on a grid (n, n, n / 2 + 1) of t, and the step of the grid in Å.

    The function is set to 0 beyond ``reach``.
    """
    spacing = 1 / (2 * reach)
    needed = 2 * int(np.ceil(np.abs(s).max() / spacing)) + 2
    size = int(scipy.fft.next_fast_len(min(max(needed, 64), _MAX_GRID), real=True))
    cell = np.rint(s / spacing).astype(np.int64)
    cell = cell[np.all(np.abs(cell) < size // 2, axis=1)] % size
    # Few lines of the grid contain a peak; only these are transformed along the last axis, which
    # has only t >= 0, because ``Σ cos 2π s·t`` is symmetric.
    line, row = np.unique(cell[:, 0] * size + cell[:, 1], return_inverse=True)
    density = np.zeros((len(line), size), dtype=np.float32)
    np.add.at(density, (row, cell[:, 2]), 1)
    waves = np.zeros((size, size, size // 2 + 1), dtype=np.complex64)
    waves.reshape(size**2, -1)[line] = scipy.fft.rfft(density)
    waves = scipy.fft.fft2(waves, axes=(0, 1), overwrite_x=True)
    step = 1 / (size * spacing)
    return waves.real * _within(size, step, reach), step


def _above(amplitude: NDArray[np.float32], limit: float) -> NDArray[np.int64]:
    """Return the indices (n, 3) of larger values (`np.argwhere` takes seven times as long)."""
    flat = np.flatnonzero(amplitude.ravel() > np.float32(limit))
    return np.stack(np.unravel_index(flat, amplitude.shape), axis=-1)


@lru_cache(maxsize=4)  # equal for the many geometries of `wrong_header`
def _within(size: int, step: float, reach: float) -> Mask:
    """Return True for the points of the transform's grid that may be lattice vectors."""
    position = np.minimum(np.arange(size), size - np.arange(size)) * step
    squared = position**2
    r2 = squared[:, None, None] + squared[None, :, None] + squared[None, None, : size // 2 + 1]
    within: Mask = (r2 >= _SHORTEST**2) & (r2 <= reach**2)
    return within


def _is_maximum(amplitude: NDArray[np.float32], where: NDArray[np.int64]) -> Mask:
    """Return True for voxels (n, 3) that are not smaller than their 26 neighbours."""
    value = amplitude[tuple(where.T)]
    largest = np.ones(len(where), dtype=np.bool_)
    n0, n1, n2 = amplitude.shape
    for offset in np.ndindex(3, 3, 3):
        i, j, k = (where + np.array(offset) - 1).T
        # At both ends of the half axis (0 and Nyquist), a voxel is its own neighbour.
        largest &= value >= amplitude[i % n0, j % n1, np.clip(k, 0, n2 - 1)]
    return largest


def _refined_vectors(t: Floats, s: Floats, least: float = 0.6) -> Floats:
    """Return the vectors that maximise ``Σ cos 2π s·t`` (Newton), without duplicates, by length."""
    length = np.linalg.norm(s, axis=1)
    # First use the peaks near the origin: their phases are right even if the vectors are
    # inaccurate.
    for limit, rounds in ((0.6 * length.max(), 3), (length.max(), 4)):
        part = s[length <= limit]
        squares = (part[:, :, None] * part[:, None, :]).reshape(-1, 9)
        for _ in range(rounds):
            phase = 2 * np.pi * t @ part.T
            weight = np.cos(phase).clip(min=0)
            slope = (np.sin(phase) * weight) @ part / (2 * np.pi)
            curvature = (weight @ squares).reshape(-1, 3, 3)
            trace = np.trace(curvature, axis1=1, axis2=2)
            # A vector without peaks near the origin is not moved.
            curvature += np.where(trace > 0, 1e-6 * trace, 1.0)[:, None, None] * np.eye(3)
            t = t - np.linalg.solve(curvature, slope[..., None])[..., 0]
    phase = t @ s.T
    score = np.mean(np.abs(phase - np.rint(phase)) < _SEARCH_TOLERANCE, axis=1)
    keep = (score > least * score.max(initial=0)) & (np.linalg.norm(t, axis=1) > _SHORTEST)
    t = t[keep]
    t = t[np.argsort(np.linalg.norm(t, axis=1), kind="stable")]
    # Of vectors that are equal within 5 %, up to their sign, keep the first.
    near = 0.05 * np.linalg.norm(t, axis=1)[:, None]
    apart = np.minimum(
        np.linalg.norm(t[:, None] - t[None], axis=-1), np.linalg.norm(t[:, None] + t[None], axis=-1)
    )
    same = np.tril(apart < near, -1)
    distinct: list[int] = []
    for i in range(len(t)):
        if not same[i, distinct].any():
            distinct.append(i)
    return t[distinct].reshape(-1, 3)


def _best_triple(vectors: Floats, s: Floats) -> Floats | None:
    """Return right-handed a, b, c (3, 3) in Å with most indexed peaks and smallest volume."""
    phase = vectors @ s.T
    hit = (np.abs(phase - np.rint(phase)) < _SEARCH_TOLERANCE).astype(np.float32)
    first, second = np.triu_indices(len(vectors), 1)
    if not len(first):
        return None
    counts = (hit[first] * hit[second]) @ hit.T
    cross = np.cross(vectors[first], vectors[second])
    volumes = cross @ vectors.T
    length = np.linalg.norm(vectors, axis=1)
    # The volume of a reduced basis is at least 1/√2 of its box; a smaller one is nearly coplanar.
    box = (length[first] * length[second])[:, None] * length[None]
    counts[np.abs(volumes) < 0.2 * box] = 0
    most = counts.max()
    if most < MIN_PEAKS:
        return None
    # By chance, the numbers of peaks on equally good lattices differ by about √n.
    good = counts >= min(0.96 * most, most - np.sqrt(most))
    smallest = np.abs(volumes[good]).min()
    good &= np.abs(volumes) < 1.05 * smallest
    pair, third = np.unravel_index(np.argmax(np.where(good, counts, 0)), counts.shape)
    triple: Floats = vectors[[first[pair], second[pair], third]]
    return triple if np.linalg.det(triple) > 0 else -triple


def fit(ub: Floats, g: Floats, weights: Floats, tolerance: float) -> Floats:
    """Fit UB to the indexed peaks by least squares; the tolerance decreases with their scatter."""
    limit = tolerance
    for _ in range(8):
        hkl = g @ np.linalg.inv(ub).T
        nearest = np.rint(hkl)
        deviation = np.abs(hkl - nearest).max(axis=1)
        used = deviation < limit
        if used.sum() < MIN_PEAKS // 2 or np.linalg.matrix_rank(nearest[used]) < 3:
            break
        w = weights[used, None]
        ub = np.linalg.lstsq(nearest[used] * w, g[used] * w, rcond=None)[0].T
        limit = float(np.clip(4 * np.median(deviation[used]), 0.01, tolerance))
    return ub


def smallest(ub: Floats, g: Floats, tolerance: float) -> Floats:
    """Reduce a basis that is too large, because all its indices obey ``n·h = 0 mod p``."""
    for _ in range(6):
        indexed = is_indexed(ub, g, tolerance)
        hkl = np.rint(g[indexed] @ np.linalg.inv(ub).T).astype(np.int64)
        for p in (2, 3, 5):
            normals = np.array([n for n in np.ndindex(p, p, p) if _leads_with_one(n)])
            obey = np.mean(hkl @ normals.T % p == 0, axis=0)
            if obey.max() > 0.95:
                # The direct lattice vector n / p is added to the lattice: h_new = M h_old, where
                # the rows of M are a basis of Z³ + (n/p) Z.
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
