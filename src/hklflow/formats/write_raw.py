"""Writer of raw frames as NXmx HDF5.

It takes plain arrays and numbers, so that simulated scans, sums of scans and tests can
write what a beamline would; what is None is not known and not written. Lab vectors
are NeXus (McStas) vectors as they are. The file is written under a temporary name and
renamed when complete: a crash leaves nothing that looks finished.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.hdf5_output import hdf5_output
from hklflow.formats.header import Header
from hklflow.formats.write_images import partial
from hklflow.images.pixel_binning import PixelBinning

#: In NXdetector, which has no name for it: variance of the read noise (slow, fast), photons².
READ_VARIANCE = "read_variance"
#: In NXdata, which cannot link images: the pattern of their names, from the file's folder.
IMAGE_FILES = "image_files"
#: In NXdetector: pixels along each side of the blocks that hklflow summed; the attribute
#: ``unbinned`` has the pixels (slow, fast) before.
BINNING = "hklflow_binning"

_DETECTOR = "/entry/instrument/detector"
# Cosine of the angle between the beam and a plane's normal, below which they do not meet.
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


def _write_angles(
    group: Any, name: str, begin: NDArray[np.float64], end: NDArray[np.float64] | None
) -> None:
    """Angles of an axis whose direction is not known."""
    _field(group, name, begin, "deg")
    if end is not None:
        _field(group, f"{name}_end", end, "deg")
        _field(group, f"{name}_increment_set", end - begin, "deg")


def described(header: Header) -> dict[str, Any]:
    """Keyword arguments of `NXmxWriter` for what a raw file says that others are made from."""
    for value, doubt in (
        (header.temperature, header.temperature_doubt),
        (header.monitor, header.monitor_doubt),
    ):
        if value is None and doubt is not None:
            print(f"warning: {doubt}")
    found: dict[str, Any] = {
        "wavelength": header.wavelength,
        "polarization": header.polarization,
        "attenuator_transmission": header.transmission,
        "exposure": header.exposure_time,
        "monitor": header.monitor,
        "temperature": header.temperature,
        "sensor_material": header.sensor_material,
        "binning": header.binning,
        "sample_name": None,
        "instrument_name": None,
    }
    detector, goniometer = header.detector, header.goniometer
    if detector is not None:
        names = ("pixel_size", "origin", "slow", "fast", "sensor_thickness")
        found |= {name: getattr(detector, name) for name in names}
    if goniometer is not None:
        found |= {
            "axis_names": goniometer.names,
            "axes": goniometer.axes,
            "angles": goniometer.angles,
            "scan_axis": goniometer.scan,
        }
    for key, value in (
        ("start", header.start_deg),
        ("step", header.step_deg),
        ("scan_angles", header.angles_deg),
    ):
        found[key] = None if value is None else np.radians(value)
    return found


class NXmxWriter:
    """Write one rotation scan as NXmx, block after block; a context manager.

    Leaving the context by an error, or with fewer frames than announced, leaves
    no file.

    Parameters
    ----------
    path : Path
    shape : (slow, fast)
        Pixels.
    pixel_size : (slow, fast)
        Metres.
    origin : (3,) array or None
        Lab position in metres of the outer corner of pixel (0, 0); None: the detector's
        geometry (with pixel size and directions) is not known.
    slow, fast : (3,) array
        Lab unit vectors of increasing index.
    wavelength : float
        Å.
    axis_names : sequence of n str
        None of them: the goniometer is not known; the angles of the scan are written all the same.
    axes : (n, 3) array
        Lab vectors at zero, the axis fixed to the laboratory first.
    angles : (n,) array
        Setting in radians; that of the scanned axis is ignored.
    scan_axis : int
        Which axis is scanned.
    start, step : float or None
        Radians.
    scan_angles : (n_frames,) array or None
        Radians at the start of each frame, where they are not evenly spaced.
    n_frames : int
    exposure : float or None
        Seconds per frame.
    monitor : (n_frames,) array or None
    pixel_mask : (slow, fast) uint32 array or None
        0 is good; bit 0 gap, bit 1 dead (NXdetector).
    sensor_material : str or None
    sensor_thickness : float or None
        Metres.
    temperature : float or None
        Of the sample, K.
    attenuator_transmission : float or (n_frames,) array or None
    polarization : float or None
        Fraction with the electric vector along lab x; written as Stokes vector.
    saturation : float or None
        First count that is not to be believed.
    underload : float or None
        Smallest value that is a measurement, for frames of floating point.
    read_variance : (slow, fast) array or None
        Variance of the read noise in photons².
    binning : PixelBinning or None
        How pixels were summed in blocks, if they were.
    sample_name, instrument_name : str or None
    dtype : numpy dtype
        Of the pixels as stored.
    links : str, sequence of (file, path in it), or None
        Where the frames are, if they stay elsewhere: the pattern of a series of images, or the
        datasets of HDF5 files that hold them in order. There is nothing to append then.

    Raises
    ------
    HklflowError
        If arrays do not have the announced shapes, or frames are missing or too many.
    """

    def __init__(
        self,
        path: Path,
        *,
        shape: tuple[int, int],
        n_frames: int,
        pixel_size: tuple[float, float] | None = None,
        origin: ArrayLike | None = None,
        slow: ArrayLike | None = None,
        fast: ArrayLike | None = None,
        wavelength: float | None = None,
        axis_names: Sequence[str] = (),
        axes: ArrayLike = (),
        angles: ArrayLike = (),
        scan_axis: int = 0,
        start: float | None = None,
        step: float | None = None,
        scan_angles: ArrayLike | None = None,
        exposure: float | None = None,
        monitor: ArrayLike | None = None,
        pixel_mask: ArrayLike | None = None,
        sensor_material: str | None = "Si",
        sensor_thickness: float | None = None,
        temperature: float | None = None,
        attenuator_transmission: ArrayLike | None = 1.0,
        polarization: float | None = None,
        saturation: float | None = 2**31 - 1,
        underload: float | None = None,
        read_variance: ArrayLike | None = None,
        binning: PixelBinning | None = None,
        sample_name: str | None = "sample",
        instrument_name: str | None = "simulated beamline",
        dtype: Any = np.uint32,
        links: "str | Sequence[tuple[str, str]] | None" = None,
    ) -> None:
        self.path = Path(path)
        self.shape = shape
        self.n_frames = n_frames
        self.written = 0 if links is None else n_frames
        self._dtype = np.dtype(dtype)
        axes = np.asarray(axes, dtype=np.float64).reshape(-1, 3)
        lengths: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
            "angles": (np.shape(angles), (len(axis_names),)),
            "axes": (axes.shape, (len(axis_names), 3)),
        }
        if monitor is not None:
            lengths["monitor"] = (np.shape(monitor), (n_frames,))
        if pixel_mask is not None:
            lengths["pixel_mask"] = (np.shape(pixel_mask), shape)
        if read_variance is not None:
            lengths["read_variance"] = (np.shape(read_variance), shape)
        if scan_angles is not None:
            lengths["scan_angles"] = (np.shape(scan_angles), (n_frames,))
        for name, (found, wanted) in lengths.items():
            if found != wanted:
                raise HklflowError(
                    f"{name} for {self.path} has shape {found}, not {wanted}; give one that fits "
                    "the scan"
                )
        import hdf5plugin

        self._context = hdf5_output(partial(self.path), libver=("v108", "v110"))
        self._file = self._context.__enter__()
        try:
            entry = _group(self._file, "entry", "NXentry")
            entry.attrs["default"] = "data"
            self._file.attrs["default"] = "entry"
            _field(entry, "definition", "NXmx", version="1.0")
            data = _group(entry, "data", "NXdata")
            data.attrs["signal"] = "data"
            if links is None:
                self._data = data.create_dataset(
                    "data",
                    shape=(0, *shape),
                    maxshape=(n_frames, *shape),
                    chunks=(1, *shape),
                    dtype=self._dtype,
                    **hdf5plugin.Bitshuffle(cname="lz4"),
                )
            else:
                self._link(data, links)
            instrument = _group(entry, "instrument", "NXinstrument")
            if instrument_name is not None:
                _field(instrument, "name", instrument_name)
            self._write_beam(instrument, wavelength, polarization, attenuator_transmission)
            detector = _group(instrument, "detector", "NXdetector")
            if origin is not None and pixel_size is not None:
                vectors = (np.asarray(v, dtype=float) for v in (origin, slow, fast))
                self._write_detector(detector, pixel_size, *vectors)
            _field(detector, "description", "area detector")
            _field(detector, "type", "Pixel")
            for name, value, units in (
                ("sensor_material", sensor_material, None),
                ("sensor_thickness", sensor_thickness, "m"),
                ("count_time", None if exposure is None else np.full(n_frames, exposure), "s"),
                # DIALS 3.12 takes one number only.
                ("frame_time", exposure, "s"),
                ("saturation_value", saturation, None),
                ("underload_value", underload, None),
                (READ_VARIANCE, read_variance, "photon^2"),
                ("bit_depth_image", None if links is not None else 8 * self._dtype.itemsize, None),
            ):
                if value is not None:
                    _field(detector, name, value, units)
            if binning is not None:
                unbinned = np.array(binning.unbinned)
                _field(detector, BINNING, binning.factor, unbinned=unbinned)
            if pixel_mask is not None:
                _field(detector, "pixel_mask", np.asarray(pixel_mask, dtype=np.uint32))
            if monitor is not None:
                monitors = _group(entry, "monitor", "NXmonitor")
                _field(monitors, "mode", "monitor")
                _field(monitors, "data", np.asarray(monitor, dtype=np.float64), "counts")
            sample = _group(entry, "sample", "NXsample")
            if sample_name is not None:
                _field(sample, "name", sample_name)
            if temperature is not None:
                _field(sample, "temperature", temperature, "K")
            begin, end = self._scan_degrees(start, step, scan_angles)
            if axis_names:
                # A scanned axis without angles rests.
                rest = np.degrees(np.asarray(angles))
                begin = rest[scan_axis : scan_axis + 1] if begin is None else begin
                self._write_goniometer(sample, axis_names, axes, rest, scan_axis, begin, end)
            elif begin is not None:
                _write_angles(sample, "rotation_angle", begin, end)
            if links is None:
                # A hard link: readers look for the frames in the detector too.
                detector["data"] = self._data
        except BaseException:
            self._abandon()
            raise

    @staticmethod
    def _link(data: Any, links: "str | Sequence[tuple[str, str]]") -> None:
        """Say where the frames are."""
        import h5py

        if isinstance(links, str):
            _field(data, IMAGE_FILES, links)
            return
        names = ["data"] if len(links) == 1 else [f"data_{i:06d}" for i in range(1, len(links) + 1)]
        data.attrs["signal"] = names[0]
        for name, (file, inside) in zip(names, links, strict=True):
            data[name] = h5py.ExternalLink(file, inside)

    def _scan_degrees(
        self, start: float | None, step: float | None, scan_angles: ArrayLike | None
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Angles at the start and the end of the frames, as far as they are known."""
        if scan_angles is not None:
            return np.degrees(np.asarray(scan_angles, dtype=np.float64)), None
        if start is None:
            return None, None
        if step is None:
            return np.full(self.n_frames, np.degrees(start)), None
        edges = np.degrees(start + step * np.arange(self.n_frames + 1))
        return edges[:-1], edges[1:]

    @staticmethod
    def _write_beam(
        instrument: Any,
        wavelength: float | None,
        polarization: float | None,
        transmission: ArrayLike | None,
    ) -> None:
        beam = _group(instrument, "beam", "NXbeam")
        if wavelength is not None:
            _field(beam, "incident_wavelength", wavelength, "angstrom")
        if polarization is not None:
            stokes = np.array([1.0, 2 * polarization - 1, 0.0, 0.0])
            _field(beam, "incident_polarization_stokes", stokes)
        if transmission is not None:
            attenuator = _group(instrument, "attenuator", "NXattenuator")
            _field(attenuator, "attenuator_transmission", transmission)

    def _write_detector(
        self,
        detector: Any,
        pixel_size: tuple[float, float],
        origin: NDArray[np.float64],
        slow: NDArray[np.float64],
        fast: NDArray[np.float64],
    ) -> None:
        normal = np.cross(fast, slow)
        normal = normal if normal @ origin > 0 else -normal
        distance = float(normal @ origin)
        _field(detector, "distance", distance, "m")
        moved = np.array([0.0, 0.0, 1.0])
        if normal[2] > _MEETS:
            beam = np.array([0.0, 0.0, distance / normal[2]]) - origin
            _field(detector, "beam_center_x", float(beam @ fast) / pixel_size[1], "pixel")
            _field(detector, "beam_center_y", float(beam @ slow) / pixel_size[0], "pixel")
        else:
            # The beam never meets the plane, on an arm at 90 degrees and above: no beam centre.
            moved = normal
        _field(detector, "x_pixel_size", pixel_size[1], "m")
        _field(detector, "y_pixel_size", pixel_size[0], "m")
        moves = _group(detector, "transformations", "NXtransformations")
        none = np.zeros(3)
        _field(
            moves,
            "det_z",
            np.array([distance]),
            "m",
            transformation_type="translation",
            vector=moved,
            offset=none,
            offset_units="m",
            depends_on=".",
        )
        _field(detector, "depends_on", f"{_DETECTOR}/transformations/det_z")
        module = _group(detector, "module", "NXdetector_module")
        _field(module, "data_origin", np.array([0, 0]))
        _field(module, "data_size", np.array(self.shape))
        corner = origin - distance * moved
        reach = float(np.linalg.norm(corner))
        _field(
            module,
            "module_offset",
            np.array([reach]),
            "m",
            transformation_type="translation",
            vector=corner / reach if reach > 0 else np.array([1.0, 0.0, 0.0]),
            offset=none,
            offset_units="m",
            depends_on=f"{_DETECTOR}/transformations/det_z",
        )
        for name, vector, size in (
            ("fast_pixel_direction", fast, pixel_size[1]),
            ("slow_pixel_direction", slow, pixel_size[0]),
        ):
            _field(
                module,
                name,
                np.array([size]),
                "m",
                transformation_type="translation",
                vector=vector,
                offset=none,
                offset_units="m",
                depends_on=f"{_DETECTOR}/module/module_offset",
            )

    @staticmethod
    def _write_goniometer(
        sample: Any,
        names: Sequence[str],
        axes: NDArray[np.float64],
        degrees: NDArray[np.float64],
        scan_axis: int,
        begin: NDArray[np.float64],
        end: NDArray[np.float64] | None,
    ) -> None:
        group = _group(sample, "transformations", "NXtransformations")
        carrier = "."
        for i, name in enumerate(names):
            scanned = i == scan_axis
            _field(
                group,
                name,
                begin if scanned else np.array([degrees[i]]),
                "deg",
                transformation_type="rotation",
                vector=axes[i],
                offset=np.zeros(3),
                offset_units="m",
                depends_on=carrier,
            )
            if scanned and end is not None:
                _field(group, f"{name}_end", end, "deg")
                _field(group, f"{name}_increment_set", end - begin, "deg")
            carrier = f"{_AXES}/{name}"
        _field(sample, "depends_on", carrier)

    def append(self, block: NDArray[Any]) -> None:
        """Add frames (n, slow, fast) after those that were written."""
        after = self.written + len(block)
        if block.shape[1:] != tuple(self.shape) or after > self.n_frames:
            raise HklflowError(
                f"{self.path} is made for {self.n_frames} frames of {self.shape}; a block of "
                f"shape {block.shape} after {self.written} frames does not fit"
            )
        if not np.can_cast(block.dtype, self._dtype, "same_kind"):
            raise HklflowError(
                f"frames of type {block.dtype} cannot be stored as {self._dtype} in {self.path}; "
                "give `dtype` that holds them"
            )
        self._data.resize(after, axis=0)
        self._data[self.written : after] = block
        self.written = after

    def note(self, source: Mapping[str, Any]) -> None:
        """Write what the facts come from, as text or numbers by name, for people."""
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
        if self.written != self.n_frames:
            self._abandon()
            raise HklflowError(
                f"{self.path} got {self.written} of {self.n_frames} frames; write all or "
                "announce fewer"
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
