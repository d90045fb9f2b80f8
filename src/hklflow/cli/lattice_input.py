"""Read cell and intensities for `hklflow lattice suggest`, from a scan or from files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hklflow.base.errors import HklflowError
from hklflow.base.system import no_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.bragg.structure_factors import Crystal
    from hklflow.bragg.suggest import Measured
    from hklflow.geometry.symmetry import SpaceGroup
    from hklflow.orientation.product import Orientation

    Columns = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]

_PEAK_ERROR = 0.1  # relative error of intensities without absorption, solid angle and scale


@dataclass(frozen=True)
class Source:
    """Data of `suggest`, the sample's name or None, and what they are and are not."""

    measured: "Measured"
    sample: str | None
    text: str
    notes: tuple[str, ...]


def files_of_scan(scan: str, directory: Path) -> list[Path]:
    """Return the orientation of a scan, and its best reflections: scaled, integrated, or peaks.

    Raises
    ------
    HklflowError
        If the scan is not in the table, or has no orientation yet.
    """
    from hklflow.cli.folder import experiment as folder_of
    from hklflow.experiment.config import load

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    sample, _, name = scan.partition("/")
    if (sample, name) not in experiment.scans:
        known = ", ".join("/".join(key) for key in experiment.scans) or "none"
        raise HklflowError(
            f"{scan!r} is neither a file nor a scan; write sample/scan: the table of scans has "
            f"{known}"
        )
    rotations = experiment.rotations(sample, name)

    def product(pattern: str, rotation: str = "") -> Path:
        return folder.base / pattern.format(sample=sample, scan=name, rotation=rotation)

    orientation = product(experiment.paths.scan("orientation.json"))
    if not orientation.exists():
        raise HklflowError(
            f"{orientation} is not there yet; make it with `snakemake`, or give a cell with --cell"
        )
    scaled = product(experiment.paths.scan("scaled.nxs"))
    if scaled.exists():
        return [orientation, scaled]
    for kind in ("reflections.nxs", "peaks.nxs"):
        paths = [product(experiment.paths.rotation(kind), rotation) for rotation in rotations]
        if all(path.exists() for path in paths):
            return [orientation, *paths]
    return [orientation]


def source(
    paths: Sequence[Path],
    cell: Sequence[float] | None,
    sigma: Sequence[float] | None,
    centring: str | None,
) -> Source:
    """Read the data of `suggest`.

    Parameters
    ----------
    paths : sequence of Path
        Orientation, and reflections of one kind.
    cell, sigma : sequence of 6 float or None
        Cell and its σ, instead of those in the files.
    centring : str or None
        Centring of the cell, instead of the one in the files.

    Raises
    ------
    HklflowError
        If a file is missing or of another kind, or no cell is given.
    """
    for path in paths:
        if (reason := no_file(path)) is not None:
            raise HklflowError(f"{path} {reason}; give orientation.json, or sample/scan")
    jsons = [path for path in paths if path.suffix == ".json"]
    if len(jsons) > 1:
        raise HklflowError(f"{jsons[1]} is a second orientation; give one")
    orientation = None
    if jsons:
        from hklflow import stage

        orientation = stage.read_orientation(jsons[0])
    start = None if orientation is None else _of_orientation(orientation)
    rest = [path for path in paths if path.suffix != ".json"]
    found = _with_reflections(rest, orientation, start, cell is not None)
    if cell is not None:
        found = _with_cell(found, cell, sigma)
    elif sigma is not None:
        raise HklflowError("--sigma is the error of --cell; give --cell too")
    if found is None:
        raise HklflowError("no cell is given: give orientation.json, sample/scan, or --cell")
    if centring is None:
        return found
    group = _lattice_group(centring)
    return replace(found, measured=replace(found.measured, group=group))


def _lattice_group(centring: str) -> "SpaceGroup":
    from hklflow.geometry import symmetry

    symbol = {"R": "R 3 :H"}.get(centring, f"{centring} 1")
    return symmetry.space_group(symbol)


def _of_orientation(orientation: "Orientation") -> Source:
    import numpy as np

    from hklflow.bragg.suggest import Measured

    notes: tuple[str, ...] = ()
    free = orientation.figures.get("free cell")
    if orientation.cell_constraints is None:
        cell, sigma = orientation.cell, orientation.cell_sigma
    elif free:
        cell, sigma = (np.asarray(free[key], dtype=np.float64) for key in ("cell", "sigma"))
    else:
        cell, sigma = orientation.cell, orientation.cell_sigma
        notes = (_constrained(orientation.cell_constraints),)
    measured = Measured(
        cell, sigma if np.all(sigma >= 0) and sigma.any() else None, orientation.group
    )
    text = f"cell of {orientation.sample} {orientation.scan}"
    return Source(measured, orientation.sample, text, notes)


def _constrained(symbol: str) -> str:
    return (
        f"the cell was refined with the constraints of {symbol}: a lower symmetry of the lattice "
        "cannot show in it"
    )


def _with_cell(
    found: Source | None, cell: Sequence[float], sigma: Sequence[float] | None
) -> Source:
    import numpy as np

    from hklflow.bragg.suggest import Measured
    from hklflow.geometry import lattice, symmetry

    lattice.metric(cell)
    if not all(0 < angle < 180 for angle in cell[3:]):
        raise HklflowError(
            f"--cell has the angles {', '.join(f'{x:g}' for x in cell[3:])}; give degrees between "
            "0 and 180"
        )
    errors = None if sigma is None else np.asarray(sigma, dtype=np.float64)
    if errors is not None and not np.all(errors >= 0):
        raise HklflowError(f"--sigma {' '.join(map(str, sigma or ()))}: give 6 numbers from 0 on")
    value = np.asarray(cell, dtype=np.float64)
    if found is None:
        measured = Measured(value, errors, symmetry.space_group("P 1"))
        return Source(measured, None, "given cell", ())
    return replace(found, measured=replace(found.measured, cell=value, sigma=errors), notes=())


def _with_reflections(
    paths: Sequence[Path], orientation: "Orientation | None", start: Source | None, has_cell: bool
) -> Source | None:
    """Return the data with the reflections of the files; all files must be of one kind."""
    if not paths:
        return start
    from hklflow.nexus.entry import open_entry

    kinds = []
    for path in paths:
        with open_entry(path) as entry:
            table = entry.get("reflections")
            if "peaks" in entry:
                kinds.append("peaks")
            elif table is None:
                raise HklflowError(
                    f"{path} has neither reflections nor peaks; give scaled.nxs, reflections.nxs, "
                    "structure_factors.nxs or peaks.nxs"
                )
            else:
                kinds.append(
                    "scaled"
                    if "sigma_counting" in table
                    else "factors"
                    if "amplitude" in table
                    else "integrated"
                )
    kind = kinds[0]
    if set(kinds) != {kind} or (kind in ("scaled", "factors") and len(paths) > 1):
        raise HklflowError(
            f"{', '.join(str(p) for p in paths)} are reflections of different kinds or scans; give "
            "one scaled.nxs or structure_factors.nxs, or one file of each rotation of a scan"
        )
    if kind == "scaled":
        return _of_scaled(paths[0], start)
    if kind == "factors":
        return _of_factors(paths[0], start)
    if kind == "peaks":
        if orientation is None or start is None:
            raise HklflowError(f"{paths[0]} has peaks without hkl; give its orientation.json too")
        return _of_peaks(paths, orientation, start)
    if start is None and not has_cell:
        raise HklflowError(f"{paths[0]} has no cell; give its orientation.json too, or --cell")
    return _of_integrated(paths, start)


def _of_crystal(path: Path, crystal: "Crystal", start: Source | None) -> Source:
    """Return the cell in a file of reflections, if there is no orientation."""
    import numpy as np

    from hklflow.bragg.suggest import Measured
    from hklflow.geometry import symmetry

    if start is not None:
        return start
    group = symmetry.space_group(crystal.space_group)
    sigma = np.array(crystal.cell_sigma)
    measured = Measured(np.array(crystal.cell), sigma if sigma.any() else None, group)
    notes = () if group.crystal_system == "triclinic" else (_constrained(group.symbol),)
    return Source(measured, crystal.sample, f"cell of {path}", notes)


def _joined(source: Source, columns: "Columns", text: str, *notes: str) -> Source:
    hkl, intensity, sigma = columns
    measured = replace(source.measured, hkl=hkl, intensity=intensity, sigma_intensity=sigma)
    return replace(
        source,
        measured=measured,
        text=f"{source.text}; {len(hkl)} {text}",
        notes=(*source.notes, *notes),
    )


def _of_scaled(path: Path, start: Source | None) -> Source:
    from hklflow.nexus import structure_factors

    file = structure_factors.read_scaled(path)
    part = file.scaled
    columns = part.hkl, part.intensity, part.sigma_counting
    return _joined(_of_crystal(path, file.crystal, start), columns, "scaled reflections")


def _of_factors(path: Path, start: Source | None) -> Source:
    from hklflow.geometry import symmetry
    from hklflow.nexus import structure_factors

    file = structure_factors.read_factors(path)
    group = symmetry.space_group(file.crystal.space_group)
    source = _of_crystal(path, file.crystal, start)
    columns = file.factors.hkl, file.factors.mean.intensity, file.factors.mean.sigma
    found = _joined(
        source,
        columns,
        "merged reflections",
        f"the reflections are means over {group.laue} without the absences of {group.symbol}: "
        "lower symmetries and these absences cannot be tested; give scaled.nxs instead",
    )
    return replace(found, measured=replace(found.measured, merged_in=group))


def _of_integrated(paths: Sequence[Path], start: Source | None) -> Source:
    import numpy as np

    from hklflow import nexus
    from hklflow.bragg.reflections import UNFIT
    from hklflow.bragg.suggest import Measured
    from hklflow.geometry import symmetry

    tables = [nexus.read_reflections(path) for path in paths]
    parts = []
    for table in tables:
        fit = (table.flags & int(UNFIT)) == 0
        profile = np.isfinite(table.intensity_profile)
        value = np.where(profile, table.intensity_profile, table.intensity_sum)
        error = np.where(profile, table.sigma_profile, table.sigma_sum)
        parts.append((table.hkl[fit], value[fit], error[fit]))
    hkl, value, error = (np.concatenate(column) for column in zip(*parts, strict=True))
    # --cell replaces this cell: `_with_reflections` requires one of the two.
    unit = np.array([1.0, 1, 1, 90, 90, 90])
    source = start or Source(
        Measured(unit, None, symmetry.space_group("P 1")), None, "given cell", ()
    )
    return _joined(
        source, (hkl, value, error), "integrated reflections", "the reflections are not scaled"
    )


def _of_peaks(paths: Sequence[Path], orientation: "Orientation", start: Source) -> Source:
    from hklflow.cli.lattice_peaks import observations

    columns = observations(paths, orientation)
    result = _joined(
        start,
        columns,
        "reflections that were found or predicted",
        "the intensities are those of the peak search, and 0 where no peak was found: weak "
        "reflections of a superlattice do not show; integrate the scan for a better answer",
    )
    return replace(result, measured=replace(result.measured, relative=_PEAK_ERROR))
