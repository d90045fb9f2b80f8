"""Scenes and starts for the tuner of the peak search, and what a search finds of the true peaks.

A true peak counts from a significance ``N / sqrt(N + b V)`` of 8 on, with N recorded counts and
the background in the ellipsoid V of two standard deviations, its place on live pixels; weaker ones
count as right if they are found. A spot is right if it is within 1.5 standard deviations (at least
1.5 voxels) of a true peak of any strength. Peaks at the ends of the scan are left out, and spots
at the detector's edges, beyond which the table of true peaks has nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hklflow.bragg import tune
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.peaks.search import PeakFlag, PeakParams, PeakTable, find_peaks
from hklflow.simulation.frames import (
    GAP_VALUE,
    Background,
    Cosine,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    Ridge,
    ScanModel,
    Simulation,
)

LEAST = 8.0  # significance

STARTS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "n_sigma too high": {"n_sigma": 40.0},
    "n_sigma too low": {"n_sigma": 2.0},
    "both too high": {"n_sigma": 25.0, "min_significance": 80.0},
    "window too wide": {"window": 30, "min_significance": 5.0},
    "too few frames": {"max_frames": 4, "min_pixels": 12},
}


def scene(
    seed: int, *, maxima: bool = False, scale: float = 0.02, n_frames: int = 240
) -> Simulation:
    """A hexagonal crystal and smooth diffuse scattering, or such as makes maxima of its own."""
    basis = ((1, 0, 0), (0, 1, 0), (1, 1, 0))
    ridges = (Ridge(0.8, basis, 0.1, centre=(1 / 3, 1 / 3, 0)),)
    smooth = (Cosine(0.3, (1, 0, 0)), Cosine(0.2, (0, 1, 1)))
    return Simulation(
        DetectorModel(
            (200, 200), 0.12, (103.4, 98.7), (400e-6, 400e-6), (0.01, -0.01),
            gaps=((98, 104, 0, 200),),
        ),
        GoniometerModel(),
        ScanModel(0.0, np.radians(0.5), n_frames, 0.5, seed=seed),
        CrystalModel(
            (6.75, 6.75, 9.2, 90, 90, 120), (0.4, -0.7, 0.1 * seed), scale=scale, mosaic=0.004,
            atoms=(
                *((0, 0, 0, 2.0), (1 / 3, 2 / 3, 0.25, 1.0), (2 / 3, 1 / 3, 0.75, 1.0)),
                (0.31, 0.11, 0.13, 0.9),
            ),
            spot_sigma=(1.2, 1.0),
        ),
        Diffuse(0.6, ridges=ridges) if maxima else Diffuse(0.8, cosines=smooth),
        Background(air=1.0, compton=0.3),
    )  # fmt: skip


def rotation_of(simulation: Simulation) -> Rotation:
    """Geometry as simulated."""
    told = simulation.raw_header()
    return Rotation(
        Beam(told["wavelength"], told["polarization"]),
        Detector(told["shape"], told["pixel_size"], told["origin"], told["slow"], told["fast"]),
        Goniometer(told["axis_names"], told["axes"], told["angles"], told["scan_axis"]),
        Scan(told["start"], told["step"], told["n_frames"]),
    )


@dataclass(frozen=True)
class Scene:
    """A simulated scan whose frames are drawn once."""

    simulation: Simulation
    frames: NDArray[np.uint32]

    @classmethod
    def of(cls, simulation: Simulation) -> "Scene":
        return cls(simulation, np.concatenate(list(simulation.frames(block=32))))

    def blocks(self, every: int | None = None) -> list[tune.Block]:
        """Blocks to tune on."""

        def reader(first: int, last: int) -> Callable[[], Iterator[NDArray[Any]]]:
            return lambda: iter([self.frames[first:last]])

        rotation = rotation_of(self.simulation)
        return [
            tune.Block(
                rotation, first, ~self.simulation.live, reader(first, last), float(GAP_VALUE)
            )
            for _, first, last in tune.spread([len(self.frames)], 25, every)
        ]

    def search(self, params: PeakParams) -> PeakTable:
        """Search the whole scan."""
        return find_peaks([self.frames], ~self.simulation.live, params)

    def recall_and_precision(self, params: PeakParams) -> tuple[float, float, int]:
        """Of the whole scan, and the number of true peaks that count."""
        found = self.search(replace(params, invalid_from=float(GAP_VALUE)))
        peaks = found.select((found.flags & int(PeakFlag.SCAN_END)) == 0)
        whole = (peaks.flags & int(PeakFlag.EDGE)) == 0
        true = self.simulation.true_peaks()
        centre = np.stack([true.frame, true.slow, true.fast], axis=1)
        volume = 4 / 3 * np.pi * 8 * np.sqrt(true.sigma**2 + 1 / 12).prod(axis=1)
        significance = true.recorded / np.sqrt(true.recorded + true.background * volume)
        at = np.clip(centre[:, 1:].astype(int), 0, np.array(self.simulation.live.shape) - 1)
        last = len(self.frames)
        inside = (true.frame > 3 * true.sigma[:, 0]) & (true.frame < last - 3 * true.sigma[:, 0])
        counts = inside & (significance >= LEAST) & self.simulation.live[at[:, 0], at[:, 1]]
        place = np.stack([peaks.frame, peaks.slow, peaks.fast], axis=1)
        width = np.maximum(1.5 * true.sigma, 1.5)
        right, hit = np.zeros(len(place), bool), np.zeros(len(centre), bool)
        near = cKDTree(place).query_ball_point(centre, np.linalg.norm(width, axis=1))
        for row, rows in enumerate(near):
            mine = [k for k in rows if (np.abs(place[k] - centre[row]) < width[row]).all()]
            right[mine] = True
            hit[row] = bool(mine)
        return float(hit[counts].mean()), float(right[whole].mean()), int(counts.sum())
