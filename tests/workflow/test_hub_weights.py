"""Weights from the model hub: the first call pins them, later calls and jobs on other machines ask nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Workflow

from tests.hub import Hub, serve

MODEL = "vit_tiny_patch16_224.augreg_in21k"
TABLE = "results/table_small.md"


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    workflow = Workflow.with_small_table(tmp_path)
    workflow.change("config/config.yaml", seeds=[0])
    table = workflow.read("config/tables/small.yaml")
    table["sections"][0]["rows"] = [{"variant": "lavish", "set": {}}]
    workflow.write("config/tables/small.yaml", table)
    config = workflow.read("config/config.yaml")
    config["defaults"]["backbone"] = {"model": MODEL, "weights": {"source": "hub"}}
    config["defaults"]["data"]["frame_size"] = 224
    workflow.write("config/config.yaml", config)
    return workflow


def make(workflow: Workflow, hub: Hub, *arguments: str, reachable: bool = True) -> tuple[int, str]:
    call = workflow.start(TABLE, *arguments, **hub.environment(workflow.folder, reachable=reachable))
    output, _ = call.communicate(timeout=120)
    return call.returncode, output


def test_the_first_call_pins_and_later_calls_ask_nothing_and_do_nothing(workflow: Workflow) -> None:
    lock = workflow.folder / "config/weights.lock.yaml"
    with serve(Hub(b"older")) as hub:
        status, output = make(workflow, hub, "--dry-run")
        assert status == 0, output
        assert not hub.requests and not lock.exists()
        status, output = make(workflow, hub)
        assert status == 0, output
        assert len(hub.requests) == 1
        assert hub.revision in lock.read_text()
        before = workflow.runs("lavish")
        hub.commit(b"newer")
        status, output = make(workflow, hub, "--config", "frozen_weights=true")
        assert status == 0 and "Nothing to be done" in output, output
        assert len(hub.requests) == 1
    # Another content is another run.
    lock.write_text(lock.read_text().replace("sha256: ", "sha256: 0")[:-2] + "\n")
    assert workflow.runs("lavish") != before
    assert workflow.planned(TABLE)["train"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the model hub is out of reach"),
        (("--config", "frozen_weights=true"), "is not in config/weights.lock.yaml, and weights are frozen"),
    ],
)
def test_what_cannot_be_pinned_is_one_message(workflow: Workflow, arguments: tuple[str, ...], message: str) -> None:
    status, output = make(workflow, Hub(b""), *arguments, reachable=False)
    assert status == 1
    assert "table 'small' cannot be made: " in output and message in output
    assert "Traceback" not in output
    assert not (workflow.folder / "results/runs").exists()
