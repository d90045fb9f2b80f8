"""The jobs that snakemake itself would run: `python -m tests.workflow.dag FOLDER` prints them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE

REPOSITORY = Path(__file__).parents[2]


def jobs_of_snakemake(folder: Path) -> list[dict[str, Any]]:
    """Rule, wildcards, inputs, outputs, log, times and command of each job of `rule all`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.workflow.dag", str(folder)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    jobs: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return jobs


def _print_jobs(folder: Path) -> None:
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import (
        DAGSettings,
        OutputSettings,
        Quietness,
        ResourceSettings,
    )

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL}, dryrun=True)) as api:
        workflow = api.workflow(
            snakefile=REPOSITORY / "Snakefile",
            workdir=folder,
            resource_settings=ResourceSettings(cores=8),
        )
        workflow.dag(dag_settings=DAGSettings()).execute_workflow(executor="dryrun")
        jobs = [
            {
                "rule": job.rule.name,
                "at": dict(job.wildcards.items()),
                "inputs": [str(path) for path in job.input],
                "outputs": {name: str(path) for name, path in job.output.items()},
                "log": [str(path) for path in job.log],
                "times": str(job.benchmark) if job.benchmark else None,
                "command": job.shellcmd,
            }
            for job in workflow._workflow.dag.jobs
        ]
    print(f"\n{json.dumps(jobs)}")


if __name__ == "__main__":
    _print_jobs(Path(sys.argv[1]))
