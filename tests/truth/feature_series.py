"""Fits of the features of `feature_worlds`, with the resolution of the world."""

import numpy as np
from scipy import ndimage

from hklflow.geometry.grid import Grid
from hklflow.series import feature_copies, feature_fit, feature_voxels
from hklflow.series.features import Lattice
from hklflow.series.line_shape import Smearing
from tests.truth import feature_worlds as worlds

RELATIVE_ERROR = 0.0
MOST = 24  # copies


def feature_of(series: worlds.Series) -> feature_copies.Feature:
    """Return the feature that a user would name: the primary copy at the middle temperature."""
    truth = series.truth[len(series.truth) // 2]
    free = list(series.info["free"])
    direction = None
    if len(free) == 2:
        direction = np.eye(3)[({0, 1, 2} - set(free)).pop()]
    if len(free) == 1:
        direction = np.eye(3)[free[0]]
    point = np.nan_to_num(truth.q)
    return feature_copies.Feature("it", series.info["kind"], point, direction, False, 0.25)


def per_unit(data: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return 1/norm: σ²/S where there are 60 counts, and around such voxels."""
    with np.errstate(invalid="ignore", divide="ignore"):
        known = np.isfinite(data) & (data**2 >= 60 * sigma**2)
        norm = np.where(known, data / sigma**2, 0.0)
        near = [ndimage.uniform_filter(x, 21) for x in (norm, known.astype(float))]
        return np.where(known, 1 / norm, np.where(near[1] > 1e-9, near[1] / near[0], np.nan))


def fitted(
    series: worlds.Series, temperatures: list[int]
) -> tuple[feature_copies.Axes, dict[int, feature_fit.Fit]]:
    """Return the fits of some temperatures, with the same copies."""
    b = 2 * np.pi * worlds.reciprocal(series.cell)
    lattice = Lattice(b.T @ b, np.array(worlds.laue_ops(series.space_group), float), "", "P")
    axes = (series.h, series.k, series.l)
    step = np.array([x[1] - x[0] for x in axes])
    grid = Grid(np.array([x[0] for x in axes]), step, tuple(len(x) for x in axes))
    feature = feature_of(series)
    smearing = Smearing(np.diag(series.info["res_sigma"] ** 2), step)

    def widening(hkl: np.ndarray) -> np.ndarray:
        q2 = np.einsum("...i,ij,...j->...", hkl, lattice.metric, hkl)
        return 1 + series.info["res_growth"] * q2 / series.info["Qmax"] ** 2

    copies = feature_copies.copies(
        feature, grid, lattice, feature_voxels.bragg_distance(smearing, widening, lattice)
    )
    along = feature_copies.axes_of(feature, lattice)

    def voxels(t: int, chosen: list[feature_copies.Copy]) -> feature_fit.Voxels | None:
        arrays = [np.asarray(x).transpose(2, 1, 0) for x in (series.S[t], series.sigma[t])]
        arrays += [per_unit(*arrays), np.zeros_like(arrays[0])]
        return feature_voxels.gather(
            chosen,
            grid,
            lambda region: tuple(array[region] for array in arrays),
            widening,
            None,
            0.5,
        )

    measured = [voxels(t, copies) for t in temperatures]
    keys = [set() if x is None else {copy.key for copy in x.copies} for x in measured]
    whole = set.intersection(*keys)
    chosen = feature_voxels.spread([x for x in copies if x.key in whole], MOST)
    if not chosen:
        return along, {}
    return along, {
        t: feature_fit.fit(voxels(t, chosen), along, smearing, RELATIVE_ERROR, 0.0)
        for t in temperatures
    }
