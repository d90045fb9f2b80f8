"""Merge the rotations of one scan: add counts and norm, then derive S(Q) and its errors."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    volumes: list[Path]
    """Volumes of the rotations."""


class Outputs(stage.Outputs):
    volume: Path
    """S(Q) with errors, counts and norm."""
    slices: Path
    """Picture: hk0, h0l and 0kl slices."""
    coverage: Path
    """Picture: norm, relative error and coverage."""
    metrics: Path
    """Coverage and agreement of the rotations."""


class Settings(stage.Params):
    """What the configuration file sets."""

    pool: int = Field(2, ge=0, le=5)
    """Half-width in voxels of the neighbourhood whose pooled rate enters the error bars; 0: the
    voxel alone."""


class Params(Settings):
    """Settings and the title."""

    title: str = "S(Q)"
    """Title of the volume and its pictures."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Add, divide, judge."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.core import estimator
    from hklflow.errors import HklflowError

    volumes = [nexus.read_volume(path) for path in inputs.volumes]
    reference = volumes[0]
    for path, volume in zip(inputs.volumes, volumes, strict=True):
        if not volume.grid.same_as(reference.grid):
            raise HklflowError(
                f"{path} has another grid ({volume.grid.to_dict()}) than {inputs.volumes[0]} "
                f"({reference.grid.to_dict()}); transform them with the same parent"
            )
    chi2, dof = estimator.disagreement([(v.counts, v.norm) for v in volumes])
    counts = np.sum([v.counts for v in volumes], axis=0)
    norm = np.sum([v.norm for v in volumes], axis=0)
    # The norm's unit is arbitrary; a median of 1 count in S for one unit of typical norm
    # would depend on the data, so S keeps the unit of counts per unit of norm.
    data, errors = estimator.intensity(counts, norm, params.pool)
    measured = norm > 0
    metrics = {
        "rotations": len(volumes),
        "voxels measured": int(measured.sum()),
        "voxels in the grid": int(measured.size),
        "coverage": float(measured.mean()),
        "mean counts per measured voxel": float(counts[measured].mean()) if measured.any() else 0.0,
        "rotations' reduced chi2": chi2,
        "rotations' degrees of freedom": dof,
    }
    notes = {
        "estimator": "data = counts / norm (Poisson maximum likelihood)",
        "errors": (
            f"sqrt(expected counts) / norm, expected from the voxel and its neighbours within "
            f"{params.pool} voxels (hklflow.core.estimator)"
        ),
        "files": [str(path) for path in inputs.volumes],
        **metrics,
    }
    volume = nexus.Volume(reference.grid, reference.cell, counts, norm, data, errors, notes)
    nexus.write_volume(outputs.volume, volume, params.title)
    plots.save(plots.slices(reference.grid, reference.cell, data, params.title), outputs.slices)
    picture = plots.coverage(reference.grid, reference.cell, norm, data, errors, params.title)
    plots.save(picture, outputs.coverage)
    stage.write_json(outputs.metrics, metrics)
    print(
        f"merged {len(volumes)} rotations: {100 * metrics['coverage']:.1f} % of voxels measured, "
        f"reduced chi2 between rotations {chi2:.3f}"
    )


if __name__ == "__main__":
    stage.command(main)
