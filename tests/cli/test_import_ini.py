"""`hklflow config import-ini`: every documented key of NXRefine's settings.ini."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hklflow.cli.import_ini import KEYS, used
from hklflow.experiment.config import Config

from .conftest import Hklflow

# NXRefine's own defaults, as its documentation lists them, with other numbers here and there.
SETTINGS = """\
[server]
type = multicore
cores = 4
concurrent = True
run_command = pdsh
template = run.sh
cctw = cctw

[instrument]
source = APS
instrument = 6-ID-D
raw_home = /raw
raw_path = 2026
analysis_home = None
analysis_path = nxrefine
experiment = osborn

[nxrefine]
wavelength = 0.141
distance = 500
detector_orientation = -y +z -x
phi = -5.0
phi_end = 360.0
phi_step = 0.1
chi = -90
omega = 1.5
theta = 0.25
x = 0
y = 0
nsteps = 3
frame_rate = 8

[nxreduce]
threshold = 50000
min_pixels = 10
first_frame = 10
last_frame = 3640
polar_max = 10
hkl_tolerance = 0.05
monitor = MCS1
norm = 50000
sample_transmission = False
polarization = 0.99
radius = 0.2
mask_t1 = 2
mask_h1 = 11
mask_t2 = 0.8
mask_h2 = 51
scan_path = /entry/sample/temperature
scan_units = K
"""

# What they are in hklflow's units, by hand: 8 Hz is 0.125 s; frames 10 to 3640 end at 3639;
# pyFAI's factor (I_h - I_v)/(I_h + I_v) = 0.99 has 0.995 of the intensity horizontal.
ALWAYS: dict[str, Any] = {
    "find_peaks": {"threshold": 50000.0, "min_pixels": 10},
    "import_scan": {"first_frame": 10, "last_frame": 3639, "polarization": 0.995},
    "frame_scale": {"source": "none"},
    "orientation": {"max_two_theta": 10.0},
}
NOMINAL = {
    "wavelength": 0.141,
    "start": -5.0,
    "step": 0.1,
    "angles": {"chi": -90.0, "omega": 1.5, "theta": 0.25},
    "exposure": 0.125,
}


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    path = tmp_path / "settings.ini"
    path.write_text(SETTINGS)
    return path


def test_values_and_units(ini: Path, hklflow: Hklflow) -> None:
    done = hklflow("config", "import-ini", ini)
    assert done.code == 0
    assert yaml.safe_load(done.out) == ALWAYS
    everything = yaml.safe_load(used(done.out))
    assert everything == ALWAYS | {"import_scan": ALWAYS["import_scan"] | NOMINAL}
    Config.model_validate(everything)


def test_every_documented_key_comes_back_or_is_reported(ini: Path, hklflow: Hklflow) -> None:
    """The round trip: each line of the file is named, with its value, where it went."""
    done = hklflow("config", "import-ini", ini)
    section = ""
    for line in SETTINGS.splitlines():
        if line.startswith("["):
            section = line
        elif line:
            key, value = line.split(" = ")
            told = f"{section} {key} = {value}"
            assert key in KEYS[section.strip("[]")]
            kept = [text for text in done.out.splitlines() if text.endswith(told)]
            left_out = [text for text in done.err.splitlines() if text.startswith(f"{told}: ")]
            assert len(kept) + len(left_out) == 1, told
    documented = sum(" = " in line for line in SETTINGS.splitlines())
    assert documented == sum(len(keys) for keys in KEYS.values())


def test_unknown_keys_are_reported(tmp_path: Path, hklflow: Hklflow) -> None:
    path = tmp_path / "settings.ini"
    path.write_text("[nxreduce]\nthreshhold = 7\n[new]\nkey = 100%\n")
    done = hklflow("config", "import-ini", path)
    assert done.code == 0
    assert "[nxreduce] threshhold = 7: not known" in done.err
    assert "[new] key = 100%: not known" in done.err
    assert yaml.safe_load(done.out) is None


def test_it_is_a_facility_file(ini: Path, folder: Path, hklflow: Hklflow) -> None:
    facility = folder.parent / "facility.yaml"
    assert hklflow("config", "import-ini", ini, "-o", facility).code == 0
    base = folder.parent / "second"
    assert hklflow("init", base, "--facility", facility).code == 0
    done = hklflow("sample", "add", "a", "--space-group", "P1", "--directory", base)
    assert done.code == 0, done.err
    again = hklflow("config", "import-ini", ini, "-o", facility)
    assert again.code == 2
    assert "facility.yaml" in again.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[nxreduce]\nthreshold = many\n", "[nxreduce] threshold is 'many'"),
        ("[nxreduce]\nmin_pixels = 2.5\n", "[nxreduce] min_pixels is '2.5'"),
        ("[nxreduce]\nsample_transmission = perhaps\n", "'perhaps'"),
        ("[nxreduce]\npolarization = 1.5\n", "import_scan.polarization is 1.25"),
        ("[nxreduce]\nlast_frame = 0\n", "import_scan.last_frame is -1"),
        ("[nxrefine]\nframe_rate = 0\n", "[nxrefine] frame_rate is '0'"),
        ("[nxrefine]\nwavelength = -0.2\n", "import_scan.wavelength is -0.2"),
        ("[nxrefine]\nphi = nan\n", "[nxrefine] phi is 'nan'"),
        ("threshold = 3\n", "not an ini file"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, hklflow: Hklflow, text: str, told: str) -> None:
    path = tmp_path / "settings.ini"
    path.write_text(text)
    done = hklflow("config", "import-ini", path, "-o", tmp_path / "out.yaml")
    assert done.code == 2
    assert told in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out.yaml").exists()


def test_no_file(tmp_path: Path, hklflow: Hklflow) -> None:
    done = hklflow("config", "import-ini", tmp_path / "none.ini")
    assert done.code == 2
    assert "none.ini" in done.err
