"""The absolute scale of S(Q) against worlds of a stranger, whose scale is known.

S and intensities are computed from the truth of a world, with the noise of counting. Compton
scattering and form factors of the worlds are fits to other tables than those of hklflow.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.truth.quantitative import World
from tests.truth.quantitative_catalogue import SEEN
from tests.truth.quantitative_intensities import bragg_scan, of

from hklflow.bragg import absolute, high_angle
from hklflow.bragg.structure import Structure
from hklflow.bragg.structure_factors import Scaled
from hklflow.formats.cif_structure import read_structure
from hklflow.geometry import symmetry
from hklflow.geometry.grid import Grid
from hklflow.quality import absolute as judged
from hklflow.volumes.zones import ZoneSums

LIMITS = judged.Limits(max_error=0.05, min_level=0.65, max_block_scatter=0.15)


def structure_of(w: World, folder: Path) -> Structure:
    path = folder / "crystal.cif"
    path.write_text(w.crystal.cif("x"))
    return read_structure(path)


def drift(r: int, z: int) -> float:
    """A transmission that is known to 3 %."""
    return 1 + 0.03 * np.sin(0.05 * z + r)


def by_bragg(w: World, scan: Scaled, folder: Path, limits: Any = LIMITS) -> judged.Estimate:
    group = symmetry.space_group(w.crystal.space_group)
    found, _ = absolute.against_structure(
        absolute.as_measured(scan), structure_of(w, folder), w.crystal.cell, group,
        w.crystal.wavelength,
    )  # fmt: skip
    fits = [absolute.fit_ratio(found, w.crystal.wavelength, x) for x in (False, True)]
    return judged.from_bragg(*fits, limits)


@pytest.mark.parametrize("seed", SEEN[:1])
@pytest.mark.parametrize("name", ["sphere", "plate", "needle", "capillary"])
def test_bragg_intensities_give_the_scale(name: str, seed: int, tmp_path: Path) -> None:
    w = of(name, seed)
    estimate = by_bragg(w, bragg_scan(w, seed, transmission=drift), tmp_path)
    assert estimate.factor, estimate.refusal
    assert estimate.sigma
    error = estimate.factor * w.scale - 1
    assert abs(error) < 0.02
    assert abs(error) < 3 * estimate.sigma / estimate.factor < 0.06


def test_error_bars_of_bragg_scales_are_right(tmp_path: Path) -> None:
    w = of("plate", SEEN[0])
    group = symmetry.space_group(w.crystal.space_group)
    structure = structure_of(w, tmp_path)
    pulls = []
    for seed in range(24):
        nodes = np.random.default_rng(seed).normal(1, 0.05, (2, 10))

        def unsteady(r: int, z: int, nodes: Any = nodes) -> float:
            return float(np.interp(z, np.linspace(0, 180, 10), nodes[r]))

        scan = absolute.as_measured(bragg_scan(w, seed, transmission=unsteady))
        found, _ = absolute.against_structure(
            scan, structure, w.crystal.cell, group, w.crystal.wavelength
        )
        fit = absolute.fit_ratio(found, w.crystal.wavelength, extinction=False)
        pulls.append((fit.log_scale - np.log(w.scale)) / fit.log_scale_sigma)
    # Blocks of 30° are not independent, and there are twelve.
    assert 0.7 < np.std(pulls) < 1.6
    assert abs(np.mean(pulls)) < 0.7


def test_extinction_is_reported_and_corrected(tmp_path: Path) -> None:
    w = of("sphere", SEEN[0])
    strongest = w.crystal.structure_factors(6)[1].max() * (2 * np.pi) ** 3 / w.crystal.volume
    x = 1 / strongest / w.crystal.wavelength**2
    estimate = by_bragg(w, bragg_scan(w, 1, extinction=x), tmp_path)
    assert estimate.factor, estimate.refusal
    assert estimate.factor * w.scale == pytest.approx(1, abs=0.02)
    assert any("extinction is fitted" in note for note in estimate.notes)
    assert estimate.figures["extinction"] == pytest.approx(x, rel=0.2)
    assert not by_bragg(w, bragg_scan(w, 1), tmp_path).notes


@pytest.mark.parametrize("seed", SEEN[:1])
def test_an_unknown_transmission_is_refused(seed: int, tmp_path: Path) -> None:
    w = of("undetermined", seed)

    def unknown(r: int, z: int) -> float:
        return float(w.nodes(r, "sample")[z].mean())

    estimate = by_bragg(w, bragg_scan(w, seed, transmission=unknown), tmp_path)
    assert estimate.factor is None
    assert "the transmission of the sample is not known" in estimate.refusal


def test_a_wrong_structure_is_refused(tmp_path: Path) -> None:
    w = of("sphere", SEEN[0])
    scan = bragg_scan(w, 1)
    mixed = np.random.default_rng(0).permutation(len(scan))
    scan = replace(scan, intensity=scan.intensity[mixed], sigma_counting=scan.sigma[mixed])
    estimate = by_bragg(w, scan, tmp_path)
    assert estimate.factor is None
    assert "do not follow the structure" in estimate.refusal


def test_the_indexing_that_fits_the_structure_is_chosen(tmp_path: Path) -> None:
    w = of("furnace", SEEN[0])  # 4/m: h and k can be exchanged
    scan = bragg_scan(w, 1)
    scan = replace(scan, hkl=scan.hkl[:, [1, 0, 2]] * [1, 1, -1])
    estimate = by_bragg(w, scan, tmp_path)
    assert estimate.factor, estimate.refusal
    assert estimate.factor * w.scale == pytest.approx(1, abs=0.02)


def by_reference(w: World, scan: Scaled, reference: Scaled, factor: float) -> judged.Estimate:
    group = symmetry.space_group(w.crystal.space_group)
    one, other = absolute.as_measured(scan), absolute.as_measured(reference)
    fits = [
        absolute.fit_ratio(
            absolute.against_reference(*pair, group), w.crystal.wavelength, extinction=False
        )
        for pair in ((one, other), (other, one))
    ]
    return judged.from_reference(*fits, factor, 0.005 * factor, LIMITS)


@pytest.mark.parametrize("seed", SEEN[:1])
@pytest.mark.parametrize("name", ["plate", "needle", "polar hexagonal"])
def test_a_reference_scan_gives_the_scale(name: str, seed: int) -> None:
    w = of(name, seed)
    scan = bragg_scan(w, seed, transmission=drift, scale=0.37)
    estimate = by_reference(w, scan, bragg_scan(w, seed + 1), 1 / w.scale)
    assert estimate.factor, estimate.refusal
    assert estimate.sigma
    error = estimate.factor * 0.37 * w.scale - 1
    assert abs(error) < 0.02
    assert abs(error) < 3.5 * estimate.sigma / estimate.factor < 0.06


def by_high_angles(
    w: World,
    folder: Path,
    *,
    background: Any = None,
    known: float | None = 0.0,
    counts: float = 50.0,
) -> judged.Estimate:
    """Judge a volume of all directions up to the largest |Q| of the detector's nearer edge."""
    crystal = w.crystal
    q_max = float(np.quantile(w.q, 0.9))
    cell, B = np.array(crystal.cell), crystal.B
    limit = np.floor(q_max * cell[:3] / 2 / np.pi)
    grid = Grid.symmetric(limit + 0.4, 0.2)
    structure = structure_of(w, folder)
    curve = high_angle.smooth_curve(structure, crystal.wavelength, 2 * q_max)
    sums = ZoneSums(grid, cell, curve)
    rng = np.random.default_rng(w.seed)
    h, k, m = (grid.axis(i) for i in range(3))
    # |F|² is in the voxel of the reflection: the mean over the 5³ voxels of its zone.
    hkl, power = crystal.structure_factors(q_max * 1.2)
    bragg = {tuple(row): p for row, p in zip(hkl.tolist(), power.tolist(), strict=True)}
    for first, plane in enumerate(m):
        at = np.stack(np.meshgrid([plane], k, h, indexing="ij"), -1)[..., ::-1]
        q = np.linalg.norm(at @ B.T, axis=-1)
        S = crystal.S(at) + crystal.compton(q)
        if background is not None:
            S = S + background(q)
        if plane == round(plane):
            for i, j in np.argwhere((k == np.round(k))[:, None] & (h == np.round(h))):
                S[0, i, j] += 125 * bragg.get((int(h[j]), int(k[i]), int(plane)), 0.0)
        norm = np.where(q < q_max, counts / w.scale / crystal.limit(q_max), 0.0)
        seen = rng.poisson(norm * w.scale * S).astype(float)
        sums.add(first, seen, norm, seen)
    zones = sums.zones()
    model = high_angle.expected(zones, cell, structure, crystal.wavelength)
    kept = judged.usable(model, zones.measured, LIMITS)
    fit = high_angle.fit_high_angle(zones.select(kept), model.select(kept)) if kept.sum() else None
    whole = zones.measured > 0.9
    top = int(np.argmax(np.where(whole, model.q, 0)))
    return judged.from_high_angles(fit, float(model.q[top]), float(model.level[top]), known, LIMITS)


@pytest.mark.parametrize("seed", SEEN[:1])
@pytest.mark.parametrize("name", ["furnace", "diamond cell"])
@pytest.mark.slow
def test_high_angles_give_the_scale(name: str, seed: int, tmp_path: Path) -> None:
    w = of(name, seed)
    estimate = by_high_angles(w, tmp_path)
    assert estimate.factor, estimate.refusal
    assert estimate.sigma
    error = estimate.factor * w.scale - 1
    assert abs(error) < 0.02
    assert abs(error) < 3 * estimate.sigma / estimate.factor < 0.09


@pytest.mark.parametrize("name", ["sphere", "plate", "capillary"])
def test_a_small_reach_is_refused(name: str, tmp_path: Path) -> None:
    estimate = by_high_angles(of(name, SEEN[0]), tmp_path)
    assert estimate.factor is None
    assert "measure to larger |Q|" in estimate.refusal


def rising(q: Any) -> Any:
    return 200 * np.exp(-((q / 8) ** 2)) + 60


def test_an_unknown_background_gives_only_a_bound(tmp_path: Path) -> None:
    w = of("furnace", SEEN[0])
    estimate = by_high_angles(w, tmp_path, background=rising, known=None)
    assert estimate.factor is None
    assert "subtract an empty run" in estimate.refusal
    assert estimate.figures["factor is larger than"] < 1 / w.scale


def test_a_background_that_was_overlooked_is_refused(tmp_path: Path) -> None:
    # 25 % of the scattering at 13 1/Å, 40 % at 18.
    w = of("furnace", SEEN[0])
    estimate = by_high_angles(w, tmp_path, background=lambda q: 250 + 0 * q, known=0.0)
    assert estimate.factor is None
    assert "does not fall like the scattering of the atoms" in estimate.refusal


def test_methods_that_disagree_are_reported() -> None:
    one = judged.Estimate(judged.BRAGG, 2.0, 0.02)
    near = judged.Estimate(judged.REFERENCE, 2.06, 0.04)
    far = judged.Estimate(judged.HIGH_ANGLES, 2.4, 0.06)
    off = judged.Estimate(judged.HIGH_ANGLES, refusal="no")
    assert judged.combine([off]) == judged.AbsoluteScale(None, None, "", ())
    agreed = judged.combine([near, one, off])
    assert (agreed.factor, agreed.sigma, agreed.warnings) == (2.0, pytest.approx(0.02), ())
    apart = judged.combine([one, far])
    assert apart.factor == 2.0
    assert apart.sigma == pytest.approx(2 * np.log(1.2))
    assert "+20.0% off the scale from Bragg intensities" in apart.warnings[0]
