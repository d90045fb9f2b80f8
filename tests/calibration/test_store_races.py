"""Several processes on one store, and processes that are killed."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from tests.patience import PATIENCE

from hklflow.base.errors import HklflowError
from hklflow.calibration import disk, index, layout
from hklflow.calibration.states import read_schema, state_of
from hklflow.calibration.store import Store

VALUES = {
    "detector": "Eiger2 X 1M",
    "serial": "E-02-0100",
    "shape": [1062, 1028],
    "pixel_size": [75e-6, 75e-6],
    "material": "Si",
    "thickness": 0.45e-3,
    "distance": 0.3,
    "two_theta": 0,
    "stage": [0, 0, 0],
    "energy": 25000,
    "binning": 1,
    "threshold": 12500,
}
STATE = state_of("geometry", VALUES, read_schema())
WHO = {"author": "M. Curie", "comments": "race"}
PROPOSED = {"author": "P. Curie"}

# What every process starts with; it waits for the others, so that all begin together.
BEGIN = """
import os, signal, sys, time
from pathlib import Path
from hklflow.calibration import disk, statuses
from hklflow.calibration.store import Store
from hklflow.base.errors import HklflowError
os.fsync = lambda descriptor: None  # a race does not depend on the disk
root, state_id, me, go = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
store = Store(root)
state = store.state("geometry", state_id)
files = {name: root.parent / "made" / name for name in ("geometry.json", "parameters.json")}
who = {"author": f"process {me}", "comments": "race"}
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
"""


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "made").mkdir()
    for name in ("geometry.json", "parameters.json"):
        (tmp_path / "made" / name).write_text("{}")
    made = Store(tmp_path / "calibration")
    made.init(STATE, {"geometry.json": tmp_path / "made/geometry.json"}, **WHO)
    return made


@pytest.fixture
def publish(store):
    made = store.root.parent / "made"
    files = {name: made / name for name in ("geometry.json", "parameters.json")}

    def make(applies_to="*", status="accepted", **more):
        return store.publish(STATE, files, {}, status=status, applies_to=applies_to, **WHO, **more)

    return make


@pytest.fixture
def start(store):
    """Start processes that run some code; none begins before `go` is there."""
    running = []
    go = store.root.parent / "go"

    def make(code, count=1, wait=True):
        for me in range(count):
            command = [sys.executable, "-c", BEGIN + code, store.root, STATE.id, str(me), go]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for process in running:
            assert process.stdout.readline() == "ready\n"
        go.touch()
        if not wait:
            return running
        out = [process.communicate(timeout=PATIENCE)[0] for process in running]
        assert [process.returncode for process in running] == [0] * count
        return out

    yield make
    for process in running:
        process.kill()
        process.communicate()


def folder_of(store):
    return store.root / "geometry" / STATE.id


@pytest.mark.slow
def test_every_proposal_of_many_processes_gets_a_number_of_its_own(store, start):
    code = """
for i in range(25):
    version = store.publish(state, files, {"metrics": {"from": me, "i": i}}, status="proposed",
                            applies_to=str(100 * me + i), **who)
    print(version.number)
"""
    out = start(code, 8)
    numbers = [int(line) for text in out for line in text.split()]
    assert sorted(numbers) == list(range(1, 201))
    versions = store.versions("geometry", STATE.id)[1:]
    assert [v.number for v in versions] == list(range(1, 201))
    made = [(v.record["metrics"]["from"], v.record["metrics"]["i"]) for v in versions]
    assert sorted(made) == [(me, i) for me in range(8) for i in range(25)]
    # Each process saw its own versions in the order in which it made them.
    for text in out:
        own = [int(line) for line in text.split()]
        assert own == sorted(own)
    assert store.verify() == []  # records, checksums, the index
    lines = (folder_of(store) / "audit.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["version"] for line in lines) == Counter(range(201))


@pytest.mark.slow
def test_every_status_event_of_many_processes_is_kept(store, publish, start):
    """Without the check of what may follow, so that all of them append to one version."""
    version = publish()
    code = """
path = store.version("geometry", state_id, 1).path
for i in range(20):
    statuses.append(path, lambda old: {"status": "accepted", "from": me, "i": i, "after": old})
"""
    start(code, 8)
    events = version.events()
    assert layout.status_numbers(version.path) == list(range(1, 162))
    assert sorted((e["from"], e["i"]) for e in events[1:]) == [
        (me, i) for me in range(8) for i in range(20)
    ]
    assert not list(version.path.rglob(".tmp*"))


@pytest.mark.slow
def test_of_many_decisions_one_is_made(store, publish, start):
    """Of eight processes that accept or reject the same proposals one does, the others are told."""
    for n in range(20):
        publish(str(n), "proposed")
    code = """
for number in range(1, 21):
    try:
        store.set_status(store.version("geometry", state_id, number),
                         "accepted" if me % 2 else "rejected", **who)
        print(number, me)
    except HklflowError as error:
        assert "cannot become" in str(error), error
"""
    out = start(code, 8)
    won = dict(map(int, line.split()) for text in out for line in text.splitlines())
    assert sum(len(text.splitlines()) for text in out) == len(won) == 20
    for version in store.versions("geometry", STATE.id)[1:]:
        events = version.events()
        me = won[version.number]
        assert [e["status"] for e in events] == ["proposed", "accepted" if me % 2 else "rejected"]
        assert events[1]["author"] == f"process {me}"
    assert store.verify() == []


def test_of_two_that_are_accepted_at_once_the_higher_number_is_taken(store, start):
    """Both may pass the check for overlaps; whoever looks afterwards finds the same one."""
    code = """
try:
    store.publish(state, files, {}, status="accepted", applies_to="*", **who)
except HklflowError as error:
    assert "overlaps" in str(error), error
"""
    start(code, 6)
    accepted = [v for v in store.versions("geometry", STATE.id) if v.status == "accepted"]
    assert accepted
    found = {store.resolve("geometry", STATE.id, scan="a/b", run=None).number for _ in range(5)}
    assert found == {accepted[-1].number}


@pytest.mark.slow
def test_readers_see_whole_versions_only(store, start):
    """While others publish and decide: no record, file or index is ever half there."""
    running = start(
        """
for i in range(12):
    version = store.publish(state, files, {}, status="proposed", applies_to=str(12 * me + i), **who)
    store.set_status(version, "accepted", **who)
""",
        3,
        wait=False,
    )
    seen = 0
    while any(process.poll() is None for process in running):
        folder = folder_of(store)
        for number in layout.version_numbers(folder):
            version = store.version("geometry", STATE.id, number)
            for item in version.record["artefacts"]:
                assert disk.sha256(version.path / item["file"]) == item["sha256"]
            seen += 1
        json.loads((folder / "CalibrationIndex.json").read_text())
    assert [process.wait() for process in running] == [0] * 3
    assert seen > 36
    assert store.verify() == []


KILLED = {
    "before the rename": "disk.claim_folder = die",
    "while the files are copied": """
copy = disk.copy
disk.copy = lambda source, target: (copy(source, target), die())
""",
    "before the record": "from hklflow.calibration import records; records.validate = die",
}


@pytest.mark.parametrize("where", KILLED)
def test_a_killed_writer_leaves_no_version(store, publish, start, where):
    publish("<5")
    before = {p: p.read_bytes() for p in folder_of(store).rglob("*") if p.is_file()}
    code = f"""
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
{KILLED[where]}
store.publish(state, files, {{}}, status="accepted", applies_to=">=5", **who)
"""
    (process,) = start(code, wait=False)
    assert process.wait() == -signal.SIGKILL
    folder = folder_of(store)
    (left,) = folder.glob(".tmp-*")
    assert {p: p.read_bytes() for p in before} == before
    assert [v.number for v in store.versions("geometry", STATE.id)] == [0, 1]
    assert store.resolve("geometry", STATE.id, scan="a/b", run=1).number == 1
    with pytest.raises(HklflowError, match="covers"):
        store.resolve("geometry", STATE.id, scan="a/b", run=5)
    assert store.verify() == []
    assert publish(">=5").number == 2

    # It is removed once it is old: a moment ago its writer might have lived elsewhere.
    assert store.reindex().removed == []
    old = time.time() - disk.OLD - 60
    os.utime(left, (old, old))
    assert store.reindex(dry_run=True).removed == [left]
    assert left.exists()
    assert store.reindex().removed == [left]
    assert not left.exists()
    assert store.verify() == []


@pytest.mark.parametrize("owner", ["alive", "elsewhere"])
def test_what_a_living_writer_builds_is_left_alone(store, owner):
    with disk.temporary(folder_of(store)) as own:
        path = own if owner == "alive" else own.with_name(".tmp-999999999-01234567-otherhost")
        path.mkdir()
        os.utime(path, (0, 0))
        assert store.reindex().removed == []
        assert path.is_dir()
    dead = own.with_name(own.name.replace(f"-{os.getpid()}-", "-999999999-"))
    dead.mkdir()
    os.utime(dead, (0, 0))
    assert store.reindex().removed == [dead]


def test_a_writer_that_is_killed_after_the_rename_has_published(store, publish, start):
    """Audit line and index are all that is lost."""
    code = """
from hklflow.calibration import publishing
publishing.audit = lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL)
store.publish(state, files, {}, status="accepted", applies_to="*", **who)
"""
    (process,) = start(code, wait=False)
    assert process.wait() == -signal.SIGKILL
    assert store.resolve("geometry", STATE.id, scan="a/b", run=None).number == 1
    (problem,) = store.verify()
    assert "CalibrationIndex.json is not up to date" in problem
    store.reindex()
    assert store.verify() == []


def test_a_candidate_is_locked_while_its_owner_lives(store, start):
    code = """
with store.lock(state, "lab6"):
    print("held", flush=True)
    time.sleep(600)
"""
    (process,) = start(code, wait=False)
    assert process.stdout.readline() == "held\n"
    files = {"geometry.json": store.root.parent / "made/geometry.json"}
    with pytest.raises(HklflowError, match=f"lab6 is being worked on by process {process.pid}"):
        store.new_iteration(STATE, "lab6", files, PROPOSED)
    assert store.new_iteration(STATE, "other", files, PROPOSED).iteration == 1
    process.kill()
    process.wait()
    with store.lock(STATE, "lab6"):  # its owner is dead; it has left its file
        assert store.new_iteration(STATE, "lab6", files, PROPOSED).iteration == 1
        with pytest.raises(HklflowError, match="is being worked on"):
            Store(store.root).cancel("lab6")
    assert not list((folder_of(store) / "candidates").glob(".*"))
    store.cancel("lab6")


def test_a_lock_whose_file_was_removed_is_taken_anew(store, monkeypatch):
    """Its last owner removes the file between our opening and locking it."""
    lock_file = folder_of(store) / "candidates/.lock-lab6"
    flock = fcntl.flock

    def overtaken(*args):
        monkeypatch.setattr(fcntl, "flock", flock)
        lock_file.unlink()
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with store.lock(STATE, "lab6"):
        with (
            pytest.raises(HklflowError, match="is being worked on"),
            Store(store.root).lock(STATE, "lab6"),
        ):
            pass
        assert lock_file.exists()
    assert not lock_file.exists()


def test_the_index_has_what_was_published_while_it_was_made(store, publish, monkeypatch):
    """Who publishes meanwhile leaves the index to the process that is at it."""
    content = index.content

    def overtaken(*args):
        found = content(*args)
        monkeypatch.setattr(index, "content", content)
        publish("7")
        return found

    monkeypatch.setattr(index, "content", overtaken)
    publish("5")
    assert [v.number for v in store.versions("geometry", STATE.id)] == [0, 1, 2]
    assert store.verify() == []


def test_iterations_of_many_processes_stand_beside_each_other(store, start):
    code = """
done = 0
while done < 5:
    try:
        store.new_iteration(state, "lab6", files, {"from": me, **who})
        done += 1
    except HklflowError as error:
        assert "is being worked on" in str(error), error
"""
    start(code, 4)
    found = store.candidates("geometry", STATE.id)
    assert [c.iteration for c in found] == list(range(1, 21))
    assert Counter(c.record["from"] for c in found) == Counter(dict.fromkeys(range(4), 5))


def test_lines_of_the_audit_do_not_mix(tmp_path):
    path = tmp_path / "audit.jsonl"
    code = """
import sys
from pathlib import Path
from hklflow.calibration import disk
for i in range(50):
    disk.append_line(Path(sys.argv[1]), {"who": sys.argv[2], "i": i, "text": "ü" * 3000})
"""
    running = [subprocess.Popen([sys.executable, "-c", code, path, str(me)]) for me in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert Counter(line["who"] for line in told) == Counter({str(me): 50 for me in range(4)})
