"""Find the gain of stage high of one ASIC from the photon peaks of fluorescence frames."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hklflow import stage

VERSION = 1
KERNELS = "constants"


class Inputs(stage.Inputs):
    gathered: Path
    """Gathered frames with X-ray fluorescence."""
    dark: Path
    """Constants of the ASIC from the dark runs."""


class Outputs(stage.Outputs):
    constants: Path
    """Constants of the ASIC from fluorescence."""


class Settings(stage.Params):
    energy: float = Field(gt=0)
    """Energy of the fluorescence in keV, the weighted mean of both K-alpha lines: 8.041 for Cu,
    17.444 for Mo.
    """
    beta_energy: float | None = Field(None, gt=0)
    """Energy of K-beta in keV (8.905 for Cu, 19.607 for Mo); None if a foil absorbs K-beta."""
    beta_weight: float | None = Field(None, gt=0, lt=1)
    """Fraction of K-beta photons. None: the fraction is fitted for every pixel; the noise must then
    be below half the distance of the two lines.
    """
    sharing: Literal["even", "cloud"] = "even"
    """Model of charge sharing between two pixels. `even`: all divisions of the charge are equally
    likely. `cloud`: diffused charge, of which one pixel mostly gets nearly all. The right model has
    the smaller `chi2`; the wrong model changes the gain by some tenths of a per cent.
    """
    max_photons: int = Field(2, ge=1, le=5)
    """Number of photons of the last fitted peak, one more than the usual number in a frame."""
    min_photons: float = Field(50.0, gt=0)
    """Smallest number of photons in a fitted spectrum."""
    photons_per_cell: float = Field(400.0, ge=0)
    """Smallest mean number of photons per memory cell and pixel to fit each cell separately. Below
    it, one fit uses the spectra of all memory cells of a pixel.
    """
    min_quality: float = Field(0.2, ge=0, lt=1)
    """Smallest depth of the valley before the one-photon peak, as a fraction of the height of the
    peak.
    """
    max_chi2: float = Field(10.0, gt=1)
    """Largest reduced χ² of an accepted fit."""
    expected_gain: tuple[float, float] | None = None
    """Range in ADU/keV that must contain the median gain of every ASIC; None: no check."""


class Params(Settings):
    memory: float = Field(500.0, gt=0)
    """Memory for the frames, in MB."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Process all memory cells."""
    from hklflow.constants.files import read_part, write_part
    from hklflow.constants.fluorescence import Spectrum, fluorescence
    from hklflow.constants.gathered import open_gathered

    with open_gathered(inputs.gathered) as gathered:
        constants = fluorescence(
            gathered,
            read_part(inputs.dark),
            Spectrum(**params.model_dump(exclude={"memory"})),
            params.memory,
            lambda parts, total: stage.progress(parts, total, "X-rays: parts of memory cells"),
        )
    about = constants.about
    write_part(
        outputs.constants,
        f"fluorescence of module {about['module']}, ASIC {about['asic']} of {about['detector']}",
        constants,
    )


if __name__ == "__main__":
    stage.command(main)
