"""Finding and running DIALS: stand-ins of its programs, and its absence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.dials import programs
from hklflow.stages import refine_parent
from tests.patience import PATIENCE

from . import small_scans


def stand_in(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return folder


def told_version(folder: Path, text: str, code: int = 0) -> Path:
    return stand_in(folder, "dials.version", f"cat << 'END'\n{text}\nEND\nexit {code}")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("DIALS 3.12\nPython 3.11.2\nInstalled in: /opt/x", (3, 12)),
        ("DIALS 3.27.1-0-g0123abcd-release\nPython 3.13", (3, 27)),
        ("a warning first\nDIALS 3.dev.4321-g0123abcd", (3, 10**6)),
        ("DIALS 4.0.0", (4, 0)),
    ],
)
def test_versions_that_will_do(tmp_path: Path, text: str, version: tuple[int, int]) -> None:
    assert programs.find(told_version(tmp_path / "bin", text)).version == version


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("DIALS 3.8\nPython 3.9", 0, "is DIALS 3.8, older than 3.12"),
        ("DIALS 2.2.10", 0, "older than 3.12"),
        ("no such thing", 0, "printed no version but 'no such thing'"),
        ("DIALS 3.12", 1, "printed no version"),
        ("", 0, "printed no version but 'nothing'"),
    ],
)
def test_versions_that_will_not(tmp_path: Path, text: str, code: int, told: str) -> None:
    with pytest.raises(HklflowError, match=told) as error:
        programs.find(told_version(tmp_path / "bin", text, code))
    assert "apt-get install dials" in str(error.value)


def test_absent_from_path_and_from_a_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for prefix, where in ((None, "on PATH"), (tmp_path, f"in {tmp_path}")):
        with pytest.raises(HklflowError, match="DIALS is needed") as error:
            programs.find(prefix)
        for how in (where, "apt-get install dials", "conda env create", "dials: prefix"):
            assert how in str(error.value)


def test_a_stage_that_needs_it_says_so(
    tmp_path: Path, hexagonal: small_scans.Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "orientation.json"
    with pytest.raises(HklflowError, match=r"DIALS is needed but there is no dials\.version"):
        stage.run(
            refine_parent.main,
            inputs=refine_parent.Inputs(scans=hexagonal.scans, peaks=hexagonal.peaks),
            outputs=refine_parent.Outputs(orientation=out, picture=out.with_suffix(".png")),
            params=refine_parent.Params(
                sample="s",
                scan="t",
                rotations=list(small_scans.NAMES),
                space_group="P 6/m m m",
                engine="dials",
            ),
            threads=1,
        )
    assert not list(tmp_path.iterdir())


def broken(tmp_path: Path, script: str) -> tuple[programs.Dials, Path]:
    folder = told_version(tmp_path / "bin", "DIALS 3.12")
    stand_in(folder, "dials.index", script)
    work = tmp_path / "work"
    work.mkdir()
    return programs.find(folder), work


def test_a_program_that_makes_nothing_has_failed(tmp_path: Path) -> None:
    dials, work = broken(tmp_path, "echo 'Indexing'; echo 'No suitable lattice could be found'")
    with pytest.raises(HklflowError, match=r"ended without indexed\.expt") as error:
        dials.run("dials.index", [], work, "indexed.expt")
    assert "No suitable lattice could be found" in str(error.value)
    assert str(work / "dials.index.out") in str(error.value)


def test_what_an_earlier_run_left_is_no_product(tmp_path: Path) -> None:
    dials, work = broken(tmp_path, "exit 0")
    (work / "indexed.expt").write_text("old")
    with pytest.raises(HklflowError, match="ended without"):
        dials.run("dials.index", [], work, "indexed.expt")


def test_the_sentence_of_a_failure_is_the_error_it_told(tmp_path: Path) -> None:
    said = "echo 'Sorry: no spots to index' >&2; echo 'please cite'; touch indexed.expt; exit 3"
    dials, work = broken(tmp_path, said)
    with pytest.raises(HklflowError, match=r"exit code 3\): Sorry: no spots to index; its log"):
        dials.run("dials.index", [], work, "indexed.expt")


def test_programs_see_nothing_of_our_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("LD_PRELOAD", "")
    dials, work = broken(tmp_path, 'env > environment; echo "$@" > arguments')
    made = dials.run("dials.index", ["a b", Path("c")], work, "environment", "arguments")
    assert not [line for line in made[0].read_text().splitlines() if line.startswith("PYTHONPATH")]
    assert made[1].read_text() == "a b c\n"


def test_filters_are_given_to_a_distribution_s_dials_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HDF5_PLUGIN_PATH", raising=False)
    system = "DIALS 3.12\nInstalled in: /usr/lib/python3/dist-packages/dials"
    other = "DIALS 3.27.1\nInstalled in: /opt/conda/lib/python3.12/site-packages/dials"
    found = programs.find(told_version(tmp_path / "bin", system))
    assert Path(found.environment["HDF5_PLUGIN_PATH"]).is_dir()
    found = programs.find(told_version(tmp_path / "bin", other))
    assert "HDF5_PLUGIN_PATH" not in found.environment


def test_a_folder_that_failed_keeps_its_texts_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs.tempfile, "tempdir", str(tmp_path))
    with programs.workspace("x") as folder:
        (folder / "frames.nxs").touch()
    assert not list(tmp_path.iterdir())

    def fail(*names: str) -> None:
        with programs.workspace("x") as folder:
            for name in names:
                (folder / name).touch()
            raise HklflowError("no")

    with pytest.raises(HklflowError):
        fail("frames.nxs", "dials.index.out", "dials.index.log")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "dials.index.log",
        "dials.index.out",
    ]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(HklflowError):
        fail("frames.nxs")
    assert sorted(tmp_path.iterdir()) == before


def test_a_program_ends_with_who_started_it(tmp_path: Path) -> None:
    """A killed job leaves no `dials.*` behind, nor what that has started."""
    folder = told_version(tmp_path / "bin", "DIALS 3.12")
    stand_in(folder, "dials.index", f"sleep 7200 & echo $! > {tmp_path}/pid; wait")
    code = (
        "from pathlib import Path; from hklflow.dials import programs; "
        f"programs.find(Path({str(folder)!r})).run('dials.index', [], Path({str(tmp_path)!r}))"
    )
    job = subprocess.Popen([sys.executable, "-c", code])
    try:
        started = tmp_path / "pid"
        while not (started.exists() and started.read_text().strip()):
            assert job.poll() is None
            time.sleep(0.05)
        pid = int(started.read_text())
        assert Path(f"/proc/{pid}").exists()
        job.terminate()
        assert job.wait(timeout=PATIENCE) == 128 + signal.SIGTERM
    finally:
        job.kill()
    end = time.monotonic() + PATIENCE
    while _runs(pid):  # it was told to end, which takes a busy machine its time
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process is more than a zombie that init has not seen yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rsplit(")", 1)[1].split()[0] != "Z"


def test_the_frames_end_with_who_wrote_them(tmp_path: Path) -> None:
    """A job killed between programs leaves no copy of a rotation in TMPDIR."""
    code = (
        "import time; from hklflow.dials import programs\n"
        "with programs.workspace('x') as folder:\n"
        "    (folder / 'frames.nxs').write_text('frames')\n"
        "    print('written', flush=True)\n"
        "    time.sleep(300)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    job = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    with job:
        try:
            assert job.stdout is not None
            assert job.stdout.readline() == "written\n"
            assert len(list(tmp_path.glob("*/frames.nxs"))) == 1
            job.terminate()
            assert job.wait(timeout=PATIENCE) == 128 + signal.SIGTERM
        finally:
            job.kill()
    assert not list(tmp_path.iterdir())


def test_a_handler_of_somebody_else_is_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with programs.workspace("x"):
        assert signal.getsignal(signal.SIGTERM) is not before
        dials, work = broken(tmp_path, "exit 0")
        dials.run("dials.index", [], work)
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
