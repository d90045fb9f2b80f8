"""Each fault of simulated frames has its stated size; files say where reflections are."""

from collections import Counter
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from tests.test_frame_worlds import SMALL, turn
from tests.truth.frames import FRAME_KINDS, FrameWorld, frame_catalogue, frame_world
from tests.truth.frames_world import MASKED
from tests.truth.frames_write import Style, write
from tests.truth.worlds import KINDS, SYSTEMS, systems_of
from tests.truth.worlds_physics import Array


def total(world: FrameWorld, z: int) -> float:
    """Return the expected counts of a frame, without gaps."""
    return float(world.expected(0, z).sum())


def test_beam_monitor_and_illumination() -> None:
    plain = frame_world("plain", "cubic", 5, **SMALL)
    shut = frame_world("shutter:unseen", "cubic", 5, 0.1, **SMALL)
    first, last = shut.effects[-1]["first"], shut.effects[-1]["last"]
    assert last - first + 1 == 6
    assert not shut.photons(0, first).any()
    assert not shut.photons(0, last).any()
    assert shut.expected(0, first - 1) == pytest.approx(plain.expected(0, first - 1))
    assert np.ptp(shut.monitor) == 0

    dying = frame_world("dying_beam", "cubic", 5, 0.6, **SMALL)
    assert total(dying, 59) == pytest.approx(0.4 * total(plain, 59), rel=1e-9)
    assert dying.monitor[0, 59] == pytest.approx(0.4 * dying.monitor[0, 0])
    lies = frame_world("monitor_lies:constant", "cubic", 5, 0.6, **SMALL)
    assert total(lies, 59) == pytest.approx(0.4 * total(plain, 59), rel=1e-9)
    assert np.ptp(lies.monitor) == 0
    spikes = frame_world("monitor_lies:spikes", "cubic", 5, **SMALL)
    assert (spikes.monitor != plain.monitor).sum() == 3
    assert total(spikes, 30) == pytest.approx(total(plain, 30))

    leaves = frame_world("leaves_beam", "cubic", 5, 0.7, **SMALL)
    z = int(leaves.effects[-1]["frame"])  # type: ignore[call-overload]
    crystal = plain.expected(0, z) - plain.background
    fallen = leaves.expected(0, z) - leaves.background
    assert fallen.sum() == pytest.approx(0.3 * crystal.sum(), rel=0.01)


def test_absorption_is_that_of_two_paths() -> None:
    plain = frame_world("plain", "trigonal", 5, **SMALL)
    for shape in ("plate", "needle"):
        world = frame_world(f"absorption:{shape}", "trigonal", 5, 1.2, **SMALL)
        crystal = plain.expected(0, 9) - plain.background + 1e-30
        T = (world.expected(0, 9) - world.background) / crystal
        scan, inst = world.sample.scans[0], world.sample.instrument
        n = turn(scan.axis, scan.start + 9.5 * scan.step) @ world.effects[-1]["axis"]
        for slow, fast in ((20, 30), (100, 150), (170, 20)):
            s = inst.point(slow + 0.5, fast + 0.5)
            cosines = np.array([n[2], n @ s / np.linalg.norm(s)])
            across = cosines**2 if shape == "plate" else 1 - cosines**2
            assert T[slow, fast] == pytest.approx(np.exp(-np.sum(0.6 / np.sqrt(across + 0.04))))


@pytest.mark.slow
def test_detector_faults() -> None:
    plain = frame_world("plain", "hexagonal", 5, **SMALL)
    good = plain.module >= 0
    over = frame_world("overloads", "hexagonal", 5, 0.1, **SMALL)
    clipped = sum((over.frame(0, z)[good] == over.saturation).sum() for z in range(5))
    assert clipped > 5
    assert max(over.frame(0, z)[good].max() for z in range(5)) == over.saturation

    glow = frame_world("afterglow", "hexagonal", 5, 0.05, **SMALL)
    extra = strong = 0.0
    for z in range(2, 16):
        added = glow.frame(0, z).astype(float) - glow.photons(0, z)
        bright = good & (glow.photons(0, z - 1) > 50)
        extra += added[bright].sum()
        strong += 0.05 * glow.photons(0, z - 1)[bright].sum()
        older = glow.photons(0, z - 2) * (glow.photons(0, z - 2) > 50)
        strong += 0.0025 * older[bright].sum()
    assert extra == pytest.approx(strong, rel=0.1)

    flat = frame_world("flat_field:pixels", "hexagonal", 5, 0.05, **SMALL)
    ratio = flat.expected(0, 3)[good] / plain.expected(0, 3)[good]
    assert ratio.std() == pytest.approx(0.05, rel=0.05)
    modules = frame_world("flat_field:modules", "hexagonal", 5, 0.05, **SMALL)
    ratio = (modules.expected(0, 3) / np.where(good, plain.expected(0, 3), 1))[modules.module == 3]
    assert np.ptp(ratio) < 1e-9

    hot = frame_world("hot_pixels", "hexagonal", 5, 0.002, **SMALL)
    frames = np.array([hot.frame(0, z) for z in range(12)], float)
    places = {k: tuple(np.transpose(hot.effects[-1][k])) for k in ("dead", "stuck", "hot", "noisy")}
    assert not frames[(slice(None), *places["dead"])].any()
    assert not np.ptp(frames[(slice(None), *places["stuck"])], axis=0).any()
    assert frames[(slice(None), *places["hot"])].mean(axis=0).min() > 10
    noisy = frames[(slice(None), *places["noisy"])]
    assert np.median(noisy.var(axis=0) / noisy.mean(axis=0)) > 10


def test_a_module_that_is_displaced() -> None:
    world = frame_world("module_shift", "orthorhombic", 5, 3.0, mosaic=0.2, arm=0, **SMALL)
    plain = frame_world("plain", "orthorhombic", 5, mosaic=0.2, arm=0, **SMALL)
    module = world.effects[-1]["module"]
    inside = world.module == module
    moved, still = (np.sum([w.bragg(0, z) for z in range(60)], axis=0) for w in (world, plain))
    assert moved[~inside] == pytest.approx(still[~inside])
    far = [np.fft.fft2(np.where(inside, image, 0)) for image in (moved, still)]
    shift = np.fft.ifft2(far[0] * far[1].conj()).real
    at = np.array(np.unravel_index(shift.argmax(), shift.shape))
    at = (at + np.array(shift.shape) // 2) % shift.shape - np.array(shift.shape) // 2
    assert at == pytest.approx(-np.asarray(world.effects[-1]["shift"]), abs=0.8)


def test_rings_and_coarse_steps() -> None:
    world = frame_world("rings:aluminium", "cubic", 5, 2.0, **SMALL)
    plain = frame_world("plain", "cubic", 5, **SMALL)
    extra = (world.background - plain.background) / world.solid_angle
    q111 = 2 * np.pi / 4.0495 * np.sqrt(3)
    on = (abs(world.q - q111) < 2e-4 * q111) & (world.weight > 0.5)
    assert extra[on] == pytest.approx(
        (2 * (world.air + world.diffuse) * world.weight)[on], rel=0.01
    )
    off = abs(world.q - 0.93 * q111) < 0.01
    assert extra[off].max() < 1e-9
    grains = frame_world("rings:aluminium-grains", "cubic", 5, 2.0, **SMALL)
    assert len(grains.passages(0)[0]) > len(plain.passages(0)[0]) + 100

    coarse = frame_world("coarse_steps", "cubic", 5, **SMALL)
    assert (coarse.sample.scans[0].step, coarse.beam.shape[1]) == (2.0, 15)
    fine = np.sum([plain.expected(0, z) for z in range(8, 12)], axis=0)
    assert coarse.expected(0, 2) == pytest.approx(fine, rel=0.02, abs=0.02)


def hkl_in_file(path: Path, cell_UB: Array, z: Array, slow: Array, fast: Array) -> Array:
    """Return hkl of frames and pixels by what an NXmx file states."""
    with h5py.File(path) as file:
        chain, frames = file["entry/sample/transformations"], z.astype(int)
        name = file["entry/sample"]["depends_on"][()].decode().rsplit("/", 1)[-1]
        turns = np.broadcast_to(np.eye(3), (len(z), 3, 3))
        while name != ".":
            angle = np.broadcast_to(chain[name][()], file["entry/data/data"].shape[:1])[frames]
            angle = angle + (0.25 if name == "omega" else 0)
            turns = np.array([turn(chain[name].attrs["vector"], a) for a in angle]) @ turns
            name = str(chain[name].attrs["depends_on"]).rsplit("/", 1)[-1]
        module = file["entry/instrument/detector/module"]
        r = module["module_offset"][()] * module["module_offset"].attrs["vector"]
        for at, axis in ((slow, "slow_pixel_direction"), (fast, "fast_pixel_direction")):
            r = r + np.outer(at + 0.5, module[axis][()] * module[axis].attrs["vector"])
        k = 2 * np.pi / file["entry/instrument/beam/incident_wavelength"][()]
    Q = k * (r / np.linalg.norm(r, axis=1, keepdims=True) - [0, 0, 1])
    return np.linalg.solve(turns @ cell_UB, Q[..., None])[..., 0]


@pytest.mark.parametrize("kind", ["plain", "wrong_header:beam"])
def test_files_say_where_reflections_are(kind: str, tmp_path: Path) -> None:
    world = frame_world(kind, "tetragonal", 8, mosaic=0.1, arm=0, rotations=2, **SMALL)
    paths = write(world, tmp_path)
    for r, path in enumerate(paths):
        with h5py.File(path) as file:
            frames = file["entry/data/data"][()]
            mask = file["entry/instrument/detector/pixel_mask"][()] > 0
            assert (frames[:, mask] == MASKED).all()
        assert (frames[17] == world.frame(r, 17)).all()
        z, slow, fast = np.nonzero((frames > 500) & ~mask)
        hkl = hkl_in_file(path, world.draft.UB, z, slow, fast)
        off = np.median(np.abs(hkl - np.round(hkl)).max(axis=1))
        assert (off < 0.06) == (kind == "plain")
    samples = (tmp_path / "config" / "samples.tsv").read_text().splitlines()
    assert samples[1].split("\t")[1] == world.draft.space_group
    assert len((tmp_path / "config" / "scans.tsv").read_text().splitlines()) == 3


def test_sixteen_bits_without_a_monitor(tmp_path: Path) -> None:
    world = frame_world("plain", "cubic", 8, n_frames=24, shape=(60, 64), pixel_size=1.3e-3)
    world.air = 1e6
    (path,) = write(world, tmp_path, style=Style("u2", compressed=False, monitor=False))
    with h5py.File(path) as file:
        frames, module = file["entry/data/data"][()], world.module
        assert frames.dtype == np.uint16
        assert (frames[:, module < 0] == 65535).all()
        assert frames[:, module >= 0].max() == 65534
        assert file["entry/instrument/detector/saturation_value"][()] == 65534
        assert "monitor" not in file["entry"]
    assert "monitor: none" in (tmp_path / "config" / "config.yaml").read_text()


@pytest.mark.slow
def test_every_kind_makes_frames() -> None:
    tiny = {"n_frames": 24, "shape": (60, 64), "pixel_size": 1.3e-3}
    seen: set[str] = set()
    for kind, system, seed in frame_catalogue(70):
        if seen.isdisjoint({kind.partition(":")[0]}):
            seen.add(kind.partition(":")[0])
            world = frame_world(kind, system, seed, **tiny)
            frame = world.frame(0, world.beam.shape[1] - 1)
            assert frame[world.module >= 0].max() <= world.saturation
            again = frame_world(kind, system, seed, **tiny)
            assert (again.frame(0, world.beam.shape[1] - 1) == frame).all()
    assert seen >= {*FRAME_KINDS, *KINDS}


def test_the_catalogue_has_every_kind_in_two_systems() -> None:
    entries = frame_catalogue(100)
    assert entries == frame_catalogue(100)
    for n in (60, 100):
        assert min(Counter(s for _, s, _ in entries[:n]).values()) >= 5
    systems: dict[str, set[str]] = {}
    for kind, system, _ in entries[:58]:
        systems.setdefault(kind.partition(":")[0], set()).add(system)
    for name in (*FRAME_KINDS, *KINDS):
        possible = systems_of(name) if name not in FRAME_KINDS else SYSTEMS
        assert len(systems[name]) >= min(2, len(possible)), name
