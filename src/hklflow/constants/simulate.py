"""Simulated ASICs with known constants: analogue and digital output for a given charge."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Adus = NDArray[np.uint16]


@dataclass(frozen=True)
class Truth:
    """True constants of a simulated ASIC.

    Attributes
    ----------
    offset, noise : (3, cells, ss, fs) arrays
        ADU, for the stages high, medium, low.
    gain : (3, cells, ss, fs) array
        ADU/keV; negative if the output falls with charge (JUNGFRAU, medium and low).
    level, level_noise : (3, cells, ss, fs) arrays
        Digital output of each stage, ADU; for detectors with gain bits the stage number 0, 1, 2
        without noise.
    switch : (2, cells, ss, fs) array
        Energy (keV) above which the next stage is used.
    saturation : float
        Largest output, ADU.
    """

    offset: Floats
    noise: Floats
    gain: Floats
    level: Floats
    level_noise: Floats
    switch: Floats
    saturation: float = 16383

    @property
    def cells(self) -> int:
        """Number of memory cells."""
        return self.offset.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Size in pixels (ss, fs)."""
        return self.offset.shape[2], self.offset.shape[3]

    def stage(self, energy: Floats, cell: int) -> NDArray[np.int64]:
        """Return the stage that measures each energy (..., ss, fs) in keV."""
        high, low = self.switch[:, cell]
        return (energy > high).astype(np.int64) + (energy > low)

    def respond(
        self,
        energy: Floats,
        cell: int,
        rng: np.random.Generator,
        stage: int | None = None,
    ) -> tuple[Adus, Adus]:
        """Return the analogue and digital output (n, ss, fs) for energies (n, ss, fs) in keV.

        Parameters
        ----------
        energy : (n, ss, fs) array
        cell : int
        rng : Generator
        stage : int, optional
            Forced stage; None: each pixel selects its stage by the energy.
        """
        taken = self.stage(energy, cell) if stage is None else np.full(energy.shape, stage)

        def of_stage(values: Floats) -> Floats:
            return np.take_along_axis(values[:, cell], taken, axis=0)

        analog = (
            of_stage(self.offset)
            + of_stage(self.gain) * energy
            + of_stage(self.noise) * rng.normal(size=energy.shape)
        )
        digital = of_stage(self.level) + of_stage(self.level_noise) * rng.normal(size=energy.shape)
        return _adu(analog, self.saturation), _adu(digital, self.saturation)


def _adu(values: Floats, top: float) -> Adus:
    return np.clip(np.rint(values), 0, top).astype(np.uint16)


def agipd(rng: np.random.Generator, cells: int = 4, shape: tuple[int, int] = (64, 64)) -> Truth:
    """Draw an ASIC similar to AGIPD: gains of about 8, 0.25 and 0.05 ADU/keV.

    The spreads are realistic: offsets 200 ADU, gains 4 %, ratios 3 %.
    """
    size = (cells, *shape)

    def spread(mean: float, sigma: float) -> Floats:
        return rng.normal(mean, sigma, size)

    high = spread(8.0, 0.3)
    medium = high * spread(1 / 32, 0.001)
    low = medium * spread(1 / 5, 0.006)
    return Truth(
        offset=np.stack([spread(4500, 200), spread(6500, 150), spread(7000, 150)]),
        noise=np.abs(np.stack([spread(8.0, 0.8), spread(6.0, 0.5), spread(6.0, 0.5)])),
        gain=np.stack([high, medium, low]),
        level=np.stack([spread(5000, 60), spread(8200, 60), spread(9800, 60)]),
        level_noise=np.abs(np.stack([spread(20, 2), spread(22, 2), spread(25, 2)])),
        switch=np.stack([spread(600, 20), spread(20000, 500)]),
    )


def jungfrau(rng: np.random.Generator, cells: int = 1, shape: tuple[int, int] = (64, 64)) -> Truth:
    """Draw an ASIC similar to JUNGFRAU: gains of about 41, -1.45 and -0.115 ADU/keV."""
    size = (cells, *shape)

    def spread(mean: float, sigma: float) -> Floats:
        return rng.normal(mean, sigma, size)

    stages = np.arange(3.0).reshape(3, 1, 1, 1)
    return Truth(
        offset=np.stack([spread(3000, 200), spread(15000, 150), spread(14900, 150)]),
        noise=np.abs(np.stack([spread(14.0, 1.0), spread(9.0, 0.8), spread(8.0, 0.8)])),
        gain=np.stack([spread(41, 1.2), spread(-1.45, 0.04), spread(-0.115, 0.004)]),
        level=np.broadcast_to(stages, (3, *size)).copy(),
        level_noise=np.zeros((3, *size)),
        switch=np.stack([spread(300, 5), spread(7000, 100)]),
    )
