"""Transform S(Q) to the pair distribution function in direct space: 3D-ΔPDF or total PDF."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from contextlib import ExitStack

    import numpy as np
    from numpy.typing import NDArray

    from hklflow.nexus.grid_writer import GridWriter
    from hklflow.nexus.volume import OpenVolume
    from hklflow.plots.pdf import Sections
    from hklflow.stage.lattice_vectors import LatticeVectors
    from hklflow.volumes import pdf
    from hklflow.volumes.back_transform import BackTransform
    from hklflow.volumes.gap_errors import GapFactor
    from hklflow.volumes.pdf_plan import Plan

VERSION = 12

#: Number of features in the metrics.
_FEATURES = 20

#: Largest fraction of the taper's weight that may be filled but not measured without a warning.
_FILLED = 0.02

_TITLES = {"delta": "3D-ΔPDF", "total": "total PDF"}

_AtLeastOne = Annotated[int, Field(ge=1)]


class Inputs(stage.Inputs):
    filled: Path
    """S(Q) without Bragg reflections."""
    symmetrised: Path | None = None
    """Symmetrised S(Q), whose values replace the punched voxels for the total PDF; None: the
    3D-ΔPDF is made.
    """


class Outputs(stage.Outputs):
    pdf: Path
    """Pair distribution function with errors, on the axes of the direct cell."""
    picture: Path
    """Slices of the pair distribution function."""
    metrics: Path
    """Resolution, scale factor, largest features, and the ΔPDF transformed back against S(Q)."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    taper: Literal["tukey", "hann", "lorch", "gaussian", "none"] = "tukey"
    """Shape of the taper that reduces S to zero at q_max."""
    flat: float = Field(0.5, ge=0, le=1)
    """For `tukey`: fraction of q_max up to which the taper is 1."""
    q_max: float | None = Field(None, gt=0)
    """Largest |Q| that is used, 1/Å; None: the q_max of the filled volume."""
    sizes: tuple[_AtLeastOne, _AtLeastOne, _AtLeastOne] | None = None
    """Number of voxels along x, y, z; None: numbers for a fast transform with lattice vectors on
    voxel centres.
    """
    allowed_missing: float = Field(0.01, ge=0, le=1)
    """Largest fraction of the taper's weight in voxels that are neither measured nor filled; S is
    set to 0 in these voxels.
    """
    allowed_unmeasured: float = Field(0.3, ge=0, le=1)
    """Largest fraction of the taper's weight in voxels that are filled because they were not
    measured.
    """
    memory: float = Field(8000.0, gt=0)
    """Memory for the volumes in MB. A larger volume is kept in a temporary file next to the output.
    """


class Params(Settings):
    """Settings of the stage, and the title."""

    title: str = ""
    """Title of the volume and its pictures; empty: `3D-ΔPDF` or `total PDF`."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Transform the variance of S, then S; write the PDF block by block."""
    from contextlib import ExitStack

    import numpy as np

    from hklflow import plots
    from hklflow.nexus.grid_writer import GridWriter
    from hklflow.nexus.lattice_vectors import write_covariance
    from hklflow.plots import pdf as pictures
    from hklflow.plots.planes import near_origin
    from hklflow.stage import back_to_s
    from hklflow.volumes.back_transform import BackTransform

    with ExitStack() as stack:
        filled, whole = _open(stack, inputs)
        made = _plan(inputs.filled, filled, params)
        kind = "delta" if whole is None else "total"
        title = params.title or _TITLES[kind]
        source = _Source(made, filled, whole)
        vectors = source.vectors
        loaded = _load(made, source, inputs.filled, outputs.pdf.parent, params, threads)
        types = {"data": np.float32, "data_errors": np.float32}
        kinds: Any = {"group": "pdf", "direct": True, "signed": True}
        writer = GridWriter(outputs.pdf, made.direct, made.cell, title, types, **kinds)
        writer = stack.enter_context(writer)
        back = BackTransform(made, loaded.room.block, threads) if kind == "delta" else None
        sections, extrema = _write(writer, loaded, back)
        compared = None if back is None else back.compare(back_to_s.reader(filled))
        if vectors is not None:
            made_of = vectors.vectors, vectors.covariance
            writer.add_group(lambda entry: write_covariance(entry, *made_of))
        metrics = _metrics(loaded, extrema) | loaded.shares
        metrics["at the origin"] = float(sections.rows[0][made.sizes[0] // 2])
        metrics["sigma at the origin"] = float(sections.sigmas[0][made.sizes[0] // 2])
        metrics["lattice vectors"] = vectors.figures() if vectors else None
        metrics["warnings"] = [*_warnings(loaded.shares, loaded.gaps), *filled.doubts]
        metrics["back to S(Q)"] = compared and back_to_s.figures(compared)
        metrics["warnings"] += back_to_s.warnings(compared) if compared else []
        notes = _notes(loaded, kind) | loaded.shares | {"metrics": metrics}
        notes |= {"doubts": filled.doubts, "not in sigma": filled.not_in_sigma}
        if "space_group" in filled.notes:
            notes["space_group"] = filled.notes["space_group"]
        writer.note(notes)
    general = metrics["sigma at a general position"]
    picture = pictures.pair_distribution(
        made.direct,
        made.cell,
        sections,
        general,
        near_origin(notes),
        title,
        (compared, made.grid) if compared else None,
    )
    plots.save(picture, outputs.picture)
    stage.write_json(outputs.metrics, {"kind": kind, **metrics})
    for warning in metrics["warnings"]:
        print(f"warning: {warning}")
    print(_summary(kind, made, metrics))


def _open(stack: "ExitStack", inputs: Inputs) -> "tuple[OpenVolume, OpenVolume | None]":
    """Open the filled volume, and the symmetrised volume if the total PDF is made."""
    from hklflow.nexus.volume import open_volume, require_one_grid

    filled = stack.enter_context(open_volume(inputs.filled))
    if inputs.symmetrised is None:
        return filled, None
    whole = stack.enter_context(open_volume(inputs.symmetrised))
    _require_symmetrised(inputs.symmetrised, whole)
    require_one_grid(
        [filled, whole], f"run the stage fill on {inputs.symmetrised}, then this stage again"
    )
    return filled, whole


class _Loaded(NamedTuple):
    """S and its errors in direct space.

    Attributes
    ----------
    sums : pdf.Sums
        Sums over the voxels of S that entered.
    shares : dict of str to float or None
        Filled shares of the taper's weight, see `_Source.shares`.
    vectors : LatticeVectors or None
        Lattice vectors with a covariance; None if the fill is not that of the spectrum.
    gaps : GapFactor or None
        Factor of the variance by voxels that were not measured; None if it is 1.
    """

    plan: "Plan"
    room: "pdf.Room"
    transform: "pdf.Transform"
    errors: "pdf.Errors"
    sums: "pdf.Sums"
    shares: dict[str, float | None]
    vectors: "LatticeVectors | None"
    gaps: "GapFactor | None"


def _load(
    made: "Plan", source: "_Source", path: Path, folder: Path, params: Params, threads: int
) -> _Loaded:
    """Read and transform the errors, then S, in one memory; large arrays are files in `folder`."""
    import numpy as np

    from hklflow.nexus.grid_writer import PLANES
    from hklflow.nexus.scratch import Scratch
    from hklflow.volumes import pdf
    from hklflow.volumes.gap_errors import gap_factor

    room = pdf.room(made, params.memory)

    def store(fits: bool, shape: tuple[int, ...], dtype: Any) -> pdf.Store:
        return pdf.Store(shape, dtype) if fits else Scratch(shape, dtype, folder)

    half = store(room.half, made.half_shape, np.complex64)
    transform = pdf.Transform(made, half, room.block, threads, source.unit())

    def load(name: str, what: str) -> pdf.Sums:
        steps = list(range(0, made.grid.shape[2], PLANES))
        planes = pdf.slabs(made, lambda a, b: source.read(name, a, b), PLANES)
        return transform.load(
            stage.progress(planes, len(steps), what), variance=name == "data_errors"
        )

    of_errors = load("data_errors", "slabs of errors read")
    kept = store(room.kept, made.kept_shape, np.float32)
    errors = pdf.Errors(made, kept, transform, threads)
    if source.vectors is not None:
        source.vectors.finish(errors)
    sums = load("data", "slabs of S read")
    _check(path, sums, of_errors, params)
    _check_measured(path, source.shares, params)
    gaps = None if source.gaps is None else gap_factor(source.gaps, transform, errors)
    if gaps is not None:
        errors.multiply(gaps.plane, gaps.beyond)
    return _Loaded(made, room, transform, errors, sums, source.shares, source.vectors, gaps)


def _write(
    writer: "GridWriter", loaded: _Loaded, back: "BackTransform | None"
) -> "tuple[Sections, pdf.Found]":
    """Write the PDF and its errors; return the planes for the picture, and the extrema."""
    import numpy as np

    from hklflow.geometry import lattice
    from hklflow.plots.pdf import Sections
    from hklflow.volumes import pdf

    made, grid = loaded.plan, loaded.plan.direct
    extent = lattice.volume(made.cell) * float(np.prod(grid.step * grid.shape))
    rms = float(np.sqrt(loaded.sums.squares * made.scale / extent))
    sections, extrema = Sections(grid), pdf.Found(0.0, [])
    step = writer.chunks[0]
    blocks = pdf.blocks(made, loaded.transform, loaded.errors, step, rms, extrema)
    n_blocks = -(-made.sizes[2] // step)
    for first, values, sigma in stage.progress(blocks, n_blocks, "blocks of the PDF"):
        writer.write_block((first, 0), data=values, data_errors=sigma)
        sections.add(first, values, sigma)
        if loaded.vectors is not None:
            loaded.vectors.collect(first, values)
        if back is not None and back.needs(first, len(values)):
            # It is compared with measured voxels, whose noise is the same for all r.
            back.add(first, values, loaded.errors.of_measured(first, sigma))
    return sections, extrema


class _Source:
    """S and its errors; the symmetrised volume, if given, replaces the punched voxels."""

    def __init__(self, made: "Plan", filled: "OpenVolume", whole: "OpenVolume | None") -> None:
        import numpy as np

        from hklflow.nexus.lattice_vectors import read_prior
        from hklflow.nexus.slabs import SlabReader
        from hklflow.stage.lattice_vectors import LatticeVectors
        from hklflow.volumes.gap_errors import GapSums

        self._plan, self._filled, self._whole = made, filled, whole
        names = [name for name in ("data", "data_errors", "punched") if name in filled.group]
        self._stored = {name: SlabReader(filled.group[name]) for name in names}
        self._weights = np.zeros(4)
        prior = read_prior(filled.group)
        #: Lattice vectors whose covariance is made; None without a prior of the fill.
        self.vectors = None if prior is None else LatticeVectors(made, prior)
        #: Sums over the voxels that were not measured, known after the errors were read. None for
        #: the total PDF, whose reflections say nothing about the errors of the fill.
        self.gaps = GapSums(made) if whole is None and "punched" in self._stored else None
        if whole is not None:
            from hklflow.geometry import lattice

            # Voxels within half the shortest reciprocal vector of 000 contain the direct beam.
            cell = filled.cell
            near = np.stack(np.meshgrid(*([np.arange(-2, 3)] * 3)), axis=-1).reshape(-1, 3)
            lengths = np.linalg.norm(near @ lattice.b_matrix(cell).T, axis=1)
            self._near = 0.5 * float(lengths[lengths > 0].min())

    def read(self, name: str, first: int, last: int) -> "NDArray[np.float32]":
        """Read planes of S or of its errors; the next call overwrites them."""
        import numpy as np

        stored = self._stored[name].read_again(first, last)
        values: NDArray[np.float32] = stored.astype(np.float32, copy=False)
        # Without voxels to put back, the codes are needed only once.
        counted_in = "data_errors" if self._whole is None else "data"
        if "punched" in self._stored and name in ("data_errors", counted_in):
            code = self._stored["punched"].read_again(first, last)
            if self._whole is not None:
                other = self._whole.group[name][first:last]
                put_back = (code == 1) & ~self._at_origin(first, last) & np.isfinite(other)
                np.copyto(values, other, where=put_back)
                code[put_back] = 0
            if name == counted_in:
                for l, plane in enumerate(code, start=first):  # noqa: E741
                    self._weigh(l, plane)
            if name == "data_errors":
                for l, plane in enumerate(code):  # noqa: E741
                    if self.vectors is not None:
                        self.vectors.sums.add(first + l, plane, values[l])
                    if self.gaps is not None:
                        self.gaps.add(first + l, plane, values[l])
        return values

    def unit(self) -> float:
        """Return the unit of the errors on the plane of Q = 0, else on the first with errors."""
        from hklflow.volumes import pdf

        errors, middle = self._filled.group["data_errors"], int(self._plan.zero[2])
        units = (pdf.unit_of(errors[l]) for l in (middle, *range(errors.shape[0])))  # noqa: E741
        return next((unit for unit in units if unit), 1.0)

    def _weigh(self, l: int, code: "NDArray[np.uint8]") -> None:  # noqa: E741
        """Add up the taper of a plane (k, h) by code."""
        from hklflow.volumes import pdf_kernels

        made = self._plan
        l = l - int(made.zero[2])  # noqa: E741
        if abs(l) > made.reach[2]:
            return
        # |Q| of -h k l equals |Q| of h -k -l.
        weights = made.weights(l)
        mates = weights if made.even_in_l else made.weights(-l)
        pdf_kernels.weigh(code, weights, mates, made.zero, made.reach, self._weights)

    @property
    def shares(self) -> dict[str, float | None]:
        """Filled fractions of the taper's weight, known after both passes; None if unknown."""
        total = float(self._weights.sum())
        return {
            f"share of the taper {what} and filled": self._weights[code] / total if total else None
            for code, what in ((1, "punched"), (2, "not measured"))
        }

    def _at_origin(self, first: int, last: int) -> "NDArray[np.bool_]":
        import numpy as np

        from hklflow.geometry import lattice

        h, k, l = (self._filled.grid.axis(i) for i in range(3))  # noqa: E741
        g = (2 * np.pi) ** 2 * np.linalg.inv(lattice.metric(self._filled.cell))
        l, k = l[first:last, None, None], k[:, None]  # noqa: E741
        q2 = g[0, 0] * h * h + g[1, 1] * k * k + g[2, 2] * l * l
        q2 = q2 + 2 * (g[0, 1] * h * k + g[0, 2] * h * l + g[1, 2] * k * l)
        return np.asarray(q2 < self._near**2)


def _require_symmetrised(path: Path, whole: "OpenVolume") -> None:
    from hklflow.base.errors import HklflowError

    held = [name for name in ("punched",) if name in whole.group]
    lacking = [n for n in ("data", "data_errors", "multiplicity") if n not in whole.group]
    lacking += ["operations"] if "operations" not in whole.notes else []
    if held or lacking:
        why = f"it has {held[0]}" if held else f"it has no {' and no '.join(lacking)}"
        raise HklflowError(
            f"symmetrised: {path} is not a symmetrised volume ({why}); give the volume that the "
            "stage symmetrise wrote and the stage fill read"
        )


def _check_measured(path: Path, shares: dict[str, float | None], params: Params) -> None:
    """Refuse S if too much of the taper's weight was filled but not measured."""
    from hklflow.base.errors import HklflowError

    share = shares["share of the taper not measured and filled"]
    if share is not None and share > params.allowed_unmeasured:
        raise HklflowError(
            f"{path}: {100 * share:.3g} % of the taper's weight was not measured but filled, more "
            f"than {100 * params.allowed_unmeasured:g} %; lower q_max, measure more rotations, or "
            "raise allowed_unmeasured"
        )


def _warnings(shares: dict[str, float | None], gaps: "GapFactor | None") -> list[str]:
    share = shares["share of the taper not measured and filled"]
    if share is None or share <= _FILLED:
        return []
    first = f"{100 * share:.2g} % of the taper's weight was not measured but filled: "
    if gaps is None:
        return [
            first + "errors are correlated over whole gaps, so that σ is too small at small r and "
            "too large at large r"
        ]
    return [
        first + "σ contains that errors in a gap are correlated, but it is less certain than "
        "elsewhere, and at small r may be up to 3 times too small; measure more or reduce q_max"
    ]


def _plan(path: Path, filled: "OpenVolume", params: Params) -> "Plan":
    from hklflow.base.errors import HklflowError
    from hklflow.volumes.pdf_plan import plan
    from hklflow.volumes.tapers import Taper

    notes = filled.notes
    q_max = params.q_max if params.q_max is not None else notes.get("q_max")
    if q_max is None or "operations" not in notes:
        lacking = "q_max" if q_max is None else "operations"
        raise HklflowError(
            f"{path} has no {lacking} in its notes; make it with the stage fill"
            + (", or set q_max" if q_max is None else "")
        )
    taper = Taper(params.taper, float(q_max), params.flat)
    return plan(filled.grid, filled.cell, taper, notes["operations"], params.sizes)


def _check(path: Path, sums: "pdf.Sums", of_errors: "pdf.Sums", params: Params) -> None:
    """Refuse S if too much is missing, or if voxels have no error."""
    from hklflow.base.errors import HklflowError

    if sums.weight == 0:
        raise HklflowError(
            f"{path}: no voxel within q_max is measured or filled; check that this is the right "
            "volume, and check its q_max"
        )
    if sums.n_missing != of_errors.n_missing:
        raise HklflowError(
            f"{path}: within q_max, {sums.n_missing} voxels have no S but {of_errors.n_missing} "
            "have no error; make the volume again, so that every voxel has both or neither"
        )
    share = sums.missing / (sums.weight + sums.missing)
    if share > params.allowed_missing:
        raise HklflowError(
            f"{path}: {sums.n_missing} voxels within q_max, {100 * share:.2g} % of the taper's "
            f"weight, are neither measured nor filled; {100 * params.allowed_missing:g} % are "
            "allowed: lower q_max, fill the voxels, or raise allowed_missing"
        )


def _metrics(loaded: _Loaded, extrema: "pdf.Found") -> dict[str, Any]:
    import numpy as np

    from hklflow.geometry import lattice
    from hklflow.volumes import pdf

    made, sums = loaded.plan, loaded.sums
    # ΔV_r = V Δx Δy Δz
    voxel = lattice.volume(made.cell) * float(np.prod(made.direct.step))
    of_s = sums.squares * made.scale
    at_zero = float(made.taper.resolution_function(0.0))
    beyond = max(1.0, made.taper.resolution)
    return {
        "sizes": list(made.sizes),
        "voxel in angstrom": (made.direct.step * made.cell[:3]).tolist(),
        "q_max": made.taper.q_max,
        "resolution in angstrom": made.taper.resolution,
        "Parseval ratio": extrema.squares * voxel / of_s if of_s > 0 else None,
        "sigma at a general position": loaded.errors.general,
        "share of gaps in the variance": loaded.gaps.share if loaded.gaps else 0.0,
        "voxels missing": sums.n_missing,
        "share of the taper missing": sums.missing / (sums.weight + sums.missing),
        "share of the taper on the grid": (sums.weight + sums.missing) * made.scale / at_zero,
        "features": [
            {
                "vector": [round(float(c), 6) for c in x],
                "length": length,
                "value": value,
                "value / sigma": value / sigma if sigma > 0 else None,
            }
            for x, length, value, sigma in pdf.strongest(made, extrema, beyond, _FEATURES)
        ],
    }


def _notes(loaded: _Loaded, kind: str) -> dict[str, Any]:
    made = loaded.plan
    exact = made.moves[2]
    return {
        "kind": kind,
        "definition": "(1/V) sum of w S cos(2 pi h.x) dh dk dl: S per cubic angstrom",
        "taper": {"kind": made.taper.kind, "flat": made.taper.flat},
        "operations": made.operations.tolist(),
        "q_max": made.taper.q_max,
        "scale": made.scale,
        "padding": {
            "voxels of S along h, k, l": list(made.grid.shape),
            "voxels of S that enter": [2 * int(n) + 1 for n in made.reach],
            "padded with zeros to": list(made.sizes),
        },
        "Friedel mates": "one measurement" if made.symmetrised else "averaged by this stage",
        "missing": f"{loaded.sums.n_missing} voxels within q_max counted as 0",
        "000": "as filled by the stage fill: the PDF is relative to the mean density",
        "errors": (
            "from the errors of the symmetrised voxels, with equivalents fully correlated and "
            "filled voxels independent; "
            + (
                "those that were not measured have errors with the pair distribution of S; "
                if loaded.gaps is not None
                else ""
            )
            + (
                "at lattice vectors with what the holes lost, see `lattice_vectors`; "
                if loaded.vectors is not None
                else "errors of the fill are not included (they add up at lattice vectors, where "
                "all holes have the same phase); "
            )
            + ("exact" if exact else "V at the nearest voxel")
        ),
        "kept in a scratch file": not loaded.room.half,
    }


def _summary(kind: str, made: "Plan", metrics: dict[str, Any]) -> str:
    feature = "no feature besides the origin"
    if metrics["features"]:
        strongest = metrics["features"][0]
        feature = (
            f"strongest feature at {strongest['length']:.2f} Å "
            f"({strongest['value / sigma']:.0f} σ of noise)"
        )
    return (
        f"{kind} PDF of {' x '.join(str(n) for n in made.sizes)} voxels up to "
        f"{made.taper.q_max:.2f} 1/Å, resolution {made.taper.resolution:.2f} Å: {feature}; "
        f"{100 * metrics['share of the taper missing']:.2g} % of the taper's weight missing"
    )


if __name__ == "__main__":
    stage.command(main)
