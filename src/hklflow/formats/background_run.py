"""Frames of a run without the crystal, in the form of the frames of the crystal."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats import assemble
from hklflow.formats.header import Header
from hklflow.geometry import Detector, plausible
from hklflow.images import masks
from hklflow.images.pixel_binning import bin_detector, bin_mask, bin_sum
from hklflow.images.scan import RotationScan
from hklflow.images.surroundings import Valid

if TYPE_CHECKING:
    from hklflow.formats.raw_frames import Frames

Floats = NDArray[np.float64]

# Differences of the headers above which a run has another wavelength or detector position.
_WAVELENGTH = 1e-3
_PIXELS = 0.5
# Ratio of two beams, by monitor counts per second, above which it is reported. Storage rings lose
# less between two fillings; a monitor with another unit or range differs by a power of ten.
_OTHER_BEAM = 5.0
# Value of a block of pixels with a saturated pixel.
_SATURATED = 1e30


def like_scan(
    raw: str,
    shape: tuple[int, int, int],
    header: Header,
    said: assemble.Said,
    scan: RotationScan,
    of_scan: Header,
    where: str,
) -> tuple[RotationScan, Floats]:
    """Return the run as a scan with the geometry of the crystal's, and its incident intensities.

    Parameters
    ----------
    raw : str
        File or pattern of the run.
    shape : (n, slow, fast)
    said : Said
        Monitor, exposure, attenuation and saturation that the user states.
    scan : RotationScan
        Rotation of the crystal.
    of_scan : Header
        Header of the frames of the crystal.
    where : str
        Section of the configuration, for messages.

    Raises
    ------
    HklflowError
        If the run cannot be the background of the rotation; one message has all problems.
    """
    problems: list[str] = []
    n = shape[0]
    unbinned = scan.rotation.detector.shape if scan.binning is None else scan.binning.unbinned
    if scan.underload < 0 and scan.gain is None:
        problems.append(
            "the frames of this detector are corrected by `correct_frames`, and a background "
            f"cannot be corrected yet: remove `{where}`"
        )
    if scan.gain is not None and (scan.binning is not None or of_scan.readouts not in (None, 1)):
        problems.append(
            "the gain of one pixel of one frame is not known for sums of frames or pixels: remove "
            f"`{where}`, or give `gain: 1` if the values are photons"
        )
    if tuple(shape[1:]) != tuple(unbinned):
        problems.append(
            f"frames have {tuple(shape[1:])} pixels but those of {scan.raw} {tuple(unbinned)}: "
            "give a run with the same detector"
        )
    else:
        problems += _other_settings(header, scan, of_scan)
    if said.monitor == "file" and (doubt := _monitor_doubt(header, n, scan.raw)) is not None:
        problems.append(
            f"{doubt}: give the monitor of one frame of the run, `{where}: {{monitor: ...}}`"
        )
        said = replace(said, monitor="none", exposure=1.0)
    problems += _restated(header, said, scan, of_scan, where)
    facts: list[str] = []
    incident = assemble.incident(header, said, n, facts)
    problems += [problem.replace("`import_scan: ", f"`{where}: ") for problem in facts]
    if problems:
        raise HklflowError(f"{raw}: " + "; ".join(problems))
    ones = np.ones(n)
    rotation = replace(scan.rotation, scan=replace(scan.rotation.scan, n_frames=n))
    saturation = header.saturation if said.saturation is None else said.saturation
    if saturation is not None and scan.gain is not None:
        saturation = scan.gain.photons(saturation)
    if saturation is None and scan.binning is None:  # else the scan's is that of a block of pixels
        saturation = scan.saturation
    run = replace(
        scan, raw=raw, first=0, rotation=rotation, monitor=incident, exposure=ones,
        attenuation=ones, saturation=saturation, left_out=(), binning=None,
    )  # fmt: skip
    return run, incident


def _monitor_doubt(header: Header, n: int, of_scan: str) -> str | None:
    """Return why the monitor of a run cannot be used; None if it can."""
    if header.monitor is None:
        # The cure of the doubt is for the crystal's frames.
        doubt = (header.monitor_doubt or "the raw file has no monitor").partition(": ")[0]
        return f"{doubt}, but {of_scan} has a monitor"
    monitor = np.broadcast_to(header.monitor, n)
    low, high = plausible.MONITORS
    bad = np.flatnonzero(~((monitor >= low) & (monitor <= high)))
    if len(bad) == 0:
        return None
    return f"the monitor of frame {bad[0]} is {monitor[bad[0]]:g}, not from {low:g} to {high:g}"


def beam_doubt(
    raw: str, header: Header, exposure: float | None, scan: RotationScan, where: str
) -> str | None:
    """Return a warning if the monitors of a run and of the crystal count at very different rates.

    The background is scaled by the monitors. If one of them has another unit or range, the
    background is wrong by a large factor, and may be next to nothing without any other sign.

    Parameters
    ----------
    exposure : float or None
        Exposure of one frame of the run (s) that the user states; None: that of the header.
    """
    seconds = header.exposure_time if exposure is None else exposure
    if scan.monitor_source == "none" or header.monitor is None or seconds is None:
        return None
    rates = [
        float(np.median(monitor / np.asarray(time, np.float64)))
        for monitor, time in ((header.monitor, seconds), (scan.monitor, scan.exposure))
    ]
    ratio = rates[0] / rates[1]
    if 1 / _OTHER_BEAM <= ratio <= _OTHER_BEAM:
        return None
    return (
        f"the monitor counts {rates[0]:.4g} per second in {raw} and {rates[1]:.4g} in {scan.raw}; "
        f"if the beam was not {ratio:.3g} times as strong, one of the two has another unit or "
        "range and the background is wrong by this factor: give the monitor of one frame of the "
        f"run, `{where}: {{monitor: ...}}`"
    )


def _restated(
    header: Header, said: assemble.Said, scan: RotationScan, of_scan: Header, where: str
) -> Iterator[str]:
    """Yield values that the user states for the crystal against its header, but not for the run.

    The header of the run, from the same instrument, is then doubtful in the same way.
    """
    used = np.arange(scan.first, scan.first + len(scan.exposure))
    kept = ~np.isin(used, scan.left_out)

    def differs(values: Floats, stated: Any) -> bool:
        raw = np.ravel(np.asarray(stated, np.float64))
        of_frames = np.broadcast_to(raw[used] if len(raw) > 1 else raw, values.shape)
        return not np.allclose(values[kept], of_frames[kept], rtol=1e-6, atol=0)

    by_time = said.monitor == "none" and said.exposure is None
    of_header = of_scan.exposure_time
    if by_time and of_header is not None and differs(scan.exposure, of_header):
        yield (
            f"the exposure of {scan.raw} is not that of its header, but stated in the "
            f"configuration: state that of the run, too, `{where}: {{exposure: ...}}`"
        )
    of_header = 1.0 if of_scan.transmission is None else of_scan.transmission
    if said.attenuation is None and differs(scan.attenuation, of_header):
        yield (
            f"the transmission of the attenuators of {scan.raw} is not that of its header, but "
            "stated in the configuration: state that of the run, too, "
            f"`{where}: {{attenuation: ...}}` (1: no attenuator)"
        )


def _other_settings(header: Header, scan: RotationScan, of_scan: Header) -> Iterator[str]:
    """Yield how wavelength and detector of a run differ from those of the crystal's frames."""
    mine, theirs = header.wavelength, of_scan.wavelength or scan.rotation.beam.wavelength
    if mine is not None and abs(mine / theirs - 1) > _WAVELENGTH:
        yield (
            f"the wavelength is {mine:.5g} Å but that of {scan.raw} {theirs:.5g} Å: give a run "
            "with the same wavelength"
        )
    if header.detector is None or of_scan.detector is None:
        return
    own = header.detector
    if scan.binning is not None:
        own = bin_detector(own, scan.binning.factor)
    moved = _moved(own, of_scan.detector)
    if moved > _PIXELS:
        yield (
            f"the detector is at another place (a pixel is {moved:.3g} pixels away from its place "
            f"in {scan.raw}): give a run with the same setting of the detector"
        )


def _moved(one: Detector, other: Detector) -> float:
    """Return the largest displacement of a corner, in pixels of the first detector."""
    if one.shape != other.shape:
        return float("inf")
    slow, fast = np.meshgrid([0, one.shape[0]], [0, one.shape[1]])
    apart = one.plane.lab(slow, fast) - other.plane.lab(slow, fast)
    return float(np.linalg.norm(apart, axis=-1).max() / min(one.pixel_size))


def blocks(frames: "Frames", scan: RotationScan, run: RotationScan) -> Iterator[NDArray[Any]]:
    """Yield the frames of a run, binned like the frames of the crystal; see `valid`."""
    if scan.binning is None:
        yield from frames.blocks(8)
        return
    factor, limits = scan.binning.factor, _limits(frames.dtype, run)
    for block in frames.blocks(8):
        binned = np.empty((len(block), *scan.binning.shape))
        for image, target in zip(block, binned, strict=True):
            flagged = masks.flagged(image, limits.flag_from, limits.valid_from)
            target[...] = bin_sum(np.where(flagged, 0, image), factor)
            target[bin_mask(~flagged & (image >= limits.saturated_from), factor)] = _SATURATED
            target[bin_mask(flagged, factor)] = np.nan
        yield binned


def valid(frames: "Frames", scan: RotationScan, run: RotationScan) -> Valid:
    """Return the limits of valid values in `blocks`."""
    limits = _limits(frames.dtype, run)
    return limits if scan.binning is None else Valid(np.inf, _SATURATED, limits.valid_from)


def _limits(dtype: np.dtype[Any], run: RotationScan) -> Valid:
    flag = masks.flag_value(dtype) or np.inf
    return Valid(float(flag), float(run.saturation or np.inf), run.underload)
