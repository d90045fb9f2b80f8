"""One detector on an arm: what is refined of it turns with the arm."""

import numpy as np
from scipy.spatial.transform import Rotation as Turn

from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, parameters, symmetry


def at(arm: float) -> Rotation:
    """Geometry with the detector 0.2 m away, at an angle of the arm about x (degrees)."""
    turn = Turn.from_rotvec([np.radians(arm), 0, 0]).as_matrix()
    corner, slow, fast = [-0.05, -0.05, 0.2], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]
    detector = Detector((1000, 1000), (1e-4, 1e-4), *(turn @ x for x in (corner, slow, fast)))
    return Rotation(Beam(1.0), detector, Goniometer.single([1, 0, 0]), Scan(0.0, 0.01, 100))


def test_a_shift_and_a_turn_stay_with_the_arm() -> None:
    """A detector that is askew on its arm at 0° is so, seen from the arm, at 30°, too."""
    names = [f"detector_{axis}" for axis in "xyz"]
    names += [f"detector_rotation_{axis}" for axis in "xyz"]
    values = [1e-3, -2e-3, 3e-3, 0.01, -0.02, 0.005]
    found = parameters.Parameters(
        tuple(names),
        symmetry.cell_constraints(symmetry.space_group("P 1")),
        np.array([5.0, 6.0, 7.0, 90, 90, 90]),
        np.eye(3),
        (at(0.0), at(30.0), at(0.0)),
    )
    first, turned, same = (found.rotation_of(values, i).detector for i in range(3))
    arm = Turn.from_rotvec([np.radians(30), 0, 0]).as_matrix()
    np.testing.assert_allclose(turned.origin, arm @ first.origin, atol=1e-12)
    np.testing.assert_allclose(turned.slow, arm @ first.slow, atol=1e-12)
    np.testing.assert_allclose(turned.fast, arm @ first.fast, atol=1e-12)
    # To the bit where the arm stands still.
    np.testing.assert_array_equal(same.origin, first.origin)
