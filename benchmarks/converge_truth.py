"""The converging loop against scans whose cell, orientation and modules are known.

Centres of spots come from the simulator, with the noise that their counts give; modules are
displaced by simulating each as a detector of its own. With ``--frames`` the frames are drawn,
searched and integrated. ``python -m benchmarks.converge_truth [seeds] [--frames]``
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from tests.truth.convergence import (
    BOXES,
    CELLS,
    FREE,
    Scan,
    converge_files,
    judged,
    loop,
    modules_found,
    reduced,
    scan,
    shifts_of,
    simulation,
    start,
    turned,
)

from hklflow.base.errors import HklflowError
from hklflow.bragg.congruence import congruence, halves
from hklflow.bragg.converge import Outcome, RefinedModel
from hklflow.calibration.bragg_level import halves_agree
from hklflow.geometry.modules import Modules
from hklflow.orientation.displaced_modules import Displaced, displaced
from hklflow.stages import converge


def main() -> None:
    """Print the tables."""
    given = [word for word in sys.argv[1:] if not word.startswith("--")]
    seeds = int(given[0]) if given else 10
    for symbol in CELLS:
        for told, options in (("peaks", None), ("peaks and reflections", "integrate")):
            figures, congruent, refinements = [], [], []
            for seed in range(seeds):
                made = scan(symbol, seed)
                run = loop(made, made.integrate if options else None)
                outcome = run.run(start(made, 1.0))
                assert outcome.converged, outcome.reason
                figures.append(judged(made, outcome))
                refinements.append(len(outcome.iterations) - 1)
                agree = congruence(outcome.kept.model.rotations, outcome.data,
                                   outcome.kept.model.ub, made.group, free=FREE,
                                   limits=run.limits)  # fmt: skip
                congruent.append(agree.figure)
            used = outcome.kept.refined.used.sum()
            pull = np.sqrt(np.mean([f["mean square pull"] for f in figures]))
            print(
                f"{symbol}, {told}, start 1 degree off: {used} spots, {np.mean(refinements):.1f} "
                f"refinements, U off by {np.mean([f['turn'] for f in figures]):.5f} deg (worst "
                f"{max(f['turn'] for f in figures):.5f}), cell: rms pull {pull:.2f} (worst "
                f"{max(f['worst pull'] for f in figures):.1f}), odd/even figure "
                f"{np.sqrt(np.mean(np.square(congruent))):.2f}"
            )
    _wrong_starts(seeds)
    _modules(seeds)
    if "--frames" in sys.argv:
        _frames(seeds)


def _frames(seeds: int) -> None:
    """From frames: the peak search, refinement, integration and module level as in a reduction."""
    turns, pulls, congruent = [], [], []
    true = np.asarray(simulation("P 6/m m m", 0.0).ub)
    for seed in range(seeds):
        for shifts in (None, shifts_of(seed)):
            with tempfile.TemporaryDirectory() as name:
                reduced(Path(name), shifts, seed, significance=25.0, scale=3e-3)
                made = converge_files(Path(name))
            found, section = made["converged"], made["converged"]["converged"]
            told = (
                f"frames, seed {seed}: {section['reason']}, {section['peaks']['used']} peaks and "
                f"{section['reflections'].get('used', 0)} reflections, {section['seconds']:.1f} s, "
                f"{section['passes over the frames']:.0f} passes over the frames; "
            )
            turn = turned(np.array(found["UB"]), true)
            if shifts is None:
                sigma = np.array(found["cell_sigma"])
                pull = np.array(found["cell"]) - np.array(CELLS["P 6/m m m"])
                pulls.append((pull[sigma > 0] / sigma[sigma > 0]) ** 2)
                turns.append(turn)
                congruent.append(section["odd and even frames"]["figure"])
                print(
                    f"{told}U off by {turn:.5f} deg, cell pull {np.sqrt(np.mean(pulls[-1])):.2f}, "
                    f"displaced modules {len(section['modules']['displaced'])}"
                )
                continue
            fit = made["modules"]["fit"]
            if fit is None:
                print(f"{told}modules: {made['modules']['why not']}")
                continue
            off = np.array(fit["modules"]["shift_px"]) - shifts
            before, after = (
                np.hypot(*fit[f"rmsd of held-out peaks {when} (slow, fast, frame)"][:2])
                for when in ("before", "after")
            )
            print(
                f"{told}modules {np.sqrt(np.mean(shifts**2)):.3f} px off, found to "
                f"{np.sqrt(np.mean(off**2)):.4f} px; held-out rmsd {before:.3f} -> {after:.3f} px"
            )
    print(
        f"frames: U off by {np.mean(turns):.5f} deg, cell: rms pull {np.sqrt(np.mean(pulls)):.2f}, "
        f"odd/even figure {np.sqrt(np.mean(np.square(congruent))):.2f}"
    )


def _wrong_starts(seeds: int) -> None:
    for degrees in (0.5, 1.0, 2.0, 3.0, 5.0, 8.0):
        ended = {"right": 0, "refused": 0, "wrong": 0}
        for symbol in CELLS:
            for seed in range(seeds):
                made = scan(symbol, seed)
                try:
                    outcome = loop(made).run(start(made, degrees))
                except HklflowError:
                    ended["refused"] += 1
                    continue
                ended["right" if judged(made, outcome)["turn"] < 0.05 else "wrong"] += 1
        print(f"start {degrees:g} degrees off: {ended}")
    for part in (0.0, 0.2, 0.4):
        made = scan(second=part)
        outcome = loop(made).run(start(made))
        print(
            f"second lattice with {part:.0%} of the peaks: {outcome.kept.fraction_indexed:.1%} "
            f"indexed, U off by {judged(made, outcome)['turn']:.5f} deg"
        )


def _displaced(made: Scan, outcome: Outcome) -> list[Displaced]:
    defaults = converge.Params(sample="", scan="", rotations=[])
    return displaced(
        outcome.kept.refined, outcome.data, made.group, FREE, Modules.ideal(BOXES),
        least=defaults.module_offset, spots=defaults.module_spots,
    )  # fmt: skip


def _modules(seeds: int) -> None:
    ideal = 0
    starts, errors, pulls, agree, before, after = [], [], [], [], [], []
    for seed in range(seeds):
        made = scan(seed=seed)
        outcome = loop(made, made.integrate).run(start(made))
        ideal += bool(_displaced(made, outcome))
        true = shifts_of(seed)
        made = scan(seed=seed, shifts=true)
        run = loop(made, made.integrate)
        outcome = run.run(start(made))
        told = _displaced(made, outcome)
        level = modules_found(made, outcome, run)
        off = level.fit.modules.shift - true
        starts.append(np.sqrt(np.mean(true**2)))
        errors.append(np.sqrt(np.mean(off**2)))
        pulls.append(np.mean((off / level.fit.shift_sigma) ** 2))
        figure = halves_agree(level.refined.rotations, halves(outcome.data),
                              level.refined.ub, level.fit.modules)  # fmt: skip
        agree.append(figure["figure"])
        before.append(np.hypot(*outcome.kept.rmsd_held_out[:2]))
        after.append(np.hypot(*run.rmsd_held_out(RefinedModel.of(level.refined))[:2]))
        print(
            f"  modules off by {starts[-1]:.3f} px rms: {len(told)} told; found to "
            f"{errors[-1]:.4f} px rms with {level.fit.points} spots in {level.cycles} fits; "
            f"held-out rmsd {before[-1]:.3f} -> {after[-1]:.3f} px"
        )
    print(
        f"ideal modules: {ideal} of {seeds} asked for the module level; displaced by "
        f"{np.mean(starts):.3f} px rms: found to {np.mean(errors):.4f} (worst {max(errors):.4f}), "
        f"rms pull {np.sqrt(np.mean(pulls)):.2f}, odd/even figure "
        f"{np.sqrt(np.mean(np.square(agree))):.2f}, held-out rmsd {np.mean(before):.3f} -> "
        f"{np.mean(after):.3f} px"
    )


if __name__ == "__main__":
    main()
