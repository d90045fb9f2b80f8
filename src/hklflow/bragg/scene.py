"""Predicted spots of one rotation with their foregrounds, and their intensities from the frames."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg import boxes as bx
from hklflow.bragg import kernels, profiles
from hklflow.bragg.background import Curvature
from hklflow.bragg.collected import Collected
from hklflow.bragg.measurement import Measurement
from hklflow.bragg.predicted import Spots
from hklflow.bragg.profiles import Profile, Widths

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Blocks = Iterable[NDArray[Any]]
Shown = Callable[[Blocks, str], Blocks]


@dataclass(frozen=True)
class IntegrationParams:
    """Parameters of the integration.

    Attributes
    ----------
    n_sigma : float
        Half axes of the foreground in standard deviations of the spot; half a voxel is added.
    mosaic : float or None
        Start value of the standard deviation of the rocking curve about the scan axis at ζ = 1,
        radians. None: determined from the peaks; without peaks, one frame.
    spot : (slow, fast) or None
        Start values of the standard deviations of a spot, pixels. None: determined from the peaks;
        without peaks, 1.5.
    strong : float
        Smallest I/σ of a reflection that is used to learn widths and profiles.
    references : int
        Largest number of reflections that are used to learn widths and profiles.
    max_frames : int
        Reflections with more frames in the foreground are not integrated.
    min_zeta : float
        Reflections with a smaller ζ are flagged ``LONG``.
    overlap : float
        Largest share of a reflection (by its profile) in the foreground of other reflections.
        Above it, the reflection is flagged; below it, the shared voxels are left out.
    min_recorded : float
        Smallest part of a reflection that must lie on summed voxels to determine an intensity.
    memory : float
        Memory for the voxels of the reflections that are processed at the same time, MB.
    threads : int
    """

    n_sigma: float
    mosaic: float | None
    spot: tuple[float, float] | None
    strong: float
    references: int
    max_frames: int
    min_zeta: float
    overlap: float
    min_recorded: float
    memory: float
    threads: int


class Scene:
    """Predicted spots with their foregrounds.

    Attributes
    ----------
    centre, sigma, half : (n, 3) arrays
        Predicted centres, standard deviations and half axes of the foregrounds along (frame, slow,
        fast), in voxels.
    error : (n, 3) array
        Standard deviations of the predicted centres, in voxels.
    long : (n,) bool array
        True for spots on more frames than are integrated.
    """

    def __init__(
        self,
        spots: Spots,
        widths: Widths,
        params: IntegrationParams,
        n_frames: int,
        errors: Floats | None = None,
    ):
        """``errors`` (3,): see `learning.Learned`; without them, the widths."""
        self.spots, self.widths, self.n_frames = spots, widths, n_frames
        self.centre = spots.centre
        self.sigma = widths.at(spots.zeta, spots.slow, spots.fast)
        self.error = self.sigma
        if errors is not None:
            self.error = np.broadcast_to(errors, (len(spots), 3)).copy()
            self.error[:, 0] /= spots.zeta
        self.half = bx.half_axes(self.sigma, params.n_sigma)
        self.long = 2 * self.half[:, 0] > params.max_frames

    def recorded(self, more: float) -> Integers:
        """Return the rows of spots that are in the scan with their centre on the detector.

        Detector and scan are extended by ``more`` on all sides, in pixels and frames.
        """
        spots, reach, (n_slow, n_fast) = self.spots, self.half[:, 0] + more, self.widths.shape
        on = (spots.slow >= -more) & (spots.slow <= n_slow + more)
        on &= (spots.fast >= -more) & (spots.fast <= n_fast + more)
        in_time = (spots.frame > -reach) & (spots.frame < self.n_frames + reach)
        return np.flatnonzero(on & in_time)

    @cached_property
    def cells(self) -> bx.Cells:
        """Foregrounds of all spots by their position on the detector."""
        return bx.cells_of(self.centre, self.half)


@dataclass(frozen=True)
class Frames:
    """Frames of the rotation, and the voxels that were collected from them.

    Attributes
    ----------
    wanted : callable
        Function that returns the boxes to collect for given widths.
    """

    measurement: Measurement
    collected: Collected
    wanted: Callable[[Widths], bx.Boxes]
    shown: Shown

    def filled(
        self, boxes: bx.Boxes, widths: Widths, memory: float, label: str
    ) -> Iterator[bx.Filled]:
        """Yield filled boxes, from the collected voxels if they fit into the memory (bytes)."""
        n_frames = self.measurement.rotation.scan.n_frames
        dealt = bx.passes(bx.groups(boxes, n_frames, memory), n_frames, memory)
        if not self.collected.holds(boxes):
            wanted = self.wanted(widths)
            counter = self.measurement.read_variance is None
            if self.collected.has_room_for(wanted, integers=counter):
                limit = self.collected.limit
                groups = bx.passes(bx.groups(wanted, n_frames, limit), n_frames, limit)
                self.collected.collect(self._read(groups, wanted, "collect reflections"))
            else:
                self.collected.collect(())
            if not self.collected.holds(boxes):
                yield from self._read(dealt, boxes, label)
                return
        yield from self.collected.filled(itertools.chain(*dealt), boxes)

    def _read(
        self, dealt: list[list[bx.Group]], boxes: bx.Boxes, label: str
    ) -> Iterator[bx.Filled]:
        """Yield boxes filled from the frames, in a pass for each list of groups."""
        measurement = self.measurement
        n_frames = measurement.rotation.scan.n_frames
        for number, groups in enumerate(dealt):
            name = label if len(dealt) == 1 else f"{label}, pass {number + 1} of {len(dealt)}"
            waiting, active, first = groups[::-1], list[bx.Filled](), 0
            for block in self.shown(measurement.blocks(), name):
                end = first + len(block)
                while waiting and waiting[-1].first < end:
                    active.append(bx.Filled(waiting.pop(), boxes))
                for filled in active:
                    bx.fill(
                        block,
                        first,
                        filled.origin,
                        filled.shape,
                        filled.offset,
                        measurement.invalid_from,
                        measurement.valid_from,
                        filled.counts,
                    )
                yield from (filled for filled in active if filled.group.last <= end)
                active = [filled for filled in active if filled.group.last > end]
                first = end
            if first != n_frames:
                raise HklflowError(
                    f"the frames ended after {first} of {n_frames}; check that the raw file is "
                    "complete"
                )


@dataclass(frozen=True)
class Found:
    """Results (n, columns) of `kernels.integrate_boxes` and flags (n,) of n spots."""

    columns: Floats
    flags: Integers


def integrated(
    measurement: Measurement,
    scene: Scene,
    rows: Integers,
    filled: bx.Filled,
    params: IntegrationParams,
    profile: Profile | None = None,
    curvature: Curvature | None = None,
    *,
    fits: int = kernels.FITS,
) -> Found:
    """Integrate the filled boxes of the spots `rows`; ``fits``: see `kernels.integrate_boxes`."""
    n = len(rows)
    columns, flags = np.empty((n, len(kernels.COLUMNS))), np.zeros(n, np.int64)
    region = np.zeros(n, np.int64)
    correction = sharp = np.empty((0, 0, 0, 0))
    if profile is not None:
        correction, sharp = profile.correction, profile.sharp
        region = profiles.region_of(
            scene.spots.select(rows), profile.regions, scene.n_frames, scene.widths.shape
        )
    curvature = curvature or Curvature()
    bend = np.stack([curvature.mean, curvature.spread])
    boxes = kernel_boxes(measurement, scene, rows, filled)
    start = boxes.neighbours.start
    surface = kernels.Surface(bend, curvature.terms)
    cuts = kernels.Cuts(measurement.saturation, params.overlap, params.min_recorded)

    def work(part: slice) -> None:
        kernels.integrate_boxes(
            kernels.Voxels(
                filled.counts, filled.offset[part], filled.origin[part], filled.shape[part]
            ),
            kernels.Places(*(values[part] for values in boxes.places)),
            boxes.norms,
            boxes.neighbours._replace(start=start[part.start : part.stop + 1]),
            kernels.LearnedProfiles(correction, sharp, float(profiles.NODES[-1]), region[part]),
            surface,
            cuts,
            fits,
            columns[part],
            flags[part],
        )

    edges = [n * i // params.threads for i in range(params.threads + 1)]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]
    if len(parts) == 1:
        work(parts[0])
    else:
        with ThreadPoolExecutor(params.threads) as pool:
            list(pool.map(work, parts))
    return Found(columns, flags)


def _read_variance(measurement: Measurement) -> NDArray[np.float32]:
    known = measurement.read_variance
    return np.empty((0, 0), np.float32) if known is None else known


class KernelBoxes(NamedTuple):
    """Arguments of the kernels for filled boxes."""

    voxels: kernels.Voxels
    places: kernels.Places
    norms: kernels.Norms
    neighbours: kernels.Neighbours


def kernel_boxes(
    measurement: Measurement, scene: Scene, spots: Integers, filled: bx.Filled
) -> KernelBoxes:
    """Return the arguments of the kernels for the filled boxes of some spots."""
    start, near = bx.neighbours(bx.Boxes(filled.origin, filled.shape), spots, scene.cells)
    return KernelBoxes(
        kernels.Voxels(filled.counts, filled.offset, filled.origin, filled.shape),
        kernels.Places(
            scene.centre[spots], scene.sigma[spots], scene.half[spots], scene.error[spots]
        ),
        kernels.Norms(measurement.pixel_norm, measurement.frame_norm, _read_variance(measurement)),
        kernels.Neighbours(start, near, scene.centre, scene.half),
    )
