"""Integration of predicted reflections on the frames of one rotation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.bragg.measurement import Measurement
from hklflow.bragg.profiles import Profile, Widths
from hklflow.core.peaks_table import Peaks
from hklflow.core.reflections import Reflections
from hklflow.core.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Blocks = Iterable[NDArray[Any]]


@dataclass(frozen=True)
class IntegrationParams:
    """How reflections are integrated.

    Attributes
    ----------
    n_sigma : float
        Half axes of the foreground in standard deviations of the spot; half a voxel is added.
    mosaic : float or None
        Standard deviation of the rocking curve about the scan axis at ζ = 1 to begin with,
        radians; None: from the peaks, or one frame.
    spot : (slow, fast) or None
        Standard deviations of a spot to begin with, pixels; None: from the peaks, or 1.5.
    strong : float
        Least intensity over its standard deviation of a reflection to learn from.
    references : int
        Largest number of reflections to learn from.
    max_frames : int
        Reflections whose foreground has more frames are not integrated.
    min_zeta : float
        Reflections below are flagged ``LONG``.
    overlap : float
        Share of a reflection, by its profile, in the foreground of others from which on it is
        flagged; below, the shared voxels are left out.
    min_recorded : float
        Part of a reflection that must be on voxels that were summed, for an intensity.
    memory : float
        MB for the voxels of the reflections in work.
    threads : int
    """

    n_sigma: float = 3.5
    mosaic: float | None = None
    spot: tuple[float, float] | None = None
    strong: float = 20.0
    references: int = 3000
    max_frames: int = 100
    min_zeta: float = 0.1
    overlap: float = 0.05
    min_recorded: float = 0.5
    memory: float = 1000.0
    threads: int = 1


@dataclass(frozen=True)
class Integrated:
    """Reflections of one rotation and what was learned for them.

    Attributes
    ----------
    reflections : Reflections
        Sorted by frame.
    widths : Widths
    profile : Profile
    chi2 : (n,) array
        Reduced chi² of the foreground against background and profile.
    background_chi2 : (n,) array
        That of the background.
    profile_error : float
        Relative error of fitted intensities by the profile, in ``sigma_profile``.
    counters : dict
        ``predicted = integrated + without an intensity + too long + beyond the detector``.
    """

    reflections: Reflections
    widths: Widths
    profile: Profile
    chi2: Floats
    background_chi2: Floats
    profile_error: float
    counters: dict[str, int]


def integrate(
    measurement: Measurement,
    ub: ArrayLike,
    group: SpaceGroup,
    peaks: Peaks | None,
    params: IntegrationParams,
    *,
    d_min: float | None = None,
    shown: Callable[[Blocks, str], Blocks] | None = None,
) -> Integrated:
    """Integrate all predicted reflections of one rotation.

    Parameters
    ----------
    measurement : Measurement
    ub : (3, 3) array
        1/Å with 2π.
    group : SpaceGroup
    peaks : Peaks or None
        Peaks found, from which the widths of the spots are known at the start.
    params : IntegrationParams
    d_min : float, optional
        Å; None: to the edge of the detector.
    shown : callable, optional
        Wraps the blocks of frames of each pass, with its name, to show progress.

    Raises
    ------
    HklflowError
        If there are too few strong reflections to learn the widths from.
    """
    raise NotImplementedError
