"""`hklflow slice`: numbers against numpy's own indexing, pictures, and what is refused."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from matplotlib.colors import LogNorm, Normalize

from hklflow import open as hklflow_open
from hklflow.cli import draw
from hklflow.geometry.grid import Grid
from hklflow.plots.drawing import Planes

from .conftest import Hklflow
from .volumes import GRID, HEXAGONAL, bright, pair_distribution, voxel, write

H, K, L = (GRID.axis(i) for i in range(3))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """S of h + 10 k + 100 l + 200; nothing measured in a corner."""
    data = H + 10 * K[:, None] + 100 * L[:, None, None] + 200
    data[:, :5, :5] = np.nan
    return write(tmp_path / "volume.nxs", data)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Planes]:
    """What is drawn, instead of drawing it."""
    found: list[Planes] = []
    monkeypatch.setattr(
        draw, "print_or_save", lambda drawing, output, reasons: found.append(drawing)
    )
    return found


def table(path: Path) -> np.ndarray:
    return np.loadtxt(path, skiprows=1)


def test_numbers_of_a_plane(hklflow: Hklflow, volume: Path, tmp_path: Path) -> None:
    done = hklflow("slice", volume, "--plane", "hk0.3", "-o", tmp_path / "x.tsv")
    assert done.code == 0, done.err
    assert done.out == (
        f"{tmp_path / 'x.tsv'}\n"
        "h k 0.3: 41 rows (k from -2 to 2 in steps of 0.1) of 41 columns (h from -2 to 2 in steps "
        "of 0.1)\n"
    )
    assert (tmp_path / "x.tsv").read_text().splitlines()[0] == "h\tk\tl\tvalue\terror"
    rows = table(tmp_path / "x.tsv")
    assert rows.shape == (41 * 41 - 25, 5)
    np.testing.assert_allclose(rows[:, 2], 0.3)
    value = rows[:, 0] + 10 * rows[:, 1] + 30 + 200
    np.testing.assert_allclose(rows[:, 3], value, rtol=1e-5)
    np.testing.assert_allclose(rows[:, 4], 0.1 * value, rtol=1e-5)
    hklflow("slice", volume, "h", "k", "0.3", "-o", tmp_path / "x.npy")
    image = np.load(tmp_path / "x.npy")
    np.testing.assert_allclose(image[7, 30], H[30] + 10 * K[7] + 230, rtol=1e-5)
    assert np.isnan(image[:5, :5]).all()
    assert np.isfinite(image).sum() == len(rows)
    done = hklflow("slice", volume)
    assert (done.code, done.err.rstrip()) == (
        2, f"hklflow: which plane of {volume}? For example hk0, or xy0 in direct space",
    )  # fmt: skip


@pytest.mark.parametrize("plane", ["h 0 l", "h0l"])
def test_numbers_with_axes_in_nexus(
    hklflow: Hklflow, volume: Path, tmp_path: Path, plane: str
) -> None:
    done = hklflow("slice", volume, "--plane", plane, "--width", "0.2", "-o", tmp_path / "x.nxs")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "x.nxs") as file:
        group = file["entry/slice"]
        assert [*group.attrs["axes"]] == ["l", "h"]
        assert ", counts over norm of up to 3 voxels in 0.2 r.l.u." in group["title"].asstr()[()]
        assert file["entry/notes/width"][()] == 0.2
        np.testing.assert_allclose(group["h"], H)
        np.testing.assert_allclose(group["l"], L)
        # The mean over k = -0.1, 0, 0.1; errors of independent voxels.
        expected = H + 100 * L[:, None] + 200
        np.testing.assert_allclose(group["data"], expected, rtol=1e-5)
        sigma = np.sqrt(((0.1 * (expected + np.array([-1, 0, 1])[:, None, None])) ** 2).sum(0)) / 3
        np.testing.assert_allclose(group["data_errors"], sigma, rtol=1e-4)
    shown = hklflow("show", tmp_path / "x.nxs", "--plot")
    assert shown.code == 0, shown.err
    assert "S(Q)" in shown.out


def test_a_slab_has_the_numbers_of_the_interface(hklflow: Hklflow, tmp_path: Path) -> None:
    """In a symmetrised volume, a voxel and its image on the other side are one measurement."""
    data = np.broadcast_to(2 + np.abs(L)[:, None, None], GRID.array_shape)
    mirror = [np.eye(3).tolist(), np.diag([1.0, 1.0, -1.0]).tolist()]
    errors = np.full(GRID.array_shape, 0.3)
    path = write(tmp_path / "v.nxs", data, notes={"operations": mirror}, errors=errors)
    for plane, width in (("hk0", "0.2"), ("hhl", "0.2"), ("h0l", "0.4")):
        done = hklflow("slice", path, "--plane", plane, "--width", width, "-o", tmp_path / "x.nxs",
                       "--force")  # fmt: skip
        assert done.code == 0, done.err
        expected = hklflow_open(path).plane(plane, float(width))
        with h5py.File(tmp_path / "x.nxs") as file:
            np.testing.assert_array_equal(file["entry/slice/data"], expected.S)
            np.testing.assert_array_equal(file["entry/slice/data_errors"], expected.sigma)
    # Layers -0.1, 0, 0.1 hold two measurements: not 0.3 / sqrt(3).
    sigma = hklflow_open(path).plane("hk0", 0.2).sigma
    np.testing.assert_allclose(sigma, 0.3 / np.sqrt(2), rtol=1e-5)


def test_an_oblique_plane(hklflow: Hklflow, volume: Path, tmp_path: Path) -> None:
    done = hklflow("slice", volume, "--plane", "h -h l", "-o", tmp_path / "x.tsv")
    assert done.code == 0, done.err
    rows = table(tmp_path / "x.tsv")
    np.testing.assert_allclose(rows[:, 1], -rows[:, 0])
    np.testing.assert_allclose(rows[:, 3], -9 * rows[:, 0] + 100 * rows[:, 2] + 200, rtol=1e-5)
    assert len(rows) == 41 * 21


def test_a_rotation_has_counts_over_norm(hklflow: Hklflow, tmp_path: Path) -> None:
    from hklflow import nexus

    counts = np.full(GRID.array_shape, 9.0)
    norm = np.full(GRID.array_shape, 2.0)
    norm[voxel((1.0, 0.5, 0.0))] = 0.0
    nexus.write_volume(tmp_path / "r.nxs", nexus.Volume(GRID, HEXAGONAL, counts, norm), "one")
    done = hklflow("slice", tmp_path / "r.nxs", "--plane", "hk0", "-o", tmp_path / "x.tsv")
    assert done.code == 0, done.err
    rows = table(tmp_path / "x.tsv")
    assert len(rows) == 41 * 41 - 1
    np.testing.assert_allclose(rows[:, 3], 4.5)
    # The estimator of merge pools neighbours; one of them was not measured.
    np.testing.assert_allclose(rows[:, 4], 1.5, rtol=0.01)


def test_pair_distributions(hklflow: Hklflow, drawn: list[Planes], tmp_path: Path) -> None:
    grid = Grid.symmetric([2.0, 2.0, 1.0], 0.1)
    data = np.zeros(grid.array_shape)
    data[15, 20, 30] = -0.5  # x y z = 1 0 0.5
    path = pair_distribution(tmp_path / "pdf.nxs", data, grid)
    done = hklflow("slice", path, "--plane", "x", "y", "0.5")
    assert done.code == 0, done.err
    (drawing,) = drawn
    assert drawing.diverging
    assert drawing.cuts[0].image[20, 30] == -0.5
    assert drawing.label == "3D-ΔPDF"
    # In cells of 4.8 Å.
    assert drawing.metric[0, 0] == pytest.approx(4.8**2)
    refused = hklflow("slice", path, "--plane", "xy0.5", "--log")
    assert refused.code == 2
    assert "--log cannot show 3D-ΔPDF, which has values of both signs" in refused.err
    assert "letters x, y, z" in hklflow("slice", path, "--plane", "hk0").err


def norm_of(hklflow: Hklflow, drawn: list[Planes], *arguments: str | Path) -> Normalize:
    done = hklflow("slice", *arguments)
    assert done.code == 0, done.err
    norm = drawn.pop().norm
    assert norm is not None
    return norm


def test_colours(hklflow: Hklflow, drawn: list[Planes], volume: Path) -> None:
    assert isinstance(norm_of(hklflow, drawn, volume, "--plane", "hk0"), LogNorm)
    linear = norm_of(hklflow, drawn, volume, "--plane", "hk0", "--linear")
    assert type(linear) is Normalize
    given = norm_of(hklflow, drawn, volume, "--plane", "hk0", "--range", "190", "2e2")
    assert (given.vmin, given.vmax) == (190, 200)
    negative = norm_of(hklflow, drawn, volume, "--plane", "hk0", "--linear", "--range", "-5", "5")
    assert (negative.vmin, negative.vmax) == (-5, 5)
    plane = (H + 10 * K[:, None] + 200).astype(float)
    plane[:5, :5] = np.nan
    part = norm_of(hklflow, drawn, volume, "--plane", "hk0", "--range", "10%", "90%")
    np.testing.assert_allclose([part.vmin, part.vmax], np.nanpercentile(plane, [10, 90]), rtol=1e-5)


def test_errors_instead_of_values(hklflow: Hklflow, drawn: list[Planes], volume: Path) -> None:
    assert hklflow("slice", volume, "--plane", "hk0", "--errors").code == 0
    drawing = drawn.pop()
    assert drawing.label == "σ of S(Q)"
    assert drawing.cuts[0].image[20, 20] == pytest.approx(20.0)


def test_an_array_of_the_volume(hklflow: Hklflow, drawn: list[Planes], volume: Path) -> None:
    path = volume / "entry/transform/norm"
    assert hklflow("slice", path, "--plane", "hk0").code == 0
    assert drawn.pop().label == "norm"
    # Its mean, not the ratio of counts and norm.
    assert hklflow("slice", path, "--plane", "hk0", "--width", "0.4").code == 0
    np.testing.assert_allclose(drawn.pop().cuts[0].image, 1.0)


def test_differences_have_both_signs(hklflow: Hklflow, drawn: list[Planes], tmp_path: Path) -> None:
    data = np.broadcast_to(H, GRID.array_shape).copy()
    path = write(tmp_path / "d.nxs", data, notes={"kind": "difference"})
    norm = norm_of(hklflow, drawn, path, "--plane", "hk0")
    assert norm.vmin == -(norm.vmax or 0)


def test_the_terminal_and_the_picture(hklflow: Hklflow, tmp_path: Path) -> None:
    volume = bright(tmp_path / "v.nxs", (1.3, -0.8, 0.0))
    done = hklflow("slice", volume, "--plane", "hk0", "--range", "1", "1000")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[:2] == ["S(Q) of a test", "h k 0"]
    assert sum("@" in line or "%" in line or "#" in line for line in lines[2:-1]) == 1
    assert lines[-1] == "1 .:-=+*#%@ 1000  S(Q) (counts per unit norm), logarithmic"
    output = tmp_path / "x.tsv"
    for width, voxels in (
        ("0.2", "up to 3 voxels in 0.2 r.l.u."),
        ("0.15", "up to 1 voxels in 0.15 r.l.u."),
    ):
        done = hklflow("slice", volume, "--plane", "hk0", "--width", width)
        assert done.out.splitlines()[1] == f"h k 0, counts over norm of {voxels}"
        output.unlink(missing_ok=True)
        done = hklflow("slice", volume, "--plane", "hk0", "--width", width, "-o", output)
        assert done.out.startswith(f"{output}\nh k 0, counts over norm of {voxels}: 41 rows")
    done = hklflow("slice", volume, "--plane", "hk0", "-o", tmp_path / "x.png")
    assert done.out == f"{tmp_path / 'x.png'}\n"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


WRONG: list[tuple[list[str], str]] = [
    (["volume.nxs", "--plane", "hk9"], "plane h k 9 is outside the volume"),
    (["volume.nxs", "--plane", "hkl"], "it has 3 free letters (h, k, l), a plane needs two"),
    (["volume.nxs", "--plane", "xy0"], "letters h, k, l"),
    (["volume.nxs", "--plane", "h k"], "it has 2 expressions, a plane needs three"),
    (
        ["volume.nxs", "--plane", "hk0", "--width", "-1"],
        "width: -1.0 is neither 0 nor a positive number",
    ),
    (["volume.nxs", "--plane", "hk0", "--range", "3", "2"], "--range 3 2 is empty"),
    (["volume.nxs", "--plane", "hk0", "--range", "0", "2"], "begin above 0"),
    (["volume.nxs", "--plane", "hk0", "--range", "a", "2"], "--range a is not a number"),
    (["volume.nxs", "--plane", "hk0", "--range", "1%", "200%"], "nor a percentile"),
    (["volume.nxs/entry/transform/Qh", "--plane", "hk0"], "has no single volume"),
    (["volume.nxs/entry/gone", "--plane", "hk0"], "there is no 'gone' in"),
    (["text.txt", "--plane", "hk0"], "text.txt is not an HDF5 (NeXus) file"),
    (["empty.nxs", "--plane", "hk0"], "has no single volume"),
    (["gone.nxs", "--plane", "hk0"], "there is no file"),
    (["empty-plane.nxs", "--plane", "hk0"], "nothing was measured on plane h k 0"),
    (["flat.nxs", "--plane", "hk0", "--errors"], "flat.nxs has no errors of"),
    (["volume.nxs"], "which plane of"),
]


@pytest.mark.parametrize(
    ("arguments", "told", "output"),
    [
        (*wrong, output)
        for wrong in WRONG
        # Numbers have no colours, and so no range of them.
        for output in (["x.png"] if "--range" in wrong[0] else ["x.png", "x.tsv"])
    ],
)
def test_what_cannot_be_cut_is_one_sentence(
    hklflow: Hklflow, volume: Path, arguments: list[str], told: str, output: str
) -> None:
    folder = volume.parent
    (folder / "text.txt").write_text("x")
    with h5py.File(folder / "empty.nxs", "w") as file:
        file["x"] = 1
    data = np.ones(GRID.array_shape)
    data[10] = np.nan
    write(folder / "empty-plane.nxs", data)
    write(folder / "flat.nxs", np.ones(GRID.array_shape))
    with h5py.File(folder / "flat.nxs", "r+") as file:
        del file["entry/transform/data_errors"]
    before = sorted(folder.iterdir())
    done = hklflow("slice", folder / arguments[0], *arguments[1:], "-o", folder / output)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("hklflow: ")
    assert done.err.count("\n") == 1
    assert told in done.err
    assert sorted(folder.iterdir()) == before


def test_stacks_are_refused_with_a_cure(hklflow: Hklflow, tmp_path: Path) -> None:
    volume = bright(tmp_path / "v.nxs", (1.0, 0.0, 0.0))
    with h5py.File(volume, "r+") as file:
        group = file["entry/transform"]
        data = group["data"][()]
        del group["data"], group["data_errors"]
        group["data"] = np.stack([data, 2 * data])
        group["temperature"] = [100.0, 300.0]
        group["temperature"].attrs["units"] = "K"
        group.attrs["axes"] = ["temperature", "Ql", "Qk", "Qh"]
    done = hklflow("slice", volume, "--plane", "hk0")
    assert done.code == 2
    assert "but a stack of volumes; give the volume of one scan" in done.err
    shown = draw.drawing_of(volume, [])
    assert isinstance(shown, Planes)
    assert [cut.plane.text for cut in shown.cuts] == ["h k 0, 100 K", "h k 0, 300 K"]
    np.testing.assert_allclose(shown.cuts[1].image, 2 * shown.cuts[0].image)


def test_a_volume_of_nxrefine(hklflow: Hklflow, tmp_path: Path) -> None:
    """Axes and a linked array in a group of the wrapper file, whose entry has the cell."""
    data = H + 10 * K[:, None] + 100 * L[:, None, None]
    with h5py.File(tmp_path / "transform.nxs", "w") as file:
        file["entry/data/v"] = data.astype("f4")
    cell = dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), HEXAGONAL, strict=True))
    with h5py.File(tmp_path / "scan.nxs", "w") as file:
        for name, value in cell.items():
            file[f"entry/sample/unitcell_{name}"] = value
        group = file.create_group("f1/transform")
        group.attrs["signal"], group.attrs["axes"] = "data", ["Ql", "Qk", "Qh"]
        group["data"] = h5py.ExternalLink("transform.nxs", "/entry/data/v")
        group["Qh"], group["Qk"], group["Ql"] = H, K, L
    output = tmp_path / "x.tsv"
    done = hklflow("slice", tmp_path / "scan.nxs/f1/transform", "--plane=-h h l", "-o", output)
    assert done.code == 0, done.err
    rows = table(output)
    np.testing.assert_allclose(rows[:, 0], -rows[:, 1])
    np.testing.assert_allclose(rows[:, 3], 9 * rows[:, 1] + 100 * rows[:, 2], atol=1e-4)
    shown = hklflow("slice", tmp_path / "scan.nxs/f1/transform", "--plane", "hk0.5").out
    assert shown.splitlines()[0] == "data"
    assert "S(Q) (counts per unit norm)" in shown
    with h5py.File(tmp_path / "scan.nxs", "r+") as file:
        del file["entry/sample/unitcell_gamma"]
    done = hklflow("slice", tmp_path / "scan.nxs/f1/transform", "--plane", "hk0")
    assert done.code == 2
    assert "scan.nxs has no cell" in done.err
    with h5py.File(tmp_path / "scan.nxs", "r+") as file:
        file["f1/transform/Qh"][5] += 0.05
    done = hklflow("slice", tmp_path / "scan.nxs/f1/transform", "--plane", "hk0")
    assert "axis Qh of" in done.err
    assert "are not equal" in done.err


def test_what_is_there_is_not_written_over(hklflow: Hklflow, volume: Path, tmp_path: Path) -> None:
    before = volume.read_bytes()
    product = write(tmp_path / "product.nxs", np.ones(GRID.shape[::-1]))
    kept = product.read_bytes()
    (tmp_path / "link.nxs").symlink_to(volume.name)
    (tmp_path / "folder.tsv").mkdir()
    os.mkfifo(tmp_path / "pipe.tsv")
    for name, told in (
        ("volume.nxs", "is the file to be drawn"),
        ("link.nxs", "is the file to be drawn"),
        ("product.nxs", "exists and is not a slice"),
        ("folder.tsv", "is a folder"),
        ("pipe.tsv", "is a pipe"),
    ):
        for force in ((), ("--force",)):
            done = hklflow("slice", volume, "--plane", "hk0", "-o", tmp_path / name, *force)
            assert done.code == 2
            assert f"{name} {told}" in done.err
    assert (volume.read_bytes(), product.read_bytes()) == (before, kept)
    for name in ("x.nxs", "x.tsv", "x.npy", "x.png"):
        command = ("slice", volume, "-o", tmp_path / name, "--plane")
        assert hklflow(*command, "hk0").code == 0
        first = (tmp_path / name).read_bytes()
        done = hklflow(*command, "h0l")
        assert (done.code, "--force replaces it" in done.err) == (2, True)
        assert (tmp_path / name).read_bytes() == first
        assert hklflow(*command, "h0l", "--force").code == 0
        assert (tmp_path / name).read_bytes() != first
    for command in (("show", volume), ("show", tmp_path / "x.nxs")):
        done = hklflow(*command, "-o", tmp_path / "x.png")
        assert (done.code, "--force replaces it" in done.err) == (2, True)


def test_suffixes_may_be_large_letters(hklflow: Hklflow, volume: Path, tmp_path: Path) -> None:
    for small in ("x.tsv", "x.npy"):
        for name in (small, small.upper()):
            done = hklflow("slice", volume, "--plane", "hk0", "-o", tmp_path / name)
            assert done.code == 0, done.err
        assert (tmp_path / small.upper()).read_bytes() == (tmp_path / small).read_bytes()
    done = hklflow("slice", volume, "--plane", "hk0", "-o", tmp_path / "X.PNG")
    assert done.code == 0, done.err
    assert (tmp_path / "X.PNG").read_bytes().startswith(b"\x89PNG")


def test_a_slab_is_not_wider_than_the_volume(hklflow: Hklflow, volume: Path) -> None:
    # 41 x 41 x 21 voxels of 0.1: l can move by 2.1, t = (h - k) / 2 by 4.1, either way.
    for plane, most in (("hk0", "4.2"), ("hk-1", "4.2"), ("hhl", "8.2")):
        assert hklflow("slice", volume, "--plane", plane, "--width", most).code == 0
        done = hklflow("slice", volume, "--plane", plane, "--width", "1e9")
        assert done.code == 2
        assert "the slab of width 1e+09 is thicker than the volume" in done.err
        assert f"give {most} or less" in done.err


def test_titles_do_not_act_on_the_terminal(hklflow: Hklflow, volume: Path, tmp_path: Path) -> None:
    with h5py.File(volume, "r+") as file:
        for node in (file["entry"], file["entry/transform"]):
            if "title" in node:
                del node["title"]
            node["title"] = "a\x1b[2J\nhklflow: done"
    for words in (("slice", volume, "--plane", "hk0"), ("show", volume, "--plot")):
        done = hklflow(*words)
        assert done.code == 0, done.err
        assert "a\\x1b[2J\\nhklflow: done" in done.out
        assert "\x1b" not in done.out
    strange = tmp_path / "a\x1b[31m\nhklflow: all is well.nxs"
    done = hklflow("slice", strange, "--plane", "hk0")
    assert done.code == 2
    assert done.err.count("\n") == 2
    assert "\x1b" not in done.err
    assert "\nhklflow:" not in done.err
