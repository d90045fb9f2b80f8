"""Corrected photons against the truth of simulated ASICs, in all stages of gain."""

from dataclasses import replace

import numpy as np
import pytest
from tests.constants.true_constants import constants_of
from tests.truth.defaults import correction

from hklflow.base.errors import HklflowError
from hklflow.constants import simulate
from hklflow.constants.correct import Correction
from hklflow.constants.detectors import Integrating, integrating
from hklflow.constants.status import Bit
from hklflow.images.masks import MaskBit

ENERGY = 12.0
SHAPE = (64, 64)


def made(name: str, seed: int = 1, cells: int = 2) -> tuple[simulate.Truth, Integrating]:
    rng = np.random.default_rng(seed)
    truth = getattr(simulate, name)(rng, cells, SHAPE)
    return truth, integrating(name, SHAPE, SHAPE)


def raw_of(truth, detector, energy, cell, rng):
    """What the detector gives for an energy: JUNGFRAU's stage as a code."""
    analog, digital = truth.respond(energy, cell, rng)
    if detector.codes is not None:
        digital = np.array(detector.codes, np.uint16)[digital]
    return analog, digital


def corrector(truth, detector, **more) -> Correction:
    settings = {name: more.pop(name) for name in ("shared", "flat", "least") if name in more}
    return correction(constants_of(truth, detector.name, **more), detector, ENERGY, **settings)


@pytest.mark.parametrize("name", ["agipd", "jungfrau"])
def test_energy_over_six_decades_is_right_in_every_stage_and_memory_cell(name: str) -> None:
    truth, detector = made(name)
    correction = corrector(truth, detector)
    rng = np.random.default_rng(2)
    met = set()
    for cell in range(truth.cells):
        for photons in np.geomspace(0.01, 8000, 25):
            energy = np.full((4, *SHAPE), photons * ENERGY)
            found = correction.correct(*raw_of(truth, detector, energy, cell, rng), cell)
            assert np.isfinite(found.photons).all()
            for stage in np.unique(found.stage):
                of = found.photons[found.stage == stage].astype(float)
                noise = (truth.noise[stage] / np.abs(truth.gain[stage])).max() / ENERGY
                np.testing.assert_allclose(
                    of.mean(), photons, rtol=0.005, atol=5 * noise / np.sqrt(of.size)
                )
                met.add(int(stage))
    assert met == {0, 1, 2}


@pytest.mark.parametrize("name", ["agipd", "jungfrau"])
def test_the_response_is_continuous_across_the_switches(name: str) -> None:
    truth, detector = made(name)
    correction = corrector(truth, detector)
    rng = np.random.default_rng(3)
    for switch in (0, 1):
        around = truth.switch[switch, 0] * rng.uniform(0.9, 1.1, (60, *SHAPE))
        found = correction.correct(*raw_of(truth, detector, around, 0, rng), 0)
        ratio = found.photons * ENERGY / around
        # Few pixels of a high offset and gain are saturated before they switch.
        valued = np.isfinite(ratio)
        assert valued.mean() > 0.99
        below, above = (ratio[valued & (found.stage == s)] for s in (switch, switch + 1))
        assert min(below.size, above.size) > 0.2 * ratio.size
        assert below.mean() == pytest.approx(1, abs=0.005)
        assert above.mean() == pytest.approx(below.mean(), abs=0.005)


@pytest.mark.parametrize("name", ["agipd", "jungfrau"])
def test_variance_of_poisson_photons_in_every_stage(name: str) -> None:
    truth, detector = made(name)
    correction = corrector(truth, detector)
    rng = np.random.default_rng(4)
    pulls: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for mean in (0.0, 0.05, 1.0, 10.0, 100.0, 400.0, 4000.0):
        energy = rng.poisson(mean, (20, *SHAPE)) * ENERGY
        found = correction.correct(*raw_of(truth, detector, energy, 1, rng), 1)
        variance = correction.variance(np.full(energy.shape, mean), found.stage, 1)
        pull = (found.photons - mean) / np.sqrt(variance)
        for stage, of in pulls.items():
            of.append(pull[found.stage == stage])
            if of[-1].size > 10_000:
                assert 0.95 < of[-1].std() < 1.05, (mean, stage)
    assert all(sum(p.size for p in of) > 50_000 for of in pulls.values())
    # Where nothing is expected, read noise alone; it is not small beside the photons' in stage low.
    read = correction.read_variance(1)
    assert 0.9 < np.concatenate(pulls[0][:1]).std() < 1.1
    assert np.median(read[2]) > 100 * np.median(read[0])


def test_what_is_no_measurement_is_nan() -> None:
    truth, detector = made("jungfrau")
    status = np.zeros(truth.offset.shape, np.uint32)
    status[0, :, 0, 0] = Bit.OFFSET_OUT_OF_THRESHOLD
    status[1, :, 0, 1] = Bit.CI_GAIN_OUT_OF_THRESHOLD
    status[1, :, 0, 2] = Bit.INTERPOLATED
    mask = np.zeros(SHAPE, np.uint32)
    mask[0, 3] = MaskBit.USER
    gain = truth.gain.copy()
    gain[0, :, 0, 4] = np.nan
    correction = corrector(truth, detector, constants_status=status, pixel_mask=mask, gain=gain)
    energy = np.full((2, *SHAPE), 3 * ENERGY)
    energy[1] = 1000  # stage medium
    analog, code = raw_of(truth, detector, energy, 0, np.random.default_rng(5))
    code[:, 1, 0] = 2  # the gain bits that mean nothing
    analog[:, 1, 1], code[:, 1, 1] = 0, 3  # the end of stage low
    analog[:, 1, 2], code[:, 1, 2] = 16383, 3  # what a lost packet is filled with
    analog[:, 1, 3], code[:, 1, 3] = 0, 0
    analog[:, 1, 4], code[:, 1, 4] = 16383, 0
    found = correction.correct(analog, code, 0)
    no_value = np.zeros((2, *SHAPE), bool)
    no_value[:, 0, [0, 3, 4]] = True  # no stage high: not used in the others either
    no_value[1, 0, 1] = True
    no_value[:, 1, :5] = True
    np.testing.assert_array_equal(np.isnan(found.photons), no_value)
    # Saturated are those at the end on the side of much charge.
    marked = correction.correct(analog, code, 0, overload=1e6)
    saturated = np.zeros_like(no_value)
    saturated[:, 1, [1, 4]] = True
    np.testing.assert_array_equal(marked.photons == 1e6, saturated)
    np.testing.assert_array_equal(np.isnan(marked.photons), no_value & ~saturated)
    assert marked.numbers == {
        "high": SHAPE[0] * SHAPE[1] - 8,
        "medium": SHAPE[0] * SHAPE[1] - 9,
        "low": 0,
        "saturated": 4,
        "no value": 13,
    }
    np.testing.assert_array_equal(np.flatnonzero(correction.mask), [0, 3, 4])
    assert correction.mask[0, 3] == MaskBit.USER
    assert correction.mask[0, 4] == MaskBit.DEAD


def test_saturation_of_a_level_detector_and_unknown_thresholds() -> None:
    truth, detector = made("agipd")
    threshold = 0.5 * (truth.level[1:] + truth.level[:-1])
    threshold[1, 0, 0, :2] = np.nan
    threshold[0, 0, 0, 2] = np.nan
    correction = corrector(truth, detector, gain_threshold=threshold)
    energy = np.full((1, *SHAPE), 1e7)
    energy[0, 1] = 100.0
    energy[0, 0, :3] = 100.0
    energy[0, 0, 1] = 1000 * ENERGY
    found = correction.correct(*truth.respond(energy, 0, np.random.default_rng(6)), 0, overload=5e5)
    assert (found.photons[0, 2:] == 5e5).all()
    # Stage high is told by the first threshold alone, the others are not.
    assert found.photons[0, 0, 0] == pytest.approx(100 / ENERGY, rel=0.1)
    np.testing.assert_array_equal(found.stage[0, 0, :3], [0, 255, 255])
    assert np.isnan(found.photons[0, 0, 1:3]).all()
    assert np.isfinite(found.photons[0, 1]).all()
    # 16383 ADU less the offset, over 0.05 ADU/keV.
    assert correction.saturation == pytest.approx((16383 - 7000) / 0.05 / ENERGY, rel=0.02)


@pytest.mark.parametrize("name", ["agipd", "jungfrau"])
def test_without_the_gain_of_stage_low_its_pixels_are_saturated(name: str) -> None:
    truth, detector = made(name)
    gain = truth.gain.copy()
    gain[2] = np.nan
    gain[1, :, 0, 0] = np.nan
    gain[1, :, 0, 1], gain[2, :, 0, 1] = np.nan, truth.gain[2, :, 0, 1]
    mask = np.zeros(SHAPE, np.uint32)
    mask[0, 2] = MaskBit.USER
    correction = corrector(truth, detector, gain=gain, pixel_mask=mask)
    # The converter's end in stage medium.
    end = 16383 if truth.gain[1].mean() > 0 else 0
    most = (end - truth.offset[1].mean()) / truth.gain[1].mean() / ENERGY
    assert correction.saturation == pytest.approx(most, rel=0.05)
    rng = np.random.default_rng(9)
    medium = np.full((1, *SHAPE), 1.5 * truth.switch[0].max())
    low = np.full((1, *SHAPE), 2 * truth.switch[1].max())
    values = [
        correction.correct(*raw_of(truth, detector, energy, 0, rng), 0, overload=1e6)
        for energy in (medium, low)
    ]
    for found, stage in zip(values, (1, 2), strict=True):
        assert (found.stage == stage).all()
    usual = np.ones(SHAPE, bool)
    usual[0, :3] = False
    np.testing.assert_allclose(values[0].photons[0, usual], medium[0, usual] / ENERGY, rtol=0.1)
    assert (values[1].photons[0, usual] == 1e6).all()
    # Neither; low but not medium, which says nothing of medium; masked.
    np.testing.assert_array_equal(values[0].photons[0, 0, :3], [1e6, np.nan, np.nan])
    assert values[1].photons[0, 0, 0] == 1e6
    assert values[1].photons[0, 0, 1] == pytest.approx(low[0, 0, 1] / ENERGY, rel=0.1)
    assert np.isnan(values[1].photons[0, 0, 2])
    assert values[1].numbers["saturated"] == usual.sum() + 1
    nothing = corrector(truth, detector, pixel_mask=np.ones(SHAPE, np.uint32))
    assert nothing.saturation == np.inf


def test_some_memory_cells_are_corrected_as_among_all() -> None:
    truth, detector = made("agipd", cells=4)
    status = np.zeros(truth.offset.shape, np.uint32)
    status[0, 0, 0, 0] = Bit.OFFSET_OUT_OF_THRESHOLD
    constants = constants_of(truth, "agipd", constants_status=status)
    constants.about["cell_ids"] = [3, 5, 7, 9]
    every = correction(constants, detector, ENERGY)
    some = correction(constants, detector, ENERGY, cells=(9, 3))
    raw = truth.respond(np.full((2, *SHAPE), 700.0), 3, np.random.default_rng(10))
    for place, among in enumerate((3, 0)):
        np.testing.assert_array_equal(
            some.correct(*raw, place).photons, every.correct(*raw, among).photons
        )
        np.testing.assert_array_equal(some.read_variance(place), every.read_variance(among))
    assert some.cell_ids.tolist() == [9, 3]
    # Good in another memory cell only.
    alone = correction(constants, detector, ENERGY, cells=(3,))
    np.testing.assert_array_equal(np.flatnonzero(alone.mask), [0])
    assert not every.mask.any()
    with pytest.raises(HklflowError, match="no constants of memory cell 4"):
        correction(constants, detector, ENERGY, cells=(3, 4))


def test_rounding_to_a_power_of_two() -> None:
    truth, detector = made("jungfrau")
    correction = corrector(truth, detector)
    rng = np.random.default_rng(7)
    raw = raw_of(truth, detector, rng.poisson(3, (4, *SHAPE)) * ENERGY, 0, rng)
    exact, rounded = correction.correct(*raw, 0).photons, correction.correct(*raw, 0, 2**-7).photons
    np.testing.assert_array_equal(rounded * 128, np.rint(rounded * 128))
    assert np.abs(rounded - exact).max() <= 2**-8 + 1e-6
    assert np.ptp(rounded - exact) > 2**-8


def test_flat_field() -> None:
    truth, detector = made("jungfrau", cells=1)
    rng = np.random.default_rng(8)
    field = rng.normal(1, 0.05, SHAPE)
    field[0, 0] = np.nan
    raw = raw_of(truth, detector, np.full((1, *SHAPE), 5 * ENERGY), 0, rng)
    plain = corrector(truth, detector).correct(*raw, 0).photons
    flat = corrector(truth, detector, flatfield=field)
    good = np.isfinite(field)
    np.testing.assert_allclose(
        flat.correct(*raw, 0).photons[0, good], plain[0, good] / field[good], rtol=1e-5
    )
    assert flat.mask[0, 0] == MaskBit.DEAD
    unused = corrector(truth, detector, flatfield=field, flat=False).correct(*raw, 0).photons
    np.testing.assert_array_equal(unused, plain)


def test_constants_of_another_detector_are_refused() -> None:
    truth, detector = made("agipd")
    constants = constants_of(truth, "agipd")
    with pytest.raises(HklflowError, match="offset of module 0 has shape"):
        correction(constants, replace(detector, module=(64, 128)), ENERGY)
    lacking = {name: q for name, q in constants.quantities.items() if name != "gain_threshold"}
    with pytest.raises(HklflowError, match="no gain_threshold"):
        correction(replace(constants, quantities=lacking), detector, ENERGY)
    frames = np.zeros((1, 32, 64), np.uint16)
    with pytest.raises(HklflowError, match="use the constants of the detector"):
        correction(constants, detector, ENERGY).correct(frames, frames, 0)
