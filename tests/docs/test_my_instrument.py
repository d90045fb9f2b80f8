"""What the pages for an unknown instrument tell people to paste does what the pages say."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from hklflow.formats.header import Header
from hklflow.formats.poni import read_poni
from hklflow.formats.raw import open_frames
from hklflow.geometry import Detector
from hklflow.geometry.correction import of_items

DOCS = Path(__file__).parents[2] / "docs"
INSTRUMENT = (DOCS / "my_instrument.md").read_text(encoding="utf-8")
PLUGIN = (DOCS / "beamline_plugin.md").read_text(encoding="utf-8")
DOWN, RIGHT = [0, -1, 0], [-1, 0, 0]  # lab: y up, x to the left when looking downstream


def block(text: str, start: str) -> str:
    """The block of a page that contains these words."""
    (found,) = (b for b in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) if start in b)
    return str(found)


def test_converter_keeps_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(1).integers(0, 60000, (3, 512, 512)).astype("<u2")
    folder = tmp_path / "data/run7"
    folder.mkdir(parents=True)
    for i, image in enumerate(counts):
        (folder / f"x_{i:04d}.k9").write_bytes(bytes(1024) + image.tobytes())
    monkeypatch.chdir(tmp_path)
    exec(block(INSTRUMENT, "np.fromfile"), {})
    with open_frames(tmp_path / "data/run7.h5") as frames:
        assert frames.shape == counts.shape
        np.testing.assert_array_equal(frames.read(0, 3), counts)


def test_poni_file_places_the_beam(tmp_path: Path) -> None:
    path = tmp_path / "lab.poni"
    path.write_text(block(INSTRUMENT, "poni_version"))
    detector = read_poni(path).detector()
    row, column = detector.intersect([0.0, 0.0, 1.0])
    np.testing.assert_allclose([row * 0.172, column * 0.172], [90, 84])
    np.testing.assert_allclose([detector.slow, detector.fast], [DOWN, RIGHT], atol=1e-12)
    assert detector.distance == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("number", "rows", "columns"),
    re.findall(r"^\| (\d).*?\| (\w+) \| to the (\w+) \|$", INSTRUMENT, re.M),
)
def test_orientations(tmp_path: Path, number: str, rows: str, columns: str) -> None:
    path = tmp_path / "lab.poni"
    text = block(INSTRUMENT, "poni_version")
    path.write_text(text.replace('"orientation": 2', f'"orientation": {number}'))
    detector = read_poni(path).detector()
    sign = {"downwards": 1, "upwards": -1, "right": 1, "left": -1}
    np.testing.assert_allclose(detector.slow, sign[rows] * np.array(DOWN), atol=1e-12)
    np.testing.assert_allclose(detector.fast, sign[columns] * np.array(RIGHT), atol=1e-12)
    # The lower and the left edge of the detector stay where they are.
    corners = detector.lab([0, 0, 1043, 1043], [0, 981, 0, 981])
    np.testing.assert_allclose(corners[:, 1].min(), -0.089396)
    np.testing.assert_allclose(corners[:, 0].max(), 0.084)


def test_arm_moves_the_detector_as_told() -> None:
    example = re.search(r'detector: \["(arm=0,20,0)"\]', INSTRUMENT)
    assert example is not None
    namespace: dict[str, object] = {}
    exec(block(PLUGIN, "def detector"), namespace)
    made = namespace["detector"]
    assert callable(made)
    at_zero, moved = made(0.25, 500.0, 400.0, 0.0), made(0.25, 500.0, 400.0, 20.0)
    assert isinstance(at_zero, Detector)
    np.testing.assert_allclose(at_zero.intersect([0.0, 0.0, 1.0]), (500.0, 400.0))
    sine, cosine = np.sin(np.radians(20)), np.cos(np.radians(20))
    for detector in (moved, of_items([example[1]]).applied(at_zero)):
        np.testing.assert_allclose(detector.normal, [sine, 0, cosine], atol=1e-12)  # to the left
        np.testing.assert_allclose(detector.intersect([sine, 0, cosine]), (500.0, 400.0))
    up = of_items(["arm=-20,0,0"]).applied(at_zero)
    np.testing.assert_allclose(up.normal, [0, sine, cosine], atol=1e-12)


def test_every_field_of_a_header_is_in_the_table() -> None:
    table = PLUGIN.split("## Fields of `Header`")[1].split("`Goniometer(")[0]
    cells = " ".join(re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", cells)) == {field.name for field in fields(Header)}
