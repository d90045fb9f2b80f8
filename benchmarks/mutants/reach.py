"""Which tests reach which lines, and how long they take."""

import argparse
import ast
import hashlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.mutants.draw import PACKAGE, SCOPES, Source
from benchmarks.mutants.sandbox import Sandbox

Node = tuple[str, str]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def sources(repo: Path) -> dict[str, str]:
    """Digest of each module."""
    paths = sorted((repo / PACKAGE).rglob("*.py"))
    return {
        p.relative_to(repo).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths
    }


def main(given: argparse.Namespace) -> None:
    from coverage.numbits import numbits_to_nums

    box = Sandbox(given.work / "slot0", given.repo, given.venv_python)
    if not given.cold:
        box.warm()
    folder, log = box.root / "coverage", box.log()
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    known, output = sources(box.repo), box.root / "reach.txt"
    box.settings(coverage=str(folder), log=str(log))
    words = ["-n", str(given.workers), *given.tests] if given.workers else given.tests
    code = box.pytest(words, box.cache, lambda: False, output)
    print(output.read_text()[-3000:])
    if code not in (0, 1):
        raise SystemExit(f"pytest ended with {code}; all it said is in {output}")
    tests, needs, seconds = told(log)
    lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    question = """select path, context, numbits from line_bits join file on file.id = file_id
        join context on context.id = context_id"""
    for path in folder.iterdir():
        with sqlite3.connect(path) as data:
            for file, context, bits in data.execute(question):
                for line in numbits_to_nums(bits):
                    lines[Path(file).relative_to(box.repo).as_posix()][line].add(context)
        data.close()
    # A context is each test that needs it, directly or not.
    of = defaultdict(set)
    for name, test in tests.items():
        test["shared"] = sorted(needed(f"test:{name}", needs) - {f"test:{name}"})
        for context in [f"test:{name}", *test["shared"], f"collect:{name.partition('::')[0]}"]:
            of[context].add(name)
        test["seconds"] = seconds.get(f"test:{name}", 0.0)
    order = {name: i for i, name in enumerate(tests)}
    groups: dict[tuple[int, ...], int] = {}
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for file, numbered in sorted(lines.items()):
        for line, contexts in sorted(numbered.items()):
            group = tuple(sorted({order[name] for c in contexts for name in of[c]}))
            found[file][line] = groups.setdefault(group, len(groups))
    unknown = {c for n in lines.values() for s in n.values() for c in s if c and not of[c]}
    shared = {c: s for c, s in seconds.items() if not c.startswith(("test:", "collect:"))}
    answer = {
        "sources": known,
        "tests": tests,
        "shared_seconds": shared,
        "groups": list(groups),
        "lines": found,
    }
    given.out.write_text(json.dumps(answer) + "\n")
    bad = [name for name, test in tests.items() if test["outcome"] == "failed"]
    print(f"{len(tests)} tests ({len(bad)} failed), {sum(map(len, found.values()))} lines reached")
    for what, names in (("failed", bad), ("in no test", unknown), ("strays", box.strays())):
        for name in sorted(names):
            print(f"{what}: {name}")
    box.settings()


def told(log: Path) -> tuple[dict[str, Any], dict[str, set[str]], dict[str, float]]:
    """Tests with their outcomes, what each context needs, and seconds, of all processes."""
    tests: dict[str, Any] = {}
    needs, seconds = defaultdict(set), defaultdict(float)
    for path in sorted(log.iterdir()):
        for line in path.read_text().splitlines():
            match json.loads(line):
                case {"context": name, "uses": other}:
                    needs[name].add(other)
                case {"context": name, "seconds": spent}:
                    seconds[name] = max(seconds[name], spent)
                case {"test": name, "outcome": outcome}:
                    one = tests.setdefault(name, {"outcome": "passed"})
                    if outcome == "failed" or one["outcome"] == "passed":
                        one["outcome"] = outcome
    return tests, needs, seconds


def needed(name: str, needs: dict[str, set[str]]) -> set[str]:
    found, todo = set(), [name]
    while todo:
        at = todo.pop()
        if at not in found:
            found.add(at)
            todo += needs.get(at, ())
    return found


class Tree:
    """The modules of a checkout: who names what, and which tests reach it."""

    def __init__(self, repo: Path, reached: dict[str, Any]) -> None:
        if sources(repo) != reached["sources"]:
            raise SystemExit("the sources are not those that `reach` saw: run it again")
        self.sources = {file: Source((repo / file).read_text()) for file in reached["sources"]}
        self.reached, self.names = reached, list(reached["tests"])
        self.files = {_module(file): file for file in self.sources}
        self.defined: dict[Node, ast.AST] = {}
        self.users: dict[Node, set[Node]] = defaultdict(set)
        self.importers: dict[str, set[str]] = defaultdict(set)
        self.body = {file: _bodies(source) for file, source in self.sources.items()}
        for file, source in self.sources.items():
            for name, node in _top(source.tree):
                self.defined[file, name] = node
        for file, source in self.sources.items():
            self._read(file, source)

    def _read(self, file: str, source: Source) -> None:
        """Note what the module imports and what its functions name."""
        here: dict[str, Node] = {name: (at, name) for at, name in self.defined if at == file}
        modules: dict[str, str] = {}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hklflow"):
                for name in node.names:
                    inner = self.files.get(f"{node.module}.{name.name}")
                    outer = self.files.get(str(node.module))
                    if inner:
                        modules[name.asname or name.name] = inner
                    elif outer:
                        here[name.asname or name.name] = (outer, name.name)
                    self.importers[inner or outer or ""].add(file)
        for name, top in _top(source.tree):
            for node in ast.walk(top):
                match node:
                    case ast.Attribute(value=ast.Name(id=of), attr=what) if of in modules:
                        self.users[modules[of], what].add((file, name))
                    case ast.Name(id=what) if what in here and here[what] != (file, name):
                        self.users[here[what]].add((file, name))

    def tests_at(self, file: str, lines: Iterable[int]) -> set[str]:
        """Tests that reach any of the lines."""
        at = self.reached["lines"].get(file, {})
        groups = {at[str(line)] for line in lines if str(line) in at}
        return {self.names[i] for group in groups for i in self.reached["groups"][group]}

    def dependents(self, file: str) -> set[str]:
        """The module and all that import it, directly or not."""
        return needed(file, self.importers)

    def tests_of(self, start: Node) -> tuple[set[str], bool]:
        """Tests that run Python code which uses a name, where need be through what numba compiles.

        Of the name itself as well, if it is a function or class. Second: whether there is such
        code at all.
        """
        found: set[str] = set()
        done, todo, ended = set(), [start, *self.users[start]], False
        while todo:
            at = todo.pop()
            if at in done:
                continue
            done.add(at)
            node: Any = self.defined.get(at)
            lines = range(node.lineno, node.end_lineno + 1) if node else range(0)
            body = self.body[at[0]].intersection(lines)
            found |= self.tests_at(at[0], body)
            if body and not self.sources[at[0]].compiled(node):
                ended = True
            else:
                todo += self.users[at]
        return found, ended

    def select(self, file: str, lines: range) -> set[str]:
        """Tests that can see a change of lines."""
        source = self.sources[file]
        node = _innermost(source.tree, lines)
        tops = [name for name, top in _top(source.tree) if top in [*source.around(node)]]
        python = self.body[file].issuperset(lines) and not source.compiled(node)
        # Such as `if __name__ == "__main__"`; the rest of a module or class is run at import.
        if python or (not tops and node not in source.tree.body):
            return self.tests_at(file, _header(node))
        of_names = [self.tests_of((file, name)) for name in tops]
        found: set[str] = set().union(*(tests for tests, _ in of_names))
        at = {file} if not any(ended for _, ended in of_names) else set()
        while not found and at:  # by modules, where names say nothing
            for one in at:
                found |= self.tests_at(one, self.body[one])
            at = {user for one in at for user in self.importers[one]} - at
        return found

    def stale(self, file: str, lines: range) -> set[str]:
        """Modules whose compiled kernels a change of lines may make untrue."""
        source = self.sources[file]
        node = _innermost(source.tree, lines)
        inside = self.body[file].issuperset(lines) and not source.compiled(node)
        return {f for f in ({file} if inside else self.dependents(file)) if self.kernels(f)}

    def kernels(self, file: str) -> bool:
        """Whether numba compiles something of a module."""
        words = "\n".join(self.sources[file].lines)
        return any(compiler in words for compiler in ("numba", "llvmlite", "hklflow.simd"))


def _module(file: str) -> str:
    return file.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _top(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Names that a module defines, with the statements."""
    for node in tree.body:
        if isinstance(node, SCOPES):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from ((n.id, node) for n in ast.walk(target) if isinstance(n, ast.Name))


def _bodies(source: Source) -> set[int]:
    """Lines within the bodies of functions."""
    found = (n for n in ast.walk(source.tree) if isinstance(n, FUNCTIONS))
    return {i for n in found for i in range(n.body[0].lineno, (n.end_lineno or 0) + 1)}


def _innermost(tree: ast.Module, lines: range) -> ast.stmt:
    """The smallest statement that all the lines stand in."""
    around = (
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.stmt) and n.lineno <= lines[0] and lines[-1] <= (n.end_lineno or 0)
    )
    return min(around, key=lambda n: (n.end_lineno or 0) - n.lineno)


def _header(node: Any) -> range:
    """Lines of a statement without those of the statements in it."""
    inner = [n.lineno for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
    return range(node.lineno, min([*inner, node.end_lineno + 1]))
