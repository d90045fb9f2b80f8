"""A rotation of an integrating detector against a photon counter's, of the same photons.

The raw frames are simulated ASICs' response to Poisson photons. Their read noise is 0.2 photons,
and the diffuse scattering a sixth of a photon per pixel and frame, so that without the noise's
variance the error bars would be 15 % too small.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.values import HC
from hklflow.constants import simulate as asics
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.grid import Grid
from hklflow.peaks.search import PeakTable
from hklflow.simulation.frames import (
    GAP_VALUE,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stages import (
    add_transforms,
    correct_frames,
    find_peaks,
    frame_scale,
    import_scan,
    mask_3d,
    merge,
    pixel_mask,
    transform,
)
from hklflow.transform import estimator
from hklflow.volumes import boxes
from tests.constants.true_constants import constants_of, write_constants
from tests.truth.orientations import write_orientation

pytestmark = pytest.mark.slow

ENERGY, READ_NOISE, RATE = 12.0, 0.2, 0.17
MODULE, N = (64, 128), 48
SHAPE = (2 * MODULE[0], MODULE[1])
CELL = (6.0, 6.0, 6.0, 90.0, 90.0, 90.0)
GRID = Grid.symmetric((4.0, 4.0, 4.0), (0.1, 0.1, 0.1))
MEASURED = ("counter", "integrator")


def simulation(start: float, seed: int) -> Simulation:
    return Simulation(
        DetectorModel(SHAPE, 0.11, (61.0, 66.0), (1e-3, 1e-3), gaps=((63, 65, 0, 128),)),
        GoniometerModel(),
        ScanModel(
            np.radians(start),
            np.radians(1.0),
            N,
            HC / 1000 / ENERGY,
            flux=RATE,
            drift=0.2,
            seed=seed,
        ),
        CrystalModel(CELL, orientation=(0.3, 0.2, -0.4), scale=1.2, mosaic=0.012, b_iso=1.0),
        Diffuse(flat=1.0),
    )


def run(module: ModuleType, inputs: Any, outputs: Any, **params: Any) -> None:
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=2,
    )


@dataclass(frozen=True)
class Scan:
    """A rotation measured twice: folders `counter` and `integrator`."""

    path: Path
    photons: np.ndarray
    live: np.ndarray

    def at(self, measured: str, name: str) -> Path:
        return self.path / measured / name


def measure(path: Path, simulated: Simulation) -> Scan:
    """Raw files of both detectors; correct the one's."""
    frames = np.concatenate(list(simulated.frames()))
    photons = np.where(frames == GAP_VALUE, 0, frames)
    for measured in MEASURED:
        (path / measured).mkdir(parents=True)
    header = simulated.raw_header()
    with NXmxWriter(path / "counter/raw.nxs", NXmxHeader(**header)) as writer:
        writer.append(frames)
    rng = np.random.default_rng(9)
    raw, modules = np.zeros(frames.shape, np.uint16), []
    for m in range(2):
        truth = asics.jungfrau(rng, 1, MODULE)
        noise = truth.noise.copy()
        noise[0] *= READ_NOISE * ENERGY * 41 / 14
        truth = replace(truth, noise=noise)
        rows = slice(m * MODULE[0], (m + 1) * MODULE[0])
        analog, of = truth.respond(photons[:, rows] * ENERGY, 0, rng)
        raw[:, rows] = analog | np.array([0, 1, 3], np.uint16)[of] << 14
        modules.append(constants_of(truth, "jungfrau", m))
    constants = write_constants(path / "constants.nxs", modules)
    with NXmxWriter(path / "jungfrau.nxs", NXmxHeader(**header | {"dtype": np.uint16})) as writer:
        writer.append(raw)
    out = path / "integrator"
    outputs = {"frames": out / "raw.nxs", "picture": out / "c.png", "metrics": out / "correct.json"}
    inputs = {"raw": [path / "jungfrau.nxs"], "constants": constants}
    run(correct_frames, inputs, outputs, energy=ENERGY, asic_size=MODULE)
    return Scan(path, photons, simulated.live)


def reduce_scan(scan: Scan, measured: str, simulated: Simulation, name: str) -> None:
    """All stages from the import to the volume of the rotation."""

    def at(file: str) -> Path:
        return scan.at(measured, file)

    def told(name: str) -> dict[str, Path]:
        return {"picture": at(f"{name}.png"), "metrics": at(f"{name}.json")}

    both = {"scan": at("scan.nxs"), "mask": at("mask.nxs")}
    run(import_scan, {"raw": [at("raw.nxs")]}, {"scan": at("scan.nxs")})
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
    run(mask_3d, both, frame_mask, seed_counts=150.0)
    rotation = nexus.read_scan(at("scan.nxs")).rotation
    write_orientation(at("orientation.json"), {name: rotation}, simulated.ub, grid=GRID)
    inputs = both | {
        "scale": at("scale.nxs"),
        "frame_mask": at("frame_mask.nxs"),
        "orientation": at("orientation.json"),
    }
    outputs = {"transform": at("all.nxs"), "masked_transform": at("clean.nxs")}
    run(transform, inputs, outputs, rotation=name)
    parts = []
    for part in range(2):
        outputs = {name: at(f"{name}{part}.nxs") for name in ("transform", "masked_transform")}
        run(transform, inputs, outputs, rotation=name, part=(part, 2))
        parts.append(outputs)
    inputs = {
        "parts": [part["transform"] for part in parts],
        "masked_parts": [part["masked_transform"] for part in parts],
    }
    outputs = {"transform": at("added.nxs"), "masked_transform": at("clean_added.nxs")}
    run(add_transforms, inputs, outputs)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Scan]:
    """Two rotations, 48 degrees each."""
    folder, found = tmp_path_factory.mktemp("integrating"), []
    for number, start in enumerate((0.0, 40.0)):
        simulated = simulation(start, number + 1)
        scan = measure(folder / str(number), simulated)
        for measured in MEASURED:
            reduce_scan(scan, measured, simulated, f"r{number}")
        found.append(scan)
    for measured in MEASURED:
        for kind in ("all", "clean"):
            out = folder / f"{measured}_{kind}.nxs"
            outputs = {
                "volume": out,
                "slices": out.with_suffix(".png"),
                "coverage": out.with_suffix(".c.png"),
                "metrics": out.with_suffix(".json"),
            }
            volumes = [scan.at(measured, f"{kind}.nxs") for scan in found]
            run(merge, {"volumes": volumes}, outputs)
    return found


def merged(scans: list[Scan], measured: str, kind: str = "all") -> nexus.Volume:
    return nexus.read_volume(scans[0].path.parent / f"{measured}_{kind}.nxs")


def away_from_peaks(volume: nexus.Volume) -> np.ndarray:
    """Measured voxels (l, k, h) of which the true S is 1."""
    axes = [np.abs(volume.grid.axis(i) - np.rint(volume.grid.axis(i))) > 0.25 for i in range(3)]
    far = axes[2][:, None, None] | axes[1][None, :, None] | axes[0][None, None, :]
    return far & (volume.norm > 0)


def test_the_frames_have_the_photons_and_the_noise(scans: list[Scan]) -> None:
    metrics = stage.read_json(scans[0].at("integrator", "correct.json"))
    assert metrics["read noise in photons"] == pytest.approx(READ_NOISE, rel=0.05)
    fractions = metrics["fractions"]
    assert fractions["medium"] > 1e-5
    assert fractions["no value"] == 0


def test_masks_and_statistics_agree_with_the_photon_counter(scans: list[Scan]) -> None:
    assert len(scans) == 2
    for scan in scans:
        masks = [nexus.read_mask(scan.at(m, "mask.nxs")) != 0 for m in MEASURED]
        np.testing.assert_array_equal(masks[0], masks[1])
        good = int((~masks[0]).sum())
        for name, noise in (
            ("frame_sum", READ_NOISE * np.sqrt(good)),
            ("background", 2 * READ_NOISE / np.sqrt(good)),
        ):
            found = [nexus.read_statistics(scan.at(m, "statistics.nxs"), name) for m in MEASURED]
            pull = (found[1] - found[0]) / noise
            assert abs(pull.mean()) < 0.6, name
            assert pull.std() < 1.3, name
        images = [nexus.read_statistics(scan.at(m, "statistics.nxs"), "summed") for m in MEASURED]
        off = (images[1] - images[0])[~masks[0]]
        assert off.std() == pytest.approx(READ_NOISE * np.sqrt(N), rel=0.2)
        assert abs(off.mean()) < 5 * off.std() / np.sqrt(off.size)


def pairs(scan: Scan) -> tuple[PeakTable, PeakTable, np.ndarray]:
    """Peaks of both, and for each of the counter's the nearest of the other's; -1: none."""
    one, other = (nexus.read_peaks(scan.at(m, "peaks.nxs")) for m in MEASURED)
    places = [np.stack([p.frame, p.slow, p.fast], axis=1) for p in (one, other)]
    distance = np.linalg.norm(places[0][:, None] - places[1][None], axis=-1)
    nearest = distance.argmin(axis=1)
    return one, other, np.where(distance.min(axis=1) < 1.0, nearest, -1)


def test_peaks_agree_with_the_photon_counter(scans: list[Scan]) -> None:
    assert len(scans) == 2
    for scan in scans:
        one, other, partner = pairs(scan)
        assert len(one) > 40
        strong = one.significance > 10
        assert (partner[strong] >= 0).mean() > 0.97
        assert abs(len(other) - len(one)) < 0.1 * len(one)
        mine, theirs = one.select(partner >= 0), other.select(partner[partner >= 0])
        sigma = np.sqrt(mine.var_intensity)
        pull = (theirs.intensity - mine.intensity) / sigma
        # The photons are the same: what differs is the read noise alone.
        assert abs(np.median(pull)) < 0.15
        assert np.quantile(np.abs(pull), 0.68) < 0.8
        for axis in ("frame", "slow", "fast"):
            off = getattr(theirs, axis) - getattr(mine, axis)
            assert np.quantile(np.abs(off) / np.sqrt(getattr(mine, f"var_{axis}")), 0.68) < 0.8
        # Read noise makes errors larger, by what its variance adds.
        ratio = np.median(theirs.var_intensity / mine.var_intensity)
        assert 1.0 < ratio < 1.5
        # The pedestal of the search is out of the table again.
        level = np.median(theirs.background)
        assert level == pytest.approx(np.median(mine.background), abs=0.3 * READ_NOISE**2)


def test_error_bars_of_the_merged_volume_hold(scans: list[Scan]) -> None:
    volume = merged(scans, "integrator")
    assert volume.data is not None
    assert volume.errors is not None
    use = away_from_peaks(volume)
    assert use.sum() > 5000
    pull = ((volume.data - 1) / volume.errors)[use]
    assert abs(pull.mean()) < 0.05
    assert 0.9 < pull.std() < 1.1
    # With the photons' variance alone they would not.
    alone = pull * volume.errors[use] / (1 / np.sqrt(volume.norm[use]))
    assert alone.std() > 1.08
    # Neighbours are not correlated: sums over 2 x 2 x 2 voxels are as precise as they claim.
    with nexus.open_volume(scans[0].path.parent / "integrator_all.nxs") as opened:
        variance = opened.variance(np.s_[:, :, :])
    inside = tuple(slice(0, n // 2 * 2) for n in use.shape)

    def summed(values: np.ndarray) -> np.ndarray:
        l, k, h = (n // 2 for n in use.shape)  # noqa: E741
        return values[inside].reshape(l, 2, k, 2, h, 2).sum(axis=(1, 3, 5))

    eight = summed(use.astype(float)) == 8
    counts, norm = summed(volume.counts)[eight], summed(volume.norm)[eight]
    of_sums = (counts - norm) / np.sqrt(norm * variance[use].sum() / volume.norm[use].sum())
    assert abs(of_sums.mean()) < 0.1
    assert 0.9 < of_sums.std() < 1.1


def test_the_variance_is_photons_and_read_noise_and_parts_add_up(scans: list[Scan]) -> None:
    total = np.zeros(GRID.array_shape)
    for scan in scans:
        for name, sums in (("all", "added"), ("clean", "clean_added")):
            with (
                nexus.open_volume(scan.at("integrator", f"{name}.nxs")) as whole,
                nexus.open_volume(scan.at("integrator", f"{sums}.nxs")) as added,
                nexus.open_volume(scan.at("counter", f"{name}.nxs")) as counter,
            ):
                assert not counter.has_variance
                planes = len(GRID.axis(2))
                counts, norm = whole.slab(0, planes)
                variance = whole.variance(slice(None))
                for own, other in zip((counts, norm), added.slab(0, planes), strict=True):
                    np.testing.assert_array_equal(own, other)
                np.testing.assert_array_equal(variance, added.variance(slice(None)))
                read = variance - counts
                # A voxel's read variance is that of its pixel-frames; N per pixel-frame is RATE.
                inner = norm > np.median(norm[norm > 0])
                ratio = read[inner].sum() / norm[inner].sum()
                assert ratio == pytest.approx(READ_NOISE**2 / RATE, rel=0.25)
                assert (read[norm > 0] > 0).all()
                if name == "all":
                    total += variance
                    photons = counter.slab(0, planes)[0].sum()
                    noise = np.sqrt(read.sum())
                    assert abs(counts.sum() - photons) < 5 * noise
    with nexus.open_volume(scans[0].path.parent / "integrator_all.nxs") as volume:
        np.testing.assert_allclose(volume.variance(slice(None)), total, rtol=1e-5, atol=1e-3)


def volumes(read: tuple[float, float], seed: int = 3) -> list[np.ndarray]:
    """Counts, norm and variance (2, l, k, h) of two rotations of S = 1 with read noise."""
    rng = np.random.default_rng(seed)
    norm = rng.uniform(50, 90, (2, 12, 20, 20))
    norm[:, :, :3] = 0
    noise = norm * np.array(read)[:, None, None, None]
    counts = rng.poisson(norm) + rng.normal(0, np.sqrt(noise))
    return [counts, norm, counts + noise]


@pytest.mark.parametrize("read", [(0.0, 0.0), (0.5, 0.5), (0.2, 1.0), (0.0, 0.7)])
def test_rotations_are_compared_with_their_own_noise(read: tuple[float, float]) -> None:
    parts = volumes(read)
    sums = [np.zeros((14, 22, 20)) for _ in range(3)]
    found = estimator.add_noisy(parts, sums, (1, 2))
    for part, total in zip(parts, sums, strict=True):
        np.testing.assert_allclose(total[1:13, 2:], part.sum(axis=0))
        assert (total[:1] == 0).all()
    assert found.measured == 12 * 17 * 20
    assert found.counts == pytest.approx(parts[0].sum())
    assert found.dof == found.measured
    assert found.chi2 / found.dof == pytest.approx(1, abs=5 * np.sqrt(2 / found.dof))
    # With the photons' variance alone they would disagree.
    alone = estimator.add(parts[0], parts[1], *sums[:2], (1, 2))
    assert alone.chi2 / alone.dof == pytest.approx(1 + np.mean(read), abs=0.12)
    if read == (0.0, 0.0):
        assert found == pytest.approx(alone)


def test_errors_are_of_the_variance_and_data_of_the_counts() -> None:
    parts = [part.sum(axis=0) for part in volumes((0.2, 1.0))]
    counts, norm, variance = parts
    data, errors = np.empty((2, 8, 20, 20))
    where = slice(2, 10), slice(0, 20)
    estimator.derive(counts, norm, *where, 2, data, errors, variance)
    measured = norm[2:10] > 0
    np.testing.assert_array_equal(np.isnan(data), ~measured)
    np.testing.assert_allclose(
        data[measured], (counts / np.where(norm > 0, norm, 1))[2:10][measured]
    )
    pull = ((data - 1) / errors)[measured]
    assert abs(pull.mean()) < 0.06
    assert pull.std() == pytest.approx(1, abs=0.04)


def test_artefact_mask_agrees_with_the_photon_counter(scans: list[Scan]) -> None:
    assert len(scans) == 2
    for scan in scans:
        flagged = []
        for measured in MEASURED:
            with nexus.open_frame_mask(scan.at(measured, "frame_mask.nxs")) as mask:
                flagged.append(np.unpackbits(mask[:], axis=-1).astype(bool))
        one, other = flagged
        assert one.any()
        assert (one & other).sum() > 0.85 * max(one.sum(), other.sum())


def test_integrated_intensities_have_the_read_noise(scans: list[Scan]) -> None:
    """In boxes where the true S is 1, and so the intensity above the background 0."""
    folder = scans[0].path.parent
    axis = np.arange(-3.5, 3.6, 1.0)
    sigma = {}
    for measured in MEASURED:
        values = []
        with nexus.open_volume(folder / f"{measured}_all.nxs") as volume:
            assert volume.has_variance == (measured == "integrator")
            for place in itertools.product(axis, repeat=3):
                box = boxes.box_at(volume.grid, place, (0.15, 0.15, 0.15), 2)
                if box is None:
                    continue
                variance = volume.variance(box.region) if volume.has_variance else None
                found = nexus.read_box(volume, box.region)
                values.append(boxes.integrate(box, *found, 0.9, variance))
        intensity, sigma[measured] = np.array(values).T
        known = np.isfinite(intensity)
        assert known.sum() > 20
        pull = (intensity / sigma[measured])[known]
        assert abs(pull.mean()) < 5 / np.sqrt(known.sum())
        assert 0.6 < pull.std() < 1.4
    ratio = np.nanmedian(sigma["integrator"] / sigma["counter"])
    assert ratio == pytest.approx(np.sqrt(1 + READ_NOISE**2 / RATE), abs=0.06)
