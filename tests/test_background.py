"""Runs without the crystal: from the configuration to S, on worlds that a stranger simulated."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import yaml

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.experiment.config import Experiment, load
from hklflow.experiment.jobs import Plan
from hklflow.experiment.rehearsal import refusals
from hklflow.stages import add_transforms, background, transform
from tests.truth.backgrounds import figures, plate, reduced, texts
from tests.truth.quantitative import World
from tests.truth.quantitative_catalogue import world
from tests.truth.quantitative_write import write


class Made(NamedTuple):
    folder: Path
    world: World
    figures: dict[str, float]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The plate with air before and behind it, and its true transmission."""
    folder = tmp_path_factory.mktemp("background")
    w = world("plate", 11, (60, 64), span=20.0)
    write(w, folder)
    texts(w, folder)
    return Made(folder, w, figures(reduced(w, folder, plate(w, folder)["two runs"]), 2))


def test_the_rest_is_the_crystal(made: Made) -> None:
    found = made.figures
    assert found["share of the background"] > 0.1
    assert abs(found["bias of the crystal's counts"]) < 5e-3
    assert found["voxels: pull width"] == pytest.approx(1, abs=0.05)
    assert abs(found["voxels: pull mean"]) < 0.05
    assert found["blocks: pull width"] == pytest.approx(1, abs=0.1)
    assert abs(found["blocks: pull mean"]) < 4 / np.sqrt(found["blocks"])
    assert found["shells: pull rms"] < 1.3


def test_merged_volume_keeps_photons_and_background_apart(made: Made) -> None:
    """``counts + background`` of the sum is the photons: integers, all that were used."""
    folder = made.folder
    with nexus.open_volume(folder / "merged.nxs") as merged:
        shape = slice(0, merged.grid.array_shape[0])
        counts, norm = merged.slab(0, shape.stop)
        subtracted, variance = merged.background(shape), merged.variance(shape)
        notes, data = merged.notes, merged.group["data"][()]
        errors = merged.group["data_errors"][()]
    photons = counts + subtracted
    np.testing.assert_allclose(photons, np.rint(photons), atol=1e-3)
    frames = np.concatenate([made.world.frame(r, z)[None] for r in (0, 1) for z in range(20)])
    assert photons.sum() == pytest.approx(frames[:, ~made.world.blind].sum(), abs=1)
    assert np.all(variance >= photons - 1e-2)
    seen = norm > 0
    np.testing.assert_allclose(data[seen], counts[seen] / norm[seen], rtol=1e-4, atol=1e-12)
    assert (data[seen] < 0).any()
    assert np.all(errors[seen] > 0)
    assert "background without the crystal" in notes["corrected for"]
    key = "relative errors of the backgrounds, common to all voxels"
    assert list(notes[key].values()) == 2 * [{"before": 0.0, "behind": 0.0}]


def run_transform(made: Made, name: str, part: tuple[int, int]) -> list[Path]:
    folder = made.folder
    paths = [folder / f"{name}_{kind}.nxs" for kind in ("all", "masked")]
    inputs = {n: folder / f"{n}0.nxs" for n in ("scan", "scale", "background")}
    inputs |= {n: folder / f"{n}.nxs" for n in ("mask", "frame_mask")}
    stage.run(
        transform.main,
        inputs=transform.Inputs(**inputs, orientation=folder / "orientation.json"),
        outputs=transform.Outputs(transform=paths[0], masked_transform=paths[1]),
        params=transform.Params(rotation="r1", part=part, memory=4000),
        threads=1,
    )
    return paths


@pytest.mark.slow
def test_blocks_of_frames_add_up_to_the_whole(made: Made) -> None:
    parts = [run_transform(made, f"part{i}", (i, 3)) for i in range(3)]
    outputs = [made.folder / f"sum_{kind}.nxs" for kind in ("all", "masked")]
    stage.run(
        add_transforms.main,
        inputs=add_transforms.Inputs(
            parts=[p[0] for p in parts], masked_parts=[p[1] for p in parts]
        ),
        outputs=add_transforms.Outputs(transform=outputs[0], masked_transform=outputs[1]),
        params=add_transforms.Params(),
        threads=1,
    )
    with (
        nexus.open_volume(outputs[0]) as added,
        nexus.open_volume(made.folder / "transform0.nxs") as whole,
    ):
        for name in ("counts", "norm", "variance", "background"):
            np.testing.assert_array_equal(added.group[name][()], whole.group[name][()])


# ------------------------------------------------------------------ one run, its settings


def run_background(
    made: Made, name: str = "out", saturation: float | None = None, **runs: Any
) -> dict[str, Any]:
    folder = made.folder
    outputs = {
        "background": folder / f"{name}.nxs",
        "picture": folder / f"{name}.png",
        "metrics": folder / f"{name}.json",
    }
    stage.run(
        background.main,
        inputs=background.Inputs(
            scan=folder / "scan0.nxs",
            mask=folder / "mask.nxs",
            statistics=folder / "statistics0.nxs",
        ),
        outputs=background.Outputs(**outputs),
        params=background.Params(
            runs=runs, sample_frames=8, curve={"source": "none"}, saturation=saturation
        ),
        threads=1,
    )
    return stage.read_json(outputs["metrics"])


def air(made: Made, **changes: Any) -> dict[str, Any]:
    return {"raw": str(made.folder / "raw/plate_empty.nxs"), "seen_through": "not"} | changes


def test_background_has_the_counts_per_monitor_of_its_run(made: Made) -> None:
    """Another exposure and attenuator change the counts and the monitor, not the level."""
    run_background(made, air=air(made))
    part = nexus.read_background(made.folder / "out.nxs")[0]
    w = made.world
    of_run = w.surroundings.empty
    assert of_run
    monitor = nexus.read_scan(made.folder / "scan0.nxs").monitor
    rate = np.mean(monitor / w.beam[0])
    expected = w.empty_expected() / (rate * of_run.beam * of_run.exposure * of_run.attenuator)
    pulls = ((part.level - expected) / np.sqrt(part.variance))[~w.blind]
    assert np.isnan(part.level[w.blind]).all()
    assert pulls.std() == pytest.approx(1, abs=0.06)
    assert abs(pulls.mean()) < 0.1


def test_unknown_transmission_is_an_interval(made: Made) -> None:
    found = run_background(made, air=air(made, seen_through="part", share=0.4))
    assert any("between 60% and 100% of its run, and 80%" in w for w in found["warnings"])
    told = found["backgrounds"]["air"]["relative error of the level"]
    assert told == pytest.approx(0.4 * 0.5 / np.sqrt(3) / 0.8)
    assert found["backgrounds"]["air"]["smallest and largest factor"] == [0.8, 0.8]


def test_known_transmission_makes_the_factor(made: Made) -> None:
    found = run_background(
        made,
        air=air(made, seen_through="crystal", transmission=0.6, transmission_error=0.02, scale=1.1),
    )
    own = found["backgrounds"]["air"]
    assert own["smallest and largest factor"] == pytest.approx([0.66, 0.66])
    assert own["relative error of the level"] == pytest.approx(0.02)
    assert not found["warnings"]


def test_too_much_background_is_told(made: Made) -> None:
    found = run_background(made, air=air(made, scale=30.0))
    assert any("larger than the measured counts" in w for w in found["warnings"])


def test_a_stated_saturation_holds_for_the_run(made: Made, tmp_path: Path) -> None:
    with h5py.File(made.folder / "raw/plate_empty.nxs") as file:
        highest = file["entry/data/data"][()].max(axis=0)[~made.world.blind]
    limit = float(np.percentile(highest, 90))
    found = run_background(made, saturation=limit, air=air(made))
    lost = int(np.count_nonzero(highest >= limit))
    assert any(f"in {lost} good pixels, which are saturated" in w for w in found["warnings"])
    shutil.copytree(made.folder / "config", tmp_path / "config")
    shutil.copytree(made.folder / "raw", tmp_path / "raw")
    config = tmp_path / "config/config.yaml"
    runs = "{air: {raw: raw/plate_empty.nxs, seen_through: not}}"
    stated = f"import_scan: {{saturation: 700}}\nbackground: {{runs: {runs}}}\n"
    config.write_text(config.read_text() + stated)
    jobs = [job for job in Plan(experiment(config)).jobs if job.rule == "background"]
    assert {job.params.saturation for job in jobs} == {700.0}


def test_a_contained_run_is_counted_once(made: Made) -> None:
    """``f_A (B + A) + (f_B - f_A) B``: the factor of the contained run falls."""
    other = made.folder / "raw/other_empty.nxs"
    shutil.copy(made.folder / "raw/plate_empty.nxs", other)
    tube = air(made, seen_through="crystal", transmission=0.7, contains=["air"], raw=str(other))
    found = run_background(made, air=air(made), tube=tube)
    factors = {n: f["smallest and largest factor"] for n, f in found["backgrounds"].items()}
    assert factors["air"] == pytest.approx([0.3, 0.3])
    assert factors["tube"] == pytest.approx([0.7, 0.7])
    with pytest.raises(HklflowError, match=r"factor of air is -0\.3"):
        run_background(made, air=air(made, scale=0.4), tube=tube)
    with pytest.raises(HklflowError, match="'air' is no other run"):
        run_background(made, tube=tube)


def test_a_run_that_contains_a_run_contains_what_that_contains(made: Made) -> None:
    """Furnace, capillary and air: the same factors whether or not the air is named twice."""
    for name in ("tube", "furnace"):
        shutil.copy(made.folder / "raw/plate_empty.nxs", made.folder / f"raw/{name}_empty.nxs")

    def run(name: str, factor: float, *contains: str) -> dict[str, Any]:
        raw = str(made.folder / f"raw/{name}_empty.nxs")
        return air(made, raw=raw, scale=factor, contains=contains)

    for contains in (["tube"], ["air", "tube"]):
        runs = {"furnace": run("furnace", 0.3, *contains), "tube": run("tube", 0.7, "air")}
        found = run_background(made, air=air(made), **runs)
        factors = {n: f["smallest and largest factor"][0] for n, f in found["backgrounds"].items()}
        assert factors == pytest.approx({"air": 0.3, "tube": 0.4, "furnace": 0.3})
    with pytest.raises(HklflowError, match="two runs cannot contain each other"):
        run_background(made, air=air(made, contains=["tube"]), tube=run("tube", 1, "air"))


def test_the_same_frames_are_not_subtracted_twice(made: Made) -> None:
    with pytest.raises(HklflowError, match="air has the same frames"):
        run_background(made, air=air(made), again=air(made))


def nothing_valid(frame: np.ndarray) -> np.ndarray:
    return np.full_like(frame, 2**32 - 1)


def shut(frame: np.ndarray) -> np.ndarray:
    return 0 * frame


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(nothing_valid, "every pixel is masked, flagged or saturated"), (shut, "of all pixels are 0")],
)
def test_a_run_that_measured_nothing_is_refused(
    made: Made, change: Callable[[np.ndarray], np.ndarray], sentence: str
) -> None:
    path = made.folder / "raw/nothing_empty.nxs"
    shutil.copy(made.folder / "raw/plate_empty.nxs", path)
    with h5py.File(path, "r+") as file:
        data = file["entry/data/data"]
        data[...] = change(data[()])
    with pytest.raises(HklflowError, match=sentence):
        run_background(made, air=air(made, raw=str(path)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has an array of (0,) numbers; give one transmission"),
        ("# T\n0.5\n0.4\n", "has an array of (2,) numbers from 0.4 to 0.5"),
    ],
)
def test_transmissions_that_are_not_one_for_each_frame_are_refused(
    made: Made, tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "transmission.txt"
    path.write_text(text)
    with pytest.raises(HklflowError) as error:
        run_background(made, air=air(made, seen_through="crystal", transmission=path))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("said", "run", "sentence"),
    [
        ("{attenuation: 0.1}", "", "transmission of the attenuators of raw/plate_300K_r1.nxs is"),
        ("{attenuation: 0.1}", ", attenuation: 1", None),
        ("{exposure: 9, monitor: none}", "", "state that of the run, too"),
        ("{exposure: 9, monitor: none}", ", exposure: 9", None),
    ],
)
def test_what_is_stated_for_the_crystal_is_stated_for_the_run(
    made: Made, tmp_path: Path, said: str, run: str, sentence: str | None
) -> None:
    """A header that is corrected for the crystal is as wrong for the run."""
    shutil.copytree(made.folder / "config", tmp_path / "config")
    shutil.copytree(made.folder / "raw", tmp_path / "raw")
    config = tmp_path / "config/config.yaml"
    runs = f"{{air: {{raw: raw/plate_empty.nxs, seen_through: not{run}}}}}"
    config.write_text(f"{config.read_text()}import_scan: {said}\nbackground: {{runs: {runs}}}\n")
    told = [r.sentence for r in refusals(experiment(config)) if "background" in r.where]
    assert len(told) == (sentence is not None)
    assert all((sentence or "") in text for text in told)


def wavelength(file: h5py.File) -> None:
    file["entry/instrument/beam/incident_wavelength"][()] = 0.6


def moved(file: h5py.File) -> None:
    file["entry/instrument/detector/module/module_offset"][()] *= 1.1


def no_monitor(file: h5py.File) -> None:
    del file["entry/monitor"]


def dead_monitor(file: h5py.File) -> None:
    file["entry/monitor/data"][3] = 0


def cut(file: h5py.File) -> None:
    data = file["entry/data/data"][:5]
    del file["entry/data/data"]
    file["entry/data/data"] = data


def fewer_pixels(file: h5py.File) -> None:
    data = file["entry/data/data"][:, :50]
    del file["entry/data/data"]
    file["entry/data/data"] = data
    file["entry/instrument/detector/module/data_size"][0] = 50
    del file["entry/instrument/detector/pixel_mask"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (wavelength, "the wavelength is 0.6 Å but that of"),
        (moved, "the detector is at another place"),
        (no_monitor, "the raw file has no monitor, but"),
        (dead_monitor, "the monitor of frame 3 is 0, not from 1e-15 to 1e+18: give the monitor"),
        (cut, "has 40 values for 5 frames, but"),
        (fewer_pixels, "frames have (50, 64) pixels but those of"),
        (None, "does not exist"),
    ],
)
def test_a_run_of_something_else_is_refused_ahead(
    made: Made, tmp_path: Path, change: Callable[[h5py.File], None] | None, sentence: str
) -> None:
    """`hklflow check` and the job say the same sentence."""
    shutil.copytree(made.folder / "config", tmp_path / "config")
    shutil.copytree(made.folder / "raw", tmp_path / "raw")
    other = tmp_path / "raw/changed_empty.nxs"
    if change is not None:
        shutil.copy(tmp_path / "raw/plate_empty.nxs", other)
        with h5py.File(other, "r+") as file:
            change(file)
    config = tmp_path / "config/config.yaml"
    runs = "{air: {raw: raw/changed_empty.nxs, seen_through: not}}"
    config.write_text(config.read_text() + f"background: {{runs: {runs}}}\n")
    told = [refusal for refusal in refusals(experiment(config)) if "background" in refusal.where]
    assert len(told) == 1
    assert sentence in told[0].sentence
    if change is not None:
        with pytest.raises(HklflowError) as error:
            run_background(made, air=air(made, raw=str(other)))
        assert sentence in str(error.value)


@pytest.mark.parametrize("factor", [1000.0, 0.1])
def test_a_monitor_of_another_unit_is_told(made: Made, factor: float, tmp_path: Path) -> None:
    """1000 times as large a monitor makes the background nothing, which no other check sees."""
    other = tmp_path / "other_empty.nxs"
    shutil.copy(made.folder / "raw/plate_empty.nxs", other)
    with h5py.File(other, "r+") as file:
        file["entry/monitor/data"][...] = np.round(file["entry/monitor/data"][()] * factor)
    found = run_background(made, air=air(made, raw=str(other)))
    assert any("the monitor counts" in w and "another unit" in w for w in found["warnings"])
    assert run_background(made, air=air(made))["warnings"] == []


def experiment(config: Path) -> Experiment:
    return load(yaml.safe_load(config.read_text()), config.parent.parent)


def test_only_rotations_with_runs_have_a_job(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.folder / "config", tmp_path / "config")
    shutil.copytree(made.folder / "raw", tmp_path / "raw")
    config = tmp_path / "config/config.yaml"
    runs = "{air: {raw: raw/plate_empty.nxs, seen_through: not, rotations: [r2]}}"
    config.write_text(config.read_text() + f"background: {{runs: {runs}}}\n")
    jobs = Plan(experiment(config)).jobs
    assert [job.at["rotation"] for job in jobs if job.rule == "background"] == ["r2"]
    reads = {job.at["rotation"]: job.inputs for job in jobs if job.rule == "transform"}
    assert [any("background.nxs" in path for path in reads[r]) for r in ("r1", "r2")] == [
        False,
        True,
    ]
    config.write_text(
        config.read_text() + "per_scan: {plate/300K: {background: {runs: {air: null}}}}\n"
    )
    assert not [job for job in Plan(experiment(config)).jobs if job.rule == "background"]
