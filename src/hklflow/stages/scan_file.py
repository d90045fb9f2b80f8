"""Write the master file of one scan, which links all of its products for NeXpy and silx."""

from pathlib import Path

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    orientation: Path
    """Refined orientation of the scan."""
    transform: Path
    """Merged volume."""
    masked_transform: Path
    """Merged volume without the 3-D mask's pixels."""
    scans: list[Path]
    """Scan files of the rotations."""
    statistics: list[Path]
    """Frame statistics of the rotations."""
    scales: list[Path]
    """Scales of the frames of the rotations."""
    peaks: list[Path]
    """Peak tables of the rotations."""
    frame_masks: list[Path]
    """3-D masks of the rotations."""


class Outputs(stage.Outputs):
    master: Path
    """The master file."""


class Params(stage.Params):
    title: str = ""
    """Title of the scan."""
    configuration: str = ""
    """Configuration of the scan as JSON: all layers joined, and its rows of the tables."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Link everything."""
    from hklflow import nexus

    orientation = stage.read_json(inputs.orientation)
    rotations: dict[str, dict[str, Path]] = {}
    for name, scan, statistics, scale, peaks, frame_mask in zip(
        orientation["rotations"],
        inputs.scans,
        inputs.statistics,
        inputs.scales,
        inputs.peaks,
        inputs.frame_masks,
        strict=True,
    ):
        rotations[name] = {
            "instrument": scan,
            "peaks": peaks,
            "frame_sums": statistics,
            "frame_scale": scale,
            "mask3d": frame_mask,
        }
        if nexus.has_frames(scan):
            rotations[name]["scan"] = scan
    nexus.write_master(
        outputs.master,
        params.title,
        {"transform": inputs.transform, "masked_transform": inputs.masked_transform},
        rotations,
        orientation,
        params.configuration,
    )


if __name__ == "__main__":
    stage.command(main)
