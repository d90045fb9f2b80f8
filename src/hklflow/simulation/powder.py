"""Simulated powder images of calibrants with known rings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.simulation.detector import DetectorModel
from hklflow.simulation.models import Background, allowed

Floats = NDArray[np.float64]

CALIBRANTS = {"CeO2": (5.411651, "F"), "LaB6": (4.156826, "P"), "Si": (5.431179, "diamond")}
"""Cubic lattice parameter in Å and absence rule (NIST SRM 674b, 660c, 640e)."""


@dataclass(frozen=True)
class Grains:
    """A few strong grains on a part of the rings.

    Attributes
    ----------
    fraction : float
        Fraction of the sectors (10° of a ring) that have strong grains.
    number : int
        Number of strong grains in such a sector.
    strength : float
        Counts of the strongest grain relative to its ring; all grains have at least a tenth of
        these counts.
    size : float
        Standard deviation of a grain's spot, pixels.
    """

    fraction: float = 0.15
    number: int = 3
    strength: float = 10.0
    size: float = 1.0


def calibrant_rings(name: str, d_min: float) -> tuple[Floats, Floats]:
    """Return the rings of a cubic calibrant: d (n,) in Å, decreasing, and multiplicities (n,).

    Raises
    ------
    HklflowError
        If the calibrant is unknown.
    """
    if name not in CALIBRANTS:
        raise HklflowError(f"unknown calibrant {name!r}; use one of {' '.join(CALIBRANTS)}")
    a, rule = CALIBRANTS[name]
    n = int(a / d_min)
    hkl = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    squares = np.sum(hkl**2, axis=1)
    keep = (squares > 0) & (squares <= (a / d_min) ** 2)
    keep &= allowed("F" if rule == "diamond" else rule, hkl)
    if rule == "diamond":
        total = hkl.sum(axis=1)
        keep &= (total % 2 == 1) | (total % 4 == 0)
    values, counts = np.unique(squares[keep], return_counts=True)
    return a / np.sqrt(values), counts.astype(np.float64)


def powder_expected(
    detector: DetectorModel,
    wavelength: float,
    d_spacings: ArrayLike,
    intensities: ArrayLike,
    *,
    ring_width: float,
    background: Background | None = None,
    polarization: float | None = 0.99,
    n_sub: int = 2,
) -> Floats:
    """Compute expected counts (slow, fast) of a smooth powder pattern.

    Parameters
    ----------
    wavelength : float
        Wavelength, Å.
    d_spacings, intensities : (n,) array
        Spacings in Å; counts at the maximum of each ring at normal incidence.
    ring_width : float
        Standard deviation of the Gaussian profile in 2θ, radians.
    n_sub : int
        Number of sub-samples along each side of a pixel.
    """
    d = np.asarray(d_spacings, dtype=np.float64)
    peaks = np.asarray(intensities, dtype=np.float64)
    reachable = d >= wavelength / 2
    centres, peaks = 2 * np.arcsin(wavelength / (2 * d[reachable])), peaks[reachable]
    level = background if background is not None else Background()
    total = np.zeros(detector.shape)
    slow, fast = np.indices(detector.shape, dtype=np.float64)
    offsets = (np.arange(n_sub) + 0.5) / n_sub
    for i in offsets:
        for j in offsets:
            rays = detector.rays(slow + i, fast + j)
            two_theta = np.arctan2(np.hypot(rays[..., 0], rays[..., 1]), rays[..., 2])
            total += level.level(two_theta, 2 * np.pi / wavelength)
            for centre, peak in zip(centres, peaks, strict=True):
                near = np.abs(two_theta - centre) < 6 * ring_width
                total[near] += peak * np.exp(-0.5 * ((two_theta[near] - centre) / ring_width) ** 2)
    total *= detector.response(detector.pixel_rays(), True, polarization) / n_sub**2
    total[detector.hot_mask] += detector.hot_counts
    total[detector.gap_mask | detector.dead_mask] = 0.0
    return total


def powder_image(
    detector: DetectorModel,
    wavelength: float,
    calibrant: str,
    *,
    ring_width: float,
    peak_counts: float = 1000.0,
    b_iso: float = 0.5,
    background: Background | None = None,
    polarization: float | None = 0.99,
    grains: Grains | None = None,
    seed: int = 0,
) -> NDArray[np.int32]:
    """Return a Poisson image (slow, fast) of a calibrant; gaps are -1, dead pixels 0.

    Heights of the rings are multiplicity × Lorentz factor × Debye-Waller factor, scaled so that
    the highest ring has `peak_counts`. The other parameters are as in `powder_expected`.
    """
    generator = np.random.default_rng(seed)
    rays = detector.rays(
        [0, 0, detector.shape[0], detector.shape[0]], [0, detector.shape[1], 0, detector.shape[1]]
    )
    largest = float(np.arccos(rays[:, 2]).max())
    d, multiplicity = calibrant_rings(calibrant, wavelength / (2 * np.sin(largest / 2)))
    theta = np.arcsin(wavelength / (2 * d))
    heights = multiplicity * np.exp(-b_iso / (2 * d**2)) / (np.sin(theta) * np.sin(2 * theta))
    mean = powder_expected(
        detector,
        wavelength,
        d,
        peak_counts * heights / heights.max(),
        ring_width=ring_width,
        background=background,
        polarization=polarization,
    )
    if grains is not None:
        heights = peak_counts * heights / heights.max()
        # Separate random numbers are used, so that a seed gives the same noise with and without
        # grains.
        scattered = np.random.default_rng([seed, 1])
        mean += _grains(detector, 2 * theta, heights, ring_width, grains, scattered)
    image = generator.poisson(mean).astype(np.int32)
    image[detector.gap_mask] = -1
    return image


def _grains(
    detector: DetectorModel,
    two_theta: Floats,
    heights: Floats,
    ring_width: float,
    grains: Grains,
    generator: np.random.Generator,
) -> Floats:
    """Return the counts (slow, fast) of strong grains at random places in the rings' profile."""
    total = np.zeros(detector.shape)
    reach = int(np.ceil(4 * grains.size))
    chosen = np.argwhere(generator.random((len(two_theta), 36)) < grains.fraction)
    for ring, sector in np.repeat(chosen, grains.number, axis=0):
        angle = two_theta[ring] + ring_width * generator.normal()
        chi = np.radians(10 * (sector + generator.random()))
        strength = heights[ring] * grains.strength * generator.uniform(0.1, 1.0)
        ray = np.array([np.sin(angle) * np.cos(chi), np.sin(angle) * np.sin(chi), np.cos(angle)])
        slow, fast = (float(value) for value in detector.project(ray))
        if not (0 <= slow < detector.shape[0] and 0 <= fast < detector.shape[1]):
            continue
        rows, columns = (
            slice(max(int(centre) - reach, 0), int(centre) + reach + 1) for centre in (slow, fast)
        )
        i, j = np.ogrid[rows, columns]
        i, j = i[: detector.shape[0] - rows.start], j[:, : detector.shape[1] - columns.start]
        square = (i + 0.5 - slow) ** 2 + (j + 0.5 - fast) ** 2
        total[rows, columns] += strength * np.exp(-0.5 * square / grains.size**2)
    total[detector.gap_mask | detector.dead_mask] = 0.0
    return total
