"""Statistics of merging: hklflow and DIALS (dials.scale, dials.merge) on the same reflections.

    python -m benchmarks.merging_dials [DIR] [--measured ORIENTATION REFLECTIONS ...]

Reflections are made with known intensities, scales, B, errors and outliers; DIALS gets them as
``.refl`` and ``.expt``. Measured ones are the files of the stages `refine` and `integrate`, the
rotations in the order of the orientation. Needs DIALS on PATH. DIR is where its files are kept.
Both use the same model: scale and B smooth in each rotation, no absorption, errors
a² (σ² + (b I)²), outliers at 6 σ.
"""

# isort: off
from tests.truth.defaults import gather, merge, scaling_settings, shell_statistics
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import json
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth.reflections import PER_COUNT, Truth, rotation, turned

from hklflow import geometry, nexus
from hklflow.bragg import observations, scaling
from hklflow.bragg.reflections import UNFIT, Reflections
from hklflow.dials.programs import Dials, find
from hklflow.formats.dials_expt import write_expt
from hklflow.formats.dials_refl import Refl, read_refl, write_refl
from hklflow.geometry import Rotation, directions, lattice, symmetry
from hklflow.geometry.model import Model

SHELLS = 5
PREDICTED, SUMMED, FITTED = 1, 256, 512
OUTLIER = 1 << 23
FIGURES = (
    *("observations", "unique", "completeness", "multiplicity", "I/sigma"),
    *("R_merge", "R_meas", "R_pim", "CC1/2"),
)


def cases() -> dict[str, Truth]:
    two = [rotation(), rotation(kappa=40)]
    bent = [
        lambda x: 1 + 0.2 * np.sin(np.radians(2 * x)),
        lambda x: 1.7 - 0.3 * np.cos(np.radians(3 * x)),
    ]
    fading = [lambda x: 0 * x, lambda x: 0.5 + 0.003 * x]
    common = {"rotations": two, "group": "P 21 21 21", "scale": bent, "decay": fading}
    return {
        "strong": Truth(**common, noise=(1.0, 0.02), seed=1),
        "weak": Truth(**common, strength=1.0, background=100.0, noise=(1.0, 0.02), seed=2),
        "errors too small, outliers": Truth(
            **common, noise=(1.5, 0.04), outliers=(0.01, 25.0), seed=3
        ),
        "errors too large": Truth(**common, noise=(0.5, 0.0), seed=4),
    }


#: Intensity and its error by index.
Merged = dict[tuple[int, ...], tuple[float, float]]


@dataclass(frozen=True)
class Measured:
    """As `Truth`, without a truth."""

    tables: list[Reflections]
    rotations: list[Rotation]
    ub: Any
    cell: tuple[float, ...]
    group: str

    @classmethod
    def of(cls, orientation: Path, reflections: list[Path]) -> "Measured":
        data = json.loads(orientation.read_text())
        tables = [nexus.read_reflections(path) for path in reflections]
        # What scaling uses, in counts.
        usable = []
        for table in tables:
            good = np.isfinite(table.intensity_profile) & (table.sigma_profile > 0)
            kept = table.select(good & ~table.has(UNFIT))
            unit = PER_COUNT / np.median(kept.volume / kept.norm)
            changed = ("intensity_sum", "sigma_sum", "intensity_profile", "sigma_profile", "volume")
            usable.append(replace(kept, **{name: unit * getattr(kept, name) for name in changed}))
        rotations = [geometry.from_dict(x) for x in data["rotations"].values()]
        ub = np.array(data["UB"])
        return cls(usable, rotations, ub, tuple(data["cell"]), data["space_group"])


def ours(
    truth: Truth | Measured,
) -> tuple[dict[str, Any], Merged]:
    """Figures and merged intensities."""
    group = symmetry.space_group(truth.group)
    observed, _ = gather(truth.tables, truth.rotations, group, "profile")
    spans = [observations.span(one) for one in truth.rotations]
    found = scaling.scale(observed, group, spans, scaling_settings())
    table = found.scaled(observed)
    table = table.select(~group.is_absent(table.hkl))
    merged = merge(table, truth.cell, group)
    figures = shell_statistics(merged, truth.cell, group, len(spans), n_shells=SHELLS).overall
    figures |= {"a": found.errors.a, "b": found.errors.b, "outliers": int(merged.outlier.sum())}
    factors = merged.factors
    values = zip(factors.mean.intensity, factors.mean.sigma, strict=True)
    return figures, dict(zip(map(tuple, factors.hkl.tolist()), values, strict=True))


def as_refl(
    table: Reflections, one: Rotation, group: str, number: int, name: str, per_count: float
) -> Refl:
    """Reflections of one rotation, without absent ones, as dials.integrate would give them."""
    n = len(table)
    at = np.stack([table.fast, table.slow, table.frame], axis=1)
    ray = directions(one.detector.lab(table.slow, table.fast)) * [-1, 1, -1]
    columns: dict[str, Any] = {
        "id": np.full(n, number),
        "imageset_id": np.full(n, number),
        "panel": np.zeros(n, np.int64),
        "flags": np.full(n, PREDICTED | SUMMED | FITTED),
        "miller_index": table.hkl.astype(np.int32),
        "xyzcal.px": at,
        "xyzobs.px.value": at,
        "xyzobs.px.variance": np.full((n, 3), 0.01),
        "s1": ray / one.beam.wavelength,
        "d": table.d,
        "lp": np.ones(n),
        "qe": np.ones(n),
        "partiality": np.ones(n),
        "zeta": table.zeta,
        "profile.correlation": np.full(n, 0.9),
        "bbox": np.zeros((n, 6), np.int32),
        "background.mean": np.ones(n),
        "num_pixels.foreground": table.n_foreground.astype(np.int32),
        "num_pixels.background": table.n_background.astype(np.int32),
    }
    for kind, value, sigma in (
        ("sum", table.intensity_sum, table.sigma_sum),
        ("prf", table.intensity_profile, table.sigma_profile),
    ):
        columns[f"intensity.{kind}.value"] = value / per_count
        columns[f"intensity.{kind}.variance"] = (sigma / per_count) ** 2
    mm = at * [*(1e3 * x for x in one.detector.pixel_size[::-1]), 1.0]
    mm[:, 2] = one.scan.angle(table.frame)
    columns["xyzcal.mm"] = columns["xyzobs.mm.value"] = mm
    absent = symmetry.space_group(group).is_absent(table.hkl)
    return Refl(columns, {number: name}, n).select(~absent)


def write(truth: Truth | Measured, folder: Path) -> None:
    """Integrated reflections as dials.integrate would have written them."""
    ub = truth.ub if isinstance(truth, Measured) else turned(truth.cell)
    models = [
        Model(one, ub, truth.group, raw=str(folder / f"none_{i}_####.cbf"), name=f"r{i}")
        for i, one in enumerate(truth.rotations)
    ]
    names = write_expt(folder / "integrated.expt", models)
    tables = [
        as_refl(table, one, truth.group, i, names[i], PER_COUNT)
        for i, (table, one) in enumerate(zip(truth.tables, truth.rotations, strict=True))
    ]
    merged = {key: np.concatenate([t.columns[key] for t in tables]) for key in tables[0].columns}
    write_refl(
        folder / "integrated.refl",
        Refl(merged, dict(enumerate(names)), sum(len(t) for t in tables)),
    )


def theirs(dials: Dials, truth: Truth | Measured, folder: Path) -> tuple[dict[str, Any], Merged]:
    """Figures and merged intensities of dials.scale and dials.merge."""
    write(truth, folder)
    dials.run(
        "dials.scale",
        [
            *("integrated.expt", "integrated.refl", "model=physical", "anomalous=False"),
            *("physical.absorption_correction=False", "reflection_selection.method=use_all"),
            *("intensity_choice=profile", f"merging.nbins={SHELLS}", "full_matrix=False"),
        ],
        folder,
        "scaled.expt",
        "scaled.refl",
    )
    said = (folder / "dials.scale.out").read_text()
    dials.run(
        "dials.merge",
        [
            *("scaled.expt", "scaled.refl", "anomalous=False", "output.html=None"),
            *("assess_space_group=False", "truncate=False"),
        ],
        folder,
        "merged.mtz",
    )
    merged = read_merged(folder / "merged.mtz")
    flags = read_refl(folder / "scaled.refl").columns["flags"].astype(np.int64)
    return figures_of(said) | {"outliers": int(np.sum((flags & OUTLIER) != 0))}, merged


def read_merged(path: Path) -> Merged:
    """Merged intensities of dials.merge."""
    from iotbx import mtz

    arrays = mtz.object(str(path)).as_miller_arrays()
    mean = next(a for a in arrays if a.info().labels[0] == "IMEAN").map_to_asu()
    rows = zip(mean.indices(), mean.data(), mean.sigmas(), strict=True)
    return {tuple(h): (value, sigma) for h, value, sigma in rows}


def figures_of(said: str) -> dict[str, Any]:
    """Overall figures of the log of dials.scale."""
    labels = {
        "Total observations": "observations",
        "Total unique": "unique",
        "Completeness": "completeness",
        "Multiplicity": "multiplicity",
        "I/sigma": "I/sigma",
        "Rmerge(I)": "R_merge",
        "Rmeas(I)": "R_meas",
        "Rpim(I)": "R_pim",
        "CC half": "CC1/2",
    }
    found: dict[str, Any] = {}
    for text in said.splitlines():
        for label, name in labels.items():
            if text.strip().startswith(label):
                numbers = re.findall(r"-?\d+\.?\d*", text[text.index(label) + len(label) :])
                if numbers:
                    found[name] = float(numbers[0])
    if "completeness" in found:
        found["completeness"] /= 100
    for name in "ab":
        if told := re.findall(rf"\b{name}\s*=\s*([-\d.eE+]+)", said):
            found[name] = float(told[-1])
    return found


def against(truth: Truth, merged: Merged) -> dict[str, float]:
    """Pull and correlation with the true intensities, after one common scale and B.

    DIALS's B is 0 somewhere else than the truth's.
    """
    keys = [key for key in merged if truth.unique.get(key, 0.0) > 0]
    true = np.array([truth.unique[key] for key in keys])
    value, sigma = np.array([merged[key] for key in keys]).T
    s2 = 0.25 / lattice.d_spacing(truth.cell, np.array(keys)) ** 2
    strong = value > 10 * sigma
    line = np.polyfit(
        s2[strong], np.log(value[strong] / true[strong]), 1, w=(value / sigma)[strong]
    )
    k = np.exp(np.polyval(line, s2))
    value, sigma = value / k, sigma / k
    pull = (value - true) / sigma
    middle = 1.4826 * np.median(np.abs(pull))
    return {
        "pull, rms": float(np.sqrt(np.mean(pull**2))),
        "pull, from the median": float(middle),
        "correlation with truth": float(np.corrcoef(value, true)[0, 1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--measured", nargs="+", type=Path)
    given = parser.parse_args()
    dials = find()
    base = given.folder or Path(tempfile.mkdtemp())
    wanted: dict[str, Truth | Measured]
    if given.measured:
        wanted = {"measured": Measured.of(given.measured[0], given.measured[1:])}
    else:
        wanted = dict(cases())
    for name, data in wanted.items():
        folder = (base / re.sub(r"\W+", "_", name)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        known = f": a = {data.noise[0]}, b = {data.noise[1]}" if isinstance(data, Truth) else ""
        print(f"\n{name}{known}")
        columns, intensities = [], []
        for figures, merged in (ours(data), theirs(dials, data, folder)):
            judged = against(data, merged) if isinstance(data, Truth) else {}
            columns.append(figures | judged)
            intensities.append(merged)
        print(f"{'':24s}{'hklflow':>12s}{dials.label:>14s}")
        for row in (*FIGURES, "a", "b", "outliers", *judged):
            shown = [f"{c[row]:.4f}" if c.get(row) is not None else "-" for c in columns]
            print(f"{row:24s}{shown[0]:>12s}{shown[1]:>14s}")
        common = [key for key in intensities[0] if key in intensities[1]]
        pairs = np.array([[m[key][0] for m in intensities] for key in common])
        print(f"correlation of the means {np.corrcoef(pairs.T)[0, 1]:.4f} over {len(common)}")


if __name__ == "__main__":
    main()
