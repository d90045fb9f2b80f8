"""Correlation lengths of simulated diffuse features: coverage, pulls, limits.

python -m benchmarks.feature_truth [develop|held] [SERIES] [KIND ...]

`develop` has even seeds, with which the fit was chosen, `held` odd seeds from 29 on: 1 to 5 were
seen, and with 9 to 27 the factor of the errors was chosen. Of each series of
`tests.truth.feature_worlds` the coldest and hottest volumes are fitted, with all voxels of the
volume and the resolution of the world (``σ(0) (1 + growth (Q/Q_max)²)``). A pull is
(ln ξ - ln truth)/σ with half the interval of 68 % as σ.
"""

import sys
import time
from collections import Counter

import numpy as np
from tests.truth import feature_worlds as worlds
from tests.truth.feature_series import fitted


def main() -> None:
    """Print the figures."""
    held = "held" in sys.argv
    numbers = [int(x) for x in sys.argv[1:] if x.isdigit()]
    n = numbers[0] if numbers else 20
    kinds = [x for x in sys.argv[1:] if x in ("point", "rod", "sheet", "none")]
    verbose = "-v" in sys.argv
    rows, tally = [], Counter()
    start = time.process_time()
    for i in range(n):
        for kind in kinds or ("point", "rod", "sheet"):
            seed = 2 * (i + 14) + held if held else 2 * i
            series = worlds.series(seed, kind)
            before = time.process_time()
            chosen = [0, len(series.truth) - 1]
            along, fits = fitted(series, chosen)
            spent = time.process_time() - before
            for t, fit in fits.items():
                truth = series.truth[t]
                tally["seen" if fit.seen else "not seen"] += 1
                if not truth.present:
                    tally["false"] += fit.seen
                    continue
                if not fit.seen:
                    continue
                for number, xi in enumerate(fit.xi):
                    axis = int(np.argmax(np.abs(along.columns[:, along.first_of(number)])))
                    true = float(truth.xi[axis])
                    d = 2 * np.pi / along.length[along.first_of(number)]
                    res = series.info["res_sigma"][axis] * 2 * np.pi / d
                    row = {
                        "kind": kind,
                        "seed": seed,
                        "t": t,
                        "true": true,
                        "xi": xi,
                        "d": d,
                        "res": res,
                        "fit": fit,
                        "determined": fit.determined[number],
                        "model": series.info["model"],
                        "counts": series.info["counts_at_maximum"],
                        "pattern": series.info["pattern"],
                    }
                    rows.append(row)
                    if verbose:
                        print(
                            f"{kind} {seed} {t} {series.space_group} {series.info['model']}/"
                            f"{fit.model} {fit.other:.1f} q{series.info['pattern']} "
                            f"d/xi {d / true:.3f} k/res {1 / true / res:.2f} xi {true:.2f} -> "
                            f"{xi.value:.2f} [{xi.inner[0]:.2f} {xi.inner[1]:.2f}] "
                            f"[{xi.outer[0]:.2f} {xi.outer[1]:.2f}] {row['determined']} "
                            f"infl {fit.inflation:.2f} n {len(fit.calculated)} "
                            f"c{len(fit.amplitude)} gain {fit.gain:.0f} "
                            f"{'MISS' if not xi.outer[0] <= true <= xi.outer[1] else ''} "
                            f"cpu {spent:.1f}",
                            flush=True,
                        )
    report("all", rows)
    usual = [r for r in rows if 1 / r["true"] < 1 / r["d"] and 1 / r["true"] > 0.1 * r["res"]]
    report("from one cell edge to 0.1 of the resolution", usual)
    for name in ("point", "rod", "sheet"):
        report(f"  {name}", [r for r in usual if r["kind"] == name])
    for name in ("oz", "chain"):
        report(f"  {name}", [r for r in usual if r["model"] == name])
    report("  off Bragg", [r for r in usual if any(r["pattern"])])
    report("  sharper than 0.1", [r for r in rows if 1 / r["true"] <= 0.1 * r["res"]])
    print(dict(tally), f"{time.process_time() - start:.0f} s of CPU")


def report(name: str, rows: list) -> None:
    """Print coverage and pulls of some rows."""
    if not rows:
        return
    inner = np.mean([r["xi"].inner[0] <= r["true"] <= r["xi"].inner[1] for r in rows])
    outer = np.mean([r["xi"].outer[0] <= r["true"] <= r["xi"].outer[1] for r in rows])
    values = [r for r in rows if r["determined"] == "value"]
    limits = [r for r in rows if r["determined"] != "value"]
    good = [
        r["true"] >= r["xi"].limit[0] if r["determined"] == "longer" else
        r["true"] <= r["xi"].limit[1] for r in limits
    ]  # fmt: skip
    pulls = np.array(
        [
            np.log(r["xi"].value / r["true"]) / (np.log(r["xi"].inner[1] / r["xi"].inner[0]) / 2)
            for r in values
        ]
    )
    text = f"{name}: {len(rows)}, 68 % covers {inner:.0%}, 95 % covers {outer:.0%}"
    if len(values):
        middle = np.percentile(pulls, [15.9, 50, 84.1])
        text += (
            f"; {len(values)} values, pulls {pulls.mean():+.2f} ± {pulls.std():.2f} (median "
            f"{middle[1]:+.2f}, half of 68 % {(middle[2] - middle[0]) / 2:.2f})"
        )
    if limits:
        text += f"; {len(limits)} limits, {np.mean(good):.0%} right"
    print(text)


if __name__ == "__main__":
    main()
