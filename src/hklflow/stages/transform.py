"""Transform the frames of one rotation to counts and norm on the hkl grid.

One pass gives two volumes: one with all good pixels, one without the pixels of the 3-D mask. On a
cluster a rotation can be divided into blocks of frames, each transformed by its own job;
`add_transforms` adds the blocks and gives the same volumes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from hklflow import stage
from hklflow.stage import norms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.formats.bands import Band
    from hklflow.formats.raw_frames import Frames
    from hklflow.geometry import Rotation
    from hklflow.images.scan import RotationScan
    from hklflow.images.surroundings import Part
    from hklflow.nexus.masks import FrameMask
    from hklflow.orientation.product import Orientation
    from hklflow.stage.rehearsal import Known
    from hklflow.transform.binning import Accumulator
    from hklflow.transform.sums import Expected

VERSION = 10
FRAMES_OF = "scan"
_LEFT = 0.1  # shift of S(Q), in voxels, that is reported


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""
    scale: Path
    """Scale of every frame."""
    absorption: Path | None = None
    """Transmission by the crystal's shape; None: the shape is not given."""
    refined: Path | None = None
    """Scale from repeated measurements; None: it was not asked for."""
    frame_mask: Path
    """3-D mask of artefacts."""
    accepted: Path | None = None
    """Verdict of the quality gates on the scan; None if the scan was not judged."""
    orientation: Path
    """Refined orientation of the scan."""
    background: Path | None = None
    """Backgrounds without the crystal, which are subtracted; None: nothing is subtracted."""


class Outputs(stage.Outputs):
    transform: Path
    """Counts and norm of all good pixels."""
    masked_transform: Path
    """Counts and norm without the pixels of the 3-D mask."""


class Settings(norms.Corrections):
    """Settings of this stage in the configuration file."""

    samples: tuple[int, int, int] | None = None
    """Number of sub-samples of a pixel in a frame along (frame, slow, fast); powers of two are
    fastest. None: as many as needed so that each sub-sample extends over at most half a voxel.
    """
    block: int = Field(32, gt=0, le=512)
    """Number of frames in memory at a time."""
    memory: float = Field(8000.0, gt=0)
    """Memory for the volumes in MB; a larger grid needs several passes over the frames."""


class Params(Settings):
    """Settings of the stage, rotation, and block of frames."""

    rotation: str
    """Name of the rotation in the orientation file."""
    part: tuple[int, int] = (0, 1)
    """Number of this block of frames, from 0, and number of blocks."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Transform frames to volumes, in as many passes as the memory requires."""
    from hklflow import nexus
    from hklflow.formats import raw

    accepted = stage.read_accepted(inputs.accepted)
    task = _read(inputs, params)
    orientation, samples, noisy = task.orientation, task.samples, task.noise is not None
    with (
        raw.open_scan(task.scan) as frames,
        nexus.open_frame_mask(inputs.frame_mask) as excluded,
        nexus.TransformWriter(
            outputs.transform,
            outputs.masked_transform,
            orientation.grid,
            orientation.cell,
            _counts_type(task, frames),
            noisy or task.background is not None,
            exact=params.part[1] > 1,
            background=task.background is not None,
        ) as writer,
    ):
        used = invalid = inside = 0
        for number, planes in enumerate(_passes(task, frames, params.memory)):
            accumulator = _accumulator(task, frames.dtype, planes, threads)
            bands = frames.bands(
                params.block, *(task.scan.first + i for i in task.frames), threads=threads
            )
            description = "transform frames" + (f", pass {number + 1}" if number else "")
            _add(accumulator, bands, excluded, task, description)
            used, invalid = accumulator.used, accumulator.invalid
            inside += accumulator.inside
            writer.write(accumulator.boxes())
        outside = used * accumulator.n_sub - inside
        writer.note(
            {
                "accepted": accepted,
                "scale of the rotation": task.norm.scale.rotation,
                "sub-samples (frame, slow, fast)": list(samples),
                "corrected for": task.norm.corrected,
                "pixel-frames used": used,
                "pixel-frames flagged or saturated": invalid,
                "sub-samples outside the grid": outside,
                "unit of the norms": accumulator.norm_unit,
                **_gain_notes(task.scan),
                **task.norm.notes,
                **_background_notes(task),
                **_off_axis_notes(task),
                "voxels spanned by one (frame, slow, fast)": task.pitch.round(3).tolist(),
            }
        )
    print(
        f"{used} pixel-frames used, {outside} sub-samples outside the grid, {invalid} flagged or "
        "saturated"
    )


def _gain_notes(scan: "RotationScan") -> dict[str, Any]:
    """Return the gain and its error, which error bars do not contain; empty for photon counters."""
    if scan.gain is None:
        return {}
    return {
        "gain": scan.gain.source,
        "relative error of all S(Q), from the gain": scan.gain.relative_error,
    }


def _off_axis_notes(task: "_Task") -> dict[str, Any]:
    """Return the shift by the crystal's offset from the axis; warn if the correction leaves much.

    Empty for a crystal on the axis.
    """
    from hklflow.geometry.off_axis import effect

    if task.offset is None:
        return {}
    shift, left = effect(task.rotation, task.orientation.ub, task.orientation.grid, task.offset)
    if left > _LEFT:
        print(
            f"warning: the crystal off the axis shifts S(Q) by up to {shift:.2g} voxels, and the "
            f"correction leaves {left:.2g} (limit {_LEFT:g}): centre the crystal, or use a coarser "
            "grid"
        )
    return {
        "offset of the crystal from the axis (m)": task.offset.tolist(),
        "largest shift of S(Q) by this offset, which is corrected (voxels)": shift,
        "left by the correction (voxels)": left,
    }


class _Task(NamedTuple):
    """Rotation with all that its transform needs.

    Attributes
    ----------
    frames : (int, int)
        First and last frame of this block, the last excluded.
    pitch : (3,) array
        Voxels spanned by one step of (frame, slow, fast).
    noise : (slow, fast) array or None
        Variance of the read noise.
    background : list of Part or None
        Backgrounds that are subtracted.
    offset : (3,) array or None
        Offset of the crystal from the axis, m; None if it was not refined.
    """

    scan: "RotationScan"
    orientation: "Orientation"
    rotation: "Rotation"
    norm: norms.Norm
    frames: tuple[int, int]
    pitch: "NDArray[np.float64]"
    samples: tuple[int, int, int]
    noise: "NDArray[np.float32] | None"
    seed: int
    background: "list[Part] | None" = None
    offset: "NDArray[np.float64] | None" = None


def _read(inputs: Inputs, params: Params) -> _Task:
    """Read the geometry and the norm; warn if voxels are smaller than the pixels."""
    import zlib

    from hklflow import nexus
    from hklflow.base.names import measured
    from hklflow.formats import raw
    from hklflow.geometry.grid import pixel_pitch, sub_samples

    scan = nexus.read_scan(inputs.scan)
    norms.require_monitor(params, scan)
    orientation = stage.read_orientation(inputs.orientation)
    rotation = orientation.rotation(params.rotation)
    norm = norms.read_norm(
        inputs.mask, inputs.scale, params, orientation.reference_detector, rotation, scan.binning
    )
    norm = norms.absorbed(norm, inputs.absorption, params.rotation)
    norm = norms.refined(norm, inputs.refined, params.rotation)
    if norm.scale.source != "none":
        norm.corrected.append("transmission")
    pitch = pixel_pitch(rotation, orientation.ub, orientation.grid)
    steps = dict(zip(("frame", "slow", "fast"), pitch.tolist(), strict=True))
    wide = " and ".join(name for name, voxels in steps.items() if voxels > 1)
    fine = " and ".join(name for name, voxels in steps.items() if voxels <= 1)
    if wide:
        averaged = f"; along {fine} it would average over several steps" if fine else ""
        spans = ", ".join(f"{voxels:.2f} (1 {name})" for name, voxels in steps.items())
        print(
            f"warning: voxels are smaller than a step along {wide}; steps span, in voxels, "
            f"{spans}; a coarser grid loses nothing along {wide}{averaged}"
        )
    number, of = params.part
    begin, end = (rotation.scan.n_frames * i // of for i in (number, number + 1))
    # Sweeps that are merged need different random sub-sampling of their photons. Analyses of one
    # scan, which have the same photons, need the same: else they differ by its noise.
    name = f"{orientation.sample}/{measured(orientation.scan)}/{params.rotation}"
    seed = zlib.crc32(name.encode())
    return _Task(
        scan,
        orientation,
        rotation,
        norm,
        (begin, end),
        pitch,
        params.samples or sub_samples(pitch),
        raw.read_variance(scan),
        seed,
        norms.read_background(inputs.background, norm),
        orientation.offsets.get(params.rotation),
    )


def _passes(task: _Task, frames: "Frames", memory: float) -> list[tuple[int, int]]:
    """Return the planes (first, last) of each pass over the frames; ``memory`` is in MB."""
    from hklflow.transform import binning, coverage

    more = task.noise is not None, task.background is not None
    voxel = binning.voxel_bytes(frames.dtype, frames.shape[2], task.samples, *more)
    # `passes_needed` counts voxels of 8 bytes.
    ranges = coverage.passes_needed(
        task.rotation, task.orientation.ub, task.orientation.grid, task.frames, 8e6 * memory / voxel
    )
    if len(ranges) > 1:
        print(f"{len(ranges)} passes over the frames, because the volumes exceed `memory`")
    return ranges


def _accumulator(
    task: _Task, dtype: "np.dtype[Any]", planes: tuple[int, int], threads: int
) -> "Accumulator":
    """Return empty sums of some planes."""
    import numpy as np

    from hklflow.images import masks
    from hklflow.transform.binning import Accumulator, Readout

    flag, saturation = masks.flag_value(dtype) or np.inf, task.scan.saturation or np.inf
    return Accumulator(
        task.rotation,
        task.orientation.ub,
        task.orientation.grid,
        task.norm.pixel,
        task.norm.frame,
        task.samples,
        Readout(min(flag, saturation), task.scan.underload, task.noise),
        seed=task.seed,
        planes=planes,
        threads=threads,
        direction=task.norm.direction,
        expected=_expected(task),
        offset=task.offset,
    )


def _add(
    accumulator: "Accumulator",
    bands: "Iterator[Band]",
    excluded: "FrameMask",
    task: _Task,
    description: str,
) -> None:
    """Add all frames of the block, band by band."""
    begin, end = task.frames

    def frames_done(band: "Band") -> int:
        return len(band.counts) if band.last else 0

    mask = None
    for band in stage.progress(bands, end - begin, description, frames_done):
        first = band.first - task.scan.first
        if band.row == 0:
            last = first + len(band.counts)
            mask = excluded[first:last] if excluded.any(first, last) else None
        accumulator.add(band.counts, first, mask, band.row)


# ------------------------------------------------------- background without the crystal


def _counts_type(task: _Task, frames: "Frames") -> "np.dtype[Any]":
    import numpy as np

    from hklflow.transform import binning

    if task.background is not None:  # counts minus background
        return np.dtype(np.float64)
    return binning.counts_type(frames.dtype, frames.shape[2], task.samples)


def _expected(task: _Task) -> "Expected | None":
    """Return the norms of the background; None if there is none."""
    from hklflow.transform import surroundings

    if task.background is None:
        return None
    rotation, ub, grid = task.rotation, task.orientation.ub, task.orientation.grid
    # Without the transmission of the crystal, which is in the factors of the backgrounds.
    incident = task.norm.scale.monitor * task.norm.scale.attenuation
    repeats = surroundings.repeats(rotation, ub, grid, task.samples)
    return surroundings.expected(task.background, incident, repeats)


def _background_notes(task: _Task) -> dict[str, Any]:
    """Return what error bars do not contain of the background; empty without a background."""
    from hklflow.transform import surroundings

    if task.background is None:
        return {}
    return {
        "counts": "photons minus `background`, the expected counts without the crystal",
        "backgrounds": [part.name for part in task.background],
        "relative errors of the backgrounds, common to all voxels": {
            part.name: part.error for part in task.background
        },
        "variance of the background in a sum of voxels, over the sum of their variances": (
            surroundings.growth(
                task.rotation,
                task.orientation.ub,
                task.orientation.grid,
                task.samples,
                task.background,
            )
        ),
    }


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Compare the flat field with the frames."""
    if (facts := known.scan(inputs.scan)) is not None:
        norms.require_flat(params, facts.scan, known)


if __name__ == "__main__":
    stage.command(main)
