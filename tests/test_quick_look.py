"""A quick look and the whole resolution, from frames of different seeds, find the same crystal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.experiment import binned
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry import lattice
from hklflow.simulation.frames import (
    Background,
    Cosine,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stage import orientation
from hklflow.stages import (
    bin_frames,
    find_peaks,
    frame_scale,
    import_scan,
    mask_3d,
    pixel_mask,
    refine_parent,
    transform,
)

pytestmark = pytest.mark.slow

CELL = (4.75, 5.6, 7.2, 90.0, 90.0, 90.0)
SHAPE, N = (443, 458), 100
LIMIT, STEP = 2.0, 0.2


def simulated(seed: int) -> Simulation:
    return Simulation(
        DetectorModel(
            SHAPE,
            0.08,
            (215.3, 236.8),
            (135e-6, 135e-6),
            tilt=(0.01, -0.02),
            in_plane=0.003,
            gaps=((219, 226, 0, 458),),
        ),
        GoniometerModel(),
        ScanModel(0.0, np.radians(1.2), N, 0.6, flux=0.6, exposure=0.1, seed=seed),
        CrystalModel(CELL, orientation=(0.4, -0.7, 0.3), scale=20.0, mosaic=0.007),
        Diffuse(flat=2.0, cosines=(Cosine(0.5, (1, 0, 0)),)),
        Background(air=0.2),
    )


def _run(module: Any, inputs: Any, outputs: Any, params: Any) -> None:
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=params,
        threads=1,
    )


def reduced(folder: Path, factor: int) -> tuple[dict[str, Any], nexus.Volume]:
    """Orientation, and S(Q) of a simulated rotation."""
    folder.mkdir()
    simulation = simulated(factor)
    at = {n: folder / f"{n}.nxs" for n in ("raw", "binned", "scan", "mask", "peaks", "statistics")}
    at |= {n: folder / f"{n}.nxs" for n in ("scale", "frame_mask", "all", "clean")}
    model = folder / "orientation.json"
    told = {"picture": folder / "picture.png", "metrics": folder / "metrics.json"}
    with NXmxWriter(at["raw"], NXmxHeader(**simulation.raw_header())) as writer:
        for frames in simulation.frames(25):
            writer.append(frames)
    raw = at["raw"]
    if factor > 1:
        raw = at["binned"]
        _run(
            bin_frames,
            {"raw": [at["raw"]]},
            {"binned": raw},
            bin_frames.Params(binning=factor),
        )
    _run(
        import_scan,
        {"raw": [raw]},
        {"scan": at["scan"]},
        import_scan.Params(binning=factor),
    )
    masked = {"scan": at["scan"], "mask": at["mask"]}
    of_scan = {"scan": at["scan"]}
    _run(pixel_mask, of_scan, {"mask": at["mask"], **told}, pixel_mask.Params())
    outputs = {
        "peaks": at["peaks"],
        "statistics": at["statistics"],
        "statistics_picture": folder / "statistics.png",
        "statistics_metrics": folder / "statistics.json",
        **told,
    }
    _run(find_peaks, masked, outputs, binned.find_peaks(find_peaks.Params(), factor))
    inputs = {
        "scan": at["scan"],
        "statistics": at["statistics"],
        "reference_scan": at["scan"],
        "reference": at["statistics"],
    }
    no_scale = frame_scale.Params(source="none")
    _run(frame_scale, inputs, {"scale": at["scale"], **told}, no_scale)
    _run(
        refine_parent,
        {"scans": [at["scan"]], "peaks": [at["peaks"]]},
        {"orientation": model, "picture": told["picture"]},
        refine_parent.Params(
            sample="s",
            scan="300K",
            rotations=["r1"],
            space_group="P m m m",
            cell=(4.8, 5.55, 7.25, 90.0, 90.0, 90.0),
            grid_limits=(LIMIT,) * 3,
            grid_step=(STEP,) * 3,
        ),
    )
    settings = binned.mask_3d(mask_3d.Settings(), factor)
    _run(
        mask_3d,
        masked,
        {"frame_mask": at["frame_mask"], "picture": told["picture"]},
        mask_3d.Params(**settings.model_dump()),
    )
    inputs = masked | {
        "scale": at["scale"],
        "frame_mask": at["frame_mask"],
        "orientation": model,
    }
    volumes = {"transform": at["all"], "masked_transform": at["clean"]}
    _run(transform, inputs, volumes, transform.Params(rotation="r1"))
    return json.loads(model.read_text()), nexus.read_volume(at["all"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], nexus.Volume]]:
    folder = tmp_path_factory.getbasetemp() / "quick"
    folder.mkdir()
    return [reduced(folder / f"binned{factor}", factor) for factor in (1, 4)]


TWOFOLD = [np.diag(d) for d in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])]


def _turn(u: np.ndarray, true_u: np.ndarray) -> float:
    """Degrees between two orientations of an orthorhombic crystal."""
    cosines = [(np.trace(u @ turn @ true_u.T) - 1) / 2 for turn in TWOFOLD]
    return float(np.degrees(np.arccos(min(max(cosines), 1.0))))


def test_cells_and_orientations_agree_within_their_errors(
    both: list[tuple[dict[str, Any], nexus.Volume]],
) -> None:
    (full, _), (quick, _) = both
    true_u = lattice.decompose_ub(simulated(1).ub)[0]
    lengths = [np.array(found["cell"])[:3] for found in (full, quick)]
    sigma = [np.array(found["cell_sigma"])[:3] for found in (full, quick)]
    turns = [_turn(np.array(found["U"]), true_u) for found in (full, quick)]
    assert quick["rotations"]["r1"]["detector"]["shape"] == [110, 114]
    assert (np.abs(lengths[1] - lengths[0]) < 4 * np.hypot(*sigma)).all()
    assert (np.abs(lengths[1] - CELL[:3]) < 0.002 * np.array(CELL[:3])).all()
    # A block is 0.37 degrees wide as the crystal sees it; some hundred peaks tell a part of it.
    assert max(turns) < 0.37 / 50


@pytest.mark.usefixtures("both")
def test_an_orientation_of_the_whole_resolution_starts_a_quick_look(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    full, quick = (tmp_path_factory.getbasetemp() / f"quick/binned{b}" for b in (1, 4))
    observed = orientation.read(["r1"], [quick / "scan.nxs"], [quick / "peaks.nxs"])
    start = orientation.started(full / "orientation.json", observed)
    expected = json.loads((full / "orientation.json").read_text())["UB"]
    np.testing.assert_allclose(start.ub, expected, atol=1e-6)
    assert start.group is not None
    assert start.group.symbol.replace(" ", "") == "Pmmm"


def test_diffuse_scattering_agrees_within_its_errors(
    both: list[tuple[dict[str, Any], nexus.Volume]],
) -> None:
    """On the same scale: a block's counts are divided by the pixels that it has."""
    full, quick = (volume for _, volume in both)
    h, k, ell = np.meshgrid(*(full.grid.axis(i) for i in range(3)), indexing="ij")
    far = np.max([np.abs(x - np.round(x)) for x in (h, k, ell)], axis=0).T > 0.35
    both_seen = far & (full.norm > 0) & (quick.norm > 0)
    seen = both_seen & (full.counts > 20) & (quick.counts > 20)
    values = [volume.counts[seen] / volume.norm[seen] for volume in (full, quick)]
    variances = [volume.counts[seen] / volume.norm[seen] ** 2 for volume in (full, quick)]
    pulls = (values[1] - values[0]) / np.sqrt(variances[0] + variances[1])
    ratio = values[1].sum() / values[0].sum()
    assert seen.sum() > 500
    assert abs(ratio - 1) < 0.01
    assert abs(pulls.mean()) < 0.1
    assert 0.9 < pulls.std() < 1.1
