"""Numbers that no experiment has. Most of them are good ones in another unit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hklflow.geometry import Detector

WAVELENGTHS = (0.06, 10.0)  # Å
ENERGIES = (1.2, 210.0)  # keV: the same
DISTANCES = (1e-3, 20.0)  # m
PIXELS = (1e-6, 1e-2)  # m
STEPS = (1e-5, 90.0)  # degrees: rocking curves have 0.0005° and less
FARTHEST = 1e6  # degrees: an axis without stops may count thousands of turns
COLDEST, HOTTEST = 1e-3, 5000.0  # K; nothing is measured below a dilution refrigerator's
# From the least current of an electrometer in A to all photons that a source makes in an hour.
# With all other factors of the norm such numbers and their squares are far from those of floats.
MONITORS = (1e-15, 1e18)
EXPOSURES = (1e-15, 1e5)  # s: from the shortest pulse to a day
FAINTEST = 1e-12  # of a transmission: no photon is left of a beam
SATURATIONS = (1.0, 1e20)  # counts; those of 64 bits end before
DEPTHS = (1e-4, 1e6)  # thickness of a sensor over its length of attenuation
NUMBERS = (1e-30, 1e30)  # of any other setting: their squares and quotients are numbers, too
LENGTHS, ANGLES = (1.0, 2000.0), (10.0, 170.0)  # of cells: Å, degrees


def wavelength_problem(value: float) -> str | None:
    """Say why a wavelength in Å is none of X-rays, if so."""
    low, high = WAVELENGTHS
    if low <= value <= high:
        return None
    return (
        f"a wavelength of {value:g} Å cannot be one of X-rays ({low:g} to {high:g} Å; is it in nm, "
        "m or eV?): set `wavelength` in Å"
    )


def energy_problem(value: float) -> str | None:
    """Say why an energy in keV is none of X-rays, if so."""
    low, high = ENERGIES
    if low <= value <= high:
        return None
    return (
        f"an energy of {value:g} keV cannot be one of X-rays ({low:g} to {high:g} keV; is it in "
        "eV?): set `energy` in keV"
    )


def attenuation_problem(value: float) -> str | None:
    """Say why a transmission of attenuators cannot be, if so."""
    if FAINTEST < value <= 1:
        return None
    return (
        f"a transmission of the attenuators of {value:g} cannot be (above {FAINTEST:g}, at most "
        "1): set `attenuation`"
    )


def tiny_or_huge(data: Any, name: str = "") -> Iterator[str]:
    """Say which numbers of nested settings are none that anybody measures or sets."""
    low, high = NUMBERS
    if isinstance(data, Mapping):
        for key, inner in data.items():
            yield from tiny_or_huge(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(data, list | tuple):
        for inner in data:
            yield from tiny_or_huge(inner, name)
    elif isinstance(data, float) and data != 0 and not low <= abs(data) <= high:
        yield f"{name}: {data:g} cannot be ({low:g} to {high:g}, or 0, can); correct the number"


def detector_problem(detector: "Detector") -> str | None:
    """Say why pixels or place of a detector cannot be, if so."""
    sizes = detector.pixel_size
    if min(detector.shape) < 1:
        return f"a detector of {detector.shape} pixels cannot be: mend the geometry"
    if (problem := pixel_problem(sizes)) is not None:
        return problem
    slow, fast = (0.5 * n * size for n, size in zip(detector.shape, sizes, strict=True))
    far = math.hypot(*(detector.origin + slow * detector.slow + fast * detector.fast))
    low, high = DISTANCES
    if not low <= far <= high:
        return (
            f"the detector's centre is {far:g} m from the sample ({low:g} to {high:g} m can be; is "
            "it in mm?): mend the geometry"
        )
    if None not in (detector.sensor_thickness, detector.sensor_attenuation):
        return _sensor_problem(detector.sensor_thickness or 0, detector.sensor_attenuation or 0)
    return None


def pixel_problem(sizes: tuple[float, float]) -> str | None:
    """Say why pixels cannot have a size (slow, fast) in m, if so."""
    low, high = PIXELS
    if all(low <= size <= high for size in sizes):
        return None
    return (
        f"pixels of {sizes[0]:g} x {sizes[1]:g} m cannot be ({low:g} to {high:g} m can; are "
        "they in mm or µm?): mend the geometry"
    )


def _sensor_problem(thickness: float, attenuation: float) -> str | None:
    (low, high), depth = DEPTHS, thickness * attenuation
    if thickness > 0 and low <= depth <= high:
        return None
    return (
        f"a sensor of {thickness:g} m that attenuates by {attenuation:g} 1/m cannot be (it would "
        f"be {depth:g} lengths of attenuation thick; {low:g} to {high:g} can be): mend the geometry"
    )


def setting_problem(name: str, degrees: float) -> str | None:
    """Say why an axis of the goniometer cannot stand at an angle, if so."""
    if abs(degrees) <= FARTHEST:
        return None
    return (
        f"the goniometer axis {name} cannot stand at {degrees:g}° ({-FARTHEST:g} to "
        f"{FARTHEST:g}° can be): give `{name}=degrees` in the scan table"
    )


def exposure_problem(value: float) -> str | None:
    """Say why an exposure time in s cannot be, if so."""
    low, high = EXPOSURES
    if low <= value <= high:
        return None
    return (
        f"the exposure time is {value:g} s ({low:g} to {high:g} s can be): set `exposure` in "
        "seconds"
    )


def saturation_problem(value: float) -> str | None:
    """Say why a saturation in counts cannot be, if so; 0 says that there is none."""
    low, high = SATURATIONS
    if value == 0 or low <= value <= high:
        return None
    return f"a saturation of {value:g} counts cannot be ({low:g} to {high:g} can): set `saturation`"


def step_problem(start: float, step: float) -> str | None:
    """Say why a scan cannot start there or have such frames (degrees), if so."""
    low, high = STEPS
    if abs(start) <= FARTHEST and low <= abs(step) <= high:
        return None
    return (
        f"a scan from {start:g}° in steps of {step:g}° cannot be ({low:g} to {high:g}° can): give "
        "`axis=start:step` in degrees in the scan table"
    )


def radian_doubt(start: float, step: float, n_frames: int) -> str | None:
    """Ask if angles that a file has in degrees are radians: 90, 180 or 360° would be the range."""
    length = n_frames * abs(step)
    for turn in (90.0, 180.0, 360.0):
        if math.isclose(length, math.radians(turn), rel_tol=1e-4):
            return (
                f"the scan's {n_frames} frames are {length:.6g}° long, which are the radians of "
                f"{turn:g}°; are the angles in radians? Give `axis=start:step` in degrees in the "
                f"scan table: {math.degrees(start):g}:{math.degrees(step):g} if they are, else "
                f"{start:g}:{step:.9g}"
            )
    return None


def cell_problem(cell: Sequence[float]) -> str | None:
    """Say why a cell (Å, degrees) is none of a crystal, if so."""
    (low, high), (least, most) = LENGTHS, ANGLES
    if all(low <= x <= high for x in cell[:3]) and all(least <= x <= most for x in cell[3:]):
        return None
    return (
        f"the cell {' '.join(f'{x:g}' for x in cell)} cannot be (lengths of {low:g} to {high:g} Å, "
        f"angles of {least:g} to {most:g}° can; is it in nm or radians?); give it in Å and degrees"
    )


def temperature_problem(value: float) -> str | None:
    """Say why a temperature in K cannot be, if so."""
    # Simulations are of 0 K.
    if value == 0 or COLDEST <= value <= HOTTEST:
        return None
    return (
        f"a temperature of {value:g} K cannot be (0, or {COLDEST:g} to {HOTTEST:g} K; is it in "
        "°C?): set it in K in the scan table"
    )
