"""Snakemake that asks Slurm for the state of its jobs every two seconds.

    python -m tests.slurm.impatient ARGUMENTS

The executor waits ten seconds longer after each look that finds nothing new, and no option bounds
it: jobs that take seconds would be waited for by minutes.
"""

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

SECONDS = 2.0


async def _sleep(executor: RemoteExecutor) -> None:
    await asyncio.sleep(min(SECONDS, executor.next_seconds_between_status_checks))


if __name__ == "__main__":
    RemoteExecutor.sleep = _sleep
    sys.argv[0] = "snakemake"
    main()
