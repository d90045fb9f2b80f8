"""Process the fluorescence frames of one ASIC: the gain of stage high from its photon peaks."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hklflow import stage

VERSION = 1
KERNELS = "constants"


class Inputs(stage.Inputs):
    gathered: Path
    """Gathered frames with x-ray fluorescence."""
    dark: Path
    """Constants of the ASIC that darks give."""


class Outputs(stage.Outputs):
    constants: Path
    """Constants of the ASIC that fluorescence gives."""


class Settings(stage.Params):
    energy: float = Field(gt=0)
    """Energy of the fluorescence in keV, both K-alpha lines weighted: 8.041 of Cu, 17.444 of Mo."""
    beta_energy: float | None = Field(None, gt=0)
    """Energy of K-beta in keV (8.905 of Cu, 19.607 of Mo); None: a foil filters it."""
    beta_weight: float | None = Field(None, gt=0, lt=1)
    """Fraction of the photons that are K-beta; None: fitted for every pixel, which needs a noise
    below half of the distance of both lines."""
    sharing: Literal["even", "cloud"] = "even"
    """How the charge of a photon between two pixels is shared. `even`: every part is as likely;
    `cloud`: as charge that diffused (nearly all or nearly none is likelier). The right one has the
    smaller `chi2`; by the wrong one the gain is off by some tenths of a per cent."""
    max_photons: int = Field(2, ge=1, le=5)
    """Photons of the last peak that is fitted; one more than a frame usually has."""
    min_photons: float = Field(50.0, gt=0)
    """Least number of photons in a spectrum that is fitted."""
    photons_per_cell: float = Field(400.0, ge=0)
    """Photons of an average memory cell and pixel below which the spectra of all memory cells of a
    pixel are fitted as one."""
    min_quality: float = Field(0.2, ge=0, lt=1)
    """Least depth of the valley before the peak of one photon, as a fraction of the peak."""
    max_chi2: float = Field(10.0, gt=1)
    """Reduced chi square of a fit beyond which the spectrum is something else."""
    expected_gain: tuple[float, float] | None = None
    """Range in ADU/keV where the median gain of every ASIC must be; None: not known."""


class Params(Settings):
    memory: float = Field(500.0, gt=0)
    """Memory for the frames that are worked on at a time, in MB."""


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
            lambda parts, total: stage.progress(parts, total, "x-rays: parts of memory cells"),
        )
    about = constants.about
    write_part(
        outputs.constants,
        f"fluorescence of module {about['module']}, ASIC {about['asic']} of {about['detector']}",
        constants,
    )


if __name__ == "__main__":
    stage.command(main)
