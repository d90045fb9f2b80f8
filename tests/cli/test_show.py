"""`hklflow show`: trees and histories as text, and what is no product of ours."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.geometry.grid import Grid
from tests.truth.orientations import orientation

from .conftest import Hklflow

CELL = np.array([4.8, 4.8, 7.15, 90.0, 90.0, 120.0])

TREE = """\
{path}
default plot: entry/plane/data
 *entry  NXentry
    lost -> gone.nxs:/entry/data  (not there)
    masked_transform -> volume.nxs:/entry/transform  NXdata  data(Ql, Qk, Qh)
   *plane -> volume.nxs:/entry/plane  NXdata  data(Qk, Qh)
    sample  NXsample
      lattice_centring  = "P"
      laue_group  = "6/mmm"
      orientation_matrix  3x3  float64  = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
      space_group  = "P 6/m m m"
      temperature  float64  = 300.0  K
      ub_matrix  3x3  float64  = [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]  1/angstrom
      unit_cell_group  = "hexagonal"
      unitcell_a  float64  = 4.8  angstrom
      unitcell_alpha  float64  = 90.0  degree
      unitcell_b  float64  = 4.8  angstrom
      unitcell_beta  float64  = 90.0  degree
      unitcell_c  float64  = 7.15  angstrom
      unitcell_gamma  float64  = 120.0  degree
    title  = "hexa 300K"
    transform -> volume.nxs:/entry/transform  NXdata  data(Ql, Qk, Qh)
links that lead nowhere: /entry/lost
"""

VOLUME = """\
{path}/entry
default plot: plane/data
  notes  NXcollection
    grid  = "{{"first": [-1.0, -0.5, -0.6000000000000001], "step": [0.1..." (91 characters)
    notes  = "{{}}"
 *plane  NXdata  data(Qk, Qh)
    Qh  21  float64  r.l.u.
    Qk  5  float64  = [-0.5, -0.25, 0.0, 0.25, 0.5]  r.l.u.
   *data  5x21  float32  counts per unit norm
    data_errors  5x21  float32  counts per unit norm
    title  = "S(Q), Ql = 0"
  sample  NXsample
    unit_cell  6  float64  = [4.8, 4.8, 7.15, 90.0, 90.0, 120.0]  angstrom, degree
  title  = "S(Q)"
  transform  NXdata  data(Ql, Qk, Qh)
    Qh  21  float64  r.l.u.
    Qk  5  float64  = [-0.5, -0.25, 0.0, 0.25, 0.5]  r.l.u.
    Ql  7  float64  = [-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6]  r.l.u.
    counts  7x5x21  uint32
    data  7x5x21  float32  counts per unit norm
    data_errors  7x5x21  float32  counts per unit norm
    norm  7x5x21  float32
    title  = "S(Q)"
"""


@pytest.fixture
def master(tmp_path: Path) -> Path:
    """A volume, and a master file with one link that leads nowhere."""
    grid = Grid.symmetric([1.0, 0.5, 0.6], [0.1, 0.25, 0.2])
    counts = np.arange(np.prod(grid.array_shape), dtype=float).reshape(grid.array_shape)
    data = counts / 2
    data[0] = np.nan
    volume = nexus.Volume(grid, CELL, counts, np.full_like(counts, 2), data, data, {})
    nexus.write_volume(tmp_path / "volume.nxs", volume, "S(Q)")
    known = orientation(
        ub=2 * np.eye(3),
        u=np.eye(3),
        group="P 6/m m m",
        cell=CELL,
        cell_sigma=np.full(6, 0.001),
        temperature=300.0,
    )
    path = tmp_path / "hexa.nxs"
    volumes = dict.fromkeys(("transform", "masked_transform"), tmp_path / "volume.nxs")
    nexus.write_master(path, "hexa 300K", volumes, {}, known)
    with h5py.File(path, "r+") as file:
        file["entry/lost"] = h5py.ExternalLink("gone.nxs", "/entry/data")
    return path


def test_the_tree_of_a_master_file(hklflow: Hklflow, master: Path) -> None:
    done = hklflow("show", master)
    assert done.code == 0, done.err
    assert done.out == TREE.format(path=master)


def test_the_tree_of_what_is_linked(hklflow: Hklflow, master: Path) -> None:
    volume = master.with_name("volume.nxs")
    assert hklflow("show", volume / "entry").out == VOLUME.format(path=volume)
    linked = hklflow("show", master / "entry/transform").out
    assert " -> volume.nxs:/entry/transform/data  7x5x21  float32" in linked


def test_a_dataset(hklflow: Hklflow, master: Path) -> None:
    lines = hklflow("show", master / "entry/transform/data").out.splitlines()
    # halves of 105 ... 734; the first plane is not measured
    assert lines == [
        "entry/transform/data  7x5x21  float32  counts per unit norm",
        "  S(Q) (counts per unit norm)",
        "  least 52.5, largest 367, mean 209.75",
        "  105 of 735 (14.3%) are not finite (not measured)",
    ]
    axis = hklflow("show", master / "entry/transform/Qh").out
    assert "Qh (r.l.u.)" in axis
    assert "-1.0, -0.9, -0.8, ..., 0.8, 0.9, 1.0" in axis
    few = hklflow("show", master / "entry/transform/Qk").out
    assert "  [-0.5, -0.25, 0.0, 0.25, 0.5]" in few
    notes = hklflow("show", master.with_name("volume.nxs") / "entry/notes/grid").out
    assert json.loads("\n".join(notes.splitlines()[1:]))["shape"] == [21, 5, 7]


def test_a_very_large_dataset_is_read_in_part(
    hklflow: Hklflow, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hklflow.cli import show

    monkeypatch.setattr(sys.modules[show.__module__], "_MANY", 300)
    out = hklflow("show", master / "entry/transform/counts").out
    # planes 0, 3 and 6 of 105 numbers each
    mean = np.mean([np.arange(105) + 105 * plane for plane in (0, 3, 6)])
    assert "of 3 of 7 planes" in out
    assert f"least 0, largest 734, mean {mean:g}" in out


def test_a_stack_names_its_files(hklflow: Hklflow, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((2, 4), dtype="f4")
    for i, name in enumerate(("a.h5", "b.h5")):
        layout[i] = h5py.VirtualSource(name, "data", (4,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.ones(4, "f4")
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
        file["text"] = "a\x1b[31m\nb"
    out = hklflow("show", tmp_path / "stack.h5").out
    assert "virtual, of 2 files, not there: b.h5" in out
    assert "\x1b" not in out


def test_json(hklflow: Hklflow, tmp_path: Path) -> None:
    path = tmp_path / "accepted.json"
    data = {
        "scan": "100K",
        "accepted": True,
        "limits": {"max_absent": 0.02},
        "relations": [{"relation": "a = b", "z": 2.9702982}],
        "long": list(range(20)),
        "provenance": [{}, {}],
    }
    path.write_text(json.dumps(data))
    assert (
        hklflow("show", path).out
        == f"""\
{path}
  scan: 100K
  accepted: true
  limits:
    max_absent: 0.02
  relations: (list of 1)
    0:
      relation: a = b
      z: 2.9703
  long: [0, 1, 2, ...] (20 values)
  provenance: 2 stages, see --history
"""
    )
    assert hklflow("show", path / "relations/0/z").out.endswith("relations/0/z\n  2.9703\n")


def _record(name: str, inputs: dict[str, Path], base: Path) -> dict[str, object]:
    read = {
        field: [
            {
                "path": str(path.relative_to(base)),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        ]
        for field, path in inputs.items()
    }
    return {
        "stage": name, "stage_version": 3, "program": "hklflow", "version": "0.1.0",
        "started": "2026-01-02T03:04:05+00:00", "seconds": 1.5, "params": {"pool": 2},
        "inputs": read, "outputs": {},
    }  # fmt: skip


def test_the_history_tells_every_input_and_its_fate(
    hklflow: Hklflow, master: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    kept, changed, removed = (raw / f"{name}.h5" for name in ("kept", "changed", "removed"))
    for path in (kept, changed, removed):
        path.write_text(path.name)
    volume = master.with_name("volume.nxs")
    first = _record("import_scan", {"raw": kept, "flat": changed, "dark": removed}, tmp_path)
    history = [first, _record("merge", {"volumes": kept}, tmp_path)]
    below = tmp_path / "results/hexa"
    below.mkdir(parents=True)
    moved = Path(shutil.move(volume, below / "volume.nxs"))
    nexus.write_provenance(moved, history)
    hashes = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in (kept, changed, removed)}
    changed.write_text("other")
    removed.unlink()
    done = hklflow("show", moved, "--history")
    assert done.code == 0, done.err
    assert (
        done.out
        == f"""\
1. import_scan 3 (hklflow 0.1.0), 2026-01-02T03:04:05+00:00, 1.5 s
   pool = 2
   raw: raw/kept.h5  unchanged
      sha256 {hashes[kept]}
   flat: raw/changed.h5  CHANGED
      sha256 {hashes[changed]}
   dark: raw/removed.h5  missing
      sha256 {hashes[removed]}
2. merge 3 (hklflow 0.1.0), 2026-01-02T03:04:05+00:00, 1.5 s
   pool = 2
   volumes: raw/kept.h5  unchanged
      sha256 {hashes[kept]}
2 stages, 3 inputs: 1 unchanged, 1 CHANGED, 1 missing
"""
    )
    assert "workflow  NXcollection  2 stages, see --history" in hklflow("show", moved).out
    figures = below / "figures.json"
    stage.write_json(figures, {"provenance": history})
    assert hklflow("show", figures, "--history").out == done.out


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("text.txt", "is neither HDF5 (NeXus) nor .json"),
        ("slices.png", "slices.png is a picture: open it in a viewer"),
        ("absent.nxs", "there is no file"),
        (".", "is a folder; give a file in it"),
        ("broken.json", "broken.json"),
        ("cut.nxs", "cannot be read"),
        ("hexa.nxs/entry/nothing", "there is no 'nothing' in"),
        ("hexa.nxs/entry/title/x", "entry/title of"),
        ("hexa.nxs/entry/lost", "lost leads to gone.nxs:/entry/data, which does not exist"),
        ("good.json/b", "there is no 'b' in"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    hklflow: Hklflow, master: Path, tmp_path: Path, name: str, told: str
) -> None:
    (tmp_path / "text.txt").write_text("no HDF5")
    (tmp_path / "slices.png").write_bytes(b"\x89PNG")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "good.json").write_text('{"a": 1}')
    (tmp_path / "cut.nxs").write_bytes(master.read_bytes()[:1000])
    done = hklflow("show", tmp_path / name)
    assert done.code == 2
    assert done.err.startswith("hklflow: ")
    assert done.err.count("\n") == 1
    assert told in done.err


def test_a_file_without_history(hklflow: Hklflow, master: Path) -> None:
    done = hklflow("show", master, "--history")
    assert done.code == 2
    assert "has no history" in done.err


def test_other_commands_do_not_pay_for_it() -> None:
    code = "import sys, hklflow.cli; print({'h5py', 'hdf5plugin', 'silx'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_nothing_in_a_file_acts_on_the_terminal(hklflow: Hklflow, tmp_path: Path) -> None:
    bad = "x\x1b]0;owned\x07\x9b2J\r\nhklflow: all is well\u202e"
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        group = file.create_group(f"group {bad}")
        group.attrs["NX_class"] = f"NXdata {bad}"
        group.attrs["signal"] = bad
        group[bad] = np.ones(3)
        group[bad].attrs["units"] = group[bad].attrs["long_name"] = bad
        group["link"] = h5py.SoftLink(f"/{bad}")
        file["text"] = json.dumps({bad: bad})
        file["names"] = [bad, bad]
        file.attrs["default"] = f"group {bad}"
    (tmp_path / "bad.json").write_text(json.dumps({bad: {bad: bad}, "list": [bad]}))
    for words in (
        (tmp_path / "bad.h5",),
        (tmp_path / "bad.h5/text",),
        (tmp_path / "bad.h5/names",),
        (tmp_path / "bad.h5/nothing",),
        (tmp_path / "bad.h5", "--plot"),
        (tmp_path / "bad.json",),
        (tmp_path / "bad.json/nothing",),
    ):
        done = hklflow("show", *words)
        said = done.out + done.err
        assert "owned" in said
        assert not {c for c in said if not c.isprintable()} - {"\n"}
        assert "\nhklflow: all" not in said
