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
    scans = []
    for sample, members in samples.items():
        for scan, rotations in _scans(members).items():
            scans += _named(sample, scan, rotations)
    return sorted(scans, key=lambda rotation: (rotation.sample, rotation.scan, rotation.rotation))


def _scans(
    members: Sequence[tuple[Single, Guess]],
) -> dict[str, list[tuple[Single, Guess, float | None]]]:
    """Group the rotations of one sample by the name of their scan."""
    scans: dict[str, list[tuple[Single, Guess, float | None]]] = {}
    warm = [(_temperature(single, words), single, words) for single, words in members]
    means = common([t for t, _, _ in warm if t is not None])
    for temperature, single, words in warm:
        if temperature is None:
            original = words.scan or words.sample or single.stem
            called = replace(single.found, original=(single.found.original[0], original, ""))
            single = replace(single, found=called)
            scans.setdefault(name(original), []).append((single, words, None))
            continue
        mean = means[temperature]
        # A name with about the same temperature is the usual name of the scan, and stays
        # the same when further rotations are added.
        nominal = words.temperature
        if nominal is not None and _alike(nominal, mean):
            scans.setdefault(name(words.scan), []).append((single, words, nominal))
        else:
            scans.setdefault(scan_name(mean, ""), []).append((single, words, mean))
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


def _temperature(single: Single, words: Guess) -> float | None:
    measured = single.found.header.temperature
    return words.temperature if measured is None else measured


def _named(
    sample: str, scan: str, members: Sequence[tuple[Single, Guess, float | None]]
) -> list[FoundScan]:
    scans: list[FoundScan] = []
    names: set[str] = set()
    settings: dict[tuple[object, ...], str] = {}
    for number, (single, words, mean) in enumerate(members, start=1):
        notes = list(single.found.notes)
        rotation = name(words.rotation) if words.rotation else f"r{number}"
        while rotation in names:
            rotation += "b"
        names.add(rotation)
        setting = _setting(single.found)
        if setting is not None and setting in settings:
            notes.append(f"same goniometer setting as {settings[setting]}: a repetition?")
        elif setting is not None:
            settings[setting] = rotation
        notes += _guesses(single, words, sample, mean)
        header = single.found.header
        if mean is not None:
            header = replace(header, temperature=mean)
        scans.append(
            replace(
                single.found,
                sample=sample,
                scan=scan,
                rotation=rotation,
                header=header,
                notes=tuple(notes),
                original=(*single.found.original[:2], words.rotation),
            )
        )
    return scans


def _alike(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and abs(a - b) < _NOMINAL


def _guesses(single: Single, words: Guess, sample: str, mean: float | None) -> list[str]:
    """Return notes about facts that only the file name states."""
    measured = single.found.header.temperature
    guessed = []
    if not single.sample and name(words.sample or single.stem) == sample:
        guessed.append(f"sample {sample}")
    if measured is None and words.temperature is not None:
        guessed.append(f"{words.temperature:g} K")
    notes = [f"guessed from the name {single.stem}: {', '.join(guessed)}"] if guessed else []
    if words.scan.startswith("m") and words.temperature is None:
        notes.append(f"{words.scan} is not a temperature in K; it is used only as a name")
    if None not in (measured, words.temperature) and not _alike(measured, words.temperature):
        notes.append(f"the name says {words.temperature:g} K, the header {measured:g} K")
    if measured is None and single.found.header.temperature_doubt is not None:
        notes.append(single.found.header.temperature_doubt)
    if measured is None and mean is None:
        notes.append("no temperature, neither in the header nor in the name")
    elif measured is not None and mean is not None and abs(measured - mean) > 0.05:
        notes.append(f"the header says {measured:.6g} K, the scan has {mean:g} K")
    return notes


def _setting(scan: FoundScan) -> tuple[object, ...] | None:
    """Return the goniometer settings and the scan's start; None if unknown."""
    header = scan.header
    if header.goniometer is None and not scan.goniometer:
        return None
    start = None if header.start_deg is None else round(header.start_deg / _SAME_ANGLE)
    if header.goniometer is None:
        return (scan.goniometer, start)
    degrees = np.degrees(np.delete(header.goniometer.angles, header.goniometer.scan))
    return (*(round(angle / _SAME_ANGLE) for angle in degrees), start)


def stated(facts: Header, *, but: Sequence[str] = ("temperature",)) -> bool:
    """Return True if the user states facts that must be written to a light scan file."""
    return any(value is not None for key, value in vars(facts).items() if key not in but)
