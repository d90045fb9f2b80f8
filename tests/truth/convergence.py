"""Scans whose cell, orientation and modules are known, and the converging loop against them.

Centres of spots come from the simulator, with the noise that their counts give; modules are
displaced by simulating each as a detector of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.spatial.transform import Rotation as Turn

from hklflow import geometry, nexus, stage
from hklflow.bragg.converge import Loop, Outcome, RefinedModel
from hklflow.bragg.reflections import Reflections
from hklflow.calibration.bragg_level import ModuleLevel, module_level
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry import Rotation, lattice, symmetry
from hklflow.geometry.modules import Modules
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.orientation.residuals import Peaks
from hklflow.simulation.frames import (
    GAP_VALUE,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
    TruePeaks,
)
from hklflow.stages import converge, find_peaks, import_scan, pixel_mask, refine_parent
from tests.truth import defaults
from tests.truth.defaults import acceptance, limits_of_converge

CELLS = {
    "P 6/m m m": (7.1, 7.1, 10.3, 90.0, 90.0, 120.0),
    "P -1": (6.1, 7.4, 9.0, 83.0, 97.0, 104.0),
}
PIXEL = 6e-4
SHAPE = (200, 200)
#: Four modules of 96 pixels with gaps of 8.
BOXES = np.array([[s, s + 96, f, f + 96] for s in (0, 104) for f in (0, 104)])
SETTINGS = (0.0, 0.9)
FREE = ("cell", "orientation", "misorientation")
ENOUGH = 150.0  # counts of a spot that the peak search finds
WIDTH = np.array([1.4, 1.0, 1.1])  # of a spot in frames and pixels, its voxels included


@dataclass(frozen=True)
class Scan:
    """A simulated scan of several rotations.

    Attributes
    ----------
    rotations : list of Rotation
        As a perfect calibration of a detector without displaced modules says.
    peaks : list of Peaks
        Found.
    tables : list of Reflections
        What integration of all reflections would give, but for the predicted centres.
    ub : (3, 3) array
        The true one.
    cell : (6,) array
    group : SpaceGroup
    """

    rotations: list[Rotation]
    peaks: list[Peaks]
    tables: list[Reflections]
    ub: np.ndarray
    cell: np.ndarray
    group: symmetry.SpaceGroup

    def integrate(self, rotations: Sequence[Rotation], ub: np.ndarray) -> list[Reflections]:
        """As the loop asks for it."""
        return self.tables


def simulation(
    symbol: str, setting: float, shift: Sequence[float] = (0.0, 0.0), **crystal: object
) -> Simulation:
    """One rotation by 80 degrees; the detector is displaced by ``shift`` pixels."""
    described: dict = {
        "cell": CELLS[symbol],
        "orientation": (0.4, -0.3, 0.9),
        "b_iso": 1.2,
        "scale": 0.01,
        "mosaic": np.radians(0.3),
    }
    return Simulation(
        DetectorModel(
            SHAPE, 0.11, (97.0 - shift[0], 104.0 - shift[1]), (PIXEL, PIXEL), (0.03, -0.02)
        ),
        GoniometerModel(((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)), (setting, 0.0), ("chi", "phi"), 1),
        ScanModel(-0.6, np.radians(0.5), 160, 0.6, flux=3.0),
        CrystalModel(**described | crystal),
    )


def rotation_of(made: Simulation) -> Rotation:
    """Geometry as simulated."""
    header = made.raw_header()
    return Rotation(
        geometry.Beam(header["wavelength"], header["polarization"]),
        geometry.Detector(
            SHAPE, header["pixel_size"], header["origin"], header["slow"], header["fast"]
        ),
        geometry.Goniometer(
            header["axis_names"], header["axes"], header["angles"], header["scan_axis"]
        ),
        geometry.Scan(header["start"], header["step"], header["n_frames"]),
    )


def _columns(truth: TruePeaks) -> np.ndarray:
    good = truth.zeta > 0.1
    return np.column_stack(
        [truth.frame, truth.slow, truth.fast, truth.counts, truth.zeta, np.rint(truth.hkl)]
    )[good]


def true_spots(
    symbol: str, setting: float, shifts: np.ndarray | None = None, **crystal: object
) -> np.ndarray:
    """Rows of (frame, slow, fast, counts, zeta, h, k, l) as the modules see them."""
    if shifts is None:
        return _columns(simulation(symbol, setting, **crystal).true_peaks())
    rows = []
    for (s0, s1, f0, f1), shift in zip(BOXES, shifts, strict=True):
        found = _columns(simulation(symbol, setting, shift, **crystal).true_peaks())
        slow, fast = found[:, 1], found[:, 2]
        rows.append(found[(slow >= s0) & (slow < s1) & (fast >= f0) & (fast < f1)])
    return np.concatenate(rows)


def scan(
    symbol: str = "P 6/m m m",
    seed: int = 1,
    *,
    shifts: np.ndarray | None = None,
    second: float = 0.0,
    floor: float = 0.01,
) -> Scan:
    """Draw a scan of two rotations.

    Parameters
    ----------
    shifts : (n, 2) array, optional
        Displacements of the modules in pixels.
    second : float
        Part of the peaks of a second lattice, another crystal of the same cell.
    floor : float
        Standard deviation in pixels and frames below which no centroid is known.
    """
    rng = np.random.default_rng([seed, 7])
    rotations, peaks, tables = [], [], []
    for setting in SETTINGS:
        made = simulation(symbol, setting)
        rotations.append(rotation_of(made))
        rows = true_spots(symbol, setting, shifts)
        rows = rng.permutation(rows)
        sigma = np.hypot(WIDTH / np.sqrt(rows[:, 3:4]), floor)
        seen = rows[:, :3] + rng.normal(size=(len(rows), 3)) * sigma
        strong = rows[:, 3] > ENOUGH
        found = np.column_stack([seen, sigma**2])[strong]
        if second:
            other = true_spots(symbol, setting, shifts, orientation=(1.3, 0.2, -0.5))
            other = rng.permutation(other[other[:, 3] > ENOUGH])
            other = other[: round(second / (1 - second) * len(found))]
            noise = np.hypot(WIDTH / np.sqrt(other[:, 3:4]), floor)
            more = other[:, :3] + rng.normal(size=noise.shape) * noise
            found = np.concatenate([found, np.column_stack([more, noise**2])])
        found = found[np.argsort(found[:, 0])]
        peaks.append(Peaks(*found.T))
        tables.append(_table(rows, seen, sigma))
    return Scan(
        rotations,
        peaks,
        tables,
        np.asarray(made.ub),
        np.asarray(CELLS[symbol]),
        symmetry.space_group(symbol),
    )


def _table(rows: np.ndarray, seen: np.ndarray, sigma: np.ndarray) -> Reflections:
    n, counts = len(rows), rows[:, 3]
    one = np.ones(n)
    # The error of a weak spot's centre is no Gaussian: integration gives none.
    known = np.where(counts > 30, 1.0, np.nan)
    return Reflections(
        hkl=rows[:, 5:].astype(np.int64), frame=rows[:, 0], slow=rows[:, 1], fast=rows[:, 2],
        zeta=rows[:, 4], volume=one, d=one, intensity_sum=counts,
        sigma_sum=np.sqrt(counts + 5), intensity_profile=counts, sigma_profile=np.sqrt(counts + 5),
        counts=counts, recorded=one, background=one, background_sigma=one, norm=one,
        observed_frame=seen[:, 0] * known, observed_slow=seen[:, 1] * known,
        observed_fast=seen[:, 2] * known, var_frame=sigma[:, 0] ** 2 * known,
        var_slow=sigma[:, 1] ** 2 * known, var_fast=sigma[:, 2] ** 2 * known,
        n_foreground=100 * one, n_background=300 * one, correlation=0.95 * one,
        flags=np.zeros(n, np.int64),
    )  # fmt: skip


def start(made: Scan, degrees: float = 0.2, strain: float = 0.001) -> RefinedModel:
    """Model that is off by so much."""
    turn = Turn.from_rotvec(np.radians(degrees) * np.array([0.48, -0.6, 0.64])).as_matrix()
    ub = turn @ made.ub / (1 + strain)
    cell = made.cell * np.array([1 + strain] * 3 + [1.0] * 3)
    return RefinedModel(made.rotations, ub, cell, np.full(6, 0.01))


def loop(made: Scan, integrate: Callable | None = None, **rest: float) -> Loop:
    """The loop of a scan."""
    return Loop(
        made.peaks,
        made.group,
        FREE,
        integrate,
        limits_of_converge(),
        defaults.rest(**rest),
        acceptance(),
    )


def shifts_of(seed: int, size: float = 0.3) -> np.ndarray:
    """Displacements (4, 2) in pixels, without motions of the whole detector."""
    shift = np.random.default_rng([seed, 3]).normal(0, size, (len(BOXES), 2))
    at = np.stack([BOXES[:, 0] + BOXES[:, 1], BOXES[:, 2] + BOXES[:, 3]], axis=1) / 2
    at -= at.mean(axis=0)
    shift -= shift.mean(axis=0)
    across = np.stack([-at[:, 1], at[:, 0]], axis=1)
    for mode in (across, at):
        shift -= np.sum(mode * shift) / np.sum(mode**2) * mode
    return shift


def judged(made: Scan, outcome: Outcome) -> dict[str, float]:
    """Errors of the result."""
    best = outcome.kept.model
    u, _ = lattice.decompose_ub(best.ub)
    true, _ = lattice.decompose_ub(made.ub)
    free = best.cell_sigma > 0
    off = best.cell - made.cell
    covariance = outcome.kept.refined.cell_covariance
    return {
        "turn": float(np.degrees(lattice.rotation_angle(u, true))),
        "worst pull": float(np.abs(off[free] / best.cell_sigma[free]).max()),
        # Lengths and angles are correlated, and equal ones are one number.
        "mean square pull": float(
            off
            @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True)
            @ off
            / np.linalg.matrix_rank(covariance, hermitian=True)
        ),
    }


def modules_found(made: Scan, outcome: Outcome, run: Loop) -> ModuleLevel:
    """The module level of a result."""
    return module_level(
        outcome.kept.model.rotations,
        outcome.data,
        outcome.kept.model.ub,
        made.group,
        Modules.ideal(BOXES),
        free=FREE,
        limits=run.limits,
    )


def reduced(
    folder: Path,
    shifts: np.ndarray | None = None,
    seed: int = 1,
    geometry: Path | None = None,
    significance: float = 6.0,
    **crystal: object,
) -> None:
    """Files of a scan up to its orientation, from frames drawn; modules have gaps between them.

    Makes ``r1`` and ``r2`` with raw.nxs (if it is not there), scan.nxs, mask.nxs, scale.nxs and
    peaks.nxs, and orientation.json. The detector is that of ``geometry``, else as simulated
    without displaced modules.
    """
    found = {"min_significance": significance}
    for number, setting in enumerate(SETTINGS, start=1):
        at = folder / f"r{number}"
        at.mkdir(parents=True, exist_ok=True)
        made = simulation("P 6/m m m", setting, **crystal)
        if not (at / "raw.nxs").exists():
            _raw(at / "raw.nxs", setting, shifts, 10 * seed + number, **crystal)
        n, one = made.scan.n_frames, np.ones(made.scan.n_frames)
        level = Transmission(one, 0.01 * one, one, np.zeros(n, np.uint8), 1.0)
        scale = FrameScale(one, one, one, level, 1.0, 1.0, "none")
        nexus.write_scale(at / "scale.nxs", scale, np.arange(n) * 0.5)
        read = {"raw": [at / "raw.nxs"], "geometry": geometry}
        _run(import_scan, read, {"scan": at / "scan.nxs"}, {})
        scratch = {"picture": at / "scratch.png", "metrics": at / "scratch.json"}
        masked = {"mask": at / "mask.nxs"} | scratch
        _run(pixel_mask, {"scan": at / "scan.nxs"}, masked, {"find_defects": False})
        made = {name: at / f"{name}.out" for name in find_peaks.Outputs.model_fields}
        given = {"scan": at / "scan.nxs", "mask": at / "mask.nxs"}
        _run(find_peaks, given, made | {"peaks": at / "peaks.nxs"}, found)
    names = {"sample": "quartz", "scan": "300K", "rotations": ["r1", "r2"]}
    made = {"orientation": folder / "orientation.json", "picture": folder / "orientation.png"}
    _run(
        refine_parent,
        {
            "scans": [folder / r / "scan.nxs" for r in ("r1", "r2")],
            "peaks": [folder / r / "peaks.nxs" for r in ("r1", "r2")],
        },
        made,
        names | {"space_group": "P 6/m m m", "cell": CELLS["P 6/m m m"], "refine_detector": False},
    )


def _raw(
    path: Path, setting: float, shifts: np.ndarray | None, seed: int, **crystal: object
) -> None:
    """Write the frames of a rotation, each module as if it were a detector of its own."""
    shifts = np.zeros((len(BOXES), 2)) if shifts is None else shifts
    frames = None
    for i, (box, shift) in enumerate(zip(BOXES, shifts, strict=True)):
        made = simulation("P 6/m m m", setting, shift, **crystal)
        made = replace(
            made,
            scan=replace(made.scan, flux=20.0, seed=10 * seed + i),
            diffuse=Diffuse(flat=0.02),
        )
        if frames is None:
            frames = np.full((made.scan.n_frames, *SHAPE), GAP_VALUE, np.uint32)
        cut = np.s_[:, box[0] : box[1], box[2] : box[3]]
        frames[cut] = np.concatenate([block[cut] for block in made.frames(16)])
    header = simulation("P 6/m m m", setting, **crystal).raw_header()
    header["pixel_mask"] = (frames[0] == GAP_VALUE).astype(np.uint32)
    with NXmxWriter(path, NXmxHeader(**header)) as writer:
        writer.append(frames)


def _run(module: ModuleType, inputs: dict, outputs: dict, params: dict) -> None:
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=1,
    )


def converge_files(folder: Path, orientation: Path | None = None, **params: object) -> dict:
    """Run the stage on what `reduced` made; returns its JSON products by name."""
    lists = {"scans": "scan", "masks": "mask", "scales": "scale", "peaks": "peaks"}
    outputs = {
        "converged": folder / "converged.json",
        "history": folder / "convergence.json",
        "picture": folder / "convergence.png",
        "modules": folder / "modules.json",
    }
    _run(
        converge,
        {"orientation": orientation or folder / "orientation.json"}
        | {k: [folder / r / f"{v}.nxs" for r in ("r1", "r2")] for k, v in lists.items()},
        outputs,
        {"sample": "quartz", "scan": "300K", "rotations": ["r1", "r2"]} | params,
    )
    return {k: stage.read_json(path) for k, path in outputs.items() if path.suffix == ".json"}


def turned(ub: np.ndarray, other: np.ndarray, symbol: str = "P 6/m m m") -> float:
    """Angle in degrees between two orientations of one crystal, but for its symmetry."""
    operations, _ = symmetry.space_group(symbol).operations
    u, _ = lattice.decompose_ub(other)
    angles = []
    for operation in operations[np.linalg.det(operations) > 0]:
        # Of another basis of the same lattice.
        same, _ = lattice.decompose_ub(ub @ np.linalg.inv(operation))
        angles.append(float(np.degrees(lattice.rotation_angle(same, u))))
    return min(angles)
