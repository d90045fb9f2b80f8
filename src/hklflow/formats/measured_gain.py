"""Gain of a scan: what header and user state, completed and compared by the noise of the frames."""

from dataclasses import replace

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.formats.frames_noise import noise_line
from hklflow.formats.header import Header
from hklflow.formats.photons import in_photons
from hklflow.images.gain import ROUNDING, Gain, Stated
from hklflow.images.gain_estimate import FEWEST_FRAMES, Estimate, NoiseLine, Ratio
from hklflow.images.photon_counts import Verdict, verdict
from hklflow.images.scan import RotationScan

_LOOK = 3  # groups of frames that show if a detector of an unknown kind counts photons
_LARGEST_ERROR = 0.05  # of a measured gain, relative
_REPORTED_ERROR = 0.003  # as of the transmission
_NEGATIVE = 0.01  # share of values below 0 in frames that are no photon counts
_INTEGRATES = "the detector integrates"
_CURE = (
    "set `import_scan: gain` (ADU per photon; 1: the values are photons), and `read_noise` and "
    "`offset` in ADU"
)


def stated_gain(
    source: str, header: Header, given: Stated, measure: bool
) -> tuple[Stated, bool] | None:
    """Return what is stated about the values, and if the user states the gain; None: photons.

    Parameters
    ----------
    given : Stated
        What the user states about one readout.
    measure : bool
        True if the user wants the gain from the frames.

    Raises
    ------
    HklflowError
        If the frames are in photons already, or a number is impossible.
    """
    if header.read_variance is not None:
        if given != Stated() or measure:
            raise HklflowError(
                f"{source}: the frames are photons with a known read noise, from the constants of "
                "the detector: take `gain`, `offset` and `read_noise` out of `import_scan`"
            )
        return None
    of_header = header.gain or Stated()
    if measure:
        of_header = replace(of_header, gain=None)
    stated = given.first(of_header)
    if stated.gain is not None and not 0 < stated.gain < np.inf:
        raise HklflowError(
            f"{source}: a gain of {stated.gain:g} ADU per photon is impossible; {_CURE}"
        )
    if not (header.integrates or measure or stated != Stated()):
        return None
    # The user declares photons.
    if given.gain == 1 and not stated.offset and not stated.read_noise:
        return None
    return stated, given.gain is not None


def measured_scan(
    scan: RotationScan, header: Header, given: Stated, measure: bool
) -> tuple[RotationScan, list[str]]:
    """Return the scan in photons, and sentences about its gain.

    Numbers that neither the user nor the header states are measured on the frames; a stated gain is
    compared with the frames.

    Raises
    ------
    HklflowError
        If the gain is neither stated nor measurable, or the frames contradict the offset.
    """
    known, reason = stated_gain(scan.raw, header, given, measure), _INTEGRATES
    if known is None:
        if header.integrates is False or header.read_variance is not None or given.gain == 1:
            return scan, []
        kind, reason = _kind(scan, header)
        if kind != Verdict.OTHER:
            return scan, [f"doubt: {reason}"] if kind == Verdict.DOUBTFUL else []
        known = Stated(), False
    stated, by_user = known[0].summed(header.readouts or 1), known[1]
    line = noise_line(scan, header, stated.offset or 0.0)
    _require_whole(scan.raw, line)
    read_noise, doubts = stated.read_noise, list[str]()
    if read_noise is None:
        fit = line.result(gain=stated.gain)
        doubts = _require_offset(scan.raw, fit, stated)
        estimate = line.result()
    else:
        estimate = line.result(read_noise=float(np.hypot(read_noise, ROUNDING**0.5)))
    if stated.gain is None:
        _require_measured(scan.raw, estimate, reason)
        if _is_photons(estimate) and not stated.offset and (not measure or estimate.coarse):
            return scan, [f"the values are photons: {_shown(estimate)}"]
        doubts += _common_error(estimate)
    if read_noise is None:
        doubts += _noise_doubt(fit)
        variance = 0.0 if np.isnan(fit.noise2) else fit.noise2
        read_noise = float(np.sqrt(max(variance - ROUNDING, 0.0)))
    source, error = _shown(estimate), _relative_error(estimate)
    if stated.gain is not None:
        doubts += _compared(stated.gain, estimate, by_user)
        source, error = f"{stated.gain:.4g} ADU per photon, as {_stater(by_user)} states", 0.0
    elif reason != _INTEGRATES:
        source += f" ({reason})"
    offset = "" if stated.offset is not None else " (not stated)"
    noise = "" if stated.read_noise is not None else " (from the frames)"
    sentence = (
        f"gain: {source}; offset {stated.offset or 0.0:.4g} ADU{offset}, read noise "
        f"{read_noise:.3g} ADU{noise}" + _spread(estimate)
    )
    value = stated.gain or estimate.gain
    gain = Gain(value, stated.offset or 0.0, read_noise, sentence, tuple(doubts), error)
    return in_photons(scan, gain, header.underload), [sentence, *doubts]


def _kind(scan: RotationScan, header: Header) -> tuple[Verdict, str]:
    """Return what the frames of a detector of an unknown kind are, and a sentence about it."""
    line = noise_line(scan, header, 0.0, _LOOK)
    ratios = line.ratios()
    if line.negative > _NEGATIVE:
        what = f"{100 * line.negative:.0f} % of the values are below 0 in some frames only"
        return Verdict.OTHER, f"the values are not photon counts: {what}"
    kind = verdict(ratios, whole=line.whole and line.negative == 0)
    shown = " and ".join(map(_ratio, ratios))
    if kind == Verdict.OTHER:
        return kind, f"the values are not photon counts: their variance over mean is {shown}"
    return kind, (
        f"the variance over mean of the frames is {shown}, not 1 as in photon counts: dead time, "
        "scattering that changes within 4 frames, or an integrating detector; if it integrates, "
        "set `import_scan: {gain: measure}`, else `import_scan: {gain: 1}`"
    )


def _ratio(ratio: Ratio) -> str:
    near = "" if abs(ratio.near - ratio.single) < 0.1 else f", {ratio.near:.2f} with neighbours"
    return f"{ratio.single:.2f} ± {ratio.single_error:.2g}{near} at {ratio.mean:.3g}"


def _require_whole(source: str, line: NoiseLine) -> None:
    """Refuse whole numbers that are below 0 by their noise: hklflow takes them for flags."""
    if line.whole and line.negative > _NEGATIVE:
        raise HklflowError(
            f"{source}: {100 * line.negative:.0f} % of the values are below 0 in some frames only: "
            "an offset was subtracted, and hklflow would take whole numbers below 0 for flags of "
            "bad pixels: add an offset to the frames and state it (`import_scan: offset`), or "
            "write them as floating-point numbers"
        )


def rehearsed_scan(
    scan: RotationScan, header: Header, given: Stated, measure: bool
) -> RotationScan:
    """Return the scan as `measured_scan`, without its frames: numbers to be measured are not known.

    Raises
    ------
    HklflowError
        As `stated_gain`.
    """
    known = stated_gain(scan.raw, header, given, measure)
    if known is None or known[0].gain is None:
        return scan
    stated = known[0].summed(header.readouts or 1)
    gain = Gain(known[0].gain, stated.offset or 0.0, stated.read_noise or 0.0, "not measured")
    return in_photons(scan, gain, header.underload)


def _stater(by_user: bool) -> str:
    return "`import_scan: gain`" if by_user else "the header"


def _shown(estimate: Estimate) -> str:
    gain = f"{estimate.gain:.3f} ± {estimate.gain_error:.3f}"
    return f"{gain} ADU per photon from the noise of the frames"


def _spread(estimate: Estimate) -> str:
    if not estimate.single < 0.9:
        return ""
    return (
        f"; neighbouring pixels share the light: a single pixel has {estimate.single:.2g} of the "
        "variance that counts in sums, so error bars of single voxels are too large, those of sums "
        "are right"
    )


def _noise_doubt(fit: Estimate) -> list[str]:
    if not np.isnan(fit.noise2):
        return []
    return [
        "doubt: the read noise is not stated, and the frames do not show it; it is taken as 0, so "
        "error bars of weak voxels are too small: set `import_scan: read_noise` to the standard "
        "deviation of a dark image, ADU"
    ]


def _is_photons(estimate: Estimate) -> bool:
    return (
        abs(estimate.gain - 1) < max(0.02, 3 * estimate.gain_error)
        and estimate.noise2 < max(0.5, 3 * estimate.noise2_error)
        and estimate.single > 0.9
    )


def _require_measured(source: str, estimate: Estimate, reason: str) -> None:
    """Refuse a measured gain with a large error, or from scattering that changes too fast."""
    if not estimate.gain_error < _LARGEST_ERROR * estimate.gain:
        why = (
            f"it needs {FEWEST_FRAMES} consecutive frames with smooth background"
            if np.isnan(estimate.gain)
            else f"{estimate.gain:.3g} ± {estimate.gain_error:.2g} ADU per photon"
        )
        raise HklflowError(
            f"{source}: {reason}, its gain is not stated, and the noise of the "
            f"frames does not show it ({why}); {_CURE}"
        )
    if estimate.coarse and not _is_photons(estimate):
        raise HklflowError(
            f"{source}: {reason}, its gain is not stated, and the noise of the frames does not "
            f"show it, because the noise is smaller than the steps of the values; {_CURE}"
        )
    if _excess(estimate) > _LARGEST_ERROR:
        raise HklflowError(
            f"{source}: {reason}, its gain is not stated, and the noise of the frames does not "
            f"show it, because the scattering changes within 4 frames: {estimate.gain:.3g} ADU per "
            "photon from changes with periods below 4 frames, "
            f"{estimate.gain - estimate.excess:.3g} with periods below 2.7; {_CURE}"
        )


def _excess(estimate: Estimate) -> float:
    """Return the part of the gain that is not white noise; 0 if it is not significant."""
    significant = estimate.excess > 4 * estimate.excess_error
    return float(estimate.excess / estimate.gain) if significant else 0.0


def _relative_error(estimate: Estimate) -> float:
    """Return the relative error of a measured gain."""
    return float(np.hypot(estimate.gain_error / estimate.gain, _excess(estimate)))


def _common_error(estimate: Estimate) -> list[str]:
    """Return a sentence on the error that a measured gain is for all voxels of S(Q)."""
    error = _relative_error(estimate)
    if error <= _REPORTED_ERROR:
        return []
    return [
        f"S(Q) has an error of {error:.1%}, the same for all voxels, because the gain is measured "
        "on the frames; error bars do not contain it: set `import_scan: gain` if it is known"
    ]


def _require_offset(source: str, fit: Estimate, stated: Stated) -> list[str]:
    """Refuse frames with an offset that nobody states; return a doubt about a stated offset."""
    if fit.coarse or not fit.noise2 < -4 * fit.noise2_error:
        return []
    gain = stated.gain or fit.gain
    offset = (stated.offset or 0.0) - fit.noise2 / gain
    what = f"the noise of the frames vanishes at {offset:.1f} ADU or above"
    if stated.offset is None:
        raise HklflowError(
            f"{source}: {what}, so the values have an offset that is not stated: set `import_scan: "
            "offset` to the mean value of a dark image, and `read_noise` to its standard deviation"
        )
    if stated.gain is None:
        raise HklflowError(
            f"{source}: {what}, not at the stated offset of {stated.offset:g} ADU, so the gain "
            "cannot be measured (a wrong offset, or peaks everywhere): set `import_scan: gain`, or "
            "`offset` to the mean value of a dark image"
        )
    return [f"doubt: {what}, not at the stated offset: check `import_scan: offset`"]


def _compared(gain: float, estimate: Estimate, by_user: bool) -> list[str]:
    """Return a doubt if the frames contradict a stated gain."""
    least = max(0.1 * gain, 4 * estimate.gain_error, 2 * _excess(estimate) * estimate.gain)
    if estimate.coarse or not abs(estimate.gain - gain) > least:
        return []
    wrong = abs(np.sqrt(max(estimate.gain, 0.0) / gain) - 1)
    return [
        f"doubt: {_stater(by_user)} states {gain:.4g} ADU per photon, but the noise of the frames "
        f"is that of {estimate.gain:.3g} ± {estimate.gain_error:.2g}: errors of S(Q) are wrong by "
        f"{100 * wrong:.0f} % if the frames are right; `import_scan: {{gain: measure}}` takes them"
    ]
