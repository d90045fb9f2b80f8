"""A plugin of somebody else: that of docs/beamline_plugin.md, installed as pip would."""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.beamlines import beamline, known

from . import test_contract as contract
from .examples import Example

PAGE = Path(__file__).parents[2] / "docs/beamline_plugin.md"
CHECKS = [
    check
    for name, check in sorted(vars(contract).items())
    if name.startswith("test_") and inspect.isfunction(check)
]

assert len(CHECKS) > 5


@pytest.fixture
def bl7(tmp_path, monkeypatch):
    """The page's plugin as an installed distribution."""
    text = PAGE.read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class BL7" in c)
    (table,) = re.findall(r"```toml\n\[project\.entry-points\.\"(.*?)\"\]\n(.*?)```", text, re.S)
    site = tmp_path / "site-packages"
    about = site / "hklflow_bl7-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "hklflow_bl7.py").write_text(code)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hklflow-bl7\nVersion: 1.0\n")
    lines = table[1].replace('"', "")
    (about / "entry_points.txt").write_text(f"[{table[0]}]\n{lines}")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield "bl7"
    sys.modules.pop("hklflow_bl7", None)


def make(folder):
    for rotation, temperature, chi in ((1, 300.0, 0.0), (2, 300.0, 40.0), (1, 100.0, 0.0)):
        inner = folder / f"{temperature:g}_{rotation}"
        inner.mkdir(parents=True)
        with h5py.File(inner / "frames.h5", "w") as file:
            frames = np.ones((5, 8, 9), np.uint16)
            file.create_dataset("exchange/data", data=frames, chunks=(1, 8, 9))
        meta = {
            "sample": "quartz",
            "rotation": rotation,
            "energy_keV": 20.0,
            "chi": chi,
            "phi_start": 0.0,
            "phi_step": 0.5,
            "exposure_s": 0.1,
            "ion_chamber": [5.0] * 5,
            "temperature_K": temperature,
        }
        (inner / "meta.json").write_text(json.dumps(meta))
    rotations = {("quartz", s, r) for s, r in (("300K", "r1"), ("300K", "r2"), ("100K", "r1"))}
    return Example(folder, rotations)


def test_is_known(bl7):
    assert known()[bl7] == "hklflow_bl7:plugin"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(bl7, check, tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    home.mkdir()
    given = {
        "name": bl7,
        "made": (bl7, make(home / "source")),
        "tmp_path": tmp_path,
        "monkeypatch": monkeypatch,
        "capsys": capsys,
    }
    check(**{name: given[name] for name in inspect.signature(check).parameters})


def test_what_a_plugin_lacks_is_told(bl7, tmp_path):
    module = tmp_path / "site-packages/hklflow_bl7.py"
    module.write_text("class P:\n    name = 'bl7'\n\n\nplugin = P()\n")
    with pytest.raises(HklflowError, match="has no summary, options, find"):
        beamline(bl7)
    sys.modules.pop("hklflow_bl7", None)
    module.write_text("import nothing_of_this_name\n")
    importlib.invalidate_caches()
    with pytest.raises(HklflowError, match="cannot be loaded"):
        beamline(bl7)
    sys.modules.pop("hklflow_bl7", None)
    module.write_text("raise SystemExit(0)\n")
    importlib.invalidate_caches()
    with pytest.raises(HklflowError, match="cannot be loaded \\(SystemExit: 0\\)"):
        beamline(bl7)
