"""First guess of beam centre and distance from a powder image, without starting values.

The centre is the point about which the image is most similar to a copy rotated by 180°. At the
right distance, the calculated rings of the calibrant collect the most signal of the radial profile.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.poni import ORIENTATION_SIGNS, Poni

Floats = NDArray[np.float64]


def guess_poni(
    shape: tuple[int, int],
    pixel_size: tuple[float, float],
    distance: float,
    beam_centre: tuple[float, float],
    orientation: int,
    wavelength: float,
) -> Poni:
    """Return the PONI of an untilted detector; beam_centre is (slow, fast) in pixel coordinates."""
    if orientation not in ORIENTATION_SIGNS:
        raise HklflowError(
            f"image orientation {orientation!r} is not 1, 2, 3 or 4; set `orientation`"
        )
    along = [
        centre if sign > 0 else n - centre
        for centre, sign, n in zip(beam_centre, ORIENTATION_SIGNS[orientation], shape, strict=True)
    ]
    return Poni(
        distance,
        along[0] * pixel_size[0],
        along[1] * pixel_size[1],
        0.0,
        0.0,
        0.0,
        pixel_size[0],
        pixel_size[1],
        shape,
        orientation,
        wavelength,
    )


def find_beam_centre(image: ArrayLike, bad: NDArray[np.bool_]) -> tuple[float, float]:
    """Find the centre (slow, fast) about which the rings are symmetric, to about a pixel.

    The image is correlated with its copy rotated by 180°, normalised by the number of overlapping
    pixels. The beam must be well inside the image.

    Raises
    ------
    HklflowError
        If no centre is significant.
    """
    from scipy.fft import irfft2, next_fast_len, rfft2
    from scipy.ndimage import gaussian_filter

    good = (~bad).astype(np.float64)
    # The square root prevents a few bright grains from dominating; the high-pass filter removes the
    # background.
    values = np.sqrt(np.where(bad, 0.0, np.asarray(image, dtype=np.float64)).clip(min=0))
    level = gaussian_filter(values, 15) / gaussian_filter(good, 15).clip(min=1e-3)
    values = np.where(bad, 0.0, values - level)
    spread = 5 * np.median(np.abs(values[~bad])) + 1e-12
    values = values.clip(-spread, spread)
    size = [next_fast_len(2 * n, real=True) for n in values.shape]

    def convolved(a: Floats) -> Floats:
        transform = rfft2(a, size)
        result: Floats = irfft2(transform * transform, size)
        return result[: 2 * a.shape[0] - 1, : 2 * a.shape[1] - 1]

    overlap = convolved(good)
    score = convolved(values) / np.sqrt(overlap.clip(min=1.0))
    score = gaussian_filter(score, 1.0)
    # At least a twentieth of the pixels must have their mirror image on the detector.
    score[overlap < 0.05 * good.sum()] = -np.inf
    peak = np.unravel_index(int(score.argmax()), score.shape)
    finite = score[np.isfinite(score)]
    height = (score[peak] - finite.mean()) / finite.std()
    if not height > 8:
        raise HklflowError(
            f"no beam centre found in the powder image: the best is {height:.1f} standard "
            "deviations high, and 8 are needed; set the beam centre"
        )
    # Pixel i has its centre at i + 1/2. If pixels i and i' are symmetric, the centre is at
    # (i + i' + 1) / 2.
    return (float(peak[0]) + 1) / 2, (float(peak[1]) + 1) / 2


def find_distance(
    image: ArrayLike,
    bad: NDArray[np.bool_],
    beam_centre: tuple[float, float],
    pixel_size: tuple[float, float],
    rings: Floats,
) -> float:
    """Find the distance in metres, to about 1 %, at which the rings collect the most signal.

    Raises
    ------
    HklflowError
        If no distance is significant.
    """
    from scipy.ndimage import gaussian_filter1d, median_filter

    values = np.asarray(image, dtype=np.float64)
    slow, fast = np.indices(values.shape) + 0.5
    radius = np.hypot(
        (slow - beam_centre[0]) * pixel_size[0], (fast - beam_centre[1]) * pixel_size[1]
    )
    width = min(pixel_size)
    index = (radius[~bad] / width).astype(np.int64)
    total = np.bincount(index, np.sqrt(values[~bad].clip(min=0)))
    count = np.bincount(index)
    profile = total / count.clip(min=1)
    profile = np.where(count > 20, profile - median_filter(profile, 61), 0.0)
    # The profile is limited, because a single strong ring could match at any distance.
    profile = profile.clip(0, 5 * profile.std())
    profile = gaussian_filter1d(profile - profile.mean(), 1.5)
    norm = np.sqrt(np.sum(profile**2))
    reach = len(profile) * width
    distances = np.geomspace(0.2 * reach, 50 * reach, 4000)
    scores = np.zeros(len(distances))
    forward = rings[rings < 1.4]
    for i, distance in enumerate(distances):
        bins = distance * np.tan(forward) / width
        bins = bins[bins < len(profile) - 1].astype(np.int64)
        if len(bins) >= 3:
            comb = np.zeros(len(profile))
            comb[bins] = 1.0
            comb = gaussian_filter1d(comb, 2.0)
            comb -= comb.mean()
            scores[i] = np.sum(comb * profile) / (np.sqrt(np.sum(comb**2)) * norm)
    best = int(scores.argmax())
    if scores[best] < 0.3:
        raise HklflowError(
            f"no distance found for the rings of the powder image: the best correlation is "
            f"{scores[best]:.2f}, and 0.3 is needed; set the distance, and check calibrant and "
            "wavelength"
        )
    return float(distances[best])
