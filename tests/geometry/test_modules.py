"""Displaced modules: laws, the simulator's rays, and what becomes of a volume."""

import json
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.formats import poni
from hklflow.formats.nxtransformations import axis_vector, placement
from hklflow.geometry import corrections, prediction, rays
from hklflow.geometry.grid import Grid, pixel_pitch
from hklflow.geometry.modules import Modules
from hklflow.images.scan import RotationScan
from hklflow.nexus import read_scan, write_scan
from hklflow.simulation.frames import (
    Cosine,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.transform.binning import Accumulator

SHAPE = (90, 100)
PIXEL = (5e-4, 4e-4)
ASPECT = 0.8
# Two by two with gaps of 6 and 4 pixels, and one row at the end that belongs to none.
BOXES = np.array([[0, 40, 0, 48], [0, 40, 52, 100], [46, 89, 0, 48], [46, 89, 52, 100]])
SHIFT = np.array([[0.7, -1.3], [-0.4, 0.6], [1.5, 0.2], [-0.9, -0.8]])
TURN = np.array([0.01, -0.02, 0.004, -0.013])
FOOT = (42.0, 51.0)


def flat(modules: Modules | None = None, foot: tuple[float, float] = FOOT) -> geometry.Detector:
    slow, fast = np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0])
    origin = np.array([0, 0, 0.08]) - foot[0] * PIXEL[0] * slow - foot[1] * PIXEL[1] * fast
    return geometry.Detector(SHAPE, PIXEL, origin, slow, fast, 4.5e-4, 700.0, modules)


def displaced() -> Modules:
    return Modules(BOXES, SHIFT, TURN, ASPECT)


def tilted(modules: Modules | None) -> geometry.Detector:
    return flat(modules).moved([0.003, 0.002, 0.01], [0.2, -0.3, 0.4])


def module_models() -> list[DetectorModel]:
    """The simulator's detector turned and shifted as a whole like each of the modules."""
    models = []
    for box, shift, turn in zip(BOXES, SHIFT, TURN, strict=True):
        centre = np.array([box[0] + box[1], box[2] + box[3]]) / 2
        # Lengths along slow and fast, in pixels along slow.
        size = np.array([1.0, ASPECT])
        to_foot = (centre + shift - FOOT) * size
        back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        foot = centre - back @ to_foot / size
        # About +z: from fast (-x) towards slow (-y).
        models.append(
            DetectorModel(SHAPE, 0.08, (float(foot[0]), float(foot[1])), PIXEL, in_plane=-turn)
        )
    return models


def simulation(detector: DetectorModel) -> Simulation:
    return Simulation(
        detector,
        GoniometerModel(),
        ScanModel(0.0, np.radians(2.0), 12, 0.5, flux=8.0, exposure=1.0, seed=4),
        CrystalModel((5.2, 5.2, 7.1, 90.0, 90.0, 120.0), scale=0.0, mosaic=0.01),
        Diffuse(flat=2.0, cosines=(Cosine(vector=(1.3, 0.4, 0.2), amplitude=1.5),)),
    )


def rotation_of(simulated: Simulation, detector: geometry.Detector) -> geometry.Rotation:
    header = simulated.raw_header()
    return geometry.Rotation(
        geometry.Beam(header["wavelength"], header["polarization"]),
        detector,
        geometry.Goniometer(
            header["axis_names"], header["axes"], header["angles"], header["scan_axis"]
        ),
        geometry.Scan(header["start"], header["step"], header["n_frames"]),
    )


def test_rays_of_pixels_are_the_simulators() -> None:
    detector = flat(displaced())
    rng = np.random.default_rng(1)
    for box, model in zip(BOXES, module_models(), strict=True):
        slow, fast = (rng.uniform(*box[i : i + 2], 100) for i in (0, 2))
        unit = geometry.directions(detector.lab(slow, fast))
        assert unit == pytest.approx(model.rays(slow, fast), abs=1e-14)
        found = detector.intersect(model.rays(slow, fast) * 3)
        assert np.stack(found) == pytest.approx(np.stack([slow, fast]), abs=1e-9)


def test_counts_of_a_displaced_simulation_have_the_s_of_their_q() -> None:
    parts = [simulation(model) for model in module_models()]
    rotation = rotation_of(parts[0], flat(displaced()))
    middle = np.arange(12)[:, None, None] + 0.5
    hkl = rotation.hkl(parts[0].ub, middle, np.arange(90)[:, None] + 0.5, np.arange(100) + 0.5)
    norm = corrections.solid_angle(rotation.detector) * corrections.polarization(
        rotation.detector, rotation.beam.polarization
    )
    ours = parts[0].scan.frame_factor[:, None, None] * norm * parts[0].s_of_hkl(hkl)
    assert np.ptp(ours) > ours.mean()
    for (s0, s1, f0, f1), part in zip(BOXES, parts, strict=True):
        on = np.s_[:, s0:s1, f0:f1]
        assert ours[on] == pytest.approx(part.expected()[on], rel=1e-9)


@pytest.mark.slow
def test_a_module_moved_by_whole_pixels_gives_the_same_volume() -> None:
    """Its pixels are copied from where they would be, and the geometry says so."""
    simulated = simulation(DetectorModel(SHAPE, 0.08, FOOT, PIXEL))
    frames = next(simulated.frames(12))
    moves = np.array([[1, 2], [2, -1], [-3, 1], [-2, -2]])
    live, image = np.zeros(SHAPE), np.zeros_like(frames)
    image_live = np.zeros(SHAPE)
    for (s0, s1, f0, f1), (ds, df) in zip(BOXES, moves, strict=True):
        # Within the image, or there would be nothing to copy.
        s0, s1 = max(s0, -ds), min(s1, SHAPE[0] - ds)
        f0, f1 = max(f0, -df), min(f1, SHAPE[1] - df)
        to, source = np.s_[s0:s1, f0:f1], np.s_[s0 + ds : s1 + ds, f0 + df : f1 + df]
        image[:, *to] = frames[:, *source]
        live[source], image_live[to] = 1.0, 1.0
    modules = Modules(BOXES, moves, np.zeros(4), ASPECT)
    grid = Grid.symmetric((6.0, 6.0, 8.0), (0.12, 0.12, 0.16))

    def sums(detector: geometry.Detector, data: np.ndarray, use: np.ndarray) -> list[np.ndarray]:
        rotation = rotation_of(simulated, detector)
        norm = use * corrections.solid_angle(detector) * corrections.sensor_efficiency(detector)
        norm = norm * corrections.polarization(detector, 0.9)
        total = Accumulator(rotation, simulated.ub, grid, norm, np.ones(12))
        total.add(data, 0)
        assert total.inside > 0.9 * 12 * use.sum()
        return list(total.total())

    plain = sums(flat(), frames, live)
    moved = sums(flat(modules), image, image_live)
    assert np.array_equal(moved[0], plain[0])
    assert moved[1] == pytest.approx(plain[1], rel=1e-5)
    ignored = sums(flat(), image, image_live)
    assert not np.array_equal(ignored[0], plain[0])


def test_tables_of_rays_are_those_of_the_geometry() -> None:
    simulated = simulation(DetectorModel(SHAPE, 0.08, FOOT, PIXEL))
    rotation = rotation_of(simulated, tilted(displaced()))
    slow, fast = np.arange(90)[:, None], np.arange(100)
    table = np.empty((3, *SHAPE))
    rays.q_lab(rotation, (0.25, 0.75), table)
    assert np.array_equal(np.moveaxis(table, 0, -1), rotation.q_lab(slow + 0.25, fast + 0.75))
    unit = np.empty((50, 100, 3))
    rays.directions(rotation.detector, 37, unit)
    expected = geometry.directions(rotation.detector.pixel_centres())
    assert np.array_equal(unit, expected[37:87])
    x, y = expected[..., 0], expected[..., 1]
    assert rays.polarization(rotation.detector, 0.9) == pytest.approx(
        0.9 * (1 - x**2) + 0.1 * (1 - y**2), abs=1e-14
    )


def test_modules_in_place_change_no_bit() -> None:
    modules = Modules.ideal(BOXES, ASPECT)
    without, within = tilted(None), tilted(modules)
    assert np.array_equal(within.pixel_centres(), without.pixel_centres())
    towards = np.random.default_rng(3).normal([0.0, 0.0, 0.4], 0.5, (500, 3))
    for ours, theirs in zip(within.intersect(towards), without.intersect(towards), strict=True):
        assert np.isnan(theirs).any()
        assert np.array_equal(ours, theirs, equal_nan=True)


# Modules may move apart by less than their gap: beyond it, what is in no module may be taken for
# a pixel of the neighbour.
length = st.floats(-1.2, 1.2)
layouts = st.tuples(
    st.lists(st.tuples(length, length), min_size=4, max_size=4),
    st.lists(st.floats(-0.015, 0.015), min_size=4, max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(layout=layouts, seed=st.integers(0, 1000))
def test_rays_meet_the_pixels_they_are_said_to(
    layout: tuple[list[tuple[float, float]], list[float]], seed: int
) -> None:
    detector = tilted(Modules(BOXES, np.array(layout[0]), np.array(layout[1]), ASPECT))
    modules = detector.modules
    assert modules is not None
    pixels = np.random.default_rng(seed).uniform(-5, 105, (300, 2))
    rays = detector.plane.lab(*pixels.T)
    slow, fast = detector.intersect(rays)
    number = modules.module_at(slow, fast)
    on = number >= 0
    back = detector.lab(slow[on], fast[on])
    assert back == pytest.approx(rays[on], abs=1e-12)
    # Modules as detectors of their own: what one of them sees is found on a module.
    hits = np.zeros(len(rays), dtype=int)
    for m, box in enumerate(BOXES):
        patch = detector.patch(m)
        here = np.stack(patch.intersect(rays)) + box[[0, 2], None]
        inside = np.all((here >= box[[0, 2], None]) & (here < box[[1, 3], None]), axis=0)
        hits += inside
        same = inside & (number == m)
        assert np.stack([slow, fast])[:, same] == pytest.approx(here[:, same], abs=1e-9)
    assert np.array_equal(hits > 0, on)
    assert on.mean() > 0.5


def test_modules_that_touch_are_found_beyond_their_place_on_the_image() -> None:
    boxes = np.array([[0, 45, 0, 50], [0, 45, 50, 100], [45, 90, 0, 50], [45, 90, 50, 100]])
    plane = np.random.default_rng(4).uniform([3, 3], [88, 97], (2000, 2))
    # All move to larger numbers and the first ones farther: no point between them is lost.
    shift = np.array([[2.5, 2.8], [2.5, 1.1], [1.0, 2.8], [1.0, 1.1]])
    modules = Modules(boxes, shift, np.zeros(4), ASPECT)
    slow, fast = modules.undisplaced(plane[:, 0], plane[:, 1])
    assert np.all(modules.module_at(slow, fast) >= 0)
    assert np.stack(modules.displaced(slow, fast), axis=1) == pytest.approx(plane, abs=1e-12)


def test_what_is_in_a_gap_goes_with_the_nearest_module() -> None:
    modules = displaced()
    assert modules.module_at([10, 42, 89.5, 50], [10, 10, 10, 99.9]).tolist() == [0, -1, -1, 3]
    # Just beyond an edge and just within it are beside each other on the plane too.
    for inner, outer, m in (((39.999, 20), (40.001, 20), 0), ((46, 60), (45.999, 60), 3)):
        here, there = (np.array(modules.displaced(*at)) for at in (inner, outer))
        assert here == pytest.approx(there, abs=0.01)
        turn = np.array([[np.cos(TURN[m]), -np.sin(TURN[m])], [np.sin(TURN[m]), np.cos(TURN[m])]])
        size = np.array([1.0, ASPECT])
        expected = modules.centres[m] + SHIFT[m]
        expected = expected + turn @ ((np.array(inner) - modules.centres[m]) * size) / size
        assert here == pytest.approx(expected, abs=1e-12)
    slow, fast = modules.undisplaced(*modules.displaced(41.0, 20.0))
    assert (float(slow), float(fast)) == pytest.approx((41.0, 20.0), abs=1e-12)


def test_predicted_reflections_are_where_their_hkl_is() -> None:
    simulated = simulation(DetectorModel(SHAPE, 0.08, FOOT, PIXEL))
    rotation = rotation_of(simulated, tilted(displaced()))
    rotation = replace(rotation, scan=replace(rotation.scan, n_frames=180))
    reach = np.arange(-7, 8)
    hkl = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), -1).reshape(-1, 3)
    seen = prediction.predict(rotation, simulated.ub, hkl)
    modules = rotation.detector.modules
    assert modules is not None
    on = modules.module_at(seen.slow, seen.fast) >= 0
    assert on.sum() > 50
    again = rotation.hkl(simulated.ub, seen.frame[on], seen.slow[on], seen.fast[on])
    assert again == pytest.approx(hkl[seen.index[on]], abs=1e-9)


def test_the_number_of_sub_samples_does_not_see_steps_between_modules() -> None:
    # The middle of the image is where two modules meet that are far off each other.
    boxes = [[0, 45, 0, 50], [0, 45, 50, 100], [45, 90, 0, 50], [45, 90, 50, 100]]
    modules = Modules(np.array(boxes), 2 * SHIFT, TURN, ASPECT)
    simulated = simulation(DetectorModel(SHAPE, 0.08, FOOT, PIXEL))
    grid = Grid.symmetric((6.0, 6.0, 8.0), 0.1)
    pitch = [
        pixel_pitch(rotation_of(simulated, flat(m)), simulated.ub, grid) for m in (modules, None)
    ]
    assert np.array_equal(*pitch)


def test_json_and_the_scan_file_keep_modules(tmp_path: Any) -> None:
    simulated = simulation(DetectorModel(SHAPE, 0.08, FOOT, PIXEL))
    detector = tilted(displaced())
    rotation = rotation_of(simulated, detector)
    again = geometry.from_dict(json.loads(json.dumps(geometry.to_dict(rotation))))
    assert np.array_equal(again.detector.pixel_centres(), detector.pixel_centres())
    assert "modules" not in geometry.to_dict(rotation_of(simulated, flat()))["detector"]

    ones = np.ones(12)
    scan = RotationScan("raw.h5", 0, rotation, ones, ones, ones, "none", None, None)
    write_scan(tmp_path / "scan.nxs", scan, "title", None)
    back = read_scan(tmp_path / "scan.nxs").rotation.detector
    assert np.array_equal(back.pixel_centres(), detector.pixel_centres())
    # What another reader of NXmx makes of the groups: the centre of each module's first pixel.
    with h5py.File(tmp_path / "scan.nxs") as file:
        for m, box in enumerate(BOXES):
            module = file[f"entry/instrument/detector/module_{m:03d}"]
            _, at = placement(module["module_offset"])
            for name in ("slow_pixel_direction", "fast_pixel_direction"):
                at = at + 0.5 * module[name][()] * axis_vector(module[name])
            assert module["data_origin"][()].tolist() == [box[0], box[2]]
            assert module["data_size"][()].tolist() == [box[1] - box[0], box[3] - box[2]]
            assert at == pytest.approx(detector.lab(box[0] + 0.5, box[2] + 0.5), abs=1e-12)
    write_scan(tmp_path / "plain.nxs", replace(scan, rotation=again), "title", None)


def test_moving_the_detector_carries_its_modules() -> None:
    before, after = flat(displaced()), tilted(displaced())
    turn = np.linalg.lstsq(
        before.pixel_centres().reshape(-1, 3) - before.pixel_centres()[0, 0],
        after.pixel_centres().reshape(-1, 3) - after.pixel_centres()[0, 0],
    )
    # One rigid motion fits all pixels.
    assert turn[0].T @ before.slow == pytest.approx(after.slow, abs=1e-9)
    here, there = (d.pixel_centres()[::7, ::7].reshape(-1, 3) for d in (before, after))
    distances = [np.linalg.norm(p[:, None] - p, axis=2) for p in (here, there)]
    assert distances[0] == pytest.approx(distances[1], abs=1e-12)
    assert before.plane.modules is None
    assert np.array_equal(before.plane.origin, before.origin)


def test_a_poni_file_refuses_modules(tmp_path: Any) -> None:
    with pytest.raises(HklflowError, match="cannot store the displacements of the 4 modules"):
        poni.poni_from_detector(flat(displaced()))
    told = poni.poni_from_detector(flat(displaced()).plane)
    assert poni.modules_note(flat()) is None
    note = poni.modules_note(flat(displaced()))
    poni.write_poni(tmp_path / "a.poni", told, note)
    text = (tmp_path / "a.poni").read_text()
    assert "# This file describes only the mean plane" in text
    assert poni.read_poni(tmp_path / "a.poni") == told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rectangles": BOXES[:3]}, "must be"),
        ({"shift": SHIFT * np.nan}, "must be finite"),
        ({"rectangles": BOXES[:, [1, 0, 2, 3]]}, "slow0 < slow1"),
        ({"rectangles": BOXES + 0.5}, "whole pixels"),
        ({"rectangles": np.concatenate([BOXES[:3], [[30, 60, 40, 60]]])}, "share pixels"),
    ],
)
def test_bad_modules_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(HklflowError, match=message):
        replace(displaced(), **change)


def test_modules_of_another_detector_are_refused() -> None:
    with pytest.raises(HklflowError, match="reach from pixel"):
        flat(Modules.ideal(BOXES + np.array([0, 0, 1, 1]), ASPECT))
    with pytest.raises(HklflowError, match="aspect"):
        flat(Modules.ideal(BOXES))
    with pytest.raises(ValueError, match="no modules"):
        flat().patch(0)
