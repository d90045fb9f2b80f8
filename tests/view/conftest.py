"""The viewer of a small experiment."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hklflow.view import server
from tests.view import world


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.make(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="session")
def viewer(folder: Path) -> Iterator[server.Server]:
    with server.Server(folder, folder / "plotly.min.js") as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
