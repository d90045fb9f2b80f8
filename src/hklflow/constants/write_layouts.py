"""Write the same raw frames in every layout, for simulations and tests."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.constants.detectors import Integrating
from hklflow.constants.layout_lab import FORMAT, from_common
from hklflow.formats.hdf5_output import hdf5_output

_AGIPD = "SPB_DET_AGIPD1M-1/DET/{}CH0:xtdf"
_JUNGFRAU = "SPB_IRDA_JF4M/DET/JNGFR{:02d}:daqOutput"
_NO_CELL = 255
_INVALID_CODE = 2


@dataclass(frozen=True)
class RawFrames:
    """Frames of one module in the order of measurement.

    Attributes
    ----------
    train : (n,) array of int
    cell : (n,) array of int
    analog, digital : (n, ss, fs) uint16 arrays
        The digital part is the stage number for detectors with gain bits.
    """

    train: NDArray[np.integer]
    cell: NDArray[np.integer]
    analog: NDArray[np.uint16]
    digital: NDArray[np.uint16]

    def only(self, where: NDArray[np.bool_]) -> "RawFrames":
        """Return the selected frames."""
        return RawFrames(
            self.train[where], self.cell[where], self.analog[where], self.digital[where]
        )


def write_run(
    layout: str,
    folder: Path,
    run: int,
    detector: Integrating,
    modules: Mapping[int, RawFrames],
    trains_per_part: int = 256,
) -> list[Path]:
    """Write a run of modules in a layout and return its files.

    Raises
    ------
    KeyError
        If the layout is unknown.
    """
    write = {"euxfel": write_euxfel, "lab": write_lab, "jungfrau": write_jungfrau}[layout]
    return write(folder, run, detector, modules, trains_per_part)


def write_euxfel(
    folder: Path,
    run: int,
    detector: Integrating,
    modules: Mapping[int, RawFrames],
    trains_per_part: int = 256,
) -> list[Path]:
    """Write files of the European XFEL (format 1.2)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for module, number, frames in _split(modules, trains_per_part):
        name = "AGIPD" if detector.name == "agipd" else "JNGFR"
        path = folder / f"RAW-R{run:04d}-{name}{module:02d}-S{number:05d}.h5"
        trains, first, count = np.unique(frames.train, return_index=True, return_counts=True)
        with _create(path) as file:
            file["INDEX/trainId"] = trains.astype(np.uint64)
            file["INDEX/flag"] = np.ones(len(trains), np.int32)
            file["INDEX/origin"] = np.full(len(trains), -1, np.int32)
            file["INDEX/timestamp"] = (trains.astype(np.uint64) + 1) * 10**8
            if detector.name == "agipd":
                source = _AGIPD.format(module)
                groups = _agipd_records(file, source, frames, trains, first, count)
            else:
                source = _JUNGFRAU.format(module)
                groups = _jungfrau_records(file, source, frames, trains, detector)
            ids = [f"INSTRUMENT/{source}/{group}".encode() for group in groups]
            file["METADATA/dataSources/dataSourceId"] = ids
            file["METADATA/dataSources/root"] = [b"INSTRUMENT"] * len(ids)
            file["METADATA/dataSources/deviceId"] = [i.partition(b"/")[2] for i in ids]
            file["METADATA/dataFormatVersion"] = [b"1.2"]
        paths.append(path)
    return paths


def _agipd_records(
    file: h5py.File,
    source: str,
    frames: RawFrames,
    trains: NDArray[np.integer],
    first: NDArray[np.integer],
    count: NDArray[np.integer],
) -> list[str]:
    groups = ["header", "detector", "image", "trailer"]
    top = file.create_group(f"INSTRUMENT/{source}")
    for group in groups:
        each = group != "image"
        index = file.create_group(f"INDEX/{source}/{group}")
        index["first"] = (np.arange(len(trains)) if each else first).astype(np.uint64)
        index["count"] = (np.ones(len(trains)) if each else count).astype(np.uint64)
        top.create_group(group)
        if each:
            top[f"{group}/trainId"] = trains.astype(np.uint64)
    top["header/pulseCount"] = count.astype(np.uint64)
    image = top["image"]
    image["trainId"] = frames.train.astype(np.uint64)[:, None]
    image["pulseId"] = frames.cell.astype(np.uint64)[:, None]
    image["cellId"] = frames.cell.astype(np.uint16)[:, None]
    shape = (len(frames.train), 2, *frames.analog.shape[1:])
    data = image.create_dataset("data", shape, np.uint16, chunks=(1, *shape[1:]))
    data[:, 0], data[:, 1] = frames.analog, frames.digital
    return groups


def _jungfrau_records(
    file: h5py.File,
    source: str,
    frames: RawFrames,
    trains: NDArray[np.integer],
    detector: Integrating,
) -> list[str]:
    record = np.searchsorted(trains, frames.train)
    cells = int(frames.cell.max()) + 1
    place = (record, frames.cell)
    adc = np.zeros((len(trains), cells, *detector.module), np.uint16)
    gain = np.zeros(adc.shape, np.uint8)
    cell = np.full((len(trains), cells), _NO_CELL, np.uint8)
    adc[place], gain[place], cell[place] = (
        frames.analog,
        to_codes(frames.digital, detector),
        frames.cell,
    )
    index = file.create_group(f"INDEX/{source}/data")
    index["first"] = np.arange(len(trains), dtype=np.uint64)
    index["count"] = np.ones(len(trains), np.uint64)
    data = file.create_group(f"INSTRUMENT/{source}/data")
    data["trainId"] = trains.astype(np.uint64)
    data["memoryCell"], data["adc"], data["gain"] = cell, adc, gain
    data["frameNumber"] = np.arange(cell.size, dtype=np.uint64).reshape(cell.shape)
    return ["data"]


def write_lab(
    folder: Path,
    run: int,
    detector: Integrating,
    modules: Mapping[int, RawFrames],
    trains_per_part: int = 256,
    axes: tuple[str, str] = ("ss", "fs"),
) -> list[Path]:
    """Write files of the layout `lab`, with images in the given axes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for module, number, frames in _split(modules, trains_per_part):
        path = folder / f"run{run:04d}_m{module:02d}_part{number:05d}.h5"
        digital = to_codes(frames.digital, detector)
        with _create(path) as file:
            file.attrs.update(format=FORMAT, module=module, part=number, axes=list(axes))
            file["analog"] = from_common(frames.analog, axes)
            file["digital"] = from_common(digital, axes)
            file["cell"] = frames.cell.astype(np.int32)
            file["train"] = frames.train.astype(np.uint64)
        paths.append(path)
    return paths


def write_jungfrau(
    folder: Path,
    run: int,
    detector: Integrating,
    modules: Mapping[int, RawFrames],
    trains_per_part: int = 256,
) -> list[Path]:
    """Write one file per module and part, as the slsDetectorPackage does."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for module, number, frames in _split(modules, trains_per_part):
        path = folder / f"run_d{module}_f{number}_{run}.h5"
        with _create(path) as file:
            file["entry/data/data"] = pack(frames, detector)
            file["entry/data/frame number"] = frames.train.astype(np.uint64)
        paths.append(path)
    return paths


def write_stacked(
    path: Path, detector: Integrating, modules: Sequence[RawFrames], name: str = "JF07T32V01"
) -> None:
    """Write modules with the same frames in one file, as SwissFEL does."""
    with _create(path) as file:
        data = file.create_group(f"data/{name}")
        data["data"] = np.concatenate([pack(frames, detector) for frames in modules], axis=1)
        data["frame_index"] = modules[0].train.astype(np.uint64)[:, None]
        data["is_good_frame"] = np.ones((len(modules[0].train), 1), np.uint8)


def pack(frames: RawFrames, detector: Integrating) -> NDArray[np.uint16]:
    """Return JUNGFRAU's 16 bits: code of the gain stage, then the analogue part."""
    gain = to_codes(frames.digital, detector) << np.uint16(14)
    return np.asarray(gain | (frames.analog & np.uint16(0x3FFF)), np.uint16)


def to_codes(stages: NDArray[np.uint16], detector: Integrating) -> NDArray[np.uint16]:
    """Convert stage numbers to gain codes; invalid stages become the invalid code."""
    if detector.codes is None:
        return stages
    codes = np.full(256, _INVALID_CODE, np.uint16)
    codes[: len(detector.codes)] = detector.codes
    return codes[stages]


def _split(
    modules: Mapping[int, RawFrames], trains_per_part: int
) -> Iterator[tuple[int, int, RawFrames]]:
    first = min(int(frames.train.min()) for frames in modules.values())
    for module, frames in modules.items():
        part = (frames.train.astype(np.int64) - first) // trains_per_part
        for number in np.unique(part).tolist():
            yield module, number, frames.only(part == number)


@contextmanager
def _create(path: Path) -> Iterator[h5py.File]:
    partial = path.with_name(f".{path.name}.partial")
    with hdf5_output(partial) as file:
        yield file
    partial.replace(path)
