"""Difference of S(Q) and of the 3D-ΔPDF between a temperature and a reference."""

from pathlib import Path

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    symmetrised: Path
    """Symmetrised S(Q) of the scan."""
    reference: Path
    """Symmetrised S(Q) of the reference."""
    delta_pdf: Path
    """3D-ΔPDF of the scan."""
    reference_pdf: Path
    """3D-ΔPDF of the reference."""


class Outputs(stage.Outputs):
    difference: Path
    """S(Q) minus that of the reference, with errors."""
    pdf_difference: Path
    """3D-ΔPDF minus that of the reference, with errors."""
    picture: Path
    """Slices of both."""
    metrics: Path
    """How large and how significant the differences are."""


class Settings(stage.Params):
    """What the configuration file sets."""

    subtract: str | None = None
    """Name of the scan that is subtracted; None: the parent."""


class Params(Settings):
    """Settings and the title."""

    title: str = "difference"
    """Title of the volumes and their pictures."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Not built yet."""
    raise NotImplementedError


if __name__ == "__main__":
    stage.command(main)
