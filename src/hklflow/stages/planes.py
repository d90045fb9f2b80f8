"""Draw planes of a volume, along the axes or oblique, with true angles and lengths."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.nexus import OpenVolume

VERSION = 1


class Inputs(stage.Inputs):
    volume: Path
    """Any volume on a grid of hkl or of direct space."""


class Outputs(stage.Outputs):
    picture: Path
    """Picture of the planes."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    hkl: list[str] = Field(["h k 0", "h 0 l", "0 k l", "h h l"], min_length=1)
    """Planes of S(Q), such as `h k 0`, `h h l`, `h k 0.5`, `h -h l`."""
    xyz: list[str] = Field(["x y 0", "x 0 z", "0 y z", "x x z"], min_length=1)
    """Planes of the pair distribution functions."""
    reach: float = Field(30.0, gt=0)
    """Largest distance from the origin, in Å, to which pair distribution functions are drawn."""


class Params(Settings):
    """Settings of the stage, and the title."""

    title: str = ""
    """Title of the picture; empty: the title of the volume."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Cut and draw the planes; only the voxels on the planes are read."""
    from hklflow import plots
    from hklflow.nexus.entry import text
    from hklflow.plots import planes as pictures
    from hklflow.volumes import planes

    # Parse the planes of both spaces, so that mistakes in both are reported.
    wanted = {
        direct: [planes.parse(one, names) for one in written]
        for direct, names, written in ((False, "hkl", params.hkl), (True, "xyz", params.xyz))
    }
    with _open(inputs.volume) as (volume, direct):
        data = volume.group["data"]
        cuts = [
            planes.cut(data, volume.grid, plane, data.chunks or (16, 64, 64))
            for plane in stage.progress(wanted[direct], len(wanted[direct]), "planes")
        ]
        kind = volume.notes.get("kind")
        title = params.title or text(volume.group["title"])
        metric = planes.metric_of(volume.cell, direct)
        near = pictures.near_origin(volume.notes)
    if direct:
        cuts = [one.within(metric, params.reach) for one in cuts]
    what = ("total PDF" if kind == "total" else "3D-ΔPDF") if direct else "S(Q)"
    if kind == "difference":
        what = f"difference of {what}"
    diverging = direct or kind == "difference"
    plots.save(pictures.panels(cuts, metric, direct, diverging, what, title, near), outputs.picture)
    missed = [one.plane.text for one in cuts if not one.image.size]
    print(
        f"{len(cuts) - len(missed)} planes of {what}, nearest voxel at each point: "
        + ", ".join(one.plane.text for one in cuts if one.image.size)
    )
    if missed:
        print(f"warning: these planes are outside the volume: {', '.join(missed)}")


@contextmanager
def _open(path: Path) -> "Iterator[tuple[OpenVolume, bool]]":
    """Open a volume; the second result is True for a volume of direct space."""
    from hklflow import nexus
    from hklflow.base.errors import HklflowError
    from hklflow.nexus.entry import open_entry

    with open_entry(path) as entry:
        found = [name for name in ("transform", "pdf") if f"{name}/data" in entry]
        if not found or "notes/grid" not in entry or entry[found[0]]["data"].ndim != 3:
            raise HklflowError(
                f"{path} has no volume with data on a grid (group `transform` or `pdf`); give a "
                "merged, symmetrised or filled volume, or a pair distribution"
            )
    with nexus.open_volume(path, found[0]) as volume:
        yield volume, found[0] == "pdf"


if __name__ == "__main__":
    stage.command(main)
