"""The stages of photon counters on raw files, to the mask and the norm that use their constants."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.constants import files, flood
from hklflow.constants.gates import Gates, figures, judge
from hklflow.constants.simulate_counters import CounterTruth, counted, draw
from hklflow.formats.write_images import write_cbf_series
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry import Detector, corrections, detector_to_dict
from hklflow.images.masks import MaskBit
from hklflow.stage import norms
from hklflow.stages import (
    constants_report,
    counter_constants,
    counter_dark,
    counter_flood,
    counter_rate,
    counter_stability,
    import_scan,
    pixel_mask,
)

SHAPE, PIXEL, DISTANCE, CENTRE = (90, 120), 1e-3, 0.3, (42.0, 63.0)
FAST, SLOW = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)
ORIGIN = (CENTRE[1] * PIXEL, CENTRE[0] * PIXEL, DISTANCE)
TAU = 2e-7


def detector() -> Detector:
    return Detector(SHAPE, (PIXEL, PIXEL), np.array(ORIGIN), np.array(SLOW), np.array(FAST))


def write(path: Path, frames: np.ndarray, bits: np.ndarray, **more: Any) -> Path:
    """Frames (n, slow, fast) as NXmx."""
    header = {
        "pixel_size": (PIXEL, PIXEL), "origin": ORIGIN, "slow": SLOW, "fast": FAST,
        "wavelength": 0.5, "axis_names": ("phi",), "axes": [(-1.0, 0.0, 0.0)], "angles": [0.0],
        "start": 0.0, "step": np.radians(0.5), "exposure": 1e-3, "polarization": 0.99,
        "monitor": np.ones(len(frames)),
    }  # fmt: skip
    known = bits & np.uint32(MaskBit.GAP | MaskBit.VIRTUAL)
    with NXmxWriter(
        path, NXmxHeader(shape=SHAPE, n_frames=len(frames), pixel_mask=known, **(header | more))
    ) as writer:
        writer.append(np.where(frames < 0, 2**32 - 1, frames).astype(np.uint32))
    return path


def run(module: ModuleType, inputs: Any, outputs: Any, **params: Any) -> None:
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=1,
    )


@pytest.fixture(scope="module")
def truth() -> CounterTruth:
    gaps = np.zeros(SHAPE, bool)
    gaps[:, 58:62] = True
    return draw(np.random.default_rng(1), gaps, 8, fano=8.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, truth: CounterTruth) -> Path:
    """A folder with raw files and what the four measurements make of them."""
    at = tmp_path_factory.mktemp("counter")
    rng = np.random.default_rng(2)
    dark = rng.poisson(1e-3, (30, *SHAPE)).astype(np.int64)
    dark[::2, 12, 13] = 3
    write(at / "dark.nxs", dark, truth.bits)
    run(counter_dark, {"raw": [at / "dark.nxs"]}, {"constants": at / "dark_constants.nxs"})
    seen = corrections.solid_angle(detector())
    frames = np.concatenate(list(truth.flood(400.0 * seen, 60, rng)))
    write(at / "flood.nxs", frames, truth.bits)
    raws = {"raw": [at / "flood.nxs"], "dark": at / "dark_constants.nxs"}
    run(counter_flood, raws, {"constants": at / "flood_constants.nxs"}, block=7)
    rotation = rng.poisson(5.0, (40, *SHAPE)).astype(np.int64)
    rotation[rng.permutation(40)[:25], 70, 100] = 40
    write(at / "rotation.nxs", rotation, truth.bits)
    raws = {"raw": [at / "rotation.nxs"]}
    run(counter_stability, raws, {"constants": at / "stability_constants.nxs"})
    steps = [1.0, 0.5, 0.1]
    rates = rng.uniform(1e5, 2e6, 300)
    for t in steps:
        image = np.zeros((2, *SHAPE), np.int64)
        lit = np.zeros(SHAPE, bool)
        lit[20:30, 20:40] = lit[20:30, 80:90] = True
        image[:, lit] = [counted(t * rates, 1e-3, TAU, True, rng) for _ in range(2)]
        write(at / f"rate_{t}.nxs", image, truth.bits)
    raws = {"raw": [at / f"rate_{t}.nxs" for t in steps]}
    run(counter_rate, raws, {"constants": at / "rate_constants.nxs"}, transmission=steps)
    names = ("dark", "flood", "stability", "rate")
    run(
        counter_constants,
        {name: at / f"{name}_constants.nxs" for name in names},
        {"constants": at / "c.nxs", "picture": at / "c.png", "metrics": at / "c.json"},
    )
    return at


def test_report_of_all_measurements(folder: Path) -> None:
    """The dead time, a number among images, was taken for the first of the images."""
    outputs = {name: folder / f"{name}.png" for name in ("histograms", "maps")}
    run(constants_report, {"constants": folder / "c.nxs"}, outputs | {"table": folder / "t.json"})
    with h5py.File(folder / "c.nxs") as file:
        module = file["entry/instrument/detector/module_00"]
        assert module["dead_time"].shape == ()
        good = module["pixel_mask"][()] == 0
        flat = module["flatfield"][()][good]
    [row] = stage.read_json(folder / "t.json")["rows"]
    assert row["masked"] == pytest.approx(1 - good.mean())
    assert row["quantities"]["flatfield"]["median"] == pytest.approx(np.median(flat))


def joined(truth: CounterTruth) -> np.ndarray:
    """What all measurements together must say, apart from clusters."""
    bits = truth.bits.copy()
    bits[12, 13] |= MaskBit.NOISY
    bits[70, 100] |= MaskBit.NOISY
    return bits


def test_the_joined_mask_and_flat_are_the_truth(folder: Path, truth: CounterTruth) -> None:
    with files.open_constants(folder / "c.nxs") as constants:
        assert constants.modules == (0,)
        assert constants.about["measures"] == ["dark", "flood", "stability", "rate"]
        module = constants.module(0)
        quality = set(constants.group(0)["quality"])
    mask = module["pixel_mask"]
    assert np.array_equal(mask & ~np.uint32(MaskBit.CLUSTER), joined(truth))
    meanings = module.quantities["pixel_mask"].attrs
    assert dict(zip(meanings["bit_values"], meanings["bit_meanings"], strict=True))[16] == "noisy"
    good = mask == 0
    pull = (module["flatfield"] - truth.response)[good] / module["flatfield_errors"][good]
    assert 0.95 < np.sqrt(np.mean(pull**2)) < 1.05
    assert {"dispersion", "counts", "dark_rate", "strong_fraction"} <= quality
    metrics = stage.read_json(folder / "c.json")
    assert metrics["numbers"]["masked"] == int((mask != 0).sum())
    assert metrics["flat"]["standard deviation"] == pytest.approx(0.03, rel=0.1)
    assert metrics["pixels"] == mask.size
    assert len(stage.provenance(folder / "c.nxs")) == 5


def test_each_file_has_the_gaps_and_what_it_found(folder: Path, truth: CounterTruth) -> None:
    gap = truth.bits & np.uint32(MaskBit.GAP)
    for name, place in (("dark", (12, 13)), ("stability", (70, 100))):
        expected = gap.copy()
        expected[place] = MaskBit.NOISY
        part = files.read_part(folder / f"{name}_constants.nxs")
        assert np.array_equal(part["pixel_mask"], expected)


def test_the_dead_time_and_its_limit_are_stored(folder: Path) -> None:
    with files.open_constants(folder / "c.nxs") as constants:
        facts = dict(constants.group(0)["dead_time"].attrs)
        observed, true = (constants.group(0)[name][()] for name in ("observed_rate", "true_rate"))
    assert facts["units"] == "s"
    assert facts["dead_time"] == pytest.approx(TAU, abs=4 * facts["dead_time_error"])
    assert facts["limit_1_percent"] == pytest.approx(-np.log(0.99) / TAU, rel=0.3)
    assert (observed[1:] < true[1:]).all()
    part = files.read_part(folder / "rate_constants.nxs")
    taus, errors = part["dead_time_module"], part["dead_time_module_errors"]
    assert taus.shape == (2,)
    assert (np.abs(taus - TAU) < 4 * errors).all()


def test_the_mask_and_the_norm_take_the_constants(
    folder: Path, truth: CounterTruth, tmp_path: Path
) -> None:
    run(import_scan, {"raw": [folder / "rotation.nxs"]}, {"scan": tmp_path / "scan.nxs"})
    made = {name: tmp_path / f"mask.{end}" for name, end in
            (("mask", "nxs"), ("picture", "png"), ("metrics", "json"))}  # fmt: skip
    given = {"constants": folder / "c.nxs", "find_defects": False}
    run(pixel_mask, {"scan": tmp_path / "scan.nxs"}, made, **given)
    mask = nexus.read_mask(tmp_path / "mask.nxs")
    assert np.array_equal(mask & ~np.uint32(MaskBit.CLUSTER), joined(truth))
    scan = nexus.read_scan(tmp_path / "scan.nxs").rotation
    plain = {"solid_angle": False, "polarization": False}

    def norm(**more: Any) -> np.ndarray:
        corrections = norms.Corrections(**plain, **more)
        return norms.pixel_norm(tmp_path / "mask.nxs", corrections, scan.detector, scan)[0]

    found = norm(flat_field=folder / "c.nxs")
    assert (found[mask != 0] == 0).all()
    assert np.allclose(found[mask == 0], truth.response[mask == 0], rtol=0.04)
    np.save(tmp_path / "flat.npy", flood.read_flat(folder / "c.nxs"))
    assert np.array_equal(norm(flat_field=tmp_path / "flat.npy"), found)
    np.save(tmp_path / "flat.npy", np.ones((3, 4)))
    with pytest.raises(HklflowError, match=r"has \(3, 4\) pixels, the frames have \(90, 120\)"):
        norm(flat_field=tmp_path / "flat.npy")


def test_gates_judge_counters_too(folder: Path) -> None:
    with files.open_constants(folder / "c.nxs") as constants:
        verdicts = judge(figures(constants), Gates())
    assert verdicts
    assert all(gate["passed"] for gate in verdicts)


def test_a_series_with_a_calibrated_geometry(
    folder: Path, truth: CounterTruth, tmp_path: Path
) -> None:
    """CBF with a wrong header; the calibration says where the detector is."""
    with h5py.File(folder / "flood.nxs") as file:
        frames = file["entry/data/data"][()].astype(np.int64)
    write_cbf_series(
        tmp_path, "flood", [frames], wavelength=0.5, distance=0.05, beam_centre=(0, 0),
        pixel_size=(PIXEL, PIXEL), start=0, step=0, exposure=1e-3, monitor=np.ones(60),
        pixel_mask=truth.bits & np.uint32(MaskBit.GAP),
    )  # fmt: skip
    series = {"raw": [tmp_path / "flood_00001.cbf", tmp_path / "flood_00060.cbf"]}
    pattern = str(tmp_path / "flood_#####.cbf")
    data = {
        "detector": detector_to_dict(detector()),
        "beam": {"wavelength_A": 0.5, "polarization": 0.99},
    }
    stage.write_json(tmp_path / "geometry.json", data)
    series["geometry"] = tmp_path / "geometry.json"
    series["dark"] = folder / "dark_constants.nxs"
    run(counter_flood, series, {"constants": tmp_path / "out.nxs"}, pattern=pattern)
    first, second = (
        files.read_part(path) for path in (folder / "flood_constants.nxs", tmp_path / "out.nxs")
    )
    assert np.array_equal(first["pixel_mask"], second["pixel_mask"])
    assert np.allclose(first["flatfield"], second["flatfield"], equal_nan=True, rtol=1e-6)
    # Every n-th frame, of a series.
    rotation = {"raw": series["raw"]}
    made = {"constants": tmp_path / "stable.nxs"}
    run(counter_stability, rotation, made, pattern=pattern, every=5)
    assert files.read_part(tmp_path / "stable.nxs").about["frames"] == 12
    with pytest.raises(HklflowError, match=r"only 6 frames of .* are used"):
        run(counter_stability, rotation, made, pattern=pattern, every=10)


def without_geometry(folder: Path, at: Path) -> None:
    frames = np.full((2, *SHAPE), 500)
    bits = np.zeros(SHAPE, np.uint32)
    unknown = dict.fromkeys(("pixel_size", "origin", "slow", "fast"))
    path = write(at / "unknown.nxs", frames, bits, **unknown)
    run(counter_flood, {"raw": [path]}, {"constants": at / "out.nxs"})


def other_detector(folder: Path, at: Path) -> None:
    mask = files.Quantity(np.zeros((5, 6), np.uint32))
    files.write_part(at / "dark.nxs", "dark", files.Constants({}, {"pixel_mask": mask}))
    raws = {"raw": [folder / "flood.nxs"], "dark": at / "dark.nxs"}
    run(counter_flood, raws, {"constants": at / "out.nxs"})


def nothing(folder: Path, at: Path) -> None:
    outputs = {name: at / name for name in ("constants", "picture", "metrics")}
    run(counter_constants, {}, outputs)


def few_transmissions(folder: Path, at: Path) -> None:
    raws = {"raw": [folder / "rate_1.0.nxs", folder / "rate_0.5.nxs"]}
    run(counter_rate, raws, {"constants": at / "out.nxs"}, transmission=[1.0])


def other_exposure(folder: Path, at: Path) -> None:
    path = write(at / "r.nxs", np.ones((2, *SHAPE)), np.zeros(SHAPE, np.uint32), exposure=2e-3)
    raws = {"raw": [folder / "rate_1.0.nxs", path]}
    run(counter_rate, raws, {"constants": at / "out.nxs"}, transmission=[1.0, 0.5])


def no_exposure(folder: Path, at: Path) -> None:
    path = write(at / "r.nxs", np.ones((2, *SHAPE)), np.zeros(SHAPE, np.uint32), exposure=None)
    raws = {"raw": [path, folder / "rate_1.0.nxs"]}
    run(counter_rate, raws, {"constants": at / "out.nxs"}, transmission=[1.0, 0.5])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (without_geometry, "has no detector geometry"),
        (other_detector, r"has \(5, 6\) pixels"),
        (nothing, "one or more of dark, flood, stability, rate"),
        (few_transmissions, "1 values for 2 runs"),
        (other_exposure, "measure all transmissions with"),
        (no_exposure, "states no exposure"),
    ],
)
def test_what_is_wrong_is_told(
    folder: Path, tmp_path: Path, wrong: Callable[[Path, Path], None], told: str
) -> None:
    with pytest.raises(HklflowError, match=told):
        wrong(folder, tmp_path)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_transmissions_are_above_zero(wrong: float) -> None:
    with pytest.raises(ValidationError, match=r"is not a transmission|a finite number"):
        counter_rate.Params(transmission=(1.0, wrong))


def test_gaps_of_a_named_detector_and_the_users_mask(folder: Path, tmp_path: Path) -> None:
    """Zeros in unflagged gaps are gaps and not dead, where the detector is named."""
    from pyFAI.detectors import detector_factory

    gaps = detector_factory("Pilatus 300k").mask != 0
    shape = (619, 487)
    bits = np.where(gaps, np.uint32(MaskBit.DEAD), np.uint32(0))
    bits[100:102, 200] = MaskBit.DEAD
    mask = files.Quantity(bits)
    files.write_part(tmp_path / "s.nxs", "s", files.Constants({}, {"pixel_mask": mask}))
    user = np.zeros(shape)
    user[3, 4] = 1
    np.save(tmp_path / "user.npy", user)
    outputs = {name: tmp_path / f"out{end}" for name, end in
               (("constants", ".nxs"), ("picture", ".png"), ("metrics", ".json"))}  # fmt: skip
    given = {"detector": "Pilatus 300k", "image": tmp_path / "user.npy"}
    run(counter_constants, {"stability": tmp_path / "s.nxs"}, outputs, **given)
    found = flood.read_pixel_mask(tmp_path / "out.nxs")
    assert found[3, 4] == MaskBit.USER
    assert (found[100:102, 200] == MaskBit.DEAD | MaskBit.CLUSTER).all()
    assert (found[gaps] == MaskBit.GAP).all()
    assert int((found != 0).sum()) == 3 + gaps.sum()
    # A count rate alone knows the gaps.
    run(counter_constants, {"rate": folder / "rate_constants.nxs"}, outputs)
    assert (flood.read_pixel_mask(tmp_path / "out.nxs")[:, 58:62] == MaskBit.GAP).all()
    with pytest.raises(HklflowError, match="Pilatus 1M"):
        run(counter_constants, {"stability": tmp_path / "s.nxs"}, outputs, detector="Pilatus 1M")
