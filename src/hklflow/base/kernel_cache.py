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
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

#: One of them stands in every module that has kernels, or words for them.
_WORDS = (b"import numba", b"from numba", b"llvmlite import", b"hklflow.simd.jit import")


def choose(package: Path) -> None:
    """Set ``NUMBA_CACHE_DIR``, unless the user did; call before numba is imported.

    Parameters
    ----------
    package : Path
        Folder of the package.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    name = f"kernels-{_state(package)}"
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


def ensure(group: str) -> None:
    """Compile a group of kernels, unless it was done; others who ask then wait.

    Without it all jobs of a new installation that start together would compile the same. Where the
    file system knows no locks, or nothing can be compiled beforehand, each job does it for itself.

    Parameters
    ----------
    group : str
        As `hklflow.experiment.warm` names it.
    """
    done = marker(group)
    if done is None or done.exists():
        return
    with suppress(OSError), done.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return
        print(f"compiling the kernels of {group}, once for this installation", flush=True)
        command = [sys.executable, "-m", "hklflow.experiment.warm", group]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of the folder, where there is one and the file system knows locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            path = Path(os.environ.get("NUMBA_CACHE_DIR", "")) / "index.lock"
            fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX)
        yield


def marker(group: str) -> Path | None:
    """Return the file that says that a group was compiled, here and for this processor."""
    from llvmlite.binding import get_host_cpu_name

    folder = os.environ.get("NUMBA_CACHE_DIR")
    state = _state(Path(__file__).parents[1])
    words = group, state, sys.implementation.cache_tag, get_host_cpu_name()
    return Path(folder) / f"{'-'.join(words)}.done" if folder else None


def _state(package: Path) -> str:
    """Digest of the modules that have kernels, or words for them."""
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
