"""`hklflow model angles`: numbers that were written down, and the angles of pixels by pyFAI."""

import csv
from pathlib import Path

import h5py
import numpy as np
from pyFAI.detectors import Detector as PyfaiDetector
from pyFAI.geometry import Geometry

from hklflow import geometry, stage
from hklflow.formats.poni import detector_from_poni
from hklflow.orientation.product import Parameter
from tests.truth.orientations import write_orientation

from .conftest import Hklflow

PONI = {"dist": 0.2, "poni1": 0.031, "poni2": 0.052, "rot1": 0.1, "rot2": -0.07, "rot3": 0.4}
PIXEL = {"pixel1": 1e-3, "pixel2": 1.5e-3}
SHAPE = (60, 70)


def rotation(head: float = 0.0) -> geometry.Rotation:
    names, axes = ("chi", "phi"), np.array([[0, 0, 1.0], [1.0, 0, 0]])
    angles = np.radians([12.5, 0])
    if head:
        names, axes = (*names, "misorientation"), np.vstack([axes, [0, 0.6, 0.8]])
        angles = np.append(angles, np.radians(head))
    return geometry.Rotation(
        geometry.Beam(0.7),
        detector_from_poni(**PONI, **PIXEL, shape=SHAPE, orientation=3),
        geometry.Goniometer(names, axes, angles, 1),
        geometry.Scan(np.radians(-5), np.radians(0.1), 100),
    )


def test_refined_angles_have_their_errors(tmp_path: Path, hklflow: Hklflow) -> None:
    degree = np.radians(1)
    refined = {
        "a": Parameter(5.0, 2e-4),
        "gamma": Parameter(120.1, 3e-3),
        "u_x": Parameter(0.01 * degree, 0.002 * degree),
        "detector_z": Parameter(2e-5, 1e-6),
        "detector_rotation_y": Parameter(0.02 * degree, 0.003 * degree),
        "wavelength": Parameter(1e-5, 2e-6),
        "scan_offset_1": Parameter(0.1 * degree, 0.004 * degree),
        "misorientation_1_y": Parameter(0.3 * degree, 0.005 * degree),
        "off_centre_0_1": Parameter(3e-5, 1e-6),
        "off_centre_0_2": Parameter(4e-5, 2e-6),
    }
    path = write_orientation(
        tmp_path / "orientation.json",
        {"r1": rotation(), "r2": rotation(0.5)},
        refined_parameters=refined,
        offsets={"r1": np.array([0, 3e-5, 4e-5])},
    )
    done = hklflow("model", "angles", path)
    assert done.code == 0, done.err
    rows = {
        (row["rotation"], row["parameter"]): (float(row["value"]), row["error"], row["unit"])
        for row in csv.DictReader(done.out.splitlines(), delimiter="\t")
    }
    assert rows == {
        ("r1", "chi"): (12.5, "", "degree"),
        ("r1", "phi at the start"): (-5.0, "", "degree"),
        ("r1", "phi of a frame"): (0.1, "", "degree"),
        # sqrt((3 * 1)² + (4 * 2)²) / 5
        ("r1", "offset of the crystal"): (50.0, "1.7", "µm"),
        ("r2", "chi"): (12.5, "", "degree"),
        ("r2", "phi at the start"): (-5.0, "0.004", "degree"),
        ("r2", "phi of a frame"): (0.1, "", "degree"),
        ("r2", "head about x"): (0.0, "", "degree"),
        ("r2", "head about y"): (0.3, "0.005", "degree"),
        ("r2", "head about z"): (0.4, "", "degree"),
        ("all", "a"): (5.0, "0.0002", "Å"),
        ("all", "gamma"): (120.1, "0.003", "degree"),
        ("all", "u_x"): (0.01, "0.002", "degree"),
        ("all", "detector_z"): (20.0, "1", "µm"),
        ("all", "detector_rotation_y"): (0.02, "0.003", "degree"),
        ("all", "wavelength"): (1e-5, "2e-06", "Å"),
    }


def test_angles_of_pixels_are_those_of_pyfai(tmp_path: Path, hklflow: Hklflow) -> None:
    """The azimuth of NXRefine is from up towards -x, that of pyFAI from -x towards up."""
    path = write_orientation(tmp_path / "orientation.json", {"r1": rotation()})
    output = tmp_path / "angles.nxs"
    assert hklflow("model", "angles", path, "-o", output).code == 0
    detector = PyfaiDetector(*PIXEL.values(), max_shape=SHAPE, orientation=3)
    pyfai = Geometry(**PONI, detector=detector)
    theta, chi = (pyfai.center_array(SHAPE, unit=f"{name}_rad") for name in ("2th", "chi"))
    with h5py.File(output) as file:
        group = file["entry/r1"]
        assert file["entry"].attrs["default"] == "r1"
        assert np.abs(np.radians(group["polar_angle"]) - theta).max() < 1e-9
        off = np.radians(group["azimuthal_angle"]) - (np.pi / 2 - chi)
        assert np.abs((off + np.pi) % (2 * np.pi) - np.pi).max() < 1e-9
        q = 4 * np.pi / 0.7 * np.sin(theta / 2)
        np.testing.assert_allclose(group["Q"], q, rtol=1e-9)
    again = hklflow("model", "angles", path, "-o", output)
    assert again.code == 2
    assert "--force" in again.err


def test_signs_at_six_points(tmp_path: Path, hklflow: Hklflow) -> None:
    """Looking downstream with y up, +x is to the left: rows go down, columns to +x."""
    detector = geometry.Detector((2, 3), (0.1, 0.1), np.array([-0.15, 0.1, 0.1]), (0, -1, 0),
                                 (1, 0, 0))  # fmt: skip
    one = geometry.Rotation(
        geometry.Beam(0.7), detector, geometry.Goniometer.single((1, 0, 0)), geometry.Scan(0, 1, 1)
    )
    path = write_orientation(tmp_path / "orientation.json", {"r1": one})
    assert hklflow("model", "angles", path, "-o", tmp_path / "a.nxs").code == 0
    diagonal = np.degrees(np.arctan2(2, 1))
    with h5py.File(tmp_path / "a.nxs") as file:
        found = file["entry/r1/azimuthal_angle"][()]
    expected = [[diagonal, 0, -diagonal], [180 - diagonal, 180, diagonal - 180]]
    off = (found - expected + 180) % 360 - 180
    np.testing.assert_allclose(off, 0, atol=1e-9)


def test_a_diagnostic_geometry_needs_the_word_in_the_name(tmp_path: Path, hklflow: Hklflow) -> None:
    path = write_orientation(tmp_path / "orientation.json", {"r1": rotation()})
    record = {"stage": "refine", "stage_version": 1, "version": "0", "started": "", "inputs": {}}
    data = stage.read_json(path) | {"provenance": [record | {"diagnostic": "made of straw"}]}
    stage.write_json(path, data)
    done = hklflow("model", "angles", path, "-o", tmp_path / "a.nxs")
    assert done.code == 2
    assert "made of straw" in done.err
    assert not done.out
    assert hklflow("model", "angles", path, "-o", tmp_path / "a_diagnostic.nxs").code == 0
    with h5py.File(tmp_path / "a_diagnostic.nxs") as file:
        assert file["entry"].attrs["hklflow_quality"] == "diagnostic"
