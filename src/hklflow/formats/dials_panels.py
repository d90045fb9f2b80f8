"""Convert detectors of dxtbx (panels in a tree of frames) to a flat `Detector` and back."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.dials_peaks import TO_DXTBX
from hklflow.formats.panels import joined
from hklflow.geometry import Detector

Floats = NDArray[np.float64]

_UNLIMITED = (-(2.0**31), 2.0**32 - 2)  # counts, if the range is unknown; 2³² - 1 is a flag


def panels_of(detector: Detector, trusted_range: tuple[float, float] | None) -> dict[str, Any]:
    """Return the entry ``detector`` of an experiment list: one panel, or one for each module."""
    if detector.modules is None:
        parts, corners = [detector], [(0, 0)]
    else:
        boxes = detector.modules.rectangles
        parts = [detector.patch(m) for m in range(len(boxes))]
        corners = [(int(box[0]), int(box[2])) for box in boxes]
    panels = []
    for number, (part, corner) in enumerate(zip(parts, corners, strict=True)):
        name = "Panel" if len(parts) == 1 else f"module_{number}"
        panels.append(_panel(part, corner, name, trusted_range))
    size = [detector.shape[1], detector.shape[0]]
    root = _frame("detector", np.eye(3)[0], np.eye(3)[1], np.zeros(3))
    return {
        "panels": panels,
        "hierarchy": {
            **root,
            "image_size": size,
            "children": [{"panel": i} for i in range(len(panels))],
        },
    }


def _frame(name: str, fast: Floats, slow: Floats, origin: Floats) -> dict[str, Any]:
    """Return the keys that frames and panels have in common, in mm and the axes of dxtbx."""
    return {
        "name": name,
        "type": "",
        "fast_axis": fast.tolist(),
        "slow_axis": slow.tolist(),
        "origin": origin.tolist(),
        "raw_image_offset": [0, 0],
        "image_size": [0, 0],
        "pixel_size": [0.0, 0.0],
        "trusted_range": [0.0, 0.0],
        "thickness": 0.0,
        "material": "",
        "mu": 0.0,
        "identifier": "",
        "mask": [],
        "gain": 1.0,
        "pedestal": 0.0,
        "px_mm_strategy": {"type": "SimplePxMmStrategy"},
    }


def _panel(
    part: Detector, corner: tuple[int, int], name: str, trusted: tuple[float, float] | None
) -> dict[str, Any]:
    axes = _frame(name, TO_DXTBX @ part.fast, TO_DXTBX @ part.slow, 1e3 * TO_DXTBX @ part.origin)
    return axes | {
        "type": "SENSOR_PAD",
        "raw_image_offset": [corner[1], corner[0]],
        "image_size": [part.shape[1], part.shape[0]],
        "pixel_size": [1e3 * part.pixel_size[1], 1e3 * part.pixel_size[0]],
        "trusted_range": list(_UNLIMITED if trusted is None else trusted),
        "thickness": 1e3 * (part.sensor_thickness or 0.0),
        "mu": 1e-3 * (part.sensor_attenuation or 0.0),
    }


def detector_from_panels(
    data: Mapping[str, Any] | list[Any], turn: Floats, where: str
) -> tuple[Detector, tuple[float, float] | None, bool]:
    """Return the detector of the panels, the range of counts, and if dxtbx corrects the parallax.

    Parameters
    ----------
    data
        Entry ``detector`` of an experiment list.
    turn : (3, 3) array
        Rotation from dxtbx's axes to the lab frame.
    where : str
        Origin of the data, for errors.

    Raises
    ------
    HklflowError
        If several panels do not lie in one plane or do not form one image.
    """
    table: Mapping[str, Any] = {"panels": data} if isinstance(data, list) else data
    panels = table["panels"]
    frames = dict(_placed(table.get("hierarchy"), len(panels), np.eye(4)))
    if not panels or set(frames) != set(range(len(panels))):
        raise HklflowError(
            f"the tree of the detector does not contain exactly its {len(panels)} panels; {where}"
        )
    flats = [
        _flat(panel, frames[number] @ _placement(panel), turn)
        for number, panel in enumerate(panels)
    ]
    low, high = (float(x) for x in panels[0].get("trusted_range", _UNLIMITED))
    trusted = None if (low, high) == _UNLIMITED or low >= high else (low, high)
    strategy = panels[0].get("px_mm_strategy", {}).get("type", "")
    parallax = strategy.startswith("Parallax") and bool(panels[0].get("thickness"))
    if len(flats) == 1:
        return flats[0], trusted, parallax
    corners = np.array([panel.get("raw_image_offset", [0, 0])[::-1] for panel in panels], np.int64)
    size = (table.get("hierarchy") or {}).get("image_size", (0, 0))
    return joined(flats, corners, (int(size[1]), int(size[0])), where), trusted, parallax


def _placement(frame: Mapping[str, Any]) -> Floats:
    """Return the matrix (4, 4) from coordinates of a frame to coordinates of its parent, in mm."""
    fast, slow, origin = (
        np.asarray(frame[name], np.float64).reshape(3)
        for name in ("fast_axis", "slow_axis", "origin")
    )
    matrix = np.eye(4)
    matrix[:3] = np.stack([fast, slow, np.cross(fast, slow), origin], axis=1)
    return matrix


def _placed(tree: Any, n: int, parent: Floats) -> Iterator[tuple[int, Floats]]:
    """Yield the numbers of the panels with the placement of their parents."""
    if not tree:
        yield from ((i, np.eye(4)) for i in range(n))
        return
    if "panel" in tree:
        yield int(tree["panel"]), parent
        return
    placement = parent @ _placement(tree)
    for child in tree.get("children", []):
        yield from _placed(child, n, placement)


def _flat(panel: Mapping[str, Any], placement: Floats, turn: Floats) -> Detector:
    fast, slow, _, origin = (turn @ placement[:3]).T
    size_fast, size_slow = (1e-3 * float(x) for x in panel["pixel_size"])
    n_fast, n_slow = (int(x) for x in panel["image_size"])
    thickness, mu = float(panel.get("thickness") or 0), float(panel.get("mu") or 0)
    return Detector(
        shape=(n_slow, n_fast),
        pixel_size=(size_slow, size_fast),
        origin=1e-3 * origin,
        slow=slow,
        fast=fast,
        sensor_thickness=1e-3 * thickness if thickness > 0 else None,
        sensor_attenuation=1e3 * mu if mu > 0 else None,
    )
