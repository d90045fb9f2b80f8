"""Quality of a powder calibration: its metrics, and the gates that the metrics must pass.

`metrics` returns a JSON-ready table, `judge` compares the table with `GateLimits`, and `change`
returns the difference between two calibrations. The gates judge beam centre, distance along the
beam and d-spacings. They do not judge poni and rot: the two are correlated (near ±1).

Two errors cannot be detected in one image. A wrong wavelength changes the distance by the same
factor and gives equally good residuals; only at angles above some 15° a large error is seen in the
trend. A calibrant with the same rings on another scale has the same effect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from hklflow.base.described import Described
from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    from hklflow.calibration.powder import PowderCalibration

Floats = NDArray[np.float64]
Metrics = dict[str, Any]

Rectangle = tuple[int, int, int, int]
"""Module: slow start, slow stop, fast start, fast stop in pixels."""


class GateLimits(Described):
    """Limits that a powder calibration must meet; null switches a gate off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settled: bool = True
    """Require that beam centre and distance no longer change in the last cycle."""
    median_off: float | None = Field(0.05, gt=0)
    """Largest median of abs(Δ2θ), as a fraction of the rings' FWHM."""
    ring_pull: float | None = Field(5.0, gt=0)
    """Largest mean Δd/d of a ring, in its standard errors."""
    ring_rms: float | None = Field(1e-4, gt=0)
    """Largest weighted rms of the rings' mean Δd/d (no unit)."""
    trend: float | None = Field(3.0, gt=0)
    """Largest slope of Δd/d against 2θ, in its σ."""
    rms: float | None = Field(0.7, gt=0)
    """Largest rms of observed minus calculated 2θ, pixels."""
    sector_spread: float | None = Field(0.1, gt=0)
    """Largest spread of a ring's FWHM over azimuth, as a fraction of the FWHM (median of rings)."""
    fwhm_ratio: float | None = Field(1.2, gt=0)
    """Largest ratio of a ring's FWHM to its FWHM in the accepted version (median of the rings)."""
    chi2: tuple[float, float] | None = None
    """Smallest and largest reduced χ² of counting statistics. null: no limit, because real rings
    are spotty; χ² is then only compared with the accepted version."""
    chi2_ratio: float | None = Field(2.0, gt=0)
    """Largest ratio of the reduced χ² to the reduced χ² of the accepted version."""
    harmonics: float | None = Field(0.05, gt=0)
    """Largest amplitude of cos χ, sin χ, cos 2χ, sin 2χ in the residuals, pixels."""
    beam_centre_sigma: float | None = Field(0.05, gt=0)
    """Largest standard deviation of the beam centre, pixels."""
    distance_sigma: float | None = Field(5e-5, gt=0)
    """Largest relative standard deviation of the distance."""
    halves: float | None = Field(3.0, gt=0)
    """Largest difference between refinements of odd and even sectors, in its σ."""
    modules: float | None = Field(0.2, gt=0)
    """Largest shift of a module, pixels. Only shifts with a σ below a third of this limit count."""
    min_rings: int | None = Field(4, ge=1)
    """Least number of rings."""
    masked: float | None = Field(0.15, gt=0, le=1)
    """Largest fraction of masked pixels, not counting the gaps of a known detector."""
    rejected: float | None = Field(0.25, gt=0, le=1)
    """Largest fraction of ring sectors left out as outliers."""
    missing: float | None = Field(0.25, gt=0, le=1)
    """Largest fraction of missing rings, among the calibrant's rings between the first and the
    last observed ring."""
    unexplained: float | None = Field(0.05, gt=0)
    """Largest ratio of the highest peak that is not a calibrant ring to the highest ring."""
    wavelength: float | None = Field(5.0, gt=0)
    """Largest refined minus nominal wavelength, in its σ (only for images at several distances)."""


def metrics(
    calibration: "PowderCalibration",
    *,
    modules: Sequence[Rectangle] | None = None,
    gaps: NDArray[np.bool_] | None = None,
    given_wavelength: float | None = None,
) -> Metrics:
    """Compute the metrics of a calibration.

    Residuals are calculated with ``calibration.detector``, which may have replaced the refined
    detector.

    Parameters
    ----------
    calibration : PowderCalibration
    modules : sequence of (slow start, stop, fast start, stop), optional
        Modules of the detector, for the residuals of each module.
    gaps : (slow, fast) bool array, optional
        True for pixels in the gaps of the detector, which do not count as masked.
    given_wavelength : float, optional
        Wavelength before its refinement, Å.

    Returns
    -------
    dict
        Data for JSON; units are in the names. `rings`, for each ring: mean Δd/d with its standard
        error `sem`, rms, FWHM of the whole ring and of its sectors. `d_spacings`, for all rings:
        weighted rms, largest mean in its σ, slope. Other keys: `rms_px`; `harmonics_px` over
        azimuth; `radial_scale` (Δr / r); `chi2` of counting statistics; `halves` (odd compared with
        even sectors); `modules`; `coverage`; `convergence` with its history; `wavelength` with its
        source; beam centre, distance along the beam, tilt.
    """
    from hklflow.calibration import assess_rings as rings
    from hklflow.calibration.powder_cycles import FWHM, beam_and_distance

    residuals = rings.residuals_of(calibration)
    table = rings.ring_table(calibration, residuals)
    harmonics, scale = rings.harmonics(residuals)
    centre = beam_and_distance(calibration.detector)
    normal, width = calibration.detector.normal, np.median(calibration.points.width)
    return {
        "convergence": {
            "reason": calibration.reason,
            "cycles": len(calibration.history),
            "median_off_fwhm": float(np.median(np.abs(residuals.off)) / FWHM / width),
            "history": [cycle.to_dict() for cycle in calibration.history],
        },
        "calibrant": calibration.calibrant.record(),
        "wavelength": _wavelength(calibration, given_wavelength),
        "beam_centre_px": centre[:2].tolist(),
        "beam_centre_sigma_px": list(calibration.beam_centre_sigma),
        "direct_distance_m": float(centre[2]),
        "direct_distance_sigma_m": calibration.direct_distance_sigma,
        "normal": normal.tolist(),
        "tilt_deg": float(np.degrees(np.arccos(min(1.0, abs(float(normal[2])))))),
        "rings": table,
        "d_spacings": rings.d_spacings(table),
        "rms_px": float(np.sqrt(np.mean(residuals.off_px**2))),
        "sector_spread": _median([row["sector_spread"] for row in table]),
        "chi2": calibration.chi2,
        "extra_sigma_deg": calibration.extra_sigma_deg,
        "harmonics_px": harmonics,
        "radial_scale": scale,
        "halves": _halves(calibration),
        "modules": None if modules is None else rings.modules(residuals, modules),
        "coverage": rings.coverage(calibration, gaps),
    }


def judge(
    metrics: Mapping[str, Any], limits: GateLimits, accepted: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Compare metrics with limits.

    Parameters
    ----------
    metrics : mapping
        Metrics from `metrics`, or read back from JSON.
    limits : GateLimits
    accepted : mapping, optional
        Metrics of the accepted version. None: no comparison with an accepted version.

    Returns
    -------
    list of dict
        One dict for each gate: name, value, limit, passed, sentence. A gate fails if its value
        could not be measured (None).
    """
    gates = _of_fit(metrics, limits)
    gates += _of_geometry(metrics, limits)
    gates += _of_coverage(metrics["coverage"], limits)
    if (pull := metrics["wavelength"]["pull"]) is not None:
        gates += _most(limits, "wavelength", abs(pull), "refined minus nominal wavelength", " σ")
    if accepted is not None:
        widths = _ratio(_widths(metrics), _widths(accepted))
        chi2 = metrics["chi2"] / accepted["chi2"]
        gates += _most(
            limits, "fwhm_ratio", widths, "ratio of the rings' FWHM to the accepted version's"
        )
        gates += _most(limits, "chi2_ratio", chi2, "ratio of χ² to the accepted version's")
    return gates


def _most(
    limits: GateLimits, name: str, value: float | None, what: str, unit: str = ""
) -> list[dict[str, Any]]:
    """Return the gate of a largest value; empty if it is switched off."""
    limit = getattr(limits, name)
    if limit is None:
        return []
    passed = value is not None and value <= limit
    return [_gate(name, value, limit, passed, what, f"at most {limit:g}{unit}", unit)]


def _of_fit(m: Mapping[str, Any], limits: GateLimits) -> list[dict[str, Any]]:
    """Return the gates of the refinement and of its residuals."""
    most, rings, convergence = partial(_most, limits), m["d_spacings"], m["convergence"]
    reason, cycles = convergence["reason"], convergence["cycles"]
    gates: list[dict[str, Any]] = []
    if limits.settled:
        gates.append(
            {
                "name": "settled",
                "value": reason,
                "limit": "settled",
                "passed": reason in ("settled", "still"),
                "sentence": f"the refinement ended after {cycles} cycles: {reason}",
            }
        )
    gates += most("median_off", convergence["median_off_fwhm"], "median of Δ2θ over the FWHM")
    gates += most("ring_pull", rings["max_pull"], "largest mean Δd/d of a ring", " σ")
    gates += most("ring_rms", rings["rms"], "weighted rms of the rings' Δd/d")
    gates += most("trend", rings["slope_pull"], "slope of Δd/d against 2θ", " σ")
    gates += most("rms", m["rms_px"], "rms of Δ2θ", " px")
    gates += most("sector_spread", m["sector_spread"], "spread of the FWHM over azimuth")
    if limits.chi2 is not None:
        low, high = limits.chi2
        passed, allowed = low <= m["chi2"] <= high, f"from {low:g} to {high:g}"
        gates.append(_gate("chi2", m["chi2"], [low, high], passed, "reduced χ²", allowed))
    largest = max(abs(value) for name, value in m["harmonics_px"].items() if name != "sigma")
    return gates + most("harmonics", largest, "largest azimuthal harmonic of the residuals", " px")


def _of_geometry(m: Mapping[str, Any], limits: GateLimits) -> list[dict[str, Any]]:
    """Return the gates of beam centre, distance, halves and modules."""
    most = partial(_most, limits)
    relative = m["direct_distance_sigma_m"] / m["direct_distance_m"]
    halves = None if m["halves"] is None else m["halves"]["max_pull"]
    gates = most("beam_centre_sigma", max(m["beam_centre_sigma_px"]), "σ of the beam centre", " px")
    gates += most("distance_sigma", relative, "relative σ of the distance")
    gates += most("halves", halves, "difference between odd and even sectors", " σ")
    if m["modules"] is not None and limits.modules is not None:
        known = [
            abs(row[f"{name}_px"])
            for row in m["modules"]
            for name in ("radial", "tangential")
            if row[f"{name}_px"] is not None and row[f"{name}_sigma_px"] <= limits.modules / 3
        ]
        gates += most("modules", max(known, default=None), "largest shift of a module", " px")
    return gates


def _of_coverage(coverage: Mapping[str, Any], limits: GateLimits) -> list[dict[str, Any]]:
    """Return the gates of rings and pixels."""
    most, least = partial(_most, limits), limits.min_rings
    gates: list[dict[str, Any]] = []
    if least is not None:
        n = coverage["rings"]
        gates.append(_gate("min_rings", n, least, n >= least, "rings used", f"at least {least}"))
    gates += most("masked", coverage["masked_fraction"], "fraction of masked pixels")
    gates += most("rejected", coverage["rejected_fraction"], "fraction of ring sectors left out")
    gates += most(
        "missing", coverage["missing_fraction"], "fraction of the calibrant's rings missing"
    )
    return gates + most(
        "unexplained", coverage["unexplained"], "highest peak that is not a calibrant ring"
    )


def change(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return the difference between calibrations `a` and `b`; it is reported, but has no limit.

    Returns
    -------
    dict
        beam_centre_px (slow, fast) and direct_distance_mm: value of a minus value of b. tilt_deg:
        angle between the normals of the two detectors.
    """
    along = float(np.clip(np.dot(a["normal"], b["normal"]), -1.0, 1.0))
    across = float(np.linalg.norm(np.cross(a["normal"], b["normal"])))
    return {
        "beam_centre_px": np.subtract(a["beam_centre_px"], b["beam_centre_px"]).tolist(),
        "direct_distance_mm": 1e3 * (a["direct_distance_m"] - b["direct_distance_m"]),
        "tilt_deg": float(np.degrees(np.arctan2(across, along))),
    }


def _gate(
    name: str, value: Any, limit: Any, passed: bool, what: str, allowed: str, unit: str = ""
) -> dict[str, Any]:
    number = "not measured" if value is None else f"{value:.3g}{unit}"
    verb = "within" if passed else "outside"
    sentence = f"{what}: {number}, {verb} the limit ({allowed})"
    return {
        "name": name, "value": value, "limit": limit, "passed": bool(passed), "sentence": sentence
    }  # fmt: skip


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _widths(m: Mapping[str, Any]) -> dict[int, float]:
    return {row["ring"]: row["fwhm_deg"] for row in m["rings"] if row["fwhm_deg"] is not None}


def _ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    return _median([ours[ring] / theirs[ring] for ring in ours if ring in theirs])


def _wavelength(calibration: "PowderCalibration", nominal: float | None) -> dict[str, Any]:
    sigma = calibration.wavelength_sigma
    if sigma is None:
        source = (
            "not refined: in one image a wrong wavelength and a wrong distance look the same "
            "(nearly so at large angles); measure it, or take images at two or more distances"
        )
    else:
        source = "refined from images at several settings"
    pull = None if sigma is None or nominal is None else (calibration.wavelength - nominal) / sigma
    return {
        "value_A": calibration.wavelength, "sigma_A": sigma, "given_A": nominal, "pull": pull,
        "source": source,
    }  # fmt: skip


def _halves(calibration: "PowderCalibration") -> dict[str, Any] | None:
    """Refine odd and even sectors separately; return the differences in units of their σ.

    None if there are too few points.
    """
    from hklflow.calibration import ring_fit
    from hklflow.calibration.powder_cycles import beam_and_distance

    def described(poni: Any) -> Floats:
        detector = poni.detector()
        tilt = np.degrees(np.arcsin(detector.normal[:2]))
        return np.concatenate([beam_and_distance(detector), tilt])

    odd = (calibration.points.ring + calibration.points.sector) % 2 == 1
    values, spreads = [], []
    for half in (odd, ~odd):
        points = calibration.points.keep(half)
        if len(points) < 3 * len(ring_fit.PARAMETERS):
            return None
        # The scatter beyond counting statistics is determined from all points.
        total = replace(
            points, sigma=np.hypot(points.sigma, np.radians(calibration.extra_sigma_deg))
        )
        free = ring_fit.PARAMETERS
        try:
            poni, covariance = ring_fit.least_squares_fit(
                [points],
                [ring_fit.Setting()],
                [total.sigma],
                calibration.calibrant.d,
                calibration.poni,
                free,
            )
        except HklflowError:  # this half does not determine the geometry
            return None
        values.append(described(poni))
        spreads.append(np.diag(ring_fit.propagated(described, poni, free, covariance)))
    difference = values[0] - values[1]
    pulls = difference / np.sqrt(spreads[0] + spreads[1])
    return {
        "beam_centre_px": difference[:2].tolist(),
        "direct_distance_mm": 1e3 * float(difference[2]),
        "tilt_deg": difference[3:].tolist(),
        "pulls": pulls.tolist(),
        "max_pull": float(np.abs(pulls).max()),
    }
