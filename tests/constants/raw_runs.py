"""Raw runs whose every pixel is known by a formula, and what they must be gathered to."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.constants.detectors import Integrating, integrating
from hklflow.constants.gather import Gathering, gather
from hklflow.constants.gathered import open_gathered
from hklflow.constants.preprocess import read_run, run_facts
from hklflow.constants.write_layouts import RawFrames, write_run

AGIPD = integrating("agipd", (16, 32), (8, 16))
JUNGFRAU = integrating("jungfrau", (8, 16), (4, 8))
FIRST = 700_000_000


def analog_of(module, row, column, cell, train, salt=0):
    """Analogue value of a voxel, never 0."""
    value = module * 7919 + row * 131 + column * 17 + cell * 1009 + train * 37 + salt * 4001
    return (value % 16000 + 1).astype(np.uint16)


def digital_of(detector, module, row, column, cell, train, salt=0):
    if detector.codes:
        stage = (module + row + 2 * column + cell + train + salt) % 4
        return np.where(stage == 3, 255, stage).astype(np.uint16)
    return ((module * 31 + row * 7 + column * 3 + cell * 11 + train * 5 + salt) % 9000).astype(
        np.uint16
    )


def images(detector, module, cell, train, salt=0):
    """Analogue and digital images (n, ss, fs) of frames of these cells and trains."""
    cell, train = (np.asarray(v, np.int64)[:, None, None] for v in (cell, train))
    row, column = np.indices(detector.module)
    return (
        analog_of(module, row, column, cell, train, salt),
        digital_of(detector, module, row, column, cell, train, salt),
    )


def raw(
    detector: Integrating,
    module: int,
    trains: Sequence[int],
    cells: Sequence[int] = (0,),
    salt: int = 0,
) -> RawFrames:
    """Frames of a module, all cells of all trains (counted from FIRST)."""
    train = np.repeat(np.asarray(trains, np.int64) + FIRST, len(cells))
    cell = np.tile(np.asarray(cells), len(trains))
    return RawFrames(train, cell, *images(detector, module, cell, train, salt))


def facts_of(files, detector=AGIPD, layout="euxfel", expected=(0,), run="r0001"):
    return run_facts(run, layout, detector, [Path(file) for file in files], expected)


def written(folder, detector, modules, layout="euxfel", trains_per_part=256, run=1):
    """Write a run and give its facts."""
    files = write_run(layout, folder / f"r{run:04d}", run, detector, modules, trains_per_part)
    return facts_of(files, detector, layout, tuple(modules), f"r{run:04d}")


def gathered(
    folder: Path, facts, module: int, measure: str = "dark_high", memory: float = 100, shown=None
) -> tuple[list[Path], Gathering]:
    runs = [read_run(item) for item in facts]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"asic{n}.h5" for n in range(runs[0].detector.asics)]
    more = {} if shown is None else {"shown": shown}
    return paths, gather(runs, measure, module, paths, memory, **more)


def require(paths, detector, module, cells, trains, salt: NDArray | int = 0, first=0):
    """Every voxel of the files of a module is where the formula says.

    ``trains``: those of each cell, counted from FIRST.
    """
    for asic, path in enumerate(paths):
        box = detector.box(asic)
        with open_gathered(path) as found:
            assert (found.about.module, found.about.asic) == (module, asic)
            assert found.cell_ids.tolist() == list(cells)
            for index, cell in enumerate(cells):
                frames = found.cell(index)
                wanted = np.asarray(trains[index], np.int64) + FIRST
                np.testing.assert_array_equal(frames.train, wanted)
                np.testing.assert_array_equal(frames.step, wanted - FIRST - first)
                analog, digital = images(detector, module, np.full(len(wanted), cell), wanted, salt)
                np.testing.assert_array_equal(frames.analog, analog[:, *box])
                np.testing.assert_array_equal(frames.digital, digital[:, *box])


def change(path, **changes):
    """Replace datasets of a raw file of the European XFEL by what functions make of them.

    Names are those below the module's source, or ``index_first``, ``index_count``, ``trains``.
    """
    with h5py.File(path, "r+") as file:
        top = "SPB_DET_AGIPD1M-1/DET"
        source = f"{top}/{next(iter(file[f'INSTRUMENT/{top}']))}"
        places = {
            "trains": "INDEX/trainId",
            "flag": "INDEX/flag",
            "index_first": f"INDEX/{source}/image/first",
            "index_count": f"INDEX/{source}/image/count",
        }
        for name, make in changes.items():
            place = places.get(name, f"INSTRUMENT/{source}/" + name.replace("__", "/"))
            values = make(file[place][()])
            del file[place]
            file[place] = values
