"""Physics of simulated rotation scans: cell, motion of the crystal, elastic condition, spots.

Lab frame: z along the beam, y up, x = y × z. Lengths of the instrument in m, of the cell in Å,
angles in degrees, Q in 1/Å with 2π. A continuous frame f is at the angle start + f step, so the
middle of frame i is at i + 0.5; the same holds for pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
Rows = dict[str, NDArray[Any]]

MIN_ZETA = 0.05  # spots nearer to tangency are not measured
SPOT = 0.8  # standard deviation of a sharp spot on the detector, pixels
MIN_COUNTS, MAX_COUNTS, MIN_SIGNIFICANCE = 30.0, 1e5, 4.0
BEAM_STOP = 8.0  # radius, pixels


def metric(cell: Array) -> Array:
    """Return the direct metric tensor (Å²) of cells (..., 6) in Å and degrees."""
    cell = np.asarray(cell, float)
    cosines = np.cos(np.radians(cell[..., 3:]))
    G = cell[..., :3, None] * cell[..., None, :3]
    for (i, j), c in zip(((1, 2), (0, 2), (0, 1)), np.moveaxis(cosines, -1, 0), strict=True):
        G[..., i, j] *= c
        G[..., j, i] *= c
    return G


def busing_levy(cell: Array) -> Array:
    """Return B (1/Å, with 2π) of cells (..., 6): a* along x, b* in the xy plane."""
    return 2 * np.pi * np.swapaxes(np.linalg.cholesky(np.linalg.inv(metric(cell))), -1, -2)


def direct_basis(UB: Array) -> Array:
    """Return the direct axes a, b, c (Å) as the columns of a matrix."""
    return 2 * np.pi * np.linalg.inv(UB).T


def cell_of_axes(axes: Array) -> Array:
    """Return a, b, c (Å), α, β, γ (degrees) of direct axes given as columns."""
    lengths = np.linalg.norm(axes, axis=0)
    cosines = [
        axes[:, i] @ axes[:, j] / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))
    ]
    return np.append(lengths, np.degrees(np.arccos(cosines)))


def rotation(axis: Array, degrees: float | Array) -> Array:
    """Return the matrices of right-handed rotations about one axis."""
    unit = np.asarray(axis) / np.linalg.norm(axis)
    return Rotation.from_rotvec(np.multiply.outer(degrees, unit), degrees=True).as_matrix()


@dataclass(frozen=True)
class Instrument:
    """Beam and flat detector; `origin` (m) is the outer corner of pixel (0, 0) in the lab."""

    wavelength: float  # Å
    pixel_size: float  # m
    shape: tuple[int, int]  # slow, fast
    origin: Array  # m
    fast: Array  # unit vector
    slow: Array  # unit vector

    @property
    def k(self) -> float:
        """Wave number 2π/λ in 1/Å."""
        return 2 * np.pi / self.wavelength

    def point(self, slow: Array, fast: Array) -> Array:
        """Return the lab position (m) of continuous pixel coordinates."""
        steps = np.multiply.outer(fast, self.fast) + np.multiply.outer(slow, self.slow)
        return self.origin + self.pixel_size * steps

    def pixel(self, start: Array, direction: Array) -> tuple[Array, Array, Array]:
        """Return slow, fast and path (m) of rays from `start` (m); NaN where a ray misses."""
        normal = np.cross(self.fast, self.slow)
        with np.errstate(divide="ignore", invalid="ignore"):
            path = ((self.origin - start) @ normal) / (direction @ normal)
        path = np.where(path > 0, path, np.nan)
        r = (start + path[:, None] * direction - self.origin) / self.pixel_size
        return r @ self.slow, r @ self.fast, path


@dataclass(frozen=True)
class Scan:
    """One rotation: R(f) = rotation(axis, start + f step) · setting."""

    axis: Array  # lab, at all angles
    start: float  # degrees
    step: float  # degrees per frame
    n_frames: int
    setting: Array  # other goniometer axes, as one rotation matrix

    def R(self, frame: Array) -> Array:
        """Return the goniometer's matrices at continuous frames."""
        return rotation(self.axis, self.start + np.asarray(frame) * self.step) @ self.setting


@dataclass
class Motion:
    """Departures from an ideal rotation. Vectors of the crystal hold in the frame of U.

    The time t runs from 0 at the first frame of the first scan to 1 after the last scan. The
    crystal's rotation is wobble(lab) · R(frame) · slips · drift · U B h; its position in the lab
    is R(frame) offset + t beam_shift.
    """

    slips: list[tuple[int, float, Array]] = field(default_factory=list)  # scan, frame, degrees
    drifts: list[Array] = field(default_factory=list)  # rotation vectors at t = 1, degrees
    wobbles: list[tuple[Array, float, int, float]] = field(default_factory=list)
    """Lab axis, amplitude (degrees), periods per 360°, phase (degrees)."""
    offset: Array = field(default_factory=lambda: np.zeros(3))  # m
    beam_turn: Array = field(default_factory=lambda: np.zeros(3))  # rotation vector at t = 1, deg
    beam_shift: Array = field(default_factory=lambda: np.zeros(3))  # m at t = 1
    strain: Array = field(default_factory=lambda: np.zeros(6))  # relative change of cell at t = 1


@dataclass(frozen=True)
class Family:
    """Reflections of one kind: positions in the main reciprocal lattice, rotated by T."""

    position: Array  # (n, 3) in units of a*, b*, c*
    hkl: Array  # (n, 3) labels
    strength: Array  # |F|², arbitrary scale
    origin: int
    T: Array = field(default_factory=lambda: np.eye(3))  # applied between R(frame) and U
    gamma: Array | float = 0.0  # additional standard deviation in Q, 1/Å


@dataclass(frozen=True)
class Sample:
    """True crystal, instrument and motion of a measurement."""

    instrument: Instrument
    scans: tuple[Scan, ...]
    motion: Motion
    cell: Array
    U: Array
    mosaic: float  # standard deviation, degrees

    def state(self, r: int, frame: Array) -> tuple[Array, Array, Array, Array]:
        """Return rotation, UB, beam vector (1/Å) and crystal position (m) at frames of scan r."""
        scan, m = self.scans[r], self.motion
        frame = np.atleast_1d(np.asarray(frame, float))
        t = ((r + frame / scan.n_frames) / len(self.scans))[:, None]
        R = scan.R(frame)
        turn = R
        for axis, amplitude, periods, phase in m.wobbles:
            angle = np.radians(periods * (scan.start + frame * scan.step) + phase)
            turn = rotation(axis, amplitude * np.sin(angle)) @ turn
        for r_slip, f_slip, vector in m.slips:
            after = (r > r_slip) | ((r == r_slip) & (frame >= f_slip))
            turn = turn @ Rotation.from_rotvec(after[:, None] * vector, degrees=True).as_matrix()
        for vector in m.drifts:
            turn = turn @ Rotation.from_rotvec(t * vector, degrees=True).as_matrix()
        UB = self.U @ busing_levy(self.cell * (1 + t * m.strain))
        k = self.instrument.k * Rotation.from_rotvec(t * m.beam_turn, degrees=True).apply([0, 0, 1])
        return turn, UB, k, R @ m.offset + t * m.beam_shift

    def crossings(self, r: int, h: Array, T: Array) -> tuple[Array, NDArray[np.int64]]:
        """Return frames at which h passes the Ewald sphere in scan r, and the index of h."""
        slips = [f for r_slip, f, _ in self.motion.slips if r_slip == r]
        nodes = np.arange(self.scans[r].n_frames + 1.0)
        nodes = np.sort(np.r_[nodes, [f + d for f in slips for d in (-1e-6, 1e-6)]])
        turn, UB, k, _ = self.state(r, nodes)
        M = turn @ T @ UB
        S, v = np.swapaxes(M, 1, 2) @ M, np.einsum("mi,mij->mj", k, M)
        i, j = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 2, 1, 2, 2])
        factors = np.c_[S[:, i, j] * np.where(i == j, 1, 2), 2 * v]
        found = []
        for first in range(0, len(h), 4000):
            part = h[first : first + 4000]
            F = factors @ np.c_[part[:, i] * part[:, j], part].T
            change = (F[:-1] * F[1:] < 0) & (np.diff(nodes) > 1e-3)[:, None]
            node, index = np.nonzero(change)
            found.append((node, index + first, F[node, index], F[node + 1, index]))
        node, index, F0, F1 = (np.concatenate(c) for c in zip(*found, strict=True))
        return self._root(r, h[index], T, nodes[node], nodes[node + 1], F0, F1), index

    def _root(
        self, r: int, h: Array, T: Array, f0: Array, f1: Array, F0: Array, F1: Array
    ) -> Array:
        """Return the root of |k + Q|² − k² within each bracket (Illinois method)."""
        f = f0
        for _ in range(13):
            f = np.clip(f1 - F1 * (f1 - f0) / np.where(F1 == F0, 1, F1 - F0), f0, f1)
            F = self.misfit(r, f, h, T)
            low = F * F0 > 0
            F1, F0 = (
                np.where(low, F1 / 2, F),
                np.where(low, F, F0 / 2),
            )
            f0, f1 = np.where(low, f, f0), np.where(low, f1, f)
        return f

    def misfit(self, r: int, frame: Array, h: Array, T: Array) -> Array:
        """Return |k + Q|² − k² in 1/Å²."""
        turn, UB, k, _ = self.state(r, frame)
        Q = np.einsum("nij,nj->ni", turn @ T @ UB, h)
        return np.sum(Q * (Q + 2 * k), axis=1)

    def spots(self, family: Family) -> Rows:
        """Return the true spots of a family in all scans; intensity on the family's scale."""
        tables = []
        for r, scan in enumerate(self.scans):
            frame, index = self.crossings(r, family.position, family.T)
            turn, UB, k, start = self.state(r, frame)
            Q = np.einsum("nij,nj->ni", turn @ family.T @ UB, family.position[index])
            beam, s = k / self.instrument.k, (k + Q) / self.instrument.k
            slow, fast, path = self.instrument.pixel(start, s)
            slow0, fast0, _ = self.instrument.pixel(start, beam)
            cross = np.cross(s, beam)
            lorentz = np.abs(cross @ scan.axis)  # rad of Ewald misfit per rad of rotation
            zeta = lorentz / np.linalg.norm(cross, axis=1)
            gamma = np.broadcast_to(family.gamma, len(family.hkl))[index] / self.instrument.k
            on_frames = np.hypot(self.mosaic / zeta, np.degrees(gamma / lorentz)) / abs(scan.step)
            on_pixels = np.hypot(SPOT, gamma * path / self.instrument.pixel_size)
            rows: Rows = {
                "frame": frame,
                "slow": slow,
                "fast": fast,
                "width_frame": on_frames,
                "width_slow": on_pixels,
                "width_fast": on_pixels,
                "intensity": family.strength[index] / lorentz,
                "q": np.linalg.norm(Q, axis=1),
                "hkl": family.hkl[index],
                "origin": np.full(len(index), family.origin),
                "rotation": np.full(len(index), r),
            }
            keep = (zeta > MIN_ZETA) & (np.hypot(slow - slow0, fast - fast0) > BEAM_STOP)
            tables.append(select(rows, keep & self.recorded(r, rows)))
        return join(tables)

    def recorded(self, r: int, rows: Rows) -> NDArray[np.bool_]:
        """Return True where a spot lies inside the detector and the scan, and not across a slip."""
        scan, (n_slow, n_fast) = self.scans[r], self.instrument.shape
        reach = 2 * rows["width_frame"]
        keep = (rows["frame"] > reach) & (rows["frame"] < scan.n_frames - reach)
        keep &= rows["width_frame"] < scan.n_frames / 8
        for name, n in (("slow", n_slow), ("fast", n_fast)):
            edge = 2 * rows[f"width_{name}"]
            keep &= (rows[name] > edge) & (rows[name] < n - edge)
        for r_slip, f_slip, _ in self.motion.slips:
            if r_slip == r:
                keep &= np.abs(rows["frame"] - f_slip) > reach
        return keep


def select(rows: Rows, which: NDArray[np.generic]) -> Rows:
    """Return some rows of a table, by mask or index."""
    return {name: column[which] for name, column in rows.items()}


def join(tables: Sequence[Rows]) -> Rows:
    """Return tables with the same columns as one table."""
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


def merge_overlaps(rows: Rows) -> Rows:
    """Return the table with unresolved spots as one spot each.

    Two spots are unresolved where their distance is below the sum of their standard deviations
    in the norm of the ellipsoid. The hkl and origin are the strongest spot's; `merged` counts.
    """
    names = ("frame", "slow", "fast")
    x = np.stack([rows[n] for n in names], 1)
    w = np.stack([rows[f"width_{n}"] for n in names], 1)
    tree = cKDTree(np.c_[x[:, 1:], rows["rotation"] * 1e6])
    i, j = tree.query_pairs(2 * w[:, 1:].max(), output_type="ndarray").T
    close = np.sum(((x[i] - x[j]) / (w[i] + w[j])) ** 2, axis=1) < 1
    n = len(x)
    graph = coo_array((np.ones(close.sum()), (i[close], j[close])), shape=(n, n))
    count, group = connected_components(graph, directed=False)
    weight = np.asarray(rows["intensity"], float)
    total = np.bincount(group, weight, count)
    order = np.lexsort((-weight, group))
    merged = select(rows, order[np.unique(group[order], return_index=True)[1]])
    for c, name in enumerate(names):
        mean = np.bincount(group, weight * x[:, c], count) / total
        second = weight * (w[:, c] ** 2 + (x[:, c] - mean[group]) ** 2)
        merged[name] = mean
        merged[f"width_{name}"] = np.sqrt(np.bincount(group, second, count) / total)
    return merged | {"intensity": total, "merged": np.bincount(group, minlength=count)}


def pixelation_variance(width: Array) -> Array:
    """Return the variance (pixels²) of a centroid because a Gaussian is binned into pixels.

    The bias is a sine series in the centre's position, Σ (−1)ⁿ exp(−2π²n²w²) sin(2πnx) / πn;
    its mean square is 1/12 for a spot within one pixel or frame and vanishes above 0.5 pixels.
    """
    n = np.arange(1, 30)[:, None]
    return np.sum(np.exp(-((2 * np.pi * n * width) ** 2)) / n**2, axis=0) / (2 * np.pi**2)


def observe(rows: Rows, rng: np.random.Generator, floor: tuple[float, float] = (0, 0)) -> Rows:
    """Return the measured table: counts drawn, centroids displaced by their stated variance.

    `background` (counts per voxel) must be in the table. `floor` is an additional standard
    uncertainty in frames and in pixels. Weak and saturated spots are left out. True centroids
    stay in true_frame, true_slow, true_fast.
    """
    names = ("frame", "slow", "fast")
    intrinsic = np.stack([rows[f"width_{n}"] for n in names])
    width = np.sqrt(intrinsic**2 + 1 / 12)
    under = rows["background"] * np.prod(np.maximum(1, 6 * width), axis=0)
    counts = rng.poisson(np.minimum(rows["intensity"], 1e9)) + rng.normal(0, np.sqrt(under))
    keep = (counts >= MIN_COUNTS) & (counts <= MAX_COUNTS)
    keep &= counts >= MIN_SIGNIFICANCE * np.sqrt(np.maximum(counts, 0) + under)
    measured, counts, under = select(rows, keep), counts[keep], under[keep]
    for name, w, w0, least in zip(
        names, width[:, keep], intrinsic[:, keep], (floor[0], floor[1], floor[1]), strict=True
    ):
        variance = w**2 / counts + under * (3 * w) ** 2 / 3 / counts**2
        variance += pixelation_variance(w0) + least**2
        measured[f"true_{name}"] = rows[name][keep]
        measured[name] = rng.normal(measured[f"true_{name}"], np.sqrt(variance))
        measured[f"var_{name}"], measured[f"width_{name}"] = variance, w
    return measured | {"intensity": counts, "var_intensity": counts + under}


def operations(symbol: str) -> tuple[NDArray[np.int64], Array]:
    """Return rotations (n, 3, 3) and translations (n, 3) of a space group, with its centring."""
    group = gemmi.find_spacegroup_by_name(symbol).operations()
    ops = list(group)
    W = np.array([op.rot for op in ops]) // gemmi.Op.DEN
    return W, np.array([op.tran for op in ops]) / gemmi.Op.DEN


def is_absent(symbol: str, hkl: Array, *, centring: bool = False) -> NDArray[np.bool_]:
    """Return True for systematic absences (h W = h and h·w not an integer), or the centring's."""
    absent = np.zeros(len(hkl), bool)
    for W, w in zip(*operations(symbol), strict=True):
        if not w.any() or (centring and np.any(np.eye(3) != W)):
            continue
        phase = hkl @ w
        absent |= np.all(hkl @ W == hkl, axis=1) & (np.abs(phase - np.round(phase)) > 1e-6)
    return absent


def wilson(symbol: str, hkl: Array, seed: int) -> Array:
    """Return |F|² of mean 1, exponentially distributed and equal for Laue-equivalent hkl."""
    W = np.unique(operations(symbol)[0], axis=0)
    code = np.array([1 << 40, 1 << 20, 1])
    codes = np.round(hkl).astype(np.int64) @ (W @ code).T
    z = np.abs(codes).max(axis=1).astype(np.uint64) + np.uint64(seed * 2_654_435_769 % 2**61)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    return -np.log((z.astype(float) + 1) / 2.0**64) * ~is_absent(symbol, np.round(hkl))


def reflections(B: Array, q_max: float) -> Array:
    """Return all integer hkl with 0 < |B h| < q_max (1/Å)."""
    limits = np.floor(q_max * np.linalg.norm(np.linalg.inv(B), axis=1)).astype(int)
    axes = [np.arange(-n, n + 1) for n in limits]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(float)
    q = np.linalg.norm(hkl @ B.T, axis=1)
    return hkl[(q > 0) & (q < q_max)]


def ice_rings() -> tuple[Array, Array]:
    """Return |Q| (1/Å) and strength of the strong powder rings of ice Ih."""
    hkl = np.array(
        [[1, 0, 0], [0, 0, 2], [1, 0, 1], [1, 0, 2], [1, 1, 0], [1, 0, 3], [2, 0, 0], [1, 1, 2]]
    )
    strength = np.array([100, 54, 55, 22, 47, 35, 7, 34.0])
    B = busing_levy(np.array([4.497, 4.497, 7.322, 90, 90, 120]))
    return np.linalg.norm(hkl @ B.T, axis=1), strength


def aluminium_rings() -> tuple[Array, Array]:
    """Return |Q| (1/Å) and strength of the powder rings of aluminium."""
    hkl = np.array([[1, 1, 1], [2, 0, 0], [2, 2, 0], [3, 1, 1], [2, 2, 2], [3, 3, 1], [4, 2, 0]])
    strength = np.array([100, 47, 22, 24, 7, 8, 8.0])
    return 2 * np.pi / 4.0495 * np.linalg.norm(hkl, axis=1), strength


def copper_rings(contraction: float) -> tuple[Array, Array]:
    """Return |Q| (1/Å) and strength of the powder rings of copper, by the metal's temperature."""
    hkl = np.array([[1, 1, 1], [2, 0, 0], [2, 2, 0], [3, 1, 1], [2, 2, 2], [3, 3, 1], [4, 2, 0]])
    strength = np.array([100, 46, 20, 17, 5, 9, 8.0])
    return 2 * np.pi / 3.615 / (1 - contraction) * np.linalg.norm(hkl, axis=1), strength


def diamond_rings() -> tuple[Array, Array]:
    """Return |Q| (1/Å) and strength of the powder rings of diamond: h + k + l = 2 mod 4 absent."""
    hkl = np.array([[1, 1, 1], [2, 2, 0], [3, 1, 1], [4, 0, 0], [3, 3, 1], [4, 2, 2]])
    strength = np.array([100, 25, 16, 8, 16, 10.0])
    return 2 * np.pi / 3.567 * np.linalg.norm(hkl, axis=1), strength


def powder_spots(
    sample: Sample, q_rings: Array, strength: Array, n: int, rng: np.random.Generator
) -> Rows:
    """Return n grains' spots at random places of the detector on powder rings of |Q| (1/Å)."""
    inst, tables, have = sample.instrument, [], 0
    q_rings, strength = q_rings[q_rings < 1.9 * inst.k], strength[q_rings < 1.9 * inst.k]
    while have < n and len(tables) < 50:
        m = 4 * n + 50
        r = rng.integers(len(sample.scans), size=m)
        ring = rng.choice(len(q_rings), size=m, p=strength / strength.sum())
        theta2 = 2 * np.arcsin(q_rings[ring] / 2 / inst.k)
        angle = rng.uniform(0, 2 * np.pi, m)
        s = np.stack([np.sin(theta2) * np.cos(angle), np.sin(theta2) * np.sin(angle)])
        s = np.vstack([s, np.cos(theta2)]).T
        slow, fast, _ = inst.pixel(np.zeros(3), s)
        rows = loose_spots(sample, slow, fast, r, rng) | {
            "q": q_rings[ring],
            "origin": np.full(m, 4),
        }
        keep = np.zeros(m, bool)
        for k in range(len(sample.scans)):
            keep |= (r == k) & sample.recorded(k, rows)
        tables.append(select(rows, keep))
        have += int(keep.sum())
    return select(join(tables), np.arange(min(n, have)))


def loose_spots(
    sample: Sample, slow: Array, fast: Array, r: NDArray[np.int64], rng: np.random.Generator
) -> Rows:
    """Return spots without a lattice, at uniform frames, of 30 to 3000 counts (origin 3)."""
    m = len(slow)
    frames = np.array([s.n_frames for s in sample.scans])[r]
    s = sample.instrument.point(slow, fast)
    cosine = s[:, 2] / np.linalg.norm(s, axis=1)
    return {
        "frame": rng.uniform(0, frames),
        "slow": slow,
        "fast": fast,
        "width_frame": rng.uniform(0.1, 1.5, m),
        "width_slow": SPOT * rng.uniform(0.4, 1.5, m),
        "width_fast": SPOT * rng.uniform(0.4, 1.5, m),
        "intensity": 30 * 100 ** (rng.uniform(0, 1, m) ** 2),
        "q": sample.instrument.k * np.sqrt(2 - 2 * cosine),
        "hkl": np.full((m, 3), np.nan),
        "origin": np.full(m, 3),
        "rotation": r,
    }
