"""An experiment as NXRefine leaves it, from simulated scans.

Every number is derived here from what NXRefine does with it, and from the simulator's own
geometry: nothing of `hklflow.formats.nxrefine` is used. NXRefine's laboratory has x along the
beam, z up, y to complete it; its pixel and frame coordinates are indices, of centres.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from scipy.spatial.transform import Rotation as Turn

from hklflow.simulation.frames import (
    Background,
    Cosine,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
    module_gaps,
)

BEAM, UP = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
ACROSS = np.cross(UP, BEAM)  # z × x of NXRefine is its y
TO_NXREFINE = np.array([BEAM, ACROSS, UP])
# theta about y, omega about z, chi about x, phi about z
AXES = (tuple(ACROSS), tuple(UP), tuple(BEAM), tuple(UP))

CELL = (4.75, 4.75, 7.2, 90.0, 90.0, 120.0)
GRID = {"Qh": (-3.0, 0.1, 61), "Qk": (-3.0, 0.1, 61), "Ql": (-3.0, 0.1, 61)}


@dataclass(frozen=True)
class Layout:
    """What is simulated; a `Simulation` for each scan and rotation follows from it."""

    sample: str = "hexa"
    label: str = "crystal1"
    scans: dict[str, float] = field(default_factory=lambda: {"300K": 300.0, "100K": 100.0})
    chi: dict[str, float] = field(default_factory=lambda: {"f1": -90.0, "f2": -50.0})
    theta: float = 0.7
    omega: float = -0.4
    n_frames: int = 150
    step: float = 1.2
    start: float = -5.0
    wavelength: float = 0.6
    cell: tuple[float, float, float, float, float, float] = CELL
    flip: bool = False
    """Rows from below, as with NXRefine's usual orientation of the detector."""
    flux: float = 60.0
    turns: dict[str, tuple[float, float, float]] = field(
        default_factory=lambda: {"100K": (0.15, -0.1, 0.2)}
    )
    """By how much the crystal drifted in a scan, degrees."""
    nan_frames: tuple[int, ...] = ()
    """Frames of NaN in the second rotation, which is float32 then."""

    @property
    def detector(self) -> DetectorModel:
        shape, gaps = module_gaps((1, 2), (150, 72), (0, 6))
        return DetectorModel(
            shape=shape,
            gaps=gaps,
            distance=0.08,
            foot=(75.3, 79.2),
            pixel_size=(400e-6, 400e-6),
            tilt=(np.radians(0.5), np.radians(-0.7)),
            in_plane=np.radians(0.2),
            n_hot=3,
        )

    def simulation(self, scan: str, rotation: str) -> Simulation:
        angles = (self.theta, self.omega, self.chi[rotation], 0.0)
        seed = 100 * list(self.scans).index(scan) + list(self.chi).index(rotation)
        return Simulation(
            detector=self.detector,
            goniometer=GoniometerModel(
                axes=AXES,
                angles=tuple(np.radians(angles)),
                names=("theta", "omega", "chi", "phi"),
                scan=3,
            ),
            scan=ScanModel(
                start=np.radians(self.start),
                step=np.radians(self.step),
                n_frames=self.n_frames,
                wavelength=self.wavelength,
                polarization=0.995,
                flux=self.flux,
                exposure=0.1,
                drift=0.2,
                attenuator=0.8,
                temperature=self.scans[scan],
                seed=seed,
            ),
            crystal=CrystalModel(
                cell=self.cell,
                orientation=(0.4, -0.7, 0.3),
                scale=2.0,
                mosaic=0.007,
                expansion=(1.2e-5, 1.2e-5, 2e-5),
                turn=self.turns.get(scan, (0.0, 0.0, 0.0)),
            ),
            # Neighbours along a, b and a + b: all six-fold copies, as 6/mmm demands.
            diffuse=Diffuse(
                flat=0.4,
                cosines=tuple(Cosine(0.1, v) for v in ((1, 0, 0), (0, 1, 0), (1, 1, 0))),
            ),
            background=Background(air=1.0),
        )


def geometry_of(layout: Layout) -> dict[str, float | str]:
    """Numbers of instrument/detector: D⁻¹ = R1(roll) R2(pitch) R3(yaw) and the beam's centre."""
    detector = layout.detector
    fast, slow = detector.fast, -detector.slow if layout.flip else detector.slow
    # Rows are the detector's x, y, z; untilted, x is -y of the laboratory and y is z or -z.
    rows = {True: "-y +z -x", False: "-y -z +x"}[layout.flip]
    untilted = np.array([[0, -1, 0], [0, 0, 1 if layout.flip else -1], [0, 0, 0]], float)
    untilted[2] = np.cross(untilted[0], untilted[1])
    own = np.stack([fast, slow, np.cross(fast, slow)], axis=1)
    tilt = TO_NXREFINE @ own @ untilted
    roll, pitch, yaw = Turn.from_matrix(tilt).as_euler("XYZ", degrees=True)
    slow_centre, fast_centre = detector.beam_centre
    if layout.flip:
        slow_centre = detector.shape[0] - slow_centre
    return {
        "detector_orientation": rows,
        "roll": roll,
        "pitch": pitch,
        "yaw": yaw,
        "distance": 1e3 * detector.distance / detector.normal[2],
        "pixel_size": 1e3 * detector.pixel_size[0],
        # NXRefine takes index i for the centre of pixel i.
        "beam_center_x": fast_centre - 0.5,
        "beam_center_y": slow_centre - 0.5,
        "translation_x": 0.0,
        "translation_y": 0.0,
    }


def cell_columns(cell: np.ndarray) -> np.ndarray:
    """A with columns a (along x), b (in xy), c."""
    a, b, c, *angles = cell
    ca, cb, cg = np.cos(np.radians(angles))
    sg = np.sin(np.radians(angles[2]))
    x, y = c * cb, c * (ca - cb * cg) / sg
    return np.array([[a, b * cg, x], [0, b * sg, y], [0, 0, np.sqrt(c * c - x * x - y * y)]])


def orientation_matrix(simulation: Simulation) -> np.ndarray:
    """What NXRefine's fit finds: its UB is this times A⁻¹ and gives hkl without 2π."""
    ub = TO_NXREFINE @ simulation.ub / (2 * np.pi)
    return ub @ cell_columns(simulation.cell)


def write(folder: Path, layout: Layout) -> Path:
    """Write the experiment; returns its folder."""
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks/settings.ini").write_text(
        "[instrument]\nsource = APS\ninstrument = 6-ID-D\n[nxrefine]\nwavelength = 0.2\n"
        "[nxreduce]\nthreshold = 50000\nmonitor = MCS1\npolarization = 0.99\nfirst_frame = 10\n"
        "last_frame = 3640\nsample_transmission = True\n"
    )
    home = folder / layout.sample / layout.label
    home.mkdir(parents=True)
    (folder / "configurations").mkdir()
    _write_file(folder / "configurations/small.nxs", layout, next(iter(layout.scans)), bare=True)
    for scan in layout.scans:
        (home / scan).mkdir()
        for i, rotation in enumerate(layout.chi):
            nans = layout.nan_frames if i == 1 else ()
            _write_raw(home / scan / f"{rotation}.h5", layout, scan, rotation, nans)
        _write_file(home / f"{layout.sample}_{scan}.nxs", layout, scan)
    _write_parent(home / f"{layout.sample}_scans.nxs", layout)
    return folder


def _write_raw(path: Path, layout: Layout, scan: str, rotation: str, nans: tuple[int, ...]) -> None:
    simulation = layout.simulation(scan, rotation)
    frames = np.concatenate(list(simulation.frames(16))).astype(np.int64)
    gaps = simulation.detector.gap_mask
    frames[:, gaps] = 0
    frames = frames[:, ::-1] if layout.flip else frames
    stored = frames.astype(np.float32 if nans else np.int32)
    if nans:
        stored[list(nans)] = np.nan
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "entry/data/data",
            data=stored,
            chunks=(1, *frames.shape[1:]),
            maxshape=(5000, *frames.shape[1:]),
            compression="gzip",
            compression_opts=1,
        )


def _put(group: h5py.Group, name: str, value: object, units: str = "") -> None:
    group[name] = value
    if units:
        group[name].attrs["units"] = units


def _write_file(path: Path, layout: Layout, scan: str, *, bare: bool = False) -> None:
    """A wrapper, or a configuration (``bare``: no links, no monitor, no orientation)."""
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry")
        first = layout.simulation(scan, next(iter(layout.chi)))
        if not bare:
            _write_sample(entry, layout, first, scan)
            registry = _group(entry, "nxscans", "NXprocess")
            registry["parent"] = f"{layout.sample}_scans.nxs"
        for rotation in layout.chi:
            group = _group(file, rotation, "NXentry")
            _write_rotation(group, layout, layout.simulation(scan, rotation), rotation, bare)
            data = _group(group, "data", "NXdata")
            data.attrs["signal"] = "data"
            data.attrs["axes"] = ["frame_number", "y_pixel", "x_pixel"]
            shape = first.detector.shape
            for name, n in (
                ("frame_number", layout.n_frames),
                ("y_pixel", shape[0]),
                ("x_pixel", shape[1]),
            ):
                data[name] = np.arange(n)
            _put(data, "frame_time", 0.1 * np.arange(layout.n_frames), "s")
            if not bare:
                group["sample"] = entry["sample"]
                data["data"] = h5py.ExternalLink(f"{scan}/{rotation}.h5", "/entry/data/data")


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _write_sample(entry: h5py.Group, layout: Layout, first: Simulation, scan: str) -> None:
    sample = _group(entry, "sample", "NXsample")
    sample["name"], sample["label"] = layout.sample, layout.label
    sample["chemical_formula"] = "BaTiO3"
    sample["space_group"] = "P 6/m m m"
    sample["laue_group"] = "6/mmm"
    sample["unit_cell_group"] = "hexagonal"
    sample["lattice_centring"] = "P"
    for name, value in zip(("a", "b", "c", "alpha", "beta", "gamma"), first.cell, strict=True):
        _put(sample, f"unitcell_{name}", value, "Angstrom" if len(name) == 1 else "degree")
    _put(sample, "temperature", layout.scans[scan], "K")


def _write_rotation(
    group: h5py.Group, layout: Layout, simulation: Simulation, rotation: str, bare: bool
) -> None:
    instrument = _group(group, "instrument", "NXinstrument")
    mono = _group(instrument, "monochromator", "NXmonochromator")
    _put(mono, "wavelength", layout.wavelength, "Angstrom")
    _put(mono, "energy", 12.398419843 / layout.wavelength, "keV")
    detector = _group(instrument, "detector", "NXdetector")
    for name, value in geometry_of(layout).items():
        detector[name] = value
    detector["shape"] = list(simulation.detector.shape)
    _put(detector, "frame_time", 0.1, "s")
    mask = simulation.detector.gap_mask
    detector["pixel_mask"] = (mask[::-1] if layout.flip else mask).astype(np.int8)
    goniometer = _group(instrument, "goniometer", "NXgoniometer")
    # Frame z, an index, is at phi + z step: z is the middle of our frame from z to z + 1.
    goniometer["phi"] = layout.start + 0.5 * layout.step
    goniometer["phi"].attrs["step"] = layout.step
    goniometer["phi"].attrs["end"] = layout.start + layout.step * layout.n_frames
    for name, value in (
        ("chi", layout.chi[rotation]),
        ("omega", layout.omega),
        ("theta", layout.theta),
    ):
        _put(goniometer, name, value, "degree")
    if bare:
        return
    detector["orientation_matrix"] = orientation_matrix(simulation)
    _put(_group(instrument, "attenuator", "NXattenuator"), "attenuator_transmission", 1.0)
    passed = np.full(layout.n_frames, simulation.scan.attenuator)
    _group(instrument, "filter", "NXfilter")["transmission"] = passed
    monitor = _group(group, "monitor", "NXmonitor")
    monitor.attrs["signal"] = "MCS1"
    monitor["MCS1"] = simulation.scan.monitor
    monitor["frame_number"] = np.arange(layout.n_frames)


def _write_parent(path: Path, layout: Layout) -> None:
    warmest = max(layout.scans, key=lambda name: layout.scans[name])
    with h5py.File(path, "w") as file:
        entry = _group(file, "entry", "NXentry")
        _write_sample(entry, layout, layout.simulation(warmest, next(iter(layout.chi))), warmest)
        registry = _group(entry, "nxscans", "NXprocess")
        stems = [f"{layout.sample}_{scan}" for scan in layout.scans]
        registry["scans"] = np.array(stems, dtype=h5py.string_dtype())
        registry["selected"] = np.ones(len(stems), bool)
        settings = _group(registry, "settings", "NXparameters")
        for key, value in (
            ("threshold", 40.0),
            ("first_frame", 0),
            ("last_frame", layout.n_frames - 2),
            ("monitor", "MCS1"),
            ("norm", 5.0),
            ("polar_max", 60.0),
        ):
            settings[key] = value
        axes = _group(registry, "transform", "NXdata")
        axes.attrs["axes"] = ["Ql", "Qk", "Qh"]
        for name, (low, step, n) in GRID.items():
            axes[name] = low + step * np.arange(n)
        for rotation in layout.chi:
            simulation = layout.simulation(warmest, rotation)
            group = _group(file, rotation, "NXentry")
            _write_rotation(group, layout, simulation, rotation, False)
            del group["monitor"]
            group["sample"] = entry["sample"]


def small(**changes: object) -> Layout:
    """A layout of few frames, for tests of what is found."""
    return replace(Layout(), **{"n_frames": 12, "flux": 5.0, **changes})
