"""`hklflow.open`: what opens, what cuts contain, and what is refused in one sentence."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hklflow
from hklflow import nexus
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.nexus.stack import Member, open_members, write_stack
from hklflow.results import Stack, Volume

HEXAGONAL = np.array([4.8, 4.8, 7.15, 90.0, 90.0, 120.0])
GRID = Grid(np.array([-2.0, -2.0, -1.0]), np.array([0.1, 0.1, 0.05]), (41, 41, 41))
FRIEDEL = [np.eye(3).tolist(), (-np.eye(3)).tolist()]


def volume(
    path: Path, notes: dict | None = None, cell: np.ndarray = HEXAGONAL, **more: object
) -> Path:
    """A merged volume of S = h + 10 with σ = 0.1 and norm 1; the half l < 0 is not measured."""
    shape = GRID.array_shape
    data = np.broadcast_to(GRID.axis(0) + 10, shape).astype(np.float32).copy()
    norm = np.ones(shape, np.float32)
    data[:20], norm[:20] = np.nan, 0
    arrays = {
        "data": data,
        "data_errors": np.where(norm > 0, 0.1, np.nan).astype(np.float32),
        "counts": np.nan_to_num(data).astype(np.float64),
        "norm": norm,
        **more,
    }
    extra = {name: np.float32 for name in more if name not in ("variance", "background")}
    with nexus.VolumeWriter(
        path, GRID, cell, "S", np.float64, True, extra=extra,
        variance="variance" in more, background="background" in more,
    ) as writer:  # fmt: skip
        writer.write(0, **arrays)
        writer.note(notes or {})
    return path


def grid_volume(path: Path, group: str, notes: dict, punched: np.ndarray | None = None) -> Path:
    """A volume without counts and norm: S = 1, σ = 0.5."""
    ones = np.ones(GRID.array_shape, np.float32)
    arrays = {"data": ones, "data_errors": ones / 2}
    if punched is not None:
        arrays["punched"] = punched
    types = {name: array.dtype for name, array in arrays.items()}
    direct = group == "pdf"
    with nexus.GridWriter(path, GRID, HEXAGONAL, "t", types, group=group, direct=direct) as writer:
        writer.write(0, **arrays)
        writer.note(notes)
    return path


def test_values_coordinates_and_units(tmp_path: Path) -> None:
    one = hklflow.open(volume(tmp_path / "v.nxs"))
    assert isinstance(one, Volume)
    assert (one.kind, one.grid.shape) == ("merged", (41, 41, 41))
    plane = one.plane("hk0.5")
    np.testing.assert_allclose(plane.S, np.broadcast_to(plane.h + 10, plane.S.shape), rtol=1e-6)
    assert float(plane.l) == 0.5
    assert plane.S.attrs["units"] == "counts per unit norm"
    line = one.line((-1, 0, 0.5), (1, 0, 0.5), 0.2)
    np.testing.assert_allclose(line.S, line.h + 10, rtol=1e-6)
    lengths = 4 * np.pi / (4.8 * np.sqrt(3))
    assert float(line.distance[-1]) == pytest.approx(2 * lengths)
    assert line.distance.attrs["units"] == "1/angstrom"
    box = one.box(h=(-0.1, 0.1), k=(0, 0.1), l=(-0.1, 0.1))
    # Three planes of five are measured: l = 0, 0.05, 0.1.
    assert (int(box.voxels), float(box.measured)) == (30, pytest.approx(0.6))
    assert float(box.sigma) == pytest.approx(0.1 / np.sqrt(18), rel=1e-5)
    scale = float(box.h.attrs["scaling_factor"])
    same = one.box(h=(-0.1 * scale, 0.1 * scale), k=(0, 0.1 * scale), unit="1/angstrom")
    assert same.voxels == 6 * 41
    coarse = one.rebin((0.30003, 0.3, 0.15), l=(0.2, 0.6))  # steps as a person rounds them
    np.testing.assert_array_equal(one.rebin(3 * one.grid.step).h, coarse.h)
    assert 0.0 in coarse.h.values
    np.testing.assert_allclose(coarse.S.isel(h=3), coarse.h[3] + 10, rtol=1e-6)
    radial = one.radial(0.5, q_max=1.5)
    assert (radial.sizes["Q"], radial.Q.attrs["units"]) == (3, "1/angstrom")


def test_only_the_blocks_that_are_needed_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = hklflow.open(volume(tmp_path / "v.nxs"))
    read: list[int] = []
    plain = h5py.Dataset.__getitem__

    def counting(self: h5py.Dataset, key: object, **options: object) -> np.ndarray:
        found = plain(self, key, **options)
        read.append(np.size(found))
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    one.box(h=(0.9, 1.1), k=(0.9, 1.1), l=(0.4, 0.5))
    assert sum(read) < 1000


def test_planes_are_drawn_with_the_angles_of_the_cell(tmp_path: Path) -> None:
    one = hklflow.open(volume(tmp_path / "v.nxs"))
    figure = one.plane("hk0").hklflow.plot()
    (image,) = figure.axes[0].get_images()
    skew = image.get_transform() - figure.axes[0].transData
    along_h, along_k = np.diff(skew.transform([(0, 0), (1, 0), (0, 0), (0, 1)]), axis=0)[::2]
    cosine = along_h @ along_k / np.linalg.norm(along_h) / np.linalg.norm(along_k)
    assert np.degrees(np.arccos(cosine)) == pytest.approx(60)
    figure = one.line((-1, 0, 0), (1, 0, 0), 0.2).hklflow.plot()
    assert figure.axes[0].get_xlabel() == "distance from (-1, 0, 0) (1/angstrom)"


def test_images_in_a_bin_are_one_measurement(tmp_path: Path) -> None:
    notes = {"operations": FRIEDEL}
    ranges = {"h": (-0.1, 0.1), "k": (0, 0), "l": (0, 0)}
    one = hklflow.open(volume(tmp_path / "s.nxs", notes))
    assert one.kind == "symmetrised"
    # Three voxels, two of which are mates: their weights are 2/3 and 1/3.
    mean = one.box(**ranges, estimand="mean")
    assert float(mean.sigma) == pytest.approx(0.1 * np.sqrt(2**2 + 1) / 3, rel=1e-5)
    ratio = one.box(**ranges, estimand="ratio")
    assert float(ratio.sigma) == pytest.approx(0.1 / np.sqrt(2), rel=1e-5)
    line = one.line((-1, 0, 0), (1, 0, 0), 0.1)
    assert "have an image in another bin" in line.attrs["errors"]


def test_filled_voxels_add_no_information(tmp_path: Path) -> None:
    punched = np.zeros(GRID.array_shape, np.uint8)
    punched[20, 20, 18:21] = 1
    one = hklflow.open(
        grid_volume(tmp_path / "f.nxs", "transform", {"operations": FRIEDEL[:1]}, punched)
    )
    assert one.kind == "filled"
    ranges = {"h": (-0.2, 0.2), "k": (0, 0), "l": (0, 0)}
    without, with_them = one.box(**ranges), one.box(**ranges, filled=True)
    assert (float(without.measured), float(without.filled)) == (0.4, 0.6)
    assert float(without.sigma) == pytest.approx(0.5 / np.sqrt(2))
    assert float(with_them.sigma) == pytest.approx((0.5 * np.sqrt(2) + 3 * 0.5) / 5)
    plane = one.plane("hk0")
    assert np.isfinite(plane.S).all()
    assert plane.filled.sum() == 3


def test_the_error_of_the_background_is_listed(tmp_path: Path) -> None:
    shape = GRID.array_shape
    notes = {
        "relative errors of the backgrounds, common to all voxels": {"r1": {"air": 0.02}},
        "variance of the background in a sum of voxels, over the sum of their variances": {
            "r1": {"2 x 2 x 2 voxels": 3.0}
        },
    }
    counts = np.full(shape, 10.0)
    background, variance = np.full(shape, 5, np.float32), np.full(shape, 17, np.float32)
    errors = np.full(shape, np.sqrt(17), np.float32)
    path = volume(
        tmp_path / "b.nxs", notes, counts=counts, background=background, variance=variance,
        data_errors=errors, norm=np.ones(shape, np.float32), data=counts.astype(np.float32),
    )  # fmt: skip
    box = hklflow.open(path).box(h=(0, 0.1), k=(0, 0), l=(0, 0))
    assert float(box.sigma_background) == pytest.approx(0.02 * 5)
    # Two voxels: photons 15 and background 2 each, of which the background is three times.
    assert float(box.sigma) == pytest.approx(np.sqrt(2 * 15 + 3 * 2 * 2) / 2)


def test_pair_distributions_have_no_ratio_and_no_error_of_a_mean(tmp_path: Path) -> None:
    one = hklflow.open(grid_volume(tmp_path / "p.nxs", "pdf", {"kind": "delta"}))
    assert one.kind == "delta"
    assert set(one.plane("x y 0").dims) == {"x", "y"}
    assert float(one.plane("x y 0").sigma[0, 0]) == 0.5
    box = one.box(x=(0, 0.2))
    assert np.isnan(box.sigma)
    line = one.line((0, 0, 0), (1, 0, 0), 0.5)
    assert line.distance.attrs["units"] == line.attrs["width unit"] == "angstrom"
    with pytest.raises(HklflowError, match="no counts and norm"):
        one.box(estimand="ratio")


def test_a_stack_has_a_dimension_of_temperature(tmp_path: Path) -> None:
    paths = []
    for name, a in (("cold", 4.79), ("hot", 4.81)):
        (tmp_path / name).mkdir()
        cell = np.array([a, a, 7.15, 90.0, 90.0, 120.0])
        paths.append(volume(tmp_path / name / "transform.nxs", cell=cell))
    listed = [Member(paths[0], "cold", 100.0), Member(paths[1], "hot", 300.0)]
    none = nexus.Intensities(np.zeros((0, 3)), np.zeros((0, 2)), np.zeros((0, 2)))
    with open_members(listed) as volumes:
        write_stack(tmp_path / "stack.nxs", "t", listed, volumes, none)
    stack = hklflow.open(tmp_path / "stack.nxs")
    assert isinstance(stack, Stack)
    for cut in (
        stack.line((-1, 0, 0.5), (1, 0, 0.5), 0.2, step=0.3),
        stack.plane("hk0"),
        stack.radial(),
        stack.box(h=(0, 1)),
        stack.rebin(0.5),
    ):
        assert cut.temperature.values.tolist() == [100.0, 300.0]
        assert cut.S.dims[0] == "temperature"
        assert np.isfinite(cut.S).any(dim=cut.S.dims[1:]).all()
    assert stack.box(h=(0, 1)).hklflow.plot().axes[0].get_xlabel() == "temperature (K)"
    plane = stack.plane("hk0")
    plane.sel(temperature=300).hklflow.plot()
    with pytest.raises(HklflowError, match="one temperature"):
        plane.hklflow.plot()
    paths[1].unlink()
    with pytest.raises(HklflowError, match="is missing"):
        hklflow.open(tmp_path / "stack.nxs")


def test_volumes_open_through_links_of_a_master(tmp_path: Path) -> None:
    volume(tmp_path / "s.nxs", {"operations": FRIEDEL})
    with h5py.File(tmp_path / "master.nxs", "w") as file:
        file.attrs["default"], entry = "entry", file.create_group("entry")
        entry.attrs["default"] = "datasets"
        entry["group"] = h5py.ExternalLink("s.nxs", "/entry/transform")
        links = entry.create_group("datasets")
        links.attrs.update({"signal": "data", "axes": ["Ql", "Qk", "Qh"]})
        for name in ("data", "Ql", "Qk", "Qh"):
            links[name] = h5py.ExternalLink("s.nxs", f"/entry/transform/{name}")
    plain = hklflow.open(tmp_path / "s.nxs").box(h=(0, 0.1))
    for inside in ("", "entry/group", "entry/datasets"):
        one = hklflow.open(tmp_path / "master.nxs" / inside)
        assert one.kind == "symmetrised"
        assert one.box(h=(0, 0.1)).equals(plain)
    (tmp_path / "s.nxs").rename(tmp_path / "moved.nxs")
    with pytest.raises(HklflowError, match=r"links its plot 'data' to .*s\.nxs, which is missing"):
        hklflow.open(tmp_path / "master.nxs")


def test_tables_and_series(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "peaks.nxs", "w") as file:
        entry = file.create_group("entry")
        entry["title"] = "peaks"
        table = entry.create_group("peaks")
        table.attrs["NX_class"] = "NXreflections"
        table["int_sum"] = [1.0, 2.0]
        table["int_sum"].attrs["units"] = "counts"
    peaks = hklflow.open(tmp_path / "peaks.nxs")
    assert peaks.int_sum.dims == ("peak",)
    assert peaks.int_sum.attrs["units"] == "counts"
    names = {name: nexus.Quantity(name, "angstrom") for name in "abc"}
    values = {"a": 4.0, "b": 5.0, "c": 6.0, "a_sigma": 0.1, "b_sigma": 0.1, "c_sigma": 0.1}
    rows = [{"scan": f"{t}K", "parent": "300K", "temperature": t, **values} for t in (300.0, 100.0)]
    nexus.write_series(tmp_path / "series.nxs", "t", rows, names)
    series = hklflow.open(tmp_path / "series.nxs")
    assert series.temperature.values.tolist() == [100.0, 300.0]
    assert float(series.a_errors[0]) == 0.1


REFUSED = {
    "plane('hk9')": "plane h k 9 is outside the volume",
    "plane('hkl')": "a plane needs two",
    "plane('hk-0.5')": "nothing was measured on plane",
    "plane('hk0', -1)": "width: -1 is neither 0 nor a positive number",
    "plane('hk0', 'thin')": "width: 'thin' is neither 0 nor a positive number",
    "plane('hk0', 1j)": "width: 1j is neither",
    "plane(('h', 'k', 0))": r"plane: \('h', 'k', 0\) is not a text; write three expressions",
    "plane('hk0', 1, unit='inch')": "unit 'inch' is unknown",
    "box(h=(5, 6))": "contains no voxel centre",
    "box(h=(1, 0))": r"range of h: \(1, 0\) is not",
    "box(x=(0, 1))": "'x' is no axis",
    "box(l=(-1, -0.5))": "nothing was measured in the region: none of its",
    "box(estimand='sum')": "estimand 'sum' does not exist",
    "box(filled=True)": "has no filled voxels",
    "line((0, 0, 0), (0, 0, 0), 1)": "starts and ends at",
    "line((0, 0), (0, 0, 1), 1)": "is not three numbers h, k, l",
    "line((0, 0, 0), (1, 0, 0), 0)": "width: 0 is not a positive number",
    "line('abc', (1, 0, 0), 0.1)": "start: 'abc' is not three numbers h, k, l; give three",
    "line((0, 0, 0), (1, 0, 'x'), 0.1)": "end: .* is not three numbers",
    "line((0, 0, 0), (1, 0, 1j), 0.1)": "end: .* is not three numbers",
    "line((0, 0, 0), (1, 0, float('nan')), 0.1)": "end: .* is not three numbers",
    "line(None, (1, 0, 0), 0.1)": "start: None is not three numbers",
    "line((0, 0, 0), (1, 0, 0), None)": "width: None is not a positive number",
    "line((0, 0, 0), (1, 0, 0), 0.1, step='x')": "step: 'x' is not a positive number",
    "line((0, 0, 9), (1, 0, 9), 1)": "contains no voxel centre",
    "radial(-1)": "step: -1 is not a positive number",
    "radial('x')": "step: 'x' is not a positive number",
    "box(k=0.3)": r"range of k: 0.3 is not \(lowest, highest\); give two numbers",
    "box(h=('0', '1'))": r"range of h: \('0', '1'\) is not \(lowest, highest\)",
    "box(h=(0, 1j))": "range of h: .* is not",
    "box(h=(0, None))": "range of h: .* is not",
    "box(h=(0, 1, 2))": "range of h: .* is not",
    "box(h={'low': 1})": "range of h: .* is not",
    "radial([0.1, 0.2])": "step: .* is not a positive number",
    "radial(True)": "step: True is not a positive number",
    "radial(q_max='x')": "q_max: 'x' is not a positive number",
    "rebin('x')": "step: 'x' is not a positive number, or three",
    "rebin((0.1, 0.1))": "step: .* is not a positive number, or three",
    "rebin([[0.1], [0.1, 0.2]])": "step: .* is not a positive number, or three",
    "rebin(1j)": "step: 1j is not a positive number, or three",
    "rebin(0.2, h=('a', 1))": "range of h: .* is not",
    "rebin(0.15)": "no whole multiple",
    "rebin(0)": "is not a positive number",
}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return volume(tmp_path_factory.mktemp("merged") / "v.nxs")


def test_numbers_may_be_of_numpy(merged: Path) -> None:
    one = hklflow.open(merged)
    step = 2 * one.grid.step
    assert one.rebin(step).equals(one.rebin(list(step)))
    line = one.line(np.zeros(3), np.array([1, 0, 0]), np.float32(0.5))
    assert line.equals(one.line((0, 0, 0), (1, 0, 0), 0.5))
    assert one.radial(line.distance[1]).equals(one.radial(float(line.distance[1])))


@pytest.mark.parametrize("call", REFUSED)
def test_what_cannot_be_cut_is_refused_in_one_sentence(merged: Path, call: str) -> None:
    name, arguments = call.split("(", 1)
    one = hklflow.open(merged)
    with pytest.raises(HklflowError, match=REFUSED[call]):
        eval(f"method({arguments}", {"method": getattr(one, name)})


def test_what_is_no_product_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HklflowError, match="correct the path"):
        hklflow.open(tmp_path / "missing.nxs")
    (tmp_path / "text.nxs").write_text("text")
    with pytest.raises(HklflowError, match="is not HDF5"):
        hklflow.open(tmp_path / "text.nxs")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    with pytest.raises(HklflowError, match="is no product"):
        hklflow.open(tmp_path / "other.h5")
    with pytest.raises(HklflowError, match=r"no config/config\.yaml"):
        hklflow.open(tmp_path)
    with pytest.raises(HklflowError, match="3 is not a path; give the path"):
        hklflow.open(3)  # type: ignore[arg-type]


def test_import_is_light() -> None:
    heavy = {"h5py", "xarray", "pandas", "numba", "matplotlib"}
    code = f"import sys, hklflow; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_cuts_of_two_temperatures_are_subtracted_bin_by_bin(tmp_path: Path) -> None:
    """Distances differ with the cell, so that xarray must not join them by equal values."""
    paths = []
    for name, a in (("cold", 4.79), ("hot", 4.81)):
        paths.append(volume(tmp_path / f"{name}.nxs", cell=np.array([a, a, 7.15, 90, 90, 120.0])))
    cold, hot = (hklflow.open(path).line((-1, 0, 0.5), (1, 0, 0.5), 0.2) for path in paths)
    assert not np.allclose(cold.distance, hot.distance)
    assert (cold.S - hot.S).sizes == cold.S.sizes
    assert (cold - hot).sizes == cold.sizes
    found = cold.hklflow.minus(hot)
    np.testing.assert_allclose(found.S, 0, atol=1e-6)
    np.testing.assert_allclose(found.sigma, np.hypot(cold.sigma, hot.sigma))
    np.testing.assert_allclose(found.h, cold.h)
    assert "independent" in found.attrs["errors"]
    assert found.hklflow.plot().axes[0].get_ylabel().startswith("difference of S(Q)")
    one = hklflow.open(paths[0])
    box, side = (one.box(h=(h, h + 0.1), k=(0, 0), l=(0, 0.1)) for h in (0.5, 1.0))
    assert float(box.hklflow.minus(side).S) == pytest.approx(-0.5, rel=1e-5)
    sigma = 0.1 * np.sqrt(2 / 6)  # six voxels each
    assert float(box.hklflow.minus(side).sigma) == pytest.approx(sigma, rel=1e-5)
    plane = one.plane("hk0").hklflow.minus(hklflow.open(paths[1]).plane("hk0"))
    plane.hklflow.plot()
    for other, words in (
        (one.line((-1, 0, 0.5), (1, 0, 0.5), 0.3), "differ in width: 0.2 and 0.3"),
        (one.line((-1, 0, 0.5), (0, 0, 0.5), 0.2), "other bins"),
        (one.line((0, -1, 0.5), (0, 1, 0.5), 0.2), "direction of the line"),
        (one.line((-1, 0, 0.5), (1, 0, 0.5), 0.2, estimand="mean"), "differ in estimand"),
        (box[["S"]], "is no cut"),
    ):
        with pytest.raises(HklflowError, match=words):
            cold.hklflow.minus(other)
    assert box.attrs["volume of a voxel"] == pytest.approx(
        0.1 * 0.1 * 0.05 * (2 * np.pi) ** 3 / (4.79**2 * 7.15 * np.sqrt(0.75)), rel=1e-6
    )


def test_tables_begin_with_hkl(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.nxs", "w") as file:
        file["entry/title"] = "t"
        group = file.create_group("entry/reflections")
        group.attrs["NX_class"] = "NXreflections"
        for name in ("d", "h", "intensity", "k", "l"):
            group[name] = np.arange(3)
    assert [*hklflow.open(tmp_path / "t.nxs")] == ["h", "k", "l", "d", "intensity"]


def test_an_experiment_has_the_findings_of_its_samples(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[2] / "demo/config", tmp_path / "config")
    assert "no findings" in repr(hklflow.open(tmp_path).findings)
    file = tmp_path / "results/hexa/temperature_series/order.json"
    file.parent.mkdir(parents=True)
    rows = [{"sentence": "a appears", "command": "hklflow show a"}]
    file.write_text(json.dumps({"findings": rows}))
    findings = hklflow.open(tmp_path).findings
    assert [(x.sample, x.sentence, x.command) for x in findings] == [
        ("hexa", "a appears", "hklflow show a")
    ]
    assert repr(findings) == "hexa: a appears\n  hklflow show a"
    file = tmp_path / "results/hexa/stack_300K/pdf_series_masked_transform.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"findings": [{"sentence": "b", "command": "hklflow show b"}]}))
    assert [x.sentence for x in hklflow.open(tmp_path).findings] == ["a appears", "b"]
