"""Check a raw run of an integrating detector: what was lost, and what contradicts itself."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw files of the run."""
    facts: Path
    """Facts of the run."""


class Outputs(stage.Outputs):
    report: Path
    """Every check with its severity, whether it passed, and one sentence (JSON)."""


class Settings(stage.Params):
    strict: tuple[str, ...] = Field(())
    """Names of checks whose warning ends the run, or `all`; errors end it anyway."""
    ignore: tuple[str, ...] = Field(())
    """Names of checks whose error is told only, or `all`."""


class Params(Settings):
    pass


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Make all checks, write the report, end if one failed that must not."""
    from hklflow.base.errors import HklflowError
    from hklflow.constants import sanity
    from hklflow.constants.layouts import read_parts
    from hklflow.constants.preprocess import by_module, read_run

    facts = stage.read_json(inputs.facts)
    run = read_run(facts)
    parts = by_module(read_parts(run.layout, inputs.raw, run.detector))
    findings = sanity.check_run(sanity.Raw(facts, parts))
    ended = sanity.fatal(findings, params.strict, params.ignore)
    for found in findings:
        if not found.passed:
            print(f"{found.severity}: {found.name}: {found.told}")
    if ended:
        told = "; ".join(f"{found.name}: {found.told}" for found in ended)
        raise HklflowError(
            f"run {run.name} fails {len(ended)} of {len(findings)} checks ({told}); mend the run, "
            "or change strict and ignore of constants_sanity"
        )
    stage.write_json(outputs.report, sanity.report(findings))


if __name__ == "__main__":
    stage.command(main)
