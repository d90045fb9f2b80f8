"""Folder of numba's compiled kernels, chosen so that the cache is never out of date.

Numba checks only the file of a kernel itself: a kernel that calls kernels of another module is not
compiled again if that module changes, for example after `git pull`. Therefore each state of the
modules with kernels has its own folder. If the package is not writable, the user's cache is used;
if there is no user cache (containers, some cluster nodes), the folder of temporary files. Without
any of them numba cannot be imported.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

#: A module that contains one of these has kernels, or words for them.
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
        # Programs in the cache are executed: folders of other users are not accepted.
        if os.access(folder, os.W_OK) and base.stat().st_uid == os.getuid():
            os.environ["NUMBA_CACHE_DIR"] = str(folder)
            return


@contextmanager
def locked() -> Iterator[None]:
    """Lock the cache folder, if it exists and the file system supports locks."""
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
    # There may be no home folder.
    with suppress(RuntimeError):
        yield (Path(user) if user else Path.home() / ".cache") / "hklflow"
    yield Path(tempfile.gettempdir()) / f"hklflow-{os.getuid()}"
