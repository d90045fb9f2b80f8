"""DIALS, and small scans that several tests use."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from hklflow.dials.programs import Dials, find

from . import small_scans


@pytest.fixture(autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of runs that fail stay: here."""
    place: Path = tmp_path_factory.mktemp("work")
    monkeypatch.setattr(tempfile, "tempdir", str(place))


@pytest.fixture(scope="session")
def dials() -> Dials:
    """DIALS of this machine; a failure without it where HKLFLOW_REQUIRE_DIALS is set."""
    if shutil.which("dials.version") is None and not os.environ.get("HKLFLOW_REQUIRE_DIALS"):
        pytest.skip("no dials.version on PATH: see docs/dials.md")
    return find()


@pytest.fixture(scope="session")
def hexagonal(tmp_path_factory: pytest.TempPathFactory) -> small_scans.Made:
    """Two rotations of a hexagonal crystal, turned on its head between them."""
    scans = small_scans.simulations(small_scans.HEXAGONAL, misorientation=small_scans.HEAD)
    return small_scans.make(tmp_path_factory.mktemp("hexagonal"), scans)
