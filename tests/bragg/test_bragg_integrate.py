"""Integrated intensities, backgrounds and places against the truth of simulated scans."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from hklflow import nexus
from hklflow.base.errors import HklflowError
from hklflow.bragg.boxes import Boxes, Filled, groups
from hklflow.bragg.centroids import found_as_peaks
from hklflow.bragg.collected import Collected
from hklflow.bragg.integrate import Integrated, contradict, integrate
from hklflow.bragg.measurement import Measurement
from hklflow.bragg.predicted import predicted_spots
from hklflow.bragg.reflections import UNFIT, Reflections
from hklflow.bragg.reflections import ReflectionFlag as Flag
from hklflow.orientation.residuals import Peaks
from hklflow.simulation.frames import Cosine, Diffuse, Simulation, Superlattice, TruePeaks
from hklflow.stage.integration_settings import IntegrationSettings
from tests.truth import bragg_scans as simulated

GAPS: dict[str, Any] = {"gaps": ((95, 103, 0, 200), (0, 200, 60, 64)), "n_dead": 400, "seed": 3}
WAVES = Diffuse(0.4, (Cosine(0.15, (0.5, 0.0, 0.25)), Cosine(0.1, (0.0, 0.5, 0.0))))
# crystal, setting, read noise, what else differs
CASES: dict[str, tuple[str, int, float, dict[str, Any]]] = {
    "hexagonal": ("hexagonal", 0, 0.0, {}),
    "gaps and dead pixels": ("triclinic", 1, 0.0, {"detector": GAPS}),
    "diffuse below": ("hexagonal", 1, 0.0, {"diffuse": WAVES}),
    "read noise": ("triclinic", 0, 0.4, {}),
}
DECADES = ((10.0, 100.0), (100.0, 1000.0), (1000.0, 1e5))


@dataclass(frozen=True)
class Case:
    """Rows of `table` are those of `truth` where `which` says so; -1 where nothing is true."""

    simulation: Simulation
    measurement: Measurement
    found: Integrated
    truth: TruePeaks
    which: NDArray[np.int64]

    @property
    def table(self) -> Reflections:
        return self.found.reflections

    @property
    def used(self) -> NDArray[np.bool_]:
        known = (self.which >= 0) & np.isfinite(self.table.intensity_profile)
        return np.asarray(known & ~self.table.has(UNFIT))

    def pulls(self, estimate: Any) -> NDArray[np.float64]:
        intensity, sigma = self.table.intensity(estimate)
        return np.asarray((intensity - self.truth.intensity[self.which]) / sigma)

    def ratio(self, estimate: Any) -> float:
        intensity = self.table.intensity(estimate)[0][self.used]
        return float(intensity.sum() / self.truth.intensity[self.which][self.used].sum())


def integrated(
    simulation: Simulation,
    crystal: str,
    measurement: Measurement | None = None,
    read_noise: float = 0.0,
    **params: Any,
) -> Case:
    measurement = measurement or simulated.measurement(simulation, read_noise)
    group = simulated.group(crystal)
    found = integrate(
        measurement, simulation.ub, group, None, IntegrationSettings(**params).chosen()
    )
    truth, table = simulation.true_peaks(), found.reflections
    tree = cKDTree(np.stack([truth.frame, truth.slow, truth.fast], axis=1))
    distance, which = tree.query(np.stack([table.frame, table.slow, table.fast], axis=1))
    return Case(simulation, measurement, found, truth, np.where(distance < 1e-3, which, -1))


@cache
def case(name: str) -> Case:
    crystal, setting, noise, more = CASES[name]
    simulation = simulated.scan(crystal, setting=setting, **more)
    return integrated(simulation, crystal, read_noise=noise)


# --------------------------------------------------------------------------- intensities


@pytest.mark.slow
@pytest.mark.parametrize("estimate", ["sum", "profile"])
@pytest.mark.parametrize("decade", DECADES)
def test_pulls_are_normal_in_three_decades(decade: tuple[float, float], estimate: str) -> None:
    pulls = []
    for name in CASES:
        one = case(name)
        counts = one.truth.counts[one.which]
        rows = one.used & (counts >= decade[0]) & (counts < decade[1])
        pulls.append(one.pulls(estimate)[rows])
        # 60 pulls know their width to 0.09.
        assert 0.75 < pulls[-1].std() < 1.25, name
    together = np.concatenate(pulls)
    assert len(together) > 300
    assert abs(together.mean()) < 3.5 / np.sqrt(len(together))
    assert 0.9 < together.std() < 1.1


@pytest.mark.parametrize("estimate", ["sum", "profile"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_totals_are_unbiased(name: str, estimate: str) -> None:
    assert case(name).ratio(estimate) == pytest.approx(1, abs=0.005)


def test_reflections_without_intensity_come_out_as_zero() -> None:
    one = case("hexagonal")
    absent = one.table.has(Flag.ABSENT)
    group = simulated.group("hexagonal")
    np.testing.assert_array_equal(absent, group.is_absent(one.table.hkl))
    rows = absent & np.isfinite(one.table.intensity_profile) & ~one.table.has(UNFIT)
    assert rows.sum() > 20
    for estimate in ("sum", "profile"):
        intensity, sigma = one.table.intensity(estimate)
        pulls = (intensity / sigma)[rows]
        assert abs(pulls.mean()) < 4 / np.sqrt(rows.sum())


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_mosaic_at_the_start_is_put_right(factor: float) -> None:
    crystal = simulated.CRYSTALS["triclinic"]
    one = integrated(
        simulated.scan("triclinic", n_frames=80, flux=6.0),
        "triclinic",
        mosaic=factor * crystal.mosaic,
        spot=(1.0, 1.0),
    )
    assert one.found.widths.mosaic == pytest.approx(crystal.mosaic, rel=0.03)
    np.testing.assert_allclose(one.found.widths.typical()[1:], crystal.spot_sigma, rtol=0.03)
    for estimate in ("sum", "profile"):
        assert one.ratio(estimate) == pytest.approx(1, abs=0.005)


@pytest.mark.slow
def test_reflections_that_nobody_predicted_are_no_background() -> None:
    satellites = Superlattice((0.5, 0.5, 0.5), t_c=400.0, ratio=0.2)
    simulation = simulated.scan("triclinic", n_frames=100, sample={"superlattice": (satellites,)})
    one = integrated(simulation, "triclinic")
    pulls = background_pulls(one)
    assert abs(np.median(pulls)) < 0.25
    assert one.ratio("sum") == pytest.approx(1, abs=0.006)


# ------------------------------------------------------------- backgrounds, centroids


def background_pulls(one: Case) -> NDArray[np.float64]:
    table = one.table.select(one.used)
    true = one.truth.background[one.which[one.used]] / table.norm
    return np.asarray((table.background - true) / table.background_sigma)


@pytest.mark.parametrize("name", CASES)
def test_background_is_the_diffuse_scattering_below(name: str) -> None:
    pulls = background_pulls(case(name))
    # Of waves the quadratic surface leaves something.
    waves = name == "diffuse below"
    assert abs(pulls.mean()) < (0.35 if waves else 0.15)
    assert 0.85 < pulls.std() < (1.5 if waves else 1.1)


def test_curvature_is_only_there_where_the_background_is_curved() -> None:
    assert case("hexagonal").found.curvature.terms == 4
    assert case("diffuse below").found.curvature.terms == 7


@pytest.mark.parametrize("axis", ["frame", "slow", "fast"])
def test_centroids_scatter_as_their_variances_say(axis: str) -> None:
    for name in CASES:
        one = case(name)
        off = getattr(one.table, f"observed_{axis}") - getattr(one.table, axis)
        pulls = (off / np.sqrt(getattr(one.table, f"var_{axis}")))[one.used]
        pulls = pulls[np.isfinite(pulls)]
        assert len(pulls) > 250
        assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls))
        assert 0.88 < pulls.std() < 1.15, name


# ------------------------------------------------------------------------------ flags


def test_centroids_are_where_spots_are_and_not_where_the_model_has_them() -> None:
    """By a detector that is 0.4 pixels beside its place, as learned profiles are then, too."""
    crystal, setting, _, more = CASES["hexagonal"]
    simulation = simulated.scan(crystal, setting=setting, **more)
    right = simulated.measurement(simulation, 0.0)
    detector = right.rotation.detector
    beside = detector.origin - 0.4 * detector.pixel_size[1] * detector.fast
    wrong = replace(right.rotation, detector=replace(detector, origin=beside))
    found = integrate(
        replace(right, rotation=wrong),
        simulation.ub,
        simulated.group(crystal),
        None,
        IntegrationSettings().chosen(),
    )
    table = found.reflections
    use = np.isfinite(table.observed_fast) & ~table.has(UNFIT)
    use &= table.intensity_sum > 20 * table.sigma_sum
    assert use.sum() > 100
    assert np.median((table.observed_fast - table.fast)[use]) == pytest.approx(-0.4, abs=0.02)


def test_cut_reflections_tell_what_was_recorded() -> None:
    one = case("read noise")
    table = one.table
    partial = table.has(Flag.PARTIAL) & (one.which >= 0) & ~table.has(Flag.EDGE | Flag.LONG)
    assert partial.sum() > 5
    # The truth's share counts the drift of the beam too, 0.1 % per frame.
    true = one.truth.recorded / one.truth.counts
    whole = np.median(table.recorded[one.used])
    assert 0.97 < whole < 1
    np.testing.assert_allclose(
        table.recorded[partial] / whole, true[one.which[partial]], atol=0.025
    )
    clean = one.truth.clean[one.which] & (one.which >= 0)
    beyond = (table.frame - 6 * one.truth.sigma[one.which, 0] > 0) & (
        table.frame + 6 * one.truth.sigma[one.which, 0] < one.simulation.scan.n_frames
    )
    assert not table.has(Flag.PARTIAL)[clean & beyond].any()


def test_gaps_and_edges_are_told() -> None:
    one = case("gaps and dead pixels")
    table = one.table
    bad = one.measurement.pixel_norm == 0
    at = np.clip(np.stack([table.slow, table.fast]).astype(int), 0, 199)
    assert table.has(Flag.MASKED)[bad[at[0], at[1]] & (table.n_foreground > 0)].all()
    near = (np.minimum(table.slow, 200 - table.slow) < 2) & ~table.has(Flag.LONG)
    assert table.has(Flag.EDGE)[near].all()
    inside = (np.minimum(table.slow, 200 - table.slow) > 6) & (
        np.minimum(table.fast, 200 - table.fast) > 6
    )
    assert not table.has(Flag.EDGE)[inside].any()


def test_values_without_a_measurement_are_nan() -> None:
    for name in CASES:
        table = case(name).table
        none = table.has(Flag.NO_BACKGROUND)
        assert not np.isfinite(table.intensity_sum[none]).any()
        np.testing.assert_array_equal(
            table.has(Flag.NO_PROFILE), ~np.isfinite(table.intensity_profile)
        )
        known = np.isfinite(table.intensity_sum)
        assert (table.sigma_sum[known] > 0).all()
        assert not np.isfinite(table.sigma_sum[~known]).any()


def test_counters_add_up() -> None:
    for name in CASES:
        counters = dict(case(name).found.counters)
        assert counters.pop("predicted") == sum(counters.values())
        assert counters["integrated"] == np.isfinite(case(name).table.intensity_sum).sum()


def test_crowded_reflections_are_flagged_and_others_stay_true() -> None:
    simulation = simulated.scan(
        "triclinic", n_frames=40, sample={"spot_sigma": (3.6, 3.6), "scale": 0.2}
    )
    one = integrated(simulation, "triclinic", spot=(3.6, 3.6))
    table = one.table
    at = np.stack([table.frame, table.slow, table.fast], axis=1)
    sigma = one.found.widths.at(table.zeta, table.slow, table.fast)
    integrable = table.n_foreground > 0
    nearest = np.full(len(at), np.inf)
    for i in range(len(at)):
        apart = np.linalg.norm((at - at[i]) / sigma[i], axis=1)
        apart[i] = np.inf
        nearest[i] = apart.min()
    flagged = table.has(Flag.OVERLAP)
    assert flagged[integrable & (nearest < 4.6)].all()
    assert (integrable & (nearest < 4.6)).sum() > 20
    assert not flagged[nearest > 9].any()
    assert one.ratio("sum") == pytest.approx(1, abs=0.01)


def test_saturated_reflections_are_flagged() -> None:
    simulation = simulated.scan("triclinic", n_frames=60)
    limit = 80.0
    measurement = replace(simulated.measurement(simulation), saturation=limit)
    one = integrated(simulation, "triclinic", measurement)
    counts = np.concatenate(list(measurement.blocks()))
    table = one.table
    at = np.stack([table.frame, table.slow, table.fast], axis=1).astype(int)
    inside = np.all((at >= 1) & (at < np.array(counts.shape) - 1), axis=1) & (
        table.n_foreground > 0
    )
    high = np.array(
        [
            inside[i] and counts[a - 1 : a + 2, b - 1 : b + 2, c - 1 : c + 2].max() >= limit
            for i, (a, b, c) in enumerate(at)
        ]
    )
    assert high.sum() > 20
    assert table.has(Flag.OVERLOAD)[high].all()
    weak = one.truth.counts[one.which] < limit
    assert not table.has(Flag.OVERLOAD)[weak & (one.which >= 0) & ~table.has(Flag.OVERLAP)].any()


# ---------------------------------------------------------------------- prediction, ways


def test_prediction_finds_every_crossing_of_more_than_a_turn_and_its_volume() -> None:
    simulation = simulated.scan("hexagonal", n_frames=420, step=np.radians(1.0), flux=1.0)
    rotation = simulated.rotation_of(simulation)
    spots = predicted_spots(rotation, simulation.ub, simulated.group("hexagonal"))
    truth = simulation.true_peaks()
    found = {(*h, round(f)) for h, f in zip(spots.hkl.tolist(), spots.frame.tolist(), strict=True)}
    true = {
        (*h, round(f))
        for h, f in zip(np.rint(truth.hkl).astype(int).tolist(), truth.frame.tolist(), strict=True)
    }
    assert true <= found
    assert len(true) > 1000
    others = np.array([row[:3] for row in found - true if 1 < row[3] < 419])
    assert simulated.group("hexagonal").is_absent(others).all()
    tree = cKDTree(spots.centre)
    _, rows = tree.query(np.stack([truth.frame, truth.slow, truth.fast], axis=1))
    rays = simulation.detector.rays(truth.slow, truth.fast)
    response = simulation.detector.response(rays, True, simulation.scan.polarization)
    frame = np.minimum(truth.frame.astype(int), 419)
    volume = truth.intensity * response * simulation.scan.frame_factor[frame] / truth.counts
    np.testing.assert_allclose(spots.volume[rows], volume, rtol=1e-9)


def test_passes_blocks_and_threads_give_the_same() -> None:
    simulation = simulated.scan("triclinic", n_frames=50, flux=10.0)
    measurement = simulated.measurement(simulation, block=50)
    group = simulated.group("triclinic")
    tables, turns = [], list[list[str]]()
    for memory, threads, block in ((1000.0, 1, 50), (0.7, 2, 7)):
        turn: list[str] = []

        def shown(blocks: Any, told: str, turn: list[str] = turn) -> Any:
            turn.append(told)
            return blocks

        frames = np.concatenate(list(measurement.blocks()))

        def blocks(block: int = block, frames: Any = frames) -> Iterator[Any]:
            return (frames[i : i + block] for i in range(0, len(frames), block))

        settings = IntegrationSettings(memory=memory, mosaic=np.degrees(0.0052), spot=(0.9, 1.1))
        found = integrate(
            replace(measurement, blocks=blocks),
            simulation.ub,
            group,
            None,
            settings.chosen(threads),
            shown=shown,
        )
        tables.append(found.reflections)
        turns.append(turn)
    assert turns[0] == ["collect reflections"]
    assert sum("integrate" in name for name in turns[1]) > 1
    # Which reflections were learned from depends on memory, the rest does not.
    assert len(tables[0]) == len(tables[1])
    np.testing.assert_allclose(tables[0].counts, tables[1].counts, rtol=0.02, atol=3)


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
def test_the_unit_of_the_monitor_does_not_matter(unit: float) -> None:
    """With a monitor of 1e-12, a number added to curvatures changed σ by up to 0.9 %."""
    simulation = simulated.scan("triclinic", n_frames=50, flux=10.0)
    measurement, group = simulated.measurement(simulation), simulated.group("triclinic")
    other = replace(measurement, frame_norm=measurement.frame_norm * unit)
    settings = IntegrationSettings().chosen()
    plain, scaled = (
        integrate(x, simulation.ub, group, None, settings).reflections for x in (measurement, other)
    )
    np.testing.assert_array_equal(scaled.flags, plain.flags)
    assert np.isfinite(plain.sigma_profile).sum() > 100
    for name in ("intensity_sum", "sigma_sum", "intensity_profile", "sigma_profile", "background"):
        expected = getattr(plain, name)
        np.testing.assert_allclose(getattr(scaled, name) * unit, expected, rtol=1e-4, err_msg=name)
    for name in ("observed_frame", "observed_slow", "var_frame", "var_slow", "var_fast"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name), rtol=1e-6)


def test_collected_voxels_give_the_numbers_of_the_frames() -> None:
    simulation = simulated.scan("triclinic", n_frames=50, flux=10.0)
    measurement = simulated.measurement(simulation)
    passes: list[str] = []

    def shown(blocks: Any, told: str) -> Any:
        passes.append(told)
        return blocks

    def table(ub: Any, collected: Collected) -> Reflections:
        passes.clear()
        settings = IntegrationSettings(mosaic=np.degrees(0.0052), spot=(0.9, 1.1)).chosen()
        group = simulated.group("triclinic")
        return integrate(
            measurement, ub, group, None, settings, shown=shown, collected=collected
        ).reflections

    kept = Collected(1e9)
    for angle in (0.0, 0.002):  # the crystal turns by 0.2 of a frame
        turn = Rotation.from_rotvec([0.0, angle, 0.0]).as_matrix()
        again = table(turn @ simulation.ub, kept)
        assert passes == (["collect reflections"] if angle == 0 else [])
        read = table(turn @ simulation.ub, Collected(0.0))
        assert passes == ["learn profiles", "integrate"]
        for column in fields(Reflections):
            values = [getattr(one, column.name) for one in (again, read)]
            np.testing.assert_array_equal(*values, column.name)


def test_spots_that_are_left_out_change_nothing_else() -> None:
    simulation = simulated.scan("triclinic", n_frames=50, flux=10.0)
    measurement, group = simulated.measurement(simulation), simulated.group("triclinic")
    settings = IntegrationSettings(mosaic=np.degrees(0.0052), spot=(0.9, 1.1)).chosen()
    spots = predicted_spots(measurement.rotation, simulation.ub, group)
    some = np.arange(0, len(spots), 3)
    at = np.stack([spots.frame, spots.slow, spots.fast])[:, some]
    at += np.random.default_rng(1).normal(0, 0.05, at.shape)
    peaks = Peaks(*at, *np.full_like(at, 0.05**2))
    mask = partial(found_as_peaks, peaks, measurement.rotation, simulation.ub, 0.15)
    np.testing.assert_array_equal(np.flatnonzero(mask(spots)), some)
    every, fewer = (
        integrate(measurement, simulation.ub, group, None, settings, left_out=left_out).reflections
        for left_out in (None, mask)
    )
    out = np.isin(every.frame, spots.frame[some])
    assert 0.2 < out.mean() < 0.4
    for name in ("intensity_sum", "intensity_profile", "background", "observed_frame"):
        expected = np.where(out, np.nan, getattr(every, name))
        np.testing.assert_array_equal(getattr(fewer, name), expected, name)


def test_voxels_that_were_not_collected_are_read() -> None:
    boxes = Boxes(np.array([[0, 1, 2], [3, 4, 5]]), np.array([[4, 5, 6], [2, 2, 2]]))
    counts = np.random.default_rng(1).poisson(9.0, 128).astype(np.float32)
    counts[5], counts[20] = np.nan, 70000
    (group,) = groups(boxes, 10, 1e6)
    filled = Filled(group, boxes)
    filled.counts[:] = counts
    kept = Collected(1e6)
    kept.collect([filled])
    inner = Boxes(np.array([[1, 1, 3]]), np.array([[3, 4, 4]]))
    assert kept.holds(inner)
    (cut,) = kept.filled(groups(inner, 10, 1e6), inner)
    whole = counts[filled.offset[0] : filled.offset[0] + 120].reshape(4, 5, 6)
    np.testing.assert_array_equal(cut.counts.reshape(3, 4, 4), whole[1:, :4, 1:5])
    assert not kept.holds(Boxes(np.array([[1, 1, 5]]), np.array([[3, 4, 4]])))


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = case("hexagonal").table
    nexus.write_reflections(tmp_path / "reflections.nxs", table, "test")
    again = nexus.read_reflections(tmp_path / "reflections.nxs")
    assert len(again) == len(table) > 500
    assert vars(again).keys() == vars(table).keys() >= {"hkl", "counts", "intensity_profile"}
    for name, value in vars(table).items():
        np.testing.assert_array_equal(getattr(again, name), value)


# ------------------------------------------------------- spots narrower than a frame


#: Mosaic spread in degrees, error of the orientation in degrees, counts of S = 1, diffuse S.
NARROW = {
    "0.05": (0.05, 0.0, 3.0, 0.05),
    "0.05, predictions off": (0.05, 0.03, 3.0, 0.05),
    "0.02": (0.02, 0.0, 3.0, 0.05),
    "0.02, predictions off": (0.02, 0.02, 3.0, 0.05),
    "0.02, predictions far off": (0.02, 0.08, 3.0, 0.05),
    "0.005, predictions off": (0.005, 0.02, 3.0, 0.05),
    "0.05, many counts": (0.05, 0.02, 60.0, 0.05),
    "0.05, high background": (0.05, 0.02, 3.0, 1.0),
}


@cache
def narrow(name: str) -> Case:
    """Frames of 0.5°; the truth is matched with predictions that may be off."""
    mosaic, tilt, flux, flat = NARROW[name]
    simulation = simulated.scan(
        "triclinic",
        n_frames=120,
        flux=flux,
        diffuse=Diffuse(flat=flat),
        sample={"mosaic": np.radians(mosaic)},
    )
    tilted = Rotation.from_rotvec(np.radians(tilt) * np.array([0.6, 0.5, 0.62])).as_matrix()
    measurement = simulated.measurement(simulation)
    found = integrate(
        measurement,
        tilted @ simulation.ub,
        simulated.group("triclinic"),
        None,
        IntegrationSettings().chosen(),
    )
    truth, table = simulation.true_peaks(), found.reflections
    tree = cKDTree(np.stack([truth.frame, truth.slow, truth.fast], axis=1))
    distance, which = tree.query(np.stack([table.frame, table.slow, table.fast], axis=1))
    return Case(simulation, measurement, found, truth, np.where(distance < 0.7, which, -1))


def places(one: Case) -> dict[str, NDArray[np.bool_]]:
    """Reflections that cross in the middle half of a frame, and the others."""
    middle = np.abs(one.truth.frame[one.which] % 1 - 0.5) < 0.25
    return {"middle": middle, "edge": ~middle}


@pytest.mark.parametrize("name", NARROW)
def test_intensities_of_spots_narrower_than_a_frame_are_true(name: str) -> None:
    one = narrow(name)
    assert one.found.widths.bound == name.startswith("0.005")
    if not one.found.widths.bound and "far" not in name:
        assert one.found.widths.mosaic == pytest.approx(np.radians(NARROW[name][0]), rel=0.1)
    counts = one.truth.counts[one.which]
    for place, here in places(one).items():
        for low, high in DECADES:
            rows = one.used & here & (counts >= low) & (counts < high)
            n = rows.sum()
            if n < 20:
                continue
            pulls = one.pulls("profile")[rows]
            assert abs(pulls.mean()) < 3.5 / np.sqrt(n), (place, low)
            assert abs(pulls.std() - 1) < 3.5 / np.sqrt(2 * n), (place, low)
            assert abs(pulls).max() < 5, (place, low)
            true = one.truth.intensity[one.which][rows]
            error = np.sqrt(np.sum(one.table.sigma_profile[rows] ** 2)) / true.sum()
            ratio = one.table.intensity_profile[rows].sum() / true.sum()
            assert abs(ratio - 1) < 3.5 * error, (place, low)


@pytest.mark.parametrize("name", NARROW)
def test_centroids_of_spots_narrower_than_a_frame_are_not_fitted_to_noise(name: str) -> None:
    one = narrow(name)
    rows = one.used & np.isfinite(one.table.observed_frame)
    off = one.table.observed_frame[rows] - one.truth.frame[one.which[rows]]
    variance = one.table.var_frame[rows]
    # The frame is all that is known of a reflection within one frame.
    within = one.table.observed_frame[rows] % 1 == 0.5
    np.testing.assert_allclose(variance[within], 1 / 12)
    assert (np.abs(off) < 0.6).all()
    assert variance.max() < 1 / 12 + 1e-12
    table = one.table
    learned = one.found.widths.at(table.zeta, table.slow, table.fast)[rows, 0]
    border = np.abs((one.truth.frame[one.which[rows]] + 0.5) % 1 - 0.5)
    assert within[border > 5 * learned].all()
    assert not within[border < 0.5 * one.truth.sigma[one.which[rows], 0]].any()
    pulls = off / np.sqrt(variance)
    assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls))
    # Variances are upper limits if errors of predictions may be a part of the width.
    assert 0.55 < pulls.std() < 1.2
    assert abs(pulls).max() < 6


def test_fits_that_contradict_the_sums_are_flagged_and_not_merged() -> None:
    one = case("hexagonal")
    assert not one.table.has(Flag.CONTRADICTION).any()
    table, error = one.table, 0.001
    column = {
        "sum": table.intensity_sum,
        "var_sum": table.sigma_sum**2,
        "profile": table.intensity_profile.copy(),
        "var_profile": table.sigma_profile**2,
    }
    strong = np.flatnonzero(one.used & (table.intensity_sum > 20 * table.sigma_sum))[:9]
    column["profile"][strong[:3]] *= 5.0
    column["profile"][strong[3:6]] *= 0.5
    column["profile"][strong[6:]] *= 1.05
    np.testing.assert_array_equal(np.flatnonzero(contradict(column, error)), np.sort(strong[:6]))
    assert Flag.CONTRADICTION in UNFIT


# ----------------------------------------------------------------------------- bad input


def test_no_strong_reflections_are_told() -> None:
    simulation = simulated.scan("triclinic", n_frames=40, sample={"scale": 1e-6})
    with pytest.raises(HklflowError, match="strong enough for learning"):
        integrated(simulation, "triclinic")


def test_missing_frames_are_told() -> None:
    simulation = simulated.scan("triclinic", n_frames=40)
    measurement = simulated.measurement(simulation)
    frames = np.concatenate(list(measurement.blocks()))[:30]
    with pytest.raises(HklflowError, match="ended after 30 of 40"):
        integrated(simulation, "triclinic", replace(measurement, blocks=lambda: iter([frames])))
