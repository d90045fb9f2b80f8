"""The peers that are Python libraries: one measurement per process, in the peers' environment.

    python -m benchmarks.speed.peers WORK FOLDER --grid 501 --frames 40 [--volume FILE]

Each is run as its authors or a reasonable user would run it, and in its favour: imports,
compilation, tables of Q and the first frames (which touch the memory) are not counted.
With --volume the sums are written, for `agree`.
"""

import argparse
import contextlib
import ctypes
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.clock import Clock, tell

WARM = 2
FRAME = 1024**2


def frames(folder: Path, n: int) -> Iterator[Any]:
    """Frames one by one through h5py and hdf5plugin, as the peers' users read them."""
    import h5py
    import hdf5plugin  # noqa: F401  (registers the filters)

    with h5py.File(folder / "a.nxs") as file:
        data = file["/entry/data/data"]
        for z in range(n):
            yield data[z]


class Geometry:
    """Q of the good pixels and the way to voxels."""

    def __init__(self, folder: Path, n: int) -> None:
        stored = np.load(folder / "geometry.npz")
        self.good = stored["good"].ravel()
        self.q = np.ascontiguousarray(stored["q"].reshape(-1, 3)[self.good])
        self.limits, self.n = stored["limits"], n
        self._to_hkl = stored["to_hkl"]

    def hkl(self, z: int) -> Any:
        """Miller coordinates (n, 3) of the good pixels in frame z."""
        return self.q @ self._to_hkl[z].T

    def voxels(self, z: int) -> tuple[Any, Any]:
        """Flat voxel numbers and which pixels are inside."""
        step = 2 * self.limits / (self.n - 1)
        index = np.rint((self.hkl(z) + self.limits) / step).astype(np.int64)
        inside = ((index >= 0) & (index < self.n)).all(axis=1)
        index = index[inside]
        return (index[:, 0] * self.n + index[:, 1]) * self.n + index[:, 2], inside


def numpy_add_at(options: argparse.Namespace, clock: Clock) -> Any:
    """Plain numpy: indices by matrix product, sums by `np.add.at`."""

    def scatter(total: Any, index: Any, values: Any) -> None:
        np.add.at(total, index, values)

    return _loop(options, clock, scatter)


def imaged11(options: argparse.Namespace, clock: Clock) -> Any:
    """The same with ImageD11's scatter in C, as its rsv_mapper does."""
    from ImageD11 import cImageD11

    cImageD11.cimaged11_omp_set_num_threads(1)

    def scatter(total: Any, index: Any, values: Any) -> None:
        cImageD11.put_incr64(total, index, values)

    return _loop(options, clock, scatter)


def _loop(options: argparse.Namespace, clock: Clock, scatter: Any) -> Any:
    geometry = Geometry(options.folder, options.grid)
    counts, norm = (np.zeros(options.grid**3, np.float32) for _ in range(2))
    source = frames(options.folder, options.frames + WARM)

    def work(z: int) -> None:
        image = next(source).ravel()[geometry.good]
        index, inside = geometry.voxels(z)
        values = image[inside].astype(np.float32)
        scatter(counts, index, values)
        scatter(norm, index, np.ones_like(values))

    for z in range(WARM):
        work(z)
    with clock.running():
        for z in range(WARM, WARM + options.frames):
            work(z)
    return counts, norm


def _xrayutilities(options: argparse.Namespace, clock: Clock, name: str, whole: bool) -> Any:
    import xrayutilities

    geometry = Geometry(options.folder, options.grid)
    limits, n = geometry.limits, options.grid
    gridder = getattr(xrayutilities, name)(n, n, n)
    gridder.KeepData(True)
    gridder.dataRange(*(x for limit in limits for x in (-limit, limit)))
    source = frames(options.folder, options.frames + WARM)
    for z in range(options.frames + WARM):
        with clock.running() if whole and z >= WARM else contextlib.nullcontext():
            image = next(source).ravel()
            x, y, w = np.ascontiguousarray(geometry.hkl(z).T)
            values = image[geometry.good].astype(np.float64)
        with clock.running() if z >= WARM else contextlib.nullcontext():
            gridder(x, y, w, values)
    return gridder._gdata, gridder._gnorm


def gridder3d(options: argparse.Namespace, clock: Clock) -> Any:
    """xrayutilities' Gridder3D alone: coordinates and counts are there already."""
    return _xrayutilities(options, clock, "Gridder3D", whole=False)


def gridder3d_whole(options: argparse.Namespace, clock: Clock) -> Any:
    """The same with frames read and hkl of every pixel found by a matrix product."""
    return _xrayutilities(options, clock, "Gridder3D", whole=True)


def fuzzygridder3d(options: argparse.Namespace, clock: Clock) -> Any:
    """xrayutilities' FuzzyGridder3D alone."""
    return _xrayutilities(options, clock, "FuzzyGridder3D", whole=False)


class _Marks(io.StringIO):
    """Runs a clock from one of meerkat's lines "reconstructing frame" to another."""

    def __init__(self, clock: Clock, n_frames: int) -> None:
        super().__init__()
        self._seen, self._stop, self._span = 0, WARM + n_frames, clock.running()

    def write(self, text: str) -> int:
        if text.startswith("reconstructing frame"):
            if self._seen == WARM:
                self._span.__enter__()
            elif self._seen == self._stop:
                self._span.__exit__(None, None, None)
            self._seen += 1
        return len(text)


def _meerkat(options: argparse.Namespace, clock: Clock, in_memory: bool) -> Any:
    import h5py
    from meerkat import meerkat

    output = options.folder / f"meerkat_{os.getpid()}.h5"
    if options.volume:
        # The sums of raw counts are compared, not those of corrected ones.
        meerkat.correction_coefficients = lambda *_: 1.0

    try:
        with contextlib.redirect_stdout(_Marks(clock, options.frames)):
            result = meerkat.reconstruct_data(
                filename_template=str(options.folder / "cbf/a_%05d.cbf"),
                first_image=1,
                last_image=WARM + options.frames + (0 if options.volume else 1),
                maxind=np.load(options.folder / "geometry.npz")["limits"],
                number_of_pixels=[options.grid] * 3,
                path_to_XPARM=str(options.folder),
                output_filename=None if in_memory else str(output),
                all_in_memory=in_memory,
                override=True,
                keep_number_of_pixels=bool(options.volume),
            )
        if not options.volume:
            return None
        if result is None:
            with h5py.File(output) as file:
                return file["rebinned_data"][()], file["number_of_pixels_rebinned"][()]
        return result["rebinned_data"], result["number_of_pixels_rebinned"]
    finally:
        output.unlink(missing_ok=True)


def meerkat_memory(options: argparse.Namespace, clock: Clock) -> Any:
    """meerkat with all_in_memory=True, frames from CBF."""
    return _meerkat(options, clock, True)


def meerkat_file(options: argparse.Namespace, clock: Clock) -> Any:
    """meerkat as it is by default: the volume in an HDF5 file."""
    return _meerkat(options, clock, False)


def h5py_decode(options: argparse.Namespace, clock: Clock) -> Any:
    """Read and decompress with h5py and hdf5plugin."""
    source = frames(options.folder, options.frames + WARM)
    for _ in range(WARM):
        next(source)
    with clock.running():
        for _ in source:
            pass


def bitshuffle_decode(options: argparse.Namespace, clock: Clock) -> Any:
    """Direct chunk read, then the bitshuffle package's decompressor into one buffer."""
    import bitshuffle.ext
    import h5py
    import hdf5plugin  # noqa: F401  (for the comparison at the end)

    library = ctypes.CDLL(bitshuffle.ext.__file__)
    decompress = library.bshuf_decompress_lz4
    decompress.restype = ctypes.c_int64
    decompress.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_size_t] * 3]
    buffer = np.empty((32, FRAME), np.uint32)
    with h5py.File(options.folder / "a.nxs") as file:
        data = file["/entry/data/data"]

        def work(z: int) -> None:
            _, chunk = data.id.read_direct_chunk((z, 0, 0))
            block = int.from_bytes(chunk[8:12], "big") // 4
            source = np.frombuffer(chunk, np.uint8)[12:]
            into = buffer[z % len(buffer)]
            if decompress(source.ctypes.data, into.ctypes.data, FRAME, 4, block) < 0:
                raise ValueError(f"frame {z} cannot be decompressed")

        for z in range(WARM):
            work(z)
        with clock.running():
            for z in range(WARM, WARM + options.frames):
                work(z)
        z = WARM + options.frames - 1
        if not np.array_equal(buffer[z % len(buffer)], data[z].ravel()):
            raise ValueError("the decompressed frame is not what h5py reads")


WORK = {
    f.__name__: f
    for f in (
        numpy_add_at,
        imaged11,
        gridder3d,
        gridder3d_whole,
        fuzzygridder3d,
        meerkat_memory,
        meerkat_file,
        h5py_decode,
        bitshuffle_decode,
    )
}


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grid", type=int, default=501)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--volume", type=Path)
    options = parser.parse_args()
    clock = Clock()
    volume = WORK[options.work](options, clock)
    if options.volume:
        shape = (options.grid,) * 3
        counts, norm = (np.asarray(part).reshape(shape) for part in volume)
        np.savez(options.volume, counts=counts, norm=norm)
    tell(clock, options.frames * FRAME)


if __name__ == "__main__":
    main()
