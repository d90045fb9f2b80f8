"""Flag sensor artefacts around strong Bragg peaks, frame by frame.

With ``model``, the predicted Bragg reflections are masked, too; the diffuse scattering remains.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hklflow import stage
from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.bragg.model_mask import ModelMask
    from hklflow.images.mask3d import Mask3dParams
    from hklflow.images.scan import RotationScan
    from hklflow.stage.rehearsal import Known

VERSION = 1
FRAMES_OF = "scan"


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""
    orientation: Path | None = None
    """Refined lattice, orientation and geometry; needed with `model`."""
    peaks: Path | None = None
    """Peak table of the rotation, for the widths of reflections; needed with `model`."""


class Outputs(stage.Outputs):
    frame_mask: Path
    """Bit-packed mask of every frame."""
    picture: Path
    """Picture: the frame with the most excluded pixels, and the excluded fraction by frame."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    seed_counts: float = Field(400.0, ge=1)
    """Smallest number of counts above background, in one cell, that starts a region."""
    seed_ratio: float = Field(1.0, ge=0)
    """Smallest excess that starts a region, as a multiple of the background of the cell."""
    n_sigma: float = Field(6.0, ge=1)
    """Smallest significance of the excess in an artefact, in standard deviations."""
    min_ratio: float = Field(0.05, ge=0)
    """Smallest excess in an artefact, as a multiple of the background."""
    cell: int = Field(4, ge=1)
    """Side of a cell in pixels."""
    window: int = Field(15, ge=4)
    """Number of frames in the window from which the background of a frame is determined."""
    reach: float = Field(128.0, ge=0)
    """Largest distance of an artefact from its peak, in pixels."""
    margin: float = Field(4.0, ge=0)
    """Width of the border added around each region, in pixels."""
    afterglow_frames: int = Field(0, ge=0)
    """Number of frames after a peak on which the pixels of the peak stay flagged."""
    block: int = Field(16, gt=0, le=512)
    """Number of frames that are read at a time."""
    model: bool = False
    """Mask also the predicted Bragg reflections, for volumes of the diffuse scattering."""
    model_sigma: float = Field(5.0, ge=1, le=20)
    """Half axes of a predicted reflection, in standard deviations of its shape and position."""


class Params(Settings):
    """Settings of the stage, and the name of the rotation."""

    rotation: str | None = None
    """Name of the rotation; needed with `model`."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Read the frames in blocks, and write their masks."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.formats import raw
    from hklflow.images import mask3d, masks

    scan = nexus.read_scan(inputs.scan)
    bad = nexus.read_mask(inputs.mask) != 0
    n = scan.rotation.scan.n_frames
    n_good = max(int((~bad).sum()), 1)
    model = _model(inputs, params, ~bad) if params.model else None
    # The picture shows a frame that is not left out.
    worst = next(z for z in range(n) if scan.first + z not in scan.left_out)
    fractions = np.zeros(n)
    noise = raw.read_variance(scan)
    with raw.open_scan(scan) as frames:
        settings = _criteria(scan, masks.flag_value(frames.dtype), params)
        blocks: Iterable[Any] = frames.stream(
            params.block, scan.first, scan.first + n, threads=threads
        )
        if noise is not None:
            # With the variance of the read noise added, variance and mean are equal, as for
            # photons.
            blocks = (block + noise for block in blocks)
        shape = (n, *scan.rotation.detector.shape)
        done = 0
        packed_worst = np.zeros((1, shape[1], -(-shape[2] // 8)), np.uint8)
        flagged = mask3d.flag_frames(blocks, bad, settings)
        with nexus.FrameMaskWriter(outputs.frame_mask, shape) as writer:
            for packed, n_flagged in stage.progress(
                flagged, n, "3-D mask frames", lambda block: len(block[1])
            ):
                if model is not None:
                    n_flagged = n_flagged + model.add(packed, done)
                fraction = n_flagged / n_good
                writer.append(packed, fraction)
                if fraction.max() > fractions[worst]:
                    worst = done + int(fraction.argmax())
                    packed_worst = packed[worst - done : worst - done + 1]
                fractions[done : done + len(packed)] = fraction
                done += len(packed)
            frame = frames.read(scan.first + worst, scan.first + worst + 1)[0].astype(float)
            frame[bad] = np.nan
            seed = mask3d.effective_seed(frame, settings)
            writer.record_seed(seed)
        excluded_worst = mask3d.unpack(packed_worst, shape[2])[0]
    title = f"3-D mask of {scan.raw}: {100 * fractions.mean():.2f} % of good pixels excluded"
    geometry = scan.rotation.detector, scan.rotation.beam
    picture = plots.frame_mask(frame, excluded_worst, fractions, worst, title, geometry)
    plots.save(picture, outputs.picture)
    print(
        f"{100 * fractions.mean():.3f} % of good pixels excluded; a region starts at {seed:.0f} "
        f"counts above background in the median cell of {params.cell} x {params.cell} pixels"
    )


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Make the criteria, and require enough frames."""
    from hklflow.images import mask3d

    if (facts := known.scan(inputs.scan)) is not None:
        _criteria(facts.scan, None, params)
        mask3d.require_length(facts.scan.rotation.scan.n_frames)


def _criteria(scan: "RotationScan", flag: int | None, params: Params) -> "Mask3dParams":
    """Return the criteria of the mask."""
    from hklflow.images.mask3d import Mask3dParams

    return Mask3dParams(
        **params.model_dump(exclude={"block", "model", "model_sigma", "rotation"}),
        flag_from=flag,
        overload_from=scan.saturation,
        valid_from=scan.underload,
    )


def _model(inputs: Inputs, params: Params, good: "NDArray[np.bool_]") -> "ModelMask":
    """Return the mask of the reflections that the orientation predicts."""
    from hklflow import nexus
    from hklflow.bragg.model_mask import ModelMask, reflections

    if inputs.orientation is None or inputs.peaks is None or params.rotation is None:
        raise HklflowError(
            "the mask from the model needs the orientation, the peaks and the name of the "
            "rotation; give --orientation, --peaks and --rotation"
        )
    orientation = stage.read_orientation(inputs.orientation)
    ellipsoids = reflections(
        orientation.rotation(params.rotation),
        orientation.ub,
        orientation.group,
        nexus.read_peaks(inputs.peaks),
        params.model_sigma,
    )
    print(f"{len(ellipsoids.centre)} predicted reflections are excluded")
    return ModelMask(ellipsoids, good)


if __name__ == "__main__":
    stage.command(main)
