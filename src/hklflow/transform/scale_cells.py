"""Lattice on which ln s is computed, instead of once for each record; see `redundancy`.

A record depends on up to 69 terms. They change slowly: a lattice with `_ALONG` nodes in an interval
of the curve (up to `_ALONG_START` for a start) and `_ACROSS` cells in an interval of the detector
holds all values. A record lies in a cell (slow, fast) between two nodes along the frames. Sums over
records are made on the lattice, too, and taken to the splines once.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.transform import scale_kernels as kernels
from hklflow.transform.repeats import Records
from hklflow.transform.scale_kernels import NearSplines, Positions
from hklflow.transform.scale_outgoing import Near
from hklflow.transform.scale_splines import Splines, basis

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ALONG, _ALONG_START, _ACROSS = 6, 24, 8
_ACROSS_OUTGOING = 32  # cells along each side at least, if there is a g


class _Matrices(NamedTuple):
    """Terms of a rotation at the nodes: curve, angle (nodes, n)."""

    curve: Floats
    angle: Floats


class Lattice:
    """Lattice of nodes (rotation; slow, fast, frame) for the splines of ln s."""

    def __init__(self, splines: Splines) -> None:
        self.splines, self.layout = splines, splines.layout()
        # The fast part of a start changes from frame to frame.
        most = _ALONG_START if splines.start else _ALONG
        self._nodes = [
            int(np.clip(np.ceil(frames / m), _ALONG, most)) * m + 1
            for frames, m in zip(splines.frames, splines.curve, strict=True)
        ]
        least = 1 if splines.outgoing is None else _ACROSS_OUTGOING
        self._cells = tuple(max(least, _ACROSS * m) for m in splines.detector)
        sizes = [n * self._cells[0] * self._cells[1] for n in self._nodes]
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        self._along = [
            _Matrices(splines.terms_of_curve(r, x * frames), basis(x, a))
            for r, (n, frames, a) in enumerate(
                zip(self._nodes, splines.frames, splines.angle, strict=True)
            )
            for x in (np.linspace(0, 1, n),)
        ]
        self._across = [
            basis((np.arange(n) + 0.5) / n, m) if m else np.zeros((n, 0))
            for n, m in zip(self._cells, splines.detector, strict=True)
        ]

        self._own = slice(splines.n_curve, splines.n_course)
        self._outgoing = self._terms_of_outgoing()

    @property
    def size(self) -> int:
        """Number of nodes."""
        return int(self.first[-1])

    def positions(self, records: Records) -> Positions:
        """Return the positions of records."""
        r = records.rotation
        z = records.frame / self.layout.frames[r] * (np.array(self._nodes) - 1)[r]
        before = np.clip(z.astype(np.int64), 0, np.array(self._nodes)[r] - 2)
        at = [
            np.clip((x * (n / size)).astype(np.int64), 0, n - 1)
            for x, n, size in zip(
                (records.slow, records.fast), self._cells, self.splines.shape, strict=True
            )
        ]
        cell = at[0] * self._cells[1] + at[1]
        node = self.first[r] + cell * np.array(self._nodes)[r] + before
        return Positions(node.astype(np.int32), np.clip(z - before, 0, 1).astype(np.float32))

    def scale(self, a: Floats) -> Floats:
        """Return s at all nodes for the parameters (p,)."""
        made = np.empty(self.size)
        for number in range(len(self._nodes)):
            own = self._table(number, made)
            curve, direction = self._parameters(number, a)
            matrices = self._along[number]
            own[:] = matrices.curve @ curve
            if self.splines.directed:
                own += self._spread(direction, matrices.angle)
        if self._outgoing is not None:
            kernels.outgoing_scale(*self._outgoing, a[self._own], made)
        return np.exp(made, out=made)

    def gathered(self, sums: Floats) -> Floats:
        """Return sums over the nodes for each parameter (p,), with its spline as a factor."""
        made = np.zeros(self.splines.size)
        for number in range(len(self._nodes)):
            own = self._table(number, sums)
            curve, direction = self._parameters(number, made)
            matrices = self._along[number]
            curve[:] = own.sum(axis=(0, 1)) @ matrices.curve
            if self.splines.directed:
                part = np.tensordot(own, matrices.angle, 1)
                part = np.einsum("xyi,xj,yk->ijk", part, *self._across, optimize=True)
                direction[:] = part
        if self._outgoing is not None:
            kernels.outgoing_sums(*self._outgoing, sums, made[self._own])
        return made

    def squares(self, sums: Floats) -> Floats:
        """Return sums over the nodes for each pair of parameters (p, p), with both splines."""
        made = np.zeros((self.splines.size,) * 2)
        for number in range(len(self._nodes)):
            own, matrices = self._table(number, sums), self._along[number]
            c, d = self._slices(number)
            along = own.sum(axis=(0, 1))
            made[c, c] = matrices.curve.T @ (along[:, None] * matrices.curve)
            if not self.splines.directed:
                continue
            slow, fast = self._across
            on_detector = np.einsum("xyz,xj,yk->zjk", own, slow, fast, optimize=True)
            mixed = np.einsum(
                "zi,za,zjk->iajk", matrices.curve, matrices.angle, on_detector, optimize=True
            )
            made[c, d] = mixed.reshape(c.stop - c.start, -1)
            made[d, c] = made[c, d].T
            made[d, d] = self._square_of_direction(own, matrices.angle)
            if self._outgoing is not None:
                self._square_of_outgoing(number, sums, made)
        return made

    def near(self) -> NearSplines:
        """Return the tables of the four splines that are not 0 at each node."""
        layout, nodes = self.layout, np.array(self._nodes)
        outgoing = self._outgoing or Near(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32))
        curve, angle = zip(
            *((_four(m.curve[:, : n + 3]), _four(m.angle))
              for m, n in zip(self._along, layout.curve, strict=True)), strict=True
        )  # fmt: skip
        # The start is the last term of a curve, and the last of a run of four.
        fast = [m.curve[:, -1] for m in self._along] if self.splines.start else [np.zeros(0)]
        fast_at = np.repeat(layout.first_curve + layout.curve, nodes)
        at = zip(layout.first_curve, layout.first_direction, strict=True)
        starts = [(c + f, d + g * self.splines.places) for (_, f), (_, g), (c, d)
                  in zip(curve, angle, at, strict=True)]  # fmt: skip
        across = [_four(m) if m.shape[1] else (np.zeros((len(m), 4)), np.zeros(len(m), np.int64))
                  for m in self._across]  # fmt: skip
        return NearSplines(
            self.first,
            np.concatenate([[0], np.cumsum(nodes)]),
            nodes,
            np.concatenate([values for values, _ in curve]),
            np.concatenate([c for c, _ in starts]),
            np.concatenate(fast),
            fast_at,
            np.concatenate([values for values, _ in angle]),
            np.concatenate([d for _, d in starts]),
            *across[0],
            *across[1],
            self.splines.detector[1] + 3,
            self.splines.places,
            outgoing.node + np.int32(self._own.start),
            outgoing.share,
        )

    def _terms_of_outgoing(self) -> Near | None:
        """Return the terms of g at all nodes; None: there is no g."""
        if (outgoing := self.splines.outgoing) is None:
            return None
        slow, fast = (
            np.asarray((np.arange(n) + 0.5) * (size / n), np.float64)
            for n, size in zip(self._cells, self.splines.shape, strict=True)
        )
        parts = [
            outgoing.near(r, np.linspace(0, frames, n), slow, fast)
            for r, (n, frames) in enumerate(zip(self._nodes, self.splines.frames, strict=True))
        ]
        node, share = (np.concatenate([p[i].reshape(-1, 3) for p in parts]) for i in (0, 1))
        return Near(node, share)

    def _square_of_outgoing(self, number: int, sums: Floats, made: Floats) -> None:
        """Add the sums of a rotation for pairs with a parameter of g."""
        assert self._outgoing is not None
        own, matrices = self._table(number, sums), self._along[number]
        nodes = slice(self.first[number], self.first[number + 1])
        near = Near(self._outgoing.node[nodes], self._outgoing.share[nodes])
        g, (c, d) = self._own, self._slices(number)
        of_frame = np.zeros((own.shape[2], g.stop - g.start))
        squares = own.reshape(-1, own.shape[2]), of_frame, made[g, g]
        kernels.outgoing_squares(*near, *squares)
        made[g, c] = of_frame.T @ matrices.curve
        mixed = np.zeros((len(of_frame[0]), matrices.angle.shape[1],
                          *(m.shape[1] for m in self._across)))  # fmt: skip
        splines = (_four(m) for m in (matrices.angle, *self._across))
        kernels.outgoing_mixed(*near, own, *splines, mixed)
        made[g, d] = mixed.reshape(len(mixed), -1)
        made[c, g], made[d, g] = made[g, c].T, made[g, d].T

    def _table(self, number: int, values: Floats) -> Floats:
        """Return the view (slow, fast, frame) of a rotation's nodes."""
        own = values[self.first[number] : self.first[number + 1]]
        return own.reshape(*self._cells, self._nodes[number])

    def _slices(self, number: int) -> tuple[slice, slice]:
        """Return the parameters of the curve and of the direction of a rotation."""
        c, d = self.layout.first_curve[number], self.layout.first_direction[number]
        n = (self.splines.angle[number] + 3) * self.splines.places
        return slice(c, c + self._along[number].curve.shape[1]), slice(d, d + n)

    def _parameters(self, number: int, a: Floats) -> tuple[Floats, Floats]:
        """Return the views of the curve's parameters, and the direction's (angle, slow, fast)."""
        c, d = self._slices(number)
        n_slow, n_fast = (m + 3 for m in self.splines.detector)
        return a[c], a[d].reshape(-1, n_slow, n_fast)

    def _spread(self, direction: Floats, angle: Floats) -> Floats:
        """Return d at the nodes (slow, fast, frame) of a rotation."""
        on_detector = np.einsum("ijk,xj,yk->xyi", direction, *self._across, optimize=True)
        return np.asarray(on_detector @ angle.T)

    def _square_of_direction(self, sums: Floats, angle: Floats) -> Floats:
        """Return the sums for pairs of the direction's parameters of a rotation."""
        slow, fast = self._across
        n = angle.shape[1]
        pairs = (angle[:, :, None] * angle[:, None, :]).reshape(len(angle), -1)
        step = np.tensordot(sums, pairs, 1)  # slow, fast, pair
        of_fast = (fast[:, :, None] * fast[:, None, :]).reshape(len(fast), -1)
        of_slow = (slow[:, :, None] * slow[:, None, :]).reshape(len(slow), -1)
        step = np.einsum("xyp,yq->xpq", step, of_fast, optimize=True)
        step = np.einsum("xpq,xs->psq", step, of_slow, optimize=True)
        sizes = n, n, slow.shape[1], slow.shape[1], fast.shape[1], fast.shape[1]
        made = step.reshape(sizes).transpose(0, 2, 4, 1, 3, 5)
        return made.reshape(n * self.splines.places, -1)


def _four(matrix: Floats) -> tuple[Floats, Ints]:
    """Return four neighbouring values of each row, which hold all that are not 0, and their place.

    Parameters
    ----------
    matrix : (n, m) array
        Splines, m at least 4.
    """
    first = np.minimum(np.argmax(matrix > 0, axis=1), matrix.shape[1] - 4)
    return np.take_along_axis(matrix, first[:, None] + np.arange(4), axis=1), first
