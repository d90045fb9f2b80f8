"""Stage refine_scale: worlds whose crystals absorb by rays, from raw files to the transform."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.stages import refine_scale, transform
from tests.truth.quantitative_catalogue import world
from tests.truth.quantitative_gauge import at_blocks, gauge_free
from tests.truth.quantitative_scans import Made, made


def refined(found: Made, **params: Any) -> dict[str, Any]:
    outputs = refine_scale.Outputs(
        refined=found.folder / "refined_scale.nxs",
        picture=found.folder / "refined_scale.png",
        metrics=found.folder / "refined_scale.json",
    )
    stage.run(
        refine_scale.main,
        inputs=refine_scale.Inputs(
            scans=found.each("scan.nxs"),
            masks=found.each("mask.nxs"),
            scales=found.each("scale.nxs"),
            frame_masks=found.each("frame_mask.nxs"),
            orientation=found.folder / "orientation.json",
        ),
        outputs=outputs,
        params=refine_scale.Params(**params),
        threads=1,
    )
    metrics: dict[str, Any] = json.loads(outputs.metrics.read_text())
    return metrics


def fields(found: Made) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return ln(factor / true) of each rotation without and with the refined scale."""
    w, before, after = found.world, [], []
    slow, fast = (at_blocks(np.indices(w.shape)[i] + 0.5) for i in (0, 1))
    for r, name in enumerate(found.names):
        scale = nexus.read_scale(found.folder / name / "scale.nxs")
        own = nexus.read_refined(found.folder / "refined_scale.nxs", name)
        assert own is not None
        frames = range(w.scans[r].n_frames)
        true = np.log(np.stack([at_blocks(w.factor(r, z)) for z in frames]))
        before.append(np.log(scale.monitor * scale.attenuation)[:, None, None] - true)
        nodes = own.direction.slow, own.direction.fast
        log = [RegularGridInterpolator(nodes, d)((slow, fast)) for d in own.direction.log]
        of_range = np.stack(log)[np.arange(len(true)) // own.direction.every]
        after.append(before[-1] + np.log(own.curve)[:, None, None] + of_range)
    return before, after


@pytest.mark.slow
def test_the_scale_of_a_needle_is_found_without_a_monitor(tmp_path: Path) -> None:
    """What redundancy can see of the transmission, by frame and direction; attenuators stay."""
    found = made(world("needle", 3, span=50.0), tmp_path)
    metrics = refined(found)
    assert metrics["determined"]
    assert metrics["reduced chi2 after"] < 0.9 * metrics["reduced chi2 before"]
    before, after = fields(found)
    seen = [gauge_free(found.world, f) for f in (before, after)]
    assert seen[0].rms > 0.05
    assert seen[1].rms < 0.25 * seen[0].rms
    norms = []
    for path in (None, tmp_path / "refined_scale.nxs"):
        outputs = [tmp_path / f"{kind}.nxs" for kind in ("all", "masked")]
        stage.run(
            transform.main,
            inputs=transform.Inputs(
                scan=tmp_path / "r1/scan.nxs",
                mask=tmp_path / "r1/mask.nxs",
                scale=tmp_path / "r1/scale.nxs",
                refined=path,
                frame_mask=tmp_path / "r1/frame_mask.nxs",
                orientation=tmp_path / "orientation.json",
            ),
            outputs=transform.Outputs(transform=outputs[0], masked_transform=outputs[1]),
            params=transform.Params(rotation="r1"),
            threads=1,
        )
        volume = nexus.read_volume(outputs[0])
        norms.append((volume.counts.sum(), volume.norm.sum()))
    assert "scale from repeated measurements" in volume.notes["corrected for"]
    assert norms[0][0] == norms[1][0]
    # The means of the factors are about 1.
    assert norms[1][1] == pytest.approx(norms[0][1], rel=0.1)
    assert norms[1][1] != norms[0][1]


@pytest.mark.slow
def test_what_is_not_determined_is_said_and_changes_nothing(tmp_path: Path) -> None:
    """Symmetry P 1, a quarter of a turn, and a detector on one side of the beam."""
    found = made(world("undetermined", 3, (60, 64)), tmp_path)
    metrics = refined(found, friedel=False)
    assert not metrics["determined"]
    assert any("the transmission by frame_scale is used" in w for w in metrics["warnings"])
    assert nexus.read_refined(tmp_path / "refined_scale.nxs", "r1") is None


@pytest.mark.parametrize(
    ("folders", "measured"),
    [("r1 r2", True), ("r1 r2 r3", True), ("r1", False), ("300K", False), ("", False)],
)
def test_a_background_is_measured_if_every_rotation_has_a_run(folders: str, measured: bool) -> None:
    """The file in the folder of the scan is not measured: it has no isotropic part."""
    files = [Path("results/quartz/300K") / name / "background.nxs" for name in folders.split()]
    assert refine_scale._is_measured(files, ["r1", "r2"]) is measured


def test_a_scale_of_other_frames_is_refused(tmp_path: Path) -> None:
    found = made(world("needle", 3, (60, 64), span=6.0), tmp_path)
    for name, other in (("r1", "r2"), ("r2", "r1")):
        scale = nexus.read_scale(tmp_path / other / "scale.nxs")
        short = scale.monitor[:-1]
        flat = Transmission(short, 0 * short, short, np.zeros(len(short), np.uint8), 1.0)
        nexus.write_scale(
            tmp_path / name / "scale.nxs",
            FrameScale(short, short, short, flat, 1.0, 1.0, "none"),
            short,
        )
    with pytest.raises(HklflowError, match="run frame_scale again"):
        refined(found)
