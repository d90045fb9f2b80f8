"""`hklflow calibrant list | check`: powders for the calibration of the detector geometry."""

from pathlib import Path

from cyclopts import App

calibrant = App(name="calibrant", help="Powders whose rings a calibration can use.")


@calibrant.command(name="list")
def list_all(folder: Path | None = None, /) -> None:
    """List calibrants: name, number of d-spacings, largest d-spacing in Å, and what is not used.

    Without a folder: the calibrants of pyFAI. With a folder: its files. A file `x.D` has one
    d-spacing in Å per line, in decreasing order. A file `x.yaml` has `calibrant` (a name of pyFAI)
    or `d_spacings`, and the rings that are not used: `max_rings` and `purge_rings`.

    Example: `hklflow calibrant list`; `hklflow calibrant list /data/beamline/calibrants`

    Parameters
    ----------
    folder
        Folder of calibrants.
    """
    from hklflow.base.errors import HklflowError
    from hklflow.calibration.calibrants import files_of, read_calibrant

    if folder is None:
        from pyFAI.calibrant import names

        print("name\td_spacings\tlargest_A")
        for name in sorted(names()):
            powder = read_calibrant(name)
            print(f"{name}\t{len(powder.d)}\t{powder.d[0]:.6g}")
        return
    if not folder.is_dir():
        raise HklflowError(f"{folder} is not a folder; give the folder of your calibrants")
    powders = [read_calibrant(path) for path in files_of(folder)]
    print("name\td_spacings\tlargest_A\tmax_rings\tpurged\tsha256_of_file")
    for powder in powders:
        record = powder.record()
        purged = ",".join(map(str, powder.purged))
        limit = "" if record["max_rings"] is None else record["max_rings"]
        print(
            f"{powder.name}\t{len(powder.d)}\t{powder.d[0]:.6g}\t{limit}\t{purged}\t"
            f"{powder.file_sha256}"
        )


@calibrant.command
def check(
    name: str,
    /,
    *,
    wavelength: float | None = None,
    max_rings: int | None = None,
    purge_rings: tuple[int, ...] = (),
) -> None:
    """Show the rings of a calibrant or of a file with d-spacings, or report what is wrong.

    Example: `hklflow calibrant check CeO2 --wavelength 0.2`; `hklflow calibrant check mine.D`

    Parameters
    ----------
    name
        Name of a calibrant in pyFAI, or a file (`x.D`, `x.yaml`).
    wavelength
        Wavelength in Å, to show 2θ of each ring.
    max_rings
        Number of inner rings to use.
    purge_rings
        Numbers of rings that are not used; the innermost ring is 0.
    """
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.calibration.calibrants import is_file, read_calibrant

    if wavelength is not None and not wavelength > 0:
        raise HklflowError(f"--wavelength {wavelength} is not a wavelength in Å; give more than 0")
    powder = read_calibrant(
        Path(name) if is_file(name) else name, max_rings=max_rings, purge_rings=purge_rings
    )
    print(f"# {powder.name}, {powder.source}, sha256 {powder.sha256}")
    print("ring\td_A\ttwo_theta_deg\tused")
    for ring, (d, used) in enumerate(zip(powder.d, powder.used, strict=True)):
        angle = ""
        if wavelength is not None:
            if d <= wavelength / 2:
                break
            angle = f"{np.degrees(2 * np.arcsin(wavelength / (2 * d))):.6f}"
        print(f"{ring}\t{d:.6f}\t{angle}\t{'yes' if used else 'no'}")
