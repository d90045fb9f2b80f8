"""Make the pixel mask of one rotation from gaps, steps of the mask file and defective pixels.

For binned frames, shapes in pixels and images refer to the unbinned frames. A block is masked if
any of its pixels is masked, or if it is not completely inside one module.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hklflow import stage
from hklflow.stage import mask_steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.images import mask_shapes
    from hklflow.images.dispersion import Dispersion
    from hklflow.images.masks import Bits, BoolImage
    from hklflow.images.pixel_moments import Moments
    from hklflow.images.scan import RotationScan
    from hklflow.stage.rehearsal import Known

VERSION = 6
FRAMES_OF = "scan"

# Pairs of frames for the dispersion; about a thousand tiles of a module give an error of 0.3 %.
_DISPERSION_PAIRS = 4
_MAX_DISPERSION = 0.05
# Frames are added until dead pixels can be seen on all but this fraction of the detector.
_MAY_BE_DARK = 0.05
_DARK = (
    "dead pixels can't be seen on {:.0%} of the detector, which has fewer than {:.0f} counts per "
    "pixel in the whole scan, and would make S(Q) too small there: give the known bad pixels with "
    "`pixel_mask: image` or `constants`"
)


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""


class Outputs(stage.Outputs):
    mask: Path
    """Pixel mask with NXmx bits."""
    picture: Path
    """Picture: the mask over the mean of the sampled frames."""
    metrics: Path
    """Number of masked pixels by reason; mean, standard deviation and dispersion of each module."""


class Limit(stage.Params):
    """Limits for a statistic of each pixel over the sampled frames."""

    of: Literal["mean", "std", "maximum"]
    """Statistic of the pixel over the sampled frames."""
    below: float | None = None
    """Pixels with a smaller value are under-responding; None: no such limit."""
    above: float | None = None
    """Pixels with a larger value are over-responding, or noisy for `of: std`; None: no such
    limit."""
    n_sigma: float | None = Field(None, gt=0)
    """Largest deviation from the median of the pixels within 3 pixels, in units of their scatter
    (1.4826 MAD). A pixel beyond it is treated as below or above the limits. None: no such limit.
    """

    @model_validator(mode="after")
    def _has_one(self) -> "Limit":
        if self.below is self.above is self.n_sigma is None:
            raise ValueError("give `below`, `above` or `n_sigma`")
        return self


class Params(stage.Params):
    detector: str | None = None
    """Name of the detector in pyFAI, such as `Pilatus 1M`, whose gaps are masked. None: gaps are
    the pixels that the raw file masks, and the pixels that are flagged on every sampled frame.
    """
    edges: int = Field(0, ge=0)
    """Width in pixels of the masked edges along the border of the detector and along the gaps of
    `detector`.
    """
    image: Path | None = None
    """Mask image to import (any format that fabio reads, .npy or .png); pixels that are not 0 are
    bad."""
    shapes: tuple[mask_steps.Shape, ...] = ()
    """Shapes to mask or to unmask, in this order and in pixels, written like steps of a mask file.
    """
    mask_file: Path | None = None
    """Text file of steps that mask or unmask pixels. `edges`, `image`, `shapes` and the steps of
    this file are applied in this order.
    """
    sample_frames: int = Field(60, ge=12)
    """Number of frames, spread over the scan, in which dead, hot and noisy pixels are searched. For
    dead pixels of a dark scan, more frames are read, if necessary all."""
    find_defects: bool = True
    """Search for dead, hot and noisy pixels. A bright pixel is a reflection, not hot, if its
    counts over the sampled frames are one bump: together in time, without a flat top."""
    limits: tuple[Limit, ...] = ()
    """Limits for mean, standard deviation and maximum of a pixel over the sampled frames."""
    constants: Path | None = None
    """Constants of a photon counter, whose mask is added; None: no constants."""

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """Return the files among the parameters, including the images of the mask file."""
        found = super().paths(base)
        if self.mask_file is not None and (base / self.mask_file).is_file():
            images = mask_steps.read(base / self.mask_file).images()
            found["mask_file_images"] = [self.mask_file.parent / image for image in images]
        return found


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Draw the steps, read a sample of frames, and judge the pixels."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.constants import counters
    from hklflow.formats import raw
    from hklflow.images import defects, masks
    from hklflow.images.dispersion import ModuleDispersion
    from hklflow.images.noise import PairDispersion
    from hklflow.images.pixel_moments import PixelMoments

    scan = nexus.read_scan(inputs.scan)
    n = scan.rotation.scan.n_frames
    detector = scan.rotation.detector
    shape = detector.shape
    before, freed, gaps = _given(params, scan)
    if (of_file := raw.read_header(scan.raw).pixel_mask) is not None:
        gaps = gaps | of_file
    whole = np.array([[0, shape[0], 0, shape[1]]])
    modules = whole if detector.modules is None else detector.modules.rectangles
    with raw.open_scan(scan) as frames:
        invalid_from = masks.flag_value(frames.dtype) or math.inf
        # Pairs of consecutive frames show the noise, and are fast to read from files with large
        # chunks.
        out = {(frame - scan.first) // 2 for frame in scan.left_out}
        pairs = np.array([i for i in range(max(n // 2, 1)) if i not in out] or range(-(-n // 2)))
        n_pairs = max(1, min(params.sample_frames // 2, len(pairs)))
        chosen = np.linspace(0, len(pairs) - 1, n_pairs).astype(int)
        starts = 2 * pairs[chosen]

        def blocks_at(starts: "NDArray[np.int64]") -> list[tuple[int, int]]:
            return [(scan.first + i, scan.first + min(i + 2, n)) for i in starts.tolist()]

        blocks = blocks_at(starts)
        moments = PixelMoments(gaps, flag_from=invalid_from, valid_from=scan.underload)
        dispersion = PairDispersion(gaps, n_pairs, flag_from=invalid_from)
        of_modules = ModuleDispersion(modules, flag_from=invalid_from)
        few = set(starts[:: -(-n_pairs // _DISPERSION_PAIRS)].tolist())
        always_flagged = np.ones(shape, bool)
        given = gaps | (before != 0)

        def read(ends: tuple[int, int]) -> "NDArray[Any]":
            block = frames.read(*ends)
            flagged = masks.flagged(block, invalid_from, scan.underload).all(axis=0)
            np.logical_and(always_flagged, flagged, out=always_flagged)
            moments.add(block)
            return block

        for ends in stage.progress(blocks, len(blocks), "sampled frame pairs"):
            block = read(ends)
            # With read noise, the detector constants already contain the noisy pixels.
            if len(block) == 2 and scan.underload >= 0:
                dispersion.add(block)
                if ends[0] - scan.first in few:
                    of_modules.add(block, given)
        if params.find_defects and scan.underload >= 0:
            others = np.delete(pairs, chosen)
            n_more = min(_missing(moments.result(), given, n_pairs), len(others))
            spread = np.linspace(0, len(others) - 1, n_more).astype(int)
            more = blocks_at(2 * others[spread])
            for ends in stage.progress(more, len(more), "further frame pairs of a dark scan"):
                read(ends)
            blocks = sorted(blocks + more)
        sampled = moments.result()
        bits = masks.combine(shape, [(masks.MaskBit.GAP, gaps | always_flagged)], base=before)
        spots = np.zeros((0, 2), np.intp)
        if params.find_defects:
            noisy = dispersion.noisy(bits != 0)
            del dispersion
            defective = defects.find_defects(sampled.total, bits != 0)
            again = (frames.read(*ends) for ends in blocks)
            valid = invalid_from, scan.underload
            spots = _reflections(defective, sampled, bits == 0, again, valid)
    if params.find_defects:
        defective[tuple(spots.T)] &= ~np.uint32(masks.MaskBit.OVER_RESPONDING)
        bits |= defective
        constant = defects.find_constant(sampled.total, sampled.largest, sampled.frames)
        bits = masks.combine(
            shape,
            [(masks.MaskBit.OVER_RESPONDING, constant), (masks.MaskBit.NOISY, noisy)],
            base=bits,
        )
    for limit in params.limits:
        bits |= _beyond(limit, sampled, bits)
    nexus.write_mask(outputs.mask, bits)
    mean = sampled.total / np.maximum(sampled.frames, 1)
    geometry = scan.rotation.detector, scan.rotation.beam
    title = f"pixel mask of {scan.raw}"
    plots.save(plots.pixel_mask(mean, bits, title, geometry), outputs.picture)
    rows = _module_rows(modules, sampled, bits, of_modules.result())
    facts = {
        "masked pixels": counters.numbers(bits),
        "sampled frames": sampled.frames.max(),
        "bright pixels that are reflections, not hot": len(spots),
    }
    notes = []
    if params.find_defects and not _bad_pixels_known(params, of_file):
        expected = defects.expected_counts(sampled.total, bits != 0)
        least = defects.dead_expected(len(expected))
        facts["too dark for dead pixels"] = dark = float(np.mean(expected < least))
        notes = [_DARK.format(dark, least)] if dark > _MAY_BE_DARK else []
    for note in notes:
        print(f"warning: {note}")
    stage.write_json(outputs.metrics, facts | {"modules": rows, "notes": notes})
    if kept := int((freed & (bits != 0)).sum()):
        print(f"{kept} pixels that a step frees stay masked: they are flagged in the measurement")
    if len(spots):
        print(f"{len(spots)} bright pixels are not masked: they are reflections, not hot pixels")
    print(f"{int((bits != 0).sum())} of {bits.size} pixels masked")


def _bad_pixels_known(params: Params, of_file: "BoolImage | None") -> bool:
    """Return True if an image or constants are given, or the raw file masks single pixels."""
    import numpy as np
    from scipy import ndimage

    if params.image is not None or params.constants is not None:
        return True
    return of_file is not None and bool(
        (of_file & ~ndimage.binary_opening(of_file, np.ones((2, 2), bool))).any()
    )


def _missing(sampled: "Moments", bad: "BoolImage", n_pairs: int) -> int:
    """Return the number of further pairs after which dead pixels can be seen nearly everywhere."""
    import numpy as np

    from hklflow.images import defects

    expected = defects.expected_counts(sampled.total, bad | (sampled.frames == 0))
    if not len(expected):
        return 0
    level = max(float(np.quantile(expected, _MAY_BE_DARK)), 0.1)
    wanted = 1.2 * defects.dead_expected(len(expected))  # the counts of a pixel scatter
    return math.ceil(n_pairs * max(wanted / level - 1, 0))


def _reflections(
    defective: "Bits",
    sampled: "Moments",
    good: "BoolImage",
    blocks: "Iterable[NDArray[Any]]",
    valid: tuple[float, float],
) -> "NDArray[np.intp]":
    """Return the pixels (k, 2) that look hot in the sum of the blocks, but are reflections."""
    import numpy as np

    from hklflow.images import masks, persistence
    from hklflow.images.masks import MaskBit

    hot = (defective & np.uint32(MaskBit.OVER_RESPONDING)) != 0
    pixels = persistence.brief(hot, sampled)
    if not len(pixels):
        return pixels
    slow, fast = pixels.T
    read = np.concatenate([block[:, slow, fast] for block in blocks])
    counts = np.where(masks.flagged(read, *valid), np.nan, read)
    rate = persistence.background(pixels, sampled, good & ~hot)
    return pixels[persistence.are_reflections(counts, rate)]


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Draw the steps on an image of the frames' size."""
    import numpy as np

    facts = known.scan(inputs.scan)
    if facts is None or (params.constants is not None and params.constants in known.products):
        return

    def drawn() -> "NDArray[np.uint8]":
        bits, _, gaps = _given(params, facts.scan)
        return np.packbits((bits != 0) | gaps, axis=-1)

    detector, binning = facts.scan.rotation.detector, facts.scan.binning
    modules = b"" if detector.modules is None else detector.modules.rectangles.tobytes()
    key = ("pixel_mask", params.model_dump_json(), detector.shape, binning, modules)
    of_file = facts.frames.header.pixel_mask
    packed = known.once(key, drawn)
    bad = np.unpackbits(packed, axis=-1, count=facts.frames.shape[2]).view(np.bool_)
    known.products[outputs.mask] = bad if of_file is None else bad | of_file


def _given(params: Params, scan: "RotationScan") -> "tuple[Bits, BoolImage, BoolImage]":
    """Return the bits of steps and constants, the pixels that steps unmask, and the gaps."""
    import numpy as np

    from hklflow.images import pixel_binning

    detector, binning = scan.rotation.detector, scan.binning
    shape = detector.shape if binning is None else binning.unbinned
    drawn = draw(params, shape)
    bits = drawn.bits | _constants(params, shape)
    gaps = np.zeros(shape, bool)
    if params.detector is not None:
        gaps |= mask_steps.detector_gaps(params.detector, shape)
    freed = drawn.freed
    if binning is not None:
        b = binning.factor
        between = pixel_binning.outside_modules(detector)
        freed, gaps = (pixel_binning.bin_mask(image, b) for image in (freed, gaps))
        bits, gaps = pixel_binning.bin_bits(bits, b), gaps | between
    return bits, freed, gaps


def _constants(params: Params, shape: tuple[int, int]) -> "Bits":
    """Return the bits of the detector constants."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.constants.flood import read_pixel_mask

    if params.constants is None:
        return np.zeros(shape, np.uint32)
    bits = read_pixel_mask(params.constants)
    if bits.shape != shape:
        raise HklflowError(
            f"{params.constants} has {bits.shape} pixels, but the frames have {shape}; give the "
            "constants of this detector"
        )
    return bits


def _beyond(limit: Limit, sampled: "Moments", bits: "Bits") -> "Bits":
    """Return the bits of good pixels whose statistic is beyond its limits."""
    import numpy as np

    from hklflow.images.masks import MaskBit
    from hklflow.images.pixel_moments import local_outliers

    good = (bits == 0) & (sampled.frames > 0)
    statistics = {"mean": sampled.mean, "std": sampled.std, "maximum": sampled.largest}
    # Pixels without a value, such as the standard deviation of one frame, pass.
    values = np.where(good, statistics[limit.of], np.nan)
    low, high = np.zeros(bits.shape, bool), np.zeros(bits.shape, bool)
    if limit.n_sigma is not None:
        low, high = local_outliers(values, ~good, limit.n_sigma)
    if limit.below is not None:
        low |= values < limit.below
    if limit.above is not None:
        high |= values > limit.above
    print(f"{limit.of}: {int(low.sum())} pixels below the limits, {int(high.sum())} above")
    too_much = MaskBit.NOISY if limit.of == "std" else MaskBit.OVER_RESPONDING
    found = np.where(low, np.uint32(MaskBit.UNDER_RESPONDING), np.uint32(0))
    found[high] |= np.uint32(too_much)
    return found


def _module_rows(
    modules: "np.ndarray[Any, Any]",
    sampled: "Moments",
    bits: "Bits",
    dispersions: "list[Dispersion]",
) -> list[dict[str, Any]]:
    """Return numbers for each module; warn about modules that do not count single photons."""
    import numpy as np

    rows = []
    mean_image, std_image = sampled.mean, sampled.std
    for number, (box, told) in enumerate(zip(modules.tolist(), dispersions, strict=True)):
        part = slice(*box[:2]), slice(*box[2:])
        good = (bits[part] == 0) & (sampled.frames[part] > 1)
        mean, std = mean_image[part][good], std_image[part][good]
        rows.append(
            {
                "slow and fast": box,
                "good pixels": int(good.sum()),
                "mean": float(mean.mean()) if len(mean) else None,
                "std": float(np.median(std)) if len(std) else None,
                "dispersion": told.value,
                "dispersion error": told.error,
            }
        )
        if abs(told.value - 1) > max(_MAX_DISPERSION, 3 * told.error):
            print(
                f"warning: the index of dispersion of module {number} is {told.value:.3f} ± "
                f"{told.error:.3f} instead of 1: its counts are not single photons (gain, sums, "
                "corrections), and errors are wrong by the square root of this index; for an "
                "integrating detector, set `import_scan: {gain: measure}`"
            )
    return rows


def draw(params: Params, shape: tuple[int, int]) -> "mask_shapes.Drawn":
    """Draw the steps of the parameters in order, and print the changes by each step.

    Raises
    ------
    HklflowError
        If a step cannot be drawn on an image of this shape.
    """
    from hklflow.images import mask_shapes

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
