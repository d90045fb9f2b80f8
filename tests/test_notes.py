"""Records in pictures and pages: they are there, and the files are what they were to others."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from hklflow.base import notes
from hklflow.base.errors import HklflowError

RECORD = {"stage": "planes", "params": {"text": "a -- b --> </script> ä", "x": [-1.5, None]}}


def test_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    figure.savefig(path)
    plt.close(figure)
    assert notes.read(path) == []
    before = np.asarray(Image.open(path))
    notes.write(path, RECORD)
    assert notes.read(path) == [RECORD]
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        assert json.loads(image.text["hklflow"]) == RECORD  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.asarray(Image.open(path)), before)


def test_a_page(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    text = "<!DOCTYPE html><html><body>a</body></html>\n"
    path.write_text(text)
    assert notes.read(path) == []
    notes.write(path, RECORD)
    assert notes.read(path) == [RECORD]
    found = path.read_text()
    assert found.startswith(text)
    comment = found[len(text) :]
    assert comment.count("--") == 2  # it ends where it is to end


@pytest.mark.parametrize("name", ["a.png", "a.html"])
def test_what_is_damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("png"):
        Image.new("L", (4, 4)).save(path)
    else:
        path.write_text("<html></html>\n")
    notes.write(path, RECORD)
    data = path.read_bytes()
    at = data.index(b"planes")
    path.write_bytes(data[:at] + b'"' + data[at + 1 :])
    with pytest.raises(HklflowError, match="damaged"):
        notes.read(path)
