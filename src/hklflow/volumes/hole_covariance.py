"""Covariance of the ΔPDF at lattice vectors, with what the holes lost.

The fill by the spectrum (`spectrum.py`) takes the ΔPDF of each vector r for Gaussian, with variance
V(r) = n / (1 − B(r)); n is the noise. All holes of reflections are alike, so that vectors mix only
with those that differ from them by a lattice vector, and lattice vectors R can be regarded alone.
H(R − R') is the transform of the squared taper in the holes, as a share of the whole. Then
(Λ_hh)⁻¹, transformed to lattice vectors, is by Woodbury's identity

    L = n (1 − H B)⁻¹ H,

and the error of the ΔPDF is that of the measured voxels, with the covariance N, and of the fill:

    C = N + n H + B L + L B − L.

What drawn models of maxima in the holes (`tails.py`) differ by is added: an error common to all.
Vectors that are equivalent are one: H is summed over both sets. Wide gaps are no holes that repeat.
There, H is that of holes and gaps, and random fields that are punched and filled
(`SpectrumFill.missed`) give L. They are few. Therefore L is their mean with a model, as if the
model were known from `_WORTH` fields: noise, and a field with the spectrum of the ΔPDF and σ of the
filled voxels. The model has about the right correlations, but too large variances: where the ΔPDF
is strong, measured voxels determine the gap best. The drawn fields give it their variances.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice
from hklflow.volumes import pdf_kernels
from hklflow.volumes.fill import MEASURED, PUNCHED, UNMEASURED, Target
from hklflow.volumes.pdf_plan import Plan
from hklflow.volumes.spectrum import SpectrumFill
from hklflow.volumes.tails import Tails
from hklflow.volumes.wave_power import WIDTH

Floats = NDArray[np.float64]

#: Largest number of sets of equivalent vectors.
MOST = 300
# Least variance of a normalised sum of vectors, in variances of a single vector. The noise of the
# measured voxels and what the holes lost are added as if noise were the same everywhere, which can
# make less than nothing of a sum that is known well; the least of right ones are 0.016 to 0.2.
_LEAST = 0.01
# Vectors of about the same length that get one factor from the drawn fields.
_ALIKE = 8
# Drawn fields that the model of their covariance counts for; 20 to 100 give about the same χ².
_WORTH = 50
# Largest number of vectors whose waves cross the gaps.
_SOURCES = 1000


@dataclass(frozen=True)
class Prior:
    """What the fill takes the ΔPDF for at lattice vectors.

    Attributes
    ----------
    vectors : (n, 3) array
        Lattice vectors in unit cells, one of each set of equivalents, the shortest first.
    signal : (n,) array
        B, the share of the variance of the ΔPDF that is not noise; from 0 to 1.
    width : float
        Standard deviation of the neighbourhood in which the variance was learnt, Å.
    shifts : (m, n) array
        Deviations of the ΔPDF by drawn models of the maxima in holes, S per Å³; m may be 0.
    missed : (k, n) array
        Errors of the ΔPDF by random fields that are punched and filled, S per Å³, with the taper of
        the fill; k is 0 without gaps.
    """

    vectors: Floats
    signal: Floats
    width: float
    shifts: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    missed: Floats = field(default_factory=lambda: np.zeros((0, 0)))


def lattice_vectors(
    cell: ArrayLike, operations: ArrayLike, step: ArrayLike, most: int = MOST
) -> Floats:
    """Return one lattice vector of each set of equivalents, the shortest first.

    Parameters
    ----------
    cell : (6,) array
    operations : (n, 3, 3) array
        Operations on hkl.
    step : (3,) array
        Steps of the grid of hkl. Vectors that are longer than half a period of the ΔPDF, or one of
        whose equivalents is, are left out: the transform cannot distinguish them from others.
    most : int
        Largest number of vectors.
    """
    longest = np.floor(0.5 / np.asarray(step) - 1e-6).astype(int)
    metric = lattice.metric(np.asarray(cell, dtype=np.float64))
    # A sphere of this radius holds more than enough; the smallest edge of the box limits it.
    volume = np.sqrt(np.linalg.det(metric))
    radius = (3 / (4 * np.pi) * volume * (most + 1) * len(np.asarray(operations))) ** (1 / 3)
    reach = np.ceil(radius * np.sqrt(np.diag(np.linalg.inv(metric)))).astype(int) + 1
    half = np.minimum(longest, reach)
    made = np.stack(
        np.meshgrid(*(np.arange(-n, n + 1) for n in half), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    length = np.einsum("ni,ij,nj->n", made, metric, made)
    # The greatest of the equivalents represents them.
    images = np.einsum("ni,gij->gnj", made, np.asarray(operations, dtype=np.int64))
    inside = (np.abs(images) <= longest).all(axis=(0, 2))
    made, length, images = made[inside], length[inside], images[:, inside]
    base = 2 * int(np.abs(images).max(initial=0)) + 1
    rank = (images @ np.array([base * base, base, 1])).max(axis=0)
    order = np.lexsort((made @ np.array([-base * base, -base, -1]), np.round(length, 6)))
    _, first = np.unique(rank[order], return_index=True)
    return made[order][np.sort(first)][:most].astype(np.float64)


def prior_of(target: Target, spectrum: SpectrumFill, tails: Tails | None = None) -> Prior:
    """Return what a fill takes the ΔPDF for at lattice vectors."""
    vectors = lattice_vectors(target.cell, target.operations, target.grid.step)
    shifts = np.zeros((0, len(vectors))) if tails is None else tails.shifts(vectors)
    missed = _missed_at(vectors, target, spectrum)
    return Prior(vectors, spectrum.signal(vectors), WIDTH, shifts, missed)


def _missed_at(vectors: Floats, target: Target, spectrum: SpectrumFill) -> Floats:
    """Return the ΔPDF (k, n) at vectors (n, 3) of what the fills of k random fields miss."""
    most = np.abs(vectors).max(axis=0).astype(int)
    # Axes h, k, l of the grid: exp(2πi h u).
    waves = [
        np.exp(2j * np.pi * np.outer(target.grid.axis(i), np.arange(-n, n + 1)))
        for i, n in enumerate(most)
    ]
    shape = target.data.shape
    scale = spectrum.unit * float(np.prod(target.grid.step)) / lattice.volume(target.cell)
    x, y, z = vectors.astype(int).T + most[:, None]
    starts = np.searchsorted(spectrum.holes, np.arange(shape[0] + 1) * shape[1] * shape[2])
    found = np.zeros((len(spectrum.missed), len(vectors)))
    plane = np.zeros(shape[1] * shape[2])
    for values, missed in zip(found, spectrum.missed, strict=True):
        sums = np.zeros(2 * most[::-1] + 1, np.complex128)
        for l, (first, last) in enumerate(pairwise(starts)):  # noqa: E741
            own = spectrum.holes[first:last] - l * len(plane)
            plane[own] = missed[first:last]
            part = waves[1].T @ (plane.reshape(shape[1:]) @ waves[0])
            plane[own] = 0
            sums += waves[2][l][:, None, None] * part
        values[:] = scale * sums[z, y, x].real
    return found


def _positive(covariance: Floats) -> Floats:
    """Return a covariance (n, n) whose correlation has no smaller eigenvalue than `_LEAST`."""
    sigma = np.sqrt(np.diag(covariance))
    if not sigma.all():
        return covariance
    values, vectors = np.linalg.eigh(covariance / sigma / sigma[:, None])
    if values[0] >= _LEAST:
        return covariance
    raised: Floats = (vectors * np.maximum(values, _LEAST)) @ vectors.T
    return raised * sigma * sigma[:, None]


class HoleSums:
    """Sums over the voxels of S(Q) for the covariance at lattice vectors, added plane by plane.

    Parameters
    ----------
    made : Plan
    prior : Prior
    """

    def __init__(self, made: Plan, prior: Prior) -> None:
        self._plan, self._prior = made, prior
        self._sets = [np.unique(np.rint(v @ made.operations), axis=0) for v in prior.vectors]
        self._middle = 2 * np.abs(np.concatenate(self._sets)).max(axis=0).astype(int)
        self._moved = (made.operations - np.eye(3)) * made.grid.step
        # Around each lattice vector, V is a Gaussian: the resolution, and the neighbourhood in
        # which V is learnt. Six points have its first moments.
        width = np.hypot(prior.width, made.taper.resolution / np.sqrt(8 * np.log(2)))
        inverse = np.linalg.inv(2 * np.pi * np.linalg.inv(lattice.b_matrix(made.cell)).T)
        self._shifts = np.sqrt(3) * width * inverse.T
        self._waves = self._waves_at(np.zeros(3))
        self._shifted = [self._waves_at(shift) for shift in self._shifts]
        shape = tuple(2 * self._middle[::-1] + 1)
        self._sums = np.zeros(shape, np.complex128)
        self._gaps = np.zeros((3, *shape))
        self._in_gaps = np.zeros(shape)
        self._weight = self._noise = 0.0
        # Unit of σ, from the first plane that has σ. S may be in any unit, but variances and tapers
        # are summed as parts of one complex number of single precision.
        self._unit = 0.0

    def _waves_at(self, shift: Floats) -> list[NDArray[np.complex64]]:
        """Return exp(2πi h (u − shift)) for each axis of the grid."""
        return [
            np.exp(2j * np.pi * np.outer(self._plan.grid.axis(i), np.arange(-n, n + 1) - shift[i]))
            .astype(np.complex64)
            for i, n in enumerate(self._middle)
        ]  # fmt: skip

    def add(self, l: int, code: NDArray[np.uint8], sigma: NDArray[Any]) -> None:  # noqa: E741
        """Add a plane (k, h) of the grid: codes of `punched`, and σ; ``l`` is its index."""
        made = self._plan
        at = l - int(made.zero[2])
        if abs(at) > made.reach[2]:
            return
        h, k = (
            np.arange(max(z - r, 0), min(z + r + 1, n))
            for z, r, n in zip(made.zero[:2], made.reach[:2], code.shape[::-1], strict=True)
        )
        # |Q| of -h k l equals |Q| of h -k -l.
        tapers = np.stack([made.weights(at), made.weights(-at)])
        stays = np.empty(tapers.shape, np.int64)
        for sign, numbers in zip((1, -1), stays, strict=True):
            pdf_kernels.stabilisers(sign * at, self._moved, numbers)
        if not self._unit:
            known = sigma[(sigma > 0) & np.isfinite(sigma)]
            self._unit = float(np.median(known)) if len(known) else 0.0
        fields = np.zeros((4, len(k), len(h)), np.float32)
        codes, origin = (MEASURED, PUNCHED, UNMEASURED), np.array([h[0], k[0]])
        weight, noise, gaps = pdf_kernels.hole_fields(
            code,
            sigma,
            self._unit or 1.0,
            tapers,
            stays,
            codes,
            origin,
            made.zero,
            made.reach,
            fields,
        )
        self._weight += weight
        self._noise += noise
        variance, punched, squares, amplitude = fields

        def transformed(field: NDArray[Any], waves: list[NDArray[np.complex64]]) -> NDArray[Any]:
            part = waves[1][k].T @ (field.astype(np.complex64) @ waves[0][h])
            product: NDArray[Any] = waves[2][l][:, None, None] * part
            return product

        self._sums += transformed(variance + 1j * punched, self._waves)
        if gaps:
            self._in_gaps += transformed(squares, self._waves).real
            for sums, waves in zip(self._gaps, self._shifted, strict=True):
                sums += transformed(amplitude, waves).real

    def covariance(self) -> Floats:
        """Return the covariance (n, n) of the ΔPDF at the vectors of the prior."""
        even = self._even(self._sums)
        noise, h = self._between(even.real), self._between(even.imag) / self._weight
        # B < 1 and H <= 1 keep the matrix regular.
        b = np.clip(self._prior.signal, 0.0, 1 - 1e-6)
        l = np.linalg.solve(np.eye(len(b)) - h * b, h)  # noqa: E741
        size = np.sqrt([len(s) for s in self._sets])
        # The holes have the noise of their neighbours.
        variance = self._noise / (1 - self._share_of_holes()) / (size[:, None] * size)
        total = noise / (size[:, None] * size) + variance * h
        lost = variance * (l + l.T) / 2
        gaps = self._of_gaps()
        if gaps.any() and len(self._prior.missed):
            in_gaps = variance * self._between(self._even(self._in_gaps)) / self._weight
            total += in_gaps
            lost = self._lost(lost + in_gaps, gaps)
        else:
            total += gaps
        total += (b[:, None] + b - 1) * lost
        result: Floats = self._scale() * (total + total.T) / 2
        shifts = self._prior.shifts
        if len(shifts):
            result += shifts.T @ shifts / len(shifts)
        return _positive(result)

    def _scale(self) -> float:
        """Return the variance of the ΔPDF for a sum of variances of 1 over sets of equivalents.

        The sums are in units of `_unit`.
        """
        made = self._plan
        scale = (made.scale * (self._unit or 1.0)) ** 2
        return scale * (len(made.operations) if made.symmetrised else 1)

    def _even(self, sums: NDArray[Any]) -> NDArray[Any]:
        """Return the mean of sums at R and −R."""
        return (sums + sums[::-1, ::-1, ::-1]) / 2

    def _lost(self, noise: Floats, gaps: Floats) -> Floats:
        """Return L (n, n) in volumes with gaps: the mean of the drawn fields and their model.

        Parameters
        ----------
        noise : (n, n) array
            L of holes, and of noise in gaps.
        gaps : (n, n) array
            Covariance by gaps without factors.
        """
        missed = self._prior.missed
        drawn = missed.T @ missed / len(missed) / self._scale()
        factor = self._factors(gaps, np.diag(drawn) - np.diag(noise))
        model = noise + gaps * factor[:, None] * factor
        share = len(missed) / (len(missed) + _WORTH)
        lost: Floats = share * drawn + (1 - share) * model
        return lost

    def _factors(self, gaps: Floats, rest: Floats) -> Floats:
        """Return factors (n,) of the errors by gaps that give them the variances of drawn fields.

        Parameters
        ----------
        gaps : (n, n) array
            Covariance by gaps without factors.
        rest : (n,) array
            Variances of the drawn fields without noise.
        """
        starts = np.arange(0, max(len(rest) - _ALIKE // 2, 1), _ALIKE)
        sums = np.add.reduceat(rest, starts) / np.add.reduceat(np.diag(gaps), starts)
        lengths = np.diff(np.append(starts, len(rest)))
        factors: Floats = np.repeat(np.sqrt(np.maximum(sums, 0)), lengths)
        return factors

    def _share_of_holes(self) -> float:
        """Return the share of the squared taper in holes and gaps."""
        sums = self._sums.imag + self._in_gaps
        return float(sums[tuple(self._middle[::-1])]) / self._weight

    def _between(self, sums: Floats) -> Floats:
        """Return sums at differences of vectors, between normalised sets of equivalents."""
        result = np.stack([self._at(sums, r, self._prior.vectors).sum(axis=0) for r in self._sets])
        size = np.sqrt([len(s) for s in self._sets])
        normalised: Floats = result.T * size[:, None] / size
        return (normalised + normalised.T) / 2

    def _at(self, sums: Floats, minus: Floats, plus: Floats) -> Floats:
        apart = np.rint(plus - minus[:, None]).astype(int) + self._middle
        values: Floats = sums[apart[..., 2], apart[..., 1], apart[..., 0]]
        return values

    def _of_gaps(self) -> Floats:
        """Return the covariance by gaps that were not measured.

        Their errors have the spectrum of the ΔPDF, and σ of the fill.
        """
        n = len(self._sets)
        result = np.zeros((n, n))
        b = np.clip(self._prior.signal, 0.0, 1 - 1e-6)
        power = np.repeat(b / (1 - b), [len(s) for s in self._sets])
        if not self._gaps.any() or not power.any():
            return result
        vectors = np.concatenate(self._sets)
        strong = np.argsort(-power, kind="stable")[:_SOURCES]
        share = power[strong] / power[strong].sum() / (2 * len(self._shifts))
        for sums in self._gaps:
            for sign in (1, -1):
                response = np.stack(
                    [
                        self._at(sums[::sign, ::sign, ::sign], s, vectors[strong]).mean(axis=0)
                        for s in self._sets
                    ]
                )
                result += response * share @ response.T
        return result
