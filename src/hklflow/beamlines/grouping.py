"""Rotations that were found one by one become scans: one sample at one temperature."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hklflow.beamlines import FoundScan, Request, name, scan_name
from hklflow.beamlines.tree import Guess, guess
from hklflow.formats.header import Header

_SAME_TEMPERATURE = 0.5  # K; control is better than that, and series have wider steps
_NOMINAL = 1.0  # K, by which a temperature may be off the one in the name
_SAME_ANGLE = 0.02  # degrees


@dataclass(frozen=True)
class Single:
    """A rotation that was found, and what names it.

    Attributes
    ----------
    found : FoundScan
        Its sample, scan and rotation are still empty.
    stem : str
        Name of its file or series without the frame's number.
    sample : str
        As its header has it; empty: not said.
    """

    found: FoundScan
    stem: str
    sample: str = ""


def grouped(request: Request, singles: Sequence[Single]) -> list[FoundScan]:
    """Name rotations: those of one sample and temperature are one scan.

    The temperature is that of the header, else of the name. The rows of a scan share one: that in
    the name if it is about the same, else the mean.
    Without any each name is a scan of its own, but for the number of the rotation.
    """
    samples: dict[str, list[tuple[Single, Guess]]] = {}
    for single in singles:
        words = guess(single.stem)
        sample = request.sample or single.sample or words.sample or single.stem
        # Other texts may make the same name: what they are is kept.
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
    """Rotations of one sample by the name of their scan."""
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
        # A name that says about the same is what people call the scan: it stays as scans come in.
        nominal = words.temperature
        if nominal is not None and _alike(nominal, mean):
            scans.setdefault(name(words.scan), []).append((one, words, nominal))
        else:
            scans.setdefault(scan_name(mean, ""), []).append((one, words, mean))
    return scans


def common(temperatures: Sequence[float]) -> dict[float, float]:
    """Temperature of the scan to which each belongs: neighbours within 0.5 K are one, their mean.

    Means are to a tenth of a kelvin.
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
            notes.append(f"the goniometer stood as for {settings[setting]}: a repetition?")
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
    """Say what only the file's name tells."""
    measured = one.found.header.temperature
    told = []
    if not one.sample and name(words.sample or one.stem) == sample:
        told.append(f"sample {sample}")
    if measured is None and words.temperature is not None:
        told.append(f"{words.temperature:g} K")
    notes = [f"guessed from the name {one.stem}: {', '.join(told)}"] if told else []
    if words.scan.startswith("m") and words.temperature is None:
        notes.append(f"{words.scan} is no temperature in K: it is taken for a name only")
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
    """Settings of the goniometer and the scan's start; None if they are not known."""
    header = found.header
    if header.goniometer is None and not found.goniometer:
        return None
    start = None if header.start_deg is None else round(header.start_deg / _SAME_ANGLE)
    if header.goniometer is None:
        return (found.goniometer, start)
    degrees = np.degrees(np.delete(header.goniometer.angles, header.goniometer.scan))
    return (*(round(angle / _SAME_ANGLE) for angle in degrees), start)


def stated(facts: Header, *, but: Sequence[str] = ("temperature",)) -> bool:
    """Whether a user states facts that must be written beside the raw file."""
    return any(value is not None for key, value in vars(facts).items() if key not in but)
