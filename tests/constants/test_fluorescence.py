"""Fluorescence against simulated photons on ASICs whose gain is known."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.constants import files, simulate
from hklflow.constants.files import Constants, Quantity, write_part
from hklflow.constants.fluorescence_fit import FOUND, Fit, fill, fit_all
from hklflow.constants.fluorescence_model import expect, sharing
from hklflow.constants.gathered import About, GatheredWriter
from hklflow.constants.simulate_photons import Foil, deposit
from hklflow.constants.status import Bit, bad
from hklflow.stages import process_xray

CU, MO = 8.041, 17.444


def photons(truth, foil, n, rng):
    """Analogue and digital output (cells, n, ss, fs)."""
    both = [truth.respond(deposit(foil, n, truth.shape, rng), c, rng) for c in range(truth.cells)]
    return np.stack([one[0] for one in both]), np.stack([one[1] for one in both])


def write_dark(path, truth, kind, cells):
    """Constants as the dark gives them, without its errors."""
    threshold = 0.5 * (truth.level[1:] + truth.level[:-1])[:, cells]
    about = {"detector": "agipd", "module": 1, "asic": 2, "digital": kind}
    quantities = {
        "offset": Quantity(truth.offset[:, cells].astype(np.float32)),
        "noise": Quantity(truth.noise[:, cells].astype(np.float32)),
        "gain_threshold": Quantity(threshold.astype(np.float32)),
    }
    write_part(path, "dark", Constants(about | {"cell_ids": cells}, quantities))
    return path


def run(folder, truth, analog, digital, energy, kind="level", dark=None, **params):
    about = About("agipd", "xray", 1, 2, kind, ("7",))
    cells, n = analog.shape[:2]
    with GatheredWriter(
        folder / "x.h5", about, np.arange(cells), np.full(cells, n), truth.shape
    ) as writer:
        for cell in range(cells):
            writer.append(np.full(n, cell), np.arange(n), np.arange(n), analog[cell], digital[cell])
    process_xray.main(
        inputs=process_xray.Inputs(
            gathered=folder / "x.h5",
            dark=write_dark(folder / "d.nxs", truth, kind, dark or list(range(cells))),
        ),
        outputs=process_xray.Outputs(constants=folder / "x.nxs"),
        params=process_xray.Params(energy=energy, **params),
    )
    return files.read_part(folder / "x.nxs")


@pytest.fixture(scope="module")
def copper():
    """Six thousand frames of 2 memory cells, 0.25 photons each, of which a fifth is shared."""
    rng = np.random.default_rng(8)
    truth = simulate.agipd(rng, 2, (12, 12))
    return truth, *photons(truth, Foil(CU), 6000, rng)


def judge(found, truth, energy):
    gain, errors = found["gain_high"], found["gain_high_errors"]
    pulls = (gain - truth.gain[0]) / errors
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
    spread = 3.5 / np.sqrt(2 * pulls.size)
    assert 1 - spread < pulls.std() < 1.05 + spread
    assert np.mean(gain / truth.gain[0]) == pytest.approx(1, abs=0.003)
    np.testing.assert_allclose(found["photon_spacing"], gain * energy, rtol=1e-6)


def test_gain_is_the_true_one(copper, tmp_path):
    truth, analog, digital = copper
    found = run(tmp_path, truth, analog, digital, CU, memory=30.0)
    judge(found, truth, CU)
    width = (found["peak_width"] - np.hypot(truth.noise[0], 0)) / found["peak_width_errors"]
    assert abs(width.mean()) < 0.4
    assert np.median(found["chi2"]) == pytest.approx(1, abs=0.05)
    assert np.median(found["photons"]) == pytest.approx(0.8 * 0.25 * 6000, rel=0.05)
    # Of the photons a fifth is shared, with one pixel each: two parts of each.
    assert np.median(found["shared"]) == pytest.approx(2 * 0.2 * 0.25, rel=0.1)
    assert (found["fit_status"] == Fit.GOOD).all()
    assert not found["constants_status"].any()
    assert found["constants_status"].shape == (3, 2, 12, 12)
    assert not found.about["memory_cells_together"]


@pytest.mark.parametrize(
    ("foil", "params"),
    [
        (Foil(CU, sharing=0.0), {}),
        (Foil(CU, rate=0.8), {"max_photons": 3}),
        (Foil(MO, cloud=0.25), {"sharing": "cloud"}),
        (Foil(MO, beta_energy=19.607, beta_weight=0.15), {"beta_energy": 19.607}),
        (
            Foil(CU, beta_energy=8.905, beta_weight=0.12),
            {"beta_energy": 8.905, "beta_weight": 0.12},
        ),
    ],
    ids=["nothing shared", "bright", "diffused", "k-beta free", "k-beta known"],
)
def test_other_light(tmp_path, foil, params):
    rng = np.random.default_rng(11)
    truth = simulate.agipd(rng, 1, (14, 14))
    found = run(tmp_path, truth, *photons(truth, foil, 5000, rng), foil.energy, **params)
    judge(found, truth, foil.energy)
    assert not bad(found["constants_status"]).any()


def test_how_charge_is_shared_matters_and_chi2_tells(tmp_path):
    rng = np.random.default_rng(17)
    truth = simulate.agipd(rng, 1, (10, 10))
    frames = photons(truth, Foil(MO, cloud=0.25), 20000, rng)
    right, wrong = (run(tmp_path, truth, *frames, MO, sharing=kind) for kind in ("cloud", "even"))
    assert np.mean(right["gain_high"] / truth.gain[0]) == pytest.approx(1, abs=0.001)
    assert np.mean(wrong["gain_high"] / truth.gain[0]) < 0.998
    assert np.median(right["chi2"]) < np.median(wrong["chi2"]) - 0.08


def test_parts_of_a_photon_are_a_distribution():
    for kind in ("even", "cloud"):
        parts, steps = sharing(kind)
        assert steps.sum() == pytest.approx(0, abs=1e-12)
        density = np.cumsum(steps)[:-1]
        assert (density * np.diff(parts)).sum() == pytest.approx(1)
        np.testing.assert_allclose(parts, 1 - parts[::-1])


def test_k_beta_that_is_not_told_of_biases(tmp_path):
    rng = np.random.default_rng(12)
    truth = simulate.agipd(rng, 1, (10, 10))
    foil = Foil(CU, beta_energy=8.905, beta_weight=0.12)
    found = run(tmp_path, truth, *photons(truth, foil, 5000, rng), CU)
    assert np.mean(found["gain_high"] / truth.gain[0]) > 1.005


def test_jungfrau(tmp_path):
    rng = np.random.default_rng(13)
    truth = simulate.jungfrau(rng, 1, (12, 12))
    analog, digital = photons(truth, Foil(CU), 5000, rng)
    # A pixel that switched has another offset; its frames are none of the spectrum.
    analog[0, ::40, 5, 5], digital[0, ::40, 5, 5] = truth.offset[0, 0, 5, 5] + 500, 1
    found = run(tmp_path, truth, analog, digital, CU, "stage")
    judge(found, truth, CU)
    assert found["photons"][0, 5, 5] < 1.25 * np.median(found["photons"])


def test_few_photons_are_taken_from_all_memory_cells(tmp_path):
    rng = np.random.default_rng(14)
    truth = simulate.agipd(rng, 8, (10, 10))
    truth.gain[0] = truth.gain[0][:1]  # memory cells of a pixel alike
    truth.noise[0] = truth.noise[0][:1]
    found = run(tmp_path, truth, *photons(truth, Foil(CU), 800, rng), CU)
    assert found.about["memory_cells_together"]
    one = {name: item.values for name, item in found.quantities.items()}
    assert (one["gain_high"] == one["gain_high"][:1]).all()
    pulls = ((one["gain_high"] - truth.gain[0]) / one["gain_high_errors"])[0]
    assert abs(pulls.mean()) < 0.4
    assert 0.85 < pulls.std() < 1.2
    assert found.quantities["gain_high"].attrs["fit_of"] == "pixel over all memory cells"
    assert (one["constants_status"][0] == Bit.INTERPOLATED).all()
    apart = run(tmp_path, truth, *photons(truth, Foil(CU), 800, rng), CU, photons_per_cell=0.0)
    assert not apart.about["memory_cells_together"]
    ratio = np.nanmedian(apart["gain_high_errors"]) / np.nanmedian(one["gain_high_errors"])
    assert ratio == pytest.approx(np.sqrt(8), rel=0.25)


def test_a_wrong_foil_scales_the_gain_and_is_noticed_where_it_is_known(copper, tmp_path):
    truth, analog, digital = copper
    found = run(tmp_path, truth, analog, digital, MO)
    assert np.median(found["gain_high"] / truth.gain[0]) == pytest.approx(CU / MO, rel=0.01)
    with pytest.raises(HklflowError, match=r"expected range 6 to 10.*set to 17.444 keV"):
        run(tmp_path, truth, analog, digital, MO, expected_gain=(6.0, 10.0))
    run(tmp_path, truth, analog, digital, CU, expected_gain=(6.0, 10.0))


def test_odd_pixels_say_what_they_are(copper, tmp_path):
    truth, analog, digital = (
        copper[0],
        copper[1].copy(),
        copper[2],
    )
    rng = np.random.default_rng(15)
    size = analog.shape[1]
    analog[0, :, 2, 2] = 0
    analog[0, :, 3, 3] = np.rint(rng.normal(truth.offset[0, 0, 3, 3], 8, size))  # no light
    shift = rng.normal(0, 60, size)  # noise wide as the spacing
    analog[1, :, 4, 4] = (analog[1, :, 4, 4] + shift).clip(0)
    found = run(tmp_path, truth, analog, digital, CU)
    status, code = found["constants_status"][0], found["fit_status"]
    assert status[0, 2, 2] & (Bit.FF_NO_ENTRIES | Bit.FF_GAIN_EVAL_ERROR)
    assert np.isnan(found["gain_high"][0, 2, 2])
    assert status[0, 3, 3] == Bit.FF_NO_ENTRIES
    assert code[0, 3, 3] == Fit.TOO_FEW_PHOTONS
    assert status[1, 4, 4]
    assert np.count_nonzero(status) == 3


@pytest.mark.parametrize("noise", [16.0, 24.0])
def test_a_peak_that_the_noise_hides_is_not_guessed(tmp_path, noise):
    """The peak of two photons, which is seen, is not taken for that of one."""
    rng = np.random.default_rng(18)
    truth = simulate.agipd(rng, 1, (12, 12))
    truth.noise[0] *= noise / 8
    found = run(tmp_path, truth, *photons(truth, Foil(CU), 2000, rng), CU)
    assert (found["constants_status"][0] & Bit.FF_GAIN_EVAL_ERROR).all()


def test_a_shallow_valley_is_marked(copper, tmp_path):
    truth, analog, digital = copper
    quality = run(tmp_path, truth, analog, digital, CU)["quality"]
    limit = float(np.median(quality))
    found = run(tmp_path, truth, analog, digital, CU, min_quality=limit)
    marked = found["constants_status"][0] == Bit.FF_GAIN_DEVIATION
    assert np.array_equal(marked, quality < limit)


def test_a_spectrum_of_something_else_is_marked(copper, tmp_path):
    truth, analog, digital = copper
    other = analog.copy()
    jumps = np.random.default_rng(19).choice([0, 30], analog.shape[1], p=[0.8, 0.2])
    other[0, :, 6, 6] += jumps.astype(np.uint16)  # an offset that jumps
    found = run(tmp_path, truth, other, digital, CU, max_chi2=2.5)
    assert found["chi2"][0, 6, 6] > 2.5
    assert found["constants_status"][0, 0, 6, 6] == Bit.FF_GAIN_DEVIATION
    assert np.count_nonzero(found["constants_status"]) == 1


def test_no_light_no_frames_and_no_dark(copper, tmp_path):
    truth, analog, digital = copper
    empty = run(tmp_path, truth, analog[:, :0], digital[:, :0], CU)
    assert (empty["constants_status"][0] == Bit.FF_NO_ENTRIES).all()
    assert (empty["fit_status"] == Fit.NO_FRAMES).all()
    rng = np.random.default_rng(16)
    dark = run(tmp_path, truth, *photons(truth, Foil(CU, rate=0.0), 500, rng), CU)
    assert (dark["constants_status"][0] & Bit.FF_GAIN_EVAL_ERROR).all()
    assert (dark["fit_status"] == Fit.NO_PEAK).all()
    other = run(tmp_path, truth, analog, digital, CU, dark=[1])
    assert (other["fit_status"][0] == Fit.NO_DARK).all()
    assert bad(other["constants_status"][0, 0]).all()
    assert not other["constants_status"][0, 1].any()
    assert np.mean(other["gain_high"][1] / truth.gain[0, 1]) == pytest.approx(1, abs=0.003)


def test_frames_of_other_stages_are_not_counted():
    analog = np.array([10, 11, 12, 13, 40, 9]).astype(np.uint16).reshape(-1, 1, 1)
    digital = np.array([0, 0, 5, 0, 0, 0]).astype(np.uint16).reshape(-1, 1, 1)
    counts = np.zeros((1, 1, 3), np.int32)
    start = np.full((1, 1), 10, np.int32)
    fill(counts, analog, digital, np.full((1, 1), 4.0), start, 2)
    assert counts.ravel().tolist() == [2, 1, 0]


@pytest.mark.parametrize("kind", ["even", "cloud"])
@pytest.mark.parametrize("beta", [0.0, 1.11])
def test_derivatives_are_those_of_the_model(kind, beta):
    peaks, n, bins = 2, 8, 150
    theta = np.array([8e3, 2e3, 300.0, 0.1, 0.3, 60.0, 7.0, 0.15])
    model, slopes = np.empty(bins), np.empty((n, bins))

    def at(theta):
        expect(theta, -60.5, 2, peaks, beta, n, sharing(kind), model, slopes, 0.01)
        return model.copy(), slopes.copy()

    _, found = at(theta)
    for i in range(n if beta else n - 1):
        step = np.zeros(n)
        step[i] = 1e-4 * theta[i]
        slope = (at(theta + step)[0] - at(theta - step)[0]) / (2 * step[i])
        np.testing.assert_allclose(found[i], slope, atol=1e-5 * np.abs(slope).max())


def test_the_model_of_a_bin_is_its_integral():
    """A spectrum that is exactly what the model expects is fitted to its parameters."""
    from scipy.special import erf

    mu, s, sigma, b = 0.3, 60.0, 7.0, 0.1
    x = np.arange(-60, 400) + 0.0
    fine = (np.arange(-60.5, 399.5, 0.01) + 0.005).reshape(-1, 100)

    def normal(x):
        return np.exp(-0.5 * (x / sigma) ** 2) / np.sqrt(2 * np.pi) / sigma

    def step(x):
        return 0.5 * erf(x / sigma / np.sqrt(2))

    heights = 1e8 * np.array([0.8, 0.16, 0.016, 0.0016 * 2 / 3])
    grid = np.arange(0, s, 0.5) + 0.25
    density = np.zeros(fine.shape)
    for k, height in enumerate(heights):
        y = fine - mu - k * s
        density += height * (normal(y) + b * (step(y) - step(y - s)) / s)
        twice = sum(step(y - g) - step(y - g - s) for g in grid) * 0.5 / s**2
        density += height * 0.5 * b * b * twice
    data = np.rint(density.mean(axis=1)).astype(np.int32)
    usual = data[x < 2.5 * s][None]
    for width in (1, 3):
        packed = usual[:, : usual.shape[1] // width * width].reshape(1, -1, width).sum(axis=2)
        found = fit_all(
            packed.astype(np.int32), -60.5, width, np.zeros(1), np.full(1, 8.0), 55.0, 2, 0.0,
            np.nan, 10.0, sharing("even"),
        )  # fmt: skip
        fit = dict(zip(FOUND, found[:, 0], strict=True))
        assert fit["spacing"] == pytest.approx(s, abs=0.003)
        assert fit["width"] == pytest.approx(sigma, abs=0.002)
        assert fit["shared"] == pytest.approx(b, rel=2e-3)
