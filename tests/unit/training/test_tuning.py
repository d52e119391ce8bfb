"""Hyperparameter search: what is tried, what is chosen, and trainings of both."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lavish.config.schema import RunConfig, SearchConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.training.jobs import RunInputs, evaluate, provide_weights, train, train_trial
from lavish.training.tuning import choose, sample, tuned
from tests.stores import run_values, write_store

RATE = "training.lr_adapter"
SCALE = "training.lr_head"


def search(**changes: Any) -> SearchConfig:
    space = {RATE: {"scale": "log", "low": 0.001, "high": 0.1}, SCALE: {"scale": "linear", "low": 0.001, "high": 0.021}}
    values = {"trials": 4, "seeds": [1000], "sampler": "halton", "sampler_seed": 0, "space": space}
    return SearchConfig.model_validate({**values, **changes})


@pytest.mark.parametrize("sampler", ["halton", "uniform"])
def test_trials_lie_in_the_space_and_fill_it(sampler: str) -> None:
    tried = [sample(search(sampler=sampler), trial) for trial in range(64)]
    places = [math.log10(values[RATE] / 0.001) / 2 for values in tried]
    assert all(0 <= place <= 1 for place in places)
    assert all(0.001 <= values[SCALE] <= 0.021 for values in tried)
    # An eighth of 64 points lies in each eighth of an axis: exactly for a sequence, about for random points.
    counts = [sum(eighth <= 8 * place < eighth + 1 for place in places) for eighth in range(8)]
    assert max(counts) - min(counts) <= (14 if sampler == "uniform" else 3)


@pytest.mark.parametrize("sampler", ["halton", "uniform"])
def test_a_trial_does_not_depend_on_how_many_there_are_nor_on_the_order_of_keys(sampler: str) -> None:
    config = search(sampler=sampler)
    turned = config.model_copy(update={"space": dict(reversed(config.space.items())), "trials": 9, "seeds": [7]})
    assert [sample(config, trial) for trial in range(4)] == [sample(turned, trial) for trial in range(4)]
    other = config.model_copy(update={"sampler_seed": 1})
    assert sample(config, 1) != sample(other, 1)


def test_choices_are_tried_equally_often() -> None:
    config = search(space={"adapter.options.alpha": {"choices": [4.0, 8.0, 16.0]}})
    tried = [sample(config, trial)["adapter.options.alpha"] for trial in range(27)]
    assert all(8 <= tried.count(value) <= 10 for value in (4.0, 8.0, 16.0))


@pytest.fixture
def config() -> RunConfig:
    return parse(RunConfig, run_values(tuning=search().model_dump()), "test")


def write_trials(folder: Path, rates: list[float], values: list[list[float | None]]) -> None:
    for trial, (rate, by_seed) in enumerate(zip(rates, values, strict=True)):
        for place, value in enumerate(by_seed):
            record = folder / f"trial{trial}/seed{1000 + place}/record.json"
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps({"values": {RATE: rate, SCALE: 0.01}, "best_value": value}))


def chosen(config: RunConfig, folder: Path) -> dict[str, Any]:
    choose(config, folder, folder / "tuning.json")
    return json.loads((folder / "tuning.json").read_text())


def test_the_best_mean_over_seeds_is_chosen_and_the_first_of_equal_ones(config: RunConfig, tmp_path: Path) -> None:
    two = config.model_copy(update={"tuning": search(seeds=[1000, 1001])})
    write_trials(tmp_path, [0.01, 0.02, 0.03, 0.04], [[0.9, 0.1], [0.6, 0.6], [0.7, 0.5], [0.2, 0.2]])
    found = chosen(two, tmp_path)
    assert (found["chosen"], found["values"]) == (1, {RATE: 0.02, SCALE: 0.01})
    assert [trial["value"] for trial in found["trials"]] == [0.5, 0.6, 0.6, 0.2]
    assert found["at_edge"] == {}


@pytest.mark.parametrize(("best", "edge"), [(0, "lowest"), (3, "highest"), (2, None)])
def test_the_lowest_and_the_highest_that_was_tried_are_marked(
    best: int, edge: str | None, config: RunConfig, tmp_path: Path
) -> None:
    write_trials(tmp_path, [0.01, 0.02, 0.03, 0.04], [[0.9 if trial == best else 0.5] for trial in range(4)])
    assert chosen(config, tmp_path)["at_edge"] == ({RATE: edge} if edge else {})


def test_a_trial_that_diverged_is_worse_than_all_others(config: RunConfig, tmp_path: Path) -> None:
    write_trials(tmp_path, [0.01, 0.02, 0.03, 0.04], [[None], [0.0], [None], [None]])
    assert chosen(config, tmp_path)["chosen"] == 1
    write_trials(tmp_path, [0.01, 0.02, 0.03, 0.04], [[None], [None], [None], [None]])
    with pytest.raises(LavishError, match="not finite in any of the 4 trials"):
        chosen(config, tmp_path)


def test_records_that_are_missing_or_of_another_search_are_errors(config: RunConfig, tmp_path: Path) -> None:
    write_trials(tmp_path, [0.01, 0.02, 0.03], [[0.1], [0.2], [0.3]])
    with pytest.raises(LavishError, match=r"trial3/seed1000/record.json is missing"):
        chosen(config, tmp_path)
    record = tmp_path / "trial3/seed1000/record.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"values": {RATE: 0.1}, "best_value": 0.5}))
    with pytest.raises(LavishError, match="the record of another search"):
        chosen(config, tmp_path)
    record.write_text("{")
    with pytest.raises(LavishError, match="not the record of a trial"):
        chosen(config, tmp_path)


def test_a_search_needs_its_choice_and_a_choice_its_search(config: RunConfig, tmp_path: Path) -> None:
    file = tmp_path / "tuning.json"
    plain = config.model_copy(update={"tuning": None})
    with pytest.raises(LavishError, match="give its result with --tuned"):
        tuned(config, None)
    with pytest.raises(LavishError, match="has no search"):
        tuned(plain, file)
    with pytest.raises(LavishError, match="not the result of a search"):
        tuned(config, file)
    file.write_text(json.dumps({"values": {RATE: 0.1}}))
    with pytest.raises(LavishError, match="over other keys"):
        tuned(config, file)
    file.write_text(json.dumps({"values": {RATE: 0.07, SCALE: 0.002}}))
    assert tuned(config, file).training.lr_adapter == 0.07
    assert tuned(plain, None) == plain


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for seed, (split, clips) in enumerate({"train": 24, "val": 12, "test": 12}.items()):
        write_store(root / split, clips=clips, seed=seed)
    return root


def test_trials_are_trainings_without_a_checkpoint_and_the_choice_is_what_is_trained(
    config: RunConfig, stores: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "vit.safetensors"
    provide_weights(config.backbone, weights)
    for trial in range(4):
        train_trial(RunInputs(config, 1000, stores, weights), trial, tmp_path / f"trials/trial{trial}/seed1000")
    found = chosen(config, tmp_path / "trials")
    best = tmp_path / f"trials/trial{found['chosen']}/seed1000"
    assert sorted(path.name for path in best.iterdir()) == ["history.csv", "record.json"]
    record = json.loads((best / "record.json").read_text())
    assert set(record["data"]) == {"train", "val"}
    assert record["config"]["training"]["lr_adapter"] == record["values"][RATE] == found["values"][RATE]

    # With the seed of the search, the run is the trial again.
    run = tuned(config, tmp_path / "trials/tuning.json")
    train(RunInputs(run, 1000, stores, weights), tmp_path / "run")
    again = json.loads((tmp_path / "run/record.json").read_text())
    assert (again["best_value"], again["config"]) == (record["best_value"], record["config"])
    assert (tmp_path / "run/history.csv").read_text() == (best / "history.csv").read_text()
    evaluate(RunInputs(run, 1000, stores, weights), "test", tmp_path / "run")


def test_a_trial_whose_loss_is_no_number_has_a_record_that_says_so(
    config: RunConfig, stores: Path, tmp_path: Path
) -> None:
    space = {RATE: {"scale": "log", "low": 1e30, "high": 1e35}, SCALE: {"scale": "log", "low": 1e30, "high": 1e35}}
    huge = config.model_copy(update={"tuning": search(space=space)})
    weights = tmp_path / "vit.safetensors"
    provide_weights(config.backbone, weights)
    train_trial(RunInputs(huge, 1000, stores, weights), 0, tmp_path / "trial")
    record = json.loads((tmp_path / "trial/record.json").read_text())
    assert record["best_value"] is None
    assert "the loss became" in record["diverged"]
    assert [path.name for path in (tmp_path / "trial").iterdir()] == ["record.json"]
