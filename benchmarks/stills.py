"""Still frames through the whole workflow, compared with the truth.

``python -m benchmarks.stills FOLDER [FRAMES [SEED]]`` simulates frames of crystals at random
orientations on four displaced modules, runs ``snakemake stills`` and prints how many frames are
indexed, how many wrongly, the pulls of the merged intensities, CC1/2 compared with the correlation
with the truth, and the errors of the modules.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from tests.truth import still_files, stills
from tests.truth.still_tables import scale_to

from hklflow.geometry import detector_from_dict
from hklflow.nexus.stills import read_stills
from hklflow.nexus.structure_factors import read_factors

WORLD = stills.World(shifts=np.array([[0.4, -0.3], [0.6, -0.4], [-0.5, 0.7], [0.3, 0.5]]))
REPOSITORY = Path(__file__).parents[1]
WRONG = 1.0  # degrees; the nodes of these frames are 3.5 degrees apart or more
TURNS = [np.diag(signs) for signs in ((1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1))]


def make(folder: Path, n: int, seed: int) -> list[stills.Frame]:
    """Write the experiment; return the frames."""
    frames = [stills.frame(WORLD, number, seed=seed) for number in range(n)]
    entry = {
        "raw": "raw/stills.nxs",
        "cell": [*WORLD.cell, 90, 90, 90],
        "space_group": "P m m m",
        "batches": max(n // 50, 1),
        "refine_stills_detector": {"level": "module", "max_frames": 60},
    }
    still_files.experiment(folder, "ortho", entry)
    stills.write(folder / "raw/stills.nxs", WORLD, frames)
    return frames


def main() -> None:
    """Make, run, compare."""
    folder = Path(sys.argv[1])
    n, seed = (int(sys.argv[i]) if len(sys.argv) > i else (200, 0)[i - 2] for i in (2, 3))
    frames = make(folder, n, seed)
    where = ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    subprocess.run(
        [sys.executable, "-m", "snakemake", "stills", "--cores", "2", *where], check=True
    )
    results = folder / "results/stills/ortho"
    _frames(results, frames)
    _intensities(results, seed)
    _detector(results)


def _frames(results: Path, frames: list[stills.Frame]) -> None:
    """Print how many frames are indexed, and how well."""
    angles = []
    for path in sorted(results.glob("batch_*/indexed.nxs")):
        found, _ = read_stills(path)
        for number, ub in zip(found.frames.number, found.frames.ub, strict=True):
            angles.append(min(_angle(ub, frames[number].ub @ turn) for turn in TURNS))
    wrong = int(np.sum(np.array(angles) > WRONG))
    print(f"{len(angles)} of {len(frames)} frames indexed, {wrong} wrong")
    print(f"orientations off by {np.median(angles):.3f} (median), {max(angles):.3f} (most) degrees")


def _intensities(results: Path, seed: int) -> None:
    """Print pulls and correlations of the merged intensities."""
    factors = read_factors(results / "structure_factors.nxs").factors
    hkl, intensity = WORLD.reflections(seed)
    truth = dict(zip(map(tuple, hkl.tolist()), intensity, strict=True))
    true = np.array([truth.get(tuple(row), 0.0) for row in factors.hkl.tolist()])
    value, sigma = factors.mean.intensity, factors.mean.sigma
    scale = scale_to(true, value, sigma)
    pulls = ((value - scale * true) / sigma)[true > 0]
    print(f"pulls {1.4826 * np.median(np.abs(pulls)):.3f} (median), {pulls.std():.3f} (rms)")
    overall = json.loads((results / "structure_factors.json").read_text())["overall"]
    half = overall["CC1/2"]
    best = np.sqrt(2 * half / (1 + half))
    print(f"{len(value)} reflections, multiplicity {overall['multiplicity']:.1f}")
    print(
        f"CC1/2 {half:.4f}: a correlation with the truth of {best:.4f} is expected (CC*), "
        f"it is {np.corrcoef(value, true)[0, 1]:.4f}"
    )


def _detector(results: Path) -> None:
    """Print the errors of distance and modules."""
    metrics = json.loads((results / "detector.json").read_text())
    detector = detector_from_dict(json.loads((results / "geometry.json").read_text())["detector"])
    off = 1e3 * (detector.distance - WORLD.distance)
    print(f"distance off by {off:.4f} mm, sigma {metrics['sigma of the distance (mm)']:.4f} mm")
    rows = metrics["modules"]
    away = np.array([[row["shift slow"], row["shift fast"]] for row in rows]) - WORLD.shifts
    for row, error in zip(rows, away, strict=True):
        print(f"module {row['module']}: {error.round(4)} pixels off, sigma {row['sigma slow']:.4f}")
    between = np.abs(away - away.mean(axis=0)).max()
    print(f"shifts between the modules are off by {between:.4f} pixels at most")


def _angle(ub: np.ndarray, true: np.ndarray) -> float:
    u, _, v = np.linalg.svd(ub @ np.linalg.inv(2 * np.pi * true))
    return float(np.degrees(np.arccos(np.clip((np.trace(u @ v) - 1) / 2, -1, 1))))


if __name__ == "__main__":
    main()
