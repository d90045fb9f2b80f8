"""`hklflow model show | angles | export | import | compare | orient`: orientations of programs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from hklflow.base.errors import HklflowError, printable
from hklflow.cli.by_hand import orient
from hklflow.cli.model_angles import angles
from hklflow.cli.publishing import Writer, published

if TYPE_CHECKING:
    from hklflow.geometry.model import Model
    from hklflow.images.scan import RotationScan

app = App(name="model", help="Orientations and geometry of DIALS, XDS, NXRefine and hklflow.")

app.command(orient)
app.command(angles)

Program = Literal["dials", "xds", "nxrefine"]
Output = Annotated[Path, Parameter(name=("--output", "-o"))]

_TOLERANCE = 0.2  # largest deviation of an indexed peak from whole Miller indices
_MISFIT = 0.05  # largest relative difference of the scattering vectors of two geometries


@app.command
def show(file: Path, /) -> None:
    """Print the crystal and the geometry of each rotation in a file.

    Example: `hklflow model show refined.expt`; `hklflow model show results/quartz/orientation.json`

    Parameters
    ----------
    file
        `.expt` of DIALS, XPARM.XDS or GXPARM.XDS, a file of NXRefine, or an orientation of
        hklflow (`orientation.json`).
    """
    from hklflow.formats.models import read_model

    for model in read_model(file):
        for name, value in _described(model):
            print(f"{printable(name):24s} {printable(value)}")
        print()


def _described(model: "Model") -> list[tuple[str, str]]:
    import numpy as np

    from hklflow.geometry.model import angles_of

    rotation = model.rotation
    detector, goniometer, scan = rotation.detector, rotation.goniometer, rotation.scan
    beam_centre = detector.plane.intersect(np.array([0.0, 0.0, 1.0]))
    rows = [("rotation", model.name)]
    if model.ub is not None:
        u, cell = model.crystal
        rows += [
            ("space group", model.space_group or "not stated"),
            ("cell / Å, degrees", " ".join(f"{x:.5f}" for x in cell)),
            ("U about x, y, z / degrees", " ".join(f"{x:.5f}" for x in angles_of(u))),
        ]
    modules = "" if detector.modules is None else f", {len(detector.modules)} modules"
    rows += [
        ("wavelength / Å", f"{rotation.beam.wavelength:.7g}"),
        ("polarization along x", f"{rotation.beam.polarization:.4g}"),
        ("detector (slow, fast)", f"{detector.shape[0]} x {detector.shape[1]}{modules}"),
        ("pixel / µm", " x ".join(f"{1e6 * size:.6g}" for size in detector.pixel_size)),
        ("distance / mm", f"{1e3 * detector.distance:.5f}"),
        ("beam at (slow, fast)", f"{beam_centre[0]:.3f} {beam_centre[1]:.3f}"),
    ]
    for i, name in enumerate(goniometer.names):
        axis = " ".join(f"{x:9.6f}" for x in goniometer.axes[i])
        angle = f"{np.degrees(goniometer.angles[i]):.5f} degrees"
        rows.append((f"axis {name}", f"{axis}  {'scanned' if i == goniometer.scan else angle}"))
    start, step = np.degrees([scan.start, scan.step])
    rows.append(("scan / degrees", f"{start:.6g} + {step:.6g} x {scan.n_frames} frames"))
    if model.raw is not None:
        rows.append(("images", f"{model.raw}, from {model.first_image}"))
    return rows + [("note", note) for note in model.notes]


@app.command
def export(
    orientation: Path,
    /,
    *,
    to: Program,
    output: Output,
    scans: tuple[Path, ...] = (),
    peaks: tuple[Path, ...] = (),
    force: bool = False,
) -> None:
    """Write an orientation for another program.

    For DIALS, the scan files give the paths of the images, and the peak tables are written as the
    reflections for `dials.refine` (`x.expt` and `x.refl`). For XDS, one file is written for each
    rotation; if there are several, the rotation's name is added to the file name.

    Example: `hklflow model export orientation.json --to dials -o quartz.expt --scans scan.nxs
    --peaks peaks.nxs`

    Parameters
    ----------
    orientation
        orientation.json or converged.json, or a file of another program.
    to
        Program that will read the file.
    output
        File to write.
    scans
        Scan files, one for each rotation, in the order of the rotations.
    peaks
        Peak tables, one for each rotation, in the order of the rotations.
    force
        Overwrite existing files.
    """
    from hklflow import stage
    from hklflow.base.history import diagnoses
    from hklflow.formats.models import read_model
    from hklflow.stage import tags

    models = read_model(orientation)
    tags.require_name(output, orientation, "; ".join(diagnoses(stage.provenance(orientation))))
    if peaks and to != "dials":
        raise HklflowError(f"--peaks are for --to dials; {to} takes the orientation alone")
    if scans:
        read = _scans(scans, [model.name for model in models])
        for path, scan in zip(scans, read, strict=True):
            _refuse_absent(path, scan)
        models = [_with_images(model, scan) for model, scan in zip(models, read, strict=True)]
    if to == "dials":
        _export_dials(models, output, peaks, force)
    elif to == "xds":
        from functools import partial

        from hklflow.formats.xds import write_xparm

        names = [output]
        if len(models) > 1:
            names = [output.with_name(f"{output.stem}_{m.name}{output.suffix}") for m in models]
        # `partial` binds each model now; a lambda would write the last model to every file.
        writers = [partial(write_xparm, model=model) for model in models]
        published(list(zip(names, writers, strict=True)), force)
    else:
        from hklflow.formats.nxrefine import write_nxrefine

        published([(output, lambda path: write_nxrefine(path, models))], force)


def _scans(paths: Sequence[Path], names: Sequence[str]) -> "list[RotationScan]":
    from hklflow import nexus

    if len(paths) != len(names):
        raise HklflowError(
            f"{len(paths)} scan files for the rotations {', '.join(names)}; give one of each in "
            "this order"
        )
    return [nexus.read_scan(path) for path in paths]


def _refuse_absent(path: Path, scan: "RotationScan") -> None:
    """Raise an error if the images of a scan file do not exist, relative to the current folder."""
    from hklflow.formats.series import find_files

    try:
        find_files(scan.raw)
    except HklflowError as error:
        folder = "the folder of the experiment"
        for above in path.resolve().parents:
            if (above / Path(scan.raw).parent).is_dir() and (above / "config").is_dir():
                folder = str(above)
                break
        raise HklflowError(
            f"the images of {path}, {scan.raw}, are not to be had in {Path.cwd()} ({error}); scan "
            f"files name them from where the workflow runs: run this in {folder}"
        ) from error


def _with_images(model: "Model", scan: "RotationScan") -> "Model":
    ours = scan.rotation
    if ours.detector.shape != model.rotation.detector.shape or (
        ours.scan.n_frames != model.rotation.scan.n_frames
    ):
        raise HklflowError(
            f"{model.name} has {model.rotation.scan.n_frames} frames of "
            f"{model.rotation.detector.shape} pixels, its scan file {ours.scan.n_frames} of "
            f"{ours.detector.shape}; give the scan files in the order of the rotations"
        )
    template, first = _images(scan)
    high = 2.0**32 - 2 if scan.saturation is None else scan.saturation
    return replace(
        model, raw=template, first_image=first, trusted_range=(float(scan.underload), float(high))
    )


def _images(scan: "RotationScan") -> tuple[str, int]:
    """Return the file or pattern (# for the digits) of the images, and the first image number."""
    import re

    from hklflow.formats.raw import HDF5_SUFFIXES
    from hklflow.formats.series import find_files

    if Path(scan.raw).suffix.lower() in HDF5_SUFFIXES and not any(c in scan.raw for c in "#*%?"):
        return str(Path(scan.raw).resolve()), scan.first + 1
    files = find_files(scan.raw)
    file = files[scan.first].resolve()
    digits = list(re.finditer(r"\d+", file.stem))
    if not digits:
        raise HklflowError(f"the images of {scan.raw} have no numbers; DIALS needs them")
    last = digits[-1]
    name = file.stem[: last.start()] + "#" * len(last[0]) + file.stem[last.end() :] + file.suffix
    return str(file.with_name(name)), int(last[0])


def _export_dials(
    models: "Sequence[Model]", output: Path, peaks: Sequence[Path], force: bool
) -> None:
    from hklflow.formats.dials_expt import write_expt

    if output.suffix != ".expt":
        raise HklflowError(
            f"--output {output} is not the name of an experiment list; end it in .expt"
        )
    if peaks and len(peaks) != len(models):
        raise HklflowError(
            f"{len(peaks)} peak tables for {len(models)} rotations; give one of each in this order"
        )
    identifiers: list[str] = []

    def experiments(path: Path) -> Sequence[str]:
        identifiers.extend(write_expt(path, models))
        return []

    def reflections(path: Path) -> Sequence[str]:
        from hklflow.formats.dials_refl import write_refl

        write_refl(path, _reflections(models, peaks, identifiers))
        return []

    jobs: list[tuple[Path, Writer]] = [(output, experiments)]
    if peaks:
        jobs.append((output.with_suffix(".refl"), reflections))
    published(jobs, force)


def _reflections(
    models: "Sequence[Model]", peaks: Sequence[Path], identifiers: Sequence[str]
) -> Any:
    import numpy as np

    from hklflow import nexus
    from hklflow.formats.dials_peaks import peaks_to_refl
    from hklflow.formats.dials_refl import joined

    tables = []
    for number, (model, path) in enumerate(zip(models, peaks, strict=True)):
        table = nexus.read_peaks(path)
        hkl, indexed = None, None
        if model.ub is not None:
            free = model.rotation.hkl(model.ub, table.frame, table.slow, table.fast)
            hkl = np.rint(free)
            indexed = (np.abs(free - hkl) < _TOLERANCE).all(axis=1)
        tables.append(
            peaks_to_refl(
                table,
                model.rotation,
                experiment=number,
                identifier=identifiers[number],
                first_image=model.first_image,
                hkl=hkl,
                indexed=indexed,
            )
        )
    return joined(tables)


@app.command(name="import")
def import_(file: Path, /, *, scans: tuple[Path, ...], output: Output, force: bool = False) -> None:
    """Convert the orientation of another program to a start orientation for scans of hklflow.

    Example: `hklflow model import refined.expt --scans scan.nxs -o start.json`

    Parameters
    ----------
    file
        `.expt` of DIALS, XPARM.XDS or GXPARM.XDS, or a file of NXRefine.
    scans
        Scan files of hklflow, one for each rotation in the file, in the order of the file.
    output
        JSON file to write, with the layout of orientation.json.
    force
        Overwrite an existing file.
    """
    import json

    from hklflow.formats.models import read_model
    from hklflow.geometry.model import to_orientation
    from hklflow.geometry.model_compare import on_geometry

    models = read_model(file)
    adopted = []
    for model, scan in zip(models, _scans(scans, [m.name for m in models]), strict=True):
        # Images of a series are counted by the number in the file name, frames in one file from 0.
        first = _images(scan)[1] - 1 if "#" in (model.raw or "") else scan.first
        converted, misfit = on_geometry(model, scan.rotation, first)
        print(f"{printable(model.name)}: scattering vectors agree to {misfit:.3%}")
        if misfit > _MISFIT:
            raise HklflowError(
                f"{file} has another geometry for {model.name} than the scan: scattering vectors "
                f"of pixels differ by {misfit:.1%} (limit {_MISFIT:.0%}); check wavelength, beam "
                "centre, distance, rotation axis and step of both"
            )
        adopted.append(converted)

    def write(path: Path) -> Sequence[str]:
        content = to_orientation(adopted)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return content["warnings"]

    published([(output, write)], force)


@app.command
def compare(first: Path, second: Path, /, *, space_group: str | None = None) -> None:
    """Compare two orientations of the same crystal: misorientation and differences of the cells.

    The misorientation is the smallest angle over the symmetry operations, in the laboratory frame
    at scan angle zero. Rotations are compared in the order of the files.

    Example: `hklflow model compare orientation.json refined.expt`

    Parameters
    ----------
    first
        Orientation file of any program.
    second
        Orientation file to compare with the first.
    space_group
        Space group of the first crystal, if the first file does not contain it.
    """
    import numpy as np

    from hklflow.formats.models import read_model
    from hklflow.geometry.model_compare import compare as compared
    from hklflow.geometry.symmetry import space_group as known

    models = read_model(first), read_model(second)
    if len(models[0]) != len(models[1]):
        print(f"{len(models[0])} and {len(models[1])} rotations: the first ones are compared")
    symbol = space_group or models[0][0].space_group
    if symbol is None:
        raise HklflowError(f"{first} has no space group; give --space-group")
    group = known(symbol)
    print(f"space group {group.symbol}, Laue group {group.laue}")
    print("rotations\tdegrees\tindexing\ta\tb\tc\talpha\tbeta\tgamma\tdistance_mm")
    for model, other in zip(*models, strict=False):
        comparison = compared(model, other, group)
        change = " ".join(f"{x:+.5f}" for x in comparison.cells[1] - comparison.cells[0]).split()
        far = other.rotation.detector.distance - model.rotation.detector.distance
        indexing = "same"
        if comparison.reindexed:
            indexing = "reindexed"
        elif not np.allclose(comparison.matrix, np.eye(3)):
            indexing = "equivalent"
        print(
            f"{printable(model.name)} {printable(other.name)}\t"
            f"{comparison.degrees:.6f}\t{indexing}\t" + "\t".join(change) + f"\t{1e3 * far:+.5f}"
        )
        if comparison.reindexed:
            rows = "; ".join(" ".join(f"{x:.4g}" for x in row) for row in comparison.matrix)
            print(f"# hkl of the first = [{rows}] hkl of the second, which the Laue group lacks")
