"""`geometry.rotation` against the simulator's own geometry and scipy; see also test_refinement."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Turn

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.geometry import prediction
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)

KAPPA_AXES = ((0.0, 1.0, 0.0), (0.0, 0.6, 0.8), (-1.0, 0.2, 0.1))


def rotation_of(simulation: Simulation) -> geometry.Rotation:
    """Geometry for the reduction, from what the raw file says."""
    header = simulation.raw_header()
    return geometry.Rotation(
        geometry.Beam(header["wavelength"], header["polarization"]),
        geometry.Detector(
            header["shape"],
            header["pixel_size"],
            header["origin"],
            header["slow"],
            header["fast"],
            header["sensor_thickness"],
            simulation.detector.sensor_attenuation,
        ),
        geometry.Goniometer(
            header["axis_names"], header["axes"], header["angles"], header["scan_axis"]
        ),
        geometry.Scan(header["start"], header["step"], header["n_frames"]),
    )


def simulated(
    cell: tuple[float, ...] = (5.2, 7.1, 9.8, 81.0, 97.0, 108.0),
    scanned: int = 2,
    angles: tuple[float, ...] = (0.3, -0.8, 0.5),
    **scan: Any,
) -> Simulation:
    model: dict[str, Any] = {
        "start": -1.1,
        "step": 0.005,
        "n_frames": 500,
        "wavelength": 0.6,
        **scan,
    }
    return Simulation(
        DetectorModel(
            (300, 340),
            distance=0.15,
            foot=(120.0, 190.0),
            pixel_size=(4e-4, 3e-4),
            tilt=(0.21, -0.13),
            in_plane=0.4,
        ),
        GoniometerModel(KAPPA_AXES, angles, ("omega", "kappa", "phi"), scanned),
        ScanModel(**model),
        CrystalModel(
            (cell[0], cell[1], cell[2], cell[3], cell[4], cell[5]),
            orientation=(0.4, -1.2, 0.7),
            scale=1.0,
            b_iso=0.1,
        ),
    )


def assert_same_peaks(simulation: Simulation) -> int:
    """All true peaks are predicted, and nothing else but grazing ones; number of peaks."""
    truth, rotation = simulation.true_peaks(), rotation_of(simulation)
    hkl = np.unique(truth.hkl, axis=0)
    seen = prediction.predict(rotation, simulation.ub, hkl)
    # The simulator leaves out what grazes the sphere (zeta below 0.03).
    kept = seen.zeta > 0.03
    rows = np.column_stack([hkl[seen.index], seen.frame])[kept]
    order, true_order = (
        np.lexsort(a.T[::-1]) for a in (rows, np.column_stack([truth.hkl, truth.frame]))
    )
    assert len(order) == len(true_order)
    assert np.array_equal(rows[order, :3], truth.hkl[true_order])
    # Near tangency the angle is the root of a small number: an error of 1e-16 grows as 1/zeta.
    bound = 1e-9 + 1e-11 / truth.zeta[true_order]
    for name in ("frame", "slow", "fast"):
        ours = getattr(seen, name)[kept][order]
        assert np.all(np.abs(ours - getattr(truth, name)[true_order]) < bound)
    assert seen.zeta[kept][order] == pytest.approx(truth.zeta[true_order], abs=1e-9)
    return len(order)


@pytest.mark.parametrize("scanned", [0, 1, 2])
def test_predicted_peaks_are_the_simulators(scanned: int) -> None:
    assert assert_same_peaks(simulated(scanned=scanned)) > 100


@pytest.mark.parametrize(
    "cell", [(4.1, 4.1, 4.1, 90.0, 90.0, 90.0), (4.9, 4.9, 8.1, 90.0, 90.0, 120.0)]
)
def test_predicted_peaks_of_other_cells(cell: tuple[float, ...]) -> None:
    assert assert_same_peaks(simulated(cell)) > 30


def test_a_scan_backwards() -> None:
    assert assert_same_peaks(simulated(start=1.4, step=-0.005)) > 100


def test_more_than_a_full_turn_sees_reflections_again() -> None:
    turn = 400
    once = simulated(step=2 * np.pi / turn, n_frames=turn)
    twice = simulated(step=2 * np.pi / turn, n_frames=2 * turn)
    more = simulated(step=2 * np.pi / turn, n_frames=turn + 90)
    n = assert_same_peaks(once)
    assert assert_same_peaks(twice) == 2 * n
    assert n < assert_same_peaks(more) < 2 * n
    hkl = np.unique(once.true_peaks().hkl, axis=0)
    first, both = (prediction.predict(rotation_of(s), s.ub, hkl) for s in (once, twice))
    expected = np.sort(np.concatenate([first.frame, first.frame + turn]))
    assert np.sort(both.frame) == pytest.approx(expected, abs=1e-9)


def test_crossings_lie_on_the_ewald_sphere() -> None:
    simulation = simulated()
    rotation, k = rotation_of(simulation), simulation.scan.k
    hkl = np.random.default_rng(1).uniform(-9, 9, (400, 3))
    angles, q_lab = prediction.ewald_crossings(rotation, simulation.ub, hkl)
    crosses = np.isfinite(angles[:, 0])
    assert 0.3 < crosses.mean() < 1
    assert np.array_equal(crosses, np.isfinite(angles[:, 1]))
    # Q from the simulator's rotation at these angles, and |k z + Q| = k.
    turned = simulation.goniometer.rotation(angles[crosses].ravel())
    q = np.einsum("nij,nj->ni", turned, np.repeat(hkl[crosses] @ simulation.ub.T, 2, axis=0))
    assert q_lab[crosses].reshape(-1, 3) == pytest.approx(q, abs=1e-12)
    assert np.linalg.norm(q + np.array([0, 0, k]), axis=1) == pytest.approx(k, rel=1e-12)


def test_what_never_crosses_is_not_predicted() -> None:
    simulation = simulated()
    rotation = rotation_of(simulation)
    along = rotation.goniometer.scan_axis_lab()
    inner = np.linalg.inv(rotation.goniometer.rotation(0.0) @ simulation.ub)
    # The origin, a vector longer than the sphere, and one along the rotation axis.
    hkl = np.array([[0.0, 0.0, 0.0], [40.0, 0.0, 0.0], inner @ along * 3])
    assert len(prediction.predict(rotation, simulation.ub, hkl).index) == 0


def test_margin_takes_in_what_is_just_outside() -> None:
    simulation = simulated()
    rotation = rotation_of(simulation)
    reach = np.arange(-12, 13)
    hkl = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), -1).reshape(-1, 3)
    inside, wide = (prediction.predict(rotation, simulation.ub, hkl, m) for m in (0.0, 20.0))
    position = np.stack([wide.frame, wide.slow, wide.fast], 1)
    limits = np.array([500, 300, 340])
    assert np.all((position >= -20 - 1e-9) & (position <= limits + 20 + 1e-9))
    within = np.all((position >= 0) & (position <= limits), axis=1)
    assert within.sum() == len(inside.index) < len(within)


angle = st.floats(-3.1, 3.1)
component = st.floats(-1, 1)


@settings(max_examples=100, deadline=None)
@given(
    axes=st.lists(st.tuples(component, component, component), min_size=1, max_size=4),
    angles=st.lists(angle, min_size=4, max_size=4),
    scanned=st.integers(0, 3),
    at=st.lists(angle, min_size=1, max_size=3),
)
def test_goniometer_chain_is_scipys(
    axes: list[tuple[float, float, float]], angles: list[float], scanned: int, at: list[float]
) -> None:
    n = len(axes)
    # No axis may be zero: the one of largest component 1 is added to each in turn.
    lab = np.array(axes) + 2 * np.eye(3)[np.arange(n) % 3]
    scanned %= n
    goniometer = geometry.Goniometer(tuple("abcd"[:n]), lab, np.array(angles[:n]), scanned)
    ours = goniometer.rotation(np.array(at))
    for matrix, value in zip(ours, at, strict=True):
        expected = Turn.identity()
        for i, axis in enumerate(lab):
            by = value if i == scanned else angles[i]
            expected = expected * Turn.from_rotvec(by * axis / np.linalg.norm(axis))
        assert np.abs(matrix - expected.as_matrix()).max() < 1e-12
        # outer · R(axis) · inner, with the axis as it stands in the lab.
        again = geometry.rotation_matrix(goniometer.scan_axis_lab(), value)
        again = again @ goniometer.rotation(0.0)
        assert np.abs(matrix - again).max() < 1e-12
    outer = goniometer.rotation(0.0) @ goniometer.inner().T
    assert np.abs(outer @ goniometer.axes[scanned] - goniometer.scan_axis_lab()).max() < 1e-12


def random_detector(turn: tuple[float, ...], foot: tuple[float, float]) -> geometry.Detector:
    frame = Turn.from_rotvec(turn).as_matrix()
    slow, fast, normal = frame @ [0, -1, 0], frame @ [-1, 0, 0], frame @ [0, 0, 1]
    origin = 0.2 * normal - foot[0] * 1e-3 * slow - foot[1] * 2e-3 * fast
    return geometry.Detector((100, 80), (1e-3, 2e-3), origin, slow, fast)


@settings(max_examples=100, deadline=None)
@given(
    turn=st.tuples(angle, angle, angle),
    foot=st.tuples(st.floats(-200, 300), st.floats(-100, 200)),
    at=st.tuples(st.floats(-50, 150), st.floats(-50, 130)),
    length=st.floats(0.01, 100),
)
def test_intersect_is_the_inverse_of_lab(
    turn: tuple[float, float, float],
    foot: tuple[float, float],
    at: tuple[float, float],
    length: float,
) -> None:
    # Any orientation at all, also behind the sample or turned about by more than 90 degrees.
    detector = random_detector(turn, foot)
    position = detector.lab(*at)
    slow, fast = detector.intersect(position * length)
    assert [float(slow), float(fast)] == pytest.approx(at, abs=1e-9)
    away_slow, away_fast = detector.intersect(-position)
    assert np.isnan(away_slow)
    assert np.isnan(away_fast)
    assert detector.distance == pytest.approx(0.2, abs=1e-12)


def test_positions_and_q_are_the_simulators() -> None:
    simulation = simulated()
    rotation = rotation_of(simulation)
    rng = np.random.default_rng(2)
    frame, slow, fast = rng.uniform(0, 1, (3, 200)) * np.array([[500.0], [300.0], [340.0]])
    rays = simulation.detector.rays(slow, fast)
    position = rotation.detector.lab(slow, fast)
    unit = position / np.linalg.norm(position, axis=1, keepdims=True)
    assert unit == pytest.approx(rays, abs=1e-14)
    q = simulation.scan.k * (rays - [0, 0, 1])
    assert rotation.q_lab(slow, fast) == pytest.approx(q, abs=1e-12)
    hkl = rotation.hkl(simulation.ub, frame, slow, fast)
    assert hkl == pytest.approx(simulation.hkl(frame, slow, fast), abs=1e-11)
    assert geometry.q_max(rotation) >= np.linalg.norm(q, axis=1).max()
    corners = simulation.detector.rays([0, 0, 300, 300], [0, 340, 0, 340]) - np.array([0, 0, 1])
    largest = simulation.scan.k * np.linalg.norm(corners, axis=1).max()
    assert geometry.q_max(rotation) == pytest.approx(largest, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(shift=st.tuples(*[st.floats(-0.05, 0.05)] * 3), turn=st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_a_moved_detector_turns_about_its_centre(
    shift: tuple[float, float, float], turn: tuple[float, float, float]
) -> None:
    detector = random_detector((0.2, -0.3, 0.5), (40.0, 30.0))
    there = detector.moved(shift, turn)
    slow, fast = np.array([0.0, 100.0, 13.0, 50.0]), np.array([0.0, 80.0, 70.0, 40.0])
    before, after = detector.lab(slow, fast), there.lab(slow, fast)
    centre = detector.lab(50.0, 40.0)
    expected = centre + Turn.from_rotvec(turn).apply(before - centre) + np.array(shift)
    assert after == pytest.approx(expected, abs=1e-12)


def test_json_round_trip() -> None:
    simulation = simulated()
    rotation = rotation_of(simulation)
    again = geometry.from_dict(geometry.to_dict(rotation))
    at = (np.array([3.3, 400.0]), np.array([10.0, 299.0]), np.array([330.0, 1.5]))
    assert again.hkl(simulation.ub, *at) == pytest.approx(rotation.hkl(simulation.ub, *at))
    assert again.beam == rotation.beam
    assert again.scan.n_frames == 500
    assert again.detector.sensor_thickness == rotation.detector.sensor_thickness


def test_bad_axes_are_refused() -> None:
    detector = random_detector((0.1, 0.2, 0.3), (0.0, 0.0))
    with pytest.raises(HklflowError, match="orthogonal unit vectors"):
        replace(detector, slow=detector.slow + 0.01 * detector.fast)
    with pytest.raises(HklflowError, match="orthogonal unit vectors"):
        replace(detector, slow=1.01 * detector.slow)
    with pytest.raises(HklflowError, match="axes must be finite and not zero"):
        geometry.Goniometer(("a", "b"), np.array([[0, 1, 0], [0, 0, 0]]), np.zeros(2), 0)
    for value in (np.nan, np.inf, 1e300):
        with (
            np.errstate(over="ignore"),
            pytest.raises(HklflowError, match="axes must be finite and not zero"),
        ):
            geometry.Goniometer(("a",), np.array([[0, value, 0]]), np.zeros(1), 0)
    with pytest.raises(HklflowError, match="1 names, 2 axes"):
        geometry.Goniometer(("a",), np.eye(3)[:2], np.zeros(2), 0)
