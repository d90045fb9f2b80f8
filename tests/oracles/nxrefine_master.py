"""Make nxrefine_master.json: what NXRefine itself reads and computes from a master file of hklflow.

Make the master file of the tests, then run NXRefine in an environment of its own (see
nxrefine_indexing.py):

    python -m pytest --basetemp=/tmp/master tests/test_viewers.py -k nxrefine_itself
    python tests/oracles/nxrefine_master.py /tmp/master/viewers0/out/hexa_300K.nxs

Nothing of hklflow is used. The json has NXRefine's answers and the fields that NXRefine reads, so
that a test can tell whether the answers are of the master file that hklflow writes today.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import nexusformat.nexus as nx
import numpy as np

# The released nexusformat 2.1 lacks this class, which NXRefine only tests for.
if not hasattr(nx, "NXgoniometer"):
    nx.NXgoniometer = type("NXgoniometer", (nx.NXgroup,), {})

from nxrefine.nxrefine import NXRefine

XYZ = [[30.0, 20.0, 3.0], [199.5, 10.0, 90.0], [310.0, 355.0, 200.0], [12.0, 251.0, 359.0]]
SEEN = {"orientation_matrix", "detector_orientation", "pixel_size", "shape", "distance", "phi"}
SEEN |= {"roll", "pitch", "yaw", "beam_center_x", "beam_center_y", "wavelength"}
SEEN |= {"theta", "omega", "chi", "translation_x", "translation_y"}


def plain(value):
    """Return a value as plain data."""
    return np.asarray(value).tolist()


def fields(entry):
    """Return the fields of the instrument and the sample that NXRefine reads."""
    found = {}
    for place in ("instrument/monochromator", "instrument/detector", "instrument/goniometer"):
        for name in SEEN & set(entry[place]):
            found[f"f1/{place}/{name}"] = plain(entry[place][name].nxvalue)
    for name in ("unitcell_" + n for n in ("a", "b", "c", "alpha", "beta", "gamma")):
        if name in entry["sample"]:
            found[f"f1/sample/{name}"] = plain(entry["sample"][name].nxvalue)
    return dict(sorted(found.items()))


def main():
    """Write the json beside this script."""
    entry = nx.nxload(sys.argv[1])["f1"]
    nxrefine = NXRefine(entry)
    nxrefine.read_parameters()
    polar, _ = nxrefine.calculate_angles(nxrefine.xp, nxrefine.yp)
    names = ("wavelength", "distance", "pixel_size", "xc", "yc", "phi", "phi_step", "laue_group")
    names += ("a", "b", "c", "alpha", "beta", "gamma")
    answers = {
        "nxrefine": importlib.metadata.version("nxrefine"),
        "fields": fields(entry),
        "parameters": {name: plain(getattr(nxrefine, name)) for name in names},
        "ub": plain(nxrefine.UBmat),
        "xyz": XYZ,
        "hkl": [[float(v) for v in nxrefine.get_hkl(*at)] for at in XYZ],
        "peaks": {"x": plain(nxrefine.xp), "y": plain(nxrefine.yp), "polar_angle": plain(polar)},
    }
    text = json.dumps(answers, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
