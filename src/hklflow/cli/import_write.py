"""Output of `hklflow import`: light scan files, table rows, start orientations, settings.

Everything is written under the lock of the tables. After an error the files are as they were before
the command.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from hklflow.base.errors import HklflowError, printable
from hklflow.base.values import CELL_NAMES
from hklflow.cli.cif import Cif
from hklflow.cli.folder import Folder, commented_rows, read_table

if TYPE_CHECKING:
    from hklflow.beamlines import Found, FoundSample, FoundScan, Unmatched


Source = tuple[str, str]
"""Source of frames: a file (of a series the first one), and the path in an HDF5 file, else ""."""


def say(line: str) -> None:
    """Print a line without the control characters that texts of files and plugins may contain."""
    print(printable(line))


@Parameter(name="*")
@dataclass(frozen=True)
class Stated:
    """Options for all new rows; empty or None if the user does not give a value."""

    space_group: str | None = None
    """Space group of a new sample."""
    cell: tuple[float, float, float, float, float, float] | None = None
    """Approximate cell of a new sample, in Å and degrees."""
    formula: str = ""
    """Chemical formula of a new sample."""
    parent: str = ""
    """Scan of the same sample with whose orientation all scans start. Default: the parent in the
    files.
    """
    calibration: str = ""
    """Name of a detector geometry in the configuration. Default: the geometry in the files."""
    cif: Cif = Cif()

    def with_cif(self) -> "Stated":
        """Return the options with the facts of the CIF file."""
        crystal = self.cif.crystal(self.space_group, self.cell)
        if crystal is None:
            return self
        return replace(
            self,
            space_group=self.space_group or crystal.space_group,
            cell=crystal.cell,
            formula=self.formula or crystal.formula,
        )

    def sample_row(self, name: str, found: "FoundSample | None") -> dict[str, str]:
        """Return the row of the table of samples."""
        cell = self.cell or (found.cell if found else None)
        row = {
            "sample": name,
            "space_group": self.space_group or (found and found.space_group) or "P 1",
            "formula": self.formula or (found.formula if found else ""),
        }
        axes = {} if cell is None else dict(zip(CELL_NAMES, cell, strict=True))
        return row | {axis: f"{value:.10g}" for axis, value in axes.items()}

    def scan_row(self, scan: "FoundScan", raw: str) -> dict[str, str]:
        """Return the row of the table of scans."""
        temperature = scan.header.temperature
        return {
            "sample": scan.sample,
            "scan": scan.scan,
            "temperature": "" if temperature is None else f"{temperature:.10g}",
            "parent": self.parent or scan.parent,
            "rotation": scan.rotation,
            "raw": raw,
            "goniometer": scan.goniometer,
            "calibration": self.calibration or scan.calibration,
            "frames": "" if scan.header.n_frames is None else str(scan.header.n_frames),
            "run": "",
        }


def sort_out(
    folder: Folder, found: "Found", sample: str | None
) -> "tuple[list[FoundScan], list[tuple[str, str]], list[Unmatched]]":
    """Split the scans into new scans, scans in the table, and conflicts.

    Scans are compared by their frames, because a name may be used for other frames.

    Parameters
    ----------
    sample : str or None
        Name of the sample that the user gives.

    Returns
    -------
    new : list of FoundScan
        Scans to add to the table.
    there : list of (str, str)
        Scans that are in the table: file and names of the row. For a row that the user commented
        out, the names end with "behind a #".
    conflicts : list of Unmatched
        Scans whose name belongs to other frames, and scans that share frames.

    Raises
    ------
    HklflowError
        If different names in the files become the same name.
    """
    from hklflow.beamlines import Unmatched
    from hklflow.cli.import_names import require_distinct

    path = folder.table("scans")
    rows = read_table(path).rows
    names = {(row["sample"], row["scan"], row["rotation"]): row["raw"] for row in rows}
    known: dict[Source, str] = {}
    for mark, group in ((" behind a #", commented_rows(path)), ("", rows)):
        for row in group:
            names_of_row = f"{row['sample']} {row['scan']} {row['rotation']}{mark}"
            known |= dict.fromkeys(_row_sources(folder, row["raw"]), names_of_row)
    owners: dict[Source, list[FoundScan]] = {}
    for scan in found.scans:
        for source in _sources(scan):
            owners.setdefault(source, []).append(scan)
    absent = [scan for scan in found.scans if known.keys().isdisjoint(_sources(scan))]
    require_distinct(folder, absent, rows, sample)
    new, there, conflicts = [], [], []
    for scan in found.scans:
        names_of_scan = f"{scan.sample} {scan.scan} {scan.rotation}"
        place = scan.where or scan.raw
        same = next((known[source] for source in _sources(scan) if source in known), None)
        others = [
            other for source in _sources(scan) for other in owners[source] if other is not scan
        ]
        taken = names.get((scan.sample, scan.scan, scan.rotation))
        if others:
            why = f"its frames {scan.raw} are also frames of {others[0].where or others[0].raw}"
            conflicts.append(Unmatched(place, f"{why}; give the frames of each scan with --raw"))
        elif same is not None:
            there.append((place, same))
        elif taken is not None:
            why = f"{names_of_scan} is in the table of scans with other frames, {taken}"
            conflicts.append(Unmatched(place, f"{why}; give --sample, or rename the row there"))
        else:
            new.append(scan)
    return new, there, conflicts


def _sources(scan: "FoundScan") -> list[Source]:
    """Return the sources of the frames of a scan."""
    parts = scan.datasets if scan.light and scan.datasets else ((scan.raw, ""), *scan.datasets)
    return [_source(file, inside) for file, inside in parts]


def _source(file: str | Path, inside: str) -> Source:
    """Return the source of frames in a form for comparison: of a series the first image."""
    from hklflow.experiment.tables import is_series
    from hklflow.formats.series import find_files

    if is_series(Path(file).name):
        with suppress(HklflowError):  # reported when the series is read
            file = find_files(file, gaps=True)[0]
    return os.path.realpath(file), inside.strip("/")


def _row_sources(folder: Folder, raw: str) -> Iterator[Source]:
    """Yield the sources of the frames of a row; damaged light scan files are skipped."""
    from hklflow.cli.planned import parts
    from hklflow.formats.light import is_light, sources_of

    for part in parts(raw) if raw else ():
        path = folder.base / part
        if is_light(part) and path.is_file():
            try:
                for file, inside in sources_of(path):
                    yield _source(file, inside)
            except HklflowError:
                continue  # `hklflow check` reports a damaged file
        else:
            yield _source(path, "")


def write(
    folder: Folder, found: "Found", fresh: "list[FoundScan]", stated: Stated
) -> "list[Unmatched]":
    """Write the new scans, and return scans that could not be written, with the reason."""
    from hklflow.beamlines import Unmatched

    lost: list[Unmatched] = []
    with ExitStack() as made:
        rows: dict[str, list[dict[str, str]]] = {"samples": [], "scans": []}
        written = []
        for scan in fresh:
            try:
                raw = _light(folder, scan, made) if scan.light else _shown(scan.raw, folder)
            except HklflowError as error:
                lost.append(Unmatched(scan.where or scan.raw, str(error)))
                continue
            written.append(scan)
            rows["scans"].append(stated.scan_row(scan, raw))
        if not written:
            return lost
        known = {row["sample"] for row in read_table(folder.table("samples")).rows}
        rows["samples"] = [
            stated.sample_row(name, found.samples.get(name))
            for name in dict.fromkeys(scan.sample for scan in written)
            if name not in known
        ]
        kept = sorted({scan.sample for scan in written} & known)
        if kept and (stated.cell or stated.space_group or stated.formula):
            say(f"already in the table of samples, and stays as it is there: {', '.join(kept)}")
        values = list(_settings(folder, found, written))
        for scan_name, start in _orientations(folder, written, stated, made):
            values.append((["per_scan", scan_name, "orientation"], {"start": start}))
        folder.change({name: added for name, added in rows.items() if added}, values)
        made.pop_all()  # no error: keep the new files
    for name, added in rows.items():
        if added:
            say(f"{len(added)} row{'s' * (len(added) > 1)} added to {folder.table(name)}")
    for keys, inner in values:
        say(f"config: {'.'.join(keys)}: {', '.join(f'{k} = {v}' for k, v in inner.items())}")
    return lost


def _settings(
    folder: Folder, found: "Found", fresh: "list[FoundScan]"
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield keys and values to set in the configuration; existing values are kept."""
    from hklflow.experiment.config import value_in

    new = {f"{scan.sample}/{scan.scan}" for scan in fresh}
    settings = [([section], inner) for section, inner in found.general.items()]
    for scan_name, sections in found.settings.items():
        if scan_name in new:
            settings += [(["per_scan", scan_name, name], inner) for name, inner in sections.items()]
    data = folder.data()
    for keys, inner in settings:
        unset = {}
        for name, value in inner.items():
            exists, present = value_in(data, [*keys, name])
            if not exists:
                unset[name] = value
            elif present != value:
                say(f"config: {'.'.join([*keys, name])} is {present} and stays (found: {value})")
        if unset:
            yield keys, unset


def _shown(path: str, folder: Folder) -> str:
    """Return a path for the tables: relative if it is inside the experiment's folder."""
    absolute = Path(path).absolute()
    below = absolute.is_relative_to(folder.base)
    return str(absolute.relative_to(folder.base) if below else absolute)


def _restored(path: Path, made: ExitStack) -> None:
    """Restore the present state of a file if an error occurs later."""
    if path.exists():
        made.callback(path.write_bytes, path.read_bytes())
    else:
        made.callback(path.unlink, missing_ok=True)


def _light(folder: Folder, scan: "FoundScan", made: ExitStack) -> str:
    """Write the light scan file of a rotation; return its path relative to the experiment."""
    from hklflow.formats.light import SUFFIX, write_light
    from hklflow.formats.raw import is_hdf5

    path = folder.base / "raw" / f"{scan.sample}_{scan.scan}_{scan.rotation}{SUFFIX}"

    def linked(file: str) -> str:
        # A link to a file in the experiment is relative, so that the folder can be moved.
        absolute = Path(file).absolute()
        below = absolute.is_relative_to(folder.base)
        return os.path.relpath(absolute, path.parent) if below else str(absolute)

    datasets = [(linked(file), inside) for file, inside in scan.datasets]
    if is_hdf5(scan.raw) and not datasets:
        raise HklflowError(
            f"the beamline's plugin does not say where in {scan.raw} the frames are (`datasets` of "
            "FoundScan); report this to the maintainer of the plugin"
        )
    path.parent.mkdir(exist_ok=True)
    _restored(path, made)
    write_light(
        path,
        scan.header,
        scan.shape,
        datasets or linked(scan.raw),
        sample=scan.original[0] or scan.sample,
        source={"from": scan.where or scan.raw, "notes": "\n".join(scan.notes)},
    )
    return str(path.relative_to(folder.base))


def _orientations(
    folder: Folder, fresh: "list[FoundScan]", stated: Stated, made: ExitStack
) -> Iterator[tuple[str, str]]:
    """Write start orientations for parents without one; yield the scan and the file path."""
    from hklflow import geometry
    from hklflow.beamlines import rotation_of
    from hklflow.experiment.config import value_in

    scans: dict[str, list[FoundScan]] = {}
    for scan in fresh:
        if (stated.parent or scan.parent or scan.scan) == scan.scan and scan.ub is not None:
            scans.setdefault(f"{scan.sample}/{scan.scan}", []).append(scan)
    for scan_name, rotations in scans.items():
        path = folder.base / "config/orientations" / f"{scan_name.replace('/', '_')}.json"
        exists, start = value_in(folder.data(), ["per_scan", scan_name, "orientation", "start"])
        if exists or path.exists():
            say(
                f"{scan_name}: its start {start if exists else path} stays; what is found is left "
                "out"
            )
            continue
        described = {scan.rotation: rotation_of(scan.header) for scan in rotations}
        absent = [name for name, rotation in described.items() if rotation is None]
        if absent:
            say(
                f"{scan_name}: the orientation is left out, for the geometry of {absent[0]} is not "
                "known; see `hklflow model import`"
            )
            continue
        ub, group = rotations[0].ub, stated.space_group or rotations[0].space_group
        assert ub is not None
        content = {
            "source": rotations[0].where,
            "space_group": group,
            "UB": ub.tolist(),
            "rotations": {
                name: geometry.to_dict(rotation)
                for name, rotation in described.items()
                if rotation is not None
            },
        }
        path.parent.mkdir(exist_ok=True)
        _restored(path, made)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        yield scan_name, str(path.relative_to(folder.base))
