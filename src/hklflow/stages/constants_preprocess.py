"""Read the facts of a raw run of an integrating detector: modules, cells, trains, losses."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hklflow import stage
from hklflow.constants.layout_names import LayoutName

VERSION = 4


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw files of the run."""


class Outputs(stage.Outputs):
    facts: Path
    """Facts of the run (JSON)."""


class Params(stage.Params):
    run: str
    """Name of the run."""
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
    modules: tuple[int, ...]
    """Numbers of the expected modules."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Read the frame descriptions in the files, and write the facts."""
    from hklflow.constants.detectors import integrating
    from hklflow.constants.preprocess import run_facts

    detector = integrating(
        params.detector, params.module_size, params.asic_size, params.memory_cells
    )
    facts = run_facts(params.run, params.layout, detector, inputs.raw, params.modules)
    stage.write_json(outputs.facts, facts)
    modules = facts["modules"].values()
    print(
        f"run {params.run}: {len(modules)} modules, {facts['trains']['count']} trains, "
        f"{sum(item['frames'] for item in modules)} frames and "
        f"{sum(item['lost_frames'] for item in modules)} lost ones"
    )


if __name__ == "__main__":
    stage.command(main)
