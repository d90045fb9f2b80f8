"""Gain of an integrating detector: how its values (ADU) become photons.

The variance of a value is ``gain (value - offset) + read_noise²`` in ADU². Divided by the gain, the
values are photons with read noise, which is the form that all stages know: a scan with a gain is
read as ``(value - offset) / gain`` photons with the variance ``read_noise² / gain²`` of the read
noise. No other place converts ADU.
"""

import math
from dataclasses import astuple, dataclass

ROUNDING = 1 / 12
"""Variance of the rounding to whole ADU."""


@dataclass(frozen=True)
class Gain:
    """Gain, offset and read noise of the values as stored.

    Attributes
    ----------
    adu_per_photon : float
    offset : float
        Value without photons, ADU.
    read_noise : float
        Standard deviation of the value without photons, ADU.
    source : str
        Where the numbers are from, in one sentence.
    doubts : tuple of str
        Sentences on what contradicts the numbers, or is not known.
    relative_error : float
        Relative error of a measured gain, which is the same error of S(Q) in all voxels; 0: stated.
    """

    adu_per_photon: float
    offset: float
    read_noise: float
    source: str
    doubts: tuple[str, ...] = ()
    relative_error: float = 0.0

    @property
    def read_variance(self) -> float:
        """Variance of read noise and rounding, photons²."""
        return (self.read_noise**2 + ROUNDING) / self.adu_per_photon**2

    def photons(self, value: float) -> float:
        """Return a value in photons."""
        return (value - self.offset) / self.adu_per_photon


@dataclass(frozen=True)
class Stated:
    """What headers or the user state about one readout of a pixel; None: not stated.

    Attributes
    ----------
    gain : float or None
        ADU per photon.
    offset, read_noise : float or None
        ADU.
    """

    gain: float | None = None
    offset: float | None = None
    read_noise: float | None = None

    def first(self, other: "Stated") -> "Stated":
        """Return these numbers, completed by those of ``other``."""
        numbers = zip(astuple(self), astuple(other), strict=True)
        return Stated(*(mine if mine is not None else theirs for mine, theirs in numbers))

    def summed(self, readouts: int) -> "Stated":
        """Return the numbers of the sum of several readouts."""
        return Stated(
            self.gain,
            None if self.offset is None else self.offset * readouts,
            None if self.read_noise is None else self.read_noise * math.sqrt(readouts),
        )
