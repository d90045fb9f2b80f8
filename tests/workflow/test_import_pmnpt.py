"""A measured SPEC scan from its files to a volume: `hklflow import`, then `snakemake`.

The same scan is imported twice: as a user would reduce it, and as the reference was made, with
its grid and without corrections.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from hklflow import nexus, stage
from hklflow.cli import app

from .conftest import snakemake

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

SHADOW = {"shape": "rectangle", "slow_min": 0, "slow_max": 195, "fast_min": 425, "fast_max": 487}
# All that the files do not say: what is wanted, and what stands before the detector.
WANTED = {
    "delta_pdf": [],
    "refine_parent": {
        "grid_range": [[1.85, 2.17], [0.82, 1.18], [0.85, 1.15]],
        "grid_step": [0.008, 0.009, 0.0075],
    },
    "pixel_mask": {"shapes": [SHADOW]},
}


@pytest.fixture(scope="module")
def data(real_data: Path) -> Path:
    return real_data / "diffuse_pmnpt"


@pytest.fixture(scope="module")
def reference(data: Path) -> dict:
    return json.loads((data / "reference.json").read_text())["S839"]


def as_reference(reference: dict) -> dict:
    """Settings of a sample that is reduced as the reference was."""
    low, high = np.array(reference["hkl_range"]).T
    step = (high - low) / (np.array(reference["grid"]["bins"]) - 1)
    return {
        "refine_parent": {
            "grid_range": [list(pair) for pair in reference["hkl_range"]],
            "grid_step": step.tolist(),
        },
        "pixel_mask": {"shapes": []},
        "transform": {
            "samples": [1, 1, 1],
            "solid_angle": False,
            "polarization": False,
            "efficiency": False,
        },
    }


@pytest.fixture(scope="module")
def folder(data: Path, reference: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("pmnpt")
    folder, other = top / "experiment", top / "other"
    # A PILATUS counts to 2**20 - 1; the reference took all counts.
    for base, more in (
        (folder, ["--sample", "PMN-PT", "--saturation", str(2**20 - 1)]),
        (other, ["--sample", "reference"]),
    ):
        app(["init", str(base)], result_action="return_value")
        command = ["import", str(data / "pmn_pt011_2_1.spec"), "--from", "spec", "--scans", "839"]
        command += ["--directory", str(base), "--space-group", "P m -3 m", "--polarization", "1"]
        assert app([*command, *more], result_action="return_value") == 0
        # One experiment takes a scan's frames once: there are two, and their results are joined.
        config = base / "config/config.yaml"
        own = yaml.safe_load(config.read_text())
        written = own | WANTED
        written["per_scan"] = own["per_scan"]
        name = more[1]
        if name == "reference":
            written["per_sample"] = {name: as_reference(reference)}
        config.write_text(yaml.safe_dump(written))
        goals = [f"results/{name}/300K/{product}" for product in ("transform.nxs", "accepted.json")]
        run = snakemake(base, "--cores", "2", *goals)
        assert run.returncode == 0, run.stdout + run.stderr
    shutil.copytree(other / "results/reference", folder / "results/reference")
    return folder


def brightest(volume: nexus.Volume, values: np.ndarray) -> np.ndarray:
    at = np.unravel_index(int(np.nanargmax(values)), values.shape)
    return np.array([volume.grid.axis(i)[at[2 - i]] for i in range(3)])


def centre(volume: nexus.Volume, values: np.ndarray, least: float = 0.05) -> np.ndarray:
    """Centre of mass (3,) of what is above a part of the largest value."""
    weight = np.where(np.nan_to_num(values) > least * np.nanmax(values), values, 0.0)
    sums = (weight.sum((0, 1)), weight.sum((0, 2)), weight.sum((1, 2)))
    return np.array([volume.grid.axis(i) @ s / s.sum() for i, s in enumerate(sums)])


def test_scan_without_images_is_told_and_not_made(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app(["init", str(tmp_path / "e")], result_action="return_value")
    capsys.readouterr()
    source = str(data / "pmn_pt011_2_1.spec")
    app(
        ["import", source, "--from", "spec", "--directory", str(tmp_path / "e"), "-n"],
        result_action="return_value",
    )
    told = capsys.readouterr().out
    assert "not matched: scan 840" in told
    assert "no images with its number (for 401 points)" in told
    assert "perhaps" in told
    assert "S839_#####.tif (401 frames)" in told
    assert "h, k, l of all points agree with SPEC's values to 5e-06" in told
    assert not (tmp_path / "e/raw").exists() or not list((tmp_path / "e/raw").iterdir())


def test_counts_and_peak_are_those_of_the_reference(folder: Path, reference: dict) -> None:
    volume = nexus.read_volume(folder / "results/reference/300K/transform.nxs")
    assert volume.counts.sum() == reference["grid"]["sum_counts"]
    notes = nexus.read_volume(folder / "results/reference/300K/S839/transform.nxs").notes
    assert notes["pixel-frames used"] == 401 * (195 * 487 - 3)
    assert notes["sub-samples outside the grid"] == 0
    off = brightest(volume, volume.counts) - np.array(reference["brightest"]["hkl"])
    # A pixel is up to half a voxel from its voxel's centre; the brightest may be its neighbour.
    assert np.all(np.abs(off) < 1.5 * volume.grid.step)
    off = centre(volume, volume.data) - np.array(reference["com_gt5pct"])
    assert np.all(np.abs(off) < 0.5 * volume.grid.step)


def test_corrected_volume(folder: Path) -> None:
    volume = nexus.read_volume(folder / "results/PMN-PT/300K/transform.nxs")
    np.testing.assert_allclose(volume.grid.axis(0)[[0, -1]], [1.85, 2.17], atol=1e-9)
    assert np.all(np.abs(centre(volume, volume.data) - [2, 1, 1]) < 0.005)
    assert np.all(np.abs(brightest(volume, volume.data) - [2, 1, 1]) < volume.grid.step)
    notes = nexus.read_volume(folder / "results/PMN-PT/300K/S839/transform.nxs").notes
    # 33 pixel-frames are saturated; none of the three flagged pixels is in the shadow.
    assert notes["pixel-frames used"] == 401 * (195 * 425 - 3) - 33


def test_the_orientation_is_the_one_of_spec(folder: Path, reference: dict) -> None:
    found = stage.read_json(folder / "results/PMN-PT/300K/orientation.json")
    assert found["fixed"]
    np.testing.assert_allclose(found["cell"], reference["cell"], rtol=1e-7)
    # You's x (up), y (beam), z are the lab's y, z, x.
    theirs = np.array(reference["UB_with_2pi"])[[2, 0, 1]]
    np.testing.assert_allclose(found["UB"], theirs, atol=1e-8)
    assert found["temperature"] == reference["T_K"]
    assert stage.read_json(folder / "results/PMN-PT/300K/accepted.json")["accepted"]
    scan = nexus.read_scan(folder / "results/PMN-PT/300K/S839/scan.nxs")
    assert scan.rotation.beam.wavelength == pytest.approx(reference["wavelength_A"], abs=1e-9)
    # The instrument's XML divides the monitor by 2e5.
    assert 0.1 < scan.monitor.min() < scan.monitor.max() < 1
