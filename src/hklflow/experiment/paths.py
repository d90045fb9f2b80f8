"""Path patterns of all results, for rules and tests.

Patterns hold snakemake wildcards: ``{calibration}``, ``{sample}``, ``{scan}``,
``{rotation}``, ``{part}``, ``{parent}``, ``{crystals}``, ``{kind}`` (``transform`` or
``masked_transform``) and ``{which}`` (``delta`` or ``total``); for constants
``{constants}``, ``{run}``, ``{measure}``, ``{module}``, ``{asic}`` and ``{current}``; for still
frames ``{stills}`` and ``{batch}``.
Names of samples and scans contain no ``_``; folders with ``_`` are free for other products.

Products of frames binned b x b are in ``<results>_binned<b>``. Products that do not depend on the
binning are always in ``<results>`` (`Paths.unbinned`): calibrations, detector constants, sums,
corrected frames and still frames.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import PurePosixPath

RESERVED = frozenset({"calibration", "constants", "stills", "overview", "logs", "benchmarks"})
"""Folder names in the results that are not allowed as names of samples."""

_OF_ANY_BINNING = frozenset(
    {"calibration", "constants", "stills", "raw"}
)  # wildcards of unbinned products


@dataclass(frozen=True)
class Paths:
    """Path patterns of all products in one results folder."""

    results: str
    binning: int = 1
    """Pixels along each side of the blocks that are summed."""

    @cached_property
    def folder(self) -> str:
        """Folder of the products of scans, with the binning in its name."""
        plain = PurePosixPath(self.results)
        return str(plain if self.binning == 1 else f"{plain}_binned{self.binning}")

    @cached_property
    def unbinned(self) -> "Paths":
        """Path patterns of the products that do not depend on the binning."""
        return Paths(self.results)

    def _at(self, *parts: str) -> str:
        return _path(self.folder, parts)

    def calibration(self, name: str) -> str:
        """Return the path of a product of a calibration, such as ``geometry.json``."""
        return self.unbinned._at("calibration", "{calibration}", name)

    def constants(self, name: str) -> str:
        """Return the path of a product of detector constants, such as ``constants.nxs``."""
        return self._of_constants(name)

    def run(self, name: str) -> str:
        """Return the path of a product of one run of constants, such as ``facts.json``."""
        return self._of_constants("runs", "{run}", name)

    def gathered(self) -> str:
        """Return the folder with the frames of a module in one measure (``asic_<number>.h5``)."""
        return self._of_constants("gathered", "{measure}", "module_{module}")

    def asic(self, name: str) -> str:
        """Return the path of a product of one ASIC, such as ``dark.nxs``."""
        return self._of_constants("module_{module}", "asic_{asic}", name)

    def module(self, name: str) -> str:
        """Return the path of a product of one module, such as ``module.nxs``."""
        return self._of_constants("module_{module}", name)

    def _of_constants(self, *parts: str) -> str:
        return self.unbinned._at("constants", "{constants}", *parts)

    def stills(self, name: str) -> str:
        """Return the path of a product of still frames, such as ``structure_factors.nxs``."""
        return self.unbinned._at("stills", "{stills}", name)

    def batch(self, name: str) -> str:
        """Return the path of a product of one batch of still frames, such as ``indexed.nxs``."""
        return self.unbinned._at("stills", "{stills}", "batch_{batch}", name)

    def rotation(self, name: str) -> str:
        """Return the path of a product of one rotation, such as ``peaks.nxs``."""
        return self._at("{sample}", "{scan}", "{rotation}", name)

    def part(self, name: str) -> str:
        """Return the path of a product of one block of frames, such as ``transform.nxs``."""
        return self._at("{sample}", "{scan}", "{rotation}", "part_{part}", name)

    def scan(self, name: str) -> str:
        """Return the path of a product of a scan, such as ``orientation.json``."""
        return self._at("{sample}", "{scan}", name)

    def master(self) -> str:
        """Return the path of the master file of a scan."""
        return self._at("{sample}", "{scan}", "{sample}_{scan}.nxs")

    def series(self, name: str) -> str:
        """Return the path of a product of all scans of a sample, such as ``series.tsv``."""
        return self._at("{sample}", "temperature_series", name)

    def stack(self, name: str) -> str:
        """Return the path of a stack over a parent and its children, such as ``{kind}.nxs``."""
        return self._at("{sample}", "stack_{parent}", name)

    def crystals(self, name: str) -> str:
        """Return the path of a product of a set of scans, such as ``structure_factors.nxs``."""
        return self._at("{sample}", "crystals_{crystals}", name)

    def page(self, name: str = "") -> str:
        """Return the path of the page of a sample, with a prefix; or of its ``findings.md``."""
        return self._at("{sample}", name if name == "findings.md" else name + "{sample}.html")

    def overview(self, name: str) -> str:
        """Return the path of a product of the whole experiment."""
        return self._at("overview", name)

    def log(self, rule: str, *wildcards: str) -> str:
        """Return the path of the log of a rule, in the results folder of its products."""
        return self._with_products(wildcards)._at("logs", rule, f"{_joined(wildcards)}.log")

    def benchmark(self, rule: str, *wildcards: str) -> str:
        """Return the path of the times of a rule, in the results folder of its products."""
        return self._with_products(wildcards)._at("benchmarks", rule, f"{_joined(wildcards)}.tsv")

    def _with_products(self, wildcards: tuple[str, ...]) -> "Paths":
        return self if _OF_ANY_BINNING.isdisjoint(wildcards) else self.unbinned


@cache
def _path(folder: str, parts: tuple[str, ...]) -> str:
    """Return a path pattern from a cache: there are few patterns, but thousands of jobs."""
    return str(PurePosixPath(folder, *parts))


def _joined(wildcards: tuple[str, ...]) -> str:
    return "_".join(f"{{{name}}}" for name in wildcards) or "all"
