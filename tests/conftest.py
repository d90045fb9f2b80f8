"""Shared by all tests."""
# ruff: noqa: I001, E402

import gc
import os
from pathlib import Path

# Before numpy is imported: tests run side by side, and threads of BLAS would wait for each other.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# As in a job, see stage/contract.py: most objects of a test process live as long as it does.
gc.set_threshold(100_000)

# hklflow comes first: it makes cctbx safe to import, see hklflow/base/native.py.
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process waits for it at the end.

    The cluster's tests mostly wait, workflows come in files that one process runs.
    """
    order = ("slurm", "workflow")

    def rank(item: pytest.Item) -> int:
        marks = [n for n, mark in enumerate(order) if item.get_closest_marker(mark)]
        return min(marks, default=len(order))

    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the test of the cluster saw, for the log of continuous integration."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "slurm" and report.when == "call":
                    terminalreporter.write_line(f"{report.nodeid}: {value}")
