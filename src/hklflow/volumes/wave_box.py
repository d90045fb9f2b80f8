"""Box of distance vectors outside of which the variance of the pair distribution is constant."""

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes.fill import Holes, Target
from hklflow.volumes.hole_waves import Complex, Indices, Waves
from hklflow.volumes.wave_power import equivalents

Floats = NDArray[np.float64]

# The waves of an error that is smooth in a ball of radius ρ have their first zeros at 4.5/ρ, and
# less than 1 % of their power per voxel beyond this number, divided by ρ.
_REACH = 6.0
# Smallest edge of blocks of r, Å and voxels, and power of a block, relative to the median, that is
# not noise: a block has at least 50 independent D. Where only a weaker D is farther away, it is
# taken for noise in the holes, and becomes smaller by their share of the volume.
_BLOCK, _VOXELS, _SIGNAL = 4.0, 10, 2.5


def reach_of(target: Target, holes: list[Holes]) -> float | None:
    """Return the r in Å beyond which the errors of punched holes are small; None without holes."""
    if not holes:
        return None
    common = max(holes, key=lambda item: (len(item.bases), len(item.voxels)))
    volume = len(common.voxels) * abs(np.linalg.det(target.edges))
    return float(_REACH / (3 * volume / (4 * np.pi)) ** (1 / 3))


def box_of(
    waves: Waves, planes: Complex, places: Indices, target: Target, reach: float
) -> tuple[int, int, int]:
    """Return the numbers of waves (l, k, h) of the smallest box with all that is not noise.

    Parameters
    ----------
    planes : (l, k, h) array
        See `Waves.planes_of`, with all waves.
    reach : float
        The box contains all r up to this length, Å.
    """
    b, periods = lattice.b_matrix(target.cell), np.array(waves.periods)
    length = periods * target.grid.step[::-1]
    # Number of voxels of r along each axis, over all r with a length of 1 Å.
    per_length = length * np.linalg.norm(b, axis=0)[::-1] / (2 * np.pi)
    needed = np.minimum(np.ceil(reach * per_length), periods // 2).astype(int)
    if (needed < periods // 2).any():
        size = np.maximum(np.rint(_BLOCK * per_length), _VOXELS).astype(int)
        needed = np.maximum(needed, _signal(waves, planes, places, size, target))
    return tuple(_box_length(int(n), int(p)) for n, p in zip(needed, periods, strict=True))  # type: ignore[return-value]


def _box_length(needed: int, period: int) -> int:
    """Return an odd number with small factors, at least 2 needed + 1; or the period."""
    n = 2 * needed + 1
    while n < period and (n % 2 == 0 or scipy.fft.next_fast_len(n) != n):
        n += 1
    return min(n, period)


def _signal(
    waves: Waves, planes: Complex, places: Indices, size: NDArray[np.int64], target: Target
) -> Floats:
    """Return the voxels from r = 0 (l, k, h) up to which blocks of r exceed the noise."""
    n_l, n_k, n_h = waves.box_shape
    # No block is smaller, because the mean of few has much noise.
    edges = [
        np.arange(max(n // step, 1)) * step for n, step in zip((n_l, n_k, n_h), size, strict=True)
    ]
    twins = equivalents(waves, target)
    power = np.zeros([len(e) for e in edges])
    for i, start in enumerate(edges[1]):
        part = slice(start, (*edges[1], n_k)[i + 1])
        column = waves.along_l(planes[:, part], places)
        squares = np.square(column.real)
        if np.iscomplexobj(column):
            squares += np.square(column.imag)
        squares *= twins[:, part]
        mean = np.add.reduceat(squares.mean(axis=1), edges[2], axis=1)
        power[:, i] = np.add.reduceat(mean, edges[0], axis=0)
    counts = [
        np.diff(np.append(e, n)) for e, n in zip((edges[0], edges[2]), (n_l, n_h), strict=True)
    ]
    power /= counts[0][:, None, None] * counts[1]
    strong = power > _SIGNAL * np.median(power)
    far = []
    for axis, (start, n) in enumerate(zip(edges, (n_l, n_k, n_h), strict=True)):
        place = np.flatnonzero(strong.any(axis=tuple({0, 1, 2} - {axis})))
        end = np.append(start, n)[place + 1]
        signed = end if axis == 2 else np.minimum(end, n - start[place])
        far.append(signed.max() if len(signed) else 0)
    return np.array(far)
