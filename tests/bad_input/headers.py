"""Headers: what raw files say of themselves, in wrong numbers, wrong units or not at all."""

from typing import Any

import h5py
import numpy as np

from .cases import Case, Spoil, inside, replaced
from .experiment import IMPORT, IMPORT_SERIES, STEP, N
from .raw_files import bytes_of

R1, FIRST = "raw/r1.nxs", "raw/r3_0001.cbf"
SAMPLE, DETECTOR = "entry/sample", "entry/instrument/detector"
PHI, TEMPERATURE = f"{SAMPLE}/transformations/phi", f"{SAMPLE}/temperature"
WAVELENGTH = "entry/instrument/beam/incident_wavelength"
STOKES = "entry/instrument/beam/incident_polarization_stokes"
MONITOR = "entry/monitor/data"
TRANSMISSION = "entry/instrument/attenuator/attenuator_transmission"
FAST, OFFSET = f"{DETECTOR}/module/fast_pixel_direction", f"{DETECTOR}/module/module_offset"
ORIGIN = f"{DETECTOR}/module/data_origin"
ENERGY = "entry/instrument/beam/incident_energy"
_FIRST = "it must be the first pixel (slow, fast) of the module"
ANGLES, COUNTS = -5 + STEP * np.arange(N), 100.0 + np.arange(N)
# The same without a calibration, so that the header must tell the geometry.
IMPORT_ALONE = IMPORT_SERIES.replace("--geometry raw/geometry.json ", "") + " --polarization 0.99"


def r1(path: str, value: Any, **attributes: Any) -> Spoil:
    """Put another value into the raw file."""
    return replaced(R1, path, value, **attributes)


def attribute(path: str, name: str, value: Any) -> Spoil:
    """Change an attribute in the raw file."""

    def change(file: h5py.File) -> None:
        file[path].attrs[name] = value

    return inside(R1, change)


def gone(path: str) -> Spoil:
    """Take something out of the raw file."""

    def change(file: h5py.File) -> None:
        del file[path]

    return inside(R1, change)


def twice(path: str, name: str) -> Spoil:
    """Copy a group of the raw file."""
    return inside(R1, lambda file: file.copy(path, name))


def at(values: Any, index: int, value: float) -> Any:
    """Change one of several values."""
    changed = values.copy()
    changed[index] = value
    return changed


def _log(file: h5py.File) -> None:
    """A temperature log whose clock was set back during the scan."""
    del file[TEMPERATURE]
    log = file.create_group(TEMPERATURE)
    log["value"], log["time"] = [300.0, 299.0, 301.0, 300.0], [10.0, 20.0, 3.0, 13.0]
    log["value"].attrs["units"] = "K"


def _log_of(times: list[float]) -> Spoil:
    def change(file: h5py.File) -> None:
        _log(file)
        del file[TEMPERATURE]["time"]
        file[TEMPERATURE]["time"] = times

    return inside(R1, change)


def circle(path: str) -> Spoil:
    """Put a link to itself in the place of something."""

    def change(file: h5py.File) -> None:
        del file[path]
        file[path] = h5py.SoftLink(f"/{path}")

    return inside(R1, change)


def group(path: str) -> Spoil:
    """Put an empty group in the place of a value."""

    def change(file: h5py.File) -> None:
        del file[path]
        file.create_group(path)

    return inside(R1, change)


def _links(path: str) -> Case:
    """Case of a link to itself in the place of something that is wanted."""
    return Case(
        f"link to itself: {path.removeprefix('entry/')}",
        IMPORT,
        f"/{path} in raw/r1.nxs is a link that leads back to itself; the file is damaged: copy it "
        "again",
        circle(path),
    )


def _grouped(path: str, what: str = "is a group, not a value") -> Case:
    """Case of a group in the place of a value."""
    return Case(
        f"group where a value is expected: {path.removeprefix('entry/')}",
        IMPORT,
        f"/{path} in raw/r1.nxs {what}; correct the file",
        group(path),
    )


def _vector(what: str, value: Any, shown: str) -> Case:
    return Case(
        f"axis whose direction {what}",
        IMPORT,
        f"the vector of /{PHI} in raw/r1.nxs is {shown}, not a direction; correct the file",
        attribute(PHI, "vector", value),
    )


def _origin(what: str, value: Any, told: str) -> Case:
    return Case(
        f"module whose first pixel is {what}",
        IMPORT,
        f"/{ORIGIN} in raw/r1.nxs {told} correct the file",
        inside(R1, lambda file: _put(file, ORIGIN, value)),
    )


def _put(file: h5py.File, path: str, value: Any) -> None:
    file.pop(path, None)
    file[path] = value


def _energy(file: h5py.File) -> None:
    """Say that photons have no energy."""
    del file[WAVELENGTH]
    file[ENERGY] = 0.0
    file[ENERGY].attrs["units"] = "eV"


CASES = [
    *map(_links, ("entry/instrument", DETECTOR, SAMPLE, WAVELENGTH, STOKES, PHI, TEMPERATURE)),
    *map(_links, (MONITOR, TRANSMISSION, FAST, OFFSET, f"{DETECTOR}/pixel_mask")),
    *map(_grouped, (f"{SAMPLE}/depends_on", f"{DETECTOR}/pixel_mask")),
    _grouped(WAVELENGTH, "has no value"),
    _grouped(TEMPERATURE, "has no value"),
    Case(
        "value where a group is expected",
        IMPORT,
        "/entry/instrument in raw/r1.nxs is a value, not a group; correct the file",
        r1("entry/instrument", 3.0),
    ),
    _vector("is text", "abc", "abc"),
    _vector("has two numbers", [1.0, 0.0], "[1.0, 0.0]"),
    _vector("has 1000 numbers", np.zeros(1000), "[0.0, … … (5000 characters) … …]"),
    Case(
        "offset of an axis that is text",
        IMPORT,
        f"the offset of /{OFFSET} in raw/r1.nxs is abc, not three numbers; correct the file",
        attribute(OFFSET, "offset", "abc"),
    ),
    _origin("one number", [1.0], f"is [1.0]; {_FIRST}:"),
    _origin("NaN", [np.nan, 0.0], f"is [nan, 0.0]; {_FIRST}:"),
    _origin("text", "abc", "is not numeric (could not convert string to float: b'abc');"),
    Case(
        "single angle that is NaN",
        IMPORT,
        "raw/r1.nxs: the scan angles are not all known (frame 0 has nan): give "
        "`axis=start:step` in the scan table if the steps were equal, or split the scan",
        r1(PHI, np.nan),
    ),
    Case(
        "text of megabytes where an angle is expected",
        IMPORT,
        f"/{PHI} in raw/r1.nxs is not numeric (could not convert string to float: b'xxx… "
        "(5000005 characters) …); correct the file",
        r1(PHI, "x" * 5_000_000),
    ),
    Case(
        "energy of 0",
        IMPORT,
        f"/{ENERGY} in raw/r1.nxs is 0 eV, which is not a photon energy; correct the file",
        inside(R1, _energy),
    ),
    Case(
        "wavelength of 0",
        IMPORT,
        "raw/r1.nxs: wavelength 0 Å is outside the range of X-rays, 0.06 to 10 Å (entered in "
        "nm, m or eV?): set `wavelength` in Å",
        r1(WAVELENGTH, 0.0),
    ),
    Case(
        "negative wavelength",
        IMPORT,
        "raw/r1.nxs: wavelength -0.5 Å is outside the range of X-rays, 0.06 to 10 Å (entered "
        "in nm, m or eV?): set `wavelength` in Å",
        r1(WAVELENGTH, -0.5),
    ),
    Case(
        "wavelength that is NaN",
        IMPORT,
        "raw/r1.nxs: wavelength nan Å is outside the range of X-rays, 0.06 to 10 Å (entered "
        "in nm, m or eV?): set `wavelength` in Å",
        r1(WAVELENGTH, np.nan),
    ),
    Case(
        "energy in eV given as wavelength in Å",
        IMPORT,
        "raw/r1.nxs: wavelength 24796.8 Å is outside the range of X-rays, 0.06 to 10 Å "
        "(entered in nm, m or eV?): set `wavelength` in Å",
        r1(WAVELENGTH, 24796.8),
    ),
    Case(
        "wavelength in nm given in Å",
        IMPORT,
        "raw/r1.nxs: wavelength 0.05 Å is outside the range of X-rays, 0.06 to 10 Å (entered "
        "in nm, m or eV?): set `wavelength` in Å",
        r1(WAVELENGTH, 0.05),
    ),
    Case(
        "wavelength in m given in Å",
        IMPORT,
        "raw/r1.nxs: wavelength 5e-11 Å is outside the range of X-rays, 0.06 to 10 Å (entered "
        "in nm, m or eV?): set `wavelength` in Å",
        r1(WAVELENGTH, 5e-11),
    ),
    Case(
        "wavelength in an unknown unit",
        IMPORT,
        "/entry/instrument/beam/incident_wavelength in raw/r1.nxs has the unit 'inch', which is "
        "not a known unit of wavelength; correct the file",
        attribute(WAVELENGTH, "units", "inch"),
    ),
    Case(
        "wavelength without a unit",
        IMPORT,
        "/entry/instrument/beam/incident_wavelength in raw/r1.nxs has the unit '', which is not "
        "a known unit of wavelength; correct the file",
        attribute(WAVELENGTH, "units", ""),
    ),
    Case(
        "wavelength without a value",
        IMPORT,
        "/entry/instrument/beam/incident_wavelength in raw/r1.nxs has no value; correct the file",
        r1(WAVELENGTH, np.zeros(0)),
    ),
    Case(
        "no wavelength",
        IMPORT,
        "raw/r1.nxs: the wavelength is not known: set `import_scan: wavelength` in Å",
        gone(WAVELENGTH),
    ),
    Case(
        "no polarisation",
        IMPORT,
        "raw/r1.nxs: the polarisation is not known: set "
        "`import_scan: polarization` (0.5: unpolarised)",
        gone(STOKES),
    ),
    Case(
        "Stokes vector of 0",
        IMPORT,
        "raw/r1.nxs: the polarisation is not known: set "
        "`import_scan: polarization` (0.5: unpolarised)",
        r1(STOKES, [0.0, 0, 0, 0]),
    ),
    Case(
        "Stokes vector that is more than polarised",
        IMPORT,
        "raw/r1.nxs: the polarisation is 2, outside 0 to 1: set "
        "`import_scan: polarization` (0.5: unpolarised)",
        r1(STOKES, [1.0, 3.0, 0, 0]),
    ),
    Case(
        "Stokes vector of one number",
        IMPORT,
        "/entry/instrument/beam/incident_polarization_stokes in raw/r1.nxs is [1.0]; it must "
        "be I, Q, U, V with I > 0: correct the file",
        r1(STOKES, [1.0]),
    ),
    Case(
        "angles not evenly spaced",
        IMPORT,
        "raw/r1.nxs: the scan angles are not evenly spaced (steps from 0.3 to 0.7 deg, "
        "0.3 deg from frame 3 to 4): give `axis=start:step` in the scan table if the steps were "
        "equal, or split the scan",
        r1(PHI, at(ANGLES, 3, -3.3)),
    ),
    Case(
        "angle that is NaN",
        IMPORT,
        "raw/r1.nxs: the scan angles are not all known (frame 3 has nan): give "
        "`axis=start:step` in the scan table if the steps were equal, or split the scan",
        r1(PHI, at(ANGLES, 3, np.nan)),
    ),
    Case(
        "angle that is infinite",
        IMPORT,
        "raw/r1.nxs: the scan angles are not all known (frame 5 has inf): give "
        "`axis=start:step` in the scan table if the steps were equal, or split the scan",
        r1(PHI, at(ANGLES, 5, np.inf)),
    ),
    Case(
        "angles that do not move",
        IMPORT,
        "raw/r1.nxs: the start (0.0) or the step (None) of the scan is not known: give both in "
        "the scan table, `axis=start:step` in degrees",
        r1(PHI, np.zeros(N)),
    ),
    Case(
        "one angle too few",
        IMPORT,
        "/entry/sample/transformations/phi in raw/r1.nxs has 5 angles for 6 frames; data "
        "files are missing or of another scan, or the file is damaged: copy it again",
        r1(PHI, ANGLES[:-1]),
    ),
    Case(
        "angles in radians given in degrees",
        IMPORT,
        "raw/r1.nxs: the scan's 6 frames cover 3.14159°, which equals 180° in radians; are "
        "the angles in radians? Write `axis=start:step` in degrees in the scan table: -60:30 "
        "if they are, else -1.0472:0.523598776",
        r1(PHI, np.radians(-60 + 30.0 * np.arange(N))),
    ),
    Case(
        "angles that turn back",
        IMPORT,
        "raw/r1.nxs: the scan angles are not evenly spaced (steps from -0.5 to 0.5 deg, "
        "-0.5 deg from frame 0 to 1): give `axis=start:step` in the scan table if the steps were "
        "equal, or split the scan",
        r1(PHI, np.abs(ANGLES + 4)),
    ),
    Case(
        "steps of more than a turn",
        IMPORT,
        "raw/r1.nxs: a scan from 0° in steps of 400° is not plausible (steps 1e-05 to 90°): "
        "write `axis=start:step` in degrees in the scan table",
        r1(PHI, 400.0 * np.arange(N)),
    ),
    Case(
        "angles in mm",
        IMPORT,
        "/entry/sample/transformations/phi in raw/r1.nxs has the unit 'mm', which is not a known "
        "unit of angle; correct the file",
        attribute(PHI, "units", "mm"),
    ),
    Case(
        "rotation axis of length 0",
        IMPORT,
        "the vector of /entry/sample/transformations/phi in raw/r1.nxs is [0.0, 0.0, 0.0], not a "
        "direction; correct the file",
        attribute(PHI, "vector", [0.0, 0, 0]),
    ),
    Case(
        "rotation axis with NaN",
        IMPORT,
        "the vector of /entry/sample/transformations/phi in raw/r1.nxs is [0.0, nan, 0.0], not a "
        "direction; correct the file",
        attribute(PHI, "vector", [0.0, np.nan, 0]),
    ),
    Case(
        "axis that depends on itself",
        IMPORT,
        "the depends_on chain of /entry/sample/transformations/phi is circular; correct the file",
        attribute(PHI, "depends_on", PHI.rsplit("/")[-1]),
    ),
    Case(
        "axis that depends on one that is not there",
        IMPORT,
        "/entry/sample/transformations/phi in raw/r1.nxs depends on omega, which is not in "
        "the file; correct the file",
        attribute(PHI, "depends_on", "omega"),
    ),
    Case(
        "sample that depends on an axis that is not there",
        IMPORT,
        "/entry/sample in raw/r1.nxs depends on /entry/nothing, which is not in the file; "
        "correct the file",
        r1("entry/sample/depends_on", "/entry/nothing"),
    ),
    Case(
        "no goniometer",
        IMPORT,
        "raw/r1.nxs: the goniometer is not known: set `import_scan: axes` in the "
        "configuration; the start (None) or the step (None) of the scan is not known: give both "
        "in the scan table, `axis=start:step` in degrees",
        gone("entry/sample/depends_on"),
    ),
    Case(
        "monitor of 0 in a frame",
        IMPORT,
        "raw/r1.nxs: the monitor must have one positive value for each of 6 frames (frame 2 "
        "has 0): leave out the frames without beam (`import_scan: {leave_out: [2]}`), or set "
        "`import_scan: {monitor: none}`",
        r1(MONITOR, at(COUNTS, 2, 0)),
    ),
    Case(
        "negative monitor",
        IMPORT,
        "raw/r1.nxs: the monitor must have one positive value for each of 6 frames (frame 2 "
        "has -1): leave out the frames without beam (`import_scan: {leave_out: [2]}`), or set "
        "`import_scan: {monitor: none}`",
        r1(MONITOR, at(COUNTS, 2, -1)),
    ),
    Case(
        "monitor that is NaN",
        IMPORT,
        "raw/r1.nxs: the monitor must have one positive value for each of 6 frames (frame 2 "
        "has nan): leave out the frames without beam (`import_scan: {leave_out: [2]}`), or set "
        "`import_scan: {monitor: none}`",
        r1(MONITOR, at(COUNTS, 2, np.nan)),
    ),
    Case(
        "monitor of 10^300",
        IMPORT,
        "raw/r1.nxs: the monitor of frame 2 is 1e+300, outside the plausible range 1e-15 to "
        "1e+18: copy the file again, leave such frames out (`import_scan: {leave_out: [2]}`), or "
        "set `import_scan: {monitor: none}`",
        r1(MONITOR, at(COUNTS, 2, 1e300)),
    ),
    Case(
        "monitor of 10^-300",
        IMPORT,
        "raw/r1.nxs: the monitor of frame 2 is 1e-300, outside the plausible range 1e-15 to "
        "1e+18: copy the file again, leave such frames out (`import_scan: {leave_out: [2]}`), or "
        "set `import_scan: {monitor: none}`",
        r1(MONITOR, at(COUNTS, 2, 1e-300)),
    ),
    Case(
        "CBF header with a flux of 10^300",
        IMPORT_SERIES.replace("--monitor none ", ""),
        "raw/r3_####.cbf: the monitor of frame 0 is 1e+300, outside the plausible range 1e-15 to "
        "1e+18: copy the file again, leave such frames out (`import_scan: {leave_out: [0]}`), or "
        "set `import_scan: {monitor: none}`",
        bytes_of(FIRST, b"Flux 100", b"Flux 1e300"),
        good=IMPORT_SERIES,
    ),
    Case(
        "monitor of another length",
        IMPORT,
        "raw/r1.nxs: the monitor in raw/r1.nxs has 5 values for 6 frames: data files are missing "
        "or from another scan, or the file is damaged: copy it again, or set `import_scan: "
        "{monitor: none}` if "
        "no frame is missing",
        r1(MONITOR, COUNTS[:-1]),
    ),
    Case(
        "monitor of letters",
        IMPORT,
        "/entry/monitor/data in raw/r1.nxs is not numeric (…); correct the file",
        r1(MONITOR, ["a"] * N),
    ),
    Case(
        "no monitor",
        IMPORT,
        "raw/r1.nxs: the raw file has no monitor: set `import_scan: {monitor: none}` if the "
        "experiment has none",
        gone("entry/monitor"),
    ),
    Case(
        "two monitors",
        IMPORT,
        "raw/r1.nxs: raw/r1.nxs has 2 monitors and does not say which to use: keep one, or "
        "set `import_scan: {monitor: none}`",
        twice("entry/monitor", "entry/second"),
    ),
    Case(
        "temperature below 0 K",
        IMPORT,
        "raw/r1.nxs: temperature -5 K is outside the plausible range 0.001 to 5000 K (entered "
        "in °C?): set it in K in the scan table",
        r1(TEMPERATURE, -5.0),
    ),
    Case(
        "temperature below absolute zero in °C",
        IMPORT,
        "raw/r1.nxs: temperature -26.85 K is outside the plausible range 0.001 to 5000 K "
        "(entered in °C?): set it in K in the scan table",
        r1(TEMPERATURE, -300.0, units="C"),
    ),
    Case(
        "temperature that is NaN",
        IMPORT,
        "raw/r1.nxs: temperature nan K is outside the plausible range 0.001 to 5000 K "
        "(entered in °C?): set it in K in the scan table",
        r1(TEMPERATURE, np.nan),
    ),
    Case(
        "temperature in °F",
        IMPORT,
        "raw/r1.nxs: the temperature in raw/r1.nxs has the unit 'f', not K or C: give it in K in "
        "the scan table",
        attribute(TEMPERATURE, "units", "F"),
    ),
    Case(
        "temperature in words",
        IMPORT,
        "/entry/sample/temperature in raw/r1.nxs is not numeric (…); correct the file",
        r1(TEMPERATURE, "cold"),
    ),
    Case(
        "temperature without a value",
        IMPORT,
        "/entry/sample/temperature in raw/r1.nxs has no value; correct the file",
        r1(TEMPERATURE, np.zeros(0)),
    ),
    Case(
        "temperature of a million K",
        IMPORT,
        "raw/r1.nxs: temperature 1e+06 K is outside the plausible range 0.001 to 5000 K "
        "(entered in °C?): set it in K in the scan table",
        r1(TEMPERATURE, 1e6),
    ),
    Case(
        "exposure of 0",
        IMPORT,
        "raw/r1.nxs: exposure time 0 s is outside the plausible range 1e-15 to 100000 s: set "
        "`import_scan: exposure` in seconds",
        r1(f"{DETECTOR}/count_time", 0.0),
    ),
    Case(
        "exposure that is NaN",
        IMPORT,
        "raw/r1.nxs: exposure time nan s is outside the plausible range 1e-15 to 100000 s: "
        "set `import_scan: exposure` in seconds",
        r1(f"{DETECTOR}/count_time", np.nan),
    ),
    Case(
        "exposure of 10^300 s",
        IMPORT,
        "raw/r1.nxs: exposure time 1e+300 s is outside the plausible range 1e-15 to 100000 s: "
        "set `import_scan: exposure` in seconds",
        r1(f"{DETECTOR}/count_time", 1e300),
    ),
    Case(
        "exposure of other frames",
        IMPORT,
        "raw/r1.nxs: the exposure times have the shape (5,) for 6 frames: correct the file, or set "
        "`import_scan: exposure` in seconds",
        r1(f"{DETECTOR}/count_time", [0.1, 0.1, 0.1, 10, 0.1], units="s"),
    ),
    Case(
        "wavelength that changes within the rotation",
        IMPORT,
        "/entry/instrument/beam/incident_wavelength in raw/r1.nxs has 6 values from 0.5 to 0.9, "
        "but must be constant in a rotation; split the rotation where it changes, or correct the "
        "file",
        r1(WAVELENGTH, np.linspace(0.5, 0.9, 6), units="angstrom"),
    ),
    Case(
        "complex wavelength",
        IMPORT,
        "/entry/instrument/beam/incident_wavelength in raw/r1.nxs is not numeric (its type is "
        "complex128); correct the file",
        r1(WAVELENGTH, 0.5 + 1j, units="angstrom"),
    ),
    Case(
        "exposure in degrees",
        IMPORT,
        "/entry/instrument/detector/count_time in raw/r1.nxs has the unit 'deg', which is not a "
        "known unit of time; correct the file",
        attribute(f"{DETECTOR}/count_time", "units", "deg"),
    ),
    Case(
        "attenuators that let nothing through",
        IMPORT,
        "raw/r1.nxs: the transmission of the attenuators (shape (), 0 to 0) must be above 1e-12 "
        "and at most 1, one value or one for each of 6 frames: set `import_scan: attenuation`",
        r1(TRANSMISSION, 0.0),
    ),
    Case(
        "transmission in per cent",
        IMPORT,
        "raw/r1.nxs: the transmission of the attenuators (shape (), 50 to 50) must be above "
        "1e-12 and at most 1, one value or one for each of 6 frames: set "
        "`import_scan: attenuation`",
        r1(TRANSMISSION, 50.0),
    ),
    Case(
        "transmission that is NaN",
        IMPORT,
        "raw/r1.nxs: the transmission of the attenuators (shape (), nan to nan) must be above "
        "1e-12 and at most 1, one value or one for each of 6 frames: set "
        "`import_scan: attenuation`",
        r1(TRANSMISSION, np.nan),
    ),
    Case(
        "pixel mask of another shape",
        IMPORT,
        "the pixel mask in raw/r1.nxs has the shape (5, 5), but the frames have (12, 10); correct "
        "the file",
        r1(f"{DETECTOR}/pixel_mask", np.zeros((5, 5), np.uint32)),
    ),
    Case(
        "pixel mask in words",
        IMPORT,
        "the pixel mask in raw/r1.nxs has the type |S4 or values that are not bits; correct the "
        "file",
        r1(f"{DETECTOR}/pixel_mask", "none"),
    ),
    Case(
        "two detectors",
        IMPORT,
        "raw/r1.nxs describes 2 detectors; hklflow reduces one: split the file",
        twice(DETECTOR, "entry/instrument/second"),
    ),
    Case(
        "pixels of size 0",
        IMPORT,
        "raw/r1.nxs: pixel size 0.0001 x 0 m is outside the plausible range 1e-06 to 0.01 m "
        "(entered in mm or µm?): correct the geometry",
        r1(FAST, 0.0),
    ),
    Case(
        "pixel size in mm given in m",
        IMPORT,
        "raw/r1.nxs: pixel size 0.0001 x 0.1 m is outside the plausible range 1e-06 to 0.01 m "
        "(entered in mm or µm?): correct the geometry",
        r1(FAST, 0.1),
    ),
    Case(
        "pixel size that is NaN",
        IMPORT,
        "raw/r1.nxs: pixel size 0.0001 x nan m is outside the plausible range 1e-06 to 0.01 m "
        "(entered in mm or µm?): correct the geometry",
        r1(FAST, np.nan),
    ),
    Case(
        "distance in mm given in m",
        IMPORT,
        "raw/r1.nxs: detector centre 99.9993 m from the sample is outside the plausible range "
        "0.001 to 20 m (entered in mm?): correct the geometry",
        r1(OFFSET, 100.0),
    ),
    Case(
        "slow and fast direction of the detector alike",
        IMPORT,
        "the detector's slow and fast axes must be orthogonal unit vectors: lengths 1 and 1, "
        "slow · fast = 1; check the geometry file",
        attribute(FAST, "vector", [0, -1.0, 0]),
    ),
    Case(
        "saturation in words",
        IMPORT,
        "/entry/instrument/detector/saturation_value in raw/r1.nxs is not numeric (…); correct the "
        "file",
        r1(f"{DETECTOR}/saturation_value", "many"),
    ),
    Case(
        "CBF header with wavelength 0",
        IMPORT_ALONE,
        "raw/r3_####.cbf: wavelength 0 Å is outside the range of X-rays, 0.06 to 10 Å "
        "(entered in nm, m or eV?): set `wavelength` in Å",
        bytes_of(FIRST, b"Wavelength 0.5", b"Wavelength 0.0"),
    ),
    Case(
        "CBF header with pixels in feet",
        IMPORT_SERIES,
        "the length 0.0001 ft in the header of raw/r3_0001.cbf has no known unit (m, cm, mm, um, "
        "µm); correct the header, or give the geometry with a calibration",
        bytes_of(FIRST, b"Pixel_size 0.0001 m", b"Pixel_size 0.0001 ft"),
    ),
    Case(
        "CBF header with the distance in yards",
        IMPORT_SERIES,
        "the length 0.1 y in the header of raw/r3_0001.cbf has no known unit (m,"
        " cm, mm, um, µm); correct the header, or give the geometry with a calibration",
        bytes_of(FIRST, b"Detector_distance 0.1 m", b"Detector_distance 0.1 y"),
    ),
    Case(
        "CBF headers whose angles skip",
        IMPORT_SERIES,
        "the last image raw/r3_0006.cbf starts at -1.5° but 6 frames of 0.5° from -5° should end "
        "with -2.5°; frames are missing or the header is wrong: give the angles in scans.tsv",
        bytes_of("raw/r3_0006.cbf", b"Start_angle -2.5", b"Start_angle -1.5"),
    ),
    Case(
        "step of 0",
        IMPORT_SERIES.replace("--step 0.5", "--step 0"),
        "raw/r3_####.cbf: the start (-5.0) or the step (0.0) of the scan is not known: give both "
        "in the scan table, `axis=start:step` in degrees",
        good=IMPORT_SERIES,
    ),
    Case(
        "step that is NaN",
        IMPORT_SERIES.replace("--step 0.5", "--step nan"),
        "--step: Input should be a finite number (it is 'nan')",
        good=IMPORT_SERIES,
    ),
    Case(
        "infinite start",
        IMPORT_SERIES.replace("--start=-5", "--start inf"),
        "--start: Input should be a finite number (it is 'inf')",
        good=IMPORT_SERIES,
    ),
    Case(
        "step of 1000°",
        IMPORT_SERIES.replace("--step 0.5", "--step 1000"),
        "raw/r3_####.cbf: a scan from -5° in steps of 1000° is not plausible (steps 1e-05 to "
        "90°): write `axis=start:step` in degrees in the scan table",
        good=IMPORT_SERIES,
    ),
    Case(
        "start in words",
        IMPORT_SERIES.replace("--start=-5", "--start five"),
        "--start: Input should be a valid number, unable to parse string as a number (it is "
        "'five')",
        good=IMPORT_SERIES,
    ),
    Case(
        "negative exposure asked for",
        IMPORT + " --exposure=-1",
        "--exposure: Input should be greater than 0 (it is '-1')",
        good=IMPORT,
    ),
    Case(
        "negative temperature asked for",
        IMPORT + " --temperature=-3",
        "--temperature: Input should be greater than or equal to 0 (it is '-3')",
        good=IMPORT,
    ),
    Case(
        "transmission of 2 asked for",
        IMPORT + " --attenuation 2",
        "--attenuation: Input should be less than or equal to 1 (it is '2')",
        good=IMPORT,
    ),
    Case(
        "setting of an axis that is not there",
        IMPORT + " --angles.chi 5",
        "raw/r1.nxs: no goniometer axis chi (the axes are phi): name one of them",
        good=IMPORT,
    ),
    Case(
        "one frame more expected than there is",
        IMPORT + " --n-frames 7",
        "raw/r1.nxs: the raw file has 6 frames but the scan table expects 7: it is truncated "
        "or still being written, or the table's `frames` is wrong",
        good=IMPORT,
    ),
    Case(
        "frames beyond the end asked for",
        IMPORT + " --first-frame 9",
        "raw/r1.nxs: frames 9 to 5 are not within 0 to 5: set `first_frame` and `last_frame`",
        good=IMPORT,
    ),
    Case(
        "frames beyond the end left out",
        IMPORT + " --leave-out 2 5-6",
        "raw/r1.nxs: `leave_out` '5-6': the raw frames are numbered 0 to 5; give numbers in this "
        "range",
        good=IMPORT + " --leave-out 2 4-5",
    ),
    Case(
        "all frames left out",
        IMPORT + " --leave-out 0 1-5",
        "raw/r1.nxs: `leave_out` leaves no frame: take the row out of the scan table instead",
        good=IMPORT,
    ),
    Case(
        "frames of another rotation left out",
        IMPORT + " --leave-out r2:3",
        "raw/r1.nxs: `leave_out` 'r2:3': give the frames of this rotation only",
        good=IMPORT,
    ),
    Case(
        "axis without a direction asked for",
        IMPORT + " --axes phi",
        "goniometer axis 'phi' is not `name=x,y,z`, such as `phi=-1,0,0`",
        good=IMPORT,
    ),
    Case(
        "axis with NaN asked for",
        IMPORT + " --axes phi=nan,0,0",
        "goniometer axis 'phi=nan,0,0' has no direction; give each axis once, as a vector",
        good=IMPORT,
    ),
    Case(
        "misspelt option",
        IMPORT + " --wavelenght 0.5",
        "Unknown option: --wavelenght. Did you mean --wavelength?",
        good=IMPORT,
    ),
    Case(
        "temperature log whose clock was set back",
        IMPORT,
        "raw/r1.nxs: the clock of the log /entry/sample/temperature in raw/r1.nxs jumps from 20 "
        "to 3 at its value 2, so the temperature of this scan is not known: give it in the "
        "scan table",
        inside(R1, _log),
    ),
    Case(
        "temperature log with a time that is NaN",
        IMPORT,
        "raw/r1.nxs: the clock of the log /entry/sample/temperature in raw/r1.nxs jumps from 1 "
        "to nan at its value 1, so the temperature of this scan is not known: give it in "
        "the scan table",
        _log_of([1.0, np.nan, 2.0, 3.0]),
    ),
]
