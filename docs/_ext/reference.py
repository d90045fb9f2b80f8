"""The reference's text, made from the code when the site is built, so that it is never old."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import draw_graphs
import pictures
from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/hklflow"
_OPTION = re.compile(r"^\| `(\w+)` \|")


def configuration() -> str:
    """`config/README.md`, its tables of keys made from the models."""
    from hklflow.experiment import schema

    return schema.readme_text((ROOT / schema.README).read_text(encoding="utf-8"))


def changelog() -> str:
    """The changes of each version."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def commands() -> str:
    """Every command, as its `--help` says."""
    from hklflow.cli import app

    text = app.generate_docs(output_format="markdown", heading_level=1)
    return text.split("\n", 1)[1]  # the page has a title


# ---------------------------------------------------------------------------- stages


def stages() -> str:
    """What each stage does, reads and writes, and its parameters, as its `--help` says."""
    from hklflow import stages as package

    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"hklflow.stages.{name}") for name in names]
    return "\n\n".join(_stage(module) for module in modules if hasattr(module, "main"))


def _stage(module: ModuleType) -> str:
    name = module.__name__.rsplit(".", 1)[1]
    parts = [f"## `{name}`", f"```{{eval-rst}}\n{inspect.getdoc(module)}\n```"]
    for title, model in (
        ("reads", module.Inputs),
        ("writes", module.Outputs),
        ("parameters", module.Params),
    ):
        if model.model_fields:
            parts.append(_options(title, model))
    return "\n\n".join(parts)


def _options(title: str, model: type[BaseModel]) -> str:
    """Table of the fields of a model, by their options on the command line."""
    from hklflow.experiment import schema

    head, line, *rows = schema._table(model.model_json_schema())
    rows = [_OPTION.sub(lambda key: f"| `--{key[1].replace('_', '-')}` |", row) for row in rows]
    return "\n".join([head.replace("key", title), line, *rows])


# ---------------------------------------------------------------------------- products


def products() -> str:
    """Table of every file that a rule writes below the results."""
    rows = ["| rule | product | path | what it is |", "|---|---|---|---|"]
    for rule, name, path, meaning in sorted(_products()):
        rows.append(f"| `{rule}` | `{name}` | `{path}` | {meaning} |")
    return "\n".join(rows)


def _products() -> Iterator[tuple[str, str, str, str]]:
    from hklflow.base.described import descriptions
    from hklflow.experiment.paths import Paths
    from hklflow.experiment.steps import STEPS
    from hklflow.experiment.steps_constants import CONSTANTS_STEPS

    paths = Paths("results")
    for step in (*STEPS, *CONSTANTS_STEPS):
        if step.rule == "simulate":
            continue  # it writes raw files, wherever the table says
        texts = descriptions(step.stage.Outputs)
        for name, output in step.writes.items():
            meaning = " ".join(texts.get(name, "").split())
            yield step.rule, name, step.pattern(step.paths(paths), output), meaning


# ------------------------------------------------------------------------- instruments


def instruments() -> str:
    """Table of what each instrument means by its headers, its source and its test."""
    from hklflow.formats.instruments import INSTRUMENTS

    oracle = json.loads((ROOT / "tests/oracles/dials_headers.json").read_text(encoding="utf-8"))
    # The installed dxtbx may lack the class of an instrument: then its later class is the source.
    generic = {"FormatCBFMiniPilatus", "FormatCBFMiniEiger"}
    by_dxtbx = {n.split(" ")[0] for n, seen in oracle.items() if seen["format"] not in generic}
    rows = [
        "| name | instrument | format | recognised by | goniometer | arm | detector (fast; slow) |"
        " filters | source | test |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in INSTRUMENTS:
        test = "dxtbx reads the same header" if row.name in by_dxtbx else "by hand"
        rows.append(f"| `{row.name}` | {' | '.join(_cells(row))} | {row.source} | {test} |")
    return "\n".join(rows)


def _cells(row: Any) -> Iterator[str]:
    """Yield instrument, format, mark, goniometer, arm, detector and filters of an instrument."""
    dates = [f"{word} {day}" for word, day in (("from", row.since), ("before", row.until)) if day]
    notes = [row.remark, f"not supported: {row.unsupported}" if row.unsupported else ""]
    yield ". ".join([", ".join([row.where, *dates]), *filter(None, notes)])
    yield row.files
    yield ", ".join(f"`{mark}`" for mark in row.marks) or "only by name"
    axes = [f"{name} {_lab(vector)}" for name, vector in row.axes]
    if row.kappa:
        axes.append(f"kappa in direction {row.kappa} of imgCIF, at `Alpha`")
    if row.axes_if is not None:
        axes.append(f"with {row.axes_if[0]}: {_lab(row.axes_if[1][0][1])}")
    yield "; ".join(axes)
    yield "" if row.arm is None else _lab(row.arm)
    centre = "; beam at its centre" if row.centred else ""
    yield f"{_lab(row.fast)}; {_lab(row.slow)}{centre}"
    yield {None: "", "percent": "per cent", "fraction": "fraction"}[row.transmission]


def _lab(vector: Any) -> str:
    from hklflow.formats.instruments import to_lab

    return ",".join(f"{x:g}" for x in to_lab(vector) + 0.0)


# ---------------------------------------------------------------------------- explanation


def docstring(module: str) -> str:
    """What the head of a module says, in the code's own words."""
    source = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source))
    return f"```{{eval-rst}}\n{text}\n```"


def layers() -> str:
    """Picture of the packages: the layers that import-linter holds, and the imports that are."""
    ranks = _contract()
    edges = {
        (unit, imported)
        for module in PACKAGE.rglob("*.py")
        if (unit := module.relative_to(PACKAGE).with_suffix("").parts[0]) in ranks
        for imported in _imports(module)
        if imported in ranks and unit != imported
    }
    drawn = pictures.svg(draw_graphs.reduced(edges), ranks)
    return f"```{{raw}} html\n<figure>{drawn}</figure>\n```"


def _contract() -> dict[str, int]:
    """Layer of each package and module of `hklflow`, by the contract in pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layered,) = (contract for contract in contracts if contract["type"] == "layers")
    return {
        name.strip().removeprefix("hklflow."): rank
        for rank, layer in enumerate(layered["layers"])
        for name in re.split(r"[|:]", layer)
    }


def _imports(module: Path) -> Iterator[str]:
    """Packages and modules directly below `hklflow` that a file imports, at whatever place."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("hklflow."))
