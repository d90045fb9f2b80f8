"""Read measurement and sample from NXRefine's files."""

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
    """Read monitor, attenuators, exposure, mask and temperature of one rotation, and notes.

    Parameters
    ----------
    n : int
        Number of frames of the raw file.
    monitor : str or None
        Name of the monitor; None: the signal of the group of monitors.

    Raises
    ------
    HklflowError
        If values are impossible or do not fit n frames, or none of the monitors has the given
        name.
    """
    group = file[name]
    notes: list[str] = []
    counts = _monitor(group, monitor, notes)
    if counts is not None and len(counts) != n:
        raise HklflowError(
            f"the monitor of {name} in {file.filename} has {len(counts)} values for {n} frames: "
            "frames are missing, or belong to another scan"
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
        notes.append("no monitor: if the experiment has none, set `import_scan: {monitor: none}`")
    return header, notes + list(_tilts(group))


def _tilts(group: Any) -> Iterator[str]:
    """Yield a note if yaw and pitch are pyFAI's rotations, which have other signs."""
    place = "instrument/calibration/refinement/parameters"
    tilts_of_axes = []
    for theirs, name in (("Rot1", "yaw"), ("Rot2", "pitch")):
        if find(group, f"{place}/{theirs}") is None or find(group, f"{DETECTOR}/{name}") is None:
            return
        tilt = number(group, f"{DETECTOR}/{name}")
        tilts_of_axes.append((np.degrees(number(group, f"{place}/{theirs}")) - tilt, tilt))
    off, tilts = zip(*tilts_of_axes, strict=True)
    if any(tilts) and max(map(abs, off)) < 1e-6:
        yield (
            "yaw and pitch are pyFAI's rotations, but NXRefine defines other signs; and the beam "
            "centre, if it is pyFAI's too, is half a pixel off (pyFAI counts from the edge of the "
            "first pixel, NXRefine from its centre): give the PONI file with --calibration, which "
            "is read correctly"
        )


def _monitor(group: Any, monitor: str | None, notes: list[str]) -> Floats | None:
    if not is_group(group, "monitor"):
        return None
    inside = group["monitor"]
    signal = inside.attrs.get("signal", b"")
    signal = signal.decode() if isinstance(signal, bytes) else str(signal)
    # NXRefine gives the dataset the name of the counter; older files call it data.
    for counter in (monitor, signal, "data"):
        if counter and find(inside, counter) is not None:
            break
    else:
        raise HklflowError(
            f"{inside.name} of {inside.file.filename} has no {monitor or 'signal'}, only "
            f"{', '.join(inside)}; give the name of the monitor"
        )
    if monitor and counter != monitor:
        notes.append(f"there is no monitor {monitor}; {counter} is used")
    counts = numbers(inside, counter)
    # As NXRefine does: the first and the last value are often not counted.
    ends = [i for i in (0, len(counts) - 1) if len(counts) > 2 and not counts[i] > 0]
    for i in ends:
        counts[i] = counts[1 if i == 0 else -2]
        notes.append(f"the monitor of frame {i} is not positive: its neighbour's value is used")
    return counts


def _transmission(group: Any, n: int) -> float | Floats | None:
    """Return the product of the transmissions of attenuators and filters."""
    transmissions = [
        numbers(group, f"instrument/{name}")
        for name in ("attenuator/attenuator_transmission", "filter/transmission")
        if find(group, f"instrument/{name}") is not None
    ]
    if not transmissions:
        return None
    total = np.ones(1)
    for value in transmissions:
        if len(value) not in (1, n):
            raise HklflowError(
                f"the transmission of {group.name} in {group.file.filename} has {len(value)} "
                f"values for {n} frames; correct the file"
            )
        total = total * value
    return float(total[0]) if len(total) == 1 or np.ptp(total) == 0 else total


def _exposure(group: Any) -> float | None:
    for name in (f"{DETECTOR}/frame_time", "data/frame_time"):
        if find(group, name) is not None:
            values = numbers(group, name)
            # Along the frames, it is the time at which each frame begins.
            time = float(values[0] if len(values) == 1 else np.diff(values).mean())
            return time if time > 0 else None
    return None


def _temperature(file: Any) -> float | None:
    field = find(file, "entry/sample/temperature")
    if field is None:
        return None
    value = float(np.mean(numbers(file, "entry/sample/temperature")))
    units = field.attrs.get("units", "K")
    units = (units.decode() if isinstance(units, bytes) else str(units)).strip().lower()
    if units in {"k", "kelvin", ""}:
        return value
    if units.lstrip("°").removeprefix("deg") in {"c", "celsius"}:
        return value + 273.15
    raise HklflowError(f"the temperature in {file.filename} is in {units!r}, not in K or C")


def read_cell(file: Any) -> tuple[float, float, float, float, float, float] | None:
    """Return the cell of the sample in Å and degrees; None if the file has none."""
    if any(find(file, f"entry/sample/unitcell_{name}") is None for name in CELL_NAMES):
        return None
    a, b, c, alpha, beta, gamma = (number(file, f"entry/sample/unitcell_{n}") for n in CELL_NAMES)
    return a, b, c, alpha, beta, gamma


def read_formula(file: Any) -> str:
    """Return the chemical formula of the sample."""
    return words(file, "entry/sample/chemical_formula")


def read_grid(file: Any) -> tuple[dict[str, Any], str]:
    """Return the grid of a parent as in ``refine_parent`` of the configuration, and a note.

    The axes of NXRefine are the lower edges of its voxels, since its transform rounds down. They
    are used as centres here, so that a voxel has the same name in both programs.
    """
    axes = [find(file, f"entry/nxscans/transform/Q{axis}") for axis in "hkl"]
    if any(axis is None or axis.ndim != 1 or len(axis) < 2 for axis in axes):
        return {}, ""
    values = [np.asarray(axis[()], float) for axis in axes]
    steps = [round(float(v[-1] - v[0]) / (len(v) - 1), 9) for v in values]
    if not np.isfinite(steps).all() or min(steps) <= 0:
        raise HklflowError(f"the grid in {file.filename} has steps {steps}; correct the file")
    ends = [[round(float(v[0]), 9), round(float(v[-1]), 9)] for v in values]
    note = "the grid is that of NXRefine; its volumes are shifted by half a voxel from hklflow's"
    if any(abs(low + high) > 0.5 * step for (low, high), step in zip(ends, steps, strict=True)):
        return {"grid_step": steps, "grid_range": ends}, note
    return {"grid_step": steps, "grid_limits": [high for _, high in ends]}, note
