"""One process that has imported all, and forks every command: starting Python takes most of the
time of small jobs.

Commands are started as ever, `python -m hklflow.stages.NAME`, `hklflow` or `snakemake`: the first
of that name in PATH hands the command over to the process, which forks for it. Each command is a
process of its own, with the folder, environment and files of its caller, and its own exit code.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_CLIENT = """\
#!{python} -ISE
import array, json, os, socket, sys

words = [{script!r}, *sys.argv[1:]]
if not {script!r}:
    if sys.argv[1:2] != ["-m"] or not sys.argv[2:3][0].startswith("hklflow.stages."):
        os.execv({python!r}, [{python!r}, *sys.argv[1:]])
    words = sys.argv[2:]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    sent = json.dumps([os.getcwd(), words, dict(os.environ)]).encode()
    socket.send_fds(server, [len(sent).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(sent)
    answer = server.recv(1)
os._exit(answer[0] if answer else 1)
"""

_SERVER = """\
import hklflow  # first: it makes cctbx safe to import
import importlib, json, os, runpy, signal, socket, sys, threading, traceback
for name in {preload!r}:
    importlib.import_module(name)


def work(words, folder, environment):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    code = 0
    try:
        if os.path.isabs(words[0]):
            runpy.run_path(words[0], run_name="__main__")
        else:
            sys.modules.pop(words[0], None)
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve(caller):
    # A process for each caller, which forks the job and tells its end.
    size, files, _, _ = socket.recv_fds(caller, 8, 3)
    left, text = int.from_bytes(size, "big"), b""
    while len(text) < left:
        text += caller.recv(left - len(text))
    folder, words, environment = json.loads(text)
    job = os.fork()
    if job == 0:
        caller.close()
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os._exit(work(words, folder, environment))
    _, status = os.waitpid(job, 0)
    caller.sendall(bytes([os.waitstatus_to_exitcode(status) & 255]))


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with socket.socket(socket.AF_UNIX) as server:
    server.bind({address!r})
    server.listen(16)
    print("ready", flush=True)
    while True:
        caller, _ = server.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            server.close()
            serve(caller)
            os._exit(0)
        caller.close()
"""


class Forked:
    """The process that `python -m hklflow.stages.*` and scripts of the environment fork from."""

    def __init__(self, folder: Path, preload: Sequence[str], scripts: Sequence[str] = ()) -> None:
        self.tools = folder / "bin"
        self.tools.mkdir(parents=True)
        # The name of a socket must be short: a folder of its own, not one of pytest's.
        self.short = tempfile.TemporaryDirectory(prefix="hklflow-")
        given = {"python": sys.executable, "address": str(Path(self.short.name) / "stages")}
        for name in ("python", *scripts):
            script = "" if name == "python" else str(Path(sys.executable).parent / name)
            client = self.tools / name
            client.write_text(_CLIENT.format(**given, script=script))
            client.chmod(0o755)
        server = _SERVER.format(**given, preload=list(preload))
        with (folder / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", server],
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(os.environ) | {"MPLBACKEND": "Agg"},
                text=True,
            )

    def wait(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", "the process of commands has ended"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.short.cleanup()
