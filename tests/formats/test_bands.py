"""`Frames.bands`: the frames of `read`, in rows, whatever the file, the blocks and the threads."""

import threading
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats import bands as module
from hklflow.formats.raw import open_frames

BITSHUFFLE = hdf5plugin.Bitshuffle(cname="lz4")


def write(path: Path, frames: np.ndarray, packing: Any, chunk: int = 1) -> Path:
    with h5py.File(path, "w", libver=("v108", "v110")) as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        data = entry.create_group("data")
        packed = {} if packing is None else {"chunks": (chunk, *frames.shape[1:]), **packing}
        data.create_dataset("data", data=frames, **packed)
    return path


def simulated(shape: tuple[int, int, int], dtype: Any) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    frames = rng.poisson(4.0, shape)
    frames[:, shape[1] // 3, :] = np.iinfo(dtype).max
    frames[0, -1, -1], frames[-1, 0, 0] = 100, 77
    return frames.astype(dtype)


def put_together(path: Path, size: int, threads: int, first: int = 0, last: int | None = None):  # type: ignore[no-untyped-def]
    """All bands as whole frames; they come in order, row by row, and end where they say."""
    with open_frames(path) as frames:
        stop = frames.shape[0] if last is None else last
        whole = np.full((stop - first, *frames.shape[1:]), 255, frames.dtype)
        seen = []
        for band in frames.bands(size, first, last, threads=threads):
            n, rows, _ = band.counts.shape
            assert band.counts.strides[1:] == (
                frames.shape[2] * frames.dtype.itemsize,
                frames.dtype.itemsize,
            )
            at = band.first - first
            whole[at : at + n, band.row : band.row + rows] = band.counts
            seen.append((band.first, band.row, rows))
            assert band.row % module.ROWS == 0
            assert band.last == (band.row + rows == frames.shape[1])
        assert seen == sorted(seen)
        assert sum(rows for _, _, rows in seen) == frames.shape[1] * -(-(stop - first) // size)
        return whole


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
# Blocks that end with rows, within rows, and frames whose last pixels are in no block.
@pytest.mark.parametrize("shape", [(7, 64, 64), (5, 61, 83), (4, 30, 1031), (3, 9, 7), (3, 1, 9)])
def test_bands_are_the_frames(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    dtype: Any,
    threads: int,
) -> None:
    frames = simulated(shape, dtype)
    path = write(tmp_path / "f.h5", frames, BITSHUFFLE)
    for most in (1, 40_000, 10**9):
        monkeypatch.setattr(module, "BAND_BYTES", most)
        for size in (1, 3, 100):
            assert np.array_equal(put_together(path, size, threads), frames)
    assert np.array_equal(put_together(path, 2, threads, 1, 3), frames[1:3])


@pytest.mark.parametrize("block", [8, 64, 1000, 4096])
def test_any_block_size_of_bitshuffle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    frames = simulated((4, 40, 57), np.uint16)
    packing = hdf5plugin.Bitshuffle(nelems=block, cname="lz4")
    monkeypatch.setattr(module, "BAND_BYTES", 5000)
    assert np.array_equal(put_together(write(tmp_path / "f.h5", frames, packing), 3, 1), frames)


@pytest.mark.parametrize(
    ("packing", "chunk"), [(None, 1), ({"compression": "gzip"}, 1), (BITSHUFFLE, 2)]
)
def test_other_files_come_in_bands_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: Any, chunk: int
) -> None:
    frames = simulated((6, 40, 57), np.uint16)
    monkeypatch.setattr(module, "BAND_BYTES", 5000)
    path = write(tmp_path / "f.h5", frames, packing, chunk)
    for threads in (1, 2):
        assert np.array_equal(put_together(path, 4, threads), frames)


def damage(path: Path, frame: int, at: int, value: int) -> None:
    with h5py.File(path) as file:
        info = file["entry/data/data"].id.get_chunk_info_by_coord((frame, 0, 0))
    with path.open("r+b") as raw:
        raw.seek(info.byte_offset + at)
        raw.write(bytes([value]))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("at", "value"), [(0, 1), (8, 0xFF), (12, 0x7F), (13, 0xFF)])
def test_damaged_frames_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, value: int, threads: int
) -> None:
    frames = simulated((9, 64, 64), np.uint32)
    path = write(tmp_path / "f.h5", frames, hdf5plugin.Bitshuffle(nelems=256, cname="lz4"))
    damage(path, 5, at, value)
    monkeypatch.setattr(module, "BAND_BYTES", 8000)
    with pytest.raises(HklflowError, match=r"frame 5 cannot be read from .*f\.h5"):
        put_together(path, 4, threads)


def test_truncated_files_are_told(tmp_path: Path) -> None:
    frames = simulated((9, 64, 64), np.uint32)
    path = write(tmp_path / "f.h5", frames, BITSHUFFLE)
    with open_frames(path) as opened:
        with h5py.File(path) as file:
            last = file["entry/data/data"].id.get_chunk_info_by_coord((8, 0, 0))
        with path.open("r+b") as raw:
            raw.truncate(last.byte_offset + last.size // 2)
        with pytest.raises(HklflowError, match="frame 8 cannot be read"):
            for _ in opened.bands(4):
                pass


def test_ranges_and_sizes_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", simulated((4, 16, 16), np.uint16), BITSHUFFLE)
    with open_frames(path) as frames:
        with pytest.raises(HklflowError, match="frames 0 to 5"):
            frames.bands(2, 0, 5)
        with pytest.raises(HklflowError, match="block of 0 frames"):
            frames.bands(0)
        with pytest.raises(HklflowError, match="0 threads"):
            frames.bands(2, threads=0)
        assert list(frames.bands(2, 1, 1)) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_a_band_left_early_leaves_no_thread(tmp_path: Path, threads: int) -> None:
    def decoders() -> int:
        return sum("hklflow" in thread.name for thread in threading.enumerate())

    path = write(tmp_path / "f.h5", simulated((9, 64, 64), np.uint32), BITSHUFFLE)
    with open_frames(path) as frames:
        bands = frames.bands(4, threads=threads)
        next(bands)
        # One thread needs no others; of two, one may have done the work of both.
        assert (decoders() > 0) == (threads > 1)
        bands.close()
    assert decoders() == 0
