"""A Slurm cluster for this folder's tests, and a way to run snakemake on it."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.truth.forks import BLANK, tools

from .cluster import Cluster, missing

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skip without Slurm; fail instead where HKLFLOW_REQUIRE_SLURM says that it must be here."""
    lacking = missing()
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        lacking.append("snakemake-executor-plugin-slurm")
    if lacking:
        reason = f"not installed: {', '.join(lacking)}"
        if os.environ.get("HKLFLOW_REQUIRE_SLURM"):
            pytest.fail(f"HKLFLOW_REQUIRE_SLURM is set, but Slurm is {reason}")
        pytest.skip(f"no Slurm here: {reason}")


@pytest.fixture(scope="module")
def cluster(slurm: None) -> Iterator[Cluster]:
    """Three nodes of two CPUs; no process of it is left when the module's tests are over."""
    with Cluster(nodes=3, cpus=2) as running:
        yield running
    assert not running.left()


class Run:
    """Snakemake under the profile in an experiment's folder, as a user of the cluster starts it.

    Parameters
    ----------
    cluster
        The cluster.
    snakefile
        The workflow.
    folder
        The experiment.
    profile
        The folder of the profile.
    forks
        Run snakemake and stages by processes that have everything imported, see
        `tests.truth.forks`: each rule's job on a node starts snakemake, also within a group.
    """

    def __init__(
        self,
        cluster: Cluster,
        snakefile: Path,
        folder: Path,
        profile: Path = REPOSITORY / "profiles/slurm",
        *,
        forks: bool = False,
    ) -> None:
        self.cluster, self.snakefile, self.folder = cluster, snakefile, folder
        self.profile, self.forks = profile, forks
        self.log = folder / "snakemake.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start snakemake; its output is added to the log."""
        environment = self.cluster.environment
        # The stages are run by `python`: the one that runs the tests.
        path = [str(self.cluster.root / "bin"), str(Path(sys.executable).parent)]
        path[1:1] = [str(tools() / "bin")] if self.forks else []
        environment["PATH"] = os.pathsep.join([*path, environment["PATH"]])
        environment[BLANK] = "yes"  # as the local run that it is compared with
        python = str(tools() / "bin/python") if self.forks else sys.executable
        # Its folder is the experiment's: the tests' own modules are found by the path.
        mine = [str(REPOSITORY), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(mine)
        command = [python, "-m", "tests.slurm.impatient", "--snakefile", str(self.snakefile)]
        command += ["--directory", str(self.folder)]
        command += ["--workflow-profile", str(self.profile)]
        command += ["--slurm-init-seconds-before-status-checks", "2"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def finish(self, *arguments: str, timeout: float = 600) -> int:
        """Run snakemake to its end; its return code."""
        return self.start(*arguments).wait(timeout)

    def stop(self) -> None:
        """End what a failed test left: snakemake and its jobs."""
        for process in self.processes:
            process.kill()
            process.wait(60)
        self.cluster.cancel_all()

    def text(self) -> str:
        """The log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def submitted(self) -> list[tuple[str, str, str]]:
        """What was sent to Slurm, in this order: (snakemake's job, rules, Slurm's job)."""
        found = re.findall(
            r"Job (\S+) has been submitted with SLURM jobid (\d+) "
            r"\(log: .*?/slurm_logs/(?:rule|group)_([^/]+)/",
            self.text(),
        )
        return [(job, rules, slurm) for job, slurm, rules in found]

    def rules_of_jobs(self, message: str = "") -> dict[str, set[str]]:
        """Return the rules that each Slurm job has finished, of jobs that have told the message.

        The logs of completed jobs need `slurm-keep-successful-logs`.
        """
        logs = self.folder.glob(".snakemake/slurm_logs/**/*.log")
        texts = {log.stem: log.read_text(errors="replace") for log in logs}
        return {
            job: set(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)$", text, re.MULTILINE))
            for job, text in texts.items()
            if message in text
        }


def megabytes(job: dict[str, str]) -> int:
    """Memory that a finished job had."""
    number, unit = re.findall(r"mem=([\d.]+)([MG])", job["Tres"])[0]
    return round(float(number) * {"M": 1, "G": 1024}[unit])


def finished(cluster: Cluster) -> dict[str, dict[str, str]]:
    """Finished jobs by their number."""
    return {job["JobId"]: job for job in cluster.finished()}


@pytest.fixture
def run(cluster: Cluster) -> Iterator[Callable[..., Run]]:
    """Function: arguments of `Run` after the cluster -> the Run."""
    runs: list[Run] = []

    def start(*arguments: Any, **options: Any) -> Run:
        runs.append(Run(cluster, *arguments, **options))
        return runs[-1]

    yield start
    for each in runs:
        each.stop()
        print(each.text()[-20000:])  # pytest shows it if the test fails
