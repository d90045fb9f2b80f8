"""Exports read back by other programs: reader and largest difference for each format.

    python -m benchmarks.exports [--peers FOLDER ...]
    python -m benchmarks.exports --memory 501

The product has a triclinic cell, 10 % of its voxels without a value, and values that tell the axes
apart. Readers are gemmi, mrcfile, vtk, pyvista, nxs_analysis_tools, iotbx, and the functions that
read data of rmc-discord and mask data of X-TEC; a reader that is not installed is named. FOLDER
holds packages of an environment of their own (`site-packages` after `pip install gemmi mrcfile ase
vtk pyvista nxs-analysis-tools`, or an unpacked wheel of xtec or rmc-discord), looked at after the
own packages. Differences are the largest of all values, relative to the largest value;
places are compared as lengths and angles, relative to the longest.

The second command prints time and largest memory of each export of a volume of 501³ voxels.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth.exported import (
    CELL,
    CENTRED,
    OFFSET,
    values,
    write_factors,
    write_pdf,
    write_series,
    write_volume,
)

from hklflow import nexus
from hklflow.cli import main as hklflow_main
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.nexus import PLANES

Read = Callable[[Path], str]
CORNERS = [(0, 0, 0), (3, 60, 7), (19, 69, 17)]
MEASURED = [
    ("ccp4", ".ccp4"),
    ("npy", ".npy"),
    ("yell", ".h5"),
    ("vtk", ".vts"),
    ("mantid", ".nxs"),
]
# The kernel's VmHWM, because ru_maxrss of a new process contains that of its parent.
_MEASURE = """
import sys
from hklflow.cli import main
try:
    main(sys.argv[1:])
finally:
    lines = open("/proc/self/status").read().splitlines()
    print(next(line for line in lines if line.startswith("VmHWM")), file=sys.stderr)
"""
TEMPERATURES = (20.0, 99.5, 300.0)


def export(*words: Any) -> None:
    """Run `hklflow export`."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        hklflow_main(["export", *(str(word) for word in words)])


def relative(found: Any, expected: Any) -> str:
    """Largest difference; NaN must be in the same voxels."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    return f"{np.nanmax(np.abs(found - expected)) / np.nanmax(np.abs(expected)):.1e}"


def placed(points: Any, direct: bool) -> str:
    """Difference of scalar products of the corners' places from those by the metric tensor."""
    at = OFFSET.first + OFFSET.step * np.array(CORNERS)
    metric = lattice.metric(CELL)
    metric = metric if direct else (2 * np.pi) ** 2 * np.linalg.inv(metric)
    points = np.asarray(points, float)
    return relative(points @ points.T, at @ metric @ at.T)


def told(values_: str, places: str) -> str:
    return f"values {values_}, places {places}"


def gemmi_map(folder: Path, direct: bool) -> str:
    import gemmi

    name = "pdf" if direct else "s"
    export("ccp4", folder / f"{name}.nxs", folder / f"{name}.ccp4")
    found = gemmi.read_ccp4_map(str(folder / f"{name}.ccp4"))
    start = np.array([found.header_i32(word) for word in (5, 6, 7)])
    cell = found.grid.unit_cell
    points = [
        cell.orthogonalize(gemmi.Fractional(*((start + i) / np.array(OFFSET.shape)))).tolist()
        for i in CORNERS
    ]
    data = np.nan_to_num(values(OFFSET, 5 * direct)[0])
    return told(relative(np.array(found.grid).transpose(2, 1, 0), data), placed(points, direct))


def mrc_map(folder: Path) -> str:
    import mrcfile

    assert mrcfile.validate(str(folder / "s.ccp4"), print_file=io.StringIO())
    with mrcfile.open(folder / "s.ccp4") as file:
        return f"valid; values {relative(file.data, np.nan_to_num(values(OFFSET)[0]))}"


def ase_cube(folder: Path) -> str:
    from ase.io.cube import read_cube

    export("cube", folder / "s.nxs", folder / "s.cube")
    with (folder / "s.cube").open() as file:
        found = read_cube(file)
    points = found["origin"] + np.array(CORNERS) @ np.asarray(found["spacing"])
    data = np.nan_to_num(values(OFFSET)[0]).transpose(2, 1, 0)
    return told(relative(found["data"], data), placed(points, False))


def h5py_yell(folder: Path) -> str:
    import h5py

    export("discus", folder / "s.nxs", folder / "s.h5")
    with h5py.File(folder / "s.h5") as file:
        data = np.nan_to_num(values(OFFSET)[0]).transpose(2, 1, 0)
        axes = [file["lower_limits"][i] + file["step_sizes"][i] * np.arange(n)
                for i, n in enumerate(file["data"].shape)]  # fmt: skip
        worst = max(np.abs(axis - OFFSET.axis(i)).max() for i, axis in enumerate(axes))
        return f"values {relative(file['data'], data)}, axes {worst:.1e} r.l.u."


def numpy_files(folder: Path) -> str:
    export("npy", folder / "s.nxs", folder / "s.npy")
    basis = json.loads((folder / "s.json").read_text())
    vectors = np.array(basis["Cartesian vectors of one unit of each axis (columns)"])
    at = OFFSET.first + OFFSET.step * np.array(CORNERS)
    return told(
        relative(np.load(folder / "s.npy"), values(OFFSET)[0]), placed(at @ vectors.T, False)
    )


def vtk_file(folder: Path, direct: bool) -> str:
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    name = "pdf" if direct else "s"
    export("vtk", folder / f"{name}.nxs", folder / f"{name}.vts")
    reader = vtk.vtkXMLStructuredGridReader()
    reader.SetFileName(str(folder / f"{name}.vts"))
    reader.Update()
    grid = reader.GetOutput()
    array = grid.GetPointData().GetArray("pdf" if direct else "S")
    found = vtk_to_numpy(array).reshape(OFFSET.array_shape)
    n_h, n_k, _ = OFFSET.shape
    points = [grid.GetPoint(h + n_h * (k + n_k * l)) for h, k, l in CORNERS]  # noqa: E741
    return told(relative(found, values(OFFSET, 5 * direct)[0]), placed(points, direct))


def pyvista_contour(folder: Path) -> str:
    """Place of a contour in a skewed cell."""
    import pyvista

    grid = pyvista.read(folder / "smooth.vts")
    surface = grid.contour([0.5], scalars="S")
    hkl = np.asarray(surface.points) @ np.linalg.inv(lattice.b_matrix(CELL)).T
    radius = np.linalg.norm(hkl - np.array([0.45, 0.9, 2.0]), axis=1)
    return f"contour of a sphere in hkl: radius {radius.min():.4f} to {radius.max():.4f}, true 0.4"


def discord(folder: Path) -> str:
    sys.modules.setdefault("disorder.diffuse.filters", types.ModuleType("filters"))  # compiled
    import disorder.diffuse

    disorder.diffuse.filters = sys.modules["disorder.diffuse.filters"]
    from disorder.diffuse.experimental import data

    export("mantid", folder / "s.nxs", folder / "md.nxs")
    signal, squares, *rest = data(str(folder / "md.nxs"))
    ends = np.array(rest[:3]) - [[a[0], a[-1]] for a in (OFFSET.axis(i) for i in range(3))]
    expected, errors = (array.T for array in values(OFFSET))
    return (
        f"values {relative(signal, expected)}, σ² {relative(squares, errors.astype(float) ** 2)}, "
        f"axes {np.abs(ends).max():.1e} r.l.u."
    )


def temperatures(folder: Path) -> str:
    import nxs_analysis_tools

    export("temperatures", folder / "stack.nxs", folder / "quartz")
    series = nxs_analysis_tools.TempDependence(str(folder / "quartz"))
    series.load_datasets(print_tree=False)
    assert [float(kelvin) for kelvin in series.temperatures] == list(TEMPERATURES)
    series.cut_data(center=(0, 0, 0), window=(1.5, 0.2, 0.125), axis=0, normalize=True)
    found, expected, cuts, means = [], [], [], []
    for seed, kelvin in enumerate(series.temperatures):
        data = values(CENTRED, seed)[0]
        found.append(series.datasets[kelvin].nxsignal.nxdata.transpose(2, 1, 0))
        expected.append(data)
        cuts.append(series.linecuts[kelvin].nxsignal.nxdata)
        means.append(np.nanmean(data[15:18, 8:13].astype(float), axis=(0, 1)))
    return f"values {relative(found, expected)}, cuts by Scissors {relative(cuts, means)}"


def xtec(folder: Path) -> str:
    from nexusformat.nexus import nxload
    from xtec.Preprocessing import Mask_Zeros

    export("xtec", folder / "stack.nxs", folder / "x.nxs")
    data = nxload(str(folder / "x.nxs"))["entry/data"]
    stacked = np.nan_to_num([values(CENTRED, seed)[0] for seed in range(len(TEMPERATURES))])
    masked = Mask_Zeros(np.array(data.nxsignal.nxdata), "any_zeros")
    kept = masked.data_nonzero if hasattr(masked, "data_nonzero") else masked.data_non_zero
    expected = stacked[:, (stacked > 0).all(axis=0)]
    return (
        f"values {relative(data.nxsignal.nxdata, stacked)}, kept by Mask_Zeros "
        f"{relative(kept, expected)}"
    )


def cif_readers(folder: Path) -> str:
    import gemmi
    from iotbx import cif

    from hklflow.nexus.structure_factors import read_factors

    export("cif", folder / "sf.nxs", folder / "sf.cif")
    factors = read_factors(folder / "sf.nxs").factors
    block = gemmi.cif.read(str(folder / "sf.cif")).sole_block()
    by_gemmi = [float(x) for x in block.find_values("_refln_F_squared_meas")]
    arrays = cif.reader(file_path=str(folder / "sf.cif")).as_miller_arrays()
    (array,) = [a for a in arrays if a.is_xray_intensity_array()]
    assert list(array.indices()) == [tuple(hkl) for hkl in factors.hkl.tolist()]
    results = (relative(found, factors.mean.intensity) for found in (by_gemmi, array.data()))
    return "values {} (gemmi), {} (iotbx)".format(*results)


READERS: list[tuple[str, str, Read]] = [
    ("ccp4, S(Q)", "gemmi", lambda folder: gemmi_map(folder, False)),
    ("ccp4, ΔPDF", "gemmi", lambda folder: gemmi_map(folder, True)),
    ("ccp4, S(Q)", "mrcfile", mrc_map),
    ("cube", "ase", ase_cube),
    ("discus", "h5py", h5py_yell),
    ("npy", "numpy", numpy_files),
    ("vtk (.vts), S(Q)", "vtk", lambda folder: vtk_file(folder, False)),
    ("vtk (.vts), ΔPDF", "vtk", lambda folder: vtk_file(folder, True)),
    ("vtk (.vts), S(Q)", "pyvista", pyvista_contour),
    ("mantid", "rmc-discord", discord),
    ("temperatures", "nxs-analysis-tools", temperatures),
    ("xtec", "xtec", xtec),
    ("cif", "gemmi", cif_readers),
]


def write_products(folder: Path) -> None:
    """Write the products of `READERS`, and a sphere with a smooth edge."""
    write_volume(folder / "s.nxs", OFFSET)
    write_pdf(folder / "pdf.nxs", OFFSET)
    write_series(folder, TEMPERATURES)
    write_factors(folder / "sf.nxs", False)
    grid = Grid.within([[-0.2, 1.1], [0.2, 1.6], [1.3, 2.7]], [0.02] * 3)
    h, k, l = (grid.axis(i) for i in range(3))  # noqa: E741
    away = np.sqrt((h - 0.45) ** 2 + (k[:, None] - 0.9) ** 2 + (l[:, None, None] - 2.0) ** 2)
    data = 0.9 - away  # 0.5 at a radius of 0.4
    volume = nexus.Volume(grid, CELL, np.ones_like(data), np.ones_like(data), data, 0.1 + 0 * data)
    nexus.write_volume(folder / "smooth.nxs", volume, "sphere")
    export("vtk", folder / "smooth.nxs", folder / "smooth.vts")


def memory(folder: Path, n: int) -> None:
    """Print time and memory of the exports of a volume of n³ voxels."""
    grid = Grid.symmetric([(n - 1) // 2 * 0.05] * 3, 0.05)
    base = np.random.default_rng(0).random((PLANES, n, n)).astype(np.float32)
    ones = np.ones_like(base)
    with nexus.VolumeWriter(folder / "v.nxs", grid, CELL, "big", np.uint32, True) as writer:
        for first in range(0, n, PLANES):
            m = min(PLANES, n - first)
            arrays = {"norm": ones, "data": base + first, "data_errors": ones}
            counts = ones[:m].astype(np.uint32)
            writer.write(first, counts=counts, **{k: a[:m] for k, a in arrays.items()})
        writer.note({})
    for form, suffix in MEASURED:
        words = ["export", form, "v.nxs", f"x{suffix}"]
        begin = time.perf_counter()
        command = [sys.executable, "-c", _MEASURE, *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - begin
        peak = int(done.stderr.split()[-2]) / 1024
        print(f"| {form} | {seconds:.0f} s | {peak:.0f} MB |", flush=True)
        for path in folder.glob("x*"):
            path.unlink()


def main() -> None:
    """Print the table."""
    words = sys.argv[1:]
    if words[:1] == ["--memory"]:
        with tempfile.TemporaryDirectory() as name:
            memory(Path(name), int(words[1]))
        return
    if words[:1] == ["--peers"]:
        sys.path += words[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_products(folder)
        for form, reader, read in READERS:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    result = read(folder)
                program = f"{reader} {version(reader)}"
            except ImportError as error:
                program, result = reader, f"not installed ({error})"
            print(f"| {form} | {program} | {result} |", flush=True)


if __name__ == "__main__":
    main()
