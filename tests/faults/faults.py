"""The faults that a round injects into a running workflow."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

# In which a call that is told to end has ended.
SECONDS = 10


class Hung(Exception):
    """A call did not end by itself."""


class Call:
    """A running call of Snakemake: its processes, and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, output: Path) -> None:
        self.process, self.folder, self.output = process, folder, output

    def descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def fork_servers(self) -> list[psutil.Process]:
        """Return the fork server itself, without the jobs that it has forked."""
        servers = [one for one in self.descendants() if "fork-server" in _command(one)]
        return [one for one in servers if one.ppid() == self.process.pid]

    def end_by(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the group; Hung if the call and its jobs do not end in time.

        Snakemake gets it twice, as from `timeout`, which signals its command and then the group.
        """
        processes = self.descendants()
        self.process.send_signal(number)
        with suppress(ProcessLookupError):  # it has ended before
            os.killpg(self.process.pid, number)
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise Hung(f"{number.name}: Snakemake was running after {SECONDS} s") from None
        if left := psutil.wait_procs(processes, timeout=SECONDS)[1]:
            raise Hung(f"{number.name}: left running: {left}")

    def kill_all(self) -> None:
        kill([*self.descendants(), psutil.Process(self.process.pid)])
        self.process.wait()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


# A fault is injected at a random moment. Its block ends after the call of Snakemake: then it is undone, or does to the
# files what cannot be done to a machine.
Fault = Callable[[Call, random.Random], "Iterator[None]"]


@contextmanager
def whole_tree(call: Call, rng: random.Random) -> Iterator[None]:
    """SIGKILL of Snakemake, the fork server and all jobs, as by a machine without memory or power."""
    call.kill_all()
    yield


@contextmanager
def snakemake_alone(call: Call, rng: random.Random) -> Iterator[None]:
    """SIGKILL of Snakemake alone: its jobs have no parent any more while the next call begins."""
    call.process.kill()
    yield


@contextmanager
def one_job(call: Call, rng: random.Random) -> Iterator[None]:
    """SIGKILL of one process of the jobs: a shell, a command, or the process that was forked for it."""
    spared = {server.pid for server in call.fork_servers()}
    jobs = [process for process in call.descendants() if process.pid not in spared]
    if jobs:
        kill([rng.choice(jobs)])
    yield


@contextmanager
def fork_server(call: Call, rng: random.Random) -> Iterator[None]:
    """SIGKILL of the process that jobs are forked from."""
    kill(call.fork_servers())
    yield


@contextmanager
def terminated(call: Call, rng: random.Random) -> Iterator[None]:
    """SIGTERM to Snakemake and its jobs, as from `timeout` or a machine that shuts down."""
    call.end_by(signal.SIGTERM)
    yield


@contextmanager
def interrupted(call: Call, rng: random.Random) -> Iterator[None]:
    """SIGINT to Snakemake and its jobs, as from the keyboard."""
    call.end_by(signal.SIGINT)
    yield


@contextmanager
def full_disk(call: Call, rng: random.Random) -> Iterator[None]:
    """A file system with a few bytes left; the round's folder is a small tmpfs."""
    filler = call.folder / "filler"
    left = rng.choice([0, 4096, 65536, 1 << 20])
    # Bit by bit, because the jobs take room at the same time.
    with filler.open("wb", buffering=0) as file:
        with suppress(OSError):
            while file.write(bytes(65536)):
                pass
        file.truncate(max(0, file.tell() - left))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(call: Call, rng: random.Random) -> Iterator[None]:
    """Folders of results that cannot be written to any more."""
    results = call.folder / "results"
    folders = [one for one in results.rglob("*") if one.is_dir() and one.relative_to(results).parts[0] != "logs"]
    set_read_only(folders, True)
    try:
        yield
    finally:
        set_read_only(folders, False)


@contextmanager
def second_call(call: Call, rng: random.Random) -> Iterator[None]:
    """A second Snakemake in the same folder: refused, unless the first one has just ended."""
    from rounds import start

    second = start(call.folder, call.output.with_name("second.txt"))
    second.process.wait(timeout=120)
    if call.process.poll() is None:
        text = second.output.read_text()
        assert second.process.returncode != 0, text
        assert "Another Snakemake is running in this folder" in text, text
    yield


@contextmanager
def clock(call: Call, rng: random.Random) -> Iterator[None]:
    """A kill, and a clock that has jumped by hours before the next call."""
    call.kill_all()
    hours = rng.choice([-30, -2, -1, 1, 2, 30])
    yield
    for path in [*(call.folder / "results").rglob("*"), *(call.folder / ".snakemake").rglob("*")]:
        if path.is_file():
            os.utime(path, ns=(path.stat().st_mtime_ns + hours * 3600 * 10**9,) * 2)


def set_read_only(folders: list[Path], read_only: bool) -> None:
    """Take away or give back the right to write into folders; root needs the attribute `immutable` for it."""
    if os.geteuid() == 0:
        sign = "+i" if read_only else "-i"
        subprocess.run(
            ["chattr", sign, *[str(path) for path in folders if path.exists()]], check=True, capture_output=True
        )
        return
    for folder in folders:
        folder.chmod(0o555 if read_only else 0o755)


def possible_faults(folder: Path) -> dict[str, Fault]:
    """Return the faults that this machine and user can inject; `folder` is for trials."""
    kinds: list[Fault] = [whole_tree, snakemake_alone, one_job, fork_server, terminated, interrupted]
    kinds += [full_disk, read_only, second_call, clock]
    faults = {fault.__name__: fault for fault in kinds}
    trial = folder / "trial"
    trial.mkdir()
    try:
        set_read_only([trial], True)
        set_read_only([trial], False)
    except (OSError, subprocess.CalledProcessError):
        del faults["read_only"]
    if not mount(trial, 1 << 20):
        del faults["full_disk"]
    unmount(trial)
    trial.rmdir()
    return faults


def mount(folder: Path, size: int) -> bool:
    """Mount a tmpfs with `size` bytes; return whether this user may."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def unmount(folder: Path) -> None:
    """Unmount `folder` if it is a mount point; processes that end may hold it for a moment."""
    while folder.is_mount() and subprocess.run(["umount", str(folder)], capture_output=True).returncode:
        time.sleep(0.2)
