"""A small workflow whose jobs are run by a stub, to test which jobs Snakemake runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]

# Replaces the command `lavish`: makes the output files of each job, with no content.
STUB = """\
#!/usr/bin/env bash
set -eu
command=$1
while [ $# -gt 0 ]; do
  case $1 in --out) out=$2 ;; --run) run=$2 ;; --socket) socket=$2 ;; --split) split=$2 ;;
    --device) device=$2 ;; esac
  shift
done
[ "$command" = fork-server ] || echo "$command ${LAVISH_FORK_SERVER:-none}" >> jobs.txt
leave() { for file in "$@"; do mkdir -p "$(dirname "$file")"; echo "$command" > "$file"; done; }
case $command in
  compose) mkdir -p "$out" ;;
  prepare) leave "$out/store.json" ;;
  pretrain | weights) leave "$out" "${out%.safetensors}.json" ;;
  train)
    if [ "${HANG:-}" ]; then leave "$out/resume.safetensors" "$out/best.safetensors"; sleep 60; fi
    leave "$out/best.safetensors" "$out/history.csv"
    echo "{\\"device\\": \\"$device\\"}" > "$out/record.json"
    ;;
  trial) leave "$out/record.json" ;;
  examples) leave "$run/$split/examples.npz" ;;
  evaluate) leave "${out:-$run/$split}/metrics.json" "${out:-$run/$split}/predictions.parquet" ;;
  table) leave "$out.md" "$out.csv" "$out.tex" ;;
  site) leave "$out/index.html" ;;
  fork-server) echo "$socket" >> server.txt; echo ready; cat > /dev/null; echo ended >> server.txt ;;
  *) leave "$out" ;;
esac
if [ "${HANG_AFTER:-}" = "$command" ]; then sleep 60; fi
"""

TABLE = {
    "title": "Small table",
    "task": "event_localization",
    "baseline": "lavish",
    "columns": ["metric"],
    "sections": [
        {
            "title": "All",
            "rows": [
                {"variant": "lavish", "set": {}},
                {"variant": "avish", "set": {"adapter": {"options": {"latents": 0}}}},
                {"variant": "encoder", "set": {"audio_encoder": {"use": "join"}}},
                {"variant": "published", "set": {"select_on": "test"}},
            ],
        },
    ],
    "figures": {"small_figure": {"kind": "metric_against_cost", "title": "Small figure", "section": "All"}},
}


def snakemake(*arguments: str, python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call Snakemake and wait for it."""
    process = start_snakemake(*arguments, python=python, **environment)
    output, _ = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def start_snakemake(*arguments: str, python: str = sys.executable, **environment: str) -> subprocess.Popen[str]:
    """Call Snakemake from the root of the repository, where it finds the Snakefile and the default profile."""
    return subprocess.Popen(
        [python, "-m", "snakemake", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


class Workflow:
    """A working directory with its own configuration, and calls of Snakemake in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def with_default_configuration(cls, folder: Path) -> Workflow:
        shutil.copytree(ROOT / "config", folder / "config")
        return cls(folder)

    @classmethod
    def with_small_table(cls, folder: Path) -> Workflow:
        workflow = cls.with_default_configuration(folder)
        workflow.write("config/tables/small.yaml", TABLE)
        workflow.change("config/config.yaml", tables=["small"], seeds=[0, 1])
        return workflow

    def copy(self, folder: Path) -> Workflow:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, symlinks=True)
        return Workflow(folder)

    def read(self, file: str) -> dict:
        return yaml.safe_load((self.folder / file).read_text())

    def write(self, file: str, values: dict) -> None:
        (self.folder / file).write_text(yaml.safe_dump(values, sort_keys=False))

    def change(self, file: str, **values: object) -> None:
        self.write(file, {**self.read(file), **values})

    def set_row(self, variant: str, /, **values: object) -> None:
        """Change keys of one row of the small table."""
        table = self.read("config/tables/small.yaml")
        next(row for row in table["sections"][0]["rows"] if row["variant"] == variant).update(values)
        self.write("config/tables/small.yaml", table)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call Snakemake in the folder and wait for it."""
        return snakemake(*self._in_folder(), *arguments, python=self._environment_with_stub())

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Call Snakemake in the folder."""
        return start_snakemake(*self._in_folder(), *arguments, python=self._environment_with_stub(), **environment)

    def workers(self, *arguments: str, processors: int = 16) -> dict[str, int]:
        """Return the worker processes that jobs would have on a machine, by command and split."""
        code = f"from snakemake import cli, utils; utils.available_cpu_count = lambda: {processors}; cli.main()"
        command = [sys.executable, "-c", code, "--directory", str(self.folder), "--dry-run", "--printshellcmds"]
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        jobs = re.findall(r"lavish (compose|prepare) .*? --(?:split (\w+)|out) .*--jobs (\d+)", done.stdout)
        return {f"{name} {split}".strip(): int(number) for name, split, number in jobs}

    def _in_folder(self) -> list[str]:
        return ["--directory", str(self.folder), "--cores", "512"]

    def runs(self, variant: str, task: str = "event_localization", *files: str) -> set[str]:
        """Return the names of a variant's runs, as another process plans them from config.yaml and further files."""
        code = (
            "import sys; from pathlib import Path; from lavish.planning.experiments import load; "
            "labels = load([Path(file) for file in sys.argv[1:]]).labels; "
            "print(*(f'{one.variant}:{one.task}:{one.run}' for one in labels))"
        )
        command = [sys.executable, "-c", code, "config/config.yaml", *files]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        planned = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=True)
        return {one.split(":")[2] for one in planned.stdout.split() if one.startswith(f"{variant}:{task}:")}

    def _environment_with_stub(self) -> str:
        """Return the interpreter of an environment like this one, but with the stub as its command `lavish`.

        Jobs call the command of the interpreter that plans them, whatever is on the path.
        """
        python = self.folder / "environment/bin/python"
        if not python.exists():
            python.parent.mkdir(parents=True)
            python.symlink_to(Path(sys.executable).resolve())
            shutil.copy(Path(sys.prefix, "pyvenv.cfg"), python.parents[1])
            (python.parents[1] / "lib").symlink_to(Path(sys.prefix, "lib"))
            stub = python.with_name("lavish")
            stub.write_text(STUB)
            stub.chmod(0o755)
        return str(python)

    def planned(self, *arguments: str) -> Counter[str]:
        """Count the jobs of each rule that a call would run, except for `all`."""
        result = self.call(*arguments, "--dry-run", "--quiet", "rules", "reason", "host")
        assert result.returncode == 0, result.stdout
        lines = result.stdout.splitlines()
        if any("Nothing to be done" in line for line in lines):
            return Counter()
        start = next(number for number, line in enumerate(lines) if line.startswith("-----"))
        jobs: Counter[str] = Counter()
        for line in lines[start + 1 :]:
            rule, count = line.split()
            if rule == "total":
                break
            jobs[rule] = int(count)
        del jobs["all"]
        return jobs
