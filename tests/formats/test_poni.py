import json

import numpy as np
import pytest
from pyFAI.detectors import Detector as PyfaiDetector
from pyFAI.detectors.sensors import SensorConfig
from pyFAI.geometry import Geometry

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.formats.poni import (
    Poni,
    detector_from_poni,
    flipped_up_down,
    poni_from_detector,
    read_poni,
    write_poni,
)
from hklflow.stages import import_poni

PONI = Poni(0.2086, 0.0873, 0.0799, -0.0184, 0.0041, 0.3, 172e-6, 171e-6, (1043, 981), 2, 0.4066)
BODY = (
    "Distance: 0.5\nPoni1: 0.01\nPoni2: 0.02\nRot1: 0.1\nRot2: 0.2\nRot3: 0.3\n"
    "Wavelength: 4.066e-11\n"
)


def test_reads_what_it_writes(tmp_path):
    write_poni(tmp_path / "a.poni", PONI)
    back = read_poni(tmp_path / "a.poni")
    # The file holds the wavelength in metres: one rounding.
    assert back.wavelength == pytest.approx(0.4066, rel=1e-15)
    assert back.shape == PONI.shape
    assert back.orientation == 2
    for name in ("dist", "poni1", "poni2", "rot1", "rot2", "rot3", "pixel1", "pixel2"):
        assert getattr(back, name) == getattr(PONI, name)


@pytest.mark.slow
@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_pyfai_reads_what_we_write(tmp_path, orientation):
    poni = Poni(0.3, 0.02, 0.01, 0.1, -0.2, 0.3, 1e-3, 2e-3, (12, 14), orientation, 1.2)
    write_poni(tmp_path / "a.poni", poni)
    oracle = Geometry()
    oracle.load(str(tmp_path / "a.poni"))
    assert oracle.wavelength == pytest.approx(1.2e-10)
    ours = geometry.two_theta(poni.detector())
    assert np.abs(ours - oracle.center_array((12, 14), unit="2th_rad")).max() < 1e-9


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_we_read_what_pyfai_writes(tmp_path, orientation):
    oracle = Geometry(
        0.3,
        0.02,
        0.01,
        0.1,
        -0.2,
        0.3,
        detector=PyfaiDetector(1e-3, 2e-3, max_shape=(12, 14), orientation=orientation),
        wavelength=1.2e-10,
    )
    oracle.save(str(tmp_path / "a.poni"))
    poni = read_poni(tmp_path / "a.poni")
    assert poni.orientation == orientation
    assert poni.wavelength == pytest.approx(1.2)
    ours = geometry.two_theta(poni.detector())
    assert np.abs(ours - oracle.center_array((12, 14), unit="2th_rad")).max() < 1e-9


def test_the_sensor_that_pyfai_writes(tmp_path):
    config = SensorConfig("CdTe", 1e-3)
    detector = PyfaiDetector(1e-3, 2e-3, max_shape=(12, 14), sensor=config)
    Geometry(0.3, 0.02, 0.01, detector=detector, wavelength=1.2e-10).save(str(tmp_path / "a.poni"))
    outputs = import_poni.Outputs(geometry=tmp_path / "a.json")
    for given, thickness in ((None, 1e-3), (2e-3, 2e-3)):
        import_poni.main(
            inputs=import_poni.Inputs(poni=tmp_path / "a.poni"),
            outputs=outputs,
            params=import_poni.Params(polarization=0.9, sensor_thickness=given),
        )
        data = json.loads(outputs.geometry.read_text())
        assert data["sensor_material"] == "CdTe"
        assert data["detector"]["sensor_thickness_m"] == thickness
        assert data["detector"]["sensor_attenuation_per_m"] is None


def test_version_1_needs_the_shape_from_the_image(tmp_path):
    path = tmp_path / "a.poni"
    path.write_text("# old\nPixelSize1: 0.0001\nPixelSize2: 0.0002\nSplineFile: None\n" + BODY)
    poni = read_poni(path)
    assert (poni.pixel1, poni.pixel2, poni.shape, poni.orientation) == (1e-4, 2e-4, None, 3)
    assert poni.wavelength == pytest.approx(0.4066)
    with pytest.raises(HklflowError, match="shape"):
        poni.detector()
    assert poni.detector((10, 12)).shape == (10, 12)


def test_the_last_entry_counts(tmp_path):
    path = tmp_path / "a.poni"
    head = "PixelSize1: 0.0001\nPixelSize2: 0.0001\n"
    path.write_text(head + BODY + BODY.replace("Distance: 0.5", "Distance: 0.7"))
    assert read_poni(path).dist == 0.7


def test_version_2_with_a_detector_that_pyfai_knows(tmp_path):
    path = tmp_path / "a.poni"
    path.write_text("poni_version: 2\nDetector: Pilatus1M\nDetector_config: {}\n" + BODY)
    poni = read_poni(path)
    assert (poni.pixel1, poni.shape, poni.orientation) == (172e-6, (1043, 981), 3)
    with pytest.raises(HklflowError, match=r"1043, 981.*100, 100"):
        poni.detector((100, 100))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BODY, "pixel size"),
        ("Detector: Nonesuch\n" + BODY, "Nonesuch"),
        ("PixelSize1: 1e-4\nPixelSize2: 1e-4\n" + BODY.replace("Rot2: 0.2", "Rot2: x"), "'x'"),
        ("PixelSize1: 1e-4\nPixelSize2: 1e-4\n" + BODY.replace("Rot2: 0.2\n", ""), "rot2"),
        ("Detector: Detector\nDetector_config: {pixel\n" + BODY, "JSON"),
        ("Parallax: True\n" + BODY, "parallax"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "bad.poni"
    path.write_text(text)
    with pytest.raises(HklflowError, match=message) as caught:
        read_poni(path)
    assert "bad.poni" in str(caught.value)


def test_absent_file_and_bad_orientation(tmp_path):
    with pytest.raises(HklflowError, match="does not exist"):
        read_poni(tmp_path / "none.poni")
    path = tmp_path / "a.poni"
    config = json.dumps({"pixel1": 1e-4, "pixel2": 1e-4, "max_shape": [5, 5], "orientation": 7})
    path.write_text(f"Detector: Detector\nDetector_config: {config}\n{BODY}")
    with pytest.raises(HklflowError, match="orientation 7"):
        read_poni(path).detector()


def test_a_mirrored_image_is_refused():
    detector = PONI.detector()
    with pytest.raises(HklflowError, match="use one of 2, 4"):
        poni_from_detector(detector, 3)


def test_a_flipped_image_keeps_the_scattering_angles_of_its_pixels():
    flipped = flipped_up_down(PONI)
    two_theta = geometry.two_theta(PONI.detector())
    assert np.abs(geometry.two_theta(flipped.detector())[::-1] - two_theta).max() < 1e-12


@pytest.mark.real_data
def test_the_published_poni_flipped(real_data):
    """reference.json's analytic_flip is the published PONI for the image as fabio reads it."""
    folder = real_data / "powder_ceo2_pilatus1m"
    reference = json.loads((folder / "reference.json").read_text())["analytic_flip"]
    published = read_poni(folder / "CeO2_Pilatus1M.poni")
    ours = flipped_up_down(published).detector((1043, 981))
    expected = detector_from_poni(
        dist=reference["dist_m"],
        **{name: reference[name] for name in ("poni1", "poni2", "rot1", "rot2", "rot3")},
        pixel1=172e-6,
        pixel2=172e-6,
        shape=(1043, 981),
    )
    # Not the same detector (one is the mirror image) but the same 2θ in every pixel.
    difference = geometry.two_theta(ours) - geometry.two_theta(expected)
    # The reference rounds to 1e-12 m.
    assert np.abs(difference).max() < 1e-9
