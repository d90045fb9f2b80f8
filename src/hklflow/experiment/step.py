"""The words of the table of steps: levels, what a step reads, what it writes, and the step.

`hklflow.experiment.steps` and `hklflow.experiment.steps_constants` are written in them;
`hklflow.experiment.jobs` makes the jobs of an experiment of the table.
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
"""Wildcards of snakemake, such as sample, scan and rotation -> their values."""


class Shown(Protocol):
    """A job whose products the page shows."""

    @property
    def pictures(self) -> tuple[str, ...]:
        """Pictures that it makes."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Files of figures that it makes."""


class Jobs(Protocol):
    """What a step is told: the experiment, and the jobs of other steps (`jobs.Plan`)."""

    @property
    def experiment(self) -> "Experiment":
        """The experiment."""

    @property
    def paths(self) -> "Paths":
        """Patterns of its products."""

    def shown_of(self, sample: str) -> Sequence[Shown]:
        """Jobs whose products are on the page of a sample."""

    def of_scans(self) -> Sequence[Shown]:
        """Jobs of scans and rotations."""


# ----------------------------------------------------------------------------- levels


@dataclass(frozen=True)
class Level:
    """What a step has one job of: a rotation, a scan, a sample, a module of a detector.

    Attributes
    ----------
    wildcards : tuple of str
    place : callable
        (paths, name of a product) -> pattern of its path.
    every : callable
        Wildcards of every job in an experiment.
    unbinned : bool
        Products are the same whatever the binning.
    key : int
        Number of wildcards that name the job for people.
    labels : mapping of str to str
        What the report of snakemake says of a picture, apart from what it shows.
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
        Those that other steps make.
    outside : callable
        Those that no step makes. May raise `HklflowError`: a calibration store may have no
        accepted version.
    inside : str
        File in a folder that is read, with wildcards.
    """

    products: "Callable[[Jobs, Wildcards], Sequence[str]]" = lambda plan, at: ()
    outside: "Callable[[Jobs, Wildcards], Sequence[str]] | None" = None
    inside: str = ""

    def files(self, plan: "Jobs", at: Wildcards) -> list[str]:
        """All files, as a command line names them."""
        files = list(self.products(plan, at))
        if self.outside is not None:
            files += self.outside(plan, at)
        return [f"{file}/{self.inside.format(**at)}" for file in files] if self.inside else files


# ---------------------------------------------------------------------------- outputs


@dataclass(frozen=True)
class Report:
    """Where the report of snakemake shows a product.

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
    """A product of a step.

    Attributes
    ----------
    name : str
        Of the file, with wildcards.
    report : Report or None
    figures : bool
        Holds figures and sentences for the page and the verdict.
    """

    name: str
    report: Report | None = None
    figures: bool = False


def picture(name: str, category: str, shows: str, caption: str) -> Output:
    """Picture (or table) that the report of snakemake shows."""
    return Output(name, Report(category, shows, caption))


def figures(name: str) -> Output:
    """Figures for the page and the verdict."""
    return Output(name, figures=True)


# ------------------------------------------------------------------------------- steps


def always(_: "Config") -> bool:
    """A step that every experiment has."""
    return True


def once(_: "Jobs", __: Wildcards) -> Iterable[Wildcards]:
    """One job for each sample, scan or rotation."""
    return ({},)


@dataclass(frozen=True)
class Step:
    """A step of the workflow.

    Attributes
    ----------
    rule : str
        Of snakemake; also the name of the stage and of its costs.
    level : Level
    column : str
        Group of steps in `hklflow status`.
    reads : mapping of str to Source
        By the names of the stage's inputs; what has another name is read by way of another file
        or a parameter, and is not on the command line.
    writes : mapping of str to Output
        By the names of the stage's outputs.
    params : callable
        Parameters of a job.
    over : tuple of str
        Further wildcards, such as the kind of volume.
    runs : callable
        Their values for each of the level's jobs; none: there is no job.
    exists : callable
        Whether an experiment has such a rule.
    in_all : callable
        Whether its products are made unless they are asked for by name.
    threads : bool
        Whether the stage is told a number of threads.
    folder : str
        The products are files of these names in a folder, which is removed when they were used.
    parts_of : str
        Rule that joins the products of this one, which are removed then.
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
        """Module of the stage."""
        return import_module(f"hklflow.stages.{self.rule}")

    @property
    def wildcards(self) -> tuple[str, ...]:
        """Wildcards of its products."""
        return (*self.level.wildcards, *self.over)

    @property
    def is_temporary(self) -> bool:
        """Products are removed when they were used."""
        return self.folder is not None or bool(self.parts_of)

    @cached_property
    def on_command_line(self) -> list[str]:
        """Names of the inputs that the command line has; a parameter may be a file."""
        fields = {**self.stage.Inputs.model_fields, **self.stage.Params.model_fields}
        return [name for name in fields if name in self.reads]

    def paths(self, paths: "Paths") -> "Paths":
        """Paths of its products, logs and times."""
        return paths.unbinned if self.level.unbinned else paths

    def pattern(self, paths: "Paths", output: Output) -> str:
        """Path of a product, with wildcards."""
        return self.level.place(paths, output.name)

    def log(self, paths: "Paths") -> str:
        """Path of its log, with wildcards."""
        return self.paths(paths).log(self.rule, *self.wildcards)

    def benchmark(self, paths: "Paths") -> str:
        """Path of its times, with wildcards."""
        return self.paths(paths).benchmark(self.rule, *self.wildcards)
