"""Refine the detector's geometry from the rings of a powder calibrant, with pyFAI."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    image: Path
    """Calibrant image: TIFF, CBF, EDF, or HDF5 (frames are summed)."""


class Outputs(stage.Outputs):
    geometry: Path
    """Refined geometry with its uncertainties."""
    poni: Path
    """The same as a PONI file for pyFAI."""
    picture: Path
    """Picture: rings on the image, profile, residuals."""


class Params(stage.Params):
    calibrant: str = "CeO2"
    """Calibrant, by pyFAI's name."""
    wavelength: float = Field(gt=0)
    """Wavelength in Å."""
    pixel_size: tuple[float, float] = Field()
    """Pixel size (slow, fast) in m."""
    distance: float = Field(gt=0)
    """Approximate distance in m."""
    beam_centre: tuple[float, float] = Field()
    """Approximate beam centre (slow, fast) in pixels."""
    orientation: Literal[1, 2, 3, 4] = 2
    """How the image lies (pyFAI's detector orientation): 2 is an image seen from the sample with its first row at the top."""
    polarization: float = Field(0.99, ge=0, le=1)
    """Fraction of the intensity with the electric vector horizontal."""
    sensor_thickness: float | None = Field(None, gt=0)
    """Thickness of the sensor in m; None: no correction for its efficiency."""
    sensor_attenuation: float | None = Field(None, gt=0)
    """Attenuation coefficient of the sensor in 1/m."""
    max_rings: int = Field(20, ge=2)
    """Rings used at most."""
    mask_image: Path | None = None
    """Mask image: nonzero is bad. Negative pixels are always bad."""
    max_rms: float = Field(0.02, gt=0)
    """Largest rms of observed minus calculated 2θ in degrees that is accepted."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Refine, judge, write."""
    raise SystemExit("filled in below")


if __name__ == "__main__":
    stage.command(main)
