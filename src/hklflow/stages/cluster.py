"""Find the voxels of S(Q) that change with temperature, and cluster those that change alike.

A voxel changes if its course departs from scale, Debye-Waller factor and thermal diffuse scattering
that is linear in T, beyond noise. The share of false discoveries is limited. Voxels that change are
clustered by the course of their change, whatever its size. Volumes are read in slabs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hklflow.base.axis import Axis
    from hklflow.nexus import OpenVolume
    from hklflow.series.candidates import Read
    from hklflow.series.features import Lattice
    from hklflow.series.find import Trajectories

VERSION = 2

FEWEST = 5
"""Smallest number of scans of a stack that is clustered."""

_PLANES = 16  # that are read at a time: one layer of chunks


class Inputs(stage.Inputs):
    volumes: list[Path]
    """Symmetrised or merged volumes of a parent and its children."""


class Outputs(stage.Outputs):
    clusters: Path
    """Cluster of each voxel on the grid of the volumes, and mean trajectories with errors."""
    picture: Path
    """Picture: mean trajectories, and the clusters on planes of hkl."""
    metrics: Path
    """Numbers of voxels, share of false discoveries, and where each cluster lives."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    run: bool = False
    """True: cluster the voxels of every stack of at least five temperatures. It takes as long as
    reading all volumes twice.
    """
    false_discovery_rate: float = Field(0.01, gt=0, lt=0.5)
    """Largest share of false discoveries among the claimed changes (Benjamini and Hochberg)."""
    thermal_order: int = Field(1, ge=1, le=2)
    """Highest power of T of the thermal diffuse scattering. 2 also allows two-phonon scattering and
    scattering without a Debye-Waller factor, but then a slow change is not noticed.
    """
    relative_error: float = Field(0.02, ge=0, le=0.5)
    """Relative error of S besides the noise, common to neighbouring voxels. Strong reflections
    change from scan to scan by a few percent without a transition. Voxels that are no stronger than
    twice the weak ones at the same |Q| have the scatter that is measured for them, at least a
    quarter of this error.
    """
    min_measured: float = Field(0.8, gt=0, le=1)
    """Smallest share of the temperatures at which a voxel was measured. The coldest and the hottest
    are always needed.
    """
    max_clusters: int = Field(8, ge=1, le=20)
    """Largest number of clusters."""
    min_stability: float = Field(0.8, ge=0, le=1)
    """Smallest adjusted Rand index between clusters that are found in two halves of the data."""
    memory: float = Field(4000.0, gt=0)
    """Memory in MB. If voxels that change do not fit, the most significant ones are kept."""


class Params(Settings):
    """Settings of the stage, and the scans that the tables list."""

    scans: list[str]
    """Names of the scans, in the order of the inputs."""
    temperatures: list[float | None]
    """Temperatures of the scans in K, in the order of the inputs."""
    along: stage.Along = stage.Along()
    """Axis of the series; its values are in the place of temperatures."""
    space_group: str = "P 1"
    """Space group, for the names of points of the zone."""
    title: str = "clusters of S(Q) against temperature"
    """Title of the product and of its picture."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Test all voxels, cluster those that change, describe where the clusters are."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.nexus import clusters as layout
    from hklflow.nexus.stack import doubts_of, in_order
    from hklflow.plots import clusters as pictures
    from hklflow.series import change, features, find
    from hklflow.volumes import extrema
    from hklflow.volumes.planes import metric_of

    members = in_order(inputs.volumes, params.scans, params.temperatures)
    axis = params.along.axis
    _require_course([member.temperature for member in members], axis)
    at = np.array([member.temperature for member in members])
    order = find.pivoted(at)
    sorted_again = np.argsort(order)
    wishes = find.Wishes(
        **params.model_dump(
            include={
                *("thermal_order", "relative_error", "min_measured", "false_discovery_rate"),
                *("max_clusters", "min_stability", "memory"),
            }
        )
    )
    with nexus.open_members(members) as volumes:
        grid, cell = volumes[0].grid, volumes[-1].cell
        operations = extrema.operations_of(_operations(volumes), direct=False)
        metric = metric_of(cell, direct=False)
        found = find.find(
            _reader([volumes[i] for i in order], threads),
            change.Places(grid, metric, operations),
            at[order],
            wishes,
            planes=_PLANES,
            threads=threads,
            progress=stage.progress,
        )
        doubts = doubts_of(members, volumes)
    labels = features.dense(found.index, found.label, grid, operations)
    lattice = _lattice(metric, operations, params.space_group)
    kinds = [features.kinds(labels, i + 1, grid, lattice) for i in range(len(found.size))]
    names = ("mean", "mean_errors", "course", "course_errors")
    curves = {name: getattr(found, name)[:, sorted_again] for name in names}
    metrics = _metrics(found, params, kinds, doubts, at, curves, sorted_again)
    notes = {"kind": "clusters", "operations": operations.tolist(), "metrics": metrics}
    layout.write_clusters(
        outputs.clusters, params.title, grid, np.asarray(cell), labels, at, curves, notes, axis
    )
    stage.write_json(outputs.metrics, metrics)
    picture = pictures.clusters(
        at, curves["mean"], curves["mean_errors"], labels, grid, params.title, axis
    )
    plots.save(picture, outputs.picture)
    for sentence in doubts:
        print(f"warning: {sentence}")
    print(metrics["summary"])


def _require_course(temperatures: "Sequence[float]", axis: "Axis") -> None:
    from hklflow.base.errors import HklflowError

    if len(set(temperatures)) < FEWEST:
        raise HklflowError(
            f"clustering needs {FEWEST} different {axis.plural}, and the stack has "
            f"{len(set(temperatures))}; set `cluster: {{run: false}}`, or add scans"
        )


def _operations(volumes: "Sequence[OpenVolume]") -> Any:
    """Return the operations by which all volumes were symmetrised; None if they were not.

    Raises
    ------
    HklflowError
        If the volumes were symmetrised by different groups.
    """
    from hklflow.base.errors import HklflowError

    found = [volume.notes.get("operations") for volume in volumes]
    for volume, operations in zip(volumes, found, strict=True):
        if operations != found[0]:
            raise HklflowError(
                f"{volume.group.file.filename} was symmetrised by another Laue group than "
                f"{volumes[0].group.file.filename}; set the same `symmetrise: {{symmetry}}` for "
                "all scans of the stack"
            )
    return found[0]


def _reader(volumes: "Sequence[OpenVolume]", threads: int) -> "Read":
    """Return a function that reads data and errors (T, l, k, h) of a part of all volumes."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from hklflow.nexus.chunk_reader import reader

    names = ("data", "data_errors")
    sources = [[reader(volume.group[name]) for volume in volumes] for name in names]

    def read(part: Any) -> Any:
        shape = [s.stop - s.start for s in part.region]
        arrays = [np.empty((len(volumes), *shape), np.float32) for _ in names]

        def fill(job: tuple[int, int]) -> None:
            kind, number = job
            arrays[kind][number] = sources[kind][number][part.region]

        jobs = [(kind, number) for kind in range(len(names)) for number in range(len(volumes))]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, jobs))
        return arrays[0], arrays[1]

    return read


def _lattice(metric: Any, operations: Any, symbol: str) -> "Lattice":
    from hklflow.geometry.symmetry import space_group
    from hklflow.series.features import Lattice

    group = space_group(symbol)
    return Lattice(metric, operations, group.crystal_system, group.centring)


def _metrics(
    found: "Trajectories",
    params: Params,
    kinds: "Sequence[Any]",
    doubts: list[str],
    temperatures: Any,
    curves: dict[str, Any],
    order: Any,
) -> dict[str, Any]:
    """Return numbers and sentences for the page."""
    from dataclasses import asdict

    clusters = [
        {
            "cluster": i + 1,
            "voxels": int(found.size[i]),
            "mean": curves["mean"][i].tolist(),
            "mean_errors": curves["mean_errors"][i].tolist(),
            "course": curves["course"][i].tolist(),
            "course_errors": curves["course_errors"][i].tolist(),
            "where": [asdict(kind) for kind in kinds[i][:20]],
        }
        for i in range(len(found.size))
    ]
    rate = f"{params.false_discovery_rate:.0%}"
    axis = params.along.axis
    smooth = "thermal diffuse scattering"
    if not axis.is_temperature:
        powers = "a straight line" if params.thermal_order == 1 else "a smooth curve"
        smooth = f"{powers} in {axis.symbol}"
    if not len(found.claims.index):
        summary = (
            f"none of {found.claims.tested} independent voxels changes beyond scale, Debye-Waller "
            f"factor and {smooth} (false discovery rate {rate})"
        )
    else:
        summary = (
            f"{len(found.claims.index)} of {found.claims.tested} independent voxels, with their "
            f"neighbours, change beyond scale, Debye-Waller factor and {smooth} "
            f"(false discovery rate {rate}); {len(clusters)} clusters"
        )
        for cluster in clusters:
            summary += f"\ncluster {cluster['cluster']}: {cluster['voxels']} voxels"
            texts = [_sentence(kind) for kind in kinds[cluster["cluster"] - 1][:3]]
            summary += f"; {'; '.join(texts)}" if texts else ""
    warnings = list(doubts)
    if found.left_out:
        warnings.append(
            f"{found.left_out} voxels that change do not fit into {params.memory:g} MB and have no "
            "label; raise `cluster: {memory}`"
        )
    return {
        "summary": summary,
        "independent voxels tested": found.claims.tested,
        "voxels claimed": len(found.claims.index),
        "false discovery rate": params.false_discovery_rate,
        "largest p that is claimed": found.claims.limit,
        "scatter of weak voxels": min(found.thermal.scatter, params.relative_error),
        "excess of chi2 over noise": found.excess.tolist(),
        axis.values: temperatures.tolist(),
        "scale": found.thermal.scale[order].tolist(),
        "B minus its mean (A^2)": found.thermal.b[order].tolist(),
        "bic": [mixture.bic for mixture in found.tried],
        "stability": [mixture.stability for mixture in found.tried],
        "smoothing of labels": asdict(found.smoothing),
        "clusters": clusters,
        "warnings": warnings,
    }


def _sentence(kind: Any) -> str:
    """Return a few words on the features of one kind."""
    name = f" {kind.name}" if kind.name else ""
    along = {"rod": " along ", "sheet": " normal to "}.get(kind.shape, "")
    along += f"[{kind.direction}]" if kind.direction else ("another direction" if along else "")
    place = f" at {kind.place}" if kind.place else ""
    plural = "s" if kind.features > 1 else ""
    return f"{kind.features} {kind.shape}{plural}{along}{place}{name}"


if __name__ == "__main__":
    stage.command(main)
