"""Table of integrated reflections, which integration writes and scaling reads."""

from dataclasses import dataclass, fields, replace
from enum import IntFlag
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

Estimate = Literal["profile", "sum"]


class ReflectionFlag(IntFlag):
    """Flags of an integrated reflection.

    ``EDGE``: the foreground extends beyond the detector; ``MASKED``: masked or flagged voxels in
    the foreground; ``PARTIAL``: a part is before the first frame or after the last; ``OVERLAP``:
    shares foreground with another reflection; ``OVERLOAD``: has saturated voxels;
    ``NO_BACKGROUND``: too few voxels to determine the background, no intensity; ``LONG``: crosses
    the Ewald sphere so slowly that its Lorentz factor is uncertain; ``NO_PROFILE``: the profile fit
    failed, ``intensity_profile`` is NaN; ``REFERENCE``: was used for the learned profiles;
    ``UNLIKE``: differs from the learned profile far beyond noise; ``ABSENT``: systematically absent
    in the space group; ``OUTLIER``: disagrees with its equivalents; ``CONTRADICTION``: profile fit
    and sum of the same counts differ far beyond noise, so that at least one of them is wrong.
    """

    EDGE = 1
    MASKED = 2
    PARTIAL = 4
    OVERLAP = 8
    OVERLOAD = 16
    NO_BACKGROUND = 32
    LONG = 64
    NO_PROFILE = 128
    REFERENCE = 256
    UNLIKE = 512
    ABSENT = 1024
    OUTLIER = 2048
    CONTRADICTION = 4096


#: Flags of reflections that scaling leaves out. Reflections cut by edges or masks are used: the
#: profile corrects for their missing part.
UNFIT = (
    ReflectionFlag.PARTIAL
    | ReflectionFlag.OVERLAP
    | ReflectionFlag.OVERLOAD
    | ReflectionFlag.NO_BACKGROUND
    | ReflectionFlag.LONG
    | ReflectionFlag.CONTRADICTION
)


@dataclass(frozen=True)
class Reflections:
    """Reflections of one rotation; one row per crossing of the Ewald sphere.

    All arrays except ``hkl`` have shape (n,). Positions are in the convention of
    `hklflow.geometry.frames`. Values without a measurement are NaN.

    Attributes
    ----------
    hkl : (n, 3) int array
    frame, slow, fast : array
        Predicted centre.
    zeta : array
        ``|ê · (ŝ × ẑ)| / |ŝ × ẑ|``, see `hklflow.geometry.prediction`.
    volume : array
        ``J = k³ ΔΩ |ê · (ŝ × ẑ)| |Δφ|`` in 1/Å³: the volume that a pixel at the centre, with solid
        angle ΔΩ in steradian, sweeps in one frame. It includes the Lorentz factor.
    d : array
        d-spacing, Å.
    intensity_sum, sigma_sum : array
        Integral of S over the reflection, by summation, 1/Å³: counts above background, times
        ``volume``, divided by the norm at the centre, and corrected for the part that was not
        recorded.
    intensity_profile, sigma_profile : array
        Integral of S over the reflection, by a fit of the learned profile, 1/Å³.
    counts : array
        Counts above background, as recorded.
    recorded : array
        Part of the reflection (0 to 1) on the summed voxels, according to its profile.
    background, background_sigma : array
        S of the diffuse scattering below the reflection (counts per norm).
    norm : array
        Norm at the centre: norm of the pixel times norm of the frame.
    observed_frame, observed_slow, observed_fast : array
        Centroid of the counts above background; NaN for weak or cut reflections.
    var_frame, var_slow, var_fast : array
        Variances of the centroid.
    n_foreground, n_background : int array
        Number of voxels used.
    correlation : array
        Correlation of the counts above background with the learned profile, -1 to 1.
    flags : int array
        Bits of `ReflectionFlag`.
    """

    hkl: Integers
    frame: Floats
    slow: Floats
    fast: Floats
    zeta: Floats
    volume: Floats
    d: Floats
    intensity_sum: Floats
    sigma_sum: Floats
    intensity_profile: Floats
    sigma_profile: Floats
    counts: Floats
    recorded: Floats
    background: Floats
    background_sigma: Floats
    norm: Floats
    observed_frame: Floats
    observed_slow: Floats
    observed_fast: Floats
    var_frame: Floats
    var_slow: Floats
    var_fast: Floats
    n_foreground: Integers
    n_background: Integers
    correlation: Floats
    flags: Integers

    def __post_init__(self) -> None:
        n = len(self.hkl)
        for column in fields(self):
            value = np.asarray(getattr(self, column.name))
            kind = np.int64 if column.name in INTEGERS else np.float64
            shape = (n, 3) if column.name == "hkl" else (n,)
            if value.shape != shape:
                raise HklflowError(
                    f"reflections: {column.name} has shape {value.shape}, but hkl has "
                    f"{self.hkl.shape}; give one value per reflection"
                )
            object.__setattr__(self, column.name, value.astype(kind, copy=False))

    def __len__(self) -> int:
        return len(self.hkl)

    def select(self, keep: ArrayLike) -> "Reflections":
        """Return the rows chosen by a mask or by indices."""
        rows = np.asarray(keep)
        return replace(self, **{c.name: getattr(self, c.name)[rows] for c in fields(self)})

    def with_norm_times(self, factor: Floats) -> "Reflections":
        """Return the reflections with a norm that is larger by a factor (n,)."""
        divided = ("intensity_sum", "intensity_profile", "background")
        names = [*divided, *(f"sigma_{kind}" for kind in ("sum", "profile")), "background_sigma"]
        changed = {name: getattr(self, name) / factor for name in names}
        return replace(self, norm=self.norm * factor, **changed)

    def has(self, flag: int) -> NDArray[np.bool_]:
        """Return a mask (n,) of the rows that have one of these flags."""
        return (self.flags & int(flag)) != 0

    def intensity(self, estimate: Estimate) -> tuple[Floats, Floats]:
        """Return intensities and their standard deviations (n,), 1/Å³.

        For a reflection with the flag ``UNLIKE``, the sum replaces the profile fit.
        """
        if estimate == "sum":
            return self.intensity_sum, self.sigma_sum
        unlike = self.has(ReflectionFlag.UNLIKE)
        return (
            np.where(unlike, self.intensity_sum, self.intensity_profile),
            np.where(unlike, self.sigma_sum, self.sigma_profile),
        )


#: Columns of integers.
INTEGERS = frozenset({"hkl", "n_foreground", "n_background", "flags"})


def concatenated(parts: list[Reflections]) -> Reflections:
    """Join tables in order.

    Raises
    ------
    HklflowError
        If there are no tables.
    """
    if not parts:
        raise HklflowError("no table of reflections was given; give at least one")
    return Reflections(
        **{
            c.name: np.concatenate([getattr(part, c.name) for part in parts])
            for c in fields(Reflections)
        }
    )
