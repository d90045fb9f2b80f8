"""Read frames of NXmx and Eiger HDF5 files, from one dataset or from many linked files.

HDF5 returns zeros without an error for frames that were never written and for missing source files
of virtual datasets. The readers here raise an error for both.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import allow_open_files, no_file
from hklflow.base.values import MOST_FRAMES
from hklflow.formats.bands import PackedFrames
from hklflow.formats.chunk_sizes import compressions, filters_of, require_sizes
from hklflow.formats.chunks import (
    ChunkTable,
    DamagedFrameError,
    announce_chunks,
    find_chunks,
    first_frame,
    frame_bounds,
    frame_slices,
    holds_selection,
    pack_chunks,
    read_chunks,
)
from hklflow.formats.hdf5_file import open_file
from hklflow.formats.nxfile import find_entry, member
from hklflow.formats.raw_frames import MOST_PIXELS, Frames, require_frame_size


@dataclass(frozen=True)
class _Segment:
    """Dataset with some of the frames of a scan, its file, and the number of its first frame."""

    data: Any
    path: Path
    first: int


@dataclass(frozen=True)
class Run:
    """Run of consecutive frames of a raw scan in one dataset.

    Attributes
    ----------
    path : Path
        File of the dataset.
    inside : str
        Path of the dataset in the file.
    first, source : int
        Number of the first frame in the raw scan, and in the dataset.
    n : int
        Number of frames.
    """

    path: Path
    inside: str
    first: int
    source: int
    n: int


class NexusFrames(Frames):
    """Frames of an HDF5 file: one dataset, or linked files data_000001, data_000002 ...

    Parameters
    ----------
    path : Path
    inside : str, optional
        Dataset of the frames. Default: where detectors write them.
    """

    def __init__(self, path: Path, inside: str | None = None) -> None:
        self._file = open_file(path)
        try:
            self.files = [path]
            found = self._find(path) if inside is None else [self._named(path, inside)]
            self._segments = list(found)
        except BaseException:
            self._file.close()
            raise
        shapes = {segment.data.shape[1:] for segment in self._segments}
        dtypes = {segment.data.dtype for segment in self._segments}
        if len(shapes) != 1 or len(dtypes) != 1:
            self._file.close()
            raise HklflowError(
                f"the frames of {path} have shapes {sorted(shapes)} and types "
                f"{sorted(map(str, dtypes))}; a data file is of another scan: copy them again"
            )
        slow, fast = next(iter(shapes))
        n = sum(segment.data.shape[0] for segment in self._segments)
        self.shape = (int(n), int(slow), int(fast))
        self.dtype = next(iter(dtypes))
        if len(self._segments) == 1:
            file, inside = self.datasets[0]
            self.dataset = (Path(file), inside)

    @property
    def datasets(self) -> tuple[tuple[str, str], ...]:
        """Datasets that contain the frames, in order: (file, path in it).

        A virtual dataset counts as one, whatever files its frames are in.
        """
        return tuple((str(s.data.file.filename), str(s.data.name)) for s in self._segments)

    @property
    def runs(self) -> list[Run]:
        """Source datasets of the frames, through all links and virtual datasets."""
        runs = []
        for segment in self._segments:
            data, n = segment.data, int(segment.data.shape[0])
            if not data.is_virtual:
                runs.append(Run(Path(data.file.filename), str(data.name), segment.first, 0, n))
                continue
            for virtual in data.virtual_sources():
                same_file = virtual.file_name == "."
                path = segment.path if same_file else segment.path.parent / virtual.file_name
                targets, sources = _numbers(virtual.vspace, n), _numbers(virtual.src_space, n)
                both = min(len(targets), len(sources))
                targets, sources = targets[:both], sources[:both]
                cuts = np.flatnonzero((np.diff(targets) != 1) | (np.diff(sources) != 1)) + 1
                for start, end in zip([0, *cuts], [*cuts, both], strict=True):
                    first, source = segment.first + int(targets[start]), int(sources[start])
                    runs.append(Run(path, virtual.dset_name, first, source, int(end - start)))
        return runs

    def _find(self, path: Path) -> Iterator[_Segment]:
        entry = find_entry(self._file)
        group = member(entry, "data")
        if group is None or not hasattr(group, "keys"):
            raise HklflowError(f"{path} has no group {entry.name}/data; give a raw data file")
        # get(getlink) does not follow the link, so `_dataset` notices a missing file.
        names = sorted(
            (name for name in group if re.fullmatch(r"data_\d+", name)),
            key=lambda name: int(name[5:]),
        )
        if "data" in group:
            names = ["data"]
        if not names:
            raise HklflowError(
                f"{path} has neither data nor data_000001 in {group.name}; give a raw data file"
            )
        if names != ["data"]:
            numbers = [int(name[5:]) for name in names]
            gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
            if gaps:
                raise HklflowError(
                    f"{path} has no link data_{gaps[0]:06d} between data_{numbers[0]:06d} and "
                    f"data_{numbers[-1]:06d}; the master file is damaged: copy it again"
                )
        first = 0
        allow_open_files(len(names), str(path))
        for name in names:
            data, source = self._dataset(group, name, path, first)
            yield _Segment(data, source, first)
            first += data.shape[0]

    def _named(self, path: Path, inside: str) -> _Segment:
        import h5py

        folder, _, name = inside.rstrip("/").rpartition("/")
        group = self._file.get(folder or "/")
        if not isinstance(group, h5py.Group) or name not in group:
            raise HklflowError(f"{path} has no dataset {inside}")
        return _Segment(*self._dataset(group, name, path, 0), 0)

    def _dataset(self, group: Any, name: str, path: Path, first: int) -> tuple[Any, Path]:
        import h5py

        link = group.get(name, getlink=True)
        source = path
        if isinstance(link, h5py.ExternalLink):
            source = path.parent / link.filename
            if (reason := no_file(source, read=True)) is not None:
                raise HklflowError(
                    f"{source} {reason}: {path} links it for the frames from {first}; copy the "
                    "data files next to the master file"
                )
            self.files.append(source)
        try:
            data = group[name]
        except (KeyError, OSError, RuntimeError) as error:  # a circular link is a RuntimeError
            raise HklflowError(
                f"the frames from {first} cannot be read: {source} is truncated or has no "
                f"such dataset ({error}); copy it again"
            ) from error
        _require_images(data, group.name, name, source)
        if data.is_virtual:
            for part in _require_sources(data, source, first):
                if part not in self.files:
                    self.files.append(part)
        else:
            _require_written(data, source, first)
        return data, source

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self._read_by_hdf5(start, stop, block)
        return block

    def _read_by_hdf5(self, start: int, stop: int, out: NDArray[Any]) -> None:
        for segment in self._segments:
            low = max(start, segment.first)
            high = min(stop, segment.first + segment.data.shape[0])
            if low < high:
                part = out[low - start : high - start]
                _read_into(segment, low - segment.first, high - segment.first, part)

    @cached_property
    def _chunks(self) -> ChunkTable:
        table = ChunkTable.empty(self.shape[0])
        for segment in self._segments:
            n = segment.data.shape[0]
            table.put(segment.first, find_chunks(segment.data, segment.path), 0, n)
        return table

    def _prepare(self) -> None:
        """Look up the chunks before threads need them."""
        _ = self._chunks

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None:
        for low, high in self._chunks.runs(start, stop):
            part = out[low - start : high - start]
            if self._chunks.file[low] < 0:
                self._read_by_hdf5(low, high, part)
                continue
            with self._naming_damage():
                read_chunks(self._chunks, low, high, part)

    def _pack(
        self, start: int, stop: int, memory: NDArray[np.uint8]
    ) -> tuple[PackedFrames | None, NDArray[np.uint8]]:
        small = self.shape[1] * self.shape[2] < 8
        if small or (self._chunks.file[start:stop] < 0).any():
            return None, memory
        size = int(self._chunks.size[start:stop].sum())
        if size > memory.size:
            memory = np.empty(size + size // 4, np.uint8)
        chunks: list[NDArray[np.uint8]] = []
        with self._naming_damage():
            for low, high in self._chunks.runs(start, stop):
                room = memory[sum(chunk.size for chunk in chunks) :]
                chunks += pack_chunks(self._chunks, low, high, room)
            packed = PackedFrames(start, chunks, self.shape[1:], self.dtype)
        return packed if packed.block else None, memory

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except DamagedFrameError as error:
            path = self._chunks.files[self._chunks.file[error.frame]]
            raise _damaged(error.frame, path, error.why) from error

    def _announce(self, start: int, stop: int) -> None:
        for low, high in self._chunks.runs(start, stop):
            if self._chunks.file[low] >= 0:
                announce_chunks(self._chunks, low, high)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _numbers(space: Any, n: int) -> NDArray[np.int64]:
    """Return the first ``n`` frames of a selection of whole or partial frames."""
    import h5py

    if space.get_select_type() != h5py.h5s.SEL_ALL and space.is_regular_hyperslab():
        start, stride, count, block = (int(part[0]) for part in space.get_regular_hyperslab())
        # An unlimited selection has a very large count or block.
        count, block = min(count, n), min(block, n)
        numbers = start + np.arange(count)[:, None] * stride + np.arange(block)
        return numbers.ravel()[:n].astype(np.int64)
    return first_frame(space) + np.arange(n)


def _read_into(segment: _Segment, low: int, high: int, out: NDArray[Any]) -> None:
    if _require_sizes(segment.data, segment.path, low, high, segment.first, out):
        return
    try:
        segment.data.read_direct(out, np.s_[low:high])
        return
    except OSError as error:
        problem = error
    frame = low
    for frame in range(low, high):
        try:
            segment.data[frame]
        except OSError:
            break
    raise _damaged(segment.first + frame, segment.path, problem)


def _require_sizes(
    data: Any, path: Path, low: int, high: int, first: int, out: NDArray[Any] | None = None
) -> bool:
    """Require that the chunks of frames low..high unpack to the size of a chunk.

    ``first`` is the number of the dataset's first frame in the scan, for messages. Returns True
    if all frames were stored in ``out``.
    """
    if not data.is_virtual:
        try:
            return require_sizes(data, low, high, out)
        except DamagedFrameError as error:
            raise _damaged(first + error.frame, path, error.why) from error
    for virtual in data.virtual_sources():
        start, stop = frame_bounds(virtual.vspace, data.shape[0])
        with open_file(_part(virtual, path)) as opened:
            source = opened[virtual.dset_name]
            begin, end = frame_bounds(virtual.src_space, source.shape[0])
            shift = begin - start
            if end - begin == stop - start:
                # Mapped frame by frame. For other selections all frames are checked.
                begin, end = max(begin, low + shift), min(end, high + shift)
            if start < high and low < stop and begin < end:
                file = Path(opened.filename)
                _require_sizes(source, file, begin, end, first - shift)
    return False


def _part(virtual: Any, path: Path) -> Path:
    """Return the file of a source of a virtual dataset in the file `path`."""
    return path if virtual.file_name == "." else path.parent / virtual.file_name


def _require_sources(
    data: Any, path: Path, first: int, above: tuple[tuple[Path, str], ...] = ()
) -> list[Path]:
    """Require that all frames of a virtual dataset exist; return the files of its sources.

    HDF5 returns the fill value for missing frames without an error.
    """
    if (path.resolve(), data.name) in above:
        raise HklflowError(
            f"{data.name} in {path} reads frames from itself; the file is damaged: copy it again"
        )
    # A virtual dataset takes no space in its file, so any claimed size is possible.
    if data.shape[0] > MOST_FRAMES:
        raise HklflowError(
            f"{data.name} in {path} has {data.shape[0]} frames, more than {MOST_FRAMES}; give a "
            "raw data file"
        )
    above = (*above, (path.resolve(), data.name))
    mapped = np.zeros(data.shape[0], dtype=bool)
    parts: list[Path] = []
    for virtual in data.virtual_sources():
        part = _part(virtual, path)
        start = first + first_frame(virtual.vspace)
        if (reason := no_file(part, read=True)) is not None:
            raise HklflowError(
                f"{part} {reason}: {path} reads the frames from {start} from it; copy the data "
                "files next to the master file"
            )
        with open_file(part) as opened:
            source = member(opened, virtual.dset_name)
            if not hasattr(source, "is_virtual"):
                raise HklflowError(
                    f"{part} has no dataset {virtual.dset_name}, but {path} reads the frames from "
                    f"{start} from it; copy it again"
                )
            if not holds_selection(source.shape or (), virtual):
                raise HklflowError(
                    f"{virtual.dset_name} in {part} has the shape {source.shape}, too small for "
                    f"the frames from {start} that {path} reads from it; the collection was "
                    "aborted or the copy is incomplete: copy it again"
                )
            if source.is_virtual:
                parts += _require_sources(source, part, start, above)
            else:
                _require_written(source, part, start)
        if part != path:
            parts.append(part)
        for frames in frame_slices(virtual.vspace, data.shape[0]):
            mapped[frames] = True
    if not mapped.all():
        raise HklflowError(
            f"frame {first + int(np.argmin(mapped))} of {path} is in none of the source files of "
            f"{data.name}; the collection was aborted or the file is damaged: copy it again"
        )
    return parts


def _damaged(frame: int, path: Path, problem: object) -> HklflowError:
    return HklflowError(
        f"frame {frame} cannot be read from {path} ({problem}); the file is truncated or "
        "damaged: copy it again"
    )


def _require_images(data: Any, group: str, name: str, path: Path) -> None:
    """Require a dataset that is a stack of images of numbers."""
    import h5py

    if not isinstance(data, h5py.Dataset):
        raise HklflowError(f"{group}/{name} in {path} is not a dataset; give a raw data file")
    shape = data.shape or ()  # an empty dataset has None
    if len(shape) != 3 or data.dtype.kind not in "iuf" or not data.size:
        kind = "records" if data.dtype.names else data.dtype
        raise HklflowError(
            f"{group}/{name} in {path} has the shape {shape} and the type {kind}; frames are "
            "numbers of the shape (frame, slow, fast), at least one: give the file that contains "
            "them"
        )
    require_frame_size(shape[1:], f"{group}/{name} in {path}")
    size = math.prod(data.chunks or (0,))
    if size > max(MOST_PIXELS, data.size):
        raise HklflowError(
            f"{group}/{name} in {path} has chunks of {size} pixels, more than all of its frames "
            f"and {MOST_PIXELS}; write the frames to another file"
        )


def _require_filters(data: Any, path: Path) -> None:
    """Require that all filters of a dataset are available."""
    import h5py

    pipeline = data.id.get_create_plist()
    for i in range(pipeline.get_nfilters()):
        number, _, _, name = pipeline.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            known = f" ({name.decode(errors='replace')})" if name else ""
            raise HklflowError(
                f"the frames of {path} are packed with the HDF5 filter {number}{known}, which is "
                "not installed here; set HDF5_PLUGIN_PATH to the folder of its plugin, or pack "
                "the frames again with bitshuffle"
            )
    if len(compressions(filters_of(data))) > 1:
        raise HklflowError(
            f"the frames of {path} are compressed more than once; pack them again with bitshuffle"
        )


def _require_written(data: Any, path: Path, first: int) -> None:
    """Require that all frames of a dataset were written, and that its filters are available.

    HDF5 reads frames that were never written as zeros.
    """
    _require_filters(data, path)
    for name, offset, size in data.external or ():
        held = Path(name).stat().st_size if Path(name).is_file() else offset + size
        if held < offset + size:
            raise HklflowError(
                f"{name} has {held} bytes, but {path} reads its frames up to byte {offset + size}; "
                "the copy is incomplete: copy it again"
            )
    if data.chunks is None:
        if data.size and data.id.get_storage_size() == 0 and data.external is None:
            raise HklflowError(f"no frame was written to {path}; copy it again")
        return
    grid = [-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True)]
    if data.id.get_num_chunks() >= math.prod(grid):
        return
    for frame in range(0, data.shape[0], data.chunks[0]):
        for corner in np.ndindex(*grid[1:]):
            corner_pixel = (frame, *(i * c for i, c in zip(corner, data.chunks[1:], strict=True)))
            if data.id.get_chunk_info_by_coord(corner_pixel).byte_offset is None:
                raise HklflowError(
                    f"frame {first + frame} was never written to {path}: the collection was "
                    f"aborted or the copy is incomplete; copy it again"
                )
