"""Decorator that compiles all kernels.

    @kernel
    def add(a, b): ...

    @kernel(error_model="numpy")
    def divide(a, b): ...

A kernel is compiled when it is called for the first time, and stored on disk (see
`hklflow.base.kernel_cache`). Kernels release the GIL, so that other threads can run. No C wrapper
is compiled, because it is never called and takes a tenth of the compilation time.

Numba reads, changes and writes its index of the kernels on disk without a lock. If two processes
compile the same function for two types at the same time, the index could assign the code for one
type to the other type. The index is therefore locked here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, overload

from numba import njit

from hklflow.base import kernel_cache
from hklflow.simd import private, waiting

private.lock_index(kernel_cache.locked)
waiting.announce()


@overload
def kernel(function: Callable[..., Any]) -> Any: ...


@overload
def kernel(**options: Any) -> Callable[[Any], Any]: ...


def kernel(function: Any = None, **options: Any) -> Any:
    """Compile a function as a kernel; further options are passed to `numba.njit`."""
    compiled = partial(njit, cache=True, nogil=True, no_cfunc_wrapper=True, **options)
    return compiled if function is None else compiled(function)
