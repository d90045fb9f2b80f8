"""A session in Chromium: each number on the screen is that of the Python interface or raw data."""

import importlib.util
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hklflow
from hklflow import nexus
from hklflow.view import server
from tests.cli.volumes import GRID, write
from tests.truth.chromium import Chromium, Page, program
from tests.view import world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        program() is None or importlib.util.find_spec("plotly") is None,
        reason="needs Chromium and plotly",
    ),
]


@pytest.fixture(scope="module")
def experiment(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because this session replaces a file."""
    copy = tmp_path_factory.mktemp("session") / "experiment"
    shutil.copytree(folder, copy, symlinks=True)
    return copy


@pytest.fixture(scope="module")
def viewer(experiment: Path) -> Iterator[server.Server]:
    import threading

    with server.Server(experiment, server.library()) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


def rounded(value: float, digits: int = 6) -> str:
    """A number as the page writes it."""
    text = f"{value:.{digits}g}"
    return str(int(float(text))) if float(text).is_integer() else str(float(text))


def indices(hkl: np.ndarray) -> str:
    """h, k, l as the page writes them: zero has no sign."""
    return ", ".join(f"{x + 0.0:.3f}" for x in np.round(hkl, 3))


def drawn(page: Page, plane: str) -> np.ndarray:
    """The different numbers of a picture of plotly, sorted; the scale must be linear."""
    script = f"[...new Set({plane}.data[0].z.flatMap((a) => [...a]).filter(Number.isFinite))]"
    return np.sort(np.array(page.run(script), dtype=float))


def shows(page: Page, text: str) -> None:
    page.wait(f"document.getElementById('name0').textContent.includes({json.dumps(text)})")


def values(cut: Any) -> np.ndarray:
    return np.unique(cut.S.values[np.isfinite(cut.S.values)])


def listing(page: Page, script: str) -> np.ndarray:
    """Array of the page; NaN, which JSON does not have, comes as null."""
    found = page.run(f"[...{script}].map((a) => Number.isFinite(a) ? a : null)")
    return np.array(found, dtype=float)


def test_planes_lines_boxes_and_temperatures(
    viewer: server.Server, browser: Chromium, experiment: Path
) -> None:
    opened = {
        scan: hklflow.open(experiment / f"out/hexa/{scan}/transform.nxs")
        for scan in ("300K", "100K")
    }
    page = browser.page(f"{viewer.url}#sample=hexa&scan=100K&name=transform.nxs")
    shows(page, "hexa 100K: S(Q), merged, h k 0")
    page.run("document.getElementById('log').click()")
    # The slider.
    page.set("slider", "0.3", "input")
    shows(page, "h k 0.3")
    cold = opened["100K"].plane("h k 0.3")
    np.testing.assert_array_equal(drawn(page, "plane0"), values(cold))
    # The value under the mouse, on a voxel of the plane.
    page.run(
        "(() => { const l = plane0._fullLayout, b = plane0.getBoundingClientRect(); "
        "window.voxel = [(l.xaxis._offset + l.xaxis._length / 2) / b.width, "
        "(l.yaxis._offset + l.yaxis._length / 2) / b.height]; })()"
    )
    page.mouse("#plane0", *page.run("window.voxel"))
    page.wait("readout0.textContent")
    text = page.text("readout0")
    h, k, third = map(float, re.findall(r"[hkl] = (-?[\d.]+)", text))
    point = cold.sel(h=h, k=k, method="nearest")
    assert (third, text.split(" = ")[-1]) == (
        0.3,
        f"{rounded(float(point.S))} ± {rounded(float(point.sigma), 3)}",
    )
    # A cut with its errors, and then another temperature: plane and cut follow.
    page.set("start", "-1, 0, 0.2")
    page.set("end", "1, 0.5, 0.2")
    page.set("diameter", "0.4")
    page.run("document.querySelector('#lineform button').click()")
    page.wait("$('line').data.length === 1")
    for scan in ("100K", "300K"):
        if scan == "300K":
            page.set("scan", scan)
            shows(page, "hexa 300K")
            page.wait("$('line').data[0].name === '300K'")
        cut = opened[scan].line((-1, 0, 0.2), (1, 0.5, 0.2), 0.4)
        np.testing.assert_array_equal(listing(page, "$('line').data[0].x"), cut.distance)
        np.testing.assert_array_equal(listing(page, "$('line').data[0].y"), cut.S)
        np.testing.assert_array_equal(
            listing(page, "$('line').data[0].error_y.array"), np.nan_to_num(cut.sigma.values)
        )
        np.testing.assert_array_equal(drawn(page, "plane0"), values(opened[scan].plane("h k 0.3")))
    # A box of both temperatures.
    page.set("other", "100K")
    page.wait("!second.hidden")
    page.set("range-h", "-0.5, 0.5")
    page.set("range-k", "0, 1")
    page.run("document.querySelector('#boxform button').click()")
    page.wait("boxtable.tBodies[0].rows.length === 2")
    for row, scan in enumerate(("300K", "100K")):
        box = opened[scan].box(h=(-0.5, 0.5), k=(0, 1))
        cells = page.run(
            f"[...boxtable.tBodies[0].rows[{row}].cells].slice(1)"
            ".map((a) => [a.title, a.textContent])"
        )
        for (title, shown), value in zip(cells, box.data_vars.values(), strict=True):
            np.testing.assert_equal(float(title), float(value))
            assert shown == (rounded(float(value)) if np.isfinite(value) else "not known")
    # Nothing came from elsewhere.
    places = page.run("performance.getEntriesByType('resource').map((a) => a.name)")
    assert places
    assert all(place.startswith(viewer.url) for place in places)


def test_frames_peaks_and_pixels(viewer: server.Server, browser: Chromium) -> None:
    page = browser.page(f"{viewer.url}frames#sample=hexa&scan=300K&rotation=r1")
    page.wait("state.layers.length")
    page.set("slider", "5", "input")
    page.wait("state.asked.first === 5")
    raw = world.counts()[world.FIRST :].astype(float)
    raw[raw == world.FLAG] = np.nan
    bad = world.mask_bits() != 0
    np.testing.assert_array_equal(
        listing(page, "state.layers[0].counts"), np.where(bad, np.nan, raw[5]).ravel()
    )
    assert page.text("legend").startswith(
        f"frame 5 of 0 to 8, phi = 17.5° to 19°: {int(np.nansum(raw[5])):,} counts."
    )
    # The sum of two frames; the mouse on a pixel of the 3-D mask of the second.
    page.set("n", "2")
    page.wait("state.asked.n === 2")
    box = page.run("[view.clientWidth, view.clientHeight]")
    at = page.run("[state.view.scale, state.view.slow, state.view.fast]")
    slow, fast = 41, 31
    place = ((fast + 0.5 - at[2]) * at[0] / box[0], (slow + 0.5 - at[1]) * at[0] / box[1])
    page.mouse("#view", *place)
    page.wait("readout.textContent.includes('hkl')")
    text = page.text("readout")
    count = int(raw[5:7, slow, fast].sum())
    assert text.startswith(f"slow 41, fast 31: {count} counts (excluded by the 3-D mask)")
    middle = world.ROTATION.hkl(world.UB, 6.0, slow + 0.5, fast + 0.5)
    q = np.linalg.norm(world.ROTATION.q_lab(slow + 0.5, fast + 0.5))
    assert f"d = {rounded(2 * np.pi / q)} Å, |Q| = {rounded(q)} 1/Å" in text
    assert text.endswith("hkl = " + indices(middle))
    # Numbers of spots.
    table = world.peak_table()
    near = (table.frame >= 4) & (table.frame < 8)
    shown = page.text("legend")
    assert f"{np.sum(near & (table.flags == 0))} found peaks " in shown
    assert f"{np.sum(near & (table.flags != 0))} found peaks with a flag" in shown
    # All frames were not summed yet: a sentence, and the page goes on.
    page.run("document.getElementById('all').click()")
    page.wait("!message.hidden")
    assert "run `snakemake`" in page.text("message")
    page.run("document.getElementById('all').click()")
    page.wait("message.hidden")


def test_peaks_turn_and_lead_to_their_frame(viewer: server.Server, browser: Chromium) -> None:
    page = browser.page(f"{viewer.url}lattice#sample=hexa&scan=300K")
    page.wait("state.drawn")
    table = world.peak_table()
    good = table.flags == 0
    hkl = world.ROTATION.hkl(world.UB, table.frame, table.slow, table.fast)
    indexed = good & (np.abs(hkl - np.rint(hkl)).max(axis=1) < 0.49)
    page.set("tolerance", "0.49")
    text = page.text("legend")
    assert f"{indexed.sum()} indexed" in text
    assert f"{(good & ~indexed).sum()} not indexed" in text
    before = page.run("state.drawn[0].place")
    page.drag("#view", (0.2, 0.3), (0.4, 0.5))
    page.wait(f"JSON.stringify(state.drawn[0].place) !== {json.dumps(json.dumps(before))}")
    # The picture keeps the lengths of vectors.
    turn = np.array(page.run("state.turn"))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    # A peak that no other hides.
    peaks = "state.drawn.map(({ point, place }) => [point.i, ...place])"
    drawn = page.run(peaks)
    # The drag may still be going on.
    while (later := page.run(peaks)) != drawn:
        drawn = later
    places = np.array(drawn)
    apart = np.linalg.norm(places[:, None, 1:3] - places[None, :, 1:3], axis=-1)
    np.fill_diagonal(apart, np.inf)
    free = int(apart.min(axis=1).argmax())
    i, x, y = int(places[free, 0]), places[free, 1], places[free, 2]
    box = page.run("[view.clientWidth, view.clientHeight]")
    place = (x / box[0], y / box[1])
    page.mouse("#view", *place)
    page.wait("readout.textContent")
    q = np.linalg.norm(world.ROTATION.q_lab(table.slow[i], table.fast[i]))
    sigma = rounded(math.sqrt(table.var_intensity[i]), 3)
    assert page.text("readout") == (
        f"hkl = {indices(hkl[i])}; d = {rounded(2 * np.pi / q)} Å, "
        f"{rounded(table.intensity[i])} ± {sigma} counts, r1, frame {table.frame[i]:.2f}, "
        f"slow {table.slow[i]:.1f}, fast {table.fast[i]:.1f}"
    )
    page.mouse("#view", *place, "Moved", "Pressed", "Released")
    page.wait("location.pathname.endsWith('frames') && state.layers.length")
    assert page.run("state.asked.first") == int(table.frame[i])


def test_two_users_and_a_file_that_is_replaced(
    viewer: server.Server, browser: Chromium, experiment: Path, tmp_path: Path
) -> None:
    pages = {
        scan: browser.page(f"{viewer.url}#sample=hexa&scan={scan}&name=transform.nxs")
        for scan in ("300K", "100K")
    }
    for scan, page in pages.items():
        shows(page, f"hexa {scan}")
        page.run("document.getElementById('log').click()")
    for page in pages.values():  # both at once
        page.set("slider", "-0.4", "input")
    for scan, page in pages.items():
        shows(page, "h k -0.4")
        volume = hklflow.open(experiment / f"out/hexa/{scan}/transform.nxs")
        np.testing.assert_array_equal(drawn(page, "plane0"), values(volume.plane("h k -0.4")))
    # A new run replaces the volume of one of them.
    path = experiment / "out/hexa/100K/transform.nxs"
    data = np.random.default_rng(9).gamma(2.0, 3.0, GRID.array_shape)
    write(tmp_path / "new.nxs", data)
    shutil.move(tmp_path / "new.nxs", path)
    pages["100K"].set("slider", "-0.3", "input")
    shows(pages["100K"], "h k -0.3")
    plane = hklflow.open(path).plane("h k -0.3")
    np.testing.assert_array_equal(drawn(pages["100K"], "plane0"), values(plane))
    # A damaged file is a sentence on the page.
    path.write_bytes(path.read_bytes()[:3000])
    pages["100K"].set("slider", "0.1", "input")
    pages["100K"].wait("!message.hidden")
    assert "transform.nxs" in pages["100K"].text("message")
    # Peaks that are searched again are those of the new table.
    nexus.write_peaks(
        experiment / "out/hexa/300K/r1/peaks.nxs", world.peak_table().select(np.arange(4))
    )
    page = browser.page(f"{viewer.url}lattice#sample=hexa&scan=300K")
    page.wait("state.drawn")
    assert "2 of 2 peaks" in page.text("legend")
