"""Response of the pixels from the frames of a scan itself, for an artificial normalisation.

Such a response contains whatever the scattering has in common with the pixels: `self_flat` takes
all structure of the mean scattering but its dependence on the scattering angle for the response of
the pixels, `snip` takes the smooth background against the scattering angle for it.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def clipped_counts(sums: Floats, light: Floats, sigmas: float) -> tuple[Floats, Floats]:
    """Return counts and monitor of each pixel between the reflections (slow, fast).

    Groups of frames that deviate from the median of the pixel by more than ``sigmas`` of their
    counting statistics are left out.

    Parameters
    ----------
    sums, light : (groups, slow, fast) array
        Counts and monitor of each group of frames; the monitor is 0 where nothing was measured.
    """
    measured = light > 0
    rates = np.full(sums.shape, np.nan)
    np.divide(sums, light, where=measured, out=rates)
    some = measured.any(axis=0)
    middle = np.zeros(sums.shape[1:])
    middle[some] = np.nanmedian(rates[:, some], axis=0)
    expected = middle * light
    kept = measured & (np.abs(sums - expected) <= sigmas * np.sqrt(np.maximum(expected, 1)))
    exposure, counts = (np.where(kept, values, 0).sum(axis=0) for values in (light, sums))
    return counts, exposure


def clipped_rates(sums: Floats, light: Floats, sigmas: float) -> tuple[Floats, Floats]:
    """Return the level of each pixel between the reflections, and its standard error.

    Parameters are those of `clipped_counts`.

    Returns
    -------
    tuple
        Counts per monitor and their errors (slow, fast); NaN for pixels that were not measured.
    """
    counts, exposure = clipped_counts(sums, light, sigmas)
    return rates_of(counts, exposure)


def rates_of(counts: Floats, exposure: Floats) -> tuple[Floats, Floats]:
    """Return counts per monitor and their standard errors; NaN for pixels without a monitor."""
    rate, error = np.full(exposure.shape, np.nan), np.full(exposure.shape, np.nan)
    known = exposure > 0
    np.divide(counts, exposure, where=known, out=rate)
    np.divide(np.sqrt(np.maximum(counts, 1)), exposure, where=known, out=error)
    return rate, error


def radial_profile(values: Floats, radius: Floats, good: Bools, bins: int) -> tuple[Floats, Floats]:
    """Return the centres of the bins of ``radius`` with pixels, and the mean values of the pixels.

    The strongest and the weakest tenth of the pixels in a bin are left out.
    """
    from scipy.stats import trim_mean

    chosen, at = values[good], radius[good]
    edges = np.linspace(at.min(), at.max(), bins + 1)
    number = np.clip(np.digitize(at, edges) - 1, 0, bins - 1)
    order = np.argsort(number, kind="stable")
    starts = np.unique(number[order], return_index=True)[1]
    parts = np.split(order, starts[1:])
    means = np.array([trim_mean(chosen[part], 0.1) for part in parts])
    # The mean radius, and not the middle of the bin: bins may be partly filled.
    return np.array([at[part].mean() for part in parts]), means


def snip(profile: Floats, width: int) -> Floats:
    """Return the smooth background of a profile, without peaks narrower than ``width`` points.

    Statistics-sensitive nonlinear iterative peak clipping with a decreasing window, on the log-log
    square root of the values (Ryan et al., Nucl. Instrum. Meth. B34, 396, 1988), with the clipping
    filter of fourth order for curved backgrounds (Morháč et al., Nucl. Instrum. Meth. A401, 113,
    1997).
    """
    scale = 1000.0 / max(float(np.median(profile)), 1e-300)
    y = np.log(np.log(np.sqrt(np.maximum(profile * scale, 0) + 1) + 1) + 1)
    for half in range(min(width, (len(y) - 1) // 2), 0, -1):
        line = (y[: -2 * half] + y[2 * half :]) / 2
        near = half // 2
        inside = y[half - near : len(y) - half - near] + y[half + near : len(y) - half + near]
        curve = (4 * inside - 2 * line) / 6
        y = y.copy()
        y[half:-half] = np.minimum(y[half:-half], np.maximum(line, curve) if near else line)
    return np.asarray(((np.exp(np.exp(y) - 1) - 1) ** 2 - 1) / scale)


def self_flat(values: Floats, radius: Floats, good: Bools, bins: int) -> Floats:
    """Return the values of the pixels relative to the mean at the same radius (slow, fast)."""
    at, profile = radial_profile(values, radius, good, bins)
    model = np.interp(radius, at, profile)
    flat = np.full(values.shape, np.nan)
    np.divide(values, model, where=good & (model > 0), out=flat)
    return np.asarray(flat / np.nanmean(flat[good]))


def snip_background(values: Floats, radius: Floats, good: Bools, bins: int, width: int) -> Floats:
    """Return the smooth background at each pixel, relative to its mean (slow, fast)."""
    at, profile = radial_profile(values, radius, good, bins)
    background = np.interp(radius, at, snip(profile, width))
    return np.asarray(background / background[good].mean())
