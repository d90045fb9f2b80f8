"""The page of features: every row is there, and every test that it names proves something."""

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.docs.test_words import REPOSITORY, rules, rules_named

PAGE = REPOSITORY / "docs/features.md"
COUNT = {"N": 26, "S": 30, "A": 21, "C": 18, "X": 23}
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
#: Marks with which continuous integration does not run a test, or does not mind that it fails.
LEFT_OUT = {"skip", "skipif", "xfail", "real_data"}


def rows(text: str) -> list[list[str]]:
    """Cells of the tables' rows."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return [row for row in cells if row[0] != "row"]


@functools.cache
def functions(path: Path) -> dict[str, ast.FunctionDef]:
    """Functions of a module by their names."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def marks(path: Path, function: ast.FunctionDef) -> set[str]:
    """Names of the marks of a function and of its module."""
    found = list(function.decorator_list)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            found.append(node.value)
    words = " ".join(ast.unparse(node) for node in found)
    return set(re.findall(r"pytest\.mark\.(\w+)", words))


@functools.cache
def packages() -> set[str]:
    """Packages that continuous integration installs, as they are imported."""
    lock = (REPOSITORY / "envs/requirements-dev.lock").read_text(encoding="utf-8")
    return {name.replace("-", "_") for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}


def problem(name: str, function: str, folder: Path = REPOSITORY) -> str:
    """Say why a test proves nothing in continuous integration, or nothing."""
    path = folder / name
    if not path.is_file():
        return f"{name} does not exist"
    known = functions(path)
    if function not in known:
        return f"{name} has no test {function}"
    if left_out := marks(path, known[function]) & LEFT_OUT:
        return f"{function} is marked {', '.join(left_out)}"
    arguments = {argument.arg for argument in known[function].args.args}
    for node in (known[function], *(known[a] for a in sorted(arguments & set(known)))):
        for call in ast.walk(node):
            if not isinstance(call, ast.Call):
                continue
            called = ast.unparse(call.func)
            if called == "pytest.importorskip":
                package = ast.literal_eval(call.args[0])
                if package.split(".")[0] not in packages():
                    return f"{function} needs {package}, which is not in the lock"
            if called in {"pytest.skip", "pytest.xfail"} and node is known[function]:
                return f"{function} calls {called}"
    return "" if "real_data" not in arguments else f"{function} needs real measurements"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_feature_has_its_row(page: str) -> None:
    names = [row[0] for row in rows(page)]
    assert len(set(names)) == len(names)
    expected = {f"{letter}{n + 1}" for letter, number in COUNT.items() for n in range(number)}
    assert len(expected) == 118
    assert expected <= set(names)
    assert {name.rstrip("0123456789") for name in names} == {*COUNT, "NR", "SR", "AR", "CR"}


def test_states_say_what_is_missing(page: str) -> None:
    for name, theirs, ours, tests, state in rows(page):
        assert theirs, name
        assert ours, name
        proved = TEST.findall(tests)
        if state == "done":
            assert proved, name
        else:
            assert re.match(r"(partly|not yet): \w+(?: \S+){3}", state), name
        assert bool(proved) != state.startswith("not yet"), name
        # Nothing else stands in the column.
        assert tests == ", ".join(f"`{path}::{test}`" for path, test in proved), name


def test_named_tests_exist_and_are_run(page: str) -> None:
    named = TEST.findall(page)
    assert len(named) > 200
    assert [text for name, test in named if (text := problem(name, test))] == []


def test_rules_exist(page: str) -> None:
    assert len(rules_named(page)) > 30
    assert rules_named(page) <= rules()


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("test_good", ""),
        ("test_gone", "has no test"),
        ("test_never", "is marked skip"),
        ("test_fails", "is marked xfail"),
        ("test_measured", "needs real measurements"),
        ("test_leaves", "calls pytest.skip"),
        ("test_other", "needs nowhere"),
        ("test_fixture", "needs nowhere"),
        ("test_known", ""),
    ],
)
def test_a_test_that_proves_nothing_is_seen(tmp_path: Path, test: str, told: str) -> None:
    (tmp_path / "a.py").write_text(
        "import pytest\n"
        "@pytest.mark.slow\ndef test_good(): pass\n"
        "@pytest.mark.skip(reason='x')\ndef test_never(): pass\n"
        "@pytest.mark.xfail\ndef test_fails(): pass\n"
        "def test_measured(real_data): pass\n"
        "def test_leaves(): pytest.skip('x')\n"
        "def test_other(): pytest.importorskip('nowhere')\n"
        "@pytest.fixture\ndef program(): return pytest.importorskip('nowhere')\n"
        "def test_fixture(program): pass\n"
        "def test_known(): pytest.importorskip('numpy')\n"
    )
    said = problem("a.py", test, tmp_path)
    assert told in said
    assert bool(said) == bool(told)
