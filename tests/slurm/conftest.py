"""A Slurm cluster for this folder's tests, and a way to run snakemake on it."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
    """

    def __init__(self, cluster: Cluster, snakefile: Path, folder: Path) -> None:
        self.cluster, self.snakefile, self.folder = cluster, snakefile, folder
        self.log = folder / "snakemake.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start snakemake; its output is added to the log."""
        environment = self.cluster.environment
        # The stages are run by `python`: the one that runs the tests.
        path = [str(self.cluster.root / "bin"), str(Path(sys.executable).parent)]
        environment["PATH"] = os.pathsep.join([*path, environment["PATH"]])
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.snakefile)]
        command += ["--directory", str(self.folder)]
        command += ["--workflow-profile", str(REPOSITORY / "profiles" / "slurm")]
        # Look often: these jobs take seconds.
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


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[[Path], Run]]:
    """Function: snakefile -> its Run in an empty folder."""
    runs: list[Run] = []

    def start(snakefile: Path) -> Run:
        runs.append(Run(cluster, snakefile, tmp_path))
        return runs[-1]

    yield start
    for each in runs:
        each.stop()
        print(each.text()[-20000:])  # pytest shows it if the test fails
