"""Read orientations of any supported program."""

import json
from pathlib import Path

from hklflow.base.errors import HklflowError, printable
from hklflow.base.system import require_file
from hklflow.formats.dials_expt import read_expt
from hklflow.formats.nxrefine import read_nxrefine
from hklflow.formats.xds import read_xparm
from hklflow.geometry.model import Model, from_orientation


def read_model(path: str | Path) -> list[Model]:
    """Read the rotations of a file of DIALS (.expt), XDS, NXRefine or hklflow.

    The content of the file decides: HDF5 is NXRefine, XPARM.XDS and GXPARM.XDS begin with their
    name, experiment lists have an identifier, other JSON is an orientation.json, converged.json
    or start.json.

    Returns
    -------
    list of Model
        One model for each rotation.

    Raises
    ------
    HklflowError
        If the file is none of these, or damaged; the message names the file.
    """
    path = Path(path)
    try:
        return _read(path)
    except HklflowError as error:
        message = printable(str(error))
        raise HklflowError(message if str(path) in message else f"{path}: {message}") from error


def _read(path: Path) -> list[Model]:
    require_file(path, "orientation")
    with path.open("rb") as file:
        start = file.read(200).lstrip()
    if start.startswith(b"\x89HDF"):
        return read_nxrefine(path)
    if start.startswith(b"XPARM.XDS"):
        return [read_xparm(path)]
    if not start.startswith(b"{"):
        raise HklflowError(
            f"{path} is not an orientation file that hklflow can read; give .expt of DIALS, "
            "XPARM.XDS or GXPARM.XDS, a file of NXRefine, or an orientation.json"
        )
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise HklflowError(
            f"{path} is not JSON ({error}); it is truncated: copy it again"
        ) from None
    if "__id__" in content:
        return read_expt(path)
    return from_orientation(content)
