"""The contract of every stage: typed inputs, outputs and parameters, atomic files, provenance.

A stage module has ``VERSION``, ``Inputs``, ``Outputs`` and ``Params``, and ``main(*, inputs,
outputs, params, threads)``. ``VERSION`` is raised when the same input gives a different output.
``KERNELS`` names a group of `hklflow.experiment.warm` whose kernels `make setup` does not compile.
``FRAMES_OF`` names the field of the inputs with the scan files whose frames the stage reads; it may
be a function of the parameters. ``DIAGNOSTIC`` is the reason why all products that are made from
the outputs are diagnostic. `command` turns ``main`` into a command line; tests call ``main``
directly.
"""

import atexit
import gc
import json
import math
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from hklflow import __version__
from hklflow.base import identity, notes, publish, system
from hklflow.base.described import Described
from hklflow.base.errors import HklflowError, printable_lines
from hklflow.base.history import diagnoses
from hklflow.stage import kernels, tags

T = TypeVar("T")
Record = dict[str, Any]


class _Model(Described):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Inputs(_Model):
    """Paths that a stage reads."""

    def paths(self) -> dict[str, list[Path]]:
        """Return the paths of each field, by its name."""
        return _paths(self)


class Outputs(_Model):
    """Paths that a stage writes."""

    def paths(self) -> dict[str, list[Path]]:
        """Return the paths of each field, by its name."""
        return _paths(self)


class Params(_Model):
    """Parameters of a stage; also its section of the configuration file."""

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """Return the paths of each field, by its name, relative to ``base``.

        A stage with a parameter file that lists other files adds these files, because they are also
        read.
        """
        return _paths(self)


def _in_threes(value: Any) -> Any:
    """Group a list of numbers from a command line in threes."""
    flat = isinstance(value, list) and not any(isinstance(x, list | tuple) for x in value)
    if not flat or len(value) % 3:
        return value
    return [tuple(value[i : i + 3]) for i in range(0, len(value), 3)]


Vectors = Annotated[list[tuple[float, float, float]], BeforeValidator(_in_threes)]
"""Vectors of three numbers; on a command line all numbers are in one list."""


def _paths(model: BaseModel) -> dict[str, list[Path]]:
    paths: dict[str, list[Path]] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        values = value if isinstance(value, list | tuple) else [value]
        paths[name] = [v for v in values if isinstance(v, Path)]
    return paths


Main = Callable[..., None]
"""``main(*, inputs, outputs, params, threads)`` of a stage module."""


def _module(main: Main) -> ModuleType:
    return sys.modules[main.__module__]


# ----------------------------------------------------------------- command line


def command(main: Main) -> None:
    """Parse the command line, run the stage, and publish its outputs together.

    Outputs are written under temporary names in the same folders, and renamed when all are
    complete. `HklflowError` and wrong arguments end with one line and exit code 2, other errors
    with a traceback and exit code 1.
    """
    _collect_rarely()
    from cyclopts import App, CycloptsError, Parameter

    module = vars(_module(main))
    name = Path(module["__file__"]).stem
    app = App(
        name=f"python -m hklflow.stages.{name}",
        help=module["__doc__"],
        version=f"{name} {module['VERSION']} (hklflow {__version__})",
        default_parameter=Parameter(consume_multiple=True, json_dict=True, json_list=True),
    )
    flat = Parameter(name="*")

    # cyclopts needs a default even if nothing is required.
    reads = module["Inputs"] if module["Inputs"].model_fields else module["Inputs"] | None

    def run_stage(  # the annotations define the command line
        *,
        inputs: Annotated[reads, flat] = None,  # type: ignore[valid-type]
        outputs: Annotated[module["Outputs"], flat],  # type: ignore[valid-type]
        params: Annotated[module["Params"] | None, flat] = None,  # type: ignore[valid-type]
        threads: int = 1,
    ) -> None:
        if "KERNELS" in module:
            kernels.ensure(module["KERNELS"])
        run(
            main,
            inputs=inputs or module["Inputs"](),
            outputs=outputs,
            params=params or module["Params"](),
            threads=threads,
        )

    app.default(run_stage)
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        cause = error.__cause__
        problem = _problems_of(cause) if isinstance(cause, ValidationError) else str(error)
        _fail(name, " ".join(problem.split()), 2)
    except ValidationError as error:
        _fail(name, _problems_of(error), 2)
    except HklflowError as error:
        # Without this test, too many open files would look like a damaged file.
        _fail(name, system.too_many_files(error) or str(error), 2)
    except Exception as error:  # noqa: BLE001  (shown in full with a traceback)
        if (lack := system.lack_of_memory(error)) is not None:
            # Exit code 1: a repeated job may get more memory (`mem_mb` grows with every retry).
            _fail(name, _no_memory(lack, module["Params"]), 1)
        if (lack := system.sentence(error)) is not None:
            _fail(name, lack, 2)
        traceback.print_exc()
        sys.exit(1)


def _collect_rarely() -> None:
    """Collect garbage rarely, and not at the end of the process.

    A job imports a hundred thousand objects that stay until it ends; repeated garbage collections
    took 0.3 s of each job.
    """
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


def _problems_of(error: ValidationError) -> str:
    """Return the problems of a validation in one line, each with its flag."""
    problems = []
    for item in error.errors():
        flag = "--" + ".".join(str(part) for part in item["loc"]).replace("_", "-")
        value = "" if item["type"] == "missing" else f" (it is {item['input']!r})"
        problems.append(f"{flag}: {item['msg']}{value}")
    return "; ".join(problems)


def _no_memory(reason: str, params: type[Params]) -> str:
    """Return the requested memory, if known, and the parameter to lower, as text."""
    details = " ".join(reason.split())
    if (limit := system.memory_limit_mb()) is not None:
        details += f"{'; ' if details else ''}a process may have {limit} MB (`ulimit -v`)"
    settings = [f"`{name}`" for name in ("block", "memory") if name in params.model_fields]
    lower = f"lower {' or '.join(settings)}, or " if settings else ""
    return f"not enough memory{f' ({details})' if details else ''}; {lower}give the job more memory"


def _fail(name: str, message: str, code: int) -> None:
    print(printable_lines(f"hklflow {name}: {message}"), file=sys.stderr)
    sys.exit(code)


def run(main: Main, *, inputs: Inputs, outputs: Outputs, params: Params, threads: int) -> None:
    """Run a stage on temporary outputs, record the run, and publish the outputs.

    Raises
    ------
    HklflowError
        If an input is missing, the number of threads is not positive, or the stage fails.
    """
    if threads < 1:
        raise HklflowError(
            f"threads: {threads} is less than 1; give the number of processor cores to use"
        )
    module = _module(main)
    name = Path(str(module.__file__)).stem
    read = files_read(inputs, params)
    for field, paths in read.items():
        for path in paths:
            require_input(field, path)
    _require_apart(read, outputs.paths())
    used = _calibrations([path for paths in read.values() for path in paths])
    frames_of = getattr(module, "FRAMES_OF", None)
    watch = _Watch(inputs, params, read, frames_of(params) if callable(frames_of) else frames_of)
    started = datetime.now(UTC)
    clock = time.perf_counter()
    final = outputs.paths()
    # The name is unique to this run. A killed run may have left a process that still writes; its
    # files must never be published as files of this run, nor the other way round.
    token = secrets.token_hex(4)
    temporary = {
        field: [publish.partial(path, token) for path in paths] for field, paths in final.items()
    }
    made: list[Path] = []
    for path in (path for paths in final.values() for path in paths):
        made += _folder(path.parent)
        publish.remove_partials(path)
    try:
        main(inputs=inputs, outputs=_with_paths(outputs, temporary), params=params, threads=threads)
        record = {
            "stage": name,
            "stage_version": module.VERSION,
            "program": "hklflow",
            "version": __version__,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 3),
            "params": params.model_dump(mode="json"),
            **watch.ended(),
            "outputs": {field: [p.name for p in paths] for field, paths in final.items()},
        }
        if used:
            record["calibrations"] = used
        if hasattr(module, "DIAGNOSTIC"):
            record["diagnostic"] = module.DIAGNOSTIC
        for field, paths in temporary.items():
            for source, target in zip(paths, final[field], strict=True):
                if not source.exists():
                    raise RuntimeError(f"{name} did not write its output {field}: {target}")
        _record(record, read, [p for paths in temporary.values() for p in paths])
        publish.publish(
            [(s, t) for field in final for s, t in zip(temporary[field], final[field], strict=True)]
        )
    finally:
        for paths in temporary.values():
            for path in paths:
                path.unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):  # the folder is in use
                folder.rmdir()


def files_read(inputs: Inputs, params: Params) -> dict[str, list[Path]]:
    """Return the files of a run by field.

    A mask image or a flat field is given by a parameter, but it is also an input file.
    """
    return inputs.paths() | {field: paths for field, paths in params.paths().items() if paths}


def require_input(field: str, path: Path) -> None:
    """Refuse a file that does not exist or cannot be read.

    Raises
    ------
    HklflowError
    """
    # A run of a detector may be a folder.
    if not path.is_dir():
        system.require_file(path, f"{field}:", "make it first or correct the path")


def _require_apart(read: Mapping[str, Sequence[Path]], final: Mapping[str, Sequence[Path]]) -> None:
    """Raise an error if an output would overwrite an input, because raw data would be lost."""
    for field, paths in final.items():
        for path in paths:
            for other in (read_path for paths_read in read.values() for read_path in paths_read):
                if path.exists() and path.samefile(other):
                    raise HklflowError(
                        f"{field}: {path} is a file that is read; give the output another name"
                    )


def _folder(path: Path) -> list[Path]:
    """Create a folder, and return the folders that did not exist, the outermost first."""
    absent = [folder for folder in (path, *path.parents) if not folder.exists()][::-1]
    path.mkdir(parents=True, exist_ok=True)
    return absent


def _calibrations(read: Sequence[Path]) -> list[Record]:
    """Return the versions of the calibration store to which the inputs belong.

    Raises
    ------
    HklflowError
        If a file of a version was changed after its publication.
    """
    if not any((path.parent / "record.json").exists() for path in read):
        return []
    from hklflow.calibration.store import calibration_of

    versions = [calibration_of(path) for path in read]
    return [item for item in versions if item is not None]


def _with_paths(outputs: Outputs, paths: Mapping[str, Sequence[Path]]) -> Outputs:
    update: dict[str, Any] = {}
    for field in type(outputs).model_fields:
        value = getattr(outputs, field)
        if isinstance(value, Path):
            update[field] = paths[field][0]
        elif isinstance(value, list | tuple):
            update[field] = type(value)(paths[field])
    return outputs.model_copy(update=update)


# ------------------------------------------------------------------- provenance


class _Watch:
    """The files that a run reads; they must not change during the run or between import and run.

    Raises
    ------
    HklflowError
        If the frames have changed since the import.
    """

    def __init__(
        self,
        inputs: Inputs,
        params: Params,
        read: Mapping[str, Sequence[Path]],
        frames_of: str | None,
    ) -> None:
        self._read = read
        patterns = getattr(params, "patterns", None) or (getattr(params, "pattern", None),)
        self._sources: dict[str, list[Path]] = {}
        if "raw" in read:
            from hklflow.formats.sources import sources

            self._sources = sources(read["raw"], [pattern for pattern in patterns if pattern])
        # A mask image may be a dataset of a master file, which links the data.
        for path in (path for field, paths in read.items() if field != "raw" for path in paths):
            if path.suffix == ".json":  # most inputs of the smallest jobs
                continue
            from hklflow.formats.raw import is_hdf5
            from hklflow.formats.sources import linked_files

            if is_hdf5(path) and not provenance(path):
                self._sources |= {str(other): [other] for other in linked_files(path)}
        self._before = {
            name: identity.standing(files) for name, files in self._all() if len(files) > 0
        }
        self._frames: list[tuple[Path, identity.Entry, list[Path]]] = []
        for scan in inputs.paths()[frames_of] if frames_of else ():
            self._frames += [(scan, *found) for found in _imported(scan)]
        self._require_imported()

    def _all(self) -> Iterator[tuple[str, list[Path]]]:
        for path in (path for paths in self._read.values() for path in paths):
            yield str(path), [path]
        yield from self._sources.items()

    def _require_imported(self) -> None:
        for scan, entry, files in self._frames:
            difference = identity.compare(entry, files, identity.standing(files))
            if difference is identity.Likeness.CHANGED:
                raise HklflowError(
                    f"{entry['path']} has changed since {scan} was made from it; run snakemake "
                    "again, which imports the scan again"
                )

    def ended(self) -> Record:
        """Return the identities of the read files for the record.

        Raises
        ------
        HklflowError
            If a file changed during the run.
        """
        self._require_imported()
        entries = {}
        for name, files in self._all():
            entries[name] = identity.identify(name, files, product=_is_product(files))
            before, now = self._before[name], identity.standing(files)
            # A backup or a link changes the time of the last status change, but not the content.
            if before is None or now is None or before[:2] != now[:2]:
                raise HklflowError(f"{name} changed while it was read; run again")
        record: Record = {
            "inputs": {
                field: [entries[str(p)] for p in paths] for field, paths in self._read.items()
            }
        }
        if self._sources:
            record["sources"] = [entries[name] for name in self._sources]
        return record


def _imported(scan: Path) -> list[tuple[identity.Entry, list[Path]]]:
    """Return the files of the frames of a scan file, as recorded by the import."""
    from hklflow.formats.sources import files_of

    entries_files = []
    for record in provenance(scan)[-1:]:
        entries = [*record["inputs"].get("raw", ()), *record.get("sources", ())]
        entries_files += [
            (entry, [Path(f) for f in files_of(entry["path"], Path())]) for entry in entries
        ]
    return entries_files


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file; for a large product, of samples of it ("sampled:...")."""
    return str(identity.identify(str(path), [path], product=_is_product([path]))["sha256"])


def _is_product(files: Sequence[Path]) -> bool:
    """Return True for a large product of hklflow, which is not read completely."""
    (size, *others) = (path.stat().st_size for path in files)
    return not others and size > identity.LARGE and bool(provenance(files[0]))


def _record(record: Record, read: Mapping[str, Sequence[Path]], outputs: Sequence[Path]) -> None:
    """Append the record of this run, after the history of the files read, to its products.

    Pictures and pages store the record only if no other product can. If the history makes the
    products diagnostic, all of them say so.
    """
    history: list[Record] = []
    alone = not any(path.suffix in _WITH_HISTORY for path in outputs)
    for paths in read.values():
        for path in paths:
            if path.suffix in _WITH_HISTORY:
                history += [r for r in provenance(path) if r not in history]
    history.append(record)
    reasons = diagnoses(history)
    for path in outputs:
        if not path.exists():
            continue
        if path.suffix == ".nxs":
            from hklflow import nexus

            nexus.write_provenance(path, history)
        elif path.suffix == ".json":
            data = json.loads(path.read_text())
            data["provenance"] = history
            if reasons:
                data["diagnostic"] = reasons
            path.write_text(json.dumps(data, indent=1) + "\n")
        elif reasons:
            tags.write(path, reasons)
        if path.suffix in notes.SUFFIXES and alone:
            notes.write(path, record)


_WITH_HISTORY = (".nxs", ".json")


def provenance(path: Path) -> list[Record]:
    """Return the history of a product, oldest first: one record for each stage that led to it.

    A picture or a page contains only its own record.
    """
    if path.suffix == ".nxs":
        from hklflow import nexus

        return nexus.read_provenance(path)
    if path.suffix == ".json":
        data = _parse(path)
        return list(data.get("provenance", [])) if isinstance(data, dict) else []
    if path.suffix in notes.SUFFIXES:
        return notes.read(path)
    return []


# ----------------------------------------------------------------- small helpers


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON in a form that is easy to compare; non-finite values become null.

    numpy values become numbers.
    """
    path.write_text(json.dumps(_plain(data), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON product.

    Raises
    ------
    HklflowError
        If the file is not JSON.
    """
    data = _parse(path)
    if not isinstance(data, dict):
        raise HklflowError(f"{path} holds a {type(data).__name__}, not a JSON object")
    return data


def _parse(path: Path) -> Any:
    system.require_no_pipe(path)
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # not JSON, or not text
        raise HklflowError(f"{path} is not valid JSON ({error}); make it again") from error


def progress(
    items: Iterable[T], total: int, what: str, step: Callable[[T], int] | None = None
) -> Iterator[T]:
    """Yield the items and show the progress: a bar on a terminal, log lines in a job.

    Parameters
    ----------
    items : iterable
    total : int
        Sum of the steps.
    what : str
        Short description with the unit, such as "frames".
    step : callable, optional
        Step size of an item (default 1).

    Raises
    ------
    OSError
        If the disk is full; the stage then ends at once and not after all items.
    """
    from hklflow.formats.hdf5_output import require_written

    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=what) as bar:
            for item in items:
                yield item
                require_written()
                bar.update(step(item) if step else 1)
        return
    done, logged, start = 0, 0.0, time.monotonic()
    for item in items:
        yield item
        require_written()
        done += step(item) if step else 1
        if time.monotonic() - max(logged, start) > 10 or done >= total:
            logged = time.monotonic()
            print(
                f"{what}: {done}/{total} after {logged - start:.1f} s", file=sys.stderr, flush=True
            )
