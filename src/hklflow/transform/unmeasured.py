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

from hklflow.transform.repeats import Records
from hklflow.transform.unmeasured_normal import Columns, Layout, normal

Floats = NDArray[np.float64]

HARMONICS = 4
RADIAL = 12  # intervals along q
_ANGLE = 15.0  # degrees at most between the nodes of ln s
_SIDE = 5  # intervals between the nodes of ln s along each side of the detector
_SCALE = 0.1  # standard deviation of the coefficients of ln s
_TAU = 0.1  # S(Q) differs by this fraction within an orbit
_ROUNDS = 3
_PRIOR_COUNTS = 10.0
_OUTLIER = 6.0
_UPDATES = 40
_AT_REST = 0.01  # relative change of the widths


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

    def take(self, chosen: NDArray[np.bool_]) -> "Places":
        """Return the chosen places."""
        return Places(self.q[chosen], self.azimuth[chosen])


class Sweep(NamedTuple):
    """Frames and degrees of a rotation."""

    frames: int
    degrees: float


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
    off : (records,) array
        Counts of each record less those that the fit expects; NaN: not used.
    """

    edges: tuple[float, float]
    parameters: Floats
    covariance: Floats
    prior: Floats
    chi2: float
    off: Floats

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
    own = np.arange(len(found.parameters)) % (1 + 2 * HARMONICS) > 0
    p, covariance = found.parameters[own], found.covariance[np.ix_(own, own)]
    chi2 = float(p @ np.linalg.lstsq(covariance, p, rcond=1e-12)[0]) if len(p) else 0.0
    return (chi2 - len(p)) / max(np.sqrt(2 * len(p)), 1.0)


def fit(records: Records, places: Places, sweeps: tuple[Sweep, ...], shape: tuple[int, int]) -> Fit:
    """Return the background that explains what differs between the records of an orbit.

    Parameters
    ----------
    records : Records
        Joined records; ``background`` is M, the norm without the transmission of the crystal.
    places : Places
        Of each record.
    sweeps : tuple of Sweep
        The rotations.
    shape : (int, int)
        Pixels of the detector.
    """
    edges = float(places.q.min()), float(places.q.max()) * (1 + 1e-9)
    columns, layout = _columns(records, places, edges, sweeps, shape)
    shell = np.minimum(((places.q - edges[0]) / (edges[1] - edges[0]) * 40).astype(int), 39)
    task = _Task.from_records(records, columns, layout, shell)
    level = float(task.counts.sum()) / float(task.unit.sum())
    groups = _groups(layout)
    # c is as good as fixed at 0: free, it exchanges counts with S without end.
    widths = np.array([1e-6 * level, 0.1 * level, _SCALE, _SCALE])
    p, keep = np.zeros(layout.size), np.ones(len(records), np.bool_)
    now = task.compared(p, keep)
    for turn in range(_ROUNDS):
        if turn == 1:
            keep &= np.abs(now.off) < _OUTLIER * np.sqrt(now.variance)
        weighted = (now.off, now.norm, task.unit, keep / now.variance)
        G, J, g = normal(
            task.begin, weighted, np.maximum(now.s, 0), columns, layout, turn == _ROUNDS - 1
        )
        p, widths = _evidence(G, g + G @ p, groups, widths)
        now = task.compared(p, keep)
    K = np.diag(1 / widths[groups] ** 2)
    inverse = np.linalg.inv(G + K)
    covariance = inverse @ (J + K) @ inverse
    n_b = layout.field
    n_orbits = int(np.count_nonzero(np.bincount(task.of, keep) > 0))
    w = keep / now.variance
    chi2 = float(np.sum(w * now.off**2)) / max(int(np.count_nonzero(keep)) - n_orbits, 1)
    off = np.where(keep, now.off, np.nan)
    return Fit(edges, p[:n_b], covariance[:n_b, :n_b], widths[groups][:n_b], chi2, off)


class _Compared(NamedTuple):
    """Of each record: counts besides those expected, their variance, norm; S of each orbit."""

    off: Floats
    variance: Floats
    norm: Floats
    s: Floats


class _Task(NamedTuple):
    """Records of a fit: counts, norms, orbits, shells of |Q|, and the functions of the fit."""

    counts: Floats
    norm: Floats
    unit: Floats
    begin: NDArray[np.int64]
    of: NDArray[np.int64]
    shell: NDArray[np.int64]
    columns: Columns
    layout: Layout

    @classmethod
    def from_records(
        cls, records: Records, columns: Columns, layout: Layout, shell: NDArray[np.int64]
    ) -> "_Task":
        C, N, M = (
            np.asarray(a, np.float64) for a in (records.counts, records.norm, records.background)
        )
        begin = np.append(np.flatnonzero(np.diff(records.voxel, prepend=-1)), len(C))
        of = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
        return cls(C, N, M, begin.astype(np.int64), of, shell, columns, layout)

    def compared(self, p: Floats, keep: NDArray[np.bool_]) -> _Compared:
        """Compare the counts with those that parameters expect; S is that of the kept records."""
        of, C = self.of, self.counts
        N = self.norm * np.exp(_of_scale(p, self.columns, self.layout))
        B = self.unit * _of_background(p[: self.layout.field], self.columns, self.layout)
        # The variance must not follow the noise of few counts.
        mean = np.bincount(self.shell, C - B, 40) / np.maximum(
            np.bincount(self.shell, N, 40), 1e-30
        )
        mean = np.maximum(mean, 0.05 * float(C.sum() / self.unit.sum()))
        sums = [np.bincount(of, x) for x in (C - B, N)]
        middle = mean[self.shell[self.begin[:-1]]]
        smooth = np.maximum((sums[0] + _PRIOR_COUNTS) / (sums[1] + _PRIOR_COUNTS / middle), 0)
        expected = np.maximum(N * smooth[of] + B, 0.2 * N * middle[of])
        variance = expected + (_TAU * N * smooth[of]) ** 2
        w = keep / variance
        s = np.bincount(of, w * N * (C - B)) / np.maximum(np.bincount(of, w * N**2), 1e-30)
        return _Compared(C - B - N * s[of], variance, N, s)


def _groups(layout: Layout) -> NDArray[np.int64]:
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
        known, before = 1 - prior * np.diag(inverse), widths.copy()
        for k in range(1, len(widths)):
            own = groups == k
            widths[k] = np.sqrt(np.sum(p[own] ** 2) / max(float(known[own].sum()), 1e-3))
        widths = np.clip(widths, 1e-6 * widths.max(), None)
        if np.all(np.abs(widths - before) < _AT_REST * before):
            break
    return p, widths


def _columns(
    records: Records,
    places: Places,
    edges: tuple[float, float],
    sweeps: tuple[Sweep, ...],
    shape: tuple[int, int],
) -> tuple[Columns, Layout]:
    at_q, of_q = _hats((places.q - edges[0]) / (edges[1] - edges[0]), RADIAL)
    waves = _harmonics(places.azimuth)
    at_scale, of_scale, n_scale = _nodes(records, sweeps, shape)
    radial, angular = RADIAL + 1, waves.shape[1]
    field = radial * angular
    course = field + radial * (angular - 1)
    return (
        Columns(at_q, of_q, waves, at_scale, of_scale),
        Layout(radial, angular, field, course, course + n_scale),
    )


def _nodes(
    records: Records, sweeps: tuple[Sweep, ...], shape: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.float32], int]:
    """Return the nodes of ln s around each record (records, 8), their weights, and their number.

    ln s is linear between nodes in the frame and in the place on the detector.
    """
    intervals = np.array([max(2, int(np.ceil(s.degrees / _ANGLE))) for s in sweeps])
    first = np.concatenate([[0], np.cumsum(intervals + 1)])
    own = intervals[records.rotation]
    share = np.clip(records.frame / np.array([s.frames for s in sweeps])[records.rotation], 0, 1)
    z = np.minimum((share * own).astype(np.int64), own - 1)
    of_z = np.stack([1 - (share * own - z), share * own - z], axis=-1)
    z += first[records.rotation]
    y, of_y = _hats(records.slow / shape[0], _SIDE)
    x, of_x = _hats(records.fast / shape[1], _SIDE)
    at, weights = [], []
    for i, j, k in np.ndindex(2, 2, 2):
        at.append(((z + i) * (_SIDE + 1) + y + j) * (_SIDE + 1) + x + k)
        weights.append(of_z[:, i] * of_y[:, j] * of_x[:, k])
    return (
        np.stack(at, axis=-1).astype(np.int32),
        np.stack(weights, axis=-1).astype(np.float32),
        int(first[-1]) * (_SIDE + 1) ** 2,
    )


def _of_background(p: Floats, columns: Columns, layout: Layout) -> Floats:
    table = p.reshape(layout.radial, layout.angular)
    return sum(
        columns.of_q[:, a]
        * np.einsum("nm,nm->n", table[columns.at_q + a], columns.of_azimuth, dtype=np.float64)
        for a in range(2)
    )


def _of_scale(p: Floats, columns: Columns, layout: Layout) -> Floats:
    field = np.zeros((layout.radial, layout.angular))
    field[:, 1:] = p[layout.field : layout.course].reshape(layout.radial, -1)
    total = _of_background(field.ravel(), columns, layout)
    own = p[layout.course :]
    return total + np.einsum("nk,nk->n", own[columns.at_scale], columns.of_scale)
