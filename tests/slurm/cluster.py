"""A throw-away Slurm cluster on one host.

Several slurmd daemons play the nodes. No systemd, no cgroups, no root, no accounting database, and
nothing written outside one folder. Needs Debian's packages `slurm-wlm` and `munge`.
"""

import contextlib
import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

NEEDED = (
    *("munged", "slurmctld", "slurmd"),
    *("sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol"),
)
# The daemons stand where an ordinary user's PATH does not look.
DAEMONS = ("/usr/sbin", "/sbin")


def program(name: str) -> str | None:
    """Path of a program, or None if this host lacks it."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *DAEMONS]))


def missing() -> list[str]:
    """Names of the programs this host lacks; empty if a cluster can start."""
    return [name for name in NEEDED if program(name) is None]


def version() -> tuple[int, int]:
    """Version of the installed Slurm, for example (22, 5)."""
    command = [program("slurmctld") or "slurmctld", "-V"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    major, minor = re.findall(r"\d+", said)[:2]
    return int(major), int(minor)


def until(holds: Callable[[], T], timeout: float, what: str) -> T:
    """Wait until a function returns something true, else TimeoutError; what it returned."""
    end = time.monotonic() + timeout
    while not (result := holds()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.2)
    return result


def processes(*marks: bytes) -> dict[int, str]:
    """Processes whose environment or command line contains every mark: pid -> command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            text = command + b"\0" + (folder / "environ").read_bytes()
        except OSError:  # it has ended, or it is another user's
            continue
        if all(mark in text for mark in marks) and int(folder.name) != os.getpid():
            found[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def kill(pids: list[int], number: int) -> None:
    """Send a signal to processes, some of which may have ended."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


class Cluster:
    """Context manager: the running cluster.

    Parameters
    ----------
    nodes
        Number of nodes; they are called n1, n2 ...
    cpus
        CPUs that every node claims to have.
    memory
        Memory that every node claims to have, in MB.
    """

    def __init__(self, nodes: int = 3, cpus: int = 2, memory: int = 16000) -> None:
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self.cpus, self.memory = cpus, memory
        # Unix sockets stand below: 108 bytes is all that the name of one may have, and a user's
        # TMPDIR can be long.
        root = tempfile.mkdtemp(prefix="slurm")
        if len(root) > 60:
            Path(root).rmdir()
            root = tempfile.mkdtemp(prefix="slurm", dir="/tmp")
        self.root = Path(root)
        self.conf = self.root / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a user of this cluster."""
        # The variables of an outer Slurm job would lead our commands to the outer cluster.
        mine = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        mine["SLURM_CONF"] = str(self.conf)
        mine["PATH"] = os.pathsep.join([str(self.root / "bin"), mine["PATH"], *DAEMONS])
        return mine

    def run(self, *command: str | Path) -> str:
        """Run one of Slurm's commands; its standard output."""
        run = subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if run.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {run.stderr}{run.stdout}")
        return run.stdout

    # ---------------------------------------------------------------- start

    def __enter__(self) -> "Cluster":
        """Start the daemons and wait until all nodes are idle."""
        begin = time.monotonic()
        # Tests that are killed cannot stop their cluster: this process sees the pipe close. It is
        # told the folder through the pipe, lest it be taken for a process of the cluster.
        self.guard = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, start_new_session=True, text=True
        )
        print(self.root, file=self.guard.stdin, flush=True)
        try:
            self._configure()
            run, log = self.root / "run", self.root / "log"
            self.run(
                *("munged", "--force", f"--socket={run}/munge.socket"),
                *(f"--key-file={self.root}/munge.key", f"--pid-file={run}/munged.pid"),
                *(f"--log-file={log}/munged.log", f"--seed-file={self.root}/munge.seed"),
            )
            self.run("slurmctld", "-c", "-f", self.conf)
            for name in self.names:
                self.start_node(name)
            until(lambda: set(self.states().values()) == {"idle"}, 120, "all nodes idle")
        except BaseException as error:
            error.add_note(self.logs())
            self.stop()
            raise
        self.seconds_to_start = time.monotonic() - begin
        return self

    def _configure(self) -> None:
        for folder in ("state", "spool", "log", "run", "bin"):
            (self.root / folder).mkdir()
        self.root.chmod(0o755)
        key = self.root / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        self.conf.write_text(self._slurm_conf())
        if version() >= (23, 11):  # else slurmd looks for cgroup v2 and stops
            (self.root / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        # The executor inside a job drops every SLURM_* variable, SLURM_CONF included, before it
        # calls srun. A real cluster has its slurm.conf in a place that srun knows; here a srun
        # that puts the variable back stands first in PATH.
        srun = self.root / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nexport SLURM_CONF={self.conf}\nexec {program("srun")} "$@"\n')
        srun.chmod(0o755)

    def _slurm_conf(self) -> str:
        root, user = self.root, getpass.getuser()
        host = socket.gethostname().split(".")[0]
        control, *ports = free_ports(len(self.names) + 1)
        lines = f"""
            ClusterName=throwaway
            SlurmctldHost={host}(127.0.0.1)
            SlurmctldPort={control}
            SlurmUser={user}
            SlurmdUser={user}
            AuthType=auth/munge
            AuthInfo=socket={root}/run/munge.socket
            CredType=cred/munge
            StateSaveLocation={root}/state
            SlurmdSpoolDir={root}/spool/%n
            SlurmctldPidFile={root}/run/slurmctld.pid
            SlurmdPidFile={root}/run/slurmd-%n.pid
            SlurmctldLogFile={root}/log/slurmctld.log
            SlurmdLogFile={root}/log/slurmd-%n.log
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            JobAcctGatherType=jobacct_gather/none
            AccountingStorageType=accounting_storage/none
            JobCompType=jobcomp/filetxt
            JobCompLoc={root}/log/jobcomp.txt
            SelectType=select/cons_tres
            SelectTypeParameters=CR_Core_Memory
            SchedulerType=sched/backfill
            SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0
            SlurmdParameters=config_overrides
            MpiDefault=none
            ReturnToService=2
            MinJobAge=900
            SlurmctldTimeout=120
            SlurmdTimeout=30
            MessageTimeout=60
            InactiveLimit=0
            KillWait=5
            Waittime=0
            DefMemPerCPU=100
        """.split()
        lines += [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus}"
            f" RealMemory={self.memory} State=UNKNOWN"
            for name, port in zip(self.names, ports, strict=True)
        ]
        lines.append(
            f"PartitionName=main Nodes={','.join(self.names)} Default=YES MaxTime=INFINITE State=UP"
        )
        return "\n".join(lines) + "\n"

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        (self.root / "spool" / name).mkdir(exist_ok=True)
        (self.root / "run" / f"slurmd-{name}.pid").unlink(missing_ok=True)
        self.run("slurmd", "-N", name, "-f", self.conf)

    # ---------------------------------------------------------------- look

    def states(self) -> dict[str, str]:
        """State of every node: name -> idle, mixed, allocated, down ..."""
        try:
            said = self.run("sinfo", "-h", "-N", "-o", "%N %T")
        except RuntimeError:  # slurmctld does not answer yet
            return {}
        return dict(line.split() for line in said.splitlines())

    def queue(self) -> list[dict[str, str]]:
        """Jobs that wait, run or end: JobId, JobState, NodeList, Comment of each."""
        said = self.run("squeue", "-h", "-o", "%i|%T|%N|%k")
        names = ("JobId", "JobState", "NodeList", "Comment")
        return [dict(zip(names, line.split("|"), strict=True)) for line in said.splitlines()]

    def finished(self) -> list[dict[str, str]]:
        """Jobs that are over, as slurmctld wrote them: JobId, JobState, NodeList, Tres ..."""
        written = self.root / "log" / "jobcomp.txt"
        if not written.exists():
            return []
        lines = written.read_text().splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]

    def logs(self) -> str:
        """Ends of the daemons' logs."""
        texts = []
        for log in sorted((self.root / "log").glob("*.log")):
            tail = log.read_text(errors="replace").splitlines()[-20:]
            texts.append("\n".join([f"--- {log.name}", *tail]))
        return "\n".join(texts)

    # ---------------------------------------------------------------- lose, stop

    def lose_node(self, name: str) -> list[int]:
        """Kill a node as a power cut would: its slurmd, its job steps and their processes.

        Returns the pids. Slurm sees the loss after SlurmdTimeout.
        """
        mine = str(self.root).encode()
        jobs = [job["JobId"] for job in self.queue() if job["NodeList"] == name]
        pids = {self._pid(self.root / "run" / f"slurmd-{name}.pid")} - {0}
        # A job's processes know their job; the step daemons show it in their command line.
        for job in jobs:
            pids.update(processes(mine, f"SLURM_JOB_ID={job}\0".encode()))
            pids.update(processes(mine, f"slurmstepd: [{job}.".encode()))
        lost = sorted(pids)
        kill(lost, signal.SIGSTOP)  # all at once: no parent reports the death of its child
        kill(lost, signal.SIGKILL)
        return lost

    @staticmethod
    def _pid(pidfile: Path) -> int:
        """Pid of a daemon; 0 if it is gone or the number has come to another process."""
        try:
            pid = int(pidfile.read_text())
            command = Path(f"/proc/{pid}/comm").read_text().strip()
        except (OSError, ValueError):
            return 0
        return pid if pidfile.stem.startswith(command[:6]) else 0

    def left(self) -> dict[int, str]:
        """Processes of this cluster: daemons, job steps, jobs, and users' commands."""
        return processes(str(self.root).encode())

    def cancel_all(self) -> None:
        """Cancel all jobs, wait until they are over."""
        self.run("scancel", "--user", getpass.getuser())
        until(lambda: not self.queue(), 60, "jobs cancelled")

    def stop(self) -> None:
        """End all jobs and daemons, by pid, and remove the folder."""
        if self._pid(self.root / "run" / "slurmctld.pid"):
            # What does not end by itself is killed below.
            with contextlib.suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
                self.cancel_all()
        daemons = [pid for file in self.root.glob("run/*.pid") if (pid := self._pid(file))]
        kill(daemons, signal.SIGTERM)
        try:
            until(lambda: not self.left(), 10, "daemons ended")
        except TimeoutError:
            # Without cgroups Slurm can lose sight of a job's child.
            self.kill_all()
        shutil.rmtree(self.root, ignore_errors=True)
        if self.guard.stdin:
            self.guard.stdin.close()
        self.guard.wait(60)

    def kill_all(self) -> None:
        """Kill every process of this cluster."""

        def killed() -> bool:
            found = list(self.left())
            kill(found, signal.SIGKILL)
            return not found

        until(killed, 30, "processes killed")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the cluster."""
        self.stop()


def free_ports(number: int) -> list[int]:
    """TCP ports that are free now, below those that the kernel gives to outgoing connections."""
    ports: list[int] = []
    while len(ports) < number:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as each:
            try:
                each.bind(("", port))
            except OSError:  # taken
                continue
        if port not in ports:
            ports.append(port)
    return ports


def watch() -> None:
    """Wait for the end of the process at the other end of the pipe, then clear its cluster away."""
    root = sys.stdin.readline().strip()
    sys.stdin.read()
    if root and Path(root).exists():
        cluster = Cluster.__new__(Cluster)
        cluster.root = Path(root)
        cluster.kill_all()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    watch()
