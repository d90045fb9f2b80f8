"""Joint refinement of cell, orientation and geometry from the peaks of several rotations.

The observed position of each peak is compared with the position and frame at which its reflection
crosses the Ewald sphere: ``(Δslow / σ, Δfast / σ, Δframe / σ)``. Damped Gauss-Newton steps minimise
the sum of squares; indices and outliers are determined again before each cycle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation, lattice, symmetry
from hklflow.geometry.parameters import GROUPS, choose, rotation_vector
from hklflow.geometry.reduction import strain
from hklflow.orientation.residuals import Peaks, Problem

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

__all__ = [
    "GROUPS",
    "Peaks",
    "Refined",
    "Refinement",
    "RefinementLimits",
    "begun",
    "problem_of",
    "refine",
]

_MAX_CYCLES = 15
_HELD_OUT = 20  # one of 20 peaks is held out of the fit and tests it
_MAX_CONDITION = 1e9  # above it the normal matrix loses more than half of double precision
_STRONG_CORRELATION = 0.95
_UNSETTLED = 0.03  # fraction of peaks at the outlier limit that may alternate between cycles


@dataclass(frozen=True)
class RefinementLimits:
    """Limits of a refinement.

    Attributes
    ----------
    hkl : float
        Largest deviation of h, k and l of an indexed peak from integers.
    min_fraction : float
        Smallest fraction of peaks that must be indexed.
    outlier : float
        Largest residual of a used peak, in robust standard deviations.
    zeta : float
        Smallest zeta of a used reflection: a smaller one crosses the Ewald sphere too slowly.
    min_peaks : int
        Smallest number of used peaks.
    max_turn : float
        Largest rotation of the crystal from the start, in radians.
    max_strain : float
        Largest principal strain of the cell relative to the start.
    """

    hkl: float
    min_fraction: float
    outlier: float = 5.0
    zeta: float = 0.05
    min_peaks: int = 20
    max_turn: float = float(np.radians(3.0))
    max_strain: float = 0.05


@dataclass(frozen=True)
class Refined:
    """Result of a refinement; n peaks in the order of the rotations.

    Attributes
    ----------
    cell, cell_sigma : (6,) array
        Cell and σ in Å and degrees; σ is 0 if symmetry fixes the value or if it was not refined.
    cell_covariance : (6, 6) array
        Covariance of the cell in Å and degrees.
    u : (3, 3) array
        Proper rotation.
    ub : (3, 3) array
        UB in 1/Å with 2π.
    orientation_sigma : (3,) array
        σ of the rotation in radians, about x, y, z of the goniometer's frame; 0 if not refined.
    rotations : list of Rotation
        Refined geometry.
    names : tuple of p str
    values, sigma : (p,) array
        Refined parameters (see `geometry.parameters.Parameters`).
    covariance : (p, p) array
        Inverse normal matrix times the reduced χ². This factor is needed because the scale of the
        peak errors is uncertain: a floor for strong peaks makes them too large, a distorted
        detector too small.
    hkl : (n, 3) int array
    indexed, used, held_out : (n,) bool array
        ``used``: fitted peaks; ``held_out``: peaks that pass the same tests but were not fitted.
    residuals : (n, 3) array
        Observed minus predicted (slow, fast, frame) in pixels and frames; NaN if the reflection
        does not cross the Ewald sphere.
    rmsd : (3,) array
        Rms residuals of the used peaks, in pixels, pixels and frames.
    rmsd_held_out : (3,) array or None
        Rms residuals of the held-out peaks. None if no peaks were held out, because fewer than 100
        are usable.
    fraction_indexed : float
    correlations : list of (name, name, coefficient)
        Correlations with an absolute value above 0.95.
    condition : float
        Condition number of the normal matrix scaled to a unit diagonal.
    chi2 : float
        Reduced χ².
    cycles, steps : int
        Number of selections of the used peaks, and of Gauss-Newton steps.
    warnings : list of str
    offsets : mapping
        Offset (3,) of the crystal from the axis, in the goniometer's frame, m, for the rotations
        (by number) in which it was refined.
    """

    cell: Floats
    cell_sigma: Floats
    cell_covariance: Floats
    u: Floats
    ub: Floats
    orientation_sigma: Floats
    rotations: list[Rotation]
    names: tuple[str, ...]
    values: Floats
    sigma: Floats
    covariance: Floats
    hkl: NDArray[np.int64]
    indexed: Mask
    used: Mask
    held_out: Mask
    residuals: Floats
    rmsd: Floats
    rmsd_held_out: Floats | None
    fraction_indexed: float
    correlations: list[tuple[str, str, float]]
    condition: float
    chi2: float
    cycles: int
    steps: int
    warnings: list[str]
    offsets: Mapping[int, Floats] = field(default_factory=dict)


def refine(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    ub: ArrayLike,
    group: symmetry.SpaceGroup,
    *,
    free: Sequence[str] = ("cell", "orientation"),
    cell: ArrayLike | None = None,
    limits: RefinementLimits,
) -> Refined:
    """Refine one crystal against the peaks of all rotations of a scan.

    Parameters
    ----------
    rotations : sequence of Rotation
        Starting geometry.
    peaks : sequence of Peaks
        One for each rotation.
    ub : (3, 3) array
        Starting UB in 1/Å with 2π, in the setting of ``group``.
    group : SpaceGroup
        Space group, whose constraints on the cell hold exactly.
    free : sequence of str
        Groups of parameters to refine, see `parameters.GROUPS`.
    cell : (6,) array, optional
        Starting cell; default: the cell of ``ub``. It is fixed unless "cell" is refined.
    limits : RefinementLimits

    Raises
    ------
    HklflowError
        If the parameters are degenerate, the peaks too few, or the start too far from the result.
    """
    return begun(rotations, peaks, ub, group, free, cell, limits).run()


def begun(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    ub: ArrayLike,
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    cell: ArrayLike | None,
    limits: RefinementLimits,
) -> "Refinement":
    """Set up a refinement; a free orientation is first rotated to fit the peaks."""
    problem = problem_of(rotations, peaks, ub, group, free, cell, limits)
    u, start_cell = problem.parameters.u, problem.parameters.cell
    values = problem.parameters.start()
    if "orientation" in free:
        g = problem.miller(values) @ problem.parameters.ub_of(values).T
        turn = realigned(g, u, start_cell) @ u.T
        where = problem.parameters.names.index("u_x")
        values[where : where + 3] = rotation_vector(turn)
    return Refinement(problem, values, limits)


def problem_of(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    ub: ArrayLike,
    group: symmetry.SpaceGroup,
    free: Sequence[str],
    cell: ArrayLike | None,
    limits: RefinementLimits,
) -> Problem:
    """Return the peaks with the parameters to refine; raise the errors of `refine`."""
    if len(rotations) != len(peaks) or not rotations:
        raise HklflowError(
            f"{len(rotations)} rotations and {len(peaks)} lists of peaks; give one list per "
            "rotation"
        )
    u, own_cell = lattice.decompose_ub(ub)
    start_cell = symmetry.constrain_cell(own_cell if cell is None else cell, group)
    constraints = symmetry.cell_constraints(group)
    total = sum(len(p.frame) for p in peaks)
    if total < limits.min_peaks:
        raise HklflowError(
            f"{total} peaks are too few to refine (limit {limits.min_peaks}); lower the threshold "
            "of the peak search"
        )
    return Problem(choose(free, constraints, start_cell, u, rotations), peaks)


def realigned(g: Floats, u: Floats, cell: Floats) -> Floats:
    """Rotate U to fit the indices of the innermost peaks, and then of more and more peaks.

    The error of the indices is proportional to |Q|, so the inner peaks keep their indices.

    Parameters
    ----------
    g : (n, 3) array
        Scattering vectors in the goniometer's frame, 1/Å with 2π.
    """
    b = lattice.b_matrix(cell)
    length = np.linalg.norm(g, axis=1)
    order = np.argsort(length, kind="stable")
    for doubt in np.radians([1.5, 1.0, 0.5, 0.25, 0.1]):
        # The error of an index is at most |Δh| = |a · δ × G| / 2π.
        reach = 0.35 * 2 * np.pi / (doubt * float(max(cell[:3])))
        number = max(int(np.searchsorted(length[order], reach)), min(30, len(g)))
        inner = order[:number]
        for _ in range(4):
            hkl = g[inner] @ np.linalg.inv(u @ b).T
            near = np.abs(hkl - np.rint(hkl)).max(axis=1) < 0.3
            if near.sum() < 8:
                break
            model = np.rint(hkl[near]) @ b.T
            u = lattice.nearest_rotation(g[inner][near].T @ model)
    return u


@dataclass(frozen=True)
class _Normal:
    """Eigenvectors of the normal matrix, scaled to unit diagonal, and the scale of its rows."""

    scale: Floats
    eigenvalues: Floats
    vectors: Floats

    @property
    def condition(self) -> float:
        smallest = max(self.eigenvalues[0], np.finfo(float).tiny)
        with np.errstate(over="ignore"):  # infinite for a singular matrix
            return float(self.eigenvalues[-1] / smallest)

    def inverse(self) -> Floats:
        inverse: Floats = (self.vectors / self.eigenvalues) @ self.vectors.T
        return inverse / np.outer(self.scale, self.scale)


class Refinement:
    """Cycles of indexing, rejecting and fitting."""

    def __init__(self, problem: Problem, values: Floats, limits: RefinementLimits) -> None:
        self.problem = problem
        self.start_u = problem.parameters.u
        self.start_cell = problem.parameters.cell
        self.limits = limits
        self.values = values
        self.total = len(problem.position)
        self.cycles, self.steps = 0, 0
        self.warnings: list[str] = []

    def run(self) -> Refined:
        """Refine until the selection of peaks and the values converge."""
        hkl, indexed, usable = self.select(loose=True)
        fitted = self._without_held_out(usable)
        for cycle in range(_MAX_CYCLES):
            before = fitted
            self.cycles += 1
            moved = self._minimise(hkl, fitted, iterations=4 if cycle < 2 else 30)
            self.check_start()
            hkl, indexed, usable = self.select(loose=False)
            fitted = self._without_held_out(usable)
            changed = int(np.sum(fitted != before))
            # Among thousands of peaks, a few at the outlier limit may alternate for ever.
            if changed <= 0.001 * before.sum() and moved < 1e-3:
                break
        else:
            message = (
                f"{changed} of {before.sum()} peaks used still changed in the last of "
                f"{_MAX_CYCLES} cycles"
            )
            if changed > _UNSETTLED * before.sum():
                raise HklflowError(
                    f"the refinement did not settle: {message}; refine fewer parameters, raise "
                    "`find_peaks: sigma_floor` to what the geometry is good for, or, if the "
                    "crystal moved during the scan, reduce a part of its frames (`last_frame`)"
                )
            self.warnings.append(f"the selection of peaks did not settle: {message}")
        return self.result(hkl, indexed, usable, before)

    def select(self, loose: bool) -> tuple[Floats, Mask, Mask]:
        """Return indices (n, 3), the indexed peaks, and the peaks to use."""
        limits = self.limits
        miller = self.problem.miller(self.values)
        hkl = np.rint(miller)
        distance = np.abs(miller - hkl).max(axis=1)
        indexed = (distance < (max(0.3, limits.hkl) if loose else limits.hkl)) & np.any(
            hkl != 0, axis=1
        )
        if indexed.mean() < limits.min_fraction:
            raise HklflowError(
                f"the refinement lost the crystal: {indexed.sum()} of {self.total} peaks are "
                f"indexed ({indexed.mean():.0%}, limit {limits.min_fraction:.0%}); index again or "
                "check the starting orientation, cell and geometry"
            )
        rows = np.nonzero(indexed)[0]
        difference, zeta = self.problem.residuals(self.values, hkl[rows], rows)
        weighted = np.abs(difference) / self.problem.sigma[rows]
        good = np.all(np.isfinite(weighted), axis=1) & (zeta > limits.zeta)
        if good.any():
            # The limit uses the observed scatter, as variances may be wrong; the floor is for exact
            # data.
            scatter = np.maximum(1.4826 * np.median(weighted[good], axis=0), 0.1)
            good &= np.all(np.nan_to_num(weighted, nan=np.inf) < limits.outlier * scatter, axis=1)
        usable = np.zeros(self.total, dtype=np.bool_)
        usable[rows[good]] = True
        needed = max(limits.min_peaks, len(self.values))
        if usable.sum() < needed:
            raise HklflowError(
                f"{usable.sum()} of {self.total} peaks can be used to refine "
                f"{len(self.values)} parameters (limit {needed}); give more peaks or refine fewer "
                "parameters"
            )
        return hkl, indexed, usable

    def _without_held_out(self, usable: Mask) -> Mask:
        if usable.sum() < 100:
            return usable
        fitted: Mask = usable & (np.arange(self.total) % _HELD_OUT != _HELD_OUT // 2)
        return fitted

    def _minimise(self, hkl: Floats, fitted: Mask, iterations: int) -> float:
        """Run damped Gauss-Newton steps and return the last step, relative to σ."""
        rows = np.nonzero(fitted)[0]
        sigma = self.problem.sigma[rows]
        current = (self.problem.residuals(self.values, hkl[rows], rows)[0] / sigma).ravel()
        size = np.inf
        for _ in range(iterations):
            jacobian = self.problem.jacobian(self.values, hkl[rows], rows)
            if not np.all(np.isfinite(jacobian)):
                raise HklflowError(
                    f"the refinement diverged: {np.sum(~np.isfinite(jacobian).all(axis=1)) // 3} "
                    "reflections stopped crossing the Ewald sphere; refine fewer parameters"
                )
            normal = self._normal(jacobian)
            step = -normal.inverse() @ (jacobian.T @ current)
            self.steps += 1
            for damping in 0.5 ** np.arange(12):
                trial = self.values + damping * step
                new = (self.problem.residuals(trial, hkl[rows], rows)[0] / sigma).ravel()
                if np.all(np.isfinite(new)) and new @ new <= current @ current:
                    break
            else:
                return 0.0  # at the minimum, within rounding
            self.values, current = trial, new
            size = float(np.max(np.abs(damping * step) * normal.scale))
            if size < 1e-4:
                break
        return size

    def _normal(self, jacobian: Floats) -> "_Normal":
        """Return the normal matrix of a Jacobian; raise an error if it cannot be inverted."""
        names = np.array(self.problem.parameters.names)
        scale = np.linalg.norm(jacobian, axis=0)
        if np.any(scale == 0):
            raise HklflowError(
                f"the peaks do not depend on {', '.join(names[scale == 0])}; do not refine it"
            )
        unit = jacobian / scale
        normal = _Normal(scale, *np.linalg.eigh(unit.T @ unit))
        if normal.condition > _MAX_CONDITION:
            involved = names[np.abs(normal.vectors[:, 0]) > 0.2]
            raise HklflowError(
                f"the peaks cannot distinguish {', '.join(involved)}: condition number "
                f"{normal.condition:.1e} (limit {_MAX_CONDITION:.0e}); fix one of them"
            )
        return normal

    def check_start(self) -> None:
        """Raise an error if the model is too far from its start."""
        parameters, limits = self.problem.parameters, self.limits
        turn = lattice.rotation_angle(parameters.u_of(self.values), self.start_u)
        if turn > limits.max_turn:
            raise HklflowError(
                f"the orientation moved by {np.degrees(turn):.2f}° (limit "
                f"{np.degrees(limits.max_turn):.2f}°); the start was wrong, index again"
            )
        cell = parameters.cell_of(self.values)
        if min(cell[:3]) <= 0 or strain(lattice.metric(cell), self.start_cell) > limits.max_strain:
            raise HklflowError(
                f"the cell went to {' '.join(f'{x:.4g}' for x in cell)} from "
                f"{' '.join(f'{x:.4g}' for x in self.start_cell)} (limit {limits.max_strain:.0%}); "
                "check the starting cell, wavelength and distance"
            )

    def result(self, hkl: Floats, indexed: Mask, usable: Mask, fitted: Mask) -> Refined:
        """Return the result for the current model; ``fitted`` peaks give the covariance."""
        problem, values = self.problem, self.values
        parameters = problem.parameters
        rows = np.nonzero(fitted)[0]
        normal = self._normal(problem.jacobian(values, hkl[rows], rows))
        covariance = normal.inverse()
        difference, _ = problem.residuals(values, hkl, np.arange(self.total))
        weighted = (difference[rows] / problem.sigma[rows]).ravel()
        chi2 = float(weighted @ weighted / max(weighted.size - len(values), 1))
        covariance *= chi2
        sigma = np.sqrt(np.diag(covariance))
        cell_jacobian = parameters.cell_jacobian()
        cell_covariance = cell_jacobian @ covariance @ cell_jacobian.T
        named = dict(zip(parameters.names, sigma, strict=True))
        held_out = usable & ~self._without_held_out(usable)
        cell, u = parameters.cell_of(values), lattice.nearest_rotation(parameters.u_of(values))
        correlations = _strong(parameters.names, covariance)
        warnings = self.warnings + [
            f"{a} and {b} are correlated: {value:+.3f}" for a, b, value in correlations
        ]
        if chi2 > 1:
            warnings.append(
                f"reduced chi² is {chi2:.3g}: the standard deviations are multiplied by its root"
            )
        return Refined(
            cell=cell,
            cell_sigma=np.sqrt(np.diag(cell_covariance)),
            cell_covariance=cell_covariance,
            u=u,
            ub=u @ lattice.b_matrix(cell),
            orientation_sigma=np.array([named.get(f"u_{axis}", 0.0) for axis in "xyz"]),
            rotations=[parameters.rotation_of(values, i) for i in range(len(parameters.rotations))],
            names=parameters.names,
            values=values,
            sigma=sigma,
            covariance=covariance,
            hkl=hkl.astype(np.int64),
            indexed=indexed,
            used=fitted,
            held_out=held_out,
            residuals=difference,
            rmsd=_rms(difference[fitted]),
            rmsd_held_out=_rms(difference[held_out]) if held_out.any() else None,
            fraction_indexed=float(indexed.mean()),
            correlations=correlations,
            condition=normal.condition,
            chi2=chi2,
            cycles=self.cycles,
            steps=self.steps,
            warnings=warnings,
            offsets={
                i: offset
                for i in range(len(parameters.rotations))
                if (offset := parameters.offset_of(values, i)) is not None
            },
        )


def _rms(difference: Floats) -> Floats:
    root: Floats = np.sqrt(np.mean(difference**2, axis=0))
    return root


def _strong(names: tuple[str, ...], covariance: Floats) -> list[tuple[str, str, float]]:
    sigma = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sigma, sigma)
    pairs = zip(*np.triu_indices(len(names), 1), strict=True)
    return [
        (names[i], names[j], float(correlation[i, j]))
        for i, j in pairs
        if abs(correlation[i, j]) > _STRONG_CORRELATION
    ]
