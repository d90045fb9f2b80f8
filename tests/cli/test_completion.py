"""`hklflow --install-completion` writes a script for the shell."""

from pathlib import Path

import pytest

from .conftest import Hklflow


def test_the_shell_completes_commands(
    hklflow: Hklflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    script = tmp_path / "hklflow"
    done = hklflow("--install-completion", "--shell", "bash", "--output", script)
    assert done.code == 0, done.err
    text = script.read_text()
    assert "complete -F" in text
    assert all(name in text for name in ("calibration", "--watch", "slice"))
    # The shell reads it at its start.
    assert str(script) in (tmp_path / ".bashrc").read_text()
