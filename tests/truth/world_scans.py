"""Simulated worlds as scan files and peak tables, and what the refinement makes of them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn

from hklflow import geometry, nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.images.scan import RotationScan
from hklflow.peaks.table import FIELDS, PeakTable
from hklflow.stages import find_peaks, refine_parent
from tests.truth.pictures import without_pictures
from tests.truth.worlds import World
from tests.truth.worlds_physics import Sample, Scan, busing_levy, is_absent, operations

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


def table_of(world: World, number: int) -> PeakTable:
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
    return PeakTable(**{name: values[order] for name, values in columns.items()}, counts={})


def scan_of(world: World, number: int) -> RotationScan:
    """A rotation without frames."""
    ones = np.ones(world.scans[number].n_frames)
    rotation = rotation_of(world, number)
    return RotationScan("none", 0, rotation, ones, ones, ones, "none", world.temperature)


def written(world: World, folder: Path) -> dict[str, list[Path]]:
    """Write scan files and peak tables; they are the inputs of the refinement."""
    folder.mkdir(parents=True, exist_ok=True)
    scans, peaks = [], []
    for i in range(len(world.scans)):
        scans.append(folder / f"r{i}.nxs")
        nexus.write_scan(scans[-1], scan_of(world, i), f"r{i}", None)
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
        usual = ("are correlated", "not symmetries of", "reduced chi", "is correlated")
        found = self.data.get("warnings", [])
        return [text for text in found if not any(word in text for word in usual)]


@without_pictures()
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
    return compared_with(world.sample, world.scans[0], world.space_group, data)


def compared_with(truth: Sample, header: Scan, space_group: str, data: dict[str, Any]) -> Answer:
    """Compare a refined orientation with a true crystal.

    U is what it is where the header's angles hold: a start angle that is off turns it, and makes
    no error of the cell, of the children or of S(Q).
    """
    none = np.zeros(1)
    stated = header.R(none)[0].T @ truth.scans[0].R(none)[0] @ truth.U
    ub_true = stated @ busing_levy(truth.cell)
    found, sigma = np.array(data["cell"]), np.array(data["cell_sigma"])
    u_found = np.array(data["U"])
    best: tuple[float, Floats, Floats] | None = None
    for operation in [*_choices(space_group), *_lattice_rotations(truth.cell)]:
        ub = ub_true @ operation
        cell = lattice.decompose_ub(ub)[1]
        if np.abs(cell / found - 1).max() > _SAME:
            continue
        vector = Turn.from_matrix(u_found @ lattice.decompose_ub(ub)[0].T).as_rotvec()
        size = float(np.linalg.norm(vector))
        if best is None or size < best[0]:
            best = (size, vector, cell)
    if best is None:
        far = np.full(3, np.inf)
        return Answer("", data, np.full(6, np.inf), np.full(6, np.inf), far, 180.0)
    size, vector, cell = best
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = np.where(sigma > 0, (found - cell) / sigma, 0.0)
        turns = vector / np.radians(np.array(data["orientation_sigma_deg"]))
    off = np.r_[found[:3] / cell[:3] - 1, np.radians(found[3:] - cell[3:])]
    return Answer("", data, pulls, off, turns, float(np.degrees(size)))


_SAME = 0.05  # relative change of a cell that has been recognised


@cache
def _unimodular() -> Floats:
    """Matrices (n, 3, 3) of -1, 0 and 1 whose determinant is 1."""
    every = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 9, indexing="ij"), -1).reshape(-1, 3, 3)
    unimodular: Floats = every[np.abs(np.linalg.det(every) - 1) < 1e-9]
    return unimodular


def _lattice_rotations(cell: Floats) -> Floats:
    """Those that leave the metric as it is, to a part in a million."""
    g, w = np.linalg.inv(lattice.metric(cell)), _unimodular()
    same = np.isclose(np.swapaxes(w, 1, 2) @ g @ w, g, rtol=1e-6, atol=1e-9)
    rotations: Floats = w[same.all(axis=(1, 2))]
    return rotations


@cache
def _choices(space_group: str) -> Floats:
    """Changes of axes (n, 3, 3) that keep the rotations of a space group and its absences.

    Of Immm all three axes can be exchanged, of Pnma none.
    """
    group = {tuple(w.ravel()) for w in operations(space_group)[0]}
    hkl = np.stack(np.meshgrid(*[np.arange(-4.0, 5.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    absent = is_absent(space_group, hkl)
    kept = []
    for w in _unimodular():
        # UB W has the index W⁻¹ h where UB has h, and the coordinates Wᵀ x for x.
        back = np.rint(np.linalg.inv(w))
        turned = (w.T @ np.reshape(r, (3, 3)) @ back.T for r in group)
        if all(tuple(r.astype(int).ravel()) in group for r in turned) and np.array_equal(
            is_absent(space_group, hkl @ back.T), absent
        ):
            kept.append(w)
    return np.array(kept)
