"""Courses of the widths over the detector."""

import numpy as np

from hklflow.bragg.profiles import _robust


def test_the_course_is_where_the_penalised_loss_of_huber_is_least() -> None:
    """The loss is written out here, its scale that of the course which was found."""
    rng = np.random.default_rng(8)
    place = rng.uniform(-1, 1, (2, 120))
    design = np.column_stack([np.ones(120), *place])
    y = design @ [0.1, 0.3, -0.2] + rng.normal(0, 0.2, 120)
    y[::10] += 3  # outliers
    found = _robust(design, y)
    np.testing.assert_allclose(found, [0.1, 0.3, -0.2], atol=0.08)

    scale = 1.4826 * np.median(np.abs(y - design @ found))

    def loss(x: np.ndarray) -> float:
        off = np.abs(y - design @ x) / scale
        huber = np.where(off < 1.345, off**2 / 2, 1.345 * (off - 1.345 / 2))
        return float(huber.sum() + (x / 0.5) @ (x / 0.5) / 2)

    for step in 0.01 * np.vstack([np.eye(3), -np.eye(3)]):
        assert loss(found + step) > loss(found)
