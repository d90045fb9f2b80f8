"""Section `accept` of the configuration: limits of the comparison of a scan with its parent."""

from pydantic import Field, NonNegativeFloat

from hklflow import stage
from hklflow.orientation.limits import Limits


class ScanLimits(stage.Params):
    """Limits for the differences between a scan and the crystal of its parent.

    `quality.gates` explains the reasons.
    """

    max_unindexed_rise: float = Field(0.15, ge=0, le=1)
    """Largest increase of the fraction of unindexed peaks above the value of the parent."""
    max_absent: float = Field(0.02, ge=0, le=1)
    """Largest increase, above the value of the parent, of the fraction of peaks on systematically
    absent reflections.
    """
    min_absent_peaks: int = Field(3, ge=1)
    """Smallest number of peaks on absent reflections that is judged."""
    min_z: float = Field(5.0, gt=0)
    """Standard deviations above which a relation of the cell, such as a = b, counts as broken; also
    the allowed change of the cell, in standard deviations.
    """
    min_strain: float = Field(2e-4, ge=0)
    """Relative deviation (of an angle: radians) above which a relation counts as broken; errors of
    the geometry cause smaller deviations.
    """
    max_expansion: float = Field(1e-4, ge=0)
    """Largest credible linear thermal expansion in 1/K; scans without a temperature are not
    tested."""
    min_jump: float = Field(1e-4, ge=0)
    """Relative change of a cell axis that is allowed at equal temperature."""
    told_shift: float = Field(0.01, ge=0)
    """Rms displacement of spots from the model, in pixels or frames, above which its cause is
    reported: a motion during the scan (a slip, a drift, a crystal off the axis). The default is the
    accuracy of centroids.
    """
    told_bias: float = Field(3.0, gt=0)
    """Error of cell or orientation, in standard deviations, from which its cause is reported: a
    motion (even if spots are displaced by less than `told_shift`), peaks that are displaced along
    Q, neighbouring peaks that are displaced alike, or a distance of the detector that does not fit
    (even below `told_distance`, but by 1e-4 or more, because a wavelength is not known better).
    Three standard deviations count as significant."""
    max_shift: float = Field(0.5, gt=0)
    """Rms displacement of spots by a motion above which the scan is not accepted. Half a pixel or
    frame blurs S(Q), and cell and orientation are wrong by many standard deviations.
    """
    max_crystal: float = Field(0.1, ge=0, le=1)
    """Largest fraction of the intensity of the peaks on a second lattice with the same cell; a scan
    with more is not accepted.
    """
    told_module: float = Field(0.1, ge=0)
    """Displacement of a detector module relative to the other modules, in pixels, above which it is
    reported if it is significant. The default is the accuracy of spots narrower than a pixel.
    """
    told_chi2: float = Field(10.0, gt=1)
    """Reduced χ² of the refinement above which it is reported, if no motion explains it. The
    default means residuals of three times the errors of the peaks.
    """
    min_chi2: float = Field(0.1, ge=0, lt=1)
    """Reduced χ² below which a scan is doubtful, because the errors of the peaks are at least three
    times too large. Simulated frames without geometry errors reach 0.4, because the centroids of
    their strongest peaks are better than the error floor.
    """
    told_rmsd: tuple[NonNegativeFloat, NonNegativeFloat] = (2.0, 1.0)
    """Rms deviation of indexed peaks from their predicted positions, in pixels and in frames,
    beyond the errors of the peaks, above which a scan is doubtful: masks and integration would miss
    the spots. It is used for fixed orientations; a refinement is judged by `told_chi2`.
    """
    told_unindexed: float = Field(0.05, ge=0, le=1)
    """Fraction of peaks that the refined lattice does not index, minus its standard deviation,
    above which it is reported. Peaks on the lattice within their errors count as indexed. Half the
    wavelength, powder rings and satellites of a parent are always reported.
    """
    max_unindexed: float = Field(0.5, ge=0, le=1)
    """Fraction of peaks that the refined lattice does not index, above which a scan, also a parent,
    is not accepted: most of the measured peaks are something else.
    """
    told_cell: float = Field(0.005, ge=0)
    """Relative difference of the cell of a parent (mean of its lengths) from the cell in the table
    of samples, above which it is reported. Only soft crystals expand by more in 300 K.
    """
    told_distance: float = Field(0.002, ge=0)
    """Relative difference between the calibrated detector distance and the distance that fits the
    peaks, above which it is reported. Powder calibrations are ten times more accurate.
    """

    def limits(self) -> Limits:
        """Return the limits for the gates."""
        return Limits(**{name: getattr(self, name) for name in ScanLimits.model_fields})
