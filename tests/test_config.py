"""The experiment's configuration and tables, and the flags that rules make of them."""

import copy
import importlib
import json
import pkgutil
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from hklflow import stage, stages
from hklflow.base.errors import HklflowError
from hklflow.experiment import config
from hklflow.experiment.cost import Estimate
from hklflow.experiment.jobs import Plan
from hklflow.experiment.params import titled
from hklflow.experiment.sources import POWDERS, powder_numbers
from hklflow.stage import contract
from tests.parameters import params_of

REPOSITORY = Path(__file__).parents[1]

SAMPLES = """\
# a comment
sample\tspace_group\ta\tb\tc\talpha\tbeta\tgamma\tformula
hexa\tP 6/m m m\t4.80\t4.80\t7.15\t90\t90\t120\tAB2
cube\tP m -3 m\t\t\t\t\t\t\tABO3
"""
SCAN_COLUMNS = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
SCANS = SCAN_COLUMNS + (
    "hexa\t300K\t300\t300K\tr1\traw/a1.nxs\tchi=0 phi=-180:0.1\tpowder\n"
    "hexa\t300K\t300\t300K\tr2\traw/a2.nxs\tchi=-54.7 phi=1e1:-.5\tpowder\n"
    "hexa\t100K\t100\t300K\tr1\traw/b_####.cbf\tchi=0 phi=0:0.1\tponi\n"
    "cube\tcold\t\t\tonly\traw/c.h5\t\t\n"
)
CONFIG: dict[str, Any] = {
    "results": "out",
    "calibrations": {
        "powder": {
            "image": "raw/CeO2.tif",
            "wavelength": 0.5,
            "pixel_size": [1e-4, 1e-4],
            "polarization": 0.99,
            "distance": 0.2,
            "beam_centre": [10, 20],
        },
        "poni": {"poni": "raw/lab.poni", "polarization": 0.99},
    },
    "import_scan": {"axes": ["chi=0,0,1", "phi=-1,0,0"], "exposure": 0.1, "angles": {"chi": 7}},
    "find_peaks": {"n_sigma": 5},
    "refine_parent": {"grid_step": [0.02, 0.02, 0.05]},
}
RAW = ["a1.nxs", "a2.nxs", "c.h5", "CeO2.tif", "lab.poni"]
RAW += [f"b_{number:04d}.cbf" for number in range(1, 5)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with a good experiment (the raw files are empty)."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/samples.tsv").write_text(SAMPLES)
    (tmp_path / "config/scans.tsv").write_text(SCANS)
    (tmp_path / "raw").mkdir()
    for name in RAW:
        (tmp_path / "raw" / name).touch()
    return tmp_path


def _problems(data: dict[str, Any], base: Path) -> list[str]:
    with pytest.raises(HklflowError) as error:
        config.load(data, base)
    first, *problems = str(error.value).split("\n")
    assert first.startswith(f"{len(problems)} problem")
    return [problem.strip() for problem in problems]


def _with_scan(base: Path, *rows: str) -> None:
    (base / "config/scans.tsv").write_text(SCAN_COLUMNS + "".join(f"{row}\n" for row in rows))


# -------------------------------------------------------------------- good experiments


def test_an_axis_at_0_may_be_listed_without_a_direction(base: Path) -> None:
    _with_scan(base, "hexa\t1\t\t\tr1\traw/a1.nxs\tkappa=0 chi=3 phi=0:0.1\tpowder")
    [scan] = config.load(CONFIG, base).scans.values()
    assert scan.rotations["r1"].goniometer["kappa"] == (0, None)


def test_a_good_experiment(base: Path) -> None:
    experiment = config.load(CONFIG, base)
    assert experiment.samples["hexa"] == config.Sample(
        "hexa", "P 6/m m m", (4.8, 4.8, 7.15, 90.0, 90.0, 120.0), "AB2"
    )
    assert experiment.samples["cube"].cell is None
    assert list(experiment.scans) == [("hexa", "300K"), ("hexa", "100K"), ("cube", "cold")]
    assert experiment.rotations("hexa", "300K") == ["r1", "r2"]
    assert experiment.all_rotations() == [
        ("hexa", "300K", "r1"),
        ("hexa", "300K", "r2"),
        ("hexa", "100K", "r1"),
        ("cube", "cold", "only"),
    ]
    assert experiment.scans["hexa", "100K"].parent == "300K"
    # Without a parent a scan is its own; without a temperature there is none.
    assert experiment.scans["cube", "cold"].parent == "cold"
    assert experiment.scans["cube", "cold"].temperature is None
    assert experiment.rotation("cube", "cold", "only").calibration is None
    assert experiment.config.find_peaks.n_sigma == 5
    assert experiment.paths.master() == "out/{sample}/{scan}/{sample}_{scan}.nxs"


def test_each_rotation_has_the_powder_image_of_its_own_calibration(base: Path) -> None:
    more = {**CONFIG["calibrations"]["powder"], "image": "raw/lab.tif"}
    (base / "raw/lab.tif").touch()
    data = CONFIG | {"calibrations": {**CONFIG["calibrations"], "later": more}}
    _with_scan(
        base,
        *(
            f"hexa\t1\t\t\tr{i}\traw/{raw}\tphi=0:0.1\t{calibration}"
            for i, (raw, calibration) in enumerate(
                [("a1.nxs", "later"), ("a2.nxs", "poni"), ("b_####.cbf", "powder")]
            )
        ),
        "hexa\t2\t\t\tr0\traw/c.h5\tphi=0:0.1\tponi",
    )
    experiment = config.load(data, base)
    at = {"sample": "hexa", "scan": "1"}
    files = POWDERS.files(Plan(experiment), at)
    assert files == [f"out/calibration/{name}/powder.nxs" for name in ("later", "powder")]
    assert powder_numbers(experiment, **at) == [0, -1, 1]
    assert POWDERS.files(Plan(experiment), at | {"scan": "2"}) == []
    assert powder_numbers(experiment, "hexa", "2") == [-1]


def test_sections_reach_every_stage_that_goes_by_them(base: Path) -> None:
    """Limits of the gates the refinements, the integration's settings the loop around it."""
    accept = {"min_strain": 1e-3, "on_failure": "warn"}
    given = CONFIG | {"accept": accept, "integrate": {"strong": 7.0, "spot": [1.0, 1.5]}}
    experiment = config.load(given, base)
    for rule in ("refine", "refine_parent"):
        params = params_of(experiment, rule, "hexa", "300K")
        assert params.accept.limits().min_strain == 1e-3
    converge = params_of(experiment, "converge", "hexa", "300K")
    assert converge.integrate.strong == 7.0
    assert converge.integrate.spot == (1.0, 1.5)
    assert """--integrate '{"spot":[1.0,1.5],"strong":7.0}'""" in config.flags(converge)


def test_a_job_reads_the_corrections_of_the_import_from_its_command_line(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One item or several; as the workflow writes them."""
    for items in (["arm=0,20,0"], ["r1:arm=0,20,0", "mirrored=fast"]):
        given = CONFIG | {"import_scan": CONFIG["import_scan"] | {"detector": items}}
        params = params_of(config.load(given, base), "refine_parent", "hexa", "300K")
        assert params.imported.detector == tuple(items)
        assert _parsed("refine_parent", config.flags(params), monkeypatch) == params


def test_import_params_join_configuration_and_table(base: Path) -> None:
    experiment = config.load(CONFIG, base)
    params = params_of(experiment, "import_scan", "hexa", "300K", "r2")
    assert params.axes == ("chi=0,0,1", "phi=-1,0,0")
    assert params.angles == {"chi": -54.7}  # the table goes before the configuration
    assert (params.scan_axis, params.start, params.step) == ("phi", 10.0, -0.5)
    assert (params.exposure, params.temperature, params.pattern) == (0.1, 300.0, None)
    raw_only = params_of(experiment, "import_scan", "cube", "cold", "only")
    assert raw_only.angles == {"chi": 7.0}
    assert (raw_only.scan_axis, raw_only.start, raw_only.temperature) == (None, None, None)


def test_a_rotation_leaves_out_the_frames_that_are_for_it(base: Path) -> None:
    own = {"import_scan": {"leave_out": ["r1:0-3", "r2:5", 17, "100-120"]}}
    experiment = config.load({**CONFIG, "per_scan": {"hexa/300K": own}}, base)

    def left_out(scan: str, rotation: str) -> tuple[str, ...]:
        return params_of(experiment, "import_scan", "hexa", scan, rotation).leave_out

    assert left_out("300K", "r1") == ("0-3", "17", "100-120")
    assert left_out("300K", "r2") == ("5", "17", "100-120")
    assert left_out("100K", "r1") == ()


def test_wavelength_and_axes_of_one_rotation_also_of_children(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "wavelengths": {"r2": 0.9},
        "axes": ["r2:phi=0,1,0", "chi=0,0,1", "phi=-1,0,0"],
        "detector": ["shift=1,2"],
        "leave_out": [3],
    }
    general = CONFIG | {"import_scan": CONFIG["import_scan"] | {"wavelength": 0.7}}
    layers: dict[str, Any] = {"hexa/300K": {"import_scan": own}}
    experiment = config.load(general | {"per_scan": layers}, base)
    for scan in ("300K", "100K"):
        for rotation, wavelength, axes in (
            ("r1", 0.7, ("chi=0,0,1", "phi=-1,0,0")),
            ("r2", 0.9, ("phi=0,1,0",)),
        ):
            if rotation not in experiment.rotations("hexa", scan):
                continue
            params = params_of(experiment, "import_scan", "hexa", scan, rotation)
            assert (params.wavelength, params.axes) == (wavelength, axes)
            assert (params.wavelengths, params.detector) == ({}, ("shift=1,2",))
            assert params.leave_out == (("3",) if scan == "300K" else ())
    parent = params_of(experiment, "refine_parent", "hexa", "300K")
    assert parent.imported.wavelengths == {"r2": 0.9}
    assert parent.imported.axes == ("r2:phi=0,1,0",)
    assert parent.imported.layer == "per_scan.hexa/300K"
    assert _parsed("refine_parent", config.flags(parent), monkeypatch) == parent
    # A child whose header is right has its own list.
    layers["hexa/100K"] = {"import_scan": {"detector": []}}
    experiment = config.load(general | {"per_scan": layers}, base)
    assert params_of(experiment, "import_scan", "hexa", "100K", "r1").detector == ()


def test_refinement_transform_and_merge_params(base: Path) -> None:
    experiment = config.load(CONFIG, base)
    parent = params_of(experiment, "refine_parent", "hexa", "300K")
    assert parent.cell == (4.8, 4.8, 7.15, 90.0, 90.0, 120.0)
    assert (parent.sample, parent.scan, parent.rotations) == ("hexa", "300K", ["r1", "r2"])
    assert (parent.space_group, parent.grid_step) == ("P 6/m m m", (0.02, 0.02, 0.05))
    assert params_of(experiment, "refine_parent", "cube", "cold").cell is None
    assert params_of(experiment, "refine", "hexa", "100K").rotations == ["r1"]
    assert params_of(experiment, "transform", "hexa", "300K", "r2").rotation == "r2"
    merged = params_of(experiment, "merge", "hexa", "300K", kind="transform").title
    assert merged == "S(Q) of hexa 300K at 300 K"
    masked = params_of(experiment, "merge", "cube", "cold", kind="masked_transform").title
    assert masked == "S(Q) of cube cold, 3-D masked"


def test_raw_inputs_of_a_series_are_its_ends(base: Path) -> None:
    experiment = config.load(CONFIG, base)
    row = experiment.rotation("hexa", "100K", "r1")
    assert row.is_series
    assert experiment.raw_inputs(row) == ["raw/b_0001.cbf", "raw/b_0004.cbf"]
    assert params_of(experiment, "import_scan", "hexa", "100K", "r1").pattern == "raw/b_####.cbf"
    file = experiment.rotation("hexa", "300K", "r1")
    assert not file.is_series
    assert experiment.raw_inputs(file) == ["raw/a1.nxs"]


@pytest.mark.parametrize("pattern", ["b_####.cbf", "b_*.cbf", "b_%04d.cbf", "b_0?0[1-4].cbf"])
def test_series_patterns(base: Path, pattern: str) -> None:
    text = SCANS.replace("b_####.cbf", pattern)
    if "?" in pattern:
        for number in range(1, 5):
            (base / f"raw/b_000{number}.cbf").rename(base / f"raw/b_000{number}.old")
            (base / f"raw/b_010{number}.cbf").touch()
    (base / "config/scans.tsv").write_text(text)
    experiment = config.load(CONFIG, base)
    ends = experiment.raw_inputs(experiment.rotation("hexa", "100K", "r1"))
    assert [re.findall(r"\d+", end)[0][-1] for end in ends] == ["1", "4"]


def test_series_outside_the_experiment_keeps_its_whole_path(
    base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("beamtime")
    for number in (1, 2):
        (elsewhere / f"x_{number:05d}.cbf").touch()
    _with_scan(base, f"hexa\tcold\t\t\tr\t{elsewhere}/x_#####.cbf\tphi=0:1\t")
    experiment = config.load(CONFIG, base)
    ends = experiment.raw_inputs(experiment.rotation("hexa", "cold", "r"))
    assert ends == [str(elsewhere / "x_00001.cbf"), str(elsewhere / "x_00002.cbf")]


def test_tables_of_a_spreadsheet(base: Path) -> None:
    """A byte-order mark and line ends of Windows change nothing."""
    for name, text in (("samples", SAMPLES), ("scans", SCANS)):
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        content = b"\xef\xbb\xbf" + "\r\n".join(lines).encode()
        (base / f"config/{name}.tsv").write_bytes(content)
    assert list(config.load(CONFIG, base).samples) == ["hexa", "cube"]


def test_the_demo_loads() -> None:
    base = REPOSITORY / "demo"
    experiment = config.load(yaml.safe_load((base / "config/config.yaml").read_text()), base)
    assert len(experiment.all_rotations()) == 6
    raws = config.simulated_raws(experiment)
    assert len(raws) == 7
    descriptions = [config.simulation_description(experiment, raw) for raw in raws]
    # Every file has its own noise, and its own setting of the goniometer.
    assert len({description.seed for description in descriptions}) == 7
    assert descriptions[1].angles == {"chi": 35.0, "phi": 0.0}
    assert descriptions[1].temperature == 300
    assert descriptions[-1].powder is not None
    for description in descriptions:
        again = stages.simulate.Description.model_validate_json(
            description.model_dump_json(exclude_defaults=True)
        )
        assert again == description


def _examples(name: str) -> str:
    """Text of a template's file with its examples: remarks begin with "# ", examples with "#"."""
    lines = (REPOSITORY / "config" / name).read_text().splitlines()
    return "\n".join(re.sub(r"^#(?! \S)", "", line) for line in lines) + "\n"


def test_the_template_is_good() -> None:
    data = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    assert config.load(data, REPOSITORY).scans == {}


def test_the_examples_of_the_template_are_good(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    for name in ("samples.tsv", "scans.tsv"):
        (tmp_path / "config" / name).write_text(_examples(name))
    data = yaml.safe_load(_examples("config.yaml"))
    raws = re.findall(r"raw/[\w.#]+", _examples("scans.tsv") + _examples("config.yaml"))
    (tmp_path / "raw").mkdir()
    for raw in raws:
        (tmp_path / raw.replace("####", "0001")).touch()
    mask = tmp_path / data["pixel_mask"]["mask_file"]
    mask.write_text("- {shape: circle, slow: 840, fast: 730, radius: 25}\n")
    facility = Path(data["facility"])
    assert not facility.is_absolute()
    data["facility"] = facility.name  # beside the experiments in the example
    (tmp_path / facility.name).write_text("find_peaks: {n_sigma: 6}\n")
    experiment = config.load(data, tmp_path)
    assert len(experiment.all_rotations()) == 4
    # What the examples are there to show.
    assert set(data) >= {"calibrations", "import_scan", "pixel_mask", "refine_parent", "transform"}
    assert len(experiment.config.pixel_mask.shapes) == 3
    assert isinstance(experiment.config.calibrations["powder"], config.PowderImage)
    assert isinstance(experiment.config.calibrations["lab"], config.PoniFile)
    assert isinstance(experiment.config.calibrations["beamline"], config.StoredGeometry)
    assert len(experiment.state("beamline").id) == 16
    assert experiment.rotation("quartz", "100K", "r1").is_series
    # By the temperature ranges of its sample.
    assert experiment.scans["quartz", "100K"].parent == "100K"
    assert experiment.rotation("quartz", "300K", "r2").is_sum
    assert experiment.samples["unknown"].cell is None
    assert experiment.config.import_scan.monitor == "none"


# ----------------------------------------------------------------------- every problem

BAD_CONFIG = [
    ({"find_peaks": {"thresold": 40}}, "config: find_peaks.thresold: ", "40"),
    ({"find_peeks": {}}, "config: find_peeks: ", ""),
    ({"find_peaks": {"n_sigma": 0.5}}, "config: find_peaks.n_sigma: ", "0.5"),
    ({"find_peaks": {"n_sigma": "five"}}, "config: find_peaks.n_sigma: ", "'five'"),
    ({"find_peaks": None}, "config: find_peaks: ", "the section is empty"),
    ({"merge": {"title": "x"}}, "config: merge.title: ", "x"),
    ({"calibrations": {"powder": None}}, "config: calibrations.powder", "the section is empty"),
    ({"calibrations": {"powder": "CeO2.tif"}}, "config: calibrations.powder", "CeO2.tif"),
    ({"calibrations": {"powder": {"image": "x"}}}, "config: calibrations.powder.image", ""),
    *(
        (
            {"calibrations": {"powder": CONFIG["calibrations"]["powder"] | {key: value}}},
            f"config: calibrations.powder.image.{key}",
            told,
        )
        for key, value, told in (
            ("wavelength", 1e300, "1e+300 Å is outside"),
            ("wavelength", 1e-300, "1e-300 Å is outside"),
            ("pixel_size", [1e300, 1e-4], "1e+300 x 0.0001 m is outside"),
            ("pixel_size", [-1e-4, 1e-4], "-0.0001 x 0.0001 m is outside"),
            ("distance", 1e300, "less than or equal to 20"),
        )
    ),
    (
        {"calibrations": {"poni": {"poni": "raw/lab.poni", "polarization": 0.99, "image": "x"}}},
        "config: calibrations.poni.poni.image",
        "'x'",
    ),
    ({"import_scan": {"axes": ["phi:1,0,0"]}}, "config: import_scan.axes: ", "phi:1,0,0"),
    ({"import_scan": {"axes": ["phi=1,0,0", "phi=0,1,0"]}}, "config: import_scan.axes", "twice"),
    ({"import_scan": {"axes": ["r7:phi=1,0,0"]}}, "config: import_scan.axes: ", "not in a rot"),
    ({"find_peaks": {"gain": 1.6}}, "config: find_peaks.gain: ", "`import_scan: {gain: ...}`"),
    ({"import_scan": {"wavelengths": {"r7": 1}}}, "config: import_scan.wavelengths: 'r7'", "not"),
    ({"import_scan": {"axes": ["phi=0,0,0"]}}, "config: import_scan.axes", "no direction"),
    ({"import_scan": {"axes": ["=0,0,1"]}}, "config: import_scan.axes", "=0,0,1"),
    (
        {"pixel_mask": {"shapes": [{"shape": "square", "slow": 1}]}},
        "config: pixel_mask.shapes.0: ",
        "square",
    ),
    ({"simulation": {"scan": {}}}, "config: simulation.samples: ", ""),
]


@pytest.mark.parametrize(("change", "place", "value"), BAD_CONFIG, ids=lambda item: str(item)[:40])
def test_bad_configuration(base: Path, change: dict[str, Any], place: str, value: str) -> None:
    if "calibrations" in change:
        change = {"calibrations": CONFIG["calibrations"] | change["calibrations"]}
    problems = _problems(CONFIG | change, base)
    mine = [problem for problem in problems if problem.startswith(place)]
    assert mine, problems
    assert all(value in problem for problem in mine[:1])
    # One mistake in the configuration does not make the tables look wrong.
    assert all(problem.startswith("config: ") for problem in problems)


BAD_ROWS = [
    ("hexa\t1\t\t2\tr1\traw/a1.nxs\t\t", ["scan hexa 1: its parent '2' is not a scan"]),
    ("tetra\t1\t\t\tr1\traw/a1.nxs\t\t", ["row 1: sample 'tetra' is not in the table of samples"]),
    ("hexa\t1\t\t\tr1\traw/no.nxs\t\t", ["row 1: raw file raw/no.nxs does not exist"]),
    ("hexa\t1\t\t\tr1\t\t\t", ["row 1: no raw file"]),
    ("hexa\t1\t\t\tr1\traw/no_###.cbf\t\t", ["row 1: ", "no_###.cbf"]),
    ("hexa\t1\t\t\tr1\traw/a#.nxs\t\t", ["row 1: raw/a#.nxs is a series of HDF5 files"]),
    (
        "hexa\t1\t\t\tr1\traw/a1.nxs\t\tother",
        ["row 1: there is no calibration 'other': the configuration defines powder"],
    ),
    ("hexa\ta_b\t\t\tr1\traw/a1.nxs\t\t", ["row 1: scan 'a_b' may only have"]),
    ("hexa\t..\t\t\tr1\traw/a1.nxs\t\t", ["row 1: scan '..' may only have"]),
    ("hexa\t1\t\t\ta/b\traw/a1.nxs\t\t", ["row 1: rotation 'a/b' may only have"]),
    ("hexa\t1\t\t\t\traw/a1.nxs\t\t", ["row 1: rotation '' may only have"]),
    ("hexa\t1\twarm\t\tr1\traw/a1.nxs\t\t", ["row 1: temperature 'warm' is not a number"]),
    ("hexa\t1\tnan\t\tr1\traw/a1.nxs\t\t", ["row 1: temperature 'nan' is not a number"]),
    ("hexa\t1\t-3\t\tr1\traw/a1.nxs\t\t", ["row 1: temperature -3 K is below absolute zero"]),
    ("hexa 1\t\t\tr1\traw/a1.nxs", ["row 1: 8 tab-separated values are needed"]),
    ("hexa\t1\t\t\tr1\traw/a1.nxs\t\t\textra", ["row 1: 8 tab-separated values are needed"]),
]
BAD_GONIOMETERS = [
    ("phi", "goniometer 'phi' is not `axis=degrees` or `axis=start:step`"),
    ("phi=a:1", "goniometer 'phi=a:1' is not"),
    ("phi=1-2", "goniometer 'phi=1-2' is not"),
    ("phi=0:1:2", "goniometer 'phi=0:1:2' is not"),
    ("phi = 0:1", "goniometer '=' is not"),
    ("phi=0:1 chi=0:1", "goniometer scans phi and chi; scan one axis"),
    ("phi=0:0", "goniometer 'phi=0:0' has a step of 0"),
    ("phi=0:1 phi=3", "goniometer sets phi twice"),
    ("ph=0:1", "there is no goniometer axis ph (the axes are chi, phi)"),
    ("kappa=3 phi=0:1", "there is no goniometer axis kappa (the axes are chi, phi)"),
]
BAD_ROWS += [
    (f"hexa\t1\t\t\tr1\traw/a1.nxs\t{text}\t", [f"row 1: {told}"]) for text, told in BAD_GONIOMETERS
]


@pytest.mark.parametrize(("row", "parts"), BAD_ROWS, ids=lambda item: str(item)[:40])
def test_bad_row(base: Path, row: str, parts: list[str]) -> None:
    _with_scan(base, row)
    (problem,) = [p for p in _problems(CONFIG, base) if parts[0] in p]
    assert all(part in problem for part in parts)
    assert problem.startswith((str(base / "config/scans.tsv"), "scan "))


PARENTS = [
    (
        [
            "hexa\tA\t\tA\tr\traw/a1.nxs\t\t",
            "hexa\tB\t\tA\tr\traw/a2.nxs\t\t",
            "hexa\tC\t\tB\tr\traw/c.h5\t\t",
        ],
        "scan hexa C: its parent B is itself a child of A",
    ),
    (
        ["hexa\tA\t\tB\tr\traw/a1.nxs\t\t", "hexa\tB\t\tA\tr\traw/a2.nxs\t\t"],
        "scan hexa A: its parent B is itself a child of A",
    ),
    (
        ["hexa\tA\t\tA\tr\traw/a1.nxs\t\t", "cube\tB\t\tA\tr\traw/a2.nxs\t\t"],
        "scan cube B: its parent 'A' is not a scan (there is one of sample hexa)",
    ),
    (
        ["hexa\tA\t\tA\tr\traw/a1.nxs\t\t", "hexa\tA\t\tA\tr\traw/a2.nxs\t\t"],
        "row 2: rotation r of A occurs twice",
    ),
    (
        ["hexa\tA\t\tA\tr\traw/a1.nxs\t\t", "hexa\tA\t\tA\ts\traw/a1.nxs\t\t"],
        "row 2: raw raw/a1.nxs is also used in",
    ),
    (
        ["hexa\tA\t5\tA\tr\traw/a1.nxs\t\t", "hexa\tA\t6\tA\ts\traw/a2.nxs\t\t"],
        "row 2: the rotations of A differ in temperature or parent",
    ),
]


@pytest.mark.parametrize(("rows", "expected"), PARENTS, ids=lambda item: str(item)[-40:])
def test_rows_that_contradict_each_other(base: Path, rows: list[str], expected: str) -> None:
    _with_scan(base, *rows)
    problems = _problems(CONFIG, base)
    assert [p for p in problems if expected in p], problems


BAD_SAMPLES = [
    ("x\tP 1\t1\t2\t3\t90\t90\t\t", "give all six of a, b, c"),
    ("x\tP 1\t1\t2\t3\t90\t90\tright\t", "cell 'right' is not a number"),
    ("x\tP 1\t1\t2\tnan\t90\t90\t90\t", "cell 'nan' is not a number"),
    ("x\tP 1\t1\t2\t3\t60\t60\t179\t", "has no volume"),
    ("x\tP 1\t-1\t2\t3\t90\t90\t90\t", "has no volume"),
    ("x\t\t\t\t\t\t\t\t", "no space group"),
    ("x y\tP 1\t\t\t\t\t\t\t", "sample 'x y' may only have"),
    ("hexa\tP 1\t\t\t\t\t\t\t", "sample hexa occurs twice"),
]


@pytest.mark.parametrize(("row", "expected"), BAD_SAMPLES)
def test_bad_sample(base: Path, row: str, expected: str) -> None:
    path = base / "config/samples.tsv"
    path.write_text(f"{SAMPLES}{row}\n")
    (problem,) = _problems(CONFIG, base)
    assert problem.startswith(f"{path}, row 3: ")
    assert expected in problem


def test_wrong_columns(base: Path) -> None:
    (base / "config/scans.tsv").write_text(SCANS.replace("rotation\t", "rotatoin\t", 1))
    (problem,) = _problems(CONFIG, base)
    assert "scans.tsv: unknown column 'rotatoin', no column 'rotation'; columns are" in problem


def test_spaces_instead_of_tabs(base: Path) -> None:
    (base / "config/scans.tsv").write_text(SCANS.replace("\t", "  "))
    (problem,) = _problems(CONFIG, base)
    assert "no column 'sample'" in problem
    assert "(by tabs)" in problem


def test_missing_and_empty_tables(base: Path) -> None:
    (base / "config/scans.tsv").write_text(SCAN_COLUMNS)
    # The calibrant is measured before the first scan.
    experiment = config.load(CONFIG, base)
    assert experiment.scans == {}
    assert experiment.used_calibrations() == list(experiment.config.calibrations)
    (base / "config/scans.tsv").unlink()
    (problem,) = _problems(CONFIG, base)
    assert problem == f"{base}/config/scans.tsv does not exist; `hklflow init` makes the tables"


def test_missing_calibration_files(base: Path) -> None:
    (base / "raw/CeO2.tif").unlink()
    (base / "raw/lab.poni").unlink()
    assert _problems(CONFIG, base) == [
        "config: calibrations.powder: raw/CeO2.tif does not exist",
        "config: calibrations.poni: raw/lab.poni does not exist",
    ]


def test_all_problems_are_told_together(base: Path) -> None:
    (base / "config/samples.tsv").write_text(SAMPLES + "x\t\t1\t\t\t\t\t\t\n")
    _with_scan(
        base,
        "hexa\t300K\twarm\t\tr1\traw/no.nxs\tphi\tnone",
        "hexa\t100K\t\t200K\tr1\traw/a1.nxs\t\t",
        "tetra\t100K\t\t\tr1\traw/a1.nxs\t\t",
    )
    problems = "\n".join(_problems(CONFIG | {"find_peaks": {"thresold": 40, "window": 0}}, base))
    for part in (
        "config: find_peaks.thresold: ",
        "config: find_peaks.window: ",
        "samples.tsv, row 3: give all six",
        "samples.tsv, row 3: no space group",
        "scans.tsv, row 1: temperature 'warm'",
        "scans.tsv, row 1: goniometer 'phi'",
        "scans.tsv, row 1: there is no calibration 'none'",
        "scans.tsv, row 1: raw file raw/no.nxs does not exist",
        "scans.tsv, row 3: sample 'tetra'",
        "scans.tsv, row 3: raw raw/a1.nxs is also used in",
        "scan hexa 100K: its parent '200K' is not a scan",
    ):
        assert part in problems


def test_symmetry_and_planes_of_the_volumes_are_read_before_anything_runs(base: Path) -> None:
    problems = _problems(
        CONFIG
        | {
            "find_peaks": {"thresold": 40},
            "planes": {"hkl": ["h k 0", "h k"], "xyz": ["x x z", "h k 0"]},
            "per_sample": {
                "hexa": {"symmetrise": {"symmetry": "F m -3 m"}},
                "cube": {"symmetrise": {"symmetry": "P 7"}},
            },
        },
        base,
    )
    # With the other problems, each once although hexa has two scans.
    assert len(problems) == 5, problems
    for place, value in (
        ("config: find_peaks.thresold: ", "40"),
        ("config: planes.hkl: ", "'h k'"),
        ("config: planes.xyz: ", "'h k 0'"),
        ("config: symmetrise.symmetry: ", "'P 7'"),
        ("config: symmetrise.symmetry of hexa/300K: ", "'F m -3 m' does not match the cell"),
    ):
        assert any(p.startswith(place) and value in p for p in problems), (place, problems)
    # Of the cube no cell is known.
    good = {
        "cube": {"symmetrise": {"symmetry": "F m -3 m"}},
        "hexa": {"symmetrise": {"symmetry": "P 6/m"}},
    }
    config.load(CONFIG | {"per_sample": good, "planes": {"hkl": ["h h l"]}}, base)
    for empty in ("", " "):
        (problem,) = _problems(CONFIG | {"symmetrise": {"symmetry": empty}}, base)
        assert problem.startswith("config: symmetrise.symmetry: unknown space group ''")


def test_an_absolute_scale_needs_bragg_intensities_and_a_scale_of_the_reference(
    base: Path,
) -> None:
    own = {"hexa/300K": {"absolute_scale": {"cif": "raw/a1.nxs"}}}
    # A child takes over the entry of its parent.
    problem, of_child = _problems(CONFIG | {"per_scan": own}, base)
    assert of_child.startswith("config: absolute_scale of hexa/100K")
    assert (
        "absolute_scale of hexa/300K: it needs the Bragg intensities; set `bragg: true`" in problem
    )
    both = CONFIG | {"bragg": True, "per_scan": own, "refine_scale": {"use": True}}
    problems = _problems(both, base)
    assert len(problems) == 2
    for problem in problems:
        assert "Bragg intensities, which do not have the factors of `refine_scale`" in problem
    for reference, words in (("200K", "'200K' is not another scan of hexa"), ("300K", "")):
        child = {"hexa/100K": {"absolute_scale": {"cif": None, "reference": reference}}}
        data = CONFIG | {"bragg": True, "per_scan": own | child}
        if words:
            (problem,) = _problems(data, base)
            assert words in problem
        else:
            config.load(data, base)
    alone = {"hexa/100K": {"absolute_scale": {"reference": "300K"}}}
    (problem,) = _problems(CONFIG | {"bragg": True, "per_scan": alone}, base)
    assert "the reference 300K must have a `cif` and no reference" in problem


def test_a_bad_section_leaves_the_others_in_force(base: Path) -> None:
    """The tables are looked for where the configuration says, beside the mistake."""
    (base / "config").rename(base / "tables")
    data = CONFIG | {"samples": "tables/samples.tsv", "scans": "tables/scans.tsv"}
    assert len(config.load(data, base).scans) == 3
    (problem,) = _problems(data | {"find_peaks": {"thresold": 40}}, base)
    told = "there is no such key (it is 40); did you mean threshold?"
    assert problem == f"config: find_peaks.thresold: {told}"


def test_mistakes_in_a_simulation_are_found_before_anything_runs() -> None:
    base = REPOSITORY / "demo"
    data = yaml.safe_load((base / "config/config.yaml").read_text())
    data["simulation"]["scan"]["wavelenth"] = 3
    problems = _problems(data, base)
    assert any("raw/hexa_300K_r1.nxs: wavelenth: " in problem for problem in problems)
    data["simulation"]["samples"] = {}
    problems = _problems(data, base)
    assert any("simulation.samples has no 'hexa'" in problem for problem in problems)


def test_descriptions_need_a_simulation(base: Path) -> None:
    experiment = config.load(CONFIG, base)
    assert config.simulated_raws(experiment) == []
    with pytest.raises(HklflowError, match="is not simulated"):
        config.simulation_description(experiment, "raw/a1.nxs")


# ------------------------------------------------------------------------------- flags

STAGES = [name for _, name, _ in pkgutil.iter_modules(stages.__path__)]


def test_a_section_that_is_gone_says_where_its_settings_went(base: Path) -> None:
    data: dict[str, Any] = CONFIG | {"find_maximum": {"annulus": [0.3, 0.9]}}
    data["per_scan"] = {"hexa/300K": {"find_maximum": {"block": 4}}}
    told = [text for text in _problems(data, base) if "find_maximum" in text]
    gone = "this section is gone: find_peaks makes the frame statistics, and has `annulus`"
    assert told == [
        f"config: find_maximum: {gone}",
        f"config: per_scan.hexa/300K: find_maximum: {gone}",
    ]


# One value for every parameter that is not left at its default; texts that a shell or a
# parser of flags could take for something else.
ODD = "-x 'a' \"b\" $HOME; =#"
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "bin_frames": [{}, {"binning": 8, "pattern": "my raw/--x_####.cbf", "saturation": 1e6}],
    "import_scan": [
        {},
        {"axes": ["chi=0,0,1", "phi=-1,0,0"], "angles": {"chi": -35.5, "two_theta": 1e-7}},
        {"axes": ["phi=-1,0,0"], "scan_axis": "phi", "start": -180.0, "step": -1e-7},
        {"n_frames": 3600},
        {"pattern": "my raw/--x_####.cbf", "monitor": "none", "temperature": 0.0},
        {"first_frame": 3, "last_frame": 9, "attenuation": 0.1, "exposure": 1e-3},
        {"leave_out": [17, "100-120"], "temperature": 5.0},
    ],
    "pixel_mask": [
        {},
        {"mask_file": "a mask.yaml", "detector": "Pilatus 1M"},
        {"edges": 3, "image": "-a b.tif", "find_defects": False, "sample_frames": 12},
        {"shapes": [{"shape": "circle", "slow": -3, "fast": 2, "radius": 4}]},
        {
            "shapes": [
                {"shape": "polygon", "corners": [[0, 1], [-1, 2.5], [3, 4]], "op": "subtract"},
                {"shape": "annulus", "slow": 0, "fast": 0, "inner": 1, "outer": 2},
                {"shape": "beamstop", "slow": 0, "fast": 0, "radius": 1, "arm_angle": -90},
                {"shape": "rectangle", "slow_min": -1, "slow_max": 5, "fast_min": 0, "fast_max": 1},
            ]
        },
    ],
    "artificial_normalization": [
        {},
        {"pixel_groups": "a b.nxs"},
        {"method": "snip", "bins": 50, "width": 9, "sigmas": 3.5},
    ],
    "sum_scans": [{}, {"patterns": ("a_####.cbf", "b c_####.cbf"), "saturation": 1e6}],
    "refine_scale": [{}, {"use": True, "direction_intervals": 6, "outgoing_step": 6.0}],
    "absorption": [
        {},
        {"shape": {"kind": "sphere", "radii": [0.1]}, "mu": 3.5, "nodes": 17},
        {
            "shape": {
                "kind": "box",
                "thickness": (0.1, 0.2, 0.3),
                "first": {"hkl": (0, 0, -1)},
                "second": {"holder": (1, 0.5, -2)},
            },
            "formula": "Sr Ti O3",
            "formula_units": 1,
            "beam": {"profile": "even", "horizontal": 0.1, "vertical": 0.2},
            "sample_cell": (4, 4, 4, 90, 90, 90),
            "annulus": (0.1, 0.5),
        },
        {
            "shape": {
                "kind": "faces",
                "faces": [
                    {"hkl": hkl, "distance": 0.1 + i / 100}
                    for i, hkl in enumerate([(1, 0, 0), (-1, -1, -1), (0, 1, 0), (0, 0, 1)])
                ],
            },
            "density": 2.5,
            "size_error": 0.1,
        },
    ],
    "unmeasured_background": [
        {},
        {"subtract": True, "rings": "subtract", "friedel": False, "shells": 4, "punch": 0.2},
        {"records": 2000},
    ],
    "background": [
        {"runs": {"air": {"raw": "raw/a.nxs", "seen_through": "not"}}},
        {
            "runs": {
                "air": {"raw": "a b_####.cbf", "seen_through": "part", "share": 0.4},
                "tube": {
                    "raw": "raw/t.nxs",
                    "seen_through": "crystal",
                    "transmission": "T 1.txt",
                    "scale": "fit",
                    "contains": ["air"],
                },
            },
            "sample_frames": 10,
        },
    ],
    "frame_scale": [{}, {"source": "none", "smooth": False, "rotation_scale": False, "window": 7}],
    "find_peaks": [
        {},
        {"n_sigma": 5.5, "threshold": 40, "gain": "measure", "sigma_floor": (0.0, 0.1)},
        {"annulus": (0.1, 0.5), "block": 1},
    ],
    "refine_parent": [
        {"cell": (4.8, 4.8, 7.15, 90, 90, 120)},
        {"space_group": "-P 2ac 2n", "grid_limits": (1, 2.5, 3), "refine_detector": False},
        {"space_group": "62", "rotations": ["1"], "scan": "300", "refine_distance": True},
    ],
    "refine": [{}, {"refine_goniometer": False, "rotations": ["r-1", "r+2", "3.5"]}],
    "mask_3d": [{}, {"seed_counts": 1e3, "afterglow_frames": 4, "reach": 0.0}],
    "transform": [
        {},
        {"samples": (1, 2, 3), "flat_field": "-x/f.tif", "solid_angle": False, "block": 3},
        {"part": (2, 3), "memory": 0.5},
    ],
    "add_transforms": [{}],
    "accept": [{}, {"on_failure": "warn", "min_z": 7, "max_expansion": 1e-6}],
    "temperature_series": [{}],
    "features": [
        {},
        {
            "define": {
                "M' (0 +.-_)": {"shape": "rod", "point": (0.5, 0.5, 0), "direction": (0, 0, 1)},
                "p": {"shape": "point", "point": (-0.5, 0, 1e-3), "width": 0.2},
            },
            "resolution": (0.01, 0.02, 0.03),
        },
    ],
    "order_parameters": [{}, {"vectors": [(0.5, 0, -0.25)], "temperature_sigma": 0.3}],
    "stack": [
        {},
        {"reflections": [(1, 0, 0), (-0.5, 0, 1e-3)], "box": (0.1, 0.2, 0.3)},
        {"space_group": "-P 4"},
        {"temperatures": [4.2, 300], "scans": ["4.2K", "300K"], "title": ODD, "number": 3},
    ],
    "merge": [{}, {"title": ODD, "pool": 0}, {"title": ""}],
    "scan_file": [
        {},
        {"title": ODD, "configuration": json.dumps({"a": [1, ODD]})},
        {"powder_of": (-1, 0)},
    ],
    "overview": [{}],
    "simulate": [{"description": json.dumps({"a": ODD})}],
    "import_poni": [
        {"polarization": 0.99},
        {"shape": (100, 200), "orientation": 3, "wavelength": 0.5, "polarization": 1.0},
        {"polarization": 0.0, "sensor_thickness": 1e-3, "sensor_attenuation": 700},
    ],
    "powder_calibration": [
        {},
        {"orientation": 1, "beam_centre": (-10.5, 1e3), "mask_image": "-m n.tif", "calibrant": ODD},
    ],
    "constants_preprocess": [
        {"run": ODD, "module_size": (16, 8), "asic_size": (8, 8), "modules": (0, 3, 15)},
    ],
    "constants_sanity": [{}, {"strict": ("no_gaps", "no_outliers"), "ignore": ("all",)}],
    "gather": [{"measure": "xray", "module": 0}, {"measure": "dark_high", "module": 15}],
    "process_dark": [{}, {"clip": 4.5, "min_frames": 3}],
    "process_xray": [
        {"energy": 17.444},
        {"energy": 8.041, "beta_energy": 8.905, "expected_gain": (5.5, 9.0)},
    ],
    "process_pulse_capacitor": [{}, {"ramp": ((200, 1.5),), "limits_mh": (0.01, 0.1)}],
    "process_current_source": [
        {},
        {"ramp": ((100, 1.0), (50, 60.0)), "limits_mh": (-0.1, 1e-3), "limits_lm": (0.1, 1.0)},
    ],
    "merge_current_source": [{"names": ("20",)}, {"names": ("20", "1e-3"), "weighted": True}],
    "combine_constants": [{}, {"default_gain": (8.0, 0.25, -0.05), "module_size": (16, 8)}],
    "mask_constants": [
        {},
        {"offset_high": (1000.0, 9000.0), "gain_low": (-0.2, -0.1), "stages": ("high",)},
        {"default_ranges": False, "module_size": (16, 8)},
    ],
    "join_module": [{"detector": "agipd", "module": 3, "numbers": (0, 15)}],
    "join_constants": [{"numbers": (0, 2)}, {"numbers": (1,), "absent": (0, 2), "title": ODD}],
    "constants_report": [{}, {"asic_size": (8, 8), "cells": 3}],
    "propose_constants": [
        {"state": {"detector": ODD, "shape": [20, 30], "tilt": 1e-7}},
        {"state": {"detector": "a", "serial": "1"}, "aliases": {"0" * 16: "1" * 16}},
        {"state": {"a": "b"}, "gates": {"max_masked": None, "max_masked_module": 0.5}},
    ],
    "correct_frames": [
        {"energy": 9.3},
        {"energy": 9.3, "common_mode": "asic", "layout": "lab", "asic_size": (8, 8)},
        {"energy": 1e1, "pattern": "-my x_####.cbf", "flat_field": False},
    ],
    "counter_dark": [{}, {"pattern": "a b_####.cbf", "block": 3}],
    "counter_flood": [{}, {"pattern": "a b_####.cbf", "attenuation": 1e4}, {"groups": "g.nxs"}],
    "counter_stability": [{}, {"often": 0.7, "every": 10}],
    "counter_rate": [
        {"transmission": [1.0, 0.5]},
        {"transmission": [1.0, 1e-3], "patterns": ("a_####.cbf", "b c_####.cbf")},
    ],
    "counter_constants": [{}, {"detector": "Pilatus 1M", "image": "-m n.tif"}],
    "converge": [{}, {"d_min": 0.8, "max_integrations": 0, "detector": "Pilatus 1M"}],
    "integrate": [
        {},
        {"engine": "dials", "prefix": "/opt/dials/bin", "spot": (0.9, 1.25), "d_min": 1e-1},
        {"polarization": False, "flat_field": "my flat.npy", "mosaic": 0.125},
    ],
    "scale_reflections": [
        {},
        {"estimate": "sum", "space_group": "P 63/m m c", "absorption": 4, "decay": False},
    ],
    "merge_reflections": [{}, {"anomalous": True, "amplitudes": "plain", "shelx": "merged"}],
    "index_stills": [
        {"cell": (21.0, 26.0, 33.0, 90.0, 90.0, 90.0), "space_group": "P m m m"},
        {
            **{"cell": (30.0, 30.0, 24.0, 90.0, 90.0, 120.0), "space_group": "P 63/m m c"},
            **{"mask_image": "-m n.tif", "batches": 3, "batch": 2, "d_min": 1.5},
        },
    ],
    "refine_stills_detector": [
        {"name": "hex"},
        {"name": ODD, "level": "detector", "author": ODD, "state": {"detector": ODD}},
    ],
    "merge_stills": [
        {"sample": "hex"},
        {"sample": ODD, "partiality": "none", "anomalous": True, "amplitudes": "plain"},
    ],
    "merge_crystals": [
        {},
        {"leave_out": ["s/a"], "automatic": False, "significance": 5.5, "least_gain": 0.0},
        {"scaling": {"absorption": 2, "space_group": "P 63/m m c"}, "merging": {"shells": 5}},
    ],
    "bragg_series": [{}, {"shown": 3}],
    "symmetrise": [
        {},
        {"title": ODD, "symmetry": "P -3 1 m", "n_sigma": 4.5, "tolerance": 0.0, "memory": 1e3},
        {"symmetry": "-P 4", "bragg_radius": 0.0, "pool": 0},
    ],
    "fill": [
        {},
        {"title": ODD, "memory": 500.5, "radius": 0.2, "satellites": [(0.5, -0.5, 1e-7)]},
        {"radii": (0.1, 0.2, 0.3), "satellites": [(0, 0.25, 0), (0.5, 0, 0)], "order": 2},
        {"method": "karen", "absences": True, "satellite_radius": 0.05, "q_max": 8.5},
    ],
    "pdf": [
        {},
        {"title": ODD, "memory": 500.5, "sizes": (10, 20, 30), "taper": "lorch", "q_max": 1e-1},
    ],
    "absolute_scale": [
        {},
        {"cif": "my x.cif", "reference": "300K", "background_error": 1e-2, "title": ODD},
    ],
    "difference": [{}, {"title": ODD, "subtract": "300K", "match_scale": True}],
    "stack_pdf": [
        {},
        {
            "vectors": [(1.0, -0.5, 1e-7), (0.5, 0.5, 0.0)],
            "unit": "angstrom",
            "temperatures": [0.5],
        },
    ],
    "cluster": [{}, {"run": True, "thermal_order": 2, "memory": 500.0, "temperatures": [0.5]}],
    "planes": [{}, {"hkl": ["h -h l", "h k 0.5"], "xyz": ["x y 0.5"], "title": ODD}],
    "sample_page": [{}, {"title": ODD, "scans": ["a", "b"]}],
}
_DIVIDED = {"layout": "lab", "detector": "agipd"}
REQUIRED: dict[str, dict[str, Any]] = {
    "artificial_normalization": {"method": "self_flat"},
    "bin_frames": {"binning": 2},
    "refine_parent": {"sample": "s", "scan": "a", "rotations": ["r1", "r2"], "space_group": "P 1"},
    "refine": {"sample": "s", "scan": "a", "rotations": ["r1"]},
    "converge": {"sample": "s", "scan": "a", "rotations": ["r1"]},
    "integrate": {"rotation": "r1"},
    "scale_reflections": {"rotations": ["r1"]},
    "merge_crystals": {"name": "x", "scans": ["s/a", "t/b"], "rotations": ["s/a/r", "t/b/r 1"]},
    "transform": {"rotation": "r1"},
    "stack": {"scans": ["a"], "temperatures": [1.5]},
    "stack_pdf": {"scans": ["a"], "temperatures": [1.5], "parent": ODD},
    "cluster": {"scans": ["a"], "temperatures": [1.5]},
    "sample_page": {"sample": "s", "results": "res", "scans": ["a"], "temperatures": [1.5]},
    "constants_preprocess": _DIVIDED,
    "gather": _DIVIDED,
    "propose_constants": {"store": "-a store", "name": "agipd", "author": ODD},
    "powder_calibration": {
        "wavelength": 0.5,
        "pixel_size": (1e-4, 2e-4),
        "polarization": 0.9,
        "distance": 0.12,
        "beam_centre": (170, 158.5),
    },
}


def _parsed(name: str, flags: str, monkeypatch: pytest.MonkeyPatch) -> stage.Params:
    """Params that the stage's own command line makes of flags."""
    module = importlib.import_module(f"hklflow.stages.{name}")
    words = []
    for model in (module.Inputs, module.Outputs):
        for field in model.model_fields:
            words += [f"--{field.replace('_', '-')}", "some.file"]
    parsed: list[stage.Params] = []

    def run(main: stage.Main, *, params: stage.Params, **rest: Any) -> None:
        parsed.append(params)

    with monkeypatch.context() as patch:
        patch.setattr(contract, "run", run)
        patch.setattr(sys, "argv", [name, *words, *shlex.split(flags)])
        with pytest.raises(SystemExit) as ended:
            stage.command(module.main)
    assert not ended.value.code, flags
    return parsed[0]


def test_there_are_examples_for_every_stage() -> None:
    assert sorted(EXAMPLES) == sorted(STAGES)


@pytest.mark.parametrize(
    ("name", "values"), [(name, values) for name in EXAMPLES for values in EXAMPLES[name]]
)
def test_flags_come_back_as_the_same_params(
    name: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"hklflow.stages.{name}")
    params = module.Params(**REQUIRED.get(name, {}) | values)
    assert _parsed(name, config.flags(params), monkeypatch) == params


FLOATS = st.floats(-1e6, 1e6, allow_nan=False)
NAMES = st.from_regex(r"[A-Za-z_]\w{0,6}", fullmatch=True).filter(str.isascii)
IMPORTS = st.fixed_dictionaries(
    {},
    optional={
        "angles": st.dictionaries(NAMES, FLOATS, max_size=3),
        "start": FLOATS,
        "step": FLOATS,
        "scan_axis": NAMES,
        "pattern": st.from_regex(r"[-a-z .'\"=/]{1,9}#{1,4}[.]cbf", fullmatch=True),
        "axes": st.lists(
            st.builds(
                lambda name, v: f"{name}={v[0]},{v[1]},{v[2]}", NAMES, st.tuples(*[FLOATS] * 3)
            ),
            max_size=4,
        ),
    },
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)


@pytest.mark.slow
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(values=IMPORTS)
def test_flags_of_imports(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    params = stages.import_scan.Params(**values)
    assert _parsed("import_scan", config.flags(params), monkeypatch) == params


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(title=TEXT)
def test_flags_of_any_text(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = stages.merge.Params(title=title)
    assert _parsed("merge", config.flags(params), monkeypatch) == params


def test_flags_are_short_and_leave_out_what_is_asked() -> None:
    assert config.flags(stages.find_peaks.Params()) == ""
    assert config.flags(stages.find_peaks.Params(n_sigma=4.5)) == ""
    given = {**REQUIRED["powder_calibration"], "image": "x.tif"}
    flags = config.flags(config.PowderImage(**given), leave_out=("image", "poni"))
    assert flags == (
        "--wavelength 0.5 --pixel-size 0.0001 0.0002 --distance 0.12 --beam-centre 170.0 158.5"
        " --polarization 0.9"
    )


@pytest.mark.parametrize("name", ["powder", "poni"])
def test_flags_of_calibrations(base: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration of the configuration is its stage's Params and its file."""
    entry = config.load(CONFIG, base).config.calibrations[name]
    stage_name = "import_poni" if name == "poni" else "powder_calibration"
    flags = config.flags(entry, leave_out=("image", "poni"))
    parsed = _parsed(stage_name, flags, monkeypatch)
    assert isinstance(entry, BaseModel)
    assert parsed.model_dump() == entry.model_dump(exclude={"image", "poni"})


def test_a_measured_raw_file_is_not_overwritten_by_a_simulation(tmp_path: Path) -> None:
    """A `simulation` section that was left over must not cost the data."""
    import h5py

    base = tmp_path / "e"
    shutil.copytree(REPOSITORY / "demo/config", base / "config")
    (base / "raw").mkdir()
    with h5py.File(base / "raw/hexa_300K_r1.nxs", "w") as file:
        file["entry/data/data"] = [[[1]]]
    with pytest.raises(HklflowError, match=r"hexa_300K_r1\.nxs exists and was not simulated"):
        config.load(yaml.safe_load((base / "config/config.yaml").read_text()), base)


def test_a_null_that_no_flag_can_say_is_refused() -> None:
    class Toy(BaseModel):
        gain: float | None = 1.0

    with pytest.raises(HklflowError, match="gain: null cannot be given on a command line"):
        config.flags(Toy(gain=None))


def test_starts_of_children_and_of_own_products_are_refused(base: Path) -> None:
    (base / "GXPARM.XDS").write_text("x")
    product = base / "out/hexa/300K/orientation.json"
    product.parent.mkdir(parents=True)
    product.write_text("{}")

    def given(scan: str, start: str) -> dict[str, Any]:
        return copy.deepcopy(CONFIG) | {"per_scan": {scan: {"orientation": {"start": start}}}}

    settings = config.load(given("hexa/300K", "GXPARM.XDS"), base)
    # The child takes it from its parent, which is where it acts.
    for scan in ("300K", "100K"):
        assert settings.settings("hexa", scan).orientation.start == Path("GXPARM.XDS")
    (told,) = _problems(given("hexa/100K", "GXPARM.XDS"), base)
    assert "give it for hexa/300K" in told
    told = _problems(given("cube/cold", "out/hexa/300K/orientation.json"), base)[0]
    assert "would wait for itself" in told
    assert "does not exist" in _problems(given("cube/cold", "no.expt"), base)[0]


def test_only_stages_that_run_dials_know_where_it_is(base: Path) -> None:
    data = copy.deepcopy(CONFIG) | {"dials": {"prefix": "/opt/dials/bin"}}
    experiment = config.load(data, base)
    assert not experiment.uses_dials
    assert params_of(experiment, "refine", "hexa", "300K").prefix is None
    assert params_of(experiment, "integrate", "hexa", "300K", "r1").prefix is None
    data["per_scan"] = {"hexa/300K": {"orientation": {"spots": "dials"}}}
    experiment = config.load(data, base)
    assert experiment.uses_dials
    assert params_of(experiment, "refine_parent", "hexa", "300K").prefix == Path("/opt/dials/bin")
    assert params_of(experiment, "refine", "cube", "cold").prefix is None
    own = Estimate(experiment).minutes("refine_parent", sample="hexa", scan="300K")
    assert own > Estimate(config.load(CONFIG, base)).minutes(
        "refine_parent", sample="hexa", scan="300K"
    )


CRYSTALS = """\
sample\tspace_group\ta\tb\tc\talpha\tbeta\tgamma\tformula\tcrystal_of
hexa-b\t\t\t\t\t\t\t\t\thexa
hexa\tP 6/m m m\t4.80\t4.80\t7.15\t90\t90\t120\tAB2\t
hexa-c\tP 6/m\t4.81\t4.81\t7.16\t90\t90\t120\tAB\thexa
cube\tP m -3 m\t\t\t\t\t\t\tABO3\t
"""


def test_a_crystal_has_the_lattice_and_the_settings_of_its_sample(base: Path) -> None:
    (base / "config/samples.tsv").write_text(CRYSTALS)
    with (base / "config/scans.tsv").open("a") as file:
        file.write("hexa-b\t300K\t300\t\tr1\traw/a2.nxs\tchi=0 phi=0:0.1\tpowder\n")
    (base / "config/scans.tsv").write_text(
        (base / "config/scans.tsv").read_text().replace("r2\traw/a2.nxs", "r2\traw/c2.nxs")
    )
    (base / "raw/c2.nxs").touch()
    given = {
        "hexa": {"find_peaks": {"n_sigma": 7}, "merge": {"pool": 1}},
        "hexa-b": {"merge": {"pool": 3}},
    }
    experiment = config.load(copy.deepcopy(CONFIG) | {"per_sample": given}, base)
    first, second, third = (experiment.samples[name] for name in ("hexa", "hexa-b", "hexa-c"))
    assert (second.space_group, second.cell, second.formula) == (
        first.space_group,
        first.cell,
        first.formula,
    )
    assert (third.space_group, third.cell, third.formula) == (
        "P 6/m",
        (4.81, 4.81, 7.16, 90, 90, 120),
        "AB",
    )
    for sample, expected in (("hexa", (7, 1)), ("hexa-b", (7, 3)), ("hexa-c", (7, 1))):
        own = experiment.settings(sample)
        assert (own.find_peaks.n_sigma, own.merge.pool) == expected
    assert experiment.settings("hexa-b", "300K").merge.pool == 3
    assert experiment.settings("cube").find_peaks.n_sigma == 5
    layers = [layer.name for layer in experiment.layers_of("hexa-b", "300K")]
    assert layers[-2:] == ["per_sample.hexa", "per_sample.hexa-b"]


@pytest.mark.parametrize("of", ["nothing", "hexa-c", "hexa-b"])
def test_a_crystal_of_something_else_is_refused(base: Path, of: str) -> None:
    """Of a sample that is not there, of another crystal, and of itself."""
    text = CRYSTALS.replace("hexa-b\t\t\t\t\t\t\t\t\thexa\n", f"hexa-b\t\t\t\t\t\t\t\t\t{of}\n")
    (base / "config/samples.tsv").write_text(text)
    problems = _problems(CONFIG, base)
    assert any(f"hexa-b is a crystal of '{of}', which is not a sample" in p for p in problems)


# ------------------------------------------------------------------- axis of the series

FIELD = {"series": {"axis": {"column": "field", "unit": "T"}}}
FIELD_COLUMNS = SCAN_COLUMNS.rstrip("\n") + "\tframes\trun\tdate\tfield\tfield_error\n"


def _along_field(base: Path, *values: str, temperatures: tuple[str, ...] = ()) -> None:
    rows = []
    for i, value in enumerate(values):
        kelvin = temperatures[i] if temperatures else "5"
        name = f"s{i}"
        raw = ("a1.nxs", "a2.nxs", "b_####.cbf")[i]
        place = f"hexa\t{name}\t{kelvin}\ts0\tr1\traw/{raw}\tchi=0 phi=0:0.1\tpowder"
        rows.append(f"{place}\t\t\t\t{value}\n")
    (base / "config/scans.tsv").write_text(FIELD_COLUMNS + "".join(rows))


def test_scans_have_a_value_along_another_axis(base: Path) -> None:
    _along_field(base, "6\t0.1", "0\t", "3\t0.05")
    experiment = config.load(CONFIG | FIELD, base)
    axis = experiment.axis("hexa")
    assert (axis.name, axis.symbol, axis.unit, axis.onset_key) == ("field", "B", "T", "B_c (T)")
    assert experiment.scans_of("hexa") == ["s1", "s2", "s0"]
    scan = experiment.scans["hexa", "s0"]
    assert (scan.temperature, scan.value, scan.error) == (5.0, 6.0, 0.1)
    # The other sample has no scans, and without settings the axis is the temperature.
    assert config.load(CONFIG | {"per_sample": {"hexa": FIELD}}, base).axis("cube").unit == "K"


def test_ranges_of_parents_are_along_the_axis(base: Path) -> None:
    _along_field(base, "0\t", "3\t", "6\t")
    scans = base / "config/scans.tsv"
    (base / "config/samples.tsv").write_text(
        "sample\tspace_group\tparents\nhexa\tP 6/m m m\ts0=-1:5 s2=5:10\n"
    )
    scans.write_text(scans.read_text().replace("\ts0\tr1", "\t\tr1"))
    experiment = config.load(CONFIG | FIELD, base)
    assert [scan.parent for scan in experiment.scans.values()] == ["s0", "s0", "s2"]


def test_errors_of_temperatures_are_read(base: Path) -> None:
    head = SCAN_COLUMNS.rstrip("\n") + "\tframes\trun\tdate\ttemperature_error\n"
    row = "hexa\t1\t80\t\tr1\traw/a1.nxs\tchi=3 phi=0:0.1\tpowder\t\t\t\t0.3\n"
    (base / "config/scans.tsv").write_text(head + row)
    (scan,) = config.load(CONFIG, base).scans.values()
    assert (scan.value, scan.error) == (80.0, 0.3)
    (base / "config/scans.tsv").write_text(head + row.replace("0.3", "-0.3"))
    (problem,) = _problems(CONFIG, base)
    assert problem.endswith("temperature_error -0.3 is negative; it is a standard deviation")


def test_a_column_of_an_axis_needs_the_setting(base: Path) -> None:
    _along_field(base, "0\t", "3\t")
    (problem,) = _problems(CONFIG, base)
    assert "unknown column 'field', unknown column 'field_error'" in problem
    assert problem.endswith("to compare scans along field, set `series: axis`")


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ({"column": "field"}, "the axis field has no unit"),
        ({"column": "raw", "unit": "T"}, "the column raw of the table of scans is not an axis"),
        ({"column": "Field", "unit": "T"}, "is not a name of small letters"),
        ({"column": "volume", "unit": "T"}, "the results have a quantity volume"),
        ({"unit": "C"}, "temperatures are in K"),
        ({"column": "field", "unit": "k Oe"}, "has blanks"),
        ({"column": "field", "unit": "$T$"}, "the unit '$T$' has blanks, `$`"),
        ({"column": "field", "unit": "T", "symbol": "$B$"}, "the symbol '$B$' has blanks, `$`"),
        ({"column": "field", "unit": True}, "unit"),
        ({"column": "title", "unit": "T"}, "the results have a quantity title"),
        ({"column": "data_errors", "unit": "T"}, "is not a name of small letters"),
        ({"column": "field_sigma", "unit": "T"}, "is not a name of small letters"),
    ],
)
def test_settings_of_an_axis_that_are_wrong(base: Path, axis: dict[str, str], said: str) -> None:
    problems = _problems(CONFIG | {"series": {"axis": axis}}, base)
    assert any(said in problem for problem in problems)


@pytest.mark.parametrize("unit", [1, "1"])
def test_numbers_without_a_unit(base: Path, unit: object) -> None:
    _along_field(base, "0\t", "3\t")
    numbers = {"series": {"axis": {"column": "field", "unit": unit}}}
    assert config.load(CONFIG | numbers, base).axis("hexa").label == "field"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1e300\t", "field 1e+300 is not between 1e-30 and 1e+30 (or 0)"),
        ("-1e300\t", "field -1e+300 is not between"),
        ("1e-320\t", "field 9.99989e-321 is not between"),
        ("3\t1e300", "field_error 1e+300 is not between"),
    ],
)
def test_values_along_an_axis_have_a_usual_size(base: Path, value: str, said: str) -> None:
    _along_field(base, "0\t", value)
    (problem,) = _problems(CONFIG | FIELD, base)
    assert said in problem
    assert "row 2" in problem


def test_missing_values_and_two_axes_are_refused(base: Path) -> None:
    _along_field(base, "0\t", "\t", "6\t")
    (problem,) = _problems(CONFIG | FIELD, base)
    assert "hexa s1: no value in the column 'field'" in problem
    _along_field(base, "0\t", "0\t", "6\t", temperatures=("5", "50", "5"))
    (problem,) = _problems(CONFIG | FIELD, base)
    assert "at 0 T have temperatures from 5 to 50 K, so that temperature and field vary" in problem
    # The column of another sample's axis varies along temperature.
    of_cube = {"per_sample": {"cube": FIELD}}
    _along_field(base, "0\t", "3\t", temperatures=("5", "50"))
    (problem,) = _problems(CONFIG | of_cube, base)
    assert "temperature is the axis of the series, but field varies too" in problem
    _along_field(base, "x\t", "3\t")
    assert any("field 'x' is not a number" in x for x in _problems(CONFIG | FIELD, base))


def test_a_temperature_that_varies_along_a_field_is_a_doubt(base: Path) -> None:
    from hklflow.experiment.axis_problems import doubts

    _along_field(base, "0\t", "3\t", temperatures=("5", "9"))
    (doubt,) = doubts(config.load(CONFIG | FIELD, base))
    assert "the temperature varies from 5 to 9 K along the field (parent s0)" in doubt
    _along_field(base, "0\t", "3\t", temperatures=("5", "5.3"))
    assert list(doubts(config.load(CONFIG | FIELD, base))) == []


def test_titles_along_a_field_name_the_field(base: Path) -> None:
    _along_field(base, "0\t", "3\t")
    at = {"sample": "hexa", "scan": "s1", "kind": "transform"}
    assert titled(config.load(CONFIG | FIELD, base), "S(Q) of ", at) == "S(Q) of hexa s1 at 3 T"
    (base / "config/scans.tsv").write_text(SCANS)
    experiment = config.load(CONFIG, base)
    (sample, scan), row = next((k, x) for k, x in experiment.scans.items() if x.temperature)
    title = titled(experiment, "", {"sample": sample, "scan": scan, "kind": "transform"})
    assert title == f"{sample} {scan} at {row.temperature:g} K"


DOUBTFUL = {
    "M": {"shape": "point", "point": [0.5, 0, 0]},
    "M'": {"shape": "point", "point": [0, 1.5, 2]},
    "A": {"shape": "point", "point": [0.5, 0, 0.5]},
    "rods": {"shape": "rod", "point": [0.5, 0, 0], "direction": [0, 0, 1]},
    "node": {"shape": "point", "point": [1, 0, 0]},
}


def test_features_that_are_doubtful(base: Path) -> None:
    from hklflow.experiment.feature_doubts import doubts

    (base / "config/scans.tsv").write_text(SCANS)
    features = {"per_sample": {"hexa": {"features": {"define": DOUBTFUL}}}}
    node, twice = sorted(doubts(config.load(CONFIG | features, base)), reverse=True)
    assert node.startswith("hexa: features: define: node is at a reflection: ")
    assert twice.startswith("hexa: features: define: M and M' are equivalent by symmetry")
    assert list(doubts(config.load(CONFIG, base))) == []


def test_jobs_along_a_field_get_the_values_on_their_command_lines(base: Path) -> None:
    """The flags of a job make the same parameters again."""
    from hklflow.stages import order_parameters, overview

    _along_field(base, "6\t0.1", "0\t", "3\t0.05")
    experiment = config.load(CONFIG | FIELD, base)
    given = params_of(experiment, "order_parameters", "hexa")
    assert given.along.values == {"s0": 6.0, "s1": 0.0, "s2": 3.0}
    assert given.along.errors == {"s0": 0.1, "s2": 0.05}
    (stacked,) = [
        job.params
        for job in Plan(experiment).jobs
        if job.rule == "stack" and job.at["kind"] == "transform"
    ]
    assert stacked.temperatures == [0.0, 3.0, 6.0]
    assert stacked.along.axis.label == "field (T)"
    assert stacked.title.startswith("S(Q) of hexa against field")
    words = shlex.split(config.flags(given))
    again = json.loads(words[words.index("--along") + 1])
    assert order_parameters.Params(along=again) == given
    of_all = params_of(experiment, "overview")
    words = shlex.split(config.flags(of_all))
    assert overview.Params(along=json.loads(words[words.index("--along") + 1])) == of_all
    # Without settings nothing is on the command lines.
    (base / "config/scans.tsv").write_text(SCANS)
    plain = config.load(CONFIG, base)
    for rule, key in (
        ("order_parameters", ["hexa"]),
        ("overview", []),
        ("accept", ["hexa", "100K"]),
    ):
        assert "--along" not in config.flags(params_of(plain, rule, *key))
