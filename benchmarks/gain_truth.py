"""Gain from the noise of frames, compared with the truth in simulated cameras.

``python -m benchmarks.gain_truth WORLDS SEED [--waves]`` draws cameras (gain 0.3 to 5 ADU per
photon, read noise 0 to 10 ADU, light that spreads by 0 to 1 pixels) and scattering of 0.5 to 50
photons per pixel. With ``--waves``, the scattering changes by 10 to 50 % with a period of 4 to 40
frames. The result has the pulls (gain - truth) / error of all gains with an error below 5 %.
"""

import argparse
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hklflow.images.gain_estimate import FRAMES, Estimate, NoiseLine

SIDE, GROUPS = 256, 12
LARGEST_ERROR = 0.05


class World(NamedTuple):
    """Camera and scattering; gain, offset and noise in ADU, wave in frames and pixels."""

    gain: float
    read_noise: float
    spread: float
    photons: float
    change: float = 0.0
    period: float = 12.0
    length: float = 60.0
    offset: float = 40.0


def drawn(rng: np.random.Generator, waves: bool) -> World:
    """Return a world at random."""
    gain, photons = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in ((0.3, 5), (0.5, 50)))
    world = World(gain, rng.uniform(0, 10), rng.uniform(0, 1), photons)
    if not waves:
        return world
    period, length = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in ((4, 40), (12, 200)))
    return world._replace(change=rng.uniform(0.1, 0.5), period=period, length=length)


def adu(world: World, first: int, rng: np.random.Generator, frames: int) -> NDArray[np.int32]:
    """Return consecutive frames: a broad maximum, a wave, and a beam that fluctuates by 3 %."""
    y, x = np.indices((SIDE, SIDE))
    rate = world.photons * (0.3 + 1.7 * np.exp(-((x - 110) ** 2 + (y - 140) ** 2) / (2 * 60**2)))
    blocks = []
    for frame in range(first, first + frames):
        phase = 2 * np.pi * (x / world.length + 0.3 * y / world.length + frame / world.period)
        beam = 1 + 0.03 * rng.standard_normal()
        light = rng.poisson(rate * beam * (1 + world.change * np.sin(phase))).astype(np.float64)
        if world.spread:
            light = gaussian_filter(light, world.spread, mode="wrap")
        noise = world.read_noise * rng.standard_normal(light.shape)
        blocks.append(np.rint(world.gain * light + world.offset + noise))
    return np.array(blocks, np.int32)


def measured(world: World, seed: int) -> NoiseLine:
    """Return the noise of all groups of frames of a world."""
    rng = np.random.default_rng(seed)
    line = NoiseLine(world.offset)
    for group in range(GROUPS):
        frames = adu(world, 5 * FRAMES * group, rng, FRAMES)
        line.add(frames, np.zeros((SIDE, SIDE), bool))
    return line


def row(world: World, estimate: Estimate) -> tuple[bool, float, float, float]:
    """Return if the gain is accepted, its relative error, its pull, and the excess in errors."""
    error = estimate.gain_error / estimate.gain
    pull = (estimate.gain - world.gain) / estimate.gain_error
    accepted = 0 < error < LARGEST_ERROR and not estimate.coarse
    return accepted, error, pull, estimate.excess / estimate.excess_error


def main() -> None:
    """Print a row for each world, and the pulls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("worlds", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--waves", action="store_true")
    given = parser.parse_args()
    kept: dict[str, list[tuple[float, float, float]]] = {"noise known": [], "noise fitted": []}
    for seed in range(given.seed, given.seed + given.worlds):
        world = drawn(np.random.default_rng(seed), given.waves)
        line = measured(world, seed)
        estimates = line.result(float(np.hypot(world.read_noise, 12**-0.5))), line.result()
        print(seed, *(f"{number:.3g}" for number in world[:7]), end="")
        for name, estimate in zip(kept, estimates, strict=True):
            accepted, error, pull, excess = row(world, estimate)
            refused = "" if accepted else " refused"
            print(f" | {error:7.2%} {pull:6.2f} {excess:5.1f}{refused}", end="")
            if accepted:
                kept[name].append((pull, error, estimate.gain / world.gain - 1))
        print(flush=True)
    for name, rows in kept.items():
        pulls, errors, off = np.array(rows).reshape(-1, 3).T
        print(
            f"{name}: {len(pulls)} of {given.worlds} accepted, pull {pulls.mean():.2f} ± "
            f"{pulls.std() / np.sqrt(len(pulls)):.2f}, width {pulls.std():.2f}, median error "
            f"{np.median(errors):.2%}, largest deviation {np.abs(off).max():.1%}"
        )


if __name__ == "__main__":
    main()
