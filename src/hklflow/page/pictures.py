"""Pack pictures small enough to embed them in a page."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hklflow.base.errors import HklflowError

BUDGET = 10_500_000
"""Bytes of all pictures of a page; base64 adds a third."""

WIDTHS = (1800, 1400, 1100, 850)
"""Widths of pictures to try, pixels, best first."""

SMALL_WIDTHS = (850, 640, 480, 360, 280)
"""Widths for pages with little space, pixels, best first."""

_HIGHEST = 16383  # largest height of WebP, pixels
_QUALITY = 85  # of WebP; colour bars remain smooth, unlike with 256 colours
_EFFORT = 2  # of WebP; 4 takes twice the time for 4 % fewer bytes


@dataclass(frozen=True)
class Picture:
    """Picture as embedded in the page."""

    data: bytes
    size: tuple[int, int]

    @property
    def uri(self) -> str:
        """Address that contains the picture itself."""
        return f"data:image/webp;base64,{base64.b64encode(self.data).decode()}"


def pack(
    paths: Sequence[Path],
    budget: int | None = None,
    widths: Sequence[int] | None = None,
    last: bool = True,
    threads: int = 1,
) -> list[Picture]:
    """Read pictures such that together they fit into a budget of bytes.

    All are converted to WebP, as wide as the budget allows, which a sample of them determines.

    Parameters
    ----------
    budget, widths
        None: `BUDGET`, `WIDTHS`.
    last : bool
        True: use the last width even if it exceeds the budget. False: return no pictures then.
    threads : int
        Number of pictures packed at a time.

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
    with ThreadPoolExecutor(threads) as pool:  # Pillow works without the interpreter's lock

        def packed(some: Sequence[Path], width: int) -> list[Picture]:
            return list(pool.map(lambda path: _packed(path, width), some))

        for width in widths[:-1] if last else widths:
            total = sum(len(picture.data) for picture in packed(tried, width))
            if total * len(paths) <= budget * len(tried):
                return packed(paths, width)
        return packed(paths, widths[-1]) if last else []


def _packed(path: Path, width: int) -> Picture:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise HklflowError(
            f"{path} is not a readable picture ({error}); create it again"
        ) from error
    scale = min(1.0, width / image.width, _HIGHEST / image.height)
    if scale < 1:
        size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=_QUALITY, method=_EFFORT)
    return Picture(packed.getvalue(), image.size)
