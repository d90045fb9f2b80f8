"""Powder calibration from bad starts, of spotty rings, of images by pyFAI and of a real one."""

import json

import fabio
import numpy as np
import pytest
from powder_images import PIXEL, SHAPE, TRUTH, WAVELENGTH, true_centre
from tests.truth.defaults import calibrate_powder

from hklflow.calibration.ring_fit import PARAMETERS
from hklflow.formats.poni import detector_from_poni
from hklflow.simulation.frames import Background, DetectorModel
from hklflow.simulation.powder import Grains, powder_image


def test_grains_are_where_they_are_said_to_be():
    """In their sectors, within the rings' profile, and nothing else changes."""
    model = DetectorModel((200, 200), 0.1, (100.0, 100.0), (200e-6, 200e-6))
    options = {"ring_width": 2e-3, "peak_counts": 500.0, "seed": 3}
    smooth = powder_image(model, 0.35, "CeO2", **options)
    none = powder_image(model, 0.35, "CeO2", grains=Grains(0.0), **options)
    np.testing.assert_array_equal(none, smooth)
    # So strong that noise does not matter, and so small that each is a pixel or few.
    spotty = powder_image(model, 0.35, "CeO2", grains=Grains(0.15, 1, 1e6, 0.1), **options)
    strong = np.argwhere(spotty > 1e5) + 0.5 - 100.0
    assert len(strong) > 10
    rings = 2 * np.arcsin(0.35 / 2 * np.sqrt([3, 4, 8, 11, 12, 16, 19, 20]) / 5.41165)
    angle = np.arctan(np.hypot(*strong.T) * 2e-3)
    off = np.abs(angle[:, None] - rings).min(axis=1)
    # 4 σ of the profile and a pixel.
    assert off.max() < 8e-3 + 2e-3
    # 36 sectors of each ring, 15 % of them.
    ring = np.abs(angle[:, None] - rings).argmin(axis=1)
    sector = np.floor(np.degrees(np.arctan2(*strong.T)) / 10)
    inside = np.tan(rings) * 0.1 < 100 * 200e-6
    seen = {(r, s) for r, s in zip(ring, sector, strict=True) if inside[r]}
    assert len(seen) / (36 * inside.sum()) == pytest.approx(0.15, abs=0.07)


@pytest.mark.slow
@pytest.mark.parametrize(("far", "along", "tilt"), [(5e-3, 0.7, 0.5), (-5e-3, 3.9, -0.5)])
def test_starts_that_are_wrong_and_rings_that_are_spotty(far, along, tilt):
    """5 mm, 2 px and 0.5° wrong; 15 % of the sectors hold few grains ten times as strong."""
    turn = np.radians(tilt) / np.sqrt(2)
    model = DetectorModel(
        (420, 400), 0.2, (205.0, 190.0), (200e-6, 200e-6), (turn, -turn),
        gaps=((200, 212, 0, 400),),
    )  # fmt: skip
    image = powder_image(
        model, 0.35, "LaB6", ring_width=1.2e-3, peak_counts=2000.0,
        background=Background(air=20.0), grains=Grains(0.15, 3, 10.0), seed=9,
    )  # fmt: skip
    slow, fast = model.beam_centre
    start = (slow + 2 * np.cos(along), fast + 2 * np.sin(along))
    result = calibrate_powder(
        image, image < 0, calibrant="LaB6", wavelength=0.35, pixel_size=(200e-6, 200e-6),
        orientation=2, distance=0.2 + far, beam_centre=start,
    )  # fmt: skip
    off = np.subtract(result.beam_centre, model.beam_centre)
    assert np.abs(off).max() < 0.01
    assert np.abs(off / result.beam_centre_sigma).max() < 4
    assert result.poni.dist == pytest.approx(0.2, rel=5e-5)
    assert abs(result.poni.dist - 0.2) < 4 * result.sigma["dist"]
    # About 15 % are left out, and the good ones stay.
    share = result.rejected / (result.rejected + len(result.points))
    assert 0.05 < share < 0.25
    assert result.reason == "settled"
    # The way is on record: from where it began, step by step.
    first, last = result.history[0], result.history[-1]
    assert abs(last.distance - 0.2) < 0.02 * abs(far)
    assert first.what == "search 4 rings"
    assert last.what == "profile"
    assert last.median_off < 0.1 * first.median_off


def test_an_image_of_pyfai():
    """A second simulator: pyFAI's own image of the calibrant, with noise."""
    from pyFAI.calibrant import get_calibrant
    from pyFAI.detectors import Detector as PyfaiDetector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    integrator = AzimuthalIntegrator(
        *(TRUTH[name] for name in PARAMETERS), 0.0, wavelength=WAVELENGTH * 1e-10,
        detector=PyfaiDetector(PIXEL, PIXEL, max_shape=SHAPE, orientation=3),
    )  # fmt: skip
    mean = get_calibrant("CeO2", wavelength=WAVELENGTH * 1e-10).fake_calibration_image(
        integrator, Imax=1000.0, Imin=20.0, resolution=0.12, peak_shape="gaussian"
    )
    image = np.random.default_rng(4).poisson(mean)
    result = calibrate_powder(
        image, np.zeros(SHAPE, bool), calibrant="CeO2", wavelength=WAVELENGTH,
        pixel_size=(PIXEL, PIXEL), orientation=3, distance=0.204,
        beam_centre=tuple(true_centre() + 1.4),
    )  # fmt: skip
    # pyFAI samples the profile at pixel centres: good to some parts in 100 000.
    assert np.abs(np.array(result.beam_centre) - true_centre()).max() < 0.01
    assert result.poni.dist == pytest.approx(TRUTH["dist"], rel=5e-5)


@pytest.mark.slow
@pytest.mark.real_data
def test_ceo2_on_a_pilatus(real_data):
    from pyFAI.detectors import detector_factory

    folder = real_data / "powder_ceo2_pilatus1m"
    image = fabio.open(str(folder / "CeO2_Pilatus1M.tif")).data
    bad = (detector_factory("Pilatus1M").mask > 0) | (image < 0)
    result = calibrate_powder(
        image,
        bad,
        calibrant="CeO2",
        wavelength=0.4066,
        pixel_size=(PIXEL, PIXEL),
        # As fabio reads it; the published PONI is for the image flipped up-down.
        orientation=3,
        # The header's: 3 mm and 30 pixels off.
        distance=0.21143,
        beam_centre=(515.77, 498.18),
    )
    reference = json.loads((folder / "reference.json").read_text())["analytic_flip"]
    assert result.rms_deg <= 0.006
    assert len(result.rings) == reference["n_rings_measured"]
    # Two refinements of one image by different points. The point of normal incidence
    # and the tilt trade against each other; the beam centre is much better known.
    expected = detector_from_poni(
        dist=reference["dist_m"],
        **{name: reference[name] for name in PARAMETERS[1:]},
        rot3=reference["rot3"],
        pixel1=PIXEL,
        pixel2=PIXEL,
        shape=image.shape,
    )
    beam = expected.intersect(np.array([0, 0, 1.0]))
    assert np.abs(np.array(result.beam_centre) - beam).max() < 0.3
    assert result.poni.dist == pytest.approx(reference["dist_m"], rel=3e-4)
    assert result.poni.poni1 == pytest.approx(reference["poni1"], abs=PIXEL)
    assert result.poni.poni2 == pytest.approx(reference["poni2"], abs=PIXEL)
    assert result.poni.rot1 == pytest.approx(reference["rot1"], abs=6e-4)
    assert result.poni.rot2 == pytest.approx(reference["rot2"], abs=6e-4)
