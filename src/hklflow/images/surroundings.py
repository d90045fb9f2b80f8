r"""Background that does not come from the crystal, measured without the crystal.

A run without the crystal counts ``n(p, z)`` in pixel p of frame z, with the incident intensity m(z)
(monitor times transmission of the attenuators). Its image is the maximum-likelihood estimate

.. math:: B(p) = \sum_z n(p, z) / \sum_z m(z), \qquad
          \operatorname{var} B(p) = \langle B\rangle / \sum_z m(z)

over the valid frames of the pixel. With the crystal, the same source counts ``m(z) f(z) B(p)``. The
factor f depends on the place of the source (Paalman & Pings, J. Appl. Phys. 33, 2635, 1962): it is
1 if the rays do not pass through the crystal, and the transmission T(z) of the crystal if they do.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.images import masks

Floats = NDArray[np.float64]

SeenThrough = Literal["not", "crystal", "part"]

# A pixel with fewer counts takes its variance from its neighbourhood of 5 x 5 pixels.
_OWN_COUNTS = 20
_REACH = 5
# Ratio to the median above which a pixel of the background cannot be used; the transform sums norms
# in units of 2⁻²² of the largest.
MOST_RATIO = 2000.0


# Counting errors above twice the median of a shell at which a Bragg peak begins.
_PEAK = 6.0


class Part(NamedTuple):
    """One background of a rotation.

    Attributes
    ----------
    name : str
    level : (slow, fast) array
        B: counts of a pixel for an incident intensity of 1; NaN: not known.
    variance : (slow, fast) array
        Variance of B; NaN: not known.
    factor : (n_frames,) array
        f: factor of B on each frame.
    error : float
        Relative error of the level, common to all pixels and frames.
    """

    name: str
    level: Floats
    variance: Floats
    factor: Floats
    error: float


class Valid(NamedTuple):
    """Limits of valid values of a pixel.

    Attributes
    ----------
    flag_from : float
        Smallest value that is a flag.
    saturated_from : float
        Smallest value of a saturated pixel.
    valid_from : float
        Smallest valid value.
    """

    flag_from: float = np.inf
    saturated_from: float = np.inf
    valid_from: float = 0.0


def mean_image(
    blocks: Iterable[NDArray[Any]],
    incident: Floats,
    bad: NDArray[np.bool_],
    valid: Valid,
    read_variance: NDArray[np.floating[Any]] | None = None,
) -> tuple[Floats, Floats]:
    """Return counts of each pixel for an incident intensity of 1, and their variance.

    A pixel that is saturated on any frame has no value, because the mean of its other frames would
    be too low. The variance of a pixel with few counts comes from the mean of its neighbourhood:
    its own counts may be 0. The mean itself is not smoothed.

    Parameters
    ----------
    blocks : iterable of (n, slow, fast) arrays
        Frames in order.
    incident : (n_frames,) array
        Monitor times transmission of the attenuators.
    bad : (slow, fast) bool array
        Masked pixels; they become NaN.
    read_variance : (slow, fast) array, optional
        Variance of the read noise of one frame.
    """
    total, weight, frames = np.zeros((3, *bad.shape))
    saturated = np.zeros(bad.shape, np.bool_)
    first = 0
    for block in blocks:
        good = ~masks.flagged(block, valid.flag_from, valid.valid_from)
        saturated |= (good & (block >= valid.saturated_from)).any(axis=0)
        m = incident[first : first + len(block), None, None]
        total += np.where(good, block, 0).sum(axis=0, dtype=np.float64)
        weight += (good * m).sum(axis=0)
        frames += good.sum(axis=0)
        first += len(block)
    use = ~bad & ~saturated & (weight > 0)
    level = np.divide(total, weight, out=np.full(bad.shape, np.nan), where=use)
    rate = np.where(total >= _OWN_COUNTS, level, _neighbourhood(total, weight, use))
    noise = 0.0 if read_variance is None else frames * read_variance
    variance = np.full(bad.shape, np.nan)
    np.divide(rate * weight + noise, weight**2, out=variance, where=use)
    return level, variance


def _neighbourhood(total: Floats, weight: Floats, use: NDArray[np.bool_]) -> Floats:
    """Return the rate of each pixel with its neighbours; at least as of one count in all."""
    from scipy.ndimage import uniform_filter

    sums = [
        uniform_filter(np.where(use, image, 0.0), _REACH, mode="constant") * _REACH**2
        for image in (total, weight)
    ]
    counts = np.maximum(np.rint(sums[0]), 1.0)
    rate: Floats = np.divide(counts, sums[1], out=np.zeros(total.shape), where=use)
    return rate


def too_strong(level: Floats) -> NDArray[np.bool_]:
    """Mark pixels whose background is so strong that the others would be rounded."""
    positive = level[level > 0]
    if len(positive) == 0:
        return np.zeros(level.shape, np.bool_)
    return np.asarray(level > MOST_RATIO * np.median(positive))


def frame_factor(seen: SeenThrough, transmission: Floats, share: float) -> Floats:
    """Return f of each frame.

    Parameters
    ----------
    transmission : (n_frames,) array
        T, the transmission of the crystal.
    share : float
        Share of the background that passes through the crystal, for ``part``.
    """
    share = {"not": 0.0, "crystal": 1.0, "part": share}[seen]
    return 1.0 - share + share * np.asarray(transmission, dtype=np.float64)


class Rings(NamedTuple):
    """Mean counts of a pixel in shells of |Q|, over some frames.

    Attributes
    ----------
    q : (n,) array
        Centres of the shells, 1/Å.
    pixels : (n,) array
        Number of good pixels.
    measured, measured_error : (n,) array
        Mean counts with the crystal, and their standard error.
    background : (n,) array
        Expected counts of all backgrounds.
    noise : (n,) array
        Standard error of ``background`` by the noise of the runs. A pixel stays in its shell on all
        frames, so this error does not become smaller with more frames of the crystal.
    level : (n,) array
        Standard error of ``background`` by the errors of the levels.
    """

    q: Floats
    pixels: Floats
    measured: Floats
    measured_error: Floats
    background: Floats
    noise: Floats
    level: Floats


def rings(
    blocks: Iterable[tuple[int, NDArray[Any]]],
    incident: Floats,
    parts: Sequence[Part],
    q: Floats,
    valid: Valid,
    n: int = 60,
    *,
    between_peaks: bool = False,
) -> Rings:
    """Compare measured counts with the background in shells of |Q|.

    Parameters
    ----------
    blocks : iterable of (int, (slow, fast) array)
        Number of a frame within the rotation, and its counts.
    incident : (n_frames,) array
        Incident intensity of the rotation.
    q : (slow, fast) array
        |Q| of the pixels, 1/Å.
    n : int
        Number of shells.
    between_peaks : bool
        Leave out the pixels of each frame that are far above the median of their shell.
    """
    known = np.isfinite(sum(part.level for part in parts))
    edges = np.linspace(q[known].min(), q[known].max() * (1 + 1e-9), n + 1) if known.any() else None
    if edges is None:
        return Rings(*np.zeros((7, 0)))
    shell = np.where(known, np.clip(np.digitize(q, edges) - 1, 0, n - 1), n)

    def summed(image: Floats) -> Floats:
        values = np.where(known, image, 0.0).ravel()
        return np.asarray(np.bincount(shell.ravel(), values, n + 1)[:n], np.float64)

    counts, valid_pixels, expected, noise, level = np.zeros((5, n))
    sums = np.zeros((len(parts), *q.shape))
    for frame, image in blocks:
        good = ~masks.flagged(image, min(valid.flag_from, valid.saturated_from), valid.valid_from)
        if between_peaks:
            good &= image <= _highest(image, shell, good & known)
        counts += summed(np.where(good, image, 0.0))
        valid_pixels += summed(good.astype(float))
        for i, part in enumerate(parts):
            sums[i] += good * (incident[frame] * part.factor[frame])
    for weight, part in zip(sums, parts, strict=True):
        mine = summed(weight * np.nan_to_num(part.level))
        expected += mine
        noise += summed(weight**2 * np.nan_to_num(part.variance))
        level += (part.error * mine) ** 2
    per = 1 / np.maximum(valid_pixels, 1)
    errors = [np.sqrt(np.maximum(x, 0)) * per for x in (counts, noise, level)]
    centres = (edges[:-1] + edges[1:]) / 2
    return Rings(
        centres, summed(np.ones(q.shape)), counts * per, errors[0], expected * per, *errors[1:]
    )


def _highest(
    image: NDArray[Any], shell: NDArray[np.int64], good: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the counts of each pixel above which it is taken for a part of a Bragg peak."""
    values, shells = image[good].astype(np.float64), shell[good]
    order = np.lexsort((values, shells))
    pixels = np.bincount(shells, minlength=shell.max() + 1)
    middle = np.cumsum(pixels) - (pixels + 1) // 2
    median = np.full(len(pixels), np.inf)
    median[pixels > 0] = values[order][middle[pixels > 0]]
    return np.asarray((2 * median + _PEAK * (np.sqrt(median) + 1))[shell])


# Numbers of splines of the smooth rest; their results must agree.
_SPLINES = (8, 12, 18)
_OUTLIER = 4.0


def fitted_scale(
    q: Floats, measured: Floats, errors: Floats, background: Floats
) -> tuple[float, float]:
    """Return the factor of a background and its standard error, from curves against |Q|.

    The rest is a smooth curve (cubic splines), so only structure of the background that is sharper
    than these splines determines the factor. Without such structure the error is large. The error
    is enlarged to the scatter of the curve, and contains the spread of three smoothnesses.

    Parameters
    ----------
    q, measured, errors, background : (n,) arrays
        Shells with good pixels.
    """
    found = [_scale(q, measured, errors, background, n) for n in _SPLINES]
    factors = np.array([factor for factor, _ in found])
    factor, error = found[len(found) // 2]
    return factor, float(np.hypot(error, factors.std(ddof=1)))


def roughness(q: Floats, background: Floats, errors: Floats) -> tuple[float, float]:
    """Return what splines leave of a curve, over its mean, and the same by counting errors.

    Only structure that is sharper than the splines determines the factor of a background.
    """
    splines = _splines(q, _SPLINES[1])
    rest = background - splines @ np.linalg.lstsq(splines, background, rcond=None)[0]
    mean = max(float(background.mean()), 1e-300)
    return float(np.sqrt(np.mean(rest**2))) / mean, float(np.sqrt(np.mean(errors**2))) / mean


def _splines(q: Floats, n: int) -> Floats:
    """Return the n cubic splines of the smooth rest at the shells."""
    from scipy.interpolate import BSpline

    degree = 3
    edges = np.linspace(q[0], q[-1], n - degree + 1)
    knots = np.concatenate([[edges[0]] * degree, edges, [edges[-1]] * degree])
    splines = BSpline.design_matrix(np.clip(q, edges[0], edges[-1]), knots, degree)
    return np.asarray(splines.toarray(), np.float64)


def _scale(
    q: Floats, measured: Floats, errors: Floats, background: Floats, n: int
) -> tuple[float, float]:
    design = np.column_stack([background, _splines(q, n)])
    weight = 1 / np.maximum(errors, 1e-12)
    use = np.ones(len(q), np.bool_)
    for _ in range(4):
        scaled = design[use] * weight[use, None]
        solution = np.linalg.lstsq(scaled, measured[use] * weight[use], rcond=None)[0]
        off = (measured - design @ solution) * weight
        spread = 1.4826 * np.median(np.abs(off[use]))
        use = np.abs(off) <= _OUTLIER * max(float(spread), 1e-12)
    scaled = design[use] * weight[use, None]
    covariance = np.linalg.pinv(scaled.T @ scaled)
    chi2 = float(np.sum(off[use] ** 2)) / max(int(use.sum()) - design.shape[1], 1)
    return float(solution[0]), float(np.sqrt(covariance[0, 0] * max(chi2, 1.0)))
