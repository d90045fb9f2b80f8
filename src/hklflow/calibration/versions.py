"""Published versions: reading them, and the data that products record about them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.calibration import disk, layout, statuses
from hklflow.calibration.records import validate
from hklflow.calibration.states import is_state_id


@dataclass(frozen=True)
class Version:
    """A published version.

    Attributes
    ----------
    kind, state_id : str
    number : int
    path : Path
        Folder of the version. Except for status events, its content never changes.
    record : dict
        Content of record.json.
    status : str
        Status when this object was created.
    """

    kind: str
    state_id: str
    number: int
    path: Path
    record: dict[str, Any]
    status: str

    @property
    def name(self) -> str:
        """Name of the version's folder, such as v_0003."""
        return self.path.name

    @property
    def applies_to(self) -> str | None:
        """Scans that the version applies to."""
        text: str | None = self.record["appliesTo"]
        return text

    def artefact(self, name: str) -> Path:
        """Return the path of a file of the version.

        Raises
        ------
        HklflowError
            If the version has no such file.
        """
        files = [item["file"] for item in self.record["artefacts"]]
        if name not in files:
            raise HklflowError(f"{self.path} has no {name}; it has {', '.join(files)}")
        return self.path / name

    def events(self) -> list[dict[str, Any]]:
        """Return the status events of the version, oldest first."""
        return statuses.read(self.path)


def read_version(path: Path) -> Version:
    """Read the version in a folder; the hashes of its files are not checked.

    Raises
    ------
    HklflowError
        If the record or the status is damaged, or the record names another folder.
    """
    if path.is_symlink():
        raise HklflowError(f"{path} is a symbolic link, not the folder of a version")
    where = path / layout.RECORD
    record = disk.read_object(where)
    validate(record, str(where))
    named = (record["kind"], record["stateId"], record["version"])
    kind, state_id, number = _place(path)
    if number is None or named != (kind, state_id, number):
        raise HklflowError(
            f"{where} belongs to version {named[2]} of {named[0]}/{named[1]}, not to this folder"
        )
    return Version(kind, state_id, number, path, record, statuses.current(path))


def _place(path: Path) -> tuple[str, str, int | None]:
    return path.parent.parent.name, path.parent.name, layout.version_number(path.name)


def numbered(root: Path, kind: str, state_id: str, number: int) -> Version:
    """Read the version with this number; raise HklflowError if it is absent or damaged."""
    path = layout.store_path(root, kind, state_id, version=number)
    if number not in layout.version_numbers(path.parent):
        there = ", ".join(map(str, layout.version_numbers(path.parent))) or "none"
        raise HklflowError(
            f"there is no version {number} of {kind}/{state_id} in {root} (versions: {there}); "
            "`hklflow calibration list` shows them"
        )
    return read_version(path)


def readable(root: Path, kind: str, state_id: str) -> list[Version]:
    """Read all undamaged versions, sorted by number."""
    versions = []
    for number in layout.version_numbers(layout.store_path(root, kind, state_id)):
        try:
            versions.append(read_version(layout.store_path(root, kind, state_id, version=number)))
        except HklflowError:
            continue  # `index.verify` reports it
    return versions


def calibration_of(path: Path) -> dict[str, Any] | None:
    """Return the data that a product records about the version of its calibration file.

    Parameters
    ----------
    path : Path
        A file that was used, such as geometry.json.

    Returns
    -------
    dict or None
        kind, state_id, version, status, applies_to, author, timestamp, sha256 and quality
        ("reduced" if the version is or was accepted, else "diagnostic"); for a normalisation also
        geometry_version_used. None if the file is not in a version's folder.

    Raises
    ------
    HklflowError
        If the file differs from the published file, or its record is damaged.
    """
    path = path.resolve()
    folder = path.parent
    _, state_id, number = _place(folder)
    if number is None or not is_state_id(state_id):
        return None
    version = read_version(folder)
    known = {item["file"]: item["sha256"] for item in version.record["artefacts"]}
    if path.name not in known:
        raise HklflowError(
            f"{path} does not belong to {version.name}; use a file listed in its record"
        )
    digest = disk.sha256(path)
    if digest != known[path.name]:
        raise HklflowError(
            f"{path} was changed after it was published (sha256 {digest[:12]}..., in the record "
            f"{known[path.name][:12]}...); restore it, or publish a new version"
        )
    record = version.record
    geometry = record.get("geometryVersionUsed")
    return {
        "kind": version.kind,
        "state_id": state_id,
        "version": version.number,
        "status": version.status,
        "applies_to": version.applies_to,
        "author": record["author"],
        "timestamp": record["timestamp"],
        "sha256": digest,
        "quality": "reduced" if version.status in ("accepted", "superseded") else "diagnostic",
        **({} if geometry is None else {"geometry_version_used": geometry["name"]}),
    }
