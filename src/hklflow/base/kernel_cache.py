"""Where numba keeps compiled kernels, so that what is there is never out of date.

Numba looks only at the file of a kernel itself: one that calls kernels of another module stays
as it was when that module changes, as after `git pull`. Therefore each state of the modules
with kernels has a folder of its own. Where the package cannot be written to, the user's cache
is used, and where there is none (containers, some nodes of clusters) the folder of temporary
files; numba would refuse to be imported there.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

#: One of them stands in every module that has kernels, or words for them.
_WORDS = (b"import numba", b"from numba", b"llvmlite import", b"from hklflow.simd")


def choose(package: Path) -> None:
    """Set ``NUMBA_CACHE_DIR``, unless the user did; call before numba is imported.

    Parameters
    ----------
    package : Path
        Folder of the package.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    name = f"kernels-{state(package)}"
    for base in _places(package):
        folder = base / name
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            continue
        # What is in the cache is run: nobody else's folder will do.
        if os.access(folder, os.W_OK) and base.stat().st_uid == os.getuid():
            os.environ["NUMBA_CACHE_DIR"] = str(folder)
            return


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of the folder, where there is one and the file system knows locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            path = Path(os.environ.get("NUMBA_CACHE_DIR", "")) / "index.lock"
            fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX)
        yield


def state(package: Path) -> str:
    """Return a digest of the modules that have kernels, or words for them."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        text = path.read_bytes()
        if any(word in text for word in _WORDS):
            digest.update(f"{path.relative_to(package)} {len(text)}\n".encode())
            digest.update(text)
    return digest.hexdigest()[:16]


def _places(package: Path) -> Iterator[Path]:
    yield package / "__pycache__"
    user = os.environ.get("XDG_CACHE_HOME")
    # There may be no home.
    with suppress(RuntimeError):
        yield (Path(user) if user else Path.home() / ".cache") / "hklflow"
    yield Path(tempfile.gettempdir()) / f"hklflow-{os.getuid()}"
