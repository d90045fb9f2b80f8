"""Predict the wall time of all jobs of an experiment on a number of cores."""

import heapq
from collections.abc import Sequence

from hklflow.experiment.jobs import Job


def wall_seconds(jobs: Sequence[Job], seconds: Sequence[float], cores: int) -> float:
    """Return the wall time of jobs that wait for their inputs, in seconds.

    A core that is free takes the first job, in the order of the tables, that has all inputs.

    Parameters
    ----------
    jobs, seconds : sequences
        All jobs of an experiment, and the time of each on one core.
    cores : int
    """
    makers = {path: i for i, job in enumerate(jobs) for path in job.outputs.values()}
    missing = [{makers[path] for path in job.inputs if path in makers} for job in jobs]
    followers: list[list[int]] = [[] for _ in jobs]
    for i, before in enumerate(missing):
        for j in before:
            followers[j].append(i)
    ready = [i for i, before in enumerate(missing) if not before]
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < cores:
            i = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[i], i))
        now, done = heapq.heappop(running)
        for i in followers[done]:
            missing[i].discard(done)
            if not missing[i]:
                heapq.heappush(ready, i)
    return now
