"""What makes NeXpy, silx, H5Web, nxs_analysis_tools and NXRefine open the products right."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from nexusformat.nexus import NXdata, NXfield, nxload

from hklflow import nexus
from hklflow.formats.nxrefine import read_nxrefine
from hklflow.formats.poni import Poni
from hklflow.geometry.grid import Grid
from hklflow.nexus.default_view import best_plane
from hklflow.nexus.plottable import open_plottable
from hklflow.stages import scan_file
from tests.test_nexus import _product
from tests.test_scan_file import CELL, _grid_file, _inputs
from tests.test_temperature_series import rotation
from tests.truth.orientations import orientation, write_orientation
from tests.volume_layout import problems

ORACLE = json.loads(
    (Path(__file__).parent / "oracles/nxrefine_master.json").read_text(encoding="utf-8")
)
GRID = Grid.symmetric([1.0, 0.5, 2.0], [0.1, 0.25, 0.2])  # 21 planes along l


@pytest.mark.parametrize(
    ("measured", "plane"),
    [
        ([0, 0, 5, 9, 5, 0, 0], 3),  # the plane at 0
        ([0, 9, 5, 0, 0, 0, 0], 2),  # 0 is not measured: the nearest plane with half of the best
        ([0, 0, 0, 1, 2, 9, 9], 5),  # a few voxels at 0 are no picture
        ([0, 0, 0, 0, 0, 0, 0], 3),  # nothing is measured
    ],
)
def test_the_plane_that_viewers_open(measured: list[int], plane: int) -> None:
    assert best_plane(np.array(measured), 3) == plane


def _volume(path: Path, planes: slice, **more: Any) -> Path:
    """A volume that is measured in some planes."""
    rng = np.random.default_rng(0)
    norm = np.zeros(GRID.array_shape, np.float32)
    norm[planes] = 2.0
    counts = rng.poisson(4.0 * norm).astype(np.uint32)
    with np.errstate(invalid="ignore", divide="ignore"):
        arrays = {"counts": counts, "norm": norm, "data": counts / norm}
        arrays["data_errors"] = np.sqrt(counts + 1.0) / np.where(norm > 0, norm, np.nan)
    with nexus.VolumeWriter(path, GRID, CELL, "S(Q)", np.uint32, True, **more) as writer:
        writer.write(0, **arrays)
        writer.note({})
    return path


@pytest.mark.parametrize(("planes", "index"), [(slice(5, 16), 10), (slice(14, 20), 14)])
def test_a_volume_opens_on_a_measured_plane(tmp_path: Path, planes: slice, index: int) -> None:
    path = _volume(tmp_path / "volume.nxs", planes)
    assert problems(path) == []
    with h5py.File(path) as file:
        volume, plane = file["entry/transform"], file["entry/plane"]
        assert file["entry"].attrs["default"] == "plane"
        # H5Web opens this slice of the volume, on this scale.
        assert list(volume.attrs["default_slice"]) == [str(index), ".", "."]
        assert json.loads(volume.attrs["SILX_style"]) == {"signal_scale_type": "log"}
        # silx reads a volume plane by plane only with this attribute.
        assert volume["data"].attrs["interpretation"] == "image"
        np.testing.assert_array_equal(plane["data"][()], volume["data"][index])
        assert plane["title"].asstr()[()] == f"S(Q), Ql = {GRID.axis(2)[index]:.4g}"
        assert plane.attrs["angles"] == pytest.approx(60.0)  # γ* of the hexagonal cell
    with open_plottable(path) as plottable:  # our own plots are of the volume
        assert plottable is not None
        assert plottable.signal.name == "/entry/transform/data"


def test_signed_values_have_a_linear_scale(tmp_path: Path) -> None:
    pair = {"data": np.float32, "data_errors": np.float32}
    path = _grid_file(tmp_path / "pdf.nxs", 1.0, pair, group="pdf", direct=True, signed=True)
    assert problems(path) == []
    with h5py.File(path) as file:
        for name in ("pdf", "plane"):
            style = json.loads(file[f"entry/{name}"].attrs["SILX_style"])
            assert style == {"signal_scale_type": "linear"}


def test_the_validator_finds_what_is_wrong(tmp_path: Path) -> None:
    path = _volume(tmp_path / "volume.nxs", slice(5, 16))
    with h5py.File(path, "r+") as file:
        volume = file["entry/transform"]
        volume.attrs["default_slice"] = ["0", ".", "."]
        volume["data"][8, 2, 3] *= 2
        volume["Qh"][0] = 7
    assert set(problems(path)) == {
        "Qh is not the grid's axis",
        "data is not counts / norm",
        "the default plot is not the plane of default_slice",
        "nothing is measured on the plane of the default plot",
    }


# -------------------------------------------------------------------------- master file


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A master file with structure factors, and raw frames linked by the scan file."""
    top = tmp_path_factory.mktemp("viewers") / "out"
    given = _inputs(top)
    given["scans"] = [_product(top / "r1", "scan")]
    with h5py.File(top / "structure_factors.nxs", "w") as file:
        file["entry/reflections/intensity"] = np.arange(3.0)
    given["powders"] = [_powder(top.parent / "calibration/powder.nxs")]
    given["structure_factors"] = [top / "structure_factors.nxs"]
    write_orientation(
        top / "orientation.json", {"r1": rotation(0.0)}, group="P 6/m m m", cell=CELL, **_crystal()
    )
    path = top / "hexa_300K.nxs"
    scan_file.main(
        inputs=scan_file.Inputs(**given),
        outputs=scan_file.Outputs(master=path),
        params=scan_file.Params(title="hexa 300K", formula="C6 H6", powder_of=(0,)),
    )
    return path


def _powder(path: Path) -> Path:
    path.parent.mkdir()
    counts = np.arange(12.0).reshape(4, 3)
    counts[1, 1] = np.nan
    angle = np.array([1.0, 2.0, 3.0])
    poni = Poni(0.2, 1e-3, 2e-3, 0.1, 0.2, 0.3, 1e-4, 1e-4, (4, 3), 3, 0.5)
    profile = angle, 10 * angle, np.sqrt(angle)
    rings = np.array([1.5])
    nexus.write_powder(path, counts, profile, rings, poni, calibrant="CeO2", detector=None)
    return path


def _crystal() -> dict[str, Any]:
    from hklflow.geometry import lattice, rotation_matrix

    u = rotation_matrix(np.array([0.6, 0.0, 0.8]), 0.7)
    return {"ub": u @ lattice.b_matrix(CELL), "u": u}


def test_nexusformat_finds_all_by_attributes(master: Path) -> None:
    root = nxload(str(master), "r")
    with h5py.File(master) as file:
        for name in ("transform", "symm_transform", "masked_transform", "pdf", "difference"):
            values = file[f"entry/{name}/data"][()]
            np.testing.assert_array_equal(root.entry[name].data.nxdata, values)
    assert root.entry.transform.Qh.nxdata[0] == -1
    assert root.f1.peaks.polar_angle.shape == root.f1.peaks.x.shape
    assert root.f1.data.data.shape == (7, 12, 19)
    assert root.f1.data.frame_number.nxdata[0] == -3  # the rotation begins with the fourth frame
    assert root.f1.transform.counts.shape == root.entry.transform.data.shape
    assert root.f1.sample.chemical_formula.nxvalue == "C6 H6"
    assert root.f1.sample.laue_group.nxvalue == "6/mmm"
    assert root.f1.instrument.attenuator.attenuator_transmission.shape == (7,)
    assert root.entry.structure_factors.intensity.nxdata[2] == 2


def test_sums_of_frames_have_their_names_of_nxrefine(master: Path) -> None:
    sums = nxload(str(master), "r")["f1/frame_sums"]
    for name, axes in {
        "summed_data": ["slow", "fast"],
        "maximum": ["slow", "fast"],
        "partial_sums": ["frame", "slow", "fast"],
    }.items():
        assert [axis.nxname for axis in sums[name].nxaxes] == axes
        assert json.loads(sums[name].attrs["SILX_style"]) == {"signal_scale_type": "log"}
        assert "frames" in sums[name].nxtitle
    np.testing.assert_array_equal(sums.summed_data.nxsignal.nxvalue, 2.5)
    np.testing.assert_array_equal(sums.partial_sums.nxsignal.nxvalue[:, 0, 0], [1, 2**32 - 1])
    assert sums.partial_sums.attrs["default_slice"][0] == "1"


def test_the_powder_calibration_is_where_nxrefine_looks(master: Path) -> None:
    """Each name is one that NXRefine's `calibrate_powder` and `calculate_radial_sums` read."""
    calibration = nxload(str(master), "r")["f1/instrument/calibration"]
    assert calibration.nxsignal.nxvalue.shape == (4, 3)
    assert [axis.nxname for axis in calibration.nxaxes] == ["y_pixel", "x_pixel"]
    assert calibration["calibrant"].nxvalue == "CeO2"
    parameters = calibration["refinement/parameters"]
    assert parameters["Detector"].nxvalue == "Detector"
    values = {"Distance": 0.2, "Poni1": 1e-3, "Rot3": 0.3, "PixelSize2": 1e-4, "Wavelength": 5e-11}
    for name, value in values.items():
        assert parameters[name].nxvalue == pytest.approx(value)
    radial = calibration["radial_sum"]
    assert [axis.nxname for axis in radial.nxaxes] == ["polar_angle"]
    np.testing.assert_array_equal(radial.nxsignal.nxvalue, [10, 20, 30])
    with h5py.File(master) as file:  # nothing large is copied
        group = file["f1/instrument/calibration"]
        for name in ("counts", "radial_sum/radial_sum"):
            assert group.get(name, getlink=True).filename == "../calibration/powder.nxs"


def test_a_part_keeps_its_axes(master: Path) -> None:
    """What `load_transform` and `Scissors` of nxs_analysis_tools do."""
    entry = nxload(str(master), "r").entry
    field = NXfield(entry.transform.data.nxdata.transpose(2, 1, 0), name="counts")
    data = NXdata(field, (entry.transform.Qh, entry.transform.Qk, entry.transform.Ql))
    part = data[-0.55:0.55, :, 0.0]
    np.testing.assert_allclose(part.Qh.nxdata, np.linspace(-0.5, 0.5, 11), atol=1e-9)
    np.testing.assert_array_equal(part.nxsignal.nxdata, 10)


def test_nxrefine_itself_reads_geometry_and_orientation(master: Path) -> None:
    """NXRefine 1.0.0b1 answered about this file; see tests/oracles/nxrefine_master.py."""
    with h5py.File(master) as file:
        for name, value in ORACLE["fields"].items():
            stored = file[name].asstr()[()] if isinstance(value, str) else file[name][()]
            if isinstance(value, str):
                assert stored == value, name
            else:
                np.testing.assert_allclose(np.ravel(stored)[: np.size(value)], np.ravel(value))
        peaks = {name: file[f"f1/peaks/{name}"][()] for name in ORACLE["peaks"]}
    # The geometry of `rotation`: the beam hits the detector at 0.1 m of 0.5 mm pixels.
    read = ORACLE["parameters"]
    assert (read["wavelength"], read["distance"], read["pixel_size"]) == (0.6, 90.0, 0.5)
    assert (read["xc"], read["yc"]) == pytest.approx((199.5, 199.5))
    assert tuple(read[n] for n in ("a", "b", "c", "alpha", "beta", "gamma")) == tuple(CELL)
    assert (read["phi"], read["phi_step"]) == (0.25, 0.5)  # the middle of the first frame
    ub = 2 * np.pi * np.array(ORACLE["ub"])
    expected = orientation({"r1": rotation(0.0)}, cell=CELL, **_crystal())
    np.testing.assert_allclose(ub.T @ ub, expected.ub.T @ expected.ub, atol=1e-12)
    x, y, z = np.array(ORACLE["xyz"]).T + 0.5
    hkl = expected.rotations["r1"].hkl(expected.ub, z, y, x)
    np.testing.assert_allclose(hkl, ORACLE["hkl"], atol=1e-9)
    for name, values in ORACLE["peaks"].items():
        np.testing.assert_allclose(peaks[name], values, atol=1e-9, err_msg=name)


def test_the_master_file_is_a_file_of_nxrefine(master: Path) -> None:
    """By our reader of NXRefine's files, which is tested against NXRefine's own equations."""
    (model,) = read_nxrefine(master)
    expected = orientation({"r1": rotation(0.0)}, cell=CELL, **_crystal())
    refined = expected.rotations["r1"]
    assert model.rotation.beam.wavelength == pytest.approx(refined.beam.wavelength)
    places = np.array([[3.0, 20.0, 40.0], [0.5, 100.0, 30.0]])
    for frame, slow, fast in places:
        hkl = model.rotation.hkl(model.ub, frame, slow, fast)
        np.testing.assert_allclose(hkl, refined.hkl(expected.ub, frame, slow, fast), atol=1e-9)
    with h5py.File(master) as file:
        detector = file["f1/instrument/detector"]
        assert detector["distance"].attrs["units"] == "mm"
        peaks = file["f1/peaks"]
        np.testing.assert_allclose(peaks["x"], peaks["observed_px_x"][()] - 0.5)
        # Bragg's law: |Q| = 4π sin θ / λ
        slow, fast = peaks["observed_px_y"][()], peaks["observed_px_x"][()]
        q = np.linalg.norm(refined.q_lab(slow, fast), axis=-1)
        theta = np.radians(peaks["polar_angle"][()]) / 2
        np.testing.assert_allclose(4 * np.pi * np.sin(theta) / refined.beam.wavelength, q)
