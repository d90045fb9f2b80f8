"""Statistics of merging against iotbx, gemmi and the true correlation."""

import io

import gemmi
import numpy as np
import pytest

from hklflow.bragg import observations, shells
from hklflow.bragg.merging import Merged
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry import symmetry
from tests.truth.defaults import gather, merge, scale, scaling_settings, shell_statistics
from tests.truth.reflections import Truth, rotation

GROUP = "P 21 21 21"


@pytest.fixture(scope="module")
def truth() -> Truth:
    rotations = [rotation(span=70), rotation(start=30, span=60, kappa=50)]
    return Truth(group=GROUP, rotations=rotations, noise=(1.0, 0.03), strength=1.0, d_min=0.8)


@pytest.fixture(scope="module")
def table(truth: Truth) -> Scaled:
    group = symmetry.space_group(GROUP)
    observed, _ = gather(truth.tables, truth.rotations, group, "profile")
    spans = [observations.span(one) for one in truth.rotations]
    scaled = scale(observed, group, spans, scaling_settings()).scaled(observed)
    return scaled.select(~group.is_absent(scaled.hkl))


def merged_of(truth: Truth, table: Scaled, anomalous: bool = False) -> Merged:
    return merge(table, truth.cell, symmetry.space_group(GROUP), anomalous, 99.0)


@pytest.mark.parametrize("anomalous", [False, True])
def test_as_iotbx(truth: Truth, table: Scaled, anomalous: bool) -> None:
    from cctbx import crystal, miller
    from cctbx.array_family import flex
    from iotbx import merging_statistics

    of_crystal = crystal.symmetry(unit_cell=truth.cell, space_group_symbol=GROUP)
    indices = flex.miller_index([tuple(h) for h in table.hkl.tolist()])
    array = miller.array(
        miller.set(of_crystal, indices, anomalous_flag=anomalous),
        flex.double(table.intensity),
        flex.double(table.sigma),
    ).set_observation_type_xray_intensity()
    oracle = merging_statistics.dataset_statistics(
        array,
        n_bins=5,
        anomalous=anomalous,
        sigma_filtering=None,
        use_internal_variance=False,
        log=io.StringIO(),
    ).overall
    merged = merged_of(truth, table, anomalous)
    found = shell_statistics(merged, truth.cell, symmetry.space_group(GROUP), 2).overall
    assert found["observations"] == oracle.n_obs
    assert found["unique"] == oracle.n_uniq
    assert 0.8 < found["completeness"] < 1
    for name, value in (
        ("completeness", oracle.completeness),
        ("multiplicity", oracle.mean_redundancy),
        ("mean I", oracle.i_mean),
        ("I/sigma", oracle.i_over_sigma_mean),
        ("R_merge", oracle.r_merge),
        ("R_meas", oracle.r_meas),
        ("R_pim", oracle.r_pim),
    ):
        assert found[name] == pytest.approx(value, rel=1e-9), name
    # Other random halves.
    assert found["CC1/2"] == pytest.approx(oracle.cc_one_half, abs=0.01)


def test_as_gemmi(truth: Truth, table: Scaled) -> None:
    data = gemmi.Intensities()
    data.set_data(
        gemmi.UnitCell(*truth.cell),
        gemmi.SpaceGroup(GROUP),
        table.hkl.astype(np.int32),
        table.intensity,
        table.sigma,
    )
    data.prepare_for_merging(gemmi.DataType.Mean)
    oracle = data.calculate_merging_stats(None)[0]
    merged = merged_of(truth, table)
    found = shell_statistics(merged, truth.cell, symmetry.space_group(GROUP), 2).overall
    assert found["observations"] == oracle.all_refl
    assert found["unique"] == oracle.unique_refl
    # gemmi's deviations are from means that are not weighted, or of single precision.
    for name, value in (
        ("R_merge", oracle.r_merge()),
        ("R_meas", oracle.r_meas()),
        ("R_pim", oracle.r_pim()),
    ):
        assert found[name] == pytest.approx(value, rel=0.02), name
    assert found["CC1/2"] == pytest.approx(oracle.cc_half(), abs=0.01)


def test_shells_add_up_and_are_complete_as_cctbx_says(truth: Truth, table: Scaled) -> None:
    from cctbx import crystal, miller

    group = symmetry.space_group(GROUP)
    found = shell_statistics(merged_of(truth, table), truth.cell, group, 2, n_shells=7)
    assert len(found.rows) == 7
    for name in ("observations", "unique", "possible"):
        assert sum(row[name] for row in found.rows) == found.overall[name]
    of_crystal = crystal.symmetry(unit_cell=truth.cell, space_group_symbol=GROUP)
    for row in found.rows:
        every = miller.build_set(of_crystal, False, d_min=row["d min"], d_max=row["d max"])
        assert row["possible"] == every.size()
    volumes = np.diff([0, *(row["d min"] ** -3 for row in found.rows)])
    np.testing.assert_allclose(volumes, volumes[0], rtol=1e-6)


def test_cc_star_is_the_true_correlation(truth: Truth, table: Scaled) -> None:
    merged = merged_of(truth, table)
    several = merged.factors.mean.n >= 4
    assert several.sum() > 200
    true = np.array([truth.unique[tuple(h)] for h in merged.factors.hkl.tolist()])
    expected = np.corrcoef(merged.factors.mean.intensity, true)[0, 1]
    row = shell_statistics(merged, truth.cell, symmetry.space_group(GROUP), 2).overall
    assert 0.9 < expected < 0.999
    assert row["CC*"] == pytest.approx(expected, abs=0.25 * (1 - expected) + 0.002)
    for name in ("CC of rotations", "CC of odd and even frames"):
        assert row[name] == pytest.approx(row["CC1/2"], abs=0.02)


def test_halves_of_noise_do_not_correlate(truth: Truth, table: Scaled) -> None:
    from dataclasses import replace

    rng = np.random.default_rng(4)
    noise = replace(table, intensity=rng.standard_normal(len(table)), sigma=np.ones(len(table)))
    row = shell_statistics(merged_of(truth, noise), truth.cell, symmetry.space_group(GROUP), 2)
    assert abs(row.overall["CC1/2"]) < 0.15
    assert abs(row.overall["CC of rotations"]) < 0.2


def test_without_equivalents_it_is_told(truth: Truth, table: Scaled) -> None:
    _, first = np.unique(
        symmetry.space_group(GROUP).asymmetric(table.hkl), axis=0, return_index=True
    )
    merged = merged_of(truth, table.select(np.sort(first)))
    found = shell_statistics(merged, truth.cell, symmetry.space_group(GROUP), 1)
    assert found.overall["multiplicity"] == 1
    for name in ("R_merge", "R_meas", "R_pim", "CC1/2", "CC*"):
        assert found.overall[name] is None
    assert "CC of rotations" not in found.overall
    assert "not known" in shells.line(found)


def test_fall_off(truth: Truth, table: Scaled) -> None:
    # Intensities were made with exp(-2 · 1.0 s²).
    found = shell_statistics(merged_of(truth, table), truth.cell, symmetry.space_group(GROUP), 2)
    assert found.fall_off["B"] == pytest.approx(1.0, abs=4 * found.fall_off["B sigma"])
    assert found.fall_off["B sigma"] < 0.3
