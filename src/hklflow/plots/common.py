"""What all pictures share: figures without pyplot, colour ranges, saving."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

IMAGE = "viridis"
SMALL = {"fontsize": 9}
_DPI = 110


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. It is drawn once; `Figure.savefig` would draw it twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    size = canvas.get_width_height()
    image = Image.frombuffer("RGBA", size, canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    image.convert("RGB").save(path, "PNG", dpi=(_DPI, _DPI))


def figure_of(width: float, height: float) -> Figure:
    """Empty figure of a size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def halves(figure: Figure, width_ratios: tuple[float, float] = (1, 1)) -> tuple[Any, Any]:
    """Left and right part of a figure."""
    left, right = figure.subfigures(1, 2, width_ratios=list(width_ratios))  # type: ignore[misc]
    return left, right


def log_range(image: NDArray[Any]) -> LogNorm:
    """Colour range that shows the diffuse signal and lets Bragg peaks saturate."""
    values = image[np.isfinite(image) & (image > 0)]
    if values.size == 0:
        return LogNorm(0.1, 1.0)
    low, high = np.percentile(values, [2.0, 99.0])
    return LogNorm(max(low, high * 1e-5), max(high, low * 1.01))
