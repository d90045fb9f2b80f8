"""Private interfaces of numba: as they were, and in one place."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hklflow.simd import private

REPOSITORY = Path(__file__).parents[2]


def test_private_interfaces_of_numba_are_as_they_were() -> None:
    changed = private.changed()
    if changed:
        pytest.fail(" ".join(changed), pytrace=False)


def test_a_change_is_named_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.base import BaseContext
    from numba.core.caching import IndexDataCacheFile

    monkeypatch.delattr(BaseContext, "make_array")

    def save(self: object, key: object, data: object, compressed: bool = True) -> None:
        """As a later release might have it."""

    monkeypatch.setattr(IndexDataCacheFile, "save", save)
    import numba

    assert private.changed() == [
        f"numba {numba.__version__} has changed numba.core.caching.IndexDataCacheFile.save"
        "(self, key, data), by which two processes keep compiled kernels without mixing them up,"
        " to IndexDataCacheFile.save(self, key, data, compressed).",
        f"numba {numba.__version__} has no numba.core.base.BaseContext.make_array any more,"
        " by which words take the addresses of arrays.",
    ]


def test_a_module_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {("numba.core.moved", "Index.save"): ((), "nothing works")}
    monkeypatch.setattr(private, "INTERFACES", gone)
    (sentence,) = private.changed()
    assert sentence.endswith("has no numba.core.moved.Index.save any more, by which nothing works.")


def test_nothing_of_numba_is_imported_to_ask() -> None:
    """Otherwise an import would fail before the sentence."""
    code = "import hklflow.simd.private, sys; assert not {'numba', 'llvmlite'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _imports() -> Iterator[tuple[str, str]]:
    """Files, with the modules of numba and llvmlite that they import anywhere."""
    for path in (p for d in ("src", "benchmarks") for p in sorted((REPOSITORY / d).rglob("*.py"))):
        text = path.read_text()
        if "numba" not in text and "llvmlite" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            yield from ((str(path.relative_to(REPOSITORY)), module) for module in modules)


def test_llvmlite_and_private_numba_are_for_simd() -> None:
    for path, name in _imports():
        if name.startswith("numba.core"):
            assert path == "src/hklflow/simd/private.py", f"{path} imports {name}"
        elif name.startswith(("llvmlite", "numba.extending")):
            assert path.startswith("src/hklflow/simd/"), f"{path} imports {name}"
        elif name.startswith("numba."):
            # `from numba import njit`, but nothing of a module below numba.
            assert name.count(".") == 1, f"{path} imports {name}"
    files = {path for path, name in _imports() if name.startswith("llvmlite")}
    assert "src/hklflow/simd/value.py" in files
