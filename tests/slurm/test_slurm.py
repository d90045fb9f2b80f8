"""profiles/slurm on a real Slurm: lost node, memory that grows, killed snakemake."""

import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ..workflow.conftest import snakemake
from .cluster import Cluster, processes, until
from .conftest import REPOSITORY, Run

pytestmark = [pytest.mark.slurm, pytest.mark.workflow, pytest.mark.slow]


def megabytes(job: dict[str, str]) -> int:
    """Memory that a finished job had."""
    number, unit = re.findall(r"mem=([\d.]+)([MG])", job["Tres"])[0]
    return round(float(number) * {"M": 1, "G": 1024}[unit])


def finished(cluster: Cluster) -> dict[str, dict[str, str]]:
    """Finished jobs by their number."""
    return {job["JobId"]: job for job in cluster.finished()}


def cut_of_demo(folder: Path) -> list[str]:
    """The demo with a parent and its child, of one rotation each; their volumes.

    The whole demo has 107 jobs. Each starts snakemake anew on its node, 3 s of CPU before it does
    anything: minutes on two cores for snakemake alone. So only what differs for the profile is
    left to the cluster: a rotation's group, its neighbours that stand alone, a scan that waits for
    its parent. The raw files and the calibration are made before; what follows the merge is tested
    without a cluster: its rules are like these.
    """
    shutil.copytree(REPOSITORY / "demo" / "config", folder / "config")
    path = folder / "config" / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    del settings["per_scan"]  # of the scan that is left out
    path.write_text(yaml.safe_dump(settings))
    table = folder / "config" / "scans.tsv"
    head, *rows = table.read_text().splitlines()
    wanted = ("hexa\t300K\t", "hexa\t200K\t")
    rows = [row for row in rows if row.startswith(wanted) and "\tr1\t" in row]
    assert len(rows) == 2
    table.write_text("\n".join([head, *rows]) + "\n")
    raw = ["raw/hexa_300K_r1.nxs", "raw/hexa_200K_r1.nxs"]
    made = snakemake(folder, *raw, "results/calibration/powder/geometry.json", "--cores", "2")
    assert made.returncode == 0, made.stderr
    return [f"results/hexa/{scan}/transform.nxs" for scan in ("300K", "200K")]


def test_demo_outlives_a_lost_node(
    cluster: Cluster,
    run: Callable[[Path], Run],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    goals = cut_of_demo(tmp_path)
    demo = run(REPOSITORY / "Snakefile")
    begin = time.monotonic()
    process = demo.start(*goals)

    def halfway() -> dict[str, str]:
        """A Slurm job that is in the midst of the rules of a rotation."""
        assert process.poll() is None, "snakemake has ended already"
        if any(tmp_path.glob("results/hexa/*/*/mask.nxs")):
            for job in cluster.queue():
                if job["JobState"] == "RUNNING" and "rotation" in job["Comment"]:
                    return job
        return {}

    lost = until(halfway, 900, "a rotation half-way")
    node = lost["NodeList"]
    killed = cluster.lose_node(node)
    assert len(killed) > 3, "slurmd, the step daemons and the job's own processes"

    assert process.wait(1800) == 0
    seconds = time.monotonic() - begin

    over = finished(cluster)
    ends = Counter(job["JobState"] for job in over.values())
    failed = [job for job in over.values() if job["JobState"] == "NODE_FAIL"]
    assert ends == {"COMPLETED": ends["COMPLETED"], "NODE_FAIL": len(failed)}
    assert lost["JobId"] in {job["JobId"] for job in failed}
    assert {job["NodeList"] for job in failed} == {node}
    assert cluster.states()[node].startswith("down")

    # The lost group of rules came back as a new Slurm job, on another node and with more memory.
    submitted = demo.submitted()
    name = {slurm: job for job, _, slurm in submitted}
    tries = [over[slurm] for job, _, slurm in submitted if job == name[lost["JobId"]]]
    assert [job["JobState"] for job in tries] == ["NODE_FAIL", "COMPLETED"]
    assert tries[1]["NodeList"] != node
    assert megabytes(tries[1]) > megabytes(tries[0])

    # One Slurm job for the small rules of a rotation.
    done = Counter(
        rules.split("_")[0] if rules.startswith("rotation_") else rules
        for _, rules, slurm in submitted
        if over[slurm]["JobState"] == "COMPLETED"
    )
    assert done["rotation"] == done["refine"] == done["transform"] == 2
    assert done["refine_parent"] == 1
    assert done["merge"] == 2
    assert done.total() == ends["COMPLETED"] == len(submitted) - len(failed)

    for scan in ("300K", "200K"):
        folder = tmp_path / "results" / "hexa" / scan
        names = ["orientation.json", "accepted.json", "transform.nxs"]
        products = ("scan", "mask", "statistics", "peaks", "frame_mask", "transform")
        names += [f"r1/{product}.nxs" for product in products]
        assert [name for name in names if not (folder / name).is_file()] == []
    before = demo.log.stat().st_size
    assert demo.finish("--dry-run", *goals) == 0
    assert "Nothing to be done" in demo.text()[before:]

    steps = re.findall(r"(\d+) of \1 steps \(100%\) done", demo.text()[:before])
    record_property(
        "slurm",
        f"demo through profiles/slurm on 3 nodes: {max(map(int, steps))} rules' jobs in"
        f" {len(submitted)} Slurm jobs, {ends['COMPLETED']} completed; node {node} lost (kill -9 of"
        f" {len(killed)} processes) with Slurm job {', '.join(job['JobId'] for job in failed)}"
        f" (NODE_FAIL), made again as {tries[1]['JobId']} on {tries[1]['NodeList']}"
        f" ({megabytes(tries[0])} -> {megabytes(tries[1])} MB); exit code 0;"
        f" cluster up in {cluster.seconds_to_start:.1f} s, all after {seconds:.0f} s",
    )


# The rules' names are those that the profile puts into one Slurm job.
SMALL = """
    RETRIES = 1 if workflow.is_main_process else 0

    rule all:
        input: "left.txt", "right.txt"

    rule import_scan:
        output: "scan.txt"
        retries: RETRIES
        resources:
            mem_mb=lambda wildcards, attempt: 200 * 2 ** (attempt - 1),
            runtime=lambda wildcards, attempt: 2 * attempt,
            attempt=lambda wildcards, attempt: attempt,
        shell:
            "echo import $SLURM_JOB_ID >> ran.txt; sleep {config[nap]};"
            " [ {resources.attempt} -gt {config[fails]} ] && touch {output}"

    rule find_peaks:
        input: "scan.txt"
        output: "left.txt"
        resources: mem_mb=300, runtime=3
        shell: "echo left >> ran.txt; sleep 1; echo end >> ran.txt; touch {output}"

    rule mask_3d:
        input: "scan.txt"
        output: "right.txt"
        resources: mem_mb=250, runtime=4
        shell: "echo right >> ran.txt; sleep 1; echo end >> ran.txt; touch {output}"
"""


@pytest.fixture
def small(run: Callable[[Path], Run], tmp_path: Path) -> Run:
    """Three tiny rules in one Slurm job; the first can fail and can take long."""
    snakefile = tmp_path / "Snakefile"
    snakefile.write_text(textwrap.dedent(SMALL))
    return run(snakefile)


def test_retry_of_a_group_is_a_new_slurm_job_with_more_memory(cluster: Cluster, small: Run) -> None:
    assert small.finish("--config", "nap=0", "fails=1") == 0

    over = finished(cluster)
    tries = [over[slurm] for _, _, slurm in small.submitted()]
    assert [job["JobState"] for job in tries] == ["FAILED", "COMPLETED"]
    # The largest rule's memory: mask_3d and find_peaks do not add up, they run in turn.
    assert [megabytes(job) for job in tries] == [300, 400]
    # The sum of all rules' minutes.
    assert [int(job["TimeLimit"]) for job in tries] == [2 + 3 + 4, 4 + 3 + 4]
    assert [job["ProcCnt"] for job in tries] == ["1", "1"]

    lines = (small.folder / "ran.txt").read_text().split("\n")
    # Once in each Slurm job: `retries:` is not obeyed a second time inside of it.
    assert lines[:2] == [f"import {job['JobId']}" for job in tries]
    assert sorted(lines[2:6:2]) == ["left", "right"]
    assert lines[3:6:2] == ["end", "end"]


def test_killed_snakemake_locks_until_its_jobs_are_cancelled(cluster: Cluster, small: Run) -> None:
    process = small.start("scan.txt", "--config", "nap=300", "fails=0")
    until(lambda: (small.folder / "ran.txt").exists(), 300, "job runs")
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    [(_, _, orphan)] = small.submitted()
    assert orphan in {job["JobId"] for job in cluster.queue()}, "the job outlives snakemake"

    assert small.finish("scan.txt", "--config", "nap=0", "fails=0") == 1
    assert "LockException" in small.text()
    assert len(small.submitted()) == 1

    # What docs/slurm.md tells to do.
    name = re.findall(r"SLURM run ID: (\S+)", small.text())[0]
    cluster.run("scancel", "--name", name)
    until(lambda: not cluster.queue(), 120, "jobs cancelled")
    assert finished(cluster)[orphan]["JobState"] == "CANCELLED"
    assert small.finish("--unlock") == 0
    assert small.finish("scan.txt", "--config", "nap=0", "fails=0") == 0
    assert (small.folder / "scan.txt").exists()


def test_killed_tests_leave_no_process(slurm: None, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(f"""
            import sys, time
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from cluster import Cluster
            with Cluster(nodes=1) as cluster:
                cluster.run("sbatch", "--output=/dev/null", "--wrap=sleep 600")
                while not any(job["JobState"] == "RUNNING" for job in cluster.queue()):
                    time.sleep(0.2)
                print(cluster.root, flush=True)
                time.sleep(600)
        """)
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout
        root = killed.stdout.readline().strip()
        assert len(processes(root.encode())) > 4, "munged, slurmctld, slurmd, step daemon, job"
        killed.kill()
    until(lambda: not Path(root).exists(), 60, "folder cleared away")
    assert not processes(root.encode())
