"""One page for each sample: every step's picture, the figures and the gates, in one HTML file."""

from pathlib import Path

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    pictures: list[Path]
    """Pictures of all steps, by their names in the results folder."""
    figures: list[Path]
    """Metrics of all steps as JSON, by their names in the results folder."""


class Outputs(stage.Outputs):
    page: Path
    """The page: self-contained, opens in any browser without a network."""


class Params(stage.Params):
    sample: str
    """Name of the sample."""
    results: str
    """Folder of the results, to which the names of pictures and figures are relative."""
    scans: list[str]
    """Names of the scans, cold to warm."""
    temperatures: list[float]
    """Their temperatures in K; NaN: not known."""
    title: str = ""
    """Title of the page."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Not built yet."""
    raise NotImplementedError


if __name__ == "__main__":
    stage.command(main)
