"""Constants of darks and fluorescence against what was simulated: biases, pulls, speed.

    python -m benchmarks.constants_truth_a [--quick]

A pull is (found - true) / error: its mean should be 0 and its width 1. Speeds are of one core,
in millions of pixel-frames a second of processor time; compiling is not timed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.truth.defaults import dark_limits, spectrum

from hklflow.constants import dark, simulate
from hklflow.constants.base import process
from hklflow.constants.files import Constants
from hklflow.constants.fluorescence import fluorescence
from hklflow.constants.gathered import About, GatheredWriter, open_gathered
from hklflow.constants.simulate import Truth
from hklflow.constants.simulate_photons import Foil, deposit

CU, MO, CU_BETA, MO_BETA = 8.041, 17.444, 8.905, 19.607
BLOCK = 500


def write(
    path: Path, truth: Truth, kind: str, n: int, foil: Foil | None, stage: int | None
) -> None:
    """Gathered frames of fluorescence, or of a dark."""
    rng = np.random.default_rng(n + 7 * (stage or 0))
    about = About("agipd", path.stem, 0, 0, kind, ("1",))
    frames = np.full(truth.cells, n)
    with GatheredWriter(path, about, np.arange(truth.cells), frames, truth.shape) as file:
        for cell in range(truth.cells):
            for begin in range(0, n, BLOCK):
                train = np.arange(begin, min(begin + BLOCK, n))
                energy = np.zeros((len(train), *truth.shape))
                if foil is not None:
                    energy = deposit(foil, len(train), truth.shape, rng)
                analog, digital = truth.respond(energy, cell, rng, stage)
                file.append(np.full(len(train), cell), train, train, analog, digital)


def darks(folder: Path, truth: Truth, kind: str, n: int) -> tuple[Constants, float]:
    """Constants of darks, and pixel-frames a second."""
    paths = [folder / f"dark_{stage}.h5" for stage in ("high", "medium", "low")]
    for stage, path in enumerate(paths):
        write(path, truth, kind, n, None, stage)
    files = [open_gathered(path) for path in paths]
    inputs = [file.__enter__() for file in files]
    began = time.process_time()
    found = process(dark.Dark(kind, dark_limits()), inputs, 500)
    taken = time.process_time() - began
    for file in files:
        file.__exit__(None, None, None)
    return found, 3 * n * truth.offset[0].size / taken


def pull(found: np.ndarray, true: np.ndarray, errors: np.ndarray) -> str:
    """Bias in per cent, scatter in per cent, mean and width of the pull."""
    good = np.isfinite(found)
    found, true, errors = found[good], true[good], errors[good]
    pulls, off = (found - true) / errors, found / true - 1
    return (
        f"{100 * off.mean():+8.4f} {100 * off.std():8.4f} {pulls.mean():+7.3f} {pulls.std():6.3f}"
        f" {100 * (1 - good.mean()):6.2f}"
    )


def dark_table(n: int, cells: int, shape: tuple[int, int]) -> None:
    """Darks of both detectors."""
    print(f"\ndark: {n} frames of {cells} memory cells, {shape} pixels")
    print("detector stage  quantity   bias %    rms %    pull  width  lost %   Mpx-frames/s")
    kinds: list[tuple[str, Callable[..., Truth], str]] = [
        ("agipd", simulate.agipd, "level"),
        ("jungfrau", simulate.jungfrau, "stage"),
    ]
    for name, make, kind in kinds:
        truth = make(np.random.default_rng(1), cells, shape)
        with tempfile.TemporaryDirectory() as folder:
            darks(Path(folder), truth, kind, 20)  # compile
            found, speed = darks(Path(folder), truth, kind, n)
        for stage, label in enumerate(("high", "medium", "low")):
            for quantity in ("offset", "noise", "level"):
                if quantity == "level" and kind == "stage":
                    continue
                told = pull(
                    found[quantity][stage],
                    getattr(truth, quantity)[stage],
                    found[f"{quantity}_errors"][stage],
                )
                print(f"{name:8s} {label:6s} {quantity:8s} {told}   {speed / 1e6:7.1f}")
        if kind == "level":
            print(f"         least separation of levels {found['separation'].min():.1f} sigma")


def xray_table(n: int, cells: int, shape: tuple[int, int]) -> None:
    """Fluorescence of foils, as it should be and worse."""
    print(f"\nx-rays: {n} frames of {cells} memory cells, {shape} pixels; gain of stage high")
    print(f"{'case':34s}   bias %    rms %    pull  width  lost %    chi2   Mpx-frames/s")
    plain = {"energy": CU}
    cases: list[tuple[str, str, Foil, dict[str, object], int]] = [
        ("AGIPD, Cu, 20 % shared", "agipd", Foil(CU), plain, n),
        ("AGIPD, Mo, 20 % shared", "agipd", Foil(MO), {"energy": MO}, n),
        ("AGIPD, Cu, nothing shared", "agipd", Foil(CU, sharing=0), plain, n),
        ("AGIPD, Cu, 1 photon a frame", "agipd", Foil(CU, rate=1.0), plain | {"max_photons": 3}, n),
        ("AGIPD, Cu, a tenth of the frames", "agipd", Foil(CU), plain, n // 10),
        ("AGIPD, Mo, K-beta fitted", "agipd",
         Foil(MO, beta_energy=MO_BETA, beta_weight=0.15),
         {"energy": MO, "beta_energy": MO_BETA}, n),
        ("AGIPD, Cu, K-beta known", "agipd", Foil(CU, beta_energy=CU_BETA, beta_weight=0.12),
         plain | {"beta_energy": CU_BETA, "beta_weight": 0.12}, n),
        ("AGIPD, Cu, K-beta not told of", "agipd",
         Foil(CU, beta_energy=CU_BETA, beta_weight=0.12), plain, n),
        ("AGIPD, Cu, diffused", "agipd", Foil(CU, cloud=0.25), plain | {"sharing": "cloud"}, n),
        ("AGIPD, Cu, diffused, fitted even", "agipd", Foil(CU, cloud=0.25), plain, n),
        ("AGIPD, Mo, diffused, fitted even", "agipd", Foil(MO, cloud=0.25), {"energy": MO}, n),
        ("JUNGFRAU, Cu, 20 % shared", "jungfrau", Foil(CU), plain, n),
    ]  # fmt: skip
    for label, name, foil, settings, frames in cases:
        truth = getattr(simulate, name)(np.random.default_rng(2), cells, shape)
        kind = "level" if name == "agipd" else "stage"
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            known, _ = darks(folder, truth, kind, 1000)
            write(folder / "xray.h5", truth, kind, frames, foil, None)
            for _ in range(2):  # the first one compiles
                with open_gathered(folder / "xray.h5") as gathered:
                    began = time.process_time()
                    found = fluorescence(gathered, known, spectrum(**settings), 500)
                    speed = frames * truth.offset[0].size / (time.process_time() - began)
        told = pull(found["gain_high"], truth.gain[0], found["gain_high_errors"])
        chi2 = np.nanmedian(found["chi2"])
        print(f"{label:34s} {told}  {chi2:6.3f}  {speed / 1e6:7.1f}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pixels")
    quick = parser.parse_args().quick
    dark_table(500 if quick else 1000, 2, (32, 32) if quick else (64, 64))
    xray_table(20000, 1, (12, 12) if quick else (32, 32))


if __name__ == "__main__":
    main()
