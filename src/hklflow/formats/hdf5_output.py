"""HDF5 files that are written: a full disk ends with an error, never with a crash.

HDF5 keeps what it could not write, tries again as each object of the file is closed, and ends the
process (SIGSEGV) when that fails too, often before anything was said. It therefore never learns of
a failure: `hdf5_output` puts a file between them that keeps the first error to itself, drops what
comes later, and raises the error once HDF5 has closed the file.
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
    """A file as h5py takes it, whose writing never fails; see `error`.

    All that h5py calls is compiled, or the step of a generator: Python delivers Control-C as a
    function begins, where nothing could keep it from HDF5.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        self.error: BaseException | None = None
        """What went wrong first."""
        self._raw = io.FileIO(path, {"w": "w+", "r+": "r+"}[mode])
        self.seek, self.tell, self.flush = self._raw.seek, self._raw.tell, self._raw.flush
        self.read, self.readinto = self._raw.read, self._raw.readinto
        self.write = self._never_failing(self._write_all)
        self.truncate = self._never_failing(self._raw.truncate)

    def __repr__(self) -> str:
        return str(self.path)  # h5py's name of the file

    def _never_failing(self, deed: Callable[[Any], object]) -> Callable[[Any], None]:
        steps = self._steps(deed)
        next(steps)
        return steps.send

    def _steps(self, deed: Callable[[Any], object]) -> Generator[None, Any, None]:
        while True:
            try:
                argument = yield
                if self.error is None:
                    deed(argument)
            except GeneratorExit:
                return
            except BaseException as error:  # noqa: BLE001  (kept, and raised by `require_written`)
                self._keep(error)

    def _keep(self, error: BaseException) -> None:
        if isinstance(error, OSError):
            error.filename = str(self.path)
        self.error = self.error or error

    def _write_all(self, data: memoryview) -> None:
        done = 0
        while done < len(data):  # a disk with a little room takes a part
            done += self._raw.write(data[done:]) or 0

    def close(self) -> None:
        """Close the file; a file server may say only here that it is full."""
        try:
            self._raw.close()
        except OSError as error:
            self._keep(error)


@contextmanager
def hdf5_output(path: Path, mode: str = "w", **options: Any) -> "Iterator[h5py.File]":
    """Open a file to write ("w") or to add to it ("r+").

    Raises
    ------
    OSError
        If something could not be written, at the latest as the file is closed.
    """
    import h5py

    disk = _Disk(path, mode)
    _open.add(disk)
    try:
        with h5py.File(disk, mode, **options) as file:
            yield file
    except BaseException:
        # HDF5 may have stumbled over what it believed to be written.
        if disk.error is None:
            raise
    finally:
        _open.discard(disk)
        disk.close()
    if disk.error is not None:
        raise disk.error


@contextmanager
def closed_on_failure(output: AbstractContextManager[Any]) -> Iterator[None]:
    """Close an output whose writer fails before or after its own `with` block.

    Raises
    ------
    OSError
        If something could not be written: the failure of the writer follows from it.
    """
    try:
        yield
    except BaseException:
        output.__exit__(*sys.exc_info())
        raise


def require_written() -> None:
    """Raise what went wrong with a file that is being written: the rest of the work is in vain.

    Raises
    ------
    OSError
        If something could not be written.
    """
    for disk in tuple(_open):  # another thread may open one
        if disk.error is not None:
            raise disk.error
