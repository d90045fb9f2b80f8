"""Changes of the ΔPDF with temperature against known Warren-Cowley parameters.

    python -m benchmarks.pdf_series_truth vectors [--first 0] [--series 100]
        [--kinds null scale debye together change] [--counts 3 30 300] [--known 0.01 0.1]
    python -m benchmarks.pdf_series_truth whole FOLDER [--first 0] [--series 6] [--kinds ...]
        [--counts 30] [--scans 5]

Series of tests/truth/pdf_series.py. `whole` makes each volume (41³ voxels, counting noise,
reflections) and runs the stages symmetrise, fill, pdf and stack_pdf. `vectors` draws the values at
lattice vectors with the covariance that one such volume has, and tests them as the stage does; the
scale of the scans is known to --known.

The ideal significance of a change is √λ, with λ the χ² of the true values against constancy.
Ripples of vectors that change make others change a little: vectors whose α does not change and
whose λ is more than 1 are counted neither as right nor as wrong. Printed are

* series with a wrong claim, and wrong claims of all claims;
* claims of vectors whose α changes with √λ of 2 to 4, 4 to 8 and more;
* mean and width of (found − true)/σ of the differences to the parent, and of the same without what
  is common, for the 40 shortest vectors.
"""
# ruff: noqa: I001

import argparse
import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
import numpy as np

from hklflow import nexus, stage
from hklflow.nexus.lattice_vectors import read_covariance
from hklflow.orientation.product import Orientation
from hklflow.stages import fill, pdf, stack_pdf, symmetrise
from hklflow.volumes.pdf_changes import Values, changes
from hklflow.volumes.tapers import Taper
from tests.truth import pdf_series
from tests.truth.pdf_series import Series

GROUPS = {"cubic": "P m m m", "monoclinic": "P 1 2/m 1", "triclinic": "P -1"}
SCALE_ERROR = 0.01  # default of the stage
CLASSES = ((2.0, 4.0), (4.0, 8.0), (8.0, np.inf))
SHORT = 40


def make_pdf(series: Series, i: int, folder: Path) -> Path:
    """Run the stages from counts to the pair distribution of one scan; return its file."""
    cell = np.array(series.lattice.cell)
    place = {"picture": folder / "picture.png", "metrics": folder / "metrics.json"}
    known = Orientation.known("s", {}, series.lattice.reciprocal, GROUPS[series.cell], series.grid)
    stage.write_json(folder / "orientation.json", known.to_dict())
    counts, norm = series.counts(i)
    volume = nexus.Volume(series.grid, cell, counts.astype(np.float64), norm)
    nexus.write_volume(folder / "merged.nxs", volume, "s")
    names = ("symm.nxs", "filled.nxs", f"delta_pdf_{i}.nxs")
    symm, filled, made = (folder / name for name in names)
    oriented = {"orientation": folder / "orientation.json"}
    _run(
        symmetrise, {"volumes": [folder / "merged.nxs"], **oriented}, {"symmetrised": symm, **place}
    )
    _run(fill, {"symmetrised": symm, **oriented}, {"filled": filled, **place}, radius=0.2)
    _run(pdf, {"filled": filled}, {"pdf": made, **place})
    return made


def _run(module, inputs, outputs, **params):  # type: ignore[no-untyped-def]  # stages differ
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=1,
    )


def write_scales(series: Series, path: Path) -> None:
    """Write the table of the temperature series with the scales of a series."""
    rows = ["scan\tscale\tscale_sigma\tdebye_waller"]
    for i, scale in enumerate(series.known_scale):
        error = 0.0 if i == series.parent else scale * series.scale_error
        rows.append(f"s{i}\t{scale}\t{error}\t{series.b[i] - series.b[series.parent]}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


@dataclass
class Tally:
    """Sums over the series of a row."""

    series: int = 0
    wrong_series: int = 0
    wrong: int = 0
    claims: int = 0
    found: list[int] = field(default_factory=lambda: [0] * len(CLASSES))
    there: list[int] = field(default_factory=lambda: [0] * len(CLASSES))
    differences: list[np.ndarray] = field(default_factory=list)
    departures: list[np.ndarray] = field(default_factory=list)
    factors: list[np.ndarray] = field(default_factory=list)

    def add(self, changed: np.ndarray, alpha: np.ndarray, ideal: np.ndarray) -> None:
        """Add the claims (n,) of a series: true changes of α (n,), and their λ (n,)."""
        wrong = changed & ~alpha & (ideal <= 1)
        self.series += 1
        self.wrong_series += bool(wrong.any())
        self.wrong += int(wrong.sum())
        self.claims += int(changed.sum())
        for k, (low, high) in enumerate(CLASSES):
            own = alpha & (np.sqrt(ideal) > low) & (np.sqrt(ideal) <= high)
            self.there[k] += int(own.sum())
            self.found[k] += int((own & changed).sum())

    def line(self, title: str) -> None:
        """Print the figures."""
        recall = "  ".join(f"{a:4d}/{b:<4d}" for a, b in zip(self.found, self.there, strict=True))
        text = f"{title:34s} {self.wrong_series:3d}/{self.series:<4d} "
        text += f"{self.wrong:4d}/{self.claims:<5d} {recall}"
        for values in (self.differences, self.departures):
            pulls = np.concatenate([x.ravel() for x in values]) if values else np.array([np.nan])
            text += f"  {pulls.mean():+5.2f} {pulls.std():5.2f}"
        if self.factors:
            text += f"  factor of the coldest scan {np.mean(self.factors):.3f}"
        print(text, flush=True)


def ideal(truth: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return λ (n,) of true values (T, n) with errors (T, n)."""
    weight = 1 / sigma**2
    mean = (weight * truth).sum(axis=0) / weight.sum(axis=0)
    return np.asarray((weight * (truth - mean) ** 2).sum(axis=0))


def whole(series: Series, folder: Path, tally: Tally) -> dict[str, object]:
    """Add a series through the real stages; return the results of the stage."""
    volumes = [make_pdf(series, i, folder) for i in range(len(series.temperatures))]
    write_scales(series, folder / "series.tsv")
    names = ("stack", "table", "picture", "changes", "changes_picture", "results")
    suffixes = (".nxs", ".tsv", ".png", "_series.tsv", "_series.png", "_series.json")
    outputs = {
        name: folder / f"stack{suffix}" for name, suffix in zip(names, suffixes, strict=True)
    }
    scans = [f"s{i}" for i in range(len(volumes))]
    _run(
        stack_pdf,
        {"volumes": volumes, "series": folder / "series.tsv"},
        outputs,
        scans=scans,
        temperatures=series.temperatures.tolist(),
        parent=scans[series.parent],
    )
    with outputs["changes"].open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    n = len(rows) // len(scans)

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows]).reshape(n, -1).T

    vectors = np.stack([column(x)[0] for x in "xyz"], axis=1)
    own = numbers(series, vectors)
    kept = own >= 0
    own = own[kept]
    truth = series.pdf()[0][:, own]
    changed = np.array([row["changes"] == "yes" for row in rows]).reshape(n, -1)[kept, 0]
    sigma = column("departure_sigma")[:, kept]
    expected = ideal(truth, sigma) if series.kind == "change" else 0 * ideal(truth, sigma)
    tally.add(changed, series.changed[own] & (series.kind == "change"), expected)
    away = (column("difference")[:, kept] - (truth - truth[-1])) / np.maximum(
        column("difference_sigma")[:, kept], 1e-300
    )
    tally.differences.append(away[:-1, :SHORT])
    results: dict[str, object] = json.loads(outputs["results"].read_text(encoding="utf-8"))
    tally.factors.append(np.array(results["common factor"])[0])
    if series.kind not in ("debye", "together"):
        departure = column("departure")[:, kept]
        pulls = (departure - departure[-1] - truth + truth[-1]) / np.hypot(sigma, sigma[-1])
        tally.departures.append(pulls[:-1, :SHORT])
    return results


def numbers(series: Series, vectors: np.ndarray) -> np.ndarray:
    """Return the number of each vector (n, 3) in the series; -1 if it has none."""
    known = {
        tuple(np.rint(mate).astype(int).tolist()): i
        for i, vector in enumerate(series.vectors)
        for mate in vector @ series.lattice.operations
    }
    return np.array([known.get(tuple(np.rint(x).astype(int).tolist()), -1) for x in vectors])


@dataclass(frozen=True)
class Known:
    """Lattice vectors without 000, their covariance at 30 counts, and the image of the origin."""

    vectors: np.ndarray
    covariance: np.ndarray
    ripple: np.ndarray
    taper: Taper


def known(cell: str) -> Known:
    """Return what one volume of a cell has."""
    series = pdf_series.draw(0, "null", counts=30.0, cell=cell)
    with TemporaryDirectory() as name:
        path = make_pdf(series, 0, Path(name))
        with nexus.open_volume(path, "pdf") as volume:
            stored = read_covariance(volume.group)
    assert stored is not None
    vectors, covariance = stored
    keep = np.any(vectors != 0, axis=1)
    taper = Taper("tukey", series.world.q_max, 0.5)
    length = np.linalg.norm(vectors[keep] @ series.lattice.direct.T, axis=1)
    ripple = taper.resolution_function(length) / taper.resolution_function(0.0)
    return Known(vectors[keep], covariance[np.ix_(keep, keep)], ripple, taper)


def at_vectors(series: Series, base: Known, tally: Tally) -> None:
    """Add a series whose values are drawn with a known covariance."""
    own = numbers(series, base.vectors)
    kept = own >= 0
    n_t = len(series.temperatures)
    truth = np.zeros((n_t, len(own)))
    at_lattice, origin = series.pdf()
    truth[:, kept] = at_lattice[:, own[kept]]
    rng = np.random.default_rng([series.seed, 9])
    root = np.linalg.cholesky(base.covariance * 30 / series.norm)
    relative = series.scale / series.known_scale
    noise = relative[:, None] * (rng.normal(size=truth.shape) @ root.T)
    errors = np.full(n_t, np.hypot(series.scale_error, SCALE_ERROR))
    errors[series.parent] = 1e-4
    q = np.linspace(0, base.taper.q_max, 500)
    weight = base.taper(q) * q * q
    damping = np.exp(-2 * np.outer(series.b - series.b[-1], (q / (4 * np.pi)) ** 2))
    spread = -np.log(damping @ weight / weight.sum()) / 2
    matrices = relative[:, None, None] ** 2 * base.covariance * 30 / series.norm
    found = changes(
        Values(
            series.temperatures,
            relative[:, None] * truth + noise,
            matrices,
            np.zeros((n_t, 0)),
            np.zeros((n_t, 0)),
            base.ripple * origin[-1],
            kept,
            -spread,
            np.hypot(errors, spread),
        ),
        0.05,
    )
    alpha = np.zeros(len(own), bool)
    expected = np.zeros(len(own))
    if series.kind == "change":
        alpha[kept] = series.changed[own[kept]]
        expected = ideal(truth, found.sigma)
    tally.add(found.changed, alpha, expected)
    tally.factors.append(found.factor[0])
    if series.kind not in ("debye", "together"):
        pulls = (found.departure - found.departure[-1] - truth + truth[-1]) / np.hypot(
            found.sigma, found.sigma[-1]
        )
        tally.departures.append(pulls[:-1, :SHORT])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", choices=("vectors", "whole"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--first", type=int, default=0, help="seed of the first series")
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", default=list(pdf_series.KINDS))
    parser.add_argument("--counts", type=float, nargs="+", default=[3.0, 30.0, 300.0])
    parser.add_argument("--known", type=float, nargs="+", default=[0.01])
    parser.add_argument("--scans", type=int, default=5)
    args = parser.parse_args()
    bases = {}
    if args.path == "vectors":
        bases = {cell: known(cell) for cell in pdf_series.CELLS}
    classes = ", ".join(f"{a:g} to {b:g}" for a, b in CLASSES)
    print(f"kind, counts, error of scales: wrong series, wrong claims, found ({classes}), pulls")
    for kind in args.kinds:
        for counts in args.counts:
            for error in args.known:
                tally = Tally()
                for seed in range(args.first, args.first + args.series):
                    options = {"counts": counts, "scale_error": error}
                    if args.path == "vectors":
                        series = pdf_series.draw(seed, kind, scans=4 + seed % 7, **options)
                        at_vectors(series, bases[series.cell], tally)
                    else:
                        series = pdf_series.draw(seed, kind, scans=args.scans, **options)
                        folder = args.folder / f"{kind}_{counts:g}_{seed}"
                        folder.mkdir(parents=True, exist_ok=True)
                        results = whole(series, folder, tally)
                        print(seed, "\n".join(results["sentences"]), sep="\n", flush=True)
                tally.line(f"{kind}, {counts:g}, {error:g}")


if __name__ == "__main__":
    main()
