"""Read and write volumes on an hkl grid, as a whole or slab by slab."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.nexus.entry import open_entry, text
from hklflow.nexus.grid_writer import GridWriter

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Volume:
    """Accumulated counts and norm on a grid; also S and its errors, if calculated.

    Attributes
    ----------
    grid : Grid
    cell : (6,) array
        Cell, Å and degrees; it gives scale and angles of the axes.
    counts, norm : (l, k, h) arrays
    data, errors : (l, k, h) arrays or None
        S and σ(S); NaN if nothing was measured.
    notes : dict
        Notes of the stage, in words and numbers.
    """

    grid: Grid
    cell: Floats
    counts: Floats
    norm: Floats
    data: Floats | None = None
    errors: Floats | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class VolumeWriter(GridWriter):
    """Writer of counts and norm on an hkl grid; also of S(Q), which is then the default plot.

    Parameters
    ----------
    counts_dtype : numpy dtype
        Type of the stored counts.
    derived : bool
        True if S and its errors will also be written.
    fast : bool
        See `GridWriter`.
    variance : bool
        True if the variance of the counts will also be written; with read noise, or a subtracted
        background, the variance differs from the counts.
    extra : mapping of name to numpy dtype
        Additional arrays.
    exact : bool
        True: store norm, variance and background as float64.
    background : bool
        True if the expected background will also be written. It is already subtracted from the
        counts: the measured photons are ``counts + background``.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        cell: Floats,
        title: str,
        counts_dtype: Any,
        derived: bool,
        fast: bool = False,
        variance: bool = False,
        extra: Mapping[str, Any] | None = None,
        exact: bool = False,
        background: bool = False,
    ) -> None:
        # Single precision has a relative error of 6e-8; values that will be added must be exact.
        sums = np.float64 if exact else np.float32
        types: dict[str, Any] = {"counts": counts_dtype, "norm": sums}
        if variance:
            types["variance"] = sums
        if background:
            types["background"] = sums
        if derived:
            types = {"data": np.float32, "data_errors": np.float32} | types
        super().__init__(path, grid, cell, title, types | dict(extra or {}), fast=fast)


def write_volume(path: Path, volume: Volume, title: str) -> None:
    """Write a volume in memory to a file; see `VolumeWriter`."""
    counts = _smallest(volume.counts)
    derived = volume.data is not None and volume.errors is not None
    arrays = {"counts": counts, "norm": volume.norm}
    if volume.data is not None and volume.errors is not None:
        arrays |= {"data": volume.data, "data_errors": volume.errors}
    with VolumeWriter(path, volume.grid, volume.cell, title, counts.dtype, derived) as writer:
        writer.write(0, **arrays)
        writer.note(volume.notes)


def _smallest(counts: Floats) -> NDArray[Any]:
    """Return the counts as uint32, which takes half the space, if they are integers and fit."""
    whole = counts.size > 0 and counts.max() < 2**32 and bool(np.all(counts == np.rint(counts)))
    return counts.astype(np.uint32) if whole else counts


#: Notes on the errors of a subtracted background, which error bars do not contain.
BACKGROUND_NOTES = (
    "relative errors of the backgrounds, common to all voxels",
    "variance of the background in a sum of voxels, over the sum of their variances",
)


@dataclass(frozen=True)
class OpenVolume:
    """Volume on disk whose planes are read when needed; see `open_volume`."""

    grid: Grid
    cell: Floats
    group: h5py.Group

    @property
    def counts_are_whole(self) -> bool:
        """True if the counts are integers."""
        return bool(np.issubdtype(self.group["counts"].dtype, np.integer))

    @property
    def has_variance(self) -> bool:
        """True if the counts have a separate variance: read noise, or a subtracted background."""
        return "variance" in self.group

    @property
    def has_background(self) -> bool:
        """True if an expected background was subtracted from the counts."""
        return "background" in self.group

    def background(self, region: Any) -> Floats:
        """Return the background that was subtracted from the counts in a region (l, k, h)."""
        values: Floats = self.group["background"][region].astype(np.float64)
        return values

    def variance(self, region: Any) -> Floats:
        """Return the variance of the counts in a region (l, k, h); for photons, the counts."""
        name = "variance" if self.has_variance else "counts"
        values: Floats = self.group[name][region].astype(np.float64)
        return values

    @property
    def notes(self) -> dict[str, Any]:
        """Notes of the stage."""
        notes: dict[str, Any] = json.loads(text(self.group.parent["notes/notes"]))
        return notes

    @property
    def doubts(self) -> list[str]:
        """Doubts and failures of this volume and of the files from which it was made."""
        if "notes/notes" not in self.group.parent:
            return []
        notes = self.notes
        return list(
            dict.fromkeys(
                sentence
                for name in ("doubts", "failures", "warnings")
                for sentence in notes.get(name) or ()
            )
        )

    @property
    def not_in_sigma(self) -> list[str]:
        """Doubts about the fill that σ of this volume does not contain."""
        found: list[str] = self.notes.get("not in sigma", [])
        return found

    @property
    def corrections(self) -> list[str] | None:
        """Corrections that the norm of any frame contains; None: the file does not say."""
        if "notes/notes" not in self.group.parent:
            return None
        found: list[str] | None = self.notes.get("corrected for")
        return found

    def slab(self, first: int, last: int) -> tuple[Floats, Floats]:
        """Return counts and norm (last - first, k, h) of some planes, as float64."""
        planes = slice(first, last)
        return (
            self.group["counts"][planes].astype(np.float64),
            self.group["norm"][planes].astype(np.float64),
        )


class SideBySide:
    """Reader of planes of several volumes with the same grid; each chunk is decompressed once.

    Attributes
    ----------
    noisy : bool
        True if a volume has a separate variance: read noise, or a subtracted background.
    """

    def __init__(self, volumes: Sequence[OpenVolume]) -> None:
        names = ["counts", "norm"]
        self.noisy = any(volume.has_variance for volume in volumes)
        self._stored = [[volume.group[name] for volume in volumes] for name in names]
        if self.noisy:
            variances = ["variance" if v.has_variance else "counts" for v in volumes]
            self._stored.append([v.group[n] for v, n in zip(volumes, variances, strict=True)])
        self._memory = [
            np.empty(0, np.result_type(*(d.dtype for d in datasets))) for datasets in self._stored
        ]

    def strips(self, first: int, last: int) -> Iterator[tuple[slice, list[NDArray[Any]]]]:
        """Yield some planes in strips along k.

        Parameters
        ----------
        first, last : int
            First plane and end, multiples of `PLANES` or the end of the volume.

        Yields
        ------
        rows : slice
            Rows along k.
        sums : list of (n, last - first, rows, h) arrays
            Counts, norm and, if a volume has one, variance of the counts, as stored; the
            next strip overwrites them.
        """
        _, n_k, n_h = self._stored[0][0].shape
        step = self._stored[0][0].chunks[1]
        for k in range(0, n_k, step):
            rows = slice(k, min(k + step, n_k))
            shape = (len(self._stored[0]), last - first, rows.stop - k, n_h)
            size = int(np.prod(shape))
            for i, memory in enumerate(self._memory):
                if memory.size < size:
                    self._memory[i] = np.empty(size, memory.dtype)
            sums = [memory[:size].reshape(shape) for memory in self._memory]
            for strip, datasets in zip(sums, self._stored, strict=True):
                for i, dataset in enumerate(datasets):
                    dataset.read_direct(strip, np.s_[first:last, rows], np.s_[i])
            yield rows, sums


def background_notes(volumes: Sequence[OpenVolume], names: Sequence[str]) -> dict[str, Any]:
    """Return the errors by the backgrounds, which error bars do not contain; empty without.

    Parameters
    ----------
    names : sequence of str
        Names of the volumes in the notes.
    """
    subtracted = [(n, v.notes) for n, v in zip(names, volumes, strict=True) if v.has_background]
    if not subtracted:
        return {}
    counts = "photons minus `background`, the expected counts without the crystal"
    known = {
        key: {n: notes[key] for n, notes in subtracted if key in notes} for key in BACKGROUND_NOTES
    }
    return {"counts": counts} | known


def corrections_note(volumes: Sequence[OpenVolume]) -> dict[str, list[str]]:
    """Return the note on the corrections of a sum of volumes; empty if a volume does not say."""
    found = [volume.corrections for volume in volumes]
    known = [own for own in found if own is not None]
    if len(known) < len(found):
        return {}
    return {"corrected for": list(dict.fromkeys(name for own in known for name in own))}


def unlike_corrections(names: Sequence[str], volumes: Sequence[OpenVolume]) -> list[str]:
    """Return a sentence for each correction that only some volumes have.

    Volumes that do not state their corrections are not compared.
    """
    stated = {n: v.corrections for n, v in zip(names, volumes, strict=True)}
    known = {n: own for n, own in stated.items() if own is not None}
    return only_some(known, "S(Q)")


def only_some(corrections: Mapping[str, Sequence[str]], what: str) -> list[str]:
    """Return a sentence for each correction that only some scans have.

    Parameters
    ----------
    corrections : mapping of the name of a scan to its corrections
    what : str
        Quantity that is compared between the scans.
    """
    sentences = []
    for correction in dict.fromkeys(c for own in corrections.values() for c in own):
        lacking = [name for name, own in corrections.items() if correction not in own]
        having = [name for name in corrections if name not in lacking]
        if not lacking:
            continue
        few = len(having) <= len(lacking)
        which = f"only {', '.join(having)}" if few else f"all scans but {', '.join(lacking)}"
        sentences.append(
            f"{which} {'is' if len(having) == 1 else 'are'} corrected for {correction}: the change "
            f"of {what} between the scans contains the correction; give all scans the same "
            "corrections"
        )
    return sentences


def require_one_grid(volumes: Sequence[OpenVolume], cure: str) -> None:
    """Refuse volumes whose grid differs from the grid of the first.

    Parameters
    ----------
    cure : str
        End of the error message: what to do.

    Raises
    ------
    HklflowError
    """
    first = volumes[0]
    for volume in volumes:
        if not volume.grid.same_as(first.grid):
            raise HklflowError(
                f"{volume.group.file.filename} has another grid ({volume.grid.to_dict()}) than "
                f"{first.group.file.filename} ({first.grid.to_dict()}); {cure}"
            )


@contextmanager
def open_volume(path: Path, group: str = "transform") -> Iterator[OpenVolume]:
    """Open a volume without reading its arrays."""
    with open_entry(path) as entry:
        grid = Grid.from_dict(json.loads(text(entry["notes/grid"])))
        yield OpenVolume(grid, entry["sample/unit_cell"][()], entry[group])


def read_volume(path: Path) -> Volume:
    """Read a volume (counts and norm as float64)."""
    with open_entry(path) as entry:
        group = entry["transform"]
        derived = "data" in group
        return Volume(
            grid=Grid.from_dict(json.loads(text(entry["notes/grid"]))),
            cell=entry["sample/unit_cell"][()],
            counts=group["counts"][()].astype(np.float64),
            norm=group["norm"][()].astype(np.float64),
            data=group["data"][()] if derived else None,
            errors=group["data_errors"][()] if derived else None,
            notes=json.loads(text(entry["notes/notes"])),
        )
