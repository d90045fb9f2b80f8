"""`hklflow import`: scans that an instrument wrote become rows of the tables.

The plugin finds and reads (`hklflow.beamlines`); here it is told, checked and written: light scan
files below ``raw/``, rows of both tables, starts of refinement below ``config/orientations/``, and
what belongs to a scan in the configuration. All of it or nothing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hklflow.cli.folder import Folder, experiment, read_table
from hklflow.errors import HklflowError

if TYPE_CHECKING:
    from hklflow.beamlines import Found, FoundSample, FoundScan

_CELL = ("a", "b", "c", "alpha", "beta", "gamma")


def import_scans(
    source: Path,
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    directory: Path = Path(),
    raw: str | None = None,
    scans: str = "",
    sample: str | None = None,
    space_group: str | None = None,
    cell: tuple[float, float, float, float, float, float] | None = None,
    formula: str = "",
    parent: str = "",
    calibration: str = "",
    monitor: str | None = None,
    attenuator: str | None = None,
    polarization: float | None = None,
    saturation: float | None = None,
    temperature: float | None = None,
    option: tuple[str, ...] = (),
    dry_run: Annotated[bool, Parameter(name=("--dry-run", "-n"), negative=())] = False,
) -> int:
    """Find scans in what an instrument wrote, and add them to the experiment.

    Raw data are linked, never copied or changed. What is in the tables already is left as it is,
    so that the command can be given again as data come in. What cannot be matched is told, with
    what it might be; exit code 2 if nothing at all was found.

    Example: `hklflow import run42.spec --from spec --sample PMN-PT --monitor Ion_Ch_2 --dry-run`

    Parameters
    ----------
    source
        File or folder to look in.
    from_
        What wrote it: `spec`, `nxmx`, `eiger`, `cbf`, `tiff`, `nxrefine`, or a beamline whose
        plugin is installed.
    directory
        Folder of the experiment.
    raw
        Where the frames are, if not where they usually are: a folder, or a pattern such as
        `images/x_S{scan}_####.tif`.
    scans
        Scans wanted, by the instrument's numbers or names: `839`, `12,15-20`; else all.
    sample
        Name of the sample, if not that in the files.
    space_group
        Space group of a new row of samples.
    cell
        Approximate cell of a new row of samples, in Å and degrees.
    formula
        Chemical formula of a new row of samples.
    parent
        Scan of the same sample from whose orientation all start; else what the files say.
    calibration
        Detector geometry of the configuration; else what the files say.
    monitor
        What counts the incident photons, by the instrument's name.
    attenuator
        What holds the attenuators' transmission, by the instrument's name.
    polarization
        Fraction of the intensity with the electric vector horizontal.
    saturation
        Counts from which a pixel is not to be believed.
    temperature
        Temperature in K of all scans found.
    option
        `name=value` of the plugin's own, see its page.
    dry_run
        Tell what would be imported, and write nothing.
    """
    from hklflow.beamlines import Request, beamline
    from hklflow.formats.raw import Header

    folder = experiment(directory)
    _require_possible(polarization, saturation, temperature)
    plugin = beamline(from_)
    if not source.exists():
        raise HklflowError(f"{source} does not exist; check the path")
    found = plugin.find(
        Request(
            source=source.resolve() if ".." in source.parts else source.absolute(),
            raw=raw,
            scans=_numbers(scans),
            sample=sample,
            monitor=monitor,
            attenuator=attenuator,
            facts=Header(polarization=polarization, saturation=saturation, temperature=temperature),
            options=_options(option, plugin.options, from_),
        )
    )
    _tell(found)
    fresh = _fresh(folder, found)
    if len(fresh) < len(found.scans):
        print(f"{len(found.scans) - len(fresh)} of them are in the table of scans already")
    if not found.scans:
        raise HklflowError(
            f"no scan found in {source}"
            + (f"; {len(found.unmatched)} could not be matched" if found.unmatched else "")
        )
    stated = _Stated(space_group, cell, formula, parent, calibration)
    if dry_run or not fresh:
        print("nothing is written")
        return 0
    _write(folder, found, fresh, stated)
    return 0


def _require_possible(
    polarization: float | None, saturation: float | None, temperature: float | None
) -> None:
    """Refuse what no experiment has, before it stands in files and tables."""
    import math

    from hklflow.core import plausible

    if polarization is not None and not 0 <= polarization <= 1:
        raise HklflowError(
            f"--polarization {polarization:g} is no fraction; give 0 to 1 (0.5: unpolarised)"
        )
    if saturation is not None and not 0 < saturation < math.inf:
        raise HklflowError(f"--saturation {saturation:g} is no number of counts; give one above 0")
    if temperature is not None and (told := plausible.temperature_problem(temperature)):
        raise HklflowError(f"--temperature: {told.partition(':')[0]}; give it in K")


class _Stated:
    """What the user states of all rows."""

    def __init__(
        self,
        space_group: str | None,
        cell: Sequence[float] | None,
        formula: str,
        parent: str,
        calibration: str,
    ) -> None:
        self.space_group, self.cell, self.formula = space_group, cell, formula
        self.parent, self.calibration = parent, calibration

    def sample_row(self, name: str, found: "FoundSample | None") -> dict[str, str]:
        """Row of the table of samples."""
        cell = self.cell or (found.cell if found else None)
        row = {
            "sample": name,
            "space_group": self.space_group or (found and found.space_group) or "P 1",
            "formula": self.formula or (found.formula if found else ""),
        }
        given = {} if cell is None else dict(zip(_CELL, cell, strict=True))
        return row | {axis: f"{value:.10g}" for axis, value in given.items()}


def _numbers(text: str) -> frozenset[str] | None:
    """Read ``12,15-20``; what is no range of numbers is a name."""
    if not text.strip():
        return None
    found: set[str] = set()
    for item in (part.strip() for part in text.split(",")):
        first, _, last = item.partition("-")
        if first.isdecimal() and last.isdecimal():
            if int(last) < int(first) or int(last) - int(first) > 100_000:
                raise HklflowError(f"--scans {item!r} is no range of scans; write first-last")
            found |= {str(number) for number in range(int(first), int(last) + 1)}
        elif item:
            found.add(item)
        else:
            raise HklflowError(f"--scans {text!r} has an empty item; write such as 12,15-20")
    return frozenset(found)


def _options(given: Sequence[str], known: Mapping[str, str], plugin: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or name not in known or name in options:
            listed = "; ".join(f"{key}: {told}" for key, told in known.items()) or "none"
            raise HklflowError(
                f"--option {item!r} is not one `name=value` of {plugin}'s own options ({listed})"
            )
        options[name] = value
    return options


def _fresh(folder: Folder, found: "Found") -> "list[FoundScan]":
    """Scans that are not in the table yet, under whatever name: a person may have given another."""
    rows = read_table(folder.table("scans")).rows
    names = {(row["sample"], row["scan"], row["rotation"]) for row in rows}
    raws = {row["raw"] for row in rows}
    return [
        one
        for one in found.scans
        if (one.sample, one.scan, one.rotation) not in names
        and (_light_name(one) if one.light else _shown(one.raw, folder)) not in raws
    ]


def _light_name(one: "FoundScan") -> str:
    from hklflow.formats.light import SUFFIX

    return f"raw/{one.sample}_{one.scan}_{one.rotation}{SUFFIX}"


def _tell(found: "Found") -> None:
    """Print what was found and what was not, for a person to check."""
    for one in found.scans:
        print(f"{one.sample} {one.scan} {one.rotation}: {one.where or one.raw}: {_facts(one)}")
        for note in one.notes:
            print(f"  {note}")
    for lost in found.unmatched:
        print(f"not matched: {lost.what}: {lost.why}")
        for candidate in lost.candidates:
            print(f"  perhaps {candidate}")
    for note in found.notes:
        print(note)


def _facts(one: "FoundScan") -> str:
    header = one.header
    names = None if header.goniometer is None else header.goniometer.names
    axis = "scan" if header.goniometer is None or names is None else names[header.goniometer.scan]
    parts = [
        None if header.n_frames is None else f"{header.n_frames} frames",
        None
        if header.start_deg is None or header.step_deg is None
        else f"{axis} {header.start_deg:g} + {header.step_deg:.6g} x n degrees",
        None if header.temperature is None else f"{header.temperature:g} K",
        None if header.wavelength is None else f"{header.wavelength:.6g} Å",
        None if header.exposure_time is None else f"{header.exposure_time:g} s",
        None if header.monitor is None else "monitor",
        None if header.transmission is None else "attenuators",
        None if one.ub is None else "orientation",
    ]
    return ", ".join(part for part in parts if part) or "as its header says"


def _write(folder: Folder, found: "Found", fresh: "list[FoundScan]", stated: _Stated) -> None:
    known = {row["sample"] for row in read_table(folder.table("samples")).rows}
    samples = [
        stated.sample_row(name, found.samples.get(name))
        for name in dict.fromkeys(one.sample for one in fresh)
        if name not in known
    ]
    rows: dict[str, list[dict[str, str]]] = {"samples": samples} if samples else {}
    rows["scans"] = []
    values = list(_settings(folder, found, fresh))
    with ExitStack() as made:
        for one in fresh:
            raw = _light(folder, one, made) if one.light else _shown(one.raw, folder)
            rows["scans"].append(_row(one, raw, stated))
        for scan, start in _orientations(folder, fresh, stated, made):
            values.append((["per_scan", scan, "orientation"], {"start": start}))
        folder.change(rows, values)
        made.pop_all()  # nothing failed: what was made stays
    for name, added in rows.items():
        print(f"{len(added)} rows added to {folder.table(name)}")
    for keys, inner in values:
        print(f"config: {'.'.join(keys)}: {', '.join(f'{k} = {v}' for k, v in inner.items())}")
    print("Next: `hklflow check`, then `snakemake -n`.")


def _row(one: "FoundScan", raw: str, stated: _Stated) -> dict[str, str]:
    temperature = one.header.temperature
    return {
        "sample": one.sample,
        "scan": one.scan,
        "temperature": "" if temperature is None else f"{temperature:.10g}",
        "parent": stated.parent or one.parent,
        "rotation": one.rotation,
        "raw": raw,
        "goniometer": one.goniometer,
        "calibration": stated.calibration or one.calibration,
        "frames": "" if one.header.n_frames is None else str(one.header.n_frames),
        "run": "",
    }


def _settings(
    folder: Folder, found: "Found", fresh: "list[FoundScan]"
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Keys and values of the configuration; what a person set stays."""
    from hklflow.config import value_in

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
                print(f"config: {'.'.join([*keys, name])} is {own} and stays (found: {value})")
        if left:
            yield keys, left


def _shown(path: str, folder: Folder) -> str:
    """Path as the tables have it: from the experiment's folder if it lies below it."""
    absolute = Path(path).absolute()
    below = absolute.is_relative_to(folder.base)
    return str(absolute.relative_to(folder.base) if below else absolute)


def _light(folder: Folder, one: "FoundScan", made: ExitStack) -> str:
    """Write the light scan file of a rotation; gives its path from the experiment's folder."""
    from hklflow.formats.light import write_light
    from hklflow.formats.raw import is_hdf5

    path = folder.base / _light_name(one)

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
    made.callback(path.unlink, missing_ok=True)
    write_light(
        path,
        one.header,
        one.shape,
        datasets or linked(one.raw),
        sample=one.sample,
        source={"from": one.where or one.raw, "notes": "\n".join(one.notes)},
    )
    return str(path.relative_to(folder.base))


def _orientations(
    folder: Folder, fresh: "list[FoundScan]", stated: _Stated, made: ExitStack
) -> Iterator[tuple[str, str]]:
    """Write the starts of parents; gives scan and path."""
    import json

    from hklflow.core import geometry

    scans: dict[str, list[FoundScan]] = {}
    for one in fresh:
        if (stated.parent or one.parent or one.scan) == one.scan and one.ub is not None:
            scans.setdefault(f"{one.sample}/{one.scan}", []).append(one)
    for scan, rotations in scans.items():
        described = {one.rotation: _rotation(one) for one in rotations}
        absent = [name for name, rotation in described.items() if rotation is None]
        if absent:
            print(
                f"{scan}: the orientation is left out, for the geometry of {absent[0]} is not "
                "known; see `hklflow model import`"
            )
            continue
        path = folder.base / "config/orientations" / f"{scan.replace('/', '_')}.json"
        path.parent.mkdir(exist_ok=True)
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
        made.callback(path.unlink, missing_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        yield scan, str(path.relative_to(folder.base))


def _rotation(one: "FoundScan") -> Any:
    """Geometry of a rotation, if all of it is known."""
    import numpy as np

    from hklflow.core.geometry import Beam, Rotation, Scan

    h = one.header
    if (
        h.wavelength is None
        or h.detector is None
        or h.goniometer is None
        or h.start_deg is None
        or h.step_deg is None
        or h.n_frames is None
    ):
        return None
    polarization = 0.5 if h.polarization is None else h.polarization
    return Rotation(
        Beam(h.wavelength, polarization),
        h.detector,
        h.goniometer,
        Scan(float(np.radians(h.start_deg)), float(np.radians(h.step_deg)), h.n_frames),
    )
