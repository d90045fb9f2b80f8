"""`hklflow constants export`: a detector's constants in the files of other programs."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

app = App(name="constants", help="Constants of detectors: offsets, gains, masks, flat fields.")


@app.command
def export(
    file: Path,
    /,
    *,
    format: Literal["cheetah", "pyfai"],
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    suffix: Literal["edf", "npy", "h5"] = "edf",
) -> None:
    """Write constants in the files of another program; those of the same name are replaced.

    Example: `hklflow constants export results/constants.nxs --format cheetah -o calib`

    Parameters
    ----------
    file
        Constants of a detector, `constants.nxs`.
    format
        `cheetah`: a file for each module of an AGIPD, for Cheetah, OnDA and Hummingbird. `pyfai`:
        the images `mask` and, of a photon counter, `flat`.
    output
        Folder.
    suffix
        Type of the images for pyFAI.
    """
    from hklflow.constants.export import export_cheetah, export_pyfai
    from hklflow.constants.files import open_constants

    with open_constants(file) as constants:
        if format == "cheetah":
            written = export_cheetah(constants, output)
        else:
            written = export_pyfai(constants, output, suffix)
    for path in written:
        print(f"wrote {path}")
