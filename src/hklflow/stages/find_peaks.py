"""Find Bragg peaks in the frames of one rotation, in three dimensions."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from hklflow import stage

VERSION = 3


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""
    statistics: Path
    """Frame statistics (for the picture)."""


class Outputs(stage.Outputs):
    peaks: Path
    """Peak table (NXreflections)."""
    picture: Path
    """Picture: peaks over the maximum image."""
    metrics: Path
    """Numbers of blobs found, kept and rejected."""


class Params(stage.Params):
    n_sigma: float = Field(4.5, ge=1)
    """Standard deviations by which voxels must exceed the local background."""
    threshold: float | None = Field(None, ge=0)
    """Counts above which a voxel is strong whatever its background; None: no such threshold."""
    window: int = Field(9, ge=2)
    """Half-size of the background's window in pixels; wider than a peak."""
    min_pixels: int = Field(3, ge=1)
    """Least number of strong voxels in a peak."""
    min_significance: float = Field(6.0, ge=0)
    """Least intensity over its Poisson uncertainty."""
    max_frames: int = Field(25, ge=1)
    """Blobs on more frames than this are rejected (hot pixels, streaks)."""
    max_pixels: int = Field(150, ge=1)
    """Blobs that extend over more pixels than this in slow or fast are rejected."""
    prominence: float = Field(3.0, ge=0)
    """Standard deviations by which a maximum rises above its pass to be a peak by itself."""
    gain: PositiveFloat | Literal["measure"] = 1.0
    """Counts per photon: 1 for photon counters; `measure` finds it on the background (CCDs)."""
    margin_pixels: int = Field(5, ge=1)
    """Pixels added on each side of the strong ones for the fit."""
    margin_frames: int = Field(4, ge=1)
    """Frames added on each side of the strong ones for the fit."""
    sigma_floor: tuple[NonNegativeFloat, NonNegativeFloat] = (0.005, 0.005)
    """Added in quadrature to the centroids' standard deviations, in pixels and in frames: what
    the detector's geometry and the goniometer are good for."""
    block: int = Field(16, gt=0, le=512)
    """Frames read at a time."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Search, fit, record."""
    from dataclasses import replace

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.core import masks
    from hklflow.core.peaks import PeakParams, find_peaks
    from hklflow.formats import raw

    scan = nexus.read_scan(inputs.scan)
    bad = nexus.read_mask(inputs.mask) != 0
    n = scan.rotation.scan.n_frames
    with raw.open_frames(scan.raw) as frames:
        chosen = params.model_dump(exclude={"block", "threshold", "gain", "sigma_floor"})
        blocks = stage.progress(
            frames.blocks(params.block, scan.first, scan.first + n), n, "peak search frames", len
        )
        peaks = find_peaks(
            blocks,
            bad,
            PeakParams(
                **chosen,
                gain=None if params.gain == "measure" else params.gain,
                threshold=np.inf if params.threshold is None else params.threshold,
                saturation=np.inf if scan.saturation is None else scan.saturation,
                invalid_from=masks.flag_value(frames.dtype) or np.inf,
            ),
            scan_frames=n,
        )
    pixels, frames_floor = params.sigma_floor
    peaks = replace(
        peaks,
        var_slow=peaks.var_slow + pixels**2,
        var_fast=peaks.var_fast + pixels**2,
        var_frame=peaks.var_frame + frames_floor**2,
    )
    nexus.write_peaks(outputs.peaks, peaks)
    stage.write_json(outputs.metrics, {"peaks": len(peaks.frame), "blobs": peaks.counts})
    picture = plots.peaks(
        nexus.read_statistics(inputs.statistics, "maximum"),
        bad,
        peaks.slow,
        peaks.fast,
        peaks.frame,
        peaks.intensity,
        peaks.flags != 0,
        f"{len(peaks.frame)} peaks of {scan.raw}",
    )
    plots.save(picture, outputs.picture)
    print(f"{len(peaks.frame)} peaks; {peaks.counts}")


if __name__ == "__main__":
    stage.command(main)
