"""Shared by all tests."""
# ruff: noqa: I001, E402

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
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

from tests.truth.pictures import blank_pictures, drawn_once

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real measurements (see HKLFLOW_TEST_DATA in the README)."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HKLFLOW_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real measurements at {folder}: set HKLFLOW_TEST_DATA")
    return folder


#: Files that take longest, in the order in which they begin: one process runs a file, and one that
#: begins late is waited for. The cluster's tests mostly wait; test_workflow makes the experiment
#: `finished`, for which the files that read it would wait if they began at the same time.
FIRST = (
    *("slurm/test_rules", "slurm/test_slurm", "workflow/test_workflow"),
    *("workflow/test_inputs_change", "test_frame_scans", "workflow/test_failures"),
    "workflow/test_constants",
    *(
        "workflow/test_calibration",
        "orientation/test_wrong_header",
        "workflow/test_import_nxrefine",
    ),
    *("test_transition_remedies", "bragg/test_bragg_tune", "test_agreement_real", "test_agreement"),
    *("test_fill_stage", "test_ccd_scan", "test_unmeasured_background", "test_absorption"),
    *("orientation/test_arm_angles", "docs/test_site", "test_integrating_scan"),
    *("test_leftover_scans", "transform/test_binning_order"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process waits for it at the end.

    What has the DIALS of this machine as a fixture runs DIALS.
    """
    ranks = {Path(__file__).parent / f"{name}.py": n for n, name in enumerate(FIRST)}

    def rank(item: pytest.Item) -> int:
        others = len(ranks) if item.get_closest_marker("workflow") else len(ranks) + 1
        return ranks.get(item.path, others)

    items.sort(key=rank)
    for item in items:
        if "dials" in getattr(item, "fixturenames", ()):
            item.add_marker("dials")


#: Files in which stages draw each picture once: their tests run a stage often, and look at what it
#: computes. In all other fast tests, stages draw always.
DRAW_ONCE = frozenset(
    {
        *(
            "test_agreement.py",
            "test_background.py",
            "test_difference.py",
            "test_fixed_orientation.py",
        ),
        *("test_frame_scale.py", "test_pdf_stage.py", "test_pixel_mask.py", "test_rocking_scan.py"),
        *("test_surrounded_scale.py", "test_temperature_series.py"),
    }
)

#: Lines of stages that have drawn in a test file, by the file.
DRAWN: dict[Path, set[tuple[str, int]]] = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let slow tests draw no pictures: the other tests and the experiment `finished` draw them."""
    pictures: AbstractContextManager[None] = nullcontext()
    if not item.get_closest_marker("pictures"):
        if item.get_closest_marker("slow"):
            pictures = blank_pictures()
        elif item.path.name in DRAW_ONCE:
            pictures = drawn_once(DRAWN.setdefault(item.path, set()))
    with pictures:
        yield


def pytest_collection_finish() -> None:
    """Leave tests and modules out of every later garbage collection: they stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the test of the cluster saw, for the log of continuous integration."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "slurm" and report.when == "call":
                    terminalreporter.write_line(f"{report.nodeid}: {value}")
