"""Transform the frames of one rotation to counts and norm on the hkl grid.

One pass gives both volumes: with everything, and without what the 3-D mask excludes. On a
cluster a rotation can be cut into blocks of frames, each transformed by a job of its own;
`add_transforms` adds them up.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.core.frame_scale import FrameScale
    from hklflow.core.geometry import Rotation
    from hklflow.formats.bands import Band

VERSION = 5


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


class Settings(stage.Params):
    """What the configuration file sets."""

    samples: tuple[int, int, int] | None = None
    """Sub-samples of a pixel-frame along (frame, slow, fast), quick as powers of two; None: so that
    each spans at most half a voxel."""
    solid_angle: bool = True
    """Correct for the solid angle of the pixels."""
    polarization: bool = True
    """Correct for polarisation."""
    efficiency: bool = True
    """Correct for the sensor's efficiency (needs thickness and attenuation of the sensor)."""
    flat_field: Path | None = None
    """The pixels' relative response: an image (any format that fabio reads, or .npy), or the
    constants of a photon counter (.nxs)."""
    block: int = Field(32, gt=0, le=512)
    """Frames held in memory at a time."""
    memory: float = Field(8000.0, gt=0)
    """MB for the volumes; a grid that needs more is done in several passes over the frames."""


class Params(Settings):
    """Settings, and which rotation."""

    rotation: str
    """Name of the rotation in the orientation file."""
    part: tuple[int, int] = (0, 1)
    """Number of a block of frames, from 0, and the number of blocks they are cut into."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Frames to volumes, in as many passes as the memory asks for."""
    import zlib

    import numpy as np

    from hklflow import nexus
    from hklflow.core import binning, coverage, geometry, masks
    from hklflow.core.grid import Grid, pixel_pitch, sub_samples
    from hklflow.formats import raw

    scan = nexus.read_scan(inputs.scan)
    orientation = stage.read_json(inputs.orientation)
    judged = inputs.accepted is not None and stage.read_json(inputs.accepted)["accepted"]
    rotation = geometry.from_dict(orientation["rotations"][params.rotation])
    grid, ub = Grid.from_dict(orientation["grid"]), np.asarray(orientation["UB"])
    scale = nexus.read_scale(inputs.scale)
    pixel_norm, corrected = _pixel_norm(inputs, params, orientation, rotation)
    if scale.source != "none":
        corrected.append("transmission")
    frame_norm = _frame_norm(inputs, params, rotation, scale)
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
        raw.open_frames(scan.raw) as frames,
        nexus.open_frame_mask(inputs.frame_mask) as excluded,
        nexus.TransformWriter(
            outputs.transform,
            outputs.masked_transform,
            grid,
            np.asarray(orientation["cell"]),
            binning.counts_type(frames.dtype, frames.shape[2], samples),
            noise is not None,
        ) as writer,
    ):
        # In voxels of 8 bytes.
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
                # Sweeps that are merged must not deal their photons alike.
                seed=zlib.crc32(
                    f"{orientation['sample']}/{orientation['scan']}/{params.rotation}".encode()
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
            told = "transform frames" + (f", pass {turn + 1}" if turn else "")
            mask = None
            for band in stage.progress(bands, end - begin, told, _frames_done):
                first = band.first - scan.first
                if band.row == 0:
                    last = first + len(band.counts)
                    mask = excluded[first:last] if excluded.any(first, last) else None
                accumulator.add(band.counts, first, mask, band.row)
            used, invalid = accumulator.used, accumulator.invalid
            inside += accumulator.inside
            writer.write(accumulator.boxes())
        notes = {
            "accepted": judged if inputs.accepted is not None else "not judged",
            "scale of the rotation": scale.rotation,
            "sub-samples (frame, slow, fast)": list(samples),
            "corrected for": corrected,
            "pixel-frames used": used,
            "pixel-frames flagged or saturated": invalid,
            "sub-samples outside the grid": used * int(np.prod(samples)) - inside,
            "voxels spanned by one (frame, slow, fast)": np.round(pitch, 3).tolist(),
        }
        writer.note(notes)
    print(
        f"{used} pixel-frames used, {notes['sub-samples outside the grid']} sub-samples outside "
        f"the grid, {invalid} flagged or saturated"
    )


def _frames_done(band: "Band") -> int:
    """Frames of which this band is the last that was missing."""
    return len(band.counts) if band.last else 0


def _pixel_norm(
    inputs: Inputs, params: Params, orientation: dict[str, Any], rotation: "Rotation"
) -> "tuple[NDArray[np.float64], list[str]]":
    """The pixels' part of the norm (slow, fast), and what it corrects for."""
    import numpy as np

    from hklflow import nexus
    from hklflow.core import corrections, geometry

    good = nexus.read_mask(inputs.mask) == 0
    flat = _flat(params.flat_field, good.shape) if params.flat_field else None
    norm = np.where(good, 1.0 if flat is None else flat, 0.0).astype(np.float64)
    sensor = rotation.detector
    described = None not in (sensor.sensor_thickness, sensor.sensor_attenuation)
    if params.solid_angle:
        # Relative to a pixel at the foot of the normal of the scan's first rotation.
        first = geometry.from_dict(next(iter(orientation["rotations"].values()))).detector
        area = corrections.pixel_area(sensor) / corrections.pixel_area(first)
        norm *= area * corrections.solid_angle(sensor)
    if params.polarization:
        norm *= corrections.polarization(sensor, rotation.beam.polarization)
    if params.efficiency and not described:
        print("note: the sensor is not described, so its efficiency is not corrected for")
    if params.efficiency:
        norm *= corrections.sensor_efficiency(sensor)
    done = {
        "solid angle": params.solid_angle,
        "polarisation": params.polarization,
        "sensor efficiency": params.efficiency and described,
        "flat field": flat is not None,
    }
    return norm, [name for name, yes in done.items() if yes]


def _flat(path: Path, shape: tuple[int, ...]) -> "NDArray[Any] | None":
    """Relative response of the pixels (slow, fast); None if constants have none."""
    from hklflow.constants.files import open_constants
    from hklflow.constants.flood import read_flat
    from hklflow.errors import HklflowError
    from hklflow.formats import images

    if path.suffix == ".nxs":
        with open_constants(path) as constants:
            if not any("flatfield" in constants.group(number) for number in constants.modules):
                print(f"note: {path} has no flat field, for no flood was measured")
                return None
    flat = read_flat(path) if path.suffix == ".nxs" else images.read_image(path)
    if flat.shape != shape:
        raise HklflowError(
            f"{path} has {flat.shape} pixels, the frames have {shape}; give the flat field of this "
            "detector"
        )
    return flat


def _frame_norm(
    inputs: Inputs, params: Params, rotation: "Rotation", scale: "FrameScale"
) -> "NDArray[np.float64]":
    """The frames' part of the norm (n,)."""
    from hklflow.errors import HklflowError

    if len(scale.scale) != rotation.scan.n_frames:
        raise HklflowError(
            f"{inputs.scale} is for {len(scale.scale)} frames but {inputs.scan} has "
            f"{rotation.scan.n_frames}; run frame_scale again"
        )
    norm: NDArray[np.float64] = scale.monitor * scale.attenuation * scale.scale
    # The scale is for equal solid angles; without them, the pixel norm does not hold them.
    return norm if params.solid_angle else norm * scale.area


if __name__ == "__main__":
    stage.command(main)
