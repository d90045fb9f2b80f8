"""Indexed still frames: orientation, spots and integrated reflections of each frame."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import BEAM, Beam, Detector, lattice

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_SURE, _SMALL = 5.0, 5e-4  # deviation of the cells that is reported: errors, and relative


@dataclass(frozen=True, eq=False)
class StillFrames:
    """Frames with an accepted indexing; arrays (f,) except ``ub``.

    Attributes
    ----------
    number : int array
        Number of the frame in the raw file, from 0.
    ub : (f, 3, 3) array
        UB of the crystal in the lab frame, 1/Å with 2π.
    spots, indexed : int array
        Number of strong spots, and of the indexed ones.
    rmsd : array
        Root mean square distance of indexed spots from their predictions, pixels.
    """

    number: Integers
    ub: Floats
    spots: Integers
    indexed: Integers
    rmsd: Floats

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True, eq=False)
class StillSpots:
    """Observed or predicted spots of all frames; arrays (n,) except ``hkl``.

    Attributes
    ----------
    frame : int array
        Index of the frame in `StillFrames`.
    hkl : (n, 3) int array
    slow, fast : array
        Pixel coordinates on the image.
    intensity, variance : array
        Counts above the background, and their variance.
    """

    frame: Integers
    hkl: Integers
    slow: Floats
    fast: Floats
    intensity: Floats
    variance: Floats

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, keep: ArrayLike) -> "StillSpots":
        """Return the rows chosen by a mask or by indices."""
        rows = np.asarray(keep)
        return replace(self, **{c.name: getattr(self, c.name)[rows] for c in fields(self)})


@dataclass(frozen=True, eq=False)
class Stills:
    """Indexed frames of one sample, with one detector and beam.

    Attributes
    ----------
    frames : StillFrames
    spots : StillSpots
        Strong spots with indices.
    reflections : StillSpots
        Integrated reflections, at their predicted places.
    detector : Detector
    beam : Beam
    cell : tuple of 6 float
        Known cell, Å and degrees.
    space_group : str
    bad : (slow, fast) bool array or None
        True for bad pixels. None: not known.
    """

    frames: StillFrames
    spots: StillSpots
    reflections: StillSpots
    detector: Detector
    beam: Beam
    cell: tuple[float, ...]
    space_group: str
    bad: NDArray[np.bool_] | None = None

    def select(self, keep: ArrayLike) -> "Stills":
        """Return the frames chosen by a mask (f,), with their spots and reflections."""
        keep = np.asarray(keep, dtype=np.bool_)
        number = np.cumsum(keep) - 1

        def chosen(table: StillSpots) -> StillSpots:
            table = table.select(keep[table.frame])
            return replace(table, frame=number[table.frame])

        frames = StillFrames(
            **{c.name: getattr(self.frames, c.name)[keep] for c in fields(StillFrames)}
        )
        return replace(
            self,
            frames=frames,
            spots=chosen(self.spots),
            reflections=chosen(self.reflections),
        )


@dataclass(frozen=True, eq=False)
class Residuals:
    """Observed minus predicted positions of the spots, in pixels.

    Attributes
    ----------
    module : (n,) int array
        Module of each spot; 0 for a detector without modules.
    slow, fast : (n,) array
    """

    module: NDArray[np.int64]
    slow: Floats
    fast: Floats

    @property
    def rms(self) -> float:
        """Root mean square distance."""
        return float(np.sqrt(np.mean(self.slow**2 + self.fast**2)))


def joined(parts: Sequence[Stills]) -> Stills:
    """Join the frames of several batches of one sample."""
    starts = np.cumsum([0, *(len(part.frames) for part in parts)])
    frames = StillFrames(
        **{
            c.name: np.concatenate([getattr(part.frames, c.name) for part in parts])
            for c in fields(StillFrames)
        }
    )
    tables = []
    for name in ("spots", "reflections"):
        moved = [
            replace(getattr(part, name), frame=getattr(part, name).frame + start)
            for part, start in zip(parts, starts[:-1], strict=True)
        ]
        tables.append(
            StillSpots(
                **{
                    c.name: np.concatenate([getattr(table, c.name) for table in moved])
                    for c in fields(StillSpots)
                }
            )
        )
    return replace(parts[0], frames=frames, spots=tables[0], reflections=tables[1])


@dataclass(frozen=True)
class CellLength:
    """Length of the cells of the frames relative to the known cell, and its error."""

    value: float
    sigma: float

    def warnings(self) -> list[str]:
        """Return a warning if the cells differ from the known cell by a common factor."""
        off = self.value - 1
        if abs(off) < max(_SURE * self.sigma, _SMALL):
            return []
        longer, long = ("longer", "long") if off > 0 else ("shorter", "short")
        return [
            f"the cells of the frames are {abs(off):.2%} ± {self.sigma:.2%} {longer} than the "
            f"known cell, as if the stated distance were {abs(off):.2%} too {long}; correct the "
            "cell, the wavelength, or the distance and modules of the detector, which "
            "`refine_stills_detector` finds"
        ]


def cell_length(stills: Stills) -> CellLength:
    """Return the median length of the cells of the frames relative to the known cell.

    DIALS refines the cell of each frame, which takes up a wrong distance or wavelength.
    """
    known = abs(np.linalg.det(lattice.b_matrix(stills.cell)))
    lengths = np.cbrt(known / np.abs(np.linalg.det(stills.frames.ub)))
    middle = float(np.median(lengths))
    # The median of normal deviates has 1.25 times the error of their mean.
    spread = 1.25 * 1.4826 * float(np.median(np.abs(lengths - middle)))
    return CellLength(middle, spread / np.sqrt(len(lengths)))


def scattering(ub: Floats, hkl: Integers, k: float) -> tuple[Floats, Floats]:
    """Return scattering vectors q (n, 3) and excitation errors (n,), in 1/Å with 2π.

    The excitation error is ``|q + k z| - k``: positive outside of the Ewald sphere.

    Parameters
    ----------
    ub : (n, 3, 3) array
        UB of the frame of each reflection.
    hkl : (n, 3) int array
    k : float
        Wavenumber 2π/λ.
    """
    q = np.einsum("nij,nj->ni", ub, hkl)
    return q, np.linalg.norm(q + k * BEAM, axis=1) - k


def no_stills(detector: Detector, beam: Beam, cell: Sequence[float], space_group: str) -> Stills:
    """Return a batch without frames."""
    none, numbers = np.zeros(0), np.zeros(0, np.int64)
    spots = StillSpots(numbers, np.zeros((0, 3), np.int64), none, none, none, none)
    frames = StillFrames(numbers, np.zeros((0, 3, 3)), numbers, numbers, none)
    return Stills(frames, spots, spots, detector, beam, tuple(cell), space_group)
