# What all rules share: the validated experiment, and the table of steps (hklflow.experiment.steps)
# as Snakemake takes it. A rule names what it reads and writes; the rest stands in the table.
import inspect
import re
import sys
from pathlib import Path

from hklflow.base.errors import HklflowError, printable_lines
from hklflow.experiment import config as hklconfig
from hklflow.experiment.freshness import Freshness, no_collection, outdated, sentences
from hklflow.experiment.rules import Rules

try:
    for file in workflow.configfiles:
        # Of a key that stands twice, Snakemake takes the last.
        hklconfig.read_yaml(Path(file))
    experiment = hklconfig.load(config, Path.cwd(), workflow.config_settings.config)
except HklflowError as error:
    print(printable_lines(f"hklflow: {error}"), file=sys.stderr)
    sys.exit(2)

table = Rules(experiment, is_main=workflow.is_main_process)
ENVIRONMENT = "../../envs/hklflow.yaml"
# `retries:` of a rule is obeyed a second time inside a cluster job; this is not.
RETRIES = 1 if workflow.is_main_process else 0
# Snakemake asks for the signature of a function several times for every job.
SIGNATURE = inspect.signature(lambda wildcards: None)
SIGNATURE_OF_ATTEMPT = inspect.signature(lambda wildcards, attempt: None)
_planned = []


def one_of(names):
    """Wildcard constraint: one of these names (or nothing, if there are none)."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


def plan():
    """Have Snakemake run the jobs whose products would be made otherwise now.

    Snakemake knows times, and the parameters that it wrote down itself. Folders are copied, files
    replaced by older ones, and clocks differ: hklflow compares what its products say of themselves
    with the configuration and the files from outside.
    """
    if _planned or not workflow.is_main_process:
        return
    _planned.append(True)
    with no_collection():
        verdicts = Freshness(experiment).verdicts()
    for line in sentences(verdicts):
        print(f"hklflow: {line}", file=sys.stderr)
    # As Snakemake itself does with incomplete files: jobs of the plan only, no further targets.
    workflow.dag.forcefiles.update(outdated(verdicts))


def remember():
    """Read the records of new products now, that the next plan need not."""
    if workflow.is_main_process:
        Freshness(experiment).verdicts()


def of_job(method, *names):
    """Function of the wildcards for Snakemake."""

    def inner(wildcards):
        plan()
        try:
            return method(*names, dict(wildcards.items()))
        except HklflowError as error:
            raise WorkflowError(str(error)) from None

    inner.__signature__ = SIGNATURE
    return inner


def of_attempt(method, *names):
    """The same for resources, which grow with every attempt."""

    def inner(wildcards, attempt):
        return method(*names, dict(wildcards.items()), attempt)

    inner.__signature__ = SIGNATURE_OF_ATTEMPT
    return inner


def input_files(rule, name, at):
    """Files of an input; the times of those from outside say nothing."""
    products, from_outside = table.inputs(rule, name, at)
    return products + [ancient(path) for path in from_outside]


def reads(rule, *names):
    """Inputs of a rule."""
    table.require_inputs(rule, names)
    return {name: of_job(input_files, rule, name) for name in names}


def writes(rule, *names):
    """Outputs of a rule."""
    table.require_outputs(rule, names)
    return {name: flagged(table.output(rule, name)) for name in names}


def flagged(output):
    """An output as Snakemake takes it."""
    made = directory(output.pattern) if output.folder else output.pattern
    made = temp(made) if output.temporary else made
    return report(made, **output.report) if output.report else made


def log_of(rule):
    """Log of a rule."""
    return table.log(rule)


def times_of(rule):
    """Benchmark of a rule: `hklflow check` learns from it."""
    return table.benchmark(rule)


def params_of(rule):
    """The variable parts of a rule's command; the stage's version stands in the report."""
    told = {name: of_job(method, rule) for name, method in table.words(rule).items()}
    return {**told, "version": table.version(rule)}


def resources_of(rule):
    """Memory and wall time from the shape of the data."""
    return {
        "mem_mb": of_attempt(table.memory_mb, rule),
        "runtime": of_attempt(table.minutes, rule),
    }


def command(rule):
    """Command of a rule."""
    return table.command(rule)


def goals(group):
    """Products that a target stands for."""
    return of_job(lambda at: table.plan.goals(group))


onsuccess:
    remember()


onerror:
    remember()


wildcard_constraints:
    **{name: one_of(values) for name, values in table.names().items()},
    kind="transform|masked_transform",
    which="delta|total",
    volume="symm|filled|delta_pdf|total_pdf",
    part=r"\d+",
    module=r"\d+",
    asic=r"\d+",
