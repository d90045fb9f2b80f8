"""The volumes and rotations of an experiment that the viewer shows, each with an id.

The browser names a file by its id only, so that no path ever comes from outside.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.results import Experiment

_KINDS = (
    ("symm_", "S(Q), symmetrised"),
    ("filled_", "S(Q) without Bragg reflections"),
    ("delta_pdf_", "3D-ΔPDF"),
    ("total_pdf_", "total PDF"),
    ("pdf_difference_", "difference of 3D-ΔPDFs"),
    ("difference_", "difference of S(Q)"),
    ("", "S(Q), merged"),
)
_VOLUME = re.compile(r"(?P<kind>[a-z_]*?_)??(?P<masked>masked_)?transform\.nxs")


@dataclass(frozen=True)
class Item:
    """A volume or a rotation of a scan.

    Attributes
    ----------
    sample, scan : str
    temperature : float or None
        K.
    name : str
        Path in the folder of the scan: the same name is the same product of another scan.
    label : str
    path : Path
        File of the volume, or folder of the rotation.
    """

    sample: str
    scan: str
    temperature: float | None
    name: str
    label: str
    path: Path

    @property
    def id(self) -> str:
        """Id by which the browser names the item; the same after a restart."""
        text = "/".join((self.sample, self.scan, self.name))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """Name in a sentence."""
        return f"{self.name} of {self.sample} {self.scan}"

    @property
    def about(self) -> dict[str, Any]:
        """What the browser is told."""
        return {
            "id": self.id,
            "sample": self.sample,
            "scan": self.scan,
            "temperature": self.temperature,
            "name": self.name,
            "label": self.label,
        }


class Catalogue:
    """Lists of what exists; `items` and `rotations` read the folders again.

    Raises
    ------
    HklflowError
        If the folder is no experiment, or its configuration has mistakes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Item] = {}
        self.items()
        self.rotations()

    def items(self) -> list[Item]:
        """Return all volumes, by sample and temperature."""
        return self._remember(_volumes)

    def rotations(self) -> list[Item]:
        """Return all imported rotations, by sample and temperature."""
        return self._remember(_rotations)

    def _remember(self, of_scan: Callable[[Path], Iterator[tuple[Path, str, str]]]) -> list[Item]:
        experiment = Experiment(self.folder)
        found = []
        for (sample, scan), temperature in experiment.scans.items():
            folder = experiment.path(sample, scan, "transform.nxs").parent
            # A file that is a link to elsewhere is no result of this scan.
            inside = folder.resolve()
            for path, name, label in of_scan(folder):
                if path.resolve().is_relative_to(inside):
                    found.append(Item(sample, scan, temperature, name, label, path))
        found.sort(
            key=lambda item: (item.sample, item.temperature is None, item.temperature or 0.0)
        )
        # One assignment: another thread sees the old list or the new one.
        self._known = self._known | {item.id: item for item in found}
        return found

    def find(self, key: str) -> Item:
        """Return the item with an id of the list.

        Raises
        ------
        HklflowError
            If the list has no such id.
        """
        try:
            return self._known[key]
        except KeyError:
            raise HklflowError(
                "this item is not in the list of the experiment; load the page again"
            ) from None


def _volumes(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield path, name and label of the volumes of a scan, and then of its rotations."""
    if not folder.is_dir():
        return
    yield from ((path, path.name, label) for path, label in _labelled(folder))
    for rotation in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path, _ in _labelled(rotation):
            masked = ", masked" if path.name.startswith("masked_") else ""
            name = f"{rotation.name}/{path.name}"
            yield path, name, f"counts and norm of rotation {rotation.name}{masked}"


def _rotations(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield folder, name and label of the imported rotations of a scan."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if (path / "scan.nxs").is_file():
                yield path, path.name, path.name


def _labelled(folder: Path) -> list[tuple[Path, str]]:
    found = []
    for path in folder.glob("*transform.nxs"):
        match = _VOLUME.fullmatch(path.name)
        order = [prefix for prefix, _ in _KINDS]
        kind = (match["kind"] or "") if match else None
        if kind in order:
            masked = bool(match and match["masked"])
            label = dict(_KINDS)[kind] + (", masked" if masked else "")
            found.append(((order.index(kind), masked), path, label))
    return [(path, label) for _, path, label in sorted(found, key=lambda item: item[0])]
