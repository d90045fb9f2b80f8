"""Sentences on what would index peaks that are not indexed, with the text to paste.

The explanations come from `orientation.wrong_header`. A sentence names the class of errors that the
positions of peaks cannot tell apart, and one remedy that was tested.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import BEAM, Rotation
from hklflow.geometry.correction import Correction
from hklflow.orientation.hypotheses import KEV_A, Hypothesis
from hklflow.orientation.wrong_header import Explanation
from hklflow.quality.pasted import Imported, settings

# degrees of rotation below which hkl that are off by one row are hardly off a lattice
_SHEARED = 30.0


@dataclass(frozen=True)
class Stated:
    """What headers, tables and calibrations state about a scan.

    Attributes
    ----------
    imported : Imported
        Rotations of the scan, and their configuration.
    space_group : str
    cell : sequence of float or None
        Expected cell.
    """

    imported: Imported
    space_group: str
    cell: Sequence[float] | None

    @property
    def rotations(self) -> Sequence[Rotation]:
        """Geometry of the rotations as imported."""
        return self.imported.rotations


def sentence(explanations: Sequence[Explanation], stated: Stated) -> str:
    """Return what would index the peaks, and what to write; empty without explanations."""
    return "; or ".join(_SENTENCES[one.kind](one, stated) for one in explanations)


def _indexed(one: Explanation, what: str, stated: Stated, cure: str = "") -> str:
    only = one.hypothesis.only
    of = "" if only is None else f" for {_and([stated.imported.names[i] for i in only])} only"
    chance = f", {one.by_chance} by chance" if one.by_chance else ""
    chance += f", {one.absent} of them at absent reflections" if one.absent else ""
    cure = cure or f"write {_written(one.hypothesis, stated)}"
    return f"with {what}{of}, {one.count} of {one.of} peaks are indexed{chance}: {cure}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _written(hypothesis: Hypothesis, stated: Stated) -> str:
    """Return what to write in the configuration and the table of scans."""
    imported = stated.imported
    chosen = hypothesis.chosen(stated.rotations)
    none = Correction()
    changes = [
        hypothesis.correction_of(rotation) if i in chosen else none
        for i, rotation in enumerate(stated.rotations)
    ]
    values = []
    changed = hypothesis.applied(stated.rotations)
    if hypothesis.factor != 1:
        wavelengths = [changed[i].beam.wavelength for i in chosen]
        values.append(imported.with_wavelengths(chosen, wavelengths))
    if hypothesis.turn:
        values.append(imported.with_axes(chosen, [_axes(changed[i]) for i in chosen]))
    in_config = settings(imported, changes, values)
    texts = [in_config] if in_config else []
    if hypothesis.reverse or hypothesis.turn:
        columns = [
            f"`{_settings(changed[i], imported.first[i])}` for {imported.names[i]}" for i in chosen
        ]
        texts.append(f"in the column goniometer of scans.tsv {', '.join(columns)}")
    return " and ".join(texts)


def _axes(rotation: Rotation) -> list[str]:
    axes = zip(rotation.goniometer.names, rotation.goniometer.axes, strict=True)
    return [f"{name}={_vector(axis)}" for name, axis in axes]


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
        alike = "mirrored images have nearly the same effect"
        for mirrored in one.alternatives:
            alike += f": if the axis is right, instead write {_written(mirrored, stated)}"
    shift = one.hypothesis.correction.shift
    what += f" and the beam centre moved by {_pixels(shift, stated)}" if any(shift) else ""
    return f"{_indexed(one, what, stated)} ({alike})"


def _mirrored(one: Explanation, stated: Stated) -> str:
    sides = one.hypothesis.correction.mirrored
    what = f"images mirrored along {' and '.join(sides)}"
    if one.hypothesis.turn:
        what += f" and the rotation axis turned by {one.hypothesis.turn:g}° about the beam"
    shift = one.hypothesis.correction.shift
    what += f" and the beam centre moved by {_pixels(shift, stated)}" if any(shift) else ""
    alike = "a reversed rotation axis has the same effect, apart from the beam centre"
    return f"{_indexed(one, what, stated)} ({alike})"


def _wavelength(one: Explanation, stated: Stated) -> str:
    before = _rotation(one, stated).beam.wavelength
    factor = one.hypothesis.factor
    units = {10: "in nm", 0.1: "in units of 0.1 Å", KEV_A / before**2: "the energy in keV"}
    unit = f" ({before:g} is perhaps {units[factor]})" if factor in units else ""
    what = f"the wavelength {factor * before:.5g} Å instead of {before:.5g} Å{unit}"
    return (
        f"{_indexed(one, what, stated)} (a cell that is wrong by the same factor "
        "has the same effect)"
    )


def _distance(one: Explanation, stated: Stated) -> str:
    rotation = _rotation(one, stated)
    distance = one.hypothesis.stretch * rotation.detector.distance
    what = f"the detector's distance {distance:.4g} m instead of {rotation.detector.distance:.4g} m"
    return f"{_indexed(one, what, stated)} (pixels of another size have the same effect)"


def _arm(one: Explanation, stated: Stated) -> str:
    detector = one.hypothesis.correction.applied(_rotation(one, stated).detector)
    angle = np.degrees(np.arccos(np.clip(detector.normal @ BEAM, -1, 1)))
    vector = np.array(one.hypothesis.correction.arm)
    about = f"lab {'xyz'[int(np.argmax(np.abs(vector)))]}"
    what = (
        f"the detector arm rotated by {vector[np.argmax(np.abs(vector))]:g}° about {about} (the "
        f"detector's normal is then at {angle:.1f}° to the beam)"
    )
    return f"{_indexed(one, what, stated)} (a few degrees are also a wrong beam centre)"


def _beam_centre(one: Explanation, stated: Stated) -> str:
    shift = one.hypothesis.correction.shift
    slow, fast = _rotation(one, stated).detector.plane.intersect(BEAM)
    at = ""
    if np.isfinite(slow) and np.isfinite(fast):
        old = stated.imported.binning * np.array([slow, fast])
        new = old + stated.imported.binning * np.array(shift)
        at = f" from ({old[0]:.1f}, {old[1]:.1f}) to ({new[0]:.1f}, {new[1]:.1f})"
    what = f"the beam centre moved by {_pixels(shift, stated)}{at}"
    return f"{_indexed(one, what, stated)} (a wrong zero of the detector's arm has the same effect)"


def _rotation(one: Explanation, stated: Stated) -> Rotation:
    """Return the first rotation that is changed."""
    return stated.rotations[one.hypothesis.chosen(stated.rotations)[0]]


def _pixels(shift: Sequence[float], stated: Stated) -> str:
    slow, fast = (stated.imported.binning * x for x in shift)
    return f"({slow:+.1f}, {fast:+.1f}) pixels along slow and fast"


def _scale(one: Explanation, stated: Stated) -> str:
    assert stated.cell is not None
    scale, size = one.scale, stated.rotations[0].detector.pixel_size
    causes, ways = [], []
    for way in one.alternatives:
        causes.append("the wavelength")
        ways.append(_written(way, stated))
        if way.kind == "distance":  # smaller pixels are the same as a larger distance
            pixels = (f"{1e6 * x / way.stretch / stated.imported.binning:.5g}" for x in size)
            causes[-1:] = ["the distance", "the pixel size"]
            ways.append(f"in a calibration pixels of {' x '.join(pixels)} µm")
    cell = [*(scale * x for x in stated.cell[:3]), *stated.cell[3:]]
    ways.append(f"in samples.tsv the cell {' '.join(_number(x) for x in cell)}")
    return (
        f"{one.count} of {one.of} peaks are indexed by a cell of the expected shape whose lengths "
        f"are {scale:.4g} times the expected ones: {', '.join([*causes, 'or the cell'])} is wrong "
        f"by about this factor, which the peaks hardly tell apart; correct the wrong one: "
        f"{', or '.join(ways)}"
    )


def _setting(one: Explanation, stated: Stated) -> str:
    assert one.cell is not None
    return _indexed(
        one,
        f"the cell taken as one of the setting {one.symbol}",
        stated,
        f"write in samples.tsv the space group `{one.symbol}`, or for {stated.space_group} the "
        f"cell {' '.join(_number(x) for x in one.cell)}",
    )


def _cell(one: Explanation, stated: Stated) -> str:
    assert one.cell is not None
    widest = max(abs(r.scan.step) * r.scan.n_frames for r in stated.rotations)
    correct = (
        "correct it there, or empty its columns a to gamma and give the space group, P 1 if it is "
        "not known"
    )
    if np.degrees(widest) < _SHEARED:
        cause = (
            f"the cell in samples.tsv is another crystal's ({correct}), or the "
            "beam centre is wrong, which deforms the lattice of a short rotation (check it with a "
            "powder image or the direct beam, or measure a longer rotation)"
        )
    else:
        cause = (
            f"the geometry is right, and the cell in samples.tsv is another crystal's; {correct}"
        )
    return (
        f"{one.count} of {one.of} peaks are indexed in the stated geometry by another lattice, "
        f"with the reduced cell {' '.join(_number(x) for x in one.cell)}: {cause}"
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
