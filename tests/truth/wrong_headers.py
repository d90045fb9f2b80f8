"""Worlds whose header is wrong in one thing, and what is said of them as `refine_parent` does."""

import re
from dataclasses import replace
from typing import Any

import numpy as np

from hklflow.geometry import symmetry
from hklflow.geometry.correction import of_items
from hklflow.orientation import wrong_header
from hklflow.quality.explanations import Stated, sentence
from hklflow.stage import orientation
from tests.truth import world_scans, worlds

SCALE = ("scale", "distance", "wavelength")
# Class: kind of world, size, systems, and the kinds of explanation that name it.
CLASSES: dict[str, tuple[str, float | None, tuple[str, ...], tuple[str, ...]]] = {
    "axis": ("wrong_header:axis", None, worlds.SYSTEMS, ("axis", "mirrored")),
    "mirrored": ("wrong_header:mirrored", None, worlds.SYSTEMS, ("axis", "mirrored")),
    "beam": ("wrong_header:beam", 25.0, worlds.SYSTEMS, ("beam centre", "arm")),
    "arm": ("wrong_header:arm", 20.0, worlds.SYSTEMS, ("beam centre", "arm")),
    "distance": ("wrong_header:distance", 0.1, worlds.SYSTEMS, SCALE),
    "nanometre": ("wrong_header:nanometre", None, worlds.SYSTEMS, SCALE),
    "keV": ("wrong_header:keV", None, worlds.SYSTEMS, SCALE),
    "setting": (
        "wrong_header:setting",
        None,
        ("orthorhombic", "monoclinic", "trigonal"),
        ("setting",),
    ),
    "right": ("noise", 0.6, worlds.SYSTEMS, ()),
}


def ask(world: worlds.World) -> tuple[bool, list[Any], str]:
    """Return whether the peaks are indexed as stated, the explanations, and the sentence."""
    scans = [world_scans.scan_of(world, i) for i in range(len(world.scans))]
    tables = [world_scans.table_of(world, i) for i in range(len(world.scans))]
    observed = orientation.observe([f"r{i}" for i in range(len(scans))], scans, tables)
    group = symmetry.space_group(world.space_group)
    sought = wrong_header.Sought(world.cell, group, 0.25, 0.03, 0.5)
    found = wrong_header.explained(
        observed.rotations, observed.peaks, observed.intensities[0], sought
    )
    stated = Stated(observed.names, observed.rotations, [0], 1, group.symbol, list(world.cell))
    before = sought.index(observed.rotations, observed.peaks, observed.intensities[0])
    # A cell that disobeys the space group does not survive the refinement.
    good = before is not None and before.rms < 0.1 and not before.relation
    good = good and before is not None and before.candidates[0].accepted
    return good, found, sentence(found, stated)


def applied(world: worlds.World, text: str) -> bool:
    """Apply the first remedy of a sentence, and return whether the peaks are indexed."""
    scan, table = world_scans.scan_of(world, 0), world_scans.table_of(world, 0)
    rotation = scan.rotation
    cell, group = world.cell, world.space_group
    text = re.split("write |correct the wrong one: ", text)[1].split(", or ")[0].split(" (")[0]
    if match := re.search(r"detector: \[([^\]]*)\]", text):
        items = re.findall(r'"([^"]*)"', match[1])
        rotation = replace(rotation, detector=of_items(items).applied(rotation.detector))
    if match := re.search(r"wavelength: ([0-9.]+)", text):
        rotation = replace(rotation, beam=replace(rotation.beam, wavelength=float(match[1])))
    if match := re.search(r"phi=([-0-9.]+):([-0-9.]+)", text):
        start, step = (float(x) * np.pi / 180 for x in match.groups())
        rotation = replace(rotation, scan=replace(rotation.scan, start=start, step=step))
    if match := re.search(r"space group `([^`]*)`", text):
        group = match[1]
    scan = replace(scan, rotation=rotation)
    observed = orientation.observe(["r0"], [scan], [table])
    sought = wrong_header.Sought(cell, symmetry.space_group(group), 0.25, 0.03, 0.5)
    index = sought.index(observed.rotations, observed.peaks, observed.intensities[0])
    return index is not None and index.rms < 0.1
