"""Compute the transmission of a crystal from its shape and its attenuation coefficient.

The transmission depends on the frame and on the direction of the scattered beam. It is part of the
norm of S(Q) and of Bragg intensities. The stage runs for scans whose `absorption: shape` is set. Of
a shape that is not known, the norm contains the mean over the shapes with the given extents, as a
function of ``|Q|``, and the figures its uncertainty.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hklflow import stage
from hklflow.stage.absorption_settings import AbsorptionSettings, Along, Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.orientation.product import Orientation
    from hklflow.stage.rehearsal import Known
    from hklflow.transform.absorption import Absorption, Crystal, Profile
    from hklflow.transform.crystal_shape import Body

VERSION = 1

_OPAQUE = 1e-3
_CLEAR = 0.995
_BACKGROUND = (0.3, 0.95)  # of the largest |Q|, as `find_peaks` chooses


class Inputs(stage.Inputs):
    orientation: Path
    """Refined orientation of the scan."""
    accepted: Path | None = None
    """Verdict of the quality gates on the scan; None if the scan was not judged."""
    scans: list[Path]
    """Scan files of the rotations."""


class Outputs(stage.Outputs):
    absorption: Path
    """Transmission of each rotation by frame and direction, and its derivatives."""
    picture: Path
    """Picture: transmission by frame with its range over directions; its change with 2θ."""
    metrics: Path
    """Attenuation, range of the transmission, errors that are common to voxels, warnings."""


class Settings(AbsorptionSettings):
    """Settings of this stage in the configuration file."""


class Params(Settings):
    """Settings of the stage, and facts of the experiment."""

    sample_formula: str = ""
    """Formula in the table of samples."""
    sample_cell: tuple[float, float, float, float, float, float] | None = None
    """Cell in the table of samples, by which `hklflow check` computes the transmission."""
    annulus: tuple[float, float] | None = None
    """Ends of the background of `find_peaks`, as fractions of the largest |Q|; None: 0.3 to 0.95.
    """
    title: str = "transmission"
    """Title of the picture."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Trace the transmission of each rotation and write it with its errors."""
    from hklflow import nexus, plots
    from hklflow.stage import absorption_figures
    from hklflow.transform import absorption

    orientation = stage.read_orientation(inputs.orientation)
    stage.read_accepted(inputs.accepted)
    shape = _require_shape(params)
    names = [path.absolute().parent.name for path in inputs.scans]
    if shape.size is not None:
        _unknown(shape.size, orientation, names, outputs, params, threads)
        return
    body = body_of(shape, orientation.ub)
    found, crystals, warnings = {}, {}, _unused(shape, body)
    for name in names:
        rotation = orientation.rotation(name)
        crystals[name] = _crystal(body, params, rotation.beam.wavelength, _volume(orientation))
        annulus = params.annulus or _BACKGROUND
        found[name] = absorption.of_rotation(
            crystals[name], rotation, annulus, params.nodes, threads
        )
    largest = max(float(one.transmissions.max()) for one in found.values())
    crystal = crystals[names[0]]
    require_transparent(largest, crystal)
    warnings += _doubts(found, crystal, params)
    rotations = {name: orientation.rotation(name) for name in names}
    nexus.write_absorption(outputs.absorption, found, params.mu_error, params.size_error)
    directions = [(one.hkl, normal_of(one, orientation.ub)) for one in shape.directions]
    metrics = absorption_figures.of_shape(
        found, crystals, rotations, directions, params.mu_error, params.size_error
    )
    stage.write_json(outputs.metrics, metrics | {"warnings": warnings})
    picture = plots.absorption(found, rotations, params.title)
    plots.save(picture, outputs.picture)
    print(sentence(crystal, *metrics["smallest and largest transmission"]))
    print(metrics["errors common to many voxels"]["sentence"])
    for warning in warnings:
        print(f"warning: {warning}")


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Make the shape, and note the range of the transmission over all directions."""
    import numpy as np

    from hklflow.geometry import lattice
    from hklflow.transform import absorption, shape_family

    shape, facts, cell = _require_shape(params), known.scan(inputs.scans[0]), params.sample_cell
    _formula(params)
    by_planes = {direction.hkl is not None for direction in shape.directions}
    if len(by_planes) == 2 or (cell is None and True in by_planes):
        return
    # The orientation of the crystal is not known; it has no effect on the range.
    if shape.size is not None:
        bodies = shape_family.ends(shape.size)
    else:
        bodies = [body_of(shape, np.eye(3) if cell is None else lattice.b_matrix(cell))]
    if facts is None or (cell is None and params.formula_units is not None):
        return
    wavelength = facts.scan.rotation.beam.wavelength
    # Of an unknown shape, the smallest crystal has the largest transmission.
    crystals = [
        _crystal(body, params, wavelength, cell and lattice.volume(cell)) for body in bodies
    ]
    low, high = known.once(
        ("transmission", crystals[0].mu, cell, shape.model_dump_json(), str(params.beam)),
        lambda: (
            absorption.over_all_directions(crystals[-1])[0],
            absorption.over_all_directions(crystals[0])[1],
        ),
    )
    require_transparent(high, crystals[0])
    crystal = crystals[-1]
    known.notes.append(f"{params.title}: {sentence(crystal, low, high)} over all directions")
    known.notes += _clear(low, crystal)


def sentence(crystal: "Crystal", low: float, high: float) -> str:
    """Return the range of the transmission in one sentence."""
    share = "" if crystal.beam is None else ", with the illuminated part of the crystal,"
    return (
        f"transmission{share} {low:.3g} to {high:.3g} (μ {crystal.mu:.4g} 1/mm, largest extent "
        f"{crystal.body.longest:.4g} mm)"
    )


def require_transparent(largest: float, crystal: "Crystal") -> None:
    """Refuse a crystal through which nothing passes.

    Raises
    ------
    HklflowError
    """
    from hklflow.base.errors import HklflowError

    if largest < _OPAQUE:
        raise HklflowError(
            f"the transmission of the crystal is below {_OPAQUE:g} in all directions (μ "
            f"{crystal.mu:.4g} 1/mm, largest extent {crystal.body.longest:.4g} mm): `absorption` "
            "needs lengths in mm and μ in 1/mm (10 1/cm = 1 1/mm); correct shape and μ"
        )


def body_of(shape: Shape, ub: "NDArray[np.float64]") -> "Body":
    """Return the body of a shape in the holder's frame.

    Parameters
    ----------
    ub : (3, 3) array
        Orientation matrix.

    Raises
    ------
    HklflowError
        If directions are parallel, or faces leave the body open.
    """
    import numpy as np

    from hklflow.transform import crystal_shape

    def vector(direction: Along) -> "NDArray[np.float64]":
        return normal_of(direction, ub)

    radii = shape.radii or ()
    if shape.kind == "sphere":
        return crystal_shape.ellipsoid(radii * 3, np.eye(3))
    if shape.faces is not None:
        normals = [vector(face) for face in shape.faces]
        return crystal_shape.polyhedron(normals, [face.distance for face in shape.faces])
    assert shape.first is not None
    first = vector(shape.first)
    # The second direction of a round cylinder has no effect.
    second = np.eye(3)[np.argmin(np.abs(first))] if shape.second is None else vector(shape.second)
    axes = crystal_shape.axes_from(first, second)
    if shape.kind == "ellipsoid":
        return crystal_shape.ellipsoid(radii, axes)
    if shape.kind == "cylinder":
        assert shape.length is not None
        return crystal_shape.cylinder((radii * 2)[:2], shape.length, axes)
    assert shape.thickness is not None
    return crystal_shape.box(shape.thickness, axes)


def normal_of(direction: Along, ub: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the unit vector (3,) of a direction in the holder's frame."""
    import numpy as np

    vector = np.array(direction.holder) if direction.hkl is None else ub @ direction.hkl
    return np.asarray(vector / np.linalg.norm(vector))


def _require_shape(params: Params) -> Shape:
    from hklflow.base.errors import HklflowError

    if params.shape is None:
        raise HklflowError("the crystal has no shape: set `absorption: {shape: ...}`")
    return params.shape


def _formula(params: Params) -> str:
    """Return the formula from which μ follows, empty if μ is given; refuse what gives no μ."""
    from hklflow.base.errors import HklflowError
    from hklflow.transform import attenuation

    if params.mu is not None:
        return ""
    formula = params.formula or params.sample_formula
    if not formula:
        raise HklflowError(
            "the attenuation of the crystal is not known: set `absorption: {mu: ...}` in 1/mm, or "
            "`formula` with `density` or `formula_units`"
        )
    if (params.density is None) == (params.formula_units is None):
        raise HklflowError(
            f"the attenuation of {formula} needs `absorption: {{density: ...}}` in g/cm³ or "
            "`formula_units` (in the cell): give one of both"
        )
    attenuation.by_density(formula, 1.0, 1.0)
    return formula


def _volume(orientation: "Orientation") -> float:
    """Return the volume of the refined cell in Å³."""
    import numpy as np

    return float((2 * np.pi) ** 3 / abs(np.linalg.det(orientation.ub)))


def _attenuation(params: Params, wavelength: float, volume: float | None) -> float:
    """Return μ in 1/mm; the volume of the cell is needed for formula units."""
    from hklflow.transform import attenuation

    formula = _formula(params)
    if params.mu is not None:
        return params.mu
    if params.density is not None:
        return attenuation.by_density(formula, params.density, wavelength)
    assert params.formula_units is not None
    assert volume is not None
    return attenuation.by_cell(formula, params.formula_units, volume, wavelength)


def _profile(params: Params) -> "Profile | None":
    from hklflow.transform.absorption import Profile

    if (beam := params.beam) is None:
        return None
    return Profile(beam.horizontal, beam.vertical, beam.profile == "gaussian")


def _crystal(body: "Body", params: Params, wavelength: float, volume: float | None) -> "Crystal":
    """Return body, attenuation and beam."""
    from hklflow.transform.absorption import Crystal

    return Crystal(body, _attenuation(params, wavelength, volume), _profile(params))


def _unknown(
    size: tuple[float, float],
    orientation: "Orientation",
    names: list[str],
    outputs: Outputs,
    params: Params,
    threads: int,
) -> None:
    """Write what absorption changes as a function of Q, over the shapes with extents in a range."""
    from hklflow import nexus, plots
    from hklflow.geometry import symmetry
    from hklflow.stage import absorption_figures
    from hklflow.transform import shape_family
    from hklflow.transform.absorption import Crystal

    rotations = {name: orientation.rotation(name) for name in names}
    volume = _volume(orientation)
    mu = {n: _attenuation(params, r.beam.wavelength, volume) for n, r in rotations.items()}
    beam = _profile(params)
    gauge = shape_family.gauge(
        shape_family.members(size, params.mu_error),
        mu,
        beam,
        rotations,
        orientation.ub,
        symmetry.space_group(orientation.space_group).laue_operations,
        threads,
    )
    smallest, largest = (Crystal(body, mu[names[0]], beam) for body in shape_family.ends(size))
    require_transparent(gauge.range[1], smallest)
    directions = {name: gauge.direction(one, params.nodes) for name, one in rotations.items()}
    frames = {name: one.scan.n_frames for name, one in rotations.items()}
    nexus.write_unknown_absorption(outputs.absorption, gauge, directions, frames)
    metrics = absorption_figures.of_unknown_shape(gauge, mu, size)
    warnings = _clear(gauge.range[0], largest)
    stage.write_json(outputs.metrics, metrics | {"warnings": warnings})
    plots.save(plots.unknown_absorption(gauge, params.title), outputs.picture)
    print(metrics["errors common to many voxels"]["sentence"])
    for warning in warnings:
        print(f"warning: {warning}")


def _unused(shape: Shape, body: "Body") -> list[str]:
    """Return a warning about faces that do not touch the polyhedron."""
    from hklflow.transform.crystal_shape import unused_faces

    if shape.faces is None or not (numbers := unused_faces(body)):
        return []
    named = ", ".join(
        str(list(face.hkl or face.holder or ())) for face in (shape.faces[i] for i in numbers)
    )
    return [
        f"{len(numbers)} faces are cut off by the other faces and have no effect: {named}; check "
        "indices and distances"
    ]


def _doubts(found: "dict[str, Absorption]", crystal: "Crystal", params: Params) -> list[str]:
    """Return warnings about the accuracy, and about a crystal that absorbs next to nothing."""
    warnings = []
    error = max(one.error for one in found.values())
    if error > params.told_error:
        warnings.append(
            f"the transmission is computed with an error of {error:.1%} (rms over frames and "
            f"directions, limit `absorption: told_error` {params.told_error:.1%}), because it "
            f"changes too fast between {params.nodes} nodes along the detector; raise "
            "`absorption: nodes`"
        )
    smallest = min(float(one.transmissions.min()) for one in found.values())
    return warnings + _clear(smallest, crystal)


def _clear(smallest: float, crystal: "Crystal") -> list[str]:
    """Return a warning about absorption that is not worth a correction."""
    if crystal.beam is not None or smallest <= _CLEAR:
        return []
    return [
        f"the crystal absorbs next to nothing (smallest transmission {smallest:.4f}): check that "
        f"its lengths (largest {crystal.body.longest:.3g} mm) are in mm and μ ({crystal.mu:.3g}) "
        "in 1/mm"
    ]


if __name__ == "__main__":
    stage.command(main)
