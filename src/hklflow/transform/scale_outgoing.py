"""Factor by the direction of the scattered beam in the frame of the crystal; see `redundancy`.

What a crystal absorbs of a scattered beam depends on its way out, and so on the direction
``u = R(φ)ᵀ s`` alone: one function g(u) for all rotations. The edge of a plate, which moves over
the detector when the crystal turns, stands still in u.

g is linear between nodes on the sphere. These divide the faces of an icosahedron, so that there
are no poles. Nodes that no scattered beam comes near are left out.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import Rotation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_EDGE = 63.435  # degrees between neighbouring corners of an icosahedron
_GRID = 33  # places along each side of the detector for what is visited, and for means
_STRAIGHT = np.cos(np.radians(140))  # neighbours on a line with their node


class Near(NamedTuple):
    """The three nodes around each direction (n, 3), and their shares."""

    node: NDArray[np.integer[Any]]
    share: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Sphere:
    """Nodes on a sphere.

    Attributes
    ----------
    division : int
        Parts of an edge of the icosahedron.
    nodes : (n, 3) array
        Unit vectors.
    number : (20, division + 1, division + 1) array
        Number of the node i parts from the first and j from the second side of a face.
    middles : (20, 3) array
        Middles of the faces.
    inverse : (20, 3, 3) array
        Maps a vector to its shares of the corners of a face.
    """

    division: int
    nodes: Floats
    number: Ints
    middles: Floats
    inverse: Floats

    @classmethod
    def of_step(cls, degrees: float) -> "Sphere":
        """Return nodes with about this distance."""
        f = max(1, round(_EDGE / degrees))
        corners = _icosahedron()
        near = corners @ corners.T > 0.4
        faces = np.array(
            [(a, b, c) for a in range(12) for b in range(a) for c in range(b)
             if near[a, b] and near[b, c] and near[a, c]]
        )  # fmt: skip
        i, j = np.indices((f + 1, f + 1))
        parts = np.stack([f - i - j, i, j], axis=-1) / f
        at = np.einsum("ijk,nkx->nijx", parts, corners[faces])
        inside = np.broadcast_to(i + j <= f, at.shape[:3])
        _, first, again = np.unique(
            np.round(at[inside], 6) + 0.0, axis=0, return_index=True, return_inverse=True
        )
        number = np.zeros(at.shape[:3], np.int64)
        number[inside] = again.reshape(-1)
        nodes = at[inside][first]
        nodes /= np.linalg.norm(nodes, axis=1)[:, None]
        inverse = np.linalg.inv(np.swapaxes(corners[faces], 1, 2))
        return cls(f, nodes, number, corners[faces].mean(axis=1), inverse)

    def near(self, u: Floats) -> Near:
        """Return the nodes around directions (n, 3)."""
        f = self.division
        face = np.argmax(u @ self.middles.T, axis=1)
        x = np.einsum("nij,nj->ni", self.inverse[face], u)
        x *= f / x.sum(axis=1)[:, None]
        i = np.clip(x[:, 1].astype(np.int64), 0, f - 1)
        j = np.clip(x[:, 2].astype(np.int64), 0, f - 1 - i)
        a, b = x[:, 1] - i, x[:, 2] - j
        # Half of the parallelograms between the lines of i and j is another triangle.
        far = (a + b > 1) & (i + j < f - 1)
        node = np.stack(
            [self.number[face, i + far, j + far], self.number[face, i + 1, j],
             self.number[face, i, j + 1]], axis=1
        )  # fmt: skip
        share = np.where(far[:, None], np.stack([a + b - 1, 1 - b, 1 - a], 1),
                         np.stack([1 - a - b, a, b], 1))  # fmt: skip
        return Near(node, share)

    def second_differences(self) -> list[tuple[int, int, int]]:
        """Return (before, node, after) for the lines through each node."""
        close = self.nodes @ self.nodes.T
        # The longest edge is 1.3 times the mean one, the next neighbours are 1.7 edges away.
        lines = []
        for n, row in enumerate(close):
            by_distance = np.argsort(-row)[1:7]
            by_distance = by_distance[1 - row[by_distance] < 2.2 * (1 - row[by_distance[0]])]
            way = self.nodes[by_distance] - self.nodes[n]
            way /= np.linalg.norm(way, axis=1)[:, None]
            angle = way @ way.T
            lines += [
                (int(by_distance[p]), n, int(by_distance[q]))
                for p, q in zip(*np.nonzero(angle < _STRAIGHT), strict=True)
                if p < q
            ]
        return lines


@dataclass(frozen=True)
class Outgoing:
    """Terms of g for the rotations of a crystal.

    Attributes
    ----------
    rotations : tuple of Rotation
    sphere : Sphere
    parameter : (nodes,) array
        Number of the parameter of each node; -1: not visited.
    means : tuple of (frames, size) arrays
        Means of the terms over the detector, of each rotation.
    """

    rotations: tuple[Rotation, ...]
    sphere: Sphere
    parameter: Ints
    means: tuple[Floats, ...]

    @classmethod
    def of_rotations(cls, rotations: list[Rotation], degrees: float) -> "Outgoing":
        """Return nodes with about this distance, where scattered beams of the rotations go."""
        sphere = Sphere.of_step(degrees)
        n = len(sphere.nodes)
        means = []
        for r in rotations:
            slow, fast = ((np.arange(_GRID) + 0.5) / _GRID * m for m in r.detector.shape)
            beams = _beams(r, slow, fast).reshape(-1, 3)
            mean = np.zeros((r.scan.n_frames, n))
            for z, row in enumerate(mean):
                found = sphere.near(_turned(r, np.array([z + 0.5]), beams)[:, 0])
                row += np.bincount(found.node.ravel(), found.share.ravel(), n) / len(beams)
            means.append(mean)
        visited = np.any([mean.max(axis=0) > 0 for mean in means], axis=0)
        parameter = np.where(visited, np.cumsum(visited) - 1, -1)
        return cls(tuple(rotations), sphere, parameter, tuple(m[:, visited] for m in means))

    @property
    def size(self) -> int:
        """Number of parameters."""
        return int(self.parameter.max() + 1)

    def near(self, rotation: int, frame: ArrayLike, slow: Floats, fast: Floats) -> Near:
        """Return parameters and terms (slow, fast, frame, 3) on a grid of places."""
        r, at = self.rotations[rotation], np.asarray(frame, np.float64)
        sizes = len(slow), len(fast), len(at), 3
        node, share = np.empty(sizes, np.int32), np.empty(sizes, np.float32)
        for x, beams in enumerate(_beams(r, slow, fast)):
            found = self.sphere.near(_turned(r, at, beams).reshape(-1, 3))
            number = self.parameter[found.node]
            share[x] = np.where(number < 0, 0.0, found.share).reshape(sizes[1:])
            node[x] = np.maximum(number, 0).reshape(sizes[1:])
        return Near(node, share)

    def mean(self, rotation: int, frame: ArrayLike) -> Floats:
        """Return the means of the terms over the detector (n, size) at frame positions (n,)."""
        means = self.means[rotation]
        return means[np.clip(np.asarray(frame).astype(np.int64), 0, len(means) - 1)]

    def rough(self) -> Floats:
        """Return the sum of squares of second differences as a matrix (size, size)."""
        lines = self.parameter[np.array(self.sphere.second_differences())]
        lines = lines[(lines >= 0).all(axis=1)]
        d = np.zeros((len(lines), self.size))
        row = np.arange(len(lines))
        for column, value in zip(lines.T, (1.0, -2.0, 1.0), strict=True):
            d[row, column] += value
        return np.asarray(d.T @ d)


def _beams(rotation: Rotation, slow: Floats, fast: Floats) -> Floats:
    """Return unit vectors (slow, fast, 3) of scattered beams in the laboratory."""
    at = rotation.detector.lab(*np.meshgrid(slow, fast, indexing="ij"))
    return np.asarray(at / np.linalg.norm(at, axis=-1, keepdims=True))


def _turned(rotation: Rotation, frame: Floats, beams: Floats) -> Floats:
    """Return unit vectors (n, frames, 3) of beams (n, 3) in the frame of the crystal."""
    turn = rotation.goniometer.rotation(rotation.scan.angle(frame))
    return np.einsum("zij,ni->nzj", turn, beams)


def _icosahedron() -> Floats:
    """Return the 12 corners as unit vectors."""
    golden = (1 + np.sqrt(5)) / 2
    one = np.array([(0, s, t * golden) for s in (1, -1) for t in (1, -1)])
    corners = np.concatenate([np.roll(one, k, axis=1) for k in range(3)])
    return np.asarray(corners / np.linalg.norm(corners[0]))
