"""Two calls that write the same output at the same time."""

from __future__ import annotations

import argparse
import fcntl
import time
from pathlib import Path
from threading import Thread

import pytest

from lavish.cli.arguments import alone


@pytest.mark.parametrize(("done", "by_other", "expected"), [
    ("store.json", True, "theirs"),
    ("store.json", False, "ours"),  # it was killed
    (None, True, "ours"),
])  # fmt: skip
def test_a_call_waits_for_the_other_and_repeats_no_finished_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], done: str | None, by_other: bool, expected: str
) -> None:
    out = tmp_path / "data/train"
    out.mkdir(parents=True)
    result = out / "store.json"
    command = alone(lambda options: options.out.joinpath("store.json").write_text("ours"), done)
    with out.with_name(".train.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        call = Thread(target=command, args=(argparse.Namespace(out=out),))
        call.start()
        time.sleep(0.1)
        assert not result.exists()
        if by_other:
            result.write_text("theirs")
    call.join()
    assert result.read_text() == expected
    assert capsys.readouterr().err == f"another process is writing {out}: waiting for it to end\n"
    assert not list(out.parent.glob(".*"))


def test_a_call_repeats_the_work_if_no_other_call_is_there(tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    out.write_text("older")
    alone(lambda options: options.out.write_text("newer"), ".")(argparse.Namespace(out=out))
    assert out.read_text() == "newer"
