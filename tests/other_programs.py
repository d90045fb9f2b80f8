"""Other programs that read what hklflow writes."""

import importlib
import os
from typing import Any

import pytest


def other_program(name: str) -> Any:
    """Return a module of `envs/requirements-readers.txt`; skip the test if it is not installed.

    Where all of them must be there, as in continuous integration, a missing one is an error.
    """
    if os.environ.get("HKLFLOW_REQUIRE_READERS"):
        return importlib.import_module(name)
    return pytest.importorskip(name)
