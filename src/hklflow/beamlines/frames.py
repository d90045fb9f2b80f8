"""Frames of vendors' formats: Bruker, CrysAlisPro, MarCCD, R-AXIS, and the rest of fabio.

`hklflow.formats.frame_table` says where each format keeps its facts. A format that is not in the
table gives pixels only: a log and a calibration give the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Found, Request
from hklflow.beamlines.grouping import stated
from hklflow.beamlines.images import ARM_OPTION, IMAGE_OPTIONS, ImageFiles, Series
from hklflow.formats.frame_headers import IMAGES, StatedDirections
from hklflow.formats.header import Header
from hklflow.formats.images import read_frame_facts
from hklflow.formats.raw import IMAGE_SUFFIXES
from hklflow.formats.text_headers import parse_vector

_IMAGE = {
    "image": "directions of increasing columns and rows as seen from the sample: "
    f"{', '.join(IMAGES)}"
}
_SUFFIX = {"suffix": "ending of the files' names, such as .stk"}


@dataclass(frozen=True)
class FrameFiles(ImageFiles):
    """Plugin for series of frames in a vendor's format."""

    def _facts(
        self, series: Series, request: Request, log: str | None
    ) -> tuple[Header, str, list[str]]:
        if "axis" in request.options and log is None:
            raise HklflowError(
                "axis names a column of a log; the headers state the scanned axis: leave it out"
            )
        named = request.options.get("image")
        if named is not None and named not in IMAGES:
            raise HklflowError(f"image is {named!r}; use one of {' '.join(IMAGES)}")
        facts = read_frame_facts(
            series.pattern,
            StatedDirections(
                None if named is None else IMAGES[named], parse_vector(request.options.get("arm"))
            ),
        )
        if facts is None:
            notes = ["its header is not read: give the angles in a log and a --calibration"]
            return Header(n_frames=len(series.images)), "", notes
        return facts.header, facts.settings, list(facts.notes)

    def _adds(self, request: Request, log: str | None) -> bool:
        return bool({"image", "arm"} & request.options.keys()) or stated(request.facts)

    def _is_mine(self, path: Path) -> bool:
        # Bruker and MarCCD may count their frames by the suffix: `x.0001`.
        return super()._is_mine(path) or (".#" in self.suffixes and path.suffix[1:].isdecimal())


@dataclass(frozen=True)
class AnyFrames(FrameFiles):
    """Plugin for any format, recognised by its content; the user states the suffix.

    fabio reads more formats than `IMAGE_SUFFIXES` has: those of them whose damage it cannot notice
    (mar345, KCD) are left out.
    """

    def find(self, request: Request) -> Found:
        """Search for scans; see `hklflow.beamlines.Beamline`."""
        suffix = request.options.get("suffix", request.source.suffix)
        if not suffix.startswith("."):
            raise HklflowError(
                "the ending of the files' names is not known: --option suffix=.stk, for example"
            )
        if re.fullmatch(r"\.(mar\d+|pck|kcd)", suffix.lower()):
            raise HklflowError(
                f"{suffix} is an ending of mar345 or KCD images, which hklflow does not read, "
                "because a truncated file would pass unnoticed: convert the images to CBF"
            )
        if suffix.lower() not in IMAGE_SUFFIXES:
            raise HklflowError(
                f"{suffix} is no ending of images ({', '.join(sorted(IMAGE_SUFFIXES))}); rename "
                "links to them, or convert images of an unknown format: docs/my_instrument.md"
            )
        chosen = FrameFiles(self.name, self.summary, (suffix.lower(),), self.options)
        return chosen.find(request)


def _plugin(name: str, summary: str, *suffixes: str, **more: str) -> FrameFiles:
    options: Mapping[str, str] = {**IMAGE_OPTIONS, **more}
    return FrameFiles(name, summary, suffixes, options)


sfrm = _plugin("sfrm", "frames of Bruker, .sfrm or numbered by the suffix", ".sfrm", ".#", **_IMAGE)
rodhypix = _plugin("rodhypix", "frames of Rigaku and Oxford detectors", ".rodhypix", ".img")
esperanto = _plugin("esperanto", "frames that CrysAlisPro exported", ".esperanto", ".esper")
marccd = _plugin(
    "marccd", "images of MarCCD and Rayonix", ".mccd", ".img", ".tif", ".#", **ARM_OPTION
)
raxis = _plugin("raxis", "images of R-AXIS plates", ".osc", ".img", ".stk", **ARM_OPTION)
fabio = AnyFrames(
    "fabio",
    "images of any format that fabio reads, recognised by their content",
    (),
    {**IMAGE_OPTIONS, **_IMAGE, **ARM_OPTION, **_SUFFIX},
)
