"""Sentences on diffuse features that were found without help, with definitions to paste."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.quality.order_words import decimals, value_and_error
from hklflow.quality.remedies import vector_text
from hklflow.series.feature_search import Discovery
from hklflow.series.features import Lattice

_WIDTH = (0.2, 0.5)  # smallest and largest half-width of the windows, r.l.u.


@dataclass(frozen=True)
class Sighting:
    """A feature with the scan in which it was found.

    Attributes
    ----------
    name : str
        Name of the feature, such as ``rod_1``.
    parent, scan : str
    temperature : float
        K.
    discovery : Discovery
    lattice : Lattice
    """

    name: str
    parent: str
    scan: str
    temperature: float
    discovery: Discovery
    lattice: Lattice

    def definition(self) -> dict[str, Any]:
        """Return the feature as in `features: define`."""
        one = self.discovery
        width = min(max(4 * float(one.width.max()), _WIDTH[0]), _WIDTH[1])
        found: dict[str, Any] = {
            "shape": one.shape,
            "point": [round(float(x), 4) + 0.0 for x in one.point],
        }
        if one.direction is not None:
            found["direction"] = [int(x) for x in one.direction]
        return found | {"along": False, "width": round(width, 2)}

    def pasted(self) -> str:
        """Return the definition as a line of YAML."""

        def text(value: Any) -> str:
            if isinstance(value, list):
                return f"[{', '.join(f'{x:g}' for x in value)}]"
            return str(value).lower() if isinstance(value, bool) else str(value)

        parts = [f"{key}: {text(value)}" for key, value in self.definition().items()]
        return f"{self.name}: {{{', '.join(parts)}}}"

    def where(self) -> str:
        """Return the name of the point of the zone, such as M; empty if it has none."""
        one = self.discovery
        return self.lattice.name(one.point) if one.shape == "point" else ""

    def record(self, along: Axis = TEMPERATURE) -> dict[str, Any]:
        """Return the numbers for a JSON file."""
        one = self.discovery
        return {
            "name": self.name,
            "parent": self.parent,
            "definition": self.definition(),
            "to paste in features: define": self.pasted(),
            "scan": self.scan,
            along.label: self.temperature,
            "name of the point": self.where(),
            "coordinates": one.columns.T,
            "place in these coordinates (r.l.u.)": one.place,
            "sigma of the place (r.l.u.), 0: fixed by symmetry": one.place_sigma,
            "half width at half maximum, with resolution (r.l.u.)": one.width,
            "contrast (S)": one.contrast,
            "contrast sigma (S)": one.contrast_sigma,
            "significance (sigma)": one.significance,
            "equivalents": one.images,
            "groups of zones": one.zones,
            "groups of zones that show it": one.zones_seen,
            "shape is certain": one.certain,
        }


def sentences(sightings: Sequence[Sighting], parent: str, axis: Axis = TEMPERATURE) -> list[str]:
    """Return what the search found in the volumes of a parent, the most significant first."""
    if not sightings:
        return [f"no diffuse feature is found without help in the volumes of parent {parent}"]
    return [_sentence(x, axis) for x in sightings]


def _sentence(sighting: Sighting, axis: Axis) -> str:
    one = sighting.discovery
    along = ""
    if one.direction is not None:
        vector = " ".join(str(int(x)) for x in one.direction)
        along = f" along [{vector}]" if one.shape == "rod" else f" normal to [{vector}]"
    name = f" ({sighting.where()})" if sighting.where() else ""
    error = ""
    if one.place_sigma.max() > 0:
        error = f" ± {one.place_sigma.max():.{decimals(float(one.place_sigma.max()))}f} r.l.u."
    equal = "without equivalents" if one.images == 1 else f"one of {one.images} equivalents"
    doubt = ""
    if not one.certain:
        doubt = (
            "; its shape is not certain, so it is not followed: a smaller step of the grid may tell"
        )
    return (
        f"found without help at {axis.at(sighting.temperature)}: {one.shape}s{along} at "
        f"{vector_text(one.point.tolist())}{name}{error}, {equal}, "
        f"{value_and_error(one.contrast, one.contrast_sigma)} above the surroundings "
        f"({one.significance:.0f} σ), in {one.zones_seen} of {one.zones} groups of zones{doubt}; "
        f"to keep it, paste `features: {{define: {{{sighting.pasted()}}}}}`"
    )
