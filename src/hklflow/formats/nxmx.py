"""NXmx and Eiger HDF5 files: frames and header. NeXus axes are hklflow's lab frame.

A NeXus transformation moves a point by ``T(p) = R p + offset`` (rotation) or
``T(p) = p + value * vector + offset`` (translation); an axis `depends_on` the one
that carries it, up to ".", the laboratory (NeXus manual, NXtransformations).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.core.geometry import Detector, Goniometer, rotation_matrix
from hklflow.errors import HklflowError
from hklflow.formats.raw import Frames, Header

Floats = NDArray[np.float64]

UNITS = {
    "length": {
        **{"m": 1.0, "meter": 1.0, "metre": 1.0, "cm": 1e-2, "mm": 1e-3, "millimeter": 1e-3},
        **{"um": 1e-6, "µm": 1e-6, "micron": 1e-6, "nm": 1e-9},
    },
    "wavelength": {
        **{"angstrom": 1.0, "angstroms": 1.0, "a": 1.0, "å": 1.0},
        **{"nm": 10.0, "pm": 0.01, "m": 1e10},
    },
    "energy": {"ev": 1.0, "kev": 1e3},
    "angle": {
        **{"deg": np.pi / 180, "degree": np.pi / 180, "degrees": np.pi / 180, "°": np.pi / 180},
        **{"rad": 1.0, "radian": 1.0, "radians": 1.0},
    },
    "time": {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6},
}

# h c in eV Å.
HC = 12398.419843320026


def _open(path: Path) -> Any:
    import h5py
    import hdf5plugin  # noqa: F401  (registers bitshuffle, LZ4, zstd)

    if not path.is_file():
        raise HklflowError(f"raw file {path} does not exist; check the path in scans.tsv")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise HklflowError(
            f"{path} cannot be opened as HDF5 ({error}); it is truncated or still being "
            "written: copy it again"
        ) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _entry(file: Any) -> Any:
    for name in file:
        group = file.get(name)
        if group is not None and _text(group.attrs.get("NX_class", "")) == "NXentry":
            return group
    return file.get("entry", file)


@dataclass(frozen=True)
class _Segment:
    """A dataset with some of the frames, and the file and frames that it is."""

    data: Any
    path: Path
    first: int


class NexusFrames(Frames):
    """Frames of an HDF5 file: one dataset, or linked files data_000001, data_000002 ..."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path)
        try:
            self.files = [path]
            self._segments = list(self._find(path))
        except BaseException:
            self._file.close()
            raise
        shapes = {segment.data.shape[1:] for segment in self._segments}
        dtypes = {segment.data.dtype for segment in self._segments}
        if len(shapes) != 1 or len(dtypes) != 1 or len(next(iter(shapes))) != 2:
            self._file.close()
            raise HklflowError(
                f"the frames of {path} have shapes {sorted(shapes)} and types "
                f"{sorted(map(str, dtypes))}; they must be 2-D images of one kind"
            )
        slow, fast = next(iter(shapes))
        n = sum(segment.data.shape[0] for segment in self._segments)
        self.shape = (int(n), int(slow), int(fast))
        self.dtype = next(iter(dtypes))
        if len(self._segments) == 1:
            data = self._segments[0].data
            self.dataset = (Path(data.file.filename), data.name)

    def _find(self, path: Path) -> Iterator[_Segment]:
        entry = _entry(self._file)
        group = entry.get("data")
        if group is None or not hasattr(group, "keys"):
            raise HklflowError(f"{path} has no group {entry.name}/data; is it a raw data file?")
        # get(getlink) does not follow the link, so a missing file is seen below.
        names = sorted(
            (name for name in group if re.fullmatch(r"data_\d+", name)),
            key=lambda name: int(name[5:]),
        )
        if "data" in group:
            names = ["data"]
        if not names:
            raise HklflowError(
                f"{path} has neither data nor data_000001 in {group.name}; is it a raw data file?"
            )
        if names != ["data"]:
            numbers = [int(name[5:]) for name in names]
            gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
            if gaps:
                raise HklflowError(
                    f"{path} links no data_{gaps[0]:06d} between data_{numbers[0]:06d} and "
                    f"data_{numbers[-1]:06d}; the master file is damaged: copy it again"
                )
        first = 0
        for name in names:
            data, source = self._dataset(group, name, path, first)
            yield _Segment(data, source, first)
            first += data.shape[0]

    def _dataset(self, group: Any, name: str, path: Path, first: int) -> tuple[Any, Path]:
        import h5py

        link = group.get(name, getlink=True)
        source = path
        if isinstance(link, h5py.ExternalLink):
            source = path.parent / link.filename
            if not source.is_file():
                raise HklflowError(
                    f"{source} does not exist: {path} links it for frames from {first} on; "
                    "copy the data files next to the master file"
                )
            self.files.append(source)
        try:
            data = group[name]
        except (KeyError, OSError) as error:
            raise HklflowError(
                f"frames from {first} on cannot be read: {source} is truncated or has no "
                f"such dataset ({error}); copy it again"
            ) from error
        if data.is_virtual:
            # HDF5 fills frames of a missing source file with zeros without a word.
            for virtual in data.virtual_sources():
                if virtual.file_name == ".":
                    continue
                part = source.parent / virtual.file_name
                start = virtual.vspace.get_select_bounds()[0][0]
                if not part.is_file():
                    raise HklflowError(
                        f"{part} does not exist: {source} takes frames from {start} on from it; "
                        "copy the data files next to the master file"
                    )
                with _open(part) as opened:
                    if virtual.dset_name not in opened:
                        raise HklflowError(
                            f"{part} has no dataset {virtual.dset_name}, from which {source} "
                            f"takes frames from {start} on; copy it again"
                        )
                    _require_written(opened[virtual.dset_name], part, int(start))
                if part not in self.files:
                    self.files.append(part)
        else:
            _require_written(data, source, first)
        return data, source

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for segment in self._segments:
            low = max(start, segment.first)
            high = min(stop, segment.first + segment.data.shape[0])
            if low < high:
                part = block[low - start : high - start]
                _read_into(segment, low - segment.first, high - segment.first, part)
        return block

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read_into(segment: _Segment, low: int, high: int, out: NDArray[Any]) -> None:
    try:
        segment.data.read_direct(out, np.s_[low:high])
        return
    except OSError as error:
        problem = error
    frame = low
    for frame in range(low, high):
        try:
            segment.data[frame]
        except OSError:
            break
    raise HklflowError(
        f"frame {segment.first + frame} cannot be read from {segment.path} ({problem}); the file "
        "is truncated or damaged: copy it again"
    )


def _require_written(data: Any, path: Path, first: int) -> None:
    """Refuse datasets that were made for more frames than were written.

    HDF5 reads frames that were never written as zeros.
    """
    if data.chunks is None:
        if data.size and data.id.get_storage_size() == 0 and data.external is None:
            raise HklflowError(f"no frame was written to {path}; copy it again")
        return
    grid = [-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True)]
    if data.id.get_num_chunks() >= int(np.prod(grid)):
        return
    for frame in range(0, data.shape[0], data.chunks[0]):
        for corner in np.ndindex(*grid[1:]):
            where = (frame, *(i * c for i, c in zip(corner, data.chunks[1:], strict=True)))
            if data.id.get_chunk_info_by_coord(where).byte_offset is None:
                raise HklflowError(
                    f"frame {first + frame} was never written to {path}: the collection was "
                    f"aborted or the copy is incomplete; copy it again"
                )


def _scaled(node: Any, kind: str, default: str | None = None) -> Floats:
    """Values of a dataset in hklflow's unit of this kind."""
    unit = _text(node.attrs.get("units", default if default is not None else ""))
    factor = UNITS[kind].get(unit.strip().lower())
    if factor is None:
        raise HklflowError(
            f"{node.name} in {node.file.filename} has the unit {unit!r}, which is no {kind} that "
            "hklflow knows; mend the file"
        )
    return np.asarray(node[()], dtype=np.float64) * factor


def _first(node: Any, kind: str) -> float:
    return float(np.ravel(_scaled(node, kind))[0])


def _find_class(group: Any, name: str) -> list[Any]:
    """Direct children of an NX_class."""
    found = [group.get(key) for key in group]
    return [g for g in found if g is not None and _text(g.attrs.get("NX_class", "")) == name]


def _depends(node: Any, text: Any) -> Any | None:
    """Find the node that a `depends_on` names; None is the laboratory."""
    name = _text(text).strip()
    if name in {"", "."}:
        return None
    base = node.file if name.startswith("/") else node if hasattr(node, "keys") else node.parent
    if name not in base:
        raise HklflowError(
            f"{node.name} in {node.file.filename} depends on {name}, which is not in the file; "
            "mend the file"
        )
    return base[name]


def _chain(node: Any | None) -> list[Any]:
    """List the axis and what carries it, innermost first."""
    chain: list[Any] = []
    while node is not None:
        if len(chain) > 100:
            raise HklflowError(f"the depends_on chain of {chain[0].name} has no end; mend the file")
        chain.append(node)
        node = _depends(node, node.attrs.get("depends_on", "."))
    return chain


def _offset(node: Any) -> Floats:
    offset = np.asarray(node.attrs.get("offset", np.zeros(3)), dtype=np.float64)
    if not offset.any():
        return offset
    unit = _text(node.attrs.get("offset_units", node.attrs.get("units", "")))
    factor = UNITS["length"].get(unit.lower())
    if factor is None:
        raise HklflowError(
            f"the offset of {node.name} in {node.file.filename} has no length unit but {unit!r}; "
            "mend the file"
        )
    return offset * factor


def _vector(node: Any) -> Floats:
    if "vector" not in node.attrs:
        raise HklflowError(f"{node.name} in {node.file.filename} has no vector; mend the file")
    vector = np.asarray(node.attrs["vector"], dtype=np.float64)
    return vector / np.linalg.norm(vector)


def _is_rotation(node: Any) -> bool:
    kind = _text(node.attrs.get("transformation_type", ""))
    if kind not in {"rotation", "translation"}:
        raise HklflowError(
            f"{node.name} in {node.file.filename} is a {kind or 'nothing'}, neither rotation nor "
            "translation; mend its transformation_type"
        )
    return kind == "rotation"


def _placement(node: Any | None) -> tuple[Floats, Floats]:
    """Rotation (3, 3) and shift (3,) to the lab of what hangs on this axis."""
    turn, shift = np.eye(3), np.zeros(3)
    for axis in _chain(node):
        rotation = _is_rotation(axis)
        values = np.ravel(_scaled(axis, "angle" if rotation else "length"))
        if np.ptp(values) > (1e-9 if rotation else 1e-12):
            raise HklflowError(
                f"{axis.name} in {axis.file.filename} moves the detector during the scan; only a "
                "resting detector can be reduced"
            )
        if rotation:
            matrix = rotation_matrix(_vector(axis), values[0])
            turn, shift = matrix @ turn, matrix @ shift
        else:
            shift = shift + values[0] * _vector(axis)
        shift = shift + _offset(axis)
    return turn, shift


def _module(module: Any, shape: tuple[int, int]) -> tuple[Floats, Floats, Floats, float, float]:
    """Origin of the whole image, slow and fast direction, and pixel sizes, of one module."""
    slow, fast = module["slow_pixel_direction"], module["fast_pixel_direction"]
    pixels = [float(np.ravel(_scaled(node, "length"))[0]) for node in (slow, fast)]
    directions = []
    for node in (slow, fast):
        turn, _ = _placement(_depends(node, node.attrs.get("depends_on", ".")))
        directions.append(turn @ _vector(node))
    if "module_offset" in module:
        _, origin = _placement(module["module_offset"])
    else:
        turn, shift = _placement(_depends(fast, fast.attrs.get("depends_on", ".")))
        origin = turn @ _offset(fast) + shift
    if "data_origin" in module:
        # Stacks may give (frame, slow, fast).
        at = np.ravel(module["data_origin"][()])[-2:]
        origin = origin - at[0] * pixels[0] * directions[0] - at[1] * pixels[1] * directions[1]
    return origin, directions[0], directions[1], pixels[0], pixels[1]


def _read_detector(group: Any, shape: tuple[int, int]) -> Detector | None:
    modules = _find_class(group, "NXdetector_module") or (
        [group["module"]] if "module" in group else []
    )
    thickness = _first(group["sensor_thickness"], "length") if "sensor_thickness" in group else None
    if modules:
        parts = [_module(module, shape) for module in modules]
        origin, slow, fast, pixel_slow, pixel_fast = parts[0]
        corners = np.array([[0, 0], [shape[0], 0], [0, shape[1]]])

        def place(part: tuple[Floats, Floats, Floats, float, float]) -> Floats:
            return part[0] + corners[:, :1] * part[3] * part[1] + corners[:, 1:] * part[4] * part[2]

        worst = max(float(np.abs(place(part) - place(parts[0])).max()) for part in parts)
        if worst > 0.01 * min(pixel_slow, pixel_fast):
            raise HklflowError(
                f"the {len(modules)} modules of {group.name} in {group.file.filename} lie up to "
                f"{worst / pixel_fast:.3g} pixels off one common plane; hklflow reduces flat "
                "detectors"
            )
    else:
        needed = ("beam_center_x", "beam_center_y", "x_pixel_size", "y_pixel_size")
        distance = next((n for n in ("detector_distance", "distance") if n in group), None)
        if distance is None or not all(name in group for name in needed):
            return None
        # The usual mounting: from the sample fast runs to -x and slow to -y.
        slow, fast = np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0])
        pixel_fast = _first(group["x_pixel_size"], "length")
        pixel_slow = _first(group["y_pixel_size"], "length")
        x, y = (float(np.ravel(group[name][()])[0]) for name in needed[:2])
        origin = -x * pixel_fast * fast - y * pixel_slow * slow
        origin = origin + np.array([0, 0, _first(group[distance], "length")])
    return Detector(shape, (pixel_slow, pixel_fast), origin, slow, fast, sensor_thickness=thickness)


def _read_goniometer(sample: Any, n_frames: int) -> tuple[Goniometer | None, dict[str, Any]]:
    """Goniometer, and the fields start_deg, step_deg, angles_deg of the header."""
    if "depends_on" not in sample:
        return None, {}
    chain = _chain(_depends(sample, sample["depends_on"][()]))
    axes = [axis for axis in reversed(chain) if _is_rotation(axis)]
    if not axes:
        return None, {}
    angles = [np.ravel(_scaled(axis, "angle")) for axis in axes]
    moving = [i for i, values in enumerate(angles) if len(values) > 1 and np.ptp(values) > 0]
    if len(moving) > 1:
        names = ", ".join(axes[i].name.rsplit("/", 1)[-1] for i in moving)
        raise HklflowError(
            f"the axes {names} of {axes[0].file.filename} all move during the scan; hklflow "
            "reduces scans of one axis"
        )
    full = [i for i, values in enumerate(angles) if n_frames > 1 and len(values) == n_frames]
    scan = (moving or full or [0])[0]
    goniometer = Goniometer(
        tuple(axis.name.rsplit("/", 1)[-1] for axis in axes),
        np.array([_vector(axis) for axis in axes]),
        np.array([values[0] for values in angles]),
        scan,
    )
    values = angles[scan]
    if moving and len(values) != n_frames:
        raise HklflowError(
            f"{axes[scan].name} in {axes[scan].file.filename} has {len(values)} angles for "
            f"{n_frames} frames; the file is incomplete"
        )
    degrees = np.degrees(values)
    fields: dict[str, Any] = {"start_deg": float(degrees[0])}
    step = _increment(axes[scan], degrees)
    if step is not None:
        even = degrees[0] + step * np.arange(len(degrees))
        # A twentieth of a frame is below what encoders' jitter does to a peak.
        if np.abs(degrees - even).max() <= 0.05 * abs(step):
            fields["step_deg"] = step
            return goniometer, fields
    if moving:
        fields["angles_deg"] = degrees
    return goniometer, fields


def _increment(axis: Any, degrees: Floats) -> float | None:
    """Width of a frame in degrees: from the angles, else from the neighbours of the axis."""
    if len(degrees) > 1 and np.ptp(degrees) > 0:
        return float((degrees[-1] - degrees[0]) / (len(degrees) - 1))
    name = axis.name.rsplit("/", 1)[-1]
    if f"{name}_increment_set" in axis.parent:
        node = axis.parent[f"{name}_increment_set"]
        unit = axis.attrs.get("units")
        width = float(np.degrees(np.ravel(_scaled(node, "angle", _text(unit)))[0]))
        return width or None
    if f"{name}_end" in axis.parent:
        node = axis.parent[f"{name}_end"]
        unit = axis.attrs.get("units")
        end = float(np.degrees(np.ravel(_scaled(node, "angle", _text(unit)))[0]))
        return end - float(degrees[0]) or None
    return None


def _read_beam(entry: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    groups = [entry.get("instrument/beam"), entry.get("sample/beam")]
    for parent in ("instrument", "sample"):
        if parent in entry:
            groups += _find_class(entry[parent], "NXbeam")
    for beam in (group for group in groups if group is not None):
        if "incident_wavelength" in beam and "wavelength" not in fields:
            fields["wavelength"] = _first(beam["incident_wavelength"], "wavelength")
        if "incident_energy" in beam and "wavelength" not in fields:
            fields["wavelength"] = HC / _first(beam["incident_energy"], "energy")
        if "incident_polarization_stokes" in beam and "polarization" not in fields:
            stokes = np.ravel(beam["incident_polarization_stokes"][()]).astype(float)
            fields["polarization"] = float((1 + stokes[1] / stokes[0]) / 2)
    return fields


def _temperature(sample: Any) -> float | None:
    node = sample.get("temperature")
    if node is None:
        return None
    # An NXlog keeps its numbers in value.
    data = node["value"] if hasattr(node, "keys") else node
    value = float(np.mean(data[()]))
    unit = _text(data.attrs.get("units", "K")).strip().lower().lstrip("°")
    if unit in {"k", "kelvin"}:
        return value
    if unit in {"c", "celsius", "degc", "deg_c"}:
        return value + 273.15
    raise HklflowError(
        f"the temperature in {node.file.filename} has the unit {unit!r}; K or C are known"
    )


def read_nexus_header(path: Path) -> Header:
    """Read what an NXmx, Eiger or plain HDF5 file says.

    Raises
    ------
    HklflowError
        If units are unknown, chains of axes are broken, or the geometry is one that
        hklflow cannot hold (curved detectors, two moving axes).
    """
    with NexusFrames(path) as frames, _open(path) as file:
        n, shape = frames.shape[0], (frames.shape[1], frames.shape[2])
        entry = _entry(file)
        fields: dict[str, Any] = {"n_frames": n, **_read_beam(entry)}
        instrument = entry.get("instrument")
        detectors = [] if instrument is None else _find_class(instrument, "NXdetector")
        if not detectors and instrument is not None and "detector" in instrument:
            detectors = [instrument["detector"]]
        if len(detectors) > 1:
            raise HklflowError(
                f"{path} describes {len(detectors)} detectors; hklflow reduces one: split the file"
            )
        if detectors:
            fields.update(_detector_fields(detectors[0], shape))
        for group in [] if instrument is None else _find_class(instrument, "NXattenuator"):
            if "attenuator_transmission" in group:
                value = np.asarray(group["attenuator_transmission"][()], dtype=np.float64)
                fields["transmission"] = float(value.ravel()[0]) if value.size == 1 else value
        fields["monitor"] = _monitor(entry, n, path)
        if "sample" in entry:
            fields["temperature"] = _temperature(entry["sample"])
            goniometer, angles = _read_goniometer(entry["sample"], n)
            fields.update(goniometer=goniometer, **angles)
        return Header(**fields)


def _monitor(entry: Any, n: int, path: Path) -> Floats | None:
    monitors = [group["data"] for group in _find_class(entry, "NXmonitor") if "data" in group]
    if not monitors:
        return None
    if len(monitors) > 1:
        raise HklflowError(
            f"{path} has {len(monitors)} monitors; which one counts is not said: keep one"
        )
    monitor = np.ravel(monitors[0][()]).astype(np.float64)
    if len(monitor) != n:
        raise HklflowError(
            f"the monitor in {path} has {len(monitor)} values for {n} frames; mend the file"
        )
    return monitor


def _detector_fields(group: Any, shape: tuple[int, int]) -> dict[str, Any]:
    fields: dict[str, Any] = {"detector": _read_detector(group, shape)}
    specific = group.get("detectorSpecific", {})
    for name in ("count_time", "frame_time"):
        if name in group and "exposure_time" not in fields:
            fields["exposure_time"] = _first(group[name], "time")
    mask = group.get("pixel_mask", specific.get("pixel_mask"))
    if mask is not None:
        bad = np.asarray(mask[()]) != 0
        # A mask per frame: bad in any.
        bad = bad.any(axis=0) if bad.ndim == 3 else bad
        if bad.shape != shape:
            raise HklflowError(
                f"the pixel mask in {group.file.filename} is {bad.shape} but the frames are "
                f"{shape}; mend the file"
            )
        fields["pixel_mask"] = bad
    for name in ("saturation_value", "countrate_correction_count_cutoff"):
        node = group.get(name, specific.get(name))
        if node is not None and "saturation" not in fields:
            fields["saturation"] = float(np.ravel(node[()])[0])
    return fields
