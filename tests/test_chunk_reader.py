"""Parts of compressed datasets are what h5py reads, however they are stored."""

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.nexus import chunk_reader
from hklflow.nexus.slabs import SlabReader

SHAPE, CHUNKS = (37, 70, 65), (16, 64, 32)
REGIONS = [
    np.s_[0:37, 0:70, 0:65],
    np.s_[15:17, 3:70, 31:33],
    np.s_[36:37, 69:70, 64:65],
    np.s_[5:5, 0:70, 0:65],
    np.s_[20:90, :, 10:20],
]


def _slab(stored: h5py.Dataset, region: Any) -> Any:
    planes, rows, columns = region
    return SlabReader(stored).read(planes.start, planes.stop, rows, columns)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "u1", "<u2", "<u4", "<i8"])
@pytest.mark.parametrize("region", REGIONS)
def test_parts_are_what_h5py_reads(tmp_path: Path, dtype: str, region: Any) -> None:
    values = (np.random.default_rng(1).normal(size=SHAPE) * 100).astype(dtype)
    options = {"chunks": CHUNKS, "shuffle": True, "compression": "gzip", "fillvalue": 7}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset("a", SHAPE, dtype, **options)
        stored[:20] = values[:20]  # the other chunks do not exist
        read = chunk_reader.reader(stored)
        assert isinstance(read, chunk_reader.ChunkReader)
        part = read[region]
        assert part.dtype == stored.dtype
        assert np.array_equal(part, stored[region])
        assert np.array_equal(_slab(stored, region), part)


def test_a_dataset_without_chunks_is_its_fill_value(tmp_path: Path) -> None:
    options = {"chunks": CHUNKS, "shuffle": True, "compression": "gzip", "fillvalue": np.nan}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset("a", SHAPE, "<f4", **options)
        assert np.isnan(chunk_reader.reader(stored)[REGIONS[1]]).all()
        assert np.isnan(_slab(stored, REGIONS[1])).all()


def test_slabs_in_the_same_memory(tmp_path: Path) -> None:
    """Also where the last slab is shorter, and where a chunk does not exist."""
    values = np.random.default_rng(1).normal(size=SHAPE).astype("<f4")
    options = {"chunks": CHUNKS, "shuffle": True, "compression": "gzip", "fillvalue": np.nan}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset("a", SHAPE, "<f4", **options)
        stored[:16], stored[32:, :64] = values[:16], values[32:, :64]
        reader, memory = SlabReader(stored), set()
        for first in range(0, SHAPE[0], 16):
            slab = reader.read_again(first, first + 16)
            memory.add(slab.ctypes.data)
            np.testing.assert_array_equal(slab, stored[first : first + 16])
        assert len(memory) == 1


@pytest.mark.parametrize("skipped", [0, 1, 2, 3])
def test_chunks_may_leave_out_filters(tmp_path: Path, skipped: int) -> None:
    """A writer may store a chunk without a filter where this does not help."""
    values = np.arange(np.prod(CHUNKS), dtype="<f4").reshape(CHUNKS)
    data = values.tobytes()
    if not skipped & 1:
        data = np.frombuffer(data, np.uint8).reshape(-1, 4).T.tobytes()
    if not skipped & 2:
        data = zlib.compress(data)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset(
            "a", CHUNKS, "<f4", chunks=CHUNKS, shuffle=True, compression="gzip"
        )
        stored.id.write_direct_chunk((0, 0, 0), data, filter_mask=skipped)
    # HDF5 2.0 knows the mask of a chunk only after the file was opened again.
    with h5py.File(tmp_path / "a.h5") as file:
        region = np.s_[3:9, 10:11, 5:32]
        assert np.array_equal(chunk_reader.reader(file["a"])[region], values[region])
        assert np.array_equal(_slab(file["a"], region), values[region])


@pytest.mark.parametrize("stored", [b"\xff" * 9, zlib.compress(b"short")])
def test_a_damaged_chunk_is_reported(tmp_path: Path, stored: bytes) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset(
            "a", CHUNKS, "<f4", chunks=CHUNKS, shuffle=True, compression="gzip"
        )
        dataset.id.write_direct_chunk((0, 0, 0), stored)
        with pytest.raises(HklflowError, match=r"a.h5: the block of /a that begins .* damaged"):
            chunk_reader.reader(dataset)[0:1, 0:1, 0:1]
        with pytest.raises(HklflowError, match=r"a.h5: the block of /a that begins .* damaged"):
            SlabReader(dataset).read(0, 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": CHUNKS},
        {"chunks": CHUNKS, "compression": "gzip"},
        {"chunks": CHUNKS, "compression": "lzf", "shuffle": True},
        {"chunks": CHUNKS, "compression": "gzip", "shuffle": True, "fletcher32": True},
    ],
)
def test_other_datasets_are_left_to_h5py(tmp_path: Path, options: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset("a", SHAPE, "<f4", **options)
        assert chunk_reader.reader(stored) is stored
        stored[3:9] = np.arange(65)
        assert np.array_equal(_slab(stored, np.s_[2:20, 3:70, 0:64]), stored[2:20, 3:70, 0:64])
