"""A new experiment, tiny raw files, and a way to run the command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from hklflow.cli import main
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Done:
    code: int
    out: str
    err: str


Hklflow = Callable[..., Done]


@pytest.fixture
def hklflow(capsys: pytest.CaptureFixture[str]) -> Hklflow:
    """The command line in this process."""

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in arguments])
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, told.out, told.err)

    return run


@pytest.fixture
def folder(tmp_path: Path, hklflow: Hklflow) -> Path:
    """A new experiment with one sample."""
    base = tmp_path / "experiment"
    assert hklflow("init", base).code == 0
    added = hklflow("sample", "add", "quartz", "--space-group", "P 32 2 1", "--directory", base)
    assert added.code == 0, added.err
    return base


def write_raw(path: Path, frames: int = 5) -> Path:
    """A whole HDF5 file."""
    with h5py.File(path, "w") as file:
        pixels = np.arange(frames * 72, dtype=np.uint32).reshape(frames, 8, 9)
        file.create_dataset("entry/data/data", data=pixels, chunks=(1, 8, 9))
    return path


def environment() -> dict[str, str]:
    given = dict(os.environ)
    given["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{given['PATH']}"
    return given


def shell(*words: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment() | more,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
