"""What every stage and every rule must have, and what tests and benchmarks may import."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import docstring_parser
import pytest
from pydantic import BaseModel

from hklflow import stage, stages
from hklflow.base.described import descriptions
from hklflow.base.errors import HklflowError
from hklflow.experiment import schema
from hklflow.experiment.step import Step
from hklflow.experiment.steps import STEPS
from hklflow.experiment.steps_constants import CONSTANTS_STEPS
from hklflow.experiment.steps_stills import STILLS_STEPS
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).parents[1]
NAMES = sorted(name for _, name, _ in pkgutil.iter_modules(stages.__path__))
HEAVY = {"h5py", "matplotlib", "pyFAI", "fabio", "scipy", "numba", "cctbx", "pandas", "silx"}
RULE = re.compile(r"^rule (\w+):\n((?:[ \t].*\n|\n)+)", re.MULTILINE)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"hklflow.stages.{name}")


# Rules that ask for products and make none.
TARGETS = {"bragg", "constants", "stills"}


def _rules() -> dict[str, str]:
    """Name and body of every rule below ``workflow/rules``."""
    found: dict[str, str] = {}
    for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        for name, body in RULE.findall(path.read_text() + "\n"):
            assert name not in found, f"{path} has a second rule {name}"
            if name not in TARGETS:
                found[name] = body
    return found


RULES = _rules()
TABLE = (*STEPS, *CONSTANTS_STEPS, *STILLS_STEPS)


COMPUTING = (
    *("geometry", "simd", "images", "peaks", "orientation"),
    *("transform", "volumes", "quality", "simulation"),
)
"""Rooms that compute."""
CORE = [p for room in COMPUTING for p in sorted((REPOSITORY / "src/hklflow" / room).glob("*.py"))]
assert {"binning", "estimator", "rotation"} <= {path.stem for path in CORE}
OUTSIDE = {"io", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "urllib"}
TOUCHES = {"open", "read_bytes", "read_text", "write_bytes", "write_text", "fromfile", "tofile"}


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_what_computes_touches_no_file(path: Path) -> None:
    """Arrays in, arrays out: whatever reads or writes is a stage's matter."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert OUTSIDE.isdisjoint(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).split(".")[0] not in OUTSIDE
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            assert name not in TOUCHES, f"{path}:{node.lineno} calls {name}"


# ------------------------------------------------------------------------------ stages


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_has_what_the_contract_says(name: str) -> None:
    module = _module(name)
    assert type(module.VERSION) is int
    assert module.VERSION >= 1
    for part, base in (("Inputs", stage.Inputs), ("Outputs", stage.Outputs)):
        assert issubclass(getattr(module, part), base)
        assert getattr(module, part).__module__ == module.__name__
    assert issubclass(module.Params, stage.Params)
    assert module.Outputs.model_fields
    assert (module.__doc__ or "").strip().splitlines()[0].endswith((".", ":"))
    parameters = inspect.signature(module.main).parameters
    assert list(parameters) == ["inputs", "outputs", "params", "threads"]
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert module.main.__annotations__ == {
        "inputs": module.Inputs,
        "outputs": module.Outputs,
        "params": module.Params,
        "threads": int,
        "return": None,
    }


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, str | None]]:
    texts = descriptions(model)
    for name in model.model_fields:
        yield f"{model.__name__}.{name}", texts.get(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_description(name: str) -> None:
    module = _module(name)
    bare = [
        field
        for model in (module.Inputs, module.Outputs, module.Params)
        for field, description in _fields(model)
        if not (description or "").strip().endswith(".")
    ]
    assert not bare, f"{name}: a docstring below each of {bare} must say what it is"


@pytest.mark.parametrize("name", NAMES)
def test_params_forbid_unknown_keys_and_changes(name: str) -> None:
    for model in (_module(name).Inputs, _module(name).Outputs, _module(name).Params):
        assert model.model_config["extra"] == "forbid"
        assert model.model_config["frozen"]


@pytest.mark.parametrize("name", NAMES)
def test_flags_do_not_clash(name: str) -> None:
    """Inputs, outputs and params of one stage share the command line."""
    module = _module(name)
    models = (module.Inputs, module.Outputs, module.Params)
    fields = [field for model in models for field in model.model_fields]
    assert len(set(fields)) == len(fields) > 1, sorted(fields)
    assert "threads" not in fields


#: Cyclopts would parse the source of the same settings three times for each stage that has them.
_parsed = functools.cache(docstring_parser.parse_from_object)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = _module(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setattr(docstring_parser, "parse_from_object", _parsed)
    with pytest.raises(SystemExit) as ended:
        stage.command(module.main)
    assert not ended.value.code
    told = capsys.readouterr().out
    flags = ["--threads"]
    for model in (module.Inputs, module.Outputs, module.Params):
        flags += [f"--{field.replace('_', '-')}" for field in model.model_fields]
    assert [flag for flag in flags if flag not in told] == []
    # Long lines are wrapped: compare words.
    first = (module.__doc__ or "").splitlines()[0].split()
    assert first == told.split()[told.split().index(first[0]) :][: len(first)]


def test_help_of_the_module_in_a_shell() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hklflow.stages.find_peaks", "--help"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--n-sigma" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_module_runs_as_a_command(name: str) -> None:
    path = Path(_module(name).__file__ or "")
    assert path.read_text().endswith('\n\nif __name__ == "__main__":\n    stage.command(main)\n')


def test_importing_stages_and_configuration_is_cheap() -> None:
    """Help and the job graph must not wait for what computing needs."""
    code = "import sys, importlib, hklflow\n"
    code += f"heavy = {HEAVY!r}\n"
    code += f"for name in {NAMES!r}:\n"
    code += "    importlib.import_module('hklflow.stages.' + name)\n"
    code += "    print(name, *sorted(heavy & set(sys.modules)))\n"
    code += "import hklflow.experiment.config\nprint('config', *sorted(heavy & set(sys.modules)))\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [*NAMES, "config"]
    assert [line for line in lines if len(line) > 1] == []


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("hklflow.nexus", {"numba", "scipy", "matplotlib", "cctbx"}),
        ("hklflow.plots", {"numba", "scipy", "h5py", "cctbx"}),
        ("hklflow.stage.orientation", {"numba", "scipy", "matplotlib", "cctbx"}),
    ],
)
def test_a_job_imports_only_what_it_needs(module: str, left_out: set[str]) -> None:
    """Every job of a workflow pays for it when it starts."""
    code = f"import sys, {module}; print(*sorted({left_out!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# ------------------------------------------------------------------------------- rules


def test_there_is_one_rule_for_each_stage() -> None:
    # An empty list of stages or of rules would leave out most of this module.
    assert {"import_scan", "find_peaks", "transform", "merge", "pdf"} <= set(NAMES)
    folder = REPOSITORY / "src/hklflow/stages"
    assert sorted(path.stem for path in folder.glob("[a-z]*.py")) == NAMES
    assert sorted(RULES) == NAMES
    assert sorted({step.rule for step in TABLE}) == NAMES


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_what_it_must_have(name: str) -> None:
    body = RULES[name]
    keys = re.findall(r"^    (\w+):", body, re.MULTILINE)
    for key in ("message", "output", "log", "conda", "resources", "params", "shell"):
        assert key in keys, f"rule {name} has no {key}"
    # What it says of the table of steps, it says of itself.
    named = re.findall(
        r"(reads|writes|log|benchmark|resources_of|params_of|command)\(\s*\"(\w+)\"", body
    )
    assert {rule for _, rule in named} == {name}
    assert {"writes", "log", "resources_of", "params_of", "command"} <= {key for key, _ in named}


# Rules that read no frames and no volumes, but headers, spots, orientations, constants of a
# detector, tables, or pictures. All others are tried once more, with more memory and time: see
# docs/failures.md.
READ_LITTLE = {
    *("simulate", "import_poni", "import_scan", "pixel_mask", "frame_scale", "absorption"),
    *("refine_parent", "refine", "accept", "scale_reflections", "merge_reflections"),
    *("merge_crystals", "bragg_series", "refine_stills_detector", "merge_stills"),
    *("scan_file", "temperature_series", "overview", "sample_page"),
    *("merge_current_source", "combine_constants", "mask_constants", "join_module"),
    *("join_constants", "counter_constants", "constants_report", "propose_constants"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_reads_frames_or_volumes_is_tried_once_more(name: str) -> None:
    assert ("\n    retries: RETRIES\n" in RULES[name]) == (name not in READ_LITTLE)


@pytest.mark.parametrize("step", TABLE, ids=lambda step: step.rule)
def test_a_step_gives_every_path_of_its_stage(step: Step) -> None:
    module = _module(step.rule)
    assert set(step.writes) == set(module.Outputs.model_fields)
    required = {f for f, info in module.Inputs.model_fields.items() if info.is_required()}
    assert required <= set(step.reads)
    if step.threads:
        assert "threads" in inspect.signature(module.main).parameters


def test_every_rules_file_is_in_the_table_of_contents() -> None:
    includes = re.findall(
        r'^ *include: "(.*)"', (REPOSITORY / "workflow/Snakefile").read_text(), re.M
    )
    assert sorted(includes) == sorted(
        f"rules/{path.name}" for path in (REPOSITORY / "workflow/rules").glob("*.smk")
    )


# ----------------------------------------------------------------- tests and benchmarks


def _imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, relative ones made absolute."""
    package = path.relative_to(REPOSITORY).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = (node.module,) if node.module else ()
            yield from (".".join((*above, *module, alias.name)) for alias in node.names)


@pytest.mark.parametrize(
    ("importer", "folder"),
    [("tests", "benchmarks"), ("benchmarks", "tests"), ("tests/truth", "tests")],
)
def test_tests_and_benchmarks_share_only_the_truth(importer: str, folder: str) -> None:
    # Modules found by a search path of their own count too.
    names = {folder, *(path.stem for path in (REPOSITORY / folder).rglob("*.py"))}
    taken = [
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in sorted((REPOSITORY / importer).rglob("*.py"))
        for name in _imported(path)
        if name.split(".")[0] in names and name.split(".")[:2] != ["tests", "truth"]
    ]
    assert not taken, "\n".join(taken)


# ----------------------------------------------------------------- schema and reference

CURE = (
    "run `python -m hklflow.experiment.schema` in the repository's folder and commit what it writes"
)


def test_the_json_schema_is_in_step() -> None:
    path = REPOSITORY / schema.SCHEMA
    assert path.is_file(), CURE
    assert path.read_text(encoding="utf-8") == schema.schema_text(), CURE


def test_the_reference_of_keys_is_in_step() -> None:
    text = (REPOSITORY / schema.README).read_text(encoding="utf-8")
    assert text == schema.readme_text(text), CURE


def test_the_schema_is_written_whole(tmp_path: Path) -> None:
    readme = tmp_path / schema.README
    readme.parent.mkdir()
    readme.write_text(
        f"before\n{schema.BEGIN}\nstale part\n{schema.END}\nafter\n", encoding="utf-8"
    )
    schema.main(tmp_path)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{schema.BEGIN}\n")
    assert text.endswith(f"{schema.END}\nafter\n")
    assert "stale part" not in text
    assert (tmp_path / schema.SCHEMA).read_text(encoding="utf-8") == schema.schema_text()
    schema.main(tmp_path)
    assert readme.read_text(encoding="utf-8") == text


def test_the_schema_needs_the_repository_and_the_markers(tmp_path: Path) -> None:
    with pytest.raises(HklflowError, match="run this in the repository's folder"):
        schema.main(tmp_path)
    with pytest.raises(HklflowError, match="lacks the line"):
        schema.readme_text("no markers")


def test_the_reference_tells_type_default_and_bounds() -> None:
    """Some keys of each kind, as a reader should find them."""
    told = schema.reference()
    for row in (
        '| `results` | text | `"results"` | Folder of all products. |',
        "| `n_sigma` | number, ≥ 1 | `4.5` | Smallest excess of a strong voxel",
        "| `grid_step` | 3 × number, ≥ 0.0001, ≤ 10 | none | ",
        "| `wavelength` | number, > 0 | required | Wavelength in Å. |",
        "| `find_defects` | true/false | `true` | ",
        "| `shape` | `circle` | required |",
        "| `flat_field` | path | none | ",
        "| `angles` | name: number | empty | ",
    ):
        assert row in told
    for name in ("calibrations", "import_scan", "merge", "simulation"):
        assert f"### `{name}`\n" in told


def test_the_readme_names_every_column() -> None:
    from hklflow.experiment import tables

    text = (REPOSITORY / schema.README).read_text(encoding="utf-8")
    by_hand = text.split(schema.BEGIN)[0]
    first_cells = [line.split("|")[1] for line in by_hand.splitlines() if line.startswith("| ")]
    named = set(re.findall(r"`(\w+)`", " ".join(first_cells)))
    columns = {*tables.SAMPLE_COLUMNS, *tables.SCAN_COLUMNS}
    assert columns <= named, f"config/README.md: describe {columns - named}"


# ---------------------------------------------------------------------------- defaults

WITHOUT_DEFAULTS = {*COMPUTING, "bragg", "calibration", "constants", "dials"}
#: Functions that get what is made of a stage's parameters and may have a default, and why.
MAY_HAVE_DEFAULTS: dict[str, str] = {}
"""Names of what may have a default that is a stage's parameter, with the reason."""
_NOT_GIVEN = (None, (), "")  # defaults that say that there is none


def _imported_objects(path: Path) -> dict[str, object]:
    """Names that a file imports from hklflow, anywhere in it."""
    names: dict[str, object] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hklflow"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                names[alias.asname or alias.name] = getattr(module, alias.name)
    return names


def _called(function: ast.expr, names: dict[str, object]) -> object:
    """Object that is called; a method is looked for in the classes that are imported."""
    if isinstance(function, ast.Name):
        return names.get(function.id)
    if not isinstance(function, ast.Attribute):
        return None
    owner = _called(function.value, names)
    if owner is not None:
        return getattr(owner, function.attr, None)
    owners = [x for x in names.values() if inspect.isclass(x) and hasattr(x, function.attr)]
    return getattr(owners[0], function.attr) if len(owners) == 1 else None


def _is_of_params(value: ast.expr) -> bool:
    """Return True if an argument is made of the parameters of a stage."""
    owners = [part.value for part in ast.walk(value) if isinstance(part, ast.Attribute)]
    return any(
        isinstance(owner, ast.Name) and owner.id in ("params", "settings") for owner in owners
    )


def _doubles(path: Path, fields: set[str]) -> Iterator[str]:
    """Name the defaults of functions that a file calls with a stage's parameters."""
    names = _imported_objects(path)
    calls = [x for x in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(x, ast.Call)]
    for call in calls:
        function = _called(call.func, names)
        package = str(getattr(function, "__module__", "")).split(".")[:2]
        if not callable(function) or package[0] != "hklflow" or package[-1] not in WITHOUT_DEFAULTS:
            continue
        known = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        given = {p.name for p, x in zip(known, call.args, strict=False) if _is_of_params(x)}
        given |= {str(x.arg) for x in call.keywords if x.arg and _is_of_params(x.value)}
        if any(x.arg is None for x in call.keywords):  # **values
            given |= fields
        for p in known:
            if p.name in given and p.default not in (p.empty, *_NOT_GIVEN):
                yield f"{function.__name__}({p.name}={p.default!r}), called in {path.name}"


def test_a_default_stands_with_the_stage_alone() -> None:
    """Two defaults of one parameter part sooner or later, and a page says which was not used."""
    source = REPOSITORY / "src/hklflow"
    every = [*(source / "stages").glob("[a-z]*.py"), *source.glob("[a-z]*.py")]
    every += [source / "dials/engine.py", *(source / "cli").glob("[a-z]*.py")]
    found = []
    for path in sorted(every):
        module = path.stem if path.parent.name == "stages" else None
        fields = set(_module(module).Params.model_fields) if module in NAMES else set()
        found += list(_doubles(path, fields))
    spared = {text for text in found if text.split("(")[0] in MAY_HAVE_DEFAULTS}
    assert {text.split("(")[0] for text in spared} == set(MAY_HAVE_DEFAULTS)
    assert sorted(set(found) - spared) == []


def test_a_double_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "stage.py"
    path.write_text(
        "from hklflow.geometry import corrections\n"
        "from hklflow.orientation.refinement import RefinementLimits\n"
        "RefinementLimits(params.hkl_tolerance, 0.5, params.outlier)\n"
        "RefinementLimits(**params.model_dump())\n"
    )
    found = list(_doubles(path, {"zeta", "hkl"}))
    assert [text.split(",")[0] for text in found] == [
        "RefinementLimits(outlier=5.0)",
        "RefinementLimits(zeta=0.05)",
    ]
