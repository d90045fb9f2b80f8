"""A word to those who wait for a compilation."""

import subprocess
import sys

import pytest

from hklflow.simd import waiting

_COMPILE = """
import hklflow.simd.jit
from hklflow.simd import waiting
from numba import njit

waiting._PATIENCE = {patience}
njit(lambda x: x + 1)(1)
njit(lambda x: x + 2)(1)
"""


@pytest.mark.parametrize(("patience", "lines"), [(0.0, 1), (1000.0, 0)])
def test_a_long_compilation_is_announced_once(patience: float, lines: int) -> None:
    program = [sys.executable, "-c", _COMPILE.format(patience=patience)]
    ended = subprocess.run(program, check=True, capture_output=True, text=True)
    assert ended.stderr.count("compiling kernels, once") == ended.stderr.count("\n") == lines


def test_callees_are_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Six seconds of a caller, five of which are its callee's, are less than ten."""
    seconds = iter([0.0, 5.0, 6.0, 6.0, 11.0])
    monkeypatch.setattr(waiting.time, "monotonic", lambda: next(seconds))
    compilations = waiting.Compilations()
    compilations.begins()
    compilations.begins()
    compilations.ends()
    compilations.ends()
    assert capfd.readouterr().err == ""
    compilations.begins()
    compilations.ends()
    assert "compiling kernels, once" in capfd.readouterr().err
