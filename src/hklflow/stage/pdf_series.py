"""Values of pair distributions at vectors against temperature, with their errors.

Values between voxels are interpolated linearly; σ is the weighted mean of those of the voxels. The
true error may be smaller: the noise of neighbouring voxels is correlated over the resolution,
and the correlations are not stored. Values are not averaged over the resolution, because the error
of a mean would need these correlations, and because a voxel is about as large as the resolution.

Vectors are in unit cells, so that they follow the lattice as it expands; lengths in Å are those of
each scan. At lattice vectors, errors are those of the covariance that the stage `pdf` stored. Scans
whose errors lack a doubt of the stage `fill` are not compared.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.nexus.lattice_vectors import read_covariance
from hklflow.nexus.stack_pdf import Vectors
from hklflow.quality.pdf_words import Course, vector_name
from hklflow.volumes import extrema
from hklflow.volumes.pdf_changes import Changes, Values, changes
from hklflow.volumes.tapers import Taper

if TYPE_CHECKING:
    from hklflow.nexus import OpenVolume
    from hklflow.nexus.stack import Member

Floats = NDArray[np.float64]
Key = tuple[int, int, int]
Stored = tuple[Floats, Floats]
"""Lattice vectors (n, 3) and their covariance (n, n)."""

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
    temperature = np.array([member.temperature for member in members], dtype=np.float64)
    stored = [read_covariance(volume.group) for volume in volumes]
    used, notes = _usable(scans, volumes, stored)
    if len(np.unique(temperature[used])) < 2:
        used = used[:0]
    known = np.array([i for i, x in enumerate(stored) if x is not None], dtype=np.int64)
    keys, matrices = _common([x for x in stored if x is not None])
    # All known lattice vectors help to find what is common.
    chosen = np.arange(len(keys)) < settings.number
    named = _Named([], [], [*settings.vectors])
    if len(used):
        named = _named(settings.vectors, keys, volumes[used[-1]], notes)
        chosen[named.known] = True
    n, m = len(keys), len(named.others)
    every = np.array([*keys, *named.others, *named.untested], dtype=np.float64).reshape(-1, 3)
    at = values_at(every, volumes)
    value, sigma = at.value.T / scale[:, None], at.sigma.T / scale[:, None]
    sigma[known, :n] = np.sqrt(np.einsum("tnn->tn", matrices)) / scale[known, None]
    found, least = None, np.ones(len(scans))
    if len(used) and chosen.sum() + m > 0:
        taper = _taper(volumes[used[-1]])
        least = _heat(taper, heat)
        # S falls with Q, so that peaks lose less than that: half of it, give or take half.
        half = np.log(least) / 2
        origin = values_at(np.zeros((1, 3)), volumes).value[0, reference] / scale[reference]
        image = taper.resolution_function(at.length[: n + m, reference])
        found = changes(
            Values(
                temperature[used],
                value[used, :n],
                matrices[np.isin(known, used)] / scale[used, None, None] ** 2,
                value[used, n : n + m],
                sigma[used, n : n + m],
                origin * image / taper.resolution_function(0.0),
                chosen,
                half[used],
                np.hypot(own, half)[used],
            ),
            settings.rate,
        )
    shown = np.concatenate([np.flatnonzero(chosen), np.arange(n, len(every))])
    tested = (np.arange(len(every)) < n + m) & (found is not None)
    apart = np.hypot(np.hypot(sigma, sigma[reference]), own[:, None] * value)
    apart[reference] = 0.0
    return Course(
        scans=scans,
        temperature=temperature,
        reference=reference,
        vectors=every[shown],
        length=at.length.T[:, shown],
        value=value[:, shown],
        sigma=np.hypot(sigma, own[:, None] * value)[:, shown],
        difference=(value - value[reference])[:, shown],
        difference_sigma=apart[:, shown],
        tested=tested[shown],
        used=used,
        changes=None if found is None else _of(found, shown),
        rate=settings.rate,
        heat=least,
        scale_sigma=own,
        notes=notes,
    )


def values_at(vectors: ArrayLike, volumes: Sequence["OpenVolume"]) -> Vectors:
    """Return the ΔPDF at vectors (n, 3) in all volumes; between voxels it is linear, σ the mean.

    Raises
    ------
    HklflowError
        If a vector is outside of the volumes.
    """
    grid = volumes[0].grid
    xyz = np.array(vectors, dtype=np.float64).reshape(-1, 3)
    length, value, sigma = np.empty((3, len(xyz), len(volumes)))
    metrics = [lattice.metric(volume.cell) for volume in volumes]
    for i, vector in enumerate(xyz):
        around = extrema.trilinear(grid, vector)
        if around is None:
            limits = ", ".join(f"{grid.axis(j)[0]:g} to {grid.axis(j)[-1]:g}" for j in range(3))
            raise HklflowError(
                f"vectors: {' '.join(f'{x:g}' for x in vector)} is outside the pair "
                f"distributions ({limits}); remove this vector, or transform with finer steps of "
                "hkl, which extends the pair distributions"
            )
        region, weights = around
        for j, volume in enumerate(volumes):
            length[i, j] = np.sqrt(vector @ metrics[j] @ vector)
            value[i, j] = np.sum(weights * volume.group["data"][region])
            sigma[i, j] = np.sum(weights * volume.group["data_errors"][region])
    return Vectors(xyz, length, value, sigma)


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
    scans: Sequence[str], volumes: Sequence["OpenVolume"], stored: Sequence[Stored | None]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the scans whose errors are known, and sentences on the others."""
    usable: list[int] = []
    reasons: dict[str, tuple[str, list[str]]] = {}
    for i, (scan, volume, own) in enumerate(zip(scans, volumes, stored, strict=True)):
        why = _doubt(volume, own)
        if why is None:
            usable.append(i)
        else:
            # The same reason with other numbers is one sentence.
            reasons.setdefault(re.sub(r"[\d.]+", "#", why), (why, []))[1].append(scan)
    return np.array(usable, dtype=np.int64), [
        f"3D-ΔPDF: {', '.join(names)} not compared with other scans: {why}"
        for why, names in reasons.values()
    ]


def _doubt(volume: "OpenVolume", stored: Stored | None) -> str | None:
    """Return why the errors of a pair distribution are not known, and what to do, or None."""
    if volume.not_in_sigma:
        return volume.not_in_sigma[0]
    if stored is None:
        return (
            "there is no covariance of lattice vectors, because kriging was kept for the holes, or "
            "`fill: {spectrum: false}` is set; use a smaller radius of `fill`"
        )
    grid = volume.grid
    exact = (stored[0] - grid.first) / grid.step
    if np.any(np.abs(exact - np.rint(exact)) > _ON_NODE / grid.step.min()):
        return (
            "lattice vectors are no voxels; set `pdf: {sizes}` so that 1 / (size * step of hkl) "
            "divides 1"
        )
    # Warnings of the fill and earlier stages are among the doubts; others are of the stage `pdf`.
    own = volume.notes.get("metrics", {}).get("warnings", [])
    warnings: list[str] = [text for text in own if text not in volume.doubts]
    return warnings[0] if warnings else None


def _common(stored: Sequence[Stored]) -> tuple[list[Key], Floats]:
    """Return the lattice vectors of all scans but 000, and their covariances (T, n, n)."""
    numbers = [{_key(vector): k for k, vector in enumerate(own[0])} for own in stored]
    first = numbers[0] if numbers else {}
    keys = [key for key in first if any(key) and all(key in other for other in numbers)]
    matrices = np.zeros((len(stored), len(keys), len(keys)))
    for matrix, own, places in zip(matrices, stored, numbers, strict=True):
        rows = [places[key] for key in keys]
        matrix[:] = own[1][np.ix_(rows, rows)]
    return keys, matrices


def _key(vector: Floats) -> Key:
    x, y, z = np.rint(vector).astype(int).tolist()
    return x, y, z


@dataclass(frozen=True)
class _Named:
    """Named vectors: numbers of known lattice vectors, others that are tested, and not tested."""

    known: list[int]
    others: list[Floats]
    untested: list[Floats]


def _named(vectors: Floats, keys: Sequence[Key], volume: "OpenVolume", notes: list[str]) -> _Named:
    """Sort the named vectors by what is known of their errors; add sentences to ``notes``."""
    moves = extrema.operations_of(volume.notes.get("operations"), direct=True)
    mates = {_key(mate): i for i, key in enumerate(keys) for mate in moves @ np.array(key)}
    metric, resolution = lattice.metric(volume.cell), _taper(volume).resolution
    named = _Named([], [], [])
    for vector in vectors:
        off = vector - np.rint(vector)
        name = f"3D-ΔPDF: {vector_name(vector)} is not tested, because"
        if np.abs(off).max() < _ON_NODE and _key(vector) in mates:
            named.known.append(mates[_key(vector)])
        elif np.abs(off).max() < _ON_NODE:
            named.untested.append(vector)
            notes.append(f"{name} it has no covariance: it is the origin, or too long")
        elif np.sqrt(off @ metric @ off) < resolution:
            named.untested.append(vector)
            notes.append(
                f"{name} it is nearer to {vector_name(np.rint(vector))} than the resolution of "
                f"{resolution:.2f} Å and has a part of its errors; name the lattice vector"
            )
        else:
            named.others.append(vector)
    return named


def _taper(volume: "OpenVolume") -> Taper:
    notes = volume.notes
    return Taper(notes["taper"]["kind"], float(notes["q_max"]), float(notes["taper"]["flat"]))


def _heat(taper: Taper, b: Floats) -> Floats:
    """Return the factor (T,) by which ΔB (Å²) reduces the peaks if S does not fall with Q.

    It is the mean of exp(-2 ΔB s²) over the taper, with s = |Q|/4π.
    """
    q = np.linspace(0, taper.q_max, 2000)
    weight = taper(q) * q * q
    factor: Floats = np.exp(-2 * np.outer(b, (q / (4 * np.pi)) ** 2)) @ weight / weight.sum()
    return factor
