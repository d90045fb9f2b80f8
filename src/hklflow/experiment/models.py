"""The configuration file as typed sections.

Each stage's section is that stage's own ``Params`` (or ``Settings``), so a parameter is
written down once.

A field that has an imported module's name would shadow it in the class body, so the
stage modules are reached through their package.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

import hklflow.stages.accept
import hklflow.stages.add_transforms
import hklflow.stages.bin_frames
import hklflow.stages.bragg_series
import hklflow.stages.converge
import hklflow.stages.difference
import hklflow.stages.fill
import hklflow.stages.find_peaks
import hklflow.stages.frame_scale
import hklflow.stages.import_poni
import hklflow.stages.import_scan
import hklflow.stages.integrate
import hklflow.stages.mask_3d
import hklflow.stages.merge
import hklflow.stages.merge_reflections
import hklflow.stages.overview
import hklflow.stages.pdf
import hklflow.stages.pixel_mask
import hklflow.stages.planes
import hklflow.stages.powder_calibration
import hklflow.stages.refine
import hklflow.stages.refine_parent
import hklflow.stages.sample_page
import hklflow.stages.scale_reflections
import hklflow.stages.scan_file
import hklflow.stages.simulate
import hklflow.stages.stack
import hklflow.stages.stack_pdf
import hklflow.stages.sum_scans
import hklflow.stages.symmetrise
import hklflow.stages.temperature_series
import hklflow.stages.transform  # noqa: F401  (used as `stages.transform`)
from hklflow import stages
from hklflow.calibration.assess import GateLimits
from hklflow.dials.settings import DialsPrograms, OrientationEngine
from hklflow.experiment.constants import DetectorConstants, Stored, UsedConstants


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class PowderImage(stages.powder_calibration.Params):
    """A calibration from the image of a powder calibrant."""

    image: str
    """Calibrant image; in an HDF5 file a dataset can be named: `file.h5::/entry/data/data`."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Split the name of an HDF5 file from its dataset."""
        from hklflow.formats.exposures import split_dataset

        if isinstance(value, dict) and isinstance(value.get("image"), str):
            file, dataset = split_dataset(value["image"])
            if dataset is not None:
                return value | {"image": file, "dataset": dataset}
        return value


class PoniFile(stages.import_poni.Params):
    """A calibration from a PONI file."""

    poni: str
    """PONI file."""


class StoredGeometry(Stored):
    """A calibration of the store: for each rotation the version that was accepted for its run.

    Versions are made and judged with `hklflow calibration`.
    """

    allow_default: bool = False
    """Whether version 0, the set-points themselves, may be used where no version is accepted. What
    is made with it is marked as diagnostic."""
    gates: GateLimits = GateLimits()
    """What a candidate must keep to be accepted."""
    polarization: float = Field(ge=0, le=1)
    """Fraction of the intensity with the electric vector horizontal (0.5: unpolarised)."""
    orientation: int = Field(2, ge=1, le=4)
    """How the images lie (pyFAI's detector orientation): 2 is an image seen from the sample with
    its first row at the top."""
    sensor_attenuation: float | None = Field(None, gt=0)
    """Attenuation coefficient of the sensor in 1/m; None: of its material at the wavelength of the
    scan."""


def _kind(value: Any) -> str:
    for tag, model in (("store", StoredGeometry), ("poni", PoniFile)):
        if isinstance(value, model) or (isinstance(value, dict) and tag in value):
            return tag
    return "image"


Calibration = Annotated[
    Annotated[PowderImage, Tag("image")]
    | Annotated[PoniFile, Tag("poni")]
    | Annotated[StoredGeometry, Tag("store")],
    Discriminator(_kind),
]


class Orientation(OrientationEngine):
    """What indexes and refines, and from where it starts."""

    start: Path | None = None
    """Orientation of a parent that another program found (DIALS .expt, XPARM.XDS, GXPARM.XDS, a
    file of NXRefine, an orientation.json): refinement starts there, nothing is indexed. With
    `fixed` nothing is refined either."""


class Simulation(_Section):
    """What `rule simulate` makes of the raw files; see `hklflow.stages.simulate`."""

    scan: dict[str, Any]
    """What all raw files share."""
    samples: dict[str, dict[str, Any]]
    """Crystal, diffuse scattering and background of each sample."""
    scans: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What is different in a scan, by `sample/scan`."""
    rotations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What is different in a rotation, by its name."""
    powder: dict[str, Any] = Field(default_factory=dict)
    """The calibrant image."""


class Config(_Section):
    """The experiment's configuration file."""

    facility: str | None = None
    """YAML file of the facility or beamline with the same keys; what stands here goes before it."""
    results: str = "results"
    """Folder of all products."""
    binning: Literal[1, 2, 4, 8] = 1
    """Pixels along each side of the blocks that are summed before all else, for a quick look with
    results of its own (`<results>_binned4`); 1: frames as measured."""
    samples: str = "config/samples.tsv"
    """Table of samples."""
    scans: str = "config/scans.tsv"
    """Table of scans and their rotations."""
    calibrations: dict[str, Calibration] = Field(default_factory=dict)
    """Detector geometries, by the name that the table of scans uses."""
    constants: dict[str, DetectorConstants] = Field(default_factory=dict)
    """Constants of detectors (offsets, gains, flat fields, bad pixels), by name."""
    bragg: bool = False
    """Whether `snakemake` makes structure factors too; `snakemake bragg` makes them in any case."""
    delta_pdf: list[Literal["transform", "masked_transform"]] = Field(["masked_transform"])
    """Merged volumes that are symmetrised, filled and transformed to the 3D-ΔPDF: with all, without
    the 3-D mask's pixels, both, or none."""
    frame_blocks: int = Field(1, ge=1, le=1000)
    """Blocks of frames of a rotation that are transformed by jobs of their own, for a cluster."""
    correct_frames: UsedConstants = UsedConstants()
    """Use of a detector's constants."""
    sum_scans: stages.sum_scans.Settings = stages.sum_scans.Settings()
    """Sum of repeated scans."""
    import_scan: stages.import_scan.Params = stages.import_scan.Params()
    """Import of the frames."""
    pixel_mask: stages.pixel_mask.Params = stages.pixel_mask.Params()
    """Pixel mask."""
    frame_scale: stages.frame_scale.Params = stages.frame_scale.Params()
    """Scale of every frame: monitor, attenuators, the sample's transmission."""
    find_peaks: stages.find_peaks.Params = stages.find_peaks.Params()
    """Peak search and frame statistics."""
    dials: DialsPrograms = DialsPrograms()
    """Where the programs of DIALS are, for the engines that use it."""
    orientation: Orientation = Orientation()
    """What indexes and refines: hklflow or DIALS."""
    refine_parent: stages.refine_parent.Settings = stages.refine_parent.Settings()
    """Indexing and refinement of parents, and the hkl grid."""
    refine: stages.refine.Settings = stages.refine.Settings()
    """Refinement of every scan from its parent's orientation."""
    accept: stages.accept.Params = stages.accept.Params()
    """Gates that a scan's refinement must pass before its frames are transformed."""
    mask_3d: stages.mask_3d.Settings = stages.mask_3d.Settings()
    """3-D mask: artefacts of the sensor, and Bragg reflections if wanted."""
    transform: stages.transform.Settings = stages.transform.Settings()
    """Transform to hkl."""
    merge: stages.merge.Settings = stages.merge.Settings()
    """Merge of the rotations."""
    symmetrise: stages.symmetrise.Settings = stages.symmetrise.Settings()
    """Sum of equivalent voxels."""
    fill: stages.fill.Settings = stages.fill.Settings()
    """Punching of the Bragg reflections, and filling of the holes."""
    pdf: stages.pdf.Settings = stages.pdf.Settings()
    """Taper and transform to the total PDF and the 3D-ΔPDF."""
    difference: stages.difference.Settings = stages.difference.Settings()
    """Difference to another temperature."""
    planes: stages.planes.Settings = stages.planes.Settings()
    """Planes of S(Q) and of the pair distributions that are drawn."""
    converge: stages.converge.Settings = stages.converge.Settings()
    """Refinement and integration in turn, until the model rests."""
    integrate: stages.integrate.Settings = stages.integrate.Settings()
    """Integration of the Bragg reflections."""
    scale_reflections: stages.scale_reflections.Settings = stages.scale_reflections.Settings()
    """Scale of the reflections of all rotations, and their error model."""
    merge_reflections: stages.merge_reflections.Settings = stages.merge_reflections.Settings()
    """Merge of the reflections to structure factors."""
    temperature_series: stages.temperature_series.Settings = stages.temperature_series.Settings()
    """Quantities against temperature."""
    stack: stages.stack.Settings = stages.stack.Settings()
    """Merged volumes along temperature, and chosen reflections."""
    stack_pdf: stages.stack_pdf.Settings = stages.stack_pdf.Settings()
    """3D-ΔPDFs along temperature, and chosen vectors."""
    bragg_series: stages.bragg_series.Settings = stages.bragg_series.Settings()
    """Bragg intensities against temperature."""
    per_sample: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sections that are different for a sample, by its name."""
    per_scan: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sections that are different for a scan, by `sample/scan`. What a parent's entry says holds
    for its children too, but for `sum_scans`, `import_scan` and `refine_parent`."""
    simulation: Simulation | None = None
    """Only for simulated experiments: what `rule simulate` makes of each raw file."""

    @field_validator("import_scan")
    @classmethod
    def _binned_as_a_whole(cls, value: stages.import_scan.Params) -> stages.import_scan.Params:
        if value.binning != 1:
            raise ValueError("`binning` stands at the top of the configuration, for all scans")
        return value
