"""Refine the detector from the spots of many still frames with `dials.refine`.

All frames share the detector, each has its own orientation, and the cell is fixed to the known
cell: the cell is the measure of length. The beam is fixed, and so is the rotation of the detector
about it, which orientations at random do not show.
"""

import json
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg.still_place import Place, place
from hklflow.bragg.stills import Residuals, Stills
from hklflow.dials.programs import Dials
from hklflow.formats.dials_panels import detector_from_panels, panels_of
from hklflow.formats.dials_peaks import TO_DXTBX, on_panels
from hklflow.formats.dials_refl import INDEXED, OBSERVED, STRONG, Refl, read_refl, write_refl
from hklflow.geometry import BEAM, Detector, lattice, symmetry

Floats = NDArray[np.float64]
Level = Literal["detector", "module"]

_VARIANCE = 0.02  # px²; of the position of a spot
_ANGLE = 1e-3  # radians; of the angle between a node and the Ewald sphere, the default of DIALS
_REPEATS, _STILL = 3, 0.3  # of the refinement of modules: most, and errors the distance may lack
_FREE = {"detector": ("Shift1", "Shift2", "Dist"), "module": ("Shift1", "Shift2")}
_ALL = ("Dist", "Shift1", "Shift2", "Tau1", "Tau2", "Tau3")


@dataclass(frozen=True, eq=False)
class Refined:
    """Refined detector.

    Attributes
    ----------
    detector : Detector
    before, after : Residuals
        With the orientations refined at the old and at the new detector.
    place : Place
        Errors of distance and shifts.
    """

    detector: Detector
    before: Residuals
    after: Residuals
    place: Place


def refine(dials: Dials, stills: Stills, level: Level, folder: Path) -> Refined:
    """Refine the detector as one body, then its modules; the orientations are refined with it.

    Parameters
    ----------
    dials : Dials
    stills : Stills
        Frames with at least one spot each. The detector needs modules for the level "module".
    level : {"detector", "module"}
    folder : Path
        Folder in which DIALS runs.

    Raises
    ------
    HklflowError
        If DIALS fails or drops frames.
    """
    group = symmetry.space_group(stills.space_group)
    b = lattice.b_matrix(symmetry.constrain_cell(stills.cell, group))
    ub = np.array([lattice.nearest_rotation(m @ np.linalg.inv(b)) @ b for m in stills.frames.ub])
    start = replace(stills, frames=replace(stills.frames, ub=ub))
    first, before = _run(dials, start, (), 0, folder)
    moved, after = _run(dials, first, _FREE["detector"], 0, folder)
    found = _place(moved, level)
    if level == "module":
        for _ in range(_REPEATS):
            # Shifts of the modules bias the distance of a detector that is refined as one body.
            normal = moved.detector.normal
            distant = moved.detector.moved(found.distance * normal)
            moved, after = _run(dials, replace(moved, detector=distant), _FREE["module"], 1, folder)
            found = _place(moved, level)
            if abs(found.distance) < _STILL * found.distance_sigma:
                break
    return Refined(moved.detector, before, after, found)


def _place(stills: Stills, level: Level) -> Place:
    """Return the place of the detector with its errors."""
    modules = stills.detector.modules
    if level == "detector" or modules is None:
        module, n_modules = np.zeros(len(stills.spots), np.int64), 1
    else:
        module, n_modules = modules.nearest(stills.spots.slow, stills.spots.fast), len(modules)
    return place(stills, module, n_modules, float(np.sqrt(_VARIANCE)), _ANGLE)


def _run(
    dials: Dials, stills: Stills, free: tuple[str, ...], level: int, folder: Path
) -> tuple[Stills, Residuals]:
    """Run one refinement; return the frames with its detector and orientations."""
    names = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"still {i}")) for i in range(len(stills.frames))]
    content = _experiments(stills, names)
    (folder / "stills.expt").write_text(json.dumps(content))
    write_refl(folder / "stills.refl", _table(stills, names))
    parameters = "refinement.parameterisation."
    held = [name for name in _ALL if name not in free]
    fix = f"fix_list={','.join(held)}" if free else "fix=all"
    arguments = [
        "stills.expt",
        "stills.refl",
        f"{parameters}beam.fix=all",
        f"{parameters}crystal.fix=cell",
        f"{parameters}detector.{fix}",
        f"{parameters}detector.panels=hierarchical"
        if stills.detector.modules is not None
        else f"{parameters}detector.panels=single",
        f"{parameters}detector.hierarchy_level={level}",
        f"{parameters}auto_reduction.action=fail",
        f"{parameters}auto_reduction.min_nref_per_parameter=1",
        # A frame alone has too few spots to tell outliers.
        "refinement.reflections.outlier.algorithm=tukey",
        "refinement.reflections.outlier.separate_experiments=False",
        "refinement.reflections.outlier.separate_panels=False",
        "refinement.reflections.weighting_strategy.override=stills",
        f"refinement.reflections.weighting_strategy.delpsi_constant={_ANGLE**-2:g}",
        "output.experiments=refined.expt",
        "output.reflections=refined.refl",
    ]
    dials.run("dials.refine", arguments, folder, "refined.expt", "refined.refl")
    return _read(folder, stills, names)


def _experiments(stills: Stills, names: list[str]) -> dict[str, Any]:
    """Return an experiment list: one experiment for each frame, with one detector and beam."""
    hall = symmetry.space_group(stills.space_group).hall
    crystals = []
    for ub in stills.frames.ub:
        axes = np.linalg.inv(TO_DXTBX @ ub / (2 * np.pi))
        crystal = {f"real_space_{name}": axes[i].tolist() for i, name in enumerate("abc")}
        crystals.append({"__id__": "crystal", **crystal, "space_group_hall_symbol": hall})
    beam = {
        "direction": (TO_DXTBX @ -BEAM).tolist(),
        "wavelength": stills.beam.wavelength,
        "divergence": 0.0,
        "sigma_divergence": 0.0,
        "polarization_normal": [0.0, 1.0, 0.0],
        "polarization_fraction": stills.beam.polarization,
        "flux": 0.0,
        "transmission": 1.0,
    }
    experiments = [
        {"__id__": "Experiment", "identifier": name, "beam": 0, "detector": 0, "crystal": i}
        for i, name in enumerate(names)
    ]
    return {
        "__id__": "ExperimentList",
        "experiment": experiments,
        "imageset": [],
        "beam": [beam],
        "detector": [panels_of(stills.detector, None)],
        "goniometer": [],
        "scan": [],
        "crystal": crystals,
        "profile": [],
        "scaling_model": [],
    }


def _table(stills: Stills, names: list[str]) -> Refl:
    spots, detector = stills.spots, stills.detector
    n = len(spots)
    panel, fast, slow = on_panels(detector, spots.slow, spots.fast)
    slow_mm, fast_mm = (1e3 * size for size in detector.pixel_size)
    position = detector.lab(spots.slow, spots.fast)
    s1 = position / np.linalg.norm(position, axis=1)[:, None] / stills.beam.wavelength
    nothing = np.zeros(n)
    columns: dict[str, NDArray[Any]] = {
        "id": spots.frame.astype(np.int32),
        "panel": panel.astype(np.uint64),
        "flags": np.full(n, OBSERVED | STRONG | INDEXED, np.uint64),
        "miller_index": spots.hkl.astype(np.int32),
        "s1": s1 @ TO_DXTBX,
        "entering": np.zeros(n, np.bool_),
        "xyzobs.px.value": np.stack([fast, slow, nothing], axis=1),
        "xyzobs.px.variance": np.full((n, 3), _VARIANCE),
        "xyzobs.mm.value": np.stack([fast * fast_mm, slow * slow_mm, nothing], axis=1),
        "xyzobs.mm.variance": _VARIANCE * np.array([fast_mm, slow_mm, 1.0]) ** 2 * np.ones((n, 1)),
        "intensity.sum.value": spots.intensity,
        "intensity.sum.variance": spots.variance,
    }
    return Refl(columns, dict(enumerate(names)), n)


def _read(folder: Path, stills: Stills, names: list[str]) -> tuple[Stills, Residuals]:
    content = json.loads((folder / "refined.expt").read_text())
    ub = {}
    for experiment in content["experiment"]:
        crystal = content["crystal"][experiment["crystal"]]
        axes = np.array([crystal[f"real_space_{name}"] for name in "abc"])
        ub[experiment["identifier"]] = 2 * np.pi * TO_DXTBX @ np.linalg.inv(axes)
    if set(ub) != set(names):
        raise HklflowError(
            f"dials.refine kept {len(ub)} of {len(names)} frames; raise `min_spots` of index_stills"
        )
    read, _, _ = detector_from_panels(content["detector"][0], TO_DXTBX, "dials.refine")
    # Shape and sensor are not refined, and DIALS does not know them all.
    detector = replace(
        stills.detector,
        origin=read.origin,
        slow=read.slow,
        fast=read.fast,
        modules=None if stills.detector.modules is None else read.modules,
    )
    frames = replace(stills.frames, ub=np.array([ub[name] for name in names]))
    table = read_refl(folder / "refined.refl").columns
    away = (table["xyzobs.mm.value"] - table["xyzcal.mm"])[:, :2]
    used = np.any(table["xyzcal.mm"][:, :2] != 0, axis=1)
    slow_mm, fast_mm = (1e3 * size for size in stills.detector.pixel_size)
    residuals = Residuals(
        table["panel"][used].astype(np.int64), away[used, 1] / slow_mm, away[used, 0] / fast_mm
    )
    return replace(stills, detector=detector, frames=frames), residuals
