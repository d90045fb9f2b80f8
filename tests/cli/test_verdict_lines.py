"""Lines of `hklflow status` on doubtful scans."""

from hklflow.cli.verdicts import ScanVerdict, lines


def test_a_line_names_the_scan_once() -> None:
    reasons = ["120K: 31 peaks lie at (1/2, 0, 0)", "r1, scale: weak"]
    scan = ScanVerdict("monox", "120K", "doubtful", reasons, "accepted.json")
    line = [*lines([scan], failed=False)][-1]
    assert line == (
        "doubtful  monox 120K: 31 peaks lie at (1/2, 0, 0) (and 1 more on the page of monox)"
    )
