"""Points on rings and Bragg residuals of detectors whose modules are displaced by known amounts.

They are made by plain vector formulas.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from hklflow.calibration.modules import BraggPeaks, RingImage
from hklflow.geometry import Detector

PIXEL = 172e-6
WAVELENGTH = 0.41
LAB6 = 4.156826


def pilatus(rows: int, columns: int) -> np.ndarray:
    """Rectangles of a detector of modules of 195 x 487 pixels with gaps of 17 and 7."""
    return np.array(
        [
            [212 * i, 212 * i + 195, 494 * j, 494 * j + 487]
            for i in range(rows)
            for j in range(columns)
        ]
    )


def two_theta() -> np.ndarray:
    """2θ of LaB6 in radians: a primitive cubic lattice."""
    n = np.arange(9)
    h2 = np.unique(n[:, None, None] ** 2 + n[None, :, None] ** 2 + n[None, None] ** 2)[1:]
    sine = 0.5 * WAVELENGTH * np.sqrt(h2) / LAB6
    return 2 * np.arcsin(sine[sine < 0.5])


def in_gauge(boxes: np.ndarray, shift: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Shifts without their common shift, and without net rotation and expansion."""
    at = np.stack([boxes[:, 0] + boxes[:, 1], boxes[:, 2] + boxes[:, 3]], axis=1) / 2
    at = at - at.mean(axis=0)
    own = ((boxes[:, 1] - boxes[:, 0]) ** 2 + (boxes[:, 3] - boxes[:, 2]) ** 2) / 12
    shift = shift - shift.mean(axis=0)
    across = np.stack([-at[:, 1], at[:, 0]], axis=1)
    shift = shift - (np.sum(across * shift) + own @ turn) / np.sum(at**2) * across
    return shift - np.sum(at * shift) / np.sum(at**2) * at


def truth(boxes: np.ndarray, seed: int, size: float, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Shifts (n, 2) in pixels and rotations (n,) in radians, within the gauge."""
    rng = np.random.default_rng([seed, 1])
    angle = rng.normal(0, turn, len(boxes)) if turn else np.zeros(len(boxes))
    return in_gauge(boxes, rng.normal(0, size, (len(boxes), 2)), angle), angle


class Setting:
    """A detector at a place: centre of the direct beam, distance, two tilts."""

    def __init__(
        self,
        boxes: np.ndarray,
        centre: tuple[float, float],
        distance: float,
        tilt: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.boxes = boxes
        self.turn = Rotation.from_euler("xy", tilt)
        self.slow, self.fast = self.turn.apply([[0.0, -1, 0], [-1.0, 0, 0]])
        beam = np.array([0, 0, distance])
        self.origin = beam - PIXEL * (centre[0] * self.slow + centre[1] * self.fast)

    def detector(self, off: np.ndarray | None = None) -> Detector:
        """As the fit gets it, perhaps off (metres) the truth."""
        shape = (int(self.boxes[:, 1].max()), int(self.boxes[:, 3].max()))
        origin = self.origin if off is None else self.origin + off
        return Detector(shape, (PIXEL, PIXEL), origin, self.slow, self.fast)

    def seen(
        self, rays: np.ndarray, shift: np.ndarray, angle: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image coordinates (n, 2) and modules (n,) of rays; module -1 for none."""
        normal = np.cross(self.fast, self.slow)
        normal = normal * np.sign(normal @ self.origin)
        at = rays * (self.origin @ normal / (rays @ normal))[:, None] - self.origin
        plane = np.stack([at @ self.slow, at @ self.fast], axis=1) / PIXEL
        image, module = np.full(plane.shape, np.nan), np.full(len(rays), -1)
        for m, (s0, s1, f0, f1) in enumerate(self.boxes):
            centre = np.array([s0 + s1, f0 + f1]) / 2
            off = plane - centre - shift[m]
            c, s = np.cos(angle[m]), np.sin(angle[m])
            x = centre + off @ np.array([[c, -s], [s, c]])
            on = (x[:, 0] >= s0) & (x[:, 0] < s1) & (x[:, 1] >= f0) & (x[:, 1] < f1)
            image[on], module[on] = x[on], m
        return image, module


def ring_image(
    setting: Setting,
    shift: np.ndarray,
    angle: np.ndarray,
    seed: int,
    noise: float = 0.1,
    step_deg: float = 1.0,
) -> RingImage:
    """Points every ``step_deg`` on each ring, off by ``noise`` pixels along the radius."""
    rng = np.random.default_rng([seed, 2])
    rings, chi = np.meshgrid(two_theta(), np.radians(np.arange(0, 360, step_deg)), indexing="ij")
    rings, chi = rings.ravel(), chi.ravel()
    distance = float(setting.origin @ np.cross(setting.fast, setting.slow))
    sigma = noise * PIXEL / abs(distance) * np.cos(rings) ** 2
    seen = rings + rng.normal(0, sigma)
    rays = np.stack([np.sin(seen) * np.cos(chi), np.sin(seen) * np.sin(chi), np.cos(seen)], axis=1)
    image, module = setting.seen(rays, shift, angle)
    on = module >= 0
    start = setting.detector(rng.normal(0, 1e-4, 3))
    return RingImage(start, *image[on].T, rings[on], sigma[on])


def bragg(
    setting: Setting, shift: np.ndarray, angle: np.ndarray, n: int, seed: int, noise: float = 0.1
) -> BraggPeaks:
    """Residuals of ``n`` spots anywhere, with a global shift, turn and distance error."""
    rng = np.random.default_rng([seed, 3])
    shape = setting.boxes.max(axis=0)[[1, 3]]
    ideal = rng.uniform(0, 1, (3 * n, 2)) * shape
    rays = setting.origin + PIXEL * (ideal @ np.stack([setting.slow, setting.fast]))
    image, module = setting.seen(rays, shift, angle)
    on = np.flatnonzero(module >= 0)[:n]
    observed = image[on] + rng.normal(0, noise, (len(on), 2))
    move, turn, grow = rng.normal(0, 0.5, 2), rng.normal(0, 3e-4), rng.normal(0, 3e-4)
    at = ideal[on] - shape / 2
    predicted = ideal[on] + move + at @ np.array([[grow, turn], [-turn, grow]])
    sigma = np.full(len(on), noise)
    return BraggPeaks(setting.detector(), *observed.T, *(observed - predicted).T, sigma, sigma)


#: Beam centres relative to the detector's middle (parts of its sides), and distances in metres.
FOUR = (((0.0, 0.0), 0.2), ((0.3, 0.25), 0.2), ((-0.3, 0.3), 0.22), ((0.25, -0.35), 0.25))
FOUR_DISTANCES = (((0.0, 0.0), 0.2), ((0.0, 0.0), 0.25), ((0.0, 0.0), 0.3), ((0.0, 0.0), 0.35))


def settings(
    boxes: np.ndarray, places: Sequence[tuple[tuple[float, float], float]]
) -> list[Setting]:
    """Settings at these places, with tilts of some mrad."""
    shape = boxes.max(axis=0)[[1, 3]]
    return [
        Setting(
            boxes,
            (shape[0] * (0.5 + at[0]), shape[1] * (0.5 + at[1])),
            distance,
            (0.003 * (-1) ** i, 0.002 * i),
        )
        for i, (at, distance) in enumerate(places)
    ]
