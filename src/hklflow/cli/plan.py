"""`hklflow scan plan`: a scan file that exists before its frames, and its row of planned scans."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import Folder, Table, experiment, read_table
from hklflow.cli.options import Directory

if TYPE_CHECKING:
    from hklflow.formats.header import Header
    from hklflow.formats.light import Links


@Parameter(name="*")
@dataclass(frozen=True)
class Plan:
    """What will be measured."""

    temperature: float | None = None
    """Temperature in K."""
    exposure: float | None = None
    """Exposure of a frame in seconds."""
    parent: str = ""
    """Scan of the same sample whose orientation this scan starts from. Default: the scan is its own
    parent."""
    calibration: str = ""
    """Name of a detector geometry in the configuration. Default: the geometry of the instrument."""
    run: int | None = None
    """Run number that the measurement will have."""
    proposal: str = ""
    """Proposal of the run, for a path by the template. Default: `data: proposal`."""


def plan_scan(
    sample: str,
    scan: str,
    /,
    *,
    rotation: str,
    instrument: Path,
    raw: str | None = None,
    dataset: tuple[str, ...] = ("/entry/data/data",),
    frames: int,
    goniometer: str,
    plan: Plan = Plan(),
    directory: Directory = Path(),
) -> None:
    """Write the scan file of a rotation before it is measured, and plan it.

    The scan file `raw/<sample>_<scan>_<rotation>.scan.nxs` has the instrument, the angles, the
    temperature and the number of frames, and links the frames, which need not exist yet. A row of
    `config/planned.tsv` lets `hklflow watch` add the scan as soon as all frames are on disk. The
    headers of the frames are then compared with the plan, and monitor, exposure and measured
    temperature are added to the scan file.

    Example: `hklflow scan plan quartz 100K --rotation r1 --instrument config/pilatus.instrument.nxs
    --raw raw/quartz_100K_r1_master.h5 --frames 3650 --goniometer "chi=0 phi=0:0.1" --temperature
    100 --parent 300K`

    Parameters
    ----------
    sample
        Name of a sample in the table of samples.
    scan
        Name of the scan, the same for all rotations of the scan.
    rotation
        Name of the rotation.
    instrument
        Instrument file (`hklflow instrument new`).
    raw
        HDF5 file of the frames, or pattern of an image series (`raw/quartz_####.cbf`), relative to
        the experiment's folder. Default: the file that the run (`--run`) will have by the template
        in the section `data` of the configuration.
    dataset
        Paths of the frames in the HDF5 file, in their order.
    frames
        Number of frames.
    goniometer
        Angles in degrees: `axis=degrees`, and `axis=start:step` for the scanned axis. Axes that are
        left out keep the angle of the instrument file.
    """
    from hklflow.formats.instrument import problems, read_instrument
    from hklflow.formats.light import SUFFIX, write_light
    from hklflow.formats.planned_scan import PLANNED

    folder = experiment(directory)
    if raw is None:
        if plan.run is None:
            raise HklflowError("give --raw, the file of the frames, or their run with --run")
        raw = folder.raw_of_run(plan.run, plan.proposal, planned=True)
    found = read_instrument(instrument)
    if wrong := problems(instrument, found):
        raise HklflowError(f"{instrument}: {'; '.join(wrong)}")
    header = _planned(found.header, frames, goniometer, plan)
    path = folder.base / "raw" / f"{sample}_{scan}_{rotation}{SUFFIX}"
    if path.exists():
        raise HklflowError(f"{path} exists; remove it, or give the rotation another name")
    row = {
        "sample": sample,
        "scan": scan,
        "temperature": "" if plan.temperature is None else f"{plan.temperature:.10g}",
        "parent": plan.parent,
        "rotation": rotation,
        "raw": str(path.relative_to(folder.base)),
        "calibration": plan.calibration,
        "frames": str(frames),
        "run": "" if plan.run is None else str(plan.run),
    }
    with folder.locked():
        table, content = _with_row(folder, row)
        path.parent.mkdir(exist_ok=True)
        write_light(
            path,
            header,
            found.shape,
            _links(folder, path, raw, dataset),
            sample=sample,
            source={"status": PLANNED, "frames": frames, "instrument": str(instrument)},
            instrument=None if found.calibrant is None else _relative(instrument, path, folder),
        )
        temporary = table.with_name(f".{table.name}.partial")
        try:
            temporary.write_bytes(content)
            temporary.replace(table)
        except BaseException:
            path.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
            raise
    print(f"{path} written; {sample} {scan} {rotation} added to {table}")


def filled(base: Path, raws: Iterable[str]) -> Iterator[str]:
    """Fill the planned scan files among raw files; yield a note on each.

    Raises
    ------
    HklflowError
        If a measurement contradicts its plan.
    """
    from hklflow.cli.planned import parts
    from hklflow.formats.planned_scan import fill, is_planned

    for path in (base / part for raw in raws for part in parts(raw)):
        if is_planned(path):
            yield f"{path.name} filled: {'; '.join(fill(path).notes)}"


def _planned(header: "Header", frames: int, goniometer: str, plan: Plan) -> "Header":
    """Return the header of the scan: the instrument with the planned angles."""
    import numpy as np

    from hklflow.experiment.tables import goniometer_settings
    from hklflow.geometry import plausible

    if frames < 1:
        raise HklflowError(f"--frames is {frames}; give the number of frames, 1 or more")
    faults: list[str] = []
    settings = goniometer_settings(goniometer, "--goniometer", faults)
    axes = header.goniometer
    assert axes is not None
    for name in settings:
        if name not in axes.names:
            faults.append(
                f"--goniometer: the instrument has no axis {name} (it has {', '.join(axes.names)})"
            )
    scanned = [name for name, (_, step) in settings.items() if step is not None]
    if not faults and len(scanned) != 1:
        faults.append(f"--goniometer {goniometer!r} has no scanned axis; write axis=start:step")
    for value, problem in (
        (plan.temperature, plausible.temperature_problem),
        (plan.exposure, plausible.exposure_problem),
    ):
        if value is not None and (sentence := problem(value)) is not None:
            faults.append(sentence)
    if faults:
        raise HklflowError("; ".join(faults))
    at = {name: np.radians(start) for name, (start, _) in settings.items()}
    angles = [at.get(name, angle) for name, angle in zip(axes.names, axes.angles, strict=True)]
    start, step = settings[scanned[0]]
    return replace(
        header,
        goniometer=replace(axes, angles=np.array(angles), scan=axes.names.index(scanned[0])),
        start_deg=start,
        step_deg=step,
        n_frames=frames,
        exposure_time=plan.exposure,
        temperature=plan.temperature,
    )


def _links(folder: Folder, path: Path, raw: str, dataset: tuple[str, ...]) -> "Links":
    from hklflow.experiment.tables import is_series

    target = _relative(folder.base / raw, path, folder)
    if is_series(raw):
        return target
    return [(target, inside) for inside in dataset]


def _relative(target: Path, path: Path, folder: Folder) -> str:
    """Return the path of a link: relative within the experiment, so that it can be moved."""
    absolute = target.absolute()
    within = absolute.is_relative_to(folder.base)
    return os.path.relpath(absolute, path.parent) if within else str(absolute)


def _with_row(folder: Folder, row: dict[str, Any]) -> tuple[Path, bytes]:
    """Return the table of planned scans and its new content; check the row."""
    from hklflow.cli.planned import pending
    from hklflow.experiment.tables import SCAN_COLUMNS, check_name

    problems: list[str] = []
    for name in ("sample", "scan", "rotation"):
        check_name(row[name], name, "the plan", problems)
    samples = [own["sample"] for own in read_table(folder.table("samples")).rows]
    if row["sample"] not in samples:
        known = ", ".join(samples) or "none"
        problems.append(f"there is no sample {row['sample']!r}; the table of samples has {known}")
    if problems:
        raise HklflowError("; ".join(problems))
    present, path = read_table(folder.table("scans")), folder.base / "config/planned.tsv"
    if path.is_file():
        table = read_table(path)
    else:
        # The columns of the table of scans, and the number of frames.
        extra = () if "frames" in present.columns else ("frames",)
        columns = (*present.columns, *extra) if present.columns else SCAN_COLUMNS
        table = Table(path, "\t".join(columns).encode() + b"\n", columns, ())
    key = tuple(row[name] for name in ("sample", "scan", "rotation"))
    for where, own in ((present.path, present.rows), (path, table.rows)):
        if key in {tuple(x[name] for name in ("sample", "scan", "rotation")) for x in own}:
            raise HklflowError(f"{' '.join(key)} is already in {where}")
    content = table.with_rows([row])
    planned = replace(table, rows=(*table.rows, row | {"#": str(len(table.rows) + 1)}))
    pending(planned, present, folder.base)  # raises if the columns do not fit
    return path, content
