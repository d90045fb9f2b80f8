"""How kernels are compiled: one decorator for all of them.

    @kernel
    def add(a, b): ...

    @kernel(error_model="numpy")
    def divide(a, b): ...

A kernel is compiled when it is first called, kept on disk (see `hklflow.kernel_cache`), and lets
other threads run. No C entry is made for it, which nobody calls: a tenth of the compilation.
"""

from functools import partial
from typing import Any

from numba import njit

kernel: Any = partial(njit, cache=True, nogil=True, no_cfunc_wrapper=True)
