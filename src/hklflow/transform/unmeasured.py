r"""Background that was not measured, bounded from the rotation itself.

A record g of voxel orbit v (see `repeats`) counts ``C ~ Poisson(N s S_v + M B)``. N is its norm, M
its norm without the transmission of the crystal, and B the background in units of S, fixed in the
laboratory:

.. math:: B(q, \alpha) = c(q) + b(q, \alpha)

with the azimuth α about the beam. S of each orbit is eliminated. The crystal turns and B does not,
so that the anisotropic part b is known with its error. Where the transmission is constant, S + c
and B - c T expect the same counts, so the isotropic part c is not known from counts. It is bounded
by S >= 0 and B >= 0:

.. math:: -\min b \le c \le \min (T S + c) .

Where T changes at equivalent places, the fit also knows c, with an error. ln s (a curve over the
frames and its dependence on the place on the detector) is free within its prior, so that errors of
the transmission are not taken for a background.

b and c are cubic B-splines in q times harmonics of α. The prior of each coefficient is 0 ± the
level of the counts; coefficients that the records do not determine stay 0, and `determined` says
so. The covariance is ``P⁻¹ (J + K) P⁻¹``: P is the information with the prior's K, J the scatter of
the gradients of the orbits.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel
from hklflow.transform.repeats import Records

Floats = NDArray[np.float64]

HARMONICS = 4
RADIAL = 12  # intervals along q
_CURVE = 8  # splines of ln s of a rotation
_SLOPES = 6  # 1, x, y, x², xy, y² of the place on the detector
_SCALE = 0.1  # standard deviation of the coefficients of ln s
_TAU = 0.1  # S(Q) differs by this fraction within an orbit
_ROUNDS = 3
_PRIOR_COUNTS = 10.0
_OUTLIER = 6.0
_Z, _Z_LEAST = 2.0, 3.0  # standard errors at the upper and at the lower end
_UPDATES = 40
_LEAST_COUNTS = 50


class Places(NamedTuple):
    """Places of records or pixels in the laboratory, arrays of one shape.

    Attributes
    ----------
    q : array
        |Q|, 1/Å.
    azimuth : array
        Azimuth of the scattered beam, rad.
    """

    q: Floats
    azimuth: Floats


class _Layout(NamedTuple):
    """Numbers of parameters: radial splines, angular functions, first of ln s, all."""

    radial: int
    angular: int
    field: int
    course: int
    size: int


class _Columns(NamedTuple):
    """Of each record: splines along q, harmonics, splines of ln s, slopes."""

    at_q: NDArray[np.int64]
    of_q: NDArray[np.float32]
    of_azimuth: NDArray[np.float32]
    at_frame: NDArray[np.int64]
    of_frame: NDArray[np.float32]
    slopes: NDArray[np.float32]


def _hats(x: Floats, intervals: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the first index and the two values of piecewise linear functions on 0 to 1."""
    u = np.clip(np.asarray(x, np.float64), 0, 1) * intervals
    at = np.minimum(u.astype(np.int64), intervals - 1)
    return at, np.stack([1 - (u - at), u - at], axis=-1).astype(np.float32)


def _harmonics(azimuth: Floats) -> NDArray[np.float32]:
    """Return 1, cos nα and sin nα."""
    waves = [np.ones(np.shape(azimuth))]
    for n in range(1, HARMONICS + 1):
        waves += [np.cos(n * azimuth), np.sin(n * azimuth)]
    return np.stack(waves, axis=-1).astype(np.float32)


@kernel
def _normal(begin, off, norm, unit, weight, s, columns, layout, G, J, g):  # type: ignore[no-untyped-def]
    """Add the normal equations of all orbits with S eliminated (lower triangles of G and J)."""
    _, n_angular, first_field, first_course, size = layout
    n_slopes = columns.slopes.shape[1]
    n = 2 * (n_angular + n_angular - 1 + n_slopes)
    index, value = np.empty(n, np.int64), np.empty(n)
    row, score = np.zeros(size), np.zeros(size)
    touched, used = np.empty(size, np.int64), np.zeros(size, np.bool_)
    for o in range(len(begin) - 1):
        n_touched, D, e = 0, 0.0, 0.0
        for i in range(begin[o], begin[o + 1]):
            w = weight[i]
            if w <= 0:
                continue
            k, signal = 0, norm[i] * s[o]
            for a in range(2):
                at, x = columns.at_q[i] + a, columns.of_q[i, a]
                for m in range(n_angular):
                    index[k] = at * n_angular + m
                    value[k] = unit[i] * x * columns.of_azimuth[i, m]
                    k += 1
                for m in range(1, n_angular):
                    index[k] = first_field + at * (n_angular - 1) + m - 1
                    value[k] = signal * x * columns.of_azimuth[i, m]
                    k += 1
                at, x = columns.at_frame[i] + a, columns.of_frame[i, a]
                for m in range(n_slopes):
                    index[k] = first_course + at * n_slopes + m
                    value[k] = signal * x * columns.slopes[i, m]
                    k += 1
            D += w * norm[i] * norm[i]
            e += w * norm[i] * off[i]
            for a in range(k):
                at = index[a]
                if not used[at]:
                    used[at] = True
                    touched[n_touched] = at
                    n_touched += 1
                wa = w * value[a]
                row[at] += wa * norm[i]
                score[at] += wa * off[i]
                for b in range(k):
                    if index[b] <= at:
                        G[at, index[b]] += wa * value[b]
        for a in range(n_touched):
            score[touched[a]] -= row[touched[a]] * e / max(D, 1e-300)
        for a in range(n_touched):
            at = touched[a]
            for b in range(n_touched):
                other = touched[b]
                if other <= at:
                    G[at, other] -= row[at] * row[other] / D
                    J[at, other] += score[at] * score[other]
        for a in range(n_touched):
            at = touched[a]
            g[at] += score[at]
            row[at], score[at], used[at] = 0.0, 0.0, False


@dataclass(frozen=True)
class Fit:
    """Background in units of S, as found from the records.

    Attributes
    ----------
    edges : (float, float)
        Range of |Q|, 1/Å.
    parameters, covariance : (n,), (n, n) arrays
        Coefficients of b and c; those of ln s are left out.
    prior : (n,) array
        Standard deviations of the coefficients before the fit.
    chi2 : float
        Reduced χ² of the records of an orbit.
    log_scale : (records,) array
        ln s of each record.
    """

    edges: tuple[float, float]
    parameters: Floats
    covariance: Floats
    prior: Floats
    chi2: float
    log_scale: Floats

    def rows(self, places: Places) -> Floats:
        """Return the functions of the coefficients of b and c (places, n)."""
        low, high = self.edges
        at, of_q = _hats((places.q - low) / (high - low), RADIAL)
        waves = _harmonics(places.azimuth)
        n = waves.shape[-1]
        rows = np.zeros((len(at), len(self.parameters)))
        here = np.arange(len(at))
        for a in range(2):
            for m in range(1, n):
                rows[here, (at + a) * n + m] = of_q[:, a] * waves[:, m]
        return rows

    def image(self, places: Places) -> tuple[Floats, Floats]:
        """Return b and its variance at places, interpolated in a table of q and azimuth."""
        from scipy.ndimage import map_coordinates

        low, high = self.edges
        q = np.linspace(low, high, 5 * RADIAL + 1)
        azimuth = np.linspace(-np.pi, np.pi, 73)
        nodes = [x.ravel() for x in np.meshgrid(q, azimuth, indexing="ij")]
        rows = self.rows(Places(*nodes))
        b = rows @ self.parameters
        variance = np.einsum("ij,jk,ik->i", rows, self.covariance, rows, optimize=True)
        at = [
            np.clip((places.q - low) / (high - low), 0, 1) * (len(q) - 1),
            (places.azimuth + np.pi) / (2 * np.pi) * (len(azimuth) - 1),
        ]
        shape = len(q), len(azimuth)
        return tuple(
            map_coordinates(v.reshape(shape), at, order=1, mode="nearest") for v in (b, variance)
        )  # type: ignore[return-value]


def significance(found: Fit) -> float:
    """Return by how many standard deviations χ² of the anisotropic part exceeds its mean."""
    own = found.prior > found.prior.min()
    p, covariance = found.parameters[own], found.covariance[np.ix_(own, own)]
    chi2 = float(p @ np.linalg.lstsq(covariance, p, rcond=1e-12)[0]) if len(p) else 0.0
    return (chi2 - len(p)) / max(np.sqrt(2 * len(p)), 1.0)


class Bounds(NamedTuple):
    """Interval of the isotropic background in shells of |Q|, in units of S.

    Attributes
    ----------
    edges : (n + 1,) array
        1/Å.
    low, high : (n,) arrays
        Ends of the interval of the mean background of the shell; NaN without enough counts.
    level : (n,) array
        Mean of T S and background, without the anisotropic part.
    """

    edges: Floats
    low: Floats
    high: Floats
    level: Floats


def bounds(
    records: Records,
    places: Places,
    blocks: NDArray[np.int64],
    found: Fit,
    pixels: Places,
    edges: Floats,
    seed: int = 0,
) -> Bounds:
    """Return the interval of the isotropic background.

    The lower end is the mean over a shell minus the least of the background, which is not below 0.
    The upper end is the least crystal and background of a block of reciprocal space. The least of
    noisy blocks is below the truth; therefore one half of the photons chooses the blocks, and the
    other half gives their level.

    Parameters
    ----------
    blocks : (records,) array
        Number of the block of reciprocal space of each record.
    pixels : Places
        Of the pixels of the detector in use.
    edges : (n + 1,) array
        Edges of the shells, 1/Å.
    seed : int
        Of the halves.
    """
    rng = np.random.default_rng(seed)
    n = len(edges) - 1
    counts = np.asarray(records.counts, np.int64)
    unit = np.asarray(records.background, np.float64)
    half = rng.binomial(counts, 0.5)
    at_pixel, variance = found.image(pixels)
    at_record = found.image(places)[0]
    of_pixel, of_record = (np.digitize(x.q, edges) - 1 for x in (pixels, places))
    low, high, level = np.full((3, n), np.nan)
    for i in range(n):
        own, mine = of_pixel == i, of_record == i
        if not own.any() or counts[mine].sum() < _LEAST_COUNTS:
            continue
        mean = float(at_pixel[own].mean())
        low[i] = max(0.0, float((mean - at_pixel[own] - _Z_LEAST * np.sqrt(variance[own])).max()))
        known = unit[mine] * (at_record[mine] - mean)
        m = unit[mine].sum()
        level[i] = (counts[mine].sum() - known.sum()) / m
        own_blocks = np.unique(blocks[mine], return_inverse=True)[1]
        sums = [
            np.bincount(own_blocks, x).astype(np.float64)
            for x in (half[mine], counts[mine] - half[mine], known, unit[mine])
        ]
        ceiling = level[i] + _Z * np.sqrt(counts[mine].sum()) / m
        high[i] = max(min(_least(*sums), ceiling), low[i])
    return Bounds(edges, low, high, level)


def _least(first: Floats, second: Floats, known: Floats, unit: Floats) -> float:
    """Return the least level of blocks plus ``_Z`` standard errors, from halves of their counts."""
    enough = first + second > _LEAST_COUNTS
    if not enough.any():
        return float("nan")
    A, B, E, M = (x[enough] for x in (first, second, known, unit))
    totals, variances = [], []
    for chooses, tells in ((A, B), (B, A)):
        order = np.argsort((2 * chooses - E) / M)
        mine, other, e, m = (np.cumsum(x[order]) for x in (chooses, tells, E, M))
        numbers = np.unique(np.geomspace(1, len(m), 40).astype(int)) - 1
        ends = (2 * mine - e) / m + _Z * 2 * np.sqrt(np.maximum(mine, 1)) / m
        best = numbers[np.argmin(ends[numbers])]
        totals.append((2 * other[best] - e[best]) / m[best])
        variances.append(4 * max(other[best], 1.0) / m[best] ** 2)
    # The halves are independent.
    return float(np.mean(totals) + _Z * np.sqrt(np.sum(variances)) / 2)


def fit(records: Records, places: Places, frames: tuple[int, ...], shape: tuple[int, int]) -> Fit:
    """Return the background that explains what differs between the records of an orbit.

    Parameters
    ----------
    records : Records
        Joined records; ``background`` is M, the norm without the transmission of the crystal.
    places : Places
        Of each record.
    frames : tuple of int
        Numbers of frames of the rotations.
    shape : (int, int)
        Pixels of the detector.
    """
    C, N0, M = (
        np.asarray(a, np.float64) for a in (records.counts, records.norm, records.background)
    )
    begin = np.append(np.flatnonzero(np.diff(records.voxel, prepend=-1)), len(C)).astype(np.int64)
    of = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
    edges = float(places.q.min()), float(places.q.max()) * (1 + 1e-9)
    columns, layout = _columns(records, places, edges, frames, shape)
    level = float(C.sum() / M.sum())
    n_b = layout.field
    groups = _groups(layout)
    widths = np.array([1e-6 * level, 0.1 * level, _SCALE, _SCALE])
    shell = np.minimum(((places.q - edges[0]) / (edges[1] - edges[0]) * 40).astype(int), 39)
    p, keep = np.zeros(layout.size), np.ones(len(C), np.bool_)
    for turn in range(_ROUNDS):
        log = _of_scale(p, columns, layout)
        N = N0 * np.exp(log)
        B = M * _of_background(p[:n_b], columns, layout)
        # The variance must not follow the noise of few counts.
        mean = np.bincount(shell, C - B, 40) / np.maximum(np.bincount(shell, N, 40), 1e-30)
        mean = np.maximum(mean, 0.05 * level)
        sums = [np.bincount(of, x) for x in (C - B, N)]
        middle = mean[shell[begin[:-1]]]
        smooth = np.maximum((sums[0] + _PRIOR_COUNTS) / (sums[1] + _PRIOR_COUNTS / middle), 0)
        expected = np.maximum(N * smooth[of] + B, 0.2 * N * middle[of])
        variance = expected + (_TAU * N * smooth[of]) ** 2
        w = keep / variance
        D = np.bincount(of, w * N**2)
        s = np.bincount(of, w * N * (C - B)) / np.maximum(D, 1e-30)
        off = C - B - N * s[of]
        if turn == 1:
            keep &= np.abs(off) < _OUTLIER * np.sqrt(variance)
            w = keep / variance
        G, J = np.zeros((2, layout.size, layout.size))
        g = np.zeros(layout.size)
        positive = np.maximum(s, 0)
        _normal(begin, off, N, M, w, positive, columns, tuple(layout), G, J, g)
        G, J = (np.tril(x) + np.tril(x, -1).T for x in (G, J))
        p, widths = _evidence(G, g + G @ p, groups, widths)
    K = np.diag(1 / widths[groups] ** 2)
    inverse = np.linalg.inv(G + K)
    covariance = inverse @ (J + K) @ inverse
    prior = widths[groups]
    n_orbits = np.count_nonzero(np.bincount(of, keep) > 0)
    chi2 = float(np.sum(w * off**2) / max(np.count_nonzero(keep) - n_orbits, 1))
    log = _of_scale(p, columns, layout)
    return Fit(edges, p[:n_b], covariance[:n_b, :n_b], prior[:n_b], chi2, log)


def _groups(layout: _Layout) -> NDArray[np.int64]:
    """Return the group of each coefficient: c, b, direction of ln s, course of ln s."""
    groups = np.full(layout.size, 3)
    groups[: layout.field] = np.where(np.arange(layout.field) % layout.angular == 0, 0, 1)
    groups[layout.field : layout.course] = 2
    return groups


def _evidence(
    G: Floats, h: Floats, groups: NDArray[np.int64], widths: Floats
) -> tuple[Floats, Floats]:
    """Return coefficients, and widths of their priors that maximise the evidence (MacKay, 1992)."""
    widths = widths.copy()
    for _ in range(_UPDATES):
        prior = 1 / widths[groups] ** 2
        inverse = np.linalg.inv(G + np.diag(prior))
        p = inverse @ h
        known = 1 - prior * np.diag(inverse)
        for k in range(1, len(widths)):
            own = groups == k
            widths[k] = np.sqrt(np.sum(p[own] ** 2) / max(float(known[own].sum()), 1e-3))
        widths = np.clip(widths, 1e-6 * widths.max(), None)
    return p, widths


def _columns(
    records: Records,
    places: Places,
    edges: tuple[float, float],
    frames: tuple[int, ...],
    shape: tuple[int, int],
) -> tuple[_Columns, _Layout]:
    at_q, of_q = _hats((places.q - edges[0]) / (edges[1] - edges[0]), RADIAL)
    n = np.array(frames)[records.rotation]
    at_frame, of_frame = _hats(records.frame / n, _CURVE - 1)
    y, x = (2 * v / m - 1 for v, m in zip((records.slow, records.fast), shape, strict=True))
    slopes = np.stack([x**0, x, y, x * x, x * y, y * y][:_SLOPES], axis=1).astype(np.float32)
    waves = _harmonics(places.azimuth)
    radial, angular = RADIAL + 1, waves.shape[1]
    field = radial * angular
    course = field + radial * (angular - 1)
    size = course + _CURVE * len(frames) * _SLOPES
    at_frame = at_frame + _CURVE * records.rotation.astype(np.int64)
    return (
        _Columns(at_q, of_q, waves, at_frame, of_frame, slopes),
        _Layout(radial, angular, field, course, size),
    )


def _of_background(p: Floats, columns: _Columns, layout: _Layout) -> Floats:
    table = p.reshape(layout.radial, layout.angular)
    return sum(
        columns.of_q[:, a]
        * np.einsum("nm,nm->n", table[columns.at_q + a], columns.of_azimuth, dtype=np.float64)
        for a in range(2)
    )


def _of_scale(p: Floats, columns: _Columns, layout: _Layout) -> Floats:
    field = np.zeros((layout.radial, layout.angular))
    field[:, 1:] = p[layout.field : layout.course].reshape(layout.radial, -1)
    table = p[layout.course :].reshape(-1, _SLOPES)
    total = _of_background(field.ravel(), columns, layout)
    for a in range(2):
        total += columns.of_frame[:, a] * np.einsum(
            "nm,nm->n", table[columns.at_frame + a], columns.slopes
        )
    return total
