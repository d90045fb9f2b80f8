"""What happens when something breaks; the table is docs/failures.md.

Each test breaks a copy of one finished experiment (two scans of one rotation, measured as far
as the workflow knows) from outside. What is right afterwards is not asked of the code under
test: the products must be those of the undisturbed run, bit by bit, times excepted.
"""

import copy
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from hklflow import stage
from tests.patience import PATIENCE

from ..privilege import without_privilege_to_read_all
from .conftest import CONFIG, scans, snakemake, write_experiment
from .faults import (
    Bench,
    Fault,
    copy_experiment,
    differences,
    is_stopped,
    products,
    small_disk,
    stop_group,
    wait_for,
)

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

# The scan in which things break, and its sound neighbour. The neighbour is the parent.
BROKEN, SOUND = "results/hexa/100K", "results/hexa/300K"
RAW = "raw/100K_r1.nxs"
SCAN = f"{BROKEN}/r1/scan.nxs"
MERGED = f"{BROKEN}/transform.nxs"

Commands = dict[str, list[str]]


@pytest.fixture(scope="module")
def measured(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment whose raw files count as measured: one rotation of `finished`."""
    settings = copy.deepcopy(CONFIG)
    del settings["simulation"]
    # What follows the merge is broken on its own, see `to_the_end`.
    settings["delta_pdf"] = []
    table = scans([300, 100], {"r1": 0}, parent=300)
    folder = write_experiment(tmp_path_factory.mktemp("failures") / "e", settings, table)
    (folder / "raw").mkdir()
    for name in ("CeO2.tif", "300K_r1.nxs", "100K_r1.nxs"):
        shutil.copy2(finished / "raw" / name, folder / "raw")
    # Volumes are those of an orientation of both rotations.
    others = shutil.ignore_patterns("*transform*")
    for name in ("calibration", "hexa/300K/r1", "hexa/100K/r1"):
        shutil.copytree(finished / "results" / name, folder / "results" / name, ignore=others)
    # Stages that are to fail run in a new Python, which draws; their pictures are compared.
    run = snakemake(folder, "--cores", "2", drawn=True)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def to_the_end(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with all that follows the merge, to break."""
    return copy_experiment(finished, tmp_path_factory.mktemp("pdf") / "e")


@pytest.fixture(scope="module")
def commands(measured: Path) -> Commands:
    """Command lines of all jobs of each stage, as a person can paste them."""
    return _commands(measured)


def _commands(folder: Path) -> Commands:
    run = snakemake(folder, "--dry-run", "--forceall", "--printshellcmds")
    found: Commands = {}
    told = run.stdout + run.stderr
    for line in re.findall(r"^.*?(python -m hklflow\.stages\..*) > \S+ 2>&1$", told, re.MULTILINE):
        found.setdefault(line.split()[2].removeprefix("hklflow.stages."), []).append(line)
    assert {"import_scan", "transform", "merge"} <= found.keys()
    return found


@pytest.fixture
def bench(measured: Path, tmp_path: Path) -> Iterator[Bench]:
    """A copy of the finished experiment to break; no process of it may be left behind."""
    made = Bench(copy_experiment(measured, tmp_path / "e"), tmp_path / "faults")
    try:
        yield made
        left = made.processes()
        assert left == []
    finally:
        made.clear()


def _sentences(told: str) -> list[str]:
    """What the stages said in one line."""
    return re.findall(r"^hklflow \w+: .*$", told, flags=re.MULTILINE)


def _expanded(command: str) -> list[str]:
    """Words of a command as bash makes them: lists of files stand in braces."""
    shown = f"printf '%s\\0' {command}"
    words = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True).stdout
    return words.split("\0")[:-1]


def _times(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in products(folder)}


def _is_unlocked(folder: Path) -> bool:
    return not any(path.is_file() for path in (folder / ".snakemake/locks").rglob("*"))


def _assert_undisturbed(bench: Bench, measured: Path) -> None:
    """The results are those of a run without faults, and nothing is left of the fault."""
    assert differences(bench.folder / "results", measured / "results") == []
    assert bench.partials() == []
    assert _is_unlocked(bench.folder)


# ------------------------------------------------------------- the comparison itself


def test_the_comparison_sees_one_voxel_and_no_times(bench: Bench, measured: Path) -> None:
    mine, theirs = bench.folder / "results", measured / "results"
    assert differences(mine, theirs) == []
    history = stage.provenance(bench.folder / MERGED)
    with h5py.File(bench.folder / MERGED, "r+") as file:
        record = file["entry/workflow"][sorted(file["entry/workflow"])[-1]]
        record["date"][()] = "2001-01-01T00:00:00+00:00"
    assert differences(mine, theirs) == []
    with h5py.File(bench.folder / MERGED, "r+") as file:
        data = file["entry/transform/data"]
        at = tuple(n // 2 for n in data.shape)
        data[at] = np.nextafter(data[at], np.inf, dtype=data.dtype) if data[at] == data[at] else 0
    # The stack shows the same voxel, in its volumes and in the plane that opens first: it holds no
    # copy.
    voxel = ["hexa/100K/transform.nxs", *["hexa/stack_300K/transform.nxs"] * 2]
    assert sorted(told.split(":")[0] for told in differences(mine, theirs)) == voxel
    product = bench.folder / BROKEN / "orientation.json"
    product.write_text(product.read_text().replace('"scan": "100K"', '"scan": "101K"'))
    (bench.folder / BROKEN / "more.txt").touch()
    assert len(differences(mine, theirs)) == 5
    assert len(history) > 5


# ------------------------------------------------------------------------ raw files


def test_a_truncated_raw_file_stops_its_scan_only(bench: Bench, measured: Path) -> None:
    """And a second run says the same again; mended, only what needs it is done."""
    raw = bench.folder / RAW
    whole = raw.read_bytes()
    raw.write_bytes(whole[: len(whole) // 2])
    # So that the other scan has something to do.
    goals = [MERGED, f"{SOUND}/transform.nxs"]
    (bench.folder / goals[1]).unlink()
    told = []
    for already_done in (False, True):
        run = bench.run(*goals)
        assert run.returncode == 1
        assert "Nothing to be done" not in run.stderr
        assert not (bench.folder / SCAN).exists()
        assert (bench.folder / SOUND / "transform.nxs").exists()
        assert set(bench.started()) == {"import_scan"} if already_done else {"import_scan", "merge"}
        told.append(set(_sentences(run.stderr)))
        assert bench.partials() == []
    assert told[0] == told[1]
    (sentence,) = told[0]
    assert sentence.startswith("hklflow import_scan: ")
    assert RAW in sentence
    before = _times(bench.folder / SOUND)
    raw.write_bytes(whole)
    run = bench.run(*goals)
    assert run.returncode == 0, run.stderr
    assert _times(bench.folder / SOUND) == before
    _assert_undisturbed(bench, measured)


def test_a_forbidden_raw_file_stops_its_scan_only(bench: Bench, measured: Path) -> None:
    raw = bench.folder / RAW
    raw.chmod(0)
    obeying = {"preexec_fn": without_privilege_to_read_all} if os.geteuid() == 0 else {}
    goals = [SCAN, f"{SOUND}/r1/scan.nxs"]
    for goal in goals:
        (bench.folder / goal).unlink()
    for _ in range(2):
        run = bench.run(*goals, **obeying)
        assert run.returncode == 1
        (sentence,) = _sentences(run.stderr)
        assert RAW in sentence
        assert "ermission denied" in sentence
        assert not (bench.folder / SCAN).exists()
        assert (bench.folder / goals[1]).exists()
    assert bench.started() == ["import_scan"]
    raw.chmod(0o644)
    run = bench.run(*goals)
    assert run.returncode == 0, run.stderr
    assert bench.started() == ["import_scan"]
    _assert_undisturbed(bench, measured)


def test_an_absent_raw_file_is_told_before_anything_runs(bench: Bench, measured: Path) -> None:
    """As every mistake in the tables is: the path may be misspelt."""
    raw = bench.folder / RAW
    kept = raw.rename(raw.with_suffix(".kept"))
    raw.symlink_to("nowhere/at/all")
    (bench.folder / SOUND / "transform.nxs").unlink()
    run = bench.run()
    assert run.returncode == 2
    assert f"raw file {RAW} does not exist" in run.stderr
    assert "Traceback" not in run.stderr
    assert bench.started() == []
    raw.unlink()
    kept.rename(raw)
    run = bench.run("--dry-run")
    assert run.returncode == 0, run.stderr
    assert "import_scan" not in run.stderr


def test_a_series_with_a_missing_image_stops_its_scan_only(bench: Bench) -> None:
    from fabio.cbfimage import CbfImage

    with h5py.File(bench.folder / RAW) as file:
        frames = file["entry/data/data"][:9]
    images = [bench.folder / f"raw/100K_{i:04d}.cbf" for i in range(1, len(frames) + 1)]
    for path, frame in zip(images, frames, strict=True):
        CbfImage(data=frame.astype(np.int32)).write(str(path))
    table = bench.folder / "config/scans.tsv"
    table.write_text(table.read_text().replace(RAW, "raw/100K_####.cbf"))
    path = bench.folder / "config/config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["import_scan"]["monitor"] = "none"  # images have none
    path.write_text(yaml.safe_dump(settings))
    whole = images[4].read_bytes()
    images[4].unlink()
    goals = [SCAN, f"{SOUND}/r1/scan.nxs"]
    for _ in range(2):
        run = bench.run(*goals)
        assert run.returncode == 1
        (sentence,) = _sentences(run.stderr)
        assert "hklflow import_scan: 1 of the images raw/100K_####.cbf between" in sentence
        assert "missing: 5" in sentence
        assert not (bench.folder / goals[0]).exists()
        assert (bench.folder / goals[1]).exists()
    # The neighbour was done in the first run.
    assert bench.started() == ["import_scan"]
    images[4].write_bytes(whole)
    run = bench.run(*goals)
    assert run.returncode == 0, run.stderr
    assert bench.started() == ["import_scan"]
    with h5py.File(bench.folder / goals[0]) as file:
        assert file["entry/frames/rotation_angle"].shape == (len(frames),)
    assert "Nothing to be done" in bench.run(*goals).stderr


# ---------------------------------------------------------------- in mid-write, by hand


def _by_hand(bench: Bench, command: str, fault: Fault | None = None) -> "subprocess.Popen[str]":
    """A stage as a person runs it."""
    return bench.process(["bash", "-c", f"exec {command}"], fault)


def _ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, told = process.communicate(timeout=PATIENCE)
    return process.returncode, told


def _merge_of_broken(commands: Commands) -> str:
    """Command line of the merge to `MERGED`."""
    (line,) = [line for line in commands["merge"] if f" {MERGED} " in line]
    return line


@pytest.mark.parametrize("deed", ["raise", "kill"])
def test_a_stage_that_ends_in_mid_write_publishes_nothing(
    bench: Bench, measured: Path, commands: Commands, deed: str
) -> None:
    line = _merge_of_broken(commands)
    before = _times(bench.folder / "results")
    code, told = _ended(_by_hand(bench, line, Fault("merge", deed)))
    assert code == (1 if deed == "raise" else -signal.SIGKILL)
    assert ("broken on purpose" in told) == (deed == "raise")
    assert {name: t for name, t in _times(bench.folder / "results").items() if name in before} == (
        before
    )
    # Killed, it cannot tidy up; the next run does.
    assert bool(bench.partials()) == (deed == "kill")
    code, told = _ended(_by_hand(bench, line))
    assert code == 0, told
    _assert_undisturbed(bench, measured)


_THREE = '''
"""A stage with three outputs."""
from pathlib import Path

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    pass


class Outputs(stage.Outputs):
    first: Path
    others: list[Path]


class Params(stage.Params):
    text: str


def main(*, inputs, outputs, params, threads=1):
    for path in (outputs.first, *outputs.others):
        path.write_text(params.text)


if __name__ == "__main__":
    stage.command(main)
'''


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_stage_that_is_killed_between_two_renames_leaves_no_old_beside_new(
    tmp_path: Path, k: int
) -> None:
    bench = Bench(tmp_path, tmp_path / "faults")
    (tmp_path / "three.py").write_text(_THREE)
    outputs = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    line = f"python {tmp_path}/three.py --first a.txt --others b.txt c.txt --text"
    for path in outputs:
        path.write_text("old")
    killed = Fault("three", "kill", point="rename", after=k)
    assert _ended(_by_hand(bench, f"{line} new", killed))[0] == -signal.SIGKILL
    left = [path.read_text() for path in outputs if path.exists()]
    assert left == (["old"] if k == 1 else ["new"] * (k - 1))
    assert _ended(_by_hand(bench, f"{line} newer")) == (0, "")
    assert [path.read_text() for path in outputs] == ["newer"] * 3
    assert bench.partials() == []


def test_of_two_processes_with_one_output_the_newer_wins(
    bench: Bench, measured: Path, commands: Commands
) -> None:
    """Else the older would publish what the newer has half written."""
    line = _merge_of_broken(commands)
    before = _times(bench.folder / "results")
    fault = Fault("merge", "stop")
    old = _by_hand(bench, line, fault)
    pid_old = bench.caught()
    new = _by_hand(bench, line, fault)
    pid_new = bench.caught(already=1)
    wait_for(lambda: is_stopped(pid_new), "the newer process to stop")
    os.kill(pid_old, signal.SIGCONT)
    code, told = _ended(old)
    assert code != 0, told
    now = _times(bench.folder / "results")
    assert {name: now[name] for name in before} == before
    os.kill(pid_new, signal.SIGCONT)
    code, told = _ended(new)
    assert code == 0, told
    _assert_undisturbed(bench, measured)


# ----------------------------------------------------------------- no room, no memory


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault("merge", limit="-f 100"), "file too large"),
        (Fault("merge", "memory"), "not enough memory"),
    ],
    ids=["file size", "memory"],
)
def test_a_limit_fails_the_job_tries_it_again_and_says_why(
    bench: Bench, measured: Path, fault: Fault, sentence: str
) -> None:
    (bench.folder / MERGED).unlink()
    run = bench.run(MERGED, fault=fault)
    assert run.returncode == 1
    assert bench.started() == ["merge", "merge"]
    assert any(sentence in told for told in _sentences(run.stderr)), run.stderr
    assert not (bench.folder / MERGED).exists()
    assert bench.partials() == []
    run = bench.run(MERGED)
    assert run.returncode == 0, run.stderr
    _assert_undisturbed(bench, measured)


def test_a_full_disk_is_told_and_room_cures_it(
    bench: Bench, measured: Path, tmp_path: Path
) -> None:
    (bench.folder / MERGED).unlink()
    place = bench.folder / BROKEN
    aside = place.rename(tmp_path / "aside")
    place.mkdir()
    used = sum(-(-p.stat().st_size // 4096) * 4 for p in aside.rglob("*") if p.is_file())
    try:
        with small_disk(place, used + 800):
            shutil.copytree(aside, place, dirs_exist_ok=True, symlinks=True)
            run = bench.run(MERGED)
            assert run.returncode == 1
            assert any("no space left on device" in told for told in _sentences(run.stderr)), (
                run.stderr
            )
            assert not (bench.folder / MERGED).exists()
            assert bench.partials() == []
            larger = f"remount,size={used + 8000}k"
            subprocess.run(["mount", "-o", larger, str(place)], check=True)
            run = bench.run(MERGED)
            assert run.returncode == 0, run.stderr
            _assert_undisturbed(bench, measured)
    except PermissionError as error:
        pytest.skip(str(error))


# -------------------------------------------------------------------------- killed


def test_a_killed_job_is_tried_again(bench: Bench, measured: Path) -> None:
    """As by a kernel that is out of memory."""
    (bench.folder / MERGED).unlink()
    run = bench.run(MERGED, fault=Fault("merge", "kill", once=True))
    assert run.returncode == 0, run.stderr
    assert bench.started() == ["merge", "merge"]
    _assert_undisturbed(bench, measured)


def test_snakemake_is_killed_and_its_orphan_job_spoils_nothing(
    bench: Bench, measured: Path
) -> None:
    (bench.folder / SCAN).unlink()
    process = bench.start(SCAN, "--cores", "2", fault=Fault("import_scan", "stop"))
    orphan = bench.caught()
    wait_for(lambda: is_stopped(orphan), "the job to stop in mid-write")
    for pid in bench.processes():
        if b"snakemake" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"hklflow.stages")[0]:
            os.kill(pid, signal.SIGKILL)
    process.wait()
    assert not (bench.folder / SCAN).exists()
    refused = bench.run(SCAN)
    assert refused.returncode == 1
    assert "--unlock" in refused.stderr
    assert bench.run("--unlock").returncode == 0
    # The orphan lives when the same output is made again, and goes on afterwards.
    run = bench.run(SCAN)
    assert run.returncode == 0, run.stderr
    os.kill(orphan, signal.SIGCONT)
    wait_for(lambda: bench.processes() == [], "the orphan to end")
    _assert_undisturbed(bench, measured)


def test_everything_is_killed_and_resumes(bench: Bench, measured: Path) -> None:
    """In mid-write, down to the overview of all scans; between two renames: test_workflow."""
    (bench.folder / BROKEN / "r1/transform.nxs").unlink()
    process = bench.start("--cores", "2", fault=Fault("transform", "stop", point="dataset"))
    bench.caught()
    stop_group(process)
    wait_for(lambda: bench.processes() == [], "the process group to end")
    assert bench.partials()
    refused = bench.run()
    assert refused.returncode == 1
    assert "--unlock" in refused.stderr
    assert bench.run("--unlock").returncode == 0
    run = bench.run()
    assert run.returncode == 0, run.stderr
    assert bench.started()[0] == "transform"
    _assert_undisturbed(bench, measured)


@pytest.mark.parametrize("to_all", [True, False], ids=["group", "snakemake"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_and_the_next_run_completes(
    bench: Bench, measured: Path, number: signal.Signals, to_all: bool
) -> None:
    """Control-C in a terminal reaches the whole group; `kill` reaches snakemake only."""
    goals = [SCAN, f"{SOUND}/r1/scan.nxs"]
    for goal in goals:
        (bench.folder / goal).unlink()
    process = bench.start(*goals, "--cores", "1", fault=Fault("import_scan", "wait"))
    bench.caught()
    if to_all:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
        bench.go()
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0, told
    wait_for(lambda: bench.processes() == [], "the jobs to end")
    assert _is_unlocked(bench.folder)
    # The second job was not begun.
    assert bench.started() == ["import_scan"]
    run = bench.run(*goals)
    assert run.returncode == 0, run.stderr
    _assert_undisturbed(bench, measured)


# ---------------------------------------------------------------------- stale products


def test_what_is_stale_is_never_called_done(bench: Bench, measured: Path) -> None:
    """A parameter has changed and the job that obeys it fails: no run is content."""
    path = bench.folder / "config/config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["find_peaks"] = settings.get("find_peaks", {}) | {"threshold": 40.0}
    path.write_text(yaml.safe_dump(settings))
    cannot_start = Fault("find_peaks", limit="-v 1000")
    for _ in range(3):
        run = bench.run(fault=cannot_start)
        assert run.returncode == 1
        assert "find_peaks" in run.stderr
        assert "Nothing to be done" not in run.stderr
        assert set(bench.started()) == {"find_peaks"}
        assert not (bench.folder / BROKEN / "r1/peaks.nxs").exists()
    path.write_text((measured / "config/config.yaml").read_text())
    run = bench.run("--dry-run")
    assert run.returncode == 0
    assert "Nothing to be done" not in run.stderr


def test_a_deleted_product_is_made_again(bench: Bench, measured: Path) -> None:
    (bench.folder / BROKEN / "hexa_100K.nxs").unlink()
    before = _times(bench.folder / "results")
    run = bench.run()
    assert run.returncode == 0, run.stderr
    assert _times(bench.folder / BROKEN / "r1") == {
        name.removeprefix("hexa/100K/r1/"): t
        for name, t in before.items()
        if name.startswith("hexa/100K/r1/")
    }
    _assert_undisturbed(bench, measured)


def test_a_product_that_was_spoilt_by_hand_is_made_again(bench: Bench, measured: Path) -> None:
    spoilt = bench.folder / BROKEN / "r1/transform.nxs"
    spoilt.write_bytes(spoilt.read_bytes()[:-1000])
    run = bench.run(MERGED)
    assert "r1/transform.nxs has no record of its stage" in run.stderr
    assert run.returncode == 0, run.stderr
    _assert_undisturbed(bench, measured)


def _harmed(path: Path, harm: str) -> bytes:
    whole = path.read_bytes()
    if harm == "truncated":
        return whole[: len(whole) // 2]
    return np.random.default_rng(1).bytes(len(whole))


@pytest.mark.parametrize("harm", ["truncated", "garbage"])
def test_every_stage_refuses_every_damaged_input_in_one_sentence(
    to_the_end: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    harm: str,
) -> None:
    """Never a silent wrong result. Here in one process, as `stage.command` runs them."""
    monkeypatch.chdir(to_the_end)
    wrong, checked = [], 0
    for name, lines in _commands(to_the_end).items():
        module = importlib.import_module(f"hklflow.stages.{name}")
        words = _expanded(lines[0])
        for field in module.Inputs.model_fields:
            flag = "--" + field.replace("_", "-")
            if flag not in words:
                continue
            path = Path(words[words.index(flag) + 1])
            whole, times = path.read_bytes(), path.stat()
            path.write_bytes(_harmed(path, harm))
            monkeypatch.setattr(sys, "argv", [name, *words[3:]])
            code: object = 0
            try:
                stage.command(module.main)
            except SystemExit as ended:
                code = ended.code
            told = capsys.readouterr().err
            if code != 2 or str(path) not in told or not _sentences(told):
                wrong.append(f"{name} {flag} {path}: exit {code}, {told.strip()[-300:]!r}")
            checked += 1
            path.write_bytes(whole)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert wrong == []
    assert checked > 35


# ------------------------------------------------------------------------------ gates


def test_a_scan_that_fails_its_gate_stops_alone(bench: Bench, measured: Path) -> None:
    """Its orientation stays, for a person to look at; its volumes go on to be called old."""
    before = _times(bench.folder)
    path = bench.folder / "config/config.yaml"
    settings = yaml.safe_load(path.read_text())
    # No crystal's thermal expansion is so small as this: the cell seems to jump.
    gates = {"max_expansion": 1e-9, "min_jump": 0, "min_z": 0.001}
    settings["per_scan"] = {"hexa/100K": {"accept": gates}}
    whole = path.read_text()
    path.write_text(yaml.safe_dump(settings))
    for _ in range(2):
        run = bench.run()
        assert run.returncode == 1, run.stderr
        (sentence,) = _sentences(run.stderr)
        assert sentence.startswith("hklflow accept: ")
        assert "100 K" in sentence
        assert "make 100K a parent, also of the scans below 100 K" in sentence
        assert not (bench.folder / BROKEN / "accepted.json").exists()
        assert (bench.folder / BROKEN / "orientation.json").exists()
        now = _times(bench.folder)
        sound = {name: at for name, at in before.items() if name.startswith(SOUND)}
        assert {name: now[name] for name in sound} == sound
    path.write_text(whole)
    assert bench.run().returncode == 0
    _assert_undisturbed(bench, measured)
