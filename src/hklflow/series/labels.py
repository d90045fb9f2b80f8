"""Cluster of each voxel, from its own trajectory and from the labels of its neighbours.

The energy is that of Potts: a voxel gains β for each of the 6 neighbours at
its faces with the same label. β is
estimated from the labels (pseudo-likelihood; J. Besag, J. R. Stat. Soc. B 48, 259, 1986): features
of many voxels smooth the labels, features of one voxel do not.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hklflow.series import kernels
from hklflow.series.mixture import Mixture

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STRENGTHS = np.linspace(0.0, 1.0, 11)
_ROUNDS, _ALONE, _RISE = 20, 3, 0.15  # rounds, rounds without smoothing, rise of β in a round
_CLEAR = 3.0  # least significance of the amplitude of the neighbours
_FREE = 3.5  # half of the logarithm of the range of an amplitude of which nothing is known


def matched(y: Floats, variance: Floats, courses: Floats, shapes: Floats) -> tuple[Floats, Floats]:
    """Return numerator and denominator (n, K) of the amplitudes of n voxels along K courses.

    The amplitude is numerator / denominator; its significance numerator / √denominator.

    Parameters
    ----------
    y, variance : (n, T) arrays
        Infinite variance: not measured.
    courses : (T, p) array
        Courses of heat, which are fitted along with each amplitude.
    shapes : (K, T) array
    """
    w = 1 / variance
    normal = np.einsum("nt,tp,tq->npq", w, courses, courses)
    normal += 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(courses.shape[1])
    top = (w * y) @ courses
    mixed = np.einsum("nt,tp,kt->npk", w, courses, shapes)
    solved = np.linalg.solve(normal, mixed)
    numerator = (w * y) @ shapes.T - np.einsum("npk,np->nk", solved, top)
    denominator = w @ (shapes**2).T - np.einsum("npk,npk->nk", mixed, solved)
    return numerator, np.maximum(denominator, 1e-300)


def shapes_of(mixture: Mixture, basis: Floats) -> Floats:
    """Return the courses (K, T) of the clusters."""
    return mixture.phi @ basis.T


class Neighbours:
    """Neighbours of some voxels among themselves.

    Parameters
    ----------
    index : (n,) int array
        Numbers of the voxels in C order of the shape, ascending.
    shape : (l, k, h)
    """

    def __init__(self, index: Integers, shape: tuple[int, int, int]) -> None:
        self.n = len(index)
        place = np.stack(np.unravel_index(index, shape), axis=1)
        steps = np.array([s for s in np.ndindex(3, 3, 3) if s != (1, 1, 1)]) - 1
        self.faces = np.abs(steps).sum(axis=1) == 1
        self.rows = np.full((self.n, len(steps)), -1, np.int32)
        for i, step in enumerate(steps):
            other = place + step
            inside = np.all((other >= 0) & (other < shape), axis=1)
            number = np.ravel_multi_index(tuple(np.where(inside[:, None], other, 0).T), shape)
            at = np.minimum(np.searchsorted(index, number), self.n - 1)
            found = inside & (index[at] == number)
            self.rows[found, i] = at[found]

    def sums(self, values: Floats) -> Floats:
        """Return the sum over each voxel and its neighbours, (n, K)."""
        total = values.copy()
        for column in self.rows.T:
            found = column >= 0
            total[found] += values[column[found]]
        return total

    def connected(self, labels: Integers) -> Integers:
        """Return the number of the connected part of each voxel: neighbours of one label."""
        i, j = np.nonzero((self.rows >= 0) & (labels[self.rows] == labels[:, None]))
        edges = coo_array((np.ones(len(i), np.int8), (i, self.rows[i, j])), shape=(self.n, self.n))
        return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)

    def between(self, labels: Integers) -> NDArray[np.bool_]:
        """Return True for voxels with a label and a neighbour with another label."""
        found = np.zeros(self.n, np.bool_)
        for column in self.rows.T:
            other = np.where(column >= 0, labels[column], 0)
            found |= (labels > 0) & (other > 0) & (other != labels)
        return found


def smooth(
    top: Floats, bottom: Floats, near: Neighbours, outside: Integers
) -> tuple[Integers, float]:
    """Return label (0: no change, 1 to K) of each voxel, and the strength β of the smoothing.

    The likelihood of a label takes the amplitude from the neighbours with the same label, or an
    amplitude of which nothing is known.

    Parameters
    ----------
    top, bottom : (n, K) arrays
        See `matched`.
    outside : (n,) int array
        Number of neighbours at the faces that are not independent; they have no vote.
    """
    n, k = top.shape
    free = np.maximum(top, 0.0) ** 2 / bottom / 2 - _FREE
    # The start: the label of the sum over the neighbours.
    sums = [near.sums(x) for x in (top, bottom)]
    wide = np.maximum(sums[0], 0.0) ** 2 / sums[1] / 2 - _FREE
    labels = np.argmax(np.concatenate([np.zeros((n, 1)), wide], axis=1), axis=1)
    strength, rows = 0.0, np.arange(n)
    # Neighbours that are no candidates do not change.
    quiet = 6 - outside - np.count_nonzero(near.rows[:, near.faces] >= 0, axis=1)
    votes, local = np.empty((n, k + 1)), np.empty((n, k, 2))
    for step in range(_ROUNDS):
        kernels.surroundings(near.rows, near.faces, labels, top, bottom, votes, local)
        votes[:, 0] += quiet
        votes *= (6 / np.maximum(6 - outside, 1))[:, None]
        likely = [
            np.sum(b * (votes[rows, labels] - 6) - np.log(np.exp(b * (votes - 6)).sum(axis=1)))
            for b in _STRENGTHS
        ]
        # At first the data decide alone: the start is one voxel too wide.
        rise = _RISE * max(step - _ALONE, 0)
        strength = min(float(_STRENGTHS[int(np.argmax(likely))]), rise)
        amplitude = np.maximum(local[..., 0], 0.0) / np.maximum(local[..., 1], 1e-300)
        alike = amplitude * top - amplitude**2 * bottom / 2
        clear = amplitude**2 * local[..., 1] > _CLEAR**2
        field = np.logaddexp(free, np.where(clear, alike, -np.inf))
        field = np.concatenate([np.zeros((n, 1)), field], axis=1)
        before, labels = labels, np.argmax(field + strength * votes, axis=1)
        if rise >= _STRENGTHS[-1] and np.array_equal(before, labels):
            break
    return labels, strength
