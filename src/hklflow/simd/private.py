"""What hklflow uses of numba and llvmlite that is not public, and may change in any release.

Nothing else imports `numba.core`. `changed` says which of these interfaces are not as they were;
no module of numba is imported before it is needed, so that it can be asked whatever has changed.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

#: Module, name in it and parameters of each, with what needs it.
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
    """Return a sentence for each interface that is not as it was."""
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
    """Hold a lock whenever numba writes its index of the kernels on disk."""
    from numba.core.caching import IndexDataCacheFile

    save: Any = IndexDataCacheFile.save

    @wraps(save)
    def save_locked(index: Any, key: Any, data: Any) -> None:
        with locked():
            save(index, key, data)

    setattr(IndexDataCacheFile, "save", save_locked)  # noqa: B010  (a method, to the type checker)


def pointer_to_data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return the pointer to an array's first item; `kind` is its type in numba."""
    return context.make_array(kind)(context, builder, array).data


def nothing(context: Any) -> Any:
    """Return what a word returns that returns nothing."""
    return context.get_dummy_value()


def dispatcher_and_cache() -> tuple[Any, Any]:
    """Return numba's classes that compile kernels, and that load and keep them."""
    from numba.core.caching import FunctionCache
    from numba.core.dispatcher import Dispatcher

    return Dispatcher, FunctionCache


def processor() -> str:
    """Return LLVM's name of this processor."""
    from llvmlite.binding import get_host_cpu_name

    return str(get_host_cpu_name())
