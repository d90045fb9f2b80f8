"""Rotations that disagree, and Laue groups that S(Q) contradicts: from volumes made of the physics.

Counts are Poisson numbers of norm times S, and S is written down here: nothing of the code under
test makes them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from hklflow import nexus
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.stages import difference, fill, merge, pdf, stack, symmetrise
from tests.truth.orientations import write_orientation

Floats = NDArray[np.float64]

CELL = np.array([5.0, 5.0, 6.0, 90.0, 90.0, 90.0])
# A voxel is 0.1 r.l.u.; 0 is in the centre of one.
GRID = Grid(np.array([-2.5, -2.5, -2.5]), np.array([0.1, 0.1, 0.1]), (51, 51, 51))
A, C = 2 * np.pi / 5.0, 2 * np.pi / 6.0


def axes(grid: Grid = GRID) -> tuple[Floats, Floats, Floats]:
    """H, k and l of the voxels, as (l, k, h) arrays."""
    l, k, h = np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    return h, k, l


def diffuse(asymmetry: float = 0.0, level: float = 10.0) -> Floats:
    """S of a tetragonal crystal: background, diffuse maxima, and a share that 4/mmm forbids.

    sin(2π h) sin(2π k) (cos 2π h - cos 2π k) has 4/m: turned by 90° (h k to -k h) it stays, at the
    mirror (h k to k h) it changes sign.
    """
    h, k, l = (2 * np.pi * x for x in axes())  # noqa: E741
    common = 1 + 0.5 * np.cos(h) * np.cos(k) * np.cos(l)
    odd = np.sin(h) * np.sin(k) * (np.cos(h) - np.cos(k))
    fall = np.exp(-(A**2 * (h**2 + k**2) + C**2 * l**2) / (2 * np.pi) ** 2 / 30)
    return level * fall * (common + asymmetry * odd)


def write(path: Path, mean: Floats, seed: int, read: float = 0.0, part: float = 0.8) -> Path:
    """Write a rotation's volume: Poisson counts of a norm that varies, times ``mean``."""
    rng = np.random.default_rng(seed)
    norm = rng.uniform(1, 3, mean.shape) * (rng.random(mean.shape) < part)
    norm = norm.astype(np.float32)
    counts: NDArray[Any] = rng.poisson(norm * mean).astype(np.uint32)
    more = {}
    if read:
        more["variance"] = (counts + read**2 * (norm > 0)).astype(np.float32)
        counts = counts + read * rng.normal(size=norm.shape) * (norm > 0)
    path.parent.mkdir(exist_ok=True, parents=True)
    dtype = np.float64 if read else np.uint32
    with nexus.VolumeWriter(
        path, GRID, CELL, "t", dtype, False, fast=True, variance=bool(read)
    ) as writer:
        writer.write(0, counts=counts, norm=norm, **more)
        writer.note({})
    return path


def merged(folder: Path, means: list[Floats], seed: int = 0, **settings: Any) -> dict[str, Any]:
    """Write and merge rotations r0, r1, ...; the metrics."""
    read = settings.pop("read", 0.0)
    paths = [
        write(folder / f"r{i}" / "transform.nxs", mean, 10 * seed + i, read)
        for i, mean in enumerate(means)
    ]
    out = merge.Outputs(
        volume=folder / "merged.nxs",
        slices=folder / "slices.png",
        coverage=folder / "coverage.png",
        metrics=folder / "merged.json",
    )
    merge.main(inputs=merge.Inputs(volumes=paths), outputs=out, params=merge.Params(**settings))
    found: dict[str, Any] = json.loads(out.metrics.read_text())
    with nexus.open_volume(out.volume) as volume:
        for name in ("warnings", "failures"):
            assert volume.notes.get(name, []) == found.get(name, [])
    return found


def absorption(size: float) -> Floats:
    """Transmission that changes slowly with Q, as a plate's does."""
    h, k, _ = axes()
    return 1 + size * np.sin(0.8 * h + 0.5 * k)


def only(found: dict[str, Any], kind: str) -> str:
    """The one sentence of a kind."""
    (sentence,) = found[kind]
    return str(sentence)


def test_rotations_that_agree_pass(tmp_path: Path) -> None:
    found = merged(tmp_path, [diffuse(level=30)] * 3)
    assert "warnings" not in found
    assert "failures" not in found
    assert [row["reduced chi2"] for row in found["rotations compared"]] == pytest.approx(
        [1, 1, 1], abs=0.03
    )


def of_files(folder: Path, paths: list[Path], **settings: Any) -> dict[str, Any]:
    """Merge volumes that there are; the metrics."""
    out = {name: folder / f"m.{name}" for name in ("volume", "slices", "coverage", "metrics")}
    out |= {name: out[name].with_suffix(f".{name}.png") for name in ("slices", "coverage")}
    outputs = merge.Outputs(**out)
    inputs = merge.Inputs(volumes=paths)
    merge.main(inputs=inputs, outputs=outputs, params=merge.Params(**settings))
    found: dict[str, Any] = json.loads(outputs.metrics.read_text())
    return found


# From less than a count per voxel, where most have none, to many.
@pytest.mark.parametrize("level", [0.3, 3.0, 100.0])
def test_a_copied_rotation_fails_and_the_two_are_named(tmp_path: Path, level: float) -> None:
    mean = diffuse(level=level)
    paths = [write(tmp_path / f"r{i}/transform.nxs", mean, i) for i in range(3)]
    assert "failures" not in of_files(tmp_path, paths)
    shutil.copytree(tmp_path / "r0", tmp_path / "copy")
    four = [*paths, tmp_path / "copy/transform.nxs"]
    sentence = only(of_files(tmp_path, four), "failures")
    assert sentence.startswith("r0 and copy are one measurement that counts twice")
    assert "take the row of copy out of the table of scans" in sentence
    with pytest.raises(HklflowError, match="r0 and copy are one measurement"):
        of_files(tmp_path, four, on_failure="stop")


def test_one_sweep_measured_twice_is_no_copy(tmp_path: Path) -> None:
    """The same voxels with the same norm: at few counts many are equal by chance."""
    for level in (0.3, 1.0, 3.0):
        mean = diffuse(level=level)
        rng = np.random.default_rng(7)
        paths = [tmp_path / f"{level}r{i}/transform.nxs" for i in range(2)]
        for path in paths:
            path.parent.mkdir()
            with nexus.VolumeWriter(path, GRID, CELL, "t", np.uint32, False, fast=True) as writer:
                counts = rng.poisson(mean).astype(np.uint32)
                writer.write(0, counts=counts, norm=np.ones(mean.shape, np.float32))
                writer.note({})
        assert "failures" not in of_files(tmp_path, paths)


def test_rotations_that_agree_too_well_without_being_equal_are_doubtful(tmp_path: Path) -> None:
    """Means of five frames: errors are 2.2 times too large, and both were measured."""
    mean = diffuse(level=100)
    rng = np.random.default_rng(8)
    paths = [tmp_path / f"r{i}/transform.nxs" for i in range(2)]
    for path in paths:
        path.parent.mkdir()
        norm = rng.uniform(1, 3, mean.shape).astype(np.float32)
        with nexus.VolumeWriter(path, GRID, CELL, "t", np.float64, False, fast=True) as writer:
            writer.write(0, counts=rng.poisson(5 * norm * mean) / 5, norm=norm)
            writer.note({})
    found = of_files(tmp_path, paths)
    assert "failures" not in found
    assert "agree better than independent counts can" in only(found, "warnings")
    assert found["rotations' reduced chi2"] == pytest.approx(0.2, abs=0.01)


def test_a_wrong_scale_is_told_with_its_size(tmp_path: Path) -> None:
    s = diffuse(level=30)
    found = merged(tmp_path, [s, s, 1.05 * s])
    sentence = only(found, "warnings")
    assert "r2 differs from the others by " in sentence
    assert "is one factor for the whole rotation, 1.05" in sentence
    assert "frame_scale" in sentence
    worst = found["rotations compared"][2]
    assert worst["difference"] == pytest.approx(0.05, abs=0.006)
    assert worst["factor"] == pytest.approx(1.05, abs=0.002)
    # At many counts the error bars are wrong too.
    sentence = only(merged(tmp_path / "b", [50 * s, 50 * s, 52.5 * s]), "warnings")
    assert "times too small" in sentence


def test_absorption_is_told_from_a_scale(tmp_path: Path) -> None:
    s = diffuse(level=30)
    sentence = only(merged(tmp_path, [s * absorption(0.1), s * absorption(-0.1)]), "warnings")
    assert "changes slowly with Q: absorption" in sentence


def test_rotations_of_different_crystals_fail(tmp_path: Path) -> None:
    s = diffuse(0.5, level=30)
    # The second was indexed by a mirror that the crystal does not have.
    found = merged(tmp_path, [s, s.transpose(0, 2, 1)])
    assert "nor what changes slowly" in only(found, "failures")
    with pytest.raises(HklflowError, match="the rotations disagree"):
        merged(tmp_path / "b", [s, s.transpose(0, 2, 1)], on_failure="stop")


def test_few_counts_show_a_large_difference(tmp_path: Path) -> None:
    # Three counts a voxel: reduced χ² is 1.03, which tells nothing by itself.
    s = diffuse(level=3)
    found = merged(tmp_path, [s, 1.2 * s])
    assert "by 1" in only(found, "warnings") or "by 2" in only(found, "warnings")
    assert found["rotations compared"][0]["reduced chi2"] < 1.2


def test_read_noise_is_no_disagreement(tmp_path: Path) -> None:
    assert "warnings" not in merged(tmp_path, [diffuse(level=5)] * 2, read=3.0)


def symmetrised(
    folder: Path, means: list[Floats], symbol: str = "P 4/m m m", seed: int = 0, **settings: Any
) -> dict[str, Any]:
    """Write rotations and symmetrise them; the metrics."""
    read, part = settings.pop("read", 0.0), settings.pop("part", 0.8)
    paths = [
        write(folder / f"r{i}" / "transform.nxs", mean, 100 + 10 * seed + i, read, part)
        for i, mean in enumerate(means)
    ]
    orientation = write_orientation(folder / "orientation.json", group=symbol)
    out = symmetrise.Outputs(
        symmetrised=folder / "symm.nxs", picture=folder / "symm.png", metrics=folder / "symm.json"
    )
    symmetrise.main(
        inputs=symmetrise.Inputs(volumes=paths, orientation=orientation),
        outputs=out,
        params=symmetrise.Params(**settings),
    )
    found: dict[str, Any] = json.loads(out.metrics.read_text())
    with nexus.open_volume(out.symmetrised) as volume:
        for name in ("warnings", "failures"):
            assert volume.notes.get(name, []) == found.get(name, [])
    return found


@pytest.mark.parametrize("symbol", ["P 4/m m m", "P 4/m", "P m m m", "P -1"])
@pytest.mark.slow
def test_equivalents_that_agree_pass(tmp_path: Path, symbol: str) -> None:
    found = symmetrised(tmp_path, [diffuse()] * 2, symbol)
    assert "warnings" not in found
    assert "failures" not in found


@pytest.mark.parametrize(("asymmetry", "kind"), [(0.1, "warnings"), (0.6, "failures")])
def test_a_crystal_of_4_m_is_not_4_mmm(tmp_path: Path, asymmetry: float, kind: str) -> None:
    found = symmetrised(tmp_path, [diffuse(asymmetry)] * 2)
    sentence = only(found, kind)
    assert "contradicts the Laue group 4/mmm" in sentence
    assert "the Laue group that remains is 4/m (P 4/m)" in sentence
    # Two-fold axes in the plane and mirrors that hold them, and nothing else.
    bad = set(found["operations compared"]["contradicted"])
    assert bad == {"h -k -l", "-h k -l", "k h -l", "-k -h -l",
                   "-h k l", "h -k l", "-k -h l", "k h l"}  # fmt: skip
    # The mean square of the odd part is 1/8, over a level of about 1; mates have it twice.
    size = max(row.get("beyond equal S", 0.0) for row in found["operations compared"]["operations"])
    assert size == pytest.approx(2 * asymmetry / 8**0.5, rel=0.15)
    # The remedy is pasted.
    symbol = sentence.split("symmetry: ")[1].split("}")[0]
    again = symmetrised(tmp_path / "again", [diffuse(asymmetry)] * 2, symbol=symbol)
    assert "warnings" not in again
    assert "failures" not in again


def test_stop_stops(tmp_path: Path) -> None:
    with pytest.raises(HklflowError, match="contradicts the Laue group"):
        symmetrised(tmp_path, [diffuse(0.6)], on_failure="stop")


def test_absorption_is_no_lower_symmetry(tmp_path: Path) -> None:
    found = symmetrised(tmp_path, [diffuse() * absorption(0.1)])
    assert found["operations compared"]["contradicted"] == []
    assert "changes slowly with Q" in only(found, "warnings")


def test_sharp_disagreement_of_equal_s_is_not_lower_symmetry(tmp_path: Path) -> None:
    # Each voxel of each rotation is off by 5 %, whatever its mates: artefacts.
    rng = np.random.default_rng(1)
    off = [1 + 0.05 * rng.normal(size=GRID.array_shape) for _ in range(2)]
    found = symmetrised(tmp_path, [100 * diffuse() * one for one in off])
    assert found["operations compared"]["contradicted"] == []
    assert "equivalents scatter more than their noise" in only(found, "warnings")


@pytest.mark.slow
def test_the_doubt_goes_along(tmp_path: Path) -> None:
    """Into what is filled, the 3D-ΔPDF, the difference and the stack: sentence and product."""
    bad = symmetrised(tmp_path / "bad", [diffuse(0.1)] * 2)
    symmetrised(tmp_path / "good", [diffuse()] * 2, seed=3)
    sentence = only(bad, "warnings")
    for name, told in (("bad", [sentence]), ("good", [])):
        own = tmp_path / name
        fill.main(
            inputs=fill.Inputs(symmetrised=own / "symm.nxs", orientation=own / "orientation.json"),
            outputs=fill.Outputs(
                filled=own / "filled.nxs", picture=own / "f.png", metrics=own / "filled.json"
            ),
            params=fill.Params(radius=0.2),
        )
        pdf.main(
            inputs=pdf.Inputs(filled=own / "filled.nxs"),
            outputs=pdf.Outputs(
                pdf=own / "pdf.nxs", picture=own / "p.png", metrics=own / "pdf.json"
            ),
            params=pdf.Params(),
        )
        for product in ("filled", "pdf"):
            found = json.loads((own / f"{product}.json").read_text())["warnings"]
            assert [x for x in found if "Laue" in x] == told
    difference.main(
        inputs=difference.Inputs(
            symmetrised=tmp_path / "good/symm.nxs",
            reference=tmp_path / "bad/symm.nxs",
            delta_pdf=tmp_path / "good/pdf.nxs",
            reference_pdf=tmp_path / "bad/pdf.nxs",
        ),
        outputs=difference.Outputs(
            difference=tmp_path / "d.nxs",
            pdf_difference=tmp_path / "dp.nxs",
            picture=tmp_path / "d.png",
            metrics=tmp_path / "d.json",
        ),
        params=difference.Params(),
    )
    found = json.loads((tmp_path / "d.json").read_text())["warnings"]
    assert [x for x in found if "Laue" in x] == [f"the reference: {sentence}"]
    stack.main(
        inputs=stack.Inputs(volumes=[tmp_path / "bad/symm.nxs", tmp_path / "good/symm.nxs"]),
        outputs=stack.Outputs(
            stack=tmp_path / "s.nxs", table=tmp_path / "s.tsv", picture=tmp_path / "s.png"
        ),
        params=stack.Params(scans=["100K", "300K"], temperatures=[100.0, 300.0], title="s"),
    )
    with h5py.File(tmp_path / "s.nxs") as file:
        told = json.loads(file["entry/notes/notes"][()])["doubts"]
    assert told == [f"100K: {sentence}"]
