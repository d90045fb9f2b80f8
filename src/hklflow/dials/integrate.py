"""Integrate with DIALS as the engine.

DIALS gets a copy of the frames, the model of hklflow, and the strong spots that DIALS found, with
the indices of hklflow. DIALS learns its profiles, and sums and fits the counts. These are raw
counts: Lorentz factor, polarisation and efficiency are separate columns of DIALS, which are not
used. Volume and norm of hklflow replace these columns, so that intensities have the same unit as
with the engine of hklflow.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from hklflow.base.errors import HklflowError
from hklflow.bragg.measurement import Measurement
from hklflow.bragg.predicted import swept_volume
from hklflow.bragg.reflections import ReflectionFlag, Reflections
from hklflow.dials.frames import FRAMES, STRONG, flat, search, write_frames
from hklflow.dials.programs import Dials, find, workspace
from hklflow.geometry import Rotation, lattice
from hklflow.geometry.symmetry import SpaceGroup
from hklflow.images.scan import RotationScan
from hklflow.orientation.residuals import compare

Floats = NDArray[np.float64]

_INDEXED, _INDEXED_REFL = "indexed.expt", "indexed.refl"
_INTEGRATED, _INTEGRATED_REFL = "integrated.expt", "integrated.refl"

# Bits of the column `flags` of DIALS.
_SUMMED, _FITTED, _OVERLOADED, _OVERLAPPED = 256, 512, 1024, 4096
_BAD_PIXELS, _MODELLED = 16384, 65536

_NEAR = 0.25  # largest deviation of h, k, l from integers for an indexed spot
_WHOLE = 0.995  # fraction of the rocking curve below which a reflection is partial
_WIDE = 3.0  # distance of the ends of a box from its centre, in widths of the rocking curve
_MISSING = 0.005  # largest fraction of the rocking curve on frames without a norm
_OBSERVED = 3.0  # smallest I/σ of a reflection with a useful centroid
_WARNED = 0.5  # pixels; larger displacements of modules are reported, because DIALS ignores them


def integrate(
    measurement: Measurement,
    scan: RotationScan,
    ub: ArrayLike,
    group: SpaceGroup,
    *,
    dials: Dials | None = None,
    d_min: float | None = None,
    min_zeta: float,
    min_recorded: float,
    threads: int = 1,
) -> Reflections:
    """Integrate one rotation with DIALS, with a fixed model.

    Parameters
    ----------
    measurement : Measurement
        Measurement with the refined rotation.
    scan : RotationScan
        Imported scan.
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π.
    group : SpaceGroup
    dials : Dials, optional
        Programs of DIALS. None: the programs on PATH.
    d_min : float, optional
        Smallest d-spacing, Å. None: all reflections that DIALS predicts.
    min_zeta : float
        Reflections with a smaller ζ are flagged ``LONG``.
    min_recorded : float
        Smallest part of the rocking curve that must be recorded to determine an intensity.
    threads : int

    Returns
    -------
    Reflections
        Reflections sorted by frame, in the unit of `bragg.reflections`: the counts of DIALS, times
        the volume and divided by the norm of hklflow. Sums are divided by the recorded part of the
        rocking curve.

    Raises
    ------
    HklflowError
        If DIALS is absent, fails, or cannot read these frames.
    """
    dials = find() if dials is None else dials
    plane = flat(measurement.rotation)
    ub = np.asarray(ub, dtype=np.float64)
    _warn_of_modules(measurement.rotation)
    with workspace("integrate") as folder:
        table = _run(dials, measurement, scan, plane, ub, group, folder, threads)
    reflections = _translated(table, measurement, ub, group, min_zeta, min_recorded)
    return reflections if d_min is None else reflections.select(reflections.d >= d_min)


def _warn_of_modules(rotation: Rotation) -> None:
    modules = rotation.detector.modules
    if modules is not None and np.max(np.abs(modules.shift)) > _WARNED:
        print(
            f"note: modules are displaced by up to {np.max(np.abs(modules.shift)):.2f} pixels; "
            "DIALS integrates without these displacements"
        )


def _run(
    dials: Dials,
    measurement: Measurement,
    scan: RotationScan,
    plane: Rotation,
    ub: Floats,
    group: SpaceGroup,
    folder: Path,
    threads: int,
) -> dict[str, NDArray[Any]]:
    """Integrate with DIALS and return the columns of its table."""
    from hklflow.formats.dials_expt import write_expt
    from hklflow.formats.dials_peaks import peaks_to_refl, refl_to_peaks
    from hklflow.formats.dials_refl import read_refl, write_refl
    from hklflow.geometry.model import Model

    blocks = iter(measurement.blocks())
    first = next(blocks)
    bad = ~(measurement.pixel_norm > 0)
    trusted = write_frames(folder / FRAMES, scan, plane, bad, chain([first], blocks), first.dtype)
    search(dials, folder, threads)
    strong = read_refl(folder / STRONG)
    spots, _, rows = refl_to_peaks(strong, plane)
    miller = plane.hkl(ub, spots.frame, spots.slow, spots.fast)
    hkl = np.rint(miller).astype(np.int64)
    indexed = (np.abs(miller - hkl).max(axis=1, initial=0.0) < _NEAR) & np.any(hkl != 0, axis=1)
    if not indexed.any():
        raise HklflowError(
            f"none of the {len(spots)} spots of {scan.raw} that DIALS found is at a reflection of "
            "the model; check the orientation"
        )
    model = Model(
        plane, ub, group.hall, raw=str(folder / FRAMES), name="rotation", trusted_range=trusted
    )
    identifier = write_expt(folder / _INDEXED, [model])[0]
    table = peaks_to_refl(spots, plane, identifier=identifier, hkl=hkl, indexed=indexed)
    # DIALS learns the profiles from shoeboxes.
    extra: dict[str, NDArray[Any]] = {
        name: strong.columns[name][rows] for name in ("shoebox", "bbox") if name in strong.columns
    }
    position = np.stack([spots.slow, spots.fast, spots.frame], axis=1)
    off = compare(plane, ub, hkl.astype(np.float64), position)[0]
    off[~np.isfinite(off)] = 0.0  # not indexed
    extra["xyzcal.px"] = table.columns["xyzobs.px.value"] - off[:, [1, 0, 2]]
    extra["flags"] = table.columns["flags"] | strong.columns["flags"][rows]
    write_refl(folder / _INDEXED_REFL, table.with_columns(extra).select(indexed))
    arguments = [_INDEXED, _INDEXED_REFL, f"nproc={threads}"]
    arguments += [f"output.experiments={_INTEGRATED}", f"output.reflections={_INTEGRATED_REFL}"]
    products = dials.run("dials.integrate", arguments, folder, _INTEGRATED, _INTEGRATED_REFL)
    return read_refl(products[1]).columns


def _translated(
    table: Mapping[str, NDArray[Any]],
    measurement: Measurement,
    ub: Floats,
    group: SpaceGroup,
    min_zeta: float,
    min_recorded: float,
) -> Reflections:
    """Convert the columns of DIALS to hklflow's table."""
    fast, slow, frame = table["xyzcal.px"].T
    rotation = measurement.rotation
    shape = rotation.detector.shape
    bits = table["flags"].astype(np.int64)
    inside = (slow >= 0) & (slow < shape[0]) & (fast >= 0) & (fast < shape[1])
    inside &= ((bits & _SUMMED) != 0) | ((bits & _FITTED) != 0)
    rows = np.flatnonzero(inside)
    rows = rows[np.lexsort((fast[rows], slow[rows], frame[rows]))]
    t = {name: column[rows] for name, column in table.items()}
    fast, slow, frame, bits = fast[rows], slow[rows], frame[rows], bits[rows]
    hkl = t["miller_index"].astype(np.int64)
    volume = swept_volume(rotation, slow, fast)
    norm = _norm(measurement, frame, slow, fast, t["bbox"][:, 4:])
    per_count = np.divide(volume, norm, out=np.full(len(norm), np.nan), where=norm > 0)
    part = np.clip(t["partiality"], 1e-3, 1.0)
    bits[part < min_recorded] &= ~(_SUMMED | _FITTED)
    summed, fitted = (bits & _SUMMED) != 0, (bits & _FITTED) != 0
    counts = np.where(summed, t["intensity.sum.value"], np.nan)
    sigma = _root(t["intensity.sum.variance"], summed)
    profile = np.where(fitted, t["intensity.prf.value"], np.nan)
    sigma_profile = _root(t["intensity.prf.variance"], fitted)
    level, n_background = t["background.mean"], t["num_pixels.background"].astype(np.int64)
    with np.errstate(invalid="ignore"):
        has_centroid = summed & (counts > _OBSERVED * sigma) & (part > _WHOLE)
    observed = np.where(has_centroid[:, None], t["xyzobs.px.value"], np.nan)
    variance = np.where(has_centroid[:, None], t["xyzobs.px.variance"], np.nan)
    zeta = np.abs(t["zeta"])
    return Reflections(
        hkl=hkl,
        frame=frame,
        slow=slow,
        fast=fast,
        zeta=zeta,
        volume=volume,
        d=lattice.d_spacing(lattice.decompose_ub(ub)[1], hkl),
        intensity_sum=counts / part * per_count,
        sigma_sum=sigma / part * per_count,
        intensity_profile=profile * per_count,
        sigma_profile=sigma_profile * per_count,
        counts=counts,
        recorded=part,
        background=level / norm,
        background_sigma=np.sqrt(level / np.maximum(n_background, 1)) / norm,
        norm=norm,
        observed_frame=observed[:, 2],
        observed_slow=observed[:, 1],
        observed_fast=observed[:, 0],
        var_frame=variance[:, 2],
        var_slow=variance[:, 1],
        var_fast=variance[:, 0],
        n_foreground=t["num_pixels.foreground"].astype(np.int64),
        n_background=n_background,
        correlation=t["profile.correlation"],
        flags=_flags(t, bits, part, zeta < min_zeta, hkl, group, shape),
    )


def _root(variance: Floats, known: NDArray[np.bool_]) -> Floats:
    """Return standard deviations; DIALS marks unknown variances by -1."""
    good = known & (variance >= 0)
    return np.sqrt(np.where(good, variance, np.nan))


def _norm(
    measurement: Measurement,
    frame: Floats,
    slow: Floats,
    fast: Floats,
    frames: NDArray[np.int64],
) -> Floats:
    """Return the norm (n,) at predicted centres, averaged over frames with the rocking curve.

    DIALS adds the counts of all frames of a reflection and ignores monitor and attenuators. The
    norm is NaN if the pixel, or a frame with a relevant weight, is bad.

    Parameters
    ----------
    frames : (n, 2) array
        First frame and end of the reflection, at a distance of `_WIDE` standard deviations of the
        rocking curve from its centre.
    """
    shape = measurement.pixel_norm.shape
    n_frames = len(measurement.frame_norm)
    pixel = measurement.pixel_norm[
        np.clip(slow.astype(np.int64), 0, shape[0] - 1),
        np.clip(fast.astype(np.int64), 0, shape[1] - 1),
    ]
    sigma = np.maximum(np.ptp(frames, axis=1) - 1, 1) / (2 * _WIDE)
    first = np.clip(frames[:, 0], 0, n_frames - 1)
    last = np.clip(frames[:, 1] - 1, first, n_frames - 1)
    total, weights = np.zeros(len(frame)), np.zeros(len(frame))
    missing = np.zeros(len(frame))
    for step in range(int((last - first).max(initial=0)) + 1):
        number = np.minimum(first + step, last)
        weight = ndtr((number + 1 - frame) / sigma) - ndtr((number - frame) / sigma)
        weight[first + step > last] = 0.0
        of_frame = measurement.frame_norm[number]
        total += weight * np.maximum(of_frame, 0.0)
        missing += np.where(of_frame > 0, 0.0, weight)
        weights += weight
    with np.errstate(divide="ignore", invalid="ignore"):
        norm = pixel * total / weights
        return np.where((norm > 0) & (missing < _MISSING * weights), norm, np.nan)


def _flags(
    t: Mapping[str, NDArray[Any]],
    bits: NDArray[np.int64],
    part: Floats,
    long: NDArray[np.bool_],
    hkl: NDArray[np.int64],
    group: SpaceGroup,
    shape: tuple[int, int],
) -> NDArray[np.int64]:
    """Convert the flags of DIALS to flags of hklflow."""
    x0, x1, y0, y1 = t["bbox"].T[:4]
    rows_of_flags = {
        ReflectionFlag.EDGE: (x0 < 0) | (y0 < 0) | (x1 > shape[1]) | (y1 > shape[0]),
        ReflectionFlag.PARTIAL: part < _WHOLE,
        ReflectionFlag.MASKED: (bits & _BAD_PIXELS) != 0,
        ReflectionFlag.OVERLAP: (bits & _OVERLAPPED) != 0,
        ReflectionFlag.OVERLOAD: (bits & _OVERLOADED) != 0,
        ReflectionFlag.LONG: long,
        ReflectionFlag.NO_PROFILE: (bits & _FITTED) == 0,
        ReflectionFlag.REFERENCE: (bits & _MODELLED) != 0,
        ReflectionFlag.ABSENT: group.is_absent(hkl),
    }
    flags = np.zeros(len(bits), np.int64)
    for flag, rows in rows_of_flags.items():
        flags[rows] |= int(flag)
    return flags
