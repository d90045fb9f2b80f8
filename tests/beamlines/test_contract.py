"""What every plugin of ``hklflow.beamlines`` keeps, also those of others that are installed.

A plugin's own tests register an example of its source: a module ``test_*.py`` beside this one.
"""

import hashlib
import importlib
import os
import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Beamline, Found, Request, Unmatched, beamline, known
from hklflow.cli import main
from hklflow.cli.folder import read_table
from hklflow.experiment.tables import check_name, is_series
from hklflow.formats.raw import is_hdf5, open_frames, read_header
from hklflow.formats.raw_frames import Frames
from hklflow.formats.series import find_files

from .examples import EXAMPLES

PLUGINS = sorted(known())


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    """Example of a plugin, made once."""
    name = request.param
    assert name in EXAMPLES, f"no test registers an example of {name}; see tests/beamlines"
    return name, EXAMPLES[name](tmp_path_factory.mktemp(name) / "source")


every = pytest.mark.parametrize("made", PLUGINS, indirect=True)


def ask(example, source=None, **more):
    source = example.source if source is None else source
    return Request(source=source, options=example.options, **{**example.ask, **more})


def content(folder):
    """Everything below a folder: names, times, contents."""
    found = {}
    for here, _, files in os.walk(folder):
        found[here] = Path(here).stat().st_mtime_ns
        for name in files:
            path = Path(here, name)
            if path.is_file():
                found[str(path)] = (
                    path.stat().st_mtime_ns,
                    hashlib.sha256(path.read_bytes()).hexdigest(),
                )
    return found


def plain(value):
    """Something that can be compared, of dataclasses with arrays in them."""
    if is_dataclass(value):
        return tuple(plain(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, np.ndarray):
        return (value.shape, str(value.dtype), value.tobytes())
    if isinstance(value, dict):
        return tuple(sorted((str(k), plain(v)) for k, v in value.items()))
    return tuple(map(plain, value)) if isinstance(value, (list, tuple)) else value


def names(found):
    return [(one.sample, one.scan, one.rotation) for one in found.scans]


@pytest.mark.parametrize("name", PLUGINS)
def test_has_what_a_plugin_needs(name):
    plugin = beamline(name)
    assert isinstance(plugin, Beamline)
    assert plugin.name == name
    assert plugin.summary
    assert all(told for told in plugin.options.values())


@every
def test_finds_its_scans_and_leaves_the_source_alone(made, monkeypatch):
    name, example = made

    def read(*_, **__):
        raise AssertionError("frames are not for an import to read: there may be terabytes")

    for method in ("read", "blocks", "stream", "bands"):
        monkeypatch.setattr(Frames, method, read)
    home = example.source.parent
    before = content(home)
    first = beamline(name).find(ask(example))
    second = beamline(name).find(ask(example))
    assert content(home) == before
    assert plain(first) == plain(second)
    assert len(names(first)) == len(set(names(first)))
    assert set(names(first)) == example.rotations
    assert not first.unmatched


@every
def test_what_is_found_is_sound(made):
    name, example = made
    found = beamline(name).find(ask(example)).scans
    assert len(found) == len(example.rotations) > 0
    for one in found:
        problems = []
        for what in ("sample", "scan", "rotation"):
            check_name(getattr(one, what), what, name, problems)
        assert not problems
        assert Path(one.raw).is_absolute()
        if is_series(one.raw):
            shape = (len(find_files(one.raw)), *one.shape)
        else:
            assert Path(one.raw).is_file()
            shape = (one.header.n_frames, *one.shape)
        if one.datasets:
            assert all(Path(file).is_absolute() for file, _ in one.datasets)
            total = 0
            for file, inside in one.datasets:
                with h5py.File(file) as opened:
                    assert opened[inside].shape[1:] == one.shape
                    total += len(opened[inside])
            assert total == shape[0]
        header, n = one.header, shape[0]
        assert header.n_frames in (None, n)
        # Light files of HDF5 frames are links: there must be something to link.
        assert not (one.light and is_hdf5(one.raw)) or one.datasets
        for array in (header.monitor, header.angles_deg):
            assert array is None or array.shape == (n,)
        assert np.shape(header.transmission) in ((), (n,))
        assert header.pixel_mask is None or header.pixel_mask.shape == one.shape
        assert header.detector is None or tuple(header.detector.shape) == tuple(one.shape)
        assert all("\n" not in note and "\t" not in note for note in one.notes)


@every
def test_decoys_are_not_taken(made, tmp_path):
    name, example = made
    tree = tmp_path / "tree"
    shutil.copytree(example.source.parent, tree)
    source = tree / example.source.name
    folder = source if source.is_dir() else source.parent
    deepest = max((p for p in folder.rglob("*") if p.is_dir()), default=folder)
    for place in {folder, deepest}:
        (place / "notes.txt").write_text("dark images were taken at 3 am\n")
        (place / "thumbnail.jpg").write_bytes(b"\xff\xd8\xff")
        (place / "loop").symlink_to(folder)
        (place / ".hidden").mkdir()
        for raw in [p for p in place.iterdir() if p.is_file() and "log" not in p.name][:2]:
            shutil.copy(raw, place / ".hidden" / raw.name)
            shutil.copy(raw, place / f".{raw.name}.partial")
    # An experiment of hklflow that reduces these data lies beside them.
    shutil.copytree(example.source.parent, folder / "reduced/raw", symlinks=True)
    (folder / "reduced/config").mkdir()
    (folder / "reduced/config/config.yaml").write_text("")
    (folder / "reduced/config/scans.tsv").write_text("")
    found = beamline(name).find(ask(example, source))
    assert set(names(found)) == example.rotations
    assert not found.unmatched


@every
def test_an_empty_folder_and_a_broken_file_are_one_sentence(made, tmp_path):
    name, example = made
    empty = tmp_path / "empty"
    empty.mkdir()
    suffixes = {p.suffix for p in example.source.parent.rglob("*") if p.is_file()}
    broken = [tmp_path / f"broken_100K_0001{suffix}" for suffix in sorted(suffixes)]
    assert broken
    for path in broken:
        path.write_bytes(b"\x00\x01 this was never complete")
    for source in (empty, *broken):
        try:
            found = beamline(name).find(ask(example, source, scans=None))
        except HklflowError as error:
            told = str(error)
        else:
            assert not found.scans
            told = " ".join(lost.why for lost in found.unmatched) + " ".join(found.notes)
        assert told
        assert "\n" not in told


@every
def test_what_cannot_be_matched_says_why(made, tmp_path):
    """Every file cut to its half: nothing may come out as if it were whole."""
    name, example = made
    tree = tmp_path / "tree"
    shutil.copytree(example.source.parent, tree)
    for path in tree.rglob("*"):
        if path.is_file():
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
    try:
        found = beamline(name).find(ask(example, tree / example.source.name))
    except HklflowError as error:
        found = Found(unmatched=(Unmatched(name, str(error)),))
    for lost in found.unmatched:
        assert lost.what
        assert lost.why
        assert "\n" not in lost.why
    assert found.unmatched or not found.scans


@every
def test_import_gives_rows_that_can_be_read(made, tmp_path, capsys):
    name, example = made
    base = tmp_path / "experiment"
    command = ["import", str(example.source), "--from", name, "--directory", str(base)]
    for key, value in example.ask.items():
        command += [f"--{key.replace('_', '-')}", value]
    for key, value in example.options.items():
        command += ["--option", f"{key}={value}"]
    before = content(example.source.parent)
    for arguments in (["init", str(base)], command, command):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0, capsys.readouterr().err
    assert "nothing is written" in capsys.readouterr().out
    assert content(example.source.parent) == before
    rows = read_table(base / "config/scans.tsv").rows
    assert {(r["sample"], r["scan"], r["rotation"]) for r in rows} == example.rotations
    for row in rows:
        raw = row["raw"] if Path(row["raw"]).is_absolute() else str(base / row["raw"])
        header = read_header(raw)
        with open_frames(raw) as frames:
            n = frames.shape[0]
            last = frames.read(n - 1, n)
        assert last.shape[1:] == frames.shape[1:]
        assert header.n_frames == n


# At the end: one of them takes the tests above for a plugin of somebody else.
for module in sorted(Path(__file__).parent.glob("test_*.py")):
    importlib.import_module(f"{__package__}.{module.stem}")
