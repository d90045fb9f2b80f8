"""From integrated reflections to files: what is written is what other programs read."""

import csv
import json
from pathlib import Path

import gemmi
import h5py
import numpy as np
import pytest
from nexusformat.nexus import nxload

from hklflow.base.errors import HklflowError
from hklflow.bragg.reflections import UNFIT, ReflectionFlag
from hklflow.bragg.structure_factors import StructureFactors
from hklflow.nexus import structure_factors as files
from hklflow.stages import merge_reflections, scale_reflections
from tests.truth.reflections import Files, Truth, rotation


def scale(written: Files, folder: Path, **settings: object) -> scale_reflections.Outputs:
    out = scale_reflections.Outputs(
        scaled=folder / "scaled.nxs", picture=folder / "scaled.png", metrics=folder / "scaled.json"
    )
    scale_reflections.main(
        inputs=scale_reflections.Inputs(
            reflections=written.reflections, orientation=written.orientation
        ),
        outputs=out,
        params=scale_reflections.Params(rotations=written.rotations, **settings),
    )
    return out


def merge(written: Files, folder: Path, **settings: object) -> merge_reflections.Outputs:
    out = merge_reflections.Outputs(
        factors=folder / "sf.nxs",
        mtz=folder / "sf.mtz",
        hkl=folder / "sf.hkl",
        table=folder / "sf.tsv",
        picture=folder / "sf.png",
        metrics=folder / "sf.json",
    )
    merge_reflections.main(
        inputs=merge_reflections.Inputs(
            scaled=folder / "scaled.nxs", orientation=written.orientation
        ),
        outputs=out,
        params=merge_reflections.Params(**settings),
    )
    return out


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth(
        group="P 21 21 21",
        rotations=[rotation(), rotation(kappa=50)],
        noise=(1.2, 0.03),
        anomalous=0.1,
        d_min=0.8,
    )


@pytest.fixture(scope="module")
def folder(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bragg")
    written = truth.write(folder)
    scale(written, folder, anomalous=True)
    merge(written, folder, anomalous=True)
    return folder


@pytest.fixture(scope="module")
def factors(folder: Path) -> StructureFactors:
    return files.read_factors(folder / "sf.nxs").factors


def by_index(hkl: np.ndarray) -> dict[tuple[int, ...], int]:
    return {tuple(h): row for row, h in enumerate(np.asarray(hkl).tolist())}


def test_gemmi_reads_the_mtz_file(folder: Path, factors: StructureFactors) -> None:
    mtz = gemmi.read_mtz_file(str(folder / "sf.mtz"))
    assert mtz.spacegroup.hm == "P 21 21 21"
    np.testing.assert_allclose(mtz.cell.parameters, (7.2, 8.3, 9.1, 90, 90, 90), rtol=1e-6)
    assert mtz.dataset(1).wavelength == pytest.approx(0.4, rel=1e-6)
    rows = by_index(mtz.make_miller_array())
    assert len(rows) == len(factors) == len(mtz.array)
    order = [rows[tuple(h)] for h in factors.hkl.tolist()]
    assert factors.plus is not None
    assert factors.minus is not None
    for label, values in (
        ("IMEAN", factors.mean.intensity),
        ("SIGIMEAN", factors.mean.sigma),
        ("N", factors.mean.n),
        ("F", factors.amplitude),
        ("SIGF", factors.amplitude_sigma),
        ("I(+)", factors.plus.intensity),
        ("SIGI(+)", factors.plus.sigma),
        ("I(-)", factors.minus.intensity),
        ("SIGI(-)", factors.minus.sigma),
        ("N(-)", np.where(factors.minus.n > 0, factors.minus.n, np.nan)),
    ):
        found = np.array(mtz.column_with_label(label))[order]
        np.testing.assert_allclose(found, values, rtol=1e-6, err_msg=label)
    kinds = {c.label: c.type for c in mtz.columns}
    assert kinds["IMEAN"] == "J"
    assert kinds["I(+)"] == "K"
    assert kinds["SIGI(-)"] == "M"


def test_iotbx_reads_the_mtz_file(folder: Path, factors: StructureFactors) -> None:
    from iotbx import mtz

    arrays = {a.info().labels[0]: a for a in mtz.object(str(folder / "sf.mtz")).as_miller_arrays()}
    rows = by_index(factors.hkl)
    mean = arrays["IMEAN"]
    order = [rows[h] for h in mean.indices()]
    np.testing.assert_allclose(mean.data(), factors.mean.intensity[order], rtol=1e-6)
    np.testing.assert_allclose(mean.sigmas(), factors.mean.sigma[order], rtol=1e-6)
    pairs = arrays["I(+)"]
    assert pairs.anomalous_flag()
    assert factors.minus is not None
    minus = [
        (value, factors.minus.intensity[rows[tuple(-x for x in h)]])
        for h, value in zip(pairs.indices(), pairs.data(), strict=True)
        if h not in rows
    ]
    assert len(minus) == int(np.sum(factors.minus.n > 0)) > 300
    np.testing.assert_allclose(*np.array(minus).T, rtol=1e-6)


def test_friedel_mates_differ_as_they_should(truth: Truth, factors: StructureFactors) -> None:
    plus, minus = factors.plus, factors.minus
    assert plus is not None
    assert minus is not None
    true = np.array([truth.unique[tuple(h)] for h in factors.hkl.tolist()])
    acentric = ~truth.space_group.is_centric(factors.hkl) & (minus.n > 0) & (plus.n > 0)
    assert np.all(minus.n[truth.space_group.is_centric(factors.hkl)] == 0)
    difference = (plus.intensity - minus.intensity)[acentric]
    sigma = np.hypot(plus.sigma, minus.sigma)[acentric]
    pull = (difference - 0.1 * true[acentric]) / sigma
    assert 0.85 < pull.std() < 1.15
    assert abs(pull.mean()) < 0.3


def unmerged_of(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Fixed columns 3I4, 2F8, I4, and the factor told after the end."""
    rows, lines = [], path.read_text().splitlines()
    for text in lines:
        columns = [text[0:4], text[4:8], text[8:12], text[12:20], text[20:28], text[28:32]]
        if all(int(c) == 0 for c in columns[:3]):
            break
        rows.append([float(c) for c in columns])
    table = np.array(rows)
    factor = float(next(x for x in lines if "times" in x).split()[4])
    assert np.all(table[:, 5] == 1)
    return table[:, :3].astype(int), table[:, 3] / factor, table[:, 4] / factor, factor


def test_shelx_file_merges_to_the_same(folder: Path, factors: StructureFactors) -> None:
    from cctbx import crystal
    from iotbx.shelx import hklf

    hkl, intensity, sigma, factor = unmerged_of(folder / "sf.hkl")
    scaled = files.read_scaled(folder / "scaled.nxs").scaled
    assert np.log10(factor) == round(np.log10(factor))
    assert 999 < factor * scaled.intensity.max() < 9999.5
    with (folder / "sf.hkl").open() as file:
        reader = hklf.reader(file)
    read = reader.as_miller_arrays(
        crystal.symmetry(unit_cell=(7.2, 8.3, 9.1, 90, 90, 90), space_group_symbol="P 21 21 21")
    )[0]
    np.testing.assert_array_equal(np.array(read.indices()), hkl)
    np.testing.assert_allclose(np.array(read.data()) / factor, intensity, rtol=1e-12)
    np.testing.assert_allclose(np.array(read.sigmas()) / factor, sigma, rtol=1e-12)
    allowed = read.customized_copy(anomalous_flag=False).remove_systematic_absences()
    assert allowed.size() < read.size()
    merged = allowed.merge_equivalents().array()
    rows = by_index(factors.hkl)
    order = [rows[h] for h in merged.indices()]
    assert sorted(order) == list(range(len(factors)))
    away = factors.mean.intensity[order] - np.array(merged.data()) / factor
    assert np.abs(away / factors.mean.sigma[order]).max() < 0.01


def test_merged_shelx_file_is_the_table(truth: Truth, folder: Path, tmp_path: Path) -> None:
    written = truth.write(tmp_path)
    (tmp_path / "scaled.nxs").symlink_to(folder / "scaled.nxs")
    merge(written, tmp_path, shelx="merged", amplitudes="plain")
    factors = files.read_factors(tmp_path / "sf.nxs").factors
    assert factors.plus is None
    hkl, intensity, sigma, _ = unmerged_of(tmp_path / "sf.hkl")
    np.testing.assert_array_equal(hkl, factors.hkl)
    largest = np.abs(factors.mean.intensity).max()
    np.testing.assert_allclose(intensity, factors.mean.intensity, rtol=1e-5, atol=5e-8 * largest)
    np.testing.assert_allclose(sigma, factors.mean.sigma, rtol=1e-3)
    np.testing.assert_allclose(factors.amplitude, np.sqrt(np.maximum(factors.mean.intensity, 0)))


def test_text_table_is_the_nexus_table(folder: Path, factors: StructureFactors) -> None:
    with (folder / "sf.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [[int(row[x]) for x in "hkl"] for row in rows] == factors.hkl.tolist()
    for name, values in (
        ("I", factors.mean.intensity),
        ("sigma_I", factors.mean.sigma),
        ("F", factors.amplitude),
    ):
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-8)
    assert factors.minus is not None
    empty = [row["I_minus"] == "" for row in rows]
    np.testing.assert_array_equal(empty, factors.minus.n == 0)


@pytest.mark.parametrize("name", ["scaled.nxs", "sf.nxs"])
def test_files_plot_themselves_and_tell_the_crystal(folder: Path, name: str) -> None:
    root = nxload(folder / name)
    assert root.plottable_data is not None
    assert root.plottable_data.nxsignal.shape == root.plottable_data.nxaxes[0].shape
    crystal = files.read_factors(folder / "sf.nxs").crystal
    assert crystal.space_group == "P 21 21 21"
    assert crystal.temperature == 300
    assert crystal.wavelength == pytest.approx(0.4)
    with h5py.File(folder / name) as file:
        figures = json.loads(file["entry/statistics/data"].asstr()[()])
    beside = json.loads((folder / name).with_suffix(".json").read_text())
    assert figures == beside


def test_every_reflection_is_counted_once(truth: Truth, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    written = truth.write(tmp_path)
    n = 0
    for number, table in enumerate(truth.tables):
        flags = table.flags.copy()
        # Several reasons at once are one reflection left out.
        for flag in (*UNFIT, ReflectionFlag.NO_PROFILE):
            flags[rng.random(len(flags)) < 0.05] |= int(flag)
        without = (flags & int(ReflectionFlag.NO_PROFILE)) != 0
        from dataclasses import replace

        from hklflow import nexus

        changed = replace(
            table,
            flags=flags,
            intensity_profile=np.where(without, np.nan, table.intensity_profile),
        )
        nexus.write_reflections(written.reflections[number], changed, "t")
        n += len(table)
    out = scale(written, tmp_path, d_min=0.9)
    metrics = json.loads(out.metrics.read_text())
    assert metrics["reflections"] == n
    assert metrics["used"] + sum(metrics["left out"].values()) == n
    assert min(metrics["left out"].values()) > 0
    merge(written, tmp_path)
    counters = json.loads((tmp_path / "sf.json").read_text())["counters"]
    assert counters.pop("scaled reflections") == metrics["used"] == sum(counters.values())


def test_wrong_tables_are_told(truth: Truth, tmp_path: Path) -> None:
    written = truth.write(tmp_path)
    with pytest.raises(HklflowError, match="1 tables of reflections"):
        scale(written._replace(reflections=written.reflections[:1]), tmp_path)
    with pytest.raises(HklflowError, match=r"none of \d+ reflections of T300"):
        scale(written, tmp_path, d_min=50.0)
