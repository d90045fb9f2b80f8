"""The converging loop against simulated scans whose cell, orientation and lattice are known."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.bragg import converge, convergence
from hklflow.bragg.centroids import (
    FATES,
    hold_out,
    judge,
    same_reflection,
)
from hklflow.bragg.congruence import congruence, halves
from hklflow.bragg.reflections import ReflectionFlag, Reflections, concatenated
from hklflow.bragg.residual_map import by_module
from hklflow.geometry import parameters
from hklflow.geometry.modules import Modules
from hklflow.orientation import residuals
from hklflow.plots.convergence import convergence as picture
from hklflow.stages import converge as stages_converge
from tests.truth import convergence as made
from tests.truth.defaults import acceptance, limits, rest


@cache
def scan(symbol: str = "P 6/m m m", seed: int = 1) -> made.Scan:
    return made.scan(symbol, seed)


def counts_add_up(outcome: converge.Outcome, scan: made.Scan) -> None:
    for item in outcome.iterations[1:]:
        assert sum(item.peaks.values()) == sum(len(p.frame) for p in scan.peaks)
        if item.integrations:
            assert sum(item.reflections.values()) == sum(len(t) for t in scan.tables)
        else:
            assert item.reflections == {}


@pytest.mark.parametrize("symbol", made.CELLS)
def test_a_start_one_degree_off_comes_to_rest_at_the_truth(symbol: str) -> None:
    truth = scan(symbol)
    outcome = made.loop(truth, truth.integrate).run(made.start(truth, 1.0))
    assert outcome.converged, outcome.reason
    assert outcome.integrations == 1
    assert len(outcome.iterations) <= 6
    errors = made.judged(truth, outcome)
    assert errors["turn"] < 0.005
    assert errors["worst pull"] < 3
    best, start = outcome.kept, outcome.iterations[0]
    assert best.score < 0.3 * start.score
    assert best.fraction_indexed > 0.99
    # Reflections that the search did not find are used as well.
    assert best.reflections["used"] > 50
    assert best.reflections["found as a peak"] > 500
    counts_add_up(outcome, truth)
    # At rest means: every change is below its limit.
    last, most = outcome.iterations[-1].change, rest()
    assert all(last[name] < getattr(most, name) for name in last)
    assert last.keys() == {"cell", "orientation", "rmsd", "indexed"}


@pytest.mark.slow
def test_errors_are_those_claimed_and_halves_agree_within_them() -> None:
    pulls, figures = [], []
    for seed in range(6):
        truth = scan("P -1", seed)
        outcome = made.loop(truth, truth.integrate).run(made.start(truth))
        pulls.append(made.judged(truth, outcome)["mean square pull"])
        model = outcome.kept.model
        found = congruence(
            model.rotations, outcome.data, model.ub, truth.group, free=made.FREE, limits=limits()
        )
        assert min(found.spots) > 300
        assert set(found.names) >= {"a", "gamma", "u_x", "misorientation_1_z"}
        figures.append(found.figure)
    # Of 6 times 6, and 6 times 12 numbers.
    assert 0.75 < np.sqrt(np.mean(pulls)) < 1.25
    assert 0.85 < np.sqrt(np.mean(np.square(figures))) < 1.15


def test_claims_that_are_too_small_are_seen() -> None:
    """Spots of one frame that err together, as by a wrong angle of the frame."""
    truth = scan("P -1")
    peaks = []
    for p in truth.peaks:
        odd = np.floor(p.frame).astype(int) % 2 == 1
        peaks.append(replace(p, slow=p.slow + np.where(odd, 0.1, -0.1)))
    found = congruence(
        truth.rotations, peaks, truth.ub, truth.group, free=made.FREE, limits=limits()
    )
    assert found.figure > 3
    odd, even = halves(truth.peaks)
    assert sum(len(p.frame) for p in (*odd, *even)) == sum(len(p.frame) for p in truth.peaks)
    assert all(np.all(p.frame % 2 >= 1) for p in odd)


@pytest.mark.parametrize("symbol", made.CELLS)
@pytest.mark.parametrize("degrees", [5.0, 8.0])
def test_a_wrong_start_fails_loudly(symbol: str, degrees: float) -> None:
    truth = scan(symbol)
    with pytest.raises(HklflowError, match="index again"):
        made.loop(truth, truth.integrate).run(made.start(truth, degrees))


def test_a_second_lattice_is_told_by_the_peaks_without_index() -> None:
    truth = made.scan(second=0.3)
    outcome = made.loop(truth).run(made.start(truth))
    assert outcome.converged
    # A few of the other lattice's have an index by chance.
    assert 0.66 < outcome.kept.fraction_indexed < 0.73
    assert made.judged(truth, outcome)["turn"] < 0.005
    counts = outcome.kept.peaks
    assert counts["not indexed"] > 0.25 * sum(counts.values())
    counts_add_up(outcome, truth)
    told = told_of(made.loop(truth), outcome, truth)
    none = told["unindexed peaks"]
    assert none["number"] == round(none["fraction"] * sum(len(p.frame) for p in truth.peaks))
    assert none["fraction"] == pytest.approx(1 - outcome.kept.fraction_indexed)
    assert len(none["strongest"]) == 20
    assert sum(told["peaks"].values()) == sum(len(p.frame) for p in truth.peaks) + 7
    (warning,) = convergence.warnings(outcome, told, 0.1)
    assert "of the peaks are not indexed" in warning
    assert convergence.warnings(outcome, told, 0.5) == []


def test_a_crystal_off_the_axis_is_refined_with_its_place() -> None:
    """Peaks and centroids move round and round by 0.3 pixels; without it the model is wrong."""
    truth = scan("P -1")
    offset = np.array([1.5, -1.0]) * 1e-4

    def moved(i: int, slow: np.ndarray, fast: np.ndarray, frame: np.ndarray) -> np.ndarray:
        rotation = truth.rotations[i]
        ray = rotation.q_lab(slow, fast) + rotation.beam.k * geometry.BEAM
        turns = [rotation.goniometer.rotation(angle) for angle in rotation.scan.angle(frame)]
        place = np.array(turns) @ (offset @ parameters.across(rotation))
        return residuals.displacement(rotation, place, ray)

    peaks, tables = [], []
    for i, (p, t) in enumerate(zip(truth.peaks, truth.tables, strict=True)):
        by = moved(i, p.slow, p.fast, p.frame)
        peaks.append(replace(p, slow=p.slow + by[:, 0], fast=p.fast + by[:, 1]))
        by = moved(i, t.slow, t.fast, t.frame)
        seen = {"observed_slow": t.observed_slow + by[:, 0]}
        tables.append(replace(t, observed_fast=t.observed_fast + by[:, 1], **seen))
    truth = replace(truth, peaks=peaks, tables=tables)
    run = made.loop(truth, truth.integrate)
    start = made.start(truth)
    without = run.run(start).kept
    run.free = [*run.free, "off_centre_0", "off_centre_1"]
    outcome = run.run(start)
    kept = outcome.kept
    assert outcome.converged, outcome.reason
    assert np.all(kept.rmsd_held_out[:2] < 0.8 * without.rmsd_held_out[:2])
    assert made.judged(truth, outcome)["worst pull"] < 3.5
    for i in (0, 1):
        true = offset @ parameters.across(truth.rotations[i])
        np.testing.assert_allclose(kept.model.offsets[i], true, atol=3e-5)
    assert kept.reflections["far from its prediction"] < 0.05 * kept.reflections["used"]


def test_what_was_refined_before_is_refined_again() -> None:
    names = [
        "a",
        "gamma",
        "u_x",
        "detector_x",
        "detector_rotation_z",
        "misorientation_1_x",
        "off_centre_2_1",
    ]
    assert parameters.groups_of(names) == [
        "cell", "detector_rotation", "detector_x", "misorientation", "off_centre_2", "orientation",
    ]  # fmt: skip


def test_arcs_that_no_peaks_tell_of_are_doubtful() -> None:
    """Rocking curves of 1°, and too few peaks to say whether these are mosaic spread."""
    truth = scan()
    outcome = made.loop(truth, truth.integrate).run(made.start(truth))
    observed: Any = SimpleNamespace(names=("r1", "r2"), spreads=(1e-4, None))
    told = partial(stages_converge._doubtful_arcs, outcome)
    (sentence,) = told(observed, {0: np.radians(0.3), 1: np.radians(1.0)})
    assert "152 ppm too large" in sentence
    assert "the peaks of r2 are too few" in sentence
    assert told(observed, {0: np.radians(1.0), 1: np.radians(0.05)}) == []
    observed.spreads = (1e-4, 0.0)
    assert told(observed, {0: np.radians(1.0), 1: np.radians(1.0)}) == []


def test_centroids_that_maxima_draw_are_told_and_with_their_peaks_left_out() -> None:
    """Reflections without a peak are seen 0.4 pixels from their places, all outward."""
    truth = scan("P 6/m m m")
    tables, maxima = [], []
    for t, p in zip(truth.tables, truth.peaks, strict=True):
        out = np.stack([t.slow, t.fast], axis=1) - np.array(made.SHAPE) / 2
        out /= np.linalg.norm(out, axis=1)[:, None]
        drawn = t.counts <= made.ENOUGH
        by = 0.4 * drawn[:, None] * out
        seen = {
            "observed_slow": t.observed_slow + by[:, 0],
            "observed_fast": t.observed_fast + by[:, 1],
        }
        tables.append(replace(t, **seen))
        use = drawn & np.isfinite(t.observed_slow)
        rows = [getattr(tables[-1], f"observed_{x}")[use] for x in ("frame", "slow", "fast")]
        more = [getattr(t, f"var_{x}")[use] for x in ("frame", "slow", "fast")]
        maxima.append(type(p)(*rows, *more))
    truth = replace(truth, tables=tables)
    run = made.loop(truth, truth.integrate)
    outcome = run.run(made.start(truth))
    drawn = [text for text in convergence._drawn(outcome) if "max_integrations: 0" in text]
    assert len(drawn) == 1
    run.maxima = maxima
    outcome = run.run(made.start(truth))
    assert convergence._drawn(outcome) == []
    assert outcome.iterations[-1].reflections["found as a maximum"] > 50
    assert made.judged(truth, outcome)["worst pull"] < 3
    counts_add_up(outcome, truth)


def told_of(run: converge.Loop, outcome: converge.Outcome, truth: made.Scan) -> dict[str, Any]:
    intensities = [np.arange(len(p.frame)) + 1.0 for p in truth.peaks]
    return convergence.section(run, outcome, ["r1", "r2"], intensities, run.total + 7)


def test_the_picture_shows_a_detector_of_one_module_and_modules_without_spots() -> None:
    truth = scan()
    run = made.loop(truth)
    outcome = run.run(made.start(truth))
    rows = by_module(outcome.kept.spots, Modules.ideal([(0, 199, 0, 200), (199, 200, 0, 200)]))
    history = [convergence.record(item, rows) for item in outcome.iterations]
    limits = {f"{name}_change": 0.1 for name in ("cell", "orientation", "rmsd", "indexed")}
    for shown in (rows[:1], rows[1:]):
        figure = picture(history, outcome.best, [row.to_dict() for row in shown], limits, "title")
        figure.canvas.draw()
        assert len(figure.axes) == 6


def test_a_peak_without_index_counts_as_the_worst() -> None:
    truth = made.scan(second=0.3)
    run = made.loop(truth)
    outcome = run.run(made.start(truth))
    losses = outcome.kept.losses
    assert len(losses) == sum(int(h.sum()) for h in run.held)
    lost = np.concatenate(run.held)
    lost = ~converge.seen(outcome.kept.model, run.peaks, run.limits).indexed[lost]
    assert lost.sum() > 5
    assert np.all(losses[lost] == 25)
    assert np.median(losses[~lost]) < 2


def misled(truth: made.Scan, by: float) -> list[Reflections]:
    """Integrated centroids farther from the beam than they are."""
    tables = []
    for table in truth.tables:
        slow = table.observed_slow + by * (table.observed_slow - 97)
        fast = table.observed_fast + by * (table.observed_fast - 104)
        small = {"var_slow": 1e-3 + 0 * slow, "var_fast": 1e-3 + 0 * slow}
        tables.append(replace(table, observed_slow=slow, observed_fast=fast, **small))
    return tables


def test_a_refinement_that_integration_misleads_is_not_kept() -> None:
    truth = scan()
    run = made.loop(truth, lambda rotations, ub: misled(truth, 0.003))
    outcome = run.run(made.start(truth))
    last, best = outcome.iterations[-1], outcome.kept
    assert last.reflections["used"] > 50
    assert last.score > 1.1 * best.score
    assert best.number == 1
    assert best.reflections == {}
    assert made.judged(truth, outcome)["worst pull"] < 3
    # What the best was made from is handed on, not what came after.
    assert sum(len(p.frame) for p in outcome.data) == sum(len(p.frame) for p in run.fitted)


def test_the_start_is_kept_where_every_refinement_is_worse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = scan()
    good = made.loop(truth).run(made.start(truth)).kept.model
    right = converge.refine

    def wrong(rotations: Sequence, peaks: Sequence, *given: object, **named: object) -> object:
        return right(rotations, [replace(p, slow=p.slow + 0.01 * p.fast) for p in peaks], *given,
                     **named)  # fmt: skip

    monkeypatch.setattr(converge, "refine", wrong)
    outcome = made.loop(truth).run(good)
    assert outcome.best == 0
    assert outcome.kept.model is good
    assert outcome.kept.score < outcome.iterations[1].score


def test_a_loop_that_does_not_rest_says_so_and_keeps_the_best() -> None:
    truth, calls = scan(), []

    def restless(rotations: Sequence, ub: np.ndarray) -> list[Reflections]:
        calls.append(1)
        return misled(truth, 0.003 * (-1) ** len(calls))

    run = made.loop(truth, restless, cycles=5, integrations=50, reintegrate=1e-9)
    outcome = run.run(made.start(truth))
    assert not outcome.converged
    assert "still moving after 5 refinements" in outcome.reason
    assert len(outcome.iterations) == 6
    assert len(calls) == 4  # none after the last refinement, which nothing would use
    (warning,) = convergence.warnings(outcome, told_of(run, outcome, truth), 0.1)
    assert "did not converge" in warning
    scores = [item.score for item in outcome.iterations]
    assert outcome.kept.score < 1.02 * min(scores)


def test_frames_are_read_again_only_where_predictions_moved() -> None:
    truth = scan()
    for reintegrate, limit, expected in ((0.1, 3, 1), (0.0, 3, 3), (0.0, 2, 2), (0.0, 0, 0)):
        calls = []

        def integrate(rotations: Sequence, ub: np.ndarray, calls: list = calls) -> list:
            calls.append(1)
            # Never twice the same, so that the model moves.
            rng = np.random.default_rng(len(calls))
            return [replace(t, observed_slow=t.observed_slow + rng.normal(0, 1e-3, len(t)))
                    for t in truth.tables]  # fmt: skip

        run = made.loop(truth, integrate, integrations=limit, reintegrate=reintegrate)
        outcome = run.run(made.start(truth))
        assert len(calls) == outcome.integrations == expected
        assert outcome.converged


def test_a_later_failure_ends_the_loop_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, right, calls = scan(), converge.refine, []

    def failing(*given: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise HklflowError("lost the crystal")
        return right(*given, **named)

    monkeypatch.setattr(converge, "refine", failing)
    outcome = made.loop(truth, truth.integrate).run(made.start(truth))
    assert not outcome.converged
    assert outcome.reason == "refinement 2 failed: lost the crystal"
    assert outcome.best == 1


def test_what_judges_is_never_fitted() -> None:
    truth = scan()
    run = made.loop(truth, truth.integrate)
    outcome = run.run(made.start(truth))
    for given, judges, table in zip(outcome.data, run.judges, truth.tables, strict=True):
        fitted = {tuple(row) for row in given.position}
        assert not fitted & {tuple(row) for row in judges.position}
        # Nor what integration makes of the same spots.
        near = np.abs(judges.position[:, None] - given.position[None]).max(axis=2)
        assert np.all(near.min(axis=1) > 0.5)
        assert len(table) > len(judges.frame) > 15
    whole = [len(p.frame) for p in truth.peaks]
    held = np.concatenate(hold_out(truth.peaks))
    assert held.sum() == outcome.kept.peaks["held out"]
    # Those that the refinement before the loop held out as well.
    np.testing.assert_array_equal(np.flatnonzero(held) % 20, 10)
    few = [p.select(np.arange(n) < 30) for p, n in zip(truth.peaks, whole, strict=True)]
    assert np.concatenate(hold_out(few)).sum() == 12


def test_each_reflection_has_one_fate_and_the_right_one() -> None:
    truth = scan()
    table, rotation = truth.tables[0], truth.rotations[0]
    flags = np.zeros(len(table), np.int64)
    strong = np.flatnonzero(table.intensity_sum > 200)
    wanted = {
        "partial": ReflectionFlag.PARTIAL | ReflectionFlag.OVERLAP,
        "overlap": ReflectionFlag.OVERLAP,
        "overload": ReflectionFlag.OVERLOAD,
        "no background": ReflectionFlag.NO_BACKGROUND,
        "long": ReflectionFlag.LONG,
        "cut by edge or mask": ReflectionFlag.MASKED,
        "unlike the profile": ReflectionFlag.UNLIKE,
    }
    for row, flag in zip(strong, wanted.values(), strict=False):
        flags[row] = int(flag)
    n = len(wanted)
    slow, sigma, like = table.observed_slow.copy(), table.sigma_sum.copy(), table.correlation.copy()
    slow[strong[n]], sigma[strong[n + 1]], like[strong[n + 2]] = np.nan, 1e9, 0.5
    slow[strong[n + 3]] += 2.0
    held, found = strong[n + 4 : n + 5], strong[n + 5 : n + 6]
    changed = replace(table, flags=flags, observed_slow=slow, sigma_sum=sigma, correlation=like)
    fate = judge(changed, rotation, truth.ub, found, held, acceptance())
    expected = [
        *(*wanted, "weak", "weak", "unlike the profile", "far from its prediction"),
        *("held out", "found as a peak"),
    ]
    assert [FATES[i] for i in fate[strong[: n + 6]]] == expected
    rest = np.delete(np.arange(len(table)), strong[: n + 6])
    weak = table.intensity_sum < 10 * table.sigma_sum
    assert np.all((fate[rest] == FATES.index("weak")) == weak[rest])
    assert np.mean(fate[rest][~weak[rest]] == len(FATES) - 1) > 0.99


def test_a_peak_belongs_to_the_crossing_where_it_was_seen() -> None:
    once = scan().tables[0]
    # As in a scan of more than a full turn.
    table = concatenated([once, replace(once, frame=once.frame + 720)])
    at = np.stack([table.slow, table.fast, table.frame], axis=1) + 0.3
    np.testing.assert_array_equal(same_reflection(table.hkl, at, table), np.arange(len(table)))
    # Another reflection's place, and an hkl that the table has not.
    assert np.all(same_reflection(table.hkl[:5], at[:5] + np.array([9, 0, 0]), table) == -1)
    assert np.all(same_reflection(table.hkl[:3] + 100, at[:3], table) == -1)


def test_the_orientation_of_every_rotation_counts() -> None:
    """A head that turns in the second rotation only is a change of orientation."""
    truth = scan()
    model = made.loop(truth).run(made.start(truth)).kept.model
    moved = model.rotations[1].goniometer
    angles = moved.angles.copy()
    angles[-1] += np.radians(0.01)
    other = replace(model, rotations=[
        model.rotations[0], replace(model.rotations[1], goniometer=replace(moved, angles=angles))
    ])  # fmt: skip
    assert moved.names[-1] == "misorientation"
    assert converge._turned(model, other) == pytest.approx(0.01, rel=1e-6)
