"""Draw planes of the volumes of a scan: along the axes and oblique, skewed cells drawn true."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    volume: Path
    """Any volume on a grid of hkl or of direct space."""


class Outputs(stage.Outputs):
    picture: Path
    """The planes."""


class Settings(stage.Params):
    """What the configuration file sets."""

    hkl: list[str] = Field(["h k 0", "h 0 l", "0 k l", "h h l"])
    """Planes of S(Q), such as `h k 0`, `h h l`, `h k 0.5`, `h -h l`."""
    xyz: list[str] = Field(["x y 0", "x 0 z", "0 y z", "x x z"])
    """Planes of the pair distributions."""


class Params(Settings):
    """Settings and the title."""

    title: str = ""
    """Title of the picture; empty: that of the volume."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Not built yet."""
    raise NotImplementedError


if __name__ == "__main__":
    stage.command(main)
