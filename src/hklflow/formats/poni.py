"""Convert pyFAI's PONI geometry to a `Detector` and back; read and write PONI files.

pyFAI's axes are 1 (up, lab y), 2 (-lab x) and 3 (along the beam, lab z). The point of normal
incidence (poni1, poni2) and the distance place the detector; then it is rotated about the axes 1,
2, 3 by rot1, rot2, rot3 in this order (rot1 and rot2 are left-handed). Positions are ``t = R3 R2 R1
(p1 - poni1, p2 - poni2, dist)``. The *orientation* (1-4, as in the Exif standard) gives the
directions of the image's rows and columns along p1 and p2; see J. Kieffer et al., J. Appl. Cryst.
53 (2020) 558 for the geometry and pyFAI's documentation for the orientation.

A PONI file describes one plane with one grid of pixels. It cannot store displaced modules: for such
a detector, only the plane can be exported, with a note.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file
from hklflow.geometry import Detector

Floats = NDArray[np.float64]

# Columns: pyFAI's axes 1, 2, 3 in the lab frame.
PYFAI_AXES_LAB = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

# Signs of the slow and the fast index along pyFAI's detector axes 1 and 2.
ORIENTATION_SIGNS = {1: (-1, -1), 2: (-1, 1), 3: (1, 1), 4: (1, -1)}

# Names in the Detector line that stand for no known detector: the file gives pixel sizes.
_UNNAMED = {"", "none", "detector"}


@dataclass(frozen=True)
class Poni:
    """Parameters of a PONI file.

    Attributes
    ----------
    dist, poni1, poni2 : float
        Distance and point of normal incidence, metres.
    rot1, rot2, rot3 : float
        Rotations, radians.
    pixel1, pixel2 : float
        Pixel size along slow and fast, metres.
    shape : (slow, fast) or None
        Pixels of the image; None: not in the file.
    orientation : int
        Orientation, 1 to 4; 3 is pyFAI's default, also for files without an orientation.
    wavelength : float or None
        Wavelength, Å.
    """

    dist: float
    poni1: float
    poni2: float
    rot1: float
    rot2: float
    rot3: float
    pixel1: float
    pixel2: float
    shape: tuple[int, int] | None = None
    orientation: int = 3
    wavelength: float | None = None

    def detector(self, shape: tuple[int, int] | None = None) -> Detector:
        """Return the detector in the lab frame; give `shape` if the file has none.

        Raises
        ------
        HklflowError
            If the shape is unknown or contradicts the shape in the file.
        """
        if self.shape is not None and shape is not None and tuple(shape) != self.shape:
            raise HklflowError(
                f"the PONI geometry is for {self.shape} pixels but the images have "
                f"{tuple(shape)}; use the PONI file of this detector"
            )
        known = self.shape if shape is None else shape
        if known is None:
            raise HklflowError("the PONI geometry has no detector shape; give the image shape")
        values = asdict(self)
        values.pop("wavelength")
        values["shape"] = known
        return detector_from_poni(**values)


def poni_rotation(rot1: float, rot2: float, rot3: float) -> Floats:
    """Return pyFAI's rotation (3, 3) ``R3 R2 R1``, in its own axes 1, 2, 3."""
    (c1, c2, c3), (s1, s2, s3) = np.cos([rot1, rot2, rot3]), np.sin([rot1, rot2, rot3])
    turn1 = np.array([[1, 0, 0], [0, c1, s1], [0, -s1, c1]])
    turn2 = np.array([[c2, 0, -s2], [0, 1, 0], [s2, 0, c2]])
    turn3 = np.array([[c3, -s3, 0], [s3, c3, 0], [0, 0, 1]])
    rotation: Floats = turn3 @ turn2 @ turn1
    return rotation


def _signs(orientation: int) -> tuple[int, int]:
    if orientation not in ORIENTATION_SIGNS:
        raise HklflowError(
            f"image orientation {orientation!r} of the PONI geometry is not 1, 2, 3 or 4; "
            "give the corner of the detector where the first pixel is"
        )
    return ORIENTATION_SIGNS[orientation]


def detector_from_poni(
    *,
    dist: float,
    poni1: float,
    poni2: float,
    rot1: float,
    rot2: float,
    rot3: float,
    pixel1: float,
    pixel2: float,
    shape: tuple[int, int],
    orientation: int = 3,
) -> Detector:
    """Return the detector in the lab frame for PONI parameters.

    Parameters
    ----------
    dist, poni1, poni2, pixel1, pixel2 : float
        Metres; index 1 is the slow direction, 2 the fast direction.
    rot1, rot2, rot3 : float
        Radians.
    shape : (slow, fast)
    orientation : int
        1 to 4.

    Raises
    ------
    HklflowError
        If the orientation is not 1 to 4.
    """
    sign1, sign2 = _signs(orientation)
    axes = PYFAI_AXES_LAB @ poni_rotation(rot1, rot2, rot3)
    # The outer corner of pixel (0, 0) is at the far end of a reversed axis.
    corner1 = shape[0] * pixel1 if sign1 < 0 else 0.0
    corner2 = shape[1] * pixel2 if sign2 < 0 else 0.0
    return Detector(
        shape=(int(shape[0]), int(shape[1])),
        pixel_size=(pixel1, pixel2),
        origin=axes @ np.array([corner1 - poni1, corner2 - poni2, dist]),
        slow=sign1 * axes[:, 0],
        fast=sign2 * axes[:, 1],
    )


def poni_from_detector(
    detector: Detector, orientation: int | None = None, wavelength: float | None = None
) -> Poni:
    """Return the PONI parameters of a detector without displaced modules.

    Parameters
    ----------
    detector : Detector
        Detector without modules; see `Detector.plane`.
    orientation : int, optional
        Default: of the two orientations with the handedness of the image, the one with the
        smaller absolute rot3.
    wavelength : float, optional
        Wavelength in Å, stored in the file.

    Raises
    ------
    HklflowError
        If the detector would be upstream with this orientation (a mirrored image), or has
        modules.
    """
    if detector.modules is not None:
        raise HklflowError(
            f"a PONI file cannot store the displacements of the {len(detector.modules)} modules of "
            "the detector; keep the geometry in hklflow's own file, or export only the plane, "
            "with a note"
        )
    if orientation is None:
        mirrored = bool(np.cross(detector.slow, detector.fast) @ detector.origin < 0)
        first, second = (
            poni_from_detector(detector, choice, wavelength)
            for choice in ((2, 4) if mirrored else (3, 1))
        )
        return first if abs(first.rot3) <= abs(second.rot3) else second
    sign1, sign2 = _signs(orientation)
    axis1, axis2 = sign1 * detector.slow, sign2 * detector.fast
    axes = np.stack([axis1, axis2, np.cross(axis1, axis2)], axis=1)
    corner = detector.origin.copy()
    if sign1 < 0:
        corner = corner + detector.slow * detector.shape[0] * detector.pixel_size[0]
    if sign2 < 0:
        corner = corner + detector.fast * detector.shape[1] * detector.pixel_size[1]
    minus1, minus2, dist = axes.T @ corner
    if dist <= 0:
        raise HklflowError(
            f"image orientation {orientation} mirrors this detector (its distance would be "
            f"{dist:.6g} m); use one of {'1, 3' if orientation in (2, 4) else '2, 4'}"
        )
    rotation = PYFAI_AXES_LAB.T @ axes
    return Poni(
        dist=float(dist),
        poni1=float(-minus1),
        poni2=float(-minus2),
        rot1=float(np.arctan2(-rotation[2, 1], rotation[2, 2])),
        # arctan2 keeps full precision; arcsin of a value near 1 does not.
        rot2=float(np.arctan2(rotation[2, 0], np.hypot(rotation[2, 1], rotation[2, 2]))),
        rot3=float(np.arctan2(rotation[1, 0], rotation[0, 0])),
        pixel1=detector.pixel_size[0],
        pixel2=detector.pixel_size[1],
        shape=detector.shape,
        orientation=orientation,
        wavelength=wavelength,
    )


def poni_unmirrored(detector: Detector, wavelength: float) -> Poni:
    """Return PONI parameters of orientation 3 that give each pixel the 2θ it has.

    A detector whose image is mirrored is mirrored in the plane y = 0. Its azimuths are then
    mirrored, too: use the parameters only for 2θ, in programs that know no orientation.
    """
    if np.cross(detector.slow, detector.fast) @ detector.origin < 0:
        mirror = np.array([1.0, -1.0, 1.0])
        detector = replace(
            detector,
            origin=mirror * detector.origin,
            slow=mirror * detector.slow,
            fast=mirror * detector.fast,
        )
    return poni_from_detector(detector, 3, wavelength)


def modules_note(detector: Detector) -> str | None:
    """Return a note for the PONI file of `Detector.plane`; None if the detector has no modules."""
    if detector.modules is None:
        return None
    return (
        "This file describes only the mean plane of the detector. The shifts of its "
        f"{len(detector.modules)} modules are in hklflow's geometry file; programs that read PONI "
        "files ignore them."
    )


def read_poni(path: str | Path) -> Poni:
    """Read a PONI file of version 1, 2, 2.1 or 3 (the last entry counts, as in pyFAI).

    Raises
    ------
    HklflowError
        If a parameter is absent or not a number, or the file was refined with pyFAI's parallax
        correction, which a `Detector` does not have.
    """
    path = Path(path)
    entries, config = _entries(path)

    def number(*names: str) -> float:
        for name in names:
            if name in entries:
                try:
                    return float(entries[name])
                except ValueError:
                    raise HklflowError(
                        f"{name} is {entries[name]!r} in {path}, not a number; correct the PONI "
                        "file"
                    ) from None
        raise HklflowError(f"{names[0]} is missing in {path}; a PONI file needs it")

    if entries.get("parallax", "False").lower() == "true":
        raise HklflowError(
            f"{path} was refined with pyFAI's parallax correction; refine it again without it, "
            "because hklflow corrects the parallax itself"
        )
    try:
        pixel1, pixel2, shape = _pixels(path, entries, config)
        # 0 is pyFAI's "not specified", treated by pyFAI as 3.
        orientation = int(config.get("orientation", 0)) or 3
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from None
    poni = Poni(
        dist=number("distance", "dist"),
        poni1=number("poni1"),
        poni2=number("poni2"),
        rot1=number("rot1"),
        rot2=number("rot2"),
        rot3=number("rot3"),
        pixel1=pixel1,
        pixel2=pixel2,
        shape=shape,
        orientation=orientation,
        wavelength=number("wavelength") * 1e10 if "wavelength" in entries else None,
    )
    rotations = (poni.rot1, poni.rot2, poni.rot3)
    if not (poni.dist > 0 and max(map(abs, rotations)) <= 2 * np.pi):
        raise HklflowError(
            f"{path} has the distance {poni.dist:g} m and the rotations "
            f"{', '.join(f'{x:g}' for x in rotations)}; the distance must be positive, and the "
            "rotations in radians: correct the PONI file"
        )
    return poni


def read_sensor(path: str | Path) -> tuple[str | None, float | None]:
    """Return material and thickness (m) of the sensor from a PONI file (written since pyFAI 2025).

    Raises
    ------
    HklflowError
        If the Detector_config of the file is damaged.
    """
    path = Path(path)
    _, config = _entries(path)
    try:
        sensor = config.get("sensor") or {}
        material, thickness = sensor.get("material"), sensor.get("thickness")
        return (
            None if material is None else str(material),
            None if thickness is None else float(thickness),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from None


def _entries(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the entries of a PONI file by lower-case name, and its Detector_config."""
    require_file(path, "PONI file")
    entries: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise HklflowError(f"{path} is not a PONI file ({error}); give one of pyFAI") from None
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and not line.lstrip().startswith("#"):
            entries[key.strip().lower()] = value.strip()
    try:
        return entries, json.loads(entries.get("detector_config", "{}"))
    except json.JSONDecodeError as error:
        raise HklflowError(f"Detector_config in {path} is not JSON ({error}); correct it") from None


def _damaged(path: Path, error: Exception) -> HklflowError:
    return HklflowError(
        f"Detector_config in {path} is damaged ({type(error).__name__}: {error}); correct it"
    )


def _pixels(
    path: Path, entries: dict[str, str], config: dict[str, Any]
) -> tuple[float, float, tuple[int, int] | None]:
    """Return pixel sizes and shape, from the file or from pyFAI's table of detectors."""
    pixel1 = config.get("pixel1", entries.get("pixelsize1"))
    pixel2 = config.get("pixel2", entries.get("pixelsize2"))
    shape = config.get("max_shape")
    name = entries.get("detector", "")
    if name.lower() not in _UNNAMED and (pixel1 is None or shape is None):
        from pyFAI.detectors import ALL_DETECTORS, detector_factory

        lower = name.lower()
        # For an unknown name, the factory prints the names of all detectors.
        if not {lower, lower.replace(" ", "_"), lower.replace(" ", "")} & set(ALL_DETECTORS):
            raise HklflowError(
                f"pyFAI has no detector {name!r}, named in {path}; give its pixel sizes in "
                "Detector_config"
            )
        known = detector_factory(name)
        pixel1 = known.pixel1 if pixel1 is None else pixel1
        pixel2 = known.pixel2 if pixel2 is None else pixel2
        shape = known.max_shape if shape is None else shape
    if pixel1 is None or pixel2 is None:
        raise HklflowError(f"the pixel size is missing in {path}; add it to Detector_config")
    size = None if shape is None else (int(shape[0]), int(shape[1]))
    return float(pixel1), float(pixel2), size


def write_poni(path: str | Path, poni: Poni, note: str | None = None) -> None:
    """Write a PONI file of version 2.1, with all digits.

    Parameters
    ----------
    note : str, optional
        Comment line, such as `modules_note`.
    """
    config: dict[str, Any] = {"pixel1": poni.pixel1, "pixel2": poni.pixel2}
    if poni.shape is not None:
        config["max_shape"] = list(poni.shape)
    config["orientation"] = poni.orientation
    lines = [
        "# Written by hklflow. 1 is the slow axis of the image, 2 the fast one; metre, radian.",
        *([] if note is None else [f"# {note}"]),
        "poni_version: 2.1",
        "Detector: Detector",
        f"Detector_config: {json.dumps(config)}",
        f"Distance: {poni.dist!r}",
        f"Poni1: {poni.poni1!r}",
        f"Poni2: {poni.poni2!r}",
        f"Rot1: {poni.rot1!r}",
        f"Rot2: {poni.rot2!r}",
        f"Rot3: {poni.rot3!r}",
    ]
    if poni.wavelength is not None:
        lines.append(f"Wavelength: {poni.wavelength * 1e-10!r}")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def flipped_up_down(poni: Poni) -> Poni:
    """Return the same detector for the image flipped up-down (rows in reverse order).

    The detector does not move, only the order of its rows changes, so the orientation changes:
    1 and 4, 2 and 3 swap.
    """
    return replace(poni, orientation={1: 4, 4: 1, 2: 3, 3: 2}[poni.orientation])
