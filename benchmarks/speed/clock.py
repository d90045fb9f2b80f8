"""CPU seconds and memory of a process; runs in every environment, so it imports nothing else."""

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Clock:
    """Sums CPU seconds (user and system, all threads) and wall seconds of what it is around."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.wall = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block."""
        cpu, wall = _cpu(), time.perf_counter()
        yield
        self.cpu += _cpu() - cpu
        self.wall += time.perf_counter() - wall


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mb() -> float:
    """Largest resident memory of this process so far, MB.

    Not `ru_maxrss`: Linux hands that of the parent on to a new program.
    """
    return _status("VmHWM")


def resident_mb() -> float:
    """Resident memory of this process now, MB."""
    return _status("VmRSS")


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def tell(clock: Clock, pixels: float, **more: object) -> None:
    """Print the result as the line that `jobs.run` reads."""
    told = {"cpu": clock.cpu, "wall": clock.wall, "pixels": pixels, "mb": peak_mb()} | more
    print("RESULT " + json.dumps(told), flush=True)
