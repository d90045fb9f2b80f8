# What all rules share: the validated experiment, and functions that find a job's inputs.
import re
import shlex
import sys
from pathlib import Path

from hklflow import config as hklconfig, stages
from hklflow.errors import HklflowError

try:
    experiment = hklconfig.load(config, Path.cwd())
except HklflowError as error:
    print(f"hklflow: {error}", file=sys.stderr)
    sys.exit(2)

paths = experiment.paths
settings = experiment.config


def one_of(names):
    """Wildcard constraint: one of these names (or nothing, if there are none)."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


wildcard_constraints:
    sample=one_of(experiment.samples),
    scan=one_of({scan for _, scan in experiment.scans}),
    rotation=one_of({rotation for _, _, rotation in experiment.all_rotations()}),
    kind="transform|masked_transform",


def of_rotations(name):
    """Input function: this product of all rotations of the scan at hand."""

    def inner(wildcards):
        return [
            paths.rotation(name).format(
                **{**dict(wildcards.items()), "rotation": rotation}
            )
            for rotation in experiment.rotations(wildcards.sample, wildcards.scan)
        ]

    return inner


def of_first_rotation(name):
    """Input function: this product of the first rotation of the scan at hand."""

    def inner(wildcards):
        return of_rotations(name)(wildcards)[0]

    return inner


def of_parent(name):
    """Input function: this product of the parent of the scan at hand."""

    def inner(wildcards):
        parent = experiment.scans[wildcards.sample, wildcards.scan].parent
        return paths.scan(name).format(sample=wildcards.sample, scan=parent)

    return inner


def flags_of(parameters):
    """Params function: command-line flags of what `parameters(wildcards)` returns."""

    def inner(wildcards):
        return hklconfig.flags(parameters(wildcards))

    return inner


def every_product(wildcards):
    """All products of all scans."""
    wanted = [paths.overview("summary.tsv"), paths.overview("series.png")]
    used = {experiment.rotation(*key).calibration for key in experiment.all_rotations()}
    wanted += [
        paths.calibration("geometry.json").format(calibration=name)
        for name in sorted(used - {None})
    ]
    for sample, scan in experiment.scans:
        names = ["orientation.json", "transform.nxs", "masked_transform.nxs"]
        wanted += [paths.scan(name).format(sample=sample, scan=scan) for name in names]
        wanted.append(paths.master().format(sample=sample, scan=scan))
        parent = experiment.scans[sample, scan].parent
        wanted.append(paths.scan("parent.json").format(sample=sample, scan=parent))
    for sample, scan, rotation in experiment.all_rotations():
        for name in ROTATION_PRODUCTS:
            product = paths.rotation(name)
            wanted.append(product.format(sample=sample, scan=scan, rotation=rotation))
    return wanted


ROTATION_PRODUCTS = (
    "scan.nxs",
    "mask.nxs",
    "statistics.nxs",
    "peaks.nxs",
    "frame_mask.nxs",
    "transform.nxs",
    "masked_transform.nxs",
)


def frames_mb(wildcards, attempt):
    """Memory of a pass over the frames in MB: a few blocks; doubles with every retry."""
    return 1500 * 2 ** (attempt - 1)


def calibration_file(wildcards):
    """The calibrant image or the PONI file."""
    entry = settings.calibrations[wildcards.calibration]
    return getattr(entry, "poni", None) or entry.image


def calibration_flags(wildcards):
    """Flags of a calibration; its file is an input, not a parameter."""
    entry = settings.calibrations[wildcards.calibration]
    return hklconfig.flags(entry, leave_out=("image", "poni"))


POWDER = [name for name, c in settings.calibrations.items() if hasattr(c, "image")]
PONI = [name for name, c in settings.calibrations.items() if hasattr(c, "poni")]


def raw_files(wildcards):
    """Raw files of the rotation at hand (both ends of an image series)."""
    return experiment.raw_inputs(
        experiment.rotation(wildcards.sample, wildcards.scan, wildcards.rotation)
    )


def calibrated_geometry(wildcards):
    """Calibration of the rotation at hand; none if the raw file holds the geometry."""
    row = experiment.rotation(wildcards.sample, wildcards.scan, wildcards.rotation)
    if row.calibration is None:
        return []
    return paths.calibration("geometry.json").format(calibration=row.calibration)


def volume_mb(wildcards, attempt):
    """Memory of a transform or merge in MB: some volumes; doubles with every retry."""
    return 4000 * 2 ** (attempt - 1)


def described(wildcards):
    """JSON description of one simulated raw file."""
    description = hklconfig.simulation_description(experiment, wildcards.raw)
    return description.model_dump_json(exclude_defaults=True)


# `retries:` of a rule is obeyed a second time inside a cluster job; this is not.
RETRIES = 1 if workflow.is_main_process else 0
