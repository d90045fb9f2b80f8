"""Compile the kernels before jobs need them.

    python -m hklflow.warm

Numba compiles a kernel when it is first called and keeps it on disk: beside the module where
that can be written to, else in the user's cache; ``NUMBA_CACHE_DIR`` says where else. This
reduces a tiny rotation of each usual type of frame by the stages themselves, so that what they
use is there. Without it every job that starts at first compiles for itself.
"""

import io
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow import stage
from hklflow.core import geometry, lattice
from hklflow.core.grid import Grid
from hklflow.core.prediction import predict
from hklflow.formats.write_raw import NXmxWriter

#: Types of frames that detectors write.
DTYPES = ("uint32", "uint16", "int32")

_SHAPE, _N_FRAMES, _PIXEL = (96, 112), 48, 1e-3
_CELL = [8.0, 8.0, 8.0, 90.0, 90.0, 90.0]
_UB = np.eye(3) * 2 * np.pi / _CELL[0]


def warm(dtypes: tuple[str, ...] = DTYPES) -> None:
    """Run the stages that have kernels on a tiny rotation of each type, and on tiny ASICs."""
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            make_constants(Path(name) / "constants")
        print(f"detector constants: {time.perf_counter() - began:.0f} s", flush=True)
        began = time.perf_counter()
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            transform_volume(Path(name))
        print(f"symmetry, fill, pair distribution: {time.perf_counter() - began:.0f} s", flush=True)
        for dtype in dtypes:
            folder = Path(name) / dtype
            folder.mkdir()
            began = time.perf_counter()
            write_rotation(folder / "raw.nxs", np.dtype(dtype))
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                reduce_rotation(folder)
            print(f"frames of {dtype}: {time.perf_counter() - began:.0f} s", flush=True)


def write_rotation(path: Path, dtype: np.dtype[Any]) -> None:
    """Write a rotation with background, spots (two of which touch) and a gap."""
    rng = np.random.default_rng(1)
    frame, slow, fast = np.ogrid[:_N_FRAMES, : _SHAPE[0], : _SHAPE[1]]
    rate: NDArray[np.float64] = np.full((_N_FRAMES, *_SHAPE), 4.0)
    rotation = _geometry()
    hkl = lattice.indices_within(_CELL, geometry.q_max(rotation))
    seen = predict(rotation, _UB, hkl, margin=-4.0)
    spots = [(*at, 4000.0) for at in zip(seen.frame, seen.slow, seen.fast, strict=True)]
    spots += [(20.0, 30.0, 30.0, 9000.0), (20.5, 33.5, 30.0, 9000.0), (30.0, 60.0, 60.0, 200000.0)]
    for z, y, x, total in spots:
        r2 = (slow - y) ** 2 + (fast - x) ** 2
        rocking = np.exp(-((frame - z) ** 2) / 2)
        rate += total / 16 * rocking * np.exp(-r2 / 2)
        rate += total / 20000 * rocking * np.exp(-r2 / 72)
    counts = np.minimum(rng.poisson(rate), 30000).astype(dtype)
    gap = np.zeros(_SHAPE, np.uint32)
    gap[:, 70:74] = 1
    counts[:, gap != 0] = np.iinfo(dtype).max if dtype.kind == "u" else -1
    detector, goniometer = rotation.detector, rotation.goniometer
    with NXmxWriter(
        path,
        shape=_SHAPE,
        n_frames=_N_FRAMES,
        pixel_size=detector.pixel_size,
        origin=detector.origin,
        slow=detector.slow,
        fast=detector.fast,
        wavelength=rotation.beam.wavelength,
        axis_names=goniometer.names,
        axes=goniometer.axes,
        angles=goniometer.angles,
        start=rotation.scan.start,
        step=rotation.scan.step,
        exposure=0.1,
        polarization=rotation.beam.polarization,
        monitor=np.full(_N_FRAMES, 1e5),
        pixel_mask=gap,
        saturation=29000,
        dtype=dtype,
    ) as writer:
        writer.append(counts)


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


def reduce_rotation(folder: Path) -> None:
    """Run the stages from ``raw.nxs`` to a merged volume and integrated reflections."""
    from hklflow import nexus
    from hklflow.stages import (
        bin_frames,
        find_peaks,
        frame_scale,
        import_scan,
        integrate,
        mask_3d,
        merge,
        pixel_mask,
        transform,
    )

    def at(name: str) -> Path:
        return folder / name

    scan, mask, statistics = at("scan.nxs"), at("mask.nxs"), at("statistics.nxs")
    told = {"picture": at("picture.png"), "metrics": at("metrics.json")}
    masked = {"scan": scan, "mask": mask}
    _run(bin_frames, {"raw": [at("raw.nxs")]}, {"binned": at("binned.nxs")}, {"binning": 4})
    _run(import_scan, {"raw": [at("raw.nxs")]}, {"scan": scan}, {})
    _run(pixel_mask, {"scan": scan}, {"mask": mask, **told}, {})
    of_statistics = {
        "statistics": statistics,
        "statistics_picture": at("picture.png"),
        "statistics_metrics": at("metrics.json"),
    }
    _run(find_peaks, masked, {"peaks": at("peaks.nxs"), **told, **of_statistics}, {})
    inputs = {
        "scan": scan,
        "statistics": statistics,
        "reference_scan": scan,
        "reference": statistics,
    }
    _run(frame_scale, inputs, {"scale": at("scale.nxs"), **told}, {})
    frame_mask = at("frame_mask.nxs")
    _run(mask_3d, masked, {"frame_mask": frame_mask, "picture": at("picture.png")}, {})
    rotation = nexus.read_scan(scan).rotation
    orientation = {
        "sample": "warm",
        "scan": "warm",
        "rotations": {"one": geometry.to_dict(rotation)},
        "grid": Grid.symmetric((2.0, 2.0, 2.0), (0.1, 0.1, 0.1)).to_dict(),
        "UB": _UB,
        "cell": _CELL,
        "space_group": "P 2 2 2",
    }
    stage.write_json(at("orientation.json"), orientation)
    inputs = masked | {
        "scale": at("scale.nxs"),
        "frame_mask": frame_mask,
        "orientation": at("orientation.json"),
    }
    volumes = {"transform": at("all.nxs"), "masked_transform": at("clean.nxs")}
    _run(transform, inputs, volumes, {"rotation": "one"})
    outputs = {
        "volume": at("volume.nxs"),
        "slices": at("slices.png"),
        "coverage": at("coverage.png"),
        "metrics": at("metrics.json"),
    }
    _run(merge, {"volumes": [at("all.nxs"), at("all.nxs")]}, outputs, {})
    of_model = {"orientation": at("orientation.json"), "peaks": at("peaks.nxs")}
    inputs = masked | of_model | {"scale": at("scale.nxs")}
    _run(integrate, inputs, {"reflections": at("reflections.nxs"), **told}, {"rotation": "one"})
    outputs = {"frame_mask": frame_mask, "picture": at("picture.png")}
    _run(mask_3d, masked | of_model, outputs, {"rotation": "one", "model": True})


def transform_volume(folder: Path) -> None:
    """Run the stages from a merged volume to the pair distribution and a difference."""
    from hklflow import nexus
    from hklflow.stages import difference, fill, pdf, planes, symmetrise

    grid = Grid.symmetric((1.6, 1.6, 1.6), (0.1, 0.1, 0.1))
    cell = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])
    stage.write_json(folder / "orientation.json", {"space_group": "P m m m", "cell": cell})
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


def make_constants(folder: Path) -> None:
    """Run the stages from raw runs of a tiny ASIC to its gains, and correct frames with them."""
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
    warm()
