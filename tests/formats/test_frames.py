"""Frames of vendors' formats: pixels against fabio, geometry against DIALS and the descriptions."""

import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fabio.compression import agi_bitfield
from fabio.mar345image import Mar345Image
from fabio.marccdimage import HEADER_FORMAT, HEADER_NAMES
from fabio.OXDimage import OxdImage
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation as Turn
from tests.formats import frame_files as files
from tests.formats.dials_program import run_dials_python

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request, rotation_of
from hklflow.beamlines.frames import fabio as fabio_plugin
from hklflow.formats import marccd
from hklflow.formats.frame_headers import IMAGES, StatedDirections
from hklflow.formats.frame_table import FORMATS
from hklflow.formats.images import read_frame_facts
from hklflow.formats.oxford import unpack_ty6
from hklflow.formats.raw import open_frames, read_header
from hklflow.geometry import Detector, rotation_matrix

START, END = (10.0, 25.0, 40.0, -70.0), (10.5, 25.0, 40.0, -70.0)


def counts(rows: int, columns: int, most: int = 70_000) -> np.ndarray:
    """Few photons, some overflows, reproducible."""
    rng = np.random.default_rng(rows * columns)
    pixels = rng.poisson(2.0, (rows, columns)).astype(np.int32)
    pixels[rows // 2, ::7] += 300
    pixels[rows // 3, columns // 3] = most
    return pixels


def read(path: Path) -> np.ndarray:
    with open_frames(str(path)) as frames:
        return frames.read(0, 1)[0]


@pytest.mark.parametrize("shape", [(4, 1), (3, 16), (5, 17), (7, 53), (9, 256)])
def test_ty6_against_fabio(shape: tuple[int, int]) -> None:
    """All sizes of fields and both escapes, also in the pixels behind the last block."""
    rng = np.random.default_rng(shape[1])
    levels = [0, 1, 2, 5, 13, 100, 300, 40_000, 3_000_000]
    chances = [0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01]
    pixels = rng.choice(levels, shape, p=chances).astype(np.int32)
    pixels -= rng.integers(0, 3, shape).astype(np.int32)
    packed = agi_bitfield.compress(pixels)
    np.testing.assert_array_equal(unpack_ty6(packed, shape, Path("x")), pixels)


def test_damaged_rows_are_refused() -> None:
    packed = agi_bitfield.compress(counts(9, 256))
    for damaged in (packed[:-1], packed[:40], packed[:4] + b"\xff" * 9 + packed[13:]):
        with pytest.raises(HklflowError, match=r"x.rodhypix .*copy it again"):
            unpack_ty6(damaged, (9, 256), Path("x.rodhypix"))


def test_every_byte_may_be_wrong() -> None:
    """A wrong byte gives other pixels or an error, not a crash."""
    packed = agi_bitfield.compress(counts(3, 40))
    for at in range(len(packed)):
        damaged = packed[:at] + bytes([packed[at] ^ 0x5A]) + packed[at + 1 :]
        try:
            frame = unpack_ty6(damaged, (3, 40), Path("x"))
        except HklflowError:
            continue
        assert frame.shape == (3, 40)


def test_pixels_are_those_that_were_written(tmp_path: Path) -> None:
    small, square = counts(64, 48), counts(256, 256)
    weak = counts(64, 48, 30_000)
    written = {
        files.write_sfrm(tmp_path / "a.sfrm", small): small,
        files.write_esperanto(tmp_path / "a.esperanto", square): square,
        files.write_rodhypix(tmp_path / "a.rodhypix", small, start=START, end=END): small,
        files.write_marccd(tmp_path / "a.mccd", weak, phi=0): weak,
        files.write_raxis(tmp_path / "a.osc", weak, start=0): weak,
    }
    for path, pixels in written.items():
        frame = read(path)
        assert frame.dtype == np.int32, path
        np.testing.assert_array_equal(frame, pixels, err_msg=str(path))


@pytest.mark.parametrize("cut", [1, 4, 100, 1000, 2048])
def test_truncated_frames_are_refused(tmp_path: Path, cut: int) -> None:
    """Or whole, where only padding is lost: .sfrm pads its last table to 16 bytes."""
    small, weak = counts(64, 48), counts(64, 48, 30_000)
    for path in (
        files.write_sfrm(tmp_path / "a.sfrm", small),
        files.write_esperanto(tmp_path / "a.esperanto", counts(256, 256)),
        files.write_rodhypix(tmp_path / "a.rodhypix", small, start=START, end=END),
        files.write_marccd(tmp_path / "a.mccd", weak, phi=0),
        files.write_raxis(tmp_path / "a.osc", weak, start=0),
    ):
        whole = read(path)
        path.write_bytes(path.read_bytes()[:-cut])
        if path.suffix == ".sfrm" and cut < 16:
            np.testing.assert_array_equal(read(path), whole)
            continue
        with pytest.raises(HklflowError, match=path.name):
            read(path)


DIALS = """
import json, sys
from dxtbx.format.FormatRAXIS import FormatRAXIS
from dxtbx.format.Registry import get_format_class_for_file
FormatRAXIS.understand = staticmethod(lambda path: path.endswith(".osc"))
answers = []
for path in sys.argv[1:]:
    kind = FormatRAXIS if path.endswith(".osc") else get_format_class_for_file(path)
    frame = kind(path)
    panel, turns = frame.get_detector()[0], frame.get_goniometer()
    answers.append({
        "origin": panel.get_origin(), "fast": panel.get_fast_axis(), "slow": panel.get_slow_axis(),
        "pixel": panel.get_pixel_size(), "wavelength": frame.get_beam().get_wavelength(),
        "axis": turns.get_rotation_axis(),
        "names": list(turns.get_names()) if hasattr(turns, "get_names") else [],
        "setting": turns.get_setting_rotation(), "fixed": turns.get_fixed_rotation(),
        "scan": frame.get_scan().get_oscillation(),
    })
print(json.dumps(answers))
"""
# DIALS has z towards the source and y upwards.
FRAME = np.diag([-1.0, 1.0, -1.0])
SPINDLE = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def same_detector(detector: Detector | None, answer: dict[str, list[float]], kind: str) -> None:
    """Compare with DIALS."""
    assert detector is not None
    # In the class for R-AXIS, x runs along the spindle, downwards.
    frame = FRAME @ SPINDLE if kind == ".osc" else FRAME
    np.testing.assert_allclose(detector.fast, frame @ answer["fast"], atol=1e-9)
    np.testing.assert_allclose(detector.slow, frame @ answer["slow"], atol=1e-9)
    np.testing.assert_allclose(1e3 * np.array(detector.pixel_size)[::-1], answer["pixel"])
    off = 1e3 * detector.origin - frame @ answer["origin"]
    np.testing.assert_allclose(off, 0, atol=1e-4)


def dials_rotation(answer: dict[str, list[float]], degrees: float) -> np.ndarray:
    """Rotation of the crystal in the frame of this program."""
    setting, fixed = (np.reshape(answer[key], (3, 3)) for key in ("setting", "fixed"))
    turned = rotation_matrix(np.array(answer["axis"]), np.radians(degrees))
    return np.asarray(FRAME @ setting @ turned @ fixed @ FRAME.T)


@pytest.mark.dials
def test_geometry_against_dials(tmp_path: Path) -> None:
    pixels = counts(64, 64, 30_000)
    # Another phi and chi: sweeps must have one orientation.
    other = {"ANGLES": "20.0 10.0 -75.0 -20.0", "ENDING": "20.0 10.5 -75.0 -20.0"}
    paths = [
        files.write_sfrm(tmp_path / "a_0001.sfrm", pixels),
        files.write_sfrm(tmp_path / "b_0001.sfrm", pixels, **other),
        files.write_marccd(tmp_path / "a_0001.mccd", pixels, phi=12.5),
        files.write_raxis(tmp_path / "a_0001.osc", pixels, start=12.0),
    ]
    answers = json.loads(run_dials_python(DIALS, *paths))
    headers = [read_header(str(path)) for path in paths]
    for header, answer, path in zip(headers, answers, paths, strict=True):
        same_detector(header.detector, answer, path.suffix)
        assert header.wavelength == pytest.approx(answer["wavelength"])
        assert (header.start_deg, header.step_deg) == pytest.approx(answer["scan"])
    # Up to a constant rotation of the crystal, which is the same for all sweeps.
    relative = [
        header.goniometer.rotation(np.radians(angle)).T @ dials_rotation(answer, angle)
        for header, answer in zip(headers[:2], answers[:2], strict=True)
        for angle in (10.0, 40.0, 130.0)
        if header.goniometer is not None
    ]
    assert len(relative) == 6
    for matrix in relative:
        np.testing.assert_allclose(matrix, relative[0], atol=1e-6)


def test_crysalis_directions(tmp_path: Path) -> None:
    """The vendor: omega, theta and phi turn clockwise from above, kappa clockwise from behind."""
    path = files.write_rodhypix(tmp_path / "a.rodhypix", counts(64, 48), start=START, end=END)
    header = read_header(str(path))
    detector, goniometer = header.detector, header.goniometer
    assert detector is not None
    assert goniometer is not None
    assert goniometer.names == ("omega", "kappa", "phi")
    # Clockwise from above: what is downstream moves to the right as seen from the sample, to -x.
    downstream = np.array([0.0, 0.0, 1.0])
    for axis in (goniometer.axes[0], goniometer.axes[2]):
        turned = rotation_matrix(axis, np.radians(90)) @ downstream
        np.testing.assert_allclose(turned, [-1, 0, 0], atol=1e-12)
    # Kappa is 50 degrees from the omega axis, towards the source: clockwise for who looks upstream.
    assert np.degrees(np.arccos(goniometer.axes[1] @ goniometer.axes[0])) == pytest.approx(50)
    assert goniometer.axes[1][2] < 0
    # The arm at 25 degrees is on the right; the beam's pixel is 60 mm away.
    beam = detector.origin + 1e-4 * (99.25 * detector.slow + 150.5 * detector.fast)
    assert np.linalg.norm(beam) == pytest.approx(0.06)
    assert np.degrees(np.arctan2(-beam[0], beam[2])) == pytest.approx(25, abs=0.3)
    assert detector.slow[1] > 0.99
    # The software zero correction of omega counts.
    assert (header.start_deg, header.step_deg) == (pytest.approx(11.5), pytest.approx(0.5))
    assert header.wavelength == pytest.approx(0.71073)
    assert (header.exposure_time, header.saturation) == (0.25, 900_000)


def test_reflections_in_the_vendors_frame(tmp_path: Path) -> None:
    """Spots of a crystal, computed in the vendor's words, have whole indices here.

    e1 points to the source, e3 upwards, e2 = e3 x e1. Omega, theta and phi turn clockwise from
    above, kappa about -cos(50) e3 + sin(50) e1. Columns run along e2, rows along e3.
    """
    header = read_header(
        str(files.write_rodhypix(tmp_path / "a.rodhypix", counts(64, 48), start=START, end=END))
    )
    rotation = rotation_of(header)
    assert rotation is not None
    ub = Turn.from_rotvec([0.4, -0.2, 0.7]).as_matrix() @ np.diag([1 / 5.0, 1 / 6.0, 1 / 7.0])

    def turned(axis: list[float], degrees: float) -> np.ndarray:
        return Turn.from_rotvec(np.radians(degrees) * np.array(axis)).as_matrix()

    down, tilt = [0.0, 0.0, -1.0], np.radians(50)
    inner = turned([np.sin(tilt), 0, -np.cos(tilt)], 40.0) @ turned(down, -70.0) @ ub
    beam = np.array([-1 / 0.71073, 0, 0])
    arm = turned(down, 25.0) @ turned([0, -1, 0], -0.2) @ turned([1, 0, 0], 0.3)
    lab = np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]]).T  # e1, e2, e3 in our frame
    found = 0
    for hkl in np.stack(np.indices((7, 7, 7)), -1).reshape(-1, 3) - 3:

        def off(omega: float, hkl: np.ndarray = hkl) -> float:
            out = beam + turned(down, omega) @ inner @ hkl
            return float(np.linalg.norm(out) - np.linalg.norm(beam))

        for low in range(0, 360, 15):
            if not hkl.any() or off(low) * off(low + 15) >= 0:
                continue
            omega = brentq(off, low, low + 15, xtol=1e-12)
            out = arm.T @ (beam + turned(down, omega) @ inner @ hkl)
            if out[0] >= 0:
                continue
            place = 60.0 / -out[0] * out
            fast, slow = 150.5 + place[1] / 0.1, 99.25 + place[2] / 0.1
            frame = (omega - 11.5) / 0.5
            ours = rotation.hkl(2 * np.pi * lab @ ub, frame, slow, fast)
            np.testing.assert_allclose(np.ravel(ours), hkl, atol=1e-6)
            found += 1
    assert found > 100


def test_older_compressions_are_those_of_fabio(tmp_path: Path) -> None:
    """OD SAPPHIRE 3.0 with TY1, written by fabio: other sizes of the header."""
    pixels = counts(64, 64, 30_000)
    facts = {
        "Header Version": "OD SAPPHIRE  3.0",
        "Compression": "TY1",
        "Detector type": "Unknown Oxford diffraction detector",
        "Omega step in deg": 1e-3,
        "Omega start in deg": 12.0,
        "Omega end in deg": 12.5,
        "Alpha angle in deg": 50.0,
        "Distance in mm": 55.0,
        "Wavelength alpha": 0.71073,
        "Exposure time in sec": 2.0,
    }
    image = OxdImage(data=pixels, header=facts)
    image.write(str(tmp_path / "a_1.img"))
    np.testing.assert_array_equal(read(tmp_path / "a_1.img"), pixels)
    header = read_header(str(tmp_path / "a_1.img"))
    assert header.wavelength == pytest.approx(0.71073)
    assert header.exposure_time == 2
    assert (header.start_deg, header.step_deg) == (pytest.approx(12), pytest.approx(0.5))


def test_esperanto_is_the_same_experiment_as_rodhypix(tmp_path: Path) -> None:
    pixels = counts(256, 256)
    one = read_header(str(files.write_esperanto(tmp_path / "a.esperanto", pixels)))
    rod = files.write_rodhypix(tmp_path / "a.rodhypix", pixels, start=START, end=END)
    other = read_header(str(rod))
    assert one.detector is not None
    assert other.detector is not None
    np.testing.assert_allclose(one.detector.origin, other.detector.origin, atol=1e-9)
    np.testing.assert_allclose(one.detector.fast, other.detector.fast, atol=1e-9)
    assert one.goniometer is not None
    assert other.goniometer is not None
    np.testing.assert_allclose(one.goniometer.axes, other.goniometer.axes)
    np.testing.assert_allclose(one.goniometer.angles, other.goniometer.angles, atol=1e-6)
    assert one.wavelength == other.wavelength


def test_a_negative_increment_turns_backwards(tmp_path: Path) -> None:
    for i, start in enumerate((10.0, 9.5, 9.0)):
        files.write_sfrm(
            tmp_path / f"x_01_{i + 1:04d}.sfrm",
            counts(32, 32),
            START=f"{start}",
            INCREME="-0.5",
            ANGLES=f"20.0 {start} 30.0 54.7",
            ENDING=f"20.0 {start - 0.5} 30.0 54.7",
        )
    header = read_header(str(tmp_path / "x_01_####.sfrm"))
    assert (header.start_deg, header.step_deg, header.n_frames) == (10.0, -0.5, 3)


def test_phi_scans_and_the_first_lens(tmp_path: Path) -> None:
    angles = {"AXIS": "3", "START": "30.0", "ENDING": "20.0 10.0 30.5 54.7"}
    header = read_header(str(files.write_sfrm(tmp_path / "a.sfrm", counts(32, 32), **angles)))
    assert header.goniometer is not None
    assert header.goniometer.names[header.goniometer.scan] == "phi"
    assert (header.start_deg, header.step_deg) == (30.0, 0.5)


def test_unknown_directions_are_asked_for(tmp_path: Path) -> None:
    """The header of a CCD does not say how the image is mounted, nor how the axes turn."""
    name = {"DETTYPE": "CCD-PXL-KAF2 83.3333 0.1 0 0.4 0.05 1"}
    arm = str(files.write_sfrm(tmp_path / "b.sfrm", counts(512, 512), **name))
    facts = read_frame_facts(arm, StatedDirections(IMAGES["right,up"]))
    assert facts is not None
    assert facts.header.detector is None
    assert "the detector arm is at 20°" in " ".join(facts.notes)
    name |= {"ANGLES": "0.0 10.0 30.0 54.7", "ENDING": "0.0 10.5 30.0 54.7"}
    path = str(files.write_sfrm(tmp_path / "a.sfrm", counts(512, 512), **name))
    facts = read_frame_facts(path)
    assert facts is not None
    assert facts.header.detector is None
    assert facts.header.goniometer is None
    assert facts.settings == "chi=54.7 phi=30 omega=10:0.5"
    assert "CCD-PXL-KAF2 are not known: --option image=right,up" in " ".join(facts.notes)
    for image in IMAGES.values():
        facts = read_frame_facts(path, StatedDirections(image))
        assert facts is not None
        detector = facts.header.detector
        assert detector is not None
        assert detector.pixel_size[0] == pytest.approx(1.2e-4, rel=1e-5)
        np.testing.assert_allclose(detector.slow, image[1], atol=1e-12)
        np.testing.assert_allclose(detector.fast, image[0], atol=1e-12)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"RANGE": "0.3"}, "0.3° wide and begin every 0.5°"),
        ({"WAVELEN": "Mo"}, "WAVELEN is 'Mo' in"),
        ({"AXIS": "0", "INCREME": "0.0", "ENDING": "20 10.5 31 54.7"}, "move during the frame"),
    ],
)
def test_headers_that_make_no_sense(tmp_path: Path, more: dict[str, str], told: str) -> None:
    path = files.write_sfrm(tmp_path / "a.sfrm", counts(32, 32), **more)
    with pytest.raises(HklflowError, match=told):
        read_header(str(path))


def test_missing_frames_contradict_the_angles(tmp_path: Path) -> None:
    for number, omega in ((1, 10.0), (2, 11.5)):
        start, end = (omega, *START[1:]), (omega + 0.5, *START[1:])
        files.write_rodhypix(
            tmp_path / f"a_{number}.rodhypix", counts(32, 32), start=start, end=end
        )
    with pytest.raises(HklflowError, match="omega is 13° in the last frame"):
        read_header(str(tmp_path / "a_#.rodhypix"))


def test_what_is_not_supported_says_so(tmp_path: Path) -> None:
    plate = files.write_raxis(tmp_path / "a.osc", counts(64, 64, 30_000), start=0, curved=1)
    with pytest.raises(HklflowError, match=r"a.osc is of a curved image plate"):
        read_header(str(plate))
    several = files.write_rodhypix(
        tmp_path / "a.rodhypix", counts(32, 32), start=START, end=END, images=2
    )
    with pytest.raises(HklflowError, match=r"a.rodhypix has 2 images"):
        read_header(str(several))
    minutes = read_header(str(files.write_raxis(tmp_path / "b.osc", counts(64, 64, 9), start=0)))
    assert minutes.exposure_time == pytest.approx(180)
    arm = files.write_marccd(tmp_path / "a.mccd", counts(64, 64, 30_000), phi=0, _668=20_000)
    facts = read_frame_facts(str(arm))
    assert facts is not None
    assert facts.header.detector is None
    assert "the detector arm is at 20°" in " ".join(facts.notes)
    assert "--option arm=x,y,z" in " ".join(facts.notes)


def test_a_stated_arm_moves_the_detector_about_the_sample(tmp_path: Path) -> None:
    """By Rodrigues' formula about lab -x: the beam's pixel goes from z up to y."""
    path = files.write_marccd(tmp_path / "a.mccd", counts(64, 64, 30_000), phi=0, _668=20_000)
    facts = read_frame_facts(str(path), StatedDirections(arm=(-2.0, 0.0, 0.0)))
    assert facts is not None
    detector = facts.header.detector
    assert detector is not None
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    np.testing.assert_allclose(detector.lab(20.0, 30.0), [0, 0.12 * s, 0.12 * c], atol=1e-9)
    np.testing.assert_allclose(detector.slow, [0, -c, s], atol=1e-12)
    np.testing.assert_allclose(detector.fast, [-1, 0, 0], atol=1e-12)
    other = files.write_sfrm(tmp_path / "a.sfrm", counts(32, 32))
    with pytest.raises(HklflowError, match="--option arm is for MarCCD"):
        read_frame_facts(str(other), StatedDirections(arm=(1.0, 0.0, 0.0)))


def test_the_beam_centre_of_binned_frames(tmp_path: Path) -> None:
    """The origin 150.5, 99.25 of write_rodhypix, in frames whose middle it is with and without."""
    for shape, binning, x, y in (
        ((196, 300), 2, 150.5, 99.25),
        ((98, 150), 2, 75.25, 49.625),
        ((196, 300), 1, 150.5, 99.25),
    ):
        path = files.write_rodhypix(
            tmp_path / "a.rodhypix", counts(*shape), start=START, end=END, binning=binning
        )
        facts = read_frame_facts(str(path))
        assert facts is not None
        detector = facts.header.detector
        assert detector is not None
        assert np.linalg.norm(detector.lab(y, x)) == pytest.approx(0.06)
        told = " ".join(facts.notes)
        assert ("the frames are binned 2 x 2" in told) == (binning == 2)
        assert (f"beam centre {x:g}, {y:g}" in told) == (binning == 2)


def test_zero_corrections_are_reported(tmp_path: Path) -> None:
    path = files.write_rodhypix(
        tmp_path / "a.rodhypix", counts(64, 48), start=START, end=END, zero=0.4
    )
    facts = read_frame_facts(str(path))
    assert facts is not None
    assert "(omega 1.5°, theta 0.4°); no public description states" in " ".join(facts.notes)
    other = files.write_esperanto(
        tmp_path / "a.esperanto", counts(256, 256), dzerocorrectionsoftindeg_th=0.4
    )
    facts = read_frame_facts(str(other))
    assert facts is not None
    assert "(omega 1.5°, theta 0.4°)" in " ".join(facts.notes)


def test_axes_of_an_image_plate_are_compared_by_name(tmp_path: Path) -> None:
    """R-AXIS headers have all axes; those at zero are left out of the table."""
    pixels = counts(64, 64, 9)
    for number, angles in ((1, {"chi": 40.0}), (2, {"chi": 40.0})):
        files.write_raxis(tmp_path / f"a_{number}.osc", pixels, start=number, angles=angles)
    facts = read_frame_facts(str(tmp_path / "a_#.osc"))
    assert facts is not None
    assert facts.settings == "chi=40 phi=1:1"
    for angles in ({"omega": 40.0}, {"chi": 40.0, "omega": 5.0}, {}):
        files.write_raxis(tmp_path / "a_2.osc", pixels, start=2, angles=angles)
        with pytest.raises(HklflowError, match="in the last frame"):
            read_frame_facts(str(tmp_path / "a_#.osc"))


def test_fields_of_marccd_are_where_fabio_has_them() -> None:
    """fabio parses MarUSA's structure; the sizes of its fields give the offsets."""
    at = 0
    offsets: dict[str, int] = {}
    for name, kind in zip(HEADER_NAMES, HEADER_FORMAT, strict=True):
        offsets.setdefault(name, at)
        at += struct.calcsize(f"<{kind}")
    assert at == 3072
    assert {name: offsets[name] for name in marccd._FIELDS} == marccd._FIELDS


def test_a_marccd_image_in_another_order_is_not_placed(tmp_path: Path) -> None:
    """dxtbx, FormatTIFFRayonix, reads no image with another origin, orientation or direction."""
    path = files.write_marccd(tmp_path / "a.mccd", counts(64, 64, 9), phi=0, _120=1)
    facts = read_frame_facts(str(path))
    assert facts is not None
    assert facts.header.detector is None
    assert "orientation 1, view_direction 0): give a --calibration" in " ".join(facts.notes)


def test_directions_of_photon_100_are_asked_for(tmp_path: Path) -> None:
    """dxtbx has a class for PHOTON II and III only."""
    angles = {"ANGLES": "0.0 10.0 30.0 54.7", "ENDING": "0.0 10.5 30.0 54.7"}
    name = {"DETTYPE": "CMOS-PHOTON 52.0833 0.1 0 0.425 0.035 1"} | angles
    path = str(files.write_sfrm(tmp_path / "a.sfrm", counts(1024, 1024), **name))
    facts = read_frame_facts(path)
    assert facts is not None
    assert facts.header.detector is None
    assert "CMOS-PHOTON are not known: --option image=right,up" in " ".join(facts.notes)
    facts = read_frame_facts(path, StatedDirections(IMAGES["right,up"]))
    assert facts is not None
    assert facts.header.detector is not None
    assert facts.header.detector.pixel_size[0] == pytest.approx(9.6e-5, rel=1e-4)


def test_formats_that_are_left_out_say_so(tmp_path: Path) -> None:
    (tmp_path / "a_001.img").write_bytes(mar345_bytes())
    with pytest.raises(HklflowError, match="mar345 image, which hklflow does not read"):
        read(tmp_path / "a_001.img")
    for suffix in (".mar2300", ".kcd"):
        with pytest.raises(HklflowError, match=r"mar345 or KCD images.*convert"):
            fabio_plugin.find(Request(tmp_path, options={"suffix": suffix}))


def mar345_bytes() -> bytes:
    """An image plate of 64 x 64 pixels, by fabio."""
    image = Mar345Image(data=np.zeros((64, 64), np.uint32))
    image.byteorder = "<"
    image.header["PIXEL_LENGTH"] = 150
    image.header["PIXEL_HEIGHT"] = 150
    with tempfile.TemporaryDirectory() as folder:
        image.write(f"{folder}/a.mar2300")
        return Path(f"{folder}/a.mar2300").read_bytes()


def test_every_format_names_its_source() -> None:
    assert all(len(entry.source) > 20 for entry in FORMATS.values())
