"""Stack 3D-ΔPDFs by temperature as one 4-D array, and plot chosen vectors against temperature.

The value at a vector is interpolated linearly between the voxels around it. Vectors that this stage
chooses are voxel centres, with the value and the error of the voxel. For other vectors, σ is the
weighted mean of the σ of the voxels. The true error may be smaller: the noise of neighbouring
voxels is correlated over the resolution, and the correlations are not stored. Values are not
averaged over the resolution, because the error of a mean would need these correlations, and because
a voxel is about as large as the resolution.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.nexus import OpenVolume
    from hklflow.nexus.stack_pdf import Vectors

VERSION = 4

_NEAREST = 1.0  # Å; smallest distance between two atoms

# The transform of a ball of radius q_max has zeros at 4.49, 7.73 and 10.90 / q_max; its ripple is
# at most 9 % of the peak, and lower with a taper.
_PEAK, _RIPPLE, _HIGHEST = 4.49, 10.90, 0.15


class Inputs(stage.Inputs):
    volumes: list[Path]
    """3D-ΔPDFs of the scans."""


class Outputs(stage.Outputs):
    stack: Path
    """4-D array of links, and the 3D-ΔPDF at chosen vectors."""
    table: Path
    """3D-ΔPDF at chosen vectors, tab-separated, with one row for each vector and scan."""
    picture: Path
    """3D-ΔPDF at chosen vectors against temperature."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    vectors: stage.Vectors = Field(default_factory=list)
    """Interatomic vectors in fractions of a, b, c. If none are given, the strongest local extrema
    are used.
    """
    number: int = Field(6, ge=1, le=100)
    """Number of vectors that are chosen if none are given. They are extrema of the error-weighted
    mean of |ΔPDF| over the scans, distinct by symmetry, without the origin and its ripple.
    """


class Params(Settings):
    """Settings of the stage, and the scans that the tables list."""

    scans: list[str]
    """Names of the scans, in the order of the inputs."""
    temperatures: list[float | None]
    """Temperatures of the scans in K, in the order of the inputs."""
    title: str = "3D-ΔPDF against temperature"
    """Title of the stack and of its picture."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Choose vectors, and link the volumes; volumes are read only to choose vectors."""
    import csv

    from hklflow import plots
    from hklflow.nexus import stack
    from hklflow.nexus.stack_pdf import ARRAYS, write_stack_pdf

    members = stack.in_order(inputs.volumes, params.scans, params.temperatures)
    with stack.open_members(members, "pdf", ARRAYS) as volumes:
        chosen = params.vectors or _strongest(volumes, [m.path for m in members], params.number)
        found = _values(chosen, volumes)
        write_stack_pdf(outputs.stack, params.title, members, volumes, found)
        for sentence in stack.doubts_of(members, volumes):
            print(f"warning: {sentence}")
    with outputs.table.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["scan", "temperature", "x", "y", "z", "length", "value", "value_sigma"])
        for i, xyz in enumerate(found.xyz):
            for j, member in enumerate(members):
                own = (found.length[i, j], found.value[i, j], found.sigma[i, j])
                numbers = [f"{x:.6g}" for x in (member.temperature, *xyz, *own)]
                writer.writerow([member.scan, *numbers])
    picture = plots.intensities(
        [member.temperature for member in members],
        found.xyz,
        found.value,
        found.sigma,
        params.title,
        "3D-ΔPDF (S per Å³)",
    )
    plots.save(picture, outputs.picture)
    print(
        f"{len(members)} pair distributions from {members[0].temperature:g} K to "
        f"{members[-1].temperature:g} K, {len(found.xyz)} vectors"
    )


def _values(chosen: Sequence[tuple[float, float, float]], volumes: "list[OpenVolume]") -> "Vectors":
    """Return the 3D-ΔPDF at vectors; see the docstring of this module."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.geometry import lattice
    from hklflow.nexus.stack_pdf import Vectors
    from hklflow.volumes import extrema

    grid = volumes[0].grid
    xyz = np.array(chosen, dtype=np.float64).reshape(-1, 3)
    length, value, sigma = np.empty((3, len(xyz), len(volumes)))
    metrics = [lattice.metric(volume.cell) for volume in volumes]
    for i, vector in enumerate(xyz):
        around = extrema.trilinear(grid, vector)
        if around is None:
            limits = ", ".join(f"{grid.axis(j)[0]:g} to {grid.axis(j)[-1]:g}" for j in range(3))
            raise HklflowError(
                f"vectors: {' '.join(f'{x:g}' for x in vector)} is outside the pair "
                f"distributions ({limits}); remove this vector, or transform with finer steps of "
                "hkl, which extends the pair distributions"
            )
        region, weights = around
        for j, volume in enumerate(volumes):
            length[i, j] = np.sqrt(vector @ metrics[j] @ vector)
            value[i, j] = np.sum(weights * volume.group["data"][region])
            sigma[i, j] = np.sum(weights * volume.group["data_errors"][region])
    return Vectors(xyz, length, value, sigma)


def _strongest(
    volumes: "list[OpenVolume]", paths: list[Path], number: int
) -> list[tuple[float, float, float]]:
    """Return the strongest distinct extrema, positive or negative."""
    import numpy as np

    from hklflow import nexus
    from hklflow.base.errors import HklflowError
    from hklflow.geometry import lattice
    from hklflow.nexus.slabs import SlabReader
    from hklflow.nexus.stack_pdf import ARRAYS
    from hklflow.volumes import extrema, extrema_kernels

    for path, volume in zip(paths, volumes, strict=True):
        if "q_max" not in volume.notes:
            raise HklflowError(
                f"{path} has no q_max, so that ripple cannot be distinguished from peaks; make "
                "it again with the stage pdf, or give `vectors`"
            )
    q_max = min(float(volume.notes["q_max"]) for volume in volumes)
    grid, metric = volumes[0].grid, lattice.metric(volumes[0].cell)
    strongest = extrema.Strongest(grid)
    readers = [[SlabReader(volume.group[name]) for name in ARRAYS] for volume in volumes]
    starts = range(0, grid.array_shape[0], nexus.PLANES)
    for first in stage.progress(starts, len(starts), "slabs"):
        last = min(first + nexus.PLANES, grid.array_shape[0])
        top, weights = np.zeros((2, last - first, *grid.array_shape[1:]))
        for data, sigma in readers:
            extrema_kernels.add_weighted(
                data.read(first, last), sigma.read(first, last), top, weights
            )
        strongest.add(np.divide(top, weights, out=np.zeros_like(top), where=weights > 0))
    points, strength = strongest.points()
    length = np.sqrt(np.einsum("ni,ij,nj->n", points, metric, points))
    near = length < max(_NEAREST, _PEAK / q_max)
    # The origin is the first point, so that its ripple is left out, too.
    origin = strength[near].max(initial=0.0)
    points = np.concatenate([np.zeros((1, 3)), points[~near]])
    strength = np.concatenate([[origin], strength[~near]])
    laue = volumes[0].notes.get("operations")
    if laue is None:
        print(
            "warning: the pair distributions have no symmetry operations; only x and -x are "
            "equivalent"
        )
    operations = extrema.operations_of(laue or [np.eye(3), -np.eye(3)], direct=True)
    chosen = extrema.distinct(
        points,
        strength,
        number + 1,
        operations,
        metric,
        _PEAK / q_max,
        (_RIPPLE / q_max, _HIGHEST),
    )
    plain = [extrema.simplest(point, operations, grid) for point in points[chosen[1:]]]
    return [(float(x), float(y), float(z)) for x, y, z in plain]


if __name__ == "__main__":
    stage.command(main)
