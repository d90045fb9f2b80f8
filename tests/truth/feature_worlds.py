# ruff: noqa
"""Temperature series of reciprocal-space volumes with diffuse features, from physics.

Units: lengths Å, angles degrees, |Q| = 2π/d in 1/Å, h k l and resolution in reciprocal-lattice units (r.l.u.), T in K,
S in arbitrary units per voxel (density), integrated intensities in S·r.l.u.^d, d = 3 (point), 2 (rod), 1 (sheet).

S(Q,T) = scale(T) · { amp(T) F(Q,T) Σ_copies P(Q−q) + background + TDS + Bragg }, convolved with a Gaussian resolution and
averaged over the voxel. P is periodic in the reciprocal lattice, has ∫P = 1 over one cell (sum rule) and is even:
* 'chain': product over the free axes of sinh x/(cosh x − cos 2πΔ), x = d/ξ (Markov chain: correlations exp(−n d/ξ) exactly);
* 'oz': 1/(1 + Σ_b w_b (2/(2π)²)(1 − cos 2πb·Δ)), bonds b chosen so that for small Δ it is 1/(1 + |ξ δQ|²), normalised.
d = 1/a*_i is the plane spacing of axis i. ξ_i = 1/κ_i, κ_i the half width measured ALONG THE RECIPROCAL AXIS i (= along the
direct axis if the cell is orthogonal there). For ξ of about d the lattice half width differs from 1/ξ: truth.hwhm is exact.
F = form factor² · Debye-Waller · |structure factor|² of the ordering atoms, averaged over the Laue group (domains).
"""

from __future__ import annotations
from dataclasses import dataclass, field
from itertools import product
import time
from typing import Any
import numpy as np
from scipy import ndimage, special

Arr = np.ndarray
FREE = {"point": 3, "rod": 2, "sheet": 1, "none": 0}
# space group: (Laue group, crystal system, generators acting on (h, k, l) besides the inversion)
_HEX6, _SW, _TW = (
    [[0, -1, 0], [1, 1, 0], [0, 0, 1]],
    [[0, 1, 0], [1, 0, 0], [0, 0, -1]],
    [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
)
_R3, _R4 = [[0, 0, 1], [1, 0, 0], [0, 1, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
_H3 = (np.array(_HEX6) @ np.array(_HEX6)).tolist()
GROUPS: dict[str, tuple[str, str, list]] = {
    "Pm-3m": ("m-3m", "cubic", [_R3, _R4]),
    "Pm-3": ("m-3", "cubic", [_R3, _TW]),
    "P4/mmm": ("4/mmm", "tetragonal", [_R4, _TW]),
    "P4/m": ("4/m", "tetragonal", [_R4]),
    "P6/mmm": ("6/mmm", "hexagonal", [_HEX6, _SW]),
    "P6/m": ("6/m", "hexagonal", [_HEX6]),
    "P-3m1": ("-3m1", "hexagonal", [_H3, _SW]),
    "P-3": ("-3", "hexagonal", [_H3]),
    "Pmmm": ("mmm", "orthorhombic", [_TW, [[-1, 0, 0], [0, -1, 0], [0, 0, 1]]]),
    "P2/m": ("2/m", "monoclinic", [_TW]),
    "P-1": ("-1", "triclinic", []),
}
SYSTEMS = ["cubic", "tetragonal", "hexagonal", "orthorhombic", "monoclinic", "triclinic"]


@dataclass
class Truth:
    """What is true at one temperature. Per-axis arrays have 3 entries, NaN on axes along which the feature is uniform."""

    xi: Arr  # Å, 1/κ along reciprocal axes (primary family of copies; the others follow by the Laue group)
    hwhm: Arr  # exact half width of the intrinsic line along each free axis, r.l.u. (NaN: never falls to a half)
    q: Arr  # position, r.l.u. (primary copy; NaN on the axes that are not free)
    intensity: float  # ∫ amp·P over one copy where F = 1, S·r.l.u.^d, without the scale error
    copies: Arr  # (n, 3) centres of all copies in the box, r.l.u. (NaN on axes that are not free)
    copy_intensity: Arr  # (n,) intensity · F(centre), S·r.l.u.^d; for rods and sheets F is averaged over the box along them
    present: bool  # False: no feature at this temperature
    scale: float  # factor by which the measured S is wrong at this temperature (1 = right)
    significance: float  # of the feature, if everything else and its shape were known: sqrt(Σ signal²/variance)
    clean: Arr  # expected S without noise, with resolution and scale error


@dataclass
class Series:
    """One temperature series. S, sigma, measured are lists over temperature of arrays [h, k, l]; S and sigma NaN in gaps."""

    cell: tuple[float, ...]  # a b c (Å) α β γ (degrees)
    space_group: str
    laue: str
    h: Arr  # r.l.u., voxel centres
    k: Arr
    l: Arr
    temperatures: Arr  # K
    S: list[Arr]
    sigma: list[Arr]
    measured: list[Arr]
    truth: list[Truth]
    info: dict[str, Any] = field(
        default_factory=dict
    )  # model, law, axes, resolution σ (r.l.u.) at Q=0 and growth, bad scan …


def laue_ops(space_group: str) -> list[Arr]:
    """All Laue operations W, acting as (h k l)ᵀ → W (h k l)ᵀ."""
    gens = [np.array(g) for g in GROUPS[space_group][2]] + [-np.eye(3, dtype=int)]
    ops = {tuple(np.eye(3, dtype=int).ravel())}
    while True:
        new = ops | {tuple((g @ np.reshape(o, (3, 3))).ravel()) for o in ops for g in gens}
        if len(new) == len(ops):
            return [np.reshape(o, (3, 3)) for o in sorted(new)]
        ops = new


def reciprocal(cell: tuple[float, ...]) -> Arr:
    """B (1/Å, without 2π): columns a*, b*, c* in Cartesian axes."""
    a, b, c = cell[:3]
    ca, cb, cg = np.cos(np.radians(cell[3:]))
    sg = np.sqrt(1 - cg**2)
    cy = (ca - cb * cg) / sg
    direct = np.array(
        [[a, 0, 0], [b * cg, b * sg, 0], [c * cb, c * cy, c * np.sqrt(1 - cb**2 - cy**2)]]
    )
    return np.linalg.inv(direct)


class World:
    """All drawn constants of one series and the functions that give its scattering."""

    def __init__(self, seed: int, kind: str) -> None:
        rng = self.rng = np.random.default_rng([seed, sorted(FREE).index(kind), 20240611])
        self.kind, self.nfree = kind, FREE[kind]
        system = SYSTEMS[(seed + rng.integers(2)) % 6]
        self.sg = str(rng.choice([g for g in GROUPS if GROUPS[g][1] == system]))
        self.ops = laue_ops(self.sg)
        a, b, c = rng.uniform(3.6, 8.0, 3)
        b, c = (float(np.clip(v, a / 1.7, a * 1.7)) for v in (b, c))
        be, al, ga = rng.uniform(94, 112), *rng.uniform(82, 98, 2)
        self.cell = tuple(
            float(np.round(v, 4))
            for v in {
                "cubic": (a, a, a, 90, 90, 90),
                "tetragonal": (a, a, c, 90, 90, 90),
                "hexagonal": (a, a, c, 90, 90, 120),
                "orthorhombic": (a, b, c, 90, 90, 90),
                "monoclinic": (a, b, c, 90, be, 90),
                "triclinic": (a, b, c, al, min(be, 100), ga),
            }[system]
        )
        self.B = reciprocal(self.cell)
        self.G = self.B.T @ self.B  # reciprocal metric, 1/Å² (no 2π)
        self.d = 1 / np.sqrt(np.diag(self.G))  # plane spacings, Å
        self.nT = int(rng.integers(6, 21))
        self.T = np.sort(
            np.round(np.linspace(rng.uniform(10, 150), rng.uniform(250, 500), self.nT), 1)
        )
        # free axes of the primary family, line shape, anisotropy of ξ allowed by the symmetry
        special_axis = {"cubic": [2], "tetragonal": [2, 0], "hexagonal": [2]}.get(system, [0, 1, 2])
        axis = int(rng.choice(special_axis))
        self.free = {3: (0, 1, 2), 2: tuple(i for i in range(3) if i != axis), 1: (axis,), 0: ()}[
            self.nfree
        ]
        self.model = (
            "oz" if (rng.random() < 0.5 or system == "hexagonal") and self.nfree > 1 else "chain"
        )
        r = rng.uniform(0.5, 2.0, 3)
        groups = {
            "cubic": [0, 0, 0],
            "tetragonal": [0, 0, 2],
            "hexagonal": [0, 0, 2],
            "orthorhombic": [0, 1, 2],
            "monoclinic": [0, 1, 0],
            "triclinic": [0, 0, 0],
        }[system]
        self.ratio = r[groups] / r[groups][list(self.free) or [0]].min()
        if self.model == "oz" and min(w for _, w in self._bonds(self.free, self.ratio)) < 0:
            self.model = "chain"  # the bond weights would not be a physical (positive) stiffness
        self._draw_position(system)
        self._draw_grid()
        self._draw_temperature_laws()
        self._cache: dict[tuple, Arr] = {}
        # ordering atoms: F = Σ b_j [Q·u_j] exp(2πi h·r_j); form factor; Debye-Waller B(T) in Å²
        self.atoms = [
            (
                rng.choice([-1, 1]) * rng.uniform(0.4, 1),
                rng.uniform(-0.25, 0.25, 3),
                rng.normal(size=3),
            )
            for _ in range(rng.integers(2, 4))
        ]
        self.displacive = bool(rng.random() < 0.5)
        self.ff, self.B300 = rng.uniform(0.005, 0.03), rng.uniform(0.3, 2.0)
        self.dw = self.B300 * (0.3 + 0.7 * self.T / 300) * 2 / (4 * np.pi) ** 2  # 2W/Q², Å²
        self._F: Arr | None = None
        self.factor(0, *self.hkl)
        self.background = rng.uniform(0.03, 1.0) ** 1.5 * rng.dirichlet([1, 1, 1, 1])
        # Bragg: one strength per Laue orbit, over four orders
        lo, hi = (
            [int(np.floor(x[0])) - 2 for x in self.axes],
            [int(np.ceil(x[-1])) + 2 for x in self.axes],
        )
        self.bragg: dict[tuple[int, ...], float] = {}
        for g in product(*(range(i, j + 1) for i, j in zip(lo, hi))):
            if g not in self.bragg and any(g):
                val = 10 ** rng.uniform(-4, 0)
                self.bragg.update({tuple(int(v) for v in W @ np.array(g)): val for W in self.ops})
        self.bragg = {
            g: v for g, v in self.bragg.items() if all(i <= n <= j for i, n, j in zip(lo, g, hi))
        }
        self.bragg_peak, self.tds = 10 ** rng.uniform(1, 3.5), 10 ** rng.uniform(-2, -0.3)

    def _draw_position(self, system: str) -> None:
        """q (r.l.u.) of the primary copy, its movement, and all copies: {free axes: [q …]} under the Laue group."""
        rng, nan = self.rng, -1.0  # −1 marks the free parameter δ
        lists = {
            3: [
                (0.5, 0.5, 0.5),
                (0.5, 0.5, 0),
                (0.5, 0, 0),
                (nan, 0, 0),
                (0, 0, nan),
                (0.5, 0.5, nan),
                (nan, nan, 0),
            ],
            2: [(0.5, 0.5), (0.5, 0), (nan, 0), (nan, nan)],
            1: [(0.5,), (nan,)],
            0: [()],
        }[self.nfree]
        if system == "hexagonal" and self.nfree > 1:
            lists = [q for q in lists if q[:2] != (0.5, 0.5)] + [(1 / 3, 1 / 3, 0)[: self.nfree]]
        if rng.random() < 0.1:
            lists = [(0.0,) * self.nfree]  # hard: on the Bragg reflections
        if moving := bool(rng.random() < 1 / 3) and self.nfree > 0:
            lists = {
                3: [(nan, 0, 0), (0, 0, nan), (nan, nan, 0)],
                2: [(nan, 0), (nan, nan)],
                1: [(nan,)],
            }[self.nfree]
        self.pattern = lists[rng.integers(len(lists))]
        delta = rng.uniform(0.16, 0.40) + np.zeros(self.nT)
        if moving:
            delta += (
                rng.choice([-1, 1])
                * rng.uniform(0.03, 0.10)
                * (self.T - self.T.mean())
                / np.ptp(self.T)
            )
        self.delta, self.moving = delta, moving

    def q_primary(self, t: int) -> Arr:
        q = np.zeros(3)
        for i, v in zip(self.free, self.pattern):
            q[i] = self.delta[t] if v == -1 else v
        return q

    def families(self, t: int) -> dict[tuple[int, ...], list[Arr]]:
        """{free axes: positions q (r.l.u. modulo 1)} of all symmetry copies within one reciprocal cell."""
        out: dict[tuple[int, ...], dict[tuple, Arr]] = {}
        for W in self.ops if self.nfree else []:
            lone = (
                self.free if self.nfree == 1 else [i for i in range(3) if i not in self.free]
            )  # the sheet's normal or the rod's axis
            free = tuple(
                i
                for i in range(3)
                if (i in {int(np.argmax(np.abs(W[:, j]))) for j in lone}) == (self.nfree == 1)
            )
            q = W @ self.q_primary(t) % 1.0
            q[np.abs(q - 1) < 1e-9] = 0
            out.setdefault(free, {})[tuple(np.round(q, 8))] = q
        return {f: list(v.values()) for f, v in out.items()}

    def _draw_grid(self) -> None:
        rng, budget = self.rng, 61**3 * 8 / self.nT
        while True:
            step = rng.choice([0.02, 0.025, 0.04, 0.05, 0.0625, 0.08, 0.1], 3)
            n = np.round(rng.uniform(2, 4, 3) / step).astype(int) + 1
            if n.max() <= 101 and 0.25 * budget < n.prod() <= budget:
                break
        start = [rng.choice([-(m - 1) * s / 2, -0.5, 0.0, 0.37, 1.0]) for m, s in zip(n, step)]
        self.axes = [np.round(x0 + s * np.arange(m), 9) for x0, s, m in zip(start, step, n)]
        self.step = step
        self.res = rng.uniform(0.3, 1.5, 3) * step  # σ of the resolution at Q = 0, r.l.u.
        if self.nfree == 3:  # keeps the Fourier sums below 120³
            self.res = np.maximum(self.res, np.sqrt(np.maximum(0, 0.018**2 - step**2 / 12)))
        self.growth = (
            float(rng.uniform(0.2, 0.6)) if rng.random() < 0.5 else 0.0
        )  # σ(Q) = σ(0)(1 + growth (Q/Qmax)²)
        self.hkl = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        self.Qmax = float(self.Q(*self.hkl).max())

    def _draw_temperature_laws(self) -> None:
        """ξ along the axis of ratio 1 (Å) and amp(T)."""
        rng, T = self.rng, self.T
        self.law = str(rng.choice(["critical", "critical", "arrhenius", "constant", "disappears"]))
        f = list(self.free) or [0, 1, 2]
        res_A = (2 * np.pi / self.d * self.res * self.ratio)[
            f
        ].max()  # 1/Å, so that the sharpest axis obeys the limit
        small = rng.uniform(1, 2) * self.d[f].max()
        large = max(2 * small, 1 / (10 ** rng.uniform(np.log10(0.05), 0.3) * res_A))
        if self.law == "critical":  # mean field, ξ ∝ (T − T0)^−1/2
            T0 = (large**2 * T[0] - small**2 * T[-1]) / (large**2 - small**2)
            self.xi = small * np.sqrt((T[-1] - T0) / (T - T0))
        elif self.law == "arrhenius":  # ln ξ linear in 1/T
            self.xi = small * np.exp(
                np.log(large / small) * (1 / T - 1 / T[-1]) / (1 / T[0] - 1 / T[-1])
            )
        else:
            self.xi = np.full(T.size, np.exp(rng.uniform(np.log(small), np.log(large))))
        self.amp = (T / T[0]) ** -rng.choice([0.0, 0.0, 0.5, 1.0])
        if self.law == "disappears":
            Ts = T[0] + rng.uniform(0.4, 0.85) * np.ptp(T)
            self.amp = np.maximum(0, 1 - (T - T[0]) / (Ts - T[0])) ** rng.choice([0.5, 1.0])
        if self.nfree == 0:
            self.law, self.amp = "none", np.zeros(T.size)

    def _bonds(self, free: tuple[int, ...], xi: Arr) -> list[tuple[Arr, float]]:
        """Bond vectors (on the free axes) and weights with Σ w (b·Δ)² = Σ_ij g_ij ξ_i ξ_j Δ_i Δ_j (diagonally dominant split)."""
        M = self.G[np.ix_(free, free)] * np.outer(xi[list(free)], xi[list(free)]) * (2 * np.pi) ** 2
        n = len(free)
        bonds = [(np.eye(n)[i], M[i, i] - np.sum(np.abs(np.delete(M[i], i)))) for i in range(n)]
        return bonds + [
            (np.eye(n)[i] + np.sign(M[i, j]) * np.eye(n)[j], abs(M[i, j]))
            for i in range(n)
            for j in range(i)
            if abs(M[i, j]) > 1e-9 * M[i, i]
        ]

    def Q(self, h: Arr, k: Arr, l: Arr) -> Arr:
        """|Q| in 1/Å."""
        g = self.G
        return (
            2
            * np.pi
            * np.sqrt(
                np.maximum(
                    0,
                    g[0, 0] * h * h
                    + g[1, 1] * k * k
                    + g[2, 2] * l * l
                    + 2 * (g[0, 1] * h * k + g[0, 2] * h * l + g[1, 2] * k * l),
                )
            )
        )

    def line(self, t: int, free: tuple[int, ...], delta: list[Arr]) -> Arr:
        """Intrinsic P (no resolution) at distances delta (r.l.u., one array per free axis); 'oz' not normalised."""
        xi = self.xi[t] * self.ratio
        out: Any = 1.0
        if self.model == "chain":
            for x, y in zip((self.d / xi)[list(free)], delta):
                out = out * np.sinh(x) / (np.cosh(x) - np.cos(2 * np.pi * y))
            return np.asarray(out)
        for b, w in self._bonds(free, xi):
            out = out + w * 2 / (2 * np.pi) ** 2 * (
                1 - np.cos(2 * np.pi * sum(c * x for c, x in zip(b, delta) if c))
            )
        return np.asarray(1 / out)

    def correlations(self, t: int, free: tuple[int, ...], N: list[int]) -> Arr:
        """Pair correlations C(R), R in cells (FFT order, half of the last axis), C(0) = 1. 'chain': exact; 'oz': from cell averages on a
        grid of N points per reciprocal cell, by sub-sampling near the pole and by midpoint + second difference / 24 elsewhere."""
        n = len(free)
        R = [np.fft.fftfreq(M, 1 / M) for M in N[:-1]] + [np.arange(N[-1] // 2 + 1)]
        shaped = [r.reshape([-1 if j == i else 1 for j in range(n)]) for i, r in enumerate(R)]
        if self.model == "chain":
            return np.exp(
                -sum(
                    np.abs(r) * self.d[i] / (self.xi[t] * self.ratio[i])
                    for i, r in zip(free, shaped)
                )
            )
        mid = self.line(
            t, free, np.meshgrid(*(np.arange(M) / M for M in N), indexing="ij", sparse=True)
        ) * np.ones(N)
        P = mid + sum(np.roll(mid, 1, i) + np.roll(mid, -1, i) - 2 * mid for i in range(n)) / 24
        m = {2: 40, 3: 12}[n]
        sub = (np.arange(m) + 0.5) / m - 0.5
        for off in product(range(-3, 4), repeat=n):
            P[off] = self.line(
                t,
                free,
                np.meshgrid(*((o + sub) / M for o, M in zip(off, N)), indexing="ij", sparse=True),
            ).mean()
        C = np.fft.rfftn(P).real
        for r, M in zip(shaped, N):  # undo the average over the grid's own cell
            C = C / np.sinc(r / M)
        return C / C.ravel()[0]

    def resolved(self, t: int, axes: list[Arr], step: Arr, width: Arr) -> Arr:
        """Σ_copies P convolved with a Gaussian (σ = width, r.l.u.) and the voxel (step), on the grid of axes, from its Fourier series."""
        total: Arr = np.zeros([x.size for x in axes])
        tot = np.sqrt(self.res**2 + self.step**2 / 12)
        for free, qs in self.families(t).items():
            N = [2 * int(np.ceil(max(1 / tot[i], 32 if len(free) == 3 else 128))) for i in free]
            R = [np.fft.fftfreq(m, 1 / m) for m in N[:-1]] + [np.arange(N[-1] // 2 + 1)]
            if (key := (t, free, tuple(N))) not in self._cache:
                self._cache = {key: self.correlations(t, free, N)}
            damp = [
                np.exp(-2 * (np.pi * r * width[i]) ** 2) * np.sinc(r * step[i])
                for i, r in zip(free, R)
            ]
            keep = [np.flatnonzero(np.abs(c) > 3e-5) for c in damp]
            R, damp = [r[m] for r, m in zip(R, keep)], [c[m] for c, m in zip(damp, keep)]
            star: Any = 0  # Σ_q exp(−2πi R·q) is real, because the star has q and −q
            for q in qs:
                f = [np.exp(-2j * np.pi * r * q[i]) for i, r in zip(free, R)]
                star = (
                    star
                    + (
                        f[0]
                        if len(f) == 1
                        else np.outer(*f)
                        if len(f) == 2
                        else f[0][:, None, None] * np.outer(f[1], f[2])
                    ).real
                )
            p = self._cache[key][np.ix_(*keep)] * star
            damp[-1] = damp[-1] * (2 - (R[-1] == 0))  # the half of the last axis that is not stored
            for i, r, c in list(zip(free, R, damp))[
                ::-1
            ]:  # contract the last axis; the result moves to the front
                p = np.moveaxis(p @ (c[:, None] * np.exp(2j * np.pi * np.outer(r, axes[i]))), -1, 0)
            total += p.real.reshape([axes[i].size if i in free else 1 for i in range(3)])
        return total

    def factor(self, t: int, h: Arr, k: Arr, l: Arr) -> Arr:
        """F(Q,T): form factor², Debye-Waller, Laue-averaged |structure factor|² of the ordering atoms; max over the box 1 without DW."""
        debye = np.exp(-self.dw[t] * (s2 := self.Q(h, k, l) ** 2))
        if h is self.hkl[0] and self._F is not None:
            return self._F * debye
        out, half = 0.0, [W for W in self.ops if tuple(W.ravel()) > tuple(-W.ravel())]
        for W in half:
            x, F = [W[i, 0] * h + W[i, 1] * k + W[i, 2] * l for i in range(3)], 0.0
            for b, r, u in self.atoms:
                v = u @ self.B * 2 * np.pi
                pol = v[0] * x[0] + v[1] * x[1] + v[2] * x[2] if self.displacive else 1.0
                F = F + b * pol * np.exp(2j * np.pi * (r[0] * x[0] + r[1] * x[1] + r[2] * x[2]))
            out = out + np.abs(F) ** 2
        out = np.asarray(out * np.exp(-self.ff * s2))
        if self._F is None:  # the first call is for the box
            self.Fnorm = float(out.max())
            self._F = out / self.Fnorm
        return out / self.Fnorm * debye

    def feature(self, t: int) -> Arr:
        """amp F ΣP with resolution on the grid; F leaves the convolution to first order: F·P̃ + Σσ²∂F∂P̃. σ(Q) by 3 levels."""
        if self.amp[t] == 0:
            return np.zeros([x.size for x in self.axes])
        s, F = 1 + self.growth * (self.Q(*self.hkl) / self.Qmax) ** 2, self.factor(t, *self.hkl)
        levels = [1.0] if self.growth == 0 else [1.0, 1 + self.growth / 2, 1 + self.growth]
        P: Arr = np.zeros(F.shape)
        for a in levels:
            w = (
                np.prod([(s - b) / (a - b) for b in levels if b != a], axis=0)
                if len(levels) > 1
                else 1.0
            )
            P = P + w * self.resolved(t, self.axes, self.step, a * self.res)
        out = F * P
        for i in self.free:
            var = s**2 * self.res[i] ** 2 + self.step[i] ** 2 / 12
            out = out + var * np.gradient(F, self.step[i], axis=i) * np.gradient(
                P, self.step[i], axis=i
            )
        return np.asarray(self.amp[t] * np.maximum(out, 0))

    def rest(self, t: int) -> tuple[Arr, Arr, Arr]:
        """Smooth background; TDS; Bragg (units: the feature's maximum in the series = 1)."""
        Q, x = self.Q(*self.hkl), self.axes
        b = self.background
        bg = (
            b[0]
            + b[1] * np.exp(-(Q**2) / 12)
            + b[2] * (1 - np.exp(-(Q**2) / 40))
            + b[3] * np.exp(-(((Q - 2.2) / 0.6) ** 2))
        )
        bragg, tds = np.zeros(Q.shape), np.zeros(Q.shape)
        qc = (
            0.35 * 2 * np.pi * np.linalg.det(self.B) ** (1 / 3)
        )  # 1/Å, range of the acoustic branch
        for g, strength in self.bragg.items():
            gq = float(self.Q(*np.array(g, float)))
            I, sig = (
                strength * np.exp(-(self.dw[t] + self.ff) * gq**2),
                self.res * (1 + self.growth * (gq / self.Qmax) ** 2),
            )
            e = [
                np.diff(special.ndtr((np.append(v - st / 2, v[-1] + st / 2) - c) / w))
                / st
                * w
                * np.sqrt(2 * np.pi)
                for v, st, c, w in zip(x, self.step, g, sig)
            ]
            nz = [np.flatnonzero(v > 1e-12) for v in e]
            if all(v.size for v in nz):
                bragg[np.ix_(*nz)] += (
                    self.bragg_peak * I * np.einsum("i,j,k->ijk", *(v[m] for v, m in zip(e, nz)))
                )
            reach = (
                3.5 * qc / (2 * np.pi) / np.sqrt(1 / np.diag(np.linalg.inv(self.G)))
            )  # half box of the sphere, r.l.u.
            win = [np.flatnonzero(np.abs(v - c) < r) for v, c, r in zip(x, g, reach)]
            if all(v.size for v in win):
                r = (
                    self.Q(
                        *np.meshgrid(
                            *(v[m] - c for v, m, c in zip(x, win, g)), indexing="ij", sparse=True
                        )
                    )
                    + 1e-9
                )
                w = float(np.mean(2 * np.pi / self.d * np.sqrt(sig**2 + self.step**2 / 12)))
                smeared = (
                    np.sqrt(2) / (w * r) * special.dawsn(r / (np.sqrt(2) * w))
                )  # 1/r² convolved with a 3-D Gaussian
                tds[np.ix_(*win)] += I * smeared * np.exp(-(r**2) / (2 * qc**2))
        return bg, self.tds * self.T[t] / self.T[-1] * qc**2 * (Q / self.Qmax) ** 2 * tds, bragg


def truth_of(w: World, t: int, scale: float, unit: float, significance: float, clean: Arr) -> Truth:
    nan3 = np.full(3, np.nan)
    if w.nfree == 0:
        return Truth(
            nan3,
            nan3.copy(),
            nan3.copy(),
            0.0,
            np.zeros((0, 3)),
            np.zeros(0),
            False,
            scale,
            0.0,
            clean,
        )
    f, xi = list(w.free), nan3.copy()
    xi[f] = (w.xi[t] * w.ratio)[f]
    c = 2 - np.cosh(w.d / xi) if w.model == "chain" else 1 - 0.5 * (w.d / xi) ** 2
    with np.errstate(invalid="ignore"):
        hwhm = np.arccos(c) / (2 * np.pi)
    q, copies, F = nan3.copy(), [], []
    q[f] = w.q_primary(t)[f]
    for free, qs in w.families(t).items():
        for q0 in qs:
            runs = [
                [q0[i] + n for n in range(-6, 7) if w.axes[i][0] <= q0[i] + n <= w.axes[i][-1]]
                if i in free
                else [np.nan]
                for i in range(3)
            ]
            for centre in product(*runs):
                copies.append(centre)
                F.append(
                    w.factor(
                        t,
                        *np.meshgrid(
                            *([v] if i in free else w.axes[i] for i, v in enumerate(centre)),
                            indexing="ij",
                            sparse=True,
                        ),
                    ).mean()
                )
    return Truth(
        xi,
        hwhm,
        q,
        unit * w.amp[t],
        np.array(copies).reshape(-1, 3),
        unit * w.amp[t] * np.array(F),
        bool(w.amp[t] > 0),
        scale,
        significance,
        clean,
    )


def series(seed: int, kind: str) -> Series:
    """One series of kind 'point', 'rod', 'sheet' or 'none'.

    Noise: counts n ~ Poisson(norm·S), S = n/norm. sigma = sqrt(v)/norm, v = n if n ≥ 20, otherwise the rate pooled over the
    3³ measured neighbours, (Σn + 0.5)/Σnorm · norm, but at most n + 3√n + 3 (so that a Bragg tail does not raise it)."""
    w = World(seed, kind)
    rng = np.random.default_rng([seed, 77])
    feats = [w.feature(t) for t in range(w.nT)]
    top = max(float(f.max()) for f in feats) or 1.0
    unit = 10 ** rng.uniform(-1, 2)
    scale = 1 + (0.02 * rng.standard_normal(w.nT) if rng.random() < 0.5 else np.zeros(w.nT))
    if (bad := int(rng.integers(w.nT)) if rng.random() < 0.15 else None) is not None:
        scale[bad] *= rng.choice([0.7, 1.3])
    level = 10 ** rng.uniform(0, np.log10(300))  # counts at the level of the feature's maximum
    u = [(x - x.mean()) / np.ptp(x) for x in w.hkl]
    cover = np.exp(
        rng.uniform(-0.6, 0.6) * u[0]
        + rng.uniform(-0.6, 0.6) * u[1]
        + 0.3 * np.cos(7 * u[2] + 3 * u[0] * u[1])
    )
    out = Series(w.cell, w.sg, GROUPS[w.sg][0], *w.axes, w.T, [], [], [], [])
    normal, stop, ball = rng.normal(size=3), rng.uniform(0.2, 0.5), rng.uniform(-0.4, 0.4, 3)
    for t in range(w.nT):
        clean = unit * scale[t] * (feats[t] / top + sum(w.rest(t)))
        plane = (
            u[0] * normal[0]
            + u[1] * normal[1]
            + u[2] * normal[2]
            - 0.3 * np.linalg.norm(normal) * rng.uniform(-1, 1)
        )
        ok = (np.abs(plane) > 0.02 * np.linalg.norm(normal)) & (w.Q(*w.hkl) > stop)
        ok &= (u[0] - ball[0]) ** 2 + (u[1] - ball[1]) ** 2 + (u[2] - ball[2]) ** 2 > 0.08**2
        norm = np.where(ok, level / unit * cover, 0.0)
        n = rng.poisson(norm * clean).astype(float)
        pooled = (
            (ndimage.uniform_filter(n, mode="constant") * 27 + 0.5)
            / np.maximum(ndimage.uniform_filter(norm, mode="constant") * 27, 1e-12)
            * norm
        )
        v = np.where(n >= 20, n, np.minimum(pooled, n + 3 * np.sqrt(n) + 3))
        with np.errstate(invalid="ignore", divide="ignore"):
            out.S.append(np.where(ok, n / norm, np.nan))
            out.sigma.append(np.where(ok, np.sqrt(v) / norm, np.nan))
        out.measured.append(ok)
        out.truth.append(
            truth_of(
                w,
                t,
                float(scale[t]),
                unit / top,
                float(np.sqrt((norm * (unit * scale[t] * feats[t] / top) ** 2 / clean).sum())),
                clean,
            )
        )
    out.info = dict(
        seed=seed,
        kind=kind,
        model=w.model,
        law=w.law,
        free=w.free,
        moving=w.moving,
        pattern=w.pattern,
        res_sigma=w.res,
        res_growth=w.growth,
        Qmax=w.Qmax,
        counts_at_maximum=level,
        bad_scan=bad,
        feature_maximum=unit,
        displacive=w.displacive,
        families=w.families(0),
    )
    return out


def check(w: World) -> str:
    """The world's physics, by other routes than those that made it."""
    pts, sym = np.random.default_rng(1).uniform(-2, 2, (3, 400)), 0.0

    def true_s(x: Arr, t: int) -> Arr:
        return np.asarray(
            (
                1
                + sum(
                    w.line(t, f, [x[i] - q[i] for i in f])
                    for f, qs in w.families(t).items()
                    for q in qs
                )
            )
            * w.factor(t, *x)
        )

    for W in w.ops:
        sym = max(
            sym,
            float(np.abs(true_s(W @ pts, 0) / true_s(pts, 0) - 1).max()),
            float(np.abs(W.T @ w.G @ W - w.G).max()),
        )
    text = f"S and metric under Laue {sym:.0e}"
    if w.nfree == 0:
        return text
    t = int(np.argmin(np.abs(w.xi * w.ratio.max() / w.d.min() - 4)))  # a moderate ξ, sampled easily
    m, fam, qs, families = (
        {1: 4000, 2: 600, 3: 120}[w.nfree],
        w.free,
        w.families(t)[w.free],
        w.families,
    )
    grid = np.meshgrid(*(np.arange(m) / m for _ in fam), indexing="ij", sparse=True)
    fine = sum(w.line(t, fam, [x - q[i] for x, i in zip(grid, fam)]) for q in qs)
    mean = fine.mean() / len(qs)  # must be 1 for 'chain'; 'oz' is defined without norm
    width = np.maximum(w.res, 0.015)
    brute = ndimage.gaussian_filter(fine, [width[i] * m for i in fam], mode="wrap") / (
        mean if w.model == "oz" else 1
    )
    w.families = lambda t: {fam: qs}  # type: ignore[method-assign]
    fast = w.resolved(
        t,
        [np.arange(m) / m if i in fam else np.zeros(1) for i in range(3)],
        np.full(3, 1e-6),
        width,
    ).reshape(brute.shape)
    w.families = families  # type: ignore[method-assign]
    tr, x, widths = truth_of(w, t, 1, 1, 0, np.zeros(0)), np.linspace(0, 0.5, 200001), []
    for i in fam:
        y = w.line(t, fam, [x if n == i else np.zeros(1) for n in fam])
        half = float(x[np.argmax(y < y[0] / 2)]) or np.nan
        widths.append(f"{half / tr.hwhm[i]:.4f}, {half * 2 * np.pi / w.d[i] * tr.xi[i]:.3f}")
    return text + (
        f"; cell integral intrinsic {mean:.6f}, resolved {fast.mean() / len(qs):.6f}; Fourier − brute convolution "
        f"{np.abs(fast - brute).max() / brute.max():.0e} of the maximum; HWHM/analytic, HWHM·ξ: "
        + "; ".join(widths)
    )


if __name__ == "__main__":
    for kind in FREE:
        for seed in range(4):
            t0 = time.process_time()
            s, cpu = series(seed, kind), time.process_time() - t0
            x = [
                "abc"[i] + " " + " ".join(f"{tr.xi[i]:.1f}" for tr in s.truth)
                for i in s.info["free"]
            ]
            pull = np.concatenate(
                [((a - tr.clean) / b)[m] for a, b, m, tr in zip(s.S, s.sigma, s.measured, s.truth)]
            )
            print(
                f"{kind} {seed}: {s.space_group} {s.cell} {s.S[0].shape} T {s.temperatures[[0, -1]]} ×{s.temperatures.size} {s.info['model']} {s.info['law']}"
                f" q {s.truth[0].q} → {s.truth[-1].q} counts {s.info['counts_at_maximum']:.0f} bad {s.info['bad_scan']} cpu {cpu:.1f} s pull {pull.mean():.3f} ± {pull.std():.3f}"
            )
            print(
                "   T", *s.temperatures, "\n   ξ/Å", "; ".join(x), "\n  ", check(World(seed, kind))
            )
