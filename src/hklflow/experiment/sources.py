"""Inputs of the steps of scans: products of a rotation, scan or sample, and raw files."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hklflow.base.errors import HklflowError
from hklflow.experiment.flags import files
from hklflow.experiment.models import PoniFile, PowderImage, StoredGeometry
from hklflow.experiment.step import Jobs, Level, Source, Wildcards
from hklflow.experiment.tables import linked_files, raw_ends

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment
    from hklflow.experiment.models import Config
    from hklflow.experiment.paths import Paths

KINDS = ("transform", "masked_transform")
"""Names of the merged volumes: with all pixels, and without the pixels of the 3-D mask."""
OVERVIEW = "0 Overview"
"""Section of the report with what all scans share."""


def pdf_kinds(config: "Config") -> list[str]:
    """Return the kinds of volume for which pair distribution functions are computed."""
    return [kind for kind in KINDS if kind in config.delta_pdf]


def symmetrised_kinds(config: "Config") -> Sequence[str]:
    """Return the kinds of volume that are symmetrised.

    The total PDF takes its Bragg reflections from the volume of all pixels, so this volume is
    needed for both kinds.
    """
    kinds = pdf_kinds(config)
    return KINDS if "masked_transform" in kinds else kinds


# ------------------------------------------------------------------------------ levels


def _calibrations(experiment: "Experiment") -> Iterator[Wildcards]:
    for name in experiment.used_calibrations():
        if not isinstance(experiment.config.calibrations[name], StoredGeometry):
            yield {"calibration": name}


def _rotations(experiment: "Experiment") -> Iterator[Wildcards]:
    for sample, scan, rotation in experiment.all_rotations():
        yield {"sample": sample, "scan": scan, "rotation": rotation}


def _parts(experiment: "Experiment") -> Iterator[Wildcards]:
    for at in _rotations(experiment):
        for part in range(experiment.config.frame_blocks):
            yield {**at, "part": str(part)}


def _scans(experiment: "Experiment") -> Iterator[Wildcards]:
    return ({"sample": sample, "scan": scan} for sample, scan in experiment.scans)


def _samples(experiment: "Experiment") -> Iterator[Wildcards]:
    return ({"sample": sample} for sample in experiment.used_samples())


def _stacks(experiment: "Experiment") -> Iterator[Wildcards]:
    return ({"sample": sample, "parent": parent} for sample, parent in experiment.stacks())


def _crystals(experiment: "Experiment") -> Iterator[Wildcards]:
    for name, entry in experiment.config.crystals.items():
        yield {"sample": entry.keys[0][0], "crystals": name}


def _raws(experiment: "Experiment") -> Iterator[Wildcards]:
    used = set(experiment.used_calibrations())
    calibrations = experiment.config.calibrations.items()
    if experiment.config.simulation is not None:
        for name, entry in calibrations:
            if name in used and isinstance(entry, PowderImage):
                yield {"raw": entry.image}
        yield from ({"raw": raw} for raw in experiment.raws)


_OF_ROTATION = ("sample", "scan", "rotation")
_OF_SCAN = {"scan": "{scan}"}

RAW = Level(("raw",), lambda _, name: name, _raws, unbinned=True)
CALIBRATION = Level(
    ("calibration",),
    lambda paths, name: paths.calibration(name),
    _calibrations,
    unbinned=True,
    labels={"of": "{calibration}"},
)
FRAMES = Level(
    _OF_ROTATION,
    lambda paths, name: paths.unbinned.rotation(name),
    _rotations,
    unbinned=True,
    labels={"rotation": "{rotation}"},
    group="{sample} {scan}",
)
"""Level of a rotation whose products do not depend on the binning."""
ROTATION = Level(
    _OF_ROTATION,
    lambda paths, name: paths.rotation(name),
    _rotations,
    labels={"rotation": "{rotation}"},
    group="{sample} {scan}",
)
PART = Level((*_OF_ROTATION, "part"), lambda paths, name: paths.part(name), _parts)
"""Level of a block of frames of a rotation."""
SCAN = Level(
    ("sample", "scan"),
    lambda paths, name: paths.scan(name),
    _scans,
    labels=_OF_SCAN,
    group="{sample}",
)
SCAN_OF_ALL_ROTATIONS = Level(
    ("sample", "scan"),
    lambda paths, name: paths.scan(name),
    _scans,
    labels={"rotation": "all"},
    group="{sample} {scan}",
)
"""Level of a scan whose pictures the report shows together with the pictures of its rotations."""
SAMPLE = Level(("sample",), lambda paths, name: paths.series(name), _samples)
PAGE = Level(("sample",), lambda paths, name: paths.page(name), _samples)
STACK = Level(("sample", "parent"), lambda paths, name: paths.stack(name), _stacks)
"""Level of a parent together with its children."""
CRYSTALS = Level(
    ("sample", "crystals"),
    lambda paths, name: paths.crystals(name),
    _crystals,
    labels={"scan": "{crystals}"},
    group="{sample}",
)
"""Level of a set of scans that are merged; the sample is that of its first scan."""
EXPERIMENT = Level((), lambda paths, name: paths.overview(name), lambda e: ({},) if e.scans else ())


# ----------------------------------------------------------------------------- sources


def _of(
    place: "Callable[[Paths], Callable[[str], str]]",
    name: str,
    when: "Callable[[Jobs, Wildcards], bool] | None" = None,
) -> Source:
    def products(plan: Jobs, at: Wildcards) -> list[str]:
        if when is not None and not when(plan, at):
            return []
        return [place(plan.paths)(name).format(**at)]

    return Source(products)


def of_rotation(name: str, when: "Callable[[Jobs, Wildcards], bool] | None" = None) -> Source:
    """Return the input file: a product of the job's rotation, if a condition holds."""
    return _of(lambda paths: paths.rotation, name, when)


def of_scan(name: str, when: "Callable[[Jobs, Wildcards], bool] | None" = None) -> Source:
    """Return the input file: a product of the job's scan, if a condition holds."""
    return _of(lambda paths: paths.scan, name, when)


def of_rotations(
    name: str, chosen: "Callable[[list[str], str], list[str]] | None" = None
) -> Source:
    """Return the input files: a product of all rotations of the job's scan, or of ``chosen`` ones.

    Parameters
    ----------
    chosen : callable, optional
        Function that takes the rotations of the scan and the rotation of the job, and returns the
        rotations whose product is read.
    """

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        pattern = plan.paths.rotation(name)
        rotations = plan.experiment.rotations(at["sample"], at["scan"])
        if chosen is not None:
            rotations = chosen(rotations, at["rotation"])
        return [pattern.format(**{**at, "rotation": rotation}) for rotation in rotations]

    return Source(products)


def of_first_rotation(name: str) -> Source:
    """Return the input file: a product of the first rotation of the job's scan."""
    return of_rotations(name, lambda rotations, _: rotations[:1])


def of_earlier_rotations(name: str) -> Source:
    """Return the input files: a product of each earlier rotation of the job's scan."""
    return of_rotations(name, lambda rotations, own: rotations[: rotations.index(own)])


def of_parts(name: str) -> Source:
    """Return the input files: a product of all blocks of frames of the job's rotation."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        pattern = plan.paths.part(name)
        blocks = range(plan.experiment.config.frame_blocks)
        return [pattern.format(**at, part=part) for part in blocks]

    return Source(products)


def of_parent(name: str) -> Source:
    """Return the input file: a product of the parent of the job's scan."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        parent = plan.experiment.scans[at["sample"], at["scan"]].parent
        return [plan.paths.scan(name).format(**{**at, "scan": parent})]

    return Source(products)


def of_reference(name: str) -> Source:
    """Return the input file: a product of the scan that is subtracted from the job's scan."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        reference = plan.experiment.reference(at["sample"], at["scan"])
        if reference is None:
            raise HklflowError(
                f"{at['sample']} {at['scan']} is the reference itself: there is no difference; see "
                "`difference: subtract` of the configuration"
            )
        return [plan.paths.scan(name).format(**{**at, "scan": reference})]

    return Source(products)


def _scale_reference(plan: Jobs, at: Wildcards) -> list[str]:
    own = plan.experiment.scale_reference(at["sample"], at["scan"])
    if own is None:
        return []
    names = ("transform.nxs", "scaled.nxs", "absolute_scale.json")
    return [plan.paths.scan(name).format(**{**at, "scan": own}) for name in names]


OF_SCALE_REFERENCE = Source(_scale_reference)
"""Products of the scan from which the job's scan takes its absolute scale; empty without one."""


def of_kinds(
    name: str,
    kinds: "Callable[[Config], Sequence[str]]" = pdf_kinds,
    when: "Callable[[Jobs, Wildcards], bool] | None" = None,
) -> Source:
    """Return the input files: a product of the job's scan for each kind of volume, if ``when``."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        if when is not None and not when(plan, at):
            return []
        pattern = plan.paths.scan(name)
        return [pattern.format(**at, kind=kind) for kind in kinds(plan.experiment.config)]

    return Source(products)


def of_scans(name: str) -> Source:
    """Return the input files: a product of all scans of the job's sample, or of all samples.

    Products of one sample are a series against temperature, in which each scan is once: without
    analyses.
    """

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        pattern, experiment = plan.paths.scan(name), plan.experiment
        if "sample" in at:
            keys = [(at["sample"], scan) for scan in experiment.measured_scans(at["sample"])]
        else:
            keys = list(experiment.scans)
        return [pattern.format(sample=sample, scan=scan) for sample, scan in keys]

    return Source(products)


def of_series(name: str, when: "Callable[[Jobs, Wildcards], bool] | None" = None) -> Source:
    """Return the input file: a product of the job's sample against temperature."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        if when is not None and not when(plan, at):
            return []
        return [plan.paths.series(name).format(**at)]

    return Source(products)


def of_scans_rotations(name: str) -> Source:
    """Return the input files: a product of all measured rotations of the job's sample."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        pattern, experiment = plan.paths.rotation(name), plan.experiment
        return [
            pattern.format(**at, scan=scan, rotation=rotation)
            for scan in experiment.measured_scans(at["sample"])
            for rotation in experiment.rotations(at["sample"], scan)
        ]

    return Source(products)


def of_crystals(name: str, *, rotations: bool) -> Source:
    """Return the input files: a product of all scans of the job's set, or of their rotations."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        experiment, paths = plan.experiment, plan.paths
        pattern = paths.rotation(name) if rotations else paths.scan(name)
        return [
            pattern.format(sample=sample, scan=scan, rotation=rotation)
            for sample, scan in experiment.config.crystals[at["crystals"]].keys
            for rotation in (experiment.rotations(sample, scan) if rotations else [""])
        ]

    return Source(products)


def of_stacked(name: str) -> Source:
    """Return the input files: a product of the scans of the job's parent, from cold to warm."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        pattern = plan.paths.scan(name)
        stacked = plan.experiment.stacked(at["sample"], at["parent"])
        return [pattern.format(**at, scan=scan) for scan in stacked]

    return Source(products)


def _with_reflections(_: Jobs, at: Wildcards) -> bool:
    """Return True for every total PDF, and for the fill of a 3-D masked volume."""
    which = at.get("which")
    return which == "total" or (which is None and at["kind"] != "transform")


WHOLE_VOLUME = of_scan("symm_transform.nxs", when=_with_reflections)
"""Symmetrised volume of all pixels.

The 3-D masked volume lacks the reflections inside the mask. The fill measures the width of the
reflections in the volume of all pixels, and the total PDF takes the reflections from it.
"""


def shown_of_sample(*, pictures: bool) -> Source:
    """Return the input files of a sample page: the pictures, or the numbers, of all its steps."""

    def products(plan: Jobs, at: Wildcards) -> list[str]:
        return [
            path
            for job in plan.shown_of(at["sample"])
            for path in (job.pictures if pictures else job.figures)
        ]

    return Source(products)


def _figures_of_scans(plan: Jobs, _: Wildcards) -> list[str]:
    return [path for job in plan.of_scans() for path in job.figures]


FIGURES_OF_SCANS = Source(_figures_of_scans)
"""Files with numbers of all steps of all scans, for the verdicts."""


# ------------------------------------------------------------------- files from outside


def parameter_files(section: str) -> Source:
    """Return the input files that are parameters in a section of the configuration."""

    def outside(plan: Jobs, at: Wildcards) -> list[str]:
        return files(getattr(plan.experiment.settings(at["sample"], at["scan"]), section))

    return Source(outside=outside)


def _row(plan: Jobs, at: Wildcards) -> tuple[str, str, str]:
    return at["sample"], at["scan"], at["rotation"]


def _simulated(plan: Jobs, at: Wildcards) -> list[str]:
    simulated = plan.experiment.config.simulation is not None
    return list(plan.experiment.rotation(*_row(plan, at)).parts) if simulated else []


def _raw(plan: Jobs, at: Wildcards) -> list[str]:
    if plan.experiment.config.simulation is not None:
        return []
    return plan.experiment.raw_inputs(plan.experiment.rotation(*_row(plan, at)))


REPEATED = Source(_simulated, _raw)
"""Raw files of the job's rotation; for a sum, the raw files of all repeated scans."""


def _prepared(plan: Jobs, at: Wildcards) -> list[str]:
    """Return the summed or corrected frames before binning; empty if the raw files are used."""
    own, paths = plan.experiment.rotation(*_row(plan, at)), plan.paths.unbinned
    at = _where_prepared(plan, at)
    if plan.experiment.is_corrected(at["sample"], at["scan"]):
        return [paths.rotation("corrected.nxs").format(**at)]
    return [paths.rotation("sum.nxs").format(**at)] if own.is_sum else []


def _where_prepared(plan: Jobs, at: Wildcards) -> Wildcards:
    """Return the wildcards of the scan whose summed, corrected or binned frames are read."""
    return {**at, "scan": plan.experiment.prepared(at["sample"], at["scan"])}


def prepares(plan: Jobs, at: Wildcards) -> bool:
    """Return True if the job's scan does not read the prepared frames of another scan."""
    return _where_prepared(plan, at)["scan"] == at["scan"]


def _binned(plan: Jobs, at: Wildcards) -> list[str]:
    binned = plan.experiment.config.binning > 1
    at = _where_prepared(plan, at)
    return [plan.paths.rotation("binned.nxs").format(**at)] if binned else []


RAW_FRAMES = Source(
    lambda plan, at: _prepared(plan, at) or _simulated(plan, at),
    lambda plan, at: () if _prepared(plan, at) else _raw(plan, at),
)
"""Frames of the job's rotation before binning: raw files, their sum, or corrected frames."""

FRAMES_AS_REDUCED = Source(
    lambda plan, at: _binned(plan, at) or RAW_FRAMES.products(plan, at),
    lambda plan, at: () if _binned(plan, at) or _prepared(plan, at) else _raw(plan, at),
)
"""Frames that the reduction of the job's rotation reads: binned, or as in `RAW_FRAMES`."""

LINKED = Source(
    outside=lambda plan, at: plan.experiment.linked_inputs(
        plan.experiment.rotation(*_row(plan, at))
    )
)
"""Files that light scan files link; they are not on the command line of a job."""


def _runs(plan: Jobs, at: Wildcards) -> list[str]:
    own = plan.experiment.settings(at["sample"], at["scan"]).background
    read: list[str] = []
    for run in own.of_rotation(at["rotation"]).values():
        base = plan.experiment.base
        read += [*raw_ends(run.raw, base), *linked_files(run.raw, base)]
        read += [str(run.transmission)] if isinstance(run.transmission, Path) else []
    return read


RUNS_WITHOUT_CRYSTAL = Source(outside=_runs)
"""Raw files of the backgrounds of the job's rotation, and files with transmissions."""


def _own_geometry(plan: Jobs, at: Wildcards) -> list[str]:
    experiment = plan.experiment
    name = experiment.rotation(*_row(plan, at)).calibration
    if name is None or isinstance(experiment.config.calibrations[name], StoredGeometry):
        return []
    return [experiment.calibration_file(name)]


def _stored_geometry(plan: Jobs, at: Wildcards) -> list[str]:
    if _own_geometry(plan, at):
        return []
    file = plan.experiment.geometry_file(*_row(plan, at))
    return [] if file is None else [file]


GEOMETRY = Source(_own_geometry, _stored_geometry)
"""Geometry of the job's rotation; empty if the raw file contains the geometry.

For a calibration store, the input is the immutable file of the selected version. The index of the
store is not an input: it changes with every proposal, and all jobs would run again.
"""


def powders_of(experiment: "Experiment", sample: str, scan: str) -> dict[str, tuple[str, bool]]:
    """Return the powder file of each rotation of a scan whose geometry is from a powder image.

    Returns
    -------
    dict of (str, bool)
        File, and whether it is a product of this experiment, by the name of the rotation.
    """
    powders = {}
    for rotation in experiment.rotations(sample, scan):
        name = experiment.rotation(sample, scan, rotation).calibration
        entry = None if name is None else experiment.config.calibrations[name]
        if isinstance(entry, PowderImage):
            file = experiment.paths.calibration("powder.nxs").format(calibration=name)
            powders[rotation] = (file, True)
        elif isinstance(entry, StoredGeometry):
            geometry = experiment.geometry_file(sample, scan, rotation)
            # Versions of PONI files, and of older programs, have none; versions never change.
            file = str(Path(str(geometry)).with_name("powder.nxs"))
            if (experiment.base / file).is_file():
                powders[rotation] = (file, False)
    return powders


def _powders(plan: Jobs, at: Wildcards, *, made: bool) -> list[str]:
    powders = powders_of(plan.experiment, at["sample"], at["scan"]).values()
    return list(dict.fromkeys(file for file, product in powders if product is made))


def powder_numbers(experiment: "Experiment", sample: str, scan: str) -> list[int]:
    """Return for each rotation of a scan the index of its file in `POWDERS`; -1: it has none."""
    powders = powders_of(experiment, sample, scan)
    files = sorted(dict.fromkeys(powders.values()), key=lambda powder: not powder[1])
    return [
        files.index(powders[rotation]) if rotation in powders else -1
        for rotation in experiment.rotations(sample, scan)
    ]


POWDERS = Source(
    lambda plan, at: _powders(plan, at, made=True), lambda plan, at: _powders(plan, at, made=False)
)
"""Powder images of the geometries of the job's scan, each once."""


def constants(*, counter: bool, flat_field: bool = False) -> Source:
    """Return the input file: constants for the job's rotation, for one kind of detector.

    Parameters
    ----------
    counter : bool
        True for a photon counter, False for an integrating detector.
    flat_field : bool
        True if the constants are an input only when their flat field is used.
    """

    def used(plan: Jobs, at: Wildcards, *, stored: bool) -> list[str]:
        settings = plan.experiment.settings(at["sample"], at["scan"]).correct_frames
        entry = plan.experiment.config.constants.get(settings.constants or "")
        if entry is None or (entry.stored is not None) is not stored:
            return []
        if flat_field and not settings.flat_field:
            return []
        try:
            file = plan.experiment.constants_file(*_row(plan, at), counter)
        except HklflowError as error:
            raise HklflowError(
                f"{error}; `snakemake constants` makes constants, `hklflow calibration accept` "
                "accepts them"
            ) from None
        return [] if file is None else [file]

    return Source(
        lambda plan, at: used(plan, at, stored=False), lambda plan, at: used(plan, at, stored=True)
    )


_FLAT_OF_CONSTANTS = constants(counter=True, flat_field=True)


def _made_response(plan: Jobs, at: Wildcards) -> Sequence[str]:
    used = plan.experiment.settings(at["sample"], at["scan"]).normalization
    if used.artificial is not None:
        return [plan.paths.rotation("artificial_normalization.nxs").format(**at)]
    return () if used.use is not None else _FLAT_OF_CONSTANTS.products(plan, at)


def _measured_response(plan: Jobs, at: Wildcards) -> Sequence[str]:
    used = plan.experiment.settings(at["sample"], at["scan"]).normalization
    if used.artificial is not None:
        return ()
    file = plan.experiment.normalization_file(*_row(plan, at))
    if file is not None:
        return [file]
    assert _FLAT_OF_CONSTANTS.outside is not None
    return _FLAT_OF_CONSTANTS.outside(plan, at)


FLAT_FIELD = Source(_made_response, _measured_response)
"""Response of the pixels of the job's rotation: a normalisation of the store, an artificial
normalisation, or the flat field of a photon counter's constants; empty if none is used.
"""


def _each(
    read: "Callable[[Jobs, Wildcards], Sequence[str]]",
) -> "Callable[[Jobs, Wildcards], Sequence[str]]":
    def of_scan(plan: Jobs, at: Wildcards) -> list[str]:
        rotations = plan.experiment.rotations(at["sample"], at["scan"])
        return [file for name in rotations for file in read(plan, {**at, "rotation": name})]

    return of_scan


FLAT_FIELDS = Source(_each(_made_response), _each(_measured_response))
"""The same for each rotation of the job's scan, in their order."""


def _start(plan: Jobs, at: Wildcards) -> list[str]:
    start = plan.experiment.settings(at["sample"], at["scan"]).orientation.start
    return [str(start)] if start else []


START = Source(outside=_start)
"""Orientation file from which the refinement starts; empty if it is not given."""


def _left_out_peaks(plan: Jobs, at: Wildcards) -> list[str]:
    own = plan.experiment.settings(at["sample"], at["scan"]).orientation.leave_out_peaks
    return [] if own is None else [str(own)]


LEFT_OUT_PEAKS = Source(outside=_left_out_peaks)
"""Table of the peaks that take no part in a refinement; empty if there is none."""


def _calibration_file(plan: Jobs, at: Wildcards) -> str:
    entry = plan.experiment.config.calibrations[at["calibration"]]
    if isinstance(entry, PowderImage):
        return entry.image
    assert isinstance(entry, PoniFile)
    return entry.poni


def _is_simulated(plan: Jobs, at: Wildcards) -> bool:
    image = isinstance(plan.experiment.config.calibrations[at["calibration"]], PowderImage)
    return image and plan.experiment.config.simulation is not None


CALIBRATION_FILE = Source(
    lambda plan, at: [_calibration_file(plan, at)] if _is_simulated(plan, at) else (),
    lambda plan, at: () if _is_simulated(plan, at) else [_calibration_file(plan, at)],
)
"""Calibrant image (measured or simulated) or PONI file of the job's calibration."""

FILES_OF_CALIBRATION = Source(
    outside=lambda plan, at: files(plan.experiment.config.calibrations[at["calibration"]])
)
"""Files that are parameters of the job's calibration."""
