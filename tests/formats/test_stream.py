"""`Frames.stream` against the arrays that were written, in every layout of the files."""

import os
import shutil
import threading
from itertools import pairwise
from pathlib import Path

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats.nxframes import NexusFrames
from hklflow.formats.raw import open_frames
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter

N, SHAPE = 11, (70, 45)
LZ4 = hdf5plugin.Bitshuffle(cname="lz4")


@pytest.fixture
def counts():
    return make_counts(np.uint32)


def make_counts(dtype):
    rng = np.random.default_rng(1)
    counts = rng.poisson(4, (N, *SHAPE)).astype(dtype)
    counts[:, 30:34] = np.iinfo(dtype).max
    return counts


def write(path, counts, chunk=1, how=LZ4, **settings):
    with h5py.File(path, "w", **settings) as file:
        chunks = None if chunk is None else (chunk, *counts.shape[1:])
        file.create_dataset("entry/data/data", data=counts, chunks=chunks, **how)
    return path


def write_linked(folder, counts, sizes=(4, 5, 2)):
    """Eiger style: a master that links data files."""
    edges = np.cumsum([0, *sizes])
    with h5py.File(folder / "x_master.h5", "w") as master:
        group = master.create_group("entry/data")
        for i, (low, high) in enumerate(pairwise(edges), start=1):
            write(folder / f"x_data_{i:06d}.h5", counts[low:high])
            group[f"data_{i:06d}"] = h5py.ExternalLink(f"x_data_{i:06d}.h5", "/entry/data/data")
    return folder / "x_master.h5"


def write_virtual(folder, counts, mappings, sources):
    """Virtual dataset of (frames here, name of the source, frames there)."""
    layout = h5py.VirtualLayout(counts.shape, counts.dtype)
    for here, name, there in mappings:
        shape = sources[name].shape
        if name == ".":
            source = h5py.VirtualSource(".", "parts", shape, counts.dtype)
        else:
            write(folder / name, sources[name])
            source = h5py.VirtualSource(name, "entry/data/data", shape, counts.dtype)
        layout[here] = source if there is None else source[there]
    with h5py.File(folder / "v.nxs", "w") as file:
        if "." in sources:
            chunks = (1, *SHAPE)
            file.create_dataset("parts", data=sources["."], chunks=chunks, **LZ4)
        file.create_group("entry/data").create_virtual_dataset("data", layout, fillvalue=77)
    return folder / "v.nxs"


def write_whole_virtual(folder, counts):
    mappings = [(np.s_[:4], "a.h5", None), (np.s_[4:], "b.h5", np.s_[:])]
    return write_virtual(folder, counts, mappings, {"a.h5": counts[:4], "b.h5": counts[4:]})


def write_stack(folder, counts):
    return write(folder / "s.h5", counts)


def collect(frames, *arguments, **settings):
    return [block.copy() for block in frames.stream(*arguments, **settings)]


@pytest.fixture
def no_hdf5(monkeypatch):
    """Frames read by HDF5 itself are an error."""

    def refuse(self, start, stop, out):
        raise AssertionError("read by HDF5")

    monkeypatch.setattr(NexusFrames, "_read_by_hdf5", refuse)


@pytest.fixture
def by_hdf5(monkeypatch):
    """Number the frames that HDF5 itself reads."""
    seen = []
    original = NexusFrames._read_by_hdf5

    def note(self, start, stop, out):
        seen.extend(range(start, stop))
        original(self, start, stop, out)

    monkeypatch.setattr(NexusFrames, "_read_by_hdf5", note)
    return seen


# ------------------------------------------------------------------------------- its blocks


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("make", [write_stack, write_linked, write_whole_virtual])
def test_frames_past_hdf5(tmp_path, counts, make, threads, no_hdf5):
    with open_frames(make(tmp_path, counts)) as frames:
        for size in (1, 2, 3, 5, 11, 100):
            blocks = collect(frames, size, threads=threads)
            assert [len(b) for b in blocks[:-1]] == [size] * (len(blocks) - 1)
            np.testing.assert_array_equal(np.concatenate(blocks), counts)
            part = collect(frames, size, 2, 9, threads=threads)
            np.testing.assert_array_equal(np.concatenate(part), counts[2:9])
        assert collect(frames, 4, 3, 3, threads=threads) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_images(tmp_path, threads):
    images = np.random.default_rng(2).poisson(9, (N, *SHAPE)).astype(np.int32)
    for i, image in enumerate(images):
        fabio.cbfimage.CbfImage(data=image).write(str(tmp_path / f"a_{i:04d}.cbf"))
    with open_frames(tmp_path / "a_####.cbf") as frames:
        np.testing.assert_array_equal(np.concatenate(collect(frames, 4, threads=threads)), images)
    (tmp_path / "a_0005.cbf").write_bytes((tmp_path / "a_0005.cbf").read_bytes()[:900])
    with (
        open_frames(tmp_path / "a_####.cbf") as frames,
        pytest.raises(HklflowError, match=r"frame 5 cannot be read from .*a_0005\.cbf"),
    ):
        collect(frames, 4, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4"])
def test_types_past_hdf5(tmp_path, dtype, threads, no_hdf5):
    counts = make_counts(dtype)
    with open_frames(write_stack(tmp_path, counts)) as frames:
        blocks = collect(frames, 4, threads=threads)
    assert blocks[0].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(np.concatenate(blocks), counts)


def test_what_the_writer_writes_goes_past_hdf5(tmp_path, counts, no_hdf5):
    with NXmxWriter(tmp_path / "w.nxs", NXmxHeader(shape=SHAPE, n_frames=N)) as writer:
        writer.append(counts)
    with open_frames(tmp_path / "w.nxs") as frames:
        np.testing.assert_array_equal(np.concatenate(collect(frames, 4)), counts)


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_used_again(tmp_path, counts, threads):
    with open_frames(write_stack(tmp_path, counts)) as frames:
        places = {block.ctypes.data for block in frames.stream(2, threads=threads)}
    assert len(places) == threads


@pytest.mark.parametrize("threads", [1, 2])
def test_a_block_stays_until_the_next(tmp_path, counts, threads):
    with open_frames(write_stack(tmp_path, counts)) as frames:
        stream = frames.stream(2, threads=threads)
        for first, block in zip(range(0, N, 2), stream, strict=True):
            for thread in decoders():
                thread.join(0.01)  # time to spoil it
            np.testing.assert_array_equal(block, counts[first : first + 2])


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the kernel takes no advice")
def test_the_kernel_is_told_of_the_next_block(tmp_path, counts, monkeypatch):
    told = []

    def note(fd, at, n, advice):
        told.append((Path(f"/proc/self/fd/{fd}").readlink(), at, n, advice))

    monkeypatch.setattr(os, "posix_fadvise", note)
    path = write_linked(tmp_path, counts)
    where = []
    for name, n in (("x_data_000001.h5", 4), ("x_data_000002.h5", 5), ("x_data_000003.h5", 2)):
        with h5py.File(tmp_path / name) as file:
            data = file["entry/data/data"].id
            chunks = [data.get_chunk_info_by_coord((z, 0, 0)) for z in range(n)]
        where += [(tmp_path / name, chunk.byte_offset, chunk.size) for chunk in chunks]
    wanted = [where[3:6], where[6:9], where[9:], []]
    with open_frames(path) as frames:
        for expected, _ in zip(wanted, frames.stream(3), strict=True):
            assert told == [(*place, os.POSIX_FADV_WILLNEED) for place in expected]
            told.clear()


# ----------------------------------------------------------------- layouts that HDF5 must read


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "chunk", "how", "settings"),
    [
        ("u4", None, {}, {}),
        ("u4", 1, {}, {}),
        ("u4", 1, {"compression": "gzip"}, {}),
        ("u4", 1, {**LZ4, "shuffle": True}, {}),
        ("u4", 1, {**LZ4, "fletcher32": True}, {}),
        ("u4", 1, hdf5plugin.Bitshuffle(cname="zstd"), {}),
        ("u4", 1, hdf5plugin.Bitshuffle(cname="none"), {}),
        ("u4", 1, hdf5plugin.LZ4(), {}),
        ("u4", 2, LZ4, {}),
        (">u4", 1, LZ4, {}),
        ("u8", 1, LZ4, {}),
        ("f4", 1, LZ4, {}),
        ("u4", 1, LZ4, {"userblock_size": 512}),
    ],
)
def test_other_layouts(tmp_path, dtype, chunk, how, settings, threads, by_hdf5):
    counts = make_counts(np.uint32).astype(dtype)
    path = write(tmp_path / "o.h5", counts, chunk, how, **settings)
    with open_frames(path) as frames:
        np.testing.assert_array_equal(np.concatenate(collect(frames, 4, threads=threads)), counts)
    assert sorted(by_hdf5) == list(range(N))


def test_chunks_of_parts_of_frames(tmp_path, counts, by_hdf5):
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.create_dataset("entry/data/data", data=counts, chunks=(1, 35, 45), **LZ4)
    with open_frames(tmp_path / "p.h5") as frames:
        np.testing.assert_array_equal(np.concatenate(collect(frames, 4)), counts)
    assert by_hdf5 == list(range(N))


def test_a_chunk_whose_filter_was_left_out(tmp_path, counts, by_hdf5):
    path = write_stack(tmp_path, counts)
    with h5py.File(path, "r+") as file:
        raw = counts[3] + 1
        file["entry/data/data"].id.write_direct_chunk((3, 0, 0), raw.tobytes(), filter_mask=1)
    counts[3] += 1
    with open_frames(path) as frames:
        np.testing.assert_array_equal(np.concatenate(collect(frames, 4)), counts)
    assert by_hdf5 == [3]


# -------------------------------------------------------------------------- virtual datasets


def test_mappings_of_parts_of_sources(tmp_path, counts, no_hdf5):
    mappings = [
        (np.s_[0:3], "a.h5", np.s_[2:5]),
        (np.s_[3:4], "b.h5", np.s_[6:7]),
        (np.s_[4:8], ".", np.s_[1:5]),
        (np.s_[8:11], "a.h5", np.s_[5:8]),
    ]
    stacks = {
        name: make_counts("u4") + np.uint32(i) for i, name in enumerate(["a.h5", "b.h5", "."])
    }
    path = write_virtual(tmp_path, counts, mappings, stacks)
    truth = np.concatenate([stacks[name][there] for _, name, there in mappings])
    with open_frames(path) as frames:
        np.testing.assert_array_equal(np.concatenate(collect(frames, 4)), truth)


@pytest.mark.parametrize("threads", [1, 2])
def test_mappings_that_are_no_runs_of_frames(tmp_path, counts, threads, by_hdf5):
    stack = make_counts("u4")[::-1].copy()
    for mappings, direct in (
        ([(np.s_[0:3], "a.h5", np.s_[0:6:2]), (np.s_[3:11], "a.h5", np.s_[1:9])], range(3, 11)),
        ([(np.s_[0:11:2], "a.h5", np.s_[0:11:2]), (np.s_[1:11:2], "a.h5", np.s_[1:11:2])], []),
        ([(np.s_[0:11, :40], "a.h5", np.s_[:, :40])], []),
        # The same numbers in frames of another shape.
        ([(np.s_[:], "turned.h5", np.s_[:])], []),
    ):
        truth = np.full_like(counts, 77)
        for here, _, there in mappings:
            truth[here] = stack[there]
        turned = stack.reshape(N, *SHAPE[::-1])
        sources = {"a.h5": stack, "turned.h5": turned}
        path = write_virtual(tmp_path, counts, mappings, sources)
        by_hdf5.clear()
        with open_frames(path) as frames:
            np.testing.assert_array_equal(
                np.concatenate(collect(frames, 4, threads=threads)), truth
            )
        assert sorted(by_hdf5) == sorted(set(range(N)) - set(direct))


def test_mappings_that_overlap(tmp_path, counts, by_hdf5):
    stack = make_counts("u4")
    mappings = [(np.s_[0:8], "a.h5", np.s_[0:8]), (np.s_[6:11], "a.h5", np.s_[0:5])]
    path = write_virtual(tmp_path, counts, mappings, {"a.h5": stack})
    with h5py.File(path) as file:
        truth = file["entry/data/data"][()]
    with open_frames(path) as frames:
        np.testing.assert_array_equal(np.concatenate(collect(frames, 4)), truth)
    assert sorted(by_hdf5) == [6, 7]


def test_a_mapping_without_end(tmp_path, counts, by_hdf5):
    end = h5py.h5s.UNLIMITED
    grow = (None, *SHAPE)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=counts, maxshape=grow, chunks=(1, *SHAPE), **LZ4)
    layout = h5py.VirtualLayout(counts.shape, counts.dtype, maxshape=grow)
    layout[0:end, :, :] = h5py.VirtualSource("a.h5", "x", counts.shape, maxshape=grow)[0:end, :, :]
    with h5py.File(tmp_path / "v.nxs", "w") as file:
        file.create_group("entry/data").create_virtual_dataset("data", layout)
    with open_frames(tmp_path / "v.nxs") as frames:
        np.testing.assert_array_equal(np.concatenate(collect(frames, 4)), counts)
    assert by_hdf5 == list(range(N))


# ---------------------------------------------------------------------------------- faults


def spoil(path, frame, at=30, value=b"\xff\xff\xff\xff"):
    """Overwrite bytes of the chunk of a frame; (its offset, its size)."""
    with h5py.File(path) as file:
        chunk = file["entry/data/data"].id.get_chunk_info_by_coord((frame, 0, 0))
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset + at)
        file.write(value)
    return chunk.byte_offset, chunk.size


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_damaged_frame_is_named_when_it_is_its_turn(tmp_path, counts, threads):
    path = write_linked(tmp_path, counts)
    spoil(tmp_path / "x_data_000002.h5", 3, at=12)
    with open_frames(path) as frames:
        blocks = frames.stream(3, threads=threads)
        for i in range(2):
            np.testing.assert_array_equal(next(blocks), counts[3 * i : 3 * i + 3])
        with pytest.raises(
            HklflowError,
            match=r"frame 7 cannot be read from .*x_data_000002\.h5 \(.*\); the file is truncated",
        ):
            next(blocks)
    assert not decoders()


@pytest.mark.parametrize("threads", [1, 2])
def test_damaged_virtual_source(tmp_path, counts, threads):
    path = write_whole_virtual(tmp_path, counts)
    spoil(tmp_path / "b.h5", 2, at=0)
    with (
        open_frames(path) as frames,
        pytest.raises(HklflowError, match=r"frame 6 .*b\.h5 \(.*wrong size"),
    ):
        collect(frames, 4, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_that_is_cut_after_opening(tmp_path, counts, threads):
    path = write_stack(tmp_path, counts)
    offset, size = spoil(path, 8, value=b"")
    with open_frames(path) as frames:
        os.truncate(path, offset + size // 2)
        with pytest.raises(HklflowError, match=rf"frame 8 cannot be read from {path} \(the file"):
            collect(frames, 4, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_that_is_gone_after_opening(tmp_path, counts, threads):
    path = write_stack(tmp_path, counts)
    with open_frames(path) as frames:
        path.unlink()
        with pytest.raises(HklflowError, match=r"frame 0 cannot be read from .*No such file"):
            collect(frames, 4, threads=threads)


def test_damaged_files_give_an_error_with_frame_and_file(tmp_path, counts):
    rng = np.random.default_rng(3)
    good = write_stack(tmp_path, counts)
    bad = tmp_path / "bad.h5"
    outcomes = [0, 0]
    for _ in range(200):
        shutil.copy(good, bad)
        frame = int(rng.integers(N))
        spoil(bad, frame, int(rng.integers(200)), rng.bytes(3))
        with open_frames(bad) as frames:
            try:
                blocks = collect(frames, 4)
            except HklflowError as caught:
                sentence = str(caught)
            else:
                sentence = ""
                others = np.arange(N) != frame
                np.testing.assert_array_equal(np.concatenate(blocks)[others], counts[others])
        outcomes[bool(sentence)] += 1
        assert not sentence or sentence.startswith(f"frame {frame} cannot be read from {bad} (")
    assert min(outcomes) > 10


def test_arguments_out_of_range(tmp_path, counts):
    with open_frames(write_stack(tmp_path, counts)) as frames:
        for arguments in ((2, 5, 12), (2, -1, 3), (2, 6, 5)):
            with pytest.raises(HklflowError, match="not within the 11 frames"):
                frames.stream(*arguments)
        with pytest.raises(HklflowError, match="a block of 0 frames"):
            frames.stream(0)
        with pytest.raises(HklflowError, match="by 0 threads"):
            frames.stream(1, threads=0)


# --------------------------------------------------------------------------------- threads


def decoders():
    return [t for t in threading.enumerate() if t.name.startswith("hklflow-frames")]


def test_no_thread_survives(tmp_path, counts):
    with open_frames(write_stack(tmp_path, counts)) as frames:
        blocks = frames.stream(2, threads=3)
        assert not decoders()
        next(blocks)
        assert decoders()
        blocks.close()
        assert not decoders()
        for _ in frames.stream(2, threads=2):
            break
        assert not decoders()
        assert len(collect(frames, 2, threads=2)) == 6
        assert not decoders()


def test_two_streams_at_once(tmp_path, counts):
    with open_frames(write_stack(tmp_path, counts)) as frames:
        one, other = frames.stream(3, threads=2), frames.stream(3, threads=1)
        for first, a, b in zip(range(0, N, 3), one, other, strict=True):
            np.testing.assert_array_equal(a, counts[first : first + 3])
            np.testing.assert_array_equal(b, a)
