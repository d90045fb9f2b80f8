"""I(hkl, T): rows of one reflection over the scans of a sample."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
from nexusformat.nexus import nxload

from hklflow.base.errors import HklflowError
from hklflow.bragg import series
from hklflow.bragg.structure_factors import Crystal, Means, StructureFactors
from hklflow.geometry import lattice, symmetry
from hklflow.nexus import structure_factors as files
from hklflow.stages import bragg_series
from tests import taken

CELL = (5.0, 6.0, 7.0, 90.0, 90.0, 90.0)


def scan_of(
    name: str,
    temperature: float | None,
    parent: str = "T300",
    *,
    group: str = "P m m m",
    cell: tuple[float, ...] = CELL,
    scale: float = 1.0,
    decay: float = 0.0,
    seed: int = 0,
    part: float = 0.9,
) -> tuple[Crystal, StructureFactors]:
    """Intensities with the scale and ΔB given; that of 0 0 2 grows on cooling."""
    rng = np.random.default_rng(seed)
    hkl = symmetry.possible_reflections(cell, symmetry.space_group(group), 0.9)
    hkl = hkl[rng.random(len(hkl)) < part]
    d = lattice.d_spacing(cell, hkl)
    true = 100 * (1 + np.abs(np.sin(hkl @ [1, 2, 3])))
    value = scale * true * np.exp(-2 * decay * 0.25 / d**2)
    special = np.all(hkl == [0, 0, 2], axis=1)
    value = np.where(special, 500 - (temperature or 0.0), value)
    sigma = np.full(len(hkl), 0.5)
    mean = Means(value + sigma * rng.standard_normal(len(hkl)), sigma, np.full(len(hkl), 4))
    root = np.sqrt(np.maximum(mean.intensity, 0))
    factors = StructureFactors(hkl, d, mean, root, 0.1 * root, np.ones(len(hkl), bool))
    crystal = Crystal("salt", name, parent, group, cell, (0.001,) * 6, 0.4, temperature)
    return crystal, factors


@pytest.fixture
def scans() -> list[tuple[Crystal, StructureFactors]]:
    return [
        scan_of("T100", 100.0, scale=0.8, decay=-0.4, seed=1, cell=(4.98, 5.98, 6.97, 90, 90, 90)),
        scan_of("T300", 300.0, seed=2),
        scan_of("T200", 200.0, scale=1.1, decay=-0.2, seed=3),
    ]


def test_rows_hold_what_the_scans_hold(scans: list[tuple[Crystal, StructureFactors]]) -> None:
    found = series.line_up(scans)
    assert found.scans == ("T300", "T200", "T100")
    assert set(found.settings) == {"T300"}
    row = {tuple(h): i for i, h in enumerate(found.hkl.tolist())}
    assert len(row) == len(found.hkl)
    for crystal, factors in scans:
        at = found.scans.index(crystal.scan)
        rows = [row[tuple(h)] for h in factors.hkl.tolist()]
        np.testing.assert_array_equal(found.intensity[rows, at], factors.mean.intensity)
        np.testing.assert_array_equal(found.n[rows, at], factors.mean.n)
        others = np.setdiff1d(np.arange(len(found.hkl)), rows)
        assert len(others) > 5
        assert np.all(np.isnan(found.intensity[others, at]))
    assert not found.notes


def test_scale_relative_to_the_parent(scans: list[tuple[Crystal, StructureFactors]]) -> None:
    found = series.line_up(scans)
    assert found.scale[0] == 1
    assert found.scale_sigma[0] == 0
    for i, scale, decay in ((1, 1.1, -0.2), (2, 0.8, -0.4)):
        assert abs(found.scale[i] - scale) < 4 * found.scale_sigma[i] < 0.05
        assert abs(found.decay[i] - decay) < 4 * found.decay_sigma[i] < 0.2


def test_other_cells_and_groups_have_rows_of_their_own(
    scans: list[tuple[Crystal, StructureFactors]],
) -> None:
    low = scan_of("T50", 50.0, "T50", cell=(10.0, 6.0, 7.0, 90, 90, 90))
    other = scan_of("T60", 60.0, "T60", group="P 2/m 1 1")
    again = scan_of("T40", 40.0, "T50", cell=(10.0, 6.0, 7.0, 90, 90, 90), seed=5)
    found = series.line_up([*scans, low, other, again])
    assert list(dict.fromkeys(found.settings)) == ["T300", "T60", "T50"]
    own = np.array(found.settings) == "T50"
    members = [found.scans.index("T50"), found.scans.index("T40")]
    assert np.all(np.isnan(found.intensity[own][:, [i for i in range(6) if i not in members]]))
    assert found.scale[members[1]] == pytest.approx(1, abs=0.02)


def test_lonely_scans_are_told(scans: list[tuple[Crystal, StructureFactors]]) -> None:
    found = series.line_up([scans[0]])
    assert "its parent T300 is not given" in found.notes[0]
    few = scan_of("T250", 250.0, part=0.03)
    found = series.line_up([scans[1], few])
    assert "reflections in common" in found.notes[0]
    assert np.isnan(found.scale[1])


def test_scans_of_two_samples_are_refused(scans: list[tuple[Crystal, StructureFactors]]) -> None:
    with pytest.raises(HklflowError, match="give scans of one sample, each once"):
        series.line_up([scans[0], scans[0]])


def test_stage(scans: list[tuple[Crystal, StructureFactors]], tmp_path: Path) -> None:
    paths = []
    everything = [*scans, scan_of("unknown", None, seed=9)]
    for crystal, factors in everything:
        paths.append(tmp_path / f"{crystal.scan}.nxs")
        files.write_factors(paths[-1], factors, crystal, {}, "t")
    out = bragg_series.Outputs(
        table=tmp_path / "i.tsv", series=tmp_path / "i.nxs", picture=tmp_path / "i.png"
    )
    bragg_series.main(
        inputs=bragg_series.Inputs(factors=paths), outputs=out, params=bragg_series.Params(shown=3)
    )
    with out.table.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == sum(len(factors) for _, factors in everything)
    known = {
        (c.scan, *h): i
        for c, f in everything
        for *h, i in zip(*f.hkl.T, f.mean.intensity, strict=True)
    }
    for row in rows:
        key = (row["scan"], *(int(row[x]) for x in "hkl"))
        assert float(row["I"]) == pytest.approx(known[key], rel=1e-8)
    assert {row["temperature"] for row in rows if row["scan"] == "unknown"} == {""}
    root = nxload(out.series)
    data = root.plottable_data
    assert data.nxsignal.shape == (len(root.entry.reflections.h), 3)
    np.testing.assert_array_equal(root.entry.intensity.temperature.nxdata, [100, 200, 300])
    with h5py.File(out.series) as file:
        assert file["entry/scans/intensity"].shape[1] == 4
    assert out.picture.stat().st_size > 5000
    assert taken.accepted(out.series, out.table) == set()


def test_strongest_change_comes_first(scans: list[tuple[Crystal, StructureFactors]]) -> None:
    from hklflow.plots.structure_factors import changes

    found = series.line_up(scans)
    figure = changes(found, 2, "t")
    assert figure.axes[0].get_title() == "0 0 2"
    # The other reflections change by scale and B alone: so would this one (scale and B of `scans`).
    (row,) = np.flatnonzero(np.all(found.hkl == [0, 0, 2], axis=1))
    dashed = figure.axes[0].lines[-1]
    s2 = 0.25 / found.d[row] ** 2
    factor = [1, 1.1 * np.exp(0.4 * s2), 0.8 * np.exp(0.8 * s2)]  # 300, 200, 100 K
    np.testing.assert_array_equal(dashed.get_xdata(), [300, 200, 100])
    np.testing.assert_allclose(dashed.get_ydata() / dashed.get_ydata()[0], factor, rtol=0.01)


def test_a_small_change_stands_out_from_the_scale(
    scans: list[tuple[Crystal, StructureFactors]],
) -> None:
    """A tenth of a weak reflection, where the scale changes the strong ones by far more errors."""
    from hklflow.plots.structure_factors import changes

    found = series.line_up(scans)
    found.intensity[np.all(found.hkl == [0, 0, 2], axis=1)] = np.nan
    whole = np.isfinite(found.intensity).all(axis=1)
    weak = np.flatnonzero(whole)[np.argmin(found.intensity[whole, 0])]
    found.intensity[weak, 2] *= 1.1
    figure = changes(found, 1, "t")
    assert figure.axes[0].get_title() == " ".join(map(str, found.hkl[weak]))


@pytest.mark.parametrize("decay", [0.5, 4.0])
def test_a_crystal_whose_reflections_fade_keeps_its_scale(decay: float) -> None:
    """Those that came out negative count like the others: else the fading looks weaker."""
    pulls = []
    for seed in range(6):
        hot = scan_of("hot", 900.0, "T300", scale=0.02, decay=decay, seed=seed)
        found = series.line_up([scan_of("T300", 300.0, seed=90 + seed), hot])
        at = found.scans.index("hot")
        assert decay < 1 or np.mean(hot[1].mean.intensity < 0) > 0.05
        pulls.append(
            (
                (found.scale[at] - 0.02) / found.scale_sigma[at],
                (found.decay[at] - decay) / found.decay_sigma[at],
            )
        )
    assert np.abs(np.mean(pulls, axis=0)).max() < 1.5
    assert np.abs(pulls).max() < 4
