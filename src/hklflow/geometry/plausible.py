"""Detection of implausible numbers; most of them are right numbers in a wrong unit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hklflow.geometry import Detector

WAVELENGTHS = (0.06, 10.0)  # Å
ENERGIES = (1.2, 210.0)  # keV; the range of the wavelengths
DISTANCES = (1e-3, 20.0)  # m
PIXELS = (1e-6, 1e-2)  # m
STEPS = (1e-5, 90.0)  # degrees; rocking curves use 0.0005° and less
FARTHEST = 1e6  # degrees; an axis without stops may count thousands of revolutions
COLDEST, HOTTEST = 1e-3, 5000.0  # K; the coldest is a dilution refrigerator
# From the smallest current of an electrometer in A to all photons of a source in an hour.
# With all other factors of the norm, such numbers and their squares fit well in a float.
MONITORS = (1e-15, 1e18)
EXPOSURES = (1e-15, 1e5)  # s; from the shortest pulse to about a day
FAINTEST = 1e-12  # transmission; below it, no photon of a beam is left
SATURATIONS = (1.0, 1e20)  # counts; 64-bit counters saturate below 1e20
DEPTHS = (1e-4, 1e6)  # thickness of a sensor divided by its attenuation length
NUMBERS = (1e-30, 1e30)  # any other setting; squares and quotients must also be finite
LENGTHS, ANGLES = (1.0, 2000.0), (10.0, 170.0)  # of unit cells: Å, degrees


def wavelength_problem(value: float) -> str | None:
    """Return the reason why a wavelength (Å) is implausible for X-rays; None if plausible."""
    low, high = WAVELENGTHS
    if low <= value <= high:
        return None
    return (
        f"wavelength {value:g} Å is outside the range of X-rays, {low:g} to {high:g} Å (entered in "
        "nm, m or eV?): set `wavelength` in Å"
    )


def energy_problem(value: float) -> str | None:
    """Return the reason why an energy (keV) is implausible for X-rays; None if plausible."""
    low, high = ENERGIES
    if low <= value <= high:
        return None
    return (
        f"energy {value:g} keV is outside the range of X-rays, {low:g} to {high:g} keV (entered in "
        "eV?): set `energy` in keV"
    )


def attenuation_problem(value: float) -> str | None:
    """Return the reason why a transmission of attenuators is implausible; None if plausible."""
    if FAINTEST < value <= 1:
        return None
    return (
        f"transmission {value:g} of the attenuators is not plausible (above {FAINTEST:g}, at most "
        "1): set `import_scan: attenuation`"
    )


def tiny_or_huge(data: Any, name: str = "") -> Iterator[str]:
    """Yield a sentence for each implausible number in nested settings."""
    low, high = NUMBERS
    if isinstance(data, Mapping):
        for key, inner in data.items():
            yield from tiny_or_huge(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(data, list | tuple):
        for inner in data:
            yield from tiny_or_huge(inner, name)
    elif isinstance(data, float) and data != 0 and not low <= abs(data) <= high:
        yield f"{name}: {data:g} is not plausible ({low:g} to {high:g}, or 0); correct the number"


def detector_problem(detector: "Detector") -> str | None:
    """Return the reason why a detector (pixels, position) is implausible; None if plausible."""
    sizes = detector.pixel_size
    if min(detector.shape) < 1:
        return f"a detector cannot have {detector.shape} pixels: correct the geometry"
    if (problem := pixel_problem(sizes)) is not None:
        return problem
    slow, fast = (0.5 * n * size for n, size in zip(detector.shape, sizes, strict=True))
    far = math.hypot(*(detector.origin + slow * detector.slow + fast * detector.fast))
    low, high = DISTANCES
    if not low <= far <= high:
        return (
            f"detector centre {far:g} m from the sample is outside the plausible range {low:g} to "
            f"{high:g} m (entered in mm?): correct the geometry"
        )
    if None not in (detector.sensor_thickness, detector.sensor_attenuation):
        return _sensor_problem(detector.sensor_thickness or 0, detector.sensor_attenuation or 0)
    return None


def pixel_problem(sizes: tuple[float, float]) -> str | None:
    """Return the reason why a pixel size (slow, fast) in m is implausible; None if plausible."""
    low, high = PIXELS
    if all(low <= size <= high for size in sizes):
        return None
    return (
        f"pixel size {sizes[0]:g} x {sizes[1]:g} m is outside the plausible range {low:g} to "
        f"{high:g} m (entered in mm or µm?): correct the geometry"
    )


def _sensor_problem(thickness: float, attenuation: float) -> str | None:
    (low, high), depth = DEPTHS, thickness * attenuation
    if thickness > 0 and low <= depth <= high:
        return None
    return (
        f"a sensor of {thickness:g} m with attenuation {attenuation:g} 1/m is not plausible: its "
        f"thickness is {depth:g} attenuation lengths, outside {low:g} to {high:g}: correct the "
        "geometry"
    )


def setting_problem(name: str, degrees: float) -> str | None:
    """Return the reason why the angle of a goniometer axis is implausible; None if plausible."""
    if abs(degrees) <= FARTHEST:
        return None
    return (
        f"goniometer axis {name} at {degrees:g}° is outside the plausible range {-FARTHEST:g} to "
        f"{FARTHEST:g}°: write `{name}=degrees` in the scan table"
    )


def exposure_problem(value: float) -> str | None:
    """Return the reason why an exposure time (s) is implausible; None if plausible."""
    low, high = EXPOSURES
    if low <= value <= high:
        return None
    return (
        f"exposure time {value:g} s is outside the plausible range {low:g} to {high:g} s: set "
        "`import_scan: exposure` in seconds"
    )


def saturation_problem(value: float) -> str | None:
    """Return the reason why a saturation (counts) is implausible; None if plausible.

    0 (no saturation) is plausible.
    """
    low, high = SATURATIONS
    if value == 0 or low <= value <= high:
        return None
    return (
        f"saturation {value:g} counts is outside the plausible range {low:g} to {high:g}: set "
        "`saturation`"
    )


def step_problem(start: float, step: float) -> str | None:
    """Return the reason why start or step (degrees) of a scan is implausible; None if plausible."""
    low, high = STEPS
    if abs(start) <= FARTHEST and low <= abs(step) <= high:
        return None
    return (
        f"a scan from {start:g}° in steps of {step:g}° is not plausible (steps {low:g} to "
        f"{high:g}°): write `axis=start:step` in degrees in the scan table"
    )


def radian_doubt(start: float, step: float, n_frames: int) -> str | None:
    """Return a question if the range of a scan is 90, 180 or 360° in radians; else None."""
    length = n_frames * abs(step)
    for turn in (90.0, 180.0, 360.0):
        if math.isclose(length, math.radians(turn), rel_tol=1e-4):
            return (
                f"the scan's {n_frames} frames cover {length:.6g}°, which equals {turn:g}° in "
                "radians; are the angles in radians? Write `axis=start:step` in degrees in the "
                f"scan table: {math.degrees(start):g}:{math.degrees(step):g} if they are, else "
                f"{start:g}:{step:.9g}"
            )
    return None


def cell_problem(cell: Sequence[float]) -> str | None:
    """Return the reason why a unit cell (Å, degrees) is implausible; None if plausible."""
    (low, high), (least, most) = LENGTHS, ANGLES
    if all(low <= x <= high for x in cell[:3]) and all(least <= x <= most for x in cell[3:]):
        return None
    return (
        f"the cell {' '.join(f'{x:g}' for x in cell)} is not plausible (lengths {low:g} to "
        f"{high:g} Å, angles {least:g} to {most:g}°; entered in nm or radians?); enter it in Å "
        "and degrees"
    )


def temperature_problem(value: float) -> str | None:
    """Return the reason why a temperature (K) is implausible; None if plausible."""
    # Simulations use 0 K.
    if value == 0 or COLDEST <= value <= HOTTEST:
        return None
    return (
        f"temperature {value:g} K is outside the plausible range {COLDEST:g} to {HOTTEST:g} K "
        "(entered in °C?): set it in K in the scan table"
    )
