"""Powder images by a plain vector formula, for the tests of this folder."""

import numpy as np

PIXEL = 172e-6
SHAPE = (500, 480)
WAVELENGTH = 0.41
# NIST SRM 674b, 660c, 640e.
CUBIC = {"CeO2": (5.41165, "F"), "LaB6": (4.156826, "P"), "Si": (5.431144, "diamond")}
TRUTH = {"dist": 0.2, "poni1": 0.0421, "poni2": 0.0398, "rot1": 0.012, "rot2": -0.008}


def d_spacings(name):
    """Of a cubic powder in Å, with the absences of its lattice."""
    a, lattice = CUBIC[name]
    h, k, m = np.meshgrid(*[np.arange(12)] * 3, indexing="ij")
    keep = h + k + m > 0
    if lattice != "P":
        keep &= (h % 2 == k % 2) & (k % 2 == m % 2)
    if lattice == "diamond":
        keep &= (h % 2 == 1) | ((h + k + m) % 4 == 0)
    return a / np.sqrt(np.unique((h**2 + k**2 + m**2)[keep]))


def pixel_positions(slow, fast, truth):
    """Positions (axis 1 up, axis 2 to the right, beam): the PONI geometry, orientation 3.

    Rodrigues rotations: about -axis 1 by rot1, then -axis 2 by rot2.
    """
    x = np.stack(
        [
            slow * PIXEL - truth["poni1"],
            fast * PIXEL - truth["poni2"],
            np.full(slow.shape, truth["dist"]),
        ],
        axis=-1,
    )
    for axis, angle in (([-1.0, 0, 0], truth["rot1"]), ([0, -1.0, 0], truth["rot2"])):
        x = turned(x, axis, angle)
    return x


def turned(x, axis, angle):
    """Rodrigues' rotation of positions (..., 3)."""
    a = np.array(axis)
    return (
        x * np.cos(angle)
        + np.cross(a, x) * np.sin(angle)
        + a * (x @ a)[..., None] * (1 - np.cos(angle))
    )


def simulate(name, seed, truth=TRUTH, moved=lambda x: x):
    """Poisson image and mask: rings, background, module gaps; orientation 3.

    `moved` takes the positions of the pixels to those of the detector's setting.
    """
    rng = np.random.default_rng(seed)
    width = 1.1 * PIXEL / truth["dist"]
    # Profile on a grid 50 times finer than a ring's width; its interpolation is exact enough.
    grid = np.linspace(0, 0.6, 30000)
    profile = 20 + 60 * np.exp(-grid / 0.1)
    for n, d in enumerate(d_spacings(name)):
        if d > WAVELENGTH / 2:
            ring = 2 * np.arcsin(WAVELENGTH / 2 / d)
            height = 400 * np.exp(-0.08 * n) * (1 if n % 3 else 0.5)
            profile += height * np.exp(-0.5 * ((grid - ring) / width) ** 2)
    mean = np.zeros(SHAPE)
    slow, fast = np.indices(SHAPE).astype(float)
    for di in (1 / 6, 1 / 2, 5 / 6):
        for dj in (1 / 6, 1 / 2, 5 / 6):
            x = moved(pixel_positions(slow + di, fast + dj, truth))
            mean += np.interp(np.arctan2(np.hypot(x[..., 0], x[..., 1]), x[..., 2]), grid, profile)
    image = rng.poisson(mean / 9).astype(np.int32)
    bad = np.zeros(SHAPE, bool)
    bad[160:172] = bad[330:342] = True
    bad[:, 238:245] = True
    bad |= rng.random(SHAPE) < 1e-3
    image[bad] = -1
    return image, bad


def true_centre(truth=TRUTH, moved=lambda x: x):
    """Where the beam meets the detector: solved by walking along the plane."""
    at = np.array([truth["poni1"], truth["poni2"]]) / PIXEL
    for _ in range(50):
        x = moved(pixel_positions(at[:1], at[1:], truth))[0]
        at = at - x[:2] / PIXEL
    return at
