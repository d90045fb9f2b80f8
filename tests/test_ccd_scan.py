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
from hklflow.base.errors import HklflowError
from hklflow.base.values import HC
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.grid import Grid
from hklflow.peaks.table import PeakTable
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

ENERGY, RATE, N, SIDE = 12.0, 4.0, 120, 256
CELL = (6.0, 6.0, 6.0, 90.0, 90.0, 90.0)
GRID = Grid.symmetric((4.0, 4.0, 4.0), (0.05, 0.05, 0.05))
SHARP = Ccd(1.6, 40.0, 3.0)
BLURRED = Ccd(1.6, 40.0, 3.0, spread=0.6)


STATED = {"gain": 1.6, "offset": 40.0, "read_noise": 3.0}


STRONG = {"scale": 20.0, "mosaic": 0.012}
BROAD = {"scale": 1.0, "mosaic": 0.02}


def simulation(seed: int, peaks: dict[str, float]) -> Simulation:
    return Simulation(
        DetectorModel((SIDE, SIDE), 0.11, (124.0, 131.0), (5e-4, 5e-4), gaps=()),
        GoniometerModel(),
        ScanModel(0.0, np.radians(1.0), N, HC / 1000 / ENERGY, flux=RATE, drift=0.2, seed=seed),
        CrystalModel(CELL, orientation=(0.3, 0.2, -0.4), b_iso=1.0, **peaks),
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
    """(S - truth) / σ of voxels, and of sums over blocks of 5 x 5 x 5 voxels."""

    voxels: np.ndarray
    blocks: np.ndarray


@dataclass(frozen=True)
class Reduced:
    """Products of a rotation in a folder."""

    folder: Path

    def at(self, name: str) -> Path:
        return self.folder / name

    def told(self, name: str) -> dict[str, Path]:
        return {"picture": self.at(f"{name}.png"), "metrics": self.at(f"{name}.json")}

    def pulls(self, true: float = 1.0) -> Pulls:
        """Compare the merged volume with the same S everywhere, away from the Bragg peaks."""
        path = self.at("volume.nxs")
        volume = nexus.read_volume(path)
        with nexus.open_volume(path) as opened:
            variance = opened.variance(np.s_[:, :, :])
        near = np.abs(GRID.axis(0) - np.rint(GRID.axis(0))) < 0.25
        far = np.broadcast_to(~near, volume.norm.shape) & (volume.norm > 0)
        assert volume.data is not None
        assert volume.errors is not None
        voxels = ((volume.data - true) / volume.errors)[far]
        # Whole blocks between the peaks' planes: their first h is n + 0.25.
        begin = int(np.flatnonzero(~near)[0])
        shape = [n // 5 for n in far[..., begin:].shape]

        def summed(values: np.ndarray) -> np.ndarray:
            whole = values[..., begin:][tuple(slice(0, 5 * n) for n in shape)].astype(float)
            l, k, h = shape  # noqa: E741
            return whole.reshape(l, 5, k, 5, h, 5).sum(axis=(1, 3, 5))

        whole = summed(far) == 125
        counts, norm, expected = (summed(v)[whole] for v in (volume.counts, volume.norm, variance))
        # The variance of a sum is estimated from all sums: its own would be biased.
        read = expected - counts
        return Pulls(voxels, (counts - true * norm) / np.sqrt(true * norm + read))


def measure(folder: Path, camera: Ccd, seed: int, peaks: dict[str, float] = STRONG) -> Simulation:
    """Write a raw file of the camera."""
    simulated = simulation(seed, peaks)
    photons = np.concatenate(list(simulated.frames())).astype(np.int64)
    header = simulated.raw_header() | {"dtype": np.uint16, "saturation": 65535, "integrates": True}
    with NXmxWriter(folder / "raw.nxs", NXmxHeader(**header)) as writer:
        writer.append(camera.adu(photons, np.random.default_rng(seed)))
    return simulated


def search(reduced: Reduced, **given: Any) -> None:
    """From the import to the peaks."""
    at, told = reduced.at, reduced.told
    run(import_scan, {"raw": [at("raw.nxs")]}, {"scan": at("scan.nxs")}, **given)
    both = {"scan": at("scan.nxs"), "mask": at("mask.nxs")}
    run(pixel_mask, {"scan": at("scan.nxs")}, {"mask": at("mask.nxs"), **told("mask")})
    statistics = {
        "statistics": at("statistics.nxs"),
        "statistics_picture": at("statistics.png"),
        "statistics_metrics": at("statistics.json"),
    }
    run(find_peaks, both, {"peaks": at("peaks.nxs"), **told("peaks"), **statistics})


def reduce_scan(folder: Path, camera: Ccd, seed: int = 3, **given: Any) -> Reduced:
    """All stages from the raw file to the volume."""
    folder.mkdir(exist_ok=True)
    simulated, reduced = measure(folder, camera, seed), Reduced(folder)
    search(reduced, **given)
    at, told = reduced.at, reduced.told
    both = {"scan": at("scan.nxs"), "mask": at("mask.nxs")}
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


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Reduced:
    return reduce_scan(tmp_path_factory.mktemp("sharp"), SHARP, **STATED)


def test_error_bars_hold_in_voxels_and_in_sums(sharp: Reduced) -> None:
    voxels, blocks = sharp.pulls()
    assert len(voxels) > 400_000
    assert len(blocks) > 2500
    assert abs(voxels.mean()) < 0.02
    assert abs(blocks.mean()) < 0.02 + 2 / np.sqrt(len(blocks))
    assert 0.95 < voxels.std() < 1.05
    assert 0.95 < blocks.std() < 1.05


def test_light_that_spreads_narrows_voxels_but_not_sums(tmp_path: Path) -> None:
    """The gain of the detector is right for sums; a single pixel fluctuates less."""
    voxels, blocks = reduce_scan(tmp_path, BLURRED, **STATED).pulls()
    assert abs(voxels.mean()) < 0.02
    assert abs(blocks.mean()) < 0.02 + 2 / np.sqrt(len(blocks))
    assert 0.95 < blocks.std() < 1.05
    assert 0.85 < voxels.std() < 0.97


def test_a_measured_gain_is_a_common_factor_within_its_error(tmp_path: Path) -> None:
    """S(Q) is wrong by one factor, whose error the scan file has; the rest is noise."""
    reduced = reduce_scan(tmp_path, SHARP, gain="measure", offset=40.0, read_noise=3.0)
    gain = nexus.read_scan(reduced.at("scan.nxs")).gain
    assert gain is not None
    factor = 1.6 / gain.adu_per_photon
    assert 0 < gain.relative_error < 0.02
    assert abs(factor - 1) < 3 * gain.relative_error
    voxels, blocks = reduced.pulls(factor)
    assert abs(voxels.mean()) < 0.02
    assert abs(blocks.mean()) < 0.02 + 2 / np.sqrt(len(blocks))
    assert 0.95 < voxels.std() < 1.05
    assert 0.95 < blocks.std() < 1.05


def both(one: PeakTable, other: PeakTable) -> tuple[PeakTable, PeakTable]:
    """Return the peaks that are in both tables, in the same order."""
    places = [np.stack([p.frame, p.slow, p.fast], axis=1) for p in (one, other)]
    distance = np.linalg.norm(places[0][:, None] - places[1][None], axis=-1)
    nearest = distance.argmin(axis=1)
    found = distance.min(axis=1) < 1
    return one.select(found), other.select(nearest[found])


def test_peaks_of_two_measurements_agree_within_their_errors(tmp_path: Path) -> None:
    """The errors of centroids contain the width of pixel and frame, as for photon counters."""
    tables = []
    for seed in (3, 5):
        reduced = Reduced(tmp_path / str(seed))
        reduced.folder.mkdir()
        measure(reduced.folder, SHARP, seed, BROAD)
        search(reduced, **STATED)
        tables.append(nexus.read_peaks(reduced.at("peaks.nxs")))
    one, other = both(*tables)
    assert len(one) > 90
    for name, least, most in (
        ("intensity", 0.8, 1.25),
        ("slow", 0.3, 1.1),
        ("fast", 0.3, 1.1),
        ("frame", 0.3, 1.1),
    ):
        difference = getattr(one, name) - getattr(other, name)
        variance = getattr(one, f"var_{name}") + getattr(other, f"var_{name}")
        pull = difference / np.sqrt(variance)
        assert abs(np.median(pull)) < 0.3, name
        assert least < np.quantile(np.abs(pull), 0.6827) < most, name


def test_the_peak_search_refuses_a_second_gain(sharp: Reduced) -> None:
    scan = nexus.read_scan(sharp.at("scan.nxs"))
    with pytest.raises(HklflowError, match="leave --gain out"):
        find_peaks._criteria(scan, np.inf, find_peaks.Params(gain=1.6))
