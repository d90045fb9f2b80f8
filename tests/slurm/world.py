"""An experiment as small as can be that has jobs of every rule of the workflow.

A crystal at two temperatures, the parent with two rotations, one of them measured twice; every
optional step is on. Constants of a strip of an AGIPD, of a photon counter, and a rotation that is
corrected with the strip's. Still frames for DIALS. What has no rule is written here: runs of
constants, a run without the crystal, a PONI file.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hklflow.constants.detectors import integrating
from hklflow.constants.simulate import agipd
from hklflow.constants.simulate_counters import counted, draw
from hklflow.constants.simulate_photons import Foil
from hklflow.constants.simulate_runs import Campaign, write_campaign
from hklflow.experiment.config import Experiment, load, read_yaml, simulation_description
from hklflow.experiment.jobs import Job, Plan
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.stages.simulate import build

from ..truth import still_files, still_rays
from ..truth.still_tables import cell_of
from ..workflow.conftest import CONFIG, SAMPLES

MODULE, ASIC, CELLS = (16, 8), (8, 8), 1
RAMP = [(100, 1.0), (100, 60.0)]
COUNTER, PIXEL = (40, 50), 2e-3
ENERGY = 17.444

PONI = """\
poni_version: 2
Detector: Detector
Detector_config: {"pixel1": 0.002, "pixel2": 0.002, "max_shape": [40, 50], "orientation": 2}
Distance: 0.3
Poni1: 0.04
Poni2: 0.05
Rot1: 0.0
Rot2: 0.0
Rot3: 0.0
Wavelength: 5e-11
"""

CIF = """\
data_hexa
_cell_length_a 4.75
_cell_length_b 4.75
_cell_length_c 7.20
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_space_group_name_H-M_alt 'P 6/m m m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_U_iso_or_equiv
Fe1 Fe 0 0 0 1 0.01
"""

HEAD = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"

SCANS = """\
hexa\t300K\t300\t300K\tr1\traw/r1a.nxs + raw/r1b.nxs\tchi=0 phi=0:1.2\tpowder
hexa\t300K\t300\t300K\tr2\traw/r2.nxs\tchi=40 phi=0:1.2\tpowder
hexa\t200K\t200\t300K\tr1\traw/cold.nxs\tchi=0 phi=0:1.2\tpowder
"""

SERIES = "hexa\t{scan}\t{temperature}\t300K\tr1\traw/{scan}.nxs\tchi=0 phi=0:1.2\tpowder\n"

STRIP = "strip\t300K\t300\t300K\tr1\traw/strip\tphi=0:1.2\tlab\n"


def write_crystal(folder: Path) -> None:
    """Write an experiment of a simulated crystal, with every optional step."""
    _write(folder, CONFIG | _SETTINGS, SAMPLES, SCANS)
    (folder / "raw").mkdir()
    (folder / "config/hexa.cif").write_text(CIF)
    _without_crystal(folder)


def write_detectors(folder: Path) -> None:
    """Write an experiment with the constants of two detectors, and frames to be corrected."""
    (folder / "raw").mkdir(parents=True)
    (folder / "raw/lab.poni").write_text(PONI)
    settings = {
        "calibrations": {"lab": {"poni": "raw/lab.poni", "polarization": 0.99}},
        "constants": {"agipd": _integrating(folder), "pilatus": _counter(folder)},
        "correct_frames": {"constants": "agipd", "energy": ENERGY, "layout": "lab"},
    }
    _write(folder, settings, "sample\tspace_group\nstrip\tP 1\n", STRIP)


def write_stills(folder: Path) -> None:
    """Write an experiment of six still frames in two batches."""
    rays = still_rays.Rays(stated=1.003)
    shots = [still_rays.shoot(rays, still_rays.CRYSTAL, number) for number in range(6)]
    entry = {
        "raw": "raw/stills.nxs",
        "cell": list(cell_of(rays)),
        "space_group": "P 6/m m m",
        "batches": 2,
        "refine_stills_detector": {"level": "detector"},
    }
    still_files.experiment(folder, "hex", entry)
    still_rays.write(folder / "raw/stills.nxs", rays, shots)


def write_series(folder: Path) -> None:
    """Write an experiment of five temperatures, with clusters of voxels and a diffuse feature."""
    settings = {
        "binning": 2,
        "refine_parent": {"grid_step": [0.1, 0.1, 0.1], "grid_limits": [2.0, 2.0, 2.0]},
        "simulation": CONFIG["simulation"] | {"rotations": {}},
        "cluster": {"run": True},
        "features": {
            "define": {"M": {"shape": "point", "point": [0.5, 0, 0]}},
            "resolution": [0.05, 0.05, 0.05],
        },
    }
    table = (SERIES.format(scan=f"{t}K", temperature=t) for t in range(300, 50, -50))
    _write(folder, CONFIG | settings, SAMPLES, "".join(table))


def _write(folder: Path, settings: dict[str, Any], samples: str, scans: str) -> None:
    (folder / "config").mkdir(parents=True)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings))))
    (folder / "config/samples.tsv").write_text(samples)
    (folder / "config/scans.tsv").write_text(HEAD + scans)


def experiment(folder: Path) -> Experiment:
    """Return the experiment in a folder."""
    return load(read_yaml(folder / "config/config.yaml"), folder, {})


def jobs(folder: Path) -> list[Job]:
    """Return the jobs to be run; of the strip's rotation the corrected frames, of a series the
    clusters and features alone.
    """
    every = Plan(experiment(folder)).jobs
    if clusters := [job for job in every if job.rule == "cluster"]:
        return [clusters[0], *(job for job in every if job.rule == "features")]
    if (folder / "raw/strip").exists():
        return [job for job in every if job.column == "constants" or job.rule == "correct_frames"]
    return every


def goals(folder: Path) -> list[str]:
    """Return the products of the jobs that are kept."""
    return [path for job in jobs(folder) if "raw" not in job.at for path in job.products]


WORLDS = {
    "crystal": write_crystal,
    "detectors": write_detectors,
    "stills": write_stills,
    "series": write_series,
}
"""The experiments: functions that write them into a folder that does not exist."""

_SETTINGS: dict[str, Any] = {
    "binning": 2,
    "refine_parent": {"grid_step": [0.2, 0.2, 0.2], "grid_limits": [2.0, 2.0, 2.0]},
    "frame_blocks": 2,
    "bragg": True,
    "delta_pdf": ["masked_transform"],
    "accept": {"on_failure": "warn"},
    "normalization": {"artificial": "self_flat"},
    "absorption": {"shape": {"kind": "sphere", "radii": [0.05]}, "mu": 1.0},
    "background": {"runs": {"air": {"raw": "raw/empty.nxs", "seen_through": "not"}}},
    "refine_scale": {"use": True},
    "fill": {"radius": 0.2},
    "crystals": {"both": {"scans": ["hexa/300K", "hexa/200K"]}},
    "per_scan": {
        "hexa/200K": {
            "background": {"runs": {"air": None}, "unmeasured": "report"},
            "refine_scale": {"use": False},
            "absolute_scale": {"cif": "config/hexa.cif"},
        }
    },
}


def _integrating(folder: Path) -> dict[str, Any]:
    """Write all runs of the strip's constants; its entry of the configuration."""
    rng = np.random.default_rng(7)
    truth = {0: agipd(np.random.default_rng(50), CELLS, MODULE)}
    detector = integrating("agipd", MODULE, ASIC)
    campaign = Campaign(
        xrays=1500, foil=Foil(ENERGY), pulses=[(200, 1.0)], currents=RAMP, rates={"20": 10.0}
    )
    runs = write_campaign(folder / "raw/agipd", "lab", detector, truth, campaign, rng)
    (folder / "raw/strip").symlink_to("agipd/r0001")
    return {
        "detector": "agipd",
        "layout": "lab",
        "modules": [0],
        "module_size": MODULE,
        "asic_size": ASIC,
        "runs": json.loads(json.dumps(runs).replace(f"{folder}{os.sep}", "")),
        "process_xray": {"energy": ENERGY},
        "process_current_source": {"ramp": RAMP},
    }


def _counter(folder: Path) -> dict[str, Any]:
    """Write all runs of the photon counter; its entry of the configuration."""
    rng = np.random.default_rng(1)
    truth = draw(rng, np.zeros(COUNTER, bool), 4)
    header = {
        "pixel_size": (PIXEL, PIXEL), "origin": [0.05, 0.04, 0.3], "slow": [0, -1, 0],
        "fast": [-1, 0, 0], "wavelength": 0.5, "axis_names": ("phi",), "axes": [[-1, 0, 0]],
        "angles": [0.0], "start": 0.0, "step": 0.01, "exposure": 1e-3, "polarization": 0.99,
    }  # fmt: skip

    def write(name: str, frames: np.ndarray) -> str:
        n = len(frames)
        facts = NXmxHeader(shape=COUNTER, n_frames=n, monitor=np.ones(n), **header)
        with NXmxWriter(folder / f"raw/{name}.nxs", facts) as writer:
            writer.append(frames.astype(np.uint32))
        return f"raw/{name}.nxs"

    rates, steps = rng.uniform(1e5, 2e6, COUNTER[0] * COUNTER[1]), [1.0, 0.5, 0.1]
    flood = np.concatenate(list(truth.flood(np.full(COUNTER, 400.0), 40, rng)))
    behind = [[counted(t * rates, 1e-3, 2e-7, True, rng) for _ in range(2)] for t in steps]
    return {
        "detector": "pilatus",
        "geometry": "lab",
        "runs": {
            "dark": write("dark", rng.poisson(1e-3, (30, *COUNTER))),
            "flood": write("flood", flood),
            "stability": write("stability", rng.poisson(5.0, (40, *COUNTER))),
            "rate": [
                write(f"rate{i}", np.reshape(two, (2, *COUNTER))) for i, two in enumerate(behind)
            ],
            "transmission": steps,
        },
    }


def _without_crystal(folder: Path) -> None:
    """Write the run without the crystal: 20 frames of the air that every frame contains."""
    described = simulation_description(experiment(folder), "raw/r1a.nxs")
    nothing = {
        "crystal": described.crystal | {"scale": 0.0},
        "diffuse": {"flat": 0.0},
        "n_frames": 20,
        "transmission_swing": 0.0,
    }
    run = build(described.model_copy(update=nothing))
    with NXmxWriter(folder / "raw/empty.nxs", NXmxHeader(**run.raw_header())) as writer:
        for block in run.frames():
            writer.append(block)
