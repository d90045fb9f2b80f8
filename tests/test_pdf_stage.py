"""Stage `pdf`: files, the total PDF, memory, and what is said of bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nexusformat.nexus import nxload
from pydantic import ValidationError

from hklflow import plots
from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import space_group
from hklflow.nexus.grid_writer import GridWriter
from hklflow.nexus.volume import open_volume
from hklflow.stages import pdf

CELL = np.array([4.0, 4.0, 6.0, 90.0, 90.0, 120.0])
GRID = Grid.symmetric([2.2, 2.2, 3.0], 0.1)
Q_MAX = 2 * np.pi / 4 * 2 / np.cos(np.radians(30)) * 0.9
LAUE = space_group("P 6/m m m").laue_operations


def hkl() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    l, k, h = np.meshgrid(GRID.axis(2), GRID.axis(1), GRID.axis(0), indexing="ij")  # noqa: E741
    return h, k, l


def diffuse() -> np.ndarray:
    """1 + 2 α cos: a peak α at each of the six shortest vectors, and one at (0, 0, 1)."""
    h, k, l = (2 * np.pi * a for a in hkl())  # noqa: E741
    s = 3 - 0.6 * (np.cos(h) + np.cos(k) + np.cos(h + k)) + 0.5 * np.cos(l)
    return s.astype(np.float32)


def write(path: Path, arrays: dict[str, Any], **notes: Any) -> None:
    told = {"operations": LAUE.tolist(), "space_group": "P 6/m m m", "q_max": Q_MAX} | notes
    with GridWriter(path, GRID, CELL, "S", {n: a.dtype for n, a in arrays.items()}) as writer:
        writer.write(0, **arrays)
        writer.note({name: value for name, value in told.items() if value is not None})


def bragg() -> np.ndarray:
    return np.all([np.abs(a - np.rint(a)) < 0.01 for a in hkl()], axis=0)


def inputs(folder: Path, *, total: bool = False, **changes: Any) -> pdf.Inputs:
    """Files as the stages before write them."""
    s, punched = diffuse(), bragg().astype(np.uint8)
    arrays = {"data": s, "data_errors": np.full_like(s, 0.05), "punched": punched}
    notes = {name: changes.pop(name) for name in ("q_max", "operations") if name in changes}
    write(folder / "filled.nxs", arrays | changes, **notes)
    if total:
        whole = s + np.where(bragg(), 700.0, 0).astype(np.float32)
        error = np.where(bragg(), 2.0, 0.05).astype(np.float32)
        used = np.ones(s.shape, np.uint8)
        write(folder / "symm.nxs", {"data": whole, "data_errors": error, "multiplicity": used})
    symmetrised = folder / "symm.nxs" if total else None
    return pdf.Inputs(filled=folder / "filled.nxs", symmetrised=symmetrised)


def outputs(folder: Path) -> pdf.Outputs:
    folder.mkdir(exist_ok=True)
    return pdf.Outputs(
        pdf=folder / "pdf.nxs", picture=folder / "pdf.png", metrics=folder / "pdf.json"
    )


def run(
    folder: Path, given: pdf.Inputs, *, threads: int = 1, **params: Any
) -> tuple[Grid, np.ndarray, np.ndarray, dict[str, Any]]:
    out = outputs(folder)
    pdf.main(inputs=given, outputs=out, params=pdf.Params(**params), threads=threads)
    with open_volume(out.pdf, "pdf") as volume:
        data, errors = (volume.group[name][()] for name in ("data", "data_errors"))
        return volume.grid, data, errors, json.loads(out.metrics.read_text())


def value(grid: Grid, array: np.ndarray, x: tuple[float, ...]) -> float:
    exact = (np.array(x) - grid.first) / grid.step
    i = np.rint(exact).astype(int)
    np.testing.assert_allclose(exact, i, atol=1e-6)
    return float(array[i[2], i[1], i[0]])


def test_delta_pdf_has_its_peaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid, data, errors, metrics = run(tmp_path / "out", inputs(tmp_path), taper="hann")
    q, dq = np.linspace(0, Q_MAX, 20001, retstep=True)
    w = 0.5 * (1 + np.cos(np.pi * q / Q_MAX))
    peak = float((w * q * q).sum() * dq / (2 * np.pi**2))
    assert value(grid, data, (0, 0, 0)) == pytest.approx(3 * peak, rel=0.02)
    for x in ((1, 0, 0), (0, -1, 0), (1, 1, 0)):
        assert value(grid, data, x) == pytest.approx(-0.3 * peak, rel=0.06)
    assert value(grid, data, (0, 0, 1)) == pytest.approx(0.25 * peak, rel=0.06)
    # (1, -1, 0) is √3 as long as (1, 1, 0) in direct axes: nothing there.
    assert abs(value(grid, data, (1, -1, 0))) < 0.02 * peak
    assert metrics["kind"] == "delta"
    assert metrics["Parseval ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["share of the taper on the grid"] == pytest.approx(1, abs=0.01)
    assert metrics["q_max"] == Q_MAX
    assert metrics["at the origin"] == value(grid, data, (0, 0, 0))
    first, second = metrics["features"][:2]
    assert sorted(np.abs(first["vector"])) in ([0, 0, 1], [0, 1, 1])
    assert first["length"] == pytest.approx(4)
    assert second["vector"] == [0, 0, 1]
    assert first["value / sigma"] == pytest.approx(
        first["value"] / value(grid, errors, tuple(first["vector"])), rel=1e-5
    )
    scale = np.prod(GRID.step) / lattice.volume(CELL)
    general = float(np.median(errors))
    assert metrics["sigma at a general position"] == pytest.approx(general, rel=0.1)
    assert scale * 0.05 < general < value(grid, errors, (0, 0, 0)) / 3
    told = capsys.readouterr().out
    assert "delta PDF of" in told
    assert " σ of noise);" in told
    assert "warning" not in told
    assert metrics["warnings"] == []
    assert (tmp_path / "out/pdf.png").stat().st_size > 10000


def test_the_peak_at_the_origin_does_not_stretch_the_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a taper the origin has a lobe at 5.8 / q_max, which weak features would not match."""
    kept = []
    monkeypatch.setattr(plots, "save", lambda figure, path: kept.append(figure))
    weak = (3 + 0.05 * (diffuse() - 3)).astype(np.float32)
    grid, data, _, _ = run(tmp_path / "out", inputs(tmp_path, data=weak), taper="none")
    z, y, x = (grid.axis(i) for i in (2, 1, 0))
    points = np.stack(np.broadcast_arrays(x, y[:, None], z[:, None, None]), axis=-1)
    r = np.sqrt(np.einsum("...i,ij,...j->...", points, lattice.metric(CELL), points))
    # 3 (sin x - x cos x) / x³ is 1/2 at x = 2.4983: the width of the peak of a sphere.
    reach = 1.5 * 2 * 2.4983 / Q_MAX
    top = kept[0].axes[0].images[0].norm.vmax
    seen = [np.abs(np.take(data, len(a) // 2, i)) for i, a in enumerate((z, y, x))]
    far = [np.take(r, len(a) // 2, i) > reach for i, a in enumerate((z, y, x))]
    strongest = max(float(image[own].max()) for image, own in zip(seen, far, strict=True))
    assert 0.3 * strongest < top <= strongest


def test_the_file_plots_itself(tmp_path: Path) -> None:
    run(tmp_path / "out", inputs(tmp_path))
    plotted = nxload(tmp_path / "out/pdf.nxs")["entry/pdf"]
    assert plotted.nxsignal.nxname == "data"
    assert [axis.nxname for axis in plotted.nxaxes] == ["z", "y", "x"]
    np.testing.assert_allclose([a.attrs["scaling_factor"] for a in plotted.nxaxes], [6, 4, 4])
    assert plotted.nxerrors.shape == plotted.nxsignal.shape
    with open_volume(tmp_path / "out/pdf.nxs", "pdf") as volume:
        notes = volume.notes
        units = [volume.group[name].attrs["units"] for name in ("data", "data_errors", "x")]
        label = volume.group["data"].attrs["long_name"]
        title = volume.group["title"].asstr()[()]
    assert units == ["S per angstrom^3", "S per angstrom^3", "unit cells"]
    assert label == "pair distribution (S per angstrom^3)"
    assert title == "3D-ΔPDF"
    assert {str(w) for w in notes["operations"]} == {str(w.tolist()) for w in LAUE}
    assert len(notes["operations"]) == 24
    assert notes["space_group"] == "P 6/m m m"
    assert notes["kind"] == "delta"
    assert notes["taper"] == {"kind": "tukey", "flat": 0.5}
    assert notes["padding"]["padded with zeros to"] == [60, 60, 80]
    assert notes["errors"].endswith("exact")
    assert "errors of the fill are not included" in notes["errors"]
    with open_volume(tmp_path / "filled.nxs") as volume:
        assert volume.group["data"].attrs["units"] == "counts per unit norm"
        assert "2 not measured and filled" in volume.group["punched"].attrs["description"]


def test_without_inversion_among_the_operations_the_notes_have_it(tmp_path: Path) -> None:
    run(tmp_path / "out", inputs(tmp_path, operations=[np.eye(3).tolist()]))
    with open_volume(tmp_path / "out/pdf.nxs", "pdf") as volume:
        found = np.array(volume.notes["operations"])
    np.testing.assert_array_equal(found, [np.eye(3), -np.eye(3)])


@pytest.mark.slow
def test_the_share_of_the_taper_that_was_filled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gaps on one side only, in a skewed cell, with a hann window written out."""
    h, k, l = hkl()  # noqa: E741
    gap = (h > -1.15) & (h < -0.15) & (k > 0.25) & (l < -0.4)
    punched = np.where(gap, 2, bragg()).astype(np.uint8)
    given = inputs(tmp_path, total=True, punched=punched)
    delta = pdf.Inputs(filled=given.filled)
    _, _, _, metrics = run(tmp_path / "out", delta, taper="hann")
    q = np.linalg.norm(np.stack([h, k, l], axis=-1) @ lattice.b_matrix(CELL).T, axis=-1)
    w = np.where(q < Q_MAX, 0.5 * (1 + np.cos(np.pi * q / Q_MAX)), 0)
    names = [f"share of the taper {what} and filled" for what in ("punched", "not measured")]
    shares = [float(w[punched == code].sum() / w.sum()) for code in (1, 2)]
    assert shares[1] > 0.02
    np.testing.assert_allclose([metrics[name] for name in names], shares, rtol=1e-6)
    (warning,) = metrics["warnings"]
    assert f"{100 * shares[1]:.2g} % of the taper's weight was not measured" in warning
    assert f"warning: {warning}" in capsys.readouterr().out
    with open_volume(tmp_path / "out/pdf.nxs", "pdf") as volume:
        assert volume.notes[names[1]] == metrics[names[1]]
        assert volume.notes["metrics"]["warnings"] == [warning]
    # Of the total PDF the reflections were put back, all but 000.
    _, _, _, metrics = run(tmp_path / "total", given, taper="hann")
    np.testing.assert_allclose(
        [metrics[name] for name in names], [w[q == 0].sum() / w.sum(), shares[1]], rtol=1e-6
    )
    with open_volume(tmp_path / "total/pdf.nxs", "pdf") as volume:
        assert volume.group["title"].asstr()[()] == "total PDF"


def test_what_was_filled_for_want_of_data_makes_no_pdf(tmp_path: Path) -> None:
    h, k, _ = hkl()
    invented = np.where(np.broadcast_to(np.abs(h) < 0.7 * np.abs(k), GRID.array_shape), 2, 0)
    given = inputs(tmp_path, punched=invented.astype(np.uint8))
    with pytest.raises(HklflowError, match=r"not measured but filled, more than 20 %"):
        run(tmp_path / "out", given, allowed_unmeasured=0.2)
    assert not (tmp_path / "out/pdf.json").exists()
    run(tmp_path / "out", given, allowed_unmeasured=0.9)


@pytest.mark.slow
def test_scratch_files_give_the_same(tmp_path: Path) -> None:
    """Little memory: everything goes through files, which are gone at the end."""
    large = Grid.symmetric([4.0, 4.0, 6.0], 0.05)
    rng = np.random.default_rng(0)
    s = rng.normal(1, 1, large.array_shape).astype(np.float32)
    notes = {"operations": LAUE.tolist(), "q_max": 3.0}
    types = {"data": np.float32, "data_errors": np.float32}
    with GridWriter(tmp_path / "large.nxs", large, CELL, "S", types, fast=True) as writer:
        writer.write(0, data=s, data_errors=np.abs(s))
        writer.note(notes)
    given = pdf.Inputs(filled=tmp_path / "large.nxs")
    sizes = (160, 160, 200)
    _, data, errors, metrics = run(tmp_path / "out", given, sizes=sizes)
    _, other, other_errors, others = run(tmp_path / "less", given, memory=1.0, sizes=sizes)
    with open_volume(tmp_path / "less/pdf.nxs", "pdf") as volume:
        assert volume.notes["kept in a scratch file"] is True
    np.testing.assert_allclose(data, other, atol=1e-6 * data.max())
    np.testing.assert_allclose(errors, other_errors, rtol=1e-5)
    assert others["features"] == metrics["features"]
    assert sorted(p.name for p in (tmp_path / "less").iterdir()) == [
        "pdf.json",
        "pdf.nxs",
        "pdf.png",
    ]


@pytest.mark.slow
def test_total_pdf_has_the_bragg_peaks_back(tmp_path: Path) -> None:
    grid, delta, small, _ = run(tmp_path / "delta", inputs(tmp_path))
    _, total, errors, metrics = run(tmp_path / "total", inputs(tmp_path, total=True))
    assert metrics["kind"] == "total"
    # One atom per cell: what was put back is a peak at every lattice vector, but for 000.
    step = float(np.prod(GRID.step))
    h, k, l = (a[bragg()] for a in hkl())  # noqa: E741
    g = (2 * np.pi) ** 2 * np.linalg.inv(lattice.metric(CELL))
    q = np.sqrt(np.einsum("in,ij,jn->n", [h, k, l], g, [h, k, l])) / Q_MAX
    w = np.clip(np.where(q < 0.5, 1, 0.5 * (1 + np.cos(np.pi * (2 * q - 1)))), 0, 1) * (q < 1)
    for x in ((0, 0, 0), (1, 0, 0), (0.5, 0, 0.5), (2, 1, 1)):
        waves = np.cos(2 * np.pi * (h * x[0] + k * x[1] + l * x[2]))
        added = 700 * step / lattice.volume(CELL) * float((w * waves)[q > 0].sum())
        found = value(grid, total, x) - value(grid, delta, x)
        assert found == pytest.approx(added, rel=1e-3, abs=1e-4 * value(grid, total, (0, 0, 0)))
    assert np.all(errors > small)


def test_what_is_missing_counts_as_nothing_and_is_told(tmp_path: Path) -> None:
    s = diffuse()
    error = np.full_like(s, 0.05)
    h, k, l = hkl()  # noqa: E741
    hole = (np.abs(h) < 0.15) & (np.abs(k) < 0.15) & (np.abs(l) < 0.15)
    s[hole] = error[hole] = np.nan
    s[0] = error[0] = np.nan  # beyond q_max
    given = inputs(tmp_path, data=s, data_errors=error)
    _, data, errors, metrics = run(tmp_path / "out", given)
    assert metrics["voxels missing"] == hole.sum()
    assert metrics["share of the taper missing"] > 0
    assert np.isfinite(data).all()
    assert np.isfinite(errors).all()
    with pytest.raises(HklflowError, match=f"{hole.sum()} voxels within q_max.*allowed_missing"):
        run(tmp_path / "out", pdf.Inputs(filled=tmp_path / "filled.nxs"), allowed_missing=0.0)
    error[5:7] = np.nan
    error[25] = error[35] = np.nan
    with pytest.raises(HklflowError, match="every voxel has both or neither"):
        run(tmp_path / "out", inputs(tmp_path, data=s, data_errors=error))


def test_the_settings_are_used(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    _, data, _, metrics = run(tmp_path / "out", given, q_max=2.0, sizes=(72, 72, 63), taper="lorch")
    assert data.shape == (63, 72, 72)
    assert metrics["q_max"] == 2.0
    # ∫ sin(π q / q_max) sin(q r) dq / r has half its height at r = π / q_max.
    assert metrics["resolution in angstrom"] == pytest.approx(2 * np.pi / 2.0, rel=1e-4)


def test_inputs_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(HklflowError, match="has no q_max in its notes"):
        run(tmp_path / "out", inputs(tmp_path, q_max=None))
    with pytest.raises(HklflowError, match="has no operations"):
        run(tmp_path / "out", inputs(tmp_path, operations=None))
    given = inputs(tmp_path, total=True)
    other = Grid.symmetric([2.0, 2.2, 3.0], 0.1)
    with GridWriter(tmp_path / "symm.nxs", other, CELL, "S", {"data": np.float32}) as writer:
        writer.note({})
    with pytest.raises(HklflowError, match="no data_errors and no multiplicity and no operations"):
        run(tmp_path / "out", given)
    types = {"data": np.float32, "data_errors": np.float32, "multiplicity": np.uint8}
    with GridWriter(tmp_path / "symm.nxs", other, CELL, "S", types) as writer:
        writer.note({"operations": LAUE.tolist()})
    with pytest.raises(HklflowError, match="has another grid"):
        run(tmp_path / "out", given)
    with pytest.raises(HklflowError, match=r"is not a symmetrised volume \(it has punched\)"):
        run(tmp_path / "out", pdf.Inputs(filled=given.filled, symmetrised=given.filled))
    with pytest.raises(HklflowError, match=r"100000\] along x, y, z are 1e\+15 voxels, more than"):
        run(tmp_path / "out", pdf.Inputs(filled=given.filled), sizes=(100000, 100000, 100000))
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        pdf.Params(sizes=(60, 60, 0))
    nothing = np.full_like(diffuse(), np.nan)
    with pytest.raises(HklflowError, match="no voxel within q_max is measured or filled"):
        run(
            tmp_path / "out",
            inputs(tmp_path, data=nothing, data_errors=nothing),
            allowed_missing=1.0,
        )
    with pytest.raises(HklflowError, match=r"filled.nxs: S = 0 in all voxels within q_max"):
        run(tmp_path / "out", inputs(tmp_path, data=np.zeros_like(diffuse())))
    with pytest.raises(HklflowError, match=r"filled.nxs: σ = 0 in all voxels within q_max"):
        run(tmp_path / "out", inputs(tmp_path, data_errors=np.zeros_like(diffuse())))
