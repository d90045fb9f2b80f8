"""The mask of predicted reflections against geometry, and against scans whose truth is known."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hklflow import nexus
from hklflow.base.errors import HklflowError
from hklflow.bragg.model_mask import Ellipsoids, ModelMask, reflections, touched
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.grid import Grid
from hklflow.images import mask3d
from hklflow.images.masks import MaskBit
from hklflow.images.scan import RotationScan
from hklflow.peaks.search import PeakTable, find_peaks
from hklflow.simulation.frames import GAP_VALUE, Cosine, Diffuse, Simulation
from hklflow.stages import mask_3d
from hklflow.transform.binning import Accumulator
from tests.truth import bragg_scans as simulated
from tests.truth.defaults import peak_params
from tests.truth.orientations import write_orientation

N_SIGMA = 5.0


def mask_of(
    ellipsoids: Ellipsoids, good: np.ndarray, n_frames: int, block: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """The mask (frame, slow, fast) and the numbers of good pixels, from blocks of frames."""
    model = ModelMask(ellipsoids, good)
    packed = np.zeros((n_frames, good.shape[0], -(-good.shape[1] // 8)), np.uint8)
    added = [model.add(packed[z : z + block], z) for z in range(0, n_frames, block)]
    return mask3d.unpack(packed, good.shape[1]), np.concatenate(added)


# ----------------------------------------------------------------------------- painting


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            *(st.floats(-4.0, 16.0), st.floats(-4.0, 24.0), st.floats(-4.0, 31.0)),
            *(st.floats(0.05, 6.0),) * 3,
        ),
        max_size=4,
    ),
    st.integers(1, 12),
)
def test_a_voxel_is_excluded_if_its_nearest_point_is_inside(
    rows: list[tuple[float, ...]], block: int
) -> None:
    numbers = np.array(rows, np.float64).reshape(-1, 6)
    centre, half = numbers[:, :3], numbers[:, 3:]
    shape = (12, 20, 27)
    found, added = mask_of(Ellipsoids(centre, half), np.ones(shape[1:], bool), 12, block)
    corner = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    expected = np.zeros(shape, bool)
    for c, h in zip(centre, half, strict=True):
        nearest = np.clip(c, corner, corner + 1)
        distance = (((nearest - c) / h) ** 2).sum(axis=-1)
        expected |= distance < 1
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(added, expected.sum(axis=(1, 2)))


def test_it_adds_to_a_mask_and_counts_what_is_new_and_good() -> None:
    good = np.ones((20, 20), bool)
    good[:, 10:] = False
    block = np.zeros((1, 20, 20), bool)
    block[0, 5:8, 3:6] = True
    packed = mask3d.pack(block)
    one = Ellipsoids(np.array([[0.5, 6.5, 9.9]]), np.array([[2.0, 4.0, 4.0]]))
    added = ModelMask(one, good).add(packed, 0)
    alone, _ = mask_of(one, good, 1)
    after = mask3d.unpack(packed, 20)
    np.testing.assert_array_equal(after, block | alone)
    assert added.tolist() == [int(((after & ~block) & good).sum())]
    assert 0 < added[0] < alone.sum()


@pytest.mark.parametrize("half", [(0.4, 0.3, 0.6), (1.7, 3.2, 2.5), (12.0, 4.0, 6.0)])
def test_the_number_of_voxels_is_that_of_geometry(half: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(1)
    n = 400
    numbers = []
    for shift in rng.uniform(size=(n, 3)):
        ellipsoid = Ellipsoids(np.array([[15.0, 15.0, 15.0]]) + shift, np.array([half]))
        numbers.append(mask_of(ellipsoid, np.ones((31, 31), bool), 31, 31)[0].sum())
    error = np.std(numbers) / np.sqrt(n)
    assert abs(np.mean(numbers) - touched([half])[0]) < 4 * error + 1e-9


@pytest.mark.parametrize(
    ("centre", "half", "told"),
    [
        (np.zeros((2, 3)), np.ones((1, 3)), "both must be \\(n, 3\\)"),
        (np.full((1, 3), np.nan), np.ones((1, 3)), "finite"),
        (np.zeros((1, 3)), np.array([[1.0, 0.0, 1.0]]), "above 0"),
    ],
)
def test_what_is_no_ellipsoid_is_refused(centre: np.ndarray, half: np.ndarray, told: str) -> None:
    with pytest.raises(HklflowError, match=told):
        Ellipsoids(centre, half)


def test_masks_of_another_detector_are_refused() -> None:
    model = ModelMask(Ellipsoids(np.zeros((0, 3)), np.zeros((0, 3))), np.ones((20, 20), bool))
    with pytest.raises(HklflowError, match="do not fit a detector of \\(20, 20\\)"):
        model.add(np.zeros((1, 20, 2), np.uint8), 0)


# ----------------------------------------------------------------------- simulated scans


@cache
def measured(crystal: str) -> tuple[Simulation, np.ndarray, PeakTable]:
    """A scan with strong reflections on structured diffuse scattering, and its peaks."""
    diffuse = Diffuse(0.5, cosines=(Cosine(0.2, (1, 0, 0)), Cosine(0.15, (0, 1, 1))))
    simulation = simulated.scan(crystal, n_frames=120, diffuse=diffuse)
    counts = np.concatenate(list(simulation.frames(block=32)))
    params = peak_params(invalid_from=float(GAP_VALUE), min_significance=8.0)
    return simulation, counts, find_peaks([counts], ~simulation.live, params)


@pytest.mark.slow
@pytest.mark.parametrize("crystal", ["hexagonal", "triclinic"])
def test_bragg_intensity_is_masked_and_few_voxels_without_it_are(crystal: str) -> None:
    """More than 99.9 % and less than 1 % with half axes of 3.5 σ; the default leaves nothing."""
    simulation, counts, peaks = measured(crystal)
    rotation, group = simulated.rotation_of(simulation), simulated.group(crystal)
    diffuse = replace(simulation, crystal=replace(simulation.crystal, scale=0.0)).expected()
    bragg = simulation.expected() - diffuse
    without = simulation.live & (bragg < 0.01 * np.sqrt(diffuse))
    assert without.mean() > 0.5
    # The scans are crowded: ellipsoids of the default cover 8 % of all voxels.
    for n_sigma, left, lost in ((3.5, 1e-3, 0.01), (N_SIGMA, 1e-6, 0.06)):
        ellipsoids = reflections(rotation, simulation.ub, group, peaks, n_sigma)
        mask, _ = mask_of(ellipsoids, simulation.live, len(counts))
        assert bragg[~mask].sum() < left * bragg.sum()
        assert mask[without].mean() < lost


@pytest.mark.slow
@pytest.mark.parametrize("crystal", ["hexagonal", "triclinic"])
def test_what_is_left_is_the_diffuse_scattering(crystal: str) -> None:
    simulation, counts, peaks = measured(crystal)
    rotation = simulated.rotation_of(simulation)
    group = simulated.group(crystal)
    ellipsoids = reflections(rotation, simulation.ub, group, peaks, N_SIGMA)
    mask, _ = mask_of(ellipsoids, simulation.live, len(counts))
    diffuse = replace(simulation, crystal=replace(simulation.crystal, scale=0.0)).expected()
    bragg = simulation.expected() - diffuse
    assert bragg.sum() > 1e5
    assert bragg[~mask].sum() < 1e-3 * bragg.sum()

    # S around each Bragg position, outside of the mask, against the S that was simulated.
    norm = simulation.norm()
    near = np.zeros_like(mask)
    pulls = []
    for centre, half in zip(ellipsoids.centre, ellipsoids.half, strict=True):
        low = np.clip(np.floor(centre - 2 * half), 0, mask.shape).astype(int)
        high = np.clip(np.ceil(centre + 2 * half), 0, mask.shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        use = ~mask[box] & (norm[box] > 0)
        near[box] |= use
        if use.sum() > 50:
            mu = diffuse[box][use].sum()
            pulls.append((counts[box][use].sum() - mu) / np.sqrt(mu))
    assert len(pulls) > 100
    assert abs(np.mean(pulls)) < 0.2
    assert 0.9 < np.std(pulls) < 1.1
    total = diffuse[near].sum()
    assert abs(counts[near].sum() - total) < 4 * np.sqrt(total)


@pytest.mark.slow
def test_the_transformed_volume_holds_the_diffuse_scattering_alone() -> None:
    """Around every Bragg position: S of the masked volume, and of the one that is not masked."""
    simulation, counts, peaks = measured("triclinic")
    rotation = simulated.rotation_of(simulation)
    ellipsoids = reflections(rotation, simulation.ub, simulated.group("triclinic"), peaks, N_SIGMA)
    model = ModelMask(ellipsoids, simulation.live)
    diffuse = replace(simulation, crystal=replace(simulation.crystal, scale=0.0)).expected()
    grid = Grid.symmetric((7.0, 8.0, 9.0), (0.1, 0.1, 0.1))
    frame_norm = simulation.scan.frame_factor
    pixel_norm = simulation.norm(0, 1)[0] / frame_norm[0]
    volumes = []
    for frames in (counts.astype(np.float64), diffuse):
        into = Accumulator(rotation, simulation.ub, grid, pixel_norm, frame_norm)
        for z in range(0, len(frames), 30):
            packed = np.zeros((30, frames.shape[1], -(-frames.shape[2] // 8)), np.uint8)
            model.add(packed, z)
            into.add(frames[z : z + 30], z, packed)
        volumes.append((into.total()[0], into.clean()[0]))
    (every, kept), (every_true, kept_true) = volumes
    hkl = np.rint(rotation.hkl(simulation.ub, *ellipsoids.centre.T))
    at = np.unique(np.rint((hkl - grid.first) / grid.step).astype(int), axis=0)
    at = at[np.all((at >= 3) & (at + 4 <= np.array(grid.shape)), axis=1)]

    def around(volume: np.ndarray) -> np.ndarray:
        """Sums over 0.5 r.l.u. around the Bragg positions."""
        return np.array(
            [volume[n - 2 : n + 3, k - 2 : k + 3, h - 2 : h + 3].sum() for h, k, n in at]
        )

    mu = around(kept_true)
    seen = mu > 20
    pull = ((around(kept) - mu) / np.sqrt(np.maximum(mu, 1.0)))[seen]
    assert seen.sum() > 100
    assert abs(pull.mean()) < 4 / np.sqrt(len(pull))
    assert 0.88 < pull.std() < 1.12
    # What the reflections add to the whole volume is gone.
    added = (around(every) - around(every_true)).sum()
    assert abs((around(kept) - mu).sum()) < 1e-3 * added + 4 * np.sqrt(mu.sum())
    assert added > 1e5


def test_the_part_that_is_masked_is_that_of_geometry() -> None:
    simulation, counts, peaks = measured("triclinic")
    rotation = simulated.rotation_of(simulation)
    ellipsoids = reflections(rotation, simulation.ub, simulated.group("triclinic"), peaks, N_SIGMA)
    mask, _ = mask_of(ellipsoids, simulation.live, len(counts))
    true = simulation.true_peaks()
    # The widths that were simulated, for all reflections within; those at borders are cut.
    expected = touched(N_SIGMA * true.sigma).sum() / mask.size
    assert 0.9 * expected < mask.mean() < 1.35 * expected
    # Nothing is masked where there is no reflection.
    inside = np.all(
        (ellipsoids.centre > 0) & (ellipsoids.centre < np.array(mask.shape)), axis=1
    ).sum()
    assert abs(inside - len(true.hkl)) < 0.05 * len(true.hkl)


def test_absent_reflections_are_not_masked() -> None:
    simulation, _, peaks = measured("hexagonal")
    rotation = simulated.rotation_of(simulation)
    group = simulated.group("hexagonal")
    ellipsoids = reflections(rotation, simulation.ub, group, peaks, N_SIGMA)
    hkl = rotation.hkl(simulation.ub, *ellipsoids.centre.T)
    np.testing.assert_allclose(hkl, np.rint(hkl), atol=1e-6)
    assert not group.is_absent(np.rint(hkl)).any()


def test_too_few_peaks_are_refused() -> None:
    simulation, _, peaks = measured("hexagonal")
    rotation = simulated.rotation_of(simulation)
    with pytest.raises(HklflowError, match="the mask from the model needs 20"):
        reflections(
            rotation,
            simulation.ub,
            simulated.group("hexagonal"),
            peaks.select(np.arange(15)),
            N_SIGMA,
        )


# ------------------------------------------------------------------------------ the stage


def test_the_stage_adds_the_reflections_to_the_artefacts(tmp_path: Path) -> None:
    simulation, counts, peaks = measured("triclinic")
    rotation = simulated.rotation_of(simulation)
    with NXmxWriter(tmp_path / "raw.nxs", NXmxHeader(**simulation.raw_header())) as writer:
        writer.append(counts)
    n = len(counts)
    scan = RotationScan(
        str(tmp_path / "raw.nxs"), 0, rotation, np.ones(n), np.ones(n), np.ones(n), "none"
    )
    nexus.write_scan(tmp_path / "scan.nxs", scan, "scan", None)
    bad = np.where(simulation.live, 0, int(MaskBit.GAP)).astype(np.uint32)
    nexus.write_mask(tmp_path / "mask.nxs", bad)
    nexus.write_peaks(tmp_path / "peaks.nxs", peaks)
    write_orientation(tmp_path / "orientation.json", {"r1": rotation}, simulation.ub, "P -1")

    def run(name: str, **params: object) -> tuple[np.ndarray, np.ndarray]:
        outputs = mask_3d.Outputs(
            frame_mask=tmp_path / f"{name}.nxs", picture=tmp_path / f"{name}.png"
        )
        more = {} if name == "plain" else {
            "orientation": tmp_path / "orientation.json", "peaks": tmp_path / "peaks.nxs"
        }  # fmt: skip
        mask_3d.main(
            inputs=mask_3d.Inputs(scan=tmp_path / "scan.nxs", mask=tmp_path / "mask.nxs", **more),
            outputs=outputs,
            params=mask_3d.Params(**params),
        )
        with nexus.open_frame_mask(outputs.frame_mask) as file:
            return mask3d.unpack(file[0:n], counts.shape[2]), file._flagged

    plain, _ = run("plain")
    both, flagged = run("model", model=True, rotation="r1")
    alone, _ = mask_of(
        reflections(rotation, simulation.ub, simulated.group("triclinic"), peaks, N_SIGMA),
        simulation.live,
        n,
    )
    assert (alone & ~plain).any()
    np.testing.assert_array_equal(both, plain | alone)
    np.testing.assert_array_equal(flagged, both.any(axis=(1, 2)))
    with pytest.raises(HklflowError, match="give --orientation, --peaks and --rotation"):
        run("model", model=True)
    with pytest.raises(HklflowError, match="has no rotation 'r2' \\(it has r1\\)"):
        run("model", model=True, rotation="r2")
