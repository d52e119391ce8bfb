"""What a seed changes: only the sources that `randomise` names, and how often a part of the clips is passed over."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.io.checksums import sha256_of
from lavish.training import jobs, loop
from lavish.training.jobs import RunInputs, provide_weights, train
from tests.stores import run_values, write_store


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for seed, (split, clips) in enumerate({"train": 24, "val": 6}.items()):
        write_store(root / split, clips=clips, seed=seed)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    provide_weights(configured().backbone, path)
    return path


def configured(fraction: float = 0.5, **changes: Any) -> RunConfig:
    values = run_values(**changes)
    values["data"] = {**values["data"], "fraction": fraction}
    return parse(RunConfig, values, "test")


def sources(config: RunConfig, data: Path, weights: Path, out: Path, seed: int, monkeypatch) -> dict[str, Any]:
    """Train, and return the initial weights, the clips, the order of an epoch and a random number of the training."""
    seen: dict[str, Any] = {}
    original = loop._epoch

    def epoch(model, batches, *others):
        if not seen:
            state = torch.cat([tensor.flatten() for tensor in model.trainable_state().values()])
            seen["initialisation"] = state.numpy().copy()
        batches = list(batches)
        order = np.concatenate([batch.units for batch in batches])
        seen.setdefault("order", order)
        seen.setdefault("composition", np.sort(order))
        # By place among the clips, which does not depend on which clips they are.
        seen.setdefault("places", np.searchsorted(np.unique(order), order))
        seen.setdefault("noise", torch.rand(1).item())
        return original(model, iter(batches), *others)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_epoch", epoch)
        train(RunInputs(config, seed, data, weights), out)
    return seen | {"checkpoint": sha256_of(out / "best.safetensors")}


@pytest.mark.parametrize("named", [[], ["initialisation"], ["order"], ["composition"], None])
def test_seeds_change_only_what_is_named(data, weights, tmp_path, monkeypatch, named):
    config = configured() if named is None else configured(randomise=named)
    one, other = (sources(config, data, weights, tmp_path / str(seed), seed, monkeypatch) for seed in (3, 4))
    varies = config.randomise
    assert np.array_equal(one["initialisation"], other["initialisation"]) == ("initialisation" not in varies)
    assert np.array_equal(one["composition"], other["composition"]) == ("composition" not in varies)
    assert np.array_equal(one["places"], other["places"]) == ("order" not in varies)
    assert (one["noise"] == other["noise"]) == ("order" not in varies)
    assert (one["checkpoint"] == other["checkpoint"]) == (not varies)


def test_a_source_that_follows_the_seed_is_that_of_other_trainings_with_it(data, weights, tmp_path, monkeypatch):
    everything = sources(configured(), data, weights, tmp_path / "all", 3, monkeypatch)
    for source, shown in (("initialisation", "initialisation"), ("order", "places"), ("composition", "composition")):
        alone = sources(configured(randomise=[source]), data, weights, tmp_path / source, 3, monkeypatch)
        np.testing.assert_array_equal(alone[shown], everything[shown])


def test_a_training_with_fixed_sources_resumes(data, weights, tmp_path, monkeypatch):
    config = configured(randomise=["composition"], training={"epochs": 3, "batch_size": 5})
    whole = sources(config, data, weights, tmp_path / "whole", 1, monkeypatch)
    evaluated, calls = loop.evaluate, []

    def fails_once(*arguments, **options):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluated(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", fails_once)
        with pytest.raises(KeyboardInterrupt):
            train(RunInputs(config, 1, data, weights), tmp_path / "again")
    assert (tmp_path / "again/resume.safetensors").exists()
    # The state of another seed is not taken up, although only the clips differ.
    assert jobs._identity(RunInputs(config, 1, data, weights)) != jobs._identity(RunInputs(config, 2, data, weights))
    train(RunInputs(config, 1, data, weights), tmp_path / "again")
    assert sha256_of(tmp_path / "again/best.safetensors") == whole["checkpoint"]


def test_passes_keep_steps_schedule_and_selections(data, weights, tmp_path, monkeypatch):
    taken: list[int] = []
    original = loop.schedule
    monkeypatch.setattr(
        loop, "schedule", lambda options, steps, epochs: taken.append(steps) or original(options, steps, epochs)
    )
    training = {"epochs": 2, "batch_size": 3, "patience": 2}
    whole = sources(configured(1.0, training=training), data, weights, tmp_path / "whole", 0, monkeypatch)
    part = sources(
        configured(0.25, training={**training, "passes": 4}), data, weights, tmp_path / "part", 0, monkeypatch
    )
    assert taken == [8, 8]
    assert len(part["order"]) == len(whole["order"]) == 24
    of_part = np.unique(part["order"])
    assert len(of_part) == 6
    for start in range(0, 24, 6):  # each pass has every clip once, in an order of its own
        np.testing.assert_array_equal(np.sort(part["order"][start : start + 6]), of_part)
    assert len({tuple(part["order"][start : start + 6]) for start in range(0, 24, 6)}) == 4
    histories = [list(csv.DictReader((tmp_path / name / "history.csv").open())) for name in ("whole", "part")]
    assert [len(history) for history in histories] == [2, 2]


def test_accumulated_batches_run_across_passes(data, weights, tmp_path, monkeypatch):
    steps: list[int] = []
    original = loop._step
    monkeypatch.setattr(
        loop, "_step", lambda model, group, *others: steps.append(len(group)) or original(model, group, *others)
    )
    options = {"epochs": 1, "batch_size": 4, "accumulate": 2, "passes": 3}
    train(RunInputs(configured(training=options), 0, data, weights), tmp_path)
    assert steps == [2, 2, 2, 2, 1]  # 12 clips are three batches: nine in three passes
