"""Refine the detector from the spots of still frames with DIALS, and propose it to the store.

The cell is fixed to the known cell, each frame keeps its own orientation. A person accepts or
rejects the proposal (`hklflow calibration accept`); then the frames are indexed again with it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.bragg.stills import Stills
    from hklflow.dials.stills_geometry import Refined
    from hklflow.geometry import Detector

VERSION = 1


class Inputs(stage.Inputs):
    batches: list[Path]
    """Indexed frames of all batches."""


class Outputs(stage.Outputs):
    geometry: Path
    """Refined geometry."""
    picture: Path
    """Picture: residuals of the spots before and after, and the shift of each module."""
    metrics: Path
    """Shifts, residuals, gates, and the candidate in the store."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    level: Literal["detector", "module"] = "module"
    """`detector`: position across and along the beam. `module`: then the position of each module in
    the plane of the detector. Modules come from the geometry, else from the gaps of the frames."""
    max_frames: int = Field(100, ge=5)
    """Largest number of frames; those with the most indexed spots are used."""
    max_rmsd: float = Field(0.5, gt=0)
    """Gate: largest root mean square distance of the spots from their predictions, in pixels."""
    max_sigma: float = Field(0.05, gt=0)
    """Gate: largest error of the shift of a module, in pixels."""
    author: str | None = None
    """Name of the person who proposes the geometry to the store of `calibration`; None: it is not
    proposed."""


class Params(Settings):
    """Settings of the stage, DIALS, and the place in the store."""

    name: str = Field()
    """Name of the stills, and of the candidate."""
    prefix: Path | None = None
    """Folder of the programs `dials.*`. None: the programs are on PATH."""
    store: Path | None = None
    """Folder of the store; None: nothing is proposed."""
    state: dict[str, Any] = Field(default_factory=dict)
    """Set-points of the instrument that define the state."""
    state_schema: Path | None = None
    """JSON file that lists the set-points of a state; None: the list in the package."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """State ids that are replaced: id from the set-points, and the id that is used."""

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """Return the input files; programs are not data, and every proposal changes the store."""
        return {"state_schema": [self.state_schema] if self.state_schema else []}


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Refine the detector, judge the result and propose it."""
    from hklflow import geometry, plots
    from hklflow.dials import stills_geometry
    from hklflow.dials.programs import find, workspace
    from hklflow.plots import stills as pictures

    dials = find(params.prefix)
    stills, detector = _chosen(inputs.batches, params)
    with workspace("stills_detector") as folder:
        found = stills_geometry.refine(dials, stills, params.level, folder)
    shifts = _shifts(detector, found.detector, params.level)
    metrics: dict[str, Any] = {
        "program": dials.label,
        "level": params.level,
        "frames": len(stills.frames),
        "spots": len(found.after.module),
        "rmsd in pixels before": found.before.rms,
        "rmsd in pixels after": found.after.rms,
        "distance before (mm)": 1e3 * detector.distance,
        "distance after (mm)": 1e3 * found.detector.distance,
        "sigma of the distance (mm)": 1e3 * found.place.distance_sigma,
        "modules": _modules(shifts, found),
    }
    metrics["gates"] = gates = _gates(metrics, params)
    metrics["warnings"] = [gate["sentence"] for gate in gates if not gate["passed"]]
    product = {
        "source": f"stills:{params.name}",
        "detector": geometry.detector_to_dict(found.detector),
        "beam": {
            "wavelength_A": stills.beam.wavelength,
            "polarization": stills.beam.polarization,
        },
        "metrics": {key: value for key, value in metrics.items() if key != "gates"},
        "gates": gates,
    }
    stage.write_json(outputs.geometry, product)
    title = f"{params.name}: detector from {len(stills.frames)} still frames"
    plots.save(pictures.detector(found.before, found.after, title), outputs.picture)
    if params.store is not None:
        metrics["candidate"] = _propose(inputs, outputs, metrics, params)
    stage.write_json(outputs.metrics, metrics)
    print(
        f"spots {found.before.rms:.3f} -> {found.after.rms:.3f} pixels from their predictions, "
        f"distance {1e3 * found.detector.distance:.4f} mm"
    )
    print("\n".join(metrics["warnings"]))


def _chosen(paths: list[Path], params: Params) -> "tuple[Stills, Detector]":
    """Return the frames with the most spots, and the detector with its modules.

    Raises
    ------
    HklflowError
        If fewer than five frames are indexed, or modules are asked for and there are none.
    """
    from dataclasses import replace

    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.bragg.stills import joined
    from hklflow.nexus.stills import read_stills

    read = [read_stills(path) for path in paths]
    parts = [part for part, _ in read if len(part.frames)]
    n = sum(len(part.frames) for part in parts)
    if n < 5:
        raise HklflowError(
            f"{n} indexed frames of {params.name} cannot refine a detector; at least 5 are needed"
        )
    stills = joined(parts)
    best = np.argsort(-stills.frames.indexed, kind="stable")[: params.max_frames]
    stills = stills.select(np.isin(np.arange(n), best))
    detector = stills.detector
    if params.level == "module" and detector.modules is None:
        detector = replace(detector, modules=_modules_of(stills, params))
    return replace(stills, detector=detector), detector


def _modules_of(stills: "Stills", params: Params) -> Any:
    """Return the modules between the gaps of the frames."""
    from hklflow.base.errors import HklflowError
    from hklflow.calibration.module_gaps import modules_from_gaps
    from hklflow.geometry.modules import Modules

    if stills.bad is None:
        raise HklflowError(
            f"the pixel mask of {params.name} is not known, so its modules are not; index again"
        )
    boxes = modules_from_gaps(stills.bad)
    if len(boxes) < 2:
        raise HklflowError(
            f"the frames of {params.name} have no gaps between modules; set "
            "`refine_stills_detector: {level: detector}`, or give a mask with the gaps"
        )
    slow, fast = stills.detector.pixel_size
    return Modules.ideal(boxes, fast / slow)


def _shifts(before: "Detector", after: "Detector", level: str) -> Any:
    """Return the shift (n, 2) of the centre of each module in pixels (slow, fast).

    For the level ``detector`` the only row is the shift of its centre.
    """
    import numpy as np

    if level == "detector" or before.modules is None:
        middles = 0.5 * np.array([before.shape], dtype=np.float64)
    else:
        middles = before.modules.centres
    moved = after.lab(middles[:, 0], middles[:, 1]) - before.lab(middles[:, 0], middles[:, 1])
    axes = np.stack([before.slow / before.pixel_size[0], before.fast / before.pixel_size[1]])
    return moved @ axes.T


def _modules(shifts: Any, found: "Refined") -> list[dict[str, Any]]:
    """Return a row for each part of the detector that moved as one."""
    from math import isnan

    rows = []
    sigmas = found.place.shift_sigma
    for number, sigma in enumerate(sigmas):
        n = len(found.after.module) if len(sigmas) == 1 else (found.after.module == number).sum()
        rows.append(
            {
                "module": number,
                "spots": int(n),
                "shift slow": float(shifts[number][0]),
                "shift fast": float(shifts[number][1]),
                "sigma slow": None if isnan(sigma[0]) else float(sigma[0]),
                "sigma fast": None if isnan(sigma[1]) else float(sigma[1]),
            }
        )
    return rows


def _gates(metrics: dict[str, Any], params: Params) -> list[dict[str, Any]]:
    before, after = metrics["rmsd in pixels before"], metrics["rmsd in pixels after"]
    sigmas = [row[name] for row in metrics["modules"] for name in ("sigma slow", "sigma fast")]
    worst = None if None in sigmas else max(sigmas)
    return [
        {
            "name": "improvement",
            "value": after / before,
            "limit": 1.0,
            "passed": after <= before,
            "sentence": f"residuals are {after / before:.3f} times those of the old detector",
        },
        {
            "name": "rmsd",
            "value": after,
            "limit": params.max_rmsd,
            "passed": after <= params.max_rmsd,
            "sentence": f"spots are {after:.3f} pixels (rms) from their predictions; the limit is "
            f"{params.max_rmsd:g}",
        },
        {
            "name": "sigma",
            "value": worst,
            "limit": params.max_sigma,
            "passed": worst is not None and worst <= params.max_sigma,
            "sentence": "a module has no spots; measure more frames"
            if worst is None
            else f"the largest error of a shift is {worst:.3f} pixels; the limit is "
            f"{params.max_sigma:g}: more frames make it smaller",
        },
    ]


def _propose(
    inputs: Inputs, outputs: Outputs, metrics: dict[str, Any], params: Params
) -> dict[str, Any]:
    """Add the geometry to the store as a candidate; return its name."""
    import tempfile

    from hklflow.calibration import records
    from hklflow.calibration.states import read_schema, state_of
    from hklflow.calibration.store import Store

    assert params.store is not None
    state = state_of("geometry", params.state, read_schema(params.state_schema), params.aliases)
    store = Store(params.store.expanduser())
    accepted = [v for v in store.versions(state.kind, state.id) if v.status == "accepted"]
    record = {
        "author": params.author,
        "comments": f"detector from still frames of {params.name}",
        "parentVersion": accepted[-1].number if accepted else None,
        "inputs": [
            {"path": str(path), "sha256": stage.fingerprint(path)} for path in inputs.batches
        ],
        "software": records.software(),
        "metrics": {key: value for key, value in metrics.items() if key != "gates"},
        "gates": metrics["gates"],
    }
    with tempfile.TemporaryDirectory() as folder:
        named = {}
        for name, path in (("geometry.json", outputs.geometry), ("detector.png", outputs.picture)):
            named[name] = Path(folder) / name
            named[name].write_bytes(path.read_bytes())
        named["parameters.json"] = Path(folder) / "parameters.json"
        stage.write_json(
            named["parameters.json"],
            {"source": "stills", "files": [], "params": params.model_dump(mode="json")},
        )
        candidate = store.new_iteration(state, params.name, named, record)
    print(
        f"proposed as {candidate.name}/{candidate.iteration:02d}, state {state.id}; accept it with "
        f"`hklflow calibration accept {candidate.name} --calibration NAME ...`"
    )
    return {"name": candidate.name, "iteration": candidate.iteration, "state": state.id}


if __name__ == "__main__":
    stage.command(main)
