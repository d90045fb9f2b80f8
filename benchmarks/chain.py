"""Cost of every step from raw frames to ΔPDF and structure factors, in passes of the decoder.

    python -m benchmarks.chain FOLDER [--frames 1200] [--side 301] [--rounds 3] [--kinds few strong]
        [--full]

Simulates two temperatures of one rotation each (1043 × 981 pixels) of a crystal with few peaks on
smooth scattering, or with strong thermal diffuse scattering. Runs each job of the first
temperature and the difference of both in a process of its own, with the commands of snakemake, in
turn with our decoder alone. A decode is the CPU time of the decoder for one pass over the frames of
the rotation: the median of all passes of the same run. Job times include the start of Python,
checksums and pictures. --full takes 3600 frames and 501³ voxels, once.
"""

import argparse
import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import workflow
from benchmarks.workflow import Command, World

FRAMES, BRAGG, VOLUMES = (
    "frames to merged volumes",
    "Bragg adds",
    "merged volumes to ΔPDF and differences",
)
SUMS = {
    FRAMES: (
        "import_scan",
        "pixel_mask",
        "find_peaks",
        "frame_scale",
        "mask_3d",
        "refine_parent",
        "refine",
        "accept",
        "transform",
        "merge",
    ),
    BRAGG: ("converge", "integrate", "scale_reflections", "merge_reflections"),
    VOLUMES: ("symmetrise", "fill", "pdf", "difference"),
}
READS_FRAMES = ("find_peaks", "mask_3d", "transform", "converge", "integrate")
"""Rules with the decoder next to them."""
OF_VOXELS = ("merge", *SUMS[VOLUMES])
AIMS = {"few": 8, "strong": 12}
# One short rotation of `strong` is not indexed: give it with --kinds and more frames.
KINDS = ("few",)
BRAGG_AIM, VOLUME_AIM, VOLUME_SIDE = 10, 60.0, 501

_WORLD = World(temperatures=2, bragg=True)


@dataclass(frozen=True)
class Size:
    """Frames of a rotation, voxels along an axis, and rounds."""

    frames: int
    side: int
    rounds: int


BENCH, FULL = Size(1200, 301, 3), Size(3600, VOLUME_SIDE, 1)


def measure(folder: Path, world: World, rounds: int) -> dict[str, Any]:
    """Return the medians of each rule of one kind of crystal.

    The first round makes the products that are missing, too, and may compile kernels.
    """
    workflow.write(folder, world)
    raw = folder / "raw/0_r1.nxs"
    decodes: list[workflow.Run] = []
    turns: list[dict[str, list[workflow.Run]]] = []
    commands = workflow.jobs(folder)
    for turn in range(rounds):
        turns.append({})
        for command in commands:
            chosen = _is_chosen(command)
            if not chosen and (turn or not _is_needed(command)):
                continue
            if chosen and command.rule in READS_FRAMES:
                decodes.append(workflow.decoder(raw))
            ran = workflow.run(command, folder)
            print(f"{command.name}: {ran.cpu:.2f} CPU s, {ran.mb:.0f} MB", flush=True)
            if chosen:
                turns[-1].setdefault(command.rule, []).append(ran)
    return {
        "world": json.loads(json.dumps(asdict(world))),
        "pixels": world.frames * world.shape[0] * world.shape[1],
        "decode": statistics.median(run.cpu for run in decodes),
        "rules": {
            rule: {
                "jobs": len(turns[0][rule]),
                "cpu": statistics.median(sum(run.cpu for run in turn[rule]) for turn in turns),
                "mb": max(run.mb for turn in turns for run in turn[rule]),
            }
            for rule in turns[0]
        },
    }


def _is_chosen(command: Command) -> bool:
    """Return True for a job of the first temperature, and for the difference of both."""
    if not any(command.rule in rules for rules in SUMS.values()):
        return False
    return command.rule == "difference" or " 300K" in command.name


def _is_needed(command: Command) -> bool:
    """Return True for a job of the other temperature whose products the difference needs."""
    needed = ("simulate", "temperature_series", *SUMS[FRAMES], *SUMS[VOLUMES])
    return command.rule in needed


def document(results: list[dict[str, Any]]) -> str:
    """Return the tables of all kinds, and the sums with their aims, as Markdown."""
    return "\n\n".join(_document(found) for found in results)


def _document(found: dict[str, Any]) -> str:
    world, decode, rules = found["world"], found["decode"], found["rules"]
    kind = {"few": "Few peaks", "strong": "Strong diffuse scattering"}[world["kind"]]
    voxels, pixels = world["side"] ** 3 / 1e6, found["pixels"] / 1e6
    lines = [
        f"**{kind}**: {world['frames']} frames, {pixels / 1e3:.2f} Gpixel, {world['side']}³ "
        f"voxels; a decode is {decode:.2f} CPU s ({pixels / decode:.0f} Mpixel per CPU s).",
        "",
        "| step | jobs | CPU s | decodes | per CPU s | peak memory, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    sums = []
    for name, members in SUMS.items():
        cpu = 0.0
        for rule in members:
            if rule not in rules:
                continue
            cost = rules[rule]
            cpu += cost["cpu"]
            rate = "–"
            if rule in READS_FRAMES:
                rate = f"{pixels / cost['cpu']:.0f} Mpixel"
            elif rule in OF_VOXELS:
                rate = f"{voxels * cost['jobs'] / cost['cpu']:.1f} Mvoxel"
            lines.append(
                f"| `{rule}` | {cost['jobs']} | {cost['cpu']:.2f} | {cost['cpu'] / decode:.1f} | "
                f"{rate} | {cost['mb']:.0f} |"
            )
        lines.append(f"| **{name}** | | **{cpu:.2f}** | **{cpu / decode:.1f}** | | |")
        sums.append(_aim(name, cpu, decode, world))
    return "\n".join([*lines, "", *sums])


def _aim(name: str, cpu: float, decode: float, world: dict[str, Any]) -> str:
    if name == VOLUMES:
        scaled = cpu * (VOLUME_SIDE / world["side"]) ** 3
        note = "" if world["side"] == VOLUME_SIDE else " by the number of voxels"
        return (
            f"{name}: {scaled:.0f} core-s at {VOLUME_SIDE}³{note} (aim: at most {VOLUME_AIM:.0f})."
        )
    aim = BRAGG_AIM if name == BRAGG else AIMS[world["kind"]]
    return f"{name}: {cpu / decode:.1f} decodes (aim: at most {aim}).  "


def both(folder: Path, size: Size, kinds: Iterable[str] = KINDS) -> list[dict[str, Any]]:
    """Measure the kinds of crystal; see `measure`."""
    world = replace(_WORLD, frames=size.frames, side=size.side)
    return [measure(folder / kind, replace(world, kind=kind), size.rounds) for kind in kinds]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=BENCH.frames)
    parser.add_argument("--side", type=int, default=BENCH.side)
    parser.add_argument("--rounds", type=int, default=BENCH.rounds)
    parser.add_argument("--kinds", nargs="+", choices=tuple(AIMS), default=KINDS)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    size = FULL if given.full else Size(given.frames, given.side, given.rounds)
    given.folder.mkdir(parents=True, exist_ok=True)
    results = both(given.folder.resolve(), size, given.kinds)
    (given.folder / "chain.json").write_text(json.dumps(results, indent=1) + "\n")
    print(document(results))


if __name__ == "__main__":
    main()
