"""Lattice vectors in files: the prior of the fill, and the covariance of a pair distribution."""

import json
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.nexus.entry import add_array, add_group, text

if TYPE_CHECKING:
    from hklflow.volumes.hole_covariance import Prior

Floats = NDArray[np.float64]

PRIOR, COVARIANCE = "fill_prior", "lattice_vectors"
"""Names of the groups in the entry of the filled volume, and of the pair distribution."""

# Words of the warnings of `fill` that did not use the spectrum (volumes.refill, hole_checks).
_KEPT = ("kriging is kept", "kriging is used", "kriging alone")


def write_prior(entry: h5py.Group, prior: "Prior") -> None:
    """Write what the fill takes the pair distribution for at lattice vectors."""
    group = add_group(entry, PRIOR, "NXcollection")
    add_array(group, "vectors", prior.vectors, "unit cells")
    add_array(
        group,
        "signal",
        prior.signal,
        description="share of the variance of the pair distribution that is not noise",
    )
    add_array(group, "width", prior.width, "angstrom")
    add_array(
        group,
        "shifts",
        prior.shifts,
        "S per angstrom^3",
        description="by drawn models of the maxima in holes, one per row",
    )
    add_array(
        group,
        "missed",
        prior.missed,
        "S per angstrom^3",
        description="by what the fill of drawn random fields misses, one per row",
    )


def read_prior(volume: h5py.Group) -> "Prior | None":
    """Return the prior in the file of a volume; None if it has none."""
    from hklflow.volumes.hole_covariance import Prior

    group = volume.parent.get(PRIOR)
    if group is None:
        return None
    names = ("vectors", "signal", "shifts", "missed")
    vectors, signal, shifts, missed = (group[name][()] for name in names)
    return Prior(vectors, signal, float(group["width"][()]), shifts, missed)


def write_covariance(entry: h5py.Group, vectors: Floats, covariance: Floats) -> None:
    """Write the covariance (n, n) of the pair distribution at vectors (n, 3)."""
    group = add_group(entry, COVARIANCE, "NXdata", signal="covariance", axes=[".", "."])
    group["title"] = "covariance of the pair distribution between lattice vectors"
    add_array(group, "covariance", covariance, "S^2 per angstrom^6")
    add_array(
        group,
        "vectors",
        vectors,
        "unit cells",
        description="x, y, z, one of each set of equivalents, for both dimensions",
    )


def read_covariance(volume: h5py.Group) -> tuple[Floats, Floats] | None:
    """Return vectors (n, 3) and their covariance (n, n) from the file of a volume, or None."""
    group = volume.parent.get(COVARIANCE)
    return None if group is None else (group["vectors"][()], group["covariance"][()])


def kriged(volume: h5py.Group) -> list[str]:
    """Return the warnings in the file of a pair distribution that tell why kriging was kept."""
    if "notes/notes" not in volume.parent:
        return []
    doubts = json.loads(text(volume.parent["notes/notes"])).get("doubts", [])
    return [sentence for sentence in doubts if any(words in sentence for words in _KEPT)]
