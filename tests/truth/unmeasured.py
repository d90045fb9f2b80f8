"""Worlds without a run of their surroundings, reduced by the stage, and the truth."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hklflow import nexus, stage
from hklflow.geometry.grid import Grid
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.images.mask3d import pack
from hklflow.stages import import_scan, unmeasured_background
from tests.truth.orientations import write_orientation
from tests.truth.quantitative import World
from tests.truth.quantitative_write import write


@dataclass(frozen=True)
class Reduced:
    """A world with the products of the stage, and the true background.

    Attributes
    ----------
    true, rings : (slow, fast) arrays
        Mean background over all frames, and its powder rings, in units of S where the
        transmission is its median.
    found : dict of str to (slow, fast) array
        What the stage subtracts, in the same units.
    metrics : dict
    """

    world: World
    folder: Path
    true: np.ndarray
    rings: np.ndarray
    found: dict[str, np.ndarray]
    sigma: dict[str, np.ndarray]
    metrics: dict[str, Any]


def prepare(w: World, folder: Path) -> list[str]:
    """Write a world and all that the stage reads; the transmission of frames is the true mean."""
    write(w, folder)
    sample = w.name.replace(" ", "-")
    names = [f"r{r + 1}" for r in range(len(w.scans))]
    every = [w.nodes(r, "sample").mean(axis=(1, 2)) for r in range(len(w.scans))]
    median = float(np.median(np.concatenate(every)))
    rotations = {}
    for r, name in enumerate(names):
        own = folder / name
        own.mkdir(exist_ok=True)
        raw = folder / "raw" / f"{sample}_300K_{name}.nxs"
        stage.run(
            import_scan.main,
            inputs=import_scan.Inputs(raw=[raw]),
            outputs=import_scan.Outputs(scan=own / "scan.nxs"),
            params=import_scan.Params(**({} if w.monitor else {"monitor": "none"})),
            threads=1,
        )
        read = nexus.read_scan(own / "scan.nxs")
        rotations[name], n = read.rotation, read.rotation.scan.n_frames
        nexus.write_mask(own / "mask.nxs", w.blind.astype(np.uint32))
        with nexus.FrameMaskWriter(own / "frame_mask.nxs", (n, *w.shape)) as mask:
            mask.append(pack(np.zeros((n, *w.shape), bool)), np.zeros(n))
        T = every[r] / median
        course = Transmission(T, 0 * T, T, np.zeros(n, np.uint8), 1.0)
        scale = FrameScale(w.beam[r], w.attenuator[r], T, course, 1.0, 1.0, "background")
        nexus.write_scale(own / "scale.nxs", scale, T)
    symbol = w.crystal.space_group.partition(":")[0]
    grid = Grid.covering(w.crystal.cell, float(w.q.max()), 0.25)
    write_orientation(folder / "orientation.json", rotations, w.UB, symbol, grid)
    return names


def inputs(folder: Path, names: list[str]) -> unmeasured_background.Inputs:
    """Return the stage's inputs of a world that was prepared."""
    each = {n: [folder / name / f"{n}.nxs" for name in names] for n in ("scan", "mask", "scale")}
    return unmeasured_background.Inputs(
        scans=each["scan"],
        masks=each["mask"],
        scales=each["scale"],
        frame_masks=[folder / name / "frame_mask.nxs" for name in names],
        orientation=folder / "orientation.json",
    )


def run(w: World, folder: Path, names: list[str], **params: Any) -> Reduced:
    """Run the stage, and compare in units of S with the truth."""
    outputs = unmeasured_background.Outputs(
        background=folder / "unmeasured_background.nxs",
        picture=folder / "unmeasured_background.png",
        metrics=folder / "unmeasured_background.json",
    )
    friedel = bool((w.crystal.group == -np.eye(3)).all((1, 2)).any())
    stage.run(
        unmeasured_background.main,
        inputs=inputs(folder, names),
        outputs=outputs,
        params=unmeasured_background.Params(**{"friedel": friedel, "subtract": True} | params),
        threads=1,
    )
    true, rings, unit = np.zeros((3, *w.shape))
    for r in range(len(w.scans)):
        for z in range(0, w.scans[r].n_frames, 3):
            parts = w.parts(r, z)
            true += w.background(r, z)
            rings += sum((parts[n] for n in ("wall", "ice") if n in parts), np.zeros(w.shape))
            unit += w.norm * w.beam[r][z] * w.attenuator[r][z]
    norm = _norm(folder, names[0], w)
    found, sigma = {}, {}
    for part in nexus.read_background(outputs.background):
        found[part.name] = part.level / norm
        sigma[part.name] = np.sqrt(part.variance) / norm
    # Norms of hklflow and of the world have other constants.
    ratio = float(np.nanmedian((w.norm / norm)[~w.blind]))
    with np.errstate(invalid="ignore", divide="ignore"):
        true, rings = (np.where(w.blind, np.nan, x / unit) * ratio for x in (true, rings))
    metrics = stage.read_json(outputs.metrics)
    return Reduced(w, folder, true, rings, found, sigma, metrics)


def _norm(folder: Path, name: str, w: World) -> np.ndarray:
    from hklflow.stage import norms

    orientation = stage.read_orientation(folder / "orientation.json")
    scan = nexus.read_scan(folder / name / "scan.nxs")
    norm = norms.read_norm(
        folder / name / "mask.nxs",
        folder / name / "scale.nxs",
        norms.Corrections(),
        orientation.reference_detector,
        orientation.rotation(name),
        scan.binning,
    )
    return np.where(norm.pixel > 0, norm.pixel, np.nan)


def shells(reduced: Reduced) -> dict[str, np.ndarray]:
    """Return, by shell: true mean of the background but the rings found, and the interval.

    NaN where all pixels of a shell are masked.
    """
    iso = reduced.metrics["isotropic background"]
    edges = np.array(iso["edges of the shells in 1/Å"])
    rings = reduced.found.get("powder rings", np.zeros(reduced.world.shape))
    w, rest = reduced.world, reduced.true - rings
    true = np.array([np.nanmean(rest[(w.q >= a) & (w.q < b)]) for a, b in pairwise(edges)])
    keys = ("least in units of S", "largest in units of S", "level in units of S")
    low, high, level = (np.array(iso[k], float) for k in keys)
    return {"edges": edges, "true": true, "low": low, "high": high, "level": level}


def anisotropic_error(reduced: Reduced, n: int = 40) -> dict[str, float]:
    """Return rms of the true anisotropic part and of its error over the mean level.

    The mean of each of n shells of |Q| is taken off, with its slope.
    """
    w = reduced.world
    found = sum(reduced.found.values(), np.zeros(w.shape))
    use = np.isfinite(reduced.true) & np.isfinite(found)
    edges = np.linspace(w.q[use].min(), w.q[use].max() * (1 + 1e-9), n + 1)
    true, off = [], []
    for a, b in pairwise(edges):
        own = use & (w.q >= a) & (w.q < b)
        if np.count_nonzero(own) < 30:
            continue
        A = np.stack([np.ones(np.count_nonzero(own)), w.q[own] - a], axis=1)
        for values, into in ((reduced.true, true), (found - reduced.true, off)):
            rest = values[own] - A @ np.linalg.lstsq(A, values[own], rcond=None)[0]
            into.append(rest)
    iso = reduced.metrics.get("isotropic background")
    level = np.nanmean(np.array(iso["level in units of S"], float)) if iso else np.nan
    rms = [float(np.sqrt(np.mean(np.concatenate(x) ** 2))) for x in (true, off)]
    return {"true / level": rms[0] / level, "error / level": rms[1] / level}


def ring_error(reduced: Reduced) -> dict[str, float]:
    """Return the share of the rings' counts that is found, and the rms error over their rms."""
    found = np.nan_to_num(reduced.found.get("powder rings", np.zeros(reduced.world.shape)))
    true = np.nan_to_num(reduced.rings)
    strong = true > 0.05 * true.max()
    return {
        "share found": float(found[strong].sum() / true[strong].sum()),
        "rms error / rms": float(
            np.sqrt(np.mean((found - true)[strong] ** 2) / np.mean(true[strong] ** 2))
        ),
        "found where there is none / level": float(found[true < 1e-3 * true.max()].mean()),
    }


def rings_left(reduced: Reduced) -> dict[str, float]:
    """Return what rings add to pixels that are not masked: sum and rms over the mean level."""
    found = reduced.found.get("powder rings", np.zeros(reduced.world.shape))
    rings, seen = np.nan_to_num(reduced.rings), np.isfinite(reduced.true)
    left = seen & np.isfinite(found)
    iso = reduced.metrics.get("isotropic background")
    level = np.nanmean(np.array(iso["level in units of S"], float)) if iso else np.nan
    return {
        "pixels masked": float(1 - left.sum() / seen.sum()),
        "rings left / rings": float(rings[left].sum() / rings[seen].sum()),
        "rms left / level": float(np.sqrt(np.mean(rings[left] ** 2)) / level),
    }


def raw_of(folder: Path, w: World, r: int) -> Path:
    return folder / "raw" / f"{w.name.replace(' ', '-')}_300K_r{r + 1}.nxs"


def frames_of(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file["entry/data/data"][()])
