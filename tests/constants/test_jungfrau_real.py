"""Real JUNGFRAU frames (Leonarski et al., J. Synchrotron Rad. 30, 2023) and PSI's own library.

Of the module there are pedestals, raw frames and the photons that its own software makes of them,
but not the gain of each pixel: medians stand in for it, and so the photons agree to the spread of
the gains.
"""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.constants.true_constants import write_constants
from tests.truth.defaults import correction, dark_limits

from hklflow import stage
from hklflow.constants.dark import Dark
from hklflow.constants.detectors import integrating
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.gathered import CellFrames
from hklflow.formats.raw import open_frames, read_header
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.stages import correct_frames

SHAPE = (512, 1024)
DETECTOR = integrating("jungfrau")
Load = Callable[[str, type], NDArray[np.generic]]


@pytest.fixture(scope="module")
def load(real_data: Path) -> Load:
    def read(name: str, dtype: type) -> NDArray[np.generic]:
        return np.fromfile(real_data / "jungfrau_module" / name, dtype).reshape(SHAPE)

    return read


@pytest.fixture(scope="module")
def constants(load: Load, real_data: Path) -> Constants:
    """Of photons of an energy of 1, for the medians of the gains are in ADU per photon."""
    reference = stage.read_json(real_data / "jungfrau_module/reference.json")
    offset = np.stack([load(f"mod5_pedeG{g}.bin", np.float32) for g in range(3)])
    gain = [reference[f"G{g}"]["adu_per_photon_median"] for g in range(3)]
    noise = np.broadcast_to(load("mod5_pedeG0_RMS.bin", np.float32), (3, *SHAPE))
    quantities = {
        "offset": offset[:, None],
        "noise": np.where(offset > 0, noise, np.nan)[:, None],
        "gain": np.broadcast_to(np.array(gain)[:, None, None, None], (3, 1, *SHAPE)).copy(),
        "constants_status": np.zeros((3, 1, *SHAPE), np.uint32),
    }
    about = {"detector": "jungfrau", "module": 0, "cell_ids": [0]}
    return Constants(about, {name: Quantity(values) for name, values in quantities.items()})


@pytest.fixture(scope="module")
def raw(load: Load) -> NDArray[np.uint16]:
    return np.stack([load(f"mod5_raw{i}.bin", np.uint16) for i in range(4)]).astype(np.uint16)


@pytest.fixture(scope="module")
def expected(load: Load) -> NDArray[np.float32]:
    return np.stack([load(f"mod5_conv{i}.bin", np.float32) for i in range(4)]).astype(np.float32)


@pytest.mark.real_data
def test_photons_of_every_stage_are_those_of_the_facility(
    constants: Constants, raw: NDArray[np.uint16], expected: NDArray[np.float32]
) -> None:
    found = correction(constants, DETECTOR, 1.0).correct(raw & 0x3FFF, raw >> 14, 0)
    for number, (least, n) in enumerate(((1.0, 1_000_000), (5.0, 2000), (5.0, 100))):
        # What the facility flags has values beyond any photons.
        use = (found.stage == number) & (expected > least) & (expected < 30000)
        use &= np.isfinite(found.photons)
        assert use.sum() >= n
        ratio = found.photons[use] / expected[use]
        low, middle, high = np.quantile(ratio, (0.16, 0.5, 0.84))
        assert middle == pytest.approx(1, abs=0.01)
        # The gains of pixels are spread by 2 to 3 %.
        assert 1 - low < 0.04
        assert high - 1 < 0.04


@pytest.mark.real_data
def test_frames_through_the_stage_have_their_zero(
    constants: Constants, raw: NDArray[np.uint16], tmp_path: Path
) -> None:
    """Their zero is right, and the noise as it claims."""
    header = {"shape": SHAPE, "n_frames": 4, "dtype": np.uint16, "attenuator_transmission": None}
    with NXmxWriter(tmp_path / "raw.nxs", NXmxHeader(**header)) as writer:
        writer.append(raw)
    path = write_constants(tmp_path / "constants.nxs", [constants])
    out = tmp_path / "c.nxs"
    stage.run(
        correct_frames.main,
        inputs=correct_frames.Inputs(raw=[tmp_path / "raw.nxs"], constants=path),
        outputs=correct_frames.Outputs(
            frames=out, picture=tmp_path / "c.png", metrics=tmp_path / "c.json"
        ),
        params=correct_frames.Params(energy=1.0, common_mode="row"),
        threads=1,
    )
    with open_frames(out) as frames:
        photons = frames.read(0, 4)
    header_found = read_header(out)
    variance, mask = header_found.read_variance, header_found.pixel_mask
    assert variance is not None
    assert mask is not None
    # 82 pixels have no pedestal.
    assert mask.sum() == 82
    noise = np.sqrt(np.median(variance[~mask]))
    assert noise == pytest.approx(0.047, abs=0.003)
    # The peak of dark pixels is at zero; half of them share a photon's charge, which is above.
    good = photons[:, ~mask]
    dark = good[np.abs(good) < 1.5 * noise]
    assert dark.size > 0.2 * good.size
    assert abs(dark.mean()) < 0.15 * noise
    assert np.mean(good < -3 * noise) < 0.01
    metrics = stage.read_json(tmp_path / "c.json")
    of_bits = np.bincount((raw[:, ~mask] >> 14).ravel(), minlength=4) / raw[:, ~mask].size
    assert metrics["fractions"]["medium"] == pytest.approx(of_bits[1], abs=1e-5)
    assert metrics["fractions"]["low"] + metrics["fractions"]["saturated"] == pytest.approx(
        of_bits[3], abs=1e-5
    )
    with h5py.File(out) as file:
        data = file["entry/data/data"]
        assert data.id.get_storage_size() < 2 * data.size


@pytest.mark.real_data
def test_correction_is_that_of_aare(constants: Constants, raw: NDArray[np.uint16]) -> None:
    aare = pytest.importorskip("aare")
    offset = constants["offset"][:, 0].astype(np.float64)
    gain = constants["gain"][:, 0].astype(np.float64)
    theirs = aare.apply_calibration(raw, pd=offset, cal=gain, n_threads=1)
    ours = correction(constants, DETECTOR, 1.0).correct(raw & 0x3FFF, raw >> 14, 0).photons
    use = np.isfinite(ours)
    assert use.mean() > 0.999
    np.testing.assert_allclose(ours[use], theirs[use], rtol=2e-5, atol=2e-5)


def test_pedestals_are_those_of_aare() -> None:
    """Dark frames of all stages, as both take them; without clipping nothing is left out."""
    aare = pytest.importorskip("aare")
    rng = np.random.default_rng(1)
    n, shape, index = 60, (16, 32), np.arange(60)
    analog = [
        rng.normal(mean, 12, (n, *shape)).round().astype(np.uint16) for mean in (3000, 14500, 14900)
    ]
    coded = [frames | np.uint16(code << 14) for frames, code in zip(analog, (0, 1, 3), strict=True)]
    theirs = aare.calculate_pedestal(np.concatenate(coded), n_threads=1)
    runs = [
        CellFrames(frames, np.full_like(frames, stage), index.astype(np.uint64), index)
        for stage, frames in enumerate(analog)
    ]
    dark = Dark("stage", dark_limits(clip=np.inf))
    ours = dark.calculate(runs, 0, slice(0, shape[0]))["offset"]
    assert np.abs(ours - theirs).max() < 1e-9
