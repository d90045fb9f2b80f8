"""Pictures of planes through a volume, with their true lengths and angles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.plots.common import IMAGE, WIDEST, figure_of, log_range
from hklflow.volumes.planes import Cut

Floats = NDArray[np.float64]

DIVERGING = "RdBu_r"
REACH = 25.0
"""Largest distance from the origin in pictures of pair distribution functions, in Å."""

_EMPTY = "0.85"

UNITS = {False: "counts per unit norm", True: "S per Å³"}
"""Unit of S(Q) (False), and of pair distribution functions (True)."""


def near_origin(notes: Mapping[str, Any]) -> float:
    """Return the radius in Å of the peak at the origin, at the resolution of the data.

    Parameters
    ----------
    notes : mapping
        Notes of a pair distribution function. Without its resolution, the first zero of the
        transform of a ball is used, 4.49 / q_max; without both, 1 Å.
    """
    resolution, q_max = notes.get("metrics", {}).get("resolution in angstrom"), notes.get("q_max")
    reach = 1.5 * resolution if resolution else 4.49 / q_max if q_max else 0.0
    return max(1.0, float(reach))


def columns_of(n: int) -> int:
    """Return the number of panels in a row: at most three, and no row with a single panel."""
    return 2 if n == 4 else min(n, 3)


def panels(
    cuts: Sequence[Cut],
    metric: Floats,
    direct: bool,
    diverging: bool,
    label: str,
    title: str,
    near: float = 1.0,
    norm: Normalize | None = None,
) -> Figure:
    """Draw planes of one volume in one picture, all with the same colour range.

    Parameters
    ----------
    cuts : sequence of Cut
    metric : (3, 3) array
        Metric of their space, 1/Å² or Å².
    direct : bool
        True for direct space.
    diverging : bool
        True for colours symmetric about 0, False for logarithmic ones.
    label : str
        Label of the colour bar, without the unit.
    near : float
        Distance in Å, see `symmetric_range`.
    norm : Normalize, optional
        Colour range; default: from the values.

    Raises
    ------
    HklflowError
        If none of the planes has a value.
    """
    if not any(np.isfinite(one.image).any() for one in cuts):
        raise HklflowError(
            f"nothing was measured on {', '.join(one.plane.text for one in cuts)}; give planes "
            "that intersect the volume"
        )
    columns = columns_of(len(cuts))
    rows = -(-len(cuts) // columns)
    # The height follows from the shape of the planes, so that they fill their panels.
    shapes = [np.ptp(one.v) / np.ptp(one.u) * _aspect(one, metric) for one in cuts if _drawn(one)]
    width = min(5.4, (WIDEST - 1) / columns)
    height = float(np.clip(max(shapes, default=1.0), 0.5, 1.1)) * (width - 1.1) + 1.1
    below = 0.8 if rows == 1 < columns else 0.0  # for the colour bar
    figure = figure_of(width * columns + 1, height * rows + 0.4 + below)
    group(figure, (rows, columns), cuts, metric, direct, diverging, label, near, norm)
    figure.suptitle(title)
    return figure


def _drawn(one: Cut) -> bool:
    return min(one.image.shape) > 1


def _aspect(one: Cut, metric: Floats) -> float:
    """Return the ratio of height to width of a plane with equal ranges of its letters."""
    (along, _), (_, upright) = one.plane.cartesian(metric)
    return float(upright / along)


def group(
    figure: Any,
    shape: tuple[int, int],
    cuts: Sequence[Cut],
    metric: Floats,
    direct: bool,
    diverging: bool,
    label: str,
    near: float = 1.0,
    norm: Normalize | None = None,
) -> None:
    """Draw planes with one colour bar into a figure or a part of a figure."""
    if norm is None:
        norm = symmetric_range(cuts, metric, direct, near) if diverging else log_range(_all(cuts))
    axes = list(figure.subplots(*shape, squeeze=False).ravel())
    for spare in axes[len(cuts) :]:
        spare.set_axis_off()
    drawn: Any = None
    for panel, one in zip(axes, cuts, strict=False):
        if one.image.size:
            drawn = draw(panel, one, metric, "Å" if direct else "1/Å", norm, diverging)
        else:
            panel.set(xticks=[], yticks=[], facecolor=_EMPTY)
            panel.text(0.5, 0.5, "outside the volume", ha="center", transform=panel.transAxes)
        panel.set_title(one.plane.text)
    if drawn is not None:
        extend = "both" if diverging else "max"
        unit = f"{label} ({UNITS[direct]})"
        # Planes in one row have more space with the bar below them.
        below = shape[0] == 1 < shape[1]
        place: dict[str, Any] = {"location": "bottom", "shrink": 0.5} if below else {"shrink": 0.85}
        bar = figure.colorbar(drawn, ax=axes, label=unit, extend=extend, aspect=40, **place)
        if diverging:
            bar.set_ticks(MaxNLocator(6))


def _all(cuts: Sequence[Cut]) -> Floats:
    return np.concatenate([np.zeros(0), *(one.image.ravel() for one in cuts)])


def symmetric_range(
    cuts: Sequence[Cut], metric: Floats, direct: bool, near: float = 1.0
) -> Normalize:
    """Return colours symmetric about 0 for which 1 of 200 points saturates.

    In direct space, points closer to the origin than ``near`` (Å, see `near_origin`) are ignored:
    all pair distribution functions have a peak there.
    """
    values = _all(cuts)
    if direct:
        far = [one.distance(metric).ravel() >= near for one in cuts]
        values = values[np.concatenate([np.zeros(0, dtype=bool), *far])]
    values = np.abs(values[np.isfinite(values)])
    high = float(np.percentile(values, 99.5)) if values.size else 1.0
    return Normalize(-(high or 1.0), high or 1.0)


def draw(axes: Axes, one: Cut, metric: Floats, unit: str, norm: Normalize, diverging: bool) -> Any:
    """Draw a plane: x along its first vector, y in the plane perpendicular to it, in ``unit``.

    The upper and right axes show the letters of the plane. If the vectors are not orthogonal, lines
    of constant upper value are inclined: the upper axis is valid where the second letter is 0, and
    the thin lattice lines show the direction.
    """
    u, v, image = one.u, one.v, one.image
    matrix = one.plane.cartesian(metric)
    skew = Affine2D(np.block([[matrix, np.zeros((2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]]))
    du, dv = (float(x[1] - x[0]) / 2 if len(x) > 1 else 0.5 for x in (u, v))
    # Measured voxels without counts have the darkest colour; unmeasured voxels are NaN.
    lowest = float(norm.vmin or 0.0)
    drawn = axes.imshow(
        np.where(image <= 0, lowest, image) if isinstance(norm, LogNorm) else image,
        norm=norm,
        cmap=DIVERGING if diverging else IMAGE,
        extent=(u[0] - du, u[-1] + du, v[0] - dv, v[-1] + dv),
        origin="lower",
        # Sharp peaks remain visible if the volume is finer than the picture.
        interpolation="antialiased",
        transform=skew + axes.transData,
    )
    rows, columns = np.nonzero(np.isfinite(image))
    if rows.size:
        points = skew.transform(np.stack([u[columns], v[rows]], axis=1))
    else:
        points = skew.transform([(a, b) for a in (u[0], u[-1]) for b in (v[0], v[-1])])
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        axes.text(middle[0], middle[1], "not measured", ha="center")
    pad = np.abs(matrix @ (du, dv))
    low, high = points.min(axis=0) - pad, points.max(axis=0) + pad
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), facecolor=_EMPTY)
    axes.set_aspect("equal")
    _letters(axes, one, matrix, (low, high))
    names = [_direction(vector, unit == "Å") for vector in (one.plane.first, one.plane.second)]
    axes.set_xlabel(f"along {names[0]} ({unit})")
    axes.set_ylabel(f"in plane, towards {names[1]} ({unit})")
    return drawn


def _letters(axes: Axes, one: Cut, matrix: Floats, view: tuple[Floats, Floats]) -> None:
    """Draw values of the letters on the upper and right axes, and thin lattice lines."""
    (along, x), (_, y) = matrix
    low, high = view
    upper = axes.secondary_xaxis(
        "top", functions=(lambda at: np.asarray(at) / along, lambda at: np.asarray(at) * along)
    )
    right = axes.secondary_yaxis(
        "right", functions=(lambda at: np.asarray(at) / y, lambda at: np.asarray(at) * y)
    )
    first, second = one.plane.letters
    skewed = abs(x) > 1e-6 * y
    upper.set_xlabel(first + (f" (at {second} = 0)" if skewed else ""), fontsize=9)
    right.set_ylabel(second, fontsize=9)
    locator = MaxNLocator(8, steps=[1, 2, 5, 10])
    values_u = locator.tick_values(low[0] / along, high[0] / along)
    values_v = locator.tick_values(low[1] / y, high[1] / y)
    upper.set_xticks(values_u)
    right.set_yticks(values_v)
    # The value of an inclined line that crosses the picture may be outside the upper axis.
    step = values_u[1] - values_u[0]
    beyond = int(np.ceil(abs(x / y) * max(abs(low[1]), abs(high[1])) / along / step))
    lines = step * np.arange(
        round(values_u[0] / step) - beyond, round(values_u[-1] / step) + beyond + 1
    )
    ends = np.array([low[1], high[1]])
    thin: dict[str, Any] = {"color": "0.5", "lw": 0.5, "alpha": 0.35, "scalex": False}
    for value in lines:
        axes.plot(along * value + x / y * ends, ends, scaley=False, **thin)
    for value in values_v:
        axes.plot([low[0], high[0]], [y * value] * 2, scaley=False, **thin)


def _direction(vector: Floats, direct: bool) -> str:
    """Return a vector as a sum of axes: a*, a* + b*, 2a - c."""
    terms = []
    for factor, axis in zip(vector, "abc", strict=True):
        if factor:
            size = "" if abs(factor) == 1 else f"{abs(factor):.4g}"
            sign = "-" if factor < 0 else "+"
            terms.append(f"{sign} {size}{axis}{'' if direct else '*'}")
    whole = " ".join(terms)
    return whole[2:] if whole.startswith("+") else whole.replace("- ", "-", 1)
