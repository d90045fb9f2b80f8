"""Every bad input ends with its sentence and exit code 2, and nothing is written."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..privilege import obeying_modes
from . import experiment, page
from .cases import Case, Fine, pattern, run, tree
from .table import CASES, FINE


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    experiment.make(folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the good experiment, in which commands run."""
    shutil.copytree(good, tmp_path / "quartz")
    monkeypatch.chdir(tmp_path / "quartz")
    yield tmp_path / "quartz"
    # So that pytest can remove what nobody may enter.
    for path in tmp_path.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.wrong)
def test_bad_input_is_told_in_one_sentence(
    case: Case, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case.spoil(folder)
    with case.around(folder):
        before = tree(folder)
        with obeying_modes() if case.forbidden else contextlib.nullcontext():
            ended = run(case.command, capfd)
        after = tree(folder)
    assert re.fullmatch(pattern(case), ended.errors), ended.errors
    assert ended.code == 2
    assert after == before


@pytest.mark.parametrize("command", sorted({case.control for case in CASES}))
def test_the_same_commands_pass_on_the_good_experiment(
    command: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = run(command, capfd)
    assert ended.code == 0, ended.errors


@pytest.mark.parametrize("fine", FINE, ids=lambda fine: fine.what)
def test_unusual_input_that_is_right(
    fine: Fine, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fine.spoil(folder)
    with obeying_modes() if fine.forbidden else contextlib.nullcontext():
        ended = run(fine.command, capfd)
    assert ended.code == 0, ended.errors


def test_there_are_as_many_cases_as_the_page_says() -> None:
    assert len({case.wrong for case in CASES}) == len(CASES) >= 60
    assert len({(case.wrong, case.command) for case in CASES}) == len(CASES)


def test_the_page_is_in_step() -> None:
    cure = "the cases have changed: run `python -m tests.bad_input.page`"
    assert page.PAGE.read_text(encoding="utf-8") == page.text(), cure
