"""CPU seconds and memory of the stage `fill`, and where they go.

    python -m benchmarks.fill_speed FOLDER [--side 501] [--step 0.04] [--group "P -1"] [--waves]
        [--cone] [--rounds 1] [--before CHECKOUT] [-- OPTIONS OF FILL]

Makes a symmetrised volume in FOLDER (a crystal with short-range order, with --waves also elastic
waves, with --cone a cone and the corners not measured) and runs the stage in a process of its own.
With --before, the stage of another checkout runs in turn with that of this one, and the filled
volumes are compared, in σ of the filled voxels. --karen makes 250 sharp reflections at unknown
positions instead and searches them.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

CELL = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])
GROUPS = ("P -1", "P m m m", "P m -3 m")
_ROOT = Path(__file__).parents[1]


def noise(at: list[Any], group: str) -> Any:
    """Return normal random numbers that equivalent voxels share, from indices h, k, l."""
    from scipy.special import ndtri

    if group == "P -1":
        sign = np.where(
            (at[2] > 0) | ((at[2] == 0) & ((at[1] > 0) | ((at[1] == 0) & (at[0] > 0)))), 1, -1
        )
        at = [x * sign for x in at]
    else:
        at = [abs(x) + 0 * (at[0] + at[1]) for x in at]
    if group == "P m -3 m":
        at = list(np.sort(at, axis=0))
    # The hash of splitmix64.
    x = ((at[0] + 2000) * 4000 + at[1] + 2000) * 4000 + at[2] + 2000
    x = x.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return ndtri(((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53)


def make(folder: Path, given: argparse.Namespace) -> None:
    """Write the symmetrised volume and the orientation."""
    from tests.truth.orientations import write_orientation

    from hklflow import nexus
    from hklflow.geometry.grid import Grid
    from hklflow.geometry.symmetry import space_group

    folder.mkdir(parents=True)
    half, step = given.side // 2, given.step
    grid = Grid.symmetric([step * half * (1 + 1e-9)] * 3, [step] * 3)
    write_orientation(folder / "orientation.json", group=given.group)
    i = np.arange(-half, half + 1)
    spots = np.random.default_rng(0).uniform(-half, half, (125, 3))
    spots = np.concatenate([spots, -spots])
    path = folder / "symm.nxs"
    with nexus.VolumeWriter(path, grid, CELL, "symmetrised", np.uint32, True) as writer:
        for first in range(0, given.side, nexus.PLANES):
            own = i[first : first + nexus.PLANES]
            made = [_plane(given, i, int(at), spots) for at in own]
            data, sigma = (np.stack(x).astype(np.float32) for x in zip(*made, strict=True))
            norm = np.isfinite(data) * np.float32(given.counts)
            counts = np.zeros(data.shape, np.uint32)
            writer.write(first, counts=counts, norm=norm, data=data, data_errors=sigma)
        operations = space_group(given.group).laue_operations.tolist()
        writer.note({"operations": operations, "space_group": given.group})


def _plane(given: argparse.Namespace, i: Any, l: int, spots: Any) -> tuple[Any, Any]:  # noqa: E741
    """Return S and σ (k, h) of a plane."""
    step = given.step
    at = [i, i[:, None], l]
    h, k, z = (x * step for x in at)
    q2 = h * h + k * k + z * z
    cosines = [np.cos(2 * np.pi * x) for x in (h, k, z)]
    s = 1 + 0.5 * cosines[0] * cosines[1] * cosines[2] + 0.1 * sum(cosines)
    s = s * np.exp(-0.02 * q2) + 0.2
    d2 = sum((x - np.rint(x)) ** 2 for x in (h, k, z))
    if given.waves:
        s = s + 0.002 * q2 / (d2 + (0.3 * step) ** 2)
    if given.karen:
        for spot in spots[abs(spots[:, 2] - l) < 4]:
            far = (at[0] - spot[0]) ** 2 + (at[1] - spot[1]) ** 2 + (l - spot[2]) ** 2
            s = s + 300 * np.exp(-far)
    sigma = np.sqrt(s / given.counts)
    data = s + sigma * noise(at, given.group)
    if not given.karen:
        data += 1000 * np.exp(-d2 / (2 * 0.03**2))
    seen = np.sqrt(q2) < step * (given.side // 2 + 0.5)
    if given.cone:
        seen &= abs(k) < 3 * np.hypot(h, z)
    return np.where(seen, data, np.nan), np.where(seen, sigma, np.nan)


def run(checkout: Path, folder: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """Run the stage of a checkout; return its parts, CPU seconds and peak memory (MB)."""
    out.mkdir(exist_ok=True)
    words = ["--symmetrised", folder / "symm.nxs", "--orientation", folder / "orientation.json"]
    words += ["--filled", out / "filled.nxs", "--picture", out / "fill.png"]
    words += ["--metrics", out / "fill.json", *options]
    environment = os.environ | {"PYTHONPATH": f"{checkout / 'src'}{os.pathsep}{_ROOT}"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.fill_speed", "--inside", *map(str, words)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    told = process.stdout.read().decode()
    if process.wait():
        sys.exit(f"fill failed:\n{told}")
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def inside(arguments: list[str]) -> None:
    """Run the stage in this process, with its parts in the last line."""
    import importlib

    from benchmarks.volume_steps import Parts
    from hklflow import plots, stage
    from hklflow.stages import fill as module
    from hklflow.volumes import cosines, hole_covariance, spectrum, tails

    parts, peaks = Parts(), {}
    names = {
        "_read": "read", "_radius": "radius", "_punch": "punch", "_write": "write",
        "_read_measured": "read", "_load": "read", "_extent": "shells", "punch_voxels": "punch",
        "read_measured": "read",
    }  # fmt: skip
    owners = [module]
    if hasattr(module, "hole_voxels"):
        owners.append(module.hole_voxels)
    for owner in owners:
        for name, kind in names.items():
            if hasattr(owner, name):
                parts.wrap(owner, name, kind)
    fill = importlib.import_module("hklflow.volumes.fill")
    control = importlib.import_module("hklflow.volumes.control")
    refill = importlib.import_module("hklflow.volumes.refill")
    parts.wrap(tails.Tails, "__init__", "tails: fit")
    parts.wrap(tails.Tails, "subtract", "tails: subtract")
    parts.wrap(tails.Tails, "restore", "tails: restore")
    parts.wrap(tails.Tails, "shifts", "tails: shifts")
    parts.wrap(fill, "find_holes", "find holes")
    parts.wrap(control, "controls", "controls")
    for owner in (control, refill):
        if hasattr(owner, "of_spectrum"):
            parts.wrap(owner, "of_spectrum", "controls by the spectrum")
    parts.wrap(fill, "fill", "kriging")
    parts.wrap(spectrum.SpectrumFill, "__init__", "spectrum: start")
    parts.wrap(spectrum.SpectrumFill, "learn", "spectrum: learn")
    parts.wrap(spectrum.SpectrumFill, "write", "spectrum: write")
    parts.wrap(hole_covariance, "prior_of", "covariance")
    parts.wrap(cosines, "injected", "cosines")
    parts.wrap(plots, "save", "picture")
    entered = parts.of

    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            status = Path("/proc/self/status").read_text()
            peaks["MB"] = max(
                peaks.get("MB", 0.0),
                sum(
                    int(line.split()[1]) / 1024
                    for line in status.splitlines()
                    if line.startswith("RssAnon")
                ),
            )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    sys.argv = ["fill", *arguments]
    with entered("rest"):
        try:
            stage.command(module.main)
        except SystemExit as end:
            if end.code:
                raise
    stop.set()
    watcher.join()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {"CPU s": usage.ru_utime + usage.ru_stime, "wall s": time.perf_counter() - began}
    found |= {"peak MB": usage.ru_maxrss / 1024, "peak MB, without files": peaks.get("MB", 0.0)}
    print("\n" + json.dumps({"all": found, "parts": parts.spent}))


def compare(before: Path, now: Path) -> None:
    """Print the differences of two filled volumes."""
    from hklflow import nexus

    sums, n, largest = np.zeros(2), 0, 0.0
    with (
        nexus.open_volume(before / "filled.nxs") as old,
        nexus.open_volume(now / "filled.nxs") as new,
    ):
        for first in range(0, old.grid.shape[2], nexus.PLANES):
            part = slice(first, first + nexus.PLANES)
            code = old.group["punched"][part]
            if (code != new.group["punched"][part]).any():
                print("codes differ")
            own = (code == 1) | (code == 2)
            a, b = (x.group["data"][part][own].astype(float) for x in (old, new))
            s, t = (x.group["data_errors"][part][own].astype(float) for x in (old, new))
            away = abs(b - a) / s
            away = away[np.isfinite(away)]
            sums += [np.sum(away**2), np.nansum((t / s - 1) ** 2)]
            n, largest = n + len(away), max(largest, float(away.max(initial=0)))
    rms = np.sqrt(sums / max(n, 1))
    print(
        f"filled values differ by {rms[0]:.2g} σ (rms), {largest:.2g} σ at most; σ by {rms[1]:.2g}"
    )


def measure(given: argparse.Namespace, options: list[str]) -> None:
    """Run the stage, and print its parts."""
    kind = "".join(f"_{name}" for name in ("waves", "cone", "karen") if getattr(given, name))
    folder = given.folder / f"{given.side}_{given.group.replace(' ', '')}{kind}"
    if not folder.exists():
        make(folder, given)
    if given.karen:
        options = ["--method", "karen", *options]
    trees = {"now": _ROOT} | ({"before": given.before.absolute()} if given.before else {})
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for _ in range(given.rounds):
        for name in reversed(trees):
            found[name].append(run(trees[name], folder, folder / name, options))
    for of in ("all", "parts"):
        for key in {key: 0 for runs in found.values() for key in runs[0][of]}:
            row = [
                statistics.median(run[of].get(key, 0.0) for run in found[name])
                for name in reversed(trees)
            ]
            print(f"{key:30s}" + "".join(f"{value:10.2f}" for value in row))
    if given.before:
        compare(folder / "before", folder / "now")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=501)
    parser.add_argument("--step", type=float, default=0.04)
    parser.add_argument("--group", default="P -1", choices=GROUPS)
    parser.add_argument("--counts", type=float, default=30.0)
    for name in ("waves", "cone", "karen"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--before", type=Path)
    words = sys.argv[1:]
    options = words[words.index("--") + 1 :] if "--" in words else []
    measure(parser.parse_args(words[: words.index("--")] if "--" in words else words), options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2:])
    else:
        main()
