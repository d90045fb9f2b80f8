"""Transform S(Q) to the pair distribution in direct space: 3D-ΔPDF, or the total PDF."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    filled: Path
    """S(Q) without Bragg reflections."""
    symmetrised: Path | None = None
    """Symmetrised S(Q), to put back what was punched: the total PDF; None: the 3D-ΔPDF."""


class Outputs(stage.Outputs):
    pdf: Path
    """Pair distribution with errors on the axes of the direct cell."""
    picture: Path
    """Slices."""
    metrics: Path
    """Resolution, scale, largest features."""


class Settings(stage.Params):
    """What the configuration file sets."""

    memory: float = Field(8000.0, gt=0)
    """MB for the volumes; what needs more is kept in a file beside the output while it is made."""


class Params(Settings):
    """Settings and the title."""

    title: str = "3D-ΔPDF"
    """Title of the volume and its pictures."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Not built yet."""
    raise NotImplementedError


if __name__ == "__main__":
    stage.command(main)
