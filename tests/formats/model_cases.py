"""Random models for round trips, and what two models must agree on."""

import json

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Turn

from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice, prediction
from hklflow.geometry.model import Model
from hklflow.geometry.modules import Modules

SHAPE = (180, 220)
CELLS = {
    "P -1": (5.1, 6.3, 7.9, 82.0, 97.0, 105.0),
    "P 63/m m c": (4.913, 4.913, 5.405, 90.0, 90.0, 120.0),
    "C 1 2/c 1": (8.1, 5.2, 9.7, 90.0, 113.0, 90.0),
    "I 4/m c m": (5.5, 5.5, 7.8, 90.0, 90.0, 90.0),
}
BOXES = [[0, 80, 0, 100], [0, 80, 110, 220], [100, 180, 0, 100], [100, 180, 110, 220]]


def random_model(seed, *, square=False, modules=False, name="f1", **fields):
    """Tilted detector, chain of 1 to 4 axes, scan in either sense, any of the cells."""
    rng = np.random.default_rng(seed)
    tilt = Turn.from_rotvec(rng.normal(scale=0.2, size=3)).as_matrix()
    axes = tilt @ Turn.from_rotvec([0, 0, np.pi + rng.normal(scale=0.3)]).as_matrix()
    size = (172e-6, 172e-6) if square else (172e-6, 100e-6)
    detector = Detector(
        SHAPE,
        size,
        np.array([*rng.normal(scale=0.01, size=2), 0.06]) - axes[:, 1] * 0.015 - axes[:, 0] * 0.01,
        axes[:, 1],
        axes[:, 0],
        modules=random_modules(rng, size[1] / size[0]) if modules else None,
    )
    n = int(rng.integers(1, 5))
    goniometer = Goniometer(
        tuple(("omega", "kappa", "phi", "misorientation")[:n]),
        rng.normal(size=(n, 3)),
        rng.uniform(-1, 1, n),
        int(rng.integers(0, n)),
    )
    scan = Scan(
        float(rng.uniform(-1, 1)), float(rng.choice([-1, 1]) * rng.uniform(0.001, 0.05)), 60
    )
    group = str(rng.choice(list(CELLS)))
    u = Turn.random(random_state=int(rng.integers(2**31))).as_matrix()
    beam = Beam(float(rng.uniform(0.2, 1.0)), float(rng.uniform(0, 1)))
    return Model(
        Rotation(beam, detector, goniometer, scan),
        u @ lattice.b_matrix(CELLS[group]),
        group,
        name=name,
        **fields,
    )


def random_modules(rng, aspect):
    return Modules(BOXES, rng.normal(size=(4, 2)), rng.normal(scale=0.01, size=4), aspect)


def points(model, seed=0, n=300):
    """Frame, slow, fast on live pixels."""
    rng = np.random.default_rng(seed)
    frame, slow, fast = rng.uniform([0, 0, 0], [60, *SHAPE], (n, 3)).T
    if model.rotation.detector.modules is not None:
        live = model.rotation.detector.modules.module_at(slow, fast) >= 0
        return frame[live], slow[live], fast[live]
    return frame, slow, fast


def turned_by(first, second, frame=0.0):
    """Degrees between the crystals of two models in the detector's frame on one frame."""
    frames = []
    for model in (first, second):
        rotation = model.rotation
        detector = rotation.detector
        axes = np.stack(
            [detector.fast, detector.slow, np.cross(detector.fast, detector.slow)], axis=1
        )
        angle = rotation.scan.angle(frame)
        frames.append(axes.T @ rotation.goniometer.rotation(angle) @ model.crystal[0])
    return np.degrees(lattice.rotation_angle(*frames))


def assert_same(first, second, *, degrees=1e-6, relative=1e-9):
    """Orientation, cell and geometry, however the laboratories lie about the beam.

    Miller coordinates of pixels hold all of it; the numbers are compared besides.
    """
    at = points(first)
    hkl = [model.rotation.hkl(model.ub, *at) for model in (first, second)]
    assert np.abs(hkl[1] - hkl[0]).max() < relative * np.abs(hkl[0]).max()
    np.testing.assert_allclose(second.crystal[1], first.crystal[1], rtol=relative)
    one, other = first.rotation, second.rotation
    if one.detector.modules is None:
        assert turned_by(first, second) < degrees
        assert turned_by(first, second, 60.0) < degrees
    np.testing.assert_allclose(
        np.linalg.norm(other.detector.lab(*at[1:]), axis=1),
        np.linalg.norm(one.detector.lab(*at[1:]), axis=1),
        rtol=relative,
    )
    np.testing.assert_allclose(other.beam.wavelength, one.beam.wavelength, rtol=relative)
    np.testing.assert_allclose(abs(other.scan.step), abs(one.scan.step), rtol=relative)
    assert other.scan.n_frames == one.scan.n_frames
    assert other.detector.shape == one.detector.shape


def positions_off(model, rows):
    """Largest distance (n,) in frames and pixels of predictions from rows h k l frame slow fast."""
    rows = np.array(rows)
    found = prediction.predict(model.rotation, model.ub, rows[:, :3], margin=30)
    ours = np.stack([found.frame + model.first_image - 1, found.slow, found.fast], axis=1)
    off = np.full(len(rows), np.inf)
    for i, row in enumerate(rows):
        for place in ours[found.index == i]:
            off[i] = min(off[i], np.abs(place - row[3:]).max())
    return off


WEIRD = (None, 0, -1, 1e308, np.inf, np.nan, "x", [], {}, [1, 2], True, 2**70, [[1]], [0, 0, 0])


@st.composite
def damaged(draw, content):
    """JSON with one value replaced by nonsense, or left out."""
    content = json.loads(json.dumps(content))
    places = []

    def walk(value):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in inside:
            places.append((value, key))
            if isinstance(part, dict | list):
                walk(part)

    walk(content)
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    if isinstance(holder, dict) and draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = draw(st.sampled_from(WEIRD))
    return content


seeds = st.integers(0, 2**32 - 1)
