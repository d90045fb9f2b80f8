"""Stack the merged volumes of a parent and its children by temperature; integrate reflections.

The stack is virtual: one four-dimensional NXdata links to the arrays of the volumes and takes no
space. Scans are in ascending order of temperature. Scans at the same temperature are in the order
of their names; no scan is left out or averaged.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.geometry.grid import Grid
    from hklflow.nexus import OpenVolume
    from hklflow.volumes import boxes

VERSION = 4

Hkl = tuple[float, float, float]


class Inputs(stage.Inputs):
    volumes: list[Path]
    """Merged volumes of a parent and its children."""


class Outputs(stage.Outputs):
    stack: Path
    """S(Q), errors, counts and norm against temperature, and the intensities of reflections."""
    table: Path
    """Table of the intensities of reflections, tab-separated."""
    picture: Path
    """Picture: intensities of reflections against temperature."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    reflections: stage.Vectors = Field(default_factory=list)
    """Points hkl, also fractional, whose intensity is integrated. If none are given, the integer
    hkl that are strongest in the volume of the hottest scan and distinct by symmetry.
    """
    number: int = Field(6, ge=1, le=100)
    """Number of reflections that are chosen if none are given."""
    box: Hkl = (0.2, 0.2, 0.2)
    """Half-width of the integration box along h, k, l, in r.l.u. A box should extend to at least
    four standard deviations of the reflections: tails outside the box are lost, and tails in the
    shell count as background.
    """
    shell: int = Field(2, ge=1, le=20)
    """Thickness in voxels of the shell around the box, in which the background is measured."""
    min_measured: float = Field(0.95, gt=0, le=1)
    """Smallest measured fraction of a box that gives an intensity; the shell needs half this
    fraction. Unmeasured voxels of the box count as background.
    """


class Params(Settings):
    """Settings of the stage, and the scans that the tables list."""

    scans: list[str]
    """Names of the scans, in the order of the inputs."""
    temperatures: list[float | None]
    """Temperatures of the scans in K, in the order of the inputs."""
    along: stage.Along = stage.Along()
    """Axis of the series; its values are in the place of temperatures."""
    space_group: str = "P 1"
    """Space group, to choose reflections that are distinct by symmetry."""
    title: str = "S(Q) against temperature"
    """Title of the stack and of its picture."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Integrate reflections, and link the volumes; only boxes or a few planes are in memory."""
    import csv

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.nexus.stack import doubts_of, in_order
    from hklflow.volumes import boxes

    members = in_order(inputs.volumes, params.scans, params.temperatures)
    with nexus.open_members(members) as volumes:
        grid = volumes[0].grid
        if params.reflections:
            chosen, places = _given(grid, params)
        else:
            chosen, places = _strongest(grid, volumes, params)
        values = np.array(
            [
                [
                    boxes.integrate(
                        box,
                        *nexus.read_box(volume, box.region),
                        params.min_measured,
                        volume.variance(box.region) if volume.has_variance else None,
                    )
                    for volume in volumes
                ]
                for box in places
            ]
        ).reshape(len(places), len(volumes), 2)
        intensities = nexus.Intensities(
            np.array(chosen, dtype=np.float64).reshape(-1, 3), values[..., 0], values[..., 1]
        )
        axis = params.along.axis
        nexus.write_stack(outputs.stack, params.title, members, volumes, intensities, axis)
        doubts = doubts_of(members, volumes)
    with outputs.table.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["scan", axis.name, "h", "k", "l", "intensity", "intensity_sigma"])
        for hkl, row in zip(chosen, values, strict=True):
            for member, pair in zip(members, row, strict=True):
                numbers = [f"{x:.6g}" for x in (member.temperature, *hkl, *pair)]
                writer.writerow([member.scan, *numbers])
    picture = plots.intensities(
        [member.temperature for member in members],
        intensities.hkl,
        intensities.intensity,
        intensities.sigma,
        params.title,
        axis=axis,
    )
    plots.save(picture, outputs.picture)
    for sentence in doubts:
        print(f"warning: {sentence}")
    missing = int(np.isnan(intensities.intensity).sum())
    print(
        f"{len(members)} volumes from {axis.at(members[0].temperature)} to "
        f"{axis.at(members[-1].temperature)}, {len(chosen)} reflections"
        + (f"; {missing} of {values[..., 0].size} intensities not measured" if missing else "")
    )


def _given(grid: "Grid", params: Params) -> tuple[list[Hkl], list["boxes.Box"]]:
    """Return the reflections of the settings, and their boxes."""
    from hklflow.base.errors import HklflowError
    from hklflow.volumes import boxes

    places = []
    for hkl in params.reflections:
        box = boxes.box_at(grid, hkl, params.box, params.shell)
        if box is None:
            limits = ", ".join(f"{grid.axis(i)[0]:g} to {grid.axis(i)[-1]:g}" for i in range(3))
            raise HklflowError(
                f"reflections: the box of {params.box} r.l.u. around {hkl}, with a shell of "
                f"{params.shell} voxels, is not inside the grid ({limits}) or holds no voxel "
                "centre; remove this reflection, or change `box` and `shell`"
            )
        places.append(box)
    return params.reflections, places


def _strongest(
    grid: "Grid", volumes: Sequence["OpenVolume"], params: Params
) -> tuple[list[Hkl], list["boxes.Box"]]:
    """Return the strongest integer reflections of the hottest scan, one of each set of mates.

    The strength of a set is the mean over its measured mates. The strongest mate is not chosen,
    because noise would influence the choice. The chosen mate is the one with the most even norm in
    the hottest scan. All scans must have measured it, and its norm must be at least half of the
    largest norm.
    """
    import itertools

    import numpy as np

    from hklflow import nexus
    from hklflow.geometry import symmetry
    from hklflow.volumes import boxes

    hottest = volumes[-1]
    operations = symmetry.space_group(params.space_group).laue_operations
    whole = [np.arange(np.ceil(a[0]), np.floor(a[-1]) + 1) for a in map(grid.axis, range(3))]
    mates: dict[tuple[int, ...], list[tuple[boxes.Sums, Hkl, boxes.Box]]] = {}
    for l in whole[2]:  # noqa: E741
        slab = None
        for h, k in itertools.product(whole[0], whole[1]):
            box = boxes.box_at(grid, (h, k, l), params.box, params.shell)
            if box is None or not (h or k or l):
                continue
            if slab is None:  # all h, k need the same planes
                slab = hottest.slab(box.region[0].start, box.region[0].stop)
            counts, norm = (array[:, *box.region[1:]] for array in slab)
            found = boxes.sums(box, counts, norm, params.min_measured)
            if not np.isnan(found.intensity):
                hkl = (float(h), float(k), float(l))
                key = max(map(tuple, (operations @ np.array(hkl)).astype(int).tolist()))
                mates.setdefault(key, []).append((found, hkl, box))
    if not mates:
        # With a 3-D mask or few frames, all boxes may be unmeasured; the stack is made
        # nevertheless.
        print(
            "warning: no integer hkl of the hottest scan has a measured box; reduce `box` or "
            "`min_measured`, or give `reflections`"
        )
    strength = {
        key: float(np.mean([found.intensity for found, _, _ in members]))
        for key, members in mates.items()
    }

    def measured(box: boxes.Box) -> bool:
        parts = (nexus.read_box(volume, box.region) for volume in volumes[:-1])
        found = (boxes.sums(box, *part, params.min_measured) for part in parts)
        return not any(np.isnan(f.intensity) for f in found)

    chosen = []
    for key in sorted(strength, key=lambda k: -strength[k])[: params.number]:
        longest = max(found.norm for found, _, _ in mates[key])
        order = sorted(mates[key], key=lambda m: (m[0].norm < 0.5 * longest, m[0].roughness))
        ranked = [(hkl, box) for _, hkl, box in order]
        chosen.append(next((m for m in ranked if measured(m[1])), ranked[0]))
    return [hkl for hkl, _ in chosen], [box for _, box in chosen]


if __name__ == "__main__":
    stage.command(main)
