"""A tiny simulated experiment, and a way to run snakemake on it."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.patience import PATIENCE
from tests.truth import forks

REPOSITORY = Path(__file__).parents[2]

CONFIG: dict[str, Any] = {
    "calibrations": {
        "powder": {
            "image": "raw/CeO2.tif",
            "calibrant": "CeO2",
            "wavelength": 0.6,
            "pixel_size": [400e-6, 400e-6],
            "distance": 0.0808,
            "beam_centre": [75.0, 80.0],
            "polarization": 0.99,
        }
    },
    "import_scan": {"axes": ["chi=0,0,1", "phi=-1,0,0"], "exposure": 0.1},
    "refine_parent": {"grid_step": [0.1, 0.1, 0.1], "grid_limits": [3.0, 3.0, 3.0]},
    "frame_scale": {"window": 31},
    "simulation": {
        "scan": {
            "detector": {
                "modules": [1, 2],
                "module_shape": [150, 72],
                "gap": [0, 6],
                "pixel_size": [400e-6, 400e-6],
                "distance": 0.08,
                "foot": [75.3, 79.2],
                "tilt": [0.5, -0.7],
                "in_plane": 0.2,
                "n_hot": 3,
            },
            "wavelength": 0.6,
            "polarization": 0.99,
            "axes": {"chi": [0, 0, 1], "phi": [-1, 0, 0]},
            "n_frames": 150,
            "flux": 6.0,
            "transmission_swing": 0.1,
            "background": {"air": 1.0},
        },
        "samples": {
            "hexa": {
                "crystal": {
                    "cell": [4.75, 4.75, 7.2, 90, 90, 120],
                    "orientation": [0.4, -0.7, 0.3],
                    "scale": 2.0,
                    "mosaic": 0.007,
                    "expansion": [1.2e-5, 1.2e-5, 2e-5],
                },
                "diffuse": {
                    "flat": 0.4,
                    # Neighbours along a, b and a + b: all six-fold copies, as 6/mmm demands.
                    "cosines": [
                        {"amplitude": 0.02, "vector": vector}
                        for vector in ([1, 0, 0], [0, 1, 0], [1, 1, 0])
                    ],
                },
            }
        },
        # The crystal absorbs more in the second setting; the monitor does not see it.
        "rotations": {"r2": {"transmission_level": 0.8}},
        "powder": {"calibrant": "CeO2", "ring_width": 0.12, "peak_counts": 20000},
    },
}

SAMPLES = """sample\tspace_group\ta\tb\tc\talpha\tbeta\tgamma
hexa\tP 6/m m m\t4.80\t4.80\t7.15\t90\t90\t120
"""


def scans(
    temperatures: list[int],
    rotations: dict[str, int],
    parent: int,
    repeated: tuple[tuple[int, str], ...] = (),
) -> str:
    """Table of scans; ``rotations`` maps a name to chi in degrees.

    ``repeated`` are the (temperature, rotation) that were measured twice.
    """

    def raw(temperature: int, name: str) -> str:
        parts = ("", "b") if (temperature, name) in repeated else ("",)
        return " + ".join(f"raw/{temperature}K_{name}{part}.nxs" for part in parts)

    lines = ["sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration"]
    lines += [
        f"hexa\t{t}K\t{t}\t{parent}K\t{name}\t{raw(t, name)}\tchi={chi} phi=0:1.2\tpowder"
        for t in temperatures
        for name, chi in rotations.items()
    ]
    return "\n".join(lines) + "\n"


def write_experiment(folder: Path, config: dict[str, Any], table: str) -> Path:
    """Write configuration and tables."""
    (folder / "config").mkdir(parents=True)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    (folder / "config/samples.tsv").write_text(SAMPLES)
    (folder / "config/scans.tsv").write_text(table)
    return folder


def snakemake(
    folder: Path, *arguments: str, drawn: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run snakemake in an experiment's folder, as a user would; nothing is imported again.

    Pictures are blank unless they are to be ``drawn``: `finished` has them all.
    """
    environment = os.environ | {"PATH": forks.path(), forks.BLANK: "" if drawn else "yes"}
    command = [forks.python(), "-m", "snakemake", *arguments]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole experiment from raw frames to the overview: two temperatures, two rotations.

    One of the rotations is the sum of two scans. It is made once for all processes of a test run,
    which only read it; what changes something takes a copy (`copy_experiment`).
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "finished"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            # What another process has left, whose own test tells why.
            shutil.rmtree(shared / "unfinished", ignore_errors=True)
            made = write_experiment(
                shared / "unfinished",
                CONFIG,
                scans([300, 100], {"r1": 0, "r2": 40}, parent=300, repeated=((100, "r2"),)),
            )
            run = snakemake(made, "--cores", "2", drawn=True)
            assert run.returncode == 0, run.stdout + run.stderr
            made.rename(folder)
    return folder
