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
MMM = np.array([np.diag(d) for d in np.ndindex(2, 2, 2)]) * 0 + [
    np.diag([1 - 2 * i for i in d]) for d in np.ndindex(2, 2, 2)
]
FRIEDEL = np.stack([np.eye(3), -np.eye(3)])
N = 31


def indices() -> np.ndarray:
    """Distances (l, k, h, 3) from Q = 0 in voxels along h, k, l."""
    return np.moveaxis(np.indices((N, N, N)), 0, -1)[..., ::-1] - N // 2


def mean_of_mates(values: np.ndarray, operations: np.ndarray) -> np.ndarray:
    """Sum over the group, divided by the square root of the number of different equivalents."""
    u = indices()
    total, number = np.zeros(values.shape), np.zeros(values.shape)
    for w in operations:
        moved = np.rint(u @ w.T).astype(int)
        total += values[tuple(moved[..., i] + N // 2 for i in (2, 1, 0))]
        number += np.all(moved == u, axis=-1)
    return total / np.sqrt(number * len(operations))


def compared(
    s: np.ndarray, sigma: np.ndarray, cell: np.ndarray, operations: Any, code: Any = None,
    room: float = 1e9, **others: Any,
) -> tuple[Plan, np.ndarray, back_transform.Comparison]:  # fmt: skip
    grid = Grid.symmetric([1.5] * 3, 0.1)
    code = np.zeros(s.shape, np.uint8) if code is None else code
    made = plan(grid, cell, made_taper("tukey", others.pop("q_max", 2.0)), operations, **others)
    found, errors, _ = pdf.transform_volume(made, s.astype(np.float32), sigma)
    back = back_transform.BackTransform(made, room)
    for first in range(0, len(found), 7):  # in blocks
        back.add(first, found[first : first + 7], errors[first : first + 7])
    result = back.compare(lambda l: (s[l], sigma[l], code[l]))
    assert result is not None
    return made, found, result


@pytest.mark.parametrize("sizes", [(32, 36, 33), (31, 33, 40)])
@pytest.mark.parametrize("operations", [FRIEDEL, FRIEDEL[:1]])
def test_residuals_are_those_of_numpy(sizes: Any, operations: np.ndarray) -> None:
    """All planes; S of a triclinic crystal, symmetrised or not, with gaps in it."""
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
    metric = np.outer([a, b, c], [a, b, c]) * (
        np.eye(3) + [[0, cosines[2], cosines[1]], [0, 0, cosines[0]], [0, 0, 0]]
        + np.transpose([[0, cosines[2], cosines[1]], [0, 0, cosines[0]], [0, 0, 0]])
    )  # fmt: skip
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


@pytest.mark.parametrize("room", [1e9, 2e5])
def test_noise_gives_one_at_every_radius(room: float) -> None:
    """Symmetric noise that is twice as strong at h > 0.5; all planes, or a sample."""
    pulls, shells = [], []
    strong = np.where(np.abs(indices()[..., 0]) > 5, 2.0, 1.0)
    for seed in range(12):
        white = np.random.default_rng(seed).normal(size=(N,) * 3)
        orbits = np.sqrt(mean_of_mates(np.ones((N,) * 3), MMM) / np.sqrt(len(MMM)))
        sigma = (strong / np.maximum(orbits, 1e-9) / np.sqrt(len(MMM))).astype(np.float32) * 0 + (
            strong / np.sqrt(len(MMM))
        ).astype(np.float32)
        stays = np.prod(np.where(indices() == 0, 2.0, 1.0), axis=-1)
        sigma *= np.sqrt(stays).astype(np.float32)
        noise = strong * mean_of_mates(white, MMM) / np.sqrt(len(MMM)) * 1.0
        _, _, result = compared(noise, sigma, CUBIC, MMM, room=room)
        pulls.append((result.beyond - 1) / result.beyond_sigma)
        shells.append((result.shells - 1) / result.shells_sigma)
    print(result.planes, np.mean(pulls, 0), np.std(pulls, 0), np.mean(shells, 0), np.std(shells, 0), result.beyond_sigma)
