"""`hklflow show --plot`: what lands where in pictures and in the terminal."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import matplotlib.image
import numpy as np
import pytest

from hklflow.cli import draw
from hklflow.geometry.grid import Grid
from hklflow.nexus import entry as nxentry
from hklflow.plots.common import save
from hklflow.plots.drawing import Screen

from .conftest import Hklflow, write_raw
from .volumes import HEXAGONAL, MONOCLINIC, bright, pair_distribution, place

PEAK = (1.3, -0.8, 0.0)


def pixels(path: Path) -> np.ndarray:
    image: np.ndarray = matplotlib.image.imread(path)[..., :3]
    return image


def yellow(image: np.ndarray) -> np.ndarray:
    """Pixels (n, 2) as (x, y from below) of the colour of the largest values."""
    top = np.array([253, 231, 37]) / 255
    rows, columns = np.nonzero(np.abs(image - top).max(axis=-1) < 0.02)
    return np.stack([columns + 0.5, image.shape[0] - rows - 0.5], axis=1)


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("cell", [HEXAGONAL, MONOCLINIC], ids=["hexagonal", "monoclinic"])
def test_a_bright_voxel_is_where_it_belongs_in_the_picture(
    cell: np.ndarray, hklflow: Hklflow, tmp_path: Path
) -> None:
    volume = bright(tmp_path / "volume.nxs", PEAK, cell)
    done = hklflow("show", volume, "-o", tmp_path / "x.png")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'x.png'}\n"
    figure = draw.drawing_of(volume, []).figure()
    save(figure, tmp_path / "same.png")  # which puts everything in its place
    figure.set_dpi(110)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["h k 0", "h 0 l", "0 k l"]
    found = yellow(pixels(tmp_path / "x.png"))
    at = panels[0].transData.transform(place(cell, PEAK, (1, 0, 0), (0, 1, 0)))
    inside = _within(panels[0], found)
    assert inside.any()
    np.testing.assert_allclose(found[inside].mean(axis=0), at, atol=2.0)
    # It is on no other plane.
    for other in panels[1:]:
        assert not _within(other, found).any()


def _within(axes: Any, points: np.ndarray) -> np.ndarray:
    box = axes.get_window_extent()
    return np.array([box.contains(*point) for point in points])


def test_a_bright_voxel_is_where_it_belongs_in_the_terminal(tmp_path: Path) -> None:
    drawing = draw.drawing_of(bright(tmp_path / "volume.nxs", PEAK), [])
    lines = drawing.lines(Screen(width=60, height=40))
    assert lines[:2] == ["S(Q) of a test", "h k 0"]
    (row,) = [i for i, line in enumerate(lines) if "@" in line and "logarithmic" not in line]
    column = lines[row].index("@")
    # 2 and 2 r.l.u. at 60 degrees: 6 r.l.u. wide, of 41 / 40; k = -0.8 is below the middle.
    steps = 6.15 / 60
    assert (column + 0.5) * steps - 3.075 == pytest.approx(1.3 - 0.8 / 2, abs=1.5 * steps)
    foot = lines.index("h -2 to 2 across, k -2 to 2 up")
    up = (2 + foot - 1) / 2 - row
    assert up * 2 * steps == pytest.approx(-0.8 * np.sin(np.radians(60)), abs=3 * steps)
    assert lines[-1] == "1 .:-=+*#%@ 1.01  S(Q) (counts per unit norm), logarithmic"


def test_a_skewed_plane_leans(tmp_path: Path) -> None:
    lines = draw.drawing_of(bright(tmp_path / "v.nxs", PEAK), []).lines(Screen(60, 40))
    drawn = lines[2 : lines.index("h -2 to 2 across, k -2 to 2 up")]
    starts = [len(line) - len(line.lstrip()) for line in drawn]
    # a* and b* of a hexagonal cell are 60 degrees apart: k goes up and to the right.
    assert starts == sorted(starts, reverse=True)
    assert starts[0] - starts[-1] == pytest.approx(20, abs=2)


def test_pair_distributions_have_both_signs(tmp_path: Path) -> None:
    grid = Grid.symmetric([2.0, 2.0, 2.0], 0.1)
    data = np.zeros(grid.array_shape)
    data[20, 19:22, 9:12], data[20, 19:22, 29:32] = -1.0, 1.0  # x = -1 and 1
    path = pair_distribution(tmp_path / "pdf.nxs", data, grid)
    lines = draw.drawing_of(path, []).lines(Screen(70, 40))
    assert lines[1] == "x y 0"
    both = [one for one in lines[2:30] if "#" in one]
    assert both
    assert all(one.rindex("#") < one.index("@") for one in both)
    assert lines[-1] == "-1 #=-.+o@ 1  3D-ΔPDF (S per Å³)"


def test_an_array_of_a_volume_at_a_path(hklflow: Hklflow, tmp_path: Path) -> None:
    volume = bright(tmp_path / "v.nxs", PEAK)
    done = hklflow("show", volume / "entry/transform/norm", "--plot")
    assert done.code == 0, done.err
    assert "norm (counts per unit norm)" in done.out
    axis = hklflow("show", volume / "entry/transform/Qh", "--plot")
    assert axis.out.splitlines()[1] == "Qh (r.l.u.)"


def test_raw_frames(hklflow: Hklflow, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw.h5")
    with h5py.File(raw, "r+") as file:
        pixels = np.ones((5, 8, 9), np.uint32)
        pixels[:, 2, 7] = [10, 20, 30, 40, 50]
        pixels[:, 6, 0] = 2**32 - 1
        file["entry/data/data"][...] = pixels
    done = hklflow("show", raw, "--plot")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "raw.h5, mean of 5 of 5 frames"
    drawn = np.array([[*line.ljust(80)] for line in lines[1:-2]])
    row, column = ((np.argwhere(drawn == "@") + 0.5) / drawn.shape).mean(axis=0)
    # (slow, fast) = (2, 7): in the upper part, right of the middle; slow goes down.
    height, width = 8, 9 * 80 / len(lines[1])
    assert row * height == pytest.approx(2.5, abs=0.3)
    assert column * width == pytest.approx(7.5, abs=0.3)
    # The marked pixel is empty.
    row, column = ((np.argwhere(drawn[:, : len(lines[1])] == " ") + 0.5) / drawn.shape).mean(axis=0)
    assert row * height == pytest.approx(6.5, abs=0.3)
    assert column * width == pytest.approx(0.5, abs=0.3)
    picture = draw.drawing_of(raw, [], frame=3)
    assert picture.title == "raw.h5, frame 3 of 5"
    assert picture.image[2, 7] == 40
    assert np.isnan(picture.image[6, 0])
    assert draw.drawing_of(raw, []).image[2, 7] == 30
    refused = hklflow("show", raw, "--frame", "5")
    assert (refused.code, refused.out) == (2, "")
    assert "raw.h5 has frames 0 to 4; there is no frame 5" in refused.err


def test_images_of_other_formats(hklflow: Hklflow, tmp_path: Path) -> None:
    from fabio.cbfimage import CbfImage
    from fabio.tifimage import TifImage

    image = np.full((30, 40), 2, np.int32)
    image[5, 30], image[20, 3] = 900, -1
    CbfImage(data=image).write(str(tmp_path / "x.cbf"))
    TifImage(data=image).write(str(tmp_path / "x.tif"))
    for name in ("x.cbf", "x.tif"):
        drawing = draw.drawing_of(tmp_path / name, [])
        assert drawing.image[5, 30] == 900
        assert np.isnan(drawing.image[20, 3])
        lines = drawing.lines(Screen(40, 40))
        assert lines[0] == f"{name}, one frame"
        assert lines[1 + 5 // 2][30] == "@"
        assert "slow 0 to 30 down" in lines[-2]
        assert "--plot draws it" in hklflow("show", tmp_path / name).err


def test_masks(hklflow: Hklflow, tmp_path: Path) -> None:
    bits = np.zeros((20, 30), np.uint32)
    bits[:6, 20:] = 1
    with nxentry.create(tmp_path / "mask.nxs", "pixel mask", "mask") as entry:
        group = nxentry.add_group(entry, "mask", "NXdata", signal="pixel_mask")
        nxentry.add_array(group, "pixel_mask", bits)
    lines = draw.drawing_of(tmp_path / "mask.nxs", []).lines(Screen(30, 40))
    assert lines[1:11] == ["." * 20 + "@" * 10] * 3 + ["." * 30] * 7
    assert "60 of 600 pixels are masked" in lines[11]
    done = hklflow("show", tmp_path / "mask.nxs", "-o", tmp_path / "m.png")
    assert done.code == 0, done.err
    assert pixels(tmp_path / "m.png").shape[0] > 300


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Intensities of peaks by their frame, not in order, with errors."""
    with nxentry.create(tmp_path / "peaks.nxs", "peaks", "picture") as entry:
        group = nxentry.add_group(entry, "picture", "NXdata", signal="intensity", axes=["frame"])
        nxentry.add_array(group, "frame", [30.0, 10.0, 20.0])
        nxentry.add_array(group, "intensity", [1.0, 4.0, 0.0], "counts")
        nxentry.add_array(group, "intensity_errors", [0.5, 1.0, 0.0])
    return tmp_path / "peaks.nxs"


def test_a_table_is_points_with_errors(hklflow: Hklflow, table: Path) -> None:
    drawing = draw.drawing_of(table, [])
    assert not drawing.joined
    axes = drawing.figure().axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("frame", "intensity (counts)")
    (bars,) = axes.collections
    assert sorted(np.ptp(path.vertices[:, 1]) for path in bars.get_paths()) == [0.0, 1.0, 2.0]
    lines = drawing.lines(Screen(23, 10))
    assert lines == [
        "peaks",
        "intensity (counts)",
        " 5||",
        "  |*",
        "  ||",
        "  |",
        "  |                   *",
        " 0|          *",
        "   10                30",
        "                  frame",
    ]


@pytest.mark.parametrize(
    ("frames", "joined"), [([0.0, 1, 2, 3], True), ([0.0, 1, 2, 7], False), ([0, 1, 1, 2], False)]
)
def test_what_is_scanned_is_a_line(tmp_path: Path, frames: list[float], joined: bool) -> None:
    with nxentry.create(tmp_path / "c.nxs", "curve", "picture") as entry:
        group = nxentry.add_group(entry, "picture", "NXdata", signal="y", axes=["frame"])
        nxentry.add_array(group, "frame", frames)
        nxentry.add_array(group, "y", [1.0, 4.0, 0.0, 2.0], "counts")
    drawing = draw.drawing_of(tmp_path / "c.nxs", [])
    assert drawing.joined is joined
    line = drawing.figure().axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xydata(), np.stack([frames, [1, 4, 0, 2]], axis=1))
    assert line.get_linestyle() == ("-" if joined else "None")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("text.txt", "text.txt has no plot"),
        ("a.json", "a.json has no plot"),
        ("empty.nxs", "has no plot: no default plot, and no frames"),
        ("v.nxs/entry/nothing", "there is no 'nothing' in"),
        ("v.nxs/entry/title", "has no plot of /entry/title"),
        ("v.nxs/entry/sample", "has no default plot; name a dataset in it"),
        ("broken.nxs", "is 'lost', which does not exist"),
    ],
)
def test_what_has_no_plot_is_one_sentence(
    hklflow: Hklflow, tmp_path: Path, name: str, told: str
) -> None:
    bright(tmp_path / "v.nxs", PEAK)
    (tmp_path / "text.txt").write_text("no plot")
    (tmp_path / "a.json").write_text("{}")
    with h5py.File(tmp_path / "empty.nxs", "w") as file:
        file["number"] = 3
    with h5py.File(tmp_path / "broken.nxs", "w") as file:
        file.attrs["default"] = "lost"
    done = hklflow("show", tmp_path / name, "-o", tmp_path / "x.png")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("hklflow: ")
    assert done.err.count("\n") == 1
    assert told in done.err
    assert not (tmp_path / "x.png").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_picture_says_where_it_is(hklflow: Hklflow, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    done = hklflow("show", tmp_path / "x.png", "--plot")
    assert done.code == 0
    assert done.out == f"{tmp_path / 'x.png'} is a picture: open it in a viewer or a browser\n"


@pytest.mark.parametrize(
    ("output", "told"),
    [("x.jpg", "x.jpg is not the name of a picture"), ("gone/x.png", "there is no folder")],
)
def test_where_no_picture_can_be_written(
    hklflow: Hklflow, tmp_path: Path, output: str, told: str
) -> None:
    volume = bright(tmp_path / "v.nxs", PEAK)
    done = hklflow("show", volume, "-o", tmp_path / output)
    assert done.code == 2
    assert told in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["v.nxs"]


@pytest.mark.slow
def test_colours_are_for_a_terminal_that_wants_them(table: Path) -> None:
    """The command on a terminal of its own, with and without NO_COLOR, and in a pipe."""
    volume = bright(table.with_name("v.nxs"), PEAK)
    command = [sys.executable, "-m", "hklflow.cli", "show", str(volume), "--plot"]
    given = dict(os.environ) | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", "COLUMNS": "60"}
    given.pop("NO_COLOR", None)
    seen = _on_terminal(command, given)
    assert "\x1b[38;2;253;231;36m" in seen
    assert "▀" in seen
    for environment in (given | {"NO_COLOR": "1"}, given | {"TERM": "dumb"}):
        plain = _on_terminal(command, environment)
        assert "\x1b" not in plain
        assert "@" in plain
    piped = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in piped
    assert max(map(len, piped.splitlines())) <= 60


def _on_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Output of a command whose standard output is a terminal."""
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, env=environment):
        os.close(theirs)
        found = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the end of a terminal
                break
            if not part:
                break
            found += part
    os.close(ours)
    return found.decode()
