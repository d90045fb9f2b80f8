"""What `hklflow import` writes: light scan files, rows, starts of refinement, settings of scans.

All of it or nothing, under the lock of the tables: what was there before a failure is there after.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from hklflow.base.errors import HklflowError, printable
from hklflow.base.values import CELL_NAMES
from hklflow.cli.folder import Folder, commented_rows, read_table

if TYPE_CHECKING:
    from hklflow.beamlines import Found, FoundSample, FoundScan, Unmatched


Source = tuple[str, str]
"""Frames: a file or the pattern of a series, and the path in an HDF5 file (or nothing)."""


def say(line: str) -> None:
    """Print a line in which files and plugins may have their say."""
    print(printable(line))


@Parameter(name="*")
@dataclass(frozen=True)
class Stated:
    """Options that the user states for all rows; empty or None: not stated."""

    space_group: str | None = None
    """Space group of a new row of samples."""
    cell: tuple[float, float, float, float, float, float] | None = None
    """Approximate cell of a new row of samples, in Å and degrees."""
    formula: str = ""
    """Chemical formula of a new row of samples."""
    parent: str = ""
    """Scan of the same sample from whose orientation all start; else what the files say."""
    calibration: str = ""
    """Detector geometry of the configuration; else what the files say."""

    def sample_row(self, name: str, found: "FoundSample | None") -> dict[str, str]:
        """Row of the table of samples."""
        cell = self.cell or (found.cell if found else None)
        row = {
            "sample": name,
            "space_group": self.space_group or (found and found.space_group) or "P 1",
            "formula": self.formula or (found.formula if found else ""),
        }
        given = {} if cell is None else dict(zip(CELL_NAMES, cell, strict=True))
        return row | {axis: f"{value:.10g}" for axis, value in given.items()}

    def scan_row(self, one: "FoundScan", raw: str) -> dict[str, str]:
        """Row of the table of scans."""
        temperature = one.header.temperature
        return {
            "sample": one.sample,
            "scan": one.scan,
            "temperature": "" if temperature is None else f"{temperature:.10g}",
            "parent": self.parent or one.parent,
            "rotation": one.rotation,
            "raw": raw,
            "goniometer": one.goniometer,
            "calibration": self.calibration or one.calibration,
            "frames": "" if one.header.n_frames is None else str(one.header.n_frames),
            "run": "",
        }


def sort_out(
    folder: Folder, found: "Found", sample: str | None
) -> "tuple[list[FoundScan], list[tuple[str, str]], list[Unmatched]]":
    """Tell what is new by its frames; names alone do not say that a scan is there.

    Parameters
    ----------
    sample : str or None
        Name of the sample that the user gives.

    Returns
    -------
    new : list of FoundScan
    there : list of (str, str)
        Scans that the table has, and under which names; those that a person took out are behind
        a ``#``.
    conflicts : list of Unmatched
        Names that other frames have, and frames that several scans would have.

    Raises
    ------
    HklflowError
        If what is not there would get one name for what the files call differently.
    """
    from hklflow.beamlines import Unmatched
    from hklflow.cli.import_names import require_distinct

    path = folder.table("scans")
    rows = read_table(path).rows
    names = {(row["sample"], row["scan"], row["rotation"]): row["raw"] for row in rows}
    known: dict[Source, str] = {}
    for mark, group in ((" behind a #", commented_rows(path)), ("", rows)):
        for row in group:
            told = f"{row['sample']} {row['scan']} {row['rotation']}{mark}"
            known |= dict.fromkeys(_row_sources(folder, row["raw"]), told)
    owners: dict[Source, list[FoundScan]] = {}
    for one in found.scans:
        for source in _sources(one):
            owners.setdefault(source, []).append(one)
    absent = [one for one in found.scans if known.keys().isdisjoint(_sources(one))]
    require_distinct(folder, absent, rows, sample)
    new, there, conflicts = [], [], []
    for one in found.scans:
        own = f"{one.sample} {one.scan} {one.rotation}"
        told = one.where or one.raw
        same = next((known[source] for source in _sources(one) if source in known), None)
        others = [other for source in _sources(one) for other in owners[source] if other is not one]
        taken = names.get((one.sample, one.scan, one.rotation))
        if others:
            why = f"its frames {one.raw} would be those of {others[0].where or others[0].raw} too"
            conflicts.append(Unmatched(told, f"{why}; name the frames of each by --raw"))
        elif same is not None:
            there.append((told, same))
        elif taken is not None:
            why = f"{own} is in the table of scans with other frames, {taken}"
            conflicts.append(Unmatched(told, f"{why}; give --sample, or rename the row there"))
        else:
            new.append(one)
    return new, there, conflicts


def _sources(one: "FoundScan") -> list[Source]:
    """Frames of a found scan."""
    given = one.datasets if one.light and one.datasets else ((one.raw, ""), *one.datasets)
    return [_source(file, inside) for file, inside in given]


def _source(file: str | Path, inside: str) -> Source:
    """Frames in a form that can be compared: a series by its first image, whatever its pattern."""
    from hklflow.experiment.tables import is_series
    from hklflow.formats.series import find_files

    if is_series(Path(file).name):
        with suppress(HklflowError):  # who reads it tells what is wrong
            file = find_files(file, gaps=True)[0]
    return os.path.realpath(file), inside.strip("/")


def _row_sources(folder: Folder, raw: str) -> Iterator[Source]:
    """Frames of a row of the table, as far as they can be told."""
    from hklflow.cli.planned import parts
    from hklflow.formats.light import is_light, sources_of

    for part in parts(raw) if raw else ():
        path = folder.base / part
        if is_light(part) and path.is_file():
            try:
                for file, inside in sources_of(path):
                    yield _source(file, inside)
            except HklflowError:
                continue  # `hklflow check` tells of a damaged file
        else:
            yield _source(path, "")


def write(
    folder: Folder, found: "Found", fresh: "list[FoundScan]", stated: Stated
) -> "list[Unmatched]":
    """Write everything; gives scans that could not be written, with the reason."""
    from hklflow.beamlines import Unmatched

    lost: list[Unmatched] = []
    with ExitStack() as made:
        rows: dict[str, list[dict[str, str]]] = {"samples": [], "scans": []}
        written = []
        for one in fresh:
            try:
                raw = _light(folder, one, made) if one.light else _shown(one.raw, folder)
            except HklflowError as error:
                lost.append(Unmatched(one.where or one.raw, str(error)))
                continue
            written.append(one)
            rows["scans"].append(stated.scan_row(one, raw))
        if not written:
            return lost
        known = {row["sample"] for row in read_table(folder.table("samples")).rows}
        rows["samples"] = [
            stated.sample_row(name, found.samples.get(name))
            for name in dict.fromkeys(one.sample for one in written)
            if name not in known
        ]
        values = list(_settings(folder, found, written))
        for scan, start in _orientations(folder, written, stated, made):
            values.append((["per_scan", scan, "orientation"], {"start": start}))
        folder.change({name: added for name, added in rows.items() if added}, values)
        made.pop_all()  # nothing failed: what was made stays
    for name, added in rows.items():
        if added:
            say(f"{len(added)} row{'s' * (len(added) > 1)} added to {folder.table(name)}")
    for keys, inner in values:
        say(f"config: {'.'.join(keys)}: {', '.join(f'{k} = {v}' for k, v in inner.items())}")
    return lost


def _settings(
    folder: Folder, found: "Found", fresh: "list[FoundScan]"
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Keys and values of the configuration; what a person set stays."""
    from hklflow.experiment.config import value_in

    new = {f"{one.sample}/{one.scan}" for one in fresh}
    wanted = [([section], inner) for section, inner in found.general.items()]
    for scan, sections in found.settings.items():
        if scan in new:
            wanted += [(["per_scan", scan, name], inner) for name, inner in sections.items()]
    data = folder.data()
    for keys, inner in wanted:
        left = {}
        for name, value in inner.items():
            there, own = value_in(data, [*keys, name])
            if not there:
                left[name] = value
            elif own != value:
                say(f"config: {'.'.join([*keys, name])} is {own} and stays (found: {value})")
        if left:
            yield keys, left


def _shown(path: str, folder: Folder) -> str:
    """Path as the tables have it: from the experiment's folder if it lies below it."""
    absolute = Path(path).absolute()
    below = absolute.is_relative_to(folder.base)
    return str(absolute.relative_to(folder.base) if below else absolute)


def _restored(path: Path, made: ExitStack) -> None:
    """Put back what stands there now, or nothing, unless all goes well."""
    if path.exists():
        made.callback(path.write_bytes, path.read_bytes())
    else:
        made.callback(path.unlink, missing_ok=True)


def _light(folder: Folder, one: "FoundScan", made: ExitStack) -> str:
    """Write the light scan file of a rotation; gives its path from the experiment's folder."""
    from hklflow.formats.light import SUFFIX, write_light
    from hklflow.formats.raw import is_hdf5

    path = folder.base / "raw" / f"{one.sample}_{one.scan}_{one.rotation}{SUFFIX}"

    def linked(file: str) -> str:
        # A link from within the experiment moves with it.
        absolute = Path(file).absolute()
        below = absolute.is_relative_to(folder.base)
        return os.path.relpath(absolute, path.parent) if below else str(absolute)

    datasets = [(linked(file), inside) for file, inside in one.datasets]
    if is_hdf5(one.raw) and not datasets:
        raise HklflowError(
            f"the beamline's plugin does not say where in {one.raw} the frames are (`datasets` of "
            "FoundScan); report it to whoever keeps the plugin"
        )
    path.parent.mkdir(exist_ok=True)
    _restored(path, made)
    write_light(
        path,
        one.header,
        one.shape,
        datasets or linked(one.raw),
        sample=one.original[0] or one.sample,
        source={"from": one.where or one.raw, "notes": "\n".join(one.notes)},
    )
    return str(path.relative_to(folder.base))


def _orientations(
    folder: Folder, fresh: "list[FoundScan]", stated: Stated, made: ExitStack
) -> Iterator[tuple[str, str]]:
    """Write the starts of parents that have none; gives scan and path."""
    from hklflow import geometry
    from hklflow.beamlines import rotation_of
    from hklflow.experiment.config import value_in

    scans: dict[str, list[FoundScan]] = {}
    for one in fresh:
        if (stated.parent or one.parent or one.scan) == one.scan and one.ub is not None:
            scans.setdefault(f"{one.sample}/{one.scan}", []).append(one)
    for scan, rotations in scans.items():
        path = folder.base / "config/orientations" / f"{scan.replace('/', '_')}.json"
        there, own = value_in(folder.data(), ["per_scan", scan, "orientation", "start"])
        if there or path.exists():
            say(f"{scan}: its start {own if there else path} stays; what is found is left out")
            continue
        described = {one.rotation: rotation_of(one.header) for one in rotations}
        absent = [name for name, rotation in described.items() if rotation is None]
        if absent:
            say(
                f"{scan}: the orientation is left out, for the geometry of {absent[0]} is not "
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
        yield scan, str(path.relative_to(folder.base))
