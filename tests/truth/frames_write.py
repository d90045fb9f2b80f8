"""Frames as an instrument would leave them: NXmx files, and the tables of an experiment."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
from scipy.spatial.transform import Rotation

from tests.truth.frames_world import MASKED, FrameWorld
from tests.truth.worlds_physics import Array, Scan

EXPOSURE = 0.1  # s
SAMPLES = ("sample", "space_group", "a", "b", "c", "alpha", "beta", "gamma")
SCANS = ("sample", "scan", "temperature", "parent", "rotation", "raw")


@dataclass(frozen=True)
class Style:
    """How an instrument writes."""

    dtype: str = "u4"  # u2: counts end at 65534
    compressed: bool = True  # bitshuffle-LZ4
    monitor: bool = True  # False: none is written, and the configuration says so

    @property
    def mask(self) -> int:
        """Value of a pixel that is none."""
        return int(np.iinfo(self.dtype).max)


def write(
    world: FrameWorld, folder: Path, *, sample: str = "world", style: Style | None = None
) -> list[Path]:
    """Write raw files and configuration of an experiment, and return the raw files.

    Of a transition the parent is the scan `parent`, the child `child`; else the scan is `scan`.
    `hklflow init FOLDER` adds what the workflow needs.
    """
    style = style or Style()
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "config").mkdir(exist_ok=True)
    worlds = {"parent": world.parent, "child": world} if world.parent else {"scan": world}
    first, lines, paths = next(iter(worlds)), [SCANS], []
    for name, one in worlds.items():
        assert one is not None
        for r in range(len(one.beam)):
            path = folder / "raw" / f"{sample}_{name}_r{r + 1}.nxs"
            write_scan(one, r, path, sample, style)
            raw = str(path.relative_to(folder))
            lines.append((sample, name, f"{one.temperature:g}", first, f"r{r + 1}", raw))
            paths.append(path)
    symbol = world.draft.parent.space_group if world.draft.parent else world.draft.space_group
    cell = [f"{x:.4f}" for x in world.draft.expected]
    table([SAMPLES, (sample, symbol, *cell)], folder / "config" / "samples.tsv")
    table(lines, folder / "config" / "scans.tsv")
    (folder / "config" / "config.yaml").write_text(configuration(world, style))
    return paths


def table(rows: list[tuple[str, ...]], path: Path) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


def configuration(world: FrameWorld, style: Style) -> str:
    """Return config.yaml of a person who has looked at the frames and has drawn the shadow."""
    text = "samples: config/samples.tsv\nscans: config/scans.tsv\n"
    text += "" if style.monitor else "import_scan: {monitor: none}\n"
    at = np.argwhere(world.shadow < 1)
    if not len(at):
        return text
    slow, fast = at.mean(axis=0) + 0.5
    radius = np.sqrt(len(at) / np.pi) + 2
    if np.ptp(at, axis=0).min() < 2 * radius - 8:  # cut by the edge
        radius = np.ptp(at, axis=0).max() + 4
    shape = f"{{shape: circle, slow: {slow:.1f}, fast: {fast:.1f}, radius: {radius:.1f}}}"
    return text + f"pixel_mask:\n  shapes:\n    - {shape}\n"


def write_scan(world: FrameWorld, r: int, path: Path, sample: str, style: Style) -> None:
    """Write one rotation as NXmx."""
    n = len(world.beam[r])
    with h5py.File(path, "w") as file:
        entry = group(file, "entry", "NXentry")
        file.attrs["default"] = "entry"
        entry["definition"] = "NXmx"
        entry["definition"].attrs["version"] = "1.0"
        entry["start_time"] = "2024-01-01T00:00:00Z"
        data = group(entry, "data", "NXdata")
        data.attrs["signal"] = "data"
        filters = dict(hdf5plugin.Bitshuffle()) if style.compressed else {}
        chunks, size = (1, *world.shape), (n, *world.shape)
        frames = data.create_dataset("data", size, style.dtype, chunks=chunks, **filters)
        for z, frame in enumerate(world.frames(r)):
            counts = np.minimum(frame, style.mask - 1)
            frames[z] = np.where(frame == MASKED, style.mask, counts).astype(style.dtype)
        _sample(world, r, group(entry, "sample", "NXsample"), sample)
        instrument = group(entry, "instrument", "NXinstrument")
        instrument["name"] = "simulated"
        beam = group(instrument, "beam", "NXbeam")
        measured(beam, "incident_wavelength", world.draft.header.wavelength, "angstrom")
        stokes = [1.0, 2 * world.polarization - 1, 0.0, 0.0]
        beam["incident_polarization_stokes"] = stokes
        _detector(world, group(instrument, "detector", "NXdetector"), style)
        if not style.monitor:
            return
        monitor = group(entry, "monitor", "NXmonitor")
        monitor["mode"] = "monitor"
        measured(monitor, "data", np.round(world.monitor[r]), "counts")


def group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    found = parent.create_group(name)
    found.attrs["NX_class"] = nx_class
    return found


def measured(parent: h5py.Group, name: str, value: float | Array, units: str) -> h5py.Dataset:
    parent[name] = value
    parent[name].attrs["units"] = units
    return parent[name]


def axis(
    parent: h5py.Group,
    name: str,
    value: float | Array,
    kind: tuple[str, str],
    vector: Array,
    depends_on: str = ".",
) -> h5py.Dataset:
    """Write an axis of NXtransformations; `kind` is rotation or translation, and units."""
    dataset = measured(parent, name, value, kind[1])
    dataset.attrs["transformation_type"] = kind[0]
    dataset.attrs["vector"] = vector
    dataset.attrs["depends_on"] = depends_on
    return dataset


def _sample(world: FrameWorld, r: int, sample: h5py.Group, name: str) -> None:
    """Write the goniometer: omega turns all, chi below it is the setting of the rotation."""
    scan: Scan = world.draft.header_scans[r]
    sample["name"] = name
    measured(sample, "temperature", world.temperature, "K")
    chain = group(sample, "transformations", "NXtransformations")
    base = sample.name + "/transformations/"
    angles = scan.start + scan.step * np.arange(scan.n_frames)
    axis(chain, "omega", angles, ("rotation", "deg"), scan.axis)
    measured(chain, "omega_end", angles + scan.step, "deg")
    measured(chain, "omega_increment_set", np.full(scan.n_frames, scan.step), "deg")
    settings = [Rotation.from_matrix(s.setting).as_rotvec(degrees=True) for s in world.sample.scans]
    turned = [v for v in settings if np.linalg.norm(v) > 1e-9]
    if turned:
        chi = turned[0] / np.linalg.norm(turned[0])
        axis(chain, "chi", settings[r] @ chi, ("rotation", "deg"), chi, base + "omega")
    sample["depends_on"] = base + ("chi" if turned else "omega")
    data = sample.parent["data"]
    data["omega"] = chain["omega"]
    data.attrs["axes"] = ["omega", ".", "."]
    data.attrs["omega_indices"] = 0


def _detector(world: FrameWorld, detector: h5py.Group, style: Style) -> None:
    """Write the detector where the header has it: one module that spans all, gaps flagged."""
    inst = world.draft.header
    normal = np.cross(inst.fast, inst.slow)
    foot = (inst.origin @ normal) * normal  # where the normal through the sample meets it
    slow, fast, _ = inst.pixel(np.zeros(3), np.array([[0.0, 0, 1]]))
    detector["description"] = "simulated photon counter"
    detector["type"] = "Pixel"
    detector["depends_on"] = "."
    measured(detector, "distance", float(np.linalg.norm(foot)), "m")
    if np.isfinite(slow[0]):
        measured(detector, "beam_center_x", float(fast[0]), "pixel")
        measured(detector, "beam_center_y", float(slow[0]), "pixel")
    measured(detector, "x_pixel_size", inst.pixel_size, "m")
    measured(detector, "y_pixel_size", inst.pixel_size, "m")
    measured(detector, "count_time", EXPOSURE, "s")
    measured(detector, "frame_time", EXPOSURE, "s")
    detector["saturation_value"] = min(world.saturation, style.mask - 1)
    detector["underload_value"] = 0
    detector["bit_depth_image"] = 8 * np.dtype(style.dtype).itemsize
    detector["pixel_mask"] = (world.module < 0).astype("u4")
    if world.sensor:
        detector["sensor_material"] = "Si"
        measured(detector, "sensor_thickness", world.sensor[0], "m")
    module = group(detector, "module", "NXdetector_module")
    module["data_origin"] = np.array([0, 0])
    module["data_size"] = np.array(inst.shape)
    offset = module.name + "/module_offset"
    length = float(np.linalg.norm(inst.origin))
    shift, size = ("translation", "m"), inst.pixel_size
    axis(module, "module_offset", length, shift, inst.origin / length)
    axis(module, "fast_pixel_direction", size, shift, inst.fast, offset)
    axis(module, "slow_pixel_direction", size, shift, inst.slow, offset)
