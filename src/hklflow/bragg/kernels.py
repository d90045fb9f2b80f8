r"""Fit the voxels of one reflection's box, for many boxes at once.

The model of the counts of voxel v is

.. math:: \mu_v = N_v (I P_v + b(z, y, x)), \qquad
          \mathrm{var}_v = \mu_v + r_v^2

with the norm N, the reflection's counts per norm I, its profile P (the share of voxel v; the sum
over all voxels is 1), the background b in units of S (`background`), and the read noise r. The
model is linear, so each fit is an iterated least-squares fit. Its variances come from the model,
never from the counts of a single voxel, so that few counts cause no bias. Without read noise the
fit is Fisher scoring of the Poisson likelihood.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.background import background_chi2, fit_background, least_level, level_at
from hklflow.bragg.centre_kernels import fit_centre
from hklflow.bragg.normal_sums import (
    N_VOXEL,
    V_CELL,
    V_COUNTS,
    V_NORM,
    V_NUMBER,
    V_READ,
    V_SHARE,
    V_USED,
    V_X,
    V_XX,
    V_Y,
    V_YY,
    V_Z,
    V_ZZ,
    normal_sums,
    pad,
    padded,
)
from hklflow.bragg.reflections import ReflectionFlag
from hklflow.peaks.fit import add_profile
from hklflow.simd.jit import kernel

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Columns of the results of `integrate_boxes`; columns per norm are not multiplied by the volume.
COLUMNS = (
    *("sum", "var_sum", "profile", "var_profile", "counts", "recorded"),
    *("background", "var_background", "norm"),
    *("frame", "slow", "fast", "var_frame", "var_slow", "var_fast"),
    *("n_foreground", "n_background", "correlation", "chi2", "background_chi2", "unlike"),
    *("slope_frame", "slope_slow", "slope_fast"),
    *("bend_frame", "bend_slow", "bend_fast"),
    *("var_bend_frame", "var_bend_slow", "var_bend_fast"),
    *("likely_frame", "likely_slow", "likely_fast"),
)
# fmt: off
(
    SUM, VAR_SUM, PROFILE, VAR_PROFILE, COUNTS, RECORDED, BACKGROUND, VAR_BACKGROUND, NORM, FRAME,
    SLOW, FAST, VAR_FRAME, VAR_SLOW, VAR_FAST, N_FOREGROUND, N_BACKGROUND, CORRELATION, CHI2,
    BACKGROUND_CHI2, UNLIKE, SLOPE_FRAME, SLOPE_SLOW, SLOPE_FAST,
    BEND_FRAME, BEND_SLOW, BEND_FAST, VAR_BEND_FRAME, VAR_BEND_SLOW, VAR_BEND_FAST,
    LIKELY_FRAME, LIKELY_SLOW, LIKELY_FAST,
) = range(len(COLUMNS))
# fmt: on

#: What `integrate_boxes` does: sums only, fits of the centres too, or all fits.
SUMS, CENTRES, FITS = range(3)

_MASKED = int(ReflectionFlag.MASKED)
_OVERLAP = int(ReflectionFlag.OVERLAP)
_OVERLOAD = int(ReflectionFlag.OVERLOAD)
_NO_BACKGROUND = int(ReflectionFlag.NO_BACKGROUND)
_NO_PROFILE = int(ReflectionFlag.NO_PROFILE)
_EDGE = int(ReflectionFlag.EDGE)

#: Width, in voxels, of the zone between foreground and shell; its voxels are not used.
_GAP = 1.0
#: Side of the cells in which outliers of the background are searched: frames, pixels.
_CELL = (3, 4, 4)
# Sums over the background's voxels, see `gather_back`.
_N_SUMS = 9
_S_NUMBER, _S_COUNTS, _S_NORM, _S_SHARE, _S_Y, _S_X, _S_YY, _S_XX, _S_READ = range(_N_SUMS)
_LEAST_BACKGROUND = 30
# Usual relative error of the profile in a voxel, see `UNLIKE`.
_TOLERANCE = 0.3
# Smallest I/σ for a centroid, and for a profile fit at the centroid: three coordinates fitted to
# the counts add about 1.5 / (I/σ)² to I.
_CENTROID = 5.0
_MOVED = 10.0


@kernel
def _between(m: int, last: float, first: float, step: float, low: I64, part: F64) -> None:
    """Find the nodes around equidistant points: index of the lower node, and distance from it.

    The index is -1 outside the m nodes, which go from -last to last.
    """
    scale = (m - 1) / (2 * last)
    for k in range(len(low)):
        at = (first + k * step + last) * scale
        low[k] = -1
        if 0 <= at < m - 1.0:
            low[k] = int(at)
            part[k] = at - low[k]


@kernel
def fill_profile(
    start: I64, centre: F64, sigma: F64, correction: F64, last: float, out: F64
) -> None:
    """Compute the share of the reflection in each voxel (z, y, x) of a box.

    The correction (m, m, m) of the Gaussian is interpolated between nodes from -last to last, in
    standard deviations; it is 1 outside them.
    """
    nz, ny, nx = out.shape
    pz, py, px = np.zeros(nz), np.zeros(ny), np.zeros(nx)
    add_profile(start[0], centre[0], sigma[0], pz)
    add_profile(start[1], centre[1], sigma[1], py)
    add_profile(start[2], centre[2], sigma[2], px)
    gaussian = pz.sum() * py.sum() * px.sum()
    if correction.size == 0:
        for k in range(nz):
            for i in range(ny):
                zy = pz[k] * py[i]
                for j in range(nx):
                    out[k, i, j] = zy * px[j]
        return
    m = correction.shape[0]
    longest = max(nz, ny, nx)
    low, part = np.empty((3, longest), np.int64), np.empty((3, longest))
    for a in range(3):
        wide = math.sqrt(sigma[a] ** 2 + 1 / 12)
        first = (start[a] + 0.5 - centre[a]) / wide
        _between(m, last, first, 1 / wide, low[a, : out.shape[a]], part[a])
    line = np.empty(m)
    total = 0.0
    for k in range(nz):
        z, tz = low[0, k], part[0, k]
        for i in range(ny):
            zy = pz[k] * py[i]
            y, ty = low[1, i], part[1, i]
            inside = z >= 0 and y >= 0 and zy > 0
            if inside:
                c00, c01 = (1 - tz) * (1 - ty), (1 - tz) * ty
                c10, c11 = tz * (1 - ty), tz * ty
                for n in range(m):
                    line[n] = (
                        c00 * correction[z, y, n]
                        + c01 * correction[z, y + 1, n]
                        + c10 * correction[z + 1, y, n]
                        + c11 * correction[z + 1, y + 1, n]
                    )
            for j in range(nx):
                share = zy * px[j]
                x = low[2, j]
                if inside and x >= 0:
                    share *= line[x] + part[2, j] * (line[x + 1] - line[x])
                total += share
                out[k, i, j] = share
    # The part of the profile outside the box is Gaussian.
    factor = 1 / (total + 1 - gaussian)
    for k in range(nz):
        for i in range(ny):
            for j in range(nx):
                out[k, i, j] *= factor


@kernel
def _inside(z: float, y: float, x: float, centre: F64, half: F64) -> float:
    """Return the squared distance of a voxel's centre from a centre, in half axes."""
    a, b, c = (z - centre[0]) / half[0], (y - centre[1]) / half[1], (x - centre[2]) / half[2]
    return a * a + b * b + c * c


# Kinds of voxels.
KIND_OUTSIDE, KIND_MINE, KIND_SHARED_NEAR, KIND_SHARED_FAR, KIND_ZONE, KIND_OTHER = range(6)


@kernel
def sort_out(
    start: I64,
    centre: F64,
    half: F64,
    neighbours: I64,
    all_centre: F64,
    all_half: F64,
    kind: NDArray[np.uint8],
) -> None:
    """Classify the voxels of a box: foreground, shared, neighbour's foreground, zone, outside."""
    nz, ny, nx = kind.shape
    # The terms of the squared distances of voxels from the centre, in half axes.
    own, wider = np.empty((3, max(kind.shape))), np.empty((3, max(kind.shape)))
    for a in range(3):
        for k in range(kind.shape[a]):
            off = start[a] + k + 0.5 - centre[a]
            own[a, k] = (off / half[a]) ** 2
            wider[a, k] = (off / (half[a] + _GAP)) ** 2
    for k in range(nz):
        for i in range(ny):
            near, zone = own[0, k] + own[1, i], wider[0, k] + wider[1, i]
            if zone > 1:
                kind[k, i] = KIND_OUTSIDE
                continue
            for j in range(nx):
                what = KIND_OUTSIDE
                if zone + wider[2, j] <= 1:
                    what = KIND_ZONE
                if near + own[2, j] <= 1:
                    what = KIND_MINE
                kind[k, i, j] = what
    for other in neighbours:
        at, reach = all_centre[other], all_half[other]
        halo = reach + _GAP
        low, high = np.empty(3, np.int64), np.empty(3, np.int64)
        for a in range(3):
            low[a] = max(0, math.floor(at[a] - halo[a]) - start[a])
            high[a] = min(kind.shape[a], math.floor(at[a] + halo[a]) + 1 - start[a])
        for k in range(low[0], high[0]):
            z = start[0] + k + 0.5
            for i in range(low[1], high[1]):
                y = start[1] + i + 0.5
                for j in range(low[2], high[2]):
                    x = start[2] + j + 0.5
                    theirs = _inside(z, y, x, at, reach)
                    was = kind[k, i, j]
                    # The halo of a neighbour's foreground is not background either.
                    if was == KIND_OUTSIDE and _inside(z, y, x, at, halo) <= 1:
                        kind[k, i, j] = KIND_OTHER
                    if theirs > 1:
                        continue
                    if was in (KIND_OUTSIDE, KIND_ZONE):
                        kind[k, i, j] = KIND_OTHER
                    elif was in (KIND_MINE, KIND_SHARED_NEAR):
                        near = _inside(z, y, x, centre, half) <= theirs
                        kind[k, i, j] = KIND_SHARED_NEAR if near else KIND_SHARED_FAR


@kernel
def fit_intensity(
    rows: F64, m: int, background: F64, fisher: F64, start: float, least: float
) -> tuple[float, float]:
    """Fit the profile to the foreground (m rows), with the shell's background as prior.

    Parameters
    ----------
    start, least
        ``start``: start value of the intensity, counts per norm. ``least``: amount added to the
        intensity for the variances. It corresponds to half a count, because a pixel with zero
        counts could equally have had one.

    Returns
    -------
    intensity, variance
        Counts per norm; NaN without voxels to fit.
    """
    terms = len(fisher)
    size = terms + 1
    matrix, right = np.empty((size, size)), np.empty(size)
    intensity = start
    p = background.copy()
    known = fisher @ background[:terms]
    low = least_level(rows, m, p[0])
    variance = np.nan
    for _ in range(8):
        matrix[:] = 0.0
        right[:] = 0.0
        matrix[1:, 1:] = fisher
        right[1:] = known
        normal_sums(rows, m, p, low, max(intensity, 0.0) + least, 0.0, matrix, right)
        if not matrix[0, 0] > 0:
            return np.nan, np.nan
        covariance = np.linalg.inv(matrix)
        before = intensity
        solved = covariance @ right
        intensity, variance = solved[0], covariance[0, 0]
        p[:terms] = solved[1:]
        if abs(intensity - before) < 1e-3 * math.sqrt(variance):
            break
    return intensity, variance


class Voxels(NamedTuple):
    """Voxels of all boxes one after the other."""

    counts: NDArray[np.float32]
    """Counts; NaN without a measurement."""
    offset: I64
    """Index in the counts at which each box (n,) begins."""
    origin: I64
    """First voxel (n, 3) of each box in the scan."""
    shape: I64
    """Extent (n, 3) of each box."""


class Places(NamedTuple):
    """Predicted centre, standard deviations and half axes of the foreground, (n, 3) each."""

    centre: F64
    sigma: F64
    half: F64
    error: F64
    """Standard deviations of the predicted centre."""


class Norms(NamedTuple):
    """Factors of the norm, (slow, fast) and (n_frames,), and the read noise."""

    pixel: F64
    frame: F64
    read_variance: NDArray[np.float32]
    """Read noise (slow, fast); of size 0 without read noise."""


class Neighbours(NamedTuple):
    """Reflections whose foreground may overlap a box."""

    start: I64
    """The neighbours of box i are ``rows[start[i] : start[i + 1]]``."""
    rows: I64
    """Row numbers in ``centre`` and ``half``."""
    centre: F64
    half: F64


class LearnedProfiles(NamedTuple):
    """Corrections of the profiles (regions, m, m, m), see `fill_profile`; of size 0 for none."""

    predicted: F64
    """Corrections about predicted centres."""
    observed: F64
    """Corrections about observed centres."""
    last: float
    """Coordinate of the last node."""
    region: I64
    """Region (n,) of each box."""


class Surface(NamedTuple):
    """Surface of the background."""

    bend: F64
    """Mean and spread (2, 3) of the curvature."""
    terms: int


class Rows(NamedTuple):
    """Lists of voxels (N_VOXEL, most), filled box after box."""

    front: F64
    place: NDArray[np.int32]
    """Indices (most, 3) of the foreground's voxels in the box."""
    back: F64
    """Sums over voxels of the background, see `gather_back`."""


class Cuts(NamedTuple):
    """Limits, see `hklflow.bragg.integrate.IntegrationParams`."""

    saturation: float
    overlap: float
    least_recorded: float


@kernel
def integrate_boxes(
    voxels: Voxels,
    places: Places,
    norms: Norms,
    neighbours: Neighbours,
    learned: LearnedProfiles,
    surface: Surface,
    cuts: Cuts,
    fits: int,
    out: F64,
    flags: I64,
) -> None:
    """Integrate boxes of voxels; fills ``out`` (n, len(COLUMNS)) and ``flags`` (n,).

    ``fits`` is `SUMS`, `CENTRES` or `FITS`. The columns of fits that are not made stay NaN.
    """
    origin, shape = voxels.origin, voxels.shape
    centre, sigma, half, error = places
    most = 0
    for i in range(len(shape)):
        most = max(most, shape[i, 0] * shape[i, 1] * shape[i, 2])
    front, place = np.empty((N_VOXEL, padded(most))), np.empty((most, 3), np.int32)
    rows = Rows(front, place, np.empty((N_VOXEL, padded(most))))
    empty = np.empty((0, 0, 0))
    for i in range(len(shape)):
        out[i] = np.nan
        box = box_of(voxels, i)
        kind, share = np.empty(box.shape, np.uint8), np.empty(box.shape)
        grid = learned.predicted[learned.region[i]] if learned.predicted.size else empty
        fill_profile(origin[i], centre[i], sigma[i], grid, learned.last, share)
        near = neighbours.rows[neighbours.start[i] : neighbours.start[i + 1]]
        sort_out(origin[i], centre[i], half[i], near, neighbours.centre, neighbours.half, kind)
        extent = _extent(origin[i], shape[i], centre[i], half[i])
        whole, divided = _whole_profile(kind, share, extent, cuts.overlap)
        if divided:
            flags[i] |= _OVERLAP
        m, recorded = _gather_front(
            box, kind, share, divided, extent, origin[i], centre[i], norms, cuts.saturation, rows,
            flags[i : i + 1],
        )  # fmt: skip
        n = gather_back(box, kind, share, origin[i], centre[i], norms, cuts.saturation, rows.back)
        out[i, N_FOREGROUND], out[i, RECORDED] = m, recorded
        level, fisher, enough = _fit_level(rows, m, n, shape[i], surface, out[i])
        if not enough:
            flags[i] |= _NO_BACKGROUND | _NO_PROFILE
            continue
        weight, above, _ = _summed(front, m, level, fisher, 0.0)
        out[i, COUNTS] = above
        if recorded > 0:
            out[i, NORM] = weight / recorded
        if not recorded >= cuts.least_recorded * whole:
            flags[i] |= _NO_PROFILE
            continue
        total = above / weight
        _, _, var = _summed(front, m, level, fisher, max(total, 0.0))
        out[i, SUM], out[i, VAR_SUM] = total, var / weight**2
        if fits == SUMS:
            continue
        strength = total / math.sqrt(out[i, VAR_SUM])
        factor = 1.0
        if strength > _CENTROID and recorded > 0.9 * whole:
            seen = out[i, FRAME : VAR_FAST + 1]
            likely = out[i, LIKELY_FRAME : LIKELY_FAST + 1]
            loose = fit_centre(
                front, place, m, shape[i], origin[i], centre[i], sigma[i], error[i], level, total,
                seen, likely,
            )  # fmt: skip
            if (
                fits == FITS
                and learned.observed.size
                and strength > _MOVED
                and math.isfinite(loose)
            ):
                # For a strong reflection, the observed centre is better than the prediction.
                factor = loose
                grid = learned.observed[learned.region[i]]
                fill_profile(origin[i], likely, sigma[i], grid, learned.last, share)
                for r in range(m):
                    front[V_SHARE, r] = share[place[r, 0], place[r, 1], place[r, 2]]
        if fits == CENTRES:
            continue
        intensity, var = fit_intensity(front, m, level, fisher, total, 0.5 / weight)
        if not (math.isfinite(intensity) and var > 0):
            flags[i] |= _NO_PROFILE
            continue
        out[i, PROFILE], out[i, VAR_PROFILE] = intensity, var * factor
        _compare(front, m, level, intensity, out[i])


@kernel
def box_of(voxels: Voxels, i: int) -> NDArray[np.float32]:
    """Return the counts of box i as (frame, slow, fast)."""
    nz, ny, nx = voxels.shape[i, 0], voxels.shape[i, 1], voxels.shape[i, 2]
    begin = voxels.offset[i]
    return voxels.counts[begin : begin + nz * ny * nx].reshape((nz, ny, nx))


@kernel
def _extent(origin: I64, shape: I64, centre: F64, half: F64) -> I64:
    """Return the indices (3, 2) in a box between which the foreground lies."""
    extent = np.empty((3, 2), np.int64)
    for a in range(3):
        extent[a, 0] = min(max(math.floor(centre[a] - half[a]) - origin[a], 0), shape[a])
        extent[a, 1] = min(max(math.floor(centre[a] + half[a]) + 1 - origin[a], 0), shape[a])
    return extent


@kernel
def _whole_profile(
    kind: NDArray[np.uint8], share: F64, extent: I64, overlap: float
) -> tuple[float, bool]:
    """Return the profile's sum over the foreground, and True if the shared part is too large."""
    whole = shared = 0.0
    for k in range(extent[0, 0], extent[0, 1]):
        for y in range(extent[1, 0], extent[1, 1]):
            for x in range(extent[2, 0], extent[2, 1]):
                if KIND_MINE <= kind[k, y, x] <= KIND_SHARED_FAR:
                    whole += share[k, y, x]
                    if kind[k, y, x] != KIND_MINE:
                        shared += share[k, y, x]
    return whole, shared > overlap * whole


@kernel
def _gather_front(
    box: NDArray[np.float32],
    kind: NDArray[np.uint8],
    share: F64,
    divided: bool,
    extent: I64,
    origin: I64,
    centre: F64,
    norms: Norms,
    saturation: float,
    rows: Rows,
    flags: I64,
) -> tuple[np.int64, float]:
    """List the voxels of the foreground in ``rows``.

    Returns
    -------
    m : int
        Number of voxels.
    recorded : float
        Share of the profile on these voxels.
    """
    front, place, _ = rows
    nz, ny, nx = box.shape
    n_slow, n_fast = norms.pixel.shape
    pixel_norm, frame_norm, read_variance = norms
    noisy = read_variance.size > 0
    m = np.int64(0)  # for a plain 0, Numba would compile all callees again
    recorded = 0.0
    for k in range(extent[0, 0], extent[0, 1]):
        z = origin[0] + k
        if not 0 <= z < len(frame_norm):
            continue
        for a in range(extent[1, 0], extent[1, 1]):
            y = origin[1] + a
            for b in range(extent[2, 0], extent[2, 1]):
                if not KIND_MINE <= kind[k, a, b] <= KIND_SHARED_FAR:
                    continue
                x = origin[2] + b
                if not (0 <= y < n_slow and 0 <= x < n_fast):
                    flags[0] |= _EDGE
                    continue
                value = box[k, a, b]
                norm = pixel_norm[y, x] * frame_norm[z]
                if not (norm > 0 and pixel_norm[y, x] > 0 and math.isfinite(value)):
                    flags[0] |= _MASKED
                    continue
                if value >= saturation:
                    flags[0] |= _OVERLOAD
                    continue
                if kind[k, a, b] == KIND_SHARED_FAR or (
                    kind[k, a, b] == KIND_SHARED_NEAR and not divided
                ):
                    continue
                place[m, 0], place[m, 1], place[m, 2] = k, a, b
                recorded += share[k, a, b]
                front[V_COUNTS, m], front[V_NORM, m] = value, norm
                front[V_SHARE, m] = share[k, a, b]
                front[V_READ, m] = read_variance[y, x] if noisy else 0.0
                front[V_Z, m] = (z + 0.5 - centre[0]) / (0.5 * nz)
                front[V_Y, m] = (y + 0.5 - centre[1]) / (0.5 * ny)
                front[V_X, m] = (x + 0.5 - centre[2]) / (0.5 * nx)
                for c in range(3):
                    front[V_ZZ + c, m] = front[V_Z + c, m] ** 2
                m += 1
    front[V_USED, :m] = 1.0
    pad(front, m)
    return m, recorded


@kernel
def gather_back(
    box: NDArray[np.float32],
    kind: NDArray[np.uint8],
    share: F64,
    origin: I64,
    centre: F64,
    norms: Norms,
    saturation: float,
    back: F64,
) -> np.int64:
    """List the background in ``back``: sums over 2 x 2 pixels of a frame; return their number.

    Sums of counts are Poisson counts. The expected sum has the norm-weighted means of coordinates,
    their squares and shares; nothing is approximated.
    """
    nz, ny, nx = box.shape
    n_slow, n_fast = norms.pixel.shape
    pixel_norm, frame_norm, read_variance = norms
    noisy = read_variance.size > 0
    cells_slow, cells_fast = (ny - 1) // _CELL[1] + 1, (nx - 1) // _CELL[2] + 1
    left, right = min(max(-origin[2], 0), nx), max(min(nx, n_fast - origin[2]), 0)
    sums = np.zeros((_N_SUMS, nx // 2 + 1))
    n = np.int64(0)
    for k in range(nz):
        z = origin[0] + k
        if not (0 <= z < len(frame_norm) and frame_norm[z] > 0):
            continue
        at_z = (z + 0.5 - centre[0]) / (0.5 * nz)
        for a in range(ny):
            y = origin[1] + a
            if 0 <= y < n_slow:
                at_y = (y + 0.5 - centre[1]) / (0.5 * ny)
                for b in range(left, right):
                    x = origin[2] + b
                    value, norm = box[k, a, b], pixel_norm[y, x] * frame_norm[z]
                    # Comparisons with NaN are false.
                    if kind[k, a, b] != KIND_OUTSIDE or not (norm > 0 and value < saturation):
                        continue
                    at_x = (x + 0.5 - centre[2]) / (0.5 * nx)
                    c = b // 2
                    sums[_S_NUMBER, c] += 1
                    sums[_S_COUNTS, c] += value
                    sums[_S_NORM, c] += norm
                    sums[_S_SHARE, c] += norm * share[k, a, b]
                    sums[_S_Y, c] += norm * at_y
                    sums[_S_X, c] += norm * at_x
                    sums[_S_YY, c] += norm * at_y * at_y
                    sums[_S_XX, c] += norm * at_x * at_x
                    if noisy:
                        sums[_S_READ, c] += read_variance[y, x]
            if a % 2 == 0 and a < ny - 1:
                continue
            for c in range(nx // 2 + 1):
                if not sums[_S_NUMBER, c] > 0:
                    continue
                norm = sums[_S_NORM, c]
                back[V_COUNTS, n], back[V_NORM, n] = sums[_S_COUNTS, c], norm
                back[V_NUMBER, n], back[V_READ, n] = sums[_S_NUMBER, c], sums[_S_READ, c]
                back[V_SHARE, n] = sums[_S_SHARE, c] / norm
                back[V_Z, n], back[V_ZZ, n] = at_z, at_z * at_z
                back[V_Y, n], back[V_YY, n] = sums[_S_Y, c] / norm, sums[_S_YY, c] / norm
                back[V_X, n], back[V_XX, n] = sums[_S_X, c] / norm, sums[_S_XX, c] / norm
                back[V_CELL, n] = (
                    (k // _CELL[0]) * cells_slow + a // _CELL[1]
                ) * cells_fast + 2 * c // _CELL[2]
                n += 1
            sums[:] = 0.0
    pad(back, n)
    return n


@kernel
def _fit_level(
    rows: Rows,
    m: np.int64,
    n: np.int64,
    shape: I64,
    surface: Surface,
    out: F64,
) -> tuple[F64, F64, bool]:
    """Fit the background and fill its columns of ``out``; return False if it has too few voxels."""
    front, _, back = rows
    bend, terms = surface
    cells = ((shape[1] - 1) // _CELL[1] + 1, (shape[2] - 1) // _CELL[2] + 1)
    n_cells = ((shape[0] - 1) // _CELL[0] + 1) * cells[0] * cells[1]
    prior = np.empty((3, 2))
    for a in range(3):
        prior[a, 0] = bend[0, a] * (0.5 * shape[a]) ** 2
        prior[a, 1] = bend[1, a] * (0.5 * shape[a]) ** 2
    level, fisher, used, low = fit_background(back, n, 0.0, prior, terms, n_cells, cells)
    n_used = _voxels(back, n, used)
    out[N_BACKGROUND] = n_used
    if n_used < _LEAST_BACKGROUND:
        return level, fisher, False
    weight, above, _ = _summed(front, m, level, fisher, 0.0)
    tail = 0.0
    if weight > 0:
        # The tail of the reflection itself is not background.
        tail = max(above / weight, 0.0)
        level, fisher, used, low = fit_background(back, n, tail, prior, terms, n_cells, cells)
    chi2 = background_chi2(back, n, tail, level, low)
    out[N_BACKGROUND] = _voxels(back, n, used)
    out[BACKGROUND_CHI2] = chi2 / max(used - terms, 1)
    covariance = np.linalg.inv(fisher)
    out[BACKGROUND], out[VAR_BACKGROUND] = level[0], covariance[0, 0]
    for a in range(3):
        unit = 0.5 * shape[a]
        out[SLOPE_FRAME + a] = level[1 + a] / unit
        out[BEND_FRAME + a] = level[4 + a] / unit**2
        if terms > 4:
            out[VAR_BEND_FRAME + a] = covariance[4 + a, 4 + a] / unit**4
    return level, fisher, True


@kernel
def _voxels(back: F64, n: np.int64, used: int) -> float:
    """Return the number of voxels in the used sums; 0 if none was used."""
    number = 0.0
    for r in range(n if used > 0 else 0):
        number += back[V_NUMBER, r] * back[V_USED, r]
    return number


@kernel
def _summed(
    rows: F64, m: int, level: F64, fisher: F64, intensity: float
) -> tuple[float, float, float]:
    """Return sums over m voxels: norm times profile, counts above background, their variance."""
    weight = above = var = 0.0
    h = np.zeros(7)
    for r in range(m):
        norm = rows[V_NORM, r]
        z, y, x = rows[V_Z, r], rows[V_Y, r], rows[V_X, r]
        under = norm * level_at(level, z, y, x)
        weight += norm * rows[V_SHARE, r]
        above += rows[V_COUNTS, r] - under
        var += max(under, 0.0) + norm * intensity * rows[V_SHARE, r] + rows[V_READ, r]
        h[0] += norm
        h[1] += norm * z
        h[2] += norm * y
        h[3] += norm * x
        h[4] += norm * z * z
        h[5] += norm * y * y
        h[6] += norm * x * x
    terms = len(fisher)
    spread = np.linalg.solve(fisher, h[:terms])
    for a in range(terms):
        var += h[a] * spread[a]
    return weight, above, var


@kernel
def _compare(rows: F64, m: int, level: F64, intensity: float, out: F64) -> None:
    """Compute chi² and correlation of the foreground with the profile."""
    low = least_level(rows, m, level[0])
    chi2 = unlike = 0.0
    s = np.zeros(5)
    for r in range(m):
        norm, share = rows[V_NORM, r], rows[V_SHARE, r]
        under = level_at(level, rows[V_Z, r], rows[V_Y, r], rows[V_X, r])
        peak = norm * intensity * share
        above = rows[V_COUNTS, r] - norm * under
        var = norm * max(under, low) + max(peak, 0.0) + rows[V_READ, r]
        off = above - peak
        chi2 += off * off / var
        unlike += off * off / (var + (_TOLERANCE * peak) ** 2)
        expected = norm * share
        s[0] += above
        s[1] += expected
        s[2] += above * above
        s[3] += expected * expected
        s[4] += above * expected
    out[CHI2] = chi2 / max(m - 1, 1)
    out[UNLIKE] = unlike / max(m - 1, 1)
    if m > 1:
        spread = (s[2] - s[0] * s[0] / m) * (s[3] - s[1] * s[1] / m)
        if spread > 0:
            out[CORRELATION] = (s[4] - s[0] * s[1] / m) / math.sqrt(spread)
