"""Back from the ΔPDF to S(Q): how much of S the pairs within |r| < R explain.

The ΔPDF, cut at R, is transformed back to some planes of Q, and compared with T = w S where S was
measured. The cut is a projection of T, so that it follows the noise, too. What is left of the
noise is known from σ of the ΔPDF, by Parseval's theorem with the symmetry in it:

    n(R) = Σ_{r > R} σ² / Σ_r σ²,    χ²(R) = Σ (T - T_R)² / (n(R) Σ w² σ_S²).

χ² is 1 if beyond R is only noise. It is the same for the pairs from one radius to the next one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes import back_kernels
from hklflow.volumes.fill import MEASURED, PUNCHED
from hklflow.volumes.pdf_plan import Plan

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

#: Reads S, σ and code (k, h) of a plane of the grid, by its index along l.
Reader = Callable[[int], tuple[NDArray[Any], NDArray[Any], NDArray[np.uint8]]]

_RADII = 7
# Planes of r that are transformed at a time.
_BATCH = 4
# Largest number of planes of Q; an even smaller number gives figures within 1 %.
_PLANES = 16
# Smallest |r| in units of the resolution: the self part of S and its background are within it.
_SELF = 1.5
# The picture ends where the taper is smaller: σ gets small, what leaks there does not.
_LEAST = 0.1
# An excess over the noise below this is within what is known of σ.
_TOLERANCE = 0.1


def radii(made: Plan) -> Floats:
    """Return radii in Å, from the peak at the origin to the largest sphere in the box."""
    inverse = np.linalg.inv(lattice.metric(made.cell))
    last = float(np.min(0.5 / made.grid.step / np.sqrt(np.diag(inverse))))
    first = max(1.0, _SELF * made.taper.resolution)
    if first >= last:
        return np.array([last])
    return np.geomspace(first, last, min(_RADII, 2 + int(np.log(last / first) / np.log(1.25))))


@dataclass(frozen=True)
class Comparison:
    """S against the back transform of the cut ΔPDF; arrays (n,) are those of the radii.

    Attributes
    ----------
    radii : (n,) array
        Å.
    left : (n,) array
        Share of the noise that is left beyond a radius.
    beyond, beyond_sigma : (n,) arrays
        χ² of the residual, and its error.
    shells, shells_sigma : (n - 1,) arrays
        χ² of the pairs between two radii, and its error.
    explained : (n,) array
        Share of the modulation of S: of the variance without noise that the peak at the origin
        does not explain. NaN if there is no such variance.
    whole : float
        rms residual of the whole box in σ.
    voxels, independent : int
        Measured voxels that were compared, and an estimate of how many are independent.
    planes : int
        Planes of Q that were compared.
    near_holes : (float, float)
        Mean residual in σ next to holes of reflections beyond the chosen radius, and its error;
        NaN without holes.
    chosen : int
        Number of the radius where correlations end; the last one if they do not end.
    ends : bool
        True if correlations end within the last radius.
    picture : tuple of three arrays (k, h)
        T, back transform, and residual in σ of the plane l = 0; NaN where the taper is small, and T
        and the residual where S was not measured.
    """

    radii: Floats
    left: Floats
    beyond: Floats
    beyond_sigma: Floats
    shells: Floats
    shells_sigma: Floats
    explained: Floats
    whole: float
    voxels: int
    independent: int
    planes: int
    near_holes: tuple[float, float]
    chosen: int
    ends: bool
    picture: tuple[Singles, Singles, Singles]


class BackTransform:
    """Back transform of the ΔPDF, which comes block by block.

    Parameters
    ----------
    made : Plan
    room : float
        Largest memory in bytes.
    threads : int
    """

    def __init__(self, made: Plan, room: float, threads: int = 1) -> None:
        self._plan, self._threads = made, threads
        self.radii = radii(made)
        n_h, n_k = int(made.reach[0]) + 1, 2 * int(made.reach[1]) + 1
        number = len(self.radii) + 1
        affordable = int(room / (4 * n_h * n_k * number))
        self.planes, self.complete = _chosen(int(made.reach[2]), min(affordable, _PLANES))
        self._sums = np.zeros((number, len(self.planes), n_k, n_h), np.float32)
        self._noise = np.zeros(number)
        self._metric = lattice.metric(made.cell)

    def needs(self, first: int, number: int) -> bool:
        """Return True if some of a number of planes enter; the ΔPDF is even, z stands for -z."""
        n = self._plan.sizes[2]
        return first + number > n // 2 or (first == 0 and n % 2 == 0)

    def add(self, first: int, pdf: Singles, sigma: Singles) -> None:
        """Add planes (z, y, x) of the ΔPDF and its errors; x = y = 0 is in the middle."""
        n = self._plan.sizes[2]
        z = first + np.arange(len(pdf)) - n // 2
        own = np.flatnonzero((z >= 0) | (2 * z == -n))
        for part in np.split(own, range(_BATCH, len(own), _BATCH)):
            if len(part):
                self._add(z[part], pdf[part], sigma[part])

    def _add(self, z: NDArray[np.int64], pdf: Singles, sigma: Singles) -> None:
        """Add planes (z, y, x) at some z."""
        made, n = self._plan, self._plan.sizes[2]
        x, y = made.direct.axis(0), made.direct.axis(1)
        squares = np.empty(pdf.shape)
        weights = np.where((z > 0) & (2 * z != n), 2.0, 1.0)
        back_kernels.squares(self._metric, x, y, z * made.direct.step[2], squares)
        limits = np.append(self.radii**2, np.inf)
        back_kernels.add_noise(squares, sigma, limits, weights, self._noise)
        phase = 2 * np.pi / made.sizes[2] * z[:, None] * self.planes
        cosine, sine = ((weights[:, None] * f(phase)).astype(np.float32) for f in (np.cos, np.sin))
        lowest = squares.min(axis=(1, 2))
        for number, limit in enumerate(limits):
            # Higher planes are farther away from the origin.
            near = lowest <= limit
            if near.any():
                waves = self._waves(pdf[near], squares[near], limit)
                reach = int(made.reach[1])
                back_kernels.add_waves(waves, reach, cosine[near], sine[near], self._sums[number])

    def _waves(self, pdf: Singles, squares: Floats, limit: float) -> NDArray[np.complex64]:
        """Return the transforms (z, k, h) of planes (z, y, x), of the voxels within a limit of r².

        The indices k are taken modulo the size.
        """
        made = self._plan
        n_h, n_y = int(made.reach[0]) + 1, made.sizes[1]
        inside = (squares <= limit).any(axis=(0, 2))
        rows = np.flatnonzero(inside)
        first, last = int(rows[0]), int(rows[-1]) + 1
        cut = np.empty((len(pdf), last - first, made.sizes[0]), np.float32)
        back_kernels.cut(pdf[:, first:last], squares[:, first:last], limit, cut)
        waves = np.zeros((len(pdf), n_y, n_h), np.complex64)
        rows = (np.arange(first, last) - n_y // 2) % n_y
        waves[:, rows] = scipy.fft.rfft(cut, axis=2, workers=self._threads)[:, :, :n_h]
        moved: NDArray[np.complex64] = scipy.fft.fft(
            waves, axis=1, workers=self._threads, overwrite_x=True
        )
        return moved

    def compare(self, read: Reader) -> Comparison | None:
        """Compare with S as measured; None if no voxel was measured in the planes."""
        made = self._plan
        factor = np.float32(1 / (made.scale * np.prod(made.sizes, dtype=float)))
        # Rounding must not make a negative rest of the noise.
        left = np.maximum(1 - self._noise[:-1] / self._noise[-1], 0.0)
        squares, noise, fourth, number = np.zeros(len(self._sums)), 0.0, 0.0, 0
        planes: list[_Plane] = []
        for at, l in enumerate(self.planes):  # noqa: E741
            plane = _Plane.of(made, int(l), read)
            planes.append(plane)
            if l == 0 and not self.complete:
                continue
            counted = plane.used * plane.twice
            residual = plane.t - factor * self._sums[:, at]
            squares += np.sum(np.square(residual) * counted, axis=(1, 2))
            noise += float(np.sum(plane.variance * counted))
            fourth += float(np.sum(plane.variance**2 * counted))
            number += int(np.sum(counted))
        if noise <= 0:
            return None
        # A sample has only the equivalents in the same plane, and mates.
        within = sum(bool(np.array_equal(w[2], [0, 0, 1])) for w in made.operations)
        same = len(made.operations) if self.complete else max(within, 2)
        independent = max(noise**2 / fourth / same, 1.0)
        signal = squares[:-1] - left * noise
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond, shells = squares[:-1] / (left * noise), np.diff(squares[:-1]) / np.diff(left)
            errors = (np.sqrt(2 / (x * independent)) for x in (left, -np.diff(left)))
            beyond_sigma, shells_sigma = errors
            # Without a signal, its share has no meaning.
            clear = signal[0] > 5 * beyond_sigma[0] * left[0] * noise
            explained = 1 - signal / signal[0] if clear else np.full(len(signal), np.nan)
        shells = shells / noise
        excess = np.flatnonzero(shells - 1 > np.maximum(3 * shells_sigma, _TOLERANCE))
        end = int(excess[-1]) + 1 if len(excess) else 0
        ends = end < len(self.radii) - 1
        chosen = end if ends else len(self.radii) - 1
        near = self._near_holes(planes, factor, chosen, same)
        return Comparison(
            self.radii, left, beyond, beyond_sigma, shells, shells_sigma, explained,
            float(np.sqrt(squares[-1] / noise)), number, int(independent), len(planes), near,
            chosen, ends, self._picture(planes, factor, chosen),
        )  # fmt: skip

    def _near_holes(
        self, planes: "list[_Plane]", factor: np.float32, chosen: int, same: int
    ) -> tuple[float, float]:
        """Return the mean residual next to holes in σ, and its error; σ there can vary a lot."""
        total, variance, number = 0.0, 0.0, 0
        for at, plane in enumerate(planes):
            own = plane.used & plane.next_to_hole
            total += float(np.sum((plane.t - factor * self._sums[chosen, at])[own]))
            variance += float(np.sum(plane.variance[own]))
            number += int(own.sum())
        if not number:
            return np.nan, np.nan
        return total / float(np.sqrt(number * variance)), float(np.sqrt(same / 2 / number))

    def _picture(
        self, planes: "list[_Plane]", factor: np.float32, chosen: int
    ) -> tuple[Singles, Singles, Singles]:
        plane, back = planes[0], factor * self._sums[chosen, 0]
        w = self._plan.weights(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            pulls = (plane.t - back) / np.sqrt(plane.variance)
        inside = w >= _LEAST
        known, pulls = (np.where(plane.used & inside, x, np.nan) for x in (plane.t, pulls))
        # h k 0 and -h -k 0 are equal.
        return tuple(
            np.hstack([x[::-1, :0:-1], x]) for x in (known, np.where(inside, back, np.nan), pulls)
        )  # type: ignore[return-value]


def _chosen(reach: int, number: int) -> tuple[NDArray[np.int64], bool]:
    """Return planes l, the plane l = 0 first; True if all are there.

    Otherwise a sample has one plane in each of equal parts, and l = 0 is only for the picture.
    """
    if number > 2 * reach:
        planes = np.arange(-reach, reach + 1)
        return np.append(0, planes[planes != 0]), True
    number = max(number - 1, 1)
    # In steps of equal length, planes could all be at the same distance from reflections.
    places = (np.arange(number) + np.random.default_rng(0).random(number)) / number
    planes = np.unique(np.floor(places * (2 * reach + 1)).astype(np.int64)) - reach
    return np.append(0, planes[planes != 0]), False


@dataclass(frozen=True)
class _Plane:
    """Plane (k, h >= 0) of T, its variance, and its voxels that were measured.

    ``twice``: a voxel with h > 0 stands for its mate, too.
    """

    t: Floats
    variance: Floats
    used: NDArray[np.bool_]
    next_to_hole: NDArray[np.bool_]
    twice: Floats

    @staticmethod
    def of(made: Plan, l: int, read: Reader) -> "_Plane":  # noqa: E741
        n_h, n_k = int(made.reach[0]) + 1, 2 * int(made.reach[1]) + 1
        sums, variance, number = (np.zeros((n_k, n_h)) for _ in range(3))
        near = np.zeros((n_k, n_h), bool)
        # S and its mates (-h -k -l) at h >= 0, which is averaged by the transform, too.
        for sign in (1, -1):
            index = sign * l + int(made.zero[2])
            if not 0 <= index < made.grid.shape[2]:
                continue
            whole = [_around(x, made, sign) for x in read(index)]
            known = np.isfinite(whole[0]) & np.isfinite(whole[1]) & (whole[2] == MEASURED)
            sums += np.where(known, whole[0], 0)
            variance += np.where(known, whole[1] ** 2, 0)
            number += known
            near |= _grown(whole[2] == PUNCHED)
            if made.symmetrised and np.isfinite(whole[2]).all():
                break  # mates are equal
        w = made.weights(l)
        used = (number > 0) & (w > 0) & (variance > 0)
        count = np.maximum(number, 1)
        # After symmetrising, mates are one measurement.
        variance = variance * w * w / (count if made.symmetrised else count * count)
        twice = np.where(np.arange(n_h) == 0, 1.0, 2.0) * np.ones((n_k, 1))
        return _Plane(w * sums / count, variance, used, near, twice)


def _around(plane: NDArray[Any], made: Plan, sign: int) -> Floats:
    """Return sign * (h, k) of a plane (k, h) of the grid for h >= 0; NaN beyond the grid."""
    h = sign * np.arange(int(made.reach[0]) + 1) + int(made.zero[0])
    k = sign * np.arange(-int(made.reach[1]), int(made.reach[1]) + 1) + int(made.zero[1])
    inside = np.logical_and.outer((k >= 0) & (k < plane.shape[0]), (h >= 0) & (h < plane.shape[1]))
    values = plane[np.clip(k, 0, plane.shape[0] - 1)[:, None], np.clip(h, 0, plane.shape[1] - 1)]
    return np.where(inside, values.astype(np.float64), np.nan)


def _grown(hole: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels at most two voxels from a hole."""
    for _ in range(2):
        padded = np.pad(hole, 1)
        hole = hole | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    return hole
