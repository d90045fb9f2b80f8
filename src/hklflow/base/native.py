"""Loading order of native libraries, so that cctbx works with the rest of the stack.

The cctbx-base wheel has its own libstdc++. If another C++ extension has loaded the system's
libstdc++ first, the import of cctbx kills the process (with the libstdc++ of Debian 13, an import
of numpy is enough). If cctbx is the first to import numpy, numpy's OpenBLAS shadows scipy's and SVD
fails. To avoid both, cctbx's libstdc++ is loaded first and then numpy, before anything else.
``hklflow/__init__.py`` calls `preload`, so every entry point does this.
"""

import ctypes
import importlib.util
import sys
from pathlib import Path

# C++ extensions that bind to the system's libstdc++ when they are loaded.
_CPP_EXTENSIONS = (
    "hdf5plugin",
    "numba",
    "pyFAI.ext",
    "fabio.ext",
    "gemmi",
    "matplotlib.ft2font",
    "scipy.linalg",
    "scipy.special",
    "scipy.ndimage",
    "scipy.spatial",
    "scipy.optimize",
)

_preloaded = False
_too_late: list[str] = []


def preload() -> None:
    """Load the libstdc++ of cctbx (if cctbx has one), then import numpy."""
    global _preloaded
    if _preloaded:
        return
    _too_late[:] = [name for name in _CPP_EXTENSIONS if name in sys.modules]
    spec = importlib.util.find_spec("cctbx")
    if spec is not None and spec.submodule_search_locations:
        site = Path(next(iter(spec.submodule_search_locations))).parent
        for library in sorted(site.glob("cctbx_base.libs/libstdc++-*.so*")):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import numpy  # noqa: F401  (before cctbx, see above)

    _preloaded = True


def require_cctbx_is_safe() -> None:
    """Refuse to import cctbx if the import would crash the interpreter.

    Raises
    ------
    ImportError
        If a C++ extension was imported before `preload` ran.
    """
    if _too_late and "cctbx" not in sys.modules:
        raise ImportError(
            f"{', '.join(_too_late)} was imported before hklflow, so cctbx would crash this "
            "process: put `import hklflow` first"
        )
