"""Checks of a raw run: each fault is told by exactly one check, and a healthy run by none."""

import h5py
import numpy as np
import pytest
from tests.constants.raw_runs import AGIPD, FIRST, JUNGFRAU, change, facts_of, raw

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.constants.layouts import read_parts
from hklflow.constants.preprocess import by_module
from hklflow.constants.sanity import CHECKS, Raw, check_run
from hklflow.constants.write_layouts import write_run
from hklflow.stages import constants_sanity

CELLS = (0, 1, 2)
MODULES = (0, 1, 2)
TRAINS = 30
PER_PART = 10
SOURCE = "SPB_DET_AGIPD1M-1/DET/1CH0:xtdf"
IMAGE = ("image__data", "image__trainId", "image__cellId", "image__pulseId")
RECORDS = ("header__trainId", "detector__trainId", "trailer__trainId")


def _run(folder, modules=MODULES, lost=None, keep=None):
    """Files of a run of three modules and three parts; ``lost``: module -> trains it lacks."""
    data = {}
    for module in modules:
        missing = (lost or {}).get(module, ())
        data[module] = raw(AGIPD, module, [t for t in range(TRAINS) if t not in missing], CELLS)
        if keep is not None:
            data[module] = keep(module, data[module])
    return write_run("euxfel", folder, 1, AGIPD, data, PER_PART)


def _failed(files, expected=MODULES, detector=AGIPD, layout="euxfel"):
    facts = facts_of(files, detector, layout, expected)
    parts = by_module(read_parts(layout, files, detector))
    return [found for found in check_run(Raw(facts, parts)) if not found.passed]


def _of(files, module=1, part=1):
    return next(f for f in files if f"AGIPD{module:02d}-S{part:05d}" in f.name)


def _at(place, value):
    def make(values):
        values[place] = value
        return values

    return make


def _append_record(path, train, frames=0, frame_train=0):
    """List one more train at the end of a file, with frames that have cells 0, 1 ..."""

    def longer(value):
        return lambda values: np.append(values, np.asarray([value], values.dtype))

    with h5py.File(path) as file:
        n = len(file[f"INSTRUMENT/{SOURCE}/image/data"])
    change(
        path,
        trains=longer(train),
        flag=longer(1),
        index_first=longer(n),
        index_count=longer(frames),
        header__pulseCount=longer(frames),
        header__trainId=longer(train),
        detector__trainId=longer(train),
        trailer__trainId=longer(train),
    )
    if frames:
        _append_frames(path, frames, frame_train)


def _append_frames(path, frames, train):
    def more(values):
        extra = np.repeat(values[-1:], frames, axis=0)
        return np.concatenate([values, extra])

    change(
        path,
        image__data=more,
        image__pulseId=more,
        image__cellId=lambda v: np.concatenate([v, np.arange(frames, dtype=v.dtype)[:, None]]),
        image__trainId=lambda v: np.concatenate([v, np.full((frames, 1), train, v.dtype)]),
    )


def _insert_record(path, train):
    """List a train without frames between the others."""

    def here(value):
        return lambda values: np.insert(values, 5, value)

    change(
        path,
        trains=here(train),
        flag=here(1),
        index_first=here(0),
        index_count=here(0),
        header__pulseCount=here(0),
        **{name: here(train) for name in RECORDS},
    )


def _swap(path):
    """Two trains of a file change their places, frames and all."""

    def swapped(values):
        values[[3, 4]] = values[[4, 3]]
        return values

    def frames(values):
        values[9:15] = np.concatenate([values[12:15], values[9:12]])
        return values

    change(path, trains=swapped, image__trainId=frames, **dict.fromkeys(RECORDS, swapped))


def _shorter(path, names):
    change(path, **dict.fromkeys(names, lambda values: values[:-1]))


def missing_module(folder):
    return _run(folder, (0, 2))


def unexpected_module(folder):
    return _run(folder, (0, 1, 2, 3))


def lost_file(folder):
    files = _run(folder)
    files.remove(_of(files, 1, 2))
    return files


def lost_first_files(folder):
    files = []
    for path in _run(folder):
        number = int(path.stem[-1]) + 1
        files.append(path.rename(path.with_name(f"{path.stem[:-1]}{number}.h5x")))
    return [path.rename(path.with_suffix(".h5")) for path in files]


def cells_too_few(folder):
    files = _run(folder)
    _shorter(_of(files, 1, 2), ["image__cellId", "image__pulseId"])
    return files


def trailer_too_short(folder):
    files = _run(folder)
    _shorter(_of(files), ["trailer__trainId"])
    return files


def cut_data(folder):
    files = _run(folder)
    _shorter(_of(files), IMAGE)
    return files


def surplus(folder):
    files = _run(folder)
    _append_frames(_of(files), 2, FIRST + 19)
    return files


def frame_of_another_train(folder):
    files = _run(folder)
    change(_of(files), image__trainId=_at(7, FIRST + 15))
    return files


def header_counts_otherwise(folder):
    files = _run(folder)
    change(_of(files), header__pulseCount=_at(4, 2))
    return files


def swapped_trains(folder):
    files = _run(folder)
    _swap(_of(files))
    return files


def zero_between(folder):
    files = _run(folder)
    _insert_record(_of(files), 0)
    return files


def zero_at_the_end(folder):
    files = _run(folder)
    _append_record(_of(files, 1, 2), 0, 3, 0)
    return files


def suspect(folder):
    files = _run(folder)
    change(_of(files), flag=_at(3, 0))
    return files


def far_train(folder):
    files = _run(folder)
    _append_record(_of(files, 1, 2), FIRST + 10**7, 3, FIRST + 10**7)
    return files


def far_train_between(folder):
    files = _run(folder)
    _insert_record(_of(files), FIRST + 10**7)
    return files


def late(folder):
    return _run(folder, lost={1: (0,)})


def early(folder):
    return _run(folder, lost={1: (28, 29)})


def train_lost_by_one(folder):
    return _run(folder, lost={1: (4, 20)})


def train_lost_by_all(folder):
    return _run(folder, lost=dict.fromkeys(MODULES, (4,)))


def pulses_lost(folder):
    def keep(module, frames):
        lost = (module == 1) & (frames.train == FIRST + 13) & (frames.cell == 2)
        return frames.only(~lost)

    return _run(folder, keep=keep)


def cell_twice(folder):
    files = _run(folder)
    change(_of(files), image__cellId=_at(7, 0))
    return files


def other_cells(folder):
    files = _run(folder)
    for part in range(3):
        change(_of(files, 1, part), image__cellId=lambda values: values + 1)
    return files


FAULTS = {
    missing_module: "modules_complete",
    unexpected_module: "modules_complete",
    lost_file: "parts_equal",
    lost_first_files: "parts_in_row",
    cells_too_few: "frame_arrays_equal",
    trailer_too_short: "train_arrays_equal",
    cut_data: "index_within_data",
    surplus: "no_surplus_frames",
    frame_of_another_train: "frame_trains",
    header_counts_otherwise: "pulses_counted",
    swapped_trains: "trains_rising",
    zero_between: "no_embedded_zeros",
    zero_at_the_end: "no_trailing_zeros",
    suspect: "no_suspect_trains",
    far_train: "no_outliers",
    far_train_between: "no_outliers",
    late: "modules_aligned",
    early: "modules_aligned",
    train_lost_by_one: "no_lost_trains",
    train_lost_by_all: "no_gaps",
    pulses_lost: "no_lost_pulses",
    cell_twice: "cells_once",
    other_cells: "cells_equal",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_told_by_exactly_its_check(tmp_path, fault):
    found = _failed(fault(tmp_path))
    assert [item.name for item in found] == [FAULTS[fault]]
    told = found[0].message
    assert "\n" not in told
    # It names the module or the file, or what is wrong with the run as a whole.
    assert any(word in told for word in ("module", "AGIPD01", "trains", "numbered"))


def test_every_check_has_its_fault():
    assert set(FAULTS.values()) == set(CHECKS)


def test_healthy_run_fails_no_check(tmp_path):
    assert _failed(_run(tmp_path)) == []


@pytest.mark.parametrize(
    ("layout", "detector", "cells"),
    [
        ("lab", AGIPD, CELLS),
        ("lab", JUNGFRAU, (0,)),
        ("jungfrau", JUNGFRAU, (0,)),
        ("euxfel", JUNGFRAU, (0, 1)),
    ],
)
def test_healthy_runs_of_other_layouts_fail_no_check(tmp_path, layout, detector, cells):
    modules = {m: raw(detector, m, range(9), cells) for m in MODULES}
    files = write_run(layout, tmp_path, 1, detector, modules, 3)
    assert _failed(files, MODULES, detector, layout) == []


def test_mock_run_of_extra_data_is_healthy(tmp_path):
    pytest.importorskip("extra_data")
    from extra_data.tests.mockdata import write_file
    from extra_data.tests.mockdata.detectors import AGIPDModule

    from hklflow.constants.detectors import integrating

    files = []
    for module in (0, 1):
        files.append(tmp_path / f"RAW-R0012-AGIPD{module:02d}-S00000.h5")
        device = AGIPDModule(f"SPB_DET_AGIPD1M-1/DET/{module}CH0", frames_per_train=3)
        write_file(files[-1], [device], ntrains=5, chunksize=4, format_version="1.0")
    assert _failed(files, (0, 1), integrating("agipd")) == []


# --------------------------------------------------------------------- the stage


def _stage(tmp_path, files, **params):
    facts, report = tmp_path / "facts.json", tmp_path / "report.json"
    stage.write_json(facts, facts_of(files, expected=MODULES))
    stage.run(
        constants_sanity.main,
        inputs=constants_sanity.Inputs(raw=files, facts=facts),
        outputs=constants_sanity.Outputs(report=report),
        params=constants_sanity.Params(**params),
        threads=1,
    )
    return {item["name"]: item for item in stage.read_json(report)["checks"]}


def test_warnings_are_reported_and_errors_end_the_stage(tmp_path, capsys):
    files = _run(tmp_path, lost={1: (0, 4)})
    checks = _stage(tmp_path, files)
    assert list(checks) == list(CHECKS)
    failed = [name for name, item in checks.items() if not item["passed"]]
    assert failed == ["modules_aligned", "no_lost_trains"]
    assert checks["no_lost_trains"]["severity"] == "warning"
    assert "warning: no_lost_trains: module 1 lacks 1 of 30 trains" in capsys.readouterr().out
    for strict in (("no_lost_trains", "modules_aligned", "no_gaps"), ("all",)):
        with pytest.raises(
            HklflowError, match=r"r0001 fails 2 of \d+ checks \(modules_aligned: .*"
        ):
            _stage(tmp_path, files, strict=strict)


def test_errors_can_be_ignored_by_name(tmp_path):
    files = cut_data(tmp_path)
    with pytest.raises(HklflowError, match=r"AGIPD01-S00001\.h5 lists 1 frames"):
        _stage(tmp_path, files)
    checks = _stage(tmp_path, files, ignore=("index_within_data",))
    assert not checks["index_within_data"]["passed"]


def test_names_of_checks_are_checked(tmp_path):
    files = _run(tmp_path)
    with pytest.raises(HklflowError, match="unknown check lost_trains; use"):
        _stage(tmp_path, files, strict=("lost_trains",))
