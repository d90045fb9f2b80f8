"""Simulate the counts of a superlattice reflection against temperature, with plain numpy.

Nothing of hklflow is imported, and the curves are not those of the fit: saturation is that of the
mean-field equation of a two-level system, first order is the Landau polynomial 2-4-6, critical
scattering is an Ornstein-Zernike peak that is integrated in a sphere. `OTHERS` are curves of other
models: a soft mode with zero-point motion, mean fields of spins 1 to 5/2, the continuous Landau
polynomial 2-4-6, and the three-dimensional Ising model.
"""

from dataclasses import dataclass

import numpy as np

TRANSITIONS = ("power law", "saturating", "critical", "static", "bad scan", "first order", "step")
OTHERS = ("soft mode", "spins", "Landau", "lattice")
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


def spins(x: np.ndarray, spin: float) -> np.ndarray:
    """Return m² of the mean field of a spin: m is Brillouin's function of 3 S m / ((S + 1) x)."""
    m, wide = np.where(x < 1, 1.0, 0.0), 1 + 0.5 / spin
    for _ in range(2000):
        y = np.maximum(3 * spin / (spin + 1) * m / x, 1e-6)
        m = wide / np.tanh(wide * y) - 0.5 / spin / np.tanh(0.5 * y / spin)
    return np.where(x < 1, m**2, 0.0)


def soft_mode(x: np.ndarray, theta: float) -> np.ndarray:
    """Return η² of a Landau polynomial 2-4 whose mode has zero-point motion; θ over T_c."""

    def energy(y: np.ndarray | float) -> np.ndarray:
        return theta / np.tanh(theta / y)

    return np.clip(energy(1.0) - energy(x), 0, None)


def lattice(x: np.ndarray) -> np.ndarray:
    """Return m² of Ising spins on a simple cubic lattice.

    Near T_c: Talapov & Blöte, J. Phys. A 29, 5727 (1996); below 0.6 T_c the series of low
    temperatures in u = exp(-4 J / kT).
    """
    t = np.clip(1 - x, 1e-9, 0.4)
    near = t**0.32694109 * (1.6919045 - 0.34357731 * t**0.50842026 - 0.42572366 * t)
    u = np.exp(-4 * 0.2216544 / x)
    far = 1 - 2 * u**3 - 12 * u**5 + 14 * u**6 - 90 * u**7 + 192 * u**8
    return np.where(x < 0.6, far, np.where(x < 1, near, 0.0)) ** 2


def critical(x: np.ndarray, reach: float, nu: float = 0.5, ratio: float = 2**0.5) -> np.ndarray:
    """Return the Ornstein-Zernike intensity in a sphere, 1 at T_c; κ = reach |1 - x|^ν.

    Below T_c κ is larger by ``ratio``.
    """
    kappa = reach * np.abs(1 - x) ** nu * np.where(x < 1, ratio, 1.0) + 1e-9
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
    kinds = NULLS if null else TRANSITIONS + OTHERS
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
        elif kind == "spins":
            signal = spins(x, float(rng.choice([1, 1.5, 2.5]))) ** exponent
        elif kind == "soft mode":
            signal = soft_mode(x, rng.uniform(0.2, 1.6)) ** exponent
        elif kind == "Landau":  # between 1 and 1/2: no exponent is the true one
            exponent = None
            u = float(np.exp(rng.uniform(np.log(0.1), np.log(30))))
            signal = np.sqrt(1 + u * np.clip(1 - x, 0, None)) - 1
        elif kind == "lattice":
            exponent = 2 * 0.32694109
            signal = lattice(x)
        else:
            signal = np.clip(1 - x, 0, None) ** exponent
        signal = strongest * signal / max(signal.max(), 1e-9)
        if kind == "critical":
            other = rng.uniform(0.03, 0.2) * strongest * critical(x, rng.uniform(2, 6))
        if kind == "lattice":
            other = rng.uniform(0.0, 0.2) * strongest * critical(x, rng.uniform(1, 6), 0.63, 1.96)
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
