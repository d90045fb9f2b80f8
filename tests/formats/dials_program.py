"""The Python of an installed DIALS, in a process of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.patience import PATIENCE


def dials_python():
    """Interpreter that imports dxtbx; skips the test where there is no DIALS."""
    found = shutil.which("dials.python")
    if found is not None:
        return found
    version = shutil.which("dials.version")
    if version is None:
        if os.environ.get("HKLFLOW_REQUIRE_DIALS"):
            pytest.fail("HKLFLOW_REQUIRE_DIALS is set and there is no dials.version on PATH")
        pytest.skip("no DIALS on PATH")
    interpreter = Path(version).read_bytes().splitlines()[0].decode().removeprefix("#!").split()
    return interpreter[0]


def run_dials_python(script, *arguments):
    """What a script prints."""
    done = subprocess.run(
        [dials_python(), "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
