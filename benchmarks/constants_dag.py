"""Constants of a detector of 16 modules of 16 ASICs through the workflow: the engine and the work.

    python -m benchmarks.constants_dag FOLDER [modules] [--ramps]

Raw runs of a simulated detector with small ASICs are made in FOLDER (once) and reduced by
`snakemake constants` on two cores. Printed are the number of jobs, the CPU time of snakemake itself
and of the jobs, and what a second run and one after the loss of an ASIC's file do.
"""

import os
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hklflow.constants.detectors import integrating
from hklflow.constants.simulate import agipd
from hklflow.constants.simulate_photons import Foil
from hklflow.constants.simulate_runs import Campaign, write_campaign

MODULE, ASIC, CELLS = (32, 32), (8, 8), 2
RAMP = [(100, 1.0), (100, 60.0)]
REPOSITORY = Path(__file__).parents[1]


def make(folder: Path, modules: int, ramps: bool) -> None:
    (folder / "config").mkdir(parents=True)
    rng = np.random.default_rng(1)
    truths = {number: agipd(rng, CELLS, MODULE) for number in range(modules)}
    campaign = Campaign(
        xrays=2500,
        foil=Foil(17.444),
        pulses=[(200, 1.0)] if ramps else [],
        currents=RAMP,
        rates={"20": 10.0} if ramps else {},
    )
    detector = integrating("agipd", MODULE, ASIC)
    runs = write_campaign(folder / "raw", "lab", detector, truths, campaign, rng)
    entry: dict[str, Any] = {
        "detector": "agipd",
        "layout": "lab",
        "modules": list(range(modules)),
        "module_size": list(MODULE),
        "asic_size": list(ASIC),
        "runs": runs,
        "process_xray": {"energy": 17.444},
        "process_current_source": {"ramp": [list(segment) for segment in RAMP]},
        "combine_constants": {"default_gain": [8.0, 0.25, 0.05]},
        "stored": {
            "store": "store",
            "author": "A. Person",
            "state": {
                "detector": "agipd", "serial": "1", "shape": [32 * modules, 32], "binning": 1,
                "gain_mode": "adaptive", "integration_time": 1e-6, "memory_cells": CELLS,
            },
        },
    }  # fmt: skip
    (folder / "config/config.yaml").write_text(yaml.safe_dump({"constants": {"agipd": entry}}))
    (folder / "config/samples.tsv").write_text("sample\tspace_group\n")
    (folder / "config/scans.tsv").write_text(
        "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
    )
    command = ["calibration", "init", "--author", "A. Person", "--directory", str(folder)]
    subprocess.run([sys.executable, "-m", "hklflow.cli", *command], check=True)


def run(folder: Path, *arguments: str) -> None:
    """Run snakemake, tell its jobs and the CPU time of it and of them."""
    command = [sys.executable, "-m", "snakemake", "constants", "--cores", "2", *arguments]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    log = folder / "out.log"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, own = time.perf_counter(), 0.0
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        while process.poll() is None:
            time.sleep(0.2)
            try:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[0] != "Z":
                own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    text = log.read_text()
    rules = Counter(line.split("Rule: ")[1].rstrip(")") for line in text.splitlines()
                    if line.startswith("Finished jobid") and "Rule: " in line)  # fmt: skip
    if "Nothing to be done" in text:
        print("nothing to be done")
    print(
        f"exit {process.returncode}: {sum(rules.values())} jobs in {wall:.0f} s; CPU of the "
        f"engine {own:.1f} s, of the jobs {total - own:.1f} s"
    )
    print("  " + ", ".join(f"{rule} {n}" for rule, n in sorted(rules.items())))


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute()
    numbers = [int(word) for word in sys.argv[2:] if word.isdecimal()]
    if not place.exists():
        make(place, numbers[0] if numbers else 16, "--ramps" in sys.argv)
    for words in (["--dry-run", "--quiet"], [], []):
        run(place, *words)
    lost = next((place / "results").rglob("masked.nxs"))
    lost.unlink()
    print(f"without {lost.relative_to(place)}:")
    run(place)
