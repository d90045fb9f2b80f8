"""Rehearse all jobs: what they would refuse before they read the pixels of frames.

The jobs of a rotation are rehearsed in their order, then the jobs of its scan. A stage with tests
that need no pixels has a function ``rehearse`` (see `hklflow.stage.rehearsal`), which makes them by
the functions of its `main`; so a refusal is the same sentence here and in the job. Of all other
jobs, the command lines are written and the files from outside are looked for.
"""

import contextlib
import io
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hklflow.base import system
from hklflow.base.errors import HklflowError
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.flags import flags
from hklflow.experiment.jobs import Job, Plan
from hklflow.experiment.tables import Rotation
from hklflow.stage.contract import files_read, require_input
from hklflow.stage.rehearsal import Known


@dataclass
class Refusal:
    """A sentence of one or more jobs.

    Attributes
    ----------
    where : str
        Row, section or job of the first.
    sentence : str
    others : list of str
        Names of the other jobs, whose sentences differ in the name of the raw file only.
    """

    where: str
    sentence: str
    others: list[str] = field(default_factory=list)

    @property
    def problem(self) -> str:
        """Line for a list of problems."""
        n = len(self.others)
        more = "" if not n else f" (and {n} more job{'s' * (n > 1)}: {', '.join(self.others[:3])}"
        return f"{self.where}: {self.sentence}{more}{', ...' * (n > 3)}{')' * (n > 0)}"


def refusals(experiment: Experiment) -> list[Refusal]:
    """Return what the jobs would refuse before they read pixels; alike sentences together."""
    return rehearsed(experiment)[0]


def rehearsed(experiment: Experiment) -> tuple[list[Refusal], list[str]]:
    """Return the refusals, and notes of the jobs."""
    found: dict[str, Refusal] = {}
    jobs = Plan(experiment).jobs
    known = Known({Path(path): None for job in jobs for path in job.outputs.values()})
    with contextlib.chdir(experiment.base):
        # Only the jobs of a rotation itself read its images.
        for _, group in itertools.groupby(jobs, lambda job: job.key):
            of_rotation = list(group)
            for job in of_rotation:
                if (sentence := _refused(job, known)) is not None:
                    _add(found, job, sentence)
            paths = (Path(path) for job in of_rotation for path in job.outputs.values())
            known.forget_images(paths)
    return list(found.values()), known.notes


def _add(found: dict[str, Refusal], job: Job, sentence: str) -> None:
    """Add the sentence of a job to the refusals, or to the other jobs of an alike sentence."""
    raw = str(getattr(_row(job), "raw", "")) or "\0"
    alike = found.setdefault(sentence.replace(raw, "\0"), Refusal(_where(job), sentence))
    if alike.sentence != sentence or alike.where != _where(job):
        alike.others.append(job.name)


def _refused(job: Job, known: Known) -> str | None:
    """Return the sentence with which a job would end before it reads pixels; None: with none."""
    try:
        params = job.params
        flags(params)
        stage = job.step.stage
        inputs, outputs = stage.Inputs(**inputs_of(job)), stage.Outputs(**job.outputs)
        for field_, paths in files_read(inputs, params).items():
            for path in paths:
                if path not in known.products:
                    require_input(field_, path)
        if hasattr(stage, "rehearse"):
            # What a stage prints is for its log.
            with contextlib.redirect_stdout(io.StringIO()):
                stage.rehearse(inputs=inputs, outputs=outputs, params=params, known=known)
    except HklflowError as error:
        return system.too_many_files(error) or str(error)
    except OSError as error:
        if (lack := system.sentence(error)) is not None:
            return lack
        raise
    return None


def inputs_of(job: Job) -> dict[str, Any]:
    """Return the inputs on the command line by the stage's names."""
    fields = job.step.stage.Inputs.model_fields
    found: dict[str, Any] = {}
    for name in job.step.on_command_line:
        if name in fields and (files := job.files(name)):
            found[name] = files if "list" in str(fields[name].annotation) else files[0]
    return found


def _row(job: Job) -> Rotation | None:
    if "rotation" not in job.at:
        return None
    return job.plan.experiment.rotation(job.at["sample"], job.at["scan"], job.at["rotation"])


def _where(job: Job) -> str:
    """Return the place of a job's facts: row of a table or section of the configuration."""
    row = _row(job)
    if row is not None:
        return f"{row.where} ({job.rule})"
    if "calibration" in job.at:
        return f"config: calibrations.{job.at['calibration']}"
    return job.name
