"""Sums of the frames of a scan from which its background is found without a run.

Sums by voxel have repeated measurements of S(Q); sums by range of frames, sector of the detector
and |Q| have powder rings.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hklflow.stage import repeated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry import Rotation
    from hklflow.images.ring_search import Cells
    from hklflow.images.scan import RotationScan
    from hklflow.orientation.product import Orientation
    from hklflow.stage.norms import Norm
    from hklflow.transform.repeat_grid import RepeatGrid
    from hklflow.transform.repeats import Orbits, Records
    from hklflow.transform.sums import Readout
    from hklflow.transform.unmeasured import Places

_CELL_FRAMES = 180  # frames of a rotation from which rings are found
_CELL_PIXELS = 300_000
_REACHES = (1.0, 0.75, 0.55, 0.4, 0.3)


class Task(NamedTuple):
    """Rotations of a scan.

    Attributes
    ----------
    orientation : Orientation
    scans : list of RotationScan
    names : list of str
    rotations : list of Rotation
    norms : list of Norm
    frame_masks : list of Path
        3-D masks.
    """

    orientation: "Orientation"
    scans: "list[RotationScan]"
    names: list[str]
    rotations: "list[Rotation]"
    norms: "list[Norm]"
    frame_masks: list[Path]


class Punch(NamedTuple):
    """Voxels that are compared.

    Attributes
    ----------
    reach : float
        Voxels whose middle differs from a reflection by less in h, k and l are not used.
    friedel : bool
        S(Q) and S(-Q) are equal.
    """

    reach: float
    friedel: bool


def plan_of(task: Task) -> "tuple[RepeatGrid | None, list[str]]":
    """Return the grid of the repeated measurements, as far in |Q| as frames are fine enough."""
    from hklflow.geometry.rotation import q_max
    from hklflow.transform import repeat_grid

    reach = max(q_max(rotation) for rotation in task.rotations)
    for share in _REACHES:
        plan = repeat_grid.choose(
            task.rotations, task.orientation.ub, task.orientation.cell, share * reach
        )
        if plan is not None:
            said = [] if share == 1 else [
                f"above |Q| = {share * reach:.2f} 1/Å frames are too wide, or too many for "
                "such coarse pixels, to compare repeated measurements: the background is bounded "
                "below it only"
            ]  # fmt: skip
            return plan, said
    return None, []


def summed(task: Task, plan: "RepeatGrid | None", punch: Punch) -> "tuple[Records | None, Cells]":
    """Sum all frames by voxel, and some by sector and |Q|.

    Returns
    -------
    Records or None
        Repeated measurements; None without a plan.
    Cells
    """
    from hklflow.transform import repeats

    orbit = None
    if plan is not None:
        orbit = repeated.orbits(task.orientation, plan, punch.reach, punch.friedel)
    parts: list[Records] = []
    cells: Cells | None = None
    for number in range(len(task.scans)):
        own, mine = _of_rotation(task, number, plan, orbit, punch)
        parts += [] if own is None else [own]
        cells = mine if cells is None else cells._replace(
            counts=cells.counts + mine.counts, unit=cells.unit + mine.unit,
            turn=cells.turn + mine.turn,
        )  # fmt: skip
    assert cells is not None
    if plan is None or orbit is None:
        return None, cells
    return repeats.Records.joined(parts, orbit, gap=2.5 * plan.frames), cells


def _of_rotation(
    task: Task,
    number: int,
    plan: "RepeatGrid | None",
    orbit: "Orbits | None",
    punch: Punch,
) -> "tuple[Records | None, Cells]":
    """Return the sums of a rotation."""
    from hklflow.transform import repeats

    scan, rotation, norm = task.scans[number], task.rotations[number], task.norms[number]
    incident = norm.scale.monitor * norm.scale.attenuation
    name, every = task.names[number], plan.frames if plan else 1
    with repeated.ranges(scan, task.frame_masks[number], name, every) as frames:
        own = None
        if plan is not None and orbit is not None:
            own = repeats.Repeats(
                rotation, number, task.orientation.ub, plan.grid, orbit, norm.pixel, norm.frame,
                frames.readout, plan.block, [(norm.pixel, incident)], norm.direction,
                task.orientation.offsets.get(name),
            )  # fmt: skip
        sampled = _Sampled(task, number, incident, frames.readout, punch.reach)
        for part in frames.each:
            if own is not None:
                own.add(*part)
            sampled.add(*part)
    return None if own is None else own.records(), sampled.cells


def pixel_places(rotation: "Rotation", every: int = 1) -> "Places":
    """Return |Q| and azimuth of the pixels' middles."""
    import numpy as np

    centres = (np.arange(0, size, every) + 0.5 for size in rotation.detector.shape)
    return places_of(rotation, *np.meshgrid(*centres, indexing="ij"))


def places_of(rotation: "Rotation", slow: Any, fast: Any) -> "Places":
    """Return |Q| and azimuth of places on the detector."""
    import numpy as np

    from hklflow.transform.unmeasured import Places

    q = rotation.q_lab(slow, fast)  # the beam is along z
    return Places(np.linalg.norm(q, axis=-1), np.arctan2(q[..., 1], q[..., 0]))


def ring_edges(rotation: "Rotation", every: int = 1) -> "NDArray[np.float64]":
    """Return the edges of the bins of |Q| in which powder rings are searched."""
    import numpy as np

    from hklflow.images import ring_search

    middle = [n / 2 for n in rotation.detector.shape]
    width = np.linalg.norm(rotation.q_lab(middle[0] + 1, middle[1]) - rotation.q_lab(*middle))
    return ring_search.bins(pixel_places(rotation, every).q, max(float(width), 0.005))


class _Sampled:
    """Sums of some frames by range of frames, sector and |Q|, without reflections."""

    def __init__(
        self,
        task: Task,
        number: int,
        incident: "NDArray[np.float64]",
        readout: "Readout",
        punch: float,
    ) -> None:
        import numpy as np

        from hklflow.images import ring_search

        self._rotation, self._ub = task.rotations[number], task.orientation.ub
        self._incident, self._readout, self._punch = incident, readout, punch
        norm = task.norms[number].pixel
        every = max(1, int(np.ceil(np.sqrt(norm.size / _CELL_PIXELS))))
        self._every = every
        self._norm = norm[::every, ::every]
        places = pixel_places(self._rotation, every)
        edges = ring_edges(task.rotations[0], every)
        self._cell = ring_search.numbers(places.q, places.azimuth, edges)
        self._slow, self._fast = (
            (np.arange(0, size, every) + 0.5) for size in self._rotation.detector.shape
        )
        size = ring_search.GROUPS, ring_search.SECTORS, len(edges) - 1
        n = self._rotation.scan.n_frames
        turn = n * abs(np.degrees(self._rotation.scan.step))
        self.cells = ring_search.Cells(edges, np.zeros(size), np.zeros(size), turn)
        self._chosen = set(np.unique(np.linspace(0, n - 1, min(n, _CELL_FRAMES)).astype(int)))

    def add(self, counts: "NDArray[Any]", first: int, mask: "NDArray[np.uint8] | None") -> None:
        """Add a range of frames."""
        import numpy as np

        slow, fast = np.meshgrid(self._slow, self._fast, indexing="ij")
        for i, image in enumerate(counts):
            z = first + i
            if z not in self._chosen or self._incident[z] <= 0:
                continue
            part = image[:: self._every, :: self._every]
            good = (part < self._readout.invalid_from) & (part >= self._readout.valid_from)
            good &= self._norm > 0
            if mask is not None:
                good &= mask[i, :: self._every, :: self._every] == 0
            hkl = self._rotation.hkl(self._ub, z + 0.5, slow, fast)
            good &= np.abs(hkl - np.rint(hkl)).max(axis=-1) > self._punch
            group = z * self.cells.counts.shape[0] // self._rotation.scan.n_frames
            shape = self.cells.counts.shape[1:]
            for sums, values in (
                (self.cells.counts, part[good].astype(float)),
                (self.cells.unit, self._norm[good] * self._incident[z]),
            ):
                found = np.bincount(self._cell[good], values, shape[0] * shape[1])
                sums[group] += found.reshape(shape)
