"""What NXRefine's files say of measurement and sample, beside the geometry."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.values import CELL_NAMES
from hklflow.formats.header import Header
from hklflow.formats.nxrefine_fields import DETECTOR, find, is_group, number, numbers, words

Floats = NDArray[np.float64]


def read_measurement(file: Any, name: str, n: int, monitor: str | None) -> tuple[Header, list[str]]:
    """Monitor, attenuators, exposure, mask and temperature of one rotation, and notes.

    Parameters
    ----------
    n : int
        Frames that there are.
    monitor : str or None
        Its name; None: the signal of the group of monitors.

    Raises
    ------
    HklflowError
        If values make no sense or are not for n frames, or there are monitors but none of them is
        the one.
    """
    group = file[name]
    notes: list[str] = []
    counts = _monitor(group, monitor, notes)
    if counts is not None and len(counts) != n:
        raise HklflowError(
            f"the monitor of {name} in {file.filename} has {len(counts)} values and there are {n} "
            "frames: some are missing, or they are another scan's"
        )
    mask = find(group, f"{DETECTOR}/pixel_mask", largest=None)
    header = Header(
        exposure_time=_exposure(group),
        monitor=counts,
        transmission=_transmission(group, n),
        temperature=_temperature(file),
        pixel_mask=None if mask is None else np.asarray(mask[()]) != 0,
    )
    if counts is None:
        notes.append("no monitor: if the experiment has none, set `import_scan: monitor: none`")
    return header, notes + list(_tilts(group))


def _tilts(group: Any) -> Iterator[str]:
    """Tell of pyFAI's geometry that was taken over as it is: other signs, another origin."""
    place = "instrument/calibration/refinement/parameters"
    found = []
    for theirs, own in (("Rot1", "yaw"), ("Rot2", "pitch")):
        if find(group, f"{place}/{theirs}") is None or find(group, f"{DETECTOR}/{own}") is None:
            return
        tilt = number(group, f"{DETECTOR}/{own}")
        found.append((np.degrees(number(group, f"{place}/{theirs}")) - tilt, tilt))
    off, tilts = zip(*found, strict=True)
    if any(tilts) and max(map(abs, off)) < 1e-6:
        yield (
            "yaw and pitch are pyFAI's rotations as they are, whose signs NXRefine takes for "
            "others, and the beam centre, if it is pyFAI's too, is half a pixel off (pyFAI counts "
            "from the edge of the first pixel, NXRefine from its centre): the PONI file as a "
            "--calibration has them right"
        )


def _monitor(group: Any, monitor: str | None, notes: list[str]) -> Floats | None:
    if not is_group(group, "monitor"):
        return None
    inside = group["monitor"]
    signal = inside.attrs.get("signal", b"")
    signal = signal.decode() if isinstance(signal, bytes) else str(signal)
    # NXRefine names the dataset after the counter; older files call it data.
    for wanted in (monitor, signal, "data"):
        if wanted and find(inside, wanted) is not None:
            break
    else:
        raise HklflowError(
            f"{inside.name} of {inside.file.filename} has no {monitor or 'signal'} but "
            f"{', '.join(inside)}; name the monitor"
        )
    if monitor and wanted != monitor:
        notes.append(f"there is no monitor {monitor}; {wanted} is taken")
    counts = numbers(inside, wanted)
    # NXRefine has the first and the last value of its neighbour: they are often not counted.
    ends = [i for i in (0, len(counts) - 1) if len(counts) > 2 and not counts[i] > 0]
    for i in ends:
        counts[i] = counts[1 if i == 0 else -2]
        notes.append(f"the monitor of frame {i} is not positive: it is that of its neighbour")
    return counts


def _transmission(group: Any, n: int) -> float | Floats | None:
    """Of attenuators and filters, which stand one behind the other."""
    found = [
        numbers(group, f"instrument/{name}")
        for name in ("attenuator/attenuator_transmission", "filter/transmission")
        if find(group, f"instrument/{name}") is not None
    ]
    if not found:
        return None
    total = np.ones(1)
    for value in found:
        if len(value) not in (1, n):
            raise HklflowError(
                f"the transmission of {group.name} in {group.file.filename} has {len(value)} "
                f"values for {n} frames; mend the file"
            )
        total = total * value
    return float(total[0]) if len(total) == 1 or np.ptp(total) == 0 else total


def _exposure(group: Any) -> float | None:
    for name in (f"{DETECTOR}/frame_time", "data/frame_time"):
        if find(group, name) is not None:
            values = numbers(group, name)
            # Along the frames it is the time at which each begins.
            time = float(values[0] if len(values) == 1 else np.diff(values).mean())
            return time if time > 0 else None
    return None


def _temperature(file: Any) -> float | None:
    found = find(file, "entry/sample/temperature")
    if found is None:
        return None
    value = float(np.mean(numbers(file, "entry/sample/temperature")))
    units = found.attrs.get("units", "K")
    units = (units.decode() if isinstance(units, bytes) else str(units)).strip().lower()
    if units in {"k", "kelvin", ""}:
        return value
    if units.lstrip("°").removeprefix("deg") in {"c", "celsius"}:
        return value + 273.15
    raise HklflowError(f"the temperature in {file.filename} is in {units!r}; K or C are known")


def read_cell(file: Any) -> tuple[float, float, float, float, float, float] | None:
    """Cell of the sample in Å and degrees; None if it is not in the file."""
    if any(find(file, f"entry/sample/unitcell_{name}") is None for name in CELL_NAMES):
        return None
    a, b, c, alpha, beta, gamma = (number(file, f"entry/sample/unitcell_{n}") for n in CELL_NAMES)
    return a, b, c, alpha, beta, gamma


def read_formula(file: Any) -> str:
    """Chemical formula of the sample."""
    return words(file, "entry/sample/chemical_formula")


def read_grid(file: Any) -> tuple[dict[str, Any], str]:
    """Grid of a parent as ``refine_parent`` of the configuration has it, and a note.

    NXRefine's axes are labels of the lower edges of its voxels, since its transform takes the
    next lower integer; they are taken for centres, so that both programs name voxels alike.
    """
    axes = [find(file, f"entry/nxscans/transform/Q{axis}") for axis in "hkl"]
    if any(axis is None or axis.ndim != 1 or len(axis) < 2 for axis in axes):
        return {}, ""
    values = [np.asarray(axis[()], float) for axis in axes]
    steps = [round(float(v[-1] - v[0]) / (len(v) - 1), 9) for v in values]
    if not np.isfinite(steps).all() or min(steps) <= 0:
        raise HklflowError(f"the grid in {file.filename} has steps {steps}; mend the file")
    ends = [[round(float(v[0]), 9), round(float(v[-1]), 9)] for v in values]
    note = "the grid is NXRefine's; its volumes are shifted by half a voxel from hklflow's"
    if any(abs(low + high) > 0.5 * step for (low, high), step in zip(ends, steps, strict=True)):
        return {"grid_step": steps, "grid_range": ends}, note
    return {"grid_step": steps, "grid_limits": [high for _, high in ends]}, note
