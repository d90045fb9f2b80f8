"""Powder rings of the surroundings in the frames of a crystal.

A ring is sharp in |Q|, and it is on all frames and at all azimuths, with a texture that changes
slowly along the ring. Diffuse scattering of the crystal is sharp in some directions only: the
median over ranges of frames and sectors of the detector does not see it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SECTORS = 24
GROUPS = 10  # ranges of frames
TEXTURE = 6  # harmonics along a ring
_SMOOTH = 2  # harmonics of what is below the rings
_WINDOW = 15  # bins of the running baseline
_SIGNIFICANT = 6.0
_LEAST = 0.02  # of the level
_WIDEST = 6.0  # bins, full width at half maximum
_REACH = 3.5  # standard deviations of a ring that are modelled


class Cells(NamedTuple):
    """Sums by range of frames, sector, and bin of |Q|: (GROUPS, SECTORS, bins) arrays.

    Attributes
    ----------
    edges : (bins + 1,) array
        Edges in |Q|, 1/Å, about one pixel wide.
    counts, unit : arrays
        Counts, and norms without transmission of the crystal.
    """

    edges: Floats
    counts: Floats
    unit: Floats


class Ring(NamedTuple):
    """A powder ring: centre and standard deviation in 1/Å, mean height in units of S."""

    q: float
    width: float
    height: float


class Rings(NamedTuple):
    """Rings found, and what they contribute.

    Attributes
    ----------
    rings : list of Ring
    parameters, covariance : (n,), (n, n) arrays
        Coefficients of the harmonics of each ring.
    """

    rings: list[Ring]
    parameters: Floats
    covariance: Floats

    def near(self, q: Floats, more: float = 0.0) -> NDArray[np.bool_]:
        """Mark values of |Q| on a ring, or nearer to it than ``more``."""
        marked = np.zeros(np.shape(q), np.bool_)
        for ring in self.rings:
            marked |= np.abs(q - ring.q) < _REACH * ring.width + more
        return marked

    def image(self, q: Floats, azimuth: Floats) -> tuple[Floats, Floats]:
        """Return the sum of the rings and its variance; arrays of any shape."""
        total, variance = np.zeros((2, *np.shape(q)))
        use = self.near(q)
        if use.any():
            rows = _rows(self.rings, q[use], azimuth[use])
            total[use] = np.maximum(rows @ self.parameters, 0)
            variance[use] = np.einsum("ij,ij->i", rows @ self.covariance, rows)
        return total, variance


def bins(q: Floats, width: float) -> Floats:
    """Return edges of bins of about ``width`` over the range of q."""
    low, high = float(q.min()), float(q.max())
    return np.linspace(low, high * (1 + 1e-9), max(int((high - low) / width), 2) + 1)


def find(cells: Cells) -> Rings:
    """Return the powder rings, their textures and errors."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(cells.counts.sum() > 0, cells.counts / cells.unit, np.nan)
    rate[cells.unit <= 0] = np.nan
    n = len(cells.edges) - 1
    middle = (cells.edges[:-1] + cells.edges[1:]) / 2
    excess, error = np.zeros((2, n))
    for i in range(n):
        near = [j for j in (*range(i - _WINDOW, i - 4), *range(i + 5, i + _WINDOW + 1)) if 0 <= j < n]
        below = _lower(rate[:, :, near])
        difference = (rate[:, :, i] - below).ravel()
        difference = difference[np.isfinite(difference)]
        if len(difference) < 30:
            continue
        excess[i] = np.median(difference)
        spread = 1.4826 * np.median(np.abs(difference - excess[i]))
        error[i] = 1.2533 * spread / np.sqrt(len(difference))
    level = np.nansum(cells.counts, (0, 1)) / np.maximum(np.nansum(cells.unit, (0, 1)), 1e-300)
    return _modelled(_peaks(middle, excess, error, level), cells)


def _lower(rate: Floats) -> Floats:
    """Return the level next to a bin of each cell: the mean of the lower half of its bins."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(rate, axis=2))


def _peaks(q: Floats, excess: Floats, error: Floats, level: Floats) -> list[Ring]:
    from scipy.signal import find_peaks, peak_widths

    base = np.median(excess)
    scatter = 1.4826 * float(np.median(np.abs(excess - base)))
    limit = np.maximum(_SIGNIFICANT * np.hypot(error, scatter), _LEAST * level)
    at, _ = find_peaks(excess - base, height=limit, prominence=limit)
    widths = peak_widths(excess - base, at, 0.5)[0]
    step = q[1] - q[0]
    return [
        Ring(float(q[i]), float(max(w, 1.0) * step / 2.355), float(excess[i] - base))
        for i, w in zip(at, widths, strict=True)
        if w <= _WIDEST
    ]


def _waves(azimuth: Floats, most: int) -> Floats:
    waves = [np.ones(np.shape(azimuth))]
    for n in range(1, most + 1):
        waves += [np.cos(n * azimuth), np.sin(n * azimuth)]
    return np.stack(waves, axis=-1)


def _rows(rings: list[Ring], q: Floats, azimuth: Floats) -> Floats:
    waves = _waves(azimuth, TEXTURE)
    shapes = [np.exp(-(((q - r.q) / r.width) ** 2) / 2) for r in rings]
    return np.concatenate([shape[:, None] * waves for shape in shapes], axis=1)


def _modelled(rings: list[Ring], cells: Cells) -> Rings:
    """Fit centres and widths of the rings, then their textures, above a smooth level."""
    from scipy.optimize import least_squares

    if not rings:
        return Rings([], np.zeros(0), np.zeros((0, 0)))
    counts, unit = cells.counts.sum(axis=0), cells.unit.sum(axis=0)
    q, azimuth = np.meshgrid(
        (cells.edges[:-1] + cells.edges[1:]) / 2,
        (np.arange(SECTORS) + 0.5) / SECTORS * 2 * np.pi - np.pi,
    )
    step = cells.edges[1] - cells.edges[0]
    use = unit > 0.1 * np.median(unit[unit > 0])
    rate, q, azimuth = counts[use] / unit[use], q[use], azimuth[use]
    sigma = np.sqrt(np.maximum(counts[use], 1)) / unit[use]
    sigma = np.hypot(sigma, 0.01 * np.median(rate))
    smooth = _smooth(q, azimuth, 12 * step)

    def design(shape: Floats) -> tuple[list[Ring], Floats]:
        moved = [
            Ring(r.q + a * step, r.width * np.exp(b), r.height)
            for r, a, b in zip(rings, shape[::2], shape[1::2], strict=True)
        ]
        return moved, np.column_stack([_rows(moved, q, azimuth), smooth]) / sigma[:, None]

    def rest(shape: Floats) -> Floats:
        _, D = design(shape)
        normal = D.T @ D
        solution = np.linalg.solve(normal + 1e-9 * np.trace(normal) / len(normal) * np.eye(len(normal)),
                                   D.T @ (rate / sigma))  # fmt: skip
        return np.asarray(rate / sigma - D @ solution)

    start = np.zeros(2 * len(rings))
    shape = least_squares(rest, start, bounds=(-1.5, 1.5), loss="soft_l1", max_nfev=15).x
    moved, D = design(shape)
    normal = D.T @ D
    inverse = np.linalg.inv(normal + 1e-9 * np.trace(normal) / len(normal) * np.eye(len(normal)))
    solution = inverse @ (D.T @ (rate / sigma))
    chi2 = float(np.mean((rate / sigma - D @ solution) ** 2))
    n, m = len(rings) * (2 * TEXTURE + 1), 2 * TEXTURE + 1
    found = [
        Ring(r.q, r.width, float(h)) for r, h in zip(moved, solution[:n:m], strict=True)
    ]
    return Rings(found, solution[:n], inverse[:n, :n] * max(chi2, 1.0))


def _smooth(q: Floats, azimuth: Floats, spacing: float) -> Floats:
    from scipy.interpolate import BSpline

    low, high = float(q.min()), float(q.max())
    edges = np.linspace(low, high, max(int((high - low) / spacing), 2) + 1)
    knots = np.concatenate([[low] * 3, edges, [high] * 3])
    splines = BSpline.design_matrix(q, knots, 3).toarray()
    waves = _waves(azimuth, _SMOOTH)
    return np.einsum("ni,nm->nim", splines, waves).reshape(len(q), -1)
