"""Stages transform and add_transforms: passes, blocks of frames and threads give one answer."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import geometry, nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.grid import Grid
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.images.mask3d import pack
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stages import add_transforms, import_scan, transform
from hklflow.transform.bricks import EDGE
from hklflow.transform.coverage import BRICK_BYTES, passes, passes_needed, touched_bricks
from tests.truth.orientations import write_orientation

N = 40
SHAPE = (90, 100)
CELL = (5.2, 5.2, 7.1, 90.0, 90.0, 120.0)
# 101 planes of l; the rotation reaches a part of the grid.
GRID = Grid.symmetric((6.0, 6.0, 8.0), (0.12, 0.12, 0.16))


def simulation() -> Simulation:
    return Simulation(
        DetectorModel(
            SHAPE,
            0.08,
            (42.0, 51.0),
            (5e-4, 5e-4),
            tilt=(0.11, -0.07),
            in_plane=0.2,
            gaps=((40, 43, 0, 100),),
        ),
        GoniometerModel(),
        ScanModel(0.0, np.radians(2.0), N, 0.5, flux=8.0, exposure=1.0, seed=4),
        CrystalModel(CELL, scale=20.0, mosaic=0.01),
        Diffuse(flat=1.0),
    )


@dataclass(frozen=True)
class Made:
    """A folder with what the transform reads, and the frames (n, slow, fast)."""

    path: Path
    frames: np.ndarray
    good: np.ndarray
    excluded: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("transform")
    simulated = simulation()
    with NXmxWriter(folder / "raw.nxs", NXmxHeader(**simulated.raw_header())) as writer:
        for frames in simulated.frames(8):
            writer.append(frames)
    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[folder / "raw.nxs"]),
        outputs=import_scan.Outputs(scan=folder / "scan.nxs"),
        params=import_scan.Params(),
        threads=1,
    )
    good = simulated.live > 0
    nexus.write_mask(folder / "mask.nxs", np.where(good, 0, 1).astype(np.uint32))
    z, i, j = np.indices((N, *SHAPE))
    excluded = (z % 7 == 3) & (np.hypot(i - 30, j - 60) < 12)
    with nexus.FrameMaskWriter(folder / "frame_mask.nxs", (N, *SHAPE)) as mask:
        mask.append(pack(excluded), excluded.mean(axis=(1, 2)))
    ones, z = np.ones(N), np.arange(N)
    wave = 1 + 0.2 * np.sin(z)
    transmission = Transmission(wave, 0.01 * ones, ones, np.zeros(N, np.uint8), 1.0)
    scale = FrameScale(
        monitor=1 - 0.01 * z,
        attenuation=np.where(z < 9, 0.13, 1.0),
        signal=ones,
        transmission=transmission,
        rotation=1.0,
        area=1.0,
        source="none",
    )
    nexus.write_scale(folder / "scale.nxs", scale, ones)
    rotation = nexus.read_scan(folder / "scan.nxs").rotation
    write_orientation(folder / "orientation.json", {"r1": rotation}, simulated.ub, grid=GRID)
    return Made(folder, np.concatenate(list(simulated.frames(8))), good, excluded)


def run(
    made: Made, name: str, threads: int = 1, model: str = "orientation.json", **params: Any
) -> list[nexus.Volume]:
    """Volumes with everything, and without the 3-D mask."""
    paths = [made.path / f"{kind}_{name}.nxs" for kind in ("all", "masked")]
    stage.run(
        transform.main,
        inputs=transform.Inputs(
            scan=made.path / "scan.nxs",
            mask=made.path / "mask.nxs",
            scale=made.path / "scale.nxs",
            frame_mask=made.path / "frame_mask.nxs",
            orientation=made.path / model,
        ),
        outputs=transform.Outputs(transform=paths[0], masked_transform=paths[1]),
        params=transform.Params(**{"rotation": "r1", "samples": (1, 2, 1), **params}),
        threads=threads,
    )
    return [nexus.read_volume(path) for path in paths]


@pytest.fixture(scope="module")
def whole(made: Made) -> list[nexus.Volume]:
    return run(made, "whole")


def same(one: list[nexus.Volume], other: list[nexus.Volume]) -> None:
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.counts, b.counts)
        assert np.array_equal(a.norm, b.norm)


def test_all_counts_are_in_the_volumes(made: Made, whole: list[nexus.Volume]) -> None:
    used = made.frames[:, made.good].sum()
    assert whole[0].notes["sub-samples outside the grid"] == 0
    assert whole[0].counts.sum() == used
    kept = np.where(made.excluded, 0, made.frames)[:, made.good].sum()
    assert whole[1].counts.sum() == kept < used
    assert whole[0].notes["pixel-frames used"] == N * made.good.sum()
    assert np.all((whole[0].norm > 0) >= (whole[1].norm > 0))


def test_the_offset_of_the_orientation_is_used(
    made: Made, whole: list[nexus.Volume], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it moves pixels to is in `transform/test_off_axis_transform.py`."""
    rotation = nexus.read_scan(made.path / "scan.nxs").rotation
    for name, offset in (("other", [1e-3, 0, 0]), ("r1", [0, 0, 0]), ("r1", [0, 2e-3, 0])):
        offsets = {name: np.array(offset, float)}
        write_orientation(
            made.path / "off.json", {"r1": rotation}, simulation().ub, grid=GRID, offsets=offsets
        )
        found = run(made, "off", model="off.json")
        moved = name == "r1" and any(offset)
        assert np.array_equal(found[0].counts, whole[0].counts) == (not moved)
    assert found[0].notes["offset of the crystal from the axis (m)"] == [0, 2e-3, 0]
    shift = found[0].notes["largest shift of S(Q) by this offset, which is corrected (voxels)"]
    left = found[0].notes["left by the correction (voxels)"]
    assert 0.1 < left < 0.3 * shift
    assert (
        f"the correction leaves {left:.2g} (limit 0.1): centre the crystal"
        in capsys.readouterr().out
    )


def test_passes_and_threads_change_nothing(
    made: Made, whole: list[nexus.Volume], capfd: pytest.CaptureFixture[str]
) -> None:
    same(whole, run(made, "threads", threads=3))
    passed = run(made, "passes", memory=0.3, threads=2)
    assert "passes over the frames" in capfd.readouterr().out
    same(whole, passed)
    assert passed[0].notes == whole[0].notes


@pytest.mark.parametrize(
    ("of", "changes"),
    [(1, {"block": 7}), (2, {"memory": 0.3, "threads": 2}), (3, {}), (7, {"threads": 4})],
)
def test_blocks_of_frames_give_the_same_volumes(
    made: Made, whole: list[nexus.Volume], of: int, changes: dict[str, Any]
) -> None:
    for part in range(of):
        run(made, f"{part}of{of}", part=(part, of), **changes)
    outputs = [made.path / f"{kind}_sum{of}.nxs" for kind in ("all", "masked")]
    parts = [
        [made.path / f"{kind}_{part}of{of}.nxs" for part in range(of)] for kind in ("all", "masked")
    ]
    stage.run(
        add_transforms.main,
        inputs=add_transforms.Inputs(parts=parts[0], masked_parts=parts[1]),
        outputs=add_transforms.Outputs(transform=outputs[0], masked_transform=outputs[1]),
        params=add_transforms.Params(),
        threads=1,
    )
    added = [nexus.read_volume(path) for path in outputs]
    same(whole, added)
    assert added[0].notes == {**whole[0].notes, "blocks of frames": of}


def test_counts_are_stored_without_loss(made: Made, whole: list[nexus.Volume]) -> None:
    # The plain loop, of three sub-samples, has no limit of 32 bits.
    three = run(made, "three", samples=(1, 3, 1))
    assert three[0].counts.sum() == whole[0].counts.sum()
    for name, dtype in (("whole", np.uint32), ("three", np.uint64)):
        with nexus.open_volume(made.path / f"all_{name}.nxs") as volume:
            assert volume.group["counts"].dtype == dtype


def test_parts_of_other_grids_are_refused(made: Made, whole: list[nexus.Volume]) -> None:
    other = made.path / "other.nxs"
    small = Grid.symmetric(1.0, 0.5)
    nexus.write_volume(other, nexus.Volume(small, np.array(CELL), *np.ones((2, 5, 5, 5))), "t")
    with pytest.raises(HklflowError, match="another grid"):
        stage.run(
            add_transforms.main,
            inputs=add_transforms.Inputs(
                parts=[made.path / "all_whole.nxs", other],
                masked_parts=[made.path / "masked_whole.nxs", other],
            ),
            outputs=add_transforms.Outputs(
                transform=made.path / "x.nxs", masked_transform=made.path / "y.nxs"
            ),
            params=add_transforms.Params(),
            threads=1,
        )
    assert not (made.path / "x.nxs").exists()


def test_touched_bricks_are_estimated_from_few_pixels(whole: list[nexus.Volume]) -> None:
    simulated = simulation()
    header = simulated.raw_header()
    rotation = geometry.Rotation(
        geometry.Beam(header["wavelength"], header["polarization"]),
        geometry.Detector(
            header["shape"],
            header["pixel_size"],
            header["origin"],
            header["slow"],
            header["fast"],
        ),
        geometry.Goniometer(
            header["axis_names"], header["axes"], header["angles"], header["scan_axis"]
        ),
        geometry.Scan(header["start"], header["step"], N),
    )
    estimate = touched_bricks(rotation, simulated.ub, GRID, 0, N)
    padding = [(0, -n % EDGE) for n in GRID.array_shape]
    seen = np.pad(whole[0].norm > 0, padding)
    n_l, n_k, n_h = (n // EDGE for n in seen.shape)
    bricks = seen.reshape(n_l, EDGE, n_k, EDGE, n_h, EDGE).any(axis=(1, 3, 5)).sum(axis=(1, 2))
    assert 0.95 < estimate.sum() / bricks.sum() < 1.3
    # Each pass fits, all planes have their pass, and cuts are between chunks of the files.
    memory = 0.3 * estimate.sum() * BRICK_BYTES
    ranges = passes_needed(rotation, simulated.ub, GRID, (0, N), memory)
    assert ranges == passes(GRID, estimate, memory)
    assert len(ranges) >= 4
    assert ranges[0][0] == 0
    assert ranges[-1][1] == GRID.shape[2]
    for (_, last), (first, _) in itertools.pairwise(ranges):
        assert first == last
        assert first % nexus.PLANES == 0
    assert passes_needed(rotation, simulated.ub, GRID, (0, N), 1e9) == [(0, GRID.shape[2])]
