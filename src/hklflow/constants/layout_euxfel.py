"""Raw files of the European XFEL: AGIPD and JUNGFRAU, read through EXtra-data.

A file ``RAW-R0101-AGIPD03-S00000.h5`` is one sequence of one module. ``INDEX/trainId`` lists its
trains, ``INDEX/<source>/<group>/{first,count}`` the position of their records, and a flag shows if
the train number came from the machine. AGIPD has one record per frame, ``image/data``
(n, 2, 512, 128), analogue then digital part; JUNGFRAU one per train, ``data/adc``
(t, cells, 512, 1024) with ``gain`` and ``memoryCell`` (255: no frame).

In AGIPD files of 2017, analogue and digital part of a memory cell are two records, one after the
other, and all records of a train are numbered by ``cellId``, so that memory cell c has the numbers
2c and 2c + 1. ``image/data`` is (2n, 2, 512, 128) with an empty second part, or (2n, 1, 512, 128).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating
from hklflow.constants.layout import Images, Layout, Read, require_shape
from hklflow.constants.raw_frames import Part

_SOURCES = {
    "agipd": re.compile(r".+/DET/(\d+)CH0:xtdf"),
    "jungfrau": re.compile(r".+/DET/(?:JNGFR|RECEIVER-)(\d+):daqOutput"),
}
_NO_CELL = 255


class Euxfel(Layout):
    """Layout ``euxfel``: raw files of the European XFEL."""

    unique_trains = True

    def parts(self, path: Path, detector: Integrating) -> list[Part]:
        """Return the parts listed in INDEX; none for a file of other devices."""
        access = _open(path)
        result = []
        for source in sorted(access.instrument_sources):
            match = _SOURCES[detector.name].fullmatch(source)
            if match is None:
                continue
            make = _agipd if detector.name == "agipd" else _jungfrau
            result.append(make(path, access, source, int(match[1]), detector))
        return result

    @contextmanager
    def open(self, part: Part, detector: Integrating) -> Iterator[Read]:
        """Open the data source of the module."""
        access = _open(part.path)
        pattern = _SOURCES[detector.name]
        numbers = {s: m for s in access.instrument_sources if (m := pattern.fullmatch(s))}
        source = next(s for s, match in numbers.items() if int(match[1]) == part.module)
        group = access.file[f"INSTRUMENT/{source}"]
        if detector.name == "agipd":
            data = group["image/data"]
            alternate = _alternate(data)

            def read(first: int, last: int) -> tuple[Images, Images]:
                if alternate:
                    records = data[2 * first : 2 * last, 0]
                    return records[::2], records[1::2]
                both = data[first:last]
                return both[:, 0], both[:, 1]
        else:
            adc, gain = group["data/adc"], group["data/gain"]
            cells = adc.shape[1]

            def read(first: int, last: int) -> tuple[Images, Images]:
                records = slice(first // cells, -(-last // cells))
                frames = slice(first % cells, first % cells + last - first)
                analog, digital = (
                    item[records].reshape(-1, *detector.module)[frames] for item in (adc, gain)
                )
                return analog, digital.astype(np.uint16)

        try:
            yield read
        finally:
            access.close()


def _agipd(path: Path, access: Any, source: str, module: int, detector: Integrating) -> Part:
    group = access.file[f"INSTRUMENT/{source}"]
    data = group["image/data"]
    if data.dtype != np.uint16:
        raise HklflowError(f"{path} has calibrated images ({data.dtype}); use the raw files")
    if data.ndim != 4 or data.shape[1] not in (1, 2):
        raise HklflowError(
            f"{path} has images {data.shape}; raw images of AGIPD are (n, 2, ss, fs), or "
            "(2n, 1, ss, fs) in files of 2017: use the raw files"
        )
    require_shape(path, data.shape[2:], detector.module)
    trains, first, count, suspect = _index(access, source, "image")
    image, header = group["image"], group["header"]
    pulses = header["pulseCount"][()].astype(np.int64)[: len(trains)]
    names = ("data", "trainId", "cellId", "pulseId")
    train = image["trainId"][()].reshape(-1).astype(np.uint64)
    cell = image["cellId"][()].reshape(-1).astype(np.int64)
    lengths = {f"image/{n}": len(image[n]) for n in names if n in image}
    if _alternate(data):
        train, cell = _pairs(path, train, cell, first, count)
        first, count, pulses = first // 2, count // 2, pulses // 2
        lengths = {name: length // 2 for name, length in lengths.items()}
    return Part(
        path,
        module,
        _sequence(path),
        trains,
        first,
        count,
        train,
        cell,
        # A detector writes zeros if it does not count pulses.
        pulses if len(pulses) == len(trains) and pulses.any() else None,
        suspect,
        {
            "frames": lengths,
            "trains": {
                f"{n}/trainId": len(group[n]["trainId"])
                for n in ("header", "detector", "trailer")
                if n in group
            },
        },
    )


def _alternate(data: Any) -> bool:
    """Return True if analogue and digital parts are records of their own, as in 2017.

    Then the second part of a record does not exist or is empty. A lost frame is empty in both
    parts, so the first record with an analogue part decides.
    """
    if data.shape[1] == 1:
        return True
    for record in range(len(data)):
        analog, digital = data[record]
        if analog.any():
            return not digital.any()
    return False


def _pairs(
    path: Path,
    train: NDArray[np.uint64],
    cell: NDArray[np.int64],
    first: NDArray[np.int64],
    count: NDArray[np.int64],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return train and memory cell of each pair of records, analogue and digital, of 2017."""
    n = min(len(train), len(cell)) // 2 * 2
    trains, cells = train[:n].reshape(-1, 2), cell[:n].reshape(-1, 2)
    begins = first[count > 0] % 2 == 0
    # Records behind the last train are padding: all zero.
    used = trains[:, 0] != 0
    is_pair = (trains[:, 0] == trains[:, 1]) & (cells[:, 0] % 2 == 0)
    is_pair &= cells[:, 1] == cells[:, 0] + 1
    wrong = np.flatnonzero(used & ~is_pair)
    if len(wrong) or not begins.all() or (count % 2).any():
        where = f"record {2 * wrong[0]}" if len(wrong) else "a train of an odd number of records"
        raise HklflowError(
            f"{path} has one image in each record, as files of 2017, but its analogue and digital "
            f"parts do not alternate ({where}: cellId must be 2c, then 2c + 1); leave the file out "
            "of the run"
        )
    return trains[:, 0], cells[:, 0] // 2


def _jungfrau(path: Path, access: Any, source: str, module: int, detector: Integrating) -> Part:
    data = access.file[f"INSTRUMENT/{source}/data"]
    adc = data["adc"]
    if adc.dtype != np.uint16:
        raise HklflowError(f"{path} has calibrated images ({adc.dtype}); use the raw files")
    require_shape(path, adc.shape[2:], detector.module)
    trains, first, count, suspect = _index(access, source, "data")
    cells = adc.shape[1]
    cell = data["memoryCell"][()].astype(np.int64).reshape(-1)
    return Part(
        path,
        module,
        _sequence(path),
        trains,
        first * cells,
        count * cells,
        np.repeat(data["trainId"][()].astype(np.uint64), cells),
        np.where(cell == _NO_CELL, -1, cell),
        None,
        suspect,
        {"frames": {f"data/{n}": len(data[n]) * cells for n in ("adc", "gain", "memoryCell")}},
    )


def _index(
    access: Any, source: str, group: str
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Return the listed trains (including zeros, which EXtra-data omits), first, count, suspect."""
    trains = access.file["INDEX/trainId"][()].astype(np.uint64)
    index = access.file[f"INDEX/{source}/{group}"]
    first = index["first"][()].astype(np.int64)
    if "count" in index:
        count = index["count"][()].astype(np.int64)
    else:
        count = (index["last"][()].astype(np.int64) - first + 1) * (index["status"][()] != 0)
    suspect = np.zeros(len(trains), bool)
    # Formats before 1.0 have no flag, and EXtra-data guesses from the order of the numbers.
    if access.format_version != "0.5":
        suspect[trains != 0] = ~access.validity_flag
    n = min(len(trains), len(first), len(count))
    return trains[:n], first[:n], count[:n], suspect[:n]


def _sequence(path: Path) -> int:
    match = re.search(r"-S(\d+)\.h5$", path.name)
    return int(match[1]) if match else 0


def _open(path: Path) -> Any:
    try:
        from extra_data.exceptions import FileStructureError
        from extra_data.file_access import FileAccess
    except ImportError:
        raise HklflowError(
            f"{path}: raw files of the European XFEL need EXtra-data, which is not installed; run "
            '`make setup-xfel` or `pip install "hklflow[xfel]"`'
        ) from None
    try:
        return FileAccess(path)
    except FileStructureError as error:
        raise KeyError(str(error)) from error
