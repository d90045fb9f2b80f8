"""Bluesky runs: documents with motors and exposure of each frame, and frames in HDF5 files.

Each run is a rotation. Frames of a resource (AreaDetector's HDF5 writer, one frame or more in a
file) or of a stream resource are linked in the order of the events.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Found, FoundScan, Request, Unmatched, joined
from hklflow.beamlines.bluesky_facts import PARTS, run_facts
from hklflow.beamlines.grouping import Single, grouped
from hklflow.beamlines.tree import folders, is_experiment
from hklflow.formats.bluesky import DAMAGE, SUFFIXES, Document, Run, read_runs
from hklflow.formats.hdf5_file import open_file

_INSIDE = "entry/data/data"  # AreaDetector's default


@dataclass(frozen=True)
class Part:
    """Frames of consecutive events in one dataset."""

    file: Path
    inside: str


class Bluesky:
    """Plugin for exported runs."""

    name = "bluesky"
    summary = "Bluesky documents (msgpack, JSON lines, Tiled's export) with frames in HDF5 files"
    options: Mapping[str, str] = {
        "detector": "data key of the frames; default: the only key whose data are in files",
        "axis": "data key of the scanned motor; default: the start document's motor, or the one "
        "that moves",
        "angles": "part of the exposure to which the angles belong: start (default), middle, end",
        "exposure": "data or configuration key of the exposure of a frame; default: the only "
        "acquire_time, exposure_time or count_time",
        "energy": "data key of the photon energy; default: the only energy. With its unit if the "
        "descriptor states none: KEY:keV",
        "temperature": "data key of the sample's temperature; with its unit if the descriptor "
        "states none: KEY:degC",
    }

    def find(self, request: Request) -> Found:
        """Search for scans; see `hklflow.beamlines.Beamline`."""
        if (part := request.options.get("angles", "start")) not in PARTS:
            raise HklflowError(f"angles is {part!r}; use one of {', '.join(PARTS)}")
        singles: list[Single] = []
        lost: list[Unmatched] = []
        other = 0
        for path in _files(request.source):
            try:
                runs = read_runs(path)
            except HklflowError as error:
                if path == request.source:
                    raise
                lost.append(Unmatched(str(path), str(error)))
                continue
            for run in runs:
                number = str(run.start.get("scan_id", ""))
                uid = str(run.start.get("uid", ""))
                if not (request.wants(number) or request.wants(uid)):
                    continue
                where = f"{path.name}: scan {number or uid[:8]}"
                try:
                    single = _single(run, request, where, path.parent)
                except HklflowError as error:
                    lost.append(Unmatched(where, str(error)))
                except DAMAGE as error:
                    why = f"a document of the run is damaged ({type(error).__name__}: {error})"
                    lost.append(Unmatched(where, f"{why}; export the run again"))
                else:
                    singles += [] if single is None else [single]
                    other += single is None
        notes = (f"{other} runs without frames in files are left out",) if other else ()
        if not singles and not lost and not other:
            raise HklflowError(
                f"{request.source} has no Bluesky documents (*{' *'.join(SUFFIXES)}); enter an "
                "export of runs"
            )
        return Found(tuple(grouped(request, singles)), unmatched=tuple(lost), notes=notes)


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for _, inside in folders(source, skip=is_experiment):
        yield from (p for p in inside if p.suffix in SUFFIXES and p.is_file())


def _frames_key(run: Run, request: Request) -> str | None:
    """Return the data key of the frames; None if the run has none.

    Raises
    ------
    HklflowError
        If there are several, or the stated one is absent.
    """
    named = request.options.get("detector")
    keys = [key for key, about in run.primary.keys.items() if about.get("external")]
    keys += [str(r["data_key"]) for r in run.stream_resources.values() if "data_key" in r]
    keys = list(dict.fromkeys(keys))
    if named is not None:
        return named if named in keys else None
    if len(keys) > 1:
        raise HklflowError(f"frames are in {', '.join(keys)}: --option detector=KEY")
    return keys[0] if keys else None


def _single(run: Run, request: Request, where: str, beside: Path) -> Single | None:
    """Return the rotation of a run; None if it has no frames in files."""
    stream, key = run.primary, _frames_key(run, request)
    if key is None:
        return None
    if not stream.rows:
        raise HklflowError("it has no events, so that no angles are known")
    numbers = sorted(stream.rows)
    if absent := sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)):
        raise HklflowError(f"its events lack number {absent[0]}; export the whole run again")
    parts = _parts(run, key, request, beside)
    shape = _checked_shape(parts, len(stream.rows))
    header, words, notes = run_facts(run, request)
    if run.stopped != "success":
        notes.append(f"the run ended with {run.stopped or 'no stop document'}")
    sample = run.start.get("sample_name") or run.start.get("sample")
    sample = sample.get("name") if isinstance(sample, Mapping) else sample
    return Single(
        FoundScan(
            "",
            "",
            "",
            str(parts[0].file),
            joined(request.facts, header),
            shape,
            datasets=tuple((str(part.file), part.inside) for part in parts),
            goniometer=words,
            where=where,
            notes=(*notes, "set the directions of its axes in `import_scan: axes`"),
        ),
        str(run.start.get("scan_id") or run.start.get("uid", ""))[:8],
        "" if sample is None else str(sample),
    )


# ------------------------------------------------------------------------------ frames


def _parts(run: Run, key: str, request: Request, beside: Path) -> list[Part]:
    """Return the datasets of the frames in the order of the events."""
    stream = run.primary
    resources = [r for r in run.stream_resources.values() if r.get("data_key") == key]
    if resources:
        parts = [part for r in resources for part in _of_stream(r, len(stream.rows))]
    else:
        parts = list(_of_datums(run, key))
    return [Part(_located(part.file, request, beside), part.inside) for part in parts]


def _of_stream(resource: Document, n_frames: int) -> list[Part]:
    """Return the datasets of a stream resource."""
    parameters = resource.get("parameters") or resource.get("resource_kwargs") or {}
    kind = str(resource.get("mimetype") or resource.get("spec") or "")
    if "hdf5" not in kind.lower():
        raise HklflowError(
            f"its frames are {kind or 'of an unknown kind'}, not HDF5; import the images with a log"
        )
    inside = str(parameters.get("dataset") or parameters.get("path") or _INSIDE).strip("/")
    uri = str(resource.get("uri") or "")
    path = unquote(urlparse(uri).path) if uri else _joined(resource)
    template = parameters.get("template")
    if not template:
        return [Part(Path(path), inside)]
    first = int(parameters.get("start_index", 0))
    names = [_filled(str(template), first + i) for i in range(n_frames)]
    return [Part(Path(path) / name, inside) for name in names]


def _filled(template: str, number: int) -> str:
    try:
        return template % number if "%" in template else template.format(number)
    except (TypeError, ValueError, LookupError) as error:
        raise HklflowError(f"its template {template!r} has no place for a number") from error


def _of_datums(run: Run, key: str) -> Iterator[Part]:
    """Yield the dataset of each resource, checked to be used from its first frame on."""
    last: Document | None = None
    point = 0
    for number, row in sorted(run.primary.rows.items()):
        datum = run.datums.get(str(row.get(key)))
        resource = None if datum is None else run.resources.get(str(datum["resource"]))
        if datum is None or resource is None:
            raise HklflowError(f"event {number} names no file with a frame for {key}")
        if "HDF5" not in str(resource.get("spec", "")).upper():
            raise HklflowError(
                f"its frames are {resource.get('spec')}, not HDF5; import the images with a log"
            )
        kwargs = resource.get("resource_kwargs") or {}
        if int(kwargs.get("frame_per_point", 1)) != 1:
            raise HklflowError(
                f"its events have {kwargs['frame_per_point']} frames each; hklflow needs one"
            )
        same = last is not None and resource["uid"] == last["uid"]
        point = point + 1 if same else 0
        stated = (datum.get("datum_kwargs") or {}).get("point_number", point)
        if int(stated) != point:
            raise HklflowError(
                f"event {number} takes frame {stated} of {_joined(resource)}, not frame {point}; "
                "frames and events are not in the same order"
            )
        if not same:
            yield Part(Path(_joined(resource)), str(kwargs.get("path", _INSIDE)).strip("/"))
        last = resource


def _joined(resource: Document) -> str:
    path = str(resource.get("resource_path", ""))
    root = str(resource.get("root") or "")
    return str(Path(root) / path.lstrip("/")) if root else path


def _located(path: Path, request: Request, beside: Path) -> Path:
    """Return where a file is now: at its path, or below a folder that the user states.

    Raises
    ------
    HklflowError
        If it is nowhere.
    """
    top = beside if request.raw is None else Path(request.raw).absolute()
    tails = [Path(*path.parts[i:]) for i in range(1, len(path.parts))]
    for candidate in (*((path,) if path.is_absolute() else ()), *(top / tail for tail in tails)):
        if candidate.is_file():
            return candidate.absolute()
    raise HklflowError(
        f"its file {path} does not exist, nor its end below {top}; name the folder of the frames: "
        "--raw FOLDER"
    )


def _checked_shape(parts: list[Part], n_events: int) -> tuple[int, int]:
    """Return the shape of a frame; require one frame for each event.

    Raises
    ------
    HklflowError
        If a dataset is absent or has another shape, or the numbers differ.
    """
    total = 0
    shapes: set[tuple[int, ...]] = set()
    for part in parts:
        with open_file(part.file) as file:
            data: Any = file.get(part.inside)
            if not hasattr(data, "shape") or len(data.shape) != 3:
                raise HklflowError(
                    f"{part.file} has no frames (frame, slow, fast) in {part.inside}; name the "
                    "right dataset in the resource document"
                )
            total += int(data.shape[0])
            shapes.add(tuple(int(n) for n in data.shape[1:]))
    if len(shapes) != 1 or total != n_events:
        raise HklflowError(
            f"it has {n_events} events, but {total} frames of {sorted(shapes)} pixels; each event "
            "must have one frame"
        )
    slow, fast = shapes.pop()
    return slow, fast


plugin = Bluesky()
