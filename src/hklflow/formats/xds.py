"""Read and write orientation and geometry of XDS: XPARM.XDS and GXPARM.XDS of XDS since 2011.

XDS accepts any right-handed frame. The writer puts the beam along z, and x and y of the detector
along x and y for the usual mounting of the detector. Pixel numbers of XDS are at centres and count
from 1: pixel coordinates of hklflow + 0.5. A point of the detector is at

    ED [QX (x - ORGXS) eds_x + QY (y - ORGYS) eds_y + FS eds_z]
        - QX ORGX ed_x - QY ORGY ed_y + F ed_z

with one set of ORGXS, ORGYS, FS, eds for each segment. The crystal axes are given at spindle angle
0; they include the rotations of all other axes, above and below the scanned one.

XDS itself prints 6 decimals of axes and vectors, and 3 or 4 of cell and angles. The crystal is read
from its axes: with these digits the orientation relative to the detector is known to 1e-4 degrees,
and a cell of 5 to 10 Å to 2e-7 of its lengths. The writer writes all digits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file
from hklflow.formats.panels import joined
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice
from hklflow.geometry.model import Model, fraction_along_x, onto_beam, sound

Floats = NDArray[np.float64]

_FRAME = np.diag([-1.0, -1.0, 1.0])  # lab frame to the usual frame of XDS, and back


def write_xparm(path: str | Path, model: Model) -> list[str]:
    """Write XPARM.XDS for one rotation.

    Returns
    -------
    list of str
        Notes on all that the file cannot store.

    Raises
    ------
    HklflowError
        If the model has no crystal or no space group.
    """
    rotation = model.rotation
    u_cell = model.crystal
    if model.space_group is None:
        raise HklflowError(
            f"the model of {model.name} has no space group, which XPARM.XDS requires; set it"
        )
    from hklflow.geometry.symmetry import space_group

    group = space_group(model.space_group)
    notes = []
    if space_group(group.number) != group:
        notes.append(
            f"XDS has space groups by number only: {group.symbol} is written as {group.number}, "
            "which is another setting"
        )
    goniometer, scan, detector = rotation.goniometer, rotation.scan, rotation.detector
    if len(goniometer.names) > 1:
        notes.append("XDS has one axis: the angles of other axes are in the crystal's orientation")
    sign = 1.0 if scan.step > 0 else -1.0  # XDS needs positive steps
    axes = 2 * np.pi * np.linalg.inv(_FRAME @ goniometer.rotation(0.0) @ np.asarray(model.ub))
    rows: list[Sequence[float | int]] = [
        [
            model.first_image,
            sign * float(np.degrees(scan.start)),
            abs(float(np.degrees(scan.step))),
            *(_FRAME @ goniometer.scan_axis_lab() * sign),
        ],
        [rotation.beam.wavelength, 0.0, 0.0, 1 / rotation.beam.wavelength],
        [group.number, *u_cell[1]],
        *axes,
        *_detector_rows(detector),
    ]
    lines = [" XPARM.XDS    written by hklflow", *(_line(row) for row in rows)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="ascii")
    return notes


def _line(row: Sequence[float | int]) -> str:
    # Integers are written as integers, because XDS and other programs read them as such.
    return " ".join(
        f"{x:9d}" if isinstance(x, int | np.integer) else f"{x:24.16e}" for x in row
    ).rstrip()


def _detector_rows(detector: Detector) -> list[Sequence[float | int]]:
    ed = np.stack([detector.fast, detector.slow, np.cross(detector.fast, detector.slow)], axis=1)
    qy, qx = (1e3 * size for size in detector.pixel_size)
    x, y, f = 1e3 * ed.T @ detector.origin
    ny, nx = detector.shape
    patches = 1 if detector.modules is None else len(detector.modules)
    rows: list[Sequence[float | int]] = [
        [patches, nx, ny, qx, qy],
        [-x / qx + 0.5, -y / qy + 0.5, f],
        *(_FRAME @ ed).T,
    ]
    for m in range(patches):
        box, org, eds = (0, ny, 0, nx), np.zeros(2), np.eye(3)
        if detector.modules is not None:
            s0, s1, f0, f1 = (int(i) for i in detector.modules.rectangles[m])
            box, patch = (s0, s1, f0, f1), detector.patch(m)
            eds = ed.T @ np.stack([patch.fast, patch.slow, ed[:, 2]], axis=1)
            # The corner of the patch is half a pixel before pixel (f0, s0) of XDS.
            corner = 1e3 * ed.T @ (patch.origin - detector.origin)
            pixel_zero = corner + 0.5 * np.array([qx, qy, 0.0])
            org = np.array([f0, s0]) + 0.5 - (eds.T @ pixel_zero)[:2] / [qx, qy]
        rows.append([m + 1, box[2] + 1, box[3], box[0] + 1, box[1]])
        rows.append([*org, 0.0, *eds[:, 0], *eds[:, 1]])
    return rows


@dataclass(frozen=True)
class _Input:
    """Values of XDS.INP in the folder of the file."""

    images: tuple[int, int] | None = None
    template: str | None = None
    polarization: tuple[float, Floats] | None = None


def read_xparm(path: str | Path, n_frames: int | None = None) -> Model:
    """Read XPARM.XDS or GXPARM.XDS.

    Number and names of the images are in XDS.INP, which is read if it is in the same folder.

    Parameters
    ----------
    n_frames : int, optional
        Number of images; default: from XDS.INP, else 1, with a note.

    Raises
    ------
    HklflowError
        If the file is not XPARM.XDS, is truncated, or of XDS before 2011, or its segments do not
        lie in one plane.
    """
    path = Path(path)
    rows, xds_input = _rows(path), _read_input(path.parent / "XDS.INP")
    try:
        with np.errstate(all="ignore"):  # `sound` refuses values that are not finite
            return sound(_model(path, rows, xds_input, n_frames))
    except (LookupError, ValueError, ArithmeticError) as error:
        raise HklflowError(
            f"{path} is truncated or damaged ({error}); write it again with XDS"
        ) from None


def _model(path: Path, rows: list[list[float]], xds_input: _Input, n_frames: int | None) -> Model:
    (image_number, start, step, *axis), (wavelength, *beam), (group, *_) = rows[:3]
    if len(axis) != 3 or len(beam) != 3:
        raise ValueError("numbers are missing in the first lines")
    cell_axes = np.array(rows[3:6]).reshape(3, 3)
    turn = _FRAME @ onto_beam(np.array(beam))
    image = int(image_number)
    notes = []
    first = image
    if n_frames is None and xds_input.images is not None:
        first, n_frames = xds_input.images[0], xds_input.images[1] - xds_input.images[0] + 1
    elif n_frames is None:
        notes.append("the file does not give the number of images: 1 is used")
    polarization, oblique = 0.5, False
    if xds_input.polarization is None:
        notes.append("the polarization is not in the file; the beam is taken as unpolarized")
    else:
        fraction, normal = xds_input.polarization
        polarization, oblique = fraction_along_x(fraction, turn @ normal)
    if oblique:
        notes.append(
            "the plane of polarization is oblique; its part along horizontal and vertical is used"
        )
    scan = Scan(
        float(np.radians(start + (first - image) * step)),
        float(np.radians(step)),
        1 if n_frames is None else n_frames,
    )
    return Model(
        rotation=Rotation(
            Beam(wavelength, polarization),
            _detector_from(rows[6:], turn, path),
            Goniometer.single(turn @ np.array(axis), "phi"),
            scan,
        ),
        ub=2 * np.pi * turn @ np.linalg.inv(cell_axes),
        space_group=str(int(group)),
        raw=xds_input.template,
        first_image=first,
        name=path.stem if path.stem.upper() not in ("XPARM", "GXPARM") else "f1",
        notes=tuple(notes),
    )


def _rows(path: Path) -> list[list[float]]:
    """Return the numbers of the lines after the first."""
    require_file(path, "orientation")
    with path.open("rb") as file:
        start = file.read(200)
        if start.lstrip()[:9] != b"XPARM.XDS":
            raise HklflowError(
                f"{path} does not begin with XPARM.XDS; give XPARM.XDS or GXPARM.XDS of XDS since "
                "2011"
            )
        text = (start + file.read()).decode("latin-1")
    try:
        rows = [[float(word) for word in line.split()] for line in text.splitlines()[1:]]
    except ValueError as error:
        raise HklflowError(f"{path} is not numeric ({error}); write it again") from None
    if not all(np.isfinite(row).all() for row in rows):
        raise HklflowError(f"{path} contains numbers that are not finite; write it again with XDS")
    return [row for row in rows if row]


def _detector_from(rows: list[list[float]], turn: Floats, path: Path) -> Detector:
    (n_segments, nx, ny, qx, qy), (orgx, orgy, distance) = rows[:2]
    shape, size = (int(ny), int(nx)), np.array([qx, qy])
    if min(*shape, qx, qy) <= 0 or len(rows) != 5 + 2 * int(n_segments):
        raise ValueError(f"a detector of {nx:g} x {ny:g} pixels and {n_segments:g} segments")
    x, y = np.array(rows[2]), np.array(rows[3])
    # The printed digits leave the axes orthogonal only to 1e-6.
    ed = lattice.nearest_rotation(turn @ np.stack([x, y, np.cross(x, y)], axis=1))
    origin = ed @ [-qx * orgx, -qy * orgy, distance]  # of pixel 0, 0 in the count of XDS
    parts, corners, plain = [], [], True
    for box, place in zip(rows[5::2], rows[6::2], strict=True):
        x1, x2, y1, y2 = (int(i) for i in box[1:])
        org, height, ex, ey = np.array(place[:2]), place[2], np.array(place[3:6]), place[6:]
        eds = lattice.nearest_rotation(np.stack([ex, ey, np.cross(ex, ey)], axis=1))
        plain &= bool(height == 0 and not org.any() and np.array_equal(eds, np.eye(3)))
        local = [*(size * (np.array([x1, y1]) - 0.5 - org)), height]
        parts.append(_flat((y2 - y1 + 1, x2 - x1 + 1), size, origin + ed @ eds @ local, ed @ eds))
        corners.append((y1 - 1, x1 - 1))
    if plain:
        return _flat(shape, size, origin + ed @ [0.5 * qx, 0.5 * qy, 0.0], ed)
    return joined(parts, np.array(corners), shape, f"segments in {path}")


def _flat(shape: tuple[int, int], size: Floats, origin_mm: Floats, axes: Floats) -> Detector:
    fast, slow = (float(x) for x in 1e-3 * size)
    return Detector(shape, (slow, fast), 1e-3 * origin_mm, axes[:, 1], axes[:, 0])


def _read_input(path: Path) -> _Input:
    if not path.is_file():
        return _Input()
    text = "\n".join(line.partition("!")[0] for line in path.read_text("latin-1").splitlines())
    values = {
        key: value.split()
        for key, value in re.findall(r"([A-Z][A-Z0-9_-]*)=((?:[ \t]+(?![A-Z0-9_-]+=)\S+)*)", text)
    }
    images, polarization = None, None
    try:
        if "DATA_RANGE" in values:
            first, last = (int(word) for word in values["DATA_RANGE"])
            images = (first, last)
        if "FRACTION_OF_POLARIZATION" in values:
            normal = np.array([float(x) for x in values["POLARIZATION_PLANE_NORMAL"]])
            polarization = (float(values["FRACTION_OF_POLARIZATION"][0]), normal)
    except (ValueError, KeyError, IndexError) as error:
        raise HklflowError(f"{path} is not a valid XDS.INP ({error}); correct it") from None
    names = values.get("NAME_TEMPLATE_OF_DATA_FRAMES")
    return _Input(images, names[0].replace("?", "#") if names else None, polarization)
