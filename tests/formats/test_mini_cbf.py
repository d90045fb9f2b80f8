"""Headers of CBF: arm, motors, filters, imgCIF axes; measured headers and a lab instrument's."""

import json
import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn
from tests.oracles import dials_headers
from tests.truth import lcysteine

from hklflow.base.errors import HklflowError
from hklflow.formats.cbf_fields import Fields
from hklflow.formats.instruments import named
from hklflow.formats.mini_cbf import read_cbf
from hklflow.formats.raw import read_header
from hklflow.formats.text_headers import NOTHING_STATED, Choices

PIXELS = np.zeros((2527, 2463), np.int32)


def write(folder, detector="PILATUS 6M, S/N 1", number=1, **changes):
    text = dials_headers._cbf(dials_headers.PILATUS, detector, dials_headers.OLD)
    for key, line in changes.items():
        lines = [one for one in text.splitlines() if not one.startswith(f"# {key} ")]
        lines.insert(10, f"# {key} {line}")
        text = "\n".join(lines) + "\n"
    path = folder / f"a_{number:05d}.cbf"
    path.write_bytes(text.encode() + b"\x0c\x1a\x04\xd5")
    return path


def header_of(path, **choices):
    return read_cbf([path], PIXELS, Choices(**choices) if choices else NOTHING_STATED)


def test_an_arm_without_a_known_axis_is_refused(tmp_path):
    header = header_of(write(tmp_path, Detector_2theta="30.0000 deg."))
    assert header.detector is None
    assert "arm is at 30 degrees" in header.detector_doubt
    assert "--option arm=" in header.detector_doubt


def test_a_stated_arm_turns_the_detector_about_the_sample(tmp_path):
    path = write(tmp_path, Detector_2theta="30.0000 deg.")
    flat = header_of(write(tmp_path, number=2)).detector
    moved = header_of(path, arm=(-1.0, 0.0, 0.0)).detector
    turn = Turn.from_rotvec([-np.radians(30), 0, 0]).as_matrix()
    points = [[0, 0], [2527, 0], [0, 2463], [1260.5, 1220]]
    for point in points:
        np.testing.assert_allclose(moved.lab(*point), turn @ flat.lab(*point), atol=1e-12)
    # The ray at 30 degrees hits the beam centre; -x turns the detector upwards.
    np.testing.assert_allclose(moved.lab(1260.5, 1220), 0.25 * np.array([0, 0.5, 0.75**0.5]))


@pytest.mark.parametrize("name", ["ESRF-ID23", "BESSY-14.2"])
def test_arms_of_named_instruments(tmp_path, name):
    """Their two_theta is about +x of imgCIF, which is -x of the lab."""
    path = write(tmp_path, Detector_2theta="12.0 deg.")
    header = header_of(path, instrument=named("CBF", name))
    s, c = np.sin(np.radians(12)), np.cos(np.radians(12))
    np.testing.assert_allclose(
        header.detector.lab(1260.5, 1220), [0, 0.25 * s, 0.25 * c], atol=1e-9
    )
    assert any(name.split("-")[0] in note or "COMCIFS" in note for note in header.notes)
    np.testing.assert_allclose(header.goniometer.axes, [[-1, 0, 0]])


STOE = """###CBF: VERSION 1.5, XI2CBF v1.2 (25May2022) Stoe&Cie GmbH
_array_data.header_convention PILATUS_1.2
_array_data.header_contents
;
# Detector: Pilatus100K
# Pixel_size 1.720000e-04 m x 1.720000e-04 m
# Silicon sensor, thickness 1000.000000 m
# Exposure_time 60.000000 s
# Wavelength 0.560834 A
# Detector_distance 0.040000 m
# Start_angle 151.261000 deg.
# Angle_increment 1.000000 deg.
# Detector_2theta -23.400000 deg.
# Phi -5.000000 deg.
# Phi_increment 0.000000 deg.
# Chi -30.183000 deg.
# Omega 151.261000 deg.
# Omega_increment 1.000000 deg.
# Oscillation_axis OMEGA
;
"""


def test_a_laboratory_instrument_with_an_arm(tmp_path):
    """The header is that of dxtbx issue 628, the axes those of COMCIFS's stoe_stadivari."""
    path = tmp_path / "stoe_00001.cbf"
    path.write_bytes(STOE.encode() + b"\x0c\x1a\x04\xd5")
    header = read_cbf([path], np.zeros((487, 195), np.int32), NOTHING_STATED)
    from_imgcif = np.diag([-1.0, 1.0, -1.0])
    goniometer = header.goniometer
    assert goniometer.names == ("omega", "chi", "phi")
    np.testing.assert_allclose(
        goniometer.axes, np.array([[1, 0, 0], [0, 0, -1], [1, 0, 0]]) @ from_imgcif
    )
    np.testing.assert_allclose(np.degrees(goniometer.angles)[1:], [-30.183, -5.0])
    # detx along -y and dety along -x from the corner (41.882, 16.7, 0), 40 mm away, about +x.
    turn = Turn.from_rotvec([np.radians(-23.4), 0, 0]).as_matrix()
    for slow, fast in ((0, 0), (487, 0), (0, 195)):
        place = np.array([41.882 - 0.172 * slow, 16.7 - 0.172 * fast, -40.0])
        ours = 1e3 * header.detector.lab(slow, fast)
        np.testing.assert_allclose(ours, from_imgcif @ turn @ place, atol=0.1)
    assert header.detector.sensor_thickness is None
    assert any("1000 m thick" in note for note in header.notes)
    assert any("no beam centre" in note for note in header.notes)


@pytest.mark.parametrize(
    ("value", "detector", "expected", "words"),
    [
        ("30.0400", "PILATUS 2M, S/N 9", 0.3004, "above 1, so it is in per cent"),
        ("100.0000", "PILATUS 2M, S/N 9", 1.0, "per cent"),
        ("0.5", "PILATUS 2M, S/N 24-0107 Diamond", 0.005, "in per cent"),
        ("0.5", "PILATUS 2M, S/N 9", 0.5, "taken as a fraction"),
        ("1.0000", "PILATUS 2M, S/N 9", 1.0, "1 is taken as a fraction"),
        ("0.0000", "PILATUS 2M, S/N 9", None, None),
    ],
)
def test_unit_of_filters(tmp_path, value, detector, expected, words):
    header = header_of(write(tmp_path, detector, Filter_transmission=value))
    assert (
        header.transmission == pytest.approx(expected) if expected else header.transmission is None
    )
    said = [note for note in header.notes or () if "Filter_transmission" in note]
    assert (words is None and not said) or words in said[0]


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        ("120", None, "Filter_transmission is 120 in frame 0"),
        ("-0.5", None, "is -0.5 in frame 0"),
        ("30.0", "fraction", "is 30 in frame 0"),
    ],
)
def test_an_impossible_transmission_is_refused(tmp_path, value, unit, told):
    path = write(tmp_path, Filter_transmission=value)
    with pytest.raises(HklflowError, match=told) as error:
        read_cbf([path], PIXELS, Choices(transmission=unit))
    assert str(path) in str(error.value)
    assert header_of(path, transmission="none").transmission is None


def test_empty_fields_are_no_values(tmp_path):
    """0 is what camserver writes where nobody filled in a field."""
    assert header_of(write(tmp_path, Polarization="0.000")).polarization is None
    assert header_of(write(tmp_path, Polarization="0.990")).polarization == 0.99
    header = header_of(write(tmp_path, Beam_xy="(0.00, 0.00) pixels"))
    assert header.detector is None
    assert "Beam_xy is (0, 0)" in header.detector_doubt


def series(folder, n=3, **columns):
    """Images that start 0.1 degrees apart; a column has the text of a field for each image."""
    return [
        write(
            folder,
            number=i + 1,
            Start_angle=f"{10 + 0.1 * i:.4f} deg.",
            **{key: values[i] for key, values in columns.items()},
        )
        for i in range(n)
    ]


def test_one_frame_without_flux_is_named(tmp_path):
    paths = series(tmp_path, Flux=["5.0 ph/s", "0.0 ph/s", "6.0 ph/s"])
    header = read_cbf(paths, PIXELS, NOTHING_STATED)
    np.testing.assert_array_equal(header.monitor, [5, 0, 6])  # a job refuses frame 1
    told = " ".join(header.notes)
    assert f"Flux is 0 in frame 1 ({paths[1]})" in told
    assert "leave_out: [1]" in told
    paths = series(tmp_path, Flux=["0.0 ph/s"] * 3)
    header = read_cbf(paths, PIXELS, NOTHING_STATED)
    assert header.monitor is None
    assert not any("Flux" in note for note in header.notes or ())
    paths = series(tmp_path, Flux=["5.0", "7.0", "6.0"], Filter_transmission=["0.5", "0.0", "0.5"])
    header = read_cbf(paths, PIXELS, NOTHING_STATED)
    np.testing.assert_array_equal(header.monitor, [5, 7, 6])
    np.testing.assert_array_equal(header.transmission, [0.5, 0, 0.5])
    assert any("Filter_transmission is 0 in frame 1" in note for note in header.notes)


def test_filters_change_during_a_scan(tmp_path):
    values, starts = ["0.5", "100", "20"], ["10", "10.1", "10.2"]
    paths = [
        write(tmp_path, number=i + 1, Filter_transmission=value, Start_angle=f"{start} deg.")
        for i, (value, start) in enumerate(zip(values, starts, strict=True))
    ]
    header = read_cbf(paths, PIXELS, NOTHING_STATED)
    # One unit for all frames: 0.5 per cent, not a half.
    np.testing.assert_allclose(header.transmission, [0.005, 1.0, 0.2])
    header = read_cbf(paths[:1], PIXELS, Choices(transmission="percent"))
    assert header.transmission == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("motors", "expected"),
    [
        ({"Chi": 10.0, "Kappa": 0.0, "Alpha": 0.0}, {"chi": 10.0}),
        ({"Chi": 10.0, "Kappa": 0.0}, {"chi": 10.0}),
        ({"Chi": 0.0, "Kappa": 0.0, "Alpha": 50.0}, {"kappa": 0.0}),
        ({"Chi": 0.0, "Kappa": 20.0, "Alpha": 50.0}, {"kappa": 20.0}),
        ({"Kappa": 0.0}, {"kappa": 0.0}),
    ],
)
def test_motors_that_exist(tmp_path, motors, expected):
    text = dials_headers._cbf(dials_headers.PILATUS, "x", dials_headers.OLD, **motors)
    assert Fields(text, tmp_path).settings() == expected


@pytest.mark.parametrize(
    ("axis", "increments", "expected"),
    [
        ("X.CW", {"Omega": 0.1, "Phi": 0.0}, "omega"),
        ("X, CW", {"Omega": 0.0, "Phi": 0.1}, "phi"),
        ("X.CW", {}, None),
        ("OMEGA", {}, "omega"),
        ("GON_PHI", {}, "phi"),
        ("(nil)", {"Omega": 0.1}, "omega"),
    ],
)
def test_the_scanned_motor(tmp_path, axis, increments, expected):
    steps = {f"{name}_increment": value for name, value in increments.items()}
    text = dials_headers._cbf(
        dials_headers.PILATUS, "x", dials_headers.OLD, axis=axis, Omega=1.0, Phi=2.0, **steps
    )
    assert Fields(text, tmp_path).scanned() == expected


def test_two_motors_that_move_are_refused(tmp_path):
    text = dials_headers._cbf(
        dials_headers.PILATUS, "x", dials_headers.OLD, Omega_increment=0.1, Phi_increment=0.1
    )
    with pytest.raises(HklflowError, match="omega, phi move during the scan"):
        Fields(text, tmp_path).scanned()


def test_what_is_not_used_is_listed(tmp_path):
    path = write(tmp_path, Detector_Voffset="0.05000 m")
    listed = " ".join(Fields(path.read_text("latin-1"), path).unused())
    assert "Threshold_setting 6330 eV" in listed
    assert "Detector_Voffset 0.05000 m" in listed
    assert "Wavelength" not in listed


@pytest.mark.real_data
@pytest.mark.parametrize("sweep", ["01", "02", "03", "04"])
def test_arm_and_axes_of_lcysteine(real_data, sweep):
    """The header's geometry, and what DIALS refined from the full sweep."""
    folder = real_data / "rotation_lcysteine"
    header = read_header(folder / f"l-cyst_{sweep}_#####.cbf.gz")
    theirs = json.loads((folder / "reference.json").read_text())["sweeps"][sweep]
    from_dials = np.diag([-1.0, 1.0, -1.0])
    by_hand = lcysteine.rotation(sweep)
    np.testing.assert_allclose(header.detector.origin, by_hand.detector.origin, atol=1e-9)
    np.testing.assert_allclose(header.goniometer.axes, by_hand.goniometer.axes, atol=1e-9)
    scan = header.goniometer.scan
    assert header.goniometer.names[scan] == ("phi" if sweep == "04" else "omega")
    assert header.start_deg == theirs["start_deg"]
    assert header.step_deg == pytest.approx(theirs["step_deg"])
    np.testing.assert_allclose(
        header.goniometer.scan_axis_lab(), from_dials @ theirs["rotation_axis"], atol=1e-3
    )
    fixed = from_dials @ np.reshape(theirs["fixed_rotation"], (3, 3)) @ from_dials
    np.testing.assert_allclose(header.goniometer.inner(), fixed, atol=1e-3)
    # Refinement moved the detector by mm, not by the arm's 30 degrees. Rotations about the beam are
    # shared between the detector, the tilt of the beam and the crystal.
    fast, slow = (from_dials @ theirs[f"detector_{key}"] for key in ("fast", "slow"))
    assert np.degrees(np.arccos(abs(np.cross(fast, slow) @ header.detector.normal))) < 0.25
    assert np.degrees(np.arccos(fast @ header.detector.fast)) < 1.6
    origin = from_dials @ theirs["detector_origin_mm"]
    centre = origin + 0.172 * (1475 / 2 * fast + 1679 / 2 * slow)
    assert np.linalg.norm(1e3 * header.detector.lab(1679 / 2, 1475 / 2) - centre) < 2
    assert header.detector.distance == pytest.approx(0.16)
    assert header.transmission == 1.0


IMGCIF = """
loop_
_diffrn_scan_axis.scan_id
_diffrn_scan_axis.axis_id
_diffrn_scan_axis.angle_start
_diffrn_scan_axis.angle_increment
_diffrn_scan_axis.displacement_start
S GON_OMEGA 10.0 0.1 0.0
S GON_KAPPA 20.0 0.0 0.0
S DET_2THETA 15.0 0.0 0.0
S DET_Z 0.0 0.0 250.0
loop_
_axis.id
_axis.type
_axis.equipment
_axis.depends_on
_axis.vector[1] _axis.vector[2] _axis.vector[3]
_axis.offset[1] _axis.offset[2] _axis.offset[3]
GON_OMEGA  rotation    goniometer .          0 1 0 . . .
GON_KAPPA  rotation    goniometer GON_OMEGA  0 0.6 0.8 . . .
SOURCE     general     source     .          0 0 1 . . .
GRAVITY    general     gravity    .          {gravity} . . .
DET_2THETA rotation    detector   .          0 1 0 . . .
DET_Z      translation detector   DET_2THETA 0 0 -1 0 0 0
ELEMENT_X  translation detector   DET_Z      1 0 0 -209.84 216.806 0
ELEMENT_Y  translation detector   ELEMENT_X  0 -1 0 0 0 0
loop_
_array_structure_list.array_id
_array_structure_list.index
_array_structure_list.dimension
_array_structure_list.precedence
_array_structure_list.direction
_array_structure_list.axis_set_id
A 1 2463 1 increasing ELEMENT_X
A 2 2527 2 increasing ELEMENT_Y
loop_
_array_structure_list_axis.axis_set_id
_array_structure_list_axis.axis_id
_array_structure_list_axis.displacement
_array_structure_list_axis.displacement_increment
ELEMENT_X ELEMENT_X 0.086 0.172
ELEMENT_Y ELEMENT_Y 0.086 0.172
"""


def with_axes(folder, axes):
    path = write(folder)
    text = path.read_text("latin-1").replace("\n_array_data.data", f"{axes}\n_array_data.data", 1)
    path.write_bytes(text.encode("latin-1"))
    return path


def test_full_cbf_axes(tmp_path):
    """The first pixel's centre is at its displacement: the corner is half a pixel before."""
    path = with_axes(tmp_path, IMGCIF.format(gravity="0 -1 0"))
    header = header_of(path)
    turn = Turn.from_rotvec([0, np.radians(15), 0]).as_matrix()
    from_imgcif = np.diag([-1.0, 1.0, -1.0])
    corner = from_imgcif @ turn @ [-209.84, 216.806, -250.0]
    np.testing.assert_allclose(1e3 * header.detector.lab(0, 0), corner, atol=1e-9)
    np.testing.assert_allclose(header.detector.fast, from_imgcif @ turn @ [1, 0, 0], atol=1e-12)
    assert header.detector.pixel_size == pytest.approx((172e-6, 172e-6))
    assert header.goniometer.names == ("omega", "kappa")
    np.testing.assert_allclose(header.goniometer.axes, [[0, 1, 0], [0, 0.6, -0.8]], atol=1e-12)
    assert np.degrees(header.goniometer.angles[1]) == pytest.approx(20)
    assert (header.start_deg, header.step_deg) == (10.0, 0.1)
    told = " ".join(header.notes)
    assert "Detector_2theta is 0 degrees in the text header, but 15" in told


def series_with_axes(folder, text_start, text_step=0.1):
    """Three images whose imgCIF axes start at 10, 10.1 and 10.2 degrees."""
    paths = []
    for i in range(3):
        axes = IMGCIF.format(gravity="0 -1 0").replace("OMEGA 10.0", f"OMEGA {10 + 0.1 * i:.1f}")
        path = with_axes(folder, axes)
        text = path.read_text("latin-1")
        for key, value in (
            ("Start_angle", f"{text_start + i * text_step:.4f} deg."),
            ("Angle_increment", f"{text_step:.4f} deg."),
        ):
            text = re.sub(rf"# {key} .*", f"# {key} {value}", text)
        paths.append(path.with_name(f"s_{i + 1:05d}.cbf"))
        paths[-1].write_bytes(text.encode("latin-1"))
    return paths


@pytest.mark.parametrize(("start", "step"), [(100.0, 0.1), (100.0, -0.1), (10.0, 0.2)])
def test_angles_of_the_axes_go_before_those_of_the_text_header(tmp_path, start, step):
    """Docs: the contradiction is reported and the axes are used."""
    paths = series_with_axes(tmp_path, start, step)
    header = read_cbf(paths, PIXELS, NOTHING_STATED)
    assert (header.start_deg, header.step_deg) == (10.0, 0.1)
    assert any(f"Start_angle {start:g}" in note for note in header.notes)
    with pytest.raises(HklflowError, match="frames are missing"):
        read_cbf([paths[0], paths[2]], PIXELS, NOTHING_STATED)


def test_what_is_stated_goes_before_imgcif_axes(tmp_path):
    path = with_axes(tmp_path, IMGCIF.format(gravity="0 -1 0"))
    header = header_of(path, instrument=named("CBF", "ESRF-ID23"))
    np.testing.assert_allclose(header.goniometer.axes, [[-1, 0, 0]])
    np.testing.assert_allclose(header.detector.lab(1260.5, 1220), [0, 0, 0.25], atol=1e-12)
    assert any("imgCIF axes are not used" in note for note in header.notes)
    # The arm is at 15 degrees in the axes; -x turns the detector of the text header upwards.
    header = header_of(path, arm=(-1.0, 0.0, 0.0))
    s, c = np.sin(np.radians(15)), np.cos(np.radians(15))
    np.testing.assert_allclose(header.detector.lab(1260.5, 1220), [0, 0.25 * s, 0.25 * c])
    header = header_of(path, axis="kappa", start_deg=5.0, step_deg=0.2)
    assert header.goniometer.names[header.goniometer.scan] == "kappa"
    assert (header.start_deg, header.step_deg) == (5.0, 0.2)
    for axis, told in (("phi", "none of the imgCIF axes"), ("kappa", "omega moves")):
        with pytest.raises(HklflowError, match=told):
            header_of(path, axis=axis)


def test_an_arm_needs_the_detector_of_the_text_header(tmp_path):
    path = with_axes(tmp_path, IMGCIF.format(gravity="0 -1 0"))
    path.write_text(path.read_text("latin-1").replace("# Beam_xy", "# Unknown"), "latin-1")
    with pytest.raises(HklflowError, match="leave the option out"):
        header_of(path, arm=(-1.0, 0.0, 0.0))


def test_gravity_says_what_is_up(tmp_path):
    """Gravity along x of imgCIF: up is -x, the beam -z, so lab x (up times beam) is -y."""
    header = header_of(with_axes(tmp_path, IMGCIF.format(gravity="1 0 0")))
    np.testing.assert_allclose(header.goniometer.axes[0], [-1, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("GON_OMEGA 10.0 0.1", "GON_OMEGA 10.0 x", "damaged or incomplete"),
        ("GON_KAPPA 20.0 0.0", "GON_KAPPA 20.0 0.1", "omega, kappa|GON_OMEGA, GON_KAPPA"),
        ("GON_OMEGA  0 0.6 0.8", "GON_OMEGA  0 0 0", "no direction"),
        ("goniometer .          0 1 0", "goniometer GON_KAPPA 0 1 0", "depends on itself"),
    ],
)  # fmt: skip
def test_broken_axes_are_refused(tmp_path, old, new, message):
    axes = IMGCIF.format(gravity="0 -1 0")
    assert old in axes
    with pytest.raises(HklflowError, match=message):
        header_of(with_axes(tmp_path, axes.replace(old, new)))


def test_a_detector_of_another_size_is_taken_from_the_text_header(tmp_path):
    axes = IMGCIF.format(gravity="0 -1 0").replace("A 1 2463", "A 1 2464")
    header = header_of(with_axes(tmp_path, axes))
    np.testing.assert_allclose(header.detector.lab(1260.5, 1220), [0, 0, 0.25], atol=1e-12)
    assert any("2464 pixels where the image has 2463" in note for note in header.notes)
