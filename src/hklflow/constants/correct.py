r"""Correct the frames of a module to photons and give their variance.

The gain stage g of a pixel is read from its digital output. The number of photons x is

.. math:: x = \frac{A - o_g - c}{G_g E_γ F}, \qquad
          \mathrm{var}(x) = \left(\frac{n_g}{G_g E_γ F}\right)^2 + μ

with the offset o, the noise n and the gain G of pixel, memory cell and stage (ADU/keV; negative if
the output falls with charge), the common mode c of the high stage, the flat field F if it exists,
and the expected photons μ; ``max(x, 0)`` replaces μ if no better value is known. The noise of the
converter's steps, 1/12 ADU², is added because the noise of the dark excludes it. The errors of the
constants are not part of the variance: they do not average over frames.

A value is NaN if its stage has no constants or bad status bits, if the gain bits are invalid, if
the pixel is masked, and at the end of the converter's range that charge cannot reach. At the other
end the pixel is saturated. A pixel is also saturated if it has left stage high and neither its
stage nor a later stage can be used: its charge cannot be measured.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants import common_mode, correct_kernels
from hklflow.constants.dark import ROUNDING
from hklflow.constants.detectors import STAGES, Integrating
from hklflow.constants.files import Constants
from hklflow.constants.status import bad
from hklflow.images.masks import MaskBit

Floats = NDArray[np.float64]

_OUTCOMES = (*STAGES, "saturated", "no value")
_STAGED = ("offset", "noise", "gain", "constants_status")

QUANTITIES = frozenset({*_STAGED, "gain_threshold", "pixel_mask", "flatfield"})
"""Names of all constants that `Correction` uses."""


@dataclass(frozen=True)
class Corrected:
    """Corrected frames of a module.

    Attributes
    ----------
    photons : (n, ss, fs) float32 array
    stage : (n, ss, fs) uint8 array
        0 high, 1 medium, 2 low, 255 none.
    shift : (n, parts) array
        Common mode, ADU; NaN where it is unknown, no columns if no common mode is subtracted.
    numbers : dict
        Number of pixels in each stage, of saturated pixels and of pixels without a value.
    """

    photons: NDArray[np.float32]
    stage: NDArray[np.uint8]
    shift: Floats
    numbers: dict[str, int]


class Correction:
    """Correction of the frames of one module.

    Parameters
    ----------
    constants : Constants
        Offset, noise, gain, status and, if the gain is an analogue level, thresholds; the pixel
        mask and the flat field are optional.
    detector : Integrating
    energy : float
        Photon energy, keV.
    shared : {"none", "module", "asic", "row"}
        Group of pixels that share one common mode. The common mode is subtracted.
    least : float
        Fraction of dark pixels required to determine a common mode.
    flat : bool
        Apply the flat field, if it exists.
    cells : sequence of int, optional
        Numbers of the memory cells whose constants are kept in memory; None: all. Each pixel
        and cell takes 36 bytes, and 8 more if the gain is an analogue level.

    Attributes
    ----------
    cell_ids : (cells,) array
        Numbers of the memory cells in memory.
    factor : (3, cells, ss, fs) array
        Photons per ADU; NaN for a stage that cannot be used.
    mask : (ss, fs) uint32 array
        NXmx bits.

    Raises
    ------
    HklflowError
        If a quantity or a memory cell is missing, or the shape of a quantity differs from the
        shape of the detector's modules.
    """

    def __init__(
        self,
        constants: Constants,
        detector: Integrating,
        energy: float,
        *,
        shared: common_mode.Kind,
        least: float,
        flat: bool,
        cells: Sequence[int] | None = None,
    ) -> None:
        self.detector, self.energy, self._least = detector, energy, least
        known = [int(cell) for cell in constants.about["cell_ids"]]
        self.cell_ids = np.asarray(known if cells is None else cells, np.int64)
        places = _places(constants, known, self.cell_ids)
        shape = (3, len(known), *detector.module)
        offset, noise, gain, status = (
            _checked(constants, name, shape)[:, places] for name in _STAGED
        )
        usable = ~bad(status) & np.isfinite(offset) & np.isfinite(gain) & (gain != 0) & (noise >= 0)
        self.mask = np.zeros(detector.module, np.uint32)
        if "pixel_mask" in constants:
            self.mask |= _checked(constants, "pixel_mask", detector.module)
        per_photon = gain.astype(np.float32) * np.float32(energy)
        if flat and "flatfield" in constants:
            field = _checked(constants, "flatfield", detector.module)
            per_photon *= np.where(field > 0, field, np.nan)
            usable &= np.isfinite(per_photon)
        usable &= self.mask == 0
        # Normal frames are in stage high: a pixel unusable in stage high measures nothing.
        dead = ~usable[0].any(axis=0) & (self.mask == 0)
        self.mask[dead] |= np.uint32(MaskBit.DEAD)
        usable &= ~dead
        per_photon[~usable] = np.nan
        self._offset = offset.astype(np.float32, copy=False)
        self._noise = np.where(usable, noise, np.nan).astype(np.float32)
        self.factor = 1 / per_photon
        self._threshold: NDArray[Any] | None = None
        if detector.codes is None:
            threshold = _checked(constants, "gain_threshold", (2, *shape[1:]))[:, places]
            self._threshold = threshold.astype(np.float32)
        self._parts = common_mode.boxes(shared, detector)
        self._group = common_mode.groups(self._parts, detector.module)

    def read_variance(self, cell: int) -> Floats:
        """Return the variance of the read noise (3, ss, fs) in photons²; NaN where unknown."""
        noise, factor = (a[:, cell].astype(np.float64) for a in (self._noise, self.factor))
        variance: Floats = (noise**2 + ROUNDING) * factor**2
        return variance

    def mean_read_variance(self, cells: Collection[int]) -> Floats:
        """Return the read variance (3, ss, fs): mean of the memory cells that have a value."""
        variances = [self.read_variance(cell) for cell in cells]
        known = np.sum([np.isfinite(variance) for variance in variances], axis=0)
        total = np.sum([np.nan_to_num(variance) for variance in variances], axis=0)
        return np.divide(total, known, out=np.full(total.shape, np.nan), where=known > 0)

    def variance(self, expected: Floats, stage: NDArray[np.uint8], cell: int) -> Floats:
        """Return the variance (n, ss, fs) in photons² for the expected numbers of photons."""
        read = self.read_variance(cell)
        total = np.full(stage.shape, np.nan)
        for number in range(len(STAGES)):
            total = np.where(stage == number, read[number] + np.maximum(expected, 0.0), total)
        return total

    @property
    def saturation(self) -> float:
        """Number of photons, an integer, at which half of the pixels are saturated.

        A pixel is saturated at the end of its last usable stage. The number is infinite if no
        pixel has a usable stage.
        """
        most = np.full(self.factor.shape[1:], np.nan, np.float32)
        for offset, factor in zip(self._offset, self.factor, strict=True):
            end = np.where(factor > 0, np.float32(self.detector.saturation), np.float32(0))
            np.copyto(most, (end - offset) * factor, where=np.isfinite(factor))
        known = most[np.isfinite(most)]
        return float(np.floor(np.median(known))) if known.size else np.inf

    def correct(
        self,
        analog: NDArray[np.uint16],
        digital: NDArray[Any],
        cell: int,
        step: float = 0.0,
        overload: float = np.nan,
    ) -> Corrected:
        """Correct frames (n, ss, fs) of one memory cell (by its index in `cell_ids`).

        Parameters
        ----------
        analog, digital : (n, ss, fs) arrays
            Raw outputs of the detector; ``digital`` is a level or the code of the stage.
        step : float
            Photons are rounded to multiples of this power of two; 0: not rounded.
        overload : float
            Value of saturated pixels.
        """
        if analog.shape[1:] != self.detector.module or analog.shape != digital.shape:
            raise HklflowError(
                f"frames of {analog.shape} (analogue) and {digital.shape} (digital) pixels do not "
                f"match the modules of the constants, {self.detector.module} pixels; use the "
                "constants of the detector that measured the frames"
            )
        stage = self.stages(digital, cell)
        offset, factor = self._offset[:, cell], self.factor[:, cell]
        shift = np.zeros((len(analog), 0))
        if len(self._parts):
            dark = np.where(np.isfinite(factor[0]), offset[0], np.nan)
            noise, photon = self._noise[0, cell], 1 / factor[0]
            shift = common_mode.find(analog, stage, dark, noise, photon, self._parts, self._least)
        taken = np.nan_to_num(shift) if shift.shape[1] else np.zeros((len(analog), 1))
        out, numbers = np.empty(analog.shape, np.float32), np.zeros(len(_OUTCOMES), np.int64)
        correct_kernels.photons(
            analog,
            stage,
            offset,
            factor,
            taken,
            self._group,
            float(self.detector.saturation),
            step,
            overload,
            out,
            numbers,
        )
        return Corrected(out, stage, shift, dict(zip(_OUTCOMES, numbers.tolist(), strict=True)))

    def stages(self, digital: NDArray[Any], cell: int) -> NDArray[np.uint8]:
        """Return the gain stage (n, ss, fs) of the digital output; 255 if the output is invalid."""
        stage = np.empty(digital.shape, np.uint8)
        if self._threshold is not None:
            correct_kernels.stages_of_levels(digital, self._threshold[:, cell], stage)
            return stage
        assert self.detector.codes is not None
        table = np.full(max(self.detector.codes) + 2, correct_kernels.NO_STAGE, np.uint8)
        table[list(self.detector.codes)] = np.arange(len(STAGES))
        correct_kernels.stages_of_codes(np.ascontiguousarray(digital), table, stage)
        return stage


class Tally:
    """Statistics of corrected frames: fraction of pixels in each stage, and mean of each pixel.

    Parameters
    ----------
    mask : (slow, fast) bool array
        True for pixels that are not counted.
    read_variance : (3, slow, fast) array
        Read variance of each stage, photons².
    """

    def __init__(self, mask: NDArray[np.bool_], read_variance: Floats) -> None:
        self._good, self._read = ~mask, read_variance
        self._sum, self._seen = np.zeros(mask.shape), np.zeros(mask.shape, np.int64)
        self._numbers = dict.fromkeys(_OUTCOMES, 0)
        self._frames = 0
        self._shifts: list[Floats] = []
        self._switched = np.zeros((2, 2))

    def add(self, block: NDArray[np.float32], stage: NDArray[np.uint8], saturation: float) -> None:
        """Add corrected frames (n, slow, fast) and their stages.

        Saturated pixels do not enter the mean.
        """
        self._frames += len(block)
        measured = (block < saturation) & self._good
        self._sum += np.sum(block, axis=0, where=measured, dtype=np.float64, initial=0.0)
        self._seen += measured.sum(axis=0)
        for number, name in enumerate(STAGES):
            self._numbers[name] += int(((stage == number) & measured).sum())
        saturated = int(((block >= saturation) & self._good).sum())
        self._numbers["saturated"] += saturated
        self._numbers["no value"] += int((np.isnan(block) & self._good).sum())
        for number in (1, 2):
            pixels = np.nonzero((stage == number) & measured)
            more = (self._read[number] - self._read[0])[pixels[1:]]
            self._switched[number - 1] += np.nansum(more), block[pixels].sum(dtype=np.float64)

    def add_shift(self, shift: Floats) -> None:
        """Add the common modes (n, parts) of some frames."""
        self._shifts.append(shift.ravel())

    @property
    def mean(self) -> Floats:
        """Mean photons (slow, fast); 0 for pixels without a measured value."""
        average: Floats = self._sum / np.maximum(self._seen, 1)
        return average

    def metrics(self) -> dict[str, Any]:
        """Return the fractions, the common mode and the read noise as plain data."""
        total = max(int(self._good.sum()) * self._frames, 1)
        shifts = np.concatenate([*self._shifts, np.zeros(0)])
        known = shifts[np.isfinite(shifts)]
        noise = np.sqrt(self._read[0][self._good])
        lacks = dict(zip(STAGES[1:], self._switched.tolist(), strict=True))
        return {
            "frames": self._frames,
            "fractions": {name: n / total for name, n in self._numbers.items()},
            "fraction masked": 1 - float(self._good.mean()),
            "read noise in photons": float(np.nanmedian(noise)) if noise.size else None,
            "common mode rms in ADU": float(np.sqrt(np.mean(known**2))) if known.size else None,
            "common modes found": int(known.size),
            "common modes not found": int(shifts.size - known.size),
            "read variance beyond that of stage high, per photon": {
                name: more / photons if photons > 0 else None
                for name, (more, photons) in lacks.items()
            },
        }


def _places(constants: Constants, known: list[int], wanted: NDArray[np.int64]) -> list[int] | slice:
    """Return the indices of the wanted memory cells; a slice (no copy) if these are all cells."""
    absent = [cell for cell in wanted.tolist() if cell not in known]
    if absent:
        raise HklflowError(
            f"module {constants.about.get('module', '?')} has no constants of memory cell "
            f"{absent[0]}; use constants measured in this mode"
        )
    places = [known.index(cell) for cell in wanted.tolist()]
    return slice(None) if places == list(range(len(known))) else places


def _checked(constants: Constants, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    values = constants[name]
    if values.shape != shape:
        raise HklflowError(
            f"{name} of module {constants.about.get('module', '?')} has shape {values.shape}, not "
            f"{shape}; use constants of this detector"
        )
    return values
