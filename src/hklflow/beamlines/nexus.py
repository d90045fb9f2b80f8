"""NXmx files and Eiger master files: complete metadata, so that only names must be found.

In a folder, files that contain or link the frames of a scan are used, but not data files linked by
master files and not hklflow's own files.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Found, FoundScan, Request, Unmatched, joined
from hklflow.beamlines.grouping import Single, grouped, stated
from hklflow.beamlines.tree import (
    background_note,
    folders,
    is_experiment,
    looks_like_no_scan,
)
from hklflow.formats.eiger_geometry import instrument_of
from hklflow.formats.hdf5_file import open_file
from hklflow.formats.header import Header
from hklflow.formats.instruments import named
from hklflow.formats.light import is_light
from hklflow.formats.nxfile import find, find_entry, find_group, numbers, recorded, unread, word
from hklflow.formats.raw import HDF5_SUFFIXES, open_frames, read_header
from hklflow.formats.text_headers import Choices, goniometer_of, parse_vector
from hklflow.geometry import Goniometer

_MASTER = "_master"


@dataclass(frozen=True)
class NeXusFiles:
    """Plugin for files with complete metadata."""

    name: str
    summary: str
    masters: bool
    """True: files are recognised by the name ``*_master.h5``; False: by the definition NXmx."""
    options: Mapping[str, str]

    def find(self, request: Request) -> Found:
        """Search for scans; see `hklflow.beamlines.Beamline`."""
        singles: list[Single] = []
        unmatched: list[Unmatched] = []
        others: list[Path] = []
        for path in self._files(request.source):
            asked = request.source == path
            if not request.wants(stem(path)):
                continue
            if request.scans is None and not asked and looks_like_no_scan(path.stem):
                others.append(path)
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
            raise HklflowError(f"{request.source} has no {what} of a scan; enter another folder")
        notes: tuple[str, ...] = ()
        if others:
            names = ", ".join(path.name for path in others)
            notes = (
                f"left out by their names; --scans includes them: {names}",
                *background_note([(path.stem, str(path)) for path in others]),
            )
        if singles:
            notes += _unused(Path(singles[0].found.raw))
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
        """Return the rotation in a file; None for other files, which are common in folders."""
        with open_file(path) as file:
            entry = find_entry(file)
            definition = find(entry, "definition")
            nxmx = definition is not None and word(definition) == "NXmx"
            if _is_ours(entry) or not (self.masters or nxmx):
                if asked:
                    raise HklflowError(
                        f"{path} was not written by an instrument as NXmx; enter a raw file"
                    )
                return None
            sample = sample_name(entry)
            goniometer, sweep = _settings(entry)
        notes: list[str] = []
        choices = _choices(request)
        header = joined(request.facts, read_header(path, choices), sweep)
        with open_frames(path) as frames:
            shape = frames.shape
        light = stated(request.facts) or choices.any()
        if header.goniometer is None and goniometer:
            axes = _axes_of(path, goniometer, choices, notes)
            header, light = replace(header, goniometer=axes), light or axes is not None
            if axes is None and not notes:
                notes.append("the directions of the axes are unknown: set `import_scan: axes`")
        if header.detector_doubt is not None:
            notes.append(header.detector_doubt)
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
                light=light,
                goniometer="" if header.goniometer is not None else goniometer,
                where=path.name,
                notes=tuple(notes),
                datasets=links(path) if light else (),
            ),
            stem(path),
            sample,
        )


def _unused(path: Path) -> tuple[str, ...]:
    """Return a note about the fields of a file's instrument and sample that are not used."""
    with recorded() as names:
        read_header(path)
        with open_file(path) as file:
            entry = find_entry(file)
            sample_name(entry)
            _settings(entry)
            groups = [find_group(entry, name) for name in ("instrument", "sample")]
            listed = [
                name for group in groups if group is not None for name in unread(group, names)
            ]
    shown = ", ".join(name.removeprefix("/entry/") for name in listed)
    return (f"in {path.name}, but not used: {shown}",) if shown else ()


def _choices(request: Request) -> Choices:
    name = request.options.get("instrument")
    return Choices(
        instrument=None if name is None else named("HDF5", name),
        arm=parse_vector(request.options.get("arm")),
    )


def _axes_of(path: Path, settings: str, choices: Choices, notes: list[str]) -> Goniometer | None:
    """Return the goniometer of the instrument that wrote a file; None if it is not known."""
    with open_file(path) as file:
        instrument = find_group(find_entry(file), "instrument")
        detector = None if instrument is None else find_group(instrument, "detector")
        row = choices.instrument if detector is None else instrument_of(detector, choices)
    if row is None:
        return None
    angles = dict(item.split("=") for item in settings.split())
    fixed = {name: float(angle) for name, angle in angles.items() if ":" not in angle}
    scanned = next((name for name, angle in angles.items() if ":" in angle), None)
    return goniometer_of(row, fixed, scanned, row.axes, notes)


def stem(path: Path) -> str:
    """Return the name of a file without the ending of master files."""
    return path.name.partition(".")[0].removesuffix(_MASTER)


def _is_ours(entry: Any) -> bool:
    """Return True for hklflow's own files, except simulated raw files."""
    history = find_group(entry, "workflow")
    return history is not None and not any(name.endswith("_simulate") for name in history)


def sample_name(entry: Any) -> str:
    """Return the sample name in the file; empty for none or a default name."""
    node = find(entry, "sample/name")
    text = "" if node is None else word(node).strip()
    # Default names of programs.
    return "" if text.lower() in {"", "sample", "unknown", "none", "default"} else text


def _settings(entry: Any) -> tuple[str, Header]:
    """Return the settings of a goniometer whose axes have no directions (Eiger's writer)."""
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
    """Return the datasets that contain a file's frames, in order."""
    from hklflow.formats.nxframes import NexusFrames

    with NexusFrames(path) as frames:
        return frames.datasets


_OPTIONS = {
    "instrument": "instrument whose conventions the files follow, if they state no axes (see "
    "docs/instruments.md)",
    "arm": "axis of the detector's arm, a lab vector x,y,z, if the files state only its angle",
}

nxmx = NeXusFiles("nxmx", "NXmx files, recognised by their definition", False, _OPTIONS)
eiger = NeXusFiles("eiger", "master files of Eiger detectors, *_master.h5", True, _OPTIONS)
