"""Powder image of a geometry calibration, with its profile and the geometry that was refined."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow import __version__
from hklflow.formats.poni import Poni
from hklflow.nexus.default_view import set_view
from hklflow.nexus.entry import add_array, add_group, create

POWDER = "powder"
"""Name of the NXdata with the image; `calibration` of a product names its version in the store."""

Floats = NDArray[np.float64]


def write_powder(
    path: Path,
    counts: Floats,
    profile: tuple[Floats, Floats, Floats],
    rings: Floats,
    poni: Poni,
    *,
    calibrant: str,
    detector: str | None,
) -> None:
    """Write a powder image with the groups and names of NXRefine's `instrument/calibration`.

    Parameters
    ----------
    counts : (slow, fast) array
        NaN for pixels that were not used.
    profile : (n,), (n,), (n,) arrays
        2θ in degrees; mean counts divided by solid angle and polarization, and their error.
    rings : (m,) array
        2θ of the rings in degrees, from the d-spacings.
    poni : Poni
        Refined geometry with a wavelength, in pyFAI's orientation 3: NXRefine gives pyFAI no
        orientation.
    calibrant : str
    detector : str or None
        pyFAI's name of the detector.
    """
    assert poni.wavelength is not None
    with create(path, f"{calibrant} powder calibration", POWDER) as entry:
        axes = ["y_pixel", "x_pixel"]
        group = add_group(entry, POWDER, "NXdata", signal="counts", axes=axes)
        add_array(group, "counts", counts.astype(np.float32))
        for name, n in zip(axes, counts.shape, strict=True):
            add_array(group, name, np.arange(n), "pixel")
        group["title"] = f"{calibrant} powder calibration"
        group["calibrant"] = calibrant
        set_view(group, (), signed=False)
        angle, mean, sigma = profile
        radial = add_group(group, "radial_sum", "NXdata", signal="radial_sum", axes=["polar_angle"])
        add_array(radial, "radial_sum", mean, long_name="mean counts of a pixel, corrected")
        add_array(radial, "radial_sum_errors", sigma)
        add_array(radial, "polar_angle", angle, "degree", long_name="2θ (degrees)")
        q = 4 * np.pi / poni.wavelength * np.sin(np.radians(angle) / 2)
        add_array(radial, "Q", q, "1/angstrom")
        add_array(radial, "ring_polar_angle", rings, "degree")
        radial["title"] = f"{calibrant}, profile with the refined geometry"
        process = add_group(group, "refinement", "NXprocess")
        process["program"], process["version"] = "hklflow", __version__
        parameters = add_group(process, "parameters", "NXparameters")
        parameters["Detector"] = detector or "Detector"
        for name, value in _parameters(poni, poni.wavelength).items():
            parameters[name] = value


def _parameters(poni: Poni, wavelength: float) -> dict[str, Any]:
    """Return the parameters of pyFAI in metres and radians, by NXRefine's names.

    The wavelength is in Å.
    """
    return {
        "PixelSize1": poni.pixel1,
        "PixelSize2": poni.pixel2,
        "Distance": poni.dist,
        "Poni1": poni.poni1,
        "Poni2": poni.poni2,
        "Rot1": poni.rot1,
        "Rot2": poni.rot2,
        "Rot3": poni.rot3,
        "Wavelength": 1e-10 * wavelength,
    }
