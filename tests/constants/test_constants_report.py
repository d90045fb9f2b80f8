"""The report of a detector's constants: numbers that are those of the file, pictures of them."""

import json

import matplotlib.image
import numpy as np
import pytest

from hklflow.constants import files, simulate
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.status import Bit
from hklflow.constants.summary import PERCENTILES, images, summarise
from hklflow.images.masks import MaskBit
from hklflow.plots import constants as plots
from hklflow.stages import constants_report

SHAPE, ASIC, CELLS, MODULES = (8, 12), (4, 4), 3, (0, 3)
MEASURES = ["dark_high", "dark_medium", "dark_low"]


def module(number):
    """Constants of a module: noisy pixels, a dead ASIC, a cell with a bit."""
    truth = simulate.agipd(np.random.default_rng(number), CELLS, SHAPE)
    offset = truth.offset.astype(np.float32)
    mask = np.zeros(SHAPE, np.uint32)
    mask[0, :2] = MaskBit.NOISY
    offset[:, :, 0, :2] = 1e6
    status = np.zeros((3, CELLS, *SHAPE), np.uint32)
    status[1, 2, 5, 5] = Bit.OFFSET_OUT_OF_THRESHOLD | Bit.INTERPOLATED
    if number == 3:
        offset[..., 4:, :4] = np.nan
        mask[4:, :4] = MaskBit.DEAD
        status[..., 4:, :4] = Bit.NO_DARK_DATA
    return {
        "offset": Quantity(offset, "ADU"),
        "noise": Quantity(truth.noise.astype(np.float32), "ADU"),
        "gain": Quantity(truth.gain.astype(np.float32), "ADU/keV"),
        "gain_threshold": Quantity((truth.level[:2] + 1500).astype(np.float32), "ADU"),
        "constants_status": Quantity(status),
        "pixel_mask": Quantity(mask),
    }


@pytest.fixture(scope="module")
def agipd(tmp_path_factory):
    path = tmp_path_factory.mktemp("agipd") / "constants.nxs"
    about = {"detector": "agipd", "cell_ids": [0, 1, 2], "digital": "level"}
    with files.create_detector(path, "constants", about) as group:
        for number in MODULES:
            more = {"measures": MEASURES, "frames": [[100, 90, 95], [80, 80, 80], [70, 70, 71]]}
            place = group.create_group(files.module_name(number))
            files.add_quantities(
                place, Constants(about | more | {"module": number}, module(number))
            )
    return path


def report(path, folder, **params):
    outputs = {name: folder / f"{name}.png" for name in ("histograms", "maps")}
    constants_report.main(
        inputs=constants_report.Inputs(constants=path),
        outputs=constants_report.Outputs(**outputs, table=folder / "table.json"),
        params=constants_report.Params(**params),
    )
    return json.loads((folder / "table.json").read_text())


@pytest.fixture(scope="module")
def written(agipd, tmp_path_factory):
    """Folder with the report, and its table."""
    folder = tmp_path_factory.mktemp("report")
    return folder, report(agipd, folder, asic_size=ASIC)


def test_table_has_the_numbers_of_the_file(written):
    table = written[1]
    assert [(row["module"], row["asic"]) for row in table["rows"]] == [
        (number, asic) for number in MODULES for asic in range(6)
    ]
    row = table["rows"][7]  # module 3, ASIC 1
    truth = module(3)
    for stage, name in enumerate(("high", "medium", "low")):
        values = truth["offset"].values[stage, :, :4, 4:8]
        found = row["quantities"][f"offset_{name}"]
        assert found["median"] == pytest.approx(np.median(values))
        assert found["percentiles"] == pytest.approx(np.percentile(values, PERCENTILES))
        deviation = np.median(np.abs(values - np.median(values)))
        assert found["spread"] == pytest.approx(1.4826 * deviation, rel=1e-5)
    between = truth["gain_threshold"].values[1, :, :4, 4:8]
    found = row["quantities"]["gain_threshold_medium_low"]
    assert found["median"] == pytest.approx(np.median(between))
    assert row["frames"] == {
        "dark_high": [90, 100], "dark_medium": [80, 80], "dark_low": [70, 71]
    }  # fmt: skip
    assert table["units"]["gain_low"] == "ADU/keV"


def test_table_tells_of_every_bit_and_leaves_masked_pixels_out(written):
    rows = written[1]["rows"]
    noisy, dead = rows[0], rows[6 + 3]
    assert noisy["mask bits"] == {"NOISY": 2 / 16}
    assert noisy["masked"] == 2 / 16
    assert noisy["quantities"]["offset_high"]["percentiles"][-1] < 6000
    assert dead["mask bits"] == {"DEAD": 1.0}
    assert dead["quantities"]["offset_high"]["median"] is None
    # Of 3 stages, 3 cells and 16 pixels one has the bit; that it is interpolated is no fault.
    flagged = rows[4]
    assert flagged["status bits"]["OFFSET_OUT_OF_THRESHOLD"] == pytest.approx(1 / 144)
    assert flagged["status bits"]["INTERPOLATED"] == pytest.approx(1 / 144)
    assert flagged["bad constants"] == pytest.approx(1 / 144)
    assert dead["status bits"] == {"NO_DARK_DATA": 1.0}


def test_histograms_count_every_value_once(written):
    histograms = written[1]["histograms"]
    good = sum(int((module(n)["pixel_mask"].values == 0).sum()) for n in MODULES)
    for name, one in histograms.items():
        assert sum(one["counts"]) + one["outside"] == good * CELLS, name
    edges = np.linspace(
        *histograms["noise_low"]["range"], len(histograms["noise_low"]["counts"]) + 1
    )
    values = [module(n)["noise"].values[2][:, module(n)["pixel_mask"].values == 0] for n in MODULES]
    expected = np.histogram(np.concatenate([v.ravel() for v in values]), edges)[0]
    assert histograms["noise_low"]["counts"] == expected.tolist()


def test_pictures_show_the_numbers_of_the_table(agipd):
    with files.open_constants(agipd) as constants:
        summary = summarise(constants, ASIC, 32)
        maps = images(constants, [name for row in plots.shown(summary) for name in row], 32)
    figure = plots.constants_histograms(summary, "title")
    drawn = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    medians = [row["quantities"]["noise_high"]["median"] for row in summary["rows"]]
    middle = np.median([m for m in medians if m is not None])
    (title,) = (t for t in drawn if t.startswith("noise high"))
    assert f"{middle:.5g}" in title
    assert drawn[title].lines[0].get_xdata()[0] == pytest.approx(middle)
    stairs = drawn[title].patches[0].get_data().values
    counts = summary["histograms"]["noise_high"]["counts"]
    np.testing.assert_array_equal(stairs, np.maximum(counts, 0.5))
    below = next(a for a in figure.axes if a.get_ylabel() == "noise high (ADU)")
    line = below.lines[0]
    known = [(i, m) for i, m in enumerate(medians) if m is not None]
    np.testing.assert_allclose(np.array(line.get_xydata()), known)
    assert len(known) == 11

    figure = plots.constants_maps(maps, summary, "title")
    gain = next(axes for axes in figure.axes if axes.get_title() == "gain low")
    image = gain.images[0].get_array()
    _, places = plots.tiled(maps["gain_low"])
    for number, (row, column) in places.items():
        part = np.ma.filled(image[row : row + SHAPE[0], column : column + SHAPE[1]], np.nan)
        quantities = module(number)
        masked = quantities["pixel_mask"].values != 0
        expected = quantities["gain"].values[2].mean(axis=0)
        np.testing.assert_allclose(part[~masked], expected[~masked], rtol=1e-5)
        assert np.isnan(part[masked]).all()
    wrong = maps["bad"][3]
    assert wrong[5, 5] == pytest.approx(1 / 9)
    assert (wrong[4:, :4] == 1).all()


def test_pictures_are_pictures(written):
    for name in ("histograms", "maps"):
        picture = matplotlib.image.imread(written[0] / f"{name}.png")
        assert min(picture.shape[:2]) > 300
        assert picture[..., :3].std() > 0.05


def test_of_many_memory_cells_some_are_taken(agipd):
    with files.open_constants(agipd) as constants:
        summary = summarise(constants, SHAPE, cells=1)
    values = module(0)["gain"].values[0, ::3]
    expected = np.median(values[:, module(0)["pixel_mask"].values == 0])
    assert summary["rows"][0]["quantities"]["gain_high"]["median"] == pytest.approx(expected)


def test_photon_counters(tmp_path):
    rng = np.random.default_rng(2)
    flat = rng.normal(1, 0.02, (20, 30)).astype(np.float32)
    mask = np.zeros((20, 30), np.uint32)
    mask[3, 4] = MaskBit.DEAD
    mask[5] = MaskBit.GAP
    path = tmp_path / "constants.nxs"
    with files.create_detector(path, "counter", {"detector": "pilatus"}) as group:
        quantities = {
            "pixel_mask": Quantity(mask),
            "flatfield": Quantity(flat),
            "flatfield_errors": Quantity(np.full_like(flat, 0.01)),
        }
        files.add_quantities(group.create_group("module_00"), Constants({"module": 0}, quantities))
    table = report(path, tmp_path)
    (row,) = table["rows"]
    assert row["quantities"]["flatfield"]["median"] == pytest.approx(np.median(flat[mask == 0]))
    assert row["mask bits"] == {"DEAD": 1 / 600, "GAP": 30 / 600}
    assert "status bits" not in row


def test_a_single_bad_pixel_of_many_modules_is_seen():
    """Sixteen modules of AGIPD are drawn smaller than they are."""
    modules = {number: np.zeros((512, 128)) for number in range(16)}
    modules[7][300, 77] = 1
    summary = {"histograms": {}, "units": {}, "rows": []}
    figure = plots.constants_maps({"bad": modules}, summary, "title")
    image = figure.axes[0].images[0].get_array()
    assert max(image.shape) <= 800
    assert np.ma.max(image) == 1
    assert {text.get_text() for text in figure.axes[0].texts} == {str(n) for n in range(16)}
