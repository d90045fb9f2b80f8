"""Compare what differs between repeated measurements with the background that was found.

Something that the fit does not know is left over in parts of the detector and ranges of frames: a
shadow that moves, a background that changes during the rotation, spots of another crystal. The fit
takes a part of it for a background, so that this may be wrong by several times what is left over.
The factor ln s hides an additive change where S(Q) is the same everywhere; therefore weak and
strong S(Q) are compared separately.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.transform.repeats import Records
from hklflow.transform.unmeasured import Fit, Places, Sweep

LIMIT = 0.0025
"""Largest part of the counts that may be left over (rms). In simulations that were broken on
purpose the background is wrong by 4 to 21 times the rest; 3 % of the level is the aim.
"""

_ANGLE = 20.0  # degrees of a region
_SECTORS, _SHELLS = 12, 6
_CLASSES = 3  # of S(Q)
_FEWEST = 50  # records of a region
_Z = 3.0


class Rest(NamedTuple):
    """What is left over in regions of the detector and ranges of frames, as parts of the counts.

    Attributes
    ----------
    size : float
        Rms without the noise.
    noise : float
        Rms of the noise of a region.
    excess : float
        Mean square over the noise's, less 1, in standard deviations.
    """

    size: float
    noise: float
    excess: float

    @property
    def contradicts(self) -> bool:
        """True if more is left over than noise and the limit allow."""
        return self.size > LIMIT and self.excess > _Z


def rest(records: Records, places: Places, found: Fit, sweeps: tuple[Sweep, ...]) -> Rest:
    """Return what the fit leaves over in regions: sectors and shells of |Q|, in ranges of frames.

    The noise of a region is that of the scatter of its records.

    Parameters
    ----------
    records, places : Records, Places
        Those of the fit.
    """
    region = _regions(records, places, sweeps)
    use = np.isfinite(found.off)
    n = int(region.max(initial=0)) + 1
    off, counts = found.off[use], records.counts[use].astype(np.float64)
    total, square, number, all_counts = (
        np.bincount(region[use], x, n) for x in (off, off**2, np.ones(len(off)), counts)
    )
    enough = (number >= _FEWEST) & (square > 0) & (all_counts > 0)
    if not enough.any():
        return Rest(0.0, np.inf, 0.0)
    own, variance = total[enough] ** 2, square[enough]
    # Regions with many counts determine the fit.
    weight = all_counts[enough] / all_counts[enough].sum()
    of_counts = weight / all_counts[enough] ** 2
    size = float(np.sum(of_counts * (own - variance)))
    noise = float(np.sum(of_counts * variance))
    deviation = float(np.sqrt(2 * np.sum((of_counts * variance) ** 2)))
    return Rest(np.sqrt(max(size, 0.0)), np.sqrt(noise), size / deviation)


def _regions(records: Records, places: Places, sweeps: tuple[Sweep, ...]) -> NDArray[np.int64]:
    """Return the number of the region of each record."""
    ranges = np.array([max(2, round(s.degrees / _ANGLE)) for s in sweeps])
    first = np.concatenate([[0], np.cumsum(ranges)])
    frames = np.array([s.frames for s in sweeps])
    own = ranges[records.rotation]
    share = np.clip(records.frame / frames[records.rotation], 0, 1)
    time = first[records.rotation] + np.minimum((share * own).astype(np.int64), own - 1)
    turn = (places.azimuth + np.pi) / (2 * np.pi) * _SECTORS
    sector = np.clip(turn.astype(np.int64), 0, _SECTORS - 1)
    span = max(float(np.ptp(places.q)), 1e-30)
    shell = np.minimum(((places.q - places.q.min()) / span * _SHELLS).astype(np.int64), _SHELLS - 1)
    return ((time * _SECTORS + sector) * _SHELLS + shell) * _CLASSES + _strength(records, shell)


def _strength(records: Records, shell: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class of S(Q) of each record's orbit, compared with its shell: 0 is weak."""
    of = np.cumsum(np.diff(records.voxel, prepend=records.voxel[:1]) != 0)
    rate, of_shell = (
        np.bincount(x, records.counts) / np.maximum(np.bincount(x, records.norm), 1e-30)
        for x in (of, shell)
    )
    ratio = rate[of] / np.maximum(of_shell[shell], 1e-30)
    ends = np.quantile(ratio, np.arange(1, _CLASSES) / _CLASSES)
    return np.digitize(ratio, ends)
