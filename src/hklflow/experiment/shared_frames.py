"""Find raw frames that two rows of the table of scans share; they would count twice.

`shared_frames` runs whenever an experiment is loaded and uses only quick look-ups: names, links and
light scan files. `copied_frames` opens the files, for `hklflow check`. It finds copies, and it
finds master files and virtual datasets that link the same files. Several rows may use one file if
each row uses other frames.
"""

import heapq
import math
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from hklflow.base import identity
from hklflow.base.errors import HklflowError
from hklflow.base.names import analysis
from hklflow.constants.runs import raw_files
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.tables import FrameFiles, Rotation, raw_problems
from hklflow.geometry import left_out

FileId = tuple[int, int]
"""Device and inode of a file; all names of the file have the same."""

Interval = tuple[float, float]
"""First frame and last frame + 1."""

_WHOLE: list[Interval] = [(0, math.inf)]
_IMAGES = 5  # number of images of a series that are compared


@dataclass(frozen=True)
class _Run:
    """Consecutive frames of a raw scan in one dataset, or one image."""

    path: Path
    inside: str | None
    """Path of the dataset in the file; None if it is unknown."""
    first: float
    source: float
    n: float

    @cached_property
    def file(self) -> FileId:
        return _file_id(self.path)


@dataclass(frozen=True)
class _Part:
    """One raw scan of a row: a file, a folder or a pattern."""

    raw: str
    row: Rotation
    base: Path
    analysis: str
    """Name of the analysis; empty for a row of the table."""
    given: FrameFiles
    used: list[Interval]
    corrected: bool
    """True if hklflow corrects the frames first; this module then does not open the raw files."""

    @cached_property
    def name(self) -> str:
        """Path of the raw scan in normal form."""
        return posixpath.normpath(self.raw)

    @cached_property
    def files(self) -> list[tuple[Path, str | None]]:
        """Files with the frames, found without opening HDF5 files.

        For an image series, only the first and the last image.
        """
        found = [(self.base / file, inside) for file, inside in self.given.files]
        if len(found) == 1 and found[0][0].is_dir():
            # Only a run of an integrating detector can be a folder; other folders are refused.
            files = raw_files(self.raw, self.base) if self.corrected else []
            return [(Path(file), None) for file in files]
        return found

    @cached_property
    def marks(self) -> set[tuple[FileId, str | None]]:
        """Device and inode of each file, with the dataset in it.

        Device and inode do not depend on the name of the file.
        """
        return {(_file_id(path), inside and inside.strip("/")) for path, inside in self.files}

    @property
    def images(self) -> list[Path]:
        """Paths of all images of a series."""
        from hklflow.formats.series import find_files

        return find_files(self.base / (self.given.pattern or ""), gaps=True)

    @cached_property
    def runs(self) -> list[_Run]:
        """Position of every frame in the files.

        Raises
        ------
        HklflowError
            If the files cannot be read.
        """
        from hklflow.formats import raw
        from hklflow.formats.nxframes import NexusFrames

        if self.given.pattern is not None:
            return [_Run(path, "", i, 0, 1) for i, path in enumerate(self.images)]
        if self.corrected:
            return [_Run(path, None, 0, 0, math.inf) for path, _ in self.files]
        with raw.open_frames(self.base / self.raw) as frames:
            if not isinstance(frames, NexusFrames):
                return [_Run(path, "", i, 0, 1) for i, path in enumerate(frames.files)]
            return [
                _Run(run.path, run.inside.strip("/"), run.first, run.source, run.n)
                for run in frames.runs
            ]


def shared_frames(experiment: Experiment, found: Mapping[str, FrameFiles]) -> Iterator[str]:
    """Yield a sentence for each row that shares frames, as far as names and links show it.

    Parameters
    ----------
    found : mapping
        Files of each raw scan; scans with missing files are left out.
    """
    parts = _parts(experiment, found)
    by_name: dict[str, list[int]] = defaultdict(list)
    by_file: dict[FileId, list[int]] = defaultdict(list)
    by_folder: dict[FileId, list[int]] = defaultdict(list)
    for i, part in enumerate(parts):
        places = [by_name[part.name], *(by_file[file] for file in {file for file, _ in part.marks})]
        if part.given.pattern is not None:
            places.append(by_folder[_file_id(part.files[0][0].parent)])
        others = (j for j in _in_order(places) if _may_share(part, parts[j]))
        yield from _first_problem(parts, i, others, {})
        for place in places:
            place.append(i)


def copied_frames(experiment: Experiment) -> Iterator[str]:
    """Yield a sentence for each row that shares frames, also through master files or copies.

    Unreadable files are ignored: the import reports them, and they concern one scan only.
    """
    found: dict[str, FrameFiles] = {}
    for key in experiment.all_rotations():
        for problem in raw_problems(experiment.rotation(*key), experiment.base, found):
            raise HklflowError(problem)
    parts: list[_Part] = []
    paths: dict[int, dict[FileId, Path]] = {}
    for part in _parts(experiment, found):
        try:
            # Compare first and last image of a series instead of all images: there may be millions.
            files = part.files if part.given.pattern else [(run.path, "") for run in part.runs]
            paths[len(parts)] = {_file_id(path): path for path, _ in files}
            parts.append(part)
        except (HklflowError, OSError):
            continue
    single = [i for i, part in enumerate(parts) if part.given.pattern is None]
    copies = _copies({file: path for i in single for file, path in paths[i].items()})
    copies |= _copied_series([part for part in parts if part.given.pattern is not None])
    by_file: dict[FileId, list[int]] = defaultdict(list)
    for i in range(len(parts)):
        places = [by_file[file] for file in {copies.get(file, file) for file in paths[i]}]
        yield from _first_problem(parts, i, _in_order(places), copies)
        for place in places:
            place.append(i)


def _in_order(places: list[list[int]]) -> Iterator[int]:
    """Merge several sorted lists of numbers; yield each number once.

    The lists are read only as far as needed: thousands of rows may have the same file, and only the
    first row with shared frames is reported.
    """
    return (number for number, _ in groupby(heapq.merge(*places)))


def _parts(experiment: Experiment, found: Mapping[str, FrameFiles]) -> list[_Part]:
    parts = []
    for sample, scan, rotation in experiment.all_rotations():
        row = experiment.rotation(sample, scan, rotation)
        own = experiment.settings(sample, scan).import_scan
        end = math.inf if own.last_frame is None else own.last_frame + 1
        used: list[Interval] = [(own.first_frame, end)]
        for item in left_out.of_rotation(own.leave_out, rotation):
            _, first, last = left_out.parse(item)
            used = _common(used, [(0, first), (last + 1, math.inf)])
        # A simulated file belongs to one row, so all its frames are compared.
        used = used if experiment.config.simulation is None else _WHOLE
        corrected = experiment.is_corrected(sample, scan)
        parts += [
            _Part(
                raw,
                row,
                experiment.base,
                analysis(scan),
                found.get(raw, FrameFiles([])),
                used,
                corrected,
            )
            for raw in (row.parts if row.raw else ())
        ]
    return parts


def _first_problem(
    parts: list[_Part], i: int, others: Iterable[int], copies: Mapping[FileId, FileId]
) -> Iterator[str]:
    """Yield a sentence on the first earlier raw scan with the same frames, if there is one."""
    part = parts[i]
    # An analysis has the frames of its scan: only scans of one analysis must not share frames.
    for other in (parts[j] for j in others if parts[j].analysis == part.analysis):
        try:
            frames = _overlap(other, part, copies)
        except HklflowError as error:
            yield f"{part.row.where}: {error}"
            return
        if frames:
            yield _sentence(other, part, frames, copies)
            return


def _sentence(a: _Part, b: _Part, frames: list[Interval], copies: Mapping[FileId, FileId]) -> str:
    """Return the message that the second raw scan uses frames of the first one."""
    same = a.name == b.name
    if a.row is b.row:
        cure = "list each scan of a sum once"
    else:
        cure = "remove one row, or give each row frames of its own (`import_scan: leave_out`)"
    if same:
        text = f"{b.row.where}: raw {b.raw} is also used in {a.row.where}"
    else:
        text = f"{b.row.where}: raw {b.raw} has the same frames as raw {a.raw} of {a.row.where}"
    if copies and not _overlap(a, b, {}):
        text += " (a copy, byte for byte)"
    which = "all frames" if frames == _WHOLE else f"frames {_written(frames)}"
    return f"{text}: {which} would count twice; {cure}"


def _written(frames: list[Interval]) -> str:
    """Return the first three intervals as text."""
    texts = []
    for first, end in frames[:3]:
        last = "" if end == first + 1 else " and later" if end == math.inf else f"-{end - 1:.0f}"
        texts.append(f"{first:.0f}{last}")
    return ", ".join(texts) + (" ..." if len(frames) > 3 else "")


def _overlap(a: _Part, b: _Part, copies: Mapping[FileId, FileId]) -> list[Interval]:
    """Return the frames of `b` that `a` uses, too.

    Raises
    ------
    HklflowError
        If files must be opened for the comparison and cannot be read.
    """
    # missing or simulated files: the raw scans have the same name
    if not a.given.files or not b.given.files:
        return _common(a.used, b.used)
    plain = a.given.pattern is None and b.given.pattern is None
    if plain and a.used == b.used == _WHOLE and a.marks & b.marks:
        return _WHOLE
    runs: dict[FileId, list[_Run]] = defaultdict(list)
    for run in a.runs:
        runs[copies.get(run.file, run.file)].append(run)
    found: list[Interval] = []
    for run in b.runs:
        for other in runs.get(copies.get(run.file, run.file), ()):
            if other.inside != run.inside and None not in (other.inside, run.inside):
                continue
            inside = _common(_moved(a.used, other), _moved(b.used, run))
            shift = run.first - run.source
            found += [(first + shift, end + shift) for first, end in inside]
    return _joined(found)


def _moved(used: list[Interval], run: _Run) -> list[Interval]:
    """Return the used frames of a run, as frame numbers in the dataset."""
    inside = _common(used, [(run.first, run.first + run.n)])
    return [(first - run.first + run.source, end - run.first + run.source) for first, end in inside]


def _common(a: list[Interval], b: list[Interval]) -> list[Interval]:
    """Return the frames that are in both lists of intervals."""
    ends = ((max(i[0], j[0]), min(i[1], j[1])) for i in a for j in b)
    return [(first, end) for first, end in ends if first < end]


def _joined(intervals: list[Interval]) -> list[Interval]:
    """Return the same frames in as few sorted intervals as possible."""
    found: list[Interval] = []
    for first, end in sorted(intervals):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    return found


def _may_share(a: _Part, b: _Part) -> bool:
    """Return False if two raw scans have no common file, or use different datasets in it."""
    if a.name == b.name:
        return True
    if any(
        file == other and (inside == own or None in (inside, own))
        for file, inside in a.marks
        for other, own in b.marks
    ):
        return True
    in_one_folder = None not in (a.given.pattern, b.given.pattern)
    return in_one_folder and (_matches(a, b) or _matches(b, a))


def _matches(a: _Part, b: _Part) -> bool:
    """Return True if first or last image of series `b` is also an image of series `a`."""
    from hklflow.formats.series import number_pattern

    template = number_pattern(Path(a.given.pattern or "").name)
    names = [path.name for path, _ in (*a.files, *b.files)]
    numbers = [template and template.fullmatch(name) for name in names]
    first, last, *ends = (int(match["number"]) if match else None for match in numbers)
    return (
        first is not None
        and last is not None
        and any(n is not None and first <= n <= last for n in ends)
    )


def _file_id(path: Path) -> FileId:
    found = path.stat()
    return found.st_dev, found.st_ino


def _spots(path: Path) -> str:
    """Return the hash of samples of a file."""
    return identity.sampled([path])


def _whole(path: Path) -> str:
    """Return the hash of a file; empty for a large file, whose samples are enough."""
    return "" if path.stat().st_size > identity.LARGE else identity.whole([path])


def _copies(files: Mapping[FileId, Path]) -> dict[FileId, FileId]:
    """Return the earlier identical file of each file that is a copy."""
    # Each test costs more than the previous test; only files that agree so far are tested.
    groups = [[file for file, path in files.items() if path.stat().st_size > 0]]
    for look in (lambda path: path.stat().st_size, _spots, _whole):
        finer = []
        for group in groups:
            by_look = defaultdict(list)
            for file in group:
                by_look[look(files[file])].append(file)
            finer += [alike for alike in by_look.values() if len(alike) > 1]
        groups = finer
    return {file: group[0] for group in groups for file in group[1:]}


def _copied_series(parts: list[_Part]) -> dict[FileId, FileId]:
    """Return the image of an earlier series for each image of a copied series.

    Only samples of a few images of each series are compared.
    """
    alike: dict[tuple[object, ...], _Part] = {}
    by_size = defaultdict(list)
    for part in parts:
        images = part.images
        some = [images[len(images) * i // _IMAGES] for i in range(_IMAGES)]
        sizes = [path.stat().st_size for path in some]
        if all(sizes):
            by_size[len(images), *sizes].append((part, some))
    copies: dict[FileId, FileId] = {}
    for size, group in by_size.items():
        for part, some in group if len(group) > 1 else ():
            original = alike.setdefault((size, *map(_spots, some)), part)
            if original is not part:
                pairs = zip(part.images, original.images, strict=True)
                copies |= {_file_id(copy): _file_id(image) for copy, image in pairs}
    return {copy: image for copy, image in copies.items() if copy != image}
