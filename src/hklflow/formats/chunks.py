"""Read compressed frames of HDF5 files without the HDF5 library.

HDF5 reads under one lock, with a filter that is slower than `bitshuffle.decode`. If each chunk is
one frame in bitshuffle-LZ4, HDF5 only gives the positions of the chunks in the file.
"""

import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.formats.hdf5_file import open_file

BITSHUFFLE, LZ4 = 32008, 2  # number of the filter, and its code of the compression

#: Largest size of a packed chunk above the size of the unpacked one, bytes.
OVERHEAD = 65_536

# The kernel reads ahead no more than about this for one request.
ANNOUNCED = 128 * 1024


class DamagedFrameError(Exception):
    """Error for a frame that cannot be read: its number in the scan, and the reason."""

    def __init__(self, frame: int, why: object) -> None:
        super().__init__(frame, why)
        self.frame, self.why = frame, why


@dataclass(frozen=True)
class ChunkTable:
    """Positions of the frames of a dataset that are stored as bitshuffle-LZ4 chunks.

    Attributes
    ----------
    files : list of Path
    file : (n,) int array
        Index into `files`; -1 if HDF5 must read the frame.
    offset, size : (n,) uint64 arrays
        Position and size of the chunk in its file, bytes.
    """

    files: list[Path]
    file: NDArray[np.int64]
    offset: NDArray[np.uint64]
    size: NDArray[np.uint64]

    @classmethod
    def empty(cls, n: int) -> "ChunkTable":
        """Make a table of `n` frames that HDF5 must read."""
        return cls([], np.full(n, -1), np.zeros(n, np.uint64), np.zeros(n, np.uint64))

    def runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cut frames start..stop into runs; all frames of a run are in one file."""
        edges = start + 1 + np.flatnonzero(np.diff(self.file[start:stop]))
        cuts = [start, *map(int, edges), stop]
        return list(pairwise(cuts))

    def put(self, at: int, other: "ChunkTable", start: int, stop: int) -> None:
        """Copy frames start..stop of another table to frames `at` and following of this one."""
        target, source = slice(at, at + stop - start), slice(start, stop)
        self.files.extend(file for file in other.files if file not in self.files)
        # The last entry maps -1 to -1.
        number = np.array([*(self.files.index(file) for file in other.files), -1])
        self.file[target] = number[other.file[source]]
        self.offset[target] = other.offset[source]
        self.size[target] = other.size[source]


def find_chunks(data: Any, path: Path) -> ChunkTable:
    """Return the positions of the frames of a dataset (n, slow, fast).

    Parameters
    ----------
    data : h5py.Dataset
    path : Path
        Path of its file; relative names of virtual sources begin in its folder.
    """
    if data.is_virtual:
        return _virtual(data, path)
    table = ChunkTable.empty(data.shape[0])
    if not _is_plain(data):
        return table
    table.files.append(Path(data.file.filename))
    plain = math.prod(data.chunks) * data.dtype.itemsize
    most = plain + plain // 8 + OVERHEAD

    def note(chunk: Any) -> None:
        frame = chunk.chunk_offset[0]
        # The mask names filters that were skipped for this chunk. A chunk larger than any packed
        # frame is left to HDF5, whose reader checks the size first.
        if chunk.filter_mask == 0 and chunk.size <= most:
            table.file[frame] = 0
            table.offset[frame] = chunk.byte_offset
            table.size[frame] = chunk.size

    data.id.chunk_iter(note)
    return table


def _is_plain(data: Any) -> bool:
    """Return True if each chunk is one frame of integers in bitshuffle-LZ4 and nothing else."""
    pipeline = data.id.get_create_plist()
    if (
        data.ndim != 3
        or data.chunks != (1, *data.shape[1:])
        or data.dtype.kind not in "iu"
        or data.dtype.itemsize not in (1, 2, 4)
        or not data.dtype.isnative
        or pipeline.get_nfilters() != 1
        # With a user block or a split file, offsets do not count from the start of the file.
        or data.file.userblock_size
        or data.file.driver != "sec2"
        # Some platforms and some versions of HDF5 lack these functions.
        or not hasattr(os, "preadv")
        or not hasattr(data.id, "chunk_iter")
    ):
        return False
    number, _, values, _ = pipeline.get_filter(0)
    return (
        number == BITSHUFFLE
        and len(values) > 4
        and values[2] == data.dtype.itemsize
        and values[4] == LZ4
    )


def _virtual(data: Any, path: Path) -> ChunkTable:
    """Return the positions of frames of a virtual dataset that are mapped in whole frames."""
    table = ChunkTable.empty(data.shape[0])
    # With this prefix HDF5 searches the sources elsewhere.
    if "HDF5_VDS_PREFIX" in os.environ or data.ndim != 3:
        return table
    mapped = np.zeros(data.shape[0], dtype=np.int64)
    sources: dict[tuple[str, str], tuple[ChunkTable, tuple[int, ...]]] = {}
    for virtual in data.virtual_sources():
        target = _whole_frames(virtual.vspace, data.shape)
        if target is None:
            return ChunkTable.empty(data.shape[0])
        mapped[slice(*target)] += 1
        name = (virtual.file_name, virtual.dset_name)
        if name not in sources:
            with open_file(path if name[0] == "." else path.parent / name[0]) as opened:
                source = opened[name[1]]
                like = (
                    not source.is_virtual
                    and source.dtype == data.dtype
                    and source.shape[1:] == data.shape[1:]
                )
                chunks = find_chunks(source, path) if like else ChunkTable.empty(0)
                sources[name] = (chunks, source.shape)
        chunks, shape = sources[name]
        if not chunks.files:
            continue
        frames = _whole_frames(virtual.src_space, shape)
        if frames is not None and frames[1] - frames[0] == target[1] - target[0]:
            table.put(target[0], chunks, *frames)
    # Where mappings overlap, HDF5 decides.
    table.file[mapped != 1] = -1
    return table


def first_frame(space: Any) -> int:
    """Return the first frame of a selection, which may be unlimited."""
    import h5py

    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return 0
    if space.is_regular_hyperslab():
        return int(space.get_regular_hyperslab()[0][0])
    return int(space.get_select_bounds()[0][0])


def frame_slices(space: Any, n: int) -> list[slice]:
    """Return the frames that a selection in a dataset of `n` frames touches."""
    import h5py

    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return [slice(0, n)]
    if not space.is_regular_hyperslab():
        first, last = space.get_select_bounds()
        return [slice(int(first[0]), int(last[0]) + 1)]
    first, stride, count, block = (int(values[0]) for values in space.get_regular_hyperslab())
    end = first + stride * (count - 1) + block
    # HDF5 writes unlimited as a very large number.
    if block >= stride or count == 1 or end > 2**60:
        return [slice(first, n if end > 2**60 else end)]
    return [slice(first + i, first + i + stride * (count - 1) + 1, stride) for i in range(block)]


def frame_bounds(space: Any, n: int) -> tuple[int, int]:
    """Return the first and last (exclusive) frame of a selection; an unlimited one ends at `n`."""
    slices = frame_slices(space, n)
    return slices[0].start, slices[-1].stop


def holds_selection(shape: tuple[int, ...], virtual: Any) -> bool:
    """Return True if a source of this shape contains all that a virtual dataset reads from it."""
    import h5py

    space = virtual.src_space
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        # The file does not store the shape of the source.
        return math.prod(shape) >= int(virtual.vspace.get_select_npoints())
    ends = _selection_end(space)
    return len(ends) == len(shape) and all(a <= b for a, b in zip(ends, shape, strict=True))


def _selection_end(space: Any) -> tuple[int, ...]:
    """Return the smallest shape that contains a selection; 0 along unlimited axes."""
    if not space.is_regular_hyperslab():
        return tuple(int(last) + 1 for last in space.get_select_bounds()[1])
    ends = [
        int(first) + int(stride) * (int(count) - 1) + int(block)
        for first, stride, count, block in zip(*space.get_regular_hyperslab(), strict=True)
    ]
    # HDF5 writes unlimited as a very large number.
    return tuple(0 if end > 2**60 else end for end in ends)


def _whole_frames(space: Any, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the first and last (exclusive) frame of a selection; None unless frames are whole."""
    import h5py

    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return 0, shape[0]
    if not space.is_regular_hyperslab():
        return None
    first, stride, count, block = space.get_regular_hyperslab()
    if any(c > 1 and s != b for s, c, b in zip(stride, count, block, strict=True)):
        return None
    # HDF5 writes unlimited as a very large number.
    length = tuple(int(c) * int(b) for c, b in zip(count, block, strict=True))
    if length[1:] != shape[1:] or int(first[0]) + length[0] > shape[0]:
        return None
    return int(first[0]), int(first[0]) + length[0]


def read_chunks(table: ChunkTable, start: int, stop: int, out: NDArray[Any]) -> None:
    """Decode frames start..stop, all from one file, into `out`; holds no lock.

    Raises
    ------
    DamagedFrameError
        If a frame cannot be read.
    """
    from hklflow.formats.bitshuffle import decode

    frame = start
    try:
        with table.files[table.file[start]].open("rb", buffering=0) as file:
            length = os.fstat(file.fileno()).st_size
            buffer = np.empty(0, np.uint8)
            for frame in range(start, stop):
                offset, size = int(table.offset[frame]), int(table.size[frame])
                if offset + size > length:
                    raise DamagedFrameError(frame, f"the file ends after {length} bytes")
                if size > buffer.size:
                    buffer = np.empty(size + size // 4, np.uint8)
                chunk = buffer[:size]
                if os.preadv(file.fileno(), [chunk.data], offset) != size:
                    raise DamagedFrameError(frame, f"cannot read {size} bytes at {offset}")
                decode(chunk, out[frame - start])
    except (OSError, ValueError) as error:
        raise DamagedFrameError(frame, error) from error


def pack_chunks(
    table: ChunkTable, start: int, stop: int, room: NDArray[np.uint8]
) -> list[NDArray[np.uint8]]:
    """Read the compressed frames start..stop, all from one file; holds no lock.

    Parameters
    ----------
    room : (n,) uint8 array
        Buffer for the frames, one behind the other: as many bytes as all of them have.

    Raises
    ------
    DamagedFrameError
        If a frame cannot be read.
    """
    frame, used = start, 0
    chunks = []
    try:
        with table.files[table.file[start]].open("rb", buffering=0) as file:
            length = os.fstat(file.fileno()).st_size
            for frame in range(start, stop):
                offset, size = int(table.offset[frame]), int(table.size[frame])
                if offset + size > length:
                    raise DamagedFrameError(frame, f"the file ends after {length} bytes")
                chunks.append(room[used : used + size])
                used += size
                if os.preadv(file.fileno(), [chunks[-1].data], offset) != size:
                    raise DamagedFrameError(frame, f"cannot read {size} bytes at {offset}")
    except OSError as error:
        raise DamagedFrameError(frame, error) from error
    return chunks


def announce_chunks(table: ChunkTable, start: int, stop: int) -> None:
    """Announce to the kernel that frames start..stop, all in one file, will be read next."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        with table.files[table.file[start]].open("rb", buffering=0) as file:
            for offset, size in zip(table.offset[start:stop], table.size[start:stop], strict=True):
                end = int(offset) + int(size)
                for at in range(int(offset), end, ANNOUNCED):
                    n = min(ANNOUNCED, end - at)
                    os.posix_fadvise(file.fileno(), at, n, os.POSIX_FADV_WILLNEED)
    except OSError:
        # Reading reports the error.
        return
