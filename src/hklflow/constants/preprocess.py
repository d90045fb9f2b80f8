"""Facts of a raw run: modules, files, memory cells, trains, and losses.

No pixels are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating, integrating
from hklflow.constants.layouts import find, read_parts
from hklflow.constants.raw_frames import (
    NO_TRAIN,
    Frames,
    Part,
    Ranges,
    Trains,
    from_ranges,
    outlier_trains,
    to_ranges,
    valid_frames,
)

Facts = dict[str, Any]


def run_facts(
    run: str, layout: str, detector: Integrating, files: Sequence[Path], expected: Sequence[int]
) -> Facts:
    """Return the facts of a run as plain data (JSON).

    Numbers of cells and trains are written as ranges [first, last] of consecutive numbers.

    Parameters
    ----------
    run : str
        Name of the run.
    layout : str
    detector : Integrating
    files : sequence of Path
    expected : sequence of int
        Modules that the detector should have.

    Raises
    ------
    HklflowError
        If a file cannot be read, or no file has frames of the detector.
    """
    parts = by_module(read_parts(layout, files, detector))
    if not parts:
        raise HklflowError(
            f"run {run}: none of its {len(files)} files contains frames of a {detector.name} in "
            f"layout {layout!r}; correct the run's path or its layout"
        )
    everywhere = trains_of([part for parts_of_module in parts.values() for part in parts_of_module])
    outliers = outlier_trains(everywhere)
    trains = np.setdiff1d(everywhere, outliers)
    if len(trains) == 0:
        raise HklflowError(f"run {run}: its files list no trains; leave it out")
    start = find(layout).first_train
    frames = {
        number: valid_frames(parts_of_module, outliers) for number, parts_of_module in parts.items()
    }
    cells = np.unique(np.concatenate([parts_of_module.cell for parts_of_module in frames.values()]))
    return {
        "run": run,
        "layout": layout,
        "detector": detector.name,
        "module_size": list(detector.module),
        "asic_size": list(detector.asic),
        "memory_cells": detector.memory_cells,
        "expected": list(expected),
        "missing": sorted(set(expected) - set(parts)),
        "cells": to_ranges(cells),
        "trains": {
            "first": int(trains[0]),
            "start": int(trains[0] if start is None else start),
            "last": int(trains[-1]),
            "count": len(trains),
            "gaps": _gaps(trains),
            "outliers": to_ranges(outliers),
        },
        "modules": {
            str(number): _module_facts(parts_of_module, frames[number], trains, len(cells))
            for number, parts_of_module in parts.items()
        },
    }


def _module_facts(parts: Sequence[Part], frames: Frames, trains: Trains, cells: int) -> Facts:
    trains_of_module = np.intersect1d(trains_of(parts), trains)
    return {
        "files": [str(part.path) for part in parts],
        "parts": [part.number for part in parts],
        "trains": len(trains_of_module),
        "first": int(trains_of_module[0]) if len(trains_of_module) else None,
        "last": int(trains_of_module[-1]) if len(trains_of_module) else None,
        "shift": int(trains_of_module[0] - trains[0]) if len(trains_of_module) else None,
        "lost_trains": to_ranges(np.setdiff1d(trains, trains_of_module)),
        "frames": len(frames.train),
        "lost_frames": len(trains) * cells - len(frames.train),
    }


def _gaps(trains: Trains) -> Ranges:
    """Return the ranges of missing trains between the first and the last train."""
    numbers = trains.astype(np.int64)
    return [
        [int(numbers[g]) + 1, int(numbers[g + 1]) - 1] for g in np.flatnonzero(np.diff(numbers) > 1)
    ]


def trains_of(parts: Sequence[Part]) -> Trains:
    """Return the trains listed in files, sorted and unique, without `NO_TRAIN`."""
    listed = np.unique(np.concatenate([*(part.trains for part in parts), np.zeros(0, np.uint64)]))
    return listed[listed != NO_TRAIN]


def by_module(parts: Sequence[Part]) -> dict[int, list[Part]]:
    """Group parts by module."""
    modules: dict[int, list[Part]] = {}
    for part in parts:
        modules.setdefault(part.module, []).append(part)
    return modules


@dataclass(frozen=True)
class Run:
    """Facts of a run that `gather` uses.

    Attributes
    ----------
    name, layout : str
    detector : Integrating
    cells : frozenset of int
    first : int
        Train from which steps are counted.
    last : int
        Last train of any module.
    outliers : (t,) uint64 array
    files : dict
        Files of each module.
    """

    name: str
    layout: str
    detector: Integrating
    cells: frozenset[int]
    first: int
    last: int
    outliers: Trains
    files: dict[int, list[Path]]


def read_run(facts: Mapping[str, Any]) -> Run:
    """Read facts that `run_facts` wrote.

    Raises
    ------
    HklflowError
        If these are not facts of a raw run.
    """
    try:
        ss, fs = facts["module_size"]
        asic_ss, asic_fs = facts["asic_size"]
        return Run(
            facts["run"],
            facts["layout"],
            integrating(facts["detector"], (ss, fs), (asic_ss, asic_fs), facts["memory_cells"]),
            frozenset(from_ranges(facts["cells"]).tolist()),
            facts["trains"]["start"],
            facts["trains"]["last"],
            from_ranges(facts["trains"]["outliers"]).astype(np.uint64),
            {int(n): [Path(f) for f in item["files"]] for n, item in facts["modules"].items()},
        )
    except KeyError as error:
        raise HklflowError(
            f"these are not facts of a raw run ({error} is missing); run constants_preprocess again"
        ) from error
