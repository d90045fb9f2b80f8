"""Make the orientation product: from peak tables to ``orientation.json`` and its picture.

Refinements of parents and children share this code. The product contains the cell, U and UB with
their uncertainties, the refined geometry of every rotation, the hkl grid, and the numbers by which
a person judges the refinement.
"""

from hklflow.stage.orientation.choice import require_choice
from hklflow.stage.orientation.explanation import explanation, imported
from hklflow.stage.orientation.observed import (
    Observed,
    afterglows,
    modules_of,
    named,
    observe,
    read,
    read_scans,
    usable,
)
from hklflow.stage.orientation.results import picture, product
from hklflow.stage.orientation.selection import separated, without_maxima
from hklflow.stage.orientation.start import (
    Start,
    as_given,
    constraints_kept,
    inheritance,
    inherited,
    reconciled,
    started,
)

__all__ = [
    "Observed",
    "Start",
    "afterglows",
    "as_given",
    "constraints_kept",
    "explanation",
    "imported",
    "inheritance",
    "inherited",
    "modules_of",
    "named",
    "observe",
    "picture",
    "product",
    "read",
    "read_scans",
    "reconciled",
    "require_choice",
    "separated",
    "started",
    "usable",
    "without_maxima",
]
