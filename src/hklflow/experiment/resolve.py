"""Join and validate the layers of an experiment; each problem names the layer that causes it.

Layers: defaults of the stages < facility file < configuration file < its ``per_sample``
< its ``per_scan`` (the entry of a parent applies to its children, too) < command line.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hklflow.base.errors import HklflowError
from hklflow.base.names import analysis, measured
from hklflow.experiment.layers import Layer, merged, read_yaml
from hklflow.experiment.models import Config
from hklflow.experiment.tables import Sample, Scan

# Sections that may differ for a sample or a scan.
PER_SCAN = (
    "correct_frames",
    "sum_scans",
    "import_scan",
    "pixel_mask",
    "normalization",
    "frame_scale",
    "background",
    "find_peaks",
    "orientation",
    "refine_parent",
    "refine",
    "accept",
    "absorption",
    "mask_3d",
    "refine_scale",
    "transform",
    "merge",
    "symmetrise",
    "fill",
    "pdf",
    "difference",
    "planes",
    "converge",
    "integrate",
    "scale_reflections",
    "merge_reflections",
    "absolute_scale",
)
PER_SAMPLE = (
    *PER_SCAN,
    "series",
    "temperature_series",
    "order_parameters",
    "features",
    "stack",
    "stack_pdf",
    "cluster",
    "bragg_series",
)
# Sections of raw files, or of the parent itself: children do not inherit them from the parent.
_OWN = ("sum_scans", "import_scan", "refine_parent")
# Keys of `import_scan` that correct the instrument, which children inherit.
_INSTRUMENT = ("detector", "wavelength", "wavelengths", "axes")

# Messages for sections and keys of older versions.
_GONE = {
    "find_peaks.gain": "this key is gone: the gain is the same for all stages; write "
    "`import_scan: {gain: ...}` (ADU per photon, or `measure`)",
    "find_maximum": "this section is gone: find_peaks makes the frame statistics, and has "
    "`annulus`",
}

_COMMAND_LINE = "command line"


def layers_of_experiment(
    data: Mapping[str, Any], base: Path, command_line: Mapping[str, Any], problems: list[str]
) -> list[Layer]:
    """Return the layers that apply to all samples, lowest first."""
    layers = [Layer("config", data)]
    # A wrong type is reported later, with the other problems of the configuration.
    if isinstance(facility := data.get("facility"), str):
        try:
            below = read_yaml(base / facility)
        except HklflowError as error:
            problems.append(f"config: facility: {error}")
        else:
            if "facility" in below:
                problems.append(f"facility file {facility}: `facility` is not allowed here")
            layers.insert(0, Layer(f"facility file {facility}", below))
    if command_line:
        layers.append(Layer(_COMMAND_LINE, command_line))
    return layers


def below_command_line(layers: Iterable[Layer], own: list[Layer]) -> list[Layer]:
    """Insert the layers of a sample or scan just below the command line."""
    layers = list(layers)
    at = len(layers) - (1 if layers and layers[-1].name == _COMMAND_LINE else 0)
    return [*layers[:at], *own, *layers[at:]]


def with_own(
    layers: Iterable[Layer], config: Config, samples: Mapping[str, Sample], sample: str
) -> list[Layer]:
    """Return all layers of a sample, lowest first."""
    return below_command_line(layers, layers_of_scan(config, samples, {}, sample, None))


def layers_of_scan(
    config: Config,
    samples: Mapping[str, Sample],
    scans: Mapping[tuple[str, str], Scan],
    sample: str,
    scan: str | None,
) -> list[Layer]:
    """Return the layers of the configuration file for a sample or scan, lowest first.

    The entry of a sample also applies to its other crystals.
    """
    layers = []
    first = samples[sample].crystal_of if sample in samples else ""
    for name in filter(None, (first, sample)):
        if name in config.per_sample:
            layers.append(Layer(f"per_sample.{name}", config.per_sample[name]))
    if scan is None:
        return layers
    parent = scans[sample, scan].parent
    if (of := measured(scan)) != scan:
        # An analysis is its scan with a few changes.
        layers += _layers_of_one(config, sample, of, scans[sample, of].parent)
        parent = parent if analysis(parent) else scan
    return [*layers, *_layers_of_one(config, sample, scan, parent)]


def _layers_of_one(config: Config, sample: str, scan: str, of_parent: str) -> list[Layer]:
    """Return the entries of ``per_scan`` that apply to a scan: its parent's, then its own."""
    layers = []
    parent, name = f"{sample}/{of_parent}", f"{sample}/{scan}"
    if parent != name and parent in config.per_scan:
        given = {k: v for k, v in config.per_scan[parent].items() if k not in _OWN}
        of_import = config.per_scan[parent].get("import_scan")
        # A wrong type is reported for the parent.
        if isinstance(of_import, Mapping):
            instrument = {k: v for k, v in of_import.items() if k in _INSTRUMENT}
            given |= {"import_scan": instrument} if instrument else {}
        layers.append(Layer(f"per_scan.{parent} (parent)", given))
    if name in config.per_scan:
        layers.append(Layer(f"per_scan.{name}", config.per_scan[name]))
    return layers


def resolved(
    config: Config,
    layers: list[Layer],
    samples: Mapping[str, Sample],
    scans: Mapping[tuple[str, str], Scan],
    problems: list[str],
) -> dict[tuple[str, str | None], Config]:
    """Return the configuration of every sample and scan that has a layer of its own."""
    problems += [
        f"config: per_sample: there is no sample {name!r}"
        for name in config.per_sample
        # an empty table was unreadable, which is already reported
        if samples and name not in samples
    ]
    known = {f"{sample}/{scan}" for sample, scan in scans}
    problems += [
        f"config: per_scan: there is no scan {name!r} (scans are named `sample/scan`, analyses "
        "`sample/scan@name`)"
        for name in config.per_scan
        if scans and name not in known
    ]
    allowed: dict[str, tuple[str, ...]] = {
        f"per_sample.{name}": PER_SAMPLE for name in config.per_sample
    }
    for name in config.per_scan:
        allowed |= {f"per_scan.{name}{of}": PER_SCAN for of in ("", " (parent)")}
    resolved: dict[tuple[str, str | None], Config] = {}
    told: set[str] = set()
    alike: dict[tuple[str, ...], Config] = {}
    keys: list[tuple[str, str | None]] = [(sample, None) for sample in samples]
    for sample, scan in [*keys, *scans]:
        own = layers_of_scan(config, samples, scans, sample, scan)
        names = tuple(layer.name for layer in own)
        if not own:
            continue
        if names in alike:
            resolved[sample, scan] = alike[names]
            continue
        for layer in own:
            where = layer.name.removesuffix(" (parent)")
            told |= {
                f"config: {where}: {section}: {_GONE[section]}"
                if section in _GONE
                else f"config: {where}: {section} is not allowed here (the sections are "
                f"{', '.join(allowed[layer.name])})"
                for section in layer.data
                if section not in allowed[layer.name]
            }
        stack = below_command_line(layers, own)
        everything = merged(layer.data for layer in stack)
        sections = sorted({s for layer in own for s in layer.data if s in allowed[layer.name]})
        try:
            found = Config.model_validate({s: everything[s] for s in sections})
        except ValidationError as error:
            told |= set(validation_problems(error, stack))
        else:
            update = {section: getattr(found, section) for section in sections}
            resolved[sample, scan] = alike[names] = config.model_copy(update=update)
    problems += sorted(told.difference(problems))
    return resolved


def validated(data: Mapping[str, Any], layers: list[Layer], problems: list[str]) -> Config:
    """Validate the configuration; a section with a problem is replaced by its defaults.

    The tables can then be checked, too, and all problems are reported together.
    """
    try:
        return Config.model_validate(dict(data))
    except ValidationError as error:
        problems += validation_problems(error, layers)
        # YAML converts some keys to numbers or truth values, so keys are compared as text.
        spoilt = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        sound = {k: v for k, v in data.items() if isinstance(k, str) and k not in spoilt}
        return Config.model_validate(sound)


def validation_problems(error: ValidationError, layers: Iterable[Layer] = ()) -> Iterable[str]:
    """Yield each problem with the layer that causes it."""
    stack = list(layers)
    for keys, item in _joined(error, stack):
        shown = "" if isinstance(item["input"], dict) else f" (it is {item['input']!r})"
        what = item["msg"] + shown
        if item["type"] == "extra_forbidden":
            what = f"there is no such key{shown}; {among(keys[-1], _siblings(keys))}"
        if item["type"] == "missing" and isinstance(item["input"], list):
            what = f"a value is missing{shown}"
        if item["type"] in ("model_type", "dict_type", "model_attributes_type"):
            what = _no_section(item["input"])
        if item["type"] in ("too_long", "too_short"):
            what = _another_number(item) + shown
        told = f"{'.'.join(keys)}: {_GONE.get('.'.join(keys), what)}"
        if not stack:
            yield told
            continue
        # The path of the error may contain the tag of a union, and a missing key is in no layer.
        # The message therefore names the layer that contains the longest part of the path.
        depth = [_depth(layer.data, keys) for layer in stack]
        best = max(range(len(stack)), key=lambda i: (depth[i], i))
        yield f"{stack[best].name}: {told}"


def _no_section(value: Any) -> str:
    if value is None:
        return "the section is empty; write its keys below it, indented, or remove it"
    return f"keys and their values are wanted, `key: value` (it is {value!r})"


def _another_number(item: Mapping[str, Any]) -> str:
    """Say how many values a list must have."""
    facts = item["ctx"]
    limit = (
        f"at least {facts['min_length']}"
        if "min_length" in facts
        else f"at most {facts['max_length']}"
    )
    return f"{limit} values belong here, not {facts['actual_length']}"


def _joined(
    error: ValidationError, layers: list[Layer]
) -> Iterable[tuple[list[str], dict[str, Any]]]:
    """Yield path and facts of each wrong value.

    A value that may have several types has an error for each type, with the type's tag in the path:
    these errors become one, without tags.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for item in error.errors():
        keys = [str(part) for part in item["loc"]]
        lengths = (_untagged(layer.data, keys, item["input"]) for layer in layers)
        path = tuple(keys[: min(lengths, default=None)])
        if path not in found:
            found[path] = {**item}
        elif item["type"] != "path_type":  # a number is not meant as a path
            found[path]["msg"] += f"; or: {item['msg']}"
    for path, facts in found.items():
        yield list(path), facts


def _untagged(data: Any, keys: list[str], value: Any) -> int:
    """Return the number of the keys that lead to a wrong plain value; all keys if none does."""
    depth = _depth(data, keys)
    for key in keys[:depth]:
        data = data[key]
    # A tag may have the name of another key: the value must be the wrong one. NaN is not NaN.
    found = not isinstance(data, Mapping | list) and repr(data) == repr(value)
    return depth if found else len(keys)


def _siblings(keys: list[str]) -> list[str]:
    """Return the valid keys of the mapping that contains a wrong key."""
    models: list[type[BaseModel]] = [Config]
    for key in keys[:-1]:
        fields = [model.model_fields[key] for model in models if key in model.model_fields]
        # A free name, a number in a list and the tag of a union stay at the same models.
        models = [m for f in fields for m in _models(f.annotation)] if fields else models
    return sorted({name for model in models for name in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in a type, also in unions, lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def among(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known names that are similar to a wrong name."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(names)}" if names else "it has no keys"


def _depth(data: Any, keys: list[str]) -> int:
    """Return the number of the nested keys that a layer contains."""
    for depth, key in enumerate(keys):
        if not isinstance(data, Mapping) or key not in data:
            return depth
        data = data[key]
    return len(keys)
