"""Draw mutants by the syntax tree, and find them again in a tree that has changed."""

import argparse
import ast
import hashlib
import json
import random
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

PACKAGE = "src/hklflow"
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
COMPARE = {"<": (">", "<=", ">="), "<=": (">=", "<", ">"), ">": ("<", ">=", "<=")}
COMPARE |= {">=": ("<=", ">", "<"), "==": ("!=",), "!=": ("==",), "is": ("is not",)}
COMPARE |= {"is not": ("is",), "in": ("not in",), "not in": ("in",)}
KINDS = ("compare_swapped", "compare_boundary", "compare_negated")
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "/", "%": "*", "**": "*"}
ARITHMETIC |= {"&": "|", "|": "&", "<<": ">>", ">>": "<<"}
OPPOSITE = {"min": "max", "minimum": "maximum", "nanmin": "nanmax", "argmin": "argmax"}
OPPOSITE |= {"fmin": "fmax", "nanargmin": "nanargmax"}
OPPOSITE |= {large: small for small, large in OPPOSITE.items()}
#: Calls that only speak.
SPEAKS = {"print", "warn", "HklflowError", "debug", "info", "write_text"}
COMPILES = re.compile(r"(n?jit|kernel|vectorize|guvectorize|overload|word)$")
#: Numbers with these names change how something looks.
LOOKS = re.compile(r"size|width|alpha|colou?r|font|dpi|pad|zorder|style|rotation|lw|ms|shrink|loc$")


@dataclass(frozen=True)
class Fault:
    """A change of a stretch of text: from and to (line, byte), what replaces it."""

    operator: str
    node: ast.AST
    start: tuple[int, int]
    end: tuple[int, int]
    text: str


class Source:
    """One module: its text, its tree, and for each node the nodes around it."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self.parent = {c: p for p in ast.walk(self.tree) for c in ast.iter_child_nodes(p)}
        self.vector = bool(re.search(r"^from (llvmlite|hklflow\.simd\.value) import", text, re.M))

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """The node and whatever it stands in, inside out."""
        while node in self.parent:
            yield node
            node = self.parent[node]

    def scope(self, node: ast.AST) -> str:
        """Dotted name of the functions and classes that a node stands in."""
        return ".".join(n.name for n in reversed([*self.around(node)]) if isinstance(n, SCOPES))

    def compiled(self, node: ast.AST) -> bool:
        """Whether numba compiles it, or it writes what numba compiles."""
        marks = (d for n in self.around(node) for d in getattr(n, "decorator_list", []))
        names = (ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in marks)
        return self.vector or any(COMPILES.search(name) for name in names)

    def piece(self, start: tuple[int, int], end: tuple[int, int]) -> str:
        lines = [line.encode() for line in self.lines[start[0] - 1 : end[0]]]
        lines[-1] = lines[-1][: end[1]]
        lines[0] = lines[0][start[1] :]
        return b"\n".join(lines).decode()

    def changed(self, fault: Fault) -> tuple[list[str], list[str]]:
        """Whole lines before and after."""
        first, last = fault.start[0], fault.end[0]
        before = self.lines[first - 1 : last]
        head = before[0].encode()[: fault.start[1]].decode()
        tail = before[-1].encode()[fault.end[1] :].decode()
        return before, f"{head}{fault.text}{tail}".split("\n")

    def places(self, scope: str, before: list[str]) -> list[int]:
        """Where such lines begin within a function or class, whatever their indentation."""
        inside = range(len(self.lines))
        if scope:
            named = (n for n in ast.walk(self.tree) if isinstance(n, SCOPES))
            found = [n for n in named if self.scope(n) == scope]
            # A property and its setter have one name.
            inside = sorted(i for n in found for i in range(n.lineno - 1, n.end_lineno or 0))
        want, lines = [line.strip() for line in before], [line.strip() for line in self.lines]
        return [i for i in inside if lines[i : i + len(want)] == want]

    def faults(self) -> Iterator[Fault]:
        """All that could be drawn."""
        for node in ast.walk(self.tree):
            if hasattr(node, "lineno"):
                yield from self._of(node)

    def excluded(self, node: ast.AST) -> bool:
        """Whether a change there is in words, types, decorators or mere names."""
        child: ast.AST | None = None
        for at in self.around(node):
            speech = isinstance(at, ast.Call) and ast.unparse(at.func).split(".")[-1] in SPEAKS
            if speech or isinstance(at, ast.JoinedStr | ast.Raise | ast.Import | ast.ImportFrom):
                return True
            if child is not None and (
                child in (getattr(at, "annotation", None), getattr(at, "returns", None))
                or child in getattr(at, "decorator_list", [])
                or (isinstance(at, ast.If) and "TYPE_CHECKING" in ast.unparse(at.test))
            ):
                return True
            if isinstance(at, ast.Assign | ast.AnnAssign) and not self.scope(at):
                value = at.value
                names = ast.unparse(at.targets[0] if isinstance(at, ast.Assign) else at.target)
                # An alias of a type, a name, or the version of a stage.
                alias = "NDArray" in ast.unparse(at) or "TypeVar" in ast.unparse(at)
                if "VERSION" in names.upper() or names == "__all__" or alias or value is None:
                    return True
            child = at
        return False

    def _of(self, node: Any) -> Iterator[Fault]:
        start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)

        def fault(operator: str, text: str, a: Any = start, b: Any = end) -> Fault:
            return Fault(operator, node, a, b, text)

        def between(left: Any, right: Any, swap: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
            a, b = (left.end_lineno, left.end_col_offset), (right.lineno, right.col_offset)
            gap = self.piece(a, b)
            sign = re.search("|".join(map(re.escape, sorted(swap, key=len, reverse=True))), gap)
            if sign and "#" not in gap:
                yield gap, sign, (a, b)

        around = self.parent[node]
        match node:
            case ast.Compare(left=left, comparators=others):
                for a, b in zip([left, *others[:-1]], others, strict=True):
                    for gap, sign, at in between(a, b, COMPARE):
                        ways = COMPARE[re.sub(r"\s+", " ", sign[0])]
                        kinds = KINDS if len(ways) == 3 else KINDS[2:]
                        for kind, way in zip(kinds, ways, strict=True):
                            new = gap[: sign.start()] + way + gap[sign.end() :]
                            yield fault(kind, new, *at)
            case ast.BinOp(left=a, right=b) if not any(map(_words, (a, b))):
                for gap, sign, at in between(a, b, ARITHMETIC):
                    new = gap[: sign.start()] + ARITHMETIC[sign[0]] + gap[sign.end() :]
                    yield fault("arithmetic", new, *at)
            case ast.BoolOp(values=[a, b, *_]):
                for gap, sign, at in between(a, b, {"and": "or", "or": "and"}):
                    new = {"and": "or", "or": "and"}[sign[0]]
                    # Brackets keep the rest of a chain as it is bound.
                    if len(node.values) == 2:
                        whole = self.piece(start, at[0]) + gap.replace(sign[0], new)
                        yield fault("and_or", f"({whole}{self.piece(at[1], end)})")
            case ast.UnaryOp(op=ast.USub(), operand=a):
                yield fault("minus_dropped", "", start, (a.lineno, a.col_offset))
            case ast.Constant(value=bool(value)) if isinstance(around, ast.arguments):
                yield fault("default", str(not value))
            case ast.Constant(value=bool(value)) if isinstance(around, ast.Return):
                yield fault("return", str(not value))
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                more = value + 1 if isinstance(value, int) else (value * 1.1 or 1.0)
                text = f"{more:.12g}" if isinstance(value, float) else str(more)
                text += ".0" * (isinstance(value, float) and text.isdigit())
                index = isinstance(around, ast.Subscript | ast.Slice)
                default = isinstance(around, ast.arguments)
                yield fault("index" if index else "default" if default else "constant", text)
            case ast.Slice(lower=low, upper=high):
                for part in (low, high):
                    if part is not None and not isinstance(part, ast.Constant):
                        at = (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
                        yield fault("index", f"({self.piece(*at)}) + 1", *at)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in OPPOSITE:
                at = (node.func.end_lineno, node.func.end_col_offset)
                yield fault("min_max", OPPOSITE[name], (at[0], at[1] - len(name)), at)
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                at = (test.lineno, test.col_offset), (test.end_lineno, test.end_col_offset)
                yield fault("condition_negated", f"not ({self.piece(*at)})", *at)
            case ast.Return(value=ast.Call() | ast.Name() | ast.BinOp()):
                yield fault("return", "return None")
            case ast.Expr(value=ast.Call()):
                yield fault("deleted", "pass")
            case ast.AugAssign(target=target, value=value):
                yield fault("deleted", "pass")
                for gap, sign, at in between(target, value, ARITHMETIC):
                    new = gap[: sign.start()] + ARITHMETIC[sign[0]] + gap[sign.end() :]
                    if not _words(value):
                        yield fault("arithmetic", new, *at)


def _words(node: ast.AST) -> bool:
    """Text or a list of things, which other arithmetic would only break."""
    kinds = (ast.JoinedStr, ast.List, ast.Tuple)
    return isinstance(node, kinds) or isinstance(getattr(node, "value", None), str)


def mutant(file: str, source: Source, fault: Fault) -> dict[str, Any] | None:
    """What is kept of a mutant; None if nothing is changed but the text, or it cannot be read."""
    before, after = source.changed(fault)
    lines, first = source.lines, fault.start[0] - 1
    mutated = [*lines[:first], *after, *lines[first + len(before) :]]
    try:
        same = ast.dump(ast.parse("\n".join(mutated))) == ast.dump(source.tree)
    except SyntaxError:
        return None
    if same or source.excluded(fault.node):
        return None
    scope = source.scope(fault.node)
    nth = source.places(scope, before).index(first)
    named = (n.arg or "" for n in source.around(fault.node) if isinstance(n, ast.keyword))
    what = [file, scope, fault.operator, before, after, nth]
    return {
        "id": hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8],
        "file": file,
        "line": fault.start[0],
        "function": scope,
        "operator": fault.operator,
        "kernel": source.compiled(fault.node),
        "cosmetic": "/plots/" in file and any(map(LOOKS.search, named)),
        "before": textwrap.dedent("\n".join(before)),
        "after": _dedent(before, after),
        "nth": nth,
        "diff": "\n".join(unified_diff(lines, mutated, f"a/{file}", f"b/{file}", n=2, lineterm="")),
    }


def _dedent(before: list[str], after: list[str]) -> str:
    cut = min(len(line) - len(line.lstrip()) for line in before if line.strip())
    return "\n".join(line[cut:] for line in after)


def applied(m: dict[str, Any], text: str) -> tuple[str, range]:
    """The mutated text of a module, and the numbers of the lines that were changed."""
    source, before = Source(text), m["before"].split("\n")
    places = source.places(m["function"], before)
    if len(places) <= m["nth"]:
        raise LookupError(f"{m['id']}: its line is no longer in {m['file']}")
    first = places[m["nth"]]
    old = source.lines[first : first + len(before)]
    cut = min(len(line) - len(line.lstrip()) for line in old if line.strip())
    new = [f"{' ' * cut}{line}" if line else line for line in m["after"].split("\n")]
    lines = [*source.lines[:first], *new, *source.lines[first + len(before) :]]
    return "\n".join(lines) + "\n", range(first + 1, first + 1 + len(before))


def shares(sizes: dict[str, int], number: int) -> dict[str, int]:
    """One for each, and the rest in proportion to size."""
    if number < len(sizes):
        raise SystemExit(f"at least {len(sizes)} mutants are needed: one for each package")
    rest, total = number - len(sizes), sum(sizes.values())
    exact = {name: rest * size / total for name, size in sizes.items()}
    found = {name: 1 + int(part) for name, part in exact.items()}
    left = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
    for name in left[: number - sum(found.values())]:
        found[name] += 1
    return found


def drawn(repo: Path, seed: int, number: int, judged: dict[str, str]) -> list[dict[str, Any]]:
    """Mutants; those that are judged equivalent come in addition."""
    files, sizes = defaultdict(list), defaultdict(int)
    for path in sorted((repo / PACKAGE).rglob("*.py")):
        inside = path.relative_to(repo / PACKAGE).parts
        package = inside[0] if len(inside) > 1 else "root"
        source = Source(path.read_text())
        files[package].append((path.relative_to(repo).as_posix(), source))
        sizes[package] += len({n.lineno for n in ast.walk(source.tree) if hasattr(n, "lineno")})
    found: list[dict[str, Any]] = []
    for package, share in sorted(shares(sizes, number).items()):
        chance = random.Random(f"{seed} {package}")
        kinds = defaultdict(list)
        for file, source in files[package]:
            for fault in source.faults():
                kinds[fault.operator].append((file, source, fault))
        lines = set()
        while share:
            pool = kinds[chance.choice(sorted(kinds))]
            one = mutant(*pool[chance.randrange(len(pool))])
            # One for each line.
            if one is None or (one["file"], one["line"]) in lines:
                continue
            lines.add((one["file"], one["line"]))
            equivalent = judged.get(one["id"])
            share -= equivalent is None
            found.append({"package": package, **one, "equivalent": equivalent})
    return found


def main(given: argparse.Namespace) -> None:
    judged = {}
    if given.out.exists():
        old = json.loads(given.out.read_text())
        judged = {m["id"]: m["equivalent"] for m in old if m["equivalent"]}
    found = drawn(given.repo, given.seed, given.number, judged)
    if found != drawn(given.repo, given.seed, given.number, judged):
        raise AssertionError("drawn twice with the same seed, mutants differ")
    for m in found:
        text = (given.repo / m["file"]).read_text()
        if applied(m, text)[0] == text or m["line"] not in applied(m, text)[1]:
            raise AssertionError(f"{m['id']} is not found again")
    given.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    for m in found:
        mark = " ".join(k for k in ("kernel", "cosmetic", "equivalent") if m[k])
        print(f"{m['id']} {m['file']}:{m['line']} {m['function']} {m['operator']} {mark}")
