"""The real CeO2 image of a Pilatus 1M against the published geometry.

Both geometries are asked for the residuals of the same ring points: those that we fitted, and
those that pyFAI picks. The published one was refined by others, from other points.

python -m benchmarks.real_ceo2 [FOLDER of powder_ceo2_pilatus1m]
"""

import json
import os
import sys
import time
from pathlib import Path

import fabio
import numpy as np
from tests.truth.defaults import calibrate_powder

from hklflow.calibration import assess
from hklflow.calibration.calibrants import two_theta
from hklflow.calibration.detectors import known_detector
from hklflow.calibration.powder_cycles import beam_and_distance
from hklflow.calibration.ring_fit import two_theta_at
from hklflow.formats.poni import detector_from_poni

NAMES = ("poni1", "poni2", "rot1", "rot2", "rot3")


def pyfai_points(image, bad, found):
    """Points that pyFAI picks on the rings: slow, fast (pixel coordinates), ring."""
    from pyFAI.calibrant import get_calibrant
    from pyFAI.detectors import Detector
    from pyFAI.goniometer import SingleGeometry

    p = found.poni
    detector = Detector(p.pixel1, p.pixel2, max_shape=p.shape, orientation=p.orientation)
    detector.mask = bad.astype(np.int8)
    start = {name: getattr(p, name) for name in ("dist", *NAMES)}
    single = SingleGeometry(
        "real", np.where(bad, 0, image), detector=detector, geometry=start,
        calibrant=get_calibrant("CeO2", wavelength=found.wavelength * 1e-10),
    )  # fmt: skip
    single.extract_cp(max_rings=17, pts_per_deg=0.5)
    slow, fast, ring = np.array(single.geometry_refinement.data, dtype=float).reshape(-1, 3).T
    # pyFAI counts from pixel centres, we from corners.
    return slow + 0.5, fast + 0.5, ring.astype(int)


def main() -> None:
    """Print both."""
    default = Path(os.environ.get("HKLFLOW_TEST_DATA", "data")) / "powder_ceo2_pilatus1m"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    image = fabio.open(str(folder / "CeO2_Pilatus1M.tif")).data
    reference = json.loads((folder / "reference.json").read_text())["analytic_flip"]
    known = known_detector("Pilatus 1M")
    bad = known.gaps | (image < 0)
    known.check(image, bad | (image == 0))
    starts = {
        "header (30 px, 1.3 % off)": {"distance": 0.21143, "beam_centre": (515.77, 498.18)},
        "none": {},
    }
    for name, start in starts.items():
        clock = time.perf_counter()
        found = calibrate_powder(
            image, bad, calibrant="CeO2", wavelength=0.4066, pixel_size=known.pixel_size,
            orientation=3, **start,
        )  # fmt: skip
        seconds = time.perf_counter() - clock
        print(
            f"start {name}: {found.reason} after {len(found.history)} cycles, {seconds:.1f} s; "
            f"{len(found.points)} points on {len(found.rings)} rings, {found.rejected} left out"
        )
        centre, sigma = np.round(found.beam_centre, 4), np.round(found.beam_centre_sigma, 4)
        far, spread = 1e3 * found.direct_distance, 1e3 * found.direct_distance_sigma
        print(f"  beam centre {centre} ± {sigma} px, distance {far:.4f} ± {spread:.4f} mm")
    published = detector_from_poni(
        dist=reference["dist_m"], **{n: reference[n] for n in NAMES}, pixel1=172e-6, pixel2=172e-6,
        shape=image.shape,
    )  # fmt: skip
    ours = beam_and_distance(found.detector)
    theirs = beam_and_distance(published)
    tilt = assess.change(
        *({"normal": d.normal.tolist(), "beam_centre_px": [0, 0], "direct_distance_m": 0}
          for d in (found.detector, published))
    )["tilt_deg"]  # fmt: skip
    print("ours minus published: beam centre", np.round(ours[:2] - theirs[:2], 4), end=" px, ")
    print(f"distance {ours[2] / theirs[2] - 1:.2e} relative, tilt {tilt:.4f} deg apart")
    points = found.points
    sets = {
        f"our {len(points)} sector centres": (points.slow, points.fast, points.ring),
        "pyFAI's picked points": pyfai_points(image, bad, found),
    }
    for name, (slow, fast, ring) in sets.items():
        calculated = two_theta(found.calibrant.d[ring], found.wavelength)
        print(f"residuals of {name} in 2θ ({len(slow)} points), deg: rms, median of abs, mean")
        for what, detector in (("ours", found.detector), ("published", published)):
            off = np.degrees(two_theta_at(detector, slow, fast) - calculated)
            print(
                f"  {what:10s} {np.sqrt(np.mean(off**2)):.5f} {np.median(np.abs(off)):.5f} "
                f"{off.mean():+.5f}"
            )
    print("ring: mean Δ2θ of our points in millidegrees, ours and published")
    off = {
        what: 1e3 * np.degrees(
            two_theta_at(d, points.slow, points.fast)
            - two_theta(found.calibrant.d[points.ring], found.wavelength)
        )
        for what, d in (("ours", found.detector), ("published", published))
    }  # fmt: skip
    for ring in found.rings:
        own = points.ring == ring
        print(f"  {ring:2d} {off['ours'][own].mean():+7.3f} {off['published'][own].mean():+7.3f}")
    metrics = assess.metrics(found, modules=known.modules, gaps=known.gaps)
    for gate in assess.judge(metrics, assess.GateLimits()):
        print("passed" if gate["passed"] else "MISSED", gate["name"], "-", gate["sentence"])


if __name__ == "__main__":
    main()
