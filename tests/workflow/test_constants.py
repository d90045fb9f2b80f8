"""Detector constants in the workflow: raw runs of a simulated detector to accepted constants."""

import json
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from hklflow.cli import main
from hklflow.constants import files
from hklflow.constants.detectors import integrating
from hklflow.constants.simulate import Truth, agipd
from hklflow.constants.simulate_photons import Foil
from hklflow.constants.simulate_runs import Campaign, write_campaign
from hklflow.constants.status import Bit
from hklflow.experiment.config import load, read_yaml
from hklflow.experiment.freshness import Freshness
from hklflow.experiment.jobs import Plan

from .conftest import REPOSITORY, snakemake
from .faults import Bench, Fault, copy_experiment

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

MODULE, ASIC, CELLS = (16, 8), (8, 8), 2
RAMP = [(100, 1.0), (100, 60.0)]
STATE = {
    "detector": "agipd", "serial": "1", "shape": [32, 8], "binning": 1, "gain_mode": "adaptive",
    "integration_time": 1e-6, "memory_cells": CELLS,
}  # fmt: skip
COLUMNS = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
CONSTANTS = Path("results/constants/agipd")


def truths() -> dict[int, Truth]:
    return {m: agipd(np.random.default_rng(50 + m), CELLS, MODULE) for m in (0, 1)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw runs in the laboratory's layout, and the constants that were made of them."""
    folder = tmp_path_factory.mktemp("constants") / "experiment"
    (folder / "config").mkdir(parents=True)
    campaign = Campaign(
        xrays=2500, foil=Foil(17.444), pulses=[(200, 1.0)], currents=RAMP, rates={"20": 10.0}
    )
    runs = write_campaign(
        folder / "raw", "lab", integrating("agipd", MODULE, ASIC), truths(), campaign,
        np.random.default_rng(7),
    )  # fmt: skip
    entry = {
        "detector": "agipd",
        "layout": "lab",
        "modules": [0, 1],
        "module_size": list(MODULE),
        "asic_size": list(ASIC),
        "runs": json.loads(json.dumps(runs).replace(f"{folder}{os.sep}", "")),
        "process_xray": {"energy": 17.444},
        "process_current_source": {"ramp": RAMP},
        "stored": {"store": "store", "author": "A. Person", "state": STATE},
    }
    write(folder, {"constants": {"agipd": entry}})
    (folder / "config/samples.tsv").write_text("sample\tspace_group\n")
    (folder / "config/scans.tsv").write_text(COLUMNS)
    assert hklflow(folder, "init", "--author", "A. Person") == 0
    run = snakemake(folder, "constants", "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config/config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))


def change(folder: Path, **keys: Any) -> None:
    """Change keys of the constants' entry."""
    config = yaml.safe_load((folder / "config/config.yaml").read_text())
    config["constants"]["agipd"] |= keys
    write(folder, config)


def hklflow(folder: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["calibration", *arguments, "--directory", str(folder)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def counts(text: str) -> dict[str, int]:
    """Number of jobs of each rule in what a dry run says."""
    found = dict(re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE))
    return {rule: int(n) for rule, n in found.items() if rule not in ("all", "constants", "total")}


def test_constants_are_those_of_the_simulated_detector(made: Path) -> None:
    with files.open_constants(made / CONSTANTS / "constants.nxs") as constants:
        assert constants.modules == (0, 1)
        for number, truth in truths().items():
            module = constants.module(number)
            pull = (module["offset"] - truth.offset) / module["offset_errors"]
            assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
            assert 0.9 < pull.std() < 1.1
            # 625 photons give a pixel's gain to 1 or 2 %, and those of the other stages with it.
            pull = (module["gain"] - truth.gain) / module["gain_errors"]
            assert np.abs(np.median(pull, axis=(1, 2, 3))).max() < 0.4
            assert np.all((pull.std(axis=(1, 2, 3)) > 0.8) & (pull.std(axis=(1, 2, 3)) < 1.3))
            for name, stage in (("mh", 1), ("lm", 2)):
                ratio = module[f"gain_ratio_{name}"] / (truth.gain[stage] / truth.gain[stage - 1])
                assert np.std(ratio) < 0.02
                assert abs(np.median(ratio) - 1) < 0.003
            assert (module["pixel_mask"] != 0).mean() < 0.02
            assert next(iter(module.quantities["gain"].attrs["source"])) == "xray"


def test_mock_files_of_extra_data_end_to_end(tmp_path: Path) -> None:
    """Two ASICs of one module of AGIPD, darks only: files that EXtra-data itself made."""
    pytest.importorskip("extra_data")
    from extra_data.tests.mockdata import write_file
    from extra_data.tests.mockdata.detectors import AGIPDModule

    cells, trains, size = 3, 30, (512, 128)
    truth = agipd(np.random.default_rng(9), cells, size)
    rng = np.random.default_rng(10)
    (tmp_path / "config").mkdir()
    runs = {}
    for stage, name in enumerate(("high", "medium", "low")):
        folder = tmp_path / f"raw/r{stage:04d}"
        folder.mkdir(parents=True)
        path = folder / f"RAW-R{stage:04d}-AGIPD04-S00000.h5"
        source = AGIPDModule("SPB_DET_AGIPD1M-1/DET/4CH0", frames_per_train=cells)
        write_file(str(path), [source], ntrains=trains, chunksize=8, format_version="1.2")
        with h5py.File(path, "r+") as file:
            image = file["INSTRUMENT/SPB_DET_AGIPD1M-1/DET/4CH0:xtdf/image"]
            for cell in range(cells):
                output = truth.respond(np.zeros((trains, *size)), cell, rng, stage)
                at = slice(cell, trains * cells, cells)
                image["data"][at] = np.stack(output, axis=1)
                image["cellId"][at] = cell
        runs[f"dark_{name}"] = f"raw/r{stage:04d}"
    entry = {
        "detector": "agipd", "layout": "euxfel", "modules": [4, 5], "runs": runs,
        "without": ["5", *(f"4/{asic}" for asic in range(1, 15))],
        "combine_constants": {"default_gain": [8.0, 0.25, 0.05]},
    }  # fmt: skip
    write(tmp_path, {"constants": {"agipd": entry}})
    (tmp_path / "config/samples.tsv").write_text("sample\tspace_group\n")
    (tmp_path / "config/scans.tsv").write_text(COLUMNS)
    run = snakemake(tmp_path, "constants", "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    with files.open_constants(tmp_path / CONSTANTS / "constants.nxs") as constants:
        assert constants.modules == (4, 5)
        module = constants.module(4)
        detector = integrating("agipd")
        for asic in (0, 15):
            box = (..., *detector.box(asic))
            pull = (module["offset"][box] - truth.offset[box]) / module["offset_errors"][box]
            assert abs(np.nanmean(pull)) < 0.02
            assert 0.95 < np.nanstd(pull) < 1.05
            assert np.isfinite(pull).mean() > 0.99
        left_out = (..., *detector.box(7))
        assert np.isnan(module["offset"][left_out]).all()
        assert set(module.quantities["gain"].attrs["source"]) == {"default"}
        assert (constants.module(5)["pixel_mask"] != 0).all()


def test_nothing_is_out_of_date(made: Path) -> None:
    """Parameters and inputs of every job in the table are those that its products hold."""
    experiment = load(read_yaml(made / "config/config.yaml"), made, {})
    text = (REPOSITORY / "workflow/rules/constants.smk").read_text()
    rules = set(re.findall(r"^rule (\w+):", text, re.MULTILINE))
    jobs = [job for job in Plan(experiment).lasting if job.column == "constants"]
    counters = {name for name in rules if name.startswith("counter_")}
    assert {job.rule for job in jobs} == rules - counters - {"constants", "gather"}
    verdicts = Freshness(experiment, full=True).verdicts()
    judged = {verdict.job.rule for verdict in verdicts if verdict.job.recipes()}
    assert judged == {job.rule for job in jobs}
    assert [v for v in verdicts if v.reasons or v.doubts] == []


def test_gathered_frames_are_gone_and_a_second_run_does_nothing(made: Path) -> None:
    assert not (made / CONSTANTS / "gathered").exists()
    idle = snakemake(made, "constants", "--dry-run")
    assert "Nothing to be done" in idle.stdout + idle.stderr


def test_constants_are_proposed_with_their_figures(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proposed = json.loads((made / CONSTANTS / "proposed.json").read_text())
    assert proposed["candidate"] == "agipd"
    assert {gate["name"] for gate in proposed["gates"]} >= {"masked", "measured_gains"}
    assert all(gate["passed"] for gate in proposed["gates"])
    assert hklflow(made, "show", "agipd") == 0
    assert "passed" in capsys.readouterr().out
    # What is for geometries says so.
    assert hklflow(made, "compare", "agipd", "agipd") == 2
    assert "has constants" in capsys.readouterr().err


def test_a_killed_asic_leaves_the_others_standing(made: Path, tmp_path: Path) -> None:
    folder = copy_experiment(made, tmp_path / "experiment")
    results = folder / CONSTANTS
    for path in [*results.rglob("masked.nxs"), *results.glob("*.nxs"), results / "proposed.json"]:
        path.unlink()
    bench = Bench(folder, tmp_path / "tools")
    try:
        killed = bench.run("constants", fault=Fault("mask_constants", "kill", once=True))
        assert killed.returncode != 0
        assert len(list(results.rglob("masked.nxs"))) == 3
        assert not (results / "constants.nxs").exists()
        again = bench.run("constants")
        assert again.returncode == 0, again.stderr
        assert bench.started().count("mask_constants") == 1
        assert "process_dark" not in bench.started()
    finally:
        bench.clear()
    assert not bench.partials()


def test_an_asic_that_is_left_out_is_masked(made: Path, tmp_path: Path) -> None:
    folder = copy_experiment(made, tmp_path / "experiment")
    change(folder, without=["1/0"])
    dry = snakemake(folder, "constants", "--dry-run")
    assert counts(dry.stdout) == {
        "join_module": 1, "join_constants": 1, "constants_report": 1, "propose_constants": 1,
    }  # fmt: skip
    target = str(CONSTANTS / "constants.nxs")
    run = snakemake(folder, target, "--cores", "2")
    assert run.returncode == 0, run.stderr
    with files.open_constants(folder / target) as constants:
        module = constants.module(1)
        assert module.about["absent_asics"] == [0]
        assert np.isnan(module["offset"][..., :8, :]).all()
        assert np.isfinite(module["offset"][..., 8:, :]).all()
        assert (module["constants_status"][..., :8, :] == Bit.NO_DARK_DATA).all()
        assert (module["pixel_mask"][:8] != 0).all()


def test_a_scan_is_corrected_with_the_accepted_version(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_experiment(made, tmp_path / "experiment")
    config = yaml.safe_load((folder / "config/config.yaml").read_text())
    config |= {
        "correct_frames": {"constants": "agipd", "energy": 9.3, "layout": "lab"},
        "import_scan": {"axes": ["phi=-1,0,0"], "exposure": 0.1},
    }
    write(folder, config)
    (folder / "config/samples.tsv").write_text("sample\tspace_group\nsalt\tP 1\n")
    with (folder / "config/scans.tsv").open("a") as table:
        table.write("salt\tcold\t\t\tr1\traw/r0001\tphi=0:0.1\t\n")
    # Nothing was accepted: said at once, with what to do; constants can be made all the same.
    refused = snakemake(folder, "--dry-run")
    assert refused.returncode != 0
    assert "hklflow calibration accept" in refused.stdout + refused.stderr
    assert snakemake(folder, "constants", "--dry-run").returncode == 0
    accept = ("accept", "agipd", "--applies-to", "*", "--author", "A. Person", "--comments", "good")
    assert hklflow(folder, *accept) == 0
    assert "salt cold r1: none -> v_0001" in capsys.readouterr().out
    target = "results/salt/cold/r1/corrected.nxs"
    run = snakemake(folder, target, "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    metrics = json.loads((folder / "results/salt/cold/r1/corrected.json").read_text())
    assert metrics["fractions"]["high"] > 0.98
    assert hklflow(folder, "affected", "1") == 0
    assert target in capsys.readouterr().out
