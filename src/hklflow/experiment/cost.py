"""Estimate memory, time and disk space of a job from the shape of its data.

Memory has a fixed part (interpreter and libraries) and a part proportional to the size of the
detector or of the grid; ``benchmarks/memory.py`` measured the coefficients. Time is the number of
pixel-frames or voxels, divided by a rate. `minutes` returns the time limit of a cluster job, with a
wide margin. `seconds` returns the expected time; rates measured in finished jobs of this experiment
replace the rates of the package.

Only one raw file is opened for each sample and calibration; the other files are assumed to have the
same shape. If a job needs more memory or time than requested, it is repeated with a larger request.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.experiment.config import Experiment, PowderImage, simulation_description
from hklflow.experiment.constants import branch as constants_branch
from hklflow.experiment.jobs import Job, Key, job_counts, shape_key
from hklflow.experiment.pace import DECODE_RATE, Pace
from hklflow.geometry import grid as grids
from hklflow.geometry import plausible

_FACTOR = 1.3  # ratio of requested memory to measured memory
_MARGIN = 400.0  # MB; includes the two processes of snakemake on a cluster node (140 MB each)
_MINIMUM_MINUTES = 10
_CELL = 10.0  # Å, assumed if the table of samples has no cell
_Q = 10.0  # 1/Å, assumed as long as the largest |Q| is unknown (before the import)


@dataclass(frozen=True)
class Cost:
    """Memory, time and disk space of one job of a rule.

    Attributes
    ----------
    fixed, per_mpixel, per_mvoxel : float
        Memory in MB: constant part, per million pixels of a frame, per million voxels.
    seconds, rate, voxel_rate : float
        Constant time in seconds; million pixel-frames and million voxels per second (one core).
    pixel_rate : float
        Million pixels of a frame per second, for work that does not grow with the frames.
    disk : float
        Bytes written per pixel-frame.
    disk_pixel, disk_voxel : float
        Bytes written per pixel of a frame, and per voxel.
    """

    fixed: float = 160.0
    per_mpixel: float = 0.0
    per_mvoxel: float = 0.0
    seconds: float = 2.0
    rate: float = math.inf
    voxel_rate: float = math.inf
    pixel_rate: float = math.inf
    disk: float = 0.0
    disk_pixel: float = 0.0
    disk_voxel: float = 0.0


# Rates on one core of a 2020s server; measured on the demo and by benchmarks/memory.py.
COSTS: Mapping[str, Cost] = {
    "simulate": Cost(240, per_mpixel=330, rate=4, disk=0.4),
    "powder_calibration": Cost(300, per_mpixel=350, seconds=20, disk_pixel=4),
    "import_poni": Cost(),
    "sum_scans": Cost(200, per_mpixel=150, rate=25, disk=0.5),
    # The rate is for pixels before binning; all other rules count the binned pixels.
    "bin_frames": Cost(250, per_mpixel=150, rate=100, disk=0.1),
    "import_scan": Cost(250, per_mpixel=150, seconds=1.2, pixel_rate=1.2),
    "pixel_mask": Cost(280, per_mpixel=250, seconds=1.7, pixel_rate=0.3, disk_pixel=4),
    # Counts and monitor of 16 groups of frames, and their medians.
    "artificial_normalization": Cost(300, per_mpixel=700, rate=25, disk_pixel=6),
    "frame_scale": Cost(250, per_mpixel=100, seconds=1.7),
    "background": Cost(300, per_mpixel=250, seconds=4, disk_pixel=10),
    "find_peaks": Cost(300, per_mpixel=360, seconds=2.6, rate=82, disk_pixel=40),
    "mask_3d": Cost(280, per_mpixel=190, seconds=1.8, rate=500, disk=0.005),
    "refine_parent": Cost(260, seconds=2.3),
    "refine": Cost(260, seconds=2.3),
    "absorption": Cost(400, seconds=30),
    "accept": Cost(60, seconds=0.4),
    "unmeasured_background": Cost(2500, per_mpixel=500, seconds=90, rate=60),
    "refine_scale": Cost(2500, per_mpixel=300, seconds=60, rate=100),
    "transform": Cost(
        320, per_mpixel=80, per_mvoxel=5, seconds=1.5, rate=550, voxel_rate=150, disk_voxel=4
    ),
    "add_transforms": Cost(350, per_mvoxel=1, voxel_rate=20, disk_voxel=6),
    "merge": Cost(400, per_mvoxel=1.4, voxel_rate=19, disk_voxel=7),
    "symmetrise": Cost(450, per_mvoxel=20, voxel_rate=8, disk_voxel=12),
    # With gaps, as real measurements have them: the variance is learnt for all distances. Without
    # gaps, 16 MB. Wide gaps take longer; `memory` limits what is kept of large volumes.
    "fill": Cost(400, per_mvoxel=43, seconds=10, voxel_rate=0.5, disk_voxel=7),
    # 10 without the covariance of lattice vectors.
    "pdf": Cost(400, per_mvoxel=17, voxel_rate=8, disk_voxel=7),
    "difference": Cost(400, per_mvoxel=2, voxel_rate=7, disk_voxel=12),
    "planes": Cost(300, seconds=1.4, voxel_rate=30),
    "scan_file": Cost(seconds=1.1),
    "temperature_series": Cost(260, seconds=1.6),
    "order_parameters": Cost(500, seconds=5),
    # Each feature takes seconds per scan; twenty scans of three features are assumed.
    "features": Cost(400, seconds=400),
    "stack": Cost(300, seconds=2.3),
    "cluster": Cost(600, per_mvoxel=25, seconds=30, voxel_rate=0.5),
    # The rate is for twenty scans.
    "stack_pdf": Cost(400, per_mvoxel=2, seconds=2, voxel_rate=9),
    "sample_page": Cost(400, seconds=5),
    "overview": Cost(200, seconds=1),
    # `integrate: memory` limits the memory of the reflections during their integration.
    # All rotations of a scan (three are assumed), each at 600; crowded reflections take longer.
    "converge": Cost(1500, per_mpixel=350, seconds=2.4, rate=200),
    # From some 70 with crowded reflections (a cell of 20 Å) to 400.
    "integrate": Cost(1500, per_mpixel=350, seconds=2.2, rate=400),
    "scale_reflections": Cost(500, seconds=1.7),
    "merge_reflections": Cost(500, seconds=1.8),
    "merge_crystals": Cost(800, seconds=60),
    "absolute_scale": Cost(600, per_mvoxel=1, seconds=15, voxel_rate=5),
    "bragg_series": Cost(400),
    # Parameters limit the memory of stages that read frames; times are for runs of 1000 frames.
    "constants_preprocess": Cost(300, seconds=30),
    "constants_sanity": Cost(300, seconds=30),
    "gather": Cost(1500, seconds=300),
    "process_dark": Cost(1200, seconds=60),
    "process_xray": Cost(1500, seconds=600),
    "process_pulse_capacitor": Cost(1200, seconds=120),
    "process_current_source": Cost(1200, seconds=120),
    "merge_current_source": Cost(1500, seconds=20),
    "combine_constants": Cost(1500, seconds=20),
    "mask_constants": Cost(1500, seconds=20),
    "join_module": Cost(2000, seconds=120),
    "join_constants": Cost(800, seconds=120),
    "counter_dark": Cost(400, per_mpixel=100, seconds=60),
    "counter_flood": Cost(400, per_mpixel=150, seconds=120),
    "counter_stability": Cost(400, per_mpixel=150, seconds=300),
    "counter_rate": Cost(400, per_mpixel=150, seconds=120),
    "counter_constants": Cost(400, per_mpixel=150),
    "constants_report": Cost(1500, seconds=60),
    "propose_constants": Cost(1500, seconds=30),
    # DIALS needs some 2 s for a frame; times are for batches of 200 frames.
    "index_stills": Cost(1500, per_mpixel=600, seconds=600),
    "refine_stills_detector": Cost(1500, seconds=300),
    "merge_stills": Cost(600, seconds=120),
    # Memory for constants of one memory cell; each further cell needs 44 bytes per pixel.
    "correct_frames": Cost(600, per_mpixel=300, seconds=3, rate=60, disk=2.5),
}


# The same stages with DIALS as engine; DIALS reads a copy of the frames.
DIALS_COSTS: Mapping[str, Cost] = {
    "refine_parent": Cost(1500, per_mpixel=300, seconds=240, rate=10),
    "refine": Cost(1500, per_mpixel=300, seconds=120, rate=10),
    "integrate": Cost(2500, per_mpixel=600, seconds=60, rate=5),
}


@dataclass(frozen=True)
class Shape:
    """Number of frames, pixels and voxels of a rotation."""

    frames: int
    pixels: int
    voxels: int


# Rules that read frames before binning.
_UNBINNED = {"simulate", "powder_calibration", "sum_scans", "correct_frames", "bin_frames"}


class Estimate:
    """Memory, time and disk space of every job of an experiment.

    Parameters
    ----------
    experiment : Experiment
    learn : bool
        True: use the times of finished jobs.
    pace : Pace or None
        Speed of this machine on frames of the experiment. None: the speed of the machine on which
        the costs were measured.
    """

    def __init__(
        self, experiment: Experiment, learn: bool = True, pace: Pace | None = None
    ) -> None:
        self._experiment = experiment
        self._learn = learn
        self._pace = pace or Pace(1.0)
        self._costs = {**COSTS, **(DIALS_COSTS if experiment.uses_dials else {})}
        self._frames: dict[tuple[str, str | None], tuple[int, int]] = {}
        self._grids: dict[tuple[str, str], tuple[int, int, int]] = {}
        self._needed: dict[tuple[Any, ...], tuple[int, int]] = {}
        self.notes: list[str] = []
        """Messages on shapes that had to be assumed, with the reason."""
        self.assumed: set[tuple[str, str]] = set()
        """Sample and parent of each grid whose cell or largest |Q| had to be assumed."""

    # ------------------------------------------------------------------- for rules

    def memory_mb(self, rule: str, **wildcards: str) -> int:
        """Return the memory to request, in MB."""
        return self._asked(rule, wildcards)[0]

    def minutes(self, rule: str, **wildcards: str) -> int:
        """Return the wall time to request, in minutes."""
        return self._asked(rule, wildcards)[1]

    def _asked(self, rule: str, wildcards: Mapping[str, str]) -> tuple[int, int]:
        sample = wildcards.get("sample")
        key = (rule, *self._alike(sample, wildcards.get("scan"), wildcards.get("rotation")))
        if key not in self._needed:
            shape = self.shape(sample, wildcards.get("scan"), wildcards.get("rotation"))
            megabytes = _FACTOR * self.megabytes(rule, shape) + _MARGIN
            # A job that was fast for one sample may be slow for a larger grid or more peaks.
            time = 4 * max(self.seconds(rule, shape), self._modelled(rule, shape)) / 60
            self._needed[key] = (
                100 * math.ceil(megabytes / 100),
                max(_MINIMUM_MINUTES, 5 * math.ceil(time / 5)),
            )
        return self._needed[key]

    # ------------------------------------------------------------------ the models

    def megabytes(self, rule: str, shape: Shape) -> float:
        """Return the memory that a job uses, in MB."""
        cost, shape = self._costs[rule], self._of_job(rule, shape)
        volumes = min(cost.per_mvoxel * shape.voxels / 1e6, self._limit(rule))
        return cost.fixed + cost.per_mpixel * shape.pixels / 1e6 + volumes

    def seconds(self, rule: str, shape: Shape) -> float:
        """Return the expected time of a job in seconds, from finished jobs if there are any."""
        own = self._of_job(rule, shape)
        work = own.frames * own.pixels / 1e6
        if rule in self.measured:
            return self.measured[rule] * (work if self._costs[rule].rate < math.inf else 1.0)
        return self._modelled(rule, shape)

    def of_jobs(self, jobs: Sequence[Job]) -> list[float]:
        """Return the expected time of each job in seconds."""
        return [self.seconds(job.rule, self.shape(*shape_key(job))) for job in jobs]

    def _of_job(self, rule: str, shape: Shape) -> Shape:
        blocks = self._experiment.config.frame_blocks if rule == "transform" else 1
        binning = 1 if rule in _UNBINNED else self._experiment.config.binning
        pixels = shape.pixels // binning**2
        return replace(shape, frames=-(-shape.frames // blocks), pixels=pixels)

    def _modelled(self, rule: str, shape: Shape) -> float:
        """Return the time of a job by the model.

        Decoding takes its measured rate; the clock of the machine scales everything else.
        """
        cost, shape = self._costs[rule], self._of_job(rule, shape)
        rest = cost.seconds + shape.voxels / 1e6 / cost.voxel_rate
        rest += shape.pixels / 1e6 / cost.pixel_rate
        if cost.rate == math.inf:
            return self._pace.clock * rest
        if rule == "find_peaks" and self._pace.search is not None:
            return self._pace.clock * rest + shape.frames * shape.pixels / 1e6 / self._pace.search
        work = self._passes(rule, shape) * shape.frames * shape.pixels / 1e6
        rest += work * max(1 / cost.rate - 1 / DECODE_RATE, 0.0)
        decode = self._pace.decode or DECODE_RATE / self._pace.clock
        return self._pace.clock * rest + work / decode

    def _passes(self, rule: str, shape: Shape) -> int:
        """Return the number of passes over the frames that a job makes."""
        if rule != "transform":
            return 1
        needed = self._costs[rule].per_mvoxel * shape.voxels / 1e6
        return max(1, math.ceil(needed / self._limit(rule)))

    def _limit(self, rule: str) -> float:
        """Return the limit of the memory for volumes in the settings of a stage, in MB."""
        settings = getattr(self._experiment.config, rule, None)
        return float(getattr(settings, "memory", math.inf))

    def megabytes_on_disk(self, rule: str, shape: Shape) -> float:
        """Return the size of the products of a job, in MB."""
        cost, shape = COSTS[rule], self._of_job(rule, shape)
        size = cost.disk * shape.frames + cost.disk_pixel
        return (size * shape.pixels + cost.disk_voxel * shape.voxels) / 1e6

    @cached_property
    def measured(self) -> dict[str, float]:
        """Measured time of finished jobs in seconds, per Mpixel-frame or per job.

        The time is per job for rules without a rate. The values are medians over the benchmark
        tables of Snakemake.
        """
        from statistics import median

        experiment = self._experiment
        paths = experiment.paths
        folders = [experiment.base / of.folder / "benchmarks" for of in (paths, paths.unbinned)]
        keys = {"_".join(key): key for key in experiment.all_rotations()}
        found: dict[str, float] = {}
        for rule in COSTS if self._learn else ():
            values = []
            folder = folders[rule in _UNBINNED and rule != "bin_frames"]
            for path in sorted((folder / rule).glob("*.tsv")):
                seconds = _seconds_in(path)
                if seconds is None:
                    continue
                if self._costs[rule].rate == math.inf:
                    values.append(seconds)
                elif path.stem in keys:
                    shape = self._of_job(rule, self.shape(*keys[path.stem]))
                    values.append(seconds / (shape.frames * shape.pixels / 1e6))
            if values:
                found[rule] = median(values)
        return found

    # ------------------------------------------------------------------ the shapes

    def _alike(self, sample: str | None, scan: str | None, rotation: str | None) -> tuple[Any, ...]:
        """Return a key that is equal for jobs whose data have the same shape."""
        experiment = self._experiment
        if sample is None:
            return ()
        scans = experiment.scans
        if scan is None:
            scan = next(name for owner, name in scans if owner == sample)
        if rotation is None:
            rotation = next(iter(scans[sample, scan].rotations))
        row = scans[sample, scan].rotations[rotation]
        # Scans share the settings object unless a layer gives one of them another grid.
        grid = id(experiment.settings(sample, scans[sample, scan].parent).refine_parent)
        return (sample, row.calibration, row.frames, grid)

    def shape(
        self, sample: str | None = None, scan: str | None = None, rotation: str | None = None
    ) -> Shape:
        """Return the shape of the first rotation with the given sample, scan and name."""
        experiment = self._experiment
        if not experiment.scans:  # constants only
            return Shape(1000, 1_000_000, 0)
        for owner, name, row in experiment.all_rotations():
            if sample in (None, owner) and scan in (None, name) and rotation in (None, row):
                frames, pixels = self._frame_shape(owner, name, row)
                return Shape(frames, pixels, math.prod(self._grid(owner, name, row, pixels)))
        raise HklflowError(f"there is no rotation {sample} {scan} {rotation}")

    def _frame_shape(self, sample: str, scan: str, rotation: str) -> tuple[int, int]:
        row = self._experiment.rotation(sample, scan, rotation)
        key = (sample, row.calibration)
        if key not in self._frames:
            entry = self._experiment.corrected_detector(sample, scan)
            try:
                if entry is not None and (self._experiment.base / row.raw).is_dir():
                    module = constants_branch(entry).detector.module
                    n, slow, fast = 1000, module[0] * len(entry.modules), module[1]
                else:
                    n, slow, fast = self._raw_shape(row.parts[0])
            except (HklflowError, OSError) as error:
                # The import will fail with this error; other jobs can still be estimated.
                self.notes.append(f"{row.where}: 1000 frames of 4 Mpixel are assumed: {error}")
                n, slow, fast = 1000, 2000, 2000
            self._frames[key] = (n, slow * fast)
        frames, pixels = self._frames[key]
        return row.frames or frames, pixels

    def _raw_shape(self, raw: str) -> tuple[int, int, int]:
        experiment = self._experiment
        if experiment.config.simulation is not None:
            described = simulation_description(experiment, raw)
            detector = described.detector
            slow, fast = (
                m * s + (m - 1) * g
                for m, s, g in zip(
                    detector.modules, detector.module_shape, detector.gap, strict=True
                )
            )
            return described.n_frames, slow, fast
        from hklflow.formats.raw import open_frames

        with open_frames(experiment.base / raw) as frames:
            return frames.shape

    def grid(self, sample: str, scan: str) -> tuple[int, int, int]:
        """Return the number of voxels along h, k, l of the grid of a scan."""
        self.shape(sample, scan)
        return self._grids[sample, self._experiment.scans[sample, scan].parent]

    @cached_property
    def _counts(self) -> dict[str, dict[Key, int]]:
        return job_counts(self._experiment)

    def volume_gigabytes(self, sample: str, scan: str) -> float:
        """Return the size of all volumes of a scan on disk, in GB."""
        shape = Shape(0, 0, math.prod(self.grid(sample, scan)))
        return sum(
            number * self.megabytes_on_disk(rule, shape) / 1e3
            for rule, counts in self._counts.items()
            for key, number in counts.items()
            if key[:2] == (sample, scan)
        )

    def _grid(self, sample: str, scan: str, rotation: str, pixels: int) -> tuple[int, int, int]:
        experiment = self._experiment
        parent = experiment.scans[sample, scan].parent
        if (sample, parent) in self._grids:
            return self._grids[sample, parent]
        settings = experiment.settings(sample, parent).refine_parent
        if settings.grid_range is not None:
            spans = [high - low for low, high in settings.grid_range]
        elif settings.grid_limits is not None:
            spans = [2 * limit for limit in settings.grid_limits]
        else:
            spans = self._covered(sample, scan, rotation, pixels)
        step = settings.grid_step
        if step is None:
            width = grids.chosen_step(spans)
            step = (width, width, width)
            if note := grids.coarser(width, spans):
                self.notes.append(f"{sample} {parent}: {note}")
        pairs = list(zip(spans, step, strict=True))
        if settings.grid_range is not None:
            n_h, n_k, n_l = (int(span / width) + 1 for span, width in pairs)
        else:
            n_h, n_k, n_l = (2 * int(span / 2 / width) + 1 for span, width in pairs)
        self._grids[sample, parent] = (n_h, n_k, n_l)
        return n_h, n_k, n_l

    def _covered(self, sample: str, scan: str, rotation: str, pixels: int) -> list[float]:
        """Return the extents along h, k, l that the detector covers."""
        parent = self._experiment.scans[sample, scan].parent
        settings = self._experiment.settings(sample, parent).refine_parent
        cell = settings.cell or self._experiment.samples[sample].cell
        if cell is None:
            self.notes.append(f"{sample}: a cell of {_CELL:g} Å is assumed for the grid")
            self.assumed.add((sample, parent))
            cell = (_CELL, _CELL, _CELL, 90.0, 90.0, 90.0)
        reach = self._reach(sample, scan, rotation, pixels)
        if reach is None:
            self.notes.append(f"{sample}: |Q| up to {_Q:g} 1/Å is assumed for the grid")
            self.assumed.add((sample, parent))
            reach = _Q
        return [float(span) for span in grids.extents(cell, reach)]

    def _reach(self, sample: str, scan: str, rotation: str, pixels: int) -> float | None:
        """Return the approximate largest |Q| of the detector in 1/Å; None if it is unknown."""
        experiment = self._experiment
        row = experiment.rotation(sample, scan, rotation)
        entry = experiment.config.calibrations.get(row.calibration or "")
        if isinstance(entry, PowderImage) and entry.distance is not None:
            side = math.sqrt(pixels)
            centre = entry.beam_centre or (side / 2, side / 2)
            far = math.hypot(
                *(max(c, side - c) * s for c, s in zip(centre, entry.pixel_size, strict=True))
            )
            theta = 0.5 * math.atan2(far, entry.distance)
            return 4 * math.pi * math.sin(theta) / entry.wavelength
        if entry is not None or experiment.config.simulation is not None:
            return None
        from hklflow.formats.raw import read_header
        from hklflow.geometry import reach

        try:
            header = read_header(str(experiment.base / row.parts[0]))
        except (HklflowError, OSError):  # the import will fail with this error
            return None
        said = experiment.settings(sample, scan).import_scan
        wavelength = said.wavelengths.get(rotation, said.wavelength) or header.wavelength
        if header.detector is None or wavelength is None:
            return None
        if plausible.detector_problem(header.detector) or plausible.wavelength_problem(wavelength):
            return None
        return reach(header.detector, wavelength)


def _seconds_in(path: Path) -> float | None:
    """Return the wall time in a benchmark table; None if the table is incomplete."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return float(rows[-1]["s"])
    # If the job runs again at this moment, its process may just have removed the table.
    except (FileNotFoundError, IndexError, KeyError, TypeError, ValueError):
        return None
