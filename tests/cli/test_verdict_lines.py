"""Lines of `hklflow status` on doubtful scans."""

from hklflow.cli.verdicts import ScanVerdict, lines
from hklflow.quality import verdict


def test_a_line_names_the_scan_once() -> None:
    reasons = ["120K: 31 peaks lie at (1/2, 0, 0)", "r1, scale: weak"]
    scan = ScanVerdict("monox", "120K", "doubtful", reasons, "accepted.json")
    line = [*lines([scan], failed=False)][-1]
    assert line == (
        "doubtful  monox 120K: 31 peaks lie at (1/2, 0, 0) (and 1 more on the page of monox)"
    )


def test_a_line_has_the_doubt_with_the_largest_effect() -> None:
    """A scale that is 33 % wrong, and a cell that is wrong by some of its errors."""
    accepted = {"sentences": [], "doubts": ["the cell is off"]}
    figures = [
        ("r1, scale", {"warnings": ["uneven", "a tenth"], "errors of S": {"a tenth": 0.1}}),
        ("r2, scale", {"warnings": ["a third"], "errors of S": {"a third": 0.33}}),
    ]
    level, reasons = verdict.of_scan(accepted, figures)
    assert level == "doubtful"
    assert reasons == [
        "r2, scale: a third", "r1, scale: a tenth", "the cell is off", "r1, scale: uneven"
    ]  # fmt: skip
    (*_, line) = lines([ScanVerdict("alloy", "300K", level, reasons, "a.json")], failed=False)
    assert "a third (and 3 more" in line
