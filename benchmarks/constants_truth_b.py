"""Ramps, combined gains and masks against simulated ASICs: errors, pulls, codes, speed.

    OMP_NUM_THREADS=1 python -m benchmarks.constants_truth_b [rows of the ASIC, 64]

About a minute. AGIPD's gains, offsets and noise; the pulse capacitor in 600 steps of 10 keV, the
current source in 200 times 1 and 400 times 10 units of about 7, 11 and 15 keV. Speed is that of a
second run, without compilation and without reading files, in pixels x cells x frames per second
and core.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tests.truth.defaults import RAMP, mask_of_constants, merge_of_currents

from hklflow.constants import base, simulate, simulate_ramps
from hklflow.constants.combine import combine
from hklflow.constants.current_source import CurrentSource
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.gathered import open_gathered
from hklflow.constants.pulse_capacitor import PulseCapacitor
from hklflow.constants.ramp_process import RATIOS, FitStatus, RampProcess, mark_outliers
from hklflow.constants.simulate import Truth
from hklflow.constants.simulate_ramps import Source
from hklflow.constants.status import Bit

CELLS = 2
STEPS = ((600, 1.0),)
TIMES = ((200, 1.0), (400, 10.0))
CURRENTS = {"20": 7.0, "80": 11.0, "150": 15.0}
ABOUT = {"detector": "agipd", "module": 0, "asic": 0, "digital": "level"} | {
    "cell_ids": list(range(CELLS)), "measures": [], "runs": [],
}  # fmt: skip


def part(truth: Truth, **values: Any) -> Constants:
    """Constants that other steps would have made."""
    quantities = {name: Quantity(np.asarray(v, np.float32)) for name, v in values.items()}
    status = Quantity(np.zeros((3, CELLS, *truth.shape), np.uint32))
    return Constants(dict(ABOUT), quantities | {"constants_status": status})


def dark_of(truth: Truth) -> Constants:
    return part(
        truth, offset=truth.offset, offset_errors=truth.noise / 20, noise=truth.noise,
        gain_threshold=0.5 * (truth.level[1:] + truth.level[:-1]),
    )  # fmt: skip


def ramp(
    kind: type[RampProcess],
    truth: Truth,
    source: Source,
    dark: Constants | None,
    rng: np.random.Generator,
    **fit: Any,
) -> tuple[Constants, float]:
    """Constants of a simulated ramp, and the seconds that processing takes the second time."""
    segments = STEPS if kind is PulseCapacitor else TIMES
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ramp.h5"
        simulate_ramps.write_ramp(path, truth, source, "ramp", segments, rng)
        with open_gathered(path) as gathered:
            what = kind(gathered, dark, segments, **RAMP | fit)
            base.process(what, [gathered], 500)
            begin = time.process_time()
            found = base.process(what, [gathered], 500)
            seconds = time.process_time() - begin
    return mark_outliers(found, 5.0, {}), seconds


def row(name: str, found: Constants, truth: Truth, upper: int, seconds: float | None) -> None:
    values, errors = (found[f"{RATIOS[upper - 1]}{end}"] for end in ("", "_errors"))
    true = truth.gain[upper] / truth.gain[upper - 1]
    good = found["fit_status"] == 0
    off, pull = (values / true - 1)[good], ((values - true) / errors)[good]
    frames = 600 * true.size
    speed = "" if seconds is None else f"{frames / seconds / 1e6:8.1f} M/s"
    print(
        f"{name:34s} {100 * off.mean():8.4f} {100 * off.std():7.3f} {pull.std():6.3f} "
        f"{(~good).sum():6d}/{good.size} {speed}"
    )


def ramps(truth: Truth, rng: np.random.Generator) -> None:
    print(f"{'ratio':34s} {'bias %':>8s} {'rms %':>7s} {'pull':>6s} {'no ratio':>6s}")
    dark = dark_of(truth)
    source = simulate_ramps.pulse_capacitor(truth, rng)
    for name, known in (("with dark", dark), ("without dark", None)):
        found, seconds = ramp(PulseCapacitor, truth, source, known, rng)
        row(f"pulse capacitor MH, {name}", found, truth, 1, seconds)
    parts = []
    for name, rate in CURRENTS.items():
        source = simulate_ramps.current_source(truth, rng, rate)
        found, seconds = ramp(CurrentSource, truth, source, dark, rng)
        row(f"current {name} MH", found, truth, 1, seconds)
        row(f"current {name} LM", found, truth, 2, None)
        parts.append(found)
    for weighted in (False, True):
        begin = time.process_time()
        merged = merge_of_currents(parts, list(CURRENTS), weighted)
        seconds = time.process_time() - begin
        known = merged["chosen_current"]
        merged.quantities["fit_status"] = Quantity((known == 0).astype(np.uint32))
        for upper, which in enumerate(("MH", "LM"), 1):
            row(f"merged {which}{', weighted' if weighted else ''}", merged, truth, upper, None)
    chosen = [int((known == n).sum()) for n in range(len(CURRENTS) + 1)]
    print(f"chosen none, {', '.join(CURRENTS)}: {chosen}")
    print(f"chi2 of the currents' ratios: {np.nanmean(merged['ratio_chi2']):.3f}")
    print(f"merge: {known.size / seconds / 1e6:.1f} M pixels x cells per second")


def settling(truth: Truth, rng: np.random.Generator) -> None:
    print("\nbias % of pulse capacitor MH with 50 ADU after the switch that decay in so many steps")
    ways = {
        "no trim": {"trim": 0.0}, "trim 0.1": {}, "trim 0.2": {"trim": 0.2}, "exponential": {},
        "its decay 30 % off": {},
    }  # fmt: skip
    print(" " * 6 + "".join(f"{name:>20s}" for name in ways))
    true = truth.gain[1] / truth.gain[0]
    for decay in (8.0, 15.0, 30.0, 60.0, 120.0):
        source = simulate_ramps.pulse_capacitor(truth, rng, settling=50.0, decay=decay)
        line = f"{decay:6.0f}"
        for name, fit in ways.items():
            known = {"exponential": decay, "its decay 30 % off": 1.3 * decay}.get(name, 0.0)
            found, _ = ramp(PulseCapacitor, truth, source, None, rng, settling=known, **fit)
            off = found["gain_ratio_mh"] / true - 1
            line += f"{100 * np.nanmean(off):20.3f}"
        print(line)


def codes(truth: Truth, rng: np.random.Generator) -> None:
    """60 pixels of each fault in one ramp: how many have their bit, and who else has it."""
    places = rng.choice(truth.offset[0].size, (7, 60), replace=False)
    source = simulate_ramps.current_source(truth, rng, CURRENTS["80"])
    rate, switch = np.array(source.rate, order="C"), truth.switch.copy()
    offset, gain = truth.offset.copy(), truth.gain.copy()
    flat = [array.reshape(*array.shape[:-3], -1) for array in (rate, switch, offset, gain)]
    rate_, switch_, offset_, gain_ = flat
    rate_[places[0]] = 0.12
    rate_[places[1]] = 4.0
    switch_[0, places[2]] = 15.5 * rate_[places[2]]
    switch_[1, places[3]] = switch_[0, places[3]] + 15 * rate_[places[3]]
    rate_[places[4]] = 8.0
    switch_[1, places[4]] = (4200 - 155) * rate_[places[4]]
    top = truth.saturation
    offset_[0, places[5]] = top - 0.75 * gain_[0, places[5]] * switch_[0, places[5]]
    gain_[1, places[6]] *= 1.5
    made = replace(truth, offset=offset, gain=gain, switch=switch)
    found, _ = ramp(CurrentSource, made, replace(source, rate=rate), dark_of(made), rng)
    status = found["fit_status"].ravel()
    print(f"\n{'code':16s} {'planted':>8s} {'found':>6s} {'elsewhere':>10s} {'with others':>12s}")
    names = [bit for bit in FitStatus if bit != FitStatus.NON_LINEAR]
    for bit, where in zip(names, places, strict=True):
        has = (status & bit) != 0
        mixed = (status[where] & ~np.uint32(bit)) != 0
        rest = has.sum() - has[where].sum()
        print(f"{bit.name:16s} {60:8d} {has[where].sum():6d} {rest:10d} {mixed.sum():12d}")
    for name, bend in (("straight", 0.0), ("bent", 0.006)):
        found, _ = ramp(CurrentSource, truth, replace(source, bend=bend), dark_of(truth), rng)
        n = ((found["fit_status"] & FitStatus.NON_LINEAR) != 0).sum()
        print(f"NON_LINEAR of {status.size} of a {name} ramp: {n}")


def masks(truth: Truth, rng: np.random.Generator) -> None:
    """60 pixels of each defect in all cells."""
    defects: dict[str, tuple[str, int, Callable[[Any], Any], Bit]] = {
        "offset + 1500 ADU": ("offset", 1, lambda v: v + 1500, Bit.OFFSET_OUT_OF_THRESHOLD),
        "noise x 2": ("noise", 0, lambda v: 2 * v, Bit.NOISE_OUT_OF_THRESHOLD),
        "noise x 3": ("noise", 0, lambda v: 3 * v, Bit.NOISE_OUT_OF_THRESHOLD),
        "high gain x 0.7": ("gain", 0, lambda v: 0.7 * v, Bit.FF_GAIN_DEVIATION),
        "medium gain x 1.5": ("gain", 1, lambda v: 1.5 * v, Bit.CI_GAIN_OUT_OF_THRESHOLD),
        "low gain unknown": ("gain", 2, lambda v: v * np.nan, Bit.VALUE_IS_NAN),
    }
    print(f"\n{'defect':20s} {'planted':>8s} {'recall':>7s} {'false pixels':>13s}")
    for name, (quantity, stage, change, bit) in defects.items():
        high = part(truth, gain_high=truth.gain[0], gain_high_errors=0.002 * truth.gain[0])
        ratios = part(
            truth, gain_ratio_mh=truth.gain[1] / truth.gain[0],
            gain_ratio_mh_errors=0 * truth.gain[0] + 5e-5,
            gain_ratio_lm=truth.gain[2] / truth.gain[1],
            gain_ratio_lm_errors=0 * truth.gain[0] + 5e-4, chosen_current=0 * truth.gain[0] + 1,
        )  # fmt: skip
        begin = time.process_time()
        found = combine(dark_of(truth), high, None, ratios)
        combining = time.process_time() - begin
        where = rng.choice(truth.offset[0, 0].size, 60, replace=False)
        values = found[quantity][stage].reshape(CELLS, -1)
        values[:, where] = change(values[:, where])
        begin = time.process_time()
        result = mask_of_constants(found)
        seconds = time.process_time() - begin
        has = (result["constants_status"][stage] & bit).reshape(CELLS, -1) != 0
        masked = result["pixel_mask"].ravel() != 0
        false = masked.sum() - masked[where].sum()
        print(f"{name:20s} {60:8d} {has[:, where].mean():7.3f} {false:9d}/{masked.size}")
    per = result["constants_status"][0].size
    for step, took in (("combine", combining), ("mask", seconds)):
        print(f"{step}: {per / took / 1e6:.1f} M pixels x cells per second")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    rng = np.random.default_rng(1)
    truth = simulate.agipd(rng, CELLS, (rows, rows))
    ramps(truth, rng)
    codes(truth, rng)
    settling(simulate.agipd(rng, CELLS, (rows // 2, rows // 2)), rng)
    masks(truth, rng)


if __name__ == "__main__":
    main()
