"""The jobs of an experiment, with their products, inputs and parameters.

The jobs follow from the table of steps (`hklflow.experiment.steps`) and the tables of the
experiment. The rules of the workflow run these jobs, `hklflow status` shows them, and `hklflow
check` counts them. `hklflow.experiment.freshness` compares the jobs with the records in their
products.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hklflow.base.errors import HklflowError
from hklflow.experiment.step import Output, Step, Wildcards
from hklflow.experiment.steps import STEPS, STRUCTURE_FACTORS
from hklflow.experiment.steps_constants import CONSTANTS_STEPS
from hklflow.experiment.steps_stills import STILLS_STEPS
from hklflow.stage import Params

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment


@dataclass(frozen=True)
class Recipe:
    """Stage, parameters and inputs of one run of a stage.

    Attributes
    ----------
    stage : str
    params : model
    inputs : tuple of str
        All input files, relative to the experiment, except files that are parameters.
    """

    stage: str
    params: Params
    inputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Job:
    """One job of a step.

    Two job objects are never equal.

    Attributes
    ----------
    plan : Plan
    step : Step
    at : mapping of str to str
        Wildcards of the job.
    before : tuple of Job
        Jobs that this job joins; their products are then removed.
    """

    plan: "Plan" = field(repr=False)
    step: Step = field(repr=False)
    at: Wildcards
    before: tuple["Job", ...] = ()

    @property
    def rule(self) -> str:
        """Name of the snakemake rule."""
        return self.step.rule

    @property
    def column(self) -> str:
        """Group of steps in `hklflow status`."""
        of_calibration = "raw" in self.at and len(self.key) == 1
        return "calibration" if of_calibration else self.step.column

    @property
    def key(self) -> tuple[str, ...]:
        """Sample, scan and rotation of the job (those that exist), or the name of a calibration."""
        if "raw" in self.at:
            return self.plan.owner_of_raw(self.at["raw"])
        return tuple(self.at[name] for name in self.step.level.wildcards[: self.step.level.key])

    @property
    def name(self) -> str:
        """Name of the job in messages."""
        return f"{' '.join(self.key)} {self.rule}".strip()

    # ------------------------------------------------------------------ products

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Path of each output, relative to the experiment, by the name of the output."""
        return {
            name: self.step.pattern(self.plan.paths, output).format(**self.at)
            for name, output in self.step.writes.items()
        }

    @cached_property
    def products(self) -> tuple[str, ...]:
        """Paths of the outputs that are kept."""
        return () if self.step.is_temporary else tuple(self.outputs.values())

    @property
    def parts(self) -> tuple[str, ...]:
        """Paths of the outputs of the joined jobs, which are removed in the end."""
        return tuple(path for job in self.before for path in job.outputs.values())

    def _outputs(self, chosen: "Iterable[tuple[str, Output]]") -> tuple[str, ...]:
        return tuple(self.outputs[name] for name, _ in chosen)

    @property
    def figures(self) -> tuple[str, ...]:
        """Products with numbers and sentences for the page and the verdict."""
        return self._outputs(item for item in self.step.writes.items() if item[1].figures)

    @property
    def pictures(self) -> tuple[str, ...]:
        """Pictures that the page shows."""
        return tuple(path for path in self.outputs.values() if path.endswith(".png"))

    # -------------------------------------------------------------------- inputs

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Products of other jobs that this job reads."""
        found = [
            path
            for job in (*self.before, self)
            for source in job.step.reads.values()
            for path in source.products(self.plan, job.at)
        ]
        parts = set(self.parts)
        return tuple(path for path in dict.fromkeys(found) if path not in parts)

    def files(self, name: str) -> list[str]:
        """Return the files of an input, by its name in the table of steps."""
        return self.step.reads[name].files(self.plan, self.at)

    @property
    def logs(self) -> tuple[str, ...]:
        """Logs of the joined jobs, then of this job."""
        pattern = self.step.log(self.plan.paths)
        return (*(log for job in self.before for log in job.logs), pattern.format(**self.at))

    @property
    def params(self) -> Params:
        """Parameters of the stage."""
        return self.step.params(self.plan.experiment, self.at)

    def recipes(self) -> list[Recipe]:
        """Return the runs of stages that make the products; the run of this job is the last.

        Raises
        ------
        HklflowError
            If a calibration store has no version for the job.
        """
        read = {name: self.files(name) for name in self.step.on_command_line}
        # The flat field of a job may be a product: then it is a parameter on the command line.
        fields = self.step.stage.Params.model_fields
        given = {name: Path(paths[0]) for name, paths in read.items() if name in fields and paths}
        params = self.params.model_copy(update=given) if given else self.params
        own = Recipe(self.rule, params, tuple(path for paths in read.values() for path in paths))
        return [*(recipe for job in self.before for recipe in job.recipes()), own]


def _is_of_rotation(job: Job) -> bool:
    """Return True for a job of one rotation; in lists, such jobs follow the jobs of whole scans."""
    return "rotation" in job.at


class _Constants(Job):
    """One job of `hklflow status` for all steps that make the constants of a detector."""

    inputs = ()
    logs = ()

    def recipes(self) -> list[Recipe]:
        """Return no runs, because each step of the constants has its own run."""
        return []


class Plan:
    """The jobs of an experiment.

    Parameters
    ----------
    experiment : Experiment
    """

    def __init__(self, experiment: "Experiment") -> None:
        self.experiment, self.paths = experiment, experiment.paths
        n_before = next(i for i, step in enumerate(STEPS) if "sample" in step.wildcards)
        table = (*STEPS[:n_before], *CONSTANTS_STEPS, *STILLS_STEPS, *STEPS[n_before:])
        self.steps = {step.rule: step for step in table if step.exists(experiment.config)}

    # ---------------------------------------------------------------------- jobs

    def job(self, rule: str, **at: str) -> Job:
        """Return one job, also if its products are made only on request.

        Raises
        ------
        HklflowError
            If there is no such scan or rotation.
        """
        self._require_row(at)
        return Job(self, self.steps[rule], at)

    def _require_row(self, at: Wildcards) -> None:
        table = self.experiment.config.scans
        for name in ("scan", "parent"):
            if name in at and (at["sample"], at[name]) not in self.experiment.scans:
                raise HklflowError(f"{at['sample']} has no scan {at[name]}; see {table}")
        if "crystals" in at and at["crystals"] not in self.experiment.config.crystals:
            raise HklflowError(f"there is no set {at['crystals']} in `crystals`; correct the name")
        if "rotation" in at:
            rotations = self.experiment.rotations(at["sample"], at["scan"])
            if at["rotation"] not in rotations:
                raise HklflowError(
                    f"{at['sample']} {at['scan']} has no rotation {at['rotation']}; see {table}"
                )

    def _jobs_of(self, step: Step) -> Iterator[Job]:
        for at in step.level.every(self.experiment):
            for more in step.runs(self, at):
                yield Job(self, step, {**at, **more} if more else at)

    @cached_property
    def jobs(self) -> list[Job]:
        """Return all jobs that `snakemake` has to run, in the order of the tables."""
        config = self.experiment.config
        used = [step for step in self.steps.values() if step.in_all(config)]
        jobs = [job for step in used for job in self._jobs_of(step)]
        return sorted(jobs, key=self._place)

    @cached_property
    def _numbers(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """Return the sort key of each scan, rotation and sample: its position in the tables."""
        numbers: dict[tuple[str, ...], tuple[int, ...]] = {}
        for i, (key, scan) in enumerate(self.experiment.scans.items()):
            for j, rotation in enumerate(scan.rotations):
                numbers[(*key, rotation)] = (2, i, j)
            numbers[key] = (2, i, len(scan.rotations))
        for i, sample in enumerate(self.experiment.used_samples()):
            numbers[(sample,)] = (3, i)
        return numbers

    def _place(self, job: Job) -> tuple[int, ...]:
        """Return the sort key: calibrations, constants, stills, rotations, scans, samples, rest."""
        if not job.key:
            return (4,)
        if "constants" in job.at:
            return (1,)
        if "stills" in job.at:
            return (1, 1)
        if job.column == "calibration":
            return (0,)
        of_sample = "parent" in job.at or "crystals" in job.at
        return self._numbers[job.key[:1] if of_sample else job.key]

    @cached_property
    def lasting(self) -> list[Job]:
        """Return the jobs with products that are kept; each contains the jobs that it joins."""
        parts: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
        for job in self.jobs:
            if job.step.parts_of:
                parts.setdefault((job.step.parts_of, job.key), []).append(job)
        return [
            replace(job, before=tuple(parts.get((job.rule, job.key), ())))
            for job in self.jobs
            if job.products
        ]

    @cached_property
    def of_status(self) -> list[Job]:
        """Return the jobs in `hklflow status`, with one job for all constants of a detector."""
        shown: list[Job] = []
        whole = {"constants": Output("constants.nxs")}
        for job in self.lasting:
            if "constants" not in job.at:
                shown.append(job)
            elif whole["constants"] in job.step.writes.values():
                step = replace(job.step, rule="constants", writes=whole)
                shown.append(_Constants(self, step, job.at))
        return shown

    # ------------------------------------------------------------------- for steps

    def owner_of_raw(self, raw: str) -> tuple[str, ...]:
        """Return the rotation of a simulated raw file, or the calibration of a powder image."""
        return self.experiment.raws.get(raw) or (self._images[raw],)

    @cached_property
    def _images(self) -> dict[str, str]:
        calibrations = self.experiment.config.calibrations.items()
        return {str(getattr(entry, "image", "")): name for name, entry in calibrations}

    def shown_of(self, sample: str) -> list[Job]:
        """Return the jobs whose pictures and numbers are on the page of a sample."""
        of_sample = [key for key in self.experiment.all_rotations() if key[0] == sample]
        calibrations = {self.experiment.rotation(*key).calibration for key in of_sample}
        jobs = [
            job
            for job in self.jobs
            if job.at.get("sample") == sample or job.at.get("calibration") in calibrations - {None}
        ]
        return sorted(jobs, key=_is_of_rotation)

    def of_scans(self) -> list[Job]:
        """Return the jobs of scans and rotations."""
        return sorted((job for job in self.jobs if "scan" in job.at), key=_is_of_rotation)

    # --------------------------------------------------------------------- targets

    def goals(self, group: str = "all") -> list[str]:
        """Return the products of a target of snakemake.

        Intermediate products are included. A stage that fails deletes its old product; from the
        final files alone, snakemake would then take outdated final files for finished.

        Parameters
        ----------
        group : {"all", "constants", "stills", "bragg"}
        """
        if group == "bragg":
            steps = [step for step in self.steps.values() if step.rule in STRUCTURE_FACTORS]
            jobs: Iterable[Job] = (job for step in steps for job in self._jobs_of(step))
        else:
            jobs = (job for job in self.jobs if group in ("all", job.column))
            # Simulated raw files are no goals, because the user may remove them after use.
            jobs = (job for job in jobs if "raw" not in job.at)
        return [product for job in jobs for product in job.products]


Key = tuple[str | None, str | None, str | None]
"""Sample, scan and rotation of a job; None for a wildcard that the rule does not have."""


def job_counts(experiment: "Experiment") -> dict[str, dict[Key, int]]:
    """Return the number of jobs of each rule, by sample, scan and rotation."""
    plan = Plan(experiment)
    counts: dict[str, Counter[Key]] = {rule: Counter() for rule in plan.steps}
    for job in plan.jobs:
        counts[job.rule][shape_key(job)] += 1
    return {rule: dict(keys) for rule, keys in counts.items() if keys}


def shape_key(job: Job) -> Key:
    """Return the sample, scan and rotation whose data a job reads."""
    key = job.key if "sample" in job.at or len(job.key) == 3 else ()
    sample, scan, rotation = (*key, None, None, None)[:3]
    return sample, scan, rotation
