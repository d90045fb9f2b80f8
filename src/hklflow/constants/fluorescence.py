"""Gain of stage high from X-ray fluorescence: the ADU of one photon of known energy.

A survey of some rows finds the approximate peak of one photon and the rate of photons. If there are
many photons, each memory cell of each pixel is fitted separately. If there are few, each pixel has
one spectrum: the sum over all memory cells, after subtraction of the dark offset of each cell.
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

# Width of the noise in bins; at this width, binning loses less than 1 % of the information.
_BINS_OF_NOISE = 3
# Distance of the first bin below the offset, in standard deviations of the noise.
_BELOW = 8.0
# Threshold of the survey for a photon, in standard deviations of the noise.
_BEYOND = 3.5
_SURVEY_PHOTONS = 200
_SURVEY_VALUES = 1e7


@dataclass(frozen=True)
class Spectrum:
    """Known properties of the fluorescence and limits of the fit.

    Attributes
    ----------
    energy : float
        Energy of K-alpha, keV.
    beta_energy, beta_weight : float or None
        Energy of K-beta, keV (None: K-beta is filtered out), and its fraction of the photons
        (None: fitted).
    sharing : {"even", "cloud"}
        Model of charge sharing between pixels, see `fluorescence_model.sharing`.
    max_photons : int
        Number of photons of the last fitted peak.
    min_photons : float
        Least photons in a spectrum for a fit.
    photons_per_cell : float
        Least mean photons per memory cell and pixel to fit each cell separately.
    min_quality : float
        Least depth of the valley before the peak, as a fraction of the peak's height.
    max_chi2 : float
        Largest reduced χ² of an accepted fit.
    expected_gain : (low, high) or None
        Range in which the ASIC's median gain must be, ADU/keV.
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
    """Dark constants of stage high, (cells, ss, fs), for the memory cells of the X-rays."""

    offset: F64
    noise: F64
    threshold: F64


@dataclass(frozen=True)
class Survey:
    """Approximate ADU of one photon (NaN: no peak), and photons per pixel and frame."""

    spacing: float
    rate: float


def dark_of(dark: Constants, gathered: Gathered) -> DarkOf:
    """Select the dark of the memory cells in the X-ray data; NaN for cells without a dark.

    Raises
    ------
    HklflowError
        If the dark is from another ASIC.
    """
    about = gathered.about
    for name in ("detector", "module", "asic"):
        if dark.about[name] != getattr(about, name):
            raise HklflowError(
                f"the dark has {name} {dark.about[name]} and the X-rays have {name} "
                f"{getattr(about, name)}; use files of one ASIC"
            )
    known = {int(number): place for place, number in enumerate(dark.about["cell_ids"])}
    places = [known.get(int(number), -1) for number in gathered.cell_ids]
    there = np.array(places) >= 0

    def quantity(name: str) -> F64:
        values = dark[name][0][places].astype(np.float64)
        values[~there] = np.nan
        return values

    return DarkOf(quantity("offset"), quantity("noise"), quantity("gain_threshold"))


def survey(gathered: Gathered, dark: DarkOf, spectrum: Spectrum, memory: float) -> Survey:
    """Find the peak of one photon in some rows of the memory cell with the most frames."""
    cell = int(np.argmax(gathered.frames * np.isfinite(dark.offset).any(axis=(1, 2))))
    frames = int(gathered.frames[cell])
    noise = dark.noise[cell]
    usual = np.nanmedian(noise) if np.isfinite(noise).any() else np.nan
    if frames == 0 or not usual > 0:
        return Survey(np.nan, 0.0)
    most = min(memory * 1e6 / 16, _SURVEY_VALUES)
    rows = int(np.clip(most / (frames * gathered.shape[1]), 1, gathered.shape[0]))
    # Rows in the middle: pixels at the edges of an ASIC may have defects.
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
    """Return the histogram position that is highest above the valley before it, ADU."""
    step = max(noise / 4, 1.0)
    begin = _BEYOND * noise
    edges = np.arange(begin, max(np.percentile(values, 99), begin + 8 * step) + step, step)
    counts = np.histogram(values, edges)[0]
    smooth = np.convolve(counts, np.ones(5) / 5, "same")
    places = 0.5 * (edges[1:] + edges[:-1])
    if spectrum.expected_gain is not None:
        # The search range is wider than the expected range of the ASIC's median gain: single
        # pixels may lie outside, and a wrong energy must be detected.
        low, high = (spectrum.energy * gain for gain in spectrum.expected_gain)
        smooth = np.where((places > 0.3 * low) & (places < 3 * high), smooth, 0)
    # Running means at the ends cover fewer bins.
    smooth, places = smooth[2:-2], places[2:-2]
    over = smooth - np.minimum.accumulate(smooth)
    top = int(np.argmax(over))
    if over[top] < 5 * np.sqrt(max(smooth[top], 1) / 5):
        return float("nan")
    return float(places[top])


class Fluorescence(Process):
    """Fit of spectra: one per pixel and memory cell, or one per pixel over all cells.

    Parameters
    ----------
    spectrum : Spectrum
    dark : DarkOf
    result : Survey
    together : bool
        True: only sum the frames of all memory cells; `finish` then fits the sums.
    """

    def __init__(self, spectrum: Spectrum, dark: DarkOf, result: Survey, together: bool) -> None:
        self._spectrum, self._dark, self._together = spectrum, dark, together
        self._spacing = result.spacing
        self._offset = np.where(np.isfinite(dark.offset), np.rint(dark.offset), 0)
        if np.isfinite(result.spacing):
            usual = float(np.nanmedian(dark.noise))
            self._width = max(1, int(usual / _BINS_OF_NOISE))
            self._below = int(np.ceil(_BELOW * usual))
            top = (spectrum.max_photons + 0.5) * result.spacing
            self._bins = int(np.ceil((self._below + top) / self._width))
        else:  # no fit: frames are only counted
            self._width, self._below, self._bins = 1, 0, 1
        self._counts: NDArray[np.int32] | None = None

    def initiate(self, cells: int, shape: tuple[int, int]) -> dict[str, Quantity]:
        """Return arrays (cells, ss, fs); the status (3, cells, ss, fs) has bits of stage high."""
        size = (cells, *shape)
        if self._together:
            self._counts = np.zeros((*shape, self._bins), np.int32)

        def unknown(units: str = "", **attrs: Any) -> Quantity:
            return Quantity(np.full(size, np.nan, np.float32), units, attrs)

        fit_of = "pixel over all memory cells" if self._together else "pixel and memory cell"
        codes = [f"{code.value} {code.name.lower()}" for code in Fit]
        return {
            "gain_high": unknown("ADU/keV", source="xray", fit_of=fit_of),
            "gain_high_errors": unknown("ADU/keV"),
            "photon_spacing": unknown("ADU", energy=self._spectrum.energy, fit_of=fit_of),
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
            "constants_status": Quantity(
                _status_of_high(np.full(size, Bit.FF_NO_ENTRIES, np.uint32))
            ),
        }

    def calculate(
        self, frames: Sequence[CellFrames], cell: int, rows: slice
    ) -> Mapping[str, NDArray[Any]]:
        """Return the results of one memory cell; if cells are summed, only the number of frames."""
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
        # A frame without an offset has no position in the spectrum.
        threshold = np.where(known, self._dark.threshold[cell, rows], -1.0)
        fill(counts, taken.analog, taken.digital, threshold, start, self._width)
        if self._together:
            return {"n_frames": n_frames}
        rest = self._dark.offset[cell, rows] - self._offset[cell, rows]
        return self._fit(counts, rest, self._dark.noise[cell, rows], n_frames)

    def finish(self, results: Mapping[str, Quantity]) -> None:
        """Fit the spectra summed over all memory cells, and copy the results to every cell."""
        if not self._together:
            return
        assert self._counts is not None
        n_frames = results["n_frames"].values
        rest = np.where(np.isfinite(self._dark.offset), self._dark.offset - self._offset, np.nan)
        with np.errstate(invalid="ignore"):
            known = np.isfinite(rest).any(axis=0)
            noise = np.full(known.shape, np.nan)
            noise[known] = np.nanmedian(self._dark.noise[:, known], axis=0)
        fit = self._fit(self._counts, np.where(known, 0.0, np.nan), noise, n_frames.sum(axis=0))
        # No memory cell was fitted separately.
        good = fit["fit_status"] == Fit.GOOD
        fit["constants_status"][0, good] |= np.uint32(Bit.INTERPOLATED)
        for name, values in fit.items():
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
        # A peak without a valley before it may be noise, or a two-photon peak fitted as one.
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
            "constants_status": _status_of_high(status),
        }


def _status_of_high(status: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.stack([status, np.zeros_like(status), np.zeros_like(status)])


def fluorescence(
    gathered: Gathered,
    dark: Constants,
    spectrum: Spectrum,
    memory: float,
    shown: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> Constants:
    """Determine the gain of stage high of one ASIC.

    Parameters
    ----------
    gathered : Gathered
        Frames with fluorescence.
    dark : Constants
        Constants from `dark.Dark`, for the same ASIC.
    spectrum : Spectrum
    memory : float
        Memory for the frames, MB.
    shown : callable
        Wraps the iteration over the parts to show progress.

    Raises
    ------
    HklflowError
        If the dark is from another ASIC, or the median gain is outside the expected range.
    """
    known = dark_of(dark, gathered)
    result = survey(gathered, known, spectrum, memory)
    per_cell = result.rate * float(np.median(gathered.frames))
    together = gathered.cells > 1 and 0 < per_cell < spectrum.photons_per_cell
    evaluation = Fluorescence(spectrum, known, result, together)
    constants = process(evaluation, [gathered], memory, shown)
    evaluation.finish(constants.quantities)
    gain = constants["gain_high"]
    _require_expected(gain[np.isfinite(gain)], spectrum, constants.about)
    about = constants.about | {
        "energy": spectrum.energy,
        "photons_per_frame": result.rate,
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
            f"{median:.4g} ADU/keV, outside the expected range {low:g} to {high:g}; it would be "
            f"inside for photons of {spectrum.energy * median / np.sqrt(low * high):.4g} keV: "
            f"check the energy of the foil (set to {spectrum.energy:g} keV)"
        )
