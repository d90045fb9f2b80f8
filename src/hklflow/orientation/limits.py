"""Limits of the stage `accept`, which compares a scan with its parent.

The parameters of the stage contain the default values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODULE_SPOTS = 20
"""Smallest number of spots to judge a module; from fewer spots the scatter is unknown."""


@dataclass(frozen=True)
class Limits:
    """Limits for the differences between a scan and the crystal of its parent.

    A value beyond a ``told_`` limit is reported; beyond a ``max_`` limit the scan is not accepted.

    Attributes
    ----------
    max_unindexed_rise : float
        Largest increase of the fraction of unindexed peaks above the value of the parent.
    max_absent : float
        Largest increase, above the value of the parent, of the fraction of indexed peaks on
        systematically absent reflections.
    min_absent_peaks : int
        Smallest number of peaks on absent reflections that is judged: a single peak may come from
        another crystal or from half the wavelength.
    min_z : float
        Standard deviations above which a relation of the cell, such as a = b, counts as broken.
    min_strain : float
        Relative deviation (angles in radians) above which a relation counts as broken. The
        covariance contains the noise of the peaks but not the geometry errors common to all peaks
        (tilt of the detector, directions of the axes, a sample off the centre). These errors act
        like strains of about 1e-4, which would be "significant" with thousands of peaks.
    max_expansion : float
        Largest credible linear thermal expansion in 1/K; three times this value for the volume.
        Scans without a temperature are not tested.
    min_jump : float
        Relative change of an axis that is allowed at equal temperature.
    told_shift, max_shift : float
        Rms displacement of spots, in pixels or frames, by a motion during the scan. Above the first
        value the motion is reported, above the second the scan is not accepted.
    told_bias : float
        Resulting error of cell or orientation, in standard deviations, from which a motion, a
        displacement of peaks along Q, or a wrong distance of the detector is reported. A distance
        must also be wrong by 1e-4 (`quality.gates.ACCURACY`).
    max_crystal : float
        Largest fraction of the intensity of the peaks on a second lattice with the same cell.
    told_module : float
        Displacement of a detector module relative to the others, in pixels, above which it is
        reported.
    told_chi2 : float
        Reduced χ² of a refinement above which it is reported, if no motion explains it.
    told_unindexed, max_unindexed : float
        Fraction of unindexed peaks, minus its standard deviation. Above the first value it is
        reported (identified peaks are always reported); above the second a scan, also a parent, is
        not accepted.
    told_cell, told_distance : float
        Relative differences above which they are reported: the cell of a parent from the given
        cell, and the detector distance from the calibration.
    min_chi2 : float
        Reduced χ² below which it is reported: overestimated errors of the peaks hide motions.
    told_rmsd : (float, float)
        Rms deviation of indexed peaks in pixels and in frames, beyond the errors of the peaks,
        above which it is reported; see `orientation.misfit`.
    """

    max_unindexed_rise: float
    max_absent: float
    min_absent_peaks: int
    min_z: float
    min_strain: float
    max_expansion: float
    min_jump: float
    told_shift: float
    told_bias: float
    max_shift: float
    max_crystal: float
    told_module: float
    told_chi2: float
    told_unindexed: float
    max_unindexed: float
    told_cell: float
    told_distance: float
    min_chi2: float
    told_rmsd: tuple[float, float]

    def broken(self, relation: Mapping[str, Any]) -> bool:
        """Return True if a relation of the cell is broken significantly and by enough."""
        return bool(relation["z"] > self.min_z and relation["relative"] > self.min_strain)
