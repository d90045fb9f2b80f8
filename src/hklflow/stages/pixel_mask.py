"""Make the pixel mask of one rotation: gaps, flagged, dead and hot pixels, drawn shapes."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""


class Outputs(stage.Outputs):
    mask: Path
    """Pixel mask with NXmx bits."""
    picture: Path
    """Picture: the mask over the mean of the sampled frames."""


class _Shape(stage.Params):
    op: Literal["add", "subtract"] = "add"
    """`add` masks the pixels, `subtract` frees them again; shapes are drawn in order."""


class Rectangle(_Shape):
    """Pixels slow_min <= slow < slow_max and fast_min <= fast < fast_max."""

    shape: Literal["rectangle"]
    slow_min: float
    slow_max: float
    fast_min: float
    fast_max: float


class Circle(_Shape):
    """Pixels whose centre is within radius of (slow, fast)."""

    shape: Literal["circle"]
    slow: float
    fast: float
    radius: float = Field(gt=0)


class Annulus(_Shape):
    """Pixels between two radii of (slow, fast)."""

    shape: Literal["annulus"]
    slow: float
    fast: float
    inner: float = Field(ge=0)
    outer: float = Field(gt=0)


class Polygon(_Shape):
    """Pixels inside the polygon with the given (slow, fast) corners."""

    shape: Literal["polygon"]
    corners: tuple[tuple[float, float], ...]


class Beamstop(_Shape):
    """Circle with an arm; arm_angle in degrees from +fast towards +slow."""

    shape: Literal["beamstop"]
    slow: float
    fast: float
    radius: float = Field(gt=0)
    arm_angle: float = 0.0
    arm_width: float = Field(0.0, ge=0)


Shape = Annotated[Rectangle | Circle | Annulus | Polygon | Beamstop, Field(discriminator="shape")]


class Params(stage.Params):
    shapes: tuple[Shape, ...] = ()
    """Shapes to mask or to free, in order, in pixels."""
    edges: int = Field(0, ge=0)
    """Pixels masked along the detector's border."""
    image: Path | None = None
    """Mask image to import (any format that fabio reads, or .npy): nonzero is bad."""
    sample_frames: int = Field(60, ge=12)
    """Frames, spread over the scan, from which dead and hot pixels are found."""
    find_defects: bool = True
    """Look for dead and hot pixels."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Sample frames, judge pixels, draw shapes."""
    import math

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.core import masks
    from hklflow.core.statistics import FrameStatistics
    from hklflow.formats import images, raw

    scan = nexus.read_scan(inputs.scan)
    n = scan.rotation.scan.n_frames
    known = raw.read_header(scan.raw).pixel_mask
    shape = scan.rotation.detector.shape
    bits = np.zeros(shape, np.uint32)
    if known is not None:
        bits[known] |= np.uint32(masks.MaskBit.GAP)
    with raw.open_frames(scan.raw) as frames:
        invalid_from = masks.flag_value(frames.dtype) or math.inf
        # Groups of two frames keep the sampling cheap for files with large chunks.
        starts = np.unique(
            np.linspace(0, max(n - 2, 0), max(params.sample_frames // 2, 1)).astype(int)
        )
        statistics = FrameStatistics(bits != 0, invalid_from=invalid_from)
        always_flagged = np.ones(shape, bool)
        for start in stage.progress(starts.tolist(), len(starts), "sampled frame pairs"):
            block = frames.read(scan.first + start, scan.first + min(start + 2, n))
            always_flagged &= masks.flagged(block, invalid_from).all(axis=0)
            statistics.add(block)
    sampled = statistics.result()
    drawn = masks.draw(shape, [_core_shape(item) for item in params.shapes])
    if params.edges:
        drawn |= masks.draw(shape, [masks.Edges(shape, params.edges)])
    if params.image is not None:
        drawn |= images.read_image(params.image) != 0
    bits = masks.combine(
        shape,
        [(masks.MaskBit.GAP, always_flagged), (masks.MaskBit.USER, drawn)],
        base=bits,
    )
    if params.find_defects:
        bits |= masks.find_defects(sampled.summed, bits != 0)
        constant = masks.find_constant(sampled.summed, sampled.maximum_image, sampled.valid_frames)
        bits[constant] |= np.uint32(masks.MaskBit.OVER_RESPONDING)
    nexus.write_mask(outputs.mask, bits)
    names = {
        int(bit): (bit.name or str(int(bit))).lower().replace("_", " ") for bit in masks.MaskBit
    }
    mean = sampled.summed / np.maximum(sampled.valid_frames, 1)
    plots.save(plots.pixel_mask(mean, bits, names, f"pixel mask of {scan.raw}"), outputs.picture)
    print(f"{int((bits != 0).sum())} of {bits.size} pixels masked")


def _core_shape(item: Shape) -> Any:
    from hklflow.core import masks

    kinds: dict[str, Any] = {
        "rectangle": masks.Rectangle,
        "circle": masks.Circle,
        "annulus": masks.Annulus,
        "polygon": masks.Polygon,
        "beamstop": masks.Beamstop,
    }
    values = item.model_dump(exclude={"shape"})
    return kinds[item.shape](**values)


if __name__ == "__main__":
    stage.command(main)
