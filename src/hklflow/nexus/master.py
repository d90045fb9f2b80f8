"""Master file of one scan, with links to all of its products."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from hklflow.base.errors import HklflowError
from hklflow.base.values import CELL_NAMES
from hklflow.formats.nxrefine import write_symmetry
from hklflow.nexus.disagreement import NAME
from hklflow.nexus.entry import add_array, add_group, create
from hklflow.nexus.links import Links
from hklflow.nexus.master_rotation import write_rotation
from hklflow.orientation.product import Orientation

SYMMETRISED = {"transform": "symm_transform", "masked_transform": "masked_symm_transform"}
"""Name of the symmetrised volume in the master file for each kind of volume, as in NXRefine."""
DELTA_PDF = {"transform": "pdf", "masked_transform": "masked_pdf"}
TOTAL_PDF = {"transform": "total_pdf", "masked_transform": "masked_total_pdf"}
DIFFERENCE = {"transform": "difference", "masked_transform": "masked_difference"}
PDF_DIFFERENCE = {"transform": "pdf_difference", "masked_transform": "masked_pdf_difference"}


def write_master(
    path: Path,
    title: str,
    volumes: Mapping[str, Path],
    rotations: Mapping[str, Mapping[str, Path]],
    orientation: Orientation,
    configuration: str = "",
    *,
    symmetrised: Mapping[str, Path] | None = None,
    filled: Mapping[str, Path] | None = None,
    pdfs: Mapping[str, Path] | None = None,
    differences: Mapping[str, Path] | None = None,
    structure_factors: Path | None = None,
    absolute_scale: Mapping[str, Any] | None = None,
    formula: str = "",
) -> None:
    """Write the master file of one scan: a small file with links to all of its products.

    The layout follows NeXpy and NXRefine: ``entry/transform``, ``entry/masked_transform``, the
    symmetrised volumes and the pair distributions; ``entry/disagreement`` is the map of differences
    between rotations. Each rotation has an entry ``fN``, see
    `master_rotation`. All links are relative. ``entry/configuration`` has the complete
    configuration of the scan as JSON. The default plot is a plane of the first symmetrised volume
    (which has the fewest holes), else of the first of ``volumes``.

    Parameters
    ----------
    volumes, symmetrised, pdfs, differences : mapping
        Maps a name in the master file to a file. ``differences`` are volumes of S(Q); differences
        of pair distributions are in ``pdfs``.
    filled : mapping
        Maps the name of a symmetrised volume to the file without Bragg reflections. As in NXRefine,
        a filled volume has no separate group: ``filled_data`` is next to ``data``.
    structure_factors : Path, optional
        File of the merged reflections, for ``entry/structure_factors``.
    absolute_scale : mapping, optional
        Metrics of the stage `absolute_scale`, for ``entry/absolute_scale``.
    formula : str
        Chemical formula of the sample; empty: not known.

    Raises
    ------
    HklflowError
        If a filled volume has no symmetrised volume, or another shape; or a file cannot be
        read.
    """
    symmetrised, filled = symmetrised or {}, filled or {}
    if missing := sorted(filled.keys() - symmetrised.keys()):
        raise HklflowError(
            f"{filled[missing[0]]} is a filled volume without a symmetrised volume; give "
            "`symmetrised` for each of `filled`"
        )

    default = next(iter([*symmetrised, *volumes]))
    with create(path, title, default) as entry:
        links = Links(path.parent)
        for name, target in {**volumes, **(differences or {}), **symmetrised}.items():
            links.add(entry, name, target, "transform")
        for name, target in volumes.items():
            links.add_if_there(entry, name.replace("transform", NAME), target, NAME)
        for name, target in filled.items():
            links.add_filled(entry[name], target, symmetrised[name])
        for name, target in (pdfs or {}).items():
            links.add(entry, name, target, "pdf")
        if structure_factors is not None:
            links.add(entry, "structure_factors", structure_factors, "reflections")
        links.add_default(entry, default, {**volumes, **symmetrised}[default])
        sample = add_group(entry, "sample", "NXsample")
        if formula:
            sample["chemical_formula"] = formula
        write_symmetry(sample, orientation.space_group)
        for i, name in enumerate(CELL_NAMES):
            units = "angstrom" if i < 3 else "degree"
            value, sigma = orientation.cell[i], orientation.cell_sigma[i]
            add_array(sample, f"unitcell_{name}", value, units, sigma=sigma)
        if orientation.temperature is not None:
            add_array(sample, "temperature", orientation.temperature, "K")
        add_array(sample, "orientation_matrix", orientation.u)
        add_array(sample, "ub_matrix", orientation.ub, "1/angstrom")
        if absolute_scale is not None:
            note_scale(entry, absolute_scale)
        if configuration:
            note = add_group(entry, "configuration", "NXnote")
            note["type"] = "application/json"
            note["data"] = configuration
        for i, (name, products) in enumerate(rotations.items()):
            group = add_group(entry.file, f"f{i + 1}", "NXentry")
            group["title"] = f"{title}, rotation {name}"
            group["sample"] = sample
            write_rotation(group, name, products, orientation, links)


def note_scale(entry: h5py.Group, metrics: Mapping[str, Any]) -> None:
    """Write the factor that makes S(Q) electron units per cell; the volumes are not multiplied."""
    group = add_group(entry, "absolute_scale", "NXcollection")
    group["description"] = metrics["meaning"]
    if metrics["factor"] is not None:
        add_array(group, "factor", metrics["factor"])
        add_array(group, "factor_errors", metrics["sigma"])
        group["method"] = metrics["method"]
    note = add_group(group, "findings", "NXnote")
    note["type"] = "application/json"
    note["data"] = json.dumps(dict(metrics))


def linked_files(path: Path) -> Iterable[str]:
    """Yield the relative names of the files that a master file links."""
    with h5py.File(path, "r") as file:
        yield from _targets(file)


def _targets(group: h5py.Group) -> Iterator[str]:
    for name in group:
        target = group.get(name, getlink=True)
        if isinstance(target, h5py.ExternalLink):
            yield target.filename
        elif group.get(name, getclass=True) is h5py.Group:
            yield from _targets(group[name])
