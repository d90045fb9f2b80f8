"""`hklflow calibration init | propose | iterate | cancel`: make candidates for the store."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.calibration.kinds import KINDS
from hklflow.cli.calibration.target import Entry, Target, in_words
from hklflow.cli.options import Author, Comments

if TYPE_CHECKING:
    from hklflow.calibration.store import Candidate
    from hklflow.cli.calibration.build import Request

Settings = Annotated[tuple[str, ...], Parameter(name="--set")]


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """Options for the source of a candidate."""

    standard: str | None = None
    """Frames of a standard with known scattering (raw file or pattern), for a normalisation."""
    empty: str | None = None
    """Frames without the standard: air, holder."""
    image: tuple[Path, ...] = ()
    """Image of a powder calibrant, or several images."""
    poni: Path | None = None
    """PONI file of pyFAI."""
    geometry: Path | None = None
    """Product of this workflow: `geometry.json`."""
    bragg: tuple[str, ...] = ()
    """Refined scan (`sample/scan`), or several scans, whose Bragg peaks determine the positions of
    the modules, alone or together with --image. If the stage `converge` found displaced modules in
    the only scan (`modules.json`), they are proposed."""
    level: tuple[Literal["detector", "quadrant", "module", "sensor", "chip"], ...] = ()
    """`detector`: refine the detector as a whole. `quadrant`, `module`, `sensor`, `chip`: refine
    shifts and rotations of these parts in the plane of the detector. Several levels are refined in
    turn, the largest parts first, until no pixel moves. Default: `detector` for one image, `module`
    for Bragg peaks."""
    groups: Path | None = None
    """Groups of pixels (`hklflow groups make`). They move instead of the parts of the last level of
    --level; with `--standard`, the response is one factor for each group."""
    sensors: tuple[int, int] | None = None
    """Number of sensors of a module along slow and fast, if modules have gaps between sensors."""
    chips: tuple[int, int] | None = None
    """Number of chips of a sensor along slow and fast; known for PILATUS and EIGER."""
    rounds: int | None = None
    """Largest number of rounds over the levels. Default: 10 for several levels or with --tolerance,
    else 1."""
    tolerance: float | None = None
    """The rounds end when no pixel moves by more than this in a round, in pixels. Default: 0.02."""
    calibrant: str | None = None
    """Calibrant of the image: a name in pyFAI, or a file of d-spacings."""
    offset: tuple[float, ...] = ()
    """Detector distance of each image minus the distance of the first image, in m."""
    arm: tuple[float, ...] = ()
    """Angle of the detector arm for each image, in degrees."""
    given: Settings = ()
    """Further parameters of `powder_calibration`, in the form `min_rings=5`, or of the standard:
    `scattering=fluorescence`, `table=carbon.txt`, `attenuation`, `transmission`, `standard_error`.
    """
    start: Annotated[str | None, Parameter(name="--from")] = None
    """Version or candidate whose distance and beam centre are the start values."""

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels that are refined."""
        return self.level or (("module",) if self.bragg else ("detector",))

    @property
    def moves(self) -> bool:
        """Return True if a level below the detector is refined."""
        return self.levels != ("detector",)

    def kind(self) -> str:
        """Return the name of the source option; raise an error if other options do not fit."""
        names = ("image", "bragg", "poni", "geometry", "standard")
        chosen = [name for name in names if getattr(self, name)]
        if len(chosen) != 1 and chosen != ["image", "bragg"]:
            raise HklflowError(
                "give one of --image, --bragg, --poni, --geometry and --standard, or --image and "
                "--bragg together"
            )
        kind, measured = chosen[0], chosen[0] in ("image", "bragg")
        if self.empty is not None and kind != "standard":
            raise HklflowError(f"--empty is for --standard, not for --{kind}")
        if not measured and self.level and self.moves:
            raise HklflowError(
                f"--level {' '.join(self.level)} is for --image and --bragg, not for --{kind}"
            )
        if self.bragg and not self.moves:
            raise HklflowError(
                "--level detector is for --image alone; with --bragg, give --level module or "
                "another part of the detector"
            )
        for name in ("sensors", "chips", "rounds", "tolerance"):
            if getattr(self, name) is not None and not (measured and self.moves):
                raise HklflowError(
                    f"--{name} is for --level quadrant, module, sensor or chip, of --image or "
                    "--bragg"
                )
        several = bool(self.offset or self.arm)
        if several and (chosen != ["image"] or self.moves):
            raise HklflowError(
                "--offset and --arm are for the images of a series, at detector level"
            )
        if len(self.image) > 1 and not self.moves and not several:
            raise HklflowError(
                f"{len(self.image)} images are refined together from the detector positions: give "
                "--offset or --arm for each; or give --level module"
            )
        return kind

    def params(self, kind: str) -> dict[str, Any]:
        """Return the parameters of `--set` and other options; raise an error if not allowed."""
        from hklflow.cli.calibration.build import settings

        params = settings(self.given)
        if self.calibrant is not None:
            params |= settings((f"calibrant={self.calibrant}",))
        if self.groups is not None:
            if kind != "standard" and not self.moves:
                raise HklflowError(
                    "--groups is for --level module and other parts of the detector, --bragg and "
                    "--standard"
                )
            params |= settings((f"groups={self.groups}",))
        if kind in ("poni", "geometry") and (params or self.start):
            raise HklflowError(f"--calibrant, --set and --from are for --image, not for --{kind}")
        if kind in ("bragg", "standard") and (self.calibrant or self.start):
            raise HklflowError(f"--calibrant and --from are for --image, not for --{kind}")
        if kind in ("image", "bragg") and self.moves:
            options = ("levels", "sensors", "chips", "rounds", "tolerance")
            params |= {x: value for x in options if (value := getattr(self, x)) is not None}
        return params

    def request(self, to: Target, kind: str) -> "Request":
        """Return the request for the candidate."""
        from hklflow.calibration.store import Version
        from hklflow.cli.calibration.build import Request

        params, parent = self.params(kind), None
        if self.standard is not None:
            named = {"standard": self.standard, "empty": self.empty}
            params |= {key: str(Path(x).absolute()) for key, x in named.items() if x is not None}
        if self.start is not None:
            params = _start(to, self.start) | params
            if isinstance(began := to.item(self.start), Version):
                parent = began.number
        files = self.image or tuple(path for path in (self.poni, self.geometry) if path is not None)
        products: tuple[Path, ...] = ()
        if self.bragg:
            parent, products = _bragg_files(to, self.bragg, params, bool(self.image))
        return Request(
            "modules" if kind == "image" and self.moves else {"image": "powder"}.get(kind, kind),
            tuple(path.absolute() for path in files),
            params,
            self.offset,
            self.arm,
            self.bragg,
            products,
            parent,
        )


def _bragg_files(
    to: Target, scans: Sequence[str], params: Mapping[str, Any], with_images: bool
) -> tuple[int | None, tuple[Path, ...]]:
    """Return the version with which scans were reduced, and the products with their peaks."""
    from hklflow.cli.calibration.build import bragg_products, converged_modules, uses_loop

    number, files = None, []
    for scan in scans:
        used, orientation, products = bragg_products(to, scan)
        number = used.number
        # Use the modules of the stage `converge`, unless the user asks for other parts.
        if not with_images and uses_loop(scans, params):
            converged = converged_modules(to, used, orientation, scan)
            files += [] if converged is None else [converged]
        files += [orientation, *(path for paths in products.values() for path in paths.values())]
    return number, tuple(files)


def init_state(
    *,
    author: Author,
    comments: Comments = "set-points of the configuration",
    entry: Entry = Entry(),
) -> None:
    """Make the state's folder in the store, with the geometry of the set-points as version 0.

    Version 0 is used only with `on_missing: diagnostic`, and its products are diagnostic. For a
    normalisation, in version 0 all pixels respond alike. For constants, version 0 is empty,
    because constants must be measured.

    Example: `hklflow calibration init --author "M. Curie"`
    """
    from hklflow import stage
    from hklflow.cli.calibration.build import Request, make_files
    from hklflow.cli.calibration.normalize import init_files

    to = entry.target()
    with tempfile.TemporaryDirectory() as folder:
        if to.kind == "constants":
            # Constants are unknown before they are measured: version 0 is a placeholder.
            files = {"parameters.json": Path(folder) / "parameters.json"}
            stage.write_json(files["parameters.json"], {"source": "default"})
        elif to.kind == "normalization":
            files = init_files(to, Path(folder))
        else:
            files = make_files(to, Request("default"), Path(folder))
        version = to.store.init(to.state, files, author=author, comments=comments)
    print(f"state {to.state.id} of {to.name}: {version.path}")


def propose(
    name: str,
    /,
    *,
    author: Author,
    source: Source = Source(),
    comments: Comments = "",
    entry: Entry = Entry(),
) -> None:
    """Make a candidate from powder images, Bragg peaks, a file or a standard, and judge it.

    Results do not change before the candidate is accepted. The state defines the energy, the pixel
    size and the start value of the distance. The report is a page to open in a browser.

    Images at several distances or arm angles are refined together; if the distances differ, the
    wavelength is refined too. With `--level quadrant`, `module`, `sensor` or `chip`, the positions
    of these parts are determined from images with displaced beam centres, from Bragg peaks of one
    scan or several, or from images and scans in one fit. Several levels are refined in turn until
    no pixel moves by more than `--tolerance`; each round is reported.

    For an entry of `normalizations`, `--standard` gives the frames of a standard, and `--empty`
    the frames without it; both need a monitor then.

    Example: `hklflow calibration propose morning --image raw/CeO2.tif --calibrant CeO2 --author
    "M. Curie"`; `hklflow calibration propose two --image near.tif far.tif --offset 0 0.1 ...`;
    `hklflow calibration propose tiles --level module --image a.tif b.tif c.tif d.tif ...`;
    `hklflow calibration propose all --level detector module chip --image a.tif b.tif c.tif d.tif
    ...`; `hklflow calibration propose quadrants --level quadrant --bragg quartz/300K quartz/100K
    --image a.tif ...`; `hklflow calibration propose old --poni old.poni ...`; `hklflow calibration
    propose carbon --standard raw/carbon.h5 --empty raw/air.h5 --calibration response --author
    "M. Curie"`

    Parameters
    ----------
    name
        Name of the candidate: letters, digits, `.`, `+` and `-`.
    """
    kind = source.kind()
    to = entry.target()
    to.require("normalization" if kind == "standard" else "geometry")
    _propose(to, name, source.request(to, kind), author, comments)


def iterate(
    name: str,
    /,
    *,
    author: Author,
    given: Settings = (),
    image: tuple[Path, ...] = (),
    comments: Comments = "",
    entry: Entry = Entry(),
) -> None:
    """Make the next iteration of a candidate with other parameters; earlier iterations are kept.

    Example: `hklflow calibration iterate morning --set max_rings=14 --set purge_rings=[3,7]
    --author "M. Curie"`

    Parameters
    ----------
    name
        Candidate whose last iteration is the start, or an iteration (`morning/01`) as the start.
    given
        Changed parameters, `key=value`.
    image
        Images to use instead of the earlier images.
    """
    from hklflow import stage
    from hklflow.cli.calibration.build import Request, settings

    to = entry.target()
    to.require(*(kind for kind in KINDS if kind != "constants"))
    before = to.candidate(name)
    earlier = Request.from_dict(stage.read_json(before.path / "parameters.json"))
    if earlier.source in ("poni", "geometry"):
        raise HklflowError(
            f"candidate {in_words(before)} was imported from a file; only those made from "
            "measurements can be iterated"
        )
    files = tuple(path.absolute() for path in image) or earlier.files
    request = replace(earlier, files=files, params={**earlier.params, **settings(given)})
    _propose(to, before.name, request, author, comments)


def cancel(name: str, /, *, entry: Entry = Entry()) -> None:
    """Delete a candidate that was never published.

    Example: `hklflow calibration cancel morning`

    Parameters
    ----------
    name
        Name of the candidate.
    """
    to = entry.target()
    to.store.cancel(name, kind=to.state.kind, state_id=to.state.id)
    print(f"candidate {name} is deleted")


def _start(to: Target, name: str) -> dict[str, Any]:
    """Return the distance and beam centre of a version or candidate as start values."""
    from hklflow import stage

    geometry = stage.read_json(to.item(name).path / "geometry.json")
    if "beam_centre_px" not in geometry or "poni" not in geometry:
        raise HklflowError(
            f"{name} was not made from an image, so it has no beam centre to start from; give "
            "--set distance=... and --set beam_centre=[slow,fast]"
        )
    return {"distance": geometry["poni"]["dist"], "beam_centre": geometry["beam_centre_px"]}


def _propose(to: Target, name: str, request: "Request", author: str, comments: str) -> "Candidate":
    """Make and judge a candidate, and print the result."""
    from hklflow.calibration.layout import check_name
    from hklflow.cli.calibration.assess import assessed
    from hklflow.cli.calibration.build import make_files
    from hklflow.cli.calibration.normalize import candidate as candidate_of_standard

    # Check state and names first, because the calibration takes long.
    to.store.state(to.state.kind, to.state.id)
    check_name(name, "candidate")
    if not author.strip():
        raise HklflowError("--author is empty; give the name of the person who proposes")
    with tempfile.TemporaryDirectory() as folder:
        if to.kind == "normalization":
            files, record = candidate_of_standard(to, name, request, Path(folder))
        else:
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
