"""Content of the page of a sample: pictures and numbers of all steps, by scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.orientation.product import Orientation
from hklflow.page.pictures import Picture
from hklflow.page.place import Place
from hklflow.quality import verdict


@dataclass(frozen=True)
class Page:
    """Content of the page.

    Attributes
    ----------
    scans : mapping of str to float
        Temperature of each scan in K, or its value along the axis, NaN if not known; ascending.
    pictures : sequence of (Place, Picture)
        Pictures, in their order within a step.
    figures : sequence of (Place, mapping)
        Contents of the JSON files with metrics.
    remark : str
        Text below the title.
    axis : Axis
        Axis of the series of the sample.
    """

    sample: str
    title: str
    scans: Mapping[str, float]
    pictures: Sequence[tuple[Place, Picture]]
    figures: Sequence[tuple[Place, Mapping[str, Any]]]
    remark: str = ""
    axis: Axis = TEMPERATURE

    def found(self, scan: str, product: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Return rotation and metrics of each product of a scan with a name (without suffix)."""
        return [
            (at.rotation, data)
            for at, data in self.figures
            if at.part == "scan" and at.owner == scan and at.path.stem == product
        ]

    @cached_property
    def orientations(self) -> dict[str, Orientation]:
        """Orientation of each scan that has one, in the order of the scans."""
        files = {
            at.owner: Orientation.from_dict(data, at.path)
            for at, data in self.figures
            if at.part == "scan" and at.path.stem == "orientation"
        }
        return {scan: files[scan] for scan in self.scans if scan in files}

    def one(self, scan: str, product: str) -> Mapping[str, Any]:
        """Return the metrics of a product of a scan; empty if there are none."""
        found = self.found(scan, product)
        return found[0][1] if found else {}

    def judged(self, scan: str) -> verdict.OfScan | None:
        """Return the verdict on a scan from all stages; None if its orientation was not judged."""
        accepted = self.one(scan, "accepted")
        if not accepted:
            return None
        return verdict.of_scan(accepted, self._named(scan))

    def notes(self, scan: str) -> list[str]:
        """Return messages of the stages of a scan that are not reasons of its verdict."""
        accepted = self.one(scan, "accepted")
        if accepted:
            return verdict.notes(accepted, self._named(scan))
        none: dict[str, Any] = {"sentences": [], "doubts": []}
        named = self._named(scan)
        return [*verdict.of_scan(none, named).reasons, *verdict.notes(none, named)]

    def failures(self, scan: str) -> set[str]:
        """Return the reasons of a scan's verdict for which it failed."""
        found = set(self.one(scan, "accepted").get("sentences", ()))
        for name, data in self._named(scan):
            found |= {f"{name}: {sentence}" for sentence in data.get("failures") or ()}
        return found

    def _named(self, scan: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [
            (verdict.product_name(at.path.stem, at.rotation), data)
            for at, data in self.figures
            if at.part == "scan" and at.owner == scan and at.path.stem != "accepted"
        ]

    def products(self, scan: str) -> dict[str, tuple[str, str]]:
        """Return rotation and file of the products of a scan by their names in sentences."""
        return {
            verdict.product_name(at.path.stem, at.rotation): (at.rotation, at.path.stem)
            for at, _ in self.figures
            if at.part == "scan" and at.owner == scan
        }

    def shown(self, part: str, owner: str | None = None) -> list[tuple[Place, Picture]]:
        """Return the pictures of one part."""
        return [x for x in self.pictures if x[0].part == part and owner in (None, x[0].owner)]
