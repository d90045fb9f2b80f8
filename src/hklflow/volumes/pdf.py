"""Pair distribution in direct space of S(Q), with the errors of every voxel.

    PDF(r) = ∫ w(|Q|) S(Q) cos(Q·r) d³Q/(2π)³ = (1/V) Σ_hkl w S cos(2π h·x) Δh Δk Δl

x = r in fractions of a, b, c, V the volume of the cell; in units of S per Å³. If S is the
scattering of a unit cell, the PDF of all S is the Patterson function of a cell, that of the
diffuse part the 3D-ΔPDF. Parseval: Σ PDF² ΔV_r = Σ (w S)² ΔV_Q / (2π)³.

Errors. Symmetrised voxels of an orbit o under the Laue group G (order |G|, with inversion) are one
measurement, of error σ_o; different orbits are independent. Of the orbit, the sum of cos(2π h·x)
is n_o/|G| times the sum over all W in G of cos(2π h·Wᵀx). In its square one factor may stay a sum
over the orbit, the other over G, and cos a cos b = ½[cos(a - b) + cos(a + b)], where both terms
give the same sum because G holds -1. Therefore

    var PDF(x) = Σ_{W in G} V(x - Wᵀx),
    V(u) = (ΔhΔkΔl/V)² Σ_h σ_h² w_h² (n_h/|G|) cos(2π h·u):

one more transform. Where x is on a symmetry element several W give u = 0, and the error is larger.
Data that were not symmetrised are averaged with their Friedel mates here; G is then {1, -1}.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes import pdf_kernels
from hklflow.volumes.pdf_plan import Plan

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

#: What Python and its libraries take beside the volumes, MB.
_BASE = 380.0


# ---------------------------------------------------------------------- memory


class Store:
    """An array of zeros. One that is kept in a file gives back memory with `release`."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.array: NDArray[Any] = np.zeros(shape, dtype)

    def release(self) -> None:
        """Leave what was read or written to the system."""


@dataclass(frozen=True)
class Room:
    """What of a plan fits in memory.

    Attributes
    ----------
    half, kept : bool
        Whether the half volume does, and V.
    block : float
        Bytes for a block.
    """

    half: bool
    kept: bool
    block: float


def room(made: Plan, memory: float) -> Room:
    """Divide ``memory`` (MB)."""
    free = max(memory - _BASE, 32.0) * 1e6
    half, kept = 8.0 * np.prod(made.half_shape), 4.0 * np.prod(made.kept_shape)
    block = min(free / 4, 100e6)
    fits = bool(half + kept + 2 * block <= free)
    return Room(fits, fits or bool(kept <= free / 2), block)


# ------------------------------------------------------------------- transform

#: Planes of S from an index on, (l, k, h).
Slabs = Iterable[tuple[int, Singles]]


@dataclass
class Sums:
    """Of the volume that was transformed, both halves.

    Attributes
    ----------
    weight, missing : float
        Sum of the taper where S is known, and where it is not.
    n_missing : int
        Voxels with a weight where S is not known: they count as 0.
    squares : float
        Σ (w S)².
    """

    weight: float = 0.0
    missing: float = 0.0
    n_missing: int = 0
    squares: float = 0.0


class Transform:
    """Transform of an even function, of which the half with h >= 0 is kept.

    Parameters
    ----------
    made : Plan
    store : Store
        Of ``made.half_shape``, complex64.
    block : float
        Bytes that may be held beside it.
    threads : int
    unit : float
        What S and σ are divided by before they are squared and kept: `unit_of`.
    """

    def __init__(
        self, made: Plan, store: Store, block: float, threads: int = 1, unit: float = 1.0
    ) -> None:
        self._plan, self._store, self._block, self._threads = made, store, block, threads
        self.unit = float(unit)

    def load(self, slabs: Slabs, *, variance: bool = False) -> Sums:
        """Take a volume: S, or with ``variance`` σ, whose squares give V without (ΔhΔkΔl/V)².

        A voxel is the mean of those of itself and its Friedel mate that are known.
        """
        half, made = self._store.array, self._plan
        self._planewise(half, 0)
        for first, values in slabs:
            own = values / np.float32(self.unit)
            pdf_kernels.fold(own * own if variance else own, first, made.zero, made.reach, half)
            self._store.release()
        sums = self._finish(variance)
        sums.squares *= self.unit**2
        self._along_l()
        return sums

    def _finish(self, variance: bool) -> Sums:
        """Mean of mates, taper, and the transform along k."""
        half, made, sums = self._store.array, self._plan, Sums()
        n_h, reach = made.reach[0] + 1, int(made.reach[1])
        ks = np.arange(-reach, reach + 1)
        twice = np.where(np.arange(n_h) == 0, 1, 2)
        moved = (made.operations - np.eye(3)) * made.grid.step
        stays = np.empty((len(ks), n_h), np.int64)
        for l in range(-int(made.reach[2]), int(made.reach[2]) + 1):  # noqa: E741
            plane = half[l]
            part = plane[ks, :n_h]
            w, number = made.weights(l), part.imag
            known = number > 0
            missing = ~known & (w > 0)
            sums.missing += float((w * twice)[missing].sum())
            sums.weight += float((w * twice)[known].sum())
            sums.n_missing += int((missing * twice).sum())
            number = np.maximum(number, 1)
            if variance:
                pdf_kernels.stabilisers(l, moved, stays)
                # Mates that are one measurement have one error, others halve the variance.
                w = w * w / stays
                number = number if made.symmetrised else number * number
            values = np.where(known, part.real * (w / number), 0)
            sums.squares += float((values * values * twice).sum())
            plane[ks, :n_h] = values
            plane[:] = scipy.fft.ifft(plane, axis=0, norm="forward", workers=self._threads)
            if l % 16 == 0:
                self._store.release()
        self._store.release()
        return sums

    def _along_l(self) -> None:
        half = self._store.array
        n_l, n_k, n_h = half.shape
        rows = max(int(self._block / (16 * n_l * n_h)), 1)
        for k in range(0, n_k, rows):
            block = np.empty((n_l, min(rows, n_k - k), n_h), half.dtype)
            self._planewise(block, half[:, k : k + rows])
            block = scipy.fft.ifft(
                block, axis=0, norm="forward", overwrite_x=True, workers=self._threads
            )
            self._planewise(half[:, k : k + rows], block)

    def _planewise(self, target: NDArray[Any], source: Any) -> None:
        """Copy some planes after others: the system may map much more than is asked for."""
        source = np.broadcast_to(source, target.shape)
        for l in range(0, len(target), 32):  # noqa: E741
            target[l : l + 32] = source[l : l + 32]
            self._store.release()

    def planes(self, first: int, last: int) -> Singles:
        """Planes z of the sum of cosines, (last - first, y, x), all with 0 in the middle.

        ``first`` and ``last`` count from the first plane of the PDF, modulo their number.
        """
        made = self._plan
        n_x, n_y, n_z = made.sizes
        z = (np.arange(first, last) - n_z // 2) % n_z
        y = (np.arange(n_y) - n_y // 2) % n_y
        block = self._store.array[z[:, None], y]
        self._store.release()
        real = scipy.fft.irfft(
            block, n_x, axis=2, norm="forward", overwrite_x=True, workers=self._threads
        )
        shifted: Singles = scipy.fft.fftshift(real, axes=2)
        return shifted


class Errors:
    """Variance of every voxel of the PDF, from V.

    Parameters
    ----------
    store : Store
        Of ``made.kept_shape``, float32.
    transform : Transform
        Loaded with the variances of S.

    Attributes
    ----------
    general : float
        σ at a general position far from symmetry elements.
    """

    def __init__(self, made: Plan, store: Store, transform: Transform, threads: int = 1) -> None:
        self._plan, self._store, self._threads = made, store, threads
        self._scale = made.scale * transform.unit
        n_x, n_y, n_z = made.sizes
        y = (np.arange(made.kept_shape[1]) + n_y // 2) % n_y
        x = (np.arange(made.kept_shape[2]) + n_x // 2) % n_x
        for z in range(made.kept_shape[0]):
            self._store.array[z] = transform.planes(z + n_z // 2, z + n_z // 2 + 1)[0][y][:, x]
            if z % 16 == 0:
                self._store.release()
        at_zero = float(self._store.array[0, 0, 0])
        self._least = 1e-6 * at_zero
        # Of all operations only the identity has u = 0.
        self.general = self._scale * float(np.sqrt(max(at_zero, 0.0)))

    def planes(self, first: int, last: int) -> Singles:
        """σ of the PDF on planes z, (last - first, y, x), in units of S per Å³."""
        made = self._plan
        moves, weights, _ = made.moves
        n_x, n_y, n_z = made.sizes
        sigma = np.empty((last - first, n_y, n_x), np.float32)
        places = pdf_kernels.places(made.sizes, int(np.abs(moves).max()), made.octant)
        v, sizes = self._store.array, np.array(made.sizes)

        def one(i: int) -> None:
            variance, z = np.empty((n_y, n_x)), first + i - n_z // 2
            add = pdf_kernels.add_variance
            add(z, moves, weights, v, places, made.octant, sizes, variance)
            # Where all cosines of the orbits vanish, rounding is left.
            sigma[i] = self._scale * np.sqrt(np.maximum(variance, self._least))

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(one, range(last - first)))
        self._store.release()
        return sigma


@dataclass
class Found:
    """What `blocks` saw on its way.

    Attributes
    ----------
    squares : float
        Σ PDF².
    features : list of ((3,) array, float, float)
        Index x, y, z of extrema in the half z >= 0, PDF and σ there.
    """

    squares: float
    features: list[tuple[NDArray[np.int64], float, float]]


def blocks(
    made: Plan, data: Transform, errors: Errors, planes: int, low: float, found: Found
) -> Iterator[tuple[int, Singles, Singles]]:
    """PDF and σ block by block.

    Parameters
    ----------
    data : Transform
        Loaded with S.
    planes : int
        Of a block.
    low : float
        Extrema of less than this are no features.
    found : Found
        Filled on the way.

    Yields
    ------
    first : int
        Plane z.
    pdf, sigma : (planes, y, x) arrays
    """
    n_z = made.sizes[2]
    places = np.empty((20000, 3), np.int64)
    for first in range(0, n_z, planes):
        last = min(first + planes, n_z)
        # A plane more on each side, for extrema.
        wide = data.planes(first - 1, last + 1)
        wide *= np.float32(made.scale * data.unit)
        pdf, sigma = wide[1:-1], errors.planes(first, last)
        found.squares += float(np.einsum("zyx,zyx->", pdf, pdf, dtype=np.float64))
        if last > n_z // 2:
            n = min(pdf_kernels.extrema(wide, low, places), len(places))
            for z, y, x in places[:n]:
                at = np.array([x, y, first + z - 1])
                if at[2] >= n_z // 2:
                    value, error = float(wide[z, y, x]), float(sigma[z - 1, y, x])
                    found.features.append((at, value, error))
        yield first, pdf, sigma


def strongest(
    made: Plan, found: Found, beyond: float, number: int
) -> list[tuple[Floats, float, float, float]]:
    """Strongest extrema, one of each set of equivalents.

    Parameters
    ----------
    beyond : float
        Å: least distance from the origin.
    number : int

    Returns
    -------
    list of ((3,) array, float, float, float)
        x, y, z; distance in Å; PDF; σ.
    """
    g = lattice.metric(made.cell)
    axes = [made.direct.axis(i) for i in range(3)]
    chosen: list[tuple[Floats, float, float, float]] = []
    known: list[Floats] = []
    for at, value, sigma in sorted(found.features, key=lambda f: -abs(f[1])):
        x = np.array([axis[i] for axis, i in zip(axes, at, strict=True)])
        length = float(np.sqrt(x @ g @ x))
        if length < beyond or any(np.abs(np.array(e) - x).max() < 1e-6 for e in known):
            continue
        mates = x @ made.operations
        known.extend(mates)
        # The one with most positive coordinates, the largest first.
        best = max(mates, key=lambda m: (int((m > -1e-9).sum()), np.round(m, 6).tolist()))
        chosen.append((best + 0.0, length, value, sigma))
        if len(chosen) == number:
            break
    return chosen


def unit_of(sigma: Singles) -> float | None:
    """Power of two near the rms of errors, if there are any.

    In this unit their squares keep all digits in float32, whatever the monitor counts.
    """
    squares = np.square(sigma[np.isfinite(sigma) & (sigma > 0)], dtype=np.float64)
    return float(2.0 ** np.rint(0.5 * np.log2(squares.mean()))) if len(squares) else None


def transform_volume(
    made: Plan, data: Singles, sigma: Singles, threads: int = 1
) -> tuple[Singles, Singles, Sums]:
    """PDF and σ (z, y, x) of S and σ (l, k, h) in memory."""
    store = Store(made.half_shape, np.complex64)
    forward = Transform(made, store, 100e6, threads, unit_of(sigma) or 1.0)
    forward.load([(0, sigma.astype(np.float32))], variance=True)
    errors = Errors(made, Store(made.kept_shape, np.float32), forward, threads)
    sums = forward.load([(0, data)])
    n_z = made.sizes[2]
    pdf: Singles = forward.planes(0, n_z) * np.float32(made.scale * forward.unit)
    return pdf, errors.planes(0, n_z), sums


#: Reads planes [first, last) of the input.
Reader = Callable[[int, int], Singles]


def slabs(made: Plan, read: Reader, planes: int) -> Iterator[tuple[int, Singles]]:
    """Read the planes that enter, in whole layers of ``planes``."""
    n_l = made.grid.shape[2]
    start = max(int(made.zero[2] - made.reach[2]), 0) // planes * planes
    stop = min(int(made.zero[2] + made.reach[2]) + 1, n_l)
    for first in range(start, stop, planes):
        yield first, read(first, min(first + planes, n_l))
