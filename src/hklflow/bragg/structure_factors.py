"""Scaled reflections of one scan, and the structure factors that they merge to."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.orientation.product import Orientation

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Crystal:
    """What the reflections are of.

    Attributes
    ----------
    sample, scan, parent : str
    space_group : str
        Symbol with its setting.
    cell, cell_sigma : tuple of 6 float
        Å and degrees.
    wavelength : float
        Å.
    temperature : float or None
        K.
    """

    sample: str
    scan: str
    parent: str
    space_group: str
    cell: tuple[float, ...]
    cell_sigma: tuple[float, ...]
    wavelength: float
    temperature: float | None

    @classmethod
    def of(cls, orientation: Orientation, space_group: str | None = None) -> "Crystal":
        """Crystal of an orientation product, perhaps in another space group."""
        first = next(iter(orientation.rotations.values()))
        return cls(
            sample=orientation.sample,
            scan=orientation.scan,
            parent=orientation.parent,
            space_group=space_group or orientation.space_group,
            cell=tuple(orientation.cell.tolist()),
            cell_sigma=tuple(orientation.cell_sigma.tolist()),
            wavelength=first.beam.wavelength,
            temperature=orientation.temperature,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Scaled:
    """Scaled reflections of all rotations of a scan, not merged; arrays of shape (n,) but ``hkl``.

    Attributes
    ----------
    hkl : (n, 3) int array
    rotation : int array
        Number of the rotation in the scan.
    frame : array
    angle : array
        Of the scanned axis, degrees.
    d : array
        Å.
    intensity : array
        Observed over ``scale``, 1/Å³: that of the first rotation.
    sigma : array
        By the error model.
    sigma_counting : array
        As integration told, over ``scale``.
    scale : array
        What the observed intensity was divided by.
    flags : int array
        `hklflow.bragg.reflections.ReflectionFlag`.
    """

    hkl: Integers
    rotation: Integers
    frame: Floats
    angle: Floats
    d: Floats
    intensity: Floats
    sigma: Floats
    sigma_counting: Floats
    scale: Floats
    flags: Integers

    def __len__(self) -> int:
        return len(self.hkl)

    def select(self, keep: ArrayLike) -> "Scaled":
        """Rows by a mask or by numbers."""
        rows = np.asarray(keep)
        return replace(self, **{c.name: getattr(self, c.name)[rows] for c in fields(self)})

    def has(self, flag: int) -> NDArray[np.bool_]:
        """Which rows (n,) have one of these flags."""
        return (self.flags & int(flag)) != 0


@dataclass(frozen=True)
class Means:
    """Weighted means of equivalent reflections; arrays of shape (n,), NaN where n is 0.

    Attributes
    ----------
    intensity, sigma : array
        1/Å³.
    n : int array
        Observations that it is the mean of.
    """

    intensity: Floats
    sigma: Floats
    n: Integers


@dataclass(frozen=True)
class StructureFactors:
    """Unique reflections; arrays of shape (n,) but ``hkl``.

    Attributes
    ----------
    hkl : (n, 3) int array
        In the asymmetric unit.
    d : array
        Å.
    mean : Means
        Over all equivalents, Friedel mates too.
    amplitude, amplitude_sigma : array
        ``|F|``, the root of the intensity's unit.
    agree : bool array
        False where no two thirds of the equivalents agree: the error is that of their scatter.
    plus, minus : Means or None
        Apart for hkl and its Friedel mate; centric ones are all in ``plus``. None: not kept apart.
    """

    hkl: Integers
    d: Floats
    mean: Means
    amplitude: Floats
    amplitude_sigma: Floats
    agree: NDArray[np.bool_]
    plus: Means | None = None
    minus: Means | None = None

    def __len__(self) -> int:
        return len(self.hkl)


@dataclass(frozen=True)
class IntensitySeries:
    """I(hkl, T): n reflections in t scans.

    Attributes
    ----------
    hkl : (n, 3) int array
        In the asymmetric unit of their setting.
    d : (n,) array
        Å, in the setting's first scan.
    settings : tuple of n str
        Parent whose axes and space group the indices are of: parents of unlike cells share none.
    scans, parents : tuples of t str
    temperature : (t,) array
        K; NaN if it is not known.
    intensity, sigma : (n, t) arrays
        1/Å³ as merged; NaN where not observed.
    n : (n, t) int array
        Observations.
    scale, scale_sigma, decay, decay_sigma : (t,) arrays
        ``I / I_parent = scale exp(-2 ΔB (sin θ / λ)²)``, ΔB in Å²; not applied.
    notes : tuple of str
    """

    hkl: Integers
    d: Floats
    settings: tuple[str, ...]
    scans: tuple[str, ...]
    parents: tuple[str, ...]
    temperature: Floats
    intensity: Floats
    sigma: Floats
    n: Integers
    scale: Floats
    scale_sigma: Floats
    decay: Floats
    decay_sigma: Floats
    notes: tuple[str, ...] = ()
