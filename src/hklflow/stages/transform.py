"""Transform the frames of one rotation to counts and norm on the hkl grid.

One pass gives both volumes: with everything, and without what the 3-D mask excludes.
"""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 4


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
    """Sub-samples of a pixel-frame along (frame, slow, fast); None: so that each spans at most half
    a voxel."""
    solid_angle: bool = True
    """Correct for the solid angle of the pixels."""
    polarization: bool = True
    """Correct for polarisation."""
    efficiency: bool = True
    """Correct for the sensor's efficiency (needs thickness and attenuation of the sensor)."""
    flat_field: Path | None = None
    """Image of the pixels' relative response (any format that fabio reads)."""
    block: int = Field(16, gt=0, le=512)
    """Frames held in memory at a time."""


class Params(Settings):
    """Settings, and which rotation."""

    rotation: str
    """Name of the rotation in the orientation file."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Bin all frames."""
    import zlib

    import numpy as np

    from hklflow import nexus
    from hklflow.core import binning, corrections, geometry, masks
    from hklflow.errors import HklflowError
    from hklflow.formats import images, raw

    scan = nexus.read_scan(inputs.scan)
    orientation = stage.read_json(inputs.orientation)
    rotation = geometry.from_dict(orientation["rotations"][params.rotation])
    grid = binning.Grid.from_dict(orientation["grid"])
    ub = np.asarray(orientation["UB"])

    identity = f"{orientation['sample']}/{orientation['scan']}"
    good = nexus.read_mask(inputs.mask) == 0
    flat = images.read_image(params.flat_field) if params.flat_field else np.ones(good.shape)
    pixel_norm = np.where(good, flat, 0.0).astype(np.float64)
    # The solid angle is relative to a pixel at the foot of the normal of the scan's first
    # rotation.
    detector = geometry.from_dict(next(iter(orientation["rotations"].values()))).detector
    area = corrections.pixel_area(rotation.detector) / corrections.pixel_area(detector)
    if params.solid_angle:
        pixel_norm *= area * corrections.solid_angle(rotation.detector)
    if params.polarization:
        pixel_norm *= corrections.polarization(rotation.detector, rotation.beam.polarization)
    sensor = rotation.detector
    described = None not in (sensor.sensor_thickness, sensor.sensor_attenuation)
    if params.efficiency and not described:
        print("note: the sensor is not described, so its efficiency is not corrected for")
    if params.efficiency:
        pixel_norm *= corrections.sensor_efficiency(rotation.detector)
    scale = nexus.read_scale(inputs.scale)
    if len(scale.scale) != rotation.scan.n_frames:
        raise HklflowError(
            f"{inputs.scale} is for {len(scale.scale)} frames but {inputs.scan} has "
            f"{rotation.scan.n_frames}; run frame_scale again"
        )
    frame_norm = scale.monitor * scale.attenuation * scale.scale
    if not params.solid_angle:
        # The scale is for equal solid angles; here the pixel norm does not hold them.
        frame_norm = frame_norm * scale.area

    pitch = binning.pixel_pitch(rotation, ub, grid)
    samples = params.samples or binning.sub_samples(pitch)
    if pitch.max() > 1:
        print(
            "warning: a voxel is smaller than a pixel-frame: one (frame, slow, fast) step spans "
            f"{pitch[0]:.2f}, {pitch[1]:.2f}, {pitch[2]:.2f} voxels; a coarser grid loses nothing"
        )
    with raw.open_frames(scan.raw) as frames, nexus.open_frame_mask(inputs.frame_mask) as excluded:
        accumulator = binning.Accumulator(
            rotation,
            ub,
            grid,
            pixel_norm,
            frame_norm,
            samples,
            keep_excluded=True,
            # Sweeps that are merged must not deal their photons alike.
            seed=zlib.crc32(f"{identity}/{params.rotation}".encode()),
            invalid_from=min(masks.flag_value(frames.dtype) or np.inf, scan.saturation or np.inf),
        )
        n_frames, done = rotation.scan.n_frames, 0
        blocks = frames.blocks(params.block, scan.first, scan.first + n_frames)
        for block in stage.progress(blocks, n_frames, "transform frames", len):
            accumulator.add(block, done, excluded[done : done + len(block)])
            done += len(block)
    judged = inputs.accepted is not None and stage.read_json(inputs.accepted)["accepted"]
    notes = {
        "accepted": judged if inputs.accepted is not None else "not judged",
        "scale of the rotation": scale.rotation,
        "sub-samples (frame, slow, fast)": list(samples),
        "corrected for": [
            name
            for name, done in (
                ("solid angle", params.solid_angle),
                ("polarisation", params.polarization),
                ("sensor efficiency", params.efficiency and described),
                ("transmission", scale.source != "none"),
                ("flat field", params.flat_field is not None),
            )
            if done
        ],
        "pixel-frames used": accumulator.used,
        "pixel-frames flagged or saturated": accumulator.invalid,
        "pixel-frames partly outside the grid": accumulator.outside,
        "voxels spanned by one (frame, slow, fast)": np.round(pitch, 3).tolist(),
    }
    for path, (counts, norm), what in (
        (outputs.transform, accumulator.total(), "all"),
        (outputs.masked_transform, accumulator.clean(), "without the 3-D mask"),
    ):
        volume = nexus.Volume(grid, np.asarray(orientation["cell"]), counts, norm, notes=notes)
        nexus.write_volume(path, volume, f"counts and norm, {what}")
    print(
        f"{accumulator.used} pixel-frames used, {accumulator.outside} partly outside the grid, "
        f"{accumulator.invalid} flagged or saturated"
    )


if __name__ == "__main__":
    stage.command(main)
