"""Private interfaces of numba: as they were, and in one place."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hklflow.simd import private

REPOSITORY = Path(__file__).parents[2]
#: What of numba other packages may rely on.
PUBLIC = {"numba", "numba.extending"}
SIMD = REPOSITORY / "src/hklflow/simd"


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


def _imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, at its top or within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_within(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _files() -> list[Path]:
    return [p for d in ("src", "benchmarks") for p in sorted((REPOSITORY / d).rglob("*.py"))]


def test_llvmlite_and_private_numba_are_for_simd() -> None:
    users: dict[str, set[str]] = {"llvmlite": set(), "numba.core": set(), "numba.extending": set()}
    for path in _files():
        for name in _imported(path):
            for package, found in users.items():
                if _is_within(name, package):
                    found.add(str(path.relative_to(REPOSITORY)))
    assert users["numba.core"] == {"src/hklflow/simd/private.py"}
    assert users["numba.extending"] == {"src/hklflow/simd/define.py"}
    assert all(Path(user).parent == Path("src/hklflow/simd") for user in users["llvmlite"])
    assert users["llvmlite"]


def test_no_other_module_of_numba_is_used() -> None:
    for path in _files():
        for name in _imported(path):
            if _is_within(name, "numba") and not _is_within(name, "numba.core"):
                # `from numba import njit` and `numba.extending`, but no module below numba.
                module = name.rpartition(".")[0] or name
                assert module in PUBLIC, f"{path.name} imports {name}"
