"""Programs of DIALS: find them, check their version, and run them.

The programs run in a separate folder, without the Python environment of hklflow. Each run ends with
its products or with an error message.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError

#: Oldest supported version.
MIN_VERSION = (3, 12)
_NEWEST = 10**6  # minor version used for builds of the development branch

_GET = (
    "get it with `apt-get install dials` or `conda env create -f envs/dials.yaml`, or set its "
    "folder in `dials: prefix` (see docs/dials.md)"
)
# Environment variables with which Python or the loader of DIALS would use wrong modules.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "LD_PRELOAD")


@dataclass(frozen=True)
class Dials:
    """DIALS on this machine; `find` creates this object.

    Attributes
    ----------
    prefix : Path or None
        Folder of the programs. None: the programs are on PATH.
    version : (major, minor)
    label : str
        Version as printed by DIALS, such as ``DIALS 3.12``.
    environment : dict
        Environment variables for the programs of DIALS.
    """

    prefix: Path | None
    version: tuple[int, int]
    label: str
    environment: dict[str, str]

    def run(
        self, program: str, arguments: Sequence[str | Path], folder: Path, *products: str
    ) -> list[Path]:
        """Run one program in a folder.

        Parameters
        ----------
        program : str
            Name, such as ``dials.index``.
        arguments : sequence
        folder : Path
            Working folder; the output is written to ``<program>.out`` there.
        products : str
            Names of files that the program must create in the folder.

        Returns
        -------
        products : list of Path

        Raises
        ------
        HklflowError
            If the program fails, or ends without a product; the message contains the error of
            DIALS.
        """
        for product in products:
            (folder / product).unlink(missing_ok=True)
        log = folder / f"{program}.out"
        start = time.monotonic()
        print(f"{program}: running", file=sys.stderr, flush=True)
        with log.open("w") as out:
            try:
                code = _run(
                    [_program(program, self.prefix), *map(str, arguments)],
                    cwd=folder,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            except OSError as error:
                raise HklflowError(
                    f"{program} of {self.label} cannot be run ({error}); {_GET}"
                ) from error
        # Some programs exit with code 0 although they found and wrote nothing.
        missing = [name for name in products if not (folder / name).exists()]
        if code or missing:
            what = f"failed (exit code {code})" if code else f"ended without {missing[0]}"
            raise HklflowError(f"{program} {what}: {_complaint(log)}; its log is {log}")
        print(
            f"{program}: done after {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True
        )
        return [folder / name for name in products]


def find(prefix: Path | None = None) -> Dials:
    """Find DIALS and read its version.

    Parameters
    ----------
    prefix : Path, optional
        Folder of the programs. None: the programs on PATH.

    Raises
    ------
    HklflowError
        If DIALS is absent, does not run or is older than `MIN_VERSION`. The message gives the
        command to install it.
    """
    program = _program("dials.version", prefix)
    environment = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
    environment["MPLBACKEND"] = "Agg"
    if prefix is not None:
        environment["PATH"] = f"{prefix.absolute()}{os.pathsep}{environment.get('PATH', '')}"
    try:
        done = subprocess.run(
            [program], env=environment, capture_output=True, text=True, check=False, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HklflowError(f"{program} cannot be run ({error}); {_GET}") from error
    match = re.search(r"DIALS\s+(\d+)\.(\d+|dev)\S*", done.stdout)
    if done.returncode or match is None:
        output = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise HklflowError(
            f"{program} printed no version but {output!r}; correct this DIALS, or {_GET}"
        )
    version = (int(match[1]), _NEWEST if match[2] == "dev" else int(match[2]))
    if version < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        raise HklflowError(f"{program} is {match[0]}, older than {least}; {_GET}")
    if "HDF5_PLUGIN_PATH" not in environment and "Installed in: /usr/" in done.stdout:
        # The HDF5 of a Linux distribution has no filters for detectors; DIALS from conda has them.
        import hdf5plugin

        environment["HDF5_PLUGIN_PATH"] = hdf5plugin.PLUGIN_PATH
    return Dials(prefix, version, match[0], environment)


def _program(name: str, prefix: Path | None) -> str:
    """Return the path of a program."""
    path = shutil.which(name, path=None if prefix is None else str(prefix.absolute()))
    if path is None:
        where = "on PATH" if prefix is None else f"in {prefix}"
        raise HklflowError(f"DIALS is needed but there is no {name} {where}; {_GET}")
    return path


def _complaint(log: Path) -> str:
    """Return the last line of the output that looks like an error; if none, the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if re.match(r"(Sorry|Usage)\b|.*(Error|Exception)\b", line)]
    return (errors or lines or ["it printed nothing"])[-1][:300]


@contextmanager
def workspace(name: str) -> Iterator[Path]:
    """Yield a temporary folder for runs of DIALS; keep the logs of a failed run.

    The folder is also removed if this process is terminated (SIGTERM).
    """
    with _ending_in_order():
        folder = Path(tempfile.mkdtemp(prefix=f"hklflow_{name}_"))
        try:
            yield folder
        except HklflowError:
            for path in folder.iterdir():
                if path.suffix not in {".out", ".log"}:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()
            raise
        except BaseException:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def _end(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not stop the removal
    sys.exit(128 + number)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Convert a request to terminate to an exception, so that files and processes are removed."""
    # Only the main thread may set handlers. If calls are nested, the outermost handler is enough.
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if not main or before is _end:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _run(command: list[str], **options: Any) -> int:
    """Run a program; terminate it and its child processes if this process is terminated."""
    with _ending_in_order():
        process = subprocess.Popen(command, start_new_session=True, **options)
        try:
            return process.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
