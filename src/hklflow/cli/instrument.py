"""`hklflow instrument new` and `check`: the template from which scan files are made."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from hklflow.base.errors import HklflowError, printable
from hklflow.cli.folder import experiment as folder_of
from hklflow.cli.options import Directory
from hklflow.cli.publishing import published

if TYPE_CHECKING:
    from hklflow.experiment.config import Experiment
    from hklflow.formats.header import Header

app = App(name="instrument", help="Instrument files: templates of scan files.")


@app.command
def new(
    file: Path,
    /,
    *,
    calibration: str | None = None,
    geometry: Path | None = None,
    powder: Path | None = None,
    like: Path | None = None,
    force: bool = False,
    directory: Directory = Path(),
) -> None:
    """Write an instrument file: beam, detector and goniometer, with the powder calibration.

    Scan files are made of it before they are measured (`hklflow scan plan`). Detector, wavelength
    and polarization are those of a calibration, or of the raw file. The axes of the goniometer are
    those of `import_scan: axes`, or of the raw file.

    Example: `hklflow instrument new config/pilatus.instrument.nxs --calibration powder --like
    raw/test_0001.cbf`

    Parameters
    ----------
    file
        File to write; its name ends in `.instrument.nxs`.
    calibration
        Name in `calibrations`, whose products are made (`snakemake`).
    geometry
        Geometry of a calibration (`geometry.json`), instead of --calibration.
    powder
        Powder data of this geometry (`powder.nxs`). Default: those of --calibration, if it has any.
    like
        Raw file of the instrument, for the pixel mask, saturation and sensor.
    force
        Overwrite an existing file.
    """
    from hklflow.experiment.config import load
    from hklflow.formats.instrument import (
        SUFFIX,
        Instrument,
        problems,
        read_instrument,
        write_instrument,
    )

    if not file.name.endswith(SUFFIX):
        raise HklflowError(f"{file} must end in {SUFFIX}")
    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    if calibration is not None and geometry is not None:
        raise HklflowError("--calibration and --geometry are two geometries; give one of them")
    if calibration is not None:
        geometry, powder = _products(experiment, calibration, powder)
    header, source = _header(experiment, geometry, like)
    shape = (0, 0) if header.detector is None else header.detector.shape
    _require_none(file, problems(file, Instrument(header, shape, None)))

    def write(path: Path) -> Sequence[str]:
        write_instrument(path, header, powder, source)
        _require_none(file, problems(path, read_instrument(path)))
        return []

    published([(file, write)], force)


@app.command
def check(file: Path, /) -> None:
    """Print beam, detector and goniometer of an instrument file, and what follows from them.

    The parameters of the powder calibration must be those of the detector in the file.

    Example: `hklflow instrument check config/pilatus.instrument.nxs`

    Parameters
    ----------
    file
        Instrument file.
    """
    from hklflow.formats.instrument import derived, problems, read_instrument

    instrument = read_instrument(file)
    _require_none(file, problems(file, instrument))
    header, detector = instrument.header, instrument.header.detector
    assert detector is not None
    assert header.goniometer is not None
    size = " x ".join(f"{1e6 * edge:g}" for edge in detector.pixel_size)
    rows: list[tuple[str, Any]] = [
        ("pixels, slow x fast", f"{instrument.shape[0]} x {instrument.shape[1]} of {size} µm"),
        ("wavelength (Å)", f"{header.wavelength:.8g}"),
        ("polarization", f"{header.polarization:g}"),
        *((name, f"{value:.6g}") for name, value in derived(header).items()),
        ("masked pixels", 0 if header.pixel_mask is None else int(header.pixel_mask.sum())),
        ("saturation (counts)", header.saturation or "not stated"),
    ]
    for name, axis in zip(header.goniometer.names, header.goniometer.axes, strict=True):
        rows.append((f"axis {name}", ", ".join(f"{x:g}" for x in axis)))
    agree = "the detector has its parameters" if instrument.calibrant else "none"
    rows.append(("powder calibration", " ".join(filter(None, [instrument.calibrant, agree]))))
    for name, value in rows:
        print(f"{printable(name):28s} {printable(str(value))}")


def _require_none(file: Path, problems: Sequence[str]) -> None:
    if problems:
        raise HklflowError(f"{file}: {'; '.join(problems)}")


def _products(experiment: "Experiment", name: str, powder: Path | None) -> tuple[Path, Path | None]:
    """Return the geometry and the powder data of an entry of the configuration."""
    from hklflow.experiment.models import StoredGeometry

    entry = experiment.config.calibrations.get(name)
    if entry is None:
        known = ", ".join(experiment.config.calibrations) or "none"
        raise HklflowError(f"there is no calibration {name!r}; `calibrations` has {known}")
    if isinstance(entry, StoredGeometry):
        raise HklflowError(
            f"{name} is in a calibration store, where versions depend on the scan; give --geometry "
            "with the geometry.json of a version (`hklflow calibration list`)"
        )
    pattern = experiment.base / experiment.paths.calibration("geometry.json")
    geometry = Path(str(pattern).format(calibration=name))
    if not geometry.exists():
        raise HklflowError(f"{geometry} is not there yet; make it with `snakemake`")
    beside = geometry.with_name("powder.nxs")
    return geometry, powder or (beside if beside.exists() else None)


def _header(
    experiment: "Experiment", geometry: Path | None, like: Path | None
) -> tuple["Header", dict[str, str]]:
    """Return the header of the instrument, and where its facts are from."""
    import numpy as np

    from hklflow import stage
    from hklflow.formats import assemble
    from hklflow.formats.header import Header
    from hklflow.formats.raw import read_header
    from hklflow.geometry import Goniometer

    header = Header() if like is None else read_header(like)
    source = {} if like is None else {"like": str(like)}
    if geometry is not None:
        content = stage.read_json(geometry)
        detector, beam = assemble.calibrated(content, geometry)
        own = header.detector
        if own is not None and own.shape != detector.shape:
            raise HklflowError(
                f"{like} has frames of {own.shape} pixels, and the geometry {geometry} is for "
                f"{detector.shape}; give files of one detector"
            )
        header = replace(
            header,
            detector=detector,
            wavelength=beam.wavelength,
            polarization=beam.polarization,
            sensor_material=content.get("sensor_material") or header.sensor_material,
        )
        source["geometry"] = str(geometry)
    settings = experiment.config.import_scan
    axes = assemble.parse_axes(assemble.axes_by_rotation(settings.axes).get(None, ()))
    if axes is not None:
        names, n = tuple(axes), len(axes)
        header = replace(
            header, goniometer=Goniometer(names, np.array([*axes.values()]), np.zeros(n), n - 1)
        )
    if settings.saturation is not None:
        header = replace(header, saturation=settings.saturation)
    return header, source
