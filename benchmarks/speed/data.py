"""Simulate the scan that all contenders reduce, in the formats that they read.

    python -m benchmarks.speed.data FOLDER [--frames 360] [--cbf 120]

A scan of 1024 × 1024 pixels of 172 µm at 400 mm, 0.2066 Å (60 keV), 0.1° a frame, of an
orthorhombic crystal (5.2, 5.6, 7.9 Å) in a random orientation with a fixed seed: structured
diffuse scattering with 4.2 counts per pixel on average, Bragg peaks up to 1.6e4, 8 % of the
pixels in gaps or dead. Written are

- ``a.nxs``: NXmx, bitshuffle-LZ4, one frame per chunk, with libver that HDF5 1.10 reads;
- ``turn.nxs``: a master file with ``a.nxs`` ten times in a row (a full turn, for the memory);
- ``cbf/a_00001.cbf`` ... and ``XPARM.XDS``: the first frames for meerkat;
- ``geometry.npz``: Q of all pixels and matrices of all frames for kernels without a geometry;
- ``scan.nxs``, ``mask.nxs``, ``scale.nxs``, ``frame_mask.nxs`` and ``orientation_<n>.json``:
  what the stage `transform` reads.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tests.truth.orientations import write_orientation

from hklflow import geometry, nexus
from hklflow.formats.write_images import write_cbf_series
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images import mask3d
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.images.scan import RotationScan
from hklflow.simulation.frames import (
    GAP_VALUE,
    Background,
    Cosine,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    Ridge,
    ScanModel,
    Simulation,
)
from hklflow.transform.binning import Grid

N_FRAMES = 360
STEP_DEG = 0.1
LIMITS = (6.4, 6.9, 9.7)
GRIDS = (301, 501)
CELL = (5.2, 5.6, 7.9, 90.0, 90.0, 90.0)
SEED = 20240607
BLOCK = 12


def simulation(n_frames: int) -> Simulation:
    """The scan; its truth depends on nothing but the number of frames."""
    columns = ((0, 1024, 256, 264), (0, 1024, 512, 520), (0, 1024, 768, 776))
    rows = ((255, 272, 0, 1024), (511, 528, 0, 1024), (767, 784, 0, 1024))
    beam_stop = (480, 560, 480, 560)
    axis, angle = np.random.default_rng(SEED).normal(size=3), 1.9
    return Simulation(
        detector=DetectorModel(
            shape=(1024, 1024),
            distance=0.4,
            foot=(517.3, 509.6),
            gaps=(*columns, *rows, beam_stop),
            n_dead=3000,
            seed=SEED,
        ),
        goniometer=GoniometerModel(),
        scan=ScanModel(
            start=0.0,
            step=np.radians(STEP_DEG),
            n_frames=n_frames,
            wavelength=0.2066,
            flux=0.94,
            seed=SEED,
        ),
        crystal=CrystalModel(
            cell=CELL,
            orientation=tuple(angle * axis / np.linalg.norm(axis)),
            atoms=((0.0, 0.0, 0.0, 1.0), (0.31, 0.22, 0.17, 0.6), (0.7, 0.41, 0.63, 0.45)),
            scale=0.037,
            b_iso=0.6,
            mosaic=2e-3,
            spot_sigma=(0.9, 0.9),
        ),
        diffuse=Diffuse(
            flat=2.6,
            cosines=(Cosine(0.7, (1.0, 0.0, 0.0)), Cosine(0.5, (0.0, 1.0, 1.0))),
            ridges=(Ridge(4.0, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), 0.12),),
        ),
        background=Background(air=6.0, air_angle=0.08, compton=1.2, compton_q=5.0),
    )


def bad_pixels(truth: Simulation) -> NDArray[np.bool_]:
    """Gaps, beam stop and dead pixels (slow, fast)."""
    return ~truth.live


def rotation(truth: Simulation, n_frames: int) -> geometry.Rotation:
    """The scan's geometry as hklflow holds it."""
    detector, scan, goniometer = truth.detector, truth.scan, truth.goniometer
    return geometry.Rotation(
        geometry.Beam(scan.wavelength, float(scan.polarization or 0.5)),
        geometry.Detector(
            detector.shape, detector.pixel_size, detector.origin, detector.slow, detector.fast
        ),
        geometry.Goniometer(goniometer.names, np.array(goniometer.axes), np.zeros(1), 0),
        geometry.Scan(scan.start, scan.step, n_frames),
    )


def grid(n: int) -> Grid:
    """n³ voxels within ± LIMITS."""
    limits = np.array(LIMITS)
    return Grid(-limits, 2 * limits / (n - 1), (n, n, n))


def _frames(truth: Simulation) -> Iterator[NDArray[np.uint32]]:
    bad = bad_pixels(truth)
    for block in truth.frames(block=BLOCK):
        block[:, bad] = GAP_VALUE
        yield block


def write_xparm(path: Path, truth: Simulation) -> None:
    """Geometry as XDS writes it: x along fast, y along slow, z along the beam."""
    detector, scan = truth.detector, truth.scan
    to_xds = np.diag([-1.0, -1.0, 1.0])
    axis = to_xds @ truth.goniometer.axes[0]
    cell_vectors = (2 * np.pi * np.linalg.inv(truth.ub)) @ to_xds
    slow, fast = detector.foot
    size = 1e3 * np.array(detector.pixel_size)
    n_slow, n_fast = detector.shape

    def numbers(values: Any) -> str:
        return " ".join(f"{float(value):.9f}" for value in values)

    lines = [
        "XPARM.XDS",
        f"1 {numbers([np.degrees(scan.start), np.degrees(scan.step), *axis])}",
        numbers([scan.wavelength, 0, 0, 1 / scan.wavelength]),
        f"16 {numbers(CELL)}",
        *map(numbers, cell_vectors),
        f"1 {n_fast} {n_slow} {numbers([size[1], size[0]])}",
        numbers([fast + 0.5, slow + 0.5, 1e3 * detector.distance]),
        *map(numbers, np.eye(3)),
        f"1 1 {n_fast} 1 {n_slow}",
        "0.00 0.00 0.00 1.00000 0.00000 0.00000 0.00000 1.00000 0.00000",
    ]
    path.write_text("\n".join(lines) + "\n")


def _write_stage_inputs(folder: Path, truth: Simulation, n_frames: int) -> None:
    ones, turn = np.ones(n_frames), rotation(truth, n_frames)
    scan = RotationScan(str(folder / "a.nxs"), 0, turn, ones, ones, ones, "none")
    nexus.write_scan(folder / "scan.nxs", scan, "benchmark", (folder / "a.nxs", "/entry/data/data"))
    nexus.write_mask(folder / "mask.nxs", bad_pixels(truth).astype(np.uint32))
    flat = Transmission(ones, 0 * ones, ones, np.zeros(n_frames, np.uint8), 1.0)
    scale = FrameScale(ones, ones, ones, flat, 1.0, 1.0, "none")
    nexus.write_scale(folder / "scale.nxs", scale, np.arange(n_frames) * STEP_DEG)
    # The artefact mask excludes a box around every Bragg peak.
    peaks, shape = truth.true_peaks(), (n_frames, *truth.detector.shape)
    with nexus.FrameMaskWriter(folder / "frame_mask.nxs", shape) as writer:
        for first in range(0, n_frames, BLOCK):
            block = np.zeros((min(BLOCK, n_frames - first), *shape[1:]), bool)
            for at in zip(peaks.frame - first, peaks.slow, peaks.fast, strict=True):
                low = [max(0, int(x) - r) for x, r in zip(at, (2, 5, 5), strict=True)]
                high = [max(0, int(x) + r + 1) for x, r in zip(at, (2, 5, 5), strict=True)]
                block[tuple(map(slice, low, high))] = True
            writer.append(mask3d.pack(block), block.mean(axis=(1, 2)))
    for n in GRIDS:
        path = folder / f"orientation_{n}.json"
        names = {"sample": "benchmark", "scan": "a"}
        write_orientation(path, {"r1": turn}, truth.ub, grid=grid(n), **names)


def _write_turn(folder: Path) -> None:
    with h5py.File(folder / "turn.nxs", "w", libver=("v108", "v110")) as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        data = entry.create_group("data")
        data.attrs["NX_class"] = "NXdata"
        for i in range(10):
            data[f"data_{i + 1:06d}"] = h5py.ExternalLink("a.nxs", "/entry/data/data")


def write(folder: Path, n_frames: int, n_cbf: int) -> None:
    """Write everything."""
    (folder / "cbf").mkdir(parents=True, exist_ok=True)
    truth = simulation(n_frames)
    bad = bad_pixels(truth)
    kept, total, largest = [], 0, 0
    fields = truth.raw_header() | {"pixel_mask": bad.astype(np.uint32)}
    # DIALS 3.12 reads no NXmx file without it.
    fields["sensor_thickness"] = 450e-6
    with NXmxWriter(folder / "a.nxs", NXmxHeader(**fields)) as writer:
        for block in _frames(truth):
            if writer.written < n_cbf:
                kept.append(block[: n_cbf - writer.written])
            writer.append(block)
            good = block[:, ~bad]
            total, largest = total + int(good.sum(dtype=np.int64)), max(largest, int(good.max()))
    detector, scan = truth.detector, truth.scan
    write_cbf_series(
        folder / "cbf",
        "a",
        kept,
        wavelength=scan.wavelength,
        distance=detector.distance,
        beam_centre=detector.beam_centre,
        pixel_size=detector.pixel_size,
        start=scan.start,
        step=scan.step,
        exposure=scan.exposure,
        monitor=scan.monitor[: sum(map(len, kept))],
        pixel_mask=bad,
    )
    for path in (folder / "cbf").glob("*.cbf"):
        # DIALS takes what calls itself PILATUS for one of the sizes that DECTRIS sold.
        header, marker, rest = path.read_bytes().partition(b"_array_data.data")
        header = header.replace(b"PILATUS_1.2", b"GENERIC_MINI").replace(b"PILATUS-like, ", b"")
        path.write_bytes(header + marker + rest)
    write_xparm(folder / "XPARM.XDS", truth)
    turn = rotation(truth, n_frames)
    slow, fast = np.indices(detector.shape) + 0.5
    angles = turn.goniometer.rotation(turn.scan.angle(np.arange(n_frames) + 0.5))
    np.savez(
        folder / "geometry.npz",
        q=turn.q_lab(slow, fast),
        to_hkl=np.linalg.inv(angles @ truth.ub),
        good=~bad,
        limits=np.array(LIMITS),
        ub=truth.ub,
    )
    _write_stage_inputs(folder, truth, n_frames)
    _write_turn(folder)
    size, pixels = (folder / "a.nxs").stat().st_size, n_frames * bad.size
    facts = {
        "frames": n_frames,
        "cbf": sum(map(len, kept)),
        "pixels per frame": bad.size,
        "masked": float(bad.mean()),
        "mean counts": total / (n_frames * int((~bad).sum())),
        "largest count": largest,
        "bits per pixel": 8 * size / pixels,
        "peaks": len(truth.true_peaks().frame),
        "seed": SEED,
    }
    # Last, so that it is there only if all is.
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=N_FRAMES)
    parser.add_argument("--cbf", type=int, default=120)
    arguments = parser.parse_args()
    write(arguments.folder.resolve(), arguments.frames, arguments.cbf)
