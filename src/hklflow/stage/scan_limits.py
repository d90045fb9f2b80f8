"""Section `accept` of the configuration: by which limits a scan is compared with its parent."""

from pydantic import Field, NonNegativeFloat

from hklflow import stage
from hklflow.orientation.limits import Limits


class ScanLimits(stage.Params):
    """What still counts as the parent's crystal; see `quality.gates` for the reasons."""

    max_unindexed_rise: float = Field(0.15, ge=0, le=1)
    """By how much the fraction of unindexed peaks may exceed the parent's."""
    max_absent: float = Field(0.02, ge=0, le=1)
    """By how much the fraction of peaks on systematically absent reflections may exceed the
    parent's."""
    min_absent_peaks: int = Field(3, ge=1)
    """Fewer peaks on absent reflections than this are not counted against a scan."""
    min_z: float = Field(5.0, gt=0)
    """Standard deviations by which a relation of the cell, as a = b, must be broken to count;
    also how many are allowed to a change of the cell."""
    min_strain: float = Field(2e-4, ge=0)
    """Relative size (of an angle: radians) that a broken relation must have to count: errors of
    the geometry mimic smaller ones."""
    max_expansion: float = Field(1e-4, ge=0)
    """Largest credible linear thermal expansion in 1/K; scans without a temperature are not tested
    for it."""
    min_jump: float = Field(1e-4, ge=0)
    """Relative change of a cell axis that is allowed at equal temperature."""
    told_shift: float = Field(0.01, ge=0)
    """Rms, in pixels or frames, by which a slip, a drift, a crystal off the axis or another motion
    during the scan leaves spots off the model, from which on it is told: what centroids are good
    for."""
    told_bias: float = Field(3.0, gt=0)
    """Standard deviations by which cell or orientation are off for such a motion, or for peaks that
    are displaced along Q, from which on it is told also where spots are off by less: what differs
    by three is taken to be different."""
    max_shift: float = Field(0.5, gt=0)
    """Likewise, from which on the scan is not accepted: half a pixel or frame blurs S(Q), and cell
    and orientation are off by many of their errors."""
    max_crystal: float = Field(0.1, ge=0, le=1)
    """Share of the peaks' intensity on a second lattice of the same cell, from which on the scan is
    not accepted."""
    told_module: float = Field(0.1, ge=0)
    """Shift of a module of the detector against the others in pixels, from which on it is told if
    it is no chance: what spots narrower than a pixel are good for."""
    told_chi2: float = Field(10.0, gt=1)
    """Reduced χ² of the refinement from which on it is told, where no motion explains it: residuals
    of three times the peaks' errors."""
    min_chi2: float = Field(0.1, ge=0, lt=1)
    """Reduced χ² below which a scan is doubtful: the peaks' errors are three times too large or
    more. Simulated frames without any error of the geometry reach 0.4: their strongest peaks are
    as good as the floor of the errors."""
    told_rmsd: tuple[NonNegativeFloat, NonNegativeFloat] = (2.0, 1.0)
    """Rms in pixels and in frames, beyond the peaks' own errors, by which indexed peaks may be off
    their places before a scan is doubtful: farther spots are masked and integrated beside their
    places. For orientations that are fixed; a refinement is judged by `told_chi2` before."""
    told_unindexed: float = Field(0.05, ge=0, le=1)
    """Fraction of the peaks that the refined lattice does not index, less its standard deviation,
    from which on it is told. Peaks that are no farther from the lattice than their errors count as
    indexed. Half the wavelength, powder rings and a parent's satellites are told always."""
    max_unindexed: float = Field(0.5, ge=0, le=1)
    """Fraction of the peaks that the refined lattice does not index, from which on a scan is not
    accepted, also a parent: most of what was measured is something else."""
    told_cell: float = Field(0.005, ge=0)
    """Relative difference of a parent's cell (mean of its lengths) from that of the table of
    samples, from which on it is told: more than a crystal expands in 300 K, but for soft ones."""
    told_distance: float = Field(0.002, ge=0)
    """Relative difference of the detector's distance that the peaks would rather have, from which
    on it is told; powder calibrations are ten times as good."""

    def limits(self) -> Limits:
        """Give them as the gates take them."""
        return Limits(**{name: getattr(self, name) for name in ScanLimits.model_fields})
