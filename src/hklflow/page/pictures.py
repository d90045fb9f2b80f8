"""Compress pictures, so that a page with all of them is small enough."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.base.values import FIRST_PANEL

BUDGET = 6_000_000
"""Largest number of bytes of all pictures of a page; base64 adds a third."""

FIRST_WIDTH = 600
"""Largest width of the pictures of the first screen, in pixels."""

WIDTHS = (1400, 1100, 850, 640)
"""Picture widths to try, in pixels, best first."""

SMALL_WIDTHS = (850, 640, 480)
"""Picture widths for pages with little space, in pixels, best first; smaller is not readable."""

_HIGHEST = 16383  # largest height of WebP, pixels
_QUALITY = 75  # quality of WebP; colour bars stay smooth, and small print sharp
_EFFORT = 2  # effort of WebP; 4 takes twice the time for 4 % fewer bytes


@dataclass(frozen=True)
class Picture:
    """Picture as embedded in the page, and its file."""

    data: bytes
    size: tuple[int, int]
    path: Path
    panel: tuple[float, float, float, float] | None = None
    """Left, top, right and bottom of its first panel, as fractions of width and height."""

    @property
    def uri(self) -> str:
        """Address that contains the picture itself."""
        return f"data:image/webp;base64,{base64.b64encode(self.data).decode()}"

    @cached_property
    def first(self) -> "Picture":
        """Its first panel (see `plots.common.save`) as in the file; the picture if it has none."""
        return _packed(self.path, FIRST_WIDTH, panel=True)


def pack(
    paths: Sequence[Path],
    budget: int | None = None,
    widths: Sequence[int] | None = None,
    last: bool = True,
    threads: int = 1,
) -> list[Picture]:
    """Read pictures and compress them, so that together they fit into a budget of bytes.

    All pictures are converted to WebP, as wide as the budget allows. A sample of the pictures
    determines the width.

    Parameters
    ----------
    budget, widths
        Default: `BUDGET`, `WIDTHS`.
    last : bool
        Action if even the last width exceeds the budget. True: use this width. False: return no
        pictures.
    threads : int
        Number of pictures that are packed at a time.

    Raises
    ------
    HklflowError
        If a picture cannot be read.
    """
    if not paths:
        return []
    budget = BUDGET if budget is None else budget
    widths = WIDTHS if widths is None else widths
    tried = paths[:: max(len(paths) // 12, 1)]
    with ThreadPoolExecutor(threads) as pool:  # Pillow releases the interpreter lock

        def packed(some: Sequence[Path], width: int) -> list[Picture]:
            return list(pool.map(lambda path: _packed(path, width), some))

        for width in widths[:-1] if last else widths:
            known = dict(zip(tried, packed(tried, width), strict=True))
            total = sum(len(picture.data) for picture in known.values())
            if total * len(paths) <= budget * len(tried):
                others = [path for path in paths if path not in known]
                known |= dict(zip(others, packed(others, width), strict=True))
                return [known[path] for path in paths]
        return packed(paths, widths[-1]) if last else []


def _packed(path: Path, width: int, panel: bool = False) -> Picture:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
            text = opened.info.get(FIRST_PANEL)
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise HklflowError(
            f"{path} is not a readable picture ({error}); create it again"
        ) from error
    place = None
    if text is not None:
        left, top, right, bottom = (int(x) for x in text.split())
        place = (
            left / image.width, top / image.height, right / image.width, bottom / image.height
        )  # fmt: skip
        if panel:
            image, place = image.crop((left, top, right, bottom)), None
    scale = min(1.0, width / image.width, _HIGHEST / image.height)
    if scale < 1:
        size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=_QUALITY, method=_EFFORT)
    return Picture(packed.getvalue(), image.size, path, place)
