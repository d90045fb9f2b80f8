"""Punch the Bragg reflections out of S(Q) and fill the holes: what is left is diffuse."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    symmetrised: Path
    """Symmetrised S(Q)."""
    orientation: Path
    """Refined orientation of the scan: its space group and cell."""


class Outputs(stage.Outputs):
    filled: Path
    """S(Q) without Bragg reflections, its errors, and what was punched."""
    picture: Path
    """Slices before and after, and residuals of the fill."""
    metrics: Path
    """Filled fraction, and the fill's residual where the truth is known."""


class Settings(stage.Params):
    """What the configuration file sets."""

    memory: float = Field(8000.0, gt=0)
    """MB for the volumes; what needs more is done in blocks."""


class Params(Settings):
    """Settings and the title."""

    title: str = "S(Q)"
    """Title of the volume and its pictures."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Not built yet."""
    raise NotImplementedError


if __name__ == "__main__":
    stage.command(main)
