"""The good experiment that the cases damage: three scans of one sample, and what goes with them."""

from contextlib import chdir
from pathlib import Path
from typing import Any

import fabio
import h5py
import hdf5plugin
import numpy as np

from hklflow import nexus, stage
from hklflow.formats.dials_expt import write_expt
from hklflow.formats.nxrefine import write_nxrefine
from hklflow.formats.poni import Poni, write_poni
from hklflow.formats.write_images import write_cbf_series
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.formats.xds import write_xparm
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.geometry.grid import Grid
from hklflow.geometry.lattice import b_matrix
from hklflow.geometry.model import Model, to_orientation
from hklflow.stages import import_scan

N, SHAPE = 6, (12, 10)
CELL = (4.91, 4.91, 5.40, 90.0, 90.0, 120.0)
STEP = 0.5

CONFIG = """\
calibrations:
  lab: {poni: raw/lab.poni, polarization: 0.99}
pixel_mask:
  mask_file: config/mask.yaml
find_peaks:
  n_sigma: 5
per_scan:
  quartz/200K:
    import_scan: {axes: ["chi=0,0,1", "phi=-1,0,0"], monitor: none}
"""

SAMPLES = """\
sample\tspace_group\ta\tb\tc\talpha\tbeta\tgamma\tformula
quartz\tP 32 2 1\t4.91\t4.91\t5.40\t90\t90\t120\tSiO2
"""

SCANS = """\
sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\tframes
quartz\t300K\t300\t300K\tr1\traw/r1.nxs\t\t\t6
quartz\t100K\t100\t300K\tr1\traw/r2_master.h5\t\t\t
quartz\t200K\t200\t300K\tr1\traw/r3_####.cbf\tchi=0 phi=-5:0.5\tlab\t
"""

MASK = "- {shape: circle, slow: 6, fast: 5, radius: 2}\n"

# What users type.
CHECK = "hklflow check"
_IMPORT = "python -m hklflow.stages.import_scan"
IMPORT = f"{_IMPORT} --raw raw/r1.nxs --scan new/scan.nxs"
IMPORT_LINKED = f"{_IMPORT} --raw raw/r2_master.h5 --scan new/scan.nxs"
IMPORT_SERIES = (
    f"{_IMPORT} --raw raw/r3_0001.cbf raw/r3_0006.cbf --pattern raw/r3_####.cbf "
    "--geometry raw/geometry.json --axes phi=-1,0,0 --start=-5 --step 0.5 --monitor none "
    "--scan new/scan.nxs"
)
IMPORT_TIFF = IMPORT_SERIES.replace("r3_", "r4_").replace(".cbf", ".tif") + " --exposure 1"
SUM = "python -m hklflow.stages.sum_scans --raw raw/r1.nxs raw/repeated.nxs --sum new/sum.nxs"
SUM_SERIES = (
    "python -m hklflow.stages.sum_scans --raw raw/r3_0001.cbf raw/r3_0006.cbf --patterns "
    "raw/r3_####.cbf raw/repeated_####.cbf --sum new/sum.nxs"
)
SUM_TIFF = SUM_SERIES.replace("r3_", "r4_").replace(".cbf", ".tif")
PONI = (
    "python -m hklflow.stages.import_poni --poni raw/lab.poni --polarization 0.99 "
    "--geometry new/geometry.json"
)


_ROTATION = "results/quartz/300K/r1"
PEAKS = (
    f"python -m hklflow.stages.find_peaks --scan {_ROTATION}/scan.nxs --mask {_ROTATION}/mask.nxs "
    "--peaks new/peaks.nxs --picture new/peaks.png --metrics new/peaks.json --statistics "
    "new/statistics.nxs --statistics-picture new/s.png --statistics-metrics new/statistics.json"
)


def frames(seed: int = 1) -> np.ndarray[Any, Any]:
    """Counts (n, slow, fast), different in every frame."""
    return np.random.default_rng(seed).poisson(50, (N, *SHAPE)).astype(np.uint32)


def make(folder: Path) -> None:
    """Make the experiment."""
    for name, text in {"config.yaml": CONFIG, "samples.tsv": SAMPLES, "scans.tsv": SCANS}.items():
        (folder / "config").mkdir(exist_ok=True, parents=True)
        (folder / "config" / name).write_text(text, encoding="utf-8")
    (folder / "config/mask.yaml").write_text(MASK)
    raw = folder / "raw"
    raw.mkdir()
    _write_nxmx(raw / "r1.nxs")
    _write_linked(raw)
    _write_images(raw, "r3", "r4", 1)
    _repeat(raw)
    write_poni(raw / "lab.poni", Poni(0.1, 0.0006, 0.0005, 0, 0, 0, 1e-4, 1e-4, SHAPE, 2, 0.5))
    mask = np.zeros(SHAPE, np.uint8)
    mask[3, 4] = 1
    fabio.tifimage.TifImage(data=mask).write(str(raw / "mask.tif"))
    with h5py.File(raw / "mask.h5", "w") as file:
        file["entry/mask"] = mask
    _write_models(raw)
    scan = folder / "results/quartz/300K/r1/scan.nxs"
    with chdir(folder):  # so that the scan file names its raw file from there
        stage.run(
            import_scan.main,
            inputs=import_scan.Inputs(raw=[Path("raw/r1.nxs")]),
            outputs=import_scan.Outputs(scan=scan),
            params=import_scan.Params(),
            threads=1,
        )
    nexus.write_mask(scan.with_name("mask.nxs"), np.zeros(SHAPE, np.uint32))
    grid = Grid.symmetric((2, 2, 2), 0.5)
    ones = np.ones(grid.shape[::-1])
    volume = nexus.Volume(grid, np.array(CELL), 9 * ones, ones, 9 * ones, 3 * ones, {})
    nexus.write_volume(folder / "results/quartz/300K/transform.nxs", volume, "S(Q)")


def _write_nxmx(path: Path) -> None:
    with NXmxWriter(
        path,
        NXmxHeader(
            shape=SHAPE,
            pixel_size=(1e-4, 1e-4),
            origin=(0.0005, 0.0006, 0.1),
            slow=(0.0, -1.0, 0.0),
            fast=(-1.0, 0.0, 0.0),
            wavelength=0.5,
            axis_names=("phi",),
            axes=[(-1.0, 0.0, 0.0)],
            angles=[0.0],
            start=np.radians(-5.0),
            step=np.radians(STEP),
            n_frames=N,
            exposure=0.1,
            monitor=100.0 + np.arange(N),
            pixel_mask=np.zeros(SHAPE, np.uint32),
            temperature=300.0,
            polarization=0.99,
            attenuator_transmission=0.5,
        ),
    ) as writer:
        writer.append(frames())


def _repeat(raw: Path) -> None:
    """A second measurement of each scan, to be summed with the first."""
    (raw / "repeated.nxs").write_bytes((raw / "r1.nxs").read_bytes())
    with h5py.File(raw / "repeated.nxs", "r+") as file:
        file["entry/data/data"][...] = frames(2)
    _write_images(raw, "repeated", "repeated", 2)


def _write_linked(raw: Path) -> None:
    """A master file of Eiger style, whose frames are in two data files."""
    master = raw / "r2_master.h5"
    master.write_bytes((raw / "r1.nxs").read_bytes())
    with h5py.File(master, "r+") as file:
        group = file["entry/data"]
        del group["data"]
        for i in (1, 2):
            name = f"r2_data_{i:06d}.h5"
            with h5py.File(raw / name, "w") as part:
                part.create_dataset(
                    "entry/data/data",
                    data=frames()[3 * i - 3 : 3 * i],
                    chunks=(1, *SHAPE),
                    **hdf5plugin.Bitshuffle(cname="lz4"),
                )
            group[f"data_{i:06d}"] = h5py.ExternalLink(name, "/entry/data/data")


def _write_images(raw: Path, cbf: str, tif: str, seed: int) -> None:
    series = write_cbf_series(
        raw,
        cbf,
        [frames(seed)],
        wavelength=0.5,
        distance=0.1,
        beam_centre=(6.0, 5.0),
        pixel_size=(1e-4, 1e-4),
        start=np.radians(-5.0),
        step=np.radians(STEP),
        exposure=0.1,
        monitor=np.full(N, 100.0),
        pixel_mask=np.zeros(SHAPE, bool),
    )
    for i, path in enumerate(series, start=1):
        path.rename(raw / f"{cbf}_{i:04d}.cbf")
    for i, frame in enumerate(frames(seed), start=1):
        fabio.tifimage.TifImage(data=frame.astype(np.int32)).write(str(raw / f"{tif}_{i:04d}.tif"))


def rotation() -> Rotation:
    """Geometry of the scans."""
    detector = Detector(
        SHAPE,
        (1e-4, 1e-4),
        np.array([0.0005, 0.0006, 0.1]),
        np.array([0.0, -1.0, 0.0]),
        np.array([-1.0, 0.0, 0.0]),
    )
    goniometer = Goniometer(("phi",), np.array([[-1.0, 0.0, 0.0]]), np.array([0.0]), 0)
    scan = Scan(float(np.radians(-5.0)), float(np.radians(STEP)), N)
    return Rotation(Beam(0.5, 0.99), detector, goniometer, scan)


def _write_models(raw: Path) -> None:
    model = Model(rotation(), b_matrix(CELL), "P 32 2 1", raw="r3_####.cbf", name="r1")
    stage.write_json(raw / "orientation.json", to_orientation([model]))
    write_expt(raw / "refined.expt", [model])
    write_xparm(raw / "XPARM.XDS", model)
    write_nxrefine(raw / "refined.nxs", [model])
    from hklflow.geometry import detector_to_dict

    geometry = {
        "detector": detector_to_dict(model.rotation.detector),
        "beam": {"wavelength_A": 0.5, "polarization": 0.99},
    }
    stage.write_json(raw / "geometry.json", geometry)
