"""What a reduction made of simulated frames against their truth; reads its files, not its code."""

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy.spatial import cKDTree

from tests.truth.frames_world import FrameWorld
from tests.truth.worlds_physics import Array, busing_levy, cell_of_axes, direct_basis

MOST = 3_000_000  # voxels that are compared


@dataclass(frozen=True)
class Crystal:
    """Refined cell and orientation against the true ones at the first frame."""

    setting: Array  # integer matrix: true hkl = setting · hkl of the reduction; NaN if none
    cell: Array  # relative deviations
    pulls: Array  # of the cell, in standard uncertainties; 0 where constrained
    angle: float  # degrees between the orientations


def crystal(world: FrameWorld, orientation: Path) -> Crystal:
    """Compare orientation.json with the truth; see frames.py on what a mosaic spread does."""
    found = json.loads(orientation.read_text())
    UB = np.array(found["UB"])
    setting = np.linalg.inv(world.draft.UB) @ UB
    known = np.abs(setting - np.round(setting)).max() < 0.1
    setting = np.round(setting) if known else np.eye(3)
    true = cell_of_axes(direct_basis(world.draft.UB @ setting))
    deviation, sigma = np.array(found["cell"]) - true, np.array(found["cell_sigma"])
    pulls = np.divide(deviation, sigma, out=np.zeros(6), where=sigma > 0)
    if not known:
        return Crystal(np.full((3, 3), np.nan), deviation / true, pulls, np.nan)
    U = UB @ np.linalg.inv(world.draft.UB @ setting)
    u, _, v = np.linalg.svd(U)  # the rotation nearest to it
    angle = np.degrees(np.arccos(np.clip((np.trace(u @ v) - 1) / 2, -1, 1)))
    return Crystal(setting, deviation / true, pulls, float(angle))


@dataclass(frozen=True)
class Diffuse:
    """S(hkl) of a volume against the true one, away from Bragg positions."""

    voxels: int
    crystal: float  # volume over truth: scale of what the crystal scatters
    air: float  # the same for the air
    chi2: float  # mean of (counts − expected)²/expected after both scales are fitted
    worst: float  # largest deviation of ten groups of voxels by true S, relative
    worst_sigma: float  # its standard uncertainty
    by_q: Array  # deviation in ten groups by |Q|, relative


def diffuse(world: FrameWorld, volume: Path, setting: Array, away: float = 0.3) -> Diffuse:
    """Compare counts and norm of transform.nxs with S(hkl) and the air's known fall."""
    with h5py.File(volume) as file:
        group = file["entry/transform"]
        axes = [group[name][()] for name in ("Ql", "Qk", "Qh")]
        counts, norm = group["counts"][()], group["norm"][()]
    near = [np.abs(x - np.round(x)) < away for x in axes]
    bragg = near[0][:, None, None] & near[1][:, None] & near[2]
    at = np.flatnonzero((norm > 0) & ~bragg)
    if len(at) > MOST:
        at = np.random.default_rng(0).choice(at, MOST, replace=False)
    at = np.stack(np.unravel_index(at, norm.shape), 1)
    counts, norm = counts[tuple(at.T)], norm[tuple(at.T)]
    hkl = np.stack([axes[i][at[:, i]] for i in (2, 1, 0)], 1) @ setting.T
    q = np.linalg.norm(hkl @ busing_levy(world.sample.cell).T, axis=1)
    S = world.S(hkl)
    air = world.air * (0.3 + np.exp(-2.5 * q / world.draft.q_max))
    X = np.c_[world.diffuse * S, air] * norm[:, None]
    weight = 1 / np.maximum(X.sum(axis=1), 1e-300)
    for _ in range(3):
        scales = np.linalg.solve((X * weight[:, None]).T @ X, (X * weight[:, None]).T @ counts)
        expected = np.maximum(X @ scales, 1e-300)
        weight = 1 / expected
    monitor = world.monitor[0, 0]
    by_S = _groups(S, counts, expected)
    worst = int(np.abs(by_S[0]).argmax())
    return Diffuse(
        voxels=len(counts),
        crystal=float(scales[0] * monitor),
        air=float(scales[1] * monitor),
        chi2=float(np.mean((counts - expected) ** 2 / expected)),
        worst=float(by_S[0][worst]),
        worst_sigma=float(by_S[1][worst]),
        by_q=_groups(q, counts, expected)[0],
    )


def _groups(x: Array, counts: Array, expected: Array) -> tuple[Array, Array]:
    """Return relative deviations, and their σ, of ten groups of equal size by x."""
    group = np.searchsorted(np.quantile(x, np.linspace(0, 1, 11)[1:-1]), x)
    c, m = (np.bincount(group, y, 10) for y in (counts, expected))
    return c / m - 1, np.sqrt(c) / m


@dataclass(frozen=True)
class Peaks:
    """Found peaks against the true spots of one rotation."""

    number: int
    pulls: Array  # median of the pulls of frame, slow, fast, of unflagged peaks
    widths: Array  # their width, from the median of the absolute deviations
    false: int  # unflagged peaks 3 pixels and frames from all that was painted
    missed: float  # share of the true spots of more than 1000 counts


def peaks(world: FrameWorld, r: int, table: Path) -> Peaks:
    """Compare peaks.nxs with the true spots."""
    names = ("observed_frame", "observed_px_y", "observed_px_x")
    with h5py.File(table) as file:
        rows = {k: v[()] for k, v in file["entry/peaks"].items() if isinstance(v, h5py.Dataset)}
    x, var = (np.stack([rows[n + end] for n in names], 1) for end in ("", "_var"))
    spots = {k: v[world.spots["rotation"] == r] for k, v in world.spots.items()}
    true = np.stack([spots[n] for n in ("frame", "slow", "fast")], 1)
    distance, index = cKDTree(true).query(x)
    good = (rows["flags"] == 0) & (distance < 3)
    pull = (x - true[index])[good] / np.sqrt(var[good])
    median = np.median(pull, axis=0)
    painted = world.passages(r)[0][:, :3] + [0.5, 0, 0]
    strong = true[(spots["intensity"] > 1000) & (world.weight[_pixel(world, true)] > 0.5)]
    return Peaks(
        number=len(x),
        pulls=median,
        widths=1.4826 * np.median(np.abs(pull - median), axis=0),
        false=int(((rows["flags"] == 0) & (cKDTree(painted).query(x)[0] > 3)).sum()),
        missed=float(np.mean(cKDTree(x).query(strong)[0] > 3)),
    )


def _pixel(world: FrameWorld, spots: Array) -> tuple[np.ndarray, np.ndarray]:
    slow, fast = (np.clip(spots[:, i + 1].astype(int), 0, world.shape[i] - 1) for i in (0, 1))
    return slow, fast


def sentences(accepted: Path) -> tuple[str, list[str]]:
    """Return verdict and sentences of accepted.json."""
    found = json.loads(accepted.read_text())
    return found["verdict"], [*found["sentences"], *found["doubts"]]
