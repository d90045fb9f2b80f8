"""Simulate the counts of a superlattice reflection against temperature, with plain numpy.

Nothing of hklflow is imported, and the curves are not those of the fit: saturation is that of the
mean-field equation of a two-level system, first order is the Landau polynomial 2-4-6, critical
scattering is an Ornstein-Zernike peak that is integrated in a sphere.
"""

from dataclasses import dataclass

import numpy as np

TRANSITIONS = ("power law", "saturating", "critical", "static", "bad scan", "first order", "step")
NULLS = ("absent", "static", "drift", "slip", "bad scan", "Debye-Waller", "all")
FIRST = ("first order", "step")


@dataclass(frozen=True)
class Series:
    """One reflection, scan by scan; all arrays have the shape (n,).

    ``counts`` of the box expect ``factor · intensity + background``, ``off`` expects
    ``ratio · background``. ``read`` is the temperature that the sensor shows.
    """

    kind: str
    read: np.ndarray
    sigma_t: np.ndarray
    counts: np.ndarray
    factor: np.ndarray
    off: np.ndarray
    ratio: np.ndarray
    t_c: float | None
    exponent: float | None
    expected: np.ndarray  # true counts of the transition alone
    mean: np.ndarray  # true counts of the box


def two_level(x: np.ndarray) -> np.ndarray:
    """Return m of m = tanh(m / x) at x = T / T_c, by iteration; 0 above T_c."""
    m = np.where(x < 1, np.sqrt(np.clip(3 * (1 - x), 0, 1)), 0.0)
    for _ in range(400):
        m = np.where(x < 1, np.tanh(m / np.maximum(x, 1e-9)), 0.0)
    return m


def landau(x: np.ndarray, d: float) -> np.ndarray:
    """Return η² of the polynomial 2-4-6 with T_0 = (1 - d) T_c, 1 at T = 0."""

    def square(y: np.ndarray) -> np.ndarray:
        return 1 + np.sqrt(np.clip(1 - 0.75 * (y - 1 + d) / d, 0.25, None))

    return np.where(x < 1, square(x) / square(np.zeros(1)), 0.0)


def critical(x: np.ndarray, reach: float) -> np.ndarray:
    """Return the Ornstein-Zernike intensity in a sphere, 1 at T_c; κ = reach |1 - x|^½."""
    kappa = reach * np.sqrt(np.abs(1 - x) * np.where(x < 1, 2.0, 1.0)) + 1e-9
    return 1 - kappa * np.arctan(1 / kappa)


def temperatures(rng: np.random.Generator, t_c: float | None, n: int) -> np.ndarray:
    """Return n temperatures, in half of the series denser about T_c."""
    low, high = rng.uniform(10, 90), rng.uniform(250, 320)
    t = np.linspace(low, high, n)
    if t_c is not None and rng.random() < 0.5:
        near = np.linspace(max(low, t_c - 40), min(high, t_c + 25), n - n // 2)
        t = np.concatenate([np.linspace(low, high, n // 2), near])
    return np.sort(t + rng.uniform(-1, 1, n))


def draw(seed: int, kind: str, null: bool = False, scans: int | None = None) -> Series:
    """Return the series of a seed; a ``null`` has no transition."""
    kinds = NULLS if null else TRANSITIONS
    rng = np.random.default_rng([seed, kinds.index(kind), int(null)])
    n = int(rng.integers(6, 26)) if scans is None else scans
    t_c = None if null else float(rng.uniform(110, 230))
    true = temperatures(rng, t_c, n)
    strongest = float(np.exp(rng.uniform(0, np.log(300))))  # counts of the coldest scan
    exponent = None if null or kind in FIRST else float(rng.choice([0.5, 0.66, 0.8, 1.0, 1.4, 2.0]))
    signal, other = np.zeros(n), np.zeros(n)
    if t_c is not None:
        x = true / t_c
        if kind == "first order":
            signal = landau(x, float(np.exp(rng.uniform(np.log(0.04), np.log(0.5)))))
        elif kind == "step":
            signal = np.where(x < 1, 1.0, 0.0)
        elif kind == "saturating":
            signal = two_level(x) ** (2 * exponent)
        else:
            signal = np.clip(1 - x, 0, None) ** exponent
        signal = strongest * signal / max(signal.max(), 1e-9)
        if kind == "critical":
            other = rng.uniform(0.03, 0.2) * strongest * critical(x, rng.uniform(2, 6))
    if kind in ("static", "Debye-Waller", "drift", "slip", "all") or (null and kind == "bad scan"):
        other = other + np.full(n, strongest * (1.0 if null else rng.uniform(0.05, 1)))
    if kind in ("Debye-Waller", "all"):
        other = other * np.exp(-rng.uniform(0.1, 0.5) * true / 300)
    # The beam and the crystal: known from the main reflections to 1 %.
    scale = 1 + rng.uniform(-0.1, 0.1) * np.linspace(-1, 1, n)
    if kind in ("drift", "all"):
        scale = 1 + rng.uniform(-0.3, 0.3) * np.linspace(-1, 1, n) ** int(rng.integers(1, 4))
    if kind in ("slip", "all"):
        scale = np.where(np.arange(n) < rng.integers(2, n - 1), scale, rng.uniform(0.5, 0.9))
    factor = scale * np.exp(0.01 * rng.standard_normal(n))
    bad = np.ones(n)
    if kind in ("bad scan", "all"):
        bad[rng.integers(1, n - 1)] = rng.choice([0.0, 0.3, 0.5, 2.0, 3.0])
    level = float(np.exp(rng.uniform(np.log(0.5), np.log(30))))
    ratio = float(rng.uniform(3, 10))
    mean = scale * bad * (signal + other + level)
    sigma_t = float(rng.choice([0.0, 0.1, 0.5]))
    return Series(
        kind=kind,
        read=true + sigma_t * rng.standard_normal(n),
        sigma_t=np.full(n, sigma_t),
        counts=rng.poisson(mean),
        factor=factor,
        off=rng.poisson(scale * bad * level * ratio),
        ratio=np.full(n, ratio),
        t_c=t_c,
        exponent=exponent,
        expected=scale * bad * signal,
        mean=mean,
    )
