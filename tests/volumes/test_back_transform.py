"""The ΔPDF transformed back: against numpy's transform, and χ² in noise and in known worlds."""

from typing import Any

import numpy as np
import pytest
from tests.truth.defaults import made_taper

from hklflow.geometry.grid import Grid
from hklflow.volumes import back_transform, pdf
from hklflow.volumes.pdf_plan import Plan, plan

TRICLINIC = np.array([4.0, 5.0, 6.0, 80.0, 110.0, 97.0])
CUBIC = np.array([4.0, 4.0, 4.0, 90.0, 90.0, 90.0])
MMM = np.array([np.diag([1 - 2 * i for i in d]) for d in np.ndindex(2, 2, 2)])
FRIEDEL = np.stack([np.eye(3), -np.eye(3)])
N = 31


def indices() -> np.ndarray:
    """Distances (l, k, h, 3) from Q = 0 in voxels along h, k, l."""
    return np.moveaxis(np.indices((N, N, N)), 0, -1)[..., ::-1] - N // 2


def mean_of_mates(values: np.ndarray, operations: np.ndarray) -> np.ndarray:
    """Mean over the group."""
    total = np.zeros(values.shape)
    for w in operations:
        moved = np.rint(indices() @ w.T).astype(int)
        total += values[tuple(moved[..., i] + N // 2 for i in (2, 1, 0))]
    return total / len(operations)


def compared(
    s: np.ndarray, sigma: np.ndarray, cell: np.ndarray, operations: Any, code: Any = None,
    **others: Any,
) -> tuple[Plan, np.ndarray, back_transform.Comparison]:  # fmt: skip
    grid = Grid.symmetric([1.5] * 3, 0.1)
    code = np.zeros(s.shape, np.uint8) if code is None else code
    made = plan(grid, cell, made_taper("tukey", others.pop("q_max", 2.0)), operations, **others)
    found, errors, _ = pdf.transform_volume(made, s.astype(np.float32), sigma)
    back = back_transform.BackTransform(made, 1e9)
    for first in range(0, len(found), 7):  # in blocks
        back.add(first, found[first : first + 7], errors[first : first + 7])
    result = back.compare(lambda i: (s[i], sigma[i], code[i]))
    assert result is not None
    return made, found, result


@pytest.mark.parametrize("sizes", [(32, 36, 33), (31, 33, 40)])
@pytest.mark.parametrize("operations", [FRIEDEL, FRIEDEL[:1]])
def test_residuals_are_those_of_numpy(
    sizes: Any, operations: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All planes; S of a triclinic crystal, symmetrised or not, with gaps in it."""
    monkeypatch.setattr(back_transform, "_PLANES", 100)
    rng = np.random.default_rng(2)
    s, code = rng.normal(3, 1, (N,) * 3), (rng.random((N,) * 3) < 0.1).astype(np.uint8)
    sigma = rng.uniform(0.5, 1.5, s.shape).astype(np.float32)
    if len(operations) == 2:
        s, sigma, code = s + s[::-1, ::-1, ::-1], sigma + sigma[::-1, ::-1, ::-1], code & 1
        code &= code[::-1, ::-1, ::-1]
    made, found, result = compared(s, sigma, TRICLINIC, operations, code, sizes=sizes)
    assert result.planes == 2 * int(made.reach[2]) + 1 <= 31
    # r in Å from the cell, on the voxels of the ΔPDF.
    a, b, c, cosines = *TRICLINIC[:3], np.cos(np.radians(TRICLINIC[3:]))
    cosine = np.array(
        [[1, cosines[2], cosines[1]], [cosines[2], 1, cosines[0]], [cosines[1], cosines[0], 1]]
    )
    metric = np.outer([a, b, c], [a, b, c]) * cosine
    z, y, x = np.meshgrid(*(made.direct.axis(i) for i in (2, 1, 0)), indexing="ij")
    r = np.stack([x, y, z], axis=-1)
    squares = np.einsum("...i,ij,...j->...", r, metric, r)
    # T on the padded box, w from the metric.
    u = indices()
    hkl = u * 0.1
    q = 2 * np.pi * np.sqrt(np.einsum("...i,ij,...j->...", hkl, np.linalg.inv(metric), hkl))
    w = np.clip(np.where(q <= 1, 1, 0.5 * (1 + np.cos(np.pi * (q - 1)))), 0, 1) * (q <= 2)
    mates = (slice(None, None, -1),) * 3
    known = (code == 0).astype(float)
    number = np.maximum(known + known[mates], 1)
    mean = (s * known + (s * known)[mates]) / number
    variance = (sigma**2 * known + (sigma**2 * known)[mates]) / number
    variance = w * w * (variance if len(operations) == 2 else variance / number)
    used = (known + known[mates] > 0) & (w > 0)
    volume = np.fft.ifftshift(found)
    place = np.ix_(*(np.arange(-(N // 2), N // 2 + 1) % n for n in found.shape))
    for radius, chi in zip(result.radii, result.beyond, strict=True):
        inside = np.fft.ifftshift(squares <= radius**2)
        back = np.fft.fftn(np.where(inside, volume, 0)).real[place] / (
            found.size * np.prod(made.grid.step) / np.sqrt(np.linalg.det(metric))
        )
        residual = np.sum((w * mean - back)[used] ** 2) / np.sum(variance[used])
        at = int(np.flatnonzero(result.radii == radius)[0])
        assert chi * result.left[at] == pytest.approx(residual, rel=1e-4)
        # Errors are nearly the same everywhere: the rest of the noise is that of the voxels.
        assert result.left[at] == pytest.approx(1 - inside.mean(), abs=0.01)
    assert result.voxels == used.sum()
    # Unsymmetrised volumes count the filled mates in the ΔPDF, but not as measured.
    assert len(operations) == 1 or result.whole < 1e-4


def test_noise_gives_one_at_every_radius() -> None:
    """Symmetric noise that is twice as strong at h > 0.5."""
    pulls, shells = [], []
    strong = np.where(np.abs(indices()[..., 0]) > 5, 2.0, 1.0)
    # On a mirror plane, half as many voxels are equivalent.
    stays = np.prod(np.where(indices() == 0, 2.0, 1.0), axis=-1)
    sigma = (strong * np.sqrt(stays / len(MMM))).astype(np.float32)
    for seed in range(6):
        noise = strong * mean_of_mates(np.random.default_rng(seed).normal(size=(N,) * 3), MMM)
        _, _, result = compared(noise, sigma, CUBIC, MMM)
        pulls.append((result.beyond - 1) / result.beyond_sigma)
        shells.append((result.shells - 1) / result.shells_sigma)
        assert not result.ends or result.chosen == 0
    for found in (np.array(pulls), np.array(shells)):
        assert np.abs(found.mean(axis=0)).max() < 1.0
        assert found.std(axis=0).min() > 0.4
        assert found.std(axis=0).max() < 1.8


def test_correlations_end_at_their_longest_pair() -> None:
    """Pairs at one and two lattice vectors of 4 Å along each axis, and noise."""
    hkl = indices() * 0.1
    pairs = sum(
        a * np.cos(2 * np.pi * n * hkl[..., i]) for i in range(3) for n, a in ((1, 0.3), (2, -0.2))
    )
    noise = mean_of_mates(np.random.default_rng(1).normal(size=(N,) * 3), MMM)
    stays = np.prod(np.where(indices() == 0, 2.0, 1.0), axis=-1)
    sigma = 0.1 * np.sqrt(stays / len(MMM)).astype(np.float32)
    _, _, result = compared(2 + pairs + 0.1 * noise, sigma, CUBIC, MMM)
    assert result.ends
    # The peak of a pair is as wide as the resolution.
    assert 8.0 <= result.radii[result.chosen] < 16.0
    assert (result.beyond[result.radii < 7] > 3).all()
    assert result.explained[result.chosen] == pytest.approx(1, abs=0.02)
    assert result.explained[0] < 0.9
    assert abs(result.near_holes[0]) < 0.5 or np.isnan(result.near_holes[0])
