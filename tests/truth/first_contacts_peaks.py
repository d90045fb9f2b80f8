"""Peak tables of first contacts, without images: the strongest crossings with small errors."""

import numpy as np

from hklflow import geometry
from hklflow.geometry import Rotation
from hklflow.geometry.correction import Correction
from hklflow.orientation.residuals import Peaks
from tests.truth.first_contacts import Contact
from tests.truth.first_contacts_crystal import Array, crossings
from tests.truth.first_contacts_write import Stated

_ERROR = 0.1  # pixels and frames


def stated_rotation(s: Stated, wavelength: float) -> Rotation:
    """Return a rotation as its header states it."""
    corner = np.array([0, 0, s.distance]) - s.pixel * (s.centre[0] * s.slow + s.centre[1] * s.fast)
    flat = geometry.Detector(s.shape, (s.pixel * 1e-3,) * 2, corner * 1e-3, s.slow, s.fast)
    arm = s.arm * s.arm_axis
    names = [name for name, _ in s.axes]
    return Rotation(
        geometry.Beam(wavelength, 0.99),
        Correction(arm=(float(arm[0]), float(arm[1]), float(arm[2]))).applied(flat),
        geometry.Goniometer(
            tuple(names),
            np.array([axis for _, axis in s.axes]),
            np.radians([s.sweep.angles[name] for name in names]),
            names.index(s.sweep.scanned),
        ),
        geometry.Scan(np.radians(s.start), np.radians(s.step), s.sweep.n_frames),
    )


def observed(c: Contact, most: int = 300) -> tuple[list[Rotation], list[Peaks], Array]:
    """Return the stated rotations, at most so many peaks of each, and the intensities of all."""
    rng = np.random.default_rng([c.seed, 23])
    peaks, strength = [], []
    for sweep in c.sweeps:
        spots = crossings(c.crystal, sweep, c.wavelength)
        position = np.stack([spots[name] for name in ("frame", "slow", "fast")], axis=1)
        size = np.array([sweep.n_frames, *sweep.detector.shape])
        inside = np.all((position > 2) & (position < size - 2), axis=1) & (spots["width"] < 6)
        best = np.flatnonzero(inside)[np.argsort(-spots["strength"][inside])][:most]
        place = position[best] + rng.normal(0, _ERROR, (len(best), 3))
        variance = np.full(len(best), _ERROR**2)
        frame, slow, fast = place.T
        peaks.append(Peaks(frame, slow, fast, variance, variance, variance))
        strength.append(spots["strength"][best])
    rotations = [stated_rotation(s, s.wavelength) for s in c.stated]
    return rotations, peaks, np.concatenate(strength)
