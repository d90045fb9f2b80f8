"""Estimate how long the jobs that are left will take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hklflow.base.errors import HklflowError
from hklflow.cli.progress import DONE, RUN, Progress

if TYPE_CHECKING:
    from hklflow.experiment.config import Experiment
    from hklflow.experiment.cost import Shape
    from hklflow.experiment.jobs import Job


@dataclass(frozen=True)
class TimeLeft:
    """Time that is left of a run: ``seconds``, with ``at_a_time`` jobs at a time, as now."""

    seconds: float
    at_a_time: int

    def __str__(self) -> str:
        jobs = f"{self.at_a_time} job{'s' * (self.at_a_time > 1)} at a time"
        return f"about {_words(self.seconds)} left ({jobs})"


def time_left(
    experiment: "Experiment", progress: Progress, jobs: "Sequence[Job]"
) -> TimeLeft | None:
    """Return the time that is left; None if no job runs, or the frames cannot be read.

    Jobs take the time of those that have ended, or else that of the estimate of `hklflow check`. A
    running job has done half of its work. What waits for what is not considered.
    """
    from hklflow.experiment.cost import Estimate

    states = [(job, progress.of(job).state) for job in jobs]
    at_a_time = sum(state == RUN for _, state in states)
    if at_a_time == 0:
        return None
    estimate = Estimate(experiment)
    shapes: dict[tuple[str, ...], Shape] = {}
    seconds = 0.0
    for job, state in states:
        if state == DONE:
            continue
        key = job.key[:2] if job.key[:2] in experiment.scans else ()
        if key not in shapes:
            try:
                shapes[key] = estimate.shape(*key)
            except HklflowError:
                return None
        seconds += estimate.seconds(job.rule, shapes[key]) * (0.5 if state == RUN else 1.0)
    return TimeLeft(seconds / at_a_time, at_a_time)


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
