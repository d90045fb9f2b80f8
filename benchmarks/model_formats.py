"""Round trips of every format of orientation models: orientation, cell and geometry.

    python -m benchmarks.model_formats [DIR]

Random models: tilted detectors, some with displaced modules, chains of one to four goniometer
axes, scans in either sense, cells from triclinic to tetragonal. For each format the largest
difference of 200: degrees of the orientation, relative change of the cell, of places of pixels on
the detector, and of Miller coordinates of pixels on frames, which hold everything. Where DIALS is
on PATH, its predictions for what we write are compared with ours.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation as Turn

from hklflow.formats.dials_expt import read_expt, write_expt
from hklflow.formats.dials_peaks import peaks_to_refl, refl_to_peaks
from hklflow.formats.dials_refl import read_refl, write_refl
from hklflow.formats.nxrefine import read_nxrefine, write_nxrefine
from hklflow.formats.xds import read_xparm, write_xparm
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice, prediction
from hklflow.geometry.model import Model, from_orientation, to_orientation
from hklflow.geometry.modules import Modules
from hklflow.peaks.table import PeakTable

N = 200
SHAPE = (180, 220)
CELLS = {
    "P -1": (5.1, 6.3, 7.9, 82.0, 97.0, 105.0),
    "P 63/m m c": (4.913, 4.913, 5.405, 90.0, 90.0, 120.0),
    "C 1 2/c 1": (8.1, 5.2, 9.7, 90.0, 113.0, 90.0),
    "I 4/m c m": (5.5, 5.5, 7.8, 90.0, 90.0, 90.0),
}
BOXES = [[0, 80, 0, 100], [0, 80, 110, 220], [100, 180, 0, 100], [100, 180, 110, 220]]


def make(seed: int, modules: bool, square: bool) -> Model:
    """A random model."""
    rng = np.random.default_rng(seed)
    axes = Turn.from_rotvec(rng.normal(scale=0.2, size=3)).as_matrix() @ np.diag([-1.0, -1, 1])
    size = (172e-6, 172e-6 if square else 100e-6)
    origin = np.array([*rng.normal(scale=0.01, size=2), 0.06])
    own = None
    if modules:
        shift, turns = rng.normal(size=(4, 2)), rng.normal(scale=0.01, size=4)
        own = Modules(np.array(BOXES), shift, turns, size[1] / size[0])
    detector = Detector(
        SHAPE, size, origin - 0.015 * axes[:, 1] - 0.01 * axes[:, 0], axes[:, 1], axes[:, 0],
        modules=own,
    )  # fmt: skip
    n = int(rng.integers(1, 5))
    names = ("omega", "kappa", "phi", "misorientation")[:n]
    chain = Goniometer(
        names, rng.normal(size=(n, 3)), rng.uniform(-1, 1, n), int(rng.integers(0, n))
    )
    step = float(rng.choice([-1, 1]) * rng.uniform(0.001, 0.05))
    group = list(CELLS)[seed % len(CELLS)]
    u = Turn.random(random_state=int(rng.integers(2**31))).as_matrix()
    beam = Beam(float(rng.uniform(0.2, 1.0)), 0.99)
    rotation = Rotation(beam, detector, chain, Scan(float(rng.uniform(-1, 1)), step, 60))
    return Model(rotation, u @ lattice.b_matrix(CELLS[group]), group, name="f1")


def points(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame, slow, fast on modules."""
    rng = np.random.default_rng(0)
    frame, slow, fast = rng.uniform([0, 0, 0], [60, *SHAPE], (300, 3)).T
    modules = model.rotation.detector.modules
    live = np.ones(300, bool) if modules is None else modules.module_at(slow, fast) >= 0
    return frame[live], slow[live], fast[live]


def differences(one: Model, other: Model) -> list[float]:
    """Degrees, relative cell, relative place, relative hkl."""
    frame, slow, fast = points(one)
    hkl = [m.rotation.hkl(m.ub, frame, slow, fast) for m in (one, other)]
    # Vectors of three far pixels frame the detector, wherever the laboratory lies about the beam.
    crystals = []
    for m in (one, other):
        places = m.rotation.detector.lab(slow[:40], fast[:40])
        u, _, vt = np.linalg.svd(places - places.mean(axis=0), full_matrices=False)
        signs = np.sign(u[0])
        frame_of = vt.T * signs
        frame_of[:, 2] = np.cross(frame_of[:, 0], frame_of[:, 1])
        at = m.rotation.goniometer.rotation(m.rotation.scan.angle(30.0))
        crystals.append(frame_of.T @ at @ m.crystal[0])
    turn = np.degrees(lattice.rotation_angle(*crystals))
    cell = np.abs(other.crystal[1] / one.crystal[1] - 1).max()
    lengths = [np.linalg.norm(m.rotation.detector.lab(slow, fast), axis=1) for m in (one, other)]
    place = np.abs(lengths[1] / lengths[0] - 1).max()
    return [turn, cell, place, np.abs(hkl[1] - hkl[0]).max() / np.abs(hkl[0]).max()]


def expt(path: Path, model: Model) -> Model:
    write_expt(path, [model])
    return read_expt(path)[0]


def xparm(path: Path, model: Model) -> Model:
    write_xparm(path, model)
    return read_xparm(path, n_frames=60)


def xparm_rounded(path: Path, model: Model) -> Model:
    write_xparm(path, model)
    lines = path.read_text().splitlines()
    rows = [
        " ".join(f"{float(w):.6f}" if "." in w else w for w in line.split()) for line in lines[1:]
    ]
    path.write_text("\n".join([lines[0], *rows]))
    return read_xparm(path, n_frames=60)


def nxrefine(path: Path, model: Model) -> Model:
    write_nxrefine(path, [model])
    return read_nxrefine(path)[0]


def orientation(path: Path, model: Model) -> Model:
    path.write_text(json.dumps(to_orientation([model])))
    return from_orientation(json.loads(path.read_text()))[0]


def peaks_off(path: Path, model: Model) -> float:
    """Largest difference of positions of peaks that went through a .refl file."""
    frame, slow, fast = points(model)
    order = np.argsort(frame)
    columns = {f.name: np.ones(len(frame)) for f in fields(PeakTable) if f.name != "counts"}
    columns |= {"frame": frame[order], "slow": slow[order], "fast": fast[order]}
    peaks = PeakTable(**columns, counts={})
    write_refl(path, peaks_to_refl(peaks, model.rotation, first_image=3))
    back, *_ = refl_to_peaks(read_refl(path), model.rotation, first_image=3)
    names = ("frame", "slow", "fast")
    return max(float(np.abs(getattr(back, n) - getattr(peaks, n)).max()) for n in names)


PREDICT = """
import json, sys
from dials.array_family import flex
from dials.algorithms.spot_prediction import ScanStaticReflectionPredictor
from dxtbx.model.experiment_list import ExperimentListFactory
found = []
for path in sys.argv[1:]:
    (e,) = ExperimentListFactory.from_json_file(path, check_format=False)
    table = ScanStaticReflectionPredictor(
        e, dmin=0.7 * e.beam.get_wavelength(), margin=0
    ).for_ub(e.crystal.get_A())
    rows = []
    for i in range(len(table)):
        panel = e.detector[table["panel"][i]]
        x, y = panel.millimeter_to_pixel(panel.get_ray_intersection(table["s1"][i]))
        f, s = panel.get_raw_image_offset()
        rows.append([*table["miller_index"][i], table["xyzcal.px"][i][2], y + s, x + f])
    found.append(rows)
json.dump(found, sys.stdout)
"""


def dials(folder: Path) -> None:
    """Compare predictions of DIALS for what we write with ours."""
    version = shutil.which("dials.version")
    if version is None:
        print("\nno DIALS on PATH: its predictions are not compared")
        return
    first = Path(version).read_bytes().splitlines()[0].decode()
    python = shutil.which("dials.python") or first.removeprefix("#!").split()[0]
    for modules in (False, True):
        models = [make(seed, modules, False) for seed in range(40)]
        paths = [folder / f"{i}.expt" for i in range(len(models))]
        for path, model in zip(paths, models, strict=True):
            write_expt(path, [model])
        done = subprocess.run([python, "-c", PREDICT, *paths], capture_output=True, check=True)
        off = []
        for model, rows in zip(models, json.loads(done.stdout), strict=True):
            off += compared(model, np.array(rows).reshape(-1, 6))
        worst, near = np.max(off), np.median(off)
        name = "displaced modules as panels" if modules else "one panel"
        print(
            f"DIALS predicts, {name}: {len(off)} reflections, median {near:.1e}, "
            f"largest {worst:.1e} pixels or frames"
        )


def compared(model: Model, rows: np.ndarray) -> list[float]:
    """Differences of predictions of reflections that do not graze the Ewald sphere."""
    found = prediction.predict(model.rotation, model.ub, rows[:, :3], margin=2)
    ours = np.stack([found.frame, found.slow, found.fast], axis=1)
    modules = model.rotation.detector.modules
    off = []
    for i, row in enumerate(rows):
        if modules is not None:
            near = [modules.module_at(row[4] + d, row[5] + e) for d in (-4, 4) for e in (-4, 4)]
            if min(near) < 0 or len(set(map(int, near))) > 1:
                continue  # at an edge, where it is the panel that differs
        mine = (found.index == i) & (found.zeta > 0.05)
        if mine.any():
            off.append(float(np.abs(ours[mine] - row[3:]).max(axis=1).min()))
    return off


def main(folder: Path) -> None:
    """Print the table."""
    formats: list[tuple[str, Callable[[Path, Model], Model], str, bool, bool]] = [
        (".expt, one panel", expt, "a.expt", False, False),
        (".expt, modules as panels", expt, "a.expt", True, False),
        ("XPARM.XDS", xparm, "XPARM.XDS", False, False),
        ("XPARM.XDS, segments", xparm, "XPARM.XDS", True, False),
        ("XPARM.XDS, 6 decimals", xparm_rounded, "XPARM.XDS", False, False),
        ("NXRefine", nxrefine, "a.nxs", False, True),
        ("orientation.json", orientation, "a.json", True, False),
    ]
    print(f"largest difference of {N} random models")
    print(f"{'format':26s} {'degrees':>9s} {'cell':>9s} {'place':>9s} {'hkl':>9s}")
    for name, trip, file, modules, square in formats:
        rows = []
        for seed in range(N):
            model = make(seed, modules, square)
            rows.append(differences(model, trip(folder / file, model)))
        print(f"{name:26s} " + " ".join(f"{x:9.1e}" for x in np.max(rows, axis=0)))
    off = [peaks_off(folder / "a.refl", make(s, s % 2 == 0, False)) for s in range(N)]
    print(f"peaks through .refl: {max(off):.1e} pixels or frames")
    dials(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
