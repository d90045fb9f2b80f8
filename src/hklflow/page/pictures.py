"""Pictures packed small enough to stand in a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hklflow.errors import HklflowError

BUDGET = 10_500_000
"""Bytes of all pictures of a page; base64 adds a third."""

RUNGS = (("PNG", 1800), ("WEBP", 1400), ("WEBP", 1100), ("WEBP", 850))
"""How pictures are packed, best first: format and largest width in pixels."""

SMALL_RUNGS = (("WEBP", 850), ("WEBP", 640), ("WEBP", 480), ("WEBP", 360))
"""The same where there is little room."""


@dataclass(frozen=True)
class Picture:
    """A picture as it stands in the page."""

    data: bytes
    kind: str
    size: tuple[int, int]

    @property
    def uri(self) -> str:
        """Address that holds the picture itself."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode()}"


def pack(
    paths: Sequence[Path],
    budget: int | None = None,
    rungs: Sequence[tuple[str, int]] | None = None,
    last: bool = True,
) -> list[Picture]:
    """Read pictures so that all of them together keep to a budget of bytes.

    PNG with 256 colours, as our own are, keeps plots sharp at a third of the size. If that is too
    much, which a sample of the pictures tells, all become WebP, as wide as fits.

    Parameters
    ----------
    budget, rungs
        None: `BUDGET`, `RUNGS`.
    last : bool
        Whether the last rung is taken whatever it costs; else there are no pictures then.

    Raises
    ------
    HklflowError
        If one is not a picture that can be read.
    """
    if not paths:
        return []
    budget = BUDGET if budget is None else budget
    rungs = RUNGS if rungs is None else rungs
    tried = paths[:: max(len(paths) // 12, 1)]
    for rung in rungs[:-1] if last else rungs:
        if sum(len(_packed(path, rung).data) for path in tried) * len(paths) <= budget * len(tried):
            return [_packed(path, rung) for path in paths]
    return [_packed(path, rungs[-1]) for path in paths] if last else []


def _packed(path: Path, rung: tuple[str, int]) -> Picture:
    from PIL import Image

    kind, width = rung
    try:
        with Image.open(path) as opened:
            if kind == "PNG" == opened.format and opened.mode == "P" and opened.width <= width:
                opened.load()  # raises if it is damaged
                return Picture(path.read_bytes(), "png", opened.size)
            image = opened.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise HklflowError(f"{path} is not a readable picture ({error}); make it again") from error
    if image.width > width:
        height = max(round(image.height * width / image.width), 1)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    packed = io.BytesIO()
    if kind == "PNG":
        colours = image.quantize(256, dither=Image.Dither.NONE)
        colours.save(packed, kind, optimize=True)
    else:
        image.save(packed, kind, quality=78, method=4)
    return Picture(packed.getvalue(), kind.lower(), image.size)
