"""What all pictures share."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import LogNorm

from hklflow.plots.common import figure_of, save


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ((1e-4, 1e4), {"10⁻⁴", "10⁻²", "10⁰", "10²", "10⁴"}),
        ((0.7, 4.0), {"10⁰", "2×10⁰", "3×10⁰", "4×10⁰"}),
    ],
)
def test_labels_of_logarithms_are_powers_in_plain_letters(
    tmp_path: Path, ends: tuple[float, float], told: set[str]
) -> None:
    figure = figure_of(6, 4)
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.set_ylim(*ends)
    axes.set_xscale("symlog")
    axes.set_xlim(-1000, 1000)
    bar = figure.colorbar(axes.pcolormesh(np.ones((3, 3)), norm=LogNorm(*ends)), ax=axes)
    axes.set_ylim(*ends)
    save(figure, tmp_path / "a.png")
    for axis in (axes.yaxis, bar.ax.yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels(which="both")]
        assert told <= set(labels)
        assert not any("$" in label or "\\" in label for label in labels)
    assert {"0", "-10³", "10³"} <= {label.get_text() for label in axes.get_xticklabels()}
