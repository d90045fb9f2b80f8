"""The sections of the configuration file.

The section of a stage is the ``Params`` (or ``Settings``) of the stage itself, so each parameter is
defined in one place only. Stage modules are used as ``stages.<name>``, because a field would hide a
module with the same name.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

import hklflow.stages.absolute_scale
import hklflow.stages.absorption
import hklflow.stages.accept
import hklflow.stages.add_transforms
import hklflow.stages.artificial_normalization
import hklflow.stages.background
import hklflow.stages.bin_frames
import hklflow.stages.bragg_series
import hklflow.stages.cluster
import hklflow.stages.converge
import hklflow.stages.difference
import hklflow.stages.features
import hklflow.stages.fill
import hklflow.stages.find_peaks
import hklflow.stages.frame_scale
import hklflow.stages.import_poni
import hklflow.stages.import_scan
import hklflow.stages.integrate
import hklflow.stages.mask_3d
import hklflow.stages.merge
import hklflow.stages.merge_crystals
import hklflow.stages.merge_reflections
import hklflow.stages.order_parameters
import hklflow.stages.overview
import hklflow.stages.pdf
import hklflow.stages.pixel_mask
import hklflow.stages.planes
import hklflow.stages.powder_calibration
import hklflow.stages.refine
import hklflow.stages.refine_parent
import hklflow.stages.refine_scale
import hklflow.stages.sample_page
import hklflow.stages.scale_reflections
import hklflow.stages.scan_file
import hklflow.stages.simulate
import hklflow.stages.stack
import hklflow.stages.stack_pdf
import hklflow.stages.sum_scans
import hklflow.stages.symmetrise
import hklflow.stages.temperature_series
import hklflow.stages.transform
import hklflow.stages.unmeasured_background  # noqa: F401  (used as `stages...`)
from hklflow import stages
from hklflow.base.described import Described
from hklflow.calibration.assess import GateLimits
from hklflow.constants.gate_limits import NormalizationGates
from hklflow.dials.settings import DialsPrograms, OrientationEngine
from hklflow.experiment.constants import DetectorConstants, Stored, UsedConstants
from hklflow.experiment.locate import RunFiles
from hklflow.experiment.series_axis import Series
from hklflow.experiment.stills import StillSample


class _Section(Described):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    """Path of the PONI file."""


class StoredGeometry(Stored):
    """A calibration of the store. Each rotation uses the version that was accepted for its run.

    Versions are proposed and judged with `hklflow calibration`.
    """

    gates: GateLimits = GateLimits()
    """Limits that a candidate must meet to be accepted."""
    polarization: float = Field(ge=0, le=1)
    """Fraction of the intensity with the electric vector horizontal (0.5: unpolarised)."""
    orientation: int = Field(2, ge=1, le=4)
    """Orientation of the images in pyFAI's numbering: 2 is an image seen from the sample with the
    first row at the top.
    """
    sensor_attenuation: float | None = Field(None, gt=0)
    """Attenuation coefficient of the sensor in 1/m; None: calculated from the sensor material and
    the wavelength of the scan.
    """


class StoredNormalization(Stored):
    """A normalisation of the store: the response of the pixels, measured with a standard.

    Versions are proposed and judged with `hklflow calibration`.
    """

    geometry: str
    """Entry of `calibrations` with the geometry of the detector during the measurement."""
    gates: NormalizationGates = NormalizationGates()
    """Limits that a candidate must meet to be accepted."""


class UsedNormalization(stages.artificial_normalization.Settings):
    """Response of the pixels by which a scan is divided."""

    use: str | None = None
    """Entry of `normalizations`; None: no measured normalisation."""
    artificial: Literal["self_flat", "snip"] | None = None
    """Make a normalisation from the frames of the rotation itself. All products are then marked as
    diagnostic. `self_flat`: the response of a pixel is its level between the reflections, relative
    to pixels at the same scattering angle. `snip`: the response is the smooth background against
    the scattering angle, without rings (SNIP); S(Q) of the background is then 1. None: do not.
    """


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
    """Programs that index and refine, and the orientation from which they start."""

    start: Path | None = None
    """Orientation of a parent from another program (DIALS .expt, XPARM.XDS, GXPARM.XDS, a file of
    NXRefine, an orientation.json). The refinement starts from this orientation, and nothing is
    indexed. With `fixed`, nothing is refined either.
    """


class SeveralScans(stages.merge_crystals.Settings):
    """A set of scans, of one or several crystals, that are merged to one set of structure factors.

    Scaling and merging have the settings of the first scan's sample (`scale_reflections`,
    `merge_reflections`).
    """

    scans: list[str] = Field(min_length=2)
    """Scans as `sample/scan`. The first merged scan defines scale and B, and its sample keeps the
    products. A crystal is a row of the table of samples, with the first crystal in `crystal_of`.
    """
    leave_out: Literal["auto"] | list[str] = "auto"
    """`auto`: scans of another lattice, with another cell, or that contradict the others are left
    out. A list of scans: exactly these are left out; `[]`: none is.
    """

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Sample and scan of each scan."""
        pairs = (name.partition("/") for name in self.scans)
        return [(sample, scan) for sample, _, scan in pairs]


class Simulation(_Section):
    """Properties of the simulated raw files; see `hklflow.stages.simulate`."""

    scan: dict[str, Any]
    """Properties that all raw files share."""
    samples: dict[str, dict[str, Any]]
    """Crystal, diffuse scattering and background of each sample."""
    scans: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Properties that are different in a scan, by `sample/scan`."""
    rotations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Properties that are different in a rotation, by the name of the rotation."""
    powder: dict[str, Any] = Field(default_factory=dict)
    """Properties of the calibrant image."""


class Config(_Section):
    """The configuration file of the experiment."""

    facility: str | None = None
    """YAML file of the facility or beamline with the same keys. The configuration file overrides
    the values of the facility file.
    """
    results: str = "results"
    """Folder of all products."""
    binning: Literal[1, 2, 4, 8] = 1
    """Side in pixels of the blocks that are summed before all other steps, for a quick look; 1:
    frames are not binned. Results of binned frames are in a folder of their own
    (`<results>_binned4`).
    """
    samples: str = "config/samples.tsv"
    """Table of samples."""
    scans: str = "config/scans.tsv"
    """Table of scans and their rotations."""
    data: RunFiles | None = None
    """Raw files by run number, for `hklflow scan add` and `hklflow scan plan` without `--raw`;
    usually in the file of the facility.
    """
    calibrations: dict[str, Calibration] = Field(default_factory=dict)
    """Detector geometries, by the name that the table of scans uses."""
    constants: dict[str, DetectorConstants] = Field(default_factory=dict)
    """Constants of detectors (offsets, gains, flat fields, bad pixels), by name."""
    normalizations: dict[str, StoredNormalization] = Field(default_factory=dict)
    """Normalisations of a calibration store, by name."""
    stills: dict[str, StillSample] = Field(default_factory=dict)
    """Still frames of crystals at unknown orientations, by the name of the sample."""
    crystals: dict[str, SeveralScans] = Field(default_factory=dict)
    """Sets of scans whose Bragg reflections are merged to one set of structure factors, by name."""
    bragg: bool = False
    """Make structure factors with `snakemake`, too. `snakemake bragg` makes them in any case."""
    delta_pdf: list[Literal["transform", "masked_transform"]] = Field(["masked_transform"])
    """Merged volumes that are symmetrised, filled and transformed to the 3D-ΔPDF: the volume of all
    pixels (`transform`), the volume without the pixels of the 3-D mask (`masked_transform`), both,
    or none.
    """
    frame_blocks: int = Field(1, ge=1, le=1000)
    """Number of blocks into which the frames of a rotation are divided. Each block is transformed
    by a separate job, for a cluster.
    """
    correct_frames: UsedConstants = UsedConstants()
    """Correction of the frames with the constants of a detector."""
    sum_scans: stages.sum_scans.Settings = stages.sum_scans.Settings()
    """Sum of repeated scans."""
    import_scan: stages.import_scan.Params = stages.import_scan.Params()
    """Import of the frames."""
    pixel_mask: stages.pixel_mask.Params = stages.pixel_mask.Params()
    """Pixel mask."""
    normalization: UsedNormalization = UsedNormalization()
    """Response of the pixels: which normalisation is used."""
    frame_scale: stages.frame_scale.Params = stages.frame_scale.Params()
    """Scale of every frame from monitor, attenuators and the transmission of the sample."""
    background: stages.background.Settings = stages.background.Settings()
    """Runs without the crystal (empty beam, air, capillary, furnace), whose counts are subtracted.
    """
    find_peaks: stages.find_peaks.Settings = stages.find_peaks.Settings()
    """Peak search and frame statistics."""
    dials: DialsPrograms = DialsPrograms()
    """Paths of the DIALS programs, for engines that use DIALS."""
    orientation: Orientation = Orientation()
    """Programs that index and refine: hklflow or DIALS."""
    refine_parent: stages.refine_parent.Settings = stages.refine_parent.Settings()
    """Indexing and refinement of parents, and the hkl grid."""
    refine: stages.refine.Settings = stages.refine.Settings()
    """Refinement of every scan, which starts from the orientation of its parent."""
    accept: stages.accept.Settings = stages.accept.Settings()
    """Limits that the refinement of a scan must meet before its frames are transformed."""
    absorption: stages.absorption.Settings = stages.absorption.Settings()
    """Absorption by the crystal, from its shape."""
    mask_3d: stages.mask_3d.Settings = stages.mask_3d.Settings()
    """3-D mask of sensor artefacts, and of Bragg reflections if requested."""
    refine_scale: stages.refine_scale.Settings = stages.refine_scale.Settings()
    """Scale of the frames from repeated measurements of S(Q)."""
    transform: stages.transform.Settings = stages.transform.Settings()
    """Transform to hkl."""
    merge: stages.merge.Settings = stages.merge.Settings()
    """Merge of the rotations of a scan."""
    symmetrise: stages.symmetrise.Settings = stages.symmetrise.Settings()
    """Average of equivalent voxels."""
    fill: stages.fill.Settings = stages.fill.Settings()
    """Removal of the Bragg reflections (punch), and filling of the holes."""
    pdf: stages.pdf.Settings = stages.pdf.Settings()
    """Taper, and Fourier transform to the total PDF and the 3D-ΔPDF."""
    difference: stages.difference.Settings = stages.difference.Settings()
    """Difference from another temperature."""
    planes: stages.planes.Settings = stages.planes.Settings()
    """Planes of S(Q) and of the pair distribution functions that are drawn."""
    converge: stages.converge.Settings = stages.converge.Settings()
    """Refinement and integration in turn, until the model converges."""
    integrate: stages.integrate.Settings = stages.integrate.Settings()
    """Integration of the Bragg reflections."""
    scale_reflections: stages.scale_reflections.Settings = stages.scale_reflections.Settings()
    """Scale factors and error model of the reflections of all rotations."""
    merge_reflections: stages.merge_reflections.Settings = stages.merge_reflections.Settings()
    """Merge of the reflections to structure factors."""
    absolute_scale: stages.absolute_scale.Settings = stages.absolute_scale.Settings()
    """Factor that makes S(Q) electron units per cell; needs `bragg: true` and a CIF file or a
    reference scan.
    """
    series: Series = Series()
    """Axis of the series of a sample: the temperature, or another column of the table of scans."""
    temperature_series: stages.temperature_series.Settings = stages.temperature_series.Settings()
    """Plots of quantities against temperature."""
    order_parameters: stages.order_parameters.Settings = stages.order_parameters.Settings()
    """Order parameters of propagation vectors against temperature, and the findings of the sample.
    """
    features: stages.features.Settings = stages.features.Settings()
    """Diffuse features against temperature: intensity, position and correlation lengths."""
    stack: stages.stack.Settings = stages.stack.Settings()
    """Merged volumes against temperature, and chosen reflections."""
    stack_pdf: stages.stack_pdf.Settings = stages.stack_pdf.Settings()
    """3D-ΔPDFs against temperature, and chosen vectors."""
    cluster: stages.cluster.Settings = stages.cluster.Settings()
    """Voxels that change with temperature, clustered by the course of the change."""
    bragg_series: stages.bragg_series.Settings = stages.bragg_series.Settings()
    """Bragg intensities against temperature."""
    per_sample: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sections that are different for a sample, by the name of the sample."""
    per_scan: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sections that are different for a scan, by `sample/scan`. The entry of a parent applies to
    its children, too, except for `sum_scans`, `refine_parent`, and the keys of `import_scan` other
    than `detector`, `wavelength`, `wavelengths` and `axes`. `sample/scan@name` is an analysis: the
    same frames, reduced once more with these changes under another name.
    """
    simulation: Simulation | None = None
    """Properties of simulated raw files; only for simulated experiments."""

    @field_validator("import_scan")
    @classmethod
    def _binned_as_a_whole(cls, value: stages.import_scan.Params) -> stages.import_scan.Params:
        if value.binning != 1:
            raise ValueError("set `binning` at the top of the configuration, for all scans")
        return value
