"""Choice of the peaks that index and refine a scan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.images.pixel_binning import PixelBinning
from hklflow.peaks.table import FIELDS, PeakTable
from hklflow.stage.orientation import observe
from hklflow.stage.peak_choice import PeakChoice, read_listed
from hklflow.stages import refine, refine_parent
from tests.truth import worlds
from tests.truth.pictures import without_pictures
from tests.truth.world_scans import compared, scan_of, table_of

WORLD = worlds.world("plain", "cubic", 21)
SCANS = [scan_of(WORLD, i) for i in range(len(WORLD.scans))]
TABLES = [table_of(WORLD, i) for i in range(len(WORLD.scans))]
NAMES = [f"r{i}" for i in range(len(WORLD.scans))]
OF_SCAN = ("s", "o")
HEADER = "sample\tscan\trotation\tframe\tslow\tfast\n"


def angles_of(table: PeakTable) -> np.ndarray:
    """Scattering angles in degrees, from the places of the pixels: the beam is along z."""
    instrument = WORLD.instrument
    at = instrument.origin + instrument.pixel_size * (
        table.slow[:, None] * instrument.slow + table.fast[:, None] * instrument.fast
    )
    return np.degrees(np.arctan2(np.hypot(at[:, 0], at[:, 1]), at[:, 2]))


def q_of(table: PeakTable) -> np.ndarray:
    """|Q| in 1/Å by Bragg's law."""
    return 4 * np.pi / WORLD.instrument.wavelength * np.sin(np.radians(angles_of(table)) / 2)


def listed(path: Path, keep: list[np.ndarray], jitter: float = 0.3) -> Path:
    """Write the peaks that are not kept, with places that another search could have found."""
    rng = np.random.default_rng(2)
    lines = [HEADER.rstrip("\n") + "\tcomment"]
    for name, table, own in zip(NAMES, TABLES, keep, strict=True):
        rows = np.stack([table.frame, table.slow, table.fast], axis=1)[~own]
        rows += rng.uniform(-jitter, jitter, rows.shape)
        lines += [f"s\to\t{name}\t{f:.2f}\t{s:.2f}\t{x:.2f}\tbad" for f, s, x in rows]
        lines += [f"s\tother\t{name}\t{f:.2f}\t{s:.2f}\t{x:.2f}\t" for f, s, x in rows + 50]
    path.write_text("\n".join(lines) + "\n")
    return path


def case(kind: str, folder: Path) -> tuple[dict[str, Any], list[np.ndarray], str]:
    """Return the settings of a limit, the peaks that it leaves, and the reason for the others."""
    if kind == "two_theta":
        keep, params = [angles_of(t) <= 15 for t in TABLES], {"max_two_theta": 15.0}
        return params, keep, "beyond `orientation: max_two_theta`"
    if kind == "q":
        keep, params = [q_of(t) >= 3.2 for t in TABLES], {"min_q": 3.2}
        return params, keep, "beyond `orientation: min_q`"
    if kind == "intensity":
        limit = float(np.median(np.concatenate([t.intensity for t in TABLES])))
        keep = [t.intensity <= limit for t in TABLES]
        return {"max_intensity": limit}, keep, "beyond `orientation: max_intensity`"
    if kind == "frames":
        last = SCANS[0].rotation.scan.n_frames // 2
        keep = [(t.frame >= 3) & (t.frame < last + 1) for t in TABLES]
        items = (f"r0:3-{last}", "other:0-1")
        return {"use_frames": items}, keep, "outside of `orientation: use_frames`"
    if kind == "region":
        slow = SCANS[0].rotation.detector.shape[0]
        side = {"shape": "rectangle", "slow_min": -1, "slow_max": 0.4 * slow}
        shape = side | {"fast_min": -1, "fast_max": 1e5}
        keep = [t.slow >= 0.4 * slow for t in TABLES]
        return {"leave_out_shapes": (shape,)}, keep, "inside `orientation: leave_out_shapes`"
    rng = np.random.default_rng(5)
    keep = [rng.random(len(t)) < 0.6 for t in TABLES]
    file = listed(folder / "bad.tsv", keep)
    return {"leave_out_peaks": file}, keep, "listed in `orientation: leave_out_peaks`"


KINDS = ("two_theta", "q", "intensity", "frames", "region", "list")


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_leaves_exactly_the_peaks_within_it(kind: str, tmp_path: Path) -> None:
    params, keep, reason = case(kind, tmp_path)
    found = observe(NAMES, SCANS, TABLES, None, PeakChoice(**params), OF_SCAN)
    within = [t.select(k) for t, k in zip(TABLES, keep, strict=True)]
    expected = observe(NAMES, SCANS, within)
    for one, other in zip(found.tables, expected.tables, strict=True):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    n_out = sum(int(np.sum(~k)) for k in keep)
    assert n_out > 50
    assert found.left_out[reason] == n_out
    assert found.n_found == sum(map(len, TABLES))


def misplaced(table: PeakTable, keep: np.ndarray, number: int) -> PeakTable:
    """Let so many of the peaks that are not to be used have the frames of each other."""
    rng = np.random.default_rng(1)
    which = rng.permutation(np.flatnonzero(~keep))[:number]
    columns = {name: getattr(table, name).copy() for name in FIELDS}
    columns["frame"][which] = rng.permutation(columns["frame"][which])
    return PeakTable(**columns, counts={})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["q", "region"])
def test_peaks_that_are_left_out_change_nothing(kind: str, tmp_path: Path) -> None:
    """A quarter of all peaks is elsewhere, beyond the limit: parent and child do not notice."""
    params, keeps, reason = case(kind, tmp_path)
    identity = {"sample": "s", "rotations": NAMES}
    scans, full, within = [], [], []
    for i, (table, keep) in enumerate(zip(TABLES, keeps, strict=True)):
        far = misplaced(table, keep, len(keep) // 4)
        for tables, one in ((full, far), (within, table.select(keep))):
            tables.append(tmp_path / f"{len(full)}{len(within)}_{i}.nxs")
            nexus.write_peaks(tables[-1], one)
        scans.append(tmp_path / f"scan{i}.nxs")
        nexus.write_scan(scans[-1], SCANS[i], f"r{i}", None)

    @without_pictures()
    def found(name: str, peaks: list[Path], **params: Any) -> list[dict[str, Any]]:
        out = tmp_path / name
        out.mkdir()
        cell = {"space_group": WORLD.space_group, "cell": tuple(WORLD.cell)}
        refine_parent.main(
            inputs=refine_parent.Inputs(scans=scans, peaks=peaks),
            outputs=refine_parent.Outputs(orientation=out / "p.json", picture=out / "p.png"),
            params=refine_parent.Params(
                scan="p", grid_limits=(1, 1, 1), **cell, **identity, **params
            ),
        )
        refine.main(
            inputs=refine.Inputs(scans=scans, peaks=peaks, parent=out / "p.json"),
            outputs=refine.Outputs(orientation=out / "o.json", picture=out / "o.png"),
            params=refine.Params(scan="o", **identity, **params),
        )
        return [stage.read_json(out / name) for name in ("p.json", "o.json")]

    limited = found("limited", full, **params)
    for one, other in zip(limited, found("cut", within), strict=True):
        np.testing.assert_allclose(one["UB"], other["UB"], rtol=1e-12)
        assert one["cell_sigma"] == pytest.approx(other["cell_sigma"], rel=1e-9)
        assert one["metrics"]["peaks"] == other["metrics"]["peaks"]
        assert one["metrics"]["peaks left out"][reason] > 100
    assert compared(WORLD, limited[0]).worst < 4
    assert found("all", full)[0]["metrics"]["fraction indexed"] < 0.95


def test_several_limits_count_a_peak_once() -> None:
    choice = PeakChoice(max_two_theta=15, max_q=2.5, use_frames=("0-40",))
    found = observe(NAMES, SCANS, TABLES, None, choice, OF_SCAN)
    keep = [(angles_of(t) <= 15) & (q_of(t) <= 2.5) & (t.frame < 41) for t in TABLES]
    left = sum(n for reason, n in found.left_out.items() if "orientation:" in reason)
    assert left == sum(int(np.sum(~k)) for k in keep)


def test_places_are_those_of_the_measured_frames(tmp_path: Path) -> None:
    """First frame 7, frames binned 2 x 2: frames and pixels count as on the detector."""
    scan, table = SCANS[0], TABLES[0]
    shape = scan.rotation.detector.shape
    binned = replace(scan, first=7, binning=PixelBinning(2, (2 * shape[0], 2 * shape[1])))
    at = int(np.argmax(table.intensity))
    place = table.frame[at] + 7, 2 * table.slow[at], 2 * table.fast[at]
    file = tmp_path / "bad.tsv"
    file.write_text(HEADER + "s\to@tight\tr\t{:.1f}\t{:.1f}\t{:.1f}\n".format(*place))
    circle = {"shape": "circle", "slow": place[1], "fast": place[2], "radius": 1}
    for params in ({"leave_out_peaks": file}, {"leave_out_shapes": (circle,)}):
        found = observe(["r"], [binned], [table], None, PeakChoice(**params), OF_SCAN)
        assert 1 <= sum(n for r, n in found.left_out.items() if "orientation:" in r) <= 3
        assert table.intensity[at] not in found.tables[0].intensity
    frame = int(table.frame[at]) + 7
    used = PeakChoice(use_frames=(str(frame),))
    kept = observe(["r"], [binned], [table], None, used, OF_SCAN)
    assert table.intensity[at] in kept.tables[0].intensity
    with pytest.raises(HklflowError, match=r"has 0-6, but r uses the raw frames 7 to"):
        observe(["r"], [binned], [table], None, PeakChoice(use_frames=("r:0-6",)), OF_SCAN)


def test_lines_without_a_peak_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "bad.tsv"
    table = TABLES[0]
    real = f"s\to\tr0\t{table.frame[3]}\t{table.slow[3]}\t{table.fast[3]}\n"
    file.write_text(HEADER + real + "s\to\tr0\t-40\t3\t4\ns\to\tr9\t1\t3\t4\nt\to\tr0\t1\t3\t4\n")
    found = observe(NAMES, SCANS, TABLES, None, PeakChoice(leave_out_peaks=file), OF_SCAN)
    assert found.left_out["listed in `orientation: leave_out_peaks`"] == 1
    [note] = found.notes
    assert "2 of 3 lines of" in note
    assert "(line 4, 3)" in note


def test_a_choice_that_leaves_no_peak_is_refused_with_the_numbers() -> None:
    smallest = min(angles_of(t).min() for t in TABLES)
    told = rf"all \d+ peaks are left out .*the peaks have {smallest:.4g} to .* degrees\); widen"
    with pytest.raises(HklflowError, match=told):
        observe(NAMES, SCANS, TABLES, None, PeakChoice(max_two_theta=smallest / 2), OF_SCAN)
    every = observe(NAMES, SCANS, TABLES, None, PeakChoice(max_two_theta=180), OF_SCAN)
    assert [len(t) for t in every.tables] == [len(t) for t in observe(NAMES, SCANS, TABLES).tables]
    nothing = [t.select(np.zeros(len(t), bool)) for t in TABLES]
    none = observe(NAMES, SCANS, nothing, None, PeakChoice(max_two_theta=1), OF_SCAN)
    assert none.left_out == {}


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"min_q": 3.0, "max_q": 2.0}, "min_q = 3 is not below max_q = 2"),
        ({"max_intensity": 0}, "greater than 0"),
        ({"use_frames": ["9-3"]}, "names no frames"),
        (
            {"leave_out_shapes": [{"shape": "ring", "slow": 1, "fast": 1, "inner": 5, "outer": 2}]},
            "width=-3",
        ),
    ],
)
def test_limits_that_mean_nothing_are_refused(params: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        PeakChoice(**params)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "its first line has no column sample, scan, rotation, frame, slow, fast"),
        ("sample\tscan\tframe\tslow\tfast\n", "has no column rotation"),
        (HEADER + "s\to\tr\t1\t2\n", "line 2: frame '1', slow '2', fast ''"),
        (HEADER + "\n# no\ns\to\tr\tx\tnan\t2\n", "line 4: frame 'x', slow 'nan', fast '2'"),
    ],
)
def test_a_file_that_is_no_table_of_peaks(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(text)
    with pytest.raises(HklflowError) as error:
        read_listed(path)
    assert told in str(error.value)
