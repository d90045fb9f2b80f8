"""Transform the frames of one rotation to counts and norm on the hkl grid.

One pass gives both volumes: with everything, and without what the 3-D mask excludes.
"""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 3


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""
    statistics: Path
    """Frame statistics (for the sample's transmission)."""
    reference: Path
    """Frame statistics of the scan's first rotation, whose scale the others are brought to."""
    frame_mask: Path
    """3-D artefact mask."""
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
    transmission: bool = True
    """Correct for the sample's transmission, from the frames' background."""
    rotation_scale: bool = True
    """Bring the rotations of a scan to one scale by the medians of background over monitor; False
    where their detector settings differ, so that their backgrounds do not compare."""
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
    frame_norm = scan.monitor * scan.attenuation
    if params.transmission:
        frame_norm = frame_norm * nexus.read_statistics(inputs.statistics, "transmission")
    scale = 1.0
    if params.transmission and params.rotation_scale:
        # Each rotation's transmission is relative to its own median; the background behind
        # it is counted per pixel.
        own, first = (
            float(
                np.median(
                    nexus.read_statistics(path, "background_rate")
                    / nexus.read_statistics(path, "transmission")
                )
            )
            for path in (inputs.statistics, inputs.reference)
        )
        scale = own / first
        if params.solid_angle:
            # The pixel norm holds this part of the background's ratio already.
            scale /= area
        frame_norm = frame_norm * scale

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
    notes = {
        "scale of the rotation": scale,
        "sub-samples (frame, slow, fast)": list(samples),
        "corrected for": [
            name
            for name, done in (
                ("solid angle", params.solid_angle),
                ("polarisation", params.polarization),
                ("sensor efficiency", params.efficiency and described),
                ("transmission", params.transmission),
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
