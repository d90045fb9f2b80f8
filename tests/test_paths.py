"""Every result has its own place below the results folder."""

import string

import pytest

from hklflow.experiment.paths import Paths

PATTERNS = {
    "calibration": ("out/calibration/{calibration}/geometry.json", {"calibration"}),
    "rotation": ("out/{sample}/{scan}/{rotation}/peaks.nxs", {"sample", "scan", "rotation"}),
    "scan": ("out/{sample}/{scan}/orientation.json", {"sample", "scan"}),
    "master": ("out/{sample}/{scan}/{sample}_{scan}.nxs", {"sample", "scan"}),
    "overview": ("out/overview/summary.tsv", set()),
    "log": ("out/logs/merge/{sample}_{scan}_{kind}.log", {"sample", "scan", "kind"}),
    "benchmark": ("out/benchmarks/merge/{sample}_{scan}_{kind}.tsv", {"sample", "scan", "kind"}),
}


def _pattern(paths: Paths, name: str) -> str:
    arguments = {
        "calibration": ("geometry.json",),
        "rotation": ("peaks.nxs",),
        "scan": ("orientation.json",),
        "master": (),
        "overview": ("summary.tsv",),
        "log": ("merge", "sample", "scan", "kind"),
        "benchmark": ("merge", "sample", "scan", "kind"),
    }
    return str(getattr(paths, name)(*arguments[name]))


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    expected, wildcards = PATTERNS[name]
    pattern = _pattern(Paths("out"), name)
    assert pattern == expected
    assert {field for _, field, _, _ in string.Formatter().parse(pattern) if field} == wildcards


@pytest.mark.parametrize("results", ["out", "out/", "./out", "/data/beam time/out"])
def test_results_may_be_anywhere(results: str) -> None:
    pattern = Paths(results).scan("orientation.json")
    top = results.removeprefix("./").rstrip("/")
    assert pattern == f"{top}/{{sample}}/{{scan}}/orientation.json"


@pytest.mark.parametrize("results", ["out", "out/", "/data/beam time/out"])
def test_what_is_binned_has_a_folder_of_its_own(results: str) -> None:
    top = results.rstrip("/")
    plain, binned = Paths(results), Paths(results, 4)
    for name in PATTERNS:
        path = _pattern(binned, name)
        if name == "calibration":
            assert path == _pattern(plain, name)
        else:
            assert path.startswith(f"{top}_binned4/")
            assert path.removeprefix(f"{top}_binned4") == _pattern(plain, name).removeprefix(top)
    for name in ("run", "asic", "module", "constants"):
        assert getattr(binned, name)("x.nxs") == getattr(plain, name)("x.nxs")
    # Logs stand with the products.
    assert binned.log("gather", "constants", "measure").startswith(f"{top}/logs/")
    assert binned.unbinned.rotation("sum.nxs") == plain.rotation("sum.nxs")


def test_files_of_different_scans_are_different() -> None:
    """Names have no underscore, so joining them by one keeps them apart."""
    paths = Paths("out")
    log = paths.log("refine", "sample", "scan")
    names = [{"sample": "a", "scan": "b-c"}, {"sample": "a-b", "scan": "c"}]
    assert len({log.format(**wildcards) for wildcards in names}) == 2
    assert len({paths.master().format(**wildcards) for wildcards in names}) == 2
