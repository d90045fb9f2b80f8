r"""Follow a crystal with temperature: rocking width, relative intensities, jumps of the cell.

Each quantity is compared with the warmer scans or with the parent. Errors come from the scatter of
many reflections or from covariances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import BEAM, Rotation
from hklflow.peaks.table import NOT_WHOLE, PeakFlag, PeakTable

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Key = tuple[str, int, int, int, int, int]

STRONG = 20.0  # intensity over its standard deviation
_LEAST_ZETA = 0.2  # reflections with a smaller zeta cross the Ewald sphere too slowly
_UNRESOLVED = 0.25  # largest fraction of strong peaks that are contained in one frame
_MAD = 1.4826  # standard deviation of a normal distribution over its median |deviation|
_HUBER = 1.345
FEWEST = 10

# A departure is larger than five standard deviations and than a strain of 2e-4, ...
_N_SIGMA = 5.0
_STRAIN = 2e-4
# ... and larger than the change of the expansion coefficient of a normal solid, per kelvin (metals
# between 300 and 100 K: 2e-8 to 8e-8 /K²).
_CURVATURE = 5e-8
_NEIGHBOURS = 3


# ------------------------------------------------------------------------- one scan


def fraction_sigma(fraction: float, n: int) -> float:
    """Return the standard deviation of an observed fraction of n.

    It is the standard deviation of the Beta(k + ½, n - k + ½) distribution (Jeffreys' prior). For
    large n it equals the binomial value, and it is not zero if all or none of n were counted.
    """
    a, b = fraction * n + 0.5, (1 - fraction) * n + 0.5
    return float(np.sqrt(a * b / (n + 1) ** 2 / (n + 2)))


@dataclass(frozen=True)
class Reflections:
    """Peaks at integer hkl that contain one whole reflection; all arrays have the shape (n,).

    Attributes
    ----------
    hkl : (n, 3) int array
    side : int array
        Sign of ``ê · (ŝ × ẑ)``, which distinguishes the two crossings of the Ewald sphere.
    turn : int array
        Whole turns of the scan axis.
    s : array
        sin θ / λ, 1/Å.
    zeta : array
        ``|ê · (ŝ × ẑ)| / |ŝ × ẑ|``, see `hklflow.geometry.prediction`.
    intensity, var : array
        Counts over the frame's scale, divided by the Lorentz factor and multiplied by the step in
        radians, so that sweeps with different speeds and settings can be compared.
    width : array
        Standard deviation about the scan axis times ζ, radians: independent of the position of the
        reflection.
    single : bool array
        True if one frame contains the reflection, so that its width is not measured.
    """

    hkl: Integers
    side: Integers
    turn: Integers
    s: Floats
    zeta: Floats
    intensity: Floats
    var: Floats
    width: Floats
    single: NDArray[np.bool_]


def reflections(
    rotation: Rotation, ub: ArrayLike, peaks: PeakTable, scale: ArrayLike, tolerance: float = 0.15
) -> Reflections:
    """Select and index the peaks of one rotation that contain one whole reflection.

    Parameters
    ----------
    rotation : Rotation
        Refined geometry.
    ub : (3, 3) array
        UB in 1/Å with 2π.
    peaks : PeakTable
    scale : (n_frames,) array
        Divisor of the counts of each frame.
    tolerance : float
        Largest deviation from an integer in each of h, k, l.
    """
    use = (peaks.flags & int(NOT_WHOLE)) == 0
    use &= (peaks.intensity > 0) & (peaks.var_intensity > 0)
    use &= (peaks.frame >= 0) & (peaks.frame < rotation.scan.n_frames)
    scale = np.asarray(scale, dtype=np.float64)
    frame_index = np.clip(np.floor(peaks.frame), 0, len(scale) - 1).astype(np.int64)
    use &= scale[frame_index] > 0
    peaks, frame_index = peaks.select(use), frame_index[use]
    exact = rotation.hkl(ub, peaks.frame, peaks.slow, peaks.fast)
    hkl = np.rint(exact)
    q = rotation.q_lab(peaks.slow, peaks.fast)
    normal = np.cross(q, BEAM)
    signed = normal @ rotation.goniometer.scan_axis_lab()
    with np.errstate(divide="ignore", invalid="ignore"):
        zeta = np.abs(signed) / np.linalg.norm(normal, axis=1)
    keep = np.all(np.abs(exact - hkl) < tolerance, axis=1) & np.any(hkl != 0, axis=1)
    keep &= zeta > _LEAST_ZETA
    step = abs(rotation.scan.step)
    # A reflection stays in diffracting position for a time ∝ 1 / |ê · (ŝ × ẑ)|.
    factor = np.abs(signed) / rotation.beam.k * step / scale[frame_index]
    turn = np.floor(rotation.scan.angle(peaks.frame) / (2 * np.pi))
    return Reflections(
        hkl=hkl[keep].astype(np.int64),
        side=np.sign(signed[keep]).astype(np.int64),
        turn=turn[keep].astype(np.int64),
        s=np.linalg.norm(q[keep], axis=1) / (4 * np.pi),
        zeta=zeta[keep],
        intensity=(peaks.intensity * factor)[keep],
        var=(peaks.var_intensity * factor**2)[keep],
        width=(peaks.width_frame * step * zeta)[keep],
        single=(peaks.flags[keep] & int(PeakFlag.SINGLE_FRAME)) != 0,
    )


@dataclass(frozen=True)
class Estimate:
    """Value, standard deviation and number of observations."""

    value: float
    sigma: float
    n: int


def mosaic_width(observed: Sequence[Reflections]) -> Estimate:
    """Return the rocking width of the strong reflections of all rotations, crystal plus beam.

    The width is the median over reflections of: standard deviation about the scan axis, times ζ.
    Its standard deviation follows from the scatter, ``√(π / 2) · 1.4826 MAD / √n``.

    Returns
    -------
    Estimate
        Width in radians. NaN with fewer than ten strong reflections, or if more than a quarter of
        them are contained in one frame each.
    """
    none = np.zeros(0)
    strong = [r.intensity > STRONG * np.sqrt(r.var) for r in observed]
    width = np.concatenate([none, *(r.width[s] for r, s in zip(observed, strong, strict=True))])
    single = np.concatenate([none, *(r.single[s] for r, s in zip(observed, strong, strict=True))])
    if len(width) < FEWEST or single.mean() > _UNRESOLVED:
        return Estimate(float("nan"), float("nan"), len(width))
    middle = float(np.median(width))
    scatter = _MAD * float(np.median(np.abs(width - middle)))
    return Estimate(middle, float(np.sqrt(np.pi / 2) * scatter / np.sqrt(len(width))), len(width))


# ------------------------------------------------------------------------ two scans


@dataclass(frozen=True)
class RelativeScale:
    """``I / I_parent = scale · exp(-2 ΔB s²)`` with standard deviations; n reflections.

    ``debye_waller`` is ΔB = B - B_parent in Å². ``scatter`` is the standard deviation of
    ln(I / I_parent) beyond counting statistics.
    """

    scale: float
    scale_sigma: float
    debye_waller: float
    debye_waller_sigma: float
    scatter: float
    n: int


def relative_scale(
    scan: Mapping[str, Reflections], parent: Mapping[str, Reflections]
) -> RelativeScale:
    r"""Return scale and Debye-Waller difference of a scan relative to its parent.

    The same crossing of each reflection is compared, in rotations with the same name, so that
    effects of the position on the detector cancel. The model is

    .. math:: \ln(I / I_p) = \ln k - 2 \Delta B s^2, \qquad s = \sin\theta / \lambda

    fitted by Huber's M-estimator with weights ``1 / (var + τ²)``. τ is the scatter beyond counting
    statistics (changed structure factors, absorption), chosen so that the normalised residuals
    have a median deviation of 1 / 1.4826. The covariance is the sandwich estimate. Only the
    intensity in the parent decides if a reflection is strong enough: a limit for the scan would
    exclude damped reflections.

    Parameters
    ----------
    scan, parent : mapping
        Reflections of each rotation, by its name.

    Returns
    -------
    RelativeScale
        NaN with fewer than ten common reflections.
    """
    scan_values, parent_values = _by_key(scan), _by_key(parent)
    rows = np.array(
        [
            (s, value / strong, mine_var / value**2 + strong_var / strong**2)
            for key, (strong, strong_var, s) in parent_values.items()
            if strong > STRONG * np.sqrt(strong_var) and key in scan_values
            for value, mine_var, _ in [scan_values[key]]
        ]
    ).reshape(-1, 3)
    n = len(rows)
    if n < FEWEST:
        nan = float("nan")
        return RelativeScale(nan, nan, nan, nan, nan, n)
    design = np.stack([np.ones(n), -2 * rows[:, 0] ** 2], axis=1)
    fitted, covariance, tau = robust_line(design, np.log(rows[:, 1]), rows[:, 2])
    sigma = np.sqrt(np.diag(covariance))
    k = float(np.exp(fitted[0]))
    return RelativeScale(k, k * float(sigma[0]), float(fitted[1]), float(sigma[1]), tau, n)


def _by_key(rotations: Mapping[str, Reflections]) -> dict[Key, tuple[float, float, float]]:
    """Return intensity, variance and s of each crossing that was observed exactly once."""
    crossings: dict[Key, tuple[float, float, float]] = {}
    twice: set[Key] = set()
    for name, r in rotations.items():
        for hkl, side, turn, *values in zip(
            r.hkl.tolist(),
            r.side.tolist(),
            r.turn.tolist(),
            r.intensity.tolist(),
            r.var.tolist(),
            r.s.tolist(),
            strict=True,
        ):
            key = (name, *hkl, side, turn)
            if key in crossings:
                twice.add(key)
            crossings[key] = (values[0], values[1], values[2])
    return {key: value for key, value in crossings.items() if key not in twice}


def robust_line(design: Floats, y: Floats, var: Floats) -> tuple[Floats, Floats, float]:
    """Fit a linear model by Huber's M-estimator, with additional scatter; see `relative_scale`.

    Parameters
    ----------
    design : (n, p) array
    y, var : (n,) array
        Observed values and their variances.

    Returns
    -------
    parameters : (p,) array
    covariance : (p, p) array
        Sandwich estimate.
    tau : float
        Standard deviation of the scatter beyond ``var``.
    """
    tau2 = 0.0
    x: Floats = np.array([np.median(y), *np.zeros(design.shape[1] - 1)])
    for _ in range(50):
        previous = x
        for _ in range(100):
            total = var + tau2
            u = np.abs(y - design @ x) / np.sqrt(total)
            weight = np.minimum(1.0, _HUBER / np.maximum(u, 1e-12)) / total
            before = x
            normal, right = (design.T * weight) @ design, (design.T * weight) @ y
            x = np.asarray(np.linalg.solve(normal, right), dtype=np.float64)
            if np.allclose(x, before, rtol=1e-8, atol=1e-10):
                break
        tau2 = _additional_variance(y - design @ x, var)
        if np.allclose(x, previous, rtol=1e-6, atol=1e-8):
            break
    total = var + tau2
    u = (y - design @ x) / np.sqrt(total)
    inside = np.abs(u) < _HUBER
    bread = np.linalg.inv((design.T * (inside / total)) @ design)
    filling = (design.T * (np.clip(u, -_HUBER, _HUBER) ** 2 / total)) @ design
    freedom = len(y) / (len(y) - design.shape[1])
    return x, freedom * bread @ filling @ bread, float(np.sqrt(tau2))


def _additional_variance(residual: Floats, var: Floats) -> float:
    """Return τ² for which residual / √(var + τ²) has the median size 1 / 1.4826, at least 0."""

    def excess(tau2: float) -> float:
        return float(_MAD * np.median(np.abs(residual) / np.sqrt(var + tau2)) - 1)

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, float((_MAD * np.abs(residual).max()) ** 2)
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


# ----------------------------------------------------------------------- the series


@dataclass(frozen=True)
class Departure:
    """A value that departs from the trend of the warmer values, between two temperatures.

    ``deviation`` is relative to the range expected for smooth contraction. ``sigma`` is the
    standard deviation of ``deviation``, and ``strain`` is ``deviation`` divided by the change of
    the value for a strain of 1.
    """

    warmer: float
    colder: float
    deviation: float
    sigma: float
    strain: float


def departures(
    temperature: ArrayLike, value: ArrayLike, sigma: ArrayLike, unit_strain: float
) -> list[Departure]:
    """Find jumps and onsets in the temperature dependence of a cell parameter.

    From the highest temperature down, each value is compared with a weighted line through up to
    three nearest warmer neighbours. Expansion coefficients of normal solids decrease on cooling, so
    a value between the line and the nearest neighbour is not a departure. This range is widened by
    a change of the expansion coefficient of 5e-8 /K². A departure is outside this range by more
    than five standard deviations (of value and line together) and by more than a strain of 2e-4.
    After a departure a new line starts. The two highest temperatures have too few neighbours for a
    test.

    Parameters
    ----------
    temperature : (n,) array
        Kelvin, in any order; values at the same temperature are averaged.
    value, sigma : (n,) arrays
    unit_strain : float
        Change of the value for a strain of 1: the length itself, 3 V for a volume, 180/π
        for an angle in degrees.

    Returns
    -------
    list of Departure
        Departures from high to low temperature.
    """
    temperatures, y, error = _averaged(
        *(np.asarray(a, dtype=np.float64) for a in (temperature, value, sigma))
    )
    departed = []
    start = 0
    for i in range(2, len(temperatures)):
        near = slice(max(start, i - _NEIGHBOURS), i)
        distance = temperatures[near] - temperatures[i]
        if len(distance) < 2:
            continue
        # A floor for the errors: smaller errors do not show how well a line describes the trend.
        weight = 1 / (error[near] ** 2 + (_STRAIN * unit_strain / _N_SIGMA) ** 2)
        share = _extrapolation(distance, weight)
        line = float(share @ y[near])
        total = float(np.hypot(error[i], np.sqrt(np.sum((share * error[near]) ** 2))))
        curved = 0.5 * _CURVATURE * abs(float(share @ distance**2))
        low, high = sorted((line, float(y[i - 1])))
        deviation = float(y[i] - np.clip(y[i], low, high))
        strain = deviation / unit_strain
        beyond = abs(deviation) - curved * unit_strain
        if beyond > _N_SIGMA * total and beyond > _STRAIN * unit_strain:
            departed.append(
                Departure(
                    float(temperatures[i - 1]), float(temperatures[i]), deviation, total, strain
                )
            )
            start = i
    return departed


def _averaged(temperature: Floats, y: Floats, error: Floats) -> tuple[Floats, Floats, Floats]:
    """Return weighted means at distinct temperatures, high to low; σ includes their scatter."""
    levels = np.unique(temperature)[::-1]
    rows = []
    for level in levels:
        values, weight = y[temperature == level], 1 / error[temperature == level] ** 2
        mean = float(np.sum(weight * values) / weight.sum())
        chi2 = float(np.sum(weight * (values - mean) ** 2)) / max(len(values) - 1, 1)
        rows.append((mean, float(np.sqrt(max(chi2, 1.0) / weight.sum()))))
    table: Floats = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return levels, table[:, 0], table[:, 1]


def _extrapolation(distance: Floats, weight: Floats) -> Floats:
    """Return the weights of the neighbours in the value of a weighted line at distance 0."""
    design = np.stack([np.ones(len(distance)), distance], axis=1)
    shares: Floats = np.linalg.solve((design.T * weight) @ design, design.T * weight)[0]
    return shares
