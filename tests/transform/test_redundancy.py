"""Scale of the frames from repeated measurements: simulated frames with a known scale."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn

from hklflow.base.errors import HklflowError
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice, symmetry
from hklflow.geometry.grid import Grid
from hklflow.stages import refine_scale
from hklflow.transform import redundancy, repeats
from hklflow.transform.sums import Readout
from hklflow.volumes.symmetrise import images

SHAPE = (60, 64)
CUBIC, TETRAGONAL, TRICLINIC = (
    ("P m -3 m", (5, 5, 5, 90, 90, 90)),
    ("P 4/m m m", (5, 5, 7, 90, 90, 90)),
    ("P -1", (5, 6, 7, 80, 95, 102)),
)
Floats = NDArray[np.float64]


@dataclass
class World:
    """Rotations of one crystal whose S(Q) is a sum of waves with the symmetry of its group."""

    group: str
    cell: tuple[float, ...]
    seed: int
    level: float
    step: float = 3.6  # degrees: a full turn
    n: int = 100

    def __post_init__(self) -> None:
        # Axes of the detector are oblique to those of the scan and of the crystal.
        turn = Turn.from_euler("xyz", (4, -7, 11), degrees=True).as_matrix()
        self.detector = Detector(
            shape=SHAPE,
            pixel_size=(1.4e-3, 1.4e-3),
            origin=turn @ (-0.043, 0.04, 0.07),
            slow=turn @ (0, -1, 0),
            fast=turn @ (1, 0, 0),
        )
        self.ub = Turn.random(rng=self.seed).as_matrix() @ lattice.b_matrix(self.cell)
        self.operations = symmetry.space_group(self.group).laue_operations
        # The waves are even in x and y, and symmetric.
        pairs = {frozenset(tuple(np.abs(row)) for row in op[:2]) for op in self.operations}
        self.waves = [np.array(sorted(pair)) for pair in sorted(pairs, key=sorted)]
        self.grid = Grid.covering(self.cell, 14.0, 0.1)

    def rotation(self, chi: float) -> Rotation:
        axis = Turn.from_euler("z", chi, degrees=True).apply((1.0, 0.0, 0.0))
        return Rotation(
            beam=Beam(wavelength=0.7),
            detector=self.detector,
            goniometer=Goniometer.single(axis),
            scan=Scan(np.radians(10), np.radians(self.step), self.n),
        )

    def hkl(self, rotation: Rotation, frame: float) -> Floats:
        """Return hkl (slow, fast, 3) by the definitions alone."""
        slow, fast = np.indices(SHAPE) + 0.5
        at = self.detector.origin + 1.4e-3 * (
            slow[..., None] * self.detector.slow + fast[..., None] * self.detector.fast
        )
        s = at / np.linalg.norm(at, axis=-1, keepdims=True)
        turn = rotation.goniometer.rotation(rotation.scan.angle(np.array([frame])))[0]
        return 2 * np.pi / 0.7 * (s - (0, 0, 1)) @ np.linalg.inv(turn @ self.ub).T

    def intensity(self, hkl: Floats) -> Floats:
        terms = []
        for wave in self.waves:
            x, y = np.moveaxis(2 * np.pi * (hkl @ wave.T), -1, 0)
            terms.append(1 + 2 * (1 + np.cos(x)) * (1 + np.cos(y)))
        return self.level * np.mean(terms, axis=0)

    def frames(self, rotation: Rotation, scale: Floats, seed: int) -> NDArray[np.uint32]:
        rng = np.random.default_rng(seed)
        expected = (s * self.intensity(self.hkl(rotation, z + 0.5)) for z, s in enumerate(scale))
        return np.stack([rng.poisson(x).astype(np.uint32) for x in expected])

    def records(
        self, rotations: list[Rotation], scales: list[Floats], norms: list[Floats]
    ) -> repeats.Records:
        maps = images(self.grid, self.operations)
        orbit = repeats.orbits(self.grid, maps.turns, maps.shifts, 0, 1)
        parts = []
        for number, (rotation, scale, norm) in enumerate(
            zip(rotations, scales, norms, strict=True)
        ):
            frames = self.frames(rotation, scale * norm, 100 * self.seed + number)
            pixel = np.ones(SHAPE)
            own = repeats.Repeats(rotation, number, self.ub, self.grid, orbit, pixel, norm)
            for z in range(len(frames)):
                own.add(frames[z : z + 1], z)
            parts.append(own.records())
        return repeats.Records.joined(parts, orbit, gap=2.5)


def refined(records: repeats.Records, splines: redundancy.Splines) -> redundancy.Scale:
    """Refine the scale of frames that were not summed, with a background that is known."""
    return redundancy.refine(records, splines, unknown=0.0, every=1)


def curve(n: int, seed: int, depth: float = 0.3) -> Floats:
    """Return a scale that changes smoothly by a factor of nearly 2."""
    x = np.arange(n) / n + seed
    return 1 + depth * np.sin(7 * x) + 0.08 * np.cos(23 * x)


def pulls(found: redundancy.Scale, scales: list[Floats]) -> tuple[Floats, Floats]:
    """Return deviations of ln s over all rotations, and the claimed standard deviations."""
    zero = np.log(scales[0]).mean()
    off, sigma = [], []
    for number, scale in enumerate(scales):
        s, covariance = found.of_frames(number)
        off.append(np.log(s) - np.log(scale) + zero)
        sigma.append(np.sqrt(np.diag(covariance)))
    return np.concatenate(off), np.concatenate(sigma)


@pytest.mark.parametrize(
    ("crystal", "level"),
    [
        pytest.param(CUBIC, 0.1, marks=pytest.mark.slow),
        pytest.param(CUBIC, 5, marks=pytest.mark.slow),
        pytest.param(TETRAGONAL, 1, marks=pytest.mark.slow),
        (TRICLINIC, 3),
    ],
)
def test_the_scale_is_right_within_its_errors(crystal: Any, level: float) -> None:
    """Also for few counts, and for diffuse scattering that turns with the crystal."""
    squares = []
    for seed in (1, 2, 3):
        world = World(*crystal, seed, level)
        scale = curve(world.n, seed)
        records = world.records([world.rotation(0)], [scale], [np.ones(world.n)])
        found = refined(records, redundancy.Splines((world.n,), (40,), (1,), (0, 0), SHAPE))
        off, sigma = pulls(found, [scale])
        assert np.sqrt(np.mean(off**2)) < 0.03
        squares.append(np.mean((off / sigma) ** 2))
    # Each curve has some 15 to 30 independent parts.
    assert 0.5 < np.mean(squares) < 1.6


def test_rotations_are_scaled_to_each_other() -> None:
    world = World(*TETRAGONAL, 4, 1.0)
    rotations = [world.rotation(0), world.rotation(40)]
    scales = [curve(world.n, 1), 1.7 * curve(world.n, 2)]
    norms = [np.ones(world.n), np.where(np.arange(world.n) < 50, 1.0, 0.2)]  # an attenuator
    records = world.records(rotations, scales, norms)
    found = refined(records, redundancy.Splines((world.n,) * 2, (30, 30), (1, 1), (0, 0), SHAPE))
    off, sigma = pulls(found, scales)
    assert np.sqrt(np.mean(off**2)) < 0.008
    assert abs(off[world.n :].mean()) < 4 * sigma[world.n :].mean()


@pytest.mark.slow
def test_rotations_without_a_common_orbit_have_no_common_scale() -> None:
    world = World(*TETRAGONAL, 5, 1.0)
    scales = [curve(world.n, 1), 1.7 * curve(world.n, 2)]
    rotations, norms = [world.rotation(0), world.rotation(40)], [np.ones(world.n)] * 2
    records = world.records(rotations, scales, norms)
    apart = records.take(np.argsort(records.voxel + 10**9 * (records.rotation == 1)))
    apart = replace(apart, voxel=apart.voxel + (10**9 * (apart.rotation == 1)).astype(np.int32))
    found = refined(apart, redundancy.Splines((world.n,) * 2, (30, 30), (1, 1), (0, 0), SHAPE))
    off, sigma = pulls(found, scales)
    assert np.allclose(sigma[world.n :], np.sqrt(2), atol=0.2)
    # The stage reports it.
    task = refine_scale._Task(None, [], ["r1", "r2"], rotations)  # type: ignore[arg-type]
    params = refine_scale.Params(direction_intervals=1, told_error=0.02, told_chi2=2)
    ones = [np.ones(world.n)] * 2
    sums = refine_scale._Sums(apart, 1, ones)
    used, warnings = refine_scale._fit(sums, task, params, known=True)
    assert used is not None
    assert [w for w in warnings if "scale of r2 relative to r1 is not determined" in w] == warnings
    sums = refine_scale._Sums(records, 1, ones)
    assert refine_scale._fit(sums, task, params, known=True)[1] == []
    # The curve of each is known nevertheless.
    assert off[: world.n].std() < 0.02
    assert off[world.n :].std() < 0.02


@pytest.mark.slow
def test_a_factor_with_a_large_error_is_used_only_if_the_start_has_a_larger_one() -> None:
    world = World(*TETRAGONAL, 4, 1.0)
    rotations = [world.rotation(0)]
    records = world.records(rotations, [curve(world.n, 1)], [np.ones(world.n)])
    task = refine_scale._Task(None, [], ["r1"], rotations)  # type: ignore[arg-type]
    params = refine_scale.Params(direction_intervals=1, told_error=1e-5)
    for of_start, used in ((0.0, False), (1e-4, False), (0.5, True)):
        sums = refine_scale._Sums(records, 1, [np.ones(world.n)], of_start)
        found, warnings = refine_scale._fit(sums, task, params, known=True)
        assert (found is not None) is used
        assert f"error of frame_scale {of_start:.1%}" in warnings[0]


def test_a_fit_that_does_not_come_to_rest_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(*TETRAGONAL, 7, 1.0)
    scale = curve(world.n, 1)
    records = world.records([world.rotation(0)], [scale], [np.ones(world.n)])
    splines = redundancy.Splines((world.n,), (20,), (1,), (0, 0), SHAPE)
    assert refined(records, splines).at_rest
    monkeypatch.setattr(redundancy, "_NEWTON", 1)
    assert not refined(records, splines).at_rest


def test_some_orbits_are_enough_for_the_second_derivatives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fit with many parameters converges to the same place, with about the same errors."""
    world = World(*TETRAGONAL, 7, 3.0)
    scale = curve(world.n, 1)
    records = world.records([world.rotation(0)], [scale], [np.ones(world.n)])
    splines = redundancy.Splines((world.n,), (12,), (4,), (2, 2), SHAPE)
    every = refined(records, splines)
    monkeypatch.setattr(redundancy, "_REPEATS", 5)
    monkeypatch.setattr(redundancy, "_ORBITS", 1)
    numbers = np.unique(records.voxel, return_counts=True)[1]
    assert len(redundancy._some(numbers, splines.size, 5)) < 0.2 * len(numbers)
    some = refined(records, splines)
    assert some.at_rest
    (s, covariance), (t, other) = every.of_frames(0), some.of_frames(0)
    errors = np.sqrt(np.diag(covariance))
    assert np.abs(np.log(s / t)).max() < 0.5 * errors.max()
    assert np.sqrt(np.diag(other)).mean() == pytest.approx(errors.mean(), rel=0.5)


@pytest.mark.parametrize("air", [0.0, 3.0])
@pytest.mark.slow
def test_counts_that_do_not_follow_the_scale_are_noticed(air: float) -> None:
    world = World(*TETRAGONAL, 4, 3.0)
    rotations = [world.rotation(0), world.rotation(40)]
    of_crystal = world.frames

    def with_air(rotation: Rotation, scale: Floats, seed: int) -> NDArray[np.uint32]:
        frames = of_crystal(rotation, scale, seed)
        return frames + np.random.default_rng(seed).poisson(air, frames.shape).astype(np.uint32)

    world.frames = with_air  # type: ignore[method-assign]
    scales = [curve(world.n, 1), curve(world.n, 2)]
    records = world.records(rotations, scales, [np.ones(world.n)] * 2)
    splines = redundancy.Splines((world.n,) * 2, (12, 12), (1, 1), (0, 0), SHAPE)
    without = refined(records, splines)
    share, error = without.steady
    truth = air * records.norm.sum() / records.counts.sum()
    # One step towards the share, which is too long for a large one.
    assert truth - 4 * error < share < 1.5 * truth + 4 * error
    assert error < 0.01
    assert not without.allowed  # because its width is given as 0
    allows = redundancy.refine(records, splines, unknown=1.0, every=1)
    assert allows.allowed == (air > 0)
    off = [pulls(found, scales)[0].std() for found in (without, allows)]
    assert off[1] < (0.6 if air > 0 else 1.01) * off[0]


def test_the_pull_of_the_prior_is_not_taken_for_a_background() -> None:
    """A factor of the direction that changes more than the prior likes, at few counts."""
    world = World(*TETRAGONAL, 5, 0.5)
    slow, fast = (i / n for i, n in zip(np.indices(SHAPE), SHAPE, strict=True))

    def directed(rotation: Rotation, scale: Floats, seed: int) -> NDArray[np.uint32]:
        rng, frames = np.random.default_rng(seed), []
        for z, s in enumerate(scale):
            factor = s * np.exp(np.cos(6 * fast + 0.05 * z) * np.cos(5 * slow))
            frames.append(rng.poisson(factor * world.intensity(world.hkl(rotation, z + 0.5))))
        return np.array(frames, np.uint32)

    world.frames = directed  # type: ignore[method-assign]
    records = world.records([world.rotation(0)], [curve(world.n, 3)], [np.ones(world.n)])
    splines = redundancy.Splines((world.n,), (12,), (4,), (2, 2), SHAPE)
    share, error = refined(records, splines).steady
    # The few splines of the detector do not describe the factor; the pull would make it -0.1.
    assert abs(share) < 0.03
    assert error < 0.007


def test_noise_of_single_frames_is_found_and_taken_off() -> None:
    """A monitor with 3 % of noise; a smooth curve alone is wrong by it, and says less."""
    world, rng = World(*TETRAGONAL, 9, 4.0), np.random.default_rng(9)
    noise = 0.03 * rng.normal(size=world.n)
    scale = curve(world.n, 1) * np.exp(noise)
    records = world.records([world.rotation(0)], [scale], [np.ones(world.n)])
    splines = redundancy.Splines((world.n,), (20,), (1,), (0, 0), SHAPE)
    found = refined(records, splines)
    assert 0.02 < found.noise < 0.04
    off, sigma = pulls(found, [scale])
    assert off.std() < 0.5 * noise.std()
    assert 0.7 < np.sqrt(np.mean((off / sigma) ** 2)) < 1.5


def test_a_start_that_wanders_does_not_make_small_errors() -> None:
    """At few counts; waves of the start as short as a few splines, on a level curve."""
    squares = []
    for seed in (1, 2, 3):
        world = World(*TETRAGONAL, 20 + seed, 0.15)
        x = np.arange(world.n) / world.n
        scale = 1 + 0.05 * np.sin(2 * np.pi * (6 * x + seed / 3))
        records = world.records([world.rotation(0)], [scale], [np.ones(world.n)])
        splines = redundancy.Splines((world.n,), (30,), (1,), (0, 0), SHAPE)
        off, sigma = pulls(refined(records, splines), [scale])
        squares.append(np.mean((off / sigma) ** 2))
    assert np.mean(squares) < 2


@pytest.mark.parametrize("right", [True, False])
def test_steps_of_the_start_are_kept_or_removed(right: bool) -> None:
    """Steps that no spline can follow, in the transmission or in the start alone."""
    world, rng = World(*TETRAGONAL, 11, 6.0), np.random.default_rng(11)
    start = np.exp(0.03 * np.repeat(rng.normal(size=world.n // 4), 4))
    scale = np.ones(world.n) if right else 1 / start
    records = world.records([world.rotation(0)], [scale], [start])
    splines = redundancy.Splines((world.n,), (8,), (1,), (0, 0), SHAPE)
    found = redundancy.refine(records, splines, unknown=0.0, every=1, through=[start])
    factor, covariance = found.of_frames(0)
    off = np.log(factor / scale)
    off -= off.mean()
    sigma = np.sqrt(np.diag(covariance))
    assert off.std() < 0.1 * np.log(start).std()
    assert np.sqrt(np.mean((off / sigma) ** 2)) < 2


@pytest.mark.slow
def test_a_background_that_nobody_knows_is_in_the_errors() -> None:
    world = World(*TETRAGONAL, 4, 3.0)
    of_crystal = world.frames

    def with_air(rotation: Rotation, scale: Floats, seed: int) -> NDArray[np.uint32]:
        frames = of_crystal(rotation, scale, seed)
        return frames + np.random.default_rng(seed).poisson(2.0, frames.shape).astype(np.uint32)

    world.frames = with_air  # type: ignore[method-assign]
    scale = curve(world.n, 1)
    records = world.records([world.rotation(0)], [scale], [np.ones(world.n)])
    share = 2.0 * records.norm.sum() / records.counts.sum()
    splines = redundancy.Splines((world.n,), (12,), (1,), (0, 0), SHAPE)
    # A width so small that the share is not fitted.
    width = float(share) / 2
    found = redundancy.refine(records, splines, unknown=width, every=1)
    assert not found.allowed
    off, sigma = pulls(found, [scale])
    off -= off.mean()
    by_background = found.off_by(0) - found.off_by(0).mean()
    # Nearly all of the error is what the background does, with the share that it has.
    assert off.std() > 3 * sigma.mean()
    assert abs(np.corrcoef(off, by_background)[0, 1]) > 0.9
    assert 0.5 < off.std() / by_background.std() < 1.5
    # The stage reports it, also where a measured background is not all.
    task = refine_scale._Task(None, [], ["r1"], [world.rotation(0)])  # type: ignore[arg-type]
    sums = refine_scale._Sums(records, 1, [np.ones(world.n)])
    params = refine_scale.Params(direction_intervals=1, told_error=0.02, told_chi2=3)
    for known in (False, True):
        warnings = refine_scale._fit(sums, task, params, known)[1]
        assert sum("of the counts between reflections" in x for x in warnings) == 1
    # Where the norm holds a transmission already, the background does not follow it.
    through = redundancy.refine(
        replace(records, norm=records.norm * scale[records.frame.astype(int)].astype("f4")),
        splines,
        unknown=width,
        every=1,
        through=[scale],
    )
    for_share = [one.off_by(0) / one.unknown for one in (through, found)]
    assert np.corrcoef(*for_share)[0, 1] > 0.98
    assert for_share[0].std() == pytest.approx(for_share[1].std(), rel=0.1)


def test_nothing_was_measured_twice() -> None:
    nothing = np.zeros(0)
    records = repeats.Records(*(nothing.astype(t) for t in ("i4", "u2", *["f4"] * 6)))
    with pytest.raises(HklflowError, match="measured twice"):
        refined(records, redundancy.Splines((10,), (8,), (1,), (0, 0), SHAPE))


def test_records_are_sums_over_voxels() -> None:
    """Compare with sums by the definition, block by block; flags and masked pixels are left out."""
    world = World(*TETRAGONAL, 6, 2.0, n=8)
    rotation, maps = world.rotation(15), images(world.grid, world.operations)
    orbit = repeats.orbits(world.grid, maps.turns, maps.shifts, 0.15, 1)
    rng = np.random.default_rng(1)
    pixel = rng.uniform(0.5, 1, SHAPE)
    pixel[:5] = 0
    norm = np.linspace(1, 2, 8)
    frames = world.frames(rotation, norm, 7)
    frames[3, 20, 20] = 2**32 - 1
    below, leak = rng.uniform(0, 1, SHAPE), np.linspace(2, 1, 8)
    masked = rng.random((8, *SHAPE)) < 0.1
    own = repeats.Repeats(
        rotation,
        3,
        world.ub,
        world.grid,
        orbit,
        pixel,
        norm,
        Readout(2**32 - 1),
        block=(2, 4),
        background=[(below, leak / 2), (below**2, leak), (below - 2 * below**2, leak / 2)],
    )
    own.add(frames[:4], 0, masked[:4].astype(np.uint8))
    own.add(frames[4:], 4, masked[4:].astype(np.uint8))
    records = own.records()
    expected: dict[tuple[Any, float], Floats] = {}
    for first in (0, 4):
        hkl = world.hkl(rotation, first + 2.0)
        for i, j in np.ndindex(SHAPE[0] // 2, SHAPE[1] // 4):
            block = np.s_[2 * i : 2 * i + 2, 4 * j : 4 * j + 4]
            used = pixel[block] > 0
            if not used.any():
                continue
            index = np.floor(hkl[block][used].mean(axis=0) / 0.1 + 0.5).astype(int)
            if (abs(index * 0.1 - np.rint(index * 0.1)) < 0.15).all():
                continue
            for z in range(first, first + 4):
                good = used & ~masked[z][block] & (frames[z][block] < 2**32 - 1)
                sums = expected.setdefault((tuple(index[::-1]), first + 2.0), np.zeros(3))
                sums += (
                    frames[z][block][good].sum(),
                    pixel[block][good].sum() * norm[z],
                    below[block][good].sum() * leak[z],
                )
    h, k, l = (n // 2 for n in world.grid.shape)  # noqa: E741
    places = np.stack(np.unravel_index(records.voxel, world.grid.array_shape), 1) - (l, k, h)
    found: dict[tuple[Any, float], Floats] = {}
    columns = np.stack([records.counts, records.norm, records.background], 1)
    for place, frame, row in zip(places.tolist(), records.frame.tolist(), columns, strict=True):
        found.setdefault((tuple(place), frame), np.zeros(3))[:] += row
    assert found.keys() == expected.keys()
    for key, sums in expected.items():
        assert found[key][0] == sums[0]
        assert np.allclose(found[key], sums, rtol=1e-5)
    assert (records.rotation == 3).all()


@pytest.mark.slow
def test_a_factor_of_the_direction_is_found_and_a_background_does_no_harm() -> None:
    """The factor turns with the crystal; the background stays on the detector."""
    world = World(*TRICLINIC, 8, 6.0)
    rotations = [world.rotation(0), world.rotation(50)]
    maps = images(world.grid, world.operations)
    orbit = repeats.orbits(world.grid, maps.turns, maps.shifts, 0, 1)
    x, y = np.indices(SHAPE) / np.array(SHAPE)[:, None, None] - 0.5
    below = 4 * (1 + x)
    rng, parts, truth = np.random.default_rng(4), [], []
    for number, rotation in enumerate(rotations):
        angle = np.radians(world.step * (np.arange(world.n) + 0.5))
        factor = np.stack([0.3 * (np.cos(a) * x + np.sin(a) * y) for a in angle])
        truth.append(factor)
        own = repeats.Repeats(
            rotation,
            number,
            world.ub,
            world.grid,
            orbit,
            np.ones(SHAPE),
            np.ones(world.n),
            background=[(below, np.ones(world.n))],
        )
        for z in range(world.n):
            signal = np.exp(factor[z]) * world.intensity(world.hkl(rotation, z + 0.5))
            own.add(rng.poisson(signal + below)[None].astype(np.uint32), z)
        parts.append(own.records())
    records = repeats.Records.joined(parts, orbit, gap=2.5)
    splines = redundancy.Splines((world.n,) * 2, (10, 10), (8, 8), (3, 3), SHAPE)
    found = refined(records, splines)
    assert found.chi2_after < found.chi2
    # Without the background, its share is taken for a factor.
    nothing = replace(records, background=np.zeros_like(records.background))
    wrong = refined(nothing, splines)
    places = redundancy.Places(np.arange(SHAPE[0]) + 0.5, np.arange(SHAPE[1]) + 0.5)
    middle = np.arange(world.n) + 0.5
    for number, factor in enumerate(truth):
        off, more = (
            splines.of_direction(number, one.parameters, middle, places) - factor
            for one in (found, wrong)
        )
        assert off.std() < 0.15 * factor.std()
        assert more.std() > 1.5 * off.std()
        s, _ = found.of_frames(number)
        assert np.std(np.log(s)) < 0.01
