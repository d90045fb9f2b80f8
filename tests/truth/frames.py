"""Simulated worlds as raw frames: rotation scans with known truth, counted pixel by pixel.

`frame_world(kind, system, seed)` has the crystal and the instrument of `worlds.world` of the same
arguments. A kind is one of the peak tables' (`worlds.KINDS`) or of `FRAME_KINDS`, or several
joined by "+". `frames_write.write(world, folder)` makes an experiment of it.

A mosaic crystal's spot travels along its powder ring while it rocks through the sphere, so that
its rocking curve is skew, and its centroid is not the crossing by about the square of the spread
m (rad): cells from centroids are off by up to m²/2, relatively, which is 1e-5 for 0.25° and 2e-4
for 1.2°. Nothing that is beyond errors by so little is a fault of the reduction.

Not simulated: arcs of mosaic spread along the powder ring; oblique broadening and parallax of
spots in the sensor; dead time; polarisation other than linear; a beam with a bandwidth; the mean
of S over a pixel (its middle is taken, over a frame it is averaged).
"""

from typing import Any

import numpy as np

from tests.truth.frames_kinds import FRAME_KINDS, diffuse_crystals
from tests.truth.frames_world import FrameWorld
from tests.truth.worlds import KINDS, draft_of, systems_of
from tests.truth.worlds_draft import SYSTEMS, Draft, Record, rng_of, true_spots
from tests.truth.worlds_physics import Array, Sample, operations, select

__all__ = ["FRAME_KINDS", "FrameWorld", "frame_catalogue", "frame_world"]

GAP = 6  # pixels between modules
SHADOW = 11.0  # radius of the beam stop's shadow, pixels
LEAK = 0.02  # what the beam stop lets through


def frame_world(
    kind: str,
    system: str,
    seed: int,
    size: float | None = None,
    *,
    polarization: float = 0.99,
    sensor: tuple[float, float] | None = None,
    **options: Any,
) -> FrameWorld:
    """Return a simulated measurement as frames.

    Parameters
    ----------
    kind
        Names of `worlds.KINDS` and `FRAME_KINDS`, with variants, joined by "+".
    system, seed
        As of `worlds.world`.
    size
        Size of the first kind, in the units given in `KINDS` and `FRAME_KINDS`; None draws all.
    polarization
        Fraction with the electric vector along the lab's x.
    sensor
        Thickness (m) and attenuation (1/m) of the sensor; None: it absorbs everything.
    options
        Those of `worlds.draft_of`: n_frames, step, shape, pixel_size, rotations, mosaic, arm,
        strong.
    """
    parts = [text.partition(":")[::2] for text in kind.split("+")]
    on_frames = [(name, variant) for name, variant in parts if name in FRAME_KINDS]
    of_peaks = [text for text in kind.split("+") if text.partition(":")[0] not in FRAME_KINDS]
    if len({name for name, _ in parts}) < len(parts):
        raise ValueError(f"a kind occurs twice in {kind}")
    if "coarse_steps" in dict(parts):
        step = size if size and parts[0][0] == "coarse_steps" else 2.0
        fine = options.get("n_frames", 365) * options.get("step", 0.5)
        options |= {"step": step, "n_frames": int(fine // abs(step))}
    first = size if parts[0][0] not in FRAME_KINDS else None
    text = "+".join(of_peaks) or "plain"
    draft, effects = draft_of(text, system, seed, first, **options)
    world = _of_draft(draft, kind, effects, polarization, sensor)
    for name, variant in on_frames:
        rule, rng = FRAME_KINDS[name], rng_of(seed, name, system)
        if variant and variant not in rule.variants:
            raise ValueError(f"{name} has no variant {variant}, only {', '.join(rule.variants)}")
        variant = variant or str(rng.choice(rule.variants))
        drawn = float(np.exp(rng.uniform(*np.log([rule.low, rule.high])))) if rule.high else 0.0
        drawn = size if size is not None and name == parts[0][0] else drawn
        record = rule.make(world, rng, drawn, variant)
        world.effects += ({"kind": name, "variant": variant, "size": drawn, **record},)
    if draft.before is not None:
        world.parent = _of_draft(draft.before, f"parent of {kind}", (), polarization, sensor)
    return world


def structure_waves(group: str, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return vectors and amplitudes of a diffuse S(hkl) with the Laue symmetry of a space group.

    Along a, b and c, and along one more of integer or half-integer vectors; S is 0.2 to 1.8.
    """
    W = np.unique(operations(group)[0], axis=0)
    more = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 1, 2], [0, 1, 1]]) / 2
    vectors, amplitudes, seen = [], [], set()
    for v in (*np.eye(3), more[rng.integers(len(more))]):
        orbit = np.round(W @ v * 2).astype(int)
        first = np.argmax(orbit != 0, axis=1)
        sign = np.sign(orbit[np.arange(len(orbit)), first])
        orbit = np.unique(orbit * sign[:, None], axis=0) / 2
        key = tuple(map(tuple, orbit))
        if key not in seen:
            seen.add(key)
            vectors.append(orbit)
            amplitudes.append(rng.choice([-1, 1]) * np.full(len(orbit), 1 / len(orbit)))
    amplitude = np.concatenate([a * 0.8 / len(vectors) for a in amplitudes])
    return np.concatenate(vectors), amplitude


def modules_of(shape: tuple[int, int], grid: tuple[int, int] = (3, 2)) -> np.ndarray:
    """Return the module of every pixel of a grid of modules, −1 in the gaps between them."""
    number, gap = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for axis, n in enumerate(grid):
        edges = np.linspace(0, shape[axis], n + 1).astype(int)[1:-1]
        x = np.arange(shape[axis])
        index, inside = np.searchsorted(edges, x, side="right"), np.zeros(shape[axis], bool)
        for e in edges:
            inside |= (x >= e - GAP // 2) & (x < e + GAP // 2)
        line = (slice(None), None) if axis == 0 else (None, slice(None))
        number, gap = number * n + index[line], gap | inside[line]
    return np.where(gap, -1, number)


def _beam_stop(sample: Sample) -> Array:
    """Return the transmission (slow, fast) of the beam stop."""
    slow, fast, path = sample.instrument.pixel(np.zeros(3), np.array([[0.0, 0, 1]]))
    if np.isnan(path[0]):
        return np.ones(sample.instrument.shape)
    i, j = np.indices(sample.instrument.shape) + 0.5
    inside = np.hypot(i - slow[0], j - fast[0]) < SHADOW
    return np.where(inside, LEAK, 1.0)


def _of_draft(
    draft: Draft,
    kind: str,
    effects: tuple[Record, ...],
    polarization: float,
    sensor: tuple[float, float] | None,
) -> FrameWorld:
    sample = draft.sample
    scans, n = len(sample.scans), sample.scans[0].n_frames
    vectors, amplitudes = structure_waves(draft.space_group, rng_of(draft.seed, "structure"))
    module = modules_of(sample.instrument.shape)
    exposure = abs(sample.scans[0].step) / 0.5
    world = FrameWorld(
        kind=kind,
        system=draft.system,
        seed=draft.seed,
        draft=draft,
        effects=effects,
        scale=true_spots(draft)[1],
        air=draft.background * exposure,
        diffuse=0.0,
        vectors=vectors,
        amplitudes=amplitudes,
        crystals=diffuse_crystals(effects),
        module=module,
        shift=np.zeros((module.max() + 1, 2)),
        sensitivity=np.ones(sample.instrument.shape),
        shadow=_beam_stop(sample),
        beam=np.ones((scans, n)),
        illuminated=np.ones((scans, n)),
        monitor=np.full((scans, n), 1e5),
        polarization=polarization,
        sensor=sensor,
        temperature=draft.temperature,
    )
    q = world.q / draft.q_max
    world.diffuse = world.air * float(np.mean(0.3 + np.exp(-2.5 * q)))
    for share, spots in draft.contaminants:
        n = round(np.count_nonzero(world.spots["intensity"] > 30) * share / (1 - share))
        world.grains.append(select(spots(10 * n), np.arange(n)))
    return world


def frame_catalogue(n: int, first_seed: int = 0) -> list[tuple[str, str, int]]:
    """Return n triples (kind, system, seed) with seeds from `first_seed` on.

    First every kind in two systems (58 entries), then the variants that were not among them, then
    pairs of kinds of which one is of the frames. The systems are used evenly.
    """
    use = dict.fromkeys(SYSTEMS, 0)
    entries: list[tuple[str, str]] = []
    variants = {k: rule.variants for k, rule in (KINDS | FRAME_KINDS).items()}
    twice = [(k, v[i % len(v)]) for k, v in variants.items() for i in range(2)]
    for name, variant in twice + [(k, v) for k, more in variants.items() for v in more[2:]]:
        systems = SYSTEMS if name in FRAME_KINDS else systems_of(name, variant)
        used = [s for k, s in entries if k.partition(":")[0] == name]
        system = min(systems, key=lambda s: (s in used, use[s]))
        entries.append((f"{name}:{variant}" if variant else name, system))
        use[system] += 1
    rng = rng_of(first_seed, "frame_catalogue")
    others = [k for k in KINDS if k not in ("plain", "transition", *FRAME_KINDS)]
    while len(entries) < n:
        first = str(rng.choice([*FRAME_KINDS]))
        second = str(rng.choice([k for k in (*FRAME_KINDS, *others) if k != first]))
        systems = SYSTEMS if second in FRAME_KINDS else systems_of(second)
        system = min(systems, key=lambda s: use[s])
        entries.append((f"{first}+{second}", system))
        use[system] += 1
    return [(kind, system, first_seed + i) for i, (kind, system) in enumerate(entries[:n])]
