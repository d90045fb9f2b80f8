"""Compiled kernels: a folder for each state of the sources, where it can be written to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hklflow.base import kernel_cache
from hklflow.experiment import warm
from tests.patience import PATIENCE
from tests.privilege import without_privilege_to_read_all

CODE = """
import sys
from pathlib import Path
sys.path.insert(0, {source!r})
import importlib.util
spec = importlib.util.spec_from_file_location("kernel_cache", {source!r} + "/kernel_cache.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.choose(Path({package!r}))
import os
print(os.environ.get("NUMBA_CACHE_DIR"))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a kernel, what it uses, and a module without kernels."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "kernel.py").write_text("import numba\nfrom package.words import WORD\n")
    (folder / "words.py").write_text("from llvmlite import ir\nWORD = 1\n")
    (folder / "plain.py").write_text("A = 1\n")
    return folder


def chosen(package: Path, tmp_path: Path, **environment: str) -> Path:
    """The folder that a new process chooses, without root's privileges."""
    source = str(Path(kernel_cache.__file__).parent)
    given = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), **environment}
    run = subprocess.run(
        [sys.executable, "-c", CODE.format(source=source, package=str(package))],
        capture_output=True,
        text=True,
        check=True,
        env=given,
        preexec_fn=without_privilege_to_read_all,
    )
    return Path(run.stdout.strip())


@pytest.mark.parametrize(
    "line",
    ["from llvmlite import ir", "from hklflow.simd.value import Value", "from numba import types"],
)
def test_every_state_of_the_kernels_has_its_folder(
    package: Path, tmp_path: Path, line: str
) -> None:
    (package / "words.py").write_text(f"{line}\nWORD = 1\n")
    first = chosen(package, tmp_path)
    assert first.parent == package / "__pycache__"
    assert first.is_dir()
    assert chosen(package, tmp_path) == first
    (package / "plain.py").write_text("A = 2\n")
    assert chosen(package, tmp_path) == first
    # The kernel's own file is as it was, which is all that numba looks at.
    (package / "words.py").write_text(f"{line}\nWORD = 2\n")
    assert chosen(package, tmp_path) != first
    (package / "words.py").write_text(f"{line}\nWORD = 1\n")
    assert chosen(package, tmp_path) == first


def test_what_the_user_says_stands(package: Path, tmp_path: Path) -> None:
    assert chosen(package, tmp_path, NUMBA_CACHE_DIR="/elsewhere") == Path("/elsewhere")


def test_a_package_that_cannot_be_written_to(package: Path, tmp_path: Path) -> None:
    package.chmod(0o555)
    home = tmp_path / "home"
    assert chosen(package, tmp_path).parent == home / ".cache/hklflow"
    cache = tmp_path / "cache"
    found = chosen(package, tmp_path, XDG_CACHE_HOME=str(cache))
    assert found.parent == cache / "hklflow"
    # No home either, as in a container.
    home.chmod(0o555)
    (home / ".cache").chmod(0o555)
    (home / ".cache/hklflow").chmod(0o555)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (package / "words.py").write_text("from llvmlite import ir\nWORD = 3\n")
    found = chosen(package, tmp_path, TMPDIR=str(temporary))
    assert found.parent == temporary / f"hklflow-{os.getuid()}"
    assert found.stat().st_mode & 0o077 == 0


def test_the_package_itself_uses_it() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import hklflow, os; print(os.environ['NUMBA_CACHE_DIR'])"],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"},
    )
    assert "kernels-" in run.stdout


# ------------------------------------------------------------------- compiled beforehand

ENSURE = """
import sys, time
from hklflow.stage import kernels

def run(command, **more):
    with open(sys.argv[1], "a") as file:
        file.write(" ".join(command[1:]) + chr(10))
    time.sleep(0.5)
    if sys.argv[2] == "0":
        kernels.marker("constants").touch()

kernels.subprocess.run = run
kernels.ensure("constants")
"""


def ensured(tmp_path: Path, processes: int, returncode: int) -> list[str]:
    """What is compiled when as many processes ask for the kernels of a group at once."""
    log = tmp_path / "log"
    cache = tmp_path / "cache"
    cache.mkdir(exist_ok=True)
    command = [sys.executable, "-c", ENSURE, str(log), str(returncode)]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    asking = [subprocess.Popen(command, env=environment) for _ in range(processes)]
    assert [process.wait(PATIENCE) for process in asking] == [0] * processes
    return log.read_text().splitlines()


def test_kernels_of_a_group_are_compiled_once(tmp_path: Path) -> None:
    once = ["-m hklflow.experiment.warm constants"]
    assert ensured(tmp_path, processes=3, returncode=0) == once
    assert ensured(tmp_path, processes=1, returncode=0) == once


def test_a_compilation_that_failed_is_tried_again(tmp_path: Path) -> None:
    assert len(ensured(tmp_path, processes=1, returncode=1)) == 1
    assert len(ensured(tmp_path, processes=1, returncode=0)) == 2
    assert len(ensured(tmp_path, processes=1, returncode=0)) == 2


def test_what_is_compiled_waits_for_what_is_there() -> None:
    found = warm.tasks(("frames", "constants"))
    assert {"uint32: peaks", "int32: integration", "float32: volumes"} <= found.keys()
    ended: set[str] = set()
    while ready := {n for n, task in found.items() if n not in ended and ended >= set(task.after)}:
        ended |= ready
    assert ended == found.keys()
    with pytest.raises(ValueError, match="no kernels are called 'frame'"):
        warm.tasks(("frame",))
