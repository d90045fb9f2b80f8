"""A rocking scan of ten frames with a small detector far out on an arm, with default parameters.

The truth: a flat background whose level follows the absorption of the sample, and one reflection.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images.frame_scale import FrameScale
from hklflow.stages import find_peaks, frame_scale, import_scan

N, SHAPE, COUNTS = 10, (80, 100), 200.0
TRUTH = 1 - 0.02 * np.arange(N)
ARM = Rotation.from_rotvec([np.radians(40), 0, 0]).as_matrix()


def write(path: Path, n: int = N) -> None:
    """Detector of 8 x 10 mm, 0.5 m away at 2θ = 40°."""
    truth = TRUTH if n == N else np.ones(n)
    header = NXmxHeader(
        shape=SHAPE,
        n_frames=n,
        pixel_size=(1e-4, 1e-4),
        origin=ARM @ [0.005, 0.004, 0.5],
        slow=ARM @ [0.0, -1.0, 0.0],
        fast=ARM @ [-1.0, 0.0, 0.0],
        wavelength=0.5,
        axis_names=("eta",),
        axes=[(-1.0, 0.0, 0.0)],
        angles=[0.0],
        start=np.radians(10.0),
        step=np.radians(0.02),
        exposure=1.0,
        monitor=np.full(n, 1e4),
        polarization=1.0,
    )
    slow, fast = np.indices(SHAPE)
    spot = np.exp(-((slow - 40) ** 2 + (fast - 50) ** 2) / 8)
    frame = np.exp(-((np.arange(n) - n / 2) ** 2) / 2)
    expected = truth[:, None, None] * (COUNTS + 5000 * frame[:, None, None] * spot)
    with NXmxWriter(path, header) as writer:
        writer.append(np.random.default_rng(3).poisson(expected).astype(np.uint32))


def run(module: Any, folder: Path, params: dict[str, Any], **inputs: Any) -> None:
    """Run a stage; its products have the names of its outputs."""
    outputs = {
        name: folder
        / f"{name}.{'png' if 'picture' in name else 'json' if 'metrics' in name else 'nxs'}"
        for name in module.Outputs.model_fields
    }
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=1,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rocking")
    write(place / "raw.nxs")
    run(import_scan, place, {}, raw=[place / "raw.nxs"])
    nexus.write_mask(place / "mask.nxs", np.zeros(SHAPE, np.uint32))
    return place


def peaks(folder: Path, **params: object) -> None:
    run(find_peaks, folder, params, scan=folder / "scan.nxs", mask=folder / "mask.nxs")


def scaled(folder: Path, **params: object) -> FrameScale:
    run(
        frame_scale,
        folder,
        params,
        scan=folder / "scan.nxs",
        statistics=folder / "statistics.nxs",
        reference_scan=folder / "scan.nxs",
        reference=folder / "statistics.nxs",
    )
    return nexus.read_scale(folder / "scale.nxs")


def test_defaults_fit_a_small_detector_far_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    q = nexus.read_scan(folder / "scan.nxs").rotation
    slow, fast = np.indices(SHAPE) + 0.5
    length = np.linalg.norm(q.q_lab(slow, fast), axis=-1)
    assert length.min() > 0.95 * length.max()  # the range of the usual annulus is not measured
    peaks(folder)
    told = json.loads((folder / "statistics_metrics.json").read_text())
    assert told["background from and to |Q| in 1/Å"] == pytest.approx([length.min(), length.max()])
    scale = scaled(folder)
    off = scale.scale / (TRUTH / np.median(TRUTH)) - 1
    # 8000 pixels with 200 counts: 0.08 % for a frame.
    assert np.abs(off).max() < 0.003
    told = json.loads((folder / "metrics.json").read_text())
    assert told["frames over which the curve is smooth"] == 9
    log = capsys.readouterr().out
    assert "chosen from the |Q| of the good pixels" in log
    assert "smooth over 9 frames" in log


def test_a_given_annulus_or_window_is_used_or_refused(folder: Path) -> None:
    with pytest.raises(HklflowError, match=r"annulus \[0.3, 0.95\] of the background has no good"):
        peaks(folder, annulus=(0.3, 0.95))
    peaks(folder)
    with pytest.raises(HklflowError, match=r"window=31 of the transmission over 10 frames"):
        scaled(folder, window=31)
    scaled(folder, window=5)
    told = json.loads((folder / "metrics.json").read_text())
    assert told["frames over which the curve is smooth"] == 5


def test_four_frames_have_no_smooth_curve(tmp_path: Path) -> None:
    write(tmp_path / "raw.nxs", 4)
    run(import_scan, tmp_path, {}, raw=[tmp_path / "raw.nxs"])
    nexus.write_mask(tmp_path / "mask.nxs", np.zeros(SHAPE, np.uint32))
    peaks(tmp_path)
    assert np.abs(scaled(tmp_path).scale - 1).max() < 0.005
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert told["frames over which the curve is smooth"] == 1
