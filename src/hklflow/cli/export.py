"""`hklflow export`: write a product in the format of another program."""

import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hklflow.base.errors import HklflowError, printable

if TYPE_CHECKING:
    from hklflow.export.formats import Format
    from hklflow.export.source import Source


def export_product(
    format_name: str | None = None,
    source: Path | None = None,
    target: Path | None = None,
    /,
    *,
    errors: Annotated[bool, Parameter(negative="")] = False,
    unmeasured: Annotated[float | None, Parameter(allow_leading_hyphen=True)] = None,
    orientation: Path | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a volume, a series or reflections in the format of another program.

    Formats of a volume (merged, symmetrised, filled, difference, pair distribution): `ccp4`,
    `cube`, `yell`, `discus`, `npy`, `vtk`, `mantid` (hkl only). Formats of a stack along
    temperature: `temperatures` (a folder for nxs_analysis_tools), `xtec`. Format of structure
    factors: `cif`. The target of a diagnostic product needs the word `diagnostic` in its name.

    Example: `hklflow export ccp4 results/quartz/100K/delta_pdf_transform.nxs pdf.ccp4`;
    `hklflow export yell results/quartz/100K/symm_transform.nxs experiment.h5`;
    `hklflow export temperatures results/quartz/stack_300K/transform.nxs quartz`

    Parameters
    ----------
    format_name
        Name of the format.
    source
        File with the product, or a file with the path of a group or array inside.
    target
        File to write, with an ending of the format; a folder for `temperatures`.
    errors
        Write the standard deviations in the place of the values.
    unmeasured
        Number for voxels without a value; `nan` is possible. Default: nan if readers of the format
        know it, else 0.
    orientation
        `orientation.json` of the scan, whose UB is recorded if the format has a place. Default: the
        file in the folder of the volume, if there is one.
    force
        Replace existing files; a folder is never replaced.
    """
    from hklflow.cli.show import split
    from hklflow.export.formats import format_named
    from hklflow.stage import tags

    form = format_named(format_name)
    if not (format_name and source and target):
        ending = form.suffixes[0] if form.suffixes else ""
        raise HklflowError(
            f"give a file to export and a target: `hklflow export {format_name} FILE "
            f"TARGET{ending}`"
        )
    path, inside = split(source)
    _require_target(form, format_name, target, path, force)
    _require_options(form, format_name, errors, unmeasured, orientation)
    number = form.unmeasured if unmeasured is None else unmeasured
    with _opened(form, path, inside, number, errors) as product:
        tags.require_name(target, path, product.diagnosis)
        notes = (
            _record_orientation(product, orientation) if form.source in ("volume", "hkl") else []
        )
        notes += _publish(form, product, target, force)
    for note in notes:
        print(printable(f"{target}: {note}"))


def _require_options(
    form: "Format", name: str, errors: bool, unmeasured: float | None, orientation: Path | None
) -> None:
    volume = form.source in ("volume", "hkl")
    wrong = [
        option
        for option, given in (
            ("--errors", errors and not volume),
            ("--unmeasured", unmeasured is not None and form.source == "reflections"),
            ("--orientation", orientation is not None and not volume),
        )
        if given
    ]
    if wrong:
        raise HklflowError(f"{wrong[0]} has no effect on the format {name}; leave it out")


def _require_target(form: "Format", name: str, target: Path, source: Path, force: bool) -> None:
    """Refuse a target with a wrong ending, or that exists; called before anything is read."""
    if form.suffixes and target.suffix.lower() not in form.suffixes:
        raise HklflowError(
            f"{target} does not end in {' or '.join(form.suffixes)}; give a name with an ending of "
            f"the format {name}"
        )
    if not target.parent.is_dir():
        raise HklflowError(f"there is no folder {target.parent}; make it first or correct the path")
    _require_free(target, source, force)


def _require_free(target: Path, source: Path, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if target.exists() and target.samefile(source):
        raise HklflowError(f"{target} is the file to be exported; give the target another name")
    if target.is_dir():
        raise HklflowError(f"{target} is a folder and exists already; give another name")
    if not force:
        raise HklflowError(f"{target} exists already; --force replaces it")
    if _is_foreign(target):
        raise HklflowError(
            f"{target} is an HDF5 file that `hklflow export` did not write; give the target "
            "another name"
        )


def _is_foreign(path: Path) -> bool:
    """Return True for an HDF5 file, perhaps a product or raw data, that is not an export."""
    import h5py

    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        groups = [file, *(node for node in file.values() if isinstance(node, h5py.Group))]
        return not any("hklflow" in group.attrs for group in groups)


def _opened(
    form: "Format",
    path: Path,
    inside: Sequence[str],
    unmeasured: float,
    errors: bool,
) -> AbstractContextManager[Any]:
    """Return the product as a context: a volume, a stack or structure factors."""
    from hklflow.export import source

    if form.source == "reflections":
        if inside:
            raise HklflowError(
                f"{path} is exported as a whole; leave out the path inside, {'/'.join(inside)}"
            )
        from hklflow.export.cif import open_merged

        return open_merged(path)
    if form.source == "stack":
        return source.open_stack(path, inside, unmeasured)
    hkl_only = form.source == "hkl"
    return source.open_volume(path, inside, unmeasured, errors, hkl_only=hkl_only)


def _record_orientation(volume: "Source", path: Path | None) -> list[str]:
    """Add UB (1/Å with 2π), and a missing Laue group, to the facts of a volume of hkl.

    Return a note if they cannot be added.

    Raises
    ------
    HklflowError
        If the user names an orientation that is not of the volume.
    """
    from hklflow.stage import read_orientation

    if volume.direct:
        return []
    beside = volume.path.resolve().parent / "orientation.json"
    if path is None and not beside.is_file():
        return []
    try:
        orientation = read_orientation(path or beside)
        if not all(
            abs(a - b) < 1e-4 * b for a, b in zip(orientation.cell, volume.cell, strict=True)
        ):
            cells = [" ".join(f"{x:.6g}" for x in cell) for cell in (orientation.cell, volume.cell)]
            raise HklflowError(
                f"{path or beside} has the cell {cells[0]} and {volume.path} {cells[1]}; give the "
                "orientation of the same scan"
            )
    except HklflowError as error:
        if path is not None:
            raise
        return [f"UB is not recorded: {error}"]
    volume.facts["UB"] = orientation.ub.tolist()
    if volume.facts["space group"] is None:  # a merged volume does not state it
        volume.facts["space group"] = orientation.space_group
        volume.facts["Laue group"] = orientation.group.laue
    return []


def _publish(form: "Format", product: Any, target: Path, force: bool) -> list[str]:
    """Write all files into a temporary folder, then give them their names; return notes."""
    import secrets

    from hklflow.base import publish

    folder = target.with_name(f".{target.name}.partial.{secrets.token_hex(4)}")
    try:
        folder.mkdir()
        notes = form.write(product, folder / target.name)
        written = sorted(folder.iterdir(), key=lambda path: path.name != target.name)
        moves = [(path, target.parent / path.name) for path in written]
        for _, final in moves:
            _require_free(final, product.path, force)
        publish.publish(moves)
    except OSError as error:
        raise HklflowError(f"{target} cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for _, final in moves:
        print(printable(str(final)))
    return notes
