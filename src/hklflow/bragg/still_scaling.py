"""Put the reflections of still frames on one scale.

The intensity of reflection h on frame f is ``J = g_f exp(-2 B_f (sin θ / λ)²) p I_h`` with the
partiality p of `hklflow.bragg.partiality`. Scale, B and two rotations of each frame, the node that
all frames share, and the intensities I are refined in turn by least squares.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from hklflow.bragg import error_model
from hklflow.bragg.error_model import ErrorModel
from hklflow.bragg.groups import Groups
from hklflow.bragg.partiality import Node, first_node, norms
from hklflow.bragg.stills import Stills, scattering
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry import BEAM
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_CYCLES = 8
_SCATTER = 0.5  # relative scatter of an intensity before it is measured
_SCALE, _DECAY = 1.0, 5.0  # restraints: standard deviation of ln g, and of B in Å²
_WIDE = 3.0  # widths of a node within which reflections determine it
_TINY = 1e-30  # smallest partiality; such reflections have no weight
_FEWEST = 5  # reflections of a frame for its own parameters
_AWAY = 4.0  # standard deviations by which the correlation of a frame may be below the median
_LEAST_SPREAD = 0.2  # of Fisher's z: the error of a correlation of some 30 reflections


@dataclass(frozen=True)
class Settings:
    """Settings of the scaling.

    Attributes
    ----------
    partiality : bool
        False: intensities are not divided by partialities (Monte-Carlo averaging).
    min_partiality : float
        Smallest partiality of a reflection in the mean, relative to a reflection on the sphere.
    orientation_sigma : float
        Standard deviation of the orientations of DIALS, radians: restraint of the rotations. 0:
        orientations are not refined.
    min_correlation : float
        Smallest correlation of a frame with the other frames.
    """

    partiality: bool
    min_partiality: float
    orientation_sigma: float
    min_correlation: float


@dataclass(frozen=True, eq=False)
class StillScaling:
    """Scaled reflections, and the parameters of the frames; arrays (f,).

    Attributes
    ----------
    scaled : Scaled
        Reflections of the used frames; ``rotation`` is 0 and ``frame`` the number of the frame.
    scale, decay : array
        g and B (Å²) of each frame.
    correlation : array
        Correlation of the frame's intensities with the means of the other frames; NaN for fewer
        than five reflections.
    used : bool array
        False for frames whose correlation is below the limit, or far below the median.
    rotated : array
        Rotation of the orientation by the refinement, degrees.
    node : Node
    errors : ErrorModel
    """

    scaled: Scaled
    scale: Floats
    decay: Floats
    correlation: Floats
    used: Bools
    rotated: Floats
    node: Node
    errors: ErrorModel


def scale(
    stills: Stills, correction: Floats, group: SpaceGroup, anomalous: bool, settings: Settings
) -> StillScaling:
    """Scale the reflections of all frames.

    Parameters
    ----------
    stills : Stills
        Frames with one indexing.
    correction : (n,) array
        Factor of each reflection's counts: polarization, efficiency of the sensor.
    group : SpaceGroup
    anomalous : bool
        True: Friedel mates are not equivalent.
    settings : Settings
    """
    work = _Work(stills, correction, group, anomalous, settings)
    work.run()
    return work.result()


class _Work:
    """State of the iteration; arrays (n,) of reflections, or (f,) of frames."""

    def __init__(
        self,
        stills: Stills,
        correction: Floats,
        group: SpaceGroup,
        anomalous: bool,
        settings: Settings,
    ) -> None:
        table, self.settings, self.stills = stills.reflections, settings, stills
        self.k = stills.beam.k
        self.frame, self.n_frames = table.frame, len(stills.frames)
        self.q, self.excitation = scattering(stills.frames.ub[self.frame], table.hkl, self.k)
        s1 = self.q + self.k * BEAM
        # Change of the excitation error per rotation about the lab axes.
        self.slope = np.cross(self.q, s1 / norms(s1)[:, None])
        self.s2 = (norms(self.q) / (4 * np.pi)) ** 2
        self.counts = table.intensity * correction
        # The variance of DIALS contains the counts of the peak itself, which would favour low ones.
        self.correction = correction
        self.background = np.maximum(table.variance - np.maximum(table.intensity, 0.0), 1.0)
        self.groups = Groups.of(group.asymmetric(table.hkl, anomalous=anomalous))
        self.absent = group.is_absent(table.hkl)
        spots = stills.spots
        self.node = first_node(*scattering(stills.frames.ub[spots.frame], spots.hkl, self.k))
        self.turn = np.zeros((self.n_frames, 2))
        self.log_scale = self._first_scales()
        self.decay = np.zeros(self.n_frames)
        self.used = np.ones(self.n_frames, dtype=np.bool_)
        self.correlation = np.full(self.n_frames, np.nan)
        self.errors = ErrorModel(b=_SCATTER)
        self.mean = np.zeros(len(table))

    def _first_scales(self) -> Floats:
        total = np.bincount(self.frame, np.maximum(self.counts, 0.0), self.n_frames)
        n = np.bincount(self.frame, minlength=self.n_frames)
        level = np.maximum(total / np.maximum(n, 1), 1e-3)
        logs: Floats = np.log(level / np.median(level))
        return logs

    # ------------------------------------------------------------------ the model

    @property
    def g(self) -> Floats:
        """Scale of each reflection."""
        value: Floats = np.exp(self.log_scale[self.frame] - 2 * self.decay[self.frame] * self.s2)
        return value

    def errors_of_excitation(self) -> Floats:
        """Excitation errors with the rotations of the frames."""
        moved = np.sum(self.slope[:, :2] * self.turn[self.frame], axis=1)
        total: Floats = self.excitation + moved
        return total

    def parts(self, node: Node) -> Floats:
        """Partialities; 1 if they are not used."""
        if not self.settings.partiality:
            return np.ones(len(self.frame))
        # Counts are divided by it: far from the sphere it would be 0.
        return np.maximum(node.partiality(self.q, self.errors_of_excitation(), self.k), _TINY)

    def chosen(self) -> Bools:
        """Reflections that are used: allowed, of a used frame, and partial enough."""
        keep = self.used[self.frame] & ~self.absent
        if self.settings.partiality:
            away = np.abs(self.errors_of_excitation() / self.node.width(self.q, self.k))
            keep &= np.exp(-0.5 * away**2) >= self.settings.min_partiality
        return keep

    def counting(self, expected: Floats) -> Floats:
        """Variances of corrected counts for expected corrected counts."""
        peak = np.maximum(expected / self.correction, 0.0)
        variance: Floats = (self.background + peak) * self.correction**2
        return variance

    def weights(self) -> Floats:
        """Weights of the counts; 0 for reflections that are not chosen."""
        expected = self.g * self.parts(self.node) * np.maximum(self.mean, 0.0)
        variance = self.counting(expected) + (self.errors.b * expected) ** 2
        weights: Floats = np.where(self.chosen(), 1 / variance, 0.0)
        return weights

    # ------------------------------------------------------------------ the cycles

    def run(self) -> None:
        self._average(first=True)
        for cycle in range(_CYCLES):
            self._fit_scales()
            self._average()
            if self.settings.partiality:
                self._fit_node()
                if self.settings.orientation_sigma > 0 and cycle > 0:
                    self._fit_orientations()
                self._average()
            self._judge()
            self._average()
            self._fit_errors()

    def _average(self, first: bool = False) -> None:
        """Update the mean intensity (n,) of the group of each reflection."""
        factor = self.g * self.parts(self.node)
        # Before there are means, each reflection has the weight of its factor.
        weight = self.chosen() / factor if first else self.weights()
        mean = self.groups.mean(self.counts / factor, weight * factor**2)[0][self.groups.index]
        self.mean = np.where(np.isfinite(mean), mean, 0.0)

    def _others(self, factor: Floats, weight: Floats) -> Floats:
        """Means (n,) of the groups without the frame's own reflection; NaN if there is none."""
        a = weight * factor * self.counts
        b = weight * factor**2
        with np.errstate(divide="ignore", invalid="ignore"):
            means: Floats = (self.groups.sum(a)[self.groups.index] - a) / (
                self.groups.sum(b)[self.groups.index] - b
            )
        return means

    def _fit_scales(self) -> None:
        """Refine ln g and B of each frame by Gauss-Newton; the mean ln g and B stay 0."""
        for _ in range(3):
            weight = self.weights()
            expected = self.g * self.parts(self.node) * self.mean
            residual = weight * (self.counts - expected)
            x = np.stack([expected, -2 * self.s2 * expected])
            normal = np.zeros((self.n_frames, 2, 2))
            gradient = np.zeros((self.n_frames, 2))
            now = np.stack([self.log_scale, self.decay], axis=1)
            for i in range(2):
                gradient[:, i] = np.bincount(self.frame, residual * x[i], self.n_frames)
                for j in range(2):
                    normal[:, i, j] = np.bincount(self.frame, weight * x[i] * x[j], self.n_frames)
            restraint = np.array([_SCALE**-2.0, _DECAY**-2.0])
            normal += np.diag(restraint)
            gradient -= restraint * now
            step = np.linalg.solve(normal, gradient[..., None])[..., 0]
            step = np.clip(step, [-0.5, -5.0], [0.5, 5.0])
            now = now + step
            now -= now[self.used].mean(axis=0)
            self.log_scale, self.decay = now.T

    def _fit_node(self) -> None:
        """Refine the node; the intensities follow, at weights that do not depend on it."""
        away = np.abs(self.errors_of_excitation()) / self.node.width(self.q, self.k)
        near = self.used[self.frame] & ~self.absent & (away < _WIDE)
        level = float(np.average(self.mean[near])) * self.g
        weight = np.where(near, 1 / (self.counting(0.5 * level) + (_SCATTER * level) ** 2), 0.0)

        def chi2(x: Floats) -> float:
            node = replace(self.node, size=float(np.exp(x[0])), spread=float(np.exp(x[1])))
            factor = self.g * self.parts(node)
            mean = self.groups.mean(self.counts / factor, weight * factor**2)[0]
            mean = np.where(np.isfinite(mean), mean, 0.0)[self.groups.index]
            return float(np.sum(weight * (self.counts - factor * mean) ** 2))

        start = np.log([self.node.size, self.node.spread])
        found = minimize(chi2, start, method="Nelder-Mead", options={"maxiter": 60, "xatol": 0.01})
        # A width that the data do not show may vanish; one step may not change it much.
        size, spread = np.exp(np.clip(found.x, start - 1.0, start + 1.0))
        node = Node(float(size), float(spread), 1.0)
        self.node = replace(node, reference=float(np.median(node.width(self.q, self.k))))

    def _fit_orientations(self) -> None:
        """Rotate each frame about the two axes across the beam."""
        weight, factor = np.sqrt(self.weights()), self.g
        width = self.node.width(self.q, self.k)
        others = self._others(factor * self.parts(self.node), weight**2)
        fit = (weight > 0) & np.isfinite(others) & (others > 0)
        sigma = self.settings.orientation_sigma
        for f in np.flatnonzero(self.used):
            rows = np.flatnonzero(fit & (self.frame == f))
            if len(rows) < _FEWEST:
                continue
            top = (factor * others * self.node.reference / width)[rows]

            def residuals(x: Floats, rows: Integers = rows, top: Floats = top) -> Floats:
                e = self.excitation[rows] + self.slope[rows, :2] @ x[:2]
                model = np.exp(x[2]) * top * np.exp(-0.5 * (e / width[rows]) ** 2)
                data = weight[rows] * (self.counts[rows] - model)
                return np.concatenate([data, x / [sigma, sigma, 0.5]])

            start = np.array([*self.turn[f], 0.0])
            found = least_squares(
                residuals, start, loss="soft_l1", x_scale=[sigma, sigma, 0.5], max_nfev=20
            )
            self.turn[f] = found.x[:2]

    def _judge(self) -> None:
        """Compare each frame with the means of the other frames."""
        factor = self.g * self.parts(self.node)
        weight = self.weights()
        others = self._others(factor, weight)
        there = (weight > 0) & np.isfinite(others)
        value = self.counts / factor
        for f in range(self.n_frames):
            rows = there & (self.frame == f)
            if rows.sum() >= _FEWEST:
                self.correlation[f] = np.corrcoef(value[rows], others[rows])[0, 1]
        # Correlations are compared as Fisher's z, which has the same error at all correlations.
        z = np.arctanh(np.clip(self.correlation, -0.999, 0.9999))
        known = z[np.isfinite(z)]
        low = -np.inf
        if len(known) >= _FEWEST:
            spread = 1.4826 * float(np.median(np.abs(known - np.median(known))))
            low = float(np.median(known)) - _AWAY * max(spread, _LEAST_SPREAD)
        self.used = ~((self.correlation < self.settings.min_correlation) | (z < low))

    def _fit_errors(self) -> None:
        factor = self.g * self.parts(self.node)
        counting = self.counting(factor * self.mean) / factor**2
        fitted = error_model.fit(
            self.counts / factor,
            counting,
            self.mean,
            self.groups,
            self.chosen(),
            parameters=float(self.used.sum() * (4 if self.settings.orientation_sigma else 2)),
        )
        self.errors = (
            fitted
            if not fitted.why_not
            else ErrorModel(b=1.0, why_not=fitted.why_not, deviations=fitted.deviations)
        )

    def result(self) -> StillScaling:
        keep = self.chosen()
        factor = self.g * self.parts(self.node)
        counting = self.counting(factor * self.mean) / factor**2
        variance = self.errors.variance(counting, self.mean)
        numbers = self.stills.frames.number[self.frame]
        n = len(self.frame)
        scaled = Scaled(
            hkl=self.stills.reflections.hkl,
            rotation=np.zeros(n, np.int64),
            frame=numbers.astype(np.float64),
            angle=np.zeros(n),
            d=2 * np.pi / norms(self.q),
            intensity=self.counts / factor,
            sigma=np.sqrt(variance),
            sigma_counting=np.sqrt(counting),
            scale=factor / self.correction,
            flags=np.zeros(n, np.int64),
        ).select(keep)
        return StillScaling(
            scaled=scaled,
            scale=np.exp(self.log_scale),
            decay=self.decay,
            correlation=self.correlation,
            used=self.used,
            rotated=np.degrees(norms(self.turn)),
            node=self.node,
            errors=self.errors,
        )
