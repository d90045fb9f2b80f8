"""Simulated raw runs of all measurements of a detector with known constants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.constants import gather
from hklflow.constants.detectors import STAGES, Integrating
from hklflow.constants.ramps import Segments, abscissa
from hklflow.constants.simulate import Adus, Truth
from hklflow.constants.simulate_photons import Foil, deposit
from hklflow.constants.simulate_ramps import (
    Source,
    current_source,
    pulse_capacitor,
)
from hklflow.constants.write_layouts import RawFrames, write_run

Output = Callable[[int], tuple[Adus, Adus]]


@dataclass(frozen=True)
class Campaign:
    """Measurements to be simulated.

    Attributes
    ----------
    darks, xrays : int
        Number of trains of each dark run and of the fluorescence; 0 xrays: not measured.
    foil : Foil
    pulses, currents : sequence of (n, increment)
        Ramps of the pulse capacitor and the current source; empty: not measured.
    rates : mapping
        keV per unit of the ramp for each current.
    interleaved : bool
        True: ramps consist of 8 and 4 runs, each of some rows or columns.
    """

    darks: int = 60
    xrays: int = 0
    foil: Foil = field(default_factory=lambda: Foil(8.041))
    pulses: Segments = ()
    currents: Segments = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    interleaved: bool = False


def write_campaign(
    folder: Path,
    layout: str,
    detector: Integrating,
    modules: Mapping[int, Truth],
    campaign: Campaign,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Write all runs and return the section `runs` of the configuration.

    Parameters
    ----------
    folder : Path
        Parent folder; each run has its own folder in it.
    layout : str
    detector : Integrating
    modules : mapping
        Truth of the pixels (ss, fs) of each module number.
    campaign : Campaign
    rng : Generator
    """
    number = 0

    def write(trains: int, outputs: Mapping[int, Output]) -> str:
        nonlocal number
        number += 1
        place = folder / f"r{number:04d}"
        frames = {m: _in_order(modules[m].cells, trains, output) for m, output in outputs.items()}
        write_run(layout, place, number, detector, frames)
        return str(place)

    runs: dict[str, Any] = {}
    for stage, name in enumerate(STAGES):
        runs[f"dark_{name}"] = write(
            campaign.darks,
            {m: _dark(truth, campaign.darks, rng, stage) for m, truth in modules.items()},
        )
    if campaign.xrays:
        runs["xray"] = write(
            campaign.xrays,
            {m: _lit(truth, campaign.xrays, rng, campaign.foil) for m, truth in modules.items()},
        )

    def ramp(measure: str, segments: Segments, sources: Mapping[int, Source], n: int) -> list[str]:
        x = abscissa(segments, np.arange(sum(count for count, _ in segments)))
        n = n if campaign.interleaved else 1
        paths = []
        for run in range(n):
            driven = gather.driven(measure, run, detector) if n > 1 else None
            outputs = {
                m: _driven(truth, sources[m], x, rng, driven) for m, truth in modules.items()
            }
            paths.append(write(len(x), outputs))
        return paths

    if campaign.pulses:
        sources = {m: pulse_capacitor(truth, rng) for m, truth in modules.items()}
        runs["pulse_capacitor"] = ramp("pulse_capacitor", campaign.pulses, sources, 8)
    runs["current_source"] = {}
    for name, rate in campaign.rates.items():
        sources = {m: current_source(truth, rng, rate) for m, truth in modules.items()}
        measure = f"current_source_{name}"
        runs["current_source"][name] = ramp(measure, campaign.currents, sources, 4)
    return runs


def _dark(truth: Truth, n: int, rng: np.random.Generator, stage: int) -> Output:
    nothing = np.zeros((n, *truth.shape))
    return lambda cell: truth.respond(nothing, cell, rng, stage)


def _lit(truth: Truth, n: int, rng: np.random.Generator, foil: Foil) -> Output:
    return lambda cell: truth.respond(deposit(foil, n, truth.shape, rng), cell, rng)


def _driven(
    truth: Truth,
    source: Source,
    x: NDArray[np.float64],
    rng: np.random.Generator,
    driven: NDArray[np.bool_] | None,
) -> Output:
    return lambda cell: source.respond(truth, cell, x, rng, driven)


def _in_order(cells: int, trains: int, output: Output) -> RawFrames:
    """Return the frames of all memory cells, train after train."""
    parts = [output(cell) for cell in range(cells)]
    analog, digital = (np.stack([p[i] for p in parts], axis=1) for i in (0, 1))
    flat = (trains * cells, *analog.shape[2:])
    return RawFrames(
        np.repeat(10_000 + np.arange(trains), cells),
        np.tile(np.arange(cells), trains),
        analog.reshape(flat),
        digital.reshape(flat),
    )
