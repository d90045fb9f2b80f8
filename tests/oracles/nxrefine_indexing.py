"""Make nxrefine_indexing.json: Miller coordinates of pixels by NXRefine's own functions.

Run in an environment of its own, with NXRefine from PyPI and what its geometry needs:

    pip install nexusformat gemmi scikit-image numpy scipy
    pip install --no-deps nxrefine==1.0.0b1
    python tests/oracles/nxrefine_indexing.py

Nothing of hklflow is used. Files are written with nexusformat, opened with `NXRefine(entry)`, read
with `read_parameters` and indexed with `get_hkl`. The json has the content of the files, so that a
test can write them again, and NXRefine's answer for each pixel and frame.
"""

import importlib.metadata
import json
import tempfile
from pathlib import Path

import nexusformat.nexus as nx
import numpy as np

# The released nexusformat 2.1 lacks this class, which NXRefine only tests for.
if not hasattr(nx, "NXgoniometer"):
    nx.NXgoniometer = type("NXgoniometer", (nx.NXgroup,), {})

from nxrefine.nxrefine import NXRefine

SAMPLE = "entry/sample/unitcell_"
MONOCHROMATOR = "f1/instrument/monochromator/"
DETECTOR = "f1/instrument/detector/"
GONIOMETER = "f1/instrument/goniometer/"

CASES = [
    {
        "cell": [4.913, 4.913, 5.405, 90.0, 90.0, 120.0],
        "orientation": "-y +z -x",
        "tilts": [0.4, -0.7, 1.1],
        "angles": [0.7, -0.4, -90.0],
        "phi": [-5.0, 0.1],
    },
    {
        "cell": [5.1, 6.3, 7.9, 82.0, 97.0, 105.0],
        "orientation": "-y -z +x",
        "tilts": [-1.3, 0.2, 0.9],
        "angles": [-2.0, 3.0, -50.0],
        "phi": [10.0, -0.25],
    },
    {
        "cell": [8.1, 5.2, 9.7, 90.0, 113.0, 90.0],
        "orientation": "+y +z +x",
        "tilts": [12.0, -8.0, 5.0],
        "angles": [0.0, 0.0, 0.0],
        "phi": [0.0, 1.0],
    },
    {
        "cell": [5.5, 5.5, 5.5, 90.0, 90.0, 90.0],
        "orientation": "+y -z -x",
        "tilts": [0.0, 0.0, 0.0],
        "angles": [1.0, 20.0, -75.0],
        "phi": [-180.0, 0.5],
    },
]


def refined(u, cell):
    """Return the orientation matrix that NXRefine's free fit of nine elements ends with.

    Its B is the inverse of the axes, not the inverse transposed; the fit compensates for that.
    """
    crystal = NXRefine()
    crystal.a, crystal.b, crystal.c, crystal.alpha, crystal.beta, crystal.gamma = cell
    axes = np.asarray(crystal.Bimat)
    return u @ np.linalg.inv(axes).T @ axes


def contents(case, rng):
    """Return the fields of a file by their paths; phi has its step as an attribute."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    u = q * np.sign(np.diag(r))
    u = refined(u * np.linalg.det(u), case["cell"])
    fields = {
        SAMPLE + name: value
        for name, value in zip(("a", "b", "c", "alpha", "beta", "gamma"), case["cell"], strict=True)
    }
    fields[MONOCHROMATOR + "wavelength"] = 0.4
    fields |= {
        DETECTOR + name: value
        for name, value in zip(("roll", "pitch", "yaw"), case["tilts"], strict=True)
    }
    fields |= {
        DETECTOR + "detector_orientation": case["orientation"],
        DETECTOR + "distance": 65.0,
        DETECTOR + "pixel_size": 0.172,
        DETECTOR + "beam_center_x": 101.3,
        DETECTOR + "beam_center_y": 96.8,
        DETECTOR + "shape": [180, 220],
        DETECTOR + "orientation_matrix": u.tolist(),
    }
    fields |= {
        GONIOMETER + name: value
        for name, value in zip(("theta", "omega", "chi"), case["angles"], strict=True)
    }
    fields[GONIOMETER + "phi"] = case["phi"][0]
    return fields


def write(path, fields, step):
    """Write a file of NXRefine."""
    root = nx.NXroot(
        entry=nx.NXentry(sample=nx.NXsample()),
        f1=nx.NXentry(
            instrument=nx.NXinstrument(
                detector=nx.NXdetector(),
                monochromator=nx.NXmonochromator(),
                goniometer=nx.NXgoniometer(),
            )
        ),
    )
    for name, value in fields.items():
        root[name] = nx.NXfield(value)
    root[GONIOMETER + "phi"].attrs["step"] = step
    root["f1/sample"] = nx.NXlink(root["entry/sample"])
    root.save(str(path), "w")


def main():
    """Write the json beside this script."""
    rng = np.random.default_rng(26)
    made = []
    for case in CASES:
        fields, step = contents(case, rng), case["phi"][1]
        pixels = rng.uniform([0, 0, 0], [219, 179, 59], (12, 3)).round(3).tolist()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.nxs"
            write(path, fields, step)
            nxrefine = NXRefine(nx.nxload(str(path))["f1"])
            nxrefine.read_parameters()
            hkl = [[float(v) for v in nxrefine.get_hkl(*at)] for at in pixels]
        made.append({"fields": fields, "step": step, "xyz": pixels, "hkl": hkl})
    version = importlib.metadata.version("nxrefine")
    text = json.dumps({"nxrefine": version, "files": made}, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
