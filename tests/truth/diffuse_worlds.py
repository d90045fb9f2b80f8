"""Volumes with diffuse scattering of three kinds of disorder, and with none, from physics alone.

* sheets: chains along [uvw] that are ordered along themselves only. S depends on u h + v k + w l.
* rods: layers that are ordered within themselves, at random on each other. S depends on two
  coordinates, of two vectors in the layer, and is constant along the normal of the layers.
* points: short-range order in three directions, at the zone boundary or incommensurate.

Correlations fall as exp(-n d/ξ) along each vector of the direct lattice (Markov chains): the line
shape is ``sinh x/(cosh x - cos 2π(c·h - u))``, x = d/ξ. Intensities go with a structure factor
of two or three atoms, a form factor, and the mean over the Laue group (domains). Everything else is
no feature: thermal diffuse scattering ∝ Q²/q² around reflections (with elastic anisotropy), smooth
Compton-like background, powder rings with texture, gaps, a beamstop, holes at the reflections.

This module uses nothing of hklflow; operations of Laue groups are those of `feature_worlds`.
"""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from tests.truth.feature_worlds import laue_ops, reciprocal

CELLS = {
    "Pm-3m": (4.0, 4.0, 4.0, 90.0, 90.0, 90.0),
    "P6/mmm": (4.6, 4.6, 6.1, 90.0, 90.0, 120.0),
    "P4/mmm": (3.9, 3.9, 5.2, 90.0, 90.0, 90.0),
    "P2/m": (5.1, 4.2, 6.0, 90.0, 104.0, 90.0),
    "P-3m1": (4.2, 4.2, 6.6, 90.0, 90.0, 120.0),
}
SYSTEMS = {
    "Pm-3m": "cubic",
    "P6/mmm": "hexagonal",
    "P4/mmm": "tetragonal",
    "P2/m": "monoclinic",
    "P-3m1": "trigonal",
}
# Vectors of the direct lattice along which S depends on Q, for each shape and group.
_AXES = {
    "cubic": {
        "sheet": [[(0, 0, 1)], [(1, 1, 0)], [(1, 1, 1)]],
        "rod": [[(1, 0, 0), (0, 1, 0)], [(1, -1, 0), (0, 1, -1)], [(0, 0, 1), (1, -1, 0)]],
    },
    "other": {
        "sheet": [[(0, 0, 1)], [(1, 0, 0)], [(0, 1, 0)]],
        "rod": [[(1, 0, 0), (0, 1, 0)], [(0, 1, 0), (0, 0, 1)]],
    },
}


@dataclass
class DiffuseWorld:
    """One volume. Arrays are [h, k, l]; S and sigma are NaN where nothing was measured."""

    group: str
    cell: tuple[float, ...]
    axes: list[np.ndarray]
    S: np.ndarray
    sigma: np.ndarray
    truth: list[dict[str, Any]] = field(default_factory=list)
    resolution: np.ndarray = field(default_factory=lambda: np.zeros(3))
    counts: float = 0.0
    clean: np.ndarray = field(default_factory=lambda: np.zeros(0))


def chain(
    x: float, phase: np.ndarray, c: np.ndarray, sigma: np.ndarray, step: np.ndarray
) -> np.ndarray:
    """Line of a Markov chain with d/ξ = x, convolved with resolution and voxel (Fourier series)."""
    n = np.arange(1, int(min(12 / x, 80)) + 2)
    size = np.exp(-n * x) * np.exp(-2 * np.pi**2 * n**2 * np.sum((c * sigma) ** 2))
    for ci, si in zip(c, step, strict=True):
        size = size * np.sinc(n * ci * si)
    # On a fine grid of one period.
    fine = np.linspace(0, 1, 8001)
    line = (1 + 2 * np.cos(2 * np.pi * np.outer(fine, n)) @ size) * np.tanh(x / 2)
    return np.interp(phase % 1.0, fine, line)


def draw(rng: np.random.Generator, shape: str, group: str, d: float) -> dict[str, Any]:
    """Draw a feature: covectors, place in their coordinates, widths."""
    system = SYSTEMS[group]
    kind = "cubic" if system == "cubic" else "other"
    q = float(rng.uniform(0.2, 0.4))
    if shape == "point":
        c = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
        places = [(0.5, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0, 0), (q, 0, 0), (0, 0, q), (q, q, 0)]
        if system in ("hexagonal", "trigonal"):
            places = [(1 / 3, 1 / 3, 0), (1 / 3, 1 / 3, 0.5), (0.5, 0, 0), (q, 0, 0), (0, 0, q)]
        u = places[rng.integers(len(places))]
    elif shape == "rod":
        choices = _AXES[kind]["rod"]
        c = choices[rng.integers(len(choices))]
        places = [(0.5, 0.5), (0.5, 0.0), (q, 0.0), (0.0, 0.0)]
        if system in ("hexagonal", "trigonal") and c == [(1, 0, 0), (0, 1, 0)]:
            places = [(1 / 3, 1 / 3), (0.5, 0.0), (q, 0.0)]
        u = places[rng.integers(len(places))]
    else:
        choices = _AXES[kind]["sheet"]
        c = choices[rng.integers(len(choices))]
        u = [(0.5,), (q,)][rng.integers(2)]
    xi = d * np.exp(rng.uniform(np.log(2.0), np.log(12.0)))  # from two cell edges on
    return {"shape": shape, "c": np.array(c, float), "u": np.array(u, float), "x": d / xi}


def intensity(feature: dict[str, Any], ops: list[np.ndarray], hkl: list[np.ndarray],
              atoms: list[tuple[float, np.ndarray]], sigma: np.ndarray,
              step: np.ndarray) -> np.ndarray:  # fmt: skip
    """Laue mean of |F|² times the lines: domains with each orientation, q and -q alike."""
    total: Any = 0.0
    for w in ops:
        x = [sum(w[i, j] * hkl[j] for j in range(3)) for i in range(3)]
        part: Any = 0.0
        for b, r in atoms:
            turns = 2j * np.pi * (r @ w)
            part = part + b * (
                np.exp(turns[0] * hkl[0]) * np.exp(turns[1] * hkl[1]) * np.exp(turns[2] * hkl[2])
            )
        line: Any = np.abs(part) ** 2
        for c, u in zip(feature["c"], feature["u"], strict=True):
            own = c @ w
            line = line * chain(
                feature["x"], sum(c[i] * x[i] for i in range(3)) - u, own, sigma, step
            )
        total = total + line
    return total


def world(seed: int, shapes: tuple[str, ...], counts: float, largest: int = 101) -> DiffuseWorld:
    """Return a volume with a feature of each of the shapes; with none if there are none."""
    rng = np.random.default_rng([seed, len(shapes), sum(map(ord, "".join(shapes))), 29])
    group = list(CELLS)[seed % len(CELLS)]
    cell, ops = CELLS[group], laue_ops(group)
    b = 2 * np.pi * reciprocal(cell)
    metric = b.T @ b
    sizes = [(61, 3.0), (61, 3.0), (81, 2.0), (81, 4.0), (101, 2.5), (101, 5.0)]
    sizes = [size for size in sizes if size[0] <= largest]
    n, limit = sizes[rng.integers(len(sizes))]
    axes = [np.round(np.linspace(-limit, limit, n), 9)] * 3
    hkl = np.meshgrid(*axes, indexing="ij", sparse=True)

    def square(x: list[np.ndarray]) -> np.ndarray:
        return sum(metric[i, j] * x[i] * x[j] for i in range(3) for j in range(3))

    q = np.sqrt(np.maximum(square(hkl), 0))
    step = np.full(3, axes[0][1] - axes[0][0])
    resolution = rng.uniform(0.2, 0.6) * step
    d = 2 * np.pi / np.sqrt(metric[0, 0])
    atoms = [(1.0, np.zeros(3))]
    atoms += [(rng.uniform(0.3, 1.0), rng.uniform(-0.3, 0.3, 3)) for _ in range(rng.integers(1, 3))]
    falls = np.exp(-rng.uniform(0.01, 0.03) * q**2)
    background = (0.3 + 0.7 * (1 - np.exp(-(q**2) / 30))) * rng.uniform(0.8, 1.2)
    u = hkl[0] * 0.6 + hkl[1] * 0.5 + hkl[2] * 0.6
    for _ in range(rng.integers(1, 3)):
        ring, height = rng.uniform(2.0, 6.0), rng.uniform(0.1, 1.0)
        texture = 1 + 0.3 * ((u / (np.abs(u).max())) ** 2 - 1 / 3)
        background = background + height * texture * np.exp(-(((q - ring) / 0.05) ** 2))
    # Thermal diffuse scattering of one acoustic branch around each reflection.
    anisotropy = rng.uniform(0, 6)
    tds: Any = 0.0
    nodes = range(-int(limit) - 1, int(limit) + 2)
    strength: dict[tuple[int, ...], float] = {}
    for g in product(nodes, repeat=3):
        if g not in strength:
            value = 10 ** rng.uniform(-1.5, 0)
            for w in ops:
                strength[tuple(int(v) for v in w @ np.array(g))] = value
        away = [x - y for x, y in zip(hkl, g, strict=True)]
        near = square(away) + 0.003 * metric[0, 0]
        cross = sum((metric[i, i] * away[i] ** 2) * (metric[j, j] * away[j] ** 2)
                    for i, j in ((0, 1), (0, 2), (1, 2)))  # fmt: skip
        gq = float(np.array(g) @ metric @ np.array(g))
        tds = tds + strength[g] * gq * np.exp(-0.02 * gq) / (
            near * (1 + anisotropy * cross / near**2)
        )
    tds = tds * rng.uniform(0.02, 0.2) * np.median(background) / np.median(tds)
    clean = background + tds
    truth = []
    for shape in shapes:
        feature = draw(rng, shape, group, d)
        line = intensity(feature, ops, hkl, atoms, resolution, step) * falls
        peak = np.percentile(line, {"sheet": 97, "rod": 99, "point": 99.8}[shape])
        feature["height"] = rng.uniform(0.3, 1.5)
        clean = clean + feature["height"] * np.median(background) * line / peak
        truth.append(feature)
    cover = np.exp(rng.uniform(-0.4, 0.4) * hkl[0] / limit + 0.3 * np.cos(hkl[1] * hkl[2]))
    norm = counts / np.median(clean) * cover
    normal = rng.normal(size=3)
    normal /= np.linalg.norm(normal)
    plane = sum(normal[i] * hkl[i] for i in range(3)) - rng.uniform(-1, 1)
    measured = (np.abs(plane) > 0.1) & (q > 0.4)
    near = sum((x - np.rint(x)) ** 2 for x in hkl)
    measured &= near > 0.12**2
    n_counts = rng.poisson(norm * clean).astype(float)
    smooth = np.maximum(n_counts, 1.0) if counts > 20 else norm * clean
    with np.errstate(invalid="ignore"):
        s = np.where(measured, n_counts / norm, np.nan)
        sigma = np.where(measured, np.sqrt(smooth) / norm, np.nan)
    return DiffuseWorld(group, cell, axes, s, sigma, truth, resolution, counts, clean)
