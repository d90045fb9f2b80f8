"""Run a job in a process of its own and measure it; what the peers need for it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FRAME = 1024**2
DIALS_HINT = "not installed (no dials.version on PATH; Debian: apt-get install dials)"
PIP_HINT = "not installed (make bench installs benchmarks/requirements-peers.txt)"


@dataclass(frozen=True)
class Job:
    """One contender on one piece of work.

    Attributes
    ----------
    part, name : str
        Table and row.
    command : list of str
        A worker that prints RESULT, or a program (`pixels` is then not 0).
    grid : int
        Voxels along each axis; 0 where there is no volume.
    frames : int
    pixels : float
        Of a program: raw pixels it treats.
    less : str or None
        Key of the run on four frames whose cost is taken off, for programs whose start-up and
        writing are not to count.
    shown : bool
        False: only taken off others.
    once : bool
        Run in the first round only.
    missing : str or None
        Why it cannot run.
    includes : str
    """

    part: str
    name: str
    command: list[str]
    grid: int = 0
    frames: int = 0
    pixels: float = 0.0
    less: str | None = None
    shown: bool = True
    once: bool = False
    missing: str | None = None
    includes: str = ""

    @property
    def key(self) -> str:
        """Unique name."""
        return f"{self.part} | {self.name} | {self.grid} | {self.frames}"


@dataclass(frozen=True)
class Place:
    """Where things are."""

    folder: Path
    scratch: Path
    peers: str
    """Python of the peers' environment."""
    frames: int
    """Frames for hklflow."""
    cbf: int
    """Frames that exist as CBF."""

    def ours(self, work: str, *arguments: object) -> list[str]:
        """Command of a worker of hklflow's environment."""
        return python_module(sys.executable, "ours", work, self.folder, *arguments)

    def peer(self, work: str, *arguments: object) -> list[str]:
        """Command of a worker of the peers' environment."""
        return python_module(self.peers, "peers", work, self.folder, *arguments)


def python_module(python: str, module: str, *arguments: object) -> list[str]:
    """Command that runs a module of this package."""
    return [python, "-m", f"benchmarks.speed.{module}", *map(str, arguments)]


def absent(place: Place, module: str) -> str | None:
    """Why a module of the peers cannot be used."""
    try:
        command = [place.peers, "-W", "ignore", "-c", f"import {module}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(command))
    except OSError:
        return PIP_HINT
    if not done.returncode:
        return None
    problem = done.stderr.strip().splitlines()[-1]
    return PIP_HINT if "No module named" in problem else f"cannot be imported: {problem}"


def dials_absent() -> str | None:
    """Why DIALS cannot be used."""
    return None if shutil.which("dials.version") else DIALS_HINT


def dials(place: Place) -> Path:
    """Folder of the experiment files; `prepare_dials` makes it."""
    return place.folder / "dials"


def prepare_dials(place: Place) -> None:
    """Import the frames once; slices of them are what the programs are given."""
    if dials_absent():
        return
    folder = dials(place)
    folder.mkdir(exist_ok=True)
    images = sorted(map(str, (place.folder / "cbf").glob("*.cbf")))
    sources = {"nxs": [str(place.folder / "a.nxs")], "cbf": images}
    wanted = {"nxs": {4, 20, min(64, place.frames)}, "cbf": {4}}
    for counts in wanted.values():
        counts.add(min(place.cbf, place.frames))
    for source, files in sources.items():
        imported = folder / f"{source}.expt"
        if not imported.exists():
            call(["dials.import", *files, f"output.experiments={imported}"], folder)
        for n in wanted[source]:
            if not (folder / f"{source}_1_{n}.expt").exists():
                call(["dials.slice_sequence", str(imported), f"image_range=1,{n}"], folder)


def environment(command: list[str]) -> dict[str, str]:
    """One thread for every library; nothing of hklflow's environment for others."""
    names = ("OMP", "OPENBLAS", "MKL", "BLIS")
    new = dict(os.environ) | {f"{name}_NUM_THREADS": "1" for name in names}
    new["PYTHONWARNINGS"] = "ignore"
    if command[0] != sys.executable:
        new.pop("PYTHONPATH", None)
    if command[0].startswith("dials.") and "HDF5_PLUGIN_PATH" not in new:
        # HDF5 1.10 of Debian's DIALS has no bitshuffle of its own.
        found = importlib.util.find_spec("hdf5plugin")
        assert found is not None
        assert found.origin is not None
        new["HDF5_PLUGIN_PATH"] = str(Path(found.origin).parent / "plugins")
    return new


def call(command: list[str], cwd: Path) -> None:
    """Run a step of the preparation."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(command), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stdout[-2000:]}{done.stderr}")


def run(job: Job, place: Place) -> dict[str, Any]:
    """Run a job; its CPU and wall seconds, pixels and peak memory, or why it failed."""
    root = Path(__file__).resolve().parents[2]
    log = place.scratch / "stdout.txt"
    with log.open("w") as out, (place.scratch / "stderr.txt").open("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            job.command, cwd=root, env=environment(job.command), stdout=out, stderr=err
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        if status:
            err.seek(0)
            last = err.read().strip().splitlines()
            return {"failed": last[-1][:200] if last else f"status {status}"}
    if job.pixels:
        cpu = usage.ru_utime + usage.ru_stime
        mb = usage.ru_maxrss / 1024
        return {"cpu": cpu, "wall": wall, "pixels": job.pixels, "mb": mb}
    told = [line for line in log.read_text().splitlines() if line.startswith("RESULT ")]
    result: dict[str, Any] = {"failed": "no result"}
    return json.loads(told[-1].removeprefix("RESULT ")) if told else result
