"""Layouts: the same frames give the same bytes, and other readers agree about the files."""

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from pydantic import ValidationError
from tests.constants.raw_runs import (
    AGIPD,
    FIRST,
    JUNGFRAU,
    analog_of,
    change,
    digital_of,
    facts_of,
    gathered,
    images,
    raw,
    require,
    written,
)

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import integrating
from hklflow.constants.gathered import open_gathered
from hklflow.constants.layouts import find, open_part, read_parts
from hklflow.constants.preprocess import by_module, read_run
from hklflow.constants.runs import raw_files
from hklflow.constants.sanity import Raw, check_run
from hklflow.constants.write_layouts import write_lab, write_run, write_stacked
from hklflow.stages import constants_preprocess

CELLS = (0, 1, 2)


def _bytes(tmp_path, name, facts, module, memory=0.05):
    """Bytes of the gathered files (the run's name is the same for all layouts)."""
    paths, _ = gathered(tmp_path / name, [facts], module, memory=memory)
    return [path.read_bytes() for path in paths]


def _require_same_bytes(tmp_path, facts, module, layouts):
    """A module has the same files, one of each of its four ASICs, in so many layouts."""
    first, *others = (
        _bytes(tmp_path / f"g{i}", f"m{module}", item, module) for i, item in enumerate(facts)
    )
    assert len(first) == 4
    assert others == [first] * (layouts - 1)


def _documented_euxfel(folder, module, trains):
    """Files of two sequences as the European XFEL documents them, with nothing of our writers.

    ``image/data`` is (frames, 2, ss, fs), analogue before digital; a train that the module lost
    has no record, and padding follows the last one.
    """
    folder.mkdir()
    paths = []
    for number, part in enumerate((trains[:2], trains[2:])):
        path = folder / f"RAW-R0001-AGIPD{module:02d}-S{number:05d}.h5"
        source = f"SPB_DET_AGIPD1M-1/DET/{module}CH0:xtdf"
        n, ids = len(part), np.array([*(train + FIRST for train in part), 0], np.int64)
        with h5py.File(path, "w") as file:
            file["METADATA/dataFormatVersion"] = [b"1.0"]
            groups = [f"{source}/{name}".encode() for name in ("header", "image")]
            file["METADATA/dataSources/deviceId"] = groups
            file["METADATA/dataSources/root"] = [b"INSTRUMENT"] * 2
            file["METADATA/dataSources/dataSourceId"] = [b"INSTRUMENT/" + g for g in groups]
            file["INDEX/trainId"] = ids.astype(np.uint64)
            file["INDEX/flag"] = np.array([1] * n + [0], np.int32)
            for group, each in (("header", 1), ("image", len(CELLS))):
                index = file.create_group(f"INDEX/{source}/{group}")
                index["first"] = np.array([each * i for i in range(n)] + [0], np.uint64)
                index["count"] = np.array([each] * n + [0], np.uint64)
            header = file.create_group(f"INSTRUMENT/{source}/header")
            header["trainId"] = ids.astype(np.uint64)
            header["pulseCount"] = np.array([len(CELLS)] * n + [0], np.uint64)
            image = file.create_group(f"INSTRUMENT/{source}/image")
            image["trainId"] = np.repeat(ids[:-1].astype(np.uint64), len(CELLS))[:, None]
            image["cellId"] = np.tile(np.array(CELLS, np.uint16), n)[:, None]
            image["pulseId"] = np.tile(np.array(CELLS, np.uint64) * 4, n)[:, None]
            data = np.zeros((n * len(CELLS), 2, *AGIPD.module), np.uint16)
            for frame in range(len(data)):
                train, cell = ids[frame // len(CELLS)], CELLS[frame % len(CELLS)]
                for ss, fs in np.ndindex(AGIPD.module):
                    data[frame, 0, ss, fs] = analog_of(module, ss, fs, cell, train)
                    data[frame, 1, ss, fs] = digital_of(AGIPD, module, ss, fs, cell, train)
            image["data"] = data
        paths.append(path)
    return paths


def _documented_lab(path, module, trains):
    """One file of the laboratory as layout_lab documents it, images in the axes fs and -ss."""
    n_ss, n_fs = AGIPD.module
    frames = [(np.int64(train + FIRST), cell) for train in trains for cell in CELLS]
    analog, digital = np.zeros((2, len(frames), n_fs, n_ss), np.uint16)
    for i, (train, cell) in enumerate(frames):
        for ss, fs in np.ndindex(AGIPD.module):
            where = (i, fs, n_ss - 1 - ss)
            analog[where] = analog_of(module, ss, fs, cell, train)
            digital[where] = digital_of(AGIPD, module, ss, fs, cell, train)
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["module"], file.attrs["part"] = "hklflow_lab", module, 0
        file.attrs["axes"] = ["fs", "-ss"]
        file["analog"], file["digital"] = analog, digital
        file["train"] = np.array([train for train, _ in frames], np.uint64)
        file["cell"] = np.array([cell for _, cell in frames])
    return [path]


def test_files_as_documented_and_as_we_write_them_give_the_same_bytes(tmp_path):
    """AGIPD: files written here from the facility's documentation, pixel by pixel."""
    trains = [0, 1, 2, 4, 5]
    ours = written(tmp_path / "ours", AGIPD, {9: raw(AGIPD, 9, trains, CELLS)}, "euxfel", 2)
    facts = [
        ours,
        facts_of(_documented_euxfel(tmp_path / "r0001", 9, trains), AGIPD, "euxfel", (9,)),
        facts_of(_documented_lab(tmp_path / "lab.h5", 9, trains), AGIPD, "lab", (9,)),
    ]
    _require_same_bytes(tmp_path, facts, 9, 3)
    paths, _ = gathered(tmp_path / "again", [facts[1]], 9)
    require(paths, AGIPD, 9, CELLS, [trains] * 3)


def _toolbox_cfel(folder, module, trains, cells, lost=(), images_per_part=7, run="dark_hg"):
    """Files as the scripts of CFEL write them, from the format's description alone.

    Images one by one, rows and columns of the module (128 x 512 in a real one), analogue before
    digital, all images of the run numbered from 1; parts end anywhere.
    """
    n_columns, n_rows = AGIPD.module
    images, numbers = [], []
    for train in range(max(trains) + 1):
        for cell in range(cells):
            for kind in ("analog", "digital"):
                number = 2 * (train * cells + cell) + (kind == "digital") + 1
                if train not in trains or number in lost:
                    continue
                image = np.zeros((n_rows, n_columns), np.int16)
                for row, column in np.ndindex(image.shape):
                    at = (n_columns - 1 - column, row, cell, np.int64(train + FIRST))
                    if kind == "analog":
                        image[row, column] = analog_of(module, *at)
                    else:
                        image[row, column] = digital_of(AGIPD, module, *at)
                images.append(image)
                numbers.append(number)
    folder.mkdir()
    paths = []
    for part, begin in enumerate(range(0, len(images), images_per_part)):
        path = folder / f"M304_m{module}_{run}_00012_part{part:05d}.nxs"
        with h5py.File(path, "w") as file:
            detector = file.create_group("entry/instrument/detector")
            detector["data"] = np.array(images[begin : begin + images_per_part])
            detector["sequence_number"] = numbers[begin : begin + images_per_part]
            total = 2 * cells * (max(trains) + 1)
            detector["collection/frame_numbers"] = [total]
            detector["collection/total_loss_frames"] = [total - len(images)]
        paths.append(path)
    return paths


def _require_voxels_of_cfel(paths, module, lost, cells=3):
    """Every voxel of the gathered files; ``lost`` are (trigger, cell), from 0."""
    for asic, path in enumerate(paths):
        with open_gathered(path) as found:
            assert found.cell_ids.tolist() == list(range(cells))
            assert found.about.as_modules == (0, 7)
            for cell in range(cells):
                frames = found.cell(cell)
                trains = [t for t in range(6) if (t, cell) not in lost]
                assert frames.step.tolist() == trains
                assert frames.train.tolist() == [t + 1 for t in trains]
                of = np.array(trains) + FIRST
                for kind, images_of in zip(
                    (frames.analog, frames.digital),
                    images(AGIPD, module, np.full(len(of), cell), of),
                    strict=True,
                ):
                    np.testing.assert_array_equal(kind, images_of[:, *AGIPD.box(asic)])


CFEL = replace(AGIPD, memory_cells=3)


def test_files_of_the_scripts_of_cfel(tmp_path):
    """Trigger 3 is lost, and image 2 of the run: the digital part of cell 0 of the first trigger.

    Parts end after 7 images: within triggers, and between the two images of some frames.
    """
    kept = [0, 1, 2, 4, 5]
    paths = _toolbox_cfel(tmp_path / "raw", 2, kept, 3, lost=(2,))
    facts = facts_of(paths, CFEL, "cfel", (2,))
    assert facts["cells"] == [[0, 2]]
    assert facts["memory_cells"] == 3
    assert facts["trains"]["gaps"] == [[4, 4]]
    # 29 images are stored; these are the last of a part whose partner is the first of the next.
    numbers = [n for n in range(1, 37) if n != 2 and not 19 <= n <= 24]
    split = {(n - 1) // 2 for n in numbers[6:-1:7] if n % 2}
    lost = {(0, 0)} | {(3, cell) for cell in range(3)} | {divmod(n, 3) for n in split}
    assert len(split) == 2
    files, gathering = gathered(tmp_path / "out", [facts], 2)
    _require_voxels_of_cfel(files, 2, lost)
    assert gathering.frames == 18 - len(lost)
    run = read_run(facts)
    parts = by_module(read_parts("cfel", paths, CFEL))
    failed = {f.name for f in check_run(Raw(facts, parts)) if not f.passed}
    assert failed == {"no_gaps", "no_lost_pulses"}
    assert run.first == 1


def test_steps_of_cfel_are_counted_from_the_first_trigger_also_if_it_was_lost(tmp_path):
    """Runs of a ramp are matched by their steps."""
    paths = _toolbox_cfel(tmp_path / "raw", 2, [2, 3, 4, 5], 3, images_per_part=100)
    files, _ = gathered(tmp_path / "out", [facts_of(paths, CFEL, "cfel", (2,))], 2)
    _require_voxels_of_cfel(files, 2, {(t, c) for t in (0, 1) for c in range(3)})


def test_files_of_cfel_that_do_not_fit_are_refused(tmp_path):
    paths = _toolbox_cfel(tmp_path / "raw", 2, [0, 1], 3)
    place = "entry/instrument/detector"
    with pytest.raises(HklflowError, match="do not store how many memory cells a trigger fills"):
        facts_of(paths, AGIPD, "cfel")
    with pytest.raises(HklflowError, match=r"a run of 12 images, which is no multiple of 2 x 5"):
        facts_of(paths, replace(AGIPD, memory_cells=5), "cfel")
    with pytest.raises(
        HklflowError, match=r"has images of \(16, 32\) pixels, and modules .* \(8, 8"
    ):
        facts_of(paths, replace(CFEL, module=(8, 8), asic=(4, 4)), "cfel")
    nameless = paths[0].with_name("part0.nxs")
    nameless.write_bytes(paths[0].read_bytes())
    with pytest.raises(HklflowError, match=r"part0\.nxs does not name the position of its module"):
        facts_of([nameless], CFEL, "cfel")
    with h5py.File(paths[0], "r+") as file:
        file[f"{place}/data"][2, 3, 4] = -1
    with pytest.raises(HklflowError, match=r"part00000\.nxs has negative values"):
        gathered(tmp_path / "out", [facts_of(paths, CFEL, "cfel")], 2)
    with h5py.File(paths[0], "r+") as file:
        file[f"{place}/sequence_number"][3] = 3
    with pytest.raises(HklflowError, match="sequence numbers that do not increase"):
        facts_of(paths, CFEL, "cfel")


def test_all_layouts_of_agipd_that_we_write_give_the_same_bytes(tmp_path):
    modules = {m: raw(AGIPD, m, [0, 1, 2, 4, 5], CELLS) for m in (0, 9)}
    modules[9] = modules[9].only(modules[9].train != FIRST + 2)
    facts = [written(tmp_path / n, AGIPD, modules, n, 2) for n in ("euxfel", "lab")]
    for turned in (("fs", "-ss"), ("-fs", "ss"), ("-ss", "-fs")):
        folder = tmp_path / "".join(turned)
        files = write_lab(folder, 1, AGIPD, modules, 3, turned)
        facts.append(facts_of(files, AGIPD, "lab", (0, 9)))
    for module in modules:
        _require_same_bytes(tmp_path, facts, module, 5)


def test_all_layouts_of_jungfrau_give_the_same_bytes(tmp_path):
    modules = {m: raw(JUNGFRAU, m, [0, 1, 3, 4]) for m in (0, 1)}
    facts = [written(tmp_path / n, JUNGFRAU, modules, n, 2) for n in ("euxfel", "lab", "jungfrau")]
    stacked = tmp_path / "stacked.JF07T32V01.h5"
    write_stacked(stacked, JUNGFRAU, list(modules.values()))
    facts.append(facts_of([stacked], JUNGFRAU, "jungfrau", (0, 1)))
    for module in modules:
        _require_same_bytes(tmp_path, facts, module, 4)
        paths, _ = gathered(tmp_path / "again", [facts[-1]], module)
        require(paths, JUNGFRAU, module, (0,), [[0, 1, 3, 4]])


def test_axes_of_the_laboratory_are_where_the_image_says(tmp_path):
    """A lone bright pixel, put by hand where rotated axes want it."""
    frames = raw(AGIPD, 0, [0])
    path = write_lab(tmp_path, 1, AGIPD, {0: frames}, axes=("fs", "-ss"))[0]
    stored = np.ones((1, 32, 16), np.uint16)
    stored[0, 30, 2] = 777  # fs 30; ss falls along the last index: 15 - 2
    with h5py.File(path, "r+") as file:
        file["analog"][...] = stored
    part = read_parts("lab", [path], AGIPD)[0]
    with open_part("lab", part, AGIPD) as read:
        analog, _ = read(0, 1)
    assert np.argwhere(analog[0] == 777).tolist() == [[13, 30]]


def test_frames_that_are_not_good_are_lost(tmp_path):
    path = tmp_path / "a.h5"
    write_stacked(path, JUNGFRAU, [raw(JUNGFRAU, 0, range(4))])
    with h5py.File(path, "r+") as file:
        file["data/JF07T32V01/is_good_frame"][1] = 0
    paths, _ = gathered(tmp_path / "out", [facts_of([path], JUNGFRAU, "jungfrau")], 0)
    require(paths, JUNGFRAU, 0, (0,), [[0, 2, 3]])


def test_files_that_link_others_are_left_out(tmp_path):
    """A run of the slsDetectorPackage has a master file with all frames once more."""
    files = write_run("jungfrau", tmp_path, 1, JUNGFRAU, {1: raw(JUNGFRAU, 1, range(3))})
    with h5py.File(tmp_path / "run_master_1.h5", "w") as file:
        file["entry/data"] = h5py.ExternalLink(files[0].name, "entry/data")
    facts = facts_of(raw_files("", tmp_path), JUNGFRAU, "jungfrau")
    assert list(facts["modules"]) == ["1"]


def test_stacked_files_are_counted_by_name(tmp_path):
    for number in (0, 1):
        frames = raw(JUNGFRAU, 0, [2 * number, 2 * number + 1])
        write_stacked(tmp_path / f"acq{number:04d}.h5", JUNGFRAU, [frames, frames])
    facts = facts_of(sorted(tmp_path.iterdir()), JUNGFRAU, "jungfrau", (0, 1))
    assert facts["modules"]["1"]["parts"] == [0, 1]
    assert facts["trains"]["count"] == 4


def test_burst_of_jungfrau_with_cells_in_any_order(tmp_path):
    cells = (15, 0, 1, 2, 14)
    frames = raw(JUNGFRAU, 3, range(3), cells)
    frames = frames.only(~((frames.train == FIRST + 1) & (frames.cell == 2)))
    files = write_run("euxfel", tmp_path, 1, JUNGFRAU, {3: frames})
    with h5py.File(files[0], "r+") as file:
        data = file["INSTRUMENT/SPB_IRDA_JF4M/DET/JNGFR03:daqOutput/data"]
        for name in ("adc", "gain", "memoryCell"):
            data[name][...] = np.roll(data[name][()], 1, axis=1)
    paths, _ = gathered(tmp_path / "out", [facts_of(files, JUNGFRAU)], 3)
    require(paths, JUNGFRAU, 3, sorted(cells), [range(3)] * 2 + [[0, 2]] + [range(3)] * 2)


# -------------------------------------------------------------- the other reader


@pytest.fixture
def extra_data():
    return pytest.importorskip("extra_data")


def test_extra_data_reads_what_is_written_agipd(tmp_path, extra_data):
    from extra_data.components import AGIPD1M
    from extra_data.validation import RunValidator

    detector = integrating("agipd")
    modules = {m: raw(detector, m, range(3), (0, 4)) for m in (0, 15)}
    modules[15] = modules[15].only(modules[15].train != FIRST + 1)
    written(tmp_path, detector, modules, trains_per_part=2)
    folder = str(tmp_path / "r0001")
    assert RunValidator(folder).run_checks() == []
    run = extra_data.RunDirectory(folder)
    assert run.train_ids == [FIRST, FIRST + 1, FIRST + 2]
    both = AGIPD1M(run, modules=[0], min_modules=1, raw=True).get_array("image.data")
    assert both.dims[:3] == ("module", "train", "pulse")
    both = both.values.reshape(6, 2, *detector.module)
    analog, digital = images(detector, 0, np.tile([0, 4], 3), np.repeat(range(3), 2) + FIRST)
    np.testing.assert_array_equal(both[:, 0], analog)
    np.testing.assert_array_equal(both[:, 1], digital)
    cells = run["SPB_DET_AGIPD1M-1/DET/15CH0:xtdf", "image.cellId"]
    assert cells.ndarray()[:, 0].tolist() == [0, 4, 0, 4]
    assert cells.train_id_coordinates().tolist() == [FIRST, FIRST, FIRST + 2, FIRST + 2]


def test_extra_data_reads_what_is_written_jungfrau(tmp_path, extra_data):
    detector = integrating("jungfrau")
    written(tmp_path, detector, {1: raw(detector, 1, range(2))})
    run = extra_data.RunDirectory(str(tmp_path / "r0001"))
    source = "SPB_IRDA_JF4M/DET/JNGFR01:daqOutput"
    analog, stage = images(detector, 1, [0, 0], np.arange(2) + FIRST)
    np.testing.assert_array_equal(run[source, "data.adc"].ndarray()[:, 0], analog)
    code = np.choose(np.minimum(stage, 3), [0, 1, 3, 2])
    np.testing.assert_array_equal(run[source, "data.gain"].ndarray()[:, 0], code)


@pytest.mark.parametrize("version", ["0.5", "1.0", "1.2"])
def test_mock_files_of_extra_data_agipd(tmp_path, extra_data, version):
    from extra_data.tests.mockdata import write_file
    from extra_data.tests.mockdata.detectors import AGIPDModule

    detector = integrating("agipd")
    path = tmp_path / "RAW-R0012-AGIPD07-S00000.h5"
    # The mock files have padding: trains of number 0 behind the others.
    device = AGIPDModule("SPB_DET_AGIPD1M-1/DET/7CH0", frames_per_train=3)
    write_file(path, [device], ntrains=5, firsttrain=FIRST, chunksize=4, format_version=version)
    analog, digital = images(detector, 7, np.tile(range(3), 5), np.repeat(range(5), 3) + FIRST)
    change(path, image__data=lambda values: np.stack([analog, digital], axis=1))
    facts = facts_of([path], detector, expected=(7,))
    assert facts["trains"]["count"] == 5
    paths, _ = gathered(tmp_path / "out", [facts], 7)
    require(paths, detector, 7, CELLS, [range(5)] * 3)


@pytest.mark.slow
def test_mock_files_of_extra_data_jungfrau(tmp_path, extra_data):
    from extra_data.tests.mockdata import write_file
    from extra_data.tests.mockdata.jungfrau import JUNGFRAUModule

    detector = integrating("jungfrau")
    path = tmp_path / "RAW-R0012-JNGFR03-S00000.h5"
    device = JUNGFRAUModule("SPB_IRDA_JF4M/DET/JNGFR03", raw=True)
    write_file(path, [device], ntrains=1, firsttrain=FIRST, chunksize=1, format_version="1.0")
    analog, stage = images(detector, 3, np.arange(16), np.full(16, FIRST))
    code = np.choose(np.minimum(stage, 3), [0, 1, 3, 2])
    with h5py.File(path, "r+") as file:
        data = file["INSTRUMENT/SPB_IRDA_JF4M/DET/JNGFR03:daqOutput/data"]
        data["memoryCell"][...] = np.arange(16)
        data["adc"][...] = analog.reshape(data["adc"].shape)
        data["gain"][...] = code.reshape(data["gain"].shape)
    paths, _ = gathered(tmp_path / "out", [facts_of([path], detector, expected=(3,))], 3)
    require(paths, detector, 3, range(16), [[0]] * 16)


def test_old_index_of_first_and_last(tmp_path):
    files = write_run("euxfel", tmp_path, 1, AGIPD, {0: raw(AGIPD, 0, range(3), CELLS)})
    with h5py.File(files[0], "r+") as file:
        index = file["INDEX/SPB_DET_AGIPD1M-1/DET/0CH0:xtdf/image"]
        index["last"] = index["first"][()] + index["count"][()] - 1
        index["status"] = np.array([1, 0, 1], np.uint64)
        del index["count"]
    paths, _ = gathered(tmp_path / "out", [facts_of(files)], 0)
    require(paths, AGIPD, 0, CELLS, [[0, 2]] * 3)


# ------------------------------------------------------------------ trigger number 0


def _numbered(layout, path, number, shade):
    """A file of module 0 with these trigger numbers, with nothing of our writers.

    All pixels of a frame are ``shade``.
    """
    detector = AGIPD if layout == "lab" else JUNGFRAU
    frames = np.ones((len(number), *detector.module), np.uint16)
    frames *= np.asarray(shade, np.uint16)[:, None, None]
    with h5py.File(path, "w") as file:
        if layout == "lab":
            file.attrs.update(format="hklflow_lab", module=0, part=0, axes=["ss", "fs"])
            file["analog"], file["digital"] = frames, frames
            file["cell"] = np.zeros(len(number), np.int32)
            file["train"] = np.array(number, np.uint64)
        else:
            file["entry/data/data"] = frames
            file["entry/data/frame number"] = np.array(number, np.uint64)
    return path


@pytest.mark.parametrize("layout", ["lab", "jungfrau"])
def test_a_ramp_in_which_one_run_counts_from_0(tmp_path, layout):
    """Every assembled frame has one step of all runs: its pixels have the same value."""
    detector = AGIPD if layout == "lab" else JUNGFRAU
    facts = []
    for run, first in enumerate((0, 1, 0, 5)):
        path = tmp_path / f"r_d0_f0_{run}.h5"
        _numbered(layout, path, first + np.arange(6), 100 + np.arange(6))
        facts.append(facts_of([path], detector, layout, (0,), f"r{run:04d}"))
    assert [item["trains"]["first"] for item in facts] == [0, 1, 0, 5]
    assert [item["trains"]["count"] for item in facts] == [6] * 4
    parts = by_module(read_parts(layout, [tmp_path / "r_d0_f0_0.h5"], detector))
    assert [found.message for found in check_run(Raw(facts[0], parts)) if not found.passed] == []
    paths, found = gathered(tmp_path / "out", facts, 0, "current_source_20")
    assert (found.frames, found.warning) == (6, "")
    for path in paths:
        with open_gathered(path) as file:
            frames = file.cell(0)
            assert frames.train.tolist() == frames.step.tolist() == [0, 1, 2, 3, 4, 5]
            shades = np.broadcast_to(100 + np.arange(6)[:, None, None], frames.analog.shape)
            np.testing.assert_array_equal(frames.analog, shades)


def test_a_ramp_in_which_one_run_lost_its_first_trigger(tmp_path):
    """In all modules: only the length of the run can show it."""
    facts = []
    for run in range(4):
        path = tmp_path / f"{run}.h5"
        first = 1 if run == 2 else 0
        _numbered("lab", path, np.arange(first, 6), np.arange(100 + first, 106))
        facts.append(facts_of([path], AGIPD, "lab", (0,), f"r{run:04d}"))
    _, found = gathered(tmp_path / "out", facts, 0, "current_source_20")
    told = "the runs r0002 (5) have fewer triggers than the others (6)"
    assert f"current_source_20: {told}" in found.warning
    _, found = gathered(tmp_path / "out", facts[:3:2], 0, "dark_high")  # no step matters
    assert found.warning == ""


@pytest.mark.parametrize("layout", ["lab", "jungfrau"])
def test_frames_that_were_never_written_are_no_trigger_0(tmp_path, layout):
    """Number 0 after other numbers, also in a later file, is told and dropped."""
    detector = AGIPD if layout == "lab" else JUNGFRAU
    paths = [tmp_path / f"r_d0_f{part}_1.h5" for part in (0, 1)]
    _numbered(layout, paths[0], [0, 1, 2], [7, 8, 9])
    _numbered(layout, paths[1], [0, 0], [1, 2])
    if layout == "lab":
        with h5py.File(paths[1], "r+") as file:
            file.attrs["part"] = 1
    facts = facts_of(paths, detector, layout)
    assert [facts["trains"][name] for name in ("first", "last", "count")] == [0, 2, 3]
    told = check_run(Raw(facts, by_module(read_parts(layout, paths, detector))))
    assert [item.name for item in told if not item.passed] == ["no_trailing_zeros"]
    assert "r_d0_f1_1.h5 ends with 2 frames of a train without number" in {i.message for i in told}
    assert gathered(tmp_path / "out", [facts], 0)[1].frames == 3


# --------------------------------------------------------------------- bad input


@pytest.mark.parametrize("layout", ["euxfel", "lab", "jungfrau"])
def test_truncated_file_is_named(tmp_path, layout):
    detector = AGIPD if layout != "jungfrau" else JUNGFRAU
    path = write_run(layout, tmp_path, 1, detector, {0: raw(detector, 0, range(9))})[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(HklflowError, match=rf"{path.name} cannot be read .*; copy it again"):
        facts_of([path], detector, layout)


def test_data_that_cannot_be_read_are_told_while_they_are_gathered(tmp_path):
    path = write_run("lab", tmp_path, 1, AGIPD, {0: raw(AGIPD, 0, range(9))})[0]
    with h5py.File(path, "r+") as file:
        values = file["analog"][()]
        del file["analog"]
        packed = file.create_dataset("analog", data=values, chunks=(1, 16, 32), compression="gzip")
        chunk = packed.id.get_chunk_info(4)
    facts = facts_of([path], AGIPD, "lab")
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with pytest.raises(HklflowError, match=rf"{path.name} cannot be read .*; copy it again"):
        gathered(tmp_path / "out", [facts], 0)


@pytest.mark.parametrize("layout", ["euxfel", "lab", "jungfrau"])
def test_file_of_another_layout_is_named(tmp_path, layout):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["data/values"] = [1]
    with pytest.raises(HklflowError, match=rf"other.h5 is not a raw file of layout '{layout}'"):
        facts_of([path], JUNGFRAU, layout)


@pytest.mark.parametrize("layout", ["euxfel", "lab", "jungfrau"])
def test_size_of_the_images_is_checked(tmp_path, layout):
    detector = AGIPD if layout != "jungfrau" else JUNGFRAU
    path = write_run(layout, tmp_path, 1, detector, {0: raw(detector, 0, [0])})[0]
    other = replace(detector, module=(8, 8), asic=(4, 4))
    with pytest.raises(HklflowError, match=rf"{path.name} has images of .* have \(8, 8\)"):
        facts_of([path], other, layout)


def test_calibrated_files_and_other_shapes_are_refused(tmp_path):
    path = write_run("euxfel", tmp_path, 1, AGIPD, {0: raw(AGIPD, 0, [0], CELLS)})[0]
    change(path, image__data=lambda values: values.astype(np.float32))
    with pytest.raises(HklflowError, match="has calibrated images"):
        facts_of([path])
    change(path, image__data=lambda values: values[:, :1].astype(np.uint16).reshape(3, 16, 32))
    with pytest.raises(HklflowError, match=r"are \(n, 2, ss, fs\), or \(2n, 1, ss, fs\)"):
        facts_of([path])


@pytest.mark.parametrize("parts", [1, 2])
def test_files_of_2017_have_analogue_and_digital_parts_in_turn(tmp_path, parts):
    """Written pixel by pixel: 2 records for each memory cell, numbered through a train.

    The files had a second part that stayed empty (``parts`` 2).
    """
    trains = [0, 1, 2, 4, 5]
    now = _documented_euxfel(tmp_path / "now", 9, trains)
    then = _documented_euxfel(tmp_path / "r0001", 9, trains)
    for path, part in zip(then, (trains[:2], trains[2:]), strict=True):
        n = len(part)
        records = np.zeros((n * 2 * len(CELLS), parts, *AGIPD.module), np.uint16)
        for record in range(len(records)):
            train = np.int64(part[record // (2 * len(CELLS))] + FIRST)
            cell, plane = divmod(record % (2 * len(CELLS)), 2)
            for ss, fs in np.ndindex(AGIPD.module):
                value = analog_of(9, ss, fs, cell, train)
                if plane:
                    value = digital_of(AGIPD, 9, ss, fs, cell, train)
                records[record, 0, ss, fs] = value
        ids = np.repeat(np.array(part, np.uint64) + np.uint64(FIRST), 2 * len(CELLS))
        numbers = np.tile(np.arange(2 * len(CELLS)), n)
        change(
            path,
            image__data=lambda _, new=records: new,
            image__trainId=lambda _, new=ids: new[:, None],
            image__cellId=lambda _, new=numbers: new.astype(np.uint16)[:, None],
            image__pulseId=lambda _, new=numbers: new.astype(np.uint64)[:, None],
            header__pulseCount=lambda values: 2 * values,
            index_first=lambda values: 2 * values,
            index_count=lambda values: 2 * values,
        )
    facts = [facts_of(paths, AGIPD, "euxfel", (9,)) for paths in (then, now)]
    assert facts[0]["trains"] == facts[1]["trains"]
    _require_same_bytes(tmp_path, facts, 9, 2)
    paths, _ = gathered(tmp_path / "again", [facts[0]], 9)
    require(paths, AGIPD, 9, CELLS, [trains] * 3)

    change(then[0], image__cellId=lambda values: np.roll(values, 1))
    with pytest.raises(HklflowError, match=r"do not alternate \(record 0: cellId must be 2c, then"):
        facts_of(then, AGIPD, "euxfel", (9,))


def test_missing_extra_data_says_how_to_get_it(tmp_path, monkeypatch):
    path = write_run("euxfel", tmp_path, 1, AGIPD, {0: raw(AGIPD, 0, [0])})[0]
    monkeypatch.setitem(sys.modules, "extra_data.file_access", None)
    with pytest.raises(HklflowError, match=r"`make setup-xfel` or `pip install .hklflow\[xfel\]"):
        facts_of([path])


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """The plugin of docs/constants.md as an installed distribution."""
    text = (Path(__file__).parents[2] / "docs/constants.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "(Layout)" in c)
    (group, lines), *_ = re.findall(
        r"```toml\n\[project\.entry-points\.\"(.*?)\"\]\n(.*?)```", text, re.DOTALL
    )
    site = tmp_path / "site-packages"
    about = site / "hklflow_bench-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "hklflow_bench.py").write_text(code)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hklflow-bench\nVersion: 1.0\n")
    lines = lines.replace('"', "") + "broken = hklflow_nowhere:Bench\nother = pathlib:Path\n"
    (about / "entry_points.txt").write_text(f"[{group}]\n{lines}lab = hklflow_bench:Bench\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("hklflow_bench", None)


@pytest.mark.usefixtures("bench")
def test_layout_of_a_plugin(tmp_path):
    """Two files with a lost trigger are gathered like any other run."""
    trains = [0, 1, 3, 4]
    frames = raw(AGIPD, 0, trains)
    (tmp_path / "raw").mkdir()
    for name, at in (("a", slice(0, 2)), ("b", slice(2, 4))):
        with h5py.File(tmp_path / f"raw/{name}.h5", "w") as file:
            file["adc"], file["gain"] = frames.analog[at], frames.digital[at]
            file["n"] = frames.train[at]
    run = raw_files("raw", tmp_path)
    given = {"run": "r0001", "detector": "agipd", "modules": (0,)}
    assert constants_preprocess.Params(layout="bench", **given).layout == "bench"
    paths, _ = gathered(tmp_path / "out", [facts_of(run, AGIPD, "bench")], 0)
    require(paths, AGIPD, 0, (0,), [trains])
    with pytest.raises(HklflowError, match=r"layout broken, hklflow_nowhere:Bench, cannot be load"):
        read_parts("broken", [], AGIPD)
    with pytest.raises(HklflowError, match=r"layout other, pathlib:Path, is not a subclass of"):
        read_parts("other", [], AGIPD)
    assert type(find("lab")).__name__ == "Lab", "a plugin does not replace ours"
    with pytest.raises(ValidationError, match="unknown layout 'benhc' of raw files; use bench, "):
        constants_preprocess.Params(layout="benhc", **given)


def test_unknown_layout_and_axes(tmp_path):
    with pytest.raises(HklflowError, match="unknown layout 'desy' of raw files; use euxfel, lab"):
        read_parts("desy", [], AGIPD)
    path = write_lab(tmp_path, 1, AGIPD, {0: raw(AGIPD, 0, [0])})[0]
    with h5py.File(path, "r+") as file:
        file.attrs["axes"] = ["ss", "-ss"]
    with pytest.raises(HklflowError, match=r"has axes \['ss', '-ss'\]"):
        facts_of([path], AGIPD, "lab")


def test_files_of_other_devices_are_left_out(tmp_path):
    files = write_run("euxfel", tmp_path, 1, AGIPD, {0: raw(AGIPD, 0, [0])})
    other = write_run("euxfel", tmp_path, 1, JUNGFRAU, {1: raw(JUNGFRAU, 1, [0])})
    assert list(facts_of([*files, *other])["modules"]) == ["0"]
    with pytest.raises(HklflowError, match="none of its 1 files contains frames of a agipd"):
        facts_of(other)


def test_files_of_a_run_by_folder_file_and_pattern(tmp_path):
    folder = tmp_path / "raw" / "r0001"
    folder.mkdir(parents=True)
    names = ["RAW-R0001-AGIPD01-S00000.h5", "RAW-R0001-AGIPD00-S00001.h5"]
    for name in [*names, "RAW-R0001-DA01-S00000.h5", ".RAW-R0001-AGIPD02-S00000.h5", "notes.txt"]:
        (folder / name).touch()
    whole = [str(folder / name) for name in sorted(names)]
    assert raw_files("raw/r0001", tmp_path) == whole
    assert raw_files(str(folder), tmp_path / "elsewhere") == whole
    assert raw_files("raw/*/*AGIPD*", tmp_path) == whole
    assert raw_files(f"raw/r0001/{names[0]}", tmp_path) == [str(folder / names[0])]
    (folder / "sub").mkdir()
    (folder / "sub" / "b_d0_f0_1.h5").touch()
    (folder / "sub" / "a.hdf5").touch()
    assert raw_files("sub", folder) == [str(folder / "sub" / n) for n in ("a.hdf5", "b_d0_f0_1.h5")]
    with pytest.raises(HklflowError, match="run 'raw/r0002': no HDF5 file at"):
        raw_files("raw/r0002", tmp_path)
    (tmp_path / "raw/r0002").mkdir()
    with pytest.raises(HklflowError, match=r"r0002 contains no file \.h5, \.hdf5, \.nxs; wait"):
        raw_files("raw/r0002", tmp_path)
