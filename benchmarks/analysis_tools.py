"""The steps after the merged volume next to those of nxs_analysis_tools: CPU time, and the ΔPDF.

    python -m benchmarks.analysis_tools PEERS [--side 201] [--rounds 3] [--temperatures 10]

PEERS is the `site-packages` of an environment with nxs_analysis_tools, looked at after the own
packages. The steps read and write files; those of the other program are its functions with the
arguments of its documentation. CPU seconds with reading and the start of Python, medians of
`rounds`, alternately. Then the ΔPDF of filled volumes at lattice vectors
(`tests/truth/hole_worlds.py`, short-range order, known S): rms of found − true over the rms of the
true ΔPDF. The other program punches the same voxels, and gets the best of several widths of its
kernel, chosen with the truth.
"""

# isort: off
import hklflow  # (first, see hklflow/base/native.py)
# isort: on

import argparse
import contextlib
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth import hole_judge, hole_worlds

from benchmarks import holes_truth, volume_steps

_ROOT = Path(__file__).parents[1]
STEPS = ("symmetrise", "punch and fill", "transform to ΔPDF", "line cuts")
LINE = ((0.5, 0.5, -2.0), (0.5, 0.5, 2.0))
WIDTHS = (0.6, 0.9, 1.3, 1.8, 2.5)  # standard deviations of the kernel, voxels
NORMS = (10.0, 100.0, 1000.0)
_KERNEL = 10  # voxels from its middle


# ---------------------------------------------------------------- time


def ours(step: str, folder: Path, out: Path) -> list[str]:
    """Return the words of the command of a step of hklflow."""
    name = {"symmetrise": "symmetrise", "punch and fill": "fill", "transform to ΔPDF": "pdf"}[step]
    words: list[Any] = ["--symmetrised", folder / "symm_a.nxs", "--filled", out / "filled.nxs"]
    words += ["--orientation", folder / "orientation.json", "--picture", out / "fill.png"]
    words += ["--metrics", out / "fill.json"]
    if name != "fill":
        words = list(volume_steps.words(name, folder, out))
    return ["-m", f"hklflow.stages.{name}", *map(str, words)]


def cuts(folder: Path, temperatures: int) -> None:
    """Cut lines with errors in this process; no line shape is fitted."""
    for _ in range(temperatures):
        hklflow.open(folder / "symm_a.nxs").line(*LINE, width=0.3)


def theirs(step: str, folder: Path, out: Path, temperatures: int) -> None:
    """Run a step of nxs_analysis_tools in this process."""
    from nexusformat.nexus import nxsave
    from nxs_analysis_tools import Scissors, load_transform
    from nxs_analysis_tools.fitting import LinecutModel
    from nxs_analysis_tools.pairdistribution import Symmetrizer

    cell = tuple(volume_steps.CELL)
    if step == "line cuts":
        for _ in range(temperatures):
            data = load_transform(str(folder / "symm_a.nxs"), print_tree=False)
            cutter = Scissors(data=data, center=(0.5, 0.5, 0.0), window=(0.25, 0.25, 2.0))
            line = cutter.cut_data(axis=2, normalize=True, empty_bins="nan")
            model = LinecutModel(data=line)
            with contextlib.suppress(Exception):  # the line is no peak: only the time counts
                model.fit_peak_simple()
        return
    name = {"symmetrise": "merged_a.nxs", "punch and fill": "symm_a.nxs"}
    data = load_transform(str(folder / name.get(step, "filled_a.nxs")), print_tree=False)
    data.nxsignal.nxdata = np.nan_to_num(data.nxsignal.nxdata)
    if step == "symmetrise":
        found = Symmetrizer(data, symmetry="tetragonal")
        found.set_lattice_params(cell)
        made = found.symmetrize(method="average")
    elif step == "punch and fill":
        made = punched_and_filled(data, cell, 1.3)
    else:
        made = transformed(data, cell)
    nxsave(str(out / "theirs.nxs"), made, mode="w")


def punched_and_filled(data: Any, cell: tuple[float, ...], width: float) -> Any:
    """Punch spheres of 0.15 r.l.u. at the integers and fill them with a kernel (voxels)."""
    from nxs_analysis_tools.pairdistribution import DeltaPDF, Gaussian3DKernel

    found = DeltaPDF()
    found.set_data(data)
    found.set_lattice_params(cell)
    found.add_mask(found.generate_bragg_mask(0.15))
    found.punch()
    found.set_kernel(Gaussian3DKernel(width, (_KERNEL,) * 3))
    found.interpolate(verbose=False)
    return found.interpolated


def transformed(data: Any, cell: tuple[float, ...]) -> Any:
    """Taper and transform."""
    from nxs_analysis_tools.pairdistribution import DeltaPDF

    found = DeltaPDF()
    found.set_data(data)
    found.set_lattice_params(cell)
    found.interpolator.set_data(data)
    found.set_ellipsoidal_tukey_window(0.5)
    found.apply_window()
    found.pad((1, 1, 1))
    found.perform_fft(verbose=False)
    return found.fft


def spent(side: str, step: str, folder: Path, out: Path, given: argparse.Namespace) -> float:
    """Return the CPU seconds of a step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.analysis_tools", str(given.peers)]
    command += ["--inside", side, step, str(folder), str(out)]
    command += ["--temperatures", str(given.temperatures)]
    if side == "ours" and step != "line cuts":
        command = [sys.executable, *ours(step, folder, out)]
    paths = os.pathsep.join([str(_ROOT / "src"), str(_ROOT)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{side}: {step} failed:\n{done.stdout[-500:]}{done.stderr[-2000:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def times(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder, out = Path(made) / "in", Path(made) / "out"
        volume_steps.make(folder, given.side, "P m -3 m")
        out.mkdir()
        print(f"CPU s at {given.side}³, medians of {given.rounds}; nxs_analysis_tools, hklflow")
        for step in STEPS:
            rounds = [
                [spent(side, step, folder, out, given) for side in ("theirs", "ours")]
                for _ in range(given.rounds)
            ]
            found = [statistics.median(column) for column in zip(*rounds, strict=True)]
            print(f"{step:20s} {found[0]:6.1f} {found[1]:6.1f}", flush=True)


# ---------------------------------------------------------------- truth


def kernel_fill(width: float) -> hole_judge.Candidate:
    """Return the fill of nxs_analysis_tools with a kernel of a width (voxels) as a candidate."""
    from nexusformat.nexus import NXdata, NXfield
    from nxs_analysis_tools.pairdistribution import Gaussian3DKernel, Interpolator

    def filled(values: Any, sigma: Any, punched: Any, world: hole_worlds.World) -> tuple[Any, Any]:
        inside = punched != hole_worlds.PUNCHED
        data = np.where(inside, values, np.nan).T
        axes = [NXfield(world.grid.axis(i), name="HKL"[i]) for i in range(3)]
        found = Interpolator()
        found.set_data(NXdata(NXfield(data, name="data"), axes))
        found.set_kernel(Gaussian3DKernel(width, (_KERNEL,) * 3))
        found.interpolate(verbose=False)
        smooth = found.interpolated.nxsignal.nxdata.T
        # What was measured is kept, as one would: the program itself replaces all voxels.
        return np.where(inside, np.nan_to_num(values), smooth), np.nan_to_num(sigma, nan=1.0)

    return filled


def rms(candidate: hole_judge.Candidate, judge: hole_judge.Judge, norm: float) -> float:
    """Return the rms error in % of the rms of the truth."""
    residuals, _ = hole_judge.pulls(candidate, judge, norm, 2, seed=40)
    return 100 * float(np.sqrt(np.mean(residuals**2) / np.mean(judge.truth**2)))


def truth() -> None:
    print("short-range order, 41³ voxels of 0.1 r.l.u., all punched: rms of found − true at 82")
    print(
        "lattice vectors, % of the rms of the truth: kernel, as it is; best width; hklflow; noise"
    )
    for cell in ("cubic", "hexagonal", "monoclinic", "triclinic"):
        world = hole_worlds.make_world("short-range order", cell, 41, 0.1, False)
        judge = hole_judge.Judge(world, hole_judge.lattice_vectors(world, 82))
        for norm in NORMS:
            kernels = [rms(kernel_fill(width), judge, norm) for width in WIDTHS]
            own = rms(holes_truth.todays_fill, judge, norm)
            least = rms(hole_judge.without_holes(norm, 7), judge, norm)
            best = WIDTHS[int(np.argmin(kernels))]
            print(
                f"{cell:11s} {norm:5.0f} {kernels[2]:7.1f} {min(kernels):7.1f} ({best} voxels) "
                f"{own:7.1f} {least:7.1f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", type=Path)
    parser.add_argument("--side", type=int, default=201)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--temperatures", type=int, default=10)
    parser.add_argument("--inside", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.append(str(given.peers))
    warnings.simplefilter("ignore")
    if given.inside:
        side, step, folder, out = given.inside
        with contextlib.redirect_stdout(io.StringIO()):
            if side == "ours":
                cuts(Path(folder), given.temperatures)
            else:
                theirs(step, Path(folder), Path(out), given.temperatures)
        return
    times(given)
    with contextlib.redirect_stderr(io.StringIO()):
        truth()


if __name__ == "__main__":
    main()
