"""The stages on measured frames of PMN-PT around (2 1 1)."""

import json

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.formats.raw import read_header
from hklflow.geometry.grid import Grid
from hklflow.stages import accept, import_scan, refine_parent
from tests.truth import pmnpt
from tests.truth.snase import run

pytestmark = [pytest.mark.real_data, pytest.mark.slow, pytest.mark.pictures]


@pytest.fixture(scope="module")
def data(real_data):
    return real_data / "diffuse_pmnpt"


@pytest.fixture(scope="module")
def reference(data):
    return json.loads((data / "reference.json").read_text())["S839"]


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    return tmp_path_factory.mktemp("pmnpt")


@pytest.fixture(scope="module")
def prepared(data, folder):
    return pmnpt.prepare(data, folder)


@pytest.fixture(scope="module")
def compared(data, folder, prepared):
    return pmnpt.compare(data, folder)


@pytest.fixture(scope="module")
def corrected(data, folder, compared):
    return pmnpt.corrected(data, folder, bins=40)


def test_headers_left_over_from_another_experiment_are_not_believed(data, tmp_path):
    first = data / "images" / "pmn_pt011_2_1_S839_00000.tif"
    assert b"1.12718" in first.read_bytes()[:4096]
    pattern = str(first).replace("00000", "#####")
    header = read_header(pattern)
    assert header.n_frames == 401
    assert (header.wavelength, header.detector, header.goniometer) == (None, None, None)
    assert (header.start_deg, header.step_deg, header.exposure_time) == (None, None, None)
    with pytest.raises(HklflowError, match=r"wavelength is not known.*geometry is not known"):
        stage.run(
            import_scan.main,
            inputs=import_scan.Inputs(raw=[first]),
            outputs=import_scan.Outputs(scan=tmp_path / "scan.nxs"),
            params=import_scan.Params(pattern=pattern),
            threads=1,
        )


def test_hkl_of_all_points_agrees_with_spec(data):
    # SPEC prints six digits of h, k, l and its angles to 1e-5 degrees.
    assert pmnpt.hkl_difference(data) < 1e-5


def test_mask_and_maximum(prepared, reference):
    # Three pixels are flagged (-2) on every frame; the peak must not pass for a defect.
    assert prepared["masked pixels by bit"] == {"1": 3}
    bright = reference["brightest"]
    assert prepared["maximum"] == bright["counts"]
    assert prepared["maximum at"] == [bright["frame"], bright["row"], bright["col"]]


def test_the_default_annulus_is_what_the_detector_reaches(data, folder, prepared):
    """All pixels have |Q| above 0.948 of the largest: 0.3 to 0.95 of it is a strip of 3 %."""
    scan, _ = pmnpt.read(data)
    q = np.linalg.norm(
        scan.rotation.q_lab(*(np.indices(scan.rotation.detector.shape) + 0.5)), axis=-1
    )
    figures = stage.read_json(folder / "statistics.json")
    assert figures["background from and to |Q| in 1/Å"] == pytest.approx([q.min(), q.max()])
    background = nexus.read_statistics(folder / "statistics.nxs", "background")
    assert np.isfinite(background).all()


def test_attenuators_and_monitor_join_the_frames(folder, prepared):
    scan = nexus.read_scan(folder / "scan.nxs")
    sums = nexus.read_statistics(folder / "statistics.nxs", "frame_sum")
    raw = np.abs(np.diff(np.log(sums)))
    normalised = np.abs(np.diff(np.log(sums / scan.monitor / scan.attenuation)))
    # On the peak's flanks the intensity changes by a quarter from frame to frame at most; the
    # attenuators are moved there, by factors of up to 18.
    steps = np.diff(scan.attenuation) != 0
    flanks = steps & ((np.arange(400) < 186) | (np.arange(400) >= 210))
    assert flanks.sum() >= 4
    assert raw[flanks].max() > 2
    assert normalised[flanks].max() < 0.25


def test_counts_are_those_of_the_reference(compared):
    assert compared["counts"] == compared["counts of the reference"]
    assert compared["pixel-frames used"] == 401 * (195 * 487 - 3)
    # The reference's outermost voxels are centred at its outermost pixels.
    assert compared["sub-samples outside the grid"] == 0


def test_peak_is_where_the_reference_has_it(compared, reference):
    step = compared["voxel"]
    off = compared["voxel with most counts"] - np.array(reference["brightest"]["hkl"])
    # A pixel is up to half a voxel from its voxel's centre; the brightest may be its neighbour.
    assert np.all(np.abs(off) < 1.5 * step)
    off = compared["centre of pixels above 5 %"] - np.array(reference["com_gt5pct"])
    assert np.abs(off).max() < 1e-8
    # With counts divided by the norm the centre is another, by less than half a voxel.
    off = compared["centre of voxels above 5 %, S"] - np.array(reference["com_gt5pct"])
    assert np.all(np.abs(off) < 0.5 * step)


def test_corrected_volume(corrected, compared, folder, data):
    # The peak has two maxima 11 frames apart, which is 0.0023 in hkl; the voxels are 0.008.
    assert np.all(np.abs(corrected["centre of voxels above 5 %, S"] - [2, 1, 1]) < 0.005)
    assert np.all(np.abs(corrected["brightest voxel of S"] - [2, 1, 1]) < corrected["voxel"])
    lost = compared["pixel-frames used"] - corrected["pixel-frames used"]
    scan, _ = pmnpt.read(data)
    shadow = 401 * 195 * (487 - pmnpt.SHADOW)
    # 33 saturated pixel-frames, none of them in the shadow.
    assert lost == shadow + 33
    volume = nexus.read_volume(folder / "corrected.nxs")
    assert np.all(np.isfinite(volume.data) == (volume.norm > 0))
    assert np.all(volume.errors[volume.norm > 0] > 0)
    assert (folder / "planes.png").stat().st_size > 10_000
    # What led to the volume is in it.
    names = [record["stage"] for record in stage.provenance(folder / "corrected.nxs")]
    assert names[-1] == "merge"
    assert {"pixel_mask", "find_peaks", "transform"} <= set(names)
    assert scan.temperature == 300


def test_fragments_of_one_maximum_are_no_reflections(data, folder, prepared):
    """Parts of (2 1 1) and its wings count as indexed by SPEC's UB, far from their place."""
    scan, written = pmnpt.read(data)
    start = pmnpt.orientation(scan, written.ub, Grid.symmetric([2.2] * 3, [0.02] * 3))
    stage.write_json(folder / "start.json", start.to_dict())
    tables = {"scans": [folder / "scan.nxs"], "peaks": [folder / "peaks.nxs"]}
    names = {"sample": "PMN-PT", "scan": "839", "rotations": ["eta"], "fixed": True}
    parent, accepted = folder / "fixed.json", folder / "accepted.json"
    run(
        refine_parent,
        tables | {"start": folder / "start.json"},
        {"orientation": parent, "picture": folder / "fixed.png"},
        **names,
        space_group="P m -3 m",
        cell=(4.03, 4.03, 4.03, 90.0, 90.0, 90.0),
    )
    run(accept, {"orientation": parent, "parent": parent}, {"accepted": accepted})
    found = stage.read_json(accepted)
    assert found["verdict"] == "doubtful"
    assert found["figures"]["misfit"]["rms in pixels"] > 50
    (doubt,) = [x for x in found["doubts"] if "away from where the fixed orientation" in x]
    assert "limits 2 and 1" in doubt
