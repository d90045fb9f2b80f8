"""Classes of the table of steps: level, source of the input files, output and step.

`hklflow.experiment.steps` and the modules `steps_*` contain the table;
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
"""Map from the name of a snakemake wildcard (such as sample, scan or rotation) to its value."""


class Shown(Protocol):
    """Job whose products the page shows."""

    @property
    def pictures(self) -> tuple[str, ...]:
        """Pictures that the job makes."""

    @property
    def figures(self) -> tuple[str, ...]:
        """JSON files with the numbers that the page shows."""


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
        """Return the jobs of all scans and rotations."""


# ----------------------------------------------------------------------------- levels


@dataclass(frozen=True)
class Level:
    """Unit for which a step has one job, such as a rotation, scan, sample or module.

    Attributes
    ----------
    wildcards : tuple of str
    place : callable
        Function that takes the paths and the name of a product, and returns the path pattern.
    every : callable
        Function that takes the experiment and returns the wildcards of each job.
    unbinned : bool
        True if the products do not depend on the binning.
    key : int
        Messages name a job by the first ``key`` wildcards.
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
        Function that takes plan and wildcards, and returns the files that other steps make.
    outside : callable
        Function that takes plan and wildcards, and returns the files that no step makes. It may
        raise `HklflowError`, for example if a calibration store has no accepted version.
    inside : str
        If the product is a folder: pattern (with wildcards) of the file that is read in it.
    """

    products: "Callable[[Jobs, Wildcards], Sequence[str]]" = lambda plan, at: ()
    outside: "Callable[[Jobs, Wildcards], Sequence[str]] | None" = None
    inside: str = ""

    def files(self, plan: "Jobs", at: Wildcards) -> list[str]:
        """Return all input files in the order of the command line."""
        files = list(self.products(plan, at))
        if self.outside is not None:
            files += self.outside(plan, at)
        return [f"{file}/{self.inside.format(**at)}" for file in files] if self.inside else files


def geometry_source(name: "Callable[[Jobs, Wildcards], str | None]") -> Source:
    """Return the geometry file of an entry of `calibrations`.

    A product of this workflow and a version of a calibration store are different sources.

    Parameters
    ----------
    name : callable
        Function that takes plan and wildcards, and returns the name of the entry, or None.
    """

    def files(plan: "Jobs", at: Wildcards, *, stored: bool) -> list[str]:
        experiment, entry = plan.experiment, name(plan, at)
        if entry is None or (entry in experiment.stored_kinds) is not stored:
            return []
        return [experiment.calibration_file(entry)]

    return Source(
        lambda plan, at: files(plan, at, stored=False),
        lambda plan, at: files(plan, at, stored=True),
    )


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
    """Return a JSON file with numbers for the page and the verdict, as an output."""
    return Output(name, figures=True)


# ------------------------------------------------------------------------------- steps


def always(_: "Config") -> bool:
    """Return True, for a step that every experiment has."""
    return True


def once(_: "Jobs", __: Wildcards) -> Iterable[Wildcards]:
    """Return one empty set of further wildcards: one job for each sample, scan or rotation."""
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
        Function that takes experiment and wildcards, and returns the parameters of a job.
    over : tuple of str
        Further wildcards, such as the kind of volume.
    runs : callable
        Function that takes plan and wildcards of the level, and returns the values of the further
        wildcards. There is one job for each value; there is no job if it returns nothing.
    exists : callable
        Function that takes the configuration, and returns True if the experiment has this rule.
    in_all : callable
        Function that takes the configuration, and returns False if the products are made only on
        request.
    threads : bool
        True if the stage has an option for the number of threads.
    folder : callable or None
        Function that takes plan and wildcards, and returns the names of the product files in a
        folder. The folder is removed after use. None if the step does not write a folder.
    parts_of : str
        Name of the rule that joins the products of this rule and then removes them. Empty if the
        products are not joined.
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
        """Names of the inputs on the command line, in the order of the stage's fields."""
        fields = {**self.stage.Inputs.model_fields, **self.stage.Params.model_fields}
        return [name for name in fields if name in self.reads]

    def paths(self, paths: "Paths") -> "Paths":
        """Return the path patterns of the products, with the right binning."""
        return paths.unbinned if self.level.unbinned else paths

    def pattern(self, paths: "Paths", output: Output) -> str:
        """Return the path pattern of a product."""
        return self.level.place(paths, output.name)

    def log(self, paths: "Paths") -> str:
        """Return the path pattern of the log."""
        return self.paths(paths).log(self.rule, *self.wildcards)

    def benchmark(self, paths: "Paths") -> str:
        """Return the path pattern of the benchmark table."""
        return self.paths(paths).benchmark(self.rule, *self.wildcards)
