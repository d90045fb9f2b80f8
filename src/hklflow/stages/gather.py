"""Gather the frames of one module from raw runs: one file for each ASIC, sorted by memory cell."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hklflow import stage
from hklflow.constants.layout_names import LayoutName

VERSION = 3


class Inputs(stage.Inputs):
    facts: list[Path]
    """Facts of the runs, which contain the paths of the raw files. The order of the runs of a ramp
    is the order in which they drive rows or columns; runs of a dark or of fluorescence are joined.
    """
    sanity: list[Path]
    """Reports of the checks of the runs; a run that fails is not gathered."""


class Outputs(stage.Outputs):
    gathered: list[Path]
    """Frames of each ASIC."""


class Params(stage.Params):
    measure: str
    """Measurement: dark_high, dark_medium, dark_low, xray, pulse_capacitor or
    current_source_<current>."""
    module: int = Field(ge=0)
    """Number of the module."""
    layout: LayoutName
    """Layout of the raw files."""
    detector: Literal["agipd", "jungfrau"]
    """Detector of the measurement."""
    module_size: tuple[int, int] | None = None
    """Pixels (ss, fs) of a module; None: the detector's default."""
    asic_size: tuple[int, int] | None = None
    """Pixels (ss, fs) of an ASIC; None: the detector's default."""
    memory_cells: int | None = Field(None, ge=1)
    """Memory cells that a trigger fills, for layouts that do not store this number (`cfel`)."""
    memory: float = Field(1000, gt=0)
    """Memory for the frames, in MB."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Gather the frames that exist in all runs."""
    from hklflow.base.errors import HklflowError
    from hklflow.constants.detectors import integrating
    from hklflow.constants.gather import gather
    from hklflow.constants.preprocess import read_run

    detector = integrating(
        params.detector, params.module_size, params.asic_size, params.memory_cells
    )
    runs = [read_run(stage.read_json(path)) for path in inputs.facts]
    for run, path in zip(runs, inputs.facts, strict=True):
        if run.detector != detector or run.layout != params.layout:
            raise HklflowError(
                f"{path} is for {run.detector} in layout {run.layout}, not for {detector} in "
                f"layout {params.layout}; run constants_preprocess again"
            )
    gathered = gather(
        runs,
        params.measure,
        params.module,
        outputs.gathered,
        params.memory,
        lambda items, total: stage.progress(items, total, "blocks of frames"),
    )
    if gathered.warning:
        print(f"warning: {gathered.warning}")
    print(
        f"{params.measure}, module {params.module}: {gathered.frames} frames of "
        f"{', '.join(run.name for run in runs)} gathered, {gathered.empty} were empty"
    )


if __name__ == "__main__":
    stage.command(main)
