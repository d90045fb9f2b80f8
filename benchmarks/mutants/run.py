"""Run the tests that reach each mutant, and say which mutants survive."""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Lock
from typing import Any

from benchmarks.mutants.draw import applied
from benchmarks.mutants.reach import Tree
from benchmarks.mutants.sandbox import Sandbox

#: Seconds a test may take beyond four times what it took, and for each module to be compiled anew.
PATIENCE, COMPILING = 120.0, 30.0


def main(given: argparse.Namespace) -> None:
    mutants = [m for m in json.loads(given.mutants.read_text()) if not m["equivalent"]]
    if given.only:
        mutants = [m for m in mutants if _asked(m, given.only.split(","))]
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    results = {one["id"]: one for one in map(json.loads, lines)}
    todo = [m for m in mutants if m["id"] not in results]
    began, lock, boxes = time.monotonic(), Lock(), Queue()
    tree = Tree(given.repo, json.loads(given.reach.read_text()))
    made: list[Sandbox] = []
    for i in range(given.jobs if todo else 0):
        made.append(Sandbox(given.work / f"slot{i}", given.repo, given.venv_python))
        if i == 0 and not given.cold:
            made[0].warm()
        made[i].adopt(made[0])
        boxes.put(made[i])

    def one(mutant: dict[str, Any]) -> None:
        if given.keep_going_seconds and time.monotonic() - began > given.keep_going_seconds:
            return
        box = boxes.get()
        try:
            result = judge(box, mutant, tree, given.at_most or float("inf"))
        finally:
            boxes.put(box)
        with lock, given.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
            results[mutant["id"]] = result
            print(_line(mutant, result), flush=True)

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(one, todo))
    ended = [results[m["id"]] for m in mutants if m["id"] in results]
    for status in sorted({result["status"] for result in ended}):
        named = [m for m in mutants if results.get(m["id"], {}).get("status") == status]
        print(f"\n{status}: {len(named)}")
        for m in named if status != "killed" else ():
            print(" ", _line(m, results[m["id"]]))
    print(f"\n{len(mutants) - len(ended)} of {len(mutants)} are left")


def _asked(mutant: dict[str, Any], words: list[str]) -> bool:
    names = {mutant["id"], mutant["package"], "kernel" if mutant["kernel"] else "plain"}
    return bool(names.intersection(words))


def _line(mutant: dict[str, Any], result: dict[str, Any]) -> str:
    by = f" by {result['killer']}" if result.get("killer") else ""
    where = f"{mutant['file']}:{mutant['function']} {mutant['operator']}"
    return f"{mutant['id']} {where}: {result['status']}{by} ({result['seconds']:.0f} s)"


def judge(box: Sandbox, mutant: dict[str, Any], tree: Tree, at_most: float) -> dict[str, Any]:
    """What becomes of one mutant; a test that also fails without it is left out of it."""
    began, file = time.monotonic(), mutant["file"]
    result: dict[str, Any] = {"id": mutant["id"], "unsound": []}

    def done(status: str, **more: Any) -> dict[str, Any]:
        return {**result, "status": status, **more, "seconds": time.monotonic() - began}

    box.refresh()
    original = (box.repo / file).read_text()
    try:
        text, lines = applied(mutant, original)
    except LookupError as error:
        return done("lost", text=str(error))
    known = tree.reached["tests"]
    # Others failed or were skipped without any mutant.
    tests = {name for name in tree.select(file, lines) if known[name]["outcome"] == "passed"}
    stale = tree.stale(file, lines)
    cache, allowed = _cache(box, stale), PATIENCE + COMPILING * len(stale)
    result["stale"] = sorted(stale)
    try:
        while tests:
            result["tests"] = len(tests)
            box.write(file, text)
            left = began + at_most - time.monotonic()
            found = once(box, in_order(tests, tree), tree, cache, allowed, left)
            killer = found.pop("killer", None)
            if found["status"] != "killed" or killer not in tests:
                return done(**found, **({"killer": killer} if killer else {}))
            # It must pass without the mutant, at the same place.
            box.refresh()
            box.forget(file)
            again = once(box, [killer], tree, box.cache, allowed, float("inf"))
            if again["status"] == "survived":
                return done(**found, killer=killer)
            result["unsound"].append(killer)
            tests.discard(killer)
        return done("survived" if result["unsound"] else "not reached")
    finally:
        box.refresh()
        box.forget(file)
        if cache != box.cache:
            shutil.rmtree(cache)


def _cache(box: Sandbox, stale: set[str]) -> Path:
    """Numba's cache for a mutant: the common one, or a copy without what is stale."""
    if not stale:
        return box.cache
    own = box.root / "numba-mutant"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(box.cache, own)
    for file in map(Path, stale):
        for old in own.glob(f"{file.parent.name}_*/{file.stem}.*"):
            old.unlink()
    return own


def full(name: str, tree: Tree) -> float:
    """Seconds of a test with the fixtures that it shares with others."""
    test, shared = tree.reached["tests"][name], tree.reached["shared_seconds"]
    return test["seconds"] + sum(shared.get(c, 0.0) for c in test["shared"])


def in_order(tests: set[str], tree: Tree) -> list[str]:
    """Fastest first; those of a module that share its fixtures together, or they are made again."""
    groups: dict[str, list[str]] = {}
    for name in tests:
        shared = tree.reached["tests"][name]["shared"]
        wide = any(c.startswith(("fixture:module", "fixture:class")) for c in shared)
        groups.setdefault(name.partition("::")[0] if wide else name, []).append(name)

    def by_time(name: str) -> tuple[float, str]:
        return full(name, tree), name

    ordered = [sorted(group, key=by_time) for group in groups.values()]
    return [name for group in sorted(ordered, key=lambda g: by_time(g[0])) for name in group]


def once(
    box: Sandbox, tests: list[str], tree: Tree, cache: Path, allowed: float, left: float
) -> dict[str, Any]:
    """One run of pytest, to the first failure."""
    log, chosen, output = box.log(), box.root / "tests.json", box.root / "run.txt"
    chosen.write_text(json.dumps(tests))
    box.settings(tests=str(chosen), log=str(log))
    began = time.monotonic()
    watch = _watch(log, tree, allowed, began + left)
    modules = list(dict.fromkeys(name.partition("::")[0] for name in tests))
    code = box.pytest(["-x", *modules], cache, watch, output)
    said = [json.loads(line) for path in log.iterdir() for line in path.read_text().splitlines()]
    strays, begun = box.strays(), [one["start"] for one in said if "start" in one]
    said_all = output.read_text()
    tail = said_all[-1500:]
    found: dict[str, Any] = {"strays": strays[:5]} if strays else {}
    if code is None:
        if time.monotonic() > began + left:
            return {**found, "status": "unfinished", "text": f"{len(begun)} tests begun"}
        killer = begun[-1] if begun else "collection"
        return {**found, "status": "killed", "killer": killer, "text": "took too long"}
    failed = [one for one in said if one.get("outcome") == "failed"]
    if failed:
        return {**found, "status": "killed", "killer": failed[0]["test"], "text": failed[0]["text"]}
    if code == 0:
        # A test of other parameters than `reach` saw has another name.
        found["missing"] = len(set(tests) - set(begun))
        return {**found, "status": "survived" if not found["missing"] else "error", "text": tail}
    # Nothing was run: hklflow, or what a test module does with it at import, is broken.
    if code in (1, 2, 4) and any(w in said_all for w in ("ERROR collecting", "loading conftest")):
        return {**found, "status": "killed", "killer": "collection", "text": tail}
    if code < 0 and begun:  # the process died
        return {**found, "status": "killed", "killer": begun[-1], "text": f"signal {-code}"}
    return {**found, "status": "error", "text": tail}


def _watch(log: Path, tree: Tree, allowed: float, end: float) -> Callable[[], bool]:
    """Whether the test at work takes too long, or all take more than the mutant may have."""
    at: dict[str, Any] = {"size": -1, "since": time.monotonic(), "limit": allowed + PATIENCE}

    def late() -> bool:
        paths = list(log.iterdir())
        size = sum(path.stat().st_size for path in paths)
        if size != at["size"]:
            text = "".join(path.read_text() for path in paths)
            # The last line may be half written.
            lines = text[: text.rfind("\n") + 1].splitlines()
            begun = [one["start"] for one in map(json.loads, lines) if "start" in one]
            if begun and begun[-1] != at.get("test"):
                limit = 4 * full(begun[-1], tree) + allowed
                at.update(test=begun[-1], since=time.monotonic(), limit=limit)
            at["size"] = size
        now = time.monotonic()
        return now > end or now - at["since"] > at["limit"]

    return late
