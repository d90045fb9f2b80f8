"""The stage contract, seen from outside: files, exit codes, messages, provenance."""

import hashlib
import importlib.util
import itertools
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import h5py
import pytest

from hklflow import __version__, stage
from hklflow.base.errors import HklflowError
from hklflow.stage import contract
from tests.patience import PATIENCE

TOY = '''\
"""Count the letters of texts (a toy)."""

import os
import signal
from pathlib import Path

from pydantic import Field

from hklflow import stage
from hklflow.base.errors import HklflowError

VERSION = 3


class Inputs(stage.Inputs):
    source: Path
    """A text."""
    more: list[Path] = []
    """More texts."""


class Outputs(stage.Outputs):
    counts: Path
    """Counts, as JSON."""
    copy_of: Path
    """The first text again."""


class Params(stage.Params):
    action: str = "work"
    """What to do after the first output is written."""
    factor: float = Field(1.0, ge=0, le=10)
    """Factor on the counts."""
    table: Path | None = None
    """A file that is a parameter."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    texts = [inputs.source, *inputs.more]
    counts = [params.factor * len(path.read_text()) for path in texts]
    stage.write_json(outputs.counts, {"counts": counts, "threads": threads})
    if params.action == "user":
        raise HklflowError(f"{inputs.source} has too few letters; write more")
    if params.action == "defect":
        raise KeyError("a defect")
    if params.action == "exit":
        raise SystemExit(7)
    if params.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if params.action != "forget":
        outputs.copy_of.write_text(inputs.source.read_text())


if __name__ == "__main__":
    stage.command(main)
'''

# A second stage, which makes a NeXus file from the first one's JSON.
TOY_NEXUS = '''\
"""Store counts (a toy)."""

from pathlib import Path

import h5py

from hklflow import stage

VERSION = 11


class Inputs(stage.Inputs):
    counts: list[Path]
    """Counts."""


class Outputs(stage.Outputs):
    product: Path
    """NeXus file."""


class Params(stage.Params):
    scale: tuple[float, float] = (1.0, 2.0)
    """Scales."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    with h5py.File(outputs.product, "w") as file:
        file.create_group("entry")["counts"] = sum(
            stage.read_json(path)["counts"][0] for path in inputs.counts
        )


if __name__ == "__main__":
    stage.command(main)
'''

_numbers = itertools.count()


def _module(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(f"{name}_{next(_numbers)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Toy:
    """The toy stage in a folder with a text, run in this process or in another one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = _module(folder, "toy", TOY)
        self.source = folder / "source.txt"
        self.source.write_text("abcdef")
        self.out = folder / "out"
        self.counts, self.copy = self.out / "counts.json", self.out / "copy.txt"

    def run(self, **params: object) -> None:
        stage.run(
            self.module.main,
            inputs=self.module.Inputs(source=self.source),
            outputs=self.module.Outputs(counts=self.counts, copy_of=self.copy),
            params=self.module.Params(**params),
            threads=2,
        )

    def flags(self) -> list[str]:
        paths = {"--source": self.source, "--counts": self.counts, "--copy-of": self.copy}
        return [word for flag, path in paths.items() for word in (flag, str(path))]

    def shell(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(self.folder / "toy.py"), *self.flags(), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    def left(self) -> set[str]:
        return {path.name for path in self.out.iterdir()} if self.out.exists() else set()


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.fixture
def command(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `stage.command` of the toy here; gives exit code and standard error."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["toy", *words])
        with pytest.raises(SystemExit) as ended:
            stage.command(toy.module.main)
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


# --------------------------------------------------------------------- outputs


def test_outputs_of_a_good_run(toy: Toy) -> None:
    toy.run(factor=2)
    assert toy.left() == {"counts.json", "copy.txt"}
    data = json.loads(toy.counts.read_text())
    assert data["counts"] == [12.0]
    assert data["threads"] == 2
    assert toy.copy.read_text() == "abcdef"


@pytest.mark.parametrize(
    ("action", "error"),
    [("user", HklflowError), ("defect", KeyError), ("exit", SystemExit)],
)
def test_a_failed_run_leaves_nothing(toy: Toy, action: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        toy.run(action=action)
    assert toy.left() == set()


def test_a_failed_rerun_keeps_the_old_outputs(toy: Toy) -> None:
    toy.run()
    before = {path: path.read_bytes() for path in toy.out.iterdir()}
    toy.source.write_text("other letters")
    with pytest.raises(KeyError):
        toy.run(action="defect")
    assert {path: path.read_bytes() for path in toy.out.iterdir()} == before
    toy.run()
    assert toy.copy.read_text() == "other letters"


def test_a_stage_that_forgets_an_output_publishes_none(toy: Toy) -> None:
    with pytest.raises(RuntimeError, match=r"toy did not write its output copy_of: .*copy\.txt"):
        toy.run(action="forget")
    assert toy.left() == set()


def test_a_killed_process_leaves_no_final_file(toy: Toy) -> None:
    done = toy.shell("--action", "kill")
    assert done.returncode == -signal.SIGKILL
    assert not toy.counts.exists()
    assert not toy.copy.exists()
    # What is left is hidden and says what it is; the next run clears it away.
    assert all(name.startswith(".") and ".partial" in name for name in toy.left())
    toy.run()
    assert toy.left() == {"counts.json", "copy.txt"}


def test_a_stale_partial_file_is_not_taken_for_a_result(toy: Toy) -> None:
    toy.out.mkdir()
    (toy.out / ".copy.partial.txt").write_text("half")
    with pytest.raises(RuntimeError, match="did not write"):
        toy.run(action="forget")
    assert "half" not in [path.read_text() for path in toy.out.iterdir()]


def test_missing_input_is_named(toy: Toy) -> None:
    toy.source.unlink()
    with pytest.raises(HklflowError, match=r"source: .*source\.txt does not exist; "):
        toy.run()
    assert toy.left() == set()


def test_missing_input_in_a_list_is_named(toy: Toy) -> None:
    inputs = toy.module.Inputs(source=toy.source, more=[toy.source, toy.folder / "absent.txt"])
    with pytest.raises(HklflowError, match=r"more: .*absent\.txt does not exist"):
        stage.run(
            toy.module.main,
            inputs=inputs,
            outputs=toy.module.Outputs(counts=toy.counts, copy_of=toy.copy),
            params=toy.module.Params(),
            threads=1,
        )


# ----------------------------------------------------------- command line, exit codes


def test_command_in_a_shell(toy: Toy) -> None:
    done = toy.shell("--factor", "2", "--threads", "3", "--more", str(toy.source), str(toy.source))
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(toy.counts.read_text())
    assert data["counts"] == [12.0, 12.0, 12.0]
    assert data["threads"] == 3


def test_user_error_in_a_shell(toy: Toy) -> None:
    done = toy.shell("--action", "user")
    assert done.returncode == 2
    assert done.stderr == f"hklflow toy: {toy.source} has too few letters; write more\n"
    assert toy.left() == set()


def test_defect_in_a_shell(toy: Toy) -> None:
    done = toy.shell("--action", "defect")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "KeyError: 'a defect'" in done.stderr
    assert "toy.py" in done.stderr
    assert toy.left() == set()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--factor", "much"], ["--factor", "'much'"]),
        (["--factor", "11"], ["--factor", "less than or equal to 10", "'11'"]),
        (["--factor=-1"], ["--factor", "greater than or equal to 0", "'-1'"]),
        (["--faktor", "2"], ["--faktor"]),
        (["--factor"], ["--factor", "requires an argument"]),
        (["--threads", "some"], ["--threads", "some"]),
        (["--threads", "0"], ["threads: 0 is less than 1"]),
        (["--threads=-1"], ["threads: -1 is less than 1"]),
        (["stray"], ["stray"]),
    ],
)
def test_bad_flags_end_with_one_line(
    toy: Toy, command: Callable[..., tuple[int, str]], words: list[str], expected: list[str]
) -> None:
    code, told = command(*toy.flags(), *words)
    assert code == 2
    assert told.startswith("hklflow toy: ")
    assert told.count("\n") == 1
    assert [part for part in expected if part not in told] == []
    assert toy.left() == set()


@pytest.mark.parametrize("flag", ["--source", "--counts", "--copy-of"])
def test_a_path_that_is_not_given_is_named(
    toy: Toy, command: Callable[..., tuple[int, str]], flag: str
) -> None:
    words = toy.flags()
    at = words.index(flag)
    code, told = command(*words[:at], *words[at + 2 :])
    assert code == 2
    assert told.count("\n") == 1
    assert flag in told


def test_help_and_version(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for word, expected in (
        ("--help", ["Count the letters of texts", "--factor", "Factor on the counts"]),
        ("--version", [f"toy 3 (hklflow {__version__})"]),
    ):
        monkeypatch.setattr(sys, "argv", ["toy", word])
        with pytest.raises(SystemExit) as ended:
            stage.command(toy.module.main)
        assert not ended.value.code
        told = capsys.readouterr().out
        assert [part for part in expected if part not in told] == []


# ------------------------------------------------------------------------ provenance


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_final_file_tells_the_whole_story(toy: Toy) -> None:
    """Paths, hashes, parameters and versions of a chain of two stages."""
    second = _module(toy.folder, "toy_nexus", TOY_NEXUS)
    toy.run(factor=2.5)
    first_counts = toy.counts
    other = toy.folder / "other.txt"
    other.write_text("xyz")
    toy.source, toy.counts, toy.copy = other, toy.out / "b.json", toy.out / "b.txt"
    toy.run()
    product = toy.folder / "deep" / "er" / "final.nxs"
    stage.run(
        second.main,
        inputs=second.Inputs(counts=[first_counts, toy.counts]),
        outputs=second.Outputs(product=product),
        params=second.Params(scale=(-1.0, 0.5)),
        threads=1,
    )
    history = stage.provenance(product)
    assert [record["stage"] for record in history] == ["toy", "toy", "toy_nexus"]
    assert [record["stage_version"] for record in history] == [3, 3, 11]
    assert {record["version"] for record in history} == {__version__}
    assert {record["program"] for record in history} == {"hklflow"}
    assert [record["params"] for record in history] == [
        {"action": "work", "factor": 2.5, "table": None},
        {"action": "work", "factor": 1.0, "table": None},
        {"scale": [-1.0, 0.5]},
    ]
    told = [
        {
            field: [{name: item[name] for name in ("path", "sha256")} for item in items]
            for field, items in record["inputs"].items()
        }
        for record in history
    ]
    text = toy.folder / "source.txt"
    assert told[0] == {"source": [{"path": str(text), "sha256": _sha256(text)}], "more": []}
    assert told[1] == {"source": [{"path": str(other), "sha256": _sha256(other)}], "more": []}
    assert told[2] == {
        "counts": [{"path": str(p), "sha256": _sha256(p)} for p in (first_counts, toy.counts)]
    }
    assert history[0]["outputs"] == {"counts": ["counts.json"], "copy_of": ["copy.txt"]}
    assert all(
        record["seconds"] >= 0 and record["started"].endswith("+00:00") for record in history
    )
    # The intermediate product tells its part.
    assert stage.provenance(first_counts) == history[:1]
    # As NeXus has it: one NXprocess each, in order.
    with h5py.File(product) as file:
        workflow = file["entry/workflow"]
        processes = [workflow[name] for name in sorted(workflow)]
        assert [process.attrs["NX_class"] for process in processes] == ["NXprocess"] * 3
        assert [process["sequence_index"][()] for process in processes] == [0, 1, 2]
        assert processes[2]["program"].asstr()[()] == "hklflow.stages.toy_nexus"
        assert processes[2]["version"].asstr()[()] == f"{__version__} (stage 11)"


def test_shared_history_is_told_once(toy: Toy) -> None:
    second = _module(toy.folder, "toy_nexus", TOY_NEXUS)
    toy.run()
    product = toy.folder / "final.nxs"
    stage.run(
        second.main,
        inputs=second.Inputs(counts=[toy.counts, toy.counts]),
        outputs=second.Outputs(product=product),
        params=second.Params(),
        threads=1,
    )
    assert [record["stage"] for record in stage.provenance(product)] == ["toy", "toy_nexus"]


def test_a_file_that_is_a_parameter_is_hashed_too(toy: Toy) -> None:
    table = toy.folder / "flat.txt"
    table.write_text("1 2 3")
    toy.run(table=table)
    (record,) = stage.provenance(toy.counts)
    assert _sha256(table) in json.dumps(record)


def test_a_missing_file_that_is_a_parameter_is_named(toy: Toy) -> None:
    with pytest.raises(HklflowError, match=r"table: .*absent\.txt does not exist"):
        toy.run(table=toy.folder / "absent.txt")


def test_raw_nexus_files_of_others_have_no_history(tmp_path: Path) -> None:
    """Raw files come from many programs: without our records there is no history."""
    plain, foreign = tmp_path / "scan_0001.nxs", tmp_path / "other.nxs"
    with h5py.File(plain, "w") as file:
        file.create_group("scan_1")
    with h5py.File(foreign, "w") as file:
        file["entry/workflow/process/program"] = "another"
        file["entry/workflow/note"] = 3
    assert stage.provenance(plain) == []
    assert stage.provenance(foreign) == []
    assert stage.provenance(tmp_path / "image.cbf") == []


def test_json_that_is_a_list_has_no_history(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    assert stage.provenance(path) == []


def test_fingerprint_is_of_the_whole_file(tmp_path: Path) -> None:
    """`tests/test_identity.py` has what else identifies files."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(64)))
    assert stage.fingerprint(path) == hashlib.sha256(bytes(range(64))).hexdigest()


# --------------------------------------------------------------------- small helpers


def test_read_json_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(HklflowError, match=r"a\.json is not valid JSON .*; make it again"):
        stage.read_json(path)
    path.write_text("[1]")
    with pytest.raises(HklflowError, match=r"a\.json holds a list"):
        stage.read_json(path)


def test_write_json_of_arrays_and_paths(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "a.json"
    data = {"a": np.arange(3), "b": np.float32(0.5), "c": Path("x/y"), "d": np.bool_(True)}
    stage.write_json(path, data)
    assert stage.read_json(path) == {"a": [0, 1, 2], "b": 0.5, "c": "x/y", "d": True}
    stage.write_json(path, {"not known": [float("nan"), np.inf]})
    assert stage.read_json(path) == {"not known": [None, None]}
    with pytest.raises(TypeError, match="type set is not JSON serializable"):
        stage.write_json(path, {"a": {1}})


def test_progress_passes_items_through_and_logs_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = [[1, 2], [3, 4], [5]]
    assert list(stage.progress(iter(blocks), 5, "frames", len)) == blocks
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("frames: 5/5 after ")


def test_progress_logs_at_intervals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(start=1000, step=7)  # every look at the clock is 7 s later
    monkeypatch.setattr(contract.time, "monotonic", lambda: next(clock))
    assert list(stage.progress(range(6), 6, "items")) == list(range(6))
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("items: 6/6")
    assert 1 < len(told) < 6


def test_progress_on_a_terminal_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(stage.progress("abc", 3, "letters")) == ["a", "b", "c"]
    assert "3/3" in capsys.readouterr().err


def test_progress_is_lazy() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(3):
            taken.append(i)
            yield i

    first = next(iter(stage.progress(items(), 3, "items")))
    assert (first, taken) == (0, [0])


# ------------------------------------------------------------- a limit of the system


@pytest.mark.parametrize(
    ("lack", "code", "sentence"),
    [
        (
            "raise MemoryError('Unable to allocate 4.00 GiB')",
            1,
            "not enough memory (Unable to allocate 4.00 GiB); give the job more memory",
        ),
        ("raise MemoryError", 1, "not enough memory; give the job more memory"),
        (
            'raise RuntimeError("can\'t start new thread")',
            1,
            "not enough memory (can't start new thread); give the job more memory",
        ),
        (
            "raise OSError(12, 'Cannot allocate memory')",
            1,
            "not enough memory ([Errno 12] Cannot allocate memory); give the job more memory",
        ),
        (
            "raise OSError(24, 'Too many open files')",
            2,
            "too many open files: a process may have 256; raise the limit (`ulimit -n 4096`) "
            "and run again",
        ),
        (
            "raise HklflowError('not readable; make it again') from OSError(24, 'Too many')",
            2,
            "too many open files: a process may have 256; raise the limit (`ulimit -n 4096`) "
            "and run again",
        ),
        (
            "raise OSError(27, 'File too large')",
            2,
            "file too large where the outputs are written; raise the limit of file sizes "
            "(`ulimit -f`) and run again",
        ),
        (
            "raise OSError(122, 'Quota exceeded')",
            2,
            "disk quota exceeded where the outputs are written; free some of your quota and run "
            "again",
        ),
    ],
)
def test_a_limit_of_the_system_ends_with_one_line(
    toy: Toy,
    command: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    lack: str,
    code: int,
    sentence: str,
) -> None:
    def main(**_: object) -> None:
        exec(lack, {"HklflowError": HklflowError})

    main.__module__ = toy.module.main.__module__
    monkeypatch.setattr(toy.module, "main", main)
    limits = {resource.RLIMIT_NOFILE: (256, 256), resource.RLIMIT_AS: (-1, -1)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    assert command(*toy.flags()) == (code, f"hklflow toy: {sentence}\n")
    assert toy.left() == set()


def test_the_line_of_lacking_memory_names_the_setting_to_lower(
    toy: Toy, command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(**_: object) -> None:
        raise MemoryError

    class Params(toy.module.Params):  # type: ignore[name-defined, misc]
        block: int = 8
        memory: float = 1000.0

    main.__module__ = Params.__module__ = toy.module.main.__module__
    monkeypatch.setattr(toy.module, "main", main)
    monkeypatch.setattr(toy.module, "Params", Params)
    monkeypatch.setattr(contract.system, "memory_limit_mb", lambda: 900)
    code, line = command(*toy.flags())
    assert code == 1
    assert line == (
        "hklflow toy: not enough memory (a process may have 900 MB (`ulimit -v`)); lower `block` "
        "or `memory`, or give the job more memory\n"
    )
