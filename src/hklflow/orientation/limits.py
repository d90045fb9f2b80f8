"""What still counts as the parent's crystal: the limits of `accept`, as numbers.

Their defaults stand in the parameters of that stage.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODULE_SPOTS = 20
"""Spots that a module must have to be judged: fewer do not show their own scatter."""


@dataclass(frozen=True)
class Limits:
    """What still counts as the parent's crystal.

    Attributes
    ----------
    max_unindexed_rise : float
        By how much the fraction of peaks that are not indexed may exceed the parent's.
    max_absent : float
        By how much the fraction of indexed peaks on systematically absent reflections may
        exceed the parent's.
    min_absent_peaks : int
        Fewer peaks on absent reflections than this say nothing: one may be a peak of
        another crystal, or of half the wavelength.
    min_z : float
        Standard deviations by which a relation of the cell, as a = b, must be broken.
    min_strain : float
        And its relative size (angles in radians). The covariance knows the noise of the peaks,
        not the errors of the geometry that are common to all of them (tilt of the detector,
        directions of the axes, a sample off the centre); these mimic strains of about 1e-4,
        which thousands of peaks make "significant".
    max_expansion : float
        Largest credible linear thermal expansion in 1/K, three times as much for the volume.
        Scans without a temperature are not tested.
    min_jump : float
        Relative change of an axis that is allowed at equal temperature.
    told_shift, max_shift : float
        Rms, in pixels or frames, by which a motion during the scan may move spots before it is
        told, and before the scan is not accepted.
    told_bias : float
        Standard deviations by which cell or orientation may be off for it, or for peaks that are
        displaced along Q, before it is told.
    max_crystal : float
        Share of the peaks' intensity that may be on a second lattice of the same cell.
    told_module : float
        Pixels by which a module of the detector is shifted against the others, from which on it is
        told.
    told_chi2 : float
        Reduced χ² of a refinement from which on it is told, if no motion explains it.
    told_unindexed, max_unindexed : float
        Fraction of unindexed peaks, less its standard deviation, from which on it is told (those
        that have a name always are), and from which on the scan is not accepted, also a parent.
    told_cell, told_distance : float
        Relative differences of a parent's cell and of the detector's distance from what was given,
        from which on they are told.
    min_chi2 : float
        And below which it is: peaks' errors that are too large hide what moved.
    told_rmsd : (float, float)
        Rms in pixels and in frames, beyond the peaks' errors, by which indexed peaks may be off
        their places before it is told; see `orientation.misfit`.
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
        """Return True if a relation of the cell is broken: significantly, and not too little."""
        return bool(relation["z"] > self.min_z and relation["relative"] > self.min_strain)
