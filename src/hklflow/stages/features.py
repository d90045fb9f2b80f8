"""Fit the diffuse features of a sample: intensities, positions and correlation lengths.

Each feature of the configuration (a point, rod or sheet) is fitted in the symmetrised volumes of
all scans with a lattice-periodic line shape, averaged over the resolution of Bragg reflections of
the same volume and over the voxels (`series.feature_fit`). The scans of each parent are a series of
their own, because the grids differ.

With ``find``, further features are searched in the average over the zones of each volume
(`series.feature_search`), and followed like defined ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.nexus import OpenVolume
    from hklflow.orientation.product import Orientation
    from hklflow.quality.search_words import Sighting
    from hklflow.series.feature_copies import Copy, Feature
    from hklflow.series.feature_fit import Fit
    from hklflow.series.features import Lattice
    from hklflow.series.resolution import Resolution
    from hklflow.series.zone_average import ZoneAverage
    from hklflow.stage.feature_records import Fitted

VERSION = 5

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
    """Features that are fitted in all scans of the sample, by name."""
    find: bool = False
    """True: search also for features that are not defined, in each volume, and fit them in all
    scans. It takes about as long as reading all volumes.
    """
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
    """Settings, and the axis of the series."""

    along: stage.Along = stage.Along()
    """Axis of the series, with the values of the scans."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Fit the features in the volumes of each parent; only windows are in memory."""
    from hklflow import plots
    from hklflow.base.errors import HklflowError
    from hklflow.quality.feature_words import UNCHANGED, sentences
    from hklflow.quality.search_words import sentences as search_sentences
    from hklflow.stage import series_scales
    from hklflow.stage.feature_records import record, write_table

    axis = params.along.axis
    scans = params.along.read(inputs.orientations)
    if len(inputs.volumes) != len(scans):
        raise HklflowError(
            f"{len(inputs.volumes)} volumes and {len(scans)} orientations; give one volume for "
            "each orientation, in the same order"
        )
    scales = series_scales.scales(inputs.series)
    fits: list[Fitted] = []
    notes: list[str] = []
    sightings: list[Sighting] = []
    averages: list[tuple[str, ZoneAverage, list[Sighting]]] = []
    for parent in dict.fromkeys(scan.parent for scan in scans):
        rows = [i for i, x in enumerate(scans) if x.parent == parent and x.temperature is not None]
        mine = sorted(rows, key=lambda i: (scans[i].temperature or 0.0, scans[i].scan))
        if mine:
            files = [inputs.volumes[i] for i in mine]
            taken = [*params.define, *(x.name for x in sightings)]
            own, average = _fits([scans[i] for i in mine], files, scales, params, taken, fits)
            sightings += own
            if average is not None:
                averages.append((parent, average, own))
            names = [scans[i].scan for i in mine]
            notes += series_scales.notes(scales, names, parent, "the intensities of features")
    sample = scans[0].sample
    write_table(outputs.table, fits, axis)
    courses = [fit.course for fit in fits]
    figure = plots.diffuse_features(courses, f"{sample}: diffuse features", averages, axis)
    plots.save(figure, outputs.picture)
    # Outputs have other names until the job is done: the series is in their folder.
    results = inputs.series.with_name("features.json")
    searched = dict.fromkeys(scan.parent for scan in scans) if params.find else {}
    findings = [
        {"sentence": sentence, "command": f"hklflow show {results}/features/{i}"}
        for i, fit in enumerate(fits)
        for sentence in sentences(fit.course, axis)
    ]
    findings += [
        {"sentence": sentence, "command": f"hklflow show {results}/found"}
        for parent in searched
        for sentence in search_sentences([x for x in sightings if x.parent == parent], parent, axis)
    ]
    # The page shows the first sentences: what changes with temperature.
    findings.sort(key=lambda row: UNCHANGED in row["sentence"])
    findings += [{"sentence": note, "command": f"hklflow show {results}"} for note in notes]
    lines = [row["sentence"] for row in findings]
    stage.write_json(
        outputs.results,
        {
            "sample": sample,
            "sentences": lines,
            "findings": findings,
            "found": [x.record(axis) for x in sightings],
            "features": [record(fit, axis) for fit in fits],
        },
    )
    print("\n".join([f"{sample}: {len(fits)} diffuse features", *lines]))


def _fits(
    scans: Sequence["Orientation"],
    files: Sequence[Path],
    scales: Mapping[str, tuple[float, float, float]],
    params: Params,
    taken: Sequence[str],
    fits: list["Fitted"],
) -> tuple[list["Sighting"], "ZoneAverage | None"]:
    """Add the fits of all features in the scans of one parent.

    Returns
    -------
    sightings : list of Sighting
        Features that were found without help, the most significant first.
    average : ZoneAverage or None
        Average of the volume in which the most significant one was found; None without search.
    """
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
        sightings: list[Sighting] = []
        average = None
        if params.find:
            sightings, average = _found(scans, volumes, lattice, resolutions, params, taken)
        definitions = dict(params.define)
        # What may have another shape is reported, but not followed.
        definitions |= {
            x.name: Definition.model_validate(x.definition())
            for x in sightings
            if x.discovery.certain
        }
        for name in stage.progress(definitions, len(definitions), "features"):
            feature = _feature(name, definitions[name])
            words = _words(name, definitions[name])
            fits.append(
                _fitted(feature, words, scans, volumes, lattice, resolutions, scales, params)
            )
        return sightings, average


def _found(
    scans: Sequence["Orientation"],
    volumes: Sequence["OpenVolume"],
    lattice: "Lattice",
    resolutions: list["Resolution"],
    params: Params,
    taken: Sequence[str],
) -> tuple[list["Sighting"], "ZoneAverage"]:
    """Return the features that the volumes show and that are not defined, one of each."""
    from hklflow.quality.search_words import Sighting
    from hklflow.series import feature_copies, feature_search
    from hklflow.series.zone_average import zone_average

    defined = [_feature(name, one) for name, one in params.define.items()]
    every: list[Sighting] = []
    strongest = None
    for i in stage.progress(range(len(volumes)), len(volumes), "search"):
        average = zone_average(_reader(volumes[i]), volumes[i].grid, lattice, resolutions[i], True)
        own = [
            Sighting("", scans[i].parent, scans[i].scan, scans[i].temperature or 0.0, one, lattice)
            for one in feature_search.search(average)
        ]
        best = max((x.discovery.significance for x in own), default=0.0)
        if strongest is None or best > strongest[0]:
            strongest = best, average
        every += own
    sightings: list[Sighting] = []
    for one in sorted(every, key=lambda x: (not x.discovery.certain, -x.discovery.significance)):
        feature = _feature("", Definition.model_validate(one.definition()))
        close = 2 * one.discovery.width.max()
        if not any(feature_copies.same(feature, other, lattice, close) for other in defined):
            defined.append(feature)
            shape = one.discovery.shape
            used = [*taken, *(x.name for x in sightings)]
            number = next(n for n in range(1, 1000) if f"{shape}_{n}" not in used)
            sightings.append(replace(one, name=f"{shape}_{number}"))
    assert strongest is not None
    return sightings, strongest[1]


def _feature(name: str, definition: Definition) -> "Feature":
    """Return the feature of a definition."""
    import numpy as np

    from hklflow.series.feature_copies import Feature

    return Feature(
        name,
        definition.shape,
        np.asarray(definition.point),
        None if definition.direction is None else np.asarray(definition.direction),
        definition.along,
        definition.width,
    )


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
    feature: "Feature",
    words: str,
    scans: Sequence["Orientation"],
    volumes: Sequence["OpenVolume"],
    lattice: "Lattice",
    resolutions: list["Resolution"],
    scales: Mapping[str, tuple[float, float, float]],
    params: Params,
) -> "Fitted":
    """Return the fits of one feature in all volumes, with the same copies."""
    import numpy as np

    from hklflow.quality.feature_words import Course
    from hklflow.series import feature_copies, feature_fit, feature_voxels
    from hklflow.series.line_shape import Smearing
    from hklflow.stage.feature_records import Fitted

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
        name=words,
        axes=axes.names,
        temperatures=[scan.temperature or 0.0 for scan in scans],
        fits=fits,
        intensity=intensity.tolist(),
        intensity_sigma=np.hypot(sigma, relative * np.nan_to_num(intensity)).tolist(),
    )
    names = [scan.scan for scan in scans]
    return Fitted(scans[0].parent, feature, axes, chosen, names, course, resolutions)


def _words(name: str, definition: Definition) -> str:
    """Return a feature in words, such as "rods along [0 0 1] at (1/2, 1/2, 0)"."""
    from hklflow.quality.remedies import vector_text

    along = ""
    if definition.direction is not None:
        vector = " ".join(f"{x:g}" for x in definition.direction)
        along = f" along [{vector}]" if definition.shape == "rod" else f" normal to [{vector}]"
    place = vector_text(definition.point)
    return f"{name}, {definition.shape}s{along} at {place}"


if __name__ == "__main__":
    stage.command(main)
