"""`lavish check-method`, and the options that name files with methods and tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lavish.checks.method import BACKBONES, PAIRS
from lavish.cli.main import main
from lavish.config.sources import forget_files
from tests.external import BROKEN_METHOD, METHOD, TASK, write
from tests.stores import run_values


@pytest.fixture(autouse=True)
def no_sources_left():
    yield
    forget_files()


def test_a_method_in_a_file_passes_without_the_repository(tmp_path: Path) -> None:
    write(tmp_path / "mean.py", METHOD)
    command = [sys.executable, "-m", "lavish", "check-method", "mean.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert {backbone for backbone, _, _ in lines} == {*BACKBONES, *PAIRS}
    assert ["swinv2", "gradients", "passed"] in lines
    assert all(result == "passed" for _, _, result in lines)


def test_a_broken_method_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", str(write(tmp_path / "mean.py", BROKEN_METHOD))]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = {line.split()[1]: line for line in lines if line.startswith("vit ") and "FAILED" in line}
    assert failed.keys() == {"gradients", "direction"}
    assert "no gradient: adapters.0_attention_audio.gate" in failed["gradients"]
    assert "direction a2v: the audio stream depends on the other one" in failed["direction"]


def test_a_method_that_cannot_be_built_has_one_line_a_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = METHOD.replace("super().__init__()", "raise RuntimeError('no parameters')")
    assert main(["check-method", str(write(tmp_path / "mean.py", text))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(BACKBONES) + len(PAIRS)
    assert all(line.endswith("FAILED: RuntimeError: no parameters") for line in lines)


def test_a_method_may_refuse_a_pair_of_backbones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refusing = METHOD.replace("        self.reads_other", "        check(site)\n        self.reads_other") + (
        "\n\ndef check(site):\n    from lavish.errors import LavishError\n\n"
        "    if site.width != site.other_width:\n        raise LavishError('widths differ')\n"
    )
    assert main(["check-method", str(write(tmp_path / "mean.py", refusing))]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["swinv2+htsat", "construction", "refused: widths differ"] in lines
    assert all(result == "passed" for backbone, _, result in lines if backbone != "swinv2+htsat")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lavsh"], "unknown method 'lavsh' (did you mean 'lavish'?)"),
        (["absent.py"], "there is no file absent.py"),
        (["lavish", "--options", '{"latent": 1}'], "no option 'latent' (did you mean 'latents'?)"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_methods_lists_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    assert main(["methods", "mean", "--method-path", str(write(tmp_path / "mean.py", METHOD))]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("mean ") and "width 4" in line


def test_cost_of_a_method_and_a_task_from_files(tmp_path: Path) -> None:
    values = run_values(task={"name": "labels"}, adapter={"method": "mean"})
    files = ["--method-path", str(write(tmp_path / "mean.py", METHOD))]
    files += ["--task-path", str(write(tmp_path / "labels.py", TASK))]
    out = tmp_path / "cost.json"
    assert main(["cost", "--config", json.dumps(values), "--out", str(out), *files]) == 0
    # 2 blocks, 2 sublayers, 2 streams
    assert json.loads(out.read_text())["adapter_params"] == 8 * (2 * 16 * 4 + 4 + 16 + 1)
