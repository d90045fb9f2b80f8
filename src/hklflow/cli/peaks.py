"""`hklflow peaks tune`: search parameters of `find_peaks` that find more reflections."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import Folder
from hklflow.cli.folder import experiment as folder_of
from hklflow.cli.options import Directory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.bragg.tune import Block, Index, Trial, Tuning
    from hklflow.experiment.config import Experiment
    from hklflow.formats.raw_frames import Frames
    from hklflow.geometry import Rotation
    from hklflow.images.scan import RotationScan
    from hklflow.peaks.search import PeakParams
    from hklflow.stages.find_peaks import Settings

app = App(name="peaks", help="The search for Bragg peaks.")

_BLOCK = 4  # number of frames read at a time


@app.command
def tune(
    scan: str,
    /,
    *,
    every: int | None = None,
    apply: bool = False,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    directory: Directory = Path(),
) -> None:
    """Search parameters of `find_peaks` that find more reflections and fewer false spots.

    Blocks of frames of the scan are searched with many settings. The score of a setting is the
    number of indexed spots times the fraction of indexed spots, both corrected for spots that are
    indexed by chance. The orientation of the scan is used if the scan is refined. If it is not, the
    lattice is searched with the cell of the parent or of the sample, or without a cell. The command
    writes a table, a picture and lines for the configuration, and reports if a gain is within the
    noise of the score. Spots that the cell does not index, such as spots of a superlattice or a
    second crystal, count as false: if you need these spots, keep the parameters that find them.
    Scans with `binning` are refused, because the parameters are for frames as measured.

    Example: `hklflow peaks tune quartz/100K`; `hklflow peaks tune quartz/100K/r1 --every 3 --apply`

    Parameters
    ----------
    scan
        `sample/scan`, or `sample/scan/rotation` to use the frames of one rotation only.
    every
        Use every n-th block of about 50 frames. Default: about eight blocks are used.
    apply
        Write the suggestion into `config/config.yaml`, under `per_scan`; the entry of a parent also
        applies to its children.
    output
        Folder for picture and table. Default: `peaks_tune` in the folder of the scan's results.
    """
    import secrets

    from hklflow import plots
    from hklflow.base import publish
    from hklflow.base.history import WORD
    from hklflow.bragg.tune import tune as search
    from hklflow.experiment.config import load
    from hklflow.plots.tuning import tuning
    from hklflow.stage import tags

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    if experiment.config.binning > 1:
        raise HklflowError(
            f"`binning` is {experiment.config.binning} in {folder.config}: parameters of the peak "
            "search are tuned on frames as measured; set `binning: 1` and run this again"
        )
    sample, name, rotations = named(scan, experiment)
    measured = Measured(folder, experiment, sample, name, rotations)
    diagnosis = measured.diagnosis("scan.nxs", "mask.nxs")
    usual_place = measured.product(
        experiment.paths.scan("peaks_tune" + f"_{WORD}" * bool(diagnosis))
    )
    place = folder.base / usual_place if output is None else output
    tags.require_name(place, Path(f"{sample}/{name}"), diagnosis)
    given = experiment.settings(sample, name).find_peaks
    present = _present(given)
    rows = ["setting\tspots\tindexed beyond chance\tscore"]

    def report(what: str, trial: "Trial") -> None:
        figures = f"{trial.total}\t{trial.beyond_chance:.1f}\t{trial.score:.1f}"
        rows.append(f"{what}\t{figures}")
        print(f"{what:44s} {figures.expandtabs(12)}", flush=True)

    with ExitStack() as stack:
        geometry, lattice, source = measured.lattice()
        blocks = measured.blocks(geometry, given.max_frames, every, stack)
        print(f"{len(blocks)} blocks of frames; {source}")
        print("searching with the present setting; each search may take minutes")
        print(f"{'setting':44s} {'spots':12s}{'indexed':12s}score", flush=True)
        found = search(blocks, present, lattice, unset=_present(type(given)()), report=report)
    place.mkdir(parents=True, exist_ok=True)
    final = [place / "tune.png", place / "tune.tsv"]
    temporary = [publish.partial(path, secrets.token_hex(4)) for path in final]
    plots.save(tuning(found, f"{sample}/{name}"), temporary[0])
    temporary[1].write_text("\n".join(rows) + "\n")
    if diagnosis:
        print(f"{WORD}: {diagnosis}")
        for path, last in zip(temporary, final, strict=True):
            tags.write(path, [diagnosis], last.suffix)
    publish.publish(list(zip(temporary, final, strict=True)))
    print(f"{found.n_trials} settings tried; picture and table in {place}")
    _suggest(folder, f"{sample}/{name}", found, apply=apply)


def _present(given: "Settings") -> "PeakParams":
    """Return the parameters of the search from the configuration."""
    from dataclasses import fields

    from hklflow.peaks.search import PeakParams

    other = {"gain", "threshold"}
    alike = {field.name for field in fields(PeakParams)} - other
    return PeakParams(
        **given.model_dump(include=alike),
        gain=1.0,
        threshold=float("inf") if given.threshold is None else given.threshold,
    )


def named(scan: str, experiment: "Experiment") -> tuple[str, str, list[str]]:
    """Return sample, scan and rotations from `sample/scan` or `sample/scan/rotation`."""
    parts = scan.split("/")
    if len(parts) not in (2, 3) or tuple(parts[:2]) not in experiment.scans:
        known = ", ".join(f"{sample}/{name}" for sample, name in experiment.scans) or "none"
        raise HklflowError(
            f"there is no scan {scan!r}; write sample/scan, or sample/scan/rotation: the "
            f"table of scans has {known}"
        )
    rotations = experiment.rotations(parts[0], parts[1])
    if len(parts) == 2:
        return parts[0], parts[1], rotations
    if parts[2] not in rotations:
        raise HklflowError(
            f"{parts[0]}/{parts[1]} has no rotation {parts[2]!r}; it has {', '.join(rotations)}"
        )
    return parts[0], parts[1], [parts[2]]


@dataclass(frozen=True)
class _Reader:
    """Frames of one rotation with the data that the peak search needs."""

    frames: "Frames"
    first: int
    noise: "NDArray[np.float32] | None"
    rotation: "Rotation"
    bad: "NDArray[np.bool_]"
    saturation: float
    valid_from: float

    def block(self, start: int, stop: int) -> "Block":
        """Return the frames from ``start`` to ``stop`` (exclusive) as a block."""
        import numpy as np

        from hklflow.bragg.tune import Block
        from hklflow.images import masks

        return Block(
            rotation=self.rotation,
            first=start,
            bad=self.bad,
            read=lambda: self._counts(start, stop),
            invalid_from=masks.flag_value(self.frames.dtype) or np.inf,
            saturation=self.saturation,
            valid_from=self.valid_from,
        )

    def _counts(self, start: int, stop: int) -> "Iterator[NDArray[Any]]":
        for block in self.frames.blocks(_BLOCK, self.first + start, self.first + stop):
            # As in `find_peaks`: with the variance of the read noise added, the mean of the counts
            # equals their variance.
            yield block if self.noise is None else block + self.noise


@dataclass(frozen=True)
class Measured:
    """Rotations of a scan with the products of the workflow."""

    folder: Folder
    experiment: "Experiment"
    sample: str
    scan: str
    rotations: list[str]

    def product(self, pattern: str, scan: str | None = None, rotation: str = "") -> Path:
        """Return the path of a product, relative to the experiment's folder."""
        return Path(pattern.format(sample=self.sample, scan=scan or self.scan, rotation=rotation))

    @cached_property
    def scans(self) -> "list[RotationScan]":
        """Scan files of the rotations, with raw paths that are valid from the current folder."""
        from hklflow import nexus

        found = []
        for path in self.made("scan.nxs"):
            scan = nexus.read_scan(path)
            found.append(replace(scan, raw=str(self.folder.base / scan.raw)))
        return found

    def made(self, name: str) -> list[Path]:
        """Return the product of each rotation; raise if a product does not exist."""
        pattern = self.experiment.paths.rotation(name)
        products = [self.product(pattern, rotation=r) for r in self.rotations]
        missing = [str(path) for path in products if not (self.folder.base / path).exists()]
        if missing:
            raise HklflowError(
                f"{missing[0]} is not there yet; make it in {self.folder.base} with `snakemake "
                f"--cores 1 {' '.join(shlex.quote(path) for path in missing)}`"
            )
        return [self.folder.base / path for path in products]

    def diagnosis(self, *names: str) -> str:
        """Return why products of the rotations, or their orientation, are diagnostic; else empty.

        The orientation is the scan's own, or its parent's if the scan is not refined.
        """
        from hklflow import stage
        from hklflow.base.history import diagnoses

        paths, parent = self.experiment.paths, self.experiment.scans[self.sample, self.scan].parent
        oriented = (
            self.product(paths.scan("orientation.json")),
            self.product(paths.scan("parent.json"), parent),
        )
        there = [path for p in oriented if (path := self.folder.base / p).exists()][:1]
        read = [*(path for name in names for path in self.made(name)), *there]
        return "; ".join(diagnoses([record for path in read for record in stage.provenance(path)]))

    def lattice(self) -> "tuple[list[Rotation], NDArray[np.float64] | Index, str]":
        """Return the rotations, UB (or a function that finds UB), and the source of the lattice."""
        from hklflow import stage
        from hklflow.experiment.params.orientation import refine_parent
        from hklflow.geometry import symmetry
        from hklflow.orientation.indexing import index_peaks
        from hklflow.stage.orientation import Observed, inherited

        paths, base = self.experiment.paths, self.folder.base
        own = base / self.product(paths.scan("orientation.json"))
        if own.exists():
            refined = stage.read_orientation(own)
            if all(name in refined.rotations for name in self.rotations):
                rotations = [refined.rotation(name) for name in self.rotations]
                return rotations, refined.ub, f"orientation of {own}"
        rotations = [scan.rotation for scan in self.scans]
        parent = self.experiment.scans[self.sample, self.scan].parent
        given = refine_parent(self.experiment, {"sample": self.sample, "scan": parent})
        cell: Sequence[float] | None = given.cell
        symbol, source = given.space_group, "the sample's cell"
        above = base / self.product(paths.scan("parent.json"), parent)
        if above.exists():
            refined = stage.read_orientation(above)
            cell, symbol = refined.cell.tolist(), refined.space_group
            source = f"the cell of {above}"
            observed = Observed(tuple(self.rotations), tuple(self.scans), (), 0, ())
            rotations, _ = inherited(observed, refined)
        group = None if symbol is None or cell is None else symmetry.space_group(symbol)

        def index(g: "NDArray[np.float64]") -> "NDArray[np.float64]":
            # A bad setting finds many false spots: accept a lattice that indexes few spots, but
            # with a small tolerance.
            return index_peaks(
                g,
                cell=cell,
                group=group,
                tolerance=0.1,
                cell_tolerance=given.max_cell_deviation,
                min_fraction=0.3,
            ).ub

        return rotations, index, f"lattice searched with {source if cell else 'no cell'}"

    def blocks(
        self, rotations: "list[Rotation]", max_frames: int, every: int | None, stack: ExitStack
    ) -> "list[Block]":
        """Return blocks of frames; the stack keeps the raw files open."""
        from hklflow import nexus
        from hklflow.bragg.tune import spread
        from hklflow.formats import raw

        readers = []
        for scan, rotation, path in zip(self.scans, rotations, self.made("mask.nxs"), strict=True):
            readers.append(
                _Reader(
                    frames=stack.enter_context(raw.open_scan(scan)),
                    first=scan.first,
                    noise=raw.read_variance(scan),
                    rotation=rotation,
                    bad=nexus.read_mask(path) != 0,
                    saturation=float("inf") if scan.saturation is None else scan.saturation,
                    valid_from=scan.underload,
                )
            )
        numbers = [scan.rotation.scan.n_frames for scan in self.scans]
        return [readers[r].block(a, b) for r, a, b in spread(numbers, max_frames, every)]


def _suggest(folder: Folder, scan: str, found: "Tuning", *, apply: bool) -> None:
    """Print the suggested parameters, or write them into the configuration."""
    from hklflow.cli.config_edit import lines_for

    keys = ["per_scan", scan, "find_peaks"]
    gain, sigma = found.gain
    if not found.worth_it:
        why = (
            f"the best setting gains {gain:.1f} ± {sigma:.1f}, which is noise"
            if found.changed
            else "none is better beyond the noise"
        )
        print(f"keep what you have (score {found.start.score:.1f}): {why}")
        return
    lines = "\n".join(lines_for(keys, found.changed))
    share = max(0.0, 1 - found.best.beyond_chance / max(found.best.total, 1))
    print(
        f"score {found.start.score:.1f} -> {found.best.score:.1f}: a gain of {gain:.1f} ± "
        f"{sigma:.1f}; {100 * share:.1f} % of the spots then found are not indexed"
    )
    if not apply:
        print(f"for config/config.yaml (or run again with --apply):\n\n{lines}\n")
        return
    folder.change({}, [(keys, found.changed)])
    print(f"written to {folder.config}:\n\n{lines}\n\nNext: `snakemake` makes the scan again.")
