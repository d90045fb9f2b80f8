"""Still frames through the whole workflow, compared with the truth.

``python -m benchmarks.stills FOLDER [FRAMES]`` simulates frames of crystals at random orientations
on four displaced modules, runs ``snakemake stills`` and prints how many frames are indexed, how
well, and the pulls of the merged intensities and of the modules.
"""

import json
import sys
from pathlib import Path

import numpy as np
import yaml
from tests.truth import still_files, stills
from tests.workflow.conftest import snakemake

from hklflow.geometry import detector_from_dict
from hklflow.nexus.stills import read_stills
from hklflow.nexus.structure_factors import read_factors

WORLD = stills.World(shifts=np.array([[0.4, -0.3], [0.6, -0.4], [-0.5, 0.7], [0.3, 0.5]]))
TURNS = [np.diag(signs) for signs in ((1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1))]


def make(folder: Path, n: int) -> list[stills.Frame]:
    """Write the experiment; return the frames."""
    for name in ("config", "raw"):
        (folder / name).mkdir(parents=True)
    frames = [stills.frame(WORLD, number) for number in range(n)]
    size = 1e3 * WORLD.pixel
    corner = np.array([*(size * np.array(WORLD.shape[::-1]) / 2), 1e3 * WORLD.distance])
    axes = np.array([0, -1.0, 0]), np.array([-1.0, 0, 0])
    counts = np.array([frame.counts for frame in frames])
    path = folder / "raw/stills.nxs"
    still_files.write(path, counts, (size, corner, *axes), WORLD.wavelength, WORLD.polarization)
    entry = {
        "raw": "raw/stills.nxs",
        "cell": [*WORLD.cell, 90, 90, 90],
        "space_group": "P m m m",
        "batches": max(n // 50, 1),
        "refine_stills_detector": {"level": "module", "max_frames": 60},
    }
    tables = {name: f"config/{name}.tsv" for name in ("samples", "scans")}
    config = tables | {"stills": {"ortho": entry}}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    for name, columns in (
        ("samples", ("sample", "space_group", "a", "b", "c", "alpha", "beta", "gamma")),
        ("scans", ("sample", "scan", "temperature", "parent", "rotation", "raw")),
    ):
        (folder / tables[name]).write_text("\t".join(columns) + "\n")
    return frames


def main() -> None:
    """Make, run, compare."""
    folder, n = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200
    frames = make(folder, n)
    run = snakemake(folder, "--cores", "2", "stills")
    if run.returncode:
        sys.exit(run.stdout + run.stderr)
    results = folder / "results/stills/ortho"
    angles = []
    for path in sorted(results.glob("batch_*/indexed.nxs")):
        found, _ = read_stills(path)
        for number, ub in zip(found.frames.number, found.frames.ub, strict=True):
            angles.append(min(_angle(ub, frames[number].ub @ turn) for turn in TURNS))
    print(f"{len(angles)} of {n} frames indexed")
    print(f"orientations off by {np.median(angles):.3f} (median), {max(angles):.3f} (most) degrees")
    factors = read_factors(results / "structure_factors.nxs").factors
    hkl, intensity = WORLD.reflections()
    truth = dict(zip(map(tuple, hkl.tolist()), intensity, strict=True))
    true = np.array([truth.get(tuple(row), 0.0) for row in factors.hkl.tolist()])
    value, sigma = factors.mean.intensity, factors.mean.sigma
    strong = true > np.median(true)
    scale = float(np.median(value[strong] / true[strong]))
    for _ in range(10):
        weight = 1 / sigma**2 / (1 + ((value - scale * true) / (3 * sigma)) ** 2)
        scale = float(np.sum(weight * value * true) / np.sum(weight * true**2))
    pulls = ((value - scale * true) / sigma)[true > 0]
    print(f"merged: CC with the truth {np.corrcoef(value, true)[0, 1]:.4f}")
    print(f"pulls {1.4826 * np.median(np.abs(pulls)):.3f} (median), {pulls.std():.3f} (rms)")
    metrics = json.loads((results / "detector.json").read_text())
    detector = detector_from_dict(json.loads((results / "geometry.json").read_text())["detector"])
    off = 1e3 * (detector.distance - WORLD.distance)
    print(f"distance off by {off:.4f} mm, sigma {metrics['sigma of the distance (mm)']:.4f} mm")
    for row, shift in zip(metrics["modules"], WORLD.shifts, strict=True):
        away = np.array([row["shift slow"], row["shift fast"]]) - shift
        print(f"module {row['module']}: {away.round(4)} pixels off, sigma {row['sigma slow']:.4f}")


def _angle(ub: np.ndarray, true: np.ndarray) -> float:
    u, _, v = np.linalg.svd(ub @ np.linalg.inv(2 * np.pi * true))
    return float(np.degrees(np.arccos(np.clip((np.trace(u @ v) - 1) / 2, -1, 1))))


if __name__ == "__main__":
    main()
