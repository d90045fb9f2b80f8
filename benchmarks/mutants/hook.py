"""Run at the start of every process of a sandbox, by its `site-packages`.

Notes processes for which hklflow is not that of the sandbox, and starts coverage where `reach` asks
for it. A child counts for the test that began it: by the environment, or, where a test cleared
that, by the note which each process of pytest keeps of its current test.
"""

import atexit
import importlib.util
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
SETTINGS = json.loads((HERE / "mutants_settings.json").read_text())
VARIABLE = "HKLFLOW_MUTANTS_CONTEXT"


def context() -> str:
    """The test, fixture or module for which this process was begun; nothing if for none."""
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    pid = os.getppid()
    while pid > 1:
        note = HERE / "mutants_notes" / str(pid)
        if note.exists():
            return note.read_text()
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return ""


def check() -> None:
    """Keep note of another hklflow than that of the sandbox."""
    found = importlib.util.find_spec("hklflow")
    if found is None or not str(found.origin).startswith(SETTINGS["package"]):
        with (HERE / "mutants_strays").open("a") as file:
            file.write(f"{found and found.origin} {sys.argv}\n")


def measure(folder: str) -> None:
    """Start coverage for the whole life of the process."""
    import coverage

    measured = coverage.Coverage(
        data_file=f"{folder}/data",
        data_suffix=True,
        config_file=False,
        include=[f"{SETTINGS['package']}/*"],
        context=context() or None,
        check_preimported=False,
    )
    words = ["no-data-collected", "module-not-measured", "no-ctracer", "already-imported"]
    measured.set_option("run:disable_warnings", words)
    measured.start()
    atexit.register(lambda: (measured.stop(), measured.save()))


check()
if SETTINGS["coverage"]:
    measure(SETTINGS["coverage"])
