"""Sentences on what would index peaks that are not indexed, with the text to paste.

The explanations come from `orientation.wrong_header`. A sentence names the class of errors that the
positions of peaks cannot tell apart, and one remedy that was tested.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import BEAM, Rotation
from hklflow.orientation.wrong_header import Explanation


@dataclass(frozen=True)
class Stated:
    """What headers, tables and calibrations state about a scan.

    Attributes
    ----------
    names : sequence of str
        Names of the rotations.
    rotations : sequence of Rotation
    first : sequence of int
        First raw frame of each rotation.
    binning : int
        Side of the blocks of pixels that are summed.
    space_group : str
    cell : sequence of float or None
        Expected cell.
    """

    names: Sequence[str]
    rotations: Sequence[Rotation]
    first: Sequence[int]
    binning: int
    space_group: str
    cell: Sequence[float] | None


def sentence(explanations: Sequence[Explanation], stated: Stated) -> str:
    """Return what would index the peaks, and what to write; empty without explanations."""
    return "; or ".join(_SENTENCES[one.kind](one, stated) for one in explanations)


def _indexed(one: Explanation, what: str, cure: str) -> str:
    before = f", {one.by_chance} as stated" if one.by_chance else ""
    return f"with {what}, {one.count} of {one.of} peaks are indexed{before}: {cure}"


def _written(one: Explanation, stated: Stated) -> str:
    """Return what to write in the configuration and the table of scans."""
    parts, hypothesis = [], one.hypothesis
    corrections = [
        # Numbers in a configuration are in unbinned pixels.
        hypothesis.correction_of(rotation).binned(1 / stated.binning).items()
        for rotation in stated.rotations
    ]
    items = corrections[0]
    if any(own != items for own in corrections):
        pairs = zip(stated.names, corrections, strict=True)
        items = [f"{name}:{item}" for name, own in pairs for item in own]
    if items:
        parts.append(f"detector: {_list(items)}")
    if hypothesis.factor != 1:
        wavelength = hypothesis.factor * stated.rotations[0].beam.wavelength
        parts.append(f"wavelength: {wavelength:.5g}")
    changed = hypothesis.applied(stated.rotations)
    if hypothesis.turn:
        goniometer = changed[0].goniometer
        axes = zip(goniometer.names, goniometer.axes, strict=True)
        parts.append(f"axes: {_list([f'{n}={_vector(axis)}' for n, axis in axes])}")
    texts = [f"in config.yaml `import_scan: {{{', '.join(parts)}}}`"] if parts else []
    if hypothesis.reverse or hypothesis.turn:
        columns = [
            f"`{_settings(rotation, first)}` for {name}"
            for name, rotation, first in zip(stated.names, changed, stated.first, strict=True)
        ]
        texts.append(f"in the column goniometer of scans.tsv {', '.join(columns)}")
    return f"write {' and '.join(texts)}"


def _list(items: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


def _vector(values: NDArray[np.float64]) -> str:
    # -0 would be written with its sign.
    return ",".join(f"{round(float(x), 6) + 0.0:.6g}" for x in values)


def _settings(rotation: Rotation, first: int) -> str:
    """Return the entry of the table for all axes; the start is that of the first raw frame."""
    goniometer, scan = rotation.goniometer, rotation.scan
    start, step = np.degrees(scan.start - first * scan.step), np.degrees(scan.step)
    texts = []
    for i, (name, angle) in enumerate(zip(goniometer.names, goniometer.angles, strict=True)):
        fixed = f"{round(float(np.degrees(angle)), 9) + 0.0:.9g}"
        scanned = f"{round(float(start), 9) + 0.0:.9g}:{float(step):.9g}"
        texts.append(f"{name}={scanned if i == goniometer.scan else fixed}")
    return " ".join(texts)


def _axis(one: Explanation, stated: Stated) -> str:
    if one.hypothesis.turn:
        what = f"the rotation axis turned by {one.hypothesis.turn:g}° about the beam"
        alike = "images that are stored rotated have the same effect"
    else:
        what = "the sense of the rotation reversed"
        alike = (
            "mirrored images have the same effect: if the axis is right, write `import_scan: "
            f"{{detector: {_list([f'mirrored={_across(stated.rotations[0])}'])}}}` instead"
        )
    shift = one.hypothesis.correction.shift
    what += f" and the beam centre moved by {_pixels(shift, stated)}" if any(shift) else ""
    return f"{_indexed(one, what, _written(one, stated))} ({alike})"


def _across(rotation: Rotation) -> str:
    """Return the direction of the pixels that is nearer to perpendicular to the rotation axis."""
    axis, detector = rotation.goniometer.scan_axis_lab(), rotation.detector
    return "slow" if abs(axis @ detector.slow) < abs(axis @ detector.fast) else "fast"


def _mirrored(one: Explanation, stated: Stated) -> str:
    sides = one.hypothesis.correction.mirrored
    what = f"images mirrored along {' and '.join(sides)}"
    if one.hypothesis.turn:
        what += f" and the rotation axis turned by {one.hypothesis.turn:g}° about the beam"
    shift = one.hypothesis.correction.shift
    what += f" and the beam centre moved by {_pixels(shift, stated)}" if any(shift) else ""
    alike = "a reversed rotation axis has the same effect, apart from the beam centre"
    return f"{_indexed(one, what, _written(one, stated))} ({alike})"


def _wavelength(one: Explanation, stated: Stated) -> str:
    before = stated.rotations[0].beam.wavelength
    factor = one.hypothesis.factor
    unit = (
        "in nm" if factor == 10 else "in units of 0.1 Å" if factor == 0.1 else "the energy in keV"
    )
    what = f"the wavelength {factor * before:.5g} Å ({before:g} is perhaps {unit})"
    return (
        f"{_indexed(one, what, _written(one, stated))} (a cell that is wrong by the same factor "
        "has the same effect)"
    )


def _distance(one: Explanation, stated: Stated) -> str:
    rotation = stated.rotations[0]
    distance = one.hypothesis.stretch * rotation.detector.distance
    what = f"the detector's distance {distance:.4g} m instead of {rotation.detector.distance:.4g} m"
    return (
        f"{_indexed(one, what, _written(one, stated))} (pixels of another size have the same "
        "effect)"
    )


def _arm(one: Explanation, stated: Stated) -> str:
    detector = one.hypothesis.applied(stated.rotations)[0].detector
    angle = np.degrees(np.arccos(np.clip(detector.normal @ BEAM, -1, 1)))
    vector = np.array(one.hypothesis.correction.arm)
    about = f"lab {'xyz'[int(np.argmax(np.abs(vector)))]}"
    what = (
        f"the detector arm rotated by {vector[np.argmax(np.abs(vector))]:g}° about {about} (the "
        f"detector's normal is then at {angle:.1f}° to the beam)"
    )
    return (
        f"{_indexed(one, what, _written(one, stated))} (a few degrees are also a wrong beam centre)"
    )


def _beam_centre(one: Explanation, stated: Stated) -> str:
    shift = one.hypothesis.correction.shift
    slow, fast = stated.rotations[0].detector.plane.intersect(BEAM)
    at = ""
    if np.isfinite(slow) and np.isfinite(fast):
        old = stated.binning * np.array([slow, fast])
        new = old + stated.binning * np.array(shift)
        at = f" from ({old[0]:.1f}, {old[1]:.1f}) to ({new[0]:.1f}, {new[1]:.1f})"
    what = f"the beam centre moved by {_pixels(shift, stated)}{at}"
    return (
        f"{_indexed(one, what, _written(one, stated))} (a wrong zero of the detector's arm has the "
        "same effect)"
    )


def _pixels(shift: Sequence[float], stated: Stated) -> str:
    slow, fast = (stated.binning * x for x in shift)
    return f"({slow:+.1f}, {fast:+.1f}) pixels along slow and fast"


def _scale(one: Explanation, stated: Stated) -> str:
    assert stated.cell is not None
    rotation, scale = stated.rotations[0], one.scale
    ways = [f"in config.yaml `import_scan: {{wavelength: {scale * rotation.beam.wavelength:.5g}}}`"]
    if one.hypothesis.stretch != 1:
        ways.insert(0, _written(one, stated).removeprefix("write "))
    cell = [*(scale * x for x in stated.cell[:3]), *stated.cell[3:]]
    ways.append(f"in samples.tsv the cell {' '.join(_number(x) for x in cell)}")
    return (
        f"{one.count} of {one.of} peaks are indexed by a cell of the expected shape whose lengths "
        f"are {scale:.4g} times the expected ones: the distance, the wavelength, the pixel size or "
        f"the cell is wrong by about this factor, which the peaks cannot tell apart; correct the "
        f"wrong one: {', or '.join(ways)}"
    )


def _setting(one: Explanation, stated: Stated) -> str:
    assert one.cell is not None
    return _indexed(
        one,
        f"the cell taken as one of the setting {one.symbol}",
        f"write in samples.tsv the space group `{one.symbol}`, or for {stated.space_group} the "
        f"cell {' '.join(_number(x) for x in one.cell)}",
    )


def _cell(one: Explanation, stated: Stated) -> str:
    assert one.cell is not None
    return (
        f"{one.count} of {one.of} peaks are indexed in the stated geometry by another lattice, "
        f"with the reduced cell {' '.join(_number(x) for x in one.cell)}: the geometry is right, "
        "and the cell in samples.tsv is another crystal's; leave it empty, or correct it"
    )


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


_SENTENCES: dict[str, Callable[[Explanation, Stated], str]] = {
    "axis": _axis,
    "mirrored": _mirrored,
    "wavelength": _wavelength,
    "distance": _distance,
    "arm": _arm,
    "beam centre": _beam_centre,
    "scale": _scale,
    "setting": _setting,
    "cell": _cell,
}
