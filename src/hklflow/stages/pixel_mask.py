"""Make the pixel mask of one rotation: gaps, steps of the mask file, defective pixels."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import mask_steps, stage

if TYPE_CHECKING:
    from hklflow.core import mask_shapes

VERSION = 2


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""


class Outputs(stage.Outputs):
    mask: Path
    """Pixel mask with NXmx bits."""
    picture: Path
    """Picture: the mask over the mean of the sampled frames."""


class Params(stage.Params):
    detector: str | None = None
    """Detector by pyFAI's name, such as `Pilatus 1M`, whose gaps are masked; None: gaps are the
    pixels that the raw file masks, and those that are flagged on every sampled frame."""
    edges: int = Field(0, ge=0)
    """Pixels masked along the detector's border, and along the gaps of `detector`."""
    image: Path | None = None
    """Mask image to import (any format that fabio reads, .npy or .png): nonzero is bad."""
    shapes: tuple[mask_steps.Shape, ...] = ()
    """Shapes to mask or to free, in order, in pixels; steps of a mask file without a file."""
    mask_file: Path | None = None
    """Text file of steps that mask or free pixels. `edges`, `image`, `shapes` and the steps of
    this file are applied strictly in this order."""
    sample_frames: int = Field(60, ge=12)
    """Frames, spread over the scan, from which dead, hot and noisy pixels are found."""
    find_defects: bool = True
    """Look for dead, hot and noisy pixels."""

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """Add the images that the mask file names."""
        found = super().paths(base)
        if self.mask_file is not None and (base / self.mask_file).is_file():
            images = mask_steps.read(base / self.mask_file).images()
            found["mask_file_images"] = [self.mask_file.parent / image for image in images]
        return found


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Draw the steps, sample frames, judge pixels."""
    import math

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.core import defects, masks
    from hklflow.core.noise import PairDispersion
    from hklflow.core.statistics import FrameStatistics
    from hklflow.formats import raw

    scan = nexus.read_scan(inputs.scan)
    n = scan.rotation.scan.n_frames
    shape = scan.rotation.detector.shape
    drawn = draw(params, shape)
    gaps = np.zeros(shape, bool)
    known = raw.read_header(scan.raw).pixel_mask
    if known is not None:
        gaps |= known
    if params.detector is not None:
        gaps |= mask_steps.detector_gaps(params.detector, shape)
    with raw.open_frames(scan.raw) as frames:
        invalid_from = masks.flag_value(frames.dtype) or math.inf
        # Pairs of frames keep the sampling cheap for files with large chunks, and tell noise.
        n_pairs = max(1, min(params.sample_frames, n) // 2)
        starts = 2 * np.linspace(0, max(n // 2 - 1, 0), n_pairs).astype(int)
        statistics = FrameStatistics(gaps, invalid_from=invalid_from, valid_from=scan.underload)
        dispersion = PairDispersion(gaps, n_pairs, flag_from=invalid_from)
        always_flagged = np.ones(shape, bool)
        for start in stage.progress(starts.tolist(), len(starts), "sampled frame pairs"):
            block = frames.read(scan.first + start, scan.first + min(start + 2, n))
            always_flagged &= masks.flagged(block, invalid_from, scan.underload).all(axis=0)
            statistics.add(block)
            # Where there is read noise, the detector's constants tell the noisy pixels.
            if len(block) == 2 and scan.underload >= 0:
                dispersion.add(block)
    sampled = statistics.result()
    bits = masks.combine(shape, [(masks.MaskBit.GAP, gaps | always_flagged)], base=drawn.bits)
    if params.find_defects:
        noisy = dispersion.noisy(bits != 0)
        del dispersion
        bits |= defects.find_defects(sampled.summed, bits != 0)
        constant = defects.find_constant(
            sampled.summed, sampled.maximum_image, sampled.valid_frames
        )
        bits = masks.combine(
            shape,
            [(masks.MaskBit.OVER_RESPONDING, constant), (masks.MaskBit.NOISY, noisy)],
            base=bits,
        )
    nexus.write_mask(outputs.mask, bits)
    mean = sampled.summed / np.maximum(sampled.valid_frames, 1)
    plots.save(plots.pixel_mask(mean, bits, f"pixel mask of {scan.raw}"), outputs.picture)
    if kept := int((drawn.freed & (bits != 0)).sum()):
        print(f"{kept} pixels that a step frees stay masked, for the measurement flags them")
    print(f"{int((bits != 0).sum())} of {bits.size} pixels masked")


def draw(params: Params, shape: tuple[int, int]) -> "mask_shapes.Drawn":
    """Draw the steps of the parameters in their order, and tell what each one does.

    Raises
    ------
    HklflowError
        If a step cannot be drawn on an image of this shape.
    """
    from hklflow.core import mask_shapes

    where = "the section pixel_mask"
    given: list[mask_steps.Step] = []
    if params.edges:
        given.append(mask_steps.Edges(edges=params.edges, detector=params.detector))
    if params.image is not None:
        given.append(mask_steps.Image(image=str(params.image)))
    given += params.shapes
    steps = mask_steps.core_steps(given, shape, where, Path())
    if params.mask_file is not None:
        file = mask_steps.read(params.mask_file)
        steps += file.core_steps(shape)
        given += file.steps
    drawn = mask_shapes.draw(shape, steps)
    for item, (added, freed) in zip(given, drawn.changes, strict=True):
        print(f"{mask_steps.name(item)}: {added} pixels added, {freed} freed")
    return drawn


if __name__ == "__main__":
    stage.command(main)
