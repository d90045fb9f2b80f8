"""Join the constants of all modules in one file for the detector."""

from pathlib import Path

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    modules: list[Path]
    """Constants of the modules, in the order of `numbers`."""


class Outputs(stage.Outputs):
    constants: Path
    """Constants of the detector."""


class Params(stage.Params):
    numbers: tuple[int, ...]
    """Numbers of the modules."""
    absent: tuple[int, ...] = ()
    """Numbers of the modules that have no constants; they are masked."""
    title: str = "detector constants"
    """Title of the file."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Join the modules, and report missing modules."""
    from hklflow.constants import files
    from hklflow.constants.join import join_modules

    modules = dict(zip(params.numbers, inputs.modules, strict=True))
    with files.create_detector(outputs.constants, params.title, {}) as group:
        files.set_about(group, join_modules(group, modules, params.absent))
    print(f"{len(modules)} modules, absent: {list(params.absent) or 'none'}")


if __name__ == "__main__":
    stage.command(main)
