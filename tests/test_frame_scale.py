"""The stages that find and use the scale of the frames, on simulated raw files with known truth."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stages import find_peaks, frame_scale, import_scan, transform
from hklflow.transform import binning
from tests.truth.orientations import write_orientation

N = 90
CRYSTAL = CrystalModel((5.2, 5.2, 7.1, 90, 90, 120), scale=20.0, mosaic=0.01)
Z = (np.arange(N) + 0.5) / N
SMOOTH = 1 - 0.3 * np.sin(np.pi * Z) ** 2


def simulation(
    transmission: np.ndarray | float,
    *,
    finer: float = 1.0,
    flux: float = 8.0,
    exposure: float = 1.0,
    attenuator: float = 1.0,
    drift: float = -0.3,
    seed: int = 0,
) -> Simulation:
    return Simulation(
        DetectorModel(
            (round(110 * finer), round(120 * finer)),
            0.08,
            (52.0 * finer, 61.0 * finer),
            (5e-4 / finer, 5e-4 / finer),
        ),
        GoniometerModel(),
        ScanModel(
            0.0,
            np.radians(2.0),
            N,
            0.5,
            flux=flux,
            exposure=exposure,
            attenuator=attenuator,
            drift=drift,
            transmission=tuple(np.broadcast_to(transmission, N)),
            seed=seed,
        ),
        CRYSTAL,
        # Flat: the sample's own modulation would be in the background.
        Diffuse(flat=1.0),
    )


@dataclass
class Made:
    folder: Path
    simulation: Simulation
    mask: np.ndarray

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def make(folder: Path, simulated: Simulation, factor: float = 1.0) -> Made:
    """Raw file, scan file, mask and frame statistics; the counts' expectation times `factor`."""
    folder.mkdir()
    header = simulated.raw_header()
    with NXmxWriter(folder / "raw.nxs", NXmxHeader(**header)) as writer:
        if factor == 1.0:
            for block in simulated.frames(20):
                writer.append(block)
        else:
            rng = np.random.default_rng(simulated.scan.seed)
            writer.append(rng.poisson(simulated.expected() * factor).astype(np.uint32))
    made = Made(folder, simulated, np.zeros(simulated.detector.shape, np.uint32))
    measure(made)
    return made


def measure(made: Made, **imported: Any) -> None:
    """Scan file, mask and frame statistics of a raw file."""
    run(
        import_scan,
        import_scan.Inputs(raw=[made / "raw.nxs"]),
        import_scan.Outputs(scan=made / "scan.nxs"),
        **imported,
    )
    nexus.write_mask(made / "mask.nxs", made.mask)
    run(
        find_peaks,
        find_peaks.Inputs(scan=made / "scan.nxs", mask=made / "mask.nxs"),
        find_peaks.Outputs(
            peaks=made / "peaks.nxs",
            picture=made / "peaks.png",
            metrics=made / "peaks.json",
            statistics=made / "statistics.nxs",
            statistics_picture=made / "statistics.png",
            statistics_metrics=made / "statistics.json",
        ),
    )


def run(module: Any, inputs: Any, outputs: Any, **params: Any) -> None:
    stage.run(
        module.main, inputs=inputs, outputs=outputs, params=module.Params(**params), threads=1
    )


def scale_of(
    made: Made,
    first: Made,
    name: str = "scale",
    earlier: Sequence[Made] = (),
    background: str | None = None,
    **params: Any,
) -> Any:
    run(
        frame_scale,
        frame_scale.Inputs(
            scan=made / "scan.nxs",
            statistics=made / "statistics.nxs",
            reference_scan=first / "scan.nxs",
            reference=first / "statistics.nxs",
            earlier=[one / "statistics.nxs" for one in earlier],
            background=background and made / background,
            reference_background=background and first / background,
        ),
        frame_scale.Outputs(
            scale=made / f"{name}.nxs", picture=made / f"{name}.png", metrics=made / f"{name}.json"
        ),
        **params,
    )
    return nexus.read_scale(made / f"{name}.nxs")


def volume_of(made: Made, first: Made, name: str = "scale", **params: Any) -> nexus.Volume:
    """Transform with the scale file of this name."""
    scans = [nexus.read_scan(one / "scan.nxs").rotation for one in (first, made)]
    grid = binning.Grid.symmetric([2.0, 2.0, 2.0], [0.25, 0.25, 0.25])
    rotations = dict(zip(("first", "own"), scans, strict=True))
    write_orientation(made / "orientation.json", rotations, made.simulation.ub, grid=grid)
    shape = (N, *made.mask.shape)
    with nexus.FrameMaskWriter(made / "frame_mask.nxs", shape) as writer:
        empty = np.zeros((N, shape[1], (shape[2] + 7) // 8), np.uint8)
        writer.append(empty, np.zeros(N))
    run(
        transform,
        transform.Inputs(
            scan=made / "scan.nxs",
            mask=made / "mask.nxs",
            scale=made / f"{name}.nxs",
            frame_mask=made / "frame_mask.nxs",
            orientation=made / "orientation.json",
        ),
        transform.Outputs(
            transform=made / f"transform_{name}.nxs",
            masked_transform=made / f"masked_{name}.nxs",
        ),
        rotation="own",
        samples=(1, 1, 1),
        **params,
    )
    return nexus.read_volume(made / f"transform_{name}.nxs")


def level(volume: nexus.Volume) -> float:
    """S far from the Bragg peaks."""
    axes = [volume.grid.axis(i) for i in (2, 1, 0)]
    l, k, h = np.meshgrid(*axes, indexing="ij")  # noqa: E741
    hkl = np.stack([h, k, l], axis=-1)
    away = np.abs(hkl - np.rint(hkl)).max(axis=-1) > 0.4
    return float(volume.counts[away].sum() / volume.norm[away].sum())


@pytest.fixture(scope="module")
def absorbing(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("scale") / "r1", simulation(SMOOTH))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same sample in another setting: it absorbs more, behind an attenuator, for longer."""
    turned = 0.8 * SMOOTH[::-1]
    return make(
        tmp_path_factory.mktemp("scale") / "r2",
        simulation(turned, exposure=1.7, attenuator=0.5, drift=0.4, seed=1),
    )


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("scale") / "clear", simulation(1.0, seed=2))


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A detector of smaller pixels: each sees 0.64 of the solid angle."""
    return make(
        tmp_path_factory.mktemp("scale") / "fine",
        simulation(1.0, finer=1.25, flux=12.0, seed=3),
        # The simulated flux is per pixel at the foot of the normal, whatever its size.
        factor=0.64,
    )


def test_the_transmission_is_recovered_from_the_raw_file(absorbing: Made) -> None:
    found = scale_of(absorbing, absorbing)
    truth = SMOOTH / np.median(SMOOTH)
    assert np.sqrt(np.mean((found.scale / truth - 1) ** 2)) < 0.01
    assert (found.rotation, found.area, found.source) == (1.0, 1.0, "background")
    np.testing.assert_array_equal(found.monitor, absorbing.simulation.scan.monitor)
    statistics = nexus.read_statistics(absorbing / "statistics.nxs", "background")
    np.testing.assert_array_equal(found.signal, statistics)


@pytest.mark.slow
def test_rotations_come_to_the_first_one_s_scale(absorbing: Made, second: Made) -> None:
    """Monitor, attenuator and exposure are known; what is left is the sample."""
    found = scale_of(second, absorbing, "compared")
    truth = 0.8 * SMOOTH[::-1] / np.median(SMOOTH)
    assert np.sqrt(np.mean((found.scale / truth - 1) ** 2)) < 0.01
    assert found.rotation == pytest.approx(0.8, rel=0.01)
    np.testing.assert_array_equal(found.attenuation, [0.5] * N)
    alone = scale_of(second, absorbing, "alone", rotation_scale=False)
    assert alone.rotation == 1.0
    np.testing.assert_allclose(alone.scale * found.rotation, found.scale, rtol=1e-12)


def test_a_factor_that_no_crystal_makes_is_told(absorbing: Made, second: Made) -> None:
    """A monitor in another unit than in the first rotation."""
    changed = Made(second.folder.parent / "unit", second.simulation, second.mask)
    shutil.copytree(second.folder, changed.folder)
    with h5py.File(changed / "scan.nxs", "r+") as file:
        file["entry/frames/monitor"][...] *= 1e-6
    for made, told in ((second, 0), (changed, 1)):
        scale_of(made, absorbing, "told")
        figures = json.loads((made / "told.json").read_text())
        assert len(figures["warnings"]) == told
    assert figures["scale of the rotation"] == pytest.approx(0.8e6, rel=0.01)
    for word in ("e+05", "monitor times attenuation", "doubtful_scale"):
        assert word in figures["warnings"][0]
    scale_of(changed, absorbing, "meant", doubtful_scale=1e7)
    assert json.loads((changed / "meant.json").read_text())["warnings"] == []


def test_frame_sums_are_the_mean_of_all_pixels(absorbing: Made) -> None:
    """Bragg peaks are in them."""
    found = scale_of(absorbing, absorbing, "sums", source="frame_sum", smooth=False)
    with h5py.File(absorbing / "raw.nxs") as file:
        mean = file["entry/data/data"][()].mean(axis=(1, 2))
    np.testing.assert_allclose(found.signal, mean)
    ratio = mean / absorbing.simulation.scan.monitor
    np.testing.assert_allclose(found.scale, ratio / np.median(ratio))


def test_none_is_one_everywhere(absorbing: Made, second: Made) -> None:
    found = scale_of(second, absorbing, "none", source="none")
    np.testing.assert_array_equal(found.scale, np.ones(N))
    assert (found.rotation, found.area) == (1.0, 1.0)


@pytest.mark.slow
def test_a_sample_that_does_not_absorb_is_left_alone(clear: Made) -> None:
    """The scale is 1 within its noise, and so the merged intensity."""
    found = scale_of(clear, clear)
    assert np.sqrt(np.mean((found.scale - 1) ** 2)) < 0.003
    scale_of(clear, clear, "none", source="none")
    with_scale, without = volume_of(clear, clear), volume_of(clear, clear, "none")
    np.testing.assert_array_equal(with_scale.counts, without.counts)
    seen = without.norm > 0
    ratio = with_scale.norm[seen] / without.norm[seen]
    assert np.sqrt(np.mean((ratio - 1) ** 2)) < 0.003
    assert level(with_scale) / level(without) == pytest.approx(1, abs=0.002)
    assert level(with_scale) == pytest.approx(1, abs=0.01)


def test_the_volume_of_an_absorbing_sample_is_that_of_a_clear_one(
    absorbing: Made, second: Made
) -> None:
    scale_of(absorbing, absorbing)
    scale_of(second, absorbing, "compared")
    # S of the first rotation's median transmission.
    first, other = volume_of(absorbing, absorbing), volume_of(second, absorbing, "compared")
    assert level(first) == pytest.approx(np.median(SMOOTH), rel=0.01)
    assert level(other) == pytest.approx(np.median(SMOOTH), rel=0.01)
    scale_of(second, absorbing, "none", source="none")
    assert level(volume_of(second, absorbing, "none")) < 0.9 * level(other)


@pytest.mark.slow
def test_smaller_pixels_have_the_same_scale(clear: Made, fine: Made) -> None:
    """Whether the solid angle is corrected for or not."""
    found = scale_of(fine, clear, "fine")
    assert found.area == pytest.approx(0.64)
    assert found.rotation == pytest.approx(1.0, abs=0.01)
    scale_of(clear, clear)
    for solid_angle in (True, False):
        volumes = [
            volume_of(clear, clear, solid_angle=solid_angle),
            volume_of(fine, clear, "fine", solid_angle=solid_angle),
        ]
        assert level(volumes[1]) / level(volumes[0]) == pytest.approx(1, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("period", "size"), [(None, 0.0), (1.3, 0.2), (1.3, 0.03)])
def test_diffuse_scattering_that_turns_with_the_crystal_is_told(
    period: float | None, size: float, tmp_path: Path
) -> None:
    """Every frame counts by itself: what S(Q) adds to the level is the same on both simulations.

    An error of less than 1 % of S(Q) is known, and no doubt.
    """
    made = make(tmp_path / "r1", simulation(1.0, seed=7))
    with h5py.File(made / "raw.nxs", "r+") as file:
        data = file["entry/data/data"]
        frames = data[()]
        if period is not None:
            q = np.indices(frames.shape[1:])[0] / frames.shape[1]
            turn = 2 * np.pi * (period * q + 2 * Z[:, None, None])
            frames = np.random.default_rng(0).binomial(frames, 0.8 * (1 + size * np.sin(turn)))
        data[...] = frames
    measure(made)
    found = scale_of(made, made)
    figures = stage.read_json(made / "scale.json")
    error = figures["error by parts of the detector that differ"]
    if period is None:
        assert figures["warnings"] == []
        return
    off = found.transmission.transmission - 1
    told = ["differs between parts of the detector" in x for x in figures["warnings"]]
    assert told == ([True] if np.sqrt(np.mean(off**2)) > 0.01 else [])
    assert len(told) == (size == 0.2)
    assert error > 0.003
    assert 0.3 < np.sqrt(np.mean(off**2)) / error < 3
    assert np.median(found.transmission.errors) > error * 0.99
    scale_of(made, made, "none", source="none")
    assert stage.read_json(made / "none.json")["warnings"] == []


def test_too_few_parts_are_told_where_the_curve_could_be_wrong_by_it(
    clear: Made, absorbing: Made, tmp_path: Path
) -> None:
    """Of a detector that has a background in five parts only; a flat curve changes nothing."""
    for made, told in ((clear, False), (absorbing, True)):
        few = Made(tmp_path / made.folder.name, made.simulation, made.mask)
        shutil.copytree(made.folder, few.folder)
        with h5py.File(few / "statistics.nxs", "r+") as file:
            file["entry/parts/data"][:, 5:] = np.nan
        scale_of(few, few)
        figures = stage.read_json(few / "scale.json")
        assert figures["error by parts of the detector that differ"] is None
        assert len(figures["warnings"]) == told
        if told:
            sentence = figures["warnings"][0]
            assert "could not be checked: fewer than 6 parts" in sentence
            size = float(sentence.split("%")[0].split()[-1]) / 100
            assert size == pytest.approx(np.std(SMOOTH) / np.median(SMOOTH), rel=0.1)
        scale_of(few, few, "none", source="none")
        assert stage.read_json(few / "none.json")["warnings"] == []


@pytest.mark.parametrize("sizes", [(0.0, 0), (0.06, 1)])
def test_a_beam_that_flickers_is_reported_and_own_values_follow_it(
    absorbing: Made, tmp_path: Path, sizes: tuple[float, int]
) -> None:
    """A smooth curve over frames of unequal exposure leaves the inequality in S(Q)."""
    size, warned = sizes
    made = Made(tmp_path / "flicker", absorbing.simulation, absorbing.mask)
    shutil.copytree(absorbing.folder, made.folder)
    flicker = np.exp(size * np.random.default_rng(5).standard_normal(N))
    with h5py.File(made / "statistics.nxs", "r+") as file:
        for name in ("frame_sums/background", "parts/data"):
            values = file["entry"][name]
            values[...] = (values[()].T * flicker).T
    truth = SMOOTH * flicker / np.median(SMOOTH * flicker)
    off = [
        np.std(scale_of(made, made, smooth=smooth, name=f"smooth {smooth}").scale / truth)
        for smooth in (True, False)
    ]
    warnings = [
        stage.read_json(made / f"smooth {smooth}.json")["warnings"] for smooth in (True, False)
    ]
    assert [len(found) for found in warnings] == [warned, 0]
    if warned:
        assert off[1] < 0.2 * off[0]
        said = float(warnings[0][0].split("%")[0].split()[-1]) / 100
        assert said == pytest.approx(off[0], rel=0.3)
        assert "`frame_scale: {smooth: false}`" in warnings[0][0]


@pytest.mark.parametrize(("factor", "jumps"), [(1.0, 0), (2.0, 1)])
def test_a_monitor_that_counts_twice_from_a_frame_on_is_reported(
    absorbing: Made, tmp_path: Path, factor: float, jumps: int
) -> None:
    """The curve follows the step, so that S has the right shape and the wrong scale."""
    folder = tmp_path / "alloy/300K/r1"
    shutil.copytree(absorbing.folder, folder)
    made = Made(folder, absorbing.simulation, absorbing.mask)
    with h5py.File(made / "scan.nxs", "r+") as file:
        file["entry/frames/monitor"][50:] *= factor
    found = scale_of(made, made)
    metrics = stage.read_json(made / "scale.json")
    assert len(metrics["warnings"]) == jumps
    assert metrics["notes"] == []
    if jumps:
        assert found.scale[50] / found.scale[49] == pytest.approx(1 / factor, rel=0.03)
        (sentence,) = metrics["warnings"]
        said = float(sentence.split("factor of ")[1].split()[0])
        assert said == pytest.approx(1 / factor, rel=0.03)
        assert "from frame 49 to frame 50," in sentence
        assert "`per_scan: {alloy/300K: {import_scan: {leave_out: [r1:50-89]}}}`" in sentence
        assert metrics["errors of S"][sentence] == pytest.approx(1.0, abs=0.06)


def test_a_jump_of_the_background_without_a_monitor_is_a_note(
    absorbing: Made, tmp_path: Path
) -> None:
    """The beam may have changed, which the curve corrects."""
    made = Made(tmp_path / "made", absorbing.simulation, absorbing.mask)
    shutil.copytree(absorbing.folder, made.folder)
    with (
        h5py.File(made / "scan.nxs", "r+") as file,
        h5py.File(made / "statistics.nxs", "r+") as other,
    ):
        monitor = file["entry/frames/monitor"][()]
        half = np.where(np.arange(N) < 50, 1.0, 0.5)
        other["entry/frame_sums/background"][...] *= half / monitor * np.median(monitor)
        file["entry/frames/monitor"][...] = 1.0
    scale_of(made, made)
    metrics = stage.read_json(made / "scale.json")
    assert metrics["warnings"] == []
    assert [
        "from frame 49 to frame 50; there is no monitor" in note for note in metrics["notes"]
    ] == [True]


def test_a_transmission_that_no_crystal_has_is_reported(absorbing: Made, tmp_path: Path) -> None:
    made = Made(tmp_path / "made", absorbing.simulation, absorbing.mask)
    shutil.copytree(absorbing.folder, made.folder)
    with h5py.File(made / "scan.nxs", "r+") as file:
        file["entry/frames/monitor"][...] *= np.exp(np.linspace(0, 3, N))
    scale_of(made, made)
    assert any(
        "times the smallest (limit 10)" in warning
        for warning in stage.read_json(made / "scale.json")["warnings"]
    )


def test_the_counters_add_up(absorbing: Made) -> None:
    scale_of(absorbing, absorbing)
    metrics = stage.read_json(absorbing / "scale.json")
    assert metrics["frames"] == N
    assert set(metrics["counts"]) == {"used", "replaced", "interpolated"}
    assert sum(metrics["counts"].values()) == N
    assert metrics["counts"]["used"] > 0.8 * N
    low, high = metrics["smallest and largest transmission"]
    truth = SMOOTH / np.median(SMOOTH)
    assert (low, high) == pytest.approx((truth.min(), truth.max()), abs=0.03)


def test_the_file_plots_itself(absorbing: Made) -> None:
    import silx.io
    from silx.io import nxdata

    scale_of(absorbing, absorbing)
    with silx.io.open(str(absorbing / "scale.nxs")) as file:
        default = nxdata.get_default(file)
        assert default is not None
        assert default.signal_name.startswith("scale")
        assert default.axes_dataset_names == ["frame"]
        assert default.signal.shape == (N,)
    history = [record["stage"] for record in stage.provenance(absorbing / "scale.nxs")]
    assert history == ["import_scan", "find_peaks", "frame_scale"]
    assert (absorbing / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_products_of_other_frames_are_refused(absorbing: Made, tmp_path: Path) -> None:
    """First and last frame were changed, and not everything was made again."""
    part = Made(tmp_path, absorbing.simulation, absorbing.mask)
    run(
        import_scan,
        import_scan.Inputs(raw=[absorbing / "raw.nxs"]),
        import_scan.Outputs(scan=part / "scan.nxs"),
        last_frame=79,
    )
    for name in ("mask.nxs", "statistics.nxs"):
        (part / name).symlink_to(absorbing / name)
    with pytest.raises(HklflowError, match=r"statistics\.nxs has 90 frames, but .*has 80"):
        scale_of(part, absorbing)
    scale_of(absorbing, absorbing)
    (part / "scale.nxs").symlink_to(absorbing / "scale.nxs")
    with pytest.raises(HklflowError, match=r"scale\.nxs is for 90 frames but the scan has 80"):
        volume_of(part, part)


def test_one_measurement_as_two_rotations_is_refused(
    absorbing: Made, second: Made, tmp_path: Path
) -> None:
    """By another file with another header, some frames earlier; other rotations are not."""
    copy = Made(tmp_path / "s/300K/r2", absorbing.simulation, absorbing.mask)
    copy.folder.mkdir(parents=True)
    header = absorbing.simulation.raw_header() | {"n_frames": 80, "temperature": 100.0}
    header["monitor"] = header["monitor"][10:]
    with (
        h5py.File(absorbing / "raw.nxs") as file,
        NXmxWriter(copy / "raw.nxs", NXmxHeader(**header)) as writer,
    ):
        writer.append(file["entry/data/data"][10:])
    measure(copy)
    text = (
        r"80 frames of .*raw\.nxs \(the first is frame 0\) have the same counts as frames of r1 .* "
    )
    with pytest.raises(HklflowError, match=text + "remove the row of r2 from the table"):
        scale_of(copy, absorbing, earlier=[second, absorbing])
    scale_of(second, absorbing, "compared", earlier=[absorbing])


def test_the_command_line(absorbing: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--scan", absorbing / "scan.nxs", "--statistics", absorbing / "statistics.nxs"]
    words += ["--reference-scan", absorbing / "scan.nxs"]
    words += ["--reference", absorbing / "statistics.nxs", "--scale", tmp_path / "scale.nxs"]
    words += ["--picture", tmp_path / "scale.png", "--metrics", tmp_path / "scale.json"]
    words += ["--source", "frame_sum", "--no-rotation-scale", "--no-smooth"]
    monkeypatch.setattr(sys, "argv", ["frame_scale", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        stage.command(frame_scale.main)
    assert not ended.value.code
    found = nexus.read_scale(tmp_path / "scale.nxs")
    np.testing.assert_allclose(
        found.transmission.ratio, found.transmission.transmission, rtol=1e-12
    )
