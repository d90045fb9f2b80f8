"""Figures of the absorption by a crystal, of known and of unknown shape."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hklflow.stage.absorption_settings import Vector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry import Rotation
    from hklflow.transform.absorption import Absorption, Crystal
    from hklflow.transform.shape_family import Gauge

    Floats = NDArray[np.float64]


def of_shape(
    found: "dict[str, Absorption]",
    crystals: "dict[str, Crystal]",
    rotations: "dict[str, Rotation]",
    directions: "Sequence[tuple[Vector | None, Floats]]",
    mu_error: float,
    size_error: float,
) -> dict[str, Any]:
    """Return the figures of `absorption.json` for a crystal of known shape.

    Parameters
    ----------
    directions : sequence of hkl or None, and unit vector (3,)
        Directions of the shape in the holder's frame.
    mu_error, size_error : float
        Relative uncertainties.
    """
    import numpy as np

    T = {name: one.transmissions for name, one in found.items()}
    return {
        "attenuation (1/mm)": {name: crystal.mu for name, crystal in crystals.items()},
        "largest extent (mm)": next(iter(crystals.values())).body.longest,
        "volume (mm3)": next(iter(crystals.values())).body.volume,
        "directions in the frame of the holder": [
            {"hkl": None if hkl is None else list(hkl), "vector": vector.round(5).tolist()}
            for hkl, vector in directions
        ],
        "smallest and largest transmission": [
            float(min(t.min() for t in T.values())),
            float(max(t.max() for t in T.values())),
        ],
        "mean transmission": {name: float(one.curve.mean()) for name, one in found.items()},
        "rms of ln T over directions": {
            name: float(np.sqrt(np.mean(one.direction.log**2))) for name, one in found.items()
        },
        "error of the computation": {
            "rms": max(one.error for one in found.values()),
            "largest": max(one.largest_error for one in found.values()),
        },
        "errors common to many voxels": _common_errors(found, rotations, mu_error, size_error),
    }


def _common_errors(
    found: "dict[str, Absorption]",
    rotations: "dict[str, Rotation]",
    mu_error: float,
    size_error: float,
) -> dict[str, Any]:
    """Return errors of S(Q) by the uncertainties of μ and size, and a sentence about them."""
    import numpy as np

    from hklflow.transform.absorption import shell_means

    level = rms = largest = of_q = 0.0
    parts = (("by_mu", mu_error), ("by_size", size_error))
    for name, sigma in parts:
        slopes = np.concatenate([getattr(one, name) for one in found.values()])
        means, weights = shell_means(
            [(rotations[r], one.direction, getattr(one, name)) for r, one in found.items()]
        )
        middle = np.average(means, weights=weights)
        level += (sigma * slopes.mean()) ** 2
        rms += (sigma * slopes.std()) ** 2
        largest += (sigma * np.abs(slopes - slopes.mean()).max()) ** 2
        of_q += sigma**2 * np.average((means - middle) ** 2, weights=weights)
    level, rms, largest, of_q = (float(np.sqrt(x)) for x in (level, rms, largest, of_q))
    return {
        "common scale": level,
        "change with frame and direction (rms)": rms,
        "change with frame and direction (largest)": largest,
        "change with |Q| (rms)": of_q,
        "sentence": (
            f"the uncertainties of μ ({mu_error:.1%}) and of the size "
            f"({size_error:.1%}) make errors of S(Q) that many voxels have in common, and "
            f"that are not in their error bars: {level:.1%} for all voxels, and {rms:.2%} (rms, "
            f"{largest:.1%} at most) that change with frame and direction; {of_q:.2%} are a "
            "function of |Q|, which repeated measurements cannot see"
        ),
    }


def of_unknown_shape(
    gauge: "Gauge", mu: Mapping[str, float], size: tuple[float, float]
) -> dict[str, Any]:
    """Return the figures of `absorption.json` for a crystal of unknown shape.

    Parameters
    ----------
    mu : mapping
        Attenuation in 1/mm in each rotation, by its name.
    size : (float, float)
        Smallest and largest extent, mm.
    """
    rms = {
        "change with |Q| (rms)": _rms(gauge.sigma, gauge),
        "change with the direction of Q (rms)": _rms(gauge.by_direction, gauge),
    }
    return {
        "attenuation (1/mm)": dict(mu),
        "smallest and largest extent (mm)": list(size),
        "shapes": len(gauge.members),
        "smallest and largest transmission": list(gauge.range),
        "change of ln T that repeated measurements see (rms)": gauge.visible,
        "errors common to many voxels": {
            **rms,
            "|Q| (1/Å)": gauge.q.tolist(),
            "mean of ln T, in the norm": gauge.mean.tolist(),
            "standard uncertainty of ln S": gauge.sigma.tolist(),
            "covariance of ln S": gauge.covariance.tolist(),
            "standard uncertainty of ln S by the direction of Q": gauge.by_direction.tolist(),
            "sentence": _sentence(gauge, size),
        },
    }


def _rms(values: "Floats", gauge: "Gauge") -> float:
    return float((values**2 @ gauge.weight) ** 0.5)


def _sentence(gauge: "Gauge", size: tuple[float, float]) -> str:
    worst = int(gauge.sigma.argmax())
    return (
        f"the shape of the crystal is not known: over {len(gauge.members)} shapes with extents of "
        f"{size[0]:g} to {size[1]:g} mm, absorption changes S(Q) as a function of |Q| by "
        f"{gauge.mean.min():+.2%} to {gauge.mean.max():+.2%} (the mean over the shapes, which the "
        f"norm contains) with an uncertainty of {_rms(gauge.sigma, gauge):.2%} (rms; "
        f"{gauge.sigma[worst]:.2%} at {gauge.q[worst]:.3g} 1/Å), and with the direction of Q by "
        f"{_rms(gauge.by_direction, gauge):.2%} (rms); both are relative to the mean of S(Q), "
        "common to many voxels, not in their error bars, and no repeated measurement can see them. "
        f"Another {gauge.visible:.1%} (rms) changes with frame and direction: `refine_scale: "
        "{use: true}` finds it"
    )
