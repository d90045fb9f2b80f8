"""Errors of the ΔPDF by gaps: filled voxels that were not measured share their errors.

The fill of a gap lacks what S has there and the measured voxels do not determine. In r, the errors
are the true pair distribution, convolved with the transform of the gaps. If the pair distribution
of each r is independent of the others, with the mean square P(r), the variance by the gaps is

    v(r) ∝ (P ∗ |F(w σ_gap)|²)(r),

with w the taper and σ_gap the errors of the filled voxels, 0 elsewhere; F is the Fourier transform.
Independent voxels have the same v for all r. The mean of v is right by Parseval's theorem. So with
ρ = v / <v> and s, the share of the gaps in the variance at a general position, all variances are
multiplied by 1 + s (ρ − 1).

P is the square of the ΔPDF without its mean over shells of |r| and without its noise. (The mean
over shells is the radial mean of S, which other directions determine.) This is done in a box of r
around the origin, in which P has most of its weight. Narrow gaps have errors at any r: beyond the
box v is c P ∗ E, with E the mean of |F|² around each r. E is the mean of periodograms of tiles of Q
(Welch, IEEE Trans. Audio Electroacoust. 15, 70, 1967), and c gives the mean of v its right value.
In the box,

    v = c P ∗ E + P ∗ (|F|² − c E).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes import pdf_kernels
from hklflow.volumes.fill import UNMEASURED
from hklflow.volumes.pdf import Errors, Transform
from hklflow.volumes.pdf_plan import Plan

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Largest size of the box in voxels.
_MOST = 160
# Share of the variance below which the errors of gaps are left alone.
_LEAST = 1e-3
# Standard deviation of the neighbourhood over which P is averaged, Å.
_WIDTH = 0.8
# Width of shells of |r|, Å, and end of the peak at the origin, in units of the resolution.
_SHELL, _SELF = 0.25, 1.0
# Shift of the edges of shells, in shells.
_EDGE = 0.137
# Planes of the PDF that are read at a time.
_PLANES = 8
# Edge of a tile of Q in voxels: odd, so that the tiles around Q = 0 are symmetric.
_TILE = 9


class GapSums:
    """Sums over voxels of S(Q) that were filled but not measured, added plane by plane.

    Parameters
    ----------
    made : Plan
    """

    def __init__(self, made: Plan) -> None:
        self.made = made
        n_x, n_y, n_z = (min(n, _MOST) for n in made.sizes)
        #: Size of the box of r along x, y, z; axes that symmetry mixes have the same size.
        self.box = n_x, n_y, n_z
        # Transform along h and k (l, y, x) in the box; Q = 0 and r = 0 come first.
        self._waves = np.zeros((made.sizes[2], n_y, n_x // 2 + 1), np.complex64)
        self._variance = 0.0
        # The tiles in which the last plane lies (plane of a tile, k, h), and their periodograms.
        half = _TILE // 2
        self._first = [(r + half) // _TILE * _TILE + half for r in made.reach[:2]]
        n_h, n_k = ((2 * f + 1) // _TILE * _TILE for f in self._first)
        self._tiles = np.zeros((_TILE, n_k, n_h), np.float32)
        self._layer = -made.reach[2] - _TILE
        self._periodogram = np.zeros((2 * _TILE, 2 * _TILE, _TILE + 1))

    def add(self, l: int, code: NDArray[np.uint8], sigma: NDArray[Any]) -> None:  # noqa: E741
        """Add a plane (k, h) of the grid: codes of `punched`, and σ; ``l`` is its index.

        Planes are added in ascending order.
        """
        made = self.made
        at = l - int(made.zero[2])
        if abs(at) > made.reach[2]:
            return
        k, h = np.nonzero((code == UNMEASURED) & np.isfinite(sigma))
        values = sigma[k, h].astype(np.float64)
        k, h = k - made.zero[1], h - made.zero[0]
        near = (np.abs(k) <= made.reach[1]) & (np.abs(h) <= made.reach[0])
        if not near.any():
            return
        k, h, values = k[near], h[near], values[near]
        moved = (made.operations - np.eye(3)) * made.grid.step
        # |Q| of -h k l equals |Q| of h -k -l.
        for sign in (1, -1):
            own = h >= 0 if sign > 0 else h < 0
            weights = made.weights(sign * at)
            stays = np.empty(weights.shape, np.int64)
            pdf_kernels.stabilisers(sign * at, moved, stays)
            place = sign * k[own] + made.reach[1], sign * h[own]
            values[own] *= weights[place]
            self._variance += float(np.sum(values[own] ** 2 / stays[place]))
        single = values.astype(np.float32)
        n_x, n_y = made.sizes[:2]
        rows, row = np.unique(k, return_inverse=True)
        plane = np.zeros((len(rows), n_x), np.float32)
        plane[row, h % n_x] = single
        along = scipy.fft.rfft(plane, axis=1)[:, : self.box[0] // 2 + 1]
        waves = np.zeros((n_y, along.shape[1]), np.complex64)
        waves[rows % n_y] = along
        self._waves[at % made.sizes[2]] = _cropped(scipy.fft.fft(waves, axis=0), self.box[1])
        layer, within = divmod(at + _TILE // 2, _TILE)
        if layer != self._layer:
            self._finish_tiles()
            self._layer = layer
        self._tiles[within, k + self._first[1], h + self._first[0]] = single

    def _finish_tiles(self) -> None:
        """Add the periodograms of the tiles of a layer, and clear them."""
        n_k, n_h = (n // _TILE for n in self._tiles.shape[1:])
        tiles = self._tiles.reshape(_TILE, n_k, _TILE, n_h, _TILE).transpose(1, 3, 0, 2, 4)
        for row in tiles:
            some = row[row.any(axis=(1, 2, 3))]
            waves = scipy.fft.rfftn(some, (2 * _TILE,) * 3, axes=(1, 2, 3))
            self._periodogram += np.square(np.abs(waves)).sum(axis=0, dtype=np.float64)
        self._tiles[:] = 0

    def share(self, general: float) -> float:
        """Return the share of these voxels in the variance of the ΔPDF at a general position.

        ``general`` is σ of the ΔPDF there.
        """
        # Friedel mates that were not symmetrised are averaged.
        made, variance = self.made, self._variance * (1.0 if self.made.symmetrised else 0.5)
        return variance * (made.scale / general) ** 2 if general > 0 else 0.0

    def power(self) -> Singles:
        """Return |F(w σ_gap)|² in the box (z, y, x), r = 0 first, for a sum of 1 over all r."""
        n_x, n_y, n_z = self.box
        squares = np.empty((n_z, *self._waves.shape[1:]), np.float32)
        for y in range(n_y):
            row = _cropped(scipy.fft.fft(self._waves[:, y], axis=0), n_z)
            squares[:, y] = np.square(np.abs(row))
        # F(−r) is the complex conjugate of F(r).
        whole = np.empty((n_z, n_y, n_x), np.float32)
        whole[:, :, : n_x // 2 + 1] = squares
        back = -np.arange(n_z)[:, None], -np.arange(n_y)
        mates = squares[back][:, :, 1 : n_x - n_x // 2]
        whole[:, :, n_x // 2 + 1 :] = mates[:, :, ::-1]
        whole /= self._energy() * float(np.prod(self.made.sizes, dtype=np.float64))
        return whole

    def envelope(self, power: Singles | None = None) -> "Envelope":
        """Return E, the mean of |F(w σ_gap)|² around each r, for a sum of 1 over all r.

        With ``power`` (z, y, x), P with r = 0 in the middle, E is convolved with it.
        """
        energy, made = self._energy(), self.made
        n, half = 2 * _TILE, _TILE - 1
        apart = np.arange(-half, half + 1)
        correlation = scipy.fft.irfftn(self._periodogram, (n, n, n)) / energy
        if power is not None:
            spectrum: NDArray[Any] = power
            for axis, (size, box) in enumerate(zip(made.sizes, self.box, strict=True)):
                r = np.arange(box) - box // 2
                waves = np.exp(-2j * np.pi / size * np.outer(r, apart))
                spectrum = np.moveaxis(np.tensordot(spectrum, waves, (2 - axis, 0)), -1, 2 - axis)
            at = np.ix_(apart % n, apart % n, apart % n)
            correlation[at] *= spectrum.real / spectrum[half, half, half].real
        own = np.stack(np.meshgrid(apart, apart, apart, indexing="ij")[::-1], axis=-1)
        move = made.operations * made.grid.step / made.grid.step[:, None]
        mean, inside = np.zeros(own.shape[:3]), np.ones(own.shape[:3], np.bool_)
        for w in move:
            there = np.rint(own @ w.T).astype(np.int64)
            inside &= (np.abs(there) <= half).all(axis=-1)
            mean += correlation[there[..., 2] % n, there[..., 1] % n, there[..., 0] % n]
        return Envelope(np.where(inside, mean, 0.0) / len(move), made.sizes)

    def _energy(self) -> float:
        """Return Σ (w σ_gap)²."""
        self._finish_tiles()
        return float(scipy.fft.irfftn(self._periodogram, (2 * _TILE,) * 3)[0, 0, 0])


def _cropped(waves: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the ``size`` rows around r = 0, which comes first."""
    near: NDArray[Any] = waves[(np.arange(size) + size // 2) % size - size // 2]
    return near


@dataclass(frozen=True)
class Envelope:
    """Mean of |F|² around each r.

    Attributes
    ----------
    correlation : (l, k, h) array
        Autocorrelation of w σ_gap at small distances in voxels of Q, 0 in the middle.
    sizes : (3,) tuple of int
        Number of voxels of the PDF along x, y, z.
    """

    correlation: Floats
    sizes: tuple[int, int, int]

    @cached_property
    def _total(self) -> float:
        """Sum over all r; distances that lack an equivalent make E negative at some r."""
        n = 2 * len(self.correlation)
        values = scipy.fft.fftn(self.correlation, (n, n, n))
        half = len(self.correlation) // 2
        phase = np.exp(2j * np.pi * half * np.arange(n) / n)
        values *= phase[:, None, None] * phase[:, None] * phase
        number = np.prod(self.sizes, dtype=np.float64)
        return float(np.maximum(values.real, 0).mean() * number)

    def plane(self, z: int, shape: tuple[int, int]) -> Floats:
        """Return E on the middle (y, x) of a plane; z = 0 is the plane of the origin."""
        half = len(self.correlation) // 2
        apart = np.arange(-half, half + 1)
        n_x, n_y, n_z = self.sizes
        y, x = (np.arange(n) - n // 2 for n in shape)
        waves = [
            np.exp(2j * np.pi / n * np.outer(r, apart)) for n, r in ((n_z, [z]), (n_y, y), (n_x, x))
        ]
        at_z = np.tensordot(waves[0][0], self.correlation, 1)
        plane = (waves[1] @ at_z @ waves[2].T).real
        mean: Floats = np.maximum(plane, 0) / self._total
        return mean

    def box(self, sizes: tuple[int, int, int]) -> Singles:
        """Return E in a box (z, y, x) of some size along x, y, z, r = 0 in the middle."""
        n_x, n_y, n_z = sizes
        planes = np.empty((n_z, n_y, n_x), np.float32)
        for z, plane in enumerate(planes):
            plane[:] = self.plane(z - n_z // 2, (n_y, n_x))
        return planes


@dataclass(frozen=True)
class GapFactor:
    """Factor of the variance of the ΔPDF.

    Attributes
    ----------
    inside : (z, y, x) array
        Factor in the box, with r = 0 in the middle; NaN beyond the largest sphere in it.
    beyond : float
        Mean factor beyond the sphere.
    share : float
        Share s of the gaps in the variance at a general position.
    envelope : Envelope
    weight : float
        Factor c of the envelope.
    """

    inside: Singles
    beyond: float
    share: float
    envelope: Envelope
    weight: float

    def plane(self, z: int, shape: tuple[int, int]) -> Singles:
        """Return the factor on a plane (y, x); z = 0 is the plane of the origin."""
        number = np.prod(self.envelope.sizes, dtype=np.float64)
        rho = number * self.weight * self.envelope.plane(z, shape)
        factor = (1 + self.share * (rho - 1)).astype(np.float32)
        n_z, n_y, n_x = self.inside.shape
        z += n_z // 2
        if 0 <= z < n_z:
            y, x = shape[0] // 2 - n_y // 2, shape[1] // 2 - n_x // 2
            own = factor[y : y + n_y, x : x + n_x]
            np.copyto(own, self.inside[z], where=np.isfinite(self.inside[z]))
        return factor


def gap_factor(sums: GapSums, data: Transform, errors: Errors) -> GapFactor | None:
    """Return the factor of the variance by gaps; None if their share is negligible.

    Parameters
    ----------
    sums : GapSums
        Sums over all planes of σ.
    data : Transform
        Transform into which S was loaded.
    errors : Errors
        Errors of independent voxels.
    """
    made = sums.made
    share = sums.share(errors.general)
    if share < _LEAST:
        return None
    steps = 2 * np.pi * np.linalg.inv(lattice.b_matrix(made.cell)).T * made.direct.step
    distance = _lengths(steps, sums.box)
    # Only a sphere has all equivalents in the box.
    ends = (distance[0], distance[:, 0], distance[:, :, 0])
    sphere = distance < 0.9999 * min(float(end.min()) for end in ends)
    power = np.where(sphere, _excess(made, distance, data, errors), np.float32(0))
    power = np.where(sphere, np.maximum(_smoothed(power, steps), 0), np.float32(0))
    total = float(power.sum(dtype=np.float64))
    if total == 0:
        return None
    number, voxels = float(np.prod(made.sizes, dtype=np.float64)), int(sphere.sum())
    mean, envelope = sums.envelope(), sums.envelope(power)
    rest: Singles = scipy.fft.fftshift(sums.power())
    mean_inside, smooth = mean.box(sums.box), envelope.box(sums.box)

    def outside(values: Singles) -> float:
        return max(1 - float(values[sphere].sum(dtype=np.float64)), 1e-9)

    weight, left_of_smooth = outside(rest) / outside(mean_inside), outside(smooth)
    rest -= np.float32(weight) * mean_inside
    if sums.box != made.sizes:
        # The corners of a part of the period have no equivalents.
        rest[~sphere] = 0
    waves: NDArray[Any] = scipy.fft.rfftn(power)
    waves *= scipy.fft.rfftn(scipy.fft.ifftshift(rest))
    v: Singles = scipy.fft.irfftn(waves, power.shape, overwrite_x=True)
    v /= np.float32(total)
    v += np.float32(weight) * smooth
    v = _symmetrised(np.maximum(v, 0), made)
    inside = np.where(sphere, 1 + share * (number * v - 1), np.float32(np.nan))
    left = outside(v)
    beyond = 1 + share * (number * left / (number - voxels) - 1)
    return GapFactor(inside.astype(np.float32), beyond, share, envelope, left / left_of_smooth)


def _lengths(steps: Floats, box: tuple[int, int, int]) -> Singles:
    """Return |r| (z, y, x) in the box, r = 0 in the middle; columns of ``steps``: voxel edges."""
    x, y, z = (np.arange(n, dtype=np.float32) - n // 2 for n in box)
    z, y = z[:, None, None], y[:, None]
    g = (steps.T @ steps).astype(np.float32)
    squares = g[0, 0] * x * x + g[1, 1] * y * y + g[2, 2] * z * z
    squares = squares + 2 * (g[0, 1] * x * y + g[0, 2] * x * z + g[1, 2] * y * z)
    return np.sqrt(np.maximum(squares, 0))


def _excess(made: Plan, distance: Singles, data: Transform, errors: Errors) -> Singles:
    """Return the square of the ΔPDF without its mean over shells, less σ² (z, y, x)."""
    n_z, n_y, n_x = distance.shape
    start = [n // 2 - b // 2 for n, b in zip(made.sizes[::-1], distance.shape, strict=True)]
    cut = (slice(start[1], start[1] + n_y), slice(start[2], start[2] + n_x))
    values, noise = np.empty_like(distance), np.empty_like(distance)
    for first in range(0, n_z // 2 + 1, _PLANES):
        last = min(first + _PLANES, n_z // 2 + 1)
        planes = first + start[0], last + start[0]
        values[first:last] = data.planes(*planes)[:, *cut] * np.float32(made.scale * data.unit)
        noise[first:last] = errors.independent(*planes)[:, *cut]
    for array in (values, noise):
        # Both are even. The first planes of an even size have no mates, but are beyond the sphere.
        mates = np.roll(array[:, ::-1, ::-1], (1 - n_y % 2, 1 - n_x % 2), axis=(1, 2))
        above = n_z - n_z // 2 - 1
        array[n_z // 2 + 1 :] = mates[n_z // 2 - above : n_z // 2][::-1]
    # Equivalents must not fall on both sides of an edge by rounding, as at r = a.
    shell = (distance / _SHELL + _EDGE).astype(np.int32).ravel()
    number = np.bincount(shell)
    mean = np.bincount(shell, values.ravel()) / np.maximum(number, 1)
    known = np.flatnonzero(number)
    values -= np.interp(distance, (known + 0.5 - _EDGE) * _SHELL, mean[known])
    excess: Singles = values**2 - noise**2
    excess[distance < _SELF * made.taper.resolution] = 0.0
    return excess


def _smoothed(values: Singles, steps: Floats) -> Singles:
    """Return the mean around each r; columns of ``steps`` are the edges of a voxel."""
    axes = [2 * np.pi * scipy.fft.fftfreq(n) for n in values.shape]
    axes[2] = 2 * np.pi * scipy.fft.rfftfreq(values.shape[2])
    g = np.linalg.inv(steps.T @ steps)
    z, y, x = axes[0][:, None, None], axes[1][:, None], axes[2]
    squares = g[0, 0] * x * x + g[1, 1] * y * y + g[2, 2] * z * z
    squares = squares + 2 * (g[0, 1] * x * y + g[0, 2] * x * z + g[1, 2] * y * z)
    weights = np.exp(-0.5 * _WIDTH**2 * squares).astype(np.float32)
    mean: Singles = scipy.fft.irfftn(scipy.fft.rfftn(values) * weights, values.shape)
    return mean


def _symmetrised(values: Singles, made: Plan) -> Singles:
    """Return the means over equivalents.

    A coarser grid of Q, and the mean around r, keep operations that permute the axes or change
    their signs, but no others exactly.
    """
    skew = [w for w in made.operations if (np.abs(w).sum(axis=0) > 1).any()]
    if not skew:
        return values
    step, mean = made.direct.step, np.zeros_like(values)
    n_z, n_y, n_x = values.shape
    x, y = np.arange(n_x) - n_x // 2, np.arange(n_y)[:, None] - n_y // 2
    # The values are even, so that one of W and -W is enough.
    half = [w for w in made.operations if w.ravel()[np.flatnonzero(w)[0]] > 0]
    for w in half:
        move = w * step[:, None] / step
        for z, plane in enumerate(mean):
            own = [
                (np.rint(a * x + b * y + c * (z - n_z // 2)).astype(np.int32) + n // 2) % n
                for (a, b, c), n in zip(move.T, (n_x, n_y, n_z), strict=True)
            ]
            plane += values[own[2], own[1], own[0]]
    return mean / np.float32(len(half))
