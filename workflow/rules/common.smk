# What all rules share: the validated experiment, and functions that find a job's inputs.
import functools
import inspect
import os
import re
import shlex
import sys
import time
from pathlib import Path

from hklflow import stages
from hklflow.experiment import config as hklconfig
from hklflow.base.errors import HklflowError, printable_lines
from hklflow.experiment.cost import Estimate
from hklflow.experiment.freshness import Freshness, no_collection, outdated, sentences

try:
    for file in workflow.configfiles:
        hklconfig.read_yaml(
            Path(file)
        )  # of a key that stands twice, Snakemake takes the last
    experiment = hklconfig.load(config, Path.cwd(), workflow.config_settings.config)
except HklflowError as error:
    print(printable_lines(f"hklflow: {error}"), file=sys.stderr)
    sys.exit(2)

paths = experiment.paths
settings = experiment.config
# A job of a cluster has its resources already: it need not learn from finished jobs.
estimate = Estimate(experiment, learn=workflow.is_main_process)


def one_of(names):
    """Wildcard constraint: one of these names (or nothing, if there are none)."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


wildcard_constraints:
    sample=one_of(experiment.samples),
    scan=one_of({scan for _, scan in experiment.scans}),
    parent=one_of({scan.parent for scan in experiment.scans.values()}),
    rotation=one_of({rotation for _, _, rotation in experiment.all_rotations()}),
    kind="transform|masked_transform",
    which="delta|total",
    volume="symm|filled|delta_pdf|total_pdf",
    part=r"\d+",


KINDS = ("transform", "masked_transform")
PDF_KINDS = [kind for kind in KINDS if kind in settings.delta_pdf]
# The total PDF takes its Bragg reflections from the volume of all pixels.
SYMMETRISED = KINDS if "masked_transform" in PDF_KINDS else PDF_KINDS


def known(function):
    """Keep a function's signature: Snakemake asks for it several times for every job."""
    function.__signature__ = inspect.signature(function)
    return function


# ----------------------------------------------------------------- what is out of date

# Snakemake knows times, and the parameters that it wrote down itself. Folders are copied, files
# replaced by older ones, and clocks differ: hklflow compares what its products say of themselves
# with the configuration and the files from outside, and Snakemake runs what is out of date.
SIMULATED = frozenset(hklconfig.simulated_raws(experiment))
_planned = []


def plan():
    """Have Snakemake run the jobs whose products would be made otherwise now."""
    if _planned or not workflow.is_main_process:
        return
    _planned.append(True)
    with no_collection():
        verdicts = Freshness(experiment).verdicts()
    for line in sentences(verdicts):
        print(f"hklflow: {line}", file=sys.stderr)
    # As Snakemake itself does with incomplete files: jobs of the plan only, no further targets.
    workflow.dag.forcefiles.update(outdated(verdicts))


def remember():
    """Read the records of new products now, that the next plan need not."""
    if workflow.is_main_process:
        Freshness(experiment).verdicts()


onsuccess:
    remember()


onerror:
    remember()


def is_made(path):
    """Whether a rule makes a file."""
    return path in SIMULATED or path.startswith(f"{paths.unbinned.folder}{os.sep}")


def outside(function):
    """Input function of files that come from outside: their times say nothing.

    Every plan has one. A file whose time lies in the future is no input at all: Snakemake would
    remove whatever is made of it. The command has it all the same, see `quoted`.
    """

    @known
    @functools.wraps(function)
    def inner(wildcards):
        plan()
        given = function(wildcards)
        files = [given] if isinstance(given, str) else given
        return [
            path if is_made(path) else ancient(path)
            for path in files
            if is_made(path) or not is_ahead(path)
        ]

    return inner


_ahead = set()


def is_ahead(path):
    """Whether a file's time lies in the future; says so once."""
    try:
        seconds = os.lstat(path).st_mtime - time.time()
    except OSError:
        return False
    if seconds > 0 and workflow.is_main_process and path not in _ahead:
        _ahead.add(path)
        print(
            f"hklflow: warning: the time of {path} lies {seconds:.0f} s in the future; check the "
            "clocks. It is used all the same: hklflow goes by what is in it",
            file=sys.stderr,
        )
    return seconds > 0


# ------------------------------------------------------------------------ inputs


def scan_at(wildcards):
    """The scan at hand; a target may name one that its sample does not have."""
    try:
        return experiment.scans[wildcards.sample, wildcards.scan]
    except KeyError:
        raise WorkflowError(
            f"{wildcards.sample} has no scan {wildcards.scan}; see {settings.scans}"
        ) from None


def rotation_at(wildcards):
    """The rotation at hand; a target may name one that its scan does not have."""
    try:
        return scan_at(wildcards).rotations[wildcards.rotation]
    except KeyError:
        raise WorkflowError(
            f"{wildcards.sample} {wildcards.scan} has no rotation {wildcards.rotation}; "
            f"see {settings.scans}"
        ) from None


def of_rotations(name):
    """Input function: this product of all rotations of the scan at hand."""
    pattern = paths.rotation(name)

    @known
    def inner(wildcards):
        return [
            pattern.format(**{**dict(wildcards.items()), "rotation": rotation})
            for rotation in scan_at(wildcards).rotations
        ]

    return inner


def of_first_rotation(name):
    """Input function: this product of the first rotation of the scan at hand."""

    @known
    def inner(wildcards):
        return of_rotations(name)(wildcards)[0]

    return inner


def of_earlier_rotations(name):
    """Input function: this product of the rotations before the one at hand, of its scan."""

    @known
    def inner(wildcards):
        rotation_at(wildcards)
        place = experiment.rotations(wildcards.sample, wildcards.scan).index(
            wildcards.rotation
        )
        return of_rotations(name)(wildcards)[:place]

    return inner


# With frame_blocks, the transform is made in parts, which `add_transforms` adds and removes.
FRAME_BLOCKS = settings.frame_blocks
TRANSFORM_WILDCARDS = ("sample", "scan", "rotation") + ("part",) * (FRAME_BLOCKS > 1)


def of_transform(name):
    """Name of what the transform writes, for a rotation or a block of its frames."""
    return temp(paths.part(name)) if FRAME_BLOCKS > 1 else paths.rotation(name)


def of_parts(name):
    """Input function: this product of all blocks of frames of the rotation at hand."""
    pattern = paths.part(name)

    @known
    def inner(wildcards):
        known_wildcards = dict(wildcards.items())
        return [
            pattern.format(**known_wildcards, part=part) for part in range(FRAME_BLOCKS)
        ]

    return inner


def of_parent(name):
    """Input function: this product of the parent of the scan at hand."""

    @known
    def inner(wildcards):
        parent = scan_at(wildcards).parent
        return paths.scan(name).format(sample=wildcards.sample, scan=parent)

    return inner


def of_scans(name):
    """Input function: this product of all scans of the sample at hand, cold to warm."""

    @known
    def inner(wildcards):
        return [
            paths.scan(name).format(sample=wildcards.sample, scan=scan)
            for scan in experiment.scans_of(wildcards.sample)
        ]

    return inner


def of_scans_rotations(name):
    """Input function: this product of all rotations of all scans of the sample at hand."""

    @known
    def inner(wildcards):
        return [
            paths.rotation(name).format(
                sample=wildcards.sample, scan=scan, rotation=rotation
            )
            for scan in experiment.scans_of(wildcards.sample)
            for rotation in experiment.rotations(wildcards.sample, scan)
        ]

    return inner


def of_stacked(name):
    """Input function: this product of the scans of the parent at hand, cold to warm."""

    @known
    def inner(wildcards):
        return [
            paths.scan(name).format(
                sample=wildcards.sample, scan=scan, kind=wildcards.kind
            )
            for scan in experiment.stacked(wildcards.sample, wildcards.parent)
        ]

    return inner


def of_kinds(name, kinds=PDF_KINDS):
    """Input function: this product of the scan at hand, of each kind that is in `delta_pdf`."""

    @known
    def inner(wildcards):
        scan_at(wildcards)
        return [
            paths.scan(name).format(**dict(wildcards.items()), kind=kind)
            for kind in kinds
        ]

    return inner


def of_reference(name):
    """Input function: this product of the scan that is subtracted from the scan at hand."""

    @known
    def inner(wildcards):
        scan_at(wildcards)
        reference = experiment.reference(wildcards.sample, wildcards.scan)
        if reference is None:
            raise WorkflowError(
                f"{wildcards.sample} {wildcards.scan} is the reference itself: there is no "
                "difference; see `difference: subtract` of the configuration"
            )
        return paths.scan(name).format(
            sample=wildcards.sample, scan=reference, kind=wildcards.kind
        )

    return inner


def with_reflections(wildcards):
    """Symmetrised volume of all pixels: the 3-D mask takes strong reflections out of the other.

    The fill measures the reflections' width in it, and the total PDF has them from it.
    """
    which = wildcards.get("which", "fill")
    if which == "delta" or (which == "fill" and wildcards.kind == "transform"):
        return []
    known_wildcards = dict(wildcards.items()) | {"kind": "transform"}
    return paths.scan("symm_{kind}.nxs").format(**known_wildcards)


@outside
def raw_files(wildcards):
    """Raw files of the rotation at hand (both ends of an image series), or their sum."""
    row = rotation_at(wildcards)
    # Sums and corrected frames are the same whatever the binning.
    of_rotation = paths.unbinned.rotation
    if experiment.is_corrected(wildcards.sample, wildcards.scan):
        return of_rotation("corrected.nxs").format(**dict(wildcards.items()))
    if row.is_sum:
        return of_rotation("sum.nxs").format(**dict(wildcards.items()))
    return experiment.raw_inputs(row)


@outside
def frame_files(wildcards):
    """Frames of the rotation at hand as they are reduced: raw files, or their block sums."""
    if settings.binning == 1:
        return raw_files.__wrapped__(wildcards)
    rotation_at(wildcards)
    return paths.rotation("binned.nxs").format(**dict(wildcards.items()))


@outside
def repeated_raw_files(wildcards):
    """Raw files of the repeated scans whose sum is the rotation at hand."""
    return experiment.raw_inputs(rotation_at(wildcards))


@outside
def linked_files(wildcards):
    """Files with the frames that light scan files link; the jobs find them through the links."""
    try:
        return experiment.linked_inputs(rotation_at(wildcards))
    except HklflowError as error:
        raise WorkflowError(str(error)) from None


@outside
def calibrated_geometry(wildcards):
    """Calibration of the rotation at hand; none if the raw file holds the geometry.

    Of a calibration store it is the immutable file of the version chosen: an index that
    changes with every proposal would make everything again.
    """
    rotation_at(wildcards)
    key = (wildcards.sample, wildcards.scan, wildcards.rotation)
    try:
        return experiment.geometry_file(*key) or []
    except HklflowError as error:
        raise WorkflowError(str(error)) from None


def used_constants(counter):
    """Input function: constants of the rotation at hand, if they are of this kind of detector."""

    @outside
    def inner(wildcards):
        rotation_at(wildcards)
        key = (wildcards.sample, wildcards.scan, wildcards.rotation)
        try:
            return experiment.constants_file(*key, counter) or []
        except HklflowError as error:
            raise WorkflowError(
                f"{error}; `snakemake constants` makes constants, `hklflow calibration accept` "
                "accepts them"
            ) from None

    return inner


@outside
def used_flat(wildcards):
    """Constants of a photon counter whose flat field, if they have one, is used for the rotation."""
    own = experiment.settings(wildcards.sample, wildcards.scan).correct_frames
    constants = used_constants(counter=True).__wrapped__
    return constants(wildcards) if own.flat_field else []


@outside
def start_of_parent(wildcards):
    """Orientation from which the refinement of the parent at hand starts, if one is given."""
    own = experiment.settings(wildcards.sample, wildcards.scan).orientation
    return str(own.start) if own.start else []


def for_model_mask(pattern):
    """Input function: this product, if the 3-D mask at hand is to hold the Bragg reflections."""

    @known
    def inner(wildcards):
        own = experiment.settings(wildcards.sample, wildcards.scan).mask_3d
        return pattern.format(**dict(wildcards.items())) if own.model else []

    return inner


@outside
def calibration_file(wildcards):
    """The calibrant image or the PONI file."""
    entry = settings.calibrations[wildcards.calibration]
    return getattr(entry, "poni", None) or entry.image


POWDER = [name for name, c in settings.calibrations.items() if hasattr(c, "image")]
PONI = [name for name, c in settings.calibrations.items() if hasattr(c, "poni")]


def files_of(section):
    """Input function: files that the parameters of a section name."""
    found = {}

    @outside
    def inner(wildcards):
        own = getattr(experiment.settings(wildcards.sample, wildcards.scan), section)
        if id(own) not in found:
            found[id(own)] = hklconfig.files(own)
        return found[id(own)]

    return inner


def quoted(function):
    """Params function: files of an input function for the shell, wherever their times lie."""

    @known
    def inner(wildcards):
        files = function.__wrapped__(wildcards)
        return shlex.join([files] if isinstance(files, str) else files)

    return inner


def braced(name):
    """Params function: the input files of this name for the shell, as `a/{b,c}/d`.

    Of an input function of files from outside, they are its files.

    A command is one argument of the shell, which takes 128 kB: a thousand paths in full
    would not go in.
    """

    @known
    def inner(wildcards, input):
        found = input[name] if isinstance(name, str) else name.__wrapped__(wildcards)
        files = [str(path) for path in found]
        if len(files) == 1:
            return shlex.quote(files[0])
        start = os.path.commonprefix(files)
        start = start[: start.rfind(os.sep) + 1]
        tails = [path[len(start) :] for path in files]
        # Names of samples, scans and rotations need no quotes; the folder of the results may.
        end = os.path.commonprefix([tail[::-1] for tail in tails])[::-1]
        end = end[end.find(os.sep) :] if os.sep in end else ""
        middles = ",".join(tail[: len(tail) - len(end)] for tail in tails)
        return f"{shlex.quote(start)}{{{middles}}}{shlex.quote(end)}"

    return inner


def crossed(name):
    """Params function: like `braced`, for many products of many scans, as `a/{b,c}/{d,e}`."""

    @known
    def inner(wildcards, input):
        samples = dict(wildcards.items()).get("sample")
        samples = [samples] if samples else list(experiment.used_samples())
        left, words = [str(path) for path in input[name]], []
        for sample in samples:
            start = os.path.dirname(paths.page()).format(sample=sample) + os.sep
            folders, others = {}, []
            for path in left:
                own = path.removeprefix(start)
                if path.startswith(start) and os.sep in own:
                    folder, _, product = own.partition(os.sep)
                    folders.setdefault(folder, []).append(product)
                else:
                    others.append(path)
            alike, left = {}, others
            for folder, products in folders.items():
                alike.setdefault(tuple(products), []).append(folder)
            words += [
                f"{shlex.quote(start)}{choice(folders)}{os.sep}{choice(products)}"
                for products, folders in alike.items()
            ]
        return " ".join(words + [shlex.quote(path) for path in left])

    return inner


def choice(names):
    """Names in braces for the shell; one name as it is."""
    return names[0] if len(names) == 1 else "{" + ",".join(names) + "}"


# -------------------------------------------------------------------- parameters


def optional(**names):
    """Params function: flags of inputs that may be empty: their names, or input functions."""

    @known
    def inner(wildcards, input):
        found = {
            flag: input[name] if isinstance(name, str) else name.__wrapped__(wildcards)
            for flag, name in names.items()
        }
        given = {flag: [f] if isinstance(f, str) else f for flag, f in found.items()}
        return " ".join(
            f"--{flag.replace('_', '-')} {shlex.join(map(str, files))}"
            for flag, files in given.items()
            if files
        )

    return inner


def flags_of(parameters):
    """Params function: command-line flags of what `parameters(wildcards)` returns."""

    @known
    def inner(wildcards):
        return hklconfig.flags(parameters(wildcards))

    return inner


def section_flags(section):
    """Params function: command-line flags of a section, as the scan at hand has it."""
    told = {}

    @known
    def inner(wildcards):
        own = getattr(experiment.settings(wildcards.sample, wildcards.scan), section)
        if id(own) not in told:
            told[id(own)] = hklconfig.flags(own)
        return told[id(own)]

    return inner


def scan_flags(parameters):
    """Params function: command-line flags of what `parameters(sample, scan)` returns."""
    told = {}

    @known
    def inner(wildcards):
        key = (wildcards.sample, wildcards.scan)
        own = id(experiment.settings(*key))
        if own not in told:
            told[own] = hklconfig.flags(parameters(*key))
        return told[own]

    return inner


def sample_flags(section):
    """Params function: command-line flags of a section, as the sample at hand has it."""

    @known
    def inner(wildcards):
        return hklconfig.flags(getattr(experiment.settings(wildcards.sample), section))

    return inner


def calibration_flags(wildcards):
    """Flags of a calibration; its file is an input, not a parameter."""
    entry = settings.calibrations[wildcards.calibration]
    return hklconfig.flags(entry, leave_out=("image", "poni"))


def described(wildcards):
    """JSON description of one simulated raw file."""
    description = hklconfig.simulation_description(experiment, wildcards.raw)
    return description.model_dump_json(exclude_defaults=True)


def resolved(wildcards):
    """The scan's configuration as the layers make it, as JSON."""
    return experiment.resolved_json(wildcards.sample, wildcards.scan)


# --------------------------------------------------------------------- resources


def memory(rule):
    """Resource function: MB from the shape of the data; doubles with every retry."""

    @known
    def inner(wildcards, attempt):
        return estimate.memory_mb(rule, **dict(wildcards.items())) * 2 ** (attempt - 1)

    return inner


def minutes(rule):
    """Resource function: wall time from the shape of the data; doubles with every retry."""

    @known
    def inner(wildcards, attempt):
        return estimate.minutes(rule, **dict(wildcards.items())) * 2 ** (attempt - 1)

    return inner


# `retries:` of a rule is obeyed a second time inside a cluster job; this is not.
RETRIES = 1 if workflow.is_main_process else 0
