"""Cluster of each voxel, from its own trajectory and from the labels of its neighbours.

The labels are a Markov field (Potts): a voxel gains β for each of the 6 neighbours at its faces
with the same label, and α if it changes. Both are estimated from the labels (pseudo-likelihood;
J. Besag, J. R. Stat. Soc. B 48, 259, 1986): features of many voxels smooth the labels, features of
one voxel do not. Without α, edges and corners of features are lost: at a corner, half of the
neighbours do not change. Probabilities of labels are those of the mean field.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.series import kernels
from hklflow.series.mixture import Mixture

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

_STRONGEST, _BIAS = 2.0, 3.0  # largest β and |α|
_ROUNDS, _ALONE, _RISE = 30, 1, 0.15  # rounds, rounds without smoothing, rise of β in a round
_STEPS, _STEP = 3, 0.5  # steps of β and α in a round, and their largest size
_CLEAR = 2.0  # least significance of the amplitude of the neighbours
_SPREAD = 0.2  # relative difference of the amplitudes of neighbours
_NOTHING = float(np.finfo(np.float32).tiny)  # denominator of voxels without a measurement
_FREE = 5.0  # half of the logarithm of the range of an amplitude of which nothing is known


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
    ridge = 1e-12 * np.trace(normal, axis1=1, axis2=2)
    # A voxel that no scan measured has no weight, and gets the amplitude 0 without significance.
    ridge[ridge == 0] = 1.0
    normal += ridge[:, None, None] * np.eye(courses.shape[1])
    top = (w * y) @ courses
    mixed = np.einsum("nt,tp,kt->npk", w, courses, shapes)
    solved = np.linalg.solve(normal, mixed)
    numerator = (w * y) @ shapes.T - np.einsum("npk,np->nk", solved, top)
    denominator = w @ (shapes**2).T - np.einsum("npk,npk->nk", mixed, solved)
    return numerator, np.maximum(denominator, _NOTHING)


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

    def sums(self, values: Singles) -> Singles:
        """Return the sum over each voxel and its neighbours, (n, K)."""
        total = values.copy()
        for column in self.rows.T:
            found = column >= 0
            total[found] += values[column[found]]
        return total

    def connected(self, labels: Integers) -> Integers:
        """Return the number of the connected part of each voxel: neighbours with the same label.

        It is the lowest number of a voxel of the part.
        """
        parts = np.empty(self.n, np.int64)
        kernels.connect(self.rows, labels, parts)
        return parts

    def between(self, labels: Integers) -> NDArray[np.bool_]:
        """Return True for voxels with a label and a neighbour with another label."""
        found = np.zeros(self.n, np.bool_)
        for column in self.rows.T:
            other = np.where(column >= 0, labels[column], 0)
            found |= (labels > 0) & (other > 0) & (other != labels)
        return found


@dataclass(frozen=True)
class Field:
    """Markov field of labels.

    Attributes
    ----------
    strength : float
        β: gain for each neighbour at a face with the same label.
    bias : float
        α: gain of a label over no change.
    """

    strength: float = 0.0
    bias: float = 0.0

    def better(self, chance: Floats, votes: Floats) -> "Field":
        """Return the field with a larger pseudo-likelihood: some steps of Newton's method."""
        strength, bias = self.strength, self.bias
        for _ in range(_STEPS):
            up, over, square, mixed, other = kernels.slopes(chance, votes, strength, bias)
            matrix = np.array([[square, mixed], [mixed, other]]) + 1e-6 * np.eye(2)
            step = np.clip(np.linalg.solve(matrix, [up, over]), -_STEP, _STEP)
            strength = float(np.clip(strength + step[0], 0.0, _STRONGEST))
            bias = float(np.clip(bias + step[1], -_BIAS, _BIAS))
        return Field(strength, bias)


def smooth(
    top: Singles, bottom: Singles, near: Neighbours, outside: Integers
) -> tuple[Integers, Field]:
    """Return label (0: no change, 1 to K) of each voxel, and the field that smooths the labels.

    The likelihood of a label takes the amplitude from the neighbours and their neighbours, each
    with its probability of this label, or an amplitude of which nothing is known.

    Parameters
    ----------
    top, bottom : (n, K) arrays
        See `matched`.
    outside : (n,) int array
        Number of neighbours at the faces that are not independent; they have no vote.
    """
    n, k = top.shape
    votes, chance = np.zeros((n, k + 1), np.float32), np.empty((n, k + 1), np.float32)
    around, likely = np.empty((n, k, 2), np.float32), np.empty((n, k), np.float32)
    # The start: the label of the sum over the neighbours.
    sums = [near.sums(x) for x in (top, bottom)]
    wide = np.maximum(sums[0], 0.0) ** 2 / sums[1] / 2 - _FREE
    kernels.update(wide, votes, 0.0, 0.0, chance)
    field, labels = Field(), np.argmax(chance, axis=1)
    for step in range(_ROUNDS):
        kernels.amplitudes(near.rows, chance, top, bottom, around)
        kernels.evidence(near.rows, around, top, bottom, _SPREAD, _CLEAR, _FREE, likely)
        kernels.count(near.rows, near.faces, chance, outside, votes)
        field = field.better(chance, votes)
        # At first the data decide alone: the start is one voxel too wide.
        rise = _RISE * max(step - _ALONE, 0)
        part = min(1.0, rise / max(field.strength, 1e-9))
        kernels.update(likely, votes, part * field.strength, part * field.bias, chance)
        before, labels = labels, np.argmax(chance, axis=1)
        if part == 1.0 and np.array_equal(before, labels):
            break
    return labels, field
