"""Layers of the configuration: what goes before what, and what is told of mistakes."""

import copy
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hklflow.cli import main
from hklflow.cli.check import _grid_problems
from hklflow.experiment import config
from hklflow.experiment.cost import Estimate
from hklflow.experiment.jobs import job_counts
from hklflow.experiment.layers import merged
from hklflow.formats import raw
from hklflow.formats.header import Header
from hklflow.geometry import Beam, Detector
from hklflow.stages.refine_parent import _covering
from tests.parameters import params_of

from .test_config import CONFIG, _problems, _with_scan, base  # noqa: F401  (base is a fixture)

# One parameter, set in each layer to a value that tells the layer.
LAYERS = ("facility", "config", "sample", "parent", "scan", "command line")


def _layered(base: Path, present: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: F811
    """Configuration and command line that set find_peaks.n_sigma in the layers given."""
    value = {name: 10.0 + i for i, name in enumerate(LAYERS)}
    section = {name: {"find_peaks": {"n_sigma": value[name]}} for name in present}
    data = copy.deepcopy(CONFIG)
    del data["find_peaks"]
    if "facility" in present:
        (base / "config/facility.yaml").write_text(yaml.safe_dump(section["facility"]))
        data["facility"] = "config/facility.yaml"
    data |= section.get("config", {})
    if "sample" in present:
        data["per_sample"] = {"hexa": section["sample"]}
    per_scan = {"hexa/300K": section.get("parent"), "hexa/100K": section.get("scan")}
    data["per_scan"] = {name: given for name, given in per_scan.items() if given}
    return data, section.get("command line", {})


def test_every_combination_of_layers(base: Path) -> None:  # noqa: F811
    default = config.Config().find_peaks.n_sigma
    for number in range(len(LAYERS) + 1):
        for present in itertools.combinations(LAYERS, number):
            experiment = config.load(*_at(base, present))
            child = experiment.settings("hexa", "100K").find_peaks.n_sigma
            assert child == (10.0 + LAYERS.index(present[-1]) if present else default), present
            # The scan's own layer is not its parent's.
            of_parent = [name for name in present if name != "scan"]
            parent = experiment.settings("hexa", "300K").find_peaks.n_sigma
            assert parent == (10.0 + LAYERS.index(of_parent[-1]) if of_parent else default)
            wide = [n for n in present if n in ("facility", "config", "command line")]
            other = experiment.settings("cube", "cold").find_peaks.n_sigma
            assert other == (10.0 + LAYERS.index(wide[-1]) if wide else default)


def _at(base: Path, present: tuple[str, ...]) -> tuple[dict[str, Any], Path, dict[str, Any]]:  # noqa: F811
    data, command_line = _layered(base, present)
    return data, base, command_line


def test_a_layer_changes_only_what_it_says(base: Path) -> None:  # noqa: F811
    data = copy.deepcopy(CONFIG)
    data["find_peaks"] = {"n_sigma": 5, "min_significance": 7}
    data["per_scan"] = {"hexa/100K": {"find_peaks": {"n_sigma": 9}}}
    experiment = config.load(data, base)
    child = experiment.settings("hexa", "100K")
    assert (child.find_peaks.n_sigma, child.find_peaks.min_significance) == (9, 7)
    assert child.import_scan == experiment.config.import_scan
    assert experiment.settings("hexa", "300K") is experiment.config


def test_children_do_not_take_the_raw_files_settings_of_the_parent(base: Path) -> None:  # noqa: F811
    data = copy.deepcopy(CONFIG)
    data["per_scan"] = {
        "hexa/300K": {
            "import_scan": {"last_frame": 99},
            "refine_parent": {"space_group": "P 3"},
            "mask_3d": {"n_sigma": 9},
        }
    }
    experiment = config.load(data, base)
    assert params_of(experiment, "import_scan", "hexa", "300K", "r1").last_frame == 99
    assert params_of(experiment, "import_scan", "hexa", "100K", "r1").last_frame is None
    assert params_of(experiment, "refine_parent", "hexa", "300K").space_group == "P 3"
    assert experiment.settings("hexa", "100K").mask_3d.n_sigma == 9


def test_a_problem_is_told_with_its_layer(base: Path) -> None:  # noqa: F811
    data = copy.deepcopy(CONFIG)
    (base / "lab.yaml").write_text("find_peaks: {thresold: 3}\nmerge: {pool: 2}\n")
    data["facility"] = "lab.yaml"
    data["merge"] = {"pool": 99}
    data["per_sample"] = {"hexa": {"mask_3d": {"n_sigma": -1}}, "gone": {}}
    data["per_scan"] = {
        "hexa/100K": {"find_peaks": {"n_sigma": "high"}, "calibrations": {}},
        "hexa/77K": {},
    }
    problems = _problems(data, base)
    for expected in (
        "facility file lab.yaml: find_peaks.thresold: there is no such key",
        "config: merge.pool: Input should be less than or equal to 5 (it is 99)",
        "per_sample.hexa: mask_3d.n_sigma: Input should be greater than",
        "config: per_sample: there is no sample 'gone'",
        "per_scan.hexa/100K: find_peaks.n_sigma: Input should be a valid number",
        "config: per_scan.hexa/100K: calibrations is not allowed here",
        "config: per_scan: there is no scan 'hexa/77K'",
    ):
        assert sum(problem.startswith(expected) for problem in problems) == 1, (expected, problems)
    assert len(problems) == 7, problems


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "does not exist"),
        ("a: [1", "is not valid YAML"),
        ("- a list\n", "holds a list"),
        ("facility: other.yaml\n", "`facility` is not allowed here"),
    ],
)
def test_a_bad_facility_file(base: Path, text: str | None, told: str) -> None:  # noqa: F811
    if text is not None:
        (base / "lab.yaml").write_text(text)
    assert any(told in problem for problem in _problems(CONFIG | {"facility": "lab.yaml"}, base))


# Trees that may clash in kind: a mapping here, a number there.
_TREES = st.recursive(
    st.integers(0, 9),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_LAYERS = st.dictionaries(st.sampled_from("abc"), _TREES, max_size=3)


@given(_LAYERS, _LAYERS, _LAYERS)
@settings(deadline=None)
def test_joining_layers_is_associative_and_leaves_them_alone(
    a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]
) -> None:
    before = copy.deepcopy((a, b, c))
    assert merged([{}, a]) == a == merged([a, {}]) == merged([a, a])
    assert merged([a, merged([b, c])]) == merged([merged([a, b]), c]) or _clash(a, b, c)
    assert (a, b, c) == before


def _clash(*trees: Any) -> bool:
    """Whether a mapping in one layer meets something else in another."""
    if not all(isinstance(tree, dict) for tree in trees):
        return any(isinstance(tree, dict) for tree in trees)
    keys = set().union(*trees)
    return any(
        len(found := [tree[key] for tree in trees if key in tree]) > 1 and _clash(*found)
        for key in keys
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({True: 5}, "config: 1: Keys should be strings (it is True)"),
        ({"results": ""}, "config: results: '' cannot be the folder"),
        ({"results": "{sample}"}, "config: results: '{sample}' cannot be the folder"),
        ({"pixel_mask": {"image": "no.npy"}}, "config: pixel_mask: no.npy does not exist"),
        (
            {"per_scan": {"hexa/100K": {"transform": {"flat_field": "no.npy"}}}},
            "config: transform: no.npy does not exist",
        ),
        (
            {"per_sample": {"hexa": {"refine_parent": {"space_group": "P 7 q"}}}},
            "config: refine_parent.space_group: unknown space group 'P 7 q'",
        ),
        (
            {"refine_parent": {"cell": [4, 4, 4, 170, 170, 170]}},
            "config: refine_parent.cell: ",
        ),
    ],
)
def test_what_a_stage_would_refuse_is_told_before_it_runs(
    base: Path,  # noqa: F811
    change: dict[Any, Any],
    told: str,
) -> None:
    (problem,) = _problems(CONFIG | change, base)
    assert problem.startswith(told)


def test_tables_that_cannot_be_read(base: Path) -> None:  # noqa: F811
    table = base / "config/samples.tsv"
    table.write_text("sample\tspace_group\nhexa\tP 7 q\ncube\tP m -3 m\n")
    (problem,) = _problems({"calibrations": CONFIG["calibrations"]}, base)
    assert "row 1: unknown space group 'P 7 q'" in problem
    table.write_bytes("sample\tspace_group\tformula\nhexa\tP 1\tÅ\n".encode("latin1"))
    assert any("samples.tsv is not UTF-8 text" in problem for problem in _problems(CONFIG, base))
    table.write_text("sample\tspace_group\tspace_group\nhexa\tP 1\tP 2\n")
    assert any("'space_group' occurs twice" in problem for problem in _problems(CONFIG, base))


def test_a_raw_file_by_two_names_or_out_of_reach(base: Path) -> None:  # noqa: F811
    _with_scan(
        base,
        "hexa\t300K\t300\t\tr1\traw/a1.nxs\t\t",
        "hexa\t300K\t300\t\tr2\t./raw//a1.nxs\t\t",
        f"hexa\t300K\t300\t\tr3\t{'a' * 5000}\t\t",
    )
    too_long, twice = _problems({}, base)
    assert "row 2: raw ./raw//a1.nxs is also used in" in twice
    assert "cannot be reached (File name too long)" in too_long


def test_a_new_parent_for_other_temperatures_leaves_a_scan_as_it_is(base: Path) -> None:  # noqa: F811
    """The configuration in a master file is a parameter of its rule: it would run again."""
    told = []
    for ranges in ("300K=50:400", "300K=50:400 20K=0:50"):
        table = base / "config/samples.tsv"
        table.write_text(f"sample\tspace_group\tparents\nhexa\tP 6/m m m\t{ranges}\n")
        _with_scan(
            base,
            "hexa\t300K\t300\t\tr1\traw/a1.nxs\t\t",
            "hexa\t100K\t100\t\tr1\traw/a2.nxs\t\t",
        )
        told.append(config.load({}, base).resolved_json("hexa", "100K"))
    assert told[0] == told[1]
    assert json.loads(told[0])["scan"]["parent"] == "300K"


# ------------------------------------------------------------------ parents by temperature


def test_parents_by_temperature(base: Path) -> None:  # noqa: F811
    table = base / "config/samples.tsv"
    table.write_text("sample\tspace_group\tparents\nhexa\tP 6/m m m\t300K=160:400 100K=0:160\n")
    _with_scan(
        base,
        "hexa\t300K\t300\t\tr1\traw/a1.nxs\t\t",
        "hexa\t160K\t160\t\tr1\traw/a2.nxs\t\t",
        "hexa\t159K\t159.9\t\tr1\traw/c.h5\t\t",
        "hexa\t100K\t100\t\tr1\traw/CeO2.tif\t\t",
        "hexa\t50K\t50\t300K\tr1\traw/lab.poni\t\t",
    )
    parents = {name: scan.parent for (_, name), scan in config.load({}, base).scans.items()}
    assert parents == {
        "300K": "300K",
        "160K": "300K",
        "159K": "100K",
        "100K": "100K",
        "50K": "300K",  # the table's word goes before the range
    }


@pytest.mark.parametrize(
    ("ranges", "temperature", "told"),
    [
        ("300K=160:400", "100", "100 K is in 0 of the ranges"),
        ("300K=0:400 x=50:150", "100", "100 K is in 2 of the ranges"),
        ("300K=0:400", "", "no parent and no temperature"),
        ("300K=400:0", "100", "not `scan=low:high`"),
        ("300K", "100", "not `scan=low:high`"),
        ("300K=0:400 300K=0:1", "100", "names 300K twice"),
        ("cold=0:400", "100", "its parent 'cold' is not a scan"),
    ],
)
def test_bad_ranges(base: Path, ranges: str, temperature: str, told: str) -> None:  # noqa: F811
    table = base / "config/samples.tsv"
    table.write_text(f"sample\tspace_group\tparents\nhexa\tP 6/m m m\t{ranges}\n")
    _with_scan(
        base,
        "hexa\t300K\t300\t300K\tr1\traw/a1.nxs\t\t",
        f"hexa\t100K\t{temperature}\t\tr1\traw/a2.nxs\t\t",
    )
    problems = _problems({}, base)
    assert any(told in problem for problem in problems), problems


# --------------------------------------------------------------------- sums and frames


def test_repeated_scans_are_summed(base: Path) -> None:  # noqa: F811
    header = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\tframes\n"
    (base / "config/scans.tsv").write_text(
        header + "hexa\t300K\t300\t\tr1\traw/a1.nxs + raw/a2.nxs\tphi=0:0.1\t\t3600\n"
    )
    experiment = config.load({}, base)
    row = experiment.rotation("hexa", "300K", "r1")
    assert row.is_sum
    assert experiment.raw_inputs(row) == ["raw/a1.nxs", "raw/a2.nxs"]
    assert params_of(experiment, "import_scan", "hexa", "300K", "r1").n_frames == 3600
    _with_scan(base, "hexa\t300K\t300\t\tr1\traw/a1.nxs + raw/gone.nxs + raw/b_####.cbf\t\t")
    problems = _problems({}, base)
    assert any("raw file raw/gone.nxs does not exist" in problem for problem in problems)
    assert any("sums image series and single files" in problem for problem in problems)
    _with_scan(
        base,
        "hexa\t300K\t300\t\tr1\traw/a1.nxs + raw/a2.nxs\t\t",
        "hexa\t300K\t300\t\tr2\traw/a2.nxs\t\t",
    )
    assert any("raw/a2.nxs is also used in" in problem for problem in _problems({}, base))


def test_a_raw_file_is_not_an_option(base: Path) -> None:  # noqa: F811
    _with_scan(base, "hexa\t300K\t300\t\tr1\t-a1.nxs\t\t")
    assert any("write ./-a1.nxs" in problem for problem in _problems({}, base))


@pytest.mark.parametrize("frames", ["0", "-3", "1.5", "many"])
def test_number_of_frames(base: Path, frames: str) -> None:  # noqa: F811
    header = "sample\tscan\ttemperature\tparent\trotation\traw\tframes\n"
    row = f"hexa\t300K\t300\t\tr1\traw/a1.nxs\t{frames}\n"
    (base / "config/scans.tsv").write_text(header + row)
    assert any("frames" in problem for problem in _problems({}, base))


@pytest.mark.parametrize("name", ["calibration", "overview", "logs", "benchmarks"])
def test_a_sample_cannot_have_the_name_of_another_folder(base: Path, name: str) -> None:  # noqa: F811
    (base / "config/samples.tsv").write_text(f"sample\tspace_group\n{name}\tP 1\n")
    _with_scan(base, f"{name}\t300K\t300\t\tr1\traw/a1.nxs\t\t")
    assert any(f"results/{name} is taken" in problem for problem in _problems({}, base))


# ------------------------------------------------------------------------- commands


def test_explain_tells_every_layer(base: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    data, _ = _layered(base, LAYERS[:-1])
    (base / "config/config.yaml").write_text(yaml.safe_dump(data))
    arguments = ["--sample", "hexa", "--scan", "100K", "--directory", str(base)]
    with pytest.raises(SystemExit) as stopped:
        main(["config", "explain", "find_peaks.n_sigma", *arguments])
    assert stopped.value.code == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "find_peaks.n_sigma = 14.0 for hexa/100K"
    told = [" ".join(line.split()) for line in lines]
    default = config.Config().find_peaks.n_sigma
    assert told == [
        f"package default {json.dumps(default)}",
        "facility file config/facility.yaml 10.0",
        "config.yaml 11.0",
        "config.yaml, per_sample.hexa 12.0",
        "config.yaml, per_scan.hexa/300K (parent) 13.0",
        "config.yaml, per_scan.hexa/100K 14.0 <- in force",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["find_peaks.n_sigm"], "did you mean n_sigma?"),
        (["find_peak.n_sigma"], "did you mean find_peaks?"),
        (["merge.pool", "--sample", "hex"], "did you mean hexa?"),
        (["merge.pool", "--sample", "hexa", "--scan", "200K"], "hexa has no scan '200K'"),
        (["merge.pool", "--scan", "200K"], "--scan 200K needs its --sample"),
    ],
)
def test_explain_offers_what_is_there(
    base: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    (base / "config/config.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(SystemExit) as stopped:
        main(["config", "explain", *arguments, "--directory", str(base)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


def test_check_tells_all_problems_and_writes_nothing(
    base: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    (base / "config/config.yaml").write_text(yaml.safe_dump(CONFIG | {"per_sample": {"x": {}}}))
    (base / "raw/a1.nxs").unlink()
    before = sorted(base.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(base)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "2 problems" in error
    assert "raw/a1.nxs does not exist" in error
    assert "there is no sample 'x'" in error
    assert sorted(base.rglob("*")) == before


# ------------------------------------------------------------------------- estimates


def _sized(base: Path, grid: float, frames: str = "") -> Estimate:  # noqa: F811
    """Estimate of an experiment whose raw files say nothing."""
    header = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\tframes\n"
    row = f"hexa\t300K\t300\t\tr1\traw/a1.nxs\tphi=0:0.1\tpowder\t{frames}\n"
    (base / "config/scans.tsv").write_text(header + row)
    data = CONFIG | {"refine_parent": {"grid_limits": [grid] * 3, "grid_step": [0.1] * 3}}
    return Estimate(config.load(data, base))


def test_memory_follows_the_grid_and_time_the_frames(base: Path) -> None:  # noqa: F811
    small, large = _sized(base, 2.0), _sized(base, 20.0)
    key = {"sample": "hexa", "scan": "300K", "rotation": "r1"}
    # 401³ voxels, of which a rotation reaches about half, with 8 bytes each.
    more = large.memory_mb("transform", **key) - small.memory_mb("transform", **key)
    assert more > 4 * (401**3 - 41**3) / 1e6
    assert large.memory_mb("find_peaks", **key) == small.memory_mb("find_peaks", **key)
    short, long = _sized(base, 2.0, "100"), _sized(base, 2.0, "100000")
    assert long.minutes("find_peaks", **key) > 10 * short.minutes("find_peaks", **key)
    assert long.memory_mb("find_peaks", **key) == short.memory_mb("find_peaks", **key)
    # The raw file is empty: that the shape is assumed, is told.
    assert any("raw/a1.nxs" in note for note in small.notes)


def test_a_grid_that_cannot_be_held_is_a_problem(base: Path) -> None:  # noqa: F811
    """What the whole file system of the results cannot take; what is only not free may be freed."""
    estimate = _sized(base, 20.0)
    experiment = estimate._experiment
    needed = estimate.volume_gigabytes("hexa", "300K")
    # Counts and norm of a rotation are 4 bytes a voxel, and there are a dozen volumes.
    assert 30 * 401**3 / 1e9 < needed < 100 * 401**3 / 1e9
    assert _grid_problems(experiment, estimate, 1.01 * needed) == ([], [])
    (problem,), warnings = _grid_problems(experiment, estimate, 0.99 * needed)
    assert not warnings
    assert "a grid of 401 x 401 x 401 voxels take " in problem
    assert "`grid_step` (it is 0.1, 0.1, 0.1), smaller `grid_limits`" in problem
    # 6001³ voxels are more than any machine symmetrises.
    estimate = _sized(base, 300.0)
    (problem,), _ = _grid_problems(estimate._experiment, estimate, 1e9)
    assert "too large for any machine" in problem


def test_a_grid_that_is_a_guess_is_no_problem(
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _sized(base, 20.0)
    table = base / "config/scans.tsv"
    table.write_text(table.read_text().replace("\tpowder\t", "\t\t"))
    estimate = Estimate(config.load(CONFIG, base))
    problems, (warning,) = _grid_problems(estimate._experiment, estimate, 1e-9)
    assert not problems
    assert "refine_parent of hexa/300K" in warning
    assert any("|Q| up to 10" in note for note in estimate.notes)
    # With the geometry of the header it is none: the detector's corner is at 45 degrees.
    detector = Detector(
        (1000, 1000), (1e-4, 1e-4), np.array([0.0, 0.0, 0.1 * 2**0.5]), np.eye(3)[1], np.eye(3)[0]
    )
    monkeypatch.setattr(raw, "read_header", lambda path: Header(1.0, detector))
    estimate = Estimate(config.load(CONFIG, base))
    problems, warnings = _grid_problems(estimate._experiment, estimate, 1e-9)
    assert (len(problems), warnings) == (1, [])
    reach = 4 * np.pi * np.sin(np.radians(22.5))
    cell, step = estimate._experiment.samples["hexa"].cell, estimate._experiment.config
    assert cell is not None
    expected = [
        2 * int(reach * length / (2 * np.pi) / width) + 1
        for length, width in zip(cell[:3], step.refine_parent.grid_step, strict=True)
    ]
    assert estimate.grid("hexa", "300K") == tuple(expected)


def test_check_and_job_choose_the_same_step(
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = (99.2, 99.2, 60.1, 90.0, 90.0, 120.0)
    _sized(base, 20.0)
    table = base / "config/scans.tsv"
    table.write_text(table.read_text().replace("\tpowder\t", "\t\t"))
    corner = np.array([0.0, 0.0, 0.22])
    detector = Detector((1000, 1000), (1e-4, 1e-4), corner, np.eye(3)[1], np.eye(3)[0])
    monkeypatch.setattr(raw, "read_header", lambda path: Header(1.0, detector))
    data = {key: value for key, value in CONFIG.items() if key != "refine_parent"}
    estimate = Estimate(config.load(data | {"refine_parent": {"cell": cell}}, base))
    in_check = estimate.grid("hexa", "300K")
    assert np.prod(in_check) < 5e8
    (note,) = [note for note in estimate.notes if "grid_step" in note]
    assert "voxels are 0.125 r.l.u. wide" in note
    assert estimate.volume_gigabytes("hexa", "300K") < 35
    # A refinement that moves detector and cell slightly does not change the step.
    chosen: Any = SimpleNamespace(cell=cell, grid_step=None)
    rotation = SimpleNamespace(detector=detector, beam=Beam(1.0))
    observed: Any = SimpleNamespace(rotations=[rotation])
    moved = SimpleNamespace(detector=replace(detector, origin=corner * 0.99), beam=Beam(1.0))
    refined: Any = SimpleNamespace(rotations=[moved], cell=np.array(cell) * 1.01)
    grid, notes = _covering(chosen, observed, refined)
    assert note.endswith(notes[0])
    np.testing.assert_array_equal(grid.step, 0.125)
    np.testing.assert_allclose(grid.shape, in_check, rtol=0.03)
    explicit: Any = SimpleNamespace(cell=cell, grid_step=(0.5, 0.5, 0.5))
    grid, notes = _covering(explicit, observed, refined)
    assert (grid.step.tolist(), notes) == ([0.5] * 3, [])


def test_finished_jobs_are_the_measure_and_one_that_is_removed_is_none(base: Path) -> None:  # noqa: F811
    benchmarks = base / "out/benchmarks/refine"
    benchmarks.mkdir(parents=True)
    for name, text in (
        ("hexa_300K", "s\th:m:s\n7.0\t0:00:07\n"),
        ("hexa_200K", "s\th:m:s\n9.0\t0:00:09\n"),
        ("hexa_100K", "s\th:m:s\n"),
    ):
        (benchmarks / f"{name}.tsv").write_text(text)
    # As a table that another process removes between the listing and the reading.
    (benchmarks / "cube_cold.tsv").symlink_to("gone")
    estimate = _sized(base, 2.0)
    shape = estimate.shape("hexa", "300K", "r1")
    assert estimate.seconds("refine", shape) == 8.0
    assert set(estimate.measured) == {"refine"}


def test_a_quick_job_does_not_shorten_the_limit_of_a_larger_one(base: Path) -> None:  # noqa: F811
    key = {"sample": "hexa", "scan": "300K"}
    before = _sized(base, 100.0).minutes("merge", **key)
    (base / "out/benchmarks/merge").mkdir(parents=True)
    table = base / "out/benchmarks/merge/cube_cold_transform.tsv"
    table.write_text("s\n1.0\n")
    assert _sized(base, 100.0).minutes("merge", **key) == before > 10
    table.write_text("s\n10000.0\n")
    assert _sized(base, 100.0).minutes("merge", **key) > 4 * 10000 / 60


def test_every_rule_has_a_cost_and_is_counted(base: Path) -> None:  # noqa: F811
    experiment = config.load(CONFIG, base)
    counts = job_counts(experiment)
    rotations = [
        ("hexa", "300K", "r1"), ("hexa", "300K", "r2"), ("hexa", "100K", "r1"),
        ("cube", "cold", "only"),
    ]  # fmt: skip
    for rule in ("import_scan", "pixel_mask", "find_peaks", "frame_scale", "mask_3d", "transform"):
        assert counts[rule] == dict.fromkeys(rotations, 1)
    assert sum(counts["merge"].values()) == 6
    assert sum(counts["refine_parent"].values()) == 2
    estimate = Estimate(experiment)
    for rule, jobs in counts.items():
        for key in jobs:
            assert estimate.seconds(rule, estimate.shape(*key)) > 0
