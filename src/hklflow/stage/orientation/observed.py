"""Read the rotations of a scan, with the peaks that are suitable for refinement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hklflow import geometry, nexus
from hklflow.base.errors import HklflowError
from hklflow.images.scan import RotationScan
from hklflow.orientation import arcs, cut, refinement, sharpness
from hklflow.orientation.residuals import CENTROID
from hklflow.peaks import afterglow
from hklflow.peaks.table import UNUSABLE, PeakFlag, PeakTable
from hklflow.stage.orientation.choice import Chosen
from hklflow.stage.orientation.choice import chosen as chosen_by

if TYPE_CHECKING:
    from hklflow.geometry.modules import Modules
    from hklflow.quality.doubts import Named
    from hklflow.quality.pasted import Imported
    from hklflow.stage.peak_choice import PeakChoice

Floats = NDArray[np.float64]

_WHY = {
    "no fit": PeakFlag.FIT_FAILED,
    "cut by the scan's end": PeakFlag.SCAN_END,
    "overloaded": PeakFlag.OVERLOAD,
    "as wide as the fit allows": PeakFlag.WIDEST,
}
_UNKNOWN = "without a place or its error"
# limit relative to the typical width of strong peaks; broader peaks are diffuse maxima
_BROAD = 1.8
BROADER = "broader than reflections"
# fraction of peaks with the largest fitted width above which they count as reflections
_COMMON = 0.5


@dataclass(frozen=True)
class Observed:
    """The rotations of one scan, with the peaks that are suitable for refinement."""

    names: tuple[str, ...]
    scans: tuple[RotationScan, ...]
    peaks: tuple[refinement.Peaks, ...]
    n_found: int
    tables: tuple[PeakTable, ...]
    """All columns of the peak tables, for the same peaks."""
    widths: tuple[Floats, ...] = ()
    """Widths of the peaks in pixels, see `orientation.arcs.Displaced`."""
    extents: tuple[Floats, ...] = ()
    """Size, rocking width and step of the peaks (n, 3), see `orientation.arcs.Displaced`."""
    spreads: tuple[float | None, ...] = ()
    """Mosaic spread in radian² from the peaks of each rotation; None if there are too few peaks."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of peaks that were left out, by reason."""
    notes_of_choice: tuple[str, ...] = ()
    """Notes on the choice of the user."""

    @property
    def intensities(self) -> tuple[Floats, ...]:
        """Counts of the peaks."""
        return tuple(table.intensity for table in self.tables)

    @property
    def notes(self) -> list[str]:
        """Return notes on the peaks."""
        widest = sum(int(np.sum(t.flags & int(PeakFlag.WIDEST) != 0)) for t in self.tables)
        if not widest:
            return [*self.notes_of_choice]
        return [
            *self.notes_of_choice,
            f"{widest} of {sum(len(t) for t in self.tables)} peaks are as wide as the fit allows: "
            "centres and errors are doubtful; set a larger `find_peaks: window`",
        ]

    def select(self, keep: NDArray[np.bool_], why: str) -> "Observed":
        """Select peaks of all rotations by a mask (n,), and record why the others are left out."""
        ends = np.cumsum([len(table) for table in self.tables])[:-1]
        parts = np.split(keep, ends)
        tables = [table.select(part) for table, part in zip(self.tables, parts, strict=True)]
        peaks = [
            part_of_rotation.select(part)
            for part_of_rotation, part in zip(self.peaks, parts, strict=True)
        ]
        left_out = dict(self.left_out)
        left_out[why] = left_out.get(why, 0) + int(np.sum(~keep))
        widths, extents = (
            tuple(values[part] for values, part in zip(of_rotations, parts, strict=True))
            for of_rotations in (self.widths, self.extents)
        )
        return replace(
            self,
            peaks=tuple(peaks),
            tables=tuple(tables),
            widths=widths,
            extents=extents,
            left_out=left_out,
        )

    @property
    def rotations(self) -> list[geometry.Rotation]:
        """Return the imported geometry of the rotations."""
        return [scan.rotation for scan in self.scans]

    def q_crystal(self, rotations: Sequence[geometry.Rotation]) -> Floats:
        """Return scattering vectors (n, 3) of all peaks in the goniometer's frame, 1/Å."""
        return np.concatenate(
            [
                rotation.q_crystal(peaks.frame, peaks.slow, peaks.fast)
                for rotation, peaks in zip(rotations, self.peaks, strict=True)
            ]
        )


def named(
    sample: str,
    scan: str,
    observed: Observed,
    *,
    own: bool,
    imported: "Imported | None" = None,
) -> "Named":
    """Return the names of a scan and its frames for sentences; ``own`` is True for a parent."""
    from hklflow.quality.doubts import Named

    first = [one.first for one in observed.scans]
    return Named(sample, scan, observed.names, first, own, imported)


def modules_of(observed: Observed, masks: Sequence[Path]) -> "Modules | None":
    """Return the modules of the detector of all rotations, from its geometry or from mask gaps.

    Return None if the detectors of the rotations have different shapes, or if no modules are found.
    """
    from hklflow.calibration.module_gaps import modules_from_gaps
    from hklflow.geometry.modules import Modules

    detectors = [rotation.detector for rotation in observed.rotations]
    if len({detector.shape for detector in detectors}) > 1:
        return None
    if detectors[0].modules is not None or not masks:
        return detectors[0].modules
    size = detectors[0].pixel_size
    return Modules.ideal(modules_from_gaps(nexus.read_mask(masks[0]) != 0), size[1] / size[0])


def read(names: Sequence[str], scans: Sequence[Path], peaks: Sequence[Path]) -> Observed:
    """Read the scan files and peak tables of the rotations of one scan.

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
    """Read the scan files of the rotations of one scan.

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
    names: Sequence[str],
    scans: Sequence[RotationScan],
    tables: Sequence[PeakTable],
    max_width: float | None = None,
    choice: "PeakChoice | None" = None,
    of_scan: tuple[str, str] = ("", ""),
) -> Observed:
    """Select the peaks for refinement, corrected to the positions of the mean block of the crystal.

    Peaks that the ``choice`` of the user leaves out take no part at all. Peaks broader than
    ``max_width`` (pixels) are left out, too, if this limit is given. ``of_scan`` is the sample and
    the scan, for the user's table of peaks.

    Raises
    ------
    HklflowError
        If the choice leaves no peak; see `choice.chosen`.
    """
    n_found = sum(len(table) for table in tables)
    by_user = Chosen(list(tables))
    if choice is not None:
        by_user = chosen_by(names, scans, tables, choice, of_scan)
        tables = by_user.tables
    chosen, widths, extents, spreads = [], [], [], []
    tables = [_cut_at_ends(table, scan.rotation) for scan, table in zip(scans, tables, strict=True)]
    for scan, table in zip(scans, tables, strict=True):
        fit = table.select(usable(table))
        off = _displaced(scan.rotation, fit)
        sharp = _sharp(off.width, fit.intensity)
        sharp |= sharpness.broad_reflections(~sharp, off.size, off.rocking, off.step)
        sharp &= off.width <= (np.inf if max_width is None else max_width)
        chosen.append(_placed(fit, off).select(sharp))
        widths.append(off.width[sharp])
        extents.append(np.stack([off.size, off.rocking, off.step], axis=1)[sharp])
        spreads.append(off.spread)
    return Observed(
        tuple(names),
        tuple(scans),
        tuple(refinement.Peaks.of(table) for table in chosen),
        n_found,
        tuple(chosen),
        tuple(widths),
        tuple(extents),
        tuple(spreads),
        by_user.left_out | _left_out_of(tables, chosen),
        by_user.notes,
    )


def afterglows(names: Sequence[str], tables: Sequence[PeakTable]) -> list[dict[str, Any]]:
    """Return the significant afterglow in the peaks of each rotation, with a sentence."""
    said = {n: (t, afterglow.sentence(t)) for n, t in zip(names, tables, strict=True)}
    return [
        {"rotation": name, **(table.afterglow or {}), "sentence": f"{name}: {text}"}
        for name, (table, text) in said.items()
        if text
    ]


def _cut_at_ends(table: PeakTable, rotation: geometry.Rotation) -> PeakTable:
    """Correct peaks that an end of the scan cuts beside their centres, and remove their flag."""
    at_end = table.flags & int(PeakFlag.SCAN_END) != 0
    at_end &= table.flags & int(PeakFlag.LONG | PeakFlag.MOMENTS | PeakFlag.FIT_FAILED) == 0
    at_end &= (table.frame > 0) & (table.frame < rotation.scan.n_frames)
    centres = [getattr(table, name)[at_end] for name in (*CENTROID, "width_frame")]
    columns = {name: getattr(table, name).copy() for name in CENTROID}
    for name, values in zip(CENTROID, cut.whole(rotation, *centres), strict=True):
        columns[name][at_end] = values
    return replace(
        table, flags=np.where(at_end, table.flags & ~int(PeakFlag.SCAN_END), table.flags), **columns
    )


def _displaced(rotation: geometry.Rotation, table: PeakTable) -> arcs.Displaced:
    widths = (table.width_slow, table.width_fast, table.width_frame)
    return arcs.displaced(rotation, table.slow, table.fast, *widths, table.significance)


def _placed(table: PeakTable, off: arcs.Displaced) -> PeakTable:
    """Correct peaks, which are parts of arcs, to the positions of the mean block of the crystal."""
    names = ("slow", "fast", "frame")
    moved = {name: getattr(table, name) - getattr(off, name) for name in names}
    unsure = {
        f"var_{name}": getattr(table, f"var_{name}") + (arcs.UNSURE * getattr(off, name)) ** 2
        for name in names
    }
    return replace(table, **moved, **unsure)


def _left_out_of(tables: Sequence[PeakTable], chosen: Sequence[PeakTable]) -> dict[str, int]:
    """Count the peaks that were not chosen, by the first reason that applies."""
    counts = dict.fromkeys([*_WHY, _UNKNOWN, BROADER], 0)
    for table, left in zip(tables, chosen, strict=True):
        rest = np.ones(len(table), np.bool_)
        for why, flag in _WHY.items():
            flagged = rest & (table.flags & int(flag) != 0)
            flagged &= flag != PeakFlag.WIDEST or _widest_are_left_out(table.flags)
            counts[why] += int(flagged.sum())
            rest &= ~flagged
        fit = usable(table)
        counts[_UNKNOWN] += int(np.sum(rest & ~fit))
        counts[BROADER] += int(fit.sum()) - len(left)
    return {why: number for why, number in counts.items() if number}


def _widest_are_left_out(flags: NDArray[np.int64]) -> bool:
    """Return False if most peaks have the largest width that the fit allows."""
    return bool(len(flags)) and bool(np.mean(flags & int(PeakFlag.WIDEST) != 0) < _COMMON)


def usable(table: PeakTable) -> NDArray[np.bool_]:
    """Return True for peaks (n,) with a reliable position."""
    values = np.stack([getattr(table, name) for name in CENTROID])
    use: NDArray[np.bool_] = ((table.flags & int(UNUSABLE)) == 0) & np.all(
        np.isfinite(values), axis=0
    )
    use &= np.all(values[3:] > 0, axis=0)
    if _widest_are_left_out(table.flags):
        use &= (table.flags & int(PeakFlag.WIDEST)) == 0
    return use


def _sharp(width: Floats, intensity: Floats) -> NDArray[np.bool_]:
    """Return True for peaks (n,) that are not much broader than the typical strong peak.

    `selection.without_maxima` separates classes of widths, but it needs a first refinement, which
    the broadest maxima may spoil.
    """
    if not len(width):
        return np.ones(0, np.bool_)
    # The typical width is the one up to which peaks contain half of the intensity: strong peaks are
    # Bragg peaks.
    order = np.argsort(width)
    share = np.cumsum(np.maximum(intensity, 0.0)[order])
    typical = width[order][np.searchsorted(share, 0.5 * share[-1])]
    sharp: NDArray[np.bool_] = sharpness.with_pixel(width) <= _BROAD * sharpness.with_pixel(typical)
    return sharp
