"""Frames without a count: which are named, and before how much of the peak search."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.peaks.search import PeakSearch
from hklflow.stages import find_peaks, import_scan

N, SHAPE, LEVEL = 365, (40, 40), 3.0
DARK = np.arange(N)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of frames of the blocks that were handed to the peak search."""
    blocks: list[int] = []
    add = PeakSearch.add

    def counted(self: PeakSearch, block: Any) -> None:
        blocks.append(len(block))
        add(self, block)

    monkeypatch.setattr(PeakSearch, "add", counted)
    return blocks


def search(folder: Path, beam: np.ndarray, monitor: np.ndarray, **params: Any) -> Path:
    """Search a rotation whose frame z has LEVEL * beam[z] counts in a pixel on average."""
    place = folder / "quartz/300K/r1"
    place.mkdir(parents=True)
    counts = np.random.default_rng(3).poisson(LEVEL * beam[:, None, None], (N, *SHAPE))
    with NXmxWriter(
        place / "raw.nxs",
        NXmxHeader(
            shape=SHAPE,
            pixel_size=(1e-3, 1e-3),
            origin=(0.02, 0.02, 0.1),
            slow=(0.0, -1.0, 0.0),
            fast=(-1.0, 0.0, 0.0),
            wavelength=0.5,
            axis_names=("phi",),
            axes=[(-1.0, 0.0, 0.0)],
            angles=[0.0],
            start=0.0,
            step=np.radians(1.0),
            n_frames=N,
            exposure=0.1,
            monitor=monitor,
            pixel_mask=np.zeros(SHAPE, np.uint32),
            polarization=0.99,
        ),
    ) as writer:
        writer.append(counts.astype(np.uint32))
    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[place / "raw.nxs"]),
        outputs=import_scan.Outputs(scan=place / "scan.nxs"),
        params=import_scan.Params(**params),
        threads=1,
    )
    nexus.write_mask(place / "mask.nxs", np.zeros(SHAPE, np.uint32))
    stage.run(
        find_peaks.main,
        inputs=find_peaks.Inputs(scan=place / "scan.nxs", mask=place / "mask.nxs"),
        outputs=find_peaks.Outputs(
            peaks=place / "peaks.nxs",
            picture=place / "peaks.png",
            metrics=place / "peaks.json",
            statistics=place / "statistics.nxs",
            statistics_picture=place / "statistics.png",
            statistics_metrics=place / "statistics.json",
        ),
        params=find_peaks.Params(),
        threads=1,
    )
    return place


def closed(*runs: tuple[int, int]) -> np.ndarray:
    """Beam (n,) that is 0 from the first to the last frame of each run."""
    beam = np.ones(N)
    for first, last in runs:
        beam[first : last + 1] = 0
    return beam


@pytest.mark.parametrize(
    ("runs", "named", "most"),
    [
        ([(180, 199)], "180-199", 0),
        ([(0, 19)], "0-19", 0),
        ([(345, 364)], "345-364", 0),
        ([(180, 199), (301, 301)], "180-199, r1:301", 0),
        # Fewer than the look before the search finds for certain: named after it.
        ([(163, 165)], "163-165", N),
        ([(163, 163)], "163", N),
    ],
)
def test_closed_frames_are_named_before_the_search(
    tmp_path: Path, searched: list[int], runs: list[tuple[int, int]], named: str, most: int
) -> None:
    beam = closed(*runs)
    with pytest.raises(HklflowError) as error:
        search(tmp_path, beam, np.ones(N))
    text = str(error.value)
    assert f"{np.count_nonzero(beam == 0)} frames of " in text
    assert f"have zero counts, the first is frame {runs[0][0]} (median" in text
    assert "(median of all frames: 4.8e+03): the shutter was closed" in text
    assert text.endswith(f"leave_out: [r1:{named}]}}}}}}`")
    assert sum(searched) == most


def test_numbers_are_those_of_the_raw_frames(tmp_path: Path, searched: list[int]) -> None:
    with pytest.raises(HklflowError, match=r"the first is frame 180 .*r1:180-199\]"):
        search(tmp_path, closed((180, 199)), np.ones(N), first_frame=7, last_frame=350)
    assert not searched


@pytest.mark.parametrize(
    ("beam", "monitor", "left_out"),
    [
        # The beam dies, and the monitor says so.
        (np.exp(-DARK / 20), np.exp(-DARK / 20) + 1e-9, ()),
        # Most frames are dark: what a frame should have is not known.
        (closed((150, 364)), np.ones(N), ()),
        (closed((180, 199)), np.ones(N), ("180-199",)),
    ],
)
def test_what_explains_empty_frames_passes_as_before(
    tmp_path: Path,
    searched: list[int],
    beam: np.ndarray,
    monitor: np.ndarray,
    left_out: tuple[str, ...],
) -> None:
    place = search(tmp_path, beam, monitor, leave_out=left_out)
    assert (place / "peaks.nxs").exists()
    assert sum(searched) == N
