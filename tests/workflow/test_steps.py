"""The table of steps against snakemake: the same jobs, files and commands."""

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hklflow.experiment.config import load, read_yaml
from hklflow.experiment.flags import flags
from hklflow.experiment.jobs import Job, Plan, job_counts
from hklflow.page import place
from hklflow.page.steps import STEPS

from .conftest import CONFIG, scans, write_experiment
from .dag import jobs_of_snakemake

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

HEADER = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
COUNTER = """\
calibrations: {lab: {poni: raw/lab.poni, polarization: 0.99}}
constants:
  pilatus:
    detector: pilatus
    geometry: lab
    runs: {dark: "raw/dark_####.cbf", flood: "raw/flood_####.cbf"}
import_scan: {axes: ["phi=-1,0,0"], exposure: 0.1, wavelength: 0.6}
correct_frames: {constants: pilatus}
per_scan: {a/t2: {correct_frames: {flat_field: false}}}
pixel_mask: {image: raw/bad.tif}
bragg: true
"""
INTEGRATING = """\
calibrations: {lab: {poni: raw/lab.poni, polarization: 0.99}}
constants:
  agipd:
    detector: agipd
    layout: lab
    modules: [0, 1]
    without: ["1/3"]
    runs:
      dark_high: [raw/dark_h, raw/dark_again]
      dark_medium: raw/dark_m
      dark_low: raw/dark_l
      xray: raw/xray
      current_source: {"20": [raw/current]}
    process_xray: {energy: 17.4}
    process_current_source: {ramp: [[100, 1.0], [100, 60.0]]}
import_scan: {axes: ["phi=-1,0,0"], exposure: 0.1, wavelength: 0.6}
correct_frames: {constants: agipd, energy: 17.4}
binning: 2
"""


PLAIN = """\
calibrations: {lab: {poni: raw/lab.poni, polarization: 0.99}}
import_scan: {axes: ["phi=-1,0,0"], exposure: 0.1, wavelength: 0.6}
"""


def simulated(config: dict[str, Any]) -> Callable[[Path], Path]:
    table = scans([300, 100], {"r1": 0, "r2": 40}, parent=300, repeated=((100, "r2"),))
    return lambda folder: write_experiment(folder, copy.deepcopy(CONFIG) | config, table)


def measured(config: str, rows: dict[str, str], files: list[str]) -> Callable[[Path], Path]:
    """Experiment of files that are empty: nothing is read before the jobs run."""

    def write(folder: Path) -> Path:
        table = HEADER + "".join(
            f"a\t{scan}\t{kelvin}\tt1\tr1\t{raw}\tphi=0:0.1\tlab\n"
            for kelvin, (scan, raw) in enumerate(rows.items(), start=10)
        )
        write_experiment(folder, yaml.safe_load(config), table)
        (folder / "config/samples.tsv").write_text("sample\tspace_group\na\tP 1\n")
        for name in files:
            (folder / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "raw" / name).touch()
        return folder

    return write


IMAGES = [f"{n}_{i:04d}.cbf" for n in ("dark", "flood", "s1", "s2") for i in (1, 2, 3)]
RUNS = [f"{run}/1.h5" for run in ("dark_h", "dark_m", "dark_l", "dark_again", "xray", "current")]
EXPERIMENTS = {
    "everything": simulated(
        {
            "bragg": True,
            "crystals": {"both": {"scans": ["hexa/300K", "hexa/100K"]}},
            "delta_pdf": ["transform", "masked_transform"],
            "results": "my 'odd' $results, or so",
        }
    ),
    "quick look": simulated({"delta_pdf": ["transform"], "binning": 2, "mask_3d": {"model": True}}),
    "blocks": simulated(
        {"delta_pdf": [], "frame_blocks": 2, "orientation": {"start": "config/config.yaml"}}
    ),
    "photon counter": measured(
        COUNTER,
        {"t1": "raw/s1_####.cbf", "t2": "raw/s2_####.cbf"},
        ["lab.poni", "bad.tif", *IMAGES],
    ),
    "integrating": measured(INTEGRATING, {"t1": "raw/x.h5"}, ["lab.poni", "x.h5", *RUNS]),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_snakemake_has_the_jobs_of_the_table(name: str, tmp_path: Path) -> None:
    """Files, logs and the words of the command of every job; and how many there are."""
    folder = EXPERIMENTS[name](tmp_path / "e")
    experiment = load(read_yaml(folder / "config/config.yaml"), folder, {})
    ours = {_key(job.rule, dict(job.at)): job for job in Plan(experiment).jobs}
    theirs = {_key(job["rule"], job["at"]): job for job in jobs_of_snakemake(folder)}
    goals = theirs.pop(("all",))
    assert set(theirs) == set(ours)
    # What the run makes, `rule all` asks for: else a failure could hide behind old files.
    made = {p for job in theirs.values() for p in job["outputs"].values() if "results" in p}
    assert set(goals["inputs"]) == {p for p in made if "/part_" not in p and "/gathered/" not in p}
    for key, job in ours.items():
        their = theirs[key]
        assert their["outputs"] == job.outputs
        assert set(job.inputs) <= set(their["inputs"])
        outside = set(their["inputs"]) - set(job.inputs)
        assert outside == {path for path in _all_files(job) if path not in job.inputs}
        assert their["log"] == [job.logs[-1]]
        assert their["times"] in (None, job.step.benchmark(job.plan.paths).format(**job.at))
        assert _words(their["command"]) == _expected(job)
    counted = {rule: sum(keys.values()) for rule, keys in job_counts(experiment).items()}
    assert sum(counted.values()) == len(theirs)


def test_two_samples_at_three_temperatures(tmp_path: Path) -> None:
    """Each scan has all its steps and reads only its sample; a new one adds only its own jobs."""
    kelvins, steps = (300, 200, 100), {}

    def jobs(name: str, rows: list[tuple[str, int]]) -> dict[Any, Job]:
        files = [f"{s}{k}_{i:04d}.cbf" for s, k in rows for i in (1, 2, 3)]
        folder = measured(PLAIN, {}, ["lab.poni", *files])(tmp_path / name)
        table = "".join(
            f"{s}\tt{k}\t{k}\tt300\tr1\traw/{s}{k}_####.cbf\tphi=0:0.1\tlab\n" for s, k in rows
        )
        (folder / "config/scans.tsv").write_text(HEADER + table)
        text = "sample\tspace_group\nquartz\tP 1\nsalt\tP 1\n"
        (folder / "config/samples.tsv").write_text(text)
        experiment = load(read_yaml(folder / "config/config.yaml"), folder, {})
        return {_key(job.rule, dict(job.at)): job for job in Plan(experiment).jobs}

    rows = [(s, k) for s in ("quartz", "salt") for k in kelvins]
    whole, before = jobs("whole", rows), jobs("before", rows[:-1])
    for sample, other in (("quartz", "salt"), ("salt", "quartz")):
        for job in whole.values():
            if job.at.get("sample") == sample:
                assert not any(f"/{other}" in path for path in job.inputs)
        for k in kelvins:
            own = {job.rule for job in whole.values()
                   if job.at.get("scan") == f"t{k}" and job.at.get("sample") == sample}  # fmt: skip
            steps[sample, k] = own
    assert steps["quartz", 300] - steps["quartz", 200] >= {"refine_parent"}
    assert {"import_scan", "find_peaks", "refine", "transform", "merge"} <= steps["quartz", 200]
    for k in kelvins:
        assert steps["salt", k] == steps["quartz", k]
    assert steps["quartz", 200] == steps["quartz", 100]
    new = [whole[key] for key in whole.keys() - before.keys()]
    assert new
    assert {(job.at["sample"], job.at["scan"]) for job in new} == {("salt", "t100")}
    assert before.keys() <= whole.keys()


def _key(rule: str, at: dict[str, str]) -> tuple[Any, ...]:
    return (rule, *sorted(at.items()))


def _all_files(job: Job) -> set[str]:
    """All that a job depends on; of a file in a folder the folder."""
    found = set(job.inputs)
    for source in job.step.reads.values():
        found.update(source.outside(job.plan, job.at) if source.outside is not None else ())
    return found


def _expected(job: Job) -> list[str]:
    (recipe,) = job.recipes()
    outputs = list(job.outputs.values())
    if job.step.folder is not None:
        (folder,) = outputs
        outputs = [f"{folder}/{name}" for name in job.step.folder(job.plan, job.at)]
    told = [word for word in _shell(flags(recipe.params)) if not word.startswith("--")]
    joined = [
        word.split("=", 1)[1] for word in _shell(flags(recipe.params)) if re.match(r"--.*=", word)
    ]
    # A flat field that is a product is a parameter.
    inputs = [path for path in recipe.inputs if path not in (*told, *joined)]
    return sorted([*inputs, *outputs, *told, *joined])


def _words(command: str) -> list[str]:
    """Words of a command, without flags and the number of threads."""
    body = command.rpartition(" > ")[0].removeprefix("python -m ").split(" ", 1)[1]
    words = _shell(re.sub(r" --threads \d+$", "", body))
    joined = [word.split("=", 1)[1] for word in words if re.match(r"--.*=", word)]
    return sorted([word for word in words if not word.startswith("--")] + joined)


def _shell(command: str) -> list[str]:
    """Words as the shell makes them."""
    if not command.strip():
        return []
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


def test_the_page_has_a_place_for_every_picture_and_figure(tmp_path: Path) -> None:
    folder = EXPERIMENTS["everything"](tmp_path / "e")
    experiment = load(read_yaml(folder / "config/config.yaml"), folder, {})
    plan, results = Plan(experiment), Path(experiment.paths.folder)
    scans_of_sample = experiment.scans_of("hexa")
    shown = [path for job in plan.shown_of("hexa") for path in (*job.pictures, *job.figures)]
    assert len(shown) > 60
    for path in shown:
        where = place.place(Path(path), results, "hexa", scans_of_sample)
        assert where.part != "other", path
        assert where.part != "scan" or STEPS[where.step].title != "Other", path


def test_the_graph_of_the_readme_names_every_rule() -> None:
    repository = Path(__file__).parents[2]
    graph = (repository / "README.md").read_text(encoding="utf-8").split("```mermaid")[1]
    config = read_yaml(repository / "demo/config/config.yaml")
    experiment = load(config, repository / "demo", {})
    rules = {job.rule for job in Plan(experiment).jobs}
    assert len(rules) > 20
    assert not {rule for rule in rules if rule not in graph.split("```")[0]}
