"""Choice of the version for a scan, and check for versions that overlap."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.calibration import applies, layout, statuses, versions
from hklflow.calibration.kinds import KINDS, OnMissing
from hklflow.calibration.versions import Version


def _when(run: int | None, day: date | None) -> str:
    given = [f"run {run}"] * (run is not None) + [str(day)] * (day is not None)
    return f" ({', '.join(given)})" if given else ""


def _or_default(kind: str) -> str:
    if not KINDS[kind].has_default:
        return ""
    return ", or set `on_missing: diagnostic` for a diagnostic reduction"


def choose(
    root: Path,
    kind: str,
    state_id: str,
    scan: str,
    run: int | None,
    day: date | None,
    on_missing: OnMissing,
) -> Version:
    """Return the accepted version with the highest number that covers a scan; see `Store.resolve`.

    Versions are read from the highest number down to the chosen one. Damaged versions with lower
    numbers do not matter.
    """
    reasons = []
    for number in reversed(layout.version_numbers(layout.store_path(root, kind, state_id))):
        path = layout.store_path(root, kind, state_id, version=number)
        try:
            status = statuses.current(path)
            if status == "default" and on_missing == "diagnostic":
                return versions.read_version(path)
            if status != "accepted":
                reasons.append(f"{path.name} is {status}")
                continue
            version = versions.read_version(path)
            expression = applies.parse(version.applies_to or "")
        except HklflowError as error:
            raise HklflowError(
                f"{error}; {path.name} may be the one for {scan}: run `hklflow calibration verify` "
                "and restore it"
            ) from error
        if expression.covers(scan, run, day):
            return version
        reasons.append(f"{path.name} applies to `{expression.text}`")
    raise HklflowError(
        f"no accepted {kind} calibration of state {state_id} in {root} covers {scan}"
        f"{_when(run, day)}: {', '.join(reasons) or 'there is none'}; "
        f"make one with {KINDS[kind].proposed_with} and `hklflow calibration accept NAME "
        f"--applies-to EXPR`{_or_default(kind)}"
    )


def pinned(root: Path, kind: str, state_id: str, pin: int, on_missing: OnMissing) -> Version:
    """Return the version that the configuration pins; see `Store.resolve`."""
    version = versions.numbered(root, kind, state_id, pin)
    if version.status in ("accepted", "superseded"):
        return version
    if version.status == "default":
        if on_missing == "diagnostic":
            return version
        raise HklflowError(
            f"pin: {version.path} is the unrefined default; pin an accepted "
            f"version{_or_default(kind)}"
        )
    raise HklflowError(
        f"pin: {version.path} is {version.status}, so it cannot be used; pin an accepted "
        "version (`hklflow calibration list`) or remove the pin"
    )


def check_accept(
    root: Path,
    kind: str,
    state_id: str,
    applies_to: str,
    supersede: Sequence[int],
    allow_overlap: bool,
    own: int | None = None,
) -> None:
    """Refuse a version that overlaps with an accepted version.

    ``own`` is the number of the version, if it has one. It is needed because another process may
    already have accepted this version.

    Raises
    ------
    HklflowError
        If the version overlaps with an accepted version that it does not supersede, unless overlaps
        are allowed; or if a version to be superseded is not accepted.
    """
    expression = applies.parse(applies_to)
    accepted = [v for v in versions.readable(root, kind, state_id) if v.status == "accepted"]
    for number in supersede:
        if number not in [v.number for v in accepted]:
            status = versions.numbered(root, kind, state_id, number).status
            raise HklflowError(
                f"version {number} of {kind}/{state_id} is {status}, and only an accepted version "
                "can be superseded; leave it out"
            )
    over = [
        v
        for v in accepted
        if v.number not in (own, *supersede)
        and expression.overlaps(applies.parse(v.applies_to or ""))
    ]
    if over and not allow_overlap:
        conflicts = ", ".join(f"version {v.number} (`{v.applies_to}`)" for v in over)
        raise HklflowError(
            f"`{expression.text}` overlaps with {conflicts} of {kind}/{state_id}; use `--supersede "
            f"{' '.join(str(v.number) for v in over)}`, or `--allow-overlap` so that the higher "
            "number is used"
        )
