"""Dead time that a photon counter does not yet correct, from runs with attenuator steps.

A counter with dead time τ that receives n photons per second counts

    m = n exp(-n τ)      (paralysable: each photon within a dead time starts a new dead time)
    m = n / (1 + n τ)    (non-paralysable)

A run with the transmission t receives n = t n₀(pixel). The fit refines n₀ of each pixel together
with τ, which all pixels share, by the Poisson quasi-likelihood of the counts. This likelihood
requires only the right mean, not Poisson statistics. The error of τ comes from the scatter of the
pixels' scores (sandwich estimator). The error is therefore also valid if the dead time makes the
counts more regular than photons, or if a correction makes them less regular.

If the detector corrects for its dead time, τ is the error of this correction and may be negative.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]
Model = Literal["paralysable", "non-paralysable"]
MODELS: tuple[Model, ...] = ("paralysable", "non-paralysable")

_TURNS = 60
_FEWEST = 100  # least counts of a pixel, summed over all runs, for use in the fit
_MOST = 300_000  # largest number of pixels in the fit; if there are more, every n-th is used


@dataclass(frozen=True)
class DeadTime:
    """Fitted dead time, which all pixels share.

    Attributes
    ----------
    model : str
    decided : bool
        True if the other model is excluded by 3 standard errors; far below saturation both
        models are the same.
    tau, error : float
        Dead time and its standard error, s; if `decided` is False the error includes the
        difference between the models.
    pixels : int
        Number of fitted pixels.
    chi2 : float
        Reduced χ² of all pixels and runs; above 1 if transmissions are wrong.
    largest_rate : float
        Photons per second and pixel: the 99.9th percentile of the strongest run.
    """

    model: Model
    decided: bool
    tau: float
    error: float
    pixels: int
    chi2: float
    largest_rate: float

    def observed(self, rate: Any) -> Any:
        """Return the counts per second at these rates (photons per second)."""
        return rate * _response(self.model, np.asarray(rate) * self.tau)[0]

    def limit(self, part: float = 0.01) -> float:
        """Return the rate (photons/s) above which more than this fraction is lost or added.

        The rate is infinite without dead time. It is calculated from |τ|, or from twice the error
        of τ if this is larger, because the data do not exclude such a dead time.
        """
        tau = max(abs(self.tau), 2 * self.error)
        x = -math.log1p(-part) if self.model == "paralysable" else part / (1 - part)
        return x / tau if tau else math.inf

    def lost(self) -> float:
        """Return the fraction of the photons that is lost at `largest_rate`."""
        return float(1 - _response(self.model, np.asarray(self.largest_rate * self.tau))[0])


def fit_dead_time(
    counts: Floats, frames: NDArray[np.integer[Any]], exposure: float, transmission: Sequence[float]
) -> DeadTime:
    """Fit both models and return the more probable one.

    Parameters
    ----------
    counts : (runs, pixels) array
        Sum of a pixel's counts over the frames of a run.
    frames : (runs, pixels) int array
        Number of frames in each sum.
    exposure : float
        Exposure time of a frame, s.
    transmission : (runs,) sequence
        Transmissions of the attenuator, relative to each other.

    Raises
    ------
    HklflowError
        If there are fewer than 2 transmissions, too few counts, or no solution.
    """
    t = np.asarray(transmission, np.float64)
    if len(np.unique(t)) < 2 or t.min() <= 0 or len(t) != len(counts):
        raise HklflowError(
            f"transmissions {t.tolist()} do not fit {len(counts)} runs; enter a positive "
            "transmission for each run, at least two of them different"
        )
    used = (frames > 0).all(axis=0) & (counts.sum(axis=0) >= _FEWEST)
    if used.sum() < 2:
        raise HklflowError(
            f"only {int(used.sum())} pixels have {_FEWEST} counts or more; measure longer or "
            "with more flux"
        )
    chosen = np.flatnonzero(used)
    chosen = chosen[:: 1 + (len(chosen) - 1) // _MOST]
    counts = counts[:, chosen].astype(np.float64)
    time = np.asarray(frames[:, chosen] * exposure, np.float64)
    fits = [_Fit(counts, time, t, model) for model in MODELS]
    difference = fits[0].likelihoods - fits[1].likelihoods
    scatter = float(np.sqrt(np.sum((difference - difference.mean()) ** 2)))
    best, other = fits if difference.sum() >= 0 else fits[::-1]
    decided = abs(float(difference.sum())) > 3 * scatter
    return DeadTime(
        best.model,
        decided,
        best.tau,
        best.error if decided else math.hypot(best.error, best.tau - other.tau),
        len(chosen),
        best.chi2,
        float(np.quantile(best.rate, 0.999) * t.max()),
    )


class _Fit:
    """Fit of one model by Fisher scoring: the rates of all pixels together with τ."""

    def __init__(self, counts: Floats, time: Floats, t: Floats, model: Model) -> None:
        self.model = model
        through = time * t[:, None]
        rate = counts.sum(axis=0) / through.sum(axis=0)
        tau = 0.0
        for _ in range(_TURNS):
            x = t[:, None] * rate * tau
            part, slope = _response(model, x)
            mean = through * rate * part
            by_rate = 1 + x * slope  # d ln(mean) / d ln(rate)
            by_tau = t[:, None] * rate * slope  # d ln(mean) / d tau
            left = counts - mean
            score_rate, score_tau = (left * by_rate).sum(axis=0), (left * by_tau).sum(axis=0)
            weight = (mean * by_rate**2).sum(axis=0)
            both = (mean * by_rate * by_tau).sum(axis=0)
            # Information about τ in a pixel after its rate is fitted.
            efficient = score_tau - both / weight * score_rate
            information = float(((mean * by_tau**2).sum(axis=0) - both**2 / weight).sum())
            step = float(efficient.sum()) / information
            # After a step beyond the maximum of the paralysable curve, the fit could not return.
            step = float(np.clip(step, -0.3 / (t.max() * rate.max()), 0.3 / (t.max() * rate.max())))
            tau += step
            rate = rate * np.exp(np.clip((score_rate - both * step) / weight, -1, 1))
            if abs(step) < 1e-6 / math.sqrt(information):
                break
        else:
            raise HklflowError(
                f"the fit of the {model} dead time does not converge; leave out runs in which "
                "the counts fall although the transmission rises, and check the transmissions"
            )
        self.tau, self.rate = tau, rate
        self.error = math.sqrt(float((efficient**2).sum())) / information
        self.chi2 = float((left**2 / mean).sum()) / max(left.size - left.shape[1] - 1, 1)
        self.likelihoods: Floats = (counts * np.log(mean) - mean).sum(axis=0)


def _response(model: Model, x: Floats) -> tuple[Floats, Floats]:
    """Return the fraction of photons counted at x = n τ, and d ln(fraction) / d x."""
    if model == "paralysable":
        return np.exp(-x), np.full_like(x, -1.0)
    return 1 / (1 + x), -1 / (1 + x)
