"""3D-ΔPDFs along temperature as one 4-D array, and chosen vectors against temperature."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    volumes: list[Path]
    """3D-ΔPDFs of the scans."""


class Outputs(stage.Outputs):
    stack: Path
    """The 4-D array, made of links, and the ΔPDF at chosen vectors."""
    table: Path
    """ΔPDF at chosen vectors, tab-separated: one row for each vector and scan."""
    picture: Path
    """ΔPDF at chosen vectors against temperature."""


class Settings(stage.Params):
    """What the configuration file sets."""

    vectors: stage.Vectors = Field(default_factory=list)
    """Interatomic vectors in fractions of a, b, c; empty: the strongest local extrema."""


class Params(Settings):
    """Settings, and what the tables say of the scans."""

    scans: list[str]
    """Names of the scans, in the order of the inputs."""
    temperatures: list[float | None]
    """Temperatures of the scans in K, in the order of the inputs."""
    title: str = "3D-ΔPDF against temperature"
    """Title of the stack and its picture."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Not built yet."""
    raise NotImplementedError


if __name__ == "__main__":
    stage.command(main)
