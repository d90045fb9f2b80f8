"""Join the constants of the ASICs of a module."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    asics: list[Path]
    """Constants of the ASICs, in the order of `numbers`."""


class Outputs(stage.Outputs):
    constants: Path
    """Constants of the module (ss, fs)."""


class Params(stage.Params):
    detector: str
    """Kind of detector."""
    module: int = Field(ge=0)
    """Number of the module."""
    numbers: tuple[int, ...]
    """Numbers of the ASICs; missing ASICs are masked."""
    module_size: tuple[int, int] | None = None
    """Pixels (ss, fs) of a module; None: the detector's default."""
    asic_size: tuple[int, int] | None = None
    """Pixels (ss, fs) of an ASIC; None: the detector's default."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Join the ASICs, and report missing ASICs."""
    from hklflow.constants import files
    from hklflow.constants.detectors import integrating
    from hklflow.constants.join import join_asics

    detector = integrating(params.detector, params.module_size, params.asic_size)
    asics = dict(zip(params.numbers, inputs.asics, strict=True))
    with files.create_part(outputs.constants, f"constants of module {params.module}") as group:
        about = join_asics(group, detector, params.module, asics)
        files.set_about(group, about)
    print(f"{len(asics)} of {detector.asics} ASICs, absent: {about['absent_asics'] or 'none'}")


if __name__ == "__main__":
    stage.command(main)
