"""What the frames of a world can tell at most, and how well; see quantitative.py.

*Information.* Counts are Poisson with expectation exp(θ·b(frame)) N S(voxel) + β(shell) n + rest;
ln S is a free plane in every voxel of the
asymmetric part of a grid. `information` is Fisher's matrix of θ
and β after S is eliminated; its inverse is the Cramér-Rao bound.

*Interval of the isotropic background.* See `isotropic_interval`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types
from numba.typed import Dict
from scipy.interpolate import BSpline

from tests.truth.quantitative import VOXEL, World
from tests.truth.quantitative_absorption import Array

PUNCH = 0.15  # within so many h, k and l of a reflection nothing is compared
_CODE = np.int64(1 << 16)


def splines(n_frames: int, k: int) -> Array:
    """Return k cubic B-splines (frames, k) at the middles of frames; their sum is 1."""
    if k == 1:
        return np.ones((n_frames, 1))
    degree = min(3, k - 1)
    inner = np.linspace(0, n_frames, k - degree + 1)
    knots = np.r_[[0.0] * degree, inner, [float(n_frames)] * degree]
    return BSpline.design_matrix(np.arange(n_frames) + 0.5, knots, degree).toarray()


def information(
    world: World,
    k: int,
    shells: Array | None = None,
    *,
    terms: int = 1,
    voxel: float = 2 * VOXEL,
    every: int = 1,
) -> Array:
    """Return Fisher's matrix of k parameters per rotation, then of the shells' backgrounds.

    Parameters
    ----------
    shells
        Edges in |Q| (1/Å). The parameter of a shell is a constant background in electron units,
        which counts as S does where T is 1.
    terms
        Each parameter of a rotation is that many: also times x, y, x², xy, y² of the place on the
        detector (−1 to 1), so that the factor's dependence on direction is free.
    voxel
        Within a voxel of this edge (h, k, l) ln S is a plane, four free numbers: so neighbouring
        pixels and frames, which S tells apart, are no redundancy.
    every
        Only each so-many-th pixel in both directions, with its weight raised.
    """
    n_shells = 0 if shells is None else len(shells) - 1
    n = k * len(world.scans) * terms + n_shells
    state = _State.empty(n)
    pick = (slice(every // 2, None, every),) * 2
    sees = ~world.blind[pick]
    shell = np.full(world.shape, -1) if shells is None else np.digitize(world.q, shells) - 1
    shell = np.where(shell < n_shells, shell, -1)[pick][sees]
    s, norm = world.s[pick][sees], world.norm[pick][sees]
    y, x = (
        2 * i[pick][sees] / m - 1 for i, m in zip(np.indices(world.shape), world.shape, strict=True)
    )
    tilt = np.stack([x**0, x, y, x**2, x * y, y**2][:terms], 1)
    for r, scan in enumerate(world.scans):
        basis = splines(scan.n_frames, k)
        for z in range(scan.n_frames):
            parts = world.parts(r, z)
            signal = parts["diffuse"][pick][sees]
            rest = sum(v for name, v in parts.items() if name not in ("diffuse", "bragg"))
            total = signal + (rest[pick][sees] if np.ndim(rest) else 0.0)
            flat = world.scale * world.beam[r][z] * world.attenuator[r][z] * norm
            hkl = world.hkl(r, z + 0.5, s)
            codes, place = fold_codes(hkl / voxel, world.crystal.group)
            codes[np.abs(hkl - np.round(hkl)).max(axis=1) < PUNCH] = -1
            state.add(codes, place, basis[z], tilt, r * k, signal, total, flat, shell, n - n_shells)
    return state.eliminated() * every**2


@dataclass
class _State:
    slots: Dict
    A: Array  # (voxels, 4, parameters) Σ ∂μ/∂ln S ∂μ/∂θ / μ
    D: Array  # (voxels, 4, 4) Σ (∂μ/∂ln S)² / μ
    G: Array  # Σ ∂μ/∂θ ∂μ/∂θ / μ

    @classmethod
    def empty(cls, n: int) -> "_State":
        slots = Dict.empty(types.int64, types.int64)
        return cls(slots, np.zeros((1 << 16, 4, n)), np.zeros((1 << 16, 4, 4)), np.zeros((n, n)))

    @property
    def n(self) -> int:
        return len(self.slots)

    def eliminated(self) -> Array:
        """Return the information of θ and β when ln S is unknown."""
        found = self.G.copy()
        for start in range(0, self.n, 1 << 15):
            A, D = self.A[start : start + (1 << 15)], self.D[start : start + (1 << 15)]
            A, D = A[: self.n - start], D[: self.n - start]
            size = np.sqrt(np.maximum(np.einsum("nii->ni", D), 1e-30))
            scaled = D / (size[:, :, None] * size[:, None, :])
            inverse = np.linalg.pinv(scaled, rcond=1e-6, hermitian=True)
            part = A / size[:, :, None]
            found -= np.tensordot(part, inverse @ part, ((0, 1), (0, 1)))
        return found

    def add(
        self, codes: Array, place: Array, basis: Array, tilt: Array, first: int, *columns: object
    ) -> None:
        """Add the pixels of a frame, whose θ are at `first` and have the weights `basis`."""
        while len(self.D) < self.n + len(codes):
            self.A = np.concatenate([self.A, np.zeros_like(self.A)])
            self.D = np.concatenate([self.D, np.zeros_like(self.D)])
        used = np.nonzero(basis > 1e-12)[0]
        _accumulate(
            self.slots,
            self.A,
            self.D,
            self.G,
            codes,
            place,
            used + first,
            basis[used],
            tilt,
            *columns,
        )


@njit(cache=True)
def _accumulate(slots, A, D, G, codes, place, at, basis, tilt, signal, total, flat, shell, first):
    terms = tilt.shape[1]
    n = len(at) * terms
    x, column, slope = np.ones(4), np.empty(n + 1, np.int64), np.empty(n + 1)
    for i in range(len(codes)):
        code = codes[i]
        if code < 0 or total[i] <= 0:
            continue
        if code not in slots:
            slots[code] = len(slots)
        v = slots[code]
        x[1:] = place[i]
        for m in range(n):
            column[m] = at[m // terms] * terms + m % terms
            slope[m] = signal[i] * basis[m // terms] * tilt[i, m % terms]
        used = n
        if shell[i] >= 0:
            column[n], slope[n] = first + shell[i], flat[i]
            used = n + 1
        of_s = signal[i] / total[i]
        for a in range(4):
            for b in range(4):
                D[v, a, b] += of_s * signal[i] * x[a] * x[b]
            for m in range(used):
                A[v, a, column[m]] += of_s * x[a] * slope[m]
        for m in range(used):
            for o in range(used):
                G[column[m], column[o]] += slope[m] * slope[o] / total[i]


@njit(cache=True)
def fold_codes(x, group):
    """Return codes (n,) that are equal for equivalent voxels, and places in these (n, 3).

    x (n, 3) is in voxels. A place is the way from the voxel's middle, moved with it.
    """
    out, place = np.empty(len(x), np.int64), np.empty((len(x), 3))
    for i in range(len(x)):
        a, b, c = round(x[i, 0]), round(x[i, 1]), round(x[i, 2])
        best, which = np.int64(-1), 0
        for g in range(len(group)):
            W = group[g]
            h = int(a * W[0, 0] + b * W[1, 0] + c * W[2, 0]) + 32768
            k = int(a * W[0, 1] + b * W[1, 1] + c * W[2, 1]) + 32768
            m = int(a * W[0, 2] + b * W[1, 2] + c * W[2, 2]) + 32768
            code = (h * _CODE + k) * _CODE + m
            if code > best:
                best, which = code, g
        W = group[which]
        for j in range(3):
            place[i, j] = (
                (x[i, 0] - a) * W[0, j] + (x[i, 1] - b) * W[1, j] + (x[i, 2] - c) * W[2, j]
            )
        out[i] = best
    return out, place


def scale_bound(world: World, k: int, terms: int = 1, **options: Any) -> list[Array]:
    """Return the Cramér-Rao bound of s(φ), relative, (frames,) of each rotation.

    s is exp of k cubic splines per rotation, with mean ln s = 0 over all frames; the factor that
    depends on direction is known. Infinite where nothing is compared.
    """
    matrix = information(world, k, terms=terms, **options)
    return _deviations(world, k, matrix, terms)[0]


def _deviations(world: World, k: int, matrix: Array, terms: int) -> tuple[list[Array], Array]:
    """Return σ of ln s of each rotation, and of the shells' backgrounds, by the information."""
    n = k * len(world.scans) * terms
    blocks = [splines(scan.n_frames, k) for scan in world.scans]
    full = np.zeros((sum(len(b) for b in blocks), len(matrix)))
    row = 0
    for r, block in enumerate(blocks):
        full[row : row + len(block), r * k * terms : (r + 1) * k * terms : terms] = block
        row += len(block)
    Z = np.linalg.svd(full.sum(axis=0)[None])[2][1:].T  # mean ln s = 0
    inner = Z.T @ matrix @ Z
    size = np.sqrt(np.maximum(np.diag(inner), 1e-30))
    values, vectors = np.linalg.eigh(inner / np.outer(size, size))
    floor = 1e-10 * values[-1]
    root = vectors / np.sqrt(np.maximum(values, floor)) / size[:, None]
    sigma = np.linalg.norm(full @ Z @ root, axis=1)
    lost = np.linalg.norm(full @ Z @ (root[:, values <= floor]), axis=1) > 0
    sigma[lost] = np.inf
    of_shells = np.linalg.norm(Z @ root, axis=1)[n:]
    return np.split(sigma, np.cumsum([len(b) for b in blocks])[:-1]), of_shells


@dataclass(frozen=True)
class Interval:
    """Interval of the isotropic background in shells of |Q|, electron units where T is 1."""

    edges: Array
    low: Array
    high: Array
    true: Array
    sigma: Array  # of the background by the changes of transmission alone


def isotropic_interval(
    world: World, shells: Array, k: int = 8, z: float = 2.0, *, block: float = 0.3,
    compton: bool = False, every: int = 2,
) -> Interval:  # fmt: skip
    """Return the tightest interval of the background's mean over a shell, without an empty run.

    S(Q) + c(|Q|) and B − T c(|Q|) expect the same counts where T is constant, so that c is bounded
    only by S ≥ 0 and B ≥ 0 (both hold in every block of `block` in h, k, l and on every pixel):

        mean B − min B ≤ B_shell ≤ mean B + min (T S)

    with S all that comes from the crystal, Compton and fluorescence too; if its Compton scattering
    is known (`compton`: an absolute scale is) S exceeds it. Where T changes at equivalent places,
    counts tell B from S; then B is known to z σ of `information`, with s(φ) free and its slopes
    over the detector too, and the interval is the intersection. A minimum is known
    to z times the least block's own error.
    """
    n = len(shells) - 1
    T_S, B = _extremes(world, shells, block, every, z, compton)
    matrix = information(world, k, shells, terms=3, every=every)
    sigma = _deviations(world, k, matrix, 3)[1]
    true, least = B
    low = np.maximum(np.maximum(0, true - least), true - z * sigma)
    high = np.minimum(true + T_S, true + z * sigma)
    return Interval(shells, low[:n], high[:n], true[:n], sigma)


def _extremes(
    world: World, shells: Array, block: float, every: int, z: float, compton: bool
) -> tuple[Array, tuple[Array, Array]]:
    """Return the least T S of a block of each shell, and mean and least B of its pixels."""
    pick = (slice(every // 2, None, every),) * 2
    sees = ~world.blind[pick]
    s, norm = world.s[pick][sees], world.norm[pick][sees]
    shell = np.digitize(world.q[pick][sees], shells) - 1
    n = len(shells) - 1
    codes, rate, time, B, M = [], [], [], np.zeros(len(s)), np.zeros(len(s))
    for r, scan in enumerate(world.scans):
        for f in range(0, scan.n_frames, every):
            parts = world.parts(r, f)
            unit = world.scale * world.beam[r][f] * world.attenuator[r][f] * norm
            own = parts["diffuse"] + parts.get("fluorescence", 0)
            own = own if compton else own + parts["compton"]
            rate.append(own[pick][sees])
            time.append(unit)
            B += world.background(r, f)[pick][sees]
            M += unit
            hkl = world.hkl(r, f + 0.5, s)
            code, _ = fold_codes(hkl / block, world.crystal.group)
            codes.append(code * 64 + np.clip(shell, -1, 62) + 1)
    _, index = np.unique(np.concatenate(codes), return_inverse=True)
    counts, m = np.bincount(index, np.concatenate(rate)), np.bincount(index, np.concatenate(time))
    of = np.zeros(len(m), int)
    of[index] = np.tile(shell, len(codes))
    value = counts / m + z * np.sqrt(counts / m**2 / every**3)
    enough = counts * every**3 > 50
    least = np.array([value[(of == i) & enough].min(initial=np.inf) for i in range(n)])
    static = B / M
    mean = np.array([np.average(static[shell == i], weights=M[shell == i]) for i in range(n)])
    low = np.array([static[shell == i].min() for i in range(n)])
    return least, (mean, low)
