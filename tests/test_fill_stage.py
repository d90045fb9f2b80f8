"""Stage `fill` on a symmetrised volume with reflections, gaps and noise."""

import json
import shutil
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from matplotlib.figure import Figure

import hklflow
from hklflow import nexus
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import space_group
from hklflow.nexus.grid_writer import GridWriter
from hklflow.stages import fill, pdf
from tests.truth.orientations import write_orientation

pytestmark = pytest.mark.slow

CELL = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])
GRID = Grid.symmetric([1.5, 1.5, 1.5], [0.06, 0.06, 0.06])
GROUP = space_group("P -1")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[fill.Inputs, np.ndarray]:
    """A volume as symmetrise writes it, and its diffuse part."""
    folder = tmp_path_factory.mktemp("symmetrised")
    rng = np.random.default_rng(4)
    l, k, h = np.meshgrid(*(GRID.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    truth = 30 + 6 * np.cos(2 * np.pi * (h + 0.4 * l) / 1.2) + 4 * np.cos(2 * np.pi * k / 1.5)
    away = sum((x - np.rint(x)) ** 2 for x in (h, k, l)) * (2 * np.pi / 5) ** 2
    noise = rng.normal(size=truth.shape)
    noise = (noise + noise[::-1, ::-1, ::-1]) / np.sqrt(2)
    data = (truth + 3000 * np.exp(-0.5 * away / 0.055**2) + noise).astype(np.float32)
    gap = (abs(h - 0.4) < 0.1) & (abs(k - 0.5) < 0.1) & (abs(l) < 0.2)
    q = np.sqrt(h**2 + k**2 + l**2)
    data[gap | gap[::-1, ::-1, ::-1] | (q > 1.5)] = np.nan
    errors = np.where(np.isfinite(data), 1, np.nan).astype(np.float32)
    counts = np.nan_to_num(data)
    norm = np.isfinite(data).astype(np.float32)
    path = folder / "symm.nxs"
    with nexus.VolumeWriter(path, GRID, CELL, "t", np.float64, True, fast=True) as writer:
        writer.write(0, data=data, data_errors=errors, counts=counts, norm=norm)
        operations = GROUP.laue_operations.tolist()
        writer.note({"operations": operations, "space_group": "P -1"})
    orientation = write_orientation(folder / "orientation.json", group="P -1")
    return fill.Inputs(symmetrised=path, orientation=orientation), truth


def run(given: fill.Inputs, folder: Path, **params: object) -> tuple[dict, dict[str, np.ndarray]]:
    folder.mkdir(exist_ok=True)
    out = fill.Outputs(
        filled=folder / "filled.nxs", picture=folder / "f.png", metrics=folder / "f.json"
    )
    fill.main(inputs=given, outputs=out, params=fill.Params(**params))
    assert sorted(path.name for path in folder.iterdir()) == ["f.json", "f.png", "filled.nxs"]
    with h5py.File(out.filled) as file:
        arrays = {n: file["entry/transform"][n][()] for n in ("data", "data_errors", "punched")}
        notes = json.loads(file["entry/notes/notes"][()])
    assert notes["operations"] == GROUP.laue_operations.tolist()
    assert notes["space_group"] == "P -1"
    metrics = json.loads(out.metrics.read_text())
    assert notes["q_max"] == metrics["q_max in 1/Å"]
    return metrics, arrays


def test_the_middle_of_reflections_that_a_mask_removed_is_no_gap(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    given, _ = inputs
    masked = tmp_path / "masked.nxs"
    shutil.copy(given.symmetrised, masked)
    away = sum(
        (x - np.rint(x)) ** 2
        for x in np.meshgrid(*(GRID.axis(i) for i in (2, 1, 0)), indexing="ij")
    ) ** 0.5 * (2 * np.pi / 5)  # fmt: skip
    with h5py.File(masked, "r+") as file:
        for name in ("data", "data_errors"):
            array = file["entry/transform"][name]
            array[...] = np.where(away < 0.1, np.nan, array[()])
    new = fill.Inputs(symmetrised=masked, orientation=given.orientation, whole=given.symmetrised)
    whole, before = run(given, tmp_path / "a", radius=0.25, spectrum=False, tails=False)
    metrics, now = run(new, tmp_path / "b", radius=0.25, spectrum=False, tails=False)
    # The same voxels are filled from the same surroundings, whether their middle is known or not.
    for name, array in before.items():
        np.testing.assert_array_equal(now[name], array)
    assert metrics["interpolants"] == whole["interpolants"]
    share = "fraction not measured within q_max"
    assert metrics[share] == whole[share]


@pytest.mark.pictures
def test_reflections_are_gone_and_gaps_are_filled(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    given, truth = inputs
    metrics, now = run(given, tmp_path / "a")
    assert (tmp_path / "a/f.png").stat().st_size > 10000
    with h5py.File(given.symmetrised) as file:
        before = {n: file["entry/transform"][n][()] for n in ("data", "data_errors")}
    code = now["punched"]
    assert set(np.unique(code)) == {0, 1, 2, 3}
    for name, array in before.items():
        kept = (code == 0).nonzero()
        np.testing.assert_array_equal(now[name][kept].view("i4"), array[kept].view("i4"))
    assert np.isnan(now["data"][code == 3]).all()
    np.testing.assert_array_equal(np.isnan(before["data"]), code >= 2)
    filled = (code == 1) | (code == 2)
    # Filled values count in the ΔPDF with the taper, and are worse where it is small.
    l, k, h = np.meshgrid(*(GRID.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    part = 2 * np.pi / 5 * np.sqrt(h**2 + k**2 + l**2)[filled] / metrics["q_max in 1/Å"]
    taper = np.cos(np.pi * np.clip(part - 0.5, 0, 0.5)) ** 2
    residual = (now["data"] - truth)[filled]
    assert np.average(residual**2, weights=taper**2) < 0.5**2
    pulls = residual / now["data_errors"][filled]
    assert 0.7 < np.sqrt(np.mean(pulls**2)) < 1.35
    for array in now.values():
        np.testing.assert_array_equal(array, array[::-1, ::-1, ::-1])
    # 3000 exp(-r²/2s²) is half the noise at 4.2 s.
    assert metrics["radius in 1/Å"] == pytest.approx(4.17 * 0.055, rel=0.2)
    assert metrics["voxels punched and filled"] == np.sum(code == 1)
    assert metrics["control holes"] >= 10
    assert metrics["rms of the fill in units of the noise"] < 1
    assert metrics["interpolant"] == "spectrum of the pair distribution"
    vectors = np.array([cosine["vector"] for cosine in metrics["injected cosines"]])
    np.testing.assert_array_equal(vectors % 1, [[0] * 3] * 3 + [[0.5] * 3] * 2)
    # Holes are 4 %, the gap less than 1 %.
    assert all(0.94 < cosine["recovered"] < 1.001 for cosine in metrics["injected cosines"])


def test_the_pdf_knows_the_covariance_of_lattice_vectors(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    """The sums of each kind of voxel, in plain numpy, are those of a volume without holes."""
    run(inputs[0], tmp_path)
    out = pdf.Outputs(
        pdf=tmp_path / "pdf.nxs", picture=tmp_path / "p.png", metrics=tmp_path / "p.json"
    )
    # 100 steps of 0.06 are 6 periods of a lattice vector, which is a voxel then.
    params = pdf.Params(sizes=(100, 100, 100))
    pdf.main(inputs=pdf.Inputs(filled=tmp_path / "filled.nxs"), outputs=out, params=params)
    metrics = json.loads(out.metrics.read_text())["lattice vectors"]
    opened = hklflow.open(out.pdf)
    vectors = [(1, 0, 0), (2, 0, 0), (0, 3, 1)]
    matrix = opened.covariance(vectors)
    q = np.stack(np.meshgrid(*(GRID.axis(i) for i in (2, 1, 0)), indexing="ij")[::-1], axis=-1)
    length = np.linalg.norm(q, axis=-1) / 1.5
    taper = np.where(length <= 1, np.cos(np.pi * np.clip(length - 0.5, 0, 0.5)) ** 2, 0)
    waves = np.cos(2 * np.pi * np.einsum("lkhi,ni->nlkh", q, np.array(vectors, float)))
    plain = taper**2 * waves[:, None] * waves * 2 * (0.06**3 / 125) ** 2
    independent = plain.sum(axis=(2, 3, 4))
    # The holes, 4 % of the volume, lose little more than their noise.
    sigma = np.sqrt(np.diag(matrix))
    assert np.all(sigma > 0.97 * np.sqrt(np.diag(independent)))
    assert np.all(sigma < 1.3 * np.sqrt(np.diag(independent)))
    assert np.all(np.linalg.eigvalsh(matrix) > 0)
    with h5py.File(out.pdf) as file:
        group = file["entry/pdf"]
        place = [np.argmin(abs(group[n][()] - x)) for n, x in zip("zyx", (1, 3, 0), strict=True)]
        assert group["data_errors"][*place] == pytest.approx(sigma[2], rel=1e-5)
        value = group["data"][*place]
    total, error = opened.weighted_sum(vectors[2:], [-2])
    assert (total, error) == (pytest.approx(-2 * value), pytest.approx(2 * sigma[2]))
    assert metrics["vectors"] == 300
    far = metrics["offset of vectors without correlations"]
    assert abs(far["mean"]) < 4 * far["sigma"]


def test_a_file_in_the_place_of_memory(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    kriged, now = run(inputs[0], tmp_path / "a", spectrum=False)
    small, scratch = run(inputs[0], tmp_path / "b", memory=0.01)
    for name, array in now.items():
        np.testing.assert_array_equal(scratch[name], array)
    warning = small["warnings"].pop(0)
    assert warning.startswith("the holes are filled by kriging alone")
    assert warning.endswith("MB more; increase `memory` of `fill` by it")
    assert small == kriged


def test_the_unit_of_the_monitor_changes_no_digit(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    """Of S divided by 2⁶⁰ photons squares are 1e-36: what is filled is the same in that unit."""
    given, unit = inputs[0], np.float32(2.0**-60)
    path = tmp_path / "symm.nxs"
    with nexus.open_volume(given.symmetrised) as before:
        arrays = {n: before.group[n][()] for n in ("data", "data_errors", "counts", "norm")}
        notes = before.notes
    arrays |= {name: arrays[name] * unit for name in ("data", "data_errors")}
    arrays["norm"] /= unit
    with nexus.VolumeWriter(path, GRID, CELL, "t", np.float64, True, fast=True) as writer:
        writer.write(0, **arrays)
        writer.note(notes)
    expected, was = run(given, tmp_path / "a")
    scaled = fill.Inputs(symmetrised=path, orientation=given.orientation)
    metrics, now = run(scaled, tmp_path / "b")
    np.testing.assert_array_equal(now["punched"], was["punched"])
    for name in ("data", "data_errors"):
        np.testing.assert_array_equal(now[name], was[name] * unit)
    assert metrics["radius in 1/Å"] == expected["radius in 1/Å"]
    assert metrics["rms of the fill in units of the noise"] == pytest.approx(
        expected["rms of the fill in units of the noise"], rel=1e-12
    )


def test_karen_and_satellites(tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]) -> None:
    given, truth = inputs
    _, karen = run(given, tmp_path / "a", method="karen", q_max=1.7)
    residual = (karen["data"] - truth)[karen["punched"] == 1]
    assert len(residual) > 50
    assert np.abs(residual).max() < 10
    told, own = run(
        given,
        tmp_path / "b",
        radius=0.2,
        satellites=[(0.5, 0.0, 0.0)],
        satellite_radius=0.11,
        q_max=1.7,
    )
    middle = [25, 25, 25]
    assert own["punched"][middle[0], middle[1], middle[2] + 8] == 1  # 0.48 0 0
    assert told["satellites"] > 20


def test_what_cannot_be_known_is_said(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    out = fill.Outputs(filled=tmp_path / "f", picture=tmp_path / "p", metrics=tmp_path / "m")
    given, _ = inputs
    with pytest.raises(ValueError, match="radius"):
        fill.Params(radius=-1.0)
    empty = tmp_path / "empty.nxs"
    nothing = np.full(GRID.array_shape, np.nan, np.float32)
    with nexus.VolumeWriter(empty, GRID, CELL, "t", np.float64, True, fast=True) as writer:
        zero = np.zeros(GRID.array_shape)
        writer.write(0, data=nothing, data_errors=nothing, counts=zero, norm=zero)
        writer.note({"operations": GROUP.laue_operations.tolist(), "space_group": "P -1"})
    with pytest.raises(HklflowError, match="coverage: no shell"):
        fill.main(
            inputs=fill.Inputs(symmetrised=empty, orientation=given.orientation),
            outputs=out,
            params=fill.Params(),
        )


def changed(
    given: fill.Inputs, path: Path, data: object = None, errors: object = None
) -> fill.Inputs:
    """Copy a symmetrised volume with S and σ changed by functions of the arrays and of |Q|."""
    shutil.copy(given.symmetrised, path)
    q = sum(x**2 for x in np.meshgrid(*(GRID.axis(i) for i in range(3)))) ** 0.5 * 2 * np.pi / 5
    with h5py.File(path, "r+") as file:
        for name, change in (("data", data), ("data_errors", errors)):
            if change is not None:
                array = file["entry/transform"][name]
                array[...] = change(array[()], q)
    return fill.Inputs(symmetrised=path, orientation=given.orientation)


@pytest.mark.parametrize(
    ("change", "params", "words"),
    [
        ({"data": lambda s, q: 0 * s}, {}, r"S = 0 in all \d+ measured voxels"),
        ({"errors": lambda e, q: 0 * e}, {}, r"σ = 0 in all \d+ measured voxels"),
        ({"data": lambda s, q: np.nan * s}, {"q_max": 1.5}, "no voxel within q_max = 1.5 1/Å"),
        ({"data": lambda s, q: np.where(q > 1.6, s, np.nan)}, {"q_max": 1.5}, "no voxel within"),
        ({"errors": lambda e, q: -e}, {}, "has σ = -1, but σ of a measured voxel is 0 or larger"),
        ({"errors": lambda e, q: np.where(q > 1, e, np.nan)}, {}, "has σ = nan"),
    ],
)
def test_volumes_without_scattering_or_errors_are_refused(
    tmp_path: Path,
    inputs: tuple[fill.Inputs, np.ndarray],
    change: dict[str, object],
    params: dict[str, object],
    words: str,
) -> None:
    given = changed(inputs[0], tmp_path / "changed.nxs", **change)
    with pytest.raises(HklflowError, match=f"changed.nxs: .*{words}"):
        run(given, tmp_path / "a", radius=0.2, **params)


def test_voxels_with_infinite_errors_count_as_not_measured(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    unknown = np.zeros(GRID.array_shape, bool)
    unknown[27:30, 33:36, 30:33] = True
    unknown |= unknown[::-1, ::-1, ::-1]
    infinite = {"errors": lambda e, _: np.where(unknown & np.isfinite(e), np.inf, e)}
    metrics, now = run(
        changed(inputs[0], tmp_path / "a.nxs", **infinite), tmp_path / "a", radius=0.2
    )
    with h5py.File(tmp_path / "a.nxs") as file:
        n = np.isinf(file["entry/transform/data_errors"][()]).sum()
    assert f"σ is infinite in {n} voxels: they count as not measured" in metrics["warnings"]
    missing = {"data": lambda s, _: np.where(unknown, np.nan, s)}
    _, without = run(changed(inputs[0], tmp_path / "b.nxs", **missing), tmp_path / "b", radius=0.2)
    for name, array in without.items():
        np.testing.assert_array_equal(now[name], array)


def test_much_that_was_not_measured_is_warned_of(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    given, _ = inputs
    metrics, now = run(given, tmp_path / "a", radius=0.2, q_max=2.4)
    with h5py.File(given.symmetrised) as file:
        measured = np.isfinite(file["entry/transform/data"][()])
    q = sum(x**2 for x in np.meshgrid(*(GRID.axis(i) for i in range(3)))) ** 0.5 * 2 * np.pi / 5
    own = (q <= 2.4) & (now["punched"] != 1)
    share = f"{100 * (1 - measured[own].mean()):.1f} % of the voxels within q_max"
    (much,) = (text for text in metrics["warnings"] if "σ of the ΔPDF" in text)
    assert much.startswith(share)
    (worst,) = (text for text in metrics["warnings"] if "shell" in text)
    # Nothing was measured from 1.5 r.l.u. = 1.885 1/Å on.
    low, high = (float(word) for word in (worst.split()[9], worst.split()[11]))
    assert 1.87 < low < high <= 2.41
    assert "only 0 % of the shell" in worst
    printed = capsys.readouterr().out
    assert much in printed
    assert worst in printed
    metrics, _ = run(given, tmp_path / "b", radius=0.2, q_max=1.7)
    assert not [text for text in metrics["warnings"] if "ΔPDF" in text or "shell" in text]


def test_the_volume_names_the_doubts_that_its_errors_lack(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    """Spheres of 0.45 1/Å, more than a third of the distance of reflections, up to a gap."""
    metrics, _ = run(inputs[0], tmp_path / "a", radius=0.45, q_max=2.4, spectrum=False)
    (narrow,) = (text for text in metrics["warnings"] if "more than a third" in text)
    assert len(metrics["warnings"]) > 2
    with nexus.open_volume(tmp_path / "a/filled.nxs") as volume:
        assert volume.not_in_sigma == [narrow]
        assert volume.doubts == metrics["warnings"]


def test_too_little_to_learn_from_is_filled_by_kriging_and_said(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box around one reflection and its mate, as one rocking scan of a strong reflection."""
    given, _ = inputs
    part = tmp_path / "part.nxs"
    shutil.copy(given.symmetrised, part)
    l, k = (GRID.axis(i).reshape(shape) for i, shape in ((2, (-1, 1, 1)), (1, (1, -1, 1))))  # noqa: E741
    measured = (np.abs(np.abs(l) - 1) < 0.45) & (np.abs(k) < 0.5)
    assert not measured[np.argmin(np.abs(l))].any()
    with h5py.File(part, "r+") as file:
        for name in ("data", "data_errors"):
            array = file["entry/transform"][name]
            array[...] = np.where(measured, array[()], np.nan)
    drawn = []
    monkeypatch.setattr("hklflow.plots.fill.fill", lambda *words: drawn.append(words) or Figure())
    new = fill.Inputs(symmetrised=part, orientation=given.orientation)
    metrics, now = run(new, tmp_path / "a", radius=0.2, q_max=1.7)
    (said,) = (text for text in metrics["warnings"] if "kriging alone" in text)
    # The pair distribution, and what is made of it, say so.
    out = pdf.Outputs(**{x: tmp_path / x for x in ("pdf", "picture", "metrics")})
    pdf.main(
        inputs=pdf.Inputs(filled=tmp_path / "a/filled.nxs"),
        outputs=out,
        params=pdf.Params(allowed_unmeasured=1.0, allowed_missing=1.0),
    )
    assert said in json.loads(out.metrics.read_text())["warnings"]
    with nexus.open_volume(out.pdf, "pdf") as volume:
        assert volume.doubts == metrics["warnings"]
        assert volume.not_in_sigma == [said]
    assert said.startswith(f"{100 * metrics['fraction not measured within q_max']:.1f} % of the")
    assert metrics["interpolant"].startswith("kriging")
    assert (now["punched"] == 2).sum() > 0.6 * (now["punched"] != 3).sum()
    axis, at = drawn[0][2]
    assert axis == 2
    # The plane that is drawn is a measured one.
    assert 0.55 < abs(GRID.axis(2)[at]) < 1.45
    assert np.isfinite(drawn[0][3]).any()
    plain, _ = run(new, tmp_path / "b", radius=0.2, q_max=1.7, spectrum=False, tails=False)
    assert not [text for text in plain["warnings"] if "kriging alone" in text]


@pytest.mark.parametrize(
    "params",
    [
        {"radius": 100.0},
        {"radii": (0.2, 0.2, 0.64)},
        {"radius": 0.2, "satellites": [(0.5, 0.0, 0.0)], "satellite_radius": 0.64},
    ],
)
def test_spheres_that_meet_are_refused(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray], params: dict[str, object]
) -> None:
    out = fill.Outputs(filled=tmp_path / "f", picture=tmp_path / "p", metrics=tmp_path / "m")
    # a* = 2π/5.
    with pytest.raises(
        HklflowError, match=r"more than half of the shortest distance between reflections, 1\.257"
    ):
        fill.main(inputs=inputs[0], outputs=out, params=fill.Params(**params))


def test_a_window_as_wide_as_the_grid(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    _, wide = run(
        inputs[0], tmp_path / "a", method="karen", window=1000.0, threshold=30.0, q_max=1.7
    )
    _, grid = run(
        inputs[0], tmp_path / "b", method="karen", window=2 * 51 * 0.06, threshold=30.0, q_max=1.7
    )
    assert (wide["punched"] == 1).any()
    np.testing.assert_array_equal(wide["punched"], grid["punched"])


def test_volumes_of_other_stages_are_refused(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray]
) -> None:
    given, _ = inputs
    out = fill.Outputs(filled=tmp_path / "f", picture=tmp_path / "p", metrics=tmp_path / "m")
    merged = tmp_path / "merged.nxs"
    ones = np.ones(GRID.array_shape)
    with nexus.VolumeWriter(merged, GRID, CELL, "t", np.float64, True, fast=True) as writer:
        writer.write(0, data=ones, data_errors=ones, counts=ones, norm=ones)
        writer.note({"space_group": "P -1"})
    filled = tmp_path / "filled.nxs"
    types = {"data": np.float32, "data_errors": np.float32, "punched": np.uint8}
    with GridWriter(filled, GRID, CELL, "t", types, fast=True) as writer:
        writer.write_block((0, 0), data=ones, data_errors=ones, punched=ones)
        writer.note({"operations": GROUP.laue_operations.tolist(), "space_group": "P -1"})
    for path, what in ((merged, "is not symmetrised"), (filled, "is filled already")):
        own = fill.Inputs(symmetrised=path, orientation=given.orientation)
        with pytest.raises(HklflowError, match=what):
            fill.main(inputs=own, outputs=out, params=fill.Params())


def test_a_full_disk_is_an_error_of_the_system(
    tmp_path: Path, inputs: tuple[fill.Inputs, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    out = fill.Outputs(filled=tmp_path / "f", picture=tmp_path / "p", metrics=tmp_path / "m")
    with pytest.raises(OSError, match="No space left"):
        fill.main(inputs=inputs[0], outputs=out, params=fill.Params(memory=0.01, radius=0.2))
