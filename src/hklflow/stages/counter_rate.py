"""Find the dead time of a photon counter, after its own correction, from attenuator steps."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, field_validator

from hklflow import stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from hklflow.constants.count_rate import DeadTime
    from hklflow.images.masks import Bits

VERSION = 1


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw HDF5 files, or first and last image of each series: the same scene through different
    attenuators, one run for each transmission."""


class Outputs(stage.Outputs):
    constants: Path
    """Dead time of the detector and of its modules, and the table of count rates."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    exposure: float | None = Field(None, gt=0)
    """Exposure of one frame in seconds; None: the value in the raw files."""
    saturation: float | None = Field(None, gt=0)
    """Counts from which a pixel is saturated; None: the value in the raw files."""
    detector: str | None = None
    """Name of the detector in pyFAI, such as `Pilatus 1M`; its modules are also fitted separately.
    None: the modules are found from the gaps in the raw file.
    """
    block: int = Field(8, gt=0, le=512)
    """Number of frames in memory at a time."""


class Params(Settings):
    """Settings of the stage, and the image series."""

    transmission: tuple[float, ...]
    """Transmission of the attenuators of each run; only ratios matter."""
    patterns: tuple[str, ...] = ()
    """Patterns of the image series (`name_####.cbf`), one for each run; empty: HDF5 files."""

    @field_validator("transmission", mode="after")
    @classmethod
    def _transmits(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for transmission in value:
            if not (math.isfinite(transmission) and transmission > 0):
                raise ValueError(f"{transmission} is not a transmission; use numbers above 0")
        return value


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Sum each run, fit the detector and then its modules, and report the rate limit."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.calibration.module_gaps import modules_from_gaps
    from hklflow.constants import counters, files

    names = list(params.patterns) or [str(path) for path in inputs.raw]
    if len(names) != len(params.transmission):
        raise HklflowError(
            f"transmission has {len(params.transmission)} values for {len(names)} runs; enter one "
            "for each run, in the same order"
        )
    runs = _summed(names, params, threads)
    whole = runs.fit(slice(None), slice(None), params.transmission)
    boxes = modules_from_gaps(runs.bits != 0)
    limit = whole.limit()
    rates = np.linspace(0, whole.largest_rate, 256)
    facts = {
        "model": whole.model,
        "model_decided": whole.decided,
        "dead_time": whole.tau,
        "dead_time_error": whole.error,
        "chi2": whole.chi2,
        "pixels": whole.pixels,
        "largest_rate": whole.largest_rate,
        "lost_at_largest_rate": whole.lost(),
        "limit_1_percent": limit,
    }
    quantities = {
        "pixel_mask": counters.mask_quantity(runs.bits),
        "observed_rate": files.Quantity(whole.observed(rates), "counts/s", facts),
        "true_rate": files.Quantity(rates, "photons/s"),
    }
    if len(boxes) > 1:
        values, errors = _fit_modules(runs, boxes.tolist(), params.transmission).T
        quantities["dead_time_module"] = files.Quantity(values, "s", {"modules": boxes})
        quantities["dead_time_module_errors"] = files.Quantity(errors, "s")
    about = {
        "measure": "rate",
        "raw": names,
        "transmission": params.transmission,
        "exposure_s": runs.exposure,
    }
    title = f"count rate of {names[0]} and {len(names) - 1} more"
    files.write_part(outputs.constants, title, files.Constants(about | facts, quantities))
    known = "" if whole.decided else " (or the other model: the rates are too low to decide)"
    print(
        f"dead time {1e9 * whole.tau:.3g} ± {1e9 * whole.error:.2g} ns, {whole.model}{known}; "
        f"{whole.lost():.2%} of the photons are lost at {whole.largest_rate:.3g} photons/s per "
        "pixel"
    )
    print(f"below {limit:.3g} photons/s per pixel less than 1 % is lost or added")


class _Summed(NamedTuple):
    """Sums of all runs."""

    counts: "NDArray[Any]"
    """Counts (runs, slow, fast)."""
    frames: "NDArray[np.int32]"
    """Number of frames in which each pixel is valid (runs, slow, fast)."""
    bits: "Bits"
    """Mask of all runs, with the gaps of the detector."""
    exposure: float

    def fit(self, rows: slice, columns: slice, transmission: "Sequence[float]") -> "DeadTime":
        """Fit the good pixels of a part of the detector."""
        from hklflow.constants.count_rate import fit_dead_time

        good = self.bits[rows, columns] == 0
        counts = self.counts[:, rows, columns][:, good]
        frames = self.frames[:, rows, columns][:, good]
        return fit_dead_time(counts, frames, self.exposure, transmission)


def _fit_modules(
    runs: _Summed, boxes: list[list[int]], transmission: "Sequence[float]"
) -> "NDArray[np.float64]":
    """Return dead time and error of each module (n, 2); NaN if it cannot be fitted separately."""
    import numpy as np

    from hklflow.base.errors import HklflowError

    times = np.full((len(boxes), 2), np.nan)
    for i, (s0, s1, f0, f1) in enumerate(boxes):
        try:
            dead_time = runs.fit(slice(s0, s1), slice(f0, f1), transmission)
        except HklflowError as error:
            print(f"note: module {i} cannot be fitted separately: {error}")
        else:
            times[i] = dead_time.tau, dead_time.error
    return times


def _summed(names: list[str], params: Params, threads: int) -> _Summed:
    """Sum the frames of each run, and join their masks."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.constants import counters
    from hklflow.stage import mask_steps

    exposures: dict[str, ArrayLike | None] = {}
    totals, numbers = [], []
    bits: Bits | None = None
    for name in names:
        run = counters.measure(
            name,
            params.block,
            threads,
            trusted=True,
            saturation=params.saturation,
            shown=lambda blocks, n: stage.progress(blocks, n, "frames", len),
        )
        if bits is not None and bits.shape != run.bits.shape:
            raise HklflowError(
                f"{name} has {run.bits.shape} pixels and {names[0]} {bits.shape}; give runs of one "
                "detector"
            )
        bits = run.bits if bits is None else bits | run.bits
        exposures[name] = run.header.exposure_time
        totals.append(run.moments.total)
        numbers.append(run.moments.frames.astype(np.int32))
    exposure = counters.common_exposure(exposures, params.exposure)
    assert bits is not None
    if params.detector is not None:
        bits[mask_steps.detector_gaps(params.detector, bits.shape)] |= 1
    return _Summed(np.stack(totals), np.stack(numbers), bits, exposure)


if __name__ == "__main__":
    stage.command(main)
