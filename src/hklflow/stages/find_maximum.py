"""Find the maximum, the frame sums and the background in one pass over the frames."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 3


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""


class Outputs(stage.Outputs):
    statistics: Path
    """Per-frame sums and background in counts; sum and maximum images."""
    picture: Path
    """Picture of them."""
    metrics: Path
    """Maximum and where it is."""


class Params(stage.Params):
    annulus: tuple[float, float] = (0.3, 0.95)
    """Part of the |Q| range on the detector in which the background between the Bragg peaks is
    found, from and to (fractions of the maximum)."""
    block: int = Field(16, gt=0, le=512)
    """Frames held in memory at a time."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """One pass."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.core import masks
    from hklflow.core.statistics import FrameStatistics
    from hklflow.formats import raw

    scan = nexus.read_scan(inputs.scan)
    bad = nexus.read_mask(inputs.mask) != 0
    centre = np.indices(bad.shape) + 0.5
    q = np.linalg.norm(scan.rotation.q_lab(centre[0], centre[1]), axis=-1)
    low, high = np.array(params.annulus) * q.max()
    n = scan.rotation.scan.n_frames
    with raw.open_frames(scan.raw) as frames:
        statistics = FrameStatistics(
            bad,
            annulus=(q >= low) & (q <= high),
            invalid_from=masks.flag_value(frames.dtype) or np.inf,
        )
        for block in stage.progress(
            frames.blocks(params.block, scan.first, scan.first + n), n, "frame statistics", len
        ):
            statistics.add(block)
    result = statistics.result()
    arrays = {
        "frame_sum": result.frame_sums,
        "background": result.background,
        "monitor": scan.monitor,
    }
    # Not shown: pixels outside the mask that carry a measurement.
    pixels = int((~bad).sum()) - result.frame_flagged
    nexus.write_statistics(
        outputs.statistics,
        arrays | {"pixels": pixels},
        {"summed": result.summed, "maximum": result.maximum_image},
    )
    title = f"frame statistics of {scan.raw}"
    plots.save(plots.frame_statistics(arrays, result.maximum_image, bad, title), outputs.picture)
    known = result.background[np.isfinite(result.background)]
    metrics = {
        "maximum": result.maximum,
        "maximum at (frame, slow, fast)": result.maximum_at,
        "mean counts per pixel": float(result.frame_sums.sum() / max(int((~bad).sum()), 1) / n),
        "median background": float(np.median(known)) if known.size else None,
    }
    stage.write_json(outputs.metrics, metrics)
    print(f"maximum {result.maximum} at (frame, slow, fast) {result.maximum_at}")


if __name__ == "__main__":
    stage.command(main)
