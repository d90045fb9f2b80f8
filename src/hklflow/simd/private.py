"""Private interfaces of Numba and llvmlite that hklflow uses; they may change in any release.

No other module imports `numba.core`. `changed` lists the interfaces that differ from the expected
ones. Modules of Numba are imported only when needed, so that `changed` always works.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

#: Module, name and parameters of each interface, and its purpose in hklflow.
INTERFACES = {
    ("numba.core.caching", "IndexDataCacheFile.save"): (
        ("self", "key", "data"),
        "two processes keep compiled kernels without mixing them up",
    ),
    ("numba.core.caching", "FunctionCache.load_overload"): (
        ("self", "sig", "target_context"),
        "benchmarks count the kernels that are loaded",
    ),
    ("numba.core.caching", "FunctionCache.save_overload"): (
        ("self", "sig", "data"),
        "benchmarks count the kernels that are compiled",
    ),
    ("numba.core.dispatcher", "Dispatcher.compile"): (
        ("self", "sig"),
        "benchmarks time the compilation",
    ),
    ("numba.core.event", "register"): (
        ("kind", "listener"),
        "a job says that it compiles kernels",
    ),
    ("numba.core.event", "install_listener"): (
        ("kind", "listener"),
        "`hklflow check` measures only with kernels that are compiled",
    ),
    ("numba.core.base", "BaseContext.make_array"): (
        ("self", "typ"),
        "words take the addresses of arrays",
    ),
    ("numba.core.base", "BaseContext.get_dummy_value"): (
        ("self",),
        "words return nothing",
    ),
    ("llvmlite.binding", "get_host_cpu_name"): (
        (),
        "kernels are compiled beforehand for each processor",
    ),
    ("llvmlite.ir", "Module.declare_intrinsic"): (
        ("self", "intrinsic", "tys", "fnty"),
        "words call operations of LLVM",
    ),
}


def changed() -> list[str]:
    """Return a sentence for each interface that is missing or has changed."""
    sentences = []
    for (module, name), (parameters, purpose) in INTERFACES.items():
        package = module.partition(".")[0]
        release = f"{package} {import_module(package).__version__}"
        try:
            now = tuple(inspect.signature(resolve_name(f"{module}:{name}")).parameters)
        except (ImportError, AttributeError):
            sentences.append(f"{release} has no {module}.{name} any more, by which {purpose}.")
            continue
        if now != parameters:
            call = f"{name}({', '.join(parameters)})"
            sentences.append(
                f"{release} has changed {module}.{call}, by which {purpose}, "
                f"to {name}({', '.join(now)})."
            )
    return sentences


def lock_index(locked: Callable[[], AbstractContextManager[None]]) -> None:
    """Make Numba hold a lock when it writes its index of the kernels on disk."""
    from numba.core.caching import IndexDataCacheFile

    save: Any = IndexDataCacheFile.save

    @wraps(save)
    def save_locked(index: Any, key: Any, data: Any) -> None:
        with locked():
            save(index, key, data)

    setattr(IndexDataCacheFile, "save", save_locked)  # noqa: B010  (a method, to the type checker)


def watch_compilations(begins: Callable[[], None], ends: Callable[[], None]) -> None:
    """Call functions when the compilation of a kernel begins and ends; those of callees nest."""
    from numba.core.event import Event, Listener, register

    class Calls(Listener):
        def on_start(self, event: Event) -> None:
            begins()

        def on_end(self, event: Event) -> None:
            ends()

    register("numba:compile", Calls())  # type: ignore[no-untyped-call]


@contextmanager
def no_compilation(error: Exception) -> Iterator[None]:
    """Raise the error where a kernel is not on disk and would have to be compiled."""
    from numba.core.event import Event, Listener, install_listener

    class Refusal(Listener):
        def on_start(self, event: Event) -> None:
            raise error

        def on_end(self, event: Event) -> None:
            pass

    with install_listener("numba:compile", Refusal()):
        yield


def pointer_to_data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return the pointer to the first item of an array; `kind` is the array's type in Numba."""
    return context.make_array(kind)(context, builder, array).data


def nothing(context: Any) -> Any:
    """Return the result of a word without a result."""
    return context.get_dummy_value()


def dispatcher_and_cache() -> tuple[Any, Any]:
    """Return the classes of Numba that compile kernels, and that load and store kernels."""
    from numba.core.caching import FunctionCache
    from numba.core.dispatcher import Dispatcher

    return Dispatcher, FunctionCache


def processor() -> str:
    """Return the name of this processor in LLVM."""
    from llvmlite.binding import get_host_cpu_name

    return str(get_host_cpu_name())
