"""Make dials_geometry.json: positions of reflections as DIALS predicts them.

Run with hklflow's interpreter and DIALS 3.12 or later on PATH:

    python tests/oracles/dials_geometry.py --dials-python "python interpreter that imports dials"

The script writes a small NXmx file with hklflow's own writer (two-axis goniometer,
tilted detector), has `dials.import` read it, and predicts reflections with DIALS's
models and DIALS's predictor. Of the simulator only the description of the detector
goes in, through the file. U is given as a matrix; B follows the formula of Busing & Levy
from cctbx's reciprocal cell.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

SETUP = {
    "cell": [5.1, 6.3, 7.9, 82.0, 97.0, 105.0],
    "orientation": [0.7, -0.4, 1.1],
    "wavelength": 0.5,
    "shape": [180, 220],
    "pixel_size": [172e-6, 100e-6],
    "distance": 0.06,
    "foot": [70.0, 130.0],
    "tilt": [0.15, -0.1],
    "in_plane": 0.2,
    "axes": [[0.1, 1.0, 0.05], [-1.0, 0.2, 0.1]],
    "angles": [0.6, 0.0],
    "names": ["omega", "phi"],
    "scan": 1,
    "start": 0.3,
    "step": 0.02,
    "n_frames": 60,
}

PREDICT = """
import json, sys
from math import cos, pi, sin, sqrt
from cctbx import sgtbx, uctbx
from dials.array_family import flex
from dxtbx.model import Crystal
from dxtbx.model.experiment_list import ExperimentListFactory
from scitbx import matrix

expt_file, setup = sys.argv[1], json.loads(sys.argv[2])
experiment = ExperimentListFactory.from_json_file(expt_file, check_format=False)[0]
cell = uctbx.unit_cell(setup["cell"])
a, b, c, alpha, beta, gamma = cell.reciprocal().parameters()
alpha, beta, gamma = (x * pi / 180 for x in (alpha, beta, gamma))
real = cell.parameters()
# Busing & Levy (1967), eq. 3; with cos(alpha) of the direct cell.
B = matrix.sqr((
    a, b * cos(gamma), c * cos(beta),
    0, b * sin(gamma), -c * sin(beta) * cos(real[3] * pi / 180),
    0, 0, 1 / real[2],
))
v = matrix.col(setup["orientation"])
U = v.normalize().axis_and_angle_as_r3_rotation_matrix(v.length())
# McStas to imgCIF axes.
flip = matrix.diag((-1, 1, -1))
A = flip * U * B
crystal = Crystal((1, 0, 0), (0, 1, 0), (0, 0, 1), sgtbx.space_group_info("P1").group())
crystal.set_A(A)
experiment.crystal = crystal
predicted = flex.reflection_table.from_predictions(experiment, dmin=0.9)
panel = experiment.detector[0]
rows = []
for i in range(len(predicted)):
    s1 = predicted["s1"][i]
    x, y = panel.get_ray_intersection(s1)
    fast_pixel, slow_pixel = panel.get_pixel_size()
    z = predicted["xyzcal.px"][i][2]
    # Back to NeXus axes, and to 1/angstrom with 2 pi.
    lab = [-2 * pi * s1[0], 2 * pi * s1[1], -2 * pi * s1[2]]
    rows.append([*predicted["miller_index"][i], z, y / slow_pixel, x / fast_pixel, *lab])
scan = experiment.scan
json.dump({
    "rows": rows,
    "oscillation_deg": list(scan.get_oscillation()),
    "wavelength": experiment.beam.get_wavelength(),
}, sys.stdout)
"""


def write_file(path):
    import numpy as np

    from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
    from hklflow.simulation.frames import (
        CrystalModel,
        DetectorModel,
        GoniometerModel,
        ScanModel,
        Simulation,
    )

    simulation = Simulation(
        detector=DetectorModel(
            tuple(SETUP["shape"]),
            SETUP["distance"],
            tuple(SETUP["foot"]),
            tuple(SETUP["pixel_size"]),
            tuple(SETUP["tilt"]),
            SETUP["in_plane"],
        ),
        goniometer=GoniometerModel(
            tuple(map(tuple, SETUP["axes"])),
            tuple(SETUP["angles"]),
            tuple(SETUP["names"]),
            SETUP["scan"],
        ),
        scan=ScanModel(SETUP["start"], SETUP["step"], SETUP["n_frames"], SETUP["wavelength"]),
        crystal=CrystalModel(tuple(SETUP["cell"])),
    )
    with NXmxWriter(
        path, NXmxHeader(**{**simulation.raw_header(), "sensor_thickness": 1e-6})
    ) as writer:
        writer.append(np.zeros((SETUP["n_frames"], *SETUP["shape"]), dtype=np.uint32))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dials-python", required=True)
    parser.add_argument("--dials-import", default="dials.import")
    arguments = parser.parse_args()
    import hdf5plugin

    environment = {**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}
    with tempfile.TemporaryDirectory() as folder:
        write_file(Path(folder) / "scan.nxs")
        subprocess.run(
            [arguments.dials_import, "scan.nxs"], cwd=folder, env=environment, check=True
        )
        result = subprocess.run(
            [arguments.dials_python, "-c", PREDICT, "imported.expt", json.dumps(SETUP)],
            cwd=folder,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
        )
    predicted = json.loads(result.stdout)
    rows = [[*map(int, row[:3]), *(round(x, 9) for x in row[3:])] for row in predicted["rows"]]
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps({"setup": SETUP, **predicted, "rows": None}, indent=1)
    text = head.replace('"rows": null', f'"rows": [\n{lines}\n ]')
    (HERE / "dials_geometry.json").write_text(text + "\n")
    print(f"{len(rows)} reflections")


if __name__ == "__main__":
    main()
