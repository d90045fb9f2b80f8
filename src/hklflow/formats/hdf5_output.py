"""Write HDF5 files such that a full disk ends with an error, never with a crash.

If a write fails, HDF5 keeps the data, tries again as each object of the file is closed, and crashes
the process (SIGSEGV) if that fails too, often before any message. So HDF5 must never see a failure:
`hdf5_output` gives it a file that stores the first error, drops all later data, and raises the
error after HDF5 has closed the file.
"""

import io
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

_open: "set[_Disk]" = set()


class _Disk:
    """File object for h5py whose methods never fail; see `error`.

    All that h5py calls is compiled code or a step of a generator: Python raises KeyboardInterrupt
    at the start of a Python function, where nothing could hide it from HDF5.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        self.error: BaseException | None = None
        """The first error, or None."""
        self._raw = io.FileIO(path, {"w": "w+", "r+": "r+"}[mode])
        self.seek, self.tell, self.flush = self._raw.seek, self._raw.tell, self._raw.flush
        self.read, self.readinto = self._raw.read, self._raw.readinto
        self.write = self._never_failing(self._write_all)
        self.truncate = self._never_failing(self._raw.truncate)

    def __repr__(self) -> str:
        return str(self.path)  # h5py uses this as the name of the file

    def _never_failing(self, action: Callable[[Any], object]) -> Callable[[Any], None]:
        steps = self._steps(action)
        next(steps)
        return steps.send

    def _steps(self, action: Callable[[Any], object]) -> Generator[None, Any, None]:
        while True:
            try:
                argument = yield
                if self.error is None:
                    action(argument)
            except GeneratorExit:
                return
            except BaseException as error:  # noqa: BLE001  (raised by `require_written`)
                self._keep(error)

    def _keep(self, error: BaseException) -> None:
        if isinstance(error, OSError):
            error.filename = str(self.path)
        self.error = self.error or error

    def _write_all(self, data: memoryview) -> None:
        done = 0
        while done < len(data):  # an almost full disk writes a part
            done += self._raw.write(data[done:]) or 0

    def close(self) -> None:
        """Close the file; a file server may report only here that it is full."""
        try:
            self._raw.close()
        except OSError as error:
            self._keep(error)


@contextmanager
def hdf5_output(path: Path, mode: str = "w", **options: Any) -> "Iterator[h5py.File]":
    """Open a file for writing ("w") or for adding to it ("r+").

    Raises
    ------
    OSError
        If a write failed, at the latest when the file is closed.
    """
    import h5py

    disk = _Disk(path, mode)
    _open.add(disk)
    try:
        with h5py.File(disk, mode, **options) as file:
            yield file
    except BaseException:
        # The error may follow from data that HDF5 believed to be written.
        if disk.error is None:
            raise
    finally:
        _open.discard(disk)
        disk.close()
    if disk.error is not None:
        raise disk.error


@contextmanager
def closed_on_failure(output: AbstractContextManager[Any]) -> Iterator[None]:
    """Close an output if its writer fails outside its own `with` block.

    Raises
    ------
    OSError
        If a write failed: the error of the writer follows from it.
    """
    try:
        yield
    except BaseException:
        output.__exit__(*sys.exc_info())
        raise


def require_written() -> None:
    """Raise the first error of a file that is being written: further work would be useless.

    Raises
    ------
    OSError
        If a write failed.
    """
    for disk in tuple(_open):  # another thread may open one
        if disk.error is not None:
            raise disk.error
