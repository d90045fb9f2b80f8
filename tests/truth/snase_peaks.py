"""Peaks of the nuclease frames, against the model that DIALS refined."""

import json
from dataclasses import dataclass

import fabio
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hklflow.peaks.search import PeakFlag, PeakTable, find_peaks
from tests.truth.defaults import peak_params
from tests.truth.peaks import table


def snase_hkl(model, beam, z, y, x):
    """Miller indices, not rounded. DIALS's frame: beam along -z, spindle +x, 1 degree a frame."""
    detector, k = model["detector"], 1 / model["wavelength_A"]
    place = np.array(detector["origin_mm"]) + 0.08 * (
        np.outer(x, detector["fast"]) + np.outer(y, detector["slow"])
    )
    s0 = np.array([beam[0], beam[1], -1.0])
    s = k * (place / np.linalg.norm(place, axis=1, keepdims=True) - s0 / np.linalg.norm(s0))
    cos, sin = np.cos(np.radians(z)), np.sin(np.radians(z))
    s = np.stack([s[:, 0], cos * s[:, 1] + sin * s[:, 2], cos * s[:, 2] - sin * s[:, 1]], 1)
    return s @ np.linalg.inv(model["A_UB_invA"]).T


@dataclass
class Snase:
    """Peaks of the nuclease frames, the fitted beam, and what is left of the residuals."""

    peaks: PeakTable
    beam: NDArray[np.float64]
    indexed: NDArray[np.bool_]
    offset: NDArray[np.float64]


def search_snase(folder) -> Snase:
    """Search the frames and compare with DIALS's refined model.

    The reference leaves out the direction of the beam, which DIALS refined: its two angles
    are fitted to the peaks.
    """
    model = json.loads((folder / "reference.json").read_text())["model"]
    frames = [fabio.open(str(name)).data for name in sorted(folder.glob("*.img"))]
    mask = np.all([frame == 0 for frame in frames], axis=0)  # outside the CCD
    params = peak_params(gain=None, saturation=65534)
    peaks = find_peaks((f[None] for f in frames), mask, params, scan_frames=10)

    def miss(beam):
        hkl = snase_hkl(model, beam, peaks.frame, peaks.slow, peaks.fast)
        return hkl - np.rint(hkl)

    beam = least_squares(
        lambda b: np.clip(miss(b), -0.25, 0.25).ravel(), [-0.002, 0.0], diff_step=1e-2
    ).x
    indexed = np.abs(miss(beam)).max(axis=1) < 0.25
    # Frames and pixels that would bring the measured to the predicted Q, to first order.
    use = indexed & ((peaks.flags & (PeakFlag.SCAN_END | PeakFlag.MOMENTS)) == 0)
    at = table(peaks)[use]
    here = snase_hkl(model, beam, *at.T)
    steps = np.stack(
        [(snase_hkl(model, beam, *(at + step).T) - here) / 1e-3 for step in 1e-3 * np.eye(3)], 2
    )
    offset = np.linalg.solve(steps, (np.rint(here) - here)[..., None])[..., 0]
    return Snase(peaks, beam, indexed, offset)
