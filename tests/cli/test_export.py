"""`hklflow export`: files read by other programs, or by their published layout, are the product."""

import json
import math
from pathlib import Path

import gemmi
import h5py
import numpy as np
import pytest

from hklflow import open as open_product
from hklflow.export.formats import FORMATS
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from tests.other_programs import other_program
from tests.truth.exported import (
    BETWEEN,
    CELL,
    CENTRED,
    OFFSET,
    RIGHT_ANGLED,
    crystal,
    values,
    write_factors,
    write_pdf,
    write_series,
    write_volume,
)
from tests.truth.reflections import Truth, rotation

from .conftest import Hklflow


def export(hklflow: Hklflow, *words: str | Path) -> str:
    done = hklflow("export", *words)
    assert done.code == 0, done.err
    return done.out


def cartesian(
    grid: Grid, index: tuple[int, int, int], direct: bool, cell: np.ndarray = CELL
) -> np.ndarray:
    """Position of the voxel (h, k, l), by gemmi for direct space."""
    at = grid.first + grid.step * np.array(index)
    if not direct:
        return lattice.b_matrix(cell) @ at
    return np.array(gemmi.UnitCell(*cell).orthogonalize(gemmi.Fractional(*at)).tolist())


# ------------------------------------------------------------------------------ CCP4


@pytest.mark.parametrize("grid", [CENTRED, OFFSET], ids=["centred", "offset"])
@pytest.mark.parametrize("direct", [False, True], ids=["hkl", "xyz"])
def test_gemmi_reads_the_map(hklflow: Hklflow, tmp_path: Path, grid: Grid, direct: bool) -> None:
    source = tmp_path / "v.nxs"
    (write_pdf if direct else write_volume)(source, grid)
    out = export(hklflow, "ccp4", source, tmp_path / "v.ccp4")
    assert "voxels without a value are 0" in out
    data, _ = values(grid, 5 if direct else 0)
    found = gemmi.read_ccp4_map(str(tmp_path / "v.ccp4"))
    np.testing.assert_array_equal(np.array(found.grid).transpose(2, 1, 0), np.nan_to_num(data))
    start = np.array([found.header_i32(w) for w in (5, 6, 7)])
    np.testing.assert_array_equal(start, np.rint(grid.first / grid.step))
    # A grid point is at orthogonalise((start + i) / n) of the map's cell.
    cell = found.grid.unit_cell
    corners = [(0, 0, 0), (3, 5, 7), tuple(n - 1 for n in grid.shape)]
    points = []
    for index in corners:
        at = (start + index) / np.array(grid.shape)
        points.append(cell.orthogonalize(gemmi.Fractional(*at)).tolist())
    expected = [cartesian(grid, index, direct) for index in corners]
    # Programs may turn the box; lengths and angles between points are what they share. gemmi rounds
    # the cell of a map to five decimals.
    np.testing.assert_allclose(
        np.array(points) @ np.array(points).T,
        np.array(expected) @ np.array(expected).T,
        rtol=2e-5,
        atol=2e-5,
    )
    labels = " ".join(found.header_str(57 + 20 * i, 80) for i in range(8))
    assert "from v.nxs" in labels
    assert "unmeasured voxels: 0" in labels


def test_a_map_between_steps_has_an_origin(hklflow: Hklflow, tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nxs", BETWEEN)
    export(hklflow, "ccp4", tmp_path / "v.nxs", tmp_path / "v.map", "--unmeasured", "nan")
    found = gemmi.read_ccp4_map(str(tmp_path / "v.map"))
    data, _ = values(BETWEEN)
    np.testing.assert_array_equal(np.array(found.grid).transpose(2, 1, 0), data)
    origin = [found.header_float(w) for w in (50, 51, 52)]
    np.testing.assert_allclose(origin, lattice.b_matrix(CELL) @ BETWEEN.first, rtol=1e-6)
    assert [found.header_i32(w) for w in (5, 6, 7)] == [0, 0, 0]
    assert found.header_float(21) == pytest.approx(np.nanmax(data))
    assert found.header_float(22) == pytest.approx(np.nanmean(data), rel=1e-6)
    assert found.header_float(55) == pytest.approx(np.nanstd(data), rel=1e-5)


def test_errors_in_the_place_of_values(hklflow: Hklflow, tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nxs", CENTRED)
    export(hklflow, "ccp4", tmp_path / "v.nxs", tmp_path / "s.ccp4", "--errors")
    found = gemmi.read_ccp4_map(str(tmp_path / "s.ccp4"))
    np.testing.assert_array_equal(
        np.array(found.grid).transpose(2, 1, 0), np.nan_to_num(values(CENTRED)[1])
    )
    assert "standard deviation" in found.header_str(57 + 40, 80)


# ------------------------------------------------------------------------------ cube


@pytest.mark.parametrize("direct", [False, True], ids=["hkl", "xyz"])
def test_cube_layout(hklflow: Hklflow, tmp_path: Path, direct: bool) -> None:
    source = tmp_path / "v.nxs"
    (write_pdf if direct else write_volume)(source, OFFSET)
    export(hklflow, "cube", source, tmp_path / "v.cube")
    lines = (tmp_path / "v.cube").read_text().splitlines()
    assert "from v.nxs" in lines[0]
    assert "unmeasured voxels: 0" in lines[1]
    head = [line.split() for line in lines[2:7]]
    assert [int(row[0]) for row in head] == [1, *OFFSET.shape, 1]
    origin, *vectors = (0.529177210903 * np.array(row[1:4], float) for row in head[:4])
    index = (3, 60, 7)
    place = origin + np.array(index) @ np.array(vectors)
    np.testing.assert_allclose(place, cartesian(OFFSET, index, direct), atol=1e-6)
    found = np.array(" ".join(lines[7:]).split(), float).reshape(OFFSET.shape)
    data = np.nan_to_num(values(OFFSET, 5 * direct)[0]).transpose(2, 1, 0)
    np.testing.assert_allclose(found, data, rtol=6e-6)
    assert max(len(line.split()) for line in lines[7:]) == 6


# ------------------------------------------------------------------------------ Yell


def test_yell_gets_even_axes_and_weights(hklflow: Hklflow, tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nxs", CENTRED)
    out = export(hklflow, "yell", tmp_path / "v.nxs", tmp_path / "experiment.h5")
    assert "last plane along h, k, l is left out" in out
    data, errors = values(CENTRED)
    with h5py.File(tmp_path / "experiment.h5") as file:
        assert file["format"][()] == b"Yell 1.0"
        assert file.attrs["filetype"] == "Yell 1.0"
        assert file["is_direct"][()] == 0
        np.testing.assert_allclose(file["unit_cell"], CELL)
        shape = file["data"].shape
        assert shape == (30, 20, 32)
        # Yell's rule: 000 is the voxel n/2, counted from 0.
        at = file["lower_limits"][()] + file["step_sizes"][()] * np.array(shape) / 2
        np.testing.assert_allclose(at, 0, atol=1e-12)
        inside = np.nan_to_num(data).transpose(2, 1, 0)[:-1, :-1, :-1]
        np.testing.assert_array_equal(file["data"], inside)
        assert json.loads(file.attrs["hklflow"])["unmeasured"] == 0
    with h5py.File(tmp_path / "experiment_weights.h5") as file:
        weights = np.nan_to_num(1 / errors).transpose(2, 1, 0)[:-1, :-1, :-1]
        np.testing.assert_allclose(file["data"], weights, rtol=1e-6)


def test_discus_gets_all_planes(hklflow: Hklflow, tmp_path: Path) -> None:
    write_pdf(tmp_path / "v.nxs", OFFSET)
    export(hklflow, "discus", tmp_path / "v.nxs", tmp_path / "v.h5")
    with h5py.File(tmp_path / "v.h5") as file:
        assert file["is_direct"][()] == 1
        np.testing.assert_allclose(file["lower_limits"], OFFSET.first)
        np.testing.assert_allclose(file["step_sizes"], OFFSET.step)
        data = np.nan_to_num(values(OFFSET, 5)[0]).transpose(2, 1, 0)
        np.testing.assert_array_equal(file["data"], data)


# ------------------------------------------------------------------------------ numpy


def test_numpy_files(hklflow: Hklflow, tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nxs", OFFSET)
    out = export(hklflow, "npy", tmp_path / "v.nxs", tmp_path / "a.npy")
    assert [line for line in out.splitlines() if ":" not in line] == [
        str(tmp_path / name) for name in ("a.npy", "a.json", "a_errors.npy")
    ]
    data, errors = values(OFFSET)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), data)
    np.testing.assert_array_equal(np.load(tmp_path / "a_errors.npy"), errors)
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["order"] == ["l", "k", "h"]
    np.testing.assert_allclose(told["axis values"]["k"], OFFSET.axis(1))
    basis = np.array(told["Cartesian vectors of one unit of each axis (columns)"])
    reciprocal = gemmi.UnitCell(*CELL).reciprocal()
    lengths = 2 * np.pi * np.array([reciprocal.a, reciprocal.b, reciprocal.c])
    np.testing.assert_allclose(np.linalg.norm(basis, axis=0), lengths)
    assert told["Laue group"] == "-1"
    assert told["symmetrised"] is True
    assert "UB" not in told
    assert "norm" in told["estimand"]
    assert told["unmeasured"] is None


def test_ub_of_the_orientation_beside_the_volume(hklflow: Hklflow, tmp_path: Path) -> None:
    from hklflow.stage import read_orientation

    world = Truth(group="P 21 21 21", rotations=[rotation()], d_min=3.0).write(tmp_path)
    own = read_orientation(world.orientation)
    (tmp_path / "orientation.json").write_bytes(world.orientation.read_bytes())
    write_volume(tmp_path / "v.nxs", BETWEEN, cell=own.cell)
    write_volume(tmp_path / "w.nxs", BETWEEN)
    export(hklflow, "npy", tmp_path / "v.nxs", tmp_path / "v.npy")
    told = json.loads((tmp_path / "v.json").read_text())
    np.testing.assert_allclose(told["UB"], own.ub)
    assert "UB is not recorded" in export(hklflow, "npy", tmp_path / "w.nxs", tmp_path / "w.npy")
    words = ("npy", tmp_path / "w.nxs", tmp_path / "x.npy", "--orientation", world.orientation)
    assert "give the orientation of the same scan" in refused(hklflow, tmp_path, *words)


def test_a_merged_volume_through_a_master_file(hklflow: Hklflow, tmp_path: Path) -> None:
    world = Truth(group="P 21 21 21", rotations=[rotation()], d_min=3.0).write(tmp_path)
    (tmp_path / "orientation.json").write_bytes(world.orientation.read_bytes())
    cell = np.array(Truth(group="P 21 21 21", d_min=3.0).cell)
    write_volume(tmp_path / "v.nxs", BETWEEN, space_group="", cell=cell)
    with h5py.File(tmp_path / "master.nxs", "w") as file:
        file["entry/transform"] = h5py.ExternalLink("v.nxs", "/entry/transform")
    export(hklflow, "npy", tmp_path / "master.nxs" / "entry" / "transform", tmp_path / "m.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), values(BETWEEN)[0])
    told = json.loads((tmp_path / "m.json").read_text())
    np.testing.assert_allclose(told["cell"], cell)
    assert told["Laue group"] == "mmm"


# ------------------------------------------------------------------------------ VTK


@pytest.mark.parametrize("suffix", [".vti", ".vts"])
@pytest.mark.parametrize("direct", [False, True], ids=["hkl", "xyz"])
def test_vtk_reads_values_and_places(
    hklflow: Hklflow, tmp_path: Path, suffix: str, direct: bool
) -> None:
    vtk = other_program("vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    source, target = tmp_path / "v.nxs", tmp_path / f"v{suffix}"
    cell = RIGHT_ANGLED if suffix == ".vti" else CELL
    (write_pdf if direct else write_volume)(source, OFFSET, cell=cell)
    export(hklflow, "vtk", source, target)
    image = suffix == ".vti"
    reader = vtk.vtkXMLImageDataReader() if image else vtk.vtkXMLStructuredGridReader()
    reader.SetFileName(str(target))
    reader.Update()
    found = reader.GetOutput()
    assert tuple(found.GetExtent()) == (0, 19, 0, 69, 0, 17)
    name = "pdf" if direct else "S"
    shape = OFFSET.array_shape
    for array, expected in zip((name, f"{name}_sigma"), values(OFFSET, 5 * direct), strict=True):
        read = vtk_to_numpy(found.GetPointData().GetArray(array)).reshape(shape)
        np.testing.assert_array_equal(read, expected)
    for index in [(0, 0, 0), (3, 60, 7), (19, 69, 17)]:
        number = index[0] + 20 * (index[1] + 70 * index[2])
        place = cartesian(OFFSET, index, direct, cell)
        np.testing.assert_allclose(found.GetPoint(number), place, rtol=1e-6, atol=1e-6)
    told = json.loads(found.GetFieldData().GetAbstractArray("hklflow").GetValue(0))
    assert told["source"] == "v.nxs"


def read_vtk(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The head and the arrays, by the published layout: XML, then `_` and raw arrays."""
    head, raw = path.read_bytes().split(b'<AppendedData encoding="raw">\n_', 1)
    arrays = {}
    for part in head.decode().split("<DataArray ")[1:]:
        words = dict(word.split("=", 1) for word in part.split("/>")[0].split())
        at = int(words["offset"].strip('"'))
        size = int(np.frombuffer(raw, "<u8", 1, at)[0])
        arrays[words["Name"].strip('"')] = np.frombuffer(raw, "<f4", size // 4, at + 8)
    return head.decode(), arrays


def test_vtk_layout(hklflow: Hklflow, tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nxs", OFFSET)
    write_volume(tmp_path / "w.nxs", OFFSET, cell=RIGHT_ANGLED)
    for name in ("v.vts", "w.vti"):
        export(hklflow, "vtk", (tmp_path / name).with_suffix(".nxs"), tmp_path / name)
        head, arrays = read_vtk(tmp_path / name)
        assert 'WholeExtent="0 19 0 69 0 17"' in head
        for array, expected in zip(("S", "S_sigma"), values(OFFSET), strict=True):
            np.testing.assert_array_equal(arrays[array].reshape(OFFSET.array_shape), expected)
    words = [word.split('"') for word in head.split("<ImageData")[1].split("=")]
    origin, spacing = (np.array(words[i][1].split(), float) for i in (2, 3))
    place = cartesian(OFFSET, (3, 60, 7), False, RIGHT_ANGLED)
    np.testing.assert_allclose(origin + spacing * [3, 60, 7], place)
    _, arrays = read_vtk(tmp_path / "v.vts")
    points = arrays["Points"].reshape(*OFFSET.array_shape, 3)
    np.testing.assert_allclose(points[7, 60, 3], cartesian(OFFSET, (3, 60, 7), False), rtol=1e-6)


def test_image_data_of_skewed_axes_is_refused(hklflow: Hklflow, tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nxs", BETWEEN)
    message = refused(hklflow, tmp_path, "vtk", tmp_path / "v.nxs", tmp_path / "v.vti")
    assert "give a target that ends in .vts" in message


# ------------------------------------------------------------------------------ Mantid


def test_mantid_workspace(hklflow: Hklflow, tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nxs", OFFSET)
    export(hklflow, "mantid", tmp_path / "v.nxs", tmp_path / "md.nxs")
    data, errors = values(OFFSET)
    with h5py.File(tmp_path / "md.nxs") as file:
        entry = file["MDHistoWorkspace"]
        assert entry.attrs["NX_class"] == "NXentry"
        assert entry.attrs["SaveMDVersion"] == 2
        assert entry["coordinate_system"][0] == 3
        group = entry["data"]
        # As LoadMD: axes from the last to the first, ends of the bin edges, and the number of bins.
        axes = group["signal"].attrs["axes"].split(":")
        for i, name in enumerate(reversed(axes)):
            edges = group[name][()]
            assert len(edges) - 1 == OFFSET.shape[i]
            assert group[name].attrs["frame"] == "HKL"
            np.testing.assert_allclose(0.5 * (edges[1:] + edges[:-1]), OFFSET.axis(i))
        for name in ("signal", "errors_squared", "num_events"):
            assert group[name].dtype == "f8"
        np.testing.assert_array_equal(group["signal"], data)
        np.testing.assert_allclose(group["errors_squared"], errors.astype(float) ** 2)
        np.testing.assert_array_equal(group["mask"], np.isnan(data))
        counts = np.rint(np.abs(np.nan_to_num(data)))
        np.testing.assert_array_equal(group["num_events"], counts)


# ------------------------------------------------------------------------------ series


def test_a_folder_of_temperatures(hklflow: Hklflow, tmp_path: Path) -> None:
    stack = write_series(tmp_path, (20.0, 99.5, 300.0))
    export(hklflow, "temperatures", stack, tmp_path / "quartz")
    names = ["quartz_20.nxs", "quartz_300.nxs", "quartz_99.5.nxs"]
    assert sorted(path.name for path in (tmp_path / "quartz").iterdir()) == names
    from nexusformat.nexus import nxload

    for seed, name in enumerate(("20", "99.5", "300")):
        # What `load_transform` of nxs_analysis_tools reads.
        root = nxload(str(tmp_path / "quartz" / f"quartz_{name}.nxs"))
        np.testing.assert_array_equal(root.entry.transform.data.nxdata, values(CENTRED, seed)[0])
        np.testing.assert_allclose(root.entry.transform.Qk.nxdata, CENTRED.axis(1))
        assert root.entry.sample.temperature == float(name)
        a = root.entry.sample.unit_cell.nxdata[0]
        assert a == pytest.approx(CELL[0] * (1 + 1e-5 * float(name)))


def test_errors_of_cuts_are_those_of_the_exported_volume(hklflow: Hklflow, tmp_path: Path) -> None:
    """Friedel mates are one measurement, in the exported file too."""
    export(hklflow, "temperatures", write_series(tmp_path, (20.0,)), tmp_path / "quartz")
    ranges = {"h": (-0.3, 0.3), "k": (-0.2, 0.2), "l": (-0.25, 0.25)}
    one, other = (
        open_product(path).box(**ranges, estimand="mean")
        for path in (tmp_path / "t0.nxs", tmp_path / "quartz" / "quartz_20.nxs")
    )
    assert float(one.S) == float(other.S)
    assert float(one.sigma) == pytest.approx(float(other.sigma), rel=1e-6)
    independent = values(CENTRED)[1][14:19, 8:13, 12:19].astype(float)
    n = np.isfinite(independent).sum()
    assert float(one.sigma) > 1.2 * np.sqrt(np.nansum(independent**2)) / n


def test_temp_dependence_opens_the_folder(hklflow: Hklflow, tmp_path: Path) -> None:
    tools = other_program("nxs_analysis_tools")
    stack = write_series(tmp_path, (20.0, 99.5, 300.0))
    export(hklflow, "temperatures", stack, tmp_path / "quartz")
    series = tools.TempDependence(str(tmp_path / "quartz"))
    series.load_datasets(print_tree=False)
    assert series.temperatures == [20, 99.5, 300]
    series.cut_data(center=(0, 0, 0), window=(1.5, 0.2, 0.125), axis=0, normalize=True)
    for seed, kelvin in enumerate(series.temperatures):
        data = values(CENTRED, seed)[0][15:18, 8:13]
        cut = series.linecuts[kelvin].nxsignal.nxdata
        np.testing.assert_allclose(cut, np.nanmean(data, axis=(0, 1)), rtol=1e-5)


def test_xtec_file(hklflow: Hklflow, tmp_path: Path) -> None:
    stack = write_series(tmp_path, (20.0, 99.5))
    export(hklflow, "xtec", stack, tmp_path / "x.nxs")
    from nexusformat.nexus import nxload

    data = nxload(str(tmp_path / "x.nxs"))["entry/data"]
    assert [axis.nxname for axis in data.nxaxes] == ["Te", "Ql", "Qk", "Qh"]
    np.testing.assert_allclose(data.Te.nxdata, [20.0, 99.5])
    expected = np.nan_to_num([values(CENTRED, seed)[0] for seed in (0, 1)])
    np.testing.assert_array_equal(data.nxsignal.nxdata, expected)


# ------------------------------------------------------------------------------ CIF


@pytest.mark.parametrize("apart", [False, True], ids=["merged", "mates apart"])
def test_cif_and_mtz_are_equal(hklflow: Hklflow, tmp_path: Path, apart: bool) -> None:
    from iotbx import cif as iotbx_cif

    from hklflow.formats.mtz import write_mtz
    from hklflow.geometry.symmetry import space_group
    from hklflow.nexus.structure_factors import read_factors

    write_factors(tmp_path / "sf.nxs", apart)
    out = export(hklflow, "cif", tmp_path / "sf.nxs", tmp_path / "sf.cif")
    assert "_exptl_crystal_colour" in out
    factors = read_factors(tmp_path / "sf.nxs").factors
    world = crystal()
    write_mtz(tmp_path / "sf.mtz", factors, world, space_group(world.space_group), "t")
    mtz = gemmi.read_mtz_file(str(tmp_path / "sf.mtz"))
    hkl = mtz.make_miller_array()
    expected = {}
    columns = (
        [("I(+)", "SIGI(+)", 1), ("I(-)", "SIGI(-)", -1)] if apart else [("IMEAN", "SIGIMEAN", 1)]
    )
    for value, sigma, sign in columns:
        pairs = zip(
            mtz.column_with_label(value).array, mtz.column_with_label(sigma).array, strict=True
        )
        for index, (i, s) in zip(hkl.tolist(), pairs, strict=True):
            if math.isfinite(i):
                expected[tuple(sign * x for x in index)] = (i, s)
    # gemmi
    document = gemmi.cif.read(str(tmp_path / "sf.cif"))
    block = document.sole_block()
    table = block.find(
        "_refln_", ["index_h", "index_k", "index_l", "F_squared_meas", "F_squared_sigma"]
    )
    rows = {tuple(int(x) for x in list(row)[:3]): (float(row[3]), float(row[4])) for row in table}
    assert rows.keys() == expected.keys()
    for index, pair in rows.items():
        assert pair == pytest.approx(expected[index], rel=1e-6)
    assert block.find_value("_cell_length_a") == "7.2000(12)"
    assert block.find_value("_cell_length_c") == "9.10(2)"
    assert block.find_value("_cell_angle_alpha") == "90"
    assert block.find_value("_diffrn_ambient_temperature") == "120"
    assert block.find_value("_exptl_crystal_colour") == "?"
    assert block.find_value("_diffrn_reflns_av_R_equivalents") == "0.0312"
    assert int(block.find_value("_reflns_number_total")) == len(expected)
    smallest = lattice.d_spacing(world.cell, [5, 5, 5])
    theta = math.degrees(math.asin(world.wavelength / 2 / smallest))
    assert float(block.find_value("_diffrn_reflns_theta_max")) == pytest.approx(theta, abs=1e-3)
    # iotbx
    arrays = iotbx_cif.reader(file_path=str(tmp_path / "sf.cif")).as_miller_arrays()
    (array,) = [a for a in arrays if a.is_xray_intensity_array()]
    assert array.space_group_info().type().lookup_symbol() == "P 21 21 21"
    found = {
        tuple(i): (d, s)
        for i, d, s in zip(array.indices(), array.data(), array.sigmas(), strict=True)
    }
    assert found == rows


def test_cif_without_a_temperature(hklflow: Hklflow, tmp_path: Path) -> None:
    write_factors(tmp_path / "sf.nxs", False, None)
    export(hklflow, "cif", tmp_path / "sf.nxs", tmp_path / "sf.cif")
    block = gemmi.cif.read(str(tmp_path / "sf.cif")).sole_block()
    assert block.find_value("_diffrn_ambient_temperature") == "?"


# ------------------------------------------------------------------------------ refusals


def refused(hklflow: Hklflow, folder: Path, *words: str | Path) -> str:
    before = sorted(path.name for path in folder.iterdir())
    done = hklflow("export", *words)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before
    return done.err


def test_refusals(hklflow: Hklflow, tmp_path: Path) -> None:
    volume = write_volume(tmp_path / "v.nxs", BETWEEN)
    pdf = write_pdf(tmp_path / "p.nxs", BETWEEN)
    stack = write_series(tmp_path, (20.0, 20.0), BETWEEN)
    factors = write_factors(tmp_path / "sf.nxs", False)

    def says(*words: str | Path) -> str:
        return refused(hklflow, tmp_path, *words)

    assert "did you mean ccp4?" in says("cpp4", volume, tmp_path / "x.ccp4")
    assert "3DSConvert" in says("rmcprofile", volume, tmp_path / "x.h5")
    assert "does not end in .ccp4 or .map or .mrc" in says("ccp4", volume, tmp_path / "x.png")
    assert "no volume" in says("ccp4", factors, tmp_path / "x.ccp4")
    assert "a stack of volumes" in says("npy", stack, tmp_path / "x.npy")
    assert "a single volume" in says("xtec", volume, tmp_path / "x.nxs")
    assert "pair distribution" in says("mantid", pdf, tmp_path / "x.nxs")
    assert "no merged reflections" in says("cif", volume, tmp_path / "x.cif")
    assert "2 volumes at 20 K" in says("temperatures", stack, tmp_path / "x")
    assert "no file" in says("ccp4", tmp_path / "none.nxs", tmp_path / "x.ccp4")
    assert "no folder" in says("ccp4", volume, tmp_path / "none" / "x.ccp4")
    assert "is the file to be exported" in says("mantid", volume, volume)
    assert "--errors" in says("xtec", stack, tmp_path / "x.nxs", "--errors")
    partial = volume.rename(tmp_path / ".v.partial.0a1b2c3d.nxs")
    assert "not finished" in says("ccp4", partial, tmp_path / "x.ccp4")
    partial.rename(volume)
    volume.write_bytes(volume.read_bytes()[:3000])
    assert "not a readable HDF5 file" in says("ccp4", volume, tmp_path / "x.ccp4")


def test_existing_targets(hklflow: Hklflow, tmp_path: Path) -> None:
    volume = write_volume(tmp_path / "v.nxs", BETWEEN)
    other = write_volume(tmp_path / "w.nxs", BETWEEN)
    export(hklflow, "npy", volume, tmp_path / "a.npy")
    assert "--force replaces" in refused(hklflow, tmp_path, "npy", volume, tmp_path / "a.npy")
    export(hklflow, "npy", volume, tmp_path / "a.npy", "--force")
    # A file that belongs to the export, here the JSON, is not replaced either.
    (tmp_path / "b.json").write_text("mine")
    assert "b.json exists" in refused(hklflow, tmp_path, "npy", volume, tmp_path / "b.npy")
    assert "did not write" in refused(hklflow, tmp_path, "mantid", volume, other, "--force")
    raw = tmp_path / "raw.h5"
    raw.write_bytes(other.read_bytes())
    assert "did not write" in refused(hklflow, tmp_path, "yell", volume, raw, "--force")
    export(hklflow, "yell", volume, tmp_path / "y.h5")
    export(hklflow, "yell", volume, tmp_path / "y.h5", "--force")
    export(hklflow, "mantid", volume, tmp_path / "m.nxs")
    export(hklflow, "mantid", volume, tmp_path / "m.nxs", "--force")
    (tmp_path / "folder").mkdir()
    stack = write_series(tmp_path, (20.0, 30.0), BETWEEN)
    words = ("temperatures", stack, tmp_path / "folder", "--force")
    assert "is a folder" in refused(hklflow, tmp_path, *words)


def test_a_rotation_is_not_exported(hklflow: Hklflow, tmp_path: Path) -> None:
    from hklflow import nexus

    counts = np.ones(BETWEEN.array_shape)
    nexus.write_volume(tmp_path / "r.nxs", nexus.Volume(BETWEEN, CELL, counts, counts), "rotation")
    message = refused(hklflow, tmp_path, "ccp4", tmp_path / "r.nxs", tmp_path / "x.ccp4")
    assert "not yet S(Q)" in message


def test_a_moved_stack_is_told(hklflow: Hklflow, tmp_path: Path) -> None:
    stack = write_series(tmp_path, (20.0, 30.0), BETWEEN)
    (tmp_path / "t1.nxs").unlink()
    message = refused(hklflow, tmp_path, "xtec", stack, tmp_path / "x.nxs")
    assert "t1.nxs does not exist" in message


def test_help_names_all_formats(hklflow: Hklflow) -> None:
    text = hklflow("export", "--help").out
    assert all(name in text for name in FORMATS)
