"""Bluesky runs: documents as suitcase, databroker and Tiled write them, frames in HDF5 files."""

import json

import h5py
import msgpack
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.beamlines.bluesky import plugin
from hklflow.formats.bluesky import read_runs
from hklflow.formats.light import write_light
from hklflow.formats.raw import open_frames

from .examples import Example, example

N, SHAPE = 5, (8, 9)


def write_frames(folder, name="img", per_file=1):
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(0, N, per_file):
        path = folder / f"{name}_{i:05d}.h5"
        with h5py.File(path, "w") as file:
            frames = np.stack([np.full(SHAPE, i + k, np.uint32) for k in range(per_file)])
            file.create_dataset("entry/data/data", data=frames, chunks=(1, *SHAPE))
        paths.append(path)
    return paths


def key(units="", **more):
    return {"source": "x", "dtype": "number", "shape": [], "units": units, **more}


def documents(folder, *, phi=None, motors=("phi",), keys=None, per_file=1, **start):
    """Start, descriptors, resources, datums, events and stop, as AreaDetector's writer makes them.

    The fields are those of Bluesky's event model.
    """
    phi = [10 + 0.5 * i for i in range(N)] if phi is None else phi
    about = {"uid": "run", "time": 1.0, "scan_id": 42, "plan_name": "scan", "motors": list(motors)}
    yield "start", about | {"sample_name": "quartz"} | start
    data_keys = {
        "phi": key("deg"),
        "phi_user_setpoint": key("deg"),
        "i0": key(),
        "cryo": key("degC"),
        "pil_image": key(dtype="array", shape=list(SHAPE), external="FILESTORE:"),
    } | (keys or {})
    settings = {"pil": {"data": {"pil_cam_acquire_time": 0.2, "pil_cam_model": "Pilatus"}}}
    yield (
        "descriptor",
        {"uid": "d", "name": "primary", "data_keys": data_keys, "configuration": settings},
    )
    rest = {"chi": key("deg"), "mono_bragg": key("deg"), "mono_energy": key("keV")}
    yield "descriptor", {"uid": "b", "name": "baseline", "data_keys": rest, "configuration": {}}
    baseline = {"chi": 40.0, "mono_bragg": 11.0, "mono_energy": 20.0}
    yield "event", {"descriptor": "b", "seq_num": 1, "time": 1.0, "data": baseline}
    for i in range(N):
        if i % per_file == 0:
            resource = {"uid": f"r{i}", "spec": "AD_HDF5", "root": "/", "resource_kwargs": {}}
            yield "resource", resource | {"resource_path": f"{folder}/img_{i:05d}.h5"[1:]}
        first = i - i % per_file
        datum = {"datum_id": f"r{first}/{i}", "resource": f"r{first}"}
        yield "datum", datum | {"datum_kwargs": {"point_number": i % per_file}}
        data = {"phi": phi[i], "phi_user_setpoint": phi[i], "i0": 1000.0 + i, "cryo": -173.15}
        event = {"descriptor": "d", "seq_num": i + 1, "time": 2.0 + i, "timestamps": {}}
        yield "event", event | {"data": data | {"pil_image": f"r{first}/{i}"}}
    yield "stop", {"uid": "s", "run_start": "run", "exit_status": "success"}


def as_msgpack(path, docs):
    """As suitcase-msgpack: pairs, with arrays and numbers of numpy as msgpack-numpy packs them."""

    def pack(value):
        if isinstance(value, np.generic):
            return {b"nd": False, b"type": value.dtype.str, b"data": value.data}
        return value

    pairs = []
    for name, doc in docs:
        if name == "event":
            doc = doc | {"data": {k: np.float64(v) if isinstance(v, float) else v
                                  for k, v in doc["data"].items()}}  # fmt: skip
        pairs.append((name, doc))
    path.write_bytes(b"".join(msgpack.packb(pair, default=pack) for pair in pairs))
    return path


def as_lines(path, docs):
    path.write_text("".join(json.dumps(pair) + "\n" for pair in docs))
    return path


def as_sequence(path, docs):
    """As Tiled: RFC 7464, with names."""
    texts = [json.dumps({"name": name, "doc": doc}) for name, doc in docs]
    path.write_text("".join(f"\x1e{text}\n" for text in texts))
    return path


def as_list(path, docs):
    path.write_text(json.dumps([{"name": name, "doc": doc} for name, doc in docs], indent=1))
    return path


def tiled_documents(folder):
    """As Tiled's exporter: one stream resource for all files, with a template."""
    for name, doc in documents(folder):
        if name in {"resource", "datum"}:
            continue
        if name == "event" and "pil_image" in doc["data"]:
            doc["data"].pop("pil_image")
        if name == "stop":
            parameters = {"dataset": "entry/data/data", "template": "img_%05d.h5"}
            resource = {"uid": "sr", "data_key": "pil_image", "mimetype": "application/x-hdf5"}
            place = {"uri": f"file://localhost{folder}/", "parameters": parameters}
            yield "stream_resource", resource | place
        yield name, doc


def found(source, raw=None, monitor=None, **options):
    request = Request(source, raw=raw, monitor=monitor, options=options)
    result = plugin.find(request)
    assert not result.unmatched, result.unmatched[0].why
    [scan] = result.scans
    return scan


@example("bluesky")
def make_bluesky(folder):
    write_frames(folder / "frames")
    as_lines(folder / "run.jsonl", documents(folder / "frames"))
    return Example(folder, {("quartz", "42", "r1")})


@pytest.mark.parametrize(
    ("write", "name", "make"),
    [
        (as_msgpack, "run.msgpack", documents),
        (as_lines, "run.jsonl", documents),
        (as_list, "run.json", documents),
        (as_sequence, "run.jsonseq", documents),
        (as_sequence, "run.json", tiled_documents),
    ],
)
def test_motors_exposure_and_frames(tmp_path, write, name, make):
    paths = write_frames(tmp_path / "frames")
    source = write(tmp_path / name, make(tmp_path / "frames"))
    scan = found(source, monitor="i0", temperature="cryo")
    header = scan.header
    assert (scan.sample, scan.header.n_frames, scan.shape) == ("quartz", N, SHAPE)
    assert scan.goniometer == "phi=10:0.5 chi=40"
    assert (header.start_deg, header.step_deg) == (10, 0.5)
    assert header.exposure_time == 0.2
    assert header.temperature == 100
    np.testing.assert_array_equal(header.monitor, 1000 + np.arange(N))
    assert header.wavelength == pytest.approx(12.3984198 / 20)
    assert scan.datasets == tuple((str(path), "entry/data/data") for path in paths)


def test_the_frames_are_those_of_the_events(tmp_path):
    """Through the light scan file that the import writes; events may come in any order."""
    write_frames(tmp_path / "frames")
    docs = list(documents(tmp_path / "frames"))
    order = [i for i, (name, doc) in enumerate(docs) if name == "event" and doc["seq_num"] == 2]
    docs.insert(4, docs.pop(order[-1]))
    scan = found(as_lines(tmp_path / "run.jsonl", docs))
    light = tmp_path / "a.scan.nxs"
    write_light(light, scan.header, scan.shape, list(scan.datasets), sample="quartz", source={})
    with open_frames(light) as frames:
        assert frames.read(0, N)[:, 0, 0].tolist() == list(range(N))


def test_angles_of_the_middle(tmp_path):
    write_frames(tmp_path / "frames")
    source = as_lines(tmp_path / "run.jsonl", documents(tmp_path / "frames"))
    scan = found(source, angles="middle")
    assert scan.header.start_deg == 9.75
    assert scan.goniometer == "phi=9.75:0.5 chi=40"
    assert not any("--option angles" in note for note in scan.notes)


def test_one_file_for_all_events(tmp_path):
    write_frames(tmp_path / "frames", per_file=N)
    docs = documents(tmp_path / "frames", per_file=N)
    scan = found(as_lines(tmp_path / "run.jsonl", docs))
    assert scan.datasets == ((str(tmp_path / "frames/img_00000.h5"), "entry/data/data"),)


def test_frames_that_were_moved_are_found_below_raw(tmp_path):
    write_frames(tmp_path / "elsewhere/frames")
    source = as_lines(tmp_path / "run.jsonl", documents("/beamline/data/frames"))
    scan = found(source, raw=str(tmp_path / "elsewhere"))
    assert scan.datasets[0][0] == str(tmp_path / "elsewhere/frames/img_00000.h5")
    [lost] = plugin.find(Request(source)).unmatched
    assert "/beamline/data/frames/img_00000.h5 does not exist" in lost.why
    assert "--raw FOLDER" in lost.why


def _skips(docs):
    for name, doc in docs:
        if name == "datum" and doc["datum_id"] == "r0/2":
            doc = doc | {"datum_kwargs": {"point_number": 3}}
        yield name, doc


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({"phi": [0, 0.5, 1, 1.5, 9]}, {}, "not evenly spaced"),
        ({"keys": {"second_image": key(external="STREAM:")}}, {}, "--option detector=KEY"),
        ({}, {"temperature": "oven"}, "its events have no oven; they have phi"),
        ({}, {"axis": "kappa"}, "has no column kappa"),
        ({}, {"energy": "TYPO"}, "its events have no TYPO; they have phi"),
        ({"keys": {"cryo": key()}}, {"temperature": "cryo"}, "cryo has no unit"),
        ({"keys": {"cryo": key("V")}}, {"temperature": "cryo"}, "--option temperature=cryo:degC"),
        ({"keys": {"i0": key("keV")}}, {"energy": "i0:K"}, "the unit 'K'"),
    ],
)
def test_runs_that_make_no_sense(tmp_path, change, options, told):
    write_frames(tmp_path / "frames")
    source = as_lines(tmp_path / "run.jsonl", documents(tmp_path / "frames", **change))
    try:
        why = plugin.find(Request(source, options=options)).unmatched[0].why
    except HklflowError as error:
        why = str(error)
    assert told in why


def test_a_unit_that_no_document_states(tmp_path):
    """The user states it; a wavelength that is not known says why."""
    write_frames(tmp_path / "frames")
    docs = list(documents(tmp_path / "frames", keys={"cryo": key()}))
    for name, doc in docs:
        if name == "descriptor" and doc["name"] == "baseline":
            doc["data_keys"]["mono_energy"] = key()
    source = as_lines(tmp_path / "run.jsonl", docs)
    scan = found(source, temperature="cryo:degC", energy="mono_energy:keV")
    assert scan.header.temperature == 100
    assert scan.header.wavelength == pytest.approx(12.3984198 / 20)
    scan = found(source)
    assert scan.header.wavelength is None
    assert scan.header.temperature is None
    assert "--option energy=mono_energy:keV" in " ".join(scan.notes)


def test_an_exposure_in_milliseconds(tmp_path):
    write_frames(tmp_path / "frames")
    docs = list(documents(tmp_path / "frames"))
    device = docs[1][1]["configuration"]["pil"]
    device["data"]["pil_cam_acquire_time"] = 200
    device["data_keys"] = {"pil_cam_acquire_time": key("ms")}
    assert found(as_lines(tmp_path / "run.jsonl", docs)).header.exposure_time == 0.2


def ends(request):
    """Return True for scans, or for a refusal of one line; other exceptions are not caught."""
    try:
        result = plugin.find(request)
    except HklflowError as error:
        return "\n" not in str(error)
    return bool(result.scans or result.unmatched or result.notes)


def places(value, path=()):
    """Yield the path of each key and each item in a document."""
    inside = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list) else ()
    )  # fmt: skip
    for step, item in inside:
        yield (*path, step)
        yield from places(item, (*path, step))


@pytest.mark.parametrize("make", [documents, tiled_documents])
def test_documents_that_lack_a_key_or_have_another_type(tmp_path, make):
    """Each key is dropped and each value changed: a scan or one sentence, never a traceback."""
    write_frames(tmp_path / "frames")
    whole = json.loads(json.dumps(list(make(tmp_path / "frames"))))
    seen = {}
    for i, (name, doc) in enumerate(whole):
        seen.setdefault((name, doc.get("name")), i)
    options = {"temperature": "cryo", "energy": "mono_energy"}
    tried = 0
    for i in seen.values():
        for path in places(whole[i][1]):
            for new in ("drop", None, "x", -1, 1e400, [], {}, [1]):
                docs = json.loads(json.dumps(whole))
                inside = docs[i][1]
                for step in path[:-1]:
                    inside = inside[step]
                if new == "drop":
                    del inside[path[-1]]
                else:
                    inside[path[-1]] = new
                source = as_lines(tmp_path / "run.jsonl", docs)
                tried += 1
                assert ends(Request(source, monitor="i0", options=options)), (path, new)
    assert tried > 300


def test_frames_in_another_order_than_events_are_refused(tmp_path):
    write_frames(tmp_path / "frames", per_file=N)
    docs = _skips(documents(tmp_path / "frames", per_file=N))
    [lost] = plugin.find(Request(as_lines(tmp_path / "run.jsonl", docs))).unmatched
    assert "event 3 takes frame 3" in lost.why


def test_a_run_that_was_cut_says_so(tmp_path):
    write_frames(tmp_path / "frames")
    docs = [pair for pair in documents(tmp_path / "frames") if pair[0] != "stop"]
    scan = found(as_lines(tmp_path / "run.jsonl", docs))
    assert any("no stop document" in note for note in scan.notes)
    fewer = [pair for pair in docs if pair[1].get("seq_num") != 3 or pair[0] != "event"]
    [lost] = plugin.find(Request(as_lines(tmp_path / "run.jsonl", fewer))).unmatched
    assert "lack number 3" in lost.why


@pytest.mark.parametrize("name", ["x.msgpack", "x.jsonl", "x.json"])
@pytest.mark.parametrize("content", [b"", b"{", b'["event", {}]\n', b"\x93\x01", b"[1, 2]\n"])
def test_damaged_documents(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(HklflowError, match=r"x\.(msgpack|json)"):
        read_runs(path)
