"""Names of scans and of their analyses, such as ``300K@tight``."""

ANALYSIS = "@"
"""Mark between the name of a scan and the name of an analysis of it; no other name contains it."""


def measured(scan: str) -> str:
    """Return the name in the table of scans of a scan or of an analysis of it."""
    return scan.partition(ANALYSIS)[0]


def analysis(scan: str) -> str:
    """Return the name of the analysis in the name of a scan; empty if it is in the table."""
    return scan.partition(ANALYSIS)[2]
