"""Import one rotation scan: link its frames and collect angles, wavelength, monitor.

The configuration and the scan table override the header of the raw file. If a fact is missing in
all of them, the import stops: nothing is assumed.

Binned frames (`binning`) use the calibration of the unbinned frames, which is then binned, or a
calibration of frames with the same binning as it is. A calibration of another binning is refused.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat

from hklflow import stage
from hklflow.stage.frame_items import FrameItem

if TYPE_CHECKING:
    from hklflow.formats.header import Header
    from hklflow.geometry import Detector
    from hklflow.images.gain import Stated
    from hklflow.images.pixel_binning import PixelBinning
    from hklflow.images.scan import RotationScan
    from hklflow.stage.rehearsal import FrameFacts, Known

VERSION = 8


def _correction(value: str) -> str:
    from hklflow.geometry.correction import parse

    parse(value)
    return value


Correction = Annotated[str, AfterValidator(_correction)]
"""Correction of the detector in the form of `hklflow.geometry.correction`."""


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw HDF5 file, or first and last image of a series."""
    geometry: Path | None = None
    """Calibrated geometry; None: the raw file must contain a detector geometry."""


class Outputs(stage.Outputs):
    scan: Path
    """The scan file."""


class Params(stage.Params):
    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None: one HDF5 file."""
    wavelength: float | None = Field(None, gt=0)
    """Wavelength in Å; None: the value of the calibration, else of the raw file."""
    wavelengths: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Wavelength in Å of single rotations by their names, such as `{r4: 0.71}`; the others have
    `wavelength`."""
    polarization: float | None = Field(None, ge=0, le=1)
    """Fraction of the intensity with the electric vector horizontal; None: the value in the
    raw file.
    """
    axes: tuple[str, ...] = ()
    """Goniometer axes as `name=x,y,z` (lab vector at zero), the axis fixed to the laboratory first;
    empty: from the raw file. Axes with the name of a rotation (`r4:phi=-1,0,0`) are all axes of
    this rotation."""
    angles: dict[str, float] = Field(default_factory=dict)
    """Settings of the axes that are not scanned, in degrees."""
    detector: tuple[Correction, ...] = ()
    """Corrections of the detector of calibration or raw file: `shift=12.3,-4.1` of the beam centre
    (pixels along slow, fast), `distance=0.2104` (m), `mirrored=fast` (or `slow`: the images are
    stored in reverse order), `arm=0,30,0` (degrees, rotation about the sample along lab x, y, z);
    `r1:distance=0.2104` for the rotation r1 only."""
    scan_axis: str | None = None
    """Name of the scan axis; None: the value in the raw file."""
    start: float | None = None
    """Angle at the start of the first raw frame, in degrees; None: the value in the raw file."""
    step: float | None = None
    """Angle step of one frame, in degrees; None: the value in the raw file."""
    n_frames: int | None = Field(None, ge=1)
    """Number of raw frames according to the scan table; None: all frames of the raw file."""
    first_frame: int = Field(0, ge=0)
    """First raw frame to use, counted from 0."""
    last_frame: int | None = Field(None, ge=0)
    """Last raw frame to use; None: the last frame of the file."""
    leave_out: tuple[FrameItem, ...] = ()
    """Raw frames that are not used (lost, copied, without beam), counted from 0: `17`, `100-120`,
    or `r1:17-18` for the rotation r1 only."""
    monitor: str = "file"
    """Source of the monitor. `file`: the raw file. `none`: the experiment has no monitor (the
    intensity is assumed to be constant).
    """
    exposure: float | None = Field(None, gt=0)
    """Exposure of one frame in seconds; None: the value in the raw file."""
    attenuation: float | None = Field(None, gt=0, le=1)
    """Transmission of the attenuators; None: the value in the raw file, else 1."""
    saturation: float | None = Field(None, gt=0)
    """Counts from which a pixel is saturated; None: the value in the raw file."""
    gain: PositiveFloat | Literal["measure"] | None = None
    """ADU per photon of an integrating detector (CCD, flat panel, image plate); 1: the values are
    photons; `measure`: from the noise of the frames. None: the value in the raw file; if it states
    none, and the format is one of integrating detectors or the noise of the frames is not the noise
    of photon counts, from the noise of the frames."""
    offset: float | None = None
    """Value of a pixel without photons, in ADU; None: the value in the raw file, else 0."""
    read_noise: float | None = Field(None, ge=0)
    """Standard deviation of a pixel without photons, in ADU; None: the value in the raw file, else
    from the noise of the frames. Gain, offset and read noise are those of one pixel of one frame as
    measured, also for binned frames and sums of scans."""
    temperature: float | None = Field(None, ge=0)
    """Sample temperature in K, from the scan table."""
    binning: int = Field(1, ge=1, le=8)
    """Side in pixels of the blocks of binned frames; 1: unbinned frames. The key `binning` at the
    top of the configuration sets this value.
    """


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Collect and check the facts, and write the scan file."""
    from hklflow import nexus
    from hklflow.formats import assemble, measured_gain
    from hklflow.stage.rehearsal import read_facts

    source = params.pattern or str(inputs.raw[0])
    frames = read_facts(source)
    geometry = None if inputs.geometry is None else stage.read_json(inputs.geometry)
    scan, doubt = collected(source, frames, geometry, inputs.geometry, params)
    scan, gains = measured_gain.measured_scan(
        scan, frames.header, _stated(params), params.gain == "measure"
    )
    nexus.write_scan(outputs.scan, scan, f"scan of {source}", frames.dataset)
    binning = scan.binning
    binned = "" if binning is None else f", binned {binning.factor} x {binning.factor}"
    print(assemble.summary(scan) + binned)
    for note in (*(frames.header.notes or ()), *gains):
        print(f"note: {note}")
    if params.saturation is None and frames.header.saturation_doubt is not None:
        print(f"note: {frames.header.saturation_doubt}")
    if doubt is not None:
        print(f"note: {source}: {doubt}")


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Collect and check the facts; a geometry that is not calibrated yet is left out."""
    from hklflow.formats import measured_gain
    from hklflow.stage.rehearsal import ScanFacts

    source = params.pattern or str(inputs.raw[0])
    frames = known.frames(inputs.raw[0], params.pattern)
    if frames is None:
        return
    geometry, calibrated = None, True
    if inputs.geometry is not None:
        geometry = known.of(inputs.geometry, stage.read_json)
        calibrated = geometry is not None
        geometry = geometry or _stand_in(frames)
    scan, _ = collected(source, frames, geometry, inputs.geometry, params)
    scan = measured_gain.rehearsed_scan(
        scan, frames.header, _stated(params), params.gain == "measure"
    )
    known.products[outputs.scan] = ScanFacts(scan, frames, calibrated)


# Parameters that do not go to `assemble` as they are.
_ELSEWHERE = ("pattern", "axes", "wavelengths", "gain", "offset", "read_noise")


def _stated(params: Params) -> "Stated":
    from hklflow.images.gain import Stated

    gain = None if params.gain == "measure" else params.gain
    return Stated(gain, params.offset, params.read_noise)


def _stand_in(frames: "FrameFacts") -> dict[str, Any]:
    """Return a geometry of the frames' size that is refused by no test."""
    import numpy as np

    from hklflow.geometry import Detector, detector_to_dict

    _, slow, fast = frames.shape
    shape = (slow, fast) if frames.header.binning is None else frames.header.binning.unbinned
    origin, slow_axis, fast_axis = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
    detector = Detector(shape, (1e-4, 1e-4), origin, slow_axis, fast_axis)
    return {
        "detector": detector_to_dict(detector),
        "beam": {"wavelength_A": 1.0, "polarization": 1.0},
    }


def collected(
    source: str,
    frames: "FrameFacts",
    geometry: dict[str, Any] | None,
    where: Path | None,
    params: Params,
) -> "tuple[RotationScan, str | None]":
    """Return the scan, and a doubt about the sensor.

    Parameters
    ----------
    source : str
        File or pattern of the frames.
    frames : FrameFacts
    geometry : mapping or None
        Content of the calibrated geometry; None: the header has the geometry.
    where : Path or None
        File of the geometry, for messages.

    Raises
    ------
    HklflowError
        If a fact is missing, impossible or contradicts another; one message has all problems.
    """
    from dataclasses import replace

    from hklflow.formats import assemble
    from hklflow.formats.planned_scan import require_filled
    from hklflow.geometry import sensor

    require_filled(source)
    header = frames.header
    binning = _binning(source, header, params.binning)
    detector = beam = material = None
    if geometry is not None and where is not None:
        detector, beam = assemble.calibrated(geometry, where, any_binning=True)
        material = geometry.get("sensor_material")
        made = assemble.calibrated_binning(geometry, where)
        if made is not None:
            _require_same(made, binning, where)
        elif binning is not None:
            detector = _binned(detector, binning, where)
    scan = assemble.scan(
        source,
        frames.shape,
        header,
        assemble.Said(
            axes=assemble.parse_axes(params.axes),
            **params.model_dump(exclude=set(_ELSEWHERE)),
        ),
        detector,
        beam,
    )
    rotation = scan.rotation
    described, doubt = sensor.completed(
        rotation.detector,
        rotation.beam.wavelength,
        material or header.sensor_material,
        header.detector.sensor_thickness if header.detector is not None else None,
    )
    scan = replace(scan, binning=binning, rotation=replace(rotation, detector=described))
    return scan, doubt


def _binning(source: str, header: "Header", factor: int) -> "PixelBinning | None":
    """Return the binning of the frames; refuse frames with another binning than requested."""
    from hklflow.base.errors import HklflowError

    present = 1 if header.binning is None else header.binning.factor
    if present != factor:
        what = f"is binned {present} x {present}" if present > 1 else "is not binned"
        raise HklflowError(
            f"{source} {what}, but `binning` is {factor}: enter the unbinned raw frames in the "
            "table of scans, and `binning` in the configuration"
        )
    return header.binning


def _require_same(made: "PixelBinning", binning: "PixelBinning | None", path: Path) -> None:
    """Refuse a calibration of binned frames for frames that are not binned in the same way."""
    from hklflow.base.errors import HklflowError

    if made != binning:
        now = "frames as measured (`binning` is 1)" if binning is None else binning.words
        raise HklflowError(
            f"the geometry {path} is a calibration of {made.words}, but these are {now}; set "
            f"`binning: {made.factor}`, or use a calibration of the frames as measured"
        )


def _binned(detector: "Detector", binning: "PixelBinning", path: Path) -> "Detector":
    """Return the detector of the binned frames, from the calibration of the unbinned frames."""
    from hklflow.images.pixel_binning import bin_detector

    binning.require(detector.shape, f"the geometry {path}")
    return bin_detector(detector, binning.factor)


if __name__ == "__main__":
    stage.command(main)
