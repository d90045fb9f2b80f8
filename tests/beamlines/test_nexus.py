"""Import of NXmx files and Eiger masters: what is a scan, and which rotations are one."""

import h5py
import hdf5plugin
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.beamlines.nexus import eiger, nxmx
from hklflow.formats.header import Header
from hklflow.formats.light import write_light
from hklflow.formats.raw import open_frames
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter

from .examples import Example, example

N, SHAPE = 6, (10, 8)


def write_nxmx(path, *, sample="quartz", temperature=300.0, chi=0.0, start=0.0, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "wavelength": 0.6,
        "polarization": 0.99,
        "exposure": 0.1,
        "monitor": np.full(N, 5.0),
        "pixel_mask": np.zeros(SHAPE),
    }
    with NXmxWriter(
        path,
        NXmxHeader(
            shape=SHAPE,
            n_frames=N,
            pixel_size=(1e-4, 1e-4),
            origin=(4e-4, 5e-4, 0.1),
            slow=(0, -1, 0),
            fast=(-1, 0, 0),
            axis_names=("chi", "phi"),
            axes=((0, 0, 1), (-1, 0, 0)),
            angles=np.radians([chi, 0]),
            scan_axis=1,
            start=np.radians(start),
            step=np.radians(0.5),
            temperature=temperature,
            sample_name=sample,
            **{**fields, **more},
        ),
    ) as writer:
        writer.append(np.ones((N, *SHAPE), np.uint32))
    return path


def write_eiger(folder, stem, *, chi=0.0, temperature=None):
    """As DECTRIS's filewriter: a master that links data files, axes without directions."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{stem}_master.h5", "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        data = entry.create_group("data")
        for i in (1, 2):
            name = f"{stem}_data_{i:06d}.h5"
            with h5py.File(folder / name, "w") as part:
                part.create_dataset(
                    "entry/data/data",
                    data=np.ones((N // 2, *SHAPE), np.uint32),
                    chunks=(1, *SHAPE),
                    **hdf5plugin.Bitshuffle(cname="lz4"),
                )
            data[f"data_{i:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
        instrument = entry.create_group("instrument")
        instrument.attrs["NX_class"] = "NXinstrument"
        beam = instrument.create_group("beam")
        beam["incident_wavelength"] = 0.6
        beam["incident_wavelength"].attrs["units"] = "angstrom"
        detector = instrument.create_group("detector")
        detector.attrs["NX_class"] = "NXdetector"
        for name, value, unit in (
            ("x_pixel_size", 7.5e-5, "m"),
            ("y_pixel_size", 7.5e-5, "m"),
            ("detector_distance", 0.1, "m"),
            ("beam_center_x", 4.0, "pixel"),
            ("beam_center_y", 5.0, "pixel"),
            ("count_time", 0.1, "s"),
        ):
            detector[name] = value
            detector[name].attrs["units"] = unit
        sample = entry.create_group("sample")
        sample.attrs["NX_class"] = "NXsample"
        if temperature is not None:
            sample["temperature"] = temperature
            sample["temperature"].attrs["units"] = "K"
        goniometer = sample.create_group("goniometer")
        goniometer["omega"] = -90 + 0.2 * np.arange(N)
        goniometer["omega_increment"] = 0.2
        goniometer["chi"] = np.full(N, chi)
        goniometer["chi_increment"] = 0.0
        goniometer["phi"] = np.zeros(N)
    return folder / f"{stem}_master.h5"


@example("nxmx")
def make_nxmx(folder):
    write_nxmx(folder / "day1/quartz_300K_r1.nxs")
    write_nxmx(folder / "day1/quartz_300K_r2.nxs", chi=40.0, temperature=300.2)
    write_nxmx(folder / "day2/quartz_100K_r1.nxs", temperature=100.1)
    rotations = {("quartz", "300K", "r1"), ("quartz", "300K", "r2"), ("quartz", "100K", "r1")}
    return Example(folder, rotations)


@example("eiger")
def make_eiger(folder):
    write_eiger(folder, "ice_12p5K_1")
    write_eiger(folder, "ice_12p5K_2", chi=30.0)
    return Example(folder, {("ice", "12p5K", "r1"), ("ice", "12p5K", "r2")})


def find(source, plugin=nxmx, **more):
    return plugin.find(Request(source, **more))


def names(found):
    return [(one.sample, one.scan, one.rotation) for one in found.scans]


def test_rotations_of_one_temperature_are_one_scan(tmp_path):
    make_nxmx(tmp_path / "s")
    found = {(one.scan, one.rotation): one for one in find(tmp_path / "s").scans}
    # Control is not better than a few tenths: what the name says is the scan's temperature.
    temperatures = {key: one.header.temperature for key, one in found.items()}
    assert temperatures == {("300K", "r1"): 300.0, ("300K", "r2"): 300.0, ("100K", "r1"): 100.0}
    assert "the header says 300.2 K, the scan has 300 K" in found["300K", "r2"].notes
    assert not any(one.light for one in found.values())
    angles = {key: np.degrees(one.header.goniometer.angles[0]) for key, one in found.items()}
    assert angles["300K", "r2"] == pytest.approx(40)


def test_without_a_temperature_in_the_name_the_rotations_share_their_mean(tmp_path):
    write_nxmx(tmp_path / "a.nxs", temperature=85.1)
    write_nxmx(tmp_path / "b.nxs", temperature=85.3, chi=30.0)
    found = find(tmp_path).scans
    assert [(one.scan, one.header.temperature) for one in found] == [("85.2K", 85.2)] * 2


def test_headers_go_before_names(tmp_path):
    write_nxmx(tmp_path / "quartz_100K_r1.nxs", temperature=250.0)
    (one,) = find(tmp_path).scans
    assert (one.scan, one.header.temperature) == ("250K", 250.0)
    assert "the name says 100 K, the header 250 K" in one.notes


def test_what_only_a_name_tells_is_told_as_a_guess(tmp_path):
    write_nxmx(tmp_path / "ice_12p5K_3.nxs", sample=None, temperature=None)
    (one,) = find(tmp_path).scans
    assert names(find(tmp_path)) == [("ice", "12p5K", "r3")]
    assert one.header.temperature == 12.5
    assert "guessed from the name ice_12p5K_3: sample ice, 12.5 K" in one.notes


def test_a_temperature_below_zero_is_a_name(tmp_path):
    write_nxmx(tmp_path / "ice_m5K_r1.nxs", temperature=None)
    (one,) = find(tmp_path).scans
    assert (one.scan, one.header.temperature) == ("m5K", None)
    assert any("is not a temperature in K" in note for note in one.notes)


def test_without_any_temperature(tmp_path):
    write_nxmx(tmp_path / "lyso_1.nxs", temperature=None, sample=None)
    write_nxmx(tmp_path / "lyso_2.nxs", temperature=None, sample=None, chi=20.0)
    assert names(find(tmp_path)) == [("lyso", "lyso", "r1"), ("lyso", "lyso", "r2")]


def test_repetitions_and_names_that_are_alike(tmp_path):
    write_nxmx(tmp_path / "a/quartz_300K_r1.nxs")
    write_nxmx(tmp_path / "b/quartz_300K_r1.nxs")
    first, second = find(tmp_path).scans
    assert (first.rotation, second.rotation) == ("r1", "r1b")
    assert "same goniometer setting as r1: a repetition?" in second.notes


def test_neighbouring_temperatures_are_scans_of_their_own(tmp_path):
    for temperature in (100.0, 101.0, 102.0):
        write_nxmx(tmp_path / f"{temperature:g}.nxs", temperature=temperature)
    assert [name[1] for name in names(find(tmp_path))] == ["100K", "101K", "102K"]


def test_masters_are_taken_and_data_files_are_not(tmp_path):
    make_eiger(tmp_path / "s")
    found = find(tmp_path / "s", eiger)
    assert [one.goniometer for one in found.scans] == [
        "omega=-90:0.2 chi=0 phi=0",
        "omega=-90:0.2 chi=30 phi=0",
    ]
    for one in found.scans:
        assert (one.header.start_deg, one.header.step_deg) == (-90, pytest.approx(0.2))
        assert one.header.n_frames == N
        assert "directions of the axes" in one.notes[0]
    # A master that is not of NXmx is none for the other plugin.
    with pytest.raises(HklflowError, match="no NXmx file"):
        find(tmp_path / "s")


def test_a_master_without_its_data_files_is_not_matched(tmp_path):
    make_eiger(tmp_path)
    (tmp_path / "ice_12p5K_2_data_000002.h5").unlink()
    found = find(tmp_path, eiger)
    assert names(found) == [("ice", "12p5K", "r1")]
    assert "ice_12p5K_2_data_000002.h5 does not exist" in found.unmatched[0].why


def test_other_names_are_taken_if_asked_for(tmp_path):
    write_nxmx(tmp_path / "quartz_300K_r1.nxs")
    write_nxmx(tmp_path / "dark_1.nxs")
    found = find(tmp_path)
    assert names(found) == [("quartz", "300K", "r1")]
    assert "dark_1.nxs" in found.notes[0]
    assert len(find(tmp_path, scans=frozenset({"dark_1"})).scans) == 1
    assert len(find(tmp_path / "dark_1.nxs").scans) == 1


def test_what_hklflow_made_is_not_raw_data(tmp_path):
    with h5py.File(write_nxmx(tmp_path / "quartz_300K_r1.nxs"), "r+") as file:
        file.create_group("entry/workflow/process_000_sum_scans")
    write_nxmx(tmp_path / "quartz_300K_r2.nxs")
    assert names(find(tmp_path)) == [("quartz", "300K", "r2")]
    with pytest.raises(HklflowError, match="not written by an instrument"):
        find(tmp_path / "quartz_300K_r1.nxs")
    with h5py.File(tmp_path / "quartz_300K_r1.nxs", "r+") as file:
        file.move("entry/workflow/process_000_sum_scans", "entry/workflow/process_000_simulate")
    assert len(find(tmp_path).scans) == 2


def test_files_are_linked_in_the_order_of_their_numbers(tmp_path):
    """data_10 comes after data_9, however the names sort as text."""
    counts = np.random.default_rng(3).poisson(3, (12, *SHAPE)).astype(np.uint32)
    path = tmp_path / "ice_12p5K_1_master.h5"
    with h5py.File(path, "w") as file:
        for i, frame in enumerate(counts, 1):
            with h5py.File(tmp_path / f"part_{i}.h5", "w") as part:
                part["entry/data/data"] = frame[None]
            file[f"entry/data/data_{i}"] = h5py.ExternalLink(f"part_{i}.h5", "/entry/data/data")
    facts = Header(start_deg=0.0, step_deg=0.1)
    (one,) = find(path, eiger, facts=facts).scans
    parts = [(str(tmp_path / f"part_{i}.h5"), "/entry/data/data") for i in range(1, 13)]
    assert list(one.datasets) == parts
    light = tmp_path / "ice.scan.nxs"
    write_light(light, one.header, SHAPE, list(one.datasets), sample="ice", source={})
    with open_frames(light) as frames:
        np.testing.assert_array_equal(frames.read(0, 12), counts)


def test_a_virtual_dataset_is_linked_itself(tmp_path):
    """It may take only some of a file's frames, or in another order."""
    with h5py.File(tmp_path / "part.h5", "w") as part:
        part["frames"] = np.arange(4, dtype=np.uint32)[:, None, None] * np.ones(SHAPE, np.uint32)
    layout = h5py.VirtualLayout((2, *SHAPE), np.uint32)
    layout[:] = h5py.VirtualSource("part.h5", "frames", (4, *SHAPE))[2:]
    path = tmp_path / "ice_1_master.h5"
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("entry/data/data", layout)
    (one,) = find(path, eiger, facts=Header(polarization=0.7)).scans
    assert one.datasets == ((str(path), "/entry/data/data"),)


def test_a_circle_that_jitters_rests(tmp_path):
    path = write_eiger(tmp_path, "ice_1")
    with h5py.File(path, "r+") as file:
        file["entry/sample/goniometer/chi"][...] = 45 + 1e-4 * np.array([1, -1, 1, -1, 1, -1])
    (one,) = find(path, eiger).scans
    assert one.goniometer == "omega=-90:0.2 chi=45 phi=0"


def edit(path, **fields):
    with h5py.File(path, "a") as file:
        for name, value in fields.items():
            file[f"entry/instrument/detector/{name.replace('__', '/')}"] = value


def test_an_arm_without_axis_in_a_master(tmp_path):
    path = write_eiger(tmp_path, "ice_1")
    edit(path, goniometer__two_theta=np.full(N, 25.0))
    (one,) = find(path, eiger).scans
    assert one.header.detector is None
    assert any("arm is at 25 degrees" in note for note in one.notes)
    (one,) = find(path, eiger, options={"arm": "0,1,0"}).scans
    assert one.light
    flat = find(write_eiger(tmp_path, "flat_1"), eiger).scans[0].header.detector
    s, c = np.sin(np.radians(25)), np.cos(np.radians(25))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # about y, from z to x
    np.testing.assert_allclose(one.header.detector.lab(2, 3), turn @ flat.lab(2, 3), atol=1e-12)


@pytest.mark.parametrize("option", [("arm", "0,1,0"), ("instrument", "ESRF-ID23-2")])
def test_options_that_the_transformations_of_the_file_contradict(tmp_path, option):
    path = write_nxmx(tmp_path / "quartz_1_master.h5")
    told = f"states the place of its pixels: leave out --option {option[0]}"
    with pytest.raises(HklflowError, match=told):
        eiger.find(Request(path, options=dict([option])))


def test_an_orientation_that_is_not_the_usual_one_is_refused(tmp_path):
    path = write_eiger(tmp_path, "ice_1")
    edit(path, geometry__orientation__value=[0.0, -1, 0, 1, 0, 0])
    (one,) = find(path, eiger).scans
    assert one.header.detector is None
    assert any("not the usual mounting" in note for note in one.notes)


def test_fields_that_are_not_used_are_listed(tmp_path):
    path = write_eiger(tmp_path, "ice_1")
    edit(path, geometry__translation__distances=[0.0, 0, 0.1], threshold_energy=6000.0)
    (note,) = [note for note in find(path, eiger).notes if "but not used" in note]
    listed = note.partition("not used: ")[2].split(", ")
    assert "instrument/detector/geometry/translation/distances" in listed
    assert "instrument/detector/threshold_energy" not in listed  # a sign of a photon counter
    assert not any(
        "beam_center" in name or "wavelength" in name or "omega" in name for name in listed
    )
    edit(path, **{f"detectorSpecific__f{i}": i for i in range(20)})
    (note,) = [note for note in find(path, eiger).notes if "but not used" in note]
    assert "instrument/detector/detectorSpecific (20 fields)" in note


@pytest.mark.parametrize(
    ("number", "axis"), [("E-18-0133", [0, 1, 0]), ("E-32-0112", [1.0, 0, 0]), ("E-1", None)]
)
def test_axes_of_the_table_of_instruments(tmp_path, number, axis):
    path = write_eiger(tmp_path, "ice_1")
    edit(path, detector_number=number)
    (one,) = find(path, eiger).scans
    if axis is None:
        assert one.header.goniometer is None
        assert "the directions of the axes are unknown: set `import_scan: axes`" in one.notes
        return
    assert one.light
    np.testing.assert_allclose(one.header.goniometer.axes, [axis])
    assert one.goniometer == ""
    # An inner axis that the table does not have: the angles stay in the table of scans.
    path = write_eiger(tmp_path, "ice_2", chi=30.0)
    edit(path, detector_number=number)
    (one,) = find(path, eiger).scans
    assert one.header.goniometer is None
    assert "chi=30" in one.goniometer
    assert any("the direction of chi=30 is not known" in note for note in one.notes)


def test_what_the_user_states_makes_a_light_file(tmp_path):
    write_nxmx(tmp_path / "quartz_300K_r1.nxs", polarization=None)
    (plain,) = find(tmp_path).scans
    assert not plain.light
    (stated,) = find(tmp_path, facts=Header(polarization=0.7), sample="SiO2").scans
    assert stated.light
    assert stated.header.polarization == 0.7
    assert stated.sample == "SiO2"
    assert stated.datasets == ((str(tmp_path / "quartz_300K_r1.nxs"), "/entry/data/data"),)


def test_names_are_kept_as_the_files_have_them(tmp_path):
    """One name may be made of several, which `hklflow import` then refuses."""
    for i, name in enumerate(("PMN/PT", "PMN PT", "PMN_PT")):
        write_nxmx(tmp_path / f"{i}.nxs", sample=name, temperature=None, chi=float(i))
    found = find(tmp_path).scans
    assert {one.sample for one in found} == {"PMN-PT"}
    assert {one.original for one in found} == {
        (name, str(i), "") for i, name in enumerate(("PMN/PT", "PMN PT", "PMN_PT"))
    }
    assert {one.original[0] for one in find(tmp_path, sample="PMN-PT").scans} == {"PMN-PT"}


def test_names_of_files_are_kept_with_what_parts_their_words(tmp_path):
    for name in ("PMN PT_300K_r1", "PMN_PT_300K_r2"):
        write_nxmx(tmp_path / f"{name}.nxs", sample=None)
    found = find(tmp_path).scans
    assert [(one.sample, one.original) for one in found] == [
        ("PMN-PT", ("PMN PT", "", "r1")),
        ("PMN-PT", ("PMN_PT", "", "r2")),
    ]
