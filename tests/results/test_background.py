"""The error by the level of a background, in merged, symmetrised and filled volumes.

Truth: two reductions of the same photons that differ only in the level of the subtracted
background, by its relative error. S of each cut then differs by the error.
"""

from pathlib import Path

import numpy as np
import pytest

import hklflow
from hklflow import nexus
from hklflow.geometry import symmetry
from hklflow.geometry.grid import Grid
from hklflow.stages import fill, merge, symmetrise
from tests.truth.cuts import GENERIC, hkl_of, symmetric
from tests.truth.orientations import write_orientation

GRID = Grid.symmetric(0.9, 0.1)
GROUP = "P 6/m m m"
CELL = symmetry.constrain_cell(GENERIC, symmetry.space_group(GROUP))
LEVEL = 0.03
NOTES = {
    "relative errors of the backgrounds, common to all voxels": {"air": LEVEL},
    "variance of the background in a sum of voxels, over the sum of their variances": {
        "2 x 2 x 2 voxels": 1.0
    },
}


def reduced(folder: Path, level: float) -> dict[str, Path]:
    """Merge, symmetrise and fill two rotations, one without a background of its own at l > 0."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    hkl = hkl_of(GRID)
    true = symmetric(GROUP, hkl)
    # The background is not symmetric, and the rotations have different parts of it.
    slope = 30 * (2 + hkl[..., 0] + 0.5 * hkl[..., 2])
    rotations = []
    for i, share in enumerate((1.0, 0.4)):
        norm = rng.uniform(20, 40, true.shape) * (rng.random(true.shape) < 0.8)
        norm = norm.astype(np.float32).astype(float)
        expected = share * slope * norm
        photons = rng.poisson(norm * true + expected)
        subtracted = level * expected
        path = folder / f"r{i}" / "transform.nxs"
        path.parent.mkdir()
        with nexus.VolumeWriter(
            path, GRID, CELL, "t", np.float64, False, fast=True, variance=True, background=True,
            exact=True,
        ) as writer:  # fmt: skip
            writer.write(
                0,
                counts=photons - subtracted,
                norm=norm,
                variance=photons + 0.1 * expected,
                background=subtracted,
            )
            writer.note(NOTES)
        rotations.append(path)
    paths = {name: folder / f"{name}.nxs" for name in ("merged", "symmetrised", "filled")}
    merge.main(
        inputs=merge.Inputs(volumes=rotations),
        outputs=merge.Outputs(
            volume=paths["merged"],
            slices=folder / "s.png",
            coverage=folder / "c.png",
            metrics=folder / "m.json",
        ),
        params=merge.Params(),
    )
    orientation = write_orientation(folder / "orientation.json", group=GROUP)
    symmetrise.main(
        inputs=symmetrise.Inputs(volumes=rotations, orientation=orientation),
        outputs=symmetrise.Outputs(
            symmetrised=paths["symmetrised"], picture=folder / "y.png", metrics=folder / "y.json"
        ),
        # All measurements are used: the asymmetric background is subtracted but for its error.
        params=symmetrise.Params(n_sigma=1000),
    )
    fill.main(
        inputs=fill.Inputs(symmetrised=paths["symmetrised"], orientation=orientation),
        outputs=fill.Outputs(
            filled=paths["filled"], picture=folder / "f.png", metrics=folder / "f.json"
        ),
        params=fill.Params(radius=0.05),
    )
    return paths


@pytest.mark.slow
def test_the_error_of_the_level_is_the_change_of_s(tmp_path: Path) -> None:
    right, wrong = reduced(tmp_path / "a", 1.0), reduced(tmp_path / "b", 1 + LEVEL)
    for kind, estimands in (
        ("merged", ("ratio", "mean")),
        ("symmetrised", ("ratio", "mean")),
        ("filled", ("mean",)),
    ):
        one, other = hklflow.open(right[kind]), hklflow.open(wrong[kind])
        assert one.kind == kind
        for estimand in estimands:
            for cut in (
                lambda v, e=estimand: v.box(h=(0.2, 0.6), k=(-0.3, 0.2), l=(0.1, 0.5), estimand=e),
                lambda v, e=estimand: v.line((-0.8, 0.2, 0.3), (0.8, 0.2, 0.3), 0.5, estimand=e),
                lambda v, e=estimand: v.plane("hk0.2", 0.3, estimand=e),
            ):
                first, second = cut(one), cut(other)
                change = np.asarray(first.S - second.S)
                stated = np.asarray(first.sigma_background)
                known = np.isfinite(stated)
                assert known.any()
                assert stated[known].min() > 0.3  # not small: S is 2 to 8
                np.testing.assert_allclose(change[known], stated[known], rtol=2e-3)
        assert "sigma_background" in first.attrs["errors"]


@pytest.mark.slow
def test_the_level_adds_linearly(tmp_path: Path) -> None:
    """Images do not lower it: the symmetrised box has the error of the merged orbit."""
    paths = reduced(tmp_path / "a", 1.0)
    whole = {kind: hklflow.open(paths[kind]).box() for kind in ("merged", "symmetrised")}
    errors = [float(cut.sigma_background) for cut in whole.values()]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)
