"""Speed of the peak search and the frame statistics, as shares of the decoder's rate.

    python -m benchmarks.peaks_speed FOLDER [--frames 120] [--rounds 5] [--before CHECKOUT]

Simulates two rotations in FOLDER: `few` (the scan of `benchmarks.speed`) and
`strong` (the crystal of `benchmarks.planning`: thermal clouds and rods). Decoder,
statistics, peak search, and both in one pass take turns in one process; the table gives medians of
CPU seconds. With --before, another checkout is measured in turn with this one, and the tables
of peaks are compared.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
WORLDS = ("few", "strong")
TASKS = ("decode", "statistics", "peaks", "both")


def simulation(world: str, n_frames: int) -> Any:
    """Return the simulated scan of a world."""
    from benchmarks.speed import data
    from hklflow.simulation.frames import Background, Cosine, CrystalModel, Diffuse, Ridge

    truth = data.simulation(n_frames)
    if world == "few":
        return truth
    # The crystal of the demo above its transition, as in `benchmarks.planning`.
    plane = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0))
    third = 1 / 3
    return replace(
        truth,
        detector=replace(truth.detector, distance=0.25),
        scan=replace(truth.scan, wavelength=0.3, flux=3.0),
        crystal=CrystalModel(
            cell=(4.75, 4.75, 7.2, 90.0, 90.0, 120.0),
            orientation=(0.4, -0.7, 0.3),
            atoms=(
                (0.0, 0.0, 0.0, 3.0), (third, 2 * third, 0.5, 1.0), (2 * third, third, 0.5, 1.0),
            ),
            b_iso=0.8, scale=0.3, mosaic=0.0015, spot_sigma=(1.1, 1.1),
        ),
        diffuse=Diffuse(
            flat=0.4,
            cosines=tuple(Cosine(0.12, vector) for vector in plane),
            ridges=(
                Ridge(0.9, plane, 0.10, centre=(third, third, 0.0)),
                Ridge(0.9, plane, 0.10, centre=(2 * third, 2 * third, 0.0)),
                Ridge(0.4, (*plane, (0.0, 0.0, 1.0)), 0.12, q_squared=True),
            ),
        ),
        background=Background(air=1.0, air_angle=0.1, compton=0.3, compton_q=4.0),
    )  # fmt: skip


def write(folder: Path, world: str, n_frames: int) -> None:
    """Write the frames and the mask of a world, if they do not exist."""
    from benchmarks.speed import data
    from hklflow import nexus
    from hklflow.formats.write_raw import NXmxHeader, NXmxWriter

    path, marker = folder / world, folder / world / f"frames-{n_frames}"
    if marker.exists():
        return
    path.mkdir(parents=True, exist_ok=True)
    truth = simulation(world, n_frames)
    bad = data.bad_pixels(truth)
    total, largest = 0, []
    header = truth.raw_header() | {"pixel_mask": bad.astype(np.uint32), "sensor_thickness": 450e-6}
    with NXmxWriter(path / "a.nxs", NXmxHeader(**header)) as writer:
        for block in truth.frames(block=data.BLOCK):
            block[:, bad] = data.GAP_VALUE
            writer.append(block)
            good = block[:, ~bad]
            total += int(good.sum(dtype=np.int64))
            largest.append(np.percentile(good, (50, 90, 99, 99.9)))
    nexus.write_mask(path / "mask.nxs", bad.astype(np.uint32))
    size = (path / "a.nxs").stat().st_size
    print(
        f"{world}: {len(truth.true_peaks().frame)} reflections, {total / n_frames / bad.size:.2f} "
        f"counts per pixel (50, 90, 99, 99.9 %: {np.mean(largest, axis=0).round(1)}), "
        f"{8 * size / n_frames / bad.size:.1f} bits per pixel"
    )
    marker.touch()


def _tasks(path: Path, n_frames: int) -> dict[str, Callable[[], Any]]:
    """Return the measured functions."""
    from tests.truth.defaults import peak_params

    from benchmarks.speed import data
    from hklflow import nexus
    from hklflow.formats import raw
    from hklflow.images.statistics import FrameStatistics
    from hklflow.peaks.search import PeakSearch

    bad = nexus.read_mask(path / "mask.nxs") != 0
    turn = data.rotation(data.simulation(1), 1)

    def stream() -> Iterator[NDArray[Any]]:
        with raw.open_frames(path / "a.nxs") as frames:
            yield from frames.stream(2, 0, n_frames, threads=1)

    def new_statistics() -> FrameStatistics:
        # As the stage does: all pixels of a cell of 4 x 4 pixels are in the same bin of |Q|.
        middle = [(index // 4 + 0.5) * 4 for index in np.indices(bad.shape)]
        q = np.linalg.norm(turn.q_lab(*middle), axis=-1)
        edges = np.linspace(0.0, q.max() * (1 + 1e-9), 101)
        inside = (q >= 0.3 * q.max()) & (q <= 0.95 * q.max())
        labels = np.digitize(q, edges) - 1
        return FrameStatistics(
            bad, annulus=inside, invalid_from=float(data.GAP_VALUE), labels=labels
        )

    def decode() -> None:
        for _ in stream():
            pass

    def statistics() -> Any:
        found = new_statistics()
        for block in stream():
            found.add(block)
        return found.result()

    def peaks(found: FrameStatistics | None = None) -> Any:
        params = peak_params(invalid_from=float(data.GAP_VALUE))
        search = PeakSearch(bad, params, statistics=found)
        for block in stream():
            search.add(block)
        table = search.finish()
        if found is not None:
            found.result()
        return table

    return dict(
        zip(TASKS, (decode, statistics, peaks, lambda: peaks(new_statistics())), strict=True)
    )


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def work(folder: Path, world: str, n_frames: int, save: Path) -> None:
    """Measure all tasks once after a first run, which compiles; print JSON and save the peaks."""
    tasks = _tasks(folder / world, n_frames)
    for task in TASKS:
        _tasks(folder / world, 24)[task]()
    seconds, table = {}, None
    for task in TASKS:
        before = _cpu()
        table = tasks[task]()
        seconds[task] = _cpu() - before
    arrays = {name: x for name, x in vars(table).items() if isinstance(x, np.ndarray)}
    np.savez(save, **arrays)
    print("RESULT " + json.dumps({"seconds": seconds, "counts": table.counts}))


def judged(table: Any, world: str, n_frames: int) -> str:
    """Return recall, precision and pulls against the reflections of the simulation."""
    from scipy.spatial import cKDTree

    truth = simulation(world, n_frames).true_peaks()
    true = np.column_stack([truth.frame, truth.slow, truth.fast])
    at = np.column_stack([table["frame"], table["slow"], table["fast"]])
    # The noise of a peak contains the background of the voxels that it covers.
    volume = (4 * np.pi) ** 1.5 * np.prod(np.hypot(truth.sigma, 0.3), axis=1)
    clear = truth.clean & (truth.sigma[:, 0] < 4)
    clear &= truth.recorded > 10 * np.sqrt(truth.recorded + volume * truth.background)
    reach = np.array([3.0, 2.0, 2.0])
    apart, row = cKDTree(at / reach).query(true / reach)
    hit = clear & (apart < 1)
    found = np.asarray(cKDTree(true / reach).query(at / reach)[0] < 1)
    if not hit.any():
        return f"{len(at)} peaks, {clear.sum()} clear reflections, none found"
    sigma = np.column_stack([table[f"var_{name}"] for name in ("frame", "slow", "fast")]) ** 0.5
    pull = (at[row[hit]] - true[hit]) / sigma[row[hit]]
    width = np.diff(np.percentile(pull, (15.865, 84.135), axis=0), axis=0)[0] / 2
    ratio = table["intensity"][row[hit]] / truth.recorded[hit]
    return (
        f"{len(at)} peaks, {clear.sum()} clear reflections, recall {hit.sum() / clear.sum():.4f}, "
        f"near a reflection {found.mean():.4f}, pull {width.round(3)}, "
        f"I / true {np.median(ratio):.4f}"
    )


def _compare(first: Any, second: Any) -> str:
    """Return the differences of two tables of peaks."""
    from scipy.spatial import cKDTree

    places = [np.column_stack([t["frame"], t["slow"], t["fast"]]) for t in (first, second)]
    apart, row = cKDTree(places[1]).query(places[0])
    same = apart < 0.5
    off = apart[same].max(initial=0.0)
    ratio = np.abs(second["intensity"][row[same]] / first["intensity"][same] - 1).max(initial=0.0)
    return (
        f"{same.sum()} of {len(apart)} and {len(places[1])} peaks are the same; "
        f"they differ by at most {off:.2g} pixels, {ratio:.2g} of the intensity"
    )


def main() -> None:
    """Simulate, measure in turns, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peaks_speed", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--world", choices=WORLDS, help="only this world")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder, n = given.folder.resolve(), given.frames
    if given.work:
        work(folder, given.world, n, given.work)
        return
    checkouts = {"now": ROOT} | ({"before": given.before.resolve()} if given.before else {})
    mpixel = n * 1024**2 / 1e6
    for world in [given.world] if given.world else WORLDS:
        write(folder, world, n)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
        tables = {name: folder / world / f"{name}.npz" for name in checkouts}
        counts: dict[str, Any] = {}
        for _ in range(given.rounds):
            for name, root in checkouts.items():
                path = os.pathsep.join([str(root / "src"), str(root)])
                script = Path(__file__).resolve()
                command = [sys.executable, str(script), str(folder), "--world", world]
                command += ["--frames", str(n), "--work", str(tables[name])]
                done = subprocess.run(
                    command, cwd=root, env=os.environ | {"PYTHONPATH": path},
                    stdout=subprocess.PIPE, check=True, text=True,
                )  # fmt: skip
                result = json.loads(done.stdout.split("RESULT ")[1])
                runs[name].append(result["seconds"])
                counts[name] = result["counts"]
        for name in checkouts:
            rate = {task: mpixel / median(run[task] for run in runs[name]) for task in TASKS}
            share = {task: median(r["decode"] / r[task] for r in runs[name]) for task in TASKS}
            figures = ", ".join(f"{t} {rate[t]:.0f} ({100 * share[t]:.1f} %)" for t in TASKS)
            print(f"{world}, {name}: Mpixel per CPU s: {figures}")
            print(f"    {judged(np.load(tables[name]), world, n)}; {counts[name]}", flush=True)
        if given.before:
            print("    " + _compare(*(np.load(tables[name]) for name in ("before", "now"))))


if __name__ == "__main__":
    main()
