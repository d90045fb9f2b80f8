"""CPU seconds of the steps that work on volumes, and where they go.

    python -m benchmarks.volume_steps FOLDER [--side 201 301] [--rounds 3] [--before CHECKOUT]

Makes two scans of three rotations each in FOLDER (random counts and norms on a cubic grid, gaps,
punched reflections) and runs each step in a process of its own. The rate is Mvoxel of the grid per
CPU second, without the time of the same job on a grid of 17³ voxels (the start of Python,
libraries, pictures), which is the column "job". With --before, the steps of another checkout run in
turn with those of this one, and every array and figure of both is compared.
--split tells reading, compression, writing, pictures and Fourier transforms apart (in one process
per step; the rest is arithmetic).
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

STEPS = ("merge", "symmetrise", "pdf", "difference", "stack_pdf", "stack")
CELL = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])
SMALL = 17
_SERIES = "scan\tscale\tscale_sigma\tdebye_waller\na\t1\t0.01\t0\nb\t1\t0.01\t0\n"
_ROOT = Path(__file__).parents[1]


def make(folder: Path, side: int, group: str) -> None:
    """Make the inputs of all steps with this checkout; scans a and b differ by noise."""
    from tests.truth.orientations import write_orientation

    folder.mkdir(parents=True)
    (folder / "series.tsv").write_text(_SERIES)
    write_orientation(folder / "orientation.json", group=group)
    for number, scan in enumerate("ab"):
        for rotation in range(3):
            _rotation(folder / f"{scan}{rotation}" / "transform.nxs", side, number, rotation)
        for step in ("merge", "symmetrise"):
            _run(_ROOT, folder, step, folder, scan)
        _fill(folder / f"symm_{scan}.nxs", folder / f"filled_{scan}.nxs")
        _run(_ROOT, folder, "pdf", folder, scan)


def _grid(side: int) -> Any:
    from hklflow.geometry.grid import Grid

    step = 8.0 / (side - 1)
    return Grid.symmetric([4.0 * (1 + 1e-9)] * 3, [step] * 3)


def _rotation(path: Path, side: int, number: int, rotation: int) -> None:
    """Counts and norm of a rotation that does not reach a cone about one of the axes."""
    from hklflow import nexus

    path.parent.mkdir()
    grid, rng = _grid(side), np.random.default_rng(10 * number + rotation)
    h, k = np.meshgrid(grid.axis(0), grid.axis(1))
    with nexus.VolumeWriter(path, grid, CELL, "rotation", np.uint32, False, fast=True) as writer:
        for first in range(0, side, nexus.PLANES):
            l = grid.axis(2)[first : first + nexus.PLANES, None, None]  # noqa: E741
            q2 = h * h + k * k + l * l
            s = 8 + 2 * np.cos(2 * np.pi * h) * np.cos(2 * np.pi * k) * np.cos(2 * np.pi * l)
            s = s * np.exp(-0.03 * q2) * (1 + 0.05 * number)
            along = (h, k, l)[rotation] ** 2
            norm = rng.gamma(20.0, 0.05, q2.shape) * (1.1 * along < q2 - along) * (q2 < 40)
            counts = rng.poisson(s * norm)
            writer.write(first, counts=counts.astype(np.uint32), norm=norm.astype(np.float32))
        writer.note({})


def _fill(symmetrised: Path, filled: Path) -> None:
    """Fill the reflections and gaps with numbers: the steps after `fill` do not ask how."""
    from hklflow import nexus
    from hklflow.nexus.grid_writer import GridWriter

    types = {"data": np.float32, "data_errors": np.float32, "punched": np.uint8}
    with nexus.open_volume(symmetrised) as volume:
        grid = volume.grid
        h, k = np.meshgrid(grid.axis(0), grid.axis(1))
        with GridWriter(filled, grid, CELL, "filled", types) as writer:
            for first in range(0, grid.shape[2], nexus.PLANES):
                part = slice(first, first + nexus.PLANES)
                l = grid.axis(2)[part, None, None]  # noqa: E741
                q2 = h * h + k * k + l * l
                d2 = sum((x - np.rint(x)) ** 2 for x in (h, k, l))
                data, errors = (volume.group[name][part] for name in ("data", "data_errors"))
                punched = np.where(np.isfinite(data), np.where(d2 < 0.01, 1, 0), 2)
                punched = np.where((q2 > 16) & (punched == 2), 3, punched).astype(np.uint8)
                new = (punched == 1) | (punched == 2)
                data = np.where(new, 8 * np.exp(-0.03 * q2), data).astype(np.float32)
                errors = np.where(new, 0.5, errors).astype(np.float32)
                writer.write(first, data=data, data_errors=errors, punched=punched)
            writer.note({"operations": volume.notes["operations"], "q_max": 4.0 * 2 * np.pi / 5})


def words(step: str, folder: Path, out: Path, scan: str = "a") -> list[str]:
    """Return the arguments of a step that reads from `folder` and writes to `out`."""
    other = "b" if scan == "a" else "a"
    rotations = [folder / f"{scan}{i}" / "transform.nxs" for i in range(3)]
    both = ["--scans", "a", "b", "--temperatures", "100", "200"]
    picture, metrics = ["--picture", out / f"{step}.png"], ["--metrics", out / f"{step}.json"]
    found: dict[str, list[Any]] = {
        "merge": [
            "--volumes", *rotations, "--volume", out / f"merged_{scan}.nxs",
            "--slices", out / "slices.png", "--coverage", out / "coverage.png", *metrics,
        ],
        "symmetrise": [
            "--volumes", *rotations, "--orientation", folder / "orientation.json",
            "--symmetrised", out / f"symm_{scan}.nxs", *picture, *metrics,
        ],
        "pdf": [
            "--filled", folder / f"filled_{scan}.nxs", "--pdf", out / f"pdf_{scan}.nxs",
            *picture, *metrics, "--allowed-unmeasured", "1", "--allowed-missing", "1",
        ],
        "difference": [
            "--symmetrised", folder / f"symm_{scan}.nxs", "--reference",
            folder / f"symm_{other}.nxs", "--delta-pdf", folder / f"pdf_{scan}.nxs",
            "--reference-pdf", folder / f"pdf_{other}.nxs", "--difference", out / "difference.nxs",
            "--pdf-difference", out / "pdf_difference.nxs", *picture, *metrics,
        ],
        "stack_pdf": [
            "--volumes", folder / "pdf_a.nxs", folder / "pdf_b.nxs", *both,
            "--stack", out / "stack_pdf.nxs", "--table", out / "stack_pdf.tsv", *picture,
            "--series", folder / "series.tsv", "--parent", "b", "--changes", out / "changes.tsv",
            "--changes-picture", out / "changes.png", "--results", out / "results.json",
        ],
        "stack": [
            "--volumes", folder / "merged_a.nxs", folder / "merged_b.nxs", *both,
            "--stack", out / "stack.nxs", "--table", out / "stack.tsv", *picture,
            "--box", "0.1", "0.1", "0.1", "--shell", "1",
        ],
    }  # fmt: skip
    return [str(word) for word in found[step]]


def _run(
    checkout: Path, folder: Path, step: str, out: Path, scan: str = "a", split: bool = False
) -> dict[str, float]:
    """Run a step of a checkout; return its CPU seconds and peak memory (MB), with its parts."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", f"hklflow.stages.{step}"]
    if split:
        command = [sys.executable, "-m", "benchmarks.volume_steps", "--inside", step]
    environment = os.environ | {"PYTHONPATH": f"{checkout / 'src'}{os.pathsep}{_ROOT}"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *words(step, folder, out, scan)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    told = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{step} failed:\n{told}")
    found = {"cpu": usage.ru_utime + usage.ru_stime, "mb": usage.ru_maxrss / 1024}
    return found | (json.loads(told.splitlines()[-1]) if split else {})


# ---------------------------------------------------------------- parts of one process


class Parts:
    """CPU seconds of a process by kind of work; a part inside of another is not counted twice."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._open: list[float] = []

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        began = time.process_time()
        self._open.append(0.0)
        yield
        inner, whole = self._open.pop(), time.process_time() - began
        self.spent[kind] = self.spent.get(kind, 0.0) + whole - inner
        if self._open:
            self._open[-1] += whole

    def wrap(self, owner: Any, name: str, kind: str) -> None:
        """Count the calls of a function or method."""
        function: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.of(kind):
                return function(*args, **kwargs)

        setattr(owner, name, counted)


def inside(step: str, arguments: list[str]) -> None:
    """Run a step in this process, with its parts in the last line."""
    import importlib

    import h5py
    import scipy.fft

    from hklflow import plots, stage
    from hklflow.nexus import chunk_reader, chunks, grid_writer

    module = importlib.import_module(f"hklflow.stages.{step}")
    parts = Parts()
    parts.spent["start"] = time.process_time()
    parts.wrap(h5py.Dataset, "__getitem__", "reading")
    parts.wrap(h5py.Dataset, "read_direct", "reading")
    parts.wrap(chunk_reader.ChunkReader, "__getitem__", "reading")
    parts.wrap(chunks, "pack", "compression")
    parts.wrap(grid_writer.GridWriter, "write_block", "writing")
    for name in ("fft", "ifft", "rfft", "irfft"):
        parts.wrap(scipy.fft, name, "FFT")
    for name in ("save", "slices", "coverage", "intensities"):
        parts.wrap(plots, name, "pictures")
    sys.argv = [step, *arguments]
    with parts.of("arithmetic"):
        try:
            stage.command(module.main)
        except SystemExit as stop:
            if stop.code:
                raise
    print("\n" + json.dumps(parts.spent))


# ----------------------------------------------------------------------------- tables


def measure(given: argparse.Namespace) -> None:
    """Run all steps in turn, and print the rates."""
    from benchmarks import same_numbers

    trees = {"now": _ROOT} | ({"before": given.before.absolute()} if given.before else {})
    steps = given.steps or STEPS
    print(f"{'step':12s}{'side':>6s}{'':>8s}{'job s':>8s}{'CPU s':>8s}{'Mvoxel/s':>10s}{'MB':>7s}")
    for side in (SMALL, *given.side):
        if not (given.folder / str(side)).exists():
            make(given.folder / str(side), side, given.group)
    for step in steps:
        found: dict[tuple[str, int], list[dict[str, float]]] = {}
        for _ in range(given.rounds + 1):
            for side in (SMALL, *given.side):
                for name, tree in reversed(trees.items()):
                    folder = given.folder / str(side)
                    ran = _run(tree, folder, step, folder / f"{name}_{step}")
                    found.setdefault((name, side), []).append(ran)
        for side in given.side:
            for name in reversed(trees):
                # The first run may compile kernels.
                job = statistics.median(run["cpu"] for run in found[name, SMALL][1:])
                cpu = statistics.median(run["cpu"] for run in found[name, side][1:])
                mb = max(run["mb"] for run in found[name, side][1:])
                rate = side**3 / 1e6 / max(cpu - job, 1e-3)
                print(
                    f"{step:12s}{side:6d}{name:>8s}{job:8.2f}{cpu:8.2f}{rate:10.1f}{mb:7.0f}",
                    flush=True,
                )
            if len(trees) > 1:
                folder = given.folder / str(side)
                same_numbers.compare(*(folder / f"{name}_{step}" for name in ("before", "now")))
    if given.split:
        split(given, steps)


def split(given: argparse.Namespace, steps: Any) -> None:
    """Print the CPU seconds of each step by kind of work."""
    kinds = ("start", "reading", "arithmetic", "FFT", "compression", "writing", "pictures")
    print(f"{'step':12s}{'side':>6s}" + "".join(f"{kind:>13s}" for kind in kinds))
    for step in steps:
        for side in given.side:
            folder = given.folder / str(side)
            ran = _run(_ROOT, folder, step, folder / f"now_{step}", split=True)
            row = "".join(f"{ran.get(kind, 0):13.2f}" for kind in kinds)
            print(f"{step:12s}{side:6d}{row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, nargs="+", default=[201, 301])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--steps", nargs="+", choices=STEPS)
    parser.add_argument("--group", default="P m -3 m")
    parser.add_argument("--split", action="store_true")
    measure(parser.parse_args())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
    else:
        main()
