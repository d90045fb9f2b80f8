"""Sums of the transform are the same to the last bit, whatever the order of their terms.

    python -m tests.transform.test_binning_order      # digests of all sums, on this processor

The case: a tilted detector on a kappa goniometer; polarisation, solid angle, efficiency and gaps in
the norm of the pixels, drift, transmission and an attenuator in that of the frames; an artefact
mask; flagged and saturated pixels.
"""

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from tests.patience import PATIENCE
from tests.transform.test_binning import (
    covering,
    empty,
    made_up_mask,
    norms,
    rotation_of,
    settings,
)

from hklflow.base.errors import HklflowError
from hklflow.transform import binning

N = 42
SAMPLES = [(1, 1, 1), (2, 2, 1), (1, 4, 4), (1, 3, 1)]
FLAG = 0xFFFFFFFF


@cache
def measured(noisy: bool) -> np.ndarray:
    """Frames as a photon counter or an integrating detector gives them."""
    simulation = settings(shape=(50, 100), n_frames=N, flux=20.0)[0]
    frames = np.concatenate(list(simulation.frames(N)))
    rng = np.random.default_rng(5)
    if noisy:
        return (frames + rng.normal(0.0, 0.1, frames.shape)).astype(np.float32)
    frames[rng.random(frames.shape) < 0.002] = FLAG
    frames[rng.random(frames.shape) < 0.001] = 5000
    return frames


def sums(
    samples: tuple[int, int, int],
    *,
    noisy: bool = False,
    blocks: int = 1,
    held: int = 16,
    threads: int = 1,
    passes: int = 1,
) -> list[np.ndarray]:
    """Counts, norm (and variance) with and without what the mask excludes.

    Parameters
    ----------
    blocks : int
        Of frames, each accumulated for itself, that are then added.
    held : int
        Frames given to an accumulator at a time.
    passes : int
        Over the frames, each for some planes.
    """
    simulation = settings(shape=(50, 100), n_frames=N, flux=20.0)[0]
    grid, frames = covering(simulation), measured(noisy)
    readout = binning.Readout(4000.0)
    names = ["counts", "norm", "clean_counts", "clean_norm"]
    if noisy:
        noise = np.random.default_rng(6).uniform(0.008, 0.012, frames.shape[1:])
        readout = binning.Readout(4000.0, -5.0, noise.astype(np.float32))
        names += ["variance", "clean_variance"]
    found = np.zeros((len(names), *grid.array_shape))
    edges = np.linspace(0, grid.shape[2] // 8, passes + 1).astype(int)[:-1] * 8
    for first, last in zip(edges, [*edges[1:], grid.shape[2]], strict=True):
        for block in range(blocks):
            planes = int(first), int(last)
            part = empty(simulation, grid, samples, readout, planes=planes, threads=threads)
            end = N * (block + 1) // blocks
            for begin in range(N * block // blocks, end, held):
                piece = frames[begin : min(begin + held, end)]
                part.add(piece, begin, made_up_mask(begin, piece.shape))
            for box in part.boxes():
                place = tuple(
                    slice(i, i + n) for i, n in zip(box.first, box.norm.shape, strict=True)
                )
                for volume, name in zip(found, names, strict=True):
                    volume[place] += getattr(box, name)
    return list(found)


def digest(volumes: list[np.ndarray]) -> list[str]:
    return [hashlib.sha256(volume.tobytes()).hexdigest()[:16] for volume in volumes]


@cache
def plain(samples: tuple[int, int, int], noisy: bool = False) -> list[str]:
    """Digests of the sums in one block and one pass."""
    volumes = sums(samples, noisy=noisy)
    assert volumes[0].sum() > volumes[2].sum() > 1000
    # Not a case of whole numbers: most norms need many digits.
    assert len(np.unique(volumes[1])) > 1000
    return digest(volumes)


ORDERS = [
    {"blocks": 2},
    {"blocks": 3, "held": 5},
    {"blocks": 7, "held": 1},
    {"held": 42},
    {"threads": 2},
    {"threads": 4, "held": 7},
    {"passes": 2, "threads": 2},
    {"passes": 5},
    {"blocks": 3, "held": 11, "threads": 4, "passes": 5},
]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("samples", SAMPLES)
def test_no_order_changes_a_bit(samples: tuple[int, int, int], order: dict[str, int]) -> None:
    assert digest(sums(samples, **order)) == plain(samples)


@pytest.mark.parametrize("order", [{"blocks": 3, "held": 5}, {"blocks": 2, "passes": 3}], ids=str)
@pytest.mark.parametrize("samples", [(1, 1, 1), (1, 2, 2)])
def test_no_order_changes_a_bit_of_read_noise(
    samples: tuple[int, int, int], order: dict[str, int]
) -> None:
    assert digest(sums(samples, noisy=True, **order)) == plain(samples, True)


# What numba, numpy and the BLAS are told to believe that they run on: vectors of four numbers, no
# fused multiplication and addition. Haswell, with eight, gives the same too.
OLDER = {
    "NUMBA_CPU_NAME": "nehalem",
    "NUMBA_CPU_FEATURES": "",
    # As numpy 2.4 and as its predecessors name them; of the others' names it warns.
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR AVX2 FMA3 AVX512F AVX512_SKX",
    "OPENBLAS_CORETYPE": "Nehalem",
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of processors by Intel and AMD")
@pytest.mark.slow
def test_no_vector_width_changes_a_bit() -> None:
    expected = [name for samples in SAMPLES for name in plain(samples)] + plain((1, 2, 2), True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.transform.test_binning_order"],
        env=os.environ | OLDER,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.split() == expected


def test_norms_are_rounded_as_little_as_promised() -> None:
    simulation = settings(shape=(50, 100), n_frames=N, flux=20.0)[0]
    frames = np.ones((N, 50, 100), np.uint32)
    # One voxel takes all: 2²² units of each pixel-frame are far beyond 32 bits.
    total = empty(simulation, binning.Grid.symmetric(30.0, 30.0))
    mask = made_up_mask(0, frames.shape)
    for begin in range(0, N, 16):
        total.add(frames[begin : begin + 16], begin, mask[begin : begin + 16])
    left_out = np.unpackbits(mask, axis=-1)[..., :100] == 1
    for (counts, norm), used in (
        (total.total(), np.ones(frames.shape, bool)),
        (total.clean(), ~left_out),
    ):
        n = counts.max()
        true = simulation.norm()[used].sum()
        assert n == np.count_nonzero(used & (simulation.live > 0)) > 1e4
        assert true / total.norm_unit > 2**34
        # Single precision of the factors, and half a unit for each pixel-frame at random.
        assert abs(norm.max() - true) < 5 * np.sqrt(n / 12) * total.norm_unit + 2e-8 * true


def test_many_frames_at_a_time_do_not_overflow() -> None:
    # With one voxel for all, a pixel adds to it on all frames before it is written out.
    simulation = settings(shape=(20, 24), n_frames=1100)[0]
    grid = binning.Grid.symmetric(30.0, 30.0)
    frames = np.ones((1100, 20, 24), np.uint32)
    # As large as they can be: 2²² units each.
    pixel, frame = np.full((20, 24), 0.999), np.ones(1100)
    volumes = []
    for held in (1100, 16):
        part = binning.Accumulator(rotation_of(simulation), simulation.ub, grid, pixel, frame)
        for begin in range(0, 1100, held):
            part.add(frames[begin : begin + held], begin)
        volumes.append(part.total())
    for one, other in zip(*volumes, strict=True):
        assert np.array_equal(one, other)
    assert volumes[0][1].max() == pytest.approx(0.999 * 20 * 24 * 1100, rel=1e-6)


def test_norms_that_would_be_rounded_away_are_refused() -> None:
    simulation = settings(n_frames=20)[0]
    pixel, frame = norms(simulation)
    frame[7] *= 1e6
    made = (rotation_of(simulation), simulation.ub, covering(simulation))
    with pytest.raises(HklflowError, match=r"norm of frame 7 is .* correct its monitor and"):
        binning.Accumulator(*made, pixel, frame)
    frame[7] = 1.0
    pixel[20, 30] = 1e6
    with pytest.raises(
        HklflowError, match=r"norm of pixel 20, 30 is .* the flat field, or mask it"
    ):
        binning.Accumulator(*made, pixel, frame)
    # Attenuated frames, and those without beam, are not.
    pixel[20, 30] = 1.0
    frame[3:5] = 1e-3, 1e-12
    assert binning.Accumulator(*made, pixel, frame).norm_bound == 2.0


if __name__ == "__main__":
    for each in SAMPLES:
        print(*digest(sums(each)))
    print(*digest(sums((1, 2, 2), noisy=True)))
