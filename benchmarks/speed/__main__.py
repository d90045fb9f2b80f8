"""Speed of hklflow and its peers on one simulated scan, side by side.

    make bench
    python -m benchmarks.speed --rounds 5 --only transform,peaks,roofline --frames 360 --data DIR

All contenders take turns, round after round, each measurement in a process of its own.
Results go to DIR/results.json, the tables to --table.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import chain
from benchmarks.speed import jobs, run, table

ROOT = Path(__file__).resolve().parents[2]
PARTS = [*jobs.PARTS, "agree", "chain"]
PACKAGES = ("numpy", "numba", "h5py", "hdf5plugin")
PEERS = ("meerkat", "xrayutilities", "ImageD11", "bitshuffle", "numpy", "fabio")
_VERSIONS = """
import importlib.metadata, json, sys
found = {"python": sys.version.split()[0]}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of what is installed for an interpreter."""
    command = [python, "-c", _VERSIONS, *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=run.environment(command))
    except OSError:
        return {}
    return json.loads(done.stdout) if not done.returncode else {}


def machine(peers: str) -> dict[str, Any]:
    """What it ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    family = next((x.split(":")[1].strip() for x in lines if x.startswith("cpu family")), "")
    dials = ""
    if not run.dials_absent():
        told = subprocess.run(["dials.version"], capture_output=True, text=True).stdout
        dials = told.splitlines()[0].removeprefix("DIALS").strip()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": f"{model} (family {family})",
        "cores": len(os.sched_getaffinity(0)),
        "memory GB": round(pages / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
        "hklflow": versions(sys.executable, ("hklflow", *PACKAGES)),
        "peers": versions(peers, PEERS),
        "dials": dials,
    }


def prepare(folder: Path, n_frames: int) -> dict[str, Any]:
    """Simulate the scan unless it is there already; a folder that is not ours is refused."""
    sources = [
        ROOT / "benchmarks/speed/data.py",
        *sorted((ROOT / "src/hklflow/nexus").glob("*.py")),
    ]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    wanted, marker = f"{code.hexdigest()} {n_frames}", folder / "benchmark-data"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        sys.exit(f"{folder} holds something else; give --data an empty or a new folder")
    if not marker.exists() or marker.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        marker.write_text("not complete")
        print(f"simulating {n_frames} frames in {folder} ...", flush=True)
        command = [sys.executable, "-m", "benchmarks.speed.data", str(folder)]
        run.call([*command, "--frames", str(n_frames)], ROOT)
        marker.write_text(wanted)
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return facts


def agree(place: run.Place, n_frames: int = 20, n: int = 301) -> dict[str, Any]:
    """Volumes of all peers of the same frames, compared with ours."""
    works = {"meerkat": "meerkat_memory", "xrayutilities Gridder3D": "gridder3d",
             "numpy": "numpy_add_at", "ImageD11": "imaged11"}  # fmt: skip
    volumes = []
    for name, work in works.items():
        file = place.scratch / f"{work}.npz"
        # Their first two frames warm up, but are in the volume.
        job = run.Job("agree", name, place.peer(work, "--grid", n, "--frames", n_frames - 2,
                                                 "--volume", file))  # fmt: skip
        if "failed" not in run.run(job, place):
            volumes.append(f"{name}={file}")
    if not run.dials_absent():
        file = place.scratch / "agree.mrc"
        command = ["dials.rs_mapper", str(run.dials(place) / f"nxs_1_{n_frames}.expt")]
        command += ["grid_size=300", "max_resolution=0.8144", "nproc=1", f"map_file={file}"]
        run.call([*command, f"output.log={place.scratch / 'rs.log'}"], place.scratch)
        volumes.append(f"dials.rs_mapper={file}")
    command = [sys.executable, "-m", "benchmarks.speed.agree", str(place.folder), *volumes]
    told = run.run(run.Job("agree", "agree", [*command, "--frames", str(n_frames)]), place)
    if volumes and "failed" in told:
        sys.exit(f"the volumes could not be compared: {told['failed']}")
    return told["found"] if volumes else {}


def measure(place: run.Place, chosen: list[run.Job], rounds: int) -> dict[str, Any]:
    """Run all jobs in turn, several times, each time in another order.

    What ran before leaves its mark: how much memory is free in large pages, for one.
    """
    results: dict[str, dict[str, Any]] = {
        job.key: {"part": job.part, "name": job.name, "grid": job.grid, "frames": job.frames,
                  "less": job.less, "shown": job.shown, "missing": job.missing,
                  "includes": job.includes, "runs": []}
        for job in chosen
    }  # fmt: skip
    for turn in range(rounds):
        for job in random.Random(turn).sample(chosen, len(chosen)):
            if job.missing or (job.once and turn):
                continue
            result = run.run(job, place)
            results[job.key]["runs"].append(result)
            told = result.get("failed") or f"{result['cpu']:.2f} CPU s, {result['mb']:.0f} MB"
            print(f"round {turn + 1}/{rounds}  {job.key}: {told}", flush=True)
    return results


def main() -> None:
    """Prepare, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--frames", type=int, default=360, help="frames for hklflow")
    parser.add_argument("--data", type=Path, default=ROOT / ".bench/data")
    parser.add_argument("--peers", default=str(ROOT / ".bench/peers/bin/python"))
    parser.add_argument("--full", action="store_true", help="the chain at 3600 frames and 501³")
    parser.add_argument("--table", type=Path, help="where to write the tables; default: print")
    options = parser.parse_args()
    # Not resolved: the link is what makes it the environment's Python.
    peers = str(Path(options.peers).absolute())
    only = set(options.only.split(","))
    if unknown := only - set(PARTS):
        parser.error(f"--only: no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    start, load = time.time(), os.getloadavg()[0]
    folder = options.data.resolve()
    facts = prepare(folder, 360)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    place = run.Place(folder, scratch, peers, min(options.frames, 360), facts["cbf"])
    run.prepare_dials(place)
    chosen = [job for part, make in jobs.PARTS.items() if part in only for job in make(place)]
    results: dict[str, Any] = {
        "machine": machine(peers),
        "facts": facts,
        "rounds": options.rounds,
        "load before": round(load, 2),
        "jobs": measure(place, chosen, options.rounds),
        "agree": {},
        "chain": [],
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    if "agree" in only:
        results["agree"] = agree(place)
    if "chain" in only:
        size = chain.FULL if options.full else replace(chain.BENCH, rounds=min(options.rounds, 3))
        results["chain"] = chain.both(folder / "chain", size)
    results["minutes"] = round((time.time() - start) / 60, 1)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table.document(results)
    if options.table:
        options.table.write_text(text)
    print(text)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
