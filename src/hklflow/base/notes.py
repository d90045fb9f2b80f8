"""Hidden records in pictures and pages: how the file was made, as JSON."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError

SUFFIXES = (".png", ".html")
_KEY = b"hklflow"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OPEN, _CLOSE = b"<!-- hklflow ", b" -->"


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record into a picture (text chunk, PNG 11.3.3) or a page (comment at the end)."""
    data = path.read_bytes()
    text = json.dumps(record)
    if path.suffix == ".html":
        # Two hyphens would end the comment; in JSON they occur only in strings.
        path.write_bytes(data + _OPEN + text.replace("--", "-\\u002d").encode() + _CLOSE + b"\n")
        return
    path.write_bytes(_with_text(data, _KEY, text.encode("ascii")))


def warn(path: Path, text: str) -> None:
    """Write a warning about the content into a picture, under the key that PNG has for it."""
    warning = text.encode("latin-1", errors="replace")
    path.write_bytes(_with_text(path.read_bytes(), b"Warning", warning))


def _with_text(png: bytes, key: bytes, text: bytes) -> bytes:
    body = b"tEXt" + key + b"\0" + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = png.rindex(b"IEND") - 4
    return png[:end] + chunk + png[end:]


def read(path: Path) -> list[dict[str, Any]]:
    """Read the records of a picture or a page; none if hklflow did not write it.

    Raises
    ------
    HklflowError
        If the file is damaged.
    """
    data = path.read_bytes()
    try:
        if path.suffix == ".html":
            start = data.rfind(_OPEN)
            return [] if start < 0 else [json.loads(data[start + len(_OPEN) : data.rindex(_CLOSE)])]
        return [json.loads(text) for text in _texts(data)]
    except (ValueError, struct.error) as error:
        raise HklflowError(f"{path} is damaged ({error}); create it again") from error


def _texts(png: bytes) -> list[bytes]:
    """Return hklflow's texts in a PNG."""
    texts, position = [], len(_SIGNATURE)
    while png.startswith(_SIGNATURE) and position < len(png):
        (size,) = struct.unpack_from(">I", png, position)
        kind, body = png[position + 4 : position + 8], png[position + 8 : position + 8 + size]
        if kind == b"tEXt" and body.startswith(_KEY + b"\0"):
            texts.append(body[len(_KEY) + 1 :])
        position += size + 12
    return texts
