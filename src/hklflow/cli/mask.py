"""`hklflow mask show`, `add` and `import`: draw a mask file, or append a step to it.

To change a mask file, a command writes a complete new file in the same folder and renames it. The
existing content is kept byte for byte.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file
from hklflow.base.values import MOST_PIXELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

app = App(name="mask", help="Mask files: steps, in order, that mask pixels or free them again.")

Kind = Literal["rectangle", "circle", "annulus", "ring", "polygon", "beamstop", "edges", "detector"]
Op = Literal["add", "subtract"]

_NEW = """\
# Pixels to mask or to free: one step in a line, in this order; (slow, fast) in pixels.
# Used with `pixel_mask: {mask_file: ...}` in the configuration; see `hklflow mask --help`.
"""


@app.command
def show(
    file: Path,
    /,
    *,
    shape: str | None = None,
    image: Path | None = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
) -> None:
    """Print the number of pixels that each step of a mask file masks and frees, and draw the mask.

    Example: `hklflow mask show config/mask.yaml --image raw/quartz_0001.cbf -o mask.png`

    Parameters
    ----------
    file
        Mask file.
    shape
        Rows and columns of the detector, such as `1043,981`.
    image
        Image of the detector, instead of --shape; of a raw file, the first frame is used.
    output
        PNG file for the picture.
    """
    from hklflow.images import mask_shapes
    from hklflow.stage import mask_steps

    if (shape is None) == (image is None):
        raise HklflowError("give either --shape, such as 1043,981, or --image")
    if output is not None and output.suffix.lower() != ".png":
        raise HklflowError(f"--output {output} is not the name of a picture; end it in .png")
    pixels = _blank(shape or "") if image is None else _counts(image)
    mask_file = mask_steps.read(file)
    size = (pixels.shape[0], pixels.shape[1])
    drawn = mask_shapes.draw(size, mask_file.core_steps(size))
    names = [
        f"{number} {mask_steps.name(step)}" for number, step in enumerate(mask_file.steps, start=1)
    ]
    print(f"{'added':>9} {'freed':>9}  step")
    for name, step, (added, freed) in zip(names, mask_file.steps, drawn.changes, strict=True):
        idle = "" if added or freed else f"  <- {step.op}s nothing"
        print(f"{added:9d} {freed:9d}  {name}{idle}")
    masked = int((drawn.bits != 0).sum())
    print(f"{masked} of {pixels.size} pixels masked ({100 * masked / pixels.size:.3g} %)")
    if output is not None:
        from hklflow import plots

        if not output.parent.is_dir():
            raise HklflowError(f"the folder of {output} does not exist; make it first")
        temporary = output.with_name(f".{output.stem}.partial.png")
        try:
            plots.save(plots.mask_steps(pixels, drawn.last, names, str(file)), temporary)
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)


@Parameter(name="*")
@dataclass(frozen=True)
class Drawing:
    """Options for the shape that a step draws."""

    slow: float | None = None
    """Slow coordinate of the centre of a circle, annulus (ring) or beamstop, in pixels."""
    fast: float | None = None
    """Fast coordinate of the centre of a circle, annulus (ring) or beamstop, in pixels."""
    radius: float | None = None
    """Radius of a circle or beamstop, in pixels."""
    inner: float | None = None
    """Inner radius of an annulus, in pixels."""
    outer: float | None = None
    """Outer radius of an annulus, in pixels."""
    slow_min: float | None = None
    """Lower slow limit of a rectangle, in pixels."""
    slow_max: float | None = None
    """Upper slow limit of a rectangle, in pixels."""
    fast_min: float | None = None
    """Lower fast limit of a rectangle, in pixels."""
    fast_max: float | None = None
    """Upper fast limit of a rectangle, in pixels."""
    corners: tuple[str, ...] = ()
    """Corners of a polygon as `slow,fast`, such as `--corners 0,0 9,0 9,9`; write a corner that
    begins with a minus as `--corners=-9,0`."""
    arm_angle: float | None = None
    """Direction of the arm of a beamstop in degrees, from +fast towards +slow."""
    arm_width: float | None = None
    """Width of the arm of a beamstop, in pixels."""
    arm_length: float | None = None
    """Length of the arm of a beamstop, in pixels. Default: the arm ends at the border."""
    width: int | None = None
    """Width of the edges, in pixels."""
    detector: str | None = None
    """Name of the detector in pyFAI."""

    def step(self) -> dict[str, Any]:
        """Return the options that the user gave, as keys of a step in a mask file."""
        step: dict[str, Any] = {
            item.name: _plain(value)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), float)
        }
        if self.corners:
            step["corners"] = [_corner(text) for text in self.corners]
        return step | _stated({"edges": self.width, "detector": self.detector})


@Parameter(name="*")
@dataclass(frozen=True)
class Note:
    """Options that every step has."""

    op: Op | None = None
    """Mask the pixels (`add`), or free pixels that earlier steps masked (`subtract`)."""
    comment: str | None = None
    """Comment in the mask file."""

    def step(self) -> dict[str, Any]:
        """Return the options that the user gave, as keys of a step in a mask file."""
        return _stated({"op": self.op, "comment": self.comment})


@app.command
def add(
    file: Path,
    kind: Kind,
    /,
    *,
    drawing: Drawing = Drawing(),
    note: Note = Note(),
) -> None:
    """Append a step to a mask file; a new file is made if needed.

    Example: `hklflow mask add config/mask.yaml circle --slow 30 --fast 200 --radius 5
    --op subtract --comment "no shadow here"`

    Parameters
    ----------
    file
        Mask file.
    kind
        Shape to draw. `edges`: edges of the detector, and of its modules if --detector is given.
        `detector`: gaps between the modules of --detector.
    """
    shape = {} if kind in ("edges", "detector") else {"shape": kind}
    _append(file, shape | drawing.step() | note.step(), kind)


@app.command(name="import")
def import_image(
    file: Path,
    image: str,
    /,
    *,
    bad: Literal["nonzero", "zero"] | None = None,
    note: Note = Note(),
) -> None:
    """Append a mask image to a mask file; a new file is made if needed.

    The image is not copied. The mask file contains the path of the image, relative to the mask
    file.

    Example: `hklflow mask import config/mask.yaml raw/beamline.tif --bad zero`

    Parameters
    ----------
    file
        Mask file.
    image
        Image in a format of fabio, .npy, .png, or an NXmx mask as `file.h5:/path`.
    bad
        Values of bad pixels in the image (default `nonzero`).
    """
    from hklflow.formats.mask_images import read_mask_image, split_name

    pixels = read_mask_image(image, bad or "nonzero")
    path, dataset = split_name(image)
    if not path.is_absolute():
        path = Path(os.path.relpath(path, file.parent))
    name = f"{path}:{dataset}" if dataset else str(path)
    _append(file, {"image": name} | _stated({"bad": bad}) | note.step(), "image")
    print(f"{int(pixels.sum())} of {pixels.shape[0]} x {pixels.shape[1]} pixels are bad in it")


def _append(file: Path, keys: dict[str, Any], kind: str) -> None:
    """Append a step if the new file is valid, or raise and change nothing."""
    from hklflow.stage import mask_steps

    needed = {"edges": "edges", "detector": "detector"}.get(kind)
    if needed is not None and needed not in keys:
        raise HklflowError(f"{kind}: --{'width' if needed == 'edges' else needed} is not given")
    if kind == "detector" and "edges" in keys:
        raise HklflowError("detector: --width is for edges")
    try:
        step = mask_steps.step(keys)
    except HklflowError as error:
        raise HklflowError(f"{kind}: {error}") from error
    path = file.resolve()
    if path.exists():
        require_file(path, "the mask file")
    with _locked(path):
        content = path.read_bytes() if path.exists() else _NEW.encode()
        try:
            old = mask_steps.parse(content.decode("utf-8-sig"), str(file))
        except UnicodeDecodeError as error:
            raise HklflowError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from error
        new = _with_step(content, keys)
        try:
            kept = mask_steps.parse(new.decode("utf-8-sig"), str(file)) == [*old, step]
        except HklflowError:
            kept = False
        if not kept:
            raise HklflowError(
                f"a line at the end of {file} would not be its last step; write one step in a "
                "line, each after `- `, or add this one by hand"
            )
        _replace(path, new)
    print(f"step {len(old) + 1} of {file}: {mask_steps.name(step)} ({step.op})")
    print(
        f"Next: look at it with `hklflow mask show {quote(str(file))} --image FRAME -o mask.png`."
    )


def _with_step(content: bytes, keys: dict[str, Any]) -> bytes:
    """Return the content with a line for the step appended, indented like the other steps."""
    import yaml

    node = yaml.compose(content.decode("utf-8-sig"), yaml.SafeLoader)
    indent = 0 if node is None else node.start_mark.column
    newline = b"\r\n" if b"\r\n" in content else b"\n"
    line = yaml.safe_dump(
        keys, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9
    ).strip()
    if content and not content.endswith(b"\n"):
        content += newline
    return content + f"{' ' * indent}- {line}".encode() + newline


def _replace(path: Path, content: bytes) -> None:
    """Replace the content of a file in one operation."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as out:
            out.write(content)
            out.flush()
            if path.exists():
                os.fchmod(out.fileno(), path.stat().st_mode & 0o777)
            os.fsync(out.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a mask file, so that only one command changes the file."""
    try:
        lock = path.with_name(f".{path.name}.lock").open("a")
    except OSError as error:
        raise HklflowError(
            f"{path} cannot be written in its folder ({error.strerror}); make the folder first"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stated(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _plain(value: float) -> float | int:
    """Return whole numbers as int, so that the file has 5 and not 5.0."""
    return int(value) if value.is_integer() else value


def _corner(text: str) -> list[float | int]:
    try:
        slow, fast = (_plain(float(part)) for part in text.split(","))
    except ValueError:
        raise HklflowError(f"--corners {text!r} is not a corner; give slow,fast") from None
    return [slow, fast]


def _blank(text: str) -> "NDArray[np.float64]":
    import numpy as np

    try:
        rows, columns = (int(part) for part in text.split(","))
    except ValueError:
        rows = columns = 0
    if rows < 1 or columns < 1 or rows * columns > MOST_PIXELS:
        raise HklflowError(f"--shape {text!r} is not a shape; give rows,columns, such as 1043,981")
    return np.zeros((rows, columns))


def _counts(path: Path) -> "NDArray[np.float64]":
    """Return the counts of an image or of the first frame of a raw file; flagged pixels are 0."""
    import numpy as np

    from hklflow.formats import images, raw
    from hklflow.images import masks

    if raw.is_hdf5(path):
        with raw.open_frames(path) as frames:
            pixels = frames.read(0, 1)[0]
    else:
        pixels = images.read_image(path)
    flagged = masks.flagged(pixels, masks.flag_value(pixels.dtype))
    return np.where(flagged, 0, pixels).astype(np.float64)
