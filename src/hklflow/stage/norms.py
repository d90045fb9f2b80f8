"""Compute the norm (the counts of a pixel for S(Q) = 1) from factors that stages share.

The norm of pixel p in frame z is ``pixel(p) * frame(z)``. The transform to S(Q) and the integration
of Bragg reflections divide by the same norm.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hklflow import stage
from hklflow.stage.flat_fields import (
    absolute_factor,
    notes,
    read_flat_field,
    require_same_corrections,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry import Detector, Rotation
    from hklflow.images.frame_scale import FrameScale
    from hklflow.images.pixel_binning import PixelBinning
    from hklflow.images.scan import RotationScan
    from hklflow.images.surroundings import Part
    from hklflow.stage.rehearsal import Known
    from hklflow.transform.direction import Direction


class Corrections(stage.Params):
    """Factors in the part of the norm that depends on the pixel."""

    solid_angle: bool = True
    """Correct for the solid angle of the pixels."""
    polarization: bool = True
    """Correct for polarisation."""
    efficiency: bool = True
    """Correct for the efficiency of the sensor (needs its thickness, and its attenuation or
    material).
    """
    flat_field: Path | None = None
    """File of the relative response of the pixels: an image (any format that fabio reads, or .npy),
    the constants of a photon counter, or a normalisation (.nxs).
    """
    absolute: bool = False
    """Divide by the absolute factor of the normalisation: S(Q) is then relative to the scattering
    of its standard.
    """


class PixelNorm(NamedTuple):
    """Pixel part of the norm.

    Attributes
    ----------
    values : (slow, fast) array
        0 for masked pixels.
    corrected : list of str
        Corrections in it.
    notes : dict
        What a product records about its normalisation.
    """

    values: "NDArray[np.float64]"
    corrected: list[str]
    notes: dict[str, Any]


def pixel_norm(
    mask: Path,
    corrections: Corrections,
    first: "Detector",
    rotation: "Rotation",
    binning: "PixelBinning | None" = None,
) -> "PixelNorm":
    """Return the pixel part of the norm with its corrections.

    Parameters
    ----------
    mask : Path
        Pixel mask.
    first : Detector
        Detector of the first rotation of the scan. Solid angles are relative to a pixel at the foot
        of its normal.
    binning : PixelBinning or None
        Binning of the scan; the flat field is for unbinned frames. The norm of a block of pixels is
        the sum of the norms of its pixels: S(Q) has the scale of unbinned frames.

    Raises
    ------
    HklflowError
        If the flat field is for another detector, or does not fit the corrections.
    """
    import numpy as np

    from hklflow import nexus
    from hklflow.geometry import corrections as factors

    good = nexus.read_mask(mask) == 0
    path = corrections.flat_field
    flat = read_flat_field(path, good.shape, binning) if path else None
    norm = np.where(good, 1.0 if flat is None else flat.response, 0.0).astype(np.float64)
    if binning is not None and (lost := int(np.count_nonzero(good & (norm == 0)))):
        print(
            f"note: {lost} of {np.count_nonzero(good)} good blocks are not measured, because the "
            f"flat field {corrections.flat_field} is not positive in one of their pixels"
        )
    sensor = rotation.detector
    described = None not in (sensor.sensor_thickness, sensor.sensor_attenuation)
    if corrections.solid_angle:
        area = factors.pixel_area(sensor) / factors.pixel_area(first)
        norm *= area * factors.solid_angle(sensor)
    if corrections.polarization:
        norm *= factors.polarization(sensor, rotation.beam.polarization)
    if corrections.efficiency and not described:
        print("note: the sensor is not described, so its efficiency is not corrected for")
    if corrections.efficiency:
        norm *= factors.sensor_efficiency(sensor)
    if binning is not None:
        norm *= binning.factor**2
    if corrections.absolute:
        norm *= absolute_factor(flat, path, first, binning)
    done = {
        "solid angle": corrections.solid_angle,
        "polarisation": corrections.polarization,
        "sensor efficiency": corrections.efficiency and described,
        "flat field": flat is not None,
        "absolute factor of the normalisation": corrections.absolute,
    }
    names = [name for name, yes in done.items() if yes]
    if flat is None or path is None:
        return PixelNorm(norm, names, {})
    require_same_corrections(flat.about, path, names)
    return PixelNorm(norm, names, notes(flat, rotation, first))


def require_flat(corrections: Corrections, scan: "RotationScan", known: "Known") -> None:
    """Refuse what the norm of a scan cannot be made from.

    Raises
    ------
    HklflowError
        If the flat field is for another detector, or lacks the requested absolute factor (unless
        the file is still to be made), or if the scan has no monitor for an absolute factor.
    """
    require_monitor(corrections, scan)
    path = corrections.flat_field
    if path is not None and path in known.products:
        return
    flat = read_flat_field(path, scan.rotation.detector.shape, scan.binning) if path else None
    if corrections.absolute:
        absolute_factor(flat, path, scan.rotation.detector, scan.binning)


def require_monitor(corrections: Corrections, scan: "RotationScan") -> None:
    """Refuse an absolute factor, which is per monitor count, for a scan without a monitor.

    Raises
    ------
    HklflowError
    """
    from hklflow.base.errors import HklflowError

    if corrections.absolute and scan.monitor_source == "none":
        raise HklflowError(
            f"`absolute` divides by counts per monitor count, but {scan.raw} was imported without "
            "a monitor (`import_scan: {monitor: none}`); name the monitor that the standard was "
            "measured with, or set `transform: {absolute: false}`"
        )


class Norm(NamedTuple):
    """Norm of a rotation.

    Attributes
    ----------
    pixel : (slow, fast) array
        Part of the pixels; 0 where masked.
    frame : (n_frames,) array
        Part of the frames.
    corrected : list of str
        Corrections that the pixels' part contains.
    scale : FrameScale
        Scale that the frames' part contains.
    notes : dict
        What a product records about its normalisation.
    direction : Direction or None
        A further factor of frame and direction.
    """

    pixel: "NDArray[np.float64]"
    frame: "NDArray[np.float64]"
    corrected: list[str]
    scale: "FrameScale"
    notes: dict[str, Any]
    direction: "Direction | None" = None


def read_norm(
    mask: Path,
    scale_path: Path,
    corrections: Corrections,
    first: "Detector",
    rotation: "Rotation",
    binning: "PixelBinning | None",
) -> Norm:
    """Read pixel mask and frame scale, and return the norm of a rotation; see `pixel_norm`.

    Raises
    ------
    HklflowError
        If the scale is for another number of frames.
    """
    from hklflow import nexus

    scale = nexus.read_scale(scale_path)
    pixel, corrected, notes = pixel_norm(mask, corrections, first, rotation, binning)
    frame = frame_norm(scale, rotation, scale_path)
    # The scale assumes equal solid angles; correct it if the pixel norm does not contain them.
    frame = frame if corrections.solid_angle else frame * scale.area
    return Norm(pixel, frame, corrected, scale, notes)


def frame_norm(scale: "FrameScale", rotation: "Rotation", path: Path) -> "NDArray[np.float64]":
    """Return the part of the norm of the frames (n,), for equal solid angles; see `read_norm`."""
    from hklflow.base.errors import HklflowError

    if len(scale.scale) != rotation.scan.n_frames:
        raise HklflowError(
            f"{path} is for {len(scale.scale)} frames but the scan has {rotation.scan.n_frames}; "
            "run frame_scale again"
        )
    return scale.norm


def absorbed(norm: Norm, path: Path | None, rotation: str) -> Norm:
    """Return the norm with the factor of the direction by the crystal's shape.

    The mean of each frame is in the scale of the frames, whose signal was divided by it.

    Parameters
    ----------
    path : Path or None
        Product of `absorption`; None: the shape is not given.

    Raises
    ------
    HklflowError
        If the scale of the frames was made with another transmission, or without one.
    """
    import numpy as np

    from hklflow import nexus
    from hklflow.base.errors import HklflowError

    used = norm.scale.absorption
    if path is None:
        if used is not None:
            raise HklflowError(
                f"the scale of the frames of {rotation} contains the transmission by the shape of "
                "the crystal, but the input `absorption` is missing; give both or none"
            )
        return norm
    curve, direction = nexus.read_absorption(path, rotation)
    if used is None or len(used) != len(curve) or not np.allclose(used, curve, rtol=1e-9):
        raise HklflowError(
            f"the scale of the frames of {rotation} was not made with {path}; run frame_scale again"
        )
    name = nexus.absorption_correction(path)
    return norm._replace(direction=direction, corrected=[*norm.corrected, name])


def refined(norm: Norm, path: Path | None, rotation: str) -> Norm:
    """Return the norm with the factors of `refine_scale`, if the stage ran and found them."""
    from hklflow import nexus

    found = None if path is None else nexus.read_refined(path, rotation)
    if found is None:
        return norm
    return norm._replace(
        frame=norm.frame * found.curve,
        direction=norm.direction.product(found.direction) if norm.direction else found.direction,
        corrected=[*norm.corrected, "scale from repeated measurements"],
    )


def read_background(path: Path | None, norm: Norm) -> "list[Part] | None":
    """Read the backgrounds; pixels whose background is not known get the norm 0.

    None if there is no background, or if nothing of it is subtracted.
    """
    if path is None:
        return None
    import numpy as np

    from hklflow import nexus
    from hklflow.transform import surroundings

    n = len(norm.frame)
    parts = [
        part._replace(factor=np.broadcast_to(part.factor, n).copy())
        for part in nexus.read_background(path)
    ]
    if not parts:
        return None
    norm.pixel[surroundings.unknown(parts)] = 0.0
    norm.corrected.append("background without the crystal")
    return parts
