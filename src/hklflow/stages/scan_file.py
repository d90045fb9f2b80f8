"""Write the master file of one scan, which links all products of the scan for NeXpy and silx."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from hklflow import stage
from hklflow.base.errors import HklflowError

VERSION = 6


class Inputs(stage.Inputs):
    orientation: Path
    """Refined orientation of the scan."""
    transform: Path
    """Merged volume."""
    masked_transform: Path
    """Merged volume without the pixels of the 3-D mask."""
    scans: list[Path]
    """Scan files of the rotations."""
    statistics: list[Path]
    """Frame statistics of the rotations."""
    scales: list[Path]
    """Scales of the frames of the rotations."""
    peaks: list[Path]
    """Peak tables of the rotations."""
    frame_masks: list[Path]
    """3-D masks of the rotations."""
    rotation_transforms: list[Path]
    """Counts and norm of the rotations."""
    rotation_masked_transforms: list[Path]
    """Counts and norm of the rotations without the pixels of the 3-D mask."""
    powders: list[Path] = Field(default_factory=list)
    """Powder images of the geometries, each once; empty: the geometries are not from powders."""
    symmetrised: list[Path] = Field(default_factory=list)
    """Symmetrised volumes, `symm_{kind}.nxs`; the kind is transform or masked_transform."""
    filled: list[Path] = Field(default_factory=list)
    """Volumes without Bragg reflections, `filled_{kind}.nxs`."""
    total_pdfs: list[Path] = Field(default_factory=list)
    """Total pair distribution functions, `total_pdf_{kind}.nxs`."""
    delta_pdfs: list[Path] = Field(default_factory=list)
    """Pair distribution functions of the diffuse scattering, `delta_pdf_{kind}.nxs`."""
    absolute_scale: list[Path] = Field(default_factory=list)
    """Absolute scale of S(Q), `absolute_scale.json`; empty: not requested."""
    structure_factors: list[Path] = Field(default_factory=list)
    """Merged reflections, `structure_factors.nxs`; empty: not made."""
    differences: list[Path] = Field(default_factory=list)
    """S(Q) minus the S(Q) of the reference scan, `difference_{kind}.nxs`."""
    pdf_differences: list[Path] = Field(default_factory=list)
    """3D-ΔPDF minus the 3D-ΔPDF of the reference scan, `pdf_difference_{kind}.nxs`."""


class Outputs(stage.Outputs):
    master: Path
    """The master file."""


class Params(stage.Params):
    title: str = ""
    """Title of the scan."""
    formula: str = ""
    """Chemical formula of the sample; empty: not known."""
    configuration: str = ""
    """Configuration of the scan as JSON, from all layers, with the scan's rows of the tables."""
    powder_of: tuple[int, ...] = ()
    """Index of the powder image of each rotation; -1: none; empty: no rotation has one."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Link all products in the master file."""
    from hklflow import nexus
    from hklflow.nexus import master

    orientation = stage.read_orientation(inputs.orientation)
    rotations: dict[str, dict[str, Path]] = {}
    powder_of = params.powder_of or len(orientation.rotations) * (-1,)
    for name, powder, scan, statistics, scale, peaks, frame_mask, volume, masked in zip(
        orientation.rotations,
        powder_of,
        inputs.scans,
        inputs.statistics,
        inputs.scales,
        inputs.peaks,
        inputs.frame_masks,
        inputs.rotation_transforms,
        inputs.rotation_masked_transforms,
        strict=True,
    ):
        rotations[name] = {
            "instrument": scan,
            "peaks": peaks,
            "frame_sums": statistics,
            "frame_scale": scale,
            "mask3d": frame_mask,
            "transform": volume,
            "masked_transform": masked,
        }
        if nexus.has_frames(scan):
            rotations[name]["scan"] = scan
        if powder >= 0:
            rotations[name]["powder"] = inputs.powders[powder]
    nexus.write_master(
        outputs.master,
        params.title,
        {"transform": inputs.transform, "masked_transform": inputs.masked_transform},
        rotations,
        orientation,
        params.configuration,
        symmetrised=_named(inputs.symmetrised, "symm_", master.SYMMETRISED),
        filled=_named(inputs.filled, "filled_", master.SYMMETRISED),
        pdfs=_named(inputs.total_pdfs, "total_pdf_", master.TOTAL_PDF)
        | _named(inputs.delta_pdfs, "delta_pdf_", master.DELTA_PDF)
        | _named(inputs.pdf_differences, "pdf_difference_", master.PDF_DIFFERENCE),
        differences=_named(inputs.differences, "difference_", master.DIFFERENCE),
        structure_factors=next(iter(inputs.structure_factors), None),
        absolute_scale=stage.read_json(inputs.absolute_scale[0]) if inputs.absolute_scale else None,
        formula=params.formula,
    )


def _named(files: Sequence[Path], prefix: str, names: Mapping[str, str]) -> dict[str, Path]:
    """Return the files by their name in the master file, which follows from the file name."""
    known = {f"{prefix}{kind}.nxs": name for kind, name in names.items()}
    files_by_name: dict[str, Path] = {}
    for path in files:
        if path.name not in known:
            raise HklflowError(
                f"{path} is not called {' or '.join(known)}, but the name must show the kind of "
                "volume; rename it"
            )
        files_by_name[known[path.name]] = path
    return files_by_name


if __name__ == "__main__":
    stage.command(main)
