"""`hklflow calibration init | propose | iterate | cancel`: candidates for the store."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.calibration.target import Target, in_words, target

if TYPE_CHECKING:
    from hklflow.calibration.store import Candidate
    from hklflow.cli.calibration.build import Request

Settings = Annotated[tuple[str, ...], Parameter(name="--set")]
Start = Annotated[str | None, Parameter(name="--from")]


def init_state(
    *,
    author: str,
    comments: str = "set-points of the configuration",
    calibration: str | None = None,
    directory: Path = Path(),
) -> None:
    """Make the state's folder in the store, with the geometry of the set-points as version 0.

    Version 0 is used only where `allow_default` is set, and what it makes is marked as diagnostic.
    For constants it is empty, for they must be measured.

    Example: `hklflow calibration init --author "M. Curie"`

    Parameters
    ----------
    author
        Who does this.
    comments
        For people.
    calibration
        Entry of `calibrations` in config.yaml; not needed where only one has a store.
    directory
        Folder of the experiment.
    """
    from hklflow import stage
    from hklflow.cli.calibration.build import Request, make_files

    to = target(directory, calibration)
    with tempfile.TemporaryDirectory() as folder:
        if to.kind == "constants":
            # Nobody knows constants that were not measured: version 0 only holds the place.
            files = {"parameters.json": Path(folder) / "parameters.json"}
            stage.write_json(files["parameters.json"], {"source": "default"})
        else:
            files = make_files(to, Request("default"), Path(folder))
        version = to.store.init(to.state, files, author=author, comments=comments)
    print(f"state {to.state.id} of {to.name}: {version.path}")


def propose(
    name: str,
    /,
    *,
    author: str,
    image: tuple[Path, ...] = (),
    poni: Path | None = None,
    geometry: Path | None = None,
    bragg: str | None = None,
    level: Literal["detector", "module"] = "detector",
    calibrant: str | None = None,
    offset: tuple[float, ...] = (),
    arm: tuple[float, ...] = (),
    given: Settings = (),
    start: Start = None,
    comments: str = "",
    calibration: str | None = None,
    directory: Path = Path(),
) -> None:
    """Make a candidate from powder images, Bragg peaks, a PONI file or a geometry, and judge it.

    Nothing that is reduced changes before the candidate is accepted. Energy, pixel size and the
    distance to start from are those of the state. The report is a page to open in a browser.

    Images at several distances or arm angles are refined together, and the wavelength with them
    where distances differ. With `--level module` the images (with displaced beam centres) or the
    Bragg peaks say where the detector's modules are.

    Example: `hklflow calibration propose morning --image raw/CeO2.tif --calibrant CeO2 --author
    "M. Curie"`; `hklflow calibration propose two --image near.tif far.tif --offset 0 0.1 ...`;
    `hklflow calibration propose tiles --level module --image a.tif b.tif c.tif d.tif ...`;
    `hklflow calibration propose tiles --bragg quartz/300K ...`; `hklflow calibration propose old
    --poni old.poni ...`

    Parameters
    ----------
    name
        Name of the candidate: letters, digits, `.`, `+` and `-`.
    author
        Who does this.
    image
        Image of a powder calibrant, or several.
    bragg
        Scan (`sample/scan`) whose Bragg peaks say where the modules are; it must be refined. If its
        converging refinement (`modules.json`) found displaced modules, these are proposed.
    level
        `detector`: the geometry as a whole. `module`: shifts and turns of the modules in its plane.
    offset
        Distance of each image beyond that of the first, in m.
    arm
        Angle of the detector's arm at each image, in degrees.
    poni
        PONI file of pyFAI.
    geometry
        Product of this workflow: `geometry.json`.
    calibrant
        Calibrant of the image: a name that pyFAI knows, or a file of d-spacings.
    given
        Further parameters of `powder_calibration`, as `min_rings=5`.
    start
        Version or candidate whose distance and beam centre are the start.
    comments
        For people.
    calibration
        Entry of `calibrations` in config.yaml; not needed where only one has a store.
    directory
        Folder of the experiment.
    """
    from hklflow.calibration.store import Version
    from hklflow.cli.calibration.build import (
        Request,
        bragg_products,
        converged_modules,
        settings,
    )

    sources = {"image": image, "poni": poni, "geometry": geometry, "bragg": bragg}
    chosen = [source for source, value in sources.items() if value]
    if len(chosen) != 1:
        raise HklflowError("give one of --image, --bragg, --poni and --geometry")
    (source,) = chosen
    if level == "module" and source in ("poni", "geometry"):
        raise HklflowError(f"--level module is for --image and --bragg, not for --{source}")
    if (offset or arm) and (source != "image" or level == "module"):
        raise HklflowError("--offset and --arm are for the images of a series, at detector level")
    if len(image) > 1 and level == "detector" and not (offset or arm):
        raise HklflowError(
            f"{len(image)} images are refined together by where the detector stood: give --offset "
            "or --arm for each; or say --level module"
        )
    to = target(directory, calibration)
    to.require("geometry")
    params, parent = settings(given), None
    if calibrant is not None:
        params |= settings((f"calibrant={calibrant}",))
    if source in ("poni", "geometry") and (params or start):
        raise HklflowError(f"--calibrant, --set and --from are for --image, not for --{source}")
    if source == "bragg" and (calibrant or start):
        raise HklflowError("--calibrant and --from are for --image, not for --bragg")
    if start is not None:
        params = _start(to, start) | params
        if isinstance(began := to.item(start), Version):
            parent = began.number
    files = image or tuple(path for path in (poni, geometry) if path is not None)
    if bragg is not None:
        used, orientation, products = bragg_products(to, bragg)
        parent = used.number
        files = (orientation, *(path for one in products.values() for path in one.values()))
        # What a converging refinement found holds, but for modules that are named here.
        converged = converged_modules(to, used, orientation, bragg)
        if converged is not None and "detector" not in params:
            files = (converged, *files)
    request = Request(
        {"image": "modules" if level == "module" else "powder"}.get(source, source),
        tuple(path.absolute() for path in files),
        params,
        offset,
        arm,
        bragg or "",
        parent,
    )
    _propose(to, name, request, author, comments)


def iterate(
    name: str,
    /,
    *,
    author: str,
    given: Settings = (),
    image: tuple[Path, ...] = (),
    comments: str = "",
    calibration: str | None = None,
    directory: Path = Path(),
) -> None:
    """Make the next iteration of a candidate, with other parameters, beside those before.

    Example: `hklflow calibration iterate morning --set max_rings=14 --set purge_rings=[3,7]
    --author "M. Curie"`

    Parameters
    ----------
    name
        The candidate, or one of its iterations (`morning/01`) as the start; else the last.
    author
        Who does this.
    given
        What is different, `key=value`.
    image
        Other images than before.
    comments
        For people.
    calibration
        Entry of `calibrations` in config.yaml; not needed where only one has a store.
    directory
        Folder of the experiment.
    """
    from hklflow import stage
    from hklflow.cli.calibration.build import Request, settings

    to = target(directory, calibration)
    to.require("geometry")
    before = to.candidate(name)
    said = Request.from_dict(stage.read_json(before.path / "parameters.json"))
    if said.source in ("poni", "geometry"):
        raise HklflowError(
            f"candidate {in_words(before)} was imported from a file; only those made from "
            "measurements can be iterated"
        )
    files = tuple(path.absolute() for path in image) or said.files
    request = replace(said, files=files, params={**said.params, **settings(given)})
    _propose(to, before.name, request, author, comments)


def cancel(name: str, /, *, calibration: str | None = None, directory: Path = Path()) -> None:
    """Delete a candidate that was never published.

    Example: `hklflow calibration cancel morning`

    Parameters
    ----------
    name
        Name of the candidate.
    calibration
        Entry of `calibrations` in config.yaml; not needed where only one has a store.
    directory
        Folder of the experiment.
    """
    to = target(directory, calibration)
    to.store.cancel(name, kind=to.state.kind, state_id=to.state.id)
    print(f"candidate {name} is deleted")


def _start(to: Target, given: str) -> dict[str, Any]:
    """Distance and beam centre of a version or candidate."""
    from hklflow import stage

    found = stage.read_json(to.item(given).path / "geometry.json")
    if "beam_centre_px" not in found or "poni" not in found:
        raise HklflowError(
            f"{given} was not made from an image, so it has no beam centre to start from; give "
            "--set distance=... and --set beam_centre=[slow,fast]"
        )
    return {"distance": found["poni"]["dist"], "beam_centre": found["beam_centre_px"]}


def _propose(to: Target, name: str, request: "Request", author: str, comments: str) -> "Candidate":
    """Make and judge a candidate, and say what came out."""
    from hklflow.calibration.layout import check_name
    from hklflow.cli.calibration.assess import assessed
    from hklflow.cli.calibration.build import make_files

    # Before the work, not after it.
    to.store.state(to.state.kind, to.state.id)
    check_name(name, "candidate")
    if not author.strip():
        raise HklflowError("--author is empty; say who proposes")
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(to, request, Path(folder))
        files, record = assessed(to, name, request, files, Path(folder))
        record |= {"author": author, "comments": comments}
        candidate = to.store.new_iteration(to.state, name, files, record)
    print(f"candidate {in_words(candidate)} of {to.name}, state {to.state.id}")
    _tell(record["gates"])
    print(f"report: {candidate.path / 'report.html'}")
    return candidate


def _tell(gates: "list[Mapping[str, Any]]") -> None:
    failed = [gate for gate in gates if not gate["passed"]]
    for gate in failed:
        print(f"  failed: {gate['sentence']}")
    print(f"{len(gates) - len(failed)} of {len(gates)} gates passed")
