"""Read the mask file: an ordered text list of steps that mask or unmask pixels.

    - {shape: circle, slow: 840, fast: 730, radius: 25, comment: beam stop}
    - {shape: circle, slow: 840, fast: 730, radius: 5, op: subtract}
    - {image: beamline.tif, bad: zero}
    - {edges: 2, detector: Pilatus 1M}

Paths are relative to the mask file. A step with `op: subtract` unmasks pixels of earlier steps. It
never unmasks pixels that are flagged in the measurement, because they have no data.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file

if TYPE_CHECKING:
    from hklflow.images import mask_shapes, masks

    CoreStep = tuple[masks.MaskBit, mask_shapes.Shape]


class _Step(stage.Params):
    model_config = ConfigDict(allow_inf_nan=False)

    op: Literal["add", "subtract"] = "add"
    """`add` masks the pixels, `subtract` unmasks pixels that earlier steps masked."""
    comment: str = ""
    """Comment for readers of the mask file."""


class Rectangle(_Step):
    """Pixels slow_min <= slow < slow_max and fast_min <= fast < fast_max."""

    shape: Literal["rectangle"]
    slow_min: float
    slow_max: float
    fast_min: float
    fast_max: float


class Circle(_Step):
    """Pixels whose centre is inside a circle around (slow, fast)."""

    shape: Literal["circle"]
    slow: float
    fast: float
    radius: float = Field(gt=0)


class Annulus(_Step):
    """Pixels between two circles around (slow, fast)."""

    shape: Literal["annulus", "ring"]
    slow: float
    fast: float
    inner: float = Field(ge=0)
    outer: float = Field(gt=0)


class Polygon(_Step):
    """Pixels inside the polygon with the given corners (slow, fast)."""

    shape: Literal["polygon"]
    corners: tuple[tuple[float, float], ...]


class Beamstop(_Step):
    """Circle with an arm; arm_angle in degrees from +fast towards +slow."""

    shape: Literal["beamstop"]
    slow: float
    fast: float
    radius: float = Field(gt=0)
    arm_angle: float = 0.0
    arm_width: float = Field(0.0, ge=0)
    arm_length: float | None = Field(None, gt=0)
    """Length of the arm from the centre, in pixels; None: to the border of the detector."""


class Edges(_Step):
    """Pixels along the border of the detector, and along the gaps of the named detector."""

    edges: int = Field(ge=1)
    detector: str | None = None


class Image(_Step):
    """Pixels that an image marks as bad."""

    image: str
    bad: Literal["nonzero", "zero"] = "nonzero"


class Gaps(_Step):
    """Gaps of a detector that pyFAI knows by name."""

    detector: str


Shape = Annotated[Rectangle | Circle | Annulus | Polygon | Beamstop, Field(discriminator="shape")]
Step = Rectangle | Circle | Annulus | Polygon | Beamstop | Edges | Image | Gaps
# The first of these keys in a step defines its kind.
_KINDS: dict[str, TypeAdapter[Any]] = {
    "shape": TypeAdapter(Shape),
    "edges": TypeAdapter(Edges),
    "image": TypeAdapter(Image),
    "detector": TypeAdapter(Gaps),
}


@dataclass(frozen=True)
class MaskFile:
    """Content of a mask file: its steps, and its path, to which other paths are relative."""

    path: Path
    steps: tuple[Step, ...]

    def images(self) -> list[Path]:
        """Return the image files that the steps name, relative to the mask file as written."""
        from hklflow.formats.mask_images import split_name

        return [split_name(step.image)[0] for step in self.steps if isinstance(step, Image)]

    def core_steps(self, shape: tuple[int, int]) -> "list[CoreStep]":
        """Read the images and make the shapes; see `core_steps`.

        Raises
        ------
        HklflowError
            Lists all problems of the file and its images, one in each line.
        """
        return core_steps(self.steps, shape, str(self.path), self.path.parent)


def read(path: Path) -> MaskFile:
    """Read a mask file; a file without steps masks nothing.

    Raises
    ------
    HklflowError
        Lists all problems, one in each line, with the number of the step.
    """
    require_file(path, "the mask file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise HklflowError(f"the mask file {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise HklflowError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    return MaskFile(path, tuple(parse(text, str(path))))


def parse(text: str, where: str) -> list[Step]:
    """Parse the steps in the text of a mask file.

    Raises
    ------
    HklflowError
        Lists all problems, one in each line; ``where`` names the file.
    """
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise HklflowError(
            f"{where} is not valid YAML: {' '.join(str(error).split())}; correct the line"
        ) from error
    if node is None or data is None:
        return []
    if not isinstance(node, yaml.SequenceNode):
        raise HklflowError(f"{where} is not a list; write one step in a line, each after `- `")
    steps: list[Step] = []
    problems: list[str] = []
    for number, (item, value) in enumerate(zip(node.value, data, strict=True), start=1):
        try:
            steps.append(step(value, _keys(item)))
        except HklflowError as error:
            line = item.start_mark.line + 1
            problems.append(f"step {number} (line {line}): {error}")
    _raise(where, problems)
    return steps


def step(value: Any, keys: Sequence[str] = ()) -> Step:
    """Validate one step.

    Raises
    ------
    HklflowError
            If the value is not a step; lists all problems.
    """
    if not isinstance(value, dict):
        raise HklflowError(f"{value!r} is not a step; a step has `key: value` pairs")
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise HklflowError(f"{', '.join(twice)} is given twice; keep one")
    kind = next((key for key in _KINDS if key in value), None)
    if kind is None:
        raise HklflowError(f"{value!r} is not a step; a step has one of {', '.join(_KINDS)}")
    try:
        parsed: Step = _KINDS[kind].validate_python(value)
    except ValidationError as error:
        raise HklflowError("; ".join(_problem_of(item) for item in error.errors())) from error
    if not isinstance(parsed, Edges | Image | Gaps):
        core_shape(parsed)
    return parsed


def core_steps(
    steps: Iterable[Step], shape: tuple[int, int], where: str, folder: Path
) -> "list[CoreStep]":
    """Convert steps to the input of `hklflow.images.mask_shapes.draw`.

    Gaps of a detector get the bit GAP, everything else the bit of the user's mask.

    Parameters
    ----------
    steps : iterable of steps
    shape : (slow, fast)
        Shape of the detector.
    where : str
        Name of the list of steps, for messages.
    folder : Path
        Folder to which the names of images are relative.

    Raises
    ------
    HklflowError
        If images cannot be read or have another shape; lists all problems, one in each line.
    """
    from hklflow.images.masks import MaskBit

    core: list[CoreStep] = []
    problems: list[str] = []
    for number, item in enumerate(steps, start=1):
        try:
            bit = MaskBit.GAP if isinstance(item, Gaps) else MaskBit.USER
            core.append((bit, _core(item, shape, folder)))
        except HklflowError as error:
            problems.append(f"step {number} ({name(item)}): {error}")
    _raise(where, problems)
    return core


def detector_gaps(name: str, shape: tuple[int, int]) -> "masks.BoolImage":
    """Return the mask of module gaps from pyFAI's detector, for an image of shape (slow, fast).

    Raises
    ------
    HklflowError
        If pyFAI does not know the detector, or the image has another shape.
    """
    from hklflow.calibration.detectors import known_detector

    gaps = known_detector(name).gaps
    if gaps.shape != shape:
        sizes = [f"{rows} × {columns}" for rows, columns in (gaps.shape, shape)]
        raise HklflowError(
            f"the detector {name} has {sizes[0]} pixels (slow × fast), the image {sizes[1]}; name "
            "the detector of this image"
        )
    return gaps


def name(item: Step) -> str:
    """Return a short description of a step: its kind and its comment."""
    if isinstance(item, Edges):
        description = f"edges {item.edges}" + (f" of {item.detector}" if item.detector else "")
    elif isinstance(item, Image):
        description = f"image {item.image}"
    elif isinstance(item, Gaps):
        description = f"gaps of {item.detector}"
    else:
        description = item.shape
    return f"{description}: {item.comment}" if item.comment else description


def _core(item: Step, shape: tuple[int, int], folder: Path) -> "mask_shapes.Shape":
    from hklflow.formats import mask_images
    from hklflow.images import mask_shapes

    if isinstance(item, Edges):
        gaps = detector_gaps(item.detector, shape) if item.detector else None
        return mask_shapes.Edges(shape, item.edges, item.op, gaps)
    if isinstance(item, Image):
        bad = mask_images.read_mask_image(str(folder / item.image), item.bad)
        return mask_shapes.Pixels(shape, bad, item.op)
    if isinstance(item, Gaps):
        gaps = detector_gaps(item.detector, shape)
        return mask_shapes.Pixels(shape, gaps, item.op)
    return core_shape(item)


def core_shape(item: Rectangle | Circle | Annulus | Polygon | Beamstop) -> "mask_shapes.Shape":
    """Return the shape that a step draws.

    Raises
    ------
    HklflowError
        If the lengths of the shape are not possible.
    """
    import math

    from hklflow.images import mask_shapes

    values = item.model_dump(exclude={"shape", "comment"})
    if isinstance(item, Rectangle):
        return mask_shapes.Rectangle(**values)
    if isinstance(item, Circle):
        return mask_shapes.Circle(**values)
    if isinstance(item, Annulus):
        return mask_shapes.Annulus(**values)
    if isinstance(item, Polygon):
        return mask_shapes.Polygon(**values)
    values["arm_angle"] = math.radians(item.arm_angle)
    values["arm_length"] = math.inf if item.arm_length is None else item.arm_length
    return mask_shapes.Beamstop(**values)


def _keys(node: yaml.Node) -> list[str]:
    return [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []


def _problem_of(item: Any) -> str:
    """Describe one problem of a step: key, problem, value."""
    # The first entry of the location of a shape is the name of its kind.
    place = [str(part) for part in item["loc"]]
    place = place[1:] if len(place) > 1 else place
    value = (
        "" if item["type"] in ("missing", "union_tag_invalid") else f" (it is {item['input']!r})"
    )
    return f"{'.'.join(place) or 'shape'}: {item['msg']}{value}"


def _raise(where: str, problems: Sequence[str]) -> None:
    if problems:
        plural = "s" if len(problems) > 1 else ""
        listed = "\n  ".join(problems)
        raise HklflowError(f"{len(problems)} problem{plural} in {where}:\n  {listed}")
