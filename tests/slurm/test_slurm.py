"""profiles/slurm on a real Slurm: memory that grows, killed snakemake, killed tests."""

import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from .cluster import Cluster, processes, until
from .conftest import Run, finished, megabytes

pytestmark = [pytest.mark.slurm, pytest.mark.workflow, pytest.mark.slow]


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
def small(run: Callable[..., Run], tmp_path: Path) -> Run:
    """Three tiny rules in one Slurm job; the first can fail and can take long."""
    snakefile = tmp_path / "Snakefile"
    snakefile.write_text(textwrap.dedent(SMALL))
    return run(snakefile, tmp_path)


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
