"""Stage `scan_file`: the master file, with symmetrised volumes and pair distributions."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow import nexus
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.geometry.lattice import reciprocal
from hklflow.stages import scan_file
from hklflow.volumes.disagreement import DisagreementMap
from tests.test_nexus import _product
from tests.test_temperature_series import rotation
from tests.truth.orientations import write_orientation

CELL = np.array([4.8, 4.8, 7.15, 90.0, 90.0, 120.0])
GRID = Grid.symmetric([1.0, 0.5, 0.6], [0.1, 0.25, 0.2])
KINDS = {"transform": "", "masked_transform": "masked_"}


def _grid_file(path: Path, value: float, types: dict[str, Any], **more: Any) -> Path:
    """A volume whose first array is `value` everywhere and whose others are their number."""
    with nexus.GridWriter(path, GRID, CELL, path.stem, types, **more) as writer:
        shape = GRID.array_shape
        arrays = {
            name: np.full(shape, i + value, dtype) for i, (name, dtype) in enumerate(types.items())
        }
        writer.write(0, **arrays)
        writer.note({})
    return path


def _inputs(top: Path) -> dict[str, Any]:
    below = top / "r1"
    below.mkdir(parents=True)
    made = {kind: _product(below, kind) for kind in ("series", "statistics", "peaks", "frame_mask")}
    with h5py.File(below / "scale.nxs", "w") as file:
        file["entry/frame_scale/scale"] = np.ones(3)
    write_orientation(
        top / "orientation.json",
        {"r1": rotation(0.0)},
        group="P 6/m m m",
        cell=CELL,
        temperature=300.0,
    )
    pair = {"data": np.float32, "data_errors": np.float32}
    given: dict[str, Any] = {
        "orientation": top / "orientation.json",
        "scans": [made["series"]],
        "statistics": [made["statistics"]],
        "scales": [below / "scale.nxs"],
        "peaks": [made["peaks"]],
        "frame_masks": [made["frame_mask"]],
        "rotation_transforms": [below / "transform.nxs"],
        "rotation_masked_transforms": [below / "masked_transform.nxs"],
        "symmetrised": [], "filled": [], "total_pdfs": [], "delta_pdfs": [],
        "differences": [], "pdf_differences": [],
    }  # fmt: skip
    for i, kind in enumerate(KINDS):
        _grid_file(below / f"{kind}.nxs", i, {"counts": np.uint32, "norm": np.float32}, fast=True)
        given[kind] = _grid_file(top / f"{kind}.nxs", 10 + i, pair)
        symm = pair | {"counts": np.float64, "norm": np.float32, "multiplicity": np.uint8}
        given["symmetrised"] += [_grid_file(top / f"symm_{kind}.nxs", 20 + i, symm)]
        filled = pair | {"punched": np.uint8}
        given["filled"] += [_grid_file(top / f"filled_{kind}.nxs", 30 + i, filled)]
        for name, value in (("total", 40), ("delta", 50)):
            path = top / f"{name}_pdf_{kind}.nxs"
            given[f"{name}_pdfs"] += [_grid_file(path, value + i, pair, group="pdf", direct=True)]
        given["differences"] += [_grid_file(top / f"difference_{kind}.nxs", 60 + i, pair)]
        path = top / f"pdf_difference_{kind}.nxs"
        given["pdf_differences"] += [_grid_file(path, 70 + i, pair, group="pdf", direct=True)]
    return given


def _run(given: dict[str, Any]) -> Path:
    master = Path(given["transform"]).parent / "hexa_300K.nxs"
    scan_file.main(
        inputs=scan_file.Inputs(**given),
        outputs=scan_file.Outputs(master=master),
        params=scan_file.Params(title="hexa 300K"),
    )
    return master


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A master file whose folder has moved since."""
    base = tmp_path_factory.mktemp("master")
    name = _run(_inputs(base / "before/out")).name
    (base / "elsewhere").mkdir()
    shutil.move(base / "before", base / "elsewhere/after")
    return base / "elsewhere/after/out" / name


def test_names_that_users_know_lead_to_the_right_files(master: Path) -> None:
    with h5py.File(master) as file:
        entry = file["entry"]
        for i, mark in enumerate(KINDS.values()):
            assert entry[f"{mark}transform/data"][0, 0, 0] == 10 + i
            symm = entry[f"{mark}symm_transform"]
            assert symm["data"][0, 0, 0] == 20 + i
            assert symm["data_errors"][0, 0, 0] == 21 + i
            assert symm["multiplicity"][0, 0, 0] == 24 + i
            assert symm["filled_data"][0, 0, 0] == 30 + i
            assert symm["filled_data_errors"][0, 0, 0] == 31 + i
            assert symm["punched"][0, 0, 0] == 32 + i
            assert entry[f"{mark}total_pdf/data"][0, 0, 0] == 40 + i
            assert entry[f"{mark}pdf/data"][0, 0, 0] == 50 + i
            assert entry[f"{mark}difference/data"][0, 0, 0] == 60 + i
            assert entry[f"{mark}pdf_difference/data"][0, 0, 0] == 70 + i
        targets = set(nexus.linked_files(master))
    names = {Path(target).name for target in targets}
    assert names >= {f"{p}_{k}.nxs" for p in ("symm", "filled", "total_pdf") for k in KINDS}
    assert not [target for target in targets if Path(target).is_absolute()]


def test_the_map_of_differences_between_rotations_is_linked(tmp_path: Path) -> None:
    given = _inputs(tmp_path / "out")
    with h5py.File(given["masked_transform"], "r+") as file:
        found = DisagreementMap(2, GRID)
        found.x += 0.5
        found.v += 4.0
        nexus.write_disagreement(file["entry"], found, ["r1", "r2"])
    with h5py.File(_run(given)) as file:
        assert "disagreement" not in file["entry"]  # this volume is of one rotation
        group = file["entry/masked_disagreement"]
        assert group.attrs["signal"] == "significance"
        assert group["significance"][0, 0, 0] == 0.25
        assert group["rotations/difference"][1, 0, 0, 0] == 0.125
        assert group["rotations/difference_errors"][1, 0, 0, 0] == 0.5


def test_every_link_is_relative_and_resolves(master: Path) -> None:
    with h5py.File(master) as file:

        def walk(group: h5py.Group) -> int:
            n = 0
            for name in group:
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    assert not Path(link.filename).is_absolute()
                    assert group.get(name) is not None, f"{group.name}/{name}"
                    n += 1
                elif isinstance(group[name], h5py.Group):
                    n += walk(group[name])
            return n

        # 2 volumes, 2 differences, 6 pair distributions, each with 2 arrays; 2 x (5 arrays, and 3
        # of the filled one); the plane: 2 arrays. Axes and titles are copies.
        assert walk(file["entry"]) == 10 * 2 + 2 * 8 + 2
        # All groups are in this file: nexusformat finds nothing in a group that is a link.
        assert walk(file["f1"]) > 20


def test_cells_are_drawn_with_their_angles(master: Path) -> None:
    """NeXpy wants the angles of the group and a scaling factor of each axis."""
    lengths, angles = np.split(reciprocal(CELL), 2)
    with h5py.File(master) as file:
        symm, pdf = file["entry/symm_transform"], file["entry/pdf"]
        # Between (Ql, Qk), (Ql, Qh), (Qk, Qh): alpha*, beta*, gamma*; the list is reversed.
        np.testing.assert_allclose(symm.attrs["angles"], angles[::-1])
        assert symm.attrs["angles"][0] == pytest.approx(60.0)
        for name, length in zip(("Qh", "Qk", "Ql"), lengths, strict=True):
            assert symm[name].attrs["scaling_factor"] == pytest.approx(length)
        assert pdf.attrs["angles"][0] == pytest.approx(120.0)
        assert pdf["z"].attrs["scaling_factor"] == pytest.approx(7.15)


def test_silx_draws_the_symmetrised_volume_and_offers_the_filled_one(master: Path) -> None:
    import silx.io
    from silx.io import nxdata

    with silx.io.open(str(master)) as file:
        default = nxdata.get_default(file)
        assert default is not None
        assert default.issues == []
        assert default.group.name.endswith("plane")
        assert default.axes_dataset_names == ["Qk", "Qh"]
        assert default.signal.shape == GRID.array_shape[1:]
        assert (default.signal[()] == 20).all()
        assert default.errors is not None
        whole = nxdata.NXdata(file["entry/symm_transform"])
        assert whole.auxiliary_signals_dataset_names == ["filled_data", "punched"]
        for name in ("pdf", "masked_total_pdf", "masked_symm_transform"):
            found = nxdata.NXdata(file[f"entry/{name}"])
            assert found.is_valid, name
            assert found.signal.shape == GRID.array_shape


def test_nexusformat_plots_the_symmetrised_volume(master: Path) -> None:
    from nexusformat.nexus import nxload

    root = nxload(str(master), "r")
    assert root.plottable_data.nxname == "plane"
    plottable = root.entry.symm_transform
    assert plottable.nxsignal.nxname == "data"
    assert plottable.nxsignal.shape == GRID.array_shape
    assert [axis.nxname for axis in plottable.nxaxes] == ["Ql", "Qk", "Qh"]
    assert float(plottable["filled_data"].nxdata[0, 0, 0]) == 30
    assert [axis.nxname for axis in root["entry/pdf"].nxaxes] == ["z", "y", "x"]
    # All of it can be walked through, as NeXpy's tree view does.
    assert "wavelength = " in root["f1/instrument"].tree
    assert "signal = 'data'" in root.tree


def test_without_them_it_is_as_before(tmp_path: Path) -> None:
    given = _inputs(tmp_path / "out")
    optional = ("symmetrised", "filled", "total_pdfs", "delta_pdfs", "differences")
    for name in (*optional, "pdf_differences"):
        del given[name]
    with h5py.File(_run(given)) as file:
        assert file["entry"].attrs["default"] == "plane"
        assert file["entry/plane"].attrs["plane_of"] == "transform"
        assert "symm_transform" not in file["entry"]
        assert "pdf" not in file["entry"]
        assert "difference" not in file["entry"]


def test_what_cannot_be_linked_is_told(tmp_path: Path) -> None:
    given = _inputs(tmp_path / "out")
    with pytest.raises(HklflowError, match=r"_transform\.nxs is a filled volume without"):
        _run(given | {"symmetrised": []})
    with pytest.raises(HklflowError, match=r"is not called symm_transform\.nxs or"):
        _run(given | {"symmetrised": given["filled"]})
    given["filled"][0].write_text("no HDF5")
    with pytest.raises(HklflowError, match=r"filled_transform\.nxs is not a readable HDF5 file"):
        _run(given)
