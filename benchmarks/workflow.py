"""Simulated experiments, and the jobs of their workflow one by one.

`write` makes an experiment, `jobs` lists the commands of all its jobs as snakemake would run them,
`run` runs a command and measures it.

    python -m benchmarks.workflow RAW     # the decoder alone: one pass over the frames of a file

prints CPU seconds and peak memory (MB) of the decoder, without imports and the load of its kernel.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).parents[1]
_DEMO = _ROOT / "demo/config/config.yaml"
_JOB = re.compile(r"Job \d+: (.*)")
_STAGE = re.compile(r"python -m hklflow\.stages\.(\w+)")
# A small process starts the job: Linux counts the memory of the parent as memory of a new program.
_MEASURE = """
import json, os, sys, time
start = time.perf_counter()
pid = os.fork()
if pid == 0:
    os.execvp("bash", ["bash", "-c", sys.argv[1]])
_, status, used = os.wait4(pid, 0)
wall = time.perf_counter() - start
print(json.dumps([status, used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024]))
"""
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}


@dataclass(frozen=True)
class Kind:
    """A crystal with its scattering, as in the section `simulation` of the configuration."""

    group: str
    limits: tuple[float, float, float]
    flux: float
    crystal: Mapping[str, Any]
    diffuse: Mapping[str, Any]
    background: Mapping[str, Any]


def _demo() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(_DEMO.read_text())
    return data


@cache
def kinds() -> dict[str, Kind]:
    """Return `few`: few peaks on smooth scattering; `strong`: strong thermal diffuse scattering."""
    simulated = _demo()["simulation"]
    crystal = dict(simulated["samples"]["hexa"]["crystal"])
    del crystal["superlattice"]
    # Reflections that are found among the maxima of the diffuse scattering, on few frames.
    crystal |= {"scale": 1.5, "mosaic": 0.002}
    strong = Kind(
        "P 6/m m m", (5.0, 5.0, 7.5), 3.0, crystal, simulated["samples"]["hexa"]["diffuse"],
        simulated["scan"]["background"],
    )  # fmt: skip
    few = Kind(
        "P m m m",
        (6.4, 6.9, 9.7),
        0.94,
        {
            "cell": [5.2, 5.6, 7.9, 90, 90, 90],
            "orientation": [0.4, -0.7, 0.3],
            "atoms": [[0, 0, 0, 1.0], [0.5, 0.5, 0.5, 0.6], [0.5, 0, 0.5, 0.45]],
            "scale": 0.037,
            "b_iso": 0.6,
            "mosaic": 2e-3,
            "spot_sigma": [0.9, 0.9],
        },
        {
            "flat": 2.6,
            "cosines": [
                {"amplitude": 0.7, "vector": [1, 0, 0]},
                {"amplitude": 0.5, "vector": [0, 1, 0]},
            ],
        },
        {"air": 6.0, "air_angle": 0.08, "compton": 1.2, "compton_q": 5.0},
    )
    return {"few": few, "strong": strong}


@dataclass(frozen=True)
class World:
    """A simulated experiment.

    Attributes
    ----------
    kind : {"few", "strong"}
    modules, module_shape, gap : tuple of int
        Modules (slow, fast), pixels of a module, pixels of the gap between modules.
    pixel : float
        Size of a pixel in m; its detector is at 0.25 m.
    frames : int
        Number of frames of each rotation.
    step : float
        Width of a frame in degrees.
    rotations : mapping of str to float
        Angle chi of each rotation in degrees.
    temperatures : int
    side : int or tuple of int
        Voxels along h, k and l.
    bragg : bool
        True: make structure factors.
    more : mapping
        Further keys of the crystal.
    memory : float or None
        Limit in MB for the volumes of every stage that has one; None: its default.
    """

    kind: str = "strong"
    modules: tuple[int, int] = (5, 1)
    module_shape: tuple[int, int] = (195, 981)
    gap: tuple[int, int] = (17, 0)
    pixel: float = 172e-6
    frames: int = 1200
    step: float = 0.1
    rotations: Mapping[str, float] = field(default_factory=lambda: {"r1": 0.0})
    temperatures: int = 1
    side: int | tuple[int, int, int] = 301
    bragg: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)
    memory: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels of a frame (slow, fast)."""
        slow, fast = (
            n * size + (n - 1) * gap
            for n, size, gap in zip(self.modules, self.module_shape, self.gap, strict=True)
        )
        return slow, fast


def write(folder: Path, world: World) -> None:
    """Write the configuration and the tables of a simulated experiment.

    Products and frames of another experiment are removed; a folder that holds something else is
    refused.
    """
    marker, stated = folder / "world.json", json.dumps(asdict(world))
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        sys.exit(f"{folder} holds something else; give an empty or a new folder")
    if not marker.exists() or marker.read_text() != stated:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        marker.write_text(stated)
    data, kind = _demo(), kinds()[world.kind]
    del data["per_scan"], data["fill"], data["calibrations"], data["simulation"]["powder"]
    slow, fast = world.shape
    foot = [slow / 2 + 8.9, fast / 2 - 4.8]
    data["simulation"]["samples"] = {
        "x": {"crystal": {**kind.crystal, **world.more}, "diffuse": dict(kind.diffuse)}
    }
    data["simulation"]["scan"]["detector"] |= {
        "modules": list(world.modules),
        "module_shape": list(world.module_shape),
        "gap": list(world.gap),
        "pixel_size": [world.pixel, world.pixel],
        "distance": 0.25,
        "foot": foot,
        # The geometry of the header is exact, without a calibration.
        "tilt": [0.0, 0.0],
        "in_plane": 0.0,
    }
    data["simulation"]["scan"] |= {
        "n_frames": world.frames,
        "wavelength": 0.3,
        "flux": kind.flux,
        "background": dict(kind.background),
    }
    limits = list(kind.limits)
    sides = [world.side] * 3 if isinstance(world.side, int) else world.side
    steps = [2 * x / (n - 1) * (1 - 1e-9) for x, n in zip(limits, sides, strict=True)]
    data["refine_parent"] = {"grid_limits": limits, "grid_step": steps}
    data |= {"accept": {"on_failure": "warn"}, "bragg": world.bragg}
    if world.memory is not None:
        for stage in ("transform", "symmetrise", "fill", "pdf"):
            data[stage] = {"memory": world.memory}
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    cell = list(world.more.get("cell", kind.crystal["cell"]))
    samples = [["sample", "space_group", "a", "b", "c", "alpha", "beta", "gamma"]]
    samples += [["x", kind.group, *map(str, cell)]]
    names = ["sample", "scan", "temperature", "parent", "rotation", "raw", "goniometer"]
    scans = [names]
    kelvins = [300 - t * min(10, 290 // world.temperatures) for t in range(world.temperatures)]
    first = f"{kelvins[0]}K"
    for t, kelvin in enumerate(kelvins):
        for name, chi in world.rotations.items():
            scan = [f"{kelvin}K", str(kelvin), first, name, f"raw/{t}_{name}.nxs"]
            scans.append(["x", *scan, f"chi={chi} phi=0:{world.step}"])
    for path, rows in (("samples", samples), ("scans", scans)):
        text = "".join("\t".join(row) + "\n" for row in rows)
        (folder / f"config/{path}.tsv").write_text(text)


# ------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Run:
    """Cost of one process: CPU and wall time in seconds, largest resident memory in MB."""

    cpu: float
    wall: float
    mb: float


@dataclass(frozen=True)
class Command:
    """One job of the workflow: its stage, its name in messages, and its command."""

    rule: str
    name: str
    shell: str


def jobs(folder: Path) -> list[Command]:
    """Return the jobs of an experiment in an order in which they can run."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(_ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "1", "-n", "-p", "--forceall"]
    command += ["--quiet", "reason"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return list(_commands(done.stdout + done.stderr))


def _commands(text: str) -> Iterator[Command]:
    name = ""
    for line in text.splitlines():
        if found := _JOB.match(line):
            name = found[1]
        shell = line.removeprefix("Shell command: ")
        if found := _STAGE.match(shell):
            yield Command(found[1], name, shell)


def run(command: Command, folder: Path) -> Run:
    """Run a job in the folder of its experiment, with one thread; simulated frames are kept.

    Raises
    ------
    SystemExit
        If the job fails, with the end of its log.
    """
    words = shlex.split(command.shell)
    if command.rule == "simulate" and (folder / words[words.index("--raw") + 1]).exists():
        return Run(0.0, 0.0, 0.0)
    for word in words:  # snakemake makes the folders of outputs
        if word.startswith("results/") and "{" not in word:
            (folder / word).parent.mkdir(parents=True, exist_ok=True)
    (folder / "raw").mkdir(exist_ok=True)
    shell = command.shell.replace("python", shlex.quote(sys.executable), 1)
    environment = os.environ | _ONE_THREAD | {"PYTHONPATH": f"{_ROOT / 'src'}{os.pathsep}{_ROOT}"}
    measured = subprocess.run(
        [sys.executable, "-S", "-c", _MEASURE, f"exec {shell}"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    status, cpu, wall, mb = json.loads(measured.stdout.splitlines()[-1])
    if status:
        log = folder / words[words.index(">") + 1]
        sys.exit(f"{command.name} failed:\n{log.read_text()[-2000:]}")
    return Run(cpu, wall, mb)


# ---------------------------------------------------------------------------- decoder


def decoder(raw: Path) -> Run:
    """Return the cost of one pass of the decoder over all frames of a file."""
    command = [sys.executable, "-m", "benchmarks.workflow", str(raw)]
    environment = os.environ | _ONE_THREAD
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=_ROOT, env=environment
    )
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def decode(raw: Path, last: int | None = None) -> None:
    """Read and decode the frames of a file, or the first ones, and do nothing else."""
    from hklflow.formats.raw import open_frames

    with open_frames(raw) as frames:
        for _ in frames.stream(8, 0, last or frames.shape[0]):
            pass


def main() -> None:
    from benchmarks.speed.clock import Clock, peak_mb

    raw, clock = Path(sys.argv[1]), Clock()
    decode(raw, 2)
    with clock.running():
        decode(raw)
    print(json.dumps({"cpu": clock.cpu, "wall": clock.wall, "mb": peak_mb()}))


if __name__ == "__main__":
    main()
