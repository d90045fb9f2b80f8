"""Make one HTML page for each sample: pictures, numbers and gates; and its findings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AllowInfNan

from hklflow import stage
from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    from hklflow.page.pictures import Picture
    from hklflow.page.place import Place

VERSION = 10


class Inputs(stage.Inputs):
    pictures: list[Path]
    """Pictures of all steps; their paths in the results folder show step, scan and rotation."""
    figures: list[Path]
    """Metrics of all steps as JSON; their paths in the results folder show step, scan and rotation.
    """


class Outputs(stage.Outputs):
    page: Path
    """The page in one file, which opens in any browser without a network."""
    small: Path
    """The same page with small pictures, for the report of snakemake: browsers show no embedded
    pages above 2 MB."""
    statement: Path
    """The findings of the sample, as text."""


class Params(stage.Params):
    sample: str
    """Name of the sample."""
    results: str
    """Folder of the results, to which the paths of pictures and metrics are relative."""
    shared: str | None = None
    """Folder of the results that do not depend on the binning; None if it is the same folder."""
    scans: list[str]
    """Names of the scans, cold to warm."""
    temperatures: list[Annotated[float, AllowInfNan()]]
    """Temperatures of the scans in K; NaN if a temperature is unknown."""
    along: stage.Along = stage.Along()
    """Axis of the series; its values are in the place of temperatures."""
    title: str = ""
    """Title of the page."""


# Size limit in bytes of a data address; the report of snakemake embeds a page as one.
_LARGEST_IN_REPORT = 2_000_000


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Sort the pictures by their paths in the results folder, and write the page."""
    from dataclasses import replace

    from hklflow.page.content import Page
    from hklflow.page.opening import pictures as first_pictures
    from hklflow.page.pictures import pack
    from hklflow.page.place import place
    from hklflow.page.sample import render
    from hklflow.page.statement import statement
    from hklflow.quality.verdict import counted, require

    if len(params.scans) != len(params.temperatures):
        raise HklflowError(
            f"scans are {len(params.scans)} and temperatures {len(params.temperatures)}; give one "
            "for each scan, nan where it is not known"
        )

    def placed(paths: list[Path]) -> "list[Place]":
        # Products with the 3-D mask follow the products of all pixels.
        places = [
            place(path, folder_of(path, params), params.sample, params.scans) for path in paths
        ]
        return sorted(places, key=lambda item: item.kind == "masked_transform")

    pictures = placed(inputs.pictures)
    page = Page(
        sample=params.sample,
        title=params.title,
        scans=dict(zip(params.scans, params.temperatures, strict=True)),
        pictures=list(
            zip(pictures, pack([item.path for item in pictures], threads=threads), strict=True)
        ),
        axis=params.along.axis,
        figures=[(item, stage.read_json(item.path)) for item in placed(inputs.figures)],
    )
    judged = [
        (item, data)
        for item, data in page.figures
        if item.path.stem == "accepted" and item.part == "scan"
    ]
    for item, data in judged:
        require(data, item.path)
    text = render(page)
    outputs.page.write_text(text, encoding="utf-8")
    outputs.statement.write_text(statement(page), encoding="utf-8")
    bare = len(render(replace(page, pictures=[])).encode())
    first = [picture for _, _, picture in first_pictures(page)]
    bare += sum(len(picture.uri) for picture in first)
    packed, remark = _packed_small(pictures, first, _room(bare), threads)
    remark += f"; {params.sample}.html in the folder of the results has all of them large."
    small = replace(page, pictures=packed, remark=remark)
    outputs.small.write_text(render(small), encoding="utf-8")
    verdicts = [page.judged(scan) for scan in page.scans]
    levels = [verdict.verdict for verdict in verdicts if verdict is not None]
    print(
        f"{len(page.pictures)} pictures of {len(page.scans)} scans, {len(text) / 1e6:.1f} MB; "
        f"verdicts: {counted(levels) or 'none'}"
    )


def folder_of(path: Path, params: Params) -> Path:
    """Return the results folder of a product: the folder of the binning, or the shared folder."""
    if params.shared is not None and not path.is_relative_to(params.results):
        return Path(params.shared)
    return Path(params.results)


def _packed_small(
    places: "list[Place]", first: "list[Picture]", room: int, threads: int
) -> "tuple[list[tuple[Place, Picture]], str]":
    """Return pictures for the page in the report and a remark: all, those of no scan, or none."""
    from hklflow.page.pictures import SMALL_WIDTHS, pack

    shown = {picture.path for picture in first}
    chosen = [item for item in places if item.part != "scan" or item.path in shown]
    for some, remark in (
        (places, "Pictures are small here"),
        (chosen, "Pictures of the steps are left out here"),
    ):
        paths = [item.path for item in some]
        if packed := pack(paths, room, SMALL_WIDTHS, last=False, threads=threads):
            return list(zip(some, packed, strict=True)), remark
    return [], "Pictures are left out here"


def _room(bare: int) -> int:
    """Return the bytes available to all pictures; without them the page has ``bare`` bytes.

    The report encodes the page in base64, and the page encodes its pictures in base64.
    """
    return int((_LARGEST_IN_REPORT / 1.35 - 1.15 * bare) / 1.37)


if __name__ == "__main__":
    stage.command(main)
