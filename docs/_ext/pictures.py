"""Directed graphs as SVG, without any program but Python: boxes in layers, arrows between them.

The usual four steps (Sugiyama, Tagawa and Toda, IEEE Trans. SMC 11, 109, 1981): a layer for each
box, an order within each layer with few crossings, places, and curves through the layers between.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

Edge = tuple[str, str]

LINE, LETTER, PAD = 26.0, 6.9, 9.0  # height of a box, width of a letter, space beside a text
ACROSS, ALONG, BEND = (
    16.0,
    34.0,
    8.0,
)  # space between boxes, layers; of arrows that pass
SWEEPS = 24


def from_mermaid(text: str) -> str:
    """SVG of a mermaid flowchart that has boxes `id[label]` and arrows `a --> b` only."""
    direction = re.match(r"\s*flowchart (TB|LR)\n", text)
    labels = dict(re.findall(r"^\s*(\w+)\[(.+)\]$", text, flags=re.MULTILINE))
    arrows = re.findall(r"^\s*(\w+) --> (\w+)$", text, flags=re.MULTILINE)
    known = 1 + len(labels) + len(arrows)
    if not direction or known != len(text.strip().splitlines()):
        raise ValueError(f"a mermaid graph that docs/_ext/pictures.py cannot draw:\n{text}")
    return svg([(labels[a], labels[b]) for a, b in arrows], sideways=direction[1] == "LR")


def svg(
    edges: Iterable[Edge], ranks: Mapping[str, int] | None = None, *, sideways: bool = False
) -> str:
    """SVG of a graph without cycles.

    Parameters
    ----------
    edges : (from, to)
        By the boxes' labels.
    ranks : mapping, optional
        Layer of each box, that of an arrow's end below that of its start; else as high as can be.
    sideways : bool
        Layers from left to right instead of from top to bottom.
    """
    arrows = list(edges)
    ranks = dict(ranks or _ranks(arrows))
    links, paths = _through(arrows, ranks)
    layers = _ordered(ranks, links)
    size = {
        box: (BEND if isinstance(box, tuple) else LINE if sideways else _width(box))
        for layer in layers
        for box in layer
    }
    across = _placed(layers, links, size)
    thick = [
        max((_width(box) if sideways else LINE) for box in layer if isinstance(box, str))
        for layer in layers
    ]
    starts = [sum(thick[:i]) + ALONG * i for i in range(len(thick))]
    rank = {box: i for i, layer in enumerate(layers) for box in layer}
    left = min(across[box] - size[box] / 2 for box in across)
    right = max(across[box] + size[box] / 2 for box in across)

    def point(box: object, end: float) -> tuple[float, float]:
        """Place on the near (0) or far (1) side of a box."""
        along = starts[rank[box]] + end * thick[rank[box]]
        return (along, across[box] - left) if sideways else (across[box] - left, along)

    whole = (starts[-1] + thick[-1], right - left)
    width, height = whole if sideways else whole[::-1]
    drawn = [
        _curve([point(box, end) for box in path for end in (0.0, 1.0)][1:-1], sideways)
        for path in paths
    ]
    for box in sorted(box for box in rank if isinstance(box, str)):
        x, y = point(box, 0.0)
        own = _width(box)
        x, y = (x, y - LINE / 2) if sideways else (x - own / 2, y)
        drawn.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{own:.1f}" height="{LINE:.1f}" rx="4"/>'
            f'<text x="{x + own / 2:.1f}" y="{y + LINE / 2 + 4:.1f}">{escape(box)}</text>'
        )
    return (
        f'<svg class="graph" xmlns="http://www.w3.org/2000/svg" role="img" width="{width + 8:.0f}" '
        f'height="{height + 8:.0f}" viewBox="-4 -4 {width + 8:.1f} {height + 8:.1f}">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0 0 8 4 0 8z"/></marker></defs>' + "".join(drawn) + "</svg>"
    )


def _width(label: object) -> float:
    return len(str(label)) * LETTER + 2 * PAD


def _ranks(arrows: Sequence[Edge]) -> dict[str, int]:
    """Length of the longest way to each box."""
    before: dict[str, set[str]] = {}
    for a, b in arrows:
        before.setdefault(a, set())
        before.setdefault(b, set()).add(a)
    ranks: dict[str, int] = {}
    while len(ranks) < len(before):
        ready = {box for box in before if box not in ranks and before[box] <= ranks.keys()}
        if not ready:
            raise ValueError(f"a graph with a cycle: {sorted(before.keys() - ranks.keys())}")
        ranks |= {box: 1 + max((ranks[a] for a in before[box]), default=-1) for box in ready}
    return ranks


def _through(
    arrows: Sequence[Edge], ranks: Mapping[str, int]
) -> tuple[list[tuple[object, object]], list[list[object]]]:
    """Links between neighbouring layers, and the way of each arrow through places in between."""
    links, paths = [], []
    for a, b in sorted(arrows):
        between = [(a, b, rank) for rank in range(ranks[a] + 1, ranks[b])]
        path: list[object] = [a, *between, b]
        links += list(pairwise(path))
        paths.append(path)
    return links, paths


def _ordered(
    ranks: Mapping[str, int], links: Sequence[tuple[object, object]]
) -> list[list[object]]:
    """Boxes of each layer in an order with few crossings, by barycentres up and down."""
    layers: list[list[object]] = [[] for _ in range(max(ranks.values()) + 1)]
    for box in sorted(ranks):
        layers[ranks[box]].append(box)
    for box in {box: None for link in links for box in link if isinstance(box, tuple)}:
        layers[box[2]].append(box)  # type: ignore[index]
    up, down = _neighbours(links)
    best, fewest = [list(layer) for layer in layers], _crossings(layers, down)
    for sweep in range(SWEEPS):
        order = range(1, len(layers)) if sweep % 2 == 0 else range(len(layers) - 2, -1, -1)
        side = up if sweep % 2 == 0 else down
        for i in order:
            other = layers[i - 1 if sweep % 2 == 0 else i + 1]
            at = {box: n for n, box in enumerate(other)}
            own = {box: n for n, box in enumerate(layers[i])}
            mean = {
                box: sum(at[x] for x in side[box]) / len(side[box]) if side.get(box) else own[box]
                for box in layers[i]
            }
            layers[i].sort(key=lambda box, m=mean: m[box])  # type: ignore[misc]
        if (crossings := _crossings(layers, down)) < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    return best


def _neighbours(
    links: Sequence[tuple[object, object]],
) -> tuple[dict[object, list[object]], dict[object, list[object]]]:
    up: dict[object, list[object]] = {}
    down: dict[object, list[object]] = {}
    for a, b in links:
        down.setdefault(a, []).append(b)
        up.setdefault(b, []).append(a)
    return up, down


def _crossings(layers: Sequence[Sequence[object]], down: Mapping[object, list[object]]) -> int:
    count = 0
    for layer, below in pairwise(layers):
        at = {box: n for n, box in enumerate(below)}
        ends: list[int] = []
        for box in layer:
            own = sorted(at[x] for x in down.get(box, []))
            count += sum(end > x for x in own for end in ends)
            ends += own
    return count


def _placed(
    layers: Sequence[Sequence[object]],
    links: Sequence[tuple[object, object]],
    size: Mapping[object, float],
) -> dict[object, float]:
    """Place of each box across: as near to its neighbours as the order allows."""
    up, down = _neighbours(links)
    at: dict[object, float] = {}
    for layer in layers:
        edge = 0.0
        for box in layer:
            at[box] = edge + size[box] / 2
            edge += size[box] + ACROSS
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = []
            for box in layer:
                near = [*up.get(box, []), *down.get(box, [])]
                wanted.append(sum(at[x] for x in near) / len(near) if near else at[box])
            at |= dict(zip(layer, _apart(wanted, [size[box] for box in layer]), strict=True))
    return at


def _apart(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Places nearest to those wanted (least squares) in this order and without overlap."""
    offsets, edge = [], 0.0
    for size in sizes:
        offsets.append(edge + size / 2)
        edge += size + ACROSS
    # Isotonic regression: what would run backwards is put together at its mean.
    pools: list[list[float]] = []
    for place, offset in zip(wanted, offsets, strict=True):
        pools.append([place - offset, 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    shifts = [mean for mean, count in pools for _ in range(int(count))]
    return [shift + offset for shift, offset in zip(shifts, offsets, strict=True)]


def _curve(points: Sequence[tuple[float, float]], sideways: bool) -> str:
    """Smooth line through points, along the layers at each."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        xm, ym = (x0 + x1) / 2, (y0 + y1) / 2
        a, b = ((xm, y0), (xm, y1)) if sideways else ((x0, ym), (x1, ym))
        path += f"C{a[0]:.1f} {a[1]:.1f} {b[0]:.1f} {b[1]:.1f} {x1:.1f} {y1:.1f}"
    return f'<path class="arrow" d="{path}" marker-end="url(#arrow)"/>'
