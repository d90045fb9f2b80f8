"""Simulated ramps of charge: pulse capacitor and current source, for known constants."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.constants.gathered import About, GatheredWriter
from hklflow.constants.ramps import Segments, abscissa
from hklflow.constants.simulate import Adus, Floats, Truth


@dataclass(frozen=True)
class Source:
    """Source of the charge in the pixels.

    Attributes
    ----------
    rate : (cells, ss, fs) array
        keV per unit of the ramp; unknown to the analysis, and cancels in ratios of slopes.
    settling : float
        Excess of the output right after a switch, ADU.
    decay : float
        Decay constant of the excess, in units of the ramp.
    bend : float
        Loss of charge: only E (1 - bend E / switch to medium) of a charge E arrives.
    """

    rate: Floats
    settling: float = 0.0
    decay: float = 1.0
    bend: float = 0.0

    def respond(
        self,
        truth: Truth,
        cell: int,
        x: Floats,
        rng: np.random.Generator,
        driven: NDArray[np.bool_] | None = None,
    ) -> tuple[Adus, Adus]:
        """Return the analogue and digital output (n, ss, fs) at positions x (n,) of the ramp.

        Parameters
        ----------
        truth : Truth
        cell : int
        x : (n,) array
        rng : Generator
        driven : (ss, fs) bool array, optional
            Pixels that receive charge; None: all.
        """
        switch = truth.switch[:, cell]
        energy = x[:, None, None] * self.rate[cell]
        energy = energy * (1 - self.bend * energy / switch[0])
        if driven is not None:
            energy = np.where(driven, energy, 0.0)
        analog, digital = truth.respond(energy, cell, rng)
        if self.settling:
            stage = truth.stage(energy, cell)
            begin = np.take_along_axis(switch, np.maximum(stage - 1, 0), axis=0)
            late = (energy - begin) / (self.rate[cell] * self.decay)
            excess = np.where(stage > 0, self.settling * np.exp(-np.maximum(late, 0)), 0)
            analog = np.clip(np.rint(analog + excess), 0, truth.saturation).astype(np.uint16)
        return analog, digital


def pulse_capacitor(
    truth: Truth, rng: np.random.Generator, rate: float = 10.0, **others: float
) -> Source:
    """Return pulses of about `rate` keV; capacitors differ by 5 % between pixels."""
    pixels = rate * rng.normal(1, 0.05, truth.shape)
    return Source(np.broadcast_to(pixels, (truth.cells, *truth.shape)), **others)


def current_source(
    truth: Truth, rng: np.random.Generator, rate: float = 10.0, **others: float
) -> Source:
    """Return a current of about `rate` keV per unit of time; it differs by 20 % between pixels."""
    pixels = rate * np.exp(rng.normal(0, 0.2, truth.shape))
    return Source(np.broadcast_to(pixels, (truth.cells, *truth.shape)), **others)


def write_ramp(
    path: Path,
    truth: Truth,
    source: Source,
    measure: str,
    segments: Segments,
    rng: np.random.Generator,
    repeats: int = 1,
    lost: Iterable[int] = (),
    about: About | None = None,
    cell_ids: Sequence[int] | None = None,
) -> None:
    """Write the gathered frames of a ramp.

    Parameters
    ----------
    path : Path
    truth : Truth
    source : Source
    measure : str
    segments : sequence of (n, increment)
        Segments of one ramp.
    rng : Generator
    repeats : int
        Number of ramps, one after the other.
    lost : iterable of int
        Steps that are missing from the file.
    about : About, optional
        Description of the frames; None: ASIC 0 of module 0 of an AGIPD.
    cell_ids : sequence of int, optional
        Numbers of the memory cells, increasing; None: from 0.
    """
    step = np.delete(np.arange(repeats * sum(n for n, _ in segments)), list(lost))
    x = abscissa(segments, step)
    about = about or About("agipd", measure, 0, 0, "level", ("r0001",))
    cells = np.arange(truth.cells)
    numbers = cells if cell_ids is None else np.array(cell_ids)
    counts = np.full(truth.cells, len(step))
    with GatheredWriter(path, about, numbers, counts, truth.shape) as writer:
        for cell in cells if len(step) else ():
            analog, digital = source.respond(truth, int(cell), x, rng)
            writer.append(np.full(len(step), cell), 1000 + step, step, analog, digital)
