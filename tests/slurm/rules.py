"""Which rules go to Slurm, and how: a table for docs/slurm.md from workflow, profile and world.

python -m tests.slurm.rules     # write the table into the page
"""

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from . import world

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/slurm.md"
BEGIN, END = "<!-- rules: python -m tests.slurm.rules -->\n", "<!-- end of rules -->\n"

LOCAL = {
    "all": "a list of products",
    "bragg": "a list of products",
    "constants": "a list of products",
    "accept": "a second; a rejected orientation must stay, and a failed Slurm job removes products",
    "import_poni": "a second, reads one small text file",
    "overview": "seconds, reads the small tables of all scans",
    "stills": "a list of products",
    "propose_constants": "seconds, writes to the calibration store, which nodes need not reach",
}
"""Rules that snakemake runs itself, and the reason."""


def rules() -> dict[str, bool]:
    """Return the rules in the order of the workflow; True if a rule is submitted to a cluster."""
    main = REPOSITORY / "workflow/Snakefile"
    text = main.read_text()
    included = re.findall(r'include: "(.+?)"', text)
    files = [main.parent / name for name in included] + [main]
    found = {}
    for file in files:
        for block in re.split(r"^(?=rule )", file.read_text(), flags=re.MULTILINE)[1:]:
            name = re.match(r"rule (\w+):", block)[1]  # type: ignore[index]
            found[name] = "    shell:" in block and "    localrule: True" not in block
    return found


def profile() -> dict[str, Any]:
    """Return the profile for Slurm."""
    read: dict[str, Any] = yaml.safe_load((REPOSITORY / "profiles/slurm/config.yaml").read_text())
    return read


def jobs_in_worlds(names: Iterable[str] = tuple(world.WORLDS)) -> dict[str, list[str]]:
    """Return the rules of which an experiment of `world` has jobs, by its name."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            at = Path(folder) / name
            world.WORLDS[name](at)
            found[name] = sorted({job.rule for job in world.jobs(at)})
    return found


def table(experiments: dict[str, list[str]]) -> str:
    """Return the table as Markdown, one row for each rule."""
    groups = profile()["groups"]
    lines = ["| rule | Slurm job | runs on Slurm in the test, experiment |", "|---|---|---|"]
    for rule, submitted in rules().items():
        if not submitted:
            lines.append(f"| `{rule}` | none: {LOCAL.get(rule, '?')} | |")
            continue
        ours = ", ".join(name for name, names in experiments.items() if rule in names)
        lines.append(f"| `{rule}` | {groups.get(rule, 'its own')} | {ours or '?'} |")
    return "\n".join(lines) + "\n"


def page(experiments: dict[str, list[str]]) -> str:
    """Return the text of docs/slurm.md with the table."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + table(experiments) + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(page(jobs_in_worlds()))
