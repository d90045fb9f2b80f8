"""Section `accept` of the configuration: limits of the comparison of a scan with its parent."""

from pydantic import Field, NonNegativeFloat

from hklflow import stage
from hklflow.orientation.limits import Limits


class ScanLimits(stage.Params):
    """Limits within which a scan still fits the parent's crystal; reasons in `quality.gates`."""

    max_unindexed_rise: float = Field(0.15, ge=0, le=1)
    """Largest rise of the fraction of unindexed peaks above the parent's."""
    max_absent: float = Field(0.02, ge=0, le=1)
    """Largest rise, above the parent's, of the fraction of peaks on systematically absent
    reflections."""
    min_absent_peaks: int = Field(3, ge=1)
    """Fewer peaks on absent reflections than this are ignored."""
    min_z: float = Field(5.0, gt=0)
    """Standard deviations from which a relation of the cell, as a = b, counts as broken; also the
    allowed change of the cell, in standard deviations."""
    min_strain: float = Field(2e-4, ge=0)
    """Relative deviation (of an angle: radians) from which a relation counts as broken; errors of
    the geometry mimic smaller ones."""
    max_expansion: float = Field(1e-4, ge=0)
    """Largest credible linear thermal expansion in 1/K; scans without a temperature are not
    tested."""
    min_jump: float = Field(1e-4, ge=0)
    """Relative change of a cell axis that is allowed at equal temperature."""
    told_shift: float = Field(0.01, ge=0)
    """Rms displacement of spots from the model, in pixels or frames, by a motion during the scan (a
    slip, a drift, a crystal off the axis) from which the motion is reported. The default is the
    accuracy of centroids."""
    told_bias: float = Field(3.0, gt=0)
    """Error of cell or orientation, in standard deviations, from which its cause is reported: a
    motion (even if spots are displaced by less than `told_shift`), peaks that are displaced along
    Q, neighbouring peaks that are displaced alike, or a distance of the detector that does not fit
    (even below `told_distance`). Three standard deviations count as significant."""
    max_shift: float = Field(0.5, gt=0)
    """Rms displacement of spots by a motion from which the scan is not accepted: half a pixel or
    frame blurs S(Q), and cell and orientation are wrong by many standard deviations."""
    max_crystal: float = Field(0.1, ge=0, le=1)
    """Largest fraction of the peaks' intensity on a second lattice of the same cell; a scan with
    more is not accepted."""
    told_module: float = Field(0.1, ge=0)
    """Displacement of a detector module relative to the others, in pixels, from which it is
    reported if it is significant. The default is the accuracy of spots narrower than a pixel."""
    told_chi2: float = Field(10.0, gt=1)
    """Reduced χ² of the refinement from which it is reported, if no motion explains it. The default
    means residuals of three times the peaks' errors."""
    min_chi2: float = Field(0.1, ge=0, lt=1)
    """Reduced χ² below which a scan is doubtful, because the peaks' errors are at least three times
    too large. Simulated frames without geometry errors reach 0.4, because the centroids of their
    strongest peaks are better than the error floor."""
    told_rmsd: tuple[NonNegativeFloat, NonNegativeFloat] = (2.0, 1.0)
    """Rms deviation of indexed peaks from their predicted positions, in pixels and in frames,
    beyond the peaks' errors, from which a scan is doubtful: masks and integration would miss the
    spots. Used for fixed orientations; a refinement is judged by `told_chi2`."""
    told_unindexed: float = Field(0.05, ge=0, le=1)
    """Fraction of peaks that the refined lattice does not index, minus its standard deviation, from
    which it is reported. Peaks within their errors of the lattice count as indexed. Half the
    wavelength, powder rings and a parent's satellites are always reported."""
    max_unindexed: float = Field(0.5, ge=0, le=1)
    """Fraction of peaks that the refined lattice does not index from which a scan, also a parent,
    is not accepted: most of the measured peaks are something else."""
    told_cell: float = Field(0.005, ge=0)
    """Relative difference between a parent's cell (mean of its lengths) and the cell in the table
    of samples from which it is reported. Only soft crystals expand by more in 300 K."""
    told_distance: float = Field(0.002, ge=0)
    """Relative difference between the calibrated detector distance and the distance that fits the
    peaks, from which it is reported; powder calibrations are ten times more accurate."""

    def limits(self) -> Limits:
        """Return the limits for the gates."""
        return Limits(**{name: getattr(self, name) for name in ScanLimits.model_fields})
