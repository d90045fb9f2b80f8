"""Import one rotation scan: link its frames and gather angles, wavelength, monitor.

What the configuration or the scan table says goes before what the raw file's
header says. What neither says stops the import: nothing is assumed.
"""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 3


class Inputs(stage.Inputs):
    raw: list[Path]
    """The raw HDF5 file, or first and last image of a series."""
    geometry: Path | None = None
    """Calibrated geometry; without it the raw file must hold a detector geometry."""


class Outputs(stage.Outputs):
    scan: Path
    """The scan file."""


class Params(stage.Params):
    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None for one HDF5 file."""
    wavelength: float | None = Field(None, gt=0)
    """Wavelength in Å; None: from the calibration, else from the raw file."""
    polarization: float | None = Field(None, ge=0, le=1)
    """Fraction of the intensity with the electric vector horizontal; None: from the raw file."""
    axes: tuple[str, ...] = ()
    """Goniometer axes as `name=x,y,z` (lab vector at zero), the one fixed to the laboratory first;
    none: from the raw file."""
    angles: dict[str, float] = Field(default_factory=dict)
    """Setting of the axes that are not scanned, in degrees."""
    scan_axis: str | None = None
    """Name of the scanned axis; None: from the raw file."""
    start: float | None = None
    """Angle at the start of the first raw frame, in degrees; None: from the raw file."""
    step: float | None = None
    """Angle step of one frame, in degrees; None: from the raw file."""
    n_frames: int | None = Field(None, ge=1)
    """Number of raw frames that the scan table expects; None: as many as there are."""
    first_frame: int = Field(0, ge=0)
    """First raw frame to use, counted from 0."""
    last_frame: int | None = Field(None, ge=0)
    """Last raw frame to use; None: the last one."""
    monitor: str = "file"
    """`file`: from the raw file. `none`: the experiment has none (the intensity is taken as
    constant)."""
    exposure: float | None = Field(None, gt=0)
    """Exposure of one frame in seconds; None: from the raw file."""
    attenuation: float | None = Field(None, gt=0, le=1)
    """Transmission of the attenuators; None: from the raw file, else 1."""
    saturation: float | None = Field(None, gt=0)
    """Counts from which a pixel is not to be believed; None: from the raw file."""
    temperature: float | None = Field(None, ge=0)
    """Sample temperature in K, as the scan table has it."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Gather, check and write the scan file."""
    from hklflow import nexus
    from hklflow.formats import assemble, raw

    source = params.pattern or str(inputs.raw[0])
    with raw.open_frames(source) as frames:
        header = raw.read_header(source)
        detector = beam = None
        if inputs.geometry is not None:
            detector, beam = assemble.calibrated(stage.read_json(inputs.geometry), inputs.geometry)
        scan = assemble.scan(
            source,
            frames.shape,
            header,
            assemble.Said(
                axes=assemble.parse_axes(params.axes),
                **params.model_dump(exclude={"pattern", "axes"}),
            ),
            detector,
            beam,
        )
        dataset = frames.dataset
    nexus.write_scan(outputs.scan, scan, f"scan of {source}", dataset)
    print(assemble.summary(scan))


if __name__ == "__main__":
    stage.command(main)
