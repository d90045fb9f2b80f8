"""What the frames of a world can tell at most, and what no redundancy can; see quantitative.py.

*Gauge.* A factor g(Q) with the symmetry of S(Q) changes no comparison of equivalent observations.
`gauge_free` takes such a part off a field over frames and directions. It knows the group, nothing
of absorption.

*Information.* Counts are Poisson with expectation exp(θ·b(frame)) N S(voxel) + β(shell) n + rest;
ln S is a free plane in every voxel of the
asymmetric part of a grid. `information` is Fisher's matrix of θ
and β after S is eliminated; its inverse is the Cramér-Rao bound.

*Interval of the isotropic background.* See `isotropic_interval`.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit, types
from numba.typed import Dict
from scipy.interpolate import BSpline

from tests.truth.quantitative import VOXEL, World
from tests.truth.quantitative_absorption import Array

EVERY = 4  # pixels between the directions of a field
PUNCH = 0.15  # within so many h, k and l of a reflection nothing is compared
GENERIC = np.array([0.4142, 1.0, 0.7321])
_CODE = np.int64(1 << 16)


def at_blocks(image: Array, every: int = EVERY) -> Array:
    """Return an image (slow, fast, ...) at the middles of blocks of pixels."""
    return image[every // 2 :: every, every // 2 :: every]


def folded(world: World, r: int, every: int = EVERY) -> tuple[Array, Array]:
    """Return Q (frames, slow, fast, 3) in the crystal's frame, moved into one asymmetric part.

    Of the equivalents the one that lies nearest to a fixed direction is taken; the second array
    has the index of its operation.
    """
    s = at_blocks(world.s, every)
    hkl = np.stack([world.hkl(r, z + 0.5, s) for z in range(world.scans[r].n_frames)])
    B = world.crystal.B
    best, far = np.zeros_like(hkl), np.full(hkl.shape[:-1], -np.inf)
    which = np.zeros(hkl.shape[:-1], int)
    for i, W in enumerate(world.crystal.group):
        Q = hkl @ (W @ B.T)
        along = Q @ GENERIC
        nearer = along > far
        best[nearer], far[nearer], which[nearer] = Q[nearer], along[nearer], i
    return best, which


@dataclass(frozen=True)
class Visible:
    """A field without its gauge part.

    Attributes
    ----------
    fields : list
        Of each rotation (frames, slow, fast), on blocks of pixels; 0 where the weight is.
    rms : float
        Weighted root of mean squares, corrected for the freedom that the gauge part took.
    gauge_rms : float
        That of the part taken off.
    repeated : float
        Share of the weight in cells that are passed more than once: by another rotation or
        equivalent, or after 25° of rotation. 0: redundancy sees nothing, the rms is numerical.
    """

    fields: list[Array]
    rms: float
    gauge_rms: float
    repeated: float


def gauge_free(
    world: World,
    fields: list[Array],
    weight: list[Array] | None = None,
    *,
    every: int = EVERY,
    edge: float | None = None,
) -> Visible:
    """Take off a field over (frame, direction) what is a function of Q with the group's symmetry.

    Parameters
    ----------
    fields
        Relative errors of each rotation, (frames, slow, fast) at `at_blocks` of the pixels.
    weight
        Of the same shapes, such as expected counts; None: where pixels are not blind.
    edge
        1/Å, of cells in which the gauge part is quadratic; a twentieth of the largest |Q| by default.
    """
    sees = at_blocks(~world.blind, every).astype(float)
    w = weight or [np.broadcast_to(sees, f.shape) for f in fields]
    places = [folded(world, r, every) for r in range(len(fields))]
    Q = np.concatenate([q.reshape(-1, 3) for q, _ in places])
    y, v = np.concatenate([f.ravel() for f in fields]), np.concatenate([a.ravel() for a in w])
    edge = edge or float(world.q.max()) / 20
    cell = np.floor(Q / edge + 0.5).astype(np.int64)
    _, index = np.unique(cell @ np.array([1, 1 << 20, 1 << 40]), return_inverse=True)
    x = Q / edge - cell
    X = np.c_[np.ones(len(Q)), x, x**2, x[:, [0]] * x[:, 1:], x[:, 1] * x[:, 2]]
    n = X.shape[1]
    N = np.stack([np.bincount(index, v * X[:, i] * X[:, j]) for i in range(n) for j in range(n)], 1)
    b = np.stack([np.bincount(index, v * X[:, i] * y) for i in range(n)], 1)
    inverse = np.linalg.pinv(N.reshape(-1, n, n), rcond=1e-5, hermitian=True)
    surface = np.einsum("nij,nj->ni", inverse, b)
    gauge = np.where(v > 0, np.einsum("ni,ni->n", X, surface[index]), 0)
    rest = np.where(v > 0, y - gauge, 0)
    freedom = v.sum() - np.einsum("nij,nji->", inverse, N.reshape(-1, n, n)) * v.mean()
    ends = np.cumsum([f.size for f in fields])[:-1]
    left = [a.reshape(f.shape) for a, f in zip(np.split(rest, ends), fields, strict=True)]
    rms = np.sqrt(v @ rest**2 / max(freedom, 1e-9 * v.sum()))
    repeated = _repeated(world, [which for _, which in places], index)
    total = float(np.sqrt(v @ gauge**2 / v.sum()))
    return Visible(left, float(rms), total, float(v @ repeated / v.sum()))


def _repeated(world: World, which: list[Array], index: Array) -> Array:
    """Return True for observations in cells that are passed more than once."""
    keys = []
    for r, (scan, operation) in enumerate(zip(world.scans, which, strict=True)):
        angle = abs(scan.step) * np.arange(scan.n_frames)[:, None, None]
        keys.append((angle + 1e3 * (operation + r * len(world.crystal.group))).ravel())
    key = np.concatenate(keys)
    low, high = np.full(index.max() + 1, np.inf), np.full(index.max() + 1, -np.inf)
    np.minimum.at(low, index, key)
    np.maximum.at(high, index, key)
    return (high - low > 25)[index]


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
    y, x = (2 * i[pick][sees] / m - 1 for i, m in zip(np.indices(world.shape), world.shape, strict=True))
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

    def add(self, codes: Array, place: Array, basis: Array, tilt: Array, first: int, *columns: object) -> None:
        """Add the pixels of a frame, whose θ are at `first` and have the weights `basis`."""
        while len(self.D) < self.n + len(codes):
            self.A = np.concatenate([self.A, np.zeros_like(self.A)])
            self.D = np.concatenate([self.D, np.zeros_like(self.D)])
        used = np.nonzero(basis > 1e-12)[0]
        _accumulate(self.slots, self.A, self.D, self.G, codes, place, used + first, basis[used], tilt, *columns)


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
            for l in range(used):
                G[column[m], column[l]] += slope[m] * slope[l] / total[i]


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
            l = int(a * W[0, 2] + b * W[1, 2] + c * W[2, 2]) + 32768
            code = (h * _CODE + k) * _CODE + l
            if code > best:
                best, which = code, g
        W = group[which]
        for j in range(3):
            place[i, j] = (
                (x[i, 0] - a) * W[0, j] + (x[i, 1] - b) * W[1, j] + (x[i, 2] - c) * W[2, j]
            )
        out[i] = best
    return out, place


def scale_bound(world: World, k: int, **options: object) -> list[Array]:
    """Return the Cramér-Rao bound of s(φ), relative, (frames,) of each rotation.

    s is exp of k cubic splines per rotation, with mean ln s = 0 over all frames; the factor that
    depends on direction is known. Infinite where nothing is compared.
    """
    matrix = information(world, k, **options)  # type: ignore[arg-type]
    return _deviations(world, k, matrix, int(options.get("terms", 1)))[0]  # type: ignore[call-overload]


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
    over the detector too, and the interval is the intersection. A minimum is known to z times the least block's own error.
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
