"""Runs without the crystal: their headers, and their mean images."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hklflow.stage.background_settings import Named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.formats.header import Header
    from hklflow.images.scan import RotationScan
    from hklflow.stage.rehearsal import FrameFacts


class Averaged(NamedTuple):
    """Mean image of a run.

    Attributes
    ----------
    run : Named
    level, variance : (slow, fast) array
        Counts of a pixel for an incident intensity of 1, and their variance; NaN: not known.
    """

    run: Named
    level: "NDArray[np.float64]"
    variance: "NDArray[np.float64]"


def where(run: Named) -> str:
    """Return the section of a run in the configuration."""
    return f"background: runs: {run.name}"


def facts(run: Named) -> "FrameFacts":
    """Return shape and header of the frames of a run.

    Raises
    ------
    HklflowError
        If they do not exist.
    """
    from hklflow.base.system import require_file
    from hklflow.formats.series import number_pattern
    from hklflow.stage.rehearsal import read_facts

    if number_pattern(Path(run.raw).name) is None:
        require_file(Path(run.raw), "raw file", f"correct `{where(run)}: raw`")
    return read_facts(run.raw)


def like_scan(
    run: Named,
    facts: "FrameFacts",
    scan: "RotationScan",
    of_scan: "Header",
    saturation: float | None,
) -> "tuple[RotationScan, NDArray[np.float64], str | None]":
    """Return the run as a scan, its incident intensities, and a warning about them.

    Parameters
    ----------
    scan, of_scan
        Rotation of the crystal, and the header of its frames.
    saturation : float or None
        Saturation of a pixel that the user states; None: that of the header.

    Raises
    ------
    HklflowError
        If the run is one of something else.
    """
    from dataclasses import replace

    import numpy as np

    from hklflow.formats import assemble, background_run

    header = facts.header
    if run.monitor is not None:
        header = replace(header, monitor=np.full(facts.shape[0], run.monitor))
    monitor = "none" if scan.monitor_source == "none" else "file"
    said = assemble.Said(
        monitor=monitor,
        exposure=run.exposure,
        attenuation=run.attenuation,
        saturation=saturation,
    )
    if header.exposure_time is None and monitor == "file":
        said = replace(said, exposure=1.0)  # the monitor counts during the exposure
    at = where(run)
    like = background_run.like_scan(run.raw, facts.shape, header, said, scan, of_scan, at)
    return *like, background_run.beam_doubt(run.raw, header, run.exposure, scan, at)


def averaged(
    run: Named,
    scan: "RotationScan",
    of_scan: "Header",
    bad: "NDArray[np.bool_]",
    saturation: float | None,
) -> tuple[Averaged, list[str]]:
    """Return the mean image of a run, and warnings.

    Parameters
    ----------
    scan : RotationScan
        Rotation of the crystal.
    of_scan : Header
        Header of its frames.
    bad : (slow, fast) array
        Masked pixels.
    saturation : float or None
        See `like_scan`.

    Raises
    ------
    HklflowError
        If the run is one of something else, or measured nothing.
    """
    import numpy as np

    from hklflow.formats import background_run, raw
    from hklflow.images import surroundings

    like, incident, doubt = like_scan(run, facts(run), scan, of_scan, saturation)
    with raw.open_scan(like) as frames:
        level, variance = surroundings.mean_image(
            background_run.blocks(frames, scan, like),
            incident,
            bad,
            background_run.valid(frames, scan, like),
            raw.read_variance(like),
        )
    _require_counts(run, level)
    warnings = [doubt] if doubt else []
    strong = surroundings.too_strong(level)
    level[strong] = variance[strong] = np.nan
    if lost := int(np.count_nonzero(~bad & ~np.isfinite(level))):
        warnings.append(
            f"{run.name}: S is not measured in {lost} good pixels, which are saturated or flagged "
            f"in {run.raw}, or more than {surroundings.MOST_RATIO:g} times as strong as its median"
        )
    return Averaged(run, level, variance), warnings


def _require_counts(run: Named, level: "NDArray[np.float64]") -> None:
    """Refuse a run that measured nothing."""
    import numpy as np

    from hklflow.base.errors import HklflowError

    if not np.isfinite(level).any():
        raise HklflowError(
            f"{run.raw}: every pixel is masked, flagged or saturated, so no background is known; "
            f"give another run, or remove `{where(run)}`"
        )
    if not (level > 0).any():
        raise HklflowError(
            f"{run.raw}: the counts of all pixels are 0 (was the shutter closed?); give another "
            f"run, or remove `{where(run)}`"
        )


def require_consistent(runs: list[Named]) -> None:
    """Refuse runs that contain unknown runs or themselves, and two runs with the same frames.

    Raises
    ------
    HklflowError
    """
    from hklflow.base.errors import HklflowError

    for run in runs:
        others = [other.name for other in runs if other.name != run.name]
        for name in run.contains:
            if name not in others:
                raise HklflowError(
                    f"`{where(run)}: contains`: {name!r} is no other run of this rotation (the "
                    f"others are {', '.join(others) or 'none'}); name one of them"
                )
    contains = contained(runs)
    for i, run in enumerate(runs):
        if contains[i, i]:
            raise HklflowError(
                f"`{where(run)}: contains`: {run.name} contains a run that contains {run.name}; "
                "two runs cannot contain each other"
            )
        for other in runs[:i]:
            if Path(other.raw).resolve() == Path(run.raw).resolve():
                raise HklflowError(
                    f"`{where(run)}: raw`: {other.name} has the same frames ({run.raw}), which "
                    "would be subtracted twice; give one run (for air before and behind the "
                    "crystal `seen_through: part`)"
                )


def contained(runs: list[Named]) -> "NDArray[np.bool_]":
    """Return [i, j] True if run i contains run j, directly or in a run that it contains."""
    import numpy as np

    found = np.array([[other.name in run.contains for other in runs] for run in runs])
    for k in range(len(runs)):
        found |= found[:, k, None] & found[k]
    return found
