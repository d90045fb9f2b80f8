"""Gain of a scan: what header and user state, completed and compared by the noise of the frames."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.formats import raw
from hklflow.formats.header import Header
from hklflow.formats.photons import in_photons
from hklflow.images.gain import ROUNDING, Gain, Stated
from hklflow.images.gain_estimate import FRAMES, Estimate, NoiseLine
from hklflow.images.masks import flag_value, flagged
from hklflow.images.scan import RotationScan

_GROUPS = 12  # groups of consecutive frames that are read for the noise
_LARGEST_ERROR = 0.05  # of a measured gain, relative
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
    known = stated_gain(scan.raw, header, given, measure)
    if known is None:
        return scan, []
    stated, by_user = known[0].summed(header.readouts or 1), known[1]
    line = _noise_line(scan, header, stated.offset or 0.0)
    read_noise, doubts = stated.read_noise, list[str]()
    if read_noise is None:
        fit = line.result(gain=stated.gain)
        doubts = _require_offset(scan.raw, fit, stated)
        estimate = line.result()
    else:
        estimate = line.result(read_noise=float(np.hypot(read_noise, ROUNDING**0.5)))
    if stated.gain is None:
        _require_measured(scan.raw, estimate)
        if _is_photons(estimate) and not stated.offset and not measure:
            return scan, [f"the values are photons: {_shown(estimate)}"]
    if read_noise is None:
        doubts += _noise_doubt(fit)
        variance = 0.0 if np.isnan(fit.noise2) else fit.noise2
        read_noise = float(np.sqrt(max(variance - ROUNDING, 0.0)))
    source = _shown(estimate)
    if stated.gain is not None:
        doubts += _compared(stated.gain, estimate, by_user)
        source = f"{stated.gain:.4g} ADU per photon, as {_stater(by_user)} states"
    offset = "" if stated.offset is not None else " (not stated)"
    noise = "" if stated.read_noise is not None else " (from the frames)"
    sentence = (
        f"gain: {source}; offset {stated.offset or 0.0:.4g} ADU{offset}, read noise "
        f"{read_noise:.3g} ADU{noise}" + _spread(estimate)
    )
    gain = Gain(
        stated.gain or estimate.gain, stated.offset or 0.0, read_noise, sentence, tuple(doubts)
    )
    return in_photons(scan, gain, header.underload), [sentence, *doubts]


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


def _require_measured(source: str, estimate: Estimate) -> None:
    if not estimate.gain_error < _LARGEST_ERROR * estimate.gain:
        why = (
            f"it needs {FRAMES} consecutive frames with smooth background"
            if np.isnan(estimate.gain)
            else f"{estimate.gain:.3g} ± {estimate.gain_error:.2g} ADU per photon"
        )
        raise HklflowError(
            f"{source}: the detector integrates, its gain is not stated, and the noise of the "
            f"frames does not show it ({why}); {_CURE}"
        )


def _require_offset(source: str, fit: Estimate, stated: Stated) -> list[str]:
    """Refuse frames with an offset that nobody states; return a doubt about a stated offset."""
    if not fit.noise2 < -4 * fit.noise2_error:
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
    if not abs(estimate.gain - gain) > max(0.1 * gain, 4 * estimate.gain_error):
        return []
    wrong = abs(np.sqrt(max(estimate.gain, 0.0) / gain) - 1)
    return [
        f"doubt: {_stater(by_user)} states {gain:.4g} ADU per photon, but the noise of the frames "
        f"is that of {estimate.gain:.3g} ± {estimate.gain_error:.2g}: errors of S(Q) are wrong by "
        f"{100 * wrong:.0f} % if the frames are right; `import_scan: {{gain: measure}}` takes them"
    ]


def _noise_line(scan: RotationScan, header: Header, offset: float) -> NoiseLine:
    """Read groups of frames over the scan, and collect their noise."""
    line = NoiseLine(offset)
    shape = scan.rotation.detector.shape
    masked = np.zeros(shape, bool) if header.pixel_mask is None else header.pixel_mask
    with raw.open_scan(replace(scan, gain=None)) as frames:
        from_value = min(
            flag_value(frames.dtype) or np.inf,
            np.inf if scan.saturation is None else scan.saturation,
        )
        lowest = -np.inf if frames.dtype.kind == "f" else 0.0
        for first in _groups(scan):
            block = frames.read(first, first + FRAMES)
            bad = masked | flagged(block, from_value, lowest).any(axis=0)
            line.add(np.where(bad, 0, block), bad)
    return line


def _groups(scan: RotationScan) -> Iterator[int]:
    """Yield the first frames of groups without frames that are left out."""
    out = set(scan.left_out)
    starts = [
        first
        for first in range(scan.first, scan.first + scan.rotation.scan.n_frames - FRAMES + 1)
        if out.isdisjoint(range(first, first + FRAMES))
    ][::FRAMES]
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(_GROUPS, len(starts))).astype(int))
    yield from (starts[i] for i in chosen)
