"""X-ray fluorescence: the ADU that one photon of known energy gives, thus the gain of stage high.

A survey of some rows finds about where the peak of one photon is and how many photons there are.
With many each (memory cell, pixel) has its own fit; with few the frames of all memory cells are
one spectrum of the pixel, each less the dark offset of its cell.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.base import Process, process
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.fluorescence_fit import FOUND, Fit, fill, fit_all
from hklflow.constants.fluorescence_model import sharing
from hklflow.constants.gathered import CellFrames, Gathered
from hklflow.constants.status import Bit

F64 = NDArray[np.float64]

# What is left of a bin's width if the noise is this many bins: under 1 % of the information.
_BINS_OF_NOISE = 3
# Bins begin so many widths of the noise below the offset.
_BELOW = 8.0
# The survey takes a value for a photon beyond so many widths of the noise.
_BEYOND = 3.5
_SURVEY_PHOTONS = 200
_SURVEY_VALUES = 1e7


@dataclass(frozen=True)
class Spectrum:
    """What is known of the fluorescence and asked of the fit.

    Attributes
    ----------
    energy : float
        K-alpha, keV.
    beta_energy, beta_weight : float or None
        K-beta, keV, and the fraction of the photons that it is; None: filtered; to be fitted.
    sharing : {"even", "cloud"}
        How pixels share photons, see `fluorescence_model.sharing`.
    max_photons : int
        Photons of the last peak that is fitted.
    min_photons : float
        Photons in a spectrum below which it is not fitted.
    photons_per_cell : float
        Photons of an average memory cell and pixel below which cells are taken together.
    min_quality : float
        Of the peak's height, what the valley before it must leave.
    max_chi2 : float
        Reduced chi square beyond which the spectrum is something else.
    expected_gain : (low, high) or None
        ADU/keV, where the median of the ASIC must be.
    """

    energy: float
    beta_energy: float | None
    beta_weight: float | None
    sharing: str
    max_photons: int
    min_photons: float
    photons_per_cell: float
    min_quality: float
    max_chi2: float
    expected_gain: tuple[float, float] | None


@dataclass(frozen=True)
class DarkOf:
    """What the dark says of stage high, (cells, ss, fs), for the memory cells of the x-rays."""

    offset: F64
    noise: F64
    threshold: F64


@dataclass(frozen=True)
class Survey:
    """About the ADU of a photon (NaN: no peak), and photons of a pixel and frame."""

    spacing: float
    rate: float


def dark_of(dark: Constants, gathered: Gathered) -> DarkOf:
    """Take the dark of the memory cells that the x-rays have; NaN where there is none.

    Raises
    ------
    HklflowError
        If the dark is of another ASIC.
    """
    about = gathered.about
    for name in ("detector", "module", "asic"):
        if dark.about[name] != getattr(about, name):
            raise HklflowError(
                f"the dark is of {name} {dark.about[name]} and the x-rays of "
                f"{getattr(about, name)}; give files of one ASIC"
            )
    known = {int(number): place for place, number in enumerate(dark.about["cell_ids"])}
    places = [known.get(int(number), -1) for number in gathered.cell_ids]
    there = np.array(places) >= 0

    def of(name: str) -> F64:
        values = dark[name][0][places].astype(np.float64)
        values[~there] = np.nan
        return values

    return DarkOf(of("offset"), of("noise"), of("gain_threshold"))


def survey(gathered: Gathered, dark: DarkOf, spectrum: Spectrum, memory: float) -> Survey:
    """Find the peak of one photon in some rows of the memory cell with most frames."""
    cell = int(np.argmax(gathered.frames * np.isfinite(dark.offset).any(axis=(1, 2))))
    frames = int(gathered.frames[cell])
    noise = dark.noise[cell]
    usual = np.nanmedian(noise) if np.isfinite(noise).any() else np.nan
    if frames == 0 or not usual > 0:
        return Survey(np.nan, 0.0)
    most = min(memory * 1e6 / 16, _SURVEY_VALUES)
    rows = int(np.clip(most / (frames * gathered.shape[1]), 1, gathered.shape[0]))
    # In the middle, where an ASIC without defects at its edges is like most of itself.
    begin = (gathered.shape[0] - rows) // 2
    part = slice(begin, begin + rows)
    taken = gathered.cell(cell, part)
    noise, offset = noise[part], dark.offset[cell, part]
    good = (noise > 0.5 * usual) & (noise < 1.5 * usual) & np.isfinite(offset)
    high = ~(taken.digital > dark.threshold[cell, part])
    x = (taken.analog - np.where(good, offset, 0).astype(np.float32))[:, good]
    use = high[:, good]
    photons = x[use & (x > _BEYOND * noise[good].astype(np.float32))]
    if len(photons) < _SURVEY_PHOTONS:
        return Survey(np.nan, len(photons) / max(x.size, 1))
    spacing = _peak(photons, float(usual), spectrum)
    if not np.isfinite(spacing):
        return Survey(np.nan, 0.0)
    rate = np.count_nonzero(photons > 0.5 * spacing) / np.count_nonzero(use)
    return Survey(spacing, float(rate))


def _peak(values: NDArray[np.floating[Any]], noise: float, spectrum: Spectrum) -> float:
    """Place of a histogram of what photons gave that is highest over the valley before it."""
    step = max(noise / 4, 1.0)
    begin = _BEYOND * noise
    edges = np.arange(begin, max(np.percentile(values, 99), begin + 8 * step) + step, step)
    counts = np.histogram(values, edges)[0]
    smooth = np.convolve(counts, np.ones(5) / 5, "same")
    places = 0.5 * (edges[1:] + edges[:-1])
    if spectrum.expected_gain is not None:
        # The range is of the median; a wrong energy is to be found as well.
        low, high = (spectrum.energy * gain for gain in spectrum.expected_gain)
        smooth = np.where((places > 0.3 * low) & (places < 3 * high), smooth, 0)
    # Means at the ends are of fewer bins.
    smooth, places = smooth[2:-2], places[2:-2]
    over = smooth - np.minimum.accumulate(smooth)
    top = int(np.argmax(over))
    if over[top] < 5 * np.sqrt(max(smooth[top], 1) / 5):
        return float("nan")
    return float(places[top])


class Fluorescence(Process):
    """Spectra of pixels: each memory cell's own, or of all cells together.

    Parameters
    ----------
    spectrum : Spectrum
    dark : DarkOf
    found : Survey
    together : bool
        Only add the frames of all memory cells; `finish` fits.
    """

    def __init__(self, spectrum: Spectrum, dark: DarkOf, found: Survey, together: bool) -> None:
        self._spectrum, self._dark, self._together = spectrum, dark, together
        self._spacing = found.spacing
        self._offset = np.where(np.isfinite(dark.offset), np.rint(dark.offset), 0)
        if np.isfinite(found.spacing):
            usual = float(np.nanmedian(dark.noise))
            self._width = max(1, int(usual / _BINS_OF_NOISE))
            self._below = int(np.ceil(_BELOW * usual))
            top = (spectrum.max_photons + 0.5) * found.spacing
            self._bins = int(np.ceil((self._below + top) / self._width))
        else:  # nothing to fit: frames are only counted
            self._width, self._below, self._bins = 1, 0, 1
        self._counts: NDArray[np.int32] | None = None

    def initiate(self, cells: int, shape: tuple[int, int]) -> dict[str, Quantity]:
        """Arrays (cells, ss, fs), and the status (3, cells, ss, fs) with bits of stage high."""
        size = (cells, *shape)
        if self._together:
            self._counts = np.zeros((*shape, self._bins), np.int32)

        def unknown(units: str = "", **attrs: Any) -> Quantity:
            return Quantity(np.full(size, np.nan, np.float32), units, attrs)

        of = "pixel over all memory cells" if self._together else "pixel and memory cell"
        codes = [f"{code.value} {code.name.lower()}" for code in Fit]
        return {
            "gain_high": unknown("ADU/keV", source="xray", fit_of=of),
            "gain_high_errors": unknown("ADU/keV"),
            "photon_spacing": unknown("ADU", energy=self._spectrum.energy, fit_of=of),
            "photon_spacing_errors": unknown("ADU"),
            "peak_width": unknown("ADU"),
            "peak_width_errors": unknown("ADU"),
            "photons": unknown(),
            "shared": unknown(),
            "quality": unknown(),
            "chi2": unknown(),
            "n_frames": Quantity(np.zeros(size, np.uint32)),
            "fit_status": Quantity(
                np.full(size, Fit.NO_FRAMES, np.uint8), attrs={"meaning": codes}
            ),
            "constants_status": Quantity(_of_high(np.full(size, Bit.FF_NO_ENTRIES, np.uint32))),
        }

    def calculate(
        self, frames: Sequence[CellFrames], cell: int, rows: slice
    ) -> Mapping[str, NDArray[Any]]:
        """Results of one memory cell; of all together only the number of frames."""
        taken = frames[0]
        shape = taken.analog.shape[1:]
        n_frames = np.full(shape, len(taken.analog), np.uint32)
        if self._together:
            assert self._counts is not None
            counts = self._counts[rows]
        else:
            counts = np.zeros((*shape, self._bins), np.int32)
        known = np.isfinite(self._dark.offset[cell, rows])
        start = (self._offset[cell, rows] - self._below).astype(np.int32)
        # Without an offset a frame has no place in a spectrum.
        threshold = np.where(known, self._dark.threshold[cell, rows], -1.0)
        fill(counts, taken.analog, taken.digital, threshold, start, self._width)
        if self._together:
            return {"n_frames": n_frames}
        rest = self._dark.offset[cell, rows] - self._offset[cell, rows]
        return self._fit(counts, rest, self._dark.noise[cell, rows], n_frames)

    def finish(self, results: Mapping[str, Quantity]) -> None:
        """Fit the spectra of all memory cells together, and write them to every cell."""
        if not self._together:
            return
        assert self._counts is not None
        n_frames = results["n_frames"].values
        rest = np.where(np.isfinite(self._dark.offset), self._dark.offset - self._offset, np.nan)
        with np.errstate(invalid="ignore"):
            known = np.isfinite(rest).any(axis=0)
            noise = np.full(known.shape, np.nan)
            noise[known] = np.nanmedian(self._dark.noise[:, known], axis=0)
        found = self._fit(self._counts, np.where(known, 0.0, np.nan), noise, n_frames.sum(axis=0))
        # Nothing is known of a memory cell for itself.
        good = found["fit_status"] == Fit.GOOD
        found["constants_status"][0, good] |= np.uint32(Bit.INTERPOLATED)
        for name, values in found.items():
            if name != "n_frames":
                whole = results[name].values
                whole[:] = np.expand_dims(values, -3)

    def _fit(
        self, counts: NDArray[np.int32], offset: F64, noise: F64, n_frames: NDArray[np.uint32]
    ) -> dict[str, NDArray[Any]]:
        spectrum, shape = self._spectrum, counts.shape[:2]
        if np.isfinite(self._spacing):
            beta, weight = spectrum.beta_energy, spectrum.beta_weight
            values = fit_all(
                counts.reshape(-1, self._bins),
                -self._below - 0.5,
                self._width,
                offset.ravel(),
                noise.ravel(),
                self._spacing,
                spectrum.max_photons,
                0.0 if beta is None else beta / spectrum.energy,
                np.nan if weight is None else weight,
                spectrum.min_photons,
                sharing(spectrum.sharing),
            )
        else:
            values = np.full((len(FOUND), counts.shape[0] * counts.shape[1]), np.nan)
            values[-1] = Fit.NO_PEAK
        fit = dict(zip(FOUND, values.reshape(len(FOUND), *shape), strict=True))
        code = fit["fit_status"].astype(np.uint8)
        code[n_frames == 0] = Fit.NO_FRAMES
        empty = (code == Fit.NO_FRAMES) | (code == Fit.TOO_FEW_PHOTONS)
        status = np.where(empty, np.uint32(Bit.FF_NO_ENTRIES), np.uint32(0))
        status[(code != Fit.GOOD) & ~empty] |= np.uint32(Bit.FF_GAIN_EVAL_ERROR)
        # A peak without a valley before it may be of noise, one of two photons taken for one.
        odd = (fit["quality"] < spectrum.min_quality) | (fit["chi2"] > spectrum.max_chi2)
        status[odd] |= np.uint32(Bit.FF_GAIN_DEVIATION)
        return {
            "gain_high": fit["spacing"] / spectrum.energy,
            "gain_high_errors": fit["spacing_errors"] / spectrum.energy,
            "photon_spacing": fit["spacing"],
            "photon_spacing_errors": fit["spacing_errors"],
            "peak_width": fit["width"],
            "peak_width_errors": fit["width_errors"],
            "photons": fit["photons"],
            "shared": fit["shared"],
            "quality": fit["quality"],
            "chi2": fit["chi2"],
            "n_frames": n_frames,
            "fit_status": code,
            "constants_status": _of_high(status),
        }


def _of_high(status: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.stack([status, np.zeros_like(status), np.zeros_like(status)])


def fluorescence(
    gathered: Gathered,
    dark: Constants,
    spectrum: Spectrum,
    memory: float,
    shown: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> Constants:
    """Gain of stage high of one ASIC.

    Parameters
    ----------
    gathered : Gathered
        Frames with fluorescence.
    dark : Constants
        Of `dark.Dark`, for the same ASIC.
    spectrum : Spectrum
    memory : float
        MB for the frames that are worked on at a time.
    shown : callable
        Passes the parts through and shows progress.

    Raises
    ------
    HklflowError
        If the dark is of another ASIC, or the median gain is not where it is expected.
    """
    known = dark_of(dark, gathered)
    found = survey(gathered, known, spectrum, memory)
    per_cell = found.rate * float(np.median(gathered.frames))
    together = gathered.cells > 1 and 0 < per_cell < spectrum.photons_per_cell
    what = Fluorescence(spectrum, known, found, together)
    constants = process(what, [gathered], memory, shown)
    what.finish(constants.quantities)
    gain = constants["gain_high"]
    _require_expected(gain[np.isfinite(gain)], spectrum, constants.about)
    about = constants.about | {
        "energy": spectrum.energy,
        "photons_per_frame": found.rate,
        "memory_cells_together": together,
    }
    return Constants(about, constants.quantities)


def _require_expected(
    gain: NDArray[np.floating[Any]], spectrum: Spectrum, about: Mapping[str, Any]
) -> None:
    if spectrum.expected_gain is None or gain.size == 0:
        return
    low, high = spectrum.expected_gain
    median = float(np.median(gain))
    if not low <= median <= high:
        raise HklflowError(
            f"the median gain of module {about['module']}, ASIC {about['asic']} is "
            f"{median:.4g} ADU/keV, expected were {low:g} to {high:g}; with photons of "
            f"{spectrum.energy * median / np.sqrt(low * high):.4g} keV it would be as expected: "
            f"check the energy of the foil ({spectrum.energy:g} keV was given)"
        )
