"""Settings that scale and merge reflections: sections `scale_reflections`, `merge_reflections`."""

from typing import Literal

from pydantic import Field

from hklflow import stage


class ScalingSettings(stage.Params):
    """Settings of scaling, of one scan or of several."""

    estimate: Literal["profile", "sum"] = "profile"
    """Intensity that is scaled. `profile`: from the profile fit (reflections without a fit are left
    out). `sum`: from summation.
    """
    space_group: str | None = None
    """Space group whose Laue group defines the equivalents; None: the space group of the
    orientation.
    """
    anomalous: bool = False
    """Treat Friedel mates as not equivalent, in scaling and in merging."""
    d_min: float | None = Field(None, gt=0)
    """Smallest d-spacing in Å of the reflections used; None: all reflections."""
    scale_interval: float = Field(15.0, gt=0)
    """Interval in degrees between the nodes of the scale; larger if there are too few reflections.
    """
    decay: bool = True
    """Refine B (Debye-Waller factor relative to the first rotation)."""
    decay_interval: float = Field(30.0, gt=0)
    """Interval in degrees between the nodes of B."""
    absorption: int = Field(0, ge=0, le=8)
    """Highest degree of the spherical harmonics of the absorption, as a function of the directions
    of incident and diffracted beam in the crystal. 0: no absorption. Needs many equivalents in
    different directions.
    """
    error_model: Literal["refine", "none"] = "refine"
    """Error model. `refine`: σ'² = a²(σ² + (b I)²) from the spread of equivalents. `none`: a = 1, b
    = 0.
    """
    outlier_sigma: float = Field(6.0, ge=3)
    """Limit of an outlier: deviation from its equivalents, in standard deviations."""


class MergingSettings(stage.Params):
    """Settings of merging, of one scan or of several."""

    space_group: str | None = None
    """Space group whose Laue group is used for merging; None: the space group of scaling."""
    d_min: float | None = Field(None, gt=0)
    """Smallest d-spacing in Å; None: all reflections."""
    shells: int = Field(10, ge=1, le=100)
    """Number of resolution shells, of equal volume, in the statistics."""
    outlier_sigma: float = Field(6.0, ge=3)
    """Limit of an outlier: deviation from its equivalents, in standard deviations. Outliers do not
    contribute to the mean.
    """
    amplitudes: Literal["french_wilson", "plain"] = "french_wilson"
    """`french_wilson`: expected |F| for non-negative intensities (French & Wilson,
    Acta Cryst. A34, 517, 1978); `plain`: root of the intensity, 0 for a negative intensity."""
    shelx: Literal["unmerged", "merged"] = "unmerged"
    """Kind of reflections in the SHELX file; SHELXL and XPREP can merge unmerged reflections
    themselves.
    """
    seed: int = Field(0, ge=0)
    """Seed of the random halves for CC1/2."""
