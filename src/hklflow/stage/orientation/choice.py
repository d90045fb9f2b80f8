"""Leave out the peaks that the configuration excludes from indexing and refinement."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import left_out
from hklflow.images.scan import RotationScan
from hklflow.peaks.table import PeakTable
from hklflow.stage import mask_steps
from hklflow.stage.peak_choice import ListedPeak, PeakChoice, read_listed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEAR = 1.0  # pixels and frames between a peak and its line in a table
_TOLD = 3  # largest number of lines of a table in a note


@dataclass(frozen=True)
class Chosen:
    """Peaks that are left.

    Attributes
    ----------
    tables : list of PeakTable
        Peaks of each rotation.
    left_out : dict of int
        Number of peaks that were left out, by reason.
    notes : tuple of str
        Lines of a table of peaks that match no peak.
    """

    tables: list[PeakTable]
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def place(scan: RotationScan, table: PeakTable) -> tuple[Floats, Floats, Floats]:
    """Return the place of peaks: raw frame, and slow and fast in pixels as measured."""
    factor = 1 if scan.binning is None else scan.binning.factor
    return table.frame + scan.first, table.slow * factor, table.fast * factor


def q_length(scan: RotationScan, table: PeakTable) -> Floats:
    """Return |Q| of peaks in 1/Å, in the imported geometry."""
    q = scan.rotation.q_lab(table.slow, table.fast)
    return np.asarray(np.linalg.norm(q, axis=-1), dtype=np.float64)


def two_theta(scan: RotationScan, table: PeakTable) -> Floats:
    """Return the scattering angle 2θ of peaks in degrees, in the imported geometry."""
    sine = q_length(scan, table) / (2 * scan.rotation.beam.k)
    return np.asarray(np.degrees(2 * np.arcsin(sine)), dtype=np.float64)


def chosen(
    names: Sequence[str],
    scans: Sequence[RotationScan],
    tables: Sequence[PeakTable],
    choice: PeakChoice,
    of_scan: tuple[str, str],
) -> Chosen:
    """Return the peaks that the choice leaves.

    Parameters
    ----------
    names, scans, tables : sequence
        Name, scan file and peaks of each rotation.
    choice : PeakChoice
        Limits and lists of the configuration.
    of_scan : (str, str)
        Sample and scan, for the table of peaks.

    Raises
    ------
    HklflowError
        If no peak is left, a range of frames is not in its scan, or the table of peaks is not
        valid.
    """
    require_choice(zip(names, scans, strict=True), choice)
    keeps = [np.ones(len(table), np.bool_) for table in tables]
    counts: dict[str, int] = {}
    reasons: list[str] = []

    def leave_out(reason: str, outs: Iterable[Bools], more: str = "") -> None:
        """Leave out peaks, which are True in ``outs``, and count the new ones."""
        before = sum(int(keep.sum()) for keep in keeps)
        for keep, out in zip(keeps, outs, strict=True):
            keep &= ~out
        if new := before - sum(int(keep.sum()) for keep in keeps):
            counts[reason] = new
            reasons.append(f"{new} {reason}{more}")

    pairs = list(zip(scans, tables, strict=True))
    for name, (of, unit) in _NUMBERS.items():
        for end in ("min", "max"):
            limit = getattr(choice, f"{end}_{name}", None)
            if limit is not None:
                values = [of(scan, table) for scan, table in pairs]
                more = f" = {limit:g}{_span(values, unit)}"
                # NaN is out.
                beyond = (~(x >= limit if end == "min" else x <= limit) for x in values)
                leave_out(f"beyond `orientation: {end}_{name}`", beyond, more)
    if choice.use_frames:
        frames = (_other_frames(n, *pair, choice) for n, pair in zip(names, pairs, strict=True))
        leave_out("outside of `orientation: use_frames`", frames)
    if choice.leave_out_shapes:
        regions = (_inside(*pair, choice) for pair in pairs)
        leave_out("inside `orientation: leave_out_shapes`", regions)
    notes: tuple[str, ...] = ()
    if choice.leave_out_peaks is not None:
        peaks = [p for p in read_listed(choice.leave_out_peaks) if p.is_of(*of_scan)]
        outs, notes = _listed(names, pairs, peaks, str(choice.leave_out_peaks))
        leave_out("listed in `orientation: leave_out_peaks`", outs)
    n = sum(len(table) for table in tables)
    if n and not any(keep.any() for keep in keeps):
        raise HklflowError(
            f"all {n} peaks are left out by the section `orientation`: {', '.join(reasons)}; widen "
            "or remove these limits"
        )
    left = [table.select(keep) for table, keep in zip(tables, keeps, strict=True)]
    return Chosen(left, counts, notes)


def _span(values: Sequence[Floats], unit: str) -> str:
    every = np.concatenate(values)
    every = every[np.isfinite(every)]
    return f" (the peaks have {every.min():.4g} to {every.max():.4g} {unit})" if len(every) else ""


def _intensity(_: RotationScan, table: PeakTable) -> Floats:
    return table.intensity


_NUMBERS = {
    "two_theta": (two_theta, "degrees"),
    "q": (q_length, "1/Å"),
    "intensity": (_intensity, "counts"),
}


# ------------------------------------------------------- frames, regions, single peaks


def _other_frames(name: str, scan: RotationScan, table: PeakTable, choice: PeakChoice) -> Bools:
    """Return True for peaks outside of the frames of a rotation that are used."""
    items = left_out.of_rotation(choice.use_frames, name)
    if not items:
        return np.zeros(len(table), np.bool_)
    end = _last_frame(scan)
    frame = np.floor(place(scan, table)[0])
    out = np.ones(len(table), np.bool_)
    for _, first, last in map(left_out.parse, items):
        # A centre may be at the very end of the last frame.
        out &= ~((frame >= first) & (frame <= (last if last < end else np.inf)))
    return out


def require_choice(scans: Iterable[tuple[str, RotationScan]], choice: PeakChoice) -> None:
    """Refuse a choice of frames that a rotation does not have, and a wrong table of peaks.

    Raises
    ------
    HklflowError
        If a range of `use_frames` has none of the frames that its rotation uses, or the table is
        not valid.
    """
    for name, scan in scans:
        for item in left_out.of_rotation(choice.use_frames, name):
            _, first, last = left_out.parse(item)
            if last < scan.first or first > _last_frame(scan):
                raise HklflowError(
                    f"`orientation: use_frames` has {item}, but {name} uses the raw frames "
                    f"{scan.first} to {_last_frame(scan)}; correct the numbers"
                )
    if choice.leave_out_peaks is not None:
        read_listed(choice.leave_out_peaks)


def _last_frame(scan: RotationScan) -> int:
    return scan.first + scan.rotation.scan.n_frames - 1


def _inside(scan: RotationScan, table: PeakTable, choice: PeakChoice) -> Bools:
    """Return True for peaks in the regions that are left out."""
    out = np.zeros(len(table), np.bool_)
    _, slow, fast = place(scan, table)
    for region in map(mask_steps.core_shape, choice.leave_out_shapes):
        inside = region.inside(slow, fast)
        out = out | inside if region.op == "add" else out & ~inside
    return out


def _listed(
    names: Sequence[str],
    pairs: Sequence[tuple[RotationScan, PeakTable]],
    peaks: Sequence[ListedPeak],
    file: str,
) -> tuple[list[Bools], tuple[str, ...]]:
    """Return True for the peaks of a table, and a note on lines without a peak."""
    from scipy.spatial import cKDTree

    outs, without = [], [peak for peak in peaks if peak.rotation not in names]
    for name, (scan, table) in zip(names, pairs, strict=True):
        out = np.zeros(len(table), np.bool_)
        own = [peak for peak in peaks if peak.rotation == name]
        if own and len(table):
            factor = 1 if scan.binning is None else scan.binning.factor
            unit = np.array([1, factor, factor])
            tree = cKDTree(np.stack(place(scan, table), axis=1) / unit)
            at = np.array([[peak.frame, peak.slow, peak.fast] for peak in own]) / unit
            # The largest difference of frame, slow and fast counts.
            distance, nearest = (np.atleast_1d(values) for values in tree.query(at, p=np.inf))
            out[nearest[distance <= NEAR]] = True
            without += [peak for peak, far in zip(own, distance, strict=True) if far > NEAR]
        else:
            without += own
        outs.append(out)
    if not without:
        return outs, ()
    some = ", ".join(str(peak.line) for peak in without[:_TOLD])
    more = ", ..." if len(without) > _TOLD else ""
    return outs, (
        f"{len(without)} of {len(peaks)} lines of {file} for this scan match no peak (line "
        f"{some}{more}); write the table again with `hklflow peaks list`",
    )
