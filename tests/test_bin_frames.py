"""The quick look's stages: block sums of raw frames, and what is binned along with them."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hklflow import geometry, nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.cli.calibration.build import bragg_products
from hklflow.experiment import config
from hklflow.experiment.cost import Estimate, Shape
from hklflow.experiment.jobs import job_counts
from hklflow.formats.raw import open_frames, read_header, read_variance
from hklflow.formats.write_images import write_cbf_series
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.modules import Modules
from hklflow.images import masks
from hklflow.images.masks import MaskBit
from hklflow.images.pixel_binning import PixelBinning
from hklflow.page.place import place
from hklflow.simulation.frames import (
    Background,
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stage import norms
from hklflow.stage.rehearsal import Known, read_facts
from hklflow.stages import bin_frames, import_scan, pixel_mask, powder_calibration, sample_page
from tests.parameters import params_of

from .test_config import CONFIG, base  # noqa: F401  (base is a fixture)

N, SHAPE = 13, (43, 66)
DETECTOR = DetectorModel(
    SHAPE,
    0.1,
    (18.0, 27.0),
    (172e-6, 100e-6),
    tilt=(0.1, -0.2),
    in_plane=0.3,
    gaps=((17, 19, 0, 66), (0, 43, 31, 33)),
    sensor_thickness=450e-6,
)
SIMULATION = Simulation(
    DETECTOR,
    GoniometerModel(((0, 1, 0), (-1, 0, 0)), (0.4, 0.0), ("omega", "phi"), 1),
    ScanModel(0.2, 0.01, N, 0.4, flux=1e3, exposure=0.25, drift=0.1, temperature=120.0),
    CrystalModel((4, 4, 4, 90, 90, 90)),
    background=Background(air=3.0),
)


def counts(dtype: Any = np.uint32) -> np.ndarray:
    found = np.random.default_rng(1).poisson(7.0, (N, *SHAPE)).astype(dtype)
    gaps = DETECTOR.gap_mask != 0
    found[:, gaps] = -1 if np.dtype(dtype).kind == "i" else np.iinfo(dtype).max
    return found


def write(path: Path, frames: np.ndarray, **changes: Any) -> Path:
    with NXmxWriter(
        path, NXmxHeader(**(SIMULATION.raw_header() | {"dtype": frames.dtype} | changes))
    ) as out:
        out.append(frames)
    return path


def binned(raw: list[Path], out: Path, **params: Any) -> Path:
    stage.run(
        bin_frames.main,
        inputs=bin_frames.Inputs(raw=raw),
        outputs=bin_frames.Outputs(binned=out),
        params=bin_frames.Params(**{"binning": 4} | params),
        threads=params.pop("threads", 2),
    )
    return out


def imported(raw: Path, scan: Path, calibration: Path | None = None, **params: Any) -> Any:
    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[raw], geometry=calibration),
        outputs=import_scan.Outputs(scan=scan),
        params=import_scan.Params(**params),
        threads=1,
    )
    return nexus.read_scan(scan)


def frames_of(path: Path) -> np.ndarray:
    with open_frames(path) as frames:
        return frames.read(0, frames.shape[0])


def summed(frames: np.ndarray, b: int) -> np.ndarray:
    rows, columns = frames.shape[1] // b, frames.shape[2] // b
    cut = frames[:, : rows * b, : columns * b].astype(np.int64)
    return cut.reshape(-1, rows, b, columns, b).sum(axis=(2, 4))


# ------------------------------------------------------------------------------- bin_frames


@pytest.mark.parametrize("block", [1, 5, 16])
def test_sums_and_facts(tmp_path: Path, block: int) -> None:
    """Blocks with a masked pixel are flagged; what the raw file says is said of the sums."""
    raw = write(tmp_path / "raw.nxs", counts(), saturation=1000)
    path = binned([raw], tmp_path / "binned.nxs", block=block)
    gaps = summed(DETECTOR.gap_mask[None] != 0, 4)[0] > 0
    expected = summed(np.where(DETECTOR.gap_mask != 0, 0, counts()), 4)
    expected[:, gaps] = 2**32 - 1
    np.testing.assert_array_equal(frames_of(path), expected)
    before, after = read_header(raw), read_header(path)
    assert after.binning == PixelBinning(4, SHAPE)
    assert before.binning is None
    np.testing.assert_array_equal(after.pixel_mask, gaps)
    assert after.saturation == 16 * 999 + 1
    for name in ("wavelength", "start_deg", "step_deg", "exposure_time", "temperature"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-12)
    np.testing.assert_array_equal(after.monitor, before.monitor)
    assert (after.polarization, after.n_frames) == (before.polarization, N)
    assert after.goniometer is not None
    assert before.goniometer is not None
    np.testing.assert_allclose(after.goniometer.axes, before.goniometer.axes, atol=1e-12)
    assert after.detector is not None
    assert before.detector is not None
    assert after.detector.shape == (10, 16)
    at = np.array([3.3, 7.1]), np.array([0.4, 15.9])
    np.testing.assert_allclose(
        after.detector.lab(*at), before.detector.lab(4 * at[0], 4 * at[1]), atol=1e-9
    )


def test_the_saturation_of_the_configuration_is_that_of_a_pixel(tmp_path: Path) -> None:
    frames = counts(np.int32)
    frames[4, 2, 3] = 21
    raw = write(tmp_path / "raw.nxs", frames, saturation=1000)
    path = binned([raw], tmp_path / "binned.nxs", saturation=20.5)
    found, header = frames_of(path), read_header(path)
    assert header.saturation == 16 * 20 + 1
    assert found[4, 0, 0] == header.saturation
    assert found[3, 0, 0] == summed(frames, 4)[3, 0, 0]


def test_a_series_of_images(tmp_path: Path) -> None:
    frames = counts(np.int32)
    paths = write_cbf_series(
        tmp_path,
        "x",
        [frames],
        wavelength=0.4,
        distance=0.1,
        beam_centre=(18.0, 27.0),
        pixel_size=(172e-6, 172e-6),
        start=0.2,
        step=0.01,
        exposure=0.1,
        monitor=np.ones(N),
        pixel_mask=DETECTOR.gap_mask,
        saturation=5000,
    )
    pattern = str(tmp_path / "x_#####.cbf")
    path = binned([paths[0], paths[-1]], tmp_path / "binned.nxs", pattern=pattern, binning=2)
    bad = summed(frames < 0, 2) > 0
    np.testing.assert_array_equal(frames_of(path)[~bad], summed(frames, 2)[~bad])
    assert (frames_of(path)[bad] == 2**32 - 1).all()


def test_corrected_frames_keep_their_read_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frames = (rng.integers(-30, 300, (N, *SHAPE)) / 16).astype(np.float32)
    frames[2, 5, 5] = np.nan
    noise = rng.uniform(0.1, 0.4, SHAPE)
    mask = np.zeros(SHAPE, np.uint32)
    mask[20, 20] = MaskBit.DEAD
    low = float(np.finfo(np.float32).min)
    header = {"underload": low, "read_variance": noise, "pixel_mask": mask, "saturation": 500}
    raw = write(tmp_path / "corrected.nxs", frames, **header)
    path = binned([raw], tmp_path / "binned.nxs")
    found = frames_of(path)
    bad = np.zeros(found.shape, bool)
    bad[2, 1, 1] = bad[:, 5, 5] = True
    np.testing.assert_array_equal(np.isnan(found), bad)
    expected = summed(np.nan_to_num(frames) * 16, 4) / 16
    np.testing.assert_array_equal(found[~bad], expected[~bad])
    scan = imported(path, tmp_path / "scan.nxs", binning=4)
    assert (scan.underload, scan.saturation) == (low, 8000)
    np.testing.assert_allclose(
        read_variance(scan), summed(noise[None] * 1e9, 4)[0] / 1e9, rtol=1e-6
    )


@pytest.mark.parametrize("b", [2, 8])
def test_sums_of_read_noise_are_not_cut_at_a_pixels_smallest_value(tmp_path: Path, b: int) -> None:
    """What later stages keep is every block without a pixel below, with the pixels' mean."""
    rng = np.random.default_rng(b)
    frames = rng.normal(0.2, 3.0, (N, *SHAPE)).astype(np.float32)
    below = frames < -10
    assert 0 < below.sum() < 0.001 * below.size
    header = {"underload": -10.0, "read_variance": np.full(SHAPE, 9.0), "pixel_mask": None}
    raw = write(tmp_path / "raw.nxs", frames, **header)
    path = binned([raw], tmp_path / "binned.nxs", binning=b)
    scan = imported(path, tmp_path / "scan.nxs", binning=b)
    assert scan.underload == -10 * b**2
    found = frames_of(path)
    kept = ~np.array([masks.flagged(frame, np.inf, scan.underload) for frame in found])
    np.testing.assert_array_equal(kept, summed(below, b) == 0)
    assert found[kept].min() < -10
    expected = 0.2 + np.array([-4, 4]) * 3.0 / np.sqrt(kept.sum() * b**2)
    assert expected[0] < found[kept].mean() / b**2 < expected[1]


def test_binned_frames_are_not_binned_again(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw.nxs", counts())
    first = binned([raw], tmp_path / "binned.nxs")
    with pytest.raises(
        HklflowError, match="is already binned 4 x 4; enter the unbinned raw frames"
    ) as error:
        binned([first], tmp_path / "twice.nxs", binning=2)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "twice.nxs").exists()


def test_a_powder_image_is_not_binned_twice(tmp_path: Path) -> None:
    first = binned([write(tmp_path / "raw.nxs", counts())], tmp_path / "binned.nxs")
    params = powder_calibration.Params(
        wavelength=0.4, pixel_size=DETECTOR.pixel_size, polarization=0.99, binning=4
    )
    with pytest.raises(HklflowError, match="is already binned 4 x 4; give the image as measured"):
        powder_calibration.prepare(first, params)


# --------------------------------------------------------------------- import of the frames


@pytest.mark.parametrize(("file", "binning"), [("raw", 4), ("binned", 1), ("binned", 2)])
def test_frames_of_another_binning_are_refused(tmp_path: Path, file: str, binning: int) -> None:
    raw = write(tmp_path / "raw.nxs", counts())
    binned([raw], tmp_path / "binned.nxs")
    with pytest.raises(
        HklflowError, match=f"`binning` is {binning}: enter the unbinned raw frames"
    ):
        imported(tmp_path / f"{file}.nxs", tmp_path / "scan.nxs", binning=binning)


def calibration(folder: Path, shape: tuple[int, int] = SHAPE, modules: bool = False) -> Path:
    # Two of them touch, within a block.
    boxes = [[0, 10, 0, 31], [10, 17, 0, 31], [0, 17, 33, 66], [19, 43, 0, 31], [19, 43, 33, 66]]
    displaced = Modules(np.array(boxes), np.full((5, 2), 0.3), np.full(5, 0.01), 100 / 172)
    detector = geometry.Detector(
        shape,
        DETECTOR.pixel_size,
        DETECTOR.origin,
        DETECTOR.slow,
        DETECTOR.fast,
        modules=displaced if modules else None,
    )
    beam = {"wavelength_A": 0.4, "polarization": 0.98}
    data = {"detector": geometry.detector_to_dict(detector), "beam": beam}
    path = folder / "geometry.json"
    path.write_text(json.dumps(data))
    return path


def test_a_calibration_of_the_frames_as_measured_is_binned(tmp_path: Path) -> None:
    raw = binned([write(tmp_path / "raw.nxs", counts())], tmp_path / "binned.nxs")
    given = calibration(tmp_path, modules=True)
    scan = imported(raw, tmp_path / "scan.nxs", given, binning=4)
    assert scan.binning == PixelBinning(4, SHAPE)
    detector = scan.rotation.detector
    assert detector.shape == (10, 16)
    assert detector.modules is not None
    whole = geometry.detector_from_dict(json.loads(given.read_text())["detector"])
    np.testing.assert_allclose(detector.lab(1.5, 3.5), whole.lab(6.0, 14.0), atol=1e-12)


def of_binned(folder: Path, factor: int, unbinned: tuple[int, int] = SHAPE) -> Path:
    """A calibration whose pixels are blocks."""
    path = calibration(folder, (unbinned[0] // factor, unbinned[1] // factor))
    data = json.loads(path.read_text())
    data["detector"]["pixel_size_m"] = [factor * size for size in DETECTOR.pixel_size]
    data["binning"] = {"factor": factor, "unbinned": list(unbinned)}
    path.write_text(json.dumps(data))
    return path


def test_a_calibration_of_the_same_binning_is_used_as_it_is(tmp_path: Path) -> None:
    raw = binned([write(tmp_path / "raw.nxs", counts())], tmp_path / "binned.nxs")
    scan = imported(raw, tmp_path / "scan.nxs", of_binned(tmp_path, 4), binning=4)
    detector = scan.rotation.detector
    assert detector.shape == (10, 16)
    assert detector.pixel_size == (4 * 172e-6, 4 * 100e-6)
    at = DETECTOR.origin + 1.5 * 4 * 172e-6 * DETECTOR.slow + 3.5 * 4 * 100e-6 * DETECTOR.fast
    np.testing.assert_allclose(detector.lab(1.5, 3.5), at, atol=1e-12)


@pytest.mark.parametrize(
    ("made", "unbinned", "used"), [(4, SHAPE, 1), (2, SHAPE, 4), (4, (SHAPE[0] - 1, 66), 4)]
)
def test_a_calibration_of_another_binning_is_never_used(
    tmp_path: Path, made: int, unbinned: tuple[int, int], used: int
) -> None:
    raw = write(tmp_path / "raw.nxs", counts())
    if used > 1:
        raw = binned([raw], tmp_path / "binned.nxs", binning=used)
    given = of_binned(tmp_path, made, unbinned)
    with pytest.raises(HklflowError, match=f"binned {made} x {made}, but these are") as error:
        imported(raw, tmp_path / "scan.nxs", given, binning=used)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "scan.nxs").exists()


def test_a_calibration_of_unknown_binning_with_blocks_as_pixels_is_refused(tmp_path: Path) -> None:
    """Also one whose last rows would be cut off: it is of another detector."""
    raw = binned([write(tmp_path / "raw.nxs", counts())], tmp_path / "binned.nxs")
    for shape in ((10, 16), (42, 66)):
        given = calibration(tmp_path, shape)
        with pytest.raises(HklflowError, match="give the file for the unbinned frames"):
            imported(raw, tmp_path / "scan.nxs", given, binning=4)


# --------------------------------------------------------------------- masks and flat fields


def test_steps_of_the_mask_are_drawn_on_the_frames_as_measured(tmp_path: Path) -> None:
    raw = binned([write(tmp_path / "raw.nxs", counts())], tmp_path / "binned.nxs")
    imported(raw, tmp_path / "scan.nxs", calibration(tmp_path, modules=True), binning=4)
    image = np.zeros(SHAPE, np.uint8)
    image[41, 2] = 1  # is cut off with its row
    image[22, 61] = 1
    np.save(tmp_path / "mask.npy", image)
    stage.run(
        pixel_mask.main,
        inputs=pixel_mask.Inputs(scan=tmp_path / "scan.nxs"),
        outputs=pixel_mask.Outputs(
            mask=tmp_path / "mask.nxs",
            picture=tmp_path / "mask.png",
            metrics=tmp_path / "mask.json",
        ),
        params=pixel_mask.Params(
            edges=1,
            image=tmp_path / "mask.npy",
            shapes=[
                {
                    "shape": "rectangle",
                    "op": "add",
                    "slow_min": 8.2,
                    "slow_max": 9.8,
                    "fast_min": 50.2,
                    "fast_max": 51.8,
                }
            ],
            find_defects=False,
        ),
        threads=1,
    )
    bad = nexus.read_mask(tmp_path / "mask.nxs") != 0
    native = (DETECTOR.gap_mask != 0) | (image != 0)
    native[[0, -1]] = True
    native[:, [0, -1]] = True
    native[8:10, 50:52] = True
    expected = summed(native[None], 4)[0] > 0
    # Of more than one module: rows 16 to 19, columns 28 to 35, and the border that is cut.
    expected[4] = expected[:, 7:9] = expected[2, :9] = True
    np.testing.assert_array_equal(bad, expected)
    assert (~bad).mean() > 0.3


def test_the_norm_of_a_block_is_the_sum_over_its_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = binned([write(tmp_path / "raw.nxs", counts())], tmp_path / "binned.nxs")
    scan = imported(raw, tmp_path / "scan.nxs", binning=4)
    nexus.write_mask(tmp_path / "mask.nxs", np.zeros((10, 16), np.uint32))
    flat = np.random.default_rng(5).uniform(0.8, 1.2, SHAPE)
    # Of unknown response: counts of the block are those of all its pixels.
    flat[7, 9], flat[12, 31], flat[20, 40], flat[24, 3] = np.nan, 0, np.inf, -1
    np.save(tmp_path / "flat.npy", flat)
    detector = scan.rotation.detector
    plain = {"solid_angle": False, "polarization": False, "efficiency": False}
    wanted = norms.Corrections(flat_field=tmp_path / "flat.npy", **plain)
    found, *_ = norms.pixel_norm(
        tmp_path / "mask.nxs", wanted, detector, scan.rotation, scan.binning
    )
    cut = flat[:40, :64].reshape(10, 4, 16, 4)
    expected = cut.sum(axis=(1, 3))
    expected[1, 2] = expected[3, 7] = expected[5, 10] = expected[6, 0] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert "note: 4 of 160 good blocks are not measured" in capsys.readouterr().out
    other = replace(scan.binning, unbinned=(SHAPE[0] + 1, SHAPE[1]))
    with pytest.raises(HklflowError, match=r"flat field .* give the file for the unbinned frames"):
        norms.pixel_norm(tmp_path / "mask.nxs", wanted, detector, scan.rotation, other)


# ---------------------------------------------------------------- what the configuration makes


def test_parameters_in_pixels_are_those_of_the_frames_as_measured(base: Path) -> None:  # noqa: F811
    limits = [{"of": of, "above": 10.0, "below": 1.0} for of in ("mean", "std")]
    sections = {
        "find_peaks": {"window": 9, "max_pixels": 150, "threshold": 400},
        "mask_3d": {"reach": 100.0},
        "pixel_mask": {"edges": 3, "limits": limits},
        "import_scan": CONFIG["import_scan"] | {"saturation": 1000.0},
    }
    plain = config.load(CONFIG | sections, base)
    quick = config.load(CONFIG | sections | {"binning": 4}, base)
    key = ("hexa", "300K")
    rotation = plain.rotations(*key)[0]
    assert quick.paths.folder == f"{plain.paths.folder}_binned4"
    own = plain.settings(*key).find_peaks
    assert params_of(plain, "find_peaks", *key, rotation).model_dump(exclude={"gain"}) == (
        own.model_dump()
    )
    found = params_of(quick, "find_peaks", *key, rotation)
    assert (found.window, found.max_pixels, found.min_pixels) == (5, 38, 2)
    assert found.threshold == 400 * 16
    without = params_of(config.load(CONFIG | {"binning": 4}, base), "find_peaks", *key, rotation)
    assert without.threshold is None
    # In blocks.
    own, converge = quick.settings(*key).converge, params_of(quick, "converge", *key)
    assert (own.module_offset, own.reintegrate) == (converge.module_offset, converge.reintegrate)
    assert params_of(quick, "mask_3d", *key, rotation).reach == 25
    mask = params_of(quick, "pixel_mask", *key, rotation)
    assert mask.edges == 3
    assert [(x.below, x.above) for x in mask.limits] == [(16, 160), (4, 40)]
    params = params_of(quick, "import_scan", *key, rotation)
    assert (params.binning, params.saturation) == (4, None)
    assert params_of(quick, "bin_frames", *key, rotation).saturation == 1000
    assert params_of(plain, "import_scan", *key, rotation).saturation == 1000
    assert params_of(quick, "merge", *key, kind="transform").title.endswith(", binned 4 x 4")
    assert json.loads(quick.resolved_json(*key))["binning"] == 4
    assert "binning" not in json.loads(plain.resolved_json(*key))
    counts, estimates = job_counts(quick), Estimate(quick, learn=False)
    assert "bin_frames" not in job_counts(plain)
    assert set(counts["bin_frames"]) == set(counts["import_scan"])
    shape = Shape(3600, 4_000_000, 1_000_000)
    whole = Estimate(plain, learn=False)
    assert estimates.seconds("find_peaks", shape) < 0.1 * whole.seconds("find_peaks", shape)
    assert estimates.seconds("bin_frames", shape) > 100


@pytest.mark.parametrize("given", [{"binning": 3}, {"import_scan": {"binning": 4}}])
def test_what_is_refused_of_the_configuration(given: dict[str, Any], base: Path) -> None:  # noqa: F811
    with pytest.raises(HklflowError, match="binning"):
        config.load(CONFIG | given, base)


def test_raw_files_among_the_results_of_a_quick_look_are_refused(base: Path) -> None:  # noqa: F811
    """What is there may be deleted at any time."""
    table = base / "config/scans.tsv"
    plain = config.load(CONFIG, base)
    folder = f"{plain.paths.folder}_binned4"
    (base / folder).mkdir()
    first = next(iter(plain.scans.values())).rotations
    raw = next(iter(first.values())).raw
    (base / raw).rename(base / folder / "x.nxs")
    table.write_text(table.read_text().replace(raw, f"{folder}/x.nxs"))
    config.load(CONFIG, base)
    config.load(CONFIG | {"binning": 2}, base)
    with pytest.raises(
        HklflowError,
        match=f"'{folder}' cannot be the folder of the quick look's products: {folder}/x.nxs is in",
    ):
        config.load(CONFIG | {"binning": 4}, base)


def test_the_page_knows_products_that_are_shared() -> None:
    params = sample_page.Params(
        sample="s", results="out_binned4", shared="out", scans=["a"], temperatures=[1.5]
    )
    for name, part in (
        ("out/calibration/powder/rings.png", "calibration"),
        ("out/s/a/r1/corrected.png", "scan"),
        ("out_binned4/s/a/r1/mask.png", "scan"),
    ):
        path = Path(name)
        folder = sample_page.folder_of(path, params)
        assert place(path, folder, "s", ["a"]).part == part


def test_no_version_of_a_store_comes_from_a_quick_look(base: Path) -> None:  # noqa: F811
    experiment = config.load(CONFIG | {"binning": 4}, base)
    target: Any = SimpleNamespace(experiment=experiment, name="beamline")
    with pytest.raises(HklflowError, match="versions of the store are of frames as measured"):
        bragg_products(target, "hexa/300K")


def test_no_version_of_a_store_comes_from_a_scan_that_was_reduced_with_several() -> None:
    numbers = {"r1": 3, "r2": 4}
    experiment = SimpleNamespace(
        config=SimpleNamespace(binning=1),
        scans={("hexa", "300K"): None},
        rotations=lambda sample, scan: numbers,
        rotation=lambda sample, scan, name: SimpleNamespace(calibration="beamline"),
        version=lambda sample, scan, name: SimpleNamespace(number=numbers[name]),
    )
    target: Any = SimpleNamespace(experiment=experiment, name="beamline")
    with pytest.raises(HklflowError, match=r"several versions \(3, 4\); reduce them with one"):
        bragg_products(target, "hexa/300K")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("saturation", [None, 500.0])
def test_check_knows_the_sums_that_the_stage_writes(
    tmp_path: Path, dtype: Any, saturation: float | None
) -> None:
    frames = np.full((N, *SHAPE), 3, dtype)
    raw = write(tmp_path / "raw.nxs", frames, saturation=saturation)
    out = binned([raw], tmp_path / "binned.nxs", binning=2)
    known = Known({out: None})
    bin_frames.rehearse(
        inputs=bin_frames.Inputs(raw=[raw]),
        outputs=bin_frames.Outputs(binned=out),
        params=bin_frames.Params(binning=2),
        known=known,
    )
    rehearsed, written = known.products[out], read_facts(str(out))
    assert (rehearsed.shape, rehearsed.dtype) == (written.shape, written.dtype)
    for name in ("saturation", "underload", "binning", "wavelength", "exposure_time"):
        assert getattr(rehearsed.header, name) == getattr(written.header, name), name
    assert (rehearsed.header.pixel_mask == written.header.pixel_mask).all()
