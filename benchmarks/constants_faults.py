"""What faults of calibration runs give: each is made on a small simulated detector.

    python -m benchmarks.constants_faults FOLDER

Two modules of two ASICs (8 x 8 pixels, 2 memory cells) are measured in the laboratory's layout;
`snakemake constants` reduces each case in a folder of its own.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from hklflow.constants import files
from hklflow.constants.detectors import integrating
from hklflow.constants.simulate import Truth, agipd
from hklflow.constants.simulate_photons import Foil
from hklflow.constants.simulate_runs import Campaign, write_campaign

MODULE, ASIC, CELLS = (16, 8), (8, 8), 2
REPOSITORY = Path(__file__).parents[1]
TRUTHS: dict[int, Truth] = {m: agipd(np.random.default_rng(m), CELLS, MODULE) for m in (0, 1)}
ENERGY = 17.444

Entry = dict[str, Any]


def make(folder: Path) -> Entry:
    campaign = Campaign(xrays=3000, foil=Foil(ENERGY), pulses=[(200, 1.0)])
    runs = write_campaign(
        folder / "raw", "lab", integrating("agipd", MODULE, ASIC), TRUTHS, campaign,
        np.random.default_rng(3),
    )  # fmt: skip
    (folder / "config").mkdir()
    (folder / "config/samples.tsv").write_text("sample\tspace_group\n")
    (folder / "config/scans.tsv").write_text(
        "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
    )
    del runs["current_source"]
    return {
        "detector": "agipd", "layout": "lab", "modules": [0, 1], "module_size": list(MODULE),
        "asic_size": list(ASIC), "runs": _relative(runs, folder),
        "process_xray": {"energy": ENERGY},
        "combine_constants": {"default_gain": [8.0, 0.25, 0.05]},
    }  # fmt: skip


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _relative(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item, folder) for item in value]
    return str(Path(value).relative_to(folder))


def swapped(folder: Path, entry: Entry) -> None:
    runs = entry["runs"]
    runs["dark_medium"], runs["dark_low"] = runs["dark_low"], runs["dark_medium"]


def dead_asic(folder: Path, entry: Entry) -> None:
    for path in (folder / "raw").rglob("*_m01_*.h5"):
        with h5py.File(path, "r+") as file:
            for name in ("analog", "digital"):
                file[name][:, :8] = 0


def missing_module(folder: Path, entry: Entry) -> None:
    for path in (folder / "raw").rglob("*_m01_*.h5"):
        path.unlink()


def lost(*trains: int) -> Callable[[Path, Entry], None]:
    def lose(folder: Path, entry: Entry) -> None:
        for path in (folder / "raw").rglob("*_m01_*.h5"):
            with h5py.File(path, "r+") as file:
                train = file["train"][()]
                known = np.unique(train)
                kept = ~np.isin(train, known[list(trains)])
                for name in ("analog", "digital", "cell", "train"):
                    values = file[name][()][kept]
                    del file[name]
                    file[name] = values

    return lose


def foil(folder: Path, entry: Entry) -> None:
    entry["process_xray"]["energy"] = 8.041


def foil_expected(folder: Path, entry: Entry) -> None:
    entry["process_xray"] |= {"energy": 8.041, "expected_gain": [6.0, 10.0]}


CASES: dict[str, Callable[[Path, Entry], None]] = {
    "no fault": lambda folder, entry: None,
    "dark runs of medium and low swapped": swapped,
    "ASIC 1/0 dead (zeros)": dead_asic,
    "module 1 without files": missing_module,
    "module 1 lost its first 3 trains": lost(0, 1, 2),
    "module 1 lost trains 20 to 22": lost(20, 21, 22),
    "module 1 lost its last 3 trains": lost(-3, -2, -1),
    "foil energy 8.041 instead of 17.444 keV": foil,
    "the same, with expected_gain": foil_expected,
}


def show(folder: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "constants", "--cores", "2", "--keep-going"]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    results = folder / "results/constants/agipd"
    told = sorted(
        {
            line.strip()
            for log in (folder / "results/logs").rglob("*.log")
            for line in log.read_text().splitlines()
            if line.startswith("hklflow ")
        }
    )
    print(f"  exit {done.returncode}")
    for line in told[:2]:
        print(f"  {line}")
    if not (results / "constants.nxs").exists():
        return
    with files.open_constants(results / "constants.nxs") as constants:
        for number, truth in TRUTHS.items():
            module = constants.module(number)
            with np.errstate(invalid="ignore", divide="ignore"):
                pull = (module["offset"] - truth.offset) / module["offset_errors"]
                gain = module["gain"][0] / truth.gain[0]
                ratio = module["gain_ratio_mh"] / (truth.gain[1] / truth.gain[0])
            masked = (module["pixel_mask"] != 0).reshape(2, -1).mean(axis=1)
            print(
                f"  module {number}: offset pull {_spread(pull)}, gain / truth {_middle(gain)}, "
                f"ratio / truth {_middle(ratio)}; masked of its ASICs {masked[0]:.2f} "
                f"{masked[1]:.2f}"
            )


def _spread(values: Any) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():+.2f} ± {known.std():.2f}" if known.size else "none"


def _middle(values: Any) -> str:
    known = values[np.isfinite(values)]
    return f"{np.median(known):.4f}" if known.size else "none"


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute()
    shutil.rmtree(place / "made", ignore_errors=True)
    (place / "made").mkdir(parents=True)
    made = make(place / "made")
    for name, fault in CASES.items():
        print(name, flush=True)
        shutil.rmtree(place / "case", ignore_errors=True)
        shutil.copytree(place / "made", place / "case")
        changed = yaml.safe_load(yaml.safe_dump(made))
        fault(place / "case", changed)
        text = yaml.safe_dump({"constants": {"agipd": changed}})
        (place / "case/config/config.yaml").write_text(text)
        show(place / "case")
