"""Collect doubts about a refined crystal, as numbers and as sentences that give a remedy.

The doubts are motions during the scan (`orientation.steadiness`) and peaks that the crystal does
not explain (`orientation.leftover`). `quality.gates` judges these numbers together with the numbers
of `orientation.transition`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import symmetry
from hklflow.geometry.correction import Correction
from hklflow.geometry.modules import Modules
from hklflow.orientation import displacement, leftover, local_lattice, slip, steadiness, unindexed
from hklflow.orientation.displaced_modules import Displaced
from hklflow.orientation.displaced_modules import displaced as displaced_modules
from hklflow.orientation.lattice_search import is_indexed
from hklflow.orientation.limits import MODULE_SPOTS
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks
from hklflow.orientation.rows import Row, off_by_row, other_centre
from hklflow.orientation.satellites import INDEXED
from hklflow.quality import pasted, remedies, unindexed_words
from hklflow.quality.pasted import Imported

Floats = NDArray[np.float64]
Record = dict[str, Any]

# fraction of the peaks of another lattice that are on frames where the first lattice was lost
_OF_A_SLIP = 0.8
_TURNS = ("slip", "drift", "wobble")
_SLOW = 0.1  # degrees
_ARM = 1.0  # degrees between detector normals above which the detector is on a moving arm
# smallest ratio: peaks that satellites explain, to peaks of lattices that fit by chance
_MORE = 1.3
LEAST_INDEXED = 0.1
"""Smallest fraction of indexed peaks for which a lattice is analysed."""


@dataclass(frozen=True)
class Named:
    """Names used in sentences: sample, scan, its rotations and their first raw frames."""

    sample: str
    scan: str
    rotations: Sequence[str]
    first: Sequence[int]
    own: bool = True
    """True for a parent; `gates` compares satellites of other scans with those of the parent."""
    imported: Imported | None = None
    """Import that a remedy of a parent changes; None: a child, whose detector the parent refined.
    """


def doubts(
    refined: Refined,
    peaks: Sequence[Peaks],
    intensities: Sequence[NDArray[np.float64]],
    widths: Sequence[NDArray[np.float64]],
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    named: Named,
    modules: Modules | None = None,
) -> Record:
    """Test the assumptions of a refinement, and return the findings that contradict them.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        Peaks of the refinement.
    intensities, widths : sequence of (n,) arrays
        Intensities and widths of the peaks; widths in pixels.
    group : SpaceGroup
        Space group whose constraints the cell obeyed in the refinement.
    free : sequence of str
        Groups of parameters that were refined.
    named : Named
    modules : Modules, optional
        Modules of the detector; None if they are not known.

    Returns
    -------
    dict
        ``motions``, ``other crystals``, ``lost``, ``rows``, ``displaced modules``, ``outward``,
        ``alike``, ``unexplained``, ``unindexed``: lists of dict, each with its ``sentence``.
        ``unexplained`` contains the residuals, which motions or unindexed peaks may explain
        in part. ``rows``: another indexing with hkl off by one that fits as well.
        ``alike``: residuals common to neighbouring peaks, which bias cell and orientation.
    """
    fit = _Fit(refined, peaks, group, free)
    joined = _joined(refined, peaks, intensities)
    gone = leftover.lost(refined, peaks)
    unexplained = leftover.unexplained(refined, group)
    others = _crystals(refined.ub, unexplained, joined.g, joined.intensity, group)
    slips = [_slipped(refined, joined, others, part) for part in gone]
    # A lattice seen only where the crystal was lost belongs to the crystal itself.
    others_left = [x for x in others if not any(_is(x, s) for s in slips if s is not None)]
    motions = _motions(fit, list(zip(gone, slips, strict=True)), named)
    if motions:
        # Peaks from before or after a rotation of the crystal are indexed by a rotation of that
        # size.
        turned = max([_SLOW, *(m["size"] for m in motions if m["kind"] in _TURNS)])
        others_left = [x for x in others_left if x.angle > 2 * turned]
    displaced = displacement.Displacement(*fit, widths)
    left, outward, shifted = [], None, []
    if not motions and not gone:  # motions and lost parts leave unindexed peaks
        outward = displaced.outward()
        if modules is not None:  # a motion may displace the spots of one module more
            shifted = displaced_modules(*fit, modules, least=0.0, spots=MODULE_SPOTS)
        sure = unindexed.telling(refined, peaks)
        odd = _unindexed(refined.ub, joined.g, joined.intensity, others_left, group, sure)
        left = [_of_unindexed(odd, named)]
    row = off_by_row(refined, peaks, group, free)
    rows = [] if row is None else [_of_row(row, refined, named)]
    if named.imported is not None and row is None:
        stated = named.imported.rotations
        other = other_centre(stated, refined, peaks, group, free)
        rows = [] if other is None else [_of_centre(other, refined, named.imported)]
    alike: list[steadiness.Motion] = []
    if not (motions or gone or shifted or outward is not None):
        alike = steadiness.motions(*fit, shared=False)
    forbidden = refined.indexed & group.is_absent(refined.hkl)
    return {
        "motions": motions,
        "other crystals": [
            of_crystal(x, named, int(forbidden[x.peaks].sum()), displaced.towards(x.ub))
            for x in others_left
        ],
        "lost": [_of_lost(part, named) for part, s in zip(gone, slips, strict=True) if s is None],
        "rows": rows,
        "displaced modules": [_of_module(module, named) for module in shifted],
        "outward": [] if outward is None else [_of_outward(outward, named)],
        "alike": [_of_alike(max(alike, key=lambda m: m.bias), named)] if alike else [],
        "unexplained": [] if motions else [_of_residuals(refined)],
        "unindexed": left,
    }


class _Fit(NamedTuple):
    """A refinement: its result, peaks, symmetry, and refined groups of parameters."""

    refined: Refined
    peaks: Sequence[Peaks]
    group: symmetry.SpaceGroup
    free: Sequence[str]


class _Joined(NamedTuple):
    """Peaks of all rotations: scattering vector, number of the rotation, frame, intensity."""

    g: Floats
    rotation: NDArray[np.int64]
    frame: Floats
    intensity: Floats


def _joined(refined: Refined, peaks: Sequence[Peaks], intensities: Sequence[Floats]) -> _Joined:
    g = [
        rotation.q_crystal(p.frame, p.slow, p.fast).reshape(-1, 3)
        for rotation, p in zip(refined.rotations, peaks, strict=True)
    ]
    return _Joined(
        np.concatenate(g),
        np.repeat(np.arange(len(peaks)), [len(p.frame) for p in peaks]),
        np.concatenate([p.frame for p in peaks]),
        np.concatenate(intensities),
    )


def _slipped(
    refined: Refined, joined: _Joined, others: Sequence[leftover.Crystal], part: leftover.Lost
) -> leftover.Crystal | None:
    """Return the lattice of the crystal where it was lost."""
    rows = joined.rotation == part.rotation
    rows &= (joined.frame >= part.first) & (joined.frame <= part.last)
    return leftover.turned(refined, joined.g, joined.intensity, rows) or _seen(others, rows)


def _motions(
    fit: _Fit, gone: Sequence[tuple[leftover.Lost, leftover.Crystal | None]], named: Named
) -> list[Record]:
    """Return the motions, and the slips too large for the refinement, with their sizes."""
    # Some peaks of a lost part fit by chance; they contain no information on motions.
    lost = {part.rotation for part, _ in gone}

    def sized(motion: steadiness.Motion) -> steadiness.Motion:
        if motion.kind != "slip" or motion.interval is None:
            return motion
        about = slip.Slip(motion.rotation, motion.interval, np.radians(motion.values))
        vector = slip.measured(about, *fit)
        return motion if vector is None else motion.of_size(*vector)

    moved = steadiness.motions(*fit)
    motions = [_of_motion(sized(m), fit.refined, named) for m in moved if m.rotation not in lost]
    for part, crystal in gone:
        if crystal is not None:
            turn = np.radians(crystal.angle) * np.asarray(crystal.axis)
            about = slip.Slip(part.rotation, part.interval, turn, late=part.first > 0)
            measured_slip = slip.measured(about, *fit)
            n_own = len(fit.peaks[part.rotation].frame)
            motions.append(_of_slip(part, crystal, measured_slip, n_own, fit.refined, named))
    return motions


def _unindexed(
    ub: Floats,
    g: Floats,
    intensity: Floats,
    others: Sequence[leftover.Crystal],
    group: symmetry.SpaceGroup,
    sure: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> unindexed.Unindexed:
    """Return the origins of unindexed peaks that are not on other lattices."""
    on_others = np.isin(np.arange(len(g)), np.concatenate([[], *(x.peaks for x in others)]))
    miller, length = g @ np.linalg.inv(ub).T, np.linalg.norm(g, axis=1)
    return unindexed.unindexed(miller, length, intensity, on_others, group, sure)


def _seen(others: Sequence[leftover.Crystal], rows: NDArray[np.bool_]) -> leftover.Crystal | None:
    """Return the lattice that is observed on some peaks (n,), and hardly on other peaks."""
    for crystal in others:
        if rows[crystal.peaks].mean() > _OF_A_SLIP:
            return crystal
    return None


def _is(crystal: leftover.Crystal, slipped: leftover.Crystal) -> bool:
    return bool(np.isin(crystal.peaks, slipped.peaks).mean() > _OF_A_SLIP)


def _crystals(
    ub: Floats,
    left: NDArray[np.bool_],
    g: Floats,
    intensity: Floats,
    group: symmetry.SpaceGroup,
) -> list[leftover.Crystal]:
    """Return other crystals; none if the peaks are satellites that form a lattice by chance."""
    lattices = leftover.crystals(ub, left, g, intensity, group)
    if not lattices:
        return lattices
    miller = g @ np.linalg.inv(ub).T
    on = unindexed.on_satellites(miller, left, group)
    rows = np.concatenate([x.peaks for x in lattices])
    satellites = on[rows].mean() > _OF_A_SLIP and on.sum() > _MORE * len(rows)
    return [] if satellites else lattices


def _of_motion(motion: steadiness.Motion, refined: Refined, named: Named) -> Record:
    rotation = named.rotations[motion.rotation]
    return {
        "kind": motion.kind,
        "rotation": rotation,
        "size": motion.size,
        "sigma": motion.size_sigma,
        "frame": motion.frame,
        "interval": motion.interval,
        "periods": motion.periods,
        "shift in pixels": motion.shift[0],
        "shift in frames": motion.shift[1],
        "bias in sigma": motion.bias,
        "chi2": motion.chi2,
        "others": motion.others,
        "sentence": f"{rotation}: {_TOLD[motion.kind](motion, refined, named)}{_or(motion)}",
    }


def _of_slip(
    part: leftover.Lost,
    crystal: leftover.Crystal,
    measured_slip: tuple[Floats, Floats] | None,
    n_own: int,
    refined: Refined,
    named: Named,
) -> Record:
    """Return the record of a slip that is too large for the refinement.

    ``n_own`` is the number of peaks in the rotation of the slip.
    """
    size, sigma = (
        (crystal.angle, None) if measured_slip is None else steadiness.length(*measured_slip)
    )
    rotation = named.rotations[part.rotation]
    cut = part.first if part.first > 0 else part.last
    by = f"{size:.3g}°" if sigma is None else f"{size:.3g} ± {sigma:.1g}°"
    sentence = f"the crystal slipped by {by} at {_when(cut, part.interval)}"
    off = refined.residuals[crystal.peaks]
    squares = np.sum(off[np.all(np.isfinite(off), axis=1)] ** 2, axis=0) / max(n_own, 1)
    cure = _in_two(part.rotation, part.interval, refined, named)
    return {
        "kind": "slip",
        "rotation": rotation,
        "size": size,
        "sigma": sigma,
        "frame": cut,
        "interval": part.interval,
        "periods": None,
        "shift in pixels": float(np.sqrt(squares[0] + squares[1])),
        "shift in frames": float(np.sqrt(squares[2])),
        "bias in sigma": 0.0,
        "chi2": None,
        "others": (),
        "sentence": f"{rotation}: {sentence}; {cure}",
    }


def of_crystal(
    crystal: leftover.Crystal,
    named: Named,
    absent: int = 0,
    merged: displacement.Merged | None = None,
) -> Record:
    """Return the record of another crystal or twin.

    ``absent`` is the number of its peaks on absent reflections of the first crystal.
    """
    bias = 0.0 if merged is None else merged.bias
    return {
        "peaks": len(crystal.peaks),
        "share": crystal.share,
        "angle": crystal.angle,
        "axis": crystal.axis,
        "law": crystal.law,
        "absent": absent,
        "bias in sigma": bias,
        "sentence": (
            f"{_whose(crystal)}: S(Q) of {named.scan} contains its scattering"
            f"{_pulled(merged)}; measure a single crystal, or mask the reflections of the second "
            "lattice"
        ),
    }


def _pulled(merged: displacement.Merged | None) -> str:
    """Return text on the bias of the first lattice by merged spots; empty if within errors."""
    if merged is None or merged.bias < 1:
        return ""
    return (
        f", and {merged.peaks} of the refined peaks are within {merged.reach:g} pixels and frames "
        "of its reflections and pulled towards them: cell and orientation are wrong by up to "
        f"{merged.bias:.1f} of their errors"
    )


def _whose(crystal: leftover.Crystal) -> str:
    axis = " ".join(f"{x:.3f}" for x in crystal.axis)
    kind = f"a twin (two-fold about {crystal.law})" if crystal.law else "a second crystal"
    return (
        f"{len(crystal.peaks)} peaks with {crystal.share:.1%} of the intensity are on the lattice "
        f"of {kind} with the same cell, rotated by {crystal.angle:.2f}° about ({axis})"
    )


def causes(ub: Floats, g: Floats, intensity: Floats, group: symmetry.SpaceGroup) -> list[str]:
    """Return explanations of the unindexed peaks, for a lattice that indexes too few peaks.

    Parameters
    ----------
    ub : (3, 3) array
        UB in 1/Å with 2π.
    g : (n, 3) array
        Scattering vectors of all peaks in the goniometer's frame, 1/Å with 2π.
    intensity : (n,) array

    Returns
    -------
    list of str
        Empty if the lattice indexes hardly more peaks than by chance.
    """
    indexed = is_indexed(ub, g, INDEXED)
    if indexed.mean() < LEAST_INDEXED:
        return []
    others = _crystals(ub, ~indexed, g, intensity, group)
    left = _unindexed(ub, g, intensity, others, group)
    return [*map(_whose, others), *unindexed_words.parts(_numbers(left))]


def _of_row(row: Row, refined: Refined, named: Named) -> Record:
    """Return the record of another indexing; its shift is from the refined beam centre."""
    axis = " ".join(f"{x:d}" for x in row.axis)
    better = row.chi2 < row.chi2_as_refined
    how = "better than" if better else "about as well as"
    return {
        "axis": row.axis.tolist(),
        "shift": row.shift,
        "chi2": row.chi2,
        "much better": row.is_much_better,
        "sentence": (
            f"hkl of {named.scan} may be off by one row: with ({axis}) added to all hkl and the "
            f"refined beam centre moved by ({row.shift[0]:+.1f}, {row.shift[1]:+.1f}) pixels of "
            f"the frames the peaks fit {how} now (reduced chi² {row.chi2:.3g}, "
            f"{row.chi2_as_refined:.3g} now); check the beam centre with a powder image or the "
            f"direct beam, or measure a longer rotation{_row_cure(row, refined, named)}"
        ),
    }


def _of_centre(other: Refined, refined: Refined, imported: Imported) -> Record:
    """Return the record of another beam centre; its shift is from the stated one."""
    pairs = zip(imported.rotations, other.rotations, strict=True)
    shifts = [pasted.shift_near_beam(a.detector, b.detector) for a, b in pairs]
    slow, fast = shifts[0]
    return {
        "axis": None,
        "shift": shifts[0],
        "chi2": other.chi2,
        "much better": True,
        "sentence": (
            f"the beam centre of {imported.scan} is perhaps wrong: moved by ({slow:+.1f}, "
            f"{fast:+.1f}) pixels of the frames, along slow and fast from where it is stated, the "
            f"peaks have other hkl and fit better (reduced chi² {other.chi2:.3g}, "
            f"{refined.chi2:.3g} now): check it with a powder image or the direct beam, and write "
            f"{pasted.settings(imported, [Correction(shift=shift) for shift in shifts])} (a wrong "
            "zero of the detector's arm has the same effect)"
        ),
    }


def _row_cure(row: Row, refined: Refined, named: Named) -> str:
    """Return what to write for the other indexing; a child takes the detector of its parent."""
    if named.imported is None:
        return ""
    stated = [rotation.detector for rotation in named.imported.rotations]
    moved = [r.detector for r in local_lattice.shifted(refined.rotations, row.shift)]
    shifts = [pasted.shift_near_beam(a, b) for a, b in zip(stated, moved, strict=True)]
    changes = [Correction(shift=shift) for shift in shifts]
    return f"; if the other one is right, write {pasted.settings(named.imported, changes)}"


def _of_lost(part: leftover.Lost, named: Named) -> Record:
    rotation = named.rotations[part.rotation]
    return {
        "rotation": rotation,
        "first": part.first,
        "last": part.last,
        "interval": part.interval,
        "inside": part.inside,
        "outside": part.outside,
        "sentence": (
            f"{rotation}: {part.inside:.0%} of the peaks on frames {part.first:.0f} to "
            f"{part.last:.0f} fit the crystal, compared with {part.outside:.0%} on the other "
            "frames: the crystal left the beam, turned or broke; look at these frames, and leave "
            "them out with `import_scan: leave_out`"
        ),
    }


def _of_module(module: Displaced, named: Named) -> Record:
    return module.to_dict() | {
        "size": module.size,
        "sentence": (
            f"{module.told()}: cell and orientation may be wrong by more than their errors, and "
            f"its part of S(Q) is displaced; calibrate the modules: "
            f"`{remedies.module_calibration(named.sample, named.scan)}`"
        ),
    }


def _of_outward(shift: displacement.Outward, named: Named) -> Record:
    where = "farther from" if shift.size > 0 else "nearer to"
    stage = "refine_parent" if named.own else "refine"
    cure = (
        "too few peaks are narrow enough to be reflections: measure "
        "longer, or take cell and orientation from another scan (`orientation: start`, `fixed`)"
        if shift.max_width is None
        else f"narrower peaks are not displaced: refine only with these, `{stage}: {{max_width: "
        f"{ceil(100 * shift.max_width) / 100:.2f}}}`"  # rounded down, it would exclude them
    )
    return {
        "size": shift.size,
        "sigma": shift.sigma,
        "bias in sigma": shift.bias,
        "max_width": shift.max_width,
        "sentence": (
            f"the peaks of {named.scan} are {abs(shift.size):.2g} ± {shift.sigma:.1g} 1/Å {where} "
            "the origin than their reflections on average, the broader peaks more, whatever |Q|, "
            "like maxima of diffuse scattering: cell and orientation are wrong by up to "
            f"{shift.bias:.1f} of their errors; {cure}"
        ),
    }


def _of_alike(motion: steadiness.Motion, named: Named) -> Record:
    rotation = named.rotations[motion.rotation]
    return {
        "kind": motion.kind,
        "rotation": rotation,
        "chi2": motion.chi2,
        "bias in sigma": motion.bias,
        "sentence": (
            f"{rotation}: residuals of neighbouring peaks are similar, as with "
            f"{_KINDS[motion.kind]} or a distorted detector (spots are displaced by "
            f"{motion.shift[0]:.2g} pixels, {motion.shift[1]:.2g} frames); the peaks are too few "
            "to decide: cell and orientation are wrong by up to "
            f"{motion.bias:.1f} of their errors; measure more peaks (finer "
            "steps, a second rotation), or calibrate the modules: "
            f"`{remedies.module_calibration(named.sample, named.scan)}`"
        ),
    }


def _of_residuals(refined: Refined) -> Record:
    times = float(np.sqrt(refined.chi2))
    if refined.chi2 <= 1:
        return {
            "reduced chi2": refined.chi2,
            "sentence": (
                f"residuals are {times:.2g} times the peaks' own errors (reduced chi² "
                f"{refined.chi2:.3g}): within their errors"
            ),
        }
    return {
        "reduced chi2": refined.chi2,
        "sentence": (
            f"residuals are {times:.2g} times the peaks' own errors (reduced chi² "
            f"{refined.chi2:.3g}), and no motion during the scan explains them: some peaks are not "
            "reflections (maxima of diffuse scattering, overlapping spots), the detector is "
            "distorted, or the errors of the strongest peaks are too small, so that they outweigh "
            "all others: raise `find_peaks: sigma_floor` to the accuracy of detector and "
            "goniometer. The errors of cell and orientation may be larger than stated: look at "
            "the widths in the picture of the peak search" + _arms(refined)
        ),
    }


def _arms(refined: Refined) -> str:
    """Return a sentence if one shift is refined for detectors at different angles."""
    normals = np.array([rotation.detector.normal for rotation in refined.rotations])
    angle = np.degrees(np.arccos(np.clip((normals @ normals.T).min(), -1, 1)))
    if angle < _ARM:
        return ""
    return (
        f". The detector angles of its rotations differ by {angle:.0f}°, and one "
        "shift on the arm is refined for all of them, which is wrong if the arm sags or turns "
        "about another point: reduce the rotations of each angle as a separate scan"
    )


def _of_unindexed(left: unindexed.Unindexed, named: Named) -> Record:
    record = _numbers(left) | {
        "named": bool(left.half or left.rings or ((left.either or left.satellites) and named.own))
    }
    return record | {"sentence": unindexed_words.sentence(record, named.scan)}


def _numbers(left: unindexed.Unindexed) -> Record:
    """Return the numbers of unindexed peaks by origin, for `quality.unindexed_words`."""
    return {
        "fraction": left.fraction,
        "error": left.error,
        unindexed_words.HALF: left.half,
        unindexed_words.EITHER: left.either,
        "rings": dict(left.rings),
        "satellites": left.satellites,
        "rest": left.rest,
    }


def _when(frame: float, interval: tuple[float, float]) -> str:
    return f"frame {frame:.1f} (95 %: {interval[0]:.1f} to {interval[1]:.1f})"


def _in_two(i: int, interval: tuple[float, float], refined: Refined, named: Named) -> str:
    """Return how to split a rotation in two; frames in the interval are left out."""
    name, first = named.rotations[i], named.first[i]
    last = refined.rotations[i].scan.n_frames - 1
    begin, end = max(floor(interval[0]), 1), min(ceil(interval[1]), last)
    items = f"{name}:{first + begin}-{first + last}, {name}b:{first}-{first + end - 1}"
    return (
        f"reduce the frames before and after as two rotations: in scans.tsv copy the row of "
        f"`{name}` as `{name}b`, and in config.yaml `per_scan: {{{named.sample}/{named.scan}: "
        f"{{import_scan: {{leave_out: [{items}]}}}}}}`"
    )


def _slip(motion: steadiness.Motion, refined: Refined, named: Named) -> str:
    assert motion.frame is not None
    assert motion.interval is not None
    return (
        f"the crystal slipped by {_size(motion, '°')} at {_when(motion.frame, motion.interval)}"
        f"{_by(motion)}; "
        f"{_in_two(motion.rotation, motion.interval, refined, named)}"
    )


def _drift(motion: steadiness.Motion, *_: object) -> str:
    return (
        f"the crystal turned by {_size(motion, '°')} during the scan{_by(motion)}; the mount "
        "moved: reduce parts of the scan as separate rotations"
    )


def _wobble(motion: steadiness.Motion, *_: object) -> str:
    times = {1: "once", 2: "twice"}.get(motion.periods or 0, f"{motion.periods} times")
    return (
        f"the crystal wobbles by {_size(motion, '°')} {times} per 360°{_by(motion)}; check the "
        "directions of rotation axis and beam in the header, and the goniometer's bearing"
    )


def _off_centre(motion: steadiness.Motion, refined: Refined, _: Named) -> str:
    known = f"off_centre_{motion.rotation}_1" in refined.names
    offset = (
        "which was refined with cell and detector and is corrected in S(Q)"
        if known
        else "which biases cell and detector"
    )
    return (
        f"the crystal is {_size(motion, ' µm', 1e6)} off the rotation axis{_by(motion)}, {offset}; "
        "centre the crystal"
    )


def _beam_position(motion: steadiness.Motion, *_: object) -> str:
    return (
        f"the illuminated part of the crystal moved by {_size(motion, ' µm', 1e6)} during the "
        f"scan{_by(motion)}; check that beam and sample are stable"
    )


def _beam_direction(motion: steadiness.Motion, *_: object) -> str:
    return (
        f"the direction of the beam changed by {_size(motion, '°')} during the scan{_by(motion)}; "
        "check the beam's feedback"
    )


def _cell(motion: steadiness.Motion, *_: object) -> str:
    return (
        f"the cell changed by {_size(motion, ' %', 100)} during the scan{_by(motion)}; the "
        "temperature was not stable: reduce parts of the scan as separate rotations"
    )


_TOLD: dict[str, Callable[[steadiness.Motion, Refined, Named], str]] = {
    "slip": _slip,
    "drift": _drift,
    "wobble": _wobble,
    "off centre": _off_centre,
    "beam position": _beam_position,
    "beam direction": _beam_direction,
    "cell": _cell,
}


_KINDS = {
    "slip": "a slip of the crystal",
    "drift": "a slow rotation of the crystal",
    "wobble": "a crystal that rotates back and forth",
    "off centre": "a crystal off the rotation axis",
    "beam position": "a beam or a sample that moved sideways",
    "beam direction": "a beam that changed its direction",
    "cell": "a cell that changed",
}


def _or(motion: steadiness.Motion) -> str:
    """Return the names of other motions that explain the peaks equally well."""
    if not motion.others:
        return ""
    return f"; these peaks agree with {' or '.join(_KINDS[x] for x in motion.others)} as well"


def _size(motion: steadiness.Motion, unit: str, factor: float = 1.0) -> str:
    return f"{factor * motion.size:.3g} ± {factor * motion.size_sigma:.1g}{unit}"


def _by(motion: steadiness.Motion) -> str:
    spots = f"spots are displaced by {motion.shift[0]:.2g} pixels, {motion.shift[1]:.2g} frames"
    if motion.bias < 1:  # the errors of the cell include a smaller bias
        return f" ({spots})"
    return f" ({spots}, cell and orientation by up to {motion.bias:.1f} of their errors)"
