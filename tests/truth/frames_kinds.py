"""What can happen to frames: each kind changes the world and returns a record; see frames.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.truth.worlds_draft import Record, random_direction
from tests.truth.worlds_physics import (
    Array,
    aluminium_rings,
    ice_rings,
    powder_spots,
)

if TYPE_CHECKING:
    from tests.truth.frames_world import FrameWorld

RING_WIDTH = 0.004  # standard deviation of a powder ring, relative to |Q|


def _a_scan(w: FrameWorld, rng: np.random.Generator) -> tuple[int, int]:
    """Return a scan and its number of frames."""
    return int(rng.integers(len(w.beam))), w.beam.shape[1]


def _shutter(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    """Close the shutter for a share of a scan; the monitor before it counts on."""
    r, n = _a_scan(w, rng)
    length = max(1, round(size * n))
    first = int(rng.integers(round(0.1 * n), max(round(0.9 * n) - length, round(0.1 * n) + 1)))
    w.beam[r, first : first + length] = 0
    if what == "seen":
        w.monitor[r, first : first + length] = 0
    return {"rotation": r, "first": first, "last": first + length - 1}


def _dying_beam(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    """Let the beam fall to 1 − size over all scans; the monitor follows."""
    fall = np.exp(np.log1p(-size) * np.linspace(0, 1, w.beam.size)).reshape(w.beam.shape)
    w.beam *= fall
    w.monitor *= fall
    return {"fall": fall}


def _monitor_lies(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    """Let the beam fall under a constant monitor, or put wrong counts into the monitor."""
    if what == "constant":
        monitor = w.monitor.copy()
        record = _dying_beam(w, rng, size, what)
        w.monitor = monitor
        return record
    n = w.monitor.shape[1]
    r, frames = int(rng.integers(len(w.monitor))), rng.choice(n, max(3, n // 60), replace=False)
    factor = np.exp(rng.choice([-1, 1], len(frames)) * rng.uniform(0.5, 1.5, len(frames)))
    w.monitor[r, frames] *= factor
    return {"rotation": r, "frames": frames, "factor": factor}


def _overloads(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    """Saturate at the highest pixel of the reflection that a share `size` is stronger than."""
    rows = np.concatenate([w.passages(r)[0] for r in range(len(w.beam))])
    highest = rows[:, 4] / (2 * np.pi * rows[:, 3] ** 2)
    seen = highest[highest > 5 * (w.air + w.diffuse)]
    if not len(seen):
        raise ValueError("no reflection stands out of the background: nothing can saturate")
    w.saturation = max(20, int(np.quantile(seen, 1 - size)))
    return {"saturation": w.saturation}


def _afterglow(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    w.afterglow = size
    return {}


def _module_shift(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    module, angle = int(rng.integers(1, len(w.shift))), rng.uniform(0, 2 * np.pi)
    w.shift[module] = size * np.array([np.sin(angle), np.cos(angle)])
    return {"module": module, "shift": w.shift[module].copy()}


def _flat_field(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    """Let sensitivities spread by `size`: of modules, of pixels."""
    if what == "modules":
        factor = rng.normal(1, size, len(w.shift))[np.maximum(w.module, 0)]
    else:
        factor = rng.normal(1, size, w.shape)
    w.sensitivity = w.sensitivity * np.clip(factor, 0.5, 1.5)
    return {"spread": float(factor.std())}


def _leaves_beam(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    """Take a share `size` of the crystal out of the beam around one angle, 40° to 100° wide."""
    r, n = _a_scan(w, rng)
    step = abs(w.sample.scans[r].step)
    centre, width = rng.uniform(0.2, 0.8) * n, rng.uniform(40, 100) / step
    x = np.clip(np.abs(np.arange(n) + 0.5 - centre) / width * 2, 0, 1)
    w.illuminated[r] *= 1 - size * np.cos(np.pi / 2 * x) ** 2
    return {"rotation": r, "frame": centre, "width": width}


def _absorption(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    """Absorb in a plate or a needle of μt = size, half of it before and half after scattering."""
    axis = random_direction(rng)  # normal of the plate, axis of the needle, in the frame of U

    def path(cosine: Array) -> Array:
        across = cosine**2 if what == "plate" else 1 - cosine**2
        return size / 2 / np.sqrt(across + 0.04)

    def transmission(world: FrameWorld, r: int, z: int) -> Array:
        turn, _, k, _ = world.sample.state(r, z + 0.5)
        lab, s = turn[0] @ axis, world._rays[0]
        into = path(np.asarray(k[0] @ lab / np.linalg.norm(k[0])))
        return np.exp(-into - path(lab @ s)).reshape(world.shape)

    w.transmission = transmission
    return {"axis": axis}


def diamond_rings() -> tuple[Array, Array]:
    """Return |Q| (1/Å) and strength of the powder rings of diamond."""
    hkl = np.array([[1, 1, 1], [2, 2, 0], [3, 1, 1], [4, 0, 0], [3, 3, 1]])
    strength = np.array([100, 25, 16, 8, 16.0])
    return 2 * np.pi / 3.567 * np.linalg.norm(hkl, axis=1), strength


def _rings(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    """Add powder rings whose strongest is `size` times the background, smooth or of grains."""
    material, _, texture = what.partition("-")
    lines = {"ice": ice_rings, "aluminium": aluminium_rings, "diamond": diamond_rings}
    q, strength = lines[material]()
    inside = q < w.draft.q_max
    q, strength = q[inside], strength[inside]
    record = {"q": q}
    if not len(q):
        return record | {"seen": False}
    if texture == "grains":
        n = round(400 * size * len(w.beam))
        rows = powder_spots(w.sample, q, strength, n, rng)
        rows["intensity"] = rows["intensity"] * (0.5 + w.air)
        w.grains.append(rows)
        return record | {"seen": True, "grains": n}
    level = size * (w.air + w.diffuse) / strength.max()

    def rings(world: FrameWorld) -> Array:
        image = np.zeros(world.shape)
        for at, height in zip(q, strength, strict=True):
            image += level * height * np.exp(-(((world.q - at) / at / RING_WIDTH) ** 2) / 2)
        return image

    w.rings = rings
    return record | {"seen": True}


def _coarse_steps(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    return {"step": w.sample.scans[0].step}  # frame_world has made them so


def _hot_pixels(w: FrameWorld, rng: np.random.Generator, size: float, what: str) -> Record:
    """Let a share `size` of the pixels be dead, stuck, hot or noisy, none of them flagged."""
    n = max(4, round(size * w.module.size))
    at = rng.choice(np.nonzero(w.module.ravel() >= 0)[0], n, replace=False)
    dead, stuck, hot, noisy = np.array_split(at, 4)
    held = rng.integers(1, 5000, len(stuck))
    rate = np.exp(rng.uniform(np.log(20), np.log(20000), len(hot)))
    burst = np.exp(rng.uniform(np.log(50), np.log(2000), len(noisy)))

    def defects(counts: np.ndarray, each: np.random.Generator) -> None:
        flat = counts.reshape(-1)
        flat[dead] = 0
        flat[stuck] = held
        flat[hot] += each.poisson(rate).astype(np.uint32)
        flat[noisy] += (each.exponential(burst) * (each.random(len(noisy)) < 0.5)).astype(np.uint32)

    w.defects = defects
    places = {"dead": dead, "stuck": stuck, "hot": hot, "noisy": noisy}
    return {k: np.stack(np.unravel_index(v, w.shape), 1) for k, v in places.items()}


def diffuse_crystals(effects: Sequence[Record]) -> list[tuple[Array, float]]:
    """Return rotation and share of each crystal that records of kinds tell of."""
    crystals = [(np.eye(3), 1.0)]
    for record in effects:
        if "rotation_matrix" in record:
            T: Any = record["rotation_matrix"]
            share: Any = record["share"]
            rest = [(C, c * (1 - share)) for C, c in crystals]
            crystals = rest + [(T @ C, c * share) for C, c in crystals]
    return crystals


@dataclass(frozen=True)
class FrameRule:
    make: Callable[[FrameWorld, np.random.Generator, float, str], Record]
    low: float = 0.0  # range of size, drawn logarithmically
    high: float = 0.0
    variants: tuple[str, ...] = ("",)


FRAME_KINDS = {
    "shutter": FrameRule(_shutter, 0.01, 0.2, ("seen", "unseen")),  # share of the frames
    "dying_beam": FrameRule(_dying_beam, 0.2, 0.8),  # relative fall
    "monitor_lies": FrameRule(_monitor_lies, 0.2, 0.8, ("constant", "spikes")),  # relative fall
    "overloads": FrameRule(_overloads, 0.005, 0.1),  # share of the strong frames of reflections
    "afterglow": FrameRule(_afterglow, 0.005, 0.05),  # share of the counts of the frame before
    "module_shift": FrameRule(_module_shift, 1, 3),  # pixels
    "flat_field": FrameRule(_flat_field, 0.05, 0.05, ("modules", "pixels")),  # relative
    "leaves_beam": FrameRule(_leaves_beam, 0.2, 0.9),  # share of the crystal
    "absorption": FrameRule(_absorption, 0.3, 1.5, ("plate", "needle")),  # μt
    "rings": FrameRule(  # of the background
        _rings, 0.3, 3, ("ice", "ice-grains", "aluminium", "aluminium-grains", "diamond")
    ),
    "coarse_steps": FrameRule(_coarse_steps, 2, 2),  # degrees
    "hot_pixels": FrameRule(_hot_pixels, 2e-4, 2e-3),  # share of the pixels
}
