"""What a job refuses before it reads pixels, `hklflow check` tells in the same sentence."""

import ast
import contextlib
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import hklflow
from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.experiment.config import load
from hklflow.experiment.jobs import Job, Plan
from hklflow.experiment.rehearsal import inputs_of

from ..privilege import obeying_modes
from .ahead import REFUSED, Refused
from .cases import Case, edited, nowhere, run
from .experiment import CHECK, IMPORT, IMPORT_LINKED, PONI
from .others import NOT_JOBS, OTHERS, TOLD
from .table import CASES
from .test_bad_input import folder, good

__all__ = ["folder", "good"]

PACKAGE = Path(hklflow.__file__).parent


def site(error: HklflowError) -> str:
    """Return file and function that raised an error."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    code = traceback.walk_tb(error.__traceback__)
    name = [frame.f_code.co_qualname for frame, _ in code][-1].replace(".<locals>", "")
    return f"{Path(last.filename).relative_to(PACKAGE)}:{name}"


def made(plan: Plan, job: Job) -> None:
    """Run a job after the jobs whose products it reads."""
    makers = {path: other for other in plan.jobs for path in other.outputs.values()}
    for path in job.inputs:
        if not Path(path).exists():
            made(plan, makers[path])
    stage.run(job.step.stage.main, **arguments(job))


def arguments(job: Job) -> dict[str, Any]:
    """Return what the command line of a job says."""
    module = job.step.stage
    return {
        "inputs": module.Inputs(**inputs_of(job)),
        "outputs": module.Outputs(**job.outputs),
        "params": job.params,
        "threads": 1,
    }


def refusal(case: Refused) -> HklflowError:
    """Return the error with which the job of a broken experiment ends."""
    shutil.rmtree("results")  # of the good experiment
    plan = Plan(load(yaml.safe_load(Path("config/config.yaml").read_text()), Path.cwd()))
    job = plan.job(case.rule, **case.at)
    case.before()
    with pytest.raises(HklflowError) as error:
        job.step.stage.main(**arguments(job)) if case.alone else made(plan, job)
    return error.value


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.wrong)
def test_check_tells_what_the_job_refuses(
    case: Refused, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case.make(folder)
    told = run(CHECK, capfd)
    assert told.code == 2, told.output
    error = refusal(case)
    assert case.told in str(error)
    assert site(error) == case.site
    assert str(error) in told.errors


def sites() -> Iterator[str]:
    """Every place in the rooms of the jobs that raises the error of a user."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if not name.startswith(NOT_JOBS):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield from (f"{name}:{function}" for function in _raising(tree, ""))


def _raising(node: ast.AST, function: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".lstrip(".")
        raised = child.exc if isinstance(child, ast.Raise) else None
        if isinstance(raised, ast.Call) and ast.unparse(raised.func) == "HklflowError":
            yield function
        yield from _raising(child, inner)


def reason(place: str) -> str:
    """Return why a refusal has no case here; empty if nobody has decided."""
    fitting = [key if key.endswith("/") or ":" in key else f"{key}:" for key in OTHERS]
    keys = [
        key
        for key, text in zip(OTHERS, fitting, strict=True)
        if place == text or (place.startswith(text) and text.endswith(("/", ":")))
    ]
    return OTHERS[max(keys, key=len)] if keys else ""


def test_every_refusal_is_told_or_has_a_reason() -> None:
    """Of all refusals that need no pixels, those that `check` tells: all."""
    cases = {case.site for case in REFUSED}
    every = list(sites())
    assert cases <= set(every)
    undecided = sorted({place for place in every if place not in cases and not reason(place)})
    assert undecided == []
    numbers = Counter("case" if place in cases else reason(place) for place in every)
    told = sum(n for why, n in numbers.items() if why == "case" or why in TOLD)
    # Refusals by the pixels, by products, by hand and by commands are the rest.
    assert told >= 250
    assert numbers["case"] >= 29


def test_no_reason_is_left_over() -> None:
    every = set(sites())
    cases = {case.site for case in REFUSED}
    unused = [key for key in OTHERS if not any(p.startswith(key) for p in every - cases)]
    assert unused == []


# Whose job is a row of the experiment.
_THROUGH_CHECK = {IMPORT, IMPORT_LINKED, PONI}
# When the experiment is loaded, these are told in the words of the table; and outputs by hand are
# no outputs of the experiment.
_IN_OTHER_WORDS = (
    "is a folder, not a file",
    "is a pipe",
    "is a device",
    "new/",
    "new: ",
    "permission denied;",
)
HEADERS = [
    case
    for case in CASES
    if case.command in _THROUGH_CHECK
    and case.around is nowhere
    and not any(words in case.told for words in _IN_OTHER_WORDS)
]


@pytest.mark.slow
@pytest.mark.parametrize("case", HEADERS, ids=lambda case: case.wrong)
def test_headers_through_check(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What stops the import of a rotation or of a PONI file is told by check."""
    # The table states a temperature, which counts more than the header's.
    edited("config/scans.tsv", ("300K\t300\t", "300K\t\t"))(folder)
    case.spoil(folder)
    with obeying_modes() if case.forbidden else contextlib.nullcontext():
        told = run(CHECK, capfd)
    assert told.code == 2, told.output
    parts = case.told.split("…")
    assert re.search("[^\n]*?".join(map(re.escape, parts)), told.errors), told.errors
