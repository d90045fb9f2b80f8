"""Reflection tables of DIALS: round trips, files that lie, and what DIALS makes of ours."""

import contextlib
import json
import pickle
import struct
import subprocess
from dataclasses import fields, replace

import msgpack
import numpy as np
import pytest
from dials_program import dials_python, run_dials_python
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from model_cases import random_model
from scipy.spatial.transform import Rotation as Turn

from hklflow.base.errors import HklflowError
from hklflow.formats.dials_expt import read_expt, write_expt
from hklflow.formats.dials_peaks import peaks_to_refl, refl_to_peaks
from hklflow.formats.dials_refl import (
    MAGIC,
    Refl,
    joined,
    read_refl,
    shoebox_moments,
    write_refl,
)
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice, prediction
from hklflow.geometry.model import Model
from hklflow.geometry.modules import Modules
from hklflow.geometry.parameters import HEAD
from hklflow.peaks.table import PeakTable

KINDS = [
    ("bool", np.bool_, ()),
    ("int", np.int32, ()),
    ("count", np.uint64, ()),
    ("double", np.float64, ()),
    ("vec2", np.float64, (2,)),
    ("vec3", np.float64, (3,)),
    ("mat3", np.float64, (3, 3)),
    ("miller", np.int32, (3,)),
    ("box", np.int32, (6,)),
]


def shoebox(rng, *, kind=1, corner=(3, 5, 7), shape=(2, 3, 4)):
    """Bytes of a shoebox, its counts, mask and background (frame, slow, fast)."""
    counts = rng.uniform(1, 100, shape).astype("<f4")
    mask = rng.choice([0, 1, 3, 5], shape).astype("<i4" if kind == 1 else "u1")
    mask.flat[0] = 5
    below = rng.uniform(0, 1, shape).astype("<f4")
    (z, y, x), (nz, ny, nx) = corner, shape
    head = struct.pack("<I6iB", 0, x, x + nx, y, y + ny, z, z + nz, kind)
    return head + counts.tobytes() + mask.tobytes() + below.tobytes(), counts, mask, below


def boxes_of(rng, n, kind=1):
    rows = np.empty(n, dtype=object)
    for i in range(n):
        rows[i] = shoebox(rng, kind=kind, shape=tuple(rng.integers(1, 5, 3)))[0]
    return rows


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 20))
def test_round_trip_of_all_types(tmp_path_factory, data, n):
    columns = {
        name: data.draw(hnp.arrays(kind, (n, *shape)), label=name) for name, kind, shape in KINDS
    }
    columns["shoebox"] = boxes_of(np.random.default_rng(n), n)
    refl = Refl(columns, {0: "a-b", 3: "c"}, n)
    path = tmp_path_factory.mktemp("refl") / "a.refl"
    write_refl(path, refl)
    back = read_refl(path)
    assert (back.nrows, back.version, back.identifiers) == (n, 1, {0: "a-b", 3: "c"})
    assert list(back.columns) == list(columns)
    for name, column in columns.items():
        assert back.columns[name].shape == column.shape
        assert back.columns[name].dtype == column.dtype
        np.testing.assert_array_equal(back.columns[name], column)


def test_rows_are_chosen_with_their_shoeboxes(tmp_path):
    rng = np.random.default_rng(1)
    refl = Refl({"id": np.arange(6, dtype=np.int32), "shoebox": boxes_of(rng, 6)}, {}, 6)
    keep = np.array([False, True, False, False, True, True])
    write_refl(tmp_path / "a.refl", refl.select(keep))
    back = read_refl(tmp_path / "a.refl")
    assert back.nrows == 3
    np.testing.assert_array_equal(back.columns["id"], [1, 4, 5])
    assert list(back.columns["shoebox"]) == list(refl.columns["shoebox"][keep])
    np.testing.assert_array_equal(refl.select([5, 1]).columns["id"], [5, 1])


def test_tables_are_joined():
    one = Refl({"id": np.zeros(2, np.int32), "only": np.zeros(2)}, {0: "a"}, 2)
    other = Refl({"id": np.ones(3, np.int32)}, {1: "b"}, 3)
    both = joined([one, other])
    assert (both.nrows, both.identifiers, list(both.columns)) == (5, {0: "a", 1: "b"}, ["id"])


def raw_file(path, version=1, nrows=2, data=None, identifiers=None, magic=MAGIC):
    table = {"identifiers": identifiers or {}, "nrows": nrows, "data": data or {}}
    path.write_bytes(msgpack.packb([magic, version, table], use_bin_type=True))
    return path


def test_version_2_is_written_as_version_1(tmp_path):
    rng = np.random.default_rng(2)
    made = [shoebox(rng, kind=2) for _ in range(2)]
    empty = struct.pack("<I6iB", 1, 0, 2, 0, 2, 0, 2, 0)
    raw = b"".join([made[0][0], empty, made[1][0]])
    path = raw_file(tmp_path / "a.refl", 2, 3, {"shoebox": ["Shoebox<>", [3, raw]]})
    first = read_refl(path)
    assert first.version == 2
    write_refl(path, first)
    second = read_refl(path)
    assert second.version == 1
    for row, (_, counts, mask, below) in zip((0, 2), made, strict=True):
        box = second.columns["shoebox"][row]
        assert box[28] == 1
        want = counts.tobytes() + mask.astype("<i4").tobytes() + below.tobytes()
        assert box[29:] == want
    assert second.columns["shoebox"][1] == empty
    one, other = (shoebox_moments(table.columns["shoebox"]) for table in (first, second))
    np.testing.assert_array_equal(one.width_slow, other.width_slow)


def test_moments_of_a_shoebox():
    rng = np.random.default_rng(3)
    box, counts, mask, below = shoebox(rng, shape=(4, 6, 5))
    rows = np.empty(1, dtype=object)
    rows[0] = box
    found = shoebox_moments(rows)
    weights, places = [], []
    for at in np.ndindex(counts.shape):
        if mask[at] & 5 == 5:
            weights.append(max(float(counts[at]) - float(below[at]), 0.0))
            places.append(at)
    variance = np.cov(np.array(places).T, aweights=weights, ddof=0)
    widths = [found.width_frame[0], found.width_slow[0], found.width_fast[0]]
    np.testing.assert_allclose(widths, np.sqrt(np.diag(variance)), rtol=1e-6)
    assert found.n_voxels[0] == len(places)
    assert found.maximum[0] == max(counts[at] for at in places)


def whole_table(tmp_path):
    rng = np.random.default_rng(4)
    columns = {"id": np.zeros(3, np.int32), "xyz": rng.normal(size=(3, 3))}
    write_refl(tmp_path / "a.refl", Refl({**columns, "shoebox": boxes_of(rng, 3)}, {0: "u"}, 3))
    return tmp_path / "a.refl"


def test_every_truncation_is_refused(tmp_path):
    path = whole_table(tmp_path)
    content = path.read_bytes()
    assert len(read_refl(path)) == 3  # the whole is read
    assert len(content) > 1000
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(HklflowError):
            read_refl(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_refused_or_read(tmp_path_factory, data):
    """No damage of a file brings anything but a sentence."""
    path = whole_table(tmp_path_factory.mktemp("refl"))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    with contextlib.suppress(HklflowError):
        read_refl(path)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"nrows": 2, "data": {"id": ["int", [3, b"\0" * 12]]}}, "3 rows, but the table has 2"),
        ({"nrows": 3, "data": {"id": ["int", [3, b"\0" * 11]]}}, "11 bytes where 3 rows need 12"),
        ({"nrows": 2**40, "data": {"x": ["double", [2**40, b""]]}}, "need 8796093022208"),
        ({"nrows": -1, "data": {"x": ["double", [-1, b""]]}}, "0 bytes"),
        ({"data": {"s": ["Shoebox<>", [2, b"\0" * 29]]}}, "shoeboxes"),
        ({"data": {"s": ["Shoebox<>", [2, b"\0" * 59]]}}, "shoeboxes"),
        ({"data": {"x": ["double", 3]}}, "damaged"),
        ({"data": {"x": ["double", [2, [1, 2]]]}}, "2 rows"),
        ({"identifiers": {"a": 1}}, "damaged"),
        ({"version": 3}, "version 3"),
        ({"magic": "other"}, "not a reflection table"),
    ],
)
def test_lengths_that_lie_are_refused(tmp_path, lie, words):
    with pytest.raises(HklflowError, match=words):
        read_refl(raw_file(tmp_path / "a.refl", **lie))


def test_box_larger_than_the_file_is_refused(tmp_path):
    huge = struct.pack("<I6iB", 0, 0, 2**31 - 1, 0, 2**31 - 1, 0, 2**31 - 1, 1) + b"\0" * 40
    backwards = struct.pack("<I6iB", 0, 5, 0, 0, 1, 0, 1, 1) + b"\0" * 40
    twice = struct.pack("<I6iB", 0, 5, 0, 1, 0, 0, 1, 1) + b"\0" * 60
    for raw in (huge, backwards, twice):
        path = raw_file(tmp_path / "a.refl", 1, 1, {"s": ["Shoebox<>", [1, raw]]})
        with pytest.raises(HklflowError, match="shoeboxes"):
            read_refl(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.refl"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
        with pytest.raises(HklflowError, match="pickle"):
            read_refl(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(HklflowError, match="HDF5"):
        read_refl(path)
    path.write_bytes(b"\xdd\xff\xff\xff\xff")  # an array of 4 294 967 295 elements
    with pytest.raises(HklflowError, match="truncated"):
        read_refl(path)
    path.write_bytes(b"\x81\x90\x01")  # a list as key
    with pytest.raises(HklflowError, match="truncated"):
        read_refl(path)
    with pytest.raises(HklflowError, match="does not exist"):
        read_refl(tmp_path / "b.refl")
    with pytest.raises(HklflowError, match="is a folder"):
        read_refl(tmp_path)


def test_columns_of_other_types_are_named(tmp_path):
    data = {"id": ["int", [2, b"\0" * 8]], "note": ["std::string", [2, ["a", "b"]]]}
    refl = read_refl(raw_file(tmp_path / "a.refl", data=data))
    assert refl.left_out == ("note (std::string)",)
    assert list(refl.columns) == ["id"]


def test_columns_that_dials_cannot_have_are_refused(tmp_path):
    for column in (np.zeros((2, 5)), np.zeros(2, "U3"), np.full(2, 2**40), np.zeros(2, complex)):
        with pytest.raises(HklflowError, match="no type in DIALS"):
            write_refl(tmp_path / "a.refl", Refl({"x": column}, {}, 2))
    with pytest.raises(HklflowError, match="3 rows"):
        write_refl(tmp_path / "a.refl", Refl({"x": np.zeros(3)}, {}, 2))
    assert not (tmp_path / "a.refl").exists()


def some_peaks(rng, n=40):
    columns = {f.name: rng.uniform(0.1, 2, n) for f in fields(PeakTable) if f.name != "counts"}
    columns |= {name: np.ones(n, np.int64) for name in ("n_pixels", "n_frames", "flags")}
    order = np.sort(rng.uniform(0, 60, n))
    columns |= {"frame": order, "slow": rng.uniform(0, 180, n), "fast": rng.uniform(0, 220, n)}
    return PeakTable(**columns, counts={"peaks": n})


@pytest.mark.parametrize("modules", [False, True])
def test_peaks_there_and_back(modules):
    model = random_model(8, modules=modules)
    peaks = some_peaks(np.random.default_rng(5))
    refl = peaks_to_refl(peaks, model.rotation, experiment=2, first_image=11)
    back, hkl, rows = refl_to_peaks(refl, model.rotation, experiment=2, first_image=11)
    np.testing.assert_array_equal(rows, np.arange(len(peaks)))
    for name in ("frame", "slow", "fast", "var_frame", "var_slow", "var_fast", "intensity"):
        np.testing.assert_allclose(getattr(back, name), getattr(peaks, name), rtol=1e-12)
    assert not hkl.any()
    assert np.isnan(back.width_slow).all()
    z = refl.columns["xyzobs.px.value"][:, 2]
    np.testing.assert_allclose(z, peaks.frame + 10)
    none, *_ = refl_to_peaks(refl, model.rotation, experiment=0, first_image=11)
    assert len(none) == 0


def test_unindexed_spots_belong_to_their_images():
    model = random_model(8)
    refl = peaks_to_refl(some_peaks(np.random.default_rng(5), 4), model.rotation)
    refl = refl.with_columns({"id": np.array([-1, 0, -1, 0], np.int32)})
    assert len(refl_to_peaks(refl, model.rotation)[0]) == 4
    refl = refl.with_columns({"imageset_id": np.array([1, 0, 0, 1], np.int32)})
    assert list(refl_to_peaks(refl, model.rotation)[2]) == [1, 2, 3]


def test_tables_without_what_is_needed_are_refused():
    model = random_model(8)
    refl = peaks_to_refl(some_peaks(np.random.default_rng(5), 4), model.rotation)
    without = {k: v for k, v in refl.columns.items() if k != "flags"}
    with pytest.raises(HklflowError, match="no flags"):
        refl_to_peaks(replace(refl, columns=without), model.rotation)
    elsewhere = refl.with_columns({"panel": np.full(4, 3, np.uint64)})
    with pytest.raises(HklflowError, match="panel 3, but the detector has 1"):
        refl_to_peaks(elsewhere, model.rotation)
    with pytest.raises(HklflowError, match="one index and one mark for each"):
        peaks_to_refl(some_peaks(np.random.default_rng(5), 4), model.rotation, hkl=np.zeros((3, 3)))


ASK = """
import json, sys
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory
table = flex.reflection_table.from_file(sys.argv[1])
experiments = ExperimentListFactory.from_json_file(sys.argv[2], check_format=False)
told = {"types": [type(table[k]).__name__ for k in sorted(table.keys())],
        "identifiers": dict(table.experiment_identifiers()),
        "ours": list(table["entering"]), "mm": list(table["xyzobs.mm.value"]),
        "s1": list(table["s1"])}
table.calculate_entering_flags(experiments)
told["theirs"] = list(table["entering"])
table.centroid_px_to_mm(experiments)
told["mm of dials"] = list(table["xyzobs.mm.value"])
told["s1 of dials"] = [
    experiments[0].detector[p].get_lab_coord((x, y))
    for p, (x, y, z) in zip(table["panel"], table["xyzobs.mm.value"])
]
table["shoebox"] = flex.shoebox(
    table["panel"], flex.int6([(1, 4, 2, 6, 3, 5)] * len(table)), allocate=True
)
for i in range(len(table)):
    box = table["shoebox"][i]
    for j in range(len(box.data)):
        box.data[j] = i + j
        box.mask[j] = 5
table.as_file(sys.argv[3])
json.dump(told, sys.stdout)
"""


@pytest.mark.slow
@pytest.mark.dials
@pytest.mark.parametrize("modules", [False, True])
def test_dials_reads_ours_and_we_read_its(tmp_path, modules):
    model = random_model(8, modules=modules, first_image=4)
    across = Goniometer.single([-1.0, 0.1, 0.0])
    model = replace(model, rotation=replace(model.rotation, goniometer=across))
    peaks = some_peaks(np.random.default_rng(6))
    hkl = np.rint(model.rotation.hkl(model.ub, peaks.frame, peaks.slow, peaks.fast))
    (identifier,) = write_expt(tmp_path / "a.expt", [model])
    refl = peaks_to_refl(
        peaks, model.rotation, identifier=identifier, first_image=4, hkl=hkl, indexed=hkl[:, 0] > 0
    )
    write_refl(tmp_path / "a.refl", refl)
    told = json.loads(
        run_dials_python(ASK, tmp_path / "a.refl", tmp_path / "a.expt", tmp_path / "b.refl")
    )
    assert told["identifiers"] == {"0": identifier}
    assert told["ours"] == told["theirs"]
    assert 0 < sum(told["ours"]) < len(peaks)
    np.testing.assert_allclose(told["mm"], told["mm of dials"], rtol=1e-9, atol=1e-9)
    s1, place = np.array(told["s1"]), np.array(told["s1 of dials"])
    k = 1 / model.rotation.beam.wavelength
    np.testing.assert_allclose(
        s1, place / np.linalg.norm(place, axis=1)[:, None] * k, rtol=1e-9, atol=1e-9
    )
    back = read_refl(tmp_path / "b.refl")
    for name in ("miller_index", "flags", "id", "panel", "xyzobs.px.variance"):
        np.testing.assert_array_equal(back.columns[name], refl.columns[name])
    found = shoebox_moments(back.columns["shoebox"])
    np.testing.assert_array_equal(found.n_voxels, np.full(len(peaks), 24))
    np.testing.assert_array_equal(found.maximum, np.arange(len(peaks)) + 23)
    write_refl(tmp_path / "c.refl", back)
    again = read_refl(tmp_path / "c.refl")
    assert list(again.columns["shoebox"]) == list(back.columns["shoebox"])


@pytest.mark.slow
@pytest.mark.dials
def test_dials_refines_with_our_files(tmp_path):
    """Displaced modules, a head, steps in the negative sense: DIALS comes back to the truth."""
    rng = np.random.default_rng(0)
    cell = np.array([5.5, 7.9, 13.2, 90, 90, 90])
    ub = Turn.from_rotvec([0.5, 1, -0.3]).as_matrix() @ lattice.b_matrix(cell)
    boxes = [[0, 195, 0, 195], [0, 195, 205, 400], [205, 400, 0, 195], [205, 400, 205, 400]]
    modules = Modules(boxes, rng.normal(size=(4, 2)), rng.normal(scale=0.003, size=4))
    size, corner = (172e-6, 172e-6), [0.0344, 0.0344, 0.07]
    detector = Detector((400, 400), size, corner, [0, -1, 0], [-1, 0, 0], modules=modules)
    axes = [[0, 1, 0], [-1, 0, 0], [0, 0.6, 0.8]]
    goniometer = Goniometer(("omega", "phi", HEAD), axes, [0.3, 0, 0.01], 1)
    rotation = Rotation(Beam(0.7, 0.99), detector, goniometer, Scan(0.1, np.radians(-0.5), 360))
    hkl = lattice.indices_within(cell, 6.0)
    seen = prediction.predict(rotation, ub, hkl)
    use = (seen.zeta > 0.1) & (modules.module_at(seen.slow, seen.fast) >= 0)
    n = int(use.sum())
    columns = {f.name: np.ones(n) for f in fields(PeakTable) if f.name != "counts"}
    for name in ("frame", "slow", "fast"):
        columns[name] = getattr(seen, name)[use] + rng.normal(scale=0.05, size=n)
        columns[f"var_{name}"] = np.full(n, 0.05**2)
    start = Turn.from_rotvec([0.003, -0.002, 0.001]).as_matrix() @ ub * 1.002
    (identifier,) = write_expt(tmp_path / "a.expt", [Model(rotation, start, "I m m m")])
    table = peaks_to_refl(
        PeakTable(**columns, counts={}), rotation, identifier=identifier, hkl=hkl[seen.index][use]
    )
    write_refl(tmp_path / "a.refl", table)
    dials_python()
    fixed = ("scan_varying=False", "detector.fix=all", "beam.fix=all")
    subprocess.run(
        ["dials.refine", "a.expt", "a.refl", *fixed], cwd=tmp_path, capture_output=True, check=True
    )
    (refined,) = read_expt(tmp_path / "refined.expt")
    u, found = refined.crystal
    # Of 800 peaks with errors of 0.05 pixel and frame: DIALS states 2e-5 of the cell.
    np.testing.assert_allclose(found[:3], cell[:3], rtol=1e-4)
    turn = u @ Turn.from_rotvec([0.5, 1, -0.3]).as_matrix().T
    assert np.degrees(lattice.rotation_angle(turn, np.eye(3))) < 0.01
    assert refined.rotation.goniometer.names == ("omega", "phi", HEAD)
