"""Are the error bars right? Pulls of merged voxels against the analytic S.

The phantom of registration.py, two settings with everything in N (drift, transmission,
attenuator, polarisation, solid angle, sensor, gaps) and Poisson counts. The truth of a voxel
is S averaged over it (4 x 4 x 4 points). `systematic` is what the finite pixels and their
uneven distribution in a voxel do: rms of (noise-free C / M - truth) / sigma. A made-up
artefact mask leaves out some of the pixel-frames in the rows with a mask.

The second table has a flat S and the same sweep measured twice: the pulls of single voxels
and of the sum, for 12 sub-samples per pixel-frame and few or many photons in it.

    python -m benchmarks.error_bars
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

from dataclasses import replace

import numpy as np

from benchmarks.registration import (
    CELL,
    accumulator,
    expected_blocks,
    merged,
    rotation_of,
    two_settings,
)
from hklflow import geometry
from hklflow.simulation.frames import Diffuse, Simulation
from hklflow.transform import binning, estimator


def truth(simulation: Simulation, grid: binning.Grid, fine: int = 4) -> np.ndarray:
    """Average S (l, k, h) over each voxel."""
    offset = (np.arange(fine) + 0.5) / fine - 0.5
    total = np.zeros(grid.array_shape)
    h, k, l = (grid.axis(i) for i in range(3))  # noqa: E741
    for x in offset:
        for y in offset:
            for z in offset:
                hkl = np.stack(
                    np.broadcast_arrays(
                        (h + x * grid.step[0])[None, None, :],
                        (k + y * grid.step[1])[None, :, None],
                        (l + z * grid.step[2])[:, None, None],
                    ),
                    axis=-1,
                )
                total += simulation.s_of_hkl(hkl)
    return total / fine**3


def made_up_mask(first: int, n: int, shape: tuple[int, int]) -> np.ndarray:
    """Bit-packed blobs of pixel-frames (n, slow, ceil(fast / 8)) that are left out."""
    z, i, j = np.meshgrid(first + np.arange(n), *(np.arange(s) for s in shape), indexing="ij")
    return np.packbits(np.cos(0.31 * z + 1) + np.cos(0.23 * i) + np.cos(0.29 * j) > 1.25, axis=-1)


def volumes(
    simulations: list[Simulation], grid: binning.Grid, samples: tuple[int, int, int], noise: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """[C, M] of everything and [C, M] without the mask, settings merged."""
    total, clean = np.zeros((2, 2, *grid.array_shape))
    for simulation in simulations:
        sums = accumulator(simulation, grid, samples)
        done = 0
        for block in simulation.frames(8) if noise else expected_blocks(simulation):
            sums.add(block, done, made_up_mask(done, len(block), simulation.detector.shape))
            done += len(block)
        total += sums.total()
        clean += sums.clean()
    return list(total), list(clean)


def pulls(counts: np.ndarray, norm: np.ndarray, s_true: np.ndarray) -> np.ndarray:
    """(S - truth) / sigma of the measured voxels."""
    data, errors = estimator.intensity(counts, norm)
    seen = norm > 0
    return (data[seen] - s_true[seen]) / errors[seen]


def repeated() -> None:
    """Print the width of the pulls of a sweep and of the sum of two of the same geometry."""
    flat = replace(two_settings((40, 44), 60)[0], diffuse=Diffuse(flat=1.0))
    grid = binning.Grid.covering(CELL, geometry.q_max(rotation_of(flat)), (0.03, 0.03, 0.05))
    print(
        f"\n{'photons per pixel-frame':>23s} {'one sweep':>10s} {'sum of two':>10s} {'voxels':>8s}"
    )
    for flux in (2.0, 200.0, 3000.0, 50000.0):
        sums = []
        for seed in (1, 2):
            sweep = replace(flat, scan=replace(flat.scan, flux=flux, seed=seed))
            sums.append(merged([sweep], grid, (2, 2, 3), noise=True))
        (c1, m), (c2, _) = sums
        seen = m > 0
        one = (c1[seen] - m[seen]) / np.sqrt(m[seen])
        two = (c1[seen] + c2[seen] - 2 * m[seen]) / np.sqrt(2 * m[seen])
        photons = flux * np.mean(flat.norm()[:, flat.live])
        print(f"{photons:23.1f} {one.std():10.4f} {two.std():10.4f} {len(one):8d}")


def main() -> None:
    """Print mean and width of the pulls."""
    shape, n_frames = (90, 100), 200
    print(
        f"{'counts per voxel':>16s} {'sub-samples':>11s} {'mask':>5s} {'voxels':>7s} "
        f"{'mean':>8s} {'+-':>6s} {'width':>6s} {'+-':>6s} {'systematic':>10s}"
    )
    for step, samples in (((0.05, 0.05, 0.08), (1, 1, 1)), ((0.04, 0.04, 0.065), (2, 2, 2))):
        unit = two_settings(shape, n_frames)
        grid = binning.Grid.covering(CELL, geometry.q_max(rotation_of(unit[0])), step)
        s_true = truth(unit[0], grid)
        without_noise = volumes(unit, grid, samples, noise=False)
        per_voxel = without_noise[0][0].sum() / np.count_nonzero(without_noise[0][1])
        for wanted in (0.3, 3.0, 300.0):
            flux = wanted / per_voxel
            noisy = [replace(s, scan=replace(s.scan, flux=flux)) for s in unit]
            with_noise = volumes(noisy, grid, samples, noise=True)
            rows = zip(("no", "yes"), with_noise, without_noise, strict=True)
            for name, (c, m), (c0, m0) in rows:
                pull = pulls(c, m, s_true)
                seen = m > 0
                off = (c0[seen] / m0[seen] - s_true[seen]) * np.sqrt(m[seen] / s_true[seen])
                print(
                    f"{c.sum() / seen.sum():16.2f} {samples!s:>11s} {name:>5s} {seen.sum():7d} "
                    f"{pull.mean():+8.4f} {1 / np.sqrt(len(pull)):6.4f} {pull.std():6.4f} "
                    f"{1 / np.sqrt(2 * len(pull)):6.4f} {np.sqrt(np.mean(off**2)):10.4f}"
                )
    repeated()


if __name__ == "__main__":
    main()
