"""`hklflow calibrant list | check`: powders for the calibration of the detector geometry."""

from pathlib import Path

from cyclopts import App

calibrant = App(name="calibrant", help="Powders whose rings a calibration can use.")


@calibrant.command(name="list")
def list_all() -> None:
    """List the calibrants of pyFAI: name, number of d-spacings, largest d-spacing in Å.

    A file with one d-spacing in Å per line, in decreasing order, can be used instead.

    Example: `hklflow calibrant list`
    """
    from pyFAI.calibrant import names

    from hklflow.calibration.calibrants import read_calibrant

    print("name\td_spacings\tlargest_A")
    for name in sorted(names()):
        powder = read_calibrant(name)
        print(f"{name}\t{len(powder.d)}\t{powder.d[0]:.6g}")


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
        Name of a calibrant in pyFAI, or a file.
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
