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

from hklflow.base import kernel_cache
from hklflow.simd import private

private.lock_index(kernel_cache.locked)


@overload
def kernel(function: Callable[..., Any]) -> Any: ...


@overload
def kernel(**options: Any) -> Callable[[Any], Any]: ...


def kernel(function: Any = None, **options: Any) -> Any:
    """Compile a function, with further options of `numba.njit`."""
    compiled = partial(njit, cache=True, nogil=True, no_cfunc_wrapper=True, **options)
    return compiled if function is None else compiled(function)
