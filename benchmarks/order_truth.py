"""Order parameters of simulated temperature series: coverage, pulls, answers, false claims.

python -m benchmarks.order_truth [develop|held] [TRANSITIONS NULLS] [others]

`develop` has seeds with which the fit was chosen (from 0), `held` others, run once at the end. A
transition counts as determined by the data if the counts expected on the true curve differ from
those of the best parabola by a log-likelihood ratio of 12.5 (five standard deviations), if two
scans are below T_c and two above, and if the Fisher matrix of T_c, exponent, amplitude and
background gives T_c to 10 % of the range (not for a jump). `others` draws the transitions from
curves of other models (`order_series.OTHERS`); only the soft mode is one of the fit.
"""

import sys
import time
from collections import Counter

import numpy as np
from tests.truth.order_series import FIRST, NULLS, OTHERS, TRANSITIONS, Series, draw

from hklflow.bragg import order_counts, order_parameter

SCALE_ERROR = 0.01
HELD = 100_000  # first seed that was not used to choose the fit
LEAST = 12.5  # log-likelihood ratio of five standard deviations


def fitted(series: Series) -> order_parameter.Order:
    """Return what the program says."""
    return order_parameter.fit(
        order_counts.from_boxes(
            series.read,
            series.sigma_t,
            series.counts,
            series.factor,
            series.off,
            series.ratio,
            SCALE_ERROR,
        )
    )


def is_determined(series: Series) -> bool:
    """Return True if counts of the true curve determine T_c; independent of the program."""
    under = series.read < series.t_c
    if min(under.sum(), (~under).sum()) < 2:
        return False
    mean = series.mean + 1e-9
    level = series.off / series.ratio + 1e-9
    # Against the best smooth curve: a positive parabola, fitted by expectation maximisation.
    x = (series.read - series.read.min()) / np.ptp(series.read)
    rows = series.factor[:, None] * np.stack([(1 - x) ** 2, 2 * x * (1 - x), x**2], axis=1)
    heights = np.full(3, (mean - level).sum() / rows.sum())
    for _ in range(2000):
        smooth = rows @ heights + level
        heights = heights * (rows.T @ (mean / smooth)) / rows.sum(axis=0)
    smooth = rows @ heights + level
    ratio = float(np.sum(mean * np.log(mean / smooth) - mean + smooth))
    if ratio < LEAST:
        return False
    if series.exponent is None:
        return True
    t, k = series.read, series.factor
    scale = series.expected.max() / max((1 - t.min() / series.t_c), 1e-9) ** series.exponent

    def curve(p: np.ndarray) -> np.ndarray:
        return k * (p[2] * np.clip(1 - t / p[0], 0, None) ** p[1] + p[3])

    at = np.array([series.t_c, series.exponent, scale, 1.0])
    step = np.diag(np.array([0.2, 0.01, 0.01 * scale, 0.1]))
    slope = np.array([(curve(at + s) - curve(at - s)) / (2 * s.max()) for s in step])
    fisher = (slope / (mean + series.off / series.ratio**2)) @ slope.T
    sigma = np.sqrt(np.linalg.pinv(fisher)[0, 0])
    return bool(sigma < 0.1 * np.ptp(t))


def main() -> None:
    """Print the figures of all kinds."""
    part = HELD if "held" in sys.argv else 0
    kinds = OTHERS if "others" in sys.argv else TRANSITIONS
    n, n_null = (int(x) for x in sys.argv[2:4]) if len(sys.argv) > 3 else (100, 150)
    start = time.process_time()
    rows, tally = [], Counter()
    for i in range(n):
        series = draw(part + i // len(kinds), kinds[i % len(kinds)])
        order, known = fitted(series), is_determined(series)
        tally["determined"] += known
        tally["determined and answered"] += known and order.t_c is not None
        tally["answered"] += order.t_c is not None
        wrong = "continuous" if series.kind in FIRST else "first order"
        tally["order claimed"] += order.kind != "not determined"
        tally["wrong order"] += order.kind == wrong
        if order.kind == wrong:
            print("wrong order", series.kind, i, f"{order.kind_ratio:.1f}")
        if known and order.t_c is None:
            print("not answered", series.kind, i, order.answer, f"{order.ratio:.1f}")
        if order.t_c is not None:
            rows.append((series, order))
            if abs(order.t_c.value - series.t_c) > 2.5 * order.t_c.sigma:
                print("far", series.kind, i, f"{series.t_c:.1f} {series.exponent}", order.t_c.value)
    for name, select in {
        "all": lambda s: True,
        "12 temperatures or more": lambda s: len(s.read) >= 12,
        **{kind: (lambda s, kind=kind: s.kind == kind) for kind in kinds},
    }.items():
        these = [(s, order) for s, order in rows if select(s)]
        if these:
            print(f"{name}: T_c " + _coverage([(s.t_c, order.t_c) for s, order in these]))
            powers = [
                (s.exponent, order.exponent)
                for s, order in these
                if order.exponent is not None and s.exponent is not None
            ]
            if powers:
                print(f"{name}: exponent " + _coverage(powers))
    print(dict(tally), f"of {n}")
    claims, ratios = Counter(), []
    for i in range(n_null):
        series = draw(part + i // len(NULLS), NULLS[i % len(NULLS)], null=True)
        order = fitted(series)
        claims[order.answer] += 1
        ratios.append(order.ratio)
        if order.answer == "transition":
            print("false claim", series.kind, i, f"{order.ratio:.1f}")
    largest = ", ".join(f"{x:.1f}" for x in sorted(ratios)[-5:])
    print(f"without a transition: {dict(claims)} of {n_null}; largest ratios {largest}")
    print(f"{time.process_time() - start:.0f} s of CPU")


def _coverage(pairs: list) -> str:
    inner = [x.inner[0] <= true <= x.inner[1] for true, x in pairs]
    outer = [x.outer[0] <= true <= x.outer[1] for true, x in pairs]
    pulls = np.array([(x.value - true) / x.sigma for true, x in pairs])
    return (
        f"{len(pairs)}: 68 % covers {np.mean(inner):.0%}, 95 % covers {np.mean(outer):.0%}, "
        f"pulls {pulls.mean():+.2f} ± {pulls.std():.2f}"
    )


if __name__ == "__main__":
    main()
