"""Explain why the peaks of a scan are not indexed, as a sentence with a remedy to paste."""

from typing import TYPE_CHECKING

import numpy as np

from hklflow.geometry.correction import of_items, of_rotation
from hklflow.stage.import_settings import ImportSettings
from hklflow.stage.orientation.observed import Observed

if TYPE_CHECKING:
    from hklflow.orientation.expected import SearchedLattice
    from hklflow.quality.pasted import Imported


def imported(scan: str, observed: Observed, settings: ImportSettings) -> "Imported":
    """Return the import of a scan (``sample/scan``), which remedies change."""
    from hklflow.quality.pasted import Imported

    binning = observed.scans[0].binning
    return Imported(
        scan=scan,
        names=observed.names,
        rotations=observed.rotations,
        first=[one.first for one in observed.scans],
        binning=1 if binning is None else binning.factor,
        corrections=[of_items(of_rotation(settings.detector, name)) for name in observed.names],
        wavelengths=settings.wavelengths,
        axes=settings.axes,
        layer=settings.layer,
    )


def explanation(observed: Observed, searched: "SearchedLattice", of_import: "Imported") -> str:
    """Return what would index the peaks of a scan; empty: nothing that was tried."""
    from hklflow.orientation.lattice_search import MIN_PEAKS
    from hklflow.orientation.wrong_header import explained
    from hklflow.quality.explanations import Stated, sentence

    if sum(len(p.frame) for p in observed.peaks) < MIN_PEAKS:
        return ""
    strength = np.concatenate(observed.intensities)
    stated = Stated(
        imported=of_import,
        space_group=searched.group.symbol,
        cell=None if searched.cell is None else [float(x) for x in searched.cell],
    )
    return sentence(explained(observed.rotations, observed.peaks, strength, searched), stated)
