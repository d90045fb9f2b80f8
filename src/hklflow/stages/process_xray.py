"""Process the fluorescence frames of one ASIC: the gain of stage high from its photon peaks."""

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
    """Energy of the fluorescence in keV, weighted mean of both K-alpha lines: 8.041 for Cu, 17.444
    for Mo."""
    beta_energy: float | None = Field(None, gt=0)
    """Energy of K-beta in keV (8.905 for Cu, 19.607 for Mo); None: K-beta is filtered by a foil."""
    beta_weight: float | None = Field(None, gt=0, lt=1)
    """Fraction of the photons that are K-beta; None: fitted for every pixel, which needs a noise
    below half the distance of the two lines."""
    sharing: Literal["even", "cloud"] = "even"
    """Model of charge sharing between two pixels. `even`: all parts are equally likely; `cloud`:
    diffused charge (nearly all or nearly none is more likely). The right model has the smaller
    `chi2`; the wrong one changes the gain by some tenths of a per cent."""
    max_photons: int = Field(2, ge=1, le=5)
    """Number of photons of the last fitted peak; one more than a frame usually has."""
    min_photons: float = Field(50.0, gt=0)
    """Least number of photons in a spectrum for a fit."""
    photons_per_cell: float = Field(400.0, ge=0)
    """Least mean number of photons per memory cell and pixel to fit each cell separately; below it,
    the spectra of a pixel's memory cells are fitted as one."""
    min_quality: float = Field(0.2, ge=0, lt=1)
    """Least depth of the valley before the one-photon peak, as a fraction of the peak's height."""
    max_chi2: float = Field(10.0, gt=1)
    """Largest reduced χ² of an accepted fit."""
    expected_gain: tuple[float, float] | None = None
    """Range in ADU/keV in which the median gain of every ASIC must be; None: not checked."""


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
