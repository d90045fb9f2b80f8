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
around the origin, in which P and the transform have most of their weight.
"""

from dataclasses import dataclass
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
        # A box of r is a coarser grid of Q.
        self._amplitude = np.zeros(self.box[::-1], np.float32)
        self._variance = 0.0

    def add(self, l: int, code: NDArray[np.uint8], sigma: NDArray[Any]) -> None:  # noqa: E741
        """Add a plane (k, h) of the grid: codes of `punched`, and σ; ``l`` is its index."""
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
        index = [
            np.rint(i * (n / size)).astype(np.int64) % n
            for i, n, size in zip((h, k, at), self.box, made.sizes, strict=True)
        ]
        np.add.at(self._amplitude[index[2]], (index[1], index[0]), values.astype(np.float32))

    def share(self, general: float) -> float:
        """Return the share of these voxels in the variance of the ΔPDF at a general position.

        ``general`` is σ of the ΔPDF there.
        """
        # Friedel mates that were not symmetrised are averaged.
        made, variance = self.made, self._variance * (1.0 if self.made.symmetrised else 0.5)
        return variance * (made.scale / general) ** 2 if general > 0 else 0.0

    def power(self) -> NDArray[Any]:
        """Return the transform over r of |F(w σ_gap)|², normalised to a sum of 1 over r."""
        squares = np.square(np.abs(scipy.fft.fftn(self._amplitude)))
        return scipy.fft.rfftn(squares / squares.sum(dtype=np.float64))


@dataclass(frozen=True)
class GapFactor:
    """Factor of the variance of the ΔPDF.

    Attributes
    ----------
    inside : (z, y, x) array
        Factor in the box, with r = 0 in the middle.
    beyond : float
        Factor beyond the box.
    share : float
        Share s of the gaps in the variance at a general position.
    """

    inside: Singles
    beyond: float
    share: float

    def plane(self, z: int, shape: tuple[int, int]) -> Singles:
        """Return the factor on a plane (y, x); z = 0 is the plane of the origin."""
        factor = np.full(shape, self.beyond, np.float32)
        n_z, n_y, n_x = self.inside.shape
        z += n_z // 2
        if 0 <= z < n_z:
            y, x = shape[0] // 2 - n_y // 2, shape[1] // 2 - n_x // 2
            factor[y : y + n_y, x : x + n_x] = self.inside[z]
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
    v: Singles = scipy.fft.irfftn(
        scipy.fft.rfftn(power) * sums.power(), power.shape, overwrite_x=True
    )
    np.maximum(v / np.float32(total), 0, out=v)
    v = _symmetrised(v, made)
    number, voxels = float(np.prod(made.sizes, dtype=np.float64)), int(sphere.sum())
    beyond = max(1 - float(v[sphere].sum(dtype=np.float64)), 0.0) * number / (number - voxels)
    inside = np.where(sphere, 1 + share * (number * v - 1), 1 + share * (beyond - 1))
    return GapFactor(inside.astype(np.float32), 1 + share * (beyond - 1), share)


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
