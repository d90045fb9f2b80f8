"""Checks of the normalisations that scans use: what does not fit, and what a person should know."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hklflow.base.errors import HklflowError
from hklflow.experiment.constants import PhotonCounter

if TYPE_CHECKING:
    from hklflow.experiment.experiment import Experiment

Key = tuple[str, str, str]


def problems(experiment: "Experiment") -> Iterator[str]:
    """Yield problems of normalisations: unknown entries, other states, two responses at once."""
    known = experiment.config.normalizations
    for name, entry in known.items():
        if entry.geometry not in experiment.config.calibrations:
            yield (
                f"config: normalizations.{name}: there is no calibration {entry.geometry!r}; name "
                "an entry of `calibrations`"
            )
    for sample, scan in experiment.scans:
        own = experiment.settings(sample, scan)
        used, where = own.normalization, f"config: normalization of {sample}/{scan}"
        if used.use is not None and used.use not in known:
            yield (
                f"{where}: {used.use!r} is not one of {', '.join(known) or 'none defined'} in "
                "`normalizations`"
            )
            continue
        counter = experiment.config.constants.get(own.correct_frames.constants or "")
        responses = [
            text
            for text, given in (
                ("`normalization: use`", used.use),
                ("`normalization: artificial`", used.artificial),
                ("`transform: flat_field`", own.transform.flat_field),
                (
                    "the flat field of `correct_frames: constants` (`flat_field: false` leaves it "
                    "out)",
                    isinstance(counter, PhotonCounter) and own.correct_frames.flat_field,
                ),
            )
            if given
        ]
        if len(responses) > 1 and (used.use or used.artificial):
            yield f"{where}: {' and '.join(responses)} state the response of the pixels; give one"
        if used.use is not None:
            yield from _other_state(experiment, sample, scan, used.use)


def _other_state(experiment: "Experiment", sample: str, scan: str, name: str) -> Iterator[str]:
    """Yield a problem if a normalisation is of another state than the geometry of a scan."""
    geometries = {row.calibration for row in experiment.scans[sample, scan].rotations.values()}
    for geometry in sorted(g for g in geometries if g is not None):
        if experiment.stored_kinds.get(geometry) != "geometry":
            continue
        own, theirs = experiment.state(name), experiment.state(geometry)
        if own.alias_of is not None or theirs.alias_of is not None:
            continue  # a person has said that values on a boundary are the same state
        differ = [
            key
            for key, value in theirs.canonical["keys"].items()
            if own.canonical["keys"].get(key, value) != value
        ]
        if differ:
            yield (
                f"config: normalization of {sample}/{scan}: {name} is of another state than the "
                f"geometry {geometry} ({', '.join(differ)}); use the normalisation of this state"
            )


def doubts(experiment: "Experiment") -> list[str]:
    """Return sentences on scans whose normalisation is artificial, a default, or outdated."""
    found: dict[str, list[str]] = {}
    for key in experiment.all_rotations():
        sentence = _doubt(experiment, key)
        if sentence is not None:
            found.setdefault(sentence, []).append(" ".join(key))
    return [
        f"{names[0]}{f' and {len(names) - 1} more rotations' if names[1:] else ''}: {sentence}"
        for sentence, names in found.items()
    ]


def _doubt(experiment: "Experiment", key: Key) -> str | None:
    used = experiment.settings(*key[:2]).normalization
    if used.artificial is not None:
        return (
            f"the normalisation is artificial ({used.artificial}), so all products are diagnostic"
        )
    if used.use is None:
        return None
    try:
        version = experiment.version(*key, "normalization")
        if version.status == "default":
            return (
                f"no accepted normalisation of {used.use} applies, so all products are diagnostic"
            )
        return newer_geometry(experiment, key)
    except HklflowError:
        return None  # `hklflow check` reports it


def newer_geometry(experiment: "Experiment", key: Key) -> str | None:
    """Return a sentence if the normalisation was made with another version of the geometry.

    Raises
    ------
    HklflowError
        If the store has no version for the rotation.
    """
    normalization = experiment.version(*key, "normalization")
    made = normalization.record.get("geometryVersionUsed")
    geometry = experiment.rotation(*key).calibration
    if made is None or experiment.stored_kinds.get(geometry or "") != "geometry":
        return None
    now = experiment.version(*key)
    if (made.get("stateId"), made.get("version")) == (now.state_id, now.number):
        return None
    return (
        f"the normalisation {normalization.name} was made with the geometry {made['name']}, and "
        f"{now.name} is used now; propose it again (`hklflow calibration iterate`)"
    )
