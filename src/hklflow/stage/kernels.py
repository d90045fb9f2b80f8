"""Compile the kernels of a stage before it runs, once for all jobs that need them."""

import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from hklflow.base import kernel_cache
from hklflow.simd import private


def ensure(group: str) -> None:
    """Compile a group of kernels unless it is compiled already; other jobs that need it wait.

    Without this step, all jobs that start together on a new installation would compile the same
    kernels. If the file system does not support locks, or nothing can be precompiled, each job
    compiles its own kernels.

    Parameters
    ----------
    group : str
        Name of the group in `hklflow.experiment.warm`.
    """
    done = marker(group)
    if done is None or done.exists():
        return
    with suppress(OSError), done.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return
        print(f"compiling the kernels of {group}, once for this installation", flush=True)
        command = [sys.executable, "-m", "hklflow.experiment.warm", group]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


def marker(group: str) -> Path | None:
    """Return the file that marks a group as compiled for this installation and processor."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    state = kernel_cache.state(Path(__file__).parents[1])
    words = group, state, sys.implementation.cache_tag, private.processor()
    return Path(folder) / f"{'-'.join(words)}.done" if folder else None
