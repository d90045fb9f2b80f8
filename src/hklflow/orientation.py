"""The orientation product: from peak tables to ``orientation.json`` and its picture.

What the parent's and the children's refinements share. The product holds the cell,
U and UB with their uncertainties, the refined geometry of every rotation, the hkl
grid, and the figures by which a person judges the refinement.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow import nexus
from hklflow.core import (
    afterglow,
    arcs,
    geometry,
    lattice,
    reduction,
    refinement,
    sharpness,
    symmetry,
)
from hklflow.core.grid import Grid
from hklflow.core.model import Model
from hklflow.core.model_compare import detector_of, on_geometry
from hklflow.core.parameters import without_head
from hklflow.core.peaks_table import PeakFlag, Peaks
from hklflow.core.pixel_binning import bin_detector
from hklflow.core.scan import RotationScan
from hklflow.core.unrefined import unrefined
from hklflow.errors import HklflowError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hklflow.core import leftover
    from hklflow.core.doubts import Named

Floats = NDArray[np.float64]

_MAX_MISFIT = 0.03  # of two programs' geometries, relative to |Q|
_SAME_WAVELENGTH = 1e-4  # relative
_CENTROID = ("frame", "slow", "fast", "var_frame", "var_slow", "var_fast")
_INDEXED = 0.25  # largest deviation of h, k, l of peaks whose place is looked at
_DOMAIN_ROUNDS = 4
_ON = 8.0  # times the median of χ² of three residuals, within which a peak is on a lattice
_STRAYING = 1.5  # reduced χ² below which all peaks are where they should be
_BETTER = 0.7  # of that: well beyond chance for the thirty peaks that a class has at least
_UNSURE = 0.3  # of how far the centroid of an arc is off the mean block's spot
_BROAD = 1.8  # times the typical width of strong peaks: the diffuse scattering's own maxima
# Peaks whose centroid cannot be trusted. Those at edges and gaps are fitted well.
_UNUSABLE = PeakFlag.FIT_FAILED | PeakFlag.SCAN_END | PeakFlag.OVERLOAD
_WHY = {
    "no fit": PeakFlag.FIT_FAILED,
    "cut by the scan's end": PeakFlag.SCAN_END,
    "overloaded": PeakFlag.OVERLOAD,
    "as wide as the fit allows": PeakFlag.WIDEST,
}
_BROADER = "broader than reflections"
_OTHER = "of the other domain of a twin"
_COMMON = 0.5  # of all peaks as wide as the fit allows: these are the reflections


@dataclass(frozen=True)
class Observed:
    """The rotations of one scan with the peaks that are fit for refinement."""

    names: tuple[str, ...]
    scans: tuple[RotationScan, ...]
    peaks: tuple[refinement.Peaks, ...]
    n_found: int
    tables: tuple[Peaks, ...]
    """The same peaks with all that is known of them."""
    widths: tuple[Floats, ...] = ()
    """Their widths in pixels, see `core.arcs.Displaced`."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Peaks that are not among these, by the reason."""

    @property
    def intensities(self) -> tuple[Floats, ...]:
        """Counts of the peaks."""
        return tuple(table.intensity for table in self.tables)

    @property
    def notes(self) -> list[str]:
        """What is to be said of the peaks."""
        widest = sum(int(np.sum(t.flags & int(PeakFlag.WIDEST) != 0)) for t in self.tables)
        if not widest:
            return []
        return [
            f"{widest} of {sum(len(t) for t in self.tables)} peaks are as wide as the fit allows: "
            "centres and errors are doubtful; set a larger `find_peaks: window`"
        ]

    def select(self, keep: NDArray[np.bool_], why: str) -> "Observed":
        """Fewer peaks, of all (n,) one after the other, and why the others are left out."""
        ends = np.cumsum([len(table) for table in self.tables])[:-1]
        parts = np.split(keep, ends)
        tables = [table.select(part) for table, part in zip(self.tables, parts, strict=True)]
        peaks = [
            refinement.Peaks(*(getattr(one, name)[part] for name in _CENTROID))
            for one, part in zip(self.peaks, parts, strict=True)
        ]
        left_out = dict(self.left_out)
        left_out[why] = left_out.get(why, 0) + int(np.sum(~keep))
        widths = tuple(one[part] for one, part in zip(self.widths, parts, strict=True))
        return replace(
            self, peaks=tuple(peaks), tables=tuple(tables), widths=widths, left_out=left_out
        )

    @property
    def rotations(self) -> list[geometry.Rotation]:
        """Geometry as imported."""
        return [scan.rotation for scan in self.scans]

    def q_crystal(self, rotations: Sequence[geometry.Rotation]) -> Floats:
        """Scattering vectors (n, 3) of all peaks in the goniometer's frame, 1/Å."""
        return np.concatenate(
            [
                rotation.q_crystal(peaks.frame, peaks.slow, peaks.fast)
                for rotation, peaks in zip(rotations, self.peaks, strict=True)
            ]
        )


def named(sample: str, scan: str, observed: Observed, *, own: bool) -> "Named":
    """How sentences call a scan and its frames; ``own``: it is a parent."""
    from hklflow.core.doubts import Named

    return Named(sample, scan, observed.names, [one.first for one in observed.scans], own)


def read(names: Sequence[str], scans: Sequence[Path], peaks: Sequence[Path]) -> Observed:
    """Read the scan files and peak tables of one scan's rotations.

    Raises
    ------
    HklflowError
        If the numbers of names and files differ.
    """
    read = read_scans(names, scans, peaks)
    return observe(names, read, [nexus.read_peaks(path) for path in peaks])


def read_scans(
    names: Sequence[str], scans: Sequence[Path], peaks: Sequence[Path]
) -> list[RotationScan]:
    """Read the scan files of one scan's rotations.

    Raises
    ------
    HklflowError
        If the numbers of names, scan files and peak tables differ.
    """
    if not len(names) == len(scans) == len(peaks):
        raise HklflowError(
            f"{len(names)} rotations, {len(scans)} scan files and {len(peaks)} peak tables; "
            "give one of each for every rotation"
        )
    return [nexus.read_scan(path) for path in scans]


def observe(
    names: Sequence[str], scans: Sequence[RotationScan], tables: Sequence[Peaks]
) -> Observed:
    """Choose the peaks that are fit for refinement, at the places of the crystal's mean block."""
    usable, widths = [], []
    for scan, table in zip(scans, tables, strict=True):
        fit = table.select(_usable(table))
        off = _displaced(scan.rotation, fit)
        sharp = _sharp(off.width, fit.intensity)
        usable.append(_placed(fit, off).select(sharp))
        widths.append(off.width[sharp])
    return Observed(
        tuple(names),
        tuple(scans),
        tuple(refinement.Peaks(*(getattr(table, name) for name in _CENTROID)) for table in usable),
        sum(len(table) for table in tables),
        tuple(usable),
        tuple(widths),
        _left_out_of(tables, usable),
    )


def afterglows(names: Sequence[str], tables: Sequence[Peaks]) -> list[dict[str, Any]]:
    """List the afterglow in the peaks of each rotation where it matters, with its sentence."""
    said = {n: (t, afterglow.sentence(t)) for n, t in zip(names, tables, strict=True)}
    return [
        {"rotation": name, **(table.afterglow or {}), "sentence": f"{name}: {text}"}
        for name, (table, text) in said.items()
        if text
    ]


def _displaced(rotation: geometry.Rotation, table: Peaks) -> arcs.Displaced:
    widths = (table.width_slow, table.width_fast, table.width_frame)
    return arcs.displaced(rotation, table.slow, table.fast, *widths, table.significance)


def _placed(table: Peaks, off: arcs.Displaced) -> Peaks:
    """Peaks at the places of the mean block of the crystal, of which spots are the arcs."""
    names = ("slow", "fast", "frame")
    moved = {name: getattr(table, name) - getattr(off, name) for name in names}
    # Fits weigh the middle of a skew curve, and of an arc, more than their means do.
    unsure = {
        f"var_{name}": getattr(table, f"var_{name}") + (_UNSURE * getattr(off, name)) ** 2
        for name in names
    }
    return replace(table, **moved, **unsure)


def _left_out_of(tables: Sequence[Peaks], usable: Sequence[Peaks]) -> dict[str, int]:
    """Count the peaks that are not usable by the first reason that holds."""
    counts = dict.fromkeys([*_WHY, _BROADER], 0)
    for table, left in zip(tables, usable, strict=True):
        rest = np.ones(len(table), np.bool_)
        for why, flag in _WHY.items():
            own = rest & (table.flags & int(flag) != 0)
            own &= flag != PeakFlag.WIDEST or _widest_are_left_out(table.flags)
            counts[why] += int(own.sum())
            rest &= ~own
        counts[_BROADER] += int(rest.sum()) - len(left)
    return {why: number for why, number in counts.items() if number}


def _widest_are_left_out(flags: NDArray[np.int64]) -> bool:
    """Return False if most peaks are as wide as the fit allows."""
    return bool(len(flags)) and bool(np.mean(flags & int(PeakFlag.WIDEST) != 0) < _COMMON)


def _usable(table: Peaks) -> NDArray[np.bool_]:
    values = np.stack([getattr(table, name) for name in _CENTROID])
    use: NDArray[np.bool_] = ((table.flags & int(_UNUSABLE)) == 0) & np.all(
        np.isfinite(values), axis=0
    )
    use &= np.all(values[3:] > 0, axis=0)
    if _widest_are_left_out(table.flags):
        use &= (table.flags & int(PeakFlag.WIDEST)) == 0
    return use


def _sharp(width: Floats, intensity: Floats) -> NDArray[np.bool_]:
    """Tell Bragg reflections from maxima of the diffuse scattering by their width (n,)."""
    if not len(width):
        return np.ones(0, np.bool_)
    # Half of the peaks' intensity is in narrower ones: the strong peaks are Bragg peaks.
    order = np.argsort(width)
    share = np.cumsum(np.maximum(intensity, 0.0)[order])
    typical = width[order][np.searchsorted(share, 0.5 * share[-1])]
    sharp: NDArray[np.bool_] = width <= _BROAD * typical
    return sharp


def without_maxima(
    observed: Observed,
    refined: refinement.Refined,
    again: Callable[[Observed], refinement.Refined],
) -> tuple[Observed, refinement.Refined, list[str]]:
    """Leave out the broader of two classes of peaks, else those beside their reflections.

    Parameters
    ----------
    refined : Refined
        By all peaks.
    again : callable
        Refines by the peaks it is given.

    Returns
    -------
    observed : Observed
    refined : Refined
    notes : list of str
        How many were left out.
    """
    width = np.concatenate(observed.widths)
    significance = np.concatenate([t.significance for t in observed.tables])
    gap = sharpness.gap(width, significance)
    if gap is not None:
        return _within(width <= gap, f"{gap:.2g} pixels", observed, refined, again)
    if refined.chi2 < _STRAYING:
        return observed, refined, []
    core = sharpness.narrow(width, significance)
    if core is None or core.all():
        return observed, refined, []
    try:
        by_core = again(observed.select(core, _BROADER))
        if by_core.chi2 > _BETTER * refined.chi2:
            return observed, refined, []  # they are no better placed: it is something else
        found = unrefined(by_core.rotations, observed.peaks, by_core.ub, _INDEXED)
        sigma = np.concatenate([p.sigma for p in observed.peaks])
        keep = sharpness.reflections(width, core, np.sum((found.residuals / sigma) ** 2, axis=1))
        if keep.all():
            return observed, refined, []
        fewer = observed.select(keep, _BROADER)
        best = again(fewer)
    except HklflowError:
        return observed, refined, []  # too few are narrow
    return fewer, best, [_left_out(keep, f"{width[keep].max():.2g} pixels", refined, best)]


def _within(
    keep: NDArray[np.bool_],
    limit: str,
    observed: Observed,
    refined: refinement.Refined,
    again: Callable[[Observed], refinement.Refined],
) -> tuple[Observed, refinement.Refined, list[str]]:
    """Refine by the peaks (n,) of the narrow class alone, if they are this crystal's."""
    if keep.sum() < sharpness.ENOUGH:
        note = (
            f"{np.sum(~keep)} of {len(keep)} peaks are broader than {limit}, {keep.sum()} "
            "narrower: maxima of the diffuse scattering, and too few reflections to refine by "
            "alone; cell and orientation are those of the maxima, off by more than they say: "
            "measure longer, or take them from another scan (`orientation: start`, `fixed`)"
        )
        return observed, refined, [note]
    fewer = observed.select(keep, _BROADER)
    try:
        best = again(fewer)
    except HklflowError:
        return observed, refined, []  # noise, or of another crystal
    return fewer, best, [_left_out(keep, limit, refined, best)]


def _left_out(
    keep: NDArray[np.bool_], limit: str, refined: refinement.Refined, best: refinement.Refined
) -> str:
    return (
        f"{np.sum(~keep)} of {len(keep)} peaks are broader than {limit}: maxima of the diffuse "
        "scattering, which were left out "
        f"(reduced chi² {refined.chi2:.3g} with them, {best.chi2:.3g} without)"
    )


def separated(
    observed: Observed,
    rotations: Sequence[geometry.Rotation],
    ub: Floats,
    group: symmetry.SpaceGroup,
    cell: ArrayLike,
    refine_at: Callable[[Observed, Sequence[geometry.Rotation], Floats], refinement.Refined],
) -> "tuple[Observed, refinement.Refined, leftover.Crystal] | None":
    """Refine by the peaks of one of two domains whose spots nearly coincide.

    Parameters
    ----------
    rotations : sequence of Rotation
        Geometry as imported.
    ub : (3, 3) array
        The lattice that indexes both.
    cell : (6,) array
        Expected.
    refine_at : callable
        Refines by some peaks, from a geometry and a UB.

    Returns
    -------
    tuple or None
        The peaks of the larger domain, their refinement, and the other domain; None where there
        are no two.
    """
    from hklflow.core import domains, leftover

    intensity = np.concatenate(observed.intensities)
    sigma = np.concatenate([p.sigma for p in observed.peaks])
    both = domains.pair(ub, observed.q_crystal(rotations), intensity, cell, group)
    if both is None:
        return None

    def misfits(other: Floats) -> Floats:
        residuals = unrefined(rotations, observed.peaks, other, _INDEXED).residuals
        size = np.sum((residuals / sigma) ** 2, axis=1)
        return np.where(np.isfinite(size), size, np.inf)

    first, second = both.first, both.second
    try:
        for _ in range(_DOMAIN_ROUNDS):
            mine, theirs = misfits(first), misfits(second)
            limit = _ON * max(float(np.median(np.minimum(mine, theirs))), 1.0)
            refined = refine_at(observed.select(mine < limit, _OTHER), rotations, first)
            rotations, first = refined.rotations, refined.ub
            g = observed.q_crystal(rotations)
            u = refinement.realigned(g[theirs < np.minimum(mine, limit)], _u(second), refined.cell)
            second = u @ lattice.b_matrix(refined.cell)
    except HklflowError:
        return None
    keep, other = misfits(first) < limit, misfits(second) < limit
    crystal = leftover.crystal(first, second, keep & ~other, other & ~keep, intensity, group)
    # Two crystals at any angle are no domains.
    if crystal is None or not crystal.law or refined.chi2 > _STRAYING:
        return None
    return observed.select(keep, _OTHER), refined, crystal


def _u(ub: Floats) -> Floats:
    return lattice.decompose_ub(ub)[0]


def inherited(
    observed: Observed, parent: Mapping[str, Any]
) -> tuple[list[geometry.Rotation], list[str]]:
    """Geometry of a child's rotations as the parent refined it: detector and heads.

    The small turn of the head that the parent found at a goniometer setting is taken over by
    the rotation at the same setting; of several such by that of the same name.

    Returns
    -------
    rotations : list of Rotation
    notes : list of str
        Which rotations keep their own calibration because the parent had another one.
    """
    refined = [
        (
            geometry.detector_from_dict(calibrated),
            geometry.from_dict(parent["rotations"][name]).detector,
        )
        for name, calibrated in parent["calibrated_detectors"].items()
    ]
    rotations, notes = [], []
    for name, scan in zip(observed.names, observed.scans, strict=True):
        own = scan.rotation.detector
        matching = [
            detector for calibrated, detector in refined if _same_calibration(calibrated, own)
        ]
        if not matching:
            notes.append(f"{name} has another calibration than the parent and keeps its own")
        detector = _with_sensor_of(own, matching[0]) if matching else own
        rotation = scan.rotation
        ordered = sorted(parent["rotations"].items(), key=lambda item: item[0] != name)
        goniometer = _inherited_goniometer(rotation.goniometer, [found for _, found in ordered])
        rotations.append(geometry.Rotation(rotation.beam, detector, goniometer, rotation.scan))
    return rotations, notes


def _with_sensor_of(own: geometry.Detector, other: geometry.Detector) -> geometry.Detector:
    """Detector where another one is; the sensor's attenuation is for the own wavelength."""
    return replace(
        other,
        sensor_thickness=own.sensor_thickness,
        sensor_attenuation=own.sensor_attenuation,
    )


def _same_calibration(a: geometry.Detector, b: geometry.Detector) -> bool:
    """Return True if two detectors are at the same place, whatever their sensors attenuate."""
    return geometry.detector_to_dict(_with_sensor_of(b, a)) == geometry.detector_to_dict(b)


def _inherited_goniometer(
    own: geometry.Goniometer, parents: Sequence[dict[str, Any]]
) -> geometry.Goniometer:
    """Goniometer of the first of the parent's rotations that differs by a refined head only."""
    for parent in parents:
        refined = geometry.from_dict(parent).goniometer
        bare = without_head(refined)
        if bare.names != own.names or bare.scan != own.scan:
            continue
        setting = np.arange(len(own.names)) != own.scan
        if np.allclose(bare.axes, own.axes, atol=1e-9) and np.allclose(
            bare.angles[setting], own.angles[setting], atol=1e-9
        ):
            return refined
    return own


@dataclass(frozen=True)
class Start:
    """An orientation that another program made, and the geometry that it was made with.

    Attributes
    ----------
    rotations : list of Rotation
        Of the scan, with the detector of the file.
    ub : (3, 3) array
        1/Å with 2π in our goniometer's frame, in the setting of the file.
    group : SpaceGroup or None
        None where the file names none.
    notes : list of str
        Where the geometry of the file was not taken.
    """

    rotations: list[geometry.Rotation]
    ub: Floats
    group: symmetry.SpaceGroup | None
    notes: list[str]


def started(path: Path, observed: Observed) -> Start:
    """Read an orientation and the detector that goes with it.

    Parameters
    ----------
    path : Path
        Any file that `formats.models.read_model` knows.
    observed : Observed
        The rotations it is for: the first of them is the file's first. A rotation of which the
        file knows nothing has the first one's detector, if the import gave both the same.

    Raises
    ------
    HklflowError
        If the file has no crystal, or is for another detector or another geometry.
    """
    from hklflow.formats.models import read_model

    models, scan = read_model(path), observed.scans[0]
    model = models[0]
    # As many frames: the same ones, whatever number the first has in the file.
    same = model.rotation.scan.n_frames == scan.rotation.scan.n_frames
    first = model.first_image - 1 if same else scan.first
    model = _binned(model, scan)
    _, misfit = on_geometry(model, scan.rotation, first)
    if misfit > _MAX_MISFIT:
        raise HklflowError(
            f"{path} has another geometry: its Miller indices of pixels and this scan's scattering "
            f"vectors differ by {misfit:.1%} (limit {_MAX_MISFIT:.0%}); check wavelength, beam "
            "centre, distance, rotation axis and step of both"
        )
    taken = _with_geometry(model, scan.rotation)
    ours, _ = on_geometry(model, taken, first)
    rotations, notes = [taken], []
    for name, other in zip(observed.names[1:], observed.scans[1:], strict=True):
        own = [m for m in models[1:] if m.name == name]
        if own:
            rotations.append(_with_geometry(_binned(own[0], other), other.rotation))
        elif _same_calibration(other.rotation.detector, scan.rotation.detector):
            detector = _with_sensor_of(other.rotation.detector, taken.detector)
            rotations.append(replace(other.rotation, detector=detector))
        else:
            rotations.append(other.rotation)
            notes.append(f"{path} has no detector for {name}, which keeps its own calibration")
    theirs, wavelength = model.rotation.beam.wavelength, scan.rotation.beam.wavelength
    if abs(theirs / wavelength - 1) > _SAME_WAVELENGTH:
        notes.append(
            f"{path} was made with a wavelength of {theirs:.6g} Å, the scan has "
            f"{wavelength:.6g} Å, which is kept: cell and wavelength do not belong together"
        )
    group = None if model.space_group is None else symmetry.space_group(model.space_group)
    assert ours.ub is not None
    return Start(rotations, ours.ub, group, notes)


def _with_geometry(model: Model, own: geometry.Rotation) -> geometry.Rotation:
    """A rotation of ours with the detector of a model, and its refined head if it has one."""
    goniometer = _inherited_goniometer(own.goniometer, [geometry.to_dict(model.rotation)])
    return replace(own, detector=detector_of(model, own), goniometer=goniometer)


def _binned(model: Model, scan: RotationScan) -> Model:
    """Model of the frames as measured, with the detector of the scan's block sums."""
    theirs = model.rotation.detector
    if scan.binning is None or tuple(theirs.shape) != tuple(scan.binning.unbinned):
        return model
    detector = bin_detector(theirs, scan.binning.factor)
    return replace(model, rotation=replace(model.rotation, detector=detector))


def reconciled(
    ub: ArrayLike,
    own: symmetry.SpaceGroup,
    group: symmetry.SpaceGroup,
    cell: ArrayLike | None,
    tolerance: float,
    where: str,
) -> Floats:
    """UB of another program, in the setting of a space group.

    Parameters
    ----------
    ub : (3, 3) array
        1/Å with 2π.
    own : SpaceGroup
        The group that goes with it; only its centring is used.
    group : SpaceGroup
    cell : (6,) array or None
        Expected cell of the group.
    tolerance : float
        Largest principal strain between two cells that are the same.
    where : str
        What the UB is, for the sentence of the error.

    Returns
    -------
    ub : (3, 3) array
        As given if its cell is the expected one, else on another basis of the same lattice.

    Raises
    ------
    HklflowError
        If the lattice cannot be that of the space group, or its cell is not the expected one.
    """
    given = lattice.decompose_ub(ub)[1]
    metric = lattice.metric(given)
    fits = reduction.strain(metric, symmetry.constrain_cell(given, group)) < min(tolerance, 0.01)
    fits &= own.centring == group.centring
    if fits and (cell is None or reduction.strain(metric, cell) < tolerance):
        return np.asarray(ub, dtype=np.float64)
    primitive = np.asarray(ub, dtype=np.float64) @ np.linalg.inv(own.to_primitive)
    if cell is not None:
        settings = reduction.matching_settings(primitive, cell, group, tolerance)
        found = [s.ub for s in settings if s.ratio == 1 and s.asymmetry < 0.01]
    else:
        small = lattice.decompose_ub(primitive)[1]
        found = [
            primitive
            @ np.linalg.inv(setting.matrix)
            @ np.linalg.inv(symmetry.between_settings(setting.group, group))
            for setting in symmetry.bravais_settings(small, 1.5)
            if setting.group.bravais == group.bravais
        ]
    if not found:
        expected = "" if cell is None else f" with the cell {_text(cell)}"
        raise HklflowError(
            f"{where} has the cell {_text(given)} ({own.symbol}), which is no lattice of "
            f"{group.symbol}{expected}; check space group and cell, or index again"
        )
    return found[0]


def _text(cell: ArrayLike) -> str:
    return " ".join(f"{x:.5g}" for x in np.asarray(cell, dtype=np.float64))


def product(
    refined: refinement.Refined,
    observed: Observed,
    grid: Grid,
    identity: Mapping[str, Any],
    warnings: Sequence[str],
    symmetry: Mapping[str, Any],
) -> dict[str, Any]:
    """Content of ``orientation.json``.

    Parameters
    ----------
    identity : mapping
        ``sample``, ``scan``, ``space_group``, ``parent``, the temperatures of both in K,
        ``cell_constraints``: the space group whose relations the cell obeys, None for none,
        ``fixed``: whether the orientation was taken as it is, and ``engine``: see `engine`.
    symmetry : mapping
        Figures of `core.transition`.
    """
    # Of a model that was not refined, the figures are those of the peaks that agree with it.
    shown = refined.used if refined.used.any() else refined.held_out
    untested = (
        [f"whether the cell obeys the space group was not tested: {symmetry['why not']}"]
        if symmetry["free cell"] is None
        else []
    )
    return {
        **identity,
        "cell": refined.cell,
        "cell_sigma": refined.cell_sigma,
        "cell_covariance": refined.cell_covariance,
        "U": refined.u,
        "UB": refined.ub,
        "orientation_sigma_deg": np.degrees(refined.orientation_sigma),
        "rotations": {
            name: geometry.to_dict(rotation)
            for name, rotation in zip(observed.names, refined.rotations, strict=True)
        },
        "calibrated_detectors": {
            name: geometry.detector_to_dict(scan.rotation.detector)
            for name, scan in zip(observed.names, observed.scans, strict=True)
        },
        "grid": grid.to_dict(),
        "refined_parameters": {
            name: {"value": value, "sigma": sigma}
            for name, value, sigma in zip(refined.names, refined.values, refined.sigma, strict=True)
        },
        "metrics": {
            "peaks found": observed.n_found,
            "peaks": len(refined.indexed),
            "peaks left out": dict(observed.left_out),
            "fraction indexed": refined.fraction_indexed,
            "used in refinement": int(refined.used.sum()),
            "rmsd in pixels": float(np.hypot(refined.rmsd[0], refined.rmsd[1])),
            "rmsd in frames": float(refined.rmsd[2]),
            "median residual (slow, fast, frame)": np.median(
                np.abs(refined.residuals[shown]), axis=0
            )
            if shown.any()
            else [None] * 3,
            "rmsd of held-out peaks (slow, fast, frame)": refined.rmsd_held_out,
            "reduced chi2": refined.chi2,
            "condition number": refined.condition,
            "correlations above 0.95": refined.correlations,
        },
        "symmetry": symmetry,
        "warnings": [*warnings, *observed.notes, *untested, *refined.warnings],
    }


def picture(refined: refinement.Refined, observed: Observed, data: Mapping[str, Any]) -> "Figure":
    """Residuals of all rotations, and the numbers beside them."""
    from hklflow import plots

    starts = np.cumsum([0, *(len(p.frame) for p in observed.peaks)])
    kinds = {"slow": 0, "fast": 1, "frame": 2}
    per_rotation = {}
    for i, (name, peaks) in enumerate(zip(observed.names, observed.peaks, strict=True)):
        rows = slice(starts[i], starts[i + 1])
        use = refined.used[rows] | refined.held_out[rows]
        arrays = {kind: refined.residuals[rows, at][use] for kind, at in kinds.items()}
        per_rotation[name] = {"at frame": peaks.frame[use], **arrays}
    cell_names = ("a", "b", "c", "alpha", "beta", "gamma")
    metrics = data["metrics"]
    free = "" if data["cell_constraints"] else ", cell without its constraints"
    lines = [f"space group {data['space_group']}{free}", ""]
    lines += ["the orientation is fixed: nothing was refined", ""] if data.get("fixed") else []
    lines += [
        f"{n:5s} {v:9.5f} ± {s:.5f}"
        for n, v, s in zip(cell_names, refined.cell, refined.cell_sigma, strict=True)
    ]
    turn = np.degrees(refined.orientation_sigma)
    lines += [
        f"U       ± {turn[0]:.5f} {turn[1]:.5f} {turn[2]:.5f} deg",
        "",
        f"{metrics['peaks']} peaks, {_known(100 * metrics['fraction indexed'], '.1f')} % indexed",
        f"{metrics['used in refinement']} used",
        f"rmsd {_known(metrics['rmsd in pixels'])} px, {_known(metrics['rmsd in frames'])} frames",
        "median |residual| {} {} px, {} fr".format(
            *map(_known, metrics["median residual (slow, fast, frame)"])
        ),
        f"reduced chi2 {_known(metrics['reduced chi2'], '.2f')}",
        "",
    ]
    lines += [
        f"{name:22s} {value:.3g} ± {sigma:.1g}"
        for name, value, sigma in zip(refined.names, refined.values, refined.sigma, strict=True)
        if name not in cell_names
    ]
    units = {"slow": "pixel", "fast": "pixel", "frame": "frame"}
    title = f"{data['sample']} {data['scan']}: observed minus predicted"
    return plots.residuals(per_rotation, units, lines, title)


def _known(value: float | None, form: str = ".3f") -> str:
    """Figure as text; a dash where there were no peaks to make it of."""
    return "–" if value is None or np.isnan(value) else format(value, form)


def as_given(
    observed: Observed,
    rotations: Sequence[geometry.Rotation],
    ub: ArrayLike,
    tolerance: float,
) -> tuple[refinement.Refined, list[str]]:
    """Model that is taken as it is, with its figures, and what is to be said of it.

    Parameters
    ----------
    tolerance : float
        Largest deviation of h, k, l from integers of an indexed peak.
    """
    found = unrefined(rotations, observed.peaks, ub, tolerance)
    n = len(found.indexed)
    notes = [
        f"the orientation is fixed: it is as given, its standard deviations are not known (0); "
        f"{found.indexed.sum()} of {n} peaks are indexed by it"
    ]
    return found, notes


def constraints_kept(cell: ArrayLike, group: symmetry.SpaceGroup) -> bool:
    """Whether a cell that was given obeys a space group's relations, to 1e-4."""
    own = np.asarray(cell, dtype=np.float64)
    strain = reduction.strain(lattice.metric(own), symmetry.constrain_cell(own, group))
    return bool(strain < 1e-4)
