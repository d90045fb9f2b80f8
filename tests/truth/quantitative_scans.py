"""Worlds as products of the first stages, with true orientation, and their crystals' shapes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hklflow import nexus, stage
from hklflow.bragg.reflections import UNFIT, Reflections
from hklflow.geometry.grid import Grid
from hklflow.geometry.rotation import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.images.mask3d import pack
from hklflow.stages import absorption, find_peaks, import_scan, integrate, transform
from hklflow.transform import crystal_shape
from hklflow.transform.absorption import Crystal, Profile
from hklflow.transform.crystal_shape import Body
from tests.truth.orientations import write_orientation
from tests.truth.quantitative import World
from tests.truth.quantitative_write import chi_of, write

_ENDS = {"peaks": ".nxs", "statistics": ".nxs", "metrics": ".json", "statistics_metrics": ".json"}


@dataclass(frozen=True)
class Made:
    """A world, its folder, and the names of its rotations."""

    world: World
    folder: Path
    names: list[str]

    def each(self, name: str) -> list[Path]:
        return [self.folder / r / name for r in self.names]


def made(w: World, folder: Path) -> Made:
    """Write what the stage reads; the frame scale is 1."""
    paths = write(w, folder)
    found = Made(w, folder, [f"r{i + 1}" for i in range(len(w.scans))])
    rotations = {}
    for name, raw, scan in zip(found.names, paths, found.each("scan.nxs"), strict=False):
        scan.parent.mkdir()
        stage.run(
            import_scan.main,
            inputs=import_scan.Inputs(raw=[raw]),
            outputs=import_scan.Outputs(scan=scan),
            params=import_scan.Params(**({} if w.monitor else {"monitor": "none"})),
            threads=1,
        )
        read = nexus.read_scan(scan)
        rotations[name], n = read.rotation, read.rotation.scan.n_frames
        nexus.write_mask(scan.parent / "mask.nxs", w.blind.astype(np.uint32))
        with nexus.FrameMaskWriter(scan.parent / "frame_mask.nxs", (n, *w.shape)) as mask:
            mask.append(pack(np.zeros((n, *w.shape), bool)), np.zeros(n))
        ones = np.ones(n)
        flat = Transmission(ones, 0 * ones, ones, np.zeros(n, np.uint8), 1.0)
        monitor = read.monitor / read.monitor.mean()
        scale = FrameScale(monitor, read.attenuation, ones, flat, 1.0, 1.0, "none")
        nexus.write_scale(scan.parent / "scale.nxs", scale, ones)
    symbol = w.crystal.space_group.partition(":")[0]
    grid = Grid.covering(w.crystal.cell, float(w.q.max()), 0.25)
    write_orientation(folder / "orientation.json", rotations, w.UB, symbol, grid)
    return found


def shape_by_faces(found: Made) -> dict[str, Any]:
    """Return the faces of the crystal: some by hkl, others in the frame of the holder."""
    planes = found.world.absorber.body.planes
    faces = []
    for i, (*normal, distance) in enumerate(planes.tolist()):
        hkl = np.linalg.solve(found.world.UB, normal).tolist()
        way: dict[str, Any] = {"hkl": hkl} if i % 2 else {"holder": normal}
        faces.append({**way, "distance": distance})
    return {"kind": "faces", "faces": faces}


def shape_of(w: World, larger: float) -> dict[str, Any]:
    """Return the shape of a crystal for the configuration, its lengths larger by this share."""
    body, by = w.absorber.body, 1 + larger
    if len(body.quadrics) == 0:
        faces = [{"holder": tuple(n), "distance": by * d} for *n, d in body.planes.tolist()]
        return {"kind": "faces", "faces": faces}
    values, axes = np.linalg.eigh(body.quadrics[0])
    first, second = ({"holder": tuple(axis)} for axis in axes.T[:2].tolist())
    if len(body.planes) == 0:
        radii = tuple((by * values**-0.5).tolist())
        return {"kind": "ellipsoid", "radii": radii, "first": first, "second": second}
    radii = tuple((by * values[1:] ** -0.5).tolist())  # the first eigenvalue is 0: the axis
    length = 2 * by * float(body.planes[0, 3])
    return {"kind": "cylinder", "radii": radii, "length": length, "first": first, "second": second}


def traced(found: Made, **params: Any) -> dict[str, Any]:
    outputs = absorption.Outputs(
        absorption=found.folder / "absorption.nxs",
        picture=found.folder / "absorption.png",
        metrics=found.folder / "absorption.json",
    )
    stage.run(
        absorption.main,
        inputs=absorption.Inputs(
            orientation=found.folder / "orientation.json", scans=found.each("scan.nxs")
        ),
        outputs=outputs,
        params=absorption.Params(**params),
        threads=1,
    )
    metrics: dict[str, Any] = json.loads(outputs.metrics.read_text())
    return metrics


def use(found: Made) -> None:
    """Write the mean transmission into the scales of the frames, as frame_scale does."""
    for name in found.names:
        path = found.folder / name / "scale.nxs"
        old = nexus.read_scale(path)
        curve, _ = nexus.read_absorption(found.folder / "absorption.nxs", name)
        new = FrameScale(
            old.monitor, old.attenuation, old.signal, old.transmission, 1.0, 1.0, "none", curve
        )
        nexus.write_scale(path, new, np.zeros(len(curve)))


def transformed(found: Made, absorbed: Path | None, refined: Path | None = None) -> nexus.Volume:
    folder = found.folder
    outputs = [folder / f"{kind}.nxs" for kind in ("all", "masked")]
    stage.run(
        transform.main,
        inputs=transform.Inputs(
            scan=folder / "r1/scan.nxs",
            mask=folder / "r1/mask.nxs",
            scale=folder / "r1/scale.nxs",
            absorption=absorbed,
            refined=refined,
            frame_mask=folder / "r1/frame_mask.nxs",
            orientation=folder / "orientation.json",
        ),
        outputs=transform.Outputs(transform=outputs[0], masked_transform=outputs[1]),
        params=transform.Params(rotation="r1"),
        threads=1,
    )
    return nexus.read_volume(outputs[0])


def searched(found: Made, rotation: str = "r1") -> None:
    """Find the peaks of a rotation."""
    own = found.folder / rotation
    names = find_peaks.Outputs.model_fields
    stage.run(
        find_peaks.main,
        inputs=find_peaks.Inputs(scan=own / "scan.nxs", mask=own / "mask.nxs"),
        outputs=find_peaks.Outputs(**{n: own / f"{n}{_ENDS.get(n, '.png')}" for n in names}),
        params=find_peaks.Params(),
        threads=1,
    )


def integrated(
    found: Made, absorbed: Path | None, engine: Literal["builtin", "dials"], rotation: str = "r1"
) -> Reflections:
    """Integrate a rotation whose peaks were searched."""
    own = found.folder / rotation
    outputs = [own / f"reflections.{end}" for end in ("nxs", "png", "json")]
    stage.run(
        integrate.main,
        inputs=integrate.Inputs(
            **{n: own / f"{n}.nxs" for n in ("scan", "mask", "scale", "peaks")},
            absorption=absorbed,
            orientation=found.folder / "orientation.json",
        ),
        outputs=integrate.Outputs(reflections=outputs[0], picture=outputs[1], metrics=outputs[2]),
        params=integrate.Params(rotation=rotation, engine=engine),
        threads=1,
    )
    return nexus.read_reflections(outputs[0])


def strong_against_truth(w: World, table: Reflections) -> tuple[Reflections, np.ndarray]:
    """Return the reflections above 30 σ that scaling uses, and ln(sum / |F|²) of each."""
    hkl, power = w.crystal.structure_factors(1.02 * float(w.q.max()))
    # Reflections that are absent have a |F|² of rounding.
    rows = zip(map(tuple, hkl.tolist()), power.tolist(), strict=True)
    true = {h: F2 for h, F2 in rows if 1e-6 * power.max() < F2}
    known = np.array([tuple(h) in true for h in table.hkl.tolist()])
    intensity, sigma = table.intensity("sum")
    strong = known & np.isfinite(intensity) & (intensity > 30 * sigma) & ~table.has(UNFIT)
    table, intensity = table.select(strong), intensity[strong]
    return table, np.log(intensity / [true[tuple(h)] for h in table.hkl.tolist()])


def body_of(w: World) -> Body:
    """Return the body of a world."""
    body = w.absorber.body
    if not len(body.quadrics):
        return crystal_shape.polyhedron(body.planes[:, :3], body.planes[:, 3])
    values, axes = np.linalg.eigh(body.quadrics[0])
    if not len(body.planes):
        return crystal_shape.ellipsoid(values**-0.5, axes.T)
    return crystal_shape.cylinder(values[1:] ** -0.5, 2 * body.planes[0, 3], axes.T)


def crystal_of(w: World) -> Crystal:
    """Return the crystal of a world, without a capillary."""
    fwhm = w.absorber.beam.fwhm
    return Crystal(body_of(w), w.absorber.mu, None if fwhm is None else Profile(*fwhm, True))


def rotation_of(w: World, r: int) -> Rotation:
    """Return the geometry of a rotation of a world."""
    inst, scan = w.optics.instrument, w.scans[r]
    across = np.cross(scan.axis, [0, 0, 1.0])
    chi = np.radians(chi_of(scan.setting, across))
    return Rotation(
        Beam(w.crystal.wavelength),
        Detector(inst.shape, (inst.pixel_size,) * 2, inst.origin, inst.slow, inst.fast),
        Goniometer(("omega", "chi"), np.array([scan.axis, across]), np.array([0, chi]), 0),
        Scan(np.radians(scan.start), np.radians(scan.step), scan.n_frames),
    )
