"""A simulated experiment with a phase transition against what was simulated.

python -m benchmarks.experiment_truth FOLDER [--seed N] [--cores N] [--new-parent] [--no-volumes]

Two samples (hexagonal; tetragonal, orthorhombic below 180 K) at five temperatures with three
goniometer settings each. The cells expand, the crystals turn by 0.3° from scan to scan, in
another direction each time. One `snakemake` command reduces it; the gates warn and do not stop.
Printed: pulls of cells, errors of orientations, and what the gates and the series say.
With --new-parent the proposal of the gates is put in the configuration and the same command
run again, with gates that stop.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hklflow import stage
from hklflow.experiment import config
from hklflow.geometry import lattice
from hklflow.geometry.symmetry import space_group
from hklflow.stages.simulate import build

TEMPERATURES = (300, 250, 200, 150, 100)
T_C = 180.0
ROTATIONS = {"r1": 0.0, "r2": 35.0, "r3": -30.0}
DRIFT = 0.3  # degrees from scan to scan
PARENT = "300K"
DEMO = Path(__file__).parents[1] / "demo/config/config.yaml"


def _turns(seed: int) -> dict[str, list[float]]:
    """Drift of each scan as a rotation vector in degrees: steps of DRIFT, each its own way."""
    generator = np.random.default_rng(seed)
    drift, turns = np.zeros(3), {}
    for temperature in TEMPERATURES:
        turns[f"{temperature}K"] = [float(x) for x in drift]
        step = generator.normal(size=3)
        drift = drift + DRIFT * step / np.linalg.norm(step)
    return turns


def configuration(seed: int) -> dict[str, Any]:
    """Return the demo's detector, beam and hexagonal crystal, with a tetragonal one."""
    data: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    simulation = data["simulation"]
    hexa = simulation["samples"]["hexa"]
    del hexa["crystal"]["superlattice"], data["per_scan"]
    sheet = {"amplitude": 0.8, "width": 0.06}
    phonons = {"amplitude": 0.3, "width": 0.1, "thermal": True, "q_squared": True}
    axes = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    tetra = {
        "crystal": {
            "cell": [3.95, 3.95, 4.05, 90, 90, 90],
            "orientation": [-0.3, 0.25, 0.9],
            "atoms": [[0, 0, 0, 2.0], [0.5, 0.5, 0.5, 1.2]],
            "b_iso": 0.6,
            "scale": 0.8,
            "mosaic": 0.0035,
            "spot_sigma": [1.2, 1.0],
            "expansion": [1.0e-5, 1.0e-5, 1.5e-5],
            "distortions": [{"t_c": T_C, "strain": [4e-3, -4e-3, 1e-3], "beta": 0.5}],
        },
        "diffuse": {
            "flat": 0.4,
            "ridges": [sheet | {"vectors": [axis]} for axis in axes]
            + [phonons | {"vectors": axes}],
        },
    }
    simulation["samples"] = {"hexa": hexa, "tetra": tetra}
    simulation["scan"]["detector"]["seed"] = seed
    simulation["scans"] = {
        f"{sample}/{scan}": {"crystal": {"turn": turn}}
        for number, sample in enumerate(("hexa", "tetra"))
        for scan, turn in _turns(10 * seed + number).items()
    }
    data["refine_parent"] = {"grid_step": [0.1] * 3, "grid_limits": [3.0] * 3}
    data["accept"] = {"on_failure": "warn"}
    return data


def write(folder: Path, seed: int) -> None:
    """Write configuration and tables; the raw files' names carry the seed of their noise."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    data = configuration(seed)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    samples = ["sample space_group a b c alpha beta gamma".replace(" ", "\t")]
    samples.append("hexa\tP 6/m m m\t4.80\t4.80\t7.15\t90\t90\t120")
    samples.append("tetra\tP 4/m m m\t3.97\t3.97\t4.03\t90\t90\t90")
    (folder / "config/samples.tsv").write_text("\n".join(samples) + "\n")
    rows = ["sample scan temperature parent rotation raw goniometer calibration".replace(" ", "\t")]
    rows += [
        f"{sample}\t{t}K\t{t}\t{PARENT}\t{name}\traw/{seed}_{sample}_{t}K_{name}.nxs"
        f"\tchi={chi} phi=0:0.5\tpowder"
        for sample in ("hexa", "tetra")
        for t in TEMPERATURES
        for name, chi in ROTATIONS.items()
    ]
    (folder / "config/scans.tsv").write_text("\n".join(rows) + "\n")


def snakemake(folder: Path, cores: int, *until: str) -> str:
    """Run the one command; what it printed."""
    snakefile = Path(__file__).parents[1] / "Snakefile"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
    command += ["--directory", str(folder), "--cores", str(cores), "--quiet", "rules", *until]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    (folder / "snakemake.log").write_text(run.stdout + run.stderr)
    print(f"snakemake: exit code {run.returncode}")
    return run.stdout + run.stderr


def compare(folder: Path) -> None:
    """Print pulls of the cells and errors of the orientations."""
    experiment = config.load(yaml.safe_load((folder / "config/config.yaml").read_text()), folder)
    results = folder / experiment.config.results
    samples, pulls, turns = experiment.samples, [], []
    print(
        "sample scan   cell (free lengths and angles)      pulls                 turn/deg  accepted"
    )
    for sample, scan in experiment.scans:
        data = stage.read_json(results / sample / scan / "orientation.json")
        raw = experiment.rotation(sample, scan, "r1").raw
        truth = build(config.simulation_description(experiment, raw))
        cell, sigma = np.array(data["cell"]), np.array(data["cell_sigma"])
        # The axes of the truth that the indexing chose among the equivalent ones.
        laue = space_group(samples[sample].space_group).proper_laue_operations
        found, _ = lattice.decompose_ub(np.array(data["UB"]))
        true_u, true_cell = min(
            (lattice.decompose_ub(truth.ub @ w) for w in laue),
            key=lambda made: lattice.rotation_angle(found, made[0]),
        )
        # Equal axes are one parameter.
        _, rows = np.unique(cell[sigma > 0], return_index=True)
        free = np.flatnonzero(sigma > 0)[np.sort(rows)]
        pull = (cell[free] - true_cell[free]) / sigma[free]
        fixed = np.abs(cell - true_cell)[sigma == 0].max(initial=0.0)
        turn = np.degrees(lattice.rotation_angle(found, true_u))
        accepted = results / sample / scan / "accepted.json"
        verdict = stage.read_json(accepted)["accepted"] if accepted.is_file() else "stopped"
        shown = " ".join(f"{value:8.5f}" for value in cell[free])
        told = " ".join(f"{value:+5.2f}" for value in pull)
        off = f" (fixed cell parameters off by {fixed:.1e})" if fixed > 1e-9 else ""
        print(f"{sample:6s} {scan:5s} {shown:34s} {told:24s} {turn:.5f}   {verdict}{off}")
        pulls += list(pull)
        turns.append(turn)
    print(
        f"pulls: mean {np.mean(pulls):+.2f}, width {np.std(pulls):.2f}, "
        f"largest {np.abs(pulls).max():.2f} of {len(pulls)}; "
        f"orientation: largest error {max(turns):.5f}°"
    )
    for sample in experiment.used_samples():
        for sentence in stage.read_json(results / sample / "temperature_series/findings.json")[
            "sentences"
        ]:
            print(f"{sample}: {sentence}")
    (folder / "pulls.json").write_text(json.dumps([float(x) for x in pulls]))


def main() -> None:
    """Write, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--new-parent", action="store_true")
    parser.add_argument("--no-volumes", action="store_true", help="stop at gates and series")
    arguments = parser.parse_args()
    folder = arguments.folder
    if not (folder / "config").is_dir():
        write(folder, arguments.seed)
    until = ["--until", "accept", "temperature_series"] if arguments.no_volumes else []
    snakemake(folder, arguments.cores, *until)
    compare(folder)
    if not arguments.new_parent:
        return
    path = folder / "config/config.yaml"
    data = yaml.safe_load(path.read_text())
    del data["accept"]
    data["per_scan"] = {"tetra/150K": {"refine_parent": {"space_group": "P m m m"}}}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    table = folder / "config/scans.tsv"
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    for row in rows:
        if row[0] == "tetra" and row[1] in ("150K", "100K"):
            row[3] = "150K"
    table.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    print("\nwith 150K as the parent of 150K and 100K:")
    snakemake(folder, arguments.cores, *until)
    compare(folder)


if __name__ == "__main__":
    main()
