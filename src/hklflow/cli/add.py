"""`hklflow sample add` and `hklflow scan add`: check a new row and append it to a table."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.base.values import CELL_NAMES
from hklflow.cli.cif import Cif
from hklflow.cli.folder import experiment
from hklflow.cli.options import Directory
from hklflow.cli.plan import filled


def add_sample(
    name: str,
    /,
    *,
    space_group: str | None = None,
    cell: tuple[float, float, float, float, float, float] | None = None,
    formula: str = "",
    cif: Cif = Cif(),
    parents: str = "",
    crystal_of: str = "",
    directory: Directory = Path(),
) -> None:
    """Add a sample, or another crystal of a sample, to the table of samples.

    Example: `hklflow sample add quartz --space-group "P 32 2 1" --cell 4.91 4.91 5.40 90 90 120
    --formula SiO2`, `hklflow sample add quartz --cif quartz.cif`, or `hklflow sample add quartz-b
    --crystal-of quartz`

    Parameters
    ----------
    name
        Name of the sample: letters, digits, `.`, `+` and `-`.
    space_group
        Hermann-Mauguin symbol, Hall symbol or number; `P 1` if the space group is not known.
        Default: the one in the CIF file.
    cell
        Approximate a, b, c in Å and alpha, beta, gamma in degrees. Default: the one in the CIF
        file; without file, search the cell.
    formula
        Chemical formula; a comment that is not used in the computing. Default: the one in the CIF
        file.
    parents
        Parent scan for each temperature range in K, such as `300K=160:400 100K=0:160`.
    crystal_of
        Sample of which this is another crystal. Its space group, cell and formula are used unless
        others are given, and its settings (`per_sample`) apply to the crystal, too.
    """
    from hklflow.geometry.symmetry import space_group as known

    crystal = cif.crystal(space_group, cell)
    if crystal is not None:
        space_group = space_group or crystal.space_group
        cell, formula = crystal.cell, formula or crystal.formula
    if space_group is None and not crystal_of:
        raise HklflowError(
            "the space group is not stated; enter --space-group (P 1 if it is not known), or a "
            "file with --cif"
        )
    if space_group is not None:
        known(space_group)
    row = {
        "sample": name,
        "space_group": space_group or "",
        "formula": formula,
        "parents": parents,
        "crystal_of": crystal_of,
    }
    if cell is not None:
        row |= {axis: f"{value:.10g}" for axis, value in zip(CELL_NAMES, cell, strict=True)}
    folder = experiment(directory)
    folder.add("samples", [row])
    print(f"{name} added to {folder.table('samples')}")


@Parameter(name="*")
@dataclass(frozen=True)
class Columns:
    """Optional columns of the table of scans."""

    temperature: float | None = None
    """Temperature in K."""
    parent: str = ""
    """Scan of the same sample whose orientation this scan starts from. Default: the scan is its own
    parent."""
    goniometer: str = ""
    """Goniometer angles in degrees: `axis=degrees`, and `axis=start:step` for the scanned axis."""
    calibration: str = ""
    """Name of a detector geometry in the configuration."""
    frames: int | None = None
    """Expected number of frames."""
    run: int | None = None
    """Run number; calibrations apply to ranges of run numbers."""
    date: str = ""
    """Date of the measurement, such as 2026-11-02; calibrations can apply to dates."""

    def texts(self) -> dict[str, str]:
        """Return the columns as texts for the table."""
        return {
            "temperature": "" if self.temperature is None else f"{self.temperature:.10g}",
            "parent": self.parent,
            "goniometer": self.goniometer,
            "calibration": self.calibration,
            "frames": "" if self.frames is None else str(self.frames),
            "run": "" if self.run is None else str(self.run),
            "date": self.date,
        }


def add_scan(
    sample: str,
    scan: str,
    /,
    *,
    rotation: str,
    raw: str | None = None,
    proposal: str = "",
    columns: Columns = Columns(),
    directory: Directory = Path(),
) -> None:
    """Add one rotation of a scan to the table of scans.

    The raw file must exist. Plan rotations that are not measured yet with `hklflow scan plan`, or
    enter them in `config/planned.tsv`, see `hklflow watch --help`.

    Example: `hklflow scan add quartz 100K --rotation r1 --raw raw/quartz_100K_r1.h5
    --temperature 100 --parent 300K --goniometer "chi=0 phi=0:0.1"`; `hklflow scan add quartz 100K
    --rotation r1 --run 1040`

    Parameters
    ----------
    sample
        Name of a sample in the table of samples.
    scan
        Name of the scan, the same for all rotations of the scan.
    rotation
        Name of the rotation.
    raw
        Raw HDF5 file or pattern of an image series, relative to the experiment's folder. Write
        ` + ` between repeated scans that are summed. Default: the file of the run (`--run`) by the
        template in the section `data` of the configuration.
    proposal
        Proposal of the run. Default: `data: proposal`, or any proposal that has the run.
    """
    folder = experiment(directory)
    if raw is None:
        if columns.run is None:
            raise HklflowError("give --raw, the raw file of the rotation, or its run with --run")
        raw = folder.raw_of_run(columns.run, proposal, planned=False)
        print(f"run {columns.run} is {raw}")
    elif proposal:
        raise HklflowError(
            "--raw names the file, so --proposal has no effect; leave one of them out"
        )
    if not raw.strip():
        raise HklflowError("--raw is empty; name the raw file of the rotation")
    row = {"sample": sample, "scan": scan, "rotation": rotation, "raw": raw, **columns.texts()}
    for note in filled(folder.base, [raw]):
        print(note)
    folder.add("scans", [row])
    print(f"{sample} {scan} {rotation} added to {folder.table('scans')}")
