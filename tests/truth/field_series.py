"""Simulate the counts of a superlattice reflection along a field, with plain numpy.

Nothing of hklflow is imported. Reflections appear above B_c, or vanish there; their intensity is a
power law of the distance from B_c, the root of a field-induced moment that saturates, or a step.
"""

from dataclasses import dataclass

import numpy as np

KINDS = ("power law", "quadratic", "saturating", "critical", "static", "bad scan", "step")
NULLS = ("absent", "static", "drift", "slip", "bad scan", "magnetostriction")


@dataclass(frozen=True)
class FieldSeries:
    """One reflection, scan by scan; arrays (n,), as those of `order_series.Series`."""

    kind: str
    above: bool
    read: np.ndarray
    sigma: np.ndarray
    counts: np.ndarray
    factor: np.ndarray
    off: np.ndarray
    ratio: np.ndarray
    b_c: float | None
    exponent: float | None


def draw(seed: int, kind: str, null: bool = False, scans: int | None = None) -> FieldSeries:
    """Return the series of a seed; a ``null`` has no transition."""
    rng = np.random.default_rng([seed, (NULLS if null else KINDS).index(kind), int(null), 77])
    n = int(rng.integers(8, 26)) if scans is None else scans
    low, high = float(rng.choice([0.0, 0.0, -2.0])), float(rng.uniform(6, 14))
    true = np.sort(np.linspace(low, high, n) + rng.uniform(-0.02, 0.02, n) * (high - low))
    true = np.clip(true, low, high)
    above = bool(rng.random() < 0.5)
    strongest = float(np.exp(rng.uniform(np.log(30), np.log(1000))))
    b_c = exponent = None
    signal, other = np.zeros(n), np.zeros(n)
    if not null:
        b_c = float(rng.uniform(low + 0.3 * (high - low), low + 0.7 * (high - low)))
        distance = np.clip(true - b_c if above else b_c - true, 0, None)
        exponent = float(rng.choice([0.5, 0.66, 1.0, 1.4]))
        if kind == "step":
            exponent, signal = None, (distance > 0).astype(float)
        elif kind == "quadratic":  # even in the field
            square = np.clip((true**2 - b_c**2) * (1 if above else -1), 0, None)
            signal = np.where(distance > 0, square, 0.0) ** exponent
        elif kind == "saturating":
            signal = np.tanh(2 * distance / (high - low)) ** exponent
        else:
            signal = distance**exponent
        signal = strongest * signal / max(signal.max(), 1e-9)
        if kind == "critical":
            kappa = 8 * np.abs((true - b_c) / (high - low)) ** 0.63 + 1e-9
            other = 0.1 * strongest * (1 - kappa * np.arctan(1 / kappa))
    if kind == "static" or (null and kind != "absent"):
        other = other + strongest * (1.0 if null else rng.uniform(0.05, 1))
    if kind == "magnetostriction":  # a smooth change without a transition
        other = other * (1 + rng.uniform(-0.3, 0.3) * (true / high) ** 2)
    scale = 1 + rng.uniform(-0.1, 0.1) * np.linspace(-1, 1, n)
    if kind == "drift":
        scale = 1 + rng.uniform(-0.3, 0.3) * np.linspace(-1, 1, n) ** int(rng.integers(1, 4))
    if kind == "slip":
        scale = np.where(np.arange(n) < rng.integers(2, n - 1), scale, rng.uniform(0.5, 0.9))
    bad = np.ones(n)
    if kind == "bad scan":
        bad[rng.integers(1, n - 1)] = rng.choice([0.0, 0.3, 0.5, 2.0, 3.0])
    level, ratio = float(np.exp(rng.uniform(np.log(0.5), np.log(30)))), float(rng.uniform(3, 10))
    sigma = float(rng.choice([0.0, 0.01, 0.05]))
    return FieldSeries(
        kind=kind,
        above=above,
        read=true + sigma * rng.standard_normal(n),
        sigma=np.full(n, sigma),
        counts=rng.poisson(scale * bad * (signal + other + level)),
        factor=scale * np.exp(0.01 * rng.standard_normal(n)),
        off=rng.poisson(scale * bad * level * ratio),
        ratio=np.full(n, ratio),
        b_c=b_c,
        exponent=exponent,
    )
