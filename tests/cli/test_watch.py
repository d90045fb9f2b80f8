"""`hklflow watch`: what is complete is added, what is half-written is not.

Raw files come from writers that are processes of their own. In the place of snakemake a
small command notes what it finds when it is run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest

from hklflow.cli.complete import NOT_THERE, Settling, missing
from hklflow.cli.folder import read_table
from tests.patience import PATIENCE

from .conftest import Hklflow, environment, shell, write_raw

COLUMNS = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tframes"

# Notes, at each run, the rotations of the table and how many frames their raw files have.
NOTE = """\
import csv, json, pathlib, sys
lines = [l for l in open('config/scans.tsv') if l.strip() and not l.startswith('#')]
seen = []
for row in csv.DictReader(lines, delimiter='\\t'):
    seen.append(f"{row['scan']} {row['rotation']}")
    if sys.argv[1:] == ['h5']:
        import h5py
        seen.append(len(h5py.File(row['raw'])['entry/data/data']))
    if sys.argv[1:] == ['tif']:
        sizes = [path.stat().st_size for path in pathlib.Path('raw').glob('*.tif')]
        seen.append(len(sizes) if len(set(sizes)) == 1 else sizes)
with open('runs', 'a') as file:
    file.write(json.dumps(seen) + '\\n')
"""

NOTES = (sys.executable, "-c", NOTE)
QUICK = ("--interval", "0.1", "--settle", "0.4")


def _plan(folder: Path, *rows: str) -> None:
    lines = [COLUMNS, *("\t".join(row.split("|")) for row in rows)]
    (folder / "config/planned.tsv").write_text("\n".join(lines) + "\n")


def _scans(folder: Path) -> list[tuple[str, str]]:
    return [(row["scan"], row["rotation"]) for row in read_table(folder / "config/scans.tsv").rows]


def _runs(folder: Path) -> list[list[object]]:
    notes = folder / "runs"
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def _until(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


class Watching:
    """A watch in a process of its own; it is gone when the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def __call__(self, *options: str, command: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        words = [*QUICK, *options, "--", *(command or NOTES)]
        with (self.folder / "told").open("a") as told:
            process = subprocess.Popen(
                [sys.executable, "-m", "hklflow.cli", "watch", str(self.folder), *words],
                env=environment(),
                stdout=told,
                stderr=told,
                text=True,
            )
        self.processes.append(process)
        return process

    @property
    def told(self) -> str:
        return (self.folder / "told").read_text()

    def says(self, what: str) -> None:
        _until(lambda: what in self.told)


@pytest.fixture
def watch(folder: Path) -> Iterator[Watching]:
    watching = Watching(folder)
    yield watching
    for process in watching.processes:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=PATIENCE)


Writers = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def writers() -> Iterator[Writers]:
    """Processes that write raw files; each goes on when it reads a line."""
    with ExitStack() as stack:

        def start(code: str, *arguments: object, **more: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *map(str, arguments)],
                env=environment() | more,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def _go_on(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()


def _paused(writer: subprocess.Popen[str]) -> None:
    assert writer.stdout is not None
    assert writer.stdout.readline() == "paused\n"


GROW = """\
import h5py, numpy as np, sys, time
with h5py.File(sys.argv[1], 'w') as file:
    data = file.create_dataset('entry/data/data', (0, 8, 9), 'u4', chunks=(1, 8, 9),
                               maxshape=(None, 8, 9))
    for i in range(12):
        data.resize(i + 1, 0)
        data[i] = i
        file.flush()
        time.sleep(0.02)
        if i == 6:
            print('paused', flush=True)
            sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("locking", ["TRUE", "FALSE"])
def test_a_file_that_grows_is_added_when_it_is_whole(
    folder: Path, watch: Watching, writers: Writers, locking: str
) -> None:
    """The writer pauses for longer than files need to settle, with and without HDF5's lock.

    Without the lock it is the number of frames that tells.
    """
    frames = "" if locking == "TRUE" else "12"
    _plan(folder, f"quartz|300K|300||r1|raw/300K.h5|phi=0:0.1|{frames}")
    process = watch("--until-complete", command=(*NOTES, "h5"))
    watch.says("watching")
    writer = writers(GROW, folder / "raw/300K.h5", HDF5_USE_FILE_LOCKING=locking)
    _paused(writer)
    # It has settled now, and was opened in vain.
    watch.says("7 of 12 frames" if frames else "cannot be opened")
    assert _scans(folder) == []
    _go_on(writer)
    assert writer.wait(timeout=PATIENCE) == 0
    assert process.wait(timeout=PATIENCE) == 0, watch.told
    assert _runs(folder) == [["300K r1", 12]]


SERIES = """\
import fabio, numpy as np, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
for i in range(6):
    path = folder / f'q_{i + 1:04d}.tif'
    fabio.tifimage.TifImage(data=np.full((8, 9), i, 'u2')).write(str(path))
    if i == 3:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        print('paused', flush=True)
        sys.stdin.readline()
        path.write_bytes(whole)
"""


@pytest.mark.slow
@pytest.mark.parametrize("frames", ["6", ""])
def test_a_series_that_grows_is_added_when_it_is_whole(
    folder: Path, watch: Watching, writers: Writers, frames: str
) -> None:
    """It pauses amid an image, so that it is refused without a number of frames as well."""
    _plan(folder, f"quartz|300K|300||r1|raw/q_####.tif|phi=0:0.1|{frames}")
    writer = writers(SERIES, folder / "raw")
    process = watch("--until-complete", command=(*NOTES, "tif"))
    _paused(writer)
    watch.says("4 of 6 frames" if frames else "q_0004.tif")
    assert _scans(folder) == []
    _go_on(writer)
    assert writer.wait(timeout=PATIENCE) == 0
    assert process.wait(timeout=PATIENCE) == 0, watch.told
    assert _runs(folder) == [["300K r1", 6]]


def _truncated(path: Path) -> None:
    whole = write_raw(path).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])


def _chunk_missing(path: Path) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("entry/data/data", (5, 8, 9), "u4", chunks=(1, 8, 9))
        data[:3] = 1


def _data_file_missing(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("none_data_000001.h5", "/entry/data")


def _damaged_last_frame(path: Path) -> None:
    with h5py.File(path, "w") as file:
        pixels = np.arange(5 * 72, dtype=np.uint32).reshape(5, 8, 9)
        data = file.create_dataset(
            "entry/data/data", data=pixels, chunks=(1, 8, 9), compression="gzip", fletcher32=True
        )
        last = data.id.get_chunk_info(4)
    with path.open("r+b") as file:
        file.seek(last.byte_offset)
        file.write(b"\xff" * (last.size // 2))


def _empty(path: Path) -> None:
    path.touch()


def _no_hdf5(path: Path) -> None:
    path.write_text("not yet")


@pytest.mark.parametrize(
    "make",
    [_truncated, _chunk_missing, _data_file_missing, _damaged_last_frame, _empty, _no_hdf5],
)
def test_what_is_half_written_is_never_complete(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """Nobody writes it any more, and it has settled."""
    row = {"raw": "a.h5"}
    settling = Settling(0)
    assert missing(row, tmp_path, settling) == NOT_THERE
    make(tmp_path / "a.h5")
    assert "a.h5" in missing(row, tmp_path, settling)
    # The same place with a whole file is complete.
    write_raw(tmp_path / "a.h5")
    assert missing(row, tmp_path, settling) == ""
    assert "5 of 6 frames" in missing(row | {"frames": "6"}, tmp_path, settling)


def test_all_parts_of_a_sum_and_all_files_of_a_master_are_waited_for(tmp_path: Path) -> None:
    write_raw(tmp_path / "a.h5")
    row = {"raw": "a.h5 + b.h5", "frames": "5"}
    assert "b.h5 does not exist" in missing(row, tmp_path, Settling(0))
    write_raw(tmp_path / "b.h5", 4)
    assert "b.h5 has 4 of 5" in missing(row, tmp_path, Settling(0))
    write_raw(tmp_path / "b.h5")
    assert missing(row, tmp_path, Settling(0)) == ""
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("a.h5", "/entry/data/data")
        file["entry/data/data_000002"] = h5py.ExternalLink("b.h5", "/entry/data/data")
    master = {"raw": "master.h5", "frames": "10"}
    settling = Settling(0.1)
    assert "still changing" in missing(master, tmp_path, settling)
    time.sleep(0.11)
    assert "data files of master.h5 are still changing" in missing(master, tmp_path, settling)
    time.sleep(0.11)
    assert missing(master, tmp_path, settling) == ""
    os.utime(tmp_path / "b.h5", (1, 1))
    assert "data files of master.h5 are still changing" in missing(master, tmp_path, settling)


def test_an_image_in_the_middle_that_is_empty(tmp_path: Path) -> None:
    for i in range(3):
        image = fabio.tifimage.TifImage(data=np.zeros((8, 9), "u2"))
        image.write(str(tmp_path / f"a_{i}.tif"))
    row = {"raw": "a_#.tif", "frames": "3"}
    assert missing(row, tmp_path, Settling(0)) == ""
    (tmp_path / "a_1.tif").write_bytes(b"")
    assert "a_1.tif is empty" in missing(row, tmp_path, Settling(0))
    (tmp_path / "a_1.tif").unlink()
    assert "missing: 1" in missing(row, tmp_path, Settling(0))


# ------------------------------------------------------------------- what is added, and when


def test_once_adds_whole_scans_with_their_parents(folder: Path, hklflow: Hklflow) -> None:
    """A scan lacks a rotation, a child lacks its parent; both are added when it comes."""
    for name in ("300K_r1", "100K_r1", "100K_r2", "50K_r1", "20K_r1"):
        write_raw(folder / f"raw/{name}.h5")
    child = "quartz|{scan}||300K|{r}|raw/{scan}_{r}.h5|phi=0:0.1|"
    rows = [child.replace("{scan}", "100K").replace("{r}", r) for r in ("r1", "r2")]
    rows += ["quartz|300K|300||r1|raw/300K_r1.h5|phi=0:0.1|5"]
    rows += ["quartz|300K|300||r2|raw/300K_r2.h5|phi=0:0.1|5"]
    rows += ["quartz|50K|50||r1|raw/50K_r1.h5|phi=0:0.1|"]
    _plan(folder, *rows)
    before = (folder / "config/planned.tsv").read_bytes()
    once = ("watch", folder, "--once", "--settle", "0.1", "--", *NOTES)
    done = hklflow(*once)
    assert done.code == 0, done.err
    assert _scans(folder) == [("50K", "r1")]
    assert "quartz 100K (r1, r2) waits" in done.out
    assert "its parent '300K' is not a scan" in done.out
    assert "raw/300K_r2.h5 is not there yet" in done.out
    write_raw(folder / "raw/300K_r2.h5")
    assert hklflow(*once).code == 0
    parent, children = [("300K", "r1"), ("300K", "r2")], [("100K", "r1"), ("100K", "r2")]
    assert _scans(folder) == [("50K", "r1"), *parent, *children]
    assert (folder / "config/planned.tsv").read_bytes() == before
    assert len(_runs(folder)) == 2


def test_what_is_out_of_reach_is_told_and_the_others_are_added(
    folder: Path, hklflow: Hklflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is too long stands for a server that does not answer."""
    write_raw(folder / "raw/a.h5")
    far = "x" * 300
    _plan(folder, f"quartz|b|||r1|raw/{far}.h5|phi=0:0.1|", "quartz|a|||r1|raw/a.h5|phi=0:0.1|")
    once = ("watch", folder, "--once", "--settle", "0.1", "--", "true")
    done = hklflow(*once)
    assert done.code == 0, done.err
    assert "cannot be reached (File name too long)" in done.out
    assert _scans(folder) == [("a", "r1")]
    _plan(folder, f"quartz|{{scan}}|||r1|raw/{far}/{{scan}}.h5|phi=0:0.1|")
    done = hklflow(*once)
    assert done.code == 2
    assert "cannot be reached (File name too long)" in done.err
    assert len(done.err.splitlines()) == 1
    # A disk that is full for a while.
    write_raw(folder / "raw/c.h5")
    _plan(folder, "quartz|c|||r1|raw/c.h5|phi=0:0.1|")

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = hklflow(*once)
    assert done.code == 0, done.err
    assert "No space left" in done.out
    assert hklflow(*once).code == 0
    assert _scans(folder) == [("a", "r1"), ("c", "r1")]


def test_files_that_fit_a_template_are_added(folder: Path, hklflow: Hklflow) -> None:
    for name in ("300", "12.5", "x"):
        write_raw(folder / f"raw/q_{name}K.h5")
    _plan(folder, "quartz|{temperature}K|{temperature}||r1|raw/q_{temperature}K.h5|phi=0:0.1|5")
    done = hklflow("watch", folder, "--once", "--settle", "0.1", "--", *NOTES)
    assert done.code == 0, done.err
    rows = read_table(folder / "config/scans.tsv").rows
    assert [(row["scan"], row["temperature"]) for row in rows] == [
        ("12.5K", "12.5"),
        ("300K", "300"),
    ]
    # It never ends by itself.
    done = hklflow("watch", folder, "--until-complete")
    assert done.code == 2
    assert "is never complete" in done.err


def test_once_waits_for_data_files_too(folder: Path, hklflow: Hklflow) -> None:
    """What a master file links is known when the master itself has settled."""
    write_raw(folder / "raw/data.h5")
    with h5py.File(folder / "raw/master.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("data.h5", "/entry/data/data")
    _plan(folder, "quartz|a|||r1|raw/master.h5|phi=0:0.1|5")
    done = hklflow("watch", folder, "--once", "--settle", "0.1", "--", "true")
    assert done.code == 0, done.err
    assert _scans(folder) == [("a", "r1")]


def test_a_failed_run_does_not_stop_the_watch(folder: Path, watch: Watching) -> None:
    """It is run three times, and again when something new comes; its code is the watch's."""
    _plan(folder, *(f"quartz|{t}|||r1|raw/{t}.h5|phi=0:0.1|" for t in ("a", "b")))
    process = watch("--until-complete", command=(sys.executable, "-c", f"{NOTE}\nexit(3)"))
    write_raw(folder / "raw/a.h5")
    _until(lambda: len(_runs(folder)) == 3)
    write_raw(folder / "raw/b.h5")
    assert process.wait(timeout=PATIENCE) == 3, watch.told
    assert _runs(folder)[:3] == [["a r1"]] * 3
    assert set(map(tuple, _runs(folder)[3:])) == {("a r1", "b r1")}
    lines = watch.told.splitlines()
    assert len([line for line in lines if " added" in line]) == 2


def test_a_table_in_disorder_is_told_and_waited_for(folder: Path, watch: Watching) -> None:
    """Somebody edits planned.tsv while the watch goes on."""
    write_raw(folder / "raw/a.h5")
    _plan(folder, "quartz|b|||r1|raw/b.h5|phi=0:0.1|")
    process = watch()
    watch.says("watching")
    (folder / "config/planned.tsv").write_text(f"{COLUMNS}\nquartz\ta\n")
    watch.says("planned.tsv, row 1: 8 values")
    assert process.poll() is None
    _plan(folder, "quartz|a|||r1|raw/a.h5|phi=0:0.1|")
    _until(lambda: _runs(folder) == [["a r1"]])
    assert watch.told.count("planned.tsv, row 1") == 1


# ------------------------------------------------------------------------- ends and limits


def test_the_time_is_limited(folder: Path, watch: Watching) -> None:
    _plan(folder, "quartz|a|||r1|raw/a.h5|phi=0:0.1|")
    assert watch("--hours", "0.0001").wait(timeout=PATIENCE) == 0
    assert "time is up" in watch.told


def test_the_stop_file_lets_the_run_end(folder: Path, watch: Watching) -> None:
    _plan(folder, "quartz|a|||r1|raw/a.h5|phi=0:0.1|", "quartz|b|||r1|raw/b.h5|phi=0:0.1|")
    write_raw(folder / "raw/a.h5")
    slow = f"{NOTE}\nimport time\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\n{NOTE}"
    process = watch(command=(sys.executable, "-c", slow))
    _until(lambda: len(_runs(folder)) == 1)
    (folder / "config/watch.stop").touch()
    write_raw(folder / "raw/b.h5")
    time.sleep(0.5)
    # Nothing is added while snakemake runs.
    assert process.poll() is None
    assert _scans(folder) == [("a", "r1")]
    (folder / "go").touch()
    assert process.wait(timeout=PATIENCE) == 0
    assert len(_runs(folder)) == 2
    assert not (folder / "config/watch.stop").exists()


# Two generations; the first takes its time with the first signal, the second ignores SIGINT.
FAMILY = """\
import os, pathlib, signal, subprocess, sys, time
def ended(number, frame):
    with open('signals', 'a') as file:
        file.write(signal.Signals(number).name + '\\n')
    if number == signal.SIGTERM or sys.argv[1] == 'at once':
        sys.exit(9)
signal.signal(signal.SIGINT, ended)
signal.signal(signal.SIGTERM, ended)
child = subprocess.Popen([sys.executable, '-c', '''
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open('deaf', 'w').close()
time.sleep(600)
'''])
while not pathlib.Path('deaf').exists():
    time.sleep(0.02)
pathlib.Path('family.partial').write_text(f'{os.getpid()} {child.pid}')
os.rename('family.partial', 'family')
while True:
    time.sleep(1)
"""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "ends"), [(signal.SIGINT, "at once"), (signal.SIGTERM, "at the second")]
)
def test_a_signal_ends_snakemake_and_all_its_children(
    folder: Path, watch: Watching, asked: signal.Signals, ends: str
) -> None:
    _plan(folder, "quartz|a|||r1|raw/a.h5|phi=0:0.1|")
    write_raw(folder / "raw/a.h5")
    process = watch(command=(sys.executable, "-c", FAMILY, ends))
    _until((folder / "family").exists)
    family = [int(pid) for pid in (folder / "family").read_text().split()]
    process.send_signal(asked)
    _until((folder / "signals").exists)
    if ends == "at the second":
        time.sleep(0.3)
        assert process.poll() is None
        assert all(map(_alive, family))
        process.send_signal(asked)
    assert process.wait(timeout=PATIENCE) == 128 + asked
    expected = ["SIGINT"] if ends == "at once" else ["SIGINT", "SIGTERM"]
    assert (folder / "signals").read_text().split() == expected
    _until(lambda: not any(map(_alive, family)), 10)


@pytest.mark.slow
def test_one_watch_and_a_lock_that_was_left(folder: Path, watch: Watching) -> None:
    _plan(folder, "quartz|a|||r1|raw/a.h5|phi=0:0.1|")
    first = watch()
    watch.says("watching")
    second = watch()
    assert second.wait(timeout=PATIENCE) == 2
    assert f"is watched already by process {first.pid}" in watch.told
    first.kill()
    first.wait()
    assert str(first.pid) in (folder / "config/watch.lock").read_text()
    third = watch()
    watch.says("this watch continues")
    assert third.poll() is None


def test_what_was_added_before_a_crash_is_run(folder: Path, watch: Watching) -> None:
    """The watch was killed between adding a row and running snakemake."""
    write_raw(folder / "raw/a.h5")
    _plan(folder, "quartz|a|||r1|raw/a.h5|phi=0:0.1|")
    with (folder / "config/scans.tsv").open("a") as table:
        table.write("quartz\ta\t\t\tr1\traw/a.h5\tphi=0:0.1\t\t\t\n")
    assert watch("--until-complete").wait(timeout=PATIENCE) == 0
    assert _runs(folder) == [["a r1"]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--interval", "0"), "--interval"),
        (("--settle", "-1"), "--settle"),
        (("--hours", "nan"), "--hours"),
        (("--", "no-such-command"), "no-such-command cannot be started"),
        ((), "planned.tsv does not exist"),
    ],
)
def test_wrong_options(folder: Path, hklflow: Hklflow, words: tuple[str, ...], told: str) -> None:
    if words:
        _plan(folder, "quartz|a|||r1|raw/a.h5|phi=0:0.1|")
    if "--" in words:
        write_raw(folder / "raw/a.h5")
        words = ("--once", "--settle", "0.1", *words)
    done = hklflow("watch", folder, *words)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.workflow
def test_snakemake_itself_is_run(folder: Path) -> None:
    """The experiment's own Snakefile and profile, with the table's new row; only looked at."""
    shutil.copy(write_raw(folder / "raw/a.h5"), folder / "raw/b.h5")
    _plan(folder, "quartz|a|||r1|raw/a.h5|phi=0:0.1|", "quartz|b|||r1|raw/b.h5|phi=0:0.1|")
    profile = folder / "profiles/default/config.yaml"
    profile.write_text(f"{profile.read_text()}\ndry-run: true\n")
    watch = ("watch", ".", "--once", "--settle", "0.1")
    done = shell(sys.executable, "-m", "hklflow.cli", *watch, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "run done" in done.stdout
    for scan in ("a", "b"):
        assert f"import quartz {scan} r1" in done.stdout
