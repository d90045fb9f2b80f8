"""`hklflow calibrant list | check`: the powders whose rings a calibration can use."""

from pathlib import Path

from cyclopts import App

calibrant = App(name="calibrant", help="Powders whose rings a calibration can use.")


@calibrant.command(name="list")
def list_all() -> None:
    """List the calibrants that pyFAI knows: name, number of d-spacings, the largest in Å.

    A file with one d-spacing in Å per line, falling, will do as well.

    Example: `hklflow calibrant list`
    """
    from pyFAI.calibrant import names

    from hklflow.calibration.calibrants import read_calibrant

    print("name\td_spacings\tlargest_A")
    for name in sorted(names()):
        found = read_calibrant(name)
        print(f"{name}\t{len(found.d)}\t{found.d[0]:.6g}")


@calibrant.command
def check(
    name: str,
    /,
    *,
    wavelength: float | None = None,
    max_rings: int | None = None,
    purge_rings: tuple[int, ...] = (),
) -> None:
    """Show the rings of a calibrant or of a file of d-spacings, or say what is wrong with it.

    Example: `hklflow calibrant check CeO2 --wavelength 0.2`; `hklflow calibrant check mine.D`

    Parameters
    ----------
    name
        Name that pyFAI knows, or a file.
    wavelength
        Wavelength in Å, for the rings' 2θ.
    max_rings
        Only so many inner rings.
    purge_rings
        Rings that are not used, the innermost is 0.
    """
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.calibration.calibrants import is_file, read_calibrant

    if wavelength is not None and not wavelength > 0:
        raise HklflowError(f"--wavelength {wavelength} is not a wavelength in Å; give more than 0")
    found = read_calibrant(
        Path(name) if is_file(name) else name, max_rings=max_rings, purge_rings=purge_rings
    )
    print(f"# {found.name}, {found.source}, sha256 {found.sha256}")
    print("ring\td_A\ttwo_theta_deg\tused")
    for ring, (d, used) in enumerate(zip(found.d, found.used, strict=True)):
        angle = ""
        if wavelength is not None:
            if d <= wavelength / 2:
                break
            angle = f"{np.degrees(2 * np.arcsin(wavelength / (2 * d))):.6f}"
        print(f"{ring}\t{d:.6f}\t{angle}\t{'yes' if used else 'no'}")
