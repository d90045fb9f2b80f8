"""The next step after a command, printed when the command has ended.

Commands whose next step depends on what they found print it themselves.
"""

import sys
from collections.abc import Sequence

from cyclopts import App

STEPS = {
    ("sample", "add"): "add its scans with `hklflow scan add`.",
    ("scan", "add"): "add the other rotations, then `hklflow check`.",
    ("scan", "plan"): "`hklflow check` before the measurement, `hklflow watch` during it.",
    ("model", "orient"): "write `orientation: {start: FILE}` into config/config.yaml, then "
    "`snakemake`.",
    ("model", "import"): "write `orientation: {start: FILE}` into config/config.yaml, then "
    "`snakemake`.",
    ("model", "export"): "open it in the other program; compare its result with `hklflow model "
    "compare`.",
    ("instrument", "new"): "`hklflow instrument check FILE`, then `hklflow scan plan`.",
    ("groups", "make"): "`hklflow groups show FILE`, then name the file in config/config.yaml or "
    "after `--groups`.",
    ("calibration", "init"): "measure a calibrant, then `hklflow calibration propose`.",
    ("calibration", "propose"): "look at the report, then `hklflow calibration accept NAME`.",
    ("calibration", "iterate"): "look at the report, then `hklflow calibration accept NAME`.",
    ("calibration", "accept"): "`snakemake` reduces the rotations again.",
    ("calibration", "reject"): "`hklflow calibration propose` makes another candidate.",
    ("calibration", "cancel"): "`hklflow calibration propose` makes another candidate.",
    ("calibration", "withdraw"): "accept another version with `hklflow calibration accept`, then "
    "`snakemake`.",
    ("constants", "export"): "open the files in the other program.",
    ("export",): "open the file in the other program.",
    ("remove",): "`hklflow verify` lists what is left.",
}
"""Sentence for each command that changes something; FILE and NAME are its arguments."""


def say(app: App, tokens: Sequence[str]) -> None:
    """Print the next step after a command that succeeded, for people: on the standard error."""
    if {"--help", "-h", "--version"}.isdisjoint(tokens):
        command, _, _ = app.parse_commands(tokens)
        if (step := STEPS.get(tuple(command))) is not None:
            print(f"Next: {step}", file=sys.stderr)
