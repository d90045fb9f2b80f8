"""Chunks that unpack to another size than a chunk's are refused, before memory is taken for them.

Without the refusal HDF5 gives the memory of something else as counts, fills the memory or ends.
"""

import bz2
import resource
import struct
import sys
import zlib

import h5py
import hdf5plugin
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats import chunk_sizes
from hklflow.formats.nxfile import numbers
from hklflow.formats.raw import open_frames

SHAPE = (6, 48, 40)
SIZE = 48 * 40 * 4  # bytes of a frame
DATA = np.random.default_rng(0).poisson(3, SHAPE).astype(np.uint32)

GZIP, LZF = {"compression": "gzip"}, {"compression": "lzf"}
CODECS = {
    "gzip": GZIP,
    "shuffle, gzip": GZIP | {"shuffle": True},
    "gzip, checksum": GZIP | {"fletcher32": True},
    "lzf": LZF,
    "bzip2": hdf5plugin.BZip2(),
    "lz4": hdf5plugin.LZ4(),
    "lz4, small blocks": hdf5plugin.LZ4(nbytes=1000),
    "zstd": hdf5plugin.Zstd(),
    "blosc": hdf5plugin.Blosc(),
    "blosc2": hdf5plugin.Blosc2(),
    "bitshuffle": hdf5plugin.Bitshuffle(cname="none"),
    "bitshuffle, lz4": hdf5plugin.Bitshuffle(cname="lz4"),
    "bitshuffle, lz4, small blocks": hdf5plugin.Bitshuffle(nelems=64, cname="lz4"),
    "bitshuffle, zstd": hdf5plugin.Bitshuffle(cname="zstd"),
    "checksum": {"fletcher32": True},
}


def write(path, how, chunk=None, data=DATA, chunks=None, mask=0):
    """Write frames; in the place of the packed frame 2 these bytes."""
    with h5py.File(path, "w") as file:
        chunks = chunks or (1, *data.shape[1:])
        made = file.create_dataset("entry/data/data", data=data, chunks=chunks, **how)
        if chunk is not None:
            made.id.write_direct_chunk((2, 0, 0), chunk, mask)
    return path


def packed(how, data=DATA):
    """Bytes of the packed frame 2."""
    with h5py.File("none", "w", driver="core", backing_store=False) as file:
        made = file.create_dataset("x", data=data, chunks=(1, *data.shape[1:]), **how)
        return made.id.read_direct_chunk((2, 0, 0))[1]


def refused(path, sentence):
    """Both ways to read the frames refuse frame 2, and take less than 200 MB of memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_frames(path) as frames:
        np.testing.assert_array_equal(frames.read(0, 2), DATA[:2])
        for read in (lambda: frames.read(1, 4), lambda: list(frames.stream(4))):
            with pytest.raises(HklflowError, match=sentence) as caught:
                read()
            assert str(caught.value).startswith(f"frame 2 cannot be read from {path} (")
    if sys.platform == "linux":  # kilobytes
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("chunks", [(1, 48, 40), (4, 20, 17)])
def test_good_chunks(tmp_path, name, chunks):
    with open_frames(write(tmp_path / "a.h5", CODECS[name], chunks=chunks)) as frames:
        np.testing.assert_array_equal(frames.read(0, 6), DATA)
        np.testing.assert_array_equal(frames.read(3, 5), DATA[3:5])


@pytest.mark.parametrize("dtype", ["u1", "i2", ">u4", "f4", "u8"])
@pytest.mark.parametrize("name", ["gzip", "lz4", "zstd", "bitshuffle, lz4", "bitshuffle, zstd"])
def test_good_types(tmp_path, name, dtype):
    data = DATA.astype(dtype)
    with open_frames(write(tmp_path / "a.h5", CODECS[name], data=data)) as frames:
        np.testing.assert_array_equal(frames.read(0, 6), data)


def bomb(codec, megabytes):
    zeros = bytes(2**20)
    return b"".join(codec.compress(zeros) for _ in range(megabytes)) + codec.flush()


def of_another_size():
    """Codec, chunk, and what is said of it."""
    few, more = bytes(100), bytes(SIZE + 4)
    for name in ("gzip", "shuffle, gzip"):
        yield name, zlib.compress(few), "/entry/data/data: it unpacks to 100 bytes, not the 7680"
        yield name, zlib.compress(more), "it unpacks to at least 7681 bytes"
    yield "gzip, checksum", zlib.compress(few) + b"1234", "it unpacks to 100 bytes"
    yield "bzip2", bz2.compress(few), "it unpacks to 100 bytes"
    yield "bzip2", bz2.compress(more), "it unpacks to at least 7681 bytes"
    yield "lzf", b"\3abcd", "it unpacks to 4 bytes"
    yield "lzf", b"\0\0" + b"\xe0\xff\0" * 1000, "it unpacks to at least"
    lz4 = packed(CODECS["lz4"])
    for size in (100, 8 << 30, 2**64 - 1):
        head = struct.pack(">QI", size, min(size, 1 << 30))
        yield "lz4", head + lz4[12:], f"it unpacks to {size} bytes"
        for name in ("bitshuffle, lz4", "bitshuffle, zstd"):
            rest = packed(CODECS[name])[12:]
            yield name, struct.pack(">QI", size, 8192) + rest, "wrong size|it unpacks to"
    for size in (100, 8 << 30):
        head = bytes.fromhex("28b52ffde0") + struct.pack("<Q", size)
        yield "zstd", head + packed(CODECS["zstd"])[7:], f"it unpacks to {size} bytes"
    blosc = packed(CODECS["blosc"])
    for size in (100, 2**31 - 8):
        yield "blosc", blosc[:4] + struct.pack("<I", size) + blosc[8:], f"unpacks to {size} bytes"
    for name in ("bitshuffle", "checksum"):
        yield name, few, "it unpacks to|not the 7680"


@pytest.mark.parametrize(("name", "chunk", "sentence"), list(of_another_size()))
def test_chunks_of_another_size(tmp_path, name, chunk, sentence):
    refused(write(tmp_path / "a.h5", CODECS[name], chunk), sentence)


def damaged():
    for name in CODECS:
        chunk = packed(CODECS[name])
        for cut in (1, 5, 11, 40, len(chunk) // 2):
            yield name, chunk[:cut]
    for name in ("lz4", "zstd", "lz4, small blocks", "bitshuffle, lz4", "bitshuffle, zstd"):
        chunk = packed(CODECS[name])
        yield name, chunk[:30] + b"\xff" * (len(chunk) - 30)
        yield name, chunk[:12] + b"\x7f\xff\xff\xff" + chunk[16:]
    yield "lz4", struct.pack(">QI", SIZE, 0) + packed(CODECS["lz4"])[12:]


@pytest.mark.parametrize(("name", "chunk"), list(damaged()))
def test_damaged_chunks(tmp_path, name, chunk):
    refused(write(tmp_path / "a.h5", CODECS[name], chunk), "frame 2")


def test_bombs_are_not_unpacked(tmp_path, monkeypatch):
    # The packed bytes are more than a frame has here.
    monkeypatch.setattr(chunk_sizes, "OVERHEAD", 10**9)
    chunk = bomb(zlib.compressobj(1), 400)
    refused(write(tmp_path / "a.h5", GZIP, chunk), "it unpacks to at least 7681")
    chunk = bz2.compress(bytes(20_000_000))
    refused(write(tmp_path / "a.h5", CODECS["bzip2"], chunk), "it unpacks to at least 7681")


def test_packed_frames_that_are_much_larger_than_frames(tmp_path):
    path = write(tmp_path / "a.h5", GZIP, bomb(zlib.compressobj(0), 1))
    refused(path, r"its 10\d* bytes are more than the 7680 bytes of a chunk")
    path = write(tmp_path / "b.h5", CODECS["bitshuffle, lz4"], bytes(100_000))
    refused(path, "its 100000 bytes are more than the 7680 bytes of a chunk")


def test_a_filter_that_was_left_out(tmp_path):
    refused(write(tmp_path / "a.h5", GZIP, bytes(100), mask=1), "it unpacks to 100 bytes")


def test_two_compressions(tmp_path):
    path = write(tmp_path / "a.h5", GZIP | {"shuffle": True})
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((1, *SHAPE[1:]))
    plan.set_deflate(1)
    plan.set_filter(chunk_sizes.ZSTD, 0, ())
    with h5py.File(path, "w") as file:
        group = file.create_group("entry/data")
        space = h5py.h5s.create_simple(SHAPE)
        h5py.h5d.create(group.id, b"data", h5py.h5t.NATIVE_UINT32, space, plan)
        group["data"][...] = DATA
    with pytest.raises(HklflowError, match="compressed more than once"):
        open_frames(path)


def test_sources_of_virtual_datasets(tmp_path):
    """Mappings that HDF5 must read."""
    write(tmp_path / "a.h5", GZIP, zlib.compress(bytes(100)))
    layout = h5py.VirtualLayout(SHAPE, np.uint32)
    layout[4:] = h5py.VirtualSource("a.h5", "entry/data/data", SHAPE)[:2]
    layout[:4] = h5py.VirtualSource("a.h5", "entry/data/data", SHAPE)[2:]
    with h5py.File(tmp_path / "v.nxs", "w") as file:
        file.create_group("entry/data").create_virtual_dataset("data", layout)
    with open_frames(tmp_path / "v.nxs") as frames:
        np.testing.assert_array_equal(frames.read(1, 6), DATA[[3, 4, 5, 0, 1]])
        with pytest.raises(HklflowError, match=r"frame 0 cannot be .*a\.h5 .*unpacks to 100 byt"):
            frames.read(0, 1)


def test_values_of_headers(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        node = file.create_dataset("x", (10,), "f8", chunks=(10,), compression="gzip")
        node.id.write_direct_chunk((0,), zlib.compress(bytes(50)))
        with pytest.raises(HklflowError, match=r"/x in .*a\.h5 cannot be read .*to 50 bytes"):
            numbers(node)
        node = file.create_dataset("y", (10**12,), "f8", chunks=(10,))
        with pytest.raises(HklflowError, match=r"/y in .* has the shape \(1000000000000,\), more"):
            numbers(node)
