"""Frames that are left out: what is in them reaches nothing, and the rest is as without them.

Two frames of a simulated rotation are overwritten by garbage and left out. The truth is the same
rotation undamaged: of that, with the sums of these two frames taken off.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.formats.raw import open_frames, open_scan
from hklflow.formats.raw_frames import Frames
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry import left_out
from hklflow.geometry.grid import Grid
from hklflow.peaks.search import PeakFlag
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stages import (
    find_peaks,
    frame_scale,
    import_scan,
    integrate,
    mask_3d,
    merge,
    pixel_mask,
    transform,
)
from tests.truth.orientations import write_orientation

pytestmark = pytest.mark.slow

N, SHAPE = 48, (160, 180)
OUT = (16, 17, 30)
CELL = (6.0, 6.0, 6.0, 90.0, 90.0, 90.0)
GRID = Grid.symmetric((4.0, 4.0, 4.0), (0.1, 0.1, 0.1))
FLAGS = {"uint32": 2**32 - 1, "uint16": 2**16 - 1, "int32": -1, "float32": np.nan}


def simulation() -> Simulation:
    return Simulation(
        DetectorModel(SHAPE, 0.11, (78.0, 92.0), (1e-3, 1e-3), gaps=((31, 33, 0, 180),)),
        GoniometerModel(),
        ScanModel(0.0, np.radians(1.0), N, 1.0, flux=0.5, drift=0.2, seed=5),
        CrystalModel(CELL, orientation=(0.3, 0.2, -0.4), scale=1.2, mosaic=0.012, b_iso=1.0),
        Diffuse(flat=1.0),
    )


def run(module: ModuleType, inputs: Any, outputs: Any, threads: int = 2, **params: Any) -> None:
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=threads,
    )


@dataclass(frozen=True)
class Reduced:
    """A rotation in a folder, reduced up to its volume."""

    path: Path

    def at(self, name: str) -> Path:
        return self.path / name

    def told(self, name: str) -> dict[str, Path]:
        return {"picture": self.at(f"{name}.png"), "metrics": self.at(f"{name}.json")}

    def transform(self, name: str, scale: Path, threads: int = 3, **params: Any) -> nexus.Volume:
        """Volume of all pixels."""
        inputs = {
            "scan": self.at("scan.nxs"),
            "mask": self.at("mask.nxs"),
            "scale": scale,
            "frame_mask": self.at("frame_mask.nxs"),
            "orientation": self.at("orientation.json"),
        }
        outputs = {"transform": self.at(f"{name}.nxs"), "masked_transform": self.at("clean.nxs")}
        run(transform, inputs, outputs, threads, rotation="r1", block=8, **params)
        return nexus.read_volume(self.at(f"{name}.nxs"))


def reduce_rotation(
    folder: Path, simulated: Simulation, counts: np.ndarray, monitor: np.ndarray, **params: Any
) -> Reduced:
    """All stages from the raw file to the volume."""
    folder.mkdir()
    made = Reduced(folder)
    header = simulated.raw_header() | {"monitor": monitor}
    with NXmxWriter(made.at("raw.nxs"), NXmxHeader(**header)) as writer:
        writer.append(counts)
    run(import_scan, {"raw": [made.at("raw.nxs")]}, {"scan": made.at("scan.nxs")}, **params)
    both = {"scan": made.at("scan.nxs"), "mask": made.at("mask.nxs")}
    run(pixel_mask, {"scan": both["scan"]}, {"mask": both["mask"], **made.told("mask")})
    statistics = {
        "statistics": made.at("statistics.nxs"),
        "statistics_picture": made.at("statistics.png"),
        "statistics_metrics": made.at("statistics.json"),
    }
    run(find_peaks, both, {"peaks": made.at("peaks.nxs"), **made.told("peaks"), **statistics})
    inputs = {
        "scan": both["scan"],
        "statistics": made.at("statistics.nxs"),
        "reference_scan": both["scan"],
        "reference": made.at("statistics.nxs"),
    }
    for source in ("background", "frame_sum", "none"):
        outputs = {"scale": made.at(f"{source}.nxs"), **made.told("scale")}
        run(frame_scale, inputs, outputs, source=source)
    frame_mask = {"frame_mask": made.at("frame_mask.nxs"), "picture": made.at("frame_mask.png")}
    run(mask_3d, both, frame_mask, seed_counts=150.0)
    rotation = nexus.read_scan(both["scan"]).rotation
    known = ({"r1": rotation}, simulated.ub, "P 2 2 2", GRID)
    write_orientation(made.at("orientation.json"), *known)
    of_model = {"orientation": made.at("orientation.json"), "peaks": made.at("peaks.nxs")}
    inputs = both | of_model | {"scale": made.at("none.nxs")}
    outputs = {"reflections": made.at("reflections.nxs"), **made.told("reflections")}
    run(integrate, inputs, outputs, rotation="r1")
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Reduced:
    """The rotation as it was measured."""
    simulated = simulation()
    counts = np.concatenate(list(simulated.frames()))
    folder = tmp_path_factory.mktemp("left_out") / "whole"
    return reduce_rotation(folder, simulated, counts, simulated.scan.monitor)


@pytest.fixture(scope="module")
def spoilt(whole: Reduced) -> Reduced:
    """Three frames of garbage, two of them without beam, left out."""
    simulated = simulation()
    counts = np.concatenate(list(simulated.frames()))
    rng = np.random.default_rng(0)
    counts[16] = 0
    counts[17] = counts[3]
    counts[30] = rng.integers(0, 10**6, SHAPE)
    monitor = np.array(simulated.scan.monitor)
    monitor[[16, 30]] = 0, np.nan
    folder = whole.path.parent / "spoilt"
    return reduce_rotation(folder, simulated, counts, monitor, leave_out=("16-17", "30"))


@pytest.fixture(scope="module")
def flagged(whole: Reduced) -> Reduced:
    """The same frames flagged by the detector, pixel for pixel."""
    simulated = simulation()
    counts = np.concatenate(list(simulated.frames()))
    counts[list(OUT)] = FLAGS[counts.dtype.name]
    folder = whole.path.parent / "flagged"
    return reduce_rotation(folder, simulated, counts, simulated.scan.monitor)


def test_counts_and_norm_are_those_of_the_other_frames(whole: Reduced, spoilt: Reduced) -> None:
    """Exactly: all frames of the undamaged scan less those left out, one by one."""
    mine = spoilt.transform("mine", spoilt.at("none.nxs"))
    truth = whole.transform("all", whole.at("none.nxs"))
    counts, norm = truth.counts.copy(), truth.norm.astype(float)
    taken = 0
    for frame in OUT:
        one = whole.transform("one", whole.at("none.nxs"), part=(frame, N))
        counts -= one.counts
        norm -= one.norm
        taken += one.counts.sum()
    assert taken > 1000
    np.testing.assert_array_equal(mine.counts, counts)
    np.testing.assert_allclose(mine.norm, norm, rtol=1e-5, atol=1e-5 * norm.max())
    one_thread = spoilt.transform("mine", spoilt.at("none.nxs"), threads=1)
    np.testing.assert_array_equal(one_thread.counts, mine.counts)
    np.testing.assert_array_equal(one_thread.norm, mine.norm)


def test_error_bars_hold(spoilt: Reduced) -> None:
    spoilt.transform("mine", spoilt.at("none.nxs"))
    outputs = {
        "volume": spoilt.at("merged.nxs"),
        "slices": spoilt.at("slices.png"),
        "coverage": spoilt.at("coverage.png"),
        "metrics": spoilt.at("merged.json"),
    }
    run(merge, {"volumes": [spoilt.at("mine.nxs")]}, outputs)
    volume = nexus.read_volume(spoilt.at("merged.nxs"))
    axes = [np.abs(GRID.axis(i) - np.rint(GRID.axis(i))) > 0.25 for i in range(3)]
    far = axes[2][:, None, None] | axes[1][None, :, None] | axes[0][None, None, :]
    use = far & (volume.norm > 0)
    assert volume.data is not None
    assert volume.errors is not None
    assert use.sum() > 2000
    pull = (volume.counts - volume.norm)[use] / np.sqrt(volume.norm[use])
    assert abs(pull.mean()) < 0.05
    assert 0.9 < pull.std() < 1.1
    claimed = ((volume.data - 1) / volume.errors)[use]
    assert abs(claimed.mean()) < 0.1
    assert 0.85 < claimed.std() < 1.1


def test_everything_is_as_if_the_detector_had_flagged_them(
    spoilt: Reduced, flagged: Reduced
) -> None:
    """Peaks, background, 3-D mask, reflections and volume."""
    np.testing.assert_array_equal(*(nexus.read_mask(r.at("mask.nxs")) for r in (spoilt, flagged)))
    opened = [nexus.open_frame_mask(r.at("frame_mask.nxs")) for r in (spoilt, flagged)]
    with opened[0] as one, opened[1] as other:
        np.testing.assert_array_equal(one[0:N], other[0:N])
    peaks = [nexus.read_peaks(r.at("peaks.nxs")) for r in (spoilt, flagged)]
    assert len(peaks[0].frame) > 40
    for name in ("frame", "slow", "fast", "intensity", "var_frame", "background", "flags"):
        np.testing.assert_array_equal(*(getattr(p, name) for p in peaks))
    for name in ("frame_sum", "background", "pixels", "summed"):
        both = [nexus.read_statistics(r.at("statistics.nxs"), name) for r in (spoilt, flagged)]
        np.testing.assert_array_equal(*both)
    tables = [nexus.read_reflections(r.at("reflections.nxs")) for r in (spoilt, flagged)]
    for name in ("intensity_sum", "sigma_sum", "intensity_profile", "recorded", "counts", "flags"):
        np.testing.assert_array_equal(*(getattr(t, name) for t in tables))
    volumes = [r.transform("v", r.at("none.nxs")) for r in (spoilt, flagged)]
    np.testing.assert_array_equal(*(v.counts for v in volumes))
    np.testing.assert_array_equal(*(v.norm for v in volumes))


def test_no_pixel_becomes_a_gap(whole: Reduced, spoilt: Reduced) -> None:
    live = simulation().live > 0
    for reduced in (whole, spoilt):
        np.testing.assert_array_equal(nexus.read_mask(reduced.at("mask.nxs")) == 0, live)


def test_the_frames_scales_go_through_the_hole(whole: Reduced, spoilt: Reduced) -> None:
    for source in ("background", "frame_sum"):
        truth, mine = (nexus.read_scale(r.at(f"{source}.nxs")) for r in (whole, spoilt))
        own, errors = mine.transmission.transmission, mine.transmission.errors
        assert np.isfinite(own).all()
        assert np.isnan(mine.transmission.ratio[list(OUT)]).all()
        assert mine.transmission.counts["interpolated"] == len(OUT)
        off = np.abs(own - truth.transmission.transmission)
        assert off.max() < 4 * errors.max()


def test_peaks_stand_where_they_do(whole: Reduced, spoilt: Reduced) -> None:
    truth, mine = (nexus.read_peaks(r.at("peaks.nxs")) for r in (whole, spoilt))
    places = [np.stack([p.frame, p.slow, p.fast], axis=1) for p in (truth, mine)]
    distance = np.linalg.norm(places[1][:, None] - places[0][None], axis=-1)
    nearest = distance.argmin(axis=1)
    hole = np.min([np.abs(mine.frame - (z + 0.5)) for z in OUT], axis=0)
    far = hole > 8
    assert far.sum() > 10
    assert distance.min(axis=1)[far].max() < 0.05
    # Beside the hole: found, flagged, and within their errors.
    beside = (hole < 2 * mine.width_frame) & (distance.min(axis=1) < 2)
    assert beside.sum() > 3
    assert (mine.flags[beside] & PeakFlag.MASKED != 0).all()
    pull = (mine.frame - truth.frame[nearest])[beside] / np.sqrt(mine.var_frame[beside])
    assert np.median(np.abs(pull)) < 1.5


def test_reflections_beside_the_hole_are_not_biased(whole: Reduced, spoilt: Reduced) -> None:
    truth, mine = (nexus.read_reflections(r.at("reflections.nxs")) for r in (whole, spoilt))
    same = (truth.hkl[:, None] == mine.hkl[None]).all(axis=-1)
    same &= np.abs(truth.frame[:, None] - mine.frame[None]) < 1
    rows = np.argwhere(same)
    assert len(rows) > 80
    truth, mine = truth.select(rows[:, 0]), mine.select(rows[:, 1])
    hole = np.min([np.abs(truth.frame - (z + 0.5)) for z in OUT], axis=0)
    cut = (mine.recorded < 0.95) & (truth.recorded > 0.99)
    assert cut.sum() >= 5
    assert hole[cut].max() < 5
    for kind in ("sum", "profile"):
        one, other = (getattr(r, f"intensity_{kind}")[cut] for r in (truth, mine))
        pull = (other - one) / getattr(mine, f"sigma_{kind}")[cut]
        assert abs(np.nanmedian(pull)) < 1, kind
        assert np.nanmax(np.abs(pull)) < 4, kind
    untouched = hole > 8
    assert untouched.sum() > 10
    # The foreground is that of the learned shape, of which the cut ones are no part.
    off = (mine.intensity_sum - truth.intensity_sum)[untouched] / mine.sigma_sum[untouched]
    assert np.nanmedian(np.abs(off)) < 0.1
    assert np.nanmax(np.abs(off)) < 1


# ------------------------------------------------------------------------------- frames


def written(path: Path, counts: np.ndarray) -> Path:
    with NXmxWriter(
        path, NXmxHeader(**simulation().raw_header() | {"dtype": counts.dtype})
    ) as writer:
        writer.append(counts)
    return path


@pytest.mark.parametrize("dtype", list(FLAGS))
@pytest.mark.parametrize("threads", [1, 3])
def test_frames_left_out_are_flagged(
    tmp_path: Path, dtype: str, threads: int, whole: Reduced
) -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(3.0, (N, *SHAPE)).astype(dtype)
    expected = counts.copy()
    expected[list(OUT)] = FLAGS[dtype]
    scan = nexus.read_scan(whole.at("scan.nxs"))
    scan = replace(scan, raw=str(written(tmp_path / "raw.nxs", counts)))
    with open_scan(replace(scan, left_out=OUT)) as frames:
        assert frames.dtype == counts.dtype
        np.testing.assert_array_equal(frames.read(0, N), expected)
        np.testing.assert_array_equal(frames.read(15, 19), expected[15:19])
        for size in (1, 5, 16, N):
            blocks = [block.copy() for block in frames.blocks(size, 3, 40)]
            np.testing.assert_array_equal(np.concatenate(blocks), expected[3:40])
            stream = frames.stream(size, 3, 40, threads=threads)
            np.testing.assert_array_equal(
                np.concatenate([block.copy() for block in stream]), expected[3:40]
            )
            whole_frames = np.zeros_like(expected[3:40])
            for band in frames.bands(size, 3, 40, threads=threads):
                n, rows = band.counts.shape[:2]
                at = slice(band.first - 3, band.first - 3 + n)
                whole_frames[at, band.row : band.row + rows] = band.counts
            np.testing.assert_array_equal(whole_frames, expected[3:40])


def test_a_damaged_frame_can_be_left_out(tmp_path: Path, whole: Reduced) -> None:
    """It is not read."""
    counts = np.random.default_rng(1).poisson(3.0, (N, *SHAPE)).astype(np.uint32)
    path = written(tmp_path / "raw.nxs", counts)
    import h5py

    with h5py.File(path) as file:
        info = file["entry/data/data"].id.get_chunk_info_by_coord((16, 0, 0))
    with path.open("r+b") as raw:
        raw.seek(info.byte_offset + 12)
        raw.write(b"\xff" * 200)
    scan = replace(nexus.read_scan(whole.at("scan.nxs")), raw=str(path))
    with open_scan(scan) as frames, pytest.raises(HklflowError, match="frame 16 cannot be read"):
        list(frames.stream(8))
    with open_scan(replace(scan, left_out=(16,))) as frames:
        total = sum(int(block[block < 100].sum()) for block in frames.stream(8, threads=2))
    assert total == counts.sum() - counts[16].sum()


def test_where_nothing_is_left_out_the_frames_are_themselves(whole: Reduced) -> None:
    scan = nexus.read_scan(whole.at("scan.nxs"))
    assert scan.left_out == ()
    with open_scan(scan) as frames, open_frames(scan.raw) as plain:
        assert type(frames) is type(plain)
        assert isinstance(frames, Frames)


def test_the_scan_file_keeps_them(spoilt: Reduced) -> None:
    scan = nexus.read_scan(spoilt.at("scan.nxs"))
    assert scan.left_out == OUT
    # The monitor of frames without beam: nothing counts with it, but it must be a number.
    others = np.delete(simulation().scan.monitor, [16, 30, 17])
    np.testing.assert_allclose(scan.monitor[[16, 30]], np.median(others))
    assert scan.monitor[17] == simulation().scan.monitor[17]


# -------------------------------------------------------------------------------- items


def test_items() -> None:
    assert left_out.parse("r1:17-18") == ("r1", 17, 18)
    assert left_out.parse("0") == (None, 0, 0)
    items = ("3", "r1:5-6", "r10:7", "10-20")
    assert left_out.of_rotation(items, "r1") == ("3", "5-6", "10-20")
    assert left_out.written([1, 2, 3, 7, 9, 10]) == ["1-3", "7", "9-10"]
    for wrong in ("", "-1", "5-3", "r1:", "1:2:3", "a b:3", "1.5", "٣", "9" * 12):
        with pytest.raises(ValueError, match="names no frames"):
            left_out.parse(wrong)
