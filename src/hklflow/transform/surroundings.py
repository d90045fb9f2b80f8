r"""Expected background of every voxel, from backgrounds measured without the crystal.

Pixel p of frame z expects ``m(z) f(z) B(p)`` counts from its surroundings (see
`images.surroundings`). Their sum E over the pixel-frames of a voxel is the norm of an accumulation
with the pixel norm B and the frame norm m f, over the same valid pixel-frames and sub-samples as
the counts C. Then ``S = (C - E) / M``.

Noise. The noise of B(p) is the same on all frames. The variance of E by this noise is

.. math:: \operatorname{var} E = \sum_p \operatorname{var} B(p)
          \Big(\sum_{z \in v} m(z) f(z)\Big)^2 .

A third accumulation has the pixel norm ``var B(p) r(p)`` and the frame norm ``(m f)²``. Here r is
the mean number of sub-samples of the same pixel in the voxel of a sub-sample, divided by the number
of sub-samples of a pixel-frame: two sub-samples whose positions differ by Δ voxels are in the same
voxel with the probability ``Π max(0, 1 - |Δ_i|)``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import Rotation
from hklflow.geometry.grid import Grid
from hklflow.images.surroundings import Part
from hklflow.transform.binning import Accumulator, Box

Floats = NDArray[np.float64]

# Pixels between which the number of repeats is interpolated, and frames over which it is averaged.
_NODES = 12
_FRAMES = 5
# Distances in sub-samples of a frame that are all summed.
_ALL = 64
# Sums over n³ voxels whose variance is reported.
BLOCKS = (3, 5, 9)


class Norms(NamedTuple):
    """Norms of one accumulation.

    Attributes
    ----------
    pixel : (slow, fast) array
    frame : (n_frames,) array
    """

    pixel: Floats
    frame: Floats


def norms(parts: Sequence[Part], incident: Floats) -> list[Norms]:
    """Return the norms of the accumulations of E; parts with the same factors share one."""
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
    """Return the norms of the accumulation of the variance of E.

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


@dataclass
class Subtracted:
    """Accumulation of counts and norm together with the expected background.

    Attributes
    ----------
    counts : Accumulator
        Counts and norm of the crystal with its surroundings.
    expected : list of Accumulator
        Accumulations whose norms are parts of E.
    variance : Accumulator
        Accumulation whose norm is the variance of E.
    """

    counts: Accumulator
    expected: list[Accumulator]
    variance: Accumulator

    def add(
        self,
        frames: NDArray[Any],
        first: int,
        excluded: NDArray[np.uint8] | None = None,
        row: int | None = None,
    ) -> None:
        """Add a block of frames; see `Accumulator.add`."""
        for accumulator in (self.counts, *self.expected, self.variance):
            accumulator.add(frames, first, excluded, row)

    def boxes(self) -> Iterator[Box]:
        """Yield the sums, with counts minus background; see `Accumulator.boxes`."""
        others = [_Aligned(accumulator) for accumulator in (*self.expected, self.variance)]
        for box in self.counts.boxes():
            found = [other.norms(box) for other in others]
            background, clean_background = (
                np.sum([pair[i] for pair in found[:-1]], axis=0) for i in (0, 1)
            )
            noise, clean_noise = found[-1]
            own = box.counts if box.variance is None else box.variance
            variance, counts = own + noise, box.counts - background
            if box.clean_counts is box.counts:
                yield box._replace(
                    counts=counts, clean_counts=counts, variance=variance, clean_variance=variance,
                    background=background, clean_background=background,
                )  # fmt: skip
                continue
            clean_own = box.clean_counts if box.clean_variance is None else box.clean_variance
            yield box._replace(
                counts=counts,
                clean_counts=box.clean_counts - clean_background,
                variance=variance,
                clean_variance=clean_own + clean_noise,
                background=background,
                clean_background=clean_background,
            )


def subtracted(
    counts: Accumulator, ub: ArrayLike, expected: Sequence[Norms], variance: Norms
) -> Subtracted:
    """Return accumulations of the background over the same pixel-frames as the counts.

    A norm that is 0 in a pixel or frame that the counts use contributes nothing.
    """

    def like(norms: Norms) -> Accumulator:
        return Accumulator(
            counts.rotation,
            ub,
            counts.grid,
            np.where(counts.pixel_norm > 0, norms.pixel, 0.0),
            np.where(counts.frame_norm > 0, norms.frame, 0.0),
            counts.samples,
            counts.readout._replace(read_variance=None),
            planes=counts.planes,
            threads=counts.threads,
        )

    return Subtracted(counts, [like(one) for one in expected], like(variance))


class _Aligned:
    """Norms of an accumulation in the boxes of another accumulation that has all its voxels."""

    def __init__(self, accumulator: Accumulator) -> None:
        self._boxes = accumulator.boxes()
        self._next: Box | None = next(self._boxes, None)

    def norms(self, box: Box) -> tuple[Floats, Floats]:
        """Return the norms of a box: of all pixels, and without the artefact mask."""
        mine = self._next
        if mine is None or mine.first != box.first:
            zeros = np.zeros(box.norm.shape)
            return zeros, zeros
        self._next = next(self._boxes, None)
        return mine.norm, mine.clean_norm
