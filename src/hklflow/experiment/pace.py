"""Measure the speed of this machine, on the first frames of an experiment.

`hklflow check` predicts times from costs that were measured on one machine and on other frames. A
few seconds of measurement replace the three parts that differ most: the speed of the processor, the
rate of the decoder, and the rate of the peak search, which depends on the crystal.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from hklflow.simd import private

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment
    from hklflow.formats.raw_frames import Frames
    from hklflow.stages.find_peaks import Settings

CLOCK_SECONDS = 0.054
"""CPU seconds of the clock on the machine of the costs (AMD EPYC of 2025)."""
DECODE_RATE = 2100.0
"""Mpixel per CPU second of the decoder on the machine and with the frames of the costs."""

_TURNS = 5
_SHORTEST = 0.3  # CPU seconds of decoding
_SEARCHED = 100e6  # pixels for the peak search
_FEWEST, _MOST = 16, 200  # frames for the peak search
_COLD = (
    "kernels for these frames and this processor are not compiled yet; the first jobs compile them "
    "(`python -m hklflow.experiment.warm` does it in advance)"
)


class _NotCompiledError(Exception):
    """A kernel of the measurement is not on disk."""


@dataclass(frozen=True)
class Pace:
    """Speed of this machine.

    Attributes
    ----------
    clock : float
        CPU time of a fixed piece of work, relative to the machine of the costs.
    decode, search : float or None
        Mpixel per CPU second of the decoder, and of the peak search with statistics and decoding,
        on the first frames of the first rotation. None: not measured.
    reason : str
        The reason why decoder and peak search are not measured.
    """

    clock: float
    decode: float | None = None
    search: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        words = f"this machine takes {self.clock:.2f} of the time of the machine of the costs"
        if self.decode is None or self.search is None:
            return (
                f"{words}; decoder and peak search are not measured, the rates of other frames are "
                f"used: {self.reason}"
            )
        return (
            f"{words}; on the first frames the decoder does {self.decode:.0f} and the peak search "
            f"{self.search:.0f} Mpixel per CPU second"
        )


def measured(experiment: "Experiment") -> Pace:
    """Measure the speed of this machine, in a few CPU seconds.

    Nothing is compiled, and no frame stops the measurement: the reason is in the result.
    """
    _work()  # loads what it needs
    clock = median(_seconds(_work) for _ in range(_TURNS)) / CLOCK_SECONDS
    try:
        return Pace(clock, *_rates(experiment))
    except _NotCompiledError:
        return Pace(clock, reason=_COLD)
    except Exception as error:  # noqa: BLE001  (a prediction does not fail with the frames)
        return Pace(clock, reason=str(error) or type(error).__name__)


def _rates(experiment: "Experiment") -> tuple[float, float]:
    """Return the rates of the decoder and of the peak search on the first frames."""
    import hklflow.simd.jit  # noqa: F401  (its message about compilations registers first)
    from hklflow.formats.raw import open_frames

    sample, scan, rotation = experiment.all_rotations()[0]
    raw = experiment.base / experiment.rotation(sample, scan, rotation).parts[0]
    if experiment.config.simulation is not None and not raw.exists():
        raise FileNotFoundError("the frames are not simulated yet")
    with private.no_compilation(_NotCompiledError()), open_frames(raw) as frames:
        settings = experiment.settings(sample, scan).find_peaks
        return _decode_rate(frames), _search_rate(frames, raw, settings)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _work() -> None:
    """Do a fixed piece of work of the kinds that jobs do: Python, arithmetic, sums, transforms."""
    import numpy as np

    # Small arrays: new memory takes a time of its own, which differs from call to call.
    start = (np.arange(1 << 16, dtype=np.float32) * 0.618034) % 1.0
    for _ in range(16):
        x = np.sqrt(1.0 + start)
        for _ in range(4):
            x = np.sqrt(1.0 + x) - 0.5 * x
        sums = np.bincount((x * 16384).astype(np.int64), weights=x, minlength=1 << 15)
        np.fft.rfft2(x.reshape(256, 256))
        np.sort(x)
    found: dict[int, float] = {}
    for i in range(60000):
        found[i & 1023] = found.get(i & 1023, 0.0) + sums[i & 1023].item()


def _decode_rate(frames: "Frames") -> float:
    n, slow, fast = frames.shape

    def read(last: int) -> None:
        for _ in frames.stream(8, 0, last):
            pass

    read(min(2, n))
    last, pixels, seconds = min(n, 100), 0, 0.0
    while seconds < _SHORTEST:
        seconds += max(_seconds(lambda: read(last)), 1e-3)
        pixels += last * slow * fast
    return pixels / 1e6 / seconds


def _search_rate(frames: "Frames", raw: Path, settings: "Settings") -> float:
    """Return the rate of the peak search with statistics and decoding, in Mpixel per CPU second."""
    import numpy as np

    from hklflow.formats.raw import is_hdf5, read_mask_bits
    from hklflow.images import masks
    from hklflow.images.statistics import FrameStatistics
    from hklflow.peaks.search import PeakParams, PeakSearch

    n, slow, fast = frames.shape
    count = min(n, _MOST, max(_FEWEST, round(_SEARCHED / (slow * fast))))
    flag = masks.flag_value(frames.dtype)
    bits = read_mask_bits(raw) if is_hdf5(raw) else None
    bad = masks.flagged(frames.read(0, 1)[0], flag)
    if bits is not None:
        bad |= bits != 0
    fields = PeakParams.__dataclass_fields__
    chosen = {k: v for k, v in settings.model_dump().items() if k in fields}
    chosen["threshold"] = np.inf if settings.threshold is None else settings.threshold
    chosen |= {"gain": 1.0, "invalid_from": np.inf if flag is None else float(flag)}
    params = PeakParams(**chosen)

    def search(last: int) -> None:
        statistics = FrameStatistics(bad, annulus=~bad, invalid_from=params.invalid_from)
        found = PeakSearch(bad, params, statistics=statistics)
        for block in frames.stream(settings.block, 0, last):
            found.add(block)
        found.finish()
        statistics.result()

    search(min(2, n))
    return count * slow * fast / 1e6 / _seconds(lambda: search(count))
