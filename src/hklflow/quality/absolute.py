"""Judge the absolute scale of S(Q): estimates by several methods, their refusals and agreement.

``S × factor`` is in electron units per cell. Each method gives the factor with its error, or one
sentence that says why it gives none and what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.absolute import RatioFit
from hklflow.bragg.high_angle import Expected, HighAngleFit

Floats = NDArray[np.float64]

BRAGG, HIGH_ANGLES, REFERENCE = "Bragg intensities", "high angles", "reference scan"

COMPLETE = 0.9
"""Measured fraction of a complete zone."""
_FEWEST = 30  # strong reflections, or zones
_LEAST_CORRELATION = 0.8
_SIGNIFICANT = 3.0  # standard deviations
_TREND = 0.03
_CORRELATED = 0.1  # error of the Bragg share: Debye-Waller factors and motions of neighbours
_COMPTON = 0.03  # error of Compton scattering: table, recoil, efficiency of the sensor
_TABLES = 0.005  # error of form factors and dispersion


@dataclass(frozen=True)
class Limits:
    """Limits of the estimates; see `hklflow.stages.absolute_scale.Settings`."""

    max_error: float
    min_level: float
    max_block_scatter: float


@dataclass(frozen=True)
class Estimate:
    """Factor by one method.

    Attributes
    ----------
    method : str
    factor, sigma : float or None
        None: refused.
    refusal : str
        Why the method gives no factor, and what to do; empty: not refused.
    figures : dict
    notes : tuple of str
    """

    method: str
    factor: float | None = None
    sigma: float | None = None
    refusal: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {
            "factor": self.factor,
            "sigma": self.sigma,
            "refusal": self.refusal or None,
            "notes": list(self.notes),
            **self.figures,
        }


def _accepted(
    method: str, ratio: float, error: float, limits: Limits, rest: dict[str, Any]
) -> Estimate:
    """Return the factor 1 / ratio with its relative error, or refuse the error."""
    if error > limits.max_error:
        return Estimate(
            method,
            refusal=f"the error of the factor is {error:.1%} (max_error {limits.max_error:.1%}); "
            "measure more symmetry-equivalent directions, or raise max_error",
            figures=rest,
        )
    return Estimate(method, 1 / ratio, error / ratio, figures=rest)


def from_bragg(fit: RatioFit, bent: RatioFit, limits: Limits) -> Estimate:
    """Judge the fit of Bragg intensities to a structure.

    Parameters
    ----------
    fit, bent : RatioFit
        Without and with extinction.
    """
    extinct = bent.extinction > _SIGNIFICANT * bent.extinction_sigma > 0
    used = bent if extinct else fit
    figures = used.figures()
    if refusal := _unfit(used, limits, "the structure of the CIF file"):
        return Estimate(BRAGG, refusal=refusal, figures=figures)
    error = float(np.hypot(used.log_scale_sigma, _TABLES))
    found = _accepted(BRAGG, float(np.exp(used.log_scale)), error, limits, figures)
    notes = []
    if extinct:
        change = float(np.exp(bent.log_scale - fit.log_scale) - 1)
        notes.append(
            f"extinction is fitted (x = {bent.extinction:.3g} ± {bent.extinction_sigma:.2g}); "
            f"without it the factor would be {change:+.1%} off"
        )
    if abs(used.delta_b) > max(0.1, _SIGNIFICANT * used.delta_b_sigma):
        notes.append(
            f"the Debye-Waller factors differ from the CIF file by {used.delta_b:+.2f} ± "
            f"{used.delta_b_sigma:.2f} Å²: another temperature, or absorption that depends on 2θ"
        )
    return replace(found, notes=tuple(notes))


def _unfit(fit: RatioFit, limits: Limits, model: str) -> str:
    """Return the reason why a fit of intensities gives no scale; empty if it does."""
    if fit.strong < _FEWEST:
        return (
            f"only {fit.strong} reflections are strong enough (I > 10 σ, at least {_FEWEST} are "
            "needed); expose longer, or reach higher |Q|"
        )
    if fit.correlation < _LEAST_CORRELATION:
        return (
            f"the intensities do not follow {model}: the correlation of ln I is "
            f"{fit.correlation:.2f} (at least {_LEAST_CORRELATION}); check structure, space group "
            "and indexing"
        )
    if fit.block_scatter > limits.max_block_scatter:
        return (
            f"the scale changes by {fit.block_scatter:.0%} (rms) with the angle of the scan "
            f"(max_block_scatter {limits.max_block_scatter:.0%}): the transmission of the sample "
            "is not known; measure more rotations, or give monitor and absorption, so that S(Q) "
            "has one scale"
        )
    return ""


def usable(model: Expected, measured: Floats, limits: Limits) -> NDArray[np.bool_]:
    """Return a mask of the zones at high angles that are measured completely."""
    return (model.level >= limits.min_level) & (measured > COMPLETE)


def from_high_angles(
    fit: HighAngleFit | None, reach: float, level: float, background: float | None, limits: Limits
) -> Estimate:
    """Judge the fit of the high angles.

    Parameters
    ----------
    fit : HighAngleFit or None
        None: too few zones.
    reach, level : float
        Largest |Q| (1/Å) of complete zones, and the level (diffuse scattering over the high-angle
        limit) there.
    background : float or None
        Error of the isotropic background that is left in S, as a fraction of S; None: not known.
    """
    if fit is None or fit.n < _FEWEST:
        return Estimate(
            HIGH_ANGLES,
            refusal=f"the data reach |Q| = {reach:.1f} 1/Å, where the diffuse scattering is "
            f"{level:.0%} of its high-angle limit (min_level {limits.min_level:.0%}, "
            f"{0 if fit is None else fit.n} complete zones of the lattice beyond it); measure to "
            "larger |Q|, with a shorter wavelength",
        )
    figures = {
        "ratio": fit.ratio,
        "ratio sigma": fit.sigma,
        "q range (1/Å)": [fit.q_min, fit.q_max],
        "zones": fit.n,
        "trend": fit.trend,
        "trend sigma": fit.trend_sigma,
        "share of Bragg scattering": fit.bragg,
        "share of Compton scattering": fit.compton,
    }
    if background is None:
        lowest = int(np.argmin(fit.shells[:, 1] + 2 * fit.shells[:, 2]))
        bound = 1 / (fit.shells[lowest, 1] + 2 * fit.shells[lowest, 2])
        return Estimate(
            HIGH_ANGLES,
            refusal="the isotropic background of S(Q) is not known: the factor is only known to be "
            f"larger than {bound:.4g}; subtract an empty run and set background_error to the error "
            "that is left, as a fraction of S",
            figures={**figures, "factor is larger than": float(bound)},
        )
    if abs(fit.trend) > max(_TREND + background, _SIGNIFICANT * fit.trend_sigma):
        return Estimate(
            HIGH_ANGLES,
            refusal=f"S(Q) does not fall like the scattering of the atoms: the ratio changes by "
            f"{fit.trend:+.1%} ± {fit.trend_sigma:.1%} from {fit.q_min:.1f} to {fit.q_max:.1f} "
            "1/Å; subtract the background, and check the corrections of the detector and the "
            "structure",
            figures=figures,
        )
    share = _CORRELATED * fit.bragg, _COMPTON * fit.compton, _TABLES
    error = float(np.sqrt(np.sum(np.square([fit.sigma / fit.ratio, background, *share]))))
    return _accepted(HIGH_ANGLES, fit.ratio, error, limits, figures)


def from_reference(
    forward: RatioFit, backward: RatioFit, factor: float, sigma: float, limits: Limits
) -> Estimate:
    """Judge the scale from the intensities of a reference scan with a known factor.

    Parameters
    ----------
    forward, backward : RatioFit
        Fit of the scan's intensities to those of the reference, and of the reference's intensities
        to those of the scan, which gives the error by the blocks of the reference.
    factor, sigma : float
        Factor of the reference, and its error.
    """
    figures = {**forward.figures(), "factor of the reference": factor}
    for fit in (forward, backward):
        if refusal := _unfit(fit, limits, "the intensities of the reference scan"):
            return Estimate(REFERENCE, refusal=refusal, figures=figures)
    ratio = float(np.exp(forward.log_scale)) / factor
    errors = forward.log_scale_sigma, backward.log_scale_sigma, sigma / factor
    return _accepted(REFERENCE, ratio, float(np.linalg.norm(errors)), limits, figures)


def volumes_note(fit: RatioFit, ratio: float | None) -> str:
    """Return a note if S(Q) of scan and reference has another ratio than the Bragg intensities.

    Parameters
    ----------
    ratio : float or None
        Ratio of S in common voxels, at equal temperatures.
    """
    if ratio is None or ratio <= 0:
        return ""
    off = float(np.log(ratio)) - fit.log_scale
    if abs(off) <= max(_TREND, _SIGNIFICANT * fit.log_scale_sigma):
        return ""
    return (
        f"S(Q) in common voxels is {np.expm1(off):+.1%} off the ratio of the Bragg intensities: "
        "the diffuse scattering or the background differs from the reference"
    )


@dataclass(frozen=True)
class AbsoluteScale:
    """Factor of a scan from all methods.

    Attributes
    ----------
    factor, sigma : float or None
        None: every method is refused.
    method : str
        Method of the factor.
    warnings : tuple of str
        Methods that disagree.
    """

    factor: float | None
    sigma: float | None
    method: str
    warnings: tuple[str, ...]


def combine(estimates: Sequence[Estimate]) -> AbsoluteScale:
    """Return the estimate with the smallest relative error, after comparison with the others."""
    given = [(e.factor, e.sigma, e) for e in estimates if e.factor and e.sigma]
    if not given:
        return AbsoluteScale(None, None, "", ())
    factor, sigma, best = min(given, key=lambda row: row[1] / row[0])
    warnings, wider = [], sigma / factor
    for other, error, estimate in given:
        difference = float(np.log(other / factor))
        expected = float(np.hypot(error / other, sigma / factor))
        if estimate is not best and abs(difference) > _SIGNIFICANT * expected:
            warnings.append(
                f"the absolute scale from {estimate.method} is {np.expm1(difference):+.1%} off "
                f"the scale from {best.method}, {abs(difference) / expected:.1f} times the error; "
                "check background, absorption and structure before you use the factor"
            )
            wider = max(wider, abs(difference))
    return AbsoluteScale(factor, factor * wider, best.method, tuple(warnings))
