"""Positions, widths and intensities of the Bragg spots of a simulated scan."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.simulation import geometry as sg
from hklflow.simulation.detector import DetectorModel
from hklflow.simulation.models import CrystalModel, GoniometerModel, ScanModel

Floats = NDArray[np.float64]

_BEAM = np.array([0.0, 0.0, 1.0])
_ZETA_MIN = 0.03


@dataclass(frozen=True)
class Spots:
    """All spots on the detector during the scan, unsorted; see `find_spots`.

    Attributes
    ----------
    hkl : (n, 3) array
    position, sigma : (n, 3) array
        Centre and standard deviation in (frame, slow, fast).
    intensity : (n,) array
        Integral of S over the reflection, 1/Å³.
    counts : (n,) array
        Expected counts of the whole spot per unit of `ScanModel.frame_factor`.
    zeta : (n,) array
    """

    hkl: Floats
    position: Floats
    sigma: Floats
    intensity: Floats
    counts: Floats
    zeta: Floats


def find_spots(
    detector: DetectorModel, goniometer: GoniometerModel, scan: ScanModel, crystal: CrystalModel
) -> Spots:
    """Find every crossing of the Ewald sphere whose spot overlaps with the scan.

    A reflection lasts ``mosaic / (ζ |step|)`` frames (one standard deviation). Reflections with ζ
    below 0.03 are left out of images and tables.
    """
    k = scan.k
    corners = detector.rays(
        [0, 0, detector.shape[0], detector.shape[0]],
        [0, detector.shape[1], 0, detector.shape[1]],
    )
    hkl, intensity = crystal.reflections(
        1.01 * k * float(np.linalg.norm(corners - _BEAM, axis=1).max())
    )
    # In the frame of the scan axis, beam and axis are fixed, and g rotates.
    outer = sg.chain(goniometer.axes[: goniometer.scan], goniometer.angles[: goniometer.scan])
    inner = sg.chain(
        goniometer.axes[goniometer.scan + 1 :], goniometer.angles[goniometer.scan + 1 :]
    )
    axis = np.asarray(goniometer.axes[goniometer.scan], dtype=np.float64)
    axis /= np.linalg.norm(axis)
    g = np.asarray(inner.apply(hkl @ crystal.ub.T)).reshape(-1, 3)
    angles = sg.crossings(g, axis, np.asarray(outer.inv().apply(_BEAM)), k)
    row, which = np.nonzero(np.isfinite(angles))
    angle = angles[row, which]
    q = np.asarray((outer * sg.turn(axis, angle)).apply(g[row])).reshape(-1, 3)
    slow, fast = detector.project(q / k + _BEAM)
    cross = np.cross(q / k, _BEAM)
    lorentz = np.abs(cross @ np.asarray(outer.apply(axis)))
    zeta = lorentz / np.linalg.norm(cross, axis=1)
    # Below ζ_min a spot lasts so long that a Gaussian in angle is not a valid shape.
    keep = np.isfinite(slow) & (zeta > _ZETA_MIN)
    row, angle, slow, fast = row[keep], angle[keep], slow[keep], fast[keep]
    q, lorentz, zeta = q[keep], lorentz[keep], zeta[keep]
    width = crystal.mosaic / (zeta * abs(scan.step))
    frame = (angle - scan.start) / scan.step
    turn = abs(2 * np.pi / scan.step)
    reach = 6 * width
    low = np.ceil((-reach - frame) / turn)
    count = np.maximum(np.floor((scan.n_frames + reach - frame) / turn) - low + 1, 0)
    again = np.repeat(np.arange(len(frame)), count.astype(np.int64))
    nth = np.arange(len(again)) - np.repeat(np.cumsum(count) - count, count.astype(np.int64))
    frame = frame[again] + turn * (low[again] + nth)
    position = np.stack([frame, slow[again], fast[again]], axis=1)
    spot = np.broadcast_to(crystal.spot_sigma, (len(again), 2))
    sigma = np.column_stack([width[again], spot])
    margin = 6 * np.maximum(spot, detector.halo_sigma if detector.halo_fraction else 0.0)
    on = np.all((position[:, 1:] >= -margin) & (position[:, 1:] <= detector.shape + margin), axis=1)
    rays = (q / k + _BEAM)[again]
    pixel = detector.pixel_size[0] * detector.pixel_size[1] / detector.distance**2
    volume = k**3 * pixel * (rays @ detector.normal) ** 3 * lorentz[again] * abs(scan.step)
    response = detector.response(rays, scan.solid_angle, scan.polarization)
    integral = intensity[row][again]
    return Spots(
        hkl=hkl[row][again][on],
        position=position[on],
        sigma=sigma[on],
        intensity=integral[on],
        counts=(response * integral / volume)[on],
        zeta=zeta[again][on],
    )
