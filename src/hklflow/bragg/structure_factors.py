"""Scaled reflections of one scan, and the structure factors that merging gives."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.orientation.product import Orientation

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Crystal:
    """Crystal of a set of reflections.

    Attributes
    ----------
    sample, scan, parent : str
    space_group : str
        Symbol with its setting.
    cell, cell_sigma : tuple of 6 float
        Cell and its σ, Å and degrees.
    wavelength : float
        Wavelength, Å.
    temperature : float or None
        Temperature, K; None: not known.
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
        """Return the crystal of an orientation product, optionally with another space group."""
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
        """Return a dict for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Scaled:
    """Scaled, unmerged reflections of all rotations of a scan; arrays (n,) except ``hkl``.

    Attributes
    ----------
    hkl : (n, 3) int array
    rotation : int array
        Number of the rotation in the scan.
    frame : array
    angle : array
        Angle of the scanned axis, degrees.
    d : array
        d-spacing, Å.
    intensity : array
        Observed intensity divided by ``scale``, 1/Å³, on the scale of the first rotation.
    sigma : array
        Error from the error model.
    sigma_counting : array
        Error from the integration, divided by ``scale``.
    scale : array
        Divisor of the observed intensity.
    flags : int array
        Bits of `hklflow.bragg.reflections.ReflectionFlag`.
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
        """Return the rows chosen by a mask or by indices."""
        rows = np.asarray(keep)
        return replace(self, **{c.name: getattr(self, c.name)[rows] for c in fields(self)})

    def has(self, flag: int) -> NDArray[np.bool_]:
        """Return a mask (n,) of the rows that have one of these flags."""
        return (self.flags & int(flag)) != 0


@dataclass(frozen=True)
class Means:
    """Weighted means of equivalent reflections; arrays (n,), NaN if n is 0.

    Attributes
    ----------
    intensity, sigma : array
        Mean and its error, 1/Å³.
    n : int array
        Number of observations in the mean.
    """

    intensity: Floats
    sigma: Floats
    n: Integers


@dataclass(frozen=True)
class StructureFactors:
    """Unique reflections; arrays (n,) except ``hkl``.

    Attributes
    ----------
    hkl : (n, 3) int array
        Indices in the asymmetric unit.
    d : array
        d-spacing, Å.
    mean : Means
        Means over all equivalents, including Friedel mates.
    amplitude, amplitude_sigma : array
        ``|F|`` and its error, in the square root of the intensity's unit.
    agree : bool array
        False if fewer than two thirds of the equivalents agree. The error is then the scatter of
        the equivalents.
    plus, minus : Means or None
        Separate means of hkl and its Friedel mate; centric reflections are all in ``plus``. None:
        not separated.
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
    """Intensities I(hkl, T) of n reflections in t scans.

    Attributes
    ----------
    hkl : (n, 3) int array
        Indices in the asymmetric unit of their setting.
    d : (n,) array
        d-spacing in Å, in the first scan of the setting.
    settings : tuple of n str
        Name of the parent that defines axes and space group of the indices. Parents with different
        cells have different settings.
    scans, parents : tuples of t str
    temperature : (t,) array
        Temperature, K; NaN if not known.
    intensity, sigma : (n, t) arrays
        Merged intensity and its error, 1/Å³; NaN if not observed.
    n : (n, t) int array
        Number of observations.
    scale, scale_sigma, decay, decay_sigma : (t,) arrays
        Parameters of ``I / I_parent = scale exp(-2 ΔB (sin θ / λ)²)``, ΔB in Å². They are not
        applied to the intensities.
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
