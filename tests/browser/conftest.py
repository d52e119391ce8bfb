"""A results page of made-up runs, and a headless Chromium that opens it from the disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavish.provenance import RECIPE_VERSION
from lavish.reporting.site.page import write_site
from tests.unit.conftest import MEASURES, RunMaker, draw_scores  # noqa: F401  (a fixture)

SEEDS = [0, 1, 2]
AVE, S4 = "event_localization", "segmentation_s4"
ROWS = {
    "lavish": ("LAVISH", "reads the other stream"),
    "cola": ("CoLA", "reads the other stream"),
    "lora": ("LoRA", "each stream alone"),
    "frozen": ("Frozen <b>backbone</b>", "frozen backbone"),
    "absent": ("Not run", "each stream alone"),
}


def _write_runs(root: Path, draw: Callable[..., np.ndarray]) -> None:
    """Write the runs of all rows but one: on S4 CoLA is clearly ahead of LAVISH, on AVE nothing is."""
    make = RunMaker(root)
    logits = {"lavish": (1.6, 0.4), "cola": (1.62, 1.6), "lora": (1.5, 0.0), "frozen": (0.4, 0.0)}
    for number, (variant, of_task) in enumerate(logits.items()):
        for place, (task, logit) in enumerate(zip((AVE, S4), of_task, strict=True)):
            metric = "accuracy" if task == AVE else "mIoU"
            scores = draw(logit, 10 * number + place)
            more = {} if task == AVE else {"columns": {"mIoU_validation_threshold": scores}}
            run = make(f"{task}-{variant}", scores, macs=1_000_000 * number, metric=metric, **more)
            _complete(run, task, variant)


def _complete(run: Path, task: str, variant: str) -> None:
    """Add what a workflow leaves besides: histories, commands, configurations, searches, examples."""
    for seed in SEEDS:
        folder = run / f"seed{seed}"
        epochs = "".join(f"{epoch},{1 / (epoch + 1)},{0.5 + 0.1 * epoch + 0.01 * seed}\n" for epoch in range(3))
        (folder / "history.csv").write_text(f"epoch,train_loss,selection_metric\n{epochs}")
        record = json.loads((folder / "record.json").read_text())
        record["recipe_version"] = RECIPE_VERSION
        record["config"] = _config(variant) | {"training": {"epochs": 3, "lr_adapter": 0.01}}
        record["machine"] = {"argv": ["/bin/lavish", "train", "--config", '{"a": "b"}', "--seed", str(seed)]}
        record["versions"] = {"torch": "2.11.0"}
        (folder / "record.json").write_text(json.dumps(record))
    trials = [{"value": value} for value in (0.5, None, 0.7, 0.6)]
    tuning = {"values": {"training.lr_adapter": 0.01}, "trials": trials, "seeds": [1000], "at_edge": {}}
    (run / "tuning.json").write_text(json.dumps(tuning))
    if task == S4:
        images = np.random.default_rng(0).integers(0, 255, (2, 1, 16, 16, 3), dtype=np.uint8)
        truth = np.stack([np.full((1, 16, 16), 255), np.eye(16)[None]]).astype(np.uint8)
        np.savez(
            run / "seed0/test/examples.npz",
            clips=np.array(["first", "second"]),
            frames=images,
            truth=truth,
            predicted=images[..., 0],
        )


def _config(variant: str) -> dict[str, Any]:
    return {"adapter": {"method": variant}, "training": {"epochs": 3, "lr_adapter": 0.1}, "tuning": {"trials": 4}}


def _table(root: Path) -> dict[str, Any]:
    def row(variant: str) -> dict[str, Any]:
        label, kind = ROWS[variant]
        settings = {"backbone": "swin" if variant == "lora" else "vit", "kind": kind}
        runs = {
            task: {
                "folder": str(root / f"{task}-{variant}"),
                "settings": settings,
                "config": _config(variant),
            }
            for task in (AVE, S4)
        }
        return {"variant": variant, "label": label, "task": AVE, "runs": runs}

    return {
        "name": "methods",
        "title": "Methods compared",
        "description": "All methods & both tasks.",
        "task": AVE,
        "titles": {AVE: "AVE", S4: "S4"},
        "measures": MEASURES,
        "baseline": "lavish",
        "columns": [
            "metric", "difference", f"mean@{S4}", f"metric:mIoU_validation_threshold@{S4}",
            f"difference:mIoU_validation_threshold@{S4}", "tuning", "trainable_params", "adapter_gmacs", "total_gmacs",
        ],
        "seeds": SEEDS,
        "sections": [
            {"title": "Two streams", "rows": [row("lavish"), row("cola")]},
            {"title": "One stream", "rows": [row("lora"), row("frozen"), row("absent")]},
        ],
    }  # fmt: skip


def _costs(root: Path) -> dict[str, Any]:
    """A second table, which needs no training."""
    table = _table(root)
    rows = [{**row, "runs": {AVE: row["runs"][AVE]}} for row in table["sections"][0]["rows"]]
    sections = [{"title": "Costs", "rows": rows}]
    columns = ["backbone", "trainable_params", "adapter_gmacs"]
    return {**table, "name": "cost", "title": "What it costs", "columns": columns, "sections": sections}


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory, draw_scores: Callable[..., np.ndarray]) -> list[dict[str, Any]]:  # noqa: F811
    """The specifications of two tables whose runs exist, but for one row."""
    root = tmp_path_factory.mktemp("project") / "results" / "runs"
    _write_runs(root, draw_scores)
    return [_table(root), _costs(root)]


@pytest.fixture(scope="session")
def site(specs: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page."""
    folder = tmp_path_factory.mktemp("results") / "site"
    write_site(specs, folder, "--configfile config/smoke.yaml")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        # Root, as in a container, has no sandbox.
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, site: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the page; afterwards neither an error nor a request to elsewhere may have come."""
    wrong: list[str] = []
    contexts = []

    def open_(address: str = "", **options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
        page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
        page.goto((site / "index.html").as_uri() + address)
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong
