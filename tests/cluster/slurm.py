"""A Slurm cluster of one node on this machine, with the daemons of the distribution's packages."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# Where Slurm looks by itself: its Snakemake plugin passes no variable of Slurm's to jobs, so not SLURM_CONF either.
CONF_FILE = Path("/etc/slurm/slurm.conf")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
# Memory is not allocated, and more of it declared than there is: the profile asks for that of real backbones.
CONF = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=2
MinJobAge=3600
ReturnToService=2
NodeName={host} CPUs={processors} RealMemory=256000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class NoCluster(Exception):
    """There is no cluster, and none can be started here."""


class Node:
    """The daemons of a cluster of one node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().split(".")[0]
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        conf = CONF.format(
            folder=self.folder,
            host=self.host,
            processors=os.cpu_count(),
            ctld_port=_free_port(),
            slurmd_port=_free_port(),
        )
        CONF_FILE.parent.mkdir(exist_ok=True)
        CONF_FILE.write_text(conf)
        munge = self.folder / "munge"
        places = {"key-file": key, "socket": munge / "socket", "pid-file": munge / "pid", "log-file": munge / "log",
                  "seed-file": munge / "seed"}  # fmt: skip
        self._run("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in places.items()))
        wait_for((munge / "socket").exists, "munged opens its socket")
        self._run("slurmctld", "-D")
        self.start_node_daemon()

    def start_node_daemon(self) -> None:
        self._run("slurmd", "-D")
        wait_for(lambda: self.state() in ("idle", "mixed", "allocated"), "the node is ready")

    def kill_node_daemon(self) -> None:
        """SIGKILL of the node's daemon, of the jobs on it and of the processes that watch them, as by a power cut."""
        slurmd = self._daemons[-1]
        for process in self.jobs():
            _kill(process)
        slurmd.kill()
        slurmd.wait()
        wait_for(lambda: self.state() == "down*", "Slurm notices that the node is down")

    def jobs(self) -> list[psutil.Process]:
        """Return the processes of the jobs on the node, those of Slurm first."""
        steps = [one for one in psutil.process_iter() if _named(one, "slurmstepd")]
        return [*steps, *(child for step in steps for child in _children(step))]

    def state(self) -> str:
        """Return the state of the node as Slurm sees it; `*` after it says that the node does not answer."""
        command = ["sinfo", "--noheader", "--format", "%T"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def stop(self) -> None:
        for process in [*self.jobs(), *(psutil.Process(one.pid) for one in self._daemons if one.poll() is None)]:
            _kill(process)
        for daemon in self._daemons:
            daemon.wait()
        CONF_FILE.unlink(missing_ok=True)

    def _run(self, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert path is not None, f"{program} is not installed"
        with (self.folder / f"{program}.out").open("ab") as output:
            self._daemons.append(
                subprocess.Popen(
                    [path, *arguments],
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )


@contextmanager
def one_node(folder: Path) -> Iterator[Node]:
    """Start a cluster of one node, with the packages that it needs; root may do so on Debian and its relatives.

    Raises:
        NoCluster: no root, no apt-get, or a configuration of a cluster that does not answer.
    """
    if os.geteuid() != 0:
        raise NoCluster("there is no Slurm cluster, and only root can start one: run this as root or on a cluster")
    if shutil.which("slurmctld", path="/usr/sbin") is None:
        if shutil.which("apt-get") is None:
            raise NoCluster(f"there is no Slurm cluster and no apt-get: install {', '.join(PACKAGES)}")
        # A daemon that the packages start by themselves would have no configuration.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            subprocess.run(["apt-get", "--quiet=2", *arguments], env=environment, check=True)
    if CONF_FILE.exists():
        raise NoCluster(f"the cluster of {CONF_FILE} does not answer: start it, or remove the file")
    node = Node(folder)
    try:
        node.start()
        yield node
    finally:
        node.stop()


def exists() -> bool:
    """Return whether the clients of Slurm on this machine reach a cluster."""
    sinfo = shutil.which("sinfo")
    return sinfo is not None and subprocess.run([sinfo], capture_output=True, timeout=60, check=False).returncode == 0


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def _named(process: psutil.Process, name: str) -> bool:
    try:
        return process.name() == name
    except psutil.Error:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return
