"""A small experiment with volumes and one rotation, and requests to its viewer."""

import http.client
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import h5py
import numpy as np
import yaml

from hklflow import nexus
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.images.masks import MaskBit
from hklflow.images.scan import RotationScan
from hklflow.peaks.table import FIELDS, PeakTable
from hklflow.view import server
from tests.cli.volumes import GRID, bright, pair_distribution, write
from tests.test_config import CONFIG, RAW, SAMPLES, SCANS
from tests.truth.orientations import write_orientation

LIBRARY = b"// plotly.js"
FLAG = 65535
FIRST = 2  # raw frames before the scan
LEFT_OUT = 4  # number of a frame of the scan
N, SLOW, FAST = 9, 60, 50
UB = np.array([[1.3, 0.2, 0.0], [0.0, 1.1, 0.1], [0.1, 0.0, 0.9]])
ROTATION = Rotation(
    Beam(0.7, 0.99),
    Detector(
        (SLOW, FAST),
        (2e-3, 3e-3),
        np.array([0.075, 0.061, 0.12]),
        np.array([0.0, -np.cos(0.05), np.sin(0.05)]),
        np.array([-1.0, 0.0, 0.0]),
    ),
    Goniometer(("chi", "phi"), np.array([[0, 0, 1.0], [-1, 0, 0]]), np.radians([20.0, 0.0]), 1),
    Scan(np.radians(10.0), np.radians(1.5), N),
)


def make(base: Path) -> Path:
    """An experiment with S(Q) at two temperatures, a ΔPDF, a rotation, and what is no product."""
    for name in ("config", "raw", "out/hexa/300K/r1", "out/hexa/100K/r1"):
        (base / name).mkdir(parents=True)
    (base / "config/samples.tsv").write_text(SAMPLES)
    (base / "config/scans.tsv").write_text(SCANS)
    (base / "config/config.yaml").write_text(yaml.safe_dump(CONFIG))
    for name in RAW:
        (base / "raw" / name).touch()
    random = np.random.default_rng(1)
    for scan in ("300K", "100K"):
        data = random.gamma(2.0, 3.0, GRID.array_shape)
        data[:4] = np.nan
        write(base / f"out/hexa/{scan}/transform.nxs", data, errors=np.sqrt(data))
    pairs = random.normal(size=GRID.array_shape)
    pair_distribution(base / "out/hexa/300K/delta_pdf_transform.nxs", pairs, GRID)
    bright(base / "out/hexa/300K/r1/transform.nxs", (1, 0, 0))
    bright(base / "secret.nxs", (1, 0, 0))
    (base / "out/hexa/100K/symm_transform.nxs").symlink_to(base / "secret.nxs")
    (base / "out/hexa/100K/other.nxs").write_text("no volume")
    (base / "plotly.min.js").write_bytes(LIBRARY)
    _write_rotation(base, base / "out/hexa/300K/r1")
    write_orientation(base / "out/hexa/300K/orientation.json", {"r1": ROTATION}, UB, sample="hexa")
    # A scan file that somebody put there as a link to another folder.
    (base / "elsewhere").mkdir()
    shutil.copy(base / "out/hexa/300K/r1/scan.nxs", base / "elsewhere/scan.nxs")
    (base / "out/hexa/100K/r1/scan.nxs").symlink_to(base / "elsewhere/scan.nxs")
    return base


def counts() -> np.ndarray:
    """Raw frames; pixel (5, 7) is flagged in frame 1 of the scan, the corner in all."""
    random = np.random.default_rng(5)
    frames = random.poisson(3.0, (FIRST + N, SLOW, FAST)).astype(np.uint16)
    frames[FIRST + 1, 5, 7] = FLAG
    frames[:, :3, :3] = FLAG
    return frames


def mask_bits() -> np.ndarray:
    bits = np.zeros((SLOW, FAST), np.uint32)
    bits[:3, :3] = MaskBit.GAP
    bits[30, 20] = MaskBit.DEAD | MaskBit.USER
    return bits


def excluded() -> np.ndarray:
    bits = np.zeros((N, SLOW, FAST), bool)
    bits[6, 40:44, 30:33] = True
    return bits


def peak_table() -> PeakTable:
    random = np.random.default_rng(6)
    columns: dict[str, Any] = {name: random.uniform(1, 2, 12) for name in FIELDS}
    columns["frame"] = np.sort(random.uniform(0, N, 12))
    columns["slow"], columns["fast"] = (random.uniform(0, n, 12) for n in (SLOW, FAST))
    for name in ("flags", "n_pixels", "n_frames"):
        columns[name] = np.ones(12, np.int64)
    columns["flags"] = np.where(np.arange(12) % 3, 0, 8)
    return PeakTable(**columns, counts={"peaks": 12})


def _write_rotation(base: Path, folder: Path) -> None:
    with h5py.File(base / "raw/a1.nxs", "w") as file:
        file["entry/data/data"] = counts()
    scan = RotationScan(
        raw="raw/a1.nxs",  # relative to the experiment, as the workflow writes it
        first=FIRST,
        rotation=ROTATION,
        monitor=np.ones(N),
        exposure=np.ones(N),
        attenuation=np.ones(N),
        monitor_source="none",
        left_out=(FIRST + LEFT_OUT,),
    )
    nexus.write_scan(folder / "scan.nxs", scan, "a rotation", None)
    nexus.write_mask(folder / "mask.nxs", mask_bits())
    flags = excluded()
    with nexus.FrameMaskWriter(folder / "frame_mask.nxs", flags.shape) as writer:
        writer.append(np.packbits(flags, axis=-1), flags.mean(axis=(1, 2)))
    nexus.write_peaks(folder / "peaks.nxs", peak_table())


def request(
    viewer: server.Server, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes]:
    """Status and body; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.server_port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask(viewer: server.Server, what: str, **query: Any) -> tuple[int, dict[str, Any]]:
    """Status, and an answer with its arrays."""
    code, body = request(viewer, f"/{viewer.token}/{what}?{urlencode(query)}")
    head, _, rest = body.partition(b"\n")
    found = json.loads(head)
    for about in found.get("arrays", ()):
        count = int(np.prod(about["shape"], dtype=int))
        values = np.frombuffer(rest, "<" + about["type"], count).reshape(about["shape"])
        found[about["name"]], rest = values, rest[values.nbytes :]
    assert "arrays" not in found or not rest
    return code, found


def key(viewer: server.Server, scan: str, name: str) -> str:
    """Id of a volume or rotation."""
    _, found = ask(viewer, "list")
    items = [*found["volumes"], *found["rotations"]]
    (item,) = (v for v in items if (v["scan"], v["name"]) == (scan, name))
    return str(item["id"])
