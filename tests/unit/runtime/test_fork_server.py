"""Commands on the fork server: same results, a process each, and none outlives its client."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.runtime import fork_client, fork_server
from lavish.training.jobs import provide_weights
from tests.stores import run_values, write_store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server needs Linux")

COMMAND = """#!{python}
if __name__ == "__main__":
    import sys
    from lavish.__main__ import main
    sys.exit(main())
"""

# Ends with status 77 where the command would be run in the process itself.
HAND_OVER = "import sys; from lavish.runtime.cpu_dispatch import limit; limit(); "
HAND_OVER += "from lavish.runtime.fork_client import hand_over; status = hand_over(sys.argv); "
HAND_OVER += "sys.exit(77 if status is None else status)"

CONFIG = json.dumps(run_values())


class Server:
    """A fork server, with the environment of its clients."""

    def __init__(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(fork_client.VARIABLE, "")
            process = fork_client.start()
            self.environ = dict(os.environ)
        assert process is not None
        self.process, self.pid, self.path = process, process.pid, Path(self.environ[fork_client.VARIABLE])
        assert self.path.is_socket()

    def call(self, *arguments: object, folder: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
        """Call a command that may only run on the fork server."""
        return subprocess.run(
            [sys.executable, "-c", HAND_OVER, *map(str, arguments)],
            cwd=folder,
            env={**self.environ, **changes},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def alone(self, *arguments: object) -> None:
        """Call a command that runs in its own process."""
        environ = {**self.environ, fork_client.VARIABLE: ""}
        # Through a shell, because a process's peak memory is at least that of its parent when it was forked.
        command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-m", "lavish", *map(str, arguments)]
        subprocess.run(command, env=environ, check=True)

    def forks(self) -> int:
        """Return the page faults of the children that have ended."""
        return int(Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[8])

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The command `lavish` on the path, and one thread per library, as for jobs."""
    command = tmp_path_factory.mktemp("bin") / "lavish"
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
        for which in fork_client.THREADS:
            patch.setenv(f"{which}_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def server(environment: None) -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def test_a_forked_command_writes_and_prints_the_same(server, tmp_path):
    done = server.call("cost", "--config", CONFIG, "--out", "one.json", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    server.alone("cost", "--config", CONFIG, "--out", tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["cost", "--config", "{}", "--out", "cost.json"], 1, "lavish cost: --config:\n  missing key 'task'"),
        (
            ["cost", "--config", CONFIG, "--out", "/dev/null/cost.json"],
            1,
            "lavish cost: /dev/null: file exists: remove it",
        ),
        (["cost", "--config", CONFIG, "--out", "/proc/absent/cost.json"], 1, "unexpected FileNotFoundError: "),
        (["cost", "--config", CONFIG], 2, "lavish cost: error: the following arguments are required: --out"),
    ],
    ids=["message", "storage", "traceback", "usage"],
)
def test_errors_reach_the_client(server, arguments, status, said):
    done = server.call(*arguments)
    assert done.returncode == status
    assert said in done.stderr


def test_the_lavish_command_uses_the_fork_server(server, tmp_path):
    before = server.forks()
    step = ["lavish", "cost", "--config", CONFIG, "--out", str(tmp_path / "cost.json")]
    subprocess.run(step, env=server.environ, check=True)
    assert server.forks() > before


def test_the_environment_is_that_of_the_client(server):
    """Uses the protocol directly, because the client refuses an environment that differs."""
    request = {"argv": ["lavish", "cost", "--help"], "cwd": "/", "environ": {**server.environ, "COLUMNS": "44"}}
    reading, writing = os.pipe()
    with socket.socket(socket.AF_UNIX) as connection, Path(os.devnull).open() as nothing:
        connection.connect(str(server.path))
        answers = connection.makefile("rb")
        assert json.loads(answers.readline())["$PATH"] == server.environ["PATH"]
        socket.send_fds(connection, [b"\n"], [nothing.fileno(), writing, writing])
        connection.sendall(json.dumps(request).encode() + b"\n")
        assert answers.readline() == b"0\n"
    os.close(writing)
    with os.fdopen(reading) as output:
        lines = output.read().splitlines()
    assert lines[0].startswith("usage: lavish cost")
    assert 30 < max(map(len, lines)) <= 44


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "absent"],
        ["train", "--config", '{"training":{"cpu_dispatch":"native"}}'],
        ["fork-server", "--socket", "x"],
        [],
    ],
)
def test_other_commands_run_in_their_own_process(server, arguments):
    assert server.call(*arguments).returncode == 77


def test_a_command_on_a_gpu_is_forked(server, tmp_path):
    files = ["--data", "absent", "--weights", "absent", "--out", tmp_path / "run"]
    done = server.call("train", "--config", CONFIG, "--seed", "0", "--device", "cuda", *files, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 77  # another environment
    done = server.call("train", "--config", CONFIG, "--seed", "0", "--device", "cuda", *files)
    assert done.returncode == 1
    assert ("absent" if torch.cuda.is_available() else "torch finds no GPU here") in done.stderr


UNTOUCHED = """
import os, sys
from lavish.cli.jobs import PRELOAD
from lavish.runtime.fast_start import without_compiler
from lavish.runtime.fork_server import _import
without_compiler()
_import(PRELOAD)
import torch

def bad_in_a_child():
    pid = os.fork()
    if pid == 0:
        os._exit(torch.cuda._is_in_bad_fork())
    return bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

print(torch.cuda.is_initialized(), bad_in_a_child())
torch.cuda.is_available()
print(bad_in_a_child())
"""


def test_what_the_server_imports_does_not_touch_cuda(environment):
    """A process that has only asked for GPUs can already not be forked for a job on one."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTORCH_NVML_BASED_CUDA_CHECK"}
    said = subprocess.check_output([sys.executable, "-c", UNTOUCHED], text=True, env=environ).split()
    assert said == ["False", "False", str(torch.backends.cuda.is_built())]


@pytest.mark.parametrize("path", ["absent", "file", ""])
def test_without_a_fork_server_a_command_runs_in_its_own_process(server, tmp_path, path):
    (tmp_path / "file").write_text("")
    changes = {fork_client.VARIABLE: str(tmp_path / path) if path else ""}
    done = server.call("cost", "--config", "{}", "--out", "cost.json", **changes)
    assert (done.returncode, done.stderr) == (77, "")


def test_a_different_environment_is_reported_and_not_forked(server):
    done = server.call(
        "cost", "--config", "{}", "--out", "cost.json", OMP_NUM_THREADS="4", MORE="1", TMPDIR="/tmp/other"
    )
    assert done.returncode == 77
    assert done.stderr == "lavish cost: not run by the fork server, which differs in $MORE, $OMP_NUM_THREADS\n"


def test_the_shell_of_a_job_makes_no_difference(monkeypatch):
    """After `source .venv/bin/activate` the prompt is exported, and a shell that runs a job removes it."""
    for name in ("PS1", "PS2"):
        monkeypatch.setenv(name, "(.venv) $ ")
    script = "import json; from lavish.runtime.fork_client import identity; print(json.dumps(identity()))"
    command = ["bash", "-c", f"set -euo pipefail; ( {sys.executable} -c '{script}' )"]
    environment = dict(os.environ)  # not what readline, which pytest imports, has added to it behind Python's back
    assert json.loads(subprocess.check_output(command, text=True, env=environment)) == fork_client.identity()


def test_an_edited_package_changes_the_identity(monkeypatch, tmp_path):
    (tmp_path / "runtime").mkdir()
    for name in ("runtime/fork_client.py", "other.py"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(fork_client, "__file__", str(tmp_path / "runtime/fork_client.py"))
    before = fork_client.identity()
    os.utime(tmp_path / "other.py", (2e9, 2e9))
    assert {key for key, value in fork_client.identity().items() if before[key] != value} == {"package"}


# --- life and death ---


class Waiting:
    """A training that waits for another one, which holds the lock of its folder."""

    def __init__(self, server: Server, out: Path, command: Sequence[str] = ("-c", HAND_OVER)) -> None:
        self.lock = out.with_name(f".{out.name}.lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        others = children(server.pid)
        files = ["--data", "absent", "--weights", "absent", "--out", str(out)]
        self.client = subprocess.Popen(
            [sys.executable, *command, "train", "--config", CONFIG, "--seed", "0", *files],
            env=server.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell without job control has its background commands ignore it, and their children inherit that.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        assert "another process is writing" in self.said()
        [self.pid] = children(server.pid) - others

    def said(self) -> str:
        """Return the next line on stderr."""
        assert self.client.stderr is not None
        return self.client.stderr.readline()

    def end(self) -> tuple[int, str]:
        """Wait for the client; return its status and what it has said since."""
        _, said = self.client.communicate(timeout=60)
        wait_for(lambda: not Path(f"/proc/{self.pid}").exists())
        self.lock.close()
        return self.client.returncode, said


def children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_client_ends_its_command(server, tmp_path, number):
    waiting = Waiting(server, tmp_path / "run")
    waiting.client.send_signal(number)
    assert waiting.end()[0] == -number
    assert server.call("cost", "--config", "{}", "--out", "cost.json").returncode == 1  # the server goes on


def test_an_interrupted_client_ends_its_command(server, tmp_path):
    waiting = Waiting(server, tmp_path / "run")
    waiting.client.send_signal(signal.SIGINT)
    assert waiting.end() == (130, "lavish train: interrupted; call it again to resume\n")


def test_a_killed_command_is_reported_and_not_repeated(server, tmp_path):
    waiting = Waiting(server, tmp_path / "run")
    os.kill(waiting.pid, signal.SIGKILL)
    assert waiting.end() == (137, "lavish train: killed by SIGKILL (out of memory?)\n")


def test_commands_share_neither_files_nor_session_and_the_server_has_one_thread(server, tmp_path):
    waiting = [Waiting(server, tmp_path / name) for name in ("one", "two")]
    for step in waiting:
        files = [str(file.readlink()) for file in Path(f"/proc/{step.pid}/fd").iterdir()]
        # Standard files and lock, the connection, and a pipe that tells the end of the fork_client.
        assert sum(name.startswith("socket:") for name in files) == 1
        assert len(files) == 5
        assert os.getsid(step.pid) == step.pid
    assert f"{tmp_path}" not in " ".join(str(file.readlink()) for file in Path(f"/proc/{server.pid}/fd").iterdir())
    assert "\nThreads:\t1\n" in Path(f"/proc/{server.pid}/status").read_text()
    for step in waiting:
        step.client.kill()
        step.end()


def test_a_command_is_repeated_after_the_server_was_killed(environment, tmp_path):
    """Once, by the client: here that process fails, because there is no data."""
    server = Server()
    waiting = Waiting(server, tmp_path / "run", command=["-m", "lavish"])
    server.process.kill()
    assert waiting.said() == "lavish train: failed because the fork server ended; running it again without it\n"
    wait_for(lambda: not Path(f"/proc/{waiting.pid}").exists())
    assert "another process is writing" in waiting.said()
    waiting.lock.close()
    status, said = waiting.end()
    assert status == 1 and "absent" in said and "Traceback" not in said
    assert server.call("cost", "--config", "{}", "--out", "cost.json").returncode == 77
    server.stop()
    server.path.unlink()
    server.path.parent.rmdir()


def test_the_server_ends_with_the_process_that_started_it(environment):
    code = "import os; from lavish.runtime import fork_client; process = fork_client.start(); "
    code += "print(process.pid, os.environ[fork_client.VARIABLE], flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid, path = process.stdout.readline().split()
    assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    process.kill()
    process.communicate()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() and not Path(path).parent.exists())


def test_a_socket_needs_a_new_folder_and_a_short_path(tmp_path):
    with pytest.raises(
        LavishError, match=r"--socket .*/socket: File exists; name a file in a folder that does not exist"
    ):
        fork_server.serve(tmp_path / "socket", lambda: 0, [])
    with pytest.raises(LavishError, match="AF_UNIX path too long"):
        fork_server.serve(tmp_path / ("x" * 100) / "socket", lambda: 0, [])
    assert not list(tmp_path.iterdir())


# --- numbers ---


def test_a_forked_training_gives_the_same_numbers(server, tmp_path):
    for seed, split in enumerate(("train", "val")):
        write_store(tmp_path / "data" / split, seed=seed)
    weights = tmp_path / "vit.safetensors"
    provide_weights(parse(RunConfig, run_values(), "test").backbone, weights)
    step = ["train", "--config", CONFIG, "--seed", "1", "--data", tmp_path / "data", "--weights", weights, "--out"]
    threads = threading.Thread(target=server.call, args=(*step, tmp_path / "first"))
    threads.start()  # beside another one, as in a workflow
    done = server.call(*step, tmp_path / "forked")
    threads.join()
    assert done.returncode == 0, done.stderr
    server.alone(*step, tmp_path / "alone")
    for name in ("best.safetensors", "history.csv"):
        contents = {(tmp_path / run / name).read_bytes() for run in ("first", "forked", "alone")}
        assert len(contents) == 1
    memory = [
        json.loads((tmp_path / run / "record.json").read_text())["peak_memory_bytes"] for run in ("forked", "alone")
    ]
    # Its own: without the pages of libraries that only the server has touched, some 200 MB.
    assert 0.5 < memory[0] / memory[1] < 1.1
