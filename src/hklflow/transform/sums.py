"""Input of a transform: the geometry, the norms, the limits and the grid."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation, rays
from hklflow.geometry.grid import Grid
from hklflow.geometry.off_axis import OffAxis
from hklflow.transform.counts import LANES
from hklflow.transform.direction import Direction

Floats = NDArray[np.float64]

# Largest allowed norm of a frame, or of a pixel, relative to the median. With a larger ratio, the
# other norms would be rounded too coarsely.
_LARGEST_RATIO = 1e4


class Readout(NamedTuple):
    """Meaning of the values of a frame.

    Attributes
    ----------
    invalid_from : float
        Values from this value on are invalid (flags, saturated pixels).
    valid_from : float
        Values of floating-point frames below this value are invalid; negative integers
        are always invalid.
    read_variance : (slow, fast) array or None
        Variance of the read noise in photons², for frames of photons plus read noise.
    """

    invalid_from: float = np.inf
    valid_from: float = 0.0
    read_variance: NDArray[np.floating[Any]] | None = None


_ALL_VALID = Readout()


class Expected(NamedTuple):
    """Norms of the expected background and of its variance.

    Attributes
    ----------
    pixel : (n, slow, fast) array
        Factors of the pixels. The last product of a pixel's and a frame's factor is the variance of
        the background; the sum of the other products is the background.
    frame : (n, n_frames) array
        Factors of the frames.
    """

    pixel: Floats
    frame: Floats


class Sums:
    """Geometry, norms and limits of one rotation, for summing its counts and norms on a grid.

    Parameters
    ----------
    rotation : Rotation
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π.
    grid : Grid
    pixel_norm : (slow, fast) array
        The pixel's factor of N; 0: the pixel is not used.
    frame_norm : (n_frames,) array
        The frame's factor of N (monitor, attenuation, transmission, exposure); 0: the frame is not
        used.
    samples : (frame, slow, fast)
        Sub-samples, see `sub_samples`.
    readout : Readout
    seed : int
        Seed for the distribution of photons, 0 or more. Rotations whose volumes are added or
        compared need different seeds. With the same geometry and seed, the photons of a pixel go to
        the same sub-samples, and the error of the sum is too small.
    planes : (first, last) or None
        Planes l of the grid to fill; ``first`` is a multiple of 8. None: all planes.
    threads : int
        Number of threads.
    direction : Direction or None
        A further factor of N.
    expected : Expected or None
        Expected background, which is summed over the same pixel-frames.
    offset : (3,) array or None
        Offset of the crystal from the axis, in the goniometer's frame, m; None: on the axis.

    Attributes
    ----------
    norm_bound : float
        A power of two above the norm of every pixel-frame.
    expected_bounds : (2,) array
        The same for the expected background, and for its variance.
    """

    def __init__(
        self,
        rotation: Rotation,
        ub: ArrayLike,
        grid: Grid,
        pixel_norm: Floats,
        frame_norm: Floats,
        samples: tuple[int, int, int] = (1, 1, 1),
        readout: Readout = _ALL_VALID,
        seed: int = 0,
        planes: tuple[int, int] | None = None,
        threads: int = 1,
        direction: Direction | None = None,
        expected: Expected | None = None,
        offset: Floats | None = None,
    ) -> None:
        if pixel_norm.shape != rotation.detector.shape:
            raise HklflowError(
                f"the pixel norm has shape {pixel_norm.shape}, the detector "
                f"{rotation.detector.shape}; mask, flat field and frames must agree"
            )
        noise = readout.read_variance
        if noise is not None and noise.shape != pixel_norm.shape:
            raise HklflowError(
                f"the read noise has shape {noise.shape}, the detector {pixel_norm.shape}; "
                "correct the frames again"
            )
        if len(frame_norm) != rotation.scan.n_frames:
            raise HklflowError(
                f"the frame norm has {len(frame_norm)} values for {rotation.scan.n_frames} frames"
            )
        if direction is not None:
            direction.require(rotation.scan.n_frames, rotation.detector.shape)
        self.rotation, self.grid, self.samples = rotation, grid, samples
        self.direction = direction
        self.planes: tuple[int, int] = (0, grid.shape[2]) if planes is None else planes
        self.readout, self.threads = readout, threads
        # Spread over all bits, so that neighbouring seeds give unrelated numbers.
        self.seed = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        # This test sets NaN to 0, too.
        self.pixel_norm = np.where(pixel_norm > 0, pixel_norm, 0.0)
        self.frame_norm = np.where(np.asarray(frame_norm) > 0, frame_norm, 0.0)
        largest = 1.0 if direction is None else direction.largest
        self.norm_bound = _norm_bound(self.pixel_norm, self.frame_norm, largest)
        self._ub = np.asarray(ub, dtype=np.float64)
        self._off_axis = None if offset is None else OffAxis(rotation, offset)
        self.expected: Expected | None = None
        self.expected_bounds = np.ones(2)
        if expected is not None:
            self._set_expected(expected)

    def _set_expected(self, expected: Expected) -> None:
        """Take the norms of the background, 0 where counts are not used, and their bounds."""
        pixel = np.where((self.pixel_norm > 0) & (expected.pixel > 0), expected.pixel, 0.0)
        frame = np.where((self.frame_norm > 0) & (expected.frame > 0), expected.frame, 0.0)
        if pixel.shape[1:] != self.pixel_norm.shape or frame.shape[1:] != self.frame_norm.shape:
            raise HklflowError(
                f"the background has {pixel.shape[1:]} pixels and {frame.shape[1:]} frames, the "
                f"rotation {self.pixel_norm.shape} and {self.frame_norm.shape}; run `background` "
                "again"
            )
        self.expected = Expected(pixel, frame)
        bounds = [_norm_bound(p, f, 1.0) for p, f in zip(pixel, frame, strict=True)]
        whole = 2.0 ** math.ceil(math.log2(sum(bounds[:-1])))
        self.expected_bounds = np.array([whole, bounds[-1]])

    def expected_units(self, unit: float) -> Floats:
        """Return the unit (n, 1) of the sums of each product in `expected`.

        Parameters
        ----------
        unit : float
            Unit of sums whose terms are below 1.
        """
        assert self.expected is not None
        whole, variance = unit * self.expected_bounds
        return np.array([[whole]] * (len(self.expected.pixel) - 1) + [[variance]])

    def pixel_norm_of(self, frame: int, rows: slice) -> Floats:
        """Return the pixel norm (slow, fast) with the direction's factor; only rows are right."""
        if self.direction is None:
            return self.pixel_norm
        return self.direction.times(self.pixel_norm, frame, rows)

    @property
    def n_sub(self) -> int:
        """Number of sub-samples of a pixel-frame."""
        return int(np.prod(self.samples))

    def q(self, dtype: type[np.floating[Any]]) -> NDArray[Any]:
        """Return q_lab (sub-samples of a pixel, 3, slow, fast) in 1/Å.

        Sixteen more numbers follow this array in memory.
        """
        _, sub_slow, sub_fast = self.samples
        shape = (sub_slow * sub_fast, 3, *self.rotation.detector.shape)
        table = np.zeros(int(np.prod(shape)) + LANES, dtype)[:-LANES].reshape(shape)
        for s in range(sub_slow * sub_fast):
            shift = (s // sub_fast + 0.5) / sub_slow, (s % sub_fast + 0.5) / sub_fast
            rays.q_lab(self.rotation, shift, table[s])
        return table

    def to_voxel(self, frames: NDArray[np.int64]) -> Floats:
        """Return matrices (n, sub-samples, 3, 4) from (q_lab, 1) to voxels."""
        sub = self.samples[0]
        positions = frames[:, None] + (np.arange(sub) + 0.5) / sub
        rotation = self.rotation.goniometer.rotation(self.rotation.scan.angle(positions))
        matrices = np.empty((*positions.shape, 3, 4))
        matrices[..., :3] = np.linalg.inv(rotation @ self._ub) / self.grid.step[:, None]
        matrices[..., 3] = 0.5 - self.grid.first / self.grid.step
        if self._off_axis is not None:
            matrices += matrices[..., :3] @ self._off_axis.change(rotation)
        return matrices


def _norm_bound(pixel_norm: Floats, frame_norm: Floats, direction: float) -> float:
    """Return a power of two above the product of the largest norms, and of the other factor.

    Raises
    ------
    HklflowError
        If a norm is so large that the other norms would be rounded to 0.
    """
    pixels, frames = pixel_norm[pixel_norm > 0], frame_norm[frame_norm > 0]
    if len(pixels) == 0 or len(frames) == 0:
        return 1.0
    for what, norms, used, advice in (
        ("frame", frame_norm, frames, "its monitor and attenuation, or leave it out"),
        ("pixel", pixel_norm, pixels, "the flat field, or mask it"),
    ):
        typical = np.median(used[:: 1 + len(used) // 100_000])
        if not (largest := norms.max()) < _LARGEST_RATIO * typical:  # also for infinite norms
            where = ", ".join(str(i) for i in np.unravel_index(np.argmax(norms), norms.shape))
            raise HklflowError(
                f"the norm of {what} {where} is {largest / typical:.1e} times the median norm, and "
                f"the others would be rounded to 0; correct {advice}"
            )
    # With the factor 1.001, norms near 1 give the same power of two whatever their last digit.
    return math.ldexp(1.0, math.frexp(1.001 * pixels.max() * frames.max() * direction)[1])
