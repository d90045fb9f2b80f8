"""Axes of an imgCIF (full CBF) header: detector with its arm, goniometer and scan.

The conventions are those of the imgCIF dictionary (International Tables G, 4.6): an axis moves a
point by ``T(p) = R p + offset`` (rotation) or ``T(p) = p + value * vector + offset`` (translation),
lengths are in mm, angles in degrees. The lab frame follows from the axes `source` and `gravity`; by
default z points from the sample to the source and y up.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.native import require_cctbx_is_safe
from hklflow.geometry import Detector, Goniometer, rotation_matrix

Floats = NDArray[np.float64]
Row = dict[str, str]

_NONE = {".", "?", ""}


@dataclass(frozen=True)
class ImgCif:
    """Geometry in the axes of an imgCIF header, in the lab frame; None: not stated.

    Attributes
    ----------
    detector : Detector or None
    doubt : str or None
        Reason why the axes give no detector.
    goniometer : Goniometer or None
    start_deg, step_deg : float or None
        Angle of the scanned axis at the start of this frame, and width of a frame, degrees.
    arm_deg : float
        Sum of the detector's rotations, degrees.
    wavelength, exposure_time, saturation : float or None
    """

    detector: Detector | None = None
    doubt: str | None = None
    goniometer: Goniometer | None = None
    start_deg: float | None = None
    step_deg: float | None = None
    arm_deg: float = 0.0
    wavelength: float | None = None
    exposure_time: float | None = None
    saturation: float | None = None


@dataclass(frozen=True)
class _Axis:
    kind: str
    equipment: str
    carrier: str
    vector: Floats
    offset: Floats


def read_imgcif(header: str, shape: tuple[int, int], where: str) -> ImgCif | None:
    """Read the axes in the text of a CBF header; None if it states no axes.

    Parameters
    ----------
    header : str
        Text of the file before its pixels.
    shape : (slow, fast)
        Number of pixels.
    where : str
        Name of the file, for messages.

    Raises
    ------
    HklflowError
        If the axes contradict each other, or two axes move during the scan.
    """
    if "_axis.id" not in header:
        return None
    try:
        return _read(_block(header, where), shape, where)
    except (KeyError, ValueError) as error:
        raise HklflowError(
            f"the imgCIF header of {where} is damaged or incomplete ({type(error).__name__}: "
            f"{error}); correct the header, or give the geometry as a calibration"
        ) from error


def _read(block: Any, shape: tuple[int, int], where: str) -> ImgCif | None:
    """Return the geometry in the axes of a data block; None if it has no goniometer."""
    axes = {row["id"]: _axis(row, where) for row in _rows(block, "_axis")}
    if not any(axis.equipment == "goniometer" for axis in axes.values()):
        return None
    to_lab = _lab(axes)
    settings = _settings(block)
    goniometer, scanned = _goniometer(block, axes, to_lab, settings, where)
    increment = _increments(block)
    detector: Detector | None = None
    doubt: str | None = None
    try:
        detector = _detector(block, axes, to_lab, settings, shape, where)
    except HklflowError as error:
        doubt = str(error)
    step = increment.get(scanned or "", 0.0)
    rotations = [i for i, a in axes.items() if a.equipment == "detector" and a.kind == "rotation"]
    return ImgCif(
        detector=detector,
        doubt=doubt,
        goniometer=goniometer,
        start_deg=settings.get(scanned, 0.0) if scanned and step else None,
        step_deg=step or None,
        arm_deg=sum(settings.get(name, 0.0) for name in rotations),
        wavelength=_number(block, "_diffrn_radiation_wavelength", "wavelength"),
        exposure_time=_number(block, "_diffrn_scan_frame", "integration_time"),
        saturation=_number(block, "_array_intensities", "overload"),
    )


def _block(header: str, where: str) -> Any:
    """Return the data block of a header, without the pixels."""
    require_cctbx_is_safe()
    from iotbx import cif

    text = header.partition("\n_array_data.data")[0].replace("\r\n", "\n")
    try:
        model = cif.reader(input_string=text, raise_if_errors=True).model()
        return next(iter(model.values()))
    # iotbx raises what its parser raises.
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise HklflowError(
            f"the imgCIF header of {where} cannot be read ({why}); correct the header, or convert "
            "the images to miniCBF and give the geometry as a calibration"
        ) from error


def _rows(block: Any, category: str) -> list[Row]:
    """Return the rows of a category, each item by its name in the category."""
    columns: dict[str, list[str]] = {}
    for key in block.keys():  # noqa: SIM118
        name, _, item = str(key).partition(".")
        if name.lower() == category:
            value = block[key]
            columns[item] = [value] if isinstance(value, str) else [str(v) for v in value]
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _float(text: str | None) -> float:
    """Return a number; 0 for a value that is not stated."""
    if text is None or text in _NONE:
        return 0.0
    return float(text.partition("(")[0])


def _number(block: Any, category: str, item: str) -> float | None:
    """Return the number in the first row of a category; None if it is not stated."""
    rows = _rows(block, category)
    text = rows[0].get(item) if rows else None
    return None if text is None or text in _NONE else _float(text)


def _axis(row: Row, where: str) -> _Axis:
    try:
        vector, offset = (
            np.array([_float(row.get(f"{name}[{i}]")) for i in (1, 2, 3)])
            for name in ("vector", "offset")
        )
    except ValueError as error:
        raise HklflowError(f"axis {row['id']} in {where} has a vector without numbers") from error
    length = float(np.linalg.norm(vector))
    kinds = {row.get("type", ".").lower(), row.get("equipment", ".").lower()}
    kind = next((k for k in ("rotation", "translation") if k in kinds), "general")
    equipment = next((k for k in kinds if k in _EQUIPMENT), "general")
    if kind != "general" and not 0 < length < np.inf:
        raise HklflowError(f"axis {row['id']} in {where} has no direction; correct the header")
    return _Axis(kind, equipment, row.get("depends_on", "."), vector / (length or 1.0), offset)


_EQUIPMENT = {"goniometer", "detector", "source", "gravity"}


def _lab(axes: dict[str, _Axis]) -> Floats:
    """Return the matrix (3, 3) from the frame of the header to the lab frame."""
    directions = {axis.equipment: axis.vector for axis in axes.values() if axis.vector.any()}
    beam = -directions.get("source", np.array([0.0, 0.0, 1.0]))
    up = -directions.get("gravity", np.array([0.0, -1.0, 0.0]))
    up = up - (up @ beam) * beam
    if np.linalg.norm(up) < 0.1:  # gravity along the beam: not a horizontal beam
        up = np.array([0.0, 1.0, 0.0])
    up = up / np.linalg.norm(up)
    return np.stack([np.cross(up, beam), up, beam])


def _settings(block: Any) -> dict[str, float]:
    """Return the settings of all axes for this frame, degrees or mm."""
    found: dict[str, float] = {}
    for category, angle, displacement in (
        ("_diffrn_scan_axis", "angle_start", "displacement_start"),
        ("_diffrn_scan_frame_axis", "angle", "displacement"),
    ):
        for row in _rows(block, category):
            # An axis is a rotation or a translation; the other column is 0.
            value = _float(row.get(angle)) or _float(row.get(displacement))
            found[row["axis_id"]] = value
    return found


def _increments(block: Any) -> dict[str, float]:
    rows = _rows(block, "_diffrn_scan_axis")
    return {row["axis_id"]: _float(row.get("angle_increment")) for row in rows}


def _chain(axes: dict[str, _Axis], name: str, where: str) -> list[str]:
    """List an axis and all axes that carry it, innermost first."""
    chain: list[str] = []
    while name not in _NONE:
        if name not in axes or name in chain:
            what = "depends on itself" if name in chain else "is not defined"
            raise HklflowError(f"axis {name} in {where} {what}; correct the header")
        chain.append(name)
        name = axes[name].carrier
    return chain


def _goniometer(
    block: Any, axes: dict[str, _Axis], to_lab: Floats, settings: dict[str, float], where: str
) -> tuple[Goniometer, str | None]:
    """Return the goniometer, and the name of the axis that moves."""
    names = [n for n, a in axes.items() if a.equipment == "goniometer" and a.kind == "rotation"]
    if not names:
        raise HklflowError(
            f"the goniometer in {where} has no axis that rotates; correct the header"
        )
    chain = max((_chain(axes, name, where) for name in names), key=len)
    order = [name for name in reversed(chain) if name in names]
    steps = _increments(block)
    moving = [name for name in order if steps.get(name, 0.0)]
    if len(moving) > 1:
        raise HklflowError(
            f"the axes {', '.join(moving)} of {where} all move during the scan; hklflow reduces "
            "scans of one axis"
        )
    goniometer = Goniometer(
        tuple(plain_name(name) for name in order),
        np.array([to_lab @ axes[name].vector for name in order]),
        np.radians([settings.get(name, 0.0) for name in order]),
        order.index(moving[0]) if moving else 0,
    )
    return goniometer, moving[0] if moving else None


def plain_name(name: str) -> str:
    """Return the usual name of a motor: ``omega`` for ``GON_OMEGA``."""
    return name.lower().removeprefix("gon_").removeprefix("goniometer_")


def _detector(
    block: Any,
    axes: dict[str, _Axis],
    to_lab: Floats,
    settings: dict[str, float],
    shape: tuple[int, int],
    where: str,
) -> Detector:
    """Return the detector; raise if it is not one flat panel of square rows and columns."""
    sets: dict[str, list[Row]] = {}
    for row in _rows(block, "_array_structure_list_axis"):
        sets.setdefault(row.get("axis_set_id", row["axis_id"]), []).append(row)
    indices = {row["precedence"]: row for row in _rows(block, "_array_structure_list")}
    if set(indices) != {"1", "2"} or len(_rows(block, "_array_structure_list")) != 2:
        raise HklflowError(f"the imgCIF header of {where} does not describe one image of two axes")
    steps: list[tuple[str, float, float]] = []
    for row, pixels in zip((indices["2"], indices["1"]), shape, strict=True):  # slow, fast
        members = sets.get(row.get("axis_set_id", ""), [])
        if len(members) != 1 or row.get("direction", "increasing") != "increasing":
            raise HklflowError(f"the pixel axes in {where} are not two straight increasing axes")
        if int(_float(row.get("dimension"))) != pixels:
            raise HklflowError(
                f"the imgCIF header of {where} describes {row.get('dimension')} pixels where the "
                f"image has {pixels}"
            )
        first, width = (
            _float(members[0].get(k)) for k in ("displacement", "displacement_increment")
        )
        # The displacement is that of the first pixel's centre; 0 with an offset to the corner is
        # what the templates of camserver contain, and what their `Beam_xy` agrees with.
        steps.append((members[0]["axis_id"], first - 0.5 * width if first else 0.0, width))
    chains = [_chain(axes, name, where) for name, _, _ in steps]
    inner = max(chains, key=len)
    if any(name not in inner for name, _, _ in steps):
        raise HklflowError(f"the pixel axes in {where} do not depend on each other")

    def place(slow: float, fast: float) -> Floats:
        own = dict(settings)
        for (name, corner, width), index in zip(steps, (slow, fast), strict=True):
            own[name] = corner + index * width
        point = np.zeros(3)
        for name in inner:
            axis, value = axes[name], own.get(name, 0.0)
            if axis.kind == "rotation":
                point = rotation_matrix(axis.vector, np.radians(value)) @ point
            else:
                point = point + value * axis.vector
            point = point + axis.offset
        return np.asarray(to_lab @ point * 1e-3)

    corner = place(0, 0)
    slow, fast = place(1, 0) - corner, place(0, 1) - corner
    sizes = float(np.linalg.norm(slow)), float(np.linalg.norm(fast))
    if not min(sizes) > 0 or abs(slow @ fast) > 1e-6 * sizes[0] * sizes[1]:
        raise HklflowError(f"the pixels in the imgCIF header of {where} are not rectangles")
    return Detector(shape, sizes, corner, slow / sizes[0], fast / sizes[1])
