"""Inputs, outputs, command, log and resources of each rule of the workflow.

``workflow/rules/common.smk`` passes these properties to snakemake; this module does not import
snakemake.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hklflow.experiment.braces import braced
from hklflow.experiment.cost import Estimate
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.flags import flags
from hklflow.experiment.freshness import Freshness, no_collection, outdated, sentences
from hklflow.experiment.jobs import Job, Plan
from hklflow.experiment.models import PoniFile, PowderImage
from hklflow.experiment.simulated import simulated_raws
from hklflow.experiment.sources import KINDS
from hklflow.experiment.step import Output, Wildcards


@dataclass(frozen=True)
class Product:
    """An output of a rule, for snakemake.

    Attributes
    ----------
    pattern : str
    temporary, folder : bool
        True if the output is removed after use; True if the output is a folder.
    report : mapping or None
        Arguments of snakemake's ``report``.
    """

    pattern: str
    temporary: bool
    folder: bool
    report: Mapping[str, object] | None


def one_of(names: Iterable[str]) -> str:
    """Return a regular expression for one of the names; without names it matches nothing."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


class Rules:
    """Properties of the rules of the workflow.

    Parameters
    ----------
    experiment : Experiment
    is_main : bool
        True in the process that the user started, False in a cluster job.
    """

    def __init__(self, experiment: Experiment, *, is_main: bool) -> None:
        self.plan, self._is_main = Plan(experiment), is_main
        # A cluster job already has its resources and need not read the times of finished jobs.
        self._estimate = Estimate(experiment, learn=is_main)
        self._ahead: set[str] = set()

    # ----------------------------------------------------------- what is out of date

    def outdated(self) -> list[str]:
        """Return the products that are out of date, and print the reasons.

        Snakemake compares file times and its own record of parameters. This comparison fails if
        folders are copied, files are replaced by older files, or clocks differ. hklflow therefore
        compares the records in its products with the configuration and with the files that no step
        makes.
        """
        with no_collection():
            verdicts = Freshness(self.plan.experiment).verdicts()
        for line in sentences(verdicts):
            print(f"hklflow: {line}", file=sys.stderr)
        return outdated(verdicts)

    def remember(self) -> None:
        """Read and store the records of new products, so that the next plan is fast."""
        if self._is_main:
            Freshness(self.plan.experiment).verdicts()

    # ----------------------------------------------------------------- wildcards

    def constraints(self) -> dict[str, str]:
        """Return the regular expression of the allowed values of each wildcard."""
        experiment = self.plan.experiment
        branches = experiment.branches.values()
        return {
            "sample": one_of(experiment.samples),
            "scan": one_of({scan for _, scan in experiment.scans}),
            "parent": one_of({scan.parent for scan in experiment.scans.values()}),
            "crystals": one_of(experiment.config.crystals),
            "rotation": one_of({rotation for _, _, rotation in experiment.all_rotations()}),
            "kind": one_of(KINDS),
            "which": one_of(("delta", "total")),
            "volume": one_of(("symm", "filled", "delta_pdf", "total_pdf")),
            "constants": one_of(experiment.config.constants),
            "run": one_of({run for branch in branches for run in branch.runs}),
            "measure": one_of({measure for branch in branches for measure in branch.measures}),
            "current": one_of({current for branch in branches for current in branch.currents}),
            "stills": one_of(experiment.config.stills),
            **dict.fromkeys(("part", "module", "asic", "batch"), r"\d+"),
        }

    def calibrations(self, *, images: bool) -> str:
        """Return the regular expression of the calibrations from images, or from PONI files."""
        kind = PowderImage if images else PoniFile
        entries = self.plan.experiment.config.calibrations.items()
        return one_of([name for name, entry in entries if isinstance(entry, kind)])

    def detectors(self, *, integrating: bool) -> str:
        """Return the regular expression of integrating detectors, or of photon counters."""
        experiment = self.plan.experiment
        names = experiment.config.constants
        return one_of([name for name in names if (name in experiment.branches) is integrating])

    def raws(self) -> str:
        """Return the regular expression of the simulated raw files."""
        return one_of(simulated_raws(self.plan.experiment))

    def wildcards(self, rule: str) -> tuple[str, ...]:
        """Return the wildcards of the products of a rule."""
        return self.plan.steps[rule].wildcards

    def require_inputs(self, rule: str, names: Iterable[str]) -> None:
        """Raise an error if the input names of a rule differ from the table of steps."""
        self._require(rule, "reads", names, self.plan.steps[rule].reads)

    def require_outputs(self, rule: str, names: Iterable[str]) -> None:
        """Raise an error if the output names of a rule differ from the table of steps."""
        self._require(rule, "writes", names, self.plan.steps[rule].writes)

    def _require(self, rule: str, verb: str, names: Iterable[str], table: Iterable[str]) -> None:
        if set(names) != set(table):
            raise ValueError(
                f"rule {rule} {verb} {sorted(names)}, but {sorted(table)} in the table of steps "
                "(hklflow/experiment/steps_*.py); use the same names in both"
            )

    # -------------------------------------------------------------------- inputs

    def inputs(self, rule: str, name: str, at: Wildcards) -> tuple[list[str], list[str]]:
        """Return the files of an input: files that the workflow makes, and other files.

        A file that the workflow does not make is left out if its time is in the future, because
        Snakemake would remove every product made from it. The command line still contains the file.
        """
        job = self.plan.job(rule, **at)
        source = job.step.reads[name]
        outside = source.outside(self.plan, at) if source.outside is not None else ()
        kept = [path for path in outside if not self._is_ahead(path)]
        return list(source.products(self.plan, at)), kept

    def _is_ahead(self, path: str) -> bool:
        """Return True if the time of a file is in the future; print a warning once."""
        try:
            seconds = os.lstat(path).st_mtime - time.time()
        except OSError:
            return False
        if seconds > 0 and self._is_main and path not in self._ahead:
            self._ahead.add(path)
            print(
                f"hklflow: warning: the time of {path} lies {seconds:.0f} s in the future; check "
                "the clocks. The file is still used: hklflow compares contents, not times",
                file=sys.stderr,
            )
        return seconds > 0

    # ------------------------------------------------------------------- outputs

    def output(self, rule: str, name: str) -> Product:
        """Return an output of a rule."""
        step = self.plan.steps[rule]
        output = step.writes[name]
        return Product(
            step.pattern(self.plan.paths, output),
            temporary=step.is_temporary,
            folder=step.folder is not None,
            report=self._report(rule, output),
        )

    def _report(self, rule: str, output: Output) -> dict[str, object] | None:
        if (shown := output.report) is None:
            return None
        level = self.plan.steps[rule].level
        group = {} if level.group is None else {"subcategory": level.group}
        return {
            "caption": f"../report/{shown.caption}.rst",
            "category": shown.category,
            **group,
            "labels": {**level.labels, "shows": shown.shows},
        }

    def log(self, rule: str) -> str:
        """Return the path pattern of the log of a rule."""
        return self.plan.steps[rule].log(self.plan.paths)

    def benchmark(self, rule: str) -> str:
        """Return the path pattern of the benchmark table of a rule."""
        return self.plan.steps[rule].benchmark(self.plan.paths)

    # ------------------------------------------------------------------- command

    def command(self, rule: str) -> str:
        """Return the command of a rule with placeholders for snakemake."""
        step = self.plan.steps[rule]
        outputs = (
            "{params.outputs}"
            if step.folder is not None
            else " ".join(f"{_flag(name)} {{output.{name}:q}}" for name in step.writes)
        )
        words = [f"python -m hklflow.stages.{rule}", "{params.inputs}", outputs, "{params.flags}"]
        words += ["--threads {threads}"] * step.threads
        return f"{' '.join(words)} > {{log:q}} 2>&1"

    def words(self, rule: str) -> "Mapping[str, Callable[[str, Wildcards], str]]":
        """Return functions (rule, wildcards) for the parts of a command that differ by job."""
        words: dict[str, Callable[[str, Wildcards], str]] = {
            "inputs": self._input_words,
            "flags": self._flags,
        }
        folder = self.plan.steps[rule].folder is not None
        return words | ({"outputs": self._output_words} if folder else {})

    def _input_words(self, rule: str, at: Wildcards) -> str:
        """Return the inputs on the command line, including files with a time in the future."""
        job = self.plan.job(rule, **at)
        return _words({name: job.files(name) for name in job.step.on_command_line})

    def _output_words(self, rule: str, at: Wildcards) -> str:
        """Return the outputs on the command line of a job that fills a folder."""
        job = self.plan.job(rule, **at)
        return _words({name: _files_in(job, path) for name, path in job.outputs.items()})

    def _flags(self, rule: str, at: Wildcards) -> str:
        """Return the flags of the parameters on the command line."""
        return flags(self.plan.job(rule, **at).params)

    def version(self, rule: str) -> int:
        """Return the version of the stage."""
        version: int = self.plan.steps[rule].stage.VERSION
        return version

    # ----------------------------------------------------------------- resources

    def memory_mb(self, rule: str, at: Wildcards, attempt: int) -> int:
        """Return the memory in MB, estimated from the shape of the data; doubled at each retry."""
        return self._estimate.memory_mb(rule, **at) * 2 ** (attempt - 1)

    def minutes(self, rule: str, at: Wildcards, attempt: int) -> int:
        """Return the wall time in minutes, estimated from the shape of the data.

        The time is doubled at each retry.
        """
        return self._estimate.minutes(rule, **at) * 2 ** (attempt - 1)


def _files_in(job: Job, folder: str) -> list[str]:
    assert job.step.folder is not None
    return [f"{folder}/{name}" for name in job.step.folder(job.plan, job.at)]


def _words(files: Mapping[str, Sequence[str]]) -> str:
    return " ".join(f"{_flag(name)} {braced(paths)}" for name, paths in files.items() if paths)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
