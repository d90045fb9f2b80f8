"""Write corrections of the import as text to paste into the configuration.

A list in a layer of the configuration replaces the list of the layers below it. A remedy therefore
contains the corrections that are configured, too, and goes to the layer that has them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hklflow.geometry import BEAM, Detector, Rotation
from hklflow.geometry.correction import Correction


@dataclass(frozen=True)
class Imported:
    """Import of a scan: its result, and the corrections that are configured.

    Attributes
    ----------
    scan : str
        ``sample/scan``.
    names : sequence of str
        Names of the rotations.
    rotations : sequence of Rotation
        Geometry with the configured corrections.
    first : sequence of int
        First raw frame of each rotation.
    binning : int
        Side of the blocks of pixels that are summed.
    corrections : sequence of Correction
        Configured corrections of the detector of each rotation, in unbinned pixels.
    wavelengths : mapping, axes : sequence of str
        Configured wavelengths and axes of single rotations.
    layer : str
        Layer that has settings of the import: ``per_sample.quartz``, ``per_scan.quartz/300K``;
        empty: the top of the configuration.
    """

    scan: str
    names: Sequence[str]
    rotations: Sequence[Rotation]
    first: Sequence[int]
    binning: int
    corrections: Sequence[Correction]
    wavelengths: Mapping[str, float] = field(default_factory=dict)
    axes: Sequence[str] = ()
    layer: str = ""

    def with_wavelengths(self, chosen: Sequence[int], wavelengths: Sequence[float]) -> "Changed":
        """Return the setting for new wavelengths of the chosen rotations."""
        texts = [f"{value:.5g}" for value in wavelengths]
        if len(chosen) == len(self.names) and len(set(texts)) == 1 and not self.wavelengths:
            return Changed("wavelength", texts[0])
        own = {name: f"{value:.6g}" for name, value in self.wavelengths.items()}
        own |= {self.names[i]: text for i, text in zip(chosen, texts, strict=True)}
        listed = ", ".join(f"{name}: {text}" for name, text in own.items())
        return Changed("wavelengths", f"{{{listed}}}", of_rotations=True)

    def with_axes(self, chosen: Sequence[int], axes: Sequence[Sequence[str]]) -> "Changed":
        """Return the setting for new axes (``name=x,y,z``) of the chosen rotations."""
        same = all(list(own) == list(axes[0]) for own in axes)
        if len(chosen) == len(self.names) and same and not self.axes:
            return Changed("axes", text_list(axes[0]))
        names = [self.names[i] for i in chosen]
        items = [item for item in self.axes if item.partition(":")[0] not in names]
        items += [f"{name}:{x}" for name, own in zip(names, axes, strict=True) for x in own]
        return Changed("axes", text_list(items), of_rotations=True)


@dataclass(frozen=True)
class Changed:
    """Key of `import_scan` with a new value; ``of_rotations``: for single rotations of a scan."""

    key: str
    value: str
    of_rotations: bool = False


def settings(
    imported: Imported, changes: Sequence[Correction], values: Sequence[Changed] = ()
) -> str:
    """Return where and what to write so that the import makes changes; empty without changes.

    Parameters
    ----------
    imported : Imported
    changes : sequence of Correction
        Changes of the detector of each rotation as imported, in pixels of its frames.
    values : sequence of Changed
        Other settings of `import_scan`.
    """
    parts, layer = [], imported.layer
    # Numbers in a configuration are in unbinned pixels.
    items = [
        change.binned(1 / imported.binning).after(configured).items()
        for change, configured in zip(changes, imported.corrections, strict=True)
    ]
    if items != [configured.items() for configured in imported.corrections]:
        listed = items[0]
        if any(item != items[0] for item in items):
            # The same name may be that of a rotation of another scan.
            layer = f"per_scan.{imported.scan}"
            pairs = zip(imported.names, items, strict=True)
            listed = [f"{name}:{item}" for name, own in pairs for item in own]
        parts.append(f"detector: {text_list(listed)}")
    parts += [f"{changed.key}: {changed.value}" for changed in values]
    if any(changed.of_rotations for changed in values):
        layer = f"per_scan.{imported.scan}"
    if not parts:
        return ""
    text = f"import_scan: {{{', '.join(parts)}}}"
    if not layer:
        return f"in config.yaml `{text}`"
    section, _, name = layer.partition(".")
    return f"in config.yaml `{section}: {{{name}: {{{text}}}}}`"


def with_cures(
    sizes: Sequence[Mapping[str, Any]], cell: ArrayLike, imported: Imported
) -> list[Mapping[str, Any]]:
    """Return the comparisons of `orientation.sizes`, with what to write if a size is wrong.

    Parameters
    ----------
    sizes : sequence of mapping
    cell : (6,) array
        Refined cell.
    imported : Imported
        Import of the scan.
    """
    moved = next((size["relative"] for size in sizes if size["what"] == "distance"), None)
    cured = []
    for size in sizes:
        if size["what"] != "cell":
            cured.append(size)
            continue
        scale = 1 + size["relative"]
        wavelength = f"{imported.rotations[0].beam.wavelength / scale:.5g}"
        # At large angles a cell that is 1 % too large is not a distance that is 1 % too large.
        stretch = 1 / scale if moved is None else 1 + moved
        distances = [
            Correction(distance=float(f"{stretch * rotation.detector.distance:.5g}"))
            for rotation in imported.rotations
        ]
        unmoved = [Correction()] * len(distances)
        ways = [
            settings(imported, unmoved, [Changed("wavelength", wavelength)]),
            settings(imported, distances),
        ]
        numbers = " ".join(f"{x:.5g}" for x in np.asarray(cell, dtype=np.float64))
        ways = [*(ways if moved is None else ways[::-1]), f"in samples.tsv the cell {numbers}"]
        text = f"{size['sentence']}: correct the wrong one: {', or '.join(ways)}"
        cured.append({**size, "sentence": text})
    return cured


def text_list(items: Sequence[str]) -> str:
    """Return texts as a list in YAML."""
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


def shift_near_beam(stated: Detector, better: Detector) -> tuple[float, float]:
    """Return the shift (slow, fast) that moves a detector to a better one.

    The two may differ by small rotations, too; they agree at the pixel that is nearest to the beam.
    """
    centre = np.array(better.plane.intersect(BEAM))
    if not np.all(np.isfinite(centre)):
        centre = 0.5 * np.array(better.shape)
    pixel = np.clip(centre, 0, better.shape)
    place = np.array(stated.plane.intersect(better.plane.lab(*pixel)))
    slow, fast = np.round(pixel - place, 1) + 0.0
    return (float(slow), float(fast))
