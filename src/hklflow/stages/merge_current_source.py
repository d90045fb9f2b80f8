"""Merge the current source ramps of one ASIC: the best current for each pixel and cell."""

from pathlib import Path

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    currents: list[Path]
    """Processed ramp of each current, in the order of `names`."""


class Outputs(stage.Outputs):
    constants: Path
    """Ratios of the gains, and the current from which each ratio is."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    weighted: bool = False
    """Use the weighted means of the ratios of all valid currents instead of the best current."""


class Params(Settings):
    """Settings of the stage, and the currents."""

    names: tuple[str, ...]
    """Names of the currents."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Merge the currents, and report how often each current was chosen."""
    from hklflow.constants import files
    from hklflow.constants.merge_currents import merge_currents

    parts = [files.read_part(path) for path in inputs.currents]
    merged = merge_currents(parts, params.names, params.weighted)
    files.write_part(outputs.constants, "current source, merged", merged)
    chosen = merged["chosen_current"]
    for number, name in enumerate(("none", *params.names)):
        print(f"{name}: {(chosen == number).sum()} of {chosen.size} pixels and cells")


if __name__ == "__main__":
    stage.command(main)
