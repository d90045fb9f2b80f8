"""Values of pair distributions at vectors against temperature, with what is known of their errors.

Vectors are in unit cells, so that they follow the lattice as it expands; lengths in Å are those of
each scan. At lattice vectors, errors are those of the covariance that the stage `pdf` stored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice
from hklflow.nexus.lattice_vectors import read_covariance
from hklflow.quality.pdf_words import Course
from hklflow.volumes import extrema
from hklflow.volumes.pdf_changes import Changes, Values, changes
from hklflow.volumes.tapers import Taper

if TYPE_CHECKING:
    from hklflow.nexus import OpenVolume
    from hklflow.nexus.stack import Member

Floats = NDArray[np.float64]
Key = tuple[int, int, int]

_ON_NODE = 1e-4  # largest deviation of a lattice vector from integers, in cells
_REFERENCE = 1e-4  # relative error of the scale of the reference, to which others are relative


@dataclass(frozen=True)
class Settings:
    """Settings of the comparison.

    Attributes
    ----------
    vectors : (m, 3) array
        Vectors that the user names, in unit cells.
    number : int
        Number of lattice vectors that are tested, the shortest first.
    rate : float
        Share of false discoveries.
    scale_error : float
        Relative error of a scale beyond that of the series.
    """

    vectors: Floats
    number: int
    rate: float
    scale_error: float


def course(
    members: Sequence["Member"],
    volumes: Sequence["OpenVolume"],
    scales: Mapping[str, tuple[float, float, float]],
    parent: str,
    settings: Settings,
) -> Course:
    """Return the ΔPDF of the scans at lattice vectors and at named vectors, with its changes."""
    scans = [member.scan for member in members]
    reference = scans.index(parent) if parent in scans else len(scans) - 1
    columns = np.array([scales[scan] for scan in scans]).T
    scale, heat = columns[0], columns[2] - columns[2][reference]
    own = np.hypot(columns[1], settings.scale_error)
    if parent not in scans:
        own = np.hypot(own, columns[1][reference])
    own[reference] = _REFERENCE
    usable, notes = _usable(members, volumes)
    common = _common(volumes, usable)
    keys, matrices = list(common), _covariances(volumes, usable, common)
    operations = volumes[reference].notes.get("operations")
    named = _named(settings.vectors, keys, operations, volumes[reference], notes)
    # Lattice vectors first: all that are known, to find what is common.
    tested = np.zeros(len(keys), np.bool_)
    tested[: settings.number] = True
    tested[[i for i in named.known if i is not None]] = True
    every = np.array([*keys, *named.others, *named.untested], dtype=np.float64).reshape(-1, 3)
    value, sigma = _values(volumes, every)
    value, sigma = value / scale[:, None], sigma / scale[:, None]
    for i, matrix in zip(usable, matrices, strict=True):
        sigma[i, : len(keys)] = np.sqrt(np.diag(matrix)) / scale[i]
    n, m = len(keys), len(named.others)
    used = np.array(usable, dtype=np.int64)
    found = None
    spread, least = _heat(volumes[reference], heat)
    temperature = np.array([member.temperature for member in members], dtype=np.float64)
    if len(used) > 1 and np.ptp(temperature[used]) > 0 and (tested.any() or m):
        found = changes(
            Values(
                temperature[used],
                value[used, :n],
                np.array(matrices).reshape(len(used), n, n) / scale[used, None, None] ** 2,
                value[used, n : n + m],
                sigma[used, n : n + m],
                _ripple(volumes[reference], every[: n + m], value[reference], scale[reference]),
                tested,
                -spread[used],
                np.hypot(own, spread)[used],
            ),
            settings.rate,
        )
    shown = np.concatenate([np.flatnonzero(tested), np.arange(n, len(every))])
    in_test = np.concatenate([tested, np.ones(m, bool), np.zeros(len(every) - n - m, bool)])
    whole = np.hypot(sigma, own[:, None] * value)
    apart = np.hypot(sigma, sigma[reference])
    difference = value - value[reference]
    apart = np.hypot(apart, np.where(own > _REFERENCE, own, 0.0)[:, None] * value)
    apart[reference] = 0.0
    metrics = [lattice.metric(volume.cell) for volume in volumes]
    length = np.array([np.sqrt(np.einsum("ni,ij,nj->n", every, g, every)) for g in metrics])
    return Course(
        scans=scans,
        temperature=temperature,
        reference=reference,
        vectors=every[shown],
        length=length[:, shown],
        value=value[:, shown],
        sigma=whole[:, shown],
        difference=difference[:, shown],
        difference_sigma=apart[:, shown],
        tested=in_test[shown],
        used=used,
        changes=None if found is None else _of(found, shown),
        rate=settings.rate,
        heat=least,
        scale_sigma=own,
        notes=notes,
    )


def _of(found: Changes, shown: NDArray[np.int64]) -> Changes:
    """Return the changes of the shown vectors; those that were not tested have NaN."""
    from dataclasses import replace

    n = found.departure.shape[1]
    rows = np.minimum(shown, n - 1)
    beyond = shown >= n
    return replace(
        found,
        departure=np.where(beyond, np.nan, found.departure[:, rows]),
        sigma=np.where(beyond, np.nan, found.sigma[:, rows]),
        chi2=np.where(beyond, np.nan, found.chi2[rows]),
        p=np.where(beyond, np.nan, found.p[rows]),
        changed=found.changed[rows] & ~beyond,
    )


def _usable(
    members: Sequence["Member"], volumes: Sequence["OpenVolume"]
) -> tuple[list[int], list[str]]:
    """Return the scans whose errors are known, and sentences on the others."""
    usable: list[int] = []
    reasons: dict[str, tuple[str, list[str]]] = {}
    for i, (member, volume) in enumerate(zip(members, volumes, strict=True)):
        why = _doubt(volume)
        if why is None:
            usable.append(i)
        else:
            # The same reason with other numbers is one sentence.
            reasons.setdefault(re.sub(r"[\d.]+", "#", why), (why, []))[1].append(member.scan)
    return usable, [
        f"3D-ΔPDF: {', '.join(scans)} not compared with the others: {why}"
        for why, scans in reasons.values()
    ]


def _doubt(volume: "OpenVolume") -> str | None:
    """Return why the errors of a pair distribution are not known, and what to do, or None."""
    stored = read_covariance(volume.group)
    if stored is None:
        return (
            "there is no covariance of its lattice vectors, because kriging was kept for its holes "
            "or it was made without `fill: {spectrum: true}`; use a smaller radius of `fill`"
        )
    grid = volume.grid
    exact = (stored[0] - grid.first) / grid.step
    if np.any(np.abs(exact - np.rint(exact)) > _ON_NODE / grid.step.min()):
        return (
            "lattice vectors are no voxels of it; set `pdf: {sizes}` so that 1 / (size * step of "
            "hkl) divides 1"
        )
    notes = volume.notes
    # Warnings of the fill and earlier stages are among the doubts; others are of the stage `pdf`.
    own = notes.get("metrics", {}).get("warnings", [])
    warnings: list[str] = [text for text in own if text not in volume.doubts]
    return warnings[0] if warnings else None


def _common(volumes: Sequence["OpenVolume"], usable: Sequence[int]) -> dict[Key, list[int]]:
    """Return the lattice vectors of all usable scans but 000, and their number in each scan."""
    found: list[dict[Key, int]] = []
    for i in usable:
        stored = read_covariance(volumes[i].group)
        assert stored is not None
        found.append({_key(vector): k for k, vector in enumerate(stored[0])})
    if not found:
        return {}
    keys = [key for key in found[0] if any(key) and all(key in other for other in found)]
    return {key: [other[key] for other in found] for key in keys}


def _covariances(
    volumes: Sequence["OpenVolume"], usable: Sequence[int], common: Mapping[Key, Sequence[int]]
) -> list[Floats]:
    """Return the covariance (n, n) of the common lattice vectors in each usable scan."""
    matrices = []
    for place, i in enumerate(usable):
        stored = read_covariance(volumes[i].group)
        assert stored is not None
        rows = [numbers[place] for numbers in common.values()]
        matrices.append(stored[1][np.ix_(rows, rows)])
    return matrices


def _key(vector: Floats) -> Key:
    x, y, z = np.rint(vector).astype(int).tolist()
    return x, y, z


@dataclass(frozen=True)
class _Named:
    """Named vectors: numbers of known lattice vectors, others that are tested, and not tested."""

    known: list[int | None]
    others: list[Floats]
    untested: list[Floats]


def _named(
    vectors: Floats,
    keys: Sequence[Key],
    operations: ArrayLike | None,
    volume: "OpenVolume",
    notes: list[str],
) -> _Named:
    """Sort the named vectors by what is known of their errors; add sentences to ``notes``."""
    moves = extrema.operations_of(operations, direct=True)
    mates = {_key(mate): i for i, key in enumerate(keys) for mate in moves @ np.array(key)}
    metric, resolution = lattice.metric(volume.cell), _taper(volume).resolution
    known: list[int | None] = []
    others: list[Floats] = []
    untested: list[Floats] = []
    for vector in vectors:
        off = vector - np.rint(vector)
        name = f"({' '.join(f'{x:.4g}' for x in vector)})"
        if np.abs(off).max() < _ON_NODE:
            number = mates.get(_key(vector))
            if number is not None:
                known.append(number)
                continue
            untested.append(vector)
            notes.append(
                f"3D-ΔPDF: {name} is not tested, because its covariance is not known: it is the "
                "origin, or too far from it"
            )
        elif np.sqrt(off @ metric @ off) < resolution:
            untested.append(vector)
            notes.append(
                f"3D-ΔPDF: {name} is not tested, because it is nearer to {_key(vector)} than the "
                f"resolution of {resolution:.2f} Å and has a part of its errors; name the lattice "
                "vector instead"
            )
        else:
            others.append(vector)
    return _Named(known, others, untested)


def _values(volumes: Sequence["OpenVolume"], vectors: Floats) -> tuple[Floats, Floats]:
    """Return the ΔPDF and its stored errors (T, n); between voxels, linear with the mean σ."""
    grid = volumes[0].grid
    value, sigma = np.full((2, len(volumes), len(vectors)), np.nan)
    for i, vector in enumerate(vectors):
        around = extrema.trilinear(grid, vector)
        assert around is not None  # the stage has checked the vectors
        region, weights = around
        for j, volume in enumerate(volumes):
            value[j, i] = np.sum(weights * volume.group["data"][region])
            sigma[j, i] = np.sum(weights * volume.group["data_errors"][region])
    return value, sigma


def _taper(volume: "OpenVolume") -> Taper:
    notes = volume.notes
    return Taper(notes["taper"]["kind"], float(notes["q_max"]), float(notes["taper"]["flat"]))


def _ripple(volume: "OpenVolume", vectors: Floats, value: Floats, scale: float) -> Floats:
    """Return the image of the peak at the origin at vectors (n, 3)."""
    taper, metric = _taper(volume), lattice.metric(volume.cell)
    grid = volume.grid
    x, y, z = np.rint(-grid.first / grid.step).astype(int)
    origin = float(volume.group["data"][z, y, x]) / scale
    length = np.sqrt(np.einsum("ni,ij,nj->n", vectors, metric, vectors))
    image: Floats = origin * taper.resolution_function(length) / taper.resolution_function(0.0)
    return image


def _heat(volume: "OpenVolume", b: Floats) -> tuple[Floats, Floats]:
    """Return half of -ln of the factor by ΔB (Å²) if S has no envelope, and the factor (T,).

    Peaks of the ΔPDF lose the mean of 1 - exp(-2 ΔB s²) over the taper; with an envelope of S that
    falls with Q they lose less.
    """
    taper = _taper(volume)
    q = np.linspace(0, taper.q_max, 2000)
    weight = taper(q) * q * q
    damping = np.exp(-2 * np.outer(b, (q / (4 * np.pi)) ** 2))
    factor: Floats = damping @ weight / weight.sum()
    return -np.log(factor) / 2, factor
