"""Stack 3D-ΔPDFs by temperature as one 4-D array, and find the vectors at which they change.

All lattice vectors near the origin, and the vectors of the configuration, are compared along
temperature, with the covariance that the stage `pdf` stored (`volumes.pdf_changes`).

Vectors that this stage chooses are voxel centres, with the value and the error of the voxel; see
`stage.pdf_series` for others.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.base.axis import Axis
    from hklflow.nexus import OpenVolume
    from hklflow.nexus.stack import Member
    from hklflow.quality.pdf_words import Course

VERSION = 8

_NEAREST = 1.0  # Å; smallest distance between two atoms

# The transform of a ball of radius q_max has zeros at 4.49, 7.73 and 10.90 / q_max; its ripple is
# at most 9 % of the peak, and lower with a taper.
_PEAK, _RIPPLE, _HIGHEST = 4.49, 10.90, 0.15


class Inputs(stage.Inputs):
    volumes: list[Path]
    """3D-ΔPDFs of the scans."""
    series: Path
    """Table of the temperature series of the sample, with the scales of the scans."""


class Outputs(stage.Outputs):
    stack: Path
    """4-D array of links, and the 3D-ΔPDF at chosen vectors."""
    table: Path
    """3D-ΔPDF at chosen vectors, tab-separated, with one row for each vector and scan."""
    picture: Path
    """3D-ΔPDF at chosen vectors against temperature."""
    changes: Path
    """3D-ΔPDF at lattice vectors and given vectors, with errors and differences to the parent,
    tab-separated: one row for each vector and scan.
    """
    changes_picture: Path
    """Vectors that change most against temperature, and the significance of all against |r|."""
    results: Path
    """Changes of all vectors, and the findings in sentences with the commands that show them."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    vectors: stage.Vectors = Field(default_factory=list)
    """Interatomic vectors in fractions of a, b, c. If none are given, the strongest local extrema
    are plotted. Given vectors are also tested for a change.
    """
    unit: Literal["cell", "angstrom"] = "cell"
    """Unit of the components of `vectors` along a, b, c: fractions of the cell, or Å in the cell of
    the parent. In both cases a vector is the same fraction of the cell at all temperatures.
    """
    number: int = Field(6, ge=1, le=100)
    """Number of vectors that are chosen if none are given. They are extrema of the error-weighted
    mean of |ΔPDF| over the scans, distinct by symmetry, without the origin and its ripple.
    """
    lattice_vectors: int = Field(120, ge=0, le=300)
    """Number of lattice vectors that are tested for a change with temperature, the shortest first,
    one of each set of equivalents.
    """
    false_discovery_rate: float = Field(0.05, gt=0, lt=0.5)
    """Largest share of false discoveries among the vectors that change (Benjamini and Hochberg)."""
    scale_error: float = Field(0.01, ge=0, le=0.5)
    """Relative standard deviation of the scale of a scan beyond its error in the temperature
    series.
    """


class Params(Settings):
    """Settings of the stage, and the scans that the tables list."""

    scans: list[str]
    """Names of the scans, in the order of the inputs."""
    temperatures: list[float | None]
    """Temperatures of the scans in K, in the order of the inputs."""
    along: stage.Along = stage.Along()
    """Axis of the series; its values are in the place of temperatures."""
    parent: str
    """Name of the parent, to which the scales are relative."""
    title: str = "3D-ΔPDF against temperature"
    """Title of the stack and of its picture."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Choose vectors, and link the volumes; volumes are read only to choose vectors."""
    import csv

    import numpy as np

    from hklflow import plots
    from hklflow.nexus import stack
    from hklflow.nexus.stack_pdf import ARRAYS, write_stack_pdf
    from hklflow.plots.pdf_changes import pdf_changes
    from hklflow.quality.pdf_words import sentences
    from hklflow.stage import pdf_series, series_scales

    axis = params.along.axis
    members = stack.in_order(inputs.volumes, params.scans, params.temperatures)
    scales = series_scales.scales(inputs.series)
    with stack.open_members(members, "pdf", ARRAYS) as volumes:
        named = _in_cells(params, members, volumes)
        chosen = named or _strongest(volumes, [m.path for m in members], params.number)
        found = pdf_series.values_at(chosen, volumes)
        write_stack_pdf(outputs.stack, params.title, members, volumes, found, axis)
        course = pdf_series.course(
            members,
            volumes,
            scales,
            params.parent,
            pdf_series.Settings(
                np.array(named, dtype=np.float64).reshape(-1, 3),
                params.lattice_vectors,
                params.false_discovery_rate,
                params.scale_error,
            ),
        )
        doubts = stack.doubts_of(members, volumes)
    with outputs.table.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["scan", axis.name, "x", "y", "z", "length", "value", "value_sigma"])
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
        axis,
    )
    plots.save(picture, outputs.picture)
    _write_changes(outputs.changes, course, axis)
    plots.save(pdf_changes(course, params.title, axis), outputs.changes_picture)
    lines = sentences(course, axis)
    scans = [member.scan for member in members]
    lines += series_scales.notes(scales, scans, params.parent, "the 3D-ΔPDF")
    # Outputs have other names until the job is done; the stack is next to the series.
    name = inputs.volumes[0].with_suffix(".json").name.replace("delta_pdf", "pdf_series")
    results = inputs.series.parent.with_name(f"stack_{params.parent}") / name
    record = _record(course, lines, results, axis)
    stage.write_json(outputs.results, record | {"doubts": doubts})
    for sentence in doubts:
        print(f"warning: {sentence}")
    print(
        f"{len(members)} pair distributions from {axis.at(members[0].temperature)} to "
        f"{axis.at(members[-1].temperature)}, {len(found.xyz)} vectors"
    )
    print("\n".join(lines))


def _in_cells(
    params: Params, members: "list[Member]", volumes: "list[OpenVolume]"
) -> list[tuple[float, float, float]]:
    """Return the vectors of the configuration in unit cells."""
    if params.unit == "cell":
        return list(params.vectors)
    # The parent, or the warmest scan if the parent has no temperature.
    cells = {member.scan: volume.cell for member, volume in zip(members, volumes, strict=True)}
    a, b, c = cells.get(params.parent, volumes[-1].cell)[:3]
    return [(x / a, y / b, z / c) for x, y, z in params.vectors]


def _write_changes(path: Path, course: "Course", axis: "Axis") -> None:
    """Write one row for each vector and scan."""
    import csv

    import numpy as np

    columns = ["x", "y", "z", "scan", axis.name, "length", "value", "value_sigma"]
    columns += ["difference", "difference_sigma", "departure", "departure_sigma", "changes"]
    numbers = {int(scan): i for i, scan in enumerate(course.used)}
    found = course.changes
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        for i, xyz in enumerate(course.vectors):
            for j, scan in enumerate(course.scans):
                row = [course.length[j, i], course.value[j, i], course.sigma[j, i]]
                row += [course.difference[j, i], course.difference_sigma[j, i]]
                own = numbers.get(j)
                verdict, beyond = "not tested", [np.nan, np.nan]
                if found is not None and own is not None and course.tested[i]:
                    verdict = "yes" if found.changed[i] else "no"
                    beyond = [found.departure[own, i], found.sigma[own, i]]
                row += beyond
                texts = [f"{x:.6g}" for x in row]
                place = [f"{x:.6g}" for x in xyz]
                at = f"{course.temperature[j]:.6g}"
                writer.writerow([*place, scan, at, *texts, verdict])


def _record(course: "Course", lines: list[str], path: Path, axis: "Axis") -> dict[str, Any]:
    """Return the results for the JSON file, whose path will be ``path``."""
    from hklflow.quality.pdf_words import strongest, way

    found = course.changes
    used = [course.scans[i] for i in course.used]
    command = f"hklflow show {path}"
    record: dict[str, Any] = {
        "sentences": lines,
        "findings": [{"sentence": text, "command": command} for text in lines],
        "vectors are": "fractions of a, b, c, so that they follow the lattice",
        "scans": course.scans,
        axis.values: course.temperature,
        "reference": course.scans[course.reference],
        "compared scans": used,
        "vectors tested": int(course.tested.sum()) if found is not None else 0,
        "false discovery rate": course.rate,
        "relative errors of the scales": course.scale_sigma,
        "factor by the Debye-Waller factor of the reflections, at most": course.heat,
        "changes": [],
    }
    if found is None:
        return record
    t = course.temperature[course.used]
    record |= {
        "common factor": found.factor,
        "common factor sigma": found.factor_sigma,
        "common factor fitted": found.fitted,
        "common factor without that of the reflections": found.free,
        "excess of chi2 over the errors": found.excess,
        "largest p that is claimed": found.limit,
    }
    for i in strongest(course):
        how = way(t, found.departure[:, i], found.sigma[:, i])
        record["changes"].append(
            {
                "vector": course.vectors[i],
                "length (Å)": course.length[course.reference, i],
                "p": found.p[i],
                "chi2 of constancy": found.chi2[i],
                "degrees of freedom": len(t) - 1,
                "values without what is common": found.departure[:, i],
                "sigma": found.sigma[:, i],
                "change on cooling": how.change,
                "change sigma": how.sigma,
                "monotone": how.monotone,
                "step between (K)": how.step,
                "straight line": how.linear,
            }
        )
    return record


def _strongest(
    volumes: "list[OpenVolume]", paths: list[Path], number: int
) -> list[tuple[float, float, float]]:
    """Return the strongest distinct extrema, positive or negative."""
    import numpy as np

    from hklflow import nexus
    from hklflow.base.errors import HklflowError
    from hklflow.geometry import lattice
    from hklflow.geometry.grid import Grid
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
    # Pair distributions are even: the half z >= 0 is enough, with the planes next to it.
    n, middle = grid.array_shape[0], grid.array_shape[0] // 2
    start = max(middle - 1, 0) // nexus.PLANES * nexus.PLANES
    origin = grid.first + np.array([0.0, 0.0, start * grid.step[2]])
    half = Grid(origin, grid.step, (*grid.shape[:2], n - start))
    strongest = extrema.Strongest(half)
    readers = [[SlabReader(volume.group[name]) for name in ARRAYS] for volume in volumes]
    starts = range(start, n, nexus.PLANES)
    for first in stage.progress(starts, len(starts), "slabs"):
        last = min(first + nexus.PLANES, n)
        top, weights = np.zeros((2, last - first, *grid.array_shape[1:]))
        for data, sigma in readers:
            extrema_kernels.add_weighted(
                data.read_again(first, last), sigma.read_again(first, last), top, weights
            )
        extrema_kernels.divide(top, weights)
        strongest.add(top)
    points, strength = strongest.points()
    upper = points[:, 2] > -0.5 * grid.step[2]
    points, strength = points[upper], strength[upper]
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
