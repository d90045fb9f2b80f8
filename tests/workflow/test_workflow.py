"""The workflow as a user meets it: dry run, whole run; failures are in test_failures."""

import copy
import csv
import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from hklflow import nexus, stage
from hklflow.experiment import config
from hklflow.experiment.jobs import job_counts
from hklflow.formats import raw
from hklflow.geometry.lattice import rotation_angle
from hklflow.geometry.symmetry import space_group
from hklflow.nexus.structure_factors import read_factors
from hklflow.stages.simulate import build
from tests.truth import forks
from tests.volume_layout import problems

from .conftest import CONFIG, REPOSITORY, scans, snakemake, write_experiment
from .faults import Bench, Fault, copy_experiment, differences, stop_group, wait_for

pytestmark = pytest.mark.workflow


def _experiment(folder: Path, **more: Any) -> config.Experiment:
    data = yaml.safe_load((folder / "config/config.yaml").read_text())
    return config.load(data | more, folder)


def _jobs(told: str) -> dict[str, int]:
    """Number of jobs of each rule in what a dry run prints."""
    counts = dict(re.findall(r"^(\w+) +(\d+)$", told, flags=re.MULTILINE))
    return {name: int(n) for name, n in counts.items() if name not in ("total", "all")}


def test_dry_run_shows_every_job_and_the_parent_before_the_child(tmp_path: Path) -> None:
    table = scans([300, 200, 100], {"r1": 0, "r2": 40}, 300, repeated=((200, "r1"),))
    folder = write_experiment(tmp_path / "e", CONFIG, table)
    run = snakemake(folder, "--dry-run")
    assert run.returncode == 0, run.stderr
    told = run.stdout + run.stderr
    expected = {
        "simulate": 8,
        "powder_calibration": 1,
        "sum_scans": 1,
        "import_scan": 6,
        "pixel_mask": 6,
        "frame_scale": 6,
        "find_peaks": 6,
        "mask_3d": 6,
        "refine_parent": 1,
        "refine": 3,
        "accept": 3,
        "transform": 6,
        "merge": 6,
        "scan_file": 3,
        "temperature_series": 1,
        "order_parameters": 1,
        "symmetrise": 6,
        "fill": 3,
        "pdf": 6,
        "planes": 6,
        "difference": 2,
        "stack": 3,
        "stack_pdf": 1,
        "overview": 1,
        "sample_page": 1,
    }
    assert _jobs(told) == expected
    # What `hklflow check` foretells.
    counted = job_counts(_experiment(folder))
    assert {rule: sum(jobs.values()) for rule, jobs in counted.items()} == expected
    for scan in ("100K", "200K", "300K"):
        message = f"refine hexa {scan} from the parent's orientation results/hexa/300K/parent.json"
        assert message in told
        for rotation in ("r1", "r2"):
            for what in ("import", "pixel mask of", "peaks and frame sums of", "transform"):
                assert f"{what} hexa {scan} {rotation}" in told


@pytest.mark.slow
def test_the_command_line_goes_before_all_layers(tmp_path: Path) -> None:
    layered = copy.deepcopy(CONFIG) | {
        "find_peaks": {"n_sigma": 6.5},
        "per_scan": {"hexa/300K": {"find_peaks": {"n_sigma": 7.5}}},
    }
    table = scans([300], {"r1": 0, "r2": 40}, parent=300)
    folder = write_experiment(tmp_path / "e", layered, table)
    goal = ("results/hexa/300K/r1/peaks.nxs", "--dry-run", "--printshellcmds")
    of_scan = snakemake(folder, *goal)
    assert "--n-sigma 7.5" in of_scan.stdout + of_scan.stderr
    said = snakemake(folder, *goal, "--config", "find_peaks={n_sigma: 8.5}")
    assert "--n-sigma 8.5" in said.stdout + said.stderr
    assert "7.5" not in said.stdout + said.stderr
    wrong = snakemake(folder, *goal, "--config", "find_peaks={n_sigma: -1}")
    assert wrong.returncode == 2
    assert "command line: find_peaks.n_sigma: Input should be greater" in wrong.stderr


@pytest.mark.slow
def test_lists_of_files_are_short_and_whole(tmp_path: Path) -> None:
    """In braces: in full, a thousand scans would be more than a shell takes as one argument."""
    odd = copy.deepcopy(CONFIG) | {"results": "my 'odd' $results"}
    temperatures = list(range(300, 180, -1))
    table = scans(temperatures, {"r1": 0, "r2": 40}, parent=300)
    folder = write_experiment(tmp_path / "e", odd, table)
    goals = [f"{odd['results']}/{name}" for name in ("overview/summary.tsv",)]
    goals.append(f"{odd['results']}/hexa/temperature_series/series.tsv")
    run = snakemake(folder, *goals, "--dry-run", "--printshellcmds")
    assert run.returncode == 0, run.stderr
    commands = re.findall(r"(python -m hklflow.*) > ", run.stdout + run.stderr, re.MULTILINE)
    for stage_name, flag, product in (
        ("overview", "--orientations", "orientation.json"),
        ("overview", "--metrics", "transform.json"),
        ("temperature_series", "--peaks", "peaks.nxs"),
    ):
        (command,) = [
            c for c in commands if c.startswith(f"python -m hklflow.stages.{stage_name} ")
        ]
        assert len(command) < 8_000  # in full, one list alone is longer
        shell = f"args() {{ printf '%s\\n' \"$@\"; }}; args {command.removeprefix('python ')}"
        words = subprocess.run(
            ["bash", "-c", shell], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        start = words.index(flag) + 1
        stop = next(i for i in range(start, len(words)) if words[i].startswith("--"))
        names = [f"{t}K" for t in temperatures]
        if product == "peaks.nxs":
            names = [f"{name}/{rotation}" for name in names for rotation in ("r1", "r2")]
        expected = {f"{odd['results']}/hexa/{name}/{product}" for name in names}
        assert len(words[start:stop]) == len(expected)
        assert set(words[start:stop]) == expected


@pytest.mark.slow
def test_the_page_of_a_sample_has_the_pictures_of_all_steps(tmp_path: Path) -> None:
    """Told by scans × pictures: in full they would be too long for a shell."""
    odd = copy.deepcopy(CONFIG) | {"results": "my 'odd' $results", "bragg": True}
    table = scans([300, 200, 100], {"r1": 0, "r2": 40}, parent=300)
    folder = write_experiment(tmp_path / "e", odd, table)
    page = f"{odd['results']}/hexa/hexa.html"
    run = snakemake(folder, page, "--dry-run", "--printshellcmds")
    assert run.returncode == 0, run.stderr
    told = run.stdout + run.stderr
    command = re.search(r"(python -m hklflow.stages.sample_page.*) > ", told)
    assert command is not None
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command[1]}"], capture_output=True, text=True, check=True
    )
    words = printed.stdout.splitlines()
    pictures = words[words.index("--pictures") + 1 : words.index("--figures")]
    figures = words[words.index("--figures") + 1 : words.index("--page")]
    made = {
        word
        for other in re.findall(r"(python -m hklflow.*) > ", told)
        for word in shlex.split(other)
        if word.endswith(".png") and "sample_page" not in other
    }
    assert set(pictures) == made
    assert len(pictures) == len(made) > 80
    assert len(figures) == len(set(figures)) > 60
    assert all(path.startswith(odd["results"]) for path in figures)
    assert len(command[1]) < 0.5 * sum(map(len, pictures + figures))


@pytest.mark.slow
def test_a_target_that_no_scan_has_is_told(tmp_path: Path) -> None:
    table = scans([300, 200], {"r1": 0, "r2": 40}, parent=300)
    table += "other\t50K\t50\t50K\tr1\traw/o.nxs\tchi=0 phi=0:1.2\tpowder\n"
    simulated = copy.deepcopy(CONFIG)
    simulated["simulation"]["samples"]["other"] = simulated["simulation"]["samples"]["hexa"]
    folder = write_experiment(tmp_path / "e", simulated, table)
    with (folder / "config/samples.tsv").open("a") as file:
        file.write("other\tP 6/m m m\t4.80\t4.80\t7.15\t90\t90\t120\n")
    for goal, told in (
        ("results/hexa/50K/transform.nxs", "hexa has no scan 50K"),
        ("results/other/50K/r2/scan.nxs", "other 50K has no rotation r2"),
    ):
        run = snakemake(folder, goal, "--dry-run")
        assert run.returncode == 1
        assert told in run.stdout + run.stderr


def test_a_changed_layer_reruns_its_scan_only(finished: Path) -> None:
    run = snakemake(finished, "--dry-run", "--config", "per_scan={hexa/100K: {merge: {pool: 1}}}")
    told = run.stdout + run.stderr
    # The stacks read the volumes; the master file holds the configuration.
    pages = {"overview": 1, "sample_page": 1}
    assert _jobs(told) == {"merge": 2, "scan_file": 1, "order_parameters": 1, "stack": 2, **pages}
    assert "merge the rotations of hexa 300K" not in told


@pytest.mark.parametrize("wish", ["define: {M: {shape: point, point: [0.5, 0, 0]}}", "find: true"])
def test_features_are_fitted_only_if_they_are_defined_or_searched(
    finished: Path, wish: str
) -> None:
    run = snakemake(finished, "--dry-run", "--config", f"features={{{wish}}}")
    jobs = _jobs(run.stdout + run.stderr)
    assert jobs["features"] == 1
    assert jobs["order_parameters"] == 1  # writes the findings
    assert "transform" not in jobs


def test_a_misspelt_key_is_told_before_the_dag_exists(tmp_path: Path) -> None:
    wrong = copy.deepcopy(CONFIG)
    wrong["find_peaks"] = {"thresold": 40}
    folder = write_experiment(tmp_path / "e", wrong, scans([300], {"r1": 0}, parent=200))
    run = snakemake(folder, "--dry-run")
    assert run.returncode == 2
    assert "find_peaks.thresold" in run.stderr
    assert "Traceback" not in run.stderr


def test_cells_and_orientations_are_those_of_the_simulation(finished: Path) -> None:
    experiment = _experiment(finished)
    laue = space_group("P 6/m m m").proper_laue_operations
    assert len(laue) == 12
    assert set(experiment.scans) == {("hexa", "300K"), ("hexa", "100K")}
    for sample, scan in experiment.scans:
        product = stage.read_json(finished / f"results/{sample}/{scan}/orientation.json")
        source = experiment.rotation(sample, scan, "r1").raw
        truth = build(config.simulation_description(experiment, source))
        cell, sigma = np.array(product["cell"]), np.array(product["cell_sigma"])
        assert np.abs(cell[:3] / truth.cell[:3] - 1).max() < 3e-4
        assert np.all(np.abs(cell[:3] - truth.cell[:3]) < 4 * sigma[:3])
        u = np.array(product["U"])
        np.testing.assert_allclose(u @ u.T, np.eye(3), atol=1e-12)
        # Up to the crystal's symmetry and a few standard deviations.
        equivalent = [np.array(product["UB"]) @ w for w in laue]
        turns = [
            rotation_angle(
                ub @ np.linalg.inv(truth.ub) / np.cbrt(np.linalg.det(ub) / np.linalg.det(truth.ub)),
                np.eye(3),
            )
            for ub in equivalent
        ]
        assert np.degrees(min(turns)) < 0.02
        assert product["metrics"]["fraction indexed"] > 0.9


def test_the_volume_is_the_simulated_scattering(finished: Path) -> None:
    experiment = _experiment(finished)
    source = experiment.rotation("hexa", "300K", "r1").raw
    truth = build(config.simulation_description(experiment, source))
    volume = nexus.read_volume(finished / "results/hexa/300K/masked_transform.nxs")
    grid = volume.grid
    l, k, h = np.meshgrid(grid.axis(2), grid.axis(1), grid.axis(0), indexing="ij")  # noqa: E741
    hkl = np.stack([h, k, l], axis=-1)
    q = np.linalg.norm(hkl @ truth.ub.T, axis=-1)
    # Far from Bragg peaks, and well measured.
    away = np.linalg.norm((hkl - np.rint(hkl)) @ truth.ub.T, axis=-1) > 0.45
    use = away & (volume.norm > np.median(volume.norm[volume.norm > 0]))
    assert use.sum() > 50_000
    assert volume.data is not None
    assert volume.errors is not None
    two_theta = 2 * np.arcsin(q[use] / (2 * truth.scan.k))
    expected = truth.s_of_hkl(hkl[use]) + truth.background.level(two_theta, truth.scan.k)
    # The transmission is known relative to its median over the scan only.
    expected *= np.median(truth.scan.transmission)
    # The transmission is estimated from the background, which the crystal modulates: 0.2 %.
    assert np.sum(volume.data[use]) / np.sum(expected) == pytest.approx(1, abs=0.005)
    pulls = (volume.data[use] - expected) / volume.errors[use]
    assert abs(pulls.mean()) < 0.02
    assert pulls.std() == pytest.approx(1, abs=0.05)


def test_the_verdict_is_doubtful_for_what_is_true_of_coarse_voxels_and_diffuse_that_turns(
    finished: Path,
) -> None:
    """S(Q) has the symmetry of its space group: no scan fails."""
    with (finished / "results/overview/summary.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["verdict"] for row in rows] == ["doubtful", "doubtful"]
    # The volume of the parent, which is the reference of the difference, is as doubtful.
    for row, volumes in zip(rows, (["difference_masked_transform"], []), strict=True):
        stages = [reason.partition(":")[0] for reason in row["reasons"].split(" | ")]
        assert stages == ["filled_masked_transform", *volumes, "r1, scale", "r2, scale"]
        assert "too coarse" in row["reasons"]
        assert row["reasons"].count("differs between parts of the detector") == 2


def test_the_master_file_links_everything(finished: Path) -> None:
    master = finished / "results/hexa/100K/hexa_100K.nxs"
    with h5py.File(master) as file:
        assert file["entry/transform/data"].shape == file["entry/masked_transform/data"].shape
        assert file["f1/data/data"].shape == (150, 150, 150)
        for name in ("f1", "f2"):
            assert file[f"{name}/peaks/observed_frame"].shape[0] > 20
            assert file[f"{name}/frame_sums/frame_sum"].shape == (150,)
            assert file[f"{name}/frame_scale/transmission"].shape == (150,)
            sums = file[f"{name}/frame_sums"]
            partial = sums["partial_sums/partial_sums"][()]
            assert partial.shape == (3, 150, 150)
            np.testing.assert_array_equal(partial.sum(axis=0), sums["summed_data/summed"])
            calibration = file[f"{name}/instrument/calibration"]
            assert calibration["counts"].shape == (150, 150)
            distance = calibration["refinement/parameters/Distance"][()]
            assert distance == pytest.approx(0.08, rel=1e-3)
        configuration = json.loads(file["entry/configuration/data"][()])
    assert configuration["frame_scale"]["window"] == 31
    assert configuration["scan"]["temperature"] == 100
    assert all(not name.startswith("/") for name in nexus.linked_files(master))


def test_the_final_file_tells_its_whole_history(finished: Path) -> None:
    """Every input of the volume, with its hash, from the file alone."""
    history = stage.provenance(finished / "results/hexa/100K/transform.nxs")
    stages = {record["stage"] for record in history}
    assert stages == {
        "simulate",
        "powder_calibration",
        "sum_scans",
        "import_scan",
        "pixel_mask",
        "frame_scale",
        "find_peaks",
        "refine_parent",
        "refine",
        "accept",
        "mask_3d",
        "transform",
        "merge",
    }
    checked = 0
    for record in history:
        for paths in record["inputs"].values():
            for item in paths:
                path = finished / item["path"]
                assert stage.fingerprint(path) == item["sha256"], item["path"]
                checked += 1
    assert checked > 20


def test_volumes_have_the_layout_of_the_page(finished: Path) -> None:
    folder = finished / "results/hexa/300K"
    names = ("transform", "symm_*transform", "filled_*transform", "*pdf_*transform")
    paths = [path for name in names for path in sorted(folder.glob(f"{name}.nxs"))]
    paths += sorted((finished / "results/hexa/100K").glob("*difference_*.nxs"))
    assert len(paths) >= 7
    assert {path.name: problems(path) for path in paths} == {path.name: [] for path in paths}


def test_nothing_is_left_to_do_and_a_new_temperature_runs_only_what_is_new(
    finished: Path, tmp_path: Path
) -> None:
    again = snakemake(finished, "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr
    folder = copy_experiment(finished, tmp_path / "e")
    both = {"r1": 0, "r2": 40}
    table = scans([300, 100, 50], both, parent=300, repeated=((100, "r2"),))
    (folder / "config/scans.tsv").write_text(table)
    run = snakemake(folder, "--dry-run")
    of_rotations = ("import_scan", "pixel_mask", "find_peaks", "frame_scale")
    assert _jobs(run.stdout + run.stderr) == {
        **dict.fromkeys(("simulate", *of_rotations, "mask_3d", "transform", "merge"), 2),
        **dict.fromkeys(("refine", "accept", "scan_file", "fill", "difference"), 1),
        **dict.fromkeys(("symmetrise", "pdf", "planes"), 2),
        # What is about all temperatures.
        **{
            "temperature_series": 1,
            "order_parameters": 1,
            "stack": 3,
            "stack_pdf": 1,
            "overview": 1,
            "sample_page": 1,
        },
    }
    for scan in ("100K", "300K"):
        assert f"hexa {scan} " not in run.stdout + run.stderr


def test_the_temperature_series_and_stack(finished: Path) -> None:
    experiment = _experiment(finished)
    with (finished / "results/hexa/temperature_series/series.tsv").open() as file:
        rows = {row["scan"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert list(rows) == ["300K", "100K"]
    for scan, row in rows.items():
        source = experiment.rotation("hexa", scan, "r1").raw
        truth = build(config.simulation_description(experiment, source))
        for axis, index in (("a", 0), ("c", 2)):
            pull = (float(row[axis]) - truth.cell[index]) / float(row[f"{axis}_sigma"])
            assert abs(pull) < 4
    with h5py.File(finished / "results/hexa/stack_300K/transform.nxs") as file:
        group = file["entry/transform"]
        assert group["data"].shape == (2, 61, 61, 61)
        assert list(group["temperature"][()]) == [100.0, 300.0]
        one = nexus.read_volume(finished / "results/hexa/100K/transform.nxs")
        np.testing.assert_array_equal(group["data"][0], one.data)


def test_a_sum_has_the_counts_of_both(finished: Path) -> None:
    counts, monitor = [], []
    for name in ("100K_r2", "100K_r2b"):
        with raw.open_frames(finished / f"raw/{name}.nxs") as frames:
            counts.append(frames.read(0, 150).astype(np.int64))
        monitor.append(raw.read_header(finished / f"raw/{name}.nxs").monitor)
    path = finished / "results/hexa/100K/r2/sum.nxs"
    with raw.open_frames(path) as frames:
        total = frames.read(0, 150).astype(np.int64)
        flagged = np.iinfo(frames.dtype).max
    good = (counts[0] < 60000) & (counts[1] < 60000) & (total != flagged)
    assert good.mean() > 0.9
    np.testing.assert_array_equal(total[good], (counts[0] + counts[1])[good])
    np.testing.assert_allclose(raw.read_header(path).monitor, monitor[0] + monitor[1])


@pytest.mark.slow
def test_structure_factors(finished: Path, tmp_path: Path) -> None:
    """In a copy: what others look at must not have more in it."""
    folder = copy_experiment(finished, tmp_path / "e")
    dry = snakemake(folder, "bragg", "--dry-run")
    expected = {
        "converge": 2,
        "integrate": 4,
        "scale_reflections": 2,
        "merge_reflections": 2,
        "bragg_series": 1,
    }
    assert _jobs(dry.stdout + dry.stderr) == expected | {"bragg": 1}
    run = snakemake(folder, "bragg", "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    again = snakemake(folder, "--dry-run", "--config", "bragg=true")
    # Their pictures go to the page of the sample, their doubts to the overview, they themselves to
    # the master files.
    assert _jobs(again.stdout + again.stderr) == {"sample_page": 1, "overview": 1, "scan_file": 2}
    counted = job_counts(_experiment(folder, bragg=True))
    assert {rule: sum(counted[rule].values()) for rule in expected} == expected

    experiment = _experiment(folder)
    source = experiment.rotation("hexa", "300K", "r1").raw
    truth = build(config.simulation_description(experiment, source))
    factors = read_factors(folder / "results/hexa/300K/structure_factors.nxs").factors
    found, sigma = factors.mean.intensity, factors.mean.sigma
    hkl, true = truth.crystal.reflections(2 * np.pi / factors.d.min() + 0.01)
    known = {tuple(h): value for h, value in zip(hkl.astype(int), true, strict=True)}
    expected_intensity = np.array([known[tuple(h)] for h in factors.hkl])
    assert len(found) > 20
    # One scale: the transmission is known relative to its median over the scan only.
    scale = np.median(found / expected_intensity)
    assert scale == pytest.approx(np.median(truth.scan.transmission), rel=0.03)
    # 0.5 %: the transmission is estimated from the background, which the crystal modulates.
    assert np.abs(found / (scale * expected_intensity) - 1).max() < 0.01
    assert 0 < np.median(sigma / found) < 0.005
    cell = json.loads((folder / "results/hexa/300K/converged.json").read_text())["cell"]
    assert np.abs(np.array(cell[:3]) / truth.cell[:3] - 1).max() < 3e-4
    with (folder / "results/hexa/temperature_series/intensities.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["scan"] for row in rows} == {"300K", "100K"}


def test_killed_between_two_renames_it_resumes(finished: Path, tmp_path: Path) -> None:
    """More faults are in test_failures; this one is for every day."""
    bench = Bench(copy_experiment(finished, tmp_path / "e"), tmp_path / "faults")
    merged = "results/hexa/100K/transform.nxs"
    (bench.folder / merged).unlink()
    try:
        fault = Fault("merge", "stop", point="rename")
        process = bench.start(merged, "--cores", "2", fault=fault)
        bench.caught()
        stop_group(process)
        wait_for(lambda: bench.processes() == [], "the process group to end")
        assert bench.partials()
        assert bench.run("--unlock").returncode == 0
        run = bench.run(merged)
        assert run.returncode == 0, run.stderr
        assert bench.started() == ["merge"]
        assert differences(bench.folder / "results", finished / "results") == []
        assert bench.partials() == []
    finally:
        bench.clear()


@pytest.mark.slow
def test_the_graphs_in_the_documentation_are_the_workflows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    import draw_graphs

    monkeypatch.setattr(sys, "executable", forks.python())
    monkeypatch.setattr(draw_graphs, "edges", functools.cache(draw_graphs.edges))
    page = draw_graphs.PAGE.read_text(encoding="utf-8")
    cure = "the workflow has changed: run `python docs/draw_graphs.py`"
    assert draw_graphs.drawn(page) == page, cure
    # The README's graph is drawn by hand; it names every rule.
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    graph = readme.split("```mermaid")[1].split("```")[0]
    rules = {rule for arrow in draw_graphs.edges("--rulegraph", "mermaid-js") for rule in arrow}
    assert not {rule for rule in rules - {"all"} if rule not in graph}


def test_metrics_are_json(finished: Path) -> None:
    files = list((finished / "results").rglob("*.json"))
    assert len(files) > 10
    for path in files:
        assert "provenance" in json.loads(path.read_text()), path
