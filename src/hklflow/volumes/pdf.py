"""Pair distribution function (PDF) of S(Q) in direct space, with the error of every voxel.

    PDF(r) = ∫ w(|Q|) S(Q) cos(Q·r) d³Q/(2π)³ = (1/V) Σ_hkl w S cos(2π h·x) Δh Δk Δl

x is r in fractions of a, b, c, and V is the volume of the cell; the PDF is in units of S per Å³. If
S is the scattering of a unit cell, the PDF of the total S is the Patterson function of a cell, and
the PDF of the diffuse part is the 3D-ΔPDF. Parseval: Σ PDF² ΔV_r = Σ (w S)² ΔV_Q / (2π)³.

Errors. The symmetrised voxels of an orbit o under the Laue group G (order |G|, with inversion) are
one measurement with error σ_o; different orbits are independent. The sum of cos(2π h·x) over the
n_o voxels of an orbit is n_o/|G| times the sum of cos(2π h·Wᵀx) over all W in G. The square of this
sum is written as the product of a sum over the orbit and a sum over G. With
cos a cos b = ½[cos(a - b) + cos(a + b)], where both terms give the same sum because G contains -1,
the variance is

    var PDF(x) = Σ_{W in G} V(x - Wᵀx),
    V(u) = (ΔhΔkΔl/V)² Σ_h σ_h² w_h² (n_h/|G|) cos(2π h·u),

This needs one more transform. On a symmetry element several W give u = 0, so the error is larger
there. Data that were not symmetrised are first averaged with their Friedel mates; then G = {1, -1}.
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

#: Memory of Python and its libraries without the volumes, MB.
_BASE = 380.0


# ---------------------------------------------------------------------- memory


class Store:
    """Array, initially zeros, in memory; a subclass may keep the array in a file."""

    in_memory = True

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.array: NDArray[Any] = np.zeros(shape, dtype)

    def release(self) -> None:
        """Release the memory of an array in a file; the content of the array is kept."""


@dataclass(frozen=True)
class Room:
    """Parts of a plan that fit in memory.

    Attributes
    ----------
    half : bool
        True if the half volume fits.
    kept : bool
        True if V fits.
    block : float
        Number of bytes for a block.
    """

    half: bool
    kept: bool
    block: float


def room(made: Plan, memory: float) -> Room:
    """Divide ``memory`` (MB) among half volume, V and blocks."""
    free = max(memory - _BASE, 32.0) * 1e6
    half, kept = 8.0 * np.prod(made.half_shape), 4.0 * np.prod(made.kept_shape)
    block = min(free / 4, 100e6)
    fits = bool(half + kept + 2 * block <= free)
    return Room(fits, fits or bool(kept <= free / 2), block)


# ------------------------------------------------------------------- transform

#: Pairs of the index of the first plane and the planes of S, (l, k, h).
Slabs = Iterable[tuple[int, Singles]]


@dataclass
class Sums:
    """Sums over both halves of the transformed volume.

    Attributes
    ----------
    weight : float
        Sum of the taper over the voxels with known S.
    missing : float
        Sum of the taper over the voxels with unknown S.
    n_missing : int
        Number of voxels with a weight and unknown S; unknown S counts as 0.
    squares : float
        Σ (w S)².
    """

    weight: float = 0.0
    missing: float = 0.0
    n_missing: int = 0
    squares: float = 0.0


class Transform:
    """Fourier transform of an even function; only the half with h >= 0 is stored.

    Parameters
    ----------
    made : Plan
    store : Store
        Array of shape ``made.half_shape``, complex64.
    block : float
        Largest additional memory in bytes.
    threads : int
    unit : float
        S and σ are divided by this number before they are squared and stored; see `unit_of`.
    """

    def __init__(
        self, made: Plan, store: Store, block: float, threads: int = 1, unit: float = 1.0
    ) -> None:
        self._plan, self._store, self._block, self._threads = made, store, block, threads
        self.unit = float(unit)
        self._loaded = False

    def load(self, slabs: Slabs, *, variance: bool = False) -> Sums:
        """Load and transform a volume of S; with ``variance``, a volume of σ.

        The squares of σ give V without the factor (ΔhΔkΔl/V)². A voxel is averaged with its Friedel
        mate if both are known.
        """
        half, made = self._store.array, self._plan
        if self._loaded:
            self._planewise(half, 0)
        self._loaded = True
        for first, values in slabs:
            pdf_kernels.fold(
                values, first, made.zero, made.reach, np.float32(self.unit), variance,
                half.view(np.float32),
            )  # fmt: skip
            self._store.release()
        sums = self._finish(variance)
        sums.squares *= self.unit**2
        self._along_l()
        return sums

    def _finish(self, variance: bool) -> Sums:
        """Average mates, apply the taper, and transform along k."""
        half, made, total = self._store.array, self._plan, np.zeros(4)
        n_h, reach = made.reach[0] + 1, int(made.reach[1])
        ks = np.arange(-reach, reach + 1)
        moved = (made.operations - np.eye(3)) * made.grid.step
        stays = np.empty((len(ks), n_h) if variance else (0, 0), np.int64)
        # After symmetrising, mates are one measurement; otherwise averaging them halves the
        # variance.
        halved = variance and not made.symmetrised
        for l in range(-int(made.reach[2]), int(made.reach[2]) + 1):  # noqa: E741
            plane = half[l]
            part = plane[ks, :n_h]
            if variance:
                pdf_kernels.stabilisers(l, moved, stays)
            used = pdf_kernels.average(part, made.weights(l), stays, halved, total)
            plane[ks, :n_h] = part
            self._transform(plane[:, :used])
            if l % 16 == 0:
                self._store.release()
        self._store.release()
        weight, missing, n_missing, squares = total
        return Sums(weight, missing, int(n_missing), squares)

    def _transform(self, waves: NDArray[Any]) -> None:
        """Transform along the first axis, in place."""
        if not waves.size:
            return
        done = scipy.fft.ifft(
            waves, axis=0, norm="forward", overwrite_x=True, workers=self._threads
        )
        if not np.may_share_memory(done, waves):
            waves[...] = done

    def _along_l(self) -> None:
        # Beyond the voxels in use, all waves are 0.
        half = self._store.array[:, :, : int(self._plan.reach[0]) + 1]
        n_l, n_k, n_h = half.shape
        rows = max(int(self._block / (16 * n_l * n_h)), 1)
        if self._store.in_memory:
            self._transform(half)
            return
        for k in range(0, n_k, rows):
            block = np.empty((n_l, min(rows, n_k - k), n_h), half.dtype)
            self._planewise(block, half[:, k : k + rows])
            self._transform(block)
            self._planewise(half[:, k : k + rows], block)

    def _planewise(self, target: NDArray[Any], source: Any) -> None:
        """Copy in groups of planes, because the system may map much more than one access needs."""
        source = np.broadcast_to(source, target.shape)
        for l in range(0, len(target), 32):  # noqa: E741
            target[l : l + 32] = source[l : l + 32]
            self._store.release()

    def planes(self, first: int, last: int) -> Singles:
        """Return planes z of the sum of cosines, (last - first, y, x); x = y = 0 is in the middle.

        ``first`` and ``last`` count from the first plane of the PDF, modulo the number of planes.
        """
        _, n_y, n_z = self._plan.sizes
        z = (np.arange(first, last) - n_z // 2) % n_z
        y = (np.arange(n_y) - n_y // 2) % n_y
        shifted: Singles = scipy.fft.fftshift(self.rows(z, y), axes=2)
        return shifted

    def rows(self, z: NDArray[np.int64], y: NDArray[np.int64]) -> Singles:
        """Return rows (z, y, x) of the sum of cosines; z, y and x begin with 0."""
        block = self._store.array[z[:, None], y]
        self._store.release()
        real: Singles = scipy.fft.irfft(
            block, self._plan.sizes[0], axis=2, norm="forward", overwrite_x=True,
            workers=self._threads,
        )  # fmt: skip
        return real


#: Function that returns the factor of the variance on a plane z of the PDF, (y, x).
Factor = Callable[[int, tuple[int, int]], Singles]


class Errors:
    """Error of every voxel of the PDF, from V.

    Parameters
    ----------
    made : Plan
    store : Store
        Array of shape ``made.kept_shape``, float32.
    transform : Transform
        Transform into which the variances of S were loaded.

    Attributes
    ----------
    general : float
        σ at a general position far from symmetry elements, and far from r = 0.
    """

    def __init__(self, made: Plan, store: Store, transform: Transform, threads: int = 1) -> None:
        self._plan, self._store, self._threads = made, store, threads
        self._scale = made.scale * transform.unit
        n_z, n_y, n_x = made.kept_shape
        for z in range(n_z):
            self._store.array[z] = transform.rows(np.array([z]), np.arange(n_y))[0, :, :n_x]
            if z % 16 == 0:
                self._store.release()
        at_zero = float(self._store.array[0, 0, 0])
        self._least = 1e-6 * at_zero
        # Voxels (n, 3) along x, y, z whose errors are known better.
        self._places, self._replaced = np.empty((0, 3), np.int64), np.empty(0)
        self._factor: Factor | None = None
        # At a general position only the identity has u = 0.
        self.general = self._scale * float(np.sqrt(max(at_zero, 0.0)))

    def planes(self, first: int, last: int) -> Singles:
        """Return σ of the PDF on planes z, (last - first, y, x), in units of S per Å³."""
        sigma = self.independent(first, last)
        if self._factor is not None:
            for i, plane in enumerate(sigma):
                plane *= np.sqrt(self._factor_of(self._factor, first + i))
        self._put_replaced(first, sigma)
        return sigma

    def independent(self, first: int, last: int) -> Singles:
        """Return σ as `planes` does, but of filled voxels that are independent."""
        made = self._plan
        moves, weights, _ = made.moves
        n_x, n_y, n_z = made.sizes
        sigma = np.empty((last - first, n_y, n_x), np.float32)
        places = pdf_kernels.places(made.sizes, int(np.abs(moves).max()), made.octant)
        v, sizes = self._store.array, np.array(made.sizes)

        def fill_plane(i: int) -> None:
            z = first + i - n_z // 2
            # Where all cosines of the orbits vanish, only a rounding error is left.
            pdf_kernels.add_variance(
                z, moves, weights, v, places, sizes, *made.distinct, self._scale, self._least,
                sigma[i],
            )  # fmt: skip

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(fill_plane, range(last - first)))
        self._store.release()
        return sigma

    def multiply(self, factor: Factor, beyond: float) -> None:
        """Multiply the variance by a factor, which is ``beyond`` far from r = 0.

        Errors that `replace` gave are kept.
        """
        self._factor = factor
        self.general *= float(np.sqrt(beyond))

    def of_measured(self, first: int, sigma: Singles) -> Singles:
        """Return σ of planes (z, y, x) without the factor of `multiply`."""
        if self._factor is None:
            return sigma
        without: Singles = sigma.copy()
        for i, plane in enumerate(without):
            plane /= np.sqrt(self._factor_of(self._factor, first + i))
        self._put_replaced(first, without)
        return without

    def _factor_of(self, factor: Factor, z: int) -> Singles:
        n_x, n_y, n_z = self._plan.sizes
        return factor(z - n_z // 2, (n_y, n_x))

    def _put_replaced(self, first: int, sigma: Singles) -> None:
        """Set the errors of `replace` on planes (z, y, x)."""
        own = (self._places[:, 2] >= first) & (self._places[:, 2] < first + len(sigma))
        x, y, z = self._places[own].T
        sigma[z - first, y, x] = self._replaced[own]

    def replace(self, vectors: Floats, sigma: Floats) -> Floats:
        """Use other errors at vectors (n, 3) of voxels, and at their equivalents.

        Returns the errors (n,) that are replaced.
        """
        grid = self._plan.direct
        places = np.rint((vectors - grid.first) / grid.step).astype(np.int64)
        before = np.empty(len(vectors))
        for z in np.unique(places[:, 2]):
            own = places[:, 2] == z
            before[own] = self.planes(int(z), int(z) + 1)[0, places[own, 1], places[own, 0]]
        mates = np.einsum("ni,gij->gnj", vectors, self._plan.operations)
        index = np.rint((mates - grid.first) / grid.step).astype(np.int64)
        inside = np.all((index >= 0) & (index < grid.shape), axis=-1)
        self._places, self._replaced = index[inside], np.broadcast_to(sigma, inside.shape)[inside]
        return before


@dataclass
class Found:
    """Sum of squares and extrema that `blocks` collects.

    Attributes
    ----------
    squares : float
        Σ PDF².
    features : list of ((3,) array, float, float)
        Index (x, y, z), PDF and σ of the extrema in the half z >= 0.
    """

    squares: float
    features: list[tuple[NDArray[np.int64], float, float]]


def blocks(
    made: Plan, data: Transform, errors: Errors, planes: int, low: float, extrema: Found
) -> Iterator[tuple[int, Singles, Singles]]:
    """Yield PDF and σ block by block.

    Parameters
    ----------
    made : Plan
    data : Transform
        Transform into which S was loaded.
    errors : Errors
    planes : int
        Number of planes of a block.
    low : float
        Smallest |PDF| of a feature.
    extrema : Found
        Filled by this function.

    Yields
    ------
    first : int
        First plane z of the block. Blocks are not in order.
    pdf, sigma : (planes, y, x) arrays
    """
    n_x, n_y, n_z = made.sizes
    middle = n_z // 2
    places = np.empty((20000, 3), np.int64)
    begun: dict[int, tuple[Singles, Singles]] = {}
    missing: dict[int, int] = {}

    def arrays(z: int) -> tuple[int, Singles, Singles]:
        """Return the first plane of the block of a plane, and the PDF and σ of the plane."""
        first = z // planes * planes
        if first not in begun:
            size = min(planes, n_z - first), n_y, n_x
            begun[first] = np.empty(size, np.float32), np.empty(size, np.float32)
            missing[first] = size[0]
        missing[first] -= 1
        pdf, sigma = begun[first]
        return first, pdf[z - first], sigma[z - first]

    # The PDF is even: planes below the middle are copied from those above it. The first plane of an
    # even size is its own mate, and is made with the last plane.
    first = middle
    while first < n_z:
        last = min(first - first % planes + planes, n_z)
        # One more plane on each side to find extrema.
        wide = data.planes(first - 1, last + 1)
        wide *= np.float32(made.scale * data.unit)
        pdf, sigma = wide[1:-1], errors.planes(first, last)
        n = min(pdf_kernels.extrema(wide, low, places), len(places))
        for z, y, x in places[:n]:
            value, error = float(wide[z, y, x]), float(sigma[z - 1, y, x])
            extrema.features.append((np.array([x, y, first + z - 1]), value, error))
        for z in range(first, last):
            if 0 <= 2 * middle - z < middle:
                _, *lower = arrays(2 * middle - z)
                pdf_kernels.mirror(pdf[z - first], lower[0])
                pdf_kernels.mirror(sigma[z - first], lower[1])
            if first % planes:
                _, *own = arrays(z)
                own[0][:], own[1][:] = pdf[z - first], sigma[z - first]
        if last == n_z and n_z % 2 == 0:
            _, *own = arrays(0)
            own[0][:], own[1][:] = wide[-1], errors.planes(0, 1)[0]
        done = [(first, pdf, sigma)] if first % planes == 0 else []
        for start in [start for start, number in missing.items() if number == 0]:
            del missing[start]
            done.append((start, *begun.pop(start)))
        for block in done:
            extrema.squares += float(np.einsum("zyx,zyx->", block[1], block[1], dtype=np.float64))
            yield block
        first = last


def strongest(
    made: Plan, extrema: Found, beyond: float, number: int
) -> list[tuple[Floats, float, float, float]]:
    """Return the strongest extrema, one of each set of equivalents.

    Parameters
    ----------
    made : Plan
    extrema : Found
    beyond : float
        Smallest distance from the origin, Å.
    number : int
        Largest number of extrema.

    Returns
    -------
    list of ((3,) array, float, float, float)
        x, y, z; distance in Å; PDF; σ.
    """
    g = lattice.metric(made.cell)
    axes = [made.direct.axis(i) for i in range(3)]
    chosen: list[tuple[Floats, float, float, float]] = []
    known = np.empty((0, 3))
    for index, value, sigma in sorted(extrema.features, key=lambda f: -abs(f[1])):
        x = np.array([axis[i] for axis, i in zip(axes, index, strict=True)])
        length = float(np.sqrt(x @ g @ x))
        if length < beyond or (np.abs(known - x).max(axis=1) < 1e-6).any():
            continue
        mates = x @ made.operations
        known = np.concatenate([known, mates])
        # Choose the mate with the most positive coordinates, then the largest first coordinates.
        best = max(mates, key=lambda m: (int((m > -1e-9).sum()), np.round(m, 6).tolist()))
        chosen.append((best + 0.0, length, value, sigma))
        if len(chosen) == number:
            break
    return chosen


def unit_of(sigma: Singles) -> float | None:
    """Return a power of two near the rms of the errors; None without errors.

    In this unit, the squares of the errors keep all digits in float32, whatever the monitor counts.
    """
    squares = np.square(sigma[np.isfinite(sigma) & (sigma > 0)], dtype=np.float64)
    return float(2.0 ** np.rint(0.5 * np.log2(squares.mean()))) if len(squares) else None


def transform_volume(
    made: Plan, data: Singles, sigma: Singles, threads: int = 1
) -> tuple[Singles, Singles, Sums]:
    """Return PDF and σ (z, y, x) for S and σ (l, k, h), all in memory."""
    store = Store(made.half_shape, np.complex64)
    forward = Transform(made, store, 100e6, threads, unit_of(sigma) or 1.0)
    forward.load([(0, sigma.astype(np.float32))], variance=True)
    errors = Errors(made, Store(made.kept_shape, np.float32), forward, threads)
    sums = forward.load([(0, data)])
    n_z = made.sizes[2]
    pdf: Singles = forward.planes(0, n_z) * np.float32(made.scale * forward.unit)
    return pdf, errors.planes(0, n_z), sums


#: Function that reads the planes [first, last) of the input.
Reader = Callable[[int, int], Singles]


def slabs(made: Plan, read: Reader, planes: int) -> Iterator[tuple[int, Singles]]:
    """Read the planes that are transformed, in complete layers of ``planes`` planes."""
    n_l = made.grid.shape[2]
    start = max(int(made.zero[2] - made.reach[2]), 0) // planes * planes
    stop = min(int(made.zero[2] + made.reach[2]) + 1, n_l)
    for first in range(start, stop, planes):
        yield first, read(first, min(first + planes, n_l))
