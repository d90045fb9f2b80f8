"""SPEC scans, and the psic six-circle diffractometer in hklflow's lab frame.

psic is described by H. You, J. Appl. Cryst. 32 (1999) 614. Its frame at zero angles has x up, y
along the beam and z completing it; in lab axes, ``x → y, y → z, z → x``. The rotation of the sample
is ``M H Ξ X Φ`` with mu about +x, eta about -z, chi about +y, phi about -z; the detector arm
rotates by nu about +x, which carries delta about -z. In the lab frame:

======== ====== ====== ====== ====== ====== ======
angle    mu     eta    chi    phi    nu     delta
axis     +y     -x     +z     -x     +y     -x
======== ====== ====== ====== ====== ====== ======

and ``Q_lab = R(mu) R(eta) R(chi) R(phi) (T UB_spec) hkl`` with T the change of axes.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.spec_limits import require_readable
from hklflow.geometry import Detector, Goniometer, rotation_matrix

Floats = NDArray[np.float64]

# Columns: the axes x, y, z of You in the lab frame.
YOU_AXES_LAB = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

PSIC_SAMPLE = {"mu": "x+", "eta": "z-", "chi": "y+", "phi": "z-"}
PSIC_ARM = {"nu": "x+", "delta": "z-"}


@dataclass(frozen=True)
class SpecScan:
    """One scan of a SPEC file; None or absent: not in the file.

    Attributes
    ----------
    number : int
    command : str
    columns : dict of (n,) arrays
        Values of each column.
    motors : dict of float
        Positions before the scan, in the units of the motors (degrees).
    ub : (3, 3) array or None
        UB in 1/Å with 2π, in the frame of the diffractometer.
    wavelength : float or None
        Wavelength, Å.
    temperature : float or None
        Temperature, K (set point).
    mnemonics : dict of str
        Names of motors by the short names in commands.
    date : str
        Date as in the file; empty if it is absent.
    cell : (6,) array or None
        Cell, Å and degrees.
    """

    number: int
    command: str
    columns: dict[str, Floats]
    motors: dict[str, float]
    ub: Floats | None
    wavelength: float | None
    temperature: float | None
    mnemonics: dict[str, str] = field(default_factory=dict)
    date: str = ""
    cell: Floats | None = None

    @property
    def n_points(self) -> int:
        """Number of measured points."""
        return len(next(iter(self.columns.values()), ()))

    @property
    def hkl(self) -> Floats:
        """Miller coordinates (n, 3) that SPEC wrote for each point."""
        return np.stack([self.column(name) for name in "HKL"], axis=1)

    def column(self, name: str) -> Floats:
        """Return the values (n,) of a column, for example of the monitor.

        Raises
        ------
        HklflowError
            If there is no such column; the message lists the columns.
        """
        if name not in self.columns:
            raise HklflowError(
                f"scan {self.number} has no column {name!r}; its columns are "
                f"{', '.join(self.columns)}"
            )
        return self.columns[name]

    def motor(self, name: str) -> float:
        """Return the position of a motor before the scan.

        Raises
        ------
        HklflowError
            If there is no such motor.
        """
        if name not in self.motors:
            raise HklflowError(
                f"scan {self.number} has no motor {name!r}; its motors are {', '.join(self.motors)}"
            )
        return self.motors[name]


def read_spec_scan(path: str | Path, number: int) -> SpecScan:
    """Read one scan of a SPEC file; the scan must have points.

    Raises
    ------
    HklflowError
        If the file or the scan is absent, the number occurs more than once, no point was
        measured, or numbers of the header cannot be read.
    """
    path = Path(path)
    file = _opened(path)
    keys = [key for key in file.keys() if key.split(".")[0] == str(number)]  # noqa: SIM118
    if len(keys) != 1:
        raise HklflowError(
            f"scan {number} occurs {len(keys)} times in {path}, which has scans "
            f"{_ranges([int(key.split('.')[0]) for key in file.keys()])}; "  # noqa: SIM118
            "choose a scan that occurs once"
        )
    scan = _scan(file, keys[0], path)
    if scan.n_points == 0:
        raise HklflowError(f"scan {number} of {path} has no points: it was aborted; use another")
    return scan


def read_spec_scans(path: str | Path) -> list[SpecScan | tuple[int, HklflowError]]:
    """Read all scans of a SPEC file in its order; a number may occur more than once.

    Returns
    -------
    list
        Scans, also without points; for a scan that cannot be read, its number and the error.

    Raises
    ------
    HklflowError
        If the file does not exist or has no scans.
    """
    path = Path(path)
    file = _opened(path)
    scans: list[SpecScan | tuple[int, HklflowError]] = []
    for key in file.keys():  # noqa: SIM118
        try:
            scans.append(_scan(file, key, path))
        except HklflowError as error:
            scans.append((_number(key), error))
    return scans


def _opened(path: Path) -> Any:
    from silx.io.specfile import SfErrFileOpen, SpecFile, is_specfile

    if not path.is_file():
        raise HklflowError(f"SPEC file {path} does not exist; check the path")
    try:
        file: Any = ()
        if is_specfile(str(path)):
            require_readable(path)
            file = SpecFile(str(path))
    except (SfErrFileOpen, OSError) as error:
        raise HklflowError(f"{path} cannot be read as a SPEC file ({error})") from error
    if not len(file):
        raise HklflowError(f"{path} has no line #S: it is not a SPEC file, or has no scans")
    return file


def _number(key: str) -> int:
    """Return the scan number of a key of silx: 7.1 is the first scan 7."""
    return int(key.split(".")[0])


def _scan(file: Any, key: str, path: Path) -> SpecScan:
    """Return the header and the columns of a scan."""
    from silx.io.specfile import SfErrColNotFound, SfError

    number = _number(key)
    try:
        scan = file[key]
        try:
            data = np.asarray(scan.data, dtype=np.float64)
            labels = [label.strip() for label in scan.labels]
        except SfErrColNotFound:
            data, labels = np.empty((0, 0)), []
        try:
            names, positions = list(scan.motor_names), list(scan.motor_positions)
        # silx raises this error if the file has no names of motors.
        except SfErrColNotFound:
            names, positions = [], []
    except UnicodeDecodeError as error:
        raise HklflowError(
            f"scan {number} of {path} has a header that is not UTF-8 ({error}); save a copy of the "
            "file as UTF-8"
        ) from error
    except (SfError, KeyError) as error:
        raise HklflowError(
            f"scan {number} of {path} cannot be read ({error}); correct the file"
        ) from error
    if len(data) and len(data) != len(labels):
        raise HklflowError(
            f"scan {number} of {path} has {len(labels)} labels for {len(data)} columns; correct "
            "the file"
        )
    if names and positions and len(names) != len(positions):
        raise HklflowError(
            f"scan {number} of {path} has {len(names)} names of motors (#O) for {len(positions)} "
            "positions (#P); correct the file"
        )
    motors = {name.strip(): float(at) for name, at in zip(names, positions, strict=False)}
    header = scan.scan_header_dict
    ub = _numbers(header, "G3", path, number)
    g4 = _numbers(header, "G4", path, number)
    g1 = _numbers(header, "G1", path, number)
    cell = None if g1 is None or g1.size < 6 or not np.all(g1[:6] > 0) else g1[:6]
    return SpecScan(
        number=number,
        command=" ".join(str(header.get("S", "")).split()[1:]),
        columns=dict(zip(labels, data, strict=False)),
        motors=motors,
        ub=ub.reshape(3, 3) if ub is not None and ub.size == 9 and ub.any() else None,
        # H K L LAMBDA ... in SPEC's four- and six-circle geometries.
        wavelength=float(g4[3]) if g4 is not None and g4.size > 3 and g4[3] > 0 else None,
        temperature=_temperature(str(header.get("X", ""))),
        mnemonics=_mnemonics(scan.file_header, list(motors)),
        date=str(header.get("D", "")).strip(),
        cell=cell,
    )


def _mnemonics(lines: list[str], names: list[str]) -> dict[str, str]:
    """Return the motors by their short names: lines #o, in the order of lines #O."""
    short = [word for line in lines if re.match(r"#o\d+ ", line) for word in line.split()[1:]]
    return dict(zip(short, names, strict=True)) if len(short) == len(names) else {}


def _numbers(header: Any, key: str, path: Path, number: int) -> Floats | None:
    text = str(header.get(key, "")).split()
    if not text:
        return None
    try:
        return np.array([float(word) for word in text])
    except ValueError as error:
        raise HklflowError(
            f"line #{key} of scan {number} in {path} is not numeric ({error}); correct the file"
        ) from None


def _temperature(text: str) -> float | None:
    """Return the temperature of a #X line, if the line gives the unit kelvin.

    Either as ``300 K``, or by a remark whose first unit is K: ``300 26.85 (Setpoint in K and C)``.
    """
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    remark = r"\((?:(?!\b(?:deg)?[CF]\b)[^()\d])*\bK\b"
    match = re.match(rf"\s*({number})(?:\s*K\b|(?:\s+{number})*\s*{remark})", text)
    return float(match[1]) if match else None


def _ranges(numbers: list[int]) -> str:
    """Return a short text for scan numbers: 1-5, 7."""
    parts: list[list[int]] = []
    for n in sorted(set(numbers)):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _direction(text: str) -> Floats:
    """Return the lab vector of a direction ``x+`` to ``z-`` in You's frame."""
    match = re.fullmatch(r"\s*([xyz])([+-])\s*", text)
    if match is None:
        raise HklflowError(f"direction {text!r} is not x+, x-, y+, y-, z+ or z-; correct the file")
    sign = 1.0 if match[2] == "+" else -1.0
    column: Floats = sign * YOU_AXES_LAB[:, "xyz".index(match[1])]
    return column


def circles_goniometer(
    circles: dict[str, Floats], angles: dict[str, float], scanned: str
) -> Goniometer:
    """Return the sample circles as a goniometer.

    Parameters
    ----------
    circles : dict of (3,) arrays
        Lab axes at zero angles, outermost first.
    angles : dict of float
        Angles in radians; the scanned circle may be absent.
    """
    names = tuple(circles)
    settings = np.array([angles.get(name, 0.0) for name in names])
    return Goniometer(names, np.array(list(circles.values())), settings, names.index(scanned))


def arm_turn(circles: dict[str, Floats], angles: dict[str, float]) -> Floats:
    """Return the rotation (3, 3) of a detector arm: circles, outermost first; angles in radians."""
    turn = np.eye(3)
    for name, axis in circles.items():
        turn = turn @ rotation_matrix(axis, angles[name])
    return turn


def psic_circles() -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the sample and detector circles of psic: lab axes by name, outermost first."""
    return (
        {name: _direction(text) for name, text in PSIC_SAMPLE.items()},
        {name: _direction(text) for name, text in PSIC_ARM.items()},
    )


def psic_goniometer(mu: float, eta: float, chi: float, phi: float) -> Goniometer:
    """Return the sample circles of psic in the lab frame, with eta scanned; angles in radians."""
    axes = np.array([_direction(text) for text in PSIC_SAMPLE.values()])
    return Goniometer(tuple(PSIC_SAMPLE), axes, np.array([mu, eta, chi, phi]), 1)


def psic_ub(ub: ArrayLike) -> Floats:
    """Return UB (3, 3) of SPEC's psic in hklflow's frame (1/Å with 2π)."""
    rotated: Floats = YOU_AXES_LAB @ np.asarray(ub, dtype=np.float64)
    return rotated


def psic_arm(detector: Detector, delta: float, nu: float) -> Detector:
    """Rotate a detector given at delta = nu = 0 to its angles (radians) about the sample."""
    return on_arm(detector, arm_turn(psic_circles()[1], {"delta": delta, "nu": nu}))


def on_arm(detector: Detector, turn: Floats) -> Detector:
    """Rotate a detector given at zero angles of its arm by the rotation (3, 3) of the arm."""
    return replace(
        detector,
        origin=turn @ detector.origin,
        slow=turn @ detector.slow,
        fast=turn @ detector.fast,
    )


def read_detector_xml(path: str | Path) -> Detector:
    """Read the detector at zero angles from an xrayutilities-style geometry XML.

    In the XML, the first pixel direction, size and centre belong to the fast index. The centre
    channel is the index of the pixel whose centre the beam meets.

    Raises
    ------
    HklflowError
        If the file is not such an XML, or a part of it is missing.
    """
    root = _xml(path)
    unit = {"mm": 1e-3, "m": 1.0, "um": 1e-6}

    def element(tag: str) -> Any:
        node = root.find(f".//{{*}}Detector/{{*}}{tag}")
        if node is None or not (node.text or "").strip():
            raise HklflowError(f"{tag} of the detector is missing in {path}; add it")
        return node

    def lengths(tag: str) -> list[float]:
        node = element(tag)
        if node.get("unit") not in unit:
            raise HklflowError(f"{tag} in {path} has the unit {node.get('unit')!r}; use mm")
        return [float(word) * unit[node.get("unit")] for word in node.text.split()]

    fast, slow = (_direction(element(f"pixelDirection{i}").text) for i in (1, 2))
    n_fast, n_slow = (int(word) for word in element("Npixels").text.split())
    width, height = lengths("size")
    centre_fast, centre_slow = (float(word) for word in element("centerChannelPixel").text.split())
    pixel = (height / n_slow, width / n_fast)
    beam = YOU_AXES_LAB[:, 1]
    origin = (
        lengths("distance")[0] * beam
        - (centre_slow + 0.5) * pixel[0] * slow
        - (centre_fast + 0.5) * pixel[1] * fast
    )
    return Detector((n_slow, n_fast), pixel, origin, slow, fast)


def read_circles_xml(path: str | Path) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Read the sample and detector circles (motor name to lab axis, outermost first).

    Raises
    ------
    HklflowError
        If the beam is not along y, the frame of this module.
    """
    root = _xml(path)
    beam = [
        float(axis.text or "nan") for axis in root.findall(".//{*}primaryBeamDirection/{*}axis")
    ]
    if beam != [0.0, 1.0, 0.0]:
        raise HklflowError(
            f"the primary beam in {path} is along {beam}; it must be along y (0 1 0)"
        )

    def circles(tag: str) -> dict[str, Floats]:
        nodes = sorted(
            root.findall(f".//{{*}}{tag}/{{*}}circleAxis"), key=lambda e: int(e.get("number", "0"))
        )
        return {str(e.get("specMotorName")): _direction(str(e.get("directionAxis"))) for e in nodes}

    return circles("sampleCircles"), circles("detectorCircles")


@dataclass(frozen=True)
class Counter:
    """Column that an instrument XML names, and the divisor of its values."""

    column: str
    unit: float


def read_counters_xml(path: str | Path) -> tuple[Counter | None, Counter | None]:
    """Read the columns of monitor and attenuator transmission; None if the file names none.

    Raises
    ------
    HklflowError
        If a scale factor is not a positive number.
    """
    root = _xml(path)

    def counter(tag: str) -> Counter | None:
        node = root.find(f".//{{*}}{tag}")
        if node is None or not (node.text or "").strip():
            return None
        try:
            unit = float(node.get("scaleFactor", "1"))
        except ValueError:
            unit = 0.0
        if not unit > 0:
            raise HklflowError(
                f"{tag} in {path} has the scaleFactor {node.get('scaleFactor')!r}; give a positive "
                "number"
            )
        return Counter(str(node.text).strip(), unit)

    return counter("monitorName"), counter("filterName")


def kind_of_xml(path: str | Path) -> str:
    """Return the kind of an XML file: ``detector``, ``instrument``, or empty if unknown."""
    try:
        tag = ElementTree.parse(path).getroot().tag.rpartition("}")[2]
    except (OSError, ElementTree.ParseError):
        return ""
    kinds = {"detectorGeometryForXrayutilities": "detector", "instForXrayutils": "instrument"}
    return kinds.get(tag, "")


def _xml(path: str | Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise HklflowError(f"{path} cannot be read as XML ({error}); check the path") from None
