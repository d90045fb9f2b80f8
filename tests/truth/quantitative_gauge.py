"""What redundancy cannot see of a factor over frames and directions; see quantitative.py.

A factor g(Q) with the symmetry of S(Q) changes no comparison of equivalent observations.
`gauge_free` takes such a part off a field. It knows the group, nothing of absorption.
"""

from dataclasses import dataclass

import numpy as np

from tests.truth.quantitative import World
from tests.truth.quantitative_absorption import Array

EVERY = 4  # pixels between the directions of a field
GENERIC = np.array([0.4142, 1.0, 0.7321])


def at_blocks(image: Array, every: int = EVERY) -> Array:
    """Return an image (slow, fast, ...) at the middles of blocks of pixels."""
    return image[every // 2 :: every, every // 2 :: every]


def folded(world: World, r: int, every: int = EVERY) -> tuple[Array, Array]:
    """Return Q (frames, slow, fast, 3) in the crystal's frame, moved into one asymmetric part.

    Of the equivalents the one that lies nearest to a fixed direction is taken; the second array
    has the index of its operation.
    """
    s = at_blocks(world.s, every)
    hkl = np.stack([world.hkl(r, z + 0.5, s) for z in range(world.scans[r].n_frames)])
    B = world.crystal.B
    best, far = np.zeros_like(hkl), np.full(hkl.shape[:-1], -np.inf)
    which = np.zeros(hkl.shape[:-1], int)
    for i, W in enumerate(world.crystal.group):
        Q = hkl @ (W @ B.T)
        along = Q @ GENERIC
        nearer = along > far
        best[nearer], far[nearer], which[nearer] = Q[nearer], along[nearer], i
    return best, which


@dataclass(frozen=True)
class Visible:
    """A field without its gauge part.

    Attributes
    ----------
    fields : list
        Of each rotation (frames, slow, fast), on blocks of pixels; 0 where the weight is.
    rms : float
        Weighted root of mean squares, corrected for the freedom that the gauge part took.
    gauge_rms : float
        That of the part taken off.
    repeated : float
        Share of the weight in cells that are passed more than once: by another rotation or
        equivalent, or after 25° of rotation. 0: redundancy sees nothing, the rms is numerical.
    """

    fields: list[Array]
    rms: float
    gauge_rms: float
    repeated: float


def gauge_free(
    world: World,
    fields: list[Array],
    weight: list[Array] | None = None,
    *,
    every: int = EVERY,
    edge: float | None = None,
) -> Visible:
    """Take off a field over (frame, direction) what is a function of Q with the group's symmetry.

    Parameters
    ----------
    fields
        Relative errors of each rotation, (frames, slow, fast) at `at_blocks` of the pixels.
    weight
        Of the same shapes, such as expected counts; None: where pixels are not blind.
    edge
        1/Å, of cells in which the gauge part is quadratic; by default a twentieth of the largest
        |Q|.
    """
    sees = at_blocks(~world.blind, every).astype(float)
    w = weight or [np.broadcast_to(sees, f.shape) for f in fields]
    places = [folded(world, r, every) for r in range(len(fields))]
    Q = np.concatenate([q.reshape(-1, 3) for q, _ in places])
    y, v = np.concatenate([f.ravel() for f in fields]), np.concatenate([a.ravel() for a in w])
    edge = edge or float(world.q.max()) / 20
    cell = np.floor(Q / edge + 0.5).astype(np.int64)
    _, index = np.unique(cell @ np.array([1, 1 << 20, 1 << 40]), return_inverse=True)
    x = Q / edge - cell
    X = np.c_[np.ones(len(Q)), x, x**2, x[:, [0]] * x[:, 1:], x[:, 1] * x[:, 2]]
    n = X.shape[1]
    N = np.stack([np.bincount(index, v * X[:, i] * X[:, j]) for i in range(n) for j in range(n)], 1)
    b = np.stack([np.bincount(index, v * X[:, i] * y) for i in range(n)], 1)
    inverse = np.linalg.pinv(N.reshape(-1, n, n), rcond=1e-5, hermitian=True)
    surface = np.einsum("nij,nj->ni", inverse, b)
    gauge = np.where(v > 0, np.einsum("ni,ni->n", X, surface[index]), 0)
    rest = np.where(v > 0, y - gauge, 0)
    freedom = v.sum() - np.einsum("nij,nji->", inverse, N.reshape(-1, n, n)) * v.mean()
    ends = np.cumsum([f.size for f in fields])[:-1]
    left = [a.reshape(f.shape) for a, f in zip(np.split(rest, ends), fields, strict=True)]
    rms = np.sqrt(v @ rest**2 / max(freedom, 1e-9 * v.sum()))
    repeated = _repeated(world, [which for _, which in places], index)
    total = float(np.sqrt(v @ gauge**2 / v.sum()))
    return Visible(left, float(rms), total, float(v @ repeated / v.sum()))


def _repeated(world: World, which: list[Array], index: Array) -> Array:
    """Return True for observations in cells that are passed more than once."""
    keys = []
    for r, (scan, operation) in enumerate(zip(world.scans, which, strict=True)):
        angle = abs(scan.step) * np.arange(scan.n_frames)[:, None, None]
        keys.append((angle + 1e3 * (operation + r * len(world.crystal.group))).ravel())
    key = np.concatenate(keys)
    low, high = np.full(index.max() + 1, np.inf), np.full(index.max() + 1, -np.inf)
    np.minimum.at(low, index, key)
    np.maximum.at(high, index, key)
    return (high - low > 25)[index]
