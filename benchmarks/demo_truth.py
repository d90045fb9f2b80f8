"""Cells and orientations of a finished simulated experiment against what was simulated.

make demo && python -m benchmarks.demo_truth demo
"""

import argparse
from pathlib import Path

import numpy as np
import yaml

from hklflow import stage
from hklflow.experiment import config
from hklflow.geometry import lattice
from hklflow.geometry.symmetry import space_group
from hklflow.stages.simulate import build


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    text = (folder / "config/config.yaml").read_text()
    experiment = config.load(yaml.safe_load(text), folder)
    print("sample scan   Δa/a      Δc/c      pull a  pull c   turn deg    σ deg  |UUᵀ-1| indexed")
    for sample, scan in experiment.scans:
        results = folder / experiment.config.results
        data = stage.read_json(results / sample / scan / "orientation.json")
        first = next(iter(experiment.rotations(sample, scan)))
        raw = experiment.rotation(sample, scan, first).raw
        truth = build(config.simulation_description(experiment, raw))
        cell, sigma = np.array(data["cell"]), np.array(data["cell_sigma"])
        change = cell[:3] / truth.cell[:3] - 1
        pulls = (cell[:3] - truth.cell[:3]) / sigma[:3]
        true_u, _ = lattice.decompose_ub(truth.ub)
        turns = []
        for operation in space_group(data["space_group"]).proper_laue_operations:
            u, _ = lattice.decompose_ub(np.array(data["UB"]) @ operation)
            turns.append(np.degrees(lattice.rotation_angle(u, true_u)))
        u = np.array(data["U"])
        print(
            f"{sample:6s} {scan:5s} {change[0]:+.2e} {change[2]:+.2e}"
            f" {pulls[0]:+7.2f} {pulls[2]:+7.2f}"
            f"   {min(turns):10.5f} {np.linalg.norm(data['orientation_sigma_deg']):8.5f}"
            f"  {np.abs(u @ u.T - np.eye(3)).max():.0e}  {data['metrics']['fraction indexed']:.3f}"
        )


if __name__ == "__main__":
    main()
