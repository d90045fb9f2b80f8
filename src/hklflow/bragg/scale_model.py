"""Model of the scale of an observation; its logarithm is linear in the parameters.

``ln g = s_r(φ) - 2 B_r(φ) (sin θ / λ)² + Σ c_lm (Y_lm(incident) + Y_lm(diffracted)) / 2``, with
cubic B-splines in φ for each rotation r, and real spherical harmonics of the beam directions in
the crystal (Blessing, Acta Cryst. A51, 33, 1995).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.interpolate import BSpline
from scipy.sparse.csgraph import connected_components
from scipy.special import gammaln, lpmv

from hklflow.bragg.groups import Groups
from hklflow.bragg.observations import Observations

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Kind = Literal["scale", "decay"]

# Number of reflections with an equivalent that each node needs.
_PER_NODE: dict[Kind, int] = {"scale": 20, "decay": 40}
_PER_PARAMETER = 5  # deviations of equivalents that each parameter needs
_LINKS = 10  # unique reflections that two rotations must share for a common scale
_ROUGH = 0.1  # prior: standard deviation of second differences of ln g between nodes
_HARMONIC = 0.3  # prior: standard deviation of coefficients of spherical harmonics


@dataclass(frozen=True)
class Plan:
    """Parameters that are refined.

    Attributes
    ----------
    spans : tuple of (low, high)
        Angles of each rotation, degrees.
    nodes : dict
        "scale", "decay" -> number of spline coefficients of each rotation; 0: not refined.
    degree : int
        Highest degree of the spherical harmonics; 0: none.
    linked : tuple of int
        For each rotation, the first rotation with which it shares a scale.
    crystals : tuple of int
        Number of the crystal of each rotation; each crystal has its own spherical harmonics.
    notes : tuple of str
        Reasons why parameters are not refined.
    """

    spans: tuple[tuple[float, float], ...]
    nodes: dict[Kind, tuple[int, ...]]
    degree: int
    linked: tuple[int, ...]
    crystals: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def harmonics(self) -> int:
        """Number of coefficients of the spherical harmonics of all crystals."""
        return ((self.degree + 1) ** 2 - 1) * (max(self.crystals) + 1)

    @property
    def parameters(self) -> int:
        """Number of parameters, including those fixed by the gauge."""
        return sum(map(sum, self.nodes.values())) + self.harmonics


def plan(
    observed: Observations,
    groups: Groups,
    use: Bools,
    spans: list[tuple[float, float]],
    intervals: dict[Kind, float],
    degree: int,
    names: Sequence[str],
    crystals: Sequence[int],
) -> Plan:
    """Choose the parameters that the equivalents can determine.

    Parameters
    ----------
    observed : Observations
    groups : Groups
        Groups of equivalents.
    use : (n,) bool array
    spans : list of (low, high)
    intervals : dict
        Requested interval between nodes in degrees, for each kind.
    degree : int
        Requested degree of the spherical harmonics.
    names : sequence of str
        Names of the rotations, for notes.
    crystals : sequence of int
        Number of the crystal of each rotation.
    """
    n = groups.sum(use)
    paired = use & (n[groups.index] >= 2)
    free = float(np.sum(np.maximum(n - 1, 0)))
    in_rotation = np.bincount(observed.rotation[paired], minlength=len(spans))
    linked, notes = _linked(observed, groups, paired, names)
    nodes: dict[Kind, tuple[int, ...]] = {"scale": (), "decay": ()}
    for kind in nodes:
        wanted, found = [], []
        for (low, high), count in zip(spans, in_rotation, strict=True):
            wanted.append(1 + round((high - low) / intervals[kind]) if kind in intervals else 0)
            found.append(min(wanted[-1], max(int(count) // _PER_NODE[kind], 1)))
        nodes[kind] = tuple(found)
        for number in np.flatnonzero(np.less(found, wanted)).tolist():
            notes.append(
                f"{kind} of {names[number]} has only {found[number]} of {wanted[number]} "
                f"nodes, because only {in_rotation[number]} of its reflections have an equivalent"
            )
    made = Plan(tuple(spans), nodes, degree, linked, tuple(crystals))
    return _afforded(made, free, notes)


def _linked(
    observed: Observations, groups: Groups, paired: Bools, names: Sequence[str]
) -> tuple[tuple[int, ...], list[str]]:
    """Return the first rotation that is linked to each rotation, and notes on unlinked ones."""
    n = len(names)
    rows = (groups.index[paired], observed.rotation[paired])
    seen = sparse.csr_matrix((np.ones(len(rows[0])), rows), shape=(len(groups), n))
    seen.data[:] = 1
    common = (seen.T @ seen).toarray()
    labels = connected_components(common >= _LINKS, directed=False)[1]
    first = [int(np.flatnonzero(labels == label)[0]) for label in labels]
    notes = [
        f"scale of {names[number]} relative to {names[0]} is not refined, because it has only "
        f"{int(common[number, :number].max())} unique reflections in common with one before it"
        for number in range(1, n)
        if first[number] == number
    ]
    return tuple(first), notes


def _afforded(made: Plan, free: float, notes: list[str]) -> Plan:
    """Drop parameters, the finest first, until there are enough deviations of equivalents."""
    nodes = dict(made.nodes)
    degree = made.degree
    one = {kind: tuple(min(k, 1) for k in each) for kind, each in nodes.items()}
    none = tuple(0 for _ in made.spans)

    def too_many() -> bool:
        now = replace(made, nodes=nodes, degree=degree).parameters
        # The gauge fixes one scale and one B.
        return free < _PER_PARAMETER * (now - sum(map(any, nodes.values())))

    def drop(what: str) -> None:
        notes.append(f"{what} not refined, because only {free:.0f} deviations of equivalents exist")

    if degree and too_many():
        degree = 0
        drop("absorption is")
    kinds: tuple[Kind, ...] = ("decay", "scale")
    for kind in kinds:
        if nodes[kind] != one[kind] and too_many():
            nodes[kind] = one[kind]
            drop(f"dependence of {kind} on the angle is")
    for kind in kinds:
        # For a single rotation, a constant is fixed by the gauge.
        if any(nodes[kind]) and too_many():
            nodes[kind] = none
            drop(f"{kind} is")
    return replace(made, nodes=nodes, degree=degree, notes=tuple(notes))


@dataclass(frozen=True)
class Curve:
    """Scale and B of one rotation as functions of the angle, with standard deviations (k,).

    ``angle`` is in degrees, ``decay`` in Å².
    """

    angle: Floats
    log_scale: Floats
    log_scale_sigma: Floats
    decay: Floats
    decay_sigma: Floats


@dataclass(frozen=True)
class ScaleModel:
    """Scale model of a set of observations: design matrix, restraints and gauge.

    Attributes
    ----------
    matrix : (n, p) sparse array
        ``ln g = matrix @ parameters``.
    restraint : (p, p) array
        Matrix of the restraints, which is added to the normal matrix.
    gauge : (p, p) array
        Matrix that transforms the parameters so that the first rotation has a mean scale of 1 and
        a mean B of 0.
    """

    plan: Plan
    matrix: sparse.csr_array = field(repr=False)
    restraint: Floats = field(repr=False)
    gauge: Floats = field(repr=False)

    @classmethod
    def of(cls, made: Plan, observed: Observations) -> "ScaleModel":
        """Build the model of these observations."""
        blocks, restraints = [], []
        width = 2 * float(np.percentile(observed.s2, 90))
        for kind, number, n in _blocks(made):
            mine = np.flatnonzero(observed.rotation == number)
            basis = _basis(observed.angle[mine], made.spans[number], n)
            if kind == "decay":
                basis = sparse.diags_array(-2 * observed.s2[mine]) @ basis
            placed = sparse.coo_array(basis)
            blocks.append(
                sparse.coo_array(
                    (placed.data, (mine[placed.coords[0]], placed.coords[1])),
                    shape=(len(observed), n),
                )
            )
            rough = np.diff(np.eye(n), 2, axis=0) / (_ROUGH if kind == "scale" else _ROUGH / width)
            restraints.append(rough.T @ rough)
        if made.degree:
            harmonics = 0.5 * (
                real_harmonics(observed.incident, made.degree)
                + real_harmonics(observed.diffracted, made.degree)
            )
            for crystal in range(max(made.crystals) + 1):
                blocks.append(sparse.coo_array(_of_crystal(made, observed, harmonics, crystal)))
                restraints.append(np.eye(harmonics.shape[1]) / _HARMONIC**2)
        if not blocks:
            nothing = np.zeros((0, 0))
            return cls(made, sparse.csr_array((len(observed), 0)), nothing, nothing)
        matrix = sparse.csr_array(sparse.hstack(blocks))
        restraint: Floats = sparse.block_diag(restraints).toarray()
        return cls(made, matrix, restraint, _gauge(made, matrix.shape[1]))

    def curves(self, parameters: Floats, covariance: Floats) -> list[Curve]:
        """Return scale and B of each rotation."""
        found = []
        at = {(kind, number): where for (kind, number, _), where in _places(self.plan)}
        for number, (low, high) in enumerate(self.plan.spans):
            angle = np.linspace(low, high, 101)
            values = []
            kinds: tuple[Kind, ...] = ("scale", "decay")
            for kind in kinds:
                where = at.get((kind, number))
                if where is None:
                    values += [np.zeros(len(angle)), np.zeros(len(angle))]
                    continue
                basis = _basis(angle, (low, high), where.stop - where.start).toarray()
                spread = np.einsum("ij,jk,ik->i", basis, covariance[where, where], basis)
                values += [basis @ parameters[where], np.sqrt(np.maximum(spread, 0.0))]
            found.append(Curve(angle, *values))
        return found

    def absorption(self, parameters: Floats) -> Floats:
        """Return only the absorption factors (n,)."""
        start = self.matrix.shape[1] - self.plan.harmonics
        factors: Floats = np.exp(self.matrix[:, start:] @ parameters[start:])
        return factors


def _of_crystal(made: Plan, observed: Observations, harmonics: Floats, crystal: int) -> Floats:
    """Return the harmonics (n, k) of the rows of one crystal, 0 elsewhere.

    The mean over the first rotation of the crystal is subtracted, because it belongs to the scale.
    """
    own: Floats = np.zeros_like(harmonics)
    rows = np.equal(made.crystals, crystal)[observed.rotation]
    if rows.any():
        first = rows & (observed.rotation == observed.rotation[rows].min())
        own[rows] = harmonics[rows] - harmonics[first].mean(axis=0)
    return own


def _blocks(made: Plan) -> list[tuple[Kind, int, int]]:
    """Return kind, rotation and number of coefficients of each spline, in parameter order."""
    return [
        (kind, number, n)
        for kind, nodes in made.nodes.items()
        for number, n in enumerate(nodes)
        if n
    ]


def _places(made: Plan) -> list[tuple[tuple[Kind, int, int], slice]]:
    placed, start = [], 0
    for block in _blocks(made):
        placed.append((block, slice(start, start + block[2])))
        start += block[2]
    return placed


def _basis(angle: Floats, span: tuple[float, float], n: int) -> sparse.csr_array:
    """Return B-splines (len(angle), n) over a span, of degree 3, or lower for n < 4."""
    k = min(3, n - 1)
    inner = np.linspace(span[0], span[1], n - k + 1)
    knots = np.concatenate([np.full(k, span[0]), inner, np.full(k, span[1])])
    return sparse.csr_array(BSpline.design_matrix(np.clip(angle, *span), knots, k))


def _gauge(made: Plan, n: int) -> Floats:
    """Return the matrix (n, n) that subtracts the mean spline of the first linked rotation."""
    gauge = np.eye(n)
    places = {(kind, number): where for (kind, number, _), where in _places(made)}
    for (kind, number), where in places.items():
        first = made.linked[number]
        reference = places[(kind, first)]
        angle = np.linspace(*made.spans[first], 101)
        mean = _basis(angle, made.spans[first], reference.stop - reference.start).mean(axis=0)
        gauge[where, reference] -= mean
    return gauge


def real_harmonics(direction: Floats, degree: int) -> Floats:
    """Return real spherical harmonics (n, (degree + 1)² - 1) of unit vectors (n, 3), without l = 0.

    They are orthonormal on the sphere; for each l, m goes from -l to l.
    """
    cosine = np.clip(direction[:, 2], -1.0, 1.0)
    azimuth = np.arctan2(direction[:, 1], direction[:, 0])
    columns = []
    for l in range(1, degree + 1):  # noqa: E741
        for m in range(-l, l + 1):
            size = abs(m)
            log_norm = gammaln(l - size + 1) - gammaln(l + size + 1)
            norm = np.sqrt((2 * l + 1) / (4 * np.pi) * np.exp(log_norm) * (2 if m else 1))
            wave = np.cos(m * azimuth) if m >= 0 else np.sin(size * azimuth)
            columns.append(norm * lpmv(size, l, cosine) * wave)
    return np.stack(columns, axis=1)
