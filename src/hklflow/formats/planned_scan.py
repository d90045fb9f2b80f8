"""Planned scan files: light scan files that exist before their frames, and are filled by them.

A planned scan file states what will be measured: sample, temperature, angles, exposure, number of
frames, and the instrument. It links the files in which the frames will be. When they are measured,
`fill` compares the headers with the plan and adds what only the measurement knows: the monitor, the
exposure and transmission of each frame, the measured temperature.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.formats.hdf5_file import open_file
from hklflow.formats.header import Header
from hklflow.formats.light import CALIBRATION, is_light, links_of, sources_of, write_light
from hklflow.formats.nxfile import find, numbers, word
from hklflow.formats.raw import open_frames, read_header

_STATUS = "entry/import/status"
_SIZE = "entry/instrument/detector/module/data_size"
PLANNED, MEASURED = "planned", "measured"

_ANGLE = 1.0  # steps between planned and measured start
_STEP = 1e-3  # relative difference of the steps
_WAVELENGTH = 1e-3  # relative
_KELVIN, _WARM = 5.0, 0.02  # K, or relative

# Facts that the measurement knows better than the plan.
_MEASURED = (
    "monitor",
    "monitor_doubt",
    "transmission",
    "exposure_time",
    "temperature",
    "temperature_doubt",
    "underload",
    "read_variance",
    "integrates",
    "gain",
    "readouts",
)


@dataclass(frozen=True)
class Filled:
    """What became of a planned scan file.

    Attributes
    ----------
    path : Path
    notes : tuple of str
        Facts that were added, and a header that could not be read.
    """

    path: Path
    notes: tuple[str, ...]


def is_planned(path: Path) -> bool:
    """Return True if a raw file is a planned scan file that is not filled yet."""
    if not is_light(path) or not path.is_file():
        return False
    with open_file(path) as file:
        node = find(file, _STATUS)
        return node is not None and word(node) == PLANNED


def require_filled(raw: str) -> None:
    """Refuse a planned scan file that is not filled.

    Raises
    ------
    HklflowError
    """
    if is_planned(Path(raw)):
        raise HklflowError(
            f"{raw} is a planned scan file, and its measurement was not compared with the plan: "
            "add the scan with `hklflow watch` or `hklflow scan add`, which fill the file"
        )


def fill(path: Path) -> Filled:
    """Fill a planned scan file from the files of its frames, which must be complete.

    The new file replaces the old one at once. Nothing is written if the measurement contradicts the
    plan.

    Raises
    ------
    HklflowError
        If frames are missing or of another shape, or the headers of the frames contradict the plan;
        the message has all contradictions.
    """
    with open_frames(path) as frames:
        n, shape = frames.shape[0], (frames.shape[1], frames.shape[2])
    with open_file(path) as file:
        sample, source, instrument = _facts_of(file)
        planned = tuple(int(size) for size in np.ravel(numbers(file[_SIZE])))
    if shape != planned:
        raise _unlike(path, [f"its frames have {shape} pixels instead of {planned}"])
    plan = read_header(path)
    measured, notes = _measured(path)
    if problems := [*_contradictions(plan, measured, n, source)]:
        raise _unlike(path, problems)
    known = {name: getattr(measured, name) for name in _MEASURED}
    added = {name: value for name, value in known.items() if value is not None}
    header = replace(plan, **added)
    masks = [mask for mask in (plan.pixel_mask, measured.pixel_mask) if mask is not None]
    if masks:  # a pixel may have become bad since
        header = replace(header, pixel_mask=np.any(masks, axis=0))
    if plan.saturation is None:
        header = replace(header, saturation=measured.saturation)
    words = [name.replace("_", " ") for name in added if not name.endswith("_doubt")]
    notes = [f"{', '.join(words) or 'nothing'} from the measurement", *notes]
    source |= {"status": MEASURED, "filled": "; ".join(notes)}
    links = links_of(path)
    write_light(path, header, shape, links, sample=sample, source=source, instrument=instrument)
    return Filled(path, tuple(notes))


def _unlike(path: Path, problems: list[str]) -> HklflowError:
    return HklflowError(
        f"{path}: the measurement is not what was planned: {'; '.join(problems)}; plan the scan "
        "again (`hklflow scan plan`), or correct the name of the raw file"
    )


def _facts_of(file: Any) -> tuple[str, dict[str, Any], str | None]:
    """Return the sample, the notes, and the instrument file of a planned scan file."""
    name = find(file, "entry/sample/name")
    source = {key: _plain(node[()]) for key, node in file["entry/import"].items()}
    parent, _, last = CALIBRATION.rpartition("/")
    link = file[parent].get(last, getlink=True)
    instrument = link.filename if isinstance(link, h5py.ExternalLink) else None
    return "" if name is None else word(name), source, instrument


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _measured(path: Path) -> tuple[Header, list[str]]:
    """Return the header of the frames' own files, and a note if it cannot be read."""
    first = sources_of(path)[0][0]
    try:
        return read_header(first), []
    except HklflowError as error:
        return Header(), [f"the header of {first} is not used: {error}"]


def _contradictions(
    plan: Header, measured: Header, n: int, source: dict[str, Any]
) -> Iterator[str]:
    """Yield what the measurement has and the plan has not."""
    planned_n = int(source.get("frames", n))
    if n != planned_n:
        yield f"it has {n} frames instead of {planned_n}"
    steps = plan.step_deg, measured.step_deg
    if steps[0] is not None and steps[1] is not None:
        # Another program may count the angle in the other sense.
        if abs(abs(steps[1]) - abs(steps[0])) > _STEP * abs(steps[0]):
            yield f"its step is {steps[1]:g}° instead of {steps[0]:g}°"
        elif measured.start_deg is not None and plan.start_deg is not None:
            sense = np.sign(steps[0] * steps[1])
            if abs(sense * measured.start_deg - plan.start_deg) > _ANGLE * abs(steps[0]):
                yield (
                    f"it begins at {measured.start_deg:g}° with steps of {steps[1]:g}°, instead of "
                    f"{plan.start_deg:g}° with steps of {steps[0]:g}°"
                )
    if measured.angles_deg is not None:
        yield "its steps are not equal"
    waves = plan.wavelength, measured.wavelength
    if waves[0] and waves[1] and abs(waves[1] / waves[0] - 1) > _WAVELENGTH:
        yield f"its wavelength is {waves[1]:.6g} Å instead of {waves[0]:.6g} Å"
    here, there = plan.temperature, measured.temperature
    if here is None or there is None or abs(there - here) <= max(_KELVIN, _WARM * here):
        return
    yield f"its temperature is {there:g} K instead of {here:g} K"
