"""Pictures of series show what the sentences say, and nothing else."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from hklflow import plots
from hklflow.bragg.order_curves import Shape
from hklflow.bragg.order_parameter import Interval, Order
from hklflow.plots.features import zone_plane
from hklflow.quality.feature_words import Course
from hklflow.series import feature_fit

NAN = float("nan")


def test_a_quantity_without_values_has_no_panel() -> None:
    rows: list[dict[str, Any]] = [
        {"scan": f"{t}K", "parent": "300K", "temperature": float(t), "a": 5.0, "a_sigma": 0.1}
        | {"mosaic": NAN, "mosaic_sigma": NAN, "scale": scale, "scale_sigma": 0.01}
        for t, scale in ((300, NAN), (200, 1.0))
    ]
    labels = {"a": "a (Å)", "mosaic": "rocking width (°)", "scale": "scale to the parent"}
    figure = plots.temperature_series(rows, labels, [], "x")
    assert [axes.get_ylabel() for axes in figure.axes] == ["a (Å)", "scale to the parent"]
    of_samples = plots.series([row | {"sample": "x"} for row in rows], labels, "x")
    assert [axes.get_ylabel() for axes in of_samples.axes] == ["a (Å)", "scale to the parent"]


ORDER = Order(
    "not determined", 1.0, None, None, 0.0, "not determined", 0.0, (1.0, 0.1), (0.0, 0.1), 1.2,
    (100.0, 300.0), (), Shape(), np.array([[100.0, 0.0], [300.0, 0.0]]),
)  # fmt: skip
T_C = Interval(200.0, 5.0, (195.0, 205.0), (190.0, 210.0))


@pytest.mark.parametrize(
    ("order", "curve"),
    [
        (ORDER, None),
        (replace(ORDER, answer="transition"), None),
        (replace(ORDER, answer="none"), "smooth curve"),
        (replace(ORDER, answer="transition", t_c=T_C, kind="continuous"), "fit (continuous)"),
    ],
)
def test_a_curve_is_drawn_only_if_it_is_determined(order: Order, curve: str | None) -> None:
    values = np.array([100.0, 200.0, 300.0])
    counts = SimpleNamespace(
        temperature=values, intensity=values, sigma=values, temperature_sigma=0 * values
    )
    course = SimpleNamespace(star=SimpleNamespace(basis=np.zeros((3, 0))), seen=[])
    figure = plots.order_parameters([("(1/2, 1/2, 0)", counts, order, course)], "x")  # type: ignore[list-item]
    (axes,) = figure.axes
    drawn = [str(line.get_label()) for line in axes.lines if len(line.get_xdata()) == 2]  # type: ignore[arg-type]
    assert [x for x in drawn if "curve" in x or "fit" in x] == ([] if curve is None else [curve])


def test_a_limit_that_is_far_above_the_signal_does_not_stretch_the_axis() -> None:
    """Three scans see the feature, two do not: one of their limits is 100 times the signal."""
    xi = feature_fit.Interval(50.0, 1.0, (49.0, 51.0), (48.0, 52.0), (48.4, 51.6))
    seen = SimpleNamespace(seen=True, xi=(xi,), determined=("value",))
    gone = SimpleNamespace(seen=False, xi=(), determined=())
    course = Course(
        "points", ("c*",), (100.0, 150.0, 200.0, 250.0, 300.0), (seen, seen, seen, gone, gone),  # type: ignore[arg-type]
        (4e-9, 3e-9, 1e-9, 0.0, -2e-7), (1e-10, 1e-10, 1e-10, 1e-10, 1.2e-7),
    )  # fmt: skip
    axes = plots.diffuse_features([course], "x").axes[1]
    low, high = axes.get_ylim()
    assert -1e-9 < low < 0
    assert 4.1e-9 < high < 6e-9
    drawn = [
        (x, y) for line in axes.lines if line.get_marker() == "v" for x, y in line.get_xydata()
    ]
    assert drawn == [(250.0, pytest.approx(1.645e-10))]


@pytest.mark.parametrize(
    ("normal", "inside", "outside"),
    [((1, 0, 1), (0.02, 0.5), (0.3, 0.5)), ((0, 0, 1), None, (0.3, 0.5))],
)
def test_a_sheet_is_a_band(
    normal: tuple[int, int, int],
    inside: tuple[float, float] | None,
    outside: tuple[float, float],
) -> None:
    """In the plane l = 0: h + l = 0 is a band along k, and l = 0 is all of the plane."""
    cell = SimpleNamespace(
        shape=(20, 20, 20), period=1, operations=[np.eye(3)], translations=[np.zeros(3)],
        lattice=SimpleNamespace(metric=np.eye(3)),
    )  # fmt: skip
    average = SimpleNamespace(cell=cell, mean=np.arange(8000.0))
    sheet = SimpleNamespace(
        columns=np.array(normal, float)[:, None], place=np.zeros(1), shape="sheet", certain=False
    )
    axes = Figure().subplots()
    zone_plane(axes, average, [("sheet_1", sheet)], 0.0, "x")  # type: ignore[arg-type, list-item]
    bands = [x for x in axes.collections if isinstance(x, ContourSet) and x.filled]
    assert len(bands) == (inside is not None)
    for band in bands:
        assert any(path.contains_point(inside) for path in band.get_paths())
        assert not any(path.contains_point(outside) for path in band.get_paths())
    (label,) = (str(text.get_text()) for text in axes.get_legend().get_texts())
    assert label.startswith("sheet_1, shape not certain")
    assert label.endswith("(all of this plane)") == (inside is None)
