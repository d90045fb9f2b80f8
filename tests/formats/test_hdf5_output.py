"""HDF5 files that find no room end with an error: no crash, nothing on the screen, no litter."""

import errno
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.patience import PATIENCE

from hklflow import nexus, stage
from hklflow.formats import hdf5_output as hdf5_output_module
from hklflow.formats.hdf5_output import hdf5_output, require_written
from hklflow.formats.write_images import write_image
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.grid import Grid


@contextmanager
def limit_of_file_size(size: int) -> Iterator[None]:
    """Limit the size of files, as `ulimit -f` does; to write more is an error like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _fill(file: h5py.File) -> None:
    """Groups, attributes and packed arrays, as products have."""
    for i in range(10):
        group = file.create_group(f"group_{i}")
        group.attrs["units"] = "degree"
        group["number"] = i
        group.create_dataset("x", data=np.arange(2000) * i, compression="gzip")


def test_a_file_holds_what_was_written_and_added(tmp_path: Path) -> None:
    path = tmp_path / "Größe.h5"
    with hdf5_output(path, libver=("earliest", "v110")) as file:
        _fill(file)
    with hdf5_output(path, "r+") as file:
        del file["group_3"]
        file["more"] = "text"
    with h5py.File(path) as file:
        assert len(file) == 10
        assert file["more"][()] == b"text"
        assert np.array_equal(file["group_9/x"][()], np.arange(2000) * 9)


@pytest.mark.slow
def test_no_size_of_the_room_crashes() -> None:
    """In a process of its own: without `hdf5_output` it dies of SIGSEGV at nearly every size."""
    command = [sys.executable, "-m", "tests.formats.test_hdf5_output"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    names = ("_write_file", "_write_volume", "_write_mask")
    assert set(done.stdout.splitlines()) == {
        f"{name} {outcome}" for name in names for outcome in ("EFBIG", "complete")
    }


def test_the_error_names_the_file_and_is_raised_at_once_by_a_loop(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    done = []

    def write() -> None:
        with hdf5_output(path) as file:
            for i in stage.progress(range(50), 50, "slabs"):
                file[f"{i}"] = np.random.default_rng(i).random(10_000)
                file.flush()
                done.append(i)

    with limit_of_file_size(400_000), pytest.raises(OSError, match="File too large") as caught:
        write()
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert 2 < len(done) < 8
    require_written()  # the file is closed and forgotten


@pytest.mark.parametrize(
    ("write", "stumbles"),
    [("_write_volume", "grid_writer.add_array"), ("_write_mask", "masks.add_array")],
)
def test_a_writer_that_stumbles_over_what_is_missing_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str, stumbles: str
) -> None:
    """Before or after the block of its `with`, where nothing closes the file but the writer."""

    def stumble(group: h5py.Group, *_: object, **__: object) -> None:
        group.file.flush()
        raise OSError("bad heap index")

    monkeypatch.setattr(f"hklflow.nexus.{stumbles}", stumble)
    with limit_of_file_size(0), pytest.raises(OSError, match="File too large"):
        globals()[write](tmp_path / "a.nxs")
    require_written()


def test_an_interrupt_comes_once_the_file_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 never gets it: a file that failed to write a piece does not close."""
    monkeypatch.setattr(
        hdf5_output_module._Disk, "_write_all", lambda *_: signal.raise_signal(signal.SIGINT)
    )

    def write() -> None:
        with hdf5_output(tmp_path / "a.h5") as file:
            _fill(file)

    # Who was started in the background has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            write()
    finally:
        signal.signal(signal.SIGINT, before)
    require_written()


def test_raw_frames_without_room_leave_no_file(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 2**31, (4, 100, 100), dtype=np.uint32)

    def write() -> None:
        with NXmxWriter(tmp_path / "a.nxs", NXmxHeader(shape=(100, 100), n_frames=4)) as writer:
            writer.append(frames)

    with limit_of_file_size(50_000), pytest.raises(OSError, match="File too large"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".tif", ".cbf"])
def test_an_image_without_room_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    image = np.random.default_rng(1).integers(0, 2**30, (100, 100), dtype=np.int32)
    with limit_of_file_size(5000), pytest.raises(OSError, match="File too large"):
        write_image(tmp_path / f"a{suffix}", image)
    assert list(tmp_path.iterdir()) == []


def _write_file(path: Path) -> None:
    with hdf5_output(path) as file:
        _fill(file)


def _write_volume(path: Path) -> None:
    """Two volumes one after the other: the second may find no room for a name."""
    grid = Grid((0, 0, 0), (0.5, 0.5, 0.5), (8, 8, 8))
    values = np.random.default_rng(1).random(grid.array_shape).astype(np.float32)
    for _ in range(2):
        with nexus.GridWriter(path, grid, np.array([4.0] * 3 + [90.0] * 3), "S", _TYPES) as writer:
            writer.write(0, **dict.fromkeys(_TYPES, values))


def _write_mask(path: Path) -> None:
    bits = np.random.default_rng(1).integers(0, 255, (9, 40, 5), dtype=np.uint8)
    with nexus.FrameMaskWriter(path, (9, 40, 40)) as writer:
        writer.append(bits, np.zeros(9))


_TYPES = {"data": np.float32, "data_errors": np.float32}


def _main() -> None:
    """Write files within every size of the room."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for write, largest, step in (
            (_write_file, 150_000, 5000),
            (_write_volume, 40_000, 1000),
            (_write_mask, 40_000, 1000),
        ):
            for size in range(0, largest, step):
                try:
                    with limit_of_file_size(size):
                        write(Path(folder) / "a.h5")
                except OSError as error:
                    print(write.__name__, errno.errorcode.get(error.errno or 0, repr(error)))
                else:
                    print(write.__name__, "complete")


if __name__ == "__main__":
    _main()
