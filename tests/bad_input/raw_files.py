"""Raw files that are damaged, incomplete or something else."""

import os
import zlib
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin
import numpy as np
from PIL import Image

from hklflow import stage
from hklflow.stages import import_scan

from .cases import Case, Spoil, cut, inside, removed, several, written
from .experiment import (
    IMPORT,
    IMPORT_LINKED,
    IMPORT_SERIES,
    IMPORT_TIFF,
    PEAKS,
    SHAPE,
    SUM,
    SUM_SERIES,
    SUM_TIFF,
    N,
    frames,
)

R1, MASTER = "raw/r1.nxs", "raw/r2_master.h5"
DATA = "entry/data/data"


def pipe(name: str) -> Spoil:
    """Put a pipe in a file's place: to open it would wait for ever."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def folder_for(name: str) -> Spoil:
    """Put a folder in a file's place."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def link(name: str, target: str) -> Spoil:
    """Put a symbolic link in a file's place."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def _copy(name: str, to: str) -> Spoil:
    """Copy an image."""

    def spoil(folder: Path) -> None:
        (folder / "raw" / to).write_bytes((folder / "raw" / name).read_bytes())

    return spoil


def bytes_of(name: str, old: bytes, new: bytes) -> Spoil:
    """Replace bytes of a file."""

    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new))

    return spoil


# ---------------------------------------------------------------------- frames in HDF5


def _of(make: Callable[[h5py.Group], Any]) -> Spoil:
    """Put something else in the place of the frames; ``make(group)`` makes `data`."""

    def change(file: h5py.File) -> None:
        del file[DATA]
        make(file["entry/data"])

    return inside(R1, change)


def _holding(data: Any) -> Spoil:
    """Put other data in the place of the frames."""
    return _of(lambda group: group.create_dataset("data", data=data))


def _empty(*shape: int) -> Spoil:
    """Declare frames in one piece, and write none."""
    return _of(lambda group: group.create_dataset("data", shape, np.uint32))


def _unknown_filter(group: h5py.Group) -> None:
    """Frames packed by a filter that nobody here has."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((1, *SHAPE))
    plan.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, (1,))
    space, kind = h5py.h5s.create_simple((N, *SHAPE)), h5py.h5t.NATIVE_UINT32
    made = h5py.h5d.create(group.id, b"data", kind, space, plan)
    for frame in range(N):
        made.write_direct_chunk((frame, 0, 0), b"packed")


def _huge(group: h5py.Group) -> None:
    group.create_dataset("data", (10**12, *SHAPE), np.uint32, chunks=(1, *SHAPE))


def _aborted(group: h5py.Group) -> None:
    made = group.create_dataset("data", (N, *SHAPE), np.uint32, chunks=(1, *SHAPE))
    made[:4] = frames()[:4]


def _virtual(name: str) -> Spoil:
    """Frames that are taken from another file."""

    def make(group: h5py.Group) -> None:
        layout = h5py.VirtualLayout((N, *SHAPE), np.uint32)
        layout[:] = h5py.VirtualSource(name, "data", (N, *SHAPE))
        group.create_virtual_dataset("data", layout)

    return _of(make)


def _itself(group: h5py.Group) -> None:
    """Frames that are taken from themselves."""
    layout = h5py.VirtualLayout((N, *SHAPE), np.uint32)
    layout[:] = h5py.VirtualSource(".", "/entry/data/data", (N, *SHAPE))
    group.create_virtual_dataset("data", layout)


def _half_virtual(folder: Path) -> None:
    """Frames of which the last are in no file."""
    with h5py.File(folder / "raw/part.h5", "w") as file:
        file["data"] = frames()[:4]

    def make(group: h5py.Group) -> None:
        layout = h5py.VirtualLayout((N, *SHAPE), np.uint32)
        layout[:4] = h5py.VirtualSource("part.h5", "data", (4, *SHAPE))
        group.create_virtual_dataset("data", layout)

    _of(make)(folder)


def _packed_as(n_bytes: int) -> Spoil:
    """Frames in gzip, of which one unpacks to another size."""

    def make(group: h5py.Group) -> None:
        made = group.create_dataset("data", data=frames(), chunks=(1, *SHAPE), compression="gzip")
        made.id.write_direct_chunk((3, 0, 0), zlib.compress(bytes(n_bytes), 9))

    return _of(make)


def _claims(group: h5py.Group) -> None:
    """Frames in LZ4, of which one claims to be 8 GB."""
    how = hdf5plugin.LZ4()
    made = group.create_dataset("data", data=frames(), chunks=(1, *SHAPE), **how)
    made.id.write_direct_chunk((3, 0, 0), (8 << 30).to_bytes(8, "big") + bytes(99))


def _texts(group: h5py.Group) -> None:
    group.create_dataset("data", (N, *SHAPE), h5py.string_dtype())[...] = "12"


def _circle(group: h5py.Group) -> None:
    group["data"] = h5py.SoftLink("/entry/data/again")
    group["again"] = h5py.SoftLink("/entry/data/data")


def _without_group(file: h5py.File) -> None:
    del file["entry/data"]


def _without_second(file: h5py.File) -> None:
    file.move("entry/data/data_000002", "entry/data/data_000003")


def _external(target: str, path: str = "/entry/data/data") -> Spoil:
    """Let the master file link something else as its second data file."""

    def change(file: h5py.File) -> None:
        del file["entry/data/data_000002"]
        file["entry/data/data_000002"] = h5py.ExternalLink(target, path)

    return inside(MASTER, change)


def _other_part(shape: tuple[int, ...], dtype: Any = np.uint32) -> Spoil:
    """Put another second data file in the place of the right one."""

    def spoil(folder: Path) -> None:
        with h5py.File(folder / "raw/r2_data_000002.h5", "w") as file:
            file["entry/data/data"] = np.ones(shape, dtype)

    return spoil


def _damaged_frame(folder: Path) -> None:
    """Spoil the beginning of the compressed frame 3."""
    with h5py.File(folder / R1) as file:
        chunk = file[DATA].id.get_chunk_info(3)
    content = bytearray((folder / R1).read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 16] = b"\xff" * 16
    (folder / R1).write_bytes(content)


def _cut_frames(folder: Path) -> None:
    """Cut the file in its last frame."""
    with h5py.File(folder / R1) as file:
        chunk = file[DATA].id.get_chunk_info(N - 1)
    content = (folder / R1).read_bytes()
    (folder / R1).write_bytes(content[: chunk.byte_offset + chunk.size // 2])


def _counts(counts: np.ndarray[Any, Any]) -> Spoil:
    """Put other counts in the frames."""

    def change(file: h5py.File) -> None:
        file[DATA][...] = counts

    return inside(R1, change)


def imported(spoil: Spoil) -> Spoil:
    """Raw data that are damaged before they are imported."""

    def inner(folder: Path) -> None:
        spoil(folder)
        with chdir(folder):
            stage.run(
                import_scan.main,
                inputs=import_scan.Inputs(raw=[Path(R1)]),
                outputs=import_scan.Outputs(scan=Path("results/quartz/300K/r1/scan.nxs")),
                params=import_scan.Params(),
                threads=1,
            )

    return inner


def _hung() -> np.ndarray[Any, Any]:
    counts = frames()
    counts[3:5] = counts[2]
    return counts


def _lost() -> np.ndarray[Any, Any]:
    counts = frames()
    counts[3:5] = 0
    return counts


# ------------------------------------------------------------------------------ images


def _wrong_pixels(folder: Path) -> None:
    """Change pixels of an image, whose checksum is then wrong."""
    path = folder / "raw/r3_0004.cbf"
    content = bytearray(path.read_bytes())
    start = content.index(b"\x0c\x1a\x04\xd5") + 20
    content[start : start + 8] = b"\x00" * 8
    path.write_bytes(content)


def tiff(name: str, data: np.ndarray[Any, Any]) -> Spoil:
    """Write another image."""

    def spoil(folder: Path) -> None:
        if data.ndim == 3:
            Image.fromarray(data).save(folder / name)
        else:
            fabio.tifimage.TifImage(data=data).write(str(folder / name))

    return spoil


CASES = [
    Case(
        "HDF5 file of 0 bytes",
        IMPORT,
        "raw/r1.nxs cannot be opened as HDF5 (…); it is truncated or still being written: "
        "copy it again",
        written(R1, b""),
    ),
    Case(
        "HDF5 file cut in half",
        IMPORT,
        "raw/r1.nxs cannot be opened as HDF5 (…); it is truncated or still being written: "
        "copy it again",
        cut(R1),
    ),
    Case(
        "HDF5 file cut in its last frame",
        IMPORT,
        "raw/r1.nxs cannot be opened as HDF5 (…); it is truncated or still being written: "
        "copy it again",
        _cut_frames,
    ),
    Case(
        "text in the place of HDF5",
        IMPORT,
        "raw/r1.nxs cannot be opened as HDF5 (…); it is truncated or still being written: "
        "copy it again",
        written(R1, "hello\n" * 50),
    ),
    Case(
        "a folder in the place of the raw file",
        IMPORT,
        "raw file raw/r1.nxs is a folder, not a file; check the path in scans.tsv",
        folder_for(R1),
    ),
    Case(
        "a pipe (FIFO) in the place of the raw file",
        IMPORT,
        "raw: raw/r1.nxs is a pipe, not a file; make it first or correct the path",
        pipe(R1),
    ),
    Case(
        "a link to /dev/zero in the place of the raw file",
        IMPORT,
        "raw: raw/r1.nxs is a device, not a file; make it first or correct the path",
        link(R1, "/dev/zero"),
    ),
    Case(
        "compression without its plugin (HDF5 filter 32123)",
        IMPORT,
        "the frames of raw/r1.nxs are packed with the HDF5 filter 32123, which is not "
        "installed here; set HDF5_PLUGIN_PATH to the folder of its plugin, or pack the frames "
        "again with bitshuffle",
        _of(_unknown_filter),
    ),
    Case(
        "frames 4 and 5 never written: the collection was aborted",
        IMPORT,
        "frame 4 was never written to raw/r1.nxs: the collection was aborted or the copy is "
        "incomplete; copy it again",
        _of(_aborted),
    ),
    Case(
        "no frame written",
        IMPORT,
        "no frame was written to raw/r1.nxs; copy it again",
        _empty(N, *SHAPE),
    ),
    Case(
        "10^12 frames declared, none written",
        IMPORT,
        "frame 0 was never written to raw/r1.nxs: the collection was aborted or the copy is "
        "incomplete; copy it again",
        _of(_huge),
    ),
    Case(
        "0 frames",
        IMPORT,
        "/entry/data/data in raw/r1.nxs has the shape (0, 12, 10) and the type uint32; frames "
        "are numbers of the shape (frame, slow, fast), at least one: give the file that contains "
        "them",
        _holding(frames()[:0]),
    ),
    Case(
        "one image without a frame axis",
        IMPORT,
        "/entry/data/data in raw/r1.nxs has the shape (12, 10) and the type uint32; frames are "
        "numbers of the shape (frame, slow, fast), at least one: give the file that contains them",
        _holding(frames()[0]),
    ),
    Case(
        "four dimensions",
        IMPORT,
        "/entry/data/data in raw/r1.nxs has the shape (1, 6, 12, 10) and the type uint32; frames"
        " are numbers of the shape (frame, slow, fast), at least one: give the file that "
        "contains them",
        _holding(frames()[None]),
    ),
    Case(
        "one number in the place of frames",
        IMPORT,
        "/entry/data/data in raw/r1.nxs has the shape () and the type int64; frames are numbers "
        "of the shape (frame, slow, fast), at least one: give the file that contains them",
        _holding(3),
    ),
    Case(
        "records (compound type) in the place of counts",
        IMPORT,
        "/entry/data/data in raw/r1.nxs has the shape (6, 12, 10) and the type records; frames "
        "are numbers of the shape (frame, slow, fast), at least one: give the file that contains "
        "them",
        _holding(np.zeros((N, *SHAPE), [("counts", "u4"), ("time", "f8")])),
    ),
    Case(
        "texts (object type) in the place of counts",
        IMPORT,
        "/entry/data/data in raw/r1.nxs has the shape (6, 12, 10) and the type object; frames "
        "are numbers of the shape (frame, slow, fast), at least one: give the file that contains "
        "them",
        _of(_texts),
    ),
    Case(
        "complex numbers",
        IMPORT,
        "/entry/data/data in raw/r1.nxs has the shape (6, 12, 10) and the type complex128; "
        "frames are numbers of the shape (frame, slow, fast), at least one: give the file that "
        "contains them",
        _holding(frames() * 1j),
    ),
    Case(
        "a group in the place of the frames",
        IMPORT,
        "/entry/data/data in raw/r1.nxs is not a dataset; give a raw data file",
        _of(lambda group: group.create_group("data")),
    ),
    Case(
        "virtual dataset whose source is missing",
        IMPORT,
        "raw/gone.h5 does not exist: raw/r1.nxs reads the frames from 0 from it; copy the data"
        " files next to the master file",
        _virtual("gone.h5"),
    ),
    Case(
        "virtual dataset whose source is elsewhere and missing",
        IMPORT,
        "/nowhere/gone.h5 does not exist: raw/r1.nxs reads the frames from 0 from it; copy the"
        " data files next to the master file",
        _virtual("/nowhere/gone.h5"),
    ),
    Case(
        "virtual dataset of itself",
        IMPORT,
        "/entry/data/data in raw/r1.nxs reads frames from itself; the file is damaged: copy it "
        "again",
        _of(_itself),
    ),
    Case(
        "virtual dataset of which frames are in no file",
        IMPORT,
        "frame 4 of raw/r1.nxs is in none of the source files of /entry/data/data; the "
        "collection was aborted or the file is damaged: copy it again",
        _half_virtual,
    ),
    Case(
        "10^6 x 10^6 pixels declared",
        IMPORT,
        "/entry/data/data in raw/r1.nxs has frames of 1000000 x 1000000 pixels, more than "
        "200000000; the file is damaged or contains something else",
        _empty(N, 10**6, 10**6),
    ),
    Case(
        "compressed frame that unpacks to a megabyte",
        SUM,
        "frame 3 cannot be read from raw/r1.nxs (/entry/data/data: it unpacks to at least 481 "
        "bytes, not the 480 of a chunk); the file is truncated or damaged: copy it again",
        _packed_as(2**20),
    ),
    Case(
        "compressed frame that unpacks to 100 bytes",
        SUM,
        "frame 3 cannot be read from raw/r1.nxs (/entry/data/data: it unpacks to 100 bytes, not "
        "the 480 of a chunk); the file is truncated or damaged: copy it again",
        _packed_as(100),
    ),
    Case(
        "compressed frame that claims to be 8 GB",
        SUM,
        "frame 3 cannot be read from raw/r1.nxs (/entry/data/data: it unpacks to 8589934592 "
        "bytes, not the 480 of a chunk); the file is truncated or damaged: copy it again",
        _of(_claims),
    ),
    Case(
        "CBF of 10^6 x 10^6 pixels",
        IMPORT_SERIES,
        "raw/r3_0001.cbf has frames of 1000000 x 1000000 pixels, more than 200000000; the file "
        "is damaged or contains something else",
        several(
            bytes_of("raw/r3_0001.cbf", b"Fastest-Dimension: 10", b"Fastest-Dimension: 1000000"),
            bytes_of("raw/r3_0001.cbf", b"Second-Dimension: 12", b"Second-Dimension: 1000000"),
        ),
    ),
    Case(
        "CBF of fewer rows than are stored",
        IMPORT_SERIES,
        "frame 0 cannot be read from raw/r3_0001.cbf (120 pixels are stored for an image of 11 x "
        "10); the file is damaged: copy it again",
        bytes_of("raw/r3_0001.cbf", b"Second-Dimension: 12", b"Second-Dimension: 11"),
    ),
    Case(
        "soft links in a circle",
        IMPORT,
        "the frames from 0 cannot be read: raw/r1.nxs is truncated or has no such dataset (…);"
        " copy it again",
        _of(_circle),
    ),
    Case(
        "no group of data",
        IMPORT,
        "raw/r1.nxs has no group /entry/data; give a raw data file",
        inside(R1, _without_group),
    ),
    Case(
        "linked data file missing",
        IMPORT_LINKED,
        "raw/r2_data_000002.h5 does not exist: raw/r2_master.h5 links it for the frames from 3; "
        "copy the data files next to the master file",
        removed("raw/r2_data_000002.h5"),
    ),
    Case(
        "linked data file truncated",
        IMPORT_LINKED,
        "the frames from 3 cannot be read: raw/r2_data_000002.h5 is truncated or has no such "
        "dataset (…); copy it again",
        cut("raw/r2_data_000002.h5"),
    ),
    Case(
        "linked data file of another detector",
        IMPORT_LINKED,
        "the frames of raw/r2_master.h5 have shapes [(5, 5), (12, 10)] and types ['uint32']; "
        "a data file is of another scan: copy them again",
        _other_part((3, 5, 5)),
    ),
    Case(
        "linked data file of another number type",
        IMPORT_LINKED,
        "the frames of raw/r2_master.h5 have shapes [(12, 10)] and types ['uint16', "
        "'uint32']; a data file is of another scan: copy them again",
        _other_part((3, *SHAPE), np.uint16),
    ),
    Case(
        "linked data file of another scan, with more frames",
        IMPORT_LINKED,
        "/entry/sample/transformations/phi in raw/r2_master.h5 has 6 angles for 8 frames; data "
        "files are missing or of another scan, or the file is damaged: copy it again",
        _other_part((5, *SHAPE)),
    ),
    Case(
        "external link to a file outside that is no HDF5",
        IMPORT_LINKED,
        "the frames from 3 cannot be read: /etc/passwd is truncated or has no such dataset "
        "(…); copy it again",
        _external("/etc/passwd"),
    ),
    Case(
        "external link with .. to a file that is not there",
        IMPORT_LINKED,
        "raw/../../../../../etc/passwd does not exist: raw/r2_master.h5 links it for the frames "
        "from 3; copy the data files next to the master file",
        _external("../../../../../etc/passwd"),
    ),
    Case(
        "external link to itself",
        IMPORT_LINKED,
        "the frames from 3 cannot be read: raw/r2_master.h5 is truncated or has no such "
        "dataset (…); copy it again",
        _external("r2_master.h5", "/entry/data/data_000002"),
    ),
    Case(
        "external link to a dataset that is not there",
        IMPORT_LINKED,
        "the frames from 3 cannot be read: raw/r2_data_000002.h5 is truncated or has no such "
        "dataset (…); copy it again",
        _external("r2_data_000002.h5", "/nothing"),
    ),
    Case(
        "master file without its second link",
        IMPORT_LINKED,
        "raw/r2_master.h5 has no link data_000002 between data_000001 and data_000003; the "
        "master file is damaged: copy it again",
        inside(MASTER, _without_second),
    ),
    Case(
        "compressed frame damaged",
        SUM,
        "frame 3 cannot be read from raw/r1.nxs (/entry/data/data: it unpacks to "
        "18446744073709551615 bytes, not the 480 of a chunk); the file is truncated or damaged: "
        "copy it again",
        _damaged_frame,
    ),
    Case(
        "detector that hung: frames 3 and 4 are copies of frame 2",
        PEAKS,
        "frame 3 of raw/r1.nxs is an exact copy of frame 2 (2 frames are copies): the detector "
        "hung, or a file was copied; copy the raw data again, or leave these frames out: "
        "`per_scan: {quartz/300K: {import_scan: {leave_out: [r1:3-4]}}}`",
        imported(_counts(_hung())),
    ),
    Case(
        "lost frames: 3 and 4 have no count",
        PEAKS,
        "2 frames of raw/r1.nxs have zero counts, the first is frame 3 (median of all frames: "
        "5.86e+03): the shutter was closed, or the frames were lost; copy the "
        "raw data again, or leave these frames out: `per_scan: {quartz/300K: {import_scan: "
        "{leave_out: [r1:3-4]}}}`",
        imported(_counts(_lost())),
    ),
    Case(
        "image in the middle of a series truncated",
        SUM_SERIES,
        "frame 3 cannot be read from raw/r3_0004.cbf: the file of 578 bytes is truncated; "
        "copy it again",
        cut("raw/r3_0004.cbf"),
    ),
    Case(
        "CBF whose pixels do not have its checksum (MD5)",
        SUM_SERIES,
        "frame 3 cannot be read from raw/r3_0004.cbf (…); the file is truncated, damaged or has "
        "another format: copy it again",
        _wrong_pixels,
    ),
    Case(
        "a pipe among the images",
        SUM_SERIES,
        "image raw/r3_0003.cbf is a pipe, not a file; copy it again",
        pipe("raw/r3_0003.cbf"),
    ),
    Case(
        "series with a hole",
        IMPORT_SERIES,
        "1 of the images raw/r3_####.cbf between numbers 1 and 6 are missing: 4; copy them "
        "again, or make a row of the images before and one of those after, such as "
        "`x_####[1-20].cbf` and `x_####[22-90].cbf`",
        removed("raw/r3_0004.cbf"),
    ),
    Case(
        "pattern that matches two series",
        IMPORT_SERIES.replace("r3_####.cbf", "'[rx]?_*.cbf'"),
        "raw/[rx]?_*.cbf matches several series (r3_....cbf, x3_....cbf); make the pattern "
        "narrower",
        _copy("r3_0001.cbf", "x3_0007.cbf"),
    ),
    Case(
        "pattern that matches one number twice",
        IMPORT_SERIES.replace("r3_####.cbf", "'r3_*.cbf'"),
        "raw/r3_*.cbf matches number 4 twice: r3_0004.cbf and r3_004.cbf; make the pattern "
        "narrower",
        _copy("r3_0001.cbf", "r3_004.cbf"),
    ),
    Case(
        "first image truncated",
        IMPORT_SERIES,
        "frame 0 cannot be read from raw/r3_0001.cbf: the file of 577 bytes is truncated; "
        "copy it again",
        cut("raw/r3_0001.cbf"),
    ),
    Case(
        "last image truncated",
        IMPORT_SERIES,
        "frame 5 cannot be read from raw/r3_0006.cbf: the file of 578 bytes is truncated; "
        "copy it again",
        cut("raw/r3_0006.cbf"),
    ),
    Case(
        "CBF in an unknown compression",
        IMPORT_SERIES,
        "frame 0 cannot be read from raw/r3_0001.cbf (…); the file is truncated, damaged or has "
        "another format: copy it again",
        bytes_of("raw/r3_0001.cbf", b"CBF_BYTE_OFFSET", b"CBF_PACKED_____"),
    ),
    Case(
        "image of 0 bytes",
        IMPORT_SERIES,
        "frame 0 cannot be read from raw/r3_0001.cbf: the file of 0 bytes is truncated; copy "
        "it again",
        written("raw/r3_0001.cbf", ""),
    ),
    Case(
        "web page in the place of an image",
        IMPORT_SERIES,
        "frame 0 cannot be read from raw/r3_0001.cbf: the file of 16 bytes is truncated; copy"
        " it again",
        written("raw/r3_0001.cbf", "<html>404</html>"),
    ),
    Case(
        "a folder in the place of an image",
        IMPORT_SERIES,
        "image raw/r3_0001.cbf is a folder, not a file; copy it again",
        folder_for("raw/r3_0001.cbf"),
    ),
    Case(
        "TIFF truncated",
        IMPORT_TIFF,
        "frame 0 cannot be read from raw/r4_0001.tif (…); the file is truncated, damaged or has "
        "another format: copy it again",
        cut("raw/r4_0001.tif"),
    ),
    Case(
        "TIFF of 0 bytes",
        IMPORT_TIFF,
        "frame 0 cannot be read from raw/r4_0001.tif (…); the file is truncated, damaged or has "
        "another format: copy it again",
        written("raw/r4_0001.tif", ""),
    ),
    Case(
        "TIFF in colour",
        IMPORT_TIFF,
        "raw/r4_0001.tif contains 1 images of uint8 with the shape (12, 10, 3); each file of a "
        "series must have one image of numbers (slow, fast): convert it",
        tiff("raw/r4_0001.tif", np.zeros((*SHAPE, 3), np.uint8)),
    ),
    Case(
        "images of another detector than the geometry's",
        IMPORT_TIFF,
        "raw/r4_####.tif: frames have (5, 5) pixels but the geometry has (12, 10): give the "
        "calibration of this detector",
        tiff("raw/r4_0001.tif", np.zeros((5, 5), np.int32)),
    ),
    Case(
        "number type changes within a series",
        SUM_TIFF,
        "frame 5 (raw/r4_0006.tif) is (12, 10) int16 but the first is (12, 10) int32; the "
        "series mixes scans: copy it again, or give each scan its own pattern",
        tiff("raw/r4_0006.tif", np.zeros(SHAPE, np.int16)),
    ),
    Case(
        "shape changes within a series",
        SUM_TIFF,
        "frame 3 (raw/r4_0004.tif) is (5, 5) int32 but the first is (12, 10) int32; the "
        "series mixes scans: copy it again, or give each scan its own pattern",
        tiff("raw/r4_0004.tif", np.zeros((5, 5), np.int32)),
    ),
]
