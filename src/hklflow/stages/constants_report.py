"""Report on a detector's constants: histograms, maps, and a table of every ASIC."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    constants: Path
    """Constants of the detector."""


class Outputs(stage.Outputs):
    histograms: Path
    """Picture: histogram of every quantity over the detector, and its range in every ASIC."""
    maps: Path
    """Picture: map of every quantity, averaged over the memory cells."""
    table: Path
    """JSON table with the numbers of every ASIC: medians, spreads, fraction masked by each bit,
    frames.
    """


class Params(stage.Params):
    asic_size: tuple[int, int] | None = Field(None)
    """Pixels (ss, fs) of an ASIC; None: the detector's default."""
    cells: int = Field(32, ge=1)
    """Approximate number of memory cells in the summary, evenly spaced."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Summarise the constants and draw the summary."""
    from hklflow.constants.files import open_constants
    from hklflow.constants.summary import images, summarise
    from hklflow.plots import constants as plots
    from hklflow.plots.common import save

    with open_constants(inputs.constants) as constants:
        summary = summarise(constants, params.asic_size, params.cells)
        names = [name for row in plots.shown(summary) for name in row]
        maps = images(constants, names, params.cells)
    title = f"constants of {summary['about'].get('detector', 'the detector')}"
    save(plots.constants_histograms(summary, title), outputs.histograms)
    save(plots.constants_maps(maps, summary, title), outputs.maps)
    stage.write_json(outputs.table, summary)
    rows = summary["rows"]
    masked = sum(row["masked"] for row in rows) / len(rows)
    print(f"{len(rows)} ASICs, {100 * masked:.2f} % of the pixels are masked")


if __name__ == "__main__":
    stage.command(main)
