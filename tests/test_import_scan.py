"""Which raw frames an import takes: marked frames, and what the table expects."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.formats.raw import open_frames
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry import detector_to_dict
from hklflow.stage import norms
from hklflow.stages import find_peaks, import_scan

N, SHAPE = 12, (40, 40)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return written(tmp_path / "raw.nxs")


def written(path: Path, **changes: Any) -> Path:
    """Frame z counts z + 1 in every pixel, and its monitor is 100 + z."""
    header: dict[str, Any] = {
        "shape": SHAPE,
        "pixel_size": (1e-3, 1e-3),
        "origin": (0.02, 0.02, 0.1),
        "slow": (0.0, -1.0, 0.0),
        "fast": (-1.0, 0.0, 0.0),
        "wavelength": 0.5,
        "axis_names": ("phi",),
        "axes": [(-1.0, 0.0, 0.0)],
        "angles": [0.0],
        "start": np.radians(10.0),
        "step": np.radians(0.5),
        "n_frames": N,
        "exposure": 0.1,
        "monitor": 100.0 + np.arange(N),
        "pixel_mask": np.zeros(SHAPE, np.uint32),
        "polarization": 0.99,
    }
    with NXmxWriter(path, NXmxHeader(**header | changes)) as writer:
        marks = np.arange(1, N + 1, dtype=np.uint32)
        writer.append(np.broadcast_to(marks[:, None, None], (N, *SHAPE)))
    return path


def imported(raw: Path, geometry: Path | None = None, **params: Any) -> Path:
    scan = raw.parent / "scan.nxs"
    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[raw], geometry=geometry),
        outputs=import_scan.Outputs(scan=scan),
        params=import_scan.Params(**params),
        threads=1,
    )
    return scan


@pytest.mark.slow
@pytest.mark.parametrize(("first", "last"), [(0, None), (0, 7), (3, 8), (11, 11), (4, None)])
def test_exactly_the_chosen_frames_are_used(raw: Path, first: int, last: int | None) -> None:
    path = imported(raw, first_frame=first, last_frame=last)
    chosen = np.arange(first, (N - 1 if last is None else last) + 1)
    scan = nexus.read_scan(path)
    np.testing.assert_array_equal(scan.monitor, 100 + chosen)
    angles = scan.rotation.scan.angle(np.arange(len(chosen)))
    np.testing.assert_allclose(np.degrees(angles), 10 + 0.5 * chosen)
    nexus.write_mask(raw.parent / "mask.nxs", np.zeros(SHAPE, np.uint32))
    stage.run(
        find_peaks.main,
        inputs=find_peaks.Inputs(scan=path, mask=raw.parent / "mask.nxs"),
        outputs=find_peaks.Outputs(
            peaks=raw.parent / "peaks.nxs",
            picture=raw.parent / "peaks.png",
            metrics=raw.parent / "peaks.json",
            statistics=raw.parent / "statistics.nxs",
            statistics_picture=raw.parent / "statistics.png",
            statistics_metrics=raw.parent / "statistics.json",
        ),
        params=find_peaks.Params(block=3),
        threads=1,
    )
    sums = nexus.read_statistics(raw.parent / "statistics.nxs", "frame_sum")
    np.testing.assert_array_equal(sums, (chosen + 1) * SHAPE[0] * SHAPE[1])
    background = nexus.read_statistics(raw.parent / "statistics.nxs", "background")
    np.testing.assert_allclose(background, chosen + 1)
    assert stage.read_json(raw.parent / "statistics.json")["maximum"] == chosen[-1] + 1
    with open_frames(raw) as frames:
        assert frames.shape[0] == N


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"last_frame": 12}, "frames 0 to 12 are not within 0 to 11"),
        ({"first_frame": 12}, "frames 12 to 11 are not within 0 to 11"),
        ({"first_frame": 6, "last_frame": 5}, "frames 6 to 5 are not within 0 to 11"),
    ],
)
def test_frames_outside_the_scan_are_refused(raw: Path, params: dict[str, int], told: str) -> None:
    with pytest.raises(HklflowError, match=told):
        imported(raw, **params)
    assert not (raw.parent / "scan.nxs").exists()


@pytest.mark.parametrize(("given", "found"), [(None, None), (20.0, 20.0)])
def test_a_saturation_of_0_is_none(
    raw: Path, given: float | None, found: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else every pixel would be saturated."""
    with h5py.File(raw, "r+") as file:
        file["entry/instrument/detector"].pop("saturation_value", None)
        file["entry/instrument/detector/saturation_value"] = 0
    assert nexus.read_scan(imported(raw, saturation=given)).saturation == found
    told = "the saturation of 0 counts in the raw file is ignored"
    assert (told in capsys.readouterr().out) == (given is None)


@pytest.mark.parametrize("expected", [11, 13])
def test_another_number_of_frames_than_the_table_expects(raw: Path, expected: int) -> None:
    with pytest.raises(HklflowError) as error:
        imported(raw, n_frames=expected, first_frame=20)
    told = str(error.value)
    assert f"raw.nxs: the raw file has 12 frames but the scan table expects {expected}" in told
    # Told together with the other problems.
    assert "frames 20 to 11 are not within 0 to 11" in told


def test_the_number_that_the_table_expects(raw: Path) -> None:
    """It is that of the raw frames, however few are used."""
    scan = nexus.read_scan(imported(raw, n_frames=N, last_frame=4))
    assert scan.rotation.scan.n_frames == 5


def efficiency(scan: Path) -> np.ndarray:
    """The pixels' norm (slow, fast) if it holds nothing but the sensor's efficiency."""
    nexus.write_mask(scan.parent / "mask.nxs", np.zeros(SHAPE, np.uint32))
    rotation = nexus.read_scan(scan).rotation
    only = norms.Corrections(solid_angle=False, polarization=False)
    return norms.pixel_norm(scan.parent / "mask.nxs", only, rotation.detector, rotation)[0]


#: keV, material, thickness in m, g/cm³ and cm²/g of NIST Standard Reference Database 126.
SENSORS = [
    (20.0, "Si", 4.5e-4, 2.329, 4.464),
    (60.0, "Silicon", 4.5e-4, 2.329, 0.3207),
    (60.0, "CdTe", 1e-3, 5.85, 6.542),
    (100.0, "Cadmium telluride", 1e-3, 5.85, 1.671),
]


@pytest.mark.parametrize(("energy", "material", "thickness", "density", "mass"), SENSORS)
def test_the_norm_has_the_efficiency_of_the_sensor_that_the_raw_file_names(
    tmp_path: Path, energy: float, material: str, thickness: float, density: float, mass: float
) -> None:
    raw = written(
        tmp_path / "raw.nxs",
        origin=(0.02, 0.02, 0.02),
        wavelength=12.398419843 / energy,
        sensor_material=material,
        sensor_thickness=thickness,
    )
    across = (np.arange(40) + 0.5 - 20) * 1e-3
    cos = 0.02 / np.sqrt(across[:, None] ** 2 + across**2 + 0.02**2)
    assert np.degrees(np.arccos(cos.min())) > 50
    expected = 1 - np.exp(-100 * density * mass * thickness / cos)
    np.testing.assert_allclose(efficiency(imported(raw)), expected, rtol=0.01)


def test_the_wavelength_of_the_scan_counts_not_that_of_the_header(tmp_path: Path) -> None:
    sensor = {"sensor_material": "Si", "sensor_thickness": 4.5e-4}
    raw = written(tmp_path / "raw.nxs", wavelength=1.0, **sensor)
    detector = nexus.read_scan(imported(raw, wavelength=12.398419843 / 20)).rotation.detector
    assert detector.sensor_attenuation == pytest.approx(232.9 * 4.464, rel=0.01)


def test_a_calibration_states_attenuation_or_material(tmp_path: Path) -> None:
    """It states them explicitly: what the raw file names does not count."""
    sensor = {"sensor_material": "Si", "sensor_thickness": 4.5e-4}
    raw = written(tmp_path / "raw.nxs", wavelength=12.398419843 / 60, **sensor)
    own = nexus.read_scan(imported(raw)).rotation.detector
    beam = {"wavelength_A": 12.398419843 / 60, "polarization": 0.9}
    for changes, material, expected in (
        ({"sensor_attenuation_per_m": 777.0}, {}, 777.0),
        ({"sensor_attenuation_per_m": None}, {}, 232.9 * 0.3207),
        ({"sensor_attenuation_per_m": None}, {"sensor_material": "CdTe"}, 585 * 6.542),
    ):
        data = {"detector": detector_to_dict(own) | changes, "beam": beam} | material
        stage.write_json(tmp_path / "geometry.json", data)
        scan = nexus.read_scan(imported(raw, tmp_path / "geometry.json"))
        assert scan.rotation.detector.sensor_attenuation == pytest.approx(expected, rel=0.01)


def test_an_unknown_material_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = written(tmp_path / "raw.nxs", sensor_material="Unobtainium", sensor_thickness=4.5e-4)
    scan = imported(raw)
    lines = [line for line in capsys.readouterr().out.splitlines() if "Unobtainium" in line]
    assert len(lines) == 1
    assert "raw.nxs: unknown sensor material 'Unobtainium'" in (lines[0])
    np.testing.assert_array_equal(efficiency(scan), 1.0)


def test_the_detector_of_the_file_is_corrected_as_stated(raw: Path) -> None:
    before = nexus.read_scan(imported(raw)).rotation.detector
    items = ("distance=0.15", "shift=2.5,-1", "arm=0,30,0")
    after = nexus.read_scan(imported(raw, detector=items)).rotation.detector
    assert after.distance == pytest.approx(0.15)
    turn = np.array([[np.sqrt(0.75), 0, 0.5], [0, 1, 0], [-0.5, 0, np.sqrt(0.75)]])
    straight = before.lab(20 - 2.5, 20 + 1) + np.array([0, 0, 0.05])
    assert after.lab(20, 20) == pytest.approx(turn @ straight)


def test_a_malformed_correction_is_refused() -> None:
    with pytest.raises(ValueError, match="is no correction of a detector"):
        import_scan.Params(detector=("shift=2",))
