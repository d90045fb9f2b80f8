"""Metrics and gates: each error that is put in shows in its metric, and fails its gate."""

import json
from dataclasses import replace

import numpy as np
import pytest
from powder_images import PIXEL, SHAPE, TRUTH, WAVELENGTH, simulate, true_centre
from pydantic import ValidationError
from tests.truth.defaults import calibrate_powder

from hklflow.base.errors import HklflowError
from hklflow.calibration import assess
from hklflow.calibration.calibrants import read_calibrant
from hklflow.stage import write_json

LIMITS = assess.GateLimits(chi2=(0.3, 3.0))
X, Y, Z = np.eye(3)


def calibrated(image, bad, calibrant):
    return calibrate_powder(
        image,
        bad,
        calibrant=calibrant,
        wavelength=WAVELENGTH,
        pixel_size=(PIXEL, PIXEL),
        orientation=3,
        distance=0.201,
        beam_centre=tuple(true_centre() + 1.5),
    )


@pytest.fixture(scope="module")
def images():
    return {name: simulate(name, seed) for name, seed in (("CeO2", 21), ("Si", 22))}


@pytest.fixture(scope="module")
def found(images):
    return calibrated(*images["CeO2"], "CeO2")


@pytest.fixture(scope="module")
def metrics(found):
    return assess.metrics(found)


def failed(metrics, limits=LIMITS, accepted=None):
    return {g["name"] for g in assess.judge(metrics, limits, accepted) if not g["passed"]}


def moved(found, shift=(0, 0, 0), rotation=(0, 0, 0)):
    return assess.metrics(replace(found, detector=found.detector.moved(shift, rotation)))


def test_a_good_calibration_passes_and_survives_json(found, metrics, tmp_path):
    gates = assess.judge(metrics, LIMITS, metrics)
    assert [g["sentence"] for g in gates if not g["passed"]] == []
    write_json(tmp_path / "m.json", metrics)
    again = json.loads((tmp_path / "m.json").read_text())
    assert assess.judge(again, LIMITS, again) == gates
    for gate in gates:
        assert set(gate) == {"name", "value", "limit", "passed", "sentence"}
    # Modules and a refined wavelength were not given; everything else has its gate.
    names = set(assess.GateLimits.model_fields) - {"modules", "wavelength"}
    assert {g["name"] for g in gates} == names
    assert "not refined" in metrics["wavelength"]["source"]
    assert metrics["calibrant"]["sha256"] == read_calibrant("CeO2").sha256
    assert metrics["convergence"]["reason"] == "settled"
    # The start was 1.5 px wrong.
    first = metrics["convergence"]["history"][0]
    assert first["what"] == "search 4 rings"
    assert first["median_off_deg"] > metrics["convergence"]["history"][-1]["median_off_deg"]


def test_the_rings_are_as_simulated(metrics):
    # Gaussian of 1.1 px seen through pixels: their box is 1/12 px² more.
    pixel = np.degrees(PIXEL / TRUTH["dist"])
    for row in metrics["rings"][:3]:
        wide = 2.3548 * np.sqrt(1.1**2 + np.cos(np.radians(row["two_theta_deg"])) ** 4 / 12)
        assert row["fwhm_deg"] == pytest.approx(wide * pixel, rel=0.02)
        assert row["sector_fwhm_deg"] == pytest.approx(wide * pixel, rel=0.02)
        # Bragg's law of the cell.
        hkl = row["d_A"] ** -2 * 5.41165**2
        assert hkl == pytest.approx(round(hkl), rel=1e-4)
    pulls = [row["mean"] / row["sem"] for row in metrics["rings"]]
    assert 0.2 < np.sqrt(np.mean(np.square(pulls))) < 2


@pytest.mark.parametrize(("axis", "name", "sign"), [(X, "cos", 1), (Y, "sin", -1)], ids=["x", "y"])
def test_a_shift_of_the_centre_shows_in_the_first_harmonic(found, metrics, axis, name, sign):
    """Azimuth 0 is along -x: a detector too far towards +x is seen too far inside there."""
    m = moved(found, 0.4 * PIXEL * axis)
    for other, before in metrics["harmonics_px"].items():
        if other != "sigma":
            change = m["harmonics_px"][other] - before
            assert change == pytest.approx(-0.4 * sign if other == name else 0, abs=0.02)
    assert m["radial_scale"]["value"] == pytest.approx(0, abs=2e-4)
    assert "harmonics" in failed(m)
    assert assess.change(m, metrics)["tilt_deg"] == pytest.approx(0, abs=1e-9)


def test_a_wrong_distance_shows_in_the_slope(found, metrics):
    m = moved(found, 2e-4 * Z)
    before = metrics["radial_scale"]["value"]
    # Rings are where they were, but further away: seen at smaller angles.
    assert m["radial_scale"]["value"] - before == pytest.approx(-1e-3, rel=0.03)
    assert max(abs(m["harmonics_px"][n]) for n in ("cos", "sin", "cos2", "sin2")) < 0.02
    # tan 2θ = r / L and Bragg's law: Δd/d = cos 2θ cos² θ ΔL / L.
    for row in m["rings"][:4]:
        angle = np.radians(row["two_theta_deg"])
        expected = 1e-3 * np.cos(angle) * np.cos(angle / 2) ** 2
        assert row["mean"] == pytest.approx(expected, abs=5e-5)
    assert {"ring_pull", "ring_rms", "trend"} <= failed(m)
    change = assess.change(m, metrics)
    assert change["direct_distance_mm"] == pytest.approx(0.2, rel=1e-3)


def test_a_wrong_tilt_grows_outwards(found, metrics):
    m = moved(found, rotation=np.radians(0.5) * Y)
    assert assess.change(m, metrics)["tilt_deg"] == pytest.approx(0.5, rel=1e-3)
    assert failed(m) & {"harmonics", "ring_rms", "ring_pull"}


def test_pixels_that_are_not_square_show_in_the_second_harmonic(found, metrics):
    slow, fast = found.detector.pixel_size
    centre = found.detector.lab(*found.beam_centre)
    stretched = replace(found.detector, pixel_size=(1.001 * slow, fast))
    # The beam centre stays where it was.
    stretched = stretched.moved(centre - stretched.lab(*found.beam_centre))
    m = assess.metrics(replace(found, detector=stretched))
    # sin² χ = (1 - cos 2χ) / 2
    assert m["radial_scale"]["value"] == pytest.approx(5e-4, abs=2e-4)
    change = m["harmonics_px"]["cos2"] - metrics["harmonics_px"]["cos2"]
    radius = PIXEL**-1 * TRUTH["dist"] * np.tan(np.radians(9))
    assert change == pytest.approx(-5e-4 * radius, rel=0.3)
    assert "harmonics" in failed(m)


def test_sectors_that_contradict_each_other(found):
    odd = (found.points.ring + found.points.sector) % 2 == 1
    shifted = replace(found.points, slow=found.points.slow + np.where(odd, 0.05, 0.0))
    m = assess.metrics(replace(found, points=shifted))
    assert m["halves"]["beam_centre_px"][0] == pytest.approx(0.05, abs=0.02)
    assert "halves" in failed(m)
    few = found.points.keep(np.arange(len(found.points)) < 20)
    assert assess.metrics(replace(found, points=few))["halves"] is None
    assert "halves" in failed(assess.metrics(replace(found, points=few)))


def test_a_shifted_module(found, images):
    rows, columns = ((0, 160), (172, 330), (342, 500)), ((0, 238), (245, 480))
    modules = [(*row, *column) for row in rows for column in columns]
    flat = assess.metrics(found, modules=modules)
    assert "modules" not in failed(flat)
    assert sum(row["points"] for row in flat["modules"]) <= len(found.points)
    wrong = modules[4]
    slow, fast = found.points.slow, found.points.fast
    inside = (slow > wrong[0]) & (slow < wrong[1]) & (fast > wrong[2]) & (fast < wrong[3])
    points = replace(found.points, slow=slow + np.where(inside, 0.5, 0.0))
    m = assess.metrics(replace(found, points=points), modules=modules)
    row = m["modules"][4]
    # The module is down (slow) and left of the beam: 0.5 px along slow is mostly radial.
    middle = np.array([np.mean(slow[inside]), np.mean(fast[inside])]) - found.beam_centre
    along = middle / np.hypot(*middle)
    assert row["radial_px"] == pytest.approx(0.5 * along[0], abs=0.1)
    assert abs(row["tangential_px"]) == pytest.approx(0.5 * abs(along[1]), abs=0.15)
    assert row["radial_sigma_px"] < row["tangential_sigma_px"]
    assert "modules" in failed(m)


@pytest.mark.slow
def test_wrong_calibrants_fail(images):
    """Si has some rings of CeO2 (all scaled by 0.4 %) and lacks others."""
    lacking = assess.metrics(calibrated(*images["Si"], "CeO2"))
    assert "missing" in failed(lacking)
    assert 1 in lacking["coverage"]["missing_rings"]
    surplus = assess.metrics(calibrated(*images["CeO2"], "Si"))
    assert "unexplained" in failed(surplus)
    for image, name in (("CeO2", "LaB6"), ("Si", "LaB6")):
        try:
            m = assess.metrics(calibrated(*images[image], name))
        except HklflowError:
            continue
        assert failed(m)


def test_a_list_of_d_that_is_slightly_wrong(images, tmp_path):
    """A smooth distortion of the list, which no distance takes up."""
    d = read_calibrant("CeO2").d[:30]
    path = tmp_path / "bent.D"
    path.write_text("\n".join(f"{x * (1 + 1e-3 / x):.8f}" for x in d))
    m = assess.metrics(calibrated(*images["CeO2"], path))
    assert {"ring_pull", "trend"} & failed(m)


def test_purged_rings(images, metrics):
    calibrant = read_calibrant("CeO2", max_rings=5, purge_rings=[1])
    m = assess.metrics(calibrated(*images["CeO2"], calibrant))
    assert [row["ring"] for row in m["rings"]] == [0, 2, 3, 4]
    # A ring that is not wanted is neither missing nor unexplained.
    assert m["coverage"]["missing_rings"] == []
    assert m["coverage"]["unexplained"] == 0
    change = assess.change(m, metrics)
    assert np.abs(change["beam_centre_px"]).max() < 0.05


def test_coverage(found, metrics):
    coverage = metrics["coverage"]
    assert coverage["rings"] == len(found.rings)
    assert coverage["masked_fraction"] == pytest.approx(found.bad.mean())
    gaps = np.zeros(SHAPE, bool)
    gaps[160:172] = gaps[330:342] = True
    gaps[:, 238:245] = True
    # Beyond the gaps one pixel in 1000 is bad.
    beyond = assess.metrics(found, gaps=gaps)["coverage"]["masked_fraction"]
    assert beyond == pytest.approx(1e-3, rel=0.3)
    bad = found.bad | (np.arange(SHAPE[0])[:, None] < 100)
    assert "masked" in failed(assess.metrics(replace(found, bad=bad)))


def test_sectors_left_out(found, metrics):
    assert metrics["coverage"]["rejected_fraction"] < 0.05
    half = np.arange(len(found.points)) % 2 == 0
    halved = replace(found, points=found.points.keep(half), outliers=found.points.keep(~half))
    m = assess.metrics(halved)
    assert m["coverage"]["rejected_fraction"] == pytest.approx(0.5, abs=0.01)
    assert "rejected" in failed(m)


def test_limits(metrics):
    assert failed(metrics, assess.GateLimits(min_rings=99)) == {"min_rings"}
    assert failed(metrics, assess.GateLimits(rms=1e-6)) == {"rms"}
    off = assess.GateLimits(rms=None, min_rings=None, settled=False, median_off=None)
    names = {g["name"] for g in assess.judge(metrics, off)}
    assert not names & {"rms", "min_rings", "settled", "median_off", "chi2", "chi2_ratio"}
    with pytest.raises(ValidationError, match="rmss"):
        assess.GateLimits(rmss=1.0)
    with pytest.raises(ValidationError, match="greater than 0"):
        assess.GateLimits(harmonics=0.0)
    assert failed(metrics, assess.GateLimits(chi2=(3.0, 4.0))) == {"chi2"}
    unsettled = {**metrics, "convergence": {**metrics["convergence"], "reason": "median rose"}}
    assert failed(unsettled) == {"settled"}


def test_comparison_with_the_accepted_version(metrics):
    narrow = [{**row, "fwhm_deg": row["fwhm_deg"] / 1.3} for row in metrics["rings"]]
    accepted = {**metrics, "rings": narrow, "chi2": metrics["chi2"] / 2.5}
    assert failed(metrics, LIMITS, accepted) == {"fwhm_ratio", "chi2_ratio"}
    assert failed(accepted, LIMITS, metrics) == set()
    none = {**metrics, "rings": []}
    gates = {g["name"]: g for g in assess.judge(metrics, LIMITS, none)}
    assert gates["fwhm_ratio"]["value"] is None
    assert not gates["fwhm_ratio"]["passed"]
    assert "not measured" in gates["fwhm_ratio"]["sentence"]
