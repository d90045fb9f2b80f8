"""Gather the frames of one module from raw runs: one file per ASIC, sorted by memory cell.

A pulse capacitor scan consists of eight runs; each run drives every eighth row of the module's
ASICs. A current source scan consists of four runs; each drives every fourth column. For each
(step, cell) that all runs of the scan have, one frame is assembled from the driven pixels. Rows and
columns follow the construction of the module, 2 x 8 ASICs: rows along fs, columns along ss.

The runs of a dark or of fluorescence are joined: the frames of each run follow those of the run
before.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating
from hklflow.constants.gathered import About, GatheredWriter
from hklflow.constants.joined import (
    Means,
    is_joined,
    require_joinable,
    require_other_frames,
    require_same_means,
)
from hklflow.constants.layout import Images, Read
from hklflow.constants.layouts import find, open_part, read_parts
from hklflow.constants.preprocess import Run
from hklflow.constants.raw_frames import Frames, Ints, Part, Trains, valid_frames

#: Digital part of a frame if its gain bits are invalid.
NO_STAGE = 255

# Bytes of memory for each pixel of a block: raw, assembled, and sorted by cell.
_BYTES = 16

_RUNS = {"pulse_capacitor": 8, "current_source": 4}

Shown = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class Gathering:
    """Number of gathered frames of a module, and of empty frames (analogue part 0).

    ``warning`` says if steps of the runs may not fit each other; else it is empty.
    """

    frames: int
    empty: int
    warning: str = ""


def gather(
    runs: Sequence[Run],
    measure: str,
    module: int,
    outputs: Sequence[Path],
    memory: float,
    shown: Shown = lambda items, total: items,
) -> Gathering:
    """Gather the frames of a module for one measurement.

    Parameters
    ----------
    runs : sequence of Run
        Runs in the order in which they drive rows or columns; runs that are joined in any order.
    measure : str
    module : int
        Number of the module; if a run has no files of it, no frames are gathered.
    outputs : sequence of Path
        Output files, one per ASIC, in the order of `Integrating.box`.
    memory : float
        Memory for the frames, MB.
    shown : callable
        Wraps the iteration over the blocks of frames to show progress.

    Raises
    ------
    HklflowError
        If the runs differ in detector or their number is wrong, if runs cannot be joined, if a
        file cannot be read, or if a file changed after the run was preprocessed.
    """
    detector = _detector(runs, measure, outputs)
    parts = [_parts_of(run, module) for run in runs]
    frames = [valid_frames(p, r.outliers) for p, r in zip(parts, runs, strict=True)]
    plans = [_plan(runs, frames)]
    if is_joined(measure):
        require_joinable(runs, measure)
        require_other_frames(runs, frames, measure, module)
        plans = _joined_plans(runs, frames)
    cell_ids = np.array(sorted(frozenset.union(*(run.cells for run in runs))), np.int64)
    of_cells = np.concatenate([plan.cell for plan in plans])
    if not np.isin(of_cells, cell_ids).all():
        raise HklflowError(
            f"module {module} of run {runs[0].name} has memory cells that were not there before; "
            "the raw files changed: run constants_preprocess again"
        )
    counts = np.bincount(np.searchsorted(cell_ids, of_cells), minlength=len(cell_ids))
    names = tuple(run.name for run in runs)
    digital = "stage" if detector.codes else "level"
    as_modules = find(runs[0].layout).as_modules
    empty = 0
    with ExitStack() as stack:
        sources = [
            [stack.enter_context(open_part(run.layout, part, detector)) for part in parts_of_run]
            for run, parts_of_run in zip(runs, parts, strict=True)
        ]
        writers = []
        for asic, path in enumerate(outputs):
            about = About(detector.name, measure, module, asic, digital, names, as_modules)
            writer = GatheredWriter(path, about, cell_ids, counts, detector.asic, at_most=True)
            writers.append(stack.enter_context(writer))
        pixels = [driven(measure, i, detector) for i in range(len(runs))]
        means = [Means(len(cell_ids), detector) for _ in plans]
        blocks = [
            (number, block)
            for number, plan in enumerate(plans)
            for block in _blocks(len(plan.cell), memory, detector)
        ]
        for number, block in shown(blocks, len(blocks)):
            plan = plans[number]
            of_plan = sources if len(plans) == 1 else sources[number : number + 1]
            analog, levels, full = _assemble(of_plan, plan, block, pixels[: len(of_plan)], detector)
            keep = slice(None) if full.all() else np.flatnonzero(full)
            empty += int(np.count_nonzero(~full))
            cell = np.searchsorted(cell_ids, plan.cell[block])[keep]
            if len(plans) > 1:
                means[number].add(cell, analog[keep], _stages(levels[keep], detector))
            for asic, writer in enumerate(writers):
                box = (slice(None), *detector.box(asic))
                writer.append(
                    cell,
                    plan.train[block][keep],
                    plan.step[block][keep],
                    analog[box][keep],
                    _stages(levels[box][keep], detector),
                )
        require_same_means(runs[: len(plans)], means, measure)
    return Gathering(
        len(of_cells) - empty, empty, "" if is_joined(measure) else _unequal(runs, measure)
    )


def _unequal(runs: Sequence[Run], measure: str) -> str:
    """Return a warning if runs of a ramp have unequal lengths; else an empty text.

    Steps are counted from the first trigger that a module has. If it is lost in all modules, each
    later step of the run is one too low, and only the length of the run can show it.
    """
    lengths = {run.name: run.last - run.first + 1 for run in runs}
    most = max(lengths.values())
    short = [f"{name} ({n})" for name, n in lengths.items() if n < most]
    if not short:
        return ""
    return (
        f"{measure}: the runs {', '.join(short)} have fewer triggers than the others ({most}); if "
        "the first trigger of a run is lost in all modules, its steps do not fit those of the "
        "other runs: compare the logs of the runs, and measure such a run again"
    )


def driven(measure: str, run: int, detector: Integrating) -> NDArray[np.bool_]:
    """Return the pixels (ss, fs) of a module that one run of a scan drives.

    Run i of the pulse capacitor drives rows 7 - i, 15 - i ... of the first half of a module and
    i, i + 8 ... of the second half. Run j of the current source drives columns j, j + 4 ... of the
    first half and 3 - j, 7 - j ... of the second half, where the ASICs are upside down.

    Parameters
    ----------
    measure : str
        pulse_capacitor or current_source_<current>.
    run : int
        Index of the run in the scan.
    detector : Integrating
    """
    column, row = np.indices(detector.module)
    half = detector.module[1] // 2
    first = row < half
    if measure == "pulse_capacitor":
        return np.where(first, row % 8 == 7 - run, (row - half) % 8 == run)
    return np.where(first, column % 4 == run, column % 4 == 3 - run)


@dataclass(frozen=True)
class _Plan:
    """Frames to be gathered, sorted by step and cell.

    ``places``: for each run, the part and the row (n,) of each frame.
    """

    cell: Ints
    step: Ints
    train: Trains
    places: list[tuple[Ints, Ints]]


def _plan(runs: Sequence[Run], frames: Sequence[Frames]) -> _Plan:
    steps = [
        frames_of_run.train.astype(np.int64) - run.first
        for run, frames_of_run in zip(runs, frames, strict=True)
    ]
    # Frames are sorted by train and cell, so the keys increase.
    keys = [
        step << 16 | frames_of_run.cell for step, frames_of_run in zip(steps, frames, strict=True)
    ]
    common = keys[0]
    for key in keys[1:]:
        common = np.intersect1d(common, key, assume_unique=True)
    indices = [np.searchsorted(key, common) for key in keys]
    return _Plan(
        common & 0xFFFF,
        common >> 16,
        frames[0].train[indices[0]],
        [(f.part[i], f.row[i]) for f, i in zip(frames, indices, strict=True)],
    )


def _joined_plans(runs: Sequence[Run], frames: Sequence[Frames]) -> list[_Plan]:
    """Return the frames of each run; the steps of a run follow those of the run before."""
    plans: list[_Plan] = []
    after = 0
    for run, frames_of_run in zip(runs, frames, strict=True):
        plan = _plan([run], [frames_of_run])
        plans.append(replace(plan, step=plan.step + after))
        after += int(plan.step.max(initial=-1)) + 1
    return plans


def _blocks(frames: int, memory: float, detector: Integrating) -> Iterator[slice]:
    size = max(int(memory * 1e6 / (_BYTES * detector.module[0] * detector.module[1])), 1)
    for begin in range(0, frames, size):
        yield slice(begin, min(begin + size, frames))


def _assemble(
    sources: Sequence[Sequence[Read]],
    plan: _Plan,
    block: slice,
    pixels: Sequence[NDArray[np.bool_]],
    detector: Integrating,
) -> tuple[Images, Images, NDArray[np.bool_]]:
    """Read a block of frames.

    Return the analogue part, the digital part, and True for each frame that is empty in no run.
    """
    analog, digital = _read(sources[0], plan.places[0], block, detector)
    full = _full(analog)
    for source, place, driven_pixels in zip(sources[1:], plan.places[1:], pixels[1:], strict=True):
        other_analog, other_digital = _read(source, place, block, detector)
        full &= _full(other_analog)
        np.copyto(analog, other_analog, where=driven_pixels)
        np.copyto(digital, other_digital, where=driven_pixels)
    return analog, digital, full


def _read(
    readers: Sequence[Read], place: tuple[Ints, Ints], block: slice, detector: Integrating
) -> tuple[Images, Images]:
    """Read frames of one run in contiguous stretches of its files."""
    part, row = place[0][block], place[1][block]
    order = np.lexsort((row, part))
    part, row = part[order], row[order]
    analog, digital = (np.empty((len(row), *detector.module), np.uint16) for _ in range(2))
    cuts = np.flatnonzero((np.diff(part) != 0) | (np.diff(row) != 1)) + 1
    for stretch in np.split(np.arange(len(row)), cuts):
        first = int(row[stretch[0]])
        read = readers[int(part[stretch[0]])](first, first + len(stretch))
        analog[order[stretch]], digital[order[stretch]] = read
    return analog, digital


def _full(analog: Images) -> NDArray[np.bool_]:
    """Return True for each frame with an analogue part other than 0 in at least one pixel."""
    full = np.asarray(analog[:, ::16, ::16].any(axis=(1, 2)))
    for frame in np.flatnonzero(~full):
        full[frame] = analog[frame].any()
    return full


def _stages(digital: Images, detector: Integrating) -> Images:
    """Convert digital gain codes to stage numbers; analogue levels are returned unchanged."""
    if detector.codes is None:
        return digital
    stages = np.full(2**16, NO_STAGE, np.uint16)
    stages[list(detector.codes)] = np.arange(len(detector.codes))
    return stages[digital]


def _parts_of(run: Run, module: int) -> list[Part]:
    listed_parts = read_parts(run.layout, run.files.get(module, []), run.detector)
    return [part for part in listed_parts if part.module == module]


def _detector(runs: Sequence[Run], measure: str, outputs: Sequence[Path]) -> Integrating:
    detector = runs[0].detector
    for run in runs[1:]:
        if run.detector != detector:
            raise HklflowError(
                f"run {run.name} has the detector {run.detector} and run {runs[0].name} has "
                f"{detector}; gather runs of one detector"
            )
    kind = "current_source" if measure.startswith("current_source_") else measure
    if not is_joined(measure) and len(runs) not in (1, _RUNS.get(kind, 1)):
        wanted = f"1 or {_RUNS[kind]} runs" if kind in _RUNS else "1 run"
        raise HklflowError(
            f"{measure} has {len(runs)} runs ({', '.join(run.name for run in runs)}) and needs "
            f"{wanted}; correct the runs in the configuration"
        )
    if len(outputs) != detector.asics:
        raise HklflowError(
            f"{len(outputs)} output files for the {detector.asics} ASICs of a module of "
            f"{detector.name}; list one file per ASIC"
        )
    return detector
