"""Every rule of the workflow on a real Slurm that loses a node; products equal to a local run's."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ..workflow.conftest import snakemake
from ..workflow.faults import differences
from . import rules, world
from .cluster import Cluster, until
from .conftest import REPOSITORY, Run, finished, megabytes

pytestmark = pytest.mark.workflow

#: Rules that have a Slurm job of their own share one here, for time. Scans stay apart from each
#: other, from their rotations, and from what compares them.
SHARED = {
    "raw": ("simulate", "powder_calibration"),
    "rotation": ("artificial_normalization",),
    "scan": (
        *("absorption", "background", "frame_scale", "unmeasured_background", "refine_scale"),
        *("transform", "add_transforms", "merge", "symmetrise", "fill", "pdf", "planes"),
        *("converge", "integrate", "scale_reflections", "merge_reflections", "absolute_scale"),
    ),
    "series": (
        *(
            "difference",
            "scan_file",
            "stack",
            "stack_pdf",
            "cluster",
            "temperature_series",
            "order_parameters",
            "features",
            "bragg_series",
        ),
        "merge_crystals",
        "sample_page",
    ),
    "stills": ("index_stills", "refine_stills_detector", "merge_stills"),
    "runs": ("constants_preprocess", "constants_sanity", "gather"),
    "detector": (
        *("join_module", "join_constants", "constants_report", "correct_frames"),
        *("counter_dark", "counter_flood", "counter_stability", "counter_rate"),
        "counter_constants",
    ),
}


def shared_profile(folder: Path) -> Path:
    """Write the profile with fewer Slurm jobs, for nodes of two CPUs."""
    profile = rules.profile()
    profile |= {"cores": 2, "slurm-keep-successful-logs": True}
    for group, names in SHARED.items():
        profile["groups"] |= dict.fromkeys(names, group)
        profile["set-resources"] |= {name: {"turn": 1} for name in names}
    profile["group-components"] |= {"raw": 20, "series": 20, "runs": 20, "detector": 20}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(profile))
    return folder


def test_table_of_rules_is_in_the_documentation() -> None:
    experiments = rules.jobs_in_worlds()
    ran = {name for names in experiments.values() for name in names}
    submitted = {rule for rule, yes in rules.rules().items() if yes}
    lacking = sorted(submitted - ran)
    assert not lacking, (
        f"no test submits {', '.join(lacking)} to Slurm: give an experiment of tests/slurm/world.py"
        " what makes a job of it"
    )
    unexplained = sorted(set(rules.rules()) - submitted - set(rules.LOCAL))
    assert not unexplained, f"tests/slurm/rules.py has no reason why {unexplained} is run locally"
    assert rules.PAGE.read_text() == rules.page(experiments), (
        "the table of rules in docs/slurm.md is not the workflow's: run `python -m"
        " tests.slurm.rules`"
    )


@pytest.mark.slurm
@pytest.mark.slow
def test_every_rule_runs_on_slurm_and_a_lost_node_changes_nothing(
    cluster: Cluster,
    run: Callable[..., Run],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    profile = shared_profile(tmp_path / "profile")
    runs = {}
    # Without DIALS, what needs it is left out; continuous integration requires it.
    if shutil.which("dials.version") or os.environ.get("HKLFLOW_REQUIRE_DIALS"):
        without = set()
    else:
        without = {"stills"}
    for name in sorted(world.WORLDS.keys() - without):
        world.WORLDS[name](tmp_path / name)
        runs[name] = run(REPOSITORY / "Snakefile", tmp_path / name, profile, forks=True)
    goals = {name: world.goals(tmp_path / name) for name in runs}
    begin = time.monotonic()
    processes = {name: each.start(*goals[name]) for name, each in runs.items()}

    def halfway() -> dict[str, str]:
        """The Slurm job that is in the midst of the rules of the child's rotation."""
        assert processes["crystal"].poll() is None, "snakemake has ended already"
        done = any(tmp_path.glob("crystal/results_binned2/hexa/200K/r1/mask.nxs"))
        ours = runs["crystal"].rules_of_jobs("import hexa 200K r1")
        queue = cluster.queue() if done else []
        found = (j for j in queue if j["JobId"] in ours and j["JobState"] == "RUNNING")
        return next(found, {})

    lost = until(halfway, 600, "the child's rotation half-way")
    node = lost["NodeList"]
    killed = cluster.lose_node(node)
    assert len(killed) > 3, "slurmd, the step daemons and the job's own processes"

    # The same locally, of the same raw files, while Slurm takes its time to miss the node.
    for name in runs:
        for part in ("config", "raw"):
            shutil.copytree(tmp_path / name / part, tmp_path / "local" / name / part, symlinks=True)
        local = snakemake(tmp_path / "local" / name, *goals[name], "--cores", "2")
        assert local.returncode == 0, local.stdout + local.stderr
    assert {name: process.wait(1200) for name, process in processes.items()} == dict.fromkeys(
        runs, 0
    )
    seconds = time.monotonic() - begin

    over = finished(cluster)
    failed = [job for job in over.values() if job["JobState"] != "COMPLETED"]
    assert {(job["JobState"], job["NodeList"]) for job in failed} == {("NODE_FAIL", node)}
    assert lost["JobId"] in {job["JobId"] for job in failed}
    assert cluster.states()[node].startswith("down")

    # The lost group of rules came back as a new Slurm job, on another node and with more memory.
    sent = runs["crystal"].submitted()
    number = {slurm: job for job, _, slurm in sent}
    tries = [over[slurm] for job, _, slurm in sent if job == number[lost["JobId"]]]
    assert [job["JobState"] for job in tries] == ["NODE_FAIL", "COMPLETED"]
    assert tries[1]["NodeList"] != node
    assert megabytes(tries[1]) > megabytes(tries[0])

    ran = {
        name
        for each in runs.values()
        for slurm, names in each.rules_of_jobs().items()
        if over[slurm]["JobState"] == "COMPLETED"
        for name in names
    }
    owed = {rule for rule, yes in rules.rules().items() if yes}
    lacking = sorted(owed - ran - {rule for rule in owed if without and "stills" in rule})
    assert not lacking, (
        f"{', '.join(lacking)} did not run on Slurm: give an experiment of tests/slurm/world.py"
        " what makes a job of it"
    )
    assert not set(rules.LOCAL) & ran

    for name, each in runs.items():
        for results in sorted((tmp_path / name).glob("results*")):
            told = differences(tmp_path / "local" / name / results.name, results)
            assert told == [], results
        before = each.log.stat().st_size
        assert each.finish("--dry-run", *goals[name]) == 0
        assert "Nothing to be done" in each.text()[before:]
    record_property(
        "slurm",
        f"{len(ran)} rules in {len(over) - len(failed)} Slurm jobs on 3 nodes; node {node} lost"
        f" (kill -9 of {len(killed)} processes) with Slurm job"
        f" {', '.join(job['JobId'] for job in failed)} (NODE_FAIL), made again as"
        f" {tries[1]['JobId']} on {tries[1]['NodeList']}"
        f" ({megabytes(tries[0])} -> {megabytes(tries[1])} MB); products are those of a local run;"
        f" cluster up in {cluster.seconds_to_start:.1f} s, all after {seconds:.0f} s",
    )
