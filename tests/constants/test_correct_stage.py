"""The stage correct_frames: what its file says, what is lost, and what it refuses."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tests.constants.true_constants import constants_of, write_constants

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.base.values import HC
from hklflow.constants import simulate
from hklflow.constants.detectors import integrating
from hklflow.constants.rotation_frames import Run
from hklflow.constants.status import Bit
from hklflow.constants.write_layouts import RawFrames, write_run
from hklflow.formats.raw import open_frames, read_header
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.stage.rehearsal import FrameFacts, Known
from hklflow.stages import correct_frames, import_scan

ENERGY, N, MODULE = 12.0, 5, (32, 64)
STACK = (2 * MODULE[0], MODULE[1])
ASIC = (16, 32)


def correct(raw: list[Path], constants: Path, out: Path, **params: Any) -> dict[str, Any]:
    stage.run(
        correct_frames.main,
        inputs=correct_frames.Inputs(raw=raw, constants=constants),
        outputs=correct_frames.Outputs(
            frames=out, picture=out.with_suffix(".png"), metrics=out.with_suffix(".json")
        ),
        params=correct_frames.Params(**({"energy": ENERGY, "asic_size": ASIC} | params)),
        threads=1,
    )
    return stage.read_json(out.with_suffix(".json"))


def truths(name: str, cells: int, modules: int = 2) -> list[simulate.Truth]:
    return [
        getattr(simulate, name)(np.random.default_rng(seed), cells, MODULE)
        for seed in range(modules)
    ]


def jungfrau(folder: Path, photons: np.ndarray, **header: Any) -> tuple[Path, Path]:
    """Raw file of two modules and their constants."""
    rng = np.random.default_rng(5)
    made = truths("jungfrau", 1)
    raw = np.zeros((len(photons), *STACK), np.uint16)
    for module, truth in enumerate(made):
        rows = slice(module * MODULE[0], (module + 1) * MODULE[0])
        analog, which = truth.respond(photons[:, rows] * ENERGY, 0, rng)
        raw[:, rows] = analog | np.array([0, 1, 3], np.uint16)[which] << 14
    given = {
        "shape": STACK,
        "n_frames": len(photons),
        "pixel_size": (75e-6, 75e-6),
        "origin": [0.01, -0.02, 0.2],
        "slow": [0, 1, 0],
        "fast": [-1, 0, 0],
        "wavelength": HC / 1000 / ENERGY,
        "axis_names": ("phi",),
        "axes": [[1, 0, 0]],
        "angles": [0.0],
        "start": 0.3,
        "step": 0.01,
        "exposure": 0.1,
        "polarization": 0.98,
        "monitor": np.arange(len(photons)) + 1.0,
        "temperature": 90.0,
        "dtype": np.uint16,
    }
    with NXmxWriter(folder / "raw.nxs", NXmxHeader(**given | header)) as writer:
        writer.append(raw)
    modules = [constants_of(t, "jungfrau", m) for m, t in enumerate(made)]
    return folder / "raw.nxs", write_constants(folder / "constants.nxs", modules)


def test_what_the_file_says_and_the_import_takes_from_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    photons = rng.poisson(2.0, (N, *STACK)).astype(float)
    photons[:, 10, 10] = 400  # stage medium
    photons[:, 40, 10] = 3000  # stage low
    photons[:, 50, 10] = 1e6  # saturated
    gap = np.zeros(STACK, np.uint32)
    gap[:, 30:32] = 1
    raw, constants = jungfrau(tmp_path, photons, pixel_mask=gap)
    metrics = correct([raw], constants, tmp_path / "c.nxs", block=2)
    with open_frames(tmp_path / "c.nxs") as frames:
        found = frames.read(0, N)
    assert found.dtype == np.float32
    header, before = read_header(tmp_path / "c.nxs"), read_header(raw)
    for name in ("wavelength", "start_deg", "step_deg", "exposure_time", "polarization"):
        assert getattr(header, name) == pytest.approx(getattr(before, name))
    np.testing.assert_array_equal(header.monitor, before.monitor)
    np.testing.assert_allclose(header.detector.origin, before.detector.origin, atol=1e-9)
    assert header.pixel_mask is not None
    np.testing.assert_array_equal(header.pixel_mask, gap != 0)
    assert np.isnan(found[:, gap != 0]).all()
    assert np.isfinite(found[:, gap == 0]).all()
    assert (found < -0.01).any()
    # The values: rounded, and as precise as they claim.
    step = metrics["step in photons"]
    good = gap == 0
    np.testing.assert_array_equal(found[:, good] / step, np.rint(found[:, good] / step))
    assert header.read_variance is not None
    assert (header.read_variance[~good] == 0).all()
    dark = good & (photons < 100).all(axis=0)
    pull = (found - photons)[:, dark] / np.sqrt(header.read_variance[dark])
    assert pull.std() == pytest.approx(1, abs=0.03)
    assert found[:, 10, 10].mean() == pytest.approx(400, rel=0.005)
    assert found[:, 40, 10].mean() == pytest.approx(3000, rel=0.01)
    assert header.saturation == metrics["saturation in photons"]
    assert (found[:, 50, 10] == np.float32(header.saturation)).all()
    size = good.sum()
    assert metrics["fractions"] == pytest.approx(
        {"high": 1 - 3 / size, "medium": 1 / size, "low": 1 / size, "saturated": 1 / size}
        | {"no value": 0.0}
    )
    assert metrics["fraction masked"] == pytest.approx(gap.mean())
    # What the variance of switched pixels lacks, per photon.
    lack = metrics["read variance beyond that of stage high, per photon"]
    truth = truths("jungfrau", 1)[0]
    noise = truth.noise[1, 0, 10, 10] / (truth.gain[1, 0, 10, 10] * ENERGY)
    assert lack["medium"] == pytest.approx(noise**2 / 400, rel=0.02)
    assert metrics["common modes found"] == 0

    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[tmp_path / "c.nxs"]),
        outputs=import_scan.Outputs(scan=tmp_path / "scan.nxs"),
        params=import_scan.Params(),
        threads=1,
    )
    from hklflow import nexus
    from hklflow.formats.raw import read_variance

    scan = nexus.read_scan(tmp_path / "scan.nxs")
    assert scan.underload < -1e30
    assert scan.saturation == header.saturation
    np.testing.assert_allclose(read_variance(scan), header.read_variance, rtol=1e-6)
    assert read_variance(replace(scan, underload=0.0)) is None


def test_rounded_photons_are_packed(tmp_path: Path) -> None:
    photons = np.random.default_rng(2).poisson(0.3, (N, *STACK)).astype(float)
    raw, constants = jungfrau(tmp_path, photons)
    correct([raw], constants, tmp_path / "c.nxs")
    with h5py.File(tmp_path / "c.nxs") as file:
        data = file["entry/data/data"]
        packed = data.id.get_storage_size() / data.size
    # Bytes of a pixel: of 32 bits the low half of the mantissa and most of the exponent are alike.
    assert packed < 2.2


def test_common_mode_of_asics_is_taken_off_and_told(tmp_path: Path) -> None:
    photons = np.random.default_rng(3).poisson(0.2, (N, *STACK)).astype(float)
    raw, constants = jungfrau(tmp_path, photons)
    injected = np.random.default_rng(4).integers(-60, 60, (N, 4, 2))
    with h5py.File(raw, "r+") as file:
        data = file["entry/data/data"]
        shift = np.repeat(np.repeat(injected, ASIC[0], axis=1), ASIC[1], axis=2)
        data[...] = (data[...] + shift).astype(np.uint16)
    plain = correct([raw], constants, tmp_path / "plain.nxs")
    metrics = correct([raw], constants, tmp_path / "c.nxs", common_mode="asic")
    assert plain["common mode rms in ADU"] is None
    assert metrics["common modes found"] == injected.size
    assert metrics["common modes not found"] == 0
    assert metrics["common mode rms in ADU"] == pytest.approx(np.sqrt(np.mean(injected**2)), abs=1)
    with open_frames(tmp_path / "c.nxs") as one, open_frames(tmp_path / "plain.nxs") as other:
        off, before = (frames.read(0, N) - photons for frames in (one, other))
    assert off.std() < 1.05 * 14 / 492
    assert before.std() > 0.06


@pytest.mark.parametrize("layout", ["euxfel", "lab"])
def test_frames_of_a_run_keep_their_place(tmp_path: Path, layout: str) -> None:
    """AGIPD: three memory cells, trains that one module or both have lost."""
    if layout == "euxfel":
        pytest.importorskip("extra_data")
    cells, trains = (0, 1, 2), 6
    detector = integrating("agipd", MODULE, ASIC)
    rng = np.random.default_rng(6)
    train = np.repeat(np.arange(trains) + 500, len(cells))
    cell = np.tile(cells, trains)
    photons = rng.poisson(3.0, (trains * len(cells), *STACK)).astype(float)
    made = truths("agipd", len(cells))
    lost = np.zeros((2, trains), bool)
    lost[0, 2] = lost[1, 4] = True
    lost[:, 3] = True
    modules = {}
    for module, truth in enumerate(made):
        rows = slice(module * MODULE[0], (module + 1) * MODULE[0])
        pairs = [
            truth.respond(photons[k : k + 1, rows] * ENERGY, c, rng) for k, c in enumerate(cell)
        ]
        analog, digital = (np.concatenate(kind) for kind in zip(*pairs, strict=True))
        frames = RawFrames(train, cell, analog, digital)
        modules[module] = frames.only(~lost[module, train - 500])
    paths = write_run(layout, tmp_path / "run", 7, detector, modules, 4)
    # A pixel has no constants in one memory cell, another one in none.
    status = np.zeros((3, len(cells), *MODULE), np.uint32)
    status[:, 1, 5, 6] = status[0, :, 5, 7] = Bit.NO_DARK_DATA
    known = [constants_of(t, "agipd", m, constants_status=status) for m, t in enumerate(made)]
    constants = write_constants(tmp_path / "constants.nxs", known)
    correct(paths, constants, tmp_path / "c.nxs", layout=layout, block=4)
    with open_frames(tmp_path / "c.nxs") as frames:
        found = frames.read(0, frames.shape[0])
    assert found.shape == photons.shape
    gone = np.repeat(np.repeat(lost[:, train - 500].T, MODULE[0], axis=1)[..., None], 64, axis=2)
    for row in (5, 5 + MODULE[0]):
        gone[1::3, row, 6] = True
        gone[:, row, 7] = True
    np.testing.assert_array_equal(np.isnan(found), gone)
    header = read_header(tmp_path / "c.nxs")
    assert header.pixel_mask is not None
    assert header.pixel_mask.sum() == 2
    assert header.read_variance is not None
    expected = np.mean([(t.noise[0, :, 5, 6] / t.gain[0, :, 5, 6])[[0, 2]] ** 2 for t in made[:1]])
    assert header.read_variance[5, 6] == pytest.approx(expected / ENERGY**2, rel=0.02)
    off = (found - photons)[~gone]
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(off.size)
    assert off.std() == pytest.approx(8 / (8 * ENERGY), rel=0.05)


def test_constants_of_used_memory_cells_alone_are_held(tmp_path: Path) -> None:
    cells = 24
    detector = integrating("agipd", MODULE, ASIC)
    made = truths("agipd", cells)
    idle = {f"{name}_errors": np.ones((3, cells, *MODULE)) for name in ("offset", "gain")}
    known = [constants_of(t, "agipd", m, **idle) for m, t in enumerate(made)]
    constants = write_constants(tmp_path / "constants.nxs", known)
    params = correct_frames.Params(energy=ENERGY, asic_size=ASIC)
    size = detector.module[0] * detector.module[1]

    def measured(used: tuple[int, ...]) -> tuple[float, float]:
        """Bytes per pixel: held, and at most besides."""
        tracemalloc.start()
        try:
            found = correct_frames._corrections(constants, params, detector, used)
            held, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(found) == 2
        return held / size / 2, (most - held) / size

    measured((5,))  # what is imported and compiled
    one, three = measured((5,)), measured((5, 20, 2))
    assert three[0] - one[0] == pytest.approx(2 * 44, rel=0.05)
    # What the file has of a module: 3 x 3 of 64 bits, 2 of 64 bits and a status of 32 bits; not
    # the 3 x 2 of errors.
    assert one[1] < (11 * 8 + 3 * 4) * cells + 200


def run_of(folder: Path, layout: str, train: np.ndarray, name: str = "jungfrau") -> list[Path]:
    """Files of a run of one module, whose frames have the value 1000 + their place."""
    detector = integrating(name, MODULE, ASIC)
    analog = np.broadcast_to(1000 + np.arange(len(train))[:, None, None], (len(train), *MODULE))
    cell = np.zeros(len(train), np.int64)
    # The digital part of an AGIPD is never empty, except in files of 2017.
    digital = np.full_like(analog, 5000 if name == "agipd" else 0, np.uint16)
    frames = RawFrames(train, cell, analog.astype(np.uint16), digital)
    return write_run(layout, folder, 1, detector, {0: frames}, 100)


def values_of(paths: list[Path], layout: str, name: str = "jungfrau") -> list[int]:
    """Value of each frame of a rotation; 0: lost."""
    with Run(paths, layout, integrating(name, MODULE, ASIC), [0]) as frames:
        found = np.zeros(frames.n, int)
        for part in frames.read(0, frames.n):
            found[part.at] = part.analog[:, 0, 0]
    return found.tolist()


@pytest.mark.parametrize("layout", ["lab", "jungfrau"])
def test_frames_may_be_numbered_from_0(tmp_path: Path, layout: str) -> None:
    paths = run_of(tmp_path, layout, np.array([0, 1, 3]))
    assert values_of(paths, layout) == [1000, 1001, 0, 1002]
    # Behind other numbers, 0 is what was never written.
    with h5py.File(paths[0], "r+") as file:
        number = file["train" if layout == "lab" else "entry/data/frame number"]
        number[...] = np.reshape([7, 8, 0], number.shape)
    assert values_of(paths, layout) == [1000, 1001]


def test_frames_are_counted_from_the_first_train_that_is_listed(tmp_path: Path) -> None:
    """The header of the first and last train disagrees with the frames: all modules lost them."""
    pytest.importorskip("extra_data")
    paths = run_of(tmp_path, "euxfel", np.arange(6) + 500, "agipd")
    for path in paths:
        with h5py.File(path, "r+") as file:
            for header in (g["header"] for g in file["INSTRUMENT/SPB_DET_AGIPD1M-1/DET"].values()):
                header["pulseCount"][0] = header["pulseCount"][5] = 2
    assert values_of(paths, "euxfel", "agipd") == [0, 1001, 1002, 1003, 1004, 0]


@pytest.mark.parametrize("kind", [np.float32, np.uint32])
def test_frames_of_another_type_are_refused(tmp_path: Path, kind: type) -> None:
    path = run_of(tmp_path, "jungfrau", np.arange(1, 4))[0]
    with h5py.File(path, "r+") as file:
        values = file["entry/data/data"][()].astype(kind)
        del file["entry/data/data"]
        file["entry/data/data"] = values
    with pytest.raises(HklflowError, match="raw images are uint16"):
        values_of([path], "jungfrau")


def refused(raw: Path, constants: Path, *, ahead: bool = True, **params: Any) -> str:
    """The sentence of the job, which `hklflow check` tells too unless it needs the arrays."""
    with pytest.raises(HklflowError) as error:
        correct([raw], constants, raw.with_name("refused.nxs"), **params)
    assert not raw.with_name("refused.nxs").exists()
    if ahead:
        with pytest.raises(HklflowError) as told:
            rehearsed(raw, constants, **params)
        assert str(told.value) == str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    raw, constants = jungfrau(tmp_path, np.zeros((2, *STACK)))
    assert "states a wavelength of 1.033" in refused(raw, constants, energy=10.0)
    assert "contains no detector constants" in refused(raw, raw)
    one = write_constants(
        tmp_path / "one.nxs", [constants_of(truths("jungfrau", 1)[0], "jungfrau")]
    )
    assert "1 modules of jungfrau have (32, 64) pixels" in refused(raw, one)
    several = [constants_of(t, "jungfrau", m) for m, t in enumerate(truths("jungfrau", 2))]
    path = write_constants(tmp_path / "several.nxs", several)
    assert "which of the 2 memory cells" in refused(raw, path)
    levels = [constants_of(t, "agipd", m) for m, t in enumerate(truths("agipd", 1))]
    path = write_constants(tmp_path / "levels.nxs", levels)
    assert "have a separate digital part" in refused(raw, path)
    bench = [constants_of(t, "jungfrau", 7 + m) for m, t in enumerate(truths("jungfrau", 1))]
    for constants_of_module in bench:
        constants_of_module.about["as_modules"] = [0, 7]
    path = write_constants(tmp_path / "bench.nxs", bench)
    refusal = refused(raw, path)
    assert "module 8 were measured on a test bench, in the orientation of modules 0 to 7" in refusal
    mask = np.ones(MODULE, np.uint32)
    masked = [
        constants_of(t, "jungfrau", m, pixel_mask=mask) for m, t in enumerate(truths("jungfrau", 1))
    ]
    path = write_constants(tmp_path / "masked.nxs", masked)
    assert "every pixel is masked" in refused(raw, path, ahead=False)


def rehearsed(raw: Path, constants: Path, **params: Any) -> FrameFacts | None:
    known, out = Known(), raw.with_name("corrected.nxs")
    correct_frames.rehearse(
        inputs=correct_frames.Inputs(raw=[raw], constants=constants),
        outputs=correct_frames.Outputs(frames=out, picture=out, metrics=out),
        params=correct_frames.Params(**({"energy": ENERGY, "asic_size": ASIC} | params)),
        known=known,
    )
    return known.products.get(out)


def test_check_knows_the_frames_before_they_are_corrected(tmp_path: Path) -> None:
    raw, constants = jungfrau(tmp_path, np.zeros((2, *STACK)))
    facts = rehearsed(raw, constants)
    correct([raw], constants, tmp_path / "corrected.nxs")
    header = read_header(tmp_path / "corrected.nxs")
    with open_frames(tmp_path / "corrected.nxs") as frames:
        assert facts is not None
        assert (facts.shape, facts.dtype) == (frames.shape, frames.dtype)
    for name in ("wavelength", "start_deg", "step_deg", "exposure_time", "underload"):
        assert getattr(facts.header, name) == pytest.approx(getattr(header, name)), name
