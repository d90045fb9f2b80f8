"""Read the header of NXmx and Eiger HDF5 files: beam, detector and goniometer.

The axes of NeXus are hklflow's lab frame.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.values import HC
from hklflow.formats.eiger_geometry import simple_detector
from hklflow.formats.hdf5_file import open_file
from hklflow.formats.header import Header, per_frame
from hklflow.formats.nxfile import (
    constant,
    find,
    find_class,
    find_entry,
    find_group,
    located,
    numbers,
    read_values,
    scaled,
    text,
    word,
)
from hklflow.formats.nxtransformations import (
    axis_offset,
    axis_vector,
    carrier,
    chain_of,
    is_rotation,
    placement,
)
from hklflow.formats.raw_frames import Frames
from hklflow.formats.text_headers import NOTHING_STATED, Choices
from hklflow.formats.write_raw import BINNING, GAIN_FIELDS, INTEGRATES, READ_VARIANCE, READOUTS
from hklflow.geometry import Detector, Goniometer
from hklflow.images.gain import Stated
from hklflow.images.pixel_binning import PixelBinning

Floats = NDArray[np.float64]

# h c in eV Å.
# Fraction of a step: smaller deviations of angles are jitter of encoders, invisible in peaks.
_JITTER = 0.05


def _module(module: Any, shape: tuple[int, int]) -> tuple[Floats, Floats, Floats, float, float]:
    """Return the image origin, slow and fast direction, and pixel sizes, from one module."""
    slow, fast = (_required(module, f"{name}_pixel_direction") for name in ("slow", "fast"))
    pixels = [float(np.ravel(scaled(node, "length"))[0]) for node in (slow, fast)]
    placements: dict[str, tuple[Floats, Floats]] = {}

    def placed(node: Any | None) -> tuple[Floats, Floats]:
        """Return the placement of an axis, which often carries several others."""
        name = "." if node is None else str(node.name)
        if name not in placements:
            placements[name] = placement(node)
        return placements[name]

    carriers = [carrier(node, node.attrs.get("depends_on", ".")) for node in (slow, fast)]
    directions = [
        placed(by)[0] @ axis_vector(node) for node, by in zip((slow, fast), carriers, strict=True)
    ]
    offset = find(module, "module_offset")
    if offset is not None:
        _, origin = placed(offset)
    else:
        turn, shift = placed(carriers[1])
        origin = turn @ axis_offset(fast) + shift
    at = _data_origin(module)
    origin = origin - at[0] * pixels[0] * directions[0] - at[1] * pixels[1] * directions[1]
    return origin, directions[0], directions[1], pixels[0], pixels[1]


def _required(group: Any, name: str) -> Any:
    node = find(group, name)
    if node is None:
        raise HklflowError(f"{located(group)} has no {name}; correct the file")
    return node


def _data_origin(module: Any) -> Floats:
    """Return the first pixel (slow, fast) of a module in the image."""
    node = find(module, "data_origin")
    if node is None:
        return np.zeros(2)
    values = np.ravel(numbers(node))
    # For stacks, files may have (frame, slow, fast).
    if len(values) not in (2, 3) or not np.isfinite(values).all():
        raise HklflowError(
            f"{located(node)} is {values.tolist()}; it must be the first pixel (slow, fast) of the "
            "module: correct the file"
        )
    return values[-2:]


def _read_detector(
    group: Any, shape: tuple[int, int], choices: Choices
) -> tuple[Detector | None, str | None]:
    """Return the detector with its arm, and the reason if the file leaves it open."""
    single = find_group(group, "module")
    modules = find_class(group, "NXdetector_module") or ([] if single is None else [single])
    sensor = find(group, "sensor_thickness")
    thickness = None if sensor is None else constant(sensor, "length")
    if modules:
        if choices.arm is not None or choices.instrument is not None:
            name = "instrument" if choices.arm is None else "arm"
            raise HklflowError(
                f"{located(group)} states the place of its pixels: leave out --option {name}, or "
                "give a --calibration"
            )
        parts = [_module(module, shape) for module in modules]
        origin, slow, fast, pixel_slow, pixel_fast = parts[0]
        corners = np.array([[0, 0], [shape[0], 0], [0, shape[1]]])

        def place(part: tuple[Floats, Floats, Floats, float, float]) -> Floats:
            return part[0] + corners[:, :1] * part[3] * part[1] + corners[:, 1:] * part[4] * part[2]

        worst = max(float(np.abs(place(part) - place(parts[0])).max()) for part in parts)
        if worst > 0.01 * min(pixel_slow, pixel_fast):
            raise HklflowError(
                f"the {len(modules)} modules of {located(group)} lie up to "
                f"{worst / pixel_fast:.3g} pixels outside a common plane; hklflow reduces flat "
                "detectors"
            )
    else:
        return simple_detector(group, shape, thickness, choices)
    flat = Detector(shape, (pixel_slow, pixel_fast), origin, slow, fast, sensor_thickness=thickness)
    return flat, None


def _read_goniometer(sample: Any, n_frames: int) -> tuple[Goniometer | None, dict[str, Any]]:
    """Return the goniometer, and the fields start_deg, step_deg, angles_deg of the header."""
    depends_on = find(sample, "depends_on")
    if depends_on is None:
        # Angles without an axis: a sum of images whose headers have no goniometer.
        node = find(sample, "rotation_angle")
        if node is not None and np.size(node) == n_frames and "units" in node.attrs:
            return None, _scan_fields(node)
        return None, {}
    chain = chain_of(carrier(sample, word(depends_on)))
    axes = [axis for axis in reversed(chain) if is_rotation(axis)]
    if not axes:
        return None, {}
    angles = [np.ravel(scaled(axis, "angle")) for axis in axes]
    moving = moving_axes(angles)
    if len(moving) > 1:
        names = ", ".join(axes[i].name.rsplit("/", 1)[-1] for i in moving)
        raise HklflowError(
            f"the axes {names} of {axes[0].file.filename} all move during the scan; hklflow "
            "reduces scans of one axis"
        )
    full = [i for i, values in enumerate(angles) if n_frames > 1 and len(values) == n_frames]
    scan = (moving or full or _turned(axes, angles) or [0])[0]
    goniometer = Goniometer(
        tuple(axis.name.rsplit("/", 1)[-1] for axis in axes),
        np.array([axis_vector(axis) for axis in axes]),
        np.array([resting(values) for values in angles]),
        scan,
    )
    if moving and len(angles[scan]) != n_frames:
        raise HklflowError(
            f"{axes[scan].name} in {axes[scan].file.filename} has {len(angles[scan])} angles for "
            f"{n_frames} frames; data files are missing or of another scan, or the file is "
            "damaged: copy it again"
        )
    return goniometer, _scan_fields(axes[scan])


def _turned(axes: Sequence[Any], angles: Sequence[Floats]) -> list[int]:
    """Return the indices of axes that rotate during a frame, from fields next to each axis."""
    known = [i for i, values in enumerate(angles) if len(values)]
    return [i for i in known if _increment(axes[i], np.degrees(angles[i])) is not None]


def moving_axes(angles: Sequence[Floats]) -> list[int]:
    """Return the indices of axes that move during a scan, from the angles read for each.

    The axis with the largest range is the scan axis. For other axes, ranges below a twentieth of
    its step are jitter of their encoders.
    """
    ranges = [float(np.ptp(v[np.isfinite(v)])) if np.isfinite(v).any() else 0.0 for v in angles]
    if not any(ranges):
        return []
    scanned = int(np.argmax(ranges))
    jitter = _JITTER * ranges[scanned] / (len(angles[scanned]) - 1)
    return [i for i, width in enumerate(ranges) if i == scanned or width > jitter]


def resting(values: Floats) -> float:
    """Return the angle of a fixed axis: the mean of the values read."""
    known = values[np.isfinite(values)]
    # Relative to the first value, so that equal values give exactly this value.
    return float(known[0] + np.mean(known - known[0]) if len(known) else np.nan)


def _scan_fields(axis: Any) -> dict[str, Any]:
    """Return the fields start_deg, step_deg, angles_deg of the header from the scanned axis."""
    degrees = np.degrees(np.ravel(scaled(axis, "angle")))
    if not np.isfinite(degrees).all():
        return {"angles_deg": degrees}
    fields: dict[str, Any] = {"start_deg": float(degrees[0])}
    step = _increment(axis, degrees)
    if step is not None:
        even = degrees[0] + step * np.arange(len(degrees))
        if np.abs(degrees - even).max() <= _JITTER * abs(step):
            return fields | {"step_deg": step}
    if np.ptp(degrees) > 0:
        fields["angles_deg"] = degrees
    return fields


def _increment(axis: Any, degrees: Floats) -> float | None:
    """Return the width of a frame in degrees, from the angles or from fields next to the axis."""
    if len(degrees) > 1 and np.ptp(degrees) > 0:
        return float((degrees[-1] - degrees[0]) / (len(degrees) - 1))
    name = axis.name.rsplit("/", 1)[-1]
    unit = text(axis.attrs.get("units"))
    width = find(axis.parent, f"{name}_increment_set")
    if width is not None:
        return float(np.degrees(np.ravel(scaled(width, "angle", unit))[0])) or None
    end = find(axis.parent, f"{name}_end")
    if end is not None:
        return float(np.degrees(np.ravel(scaled(end, "angle", unit))[0])) - degrees[0] or None
    return None


def _read_beam(entry: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    parents = [find_group(entry, name) for name in ("instrument", "sample")]
    groups = [find_group(parent, "beam") for parent in parents if parent is not None]
    for parent in parents:
        groups += [] if parent is None else find_class(parent, "NXbeam")
    for beam in (group for group in groups if group is not None):
        wavelength = find(beam, "incident_wavelength")
        if wavelength is not None and "wavelength" not in fields:
            fields["wavelength"] = constant(wavelength, "wavelength")
        energy = find(beam, "incident_energy")
        if energy is not None and "wavelength" not in fields:
            fields["wavelength"] = _wavelength(energy)
        node = find(beam, "incident_polarization_stokes")
        if node is not None and "polarization" not in fields:
            stokes = np.ravel(numbers(node))
            if len(stokes) == 4 and not stokes.any():
                continue  # the field is empty
            if len(stokes) < 2 or not stokes[0] > 0:
                raise HklflowError(
                    f"{located(node)} is {stokes.tolist()}; it must be I, Q, U, V with I > 0: "
                    "correct the file"
                )
            fields["polarization"] = float((1 + stokes[1] / stokes[0]) / 2)
    return fields


def _wavelength(energy: Any) -> float:
    """Return the wavelength in Å from a photon energy."""
    value = constant(energy, "energy")
    if not value > 0:
        raise HklflowError(
            f"{located(energy)} is {value:g} eV, which is not a photon energy; correct the file"
        )
    return HC / value


def _temperature(sample: Any) -> dict[str, Any]:
    """Return the field temperature of the header, or the reason for doubt."""
    node = find(sample, "temperature")
    if node is None:
        return {}
    is_log = hasattr(node, "keys")
    # An NXlog has its numbers in ``value``.
    data = _required(node, "value") if is_log else node
    times = find(node, "time") if is_log else None
    if times is not None:
        doubt = _clock_doubt(np.ravel(numbers(times)), node)
        if doubt is not None:
            return {"temperature_doubt": doubt}
    return _kelvin(data, node)


def _kelvin(data: Any, node: Any) -> dict[str, Any]:
    value = float(np.mean(numbers(data)))
    unit = text(data.attrs.get("units", "K")).strip().lower().lstrip("°")
    if unit in {"k", "kelvin"}:
        return {"temperature": value}
    if unit in {"c", "celsius", "degc", "deg_c"}:
        return {"temperature": value + 273.15}
    return {
        "temperature_doubt": f"the temperature in {node.file.filename} has the unit {unit!r}, "
        "not K or C: give it in K in the scan table"
    }


def _clock_doubt(times: Floats, log: Any) -> str | None:
    """Return a message if the clock of a log jumps back: its values may be from another scan."""
    back = np.flatnonzero(~(np.diff(times) >= 0))
    if not len(back):
        return None
    at = int(back[0]) + 1
    return (
        f"the clock of the log {log.name} in {log.file.filename} jumps from {times[at - 1]:.9g} to "
        f"{times[at]:.9g} at its value {at}, so the temperature of this scan is not known: give it "
        "in the scan table"
    )


def read_nexus_header(path: Path, frames: Frames, choices: Choices = NOTHING_STATED) -> Header:
    """Read the header of an NXmx, Eiger or plain HDF5 file.

    ``choices`` are facts that the user states where the file leaves the geometry open.

    Raises
    ------
    HklflowError
        If units are unknown, chains of axes are broken, or hklflow does not support the geometry
        (curved detectors, two moving axes).
    """
    with open_file(path) as file:
        n, shape = frames.shape[0], (frames.shape[1], frames.shape[2])
        entry = find_entry(file)
        fields: dict[str, Any] = {"n_frames": n, **_read_beam(entry)}
        instrument = find_group(entry, "instrument")
        detectors = _detectors(entry, path)
        if detectors:
            fields.update(_detector_fields(detectors[0], shape, choices))
            if frames.dtype.kind == "f":
                fields.update(_noise_fields(detectors[0], shape))
        for group in [] if instrument is None else find_class(instrument, "NXattenuator"):
            node = find(group, "attenuator_transmission")
            if node is not None:
                value = numbers(node)
                # Attenuators are in series: their transmissions are multiplied.
                total = value * fields.get("transmission", 1.0)
                fields["transmission"] = float(total.ravel()[0]) if total.size == 1 else total
        fields.update(_monitor(entry, n, path))
        sample = find_group(entry, "sample")
        if sample is not None:
            fields.update(_temperature(sample))
            goniometer, angles = _read_goniometer(sample, n)
            fields.update(goniometer=goniometer, **angles)
        return Header(**fields)


def mask_bits(path: Path, shape: tuple[int, int]) -> NDArray[np.uint32] | None:
    """Return the bits of the pixel mask (slow, fast) of a file; None if it has no mask."""
    with open_file(path) as file:
        detectors = _detectors(find_entry(file), path)
        return _mask_bits(detectors[0], shape) if detectors else None


def binning_of(path: Path) -> int | None:
    """Return the side of the blocks that hklflow summed; None if it did not bin the frames."""
    with open_file(path) as file:
        detectors = _detectors(find_entry(file), path)
        binning = find(detectors[0], BINNING) if detectors else None
        return None if binning is None else int(constant(binning))


def _mask_bits(group: Any, shape: tuple[int, int]) -> NDArray[np.uint32] | None:
    mask = _detector_field(group, "pixel_mask")
    if mask is None:
        return None
    values = np.asarray(read_values(mask))
    kind = values.dtype.kind
    if kind not in "biuf" or (kind == "f" and not np.isfinite(values).all()):
        raise HklflowError(
            f"the pixel mask in {group.file.filename} has the type {values.dtype} or values that "
            "are not bits; correct the file"
        )
    bits = values.astype(np.uint32, copy=False)
    if kind == "f" or values.dtype.itemsize > 4:
        # Values that do not fit into 32 bits are bad as well.
        bits[(values != 0) & (bits == 0)] = 1
    # A mask per frame: a pixel is bad if it is bad in any frame.
    bits = np.bitwise_or.reduce(bits, axis=0) if bits.ndim == 3 else bits
    if bits.shape != shape:
        raise HklflowError(
            f"the pixel mask in {group.file.filename} has the shape {bits.shape}, but the frames "
            f"have {shape}; correct the file"
        )
    return bits


def _detector_field(group: Any, name: str) -> Any:
    """Return a field of a detector; fields of some makers are in the group ``detectorSpecific``."""
    node = find(group, name)
    specific = find_group(group, "detectorSpecific") if node is None else None
    return node if specific is None else find(specific, name)


def _detectors(entry: Any, path: Path) -> list[Any]:
    """Return the detector of an entry in a list; empty if it has none."""
    instrument = find_group(entry, "instrument")
    if instrument is None:
        return []
    single = find_group(instrument, "detector")
    detectors = find_class(instrument, "NXdetector") or ([] if single is None else [single])
    if len(detectors) > 1:
        raise HklflowError(
            f"{path} describes {len(detectors)} detectors; hklflow reduces one: split the file"
        )
    return detectors


def _monitor(entry: Any, n: int, path: Path) -> dict[str, Any]:
    """Return the field monitor of the header, or the reason for doubt."""
    fields = [find(group, "data") for group in find_class(entry, "NXmonitor")]
    monitors = [node for node in fields if node is not None]
    if not monitors:
        return {}
    if len(monitors) > 1:
        return {
            "monitor_doubt": f"{path} has {len(monitors)} monitors and does not say which to use: "
            "keep one, or set `import_scan: {monitor: none}`"
        }
    monitor = np.ravel(numbers(monitors[0]))
    if len(monitor) != n:
        return {
            "monitor_doubt": f"the monitor in {path} has {len(monitor)} values for {n} frames: "
            "data files are missing or from another scan, or the file is damaged: copy it again, "
            "or set `import_scan: {monitor: none}` if no frame is missing"
        }
    return {"monitor": monitor}


def _detector_fields(group: Any, shape: tuple[int, int], choices: Choices) -> dict[str, Any]:
    detector, doubt = _read_detector(group, shape, choices)
    fields: dict[str, Any] = {"detector": detector, "detector_doubt": doubt}
    for name in ("count_time", "frame_time"):
        node = find(group, name)
        if node is not None and "exposure_time" not in fields:
            fields["exposure_time"] = per_frame(scaled(node, "time"))
    bits = _mask_bits(group, shape)
    if bits is not None:
        fields["pixel_mask"] = bits != 0
    binning = find(group, BINNING)
    if binning is not None:
        slow, fast = (int(pixels) for pixels in binning.attrs["unbinned"])
        fields["binning"] = PixelBinning(int(constant(binning)), (slow, fast))
    material = find(group, "sensor_material")
    if material is not None:
        fields["sensor_material"] = word(material)
    for name in ("saturation_value", "countrate_correction_count_cutoff"):
        node = _detector_field(group, name)
        if node is not None and "saturation" not in fields:
            fields["saturation"] = constant(node)
    return fields | _gain_fields(group)


def _gain_fields(group: Any) -> dict[str, Any]:
    """Return the fields of an integrating detector; empty for photon counters."""
    nodes = {name: find(group, field) for name, field in GAIN_FIELDS.items()}
    numbers = {name: constant(node) for name, node in nodes.items() if node is not None}
    fields: dict[str, Any] = {"gain": Stated(**numbers)} if numbers else {}
    # A threshold of the pulse height is a setting of photon counters.
    if _detector_field(group, "threshold_energy") is not None:
        fields["integrates"] = False
    if (node := find(group, INTEGRATES)) is not None:
        fields["integrates"] = bool(constant(node))
    if (node := find(group, READOUTS)) is not None:
        fields["readouts"] = int(constant(node))
    return fields


def _noise_fields(group: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """Return the fields of read noise, for frames of floats; integers use negative flags."""
    fields: dict[str, Any] = {}
    underload = find(group, "underload_value")
    if underload is not None:
        fields["underload"] = constant(underload)
    node = find(group, READ_VARIANCE)
    if node is not None:
        variance = numbers(node)
        if variance.shape != shape or not np.all((variance >= 0) & np.isfinite(variance)):
            raise HklflowError(
                f"the read noise in {group.file.filename} has shape {variance.shape}, the frames "
                f"have {shape}, or it is not known for every pixel; correct the frames again"
            )
        fields["read_variance"] = variance
    return fields
