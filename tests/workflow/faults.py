"""Faults for the tests of failures, all from outside: the product code knows of none.

A `Fault` is brought into the process of one stage by two ways that need no help from it. A
script named ``python``, first in PATH, counts the tries and sets limits of the shell. A
``sitecustomize`` in PYTHONPATH stops, breaks or kills the process between two datasets of a
file that is being written, or between two renames.
"""

import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (products are packed)
import numpy as np
from PIL import Image

from tests.patience import PATIENCE
from tests.truth import forks

from .conftest import REPOSITORY

_PYTHON = """\
#!/bin/bash
# Stands before the real python in PATH.
if [[ "$1 $2" == "-m hklflow.stages."* ]]; then
    echo "${2#hklflow.stages.}" >> "$FAULT_FOLDER/started"
fi
if [[ "$2" == "hklflow.stages.$FAULT_STAGE" ]]; then
    [[ -z "$FAULT_LIMIT" ]] || ulimit $FAULT_LIMIT
    exec "$FAULT_PYTHON" "$@"
fi
exec "$FAULT_OTHERS" "$@"
"""

_SITECUSTOMIZE = '''
"""Breaks one stage in the middle of writing; see tests/workflow/faults.py."""
import importlib.abc, importlib.util, os, resource, signal, sys, time


def act():
    folder, deed = os.environ["FAULT_FOLDER"], os.environ["FAULT_DEED"]
    if os.environ.get("FAULT_ONCE"):
        try:
            os.close(os.open(os.path.join(folder, "done"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    with open(os.path.join(folder, f"reached.{os.getpid()}"), "w") as file:
        file.write(str(os.getpid()))
    if deed == "raise":
        raise RuntimeError("broken on purpose")
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if deed == "sleep":
        time.sleep(600)
    if deed == "wait":
        while not os.path.exists(os.path.join(folder, "go")):
            time.sleep(0.05)
    if deed == "memory":
        import numpy
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**20, size + 2**20))
        numpy.ones(2**26)


def count(done=[0]):
    done[0] += 1
    if done[0] == int(os.environ["FAULT_AFTER"]):
        act()


def break_writing(h5py):
    create = h5py.Group.create_dataset

    def create_dataset(self, *args, **kwargs):
        made = create(self, *args, **kwargs)
        if ".partial" in os.path.basename(self.file.filename):
            self.file.flush()
            count()
        return made

    h5py.Group.create_dataset = create_dataset


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "h5py":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            break_writing(module)

        spec.loader.exec_module = exec_module
        return spec


# A stage of the package, or a stage in a file of its own.
name = os.environ["FAULT_STAGE"]
if any(a == "hklflow.stages." + name or a.endswith(f"/{name}.py") for a in sys.orig_argv):
    if os.environ["FAULT_POINT"] == "dataset":
        sys.meta_path.insert(0, Finder())
    else:
        rename = os.replace

        def replace(source, target, **kwargs):
            if ".partial" in os.path.basename(source):
                count()
            rename(source, target, **kwargs)

        os.replace = replace
'''


@dataclass(frozen=True)
class Fault:
    """What goes wrong in the process of one stage."""

    stage: str
    deed: str = ""
    """`raise`, `kill`, `stop`, `sleep`, `wait` (for `Bench.go`) or `memory`; none: only `limit`."""
    point: str = "dataset"
    """`dataset`: after one was written; `rename`: before an output is put in its place."""
    after: int = 2
    """Which of them, counted from 1."""
    once: bool = False
    """Only in the first process that comes so far."""
    limit: str = ""
    """Arguments of the shell's `ulimit`."""


class Bench:
    """An experiment's folder on which snakemake runs with faults."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder = folder
        self.tools = tools
        self.children: list[subprocess.Popen[str]] = []
        tools.mkdir()
        (tools / "bin").mkdir()
        (tools / "site").mkdir()
        (tools / "bin/python").write_text(_PYTHON)
        (tools / "bin/python").chmod(0o755)
        (tools / "site/sitecustomize.py").write_text(textwrap.dedent(_SITECUSTOMIZE))

    def environment(self, fault: Fault | None = None, fork: bool = False) -> dict[str, str]:
        """Environment of a process whose stages have a fault; see `forks` for the others."""
        environment = dict(os.environ)
        before = [str(self.tools / "bin"), str(Path(sys.executable).parent), environment["PATH"]]
        environment["PATH"] = os.pathsep.join(before)
        environment["FAULT_FOLDER"] = str(self.tools)
        environment["FAULT_PYTHON"] = sys.executable
        environment["FAULT_OTHERS"] = forks.python() if fork else sys.executable
        environment["FAULT_STAGE"] = fault.stage if fault else ""
        environment["FAULT_LIMIT"] = fault.limit if fault else ""
        if fault is not None and fault.deed:
            old = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = os.pathsep.join(
                [str(self.tools / "site"), *([old] if old else [])]
            )
            environment["FAULT_DEED"] = fault.deed
            environment["FAULT_POINT"] = fault.point
            environment["FAULT_AFTER"] = str(fault.after)
            environment["FAULT_ONCE"] = "yes" if fault.once else ""
        return environment

    def start(
        self, *arguments: str, fault: Fault | None = None, fork: bool = False, **more: Any
    ) -> "subprocess.Popen[str]":
        """Start snakemake, as the leader of a process group unless it is a `fork`."""
        command = [forks.python() if fork else sys.executable, "-m", "snakemake", *arguments]
        command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(self.folder)]
        return self.process(command, fault, fork, **more)

    def process(
        self, command: list[str], fault: Fault | None = None, fork: bool = False, **more: Any
    ) -> "subprocess.Popen[str]":
        """Start any command in the experiment's folder, as the leader of a process group.

        A shell without a terminal lets what it starts in the background ignore SIGINT; a person's
        shell does not.
        """
        child = subprocess.Popen(
            ["env", "--default-signal=INT", *command],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(fault, fork),
            start_new_session=True,
            **more,
        )
        self.children.append(child)
        return child

    def run(
        self, *arguments: str, fault: Fault | None = None, **more: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run snakemake to its end; what it says is in ``stderr``."""
        (self.tools / "started").unlink(missing_ok=True)
        # Options of the process would not reach a fork.
        process = self.start(*arguments, "--cores", "2", fault=fault, fork=not more, **more)
        try:
            _, told = process.communicate(timeout=PATIENCE)
        finally:
            stop_group(process)
        return subprocess.CompletedProcess(process.args, process.returncode, None, told)

    def started(self) -> list[str]:
        """Stages whose processes the last run has started, in order, retries included."""
        path = self.tools / "started"
        return path.read_text().split() if path.exists() else []

    def caught(self, already: int = 0) -> int:
        """Wait for a stage to come to its fault; gives the process id."""

        def newest() -> list[Path]:
            assert any(child.poll() is None for child in self.children), "all have ended before"
            found = sorted(self.tools.glob("reached.*"), key=lambda p: p.stat().st_mtime_ns)
            return [path for path in found[already:] if path.read_text()]

        wait_for(lambda: bool(newest()), "a stage to come to its fault")
        return int(newest()[0].read_text())

    def go(self) -> None:
        """Let a stage with the deed `wait` go on."""
        (self.tools / "go").touch()

    def processes(self) -> list[int]:
        """Live processes that this bench has started, by their environment (zombies excepted)."""
        mark = f"FAULT_FOLDER={self.tools}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
        return found

    def clear(self) -> None:
        """End what is left of this bench's processes."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for child in self.children:
            stop_group(child)

    def partials(self) -> list[Path]:
        """Files of outputs that were never finished."""
        return [p for p in self.folder.rglob(".*") if ".partial" in p.name]


def stop_group(process: "subprocess.Popen[str]") -> None:
    """Kill a process group, if its leader lives."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.05)


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def copy_experiment(source: Path, target: Path) -> Path:
    """Copy a folder with its times, so that a finished experiment stays finished."""
    shutil.copytree(source, target, symlinks=True)
    return target


@contextmanager
def small_disk(folder: Path, size_kb: int) -> Iterator[None]:
    """A file system of its own on a folder.

    Raises
    ------
    PermissionError
        If this user may not mount one.
    """
    options = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        raise PermissionError("only root can mount a small disk")
    done = subprocess.run(options, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# ------------------------------------------------------------------------- comparison


def products(folder: Path) -> set[str]:
    """All files below a results folder but logs and benchmarks."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in {"logs", "benchmarks"}
    }


def differences(first: Path, second: Path) -> list[str]:
    """Say how two results folders differ; only times and what follows from them are left out.

    These are ``seconds``, and the time in an MTZ file; in a provenance record ``started``, how an
    input stands on the disk, and the hash of an input that has such records itself; in NeXus also
    the ``date`` of an NXprocess.
    """
    here, there = products(first), products(second)
    found = [f"{name} is in one only" for name in sorted(here ^ there)]
    for name in sorted(here & there):
        a, b = first / name, second / name
        if filecmp.cmp(a, b, shallow=False) and not (a.suffix == ".nxs" and _shows_others(a)):
            continue
        if a.suffix == ".nxs":
            found += [f"{name}: {told}" for told in _hdf5_differences(a, b)]
        elif a.suffix == ".json":
            if _timeless(json.loads(a.read_text())) != _timeless(json.loads(b.read_text())):
                found.append(f"{name} differs")
        elif _shown(a) != _shown(b):
            found.append(f"{name} differs")
    return found


def _shown(path: Path) -> Any:
    """What a person sees of a file: not the records in pictures and pages."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            return image.size, image.mode, image.tobytes()
    data = path.read_bytes()
    if path.suffix == ".mtz":
        return re.sub(rb"CREATED_[\d/:_]+", b"", data)
    return data.partition(b"<!-- hklflow {")[0] if path.suffix == ".html" else data


def _timeless(data: Any) -> Any:
    """JSON without the times of provenance records, and without seconds."""
    if isinstance(data, list):
        return [_timeless(item) for item in data]
    if not isinstance(data, dict):
        return data
    kept = {key: _timeless(item) for key, item in data.items() if key != "seconds"}
    if "provenance" in data:
        kept["provenance"] = [_timeless_record(r) for r in data["provenance"]]
    return kept


def _timeless_record(record: dict[str, Any]) -> dict[str, Any]:
    """A provenance record without times and without hashes of what has such records."""
    kept = {key: value for key, value in record.items() if key not in {"started", "seconds"}}
    kept["inputs"] = {
        field: [_lasting(item) for item in items] for field, items in record["inputs"].items()
    }
    kept["sources"] = [_lasting(item) for item in record.get("sources", ())]
    return kept


def _lasting(item: dict[str, Any]) -> dict[str, Any]:
    """Path of an input, and its hash if it holds no times."""
    names = ["path"] if _has_history(item["path"]) else ["path", "sha256", "sampled"]
    return {name: item[name] for name in names}


def _has_history(path: str) -> bool:
    of_results = re.match(r"results(_binned\d)?/", path) is not None
    return of_results and path.endswith((".nxs", ".json", ".png", ".html"))


def _shows_others(path: Path) -> bool:
    """Whether a file shows data of other files, which its own bytes do not hold."""

    def virtual(_: str, item: Any) -> bool | None:
        return True if isinstance(item, h5py.Dataset) and item.is_virtual else None

    with h5py.File(path) as file:
        return bool(file.visititems(virtual))


def _hdf5_differences(a: Path, b: Path) -> list[str]:
    with h5py.File(a) as first, h5py.File(b) as second:
        one, two = _content(first), _content(second)
    found = [f"{name} is in one only" for name in sorted(one.keys() ^ two.keys())]
    return found + [
        f"{name} differs" for name in sorted(one.keys() & two.keys()) if one[name] != two[name]
    ]


def _content(group: h5py.Group) -> dict[str, Any]:
    """Everything in a file, by name: bytes of datasets, attributes, links (not followed)."""
    found: dict[str, Any] = {f"{group.name}@{k}": _plain(v) for k, v in group.attrs.items()}
    for name in group:
        link = group.get(name, getlink=True)
        path = f"{group.name.rstrip('/')}/{name}"
        if isinstance(link, h5py.ExternalLink):
            found[path] = ("external", link.filename, link.path)
        elif isinstance(link, h5py.SoftLink):
            found[path] = ("soft", link.path)
        elif isinstance(item := group[name], h5py.Group):
            found[path] = "group"
            found |= _content(item)
        else:
            found |= {f"{path}@{k}": _plain(v) for k, v in item.attrs.items()}
            found[path] = _dataset(path, item)
    return found


def _dataset(path: str, dataset: h5py.Dataset) -> Any:
    if "/workflow/process_" in path and path.endswith("/date"):
        return "date"
    value = _plain(dataset[()])
    if "/workflow/process_" in path and path.endswith("/record/data"):
        return _timeless_record(json.loads(value))
    if isinstance(value, str) and '"provenance"' in value:
        return _timeless(json.loads(value))
    return (str(dataset.dtype), dataset.shape, dataset.chunks, value)


def _plain(value: Any) -> Any:
    """Something that compares bit by bit (NaN equals NaN)."""
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype.hasobject else (str(value.dtype), value.tobytes())
    if isinstance(value, np.generic):
        return (str(value.dtype), value.tobytes())
    return value.decode() if isinstance(value, bytes) else value
