"""Constants in files of other programs, read again as those programs read them."""

import h5py
import numpy as np
import pytest
from pyFAI.integrator.azimuthal import AzimuthalIntegrator

from hklflow.cli import main
from hklflow.constants import files, simulate
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.status import Bit

SHAPE, CELLS = (16, 8), [0, 2, 3]


def agipd(path, digital="level"):
    about = {"detector": "agipd", "cell_ids": CELLS, "digital": digital}
    truths = {}
    with files.create_detector(path, "constants", about) as group:
        for number in (0, 11):
            truth = simulate.agipd(np.random.default_rng(number), len(CELLS), SHAPE)
            status = np.zeros((3, len(CELLS), *SHAPE), np.uint32)
            status[2, 1, 3, 4] = Bit.CI_EVAL_ERROR
            status[0, 0, 1, 1] = Bit.INTERPOLATED
            gain = truth.gain.astype(np.float32)
            gain[1, 2, 6, 6] = np.nan
            mask = np.zeros(SHAPE, np.uint32)
            mask[9, 2] = 16
            threshold = (truth.level[1:] + truth.level[:-1]) / 2
            quantities = {
                "offset": Quantity(truth.offset.astype(np.float32), "ADU"),
                "gain": Quantity(gain, "ADU/keV"),
                "gain_threshold": Quantity(threshold.astype(np.float32), "ADU"),
                "constants_status": Quantity(status),
                "pixel_mask": Quantity(mask),
            }
            place = group.create_group(files.module_name(number))
            files.add_quantities(place, Constants(about | {"module": number}, quantities))
            truths[number] = truth
    return truths


def counter(path, modules=2):
    rng = np.random.default_rng(1)
    with files.create_detector(path, "counter", {"detector": "pilatus"}) as group:
        for number in range(modules):
            mask = (rng.random((30, 40)) < 0.05).astype(np.uint32) * 4
            flat = rng.normal(1, 0.05, (30, 40)).astype(np.float32)
            flat[0, 0], flat[1, 1] = np.nan, 0
            quantities = {"pixel_mask": Quantity(mask), "flatfield": Quantity(flat)}
            place = group.create_group(files.module_name(number))
            files.add_quantities(place, Constants({"module": number}, quantities))


def run(*arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main(["constants", "export", *map(str, arguments)])
    assert ended.value.code == code


def test_cheetah_gives_energies_back(tmp_path):
    """Photons corrected as Cheetah does: stage by level, less the offset, times the gain."""
    truths = agipd(tmp_path / "c.nxs")
    run(tmp_path / "c.nxs", "--format", "cheetah", "-o", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["Cheetah-AGIPD00-calib.h5", "Cheetah-AGIPD11-calib.h5"]
    rng = np.random.default_rng(5)
    for number, truth in truths.items():
        with h5py.File(tmp_path / "out" / f"Cheetah-AGIPD{number:02d}-calib.h5") as file:
            for name, dtype in {
                "AnalogOffset": "int16",
                "DigitalGainLevel": "uint16",
                "RelativeGain": "float32",
                "Badpixel": "uint8",
            }.items():
                assert file[name].shape == (3, 4, *SHAPE)
                assert file[name].dtype == dtype
            offset, level, relative, wrong = (
                file[name][:, 2]
                for name in ("AnalogOffset", "DigitalGainLevel", "RelativeGain", "Badpixel")
            )
            assert file["Badpixel"][:, 1].all()  # a memory cell that was not measured
            reference = file.attrs["reference_gain"]
        assert reference == pytest.approx(8, rel=0.02)
        energy = np.array([100.0, 6000.0, 60000.0])[:, None, None] * np.ones((1, *SHAPE))
        analog, digital = truth.respond(energy, 1, rng)
        stage = np.where(digital > level[2], 2, np.where(digital > level[1], 1, 0))
        assert (stage == np.arange(3)[:, None, None]).all()
        found = (analog - np.take_along_axis(offset, stage, 0)) * np.take_along_axis(
            relative, stage, 0
        )
        bad = np.take_along_axis(wrong, stage, 0) != 0
        # Half an ADU of a rounded offset and five times the noise, in keV of each stage.
        noise = (0.8 + 5 * truth.noise[:, 1]) / truth.gain[:, 1]
        assert (np.abs(found / reference - energy) < noise)[~bad].all()
        assert wrong[2, 3, 4] == 1
        assert wrong[:, 9, 2].all()
        assert wrong.sum() == 4


def test_cheetah_leaves_out_what_is_not_known(tmp_path):
    agipd(tmp_path / "c.nxs")
    run(tmp_path / "c.nxs", "--format", "cheetah", "-o", tmp_path)
    with h5py.File(tmp_path / "Cheetah-AGIPD00-calib.h5") as file:
        assert file["Badpixel"][1, 3, 6, 6] == 1
        assert np.isfinite(file["RelativeGain"][()]).all()
        assert file["Badpixel"][0, 0, 1, 1] == 0  # interpolated, but good


def test_what_has_no_levels_is_not_for_cheetah(tmp_path, capsys):
    agipd(tmp_path / "jungfrau.nxs", digital="stage")
    counter(tmp_path / "counter.nxs")
    for name, lacks in (("jungfrau", "analogue gain levels"), ("counter", "offset")):
        run(tmp_path / f"{name}.nxs", "--format", "cheetah", "-o", tmp_path / "out", code=2)
        assert lacks in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["edf", "npy", "h5"])
def test_pyfai_integrates_with_them(tmp_path, suffix):
    counter(tmp_path / "c.nxs")
    run(tmp_path / "c.nxs", "--format", "pyfai", "--suffix", suffix, "-o", tmp_path)
    with files.open_constants(tmp_path / "c.nxs") as constants:
        parts = [constants.module(number) for number in constants.modules]
    flat = np.concatenate([part["flatfield"] for part in parts])
    bad = np.concatenate([part["pixel_mask"] for part in parts]) != 0
    bad |= ~(flat > 0)

    integrator = AzimuthalIntegrator(dist=0.1, poni1=3e-3, poni2=2e-3)
    integrator.detector.pixel1 = integrator.detector.pixel2 = 1e-4
    integrator.detector.shape = integrator.detector.max_shape = flat.shape
    integrator.wavelength = 1e-10
    if suffix == "h5":
        integrator.detector.set_mask(h5py.File(tmp_path / "mask.h5")["data"][()])
        integrator.detector.flatfield = h5py.File(tmp_path / "flat.h5")["data"][()]
    elif suffix == "npy":
        integrator.detector.set_mask(np.load(tmp_path / "mask.npy"))
        integrator.detector.flatfield = np.load(tmp_path / "flat.npy")
    else:
        integrator.detector.set_maskfile(str(tmp_path / "mask.edf"))
        integrator.detector.set_flatfiles(str(tmp_path / "flat.edf"))
    assert np.array_equal(integrator.detector.mask != 0, bad)
    counts = 1000 * np.where(bad, 1e6, np.nan_to_num(flat))
    result = integrator.integrate1d(
        counts, 20, correctSolidAngle=False, method=("no", "histogram", "cython")
    )
    np.testing.assert_allclose(result.intensity[result.count > 0], 1000, rtol=1e-5)


def test_what_was_there_is_replaced_or_stays_whole(tmp_path):
    counter(tmp_path / "c.nxs", modules=1)
    (tmp_path / "mask.npy").write_bytes(b"old")
    run(tmp_path / "c.nxs", "--format", "pyfai", "--suffix", "npy", "-o", tmp_path)
    assert np.load(tmp_path / "mask.npy").shape == (30, 40)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.nxs", "flat.npy", "mask.npy"]
