"""`hklflow constants export`: write a detector's constants in the formats of other programs."""

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
    """Write constants in the format of another program; existing files are replaced.

    Example: `hklflow constants export results/constants.nxs --format cheetah -o calib`

    Parameters
    ----------
    file
        Constants of a detector, `constants.nxs`.
    format
        `cheetah`: one file for each module of an AGIPD, for Cheetah, OnDA and Hummingbird. `pyfai`:
        the image `mask` and, for a photon counter, the image `flat`.
    output
        Folder for the files.
    suffix
        File format of the images for pyFAI.
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
