"""Find Bragg peaks, and the sums and the background of frames, in one pass over a rotation.

Frames of an integrating detector are photons plus read noise. The variance of the read noise is
added to the frames, so that variance and mean are equal, as for counted photons, and the search and
the fits need no change. The added counts are background; they are subtracted again in the peak
table, and the statistics are computed without them. In a pixel that has switched its gain, the
added variance is the variance of the most sensitive gain stage. Intensities are not biased by this,
but their variance is too small, by less than a tenth of the variance of the photons.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from hklflow import stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from hklflow.formats.raw_frames import Frames
    from hklflow.images.annulus import Annulus
    from hklflow.images.scan import RotationScan
    from hklflow.images.statistics import FrameStatistics, StatisticsResult
    from hklflow.peaks import afterglow
    from hklflow.peaks.search import PeakParams
    from hklflow.stage.rehearsal import Known

VERSION = 11
FRAMES_OF = "scan"

_RADIAL_BINS = 100
# Every n-th frame is checked before the search, so that a closed shutter is found early.
_LOOK = 16
# Every n-th pixel shows that an annulus has pixels; a margin for the largest |Q| of all pixels.
_COARSE, _MARGIN = 32, 1.01


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""


class Outputs(stage.Outputs):
    peaks: Path
    """Peak table (NXreflections)."""
    picture: Path
    """Picture: peaks over the maximum image."""
    metrics: Path
    """Number of blobs that were found, kept and rejected."""
    statistics: Path
    """Sum and background of each frame in counts; sums by |Q|; images: sum and maximum of all
    frames, and sums over ranges of frames."""
    statistics_picture: Path
    """Picture of the statistics."""
    statistics_metrics: Path
    """Largest value and its pixel, mean counts and median background."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    n_sigma: float = Field(4.5, ge=1)
    """Smallest excess of a strong voxel over the local background, in standard deviations."""
    threshold: float | None = Field(None, ge=0)
    """Counts above which a voxel is strong, whatever the background; None: no such threshold."""
    window: int = Field(9, ge=2)
    """Half-size of the window for the background, in pixels; larger than a peak."""
    min_pixels: int = Field(3, ge=1)
    """Smallest number of strong voxels in a peak."""
    min_significance: float = Field(6.0, ge=0)
    """Smallest ratio of the intensity of a peak to its Poisson uncertainty."""
    max_frames: int = Field(25, ge=1)
    """Largest number of frames of a blob; longer blobs are rejected (hot pixels, streaks)."""
    max_pixels: int = Field(150, ge=1)
    """Largest extent of a blob along slow or fast, in pixels; larger blobs are rejected."""
    prominence: float = Field(3.0, ge=0)
    """Smallest height of a separate peak above the saddle to a higher peak, in standard deviations.
    """
    margin_pixels: int = Field(5, ge=1)
    """Pixels added on each side of the strong voxels for the fit."""
    margin_frames: int = Field(4, ge=1)
    """Frames added on each side of the strong voxels for the fit."""
    sigma_floor: tuple[NonNegativeFloat, NonNegativeFloat] = (0.005, 0.005)
    """Errors of detector geometry (pixels) and goniometer (frames), added in quadrature to the
    standard deviations of centroids. The error of spots narrower than a pixel or a frame is added
    in any case."""
    annulus: tuple[float, float] | None = None
    """Range of |Q| in which the background between the Bragg peaks is measured, as fractions of
    the largest |Q| on the detector. None: 0.3 to 0.95; from the smallest measured |Q| if this is
    larger, and up to the largest if the detector has only |Q| above 0.9 of it."""
    groups: Path | None = None
    """Groups of pixels (`hklflow groups make`) for `background_groups`."""
    background_groups: tuple[str, ...] = ()
    """Names of the groups in which the background, and with it the scale of the frames, is
    measured, such as chips without a shadow; the annulus is taken within them. Empty: everywhere.
    """
    block: int = Field(2, gt=0, le=512)
    """Number of frames that are read at a time; a small number fits into the processor cache."""


class Params(Settings):
    """Settings of the stage, and the gain if it runs by hand on frames that are not converted."""

    gain: PositiveFloat | Literal["measure"] = 1.0
    """Counts per photon of frames that the import did not convert to photons, for this stage alone;
    `measure`: estimated from the background. In the configuration, the gain is `import_scan: gain`,
    for all stages.
    """


_NOT_OF_THE_SEARCH = {
    "block", "threshold", "gain", "sigma_floor", "annulus", "groups", "background_groups",
}  # fmt: skip


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Search and fit peaks, make the frame statistics, and write all results."""
    from dataclasses import replace

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.formats import raw
    from hklflow.images import masks
    from hklflow.images.statistics import part_ends
    from hklflow.peaks import afterglow
    from hklflow.peaks.sampling import with_sampling
    from hklflow.peaks.search import PeakFlag, PeakSearch
    from hklflow.peaks.table import UNUSABLE

    scan = nexus.read_scan(inputs.scan)
    bad = nexus.read_mask(inputs.mask) != 0
    n = scan.rotation.scan.n_frames
    noise = raw.read_variance(scan)
    ends = part_ends(n)
    with (
        raw.open_scan(scan) as frames,
        nexus.statistics_output(outputs.statistics, bad.shape, frames.dtype, ends) as output,
    ):
        invalid_from = masks.flag_value(frames.dtype) or np.inf
        ring = background_annulus(scan, ~bad, params)
        statistics, q_bins = _statistics(
            scan, bad, ring.inside, invalid_from, part_ends=ends, on_part=output.add_part
        )
        search = PeakSearch(
            bad,
            _criteria(scan, invalid_from, params),
            statistics=statistics if noise is None else None,
        )
        _require_open_shutter(frames, scan, ~bad, invalid_from, inputs.scan, threads)
        blocks = frames.stream(params.block, scan.first, scan.first + n, threads=threads)
        for block in stage.progress(blocks, n, "peak search frames", len):
            if noise is not None:
                statistics.add(block)
                block = block + noise
            search.add(block)
        result = statistics.result()
        _require_sound(frames, scan, result, int(np.count_nonzero(~bad)), inputs.scan)
        arrays = {
            "frame_sum": result.frame_sums,
            "background": result.background,
            "monitor": scan.monitor,
        }
        valid = int((~bad).sum()) - result.frame_flagged
        output.write(
            arrays | {"pixels": valid},  # valid pixels of each frame are not in the picture
            {"summed": result.summed, "maximum": result.maximum_image},
            (q_bins, result.radial_sums, result.radial_counts),
            (result.parts, result.parts_errors, result.parts_shape, result.parts_image),
        )
    peaks = search.finish()
    pixels, frames_floor = params.sigma_floor
    peaks = replace(
        peaks,
        var_slow=with_sampling(peaks.var_slow, peaks.width_slow) + pixels**2,
        var_fast=with_sampling(peaks.var_fast, peaks.width_fast) + pixels**2,
        var_frame=with_sampling(peaks.var_frame, peaks.width_frame) + frames_floor**2,
    )
    if noise is not None:
        last = np.array(bad.shape) - 1
        at = np.clip(np.stack([peaks.slow, peaks.fast], axis=1).astype(int), 0, last)
        under = noise[at[:, 0], at[:, 1]]
        peaks = replace(peaks, background=peaks.background - under, maximum=peaks.maximum - under)
    peaks = replace(peaks, afterglow=_afterglow(search.followed(peaks), scan))
    warning = afterglow.sentence(peaks)
    nexus.write_peaks(outputs.peaks, peaks)
    figures: dict[str, Any] = {"peaks": len(peaks.frame), "blobs": peaks.counts}
    gain = scan.gain
    doubts = [*([warning] if warning else []), *(() if gain is None else gain.doubts)]
    figures |= {"afterglow": peaks.afterglow, "warnings": doubts}
    if gain is not None:
        figures["gain"] = gain.source
    widest = int(np.count_nonzero(peaks.flags & int(PeakFlag.WIDEST)))
    stage.write_json(outputs.metrics, {**figures, "as wide as the fit allows": widest})
    picture = plots.peaks(
        result.maximum_image,
        bad,
        peaks.slow,
        peaks.fast,
        peaks.frame,
        peaks.intensity,
        (peaks.flags & int(UNUSABLE)) != 0,
        f"{len(peaks.frame)} peaks of {scan.raw}",
        (scan.rotation.detector, scan.rotation.beam),
    )
    plots.save(picture, outputs.picture)
    _record(outputs, arrays, scan, bad, result, ring)
    print(ring.sentence)
    print(f"{len(peaks.frame)} peaks; {peaks.counts}" + (f"; {warning}" if warning else ""))
    print(f"maximum {result.maximum} at (frame, slow, fast) {result.maximum_at}")


def _afterglow(spots: "list[afterglow.Followed]", scan: "RotationScan") -> dict[str, Any] | None:
    """Measure the afterglow of the detector on isolated spots."""
    import numpy as np

    from hklflow.geometry import BEAM
    from hklflow.peaks import afterglow

    if not spots:
        return None
    slow, fast = (np.array([spot.centre[k] for spot in spots]) for k in (1, 2))
    q = scan.rotation.q_lab(slow, fast)
    # Direction of the crossing: sign of the speed of a reflection through the Ewald sphere.
    sense = np.sign(np.cross(q, BEAM) @ scan.rotation.goniometer.scan_axis_lab())
    found = afterglow.measured(spots, sense)
    return None if found is None else vars(found)


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Make the criteria of the search, and the annulus without the pixels that are masked."""
    import json
    from hashlib import blake2b

    import numpy as np

    from hklflow.geometry import detector_to_dict
    from hklflow.images import masks, statistics

    facts = known.scan(inputs.scan)
    if facts is None:
        return
    statistics.require_type(facts.frames.dtype)
    _criteria(facts.scan, masks.flag_value(facts.frames.dtype) or np.inf, params)
    bad = known.bad(inputs.mask)
    if facts.calibrated and bad is not None and not _has_pixels(facts.scan, ~bad, params):
        rotation, mask = facts.scan.rotation, blake2b(np.packbits(bad).tobytes()).digest()
        geometry = json.dumps(detector_to_dict(rotation.detector)), rotation.beam.wavelength
        known.once(
            ("annulus", *geometry, mask, params.annulus, params.groups, params.background_groups),
            lambda: background_annulus(facts.scan, ~bad, params).sentence,
        )


def _has_pixels(scan: "RotationScan", good: "NDArray[np.bool_]", params: Params) -> bool:
    """Return True if a few pixels are enough to see that the annulus has a good one."""
    import numpy as np

    if params.background_groups:
        return False
    if params.annulus is None:  # an annulus that is chosen has good pixels, if there are any
        return bool(good.any())
    slow, fast = (np.r_[0:n:_COARSE, n - 1] for n in good.shape)
    q = np.linalg.norm(scan.rotation.q_lab(slow[:, None] + 0.5, fast + 0.5), axis=-1)
    low, high = (end * q.max() for end in params.annulus)
    # The largest |Q| of all pixels is hardly larger than of these.
    inside = (q > _MARGIN * low) & (q < high / _MARGIN) & good[np.ix_(slow, fast)]
    return bool(inside.any())


def _criteria(scan: "RotationScan", invalid_from: float, params: Params) -> "PeakParams":
    """Return the criteria of the peak search."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.peaks.search import PeakParams

    if scan.gain is not None and params.gain != 1:
        raise HklflowError(
            f"--gain is {params.gain}, but the frames of {scan.raw} are converted to photons with "
            "the gain of the import: leave --gain out"
        )
    return PeakParams(
        **params.model_dump(exclude=_NOT_OF_THE_SEARCH),
        gain=None if params.gain == "measure" else params.gain,
        threshold=np.inf if params.threshold is None else params.threshold,
        saturation=np.inf if scan.saturation is None else scan.saturation,
        invalid_from=invalid_from,
        valid_from=scan.underload,
    )


def background_annulus(
    scan: "RotationScan", good: "NDArray[np.bool_]", params: Params
) -> "Annulus":
    """Return the annulus of the background; refuse an annulus without good pixels."""
    from dataclasses import replace

    import numpy as np

    from hklflow import nexus
    from hklflow.base.errors import HklflowError
    from hklflow.images.annulus import annulus

    slow, fast = np.indices(good.shape)
    q = np.linalg.norm(scan.rotation.q_lab(slow + 0.5, fast + 0.5), axis=-1)
    if not params.background_groups:
        return annulus(q, good, params.annulus)
    if params.groups is None:
        raise HklflowError(
            "`find_peaks: background_groups` names groups of pixels, and `groups` gives no file; "
            "add the file that `hklflow groups make` wrote"
        )
    groups = nexus.read_groups(params.groups).binned(scan.binning)
    groups.require(good.shape, scan.rotation.detector, scan.rotation.beam)
    chosen = groups.select(params.background_groups)
    if not (good & chosen).any():
        raise HklflowError(
            f"the groups {', '.join(params.background_groups)} of `find_peaks: background_groups` "
            "have no good pixel; name other groups"
        )
    found = annulus(q, good & chosen, params.annulus)
    sentence = f"{found.sentence}, in the groups {', '.join(params.background_groups)}"
    return replace(found, inside=found.inside & chosen, sentence=sentence)


def _statistics(
    scan: "RotationScan",
    bad: "NDArray[np.bool_]",
    ring: "NDArray[np.bool_]",
    invalid_from: float,
    **parts: Any,
) -> tuple["FrameStatistics", "NDArray[np.float64]"]:
    """Prepare the frame statistics; return them and the centres of the |Q| bins."""
    import numpy as np

    from hklflow.images.background import CELL
    from hklflow.images.statistics import FrameStatistics

    slow, fast = np.indices(bad.shape)
    # All pixels of a cell get the bin of its centre: whole cells are fast, and bins are wider.
    middle = [(index // CELL + 0.5) * CELL for index in (slow, fast)]
    q_cell = np.linalg.norm(scan.rotation.q_lab(*middle), axis=-1)
    edges = np.linspace(0.0, q_cell.max() * (1 + 1e-9), _RADIAL_BINS + 1)
    return (
        FrameStatistics(
            bad,
            annulus=ring,
            invalid_from=invalid_from,
            valid_from=scan.underload,
            labels=np.digitize(q_cell, edges) - 1,
            **parts,
        ),
        0.5 * (edges[1:] + edges[:-1]),
    )


def _require_open_shutter(
    frames: "Frames",
    scan: "RotationScan",
    good: "NDArray[np.bool_]",
    invalid_from: float,
    path: Path,
    threads: int,
) -> None:
    """Check every n-th frame before the search, and stop if frames were lost.

    The search takes minutes. If one of these frames is lost, all frames are summed, so that the
    error is the same as after the search.
    """
    import numpy as np

    n, first, n_pixels = scan.rotation.scan.n_frames, scan.first, int(np.count_nonzero(good))
    lowest = scan.underload if frames.dtype.kind == "f" else 0

    def sums(blocks: "Iterable[NDArray[Any]]") -> "tuple[NDArray[Any], NDArray[np.int64]]":
        values = (frame[good] for block in blocks for frame in block)
        valid = (v[(v >= lowest) & (v < invalid_from)] for v in values)
        kind = np.float64 if frames.dtype.kind == "f" else np.int64
        found = [(v.sum(dtype=kind), n_pixels - v.size) for v in valid]
        return np.array([s for s, _ in found]), np.array([f for _, f in found])

    few = np.arange(0, n, _LOOK)
    looked = sums(frames.read(first + frame, first + frame + 1) for frame in few.tolist())
    if len(_lost(scan, few, *looked, n_pixels)):
        every = sums(frames.stream(1, first, first + n, threads=threads))
        _require_counts(scan, *every, n_pixels, path)


def _lost(
    scan: "RotationScan",
    which: "NDArray[np.int64]",
    sums: "NDArray[Any]",
    flagged: "NDArray[np.int64]",
    n_pixels: int,
) -> "NDArray[np.int64]":
    """Return the frames among ``which`` that are lost."""
    from hklflow.images import frame_defects

    lost = frame_defects.lost(sums, (scan.monitor * scan.attenuation)[which])
    # A frame without valid pixels (NaN, or left out) is not used, so it is not a lost frame.
    return which[lost[flagged[lost] < n_pixels]]


def _require_counts(
    scan: "RotationScan",
    sums: "NDArray[Any]",
    flagged: "NDArray[np.int64]",
    n_pixels: int,
    path: Path,
) -> None:
    """Refuse lost frames, because their zero counts would be used as a measurement."""
    import numpy as np

    from hklflow.base.errors import HklflowError

    lost = _lost(scan, np.arange(len(sums)), sums, flagged, n_pixels)
    if len(lost):
        raise HklflowError(
            f"{len(lost)} frames of {scan.raw} have zero counts, the first is frame "
            f"{scan.first + lost[0]} (median of all frames: {np.median(sums):.3g}): "
            "the shutter was closed, or the frames were lost; "
            + _cure(path, [scan.first + int(frame) for frame in lost])
        )


def _require_sound(
    frames: "Frames",
    scan: "RotationScan",
    result: "StatisticsResult",
    n_pixels: int,
    path: Path,
) -> None:
    """Refuse lost and copied frames, because their counts would be used as a measurement."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.images import frame_defects

    _require_counts(scan, result.frame_sums, result.frame_flagged, n_pixels, path)
    assert result.radial_sums is not None
    copied = {}
    for pair in frame_defects.copies(result.frame_sums, result.radial_sums):
        first, second = (scan.first + frame for frame in pair)
        if np.array_equal(
            frames.read(first, first + 1), frames.read(second, second + 1), equal_nan=True
        ):
            copied[second] = first
    if copied:
        second, first = next(iter(copied.items()))
        raise HklflowError(
            f"frame {second} of {scan.raw} is an exact copy of frame {first} "
            f"({len(copied)} frames are copies): the detector hung, or a file was copied; "
            + _cure(path, sorted(copied))
        )


def _cure(path: Path, frames: list[int]) -> str:
    """Return the remedy for frames of a scan file with the path sample/scan/rotation."""
    from hklflow.geometry.left_out import written

    sample, scan, rotation = path.absolute().parts[-4:-1]
    items = ", ".join(f"{rotation}:{item}" for item in written(frames))
    return (
        "copy the raw data again, or leave these frames out: "
        f"`per_scan: {{{sample}/{scan}: {{import_scan: {{leave_out: [{items}]}}}}}}`"
    )


def _record(
    outputs: Outputs,
    arrays: "dict[str, NDArray[Any]]",
    scan: "RotationScan",
    bad: "NDArray[np.bool_]",
    result: "StatisticsResult",
    ring: "Annulus",
) -> None:
    import numpy as np

    from hklflow import plots

    title = f"frame statistics of {scan.raw}"
    geometry = scan.rotation.detector, scan.rotation.beam
    picture = plots.frame_statistics(arrays, result.maximum_image, bad, title, geometry)
    plots.save(picture, outputs.statistics_picture)
    known = result.background[np.isfinite(result.background)]
    n = len(result.frame_sums)
    metrics: dict[str, Any] = {
        "maximum": result.maximum,
        "maximum at (frame, slow, fast)": result.maximum_at,
        "mean counts per pixel": float(result.frame_sums.sum() / max(int((~bad).sum()), 1) / n),
        "median background": float(np.median(known)) if known.size else None,
        "background from and to |Q| in 1/Å": ring.ends,
        "as fractions of the largest |Q|": ring.fractions,
    }
    stage.write_json(outputs.statistics_metrics, metrics)


if __name__ == "__main__":
    stage.command(main)
