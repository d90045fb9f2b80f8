"""What holds for all four measurements: parts of the frames, lost frames, the order of frames."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hklflow.constants import files
from hklflow.constants.gathered import About, GatheredWriter
from hklflow.constants.ramps import abscissa
from hklflow.constants.simulate import Adus, Truth, agipd
from hklflow.constants.simulate_photons import Foil, deposit
from hklflow.constants.simulate_ramps import current_source, pulse_capacitor
from hklflow.stages import (
    process_current_source,
    process_dark,
    process_pulse_capacitor,
    process_xray,
)

CELLS, SIZE = 3, (8, 8)
RAMP = [(100, 1.0), (100, 60.0)]
Output = Callable[[int], tuple[Adus, Adus]]
STAGES: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "dark": (process_dark, {}),
    "xray": (process_xray, {"energy": 17.444, "photons_per_cell": 0.0}),
    "pulse_capacitor": (process_pulse_capacitor, {}),
    "current_source_20": (process_current_source, {"ramp": RAMP}),
}


def _write(path: Path, measure: str, outputs: list[tuple[Adus, Adus]], lost: Iterable[int]) -> None:
    """Gathered frames of all cells; some of cell 1 are lost."""
    about = About("agipd", measure, 0, 0, "level", ("r0001",))
    steps = [np.arange(len(outputs[0][0])) for _ in range(CELLS)]
    steps[1] = np.delete(steps[1], list(lost))
    numbers = np.array([len(step) for step in steps])
    with GatheredWriter(path, about, np.arange(CELLS), numbers, SIZE) as writer:
        for cell, (analog, digital) in enumerate(outputs):
            step = steps[cell]
            which = np.full(len(step), cell)
            writer.append(which, 1000 + step, step, analog[step], digital[step])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every measurement twice: whole, and with frames of cell 1 lost."""
    folder = tmp_path_factory.mktemp("measured")
    rng = np.random.default_rng(4)
    truth: Truth = agipd(rng, CELLS, SIZE)
    x = np.arange(200.0)
    times = abscissa(RAMP, np.arange(200))
    pulses, current = pulse_capacitor(truth, rng), current_source(truth, rng)
    nothing = np.zeros((60, *SIZE))
    made: dict[str, Output] = {
        f"dark_{name}": lambda cell, stage=stage: truth.respond(nothing, cell, rng, stage)
        for stage, name in enumerate(("high", "medium", "low"))
    }  # type: ignore[misc]
    made["xray"] = lambda cell: truth.respond(deposit(Foil(17.444), 3000, SIZE, rng), cell, rng)
    made["pulse_capacitor"] = lambda cell: pulses.respond(truth, cell, x, rng)
    made["current_source_20"] = lambda cell: current.respond(truth, cell, times, rng)
    for measure, output in made.items():
        outputs = [output(cell) for cell in range(CELLS)]
        _write(folder / f"whole_{measure}.h5", measure, outputs, ())
        _write(folder / f"lost_{measure}.h5", measure, outputs, (0, 1, 7, 30, 31, 59))
    return folder


def _run(folder: Path, measure: str, kind: str, memory: float) -> files.Constants:
    module, params = STAGES[measure]
    if measure == "dark":
        inputs = {s: folder / f"{kind}_dark_{s}.h5" for s in ("high", "medium", "low")}
    else:
        dark = folder / "dark.nxs"
        if not dark.exists():
            whole = {s: folder / f"whole_dark_{s}.h5" for s in ("high", "medium", "low")}
            process_dark.main(
                inputs=process_dark.Inputs(**whole),
                outputs=process_dark.Outputs(constants=dark),
                params=process_dark.Params(),
            )
        inputs = {"gathered": folder / f"{kind}_{measure}.h5", "dark": dark}
    path = folder / f"{kind}_{measure}_{memory:g}.nxs"
    module.main(
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(constants=path),
        params=module.Params(memory=memory, **params),
        threads=1,
    )
    return files.read_part(path)


@pytest.mark.parametrize("measure", STAGES)
def test_parts_of_the_frames_give_what_all_give(measured: Path, measure: str) -> None:
    """Memory bounds the rows that are worked on at a time, and nothing else."""
    whole, parts = (_run(measured, measure, "whole", memory) for memory in (500.0, 0.3))
    assert list(whole.quantities) == list(parts.quantities)
    for name, item in whole.quantities.items():
        assert item.values.shape[-3:] == (CELLS, *SIZE), name
        if measure == "xray":
            # The spectra's bins follow from the first part.
            continue
        assert np.array_equal(item.values, parts[name], equal_nan=item.values.dtype.kind == "f")
    if measure == "xray":
        pull = (parts["gain_high"] - whole["gain_high"]) / whole["gain_high_errors"]
        assert np.nanmax(np.abs(pull)) < 0.2
        assert np.isfinite(pull).all()


@pytest.mark.parametrize("measure", STAGES)
def test_frames_that_one_cell_lost_change_no_other_cell(measured: Path, measure: str) -> None:
    whole, lost = (_run(measured, measure, kind, 500.0) for kind in ("whole", "lost"))
    changed = []
    for name, item in whole.quantities.items():
        same = [
            np.array_equal(
                item.values[..., cell, :, :],
                lost[name][..., cell, :, :],
                equal_nan=item.values.dtype.kind == "f",
            )
            for cell in range(CELLS)
        ]
        # Outliers are judged over the whole ASIC.
        assert same[0], name
        assert same[2], name
        changed.append(not same[1])
    assert any(changed)
    frames = np.array(lost.about["frames"]).reshape(-1, CELLS)
    assert (frames[:, 1] == frames[:, 0] - 6).all()
