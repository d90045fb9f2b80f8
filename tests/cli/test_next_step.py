"""The next step after each command."""

from pathlib import Path

import numpy as np
import pytest
from cyclopts import App

from hklflow.cli import app, main, next_step

DEPENDS = {
    ("init",), ("import",), ("check",), ("status",), ("watch",), ("view",), ("verify",),
    ("config", "import-ini"), ("mask", "add"), ("mask", "import"), ("peaks", "tune"),
    ("lattice", "suggest"), ("calibration", "copy"),
}  # fmt: skip
"""Commands that print the next step themselves, because it depends on what they found."""
ANSWERS = {
    ("show",), ("slice",), ("compare",), ("config", "explain"), ("mask", "show"), ("peaks", "list"),
    ("model", "show"), ("model", "angles"), ("model", "compare"), ("instrument", "check"),
    ("groups", "show"), ("groups", "statistics"), ("calibrant", "list"), ("calibrant", "check"),
    *(("calibration", name) for name in (
        "compare", "list", "show", "apply", "affected", "states", "reindex", "verify")),
}  # fmt: skip
"""Commands that answer a question and change nothing."""


def _commands(group: App, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = set()
    for name in group:
        if not name.startswith("-"):
            command = group[name]
            below = _commands(command, (*above, name))
            found |= below or {(*above, name)}
    return found


def test_every_command_that_changes_something_has_a_next_step() -> None:
    assert _commands(app) == set(next_step.STEPS) | DEPENDS | ANSWERS


def test_the_next_step_is_told_only_after_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.array([[1, 1, 0], [2, 2, 2]]))
    command = ["groups", "make", "own.nxs", "--by", "image", "--image", "labels.npy"]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(command)
    shown = capsys.readouterr()
    assert "Next" not in shown.out  # for a program that reads it
    assert shown.err.endswith(f"Next: {next_step.STEPS['groups', 'make']}\n")
    for tokens, code in (
        (command, 2),
        ([*command, "--help"], 0),
        (["groups", "show", "own.nxs"], 0),
    ):
        with pytest.raises(SystemExit, match=rf"^{code}$"):
            main(tokens)
        assert "Next" not in capsys.readouterr().err
