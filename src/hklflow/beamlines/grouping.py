"""Grouping of single rotations into scans: one sample at one temperature."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hklflow.beamlines import FoundScan, Request, name, scan_name
from hklflow.beamlines.tree import Guess, guess
from hklflow.formats.header import Header

_SAME_TEMPERATURE = 0.5  # K; control is better than this, and steps of series are larger
_NOMINAL = 1.0  # K; largest deviation of a temperature from the one in the name
_SAME_ANGLE = 0.02  # degrees


@dataclass(frozen=True)
class Single:
    """A rotation, with the texts for its names.

    Attributes
    ----------
    found : FoundScan
        The rotation; sample, scan and rotation are still empty.
    stem : str
        Name of the file or series without the frame number.
    sample : str
        Sample in the header; empty: not stated.
    """

    found: FoundScan
    stem: str
    sample: str = ""


def grouped(request: Request, singles: Sequence[Single]) -> list[FoundScan]:
    """Name rotations: rotations of one sample and temperature form a scan.

    The temperature is from the header, else from the name. All rows of a scan have the same
    temperature: the one in the name if it agrees approximately, else the mean. Without any
    temperature, names that differ only in the rotation number form a scan.
    """
    samples: dict[str, list[tuple[Single, Guess]]] = {}
    for single in singles:
        words = guess(single.stem)
        sample = request.sample or single.sample or words.sample or single.stem
        # Different texts may give the same name: the original text is kept.
        original = replace(single.found, original=(sample, "", ""))
        samples.setdefault(name(sample), []).append((replace(single, found=original), words))
    found = []
    for sample, members in samples.items():
        for scan, rotations in _scans(members).items():
            found += _named(sample, scan, rotations)
    return sorted(found, key=lambda one: (one.sample, one.scan, one.rotation))


def _scans(
    members: Sequence[tuple[Single, Guess]],
) -> dict[str, list[tuple[Single, Guess, float | None]]]:
    """Group the rotations of one sample by the name of their scan."""
    scans: dict[str, list[tuple[Single, Guess, float | None]]] = {}
    warm = [(_temperature(one, words), one, words) for one, words in members]
    means = common([t for t, _, _ in warm if t is not None])
    for temperature, one, words in warm:
        if temperature is None:
            original = words.scan or words.sample or one.stem
            called = replace(one.found, original=(one.found.original[0], original, ""))
            one = replace(one, found=called)
            scans.setdefault(name(original), []).append((one, words, None))
            continue
        mean = means[temperature]
        # A name with about the same temperature is the usual name of the scan, and stays
        # the same when further rotations are added.
        nominal = words.temperature
        if nominal is not None and _alike(nominal, mean):
            scans.setdefault(name(words.scan), []).append((one, words, nominal))
        else:
            scans.setdefault(scan_name(mean, ""), []).append((one, words, mean))
    return scans


def common(temperatures: Sequence[float]) -> dict[float, float]:
    """Return the scan temperature of each: neighbours within 0.5 K are one scan with their mean.

    Means are rounded to 0.1 K.
    """
    clusters: list[list[float]] = []
    for temperature in sorted(temperatures):
        if clusters and temperature - clusters[-1][-1] <= _SAME_TEMPERATURE:
            clusters[-1].append(temperature)
        else:
            clusters.append([temperature])
    return {t: round(float(np.mean(cluster)), 1) for cluster in clusters for t in cluster}


def _temperature(one: Single, words: Guess) -> float | None:
    measured = one.found.header.temperature
    return words.temperature if measured is None else measured


def _named(
    sample: str, scan: str, members: Sequence[tuple[Single, Guess, float | None]]
) -> list[FoundScan]:
    found: list[FoundScan] = []
    names: set[str] = set()
    settings: dict[tuple[object, ...], str] = {}
    for number, (one, words, mean) in enumerate(members, start=1):
        notes = list(one.found.notes)
        rotation = name(words.rotation) if words.rotation else f"r{number}"
        while rotation in names:
            rotation += "b"
        names.add(rotation)
        setting = _setting(one.found)
        if setting is not None and setting in settings:
            notes.append(f"same goniometer setting as {settings[setting]}: a repetition?")
        elif setting is not None:
            settings[setting] = rotation
        notes += _guesses(one, words, sample, mean)
        header = one.found.header
        if mean is not None:
            header = replace(header, temperature=mean)
        found.append(
            replace(
                one.found,
                sample=sample,
                scan=scan,
                rotation=rotation,
                header=header,
                notes=tuple(notes),
                original=(*one.found.original[:2], words.rotation),
            )
        )
    return found


def _alike(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and abs(a - b) < _NOMINAL


def _guesses(one: Single, words: Guess, sample: str, mean: float | None) -> list[str]:
    """Return notes about facts that only the file name states."""
    measured = one.found.header.temperature
    told = []
    if not one.sample and name(words.sample or one.stem) == sample:
        told.append(f"sample {sample}")
    if measured is None and words.temperature is not None:
        told.append(f"{words.temperature:g} K")
    notes = [f"guessed from the name {one.stem}: {', '.join(told)}"] if told else []
    if words.scan.startswith("m") and words.temperature is None:
        notes.append(f"{words.scan} is not a temperature in K; it is used only as a name")
    if None not in (measured, words.temperature) and not _alike(measured, words.temperature):
        notes.append(f"the name says {words.temperature:g} K, the header {measured:g} K")
    if measured is None and one.found.header.temperature_doubt is not None:
        notes.append(one.found.header.temperature_doubt)
    if measured is None and mean is None:
        notes.append("no temperature, neither in the header nor in the name")
    elif measured is not None and mean is not None and abs(measured - mean) > 0.05:
        notes.append(f"the header says {measured:.6g} K, the scan has {mean:g} K")
    return notes


def _setting(found: FoundScan) -> tuple[object, ...] | None:
    """Return the goniometer settings and the scan's start; None if unknown."""
    header = found.header
    if header.goniometer is None and not found.goniometer:
        return None
    start = None if header.start_deg is None else round(header.start_deg / _SAME_ANGLE)
    if header.goniometer is None:
        return (found.goniometer, start)
    degrees = np.degrees(np.delete(header.goniometer.angles, header.goniometer.scan))
    return (*(round(angle / _SAME_ANGLE) for angle in degrees), start)


def stated(facts: Header, *, but: Sequence[str] = ("temperature",)) -> bool:
    """Return True if the user states facts that must be written to a light scan file."""
    return any(value is not None for key, value in vars(facts).items() if key not in but)
