r"""Expected background of every voxel, from backgrounds measured without the crystal.

Pixel p of frame z expects ``m(z) f(z) B(p)`` counts from its surroundings (see
`images.surroundings`). Their sum E over the pixel-frames of a voxel is a norm
with the pixel norm B and the frame norm m f, over the same valid pixel-frames and sub-samples as
the counts C; `binning` sums both in one pass. Then ``S = (C - E) / M``.

Noise. The noise of B(p) is the same on all frames. The variance of E by this noise is

.. math:: \operatorname{var} E = \sum_p \operatorname{var} B(p)
          \Big(\sum_{z \in v} m(z) f(z)\Big)^2 .

A further sum has the pixel norm ``var B(p) r(p)`` and the frame norm ``(m f)²``. Here r is
the mean number of sub-samples of the same pixel in the voxel of a sub-sample, divided by the number
of sub-samples of a pixel-frame: two sub-samples whose positions differ by Δ voxels are in the same
voxel with the probability ``Π max(0, 1 - |Δ_i|)``.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import Rotation
from hklflow.geometry.grid import Grid
from hklflow.images.surroundings import Part
from hklflow.transform.sums import Expected

Floats = NDArray[np.float64]

# Pixels between which the number of repeats is interpolated, and frames over which it is averaged.
_NODES = 12
_FRAMES = 5
# Distances in sub-samples of a frame that are all summed.
_ALL = 64
# Sums over n³ voxels whose variance is reported.
BLOCKS = (3, 5, 9)


class Norms(NamedTuple):
    """Factors of pixels and frames whose products are summed.

    Attributes
    ----------
    pixel : (slow, fast) array
    frame : (n_frames,) array
    """

    pixel: Floats
    frame: Floats


def norms(parts: Sequence[Part], incident: Floats) -> list[Norms]:
    """Return the norms of E; parts with the same factors share one."""
    groups: list[Norms] = []
    for part in parts:
        frame, level = incident * part.factor, np.nan_to_num(part.level)
        same = next((i for i, g in enumerate(groups) if np.allclose(g.frame, frame, 1e-9)), None)
        if same is None:
            groups.append(Norms(level, frame))
        else:
            groups[same] = groups[same]._replace(pixel=groups[same].pixel + level)
    return groups


def variance_norms(parts: Sequence[Part], incident: Floats, repeats: Floats) -> Norms:
    """Return the norms of the variance of E.

    The variances of parts with different factors are added with the mean course of their factors.
    """
    variances = [np.nan_to_num(part.variance) for part in parts]
    weights = np.array([image.sum() for image in variances])
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(parts), 1 / len(parts))
    squares = [part.factor**2 for part in parts]
    course = np.tensordot(weights, np.array(squares), 1)
    level = [np.mean(incident**2 * s) / np.mean(incident**2 * course) for s in squares]
    pixel = np.sum([a * image for a, image in zip(level, variances, strict=True)], axis=0)
    return Norms(_limited(pixel * repeats), _limited(incident**2 * course))


def _limited(norm: Floats) -> Floats:
    """Limit a norm, so that it does not round the others to 0."""
    positive = norm[norm > 0]
    return np.minimum(norm, 5e3 * np.median(positive)) if len(positive) else norm


def unknown(parts: Sequence[Part]) -> NDArray[np.bool_]:
    """Mark pixels without a background, for which S cannot be derived."""
    return ~np.isfinite(np.sum([part.level for part in parts], axis=0))


def repeats(
    rotation: Rotation,
    ub: ArrayLike,
    grid: Grid,
    samples: tuple[int, int, int],
    coarser: float = 1.0,
) -> Floats:
    """Return r (slow, fast), see the module; ``coarser`` is the edge of the voxels in grid steps.

    The result is interpolated between 12 x 12 pixels.
    """
    from scipy.ndimage import zoom

    n_slow, n_fast = rotation.detector.shape
    n_frames = rotation.scan.n_frames
    slow, fast = np.meshgrid(*(_spread(n) for n in (n_slow, n_fast)), indexing="ij")
    total = np.zeros(slow.shape)
    frames = np.linspace(0, n_frames, min(_FRAMES, n_frames), endpoint=False) + 0.5
    size = np.asarray(grid.step, float) * coarser
    for frame in frames:
        here = rotation.hkl(ub, frame, slow, fast)
        steps = [
            (rotation.hkl(ub, *moved) - here) / size
            for moved in ((frame + 1, slow, fast), (frame, slow + 1, fast), (frame, slow, fast + 1))
        ]
        total += _in_same_voxel(steps, samples, n_frames)
    mean = total / len(frames)
    return np.asarray(
        zoom(mean, (n_slow / mean.shape[0], n_fast / mean.shape[1]), order=1, grid_mode=True,
             mode="nearest")
    )  # fmt: skip


def _spread(n: int) -> Floats:
    """Return coordinates spread over n pixels, each in the middle of its part."""
    nodes = min(n, _NODES)
    return (np.arange(nodes) + 0.5) * n / nodes


def _in_same_voxel(steps: list[Floats], samples: tuple[int, int, int], n_frames: int) -> Floats:
    """Return the mean number of sub-samples in the same voxel, over those of a pixel-frame.

    Parameters
    ----------
    steps : three (..., 3) arrays
        Displacement in voxels by one frame, one slow and one fast pixel.
    """
    n_frame, n_slow, n_fast = samples
    total = np.zeros(steps[0].shape[:-1])
    speed = max(float(np.abs(steps[0]).max(axis=-1).min()), 1e-9)
    most = n_frame * int(min(np.ceil(2 / speed), n_frames))
    # A pixel near the rotation axis stays for many frames; these are thinned out.
    apart = np.unique(np.rint([*range(_ALL), *np.geomspace(_ALL, max(most, _ALL + 1), 80)]))
    weights = np.gradient(np.concatenate([-apart[:0:-1], apart]))[len(apart) - 1 :]
    # (d, i, j) and its negative are equally probable; near the ends one is missing.
    both = np.where(apart == 0, 1.0, 2 * np.maximum(0.0, 1 - apart / n_frame / n_frames))
    weights = both * weights / n_frame
    along = apart[:, None, None, None] / n_frame * steps[0]
    for i, j in product(range(1 - n_slow, n_slow), range(1 - n_fast, n_fast)):
        shift = along + (i / n_slow * steps[1] + j / n_fast * steps[2])
        overlap = np.maximum(0.0, 1.0 - np.abs(shift)).prod(axis=-1)
        pairs = (n_slow - abs(i)) * (n_fast - abs(j)) / (n_slow * n_fast) ** 2
        total += pairs * np.tensordot(weights, overlap, 1)
    return total


def growth(
    rotation: Rotation,
    ub: ArrayLike,
    grid: Grid,
    samples: tuple[int, int, int],
    parts: Sequence[Part],
) -> dict[str, float]:
    """Return the variance of E in a sum over n³ voxels, over the sum of the voxels' variances."""
    weight = np.sum([np.nan_to_num(part.variance) for part in parts], axis=0)
    one = float(np.sum(weight * repeats(rotation, ub, grid, samples)))
    return {
        f"{n} x {n} x {n} voxels": float(np.sum(weight * repeats(rotation, ub, grid, samples, n)))
        / one
        if one > 0
        else 1.0
        for n in BLOCKS
    }


def expected(parts: Sequence[Part], incident: Floats, repeats: Floats) -> Expected:
    """Return the norms of E and of its variance."""
    every = [*norms(parts, incident), variance_norms(parts, incident, repeats)]
    return Expected(np.array([one.pixel for one in every]), np.array([one.frame for one in every]))
