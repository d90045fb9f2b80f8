"""Merge the reflections of still frames to structure factors.

Frames that can be indexed in several ways are reindexed by correlation, all frames are put on one
scale with a model of partiality, and the errors come from the scatter of equivalents.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.bragg.still_scaling import StillScaling
    from hklflow.bragg.stills import Stills
    from hklflow.bragg.structure_factors import Scaled

VERSION = 1
_CLEAR = 0.1  # lead in correlation of an indexing that is clear


class Inputs(stage.Inputs):
    batches: list[Path]
    """Indexed frames of all batches."""


class Outputs(stage.Outputs):
    factors: Path
    """Unique reflections: intensity, amplitude, errors, multiplicity."""
    mtz: Path
    """The same reflections as MTZ."""
    hkl: Path
    """The same reflections in SHELX format HKLF 4."""
    table: Path
    """The same reflections as tab-separated text."""
    frames: Path
    """Text table of all frames: used or not and why, spots, scale, correlation."""
    picture: Path
    """Picture: statistics by resolution, partiality, scale and correlation of the frames."""
    metrics: Path
    """Statistics by resolution, model of partiality, frames that are left out, warnings."""
    page: Path
    """Page with picture, statistics and warnings."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    partiality: Literal["gaussian", "none"] = "gaussian"
    """Model of partiality. `gaussian`: nodes with a size and a mosaic spread that all frames share,
    both refined. `none`: intensities are averaged as measured (Monte-Carlo averaging); needs
    thousands of frames."""
    min_partiality: float = Field(0.3, ge=0, lt=1)
    """Smallest partiality of a reflection that is merged, relative to its node on the Ewald sphere.
    """
    orientation_sigma: float = Field(0.1, ge=0)
    """Error of the orientations of DIALS in degrees, the restraint of their refinement against
    the intensities. 0: orientations are not refined."""
    min_correlation: float = Field(0.3, ge=-1, lt=1)
    """Smallest correlation of the intensities of a frame with the other frames. Frames below it are
    left out."""
    anomalous: bool = False
    """Treat Friedel mates as not equivalent, and list them also separately."""
    d_min: float | None = Field(None, gt=0)
    """Smallest d-spacing in Å; None: all reflections."""
    shells: int = Field(10, ge=1, le=100)
    """Number of resolution shells, of equal volume, in the statistics."""
    outlier_sigma: float = Field(6.0, ge=3)
    """Limit of an outlier: deviation from its equivalents, in standard deviations."""
    amplitudes: Literal["french_wilson", "plain"] = "french_wilson"
    """`french_wilson`: expected |F| for non-negative intensities; `plain`: root of the intensity,
    0 for a negative intensity."""
    min_indexed: float = Field(0.5, ge=0, le=1)
    """Gate: smallest share of the frames that are indexed."""
    min_half: float = Field(0.9, ge=-1, le=1)
    """Gate: smallest CC1/2 of all reflections."""
    seed: int = Field(0, ge=0)
    """Seed of the random halves for CC1/2, and of the order in which frames are reindexed."""


class Params(Settings):
    """Settings of the stage, and the name of the sample."""

    sample: str = Field()
    """Name of the stills in the configuration."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Reindex, scale and merge; write the results."""
    from hklflow import plots
    from hklflow.bragg import merging, shells
    from hklflow.bragg.stills import cell_length
    from hklflow.bragg.structure_factors import Crystal
    from hklflow.formats import mtz, shelx
    from hklflow.geometry import symmetry
    from hklflow.nexus import structure_factors as files
    from hklflow.nexus.stills import write_frames
    from hklflow.plots import stills as pictures

    stills, rejected, counts = _read(inputs.batches, params)
    group = symmetry.space_group(stills.space_group)
    length = cell_length(stills)
    stills, choice = _reindexed(stills, group, params)
    scaling = _scaled(stills, group, params)
    crystal = Crystal(
        sample=params.sample,
        scan="stills",
        parent="stills",
        space_group=group.symbol,
        cell=tuple(symmetry.constrain_cell(stills.cell, group).tolist()),
        cell_sigma=(0.0,) * 6,
        wavelength=stills.beam.wavelength,
        temperature=None,
    )
    merged = merging.merge(
        scaling.scaled,
        crystal.cell,
        group,
        params.anomalous,
        params.outlier_sigma,
        params.amplitudes,
    )
    table = shells.statistics(merged, crystal.cell, group, 1, params.shells, params.seed)
    metrics = {
        "sample": params.sample,
        "space group": group.symbol,
        "Laue group": group.laue,
        **counts,
        "cell of the frames": {"relative length": length.value, "sigma": length.sigma},
        "indexing": choice,
        **_model(scaling, params),
        "outliers": int(merged.outlier.sum()),
        "merged": int(merged.factors.mean.n.sum()),
        "unique": len(merged.factors),
        "overall": table.overall,
        "shells": table.rows,
    }
    metrics["gates"] = _gates(metrics, params)
    metrics["warnings"] = [
        *counts["failures"],
        *length.warnings(),
        *_unclear(choice),
        *_too_large(scaling.scaled, crystal.cell, group),
        *(gate["sentence"] for gate in metrics["gates"] if not gate["passed"]),
        *merged.warnings,
        *([scaling.errors.why_not] if scaling.errors.why_not else []),
    ]
    title = f"{params.sample}: structure factors of still frames in {group.symbol}"
    files.write_factors(outputs.factors, merged.factors, crystal, metrics, title)
    mtz.write_mtz(outputs.mtz, merged.factors, crystal, group, title)
    files.write_table(outputs.table, merged.factors)
    write_frames(outputs.frames, stills.frames, scaling, rejected)
    shelx.write_hklf4(
        outputs.hkl, *shelx.rows_of(merged.factors, None), crystal=crystal, merged=True
    )
    plots.save(pictures.merged(metrics, _profile(stills, scaling), scaling, title), outputs.picture)
    stage.write_json(outputs.metrics, metrics)
    _write_page(outputs, metrics, title)
    print("\n".join([shells.line(table), *metrics["warnings"]]))


def _read(paths: list[Path], params: Params) -> "tuple[Stills, dict[int, str], dict[str, Any]]":
    """Return the frames of all batches, the reasons of those that are missing, and numbers.

    Raises
    ------
    HklflowError
        If no frame is indexed.
    """
    from collections import Counter
    from dataclasses import replace

    from hklflow.base.errors import HklflowError
    from hklflow.bragg.stills import joined
    from hklflow.geometry import lattice
    from hklflow.nexus.stills import read_stills

    read = [read_stills(path) for path in paths]
    reasons = Counter(reason for _, rejected in read for reason in rejected.values())
    indexed = sum(len(part.frames) for part, _ in read)
    n_frames = indexed + sum(reasons.values())
    failures = []
    for number, (part, rejected) in enumerate(read):
        if not len(part.frames):
            # The frames of a batch may have different reasons.
            (reason, n), *others = Counter(rejected.values()).most_common() or [("no frames", 0)]
            of = f" ({n} of them)" if others else ""
            failures.append(f"batch {number} has none of its {len(rejected)} frames: {reason}{of}")
    if not indexed:
        most = reasons.most_common(1)[0][0] if reasons else "there are no frames"
        raise HklflowError(
            f"none of the {n_frames} frames of {params.sample} is indexed ({most}); check cell, "
            "space group, wavelength and geometry, and the logs of index_stills"
        )
    parts = [part for part, _ in read if len(part.frames)]
    stills = joined(parts)
    keep = lattice.d_spacing(stills.cell, stills.reflections.hkl) >= (params.d_min or 0.0)
    stills = replace(stills, reflections=stills.reflections.select(keep))
    return (
        stills,
        {k: v for _, rejected in read for k, v in rejected.items()},
        {
            "frames": n_frames,
            "indexed frames": indexed,
            "share indexed": indexed / n_frames,
            "why not": dict(reasons),
            "failures": failures,
        },
    )


def _reindexed(stills: "Stills", group: Any, params: Params) -> "tuple[Stills, dict[str, Any]]":
    """Return the frames with one indexing, and figures of the choice."""
    import numpy as np

    from hklflow.bragg import reindexing
    from hklflow.geometry.symmetry import reindexing_operators

    operations = reindexing_operators(stills.cell, group)
    operations = reindexing.not_by_cell(stills, operations) if operations else []
    if not operations:
        return stills, {"operations": 0, "note": "the indexing is unique"}
    found = reindexing.choose(stills, group, operations, params.seed)
    every = np.stack([np.eye(3), *operations])
    stills = reindexing.reindexed(stills, every, found.operation)
    return stills, {
        "operations": len(operations),
        "frames of each indexing": np.bincount(found.operation, minlength=len(operations) + 1),
        "median lead in correlation": float(np.nanmedian(found.margin)),
        "frames without a clear choice": int(np.sum(~(found.margin > _CLEAR))),
    }


def _unclear(choice: dict[str, Any]) -> list[str]:
    """Return a warning if frames could not be told between the indexings."""
    n = choice.get("frames without a clear choice", 0)
    if not n:
        return []
    return [
        f"frames that fit another indexing almost as well (correlations closer than {_CLEAR:g}): "
        f"{n}; some may have the wrong one; measure more frames, or frames with more reflections"
    ]


def _too_large(scaled: "Scaled", cell: tuple[float, ...], group: Any) -> list[str]:
    """Return a warning for each class of reflections that a smaller cell does not have.

    All spots lie also on the lattice of a multiple of the true cell, so DIALS does not notice.
    """
    from hklflow.bragg.sublattices import sublattices
    from hklflow.bragg.unmerged import unmerged
    from hklflow.geometry import lattice

    metric = lattice.metric(cell)
    data = unmerged(scaled.hkl, scaled.intensity, scaled.sigma_counting, metric, 0.0)
    return sublattices(data, group).notes


def _scaled(stills: "Stills", group: Any, params: Params) -> "StillScaling":
    import numpy as np

    from hklflow.bragg import still_scaling

    settings = still_scaling.Settings(
        params.partiality == "gaussian",
        params.min_partiality,
        float(np.radians(params.orientation_sigma)),
        params.min_correlation,
    )
    return still_scaling.scale(stills, _correction(stills), group, params.anomalous, settings)


def _correction(stills: "Stills") -> "NDArray[np.float64]":
    """Return the factor (n,) of the counts: polarization, and efficiency of the sensor."""
    import numpy as np

    from hklflow.geometry import corrections

    detector, table = stills.detector, stills.reflections
    per_pixel = corrections.polarization(detector, stills.beam.polarization)
    per_pixel = per_pixel * corrections.sensor_efficiency(detector)
    at = [
        np.clip(np.floor(x).astype(int), 0, n - 1)
        for x, n in zip((table.slow, table.fast), detector.shape, strict=True)
    ]
    factor: NDArray[np.float64] = 1 / per_pixel[at[0], at[1]]
    return factor


def _model(scaling: "StillScaling", params: Params) -> dict[str, Any]:
    """Return the figures of partiality, scales and errors."""
    import numpy as np

    used = scaling.used
    known = scaling.correlation[used & np.isfinite(scaling.correlation)]
    node = scaling.node
    return {
        "partiality": {
            "model": params.partiality,
            "smallest": params.min_partiality,
            "size of a node (1/Å, with 2π)": node.size,
            "mosaic spread with the error of the orientations (degrees)": np.degrees(node.spread),
            "median rotation by the refinement (degrees)": float(np.median(scaling.rotated)),
        },
        "frames that do not agree": int((~used).sum()),
        "correlation of a frame with the others": float(np.median(known)) if len(known) else None,
        "scale of the frames": {
            "smallest": float(scaling.scale[used].min()),
            "largest": float(scaling.scale[used].max()),
        },
        "error model": {
            "a": scaling.errors.a,
            "b": scaling.errors.b,
            "deviations": scaling.errors.deviations,
        },
    }


def _gates(metrics: dict[str, Any], params: Params) -> list[dict[str, Any]]:
    share, half = metrics["share indexed"], metrics["overall"]["CC1/2"]
    return [
        {
            "name": "indexed",
            "value": share,
            "limit": params.min_indexed,
            "passed": share >= params.min_indexed,
            "sentence": f"{share:.0%} of the frames are indexed; the limit is "
            f"{params.min_indexed:.0%}",
        },
        {
            "name": "CC1/2",
            "value": half,
            "limit": params.min_half,
            "passed": half is not None and half >= params.min_half,
            "sentence": f"CC1/2 is {'not known' if half is None else f'{half:.3f}'}; the limit is "
            f"{params.min_half:g}: measure more frames",
        },
    ]


def _profile(stills: "Stills", scaling: "StillScaling") -> "NDArray[np.float64]":
    """Return excitation errors in widths of the node, of the used reflections."""
    import numpy as np

    from hklflow.bragg.stills import scattering

    table, frames = stills.reflections, stills.frames
    q, e = scattering(frames.ub[table.frame], table.hkl, stills.beam.k)
    away: NDArray[np.float64] = e / scaling.node.width(q, stills.beam.k)
    return away


def _write_page(outputs: Outputs, metrics: dict[str, Any], title: str) -> None:
    from hklflow.page import markup
    from hklflow.page.numbers import flat
    from hklflow.page.pictures import pack

    figures = {key: value for key, value in metrics.items() if key not in ("shells", "warnings")}
    picture = pack([outputs.picture])[0]
    rows = [[name, value] for name, value in flat(figures)]
    columns = ("d min", "unique", "completeness", "multiplicity", "I/sigma", "R_meas", "CC1/2")
    shown = [
        ["" if row[name] is None else f"{row[name]:.4g}" for name in columns]
        for row in metrics["shells"]
    ]
    warnings = [markup.tag("p", text, class_="warn") for text in metrics["warnings"]]
    html = markup.document(
        title,
        markup.tag("h1", title),
        *warnings,
        markup.gallery([("merged", "Statistics, partiality and frames.", picture)], "merged"),
        markup.tag("h2", "Shells"),
        markup.table(columns, shown),
        markup.tag("h2", "Figures"),
        markup.table(("figure", "value"), rows),
    )
    outputs.page.write_text(html, encoding="utf-8")


if __name__ == "__main__":
    stage.command(main)
