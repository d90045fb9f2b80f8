"""`hklflow peaks list`: the peaks of a scan as a table, to choose the peaks of a refinement."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.options import Directory
from hklflow.cli.peaks import Measured, named
from hklflow.cli.publishing import published

if TYPE_CHECKING:
    from hklflow.geometry import Rotation
    from hklflow.images.scan import RotationScan
    from hklflow.orientation.product import Orientation
    from hklflow.peaks.table import PeakTable

_MORE = ("intensity", "sigma", "significance", "two_theta", "q", "flags")
_INDEXED = ("h", "k", "l", "deviation")


def list_peaks(
    scan: str,
    /,
    *,
    deviation: float | None = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    force: bool = False,
    directory: Directory = Path(),
) -> None:
    """List the peaks of a scan: place, intensity, scattering angle, hkl.

    Lines of this table, with its first line, are the file of `orientation: leave_out_peaks`: the
    peaks in it take no part in indexing and refinement. Frames are raw frames and pixels are those
    of the measured frames (the middle of the first frame and the centre of the first pixel are
    0.5). hkl are those of the refined orientation, once there is one.

    Example: `hklflow peaks list quartz/100K --deviation 0.15 -o config/odd_peaks.tsv`

    Parameters
    ----------
    scan
        `sample/scan`, or `sample/scan/rotation`.
    deviation
        List only peaks with an index that deviates more than this from an integer.
    output
        File to write. Default: print the table.
    force
        Overwrite an existing file.
    """
    from hklflow.cli.folder import experiment as folder_of
    from hklflow.experiment.config import load
    from hklflow.stage import tags

    if deviation is not None and not 0 <= deviation < 0.5:
        raise HklflowError(f"--deviation is {deviation:g}; give a number from 0 to below 0.5")
    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    found = Measured(folder, experiment, *named(scan, experiment))
    lines = list(_lines(found, deviation))
    diagnosis = found.diagnosis("scan.nxs", "peaks.nxs")
    if output is None:
        if diagnosis:
            print(f"warning: {scan} is diagnostic ({diagnosis})", file=sys.stderr)
        sys.stdout.write("\n".join(lines) + "\n")
        return

    tags.require_name(output, Path(scan), diagnosis)

    def write(path: Path) -> tuple[str, ...]:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if diagnosis:
            tags.write(path, [diagnosis], ".tsv")
        return (f"{len(lines) - 1} peaks",)

    published([(output, write)], force)


def _lines(found: Measured, deviation: float | None) -> Iterator[str]:
    from hklflow import nexus, stage
    from hklflow.stage.peak_choice import COLUMNS

    path = found.folder.base / found.product(found.experiment.paths.scan("orientation.json"))
    orientation = stage.read_orientation(path) if path.exists() else None
    if orientation is None and deviation is not None:
        raise HklflowError(
            f"{path} is not there yet, so the peaks have no hkl; make it with `snakemake`, or "
            "leave out --deviation"
        )
    yield "\t".join((*COLUMNS, *_MORE, *(_INDEXED if orientation else ())))
    tables = [nexus.read_peaks(path) for path in found.made("peaks.nxs")]
    for name, scan, table in zip(found.rotations, found.scans, tables, strict=True):
        refined = orientation.rotation(name) if orientation else scan.rotation
        for row in _rows(scan, table, orientation, refined, deviation):
            yield "\t".join((found.sample, found.scan, name, *row))


def _rows(
    scan: "RotationScan",
    table: "PeakTable",
    orientation: "Orientation | None",
    rotation: "Rotation",
    deviation: float | None,
) -> Iterator[tuple[str, ...]]:
    import numpy as np

    from hklflow.peaks.table import PeakFlag
    from hklflow.stage.orientation import choice

    columns = [(column, ".3f") for column in choice.place(scan, table)]
    columns += [(table.intensity, ".6g"), (np.sqrt(table.var_intensity), ".4g")]
    columns += [(table.significance, ".4g"), (choice.two_theta(scan, table), ".4f")]
    columns += [(choice.q_length(scan, table), ".5f")]
    rows = list(range(len(table)))
    indices: list[tuple[str, ...]] = [()] * len(table)
    if orientation is not None:
        hkl = rotation.hkl(orientation.ub, table.frame, table.slow, table.fast)
        whole = np.rint(hkl)
        away = np.abs(hkl - whole).max(axis=1, initial=0)
        indices = [
            (*(f"{i:.0f}" for i in row + 0.0), f"{far:.3f}")
            for row, far in zip(whole, away, strict=True)
        ]
        rows = np.flatnonzero(away > (-1 if deviation is None else deviation)).tolist()
    for i in rows:
        flags = ",".join(str(flag.name).lower() for flag in PeakFlag if table.flags[i] & flag)
        yield (*(format(column[i], form) for column, form in columns), flags, *indices[i])
