"""Stage `planes`: sharp features of known places in skewed cells, found again in the picture."""

from pathlib import Path
from typing import Any

import h5py
import matplotlib.figure
import numpy as np
import pytest

from hklflow import nexus, plots, stage
from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.stages import planes

HEXAGONAL = np.array([4.8, 4.8, 7.2, 90.0, 90.0, 120.0])
MONOCLINIC = np.array([5.0, 7.0, 6.0, 90.0, 112.0, 90.0])
GRID = Grid.symmetric([3.5, 3.5, 3.0], [0.05, 0.05, 0.1])
PEAKS = [(2, 1, 0), (1, 1, 2), (-2, -2, 1), (1, 0, -2), (2, -2, 1)]
PAIRS = {(1.0, 0.0, 0.0): 1.0, (0.5, 0.5, 1.0): -0.8, (-1.5, -1.5, 1.0): 0.6, (2.0, -1.0, 0.0): -1}


def blobs(grid: Grid, places: Any, width: float) -> np.ndarray:
    axes = [grid.axis(i) for i in range(3)]
    total = np.zeros(grid.array_shape)
    for place in places:
        h, k, m = (np.exp(-0.5 * ((a - x) / width) ** 2) for a, x in zip(axes, place, strict=True))
        total += (places[place] if isinstance(places, dict) else 1) * (
            m[:, None, None] * k[:, None] * h
        )
    return total


def write_hkl(path: Path, cell: np.ndarray, notes: dict[str, Any] | None = None) -> Path:
    """Peaks on a weak background; measured only within a sphere that cuts the corners."""
    h, k, m = (GRID.axis(i) for i in range(3))
    points = np.stack(np.broadcast_arrays(h, k[:, None], m[:, None, None]), axis=-1)
    q = np.linalg.norm(points @ lattice.b_matrix(cell).T, axis=-1)
    data = np.where(q < 5.6, 0.02 + 0.01 * q + 50 * blobs(GRID, PEAKS, 0.06), np.nan)
    data = data.astype(np.float32)
    arrays = {"data": data, "data_errors": 0.1 * np.abs(data)}
    types = dict.fromkeys(arrays, "f4")
    with nexus.GridWriter(path, GRID, cell, "S(Q) of a test", types) as writer:
        writer.write(0, **arrays)
        writer.note(notes or {})
    return path


def write_pdf(path: Path, cell: np.ndarray, kind: str = "delta") -> Path:
    """Pairs of known vectors, and the huge peak at the origin."""
    grid = Grid.symmetric([3.0, 3.0, 2.0], [0.05, 0.05, 0.05])
    data = blobs(grid, PAIRS, 0.06) + 100 * blobs(grid, [(0, 0, 0)], 0.05)
    data += np.random.default_rng(0).normal(0, 0.02, data.shape)
    arrays = {"data": data.astype(np.float32), "data_errors": np.full(data.shape, 0.02, "f4")}
    types = dict.fromkeys(arrays, "f4")
    with nexus.GridWriter(path, grid, cell, "pairs", types, group="pdf", direct=True) as writer:
        writer.write(0, **arrays)
        writer.note({"kind": kind, "q_max": 10.0})
    return path


def run(
    volume: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, **params: Any
) -> matplotlib.figure.Figure:
    """Run the stage; the figure that it saved."""
    kept = []
    save = plots.save

    def keep(figure: matplotlib.figure.Figure, path: Path) -> None:
        save(figure, path)
        kept.append(figure)

    monkeypatch.setattr(plots, "save", keep)
    stage.run(
        planes.main,
        inputs=planes.Inputs(volume=volume),
        outputs=planes.Outputs(picture=picture),
        params=planes.Params(**params),
        threads=1,
    )
    assert picture.stat().st_size > 5000
    return kept[0]


def cartesian(cell: np.ndarray, hkl: Any, along: Any, towards: Any) -> np.ndarray:
    """Place of hkl in the plane of two vectors, with Cartesian 3-D vectors."""
    b = lattice.b_matrix(cell)
    q, first, second = (b @ np.asarray(x, dtype=float) for x in (hkl, along, towards))
    x = first / np.linalg.norm(first)
    y = second - (second @ x) * x
    y /= np.linalg.norm(y)
    assert np.linalg.norm(q - (q @ x) * x - (q @ y) * y) < 1e-9  # it is in the plane
    return np.array([q @ x, q @ y])


def shown(axes: Any, cell: np.ndarray, floor: float) -> np.ndarray:
    """Where (n, 2), in the units of the axes, the drawn image is above ``floor``."""
    (image,) = axes.images
    left, right, bottom, top = image.get_extent()
    values = np.ma.filled(image.get_array().astype(float), np.nan)
    row, column = np.nonzero(values > floor)
    u = left + (column + 0.5) / values.shape[1] * (right - left)
    v = bottom + (row + 0.5) / values.shape[0] * (top - bottom)
    to_axes = image.get_transform() - axes.transData
    return to_axes.transform(np.stack([u, v], axis=1))


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("cell", [HEXAGONAL, MONOCLINIC], ids=["hexagonal", "monoclinic"])
def test_peaks_land_at_their_cartesian_places(
    cell: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = write_hkl(tmp_path / "s.nxs", cell)
    wanted = {
        "h k 0": ((1, 0, 0), (0, 1, 0), [(2, 1, 0)]),
        "h h l": ((1, 1, 0), (0, 0, 1), [(1, 1, 2), (-2, -2, 1)]),
        "h 0 l": ((1, 0, 0), (0, 0, 1), [(1, 0, -2)]),
        "h-hl": ((1, -1, 0), (0, 0, 1), [(2, -2, 1)]),
    }
    figure = run(volume, tmp_path / "planes.png", monkeypatch, hkl=list(wanted))
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == ["h k 0", "h h l", "h 0 l", "h -h l"]
    for axes, (along, towards, peaks) in zip(panels.values(), wanted.values(), strict=True):
        bright = shown(axes, cell, 15.0)
        near = [
            np.linalg.norm(bright - cartesian(cell, peak, along, towards), axis=1) < 0.25
            for peak in peaks
        ]
        assert all(one.any() for one in near)
        assert np.any(near, axis=0).all()  # and nothing else is bright
        for peak, one in zip(peaks, near, strict=True):
            middle = bright[one].mean(axis=0)
            assert np.linalg.norm(middle - cartesian(cell, peak, along, towards)) < 0.02
        assert axes.get_aspect() == 1
    # The values of the letters: upper side where the second letter is 0, right side everywhere.
    upper, right = panels["h k 0"].child_axes
    place = cartesian(cell, (2, 0, 0), (1, 0, 0), (0, 1, 0))
    figure.canvas.draw()
    lengths = lattice.reciprocal(cell)[:3]
    assert place[0] == pytest.approx(2 * lengths[0])
    scale = np.diff(panels["h k 0"].get_xlim()) / np.diff(upper.get_xlim())
    assert scale == pytest.approx(lengths[0])
    height = cartesian(cell, (0, 1, 0), (1, 0, 0), (0, 1, 0))[1]
    scale = np.diff(panels["h k 0"].get_ylim()) / np.diff(right.get_ylim())
    assert scale == pytest.approx(height)


def test_pairs_have_symmetric_colours_that_the_origin_does_not_stretch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = write_pdf(tmp_path / "pdf.nxs", HEXAGONAL)
    figure = run(volume, tmp_path / "planes.png", monkeypatch)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == ["x y 0", "x 0 z", "0 y z", "x x z"]
    norm = panels["x x z"].images[0].norm
    assert norm.vmin == -norm.vmax
    assert 0.05 < norm.vmax < 1.0
    # The pair at (-1.5, -1.5, 1) is on x x z: 1.5 times |a + b| = a in a hexagonal cell.
    bright = shown(panels["x x z"], HEXAGONAL, 0.3)
    far = bright[np.linalg.norm(bright, axis=1) > 2]
    np.testing.assert_allclose(far.mean(axis=0), [-1.5 * 4.8, 7.2], atol=0.03)
    assert panels["x y 0"].get_xlabel() == "along a (Å)"
    assert panels["x x z"].get_xlabel() == "along a + b (Å)"
    assert figure.axes[-1].get_ylabel() == "3D-ΔPDF (S per Å³)"
    assert "planes of 3D-ΔPDF" in capsys.readouterr().out


def test_pairs_are_drawn_as_far_as_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = write_pdf(tmp_path / "pdf.nxs", HEXAGONAL)
    figure = run(volume, tmp_path / "planes.png", monkeypatch, xyz=["x y 0"], reach=6.0)
    for limits in (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()):
        np.testing.assert_allclose(limits, [-6, 6], atol=0.4)
    # Of the pairs at 0, a and 2a - b the last is 13 Å away.
    bright = np.abs(shown(figure.axes[0], HEXAGONAL, 0.5))
    assert bright.max() < 6
    assert np.any(np.abs(bright[:, 0] - 4.8) < 0.1)


def test_the_first_angstrom_does_not_count_for_the_colours() -> None:
    from hklflow.plots.planes import symmetric_range
    from hklflow.volumes import planes as core

    grid = Grid.symmetric([0.5, 0.5, 0.1], 0.05)
    metric = core.metric_of(HEXAGONAL, direct=True)
    cut = core.cut(np.ones(grid.array_shape), grid, core.parse("xy0", "xyz"))
    inner = cut.distance(metric) < 1.0
    assert inner.mean() > 0.05
    image = np.where(inner, 100.0, -0.2)
    cut = core.Cut(cut.plane, cut.u, cut.v, image)
    assert symmetric_range([cut], metric, direct=True).vmax == pytest.approx(0.2)
    assert symmetric_range([cut], metric, direct=False).vmax == pytest.approx(100)
    image = np.where(cut.distance(metric) < 1.6, 100.0, -0.2)
    cut = core.Cut(cut.plane, cut.u, cut.v, image)
    assert symmetric_range([cut], metric, direct=True, near=1.6).vmax == pytest.approx(0.2)
    assert symmetric_range([cut], metric, direct=True).vmax > 50


def test_the_peak_at_the_origin_is_as_wide_as_the_data_show_it() -> None:
    from hklflow.plots.planes import near_origin

    assert near_origin({}) == 1.0
    assert near_origin({"q_max": 2.245}) == pytest.approx(2.0)
    assert near_origin({"q_max": 20.0}) == 1.0
    metrics = {"resolution in angstrom": 1.2}
    assert near_origin({"q_max": 2.245, "metrics": metrics}) == pytest.approx(1.8)


def test_differences_are_drawn_with_colours_of_both_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.colors import LogNorm

    s = write_hkl(tmp_path / "s.nxs", MONOCLINIC)
    norm = run(s, tmp_path / "s.png", monkeypatch, hkl=["hk0"]).axes[0].images[0].norm
    assert isinstance(norm, LogNorm)
    d = write_hkl(tmp_path / "d.nxs", MONOCLINIC, {"kind": "difference"})
    norm = run(d, tmp_path / "d.png", monkeypatch, hkl=["hk0"]).axes[0].images[0].norm
    assert norm.vmin == -norm.vmax


def test_planes_outside_the_volume_are_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = write_hkl(tmp_path / "s.nxs", HEXAGONAL)
    with h5py.File(volume, "r+") as file:
        file["entry/transform/data"][0] = np.nan
    figure = run(volume, tmp_path / "p.png", monkeypatch, hkl=["h k 0", "h k 9", "h k -3"])
    assert figure.axes[-1].get_xlabel() == "S(Q) (counts per unit norm)"
    assert "outside the volume: h k 9" in capsys.readouterr().out
    told = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert told == ["outside the volume", "not measured"]


def test_nothing_on_any_plane_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = write_hkl(tmp_path / "s.nxs", HEXAGONAL)
    with pytest.raises(HklflowError, match="nothing was measured on h k 9, h k -9; give planes"):
        run(volume, tmp_path / "p.png", monkeypatch, hkl=["h k 9", "h k -9"])
    assert not (tmp_path / "p.png").exists()


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rotation.nxs"
    counts = np.zeros(GRID.array_shape)
    nexus.write_volume(path, nexus.Volume(GRID, HEXAGONAL, counts, counts), "counts")
    with pytest.raises(HklflowError, match=r"rotation\.nxs has no volume with data on a grid"):
        run(path, tmp_path / "p.png", monkeypatch)
    with pytest.raises(HklflowError, match="plane 'x y': it has 2 expressions"):
        run(write_hkl(tmp_path / "s.nxs", HEXAGONAL), tmp_path / "p.png", monkeypatch, xyz=["x y"])
    assert not (tmp_path / "p.png").exists()
