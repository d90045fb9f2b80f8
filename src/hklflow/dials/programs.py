"""The programs of DIALS: where they are, which version, and how they are run.

They run in a folder of their own, see nothing of hklflow's Python, and end with their product or
with a sentence.
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

#: Oldest version whose files and options are known.
MIN_VERSION = (3, 12)
_NEWEST = 10**6  # minor version of a build of the development branch

_GET = (
    "get it with `apt-get install dials` or `conda env create -f envs/dials.yaml`, or say where it "
    "is by `dials: prefix` (see docs/dials.md)"
)
# What would lead Python or the loader of DIALS to modules that are not its own.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "LD_PRELOAD")


@dataclass(frozen=True)
class Dials:
    """DIALS as found on this machine; made by `find`.

    Attributes
    ----------
    prefix : Path or None
        Folder of the programs; None: PATH.
    version : (major, minor)
    label : str
        The version as DIALS tells it, as ``DIALS 3.12``.
    environment : dict
        In which its programs are run.
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
            As ``dials.index``.
        arguments : sequence
        folder : Path
            Where it runs; what it says goes to ``<program>.out`` there.
        products : str
            Names of files that it must have made in the folder.

        Returns
        -------
        products : list of Path

        Raises
        ------
        HklflowError
            If it fails, or ends without a product; the sentence says what DIALS said.
        """
        for product in products:
            (folder / product).unlink(missing_ok=True)
        said = folder / f"{program}.out"
        start = time.monotonic()
        print(f"{program}: running", file=sys.stderr, flush=True)
        with said.open("w") as out:
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
        # Some programs say 0 when they found nothing and wrote nothing.
        missing = [name for name in products if not (folder / name).exists()]
        if code or missing:
            what = f"failed (exit code {code})" if code else f"ended without {missing[0]}"
            raise HklflowError(f"{program} {what}: {_complaint(said)}; its log is {said}")
        print(
            f"{program}: done after {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True
        )
        return [folder / name for name in products]


def find(prefix: Path | None = None) -> Dials:
    """Find DIALS and ask for its version.

    Parameters
    ----------
    prefix : Path, optional
        Folder of the programs; None: PATH.

    Raises
    ------
    HklflowError
        If it is absent, broken or older than `MIN_VERSION`; the sentence says how to get it.
    """
    asked = _program("dials.version", prefix)
    environment = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
    environment["MPLBACKEND"] = "Agg"
    if prefix is not None:
        environment["PATH"] = f"{prefix.absolute()}{os.pathsep}{environment.get('PATH', '')}"
    try:
        done = subprocess.run(
            [asked], env=environment, capture_output=True, text=True, check=False, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HklflowError(f"{asked} cannot be run ({error}); {_GET}") from error
    told = re.search(r"DIALS\s+(\d+)\.(\d+|dev)\S*", done.stdout)
    if done.returncode or told is None:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise HklflowError(f"{asked} told no version but {said!r}; mend this DIALS, or {_GET}")
    version = (int(told[1]), _NEWEST if told[2] == "dev" else int(told[2]))
    if version < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        raise HklflowError(f"{asked} is {told[0]}, older than {least}; {_GET}")
    if "HDF5_PLUGIN_PATH" not in environment and "Installed in: /usr/" in done.stdout:
        # A distribution's HDF5 knows no filters of detectors; conda's DIALS brings its own.
        import hdf5plugin

        environment["HDF5_PLUGIN_PATH"] = hdf5plugin.PLUGIN_PATH
    return Dials(prefix, version, told[0], environment)


def _program(name: str, prefix: Path | None) -> str:
    """Path of a program."""
    found = shutil.which(name, path=None if prefix is None else str(prefix.absolute()))
    if found is None:
        where = "on PATH" if prefix is None else f"in {prefix}"
        raise HklflowError(f"DIALS is needed but there is no {name} {where}; {_GET}")
    return found


def _complaint(said: Path) -> str:
    """What a program said last that looks like an error, else its last line."""
    lines = [line.strip() for line in said.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if re.match(r"(Sorry|Usage)\b|.*(Error|Exception)\b", line)]
    return (errors or lines or ["it said nothing"])[-1][:300]


@contextmanager
def workspace(name: str) -> Iterator[Path]:
    """Give a temporary folder for runs of DIALS; of one that failed the texts are kept.

    It vanishes too if this process is told to end (SIGTERM).
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
    signal.signal(number, signal.SIG_IGN)  # told twice, what is left is still removed
    sys.exit(128 + number)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let a request to end be an exception, so that what has to be removed is removed."""
    # Other threads may set no handlers, and the outermost of nested ones is enough.
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
    """Run a program and what it starts; all of it ends when this process is told to end."""
    with _ending_in_order():
        process = subprocess.Popen(command, start_new_session=True, **options)
        try:
            return process.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
