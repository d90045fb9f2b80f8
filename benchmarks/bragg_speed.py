"""How fast reflections are integrated: Mpixel-frames and reflections per second.

    python -m benchmarks.bragg_speed [frames]

Simulated frames of 1 Mpixel in memory, crowded as those of a cell of some 20 Å. The peak search of
the same frames is timed in turns with integration, for the ratio of CPU times on one core.
"""
# ruff: noqa: I001

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
from tests.truth.defaults import peak_params
import hklflow  # noqa: F401
import numpy as np
from tests.truth import bragg_scans as simulated

from hklflow.bragg.integrate import integrate
from hklflow.geometry import symmetry
from hklflow.peaks.search import find_peaks
from hklflow.peaks.table import PeakTable
from hklflow.simulation.frames import GAP_VALUE
from hklflow.stage.integration_settings import IntegrationSettings

SHAPE = (1000, 1000)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main(n_frames: int = 200) -> None:
    simulation = simulated.scan(
        "triclinic",
        n_frames=n_frames,
        step=np.radians(0.25),
        detector={"shape": SHAPE, "foot": (480.0, 510.0), "pixel_size": (1.5e-4, 1.5e-4)},
        sample={"cell": (13.0, 15.0, 19.0, 83.0, 97.0, 104.0), "scale": 0.2, "b_iso": 2.0},
    )
    counts = np.concatenate(list(simulation.frames())).astype(np.uint16)
    measurement = simulated.measurement(simulation)

    def blocks() -> Iterator[np.ndarray]:
        return (counts[i : i + 8] for i in range(0, n_frames, 8))

    measurement = replace(measurement, blocks=blocks, invalid_from=float(np.uint16(GAP_VALUE)))
    group = symmetry.space_group("P -1")
    size = counts.size / 1e6

    def search() -> PeakTable:
        return find_peaks(blocks(), ~simulation.live, peak_params(invalid_from=65535))

    peaks = search()

    def integration() -> Any:
        return integrate(measurement, simulation.ub, group, peaks, IntegrationSettings().chosen())

    integration()  # compilation
    for turn in range(3):
        searched, _ = timed(search)
        took, found = timed(integration)
        n = len(found.reflections)
        print(
            f"turn {turn}: {size:.0f} Mpixel-frames, {n} reflections, {len(peaks)} peaks: "
            f"integrate {took:.1f} s ({size / took:.0f} Mpixel-frames/s, {n / took:.0f} "
            f"reflections/s), search {searched:.1f} s; ratio {took / searched:.2f}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
