"""Worlds of a quantitative S(Q) as an instrument leaves them: NXmx files, tables, a CIF.

`write(world, folder)` makes raw/<sample>_<scan>_r<n>.nxs of the rotations, raw/<sample>_empty.nxs
of the empty run, config/samples.tsv, scans.tsv and config.yaml, <sample>.cif, and truth.json.
"""

import json
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from tests.truth.frames_write import SAMPLES, SCANS, axis, group, measured, table
from tests.truth.quantitative import MASKED, World
from tests.truth.quantitative_absorption import Array

SATURATION = 2**24 - 1


def write(world: World, folder: Path, *, scan: str = "300K") -> list[Path]:
    """Write an experiment and return its raw files; the empty run, if there is one, is the last."""
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "config").mkdir(exist_ok=True)
    sample = world.name.replace(" ", "-")
    rows, paths = [SCANS], []
    for r in range(len(world.scans)):
        path = folder / "raw" / f"{sample}_{scan}_r{r + 1}.nxs"
        _write_run(world, r, path, sample)
        rows.append((sample, scan, "300", scan, f"r{r + 1}", str(path.relative_to(folder))))
        paths.append(path)
    if world.surroundings.empty:
        paths.append(folder / "raw" / f"{sample}_empty.nxs")
        _write_run(world, None, paths[-1], sample)
    symbol = world.crystal.space_group.partition(":")[0]
    cell = [f"{x:g}" for x in world.crystal.cell]
    table([SAMPLES, (sample, symbol, *cell)], folder / "config" / "samples.tsv")
    table(rows, folder / "config" / "scans.tsv")
    text = "samples: config/samples.tsv\nscans: config/scans.tsv\n"
    text += "" if world.monitor else "import_scan: {monitor: none}\n"
    (folder / "config" / "config.yaml").write_text(text)
    (folder / f"{sample}.cif").write_text(world.crystal.cif(sample))
    (folder / "truth.json").write_text(json.dumps(facts(world), indent=1) + "\n")
    return paths


def facts(world: World) -> dict[str, object]:
    """Return what a user may be told of the sample: material, shape, beam; lengths in mm."""
    body, c, tube = world.absorber.body, world.crystal, world.absorber.tube
    return {
        "name": world.name,
        "seed": world.seed,
        "space_group": c.space_group,
        "cell": list(c.cell),
        "formula": c.formula,
        "atoms_in_cell": c.contents,
        "density_g_cm3": c.density,
        "wavelength_A": c.wavelength,
        "mu_per_mm": c.mu,
        "shape": body.name,
        "shape_sizes": list(body.size),
        "shape_planes": body.planes.tolist(),
        "shape_quadrics": body.quadrics.tolist(),
        "beam_fwhm": world.absorber.beam.fwhm,
        "capillary": None if tube is None else [tube.inner, tube.outer, tube.mu],
        "friedel_mates_equal": bool((world.crystal.group == -np.eye(3)).all((1, 2)).any()),
        "U": world.U.tolist(),
        "counts_per_electron_unit": world.scale,
        "contrast": c.contrast,
    }


def _write_run(world: World, r: int | None, path: Path, sample: str) -> None:
    """Write one rotation as NXmx, or the empty run (r is None)."""
    run = world.surroundings.empty
    if r is None:
        assert run
        n, exposure = run.n_frames, world.exposure * run.exposure
        frames = (world.empty_frame(z) for z in range(n))
        attenuator = np.full(n, run.attenuator)
        rate = _monitor_rate(world)
        monitor = None if rate is None else np.full(n, np.round(rate * run.beam * run.exposure))
    else:
        n, exposure = world.scans[r].n_frames, world.exposure
        frames, attenuator = world.frames(r), world.attenuator[r]
        monitor = world.monitor[r] if world.monitor else None
    with h5py.File(path, "w") as file:
        entry = group(file, "entry", "NXentry")
        file.attrs["default"] = "entry"
        entry["definition"] = "NXmx"
        entry["definition"].attrs["version"] = "1.0"
        entry["start_time"] = "2024-01-01T00:00:00Z"
        data = group(entry, "data", "NXdata")
        data.attrs["signal"] = "data"
        filters = dict(hdf5plugin.Bitshuffle())
        chunks = (1, *world.shape)
        stack = data.create_dataset("data", (n, *world.shape), "u4", chunks=chunks, **filters)
        for z, frame in enumerate(frames):
            stack[z] = np.where(frame == MASKED, MASKED, np.minimum(frame, SATURATION))
        _sample(world, r, group(entry, "sample", "NXsample"), sample, n)
        instrument = group(entry, "instrument", "NXinstrument")
        instrument["name"] = "simulated"
        beam = group(instrument, "beam", "NXbeam")
        measured(beam, "incident_wavelength", world.crystal.wavelength, "angstrom")
        stokes = [1.0, 2 * world.optics.polarization - 1, 0.0, 0.0]
        beam["incident_polarization_stokes"] = stokes
        filters_group = group(instrument, "attenuator", "NXattenuator")
        filters_group["attenuator_transmission"] = attenuator
        _detector(world, group(instrument, "detector", "NXdetector"), exposure)
        if monitor is not None:
            counter = group(entry, "monitor", "NXmonitor")
            counter["mode"] = "monitor"
            measured(counter, "data", np.round(monitor), "counts")


def _monitor_rate(world: World) -> float | None:
    """Return the monitor's counts in a frame for a beam of 1."""
    if world.monitor is None:
        return None
    return float(np.mean([np.mean(m / b) for m, b in zip(world.monitor, world.beam, strict=True)]))


def _sample(world: World, r: int | None, sample: h5py.Group, name: str, n: int) -> None:
    """Write the goniometer: omega turns all, chi below it is the setting of the rotation."""
    scan = world.scans[r or 0]
    sample["name"] = name if r is not None else "empty"
    measured(sample, "temperature", 300.0, "K")
    chain = group(sample, "transformations", "NXtransformations")
    base = sample.name + "/transformations/"
    step = scan.step if r is not None else 0.0
    angles = scan.start + step * np.arange(n)
    axis(chain, "omega", angles, ("rotation", "deg"), scan.axis)
    measured(chain, "omega_end", angles + step, "deg")
    measured(chain, "omega_increment_set", np.full(n, step), "deg")
    across = np.cross(scan.axis, [0, 0, 1.0])
    axis(chain, "chi", chi_of(scan.setting, across), ("rotation", "deg"), across, base + "omega")
    sample["depends_on"] = base + "chi"
    data = sample.parent["data"]
    data["omega"] = chain["omega"]
    data.attrs["axes"] = ["omega", ".", "."]
    data.attrs["omega_indices"] = 0


def chi_of(setting: Array, across: Array) -> float:
    """Return the angle (degrees) of a setting about the axis of chi."""
    sine = np.array([setting[2, 1] - setting[1, 2], setting[0, 2] - setting[2, 0],
                     setting[1, 0] - setting[0, 1]]) / 2  # fmt: skip
    return float(np.degrees(np.arctan2(sine @ across, (np.trace(setting) - 1) / 2)))


def _detector(world: World, detector: h5py.Group, exposure: float) -> None:
    inst = world.optics.instrument
    normal = np.cross(inst.fast, inst.slow)
    slow, fast, _ = inst.pixel(np.zeros(3), np.array([[0.0, 0, 1]]))
    detector["description"] = "simulated photon counter"
    detector["type"] = "Pixel"
    detector["depends_on"] = "."
    measured(detector, "distance", float(abs(inst.origin @ normal)), "m")
    measured(detector, "beam_center_x", float(fast[0]), "pixel")
    measured(detector, "beam_center_y", float(slow[0]), "pixel")
    measured(detector, "x_pixel_size", inst.pixel_size, "m")
    measured(detector, "y_pixel_size", inst.pixel_size, "m")
    measured(detector, "count_time", exposure, "s")
    measured(detector, "frame_time", exposure, "s")
    detector["saturation_value"] = SATURATION
    detector["underload_value"] = 0
    detector["bit_depth_image"] = 32
    detector["pixel_mask"] = world.blind.astype("u4")
    detector["sensor_material"] = "Si"
    measured(detector, "sensor_thickness", world.optics.sensor[0], "m")
    module = group(detector, "module", "NXdetector_module")
    module["data_origin"] = np.array([0, 0])
    module["data_size"] = np.array(inst.shape)
    offset = module.name + "/module_offset"
    length = float(np.linalg.norm(inst.origin))
    shift, size = ("translation", "m"), inst.pixel_size
    axis(module, "module_offset", length, shift, inst.origin / length)
    axis(module, "fast_pixel_direction", size, shift, inst.fast, offset)
    axis(module, "slow_pixel_direction", size, shift, inst.slow, offset)
