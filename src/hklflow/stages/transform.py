"""Transform the frames of one rotation to counts and norm on the hkl grid.

One pass gives two volumes: one with all good pixels, one without the pixels of the 3-D mask. On a
cluster a rotation can be cut into blocks of frames, each transformed by its own job;
`add_transforms` adds the blocks and gives the same volumes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage
from hklflow.stage import norms

if TYPE_CHECKING:
    from hklflow.formats.bands import Band

VERSION = 6
FRAMES_OF = "scan"


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""
    scale: Path
    """Scale of every frame."""
    frame_mask: Path
    """3-D artefact mask."""
    accepted: Path | None = None
    """Verdict of the gates on the scan; None: it was not judged."""
    orientation: Path
    """Refined orientation of the scan."""


class Outputs(stage.Outputs):
    transform: Path
    """Counts and norm of all good pixels."""
    masked_transform: Path
    """Counts and norm without the 3-D mask's pixels."""


class Settings(norms.Corrections):
    """Settings from the configuration file."""

    samples: tuple[int, int, int] | None = None
    """Sub-samples of a pixel in a frame along (frame, slow, fast), fastest as powers of two. None:
    so many that each spans at most half a voxel."""
    block: int = Field(32, gt=0, le=512)
    """Frames held in memory at a time."""
    memory: float = Field(8000.0, gt=0)
    """MB for the volumes; a larger grid needs several passes over the frames."""


class Params(Settings):
    """Settings, rotation, and block of frames."""

    rotation: str
    """Name of the rotation in the orientation file."""
    part: tuple[int, int] = (0, 1)
    """Number of this block of frames, from 0, and number of blocks."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Transform frames to volumes, in as many passes as the memory needs."""
    import zlib

    import numpy as np

    from hklflow import nexus
    from hklflow.formats import raw
    from hklflow.geometry.grid import pixel_pitch, sub_samples
    from hklflow.images import masks
    from hklflow.transform import binning, coverage

    scan = nexus.read_scan(inputs.scan)
    orientation = stage.read_orientation(inputs.orientation)
    accepted = stage.read_accepted(inputs.accepted)
    rotation = orientation.rotation(params.rotation)
    grid, ub = orientation.grid, orientation.ub
    scale = nexus.read_scale(inputs.scale)
    pixel_norm, corrected = norms.pixel_norm(
        inputs.mask, params, orientation.reference_detector, rotation, scan.binning
    )
    if scale.source != "none":
        corrected.append("transmission")
    frame_norm = norms.frame_norm(
        scale, rotation.scan.n_frames, inputs.scale, solid_angle=params.solid_angle
    )
    pitch = pixel_pitch(rotation, ub, grid)
    samples = params.samples or sub_samples(pitch)
    if pitch.max() > 1:
        print(
            "warning: a voxel is smaller than a pixel-frame: one (frame, slow, fast) step spans "
            f"{pitch[0]:.2f}, {pitch[1]:.2f}, {pitch[2]:.2f} voxels; a coarser grid loses nothing"
        )
    n_frames = rotation.scan.n_frames
    number, of = params.part
    begin, end = (n_frames * i // of for i in (number, number + 1))
    noise = raw.read_variance(scan)
    with (
        raw.open_scan(scan) as frames,
        nexus.open_frame_mask(inputs.frame_mask) as excluded,
        nexus.TransformWriter(
            outputs.transform,
            outputs.masked_transform,
            grid,
            orientation.cell,
            binning.counts_type(frames.dtype, frames.shape[2], samples),
            noise is not None,
            exact=of > 1,
        ) as writer,
    ):
        # Memory in voxels of 8 bytes.
        voxel = binning.voxel_bytes(frames.dtype, frames.shape[2], samples, noise is not None)
        memory = 8e6 * params.memory / voxel
        ranges = coverage.passes_needed(rotation, ub, grid, (begin, end), memory)
        if len(ranges) > 1:
            print(f"{len(ranges)} passes over the frames, for the volumes are beyond `memory`")
        used = invalid = inside = 0
        for turn, planes in enumerate(ranges):
            accumulator = binning.Accumulator(
                rotation,
                ub,
                grid,
                pixel_norm,
                frame_norm,
                samples,
                keep_excluded=True,
                # Sweeps that are merged need different random sub-sampling of their photons.
                seed=zlib.crc32(
                    f"{orientation.sample}/{orientation.scan}/{params.rotation}".encode()
                ),
                invalid_from=min(
                    masks.flag_value(frames.dtype) or np.inf, scan.saturation or np.inf
                ),
                planes=planes,
                threads=threads,
                valid_from=scan.underload,
                read_variance=noise,
            )
            bands = frames.bands(
                params.block, scan.first + begin, scan.first + end, threads=threads
            )
            description = "transform frames" + (f", pass {turn + 1}" if turn else "")
            mask = None
            for band in stage.progress(bands, end - begin, description, _frames_done):
                first = band.first - scan.first
                if band.row == 0:
                    last = first + len(band.counts)
                    mask = excluded[first:last] if excluded.any(first, last) else None
                accumulator.add(band.counts, first, mask, band.row)
            used, invalid = accumulator.used, accumulator.invalid
            inside += accumulator.inside
            writer.write(accumulator.boxes())
        notes = {
            "accepted": accepted,
            "scale of the rotation": scale.rotation,
            "sub-samples (frame, slow, fast)": list(samples),
            "corrected for": corrected,
            "pixel-frames used": used,
            "pixel-frames flagged or saturated": invalid,
            "sub-samples outside the grid": used * int(np.prod(samples)) - inside,
            "unit of the norms": accumulator.norm_unit,
            "voxels spanned by one (frame, slow, fast)": np.round(pitch, 3).tolist(),
        }
        writer.note(notes)
    print(
        f"{used} pixel-frames used, {notes['sub-samples outside the grid']} sub-samples outside "
        f"the grid, {invalid} flagged or saturated"
    )


def _frames_done(band: "Band") -> int:
    """Return the number of frames for which this band was the last missing one."""
    return len(band.counts) if band.last else 0


if __name__ == "__main__":
    stage.command(main)
