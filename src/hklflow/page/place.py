"""Place of a product on the page, from its path in the folder of the results."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hklflow.page.steps import CRYSTALS, KINDS, SERIES, STACKS, STEPS, Product


def match(name: str, products: Sequence[Product]) -> tuple[Product, str] | None:
    """Return the product and the kind of volume that fit a file name (without suffix)."""
    for product in products:
        pattern = product.pattern.replace("{kind}", "(?P<kind>transform|masked_transform)")
        if found := re.fullmatch(pattern, name):
            return product, found.groupdict().get("kind") or ""
    return None


@dataclass(frozen=True)
class Place:
    """Place of a product on the page.

    Attributes
    ----------
    part : str
        ``calibration``, ``scan``, ``series``, ``stack``, ``crystals`` or ``other``.
    owner : str
        Name of the calibration, the scan, the parent of the stack or the set of scans; path of
        other products.
    rotation : str
        Name of the rotation; empty for products of other levels.
    step : int
        Index in `STEPS`.
    """

    path: Path
    part: str
    owner: str = ""
    rotation: str = ""
    step: int = len(STEPS) - 1
    product: Product = field(default_factory=lambda: Product(""))
    kind: str = ""

    @property
    def title(self) -> str:
        """Text that distinguishes the picture from the other pictures of its step."""
        words = (self.rotation, self.product.title, KINDS.get(self.kind, ""))
        return ", ".join(word for word in words if word) or self.owner or self.path.stem


def place(path: Path, results: Path, sample: str, scans: Sequence[str]) -> Place:
    """Return the place of a product of a sample, from its path below the results folder."""
    # Do not use `resolve`: a product may be a symbolic link to another folder.
    relative = os.path.relpath(path, results)
    parts = Path(relative).parts
    name = path.stem
    if len(parts) == 3 and parts[0] == "calibration" and (found := match(name, STEPS[0].products)):
        return Place(path, "calibration", parts[1], step=0, product=found[0])
    if len(parts) in (3, 4) and parts[0] == sample:
        folder = parts[1]
        if folder in scans:
            for i, step in enumerate(STEPS):
                if found := match(name, step.products):
                    rotation = parts[2] if len(parts) == 4 else ""
                    product, kind = found
                    if step is STEPS[-1]:
                        product = Product(".*", title=name)
                    return Place(path, "scan", folder, rotation, i, product, kind)
        if folder == "temperature_series" and (found := match(name, SERIES)):
            return Place(path, "series", product=found[0])
        if folder == "temperature_series" and name in ("findings", "order"):
            return Place(path, "series")
        if folder.startswith("stack_") and (found := match(name, STACKS)):
            return Place(path, "stack", folder[6:], product=found[0], kind=found[1])
        if folder.startswith("crystals_") and (found := match(name, CRYSTALS)):
            return Place(path, "crystals", folder[9:], product=found[0])
    return Place(path, "other", relative)
