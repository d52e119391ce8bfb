"""Matching of method sizes to the number of trainable parameters of another row."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lavish.cli.main import main
from lavish.config.schema import RunConfig
from lavish.cost.size_search import nearest_size, search
from lavish.errors import LavishError
from lavish.planning import parameter_budgets as matching
from lavish.planning.experiments import Experiments, load, task_defaults
from lavish.planning.parameter_budgets import FOUND, Match, request, sizes
from lavish.planning.tables.captions import Matched, describe_matches

CONFIG, TABLE = Path("config/config.yaml"), Path("config/tables/small.yaml")
TASK, S4 = "event_localization", "segmentation_s4"
LAVISH: dict[str, Any] = {"variant": "lavish", "label": "LAVISH", "set": {}}
AVISH: dict[str, Any] = {
    "variant": "avish",
    "label": "AVISH",
    "set": {"adapter": {"options": {"latents": 0}}},
    "match_parameters_of": "lavish",
}


# --- the search ---


@pytest.mark.parametrize(("target", "size"), [(1, 1), (70, 7), (74, 7), (76, 8), (75, 7), (1000, 100), (6399, 640)])
def test_the_closest_size_of_an_increasing_count(target: int, size: int) -> None:
    assert nearest_size(lambda size: 10 * size, target) == (size, 10 * size)


@pytest.mark.parametrize(("target", "size"), [(5000, 1), (64, 1), (32, 2), (21, 3), (10, 6), (1, 33), (0, 65)])
def test_the_closest_size_of_a_decreasing_count(target: int, size: int) -> None:
    found = nearest_size(lambda size: 64 // size, target)
    assert found is not None
    assert found[1] == 64 // size


def test_invalid_sizes_are_skipped() -> None:
    asked = []

    def count(size: int) -> int | None:
        asked.append(size)
        return 1000 // size if 96 % size == 0 else None

    assert nearest_size(count, 88) == (12, 83)
    assert len(asked) == len(set(asked))
    assert nearest_size(count, 1) == (96, 10), "larger than any power of two that is accepted"


def test_no_valid_size() -> None:
    assert nearest_size(lambda _: None, 10) is None


def test_a_search_builds_a_few_dozen_models_at_most() -> None:
    asked = []

    def count(size: int) -> int | None:
        asked.append(size)
        return size if size == 1 or size > 60_000 else None

    nearest_size(count, 50_000)
    assert len(asked) <= 48


# --- rows ---


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the embedded default and one small table on two tasks."""
    repository = Path(__file__).parents[3]
    (tmp_path / "config/tables").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    shutil.copy(repository / CONFIG, CONFIG)
    shutil.copy(repository / "config/published.csv", "config/published.csv")
    change(tables=["small"])
    with_rows(LAVISH, AVISH)
    return tmp_path


def change(**values: Any) -> None:
    CONFIG.write_text(yaml.safe_dump({**yaml.safe_load(CONFIG.read_text()), **values}))


def with_rows(*rows: dict[str, Any], columns: tuple[str, ...] = ("metric", f"metric@{S4}", "size")) -> None:
    table = {"title": "Small", "task": TASK, "baseline": "lavish", "columns": list(columns)}
    TABLE.write_text(yaml.safe_dump({**table, "sections": [{"title": "All", "rows": list(rows)}]}))


def run_of(loaded: Experiments, variant: str, task: str = TASK) -> RunConfig:
    rows = {row["variant"]: row for row in loaded.table("small").spec["sections"][0]["rows"]}
    folder = rows[variant]["runs"][task]["folder"]
    return next(run.config for run in loaded.runs.values() if run.folder == folder)


@pytest.fixture
def no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search in this process, and record the searches."""

    def in_this_process(requests: Any) -> Any:
        log.append(sorted(requests))
        return search(requests)

    log: list[list[str]] = []
    monkeypatch.setattr(matching, "_search", in_this_process)
    monkeypatch.setattr(matching, "log", log, raising=False)


def searches() -> list[list[str]]:
    return matching.log  # type: ignore[attr-defined]


def trained_below_the_head(latents: int, width: int, groups: int, reduction: int) -> int:
    """Parameters of LAVISH's adapter in closed form, times 4 blocks, 2 sublayers and 2 streams."""
    hidden = width // reduction
    bottleneck = 2 * width * hidden // groups + 2 * (hidden + width) + 4 * width
    return 16 * (bottleneck + latents * width + 2)


@pytest.mark.usefixtures("no_process")
def test_the_size_found_is_part_of_the_run() -> None:
    loaded = load([CONFIG])
    for task, reduction, matched in ((TASK, 8, 6), (S4, 4, 4)):
        assert run_of(loaded, "lavish", task).adapter.options["reduction"] == reduction
        assert run_of(loaded, "avish", task).adapter.options["reduction"] == matched
        target = trained_below_the_head(2, 64, 2, reduction)
        # Two groups must divide the width of the bottleneck.
        misses = {r: abs(trained_below_the_head(0, 64, 2, r) - target) for r in range(2, 10) if 64 // r % 2 == 0}
        assert min(misses, key=lambda r: misses[r]) == matched
    target = trained_below_the_head(2, 64, 2, 8)
    [match] = [match for key, match in json.loads(FOUND.read_text()).items() if match["target"] < 100_000]
    assert match["budget"] == target
    assert match["trainable"] - match["target"] == trained_below_the_head(0, 64, 2, 6) - target
    settings = loaded.table("small").spec["sections"][0]["rows"][1]["runs"][TASK]["settings"]
    assert settings["size"] == "reduction 6"


@pytest.mark.usefixtures("no_process")
def test_sizes_are_cached() -> None:
    first = load([CONFIG])
    change(seeds=[7])
    assert load([CONFIG]).runs.keys() == first.runs.keys()
    defaults = yaml.safe_load(CONFIG.read_text())["defaults"]
    change(defaults={**defaults, "training": {**defaults["training"], "epochs": 7}})
    assert run_of(load([CONFIG]), "avish").adapter.options["reduction"] == 6
    assert len(searches()) == 1, "no training changes a number of parameters"
    assert len(searches()[0]) == 2, "one process for all rows and tasks"


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("what", ["code", "options", "recipe", "file"])
def test_a_change_that_affects_the_size_repeats_the_search(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load([CONFIG])
    if what == "code":
        monkeypatch.setattr(matching, "_code", lambda: "edited")
    elif what == "options":
        with_rows({**LAVISH, "set": {"adapter": {"options": {"latents": 3}}}}, AVISH)
    elif what == "recipe":
        monkeypatch.setattr(matching, "RECIPE_VERSION", 0)
    else:
        FOUND.write_text("{")
    load([CONFIG])
    assert len(searches()) == 2


def test_an_edited_method_changes_the_checksum_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(matching._PACKAGE, tmp_path / "lavish")
    monkeypatch.setattr(matching, "_PACKAGE", tmp_path / "lavish")
    before = matching._code.__wrapped__()
    (tmp_path / "lavish/metrics/masks.py").write_text("")
    assert matching._code.__wrapped__() == before
    with (tmp_path / "lavish/methods/lavish.py").open("a") as file:
        file.write("\n")
    assert matching._code.__wrapped__() != before


@pytest.mark.usefixtures("folder")
def test_the_search_runs_in_its_own_process_and_only_it_imports_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from lavish.planning.experiments import load; "
        f"print(len(load([Path('{CONFIG}')]).runs), 'torch' in sys.modules)"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    calls = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=here) for _ in range(2)]
    assert [call.stdout.split() for call in calls] == [["4", "False"]] * 2, calls[0].stderr
    assert [call.stderr.count("Searching for the sizes of lavish") for call in calls] == [1, 0]


@pytest.mark.usefixtures("folder")
def test_a_failed_search_gives_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    with_rows(LAVISH, {**AVISH, "set": {"adapter": {"options": {"groups": 7}}}}, columns=("metric",))
    with pytest.raises(
        LavishError, match=r"row 'avish', task 'event_localization': no 'reduction' of method 'lavish'"
    ) as caught:
        load([CONFIG])
    assert "Traceback" not in str(caught.value)
    assert "does not divide the widths 64 and 64" in str(caught.value)
    assert "Searching for the sizes of lavish" in capfd.readouterr().err


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"match_parameters_of": "lavsh"}, r"no row defines the variant 'lavsh' \(did you mean 'lavish'"),
        ({"match_parameters_of": "avish"}, "'avish' is matched itself"),
        ({"set": {"adapter": {"method": "none"}}}, "method 'none' has no size"),
        ({"set": {"adapter": {"options": {"reduction": 4}}}}, "option 'reduction' is searched for"),
        ({"set": None}, "belong to the row that defines the variant"),
        ({"match_parameters_of": "frozen"}, "the variant to match has no trainable parameters below the head"),
        ({"match_parameters_of": "elsewhere"}, "'elsewhere' is not run on task 'segmentation_s4'"),
    ],
)
def test_rows_that_cannot_be_matched(row: dict[str, Any], message: str) -> None:
    frozen = {"variant": "frozen", "set": {"adapter": {"method": "none"}}}
    elsewhere = {"variant": "elsewhere", "set": {}, "tasks": [TASK]}
    with_rows(LAVISH, frozen, elsewhere, {**AVISH, **row})
    with pytest.raises(LavishError, match=message):
        load([CONFIG])


@pytest.mark.usefixtures("no_process")
def test_a_row_is_matched_on_each_backbone() -> None:
    with_rows(LAVISH, {**LAVISH, "each_backbone": True}, {**AVISH, "each_backbone": True}, columns=("metric",))
    loaded = load([CONFIG])
    matches = {match["budget"]: match for match in json.loads(FOUND.read_text()).values()}
    assert len(matches) == 2
    swin = run_of(loaded, "avish_swin")
    assert swin.backbone.model == "swinv2"
    assert all(abs(match["trainable"] - match["target"]) < 0.25 * match["budget"] for match in matches.values())


@pytest.mark.usefixtures("no_process")
def test_rows_on_all_tasks_on_request() -> None:
    with_rows(LAVISH, {**AVISH, "tasks": [TASK]})
    assert len(load([CONFIG]).runs) == 3
    assert len(load([CONFIG], {"all_tasks": True}).runs) == 4


# --- captions ---


def test_the_caption_states_the_difference_and_names_rows_far_off() -> None:
    rows = [
        Matched("A", "LAVISH", "rank 8", Match(8, 1010, 1000, 500)),
        Matched("B", "LAVISH", "rank 1", Match(1, 1200, 1000, 500)),
    ]
    [text] = describe_matches(rows).values()
    assert "are closest to its 1,000; they differ by at most 2.0 % of its parameters below the head" in text
    assert "'B' has no closer size than rank 1 with 1,200 (+40 %)" in text
    assert describe_matches([]) == {}


@pytest.mark.usefixtures("folder")
def test_the_command_writes_the_sizes(tmp_path: Path) -> None:
    start = task_defaults([CONFIG], TASK)
    asked = {"a": request(start, start).model_dump(mode="json")}
    assert "reduction" not in asked["a"]["config"]["adapter"]["options"] or asked["a"]["config"]["adapter"]["options"]
    assert main(["match", "--requests", json.dumps(asked), "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["a"]["size"] == 8
    assert found["a"]["trainable"] == found["a"]["target"]


def test_no_search_without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_search", None)
    assert sizes({}) == {}
