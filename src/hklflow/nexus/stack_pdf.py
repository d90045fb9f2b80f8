"""Stack of pair distributions along temperature: one virtual NXdata, and chosen vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.nexus.entry import add_array, add_group, create
from hklflow.nexus.stack import Member, add_stack
from hklflow.nexus.volume import OpenVolume

Floats = NDArray[np.float64]

#: Arrays of each pair distribution that are stacked.
ARRAYS = ("data", "data_errors")


@dataclass(frozen=True)
class Vectors:
    """ΔPDF at n interatomic vectors and t temperatures.

    Attributes
    ----------
    xyz : (n, 3) array
        Interatomic vectors, fractions of a, b, c.
    length : (n, t) array
        Lengths in Å, with the cell at each temperature.
    value, sigma : (n, t) arrays
        ΔPDF and its σ; NaN if not known.
    """

    xyz: Floats
    length: Floats
    value: Floats
    sigma: Floats


def write_stack_pdf(
    path: Path,
    title: str,
    members: Sequence[Member],
    volumes: Sequence[OpenVolume],
    vectors: Vectors,
    axis: Axis = TEMPERATURE,
) -> None:
    """Write the stack: links to ``pdf`` of the members, and values at ``vectors`` by temperature.

    Parameters
    ----------
    members : sequence of Member
        In ascending order of temperature.
    volumes : sequence of OpenVolume
        The members, opened by `open_members`.
    """
    with create(path, title, "pdf") as entry:
        add_stack(
            entry,
            path.parent,
            title,
            members,
            volumes,
            name="pdf",
            arrays=ARRAYS,
            direct=True,
            along=axis,
        )
        group = add_group(entry, "vectors", "NXdata", signal="value", axes=["vector", axis.name])
        group["title"] = "3D-ΔPDF at chosen vectors"
        add_array(group, "value", vectors.value, interpretation="spectrum")
        add_array(group, "value_errors", vectors.sigma)
        add_array(group, "vector", np.arange(len(vectors.xyz)))
        at = entry[f"pdf/{axis.name}"][()]
        add_array(group, axis.name, at, axis.units, long_name=axis.label)
        add_array(group, "xyz", vectors.xyz, long_name="fractions of a, b, c")
        add_array(group, "length", vectors.length, "angstrom")
