"""Count what makes the code long or hard to follow.

    python -m benchmarks.house          the figures
    python -m benchmarks.house names    the functions behind them as well

Lines of a function are counted without its docstring, its arguments without `self` and `cls`.
"""

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parents[1]
_MOST_LINES = 60
_MOST_ARGUMENTS = 10


class Function(NamedTuple):
    """A function with the count of its lines and arguments."""

    where: str
    lines: int
    arguments: int


def functions(path: Path) -> Iterator[Function]:
    """Yield the functions and methods of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = _lines(node)
        if ast.get_docstring(node) is not None:
            lines -= _lines(node.body[0])
        taken = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        names = [argument.arg for argument in taken if argument.arg not in ("self", "cls")]
        yield Function(f"{path.relative_to(_ROOT)} {node.name}", lines, len(names))


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def rule_lines(path: Path) -> Iterator[int]:
    """Yield the number of lines of each rule, without blank lines at its end."""
    parts = re.split(r"^(?=\S)", path.read_text(), flags=re.MULTILINE)
    yield from (part.rstrip().count("\n") + 1 for part in parts if re.match(r"rule \w+:", part))


def circles(root: Path) -> list[set[str]]:
    """Return the groups of modules that import each other, inside functions too."""
    modules = {_name(root, path): path for path in root.rglob("*.py")}
    graph = {name: set(_imports(path, set(modules))) - {name} for name, path in modules.items()}
    reach = {name: _reachable(graph, name) for name in graph}
    groups: list[set[str]] = []
    for name in graph:
        if not any(name in group for group in groups):
            group = {other for other in reach[name] if name in reach[other]}
            groups += [group] if group else []
    return groups


def _name(root: Path, path: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, modules: set[str]) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for_types = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if module in modules else node.module


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += graph[name]
    return reached


def main() -> None:
    """Print the figures, and the names behind them if asked for."""
    source = _ROOT / "src" / "hklflow"
    paths = sorted(source.rglob("*.py"))
    sizes = {path: path.read_text().count("\n") for path in paths}
    largest = max(paths, key=sizes.__getitem__)
    every = [function for path in paths for function in functions(path)]
    long = [one for one in every if one.lines > _MOST_LINES]
    many = [one for one in every if one.arguments > _MOST_ARGUMENTS]
    rules = [n for path in (_ROOT / "workflow").rglob("*.smk") for n in rule_lines(path)]
    ignores = sum(path.read_text().count("no-untyped-def") for path in paths)
    rings = circles(source)
    print(f"lines of src: {sum(sizes.values())}")
    print(f"largest module: {largest.relative_to(_ROOT)}, {sizes[largest]} lines")
    print(f"functions above {_MOST_LINES} lines: {len(long)}")
    print(f"functions with more than {_MOST_ARGUMENTS} arguments: {len(many)}")
    print(f"ignores of no-untyped-def: {ignores}")
    print(f"rules: {len(rules)}, median {statistics.median(rules):g} lines")
    print(f"circles of imports: {len(rings)}")
    if "names" in sys.argv[1:]:
        for one in sorted(long, key=lambda one: -one.lines):
            print(f"  {one.lines} lines: {one.where}")
        for one in sorted(many, key=lambda one: -one.arguments):
            print(f"  {one.arguments} arguments: {one.where}")
        for ring in rings:
            print(f"  circle: {' '.join(sorted(ring))}")


if __name__ == "__main__":
    main()
