"""Import of NXRefine's experiments: geometry against the simulator, files that are incomplete."""

import shutil

import h5py
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.beamlines.nxrefine import plugin
from hklflow.geometry import Beam, Rotation, Scan

from .examples import Example, example
from .nxrefine_layout import small, write

ALL = {("hexa", scan, rotation) for scan in ("300K", "100K") for rotation in ("f1", "f2")}


@example("nxrefine")
def make(folder):
    return Example(write(folder, small()), ALL)


@pytest.fixture(scope="module")
def layout():
    return small(nan_frames=(3,))


@pytest.fixture(scope="module")
def whole(layout, tmp_path_factory):
    return write(tmp_path_factory.mktemp("nxrefine") / "EXP", layout)


@pytest.fixture
def exp(whole, tmp_path):
    """A copy to break."""
    return shutil.copytree(whole, tmp_path / "EXP")


def find(source, **more):
    return plugin.find(Request(source, **more))


def names(found):
    return {(one.sample, one.scan, one.rotation) for one in found.scans}


def wrapper(exp, scan="300K"):
    return h5py.File(exp / f"hexa/crystal1/hexa_{scan}.nxs", "r+")


def seen(one):
    """Random frames and pixels, and the Miller coordinates that the import gives them."""
    header = one.header
    scan = Scan(np.radians(header.start_deg), np.radians(header.step_deg), header.n_frames)
    rotation = Rotation(Beam(header.wavelength), header.detector, header.goniometer, scan)
    draw = np.random.default_rng(1).uniform
    frame, slow, fast = draw(0, header.n_frames, 50), draw(0, 150, 50), draw(0, 150, 50)
    return frame, slow, fast, rotation.hkl(one.ub, frame, slow, fast)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("cell", [(4.75, 4.75, 7.2, 90, 90, 120), (4.1, 5.2, 6.3, 80, 95, 103)])
def test_geometry_and_orientation_are_the_simulators(tmp_path, flip, cell):
    layout = small(flip=flip, cell=cell, scans={"300K": 300.0}, n_frames=2)
    found = find(write(tmp_path / "EXP", layout))
    assert len(found.scans) == 2
    for one in found.scans:
        simulation = layout.simulation(one.scan, one.rotation)
        # The matrix goes with NXRefine's B.
        assert not any("reciprocal axes" in note for note in one.notes)
        frame, slow, fast, hkl = seen(one)
        there = layout.detector.shape[0] - slow if flip else slow
        np.testing.assert_allclose(hkl, simulation.hkl(frame, there, fast), atol=1e-9)


def test_measurement(whole, layout):
    found = find(whole)
    assert names(found) == ALL
    for one in found.scans:
        simulation = layout.simulation(one.scan, one.rotation)
        header = one.header
        np.testing.assert_allclose(header.monitor, simulation.scan.monitor)
        assert header.transmission == pytest.approx(0.8)
        assert header.exposure_time == pytest.approx(0.1)
        assert header.temperature == layout.scans[one.scan]
        assert header.wavelength == layout.wavelength
        # pyFAI's factor 0.99 = (horizontal - vertical) / (horizontal + vertical)
        assert header.polarization == pytest.approx(0.995)
        np.testing.assert_array_equal(header.pixel_mask, simulation.detector.gap_mask)
        assert header.n_frames == 12


def test_skewed_cells_are_told(whole):
    """B of NXRefine is not that of reciprocal axes: its fit makes up for it, without a rotation."""
    (first, *_) = find(whole).scans
    assert any("not a rotation" in note for note in first.notes)
    u = first.ub @ np.linalg.inv(_b((4.75, 4.75, 7.2)))
    assert np.abs(u @ u.T - np.eye(3)).max() < 0.01  # it cooled down: the cell is smaller


def _b(lengths):
    """Hexagonal B by hand: a* along x at 30 degrees from a."""
    a, _, c = lengths
    star = 2 * np.pi / (a * np.sqrt(0.75))
    return np.array([[star, star / 2, 0], [0, star * np.sqrt(0.75), 0], [0, 0, 2 * np.pi / c]])


def test_parent_settings_and_sample(whole):
    found = find(whole)
    assert {one.parent for one in found.scans} == {"300K"}
    assert any("orientation in hexa_scans.nxs" in note for note in found.notes)
    assert found.settings == {
        "hexa/300K": {
            "find_peaks": {"threshold": 40.0},
            "import_scan": {"first_frame": 0, "last_frame": 9},
            "frame_scale": {"source": "background"},
            "refine_parent": {"grid_step": [0.1, 0.1, 0.1], "grid_limits": [3.0, 3.0, 3.0]},
        },
        # NXRefine's settings of the parent are for every scan; ours of the raw files are not.
        "hexa/100K": {"import_scan": {"first_frame": 0, "last_frame": 9}},
    }
    sample = found.samples["hexa"]
    assert sample.space_group == "P 6/m m m"
    assert sample.formula == "BaTiO3"
    np.testing.assert_allclose(sample.cell, (4.75, 4.75, 7.2, 90, 90, 120))


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("hexa", ALL),
        ("hexa/crystal1", ALL),
        ("hexa/crystal1/hexa_scans.nxs", ALL),
        ("hexa/crystal1/hexa_100K.nxs", {one for one in ALL if one[1] == "100K"}),
    ],
)
def test_any_part_of_an_experiment_is_a_source(whole, inner, expected):
    found = find(whole / inner)
    assert names(found) == expected
    assert not found.unmatched
    # Settings are the parent's, wherever one begins.
    assert set(found.settings) == {"/".join(one[:2]) for one in expected}
    for sections in found.settings.values():
        assert sections["import_scan"] == {"first_frame": 0, "last_frame": 9}
    (threshold,) = [s["find_peaks"] for s in found.settings.values() if "find_peaks" in s]
    assert threshold == {"threshold": 40.0}


def test_scans_by_name_and_another_sample(whole):
    found = find(whole, scans=frozenset({"100K"}), sample="PZN")
    assert {one[:2] for one in names(found)} == {("PZN", "100K")}


def test_two_crystals_of_a_sample_are_two_samples(exp):
    shutil.copytree(exp / "hexa/crystal1", exp / "hexa/crystal2")
    found = find(exp)
    assert {one.sample for one in found.scans} == {"hexa-crystal1", "hexa-crystal2"}
    assert len(found.scans) == 8


def test_missing_frames_have_candidates(exp):
    (exp / "hexa/crystal1/300K/f2.h5").rename(exp / "hexa/crystal1/300K/f02.h5")
    found = find(exp)
    assert names(found) == ALL - {("hexa", "300K", "f2")}
    lost, unlinked = found.unmatched
    assert "300K/f2.h5, which does not exist" in lost.why
    assert lost.candidates[:2] == ("300K/f02.h5", "300K/f1.h5")
    assert "f02.h5" in unlinked.what


def test_frames_that_nobody_describes(exp):
    shutil.copy(exp / "hexa/crystal1/300K/f2.h5", exp / "hexa/crystal1/300K/f3.h5")
    found = find(exp)
    assert names(found) == ALL
    (lost,) = found.unmatched
    assert "has no rotation f3" in lost.why


def test_a_dead_link_gives_way_to_the_usual_place(exp, tmp_path):
    with wrapper(exp) as file:
        del file["f1/data/data"]
        file["f1/data/data"] = h5py.ExternalLink("/old/machine/f1.h5", "/entry/data/data")
        del file["f2/data/data"]
        file["f2/data/data"] = h5py.ExternalLink("/old/machine/f2.h5", "/entry/data/data")
    (tmp_path / "moved/300K").mkdir(parents=True)
    (exp / "hexa/crystal1/300K/f2.h5").rename(tmp_path / "moved/300K/f2.h5")
    found = find(exp, raw=str(tmp_path / "moved"))
    assert names(found) == ALL
    raws = {(one.scan, one.rotation): one for one in found.scans}
    assert raws["300K", "f1"].raw == str(exp / "hexa/crystal1/300K/f1.h5")
    assert raws["300K", "f2"].raw == str(tmp_path / "moved/300K/f2.h5")
    assert "/old/machine/f1.h5" in raws["300K", "f1"].notes[0]
    assert len(find(exp).unmatched) == 1


def test_other_numbers_of_frames(exp):
    path = exp / "hexa/crystal1/300K/f1.h5"
    with h5py.File(path, "r+") as file:
        file["entry/data/data"].resize(11, axis=0)
    found = find(exp)
    assert names(found) == ALL - {("hexa", "300K", "f1")}
    assert "12 values for 11 frames" in found.unmatched[0].why
    with wrapper(exp) as file:
        del file["f1/monitor"], file["f1/instrument/filter"]
    (one,) = [x for x in find(exp).scans if (x.scan, x.rotation) == ("300K", "f1")]
    assert one.header.n_frames == 11
    told = " ".join(one.notes)
    assert "expects 12 frames" in told
    assert "no monitor" in told


def test_registered_scans_without_a_file_and_unselected_ones(exp):
    with h5py.File(exp / "hexa/crystal1/hexa_scans.nxs", "r+") as file:
        registry = file["entry/nxscans"]
        del registry["scans"], registry["selected"]
        registry["scans"] = np.array(
            ["hexa_300K", "hexa_100K", "hexa_50K"], dtype=h5py.string_dtype()
        )
        registry["selected"] = np.array([True, False, True])
    found = find(exp)
    assert {one.scan for one in found.scans} == {"300K"}
    (lost,) = found.unmatched
    assert lost.what == "hexa_50K.nxs"
    assert "left out, not selected in NXRefine: hexa_100K" in " ".join(found.notes)
    chosen = find(exp, scans=frozenset({"100K"}))
    assert {one.scan for one in chosen.scans} == {"100K"}


def test_without_an_orientation_the_parent_is_a_guess(exp):
    for name in ("hexa_300K", "hexa_100K", "hexa_scans"):
        with h5py.File(exp / f"hexa/crystal1/{name}.nxs", "r+") as file:
            for rotation in ("f1", "f2"):
                del file[f"{rotation}/instrument/detector/orientation_matrix"]
    found = find(exp)
    assert {one.parent for one in found.scans} == {"300K"}
    assert all(one.ub is None for one in found.scans)
    assert "a guess" in " ".join(found.notes)


def test_the_monitor_has_a_name(exp):
    with wrapper(exp) as file:
        counts = file["f1/monitor/MCS1"][()]
        file["f1/monitor/MCS2"] = 2 * counts
        counts[[0, -1]] = 0
        file["f1/monitor/MCS1"][...] = counts
    scans = {(one.scan, one.rotation): one for one in find(exp).scans}
    first = scans["300K", "f1"]
    np.testing.assert_allclose(first.header.monitor[[0, -1]], counts[[1, -2]])
    assert "neighbour" in " ".join(first.notes)
    second = find(exp, monitor="MCS2").scans
    monitors = {(one.scan, one.rotation): one.header.monitor for one in second}
    np.testing.assert_allclose(monitors["300K", "f1"][1:-1], 2 * counts[1:-1])


def test_tilts_of_pyfai_that_were_taken_over_as_they_are(exp):
    with wrapper(exp) as file:
        for rotation, off in (("f1", 0.0), ("f2", 0.1)):
            detector = file[f"{rotation}/instrument/detector"]
            place = file.create_group(f"{rotation}/instrument/calibration/refinement/parameters")
            place["Rot1"] = np.radians(detector["yaw"][()] + off)
            place["Rot2"] = np.radians(detector["pitch"][()])
    told = {(one.scan, one.rotation): " ".join(one.notes) for one in find(exp).scans}
    assert "pyFAI's rotations" in told["300K", "f1"]
    assert "the beam centre, if it is pyFAI's too, is half a pixel off" in told["300K", "f1"]
    assert "half a pixel off" not in told["300K", "f2"]
    assert "pyFAI's rotations" not in told["300K", "f2"]  # refined since
    assert "pyFAI's rotations" not in told["100K", "f1"]


def test_settings_of_the_experiment_where_the_parent_has_none(exp):
    with h5py.File(exp / "hexa/crystal1/hexa_scans.nxs", "r+") as file:
        del file["entry/nxscans/settings"]
        del file["entry/nxscans/transform"]
    found = find(exp)
    # Of the 3640 frames that the settings speak of there are 12: both ends are beyond, or stay.
    for scan in ("300K", "100K"):
        assert found.settings[f"hexa/{scan}"]["import_scan"] == {"first_frame": 10}
    assert "refine_parent" not in found.settings["hexa/300K"]
    assert "last_frame 3640 of NXRefine is left out for 100K" in " ".join(found.notes)
    (exp / "tasks/settings.ini").write_text("[nxreduce]\nfirst_frame = ten\n")
    with pytest.raises(
        HklflowError, match="first_frame in NXRefine's settings has the invalid value 'ten'"
    ):
        find(exp)


def test_frames_that_are_used_are_in_all_rotations_of_a_scan(exp):
    """NXRefine's first frame, 10, is beyond the 9 frames of one of the two rotations at 300 K."""
    with h5py.File(exp / "hexa/crystal1/hexa_scans.nxs", "r+") as file:
        del file["entry/nxscans/settings"]
    with h5py.File(exp / "hexa/crystal1/300K/f1.h5", "r+") as file:
        file["entry/data/data"].resize(9, axis=0)
    with wrapper(exp) as file:
        del file["f1/monitor"], file["f1/instrument/filter"]
    found = find(exp)
    assert names(found) == ALL
    assert found.settings["hexa/100K"]["import_scan"] == {"first_frame": 10}
    assert "import_scan" not in found.settings["hexa/300K"]
    assert "first_frame 10 of NXRefine is left out for 300K, which has only 9 frames" in found.notes


def test_a_grid_that_is_not_symmetric(exp):
    with h5py.File(exp / "hexa/crystal1/hexa_scans.nxs", "r+") as file:
        axes = file["entry/nxscans/transform"]
        del axes["Qh"]
        axes["Qh"] = np.arange(-2.0, 4.001, 0.05)
    found = find(exp)
    grid = found.settings["hexa/300K"]["refine_parent"]
    ranges = [[-2.0, 4.0], [-3.0, 3.0], [-3.0, 3.0]]
    assert grid == {"grid_step": [0.05, 0.1, 0.1], "grid_range": ranges}


@pytest.mark.parametrize(("units", "expected"), [("K", 20.0), ("C", 293.15), ("degC", 293.15)])
def test_temperatures(exp, units, expected):
    with wrapper(exp) as file:
        del file["entry/sample/temperature"]
        file["entry/sample/temperature"] = 20.0
        file["entry/sample/temperature"].attrs["units"] = units
    temperatures = {one.scan: one.header.temperature for one in find(exp).scans}
    assert temperatures["300K"] == pytest.approx(expected)


def _temperature_in_mv(file):
    file["entry/sample/temperature"].attrs["units"] = "mV"


def _mask_of_another_detector(file):
    for rotation in ("f1", "f2"):
        del file[f"{rotation}/instrument/detector/pixel_mask"]
        file[f"{rotation}/instrument/detector/pixel_mask"] = np.zeros((5, 5), np.int8)


def _shape_of_another_detector(file):
    for rotation in ("f1", "f2"):
        file[f"{rotation}/instrument/detector/shape"][...] = [7, 7]


def _infinite_wavelength(file):
    for rotation in ("f1", "f2"):
        file[f"{rotation}/instrument/monochromator/wavelength"][...] = np.inf


def _no_phi(file):
    for rotation in ("f1", "f2"):
        del file[f"{rotation}/instrument/goniometer/phi"]


def _filter_of_other_length(file):
    for rotation in ("f1", "f2"):
        del file[f"{rotation}/instrument/filter/transmission"]
        file[f"{rotation}/instrument/filter/transmission"] = np.ones(5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_temperature_in_mv, "is in 'mv'"),
        (_mask_of_another_detector, r"pixel mask is \(5, 5\)"),
        (_shape_of_another_detector, "detector"),
        (_infinite_wavelength, "not finite"),
        (_no_phi, "phi is missing"),
        (_filter_of_other_length, "5 values for 12 frames"),
    ],
)
def test_what_makes_no_sense_is_not_matched(exp, change, words):
    with wrapper(exp) as file:
        change(file)
    found = find(exp)
    assert {one.scan for one in found.scans} == {"100K"}
    assert len(found.unmatched) == 2
    for lost in found.unmatched:
        with pytest.raises(HklflowError, match=words):
            raise HklflowError(lost.why)


def test_files_of_other_kinds(exp, tmp_path):
    with h5py.File(tmp_path / "other.nxs", "w") as file:
        file["entry/data/data"] = np.zeros((2, 3, 4))
    with pytest.raises(HklflowError, match="no rotations f1, f2"):
        find(tmp_path / "other.nxs")
    shutil.copy(exp / "hexa/crystal1/hexa_300K.nxs", exp / "hexa/crystal1/odd.nxs")
    (lost,) = find(exp).unmatched
    assert "does not begin with the name of a sample" in lost.why
