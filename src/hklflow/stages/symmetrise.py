"""Symmetrise S(Q) by the Laue group: equivalent voxels' counts and norms are added."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    volumes: list[Path]
    """Counts and norm: of each rotation, so that they can be compared, or merged."""
    orientation: Path
    """Refined orientation of the scan: its space group and cell."""


class Outputs(stage.Outputs):
    symmetrised: Path
    """S(Q) with errors, counts and norm, and maps of multiplicity and disagreement."""
    picture: Path
    """Slices, multiplicity, disagreement, and agreement of halves by shell."""
    metrics: Path
    """Agreement of equivalents, rejected outliers, coverage."""


class Settings(stage.Params):
    """What the configuration file sets."""

    symmetry: str | None = None
    """Space group whose Laue group is applied, in the setting of the cell; None: that of the
    orientation. `P 1` stands for inversion alone."""
    n_sigma: float = Field(6.0, ge=3.0)
    """A measurement of a voxel further than this from its equivalents is left out."""
    tolerance: float = Field(0.1, ge=0, le=1)
    """Relative disagreement of equivalents, beside the noise, that is allowed."""
    pool: int = Field(2, ge=0, le=5)
    """Half-width in voxels of the neighbourhood whose pooled rate enters the error bars; 0: the
    voxel alone."""
    memory: float = Field(8000.0, gt=0)
    """MB for the volumes; what needs more is kept in a file beside the output while it is made."""


class Params(Settings):
    """Settings and the title."""

    title: str = "S(Q)"
    """Title of the volume and its pictures."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Not built yet."""
    raise NotImplementedError


if __name__ == "__main__":
    stage.command(main)
