"""Facts of a run: cells, files, trains that are no part of it, shifts and losses of modules."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.constants.raw_runs import AGIPD, FIRST, change, facts_of, raw, written

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import integrating
from hklflow.constants.preprocess import read_run
from hklflow.constants.raw_frames import (
    JUMP,
    from_ranges,
    listed,
    one_frame_each,
    outlier_trains,
    to_ranges,
)
from hklflow.constants.runs import raw_files
from hklflow.constants.write_layouts import write_run
from hklflow.stages import constants_preprocess

CELLS = (0, 1, 2, 9)


def test_facts_of_a_run(tmp_path):
    modules = {
        0: raw(AGIPD, 0, range(12), CELLS),
        3: raw(AGIPD, 3, [2, 3, 4, 6, 7, 8, 9, 10], CELLS),
    }
    modules[3] = modules[3].only(~((modules[3].train == FIRST + 8) & (modules[3].cell == 9)))
    files = write_run("euxfel", tmp_path, 1, AGIPD, modules, trains_per_part=4)
    facts = facts_of(files, expected=(0, 1, 3), run="r0017")
    assert facts["run"] == "r0017"
    assert facts["missing"] == [1]
    assert facts["cells"] == [[0, 2], [9, 9]]
    assert facts["trains"] == {
        "first": FIRST,
        "start": FIRST,
        "last": FIRST + 11,
        "count": 12,
        "gaps": [],
        "outliers": [],
    }
    first, other = facts["modules"]["0"], facts["modules"]["3"]
    assert first["parts"] == other["parts"] == [0, 1, 2]
    assert (first["frames"], first["lost_frames"], first["shift"]) == (48, 0, 0)
    assert other["trains"] == 8
    assert other["shift"] == 2
    assert other["lost_trains"] == [
        [FIRST, FIRST + 1],
        [FIRST + 5, FIRST + 5],
        [FIRST + 11, FIRST + 11],
    ]
    assert (other["frames"], other["lost_frames"]) == (31, 17)


def test_outliers_are_no_part_of_the_run(tmp_path):
    facts = written(tmp_path, AGIPD, {0: raw(AGIPD, 0, range(30), CELLS)})
    path = facts["modules"]["0"]["files"][0]

    def strange(trains):
        trains[[4, 9, 29]] = [12, FIRST + 10**9, 0]
        return trains

    change(path, trains=strange, image__trainId=lambda v: strange(v[::4, 0]).repeat(4)[:, None])
    facts = facts_of([path])
    assert facts["trains"]["outliers"] == [[12, 12], [FIRST + 10**9, FIRST + 10**9]]
    assert (facts["trains"]["first"], facts["trains"]["last"]) == (FIRST, FIRST + 28)
    assert facts["trains"]["gaps"] == [[FIRST + 4, FIRST + 4], [FIRST + 9, FIRST + 9]]
    assert facts["modules"]["0"]["frames"] == 27 * 4


def test_a_run_that_paused_is_whole(tmp_path):
    trains = [*range(20), *range(5000, 5010)]
    facts = written(tmp_path, AGIPD, {0: raw(AGIPD, 0, trains)}, trains_per_part=10**4)
    assert facts["trains"]["outliers"] == []
    assert facts["trains"]["gaps"] == [[FIRST + 20, FIRST + 4999]]


def test_facts_stay_small(tmp_path):
    """Stretches, not numbers: 40 000 trains take no more room than 40."""
    sizes = []
    for n in (40, 40_000):
        tiny = raw(AGIPD, 0, [0])
        path = write_run("euxfel", tmp_path / str(n), 1, AGIPD, {0: tiny})[0]
        change(
            path,
            trains=lambda _, n=n: np.arange(n, dtype=np.uint64) + FIRST,
            flag=lambda _, n=n: np.ones(n, np.int32),
            index_first=lambda _, n=n: np.zeros(n, np.uint64),
            index_count=lambda _, n=n: np.eye(1, n, dtype=np.uint64)[0],
        )
        facts = facts_of([path])
        assert facts["trains"]["count"] == n
        sizes.append(len(json.dumps(facts)))
    assert sizes[1] < sizes[0] + 50


def test_facts_are_read_back(tmp_path):
    facts = written(tmp_path, AGIPD, {m: raw(AGIPD, m, range(3), CELLS) for m in (0, 7)})
    run = read_run(json.loads(json.dumps(facts)))
    assert (run.name, run.layout, run.detector) == ("r0001", "euxfel", AGIPD)
    assert run.cells == frozenset(CELLS)
    assert run.first == FIRST
    assert [str(path) for path in run.files[7]] == facts["modules"]["7"]["files"]
    with pytest.raises(HklflowError, match="not facts of a raw run"):
        read_run({"run": "r0001"})


@pytest.mark.slow
def test_mock_run_of_extra_data(tmp_path):
    pytest.importorskip("extra_data")
    from extra_data.tests.make_examples import make_agipd1m_run

    make_agipd1m_run(tmp_path)
    files = raw_files("", tmp_path)
    assert len(files) == 16  # that of the slow control is left out
    facts = facts_of(files, integrating("agipd"), expected=range(16))
    assert facts["cells"] == [[0, 63]]
    assert facts["missing"] == []
    assert (facts["trains"]["first"], facts["trains"]["last"]) == (10000, 10099)
    assert {item["frames"] for item in facts["modules"].values()} == {6400}


def test_files_without_trains_are_refused(tmp_path):
    path = write_run("euxfel", tmp_path, 1, AGIPD, {0: raw(AGIPD, 0, [0])})[0]
    change(path, trains=lambda trains: trains * 0)
    with pytest.raises(HklflowError, match="run r0001: its files list no trains"):
        facts_of([path])


def test_stage_writes_the_facts(tmp_path, capsys):
    files = write_run("lab", tmp_path / "raw", 1, AGIPD, {0: raw(AGIPD, 0, [0, 1, 3], CELLS)})
    facts = tmp_path / "facts.json"
    stage.run(
        constants_preprocess.main,
        inputs=constants_preprocess.Inputs(raw=files),
        outputs=constants_preprocess.Outputs(facts=facts),
        params=constants_preprocess.Params(
            run="gain",
            layout="lab",
            detector="agipd",
            module_size=AGIPD.module,
            asic_size=AGIPD.asic,
            modules=(0,),
        ),
        threads=1,
    )
    found = stage.read_json(facts)
    assert found["modules"]["0"]["frames"] == 12
    assert found["trains"]["gaps"] == [[FIRST + 2, FIRST + 2]]
    assert capsys.readouterr().out == "run gain: 1 modules, 3 trains, 12 frames and 0 lost ones\n"


# -------------------------------------------------------------------------- laws


@settings(deadline=None)
@given(st.sets(st.integers(0, 60)))
def test_ranges_keep_the_numbers(numbers):
    ranges = to_ranges(np.array(sorted(numbers), np.int64))
    assert from_ranges(ranges).tolist() == sorted(numbers)
    assert all(after[0] > before[1] + 1 for before, after in pairwise(ranges))


@settings(deadline=None)
@given(
    st.integers(2, 60),
    st.lists(st.integers(1, 40), max_size=2, unique=True),
    st.integers(10**6, 10**9),
)
def test_far_numbers_are_outliers_wherever_they_are(n, far, start):
    run = np.arange(n) + start
    numbers = [start + n - 1 + k * (JUMP + n) * (-1) ** k for k in far]
    everything = np.unique(np.concatenate([run, numbers]).astype(np.uint64))
    assert outlier_trains(everything).tolist() == sorted(numbers)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_index_lists_what_a_file_without_index_has(counts):
    """An index made from the trains of the frames lists each frame once, with its train."""
    train = np.repeat(np.arange(len(counts)) + 5, counts).astype(np.uint64)
    trains, first, count = one_frame_each(train)
    rows, owner = listed(first, count)
    assert rows.tolist() == list(range(len(train)))
    assert trains[owner].tolist() == train.tolist()
