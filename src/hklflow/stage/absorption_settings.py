"""Settings of the shape of a crystal."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from hklflow import stage
from hklflow.transform.attenuation import DENSITIES

Vector = tuple[float, float, float]
Length = Annotated[float, Field(gt=0, le=20)]
"""Millimetres; crystals for X-rays are smaller, so that more is most likely in µm."""

#: Fields that each kind of shape needs, and fields that it may have.
_NEEDS = {
    "sphere": ({"radii"}, set()),
    "ellipsoid": ({"radii", "first", "second"}, set()),
    "cylinder": ({"radii", "length", "first"}, {"second"}),
    "box": ({"thickness", "first", "second"}, set()),
    "faces": ({"faces"}, set()),
    "unknown": ({"size"}, set()),
}
_WRITTEN = {"size": "`size: [smallest, largest extent in mm]`"}
_RADII = {"sphere": (1,), "ellipsoid": (3,), "cylinder": (1, 2)}


class Along(stage.Params):
    """A direction that is fixed to the crystal; give one of both."""

    hkl: Vector | None = None
    """Normal of the lattice planes hkl, by the refined orientation of the scan."""
    holder: Vector | None = None
    """Vector in the frame of the crystal's holder: the laboratory (z along the beam, y up, x to the
    left when looking downstream) with all angles of the goniometer at zero.
    """

    @model_validator(mode="after")
    def _one(self) -> "Along":
        if (self.hkl is None) == (self.holder is None):
            raise ValueError("give `hkl` or `holder`, one of both")
        if not any(self.hkl or self.holder or ()):
            raise ValueError("a direction of zeros is no direction")
        return self


class Face(Along):
    """A face of the crystal: its outer normal and its distance."""

    distance: Length
    """Distance of the face from the point where the beam meets the rotation axis, mm."""


class Shape(stage.Params):
    """Shape of a crystal; lengths in mm. Its middle is where the beam meets the rotation axis."""

    kind: Literal["sphere", "ellipsoid", "cylinder", "box", "faces", "unknown"]
    """`sphere`: one of `radii`. `ellipsoid`: three `radii` along `first`, `second`, and normal to
    both. `cylinder`: `length` along `first`; one of `radii`, or two, along `second` and normal to
    it. `box` (a plate, too): three values of `thickness` along `first`, `second`, and normal to
    both. `faces`: a convex polyhedron. `unknown`: only the `size` is known.
    """
    radii: tuple[Length, ...] | None = None
    """Radii, or half-axes, in mm."""
    length: Length | None = None
    """Length of a cylinder in mm."""
    thickness: tuple[Length, Length, Length] | None = None
    """Thicknesses of a box in mm."""
    size: tuple[Length, Length] | None = None
    """Smallest and largest extent in mm that a crystal of unknown shape may have."""
    first: Along | None = None
    """First direction."""
    second: Along | None = None
    """Second direction; its part normal to the first is used."""
    faces: tuple[Face, ...] | None = None
    """Faces of a polyhedron, at least four."""

    @model_validator(mode="after")
    def _of_kind(self) -> "Shape":
        needed, allowed = _NEEDS[self.kind]
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        given.discard("kind")
        kind = "crystal of unknown shape" if self.kind == "unknown" else self.kind
        if missing := needed - given:
            names = ", ".join(_WRITTEN.get(name, name) for name in sorted(missing))
            raise ValueError(f"a {kind} needs {names}")
        if extra := given - needed - allowed:
            raise ValueError(f"a {kind} has no {', '.join(sorted(extra))}: leave it out")
        if self.radii is not None and len(self.radii) not in _RADII[self.kind]:
            numbers = " or ".join(str(n) for n in _RADII[self.kind])
            raise ValueError(f"a {self.kind} has {numbers} radii, not {len(self.radii)}")
        if self.kind == "cylinder" and len(self.radii or ()) == 2 and self.second is None:
            raise ValueError("a cylinder with two radii needs `second`, the direction of the first")
        if self.size is not None and self.size[0] > self.size[1]:
            low, high = self.size
            raise ValueError(f"the smallest extent {low:g} mm is above the largest, {high:g} mm")
        if self.faces is not None and len(self.faces) < 4:
            raise ValueError(f"{len(self.faces)} faces enclose no volume: give at least four")
        return self

    @property
    def directions(self) -> tuple[Along, ...]:
        """All directions of the shape."""
        axes = tuple(axis for axis in (self.first, self.second) if axis is not None)
        return (*axes, *(self.faces or ()))


class BeamProfile(stage.Params):
    """Profile of the incident beam, whose middle is on the crystal's middle."""

    profile: Literal["gaussian", "even"]
    """`gaussian`: the widths are full widths at half maximum. `even`: a rectangle."""
    horizontal: PositiveFloat
    """Width along x of the laboratory, mm."""
    vertical: PositiveFloat
    """Width along y of the laboratory, mm."""


class AbsorptionSettings(stage.Params):
    """Settings of the stage in the configuration file."""

    shape: Shape | None = None
    """Shape of the crystal; None: absorption is not computed."""
    mu: PositiveFloat | None = None
    """Linear attenuation coefficient of the crystal in 1/mm. None: from the formula."""
    formula: str = ""
    """Formula of the crystal, such as SrTiO3; empty: the formula in the table of samples."""
    density: float | None = Field(None, ge=DENSITIES[0], le=DENSITIES[1])
    """Density in g/cm³; None: from `formula_units` and the cell."""
    formula_units: PositiveFloat | None = None
    """Formula units in the cell of the refined orientation (Z)."""
    size_error: float = Field(0.05, ge=0, lt=1)
    """Relative standard uncertainty of the size: of all lengths of the shape together. A shape that
    is not known has the range of its `size` instead."""
    mu_error: float = Field(0.02, ge=0, lt=1)
    """Relative standard uncertainty of the attenuation coefficient."""
    beam: BeamProfile | None = None
    """Profile of a beam that does not bathe the whole crystal: the transmission then contains the
    illuminated part of the crystal. None: the beam is larger than the crystal, and even.
    """
    nodes: int = Field(33, ge=9, le=257)
    """Nodes along each side of the detector, between which the logarithm of the transmission is
    linear."""
    told_error: float = Field(0.003, gt=0)
    """Error of the computation (rms over frames and directions) above which it is reported."""

    @model_validator(mode="after")
    def _one_attenuation(self) -> "AbsorptionSettings":
        given = [n for n in ("formula", "density", "formula_units") if getattr(self, n)]
        if self.mu is not None and given:
            raise ValueError(
                f"`mu` and {', '.join(f'`{name}`' for name in given)} state the attenuation twice; "
                "give one of them (null, for a formula '', removes one of a lower layer)"
            )
        return self
