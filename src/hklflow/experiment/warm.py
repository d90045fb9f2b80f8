"""Compile the kernels in parallel before jobs need them.

    python -m hklflow.experiment.warm                # kernels for scans of photon counters
    python -m hklflow.experiment.warm constants      # also kernels for integrating detectors

Numba compiles a kernel at its first call and stores it on disk. The folder is that of the module if
it is writable, else the user's cache or ``NUMBA_CACHE_DIR``. This program runs the stages on a tiny
rotation with each usual type of frame, which compiles all kernels of these stages. Without it, each
of the first jobs would compile the kernels again. The stages of integrating detectors start the
compilation themselves (`hklflow.stage.kernels.ensure`).
"""

import io
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow import geometry, stage
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter, geometry_facts
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.geometry.prediction import Prediction, predict
from hklflow.orientation.product import Orientation
from hklflow.peaks.table import PeakTable
from hklflow.stage import kernels

#: Frame types of photon counters. The first type compiles the kernels that all types share.
DTYPES = ("uint32", "uint16", "int32")

_SHAPE, _N_FRAMES, _PIXEL = (96, 112), 48, 1e-3
_COUNTS = 4000.0  # counts of one spot
_CELL = [8.0, 8.0, 8.0, 90.0, 90.0, 90.0]
_UB = np.eye(3) * 2 * np.pi / _CELL[0]


class Task(NamedTuple):
    """Function that compiles kernels, its folder, and the tasks that must end before it."""

    step: Callable[[Path], None]
    folder: str
    after: tuple[str, ...] = ()


def tasks(groups: tuple[str, ...]) -> dict[str, Task]:
    """Return the tasks of all kernels of the groups by name, long tasks first where possible.

    Raises
    ------
    ValueError
        If there is no such group.
    """
    found: dict[str, Task] = {}
    for group in groups:
        if group == "constants":
            found["detector constants"] = Task(make_constants, "constants")
            found |= _tasks_of_frames("float32", "float32")
        elif group == "frames":
            for dtype in DTYPES:
                found |= _tasks_of_frames(dtype, DTYPES[0])
            found["symmetry, fill, pair distribution"] = Task(transform_volume, "volume")
            found["simulation"] = Task(simulate_rotation, "simulated")
        else:
            raise ValueError(f"no kernels are called {group!r}; there are frames and constants")
    return found


def _tasks_of_frames(dtype: str, first: str) -> dict[str, Task]:
    """Return the tasks of a frame type; the tasks of the first type run before them.

    The first type compiles most kernels; the other types share them.
    """
    raw, peaks, binned, integrated = (
        f"{dtype}: {what}" for what in ("raw frames", "peaks", "volumes", "integration")
    )
    steps = {peaks: make_peaks, binned: make_volume, integrated: make_reflections}
    after = {
        name: (raw,) if dtype == first else (raw, name.replace(dtype, first)) for name in steps
    }
    found = {raw: Task(partial(make_masked, dtype=dtype), dtype)}
    return found | {name: Task(step, dtype, after[name]) for name, step in steps.items()}


def warm(*groups: str, jobs: int | None = None) -> None:
    """Run the tasks of the groups (default: ``frames``) in parallel.

    Parameters
    ----------
    jobs : int, optional
        Number of processes; default: the number of cores.

    Raises
    ------
    ValueError
        If there is no such group.
    """
    groups = groups or ("frames",)
    left = tasks(groups)
    running: dict[Future[float], str] = {}
    with tempfile.TemporaryDirectory() as name:
        for task in left.values():
            (Path(name) / task.folder).mkdir(exist_ok=True)
        # One process for each task, because Numba compiles only one kernel at a time in a process.
        context = multiprocessing.get_context("spawn")
        cores = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(jobs or cores, mp_context=context) as pool:
            while left or running:
                busy = {*left, *running.values()}
                for what in [w for w, task in left.items() if not busy.intersection(task.after)]:
                    task = left.pop(what)
                    running[pool.submit(_timed, task.step, Path(name) / task.folder)] = what
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    print(f"{running.pop(done)}: {done.result():.0f} s", flush=True)
    for group in groups:
        if (done_before := kernels.marker(group)) is not None:
            done_before.touch()


def _timed(step: Callable[[Path], None], folder: Path) -> float:
    began = time.perf_counter()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        step(folder)
    return time.perf_counter() - began


def write_rotation(path: Path, dtype: np.dtype[Any]) -> None:
    """Write a rotation with background, a gap between modules, and spots; two spots overlap."""
    rng = np.random.default_rng(1)
    frame, slow, fast = np.ogrid[:_N_FRAMES, : _SHAPE[0], : _SHAPE[1]]
    rate: NDArray[np.float64] = np.full((_N_FRAMES, *_SHAPE), 4.0)
    rotation = _geometry()
    seen = _predicted(rotation)
    spots = [(*at, _COUNTS) for at in zip(seen.frame, seen.slow, seen.fast, strict=True)]
    spots += [(20.0, 30.0, 30.0, 9000.0), (20.5, 33.5, 30.0, 9000.0), (30.0, 60.0, 60.0, 200000.0)]
    for z, y, x, total in spots:
        r2 = (slow - y) ** 2 + (fast - x) ** 2
        rocking = np.exp(-((frame - z) ** 2) / 2)
        rate += total / 16 * rocking * np.exp(-r2 / 2)
        rate += total / 20000 * rocking * np.exp(-r2 / 72)
    counts = np.minimum(rng.poisson(rate), 30000).astype(dtype)
    gap = np.zeros(_SHAPE, np.uint32)
    gap[:, 70:74] = 1
    unknown = {"i": -1, "f": np.nan}
    counts[:, gap != 0] = unknown[dtype.kind] if dtype.kind in unknown else np.iinfo(dtype).max
    header = NXmxHeader(
        **geometry_facts(rotation.detector, rotation.goniometer),
        shape=_SHAPE,
        n_frames=_N_FRAMES,
        wavelength=rotation.beam.wavelength,
        start=rotation.scan.start,
        step=rotation.scan.step,
        exposure=0.1,
        polarization=rotation.beam.polarization,
        monitor=np.full(_N_FRAMES, 1e5),
        pixel_mask=gap,
        saturation=29000,
        dtype=dtype,
    )
    with NXmxWriter(path, header) as writer:
        writer.append(counts)


def _predicted(rotation: geometry.Rotation) -> Prediction:
    hkl = lattice.indices_within(_CELL, geometry.q_max(rotation))
    return predict(rotation, _UB, hkl, margin=-4.0)


def _predicted_peaks() -> PeakTable:
    """Return the peaks that the peak search would find in the tiny rotation."""
    seen = _predicted(_geometry())
    n = len(seen.frame)
    one, counts = np.ones(n), np.full(n, _COUNTS)
    at: dict[str, Any] = {"frame": seen.frame, "slow": seen.slow, "fast": seen.fast}
    at |= {f"var_{axis}": 0.01 * one for axis in ("frame", "slow", "fast")}
    at |= {f"width_{axis}": one for axis in ("frame", "slow", "fast")}
    return PeakTable(
        **at,
        intensity=counts,
        var_intensity=counts,
        background=4 * one,
        n_pixels=np.full(n, 50),
        n_frames=np.full(n, 4),
        maximum=0.06 * counts,
        significance=np.sqrt(counts),
        chi2=one,
        flags=np.zeros(n, np.int64),
        counts={},
    )


def _geometry() -> geometry.Rotation:
    size = (_SHAPE[0] * _PIXEL / 2, _SHAPE[1] * _PIXEL / 2)
    origin = np.array([size[1], -size[0], 0.2])
    slow, fast = np.array([0.0, 1.0, 0.0]), np.array([-1.0, 0.0, 0.0])
    return geometry.Rotation(
        geometry.Beam(0.4, 0.99),
        geometry.Detector(_SHAPE, (_PIXEL, _PIXEL), origin, slow, fast),
        geometry.Goniometer.single([1.0, 0.0, 0.0]),
        geometry.Scan(0.0, float(np.radians(0.5)), _N_FRAMES),
    )


def _of(folder: Path, *names: str) -> dict[str, Path]:
    """Return the files of a rotation by the names of stage inputs or outputs."""
    return {name: folder / f"{name}.nxs" for name in names}


def _told(folder: Path) -> dict[str, Path]:
    return {"picture": folder / "picture.png", "metrics": folder / "metrics.json"}


def make_masked(folder: Path, dtype: str) -> None:
    """Write raw frames, and run the stages up to the pixel mask."""
    from hklflow import nexus
    from hklflow.images.frame_scale import FrameScale, Transmission
    from hklflow.images.surroundings import Part, Rings
    from hklflow.stages import bin_frames, import_scan, pixel_mask

    raw = folder / "raw.nxs"
    write_rotation(raw, np.dtype(dtype))
    _run(bin_frames, {"raw": [raw]}, _of(folder, "binned"), {"binning": 4})
    _run(import_scan, {"raw": [raw]}, _of(folder, "scan"), {})
    mask = folder / "begin"
    mask.mkdir()
    _run(pixel_mask, _of(folder, "scan"), _of(folder, "mask") | _told(mask), {})
    # The peak search takes longest. Known results are written here, so that later stages need not
    # wait.
    known = folder / "known"
    known.mkdir()
    nexus.write_peaks(known / "peaks.nxs", _predicted_peaks())
    ones = np.ones(_N_FRAMES)
    transmission = Transmission(ones, 0 * ones, ones, np.zeros(_N_FRAMES, np.uint8), 1.0)
    scale = FrameScale(ones, ones, ones, transmission, 1.0, 1.0, "none")
    nexus.write_scale(folder / "scale.nxs", scale, np.arange(_N_FRAMES))
    part = Part("air", np.ones(_SHAPE), np.ones(_SHAPE), ones, 0.0)
    nexus.write_background(folder / "background.nxs", [part], Rings(*np.ones((7, 1))), None)
    rotation = nexus.read_scan(folder / "scan.nxs").rotation
    grid = Grid.symmetric((2.0, 2.0, 2.0), (0.1, 0.1, 0.1))
    _write_orientation(folder, {"one": rotation}, _UB, "P 2 2 2", grid)


def _write_orientation(folder: Path, *known: Any) -> None:
    """Write the orientation of a known crystal, see `Orientation.known`."""
    orientation = Orientation.known("warm", *known)
    stage.write_json(folder / "orientation.json", orientation.to_dict())


def make_peaks(folder: Path) -> None:
    """Run the stages that find peaks and scale frames."""
    from hklflow.stages import find_peaks, frame_scale

    place = folder / "peaks"
    place.mkdir()
    of_statistics = {f"statistics_{name}": path for name, path in _told(place).items()}
    outputs = _of(folder, "peaks", "statistics") | _told(place) | of_statistics
    _run(find_peaks, _of(folder, "scan", "mask"), outputs, {})
    inputs = _of(folder, "scan", "statistics")
    inputs |= {"reference_scan": inputs["scan"], "reference": inputs["statistics"]}
    _run(frame_scale, inputs, _of(place, "scale") | _told(place), {})


def make_volume(folder: Path) -> None:
    """Run the stages from the 3-D mask to the merged volume."""
    from hklflow.stages import mask_3d, merge, transform

    place = folder / "volume"
    place.mkdir()
    masked = _of(folder, "scan", "mask")
    outputs = _of(folder, "frame_mask") | {"picture": place / "picture.png"}
    _run(mask_3d, masked, outputs, {})
    inputs = masked | _of(folder, "scale", "frame_mask")
    inputs |= {"orientation": folder / "orientation.json"}
    volumes = _of(place, "transform", "masked_transform")
    around = _of(folder, "background")
    for more, files in ((around, _of(folder, "transform", "masked_transform")), ({}, volumes)):
        _run(transform, inputs | more, files, {"rotation": "one"})
    outputs = _of(place, "volume") | {"metrics": place / "metrics.json"}
    outputs |= {name: place / f"{name}.png" for name in ("slices", "coverage")}
    _run(merge, {"volumes": [volumes["transform"]] * 2}, outputs, {})


def make_reflections(folder: Path) -> None:
    """Run the stages that use the crystal model: integration, and the mask from the model."""
    from hklflow.stages import integrate, mask_3d

    place = folder / "bragg"
    place.mkdir()
    inputs = _of(folder, "scan", "mask") | _of(folder / "known", "peaks")
    inputs |= {"orientation": folder / "orientation.json"}
    outputs = _of(place, "reflections") | _told(place)
    _run(integrate, inputs | _of(folder, "scale"), outputs, {"rotation": "one"})
    outputs = _of(place, "frame_mask") | {"picture": place / "picture.png"}
    _run(mask_3d, inputs, outputs, {"rotation": "one", "model": True})


def transform_volume(folder: Path) -> None:
    """Run the stages from a merged volume to the pair distribution function and a difference."""
    from hklflow import nexus
    from hklflow.stages import difference, fill, pdf, planes, stack_pdf, symmetrise

    grid = Grid.symmetric((1.6, 1.6, 1.6), (0.1, 0.1, 0.1))
    cell = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])
    _write_orientation(folder, {}, np.eye(3) * 2 * np.pi / cell[0], "P m m m", grid)
    rng = np.random.default_rng(1)
    told = {"picture": folder / "picture.png", "metrics": folder / "metrics.json"}
    of_scan = {"orientation": folder / "orientation.json"}
    for name in ("one", "two"):
        counts = rng.poisson(9.0, grid.array_shape).astype(np.float64)
        norm = np.ones(grid.array_shape)
        nexus.write_volume(folder / "merged.nxs", nexus.Volume(grid, cell, counts, norm), name)
        symm, filled, made = (folder / f"{what}_{name}.nxs" for what in ("symm", "filled", "pdf"))
        inputs = {"volumes": [folder / "merged.nxs"], **of_scan}
        _run(symmetrise, inputs, {"symmetrised": symm, **told}, {})
        inputs = {"symmetrised": symm, **of_scan}
        _run(fill, inputs, {"filled": filled, **told}, {"radius": 0.2})
        _run(pdf, {"filled": filled, "symmetrised": symm}, {"pdf": made, **told}, {})
        _run(planes, {"volume": made}, {"picture": folder / "picture.png"}, {})
    inputs = {"symmetrised": symm, "reference": folder / "symm_one.nxs"}
    inputs |= {"delta_pdf": made, "reference_pdf": folder / "pdf_one.nxs"}
    outputs = {"difference": folder / "d.nxs", "pdf_difference": folder / "p.nxs", **told}
    _run(difference, inputs, outputs, {})
    scans = {"scans": ["one", "two"], "temperatures": [100, 200]}
    series = folder / "series.tsv"
    rows = ["scan\tscale\tscale_sigma\tdebye_waller", "one\t1\t0\t0", "two\t1\t0\t0"]
    series.write_text("\n".join(rows) + "\n")
    names = ("stack", "table", "picture", "changes", "changes_picture", "results")
    outputs = {name: folder / f"stack_{name}.png" for name in names}
    inputs = {"volumes": [folder / "pdf_one.nxs", made], "series": series}
    _run(stack_pdf, inputs, outputs, scans | {"parent": "two"})


def simulate_rotation(folder: Path) -> None:
    """Run the stage that simulates the raw frames of the demo."""
    from hklflow.stages import simulate

    rod = {"amplitude": 1.0, "vectors": [[1, 0, 0]], "width": 0.1, "centre": [0.5, 0, 0]}
    description = {
        "detector": {
            "module_shape": (24, 28),
            "pixel_size": (4e-3, 4e-3),
            "distance": 0.1,
            "foot": (12, 14),
            "halo_fraction": 0.02,
        },
        "wavelength": 0.4,
        "axes": {"phi": (1, 0, 0)},
        "scan_axis": "phi",
        "step": 5.0,
        "n_frames": 2,
        "crystal": {"cell": _CELL, "scale": 1.0, "mosaic": 0.01},
        "diffuse": {
            "flat": 0.1,
            "cosines": [{"amplitude": 0.1, "vector": [1, 0, 0]}],
            "ridges": [rod],
        },
        "background": {"air": 1.0},
    }
    told = {"description": json.dumps(description)}
    _run(simulate, {}, {"raw": folder / "simulated.nxs"}, told)


def make_constants(folder: Path) -> None:
    """Make constants from raw runs of a tiny ASIC, and correct frames with these constants."""
    from hklflow.constants.detectors import integrating
    from hklflow.constants.simulate import agipd
    from hklflow.constants.simulate_photons import Foil
    from hklflow.constants.simulate_runs import Campaign, write_campaign
    from hklflow.stages import (
        combine_constants,
        constants_preprocess,
        correct_frames,
        gather,
        join_constants,
        join_module,
        mask_constants,
        process_current_source,
        process_dark,
        process_pulse_capacitor,
        process_xray,
    )

    size, ramp = (8, 8), [(100, 1.0), (100, 60.0)]
    rng = np.random.default_rng(1)
    detector = integrating("agipd", size, size)
    campaign = Campaign(
        xrays=2000, foil=Foil(17.444), pulses=[(200, 1.0)], currents=ramp, rates={"1": 10.0}
    )
    runs = write_campaign(folder, "lab", detector, {0: agipd(rng, 1, size)}, campaign, rng)
    currents = runs.pop("current_source")
    measured = {name: [run] if isinstance(run, str) else run for name, run in runs.items()}
    divided: dict[str, Any] = {"layout": "lab", "detector": "agipd"}
    divided |= {"module_size": size, "asic_size": size}

    def at(name: str) -> Path:
        return folder / f"{name}.nxs"

    for name, (run,) in (measured | {"current_source_1": currents["1"]}).items():
        raw, facts = sorted(Path(run).glob("*.h5")), folder / f"{name}.json"
        told: dict[str, Any] = {"run": name, "modules": (0,), **divided}
        _run(constants_preprocess, {"raw": raw}, {"facts": facts}, told)
        gathered = [folder / f"{name}.h5"]
        told = {"measure": name, "module": 0, **divided}
        _run(gather, {"facts": [facts], "sanity": []}, {"gathered": gathered}, told)
    darks = {stage: folder / f"dark_{stage}.h5" for stage in ("high", "medium", "low")}
    _run(process_dark, darks, {"constants": at("dark")}, {})
    for module, name, params in (
        (process_xray, "xray", {"energy": 17.444}),
        (process_pulse_capacitor, "pulse_capacitor", {}),
        (process_current_source, "current_source_1", {"ramp": ramp}),
    ):
        inputs = {"gathered": folder / f"{name}.h5", "dark": at("dark")}
        _run(module, inputs, {"constants": at(name)}, params)
    inputs = {name: at(name) for name in ("dark", "xray", "pulse_capacitor")}
    _run(combine_constants, inputs, {"constants": at("combined")}, {"module_size": size})
    masked = {"constants": at("masked")}
    _run(mask_constants, {"combined": at("combined")}, masked, {"module_size": size})
    told = {"detector": "agipd", "module": 0, "numbers": (0,)}
    told |= {"module_size": size, "asic_size": size}
    _run(join_module, {"asics": [at("masked")]}, {"constants": at("module")}, told)
    whole = {"constants": at("constants")}
    _run(join_constants, {"modules": [at("module")]}, whole, {"numbers": (0,)})
    raw = sorted(Path(runs["dark_high"]).glob("*.h5"))
    outputs = {"frames": at("frames"), "picture": folder / "picture.png"}
    _run(
        correct_frames,
        {"raw": raw, **whole},
        {**outputs, "metrics": folder / "metrics.json"},
        {"energy": 9.3, "layout": "lab", "asic_size": size},
    )


def _run(
    module: ModuleType, inputs: dict[str, Any], outputs: dict[str, Any], params: dict[str, Any]
) -> None:
    module.main(
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=1,
    )


if __name__ == "__main__":
    warm(*sys.argv[1:])
