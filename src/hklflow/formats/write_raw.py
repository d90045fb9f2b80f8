"""Write raw frames as NXmx HDF5.

The writer takes plain arrays and numbers, so that simulated scans, sums of scans and tests can
write the files of a beamline; values that are None are not written. Lab vectors are NeXus (McStas)
vectors. The file is written under a temporary name and renamed when complete: a crash leaves no
file that looks finished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.hdf5_output import hdf5_output
from hklflow.formats.header import Header
from hklflow.formats.write_images import partial
from hklflow.geometry import Detector, Goniometer
from hklflow.images.gain import Stated
from hklflow.images.pixel_binning import PixelBinning

#: Field of NXdetector (no standard name): variance of the read noise (slow, fast), photons².
READ_VARIANCE = "read_variance"
# Fields of integrating detectors, in ADU; without them, the noise of the frames decides.
INTEGRATES, READOUTS = "integrates", "readouts_in_a_value"
GAIN_FIELDS = {"gain": "adu_per_photon", "offset": "adu_offset", "read_noise": "adu_read_noise"}
#: Field of NXdata, which cannot link images: pattern of their names, relative to the file's folder.
IMAGE_FILES = "image_files"
#: Field of NXdetector: binning factor of hklflow; the attribute ``unbinned`` has the number of
#: pixels (slow, fast) before binning.
BINNING = "hklflow_binning"

_DETECTOR = "/entry/instrument/detector"
# Smallest cosine of the angle between the beam and a plane's normal for which they intersect.
_MEETS = 1e-6
_AXES = "/entry/sample/transformations"


def _group(parent: Any, name: str, nx_class: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _field(group: Any, name: str, value: Any, units: str | None = None, **attrs: Any) -> Any:
    node = group.create_dataset(name, data=value)
    if units is not None:
        node.attrs["units"] = units
    for key, attribute in attrs.items():
        node.attrs[key] = attribute
    return node


def _transformation(
    group: Any,
    name: str,
    value: ArrayLike,
    units: str,
    kind: str,
    vector: NDArray[np.float64],
    depends_on: str,
) -> None:
    _field(
        group,
        name,
        value,
        units,
        transformation_type=kind,
        vector=vector,
        offset=np.zeros(3),
        offset_units="m",
        depends_on=depends_on,
    )


def _translation(
    group: Any, name: str, length: float, vector: NDArray[np.float64], depends_on: str
) -> None:
    _transformation(group, name, np.array([length]), "m", "translation", vector, depends_on)


def _write_angles(
    group: Any, name: str, begin: NDArray[np.float64], end: NDArray[np.float64] | None
) -> None:
    """Write the angles of an axis whose direction is not known."""
    _field(group, name, begin, "deg")
    if end is not None:
        _field(group, f"{name}_end", end, "deg")
        _field(group, f"{name}_increment_set", end - begin, "deg")


@dataclass(frozen=True, kw_only=True)
class NXmxHeader:
    """Header of one rotation scan for its NXmx file; None: not known, not written.

    Attributes
    ----------
    shape : (slow, fast)
        Number of pixels.
    pixel_size : (slow, fast)
        Pixel size, metres.
    origin : (3,) array or None
        Lab position in metres of the outer corner of pixel (0, 0); None: the geometry of the
        detector (with pixel size and directions) is not known.
    slow, fast : (3,) array
        Lab unit vectors along which the indices increase.
    wavelength : float
        Wavelength, Å.
    axis_names : sequence of n str
        Names of the axes; empty: goniometer not known, but the angles of the scan are written.
    axes : (n, 3) array
        Lab vectors at zero angles, the axis fixed to the laboratory first.
    angles : (n,) array
        Angles in radians; the angle of the scanned axis is ignored.
    scan_axis : int
        Index of the scanned axis.
    start, step : float or None
        Start of the scan and step, radians.
    scan_angles : (n_frames,) array or None
        Angle at the start of each frame, radians; only if the steps are not equal.
    n_frames : int
    exposure : float or (n_frames,) array or None
        Exposure time of a frame, seconds.
    monitor : (n_frames,) array or None
    pixel_mask : (slow, fast) uint32 array or None
        Pixel mask: 0 is good; bit 0 gap, bit 1 dead (NXdetector).
    sensor_material : str or None
    sensor_thickness : float or None
        Sensor thickness, metres.
    temperature : float or None
        Temperature of the sample, K.
    attenuator_transmission : float or (n_frames,) array or None
    polarization : float or None
        Fraction with the electric vector along lab x; written as Stokes vector.
    saturation : float or None
        Smallest count that is not reliable.
    underload : float or None
        Smallest valid value, for frames of floating point.
    read_variance : (slow, fast) array or None
        Variance of the read noise in photons².
    binning : PixelBinning or None
        Binning that hklflow applied; None: no binning.
    integrates, gain, readouts
        As in `hklflow.formats.header.Header`.
    sample_name, instrument_name : str or None
    dtype : numpy dtype
        Type of the pixels as stored.
    links : str, sequence of (file, path in it), or None
        Links to frames in other files: the pattern of a series of images, or the datasets of HDF5
        files in order. Then no frames are appended. Empty: a file without frames.
    """

    shape: tuple[int, int]
    n_frames: int
    pixel_size: tuple[float, float] | None = None
    origin: ArrayLike | None = None
    slow: ArrayLike | None = None
    fast: ArrayLike | None = None
    wavelength: float | None = None
    axis_names: Sequence[str] = ()
    axes: ArrayLike = ()
    angles: ArrayLike = ()
    scan_axis: int = 0
    start: float | None = None
    step: float | None = None
    scan_angles: ArrayLike | None = None
    exposure: float | NDArray[np.float64] | None = None
    monitor: ArrayLike | None = None
    pixel_mask: ArrayLike | None = None
    sensor_material: str | None = "Si"
    sensor_thickness: float | None = None
    temperature: float | None = None
    attenuator_transmission: ArrayLike | None = 1.0
    polarization: float | None = None
    saturation: float | None = 2**31 - 1
    underload: float | None = None
    read_variance: ArrayLike | None = None
    binning: PixelBinning | None = None
    integrates: bool | None = None
    gain: Stated | None = None
    readouts: int | None = None
    sample_name: str | None = "sample"
    instrument_name: str | None = "simulated beamline"
    dtype: DTypeLike = np.uint32
    links: str | Sequence[tuple[str, str]] | None = None

    def scan_degrees(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Return the angles at the start and the end of the frames; None if not known."""
        if self.scan_angles is not None:
            return np.degrees(np.asarray(self.scan_angles, dtype=np.float64)), None
        if self.start is None:
            return None, None
        if self.step is None:
            return np.full(self.n_frames, np.degrees(self.start)), None
        edges = np.degrees(self.start + self.step * np.arange(self.n_frames + 1))
        return edges[:-1], edges[1:]

    def require_shapes(self, path: Path) -> None:
        """Require that all arrays have the shapes that the scan needs."""
        n, per_frame = len(self.axis_names), (self.n_frames,)
        shapes: dict[str, tuple[int, ...]] = {
            "angles": (n,),
            "axes": (n, 3),
            "monitor": per_frame,
            "pixel_mask": tuple(self.shape),
            "read_variance": tuple(self.shape),
            "scan_angles": per_frame,
        }
        for name, needed in shapes.items():
            value = getattr(self, name)
            if name == "axes":
                value = np.reshape(value, (-1, 3))
            if value is not None and np.shape(value) != needed:
                raise HklflowError(
                    f"{name} for {path} has shape {np.shape(value)}, but the scan needs {needed}; "
                    "give an array of this shape"
                )


def geometry_facts(detector: Detector | None, goniometer: Goniometer | None) -> dict[str, Any]:
    """Return the header fields that follow from a detector and a goniometer."""
    facts: dict[str, Any] = {}
    if detector is not None:
        names = ("pixel_size", "origin", "slow", "fast", "sensor_thickness")
        facts |= {name: getattr(detector, name) for name in names}
    if goniometer is not None:
        facts |= {
            "axis_names": goniometer.names,
            "axes": goniometer.axes,
            "angles": goniometer.angles,
            "scan_axis": goniometer.scan,
        }
    return facts


def described(header: Header, shape: tuple[int, int], n_frames: int) -> NXmxHeader:
    """Return the scan's header for a file of other frames made from the raw file."""
    for value, doubt in (
        (header.detector, header.detector_doubt),
        (header.temperature, header.temperature_doubt),
        (header.monitor, header.monitor_doubt),
    ):
        if value is None and doubt is not None:
            print(f"warning: {doubt}")
    facts = geometry_facts(header.detector, header.goniometer)
    for key, value in (
        ("start", header.start_deg),
        ("step", header.step_deg),
        ("scan_angles", header.angles_deg),
    ):
        facts[key] = None if value is None else np.radians(value)
    return NXmxHeader(
        shape=shape,
        n_frames=n_frames,
        wavelength=header.wavelength,
        polarization=header.polarization,
        attenuator_transmission=header.transmission,
        exposure=header.exposure_time,
        monitor=header.monitor,
        temperature=header.temperature,
        sensor_material=header.sensor_material,
        binning=header.binning,
        integrates=header.integrates,
        gain=header.gain,
        readouts=header.readouts,
        sample_name=None,
        instrument_name=None,
        **facts,
    )


class NXmxWriter:
    """Writer of one rotation scan as NXmx, block after block; a context manager.

    If the context ends with an error, or with fewer frames than in the header, no file
    remains.

    Parameters
    ----------
    path : Path
    header : NXmxHeader

    Raises
    ------
    HklflowError
        If an array does not have the shape in the header, or the number of frames is wrong.
    """

    def __init__(self, path: Path, header: NXmxHeader) -> None:
        self.path = Path(path)
        self.header = header
        self.written = 0 if header.links is None else header.n_frames
        header.require_shapes(self.path)
        self._context = hdf5_output(partial(self.path), libver=("v108", "v110"))
        self._file = self._context.__enter__()
        try:
            self._write_header()
        except BaseException:
            self._abandon()
            raise

    def _write_header(self) -> None:
        """Write all fields that are known before the first frame."""
        header = self.header
        entry = _group(self._file, "entry", "NXentry")
        entry.attrs["default"] = "data"
        self._file.attrs["default"] = "entry"
        _field(entry, "definition", "NXmx", version="1.0")
        data = _group(entry, "data", "NXdata")
        data.attrs["signal"] = "data"
        if header.links is None:
            self._data = self._empty_frames(data)
        else:
            self._link(data, header.links)
        instrument = _group(entry, "instrument", "NXinstrument")
        if header.instrument_name is not None:
            _field(instrument, "name", header.instrument_name)
        self._write_beam(instrument)
        detector = _group(instrument, "detector", "NXdetector")
        self._write_detector(detector)
        if header.monitor is not None:
            monitor = _group(entry, "monitor", "NXmonitor")
            _field(monitor, "mode", "monitor")
            _field(monitor, "data", np.asarray(header.monitor, dtype=np.float64), "counts")
        self._write_sample(_group(entry, "sample", "NXsample"))
        if header.links is None:
            # A hard link: some readers look for the frames in the detector group.
            detector["data"] = self._data

    def _empty_frames(self, data: Any) -> Any:
        import hdf5plugin

        shape = self.header.shape
        return data.create_dataset(
            "data",
            shape=(0, *shape),
            maxshape=(self.header.n_frames, *shape),
            chunks=(1, *shape),
            dtype=np.dtype(self.header.dtype),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )

    @staticmethod
    def _link(data: Any, links: "str | Sequence[tuple[str, str]]") -> None:
        """Write the links to the frames; an instrument file has none."""
        import h5py

        if not links:
            del data.attrs["signal"]
            return
        if isinstance(links, str):
            _field(data, IMAGE_FILES, links)
            return
        names = ["data"] if len(links) == 1 else [f"data_{i:06d}" for i in range(1, len(links) + 1)]
        data.attrs["signal"] = names[0]
        for name, (file, inside) in zip(names, links, strict=True):
            data[name] = h5py.ExternalLink(file, inside)

    def _write_beam(self, instrument: Any) -> None:
        header = self.header
        beam = _group(instrument, "beam", "NXbeam")
        if header.wavelength is not None:
            _field(beam, "incident_wavelength", header.wavelength, "angstrom")
        if header.polarization is not None:
            stokes = np.array([1.0, 2 * header.polarization - 1, 0.0, 0.0])
            _field(beam, "incident_polarization_stokes", stokes)
        if header.attenuator_transmission is not None:
            attenuator = _group(instrument, "attenuator", "NXattenuator")
            _field(attenuator, "attenuator_transmission", header.attenuator_transmission)

    def _write_detector(self, detector: Any) -> None:
        header = self.header
        if header.origin is not None and header.pixel_size is not None:
            self._write_geometry(detector, header.origin, header.pixel_size)
        _field(detector, "description", "area detector")
        _field(detector, "type", "Pixel")
        exposure, bits = header.exposure, 8 * np.dtype(header.dtype).itemsize
        for name, value, units in (
            ("sensor_material", header.sensor_material, None),
            ("sensor_thickness", header.sensor_thickness, "m"),
            ("count_time", None if exposure is None else np.full(header.n_frames, exposure), "s"),
            # DIALS 3.12 accepts only one number.
            ("frame_time", None if isinstance(exposure, np.ndarray) else exposure, "s"),
            ("saturation_value", header.saturation, None),
            ("underload_value", header.underload, None),
            (READ_VARIANCE, header.read_variance, "photon^2"),
            ("bit_depth_image", None if header.links is not None else bits, None),
        ):
            if value is not None:
                _field(detector, name, value, units)
        self._write_gain(detector)
        if header.binning is not None:
            unbinned = np.array(header.binning.unbinned)
            _field(detector, BINNING, header.binning.factor, unbinned=unbinned)
        if header.pixel_mask is not None:
            _field(detector, "pixel_mask", np.asarray(header.pixel_mask, dtype=np.uint32))

    def _write_gain(self, detector: Any) -> None:
        if self.header.integrates is not None:
            _field(detector, INTEGRATES, np.uint8(self.header.integrates))
        if self.header.readouts is not None:
            _field(detector, READOUTS, self.header.readouts)
        for name, field in GAIN_FIELDS.items():
            value = None if self.header.gain is None else getattr(self.header.gain, name)
            if value is not None:
                _field(detector, field, value)

    def _write_geometry(
        self, detector: Any, origin: ArrayLike, pixel_size: tuple[float, float]
    ) -> None:
        corner, slow, fast = (
            np.asarray(vector, dtype=float)
            for vector in (origin, self.header.slow, self.header.fast)
        )
        normal = np.cross(fast, slow)
        normal = normal if normal @ corner > 0 else -normal
        distance = float(normal @ corner)
        _field(detector, "distance", distance, "m")
        moved = np.array([0.0, 0.0, 1.0])
        if normal[2] > _MEETS:
            beam = np.array([0.0, 0.0, distance / normal[2]]) - corner
            _field(detector, "beam_center_x", float(beam @ fast) / pixel_size[1], "pixel")
            _field(detector, "beam_center_y", float(beam @ slow) / pixel_size[0], "pixel")
        else:
            # On an arm at 90 degrees or more, the beam never meets the plane: no beam centre.
            moved = normal
        _field(detector, "x_pixel_size", pixel_size[1], "m")
        _field(detector, "y_pixel_size", pixel_size[0], "m")
        moves = _group(detector, "transformations", "NXtransformations")
        _translation(moves, "det_z", distance, moved, ".")
        det_z = f"{_DETECTOR}/transformations/det_z"
        _field(detector, "depends_on", det_z)
        module = _group(detector, "module", "NXdetector_module")
        _field(module, "data_origin", np.array([0, 0]))
        _field(module, "data_size", np.array(self.header.shape))
        shift = corner - distance * moved
        reach = float(np.linalg.norm(shift))
        direction = shift / reach if reach > 0 else np.array([1.0, 0.0, 0.0])
        _translation(module, "module_offset", reach, direction, det_z)
        offset = f"{_DETECTOR}/module/module_offset"
        _translation(module, "fast_pixel_direction", pixel_size[1], fast, offset)
        _translation(module, "slow_pixel_direction", pixel_size[0], slow, offset)

    def _write_sample(self, sample: Any) -> None:
        header = self.header
        if header.sample_name is not None:
            _field(sample, "name", header.sample_name)
        if header.temperature is not None:
            _field(sample, "temperature", header.temperature, "K")
        begin, end = header.scan_degrees()
        if not header.axis_names:
            if begin is not None:
                _write_angles(sample, "rotation_angle", begin, end)
            return
        group = _group(sample, "transformations", "NXtransformations")
        settings = np.degrees(np.asarray(header.angles))
        carrier = "."
        for i, name in enumerate(header.axis_names):
            # A scanned axis without angles keeps its setting.
            angles = settings[i : i + 1]
            if i == header.scan_axis and begin is not None:
                angles = begin
            vector = np.reshape(np.asarray(header.axes, dtype=np.float64), (-1, 3))[i]
            _transformation(group, name, angles, "deg", "rotation", vector, carrier)
            if i == header.scan_axis and end is not None:
                _field(group, f"{name}_end", end, "deg")
                _field(group, f"{name}_increment_set", end - angles, "deg")
            carrier = f"{_AXES}/{name}"
        _field(sample, "depends_on", carrier)

    def append(self, block: NDArray[Any]) -> None:
        """Append frames (n, slow, fast)."""
        after = self.written + len(block)
        shape, n_frames = tuple(self.header.shape), self.header.n_frames
        if block.shape[1:] != shape or after > n_frames:
            raise HklflowError(
                f"{self.path} needs {n_frames} frames of {shape}; a block of shape {block.shape} "
                f"after {self.written} frames does not fit"
            )
        dtype = np.dtype(self.header.dtype)
        if not np.can_cast(block.dtype, dtype, "same_kind"):
            raise HklflowError(
                f"frames of type {block.dtype} cannot be stored as {dtype} in {self.path}; give a "
                "`dtype` that can store them"
            )
        self._data.resize(after, axis=0)
        self._data[self.written : after] = block
        self.written = after

    def copy(self, file: Any, inside: str, name: str) -> None:
        """Copy a group of an open HDF5 file."""
        file.copy(inside, self._file, name)

    def link(self, name: str, file: str, inside: str) -> None:
        """Link a group of another file."""
        import h5py

        self._file[name] = h5py.ExternalLink(file, inside)

    def note(self, source: Mapping[str, Any]) -> None:
        """Write the sources of the header, as text or numbers by name, for people."""
        group = _group(self._file["entry"], "import", "NXcollection")
        for name, value in source.items():
            _field(group, name, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        if self.written != self.header.n_frames:
            self._abandon()
            raise HklflowError(
                f"{self.path} got {self.written} of {self.header.n_frames} frames; write all "
                "frames, or a header with fewer"
            )
        try:
            self._context.__exit__(None, None, None)
            partial(self.path).replace(self.path)
        finally:
            partial(self.path).unlink(missing_ok=True)

    def _abandon(self) -> None:
        try:
            self._context.__exit__(None, None, None)
        finally:
            partial(self.path).unlink(missing_ok=True)
