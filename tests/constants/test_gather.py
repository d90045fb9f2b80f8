"""Gathering: every voxel lands where the formula says, and what was lost is not there."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from tests.constants.raw_runs import (
    AGIPD,
    FIRST,
    JUNGFRAU,
    change,
    facts_of,
    gathered,
    images,
    raw,
    require,
    written,
)

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.constants import simulate
from hklflow.constants.detectors import integrating
from hklflow.constants.files import read_part
from hklflow.constants.gather import driven
from hklflow.constants.gathered import open_gathered
from hklflow.constants.write_layouts import RawFrames, write_run
from hklflow.stages import constants_preprocess, constants_sanity, process_dark
from hklflow.stages import gather as gather_stage

CELLS = (0, 1, 2)


def test_every_voxel_is_where_the_formula_says(tmp_path):
    cells = (0, 3, 5)
    modules = {m: raw(AGIPD, m, range(7), cells) for m in (0, 11)}
    facts = written(tmp_path, AGIPD, modules, trains_per_part=3)
    assert facts["modules"]["11"]["parts"] == [0, 1, 2]
    for module in modules:
        paths, found = gathered(tmp_path / "out", [facts], module)
        require(paths, AGIPD, module, cells, [range(7)] * 3)
        assert (found.frames, found.empty) == (21, 0)


def test_true_size_of_the_module(tmp_path):
    detector = integrating("agipd")
    facts = written(tmp_path, detector, {2: raw(detector, 2, range(2), CELLS)})
    paths, _ = gathered(tmp_path / "out", [facts], 2)
    assert len(paths) == 16
    require(paths, detector, 2, CELLS, [range(2)] * 3)


@pytest.mark.parametrize(
    "lost",
    [[0], [0, 1], [3], [2, 5], [8], [7, 8]],
    ids=["start", "starts", "middle", "two", "end", "ends"],
)
def test_lost_trains_are_dropped_and_steps_kept(tmp_path, lost):
    kept = [t for t in range(9) if t not in lost]
    modules = {0: raw(AGIPD, 0, range(9), CELLS), 1: raw(AGIPD, 1, kept, CELLS)}
    facts = written(tmp_path, AGIPD, modules, trains_per_part=4)
    paths, _ = gathered(tmp_path / "a", [facts], 1)
    require(paths, AGIPD, 1, CELLS, [kept] * 3)
    paths, _ = gathered(tmp_path / "b", [facts], 0)
    require(paths, AGIPD, 0, CELLS, [range(9)] * 3)


def test_lost_frames_of_a_train(tmp_path):
    frames = raw(AGIPD, 0, range(5), CELLS)
    frames = frames.only(~((frames.train == FIRST + 2) & (frames.cell == 1)))
    facts = written(tmp_path, AGIPD, {0: frames})
    assert facts["modules"]["0"]["lost_frames"] == 1
    paths, _ = gathered(tmp_path / "out", [facts], 0)
    require(paths, AGIPD, 0, CELLS, [range(5), [0, 1, 3, 4], range(5)])


def test_empty_frames_are_dropped_but_dark_pixels_are_not(tmp_path):
    frames = raw(AGIPD, 0, range(5), CELLS)
    frames.analog[4] = 0  # train 1, cell 1
    frames.analog[7] = 0  # train 2, cell 1: one pixel has charge
    frames.analog[7, 5, 9] = 12
    facts = written(tmp_path, AGIPD, {0: frames})
    paths, found = gathered(tmp_path / "out", [facts], 0)
    assert (found.frames, found.empty) == (14, 1)
    for asic, path in enumerate(paths):
        with open_gathered(path) as file:
            assert file.frames.tolist() == [5, 4, 5]
            kept = file.cell(1)
            assert kept.step.tolist() == [0, 2, 3, 4]
            np.testing.assert_array_equal(kept.analog[1], frames.analog[7][AGIPD.box(asic)])
            assert file.cell(2).step.tolist() == [0, 1, 2, 3, 4]


def test_what_contradicts_itself_is_dropped(tmp_path):
    facts = written(tmp_path, AGIPD, {0: raw(AGIPD, 0, range(6), CELLS)})
    path = facts["modules"]["0"]["files"][0]

    def at(place, value):
        def make(values):
            values[place] = value
            return values

        return make

    change(
        path,
        header__pulseCount=at(1, 2),
        image__trainId=at(3 * 2, FIRST + 5000),
        flag=at(4, 0),
        image__cellId=at(3 * 5 + 1, 0),
    )
    paths, _ = gathered(tmp_path / "out", [facts], 0)
    with open_gathered(paths[0]) as file:
        assert [file.cell(i).step.tolist() for i in range(3)] == [
            [0, 3, 5],
            [0, 2, 3],
            [0, 2, 3, 5],
        ]
        np.testing.assert_array_equal(
            file.cell(0).analog[-1], raw(AGIPD, 0, [5]).analog[0][AGIPD.box(0)]
        )


def test_missing_module_has_no_frames(tmp_path):
    facts = written(tmp_path, AGIPD, {0: raw(AGIPD, 0, range(3), CELLS)})
    paths, found = gathered(tmp_path / "out", [facts], 5)
    assert found.frames == 0
    require(paths, AGIPD, 5, CELLS, [[], [], []])


def test_a_detector_without_cells_has_cell_0(tmp_path):
    facts = written(tmp_path, JUNGFRAU, {1: raw(JUNGFRAU, 1, [0, 1, 4])}, "jungfrau")
    paths, _ = gathered(tmp_path / "out", [facts], 1)
    require(paths, JUNGFRAU, 1, (0,), [[0, 1, 4]])
    with open_gathered(paths[0]) as file:
        assert file.about.digital == "stage"
        assert 255 in file.cell(0).digital


@pytest.mark.parametrize("memory", [0.001, 0.05, 100])
def test_blocks_are_bounded_by_memory(tmp_path, memory):
    blocks = []

    def shown(items, total):
        for item in items:
            _, block = item
            blocks.append(block.stop - block.start)
            yield item
        assert len(blocks) == total

    facts = written(tmp_path, AGIPD, {0: raw(AGIPD, 0, range(9), CELLS)}, trains_per_part=4)
    paths, _ = gathered(tmp_path / "out", [facts], 0, memory=memory, shown=shown)
    require(paths, AGIPD, 0, CELLS, [range(9)] * 3)
    frame = 16 * 32 * 2 * 2
    assert sum(blocks) == 27
    assert max(blocks) == 1 or max(blocks) * frame < memory * 1e6
    assert (len(blocks) == 1) == (memory == 100)


def test_memory_that_is_used_is_bounded(tmp_path):
    facts = written(tmp_path, AGIPD, {0: raw(AGIPD, 0, range(400), CELLS)})
    peaks = []
    for memory in (0.5, 100):
        tracemalloc.start()
        gathered(tmp_path / "out", [facts], 0, memory=memory)
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    # The lists of frames take some 0.3 MB of it; all the frames are 2.5 MB.
    assert peaks[0] < 1
    assert peaks[1] > 2.5


# ------------------------------------------------------- scans in several runs


def _scan(tmp_path, runs, trains=range(4), lost=()):
    """Facts of runs whose frames differ by their salt; ``lost``: (run, train) that is not there."""
    found = []
    for run in range(runs):
        kept = [t for t in trains if (run, t) not in lost]
        values = raw(AGIPD, 0, kept, CELLS, salt=run)
        # Every run starts with another train; steps count from it.
        frames = replace(values, train=values.train + 1000 * run)
        whole = {0: frames, 1: raw(AGIPD, 1, [1000 * run], CELLS)}
        found.append(written(tmp_path, AGIPD, whole, run=run))
    return found


def _check_scan(paths, facts, steps, driver):
    """Each pixel is of the run that drives it: ``driver`` (ss, fs)."""
    for asic, path in enumerate(paths):
        box = AGIPD.box(asic)
        with open_gathered(path) as file:
            assert file.about.runs == tuple(item["run"] for item in facts)
            for index, cell in enumerate(CELLS):
                frames = file.cell(index)
                assert frames.step.tolist() == list(steps)
                for run in range(len(facts)):
                    wanted = raw(AGIPD, 0, steps, (cell,), salt=run)
                    here = (driver == run)[box]
                    np.testing.assert_array_equal(
                        frames.analog[:, here], wanted.analog[:, *box][:, here]
                    )
                    np.testing.assert_array_equal(
                        frames.digital[:, here], wanted.digital[:, *box][:, here]
                    )


@pytest.mark.parametrize("memory", [0.01, 100])
def test_pulse_capacitor_takes_each_row_from_the_run_that_drives_it(tmp_path, memory):
    facts = _scan(tmp_path, 8)
    paths, _ = gathered(tmp_path / "out", facts, 0, "pulse_capacitor", memory)
    # Rows along fs: 7 6 5 4 3 2 1 0 twice in the upper half, 0 1 2 ... in the lower one.
    rows = [7, 6, 5, 4, 3, 2, 1, 0] * 2 + [0, 1, 2, 3, 4, 5, 6, 7] * 2
    _check_scan(paths, facts, range(4), np.broadcast_to(rows, (16, 32)))


#: Run that drives each pixel in a scan of the current source: columns along ss, the second half
#: of the module turned by 180 degrees.
COLUMNS = np.repeat(np.stack([[0, 1, 2, 3] * 4, [3, 2, 1, 0] * 4], axis=1), 16, axis=1)


def test_current_source_takes_each_column_from_the_run_that_drives_it(tmp_path):
    facts = _scan(tmp_path, 4)
    paths, _ = gathered(tmp_path / "out", facts, 0, "current_source_80")
    _check_scan(paths, facts, range(4), COLUMNS)


def test_steps_that_a_run_lost_are_lost(tmp_path):
    facts = _scan(tmp_path, 4, lost=[(0, 0), (2, 2)])
    paths, _ = gathered(tmp_path / "out", facts, 0, "current_source_20")
    _check_scan(paths, facts, [1, 3], COLUMNS)


@pytest.mark.parametrize(("measure", "runs"), [("pulse_capacitor", 8), ("current_source_20", 4)])
def test_a_scan_drives_a_turned_module_alike(measure, runs):
    """The halves of a module are one another's image under a turn by 180 degrees."""
    each = np.array([driven(measure, run, AGIPD) for run in range(runs)])
    np.testing.assert_array_equal(each, each[:, ::-1, ::-1])
    # Every pixel is driven in one run, and every run drives as many.
    np.testing.assert_array_equal(each.sum(axis=0), np.ones((16, 32)))
    assert each.sum(axis=(1, 2)).tolist() == [16 * 32 // runs] * runs


def test_a_frame_that_is_empty_in_one_run_is_lost(tmp_path):
    facts = _scan(tmp_path, 4)
    change(facts[2]["modules"]["0"]["files"][0], image__data=_blank(4))
    paths, found = gathered(tmp_path / "out", facts, 0, "current_source_20")
    assert found.empty == 1
    with open_gathered(paths[0]) as file:
        assert file.frames.tolist() == [4, 3, 4]
        assert file.cell(1).step.tolist() == [0, 2, 3]


def _blank(frame):
    def make(values):
        values[frame, 0] = 0
        return values

    return make


def test_one_run_of_a_scan_is_taken_as_it_is(tmp_path):
    facts = written(tmp_path, AGIPD, {0: raw(AGIPD, 0, range(4), CELLS)})
    paths, _ = gathered(tmp_path / "out", [facts], 0, "pulse_capacitor")
    require(paths, AGIPD, 0, CELLS, [range(4)] * 3)


@pytest.mark.parametrize(("measure", "runs"), [("pulse_capacitor", 8), ("current_source_20", 4)])
@pytest.mark.parametrize("detector", [AGIPD, JUNGFRAU])
def test_the_runs_drive_every_pixel_once(measure, runs, detector):
    pixels = [driven(measure, i, detector) for i in range(runs)]
    assert (np.sum(pixels, axis=0) == 1).all()


def test_number_of_runs_is_checked(tmp_path):
    facts = [written(tmp_path, AGIPD, {0: raw(AGIPD, 0, [0])}, run=i) for i in range(7)]
    with pytest.raises(HklflowError, match=r"capacitor has 7 runs \(r0000, r0001.* needs 1 or 8"):
        gathered(tmp_path / "out", facts, 0, "pulse_capacitor")


# ------------------------------------------------------- several runs of one measurement


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("measure", ["dark_medium", "xray"])
def test_frames_of_joined_runs_follow_each_other(tmp_path, measure, order):
    """Every frame of every run, at its place, with its own train number; steps go on.

    The laboratory counts the triggers of each run from the same number. The values of a run are
    4 more than those of the run before.
    """
    trains = [[0, 1, 3], [1, 2], [0, 4]]
    facts = [
        written(tmp_path, AGIPD, {5: raw(AGIPD, 5, part, CELLS, salt=4 * i)}, "lab", run=i)
        for i, part in enumerate(trains)
    ]
    paths, found = gathered(tmp_path / "out", [facts[i] for i in order], 5, measure, memory=0.02)
    assert found.frames == 7 * len(CELLS)
    for asic, path in enumerate(paths):
        with open_gathered(path) as file:
            assert file.about.runs == tuple(f"r{i:04d}" for i in order)
            for index, cell in enumerate(CELLS):
                frames, begin, step = file.cell(index), 0, 0
                assert len(frames.train) == 7
                for i in order:
                    rows = slice(begin, begin + len(trains[i]))
                    of = np.array(trains[i]) + FIRST
                    np.testing.assert_array_equal(frames.train[rows], of)
                    np.testing.assert_array_equal(frames.step[rows], step + of - of[0])
                    analog, digital = images(AGIPD, 5, np.full(len(of), cell), of, 4 * i)
                    box = (slice(None), *AGIPD.box(asic))
                    np.testing.assert_array_equal(frames.analog[rows], analog[box])
                    np.testing.assert_array_equal(frames.digital[rows], digital[box])
                    begin, step = rows.stop, step + int(of[-1] - of[0]) + 1


def test_runs_that_cannot_be_joined_are_refused(tmp_path):
    one, two = (
        written(tmp_path / str(i), AGIPD, {0: raw(AGIPD, 0, range(i, 3 + i), CELLS)}, run=i)
        for i in (0, 1)
    )
    with pytest.raises(HklflowError, match=r"the runs r0000 and r0001 share 2 trains of module 0"):
        gathered(tmp_path / "out", [one, two], 0)
    with pytest.raises(HklflowError, match=r"S00000.h5 belongs to the runs r0000 and r0000; its"):
        gathered(tmp_path / "out", [one, one], 0)
    fewer = written(tmp_path / "f", AGIPD, {0: raw(AGIPD, 0, range(9, 12), CELLS[:2])}, run=2)
    with pytest.raises(HklflowError, match=r"r0002 has 2 memory cells .* r0000 has 3 in euxfel"):
        gathered(tmp_path / "out", [one, fewer], 0)


@pytest.mark.parametrize("change_of", ["nothing", "cold", "stage", "some pixels"])
def test_runs_of_other_settings_are_noticed_by_their_means(tmp_path, change_of):
    """Noise of 10 ADU; 8 ADU colder, or another level of the gain, and not a shift of 2 ADU."""
    rng = np.random.default_rng(8)
    offset = rng.normal(5000, 300, (2, len(CELLS), *AGIPD.module))
    facts = []
    for run in range(2):
        n = 40 + 20 * run
        train = np.repeat(np.arange(n) + 1, len(CELLS))
        cell = np.tile(np.arange(len(CELLS)), n)
        mean = offset[:, cell] + (2.0 if change_of == "nothing" else 0.0) * run
        if run and change_of == "cold":
            mean[0] -= 8.0
        if run and change_of == "stage":
            mean[1] += 2000.0
        if run and change_of == "some pixels":
            mean[0][..., rng.random(AGIPD.module) < 0.1] += 500.0
        analog, digital = rng.normal(mean, 10.0).round().astype(np.uint16)
        frames = RawFrames(train, cell, analog, digital)
        facts.append(written(tmp_path, AGIPD, {0: frames}, "lab", run=run))
    if change_of in ("nothing", "some pixels"):  # single pixels are masked by their noise
        assert gathered(tmp_path / "out", facts, 0)[1].frames == 300
    else:
        with pytest.raises(HklflowError, match=r"by .* times their noise between the runs r0000"):
            gathered(tmp_path / "out", facts, 0)


def _dark_frames(n, rng, stage, leak=0.0, lit=slice(None)):
    """Frames of a forced stage; ``leak`` is light in units of the noise, on columns ``lit``."""
    truth = simulate.agipd(np.random.default_rng(1), 2, AGIPD.module)
    energy = np.zeros((n, *AGIPD.module))
    energy[:, :, lit] = leak * 8.0 / 8.0  # keV: noise in ADU over the gain in ADU/keV
    parts = [truth.respond(energy, cell, rng, stage) for cell in range(2)]
    analog, digital = (
        np.stack([part[kind] for part in parts], axis=1).reshape(2 * n, *AGIPD.module)
        for kind in (0, 1)
    )
    return RawFrames(np.repeat(np.arange(n), 2), np.tile([0, 1], n), analog, digital)


def _after(one, other):
    """All frames in one run."""
    train = np.concatenate([one.train, other.train + one.train[-1] + 1])
    pairs = [(one.cell, other.cell), (one.analog, other.analog), (one.digital, other.digital)]
    return RawFrames(train, *(np.concatenate(pair) for pair in pairs))


def _dark_constants(folder, facts_of_high, others):
    gathered_of = {}
    for name, facts in {"high": facts_of_high, **others}.items():
        gathered_of[name] = gathered(folder / name, facts, 5, f"dark_{name}")[0][2]
    path = folder / "dark.nxs"
    process_dark.main(
        inputs=process_dark.Inputs(**gathered_of),
        outputs=process_dark.Outputs(constants=path),
        params=process_dark.Params(),
    )
    return read_part(path)


def test_a_joined_dark_has_the_constants_of_one_run_with_the_same_frames(tmp_path):
    """Equal to the last digit, in either order, with a cosmic ray and triggers from 0."""
    rng = np.random.default_rng(7)
    one, two = (_dark_frames(n, rng, 0) for n in (40, 25))
    two.analog[9, 4:7, 3:20] = 9000
    facts = {
        name: written(tmp_path / name, AGIPD, {5: frames}, "lab", run=run)
        for run, (name, frames) in enumerate(
            {
                "one": one,
                "two": two,
                "both": _after(one, two),
                "medium": _dark_frames(20, rng, 1),
                "low": _dark_frames(20, rng, 2),
            }.items()
        )
    }
    others = {name: [facts[name]] for name in ("medium", "low")}
    known = _dark_constants(tmp_path / "a", [facts["both"]], others)
    assert known.about["frames"][0] == [65, 65]
    for folder, order in (("b", ("one", "two")), ("c", ("two", "one"))):
        joined = _dark_constants(tmp_path / folder, [facts[name] for name in order], others)
        assert joined.about["runs"][0] == [facts[name]["run"] for name in order]
        assert set(joined.quantities) == set(known.quantities)
        for name in known.quantities:
            np.testing.assert_array_equal(joined[name], known[name], err_msg=name)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("lit", [slice(None), slice(0, 8)], ids=["everywhere", "at an edge"])
def test_a_dark_with_a_light_leak_is_not_joined(tmp_path, order, lit):
    rng = np.random.default_rng(8)
    made = [_dark_frames(60, rng, 0), _dark_frames(60, rng, 0, 1.5, lit)]
    facts = [
        written(tmp_path, AGIPD, {0: made[which]}, "lab", run=run)
        for run, which in enumerate(order)
    ]
    with pytest.raises(HklflowError, match=r"by .* times their noise between the runs r0000 and"):
        gathered(tmp_path / "out", facts, 0)


def test_a_copy_of_a_run_is_not_joined(tmp_path):
    """A link to a folder, and a copy under another name in a layout that counts triggers anew."""
    frames = _dark_frames(12, np.random.default_rng(9), 0)
    one, copy = (written(tmp_path, AGIPD, {0: frames}, "lab", run=run) for run in (1, 2))
    with pytest.raises(HklflowError, match=r"the runs r0001 and r0002 have the same frames, which"):
        gathered(tmp_path / "out", [one, copy], 0)
    (tmp_path / "r0003").symlink_to(tmp_path / "r0001")
    link = facts_of(sorted((tmp_path / "r0003").iterdir()), AGIPD, "lab", (0,), "r0003")
    with pytest.raises(HklflowError, match=r"belongs to the runs r0001 and r0003; its frames"):
        gathered(tmp_path / "out", [one, link], 0)


def test_changed_files_are_refused(tmp_path):
    facts = written(tmp_path, AGIPD, {0: raw(AGIPD, 0, range(2), CELLS)})
    change(facts["modules"]["0"]["files"][0], image__cellId=lambda values: values + 7)
    with pytest.raises(HklflowError, match="memory cells that were not there before"):
        gathered(tmp_path / "out", [facts], 0)


# -------------------------------------------------------------------- the stages


def test_stages_from_raw_files_to_gathered_frames(tmp_path, capsys):
    modules = {0: raw(AGIPD, 0, range(5), CELLS), 1: raw(AGIPD, 1, [0, 1, 3, 4], CELLS)}
    files = write_run("euxfel", tmp_path / "raw", 1, AGIPD, modules)
    common = {
        "layout": "euxfel",
        "detector": "agipd",
        "module_size": (16, 32),
        "asic_size": (8, 16),
    }
    facts, report = tmp_path / "facts.json", tmp_path / "sanity.json"
    stage.run(
        constants_preprocess.main,
        inputs=constants_preprocess.Inputs(raw=files),
        outputs=constants_preprocess.Outputs(facts=facts),
        params=constants_preprocess.Params(run="r0001", modules=(0, 1), **common),
        threads=1,
    )
    stage.run(
        constants_sanity.main,
        inputs=constants_sanity.Inputs(raw=files, facts=facts),
        outputs=constants_sanity.Outputs(report=report),
        params=constants_sanity.Params(),
        threads=1,
    )
    paths = [tmp_path / f"m01a{n:02d}.h5" for n in range(4)]
    stage.run(
        gather_stage.main,
        inputs=gather_stage.Inputs(facts=[facts], sanity=[report]),
        outputs=gather_stage.Outputs(gathered=paths),
        params=gather_stage.Params(measure="xray", module=1, **common),
        threads=1,
    )
    require(paths, AGIPD, 1, CELLS, [[0, 1, 3, 4]] * 3)
    assert "12 frames of r0001 gathered, 0 were empty" in capsys.readouterr().out
    wrong = gather_stage.Params(measure="xray", module=1, **(common | {"module_size": (8, 16)}))
    with pytest.raises(HklflowError, match="run constants_preprocess again"):
        gather_stage.main(
            inputs=gather_stage.Inputs(facts=[facts], sanity=[report]),
            outputs=gather_stage.Outputs(gathered=paths),
            params=wrong,
        )
