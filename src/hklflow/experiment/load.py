"""Read all layers and tables of an experiment, and report all problems together."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.base.system import no_file
from hklflow.calibration.kinds import KINDS
from hklflow.experiment import (
    axis_problems,
    backgrounds,
    constants,
    crystals,
    normalization,
    shapes,
    still_problems,
)
from hklflow.experiment.analyses import with_analyses
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.flags import files
from hklflow.experiment.layers import merged, require_small, require_unicode
from hklflow.experiment.models import Config, PoniFile, StoredGeometry
from hklflow.experiment.paths import RESERVED, Paths
from hklflow.experiment.resolve import PER_SCAN, layers_of_experiment, resolved, validated, with_own
from hklflow.experiment.series_axis import column_of
from hklflow.experiment.shared_frames import copied_frames, shared_frames
from hklflow.experiment.simulated import simulation_problems
from hklflow.experiment.tables import (
    FrameFiles,
    Scan,
    brace_problem,
    cell_problems,
    check_name,
    raw_problems,
    read_samples,
    read_scans,
    space_group_problems,
)
from hklflow.geometry import correction, left_out, plausible


def load(
    data: Mapping[str, Any], base: Path, command_line: Mapping[str, Any] | None = None
) -> Experiment:
    """Validate all layers of the configuration and the tables together.

    Parameters
    ----------
    data : mapping
        Data of the configuration file; it may already include the data of the command line.
    base : Path
        Folder of the experiment; paths of tables and layers are relative to it.
    command_line : mapping, optional
        Data of the command line, the highest layer.

    Raises
    ------
    HklflowError
        If there are problems; the message lists all of them, one per line.
    """
    require_small(data, "the configuration")
    require_unicode(data, "the configuration")
    problems: list[str] = []
    layers = layers_of_experiment(data, base, command_line or {}, problems)
    everything = merged(layer.data for layer in layers)
    config = validated(everything, layers, problems)
    axes = _axes(config, problems)
    simulated = bool(everything.get("simulation"))
    samples = read_samples(base / config.samples, problems)
    problems += [
        f"{base / config.samples}: a sample cannot be called {name!r}: results/{name} is taken"
        for name in sorted(RESERVED.intersection(samples))
    ]
    columns = {
        name: column_of(merged(x.data for x in with_own(layers, config, samples, name)))
        for name in samples
    }
    scans = read_scans(base / config.scans, samples, problems, columns)
    frame_files: dict[str, FrameFiles] = {}
    for scan in scans.values():
        for row in scan.rotations.values():
            if row.calibration and row.calibration not in (everything.get("calibrations") or {}):
                defined = ", ".join(config.calibrations)
                problems.append(
                    f"{row.where}: there is no calibration {row.calibration!r}: the configuration "
                    f"defines {defined or 'none'}"
                )
            problems += [
                f"{row.where}: there is no goniometer axis {name} (the axes are {', '.join(axes)})"
                for name, setting in row.goniometer.items()
                # An axis at 0 without a direction changes nothing: headers list it anyway.
                if axes and name not in axes and setting != (0, None)
            ]
            if not simulated:
                of_files = raw_problems(row, base, frame_files)
                problems += [f"{row.where}: {problem}" for problem in of_files]
    for name, calibration in config.calibrations.items():
        check_name(name, "calibration", "config", problems)
        if isinstance(calibration, StoredGeometry):
            continue
        given = calibration.poni if isinstance(calibration, PoniFile) else calibration.image
        if (told := brace_problem(str(given))) is not None:
            problems.append(f"config: calibrations.{name}: {told}")
        elif not simulated and (reason := no_file(base / given)) is not None:
            problems.append(f"config: calibrations.{name}: {given} {reason}")
    for name, entry in config.constants.items():
        check_name(name, "constants", "config", problems)
        if name in config.calibrations:
            problems.append(f"config: {name} is in both calibrations and constants; rename one")
        problems += constants.problems(name, entry, base)
    for name in config.normalizations:
        check_name(name, "normalization", "config", problems)
        if name in config.calibrations or name in config.constants:
            problems.append(f"config: {name} names two calibrations; rename one of them")
    for name in config.stills:
        check_name(name, "stills", "config", problems)
    for name in config.crystals:
        check_name(name, "set of scans", "config", problems)
    problems += _results_problems(config, base, scans)
    scans = with_analyses(scans, config.per_scan, problems)
    if scans:
        problems += crystals.problems(config, samples, scans)
    own = resolved(config, layers, samples, scans, problems)
    # Several scans may share one settings object: check each object once.
    for settings in {id(found): found for found in (config, *own.values())}.values():
        problems += dict.fromkeys(p for p in _own_problems(settings, base) if p not in problems)
    experiment = Experiment(config, base, samples, scans, tuple(layers), own)
    problems += shared_frames(experiment, frame_files)
    problems += _metric_problems(experiment)
    if not problems:
        problems += simulation_problems(experiment)
        problems += _state_problems(experiment)
        problems += _use_problems(experiment)
        problems += normalization.problems(experiment)
        problems += still_problems.problems(experiment, simulated)
        problems += _start_problems(experiment)
        problems += _rotation_problems(experiment)
        problems += backgrounds.problems(experiment)
        problems += shapes.problems(experiment)
        problems += axis_problems.problems(experiment)
        problems += _grid_problems(experiment)
        problems += _reference_problems(experiment)
        problems += _scale_problems(experiment)
    if problems:
        raise report(problems)
    return experiment


def require_own_frames(experiment: Experiment) -> None:
    """Open the raw files and refuse frames that two rows share, also through links and copies.

    Raises
    ------
    HklflowError
        If rows share frames; the message lists every pair of rows, one per line.
    """
    # Simulated files are never copies: each file has its own noise.
    problems = list(copied_frames(experiment)) if experiment.config.simulation is None else []
    if problems:
        raise report(problems)


def _own_problems(config: Config, base: Path) -> Iterator[str]:
    """Yield problems of files, space groups and cells that would otherwise stop a stage."""
    sections = {name: getattr(config, name) for name in PER_SCAN}
    sections |= {f"calibrations.{name}": entry for name, entry in config.calibrations.items()}
    for name, section in sections.items():
        try:
            named = files(section, base)
        except HklflowError as error:
            yield f"config: {name}: {error}"
            continue
        for file in named:
            if (told := brace_problem(file)) is not None:
                yield f"config: {name}: {told}"
            elif (reason := no_file(base / file)) is not None:
                yield f"config: {name}: {file} {reason}"
    yield from _number_problems(config)
    symmetry = config.symmetrise.symmetry
    if symmetry is not None:
        for problem in space_group_problems(symmetry):
            yield f"config: symmetrise.symmetry: {problem}"
    yield from _plane_problems(config)
    parent = config.refine_parent
    for name in ("refine_parent", "scale_reflections", "merge_reflections"):
        if symbol := getattr(config, name).space_group:
            for problem in space_group_problems(symbol):
                yield f"config: {name}.space_group: {problem}"
    if parent.cell is not None:
        for problem in cell_problems(parent.cell):
            yield f"config: refine_parent.cell: {problem}"


def _number_problems(config: Config) -> Iterator[str]:
    """Yield problems of impossible numbers, which would stop the import of every scan."""
    said = config.import_scan
    for name, problem in (
        ("wavelength", plausible.wavelength_problem),
        ("exposure", plausible.exposure_problem),
        ("saturation", plausible.saturation_problem),
        ("attenuation", plausible.attenuation_problem),
    ):
        value = getattr(said, name)
        if value is not None and (told := problem(value)) is not None:
            yield f"config: import_scan.{name}: {told}"
    for rotation, wavelength in said.wavelengths.items():
        if (told := plausible.wavelength_problem(wavelength)) is not None:
            yield f"config: import_scan.wavelengths.{rotation}: {told}"
    energy = config.correct_frames.energy
    if energy is not None and (told := plausible.energy_problem(energy)) is not None:
        yield f"config: correct_frames.energy: {told}"
    written = config.model_dump(
        mode="json", exclude={"import_scan": True, "correct_frames": {"energy"}}
    )
    yield from (f"config: {told}" for told in plausible.tiny_or_huge(written))


def _results_problems(
    config: Config, base: Path, scans: Mapping[tuple[str, str], Scan]
) -> Iterator[str]:
    """Yield problems of the results folder, which must contain only results.

    Everything in the results folder may be deleted at any time.
    """
    told = f"config: results: {config.results!r} cannot be the folder of the products"
    if not config.results.strip() or re.search(r"[{}\x00-\x1f]", config.results):
        yield f"{told}: give it a name without braces and line breaks"
        return
    raws = [
        part for scan in scans.values() for row in scan.rotations.values() for part in row.parts
    ]
    inside = [name for name in (config.samples, config.scans, *raws) if name]
    for binning in sorted({1, config.binning}):
        results = Paths(config.results, binning).folder
        place = (base / results).resolve()
        if binning > 1:
            told = f"config: {results!r} cannot be the folder of the quick look's products"
        for name in inside:
            if Path(os.path.normpath(base / name)).is_relative_to(place):
                yield f"{told}: {name} is in it; give them a folder of their own"
                return
        if place.exists() and not place.is_dir():
            yield f"{told}: it is a file; give another name, or move the file away"
            return


def _plane_problems(config: Config) -> Iterator[str]:
    """Yield problems of the planes to draw."""
    usual = type(config.planes)()
    for name in ("hkl", "xyz"):
        written: list[str] = getattr(config.planes, name)
        if written == getattr(usual, name):
            continue
        from hklflow.volumes.planes import parse

        for text in written:
            try:
                parse(text, name)
            except HklflowError as error:
                yield f"config: planes.{name}: {error}"


def _metric_problems(experiment: Experiment) -> Iterator[str]:
    """Yield a problem if the approximate cell does not have the symmetry of the volumes."""
    done = set()
    for sample, scan in experiment.scans:
        own = experiment.settings(sample, scan)
        row = experiment.samples.get(sample)
        symbol = own.symmetrise.symmetry
        cell = own.refine_parent.cell or (row and row.cell)
        given = (sample, symbol, cell)
        if symbol is None or not cell or given in done:
            continue
        done.add(given)
        # Invalid cells and space groups were reported before.
        if any(cell_problems(cell)) or any(space_group_problems(symbol)):
            continue
        from hklflow.geometry.symmetry import space_group
        from hklflow.volumes.symmetrise import require_metric

        try:
            require_metric(cell, space_group(symbol).laue_operations, symbol)
        except HklflowError as error:
            yield f"config: symmetrise.symmetry of {sample}/{scan}: {error}"


def _state_problems(experiment: Experiment) -> Iterator[str]:
    """Yield problems of the set-points of stored calibrations."""
    for name, kind in experiment.stored_kinds.items():
        try:
            experiment.state(name)
        except HklflowError as error:
            yield f"config: {KINDS[kind].section}.{name}: {error}"


def _start_problems(experiment: Experiment) -> Iterator[str]:
    """Yield problems of the starting orientations of parents."""
    results = (experiment.base / experiment.paths.folder).resolve()
    for (sample, scan), row in experiment.scans.items():
        own, parents = (
            experiment.settings(sample, name).orientation for name in (scan, row.parent)
        )
        start, of_parent = own.start, parents.start
        if own.fixed and of_parent is None:
            yield (
                f"config: orientation.fixed of {sample}/{scan}: nothing is refined, so there must "
                f"be an orientation; give `orientation: start` for the parent {sample}/{row.parent}"
            )
        if own.fixed != parents.fixed:
            yield (
                f"config: orientation.fixed of {sample}/{scan} is {str(own.fixed).lower()}, but "
                f"not for its parent {row.parent}; give both the same value, or make {scan} its "
                "own parent"
            )
        if start is None:
            continue
        if row.parent != scan and start != of_parent:
            yield (
                f"config: orientation.start of {sample}/{scan}: {scan} starts from its parent's "
                f"orientation; give it for {sample}/{row.parent}, or make {scan} its own parent"
            )
        if (experiment.base / start).resolve().is_relative_to(results):
            yield (
                f"config: orientation.start of {sample}/{scan}: {start} is a product of this "
                "workflow, which would wait for itself; copy it elsewhere first"
            )


def _rotation_problems(experiment: Experiment) -> Iterator[str]:
    """Yield problems of settings for a rotation that does not exist."""
    from hklflow.formats.assemble import axes_by_rotation

    named: dict[tuple[str, str, str | None], set[str]] = {}
    for (sample, scan), row in experiment.scans.items():
        said = experiment.settings(sample, scan).import_scan
        items = [("leave_out", item, left_out.parse(item)[0]) for item in said.leave_out]
        items += [("detector", item, correction.parse(item)[0]) for item in said.detector]
        items += [("wavelengths", name, name) for name in said.wavelengths]
        for name, texts in axes_by_rotation(said.axes).items():
            items += [("axes", f"{name}:{text}", name) for text in texts]
        items = [(f"import_scan.{key}", item, name) for key, item, name in items]
        runs = experiment.settings(sample, scan).background.runs.items()
        for name, run in runs:
            of = () if run is None else run.rotations
            items += [(f"background.runs.{name}.rotations", one, one) for one in of]
        for one in items:
            named.setdefault(one, set()).update(row.rotations)
    for (key, item, rotation), rotations in named.items():
        if rotation is not None and rotation not in rotations:
            yield (
                f"config: {key}: {item!r} is not in a rotation of the scans that "
                f"it is for (they have {', '.join(sorted(rotations))})"
            )


def _grid_problems(experiment: Experiment) -> Iterator[str]:
    """Yield problems of grids that do not allow a pair distribution function."""
    if not experiment.config.delta_pdf:
        return
    for (sample, scan), row in experiment.scans.items():
        ranges = experiment.settings(sample, scan).refine_parent.grid_range
        if row.parent == scan and ranges and any(abs(a + b) > 1e-6 for a, b in ranges):
            yield (
                f"config: refine_parent.grid_range of {sample}/{scan}: a part of reciprocal space "
                "that does not reach as far on both sides of 0 has no pair distribution; set "
                "`delta_pdf: []`"
            )


def _reference_problems(experiment: Experiment) -> Iterator[str]:
    """Yield problems of reference scans that do not exist."""
    if not experiment.config.delta_pdf:
        return
    for sample, scan in experiment.scans:
        reference = experiment.reference(sample, scan)
        if reference is not None and (sample, reference) not in experiment.scans:
            yield (
                f"config: difference.subtract of {sample}/{scan}: {sample} has no scan "
                f"{reference!r}, but {', '.join(experiment.scans_of(sample))}"
            )


def _scale_problems(experiment: Experiment) -> Iterator[str]:
    """Yield problems of the absolute scales: no comparable Bragg reflections, or no reference."""
    for sample, scan in experiment.scans:
        settings = experiment.settings(sample, scan)
        own = settings.absolute_scale
        where = f"config: absolute_scale of {sample}/{scan}"
        if own.is_requested and not experiment.config.bragg:
            yield f"{where}: it needs the Bragg intensities; set `bragg: true`"
        if own.is_requested and settings.refine_scale.use:
            yield (
                f"{where}: it compares S(Q) with Bragg intensities, which do not have the factors "
                "of `refine_scale`; set `refine_scale: {use: false}`, or leave the absolute scale "
                "out"
            )
        reference = experiment.scale_reference(sample, scan)
        if reference is None:
            continue
        if reference == scan or (sample, reference) not in experiment.scans:
            others = [name for name in experiment.scans_of(sample) if name != scan]
            yield (
                f"{where}: {reference!r} is not another scan of {sample}; there are "
                f"{', '.join(others) or 'none'}"
            )
            continue
        theirs = experiment.settings(sample, reference).absolute_scale
        if theirs.cif is None or theirs.reference is not None:
            yield (
                f"{where}: the reference {reference} must have a `cif` and no reference; set "
                f"both under `per_scan`, for {sample}/{reference} `absolute_scale: "
                "{cif: ...}`, for this scan the reference"
            )


def _use_problems(experiment: Experiment) -> Iterator[str]:
    """Yield problems in the use of detector constants."""
    known = experiment.config.constants
    for name, entry in known.items():
        geometry = getattr(entry, "geometry", None)
        if geometry is not None and geometry not in experiment.config.calibrations:
            yield f"config: constants.{name}: there is no calibration {geometry!r}"
    for (sample, scan), row in experiment.scans.items():
        settings = experiment.settings(sample, scan).correct_frames
        used = settings.constants
        for rotation in row.rotations.values():
            is_run = used is not None and settings.layout is not None
            if not is_run and (experiment.base / rotation.raw).is_dir():
                yield (
                    f"{rotation.where}: {rotation.raw} is a folder; give the raw file, or "
                    "`correct_frames: layout` if it is a run of an integrating detector"
                )
        if used is None:
            continue
        if used not in known:
            yield (
                f"config: correct_frames.constants of {sample}/{scan}: {used!r} is not one of "
                f"{', '.join(known) or 'none defined'} in `constants`"
            )
        elif isinstance(known[used], constants.PhotonCounter):
            own = experiment.settings(sample, scan)
            for key, given in (
                ("pixel_mask.constants", own.pixel_mask.constants),
                ("transform.flat_field", own.transform.flat_field),
            ):
                if given is not None:
                    yield (
                        f"config: {key} and correct_frames.constants of {sample}/{scan} name "
                        f"{given} and {used}; give one of them"
                    )
        else:
            if settings.energy is None:
                yield (
                    f"config: correct_frames.energy of {sample}/{scan} is missing: the energy of "
                    f"the photons in keV, for {used} is an integrating detector"
                )
            sums = [name for name, rotation in row.rotations.items() if rotation.is_sum]
            if sums:
                yield (
                    f"{row.rotations[sums[0]].where}: repeated scans of an integrating detector "
                    "cannot be summed before they are corrected; give each a row of its own"
                )


def _axes(config: Config, problems: list[str]) -> tuple[str, ...]:
    """Return the names of the goniometer axes; empty if the raw files name them."""
    from hklflow.formats.assemble import axes_by_rotation, parse_axes

    groups = axes_by_rotation(config.import_scan.axes)
    try:
        names = {rotation: tuple(parse_axes(texts) or ()) for rotation, texts in groups.items()}
    except HklflowError as error:
        problems.append(f"config: import_scan.axes: {error}")
        return ()
    if None not in names:
        return ()
    return tuple(dict.fromkeys(name for own in names.values() for name in own))


def report(problems: list[str]) -> HklflowError:
    """Return an error that lists all problems once, one per line."""
    problems = list(dict.fromkeys(problems))  # analyses have the rows of their scan
    plural = "s" if len(problems) > 1 else ""
    listed = "\n  ".join(problems)
    return HklflowError(f"{len(problems)} problem{plural} in the experiment:\n  {listed}")
