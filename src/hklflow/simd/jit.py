"""How kernels are compiled: one decorator for all of them.

    @kernel
    def add(a, b): ...

    @kernel(error_model="numpy")
    def divide(a, b): ...

A kernel is compiled when it is first called, kept on disk (see `hklflow.base.kernel_cache`), and
lets other threads run. No C entry is made for it, which nobody calls: a tenth of the compilation.

Numba's index of what is on disk is read, changed and written without a lock: of two processes that
compile one function for two types at once, the index could give the code of one for the type of
the other. Here it is locked.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, overload

from numba import njit
from numba.core.caching import IndexDataCacheFile

from hklflow.base import kernel_cache

_save: Any = IndexDataCacheFile.save


def _save_locked(index: Any, key: Any, data: Any) -> None:
    """Keep what was compiled, while no other process does."""
    with kernel_cache.locked():
        _save(index, key, data)


setattr(IndexDataCacheFile, "save", _save_locked)  # noqa: B010  (a method, to the type checker)


@overload
def kernel(function: Callable[..., Any]) -> Any: ...


@overload
def kernel(**options: Any) -> Callable[[Any], Any]: ...


def kernel(function: Any = None, **options: Any) -> Any:
    """Compile a function, with further options of `numba.njit`."""
    compiled = partial(njit, cache=True, nogil=True, no_cfunc_wrapper=True, **options)
    return compiled if function is None else compiled(function)
