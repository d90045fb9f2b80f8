"""Index and refine with DIALS as the engine.

All rotations of a scan are in one experiment list. Indexing uses one crystal for all rotations. If
the goniometer heads are refined, refinement uses one crystal for each rotation, with a common cell.
This corresponds to the model of `geometry.parameters`, where different orientations are
misorientations of the head. The beam is fixed, because position and rotation of the detector have
the same effect.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.dials.frames import flat
from hklflow.dials.programs import Dials
from hklflow.geometry import Rotation, symmetry
from hklflow.geometry.model import Model, with_one_crystal
from hklflow.orientation import evaluation, refinement
from hklflow.peaks.table import PeakTable

Floats = NDArray[np.float64]

_IMPORTED, _STRONG = "imported.expt", "strong.refl"
_INDEXED, _INDEXED_REFL = "indexed.expt", "indexed.refl"
_REFINED, _REFINED_REFL = "refined.expt", "refined.refl"
_MAX_CYCLES = 4  # largest number of cycles of refinement and indexing
_ONE_CELL = 1e-6  # largest relative difference of equal cells, due to the digits in a file
_SETTLED = 0.002  # converged if the indices of a smaller fraction of peaks change


def on_plane(rotation: Rotation, table: PeakTable) -> PeakTable:
    """Return the peaks at positions on one grid of pixels, the detector that DIALS gets."""
    modules = rotation.detector.modules
    if modules is None:
        return table
    slow, fast = modules.displaced(table.slow, table.fast)
    return replace(table, slow=slow, fast=fast)


def index(
    dials: Dials,
    rotations: Sequence[Rotation],
    tables: Sequence[PeakTable],
    group: symmetry.SpaceGroup,
    cell: ArrayLike | None,
    free: Sequence[str],
    folder: Path,
) -> tuple[list[Rotation], Floats]:
    """Find the lattice with `dials.index`.

    Parameters
    ----------
    dials : Dials
    rotations, tables
        Geometry and peaks of all rotations.
    group : SpaceGroup
    cell : (6,) array or None
        Expected cell; None if it is not known.
    free : sequence of str
        Names from `geometry.parameters.GROUPS`; `dials.index` may refine these parameters.
    folder : Path
        Folder in which DIALS runs.

    Returns
    -------
    rotations : list of Rotation
        Geometry with the detector that DIALS refined with one crystal for all rotations.
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π, in a setting of DIALS.

    Raises
    ------
    HklflowError
        If DIALS finds no lattice of this group and cell.
    """
    _write(folder, _IMPORTED, _STRONG, rotations, tables)
    arguments = [_IMPORTED, _STRONG, "joint_indexing=True", f"space_group={_hall(group)}"]
    if cell is not None:
        numbers = ",".join(f"{x:.6g}" for x in np.asarray(cell, dtype=np.float64))
        arguments.append(f"unit_cell={numbers}")
    arguments += [*_held(free), f"output.experiments={_INDEXED}"]
    arguments.append(f"output.reflections={_INDEXED_REFL}")
    dials.run("dials.index", arguments, folder, _INDEXED, _INDEXED_REFL)
    return _read(folder / _INDEXED, rotations)


def refine(
    dials: Dials,
    rotations: Sequence[Rotation],
    tables: Sequence[PeakTable],
    ub: ArrayLike,
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    limits: refinement.RefinementLimits,
    folder: Path,
    start: Sequence[Rotation] | None = None,
) -> refinement.Refined:
    """Refine with `dials.refine`, and evaluate the result as for the refinement of hklflow.

    The indices are assigned by hklflow, and again after each refinement until they converge.

    Parameters
    ----------
    dials : Dials
    rotations, tables
        Starting geometry and peaks of all rotations.
    ub : (3, 3) array
        Starting orientation matrix, in the setting of ``group``.
    group : SpaceGroup
        Space group, with its constraints on the cell.
    free : sequence of str
        Names from `geometry.parameters.GROUPS` to refine.
    limits : RefinementLimits
    folder : Path
        Folder in which DIALS runs.
    start : sequence of Rotation, optional
        Geometry relative to which changes are reported; default: ``rotations``.

    Raises
    ------
    HklflowError
        If DIALS fails, and in the cases of `orientation.refinement.refine`.
    """
    peaks = [refinement.Peaks.of(table) for table in tables]
    current, refined_ub = list(rotations), np.asarray(ub, dtype=np.float64)
    indices = evaluation.assign(current, peaks, refined_ub, group, limits=limits)
    for _ in range(_MAX_CYCLES):
        current, refined_ub = _refine_once(dials, current, tables, indices, group, free, folder)
        previous = indices
        indices = evaluation.assign(current, peaks, refined_ub, group, limits=limits)
        changed = np.any(indices.hkl != previous.hkl, axis=1) & (indices.indexed | previous.indexed)
        if changed.mean() <= _SETTLED:
            break
    else:
        raise HklflowError(
            f"the indices of {changed.mean():.1%} of the peaks still changed after {_MAX_CYCLES} "
            "runs of dials.refine; index again, or refine fewer parameters"
        )
    return evaluation.evaluate(
        current,
        peaks,
        refined_ub,
        group,
        rotations if start is None else start,
        ub,
        free=free,
        limits=limits,
    )


def _refine_once(
    dials: Dials,
    rotations: Sequence[Rotation],
    tables: Sequence[PeakTable],
    assigned: evaluation.Assigned,
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    folder: Path,
) -> tuple[list[Rotation], Floats]:
    heads = "misorientation" in free
    _write(folder, _INDEXED, _INDEXED_REFL, rotations, tables, group, assigned, heads)
    arguments = [_INDEXED, _INDEXED_REFL, "scan_varying=False", *_held(free)]
    if heads:
        # The cell has the same change in all crystals: one entry for each free cell parameter.
        n = len(symmetry.cell_constraints(group).free)
        tied = "\n".join(
            f"refinement.parameterisation.crystal.unit_cell.constraints.parameter=g_param_{i}"
            for i in range(n)
        )
        (folder / "cell.phil").write_text(tied + "\n")
        arguments.append("cell.phil")
    arguments += [f"output.experiments={_REFINED}", f"output.reflections={_REFINED_REFL}"]
    dials.run("dials.refine", arguments, folder, _REFINED, _REFINED_REFL)
    return _read(folder / _REFINED, rotations)


def _held(free: Sequence[str]) -> list[str]:
    """Return the options of `dials.refine` that fix parameters."""
    arguments = ["beam.fix=all", "goniometer.fix=all"]
    parameters = {
        "detector_x": "Shift1",
        "detector_y": "Shift2",
        "detector_z": "Dist",
        "detector_rotation": "Tau1,Tau2,Tau3",
    }
    held = [name for group, name in parameters.items() if group not in free]
    if len(held) == len(parameters):
        return [*arguments, "detector.fix=all"]
    # `detector.fix=distance` would also fix two of the three rotations.
    return [*arguments, f"detector.fix_list={','.join(held)}"] if held else arguments


def _hall(group: symmetry.SpaceGroup) -> str:
    return f"Hall:{group.hall.strip()}"


def _write(
    folder: Path,
    experiments: str,
    reflections: str,
    rotations: Sequence[Rotation],
    tables: Sequence[PeakTable],
    group: symmetry.SpaceGroup | None = None,
    assigned: evaluation.Assigned | None = None,
    own_crystals: bool = False,
) -> None:
    """Write the files of all rotations; with crystals if the peaks are indexed."""
    from hklflow.formats.dials_expt import write_expt
    from hklflow.formats.dials_peaks import peaks_to_refl
    from hklflow.formats.dials_refl import Refl, write_refl

    planes = [flat(rotation) for rotation in rotations]
    models = [
        Model(
            plane,
            None if assigned is None else assigned.ub,
            None if group is None else group.hall,
            raw=str(folder / f"frames_{i}.nxs"),  # only a name, never opened
            name=f"rotation_{i}",
        )
        for i, plane in enumerate(planes)
    ]
    identifiers = write_expt(folder / experiments, models)
    if own_crystals:
        content = json.loads((folder / experiments).read_text())
        content["crystal"] *= len(planes)
        for i, experiment in enumerate(content["experiment"]):
            experiment["crystal"] = i
        (folder / experiments).write_text(json.dumps(content))
    starts = np.cumsum([0, *(len(table) for table in tables)])
    parts = []
    for i, (rotation, plane, table) in enumerate(zip(rotations, planes, tables, strict=True)):
        rows = slice(starts[i], starts[i + 1])
        parts.append(
            peaks_to_refl(
                on_plane(rotation, table),
                plane,
                experiment=i,
                identifier=identifiers[i],
                hkl=None if assigned is None else assigned.hkl[rows],
                indexed=None if assigned is None else assigned.indexed[rows],
            )
        )
    columns = {
        name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns
    }
    refl = Refl(columns, dict(enumerate(identifiers)), int(starts[-1]))
    if assigned is not None:
        refl = refl.select(assigned.indexed)
    write_refl(folder / reflections, refl)


def _read(path: Path, rotations: Sequence[Rotation]) -> tuple[list[Rotation], Floats]:
    """Return the rotations with the result of DIALS, and their common UB.

    Only detector and crystals are read from the file; modules, sensor and goniometer are unchanged.
    """
    from hklflow.formats.dials_expt import read_expt

    results = read_expt(path)
    if len(results) != len(rotations) or any(model.ub is None for model in results):
        raise HklflowError(
            f"DIALS kept {sum(m.ub is not None for m in results)} of {len(rotations)} rotations in "
            f"{path.name}: it found no common lattice; index the rotations one by one, or check "
            "their goniometer angles"
        )
    models = []
    for rotation, model in zip(rotations, results, strict=True):
        moved = model.rotation.detector
        detector = replace(rotation.detector, origin=moved.origin, slow=moved.slow, fast=moved.fast)
        models.append(Model(replace(rotation, detector=detector), model.ub))
    cells = np.array([model.crystal[1] for model in models])
    apart = float(np.max(np.abs(cells / cells[0] - 1)))
    if apart > _ONE_CELL:
        raise HklflowError(
            f"the cells of the rotations in {path.name} of DIALS differ by {apart:.1e}; this "
            "version of DIALS does not constrain them, use another version or hklflow's own "
            "refinement"
        )
    shared = with_one_crystal(models)
    ub = shared[0].ub
    assert ub is not None
    return [model.rotation for model in shared], ub
