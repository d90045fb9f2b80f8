# What all rules share: the validated experiment, and the table of steps (hklflow.experiment.steps)
# as Snakemake takes it. A rule names what it reads and writes; the table knows the rest.
import inspect
import sys
from pathlib import Path

from hklflow.base.errors import HklflowError, printable_lines
from hklflow.experiment import config as hklconfig
from hklflow.experiment.rules import Rules

try:
    for file in workflow.configfiles:
        # Of a key that stands twice, Snakemake takes the last.
        hklconfig.read_yaml(Path(file))
    experiment = hklconfig.load(config, Path.cwd(), workflow.config_settings.config)
except HklflowError as error:
    print(printable_lines(f"hklflow: {error}"), file=sys.stderr)
    sys.exit(2)

if workflow.is_main_process and experiment.note:
    print(f"hklflow: {experiment.note}", file=sys.stderr)

table = Rules(experiment, is_main=workflow.is_main_process)
ENVIRONMENT = "../../envs/hklflow.yaml"
# `retries:` of a rule is obeyed a second time inside a cluster job; this is not.
RETRIES = 1 if workflow.is_main_process else 0
# Snakemake asks for the signature of a function several times for every job.
OF_JOB = inspect.signature(lambda wildcards: None)
OF_ATTEMPT = inspect.signature(lambda wildcards, attempt: None)
_planned = []


def plan():
    """Have Snakemake run the jobs whose products would be made otherwise now."""
    if workflow.is_main_process and not _planned:
        _planned.append(True)
        # As Snakemake does with incomplete files: jobs of the plan only, no further targets.
        workflow.dag.forcefiles.update(table.outdated())


def of_job(method, *names):
    """Function of a job's wildcards for Snakemake."""

    def inner(wildcards):
        plan()
        try:
            return method(*names, dict(wildcards.items()))
        except HklflowError as error:
            raise WorkflowError(str(error)) from None

    inner.__signature__ = OF_JOB
    return inner


def of_attempt(method, rule):
    """Function of a job's wildcards and the attempt: what it is given grows with each."""

    def inner(wildcards, attempt):
        return method(rule, dict(wildcards.items()), attempt)

    inner.__signature__ = OF_ATTEMPT
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
    return {name: output_file(table.output(rule, name)) for name in names}


def output_file(product):
    """An output with what Snakemake is to do with it."""
    path = directory(product.pattern) if product.folder else product.pattern
    path = temp(path) if product.temporary else path
    return report(path, **product.report) if product.report else path


def params_of(rule):
    """Parts of a rule's command that differ from job to job, and the stage's version."""
    words = {name: of_job(method, rule) for name, method in table.words(rule).items()}
    return {**words, "version": table.version(rule)}


def resources_of(rule):
    """Memory and wall time from the shape of the data."""
    methods = {"mem_mb": table.memory_mb, "runtime": table.minutes}
    return {name: of_attempt(method, rule) for name, method in methods.items()}


def goals(group):
    """Products that a target stands for."""
    return of_job(lambda at: table.plan.goals(group))


onsuccess:
    table.remember()


onerror:
    table.remember()


wildcard_constraints:
    **table.constraints(),
