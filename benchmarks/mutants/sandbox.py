"""A copy of a checkout at a fixed place, with an interpreter that imports hklflow from there.

The interpreter is a virtual environment with links to the packages of the one that was given, but
for its editable install: in its stead stands the copy's `src`. So neither a cleared environment nor
another PYTHONPATH leads back to the editable install. Numba keeps what it compiled beside the copy:
its index knows a source by path, time and size, which stay as they are from mutant to mutant; each
state of the checkout has a folder of its own.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import Any

MARK = "HKLFLOW_MUTANTS_SANDBOX"


class Sandbox:
    """Files are brought to the state of the checkout by `refresh`."""

    def __init__(self, root: Path, checkout: Path, python: Path) -> None:
        self.root, self.checkout, self.given = root.absolute(), checkout.resolve(), python
        self.repo = self.root / "repo"
        self.environment = self.root / "venv"
        self.site = self.environment / "lib" / _version(sys.executable) / "site-packages"
        if _version(str(python)) != _version(sys.executable):
            raise SystemExit(f"{python} is not {_version(sys.executable)}, as this is")
        self.root.mkdir(parents=True, exist_ok=True)
        beside = self.checkout.parent / "shared"  # real measurements, for tests/conftest.py
        if beside.exists() and not (self.root / "shared").exists():
            (self.root / "shared").symlink_to(beside.resolve())
        self.refresh()
        # What numba compiled of one module is not forgotten when another changes.
        state = sha1(b"".join(p.read_bytes() for p in sorted(self.repo.glob("src/**/*.py"))))
        self.cache = self.root / "numba" / state.hexdigest()[:16]
        self.cache.mkdir(parents=True, exist_ok=True)
        self._interpreter()

    def refresh(self) -> None:
        """Copy what differs from the tracked files of the checkout, and remove all else."""
        command = ["git", "-C", str(self.checkout), "ls-files", "-z"]
        told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        tracked = {name for name in told.split("\0") if name and (self.checkout / name).is_file()}
        for name in tracked:
            ours, theirs = self.repo / name, (self.checkout / name).stat()
            if ours.is_file() and not ours.is_symlink():
                stat = ours.stat()
                if (stat.st_size, stat.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns):
                    continue
            ours.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.checkout / name, ours)
        for path in [p for p in self.repo.rglob("*") if "__pycache__" not in p.parts]:
            if not path.is_dir() and path.relative_to(self.repo).as_posix() not in tracked:
                path.unlink()

    def write(self, file: str, text: str) -> None:
        """Change a file; what was compiled of it by Python is forgotten."""
        path = self.repo / file
        path.write_text(text)
        self.forget(file)

    def forget(self, file: str) -> None:
        for old in (self.repo / file).parent.glob(f"__pycache__/{Path(file).stem}.*.pyc"):
            old.unlink()

    def _interpreter(self) -> None:
        """The virtual environment, made once; scripts of the one given call this one."""
        python = self.environment / "bin/python"
        if not python.exists():
            make = [str(self.given), "-m", "venv", "--without-pip", str(self.environment)]
            subprocess.run(make, check=True)
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        told = subprocess.run([self.given, "-c", ask], capture_output=True, text=True, check=True)
        packages, bins = Path(told.stdout.strip()), self.given.absolute().parent
        # Links, as packages look for their own files in the environment that they run in.
        for package in packages.iterdir():
            editable = package.suffix == ".pth" and "hklflow" in package.name
            if not editable and not (self.site / package.name).exists():
                (self.site / package.name).symlink_to(package)
        source = self.repo / "src"
        (self.site / "mutants.pth").write_text(f"{source}\nimport mutants_hook\n")
        for name in ("hook", "plugin"):
            shutil.copy2(Path(__file__).with_name(f"{name}.py"), self.site / f"mutants_{name}.py")
        (self.site / "mutants_notes").mkdir(exist_ok=True)
        self.settings()
        found = importlib.util.find_spec("coverage")
        if found is None or found.origin is None:
            raise SystemExit(f"{sys.executable} has no coverage: pip install coverage")
        if not (self.site / "coverage").exists():
            (self.site / "coverage").symlink_to(Path(found.origin).parent)
        for script in bins.iterdir():
            ours = self.environment / "bin" / script.name
            if ours.exists() or script.is_dir() or script.name.startswith(("python", "activate")):
                continue
            first, _, rest = script.read_bytes().partition(b"\n")
            if first.startswith(b"#!" + bytes(bins)):
                ours.write_bytes(b"#!" + bytes(python) + b"\n" + rest)
                ours.chmod(0o755)
            else:
                ours.symlink_to(script)

    def warm(self) -> None:
        """Compile the usual kernels, once: else each of the first processes would for itself."""
        if not (self.cache / "warm").exists():
            print(f"compiling the kernels to {self.cache}", flush=True)
            python = [str(self.environment / "bin/python"), "-m", "hklflow.experiment.warm"]
            given = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
            given["NUMBA_CACHE_DIR"] = str(self.cache)
            subprocess.run(python, env=given, cwd=self.root, check=True)
            (self.cache / "warm").touch()

    def adopt(self, other: "Sandbox") -> None:
        """Take what another sandbox has compiled; numba tells its folders by their paths."""
        for source in (self.repo / "src/hklflow").rglob("*"):
            theirs = other.repo / source.relative_to(self.repo)
            old, new = (f"{p.name}_{sha1(str(p).encode()).hexdigest()}" for p in (theirs, source))
            if (other.cache / old).is_dir() and not (self.cache / new).exists():
                shutil.copytree(other.cache / old, self.cache / new)

    def settings(self, **more: Any) -> None:
        package = str(self.repo / "src/hklflow")
        given = {"coverage": None, "tests": None, "log": None, "repo": str(self.repo), **more}
        self.site.joinpath("mutants_settings.json").write_text(
            json.dumps({"package": package, **given})
        )

    def log(self) -> Path:
        """An empty folder for the logs of pytest."""
        folder = self.root / "log"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def strays(self) -> list[str]:
        """Processes since the last call that would import another hklflow."""
        path = self.site / "mutants_strays"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def pytest(
        self, words: list[str], cache: Path, late: Callable[[], bool], output: Path
    ) -> int | None:
        """Exit code; None if it was ended because it was late. All that it began is ended."""
        mark = f"{self.root} {time.monotonic_ns()}"
        environment = {**os.environ, MARK: mark, "NUMBA_CACHE_DIR": str(cache)}
        folders = [str(self.environment / "bin"), environment.get("PATH", os.defpath)]
        environment["PATH"] = os.pathsep.join(folders)
        for name in ("HKLFLOW_MUTANTS_CONTEXT", "PYTHONPATH", "PYTHONHOME"):
            environment.pop(name, None)
        command = [str(self.environment / "bin/python"), "-m", "pytest", "-p", "mutants_plugin"]
        command += ["-p", "no:cacheprovider", "-q", f"--basetemp={self.root / 'tmp'}"]
        command += ["-o", "tmp_path_retention_policy=failed", *words]
        with output.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=self.repo,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            ended = False
            while process.poll() is None and not ended:
                time.sleep(0.2)
                ended = late()
            for pid in _marked(mark):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # it ended by itself
                    continue
            code = process.wait()
        shutil.rmtree(self.root / "tmp", ignore_errors=True)
        return None if ended else code


def _version(python: str) -> str:
    ask = "import sys; print('python%d.%d' % sys.version_info[:2])"
    told = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    return told.stdout.strip()


def _marked(mark: str) -> list[int]:
    """Processes that were begun with this mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile, or it is another's
            continue
    return found
