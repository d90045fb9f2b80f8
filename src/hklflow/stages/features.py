"""Fit the diffuse features of a sample: intensities, positions and correlation lengths.

Each feature of the configuration (a point, rod or sheet) is fitted in the symmetrised volumes of
all scans with a lattice-periodic line shape, averaged over the resolution of Bragg reflections of
the same volume and over the voxels (`series.feature_fit`). The scans of each parent are a series of
their own, because the grids differ.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.nexus import OpenVolume
    from hklflow.orientation.product import Orientation
    from hklflow.quality.feature_words import Course
    from hklflow.series.feature_copies import Axes, Copy, Feature
    from hklflow.series.feature_fit import Fit
    from hklflow.series.features import Lattice
    from hklflow.series.resolution import Resolution

VERSION = 2

Hkl = tuple[float, float, float]

_SEARCHED = 300  # reflections that are tried for the resolution


class Inputs(stage.Inputs):
    volumes: list[Path]
    """Symmetrised volumes of all scans of the sample."""
    orientations: list[Path]
    """Refined orientations of the same scans, in the same order."""
    series: Path
    """Table of the temperature series."""


class Outputs(stage.Outputs):
    table: Path
    """Table of the correlation lengths, tab-separated: one row for each feature, scan and axis."""
    picture: Path
    """Picture: correlation lengths and intensity of each feature against temperature."""
    results: Path
    """Results of all fits, and the findings in sentences with the commands that show them."""


class Definition(stage.Params):
    """A diffuse feature."""

    shape: Literal["point", "rod", "sheet"]
    """Shape of the feature in reciprocal space."""
    point: Hkl
    """A point of the feature, hkl. Equivalent points and lattice translations follow from it."""
    direction: Hkl | None = None
    """Direction of a rod in hkl, or normal [uvw] of a sheet, on which u h + v k + w l is
    constant.
    """
    along: bool = False
    """True: a rod may condense: it also has a width along itself, with the maximum at ``point``."""
    width: float = Field(0.25, gt=0, le=0.5)
    """Half-width of the fitted windows around the feature along h, k, l, in r.l.u. Along the
    directions in which the feature is flat, windows are half a period long.
    """

    @model_validator(mode="after")
    def _direction(self) -> "Definition":
        given = self.direction is not None and any(abs(x) > 1e-6 for x in self.direction)
        if given != (self.shape != "point"):
            what = "needs no" if self.shape == "point" else "needs a"
            raise ValueError(f"a {self.shape} {what} `direction`")
        if self.along and self.shape != "rod":
            raise ValueError(f"a {self.shape} has no `along`; it is for rods")
        return self


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    define: dict[str, Definition] = Field(default_factory=dict)
    """Features that are fitted in all scans of the sample, by name; empty: no feature is fitted."""
    resolution: Hkl | None = None
    """Standard deviations of the Gaussian resolution along h, k, l, in r.l.u. None: measured from
    Bragg reflections of each volume.
    """
    resolution_error: float = Field(0.01, ge=0, le=0.5)
    """Relative standard deviation of the width of the resolution, besides its scatter between
    reflections.
    """
    copies: int = Field(60, ge=1, le=500)
    """Largest number of independent copies of a feature that are fitted, evenly spread over hkl."""
    min_measured: float = Field(0.5, gt=0, le=1)
    """Smallest measured fraction of the window of a copy that is used."""
    relative_error: float = Field(0.02, ge=0, le=0.5)
    """Relative error of S of each voxel besides its noise."""
    scale_error: float = Field(0.01, ge=0, le=0.5)
    """Relative standard deviation of an intensity beyond counts and the error of the scale."""


class Params(Settings):
    """Settings of the stage only."""


@dataclass(frozen=True)
class _Fitted:
    """Fits of one feature in the scans of one parent, from cold to warm."""

    parent: str
    feature: "Feature"
    axes: "Axes"
    copies: list["Copy"]
    scans: list[str]
    course: "Course"
    resolutions: list["Resolution"]


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Fit the features in the volumes of each parent; only windows are in memory."""
    from hklflow import plots
    from hklflow.base.errors import HklflowError
    from hklflow.quality.feature_words import sentences
    from hklflow.stage import series_scales

    scans = [stage.read_orientation(path) for path in inputs.orientations]
    if len(inputs.volumes) != len(scans):
        raise HklflowError(
            f"{len(inputs.volumes)} volumes and {len(scans)} orientations; give one volume for "
            "each orientation, in the same order"
        )
    scales = series_scales.scales(inputs.series)
    fits: list[_Fitted] = []
    notes: list[str] = []
    for parent in dict.fromkeys(scan.parent for scan in scans):
        rows = [i for i, x in enumerate(scans) if x.parent == parent and x.temperature is not None]
        mine = sorted(rows, key=lambda i: (scans[i].temperature or 0.0, scans[i].scan))
        if mine:
            files = [inputs.volumes[i] for i in mine]
            fits += _fits([scans[i] for i in mine], files, scales, params)
            names = [scans[i].scan for i in mine]
            notes += series_scales.notes(scales, names, parent, "the intensities of features")
    sample = scans[0].sample
    _write_table(outputs.table, fits)
    courses = [fit.course for fit in fits]
    plots.save(plots.diffuse_features(courses, f"{sample}: diffuse features"), outputs.picture)
    # Outputs have other names until the job is done: the series is in their folder.
    results = inputs.series.with_name("features.json")
    findings = [
        {"sentence": sentence, "command": f"hklflow show {results}/features/{i}"}
        for i, fit in enumerate(fits)
        for sentence in sentences(fit.course)
    ]
    findings += [{"sentence": note, "command": f"hklflow show {results}"} for note in notes]
    lines = [row["sentence"] for row in findings]
    stage.write_json(
        outputs.results,
        {
            "sample": sample,
            "sentences": lines,
            "findings": findings,
            "features": [_record(fit) for fit in fits],
        },
    )
    print("\n".join([f"{sample}: {len(params.define)} diffuse features", *lines]))


def _fits(
    scans: Sequence["Orientation"],
    files: Sequence[Path],
    scales: Mapping[str, tuple[float, float, float]],
    params: Params,
) -> list[_Fitted]:
    """Return the fits of all features in the scans of one parent."""
    import numpy as np

    from hklflow import nexus
    from hklflow.nexus.stack import in_order
    from hklflow.series.features import Lattice
    from hklflow.volumes import extrema
    from hklflow.volumes.planes import metric_of

    names = [scan.scan for scan in scans]
    members = in_order(files, names, [scan.temperature for scan in scans])
    with nexus.open_members(members) as volumes:
        operations = extrema.operations_of(_operations(volumes), direct=False)
        group = scans[0].group
        cell = np.asarray(scans[0].cell)
        metric = metric_of(cell, direct=False)
        lattice = Lattice(metric, operations, group.crystal_system, group.centring)
        resolutions = [_resolution(volume, lattice, cell, params) for volume in volumes]
        return [
            _fitted(name, scans, volumes, lattice, resolutions, scales, params)
            for name in stage.progress(params.define, len(params.define), "features")
        ]


def _operations(volumes: Sequence["OpenVolume"]) -> Any:
    """Return the operations by which all volumes were symmetrised.

    Raises
    ------
    HklflowError
        If a volume was not symmetrised, or by another group.
    """
    from hklflow.base.errors import HklflowError

    found = [volume.notes.get("operations") for volume in volumes]
    for volume, operations in zip(volumes, found, strict=True):
        name = volume.group.file.filename
        if operations is None:
            raise HklflowError(f"{name} is not symmetrised; give the volumes of `symmetrise`")
        if operations != found[0]:
            raise HklflowError(
                f"{name} was symmetrised by another Laue group than "
                f"{volumes[0].group.file.filename}; set the same `symmetrise: {{symmetry}}` for "
                "all scans of the sample"
            )
    return found[0]


def _reader(volume: "OpenVolume") -> Callable[[Any], tuple[Any, Any]]:
    def read(region: Any) -> tuple[Any, Any]:
        return volume.group["data"][region], volume.group["data_errors"][region]

    return read


def _voxel_reader(volume: "OpenVolume") -> Callable[[Any], tuple[Any, Any, Any, Any]]:
    import numpy as np

    from hklflow import nexus

    def read(region: Any) -> tuple[Any, Any, Any, Any]:
        data, sigma = volume.group["data"][region], volume.group["data_errors"][region]
        counts, norm = nexus.read_box(volume, region)
        per_unit = np.divide(1.0, norm, out=np.full(norm.shape, np.nan), where=norm > 0)
        # Read noise and a subtracted background.
        extra = (volume.variance(region) - counts) * per_unit**2
        return data, sigma, per_unit, extra

    return read


def _resolution(
    volume: "OpenVolume", lattice: "Lattice", cell: Any, params: Params
) -> "Resolution":
    """Return the given resolution, or that of the Bragg reflections of a volume."""
    import itertools

    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.series import resolution
    from hklflow.series.feature_voxels import orbit_keys

    grid = volume.grid
    if params.resolution is not None:
        return resolution.Resolution(np.diag(np.square(params.resolution)), 0.0, 0.0, 0)
    spans = [np.arange(np.ceil(a[0]), np.floor(a[-1]) + 1) for a in map(grid.axis, range(3))]
    nodes = np.array([x for x in itertools.product(*spans) if any(x)])
    nodes = nodes[lattice.allowed(nodes)]
    # One of each set of equivalents, spread over all |Q|.
    _, first = np.unique(orbit_keys(nodes, lattice.operations).round(6), return_index=True)
    nodes = nodes[first]
    q2 = np.einsum("ni,ij,nj->n", nodes, lattice.metric, nodes)
    nodes = nodes[np.argsort(q2, kind="stable")]
    if len(nodes) > _SEARCHED:
        nodes = nodes[np.linspace(0, len(nodes) - 1, _SEARCHED).astype(int)]
    found = resolution.measured(_reader(volume), grid, lattice.metric, list(nodes), 0.3, 60)
    if found is None:
        raise HklflowError(
            f"{volume.group.file.filename}: fewer than three Bragg reflections are strong enough "
            "to measure the resolution; give `features: {resolution: [h, k, l]}`"
        )
    return found


def _fitted(
    name: str,
    scans: Sequence["Orientation"],
    volumes: Sequence["OpenVolume"],
    lattice: "Lattice",
    resolutions: list["Resolution"],
    scales: Mapping[str, tuple[float, float, float]],
    params: Params,
) -> _Fitted:
    """Return the fits of one feature in all volumes, with the same copies."""
    import numpy as np

    from hklflow.quality.feature_words import Course
    from hklflow.series import feature_copies, feature_fit, feature_voxels
    from hklflow.series.line_shape import Smearing

    definition = params.define[name]
    feature = feature_copies.Feature(
        name,
        definition.shape,
        np.asarray(definition.point),
        None if definition.direction is None else np.asarray(definition.direction),
        definition.along,
        definition.width,
    )
    axes = feature_copies.axes_of(feature, lattice)
    grid = volumes[0].grid
    widest = max(resolutions, key=lambda x: float(np.trace(x.covariance)))
    smearings = [Smearing(x.covariance, grid.step) for x in resolutions]
    bragg = feature_voxels.bragg_distance(
        Smearing(widest.covariance, grid.step), widest.widening(lattice.metric), lattice
    )
    every = feature_copies.copies(feature, grid, lattice, bragg)
    independent = feature_voxels.distinct(every, lattice.operations)

    def voxels(i: int, copies: Sequence["Copy"]) -> "feature_fit.Voxels | None":
        return feature_voxels.gather(
            copies,
            grid,
            _voxel_reader(volumes[i]),
            resolutions[i].widening(lattice.metric),
            lattice.operations,
            params.min_measured,
        )

    # Copies that all scans measured; otherwise mean intensities could not be compared.
    measured = [voxels(i, independent) for i in range(len(volumes))]
    keys = [set() if x is None else {copy.key for copy in x.copies} for x in measured]
    whole = set.intersection(*keys)
    chosen = feature_voxels.spread([x for x in independent if x.key in whole], params.copies)
    fits: list[Fit | None] = []
    for i in range(len(volumes)):
        found = voxels(i, chosen)
        fits.append(
            None
            if found is None
            else feature_fit.fit(
                found,
                axes,
                smearings[i],
                params.relative_error,
                float(np.hypot(resolutions[i].error, params.resolution_error)),
            )
        )
    columns = np.array([scales[scan.scan] for scan in scans])
    relative = np.hypot(columns[:, 1], params.scale_error)
    pairs = [
        (np.nan, np.nan) if fit is None else (fit.intensity, fit.intensity_sigma) for fit in fits
    ]
    intensity, sigma = np.array(pairs).T / columns[:, 0]
    course = Course(
        name=_words(name, definition),
        axes=axes.names,
        temperatures=[scan.temperature or 0.0 for scan in scans],
        fits=fits,
        intensity=intensity.tolist(),
        intensity_sigma=np.hypot(sigma, relative * np.nan_to_num(intensity)).tolist(),
    )
    names = [scan.scan for scan in scans]
    return _Fitted(scans[0].parent, feature, axes, chosen, names, course, resolutions)


def _words(name: str, definition: Definition) -> str:
    """Return a feature in words, such as "rods along [0 0 1] at (1/2, 1/2, 0)"."""
    from hklflow.quality.remedies import vector_text

    along = ""
    if definition.direction is not None:
        vector = " ".join(f"{x:g}" for x in definition.direction)
        along = f" along [{vector}]" if definition.shape == "rod" else f" normal to [{vector}]"
    place = vector_text(definition.point)
    return f"{name}, {definition.shape}s{along} at {place}"


def _write_table(path: Path, fits: Sequence[_Fitted]) -> None:
    import csv

    columns = ["parent", "feature", "scan", "temperature", "seen", "intensity", "intensity_sigma"]
    columns += ["dh", "dk", "dl", "dh_sigma", "dk_sigma", "dl_sigma"]
    columns += ["axis", "xi", "xi_68_low", "xi_68_high", "xi_95_low", "xi_95_high", "determined"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        for fit in fits:
            course = fit.course
            for i, one in enumerate(course.fits):
                if one is None:
                    continue
                values = (course.temperatures[i], course.intensity[i], course.intensity_sigma[i])
                t, size, sigma = (f"{x:.6g}" for x in values)
                row = [fit.parent, fit.feature.name, fit.scans[i], t, one.seen, size, sigma]
                row += [f"{x:.6g}" for x in (*one.shift, *one.shift_sigma)]
                for axis, xi, known in zip(fit.axes.names, one.xi, one.determined, strict=False):
                    numbers = [f"{x:.6g}" for x in (xi.value, *xi.inner, *xi.outer)]
                    writer.writerow([*row, axis, *numbers, known])
                if not one.seen:
                    writer.writerow([*row, "", *["nan"] * 5, ""])


def _record(fit: _Fitted) -> dict[str, Any]:
    """Return the numbers of one feature for the JSON file."""
    import numpy as np

    course = fit.course
    rows: list[dict[str, Any]] = []
    for i, one in enumerate(course.fits):
        row: dict[str, Any] = {"scan": fit.scans[i], "temperature (K)": course.temperatures[i]}
        if one is not None:
            row |= {
                "seen": one.seen,
                "chi2 that the feature takes away": one.gain,
                "intensity": course.intensity[i],
                "intensity sigma": course.intensity_sigma[i],
                "intensity of each copy, without scale": one.amplitude,
                "shift (r.l.u.)": one.shift,
                "shift sigma (r.l.u.)": one.shift_sigma,
                "correlation lengths (Å)": {
                    axis: {
                        "value": xi.value,
                        "sigma": xi.sigma,
                        "68 %": xi.inner,
                        "95 %": xi.outer,
                        "limits (95 %, one-sided)": xi.limit,
                        "determined": known,
                    }
                    for axis, xi, known in zip(fit.axes.names, one.xi, one.determined, strict=False)
                },
                "covariance of ln xi": one.covariance,
                "line shape": one.model,
                "chi2 of the other line shape, more": one.other,
                "chi2 / degrees of freedom": one.chi2 / one.freedom,
                "factor of all variances": one.inflation,
            }
        resolution = fit.resolutions[i]
        row["resolution at Q = 0, sigma (r.l.u.)"] = np.sqrt(np.diag(resolution.covariance))
        row["resolution, growth with Q^2 (Å^2)"] = resolution.growth
        row["resolution, relative scatter"] = resolution.scatter
        row["resolution, reflections"] = resolution.reflections
        rows.append(row)
    return {
        "name": fit.feature.name,
        "parent": fit.parent,
        "shape": fit.feature.shape,
        "point": fit.feature.point,
        "direction": fit.feature.direction,
        "copies": [copy.centre for copy in fit.copies],
        "scans": rows,
    }


if __name__ == "__main__":
    stage.command(main)
