"""Check a raw run of an integrating detector for lost data and contradictions."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 2


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw files of the run."""
    facts: Path
    """Facts of the run."""


class Outputs(stage.Outputs):
    report: Path
    """Severity and result of every check, with one sentence (JSON)."""


class Settings(stage.Params):
    strict: tuple[str, ...] = Field(())
    """Names of checks whose warning also ends the run, or `all`; errors always end the run."""
    ignore: tuple[str, ...] = Field(())
    """Names of checks whose error is reported but does not end the run, or `all`."""


class Params(Settings):
    pass


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Run all checks, write the report, and stop if a check ends the run."""
    from hklflow.base.errors import HklflowError
    from hklflow.constants import sanity
    from hklflow.constants.layouts import read_parts
    from hklflow.constants.preprocess import by_module, read_run

    facts = stage.read_json(inputs.facts)
    run = read_run(facts)
    parts = by_module(read_parts(run.layout, inputs.raw, run.detector))
    findings = sanity.check_run(sanity.Raw(facts, parts))
    ended = sanity.fatal(findings, params.strict, params.ignore)
    for finding in findings:
        if not finding.passed:
            print(f"{finding.severity}: {finding.name}: {finding.message}")
    if ended:
        failures = "; ".join(f"{finding.name}: {finding.message}" for finding in ended)
        raise HklflowError(
            f"run {run.name} fails {len(ended)} of {len(findings)} checks ({failures}); correct "
            "the run, or change strict and ignore of constants_sanity"
        )
    stage.write_json(outputs.report, sanity.report(findings))


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: object) -> None:
    """Look for names of no check."""
    from hklflow.constants import sanity

    sanity.require_checks([*params.strict, *params.ignore])


if __name__ == "__main__":
    stage.command(main)
