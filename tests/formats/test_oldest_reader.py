"""Every kind of file that is written can be read with HDF5 1.10, by its bytes and by h5dump.

The products of the workflow even keep to the format of HDF5 1.6, the raw files to that of 1.8.
"""

import os
import re
import shutil
import subprocess

import h5py
import hdf5plugin
import numpy as np
import pytest
from tests.test_nexus import DEFAULTS, _master, _product, _volume

from hklflow import nexus
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images.frame_scale import FrameScale, Transmission

RECORD = {"stage": "a", "version": "1", "stage_version": 1, "started": "2020-01-01T00:00:00"}

# Blocks that no library before 1.10 knows: indices of chunks by layout version 4.
NEW_BLOCKS = (b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EADB")

KINDS = [*DEFAULTS, "history", "scale", "temperatures", "stack", "master", "raw", "raw_full"]


def write_raw(path, **header):
    counts = np.random.default_rng(1).poisson(4, (5, 40, 30)).astype(np.uint32)
    with NXmxWriter(path, NXmxHeader(shape=(40, 30), n_frames=5, **header)) as writer:
        writer.append(counts)
    return path


def write_scale(path):
    flat = np.zeros(9)
    transmission = Transmission(flat + 1, flat, flat + 1, flat.astype(np.uint8), 1.0)
    scale = FrameScale(flat + 4, flat + 1, flat, transmission, 2.0, 1.0, "background")
    nexus.write_scale(path, scale, flat)
    return path


def write_temperatures(path):
    row = {"scan": "s", "parent": "s", "temperature": 20.0}
    for name in "abc":
        row |= {name: 4.0, f"{name}_sigma": 0.1}
    quantities = {name: nexus.Quantity(f"{name} (Å)", "angstrom") for name in "abc"}
    nexus.write_series(path, "sample", [row, {**row, "temperature": None}], quantities)
    return path


def write_stack(folder):
    members = []
    for temperature in (20.0, 300.0):
        path = folder / f"{temperature:g}K.nxs"
        nexus.write_volume(path, _volume(), "merged")
        members.append(nexus.Member(path, path.stem, temperature))
    found = nexus.Intensities(np.array([[1.0, 0, 0]]), np.ones((1, 2)), np.ones((1, 2)))
    with nexus.open_members(members) as volumes:
        nexus.write_stack(folder / "stack.nxs", "stack", members, volumes, found)
    return folder / "stack.nxs"


def write_kind(folder, kind):
    if kind == "history":
        path = _product(folder, "volume")
        nexus.write_provenance(path, [RECORD] * 12)
        return path
    if kind == "scale":
        return write_scale(folder / "scale.nxs")
    if kind == "temperatures":
        return write_temperatures(folder / "temperatures.nxs")
    if kind == "stack":
        return write_stack(folder)
    if kind == "master":
        return _master(folder)
    if kind == "raw":
        return write_raw(folder / "raw.nxs")
    if kind == "raw_full":
        return write_raw(
            folder / "raw.nxs",
            pixel_size=(1e-4, 1e-4),
            origin=[0.002, 0.002, 0.1],
            slow=[0, -1, 0],
            fast=[-1, 0, 0],
            wavelength=0.5,
            axis_names=("phi",),
            axes=[[-1, 0, 0]],
            angles=[0.0],
            start=0.0,
            step=0.01,
            exposure=0.1,
            monitor=np.ones(5),
            pixel_mask=np.zeros((40, 30), np.uint32),
            temperature=100.0,
            polarization=0.99,
        )
    return _product(folder, kind)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return {kind: write_kind(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def datasets(file):
    """Names of the datasets that are in this file, and not linked from others."""
    found = []
    file.visititems(lambda name, node: found.append(name) if hasattr(node, "shape") else None)
    return found


def require_old(path, superblock, header):
    content = path.read_bytes()
    assert content[:8] == b"\x89HDF\r\n\x1a\n"
    assert content[8] <= superblock
    assert not [block for block in NEW_BLOCKS if block in content]
    with h5py.File(path) as file:
        nodes = ["/"]
        file.visit(nodes.append)
        versions = {h5py.h5o.get_info(file[name].id).hdr.version for name in nodes}
        assert max(versions) <= header
        for name in datasets(file):
            pipeline = file[name].id.get_create_plist()
            filters = {pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())}
            assert filters <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE} or (
                name.endswith("/data/data") and filters == {hdf5plugin.BSHUF_ID}
            )


@pytest.mark.parametrize("kind", KINDS)
def test_format_of_the_file(files, kind):
    raw = kind.startswith("raw")
    require_old(files[kind], 2 if raw else 0, 2 if raw else 1)


def test_a_new_format_is_noticed(tmp_path):
    for name, chunks in (("plain", None), ("chunked", (1, 5))):
        with h5py.File(tmp_path / name, "w", libver="latest") as file:
            file.create_dataset("x", data=np.ones((5, 5)), chunks=chunks)
        with pytest.raises(AssertionError):
            require_old(tmp_path / name, 2, 2)


# ---------------------------------------------------------------------------- by its tool


@pytest.fixture(scope="module")
def h5dump():
    """h5dump of HDF5 1.10: what it prints, or an assertion."""
    program = shutil.which("h5dump")
    if program is None:
        assert "HKLFLOW_REQUIRE_H5DUMP" not in os.environ, "h5dump is not installed"
        pytest.skip("h5dump is not installed")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    if not re.search(r"Version 1\.10\.", said.stdout):
        pytest.skip(f"{said.stdout.strip()} is not that of HDF5 1.10")

    def run(*arguments):
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr
        assert "unable" not in (done.stdout + done.stderr).lower()
        return done.stdout

    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_h5dump_reads_it(files, kind, h5dump):
    path = files[kind]
    assert "GROUP" in h5dump("-H", path)
    with h5py.File(path) as file:
        for name in datasets(file):
            pipeline = file[name].id.get_create_plist()
            filters = {pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())}
            # The frames need a plugin.
            if hdf5plugin.BSHUF_ID not in filters:
                assert "DATA {" in h5dump("-d", f"/{name}", path)


def test_h5dump_reads_the_same_numbers(files, h5dump):
    with h5py.File(files["volume"]) as file:
        truth = file["entry/transform/counts"][()]
    printed = h5dump("-y", "-w", "0", "-d", "/entry/transform/counts", files["volume"])
    numbers = printed.partition("DATA {")[2].partition("}")[0].replace(",", " ").split()
    np.testing.assert_array_equal(np.array(numbers, float), truth.ravel())


def test_h5dump_refuses_what_is_too_new(tmp_path, h5dump):
    with h5py.File(tmp_path / "new.h5", "w", libver="latest") as file:
        file.create_dataset("x", data=np.ones((5, 5)), chunks=(1, 5), compression="gzip")
        if file.libver[0] < "v200":
            pytest.skip("this HDF5 writes nothing that 1.10 cannot read here")
    with pytest.raises(AssertionError):
        h5dump(tmp_path / "new.h5")
