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

    slab: int = Field(32, ge=1)
    """Planes of the volume held in memory at a time."""


class Params(Settings):
    """Settings and the title."""

    title: str = "S(Q)"
    """Title of the volume and its pictures."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Add, divide, judge: slab by slab, so that volumes may be larger than memory."""
    from contextlib import ExitStack

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.core import estimator
    from hklflow.errors import HklflowError

    with ExitStack() as stack:
        volumes = [stack.enter_context(nexus.open_volume(path)) for path in inputs.volumes]
        reference = volumes[0]
        for path, volume in zip(inputs.volumes, volumes, strict=True):
            if not volume.grid.same_as(reference.grid):
                raise HklflowError(
                    f"{path} has another grid ({volume.grid.to_dict()}) than {inputs.volumes[0]} "
                    f"({reference.grid.to_dict()}); transform them with the same parent"
                )
        grid = reference.grid
        planes, measured, total, chi2, dof = grid.array_shape[0], 0, 0.0, 0.0, 0
        dtype = np.uint64 if all(v.counts_are_whole for v in volumes) else np.float64
        writer = stack.enter_context(
            nexus.VolumeWriter(outputs.volume, grid, reference.cell, params.title, dtype, True)
        )
        starts = range(0, planes, params.slab)
        for first in stage.progress(starts, len(starts), "merged slabs"):
            last = min(first + params.slab, planes)
            # The errors look at neighbours, so planes on both sides are needed too.
            low, high = max(first - params.pool, 0), min(last + params.pool, planes)
            slabs = [volume.slab(low, high) for volume in volumes]
            own = slice(first - low, last - low)
            part, terms = estimator.disagreement_sums([(c[own], m[own]) for c, m in slabs])
            chi2, dof = chi2 + part, dof + terms
            counts = np.sum([c for c, _ in slabs], axis=0)
            norm = np.sum([m for _, m in slabs], axis=0)
            data, errors = estimator.intensity(counts, norm, params.pool)
            writer.write(
                first,
                data=data[own],
                data_errors=errors[own],
                counts=counts[own],
                norm=norm[own],
            )
            measured += int((norm[own] > 0).sum())
            total += float(counts[own].sum())
        coverage = measured / int(np.prod(grid.shape))
        metrics = {
            "rotations": len(volumes),
            "voxels measured": measured,
            "voxels in the grid": int(np.prod(grid.shape)),
            "coverage": coverage,
            "mean counts per measured voxel": total / max(measured, 1),
            "rotations' reduced chi2": chi2 / dof if dof else None,
            "rotations' degrees of freedom": dof,
        }
        writer.note(
            {
                "estimator": "data = counts / norm (Poisson maximum likelihood)",
                "errors": (
                    "sqrt(expected counts) / norm, expected from the voxel and its neighbours "
                    f"within {params.pool} voxels (hklflow.core.estimator)"
                ),
                "files": [str(path) for path in inputs.volumes],
                **metrics,
            }
        )
    with nexus.open_volume(outputs.volume) as merged:
        group, cell = merged.group, merged.cell
        plots.save(plots.slices(grid, cell, group["data"], params.title), outputs.slices)
        picture = plots.coverage(
            grid, cell, group["norm"], group["data"], group["data_errors"], params.title
        )
        plots.save(picture, outputs.coverage)
    stage.write_json(outputs.metrics, metrics)
    agreement = f"{chi2 / dof:.3f}" if dof else "not known"
    print(
        f"merged {len(volumes)} rotations: {100 * coverage:.1f} % of voxels measured, "
        f"reduced chi2 between rotations {agreement}"
    )


if __name__ == "__main__":
    stage.command(main)
