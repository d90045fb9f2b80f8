"""Put the pictures of an experiment on one sheet: one of each kind, with its name.

python -m benchmarks.contact_sheet FOLDER OUT.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_COLUMNS = 4
_WIDTH = 1100  # of a picture on the sheet, pixels: as narrow as the page shows it at most
_TEXT = 34  # height of the line with the name, pixels


def kinds(folder: Path) -> list[Path]:
    """Return one picture of each name; the first in alphabetical order of its folder.

    A picture of a scan has the name of a picture of a stack of scans with another content.
    """
    paths = sorted(folder.rglob("*.png"))
    first: dict[tuple[str, bool], Path] = {}
    for path in paths:
        first.setdefault((path.name, path.parent.name.startswith("stack_")), path)
    return sorted(first.values(), key=lambda path: path.name)


def sheet(paths: list[Path], folder: Path) -> Image.Image:
    """Return the pictures in columns, each below its path."""
    font = ImageFont.load_default(24)
    heights = [0] * _COLUMNS
    placed = []
    for path in paths:
        with Image.open(path) as opened:
            size = (_WIDTH, round(opened.height * _WIDTH / opened.width))
            picture = opened.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        column = heights.index(min(heights))
        placed.append((path, picture, column, heights[column]))
        heights[column] += picture.height + _TEXT
    whole = Image.new("RGB", (_COLUMNS * (_WIDTH + 8), max(heights)), "white")
    pen = ImageDraw.Draw(whole)
    for path, picture, column, top in placed:
        left = column * (_WIDTH + 8)
        pen.text((left + 4, top + 2), str(path.relative_to(folder)), "navy", font)
        whole.paste(picture, (left, top + _TEXT))
    return whole


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    paths = kinds(args.folder)
    sheet(paths, args.folder).save(args.out)
    print(f"{len(paths)} kinds of pictures: {args.out}")


if __name__ == "__main__":
    main()
