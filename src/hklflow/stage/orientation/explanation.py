"""Explain why the peaks of a scan are not indexed, as a sentence with a remedy to paste."""

from typing import TYPE_CHECKING

import numpy as np

from hklflow.stage.orientation.observed import Observed

if TYPE_CHECKING:
    from hklflow.orientation.wrong_header import Sought


def explanation(observed: Observed, sought: "Sought") -> str:
    """Return what would index the peaks of a scan; empty: nothing that was tried."""
    from hklflow.orientation.lattice_search import MIN_PEAKS
    from hklflow.orientation.wrong_header import explained
    from hklflow.quality.explanations import Stated, sentence

    if sum(len(p.frame) for p in observed.peaks) < MIN_PEAKS:
        return ""
    rotations, binning = observed.rotations, observed.scans[0].binning
    strength = np.concatenate(observed.intensities)
    stated = Stated(
        names=observed.names,
        rotations=rotations,
        first=[scan.first for scan in observed.scans],
        binning=1 if binning is None else binning.factor,
        space_group=sought.group.symbol,
        cell=None if sought.cell is None else [float(x) for x in sought.cell],
    )
    return sentence(explained(rotations, observed.peaks, strength, sought), stated)
