"""NXmx files and Eiger master files: they describe themselves, so that only names are to be found.

Of a folder those files are taken that hold or link the frames of a scan: no data files that
masters link, and nothing that hklflow made.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Found, FoundScan, Request, Unmatched, joined
from hklflow.beamlines.grouping import Single, grouped, stated
from hklflow.beamlines.tree import folders, is_experiment, looks_like_no_scan
from hklflow.formats.hdf5_file import open_file
from hklflow.formats.header import Header
from hklflow.formats.light import is_light
from hklflow.formats.nxfile import find, find_entry, find_group, numbers, word
from hklflow.formats.raw import HDF5_SUFFIXES, open_frames, read_header

_MASTER = "_master"


@dataclass(frozen=True)
class NeXusFiles:
    """Plugin of files that describe themselves."""

    name: str
    summary: str
    masters: bool
    """Whether they are told by their names, ``*_master.h5``, or by the definition NXmx in them."""
    options: Mapping[str, str]

    def find(self, request: Request) -> Found:
        """Look for scans; see `hklflow.beamlines.Beamline`."""
        singles: list[Single] = []
        unmatched: list[Unmatched] = []
        others: list[str] = []
        for path in self._files(request.source):
            asked = request.source == path
            if not request.wants(stem(path)):
                continue
            if request.scans is None and not asked and looks_like_no_scan(path.stem):
                others.append(path.name)
                continue
            try:
                single = self._read(path, request, asked)
            except HklflowError as error:
                if asked:
                    raise
                unmatched.append(Unmatched(str(path), str(error)))
                continue
            if single is not None:
                singles.append(single)
        if not singles and not unmatched and not others:
            what = "*_master.h5 file" if self.masters else "NXmx file"
            raise HklflowError(f"{request.source} has no {what} of a scan; name another folder")
        notes: tuple[str, ...] = ()
        if others:
            notes = (f"left out by their names, --scans takes them: {', '.join(others)}",)
        return Found(tuple(grouped(request, singles)), unmatched=tuple(unmatched), notes=notes)

    def _files(self, source: Path) -> Iterator[Path]:
        if source.is_file():
            yield source
            return
        for _, inside in folders(source, skip=is_experiment):
            for path in inside:
                suited = path.suffix.lower() in HDF5_SUFFIXES and not is_light(path)
                if suited and (not self.masters or path.stem.endswith(_MASTER)) and path.is_file():
                    yield path

    def _read(self, path: Path, request: Request, asked: bool) -> Single | None:
        """Rotation in a file; None if it is none, of which a folder may have many."""
        with open_file(path) as file:
            entry = find_entry(file)
            definition = find(entry, "definition")
            nxmx = definition is not None and word(definition) == "NXmx"
            if _is_ours(entry) or not (self.masters or nxmx):
                if asked:
                    raise HklflowError(
                        f"{path} is not what an instrument wrote as NXmx; name a raw file"
                    )
                return None
            sample = sample_name(entry)
            goniometer, sweep = _settings(entry)
        header = joined(request.facts, read_header(path), sweep)
        with open_frames(path) as frames:
            shape = frames.shape
        notes = []
        if header.goniometer is None and goniometer:
            notes.append("the directions of the axes are not stated: set `import_scan: axes`")
        if header.monitor is None and header.monitor_doubt is not None:
            notes.append(header.monitor_doubt)
        return Single(
            FoundScan(
                "",
                "",
                "",
                str(path),
                header,
                (shape[1], shape[2]),
                light=stated(request.facts),
                goniometer="" if header.goniometer is not None else goniometer,
                where=path.name,
                notes=tuple(notes),
                datasets=links(path) if stated(request.facts) else (),
            ),
            stem(path),
            sample,
        )


def stem(path: Path) -> str:
    """Name of a file without what all master files are called."""
    return path.name.partition(".")[0].removesuffix(_MASTER)


def _is_ours(entry: Any) -> bool:
    """Whether hklflow made a file, unless it simulated what an instrument would have written."""
    history = find_group(entry, "workflow")
    return history is not None and not any(name.endswith("_simulate") for name in history)


def sample_name(entry: Any) -> str:
    """Name of the sample as the file has it; empty: none, or none that a person gave."""
    node = find(entry, "sample/name")
    found = "" if node is None else word(node).strip()
    # What writers put in where nobody told the name.
    return "" if found.lower() in {"", "sample", "unknown", "none", "default"} else found


def _settings(entry: Any) -> tuple[str, Header]:
    """Settings of a goniometer whose axes have no directions, as Eiger's writer has them."""
    import numpy as np

    from hklflow.formats.nxmx import moving_axes, resting

    group = find(entry, "sample/goniometer")
    if group is None or not hasattr(group, "keys"):
        return "", Header()
    words: list[str] = []
    sweep = Header()
    nodes = {name: find(group, name) for name in ("omega", "kappa", "chi", "phi")}
    angles = {
        name: np.ravel(numbers(node))
        for name, node in nodes.items()
        if node is not None and getattr(node, "size", True)
    }
    moving = [list(angles)[i] for i in moving_axes(list(angles.values()))]
    for name, values in angles.items():
        step = find(group, f"{name}_increment")
        width = 0.0 if step is None else float(np.ravel(numbers(step))[0])
        moves = name in moving
        if moves or width:
            width = float(values[-1] - values[0]) / (len(values) - 1) if moves else width
            words.append(f"{name}={values[0]:.6g}:{width:.6g}")
            sweep = Header(start_deg=float(values[0]), step_deg=width)
        else:
            words.append(f"{name}={resting(values):.6g}")
    return " ".join(words), sweep


def links(path: Path) -> tuple[tuple[str, str], ...]:
    """Datasets that hold a file's frames in order."""
    from hklflow.formats.nxframes import NexusFrames

    with NexusFrames(path) as frames:
        return frames.datasets


nxmx = NeXusFiles("nxmx", "NXmx files, by the definition in them", False, {})
eiger = NeXusFiles("eiger", "master files of Eiger detectors, *_master.h5", True, {})
