"""Headers of SMV: the scanned axis, steps that nobody filled in, arms."""

import numpy as np
import pytest
from tests.oracles import dials_headers

from hklflow.beamlines import Request
from hklflow.beamlines.images import smv
from hklflow.formats.smv import read_smv
from hklflow.formats.text_headers import NOTHING_STATED, Choices


def write(folder, number=1, **changes):
    keys = dials_headers.SMV.format(number=7, year=2008)
    for key, value in changes.items():
        lines = [line for line in keys.splitlines() if not line.startswith(f"{key}=")]
        keys = "\n".join([*lines[:-1], f"{key}={value};", "}"])
    path = folder / f"a_{number:03d}.img"
    path.write_bytes(keys.encode().ljust(1024))
    return path


def test_exposures_that_differ(tmp_path):
    paths = [write(tmp_path, i, TIME=t, OSC_START=i - 1, OSC_RANGE=1) for i, t in ((1, 1), (2, 3))]
    header = read_smv(paths, (3072, 3072), NOTHING_STATED)
    np.testing.assert_array_equal(header.exposure_time, [1, 3])


def test_an_arm(tmp_path):
    path = write(tmp_path, TWOTHETA=-20.0)
    header = read_smv([path], (3072, 3072), NOTHING_STATED)
    assert header.detector is None
    assert "arm is at -20 degrees" in header.detector_doubt
    header = read_smv([path], (3072, 3072), Choices(arm=(1.0, 0.0, 0.0)))
    s, c = np.sin(np.radians(-20)), np.cos(np.radians(-20))
    beam = header.detector.lab(155.0 / 0.1024, 160.0 / 0.1024)
    np.testing.assert_allclose(beam, 0.25 * np.array([0, -s, c]), atol=1e-12)


@pytest.mark.real_data
def test_snase_has_stills_without_a_step(real_data):
    """AXIS=phi and OSC_RANGE=0: a stated axis is not dropped silently."""
    folder = real_data / "rotation_snase"
    (one,) = smv.find(Request(folder, options={"axis": "phi"})).scans
    assert one.goniometer == ""
    told = " ".join(one.notes)
    assert "OSC_RANGE is 0" in told
    assert "--option axis=phi=0:1" in told
    (one,) = smv.find(Request(folder, options={"axis": "phi=0:1"})).scans
    assert one.goniometer == "phi=0:1"
    assert one.light
    assert (one.header.start_deg, one.header.step_deg) == (0.0, 1.0)
