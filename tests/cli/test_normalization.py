"""A normalisation of the store: measured with a standard, used for a scan, told where it is old.

The truth: a detector whose pixels respond by a known pattern sees an isotropic scatterer, air, and
a scan with twice the scattering of the standard, all simulated.
"""

import csv
import json
from pathlib import Path
from typing import Any

import gemmi
import h5py
import numpy as np
import pytest
import yaml

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.experiment.config import load
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.jobs import Plan
from hklflow.formats.raw import read_header
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry import detector_to_dict
from hklflow.geometry.grid import Grid
from hklflow.images import pixel_groups
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.images.mask3d import pack
from hklflow.quality import verdict
from hklflow.simulation.frames import (
    Background,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stage import tags
from hklflow.stages import (
    artificial_normalization,
    bin_frames,
    import_scan,
    merge,
    merge_reflections,
    scale_reflections,
    symmetrise,
    transform,
)
from tests.truth.orientations import write_orientation
from tests.truth.reflections import Truth, rotation

from .conftest import Done, Hklflow

SHAPE, PIXEL, DISTANCE = (60, 70), 500e-6, 0.08
AREA = (PIXEL / DISTANCE) ** 2
STATE = {
    "detector": "simulated", "serial": "1", "shape": list(SHAPE), "pixel_size": [PIXEL, PIXEL],
    "material": "Si", "thickness": 1e-3, "distance": DISTANCE, "two_theta": 0, "stage": [0, 0, 0],
    "energy": 12398.419843320026 / 0.5, "threshold": 10000, "binning": 1,
}  # fmt: skip
BY, WHY = ("--author", "A. Person"), ("--comments", "a test")
N = 20


def pattern() -> np.ndarray:
    made = np.random.default_rng(3).normal(1, 0.05, SHAPE)
    made[:, :35] *= 1.12
    return made / made.mean()


def write(path: Path, flat: float, seed: int, flux: float = 8.0, air: float = 0.0) -> Path:
    """A scan of an isotropic scatterer, of air, or of both."""
    simulated = Simulation(
        DetectorModel(SHAPE, DISTANCE, (28.0, 37.0), (PIXEL, PIXEL), tilt=(0.05, -0.03)),
        GoniometerModel(),
        ScanModel(0.0, np.radians(2.0), N, 0.5, flux=flux, exposure=1.0, drift=-0.3),
        CrystalModel((5.0, 5.0, 5.0, 90.0, 90.0, 90.0), scale=0.0),
        Diffuse(flat=flat),
        Background(air=air),
    )
    counts = np.random.default_rng(seed).poisson(simulated.expected() * pattern())
    with NXmxWriter(path, NXmxHeader(**simulated.raw_header())) as writer:
        writer.append(counts.astype(np.uint32))
    return path


@pytest.fixture
def base(folder: Path) -> Path:
    """An experiment with a stored geometry, a stored normalisation, and one scan that uses both."""
    config = yaml.safe_load((folder / "config/config.yaml").read_text())
    place = {"store": "calibration", "state": STATE}
    config["calibrations"] = {"near": place | {"polarization": 0.99}}
    config["normalizations"] = {"response": place | {"geometry": "near"}}
    config["normalization"] = {"use": "response"}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    write(folder / "raw/carbon.nxs", 40.0, 1, flux=100.0, air=30.0)
    write(folder / "raw/air.nxs", 0.0, 2, flux=70.0, air=30.0)
    write(folder / "raw/a.nxs", 80.0, 4)
    with (folder / "config/scans.tsv").open("a") as table:
        table.write("quartz\ta\t\t\tr1\traw/a.nxs\tphi=0:2\tnear\t\t10\n")
    return folder


Run = Any


@pytest.fixture
def run(hklflow: Hklflow, base: Path) -> Run:
    def calibration(command: str, *arguments: str | Path, of: str = "response") -> Done:
        where: list[str | Path] = ["--directory", base]
        where += ["--calibration", of] if command != "apply" else []
        return hklflow("calibration", command, *arguments, *where)

    return calibration


def geometry(run: Run, base: Path, name: str, shift: float = 0.0) -> None:
    """Accept a geometry of the store; it is the truth for a shift of 0 m."""
    detector = read_header(base / "raw/a.nxs").detector
    assert detector is not None
    data: dict[str, Any] = {
        "detector": detector_to_dict(detector),
        "beam": {"wavelength_A": 0.5, "polarization": 0.99},
    }
    data["detector"]["origin_m"][0] += shift
    (base / f"{name}.json").write_text(json.dumps(data))
    if not (base / "calibration/geometry").exists():
        assert run("init", *BY, of="near").code == 0
    done = run("propose", name, "--geometry", base / f"{name}.json", *BY, of="near")
    assert done.code == 0, done.err
    done = run("accept", name, "--applies-to", "*", *BY, *WHY, "--override-gate", "measured",
               "--reason", "a test", "--allow-overlap", of="near")  # fmt: skip
    assert done.code == 0, done.err


def accepted(run: Run, base: Path) -> Path:
    """Propose and accept the normalisation; return its file."""
    geometry(run, base, "truth")
    assert run("init", *BY).code == 0
    standard = ("--standard", base / "raw/carbon.nxs", "--empty", base / "raw/air.nxs")
    limit = ("--override-gate", "large_scale", "--reason", "the left half responds more")
    done = run("propose", "carbon", *standard, *BY)
    assert done.code == 0, done.err
    assert "3 of 4 gates passed" in done.out
    assert run("accept", "carbon", "--applies-to", "*", *BY, *WHY).code == 2
    done = run("accept", "carbon", "--applies-to", "*", *BY, *WHY, *limit)
    assert done.code == 0, done.err
    assert "quartz a r1: none -> v_0001" in done.out
    return next((base / "calibration/normalization").glob("*/v_0001/normalization.nxs"))


def experiment(base: Path, **sections: Any) -> Experiment:
    config = yaml.safe_load((base / "config/config.yaml").read_text())
    return load(config | sections, base)


def imported(base: Path, raw: str = "raw/a.nxs", **params: Any) -> None:
    """What a transform reads, with the geometry of the store."""
    file = experiment(base).geometry_file("quartz", "a", "r1")
    assert file is not None
    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[base / raw], geometry=base / file),
        outputs=import_scan.Outputs(scan=base / "scan.nxs"),
        params=import_scan.Params(**params),
        threads=1,
    )
    shape = nexus.read_scan(base / "scan.nxs").rotation.detector.shape
    nexus.write_mask(base / "mask.nxs", np.zeros(shape, np.uint32))
    with nexus.FrameMaskWriter(base / "frame_mask.nxs", (N, *shape)) as mask:
        mask.append(pack(np.zeros((N, *shape), bool)), np.zeros(N))
    scan, ones = nexus.read_scan(base / "scan.nxs"), np.ones(N)
    known = Transmission(ones, 0.01 * ones, ones, np.zeros(N, np.uint8), 1.0)
    scale = FrameScale(scan.monitor, scan.attenuation, ones, known, 1.0, 1.0, "none")
    nexus.write_scale(base / "scale.nxs", scale, ones)
    grid = Grid.symmetric((6.0, 6.0, 6.0), (0.2, 0.2, 0.2))
    ub = 2 * np.pi / 5.0 * np.eye(3)
    write_orientation(base / "orientation.json", {"r1": scan.rotation}, ub, grid=grid)


def transformed(base: Path, name: str, **params: Any) -> nexus.Volume:
    names = {kind: base / f"{kind}.nxs" for kind in ("scan", "mask", "scale", "frame_mask")}
    stage.run(
        transform.main,
        inputs=transform.Inputs(orientation=base / "orientation.json", **names),
        outputs=transform.Outputs(
            transform=base / f"{name}.nxs", masked_transform=base / f"masked_{name}.nxs"
        ),
        params=transform.Params(rotation="r1", **params),
        threads=1,
    )
    return nexus.read_volume(base / f"{name}.nxs")


def pulls(volume: nexus.Volume, s: float) -> np.ndarray:
    """Deviations of the counts from what S(Q) says, in standard deviations."""
    seen = volume.norm * s > 10
    expected = s * volume.norm[seen]
    return (volume.counts[seen] - expected) / np.sqrt(expected)


def test_a_scan_is_right_with_the_normalisation_of_its_store(run: Run, base: Path) -> None:
    file = accepted(run, base)
    imported(base)
    assert experiment(base).normalization_file("quartz", "a", "r1") == str(file.relative_to(base))
    with h5py.File(file) as opened:
        flat = opened["entry/instrument/detector/module_00/flatfield"][()]
        errors = opened["entry/instrument/detector/module_00/flatfield_errors"][()]
    pull = (flat - pattern()) / errors
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1, abs=0.05)
    record = json.loads((file.parent / "record.json").read_text())
    assert record["geometryVersionUsed"]["version"] == 1
    assert record["metrics"]["absolute"] == pytest.approx(40 / AREA, rel=0.005)

    # The absolute factor makes it the scattering relative to the standard: 80 to 40.
    found = pulls(transformed(base, "right", flat_field=file, absolute=True), 2.0)
    assert abs(found.mean()) < 5 / np.sqrt(found.size)
    assert np.sqrt(np.mean(found**2)) == pytest.approx(1, abs=0.05)
    plain = pulls(transformed(base, "plain"), 80.0)
    assert np.sqrt(np.mean(plain**2)) > 2  # the pattern is in S(Q)
    with h5py.File(base / "right.nxs") as opened:
        entry = opened["entry"]
        assert entry.attrs["hklflow_quality"] == "reduced"
        kinds = {group["kind"][()].decode(): group for group in entry["calibration"].values()}
        assert set(kinds) == {"geometry", "normalization"}
        assert kinds["normalization"]["geometry_version_used"][()].decode() == "v_0001"
    with pytest.raises(HklflowError, match="needs a normalisation with an absolute factor"):
        transformed(base, "none", absolute=True)
    with pytest.raises(HklflowError, match="the response would be wrong by polarisation"):
        transformed(base, "other", flat_field=file, polarization=False)


def test_the_absolute_factor_of_a_quick_look(run: Run, base: Path) -> None:
    """A block of pixels has the scale of its pixels: twice the standard, for both binnings."""
    file = accepted(run, base)
    for binning in (1, 2):
        raw = base / "raw/a.nxs"
        if binning > 1:
            stage.run(
                bin_frames.main,
                inputs=bin_frames.Inputs(raw=[raw]),
                outputs=bin_frames.Outputs(binned=base / "binned.nxs"),
                params=bin_frames.Params(binning=binning),
                threads=1,
            )
            raw = base / "binned.nxs"
        imported(base, raw.name if binning > 1 else "raw/a.nxs", binning=binning)
        volume = transformed(base, f"of_{binning}", flat_field=file, absolute=True)
        s = volume.counts.sum() / volume.norm.sum()
        assert s == pytest.approx(2, rel=0.01), binning
        assert "absolute factor of the normalisation" in volume.notes["corrected for"]


def test_an_absolute_factor_needs_the_monitor_of_the_scan(
    run: Run, base: Path, hklflow: Hklflow
) -> None:
    """The factor is per monitor count: with the exposure instead, S would have any scale."""
    file = accepted(run, base)
    imported(base, monitor="none")
    with pytest.raises(HklflowError, match=r"`absolute` divides .* was imported without a monitor"):
        transformed(base, "unmonitored", flat_field=file, absolute=True)
    config = yaml.safe_load((base / "config/config.yaml").read_text())
    config |= {"import_scan": {"monitor": "none"}, "transform": {"absolute": True}}
    (base / "config/config.yaml").write_text(yaml.safe_dump(config))
    done = hklflow("check", base)
    assert done.code == 2
    assert "was imported without a monitor" in done.err


def test_a_newer_geometry_is_told(
    run: Run, base: Path, hklflow: Hklflow, capsys: pytest.CaptureFixture[str]
) -> None:
    file = accepted(run, base)
    assert "; the normalisation" not in run("apply").out
    geometry(run, base, "moved", shift=2e-3)
    sentence = "the normalisation v_0001 was made with the geometry v_0001, and v_0002 is used now"
    assert sentence in run("apply").out
    assert f"quartz a r1: {sentence}" in hklflow("status", base).out
    imported(base)
    capsys.readouterr()
    transformed(base, "old", flat_field=file)
    told = capsys.readouterr().out
    assert "warning: the geometry has changed since the normalisation was measured" in told
    # Again, with the same measurement and the present geometry.
    done = run("iterate", "carbon", *BY)
    assert done.code == 0, done.err
    limit = ("--override-gate", "large_scale", "--reason", "the left half responds more")
    done = run("accept", "carbon", "--applies-to", "*", *BY, *WHY, *limit, "--supersede", "1")
    assert done.code == 0, done.err
    assert sentence not in run("apply").out


def test_without_an_accepted_normalisation(run: Run, base: Path, hklflow: Hklflow) -> None:
    geometry(run, base, "truth")
    assert run("init", *BY).code == 0
    done = hklflow("check", base)
    assert done.code == 2
    assert "no accepted normalization calibration of state" in done.err
    assert "hklflow calibration propose NAME --standard FILE" in done.err
    # Version 0 only on request, and then it is told and tagged.
    config = yaml.safe_load((base / "config/config.yaml").read_text())
    config["normalizations"]["response"]["on_missing"] = "diagnostic"
    (base / "config/config.yaml").write_text(yaml.safe_dump(config))
    assert "no accepted normalisation of response applies" in hklflow("status", base).out
    imported(base)
    file = experiment(base).normalization_file("quartz", "a", "r1")
    assert file is not None
    default = transformed(base, "default", flat_field=base / file)
    assert np.array_equal(default.norm, transformed(base, "plain").norm)
    with h5py.File(base / "default.nxs") as opened:
        assert opened["entry"].attrs["hklflow_quality"] == "diagnostic"
        assert "normalization v_0000" in opened["entry"].attrs["hklflow_diagnostic"]


def test_what_does_not_fit_is_refused(run: Run, base: Path) -> None:
    accepted(run, base)
    far = STATE | {"distance": 0.09}
    other = {"response": {"store": "calibration", "state": far, "geometry": "near"}}
    with pytest.raises(HklflowError, match=r"another state than the geometry near \(distance\)"):
        experiment(base, normalizations=other)
    with pytest.raises(HklflowError, match="state the response of the pixels; give one"):
        experiment(base, normalization={"use": "response", "artificial": "snip"})
    with pytest.raises(HklflowError, match=r"'carbon' is not one of response in `normalizations`"):
        experiment(base, normalization={"use": "carbon"})
    done = run("propose", "x", "--standard", base / "raw/air.nxs", *BY, of="near")
    assert done.code == 2
    assert "near has geometry, and this command is for a normalization" in done.err
    done = run("propose", "x", "--standard", base / "raw/carbon.nxs", "--set", "colour=red", *BY)
    assert done.code == 2
    assert "colour" in done.err


def halves(base: Path, run: Run) -> Path:
    """Groups: the left and the right half of the detector."""
    file = base / "halves.nxs"
    image = 1 + (np.indices(SHAPE)[1] >= 35)
    nexus.write_groups(file, pixel_groups.by_image(image))
    return file


def test_a_normalisation_by_groups_of_pixels(run: Run, base: Path) -> None:
    geometry(run, base, "truth")
    assert run("init", *BY).code == 0
    file = halves(base, run)
    standard = ("--standard", base / "raw/carbon.nxs", "--empty", base / "raw/air.nxs")
    done = run("propose", "halves", *standard, "--groups", file, *BY)
    assert done.code == 0, done.err
    (folder,) = (base / "calibration/normalization").glob("*/candidates/halves/01")
    with h5py.File(folder / "normalization.nxs") as opened:
        flat = opened["entry/instrument/detector/module_00/flatfield"][()]
        errors = opened["entry/instrument/detector/module_00/flatfield_errors"][()]
    for part in (np.s_[:, :35], np.s_[:, 35:]):
        assert np.ptp(flat[part]) == 0
        assert abs(flat[part].mean() - pattern()[part].mean()) < 4 * errors[part].mean() + 2e-3
    record = json.loads((folder / "record.json").read_text())
    assert {Path(item["path"]).name: item["sha256"] for item in record["inputs"]}[
        "halves.nxs"
    ] == stage.fingerprint(file)
    assert set(record["metrics"]["groups"]["factors"]) == {"label 1", "label 2"}
    nexus.write_groups(file, pixel_groups.by_image(np.ones((9, 9), int)))
    done = run("propose", "wrong", *standard, "--groups", file, *BY)
    assert done.code == 2
    assert "are for a detector of (9, 9) pixels" in done.err
    done = run("propose", "wrong", "--geometry", base / "truth.json", "--groups", file, *BY,
               of="near")  # fmt: skip
    assert done.code == 2
    assert "--groups is for --level module" in done.err


def test_an_artificial_normalisation_by_groups_of_pixels(run: Run, base: Path) -> None:
    """Each half has its true factor; what a pixel has besides is not touched."""
    geometry(run, base, "truth")
    imported(base)
    made = {
        "normalization": base / "artificial.nxs",
        "picture": base / "artificial.png",
        "metrics": base / "artificial.json",
    }
    given = {"bins": 30, "pixel_groups": halves(base, run)}

    def make(method: Any) -> None:
        stage.run(
            artificial_normalization.main,
            inputs=artificial_normalization.Inputs(scan=base / "scan.nxs", mask=base / "mask.nxs"),
            outputs=artificial_normalization.Outputs(**made),
            params=artificial_normalization.Params(method=method, **given),
            threads=1,
        )

    make("self_flat")
    with h5py.File(made["normalization"]) as opened:
        flat = opened["entry/instrument/detector/module_00/flatfield"][()]
    true = [pattern()[:, :35].mean(), pattern()[:, 35:].mean()]
    assert [np.ptp(flat[:, :35]), np.ptp(flat[:, 35:])] == [0, 0]
    assert flat[0, [0, 69]] == pytest.approx(true, abs=4e-3)
    figures = json.loads(made["metrics"].read_text())["groups"]["factors"]
    assert figures["label 1"]["factor"] == pytest.approx(true[0], abs=4e-3)
    with pytest.raises(HklflowError, match="`snip` makes one smooth background"):
        make("snip")


def test_an_artificial_normalisation_is_made_on_request_only(base: Path) -> None:
    table = (base / "config/scans.tsv").read_text()
    (base / "config/scans.tsv").write_text(table.replace("\tnear\t", "\t\t"))
    asked = {"normalization": {"artificial": "self_flat"}}
    requested, usual = (Plan(experiment(base, **more)) for more in (asked, {"normalization": {}}))
    rule, made = "artificial_normalization", "results/quartz/a/r1/artificial_normalization.nxs"
    assert not [job for job in usual.jobs if job.rule == rule]
    (job,) = [job for job in requested.jobs if job.rule == rule]
    assert made in job.products
    (reader,) = [job for job in requested.jobs if job.rule == "transform"]
    assert reader.files("flat_field") == [made]
    # `hklflow status` compares it with the parameters of the run.
    assert reader.recipes()[-1].params.flat_field == Path(made)
    assert requested.job("integrate", sample="quartz", scan="a", rotation="r1").files(
        "flat_field"
    ) == [made]


@pytest.mark.slow
def test_an_artificial_normalisation_tags_every_product(
    base: Path, run: Run, hklflow: Hklflow
) -> None:
    geometry(run, base, "truth")
    imported(base)
    made = {
        "normalization": base / "artificial.nxs",
        "picture": base / "artificial.png",
        "metrics": base / "artificial.json",
    }
    stage.run(
        artificial_normalization.main,
        inputs=artificial_normalization.Inputs(scan=base / "scan.nxs", mask=base / "mask.nxs"),
        outputs=artificial_normalization.Outputs(**made),
        params=artificial_normalization.Params(method="self_flat", bins=30),
        threads=1,
    )
    # Of an isotropic scatterer, it finds the response, except where few pixels have the angle.
    plain, found = (
        float(np.mean(pulls(volume, 80.0) ** 2))
        for volume in (
            transformed(base, "plain"), transformed(base, "r1", flat_field=made["normalization"])
        )
    )  # fmt: skip
    assert found < plain / 3
    volumes = {
        "volume": base / "transform.nxs",
        "slices": base / "transform.png",
        "coverage": base / "coverage.png",
        "metrics": base / "transform.json",
    }
    stage.run(
        merge.main,
        inputs=merge.Inputs(volumes=[base / "r1.nxs"]),
        outputs=merge.Outputs(**volumes),
        params=merge.Params(),
        threads=1,
    )
    stage.run(
        symmetrise.main,
        inputs=symmetrise.Inputs(volumes=[base / "r1.nxs"], orientation=base / "orientation.json"),
        outputs=symmetrise.Outputs(
            symmetrised=base / "symm.nxs", picture=base / "symm.png", metrics=base / "symm.json"
        ),
        params=symmetrise.Params(symmetry="P 4/m m m"),
        threads=1,
    )
    reason = artificial_normalization.DIAGNOSTIC
    for name in ("artificial", "r1", "masked_r1", "transform", "symm"):
        with h5py.File(base / f"{name}.nxs") as opened:
            assert opened["entry"].attrs["hklflow_quality"] == "diagnostic", name
            assert opened["entry"].attrs["hklflow_diagnostic"] == reason
    for name in ("artificial", "transform", "symm"):
        data = json.loads((base / f"{name}.json").read_text())
        assert data["diagnostic"] == [reason]
        assert (
            b"tEXtWarning\0diagnostic: the normalisation is artificial"
            in (base / f"{name}.png").read_bytes()
        )
        accepted = {"sentences": [], "doubts": []}
        judged = verdict.of_scan(accepted, [(name, data), ("again", data)])
        assert judged.verdict == "doubtful"
        assert judged.reasons.count(f"diagnostic: {reason}") == 1
    # What a command writes from such a volume says so, too.
    table = base / "diagnostic_slice.tsv"
    done = hklflow("slice", base / "transform.nxs", "--plane", "hk0", "-o", table)
    assert done.code == 0, done.err
    head, *rows = table.read_text().splitlines()
    assert head.endswith("\tquality")
    assert rows
    assert all(row.endswith(reason) for row in rows)


def test_formats_of_others_are_tagged(tmp_path: Path) -> None:
    """Reflections merged from a diagnostic scan: MTZ, SHELX and text, read by other programs."""
    truth = Truth(group="P 21 21 21", rotations=[rotation()], d_min=1.2)
    written = truth.write(tmp_path)
    for path in written.reflections:
        nexus.write_provenance(path, [RECORD])
    for module, inputs, outputs, params in (
        (
            scale_reflections,
            {"reflections": written.reflections, "orientation": written.orientation},
            {"scaled": "scaled.nxs", "picture": "scaled.png", "metrics": "scaled.json"},
            {"rotations": written.rotations},
        ),
        (
            merge_reflections,
            {"scaled": tmp_path / "scaled.nxs", "orientation": written.orientation},
            {"factors": "sf.nxs", "mtz": "sf.mtz", "hkl": "sf.hkl", "table": "sf.tsv",
             "picture": "sf.png", "metrics": "sf.json"},
            {},
        ),
    ):  # fmt: skip
        stage.run(
            module.main,
            inputs=module.Inputs(**inputs),
            outputs=module.Outputs(**{key: tmp_path / name for key, name in outputs.items()}),
            params=module.Params(**params),
            threads=1,
        )
    mtz = gemmi.read_mtz_file(str(tmp_path / "sf.mtz"))
    assert " ".join(line.strip() for line in mtz.history).startswith("diagnostic: made of straw")
    assert mtz.nreflections > 50
    hkl = (tmp_path / "sf.hkl").read_text().split("   0   0   0")[1]
    assert "diagnostic: made of straw" in hkl
    with (tmp_path / "sf.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["quality"] for row in rows} == {"diagnostic: made of straw"}
    assert len(rows) == mtz.nreflections
    with h5py.File(tmp_path / "sf.nxs") as opened:
        assert opened["entry"].attrs["hklflow_diagnostic"] == "made of straw"


def test_a_page_says_so_first(tmp_path: Path) -> None:
    page = tmp_path / "quartz.html"
    page.write_text("<html><body><h1>quartz</h1></body></html>")
    tags.write(page, ["a <reason>"])
    told = '<div class="alarm"><p>diagnostic: a &lt;reason&gt;</p></div><h1>quartz</h1>'
    assert told in page.read_text()


RECORD = {
    "stage": "transform",
    "stage_version": 1,
    "version": "0",
    "started": "2026-01-01T00:00:00+00:00",
    "inputs": {},
    "diagnostic": "made of straw",
}
