"""Experiments of NXRefine: samples, scans, rotations, and NXRefine's results for them.

``SAMPLE/LABEL/SAMPLE_SCAN.nxs`` contains the rotations f1, f2, ... of one scan and links to their
frames in ``SCAN/fN.h5``; ``SAMPLE_scans.nxs`` is the parent that registers scans and their
settings. The source is an experiment, a folder within it, a parent or the file of one scan.

NXRefine's parent is not a scan. hklflow's parent is the scan with the parent's orientation, else
the warmest scan.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Found, FoundSample, FoundScan, Request, Unmatched, joined, name
from hklflow.beamlines.nxrefine_parent import Parent, ini_of, is_parent, read_parent, setting
from hklflow.beamlines.tree import folders, is_experiment
from hklflow.formats import nxrefine_fields as fields
from hklflow.formats.header import Header
from hklflow.formats.nxrefine import UNPOLARIZED, read_rotation
from hklflow.formats.nxrefine_header import read_cell, read_formula, read_measurement
from hklflow.formats.nxrefine_settings import KEYS

Floats = NDArray[np.float64]

_OTHERS = {"backup", "calibrations", "configurations", "macros", "scripts", "tasks"}
_DEPTH = 4  # EXP/nxrefine/SAMPLE/LABEL
# NXRefine's settings that describe the data; the others control its programs.
_FRAMES = ("first_frame", "last_frame")
_SHARED = ("threshold", "sample_transmission")


@dataclass(frozen=True)
class _Scan:
    """File of one scan: its name in NXRefine, and its sample."""

    path: Path
    sample: str
    name: str
    parent: str
    """Name of the parent's file; empty if unknown."""

    @property
    def folder(self) -> Path:
        """Usual folder of the frames."""
        return self.path.parent / self.name


class NXRefine:
    """Plugin for experiments set up with NXRefine."""

    name = "nxrefine"
    summary = "experiments, samples, parents or scans of NXRefine"
    options: Mapping[str, str] = {}

    def find(self, request: Request) -> Found:
        """Search for scans; see `hklflow.beamlines.Beamline`."""
        search = _Search(request)
        search.look()
        return Found(
            scans=tuple(search.scans),
            samples=search.samples,
            unmatched=tuple(search.unmatched),
            settings=search.settings,
            notes=tuple(search.notes),
        )


plugin = NXRefine()


class _Search:
    """Search for one request, file by file."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.scans: list[FoundScan] = []
        self.samples: dict[str, FoundSample] = {}
        self.unmatched: list[Unmatched] = []
        self.settings: dict[str, dict[str, dict[str, Any]]] = {}
        self.notes: list[str] = []

    def look(self) -> None:
        source = self.request.source
        files = list(_below(source)) if source.is_dir() else [source]
        parents = {path: self._parent(path) for path in files if is_parent(path)}
        if source in parents:
            files += [source.with_name(f"{stem}.nxs") for stem in parents[source].scans]
        scans = [scan for path in files if path not in parents and (scan := self._scan(path))]
        for scan in scans:
            path = scan.path.with_name(scan.parent)
            if scan.parent and path not in parents and path.is_file():
                parents[path] = self._parent(path)
        if not scans and not self.unmatched and not parents:
            raise HklflowError(
                f"{source} has no scan of NXRefine (SAMPLE/LABEL/SAMPLE_SCAN.nxs with rotations "
                "f1, f2, ...); enter the folder of the experiment"
            )
        labels = {(scan.sample, scan.path.parent) for scan in scans}
        several = [sample for sample, _ in labels]
        by_parent: dict[Path | None, list[_Scan]] = {}
        for scan in scans:
            by_parent.setdefault(_parent_of(scan, parents), []).append(scan)
        for where, members in by_parent.items():
            default = Parent(members[0].path, settings=ini_of(members[0].path))
            self._group(parents[where] if where else default, members, several)
        if source.is_dir() or source in parents:
            self._absent(parents.values())

    def _parent(self, path: Path) -> Parent:
        try:
            with fields.opened(path) as file:
                return read_parent(path, file)
        except HklflowError as error:
            self._refuse(path, error)
            return Parent(path)

    def _scan(self, path: Path) -> _Scan | None:
        """Return the file of a scan; None for other files and for reported problems."""
        if not path.is_file():
            return None
        try:
            with fields.opened(path) as file:
                names = fields.rotation_names(file)
                if not any(fields.is_group(file[n], fields.GONIOMETER) for n in names):
                    if path == self.request.source:
                        raise HklflowError(f"{path} has no rotations f1, f2, ... of NXRefine")
                    return None
                samples = [fields.words(file, "entry/sample/name"), path.parent.parent.name]
                parent = Path(fields.words(file, "entry/nxscans/parent")).name
        except HklflowError as error:
            self._refuse(path, error)
            return None
        for sample in samples:
            if sample and path.stem.startswith(f"{sample}_"):
                return _Scan(path, sample, path.stem.removeprefix(f"{sample}_"), parent)
        why = "its name does not begin with the name of a sample, so its scan is unknown"
        hints = tuple(f"{s}_{path.stem}.nxs" for s in dict.fromkeys(samples) if s)
        self.unmatched.append(Unmatched(str(path), why, hints))
        return None

    def _refuse(self, path: Path, error: HklflowError) -> None:
        """Raise the error of an unreadable file if it is the source; else record the file."""
        if path == self.request.source:
            raise error
        self.unmatched.append(Unmatched(str(path), str(error)))

    def _group(self, parent: Parent, members: Sequence[_Scan], several: Sequence[str]) -> None:
        """Add the scans of one parent: facts, parent scan, settings."""
        rotations_found: list[FoundScan] = []
        matrices: dict[tuple[str, str], Floats] = {}
        samples: dict[str, FoundSample] = {}
        for scan_file in members:
            wanted = self.request.wants(name(scan_file.name))
            if not wanted or (
                self.request.scans is None and not parent.scans.get(scan_file.path.stem, 1)
            ):
                continue
            sample = (
                f"{scan_file.sample}-{scan_file.path.parent.name}"
                if several.count(scan_file.sample) > 1
                else ""
            )
            sample = self.request.sample or sample or scan_file.sample
            with fields.opened(scan_file.path) as file:
                rotations = fields.rotation_names(file)
                samples[name(scan_file.name)] = _sample(file, self.notes)
                for rotation in rotations:
                    scan = self._rotation(file, scan_file, rotation, parent.settings)
                    if scan is None:
                        continue
                    original = (sample, scan_file.name, rotation)
                    rotations_found.append(
                        replace(
                            scan, sample=name(sample), scan=name(scan_file.name), original=original
                        )
                    )
                    if scan.ub is not None:
                        matrix = fields.orientation_matrix(file, rotation)
                        matrices[scan.where, rotation] = matrix
            self._unlinked(scan_file, rotations)
        if not rotations_found:
            return
        chosen, why = _chosen(rotations_found, matrices, parent)
        others = {scan_file.scan for scan_file in rotations_found} - {chosen}
        if others:
            self.notes.append(f"{chosen} is the parent of {', '.join(sorted(others))}: {why}")
        self.scans += [replace(scan_file, parent=chosen) for scan_file in rotations_found]
        self.samples.setdefault(rotations_found[0].sample, samples[chosen])
        for member in dict.fromkeys([chosen, *sorted(others)]):
            frames = min(
                scan_file.header.n_frames or 0
                for scan_file in rotations_found
                if scan_file.scan == member
            )
            sections = self._frames_used(parent, member, frames)
            if member == chosen:
                sections |= self._sections(parent)
            if sections:
                self.settings[f"{rotations_found[0].sample}/{member}"] = sections

    def _rotation(
        self, file: Any, scan: _Scan, rotation: str, settings: Mapping[str, str]
    ) -> FoundScan | None:
        """Return one rotation with all facts; None if it cannot be used, which is recorded."""
        where = f"{scan.path.name} {rotation}"
        try:
            return self._read(file, scan, rotation, settings, where)
        except HklflowError as error:
            candidates = _raw_files(scan, rotation)
            self.unmatched.append(Unmatched(where, str(error), candidates))
            return None

    def _read(
        self, file: Any, scan: _Scan, rotation: str, settings: Mapping[str, str], where: str
    ) -> FoundScan:
        raw, inside, notes = self._frames(file, scan, rotation)
        n, *shape = _shape(raw, inside)
        model = read_rotation(file, rotation)
        geometry = model.rotation
        monitor = self.request.monitor or settings.get("monitor")
        measured, remarks = read_measurement(file, rotation, n, monitor)
        notes += [note for note in (*model.notes, *remarks) if note != UNPOLARIZED]
        if geometry.scan.n_frames != n:
            notes.append(f"NXRefine expects {geometry.scan.n_frames} frames, {raw.name} has {n}")
        if tuple(shape) != tuple(geometry.detector.shape):
            raise HklflowError(
                f"{raw} has frames of {shape} pixels, the detector {geometry.detector.shape}"
            )
        if measured.pixel_mask is not None and list(measured.pixel_mask.shape) != shape:
            raise HklflowError(f"the pixel mask is {measured.pixel_mask.shape}, frames {shape}")
        facts = Header(
            wavelength=geometry.beam.wavelength,
            detector=geometry.detector,
            goniometer=geometry.goniometer,
            start_deg=float(np.degrees(geometry.scan.start)),
            step_deg=float(np.degrees(geometry.scan.step)),
            n_frames=n,
            polarization=setting("polarization", settings),
        )
        return FoundScan(
            sample="",
            scan="",
            rotation=name(rotation),
            raw=str(raw),
            header=joined(self.request.facts, facts, measured),
            shape=(shape[0], shape[1]),
            datasets=((str(raw), inside),),
            ub=model.ub,
            space_group=model.space_group,
            where=where,
            notes=tuple(notes),
        )

    def _frames(self, file: Any, scan: _Scan, rotation: str) -> tuple[Path, str, list[str]]:
        """Return file and dataset of the frames, and notes."""
        target, inside = fields.link(file, f"{rotation}/data/data")
        if target is not None and (scan.path.parent / target).is_file():
            return scan.path.parent / target, inside, []
        usual = [scan.folder / f"{rotation}.h5"]
        if self.request.raw is not None:
            folder = Path(self.request.raw.replace("{scan}", scan.name))
            usual = [folder / scan.name / f"{rotation}.h5", folder / f"{rotation}.h5", *usual]
        reason = "links no frames" if target is None else f"links {target}, which does not exist"
        for path in usual:
            if path.is_file():
                return path, inside or "/entry/data/data", [f"it {reason}: {path} is used instead"]
        raise HklflowError(
            f"it {reason}, and {usual[-1]} does not exist; set another folder: --raw"
        )

    def _unlinked(self, scan: _Scan, rotations: Sequence[str]) -> None:
        """Record frames without a rotation, because their geometry is unknown."""
        for raw in sorted(scan.folder.glob("f[0-9]*.h5")):
            if raw.stem not in rotations:
                why = f"{scan.path.name} has no rotation {raw.stem}"
                self.unmatched.append(Unmatched(str(raw), why, tuple(rotations)))

    def _frames_used(self, parent: Parent, scan: str, n: int) -> dict[str, dict[str, Any]]:
        """Return the range of frames that NXRefine uses; hklflow's scans do not inherit it."""
        sections = _settings(parent, _FRAMES)
        inner = sections.get("import_scan", {})
        for key in [key for key, value in inner.items() if value >= n]:
            self.notes.append(
                f"{key} {parent.settings[key]} of NXRefine is left out for {scan}, which has only "
                f"{n} frames"
            )
            del inner[key]
        return sections if inner else {}

    def _sections(self, parent: Parent) -> dict[str, dict[str, Any]]:
        """Return the sections from a parent's settings and grid, which its scans inherit."""
        sections = _settings(parent, _SHARED)
        if parent.grid:
            sections["refine_parent"] = dict(parent.grid)
            self.notes.append(parent.grid_note)
        return sections

    def _absent(self, parents: Iterable[Parent]) -> None:
        """Record registered scans without a file, and scans that are not selected."""
        left: list[str] = []
        for parent in parents:
            for stem, selected in parent.scans.items():
                path = parent.path.with_name(f"{stem}.nxs")
                if not path.is_file():
                    others = [p for p in sorted(path.parent.glob("*.nxs")) if not is_parent(p)]
                    why = f"{parent.path.name} registers this scan, but the file does not exist"
                    near = tuple(p.name for p in others if p.stem not in parent.scans)
                    self.unmatched.append(Unmatched(path.name, why, near))
                elif not selected:
                    left.append(stem)
        if left and self.request.scans is None:
            self.notes.append(f"left out, not selected in NXRefine: {', '.join(left)}")


def _below(folder: Path) -> Iterator[Path]:
    """Yield NeXus files of an experiment's folders; folders of scans have no scan files."""

    def skip(inner: Path, beside: Sequence[Path]) -> bool:
        of_scan = any(p.suffix == ".nxs" and p.stem.endswith(f"_{inner.name}") for p in beside)
        return of_scan or inner.name in _OTHERS or is_experiment(inner)

    for _, inside in folders(folder, skip=skip, depth=_DEPTH):
        yield from (path for path in inside if path.suffix == ".nxs")


def _parent_of(scan: _Scan, parents: Mapping[Path, Parent]) -> Path | None:
    """Return the parent of a scan: the one named in its file, else the one that registers it."""
    named = scan.path.with_name(scan.parent) if scan.parent else None
    if named in parents:
        return named
    beside = [p for p in parents if p.parent == scan.path.parent]
    return next((p for p in beside if scan.path.stem in parents[p].scans), None)


def _chosen(
    rotations: Sequence[FoundScan], matrices: Mapping[tuple[str, str], Floats], parent: Parent
) -> tuple[str, str]:
    """Return the parent scan, and why it was chosen."""

    def is_parents(scan: FoundScan) -> bool:
        matrix, expected = (
            matrices.get((scan.where, scan.rotation)),
            parent.orientations.get(scan.rotation),
        )
        return (
            matrix is not None
            and expected is not None
            and np.allclose(matrix, expected, rtol=0, atol=1e-9)
        )

    def warmest(scans: Sequence[FoundScan]) -> str:
        return max(scans, key=lambda scan: scan.header.temperature or -1.0).scan

    if same := [scan for scan in rotations if is_parents(scan)]:
        return warmest(same), f"it has the orientation in {parent.path.name}"
    oriented = [scan for scan in rotations if scan.ub is not None] or rotations
    return warmest(oriented), "a guess, the warmest scan; to change it set the column `parent`"


def _settings(parent: Parent, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the sections of the configuration that correspond to settings of a parent."""
    sections: dict[str, dict[str, Any]] = {}
    for key in keys:
        row, value = KEYS["nxreduce"][key], setting(key, parent.settings)
        if value is not None and not isinstance(row, str):
            section, _, inner = row.key.partition(".")
            sections.setdefault(section, {})[inner] = value
    return sections


def _sample(file: Any, notes: list[str]) -> FoundSample:
    from hklflow.geometry.symmetry import space_group

    group: str | None = fields.words(file, "entry/sample/space_group") or None
    if group is not None:
        try:
            space_group(group)
        except HklflowError as error:
            notes.append(f"{Path(file.filename).name}: {error}")
            group = None
    return FoundSample(group, read_cell(file), read_formula(file))


def _shape(raw: Path, inside: str) -> tuple[int, ...]:
    """Return the shape of the frames in a raw file."""
    with fields.opened(raw) as file:
        frames = fields.find(file, inside.strip("/"), largest=None)
        if frames is None or frames.ndim != 3:
            raise HklflowError(f"{raw} has no frames at {inside}; copy it again")
        return tuple(int(n) for n in frames.shape)


def _raw_files(scan: _Scan, rotation: str) -> tuple[str, ...]:
    """Return possible raw files: in the scan's folder, then with the same name in others."""
    files = sorted(scan.folder.glob("*.h5"))
    others = [p for p in sorted(scan.path.parent.glob(f"*/{rotation}.h5")) if p not in files]
    return tuple(str(p.relative_to(scan.path.parent)) for p in (files + others)[:5])
