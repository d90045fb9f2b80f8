"""Shared by all tests."""
# ruff: noqa: I001

import os
from pathlib import Path

# hklflow comes first: it makes cctbx safe to import, see hklflow/_native.py.
import hklflow  # noqa: F401
import matplotlib
import pytest

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real measurements (see HKLFLOW_TEST_DATA in the README)."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HKLFLOW_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real measurements at {folder}: set HKLFLOW_TEST_DATA")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the test of the cluster saw, for the log of continuous integration."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "slurm" and report.when == "call":
                    terminalreporter.write_line(f"{report.nodeid}: {value}")
