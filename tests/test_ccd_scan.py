"""A rotation measured by a CCD: from ADU to S(Q) with error bars, against the true S.

The gain is 1.6 ADU per photon, the read noise 3 ADU, the offset 40 ADU. Taken for photons, these
values would give an S(Q) with a large background and error bars that are far too small.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.values import HC
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.grid import Grid
from hklflow.images.gain import Stated
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stages import (
    find_peaks,
    frame_scale,
    import_scan,
    mask_3d,
    merge,
    pixel_mask,
    transform,
)
from tests.truth.ccd import Ccd
from tests.truth.orientations import write_orientation

pytestmark = pytest.mark.slow

ENERGY, RATE, N, SIDE = 12.0, 4.0, 60, 256
CELL = (6.0, 6.0, 6.0, 90.0, 90.0, 90.0)
GRID = Grid.symmetric((4.0, 4.0, 4.0), (0.1, 0.1, 0.1))
SHARP = Ccd(1.6, 40.0, 3.0)
BLURRED = Ccd(1.6, 40.0, 3.0, spread=0.6)


def simulation() -> Simulation:
    return Simulation(
        DetectorModel((SIDE, SIDE), 0.11, (124.0, 131.0), (5e-4, 5e-4), gaps=()),
        GoniometerModel(),
        ScanModel(0.0, np.radians(1.0), N, HC / 1000 / ENERGY, flux=RATE, drift=0.2, seed=3),
        CrystalModel(CELL, orientation=(0.3, 0.2, -0.4), scale=20.0, mosaic=0.012, b_iso=1.0),
        Diffuse(flat=1.0),
    )


def run(module: ModuleType, inputs: Any, outputs: Any, **params: Any) -> None:
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=1,
    )


class Pulls(NamedTuple):
    """(S - 1) / σ of voxels, and of sums over blocks of 5 x 5 x 5 voxels."""

    voxels: np.ndarray
    blocks: np.ndarray


@dataclass(frozen=True)
class Reduced:
    """Products of a rotation in a folder."""

    folder: Path

    def at(self, name: str) -> Path:
        return self.folder / name

    def pulls(self) -> Pulls:
        """Compare the merged volume with S = 1, away from the Bragg peaks."""
        path = self.at("volume.nxs")
        volume = nexus.read_volume(path)
        with nexus.open_volume(path) as opened:
            variance = opened.variance(np.s_[:, :, :])
        near = np.abs(GRID.axis(0) - np.rint(GRID.axis(0))) < 0.25
        far = np.broadcast_to(~near, volume.norm.shape) & (volume.norm > 0)
        assert volume.data is not None
        assert volume.errors is not None
        voxels = ((volume.data - 1) / volume.errors)[far]
        # Blocks of h from n + 0.3 to n + 0.7.
        begin = int(np.flatnonzero(~near)[0])
        length = (len(near) - begin) // 10 * 10

        def summed(values: np.ndarray) -> np.ndarray:
            values = values[:80, :80, begin : begin + length].astype(float)
            return values.reshape(16, 5, 16, 5, length // 5, 5).sum(axis=(1, 3, 5))[..., ::2]

        whole = summed(far) == 125
        counts, norm, expected = (summed(v)[whole] for v in (volume.counts, volume.norm, variance))
        # The variance of a sum is estimated from all sums: its own would be biased.
        read = expected - counts
        return Pulls(voxels, (counts - norm) / np.sqrt(norm + read))


def reduce_scan(folder: Path, camera: Ccd, **given: Any) -> Reduced:
    """All stages from the raw file to the volume."""
    simulated = simulation()
    photons = np.concatenate(list(simulated.frames())).astype(np.int64)
    frames = camera.adu(photons, np.random.default_rng(8))
    header = simulated.raw_header() | {"dtype": np.uint16, "saturation": 65535, "integrates": True}
    with NXmxWriter(folder / "raw.nxs", NXmxHeader(**header)) as writer:
        writer.append(frames)

    reduced = Reduced(folder)
    at = reduced.at

    def told(name: str) -> dict[str, Path]:
        return {"picture": at(f"{name}.png"), "metrics": at(f"{name}.json")}

    run(import_scan, {"raw": [at("raw.nxs")]}, {"scan": at("scan.nxs")}, **given)
    both = {"scan": at("scan.nxs"), "mask": at("mask.nxs")}
    run(pixel_mask, {"scan": at("scan.nxs")}, {"mask": at("mask.nxs"), **told("mask")})
    statistics = {
        "statistics": at("statistics.nxs"),
        "statistics_picture": at("statistics.png"),
        "statistics_metrics": at("statistics.json"),
    }
    run(find_peaks, both, {"peaks": at("peaks.nxs"), **told("peaks"), **statistics})
    inputs = {
        "scan": at("scan.nxs"),
        "statistics": at("statistics.nxs"),
        "reference_scan": at("scan.nxs"),
        "reference": at("statistics.nxs"),
    }
    run(frame_scale, inputs, {"scale": at("scale.nxs"), **told("scale")}, source="none")
    frame_mask = {"frame_mask": at("frame_mask.nxs"), "picture": at("frame_mask.png")}
    run(mask_3d, both, frame_mask, seed_counts=1e5)
    rotation = nexus.read_scan(at("scan.nxs")).rotation
    write_orientation(at("orientation.json"), {"r1": rotation}, simulated.ub, grid=GRID)
    inputs = both | {
        "scale": at("scale.nxs"),
        "frame_mask": at("frame_mask.nxs"),
        "orientation": at("orientation.json"),
    }
    outputs = {"transform": at("all.nxs"), "masked_transform": at("clean.nxs")}
    run(transform, inputs, outputs, rotation="r1")
    outputs = {
        "volume": at("volume.nxs"),
        "slices": at("slices.png"),
        "coverage": at("coverage.png"),
        "metrics": at("merge.json"),
    }
    run(merge, {"volumes": [at("all.nxs")]}, outputs)
    return reduced
