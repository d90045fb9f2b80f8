"""`hklflow mask show`, `add` and `import`: what a mask file says, and one step more in it."""

import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from hklflow.stage import mask_steps
from tests.patience import PATIENCE

from .conftest import REPOSITORY, Hklflow, environment

FILE = """\
# The mask of the beamline: ask before you change it.
- shape: rectangle   # the hutch's shadow
  slow_min: 10
  slow_max: 20
  fast_min: 5
  fast_max: 25
- {image: hole.npy, op: subtract}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mask.yaml").write_text(FILE)
    hole = np.zeros((40, 60))
    hole[:, 8:12] = 1
    np.save(tmp_path / "hole.npy", hole)
    return tmp_path / "mask.yaml"


def test_show_counts_what_each_step_does(file: Path, hklflow: Hklflow) -> None:
    with file.open("a") as more:
        more.write("- {shape: circle, slow: 900, fast: 3, radius: 2, comment: far off}\n")
    done = hklflow("mask", "show", file, "--shape", "40,60")
    assert done.code == 0, done.err
    rows = [line.split(maxsplit=2) for line in done.out.splitlines()[1:-1]]
    assert rows[0] == ["200", "0", "1 rectangle"]
    assert rows[1] == ["0", "40", "2 image hole.npy"]
    assert rows[2] == ["0", "0", "3 circle: far off  <- adds nothing"]
    assert done.out.splitlines()[-1] == "160 of 2400 pixels masked (6.67 %)"


def test_the_picture_shows_the_steps_over_the_image(file: Path, hklflow: Hklflow) -> None:
    folder = file.parent
    counts = np.full((2, 40, 60), 7, np.uint16)
    counts[0, 30:] = 2**16 - 1
    with h5py.File(folder / "raw.h5", "w") as raw:
        raw["entry/data/data"] = counts
    picture = folder / "mask.png"
    assert hklflow("mask", "show", file, "--image", folder / "raw.h5", "-o", picture).code == 0
    grey = imread(picture)[..., :3]
    # The first step's grey is in the detector and in its bar.
    assert (np.abs(grey - 0.45).max(axis=2) < 0.01).sum() > 1000
    np.save(folder / "image.npy", counts[0])
    done = hklflow("mask", "show", file, "--image", folder / "image.npy")
    assert "160 of 2400" in done.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "either --shape"),
        (("--shape", "40,60", "--image", "x.tif"), "either --shape"),
        (("--shape", "40"), "rows,columns"),
        (("--shape", "0,60"), "rows,columns"),
        (("--shape", "40,61"), "step 2 (image hole.npy): the mask has 40 × 60 pixels"),
        (("--image", "gone.tif"), "gone.tif"),
        (("--shape", "40,60", "-o", "mask.pdf"), ".png"),
    ],
)
def test_show_refuses(file: Path, hklflow: Hklflow, arguments: tuple[str, ...], told: str) -> None:
    done = hklflow("mask", "show", file, *arguments)
    assert done.code == 2
    assert told in done.err


BEAMSTOP = {"shape": "beamstop", "slow": 1, "fast": 2, "radius": 3}
STEPS = [
    (
        "circle --slow 30 --fast 200.5 --radius 5 --op subtract --comment 'a: b, #c'",
        {"shape": "circle", "slow": 30, "fast": 200.5, "radius": 5}
        | {"op": "subtract", "comment": "a: b, #c"},
    ),
    (
        "ring --slow -3 --fast 2 --inner 0 --outer 1.5",
        {"shape": "ring", "slow": -3, "fast": 2, "inner": 0, "outer": 1.5},
    ),
    (
        "rectangle --slow-min 0 --slow-max 1 --fast-min 2 --fast-max 9",
        {"shape": "rectangle", "slow_min": 0, "slow_max": 1, "fast_min": 2, "fast_max": 9},
    ),
    (
        "polygon --corners 0,0 9,0 --corners=-9,0.5 --op add",
        {"shape": "polygon", "corners": [[0, 0], [9, 0], [-9, 0.5]], "op": "add"},
    ),
    (
        "beamstop --slow 1 --fast 2 --radius 3 --arm-angle -90 --arm-width 2 --arm-length 9",
        BEAMSTOP | {"arm_angle": -90, "arm_width": 2, "arm_length": 9},
    ),
    ("edges --width 2", {"edges": 2}),
    ("edges --width 2 --detector 'Pilatus 1M'", {"edges": 2, "detector": "Pilatus 1M"}),
    ("detector --detector 'Pilatus 1M'", {"detector": "Pilatus 1M"}),
]


@pytest.mark.parametrize(("words", "expected"), STEPS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_step_is_appended_and_the_rest_is_kept_byte_for_byte(
    file: Path, hklflow: Hklflow, words: str, expected: dict[str, Any], newline: str
) -> None:
    # A mark of an editor, its line ends, no end of the last line, and a list that is indented.
    text = "\ufeff" + FILE.replace("\n  ", "\n     ").replace("\n- ", "\n   - ").rstrip()
    before = text.replace("\n", newline).encode()
    file.write_bytes(before)
    file.chmod(0o640)
    done = hklflow("mask", "add", file, *shlex.split(words))
    assert done.code == 0, done.err
    assert done.out.startswith(f"step 3 of {file}: ")
    after = file.read_bytes()
    assert after.startswith(before + newline.encode() + b"   - {")
    assert after.count(b"\n") == before.count(b"\n") + 2
    assert after.endswith(b"}" + newline.encode())
    assert yaml.safe_load(after.decode("utf-8-sig"))[2] == expected
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert not list(file.parent.glob(".*.partial"))


def test_the_first_step_makes_the_file(tmp_path: Path, hklflow: Hklflow) -> None:
    file = tmp_path / "mask.yaml"
    for number in (1, 2):
        done = hklflow("mask", "add", file, "edges", "--width", str(number))
        assert done.code == 0, done.err
    assert [step.edges for step in mask_steps.read(file).steps] == [1, 2]
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("circle --slow 1 --fast 2", "circle: radius: Field required"),
        ("circle --slow 1 --fast 2 --radius 0", "radius: Input should be greater than 0"),
        ("circle --slow 1 --fast 2 --radius 1 --inner 3", "inner: Extra inputs"),
        ("circle --slow nan --fast 2 --radius 1", "slow: Input should be a finite number"),
        ("rectangle --slow-min 3 --slow-max 1 --fast-min 0 --fast-max 1", "height=-2"),
        ("polygon --corners 0,0 1", "give slow,fast"),
        ("polygon --corners 0,0 1,1", "three or more"),
        ("edges", "--width"),
        ("edges --detector x", "--width"),
        ("edges --width 0", "edges: Input should be greater"),
        ("detector", "--detector"),
        ("detector --detector x --width 2", "--width"),
        ("square --slow 1", "square"),
    ],
)
def test_a_wrong_step_changes_nothing(
    file: Path, hklflow: Hklflow, arguments: str, told: str
) -> None:
    done = hklflow("mask", "add", file, *arguments.split(" "))
    assert done.code == 2
    assert told in done.err
    assert file.read_text() == FILE
    fresh = file.with_name("new.yaml")
    assert hklflow("mask", "add", fresh, *arguments.split(" ")).code == 2
    assert not fresh.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- {shape: circle}\n", "step 1 (line 1): slow: "),
        ("[{edges: 2}]\n", "add this one by hand"),
        ("- {edges: 2}\n...\n", "add this one by hand"),
        ("edges: 2\n", "is not a list"),
    ],
)
def test_a_file_to_which_nothing_can_be_appended(
    file: Path, hklflow: Hklflow, text: str, told: str
) -> None:
    file.write_text(text)
    done = hklflow("mask", "add", file, "edges", "--width", "2")
    assert done.code == 2
    assert told in done.err
    assert file.read_text() == text


def test_an_image_is_named_relative_to_the_mask_file(
    tmp_path: Path, hklflow: Hklflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config", "raw"):
        (tmp_path / name).mkdir()
    bad = np.zeros((40, 60), np.uint8)
    bad[:3] = 1
    np.save(tmp_path / "raw/bad.npy", bad)
    with h5py.File(tmp_path / "raw/good.h5", "w") as out:
        out["entry/good"] = 1 - bad
    monkeypatch.chdir(tmp_path)
    file = Path("config/mask.yaml")
    done = hklflow("mask", "import", file, "raw/bad.npy", "--comment", "2026")
    assert done.code == 0, done.err
    assert "180 of 40 x 60 pixels are bad" in done.out
    done = hklflow("mask", "import", file, "raw/good.h5:/entry/good", "--bad", "zero")
    assert done.code == 0, done.err
    assert hklflow("mask", "import", file, tmp_path / "raw/bad.npy", "--op", "subtract").code == 0
    assert yaml.safe_load(file.read_text()) == [
        {"image": "../raw/bad.npy", "comment": "2026"},
        {"image": "../raw/good.h5:/entry/good", "bad": "zero"},
        {"image": str(tmp_path / "raw/bad.npy"), "op": "subtract"},
    ]
    # And it is found again from elsewhere.
    monkeypatch.chdir("/")
    done = hklflow("mask", "show", tmp_path / file, "--shape", "40,60")
    rows = [line.split()[:2] for line in done.out.splitlines()[1:-1]]
    assert rows == [["180", "0"], ["0", "0"], ["0", "180"]]
    before = (tmp_path / file).read_bytes()
    done = hklflow("mask", "import", tmp_path / file, tmp_path / "gone.tif")
    assert done.code == 2
    assert "gone.tif does not exist" in done.err
    assert (tmp_path / file).read_bytes() == before


def test_a_killed_command_leaves_the_old_file(file: Path) -> None:
    code = "import os, signal, sys\n"
    code += "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "from hklflow.cli import main\nmain(sys.argv[1:])\n"
    words = [sys.executable, "-c", code, "mask", "add", str(file), "edges", "--width", "2"]
    killed = subprocess.run(words, check=False, env=environment(), cwd=REPOSITORY)
    assert killed.returncode == -signal.SIGKILL
    assert file.read_text() == FILE


@pytest.mark.slow
def test_commands_at_the_same_time_all_add_their_step(file: Path) -> None:
    words = [sys.executable, "-m", "hklflow.cli", "mask", "add", str(file), "edges", "--width"]
    runs = [subprocess.Popen([*words, str(n)], env=environment()) for n in range(1, 5)]
    assert [run.wait(timeout=PATIENCE) for run in runs] == [0] * 4
    widths = [step["edges"] for step in yaml.safe_load(file.read_text())[2:]]
    assert sorted(widths) == [1, 2, 3, 4]


def test_a_folder_that_cannot_be_written(file: Path, hklflow: Hklflow) -> None:
    done = hklflow("mask", "add", file.parent / "gone/mask.yaml", "edges", "--width", "2")
    assert done.code == 2
    assert "make the folder first" in done.err
    assert file.read_text() == FILE
