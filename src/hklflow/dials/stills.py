"""Index and integrate still frames one by one with `dials.stills_process` and a known cell."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg import reindexing
from hklflow.bragg.stills import StillFrames, Stills, StillSpots
from hklflow.dials.programs import Dials
from hklflow.formats.dials_peaks import TO_DXTBX, on_image
from hklflow.formats.dials_refl import INDEXED, Refl, read_refl
from hklflow.geometry import BEAM, Beam, Detector, lattice, symmetry

FRAMES = "frames.nxs"
_FLAG, _MOST = -1, 2**31 - 2  # values of bad and of saturated pixels in the copy
_ON_LATTICE = 0.2  # largest distance of a spot's h, k and l from whole numbers
_LEAST = -0.5  # smallest valid value, between -1 (a flag) and 0 counts
_THIN = 1e-9  # m; DIALS needs a sensor thickness, and would shift the spots of a thick sensor
_INTEGRATED, _OVERLOADED, _BAD_PIXELS = 1 << 8, 1 << 10, 1 << 15  # flags of dials.integrate
# stills_process imports this module, of which it uses nothing; Debian does not package it.
_MISSING = "xfel_mono_sim_ext"
_STAND_IN = f'''import importlib.machinery, importlib.util, os, sys
here = os.path.dirname(os.path.abspath(__file__))
others = [p for p in sys.path if os.path.abspath(p or ".") != here]
spec = importlib.machinery.PathFinder.find_spec("{_MISSING}", others)
if spec is not None:
    module = importlib.util.module_from_spec(spec)
    sys.modules[__name__] = module
    spec.loader.exec_module(module)
'''


@dataclass(frozen=True)
class Limits:
    """Settings of spot search and indexing, and limits of an accepted frame.

    Attributes
    ----------
    d_min : float or None
        Smallest d-spacing of spots, Å.
    min_pixels : int
        Smallest number of pixels of a spot.
    min_spots : int
        Smallest number of spots on the lattice of the crystal.
    min_indexed : float
        Smallest fraction of the strong spots on the lattice of the crystal.
    max_rmsd : float
        Largest root mean square distance of spots from their predictions, pixels.
    max_cell_change : float
        Largest relative deviation of a cell length from the known cell.
    """

    d_min: float | None
    min_pixels: int
    min_spots: int
    min_indexed: float
    max_rmsd: float
    max_cell_change: float


@dataclass(frozen=True, eq=False)
class Indexed:
    """Accepted frames of one batch, and the reason why each other frame is missing.

    Attributes
    ----------
    stills : Stills
        Frame numbers count from the first frame of the batch.
    rejected : dict of int to str
        Reason by frame number.
    """

    stills: Stills
    rejected: dict[int, str]


def write_frames(
    path: Path,
    detector: Detector,
    beam: Beam,
    bad: NDArray[np.bool_],
    blocks: Iterable[NDArray[Any]],
    n_frames: int,
    saturation: float,
) -> None:
    """Write still frames for DIALS, with one panel for each module of the detector.

    Parameters
    ----------
    bad : (slow, fast) bool array
    blocks : iterable of (n, slow, fast) arrays
    saturation : float
        Smallest count that is not valid.
    """
    from hklflow.dials.frames import room
    from hklflow.formats.write_raw import NXmxHeader, NXmxWriter, geometry_facts

    modules = []
    if detector.modules is not None:
        boxes = detector.modules.rectangles
        modules = [((int(b[0]), int(b[2])), detector.patch(m)) for m, b in enumerate(boxes)]
    facts = geometry_facts(detector, None) | {"sensor_thickness": _THIN}
    header = NXmxHeader(
        **facts,
        shape=detector.shape,
        n_frames=n_frames,
        modules=modules,
        wavelength=beam.wavelength,
        exposure=1.0,
        polarization=beam.polarization,
        saturation=saturation - 0.5,
        underload=_LEAST,
        instrument_name=None,
        sample_name=None,
        dtype=np.int32,
    )
    with room(path), NXmxWriter(path, header) as writer:
        for block in blocks:
            # DIALS 3.12 cannot read the mask of a file with modules: bad pixels get a flag.
            valid = ~bad & (block >= 0) & (block < saturation)
            counts = np.where(valid, block, np.where(block >= saturation, _MOST, _FLAG))
            writer.append(counts.astype(np.int32))


def index(
    dials: Dials,
    folder: Path,
    detector: Detector,
    beam: Beam,
    cell: tuple[float, ...],
    space_group: str,
    n_frames: int,
    limits: Limits,
) -> Indexed:
    """Index, refine and integrate the frames in a folder; each frame has one crystal.

    Parameters
    ----------
    folder : Path
        Folder with the file of `write_frames`.
    cell : tuple of 6 float
        Known cell, Å and degrees. DIALS refines it for each frame within the space group.

    Raises
    ------
    HklflowError
        If DIALS fails, or indexes none of the frames.
    """
    group = symmetry.space_group(space_group)
    (folder / f"{_MISSING}.py").write_text(_STAND_IN)
    (folder / "stills.phil").write_text(_settings(cell, group, limits))
    with_stand_in = replace(dials, environment=dials.environment | {"PYTHONPATH": str(folder)})
    with_stand_in.run("dials.stills_process", [FRAMES, "stills.phil"], folder)
    paths = [folder / f"idx-0000_integrated{suffix}" for suffix in (".expt", ".refl")]
    # The exit code is 0 also if no frame is indexed.
    if not all(path.exists() for path in paths):
        raise HklflowError(
            f"DIALS indexed none of {n_frames} frames: {_reason(folder)}; check cell, wavelength "
            "and beam centre"
        )
    experiments = json.loads(paths[0].read_text())
    strong = read_refl(folder / "idx-0000_strong.refl")
    if len(strong.identifiers) != n_frames:
        raise HklflowError(
            f"DIALS searched {len(strong.identifiers)} of {n_frames} frames for spots, so that "
            "spots and frames cannot be matched; check the frames"
        )
    found = _accepted(
        _Read(experiments, detector, beam, tuple(cell), space_group, strong, n_frames),
        read_refl(folder / "idx-0000_indexed.refl"),
        read_refl(paths[1]),
        limits,
    )
    # DIALS may exchange axes whose lengths differ less than the limit.
    nearly = max(1.0, float(np.degrees(limits.max_cell_change)))
    operations = symmetry.reindexing_operators(cell, group, nearly)
    return replace(found, stills=reindexing.by_cell(found.stills, operations))


def _settings(cell: tuple[float, ...], group: symmetry.SpaceGroup, limits: Limits) -> str:
    lines = [
        f'indexing.known_symmetry.space_group="Hall:{group.hall.strip()}"',
        f"indexing.known_symmetry.unit_cell={','.join(f'{x:.6f}' for x in cell)}",
        "indexing.stills.refine_candidates_with_known_symmetry=True",
        "indexing.stills.indexer=stills",
        # The grid search finds frames with few spots, for which the Fourier transform fails.
        "indexing.stills.method_list=fft1d real_space_grid_search",
        f"dispatch.hit_finder.minimum_number_of_reflections={limits.min_spots}",
        f"spotfinder.filter.min_spot_size={limits.min_pixels}",
        # A small detector close to the crystal has broad spots in degrees.
        "profile.gaussian_rs.parameters.sigma_b_cutoff=2",
        "output.composite_output=True",
        "output.strong_filename=%s_strong.refl",
        "output.experiments_filename=%s_imported.expt",
        "output.integration_pickle=None",
        "mp.debug.output_debug_logs=False",
        "mp.nproc=1",
    ]
    if limits.d_min is not None:
        lines.append(f"spotfinder.filter.d_min={limits.d_min}")
    return "\n".join(lines) + "\n"


def _reason(folder: Path) -> str:
    """Return the most frequent reason in the output of stills_process."""
    counts: dict[str, int] = {}
    for line in (folder / "dials.stills_process.out").read_text(errors="replace").splitlines():
        for start in ("Couldn't index", "Error ", "Not enough spots"):
            if line.startswith(start):
                text = " ".join(word for word in line.split() if not word.startswith("frames"))
                counts[text] = counts.get(text, 0) + 1
    return max(counts, key=counts.__getitem__)[:200] if counts else "it gave no reason"


@dataclass(frozen=True, eq=False)
class _Read:
    """Experiments of DIALS, and what is known about them."""

    experiments: Mapping[str, Any]
    detector: Detector
    beam: Beam
    cell: tuple[float, ...]
    space_group: str
    strong: Refl
    n_frames: int

    @cached_property
    def n_strong(self) -> NDArray[np.int64]:
        """Number (f,) of strong spots of each frame."""
        return np.bincount(self._frame_of_strong, minlength=self.n_frames)

    @cached_property
    def _frame_of_strong(self) -> NDArray[np.int64]:
        return self.strong.columns["id"].astype(np.int64)

    @cached_property
    def _scattering(self) -> NDArray[np.float64]:
        """Scattering vectors (n, 3) of the strong spots, 1/Å with 2π."""
        columns = self.strong.columns
        slow, fast = on_image(self.detector, columns["panel"], columns["xyzobs.px.value"])
        outgoing = self.detector.lab(slow, fast)
        outgoing /= np.linalg.norm(outgoing, axis=1)[:, None]
        vectors: NDArray[np.float64] = self.beam.k * (outgoing - BEAM)
        return vectors

    def on_lattice(self, number: int, ub: NDArray[np.float64]) -> int:
        """Return the number of strong spots of a frame that lie on the lattice of a crystal.

        DIALS leaves out spots as outliers; their number says little about the frame.
        """
        hkl = self._scattering[self._frame_of_strong == number] @ np.linalg.inv(ub).T
        return int(np.sum(np.all(np.abs(hkl - np.rint(hkl)) < _ON_LATTICE, axis=1)))

    def crystals(self) -> dict[str, tuple[int, NDArray[np.float64]]]:
        """Return frame number and UB of each experiment, by its identifier."""
        found = {}
        for experiment in self.experiments["experiment"]:
            crystal = self.experiments["crystal"][experiment["crystal"]]
            imageset = self.experiments["imageset"][experiment["imageset"]]
            (number,) = imageset["single_file_indices"]
            axes = np.array([crystal[f"real_space_{name}"] for name in "abc"], dtype=np.float64)
            ub = 2 * np.pi * TO_DXTBX @ np.linalg.inv(axes)
            found[str(experiment["identifier"])] = (int(number), ub)
        return found

    def spots(self, table: Refl, place: str, frame: NDArray[np.int64]) -> StillSpots:
        columns = table.columns
        slow, fast = on_image(self.detector, columns["panel"], columns[place])
        return StillSpots(
            frame=frame,
            hkl=columns["miller_index"].astype(np.int64),
            slow=slow,
            fast=fast,
            intensity=columns["intensity.sum.value"],
            variance=columns["intensity.sum.variance"],
        )


def _accepted(read: _Read, spots: Refl, integrated: Refl, limits: Limits) -> Indexed:
    """Return the frames within the limits."""
    crystals = read.crystals()
    rejected = {
        i: ("too few spots" if n < limits.min_spots else "not indexed")
        for i, n in enumerate(read.n_strong.tolist())
    }
    spots = spots.select(spots.columns["flags"] & INDEXED != 0)
    integrated = integrated.select(
        (integrated.columns["flags"] & _INTEGRATED != 0)
        & (integrated.columns["flags"] & (_OVERLOADED | _BAD_PIXELS) == 0)
        & (integrated.columns["intensity.sum.variance"] > 0)
    )
    by_spots, by_reflections = _rows(spots, crystals), _rows(integrated, crystals)
    chosen: list[tuple[int, NDArray[np.float64], int, float, str]] = []
    for name, (number, ub) in sorted(crystals.items(), key=lambda item: item[1][0]):
        rows = by_spots.get(name, np.zeros(0, np.int64))
        away = (spots.columns["xyzobs.px.value"] - spots.columns["xyzcal.px"])[rows, :2]
        rmsd = float(np.sqrt(np.mean(np.sum(away**2, axis=1)))) if len(rows) else np.inf
        lengths = lattice.decompose_ub(ub)[1][:3]
        change = float(np.max(np.abs(np.asarray(lengths) / np.asarray(read.cell[:3]) - 1)))
        n = read.on_lattice(number, ub)
        reason = _problem(n, int(read.n_strong[number]), rmsd, change, limits)
        if reason or name not in by_reflections or name not in by_spots:
            rejected[number] = reason or "no reflection integrated"
        else:
            del rejected[number]
            chosen.append((number, ub, n, rmsd, name))
    frames = StillFrames(
        number=np.array([c[0] for c in chosen], np.int64),
        ub=np.array([c[1] for c in chosen]).reshape(-1, 3, 3),
        spots=read.n_strong[[c[0] for c in chosen]],
        indexed=np.array([c[2] for c in chosen], np.int64),
        rmsd=np.array([c[3] for c in chosen]),
    )
    tables = []
    for table, rows_of, place in (
        (spots, by_spots, "xyzobs.px.value"),
        (integrated, by_reflections, "xyzcal.px"),
    ):
        mine = [rows_of[c[4]] for c in chosen]
        frame = np.repeat(np.arange(len(chosen)), [len(r) for r in mine])
        order = np.concatenate(mine) if mine else np.zeros(0, np.int64)
        tables.append(read.spots(table.select(order), place, frame))
    return Indexed(
        Stills(frames, tables[0], tables[1], read.detector, read.beam, read.cell, read.space_group),
        rejected,
    )


def _rows(table: Refl, crystals: Mapping[str, Any]) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each experiment, by its identifier."""
    rows = {}
    for number, name in table.identifiers.items():
        if name in crystals:
            mine = np.flatnonzero(table.columns["id"] == number)
            if len(mine):
                rows[name] = mine
    return rows


def _problem(n: int, n_strong: int, rmsd: float, change: float, limits: Limits) -> str:
    """Return the reason to reject a frame; empty if it is accepted."""
    if n < limits.min_spots:
        return "too few spots indexed"
    if n < limits.min_indexed * n_strong:
        return "too many spots of no lattice or of another crystal"
    if rmsd > limits.max_rmsd:
        return "spots too far from their predictions"
    return "cell differs from the known cell" if change > limits.max_cell_change else ""
