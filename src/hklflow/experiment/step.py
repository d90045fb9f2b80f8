"""Classes of the table of steps: level, source (input), output and step.

`hklflow.experiment.steps` and `hklflow.experiment.steps_constants` contain the table;
`hklflow.experiment.jobs` makes the jobs of an experiment from the table.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from hklflow.stage import Params

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment
    from hklflow.experiment.models import Config
    from hklflow.experiment.paths import Paths

Wildcards = Mapping[str, str]
"""Name of a wildcard of snakemake (such as sample, scan or rotation) -> its value."""


class Shown(Protocol):
    """Job whose products the page shows."""

    @property
    def pictures(self) -> tuple[str, ...]:
        """Pictures that the job makes."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Files of numbers that the job makes."""


class Jobs(Protocol):
    """Part of `jobs.Plan` that a step uses: the experiment, and the jobs of other steps."""

    @property
    def experiment(self) -> "Experiment":
        """Experiment of the jobs."""

    @property
    def paths(self) -> "Paths":
        """Path patterns of the products of the experiment."""

    def shown_of(self, sample: str) -> Sequence[Shown]:
        """Return the jobs whose products are on the page of a sample."""

    def of_scans(self) -> Sequence[Shown]:
        """Return the jobs of scans and rotations."""


# ----------------------------------------------------------------------------- levels


@dataclass(frozen=True)
class Level:
    """Unit for which a step has one job, such as a rotation, scan, sample or module.

    Attributes
    ----------
    wildcards : tuple of str
    place : callable
        Function (paths, name of a product) -> pattern of its path.
    every : callable
        Function (experiment) -> wildcards of every job.
    unbinned : bool
        True if the products do not depend on the binning.
    key : int
        Number of wildcards (the first ones) that name the job in messages.
    labels : mapping of str to str
        Labels of a picture in the report of snakemake, in addition to its subject.
    group : str or None
        Group of the picture in the report.
    """

    wildcards: tuple[str, ...]
    place: "Callable[[Paths, str], str]"
    every: "Callable[[Experiment], Iterable[Wildcards]]"
    unbinned: bool = False
    key: int = 3
    labels: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None


# ---------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class Source:
    """Files that a step reads.

    Attributes
    ----------
    products : callable
        Function (plan, wildcards) -> files that other steps make.
    outside : callable
        Function (plan, wildcards) -> files from outside. It may raise `HklflowError`, for example
        if a calibration store has no accepted version.
    inside : str
        Pattern (with wildcards) of the file that is read if the product is a folder.
    """

    products: "Callable[[Jobs, Wildcards], Sequence[str]]" = lambda plan, at: ()
    outside: "Callable[[Jobs, Wildcards], Sequence[str]] | None" = None
    inside: str = ""

    def files(self, plan: "Jobs", at: Wildcards) -> list[str]:
        """Return all files, as on the command line."""
        files = list(self.products(plan, at))
        if self.outside is not None:
            files += self.outside(plan, at)
        return [f"{file}/{self.inside.format(**at)}" for file in files] if self.inside else files


# ---------------------------------------------------------------------------- outputs


@dataclass(frozen=True)
class Report:
    """Place of a product in the report of snakemake.

    Attributes
    ----------
    category : str
    shows : str
    caption : str
        File of the caption in ``workflow/report``, without its suffix.
    """

    category: str
    shows: str
    caption: str


@dataclass(frozen=True)
class Output:
    """Product of a step.

    Attributes
    ----------
    name : str
        Name of the file, with wildcards.
    report : Report or None
    figures : bool
        True if the file contains numbers and sentences for the page and the verdict.
    """

    name: str
    report: Report | None = None
    figures: bool = False


def picture(name: str, category: str, shows: str, caption: str) -> Output:
    """Return a picture (or table) as an output that the report of snakemake shows."""
    return Output(name, Report(category, shows, caption))


def figures(name: str) -> Output:
    """Return a file of numbers, for the page and the verdict, as an output."""
    return Output(name, figures=True)


# ------------------------------------------------------------------------------- steps


def always(_: "Config") -> bool:
    """Return True, for a step that every experiment has."""
    return True


def once(_: "Jobs", __: Wildcards) -> Iterable[Wildcards]:
    """Return no further wildcards: one job for each sample, scan or rotation."""
    return ({},)


@dataclass(frozen=True)
class Step:
    """Step of the workflow.

    Attributes
    ----------
    rule : str
        Name of the rule of snakemake, of the stage, and of its costs.
    level : Level
    column : str
        Group of steps in `hklflow status`: one of `COLUMNS` in `cli/progress.py`, or the name of
        another group, which has a line of its own below the table.
    reads : mapping of str to Source
        Inputs by the stage's names. An input with another name is not on the command line: the
        stage reads it through another file or a parameter.
    writes : mapping of str to Output
        Outputs by the stage's names.
    params : callable
        Function (experiment, wildcards) -> parameters of a job.
    over : tuple of str
        Further wildcards, such as the kind of volume.
    runs : callable
        Function (plan, wildcards of the level) -> values of the further wildcards; empty: no job.
    exists : callable
        Function (configuration) -> True if the experiment has this rule.
    in_all : callable
        Function (configuration) -> False if the products are made only on request.
    threads : bool
        True if the stage has an option for the number of threads.
    folder : callable or None
        Function (plan, wildcards) -> names of the product files in a folder; the folder is removed
        after use. None: no such folder.
    parts_of : str
        Rule that joins the products of this rule, which are then removed; empty: no such rule.
    """

    rule: str
    level: Level
    column: str
    reads: Mapping[str, Source]
    writes: Mapping[str, Output]
    params: "Callable[[Experiment, Wildcards], Params]"
    over: tuple[str, ...] = ()
    runs: "Callable[[Jobs, Wildcards], Iterable[Wildcards]]" = once
    exists: "Callable[[Config], bool]" = always
    in_all: "Callable[[Config], bool]" = always
    threads: bool = False
    folder: "Callable[[Jobs, Wildcards], Sequence[str]] | None" = None
    parts_of: str = ""

    @cached_property
    def stage(self) -> ModuleType:
        """Python module of the stage."""
        return import_module(f"hklflow.stages.{self.rule}")

    @property
    def wildcards(self) -> tuple[str, ...]:
        """Wildcards of the products."""
        return (*self.level.wildcards, *self.over)

    @property
    def is_temporary(self) -> bool:
        """True if the products are removed after use."""
        return self.folder is not None or bool(self.parts_of)

    @cached_property
    def on_command_line(self) -> list[str]:
        """Names of the inputs on the command line, without files that are parameters."""
        fields = {**self.stage.Inputs.model_fields, **self.stage.Params.model_fields}
        return [name for name in fields if name in self.reads]

    def paths(self, paths: "Paths") -> "Paths":
        """Return the paths of products, logs and times, with the right binning."""
        return paths.unbinned if self.level.unbinned else paths

    def pattern(self, paths: "Paths", output: Output) -> str:
        """Return the path of a product, with wildcards."""
        return self.level.place(paths, output.name)

    def log(self, paths: "Paths") -> str:
        """Return the path of the log, with wildcards."""
        return self.paths(paths).log(self.rule, *self.wildcards)

    def benchmark(self, paths: "Paths") -> str:
        """Return the path of the benchmark table, with wildcards."""
        return self.paths(paths).benchmark(self.rule, *self.wildcards)
