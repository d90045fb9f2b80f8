"""Powder calibration against simulated calibrants: errors and pulls over seeds.

Each start is 5 mm, 2 px and 0.5° wrong. "spotty": 15 % of the sectors hold few strong grains.
The wrong calibrant must miss a gate, or be refused. A few images are made by pyFAI instead.

python -m benchmarks.powder_truth [SEEDS [CeO2|LaB6 [smooth|spotty|pyfai]]]
"""

import sys
from collections import Counter

import numpy as np
from tests.truth.defaults import calibrate_powder

from hklflow.base.errors import HklflowError
from hklflow.calibration import assess
from hklflow.calibration.ring_fit import PARAMETERS
from hklflow.formats.poni import Poni, poni_from_detector
from hklflow.geometry import Detector
from hklflow.simulation.frames import Background, DetectorModel, module_gaps
from hklflow.simulation.powder import Grains, powder_image

PIXEL = 200e-6
WAVELENGTH = 0.35
WRONG = {"CeO2": ("Si", "LaB6"), "LaB6": ("CeO2", "Si")}
SHAPE, GAPS = module_gaps((2, 2), (240, 230), (16, 8))


def truth(seed):
    """A detector with tilts up to 2°."""
    rng = np.random.default_rng(seed)
    tilt = np.radians(rng.uniform(-2, 2, 2) / np.sqrt(2))
    foot = (250 + 20 * rng.random(), 240.0)
    return DetectorModel(
        SHAPE, 0.2 + 0.02 * rng.random(), foot, (PIXEL, PIXEL), tuple(tilt), gaps=GAPS,
        n_hot=5, seed=seed,
    )  # fmt: skip


def calibrated(image, bad, calibrant, distance, centre, seed, orientation=2):
    """Start 5 mm and 2 px wrong; the tilts start at 0, up to 2° wrong."""
    rng = np.random.default_rng([seed, 2])
    angle = rng.uniform(0, 2 * np.pi)
    return calibrate_powder(
        image, bad, calibrant=calibrant, wavelength=WAVELENGTH, pixel_size=(PIXEL, PIXEL),
        orientation=orientation, distance=distance + 5e-3 * rng.choice([-1, 1]),
        beam_centre=(centre[0] + 2 * np.cos(angle), centre[1] + 2 * np.sin(angle)),
    )  # fmt: skip


def simulated(calibrant, seeds, grains):
    """Print errors and pulls; the wrong calibrants of the same images."""
    errors, pulls, distances, centres, centre_pulls, chi2 = [], [], [], [], [], []
    missed, reasons, wrong, rejected = Counter(), Counter(), Counter(), []
    for seed in range(seeds):
        model = truth(seed)
        image = powder_image(
            model, WAVELENGTH, calibrant, ring_width=1.2e-3, peak_counts=3000.0,
            background=Background(air=20.0), grains=grains, seed=seed,
        )  # fmt: skip
        bad = (image < 0) | model.hot_mask
        found = calibrated(image, bad, calibrant, model.distance, model.beam_centre, seed)
        detector = Detector(SHAPE, (PIXEL, PIXEL), model.origin, model.slow, model.fast)
        # The rings do not see the turn about the beam: the truth is compared without.
        true = poni_from_detector(detector, 2, WAVELENGTH)
        difference = np.array([getattr(found.poni, n) - getattr(true, n) for n in PARAMETERS])
        errors.append(difference)
        pulls.append(difference / np.array([found.sigma[n] for n in PARAMETERS]))
        centre = np.subtract(found.beam_centre, model.beam_centre)
        centres.append(centre)
        centre_pulls.append(centre / found.beam_centre_sigma)
        distance = detector.distance / detector.normal[2]
        distances.append(
            [
                found.direct_distance - distance,
                (found.direct_distance - distance) / found.direct_distance_sigma,
            ]
        )
        chi2.append(found.chi2)
        rejected.append(found.rejected / (found.rejected + len(found.points)))
        reasons[found.reason] += 1
        metrics = assess.metrics(found)
        missed.update(
            g["name"] for g in assess.judge(metrics, assess.GateLimits()) if not g["passed"]
        )
        for other in WRONG[calibrant]:
            wrong[other, verdict(image, bad, other, model, seed)] += 1
    print(f"{calibrant}, {'spotty' if grains else 'smooth'}: {seeds} seeds, ended {dict(reasons)}")
    print("  beam centre rms (px), largest", rms(centres), f"{np.abs(centres).max():.4f}")
    print("  distance rms (µm)            ", f"{1e6 * rms(distances)[0]:.2f}")
    print("  pulls of", ", ".join((*PARAMETERS, "centre slow", "centre fast", "distance")))
    all_pulls = np.hstack([pulls, centre_pulls, np.array(distances)[:, 1:]])
    print("    mean ", all_pulls.mean(axis=0))
    print("    width", rms(all_pulls), f"all {np.sqrt(np.mean(all_pulls**2)):.2f}")
    print("  reduced χ²", f"{min(chi2):.2f} to {max(chi2):.2f};", end=" ")
    print(f"points left out {100 * np.mean(rejected):.1f} %; gates missed {dict(missed)}")
    print("  wrong calibrant:", {" ".join(key): n for key, n in wrong.items()})


def verdict(image, bad, calibrant, model, seed):
    """What becomes of a wrong calibrant."""
    try:
        found = calibrated(image, bad, calibrant, model.distance, model.beam_centre, seed)
    except HklflowError:
        return "refused"
    gates = assess.judge(assess.metrics(found), assess.GateLimits())
    return "misses a gate" if any(not gate["passed"] for gate in gates) else "PASSES"


def by_pyfai(calibrant, seeds):
    """Errors on images that pyFAI simulates."""
    from pyFAI.calibrant import get_calibrant
    from pyFAI.detectors import Detector as PyfaiDetector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    centres, distances = [], []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, 3])
        rot1, rot2 = np.radians(rng.uniform(-2, 2, 2) / np.sqrt(2))
        # The beam near the middle, whatever the tilt.
        poni = Poni(
            0.2 + 0.02 * rng.random(), 0.05 + 0.2 * np.tan(rot2), 0.047 - 0.2 * np.tan(rot1), rot1,
            rot2, 0.0, PIXEL, PIXEL, SHAPE, 3, WAVELENGTH,
        )  # fmt: skip
        integrator = AzimuthalIntegrator(
            poni.dist, poni.poni1, poni.poni2, rot1, rot2, 0.0, wavelength=WAVELENGTH * 1e-10,
            detector=PyfaiDetector(PIXEL, PIXEL, max_shape=SHAPE, orientation=3),
        )  # fmt: skip
        mean = get_calibrant(calibrant, wavelength=WAVELENGTH * 1e-10).fake_calibration_image(
            integrator, Imax=2000.0, Imin=20.0, resolution=0.15, peak_shape="gaussian"
        )
        image = rng.poisson(mean)
        bad = np.zeros(SHAPE, bool)
        for s0, s1, f0, f1 in GAPS:
            bad[s0:s1, f0:f1] = True
        detector = poni.detector()
        true = [float(x) for x in detector.intersect(np.array([0, 0, 1.0]))]
        found = calibrated(image, bad, calibrant, poni.dist, true, seed, orientation=3)
        centres.append(np.subtract(found.beam_centre, true))
        distances.append(found.direct_distance - detector.distance / detector.normal[2])
    print(f"{calibrant}, image by pyFAI: {seeds} seeds, beam centre rms (px)", rms(centres), end="")
    print(f", distance rms {1e6 * rms(distances):.2f} µm, mean {1e6 * np.mean(distances):.2f} µm")


def rms(values):
    return np.sqrt(np.mean(np.square(values), axis=0))


def main() -> None:
    np.set_printoptions(precision=4, suppress=True)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for calibrant in sys.argv[2:3] or ("CeO2", "LaB6"):
        for kind in sys.argv[3:4] or ("smooth", "spotty", "pyfai"):
            if kind == "pyfai":
                by_pyfai(calibrant, max(seeds // 4, 1))
            else:
                simulated(calibrant, seeds, Grains() if kind == "spotty" else None)


if __name__ == "__main__":
    main()
