"""Pytest within a sandbox: says which test is at work; for `run`, takes those that are asked for.

For `reach` the context of coverage is the test, or a fixture of a wider scope or a function that
keeps its results (`functools.cache`) while they work: they work once, for the first test that
needs them, and count for all that do.
"""

import functools
import importlib.util
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mutants_hook as hook
import pytest

SETTINGS = hook.SETTINGS
STACK: list[str] = []
#: Seconds of what worked within each.
INNER: list[float] = [0.0]
ORIGINAL = functools.lru_cache


def tell(**what: Any) -> None:
    """Add to the log of this process."""
    with Path(SETTINGS["log"], str(os.getpid())).open("a") as file:
        file.write(json.dumps(what) + "\n")


def uses(name: str) -> None:
    """What works now needs a fixture, or a result that is kept."""
    if STACK and STACK[-1] != name:
        tell(context=STACK[-1], uses=name)


def switch() -> None:
    """Let coverage, and the children from here on, know what works."""
    name = STACK[-1] if STACK else ""
    os.environ[hook.VARIABLE] = name
    (hook.HERE / "mutants_notes" / str(os.getpid())).write_text(name)
    if SETTINGS["coverage"]:
        import coverage

        current = coverage.Coverage.current()
        assert current is not None
        current.switch_context(name)


@contextmanager
def working(name: str) -> Iterator[None]:
    """Within it all lines count for this name."""
    uses(name)
    STACK.append(name)
    INNER.append(0.0)
    switch()
    start = time.monotonic()
    try:
        yield
    finally:
        spent = time.monotonic() - start
        tell(context=name, seconds=spent - INNER.pop())
        INNER[-1] += spent
        STACK.pop()
        switch()


def lru_cache(maxsize: Any = 128, typed: bool = False) -> Any:
    """`functools.lru_cache` that notes who needs what it keeps."""
    if callable(maxsize):
        return lru_cache()(maxsize)

    def decorate(function: Any) -> Any:
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        if code is None or not code.co_filename.startswith(SETTINGS["repo"]):
            return ORIGINAL(maxsize, typed)(function)
        name = f"cache:{Path(code.co_filename).name}:{code.co_qualname}"

        def work(*arguments: Any, **named: Any) -> Any:
            with working(name):
                return function(*arguments, **named)

        kept = ORIGINAL(maxsize, typed)(work)

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            uses(name)
            return kept(*arguments, **named)

        for word in ("cache_clear", "cache_info", "cache_parameters"):
            setattr(call, word, getattr(kept, word))
        return call

    return decorate


if SETTINGS["coverage"]:
    functools.lru_cache = lru_cache


def pytest_configure(config: pytest.Config) -> None:
    found = importlib.util.find_spec("hklflow")
    if found is None or not str(found.origin).startswith(SETTINGS["package"]):
        raise pytest.UsageError(f"hklflow would come from {found and found.origin}")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[Any]:
    if not SETTINGS["coverage"] or not isinstance(collector, pytest.Module):
        return (yield)
    with working(f"collect:{collector.nodeid}"):
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if SETTINGS["tests"] is None:
        return
    place = {name: i for i, name in enumerate(json.loads(Path(SETTINGS["tests"]).read_text()))}
    config.hook.pytest_deselected(items=[one for one in items if one.nodeid not in place])
    items[:] = sorted((x for x in items if x.nodeid in place), key=lambda x: place[x.nodeid])
    tell(selected=len(items))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    tell(start=item.nodeid)
    with working(f"test:{item.nodeid}"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    report = yield
    text = "" if report.passed else str(report.longrepr)[-600:]
    tell(test=item.nodeid, when=report.when, outcome=report.outcome, text=text)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    if fixturedef.scope == "function":
        return (yield)
    with working(fixture(fixturedef)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[Any]:
    result = yield
    for found in getattr(item, "_fixtureinfo").name2fixturedefs.values():  # noqa: B009
        if found[-1].scope != "function":
            uses(fixture(found[-1]))
    return result


def fixture(found: Any) -> str:
    return f"fixture:{found.scope}:{found.baseid}::{found.argname}"
