"""Expected counts of a world that are not diffuse scattering or peaks; see quantitative.py.

All are in electron units on the scale of the world, for beam 1 and attenuator 1.
"""

from typing import TYPE_CHECKING

import numpy as np

from tests.truth.quantitative_absorption import Array
from tests.truth.quantitative_background import GLASS, air_images, ring_profile, wall_images
from tests.truth.worlds_draft import rng_of

if TYPE_CHECKING:
    from tests.truth.quantitative import World


def images(world: "World") -> dict[str, Array]:
    """Return images of the surroundings, of which the level is a share of the mean diffuse S."""
    e, optics = world.surroundings, world.optics
    phase = float(rng_of(world.seed, world.name, "texture").uniform(0, np.pi))
    level = world._mean(lambda r, z: world.transmission(r, z) * world.structure(r, z) * world.norm)
    sees = ~world.blind
    found = {}
    if e.air:
        before, behind = air_images(optics, e.air)
        unit = e.air.level * level / (before + behind)[sees].mean()
        found |= {"air before": unit * before, "air behind": unit * behind}
    if e.capillary:
        image = optics.image(GLASS, np.zeros(1))
        found["capillary"] = e.capillary.level * level / image[sees].mean() * image
    if e.walls:
        before, behind = wall_images(optics, e.walls, phase)
        unit = e.walls.level * level * 2
        found |= {"wall before": unit * before, "wall behind": unit * behind}
    if e.ice:
        image = optics.image(
            ring_profile("ice", e.ice.texture, phase, optics.ring_width), np.zeros(1)
        )
        found["ice"] = e.ice.level * level * image / 100
    s, omega = optics.rays()
    found["flat"] = level * omega * optics.efficiency(s)
    return {name: np.where(sees, image, 0) for name, image in found.items()}


def environment(world: "World", r: int, z: int) -> dict[str, Array]:
    """Return fluorescence of the crystal and everything of its surroundings in a frame."""
    e, of = world.surroundings, world._images
    found: dict[str, Array] = {}
    if e.fluorescence:
        T = world.on_pixels(world.nodes(r, "fluorescence")[z])
        found["fluorescence"] = e.fluorescence * T * of["flat"]
    through = float(world.nodes(r, "through")[z]) if e.air or e.walls else 1.0
    for name in ("air", "wall"):
        if f"{name} before" in of:
            found[name] = of[f"{name} before"] + through * of[f"{name} behind"]
    if e.capillary:
        A = world.on_pixels(world.nodes(r, "container")[z])
        found["capillary"] = A * of["capillary"]
    if e.ice:
        frames = np.cumsum([0] + [scan.n_frames for scan in world.scans])
        grown = (frames[r] + z + 0.5) / frames[-1]
        found["ice"] = grown * world.transmission(r, z) * of["ice"]
    if (r, z) in e.leaks:
        found["leak"] = e.leaks[r, z] * of["flat"]
    return found


def empty(world: "World") -> Array:
    """Return the expected counts of one frame of the empty run."""
    run, of = world.surroundings.empty, world._images
    if run is None:
        raise ValueError(f"{world.name} has no empty run")
    total = np.zeros(world.shape)
    for name in ("air before", "air behind", "wall before", "wall behind"):
        total += of.get(name, 0)
    if world.surroundings.capillary:
        A = world.absorber.container(np.eye(3), world.node_rays, sample=False)
        total += world.on_pixels(A) * of["capillary"]
    return run.beam * run.exposure * run.attenuator * world.scale * total
