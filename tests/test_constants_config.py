"""The section `constants`: what is wrong with it is told before anything runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from hklflow.base.errors import HklflowError
from hklflow.calibration.kinds import KINDS
from hklflow.experiment import config, constants
from hklflow.experiment.jobs import job_counts
from hklflow.experiment.models import StoredGeometry, StoredNormalization

RUNS: dict[str, Any] = {f"dark_{stage}": f"raw/{stage}" for stage in ("high", "medium", "low")}
AGIPD: dict[str, Any] = {
    "detector": "agipd", "layout": "lab", "modules": [0, 3], "runs": RUNS,
}  # fmt: skip
CONSTANTS = re.compile("constants|gather|join|process|combine|current_source")
STORED = {"store": "store", "author": "A. Person"}
STATE = {"detector": "a", "serial": "1", "shape": [512, 128], "binning": 1}
FULL = STATE | {"gain_mode": "adaptive", "integration_time": 1e-6}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/samples.tsv").write_text("sample\tspace_group\nsalt\tP 1\n")
    (tmp_path / "config/scans.tsv").write_text(
        "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
    )
    for name in ("high", "medium", "low", "xray", *(f"cs{n}" for n in range(8))):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "a.h5").touch()
    (tmp_path / "raw/flood.h5").touch()
    return tmp_path


def load(base: Path, entry: dict[str, Any], **more: Any) -> config.Experiment:
    axes = {"import_scan": {"axes": ["phi=-1,0,0"]}}
    return config.load({"constants": {"det": entry}, **axes, **more}, base)


def problems(base: Path, entry: dict[str, Any], **more: Any) -> str:
    with pytest.raises(HklflowError) as error:
        load(base, entry, **more)
    return str(error.value)


def test_an_experiment_may_have_constants_and_no_scans(base: Path) -> None:
    assert load(base, AGIPD).config.constants["det"].detector == "agipd"


def test_runs_have_names_that_no_current_can_take(base: Path) -> None:
    runs = RUNS | {"current_source": {20: [f"raw/cs{n}" for n in range(4)], "20.1": ["raw/cs7"]}}
    entry = load(base, AGIPD | {"runs": runs}).config.constants["det"]
    assert isinstance(entry, constants.IntegratingDetector)
    branch = constants.branch(entry)
    assert branch.currents == ["20", "20.1"]
    found = branch.runs
    assert len(found) == 3 + 4 + 1
    for measure, given in branch.measures.items():
        assert tuple(found[name] for name in branch.runs_of(measure)) == given


def test_jobs_that_are_foretold_are_those_of_the_runs(base: Path) -> None:
    """Two modules of 16 ASICs; pulses were measured, but no fluorescence, and two currents."""
    pulses = {"pulse_capacitor": [f"raw/cs{n}" for n in range(8)]}
    currents = {"current_source": {"20": [f"raw/cs{n}" for n in range(4)], "5": ["raw/cs7"]}}
    entry = AGIPD | {"runs": RUNS | pulses | currents, "without": ["3/1"]}
    counted = {rule: sum(n.values()) for rule, n in job_counts(load(base, entry)).items()}
    expected = {
        "constants_preprocess": 16,
        "constants_sanity": 16,
        "gather": 2 * 6,  # darks of three stages, pulses, two currents
        "process_dark": 31,
        "process_pulse_capacitor": 31,
        "process_current_source": 62,
        "merge_current_source": 31,
        "combine_constants": 31,
        "mask_constants": 31,
        "join_module": 2,
        "join_constants": 1,
        "constants_report": 1,
    }
    assert {rule: n for rule, n in counted.items() if n and CONSTANTS.search(rule)} == expected


def test_several_runs_of_a_dark_and_of_fluorescence_are_one_measurement(base: Path) -> None:
    runs = RUNS | {"dark_low": ["raw/low", "raw/cs1"], "xray": ["raw/xray", "raw/cs0"]}
    cells = {"memory_cells": 352, "xray_memory_cells": 1}
    entry = AGIPD | cells | {"runs": runs, "process_xray": {"energy": 8.041}}
    loaded = load(base, entry)
    counted = {rule: sum(n.values()) for rule, n in job_counts(loaded).items()}
    assert counted["constants_preprocess"] == 6
    assert counted["gather"] == 2 * 4
    entry = loaded.config.constants["det"]
    assert isinstance(entry, constants.IntegratingDetector)
    assert constants.branch(entry).runs_of("dark_low") == ["dark_low_0", "dark_low_1"]
    of_runs = {run: entry.memory_cells_of(run) for run in constants.branch(entry).runs}
    assert {run for run, n in of_runs.items() if n == 1} == {"xray_0", "xray_1"}
    assert set(of_runs.values()) == {1, 352}


@pytest.mark.parametrize("without", [["3"], ["0/15"], ["3", "0/0", "0/15"]])
def test_what_is_left_out_is_left_out(base: Path, without: list[str]) -> None:
    entry = load(base, AGIPD | {"without": without}).config.constants["det"]
    assert isinstance(entry, constants.IntegratingDetector)
    branch = constants.branch(entry)
    jobs = {f"{m}/{a}" for m in branch.modules for a in branch.asics(m)}
    jobs |= {str(m) for m in branch.modules}
    assert jobs.isdisjoint(without)
    left_out = sum(16 if "/" not in one else 1 for one in without)
    assert sum("/" in job for job in jobs) == 32 - left_out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"without": ["03"]}, "'03' is not a module or ASIC"),
        ({"without": ["0/16"]}, "'0/16' is not a module or ASIC"),
        ({"without": ["1"]}, "'1' is not a module or ASIC"),
        ({"without": ["0", "3"]}, "leaves no ASIC"),
        ({"modules": [0, 0]}, "has one twice"),
        ({"modules": [-1]}, "negative"),
        ({"layout": "jungfrau"}, "has no frames of agipd"),
        ({"module_size": [100, 128]}, "cannot be divided"),
        ({"runs": RUNS | {"xray": "raw/xray"}}, "needs process_xray"),
        ({"runs": RUNS | {"pulse_capacitor": ["raw/none"]}}, "no HDF5 file"),
        ({"runs": RUNS | {"pulse_capacitor": ["raw/cs0", "raw/cs1"]}}, "not 1 or 8"),
        ({"runs": RUNS | {"current_source": {"1": ["raw/cs0"] * 3}}}, "not 1 or 4"),
        ({"runs": RUNS | {"current_source": {"a/b": ["raw/cs0"]}}}, "cannot be a name"),
        ({"layout": "cfel"}, "needs memory_cells"),
        (
            {"memory_cells": 4, "stored": STORED | {"state": FULL | {"memory_cells": 352}}},
            "memory_cells is 4, and 352 in stored.state",
        ),
        ({"runs": RUNS | {"dark_low": ["raw/low", "raw/low"]}}, "dark_low lists raw/low twice"),
        ({"gain_map": "none.npy"}, "none.npy does not exist"),
        ({"stored": STORED | {"state": STATE}}, "lacks gain_mode, integration_time, memory_cells"),
    ],
)
def test_problems_of_an_integrating_detector(base: Path, change: dict[str, Any], told: str) -> None:
    text = problems(base, AGIPD | change)
    assert text.startswith("1 problem in the experiment")
    assert told in text


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"runs": {}}, "runs has none"),
        ({"runs": {"flood": "raw/none.h5"}}, "none.h5 does not exist"),
        ({"runs": {"rate": ["raw/flood.h5"], "transmission": [1.0]}}, "two or more"),
        ({"runs": {"rate": ["raw/flood.h5"] * 2, "transmission": [1.0]}}, "give one for each"),
        ({"runs": {"flood": "raw/flood.h5"}, "geometry": "far"}, "no calibration 'far'"),
        (
            {"runs": {"flood": "raw/flood.h5"}, "stored": STORED | {"state": STATE}},
            "lacks threshold, energy",
        ),
    ],
)
def test_problems_of_a_photon_counter(base: Path, entry: dict[str, Any], told: str) -> None:
    assert told in problems(base, {"detector": "pilatus"} | entry)


def test_every_kind_of_the_store_says_what_to_do_without_a_version(base: Path) -> None:
    place = {"store": "store", "state": STATE}
    entries = {
        "geometry": StoredGeometry(**place, polarization=1.0),
        "normalization": StoredNormalization(**place, geometry="g"),
        "constants": constants.StoredConstants(**place, author="A. Person"),
    }
    assert set(entries) == set(KINDS)
    for name, entry in entries.items():
        assert entry.on_missing == "error"
        given = entry.model_dump() | {"on_missing": "diagnostic"}
        if KINDS[name].has_default:
            assert type(entry)(**given).on_missing == "diagnostic"
        else:
            with pytest.raises(ValueError, match="must be measured, so there is no version 0"):
                type(entry)(**given)
        old = entry.model_dump() | {"allow_default": True}
        with pytest.raises(ValueError, match="`allow_default: true` is now `on_missing: diagn"):
            type(entry)(**old)
    stored = STORED | {"state": STATE, "on_missing": "diagnostic"}
    told = problems(base, AGIPD | {"stored": stored})
    assert "constants must be measured, so there is no version 0 to use" in told
    old = {"calibrations": {"g": place | {"polarization": 1.0, "allow_default": True}}}
    told = problems(base, AGIPD, **old)
    assert "`allow_default: true` is now `on_missing: diagnostic`" in told
    assert told.startswith("1 problem")


def test_problems_of_the_use_of_constants(base: Path) -> None:
    with (base / "config/scans.tsv").open("a") as table:
        table.write("salt\tcold\t\t\tr1\traw/high\tphi=0:0.1\t\n")
    assert "is a folder" in problems(base, AGIPD)
    used = {"constants": "det", "layout": "lab"}
    assert "energy of salt/cold is missing" in problems(base, AGIPD, correct_frames=used)
    other = {"constants": "other", "layout": "lab"}
    assert "'other' is not one of det" in problems(base, AGIPD, correct_frames=other)
    experiment = load(base, AGIPD, correct_frames=used | {"energy": 9.3})
    assert experiment.is_corrected("salt", "cold")
    key = ("salt", "cold", "r1")
    assert experiment.constants_file(*key, counter=False) == "results/constants/det/constants.nxs"
    assert experiment.constants_file(*key, counter=True) is None
    assert experiment.raw_inputs(experiment.rotation(*key)) == ["raw/high/a.h5"]
    counter = {"detector": "eiger", "runs": {"flood": "raw/flood.h5"}}
    twice = problems(base, counter, correct_frames=used, transform={"flat_field": "raw/flood.h5"})
    assert "give one of them" in twice
