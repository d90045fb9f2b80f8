"""The store: what stands where, which version a scan gets, and what damage is told."""

import doctest
import json
import os
import resource
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
from tests.privilege import without_privilege_to_read_all

from hklflow.base.errors import HklflowError
from hklflow.calibration import choice, disk, layout, records, statuses
from hklflow.calibration.states import read_schema, state_of
from hklflow.calibration.store import Store, calibration_of

VALUES = {
    "detector": "Pilatus3 2M CdTe",
    "serial": "24-0111",
    "shape": [1679, 1475],
    "pixel_size": [172e-6, 172e-6],
    "material": "CdTe",
    "thickness": 1e-3,
    "distance": 0.650,
    "two_theta": 0,
    "stage": [0, 0, 0],
    "energy": 52500,
    "binning": 1,
    "threshold": 26000,
}
STATE = state_of("geometry", VALUES, read_schema())
OTHER = state_of("geometry", VALUES | {"distance": 0.700}, read_schema())
WHO = {"author": "M. Curie", "comments": "the rings are sharp"}
PROPOSED = {"author": "P. Curie"}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    content = {
        "geometry.json": '{"distance": 0.65}',
        "geometry.poni": "Distance: 0.65\n",
        "metrics.json": '{"rms": 0.4}',
        "report.html": "<p>good</p>",
        "parameters.json": '{"calibrant": "LaB6"}',
    }
    for name, text in content.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in content}


@pytest.fixture
def store(tmp_path, files):
    """A store with version 0 of one state."""
    made = Store(tmp_path / "calibration")
    made.init(STATE, {"geometry.json": files["geometry.json"]}, **WHO)
    return made


@pytest.fixture
def publish(store, files):
    def make(applies_to="*", status="accepted", state=STATE, record=None, **more):
        return store.publish(
            state, files, record or {}, status=status, applies_to=applies_to, **WHO, **more
        )

    return make


def tree(folder):
    """Every file below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def chosen(store, scan="quartz/100K", run=None, **more):
    return store.resolve("geometry", STATE.id, scan=scan, run=run, **more).number


def state_folder(store):
    return store.root / "geometry" / STATE.id


# ----------------------------------------------------------------------- the tree


def test_the_tree_of_the_documentation():
    assert doctest.testmod(layout) == (0, 9)


def test_versions_in_order_with_gaps(store, publish):
    """0 -> 1 -> 2 -> 7 -> 8: a version that is made by hand leaves a gap, which stays."""
    folder = state_folder(store)
    below = ["geometry.json", "parameters.json", "record.json", "status/0001.json"]
    full = sorted([*below, "geometry.poni", "metrics.json", "report.html"])
    own = ["CalibrationIndex.json", "audit.jsonl", "state.json"]

    def expected(numbers):
        return sorted(own + [f"v_{n:04d}/{f}" for n in numbers for f in (full if n else below)])

    assert tree(folder) == expected([0])
    assert publish("<1040").number == 1
    assert tree(folder) == expected([0, 1])
    second = publish(">=1040")
    assert tree(folder) == expected([0, 1, 2])
    by_hand = folder / "v_0007"
    shutil.copytree(second.path, by_hand)
    parameters = disk.read_object(by_hand / "parameters.json") | {"version": 7}
    (by_hand / "parameters.json").write_text(json.dumps(parameters))
    record = disk.read_object(by_hand / "record.json") | {"version": 7}
    record["parametersSha256"] = disk.sha256(by_hand / "parameters.json")
    for item in record["artefacts"]:
        item["sha256"] = disk.sha256(by_hand / item["file"])
    (by_hand / "record.json").write_text(json.dumps(record))
    store.reindex()
    assert store.verify() == []
    assert publish("kvs/*", allow_overlap=True).number == 8
    assert tree(folder) == expected([0, 1, 2, 7, 8])
    assert [v.number for v in store.versions("geometry", STATE.id)] == [0, 1, 2, 7, 8]
    assert not list(folder.rglob(".*"))
    assert store.verify() == []


def test_an_empty_folder_made_by_hand_is_not_replaced(store, publish):
    empty = state_folder(store) / "v_0001"
    empty.mkdir()
    assert publish().number == 2
    assert not list(empty.iterdir())


@pytest.mark.parametrize("taken", ["an empty folder", "a folder", "a file", "a dead link"])
def test_a_place_that_is_taken_is_not_claimed(tmp_path, taken):
    """A rename alone would replace an empty folder."""
    new, place = tmp_path / "new", tmp_path / "v_0001"
    new.mkdir()
    (new / "record.json").write_text("new")
    if taken == "a file":
        place.write_text("old")
    elif taken == "a dead link":
        place.symlink_to(tmp_path / "nothing")
    else:
        place.mkdir()
        if taken == "a folder":
            (place / "record.json").write_text("old")
    before = tree(tmp_path)
    assert not disk.claim_folder(new, place)
    assert tree(tmp_path) == before
    assert (new / "record.json").read_text() == "new"
    disk.remove(place)
    assert disk.claim_folder(new, place)
    assert (place / "record.json").read_text() == "new"


def test_a_record_says_everything_and_fits_its_schema(store, publish, files):
    given = {
        "scan": "raw/LaB6.tif",
        "runNumber": 1039,
        "calibrant": {"name": "LaB6", "source": "pyFAI"},
        "inputs": [{"path": "raw/LaB6.tif", "sha256": "ab" * 32}],
        "metrics": {"rms": 0.4, "rings": {"1": 0.3}},
        "gates": [{"name": "rms", "value": 0.4, "limit": 0.7, "passed": True}],
        "geometryVersionUsed": {"name": "v_0004", "version": 4, "sha256": "cd" * 32},
    }
    before = datetime.now(UTC).replace(microsecond=0)
    version = publish("<1040;kvs/*", record=given)
    record = disk.read_object(version.path / "record.json")
    assert record == version.record
    assert {name: record[name] for name in given} == given
    assert record["kind"] == "geometry"
    assert record["stateId"] == STATE.id == version.path.parent.name
    assert record["appliesTo"] == "<1040;kvs/*"
    assert (record["author"], record["comments"]) == ("M. Curie", "the rings are sharp")
    made = datetime.fromisoformat(record["timestamp"])
    assert before <= made <= datetime.now(UTC)
    assert set(record["software"]) >= {"hklflow", "pyFAI", "numpy", "python"}
    sums = {item["file"]: item["sha256"] for item in record["artefacts"]}
    for name in files:
        run = subprocess.run(["sha256sum", version.path / name], capture_output=True, text=True)
        assert run.stdout.split()[0] == sums[name]
    assert sums["parameters.json"] == record["parametersSha256"]
    for name, path in files.items():
        if name != "parameters.json":
            assert (version.path / name).read_bytes() == path.read_bytes()
    parameters = disk.read_object(version.path / "parameters.json")
    assert parameters == {"calibrant": "LaB6", "version": version.number}
    assert version.artefact("geometry.poni") == version.path / "geometry.poni"
    with pytest.raises(HklflowError, match=r"has no mask\.npy; it has geometry\.json"):
        version.artefact("mask.npy")


def test_the_schema_of_the_record_is_in_step(store, publish):
    """For who reads the store with other programs."""
    path = Path(records.__file__).with_name("record_schema.json")
    schema = records.Record.model_json_schema(by_alias=True)
    cure = "write Record.model_json_schema(by_alias=True) to it, sorted, indent=1"
    assert json.loads(path.read_text()) == schema, cure
    record = publish().record
    jsonschema.validate(record, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record | {"stateId": "x"}, schema)


# ------------------------------------------------------------------------- states


def test_a_state_is_initialised_once(tmp_path, files):
    store = Store(tmp_path / "calibration")
    with pytest.raises(HklflowError, match="hklflow calibration init"):
        store.publish(STATE, files, {}, status="accepted", applies_to="*", **WHO)
    with pytest.raises(HklflowError, match="hklflow calibration init"):
        store.resolve("geometry", STATE.id, scan="a/b", run=None, on_missing="diagnostic")
    assert not store.root.exists()
    version = store.init(STATE, {"geometry.json": files["geometry.json"]}, **WHO)
    assert (version.number, version.status) == (0, "default")
    with pytest.raises(HklflowError, match="was already initialised"):
        store.init(STATE, {"geometry.json": files["geometry.json"]}, **WHO)
    assert store.states() == [("geometry", STATE.id)]
    stored = store.state("geometry", STATE.id)
    assert (stored.values, stored.steps, stored.id) == (STATE.values, STATE.steps, STATE.id)


def test_an_alias_has_no_folder_of_its_own(store, files):
    there = state_of("geometry", VALUES | {"distance": 0.6506}, read_schema())
    here = state_of("geometry", VALUES | {"distance": 0.6506}, read_schema(), {there.id: STATE.id})
    with pytest.raises(HklflowError, match=f"{there.id} is an alias of {STATE.id}"):
        store.init(here, files, **WHO)
    version = store.publish(here, files, {}, status="accepted", applies_to="*", **WHO)
    assert version.path.parent == state_folder(store)
    assert store.verify() == []


# ----------------------------------------------------------------------- statuses

ALLOWED = {
    ("proposed", "accepted"),
    ("proposed", "rejected"),
    ("accepted", "superseded"),
    ("accepted", "withdrawn"),
}


@pytest.mark.parametrize("new", ["accepted", "rejected", "superseded", "withdrawn", "proposed",
                                 "default", "perfect"])  # fmt: skip
@pytest.mark.parametrize(
    "path",
    [["proposed"], ["accepted"], ["rejected"], ["proposed", "accepted"],
     ["proposed", "rejected"], ["accepted", "superseded"], ["accepted", "withdrawn"]],
)  # fmt: skip
def test_only_the_foreseen_changes_of_a_status(store, publish, path, new):
    version = publish(status=path[0])
    for status in path[1:]:
        version = store.set_status(version, status, **WHO)
    events = tree(version.path / "status")
    if (path[-1], new) in ALLOWED:
        changed = store.set_status(version, new, author="P. Curie", comments="looked again")
        assert changed.status == new
        assert [e["status"] for e in changed.events()] == [*path, new]
        assert changed.events()[-1]["author"] == "P. Curie"
        assert tree(version.path / "status") == [*events, f"{len(path) + 1:04d}.json"]
    else:
        with pytest.raises(HklflowError, match=f"status 'perfect'|is {path[-1]} and cannot"):
            store.set_status(version, new, **WHO)
        assert tree(version.path / "status") == events
    assert store.verify() == []


def test_the_default_keeps_its_status(store):
    default = store.version("geometry", STATE.id, 0)
    with pytest.raises(HklflowError, match="is default and cannot become accepted"):
        store.set_status(default, "accepted", **WHO)


def test_the_audit_says_who_did_what(store, publish, files):
    first = publish(">=5", "proposed")
    store.set_status(first, "accepted", author="P. Curie", comments="judged")
    publish("*", supersede=[1])
    store.new_iteration(STATE, "lab6", files, PROPOSED)
    store.cancel("lab6")
    lines = (state_folder(store) / "audit.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [(t["action"], t.get("version"), t["author"]) for t in told] == [
        ("default", 0, "M. Curie"),
        ("proposed", 1, "M. Curie"),
        ("accepted", 1, "P. Curie"),
        ("superseded", 1, "M. Curie"),
        ("accepted", 2, "M. Curie"),
        ("cancelled", None, ""),
    ]
    assert told[-1]["candidate"] == "lab6"
    assert all(t["user"] and t["timestamp"] for t in told)


# ------------------------------------------------------------------------- choice


def test_the_highest_accepted_version_that_applies(store, publish):
    """vGOOD is older, vBAD newer; only for what vBAD is accepted for is it taken."""
    good = publish("*")
    bad = publish(">=1040", allow_overlap=True)
    assert chosen(store, run=1039) == good.number
    assert chosen(store, run=1040) == bad.number
    store.withdraw(bad, **WHO)
    assert chosen(store, run=1040) == good.number


def test_a_newer_version_that_is_not_accepted_is_not_taken(store, publish):
    good = publish("*")
    publish("*", "proposed")
    publish("*", "rejected")
    assert chosen(store) == good.number
    last = publish("*", allow_overlap=True)  # the control: this one is
    assert chosen(store) == last.number


def test_the_clock_does_not_choose(store, publish):
    """The older number has the later time, in the record, in its events and on the disk."""
    old, new = publish("*"), publish("*", allow_overlap=True)
    for version, year in ((old, 2040), (new, 2001)):
        for path in (version.path / "record.json", version.path / "status/0001.json"):
            data = disk.read_object(path) | {"timestamp": f"{year}-01-01T00:00:00+00:00"}
            path.write_text(json.dumps(data))
        when = datetime(year, 1, 1, tzinfo=UTC).timestamp()
        for path in (*version.path.rglob("*"), version.path):
            os.utime(path, (when, when))
    assert chosen(store) == new.number


def test_the_index_does_not_choose(store, publish):
    publish("*")
    index = state_folder(store) / "CalibrationIndex.json"
    index.write_text(index.read_text().replace("accepted", "withdrawn"))
    assert chosen(store) == 1
    index.unlink()
    assert chosen(store) == 1


@pytest.mark.parametrize("last", ["accepted", "superseded"])
def test_a_pin_goes_before_everything(store, publish, last):
    old = publish("<5")
    publish(">=5")
    if last == "superseded":
        store.set_status(old, "superseded", **WHO)
    assert chosen(store, run=7) == 2
    assert chosen(store, run=7, pin=1) == 1
    assert chosen(store, run=None, pin=1) == 1


@pytest.mark.parametrize("last", ["proposed", "rejected", "withdrawn"])
def test_a_pin_on_what_is_not_to_be_used_is_refused(store, publish, last):
    publish("*")
    version = publish("*", "accepted" if last == "withdrawn" else last, allow_overlap=True)
    if last == "withdrawn":
        store.withdraw(version, **WHO)
    with pytest.raises(HklflowError, match=f"v_0002 is {last}"):
        chosen(store, pin=2)
    assert chosen(store, pin=1) == 1


def test_a_pin_on_nothing_is_refused(store, publish):
    publish("*")
    with pytest.raises(HklflowError, match=r"no version 12 .*versions: 0, 1"):
        chosen(store, pin=12)


def test_the_default_is_taken_only_where_it_is_allowed(store, publish):
    with pytest.raises(HklflowError, match="on_missing: diagnostic"):
        chosen(store)
    with pytest.raises(HklflowError, match="on_missing: diagnostic"):
        chosen(store, pin=0)
    assert chosen(store, on_missing="diagnostic") == 0
    assert chosen(store, pin=0, on_missing="diagnostic") == 0
    publish("kvs/*")
    assert chosen(store, on_missing="diagnostic") == 0
    assert chosen(store, scan="kvs/100K", on_missing="diagnostic") == 1


def test_nothing_that_applies_is_told_with_the_commands(store, publish):
    publish("kvs/*")
    store.withdraw(publish("quartz/*"), **WHO)
    publish("*", "proposed")
    with pytest.raises(HklflowError) as told:
        chosen(store, run=1040)
    text = str(told.value)
    for word in ("quartz/100K", "run 1040", "v_0003 is proposed", "v_0002 is withdrawn",
                 "v_0001 applies to `kvs/*`", "hklflow calibration propose",
                 "hklflow calibration accept NAME --applies-to",
                 "on_missing: diagnostic"):  # fmt: skip
        assert word in text
    assert "\n" not in text


def test_a_run_number_that_is_needed_is_asked_for(store, publish):
    publish("*")
    publish(">=1040", allow_overlap=True)
    with pytest.raises(HklflowError, match="quartz/100K has no run number"):
        chosen(store)


# ----------------------------------------------------------------------- overlaps


def test_an_overlap_is_refused(store, publish):
    publish(">=1040")
    before = tree(state_folder(store))
    with pytest.raises(HklflowError, match=r"overlaps with version 1 .*--supersede 1"):
        publish("1000..1040")
    assert tree(state_folder(store)) == before
    publish("1000..1039")
    proposed = publish("1000..1040", "proposed")
    with pytest.raises(HklflowError, match=r"version 1 .*version 2 .*--supersede 1 2"):
        store.set_status(proposed, "accepted", **WHO)
    assert [e["status"] for e in proposed.events()] == ["proposed"]


def test_what_is_superseded_may_overlap(store, publish):
    publish(">=1040")
    publish("<1040")
    third = publish("*", supersede=[1, 2])
    status = {v.number: v.status for v in store.versions("geometry", STATE.id)}
    assert status == {0: "default", 1: "superseded", 2: "superseded", 3: "accepted"}
    assert {chosen(store, run=run) for run in (1, 1040)} == {third.number}
    with pytest.raises(HklflowError, match=r"version 1 .* is superseded"):
        publish("*", supersede=[1, 3])
    proposed = publish("*", "proposed")
    assert store.set_status(proposed, "accepted", supersede=[3], **WHO).status == "accepted"
    assert store.version("geometry", STATE.id, 3).status == "superseded"


def test_a_scan_has_a_version_at_every_moment(store, publish, monkeypatch):
    """The old version gets its status after the new one can be seen, not before."""
    publish("*")
    seen = []
    append = statuses.append

    def watched(*args):
        seen.append(chosen(store))
        return append(*args)

    monkeypatch.setattr(statuses, "append", watched)
    publish("*", supersede=[1])
    assert seen == [2]


def test_who_is_second_to_accept_is_told_so(store, publish, monkeypatch):
    """And not that the version overlaps with itself."""
    version = publish("*", "proposed")
    check = choice.check_accept

    def overtaken(*args):
        monkeypatch.undo()
        store.set_status(version, "accepted", **WHO)
        check(*args)

    monkeypatch.setattr(choice, "check_accept", overtaken)
    with pytest.raises(HklflowError, match="is accepted and cannot become accepted"):
        store.set_status(version, "accepted", **WHO)
    assert [e["status"] for e in version.events()] == ["proposed", "accepted"]


@pytest.mark.parametrize("status", ["proposed", "rejected"])
def test_only_an_accepted_version_supersedes(store, publish, status):
    publish("*")
    with pytest.raises(HklflowError, match="cannot supersede others"):
        publish("*", status, supersede=[1])


# ----------------------------------------------------------- what may be published


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"author": " "}, "author .* is empty"),
        ({"comments": ""}, "comments .* is empty"),
        ({"status": "withdrawn"}, "'withdrawn'"),
        ({"status": "default"}, "'default'"),
        ({"applies_to": None}, "the scans it applies to"),
        ({"applies_to": "abc>=123"}, "not a condition"),
        ({"record": {"runNumber": "many"}}, "runNumber"),
        ({"record": {"gates": [{"name": "rms"}]}}, r"gates\.0\.passed"),
        ({"record": {"inputs": [{"path": "a.tif"}]}}, r"inputs\.0\.sha256"),
        ({"record": {"metrics": {"rms": float("nan")}}}, "not finite"),
        ({"record": {"stateId": OTHER.id}}, "stateId"),
    ],
)
def test_what_is_missing_or_wrong_is_told_and_nothing_published(store, files, change, told):
    before = tree(store.root)
    given = {"record": {}, "status": "accepted", "applies_to": "*", **WHO} | change
    with pytest.raises(HklflowError, match=told):
        store.publish(STATE, files, **given)
    assert tree(store.root) == before
    assert not list(state_folder(store).glob(".tmp*"))


@pytest.mark.parametrize("name", ["geometry.json", "parameters.json"])
def test_a_version_without_its_files_is_refused(store, files, name):
    rest = {n: p for n, p in files.items() if n != name}
    with pytest.raises(HklflowError, match=f"needs {name}"):
        store.publish(STATE, rest, {}, status="accepted", applies_to="*", **WHO)
    files[name].unlink()
    with pytest.raises(HklflowError, match="does not exist"):
        store.publish(STATE, files, {}, status="accepted", applies_to="*", **WHO)


@pytest.mark.parametrize("name", ["../up.json", "a/b", "record.json", "", ".hidden", "status "])
def test_files_with_names_that_cannot_be_are_refused(store, files, name):
    given = files | {name: files["report.html"]}
    with pytest.raises(HklflowError, match="file"):
        store.publish(STATE, given, {}, status="accepted", applies_to="*", **WHO)
    with pytest.raises(HklflowError, match="file"):
        store.new_iteration(STATE, "lab6", given, PROPOSED)


def test_a_rejected_version_may_lack_the_geometry(store, files):
    few = {name: files[name] for name in ("parameters.json", "metrics.json")}
    version = store.publish(STATE, few, {}, status="rejected", applies_to="", **WHO)
    assert (version.number, version.status, version.applies_to) == (1, "rejected", None)
    assert store.verify() == []


@pytest.mark.parametrize("kind", ["../geometry", "Geometry", "", "a/b"])
def test_a_kind_that_names_no_folder_is_refused(store, kind):
    with pytest.raises(HklflowError, match="kind"):
        store.versions(kind, STATE.id)
    with pytest.raises(HklflowError, match="16 hexadecimal"):
        store.versions("geometry", "../" + STATE.id)


# ------------------------------------------------------------------------ products


def test_what_a_product_records(store, publish):
    version = publish(">=1040")
    path = version.artefact("geometry.json")
    found = calibration_of(path)
    run = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert found == {
        "kind": "geometry",
        "state_id": STATE.id,
        "version": 1,
        "status": "accepted",
        "applies_to": ">=1040",
        "author": "M. Curie",
        "timestamp": version.record["timestamp"],
        "sha256": run.stdout.split()[0],
        "quality": "reduced",
    }
    default = calibration_of(store.version("geometry", STATE.id, 0).path / "geometry.json")
    assert (default["version"], default["quality"]) == (0, "diagnostic")
    store.withdraw(version, **WHO)
    assert calibration_of(path)["quality"] == "diagnostic"


def test_a_file_that_was_changed_is_told(store, publish):
    path = publish().artefact("geometry.json")
    path.write_text(path.read_text().replace("0.65", "0.66"))
    with pytest.raises(HklflowError, match=r"geometry\.json was changed after it was published"):
        calibration_of(path)
    (path.parent / "extra.json").write_text("{}")
    with pytest.raises(HklflowError, match="does not belong to v_0001"):
        calibration_of(path.parent / "extra.json")
    (path.parent / "record.json").unlink()
    with pytest.raises(HklflowError, match="cannot be read"):
        calibration_of(path)


def test_a_link_to_a_version_counts_as_the_version(store, publish, tmp_path):
    (tmp_path / "geometry.json").symlink_to(publish().artefact("geometry.json"))
    assert calibration_of(tmp_path / "geometry.json")["version"] == 1


def test_other_files_belong_to_no_version(store, files, tmp_path):
    candidate = store.new_iteration(STATE, "lab6", files, PROPOSED)
    assert calibration_of(candidate.path / "geometry.json") is None
    assert calibration_of(files["geometry.json"]) is None
    assert calibration_of(state_folder(store) / "state.json") is None


# --------------------------------------------------------------- index and damage


def test_the_index_is_made_again_byte_by_byte(store, publish, files):
    first = publish("<5", record={"scan": "raw/a.tif"})
    publish(">=5", "proposed")
    publish("*", "rejected")
    store.withdraw(first, **WHO)
    index = state_folder(store) / "CalibrationIndex.json"
    before = index.read_bytes()
    assert {v["binning"] for v in json.loads(before)["versions"]} == {VALUES["binning"]}
    assert [(v["version"], v["status"]) for v in json.loads(before)["versions"]] == [
        (0, "default"),
        (1, "withdrawn"),
        (2, "proposed"),
        (3, "rejected"),
    ]
    assert store.reindex().rebuilt == []
    for damage in (index.unlink, lambda: index.write_text("{")):
        damage()
        assert any("CalibrationIndex.json" in p for p in store.verify())
        assert store.reindex(dry_run=True).rebuilt == [index]
        assert not index.exists() or index.read_text() == "{"
        assert store.reindex().rebuilt == [index]
        assert index.read_bytes() == before
    index.unlink()
    assert store.index("geometry", STATE.id) == json.loads(before)
    assert index.read_bytes() == before


DAMAGE = {
    "not JSON": lambda v: (v / "record.json").write_text('{"schema": 1, '),
    "empty": lambda v: (v / "record.json").write_text(""),
    "no record": lambda v: (v / "record.json").unlink(),
    "binary": lambda v: (v / "record.json").write_bytes(bytes(range(256))),
    "a list": lambda v: (v / "record.json").write_text("[]"),
    "another version": lambda v: (v / "record.json").write_text(
        (v / "record.json").read_text().replace('"version": 2\n', '"version": 3\n')
    ),
    "applies to nothing": lambda v: (v / "record.json").write_text(
        (v / "record.json").read_text().replace('">=5"', '">=5,"')
    ),
    "no status": lambda v: (v / "status/0001.json").unlink(),
    "half a status": lambda v: (v / "status/0001.json").write_text('{"status": "acc'),
    "a strange status": lambda v: (v / "status/0001.json").write_text('{"status": "fine"}'),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_version_is_told_and_harms_no_other(store, publish, how):
    publish("<5")
    second = publish(">=5")
    publish("20..30", allow_overlap=True)
    assert store.verify() == []
    DAMAGE[how](second.path)
    assert any("v_0002" in problem for problem in store.verify())
    assert any("v_0002" in problem for problem in store.reindex().problems)
    index = disk.read_object(state_folder(store) / "CalibrationIndex.json")
    assert ([v["version"] for v in index["versions"]], index["unreadable"]) == ([0, 1, 3], [2])
    assert [v.number for v in store.versions("geometry", STATE.id)] == [0, 1, 3]
    assert chosen(store, run=25) == 3
    # Version 2 may be the one for these.
    for run in (1, 10):
        with pytest.raises(HklflowError, match=r"v_0002.*hklflow calibration verify"):
            chosen(store, run=run)
    assert chosen(store, run=1, pin=1) == 1
    with pytest.raises(HklflowError, match="v_0002"):
        chosen(store, pin=2)
    assert publish("40", allow_overlap=True).number == 4


def test_a_damaged_version_that_is_not_accepted_does_not_matter(store, publish):
    publish("*")
    rejected = publish("*", "rejected")
    (rejected.path / "record.json").write_text("{")
    assert chosen(store) == 1
    assert any("v_0002" in problem for problem in store.verify())


def test_verify_names_everything_that_is_not_as_it_was_written(store, publish, files):
    candidate = store.new_iteration(STATE, "lab6", files, PROPOSED)
    paths = [publish(f"{n}").path for n in range(1, 8)]
    folder = state_folder(store)
    assert store.verify() == []
    damaged = {
        paths[0] / "geometry.json": "changed after",
        paths[1] / "geometry.poni": "missing",
        paths[2] / "notes.txt": "not in the record",
        paths[3] / "parameters.json": "changed after",
        folder / "v_5": "not a valid name of a version",
        folder / "state.json": "does not belong to the state",
        folder / "audit.jsonl": "line 9 is not JSON",
        candidate.path / "record.json": "not valid JSON",
        paths[5] / "status": "lacks events",
        paths[6]: "symbolic link",
    }
    (paths[0] / "geometry.json").write_text("{}")
    (paths[1] / "geometry.poni").unlink()
    (paths[2] / "notes.txt").write_text("mine")
    (paths[3] / "parameters.json").write_text('{"calibrant": "LaB6", "version": 5}')
    (folder / "v_5").mkdir()
    state = disk.read_object(folder / "state.json")
    state["canonical"]["keys"]["distance"]["steps"] = 651
    (folder / "state.json").write_text(json.dumps(state))
    with (folder / "audit.jsonl").open("a") as file:
        file.write('{"action": "acc')
    (candidate.path / "record.json").write_text("{")
    (paths[5] / "status/0003.json").write_text('{"status": "withdrawn"}')
    paths[6].rename(folder.parent / "elsewhere")
    paths[6].symlink_to(folder.parent / "elsewhere")
    problems = store.verify()
    for path, word in damaged.items():
        assert [p for p in problems if str(path) in p and word in p], path
    assert not [p for p in problems if str(paths[4]) in p or "\n" in p]


def test_a_store_that_is_not_there_is_told(tmp_path):
    assert "does not exist" in " ".join(Store(tmp_path / "none").verify())
    (tmp_path / "file").write_text("")
    assert "is not a folder" in " ".join(Store(tmp_path / "file").verify())
    (tmp_path / "empty").mkdir()
    assert Store(tmp_path / "empty").verify() == []


UNTOLD = {
    "is missing, but": lambda version: shutil.rmtree(version),
    "record.json was changed": lambda version: swap_record(version, comments="better"),
    "status lacks events": lambda version: (version / "status/0002.json").unlink(),
}


@pytest.mark.parametrize("told", UNTOLD)
def test_what_the_history_tells_otherwise_is_named(store, publish, told):
    version = publish()
    store.withdraw(version, **WHO)
    assert store.verify() == []
    UNTOLD[told](version.path)
    store.reindex()
    (problem,) = store.verify()
    assert told in problem
    assert str(version.path) in problem


def test_a_history_without_sums_is_fine(store, publish):
    publish()
    audit = state_folder(store) / "audit.jsonl"
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [len(line.pop("recordSha256")) for line in lines] == [64, 64]
    audit.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert store.verify() == []


def test_parameters_of_another_version_are_told(store, publish):
    """Even if their checksum is that of the record."""
    path = publish().path
    (path / "parameters.json").write_text('{"version": 2}')
    record = disk.read_object(path / "record.json")
    record["parametersSha256"] = disk.sha256(path / "parameters.json")
    for item in record["artefacts"]:
        item["sha256"] = disk.sha256(path / item["file"])
    (path / "record.json").write_text(json.dumps(record))
    assert any("has version 2" in problem for problem in store.verify())


def test_a_version_moved_to_another_state_is_told(store, publish, files):
    store.init(OTHER, files, **WHO)
    moved = store.root / "geometry" / OTHER.id / "v_0001"
    publish().path.rename(moved)
    with pytest.raises(HklflowError, match="not to this folder"):
        store.resolve("geometry", OTHER.id, scan="a/b", run=1)


# ---------------------------------------------------------------------------- copy


def test_a_copy_names_its_donor_and_is_no_donor(store, publish, files):
    store.init(OTHER, files, **WHO)
    donor = publish("<5;kvs/*", record={"metrics": {"rms": 0.4}, "parentVersion": 0})
    copy = store.copy(donor, OTHER, **WHO)
    assert (copy.state_id, copy.number, copy.status) == (OTHER.id, 1, "proposed")
    assert copy.record["copiedFrom"] == {"stateId": STATE.id, "version": 1}
    assert copy.applies_to == "<5;kvs/*"
    assert copy.record["metrics"] == {"rms": 0.4}
    assert copy.record.get("parentVersion") is None  # a number of the other state
    assert calibration_of(copy.artefact("geometry.json"))["state_id"] == OTHER.id
    audit = (store.root / "geometry" / OTHER.id / "audit.jsonl").read_text().splitlines()
    assert json.loads(audit[-1])["copiedFrom"] == {"stateId": STATE.id, "version": 1}
    accepted = store.set_status(copy, "accepted", **WHO)
    third = state_of("geometry", VALUES | {"distance": 0.750}, read_schema())
    store.init(third, files, **WHO)
    for goal in (third, STATE):
        with pytest.raises(HklflowError, match=f"itself a copy, of version 1 of state {STATE.id}"):
            store.copy(accepted, goal, **WHO)
    with pytest.raises(HklflowError, match="overlaps with version 1"):
        store.copy(donor, OTHER, status="accepted", **WHO)
    assert store.verify() == []


@pytest.mark.parametrize("how", ["proposed", "withdrawn", "changed", "same", "unknown", "default"])
def test_what_cannot_be_copied(store, publish, files, how):
    if how != "unknown":
        store.init(OTHER, files, **WHO)
    donor = publish(status="proposed" if how == "proposed" else "accepted")
    if how == "withdrawn":
        store.withdraw(donor, **WHO)
    if how == "changed":
        donor.artefact("geometry.poni").write_text("Distance: 0.66\n")
    if how == "default":
        donor = store.version("geometry", STATE.id, 0)
    told = {"same": "another state", "changed": "was changed", "unknown": "does not know"}
    with pytest.raises(HklflowError, match=told.get(how, f"is {how}")):
        store.copy(donor, STATE if how == "same" else OTHER, **WHO)


# ---------------------------------------------------------------------- candidates


def test_iterations_stand_beside_each_other(store, files):
    for n in (1, 2, 3):
        files["metrics.json"].write_text(f'{{"rms": 0.{n}}}')
        made = store.new_iteration(STATE, "lab6", files, {"author": "P. Curie", "gates": []})
        assert (made.name, made.iteration, made.path.name) == ("lab6", n, f"0{n}")
    store.new_iteration(STATE, "CeO2.b", files, PROPOSED)
    found = store.candidates("geometry", STATE.id)
    assert [(c.name, c.iteration) for c in found] == [
        ("CeO2.b", 1),
        ("lab6", 1),
        ("lab6", 2),
        ("lab6", 3),
    ]
    assert found[1].record["author"] == "P. Curie"
    assert store.candidate("lab6") == found[3]
    assert store.candidate("lab6/02") == store.candidate("lab6/2") == found[2]
    assert set(found[2].files()) == set(files)
    second = store.publish(
        STATE, found[2].files(), found[2].record, status="accepted", applies_to="*", **WHO
    )
    assert second.artefact("metrics.json").read_text() == '{"rms": 0.2}'
    origin = second.record["candidate"]
    assert (origin["name"], origin["iteration"], origin["author"]) == ("lab6", 2, "P. Curie")
    assert second.record["author"] == "M. Curie"
    assert len(store.candidates("geometry", STATE.id)) == 4
    assert store.verify() == []


def test_a_candidate_that_is_not_there_or_not_clear_is_told(store, files):
    store.init(OTHER, files, **WHO)
    with pytest.raises(HklflowError, match="no candidate lab6"):
        store.candidate("lab6")
    store.new_iteration(STATE, "lab6", files, PROPOSED)
    with pytest.raises(HklflowError, match="no iteration 02; it has 01"):
        store.candidate("lab6/02")
    with pytest.raises(HklflowError, match="'x' is not a number"):
        store.candidate("lab6/x")
    store.new_iteration(OTHER, "lab6", files, PROPOSED)
    with pytest.raises(HklflowError) as told:
        store.candidate("lab6")
    assert STATE.id in str(told.value)
    assert OTHER.id in str(told.value)


def test_a_name_in_two_states_is_clear_within_one(store, files):
    store.init(OTHER, files, **WHO)
    ours = store.new_iteration(STATE, "lab6", files, PROPOSED)
    theirs = store.new_iteration(OTHER, "lab6", files, PROPOSED)
    assert store.candidate("lab6", kind="geometry", state_id=STATE.id) == ours
    assert store.candidate("lab6/01", kind="geometry", state_id=OTHER.id) == theirs
    store.cancel("lab6", kind="geometry", state_id=OTHER.id)
    assert store.candidate("lab6") == ours
    for cannot in (store.candidate, store.cancel):
        with pytest.raises(HklflowError, match=f"no candidate lab6 in .*{OTHER.id}"):
            cannot("lab6", kind="geometry", state_id=OTHER.id)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", ".a", "a b", "a\n", "-a", "é", "_"])
def test_names_that_name_no_folder_are_refused(store, files, name):
    before = tree(store.root)
    with pytest.raises(HklflowError, match="may only have letters"):
        store.new_iteration(STATE, name, files, PROPOSED)
    with pytest.raises(HklflowError):
        store.cancel(name)
    assert tree(store.root) == before


def test_links_among_the_candidates_are_not_followed(store, files, tmp_path):
    outside = tmp_path / "outside"
    (outside / "01").mkdir(parents=True)
    (outside / "01/record.json").write_text("{}")
    candidates = state_folder(store) / "candidates"
    candidates.mkdir()
    (candidates / "lab6").symlink_to(outside)
    with pytest.raises(HklflowError, match="symbolic link"):
        store.new_iteration(STATE, "lab6", files, PROPOSED)
    with pytest.raises(HklflowError, match="symbolic link"):
        store.candidate("lab6")
    with pytest.raises(HklflowError, match="symbolic link"):
        store.cancel("lab6")
    assert any("symbolic link" in problem for problem in store.verify())
    assert tree(outside) == ["01/record.json"]


def test_cancel_removes_what_was_never_published(store, files):
    before = tree(store.root)
    for _ in range(2):
        store.new_iteration(STATE, "lab6", files, PROPOSED)
    with pytest.raises(HklflowError, match="cancel lab6 as a whole"):
        store.cancel("lab6/01")
    store.cancel("lab6")
    assert tree(store.root) == before
    candidate = store.new_iteration(STATE, "lab6", files, PROPOSED)
    assert candidate.iteration == 1
    store.publish(
        STATE, candidate.files(), candidate.record, status="rejected", applies_to=None, **WHO
    )
    with pytest.raises(HklflowError, match=r"was published as .*v_0001"):
        store.cancel("lab6")
    assert store.candidate("lab6").iteration == 1


def swap_record(path, **changes):
    """Change what a record says; None takes a field away."""
    record = disk.read_object(path / "record.json") | changes
    kept = {name: value for name, value in record.items() if value is not None}
    (path / "record.json").write_text(json.dumps(kept))


TAMPERED = {
    "was changed": lambda path: (path / "geometry.json").write_text('{"distance": 0.9}'),
    "is missing": lambda path: (path / "report.html").unlink(),
    "was added": lambda path: (path / "extra.json").write_text("{}"),
    "artefacts": lambda path: swap_record(path, artefacts=None),
    "author": lambda path: swap_record(path, author=" "),
    "gates": lambda path: swap_record(path, gates=[{"name": "rms"}]),
    "not to this folder": lambda path: swap_record(
        path, candidate={"name": "lab6", "iteration": 2}
    ),
    "not valid JSON": lambda path: (path / "record.json").write_text("{"),
}


@pytest.mark.parametrize("told", TAMPERED)
def test_a_candidate_that_is_not_what_was_judged_is_refused(store, files, told):
    good = store.new_iteration(STATE, "good", files, PROPOSED)
    path = store.new_iteration(STATE, "lab6", files, PROPOSED).path
    assert store.verify() == []
    TAMPERED[told](path)
    with pytest.raises(HklflowError, match=told) as refused:
        store.candidate("lab6").files()
    assert str(path) in str(refused.value)
    (problem,) = store.verify()
    assert told in problem
    assert str(path) in problem
    assert good in store.candidates("geometry", STATE.id)
    store.cancel("lab6")
    assert store.verify() == []


def test_a_candidate_copied_to_another_state_is_refused(store, files):
    store.init(OTHER, files, **WHO)
    ours = store.new_iteration(STATE, "lab6", files, PROPOSED).path
    theirs = store.root / "geometry" / OTHER.id / "candidates/lab6/01"
    shutil.copytree(ours, theirs)
    with pytest.raises(HklflowError, match=f"geometry/{STATE.id}, not to this folder"):
        store.candidate("lab6", kind="geometry", state_id=OTHER.id)
    assert store.candidates("geometry", OTHER.id) == []
    (problem,) = store.verify()
    assert str(theirs) in problem


def test_a_candidate_without_an_author_is_not_made(store, files):
    before = tree(store.root)
    with pytest.raises(HklflowError, match="candidate lab6: author"):
        store.new_iteration(STATE, "lab6", files, {})
    assert tree(store.root) == before


def test_a_text_that_is_no_utf_8_is_refused(store, files):
    """What the system makes of the argument b"M\\xff"."""
    before = tree(store.root)
    wrong = {"author": "M\udcff", "comments": "why"}
    with pytest.raises(HklflowError, match=r"not UTF-8 \(at the end of .*M.udcff"):
        store.publish(STATE, files, {}, status="proposed", applies_to="*", **wrong)
    with pytest.raises(HklflowError, match="not UTF-8"):
        store.new_iteration(STATE, "lab6", files, wrong)
    assert tree(store.root) == before
    store.new_iteration(STATE, "lab6", files, PROPOSED)
    store.cancel("lab6", **wrong)
    last = (state_folder(store) / "audit.jsonl").read_bytes().splitlines()[-1]
    assert json.loads(last)["author"] == wrong["author"]


# ------------------------------------------------------ full disks and permissions


def test_a_full_disk_leaves_nothing(store, files):
    """The limit on the size of a file stands for the disk: the system says so at the same place."""
    files["report.html"].write_bytes(bytes(200_000))
    before = tree(store.root)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(HklflowError, match=r"cannot be written .*too large.*free disk space"):
            store.publish(STATE, files, {}, status="accepted", applies_to="*", **WHO)
        with pytest.raises(HklflowError, match=r"cannot be written .*too large.*free disk space"):
            store.new_iteration(STATE, "lab6", files, PROPOSED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(store.root) == before
    assert not list(store.root.rglob(".tmp*"))
    assert store.publish(STATE, files, {}, status="accepted", applies_to="*", **WHO).number == 1


def test_nothing_begins_that_the_history_could_not_tell(store, publish, files):
    version = publish("1")
    store.new_iteration(STATE, "lab6", files, PROPOSED)
    audit = state_folder(store) / "audit.jsonl"
    audit.rename(audit.with_name("kept"))
    audit.mkdir()
    before = tree(store.root)
    for attempt in (
        lambda: publish("2"),
        lambda: store.withdraw(version, **WHO),
        lambda: store.cancel("lab6"),
    ):
        with pytest.raises(HklflowError, match=r"audit.jsonl cannot be written .*then repeat"):
            attempt()
    assert tree(store.root) == before


def test_a_history_that_fails_late_leaves_one_version_for_a_scan(store, publish, monkeypatch):
    publish("*")

    def full(path, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "append_line", full)
    with pytest.raises(HklflowError, match=r"this is done \(accepted\)") as told:
        publish("*", supersede=[1])
    assert "repeat" not in str(told.value)
    assert [v.status for v in store.versions("geometry", STATE.id)][1:] == [
        "superseded",
        "accepted",
    ]


def test_a_version_that_cannot_be_superseded_is_told(store, publish, monkeypatch):
    publish("*")

    def full(version, following):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(statuses, "append", full)
    with pytest.raises(HklflowError, match=r"v_0002 is accepted, but .*withdraw v_0001") as told:
        publish("*", supersede=[1])
    assert "repeat" not in str(told.value)
    last = (state_folder(store) / "audit.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["version"] == 2
    assert [p for p in store.verify() if "CalibrationIndex" in p] == []


@pytest.mark.parametrize("mode", [0o755, 0o775])
def test_a_group_that_may_write_the_root_may_go_on(tmp_path, files, mode):
    root = tmp_path / "calibration"
    root.mkdir()
    root.chmod(mode)
    shared = Store(root)
    before = os.umask(0o077)
    try:
        shared.init(STATE, files, **WHO)
        shared.new_iteration(STATE, "lab6", files, PROPOSED)
        with shared.lock(STATE, "held"):
            lock = state_folder(shared) / "candidates/.lock-held"
            needed = [lock, state_folder(shared) / "audit.jsonl"]
            needed += [path for path in root.rglob("*") if path.is_dir()]
            assert root / "geometry" / STATE.id / "v_0000/status" in needed
            allowed = {bool(path.stat().st_mode & 0o020) for path in needed}
    finally:
        os.umask(before)
    assert allowed == {mode == 0o775}


TRIES = """
import sys
from pathlib import Path
from hklflow.calibration.store import Store
from hklflow.base.errors import HklflowError
store = Store(Path(sys.argv[1]))
version = store.version("geometry", sys.argv[2], 1)
state = store.state("geometry", sys.argv[2])
files = {"geometry.json": version.artefact("geometry.json"),
         "parameters.json": version.artefact("parameters.json")}
who = {"author": "x", "comments": "y"}
for attempt in (
    lambda: store.publish(state, files, {}, status="proposed", applies_to="*", **who),
    lambda: store.withdraw(version, **who),
    lambda: store.new_iteration(state, "lab6", files, who),
):
    try:
        attempt()
    except HklflowError as error:
        print(error)
"""


def test_a_store_that_may_only_be_read(store, publish):
    version = publish()
    before = tree(store.root)
    folders = [state_folder(store), version.path / "status"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        run = subprocess.run(
            [sys.executable, "-c", TRIES, store.root, STATE.id],
            capture_output=True, text=True, check=True,
            preexec_fn=without_privilege_to_read_all if os.geteuid() == 0 else None,
        )  # fmt: skip
    finally:
        for folder in folders:
            folder.chmod(0o755)
    lines = run.stdout.splitlines()
    assert len(lines) == 3
    assert all("cannot be written (permission denied)" in line for line in lines)
    assert tree(store.root) == before
