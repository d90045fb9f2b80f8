"""Bound the background of a scan that was not measured without the crystal, from its rotations.

The crystal turns, and its surroundings do not. Powder rings of the surroundings are sharp in the
scattering angle. The anisotropic part of the rest is found from repeated measurements of S(Q). The
isotropic part is like isotropic scattering of the crystal: its interval is reported for
each shell of Q.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from hklflow import stage
from hklflow.stage import norms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry import Rotation
    from hklflow.images.powder_rings import Cells, Rings
    from hklflow.images.scan import RotationScan
    from hklflow.images.surroundings import Part
    from hklflow.orientation.product import Orientation
    from hklflow.transform.repeat_grid import RepeatGrid
    from hklflow.transform.repeats import Orbits, Records
    from hklflow.transform.unmeasured import Bounds, Fit, Places

VERSION = 2

_CELL_FRAMES = 180  # frames of a rotation from which rings are found
_CELL_PIXELS = 300_000
_REACHES = (1.0, 0.75, 0.55, 0.4, 0.3)
_BLOCK = 0.3  # h, k, l; edge of the blocks whose least level bounds the background
_FEWEST = 1000  # records that determine anything
_SIGNIFICANT = 5.0  # standard deviations of χ² above which there is an anisotropic part


class Inputs(stage.Inputs):
    scans: list[Path]
    """Scan files of the rotations."""
    masks: list[Path]
    """Pixel masks of the rotations."""
    scales: list[Path]
    """Scales of the frames."""
    absorption: Path | None = None
    """Transmission by the shape of the crystal."""
    frame_masks: list[Path]
    """3-D masks of the rotations."""
    accepted: Path | None = None
    """Verdict of the quality gates on the scan; None if the scan was not judged."""
    orientation: Path
    """Refined orientation of the scan."""
    flat_fields: list[Path] = Field(default_factory=list)
    """Response of the pixels of each rotation, from constants or normalisations."""


class Outputs(stage.Outputs):
    background: Path
    """Interval of the isotropic background, and images of what is subtracted."""
    picture: Path
    """Picture: measured, background and rest."""
    metrics: Path
    """Interval of the isotropic background by shell, powder rings; warnings."""


class Params(stage.Params):
    """Settings of the stage."""

    subtract: bool = False
    """Subtract powder rings and the anisotropic part."""
    rings: Literal["mask", "subtract"] = "mask"
    """What is done with powder rings, if `subtract` is True."""
    friedel: bool = True
    """S(Q) and S(-Q) are equal."""
    shells: int = Field(16, ge=2, le=200)
    """Number of shells of |Q| for which the interval is reported."""
    punch: float = Field(0.3, ge=0, lt=0.5)
    """Voxels whose middle differs from a reflection by less than this in h, k and l are not used.
    """
    records: int = Field(1_000_000, ge=1000)
    """Largest number of repeated measurements from which the anisotropic part is found; more do
    not make it better, but slower.
    """
    corrections: norms.Corrections = norms.Corrections()
    """Corrections of the norm, the same as in the transform."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Sum the frames, find rings and the anisotropic part, and bound the isotropic part."""
    from hklflow import nexus, plots
    from hklflow.plots.background import unmeasured as picture

    stage.read_accepted(inputs.accepted)
    orientation = stage.read_orientation(inputs.orientation)
    names = [path.absolute().parent.name for path in inputs.scans]
    rotations = [orientation.rotation(name) for name in names]
    task = _Task(orientation, [nexus.read_scan(path) for path in inputs.scans], names, rotations)
    _require_one_detector(task)
    found = _found(task, inputs, params)
    nexus.write_unmeasured(outputs.background, found.parts, found.bounds)
    plots.save(
        picture(found.cells, found.maps, found.bounds, f"{orientation.sample} {orientation.scan}"),
        outputs.picture,
    )
    stage.write_json(outputs.metrics, _metrics(found, params))
    for warning in found.warnings:
        print(f"warning: {warning}")
    print(_sentence(found))


class _Task(NamedTuple):
    """Orientation, and scan files, names and geometry of the rotations."""

    orientation: "Orientation"
    scans: "list[RotationScan]"
    names: list[str]
    rotations: "list[Rotation]"


class _Found(NamedTuple):
    """What the frames say about the background."""

    parts: "list[Part]"
    bounds: "Bounds | None"
    fit: "Fit | None"
    chi2: float
    rings: "Rings"
    cells: "Cells"
    maps: "NDArray[np.float64]"
    warnings: list[str]


def _require_one_detector(task: _Task) -> None:
    """Refuse rotations whose detectors see the surroundings differently.

    Raises
    ------
    HklflowError
    """
    import numpy as np

    from hklflow.base.errors import HklflowError

    first = task.rotations[0]
    n_slow, n_fast = first.detector.shape
    corners = np.array([[0, 0, n_slow, n_slow], [0, n_fast, 0, n_fast]], float)
    pixel = np.linalg.norm(first.q_lab(0.0, 1.0) - first.q_lab(0.0, 0.0))
    for name, other in zip(task.names, task.rotations, strict=True):
        same = other.detector.shape == first.detector.shape
        if not same or np.abs(other.q_lab(*corners) - first.q_lab(*corners)).max() > 2 * pixel:
            raise HklflowError(
                f"`background: unmeasured`: the detector of {name} is at another place than that "
                f"of {task.names[0]}, so that they see different backgrounds; remove `unmeasured`, "
                "or make them scans of their own"
            )


def _found(task: _Task, inputs: Inputs, params: Params) -> _Found:
    from hklflow.images import powder_rings
    from hklflow.transform.unmeasured import Places

    plan, warnings = _plan(task)
    records, cells, pixel_norm = _sums(task, plan, inputs, params)
    rings = powder_rings.find(cells)
    pixels = _pixels(task.rotations[0])
    use = pixel_norm > 0
    bounds, fit, chi2 = None, None, 0.0
    if records is None or len(records) == 0:
        warnings.append(
            "the background besides powder rings is not determined: no part of S(Q) was measured "
            "twice (one short rotation, low symmetry), or a frame spans more than the space "
            "between reflections; it is not subtracted"
        )
    else:
        assert plan is not None
        of_pixels = Places(pixels.q[use], pixels.azimuth[use])
        found = _bounded(records, rings, task, plan, of_pixels, params)
        if found is None:
            warnings.append(
                "the background is not determined: too few repeated measurements lie between the "
                "powder rings; nothing but rings is found"
            )
        else:
            bounds, fit, chi2 = found
            if rings.rings and chi2 > _SIGNIFICANT:
                # Ends of rings, and rings that are too weak to be found, have a texture, too.
                warnings.append(
                    "powder rings were found: what is left of them may be taken for a smooth "
                    "anisotropic background, so that this is not subtracted; measure a run "
                    "without the crystal"
                )
                chi2 = 0.0
            if chi2 < _SIGNIFICANT:
                bounds = bounds._replace(low=0 * bounds.low)
    smooth = _smooth(fit, bounds, chi2, pixels, use)
    ring = rings.image(pixels.q, pixels.azimuth)
    parts = _parts(smooth, ring, pixel_norm, params)
    if params.subtract and params.rings == "subtract" and rings.rings:
        warnings.append(
            f"{len(rings.rings)} powder rings are subtracted, with errors of up to half of a ring "
            "in single pixels, which are not in the error bars; `background: {rings: mask}` leaves "
            "the pixels out, and a run without the crystal measures them"
        )
    maps = _maps(cells, pixels, use, smooth[0] + ring[0])
    return _Found(parts, bounds, fit, chi2, rings, cells, maps, warnings)


def _plan(task: _Task) -> "tuple[RepeatGrid | None, list[str]]":
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
                f"above |Q| = {share * reach:.2f} 1/Å frames are too wide to compare repeated "
                "measurements: the background is bounded below it only"
            ]  # fmt: skip
            return plan, said
    return None, []


def _sums(
    task: _Task, plan: "RepeatGrid | None", inputs: Inputs, params: Params
) -> "tuple[Records | None, Cells, NDArray[np.float64]]":
    """Sum all frames by voxel, and some by sector and |Q|; return also the pixels' norm."""
    import numpy as np

    from hklflow import nexus
    from hklflow.formats import raw
    from hklflow.images import masks
    from hklflow.transform import repeats
    from hklflow.transform.sums import Readout

    orbit = None if plan is None else _orbits(task, plan, params)
    parts, cells, first_norm = [], None, None
    for number, (scan, rotation) in enumerate(zip(task.scans, task.rotations, strict=True)):
        corrections = params.corrections
        if inputs.flat_fields:
            corrections = corrections.model_copy(update={"flat_field": inputs.flat_fields[number]})
        norm = norms.read_norm(
            inputs.masks[number],
            inputs.scales[number],
            corrections,
            task.orientation.reference_detector,
            rotation,
            scan.binning,
        )
        norm = norms.absorbed(norm, inputs.absorption, task.names[number])
        first_norm = norm.pixel if first_norm is None else first_norm
        incident = norm.scale.monitor * norm.scale.attenuation
        with (
            raw.open_scan(scan) as frames,
            nexus.open_frame_mask(inputs.frame_masks[number]) as excluded,
        ):
            flag = masks.flag_value(frames.dtype) or np.inf
            readout = Readout(min(flag, scan.saturation or np.inf), scan.underload)
            own = None
            if plan is not None and orbit is not None:
                own = repeats.Repeats(
                    rotation, number, task.orientation.ub, plan.grid, orbit, norm.pixel,
                    norm.frame, readout, plan.block, [(norm.pixel, incident)], norm.direction,
                )  # fmt: skip
            sampled = _Sampled(task, number, norm.pixel, incident, readout, params.punch)
            n, fast = rotation.scan.n_frames, rotation.detector.shape[1]
            blocks = frames.blocks(plan.frames if plan else 1, scan.first, scan.first + n)
            first = 0
            for counts in stage.progress(blocks, n, f"sum frames of {task.names[number]}", len):
                last = first + len(counts)
                mask = None
                if excluded.any(first, last):
                    mask = np.unpackbits(excluded[first:last], axis=2, count=fast)
                if own is not None:
                    own.add(counts, first, mask)
                sampled.add(counts, first, mask)
                first = last
        parts += [] if own is None else [own.records()]
        mine = sampled.cells
        cells = mine if cells is None else cells._replace(
            counts=cells.counts + mine.counts, unit=cells.unit + mine.unit
        )  # fmt: skip
    assert cells is not None
    assert first_norm is not None
    joined = None
    if plan is not None and orbit is not None:
        joined = repeats.Records.joined(parts, orbit, gap=2.5 * plan.frames)
    return joined, cells, first_norm


def _orbits(task: _Task, plan: "RepeatGrid", params: Params) -> "Orbits":
    """Return the orbits of the voxels under the Laue group, or the point group."""
    from hklflow.geometry import symmetry
    from hklflow.transform import repeats
    from hklflow.volumes.symmetrise import images

    group = symmetry.space_group(task.orientation.space_group)
    maps = images(plan.grid, group.laue_operations if params.friedel else _proper(group))
    return repeats.orbits(plan.grid, maps.turns, maps.shifts, params.punch, plan.share)


def _proper(group: Any) -> "NDArray[np.int64]":
    """Return the operations of the point group on hkl: rows of the operations of coordinates."""
    import numpy as np

    turns = np.transpose(group.operations[0], (0, 2, 1))
    return np.unique(np.concatenate([np.eye(3, dtype=int)[None], turns]), axis=0)


def _pixels(rotation: "Rotation", every: int = 1) -> "Places":
    """Return |Q| and azimuth of the pixels' middles."""
    import numpy as np

    centres = (np.arange(0, size, every) + 0.5 for size in rotation.detector.shape)
    return _places(rotation, *np.meshgrid(*centres, indexing="ij"))


def _places(rotation: "Rotation", slow: Any, fast: Any) -> "Places":
    import numpy as np

    from hklflow.transform.unmeasured import Places

    q = rotation.q_lab(slow, fast)  # the beam is along z
    return Places(np.linalg.norm(q, axis=-1), np.arctan2(q[..., 1], q[..., 0]))


class _Sampled:
    """Sums of some frames by range of frames, sector and |Q|, without reflections."""

    def __init__(
        self,
        task: _Task,
        number: int,
        norm: "NDArray[np.float64]",
        incident: "NDArray[np.float64]",
        readout: Any,
        punch: float,
    ) -> None:
        import numpy as np

        from hklflow.images import powder_rings

        self._rotation, self._ub = task.rotations[number], task.orientation.ub
        self._incident, self._readout, self._punch = incident, readout, punch
        every = max(1, int(np.ceil(np.sqrt(norm.size / _CELL_PIXELS))))
        self._every = every
        self._norm = norm[::every, ::every]
        places = _pixels(self._rotation, every)
        first = task.rotations[0]
        middle = first.q_lab(*(n / 2 for n in first.detector.shape))
        width = np.linalg.norm(
            first.q_lab(first.detector.shape[0] / 2 + 1, first.detector.shape[1] / 2) - middle
        )
        edges = powder_rings.bins(_pixels(first, every).q, max(float(width), 0.005))
        n_bins = len(edges) - 1
        shell = np.clip(np.digitize(places.q, edges) - 1, 0, n_bins - 1)
        sector = (places.azimuth + np.pi) / (2 * np.pi) * powder_rings.SECTORS
        sector = np.clip(sector.astype(int), 0, powder_rings.SECTORS - 1)
        self._cell = sector * n_bins + shell
        self._slow, self._fast = (
            (np.arange(0, size, every) + 0.5) for size in self._rotation.detector.shape
        )
        size = powder_rings.GROUPS, powder_rings.SECTORS, n_bins
        self.cells = powder_rings.Cells(edges, np.zeros(size), np.zeros(size))
        n = self._rotation.scan.n_frames
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


def _bounded(
    records: "Records",
    rings: "Rings",
    task: _Task,
    plan: "RepeatGrid",
    pixels: "Places",
    params: Params,
) -> "tuple[Bounds, Fit, float] | None":
    """Return the interval, the fit, and the significance of the anisotropic part.

    None if too few records lie between the powder rings.
    """
    import numpy as np

    from hklflow.transform import unmeasured

    places = _places(
        task.rotations[0], records.slow.astype(np.float64), records.fast.astype(np.float64)
    )
    # A voxel is wider than a pixel: records next to a ring contain some of it.
    between = ~rings.near(places.q, _voxel(task, plan))
    if np.count_nonzero(between) < _FEWEST:
        return None
    clear, of_clear = records.take(between), unmeasured.Places(*(x[between] for x in places))
    keep = np.ones(len(clear), bool)
    if len(clear) > params.records:
        # The golden ratio scatters the numbers of the orbits.
        keep = (clear.voxel * 4.32623792124926) % 1.0 < params.records / len(clear)
    frames = tuple(r.scan.n_frames for r in task.rotations)
    of_fit = unmeasured.Places(*(x[keep] for x in of_clear))
    fit = unmeasured.fit(clear.take(keep), of_fit, frames, task.rotations[0].detector.shape)
    size = max(1, round(_BLOCK / float(np.min(plan.grid.step))))
    l, k, h = np.unravel_index(clear.voxel, plan.grid.array_shape)  # noqa: E741
    blocks = ((l // size) * 4096 + k // size) * 4096 + h // size
    edges = np.linspace(places.q.min(), places.q.max() * (1 + 1e-6), params.shells + 1)
    chi2 = unmeasured.significance(fit)
    trusted = chi2 >= _SIGNIFICANT and not rings.rings
    used = fit if trusted else replace(
        fit, parameters=0 * fit.parameters, covariance=0 * fit.covariance
    )  # fmt: skip
    bounds = unmeasured.bounds(clear, of_clear, blocks, used, pixels, edges)
    bounds = _on_rings(bounds, records, places, rings)
    return bounds, fit, chi2


def _voxel(task: _Task, plan: "RepeatGrid") -> float:
    """Return the edge of a voxel in 1/Å."""
    import numpy as np

    return float(np.max(np.linalg.norm(task.orientation.ub, axis=0) * plan.grid.step))


def _on_rings(bounds: "Bounds", records: "Records", places: "Places", rings: "Rings") -> "Bounds":
    """Return the interval with shells that powder rings cover: 0 to the level without the rings."""
    import numpy as np

    shell = np.digitize(places.q, bounds.edges) - 1
    low, high, level = bounds.low.copy(), bounds.high.copy(), bounds.level.copy()
    for i in np.flatnonzero(~np.isfinite(high)):
        own = shell == i
        unit = records.background[own].astype(np.float64)
        if not unit.sum() > 0:
            continue
        ring = rings.image(places.q[own], places.azimuth[own])[0]
        level[i] = (records.counts[own].sum() - (unit * ring).sum()) / unit.sum()
        low[i], high[i] = 0.0, max(level[i], 0.0)
    return bounds._replace(low=low, high=high, level=level)


def _smooth(
    fit: "Fit | None",
    bounds: "Bounds | None",
    chi2: float,
    pixels: "Places",
    use: "NDArray[np.bool_]",
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return the least smooth background that has the anisotropic part, and its variance."""
    import numpy as np

    zero = np.zeros(pixels.q.shape), np.zeros(pixels.q.shape)
    if fit is None or bounds is None or chi2 < _SIGNIFICANT:
        return zero
    b, variance = fit.image(pixels)
    n = len(bounds.low)
    shell = np.clip(np.digitize(pixels.q, bounds.edges) - 1, 0, n - 1)
    sums = [np.bincount(shell[use], x, n) for x in (b[use], np.ones(np.count_nonzero(use)))]
    least = np.nan_to_num(bounds.low) - sums[0] / np.maximum(sums[1], 1)
    middles = (bounds.edges[:-1] + bounds.edges[1:]) / 2
    known = np.isfinite(bounds.low)
    if not known.any():
        return zero
    image = b + np.interp(pixels.q, middles[known], least[known])
    inside = use & (pixels.q <= bounds.edges[-1])
    return np.where(inside, np.maximum(image, 0), 0), np.where(inside, variance, 0)


def _parts(
    smooth: "tuple[NDArray[np.float64], NDArray[np.float64]]",
    ring: "tuple[NDArray[np.float64], NDArray[np.float64]]",
    norm: "NDArray[np.float64]",
    params: Params,
) -> "list[Part]":
    """Return what is subtracted, for an incident intensity of 1; nothing on a mere report."""
    import numpy as np

    from hklflow.images.surroundings import Part

    parts = []
    if params.subtract:
        for name, (image, variance) in (("anisotropic part", smooth), ("powder rings", ring)):
            if not (image > 0).any():
                continue
            level = norm * image
            if name == "powder rings" and params.rings == "mask":
                level = np.where(image > 0, np.nan, 0.0)
            parts.append(Part(name, level, norm**2 * variance, np.ones(()), 0.0))
    return parts


def _maps(
    cells: "Cells", pixels: "Places", use: "NDArray[np.bool_]", image: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """Return measured level and background (2, sectors, bins), in units of S."""
    import numpy as np

    counts, unit = cells.counts.sum(axis=0), cells.unit.sum(axis=0)
    n_sectors, n = counts.shape
    shell = np.clip(np.digitize(pixels.q[use], cells.edges) - 1, 0, n - 1)
    sector = (pixels.azimuth[use] + np.pi) / (2 * np.pi) * n_sectors
    cell = np.clip(sector.astype(int), 0, n_sectors - 1) * n + shell
    total, number = (
        np.bincount(cell, x, n_sectors * n).reshape(n_sectors, n)
        for x in (image[use], np.ones(len(cell)))
    )
    known = (unit > 0) & (number > 0)
    maps = np.full((2, n_sectors, n), np.nan)
    maps[0][known] = counts[known] / unit[known]
    maps[1][known] = total[known] / number[known]
    return maps


def _share(bounds: "Bounds") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return the least and largest share of the isotropic background of the level."""
    return bounds.low / bounds.level, bounds.high / bounds.level


def _metrics(found: _Found, params: Params) -> dict[str, Any]:
    """Return the figures."""
    import numpy as np

    figures: dict[str, Any] = {
        "subtracted": [part.name for part in found.parts],
        "powder rings": [
            {"|Q| in 1/Å": r.q, "width in 1/Å": r.width, "height over S": r.height}
            for r in found.rings.rings
        ],
        "determined": found.bounds is not None,
        "significance of the anisotropic part": found.chi2,
        "warnings": found.warnings,
    }
    if found.bounds is None:
        return figures
    low, high = _share(found.bounds)
    finite = np.isfinite(high)
    return figures | {
        "largest share of S that may be background": float(np.max(high[finite], initial=0)),
        "isotropic background": {
            "edges of the shells in 1/Å": found.bounds.edges.round(4).tolist(),
            "least in units of S": found.bounds.low.tolist(),
            "largest in units of S": found.bounds.high.tolist(),
            "level in units of S": found.bounds.level.tolist(),
            "least share of the level": low.tolist(),
            "largest share of the level": high.tolist(),
        },
        "settings": {"subtract": params.subtract, "rings": params.rings},
    }  # fmt: skip


def _sentence(found: _Found) -> str:
    """Return the sentence about the isotropic part."""
    import numpy as np

    rings = f"{len(found.rings.rings)} powder rings; "
    if found.bounds is None:
        return rings + "the rest of the background is not determined by the rotations"
    low, high = _share(found.bounds)
    if not np.isfinite(high).any():
        return rings + "too few counts to bound the isotropic background"
    return rings + (
        f"isotropic background: at least {np.nanmin(low):.0%} to {np.nanmax(low):.0%} and at most "
        f"{np.nanmin(high):.0%} to {np.nanmax(high):.0%} of the level between the reflections, by "
        "shell; measure a run without the crystal to know it"
    )


if __name__ == "__main__":
    stage.command(main)
