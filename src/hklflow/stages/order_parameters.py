"""Fit the order parameters of a sample, and collect its findings.

For each propagation vector that the gates found in a scan, and for each vector of the
configuration, the intensity of its reflections is measured in all volumes, above and below the
transition, and the curve against temperature is fitted (`bragg.order_parameter`). The position of
the vector is fitted in each scan (`bragg.satellites`); if it moves, the boxes follow it. The arms
of its star are compared (`bragg.star_arms`). Intensities are divided by the scale of their scan to
its parent, with the Debye-Waller difference. The scans of each parent are a series of their own,
because the grids differ. Along another axis than temperature (field, pressure, strain, time) its
values are in the place of temperatures, and reflections may appear on either side
(`bragg.order_along`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.base.axis import Axis
    from hklflow.bragg.order_counts import Counts
    from hklflow.bragg.order_parameter import Order
    from hklflow.bragg.satellite_course import Course
    from hklflow.bragg.star_arms import Arms
    from hklflow.geometry.grid import Grid
    from hklflow.nexus import OpenVolume
    from hklflow.orientation.product import Orientation
    from hklflow.volumes.satellite_voxels import Place, Read
    from hklflow.volumes.star_boxes import Counted

VERSION = 9

Hkl = tuple[float, float, float]

_ALIKE = 0.04  # vectors at a smaller distance are the same vector


class Inputs(stage.Inputs):
    volumes: list[Path]
    """Merged volumes of all scans of the sample."""
    orientations: list[Path]
    """Refined orientations of the same scans, in the same order."""
    series: Path
    """Table of the temperature series."""
    findings: Path
    """Findings of the temperature series."""
    features: list[Path] = Field(default_factory=list)
    """Results of the diffuse features, for the findings; empty if none are defined."""


class Outputs(stage.Outputs):
    table: Path
    """Table of intensities and positions, tab-separated: one row for each vector and scan."""
    picture: Path
    """Picture: intensities of each vector against temperature with the fitted curve, and its
    position if symmetry does not fix it.
    """
    orders: Path
    """Results of all fits, and the findings in sentences with the commands that show them."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    vectors: stage.Vectors = Field(default_factory=list)
    """Propagation vectors in hkl of the parent, in addition to those that the gates find."""
    box: Hkl = (0.12, 0.12, 0.12)
    """Half-width of the integration box along h, k, l, in r.l.u."""
    shell: int = Field(2, ge=1, le=20)
    """Thickness in voxels of the shell around the box, in which the background is measured."""
    min_measured: float = Field(0.95, gt=0, le=1)
    """Smallest measured fraction of a box that is used; the shell needs half this fraction."""
    reflections: int = Field(200, ge=1, le=5000)
    """Largest number of reflections of a vector that are integrated."""
    temperature_sigma: float = Field(0.0, ge=0, le=50)
    """Standard deviation of the temperature of a scan in K, from scan to scan, for scans without
    their own in the column `temperature_error`. Not for another axis of the series.
    """
    scale_error: float = Field(0.01, ge=0, le=0.5)
    """Relative standard deviation of an intensity beyond counts and the error of the scale."""

    @field_validator("vectors", mode="after")
    @classmethod
    def _fractional(cls, value: list[Hkl]) -> list[Hkl]:
        for vector in value:
            if all(abs(x - round(x)) < _ALIKE for x in vector):
                raise ValueError(
                    f"{vector} is a reflection of the parent, not a propagation vector; follow "
                    "single reflections with `stack: reflections`"
                )
        return value


class Params(Settings):
    """Settings, and the axis of the series."""

    along: stage.Along = stage.Along()
    """Axis of the series, with the values and errors of the scans."""


@dataclass(frozen=True)
class _Fitted:
    """Fit of one vector of one parent."""

    parent: str
    vector: Hkl
    origin: str
    scans: list[str]
    reflections: int
    counts: "Counts"
    order: "Order"
    course: "Course"
    arms: "Arms | None"


@dataclass(frozen=True)
class _Measured:
    """Reflections of one vector in the scans of one parent."""

    counts: "Counts"
    reflections: int
    course: "Course"
    arms: "Arms | None"


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Integrate and fit the vectors of each parent; only boxes are in memory."""
    from hklflow import plots
    from hklflow.quality import satellite_words
    from hklflow.quality.order_words import sentence
    from hklflow.quality.remedies import vector_text
    from hklflow.stage import series_scales

    axis = params.along.axis
    scans = params.along.read(inputs.orientations)
    _require_volumes(inputs, scans)
    scales = series_scales.scales(inputs.series)
    fits: list[_Fitted] = []
    notes: list[str] = []
    for parent in dict.fromkeys(scan.parent for scan in scans):
        rows = [i for i, x in enumerate(scans) if x.parent == parent and x.temperature is not None]
        mine = sorted(rows, key=lambda i: (scans[i].temperature or 0.0, scans[i].scan))
        files = [inputs.volumes[i] for i in mine]
        found, problems = _fits([scans[i] for i in mine], files, scales, params)
        fits += found
        notes += problems
    _write_table(outputs.table, fits, axis)
    sample = scans[0].sample
    panels = [(vector_text(fit.vector), fit.counts, fit.order, fit.course) for fit in fits]
    figure = plots.order_parameters(panels, f"{sample}: order parameters", axis)
    plots.save(figure, outputs.picture)
    earlier = stage.read_json(inputs.findings)
    # Outputs have other names until the job is done: the series is in their folder.
    orders = inputs.series.with_name("order.json")
    cell = f"hklflow show {inputs.series.with_suffix('.nxs')} --plot"
    shown = [
        (
            sentence(vector_text(fit.vector), fit.order, fit.scans, axis),
            f"hklflow show {orders}/vectors/{i}",
        )
        for i, fit in enumerate(fits)
    ]
    for i, fit in enumerate(fits):
        lines = [
            satellite_words.position(fit.course, axis),
            satellite_words.arms(fit.vector, fit.arms, axis) if fit.arms is not None else None,
        ]
        shown += [(text, f"hklflow show {orders}/vectors/{i}") for text in lines if text]
    shown += [(text, f"hklflow show {orders}") for text in notes]
    for path in inputs.features:
        rows = stage.read_json(path)["findings"]
        shown += [(row["sentence"], row["command"]) for row in rows]
    facts = [text for row in earlier["expansions"] for text in row["sentences"]]
    facts += _agreements(earlier["expansions"], fits, axis)
    commands = earlier.get("commands", {})
    others = [(text, commands.get(text, cell)) for text in (*facts, *earlier["sentences"])]
    together = [*shown, *others]
    stage.write_json(
        outputs.orders,
        {
            "sample": sample,
            "sentences": [text for text, _ in shown],
            "findings": [{"sentence": text, "command": line} for text, line in together],
            "vectors": [_record(fit, axis) for fit in fits],
        },
    )
    print("\n".join([f"{sample}: {len(fits)} propagation vectors", *(text for text, _ in shown)]))


def _write_table(path: Path, fits: Sequence[_Fitted], axis: "Axis") -> None:
    import csv

    import numpy as np

    columns = ["parent", "h", "k", "l", "scan", axis.name, "intensity", "intensity_sigma"]
    columns += ["q_h", "q_k", "q_l", "q_h_sigma", "q_k_sigma", "q_l_sigma"]
    columns += ["arms", "arms_sigma"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        for fit in fits:
            vectors, sigma = _positions(fit.course)
            none = np.full((0, len(fit.scans)), np.nan)
            arms = (none, none) if fit.arms is None else (fit.arms.scan_shares, fit.arms.scan_sigma)
            for i, scan in enumerate(fit.scans):
                counts = (fit.counts.temperature, fit.counts.intensity, fit.counts.sigma)
                row = [fit.parent, *(f"{x:.6g}" for x in fit.vector), scan]
                row += [f"{x[i]:.6g}" for x in counts]
                row += [f"{x:.6g}" for x in (*vectors[i], *sigma[i])]
                row += [" ".join(f"{x:.4g}" for x in part[:, i]) for part in arms]
                writer.writerow(row)


def _positions(course: "Course") -> tuple[Any, Any]:
    """Return the vector (n, 3) of each scan and its errors; NaN where it is not measured."""
    import numpy as np

    vectors, sigma = np.full((2, len(course.positions), 3), np.nan)
    if not course.star.basis.size:  # symmetry fixes all components
        return np.tile(course.star.vector, (len(vectors), 1)), np.zeros_like(vectors)
    for i in course.seen:
        position = course.positions[i]
        assert position is not None
        vectors[i], sigma[i] = position.vector, course.sigma(i)
    return vectors, sigma


def _agreements(
    expansions: Sequence[Mapping[str, Any]], fits: Sequence[_Fitted], axis: "Axis"
) -> list[str]:
    """Compare the transition of the cell with the order parameters of the same parent."""
    from hklflow.bragg.order_parameter import Interval
    from hklflow.quality.expansion_words import agreement
    from hklflow.quality.remedies import vector_text

    lines = []
    for row in expansions:
        if (cell := row[axis.onset_key]) is None:
            continue
        t_c = Interval.from_dict(cell)
        lines += [
            agreement(t_c, vector_text(fit.vector), fit.order.t_c, axis)
            for fit in fits
            if fit.parent == row["parent"] and fit.order.t_c is not None
        ]
    return lines


def _require_volumes(inputs: Inputs, scans: Sequence["Orientation"]) -> None:
    from hklflow.base.errors import HklflowError

    if len(inputs.volumes) != len(scans):
        raise HklflowError(
            f"{len(inputs.volumes)} volumes and {len(scans)} orientations; give one volume for "
            "each orientation, in the same order"
        )


def _fits(
    scans: Sequence["Orientation"],
    files: Sequence[Path],
    scales: Mapping[str, tuple[float, float, float]],
    params: Params,
) -> tuple[list[_Fitted], list[str]]:
    """Return the fits of one parent, from cold to warm, and what could not be fitted."""
    from hklflow import nexus
    from hklflow.bragg import order_along, order_parameter
    from hklflow.nexus.stack import in_order
    from hklflow.quality.remedies import vector_text
    from hklflow.stage import series_scales

    vectors = _vectors(scans, params)
    if not vectors:
        return [], []
    parent, names = scans[0].parent, [scan.scan for scan in scans]
    temperatures = {scan.temperature for scan in scans}
    if len(temperatures) < order_parameter.FEWEST:
        texts = ", ".join(vector_text(vector) for vector in vectors)
        return [], [
            f"no order parameter for {texts}: parent {parent} has {len(temperatures)} "
            f"{params.along.axis.plural}, and {order_parameter.FEWEST} are needed"
        ]
    members = in_order(files, names, [scan.temperature for scan in scans])
    fits: list[_Fitted] = []
    notes = series_scales.notes(scales, names, parent, "the order parameters")
    with nexus.open_members(members) as volumes:
        for vector, origin in vectors.items():
            found = _measured(vector, scans, volumes, scales, params)
            if found is None:
                notes.append(
                    f"no order parameter for {vector_text(vector)}: no reflection is measured in "
                    f"all {len(scans)} scans of parent {parent}; reduce `order_parameters: box`"
                )
                continue
            order = order_along.fit(found.counts, params.along.axis)
            fits.append(
                _Fitted(
                    parent,
                    vector,
                    origin,
                    names,
                    found.reflections,
                    found.counts,
                    order,
                    found.course,
                    found.arms,
                )
            )
    return fits, notes


def _vectors(scans: Sequence["Orientation"], params: Params) -> dict[Hkl, str]:
    """Return the distinct vectors of the configuration and of the gates, with their origin."""
    import numpy as np

    from hklflow.volumes.star_boxes import star

    candidates = [(vector, "configuration") for vector in params.vectors]
    for scan in scans:  # from cold to warm
        figures = [*scan.figures.get("offsets", []), *scan.figures.get("incommensurate", [])]
        candidates += [(tuple(x["vector"]), f"gates of {scan.scan}") for x in figures]
    chosen: dict[Hkl, str] = {}
    arms: list[Any] = []
    for vector, origin in candidates:
        away = [
            np.abs(np.subtract(vector, arm) - np.rint(np.subtract(vector, arm))) for arm in arms
        ]
        if all(x.max() >= _ALIKE for x in away):
            chosen[vector] = origin
            arms += star(vector, scans[0].group.laue_operations)
    return chosen


def _measured(
    vector: Hkl,
    scans: Sequence["Orientation"],
    volumes: Sequence["OpenVolume"],
    scales: Mapping[str, tuple[float, float, float]],
    params: Params,
) -> _Measured | None:
    """Return counts, position and arms of the reflections of a vector; None if none is measured."""
    import numpy as np

    from hklflow.bragg import satellites, star_arms
    from hklflow.series.features import Lattice
    from hklflow.volumes import satellite_voxels, star_boxes
    from hklflow.volumes.planes import metric_of

    grid, group = volumes[0].grid, scans[0].group
    operations = group.laue_operations.astype(np.float64)
    arms = star_boxes.star(vector, operations)
    boxes = star_boxes.places(grid, arms, params.box, params.shell, params.reflections)
    reads = [_reader(volume) for volume in volumes]
    counted = star_boxes.table(
        [[box] * len(volumes) for _, box in boxes], reads, params.min_measured
    ).settled()
    chosen = counted.chosen()
    if not chosen.any():
        return None
    counted = counted.select(chosen)
    points = [point for (point, _), use in zip(boxes, chosen, strict=True) if use]
    hkl = np.array(points)
    lattice = Lattice(
        metric_of(np.asarray(scans[0].cell), direct=False),
        operations,
        group.crystal_system,
        group.centring,
    )
    star = satellite_voxels.star_of(vector, operations, lattice.allowed)
    placed = satellite_voxels.places_of(star, points, params.box, lattice.allowed)
    places, rows = [place for _, place in placed], [row for row, _ in placed]
    temperatures = np.array([scan.temperature for scan in scans], dtype=np.float64)
    course = satellites.course_of(
        temperatures,
        grid,
        reads,
        star,
        places,
        counted.select(rows),
        params.box,
        params.shell,
        params.min_measured,
    )
    if course.moves:
        followed = _followed(course, places, grid, reads, params)
        if followed is not None:
            counted, places = followed
            hkl = np.array([place.hkl(star, course.mean) for place in places])
            rows = list(range(len(places)))
    scale = _scale(hkl, scans, scales)
    compared = star_arms.compared(
        star,
        course.mean,
        operations,
        places,
        counted.select(rows),
        scale[rows],
        satellites.reach(params.box, params.shell, grid.step),
        np.isin(np.arange(len(scans)), course.seen),
        params.scale_error,
        lattice.allowed,
    )
    return _Measured(_counts(counted, scale, scans, scales, params), len(hkl), course, compared)


def _reader(volume: "OpenVolume") -> "Read":
    from hklflow import nexus

    def read(region: Any) -> tuple[Any, Any, Any]:
        return *nexus.read_box(volume, region), volume.variance(region)

    return read


def _followed(
    course: "Course",
    places: Sequence["Place"],
    grid: "Grid",
    reads: Sequence["Read"],
    params: Params,
) -> "tuple[Counted, list[Place]] | None":
    """Return the counts in boxes that follow the vector; None if no reflection has all boxes."""
    from hklflow.volumes import boxes, star_boxes

    moved = [
        [
            boxes.box_at(grid, place.hkl(course.star, vector), params.box, params.shell)
            for vector in course.vectors
        ]
        for place in places
    ]
    counted = star_boxes.table(moved, reads, params.min_measured).settled()
    chosen = counted.chosen()
    if not chosen.any():
        return None
    kept = [place for place, use in zip(places, chosen, strict=True) if use]
    return counted.select(chosen), kept


def _scale(
    hkl: Any, scans: Sequence["Orientation"], scales: Mapping[str, tuple[float, float, float]]
) -> Any:
    """Return the scale (r, n) of reflections (r, 3) in each scan, with the Debye-Waller factor."""
    import numpy as np

    from hklflow.geometry import lattice

    s = 1 / (2 * lattice.d_spacing(scans[0].cell, hkl))
    scale, _, b = np.array([scales[scan.scan] for scan in scans]).T
    return scale * np.exp(-2 * b[None, :] * s[:, None] ** 2)


def _counts(
    counted: "Counted",
    scale: Any,
    scans: Sequence["Orientation"],
    scales: Mapping[str, tuple[float, float, float]],
    params: Params,
) -> "Counts":
    """Return the sums of all reflections in each scan."""
    import numpy as np

    from hklflow.bragg.order_counts import Counts

    error = np.array([scales[scan.scan][1] for scan in scans])
    roughness = np.sqrt((counted.roughness**2).mean(axis=0) / len(counted.roughness))
    return Counts(
        temperature=np.array([scan.temperature for scan in scans], dtype=np.float64),
        temperature_sigma=_errors(scans, params),
        counts=counted.counts.sum(axis=0),
        factor=(scale * counted.factor).sum(axis=0),
        # The extrapolation of a curved background can be negative where there are few counts.
        background=np.maximum(counted.background.sum(axis=0), 0.5),
        background_var=counted.background_var.sum(axis=0),
        scale_error=np.sqrt(error**2 + params.scale_error**2 + roughness**2),
    )


def _errors(scans: Sequence["Orientation"], params: Params) -> Any:
    """Return the standard deviations of the values of the scans along the axis."""
    import numpy as np

    along = params.along
    usual = params.temperature_sigma if along.axis.is_temperature else 0.0
    return np.array([along.errors.get(scan.scan, usual) for scan in scans], dtype=np.float64)


def _record(fit: _Fitted, axis: "Axis") -> dict[str, Any]:
    """Return the numbers of one fit for the JSON file."""
    from dataclasses import asdict

    order = fit.order

    return {
        "parent": fit.parent,
        "vector": fit.vector,
        "from": fit.origin,
        "reflections": fit.reflections,
        "answer": order.answer,
        "ln likelihood ratio of a transition": order.ratio,
        axis.onset_key: order.t_c and order.t_c.to_dict(),
        **({} if axis.is_temperature or order.t_c is None else {"appears": _side(order)}),
        "exponent of the intensity": order.exponent and order.exponent.to_dict(),
        f"covariance of {axis.onset} and exponent": order.covariance,
        "order": order.kind,
        "ln likelihood ratio of first order": order.kind_ratio,
        f"mean intensity {'above' if order.above else 'below'} {axis.onset}": order.cold,
        f"mean intensity {'below' if order.above else 'above'} {axis.onset}": order.warm,
        "limit of the intensity that appears": order.limit,
        f"fitted between ({axis.unit})": order.fitted,
        "bad scans": [fit.scans[i] for i in order.bad],
        "most likely shape": asdict(order.shape),
        "position": _position_record(fit, axis),
        "arms": fit.arms and _arms_record(fit.arms, axis),
    }


def _side(order: "Order") -> str:
    return "above" if order.above else "below"


def _position_record(fit: _Fitted, axis: "Axis") -> dict[str, Any]:
    course = fit.course
    vectors, sigma = _positions(course)
    free = bool(course.star.basis.size)
    return {
        "free directions": course.star.basis.T,
        "moves": course.moves,
        "ln likelihood ratio of a move": course.ratio if free else None,
        f"constant below ({axis.unit})": course.locked and course.locked.to_dict(),
        "locks in at": course.commensurate,
        "limit of the displacement (95 %)": course.limit if course.moves is not None else None,
        "mean vector": course.mean,
        "mean vector sigma": course.mean_sigma,
        "scans": [
            {
                "scan": scan,
                "vector": vectors[i],
                "sigma": sigma[i],
                "of the curve": course.vectors[i],
                "errors enlarged by": position.enlarged,
                "intensity over sigma": position.significance,
            }
            for i, (scan, position) in enumerate(zip(fit.scans, course.positions, strict=True))
            if position is not None and position.seen
        ],
    }


def _arms_record(arms: "Arms", axis: "Axis") -> dict[str, Any]:
    return {
        "vectors": arms.vectors,
        "shares": arms.shares,
        "sigma": arms.sigma,
        "relative scatter of reflections": arms.scatter,
        "equal": arms.equal,
        f"depend on {axis.name}": arms.changes,
    }


if __name__ == "__main__":
    stage.command(main)
