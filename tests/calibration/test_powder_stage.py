"""The stage: detector by name, dark and flat images, own calibrant, metrics and gates."""

import json
import shlex

import fabio
import h5py
import numpy as np
import powder_images
import pytest

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.experiment.flags import files, flags
from hklflow.images import pixel_binning
from hklflow.simulation.frames import Background, DetectorModel
from hklflow.simulation.powder import powder_image
from hklflow.stages import powder_calibration as stage

# A Pilatus 300k: 3 modules of 195 × 487 pixels.
MODEL = DetectorModel(
    (619, 487),
    0.15,
    (300.0, 240.0),
    tilt=(0.01, -0.015),
    gaps=((195, 212, 0, 487), (407, 424, 0, 487)),
)
PARAMS = {
    "calibrant": "LaB6",
    "wavelength": 0.4,
    "pixel_size": (172e-6, 172e-6),
    "distance": 0.152,
    "beam_centre": (MODEL.beam_centre[0] + 1, MODEL.beam_centre[1] + 1),
    "polarization": 0.99,
    "detector": "Pilatus 300k",
}


def write(path, image):
    fabio.tifimage.TifImage(data=image).write(str(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Image, dark and flat of a detector whose response falls across every ring."""
    folder = tmp_path_factory.mktemp("powder")
    clean = powder_image(
        MODEL, 0.4, "LaB6", ring_width=1.5e-3, peak_counts=3000.0, background=Background(air=30.0)
    )
    rng = np.random.default_rng(5)
    # Stripes of 20 pixels: rings that cross one are pulled to the better side.
    response = np.broadcast_to(1 + 0.5 * ((np.arange(487) // 20) % 2), clean.shape)
    dark = np.broadcast_to(50.0 + 0.5 * np.arange(619)[:, None], clean.shape)
    image = rng.poisson(np.clip(clean, 0, None) * response) + dark
    image = np.where(clean < 0, -1, image).astype(np.int32)
    write(folder / "image.tif", image)
    write(folder / "dark.tif", dark.astype(np.float32))
    flat = response.astype(np.float32).copy()
    flat[300, 300] = 0.0
    write(folder / "flat.tif", 7 * flat)
    return folder


def run(folder, name, image="image.tif", **changes):
    outputs = stage.Outputs(
        geometry=folder / f"{name}.json",
        poni=folder / f"{name}.poni",
        picture=folder / f"{name}.png",
        powder=folder / f"{name}.nxs",
    )
    stage.main(
        inputs=stage.Inputs(image=folder / image),
        outputs=outputs,
        params=stage.Params(**{**PARAMS, **changes}),
    )
    return json.loads(outputs.geometry.read_text())


@pytest.fixture(scope="module")
def made(folder):
    return run(folder, "all", dark=folder / "dark.tif", flat=folder / "flat.tif")


@pytest.mark.slow
def test_dark_and_flat(folder, made):
    off = np.subtract(made["beam_centre_px"], MODEL.beam_centre)
    assert np.abs(off).max() < 0.01
    assert np.abs(off / made["beam_centre_sigma_px"]).max() < 4
    raw = run(folder, "raw")
    # Edges of stripes are no noise.
    assert raw["metrics"]["chi2"] > 3 * made["metrics"]["chi2"]


def test_metrics_and_gates_are_beside_what_was_there(made):
    metrics, gates = made["metrics"], {gate["name"]: gate for gate in made["gates"]}
    assert len(metrics["rings"]) == metrics["coverage"]["rings"] >= 5
    assert metrics["rms of 2theta in degrees"] < 0.01
    assert metrics["calibrant"]["name"] == "LaB6"
    assert len(metrics["modules"]) == 3
    # Gaps of a known detector are not masked pixels.
    assert metrics["coverage"]["masked_fraction"] < 0.01
    assert gates["modules"]["passed"]
    assert gates["rms"]["passed"]
    assert set(made) >= {"detector", "beam", "poni", "sigma", "correlation", "source"}


def test_pyfai_integrates_the_stored_image_to_the_stored_profile(folder, made):
    """As NXRefine does it: parameters and image from the file, no orientation, no mask."""
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    names = {"dist": "Distance", "pixel1": "PixelSize1", "pixel2": "PixelSize2"}
    names |= {name.lower(): name for name in ("Poni1", "Poni2", "Rot1", "Rot2", "Rot3")}
    with h5py.File(folder / "all.nxs") as file:
        group = file["entry/powder"]
        values = group["refinement/parameters"]
        ai = AzimuthalIntegrator(
            detector=values["Detector"].asstr()[()],
            wavelength=values["Wavelength"][()],
            **{ours: values[theirs][()] for ours, theirs in names.items()},
        )
        counts = group["counts"][()]
        profile = {name: group[f"radial_sum/{name}"][()] for name in group["radial_sum"]}
    assert made["detector"]["shape"] == list(counts.shape)
    assert profile["title"] == b"LaB6, profile with the refined geometry"
    angle, intensity, sigma = (
        profile[name] for name in ("polar_angle", "radial_sum", "radial_sum_errors")
    )
    step = np.diff(angle).min()
    edges = angle[0] - step / 2, angle[-1] + step / 2
    n = round((edges[1] - edges[0]) / step)
    # pyFAI's factor is 2 p - 1 for the horizontal fraction p.
    x, y = ai.integrate1d(
        counts, n, unit="2th_deg", correctSolidAngle=True, polarization_factor=0.98,
        radial_range=edges, method=("bbox", "histogram", "cython"),
    )  # fmt: skip
    y = np.interp(angle, x, y)
    assert np.abs(y - intensity).mean() < 0.005 * np.ptp(intensity)
    assert y.sum() == pytest.approx(intensity.sum(), rel=2e-3)
    np.testing.assert_allclose(profile["Q"], 4 * np.pi / 0.4 * np.sin(np.radians(angle / 2)))
    for ring in profile["ring_polar_angle"][:5]:
        near = np.abs(angle - ring) < 0.15
        base = np.median(y[near])
        centres = [
            np.average(angle[near], weights=(values[near] - base).clip(min=0))
            for values in (y, intensity)
        ]
        assert np.abs(np.subtract(centres, ring)).max() < 1e-3
        assert abs(np.subtract(*centres)) < 5e-4
    assert (sigma > 0).all()


def test_images_that_do_not_belong_together(folder):
    write(folder / "small.tif", np.ones((50, 40), np.float32))
    for name in ("dark", "flat", "mask_image"):
        with pytest.raises(HklflowError, match=rf"{name}: .* has \(50, 40\) .*\(619, 487\)"):
            run(folder, "bad", **{name: folder / "small.tif"})
    with pytest.raises(HklflowError, match=r"Pilatus 1M has \(1043, 981\)"):
        run(folder, "bad", detector="Pilatus 1M")
    image = fabio.open(str(folder / "image.tif")).data
    write(folder / "turned.tif", np.ascontiguousarray(image.T))
    with pytest.raises(HklflowError, match="it fits if the image is transposed"):
        run(folder, "bad", image="turned.tif")
    assert not (folder / "bad.json").exists()


def test_a_file_of_d_spacings_is_an_input_of_the_rule(folder):
    given = stage.Params(**{**PARAMS, "calibrant": "house.D", "purge_rings": (1, 4)})
    assert files(given) == ["house.D"]
    assert "--calibrant=house.D" in flags(given).split()
    named = stage.Params(**PARAMS)
    assert files(named) == []
    assert named.calibrant == "LaB6"
    with pytest.raises(HklflowError, match=r"cannot be read from .*house\.D"):
        run(folder, "own", calibrant=folder / "house.D")


@pytest.mark.slow
def test_command_line(folder, monkeypatch, capsys):
    """What a rule runs: flags of all new parameters, an own calibrant with its hash on record."""
    from pyFAI.calibrant import get_calibrant

    from hklflow import stage as contract

    d = np.array(get_calibrant("LaB6").dspacing)
    (folder / "house.D").write_text("\n".join(f"{x:.8f}" for x in d))
    params = stage.Params(
        **{**PARAMS, "calibrant": folder / "house.D", "max_rings": 9, "purge_rings": (1, 4)},
        dark=folder / "dark.tif",
        flat=folder / "flat.tif",
    )
    words = ["stage", f"--image={folder / 'image.tif'}"]
    kinds = {"geometry": "json", "poni": "poni", "powder": "nxs", "picture": "png"}
    words += [f"--{name}={folder / f'own.{kind}'}" for name, kind in kinds.items()]
    monkeypatch.setattr("sys.argv", words + shlex.split(flags(params)))
    with pytest.raises(SystemExit) as end:
        contract.command(stage.main)
    assert end.value.code in (0, None), capsys.readouterr().err
    data = json.loads((folder / "own.json").read_text())
    record = data["metrics"]["calibrant"]
    assert record["source"] == str(folder / "house.D")
    assert (record["max_rings"], record["purged_rings"]) == (9, [1, 4])
    assert {row["ring"] for row in data["metrics"]["rings"]} <= {0, 2, 3, 5, 6, 7, 8}
    inputs = data["provenance"][-1]["inputs"]
    assert {"image", "calibrant", "dark", "flat"} <= set(inputs)


@pytest.mark.slow
def test_binned_and_full_calibration_have_the_same_q_in_each_block(tmp_path):
    """Against the plain formula of the simulation, within the errors that the fits state."""
    image, _ = powder_images.simulate("CeO2", 11)
    np.save(tmp_path / "image.npy", image)
    given = {
        "calibrant": "CeO2", "wavelength": powder_images.WAVELENGTH, "detector": None,
        "distance": 0.2003, "beam_centre": None, "orientation": 3, "max_rings": 8,
    }  # fmt: skip
    slow, fast = np.indices((250, 240)) * 2 + 1.0
    x, y, z = np.moveaxis(powder_images.pixel_positions(slow, fast, powder_images.TRUTH), -1, 0)
    q = 4 * np.pi / given["wavelength"]
    truth = q * np.sin(0.5 * np.arctan2(np.hypot(x, y), z))
    for b in (1, 2):
        made = run(tmp_path, f"b{b}", "image.npy", **given, binning=b)
        detector = geometry.detector_from_dict(made["detector"])
        if b == 1:
            assert "binning" not in made
            detector = pixel_binning.bin_detector(detector, 2)
        assert detector.shape == (250, 240)
        found = q * np.sin(0.5 * geometry.two_theta(detector))
        # Errors of the beam centre and of the distance, as changes of Q.
        centre = b * powder_images.PIXEL * np.hypot(*made["beam_centre_sigma_px"]) / 0.2
        distance = made["sigma"]["dist"] / 0.2
        assert np.abs(found - truth).max() < 4 * 0.5 * q * (centre + 0.5 * distance)
