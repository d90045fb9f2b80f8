"""A process that has imported everything and forks for each job, so that a job need not import.

    python -m tests.truth.forks ADDRESS PROCESS

Starting Python and importing takes most of the time of so small a job. `path` begins with a folder
whose ``python`` hands ``python -m`` of snakemake, hklflow.cli and hklflow.stages.NAME over to the
process, which forks. Each job is a process of its own, with the arguments, folder, environment and
files of its caller, but not in its caller's process group: a test that sends signals to a group
starts a new Python instead.
"""

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from tests.truth import pictures

REPOSITORY = Path(__file__).parents[2]

#: Environment variable: if it is set, a forked job writes blank pictures.
BLANK = "HKLFLOW_TEST_BLANK_PICTURES"

_CLIENT = """\
#!{python} -ISE
import json, os, socket, sys

if {command!r}:
    sys.argv[1:1] = ["-m", {command!r}]
name = sys.argv[2] if sys.argv[1:2] == ["-m"] and len(sys.argv) > 2 else ""
if name not in {modules!r} and name != {command!r} and not name.startswith("hklflow.stages."):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    words = json.dumps([os.getcwd(), sys.argv[2:], dict(os.environ)]).encode()
    socket.send_fds(server, [len(words).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(words)
    answer = server.recv(1)
os._exit(answer[0] if answer else 1)
"""

#: Modules that are run by a fork, and all stages.
_FORKED = ("snakemake", "hklflow.cli", "tests.slurm.impatient")

#: The process that forks, if this one has started it; nobody waits for it.
_KEPT: list["subprocess.Popen[bytes]"] = []

#: Modules that jobs import when they need them; those of hklflow are added.
_MODULES = (
    *("numba", "hdf5plugin", "fabio", "matplotlib.pyplot", "PIL.PngImagePlugin", "cyclopts"),
    *("scipy.fft", "scipy.interpolate", "scipy.linalg", "scipy.ndimage", "scipy.optimize"),
    *("scipy.signal", "scipy.sparse", "scipy.spatial", "scipy.special", "scipy.stats"),
    *("snakemake.cli", "snakemake.api", "snakemake.workflow", "snakemake.dag"),
    *("snakemake.scheduling.greedy", "snakemake.executors.local", "snakemake.report"),
    *("smart_open", "jinja2", "requests", "snakemake.report.html_reporter"),
    *("cctbx.sgtbx", "cctbx.uctbx", "cctbx.array_family.flex"),
)


@functools.cache
def tools() -> Path:
    """Return the folder of the clients of the process that forks.

    The processes of a test run share one, which takes 8 s of CPU to start; it ends with the run.
    """
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    # The name of a socket must be short: a folder of its own, not one of pytest's.
    folder = Path(tempfile.gettempdir()) / f"hklflow-{os.getuid()}-{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _serves(folder / "jobs"):
            _start(folder, owner)
    return folder


def _serves(address: Path) -> bool:
    """Whether a process listens there: its number may have been that of an earlier test run."""
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(str(address))
        except OSError:
            return False
    return True


def _start(folder: Path, owner: int) -> None:
    address = folder / "jobs"
    address.unlink(missing_ok=True)
    for name, command in (
        ("bin/python", ""),
        ("commands/python", ""),
        ("commands/hklflow", str(Path(sys.executable).parent / "hklflow")),
        ("commands/snakemake", str(Path(sys.executable).parent / "snakemake")),
    ):
        client = folder / name
        client.parent.mkdir(exist_ok=True)
        words = {"python": sys.executable, "address": str(address), "command": command}
        text = _CLIENT.format(**words, modules=_FORKED)
        client.write_text(text)
        client.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.truth.forks", str(address), str(owner)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env=os.environ | {"MPLBACKEND": "Agg"},
        start_new_session=True,
    )
    _KEPT.append(process)
    assert process.stdout
    with process.stdout as told:
        assert told.readline() == b"ready\n", "the process that forks has ended"


def python() -> str:
    """Return the ``python`` that forks."""
    return str(tools() / "bin" / "python")


def path(*, commands: bool = False) -> str:
    """Return the PATH of a user whose ``python`` forks, and whose hklflow and snakemake too."""
    first = tools() / ("commands" if commands else "bin")
    return os.pathsep.join([str(first), str(Path(sys.executable).parent), os.environ["PATH"]])


def _run(client: str, folder: str, words: list[str], environment: dict[str, str]) -> int:
    """Run a module as ``python -m`` does; its exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = client  # for snakemake, which starts Python for each job of a cluster
    sys.argv, sys.path[0] = words, folder
    if words[0].startswith("hklflow.stages."):  # the others are packages, not main modules
        del sys.modules[words[0]]
    code = 0
    with pictures.blank_pictures() if environment.get(BLANK) else contextlib.nullcontext():
        try:
            if Path(words[0]).is_absolute():
                runpy.run_path(words[0], run_name="__main__")
            else:
                runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:  # noqa: BLE001  (as Python itself does)
            traceback.print_exc()
            code = 1
    # As Python ends, but for the memory.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _serve(caller: socket.socket, client: str) -> None:
    """Fork the job of a caller, and tell the caller its exit code."""
    size, files, _, _ = socket.recv_fds(caller, 8, 3)
    if not size:  # `_serves` has asked
        return
    left, text = int.from_bytes(size, "big"), b""
    while len(text) < left:
        text += caller.recv(left - len(text))
    job = os.fork()
    if job == 0:
        caller.close()
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os._exit(_run(client, *json.loads(text)))
    # A caller that is killed takes its job along.
    done = os.pidfd_open(job)
    if done not in select.select([done, caller], [], [])[0]:
        os.kill(job, signal.SIGKILL)
    _, status = os.waitpid(job, 0)
    caller.sendall(bytes([os.waitstatus_to_exitcode(status) & 255]))


def _use_once() -> None:
    """Do once what every first kernel, first picture and first start of snakemake does."""
    import numba
    import snakemake.cli
    from matplotlib import pyplot

    snakemake.cli.get_argument_parser()

    numba.njit(lambda x: x + 1)(1)
    figure, axes = pyplot.subplots(1, 2, layout="constrained")
    axes[0].imshow([[1.0, 2.0]], norm="log")
    axes[1].plot([1.0, 2.0], label="$x$")
    axes[1].legend()
    figure.savefig(io.BytesIO(), format="png")
    pyplot.close(figure)


def _main(address: str, owner: int) -> None:
    """Serve callers until the test run ends, then end all jobs."""
    run = os.pidfd_open(owner)
    source = REPOSITORY / "src"
    own = [
        ".".join(file.relative_to(source).with_suffix("").parts)
        for file in sorted(source.glob("hklflow/*/*.py"))
        if file.parent.name != "dials" and file.name != "__init__.py"
    ]
    for name in (*_MODULES, *own):
        importlib.import_module(name)
    _use_once()
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([server, run], [], [])
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if run in ready:
                shutil.rmtree(Path(address).parent)
                os.killpg(0, signal.SIGKILL)
            caller, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _serve(caller, str(Path(address).parent / "bin/python"))
                os._exit(0)
            caller.close()


if __name__ == "__main__":
    import hklflow  # noqa: F401  (first: it makes cctbx safe to import)

    _main(sys.argv[1], int(sys.argv[2]))
