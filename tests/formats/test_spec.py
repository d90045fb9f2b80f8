import json

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats.raw import open_frames
from hklflow.formats.spec import (
    psic_arm,
    psic_goniometer,
    psic_ub,
    read_circles_xml,
    read_detector_xml,
    read_spec_scan,
)
from hklflow.geometry import Beam, Rotation, Scan


@pytest.fixture
def folder(real_data):
    return real_data / "diffuse_pmnpt"


@pytest.fixture
def reference(folder):
    return json.loads((folder / "reference.json").read_text())["S839"]


@pytest.fixture
def scan(folder):
    return read_spec_scan(folder / "pmn_pt011_2_1.spec", 839)


def rotation_of(scan, folder):
    eta = np.radians(scan.column("Eta"))
    step = (eta[-1] - eta[0]) / (scan.n_points - 1)
    angle = {name: np.radians(scan.motor(name)) for name in ("Mu", "Chi", "Phi", "Delta", "Nu")}
    detector = read_detector_xml(folder / "6IDB_DetectorGeometry.xml")
    return Rotation(
        Beam(scan.wavelength),
        psic_arm(detector, angle["Delta"], angle["Nu"]),
        psic_goniometer(angle["Mu"], 0.0, angle["Chi"], angle["Phi"]),
        # A step scan: each frame is exposed at its eta, that is at mid-frame.
        Scan(eta[0] - step / 2, step, scan.n_points),
    )


@pytest.mark.real_data
def test_scan_839(scan, reference):
    assert scan.n_points == 401
    assert scan.command == "ascan eta 15.6655 17.6655 400 1"
    assert scan.wavelength == reference["wavelength_A"]
    assert scan.temperature == reference["T_K"]
    np.testing.assert_array_equal(scan.ub, reference["UB_with_2pi"])
    for name, value in reference["fixed_angles"].items():
        assert scan.motor(name) == value
    assert scan.column("Eta")[[0, -1]].tolist() == reference["eta"][:2]
    assert scan.column("Ion_Ch_2")[:2].tolist() == [44773, 46431]
    # The file ends its lines with CR LF: the last column must not carry the CR.
    assert scan.column("imroi1")[0] == 27457
    transmission = scan.column("transm")
    assert np.all((transmission > 0) & (transmission <= 1))


@pytest.mark.real_data
def test_hkl_at_the_centre_pixel_agrees_with_spec(scan, folder):
    rotation = rotation_of(scan, folder)
    mid = np.arange(401) + 0.5
    # The centre channel is pixel (252, 107) as (fast, slow).
    hkl = rotation.hkl(psic_ub(scan.ub), mid, np.full(401, 107.5), np.full(401, 252.5))
    # SPEC prints six digits and its angles to 1e-5 degrees.
    assert np.abs(hkl - scan.hkl).max() < 1e-5


@pytest.mark.real_data
def test_brightest_pixel(scan, folder, reference):
    with open_frames(folder / "images" / "pmn_pt011_2_1_S839_#####.tif") as frames:
        counts, z, row, column = max(
            (block.max(), z, *np.unravel_index(block[0].argmax(), block.shape[1:]))
            for z, block in enumerate(frames.blocks(1, first=180, last=196), start=180)
        )
    bright = reference["brightest"]
    assert (z, row, column) == (bright["frame"], bright["row"], bright["col"])
    assert counts == bright["counts"]
    hkl = rotation_of(scan, folder).hkl(psic_ub(scan.ub), z + 0.5, row + 0.5, column + 0.5)
    np.testing.assert_allclose(hkl, bright["hkl"], atol=1e-5)


@pytest.mark.real_data
def test_circles_of_the_beamline_are_those_of_psic(folder):
    sample, arm = read_circles_xml(folder / "6IDB_Instrument.xml")
    assert list(sample) == ["Mu", "Eta", "Chi", "Phi"]
    assert list(arm) == ["Nu", "Delta"]
    np.testing.assert_array_equal(psic_goniometer(0, 0, 0, 0).axes, list(sample.values()))
    np.testing.assert_array_equal(arm["Nu"], [0, 1, 0])
    np.testing.assert_array_equal(arm["Delta"], [-1, 0, 0])


@pytest.mark.real_data
def test_detector_of_the_beamline(folder):
    detector = read_detector_xml(folder / "6IDB_DetectorGeometry.xml")
    assert detector.shape == (195, 487)
    assert detector.pixel_size == pytest.approx((172e-6, 172e-6))
    assert detector.distance == pytest.approx(0.900644)
    np.testing.assert_allclose(detector.intersect([0, 0, 1.0]), (107.5, 252.5))
    # Delta lifts the detector, nu turns it towards lab +x.
    up = psic_arm(detector, np.radians(30), 0.0).lab(107.5, 252.5) / 0.900644
    np.testing.assert_allclose(up, [0, 0.5, np.sqrt(0.75)], atol=1e-12)
    aside = psic_arm(detector, 0.0, np.radians(30)).lab(107.5, 252.5) / 0.900644
    np.testing.assert_allclose(aside, [0.5, 0, np.sqrt(0.75)], atol=1e-12)


@pytest.mark.real_data
def test_other_beamlines(real_data):
    scan = read_spec_scan(real_data / "spec" / "33bm_spec.dat", 1)
    assert scan.wavelength == 1.239424258
    np.testing.assert_allclose(scan.ub[0], [-1.661044167, 0.04007351558, -0.0001588220447])
    assert scan.temperature is None
    other = read_spec_scan(real_data / "spec" / "33id_spec.dat", 1)
    assert (other.ub, other.wavelength) == (None, None)
    assert other.command == "ascan eta 43.6355 44.0355 40 1"


def test_mistakes_are_named(tmp_path):
    path = tmp_path / "a.spec"
    text = (
        "#F a.spec\n\n#S 1  ascan  eta 0 1 1 1\n#G3 1 0 0 0 1 0 0 0 1\n#G4 1 0 0 0.5\n"
        "#X 25 (degC)\n#N 2\n#L Eta  Mon\n0 5\n1 6\n\n"
        "#S 2  ascan  eta 0 1 1 1\n#N 2\n#L Eta  Mon\n#C aborted\n\n"
        "#S 3  ascan  eta 0 1 1 1\n#G3 1 a\n#N 2\n#L Eta  Mon\n0 5\n\n"
        "#S 1  ascan  chi 0 1 1 1\n#N 1\n#L Chi\n0\n"
    )
    path.write_text(text.rsplit("#S 1", 1)[0])
    scan = read_spec_scan(path, 1)
    assert scan.column("Mon").tolist() == [5, 6]
    assert scan.wavelength == 0.5
    # 25 of an unknown unit is not 25 K.
    assert scan.temperature is None
    assert scan.motors == {}
    with pytest.raises(HklflowError, match=r"no column 'monitor'.*Eta, Mon"):
        scan.column("monitor")
    with pytest.raises(HklflowError, match="no motor 'chi'"):
        scan.motor("chi")
    with pytest.raises(HklflowError, match=r"scan 2 .*no points"):
        read_spec_scan(path, 2)
    with pytest.raises(HklflowError, match="#G3 of scan 3"):
        read_spec_scan(path, 3)
    with pytest.raises(HklflowError, match=r"scan 9 occurs 0 times.*1-3"):
        read_spec_scan(path, 9)
    path.write_text(text)
    with pytest.raises(HklflowError, match="scan 1 occurs 2 times"):
        read_spec_scan(path, 1)
    with pytest.raises(HklflowError, match="does not exist"):
        read_spec_scan(tmp_path / "b.spec", 1)
    (tmp_path / "a.xml").write_text("<a><Detector/></a>")
    with pytest.raises(HklflowError, match="pixelDirection1"):
        read_detector_xml(tmp_path / "a.xml")


@pytest.mark.parametrize(
    ("line", "kelvin"),
    [
        ("300K", 300),
        ("  300.5 K", 300.5),
        ("3e2 K", 300),
        (".5 K setpoint", 0.5),
        ("300.2 K  (300K)", 300.2),
        ("250 (Temperature Setpoint in K)", 250),
        ("300 26.85 (Temperature Setpoint in K and C)", 300),
        ("26.85 300 (Temperature Setpoint in C and K)", None),
        ("25 (degC, 298 K)", None),
        ("26C 299 K", None),
        ("26 mK", None),
        ("300 KHz", None),
        ("300", None),
        ("--- K", None),
        ("- K", None),
        ("e K", None),
        ("1.2.3 K", None),
    ],
)
def test_temperatures_are_believed_only_in_kelvin(tmp_path, line, kelvin):
    path = tmp_path / "a.spec"
    path.write_text(f"#F a.spec\n\n#S 1  ascan  eta 0 1 1 1\n#X {line}\n#N 1\n#L Eta\n0\n1\n")
    assert read_spec_scan(path, 1).temperature == kelvin
