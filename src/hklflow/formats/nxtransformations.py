"""Chains of NeXus axes: the placement of a detector, and the rotation of a sample.

A NeXus transformation moves a point by ``T(p) = R p + offset`` (rotation) or
``T(p) = p + value * vector + offset`` (translation); each axis names in `depends_on` the axis that
carries it, up to ".", the laboratory (NeXus manual, NXtransformations).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.nxfile import UNITS, attribute, find, located, scaled, text
from hklflow.geometry import rotation_matrix

Floats = NDArray[np.float64]


def carrier(node: Any, value: Any) -> Any | None:
    """Return the node that a `depends_on` names; None is the laboratory."""
    name = text(value).strip()
    if name in {"", "."}:
        return None
    base = node.file if name.startswith("/") else node if hasattr(node, "keys") else node.parent
    node_of_name = find(base, name)
    if node_of_name is None:
        raise HklflowError(
            f"{located(node)} depends on {name}, which is not in the file; correct the file"
        )
    return node_of_name


def chain_of(node: Any | None) -> list[Any]:
    """List an axis and all axes that carry it, innermost first."""
    chain: list[Any] = []
    while node is not None:
        if len(chain) > 100:
            raise HklflowError(
                f"the depends_on chain of {chain[0].name} is circular; correct the file"
            )
        chain.append(node)
        node = carrier(node, node.attrs.get("depends_on", "."))
    return chain


def axis_offset(node: Any) -> Floats:
    """Return the offset (3,) of an axis in metres."""
    if "offset" not in node.attrs:
        return np.zeros(3)
    offset = attribute(node, "offset")
    if offset is None or offset.shape != (3,) or not np.isfinite(offset).all():
        raise HklflowError(
            f"the offset of {located(node)} is {_listed(node, 'offset')}, not three numbers; "
            "correct the file"
        )
    if not offset.any():
        return offset
    unit = text(node.attrs.get("offset_units", node.attrs.get("units", "")))
    factor = UNITS["length"].get(unit.lower())
    if factor is None:
        raise HklflowError(
            f"the offset of {located(node)} has the unit {unit!r}, not a length; correct the file"
        )
    return offset * factor


def _listed(node: Any, name: str) -> Any:
    """Return the value of an attribute as messages show it."""
    return np.asarray(node.attrs[name]).tolist()


def axis_vector(node: Any) -> Floats:
    """Return the direction (3,) of an axis, a unit vector."""
    if "vector" not in node.attrs:
        raise HklflowError(f"{located(node)} has no vector; correct the file")
    vector = attribute(node, "vector")
    length = 0.0 if vector is None else float(np.linalg.norm(vector))
    if vector is None or vector.shape != (3,) or not 0 < length < np.inf:
        raise HklflowError(
            f"the vector of {located(node)} is {_listed(node, 'vector')}, not a direction; correct "
            "the file"
        )
    return vector / length


def is_rotation(node: Any) -> bool:
    """Return True if an axis is a rotation, False if it is a translation."""
    kind = text(node.attrs.get("transformation_type", ""))
    if kind not in {"rotation", "translation"}:
        raise HklflowError(
            f"{node.name} in {node.file.filename} has the transformation_type {kind!r}, neither "
            "rotation nor translation; correct it"
        )
    return kind == "rotation"


def placement(node: Any | None) -> tuple[Floats, Floats]:
    """Return rotation (3, 3) and shift (3,) from the frame carried by this axis to the lab."""
    turn, shift = np.eye(3), np.zeros(3)
    for axis in chain_of(node):
        rotation = is_rotation(axis)
        values = np.ravel(scaled(axis, "angle" if rotation else "length"))
        if np.ptp(values) > (1e-9 if rotation else 1e-12):
            raise HklflowError(
                f"{axis.name} in {axis.file.filename} moves the detector during the scan; hklflow "
                "reduces scans with a fixed detector"
            )
        if rotation:
            matrix = rotation_matrix(axis_vector(axis), values[0])
            turn, shift = matrix @ turn, matrix @ shift
        else:
            shift = shift + values[0] * axis_vector(axis)
        shift = shift + axis_offset(axis)
    return turn, shift
