"""Simulated worlds: peak tables of rotation scans with known truth.

`world(kind, system, seed)` is a pure function of its arguments. Worlds with the same system, seed
and options share crystal and instrument whatever the kind, unless the kind changes the cell, so
`world("slip", s, n)` is to be compared with `world("plain", s, n)`. A kind is `name`,
`name:variant` or several joined by "+".
"""

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from tests.truth.worlds_draft import (
    BRAGG,
    DIFFUSE,
    HALF,
    NOISE,
    RING,
    SECOND,
    SPACE_GROUPS,
    SUPER,
    SYSTEMS,
    Draft,
    Options,
    Record,
    World,
    draw_cell,
    draw_instrument,
    finish,
    main_family,
    n_centrings,
    q_at_corners,
    random_direction,
    rng_of,
)
from tests.truth.worlds_kinds import (
    CELL_KINDS,
    EXCLUSIVE,
    HEADER_SIZES,
    KINDS,
    PSEUDO_AXES,
    pseudo_cubic_cell,
    systems_of,
)
from tests.truth.worlds_physics import (
    Family,
    Motion,
    Sample,
    Scan,
    busing_levy,
    direct_basis,
    rotation,
)
from tests.truth.worlds_transitions import EVERY_TRANSITION, TRANSITIONS

__all__ = [
    "BRAGG",
    "DIFFUSE",
    "HALF",
    "KINDS",
    "NOISE",
    "RING",
    "SECOND",
    "SPACE_GROUPS",
    "SUPER",
    "SYSTEMS",
    "TRANSITIONS",
    "World",
    "catalogue",
    "systems_of",
    "world",
]


def _parse(kind: str, system: str, seed: int) -> list[tuple[str, str]]:
    """Return names and variants of a kind, with the variants left open drawn by seed."""
    parts = []
    for text in kind.split("+"):
        name, _, variant = text.partition(":")
        known = (*KINDS[name].variants, *KINDS[name].by_name) if name in KINDS else ()
        if name not in KINDS or (variant and variant not in known):
            raise ValueError(f"unknown kind {text!r}; the kinds are {', '.join(KINDS)}")
        variants = [variant] if variant else KINDS[name].variants
        choices = [v for v in variants if system in systems_of(name, v)]
        if system not in systems_of(name, variant) or not choices:
            raise ValueError(f"{text} does not exist in the {system} system")
        parts.append((name, variant or str(rng_of(seed, name, "variant").choice(choices))))
    if len({n for n, _ in parts}) < len(parts) or sum(n in EXCLUSIVE for n, _ in parts) > 1:
        raise ValueError(f"the kinds {kind} exclude each other")
    return parts


def world(kind: str, system: str, seed: int, size: float | None = None, **options: Any) -> World:
    """Return a simulated measurement; `options` are those of `draft_of`."""
    draft, effects = draft_of(kind, system, seed, size, **options)
    return finish(draft, kind, effects)


def draft_of(
    kind: str,
    system: str,
    seed: int,
    size: float | None = None,
    *,
    n_frames: int = 365,
    step: float = 0.5,
    shape: tuple[int, int] = (480, 512),
    pixel_size: float = 172e-6,
    rotations: int = 1,
    mosaic: float | None = None,
    arm: float | None = None,
    strong: float = 3e4,
    floor: tuple[float, float] = (0.0, 0.0),
    overlaps: bool = True,
) -> tuple[Draft, tuple[Record, ...]]:
    """Return crystal, instrument and reflections of a world, and what was done to it.

    Parameters
    ----------
    kind
        Names of `KINDS`, with variants, joined by "+".
    system
        One of `SYSTEMS`; for a transition the parent's.
    seed
        Seed of everything that is drawn.
    size
        Size of the first kind, in the units given in `KINDS`; None draws all sizes.
    n_frames, step
        Frames of a rotation and degrees per frame.
    shape, pixel_size
        Pixels (slow, fast) and m.
    rotations
        Number of scans; later ones have the crystal at another setting of the goniometer.
    mosaic
        Standard deviation in degrees; None draws 0.05 to 1.5.
    arm
        Angle 2θ of the detector arm in degrees; None draws 0 (3 of 4) or 5 to 30.
    strong
        Counts of the reflection stronger than 99 % of the others.
    floor
        Additional standard uncertainty of the centroids, in frames and pixels.
    overlaps
        Return unresolved spots as one spot.
    """
    parts = _parse(kind, system, seed)
    sizes = {}
    for n, (name, variant) in enumerate(parts):
        rule = KINDS[name]
        drawn = HEADER_SIZES.get(variant, 0.0)
        if rule.high:
            drawn = float(
                np.exp(rng_of(seed, name, "size").uniform(*np.log([rule.low, rule.high])))
            )
            drawn *= 500 if variant == "direction" else 1
        sizes[name] = drawn if size is None or n else size
    rng = rng_of(seed, system)
    group = str(rng.choice(SPACE_GROUPS[system]))
    cell = draw_cell(system, rng)
    parts.sort(key=lambda part: part[0] not in CELL_KINDS)
    for name, variant in parts:
        if name == "transition":
            group = EVERY_TRANSITION[variant].parent
        if name == "twin_pseudomerohedral":
            cell = pseudo_cubic_cell(system, rng_of(seed, name, system), sizes[name])
            group = PSEUDO_AXES[system][1]
    volume = np.linalg.det(direct_basis(busing_levy(cell)))
    instrument = draw_instrument(rng, volume / n_centrings(group), shape, pixel_size, arm)
    axis = np.eye(3)[rng.integers(2)] * rng.choice([-1.0, 1.0])
    tilt = rotation(random_direction(rng), rng.choice([0.0, 1.0]) * rng.uniform(0, 3))
    axis, start = tilt @ axis, float(rng.uniform(-180, 180))
    chi = np.cross(axis, [0, 0, 1])
    settings = [np.eye(3)] + [
        rotation(chi, rng.choice([-1, 1]) * rng.uniform(20, 60)) for _ in range(1, rotations)
    ]
    scans = tuple(Scan(axis, start, step, n_frames, s) for s in settings)
    U = Rotation.random(rng=rng).as_matrix()
    drawn = float(np.exp(rng.uniform(*np.log([0.05, 1.5]))))
    sample = Sample(instrument, scans, Motion(), cell, U, drawn if mosaic is None else mosaic)
    q_max = q_at_corners(instrument)
    draft = Draft(
        system=system,
        seed=seed,
        sample=sample,
        q_max=q_max,
        space_group=group,
        header=instrument,
        header_scans=scans,
        expected=cell,
        main=Family(np.empty((0, 3)), np.empty((0, 3)), np.empty(0), BRAGG),
        b_factor=min(rng.uniform(0.3, 2), 24 * np.pi**2 / q_max**2),
        background=float(np.exp(rng.uniform(*np.log([0.1, 3])))),
        options=Options(strong, floor, overlaps),
    )
    draft.main = main_family(draft)
    effects = []
    for name, variant in parts:
        record = KINDS[name].make(draft, rng_of(seed, name, system), sizes[name], variant)
        effects.append({"kind": name, "variant": variant, "size": sizes[name], **record})
    return draft, tuple(effects)


def catalogue(n: int, first_seed: int = 0) -> list[tuple[str, str, int]]:
    """Return n triples (kind, system, seed) with seeds from `first_seed` on.

    First every kind and variant in at least two systems (where it exists in two), the systems
    used evenly; then pairs of kinds drawn by seed. Below 64 entries kinds are left out.
    """
    use = dict.fromkeys(SYSTEMS, 0)
    entries: list[tuple[str, str]] = []
    texts = [f"{k}:{v}" if v else k for k, rule in KINDS.items() for v in rule.variants]
    for text in texts:
        name, _, variant = text.partition(":")
        choices = sorted(systems_of(name, variant), key=lambda s: use[s])
        for system in choices[: 1 if variant and len(KINDS[name].variants) > 2 else 2]:
            entries.append((text, system))
            use[system] += 1
    pairs = [t for t in texts if t.partition(":")[0] not in ("plain", *CELL_KINDS)]
    rng = rng_of(first_seed, "catalogue")
    while len(entries) < n:
        first, second = rng.choice(pairs, 2, replace=False)
        if rng.random() < 0.2:
            first = f"transition:{rng.choice(list(TRANSITIONS))}"
        name, _, variant = first.partition(":")
        if name == second.partition(":")[0] or {name, second} == {"transition", "half_wavelength"}:
            continue
        system = min(systems_of(name, variant), key=lambda s: use[s])
        entries.append((f"{first}+{second}", system))
        use[system] += 1
    return [(kind, system, first_seed + i) for i, (kind, system) in enumerate(entries[:n])]
