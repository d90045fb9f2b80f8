"""Settings for the fill of holes: section `fill` of the configuration."""

from typing import Annotated, Literal

from pydantic import Field

from hklflow import stage

_Radius = Annotated[float, Field(gt=0)]


class HoleSettings(stage.Params):
    """Settings for the holes of S(Q): which voxels are punched, and how they are filled."""

    method: Literal["bragg", "karen"] = "bragg"
    """Method to choose the punched voxels. `bragg`: voxels around the positions that cell and
    centring allow. `karen`: all voxels that exceed their surroundings, for reflections at unknown
    positions.
    """
    radius: _Radius | Literal["measured"] = "measured"
    """Radius in 1/Å that is punched around a reflection. `measured`: the radius follows from the
    profile of the strongest reflections; if that fails, it is 0.2 or the edge of a voxel, and if
    they do not end near their positions, 0.34 of the distance between them, with a warning.
    """
    radii: tuple[_Radius, _Radius, _Radius] | None = None
    """Radii of an ellipsoid along a*, b* and c*, 1/Å; None: `radius` is used."""
    absences: bool = False
    """Do not punch reflections that are extinct by glide planes and screw axes. Such reflections
    often have intensity because of multiple scattering.
    """
    satellites: stage.Vectors = Field(default_factory=list)
    """Propagation vectors of satellites in r.l.u.; their equivalents are punched, too."""
    order: int = Field(1, ge=1, le=10)
    """Largest order of the satellites."""
    satellite_radius: float | None = Field(None, gt=0)
    """Radius of the satellites in 1/Å; None: the radius of the reflections."""
    threshold: float = Field(4.0, ge=1.0)
    """For `karen`: threshold above the median of the window, in standard deviations."""
    window: float = Field(1.0, gt=0)
    """For `karen`: width of the window in r.l.u."""
    q_max: float | None = Field(None, gt=0)
    """Radius |Q| in 1/Å up to which unmeasured voxels are filled. None: the largest sphere in the
    grid, up to the last shell that is measured according to `coverage`.
    """
    coverage: float = Field(0.9, gt=0, le=1)
    """Smallest measured fraction of a shell of |Q| that counts as measured."""
    spectrum: bool = True
    """Fill the holes a second time, with what is most likely for the pair distribution of the rest
    of S, if the control holes do not speak against it. It takes some 0.1 s of a core per million
    voxels, and some 0.7 s if wide gaps are filled.
    """
    tails: bool = True
    """Model maxima of the diffuse scattering inside of the holes of reflections (thermal diffuse
    scattering, correlated displacements) by their tails around the holes. It takes up to a minute
    of a core.
    """
    memory: float = Field(8000.0, gt=0)
    """Memory for the volumes and the fill by the spectrum in MB. A larger volume is kept in a
    temporary file next to the output. If the spectrum still has no room, the holes are filled by
    kriging alone, with a warning."""
