"""Merge the currents of one ASIC's current source: the best one of every pixel and memory cell."""

from pathlib import Path

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    currents: list[Path]
    """Processed current source of each current, in the order of `names`."""


class Outputs(stage.Outputs):
    constants: Path
    """Ratios of the gains, and which current they are from."""


class Settings(stage.Params):
    """What the configuration file sets."""

    weighted: bool = False
    """Whether ratios are the weighted means of all valid currents, not those of the best one."""


class Params(Settings):
    """Settings, and which currents."""

    names: tuple[str, ...]
    """Names of the currents."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Choose, and tell how often."""
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
