"""Draw the graphs of docs/experiment.md from the workflow itself.

python docs/draw_graphs.py    (in the folder of the repository; a test says when they are old)

What follows from other arrows is left out: an arrow A → C is not drawn beside A → B → C.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/experiment.md"
CHILD = "results/hexa/200K/orientation.json"

Edge = tuple[str, str]


def edges(*arguments: str) -> set[Edge]:
    """Arrows between the boxes of a graph of the demo, by their labels."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(ROOT / "demo"), "--cores", "1", "--forceall", *arguments]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    labels = dict(re.findall(r"^\s*(id\d+)\[(.*)\]$", told, flags=re.MULTILINE))
    inherited = _with_wildcards(labels, re.findall(r"(id\d+) --> (id\d+)", told))
    return {(inherited[a], inherited[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", told)}


def _with_wildcards(labels: dict[str, str], arrows: list[Edge]) -> dict[str, str]:
    """Labels in which a box has the sample, scan and rotation of what it reads.

    Snakemake names wildcards only where they first appear.
    """
    values: dict[str, dict[str, str]] = {}
    names = {box: label.split(" - ")[0] for box, label in labels.items()}
    for box, label in labels.items():
        parts = (part.split(": ", 1) for part in label.split(" - ")[1:])
        values[box] = {part[0]: part[1] for part in parts}
    # Along the arrows, until nothing new comes: what all inputs agree in is the job's own.
    for _ in labels:
        for box in labels:
            if values[box]:
                continue
            read = [values[a] for a, b in arrows if b == box and values[a]]
            common = set.intersection(*(set(v.items()) for v in read)) if read else set()
            values[box] = dict(common)
    own = {
        box: [value[key] for key in ("sample", "scan", "rotation", "calibration") if key in value]
        for box, value in values.items()
    }
    return {box: " ".join([names[box], *own[box]]) for box in labels}


def reduced(arrows: Iterable[Edge]) -> list[Edge]:
    """Arrows without those that follow from others."""
    arrows = set(arrows)
    after: dict[str, set[str]] = {}
    for a, b in arrows:
        after.setdefault(a, set()).add(b)

    def reaches(start: str, goal: str) -> bool:
        todo, seen = list(after.get(start, ())), set()
        while todo:
            box = todo.pop()
            if box == goal:
                return True
            if box not in seen:
                seen.add(box)
                todo += after.get(box, ())
        return False

    return sorted(
        (a, b) for a, b in arrows if not any(reaches(c, b) for c in after[a] if c not in (a, b))
    )


def mermaid(arrows: Iterable[Edge], direction: str) -> str:
    """Mermaid text of a graph; the goal `all` is left out, for everything points there."""
    kept = [(a, b) for a, b in reduced(arrows) if "all" not in (a, b)]
    # A number would change with every new rule.
    boxes = {x: re.sub(r"\W+", "_", x) for x in sorted({x for arrow in kept for x in arrow})}
    lines = [f"flowchart {direction}"]
    lines += [f"    {box}[{label}]" for label, box in boxes.items()]
    lines += [f"    {boxes[a]} --> {boxes[b]}" for a, b in kept]
    return "\n".join(lines)


def drawn(page: str) -> str:
    """Return the page with its graphs drawn again."""
    graphs = {
        "rules": mermaid(edges("--rulegraph", "mermaid-js"), "TB"),
        "jobs": mermaid(edges("--dag", "mermaid-js", CHILD), "LR"),
    }
    for name, text in graphs.items():
        pattern = rf"(<!-- {name}: drawn -->\n```mermaid\n).*?(\n```)"
        page, found = re.subn(
            pattern, lambda m, t=text: m[1] + t + m[2], page, count=1, flags=re.DOTALL
        )
        if not found:
            sys.exit(f"{PAGE} has no graph marked `<!-- {name}: drawn -->`; put the mark back")
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
