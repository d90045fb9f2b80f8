"""The 3-D mask against the simulator's halos: recall of what is above 3 σ, loss of what is clean.

A pixel-frame is in a halo if the halo's expected counts exceed 3 σ of the Poisson background
without Bragg spots; it is clean if halo and spots together are below 0.1 σ.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hklflow.images.mask3d import mask_frames
from hklflow.images.masks import flag_value
from hklflow.simulation.frames import (
    Background,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    Ridge,
    ScanModel,
    Simulation,
    module_gaps,
)
from tests.truth.defaults import mask3d_params

FRACTION = 0.02


def scene(gaps: bool, flux: float, sigma: float, seed: int) -> Simulation:
    """A hexagonal crystal with structured diffuse scattering, without its halos."""
    shape, places = module_gaps((2, 2), (160, 160), (8, 8)) if gaps else ((328, 328), ())
    basis = ((1, 0, 0), (0, 1, 0), (1, 1, 0))
    return Simulation(
        DetectorModel(
            shape, 0.12, (168.4, 160.7), (250e-6, 250e-6), (0.01, -0.01), gaps=places,
            halo_sigma=sigma,
        ),
        GoniometerModel(),
        ScanModel(0.0, np.radians(0.5), 120, 0.5, flux=flux, seed=seed),
        CrystalModel(
            (4.75, 4.75, 7.2, 90, 90, 120), (0.4, -0.7, 0.1 * seed), scale=0.5, mosaic=0.004,
            atoms=((0.0, 0.0, 0.0, 2.0), (1 / 3, 2 / 3, 0.25, 1.0), (2 / 3, 1 / 3, 0.75, 1.0)),
        ),
        Diffuse(0.4, ridges=(Ridge(0.8, basis, 0.1, centre=(1 / 3, 1 / 3, 0)),)),
        Background(air=1.0, compton=0.3),
    )  # fmt: skip


def score(simulation: Simulation, dtype: DTypeLike) -> tuple[float, float, int]:
    """Recall of halo voxels, flagged fraction of clean voxels, number of halo voxels."""
    halo_fraction = replace(simulation.detector, halo_fraction=FRACTION)
    with_halo = replace(simulation, detector=halo_fraction)
    without_spots = replace(simulation, crystal=replace(simulation.crystal, scale=0.0))
    bad = ~simulation.live

    def blocks() -> Iterator[NDArray[Any]]:
        for block in with_halo.frames(block=12):
            shown = np.where(block == 2**32 - 1, 0, block)
            limit = np.iinfo(np.dtype(dtype)).max - 1
            yield np.minimum(shown, limit).astype(dtype)

    params = mask3d_params(flag_from=flag_value(np.dtype(dtype)))
    found = np.concatenate(list(mask_frames(blocks(), bad, params)))
    hits = halos = false = clean_voxels = 0
    for start in range(0, 120, 12):
        base = without_spots.expected(start, start + 12)
        spots = simulation.expected(start, start + 12) - base
        halo = with_halo.expected(start, start + 12) - base - (1 - FRACTION) * spots
        noise = np.sqrt(base)
        in_halo = (halo > 3 * noise) & ~bad
        clean = (halo + spots < 0.1 * noise) & ~bad
        flagged = found[start : start + 12]
        hits += int((flagged & in_halo).sum())
        halos += int(in_halo.sum())
        false += int((flagged & clean).sum())
        clean_voxels += int(clean.sum())
    return hits / halos, false / clean_voxels, halos
