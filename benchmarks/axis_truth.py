"""Coverage of transitions along a field and under pressure, from `tests.truth.field_series`.

Order parameters: counts along a field, of reflections that appear above B_c or vanish there. Cells:
Murnaghan's law for two directions, with and without a strain on one side of a pressure.

``python -m benchmarks.axis_truth SERIES FIRST`` draws SERIES seeds of each kind from FIRST on.
"""

import sys
import time

import numpy as np
from tests.truth import field_series
from tests.truth.field_series import FieldSeries

from hklflow.base.axis import Axis
from hklflow.bragg import expansion, order_along, order_counts
from hklflow.bragg.expansion import Expansion
from hklflow.bragg.order_parameter import Order

FIELD, PRESSURE = Axis("field", "B", "T"), Axis("pressure", "p", "GPa")
CELL = np.array([6.1, 6.1, 9.4, 90, 90, 90.0])


def fitted(of: FieldSeries) -> Order:
    """Fit one series along a field."""
    data = order_counts.from_boxes(of.read, of.sigma, of.counts, of.factor, of.off, of.ratio, 0.01)
    return order_along.fit(data, FIELD)


def orders(seeds: range) -> None:
    """Print claims without a transition, and coverage, pulls and sides with one."""
    nulls = [fitted(field_series.draw(s, kind, True)) for kind in field_series.NULLS for s in seeds]
    claims = sum(order.answer == "transition" for order in nulls)
    print(f"field, no transition: {claims} of {len(nulls)} series claim one")
    pulls, inner, outer, sides, exponents = [], [], [], [], []
    number = 0
    for kind in field_series.KINDS:
        for seed in seeds:
            of = field_series.draw(seed, kind)
            order, number = fitted(of), number + 1
            if order.t_c is None:
                continue
            sides.append(order.above == of.above)
            pulls.append((order.t_c.value - of.b_c) / order.t_c.sigma)
            inner.append(order.t_c.inner[0] <= of.b_c <= order.t_c.inner[1])
            outer.append(order.t_c.outer[0] <= of.b_c <= order.t_c.outer[1])
            if order.exponent is not None and of.exponent is not None:
                low, high = order.exponent.outer
                exponents.append(low <= of.exponent <= high)
    print(
        f"field, transition: {len(pulls)} of {number} have B_c, {sum(sides)} on the right side; "
        f"intervals cover {np.mean(inner):.0%} and {np.mean(outer):.0%}, pulls "
        f"{np.mean(pulls):+.2f} ± {np.std(pulls):.2f}; 95 % of the exponent covers "
        f"{np.mean(exponents):.0%} of {len(exponents)}"
    )


def pressed(seed: int, transition: bool) -> tuple[Expansion | None, float, float | None]:
    """Fit one series of cells; return also the true mean strain of a per GPa, and p_c."""
    rng = np.random.default_rng([5, seed, int(transition)])
    n = int(rng.integers(6, 20))
    p = np.sort(np.linspace(0, rng.uniform(3, 15), n) + rng.uniform(-0.05, 0.05, n))
    p -= p.min()
    sigma = float(np.exp(rng.uniform(np.log(1e-5), np.log(1e-4))))
    strains = []
    for _ in range(2):
        modulus, slope = rng.uniform(100, 600), rng.uniform(4, 30)
        strains.append(-np.log(1 + slope * p / modulus) / slope)
    p_c = None
    mean = 0.5 * (np.exp(2 * strains[0][-1]) - np.exp(2 * strains[0][0])) / p[-1]
    if transition:
        p_c = float(np.ptp(p) * rng.uniform(0.3, 0.7))
        above = bool(rng.random() < 0.7)
        distance = np.clip(p - p_c if above else p_c - p, 0, None) / np.ptp(p)
        size = rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(3e-3), np.log(1e-2)))
        power = rng.choice([0.0, 0.5, 0.66])
        strains[1] = strains[1] + size * np.where(distance > 0, distance**power, 0.0)
    cells = np.tile(CELL, (n, 1))
    cells[:, :2] *= np.exp(strains[0] + rng.normal(0, sigma, n))[:, None]
    cells[:, 2] *= np.exp(strains[1] + rng.normal(0, sigma, n))
    covariance = np.zeros((6, 6))
    covariance[:2, :2], covariance[2, 2] = (sigma * CELL[0]) ** 2, (sigma * CELL[2]) ** 2
    found = expansion.fit(p, cells, np.tile(covariance, (n, 1, 1)), cells[0], PRESSURE)
    return found, float(mean), p_c


def cells(seeds: range) -> None:
    """Print claims without a transition, and pulls of the compressibility and of p_c."""
    claims, pulls = 0, []
    for seed in seeds:
        found, mean, _ = pressed(seed, False)
        assert found is not None
        claims += found.t_c is not None
        pulls.append((found.mean[0] - mean) / np.sqrt(found.mean_covariance[0, 0]))
    print(
        f"pressure, no transition: {claims} of {len(seeds)} claim one; mean strain per GPa: pulls "
        f"{np.mean(pulls):+.2f} ± {np.std(pulls):.2f}"
    )
    places, outer = [], []
    for seed in seeds:
        found, _, p_c = pressed(seed, True)
        assert found is not None
        if found.t_c is not None and p_c is not None:
            places.append((found.t_c.value - p_c) / found.t_c.sigma)
            outer.append(found.t_c.outer[0] <= p_c <= found.t_c.outer[1])
    print(
        f"pressure, transition: {len(places)} of {len(seeds)} have p_c, 95 % covers "
        f"{np.mean(outer):.0%}, pulls {np.mean(places):+.2f} ± {np.std(places):.2f}"
    )


if __name__ == "__main__":
    number, first = (int(x) for x in sys.argv[1:3])
    started = time.process_time()
    cells(range(first, first + 5 * number))
    orders(range(first, first + number))
    print(f"{time.process_time() - started:.0f} s of CPU time")
