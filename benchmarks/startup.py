"""What every job pays before it works: CPU seconds by stage, with numba's cache cold and warm.

    python -m benchmarks.startup FOLDER

Runs the chain of `memory.py` on a small rotation (256 × 256 × 240), each stage in a process of its
own, first with an empty cache of compiled kernels, then with that. The columns are CPU seconds:

    cli      interpreter, numpy, pydantic, cyclopts, until `stage.run`
    imports  whatever is imported after that
    kernels  compiling, or loading what was compiled, with the numbers of both
    frame    from the start of the process until frames are first asked for
    total    of the whole job, with the little that there is to do
"""

import builtins
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CASE = ((256, 256), 240)


class Watch:
    """Notes CPU seconds of a stage from inside its process."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {"imports": 0.0, "kernels": 0.0, "compiled": 0, "loaded": 0}
        self.depth = 0
        self.patched: set[str] = set()

    def timed(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a call so that its time is noted, unless it is part of another such call."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.depth += 1
            start = time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.spent[what] += time.process_time() - start
                    self.patch()

        return wrapped

    def noted(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a call so that the first one's time since the start is noted."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.spent.setdefault(what, time.process_time())
            if what == "cli":
                self.spent["imports"] = 0.0
            return call(*arguments, **options)

        return wrapped

    def patch(self) -> None:
        """Wrap what has been imported meanwhile."""
        if "hklflow.stage" in sys.modules and self.once("stage"):
            module = sys.modules["hklflow.stage"]
            module.run = self.noted("cli", module.run)  # type: ignore[attr-defined]
        if "hklflow.formats.raw" in sys.modules and self.once("raw"):
            frames = sys.modules["hklflow.formats.raw"].Frames
            for name in ("read", "blocks", "stream"):
                setattr(frames, name, self.noted("frame", getattr(frames, name)))
        if "numba.core.dispatcher" in sys.modules and self.once("numba"):
            from hklflow.simd import private

            dispatcher, cache = private.dispatcher_and_cache()
            dispatcher.compile = self.timed("kernels", dispatcher.compile)
            self.count(cache, "load_overload", "loaded", lambda found: found is not None)
            self.count(cache, "save_overload", "compiled", lambda _: True)

    def count(self, owner: type, name: str, what: str, good: Callable[[Any], bool]) -> None:
        """Count calls of a method whose result is good."""
        call = getattr(owner, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            self.spent[what] += good(result)
            return result

        setattr(owner, name, wrapped)

    def once(self, name: str) -> bool:
        """Whether this has not been asked before."""
        new = name not in self.patched
        self.patched.add(name)
        return new


def inside(stage: str, arguments: list[str], report: str) -> None:
    """Run a stage under a watch; the child's part."""
    watch = Watch()
    builtins.__import__ = watch.timed("imports", builtins.__import__)
    sys.argv = [stage, *arguments]
    try:
        runpy.run_module(f"hklflow.stages.{stage}", run_name="__main__", alter_sys=True)
    finally:
        watch.spent["total"] = time.process_time()
        Path(report).write_text(json.dumps(watch.spent))


def run(report: Path, cache: Path) -> Callable[..., dict[str, float]]:
    """Give a function that runs a stage and returns what its watch noted."""

    def one(stage: str, *arguments: str) -> dict[str, float]:
        command = [sys.executable, __file__, "--inside", str(report), stage, *arguments]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment = os.environ | one_thread | {"NUMBA_CACHE_DIR": str(cache)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{stage} failed:\n{done.stderr}")
        return dict(json.loads(report.read_text()))

    return one


def main(folder: Path) -> None:
    """Measure and print a table for the cold and one for the warm cache."""
    import tempfile

    from benchmarks import memory

    folder.mkdir(parents=True, exist_ok=True)
    cache = Path(tempfile.mkdtemp(dir=folder, prefix="cache-"))
    memory.run = run(folder / "watch.json", cache)  # type: ignore[assignment]
    bare = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    print(f"bare interpreter: {time.perf_counter() - bare:.2f} s")
    for state in ("cold", "warm"):
        table: Any = memory.stages(folder, *CASE)
        print(f"{state + ' cache':15s}     cli imports kernels (compiled, loaded)   frame   total")
        for stage, spent in table.items():
            print(
                f"{stage:15s} {spent['cli']:7.2f} {spent['imports']:7.2f} {spent['kernels']:7.2f} "
                f"({spent['compiled']:8.0f}, {spent['loaded']:6.0f}) "
                f"{spent.get('frame', float('nan')):7.2f} {spent['total']:7.2f}"
            )
        print(f"{'all':15s} {'':31s}{sum(spent['total'] for spent in table.values()):25.2f}")


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        inside(sys.argv[3], sys.argv[4:], sys.argv[2])
    else:
        main(Path(sys.argv[1]))
