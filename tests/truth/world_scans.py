"""Simulated worlds as scan files and peak tables, and what the refinement makes of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn

from hklflow import nexus, stage
from hklflow.core import geometry, lattice, symmetry
from hklflow.core.peaks_table import FIELDS, Peaks
from hklflow.core.scan import RotationScan
from hklflow.errors import HklflowError
from hklflow.stages import find_peaks, refine_parent
from tests.truth.worlds import World

Floats = NDArray[np.float64]


def rotation_of(world: World, number: int) -> geometry.Rotation:
    """Geometry of a rotation as the header states it."""
    instrument, scan = world.instrument, world.scans[number]
    detector = geometry.Detector(
        instrument.shape,
        (instrument.pixel_size, instrument.pixel_size),
        instrument.origin,
        instrument.slow,
        instrument.fast,
    )
    setting = Turn.from_matrix(scan.setting).as_rotvec()
    angle = float(np.linalg.norm(setting))
    head = setting / angle if angle else np.array([1.0, 0.0, 0.0])
    goniometer = geometry.Goniometer(
        ("phi", "setting"), np.stack([scan.axis, head]), np.array([0.0, angle]), 0
    )
    return geometry.Rotation(
        geometry.Beam(instrument.wavelength, 0.99),
        detector,
        goniometer,
        geometry.Scan(np.radians(scan.start), np.radians(scan.step), scan.n_frames),
    )


def table_of(world: World, number: int) -> Peaks:
    """Peaks of a rotation, with the floor of the errors that the peak search adds."""
    mine = world.peaks["rotation"] == number
    given = {name: values[mine] for name, values in world.peaks.items()}
    n = int(mine.sum())
    columns: dict[str, Any] = {name: np.ones(n) for name in FIELDS}
    columns |= {name: given[name] for name in FIELDS if name in given}
    pixels, frames = find_peaks.Params().sigma_floor
    for name, floor in (("var_slow", pixels), ("var_fast", pixels), ("var_frame", frames)):
        columns[name] = columns[name] + floor**2
    columns["significance"] = given["intensity"] / np.sqrt(given["var_intensity"])
    columns["n_pixels"] = np.full(n, 9)
    columns["n_frames"] = np.full(n, 3)
    columns["flags"] = np.zeros(n, np.int64)
    order = np.lexsort((columns["fast"], columns["slow"], columns["frame"]))
    return Peaks(**{name: values[order] for name, values in columns.items()}, counts={})


def written(world: World, folder: Path) -> dict[str, list[Path]]:
    """Write scan files and peak tables; they are the inputs of the refinement."""
    folder.mkdir(parents=True, exist_ok=True)
    scans, peaks = [], []
    for i, scan in enumerate(world.scans):
        ones = np.ones(scan.n_frames)
        about = RotationScan(
            "none", 0, rotation_of(world, i), ones, ones, ones, "none", world.temperature
        )
        scans.append(folder / f"r{i}.nxs")
        nexus.write_scan(scans[-1], about, f"r{i}", None)
        peaks.append(folder / f"p{i}.nxs")
        nexus.write_peaks(peaks[-1], table_of(world, i))
    return {"scans": scans, "peaks": peaks}


@dataclass(frozen=True)
class Answer:
    """What was made of a world.

    Attributes
    ----------
    refusal : str
        Sentence of the error that ended it; empty: there is a model.
    data : dict
        Content of ``orientation.json``.
    cell_pulls : (6,) array
        Cell minus truth over σ; 0 for what symmetry fixes.
    cell_off : (6,) array
        Cell minus truth, relative; of angles in radians.
    turn_pulls : (3,) array
        Orientation against truth about x, y, z of the goniometer's frame over σ.
    turn : float
        Degrees.
    """

    refusal: str
    data: dict[str, Any]
    cell_pulls: Floats
    cell_off: Floats
    turn_pulls: Floats
    turn: float

    @property
    def worst(self) -> float:
        """Largest pull."""
        return float(np.abs(np.r_[self.cell_pulls, self.turn_pulls]).max())

    @property
    def said(self) -> list[str]:
        """Sentences that are no remarks on every refinement."""
        usual = ("are correlated", "no symmetry of", "reduced chi", "is correlated")
        found = self.data.get("warnings", [])
        return [text for text in found if not any(word in text for word in usual)]


def answered(world: World, folder: Path, **params: Any) -> Answer:
    """Index and refine a world as a parent, and compare with the truth."""
    output = folder / "parent.json"
    try:
        refine_parent.main(
            inputs=refine_parent.Inputs(**written(world, folder)),
            outputs=refine_parent.Outputs(orientation=output, picture=folder / "parent.png"),
            params=refine_parent.Params(
                sample="s",
                scan="a",
                rotations=[f"r{i}" for i in range(len(world.scans))],
                space_group=world.space_group,
                cell=tuple(world.cell),
                grid_limits=(1, 1, 1),
                **params,
            ),
        )
    except HklflowError as error:
        none = np.zeros(6)
        return Answer(str(error), {}, none, none, np.zeros(3), 0.0)
    return compared(world, stage.read_json(output))


def compared(world: World, data: dict[str, Any]) -> Answer:
    """Compare a refined orientation with the truth, in the choice of axes that comes nearest."""
    truth = world.sample
    cell, sigma = np.array(data["cell"]), np.array(data["cell_sigma"])
    b = lattice.b_matrix(truth.cell)
    u_found = np.array(data["U"])
    best: tuple[float, Floats] | None = None
    group = symmetry.space_group(world.space_group)
    rotations = [w for w in _lattice_rotations(truth.cell) if np.linalg.det(w) > 0]
    for operation in [*group.laue_operations, *rotations]:
        if np.linalg.det(operation) < 0:
            continue
        other = lattice.nearest_rotation(truth.U @ b @ operation @ np.linalg.inv(b))
        vector = Turn.from_matrix(u_found @ other.T).as_rotvec()
        size = float(np.linalg.norm(vector))
        if best is None or size < best[0]:
            best = (size, vector)
    assert best is not None
    size, vector = best
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = np.where(sigma > 0, (cell - truth.cell) / sigma, 0.0)
        turns = vector / np.radians(np.array(data["orientation_sigma_deg"]))
    off = np.r_[cell[:3] / truth.cell[:3] - 1, np.radians(cell[3:] - truth.cell[3:])]
    return Answer("", data, pulls, off, turns, float(np.degrees(size)))


def _lattice_rotations(cell: Floats) -> list[Floats]:
    """Matrices of small integers that leave the metric as it is, to a part in a million."""
    g = np.linalg.inv(lattice.metric(cell))
    every = np.indices((3,) * 9).reshape(9, -1).T.reshape(-1, 3, 3) - 1.0
    every = every[np.abs(np.linalg.det(every) - 1) < 1e-9]
    changed = every.transpose(0, 2, 1) @ g @ every
    return list(every[np.isclose(changed, g, rtol=1e-6, atol=1e-9).all(axis=(1, 2))])
